//! The result of the `echo` scenario.

use serde::Serialize;

use super::{Checks, Cost, Measured, Report, line, write_latencies};
use crate::args::EchoArgs;
use crate::latency::Summary;
use crate::scenario::Outcome;

#[derive(Debug, Serialize)]
struct Echo {
    scenario: &'static str,
    dialect: &'static str,
    server: String,
    users: u32,
    in_flight: u32,
    client_threads: u16,
    duration_s: f64,
    /// Pings that were answered in the measured time.
    echoes: u64,
    echoes_per_s: f64,
    answer: Summary,
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten)]
    checks: Checks,
}

/// The result of `echo`.
pub fn echo(args: &EchoArgs, outcome: &Outcome, measured: &Measured) -> impl Report {
    let duration_s = args.duration.as_secs_f64();
    let echoes = outcome.completed;
    Echo {
        scenario: "echo",
        dialect: args.common.dialect.as_str(),
        server: args.common.server.to_string(),
        users: args.users,
        in_flight: args.in_flight,
        client_threads: args.common.threads,
        duration_s,
        echoes,
        echoes_per_s: echoes as f64 / duration_s,
        answer: outcome.receipt.summary(),
        cost: Cost::new(measured, echoes, "echo", None),
        checks: Checks::new(&outcome.faults, outcome.foreign, echoes > 0),
    }
}

impl Report for Echo {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let Echo { dialect, users, in_flight, server, client_threads, .. } = self;
        line(
            &mut text,
            format_args!("echo, {dialect}: {users} users, {in_flight} pings in flight each"),
        );
        line(&mut text, format_args!("server {server}, {client_threads} client thread(s)\n"));
        line(
            &mut text,
            format_args!(
                "throughput  {:.0} echoes/s ({} in {} s)",
                self.echoes_per_s, self.echoes, self.duration_s
            ),
        );
        write_latencies([("answer", &self.answer)], &mut text);
        self.cost.write(&mut text);
        self.checks.write(
            &format!("{} echoes", self.echoes),
            "every ping answered once",
            &mut text,
        );
        text
    }
}
