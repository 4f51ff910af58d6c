//! Acknowledgements and what follows from them: cursors are written once per second, and a
//! conversation at rest is reported to its home, which then deletes the user's inbox mark.

use crate::dialect::Class;
use crate::event::{Effects, Entry, Load, Position, Routed};
use crate::ids::{ConvKey, DeviceId, MessageId, UserId};
use crate::limits::{CURSOR_FLUSH_MS, SETTLE_MS};
use crate::shard::timers::Timer;
use crate::shard::users::{Device, UserRef};
use crate::shard::{Shard, Waiting};

impl Shard {
    /// The device acknowledges the oldest message with that wire id. What it never got, or has
    /// acknowledged, is accepted in silence.
    pub(crate) fn acknowledge(
        &mut self,
        user: UserRef,
        device: u32,
        class: Class,
        id: &str,
        effects: &mut Effects,
    ) {
        let wire = MessageId::key_of(id);
        let now_ms = self.now_ms();
        let owner = self.users.get_mut(user).expect("a live connection holds its user");
        let live = owner.devices[device as usize].live.as_mut();
        let live = live.expect("a live connection has a live device");
        let Some(sent) = live.acknowledge(class, wire) else { return };
        self.pending -= 1;
        let key = sent.conversation;
        let gap_over = live.catch_up.waits_for == Some(sent.number);
        if gap_over {
            live.catch_up.waits_for = None;
        }
        let unstalled = self.make_room(user, device, now_ms);
        let owner = self.users.get_mut(user).expect("looked up above");
        let inbox = owner.inbox.get_mut(&key).expect("what is in flight is kept");
        inbox.changed_ms = now_ms;
        let cursor = inbox.cursor(device).expect("what is in flight has a cursor");
        cursor.unacked -= 1;
        let rest = cursor.unacked == 0;
        self.position_moved(user, device, key);
        if rest {
            self.arm_settle(user, key);
        }
        if gap_over || unstalled {
            self.pump(user, device, effects);
        }
    }

    /// The device's position in a conversation is another one than that stored: it is written
    /// with the next flush, or when the device leaves.
    pub(crate) fn position_moved(&mut self, user: UserRef, device: u32, key: ConvKey) {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let inbox = owner.inbox.get_mut(&key).expect("looked up by the caller");
        inbox.cursor(device).expect("looked up by the caller").dirty = true;
        if !std::mem::replace(&mut inbox.listed, true) {
            self.dirty.push((user, key));
            if !std::mem::replace(&mut self.flush_armed, true) {
                self.timers.arm(self.now_ms() + CURSOR_FLUSH_MS, Timer::Flush);
            }
        }
    }

    /// Writes every dirty cursor.
    pub(crate) fn flush_cursors(&mut self, effects: &mut Effects) {
        self.flush_armed = false;
        for (user, key) in std::mem::take(&mut self.dirty) {
            let seat = self.seat_position(user, key);
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
            if let Some((has, _)) = seat {
                // What has everything has what its seat says, and needs no cursor.
                inbox.cursors.retain(|cursor| {
                    cursor.sent != has
                        || cursor.unacked > 0
                        || cursor.behind
                        || cursor.is_paced()
                        || cursor.skips_ahead()
                });
                if inbox.cursors.is_empty() {
                    owner.inbox.remove(&key);
                }
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
        // What comes here once for all has no mark to be deleted.
        let rests = inbox.audience.is_none() && inbox.rest().is_some();
        if rests && inbox.settle_due_ms == 0 {
            inbox.settle_due_ms = now_ms + SETTLE_MS;
            let timer = Timer::Settle { user, conversation: key };
            self.timers.arm(inbox.settle_due_ms, timer);
        }
    }

    /// A conversation that has been at rest for [`SETTLE_MS`] is reported to its home.
    pub(crate) fn settle(&mut self, user: UserRef, key: ConvKey, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        let Some(inbox) = owner.inbox.get_mut(&key) else { return };
        if inbox.settle_due_ms == 0 || now_ms < inbox.settle_due_ms {
            return;
        }
        inbox.settle_due_ms = 0;
        let Some(seq) = inbox.rest() else { return };
        let rested_ms = now_ms - inbox.changed_ms;
        if rested_ms < SETTLE_MS {
            inbox.settle_due_ms = inbox.changed_ms + SETTLE_MS;
            let timer = Timer::Settle { user, conversation: key };
            return self.timers.arm(inbox.settle_due_ms, timer);
        }
        let absent = |device: &Device| !device.gone && device.live.is_none();
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
