//! The room on the store's disk: below the reserve, commands that store are answered *try again*
//! and the process is not ready, until there is room again. It decides when; the core refuses, and
//! what acknowledging and reading write goes on, in the room that is kept.
//!
//! *Why nothing jumps over the reserve.* Between two looks lies what is written between them: the
//! supervisor looks every half second, for what other programs take; the log's writer looks again
//! after every [`LOOK_BYTES`] that it has written, whatever their speed. What is under way when the
//! disk is found to be low is bounded too: three turns of each shard. What RocksDB writes on its
//! own fits into the reserve: a flush is no longer than the write-ahead log that it replaces, which
//! gets [`Reserve::wal_bytes_max`], and merges pause when there might be no room for one
//! ([`ringpost_storage::Log::set_room`]).

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ringpost_storage::Log;

use crate::health::Health;
use crate::mesh::{Mesh, Parcel};
use crate::sys;

/// The writer looks again after so many bytes: a look takes a microsecond or two, and these some
/// hundred commits' worth of small messages.
pub const LOOK_BYTES: u64 = 1 << 20;
/// The store's own default for the write-ahead log, where the disk is large enough for it.
const WAL_BYTES_MAX: u64 = 192 << 20;
/// Less of it would write memtables out all the time.
const WAL_BYTES_MIN: u64 = 4 << 20;

/// How much of the disk is kept free: the smaller of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserve {
    /// Of the disk's size.
    pub percent: u8,
    /// At most; 0: nothing is kept.
    pub bytes: u64,
}

impl Reserve {
    /// What is kept of a disk of this size.
    pub fn of(self, disk_bytes: u64) -> u64 {
        (disk_bytes / 100 * u64::from(self.percent)).min(self.bytes)
    }

    /// How long the write-ahead log may get on such a disk. Writing all memtables out takes about
    /// as much again before it can be deleted: a quarter of the reserve leaves room for that, and
    /// for what is under way.
    pub fn wal_bytes_max(self, disk_bytes: u64) -> u64 {
        match self.of(disk_bytes) {
            0 => WAL_BYTES_MAX,
            reserve => (reserve / 4).clamp(WAL_BYTES_MIN, WAL_BYTES_MAX),
        }
    }
}

/// Whether the disk is low, after it was (`was`) or was not: it has to have a quarter of the
/// reserve more to be good again, so that a flush that comes and goes does not open and shut.
fn is_low(was: bool, free: u64, reserve: u64) -> bool {
    free < if was { wanted(reserve) } else { reserve }
}

/// What must be free to be good again.
fn wanted(reserve: u64) -> u64 {
    reserve + reserve / 4
}

/// The watch over the store's disk, shared by those who look.
#[derive(Clone)]
pub struct Space(Arc<Watch>);

struct Watch {
    data: PathBuf,
    reserve: Reserve,
    mesh: Mesh,
    health: Health,
    /// Whether it was low at the last look; `None` before the first. Held while the shards are told, so that they hear of
    /// changes in their order; nobody waits long for it.
    low: Mutex<Option<bool>>,
}

impl Space {
    /// Of the file system that `data` lies in.
    pub fn new(data: PathBuf, reserve: Reserve, mesh: &Mesh, health: &Health) -> Space {
        let (mesh, health) = (mesh.clone(), health.clone());
        Space(Arc::new(Watch { data, reserve, mesh, health, low: Mutex::new(None) }))
    }

    /// Looks at the disk; when it has become low, or good again, all shards are told.
    ///
    /// # Errors
    /// The kernel does not say: everything stays as it is.
    pub fn look(&self) -> io::Result<u64> {
        let watch = &*self.0;
        let mut low = watch.low.lock().unwrap_or_else(PoisonError::into_inner);
        let sys::Disk { bytes, free } = sys::disk(&watch.data)?;
        let reserve = watch.reserve.of(bytes);
        // The process before this one may have ended low: what it waited for is waited for.
        let now = is_low(low.unwrap_or(true), free, reserve);
        if now != low.replace(now).unwrap_or(false) {
            self.tell(now, free, reserve);
        }
        watch.health.set_disk(free, reserve, now);
        Ok(free)
    }

    fn tell(&self, low: bool, free: u64, reserve: u64) {
        let Watch { data, mesh, .. } = &*self.0;
        mesh.send_all(|| Parcel::Space { low });
        if low {
            tracing::error!(
                free, reserve, wanted = wanted(reserve), data = %data.display(),
                "the disk is down to its reserve: what would be stored is answered `try again`, \
                 not ready; reading and acknowledging go on"
            );
        } else {
            tracing::info!(free, reserve, "the disk has room again: messages are stored");
        }
    }

    /// Tells the log how much room there is.
    ///
    /// # Errors
    /// As for [`Space::look`].
    pub fn look_for(&self, log: &dyn Log) -> io::Result<()> {
        let free = self.look()?;
        if self.0.reserve.bytes > 0
            && let Err(error) = log.set_room(free)
        {
            tracing::warn!(%error, "merges cannot be paused or resumed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const DEFAULT: Reserve = Reserve { percent: 5, bytes: GIB };

    #[test]
    fn the_smaller_of_both_is_kept() {
        assert_eq!(DEFAULT.of(100 * GIB), GIB);
        assert_eq!(DEFAULT.of(10 * GIB), 10 * GIB / 100 * 5);
        assert_eq!(Reserve { percent: 0, ..DEFAULT }.of(100 * GIB), 0);
        assert_eq!(Reserve { bytes: 0, ..DEFAULT }.of(100 * GIB), 0);
        assert_eq!(Reserve { percent: 100, bytes: u64::MAX }.of(u64::MAX), u64::MAX / 100 * 100);
    }

    #[test]
    fn the_log_fits_into_the_reserve() {
        assert_eq!(DEFAULT.wal_bytes_max(100 * GIB), WAL_BYTES_MAX);
        assert_eq!(DEFAULT.wal_bytes_max(GIB), GIB / 100 * 5 / 4);
        assert_eq!(DEFAULT.wal_bytes_max(64 << 20), WAL_BYTES_MIN);
        assert_eq!(Reserve { bytes: 0, ..DEFAULT }.wal_bytes_max(GIB), WAL_BYTES_MAX);
    }

    #[test]
    fn what_is_low_needs_more_to_be_good_again() {
        assert!(!is_low(false, 100, 100));
        assert!(is_low(false, 99, 100));
        assert!(is_low(true, 100, 100));
        assert!(is_low(true, 124, 100));
        assert!(!is_low(true, 125, 100));
        assert!(!is_low(false, 0, 0) && !is_low(true, 0, 0), "nothing is kept");
    }

    #[test]
    fn shards_are_told_once_and_readiness_follows() {
        let (mesh, inboxes) = Mesh::new(2).expect("descriptors");
        let health = Health::default();
        health.set_listening();
        let dir = tempfile::tempdir().expect("a directory");
        let disk = sys::disk(dir.path()).expect("the kernel says");
        assert!(disk.bytes >= disk.free && disk.free > 0, "{disk:?}");
        let all = Reserve { percent: 100, bytes: u64::MAX };
        let space = Space::new(dir.path().to_owned(), all, &mesh, &health);
        for _ in 0..3 {
            space.look().expect("looked");
        }
        for inbox in &inboxes {
            assert!(matches!(inbox.take(), Some(Parcel::Space { low: true })));
            assert!(inbox.take().is_none(), "told once");
        }
        let reason = health.ready().expect_err("low").reason();
        assert!(reason.contains("the disk is down to its reserve"), "{reason}");

        let gone = Space::new(dir.path().join("none"), all, &mesh, &health);
        assert!(gone.look().is_err());
    }
}
