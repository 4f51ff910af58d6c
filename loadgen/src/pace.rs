//! The clock of an open loop: when each message should be sent, whatever has become of those
//! before it.
//!
//! Latency counted from these moments, and not from when the client got round to sending, is
//! corrected for coordinated omission: a server that stalls for a second is charged with every
//! message that should have been sent in that second.

/// An even schedule over all flows of a run: message `k` of the run is due at `start + k / rate`
/// and belongs to flow `k mod flows`.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    /// Messages per second of all flows together.
    rate: u32,
    /// Flows of the whole run, all threads together.
    flows: u32,
}

impl Schedule {
    /// `rate` messages per second spread over `flows`, both at least 1.
    pub fn new(start_ns: u64, rate: u32, flows: u32) -> Schedule {
        assert!(rate > 0 && flows > 0);
        Schedule { start_ns, rate, flows }
    }

    /// When message `number` (from 1) of `flow` should be sent.
    pub fn due_ns(&self, flow: u32, number: u32) -> u64 {
        let k = u128::from(number - 1) * u128::from(self.flows) + u128::from(flow);
        self.start_ns + (k * 1_000_000_000 / u128::from(self.rate)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_due_one_after_the_other_over_all_flows() {
        let schedule = Schedule::new(1_000, 4_000, 3);
        let step = 250_000;
        let due: Vec<u64> = (1..=2)
            .flat_map(|n| (0..3).map(move |f| (f, n)))
            .map(|(flow, number)| schedule.due_ns(flow, number))
            .collect();
        let even: Vec<u64> = (0..6).map(|k| 1_000 + k * step).collect();
        assert_eq!(due, even);
    }
}
