//! `ringpost-bench`: ceilings (what the kernel and the database can do without us), and the table of
//! numbers, measured beside them in one run. README.md says which bench answers which question.
//!
//! Load stays on loopback and in temporary directories, and every run has an end.

mod allocations;
mod clock;
mod echo;
mod exchange;
mod first_row;
mod loadgen;
mod puts;
mod restart;
mod server;
mod store;
mod table;

use clap::{Parser, Subcommand};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: allocations::Counted = allocations::Counted;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "ringpost-bench",
    version,
    about = "Ringpost's numbers and their ceilings, measured beside each other",
    after_help = "Examples:\n  \
        ringpost-bench table\n  \
        ringpost-bench table --restart-messages 10000000 --json\n  \
        ringpost-bench tcp-echo\n  \
        ringpost-bench rocks-put --dir /var/tmp\n  \
        ringpost-bench first-row --json\n\n\
        Exit status: 0 measured, 1 failed, 2 usage."
)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// Print the result as one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The whole table: every number beside its ceiling and its target; takes some five minutes
    Table(TableArgs),
    /// Ceiling: a bare TCP echo on io_uring, one thread
    TcpEcho(EchoArgs),
    /// Ceiling: batched puts straight into RocksDB, and one synced commit alone
    RocksPut(PutArgs),
    /// CPU per durable private message and its latency, beside two bare echoes and the store alone
    FirstRow(FirstRowArgs),
}

/// `table`.
#[derive(Clone, Debug, clap::Args)]
struct TableArgs {
    /// The server's binary; by default `ringpost` beside this one
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// The load generator's binary; by default `ringpost-loadgen` beside this one
    #[arg(long, value_name = "FILE")]
    loadgen_bin: Option<PathBuf>,
    /// Where the temporary stores are made; must be on the disk that matters
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Whether everything can be measured: short runs, few users; the numbers say nothing
    #[arg(long)]
    quick: bool,
    /// Messages in the store that a server is started on; by default 1,000,000, a tenth of what the
    /// target asks for (10,000,000 take some 6 GB)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    restart_messages: Option<u32>,
}

/// `tcp-echo`.
#[derive(Clone, Debug, clap::Args)]
struct EchoArgs {
    /// Time measured for each row, s
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    seconds: Duration,
}

/// `rocks-put`.
#[derive(Clone, Debug, clap::Args)]
struct PutArgs {
    /// Where the temporary database is made; must be on the disk that matters
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Messages put for each row
    #[arg(long, default_value_t = 400_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    messages: u32,
    /// Synced commits made one after the other
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=100_000))]
    commits: u32,
}

/// `first-row`.
#[derive(Clone, Debug, clap::Args)]
struct FirstRowArgs {
    /// The server's binary; by default `ringpost` beside this one
    #[arg(long, value_name = "FILE")]
    server_bin: Option<PathBuf>,
    /// The load generator's binary; by default `ringpost-loadgen` beside this one
    #[arg(long, value_name = "FILE")]
    loadgen_bin: Option<PathBuf>,
    /// Where the temporary stores are made; must be on the disk that matters
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Load before measuring begins, s
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    warmup: Duration,
    /// Saturated load that is measured, s; half of it for the run at half the rate, and a share of
    /// it for each ceiling
    #[arg(long, default_value = "20", value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,
}

/// Seconds as a decimal number, at most ten minutes.
fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.1..=600.0).contains(&value) {
        return Err("must be from 0.1 to 600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(value))
}

fn main() -> ExitCode {
    let Cli { bench, json } = Cli::parse();
    let printed = match bench {
        Bench::Table(args) => table::measure(&args).and_then(|table| {
            print(&table, json);
            table.is_whole().then_some(()).ok_or("something could not be measured".to_owned())
        }),
        Bench::TcpEcho(args) => echo::table(args.seconds).map(|table| print(&table, json)),
        Bench::RocksPut(args) => puts::table(&args).map(|table| print(&table, json)),
        Bench::FirstRow(args) => first_row::measure(&args).map(|row| print(&row, json)),
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringpost-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Something that was measured.
trait Measured: Serialize {
    /// For people.
    fn text(&self) -> String;
}

fn print(measured: &impl Measured, json: bool) {
    if json {
        let json = serde_json::to_string(measured);
        println!("{}", json.expect("results have string keys and finite numbers"));
    } else {
        print!("{}", measured.text());
    }
}
