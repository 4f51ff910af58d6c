//! The first row of numbers: a real server under the canonical load, beside the ceilings, all in
//! one run, so that a machine that is slow today is slow for all of them.
//!
//! echo, server under load, server at half the rate, echo again, store alone. The load generator
//! checks every message; a run with a failed check gives no numbers.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use crate::echo::{self, Echo, Shape};
use crate::loadgen;
use crate::puts;
use crate::server::Server;
use crate::table::{self, Row};
use crate::{FirstRowArgs, Measured, PutArgs};

/// Bytes of a frame, on average: a private message of 256 B is four frames on four sockets, in all
/// about 900 B with their heads (message in, receipt out, delivery out, acknowledgement in).
pub const ECHO_BYTES: usize = 224;
/// A bare echo of the same bytes.
const ECHO: Shape = Shape { bytes: ECHO_BYTES, connections: 200, in_flight: 1 };
/// The same connections and messages in flight as the canonical load: writes coalesce as they do
/// there.
const ECHO_COALESCED: Shape = Shape { bytes: ECHO_BYTES, connections: 1000, in_flight: 4 };

/// The machine's speed changed between two echoes that differ by more than this share.
const ECHOES_DIFFER_MAX: f64 = 0.1;

// What is to be reached, printed beside the numbers.
const RATIO_MAX: f64 = 1.6;
const MESSAGES_PER_S_MIN: f64 = 50_000.0;
const STORE_US_MAX: f64 = 3.2;
const STORE_ALL_US_MAX: f64 = 5.5;
const P50_COMMITS_MAX: f64 = 2.0;
const P99_COMMITS_MAX: f64 = 5.0;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct FirstRow {
    echo_before: Echo,
    echo_after: Echo,
    echo_coalesced: Echo,
    /// The mean of the two.
    two_echoes_us: f64,
    /// The saturated run.
    saturated: Load,
    /// Open loop at half of its rate.
    half: Load,
    /// Server CPU per message beside two bare echoes.
    ratio: f64,
    /// Of the server's CPU per message, what its log and RocksDB threads used.
    storage_us: f64,
    /// Messages per second for each core that the server used.
    messages_per_core_s: f64,
    puts: puts::Table,
}

/// What the load generator says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Load {
    messages: u64,
    messages_per_s: f64,
    receipt: Latency,
    delivery: Latency,
    server_cpu: Cpu,
    client_cpu: Cpu,
    bottleneck: String,
    disturbed: bool,
    unsent: u64,
    ok: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Latency {
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cpu {
    us: f64,
    threads: Vec<Thread>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Thread {
    name: String,
    us: f64,
    busiest: f64,
}

/// Measures all of it.
///
/// # Errors
/// A sentence for the user.
pub fn measure(args: &FirstRowArgs) -> Result<FirstRow, String> {
    let server_bin = loadgen::binary(args.server_bin.as_deref(), "ringpost")?;
    let loadgen_bin = loadgen::binary(args.loadgen_bin.as_deref(), "ringpost-loadgen")?;
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.map_err(|error| format!("cannot make a temporary directory: {error}"))?;

    // What stands beside the server takes its share of the time, within reason.
    let echo_time = (args.duration / 10).clamp(Duration::from_millis(100), Duration::from_secs(2));
    let seconds = args.duration.as_secs_f64();
    let messages = (seconds * 20_000.0).clamp(10_000.0, 400_000.0) as u32;
    let commits = (seconds * 50.0).clamp(50.0, 1_000.0) as u32;

    let echo_before = echo::measure(ECHO, echo_time)?;
    let server = Server::start(&server_bin, dir.path(), 1)?;
    let saturated = load(&loadgen_bin, &server, args.warmup, args.duration, None)?;
    let rate = (saturated.messages_per_s / 2.0) as u32;
    let half = load(&loadgen_bin, &server, args.warmup, args.duration / 2, Some(rate.max(1)))?;
    server.stop()?;
    let echo_after = echo::measure(ECHO, echo_time)?;
    let echo_coalesced = echo::measure(ECHO_COALESCED, echo_time)?;
    let dir = Some(dir.path().to_owned());
    let puts = puts::table(&PutArgs { dir, messages, commits })?;

    let two_echoes_us = echo_before.cpu_us + echo_after.cpu_us;
    let cpu = &saturated.server_cpu;
    let storage = cpu.threads.iter().filter(|thread| is_storage(&thread.name));
    Ok(FirstRow {
        two_echoes_us,
        ratio: cpu.us / two_echoes_us,
        storage_us: storage.map(|thread| thread.us).sum(),
        messages_per_core_s: 1e6 / cpu.us,
        echo_before,
        echo_after,
        echo_coalesced,
        saturated,
        half,
        puts,
    })
}

/// The server's log threads have their names from it; RocksDB names its own.
fn is_storage(thread: &str) -> bool {
    thread.starts_with("log-") || thread.starts_with("rocksdb")
}

fn load(
    binary: &Path,
    server: &Server,
    warmup: Duration,
    duration: Duration,
    rate: Option<u32>,
) -> Result<Load, String> {
    let mut arguments = loadgen::flags([
        ("warmup", warmup.as_secs_f64().to_string()),
        ("duration", duration.as_secs_f64().to_string()),
    ]);
    if let Some(rate) = rate {
        arguments.extend(loadgen::flags([("rate", rate.to_string())]));
    }
    loadgen::run(binary, server, "private", &arguments)
}

impl Measured for FirstRow {
    fn text(&self) -> String {
        let mut text = String::from(
            "durable private message, both acknowledgements, 256 B, one shard, fsync\n\n",
        );
        text.push_str(&table::text(&self.rows()));
        self.write_threads(&mut text);
        self.write_doubts(&mut text);
        text
    }
}

impl FirstRow {
    /// Server CPU per message, saturated.
    pub fn us_per_message(&self) -> f64 {
        self.saturated.server_cpu.us
    }

    /// Its lines of the table.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.cpu_rows();
        rows.extend(self.latency_rows());
        rows.extend(self.store_rows());
        rows
    }

    fn cpu_rows(&self) -> Vec<Row> {
        let (us, echo, coalesced) =
            (self.us_per_message(), &self.echo_before, &self.echo_coalesced);
        let per_core = self.messages_per_core_s;
        vec![
            Row::new(
                "durable private message, server CPU",
                format!("{us:.2} µs"),
                format!(
                    "{:.2} × two bare echoes, {:.2} µs ({} B; {:.2}, then {:.2})",
                    self.ratio,
                    self.two_echoes_us,
                    echo.shape.bytes,
                    echo.cpu_us,
                    self.echo_after.cpu_us
                ),
                format!("≤ {RATIO_MAX} × them"),
                self.ratio <= RATIO_MAX,
            ),
            Row::plain(
                "  beside two echoes that coalesce",
                format!("{:.2} ×", us / (2.0 * coalesced.cpu_us)),
                format!(
                    "two of {:.2} µs ({} connections, {} in flight)",
                    coalesced.cpu_us, coalesced.shape.connections, coalesced.shape.in_flight
                ),
            ),
            Row::plain(
                "  messages/s",
                format!("{:.0}", self.saturated.messages_per_s),
                format!(
                    "store alone {:.0}; bottleneck: {}",
                    self.puts.store.per_s,
                    self.saturated.bottleneck.replace('_', " ")
                ),
            ),
            Row::new(
                "  messages/s per core used",
                format!("{per_core:.0}"),
                String::new(),
                format!("≥ {MESSAGES_PER_S_MIN:.0}"),
                per_core >= MESSAGES_PER_S_MIN,
            ),
        ]
    }

    fn latency_rows(&self) -> Vec<Row> {
        let (commit, receipt) = (&self.puts.commit, &self.half.receipt);
        let row = |name, measured: f64, limit: f64| {
            let times = measured / commit.p50_us;
            Row::new(
                &format!("  receipt {name} at {:.0}/s", self.half.messages_per_s),
                format!("{:.2} ms", measured / 1e3),
                format!("{times:.1} × one synced commit ({:.2} ms)", commit.p50_us / 1e3),
                format!("≤ {limit} × it"),
                times <= limit,
            )
        };
        vec![
            row("p50", receipt.p50_us, P50_COMMITS_MAX),
            row("p99", receipt.p99_us, P99_COMMITS_MAX),
        ]
    }

    fn store_rows(&self) -> Vec<Row> {
        let (inside, alone) = (self.storage_us, self.puts.store.cpu_us);
        vec![
            Row::new(
                "storage CPU per message, in the server",
                format!("{inside:.2} µs"),
                format!("RocksDB's log + ids alone {:.2} µs", self.puts.log_ids.cpu_us),
                format!("≤ {STORE_ALL_US_MAX} µs, all of it"),
                inside <= STORE_ALL_US_MAX,
            ),
            Row::new(
                "storage CPU per message, alone",
                format!("{alone:.2} µs"),
                format!("RocksDB's log alone {:.2} µs", self.puts.log.cpu_us),
                format!("≤ {STORE_US_MAX} µs"),
                alone <= STORE_US_MAX,
            ),
        ]
    }

    /// Where the CPU went.
    pub fn write_threads(&self, text: &mut String) {
        for (what, load) in [("saturated", &self.saturated), ("half the rate", &self.half)] {
            write!(text, "\n{what}, server CPU µs per message by thread:")
                .expect("a string takes everything");
            for thread in &load.server_cpu.threads {
                if thread.us >= 0.005 {
                    let Thread { name, us, busiest } = thread;
                    write!(text, "  {name} {us:.2} ({:.0} %)", busiest * 100.0)
                        .expect("a string takes everything");
                }
            }
        }
        text.push('\n');
    }

    /// Why these numbers may say little.
    pub fn write_doubts(&self, text: &mut String) {
        let (before, after) = (self.echo_before.cpu_us, self.echo_after.cpu_us);
        if (before / after - 1.0).abs() > ECHOES_DIFFER_MAX {
            text.push_str("\nThe echo before and the one after differ: run this again.\n");
        }
        if self.saturated.disturbed || self.half.disturbed {
            text.push_str(
                "\nSomething else kept the processors busy: throughput and latencies say little.\n",
            );
        }
        if self.half.unsent > 0 {
            text.push_str("\nThe server did not keep up with half of its own rate.\n");
        }
    }
}
