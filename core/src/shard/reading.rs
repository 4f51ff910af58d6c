//! Reading the log for a device: one page at a time, while its window has room.
//!
//! Messages that were pending at connect are pushed one by one with the dialect's pauses; after
//! them, and whenever a live message could not be taken, conversations are read in turn (*pull
//! mode*, protocols/README.md).

use crate::dialect::Place;
use crate::event::{Effects, Load};
use crate::ids::ConvKey;
use crate::limits::{
    CURSOR_RANGES_PULL, PAGE_BYTES, PULL_DELAY_MS, PULL_ROOM_MESSAGES, WINDOW_BYTES,
};
use crate::record::{Page, Record};
use crate::shard::delivery::{encode, is_shown, send};
use crate::shard::fanout::Audience;
use crate::shard::timers::Timer;
use crate::shard::users::UserRef;
use crate::shard::{Shard, Waiting};

impl Shard {
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
            live.catch_up.page = Some(Box::new((key, page, 0)));
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
        let audience = inbox.audience.clone();
        let place = audience.as_ref().map_or(Place::User, Audience::place);
        let cursor = inbox.cursor(device)?;
        if record.seq <= cursor.sent {
            return Some(None);
        }
        assert_eq!(record.seq, cursor.sent + 1, "pages have no holes");
        let rules = self.config.dialects.delivery(at.id.dialect);
        if cursor.skips(record.seq) {
            cursor.sent = record.seq;
            return Some(None);
        }
        if !is_shown(record, &owner.id, &at.id, rules.echo_to_own_devices) {
            cursor.sent = record.seq;
            if !cursor.dirty {
                // Nobody will acknowledge it, and the next stay would read it again.
                self.position_moved(user, device, key);
            }
            return Some(None);
        }
        if !live.has_room() || cursor.ranges(key, live) >= CURSOR_RANGES_PULL {
            live.stalled = true;
            return None;
        }
        let held = live.holds(durable, effects.turn);
        let outputs = if held { &mut effects.held } else { &mut effects.now };
        let dialects = &self.config.dialects;
        let encoded = encode(dialects, record, &owner.id, place, at.id.dialect, held, outputs);
        let number = send(live, cursor, key, record.seq, &encoded, now_ms, outputs);
        self.pending += 1;
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
        let Some((of, page, mut at)) = live.catch_up.page.take().map(|page| *page) else {
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
            live.catch_up.page = Some(Box::new((key, page, at)));
        }
        if let Some(message) = sent {
            live.catch_up.waits_for = Some(message);
            self.timers
                .arm(now_ms + gap_ms, Timer::Gap { user, device, epoch: live.epoch, message });
        }
        true
    }

    /// The pause after a message pushed at connect is over.
    pub(crate) fn gap_over(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        message: u64,
        effects: &mut Effects,
    ) {
        let Some(live) = self.live(user, device, epoch) else { return };
        if live.catch_up.waits_for == Some(message) {
            live.catch_up.waits_for = None;
            self.pump(user, device, effects);
        }
    }

    /// After an acknowledgement: whether reading may go on. With little room it waits for more to
    /// come, for a moment, so that a page carries more than one message.
    pub(crate) fn make_room(&mut self, user: UserRef, device: u32, now_ms: u64) -> bool {
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
            self.timers
                .arm(now_ms + PULL_DELAY_MS, Timer::Pull { user, device, epoch: live.epoch });
        }
        false
    }

    /// Pull mode has let acknowledgements gather.
    pub(crate) fn pull(&mut self, user: UserRef, device: u32, epoch: u32, effects: &mut Effects) {
        let Some(live) = self.live(user, device, epoch) else { return };
        live.pull_armed = false;
        if live.stalled && live.has_room() {
            live.stalled = false;
            self.pump(user, device, effects);
        }
    }
}
