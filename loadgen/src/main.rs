//! `ringpost-loadgen`: puts a known load on a server, checks every message of it, and says what it
//! cost. Threads, times and the exit status are here; what the users do is in `scenario`.
//!
//! Refuses to run without an end, and against other machines unless it is told to.

#![deny(unsafe_code)]

mod args;
mod check;
mod connect;
mod cpu;
mod dialect;
mod drive;
mod latency;
mod outbox;
mod pace;
mod payload;
mod report;
mod run;
mod scenario;
mod show;
#[expect(unsafe_code, reason = "limits and timers that the standard library does not have")]
mod sys;

use clap::Parser;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use args::{Cli, CommonArgs, PrivateArgs, Scenario as Chosen};
use drive::Plan;
use report::Measured;
use run::{Minter, Run};
use scenario::private::{Private, Settings};
use scenario::{Outcome, Times};
use show::Show;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Handshakes under way at the same time, over all threads.
const HANDSHAKES: usize = 64;
/// Descriptors that are not connections: standard ones, rings, timers.
const DESCRIPTORS_RESERVED: u64 = 32;
/// How much longer than planned a thread may take before it is given up.
const GRACE: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let args = match cli.scenario {
        Some(Chosen::Private(args)) => args,
        None => cli.private,
    };
    if let Err(error) = args.check() {
        eprintln!("ringpost-loadgen: {error}");
        return ExitCode::from(2);
    }
    match private(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringpost-loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the `private` scenario and prints its result; whether all checks passed.
fn private(args: &PrivateArgs) -> Result<bool, String> {
    let common = &args.common;
    let run = Run::new(common.prefix.as_deref());
    let minter = Minter::from_file(&common.secret_file)?;
    check_descriptors(args.user_count())?;
    // A server that is not there is told before the load, not after it.
    samples(common.server_pid)?;
    let clock = Instant::now();
    let times = Arc::new(OnceLock::new());
    let (reports, inbox) = mpsc::channel();
    let mut first_user = 0;
    for thread in 0..common.threads {
        let users = users_of_thread(args, thread);
        let settings = Settings {
            first_user,
            users,
            in_flight: args.in_flight_split(),
            payload: args.payload,
            rate: args.rate,
            all_users: args.user_count() as u16,
        };
        let plan = plan(common, &run, &minter, clock, &settings)?;
        first_user += users;
        let (run, times, reports) = (run.clone(), times.clone(), reports.clone());
        let dialect = dialect::by_name(common.dialect);
        let work = move || {
            let scenario = Private::new(settings, run, dialect);
            drive::run(plan, scenario, &times, &reports, usize::from(thread));
        };
        // Threads are not joined: a thread's last word is its report.
        std::thread::Builder::new()
            .name(format!("loadgen-{thread}"))
            .spawn(work)
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    drop(reports);
    let (outcome, shown, measured) = supervise(args, clock, &times, &inbox)?;
    let report = report::Report::private(args, outcome, &measured);
    if common.json {
        shown.iter().for_each(|line| eprintln!("{line}"));
        println!("{}", report.json());
    } else {
        shown.iter().for_each(|line| println!("{line}"));
        if !shown.is_empty() {
            println!();
        }
        print!("{}", report.text());
    }
    Ok(report.ok())
}

/// Pairs are spread evenly; the first threads take one more where that does not work out.
fn users_of_thread(args: &PrivateArgs, thread: u16) -> u16 {
    let pairs = args.user_count() as u16 / 2;
    let threads = args.common.threads;
    2 * (pairs / threads + u16::from(thread < pairs % threads))
}

fn plan(
    common: &CommonArgs,
    run: &Run,
    minter: &Minter,
    clock: Instant,
    settings: &Settings,
) -> Result<Plan, String> {
    let dialect = dialect::by_name(common.dialect);
    let user = |index| {
        let name = run.user(index);
        let upgrade = dialect.upgrade(&minter.mint(&name)?, &run.device(index));
        Ok((name, upgrade))
    };
    let users = settings.first_user..settings.first_user + settings.users;
    let users = users.map(user).collect::<Result<Vec<_>, String>>()?;
    let show = match settings.first_user {
        0 => Show::new(common.show, [run.user(0), run.user(1)]),
        _ => Show::default(),
    };
    Ok(Plan {
        server: common.server,
        users,
        dialect,
        handshakes: (HANDSHAKES / usize::from(common.threads)).max(1),
        clock,
        seed: payload::mix(run.seed ^ u64::from(settings.first_user)),
        show,
    })
}

fn check_descriptors(users: u32) -> Result<(), String> {
    let (limit, wanted) = (sys::raise_open_files(), u64::from(users) + DESCRIPTORS_RESERVED);
    if limit < wanted {
        return Err(format!(
            "{users} connections need {wanted} open files, the hard limit is {limit}; \
             raise it with `ulimit -Hn {wanted}` as root, or ask for fewer --users"
        ));
    }
    Ok(())
}

/// Starts the load when everybody is connected, measures CPU, and gathers what the threads found.
fn supervise(
    args: &PrivateArgs,
    clock: Instant,
    times: &OnceLock<Times>,
    inbox: &Receiver<(usize, drive::Report)>,
) -> Result<(Outcome, Vec<String>, Measured), String> {
    let threads = usize::from(args.common.threads);
    let connect_limit = GRACE + Duration::from_millis(20 * u64::from(args.user_count()));
    let connected_by = Instant::now() + connect_limit;
    for _ in 0..threads {
        match next(inbox, connected_by)? {
            drive::Report::Connected => {}
            drive::Report::Failed(error) => return Err(error),
            drive::Report::Done(..) => return Err("a thread ended early".to_owned()),
        }
    }
    // All threads look at the times every few milliseconds.
    let start = clock.elapsed() + Duration::from_millis(20);
    let measured = start + args.warmup..start + args.warmup + args.duration;
    let deadline = measured.end + args.drain;
    let ns = |moment: Duration| moment.as_nanos() as u64;
    let planned = Times {
        start_ns: ns(start),
        measured_ns: ns(measured.start)..ns(measured.end),
        deadline_ns: ns(deadline),
    };
    times.set(planned).expect("the times are set once, here");

    sleep_until(clock, measured.start);
    let before = samples(args.common.server_pid)?;
    sleep_until(clock, measured.end);
    let after = samples(args.common.server_pid)?;

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
    let server = before.1.zip(after.1).map(|(before, after)| cpu::used(&before, &after));
    let measured = Measured { client: cpu::used(&before.0, &after.0), server };
    Ok((outcome, shown, measured))
}

fn next(inbox: &Receiver<(usize, drive::Report)>, by: Instant) -> Result<drive::Report, String> {
    let left = by.saturating_duration_since(Instant::now());
    match inbox.recv_timeout(left) {
        Ok((_, report)) => Ok(report),
        Err(mpsc::RecvTimeoutError::Timeout) => Err("a client thread hangs; giving up".to_owned()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("a client thread died".to_owned()),
    }
}

/// Of this process, and of the server's where it is known.
fn samples(server: Option<u32>) -> Result<(cpu::Sample, Option<cpu::Sample>), String> {
    let own = cpu::sample(std::process::id());
    let own = own.map_err(|error| format!("cannot read our own CPU time: {error}"))?;
    let server = server.map(|pid| {
        cpu::sample(pid).map_err(|error| format!("cannot read the CPU time of {pid}: {error}"))
    });
    Ok((own, server.transpose()?))
}

fn sleep_until(clock: Instant, moment: Duration) {
    std::thread::sleep(moment.saturating_sub(clock.elapsed()));
}
