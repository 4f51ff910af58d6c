//! Rate limits: token buckets with a rate and a burst (protocols/README.md, *Rate limits*).
//!
//! A bucket is one number: the time at which it will be full again. It needs no timer, and one
//! that was never touched is full.

/// What a bucket gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Tokens that come back in a second; 0: there is no limit.
    pub per_s: u32,
    /// Tokens of a full bucket, at least 1.
    pub burst: u32,
}

/// The rate limits of a shard's connections and users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimits {
    /// Requests of one connection. Acknowledgements are none: the server causes them.
    pub requests: Rate,
    /// Messages that one user sends to be stored, over all of his connections. Known while he is
    /// connected: who comes again begins with a full bucket.
    pub messages: Rate,
    /// Refusals of one connection over its rates before it is closed with 1008. One that keeps to
    /// them for [`crate::limits::STRIKES_FORGOTTEN_MS`] begins again.
    pub strikes: u32,
}

impl Default for RateLimits {
    /// No limits.
    fn default() -> RateLimits {
        let off = Rate { per_s: 0, burst: 100 };
        RateLimits { requests: off, messages: off, strikes: 100 }
    }
}

/// A token bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bucket {
    /// When it is full again, in ns of the monotonic clock.
    full_ns: u64,
}

impl Bucket {
    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now_us: u64) -> bool {
        if rate.per_s == 0 {
            return true;
        }
        let token_ns = 1_000_000_000 / u64::from(rate.per_s);
        let now_ns = now_us * 1_000;
        let full_ns = self.full_ns.max(now_ns) + token_ns;
        let has_one = full_ns - now_ns <= token_ns * u64::from(rate.burst.max(1));
        if has_one {
            self.full_ns = full_ns;
        }
        has_one
    }
}

/// A connection's refusals over its rates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Strikes {
    count: u32,
    last_ms: u64,
}

impl Strikes {
    /// One more; whether they are too many now.
    pub(crate) fn add(&mut self, limits: &RateLimits, now_ms: u64) -> bool {
        if now_ms - self.last_ms >= crate::limits::STRIKES_FORGOTTEN_MS {
            self.count = 0;
        }
        (self.count, self.last_ms) = (self.count + 1, now_ms);
        self.count >= limits.strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { per_s: 10, burst: 3 };
        let mut bucket = Bucket::default();
        let mut taken = |now_us: u64| bucket.take(rate, now_us);
        let second = 1_000_000;
        assert_eq!([0; 5].map(|_| taken(second)), [true, true, true, false, false]);
        assert!(!taken(second + 99_999));
        assert!(taken(second + 100_000));
        assert!(!taken(second + 100_000));
        // A refusal costs nothing; a long rest fills it and not more.
        assert_eq!([0; 5].map(|_| taken(9 * second)), [true, true, true, false, false]);
        let at_its_rate = (1..100).all(|n| taken(9 * second + n * 100_000));
        assert!(at_its_rate);
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let mut bucket = Bucket::default();
        let off = RateLimits::default().requests;
        assert!((0..10_000).all(|_| bucket.take(off, 5)));
        let fast = Rate { per_s: 1_000_000, burst: 1 };
        assert!((1..10_000).all(|us| bucket.take(fast, us)));
    }

    #[test]
    fn strikes_are_counted_until_they_are_forgotten() {
        let limits = RateLimits { strikes: 3, ..RateLimits::default() };
        let mut strikes = Strikes::default();
        let minute = crate::limits::STRIKES_FORGOTTEN_MS;
        let times = [1, 2, minute + 2, minute + 3, 2 * minute + 2, 2 * minute + 3];
        let too_many = times.map(|ms| strikes.add(&limits, ms));
        assert_eq!(too_many, [false, false, false, false, true, true]);
    }
}
