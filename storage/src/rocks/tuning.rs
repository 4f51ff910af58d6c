//! How RocksDB is set up: one function for the database, one for each family. Each line that is
//! not RocksDB's default says why.

use std::time::{SystemTime, UNIX_EPOCH};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    MemtableFactory, Options, SliceTransform,
};

use crate::keys::{CONV_BYTES, Family};
use crate::value;

const KB: usize = 1 << 10;
const MB: usize = 1 << 20;

/// Table files open at a time; the process reserves descriptors for them.
const OPEN_FILES: i32 = 256;
/// The families that grow with the messages; the others' files are small.
pub(super) const LARGE: [Family; 4] = [Family::Log, Family::Ids, Family::Dedup, Family::Due];
/// What one merge reads, and so writes, at most: all of level 0 and 1 of `log`, or one file of a
/// level and the ten below it.
pub(super) const MERGE_BYTES_MAX: u64 = 1 << 30;

/// Bits per key in bloom filters: one look-up in 100 reads a block in vain.
const BLOOM_BITS: f64 = 10.0;

/// The database's options. `wal_bytes_max` bounds the write-ahead log and with it the restart.
pub(super) fn database(wal_bytes_max: u64) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Every byte of the log was verified before RocksDB opens it (`wal`): it finds the same, or
    // does not open.
    options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);
    options.set_max_total_wal_size(wal_bytes_max);
    options.set_max_open_files(OPEN_FILES);
    // One flush and one compaction at a time: two cores belong to the shards first.
    options.set_max_background_jobs(2);
    // The kernel writes table files out as they grow, so that a sync of the write-ahead log does
    // not wait behind 64 MB of them.
    options.set_bytes_per_sync(MB as u64);
    // Shard threads read: files are deleted by a background thread, not by whoever reads last.
    options.set_avoid_unnecessary_blocking_io(true);
    // There is one writer: no need to insert from several threads, nor to spin for others.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_log_level(LogLevel::Info);
    options.set_max_log_file_size(4 * MB);
    options.set_keep_log_file_num(4);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// All families, in the order of their numbers.
pub(super) fn families(cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    Family::ALL
        .into_iter()
        .map(|family| {
            let options = match family {
                Family::Log => log(cache),
                Family::Ids => ids(cache),
                Family::Dedup => dedup(cache),
                Family::Rows => rows(cache),
                Family::Due | Family::Owed => queue(cache),
                Family::Meta => meta(cache),
            };
            ColumnFamilyDescriptor::new(family.name(), options)
        })
        .collect()
}

fn log(cache: &Cache) -> Options {
    let mut table = table(cache, 16 * KB);
    // Nobody asks for one record: pages and heads are looked up by their conversation.
    table.set_whole_key_filtering(false);
    let mut options = family(&table, 64 * MB, 3);
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(CONV_BYTES));
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_target_file_size_base(64 * MB as u64);
    options.set_max_bytes_for_level_base(256 * MB as u64);
    options.set_compression_type(DBCompressionType::Lz4);
    // The upper levels are rewritten soon, and hold little.
    options.set_min_level_to_compress(2);
    options
}

fn ids(cache: &Cache) -> Options {
    // Keys come in order of time, so files are moved down, not merged.
    let mut options = family(&table(cache, 8 * KB), 16 * MB, 3);
    options.set_max_bytes_for_level_base(64 * MB as u64);
    options.set_compression_type(DBCompressionType::None);
    options
}

fn dedup(cache: &Cache) -> Options {
    let mut options = family(&table(cache, 4 * KB), 8 * MB, 4);
    // Hashes as keys: in a skip list each insertion visits places all over memory. A hash table
    // costs the writer less than half (0.5 instead of 1.2 us per message). It has no order, which
    // is wrong where anybody seeks; here everybody asks for one key (`rocks` asserts it).
    options.set_memtable_factory(MemtableFactory::HashLinkList { bucket_count: 64 * KB });
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(CONV_BYTES));
    options.set_max_bytes_for_level_base(64 * MB as u64);
    // There is nothing to compress in hashes.
    options.set_compression_type(DBCompressionType::None);
    options.set_compaction_filter(c"ringpost.dedup.expired", |_level, _key, value| {
        if expired(value, wall_ms()) { Decision::Remove } else { Decision::Keep }
    });
    // Old files are compacted even when nothing else is written, so that the expired go.
    options.set_periodic_compaction_seconds(2 * 24 * 3600);
    options
}

fn rows(cache: &Cache) -> Options {
    // Rows are overwritten at random places: a small memtable stays in the processor's cache.
    let mut options = family(&table(cache, 4 * KB), 4 * MB, 4);
    options.set_memtable_prefix_bloom_ratio(0.1);
    options.set_memtable_whole_key_filtering(true);
    options.set_max_bytes_for_level_base(32 * MB as u64);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_min_level_to_compress(2);
    options
}

fn queue(cache: &Cache) -> Options {
    family(&table(cache, 4 * KB), 4 * MB, 3)
}

fn meta(cache: &Cache) -> Options {
    // One key is overwritten by every commit, and all versions lie in the memtable.
    family(&table(cache, 4 * KB), 16 * MB, 2)
}

/// What all families have in common.
fn family(table: &BlockBasedOptions, memtable_bytes: usize, memtables: i32) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(table);
    options.set_write_buffer_size(memtable_bytes);
    options.set_max_write_buffer_number(memtables);
    options
}

fn table(cache: &Cache, block_bytes: usize) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(block_bytes);
    table.set_bloom_filter(BLOOM_BITS, false);
    table
}

/// Whether a value of `dedup` may be forgotten. What cannot be read is kept: it is reported by
/// whoever loads it.
fn expired(value: &[u8], now_ms: u64) -> bool {
    value::dedup_expires_ms(value).is_ok_and(|expires_ms| expires_ms < now_ms)
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use ringpost_core::event::Stored;
    use ringpost_core::ids::MessageId;
    use ringpost_core::limits::DEDUP_KEPT_MS;

    use super::*;

    #[test]
    fn each_value_of_dedup_has_its_own_lifetime() {
        let now_ms = 1_800_000_000_000;
        let resend = |time_ms| {
            let mut value = vec![];
            value::put_stored(&mut value, Stored { id: MessageId([1; 12]), seq: 1, time_ms });
            value
        };
        assert!(expired(&resend(now_ms - DEDUP_KEPT_MS - 1), now_ms));
        assert!(!expired(&resend(now_ms - DEDUP_KEPT_MS), now_ms));
        assert!(!expired(&resend(u64::MAX), now_ms));
        // As an idempotency key of 24 hours would be, with whatever it has to remember.
        let until = |expires_ms: u64| [&[2][..], &expires_ms.to_be_bytes(), b"201 {}"].concat();
        assert!(expired(&until(now_ms - 1), now_ms));
        assert!(!expired(&until(now_ms), now_ms));
        for unreadable in [&[][..], &[1], &[2, 0, 0], &[3; 29]] {
            assert!(!expired(unreadable, now_ms), "{unreadable:?}");
        }
    }
}
