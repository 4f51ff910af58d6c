//! Delivery at the member's home: a message that comes live, or the news that there is one.
//!
//! A device takes it when it is the next one for it and its window has room. In every other case
//! the conversation goes to the end of the device's list, and `reading` reads it from the log.

use std::ops::Range;

use crate::dialect::{Class, Place, Settings, imboy};
use crate::event::{Effects, Outputs, Write};
use crate::happened::Happened;
use crate::ids::{ConvKey, DeviceId, Dialect, MessageId, UserId};
use crate::limits::CURSOR_RANGES_PULL;
use crate::record::{Kind, Record};
use crate::shard::users::{Cursor, Early, Live, UserRef};
use crate::shard::{Shard, frame};

/// A record that some device must read from the log, once its turn is durable.
#[derive(Debug)]
pub(crate) struct Unread {
    turn: u64,
    user: UserRef,
    key: ConvKey,
    seq: u64,
}

/// A record encoded for one dialect, in the arena of the outputs that it leaves with.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) dialect: Dialect,
    pub(crate) held: bool,
    /// Nothing in it depends on who receives it, but that it is not the sender.
    pub(crate) shared: bool,
    pub(crate) range: Range<u32>,
    class: Class,
    wire: MessageId,
}

/// Whether a device of `dialect` is shown the record at all; what is not counts as acknowledged
/// when the cursor passes it.
pub(crate) fn is_shown(record: &Record<'_>, to: &UserId, device: &DeviceId, echo: bool) -> bool {
    match record.kind {
        Kind::Message | Kind::Neutral | Kind::Revoked => {
            let own_device = record.dialect == device.dialect && record.device == device.name;
            record.sender != to.as_str() || (echo && !own_device)
        }
        Kind::Event => {
            Happened::decode(record.content).is_some_and(|happened| match device.dialect {
                Dialect::Imboy => imboy::shows(&happened, record, to.as_str()),
            })
        }
    }
}

impl Shard {
    /// A message for a user of this shard, live. `turn` makes it durable.
    pub(crate) fn deliver(
        &mut self,
        user: &UserId,
        key: ConvKey,
        record: &Record<'_>,
        turn: u64,
        effects: &mut Effects,
    ) {
        let Some(user) = self.users.find(user.as_str()) else { return };
        let now_ms = self.now_ms();
        let durable = self.durable;
        let owner = self.users.get_mut(user).expect("found");
        let seq = record.seq;
        let mut encoded: Option<Encoded> = None;
        let mut unread = false;
        let (mut arm_retry, mut passed) = (false, false);
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let Some(live) = &mut device.live else { continue };
            if live.catch_up.loading {
                live.catch_up.comes_early(key, seq);
                unread = true;
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.changed_ms = now_ms;
            let cursor = inbox.at(index as u32, seq - 1);
            if seq <= cursor.sent {
                continue;
            }
            let rules = self.config.dialects.delivery(device.id.dialect);
            let next = seq == cursor.sent + 1;
            if next && !is_shown(record, &owner.id, &device.id, rules.echo_to_own_devices) {
                cursor.sent = seq;
                passed = true;
                continue;
            }
            let room = live.has_room() && cursor.ranges(key, live) < CURSOR_RANGES_PULL;
            if !next || !room || cursor.behind {
                unread = true;
                continue;
            }
            let held = live.holds(durable, effects.turn) || turn > durable;
            let outputs = if held { &mut effects.held } else { &mut effects.now };
            let known = encoded.as_ref().is_some_and(|encoded| {
                encoded.dialect == device.id.dialect && encoded.held == held
            });
            if !known {
                let dialect = device.id.dialect;
                let dialects = &self.config.dialects;
                encoded =
                    Some(encode(dialects, record, &owner.id, Place::User, dialect, held, outputs));
            }
            let encoded = encoded.as_ref().expect("made above");
            send(live, cursor, key, seq, encoded, now_ms, outputs);
            self.pending += 1;
            arm_retry = true;
        }
        if arm_retry {
            self.arm_retries(user);
        }
        if passed {
            self.arm_settle(user, key);
        }
        if unread {
            self.note_unread(Unread { turn, user, key, seq }, effects);
        }
    }

    /// Records `from..=head` are in the log; their deliveries were collapsed.
    pub(crate) fn head(
        &mut self,
        user: &UserId,
        key: ConvKey,
        from: u64,
        head: u64,
        effects: &mut Effects,
    ) {
        let Some(user) = self.users.find(user.as_str()) else { return };
        let owner = self.users.get_mut(user).expect("found");
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let Some(live) = &mut device.live else { continue };
            if live.catch_up.loading {
                live.catch_up.comes_early(key, from);
            } else {
                owner.inbox.entry(key).or_default().at(index as u32, from - 1);
            }
        }
        self.note_unread(Unread { turn: 0, user, key, seq: head }, effects);
    }

    /// The user's own message, which his devices are not shown: their cursors pass it.
    pub(crate) fn pass_own(
        &mut self,
        user: &UserId,
        key: ConvKey,
        seq: u64,
        turn: u64,
        effects: &mut Effects,
    ) {
        let Some(user) = self.users.find(user.as_str()) else { return };
        let now_ms = self.now_ms();
        let owner = self.users.get_mut(user).expect("found");
        let mut unread = false;
        for live in owner.devices.iter_mut().filter_map(|device| device.live.as_mut()) {
            if live.catch_up.loading {
                // Nothing to get, and an old one when the message was sent again: only a head.
                live.catch_up.early.entry(key).or_insert(Early { first: 0, head: 0 });
                unread = true;
            }
        }
        if let Some(inbox) = owner.inbox.get_mut(&key) {
            inbox.changed_ms = now_ms;
            for cursor in &mut inbox.cursors {
                if cursor.sent + 1 == seq {
                    cursor.sent = seq;
                }
                unread |= cursor.sent < seq;
            }
        }
        if unread {
            self.note_unread(Unread { turn, user, key, seq }, effects);
        }
        self.arm_settle(user, key);
    }

    pub(crate) fn note_unread(&mut self, unread: Unread, effects: &mut Effects) {
        if unread.turn > self.durable {
            self.unread.push_back(unread);
        } else {
            self.read_up_to(&unread, effects);
        }
    }

    /// Records that have become durable may be read now.
    pub(crate) fn read_durable(&mut self, effects: &mut Effects) {
        while let Some(front) = self.unread.front()
            && front.turn <= self.durable
        {
            let unread = self.unread.pop_front().expect("looked at above");
            self.read_up_to(&unread, effects);
        }
    }

    /// The log holds `seq`: devices that have less read on.
    fn read_up_to(&mut self, unread: &Unread, effects: &mut Effects) {
        let Unread { user, key, seq, .. } = *unread;
        let Some(owner) = self.users.get_mut(user) else { return };
        for device in 0..owner.devices.len() {
            let owner = self.users.get_mut(user).expect("looked up above");
            let Some(live) = &mut owner.devices[device].live else { continue };
            if let Some(early) = live.catch_up.early.get_mut(&key) {
                early.head = early.head.max(seq);
                continue;
            }
            let Some(inbox) = owner.inbox.get_mut(&key) else { continue };
            inbox.head = inbox.head.max(seq);
            let Some(cursor) = inbox.cursor(device as u32) else { continue };
            if cursor.sent < seq && !cursor.behind && !cursor.is_paced() {
                cursor.behind = true;
                live.behind.push_back(key);
            }
            self.pump(user, device as u32, effects);
        }
    }
}

/// Encodes a record for a dialect, as its receiver `to` gets it.
pub(crate) fn encode(
    dialects: &Settings,
    record: &Record<'_>,
    to: &UserId,
    place: Place<'_>,
    dialect: Dialect,
    held: bool,
    outputs: &mut Outputs,
) -> Encoded {
    let (class, range, wire) = match (dialect, record.kind) {
        (Dialect::Imboy, Kind::Event) => {
            let settings = &dialects.imboy;
            let happened = Happened::decode(record.content);
            let happened = happened.expect("what is not known is not shown");
            let range = frame(outputs, |out| {
                imboy::write_event(settings, &happened, record, place, to.as_str(), out);
            });
            let class = match happened {
                Happened::FriendAsked(_) | Happened::FriendAccepted(_) => Class::FriendRequest,
                _ => Class::Event,
            };
            (class, range, imboy::event_id(settings, &happened, record))
        }
        (Dialect::Imboy, Kind::Message | Kind::Neutral | Kind::Revoked) => {
            let (class, kind, to) = match place {
                Place::User => (Class::Private, "C2C", to.as_str()),
                Place::Group(group) => (Class::Group, "C2G", group.as_str()),
            };
            let settings = &dialects.imboy;
            let range = frame(outputs, |out| imboy::write_message(settings, record, kind, to, out));
            (class, range, imboy::wire_id(record))
        }
    };
    let shared = class == Class::Group;
    Encoded { dialect, held, shared, range, class, wire }
}

/// Writes an encoded record to a device's connections and notes it as in flight; the caller counts
/// it as pending.
pub(crate) fn send(
    live: &mut Live,
    cursor: &mut Cursor,
    key: ConvKey,
    seq: u64,
    encoded: &Encoded,
    now_ms: u64,
    outputs: &mut Outputs,
) -> u64 {
    let Encoded { ref range, class, wire, .. } = *encoded;
    for &conn in &live.conns {
        outputs.writes.push(Write { conn, range: range.clone() });
    }
    cursor.sent = seq;
    cursor.unacked += 1;
    live.push(key, seq, class, wire, range.end - range.start, now_ms)
}
