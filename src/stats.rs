//! Counters of the shards and of the log, for `/metrics`. It names no metric and formats nothing.
//!
//! Each counter has one writing thread, so that counting is a load, an addition and a store; any
//! thread may read. Sums over several counters are not a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that one thread changes and all may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; only the owning thread may.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away; only the owning thread may.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets it to `n`; only the owning thread may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// What it is now.
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Buckets of a [`Histogram`]: the last one takes everything from 2^30 on.
pub const BUCKETS: usize = 32;

/// How often which size came, by powers of two: bucket `n` counts values below `2^n` (and not
/// below `2^(n-1)`), the last one the rest.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Values by size.
    pub buckets: [Counter; BUCKETS],
    /// All values together.
    pub sum: Counter,
}

impl Histogram {
    /// Counts `value`; only the owning thread may.
    pub fn add(&self, value: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bits.min(BUCKETS - 1)].add(1);
        self.sum.add(value);
    }
}

/// One shard's counters, written by its thread.
#[derive(Debug, Default)]
#[repr(align(128))] // Two shards' counters never share a cache line, or the pair that is fetched.
pub struct ShardStats {
    /// Connections that are open now and belong to this shard, upgraded or closing.
    pub connections: Counter,
    /// Sockets whose upgrade request is being read now.
    pub handshakes: Counter,
    /// Sockets accepted here.
    pub accepted: Counter,
    /// Upgrade requests refused here.
    pub refused: Counter,
    /// Of these, over a limit of their address.
    pub limited: Counter,
    /// accept(2) that failed, and sockets dropped because descriptors ran short.
    pub accept_errors: Counter,
    /// Bytes read from sockets.
    pub bytes_in: Counter,
    /// Bytes written to sockets.
    pub bytes_out: Counter,
    /// WebSocket messages read.
    pub messages_in: Counter,
    /// Bytes of compressed messages read.
    pub inflated_from_bytes: Counter,
    /// What they inflated to.
    pub inflated_bytes: Counter,
    /// Bytes of frames before they were compressed; a frame counts once for all its receivers.
    pub deflated_from_bytes: Counter,
    /// The same after it.
    pub deflated_bytes: Counter,
    /// Writes that the core gave to connections: frames and handshake answers.
    pub writes_out: Counter,
    /// Writes to sockets; several frames may leave in one.
    pub sends: Counter,
    /// Connections ended because the peer broke RFC 6455 or a limit.
    pub protocol_closes: Counter,
    /// Connections ended because the peer took no byte for too long.
    pub stalled_closes: Counter,
    /// Turns.
    pub turns: Counter,
    /// Turns handed to the log.
    pub turns_logged: Counter,
    /// Turns handed to the log and not durable yet: 0 to 2.
    pub turns_waiting: Counter,
    /// Parcels taken from the inbox.
    pub parcels_in: Counter,
    /// Parcels sent to other shards.
    pub parcels_out: Counter,
    /// Parcels waiting in the inbox at the last turn.
    pub inbox: Counter,
    /// Loads answered from memory.
    pub loads_cached: Counter,
    /// Loads given to a reader thread.
    pub loads_read: Counter,
    /// Reads in flight that hold a buffer.
    pub reads_held: Counter,
    /// Connections whose data frames wait for the shard or for their own answers.
    pub waiting: Counter,
    /// Bytes held for unfinished messages and frames that wait.
    pub unfinished_bytes: Counter,
    /// Bytes that wait to be written to sockets.
    pub queued_bytes: Counter,
    /// Users in the core's memory: connected, or with something under way.
    pub users: Counter,
    /// Conversations in the core's memory.
    pub conversations: Counter,
    /// Requests taken from sockets and not answered yet.
    pub requests: Counter,
    /// Loads without an answer yet.
    pub loads_waiting: Counter,
    /// Devices that catch up, or wait for it.
    pub catch_ups: Counter,
    /// What homes owe to others' logs.
    pub owed: Counter,
    /// Scheduled messages that are due soon.
    pub due: Counter,
    /// Messages sent to connected devices and not acknowledged.
    pub pending: Counter,
}

/// The log's counters, written by its writer thread.
#[derive(Debug, Default)]
pub struct LogStats {
    /// Commits.
    pub commits: Counter,
    /// Entries written.
    pub entries: Counter,
    /// Shards' turns per commit.
    pub turns: Histogram,
    /// How long a commit takes, µs.
    pub commit_us: Histogram,
}

impl LogStats {
    /// Counts one commit.
    pub fn committed(&self, turns: u64, entries: u64, took: Duration) {
        self.commits.add(1);
        self.entries.add(entries);
        self.turns.add(turns);
        self.commit_us.add(took.as_micros() as u64);
    }
}

/// All counters of the process.
#[derive(Clone, Debug)]
pub struct Stats(Arc<(Box<[ShardStats]>, LogStats)>);

impl Stats {
    /// Everything zero.
    pub fn new(shards: u16) -> Stats {
        let per_shard = (0..shards).map(|_| ShardStats::default()).collect();
        Stats(Arc::new((per_shard, LogStats::default())))
    }

    /// The shards', by number.
    pub fn shards(&self) -> &[ShardStats] {
        &self.0.0
    }

    /// The log's.
    pub fn log(&self) -> &LogStats {
        &self.0.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_the_values_below_its_power_of_two() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 3, 4, u64::MAX] {
            histogram.add(value);
        }
        let counts: Vec<u64> = histogram.buckets.iter().map(Counter::read).collect();
        assert_eq!(counts[..4], [1, 1, 2, 1]);
        assert_eq!(counts[BUCKETS - 1], 1);
        assert_eq!(counts.iter().sum::<u64>(), 6);
        assert_eq!(histogram.sum.read(), 10u64.wrapping_add(u64::MAX));
    }

    #[test]
    fn counters_of_different_shards_are_apart() {
        assert_eq!(size_of::<ShardStats>() % 128, 0);
        let stats = Stats::new(2);
        stats.shards()[1].connections.add(2);
        stats.shards()[1].connections.sub(1);
        assert_eq!(stats.shards()[0].connections.read(), 0);
        assert_eq!(stats.shards()[1].connections.read(), 1);
    }
}
