//! The store's directory: whose it is, who has it open, and how its write-ahead log ended.
//!
//! ```text
//! <store>/store     one line of identity: the version of the format, and the seal
//! <store>/lock      locked as long as a process has the store open
//! <store>/rocks/    RocksDB's files
//! <store>/torn/     ends of the write-ahead log that were cut off at an opening
//! <store>/lost/     what repairs have cut off
//! <store>/repairing a repair has begun and must be finished
//! ```
//!
//! This is the part of an opening that comes before RocksDB's. It never gives up an intact batch:
//! it cuts what was torn by a crash, and refuses what is worse (FORMAT.md, *Opening*).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Hole, LogError, hex};
use crate::repair;
use crate::wal::{self, Damage, Scan};
use crate::{FORMAT, Torn};

/// How many torn ends are kept for whoever wants to look at them.
const TORN_KEPT: usize = 8;
/// The first batch of a store takes less, with room for a page of the file system.
const CREATION_BYTES_MAX: u64 = 4096;

/// A store's directory, locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// What only this store's batches end with. Never shown to anybody.
    pub seal: [u8; 8],
    /// Closing it gives the store free.
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, locks it, and reads whose it is.
    pub fn claim(path: &Path) -> Result<Directory, LogError> {
        fs::create_dir_all(path).map_err(|e| write_failed(path, &e))?;
        let lock = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&lock)
            .map_err(|e| write_failed(&lock, &e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LogError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(write_failed(&lock, &error)),
        }
        let identity = path.join("store");
        let seal = match fs::read_to_string(&identity) {
            Ok(line) => {
                let (format, seal) = parse_identity(&line).ok_or(LogError::NotAStore {
                    path: path.to_owned(),
                    why: "its file `store` is not one that this program wrote",
                })?;
                if !(1..=FORMAT).contains(&format) {
                    return Err(LogError::Format { found: format, known: FORMAT });
                }
                seal
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.join("rocks").exists() {
                    let why = "its file `store` is missing";
                    return Err(LogError::NotAStore { path: path.to_owned(), why });
                }
                create_identity(path).map_err(|e| write_failed(&identity, &e))?
            }
            Err(error) => return Err(read_failed(&identity, &error)),
        };
        Ok(Directory { path: path.to_owned(), seal, _lock: file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// RocksDB's directory.
    pub fn rocks(&self) -> PathBuf {
        self.path.join("rocks")
    }

    /// Says that the store is of this program's format, whatever it was before: an earlier program
    /// will not open it any more.
    pub fn upgrade(&self) -> Result<(), LogError> {
        let identity = self.path.join("store");
        write_identity(&self.path, self.seal).map_err(|e| write_failed(&identity, &e))
    }

    /// Reads the write-ahead log. A torn end is cut off; a hole is an error and nothing is
    /// changed. Afterwards every byte of the log has been verified.
    pub fn recover(&self) -> Result<(Scan, Option<Torn>), LogError> {
        if self.path.join(repair::NOTE).exists() {
            return Err(LogError::Repairing { path: self.path.clone() });
        }
        let scan = self.scan()?;
        let Some(damage) = &scan.damage else {
            return Ok((scan, None));
        };
        let (file, bytes) = &scan.files[damage.file];
        if self.is_hole(&scan, damage) {
            return Err(LogError::Hole(Box::new(Hole {
                file: file.clone(),
                offset: damage.offset,
                what: damage.what,
                before: scan.last,
                after: damage.after,
                store: self.path.clone(),
            })));
        }
        // Only a creation that was interrupted leaves nothing at all, and it writes little.
        if *bytes > CREATION_BYTES_MAX && self.is_empty_before(&scan)? {
            let what = format!("nothing in it can be read ({} at byte 0)", damage.what);
            return Err(LogError::Corrupt { file: Some(file.clone()), what });
        }
        let torn = self.cut(file, damage).map_err(|e| write_failed(file, &e))?;
        Ok((scan, Some(torn)))
    }

    /// Reads the write-ahead log and changes nothing.
    pub fn scan(&self) -> Result<Scan, LogError> {
        let rocks = self.rocks();
        if !rocks.exists() {
            return Ok(Scan::default());
        }
        let scan = wal::scan(&rocks, self.seal).map_err(|e| read_failed(&rocks, &e))?;
        if let Some((file, offset)) = scan.foreign {
            let file = Some(scan.files[file].0.clone());
            let what = format!("at byte {offset} is a record that this store did not write");
            return Err(LogError::Corrupt { file, what });
        }
        Ok(scan)
    }

    /// Whether a damage is more than the end of the last write.
    pub fn is_hole(&self, scan: &Scan, damage: &Damage) -> bool {
        // A file is begun when the one before is synced: only the last one can be torn.
        let last = scan.files[damage.file + 1..].iter().all(|(_, bytes)| *bytes == 0);
        damage.after.is_some() || !last
    }

    /// Whether nothing was ever stored in front of the damage, neither in the log nor in tables.
    pub fn is_empty_before(&self, scan: &Scan) -> Result<bool, LogError> {
        let rocks = self.rocks();
        Ok(scan.batches == 0 && !has_tables(&rocks).map_err(|e| read_failed(&rocks, &e))?)
    }

    /// RocksDB, which ends with `batch`, must have found what was found here.
    pub fn compare(&self, scan: &Scan, batch: u64) -> Result<(), LogError> {
        if batch < scan.last {
            let log = scan.last;
            let what = format!("the write-ahead log ends with batch {log}, RocksDB with {batch}");
            return Err(LogError::Corrupt { file: None, what });
        }
        Ok(())
    }

    /// Cuts a file at `damage`, behind which there is nothing intact. The bytes are copied first,
    /// so that a mistake here would lose nothing.
    fn cut(&self, path: &Path, damage: &Damage) -> io::Result<Torn> {
        let directory = self.path.join("torn");
        fs::create_dir_all(&directory)?;
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let kept = directory.join(format!("{name}-{}", damage.offset));
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        file.seek(SeekFrom::Start(damage.offset))?;
        let mut copy = File::create(&kept)?;
        let bytes = io::copy(&mut file, &mut copy)?;
        copy.sync_all()?;
        File::open(&directory)?.sync_all()?;
        File::open(&self.path)?.sync_all()?;
        file.set_len(damage.offset)?;
        file.sync_all()?;
        forget_old(&directory)?;
        let (offset, what) = (damage.offset, damage.what);
        Ok(Torn { file: path.to_owned(), offset, bytes, what, kept })
    }
}

/// Whether there are table files.
fn has_tables(rocks: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(rocks)? {
        if entry?.path().extension().is_some_and(|extension| extension == "sst") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the oldest torn ends beyond [`TORN_KEPT`]. Numbers of log files only grow.
fn forget_old(directory: &Path) -> io::Result<()> {
    let mut kept = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    kept.sort();
    let surplus = kept.len().saturating_sub(TORN_KEPT);
    kept.iter().take(surplus).try_for_each(fs::remove_file)
}

fn create_identity(path: &Path) -> io::Result<[u8; 8]> {
    let mut seal = [0; 8];
    getrandom::fill(&mut seal).map_err(io::Error::other)?;
    write_identity(path, seal)?;
    // The directory itself may be new.
    if let Some(parent) = path.canonicalize()?.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(seal)
}

fn write_identity(path: &Path, seal: [u8; 8]) -> io::Result<()> {
    let new = path.join("store.new");
    let mut file = File::create(&new)?;
    file.write_all(identity(FORMAT, seal).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path.join("store"))?;
    File::open(path)?.sync_all()
}

fn identity(format: u32, seal: [u8; 8]) -> String {
    format!("ringpost store {format} {}\n", hex(&seal))
}

fn parse_identity(line: &str) -> Option<(u32, [u8; 8])> {
    let (format, seal) =
        line.strip_prefix("ringpost store ")?.strip_suffix('\n')?.split_once(' ')?;
    let format = format.parse().ok()?;
    let seal = u64::from_str_radix(seal, 16).ok()?.to_be_bytes();
    (identity(format, seal) == line).then_some((format, seal))
}

pub(crate) fn read_failed(path: &Path, error: &io::Error) -> LogError {
    LogError::Read(format!("{}: {error}", path.display()))
}

pub(crate) fn write_failed(path: &Path, error: &io::Error) -> LogError {
    LogError::Write(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_keeps_its_seal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("new/store");
        let first = Directory::claim(&path).expect("created");
        assert!(matches!(Directory::claim(&path), Err(LogError::Locked { .. })));
        let seal = first.seal;
        drop(first);
        assert_eq!(Directory::claim(&path).expect("free again").seal, seal);
    }

    #[test]
    fn a_foreign_directory_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("rocks")).expect("made");
        let refused = Directory::claim(dir.path()).expect_err("no identity");
        assert!(refused.to_string().contains("`store` is missing"), "{refused}");
        for line in ["", "ringpost store 1 1\n", "ringpost store 01 0000000000000001\n"] {
            fs::write(dir.path().join("store"), line).expect("written");
            let refused = Directory::claim(dir.path()).expect_err("another identity");
            assert!(matches!(refused, LogError::NotAStore { .. }), "{refused}");
        }
        fs::write(dir.path().join("store"), "ringpost store 4 0000000000000001\n")
            .expect("written");
        let refused = Directory::claim(dir.path()).expect_err("a later format");
        assert!(matches!(refused, LogError::Format { found: 4, known: FORMAT }), "{refused}");
    }

    #[test]
    fn few_torn_ends_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        for number in 0..12 {
            fs::write(dir.path().join(format!("{number:06}.log-0")), "x").expect("written");
        }
        forget_old(dir.path()).expect("removed");
        let mut left: Vec<_> = fs::read_dir(dir.path())
            .expect("read")
            .map(|entry| entry.expect("read").file_name())
            .collect();
        left.sort();
        assert_eq!(left.len(), TORN_KEPT);
        assert_eq!(left[0], "000004.log-0");
    }
}
