//! Delivery at the member's home: a message that comes live, or the news that there is one.
//!
//! A device takes it when it is the next one for it and its window has room. In every other case
//! the conversation goes to the end of the device's list, and `reading` reads it from the log.

use std::ops::Range;

use crate::dialect::{Settings, imboy};
use crate::event::{Effects, Outputs, Write};
use crate::ids::{ConvKey, DeviceId, Dialect, MessageId, UserId};
use crate::limits::CURSOR_RANGES_PULL;
use crate::record::Record;
use crate::shard::users::{Cursor, Early, Inbox, Live, UserRef};
use crate::shard::{Shard, frame};

/// A record that some device must read from the log, once its turn is durable.
#[derive(Debug)]
pub(crate) struct Unread {
    turn: u64,
    user: UserRef,
    key: ConvKey,
    seq: u64,
}

/// A message encoded for one dialect, in the arena of the outputs that it leaves with.
pub(crate) struct Encoded {
    dialect: Dialect,
    held: bool,
    pub(crate) range: Range<u32>,
    wire: MessageId,
}

/// Whether a device of `dialect` is shown the record at all; what is not counts as acknowledged
/// when the cursor passes it.
pub(crate) fn is_shown(record: &Record<'_>, to: &UserId, device: &DeviceId, echo: bool) -> bool {
    let own_device = record.dialect == device.dialect && record.device == device.name;
    record.sender != to.as_str() || (echo && !own_device)
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
                live.catch_up.early.entry(key).or_insert(Early { first: seq, head: 0 });
                unread = true;
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.changed_ms = now_ms;
            let cursor = inbox.at_head(index as u32, seq - 1);
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
                let dialects = &self.config.dialects;
                encoded =
                    Some(encode(dialects, record, &owner.id, device.id.dialect, held, outputs));
            }
            let encoded = encoded.as_ref().expect("made above");
            send(live, cursor, key, seq, encoded, now_ms, outputs);
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
                live.catch_up.early.entry(key).or_insert(Early { first: from, head: 0 });
            } else {
                owner.inbox.entry(key).or_default().at_head(index as u32, from - 1);
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
                live.catch_up.early.entry(key).or_insert(Early { first: seq, head: 0 });
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

impl Inbox {
    /// The device's cursor; a connected device without one has everything up to `seq`.
    fn at_head(&mut self, device: u32, seq: u64) -> &mut Cursor {
        let found = self.cursors.iter().position(|cursor| cursor.device == device);
        let at = found.unwrap_or_else(|| {
            self.cursors.push(Cursor::new(device, seq));
            self.cursors.len() - 1
        });
        &mut self.cursors[at]
    }
}

/// Encodes a record for a dialect, as its receiver `to` gets it.
pub(crate) fn encode(
    dialects: &Settings,
    record: &Record<'_>,
    to: &UserId,
    dialect: Dialect,
    held: bool,
    outputs: &mut Outputs,
) -> Encoded {
    let (range, wire) = match dialect {
        Dialect::Imboy => (
            frame(outputs, |out| imboy::write_message(&dialects.imboy, record, to.as_str(), out)),
            imboy::wire_id(record),
        ),
    };
    Encoded { dialect, held, range, wire }
}

/// Writes an encoded message to a device's connections and notes it as in flight.
pub(crate) fn send(
    live: &mut Live,
    cursor: &mut Cursor,
    key: ConvKey,
    seq: u64,
    encoded: &Encoded,
    now_ms: u64,
    outputs: &mut Outputs,
) -> u64 {
    for &conn in &live.conns {
        outputs.writes.push(Write { conn, range: encoded.range.clone() });
    }
    cursor.sent = seq;
    cursor.unacked += 1;
    let bytes = encoded.range.end - encoded.range.start;
    live.push(key, seq, encoded.wire, bytes, now_ms)
}
