//! Ceiling: what RocksDB itself costs for log-like puts, 128 to a synced batch, and how long one
//! synced commit alone takes. Beside it our own store with the same messages.
//!
//! Only the families that a message alone touches: `log` and `ids`, set up as the store sets them
//! up (storage/src/rocks/tuning.rs).

use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, Options, SliceTransform, WriteBatch,
    WriteOptions,
};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::clock::{ThreadClock, process_used};
use crate::{Measured, PutArgs, store};

/// Bytes of a value in `log`.
pub const VALUE_BYTES: usize = 256;
/// Messages of a synced batch.
pub const BATCH: u32 = 128;
/// Conversations that the messages belong to, in turn.
pub const CONVERSATIONS: u64 = 500;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The disk it was on.
    dir: String,
    /// RocksDB with `log` alone.
    pub log: Puts,
    /// RocksDB with `log` and `ids`.
    pub log_ids: Puts,
    /// Our store: `log`, `ids`, `dedup` and its own rows.
    pub store: Puts,
    /// One synced commit of one message, straight into RocksDB.
    pub commit: Commit,
}

/// Batched puts.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Puts {
    /// CPU time of all threads, flushes and compactions included, for each message, µs.
    pub cpu_us: f64,
    /// The writing thread's part of it.
    pub writer_cpu_us: f64,
    /// Messages per second, synced every [`BATCH`].
    pub per_s: f64,
}

/// One synced commit at a time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Commit {
    /// Median, µs.
    pub p50_us: f64,
    /// 99 of 100, µs.
    pub p99_us: f64,
}

/// Measures everything of `rocks-put`.
///
/// # Errors
/// A sentence for the user.
pub fn table(args: &PutArgs) -> Result<Table, String> {
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let failed = |error: rocksdb::Error| format!("RocksDB failed: {error}");
    let rocks = |name: &str, with_ids: bool| {
        let db = open(&dir.path().join(name)).map_err(failed)?;
        timed(args.messages, |batch| put(&db, batch, with_ids).map_err(failed))
    };
    Ok(Table {
        dir: dir.path().display().to_string(),
        log: rocks("log", false)?,
        log_ids: rocks("log_ids", true)?,
        store: store::puts(&dir.path().join("store"), args.messages)?,
        commit: commits(&dir.path().join("commits"), args.commits).map_err(failed)?,
    })
}

/// Times `messages` messages, batch by batch; `commit` makes one durable.
pub fn timed(
    messages: u32,
    mut commit: impl FnMut(u64) -> Result<(), String>,
) -> Result<Puts, String> {
    let clock = ThreadClock::current();
    let used = || clock.used().map_err(|error| format!("cannot read the CPU clock: {error}"));
    let batches = u64::from(messages.div_ceil(BATCH));
    let (began, cpu, writer) = (Instant::now(), process_used(), used()?);
    for batch in 0..batches {
        commit(batch)?;
    }
    let (wall, cpu, writer) = (began.elapsed(), process_used() - cpu, used()? - writer);
    let count = (batches * u64::from(BATCH)) as f64;
    let us = |time: Duration| time.as_secs_f64() * 1e6 / count;
    Ok(Puts { cpu_us: us(cpu), writer_cpu_us: us(writer), per_s: count / wall.as_secs_f64() })
}

fn open(path: &Path) -> Result<DB, rocksdb::Error> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_max_background_jobs(2);
    options.set_max_total_wal_size(256 << 20);
    options.set_bytes_per_sync(1 << 20);
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    let mut log = Options::default();
    log.set_block_based_table_factory(&table);
    log.set_write_buffer_size(64 << 20);
    log.set_prefix_extractor(SliceTransform::create_fixed_prefix(18));
    log.set_memtable_prefix_bloom_ratio(0.02);
    let mut ids = Options::default();
    ids.set_block_based_table_factory(&table);
    ids.set_write_buffer_size(16 << 20);
    let families = [("log", log), ("ids", ids)]
        .map(|(name, options)| ColumnFamilyDescriptor::new(name, options));
    DB::open_cf_descriptors(&options, path, families)
}

/// Where message `number` lies in `log`: slot, 16 bytes of conversation, seq.
fn log_key(number: u64) -> [u8; 26] {
    let conversation = scatter(number % CONVERSATIONS);
    let mut key = [0; 26];
    key[..2].copy_from_slice(&(conversation as u16 % 4096).to_be_bytes());
    key[2..10].copy_from_slice(&conversation.to_be_bytes());
    key[10..18].copy_from_slice(&scatter(conversation).to_be_bytes());
    key[18..].copy_from_slice(&(number / CONVERSATIONS + 1).to_be_bytes());
    key
}

/// A message id: ascending, as the server makes them.
fn id_key(number: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[4..].copy_from_slice(&number.to_be_bytes());
    key
}

/// A value that compresses about as well as chat does: half random, half not.
pub fn value(number: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'a'; VALUE_BYTES];
    let mut word = number;
    for chunk in value.as_chunks_mut::<8>().0.iter_mut().step_by(2) {
        word = scatter(word);
        *chunk = word.to_be_bytes();
    }
    value
}

/// An invertible function whose output looks random: MurmurHash3's last step.
fn scatter(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

fn put(db: &DB, batch: u64, with_ids: bool) -> Result<(), rocksdb::Error> {
    let family = |name| db.cf_handle(name).expect("opened with both families");
    let (log, ids) = (family("log"), family("ids"));
    let mut writes = WriteBatch::default();
    let first = batch * u64::from(BATCH);
    for number in first..first + u64::from(BATCH) {
        writes.put_cf(log, log_key(number), value(number));
        if with_ids {
            writes.put_cf(ids, id_key(number), log_key(number));
        }
    }
    db.write_opt(writes, &synced())
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn commits(path: &Path, count: u32) -> Result<Commit, rocksdb::Error> {
    let db = open(path)?;
    let log = db.cf_handle("log").expect("opened with both families");
    let options = synced();
    let mut times = Vec::with_capacity(count as usize);
    for number in 0..u64::from(count) {
        let began = Instant::now();
        db.put_cf_opt(log, log_key(number), value(number), &options)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Ok(Commit { p50_us: at(0.5), p99_us: at(0.99) })
}

impl Measured for Table {
    fn text(&self) -> String {
        let mut text = format!(
            "RocksDB, {VALUE_BYTES} B values, {BATCH} messages to a synced batch, in {}\n\n\
             what                          CPU µs/message   its writer   messages/s\n",
            self.dir
        );
        for (name, puts) in [
            ("RocksDB: log", &self.log),
            ("RocksDB: log + ids", &self.log_ids),
            ("our store: log + ids + dedup", &self.store),
        ] {
            let Puts { cpu_us, writer_cpu_us, per_s } = puts;
            writeln!(text, "{name:<28}   {cpu_us:>14.2}   {writer_cpu_us:>10.2}   {per_s:>10.0}")
                .expect("a string takes everything");
        }
        let Commit { p50_us, p99_us } = self.commit;
        writeln!(text, "\none synced commit alone: p50 {p50_us:.0} µs, p99 {p99_us:.0} µs")
            .expect("a string takes everything");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_measured() {
        let args = PutArgs { dir: None, messages: 1_000, commits: 10 };
        let table = table(&args).expect("a temporary directory will do");
        for puts in [table.log, table.log_ids, table.store] {
            // The two clocks are read one after the other.
            let all = 1.05 * puts.cpu_us;
            assert!(all >= puts.writer_cpu_us && puts.writer_cpu_us > 0.0, "{puts:?}");
            assert!(puts.per_s > 0.0);
        }
        assert!(table.commit.p50_us > 0.0 && table.commit.p99_us >= table.commit.p50_us);
        assert!(!Path::new(&table.dir).exists(), "nothing is left behind");
    }

    #[test]
    fn keys_are_log_like() {
        let mut keys: Vec<_> = (0..2 * CONVERSATIONS).map(log_key).collect();
        assert_eq!(keys[0][..18], keys[CONVERSATIONS as usize][..18], "one conversation");
        assert!(keys[0] < keys[CONVERSATIONS as usize], "seqs ascend");
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len() as u64, 2 * CONVERSATIONS);
    }
}
