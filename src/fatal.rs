//! How the process ends when it cannot go on: one exit status per cause, one log line that says
//! what to do.
//!
//! These errors are not threaded up the stack: nothing up there could do anything about them, and
//! each moment longer is one in which something could still be acknowledged. What a peer causes
//! never ends here.

use std::process::ExitCode;

use crate::sys;

/// Why the process ends. The numbers are part of the interface: service managers act on them.
/// 0 is a drained end, 1 a failed command, 2 wrong usage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cause {
    /// The log has lost what was acknowledged; `ringpost repair` is the operator's decision.
    LogDamaged = 65,
    /// The kernel does not offer what the process needs.
    Environment = 69,
    /// A bug of ours: a panic, on whatever thread.
    Panic = 70,
    /// An address cannot be listened on.
    Listen = 72,
    /// A file that `serve` was asked to write cannot be written.
    CannotCreate = 73,
    /// The log failed to write or to sync: nothing may be acknowledged any more.
    LogFailed = 74,
    /// Another process has the store open.
    StoreLocked = 75,
    /// A key, secret or configuration file cannot be used.
    Config = 78,
    /// A second signal asked to end at once.
    SecondSignal = 130,
}

impl From<Cause> for ExitCode {
    fn from(cause: Cause) -> ExitCode {
        ExitCode::from(cause as u8)
    }
}

/// Logs `what` and ends the process now, without running anything else: no destructor, no other
/// thread's next step.
pub fn exit(cause: Cause, what: &str) -> ! {
    tracing::error!(cause = ?cause, status = cause as u8, "{what}");
    sys::exit_now(cause as i32)
}

/// Makes a panic of any thread the end of the process, with its own status.
///
/// A shard that lost its thread would leave its users without a home; a restart gives them one.
pub fn exit_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        let trace = std::backtrace::Backtrace::force_capture();
        exit(Cause::Panic, &format!("bug: thread {name} {info}\n{trace}"));
    }));
}
