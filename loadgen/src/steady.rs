//! Runs the scenarios whose users are all connected before the load begins and stay to its end:
//! threads, times, CPU, results. What the users do is in `scenario`.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::args::CommonArgs;
use crate::connect::Route;
use crate::crowd::GRACE;
use crate::dialect;
use crate::drive::{self, Plan};
use crate::payload;
use crate::report::Measured;
use crate::run::{Minter, Run};
use crate::scenario::{Outcome, Scenario, Times};
use crate::show::Show;

/// Handshakes under way at the same time, over all threads.
const HANDSHAKES: usize = 64;

/// What all scenarios of this kind are told.
pub struct Load<'a> {
    /// Where, who.
    pub common: &'a CommonArgs,
    /// Users of all threads.
    pub users: u32,
    /// Before measuring, measured, and for what is still open at the end.
    pub warmup: Duration,
    pub duration: Duration,
    pub drain: Duration,
    /// Frames to show.
    pub show: u32,
}

/// One thread's users.
pub struct Part<F> {
    /// Number of the first one in the run.
    pub first_user: u16,
    /// How many.
    pub users: u16,
    /// Makes their scenario, on the thread.
    pub make: F,
}

/// What a run gives.
pub struct Ran {
    /// What was measured and found.
    pub outcome: Outcome,
    /// The frames to show.
    pub shown: Vec<String>,
    /// CPU of the measured time.
    pub measured: Measured,
}

/// Runs it. `prepare` is done when everybody is connected, before the load.
///
/// # Errors
/// A sentence for the user.
pub fn run<S: Scenario + 'static, F: FnOnce() -> S + Send + 'static>(
    load: &Load<'_>,
    run: &Run,
    parts: Vec<Part<F>>,
    prepare: impl FnOnce() -> Result<(), String>,
) -> Result<Ran, String> {
    let minter = Minter::from_file(&load.common.secret_file)?;
    crate::check_descriptors(load.users)?;
    // A server that is not there is told before the load, not after it.
    crate::samples(load.common.server_pid)?;
    let clock = Instant::now();
    let times = Arc::new(OnceLock::new());
    let (reports, inbox) = mpsc::channel();
    for (thread, part) in parts.into_iter().enumerate() {
        let plan = plan(load, run, &minter, clock, part.first_user, part.users)?;
        let (times, reports, make) = (times.clone(), reports.clone(), part.make);
        // Threads are not joined: a thread's last word is its report.
        std::thread::Builder::new()
            .name(format!("loadgen-{thread}"))
            .spawn(move || drive::run(plan, make(), &times, &reports, thread))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    drop(reports);
    supervise(load, clock, &times, &inbox, prepare)
}

fn plan(
    load: &Load<'_>,
    run: &Run,
    minter: &Minter,
    clock: Instant,
    first_user: u16,
    users: u16,
) -> Result<Plan, String> {
    let common = load.common;
    let dialect = dialect::by_name(common.dialect);
    let user = |index| {
        let name = run.user(index);
        let upgrade = dialect.upgrade(&minter.mint(&name)?, &run.device(index));
        Ok((name, upgrade))
    };
    let first_user = u32::from(first_user);
    let users = first_user..first_user + u32::from(users);
    let users = users.map(user).collect::<Result<Vec<_>, String>>()?;
    let show = match first_user {
        0 => Show::new(load.show, [run.user(0), run.user(1)]),
        _ => Show::default(),
    };
    Ok(Plan {
        route: Route::new(common.server, &common.sources, load.users)?,
        first_user,
        users,
        dialect,
        handshakes: (HANDSHAKES / usize::from(common.threads)).max(1),
        clock,
        seed: payload::mix(run.seed ^ u64::from(first_user)),
        show,
    })
}

/// Starts the load when everybody is connected, measures CPU, and gathers what the threads found.
fn supervise(
    load: &Load<'_>,
    clock: Instant,
    times: &OnceLock<Times>,
    inbox: &Receiver<(usize, drive::Report)>,
    prepare: impl FnOnce() -> Result<(), String>,
) -> Result<Ran, String> {
    let (threads, pid) = (usize::from(load.common.threads), load.common.server_pid);
    let connect_limit = GRACE + Duration::from_millis(20 * u64::from(load.users));
    let connected_by = Instant::now() + connect_limit;
    for _ in 0..threads {
        match next(inbox, connected_by)? {
            drive::Report::Connected => {}
            drive::Report::Failed(error) => return Err(error),
            drive::Report::Done(..) => return Err("a thread ended early".to_owned()),
        }
    }
    prepare()?;
    // All threads look at the times every few milliseconds.
    let start = clock.elapsed() + Duration::from_millis(20);
    let measured = start + load.warmup..start + load.warmup + load.duration;
    let deadline = measured.end + load.drain;
    let ns = |moment: Duration| moment.as_nanos() as u64;
    let planned = Times {
        start_ns: ns(start),
        measured_ns: ns(measured.start)..ns(measured.end),
        deadline_ns: ns(deadline),
    };
    times.set(planned).expect("the times are set once, here");

    sleep_until(clock, measured.start);
    let before = crate::samples(pid)?;
    sleep_until(clock, measured.end);
    let after = crate::samples(pid)?;

    let done_by = clock + deadline + GRACE;
    let (mut outcome, mut shown) = (Outcome::new(), Vec::new());
    for _ in 0..threads {
        match next(inbox, done_by)? {
            drive::Report::Done(part, lines) => {
                outcome.merge(*part);
                shown.extend(lines);
            }
            drive::Report::Failed(error) => return Err(error),
            drive::Report::Connected => return Err("a thread connected twice".to_owned()),
        }
    }
    Ok(Ran { outcome, shown, measured: crate::used(before, after) })
}

fn next(inbox: &Receiver<(usize, drive::Report)>, by: Instant) -> Result<drive::Report, String> {
    let left = by.saturating_duration_since(Instant::now());
    match inbox.recv_timeout(left) {
        Ok((_, report)) => Ok(report),
        Err(mpsc::RecvTimeoutError::Timeout) => Err("a client thread hangs; giving up".to_owned()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("a client thread died".to_owned()),
    }
}

fn sleep_until(clock: Instant, moment: Duration) {
    std::thread::sleep(moment.saturating_sub(clock.elapsed()));
}
