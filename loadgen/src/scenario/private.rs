//! Private messages between pairs of users. Each user sends to its partner and acknowledges what
//! the partner sent; both are on the same thread, so that a message's whole way is seen here.
//!
//! *In flight* per direction: a message is open from being sent until its sender has the server's
//! receipt and its receiver has the message (and has answered with its own acknowledgement, which
//! the server takes in silence).

use std::ops::Range;

use super::{Outcome, Scenario, Times};
use crate::check::{FaultKind, Flow, Progress};
use crate::dialect::{Dialect, Incoming, Kind};
use crate::outbox::Outbox;
use crate::pace::Schedule;
use crate::payload::Payloads;
use crate::run::Run;

/// What the pairs of one thread shall do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of this thread's first user in the run; even.
    pub first_user: u16,
    /// Users of this thread; even.
    pub users: u16,
    /// Messages in flight from a pair's first and from its second user.
    pub in_flight: [u32; 2],
    /// Bytes of a payload.
    pub payload: u32,
    /// Messages per second of all threads; `None`: closed loop.
    pub rate: Option<u32>,
    /// Users of all threads.
    pub all_users: u16,
}

/// The pairs of one thread.
pub struct Private {
    settings: Settings,
    run: Run,
    dialect: Box<dyn Dialect>,
    payloads: Payloads,
    users: Vec<User>,
    /// Load is being made.
    sending: bool,
    /// Open loop: when messages are due.
    schedule: Option<Schedule>,
    /// The measured time; empty before the start.
    measured_ns: Range<u64>,
    /// Open loop: the flow whose message is due next, and that message's number.
    next_due: (u16, u32),
    outcome: Outcome,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

/// A user, and the messages that it sends to its partner.
struct User {
    name: String,
    device: String,
    flow: Flow,
    /// In-flight limit of `flow`.
    limit: u32,
    /// Open loop: messages of `flow` that are due so far.
    due: u32,
    connected: bool,
    /// A message was refused: sending on would only repeat that at full speed.
    refused: bool,
}

impl Private {
    /// The users of one thread; nothing is sent before [`Scenario::start`].
    pub fn new(settings: Settings, run: Run, dialect: Box<dyn Dialect>) -> Private {
        assert!(settings.first_user.is_multiple_of(2) && settings.users.is_multiple_of(2));
        let user = |local: u16| User {
            name: run.user((settings.first_user + local).into()),
            device: run.device((settings.first_user + local).into()),
            flow: Flow::new(),
            limit: settings.in_flight[usize::from(local % 2)],
            due: 0,
            connected: true,
            refused: false,
        };
        Private {
            users: (0..settings.users).map(user).collect(),
            payloads: Payloads::new(run.seed, settings.payload),
            settings,
            run,
            dialect,
            sending: false,
            schedule: None,
            measured_ns: 0..0,
            next_due: (0, 1),
            outcome: Outcome::new(),
            payload: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Sends what the user's limit, and in an open loop the schedule, allow now. `prompt`: the
    /// messages have just become due, so what holds them up is this client.
    fn pump(&mut self, local: u16, now_ns: u64, prompt: bool, out: &mut Outbox) {
        loop {
            let user = &self.users[usize::from(local)];
            if user.refused || !user.connected || user.flow.open() >= user.limit {
                return;
            }
            let sent_ns = match &self.schedule {
                None if self.sending => now_ns,
                Some(schedule) if user.flow.count() < user.due => {
                    let flow = self.settings.first_user + local;
                    schedule.due_ns(flow.into(), user.flow.count() + 1)
                }
                _ => return,
            };
            if prompt && self.measured_ns.contains(&sent_ns) {
                self.outcome.lag.record(now_ns.saturating_sub(sent_ns));
            }
            self.send(local, sent_ns, out);
        }
    }

    fn send(&mut self, local: u16, sent_ns: u64, out: &mut Outbox) {
        let flow = self.settings.first_user + local;
        let number = self.users[usize::from(local)].flow.sent(sent_ns);
        self.outcome.sent += 1;
        let id = self.run.message_id(flow, number);
        self.payload.clear();
        self.payloads.append(flow, number, &mut self.payload);
        let partner = &self.users[usize::from(local ^ 1)].name;
        self.frame.clear();
        self.dialect.message(Kind::Private, &id, partner, &self.payload, &mut self.frame);
        out.text(local, &self.frame);
    }

    fn on_receipt(&mut self, local: u16, id: &[u8], now_ns: u64, out: &mut Outbox) {
        let Some(number) = self.own_number(local, id, "acknowledged") else { return };
        match self.users[usize::from(local)].flow.receipt(number) {
            Ok(progress) => {
                self.outcome.receipts += 1;
                if self.measured_ns.contains(&progress.sent_ns) {
                    self.outcome.receipt.record(now_ns.saturating_sub(progress.sent_ns));
                }
                self.after(local, progress, now_ns, out);
            }
            Err(kind) => self.fault(kind, local, number),
        }
    }

    fn on_message(&mut self, local: u16, message: Delivered<'_>, now_ns: u64, out: &mut Outbox) {
        // Like a real client, acknowledge whatever it is.
        let own = &self.users[usize::from(local)];
        self.frame.clear();
        self.dialect.acknowledge(Kind::Private, message.id, &own.device, &mut self.frame);
        out.text(local, &self.frame);

        let Some((flow, number)) = self.run.parse_id(message.id) else {
            self.outcome.foreign += 1;
            return;
        };
        let sender = local ^ 1;
        if flow != self.settings.first_user + sender {
            let to = &own.name;
            let from = self.run.user(flow.into());
            self.outcome
                .faults
                .add(FaultKind::Misrouted, || format!("{from}'s message #{number} came to {to}"));
            return;
        }
        let names_fit = message.from == self.users[usize::from(sender)].name.as_bytes()
            && message.to == own.name.as_bytes();
        if !names_fit || !self.payloads.matches(flow, number, message.payload) {
            self.fault(FaultKind::Damaged, sender, number);
        }
        match self.users[usize::from(sender)].flow.delivered(number) {
            Ok(progress) => {
                self.outcome.deliveries += 1;
                if self.measured_ns.contains(&progress.sent_ns) {
                    self.outcome.delivery.record(now_ns.saturating_sub(progress.sent_ns));
                }
                self.after(sender, progress, now_ns, out);
            }
            Err(kind) => {
                self.fault(kind, sender, number);
                self.pump(sender, now_ns, false, out);
            }
        }
    }

    /// A message got nearer to its end; when it is closed, there is room for another one.
    fn after(&mut self, sender: u16, progress: Progress, now_ns: u64, out: &mut Outbox) {
        if progress.closed {
            self.outcome.completed += u64::from(self.measured_ns.contains(&now_ns));
            self.pump(sender, now_ns, false, out);
        }
    }

    fn on_refused(&mut self, local: u16, id: Option<&[u8]>, text: &[u8]) {
        let Some(id) = id else {
            let name = self.users[usize::from(local)].name.clone();
            self.outcome
                .faults
                .add(FaultKind::Unexpected, || format!("{name} got {}", shown(text)));
            return;
        };
        let Some(number) = self.own_number(local, id, "refused") else { return };
        let user = &mut self.users[usize::from(local)];
        user.refused = true;
        match user.flow.refused(number) {
            Ok(_) => {
                let name = &user.name;
                let example = || format!("{name}'s message #{number}: {}", shown(text));
                self.outcome.faults.add(FaultKind::Refused, example);
            }
            Err(kind) => self.fault(kind, local, number),
        }
    }

    /// The number in an id that must be of a message of this user.
    fn own_number(&mut self, local: u16, id: &[u8], what: &str) -> Option<u32> {
        match self.run.parse_id(id) {
            Some((flow, number)) if flow == self.settings.first_user + local => Some(number),
            _ => {
                let name = self.users[usize::from(local)].name.clone();
                let example = || format!("{name} had {} {what}", shown(id));
                self.outcome.faults.add(FaultKind::NeverSent, example);
                None
            }
        }
    }

    fn unexpected(&mut self, conn: u16, text: &[u8], why: &str) {
        let name = &self.users[usize::from(conn)].name;
        let example = || format!("{name} got {}: {why}", shown(text));
        self.outcome.faults.add(FaultKind::Unexpected, example);
    }

    fn fault(&mut self, kind: FaultKind, sender: u16, number: u32) {
        let from = &self.users[usize::from(sender)].name;
        let to = &self.users[usize::from(sender ^ 1)].name;
        self.outcome.faults.add(kind, || format!("{from} -> {to} #{number}"));
    }
}

struct Delivered<'a> {
    id: &'a [u8],
    from: &'a [u8],
    to: &'a [u8],
    payload: &'a [u8],
}

/// What a server said, for a person to read.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(200).collect()
}

impl Scenario for Private {
    fn start(&mut self, times: &Times, out: &mut Outbox) {
        self.sending = true;
        self.measured_ns = times.measured_ns.clone();
        let flows = self.settings.all_users.into();
        self.schedule = self.settings.rate.map(|rate| Schedule::new(times.start_ns, rate, flows));
        if self.schedule.is_none() {
            for local in 0..self.settings.users {
                self.pump(local, times.start_ns, false, out);
            }
        }
    }

    fn on_text(&mut self, conn: u16, text: &[u8], now_ns: u64, out: &mut Outbox) {
        match self.dialect.decode(text) {
            Ok(Incoming::Receipt { id }) => self.on_receipt(conn, id, now_ns, out),
            Ok(Incoming::Message { kind: Kind::Private, id, from, to, payload }) => {
                self.on_message(conn, Delivered { id, from, to, payload }, now_ns, out);
            }
            Ok(Incoming::Refused { id }) => self.on_refused(conn, id, text),
            Ok(Incoming::Notice { id }) => {
                self.frame.clear();
                let device = &self.users[usize::from(conn)].device;
                self.dialect.acknowledge_notice(id, device, &mut self.frame);
                out.text(conn, &self.frame);
            }
            Ok(Incoming::Probe) => {}
            Ok(Incoming::Message { kind: Kind::Group, .. }) => {
                self.unexpected(conn, text, "a group's")
            }
            Err(why) => self.unexpected(conn, text, why),
        }
    }

    fn on_closed(&mut self, conn: u16, why: &str) {
        let user = &mut self.users[usize::from(conn)];
        if std::mem::replace(&mut user.connected, false) {
            let name = &user.name;
            self.outcome.faults.add(FaultKind::Disconnected, || format!("{name}: {why}"));
        }
    }

    fn on_time(&mut self, now_ns: u64, out: &mut Outbox) -> Option<u64> {
        let schedule = self.schedule.filter(|_| self.sending)?;
        loop {
            let (local, number) = self.next_due;
            let due_ns = schedule.due_ns((self.settings.first_user + local).into(), number);
            if due_ns >= self.measured_ns.end {
                return None;
            }
            if due_ns > now_ns {
                return Some(due_ns);
            }
            self.users[usize::from(local)].due = number;
            self.pump(local, now_ns, true, out);
            self.next_due = match local + 1 {
                next if next < self.settings.users => (next, number),
                _ => (0, number + 1),
            };
        }
    }

    fn stop(&mut self, now_ns: u64, out: &mut Outbox) {
        // What this client itself is late with is not what could not be sent.
        self.on_time(now_ns, out);
        self.sending = false;
        let Some(schedule) = self.schedule else { return };
        // What was due and never sent waited until now at least. Left out, it would make a server
        // that cannot keep up look fast.
        for (flow, user) in (self.settings.first_user..).zip(&mut self.users) {
            for number in user.flow.count() + 1..=user.due {
                let due_ns = schedule.due_ns(flow.into(), number);
                if self.measured_ns.contains(&due_ns) {
                    self.outcome.unsent += 1;
                    self.outcome.receipt.record(now_ns.saturating_sub(due_ns));
                    self.outcome.delivery.record(now_ns.saturating_sub(due_ns));
                }
            }
            user.due = user.flow.count();
        }
    }

    fn is_settled(&self) -> bool {
        self.users.as_chunks::<2>().0.iter().all(|[one, other]| {
            let nothing_open = one.flow.open() == 0 && other.flow.open() == 0;
            nothing_open || !one.connected || !other.connected
        })
    }

    fn finish(mut self) -> Outcome {
        for local in 0..self.settings.users {
            let missing: Vec<_> = self.users[usize::from(local)].flow.missing().collect();
            for (number, kind) in missing {
                self.fault(kind, local, number);
            }
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests;
