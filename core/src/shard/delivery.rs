//! Delivery at the member's home: what a device is sent, when again, and what it has acknowledged.
//!
//! A message that comes live is taken by a device when it is the next one for it and the window
//! has room. Everything else is read from the log: the conversation goes to the end of the
//! device's list, and one page at a time is read for the device while there is room.

use std::ops::Range;

use crate::dialect::imboy;
use crate::event::{Effects, Entry, Load, Outputs, Position, Routed, Write};
use crate::ids::{ConvKey, DeviceId, Dialect, MessageId, UserId};
use crate::limits::{
    CURSOR_FLUSH_MS, CURSOR_RANGES_PULL, PAGE_BYTES, PULL_DELAY_MS, PULL_ROOM_MESSAGES, SETTLE_MS,
    WINDOW_BYTES,
};
use crate::record::{Page, Record};
use crate::shard::timers::Timer;
use crate::shard::users::{Cursor, Early, InFlight, Inbox, Live, UserRef};
use crate::shard::{Shard, Waiting, frame};

/// A record that some device must read from the log, once its turn is durable.
#[derive(Debug)]
pub(crate) struct Unread {
    turn: u64,
    user: UserRef,
    key: ConvKey,
    seq: u64,
}

/// A message encoded for one dialect, in the arena of the outputs that it leaves with.
struct Encoded {
    dialect: Dialect,
    held: bool,
    range: Range<u32>,
    wire: MessageId,
}

/// Whether a device of `dialect` is shown the record at all; what is not counts as acknowledged
/// when the cursor passes it.
fn is_shown(record: &Record<'_>, to: &UserId, device: &DeviceId, echo: bool) -> bool {
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
                encoded = Some(encode(record, &owner.id, device.id.dialect, held, outputs));
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

    fn note_unread(&mut self, unread: Unread, effects: &mut Effects) {
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

    /// Goes on with what a device has to get: messages pushed with pauses first, then the next
    /// page of a conversation with more in the log.
    pub(crate) fn pump(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        loop {
            let Some(owner) = self.users.get_mut(user) else { return };
            let Some(live) = &mut owner.devices[device as usize].live else { return };
            if live.catch_up.loading || live.reading.is_some() {
                return;
            }
            if live.stalled {
                // It may take as long as it likes: others need not wait for it.
                return self.release_slot(user, device, effects);
            }
            if live.catch_up.waits_for.is_none()
                && let Some(&key) = live.catch_up.paced.front()
            {
                if !self.push_paced(user, device, key, effects) {
                    return;
                }
                continue;
            }
            if live.catch_up.paced.is_empty() && live.catch_up.slot {
                self.release_slot(user, device, effects);
                continue;
            }
            let Some(&key) = live.behind.front() else { return };
            let inbox = owner.inbox.get_mut(&key);
            let head = inbox.as_ref().map_or(0, |inbox| inbox.head);
            let Some(cursor) = inbox.and_then(|inbox| inbox.cursor(device)) else {
                live.behind.pop_front();
                continue;
            };
            if cursor.sent >= head {
                cursor.behind = false;
                live.behind.pop_front();
                self.arm_settle(user, key);
                continue;
            }
            if !live.has_room() || cursor.ranges(key, live) >= CURSOR_RANGES_PULL {
                live.stalled = true;
                continue;
            }
            let from = cursor.sent + 1;
            self.load_page(user, device, key, from, head, effects);
            return;
        }
    }

    fn load_page(
        &mut self,
        user: UserRef,
        device: u32,
        key: ConvKey,
        from: u64,
        to: u64,
        effects: &mut Effects,
    ) {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let live = owner.devices[device as usize].live.as_mut().expect("looked up by the caller");
        live.reading = Some(key);
        let epoch = live.epoch;
        let (messages, bytes) = live.room();
        let bytes = PAGE_BYTES.min(bytes as u32);
        let to = to.min(from + u64::from(messages.max(1)) - 1);
        let load = Load::Page { conversation: key, from, to, bytes };
        self.load(Waiting::Page { user, device, epoch, key }, load, effects);
    }

    pub(crate) fn page_loaded(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        key: ConvKey,
        page: Page,
        effects: &mut Effects,
    ) {
        let Some(live) = self.live(user, device, epoch) else { return };
        assert_eq!(live.reading.take(), Some(key));
        assert!(!page.is_empty(), "a head is only known when it can be read");
        let owner = self.users.get_mut(user).expect("it has a live device");
        let inbox = owner.inbox.get_mut(&key).expect("what is being read is kept");
        if inbox.cursor(device).is_some_and(|cursor| cursor.is_paced()) {
            let live = owner.devices[device as usize].live.as_mut().expect("looked up above");
            live.catch_up.page = Some((key, page, 0));
            return self.pump(user, device, effects);
        }
        for record in page.iter() {
            if self.send_record(user, device, key, &record, effects).is_none() {
                break;
            }
        }
        // The conversation goes to the end of the list, so that none waits for a long one.
        if let Some(live) = self.live(user, device, epoch)
            && live.behind.front() == Some(&key)
        {
            live.behind.rotate_left(1);
        }
        self.pump(user, device, effects);
    }

    /// Sends a record read from the log, if it is the next one and there is room. `None`: there is
    /// not. `Some(Some(number))`: sent; `Some(None)`: passed.
    fn send_record(
        &mut self,
        user: UserRef,
        device: u32,
        key: ConvKey,
        record: &Record<'_>,
        effects: &mut Effects,
    ) -> Option<Option<u64>> {
        let (now_ms, durable) = (self.now_ms(), self.durable);
        let owner = self.users.get_mut(user)?;
        let at = &mut owner.devices[device as usize];
        let live = at.live.as_mut()?;
        let inbox = owner.inbox.get_mut(&key)?;
        inbox.changed_ms = now_ms;
        let cursor = inbox.cursor(device)?;
        if record.seq <= cursor.sent {
            return Some(None);
        }
        assert_eq!(record.seq, cursor.sent + 1, "pages have no holes");
        let rules = self.config.dialects.delivery(at.id.dialect);
        if cursor.skips(record.seq)
            || !is_shown(record, &owner.id, &at.id, rules.echo_to_own_devices)
        {
            cursor.sent = record.seq;
            return Some(None);
        }
        if !live.has_room() || cursor.ranges(key, live) >= CURSOR_RANGES_PULL {
            live.stalled = true;
            return None;
        }
        let held = live.holds(durable, effects.turn);
        let outputs = if held { &mut effects.held } else { &mut effects.now };
        let encoded = encode(record, &owner.id, at.id.dialect, held, outputs);
        let number = send(live, cursor, key, record.seq, &encoded, now_ms, outputs);
        self.arm_retries(user);
        Some(Some(number))
    }

    /// Pushes the next message of the conversation that is caught up with; `false`: it has to wait.
    fn push_paced(
        &mut self,
        user: UserRef,
        device: u32,
        key: ConvKey,
        effects: &mut Effects,
    ) -> bool {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let dialect = owner.devices[device as usize].id.dialect;
        let live = owner.devices[device as usize].live.as_mut().expect("looked up by the caller");
        let inbox = owner.inbox.get_mut(&key).expect("what is caught up with is kept");
        let head = inbox.head;
        let cursor = inbox.cursor(device).expect("what is caught up with has a cursor");
        if !cursor.is_paced() {
            live.catch_up.paced.pop_front();
            live.catch_up.page = None;
            if cursor.sent < head && !cursor.behind {
                cursor.behind = true;
                live.behind.push_back(key);
            }
            self.arm_settle(user, key);
            return true;
        }
        let (from, to) = (cursor.sent + 1, cursor.paced_until);
        let Some((of, page, mut at)) = live.catch_up.page.take() else {
            if !live.has_room() {
                live.stalled = true;
                return true;
            }
            self.load_page(user, device, key, from, to, effects);
            return false;
        };
        assert_eq!(of, key);
        let mut sent = None;
        while sent.is_none()
            && let Some(record) = page.get(at)
        {
            match self.send_record(user, device, key, &record, effects) {
                Some(number) => (at, sent) = (at + 1, number),
                None => break,
            }
        }
        let gap_ms = self.config.dialects.delivery(dialect).catch_up_gap_ms;
        let now_ms = self.now_ms();
        let owner = self.users.get_mut(user).expect("looked up above");
        let live = owner.devices[device as usize].live.as_mut().expect("looked up above");
        if at < page.len() {
            live.catch_up.page = Some((key, page, at));
        }
        if let Some(message) = sent {
            live.catch_up.waits_for = Some(message);
            self.timers.arm(now_ms + gap_ms, Timer::Gap { user, device, message });
        }
        true
    }

    /// The pause after a message pushed at connect is over.
    pub(crate) fn gap_over(
        &mut self,
        user: UserRef,
        device: u32,
        message: u64,
        effects: &mut Effects,
    ) {
        let Some(owner) = self.users.get_mut(user) else { return };
        let Some(live) = &mut owner.devices[device as usize].live else { return };
        if live.catch_up.waits_for == Some(message) {
            live.catch_up.waits_for = None;
            self.pump(user, device, effects);
        }
    }

    /// The device acknowledges the oldest message with that wire id. What it never got, or has
    /// acknowledged, is accepted in silence.
    pub(crate) fn acknowledge(
        &mut self,
        user: UserRef,
        device: u32,
        id: &str,
        effects: &mut Effects,
    ) {
        let Some(wire) = MessageId::parse_xid(id.as_bytes()) else { return };
        let now_ms = self.now_ms();
        let owner = self.users.get_mut(user).expect("a live connection holds its user");
        let live = owner.devices[device as usize].live.as_mut();
        let live = live.expect("a live connection has a live device");
        let Some(sent) = live.acknowledge(wire) else { return };
        let key = sent.conversation;
        let gap_over = live.catch_up.waits_for == Some(sent.number);
        if gap_over {
            live.catch_up.waits_for = None;
        }
        let unstalled = self.make_room(user, device, now_ms);
        let owner = self.users.get_mut(user).expect("looked up above");
        let inbox = owner.inbox.get_mut(&key).expect("what is in flight is kept");
        inbox.changed_ms = now_ms;
        let rest = {
            let cursor = inbox.cursor(device).expect("what is in flight has a cursor");
            cursor.unacked -= 1;
            cursor.dirty = true;
            cursor.unacked == 0
        };
        if !std::mem::replace(&mut inbox.listed, true) {
            self.dirty.push((user, key));
            self.arm_flush();
        }
        if rest {
            self.arm_settle(user, key);
        }
        if gap_over || unstalled {
            self.pump(user, device, effects);
        }
    }

    /// After an acknowledgement: whether reading may go on. With little room it waits for more to
    /// come, for a moment, so that a page carries more than one message.
    fn make_room(&mut self, user: UserRef, device: u32, now_ms: u64) -> bool {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let live = owner.devices[device as usize].live.as_mut().expect("looked up by the caller");
        if !live.stalled {
            return false;
        }
        let (messages, bytes) = live.room();
        if messages >= PULL_ROOM_MESSAGES && bytes >= WINDOW_BYTES / 8 {
            live.stalled = false;
            return true;
        }
        if !std::mem::replace(&mut live.pull_armed, true) {
            self.timers.arm(now_ms + PULL_DELAY_MS, Timer::Pull { user, device });
        }
        false
    }

    /// Pull mode has let acknowledgements gather.
    pub(crate) fn pull(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        let Some(owner) = self.users.get_mut(user) else { return };
        let Some(live) = &mut owner.devices[device as usize].live else { return };
        live.pull_armed = false;
        if live.stalled && live.has_room() {
            live.stalled = false;
            self.pump(user, device, effects);
        }
    }

    /// Every live device with something in flight has a retry timer.
    fn arm_retries(&mut self, user: UserRef) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let Some(live) = &mut device.live else { continue };
            if live.retry_armed {
                continue;
            }
            let retry_ms = self.config.dialects.delivery(device.id.dialect).retry_ms;
            let due = live.unacknowledged().filter_map(|sent| sent.due_ms(retry_ms)).min();
            if let Some(due_ms) = due {
                live.retry_armed = true;
                let timer = Timer::Retry { user, device: index as u32 };
                self.timers.arm(due_ms.max(now_ms + 1), timer);
            }
        }
    }

    /// Messages of a device may be due again: reads them from the log, one conversation at a time.
    pub(crate) fn retry(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        let dialect = owner.devices[device as usize].id.dialect;
        let retry_ms = self.config.dialects.delivery(dialect).retry_ms;
        let Some(live) = &mut owner.devices[device as usize].live else { return };
        live.retry_armed = false;
        if live.retry_loading {
            return;
        }
        let is_due = |sent: &&InFlight| sent.due_ms(retry_ms).is_some_and(|due| due <= now_ms);
        let Some(first) = live.unacknowledged().find(is_due).copied() else {
            return self.arm_retries(user);
        };
        let (key, from) = (first.conversation, first.seq);
        // In one conversation messages are sent in order of their seqs.
        let here = |sent: &&InFlight| sent.conversation == key && is_due(sent);
        let to = live.unacknowledged().rfind(here).map_or(from, |last| last.seq);
        live.retry_loading = true;
        let epoch = live.epoch;
        let load = Load::Page { conversation: key, from, to, bytes: PAGE_BYTES };
        self.load(Waiting::Retry { user, device, epoch, key }, load, effects);
    }

    pub(crate) fn retry_loaded(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        key: ConvKey,
        page: &Page,
        effects: &mut Effects,
    ) {
        let now_ms = self.now_ms();
        if self.live(user, device, epoch).is_none() {
            return;
        }
        let owner = self.users.get_mut(user).expect("it has a live device");
        let at = &mut owner.devices[device as usize];
        let retry_ms = self.config.dialects.delivery(at.id.dialect).retry_ms;
        let live = at.live.as_mut().expect("looked up above");
        live.retry_loading = false;
        let mut records = page.iter().peekable();
        let last = page.len().checked_sub(1).and_then(|last| page.get(last)).map(|last| last.seq);
        let conns = live.conns.clone();
        let held = live.holds(self.durable, effects.turn);
        let outputs = if held { &mut effects.held } else { &mut effects.now };
        for sent in live.unacknowledged_mut().filter(|sent| sent.conversation == key) {
            let due = sent.due_ms(retry_ms).is_some_and(|due_ms| due_ms <= now_ms);
            if !due || last.is_none_or(|last| sent.seq > last) {
                continue;
            }
            while records.peek().is_some_and(|record| record.seq < sent.seq) {
                records.next();
            }
            let Some(record) = records.peek().filter(|record| record.seq == sent.seq) else {
                continue;
            };
            sent.tries += 1;
            let encoded = encode(record, &owner.id, at.id.dialect, held, outputs);
            for &conn in &conns {
                outputs.writes.push(Write { conn, range: encoded.range.clone() });
            }
        }
        if last.is_none() {
            // Not durable yet: the next look comes with the timer, not at once.
            live.retry_armed = true;
            self.timers.arm(now_ms + PULL_DELAY_MS, Timer::Retry { user, device });
            return;
        }
        self.arm_retries(user);
    }

    fn arm_flush(&mut self) {
        if !std::mem::replace(&mut self.flush_armed, true) {
            self.timers.arm(self.now_ms() + CURSOR_FLUSH_MS, Timer::Flush);
        }
    }

    /// Writes every dirty cursor.
    pub(crate) fn flush_cursors(&mut self, effects: &mut Effects) {
        self.flush_armed = false;
        for (user, key) in std::mem::take(&mut self.dirty) {
            let Some(owner) = self.users.get_mut(user) else { continue };
            let Some(inbox) = owner.inbox.get_mut(&key) else { continue };
            inbox.listed = false;
            for cursor in &mut inbox.cursors {
                if !std::mem::take(&mut cursor.dirty) {
                    continue;
                }
                let device = &owner.devices[cursor.device as usize];
                let live = device.live.as_ref().expect("cursors are those of live devices");
                owner.turn = effects.turn;
                effects.entries.push(Entry::Cursor {
                    user: owner.id.clone(),
                    conversation: key,
                    device: device.id.clone(),
                    position: cursor.position(key, live),
                });
            }
        }
    }

    /// The conversation may be at rest: looks again when it has been for a while.
    pub(crate) fn arm_settle(&mut self, user: UserRef, key: ConvKey) {
        let now_ms = self.now_ms();
        let Some(inbox) = self.users.get_mut(user).and_then(|owner| owner.inbox.get_mut(&key))
        else {
            return;
        };
        if inbox.rest().is_some() && !std::mem::replace(&mut inbox.settle_armed, true) {
            let timer = Timer::Settle { user, conversation: key };
            self.timers.arm(now_ms + SETTLE_MS, timer);
        }
    }

    /// A conversation that has been at rest for [`SETTLE_MS`] is reported to its home.
    pub(crate) fn settle(&mut self, user: UserRef, key: ConvKey, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        let Some(inbox) = owner.inbox.get_mut(&key) else { return };
        inbox.settle_armed = false;
        let Some(seq) = inbox.rest() else { return };
        let rested_ms = now_ms - inbox.changed_ms;
        if rested_ms < SETTLE_MS {
            inbox.settle_armed = true;
            let timer = Timer::Settle { user, conversation: key };
            return self.timers.arm(inbox.changed_ms + SETTLE_MS, timer);
        }
        let absent = |device: &crate::shard::users::Device| !device.gone && device.live.is_none();
        if owner.devices.iter().any(absent) {
            let load = Load::Cursors { user: owner.id.clone(), conversation: key };
            return self.load(Waiting::Settle { user, key, seq }, load, effects);
        }
        // A device that is still reading its marks may have something to get here.
        let all = owner.devices.iter().all(|device| {
            device.gone || device.live.as_ref().is_some_and(|live| !live.catch_up.loading)
        });
        self.report_settled(user, key, seq, all, effects);
    }

    /// The cursors of the devices that are not connected.
    pub(crate) fn settle_others(
        &mut self,
        user: UserRef,
        key: ConvKey,
        seq: u64,
        cursors: &[(DeviceId, Position)],
        effects: &mut Effects,
    ) {
        let Some(owner) = self.users.get_mut(user) else { return };
        let all =
            owner.devices.iter().filter(|device| !device.gone).all(|device| match &device.live {
                Some(live) => !live.catch_up.loading,
                None => cursors.iter().any(|(id, at)| *id == device.id && at.acked >= seq),
            });
        self.report_settled(user, key, seq, all, effects);
    }

    fn report_settled(
        &mut self,
        user: UserRef,
        key: ConvKey,
        seq: u64,
        all: bool,
        effects: &mut Effects,
    ) {
        let Some(owner) = self.users.get(user) else { return };
        let settled = Routed::Settled { user: owner.id.clone(), conversation: key, seq, all };
        self.route(key.slot.shard(self.config.shards), settled, owner.turn, effects);
    }

    /// Every delivery up to `seq` has come: what rests there need not be remembered.
    pub(crate) fn noted(&mut self, user: &UserId, key: ConvKey, seq: u64) {
        let Some(user) = self.users.find(user.as_str()) else { return };
        let owner = self.users.get_mut(user).expect("found");
        let Some(inbox) = owner.inbox.get(&key) else { return };
        let clean = inbox.cursors.iter().all(|cursor| !cursor.dirty);
        if inbox.rest() == Some(seq) && clean {
            owner.inbox.remove(&key);
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

fn encode(
    record: &Record<'_>,
    to: &UserId,
    dialect: Dialect,
    held: bool,
    outputs: &mut Outputs,
) -> Encoded {
    let (range, wire) = match dialect {
        Dialect::Imboy => (
            frame(outputs, |out| imboy::write_message(record, to.as_str(), out)),
            imboy::wire_id(record),
        ),
    };
    Encoded { dialect, held, range, wire }
}

/// Writes an encoded message to a device's connections and notes it as in flight.
fn send(
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
