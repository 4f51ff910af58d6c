//! What can go wrong with a store, by cause. Nothing here is a client's fault: whoever gets a
//! [`LogError`] while the process runs ends the process.

use std::path::PathBuf;

use ringpost_core::ids::{ConvKey, Conversation};

/// A value or key that no version of this program wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Why the log cannot go on, or could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process (or another part of this one) has the store open.
    #[error("the store {} is in use by another process", path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds something else, or only parts of a store.
    #[error("{} is not a ringpost store: {why}", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing or in the way.
        why: &'static str,
    },
    /// The store was written by a version of this program that this one does not know.
    #[error("the store has format {found}, this program reads format {known}")]
    Format {
        /// What it has.
        found: u32,
        /// What this program reads and writes.
        known: u32,
    },
    /// A repair has begun and was interrupted. Nothing was changed.
    #[error(
        "a repair of the store was interrupted; finish it: `ringpost repair --yes {}`",
        path.display()
    )]
    Repairing {
        /// The store's directory.
        path: PathBuf,
    },
    /// Acknowledged batches are missing or unreadable. Nothing was changed.
    #[error(transparent)]
    Hole(Box<Hole>),
    /// Stored bytes are not what was written.
    #[error("the store is damaged{}: {what}", named(file))]
    Corrupt {
        /// The damaged file, when it is known.
        file: Option<PathBuf>,
        /// What was found.
        what: String,
    },
    /// Two conversations have the same key.
    #[error(
        "two conversations have the key {}: {stored:?} is stored, {expected:?} was asked for",
        hex(&key.hash)
    )]
    Collision {
        /// Their key.
        key: ConvKey,
        /// What the store has under it.
        stored: Box<Conversation>,
        /// What was asked for.
        expected: Box<Conversation>,
    },
    /// A read of the file system or of RocksDB failed.
    #[error("reading the store failed: {0}")]
    Read(String),
    /// A write or sync failed, now or before. How much of it reached the disk is unknown, and no
    /// later commit will be accepted.
    #[error("writing the store failed: {0}")]
    Write(String),
}

/// Where acknowledged batches are missing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "acknowledged messages are damaged: {} is damaged at byte {offset} ({what}), after batch \
     {before} and before {}. Nothing was changed. Restore a backup, or give up what is missing \
     with `ringpost repair {}`",
    file.display(),
    after.map_or_else(|| "another file".to_owned(), |after| format!("the intact batch {after}")),
    store.display()
)]
pub struct Hole {
    /// The damaged file of the write-ahead log.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong there.
    pub what: &'static str,
    /// The last batch before the damage; 0 when there is none in the write-ahead log.
    pub before: u64,
    /// The first intact batch behind it; without one, a later file shows that this was not the
    /// end of the log.
    pub after: Option<u64>,
    /// The store's directory.
    pub store: PathBuf,
}

fn named(file: &Option<PathBuf>) -> String {
    file.as_ref().map_or_else(String::new, |file| format!(" in {}", file.display()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sentences() {
        let file = Some(PathBuf::from("/data/000012.sst"));
        let corrupt = LogError::Corrupt { file, what: "block checksum mismatch".into() };
        assert_eq!(
            corrupt.to_string(),
            "the store is damaged in /data/000012.sst: block checksum mismatch"
        );
        let hole = LogError::Hole(Box::new(Hole {
            file: "/data/000007.log".into(),
            offset: 512,
            what: "checksum",
            before: 3,
            after: Some(5),
            store: "/data".into(),
        }));
        assert!(hole.to_string().contains("000007.log is damaged at byte 512"));
        assert!(hole.to_string().contains("after batch 3 and before the intact batch 5"));
        assert!(hole.to_string().contains("`ringpost repair /data`"));
    }
}
