//! Ringpost's append-only log: what the core's turns store, and what it loads again.
//!
//! ```text
//!  shard thread              writer thread                       shard thread     reader thread
//!  Batch::push(&Effects) --> Log::commit(&[Batch])               Log::load_cached Log::load
//!  entries -> key/value      one batch, one number, one sync     memory only      may block
//! ```
//!
//! [`Log`] is the seam: [`Rocks`] keeps it on disk, [`Fake`] in memory for tests that crash it.
//! FORMAT.md beside this crate says what lies where, byte for byte, and what an opening does.
//!
//! | file | owns |
//! |---|---|
//! | `batch` | entries of a turn as operations, in RocksDB's own write-batch form |
//! | `keys`, `value`, `record` | the bytes of keys, small values and messages |
//! | `load` | what a `Load` means, over three ways to read |
//! | `directory`, `wal`, `crc32c` | the lock, and the verified end of the write-ahead log |
//! | `format` | keys, values and records once more, for who takes bytes apart without a store |
//! | `opening` | what a store says about itself |
//! | `repair` | giving up what a hole has damaged, when an operator says so |
//! | `rocks` | RocksDB: its options, commits, reads; the only user of that crate |
//! | `fake` | the same in memory, with crash images |
//!
//! What this crate does not do: decide anything about messages, run threads of its own, or
//! retry. An error of a commit or load is final; the process ends.

#![forbid(unsafe_code)]
// Much of the format is only used by the store on disk.
#![cfg_attr(not(feature = "rocks"), allow(dead_code, unfulfilled_lint_expectations))]

mod batch;
mod chats;
mod crc32c;
#[cfg(feature = "rocks")]
mod directory;
mod error;
mod fake;
pub mod format;
mod keys;
mod load;
mod opening;
mod record;
#[cfg(feature = "rocks")]
mod repair;
#[cfg(feature = "rocks")]
mod rocks;
mod value;
mod wal;

use std::path::PathBuf;
use std::str::FromStr;

use ringpost_core::event::{Load, Loaded};

pub use batch::Batch;
pub use crc32c::crc32c;
pub use error::{Hole, LogError};
pub use fake::{Fake, FakeSeed};
#[cfg(feature = "rocks")]
pub use repair::{Finding, Loss, Mended, Repair};
#[cfg(feature = "rocks")]
pub use rocks::{Options, Rocks};

/// Version of the format that this program writes. It reads the earlier ones, and makes a store of
/// an earlier one this one's at its opening.
pub const FORMAT: u32 = 3;

/// Where turns become durable and are read again.
///
/// Loads show committed batches only: a batch is visible when it is as durable as
/// [`Durability`] promises, whole or not at all.
pub trait Log: Send + Sync + 'static {
    /// What was found when it was opened.
    fn opening(&self) -> &Opening;

    /// Commits the batches together, under one number, with one sync. Called by one thread, the
    /// writer. Without any operation it does nothing.
    ///
    /// # Errors
    /// [`LogError::Write`]: it is unknown whether the batches are durable; every later commit
    /// fails too, and the process must end.
    fn commit(&self, batches: &[Batch]) -> Result<(), LogError>;

    /// Makes everything committed durable. The writer calls it by its timer under
    /// [`Durability::Interval`], and at the end of the process.
    ///
    /// # Errors
    /// As for [`Log::commit`].
    fn sync(&self) -> Result<(), LogError>;

    /// Answers from memory, or says `None`. Never touches the disk; shard threads call it.
    ///
    /// # Errors
    /// [`LogError::Corrupt`], [`LogError::Collision`], [`LogError::Read`]: fatal.
    fn load_cached(&self, load: &Load) -> Result<Option<Loaded>, LogError>;

    /// Answers, and may wait for the disk. Reader threads call it.
    ///
    /// # Errors
    /// As for [`Log::load_cached`].
    fn load(&self, load: &Load) -> Result<Loaded, LogError>;

    /// Says how many bytes are free on the store's disk: merges of table files, which need as
    /// much again before they give anything back, pause while there may be too little.
    ///
    /// # Errors
    /// They could not be paused or resumed; nothing else is the matter.
    fn set_room(&self, free: u64) -> Result<(), LogError>;

    /// Sizes for the metrics. May read the directory.
    fn gauges(&self) -> Gauges;
}

/// When a commit counts as durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Durability {
    /// When it is synced to the disk. The only one that survives the loss of power.
    #[default]
    Fsync,
    /// When the kernel has it; synced every so many milliseconds.
    Interval(u64),
    /// When the kernel has it; synced when the kernel likes.
    Os,
}

impl FromStr for Durability {
    type Err = &'static str;

    /// `fsync`, `interval:<ms>` or `os`.
    fn from_str(text: &str) -> Result<Durability, &'static str> {
        const EXPECTED: &str = "durability is one of fsync, interval:<ms> (at least 1), os";
        match text {
            "fsync" => Ok(Durability::Fsync),
            "os" => Ok(Durability::Os),
            _ => {
                let ms = text.strip_prefix("interval:").ok_or(EXPECTED)?;
                match ms.parse() {
                    Ok(ms) if ms > 0 => Ok(Durability::Interval(ms)),
                    _ => Err(EXPECTED),
                }
            }
        }
    }
}

impl std::fmt::Display for Durability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Durability::Fsync => f.write_str("fsync"),
            Durability::Interval(ms) => write!(f, "interval:{ms}"),
            Durability::Os => f.write_str("os"),
        }
    }
}

/// What an opening found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opening {
    /// Version of the store's format.
    pub format: u32,
    /// Random at creation. A client that knew another epoch knows another history.
    pub epoch: u64,
    /// The node in message ids, random at creation.
    pub node: [u8; 3],
    /// Seeds the keys of conversations and resends. Stays in the store.
    pub secret: u64,
    /// The largest second that any shard was ever allowed to use in ids; 0: none.
    pub leased: u32,
    /// Number of the last commit.
    pub batch: u64,
    /// How the opening went, for a line in the process's log.
    pub recovery: Recovery,
}

/// How an opening went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// The store was made by this opening.
    pub created: bool,
    /// Files of the write-ahead log.
    pub wal_files: usize,
    /// Their bytes, all verified.
    pub wal_bytes: u64,
    /// Commits in them.
    pub wal_batches: u64,
    /// What was cut off their end, if the last write was torn.
    pub torn: Option<Torn>,
    /// Time for verifying them, ms.
    pub verified_ms: u64,
    /// Time for RocksDB's opening, ms.
    pub opened_ms: u64,
}

impl std::fmt::Display for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.created {
            return f.write_str("created");
        }
        let Recovery { wal_files, wal_bytes, wal_batches, torn, verified_ms, opened_ms, .. } = self;
        write!(
            f,
            "{wal_batches} commits in {wal_bytes} bytes and {wal_files} files of the write-ahead \
             log, verified in {verified_ms} ms, opened in {opened_ms} ms"
        )?;
        torn.as_ref().map_or(Ok(()), |torn| write!(f, "; {torn}"))
    }
}

/// The end of the write-ahead log that a crash tore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// The file of the write-ahead log.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
    /// What was wrong with them.
    pub what: &'static str,
    /// Where they are now.
    pub kept: PathBuf,
}

impl std::fmt::Display for Torn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Torn { file, offset, bytes, what, kept } = self;
        write!(
            f,
            "the last write to {} was torn at byte {offset} ({what}), before it was acknowledged; \
             its {bytes} bytes are kept in {}",
            file.display(),
            kept.display()
        )
    }
}

/// Sizes, in bytes unless they say otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Files of the write-ahead log.
    pub wal: u64,
    /// Memtables, those being flushed included.
    pub memtables: u64,
    /// Blocks in the cache.
    pub block_cache: u64,
    /// Indexes and filters of open table files.
    pub table_readers: u64,
    /// Table files.
    pub tables: u64,
    /// Syncs of the write-ahead log (count); only with [`Options::statistics`].
    pub wal_syncs: u64,
    /// Failed flushes and compactions (count). After one, commits fail.
    pub background_errors: u64,
    /// What compactions are behind by.
    pub compaction_pending: u64,
    /// 1 while writes wait for flushes or compactions.
    pub write_stopped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durability_reads_what_it_writes() {
        for durability in [Durability::Fsync, Durability::Interval(250), Durability::Os] {
            assert_eq!(durability.to_string().parse(), Ok(durability));
        }
        for bad in ["", "Fsync", "interval", "interval:", "interval:0", "interval:-1", "none"] {
            assert!(bad.parse::<Durability>().is_err(), "{bad}");
        }
    }
}
