//! The result of a run, for people and for programs, and the verdict on what limited it.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

use crate::args::PrivateArgs;
use crate::check::FaultKind;
use crate::cpu::Used;
use crate::latency::Summary;
use crate::scenario::Outcome;

/// Everything that is known after a run.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    dialect: &'static str,
    server: String,
    users: u32,
    pairs: u32,
    in_flight_per_pair: u32,
    payload_bytes: u32,
    client_threads: u16,
    /// Messages per second that were asked for; absent in a closed loop.
    rate: Option<u32>,
    warmup_s: f64,
    duration_s: f64,
    /// In the measured time: acknowledged to their sender and delivered to their receiver.
    messages: u64,
    messages_per_s: f64,
    receipt: Summary,
    delivery: Summary,
    /// Open loop: how late the client itself was.
    send_lag: Option<Summary>,
    /// Open loop: due in the measured time, and not sent before its end.
    unsent: u64,
    server_cpu: Option<Cpu>,
    client_cpu: Cpu,
    bottleneck: Bottleneck,
    /// Something else took the processors: latencies and throughput say little.
    disturbed: bool,
    /// In the whole run.
    sent: u64,
    receipts: u64,
    deliveries: u64,
    foreign: u64,
    /// Every check that failed, with its count.
    faults: BTreeMap<&'static str, u64>,
    fault_examples: Vec<String>,
    ok: bool,
}

/// CPU time per message.
#[derive(Debug, Serialize)]
pub struct Cpu {
    us_per_message: f64,
    user_us_per_message: f64,
    system_us_per_message: f64,
    threads: Vec<CpuThread>,
}

/// The share of threads of one name.
#[derive(Debug, Serialize)]
pub struct CpuThread {
    name: String,
    count: u32,
    us_per_message: f64,
    /// The busiest one's CPU time as a share of the measured time, 0 to 1.
    busiest: f64,
    /// That share, and its time spent ready to run without a CPU.
    busiest_or_waiting: f64,
}

/// What limited the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
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

/// A thread that ran, or waited to run, for so much of the time had none left.
const SATURATED: f64 = 0.9;
/// A client that sends its 99th percentile later than this distorts latencies.
const LAG_US_MAX: f64 = 1_000.0;

/// Decides what limited a run. `lag` is the open loop's.
pub fn bottleneck(client: &Used, server: Option<&Used>, lag: Option<&Summary>) -> Bottleneck {
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
pub fn disturbed(client: &Used, server: Option<&Used>, cores: usize) -> bool {
    let Some(server) = server else { return false };
    let own = (client.cpu_s + server.cpu_s) / client.wall_s;
    let waited = client.threads.iter().chain(&server.threads).any(|thread| {
        thread.busiest > 0.05 && thread.busiest_or_waiting - thread.busiest > WAITED_MIN
    });
    waited && own < OWN_SHARE_MAX * cores as f64
}

impl Cpu {
    fn new(used: &Used, messages: u64) -> Cpu {
        let us = |seconds: f64| seconds * 1e6 / messages.max(1) as f64;
        let total = us(used.cpu_s);
        let threads = used.threads.iter().map(|thread| CpuThread {
            name: thread.name.clone(),
            count: thread.count,
            us_per_message: us(thread.cpu_s),
            busiest: thread.busiest,
            busiest_or_waiting: thread.busiest_or_waiting,
        });
        Cpu {
            us_per_message: total,
            user_us_per_message: total * used.user_share,
            system_us_per_message: total * (1.0 - used.user_share),
            threads: threads.collect(),
        }
    }

    fn write(&self, whose: &str, text: &mut String) {
        line(
            text,
            format_args!(
                "{whose} CPU  {:.2} µs per message (user {:.2}, system {:.2})",
                self.us_per_message, self.user_us_per_message, self.system_us_per_message
            ),
        );
        for thread in self.threads.iter().filter(|thread| thread.us_per_message >= 0.005) {
            let name = match thread.count {
                1 => thread.name.clone(),
                count => format!("{} ({count} threads)", thread.name),
            };
            line(
                text,
                format_args!(
                    "  {name:<24} {:>6.2} µs   {:>3.0} % of a core, {:.0} % waiting for one",
                    thread.us_per_message,
                    thread.busiest * 100.0,
                    (thread.busiest_or_waiting - thread.busiest) * 100.0
                ),
            );
        }
    }
}

/// What the CPU samples said.
pub struct Measured {
    /// Seconds between the first and the last sample.
    pub client: Used,
    /// The same of the server, where its process is known.
    pub server: Option<Used>,
}

impl Report {
    /// Puts it together.
    pub fn private(args: &PrivateArgs, outcome: Outcome, measured: &Measured) -> Report {
        let duration_s = args.duration.as_secs_f64();
        let lag = args.rate.map(|_| outcome.lag.summary());
        let messages = outcome.completed;
        let faults = FaultKind::ALL.into_iter().map(|kind| (kind, outcome.faults.count(kind)));
        let faults: Vec<_> = faults.filter(|(_, count)| *count > 0).collect();
        let examples = outcome.faults.examples().iter();
        Report {
            scenario: "private",
            dialect: args.common.dialect.as_str(),
            server: args.common.server.to_string(),
            users: args.user_count(),
            pairs: args.user_count() / 2,
            in_flight_per_pair: args.in_flight,
            payload_bytes: args.payload,
            client_threads: args.common.threads,
            rate: args.rate,
            warmup_s: args.warmup.as_secs_f64(),
            duration_s,
            messages,
            messages_per_s: messages as f64 / duration_s,
            receipt: outcome.receipt.summary(),
            delivery: outcome.delivery.summary(),
            bottleneck: bottleneck(&measured.client, measured.server.as_ref(), lag.as_ref()),
            disturbed: disturbed(
                &measured.client,
                measured.server.as_ref(),
                std::thread::available_parallelism().map_or(1, usize::from),
            ),
            send_lag: lag,
            unsent: outcome.unsent,
            server_cpu: measured.server.as_ref().map(|used| Cpu::new(used, messages)),
            client_cpu: Cpu::new(&measured.client, messages),
            sent: outcome.sent,
            receipts: outcome.receipts,
            deliveries: outcome.deliveries,
            foreign: outcome.foreign,
            ok: faults.is_empty() && messages > 0,
            faults: faults.iter().map(|(kind, count)| (kind.name(), *count)).collect(),
            fault_examples: examples
                .map(|(kind, example)| format!("{}: {example}", kind.describe()))
                .collect(),
        }
    }

    /// Whether all checks passed.
    pub fn ok(&self) -> bool {
        self.ok
    }

    /// For programs.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a report has string keys and finite numbers")
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write_load(&mut text);
        self.write_latencies(&mut text);
        if let Some(cpu) = &self.server_cpu {
            cpu.write("server", &mut text);
        }
        self.client_cpu.write("client", &mut text);
        self.write_bottleneck(&mut text);
        self.write_checks(&mut text);
        text
    }

    fn write_load(&self, text: &mut String) {
        let each_way = self.in_flight_per_pair.div_ceil(2);
        let other_way = self.in_flight_per_pair / 2;
        line(
            text,
            format_args!(
                "private, {}: {} users in {} pairs, {} B payload, {} in flight per pair ({each_way} and {other_way})",
                self.dialect, self.users, self.pairs, self.payload_bytes, self.in_flight_per_pair,
            ),
        );
        let load = match self.rate {
            Some(rate) => format!("open loop at {rate} messages/s"),
            None => "closed loop".to_owned(),
        };
        line(
            text,
            format_args!(
                "{load}, {} s warm-up, {} s measured, server {}, {} client thread(s)\n",
                self.warmup_s, self.duration_s, self.server, self.client_threads
            ),
        );
        line(
            text,
            format_args!(
                "throughput  {:.0} messages/s ({} in {} s, each acknowledged to its sender and delivered)",
                self.messages_per_s, self.messages, self.duration_s
            ),
        );
        if self.unsent > 0 {
            line(
                text,
                format_args!(
                    "            {} messages that were due could not be sent: the server did not keep up",
                    self.unsent
                ),
            );
        }
    }

    fn write_latencies(&self, text: &mut String) {
        line(text, format_args!("latency, ms       p50       p90       p99     p99.9       max"));
        let mut row = |name: &str, summary: &Summary| {
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
        };
        row("receipt", &self.receipt);
        row("delivery", &self.delivery);
        if let Some(lag) = &self.send_lag {
            row("send lag", lag);
        }
    }

    fn write_bottleneck(&self, text: &mut String) {
        let verdict = match self.bottleneck {
            Bottleneck::Client => {
                "THE CLIENT WAS THE BOTTLENECK: these numbers say little about the server"
            }
            Bottleneck::Both => "client and server had both no CPU time left",
            Bottleneck::Server => "the server's busiest thread had no CPU time left",
            Bottleneck::Neither => {
                "client and server had CPU time left: the messages in flight, the rate or the disk set the pace"
            }
            Bottleneck::NotClient => {
                "the client had CPU time left (the server's was not measured: --server-pid)"
            }
        };
        line(text, format_args!("bottleneck  {verdict}"));
        if self.disturbed {
            let note =
                "something else kept the processors busy: throughput and latencies say little";
            line(text, format_args!("            {note}"));
        }
    }

    fn write_checks(&self, text: &mut String) {
        line(
            text,
            format_args!(
                "checks      {} sent, {} acknowledged, {} delivered: {}",
                self.sent,
                self.receipts,
                self.deliveries,
                match (self.ok, self.messages) {
                    (true, _) => "all in order, intact, exactly once",
                    (false, 0) => "FAILED, no message came through",
                    (false, _) => "FAILED",
                }
            ),
        );
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
