//! The result of the `private` scenario.

use serde::Serialize;

use super::{Checks, Cost, Measured, Report, line, write_latencies};
use crate::args::PrivateArgs;
use crate::latency::Summary;
use crate::scenario::Outcome;

/// Everything that is known after a run.
#[derive(Debug, Serialize)]
struct Private {
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
    #[serde(flatten)]
    cost: Cost,
    /// In the whole run.
    sent: u64,
    receipts: u64,
    deliveries: u64,
    #[serde(flatten)]
    checks: Checks,
}

/// Puts it together.
pub fn private(args: &PrivateArgs, outcome: &Outcome, measured: &Measured) -> impl Report {
    let duration_s = args.duration.as_secs_f64();
    let lag = args.rate.map(|_| outcome.lag.summary());
    let messages = outcome.completed;
    Private {
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
        cost: Cost::new(measured, messages, "message", lag.as_ref()),
        send_lag: lag,
        unsent: outcome.unsent,
        sent: outcome.sent,
        receipts: outcome.receipts,
        deliveries: outcome.deliveries,
        checks: Checks::new(&outcome.faults, outcome.foreign, messages > 0),
    }
}

impl Report for Private {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.write_load(&mut text);
        let rows = [("receipt", &self.receipt), ("delivery", &self.delivery)];
        let lag = self.send_lag.as_ref().map(|lag| ("send lag", lag));
        write_latencies(rows.into_iter().chain(lag), &mut text);
        self.cost.write(&mut text);
        let Private { sent, receipts, deliveries, .. } = self;
        let what = format!("{sent} sent, {receipts} acknowledged, {deliveries} delivered");
        self.checks.write(&what, "all in order, intact, exactly once", &mut text);
        text
    }
}

impl Private {
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
}
