//! One wheel for all of a shard's timers. Nothing is cancelled: whoever is woken looks whether
//! there is still something to do.

use crate::ids::{ConnId, ConvKey};
use crate::shard::users::UserRef;

/// What a timer wakes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// Unacknowledged messages of a device may be due again.
    Retry { user: UserRef, device: u32, epoch: u32 },
    /// Dirty cursors are to be written.
    Flush,
    /// A conversation may have been at rest for long enough to delete the user's inbox mark.
    Settle { user: UserRef, conversation: ConvKey },
    /// The pause between two messages pushed at connect is over.
    Gap { user: UserRef, device: u32, epoch: u32, message: u64 },
    /// Pull mode has let acknowledgements gather.
    Pull { user: UserRef, device: u32, epoch: u32 },
    /// A connection whose token is past its time is due for its next step.
    Refresh { conn: ConnId, step: u8 },
    /// A user may have been away for long enough for his friends to be told.
    Offline { user: UserRef },
    /// Friends may be told of users again.
    Announce,
    /// What is owed and could not be done is sent again.
    Owed,
    /// What a connection was told and has not acknowledged may be due again.
    Prompt { conn: ConnId },
    /// A scheduled message may be due; `look`: the one that is repeated for ever, because clocks
    /// are set.
    Due { look: bool },
    /// The id lease is looked at.
    Lease,
}

/// Milliseconds of one bucket: the wheel's exactness.
const BUCKET_MS: u64 = 8;
/// One turn of the wheel is 8 s; later timers stay in their bucket for more turns.
const BUCKETS: usize = 1024;

/// The wheel. Times are milliseconds of the monotonic clock.
#[derive(Debug)]
pub(crate) struct Timers {
    buckets: Vec<Vec<(u64, Timer)>>,
    /// All buckets before this tick are done. A tick is `ms / BUCKET_MS`.
    tick: u64,
    count: usize,
}

impl Timers {
    pub(crate) fn new() -> Timers {
        Timers { buckets: vec![Vec::new(); BUCKETS], tick: 0, count: 0 }
    }

    /// Wakes at `due_ms`, up to one bucket later.
    pub(crate) fn arm(&mut self, due_ms: u64, timer: Timer) {
        // A timer never lands in a bucket that is done: it would wait for a whole turn.
        let tick = (due_ms / BUCKET_MS).max(self.tick);
        self.buckets[(tick % BUCKETS as u64) as usize].push((due_ms, timer));
        self.count += 1;
    }

    /// Moves what is due by `now_ms` to `due`.
    pub(crate) fn fire(&mut self, now_ms: u64, due: &mut Vec<Timer>) {
        let until = now_ms / BUCKET_MS;
        if self.count == 0 || until < self.tick {
            self.tick = self.tick.max(until);
            return;
        }
        let first = self.tick.max((until + 1).saturating_sub(BUCKETS as u64));
        for tick in first..=until {
            let bucket = &mut self.buckets[(tick % BUCKETS as u64) as usize];
            let before = bucket.len();
            bucket.retain(|&(due_ms, timer)| {
                if due_ms <= now_ms {
                    due.push(timer);
                }
                due_ms > now_ms
            });
            self.count -= before - bucket.len();
        }
        // The bucket of `until` may still hold timers of its later half.
        self.tick = until;
    }

    /// When to call [`Timers::fire`] next, in ms; possibly too early, never too late.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let ahead = (0..BUCKETS as u64).find(|ahead| {
            !self.buckets[((self.tick + ahead) % BUCKETS as u64) as usize].is_empty()
        });
        // `count` says that there is one.
        ahead.map(|ahead| (self.tick + ahead + 1) * BUCKET_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(timers: &mut Timers, now_ms: u64) -> usize {
        let mut due = Vec::new();
        timers.fire(now_ms, &mut due);
        due.len()
    }

    #[test]
    fn fires_each_once_when_due_and_not_before() {
        let mut timers = Timers::new();
        for due_ms in [0, 5, 8, 100, 8_192, 20_000, 1_000_000] {
            timers.arm(due_ms, Timer::Flush);
        }
        let at =
            [(0, 1), (4, 0), (5, 1), (7, 0), (8, 1), (99, 0), (100, 1), (8_191, 0), (8_192, 1)];
        for (now_ms, count) in at {
            assert_eq!(fired(&mut timers, now_ms), count, "at {now_ms}");
        }
        assert_eq!(fired(&mut timers, 19_999), 0);
        assert_eq!(fired(&mut timers, 999_999), 1, "a long sleep skips nothing");
        assert_eq!(fired(&mut timers, 1_000_000), 1);
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn says_when_to_look_again_and_never_too_late() {
        let mut timers = Timers::new();
        timers.arm(12_345, Timer::Flush);
        let mut now_ms = 0;
        let mut looks = 0;
        while let Some(next) = timers.next_ms() {
            assert!(next > now_ms && next <= 12_352);
            now_ms = next;
            looks += 1;
            if fired(&mut timers, now_ms) == 1 {
                assert!(now_ms >= 12_345);
            }
        }
        assert!(looks <= 3, "{looks}");
    }

    #[test]
    fn a_timer_in_the_past_fires_at_once() {
        let mut timers = Timers::new();
        assert_eq!(fired(&mut timers, 5_000), 0);
        timers.arm(10, Timer::Flush);
        assert_eq!(fired(&mut timers, 5_000), 1);
    }
}
