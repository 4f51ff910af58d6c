//! `ringpost-loadgen`: puts a known load on a server, checks every message of it, and says what it
//! cost. Which scenario runs and the exit status are here; what the users do is in `scenario` and
//! `crowd`.
//!
//! Refuses to run without an end, and against other machines unless it is told to.

#![deny(unsafe_code)]

mod api;
mod args;
mod check;
mod connect;
mod cpu;
mod crowd;
mod dialect;
mod drive;
mod latency;
mod memory;
mod outbox;
mod pace;
mod payload;
mod report;
mod run;
mod scenario;
mod session;
mod show;
mod steady;
#[expect(unsafe_code, reason = "limits, timers and options that the standard library has not")]
mod sys;

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

use api::Api;
use args::{Cli, EchoArgs, GroupArgs, PrivateArgs, Scenario as Chosen};
use report::{Measured, Report};
use run::Run;
use scenario::{echo, group, private};
use steady::{Load, Part};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Descriptors that are not connections: standard ones, rings, timers.
const DESCRIPTORS_RESERVED: u64 = 32;
/// How long to wait at the end for answers to pings.
const ECHO_DRAIN: Duration = Duration::from_secs(5);
/// After groups were made, for their members to acknowledge what they were told of it.
const GROUPS_REST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let scenario = cli.scenario.unwrap_or(Chosen::Private(cli.private));
    if let Err(error) = scenario.check() {
        eprintln!("ringpost-loadgen: {error}");
        return ExitCode::from(2);
    }
    let result = match &scenario {
        Chosen::Private(args) => private(args),
        Chosen::Group(args) => group(args),
        Chosen::Echo(args) => echo(args),
        Chosen::Idle(args) => crowd::idle::run(args)
            .map(|found| print(args.common.json, &[], &report::idle(args, &found))),
        Chosen::Connect(args) => crowd::connecting::run(args)
            .map(|found| print(args.common.json, &[], &report::connect(args, &found))),
        Chosen::CatchUp(args) => crowd::catch_up::run(args)
            .map(|found| print(args.common.json, &[], &report::catch_up(args, &found))),
    };
    match result {
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
    let mut first_user = 0;
    let part = |thread| {
        let settings = private::Settings {
            first_user,
            users: 2 * spread(args.user_count() / 2, common.threads, thread) as u16,
            in_flight: args.in_flight_split(),
            payload: args.payload,
            rate: args.rate,
            all_users: args.user_count() as u16,
        };
        let (users, run, dialect) = (settings.users, run.clone(), dialect::by_name(common.dialect));
        let make = move || private::Private::new(settings, run, dialect);
        let part = Part { first_user, users, make };
        first_user += users;
        part
    };
    let parts = (0..common.threads).map(part).collect();
    let load = Load {
        common,
        users: args.user_count(),
        warmup: args.warmup,
        duration: args.duration,
        drain: args.drain,
        show: args.show,
    };
    let ran = steady::run(&load, &run, parts, || Ok(()))?;
    let report = report::private(args, &ran.outcome, &ran.measured);
    Ok(print(common.json, &ran.shown, &report))
}

/// Runs the `group` scenario and prints its result; whether all checks passed.
fn group(args: &GroupArgs) -> Result<bool, String> {
    let common = &args.common;
    let run = Run::new(common.prefix.as_deref());
    // A missing key is told before thousands are connected.
    let mut api = Api::new(args.api.api, &args.api.api_key_file)?;
    let mut first_group = 0;
    let part = |thread| {
        let settings = group::Settings {
            first_group,
            groups: spread(args.groups, common.threads, thread),
            all_groups: args.groups,
            members: args.members as u16,
            senders: args.senders as u16,
            stalled: args.stalled as u16,
            in_flight: args.in_flight,
            payload: args.payload,
            rate: args.rate,
        };
        first_group += settings.groups;
        let (first_user, users) = (settings.first_user(), settings.users());
        let (run, dialect) = (run.clone(), dialect::by_name(common.dialect));
        let make = move || group::Group::new(settings, run, dialect);
        Part { first_user, users, make }
    };
    let parts = (0..common.threads).map(part).collect();
    let load = Load {
        common,
        users: args.user_count(),
        warmup: args.warmup,
        duration: args.duration,
        drain: args.drain,
        show: args.show,
    };
    let prepare = || {
        for number in 0..args.groups {
            let first = number * args.members;
            let users: Vec<_> = (first..first + args.members).map(|user| run.user(user)).collect();
            api.make_group(&run.group(number), &users)?;
        }
        std::thread::sleep(GROUPS_REST);
        Ok(())
    };
    let ran = steady::run(&load, &run, parts, prepare)?;
    let report = report::group(args, &ran.outcome, &ran.measured);
    Ok(print(common.json, &ran.shown, &report))
}

/// Runs the `echo` scenario and prints its result; whether all checks passed.
fn echo(args: &EchoArgs) -> Result<bool, String> {
    let common = &args.common;
    let run = Run::new(common.prefix.as_deref());
    let mut first_user = 0;
    let part = |thread| {
        let users = spread(args.users, common.threads, thread) as u16;
        let (first, in_flight) = (first_user, args.in_flight);
        let (run, dialect) = (run.clone(), dialect::by_name(common.dialect));
        first_user += users;
        let make = move || echo::Echo::new(first, users, in_flight, run, dialect);
        Part { first_user: first, users, make }
    };
    let parts = (0..common.threads).map(part).collect();
    let load = Load {
        common,
        users: args.users,
        warmup: args.warmup,
        duration: args.duration,
        drain: ECHO_DRAIN,
        show: 0,
    };
    let ran = steady::run(&load, &run, parts, || Ok(()))?;
    Ok(print(common.json, &ran.shown, &report::echo(args, &ran.outcome, &ran.measured)))
}

/// Prints a result, and the frames to be shown before it; whether all checks passed.
fn print(json: bool, shown: &[String], report: &impl Report) -> bool {
    if json {
        shown.iter().for_each(|line| eprintln!("{line}"));
        let json = serde_json::to_string(report);
        println!("{}", json.expect("a report has string keys and finite numbers"));
    } else {
        shown.iter().for_each(|line| println!("{line}"));
        if !shown.is_empty() {
            println!();
        }
        print!("{}", report.text());
    }
    report.checks().ok
}

/// Things are spread evenly over threads; the first threads take one more where that does not work
/// out.
fn spread(things: u32, threads: u16, thread: u16) -> u32 {
    let (threads, thread) = (u32::from(threads), u32::from(thread));
    things / threads + u32::from(thread < things % threads)
}

fn check_descriptors(users: u32) -> Result<(), String> {
    let (limit, wanted) = (sys::raise_open_files(), u64::from(users) + DESCRIPTORS_RESERVED);
    if limit < wanted {
        return Err(format!(
            "THE DESCRIPTOR LIMIT IS THE BOUND: {users} connections need {wanted} open files, the \
             hard limit of a process is {limit}, so at most {} here; raise it with \
             `ulimit -Hn {wanted}` as root, run several load generators, or ask for fewer",
            limit.saturating_sub(DESCRIPTORS_RESERVED)
        ));
    }
    Ok(())
}

/// CPU of this process, and of the server's where it is known.
type Samples = (cpu::Sample, Option<cpu::Sample>);

/// Takes them.
fn samples(server: Option<u32>) -> Result<Samples, String> {
    let own = cpu::sample(std::process::id());
    let own = own.map_err(|error| format!("cannot read our own CPU time: {error}"))?;
    let server = server.map(|pid| {
        cpu::sample(pid).map_err(|error| format!("cannot read the CPU time of {pid}: {error}"))
    });
    Ok((own, server.transpose()?))
}

/// What was used between two of them.
fn used(before: Samples, after: Samples) -> Measured {
    let server = before.1.zip(after.1).map(|(before, after)| cpu::used(&before, &after));
    Measured { client: cpu::used(&before.0, &after.0), server }
}
