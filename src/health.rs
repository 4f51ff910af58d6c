//! What the process knows about its own state, for `/readyz` and the supervisor. Flags only: it
//! decides nothing but what "ready" means.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A commit that takes longer makes the process not ready: the disk is in trouble.
pub const COMMIT_MS_MAX: u64 = 5_000;

/// Shared by all threads.
#[derive(Clone, Debug)]
pub struct Health(Arc<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    listening: AtomicBool,
    draining: AtomicBool,
    /// When the commit that runs now began, µs after `started`, plus 1; 0: none runs.
    commit_since: AtomicU64,
    /// Bytes that are free on the store's disk, and that are kept free, at the last look.
    disk_free: AtomicU64,
    disk_reserve: AtomicU64,
    disk_low: AtomicBool,
}

/// Why the process is not ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotReady {
    /// The listeners are not open yet.
    Starting,
    /// It ends.
    Draining,
    /// A commit has been running for longer than [`COMMIT_MS_MAX`].
    CommitHangs,
    /// So many bytes are free on the store's disk, and so many are kept free.
    DiskLow {
        /// What is left.
        free: u64,
        /// What is kept.
        reserve: u64,
    },
}

impl NotReady {
    /// In words, for the answer.
    pub fn reason(self) -> Cow<'static, str> {
        match self {
            NotReady::Starting => "starting: the listeners are not open yet".into(),
            NotReady::Draining => "draining: the process is about to end".into(),
            NotReady::CommitHangs => "the log has not finished a commit for more than 5 s".into(),
            NotReady::DiskLow { free, reserve } => format!(
                "the disk is down to its reserve, nothing new is stored: {} MiB are free, {} MiB \
                 are kept",
                free >> 20,
                reserve >> 20
            )
            .into(),
        }
    }
}

impl Default for Health {
    fn default() -> Health {
        Health(Arc::new(State {
            started: Instant::now(),
            listening: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            commit_since: AtomicU64::new(0),
            disk_free: AtomicU64::new(0),
            disk_reserve: AtomicU64::new(0),
            disk_low: AtomicBool::new(false),
        }))
    }
}

impl Health {
    /// Whether new connections should come here.
    ///
    /// # Errors
    /// The reason why not.
    pub fn ready(&self) -> Result<(), NotReady> {
        if self.0.draining.load(Relaxed) {
            Err(NotReady::Draining)
        } else if !self.0.listening.load(Relaxed) {
            Err(NotReady::Starting)
        } else if self.commit_age() >= Duration::from_millis(COMMIT_MS_MAX) {
            Err(NotReady::CommitHangs)
        } else if self.0.disk_low.load(Relaxed) {
            let (free, reserve) = self.disk();
            Err(NotReady::DiskLow { free, reserve })
        } else {
            Ok(())
        }
    }

    /// Time since the process began.
    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// All listeners are open.
    pub fn set_listening(&self) {
        self.0.listening.store(true, Relaxed);
    }

    /// The drain has begun.
    pub fn set_draining(&self) {
        self.0.draining.store(true, Relaxed);
    }

    /// A commit begins, or (`false`) has ended. Called by the log's writer alone.
    pub fn set_committing(&self, committing: bool) {
        let since = if committing { self.0.started.elapsed().as_micros() as u64 + 1 } else { 0 };
        self.0.commit_since.store(since, Relaxed);
    }

    /// What the last look at the store's disk has found.
    pub fn set_disk(&self, free: u64, reserve: u64, low: bool) {
        self.0.disk_free.store(free, Relaxed);
        self.0.disk_reserve.store(reserve, Relaxed);
        self.0.disk_low.store(low, Relaxed);
    }

    /// Bytes that are free on the store's disk, and that are kept free.
    pub fn disk(&self) -> (u64, u64) {
        (self.0.disk_free.load(Relaxed), self.0.disk_reserve.load(Relaxed))
    }

    /// For how long the commit that runs now has been running; zero when none does.
    pub fn commit_age(&self) -> Duration {
        match self.0.commit_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => self.0.started.elapsed().saturating_sub(Duration::from_micros(since - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_listening_and_committing_and_not_draining() {
        let health = Health::default();
        assert_eq!(health.ready(), Err(NotReady::Starting));
        health.set_listening();
        assert_eq!(health.ready(), Ok(()));
        health.set_committing(true);
        assert_eq!(health.ready(), Ok(()));
        health.set_committing(false);
        assert_eq!(health.commit_age(), Duration::ZERO);
        health.set_draining();
        assert_eq!(health.ready(), Err(NotReady::Draining));
    }

    #[test]
    fn an_old_commit_is_not_ready() {
        let mut health = Health::default();
        health.set_listening();
        let state = Arc::get_mut(&mut health.0).expect("nobody else has it");
        *state.commit_since.get_mut() = 1;
        let ago = Duration::from_millis(COMMIT_MS_MAX);
        state.started = state.started.checked_sub(ago).expect("the machine runs for some seconds");
        assert_eq!(health.ready(), Err(NotReady::CommitHangs));
    }
}
