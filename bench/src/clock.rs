//! CPU time of threads and of this process. All unsafe code of this crate but the signal to a child
//! is here.

use std::io;
use std::time::Duration;

/// The CPU clock of one thread, which any thread may read while that one lives.
#[derive(Clone, Copy, Debug)]
pub struct ThreadClock(libc::clockid_t);

impl ThreadClock {
    /// The calling thread's.
    pub fn current() -> ThreadClock {
        let mut clock = 0;
        // SAFETY: the calling thread lives, and the call writes one clockid_t, which `clock` is.
        let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        assert!(result == 0, "every living thread has a CPU clock");
        ThreadClock(clock)
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// When the thread has ended.
    pub fn used(self) -> io::Result<Duration> {
        read(self.0)
    }
}

/// CPU time used so far by all threads of this process, those that ended included.
pub fn process_used() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).expect("the process has a CPU clock")
}

fn read(clock: libc::clockid_t) -> io::Result<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which `time` is.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_charged_to_the_thread_that_does_it() {
        let clock = ThreadClock::current();
        let before = (clock.used().expect("it lives"), process_used());
        let mut x = 1u64;
        while clock.used().expect("it lives") - before.0 < Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(process_used() - before.1 >= Duration::from_millis(5));
    }
}
