//! The result of the `group` scenario.

use serde::Serialize;

use super::{Checks, Cost, Measured, Report, line, write_latencies};
use crate::args::GroupArgs;
use crate::latency::Summary;
use crate::scenario::{Outcome, Stalled};

#[derive(Debug, Serialize)]
struct Group {
    scenario: &'static str,
    dialect: &'static str,
    server: String,
    groups: u32,
    members: u32,
    senders_per_group: u32,
    stalled_per_group: u32,
    in_flight_per_sender: u32,
    payload_bytes: u32,
    client_threads: u16,
    /// Messages per second that were asked for; absent in a closed loop.
    rate: Option<u32>,
    warmup_s: f64,
    duration_s: f64,
    /// In the measured time: acknowledged to their sender and delivered to all others.
    messages: u64,
    messages_per_s: f64,
    /// In the measured time, to one receiver each.
    deliveries_measured: u64,
    deliveries_per_s: f64,
    receipt: Summary,
    /// To each receiver.
    delivery: Summary,
    first: Summary,
    last: Summary,
    /// Open loop: how late the client itself was.
    send_lag: Option<Summary>,
    /// Open loop: due in the measured time, and not sent before its end.
    unsent: u64,
    /// Per delivery.
    #[serde(flatten)]
    cost: Cost,
    /// In the whole run.
    sent: u64,
    receipts: u64,
    deliveries: u64,
    /// Of the members who did not read before the load was over.
    stalled: Option<Late>,
    #[serde(flatten)]
    checks: Checks,
}

/// What members got who did not read before the load was over.
#[derive(Debug, Serialize)]
struct Late {
    pending: u64,
    deliveries: u64,
    repeats: u64,
    catch_up: Summary,
}

impl Late {
    fn new(stalled: &Stalled) -> Late {
        let Stalled { pending, deliveries, repeats, catch_up } = stalled;
        let catch_up = catch_up.summary();
        Late { pending: *pending, deliveries: *deliveries, repeats: *repeats, catch_up }
    }
}

/// The result of `group`.
pub fn group(args: &GroupArgs, outcome: &Outcome, measured: &Measured) -> impl Report {
    let duration_s = args.duration.as_secs_f64();
    let lag = args.rate.map(|_| outcome.lag.summary());
    let deliveries = outcome.measured_deliveries;
    Group {
        scenario: "group",
        dialect: args.common.dialect.as_str(),
        server: args.common.server.to_string(),
        groups: args.groups,
        members: args.members,
        senders_per_group: args.senders,
        stalled_per_group: args.stalled,
        in_flight_per_sender: args.in_flight,
        payload_bytes: args.payload,
        client_threads: args.common.threads,
        rate: args.rate,
        warmup_s: args.warmup.as_secs_f64(),
        duration_s,
        messages: outcome.completed,
        messages_per_s: outcome.completed as f64 / duration_s,
        deliveries_measured: deliveries,
        deliveries_per_s: deliveries as f64 / duration_s,
        receipt: outcome.receipt.summary(),
        delivery: outcome.delivery.summary(),
        first: outcome.first.summary(),
        last: outcome.last.summary(),
        cost: Cost::new(measured, deliveries, "delivery", lag.as_ref()),
        send_lag: lag,
        unsent: outcome.unsent,
        sent: outcome.sent,
        receipts: outcome.receipts,
        deliveries: outcome.deliveries,
        stalled: (args.stalled > 0).then(|| Late::new(&outcome.stalled)),
        checks: Checks::new(&outcome.faults, outcome.foreign, deliveries > 0),
    }
}

impl Report for Group {
    fn checks(&self) -> &Checks {
        &self.checks
    }

    fn text(&self) -> String {
        let mut text = String::new();
        self.write_load(&mut text);
        let rows = [
            ("receipt", &self.receipt),
            ("first", &self.first),
            ("each", &self.delivery),
            ("last", &self.last),
        ];
        let lag = self.send_lag.as_ref().map(|lag| ("send lag", lag));
        let late = self.stalled.as_ref().map(|late| ("catch up", &late.catch_up));
        write_latencies(rows.into_iter().chain(late).chain(lag), &mut text);
        if let Some(Late { pending, deliveries, repeats, .. }) = &self.stalled {
            line(
                &mut text,
                format_args!(
                    "stalled     {} of each group read nothing until then: {pending} messages waited \
                     for them, {deliveries} came, {repeats} more than once",
                    self.stalled_per_group
                ),
            );
        }
        self.cost.write(&mut text);
        let Group { sent, receipts, deliveries, .. } = self;
        let what = format!("{sent} sent, {receipts} acknowledged, {deliveries} deliveries");
        self.checks.write(&what, "each member got all, in order, intact, exactly once", &mut text);
        text
    }
}

impl Group {
    fn write_load(&self, text: &mut String) {
        line(
            text,
            format_args!(
                "group, {}: {} groups of {} members, {} of each send, {} in flight per sender, {} B payload",
                self.dialect,
                self.groups,
                self.members,
                self.senders_per_group,
                self.in_flight_per_sender,
                self.payload_bytes
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
                "throughput  {:.0} messages/s, {:.0} deliveries/s ({} in {} s)",
                self.messages_per_s,
                self.deliveries_per_s,
                self.deliveries_measured,
                self.duration_s
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
