//! What a device has not acknowledged is sent again, at the times of its dialect. Bodies come from
//! the log: nothing is kept for it.

use crate::dialect::Place;
use crate::event::{Effects, Load, Write};
use crate::ids::ConvKey;
use crate::limits::{PAGE_BYTES, PULL_DELAY_MS};
use crate::record::Page;
use crate::shard::delivery::encode;
use crate::shard::timers::Timer;
use crate::shard::users::{InFlight, Inbox, UserRef};
use crate::shard::{Shard, Waiting};

impl Shard {
    /// Every live device with something in flight has a retry timer, for what is due first: a
    /// notice may be in flight for a quarter of an hour, and does not keep others waiting.
    pub(crate) fn arm_retries(&mut self, user: UserRef) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let Some(live) = &mut device.live else { continue };
            let rules = self.config.dialects.delivery(device.id.dialect);
            let armed_ms = live.retry_due_ms;
            let due = live.unarmed(armed_ms == 0).filter_map(|sent| sent.due_ms(&rules)).min();
            if let Some(due_ms) = due.map(|due_ms| due_ms.max(now_ms + 1))
                && (armed_ms == 0 || due_ms < armed_ms)
            {
                live.retry_due_ms = due_ms;
                let timer = Timer::Retry { user, device: index as u32, epoch: live.epoch };
                self.timers.arm(due_ms, timer);
            }
        }
    }

    /// Messages of a device may be due again: reads them from the log, one conversation at a time.
    pub(crate) fn retry(&mut self, user: UserRef, device: u32, epoch: u32, effects: &mut Effects) {
        let now_ms = self.now_ms();
        if self.live(user, device, epoch).is_none() {
            return;
        }
        let owner = self.users.get_mut(user).expect("it has a live device");
        let at = &mut owner.devices[device as usize];
        let rules = self.config.dialects.delivery(at.id.dialect);
        let live = at.live.as_mut().expect("looked up above");
        if live.retry_due_ms == 0 || now_ms < live.retry_due_ms {
            // There was an earlier one, or is a later one.
            return;
        }
        live.retry_due_ms = 0;
        if live.retry_loading {
            return;
        }
        let is_due = |sent: &&InFlight| sent.due_ms(&rules).is_some_and(|due| due <= now_ms);
        let Some(first) = live.unacknowledged().find(is_due).copied() else {
            return self.arm_retries(user);
        };
        let (key, from) = (first.conversation, first.seq);
        // In one conversation messages are sent in order of their seqs.
        let here = |sent: &&InFlight| sent.conversation == key && is_due(sent);
        let to = live.unacknowledged().rfind(here).map_or(from, |last| last.seq);
        live.retry_loading = true;
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
        let rules = self.config.dialects.delivery(at.id.dialect);
        let live = at.live.as_mut().expect("looked up above");
        live.retry_loading = false;
        let mut records = page.iter().peekable();
        let last = page.len().checked_sub(1).and_then(|last| page.get(last)).map(|last| last.seq);
        let conns = live.conns.clone();
        let held = live.holds(self.durable, effects.turn);
        let outputs = if held { &mut effects.held } else { &mut effects.now };
        let place = owner.inbox.get(&key).map_or(Place::User, Inbox::place);
        for sent in live.unacknowledged_mut().filter(|sent| sent.conversation == key) {
            let due = sent.due_ms(&rules).is_some_and(|due_ms| due_ms <= now_ms);
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
            let dialects = &self.config.dialects;
            let encoded = encode(dialects, record, &owner.id, place, at.id.dialect, held, outputs);
            for &conn in &conns {
                outputs.repeats.push(Write { conn, range: encoded.range.clone() });
            }
        }
        if last.is_none() {
            // Not durable yet: the next look comes with the timer, not at once.
            live.retry_due_ms = now_ms + PULL_DELAY_MS;
            self.timers.arm(live.retry_due_ms, Timer::Retry { user, device, epoch });
            return;
        }
        self.arm_retries(user);
    }
}
