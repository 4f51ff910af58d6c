//! Latency histograms.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Latencies from a microsecond to a quarter of an hour, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    const LOW_NS: u64 = 1_000;
    const HIGH_NS: u64 = 900_000_000_000;

    /// Empty.
    pub fn new() -> Latencies {
        let histogram = Histogram::new_with_bounds(Self::LOW_NS, Self::HIGH_NS, 3);
        Latencies(histogram.expect("the bounds are valid"))
    }

    /// Enters one; what is longer than the highest counts as that.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Enters all of `other`.
    pub fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// The percentiles that are reported.
    pub fn summary(&self) -> Summary {
        let us = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        Summary {
            count: self.0.len(),
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p999_us: us(0.999),
            max_us: self.0.max() as f64 / 1e3,
        }
    }
}

/// Percentiles, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Summary {
    /// Latencies entered.
    pub count: u64,
    /// Half are at most this.
    pub p50_us: f64,
    /// Nine of ten.
    pub p90_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// 999 of 1,000.
    pub p999_us: f64,
    /// All.
    pub max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_that_was_entered() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        for ms in 1..=500 {
            one.record(ms * 1_000_000);
            other.record((500 + ms) * 1_000_000);
        }
        one.merge(&other);
        let summary = one.summary();
        assert_eq!(summary.count, 1000);
        let near = |value: f64, ms: f64| (value / 1e3 - ms).abs() < ms / 500.0;
        assert!(near(summary.p50_us, 500.0) && near(summary.p99_us, 990.0), "{summary:?}");
        assert!(near(summary.p999_us, 999.0) && near(summary.max_us, 1000.0), "{summary:?}");
    }
}
