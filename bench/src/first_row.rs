//! The first row of numbers: a real server under the canonical load, beside the ceilings, all in
//! one run, so that a machine that is slow today is slow for all of them.
//!
//! echo, server under load, server at half the rate, echo again, store alone. The load generator
//! checks every message; a run with a failed check gives no numbers.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::echo::{self, Echo, Shape};
use crate::puts;
use crate::server::Server;
use crate::{FirstRowArgs, Measured, PutArgs};

/// A bare echo of the same bytes: a private message of 256 B is four frames on four sockets, in all
/// about 900 B with their heads (message in, receipt out, delivery out, acknowledgement in).
const ECHO: Shape = Shape { bytes: 224, connections: 200, in_flight: 1 };
/// The same connections and messages in flight as the canonical load: writes coalesce as they do
/// there.
const ECHO_COALESCED: Shape = Shape { bytes: 224, connections: 1000, in_flight: 4 };

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
    us_per_message: f64,
    threads: Vec<Thread>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Thread {
    name: String,
    us_per_message: f64,
    busiest: f64,
}

/// Measures all of it.
///
/// # Errors
/// A sentence for the user.
pub fn measure(args: &FirstRowArgs) -> Result<FirstRow, String> {
    let server_bin = binary(args.server_bin.as_deref(), "ringpost")?;
    let loadgen_bin = binary(args.loadgen_bin.as_deref(), "ringpost-loadgen")?;
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
    let server = Server::start(&server_bin, dir.path())?;
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
        ratio: cpu.us_per_message / two_echoes_us,
        storage_us: storage.map(|thread| thread.us_per_message).sum(),
        messages_per_core_s: 1e6 / cpu.us_per_message,
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

fn binary(named: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => {
            let own = std::env::current_exe();
            own.map_err(|error| format!("cannot find this binary: {error}"))?.with_file_name(name)
        }
    };
    if path.is_file() {
        return std::path::absolute(&path)
            .map_err(|error| format!("cannot find {}: {error}", path.display()));
    }
    Err(format!("{} is not there: build it (cargo build --release), or name it", path.display()))
}

fn load(
    binary: &Path,
    server: &Server,
    warmup: Duration,
    duration: Duration,
    rate: Option<u32>,
) -> Result<Load, String> {
    let mut command = Command::new(binary);
    command
        .args(["private", "--json", "--server", &server.listen.to_string()])
        .args(["--server-pid", &server.pid().to_string()])
        .args(["--warmup", &warmup.as_secs_f64().to_string()])
        .args(["--duration", &duration.as_secs_f64().to_string()])
        .arg("--secret-file")
        .arg(&server.secret)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    if let Some(rate) = rate {
        command.args(["--rate", &rate.to_string()]);
    }
    let output = command.output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("the load generator ended with {}: {text}", output.status));
    }
    serde_json::from_str(&text)
        .map_err(|error| format!("cannot understand the load generator: {error}: {text}"))
}

impl Measured for FirstRow {
    fn text(&self) -> String {
        let mut text = String::from(
            "durable private message, both acknowledgements, 256 B, one shard, fsync\n\n",
        );
        let mut row = |what: &str, measured: String, ceiling: String, target: String| {
            writeln!(text, "{what:<40} {measured:>10}   {ceiling:<52} {target}")
                .expect("a string takes everything");
        };
        row("what", "measured".into(), "beside".into(), "target".into());
        self.write_cpu(&mut row);
        self.write_latency(&mut row);
        self.write_store(&mut row);
        self.write_threads(&mut text);
        self.write_doubts(&mut text);
        text
    }
}

impl FirstRow {
    fn write_cpu(&self, row: &mut impl FnMut(&str, String, String, String)) {
        let Echo { shape, .. } = self.echo_before;
        row(
            "server CPU per message",
            format!("{:.2} µs", self.saturated.server_cpu.us_per_message),
            format!(
                "two bare echoes {:.2} µs ({} B; {:.2}, then {:.2})",
                self.two_echoes_us, shape.bytes, self.echo_before.cpu_us, self.echo_after.cpu_us
            ),
            String::new(),
        );
        row(
            "  ÷ two bare echoes",
            format!("{:.2}", self.ratio),
            String::new(),
            format!("≤ {RATIO_MAX}"),
        );
        row(
            "  ÷ two echoes that coalesce",
            format!(
                "{:.2}",
                self.saturated.server_cpu.us_per_message / (2.0 * self.echo_coalesced.cpu_us)
            ),
            format!(
                "two of {:.2} µs ({} connections, {} in flight)",
                self.echo_coalesced.cpu_us,
                self.echo_coalesced.shape.connections,
                self.echo_coalesced.shape.in_flight
            ),
            String::new(),
        );
        row(
            "messages/s",
            format!("{:.0}", self.saturated.messages_per_s),
            format!("store alone {:.0}", self.puts.store.per_s),
            String::new(),
        );
        row(
            "messages/s per core used",
            format!("{:.0}", self.messages_per_core_s),
            format!("bottleneck: {}", self.saturated.bottleneck.replace('_', " ")),
            format!("≥ {MESSAGES_PER_S_MIN:.0}"),
        );
    }

    fn write_latency(&self, row: &mut impl FnMut(&str, String, String, String)) {
        let commit = &self.puts.commit;
        let at = format!("at {:.0}/s", self.half.messages_per_s);
        for (quantile, measured, limit) in [
            ("p50", self.half.receipt.p50_us, P50_COMMITS_MAX),
            ("p99", self.half.receipt.p99_us, P99_COMMITS_MAX),
        ] {
            row(
                &format!("receipt {quantile} {at}"),
                format!("{measured:.0} µs"),
                format!(
                    "{:.1} × one synced commit ({:.0} µs)",
                    measured / commit.p50_us,
                    commit.p50_us
                ),
                format!("≤ {limit} ×"),
            );
        }
    }

    fn write_store(&self, row: &mut impl FnMut(&str, String, String, String)) {
        row(
            "storage CPU per message, in the server",
            format!("{:.2} µs", self.storage_us),
            format!("RocksDB log + ids {:.2} µs", self.puts.log_ids.cpu_us),
            format!("≤ {STORE_ALL_US_MAX} µs with marks and cursors"),
        );
        row(
            "storage CPU per message, alone",
            format!("{:.2} µs", self.puts.store.cpu_us),
            format!("RocksDB log {:.2} µs", self.puts.log.cpu_us),
            format!("≤ {STORE_US_MAX} µs"),
        );
    }

    fn write_threads(&self, text: &mut String) {
        for (what, load) in [("saturated", &self.saturated), ("half the rate", &self.half)] {
            write!(text, "\n{what}, server CPU µs per message by thread:")
                .expect("a string takes everything");
            for thread in &load.server_cpu.threads {
                if thread.us_per_message >= 0.005 {
                    let Thread { name, us_per_message, busiest } = thread;
                    write!(text, "  {name} {us_per_message:.2} ({:.0} %)", busiest * 100.0)
                        .expect("a string takes everything");
                }
            }
        }
        text.push('\n');
    }

    fn write_doubts(&self, text: &mut String) {
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
