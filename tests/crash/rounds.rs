//! The rounds of a test that kills the server: how many, when, and how it starts again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::common::Server;

/// An acknowledgement this much older than the crash has survived it: cursors are written once per
/// second, and the write takes a commit.
pub const AGAIN: Duration = Duration::from_millis(1_500);
/// A killed process loses nothing that the kernel has, so that none of these loses anything.
const DURABILITIES: [&str; 3] = ["fsync", "interval:5", "os"];

/// One round: load, a kill, another start.
pub struct Round {
    pub number: usize,
    /// How long the load goes on before the kill.
    pub pause: Duration,
}

impl Round {
    /// In every third round some devices are not connected and get everything later.
    pub fn all_devices(&self) -> bool {
        self.number % 3 != 2
    }

    /// Kills the server after the round's pause. The moment of the kill is what varies; nothing
    /// waits for the load to get anywhere.
    pub fn kill(&self, server: &mut Server) -> Instant {
        thread::sleep(self.pause);
        let killed = Instant::now();
        server.kill9();
        killed
    }

    /// Starts the killed server again, with another number of shards or durability.
    pub fn restart(&self, server: &mut Server) {
        let shards = ["1", "2", "3"][self.number % 3];
        let durability = DURABILITIES[self.number / 3 % 3];
        server.restart(&["--shards", shards, "--durability", durability]);
    }
}

/// So many rounds, unless `RINGPOST_CRASH_ROUNDS` says another number.
pub fn rounds(default: usize) -> impl Iterator<Item = Round> {
    let count = std::env::var("RINGPOST_CRASH_ROUNDS").ok();
    let count = count.map_or(default, |count| count.parse().expect("a number of rounds"));
    let mut seed = 1u64;
    (0..count).map(move |number| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let pause = Duration::from_millis(30 + (seed >> 33) % 300);
        // Some rounds are long enough for acknowledgements that the disk must have.
        let pause = if number % 5 == 4 { pause + AGAIN } else { pause };
        Round { number, pause }
    })
}

/// One of these tests at a time: two would take the processors from each other, and a server that
/// does not run for half a second is late with its cursors.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // Another test that has failed says nothing about this one.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
