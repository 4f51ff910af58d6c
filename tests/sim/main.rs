//! The simulator: shards of the real core, a log that crashes, a mesh and a network that are slow
//! and break, many clients, in virtual time on one thread. A seed is a run, byte for byte.
//!
//! `cargo test --test sim` runs some hundred seeds; `make sim` runs until it is stopped, and
//! `make sim SEED=n` runs one. What is drawn: `profile.rs`. What must hold: `ledger.rs`,
//! `deliveries.rs`, `operations.rs`, `drain.rs`. Where another dialect's client goes: `client.rs`.

mod client;
mod deliveries;
mod digest;
mod drain;
mod ledger;
mod model;
mod mutations;
mod names;
mod net;
mod operations;
mod profile;
mod random;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use profile::Profile;
use random::Random;
use world::World;

/// Seeds that a test runs.
const SEEDS: u64 = 300;

/// What a run was like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Run {
    digest: u64,
    records: u64,
    crashes: u64,
}

fn run(seed: u64) -> Run {
    let mut random = Random::new(seed);
    let profile = Profile::draw(&mut random);
    let (steps, pause_us) = (profile.steps, profile.pause_us);
    let mut world = World::new(seed, random, profile);
    world.set_up();
    for _ in 0..steps {
        world.step();
        let pause = world.delay(pause_us);
        world.run(pause);
    }
    world.drain();
    let records = world.model.heads().values().sum();
    Run { digest: world.digest.value(), records, crashes: u64::from(world.crashes) }
}

/// Runs a seed; says how to run it again when it fails.
fn run_told(seed: u64) -> Run {
    catch_unwind(AssertUnwindSafe(|| run(seed))).unwrap_or_else(|panic| {
        eprintln!("seed {seed} failed; to run it again: make sim SEED={seed}");
        resume_unwind(panic)
    })
}

/// Runs seeds from `first` on, on all processors, until there were `count` or one fails.
fn run_many(first: u64, count: u64) {
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (records, crashes) = (AtomicU64::new(0), AtomicU64::new(0));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = number("RINGPOST_SIM_THREADS").unwrap_or(processors.min(4) as u64);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = first.wrapping_add(at);
                    match catch_unwind(|| run_told(seed)) {
                        Ok(run) => {
                            records.fetch_add(run.records, Ordering::Relaxed);
                            crashes.fetch_add(run.crashes, Ordering::Relaxed);
                        }
                        Err(_) => failed.store(true, Ordering::Relaxed),
                    }
                    if at % 1_000 == 999 {
                        eprintln!("{} seeds in {:?}", at + 1, began.elapsed());
                    }
                }
            });
        }
    });
    let (records, crashes) = (records.into_inner(), crashes.into_inner());
    let seconds = began.elapsed().as_secs_f64();
    println!("{count} seeds from {first}: {records} records, {crashes} crashes, {seconds:.1} s");
    assert!(!failed.into_inner(), "a seed has failed, see above");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")))
}

/// `RINGPOST_SIM_SEED`: this one. `RINGPOST_SIM_SEEDS`: so many, 0 for no end, from
/// `RINGPOST_SIM_FROM`, or the clock where there is no end; on `RINGPOST_SIM_THREADS` threads.
/// `RINGPOST_SIM_TRACE`: what happens is printed.
#[test]
fn seeds() {
    if let Some(seed) = number("RINGPOST_SIM_SEED") {
        println!("seed {seed}");
        println!("{:?}", run_told(seed));
        return;
    }
    let count = number("RINGPOST_SIM_SEEDS").unwrap_or(SEEDS);
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |at| at.as_secs());
    let fresh = || if count == 0 { clock() * 1_000_000 } else { 1 };
    let first = number("RINGPOST_SIM_FROM").unwrap_or_else(fresh);
    println!("seed {first} and those behind it");
    run_many(first, if count == 0 { u64::MAX } else { count });
}

/// Invariant 10.
#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1..=12 {
        let (one, other) = (run_told(seed), run_told(seed));
        assert_eq!(one, other, "seed {seed}");
    }
}
