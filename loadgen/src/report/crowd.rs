//! The results of `idle`, `connect` and `catch-up`.

use serde::Serialize;

use super::{Checks, Cost, Report, line, write_latencies};
use crate::args::{CatchUpArgs, CommonArgs, ConnectArgs, IdleArgs};
use crate::crowd::{catch_up as caught, connecting, idle as idling};
use crate::latency::Summary;
use crate::memory::{Memory, Slope};

/// What all of them say about themselves.
#[derive(Debug, Serialize)]
struct Head {
    scenario: &'static str,
    dialect: &'static str,
    server: String,
    client_threads: u16,
}

impl Head {
    fn new(scenario: &'static str, common: &CommonArgs) -> Head {
        Head {
            scenario,
            dialect: common.dialect.as_str(),
            server: common.server.to_string(),
            client_threads: common.threads,
        }
    }

    /// `load` in words, between the scenario and its server.
    fn write(&self, load: &str, text: &mut String) {
        line(text, format_args!("{}, {}: {load}", self.scenario, self.dialect));
        line(
            text,
            format_args!("server {}, {} client thread(s)\n", self.server, self.client_threads),
        );
    }
}

#[derive(Debug, Serialize)]
struct Idle {
    #[serde(flatten)]
    head: Head,
    connections: u32,
    /// Addresses that they came from; 0: the system's choice.
    source_addresses: usize,
    /// Before the first connection, and at each count; empty without the server's process.
    memory: Vec<Memory>,
    /// From each count to the next.
    slopes: Vec<Slope>,
    /// From the first count to the last.
    slope: Option<Slope>,
    duration_s: f64,
    heartbeat_s: f64,
    heartbeats: u64,
    heartbeat: Summary,
    /// The server's CPU in the idle time, as a share of one core.
    server_core_share: Option<f64>,
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten)]
    checks: Checks,
}

/// The result of `idle`.
pub fn idle(args: &IdleArgs, found: &idling::Found) -> impl Report {
    // Before the first connection the server had none of what it keeps for any number of them.
    let counted = found.memory.get(1..).unwrap_or_default();
    let slopes = counted.windows(2).map(|pair| Slope::new(&pair[0], &pair[1])).collect();
    let slope = counted.first().zip(counted.last()).map(|(from, to)| Slope::new(from, to));
    Idle {
        head: Head::new("idle", &args.common),
        connections: args.connections(),
        source_addresses: found.sources,
        memory: found.memory.clone(),
        slopes,
        slope,
        duration_s: args.duration.as_secs_f64(),
        heartbeat_s: args.heartbeat.as_secs_f64(),
        heartbeats: found.heartbeats,
        heartbeat: found.latency.summary(),
        server_core_share: found.measured.server.as_ref().map(|used| used.cpu_s / used.wall_s),
        cost: Cost::new(&found.measured, found.heartbeats, "heartbeat", None),
        checks: Checks::new(&found.faults, found.foreign, true),
    }
}

impl Report for Idle {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let load = format!(
            "{} connections, each heard of every {} s, {} s idle",
            self.connections, self.heartbeat_s, self.duration_s
        );
        self.head.write(&load, &mut text);
        match &self.slope {
            Some(slope) => {
                line(&mut text, format_args!("memory per connection, {}", slope.text()));
                for slope in self.slopes.iter().filter(|_| self.slopes.len() > 1) {
                    line(&mut text, format_args!("                       {}", slope.text()));
                }
            }
            None => line(&mut text, format_args!("memory was not measured: --server-pid")),
        }
        if let Some(share) = self.server_core_share {
            let percent = share * 100.0;
            line(&mut text, format_args!("server CPU while idle: {percent:.2} % of a core"));
        }
        if self.heartbeats > 0 {
            write_latencies([("heartbeat", &self.heartbeat)], &mut text);
        }
        self.cost.write(&mut text);
        let what = format!("{} connections", self.connections);
        self.checks.write(&what, "all there to the end, all answered", &mut text);
        text
    }
}

#[derive(Debug, Serialize)]
struct Connect {
    #[serde(flatten)]
    head: Head,
    users: u32,
    conversations: u32,
    groups: u32,
    at_once: u32,
    storm: bool,
    /// Measured, s.
    duration_s: f64,
    connections: u64,
    connections_per_s: f64,
    /// For each core that the server used; absent without its process.
    connections_per_core_s: Option<f64>,
    tcp: Summary,
    upgraded: Summary,
    usable: Summary,
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten)]
    checks: Checks,
}

/// The result of `connect`.
pub fn connect(args: &ConnectArgs, found: &connecting::Found) -> impl Report {
    let count = found.connections;
    let per_core = found.measured.server.as_ref().map(|used| count as f64 / used.cpu_s);
    Connect {
        head: Head::new("connect", &args.common),
        users: args.users,
        conversations: args.conversations,
        groups: args.groups,
        at_once: args.at_once,
        storm: args.storm,
        duration_s: found.wall_s,
        connections: count,
        connections_per_s: count as f64 / found.wall_s,
        connections_per_core_s: per_core.filter(|rate| rate.is_finite()),
        tcp: found.tcp.summary(),
        upgraded: found.upgraded.summary(),
        usable: found.usable.summary(),
        cost: Cost::new(&found.measured, count, "connection", None),
        checks: Checks::new(&found.faults, 0, count > 0),
    }
}

impl Report for Connect {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let how = if self.storm { "once, and stay" } else { "in turn, and go again" };
        let load = format!(
            "{} users with {} conversations and {} groups each connect {how}, {} at once",
            self.users, self.conversations, self.groups, self.at_once
        );
        self.head.write(&load, &mut text);
        line(
            &mut text,
            format_args!(
                "connections {:.0}/s ({} in {:.1} s)",
                self.connections_per_s, self.connections, self.duration_s
            ),
        );
        if let Some(rate) = self.connections_per_core_s {
            line(
                &mut text,
                format_args!("            {rate:.0}/s for each core that the server used"),
            );
        }
        let rows = [("tcp", &self.tcp), ("upgraded", &self.upgraded), ("usable", &self.usable)];
        write_latencies(rows, &mut text);
        self.cost.write(&mut text);
        let what = format!("{} connections", self.connections);
        self.checks.write(&what, "all usable, nothing delivered again", &mut text);
        text
    }
}

#[derive(Debug, Serialize)]
struct CatchUp {
    #[serde(flatten)]
    head: Head,
    users: u32,
    messages_per_user: u32,
    payload_bytes: u32,
    sending_s: f64,
    receipts: u64,
    catching_up_s: f64,
    deliveries: u64,
    messages_per_s: f64,
    first: Summary,
    caught_up: Summary,
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten)]
    checks: Checks,
}

/// The result of `catch-up`.
pub fn catch_up(args: &CatchUpArgs, found: &caught::Found) -> impl Report {
    CatchUp {
        head: Head::new("catch-up", &args.common),
        users: args.users,
        messages_per_user: args.messages,
        payload_bytes: args.payload,
        sending_s: found.sending_s,
        receipts: found.receipts,
        catching_up_s: found.catching_up_s,
        deliveries: found.deliveries,
        messages_per_s: found.deliveries as f64 / found.catching_up_s,
        first: found.first.summary(),
        caught_up: found.caught_up.summary(),
        cost: Cost::new(&found.measured, found.deliveries, "message", None),
        checks: Checks::new(&found.faults, found.foreign, found.deliveries > 0),
    }
}

impl Report for CatchUp {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let load = format!(
            "{} users with {} messages of {} B each waiting",
            self.users, self.messages_per_user, self.payload_bytes
        );
        self.head.write(&load, &mut text);
        line(
            &mut text,
            format_args!(
                "catching up {:.0} messages/s ({} in {:.2} s; sending them took {:.2} s)",
                self.messages_per_s, self.deliveries, self.catching_up_s, self.sending_s
            ),
        );
        write_latencies([("first", &self.first), ("caught up", &self.caught_up)], &mut text);
        self.cost.write(&mut text);
        let what = format!("{} acknowledged, {} delivered", self.receipts, self.deliveries);
        self.checks.write(&what, "all in order, intact, exactly once", &mut text);
        text
    }
}
