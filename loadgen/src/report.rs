//! The results of runs, for people and for programs, and the verdict on what limited them. What all
//! scenarios report is here, the rest in one file for each kind.

mod crowd;
mod echo;
mod group;
mod private;

pub use echo::echo;
pub use group::group;
pub use private::private;

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

pub use crowd::{catch_up, connect, idle};

use crate::check::{FaultKind, Faults};
use crate::cpu::Used;
use crate::latency::Summary;

/// A result: as JSON for programs.
pub trait Report: Serialize {
    /// What was looked for in what came back.
    fn checks(&self) -> &Checks;
    /// For people.
    fn text(&self) -> String;
}

/// What the CPU samples said.
pub struct Measured {
    /// Of this process.
    pub client: Used,
    /// The same of the server, where its process is known.
    pub server: Option<Used>,
}

/// What a run cost, and what limited it.
#[derive(Debug, Serialize)]
struct Cost {
    server_cpu: Option<Cpu>,
    client_cpu: Cpu,
    bottleneck: Bottleneck,
    /// Something else took the processors: latencies and throughput say little.
    disturbed: bool,
}

impl Cost {
    /// For so many `unit`s; `lag` is an open loop's.
    fn new(measured: &Measured, count: u64, unit: &'static str, lag: Option<&Summary>) -> Cost {
        let Measured { client, server } = measured;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Cost {
            server_cpu: server.as_ref().map(|used| Cpu::new(used, count, unit)),
            client_cpu: Cpu::new(client, count, unit),
            bottleneck: bottleneck(client, server.as_ref(), lag),
            disturbed: disturbed(client, server.as_ref(), cores),
        }
    }

    fn write(&self, text: &mut String) {
        if let Some(cpu) = &self.server_cpu {
            cpu.write("server", text);
        }
        self.client_cpu.write("client", text);
        line(text, format_args!("bottleneck  {}", self.bottleneck.words()));
        if self.disturbed {
            let note =
                "something else kept the processors busy: throughput and latencies say little";
            line(text, format_args!("            {note}"));
        }
    }
}

/// CPU time per message, or what else the scenario counts.
#[derive(Debug, Serialize)]
struct Cpu {
    per: &'static str,
    us: f64,
    user_us: f64,
    system_us: f64,
    threads: Vec<CpuThread>,
}

/// The share of threads of one name.
#[derive(Debug, Serialize)]
struct CpuThread {
    name: String,
    count: u32,
    us: f64,
    /// The busiest one's CPU time as a share of the measured time, 0 to 1.
    busiest: f64,
    /// That share, and its time spent ready to run without a CPU.
    busiest_or_waiting: f64,
}

impl Cpu {
    fn new(used: &Used, count: u64, per: &'static str) -> Cpu {
        let us = |seconds: f64| seconds * 1e6 / count.max(1) as f64;
        let total = us(used.cpu_s);
        let threads = used.threads.iter().map(|thread| CpuThread {
            name: thread.name.clone(),
            count: thread.count,
            us: us(thread.cpu_s),
            busiest: thread.busiest,
            busiest_or_waiting: thread.busiest_or_waiting,
        });
        Cpu {
            per,
            us: total,
            user_us: total * used.user_share,
            system_us: total * (1.0 - used.user_share),
            threads: threads.collect(),
        }
    }

    fn write(&self, whose: &str, text: &mut String) {
        line(
            text,
            format_args!(
                "{whose} CPU  {:.2} µs per {} (user {:.2}, system {:.2})",
                self.us, self.per, self.user_us, self.system_us
            ),
        );
        for thread in self.threads.iter().filter(|thread| thread.us >= 0.005) {
            let name = match thread.count {
                1 => thread.name.clone(),
                count => format!("{} ({count} threads)", thread.name),
            };
            line(
                text,
                format_args!(
                    "  {name:<24} {:>6.2} µs   {:>3.0} % of a core, {:.0} % waiting for one",
                    thread.us,
                    thread.busiest * 100.0,
                    (thread.busiest_or_waiting - thread.busiest) * 100.0
                ),
            );
        }
    }
}

/// What limited the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bottleneck {
    /// The client had no CPU time left while the server had, or sent late: the result says more
    /// about the client than about the server.
    Client,
    /// Neither had any left.
    Both,
    /// The server's busiest thread had none left.
    Server,
    /// Both had: messages in flight, the rate, or the disk set the pace.
    Neither,
    /// The client had time left; the server's CPU was not measured.
    NotClient,
}

impl Bottleneck {
    fn words(self) -> &'static str {
        match self {
            Bottleneck::Client => {
                "THE CLIENT WAS THE BOTTLENECK: these numbers say little about the server"
            }
            Bottleneck::Both => "client and server had both no CPU time left",
            Bottleneck::Server => "the server's busiest thread had no CPU time left",
            Bottleneck::Neither => {
                "client and server had CPU time left: what is in flight, the rate or the disk set the pace"
            }
            Bottleneck::NotClient => {
                "the client had CPU time left (the server's was not measured: --server-pid)"
            }
        }
    }
}

/// A thread that ran, or waited to run, for so much of the time had none left.
const SATURATED: f64 = 0.9;
/// A client that sends its 99th percentile later than this distorts latencies.
const LAG_US_MAX: f64 = 1_000.0;

/// Decides what limited a run. `lag` is the open loop's.
fn bottleneck(client: &Used, server: Option<&Used>, lag: Option<&Summary>) -> Bottleneck {
    let saturated =
        |used: &Used| used.threads.iter().any(|thread| thread.busiest_or_waiting >= SATURATED);
    let server = server.map(saturated);
    let late = lag.is_some_and(|lag| lag.p99_us > LAG_US_MAX);
    match (saturated(client) || late, server) {
        (true, Some(true)) => Bottleneck::Both,
        (true, _) => Bottleneck::Client,
        (false, Some(true)) => Bottleneck::Server,
        (false, Some(false)) => Bottleneck::Neither,
        (false, None) => Bottleneck::NotClient,
    }
}

/// Client and server waited for a core for more than this share of the time …
const WAITED_MIN: f64 = 0.2;
/// … and used less than this share of all cores: somebody else had them.
const OWN_SHARE_MAX: f64 = 0.75;

/// Whether something else than client and server kept the machine's `cores` busy. Without the
/// server's process it cannot be known.
fn disturbed(client: &Used, server: Option<&Used>, cores: usize) -> bool {
    let Some(server) = server else { return false };
    let own = (client.cpu_s + server.cpu_s) / client.wall_s;
    let waited = client.threads.iter().chain(&server.threads).any(|thread| {
        thread.busiest > 0.05 && thread.busiest_or_waiting - thread.busiest > WAITED_MIN
    });
    waited && own < OWN_SHARE_MAX * cores as f64
}

/// The outcome of the checks.
#[derive(Debug, Serialize)]
pub struct Checks {
    /// Messages of earlier runs that were delivered to these users.
    foreign: u64,
    /// Every check that failed, with its count.
    faults: BTreeMap<&'static str, u64>,
    fault_examples: Vec<String>,
    /// All of them passed.
    pub ok: bool,
}

impl Checks {
    /// `came_through`: something happened at all.
    fn new(faults: &Faults, foreign: u64, came_through: bool) -> Checks {
        let counts = FaultKind::ALL.into_iter().map(|kind| (kind.name(), faults.count(kind)));
        let counts: BTreeMap<_, _> = counts.filter(|(_, count)| *count > 0).collect();
        let examples = faults.examples().iter();
        Checks {
            foreign,
            ok: counts.is_empty() && came_through,
            faults: counts,
            fault_examples: examples
                .map(|(kind, example)| format!("{}: {example}", kind.describe()))
                .collect(),
        }
    }

    /// `what` was checked; `fine` is what it was when all is well.
    fn write(&self, what: &str, fine: &str, text: &mut String) {
        let verdict = match (self.ok, self.faults.is_empty()) {
            (true, _) => fine,
            (false, true) => "FAILED, nothing came through",
            (false, false) => "FAILED",
        };
        line(text, format_args!("checks      {what}: {verdict}"));
        if self.foreign > 0 {
            line(
                text,
                format_args!("            {} messages of earlier runs were waiting", self.foreign),
            );
        }
        for (kind, count) in &self.faults {
            line(text, format_args!("  {count:>8}  {}", kind.replace('_', " ")));
        }
        for example in &self.fault_examples {
            line(text, format_args!("            {example}"));
        }
    }
}

/// A table of latencies.
fn write_latencies<'a>(
    rows: impl IntoIterator<Item = (&'static str, &'a Summary)>,
    text: &mut String,
) {
    line(text, format_args!("latency, ms       p50       p90       p99     p99.9       max"));
    for (name, summary) in rows {
        let ms = |us: f64| us / 1e3;
        line(
            text,
            format_args!(
                "  {name:<9} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
                ms(summary.p50_us),
                ms(summary.p90_us),
                ms(summary.p99_us),
                ms(summary.p999_us),
                ms(summary.max_us)
            ),
        );
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::ThreadUsed;
    use crate::latency::Latencies;

    /// One thread that ran for half of this share of a second, and waited as long.
    fn busy(share: f64) -> Used {
        let thread = ThreadUsed {
            name: "t".to_owned(),
            count: 1,
            cpu_s: share / 2.0,
            busiest: share / 2.0,
            busiest_or_waiting: share,
        };
        Used { wall_s: 1.0, cpu_s: share / 2.0, user_share: 0.5, threads: vec![thread] }
    }

    #[test]
    fn the_client_is_blamed_when_it_has_no_time_left_and_the_server_has() {
        let mut lag = Latencies::new();
        lag.record(2_000_000);
        let late = lag.summary();
        for (client, server, lag, expected) in [
            (0.95, Some(0.5), None, Bottleneck::Client),
            (0.95, None, None, Bottleneck::Client),
            (0.95, Some(0.95), None, Bottleneck::Both),
            (0.5, Some(0.95), None, Bottleneck::Server),
            (0.5, Some(0.5), None, Bottleneck::Neither),
            (0.5, None, None, Bottleneck::NotClient),
            (0.5, Some(0.5), Some(&late), Bottleneck::Client),
        ] {
            let server = server.map(busy);
            assert_eq!(bottleneck(&busy(client), server.as_ref(), lag), expected);
        }
    }

    #[test]
    fn others_are_suspected_when_we_waited_for_cores_that_we_did_not_use() {
        let (calm, waiting) = (busy(0.2), busy(0.9));
        assert!(disturbed(&waiting, Some(&calm), 2));
        assert!(disturbed(&calm, Some(&waiting), 2));
        assert!(!disturbed(&calm, Some(&calm), 2));
        assert!(!disturbed(&waiting, Some(&waiting), 1), "the two had the only core");
        assert!(!disturbed(&waiting, None, 2), "the server may have had them");
    }
}
