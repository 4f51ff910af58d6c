//! Messages to groups. In each group some members send, and all others get every message,
//! acknowledge it, and check that it is the next one of its sender.
//!
//! *In flight* per sender: a message is open from being sent until its sender has the server's
//! receipt and every other member who reads has the message. All members of a group are on one thread, so that
//! a message's whole way is seen here. Nobody is in two groups.
//!
//! The last members of a group may be told not to read before the load is over. They must get all of
//! it then; what the server sent them again meanwhile is counted and no fault.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use super::{Outcome, Scenario, Times};
use crate::check::FaultKind;
use crate::crowd::shown;
use crate::dialect::{Dialect, Incoming, Kind};
use crate::outbox::Outbox;
use crate::pace::Schedule;
use crate::payload::Payloads;
use crate::run::Run;

/// What the groups of one thread shall do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of this thread's first group in the run.
    pub first_group: u32,
    /// Groups of this thread.
    pub groups: u32,
    /// Groups of all threads.
    pub all_groups: u32,
    /// Members of a group; the first ones send.
    pub members: u16,
    /// Senders of a group.
    pub senders: u16,
    /// Members of a group, the last ones, who read nothing before the load is over.
    pub stalled: u16,
    /// Messages in flight per sender.
    pub in_flight: u32,
    /// Bytes of a payload.
    pub payload: u32,
    /// Messages per second of all threads; `None`: closed loop.
    pub rate: Option<u32>,
}

impl Settings {
    /// Number of this thread's first user in the run.
    pub fn first_user(&self) -> u16 {
        (self.first_group * u32::from(self.members)) as u16
    }

    /// Users of this thread.
    pub fn users(&self) -> u16 {
        (self.groups * u32::from(self.members)) as u16
    }
}

/// The groups of one thread.
pub struct Group {
    settings: Settings,
    run: Run,
    dialect: Box<dyn Dialect>,
    payloads: Payloads,
    /// By connection.
    connected: Vec<bool>,
    /// By group and sender.
    senders: Vec<Sender>,
    /// By connection and sender of its group: the highest number delivered.
    highest: Vec<u32>,
    /// The same: numbers that were jumped over. A sender's limit in flight bounds them.
    missing: HashMap<usize, BTreeSet<u32>>,
    sending: bool,
    schedule: Option<Schedule>,
    measured_ns: Range<u64>,
    /// When the load was over, and those read who had not.
    stopped_ns: Option<u64>,
    /// How many of them do not have everything.
    behind: u16,
    /// Open loop: the sender whose message is due next, and that message's number.
    next_due: (usize, u32),
    outcome: Outcome,
    payload: Vec<u8>,
    frame: Vec<u8>,
}

/// The messages of one sender.
#[derive(Default)]
struct Sender {
    /// Number of `open[0]` less one: all up to it are closed.
    closed: u32,
    open: VecDeque<Message>,
    /// How many of `open` are.
    in_flight: u32,
    /// Open loop: messages that are due so far.
    due: u32,
    /// A message was refused: sending on would only repeat that at full speed.
    refused: bool,
}

#[derive(Clone, Copy)]
struct Message {
    sent_ns: u64,
    receipt: bool,
    refused: bool,
    deliveries: u16,
}

impl Sender {
    fn sent(&self) -> u32 {
        self.closed + self.open.len() as u32
    }

    fn message(&mut self, number: u32) -> Option<&mut Message> {
        self.open.get_mut(number.checked_sub(self.closed + 1)? as usize)
    }
}

impl Message {
    fn is_closed(&self, receivers: u16) -> bool {
        self.refused || self.receipt && self.deliveries == receivers
    }
}

impl Group {
    /// The members of one thread's groups; nothing is sent before [`Scenario::start`].
    pub fn new(settings: Settings, run: Run, dialect: Box<dyn Dialect>) -> Group {
        let (users, senders) = (usize::from(settings.users()), usize::from(settings.senders));
        Group {
            payloads: Payloads::new(run.seed, settings.payload),
            connected: vec![true; users],
            senders: (0..settings.groups as usize * senders).map(|_| Sender::default()).collect(),
            highest: vec![0; users * senders],
            missing: HashMap::new(),
            settings,
            run,
            dialect,
            sending: false,
            schedule: None,
            measured_ns: 0..0,
            stopped_ns: None,
            behind: 0,
            next_due: (0, 1),
            outcome: Outcome::new(),
            payload: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Who must have a message for it to be closed.
    fn receivers(&self) -> u16 {
        self.settings.members - 1 - self.settings.stalled
    }

    fn is_stalled(&self, conn: u16) -> bool {
        conn % self.settings.members >= self.settings.members - self.settings.stalled
    }

    fn stalled(&self) -> impl Iterator<Item = u16> + use<> {
        let Settings { groups, members, stalled, .. } = self.settings;
        let last = move |group: u32| {
            (members - stalled..members).map(move |at| group as u16 * members + at)
        };
        (0..groups).flat_map(last)
    }

    /// Messages to its group that this member does not have.
    fn lacking(&self, conn: u16) -> u64 {
        let senders = usize::from(self.settings.senders);
        let group = usize::from(conn / self.settings.members);
        let of = |at: usize| {
            let place = usize::from(conn) * senders + at;
            let missing = self.missing.get(&place).map_or(0, BTreeSet::len);
            let sent = self.senders[group * senders + at].sent();
            u64::from(sent - self.highest[place]) + missing as u64
        };
        (0..senders).map(of).sum()
    }

    /// Who had not read has got one more.
    fn late(&mut self, conn: u16, now_ns: u64) {
        self.outcome.stalled.deliveries += 1;
        if let Some(stopped_ns) = self.stopped_ns
            && self.lacking(conn) == 0
        {
            self.behind -= 1;
            self.outcome.stalled.catch_up.record(now_ns.saturating_sub(stopped_ns));
        }
    }

    /// The connection of a sender.
    fn conn_of(&self, sender: usize) -> u16 {
        let senders = usize::from(self.settings.senders);
        let (group, member) = (sender / senders, sender % senders);
        (group * usize::from(self.settings.members) + member) as u16
    }

    /// The sender that a connection is.
    fn sender_of(&self, conn: u16) -> Option<usize> {
        let (group, member) = (conn / self.settings.members, conn % self.settings.members);
        let senders = self.settings.senders;
        (member < senders).then(|| usize::from(group) * usize::from(senders) + usize::from(member))
    }

    fn name(&self, conn: u16) -> String {
        self.run.user((self.settings.first_user() + conn).into())
    }

    fn group_name(&self, conn: u16) -> String {
        self.run.group(self.settings.first_group + u32::from(conn / self.settings.members))
    }

    /// Sends what the sender's limit, and in an open loop the schedule, allow now. `prompt`: the
    /// messages have just become due, so what holds them up is this client.
    fn pump(&mut self, index: usize, now_ns: u64, prompt: bool, out: &mut Outbox) {
        let conn = self.conn_of(index);
        loop {
            let sender = &self.senders[index];
            let may_send = !sender.refused && self.connected[usize::from(conn)];
            if !may_send || sender.in_flight >= self.settings.in_flight {
                return;
            }
            let sent_ns = match &self.schedule {
                None if self.sending => now_ns,
                Some(schedule) if sender.sent() < sender.due => {
                    schedule.due_ns(self.flow_in_run(index), sender.sent() + 1)
                }
                _ => return,
            };
            if prompt && self.measured_ns.contains(&sent_ns) {
                self.outcome.lag.record(now_ns.saturating_sub(sent_ns));
            }
            self.send(index, conn, sent_ns, out);
        }
    }

    /// Number of a sender among those of all threads.
    fn flow_in_run(&self, index: usize) -> u32 {
        self.settings.first_group * u32::from(self.settings.senders) + index as u32
    }

    fn send(&mut self, index: usize, conn: u16, sent_ns: u64, out: &mut Outbox) {
        let flow = self.settings.first_user() + conn;
        let sender = &mut self.senders[index];
        sender.open.push_back(Message { sent_ns, receipt: false, refused: false, deliveries: 0 });
        sender.in_flight += 1;
        let number = sender.sent();
        self.outcome.sent += 1;
        let id = self.run.message_id(flow, number);
        self.payload.clear();
        self.payloads.append(flow, number, &mut self.payload);
        let group = self.group_name(conn);
        self.frame.clear();
        self.dialect.message(Kind::Group, &id, &group, &self.payload, &mut self.frame);
        out.text(conn, &self.frame);
    }

    fn on_receipt(&mut self, conn: u16, id: &[u8], now_ns: u64, out: &mut Outbox) {
        let Some((index, number)) = self.own(conn, id, "acknowledged") else { return };
        match self.senders[index].message(number) {
            Some(message) if !message.receipt => {
                message.receipt = true;
                let sent_ns = message.sent_ns;
                self.outcome.receipts += 1;
                if self.measured_ns.contains(&sent_ns) {
                    self.outcome.receipt.record(now_ns.saturating_sub(sent_ns));
                }
                self.close(index, number, now_ns, out);
            }
            Some(_) => self.fault(FaultKind::ReceiptTwice, conn, number, "its sender"),
            None => {
                let kind = match number <= self.senders[index].closed && number > 0 {
                    true => FaultKind::ReceiptTwice,
                    false => FaultKind::NeverSent,
                };
                self.fault(kind, conn, number, "its sender");
            }
        }
    }

    fn on_message(&mut self, conn: u16, message: Delivered<'_>, now_ns: u64, out: &mut Outbox) {
        // Like a real client, acknowledge whatever it is.
        let device = self.run.device((self.settings.first_user() + conn).into());
        self.frame.clear();
        self.dialect.acknowledge(message.kind, message.id, &device, &mut self.frame);
        out.text(conn, &self.frame);

        let Some((flow, number)) = self.run.parse_id(message.id) else {
            self.outcome.foreign += 1;
            return;
        };
        let name = self.name(conn);
        // Which sender of this thread it is from, and whether of this group.
        let from = flow.checked_sub(self.settings.first_user());
        let from = from.filter(|from| *from < self.settings.users());
        let same_group = |from: &u16| *from / self.settings.members == conn / self.settings.members;
        let sender = from.filter(same_group).filter(|from| *from != conn);
        let Some((from, index)) = sender.and_then(|from| Some((from, self.sender_of(from)?)))
        else {
            let example = || format!("message #{number} of number {flow} came to {name}");
            return self.outcome.faults.add(FaultKind::Misrouted, example);
        };
        if number == 0 || number > self.senders[index].sent() {
            return self.fault(FaultKind::NeverSent, from, number, &name);
        }
        let names_fit = message.kind == Kind::Group
            && message.from == self.name(from).as_bytes()
            && message.to == self.group_name(conn).as_bytes();
        if !names_fit || !self.payloads.matches(flow, number, message.payload) {
            self.fault(FaultKind::Damaged, from, number, &name);
        }
        let order = self.in_order(conn, index, number);
        if self.is_stalled(conn) && order == Err(FaultKind::Duplicate) {
            self.outcome.stalled.repeats += 1;
            return;
        }
        if let Err(kind) = order {
            self.fault(kind, from, number, &name);
            if kind == FaultKind::Duplicate {
                return;
            }
        }
        match self.is_stalled(conn) {
            true => self.late(conn, now_ns),
            false => self.delivered(index, number, now_ns, out),
        }
    }

    /// Whether it is the next one of its sender at this receiver.
    fn in_order(&mut self, conn: u16, index: usize, number: u32) -> Result<(), FaultKind> {
        let senders = usize::from(self.settings.senders);
        let place = usize::from(conn) * senders + index % senders;
        let highest = &mut self.highest[place];
        if number > *highest {
            if number > *highest + 1 {
                self.missing.entry(place).or_default().extend(*highest + 1..number);
            }
            *highest = number;
            return Ok(());
        }
        let was_missing =
            self.missing.get_mut(&place).is_some_and(|missing| missing.remove(&number));
        Err(if was_missing { FaultKind::Reordered } else { FaultKind::Duplicate })
    }

    fn delivered(&mut self, index: usize, number: u32, now_ns: u64, out: &mut Outbox) {
        self.outcome.deliveries += 1;
        self.outcome.measured_deliveries += u64::from(self.measured_ns.contains(&now_ns));
        let receivers = self.receivers();
        // A closed one was refused, and came all the same.
        let Some(message) = self.senders[index].message(number) else { return };
        message.deliveries += 1;
        let Message { sent_ns, deliveries, .. } = *message;
        if self.measured_ns.contains(&sent_ns) {
            let taken_ns = now_ns.saturating_sub(sent_ns);
            self.outcome.delivery.record(taken_ns);
            if deliveries == 1 {
                self.outcome.first.record(taken_ns);
            }
            if deliveries == receivers {
                self.outcome.last.record(taken_ns);
            }
        }
        self.close(index, number, now_ns, out);
    }

    /// A message got nearer to its end; when it is closed, there is room for another one.
    fn close(&mut self, index: usize, number: u32, now_ns: u64, out: &mut Outbox) {
        let receivers = self.receivers();
        let sender = &mut self.senders[index];
        if !sender.message(number).is_some_and(|message| message.is_closed(receivers)) {
            return;
        }
        sender.in_flight -= 1;
        while sender.open.front().is_some_and(|message| message.is_closed(receivers)) {
            sender.open.pop_front();
            sender.closed += 1;
        }
        self.outcome.completed += u64::from(self.measured_ns.contains(&now_ns));
        self.pump(index, now_ns, false, out);
    }

    fn on_refused(&mut self, conn: u16, id: Option<&[u8]>, text: &[u8]) {
        let name = self.name(conn);
        let Some(id) = id else {
            let example = || format!("{name} got {}", shown(text));
            return self.outcome.faults.add(FaultKind::Unexpected, example);
        };
        let Some((index, number)) = self.own(conn, id, "refused") else { return };
        self.senders[index].refused = true;
        if let Some(message) = self.senders[index].message(number)
            && !std::mem::replace(&mut message.refused, true)
        {
            self.senders[index].in_flight -= 1;
            let example = || format!("{name}'s message #{number}: {}", shown(text));
            self.outcome.faults.add(FaultKind::Refused, example);
        }
    }

    /// Sender and number in an id that must be of a message of this user.
    fn own(&mut self, conn: u16, id: &[u8], what: &str) -> Option<(usize, u32)> {
        let own = self.settings.first_user() + conn;
        match (self.run.parse_id(id), self.sender_of(conn)) {
            (Some((flow, number)), Some(index)) if flow == own => Some((index, number)),
            _ => {
                let name = self.name(conn);
                let example = || format!("{name} had {} {what}", shown(id));
                self.outcome.faults.add(FaultKind::NeverSent, example);
                None
            }
        }
    }

    fn fault(&mut self, kind: FaultKind, from: u16, number: u32, to: &str) {
        let (sender, group) = (self.name(from), self.group_name(from));
        let example = || format!("{sender} in {group} #{number} to {to}");
        self.outcome.faults.add(kind, example);
    }

    fn unexpected(&mut self, conn: u16, text: &[u8], why: &str) {
        let name = self.name(conn);
        let example = || format!("{name} got {}: {why}", shown(text));
        self.outcome.faults.add(FaultKind::Unexpected, example);
    }
}

struct Delivered<'a> {
    kind: Kind,
    id: &'a [u8],
    from: &'a [u8],
    to: &'a [u8],
    payload: &'a [u8],
}

impl Scenario for Group {
    fn start(&mut self, times: &Times, out: &mut Outbox) {
        self.sending = true;
        self.measured_ns = times.measured_ns.clone();
        let flows = self.settings.all_groups * u32::from(self.settings.senders);
        self.schedule = self.settings.rate.map(|rate| Schedule::new(times.start_ns, rate, flows));
        if self.schedule.is_none() {
            for index in 0..self.senders.len() {
                self.pump(index, times.start_ns, false, out);
            }
        }
    }

    fn on_text(&mut self, conn: u16, text: &[u8], now_ns: u64, out: &mut Outbox) {
        match self.dialect.decode(text) {
            Ok(Incoming::Receipt { id }) => self.on_receipt(conn, id, now_ns, out),
            Ok(Incoming::Message { kind, id, from, to, payload }) => {
                self.on_message(conn, Delivered { kind, id, from, to, payload }, now_ns, out);
            }
            Ok(Incoming::Refused { id }) => self.on_refused(conn, id, text),
            // The group grows while its members are connected.
            Ok(Incoming::Notice { id }) => {
                let device = self.run.device((self.settings.first_user() + conn).into());
                self.frame.clear();
                self.dialect.acknowledge_notice(id, &device, &mut self.frame);
                out.text(conn, &self.frame);
            }
            Ok(Incoming::Probe) => {}
            Err(why) => self.unexpected(conn, text, why),
        }
    }

    fn reads(&self, conn: u16) -> bool {
        self.stopped_ns.is_some() || !self.is_stalled(conn)
    }

    fn on_closed(&mut self, conn: u16, why: &str) {
        if std::mem::replace(&mut self.connected[usize::from(conn)], false) {
            let name = self.name(conn);
            self.outcome.faults.add(FaultKind::Disconnected, || format!("{name}: {why}"));
        }
    }

    fn on_time(&mut self, now_ns: u64, out: &mut Outbox) -> Option<u64> {
        let schedule = self.schedule.filter(|_| self.sending)?;
        loop {
            let (index, number) = self.next_due;
            let due_ns = schedule.due_ns(self.flow_in_run(index), number);
            if due_ns >= self.measured_ns.end {
                return None;
            }
            if due_ns > now_ns {
                return Some(due_ns);
            }
            self.senders[index].due = number;
            self.pump(index, now_ns, true, out);
            self.next_due = match index + 1 {
                next if next < self.senders.len() => (next, number),
                _ => (0, number + 1),
            };
        }
    }

    fn stop(&mut self, now_ns: u64, out: &mut Outbox) {
        // What this client itself is late with is not what could not be sent.
        self.on_time(now_ns, out);
        self.sending = false;
        self.stopped_ns = Some(now_ns);
        for conn in self.stalled() {
            let lacking = self.lacking(conn);
            self.outcome.stalled.pending += lacking;
            self.behind += u16::from(lacking > 0);
        }
        let Some(schedule) = self.schedule else { return };
        // What was due and never sent waited until now at least.
        for index in 0..self.senders.len() {
            let flow = self.flow_in_run(index);
            let sender = &mut self.senders[index];
            for number in sender.sent() + 1..=sender.due {
                let due_ns = schedule.due_ns(flow, number);
                if self.measured_ns.contains(&due_ns) {
                    self.outcome.unsent += 1;
                    for waited in
                        [&mut self.outcome.receipt, &mut self.outcome.first, &mut self.outcome.last]
                    {
                        waited.record(now_ns.saturating_sub(due_ns));
                    }
                }
            }
            sender.due = sender.sent();
        }
    }

    fn is_settled(&self) -> bool {
        let gone = self.connected.iter().any(|connected| !connected);
        let closed = || self.senders.iter().all(|sender| sender.in_flight == 0);
        gone || self.behind == 0 && closed()
    }

    fn finish(mut self) -> Outcome {
        let receivers = self.receivers();
        for conn in self.stalled() {
            let (lacking, name) = (self.lacking(conn), self.name(conn));
            let example = || format!("{lacking} to {name}, who had not read");
            self.outcome.faults.add_many(FaultKind::Lost, lacking, example);
        }
        for index in 0..self.senders.len() {
            let conn = self.conn_of(index);
            let Sender { closed, open, .. } = std::mem::take(&mut self.senders[index]);
            for (number, message) in (closed + 1..).zip(open) {
                if message.is_closed(receivers) {
                    continue;
                }
                let missing = u64::from(receivers - message.deliveries);
                let (kind, count) = match message.receipt {
                    true => (FaultKind::Lost, missing),
                    false if message.deliveries == 0 => (FaultKind::Unanswered, 1),
                    false => (FaultKind::NoReceipt, 1),
                };
                let (name, group) = (self.name(conn), self.group_name(conn));
                let example =
                    || format!("{name} in {group} #{number}, to {missing} of {receivers} members");
                self.outcome.faults.add_many(kind, count, example);
            }
        }
        self.outcome
    }
}

#[cfg(test)]
mod tests;
