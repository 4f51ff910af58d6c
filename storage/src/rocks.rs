//! The log on disk: RocksDB, opened, written by one thread, read by many. The only user of the
//! `rocksdb` crate.
//!
//! It knows families, keys and bytes; what the bytes mean is said elsewhere (`batch`, `load`). It
//! never retries: RocksDB does not come back from a failed write either.

pub(crate) mod mend;
mod tuning;

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ringpost_core::event::{Load, Loaded};
use ringpost_core::ids::ConvKey;
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    Cache, ColumnFamily, DB, ErrorKind, ReadOptions, ReadTier, WriteBatch, WriteOptions, properties,
};

use crate::batch::{self, Batch};
use crate::directory::Directory;
use crate::error::{LogError, Malformed};
use crate::keys::{self, Family, Key};
use crate::load::{self, Miss, View, malformed};
use crate::{Durability, FORMAT, Gauges, Log, Opening, Recovery, opening};

/// How the store is run. Nothing here is part of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// When a commit counts as durable.
    pub durability: Durability,
    /// Memory for blocks of table files.
    pub block_cache_bytes: usize,
    /// Memtables are written out when the write-ahead log is longer than this; it bounds the time
    /// of a restart.
    pub wal_bytes_max: u64,
    /// Count what RocksDB does, for tests and benches: it costs every commit some time.
    pub statistics: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            durability: Durability::Fsync,
            block_cache_bytes: 256 << 20,
            wal_bytes_max: 192 << 20,
            statistics: false,
        }
    }
}

/// A store on disk.
pub struct Rocks {
    /// Before the directory, so that RocksDB is closed when the lock is given back.
    db: DB,
    directory: Directory,
    opening: Opening,
    durability: Durability,
    reads_cached: ReadOptions,
    reads: ReadOptions,
    writes: WriteOptions,
    /// The writer's, which alone takes it.
    writer: Mutex<Writer>,
    /// With [`Options::statistics`]: they are read through the options.
    statistics: Option<rocksdb::Options>,
    /// Whether the large families' files are merged. Held while that is changed.
    merging: Mutex<bool>,
}

/// What commits need.
#[derive(Debug)]
struct Writer {
    /// Number of the last commit.
    number: u64,
    /// A commit's bytes, used again.
    bytes: Vec<u8>,
    /// The first failure: every later commit gets it too.
    failed: Option<String>,
}

impl Rocks {
    /// Opens the store in `path`, or makes it there.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::NotAStore`], [`LogError::Format`], [`LogError::Hole`]:
    /// nothing was changed. [`LogError::Corrupt`], [`LogError::Read`], [`LogError::Write`].
    pub fn open(path: &Path, options: Options) -> Result<Rocks, LogError> {
        let directory = Directory::claim(path)?;
        let started = Instant::now();
        let (scan, torn) = directory.recover()?;
        let verified_ms = millis(started);
        let started = Instant::now();
        let cache = Cache::new_hyper_clock_cache(options.block_cache_bytes, 0);
        let mut database = tuning::database(options.wal_bytes_max);
        if options.statistics {
            database.enable_statistics();
            database.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        }
        let families = tuning::families(&cache);
        let db = DB::open_cf_descriptors(&database, directory.rocks(), families)
            .map_err(|error| open_failed(path, &error))?;
        check_families(&db)?;
        let reads = ReadOptions::default();
        let view = Reads { db: &db, options: &reads, cached: false };
        let created = !opening::exists(&view)?;
        if created {
            create(&db, directory.seal)?;
        }
        let recovery = Recovery {
            created,
            wal_files: scan.files.len(),
            wal_bytes: scan.bytes(),
            wal_batches: scan.batches,
            torn,
            verified_ms,
            opened_ms: millis(started),
        };
        let mut opening = opening::read(&view, recovery)?;
        directory.compare(&scan, opening.batch)?;
        if opening.format < FORMAT {
            // The other way round, a crash between the two would leave an earlier program a store
            // that it opens and does not understand.
            directory.upgrade()?;
            if opening.format < 3 {
                opening::missing_chats(&view, |batch| {
                    opening.batch += 1;
                    write_first(&db, &batch, opening.batch, directory.seal)
                })?;
            }
            opening.batch += 1;
            write_first(&db, &opening::upgrade(), opening.batch, directory.seal)?;
            opening.format = FORMAT;
        }
        let mut reads_cached = ReadOptions::default();
        reads_cached.set_read_tier(ReadTier::BlockCache);
        let mut writes = WriteOptions::default();
        writes.set_sync(options.durability == Durability::Fsync);
        let writer = Writer { number: opening.batch, bytes: vec![], failed: None };
        Ok(Rocks {
            db,
            directory,
            opening,
            durability: options.durability,
            reads_cached,
            reads,
            writes,
            writer: Mutex::new(writer),
            statistics: options.statistics.then_some(database),
            merging: Mutex::new(true),
        })
    }

    /// When commits count as durable.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Writes all memtables to table files. The write-ahead log is not needed afterwards, and the
    /// next opening is short.
    ///
    /// # Errors
    /// [`LogError::Write`].
    pub fn flush(&self) -> Result<(), LogError> {
        for family in Family::ALL {
            self.db.flush_cf(self.family(family)).map_err(|e| write_failed(&e))?;
        }
        Ok(())
    }

    /// Merges all table files, which removes what is expired. Long; for tests and for operators.
    pub fn compact(&self) {
        for family in Family::ALL {
            self.db.compact_range_cf(self.family(family), None::<&[u8]>, None::<&[u8]>);
        }
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        handle(&self.db, family)
    }

    fn property(&self, family: Family, property: &CStr) -> u64 {
        let value = self.db.property_int_value_cf(self.family(family), property);
        value.ok().flatten().unwrap_or(0)
    }

    /// A property of all families together.
    fn sum(&self, property: &CStr) -> u64 {
        Family::ALL.into_iter().map(|family| self.property(family, property)).sum()
    }

    fn view(&self, cached: bool) -> Reads<'_> {
        let options = if cached { &self.reads_cached } else { &self.reads };
        Reads { db: &self.db, options, cached }
    }

    /// Takes the writer for a write that is refused after the first failure.
    fn write(
        &self,
        write: impl FnOnce(&mut Writer) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let panicked = |_| LogError::Write("the writer panicked in an earlier write".into());
        let mut writer = self.writer.lock().map_err(panicked)?;
        if let Some(failed) = &writer.failed {
            return Err(LogError::Write(failed.clone()));
        }
        let result = write(&mut writer);
        if let Err(error) = &result {
            writer.failed = Some(format!("an earlier write failed: {error}"));
        }
        result
    }
}

impl Log for Rocks {
    fn opening(&self) -> &Opening {
        &self.opening
    }

    fn commit(&self, batches: &[Batch]) -> Result<(), LogError> {
        if batches.iter().all(Batch::is_empty) {
            return Ok(());
        }
        self.write(|writer| {
            let number = writer.number + 1;
            batch::join(&mut writer.bytes, batches, number, self.directory.seal);
            let joined = WriteBatch::from_data(&writer.bytes);
            self.db.write_opt(joined, &self.writes).map_err(|e| write_failed(&e))?;
            writer.number = number;
            Ok(())
        })
    }

    fn sync(&self) -> Result<(), LogError> {
        self.write(|_| self.db.flush_wal(true).map_err(|e| write_failed(&e)))
    }

    fn load_cached(&self, load: &Load) -> Result<Option<Loaded>, LogError> {
        match load::load(&self.view(true), load) {
            Ok(loaded) => Ok(Some(loaded)),
            Err(Miss::Cold) => Ok(None),
            Err(Miss::Failed(error)) => Err(error),
        }
    }

    fn load(&self, load: &Load) -> Result<Loaded, LogError> {
        load::load(&self.view(false), load).map_err(LogError::from)
    }

    fn set_room(&self, free: u64) -> Result<(), LogError> {
        // No merge reads more than there is, nor much more than this.
        let most = self.sum(properties::TOTAL_SST_FILES_SIZE).min(tuning::MERGE_BYTES_MAX);
        let mut merging = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        // Room for it and half as much again to resume, so that a merge does not stop the next.
        let wanted = if *merging { free >= most } else { free / 3 >= most / 2 };
        if wanted == *merging {
            return Ok(());
        }
        *merging = wanted;
        let pause = [("disable_auto_compactions", if wanted { "false" } else { "true" })];
        for family in tuning::LARGE {
            self.db.set_options_cf(self.family(family), &pause).map_err(|e| write_failed(&e))?;
        }
        Ok(())
    }

    fn gauges(&self) -> Gauges {
        let sum = |property| self.sum(property);
        Gauges {
            wal: wal_bytes(&self.directory.rocks()),
            memtables: sum(properties::CUR_SIZE_ALL_MEM_TABLES),
            // The default family has a cache of its own; all others share one.
            block_cache: self.property(Family::Log, properties::BLOCK_CACHE_USAGE),
            table_readers: sum(properties::ESTIMATE_TABLE_READERS_MEM),
            tables: sum(properties::TOTAL_SST_FILES_SIZE),
            wal_syncs: self
                .statistics
                .as_ref()
                .map_or(0, |statistics| statistics.get_ticker_count(Ticker::WalFileSynced)),
            // All families' are counted at the default one.
            background_errors: self
                .db
                .property_int_value(properties::BACKGROUND_ERRORS)
                .ok()
                .flatten()
                .unwrap_or(0),
            compaction_pending: sum(properties::ESTIMATE_PENDING_COMPACTION_BYTES),
            write_stopped: self.property(Family::Log, properties::IS_WRITE_STOPPED),
        }
    }
}

/// Reads of one tier.
struct Reads<'a> {
    db: &'a DB,
    /// For look-ups.
    options: &'a ReadOptions,
    /// Memory only.
    cached: bool,
}

impl Reads<'_> {
    /// Options for an iterator, which takes them with it.
    fn iterator(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if self.cached {
            options.set_read_tier(ReadTier::BlockCache);
        }
        options
    }
}

impl View for Reads<'_> {
    fn get<R>(
        &self,
        family: Family,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss> {
        let value = self
            .db
            .get_pinned_cf_opt(handle(self.db, family), key, self.options)
            .map_err(|error| miss(&error))?;
        let value = value.map(|value| read(&value)).transpose();
        value.map_err(|why| malformed(family, key, why).into())
    }

    fn last<R>(
        &self,
        conversation: ConvKey,
        read: impl FnOnce(&[u8], &[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss> {
        let mut options = self.iterator();
        options.set_prefix_same_as_start(true);
        let mut iterator = self.db.raw_iterator_cf_opt(handle(self.db, Family::Log), options);
        iterator.seek_for_prev(keys::log(conversation, u64::MAX));
        match iterator.item() {
            Some((key, value)) => {
                let read = read(key, value).map(Some);
                read.map_err(|why| malformed(Family::Log, key, why).into())
            }
            None => iterator.status().map(|()| None).map_err(|error| miss(&error)),
        }
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Malformed>,
    ) -> Result<(), Miss> {
        assert!(family != Family::Dedup, "its memtable has no order");
        let mut options = self.iterator();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.db.raw_iterator_cf_opt(handle(self.db, family), options);
        iterator.seek(from);
        while let Some((key, value)) = iterator.item() {
            match visit(key, value) {
                Ok(ControlFlow::Continue(())) => iterator.next(),
                Ok(ControlFlow::Break(())) => return Ok(()),
                Err(why) => return Err(malformed(family, key, why).into()),
            }
        }
        iterator.status().map_err(|error| miss(&error))
    }

    /// With one iterator: to make one costs more than to move it.
    fn scan_prefixes(
        &self,
        family: Family,
        prefixes: &[Key],
        mut visit: impl FnMut(usize, &[u8], &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Miss> {
        assert!(family != Family::Dedup, "its memtable has no order");
        let Some(last) = prefixes.last() else { return Ok(()) };
        let mut options = self.iterator();
        options.set_iterate_upper_bound(&*last.end());
        let mut iterator = self.db.raw_iterator_cf_opt(handle(self.db, family), options);
        for (index, prefix) in prefixes.iter().enumerate() {
            iterator.seek(&**prefix);
            while let Some((key, value)) = iterator.item()
                && key.starts_with(prefix)
            {
                visit(index, key, value).map_err(|why| malformed(family, key, why))?;
                iterator.next();
            }
            iterator.status().map_err(|error| miss(&error))?;
        }
        Ok(())
    }
}

/// Batches name families by number: a batch that RocksDB makes shows which numbers it gave.
fn check_families(db: &DB) -> Result<(), LogError> {
    for family in Family::ALL {
        let mut probe = WriteBatch::default();
        probe.put_cf(handle(db, family), b"", b"");
        let op = batch::ops(probe.data()).next();
        if !op.is_some_and(|op| op.is_ok_and(|op| op.family == family)) {
            let what = format!("the family {} does not have its number", family.name());
            return Err(LogError::Corrupt { file: None, what });
        }
    }
    Ok(())
}

/// Writes the first batch of a new store. It is synced under any durability: a store that was
/// once open has an epoch.
fn create(db: &DB, seal: [u8; 8]) -> Result<(), LogError> {
    let [epoch, secret, node] = [random()?, random()?, random()?];
    let [.., a, b, c] = node.to_be_bytes();
    write_first(db, &opening::first(epoch, [a, b, c], secret), 1, seal)
}

/// Writes a batch of the opening, synced.
fn write_first(db: &DB, first: &Batch, number: u64, seal: [u8; 8]) -> Result<(), LogError> {
    let mut bytes = vec![];
    batch::join(&mut bytes, std::slice::from_ref(first), number, seal);
    let mut writes = WriteOptions::default();
    writes.set_sync(true);
    db.write_opt(WriteBatch::from_data(&bytes), &writes).map_err(|e| write_failed(&e))
}

fn random() -> Result<u64, LogError> {
    getrandom::u64().map_err(|error| LogError::Read(format!("no random numbers: {error}")))
}

fn handle(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.name()).expect("the database was opened with every family")
}

fn wal_bytes(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "log"))
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A read's error, or that memory was not enough.
fn miss(error: &rocksdb::Error) -> Miss {
    match error.kind() {
        ErrorKind::Incomplete => Miss::Cold,
        _ => Miss::Failed(failed(error)),
    }
}

fn failed(error: &rocksdb::Error) -> LogError {
    match error.kind() {
        ErrorKind::Corruption => {
            LogError::Corrupt { file: damaged_file(error.as_ref()), what: error.to_string() }
        }
        _ => LogError::Read(error.to_string()),
    }
}

fn open_failed(path: &Path, error: &rocksdb::Error) -> LogError {
    // The lock of a process that has no lock of ours: another program, or RocksDB's own tools.
    if error.kind() == ErrorKind::IOError && error.as_ref().contains("lock") {
        return LogError::Locked { path: path.to_owned() };
    }
    failed(error)
}

fn write_failed(error: &rocksdb::Error) -> LogError {
    LogError::Write(error.to_string())
}

/// The file that RocksDB's sentence names.
fn damaged_file(sentence: &str) -> Option<PathBuf> {
    sentence
        .split([' ', ',', ';', '\''])
        .map(|word| word.trim_end_matches([':', '.']))
        .find(|word| [".sst", ".log"].iter().any(|end| word.ends_with(end)))
        .map(PathBuf::from)
}
