//! Messages that are to be stored later, at their conversation's home.
//!
//! All of them lie in the log, under their slot and the time when they are due. A home holds the keys
//! of those that are due soon: every one before `until_ms`, which only grows, but where there are too
//! many. When its time has come, a message is read from the log and goes through the same requests as
//! any other; the batch of its record removes the key, so that a crash neither loses it nor stores it
//! twice. What the rules refuse then is dropped: nobody waits for an answer.

use std::collections::BTreeMap;

use crate::command::{Command, Done};
use crate::error::Refusal;
use crate::event::{Effects, Entry, Load, Stored};
use crate::ids::{DedupKey, MessageId, Slot};
use crate::limits::{DUE_AT_ONCE, DUE_HELD_MAX, DUE_LOOK_MS, DUE_PAGE, DUE_REST_MS, DUE_SOON_MS};
use crate::scheduled::{DueKey, Scheduled};
use crate::shard::timers::Timer;
use crate::shard::{Shard, Waiting};

/// What is due soon.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// By time; at most [`DUE_HELD_MAX`], and a page.
    held: BTreeMap<(u64, MessageId), Held>,
    /// All that is due before this is held, once `reading` has come to its end.
    until_ms: u64,
    /// The window that is being read, if one is.
    reading: Option<Reading>,
    /// Messages are being read to be stored.
    firing: bool,
    /// The last turn that has put one into the log or taken one out.
    turn: u64,
    /// When the next timer that is not the look's fires, ms of the monotonic clock.
    armed_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    slot: Slot,
    /// It is on its way into its conversation.
    fired: bool,
    /// It could not be stored: not again before this, ms of the monotonic clock.
    not_before_ms: u64,
}

/// A part of the log that is being read for keys.
#[derive(Debug)]
struct Reading {
    from_ms: u64,
    after: Option<DueKey>,
    /// The log has not answered.
    asked: bool,
}

impl Schedule {
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    fn hold(&mut self, key: DueKey) {
        if key.due_ms < self.until_ms {
            let held = Held { slot: key.slot, fired: false, not_before_ms: 0 };
            self.held.entry((key.due_ms, key.id)).or_insert(held);
        }
    }

    /// Too many: gives up the later half of what is ahead, which is read again in its time. What is
    /// due already stays.
    fn narrow(&mut self, wall_ms: u64) {
        let ahead = self.until_ms.saturating_sub(wall_ms) / 2;
        if ahead > 0 {
            self.until_ms = wall_ms + ahead;
            self.held.split_off(&(self.until_ms, MessageId([0; 12])));
        }
    }

    /// When the first one is due that is not yet.
    fn next_ms(&self, wall_ms: u64) -> Option<u64> {
        let first = (wall_ms + 1, MessageId([0; 12]));
        self.held.range(first..).next().map(|(key, _)| key.0)
    }
}

impl Shard {
    /// Stores a message for later.
    pub(crate) fn schedule(
        &mut self,
        index: u32,
        command: &Command,
        after_ms: u64,
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) {
        let (wall_ms, turn) = (self.now.wall_ms, effects.turn);
        let id = self.ids.next((wall_ms / 1000) as u32).filter(|_| !self.space_low);
        let (Some(id), Some(message)) = (id, Scheduled::of(command)) else {
            return self.answer(command, Err(Refusal::TryAgain), 0, effects);
        };
        let key = DueKey { slot: command.key.slot, due_ms: wall_ms + after_ms, id };
        effects.entries.push(Entry::Due { key, message: Some(Box::new(message)) });
        let stored = Stored { id, seq: 0, time_ms: key.due_ms };
        let conv = &mut self.conversations.slab[index as usize];
        conv.turn = turn;
        if let Some(dedup) = dedup {
            conv.remember(dedup, stored, turn);
            effects.entries.push(Entry::Scheduled { dedup, stored });
        }
        self.schedule.turn = turn;
        self.schedule.hold(key);
        if self.schedule.held.len() > DUE_HELD_MAX {
            self.schedule.narrow(wall_ms);
        }
        self.arm_due();
        self.answer(command, Ok(Done::Stored(stored)), turn, effects);
    }

    /// Looks when the next one may be due.
    fn arm_due(&mut self) {
        let (now_ms, wall_ms) = (self.now_ms(), self.now.wall_ms);
        let Some(due_ms) = self.schedule.next_ms(wall_ms) else { return };
        let wait = due_ms - wall_ms;
        let (at_ms, armed_ms) = (now_ms + wait, self.schedule.armed_ms);
        if wait < DUE_LOOK_MS && (armed_ms <= now_ms || at_ms < armed_ms) {
            self.schedule.armed_ms = at_ms;
            self.timers.arm(at_ms, Timer::Due { look: false });
        }
    }

    /// The clock has gone on, or was set: reads on, and stores what is due. `look`: this is the look
    /// that is repeated for ever.
    pub(crate) fn look_at_schedule(&mut self, look: bool, effects: &mut Effects) {
        if look {
            self.timers.arm(self.now_ms() + DUE_LOOK_MS, Timer::Due { look: true });
        }
        self.read_schedule(effects);
        self.fire(effects);
        self.arm_due();
    }

    /// Begins to read the next window, or goes on where there was no room.
    fn read_schedule(&mut self, effects: &mut Effects) {
        let wall_ms = self.now.wall_ms;
        let schedule = &mut self.schedule;
        if schedule.reading.is_none() {
            if schedule.until_ms > wall_ms + DUE_SOON_MS / 2 {
                return;
            }
            // From here on, what is new and due before it is held at once. What was there before and
            // is not durable yet, the log shows when it is: the question waits for that.
            let from_ms = std::mem::replace(&mut schedule.until_ms, wall_ms + DUE_SOON_MS);
            schedule.reading = Some(Reading { from_ms, after: None, asked: false });
        }
        self.ask_for_due(effects);
    }

    fn ask_for_due(&mut self, effects: &mut Effects) {
        let Schedule { held, until_ms, reading, turn, .. } = &mut self.schedule;
        let Some(reading) = reading else { return };
        if reading.asked || held.len() >= DUE_HELD_MAX {
            return;
        }
        reading.asked = true;
        let load = Load::DueKeys {
            shard: self.config.shard,
            shards: self.config.shards,
            from_ms: reading.from_ms,
            until_ms: *until_ms,
            after: reading.after,
            limit: DUE_PAGE,
        };
        let turn = *turn;
        self.load_after(turn, Waiting::DueKeys, load, effects);
    }

    pub(crate) fn due_keys_loaded(&mut self, page: &[DueKey], effects: &mut Effects) {
        let schedule = &mut self.schedule;
        let reading = schedule.reading.as_mut().expect("it was asked for");
        reading.asked = false;
        reading.after = page.last().copied();
        // One that is stored already, and still in the log, is not found when it is to be stored.
        page.iter().for_each(|key| schedule.hold(*key));
        if page.len() < DUE_PAGE as usize {
            schedule.reading = None;
        } else if schedule.held.len() >= DUE_HELD_MAX {
            schedule.narrow(self.now.wall_ms);
        }
        self.ask_for_due(effects);
        self.fire(effects);
        self.arm_due();
    }

    /// Reads what is due now, some at a time, in order.
    fn fire(&mut self, effects: &mut Effects) {
        let (wall_ms, now_ms) = (self.now.wall_ms, self.now_ms());
        let schedule = &mut self.schedule;
        if schedule.firing || self.space_low {
            return;
        }
        let end = (wall_ms + 1, MessageId([0; 12]));
        let due = schedule.held.range_mut(..end);
        let due = due.filter(|(_, held)| !held.fired && held.not_before_ms <= now_ms);
        let mut keys = Vec::new();
        for (&(due_ms, id), held) in due.take(DUE_AT_ONCE) {
            held.fired = true;
            keys.push(DueKey { slot: held.slot, due_ms, id });
        }
        if keys.is_empty() {
            return;
        }
        schedule.firing = true;
        // The log must have what was scheduled just now, and must not have what was stored just now.
        let turn = schedule.turn;
        let load = Load::Scheduled { keys: keys.clone() };
        self.load_after(turn, Waiting::Scheduled { keys }, load, effects);
    }

    pub(crate) fn scheduled_loaded(
        &mut self,
        keys: &[DueKey],
        loaded: Vec<Option<Scheduled>>,
        effects: &mut Effects,
    ) {
        self.schedule.firing = false;
        for (key, message) in keys.iter().zip(loaded) {
            match message {
                Some(message) => {
                    let command = message.into_command(*key, self.config.secret);
                    self.command(command, effects);
                }
                None => self.forget_due(*key),
            }
        }
        self.fire(effects);
    }

    /// What became of a message whose time had come.
    pub(crate) fn fired(
        &mut self,
        key: DueKey,
        result: &Result<Done, Refusal>,
        effects: &mut Effects,
    ) {
        if let Err(Refusal::TryAgain) = result {
            let not_before_ms = self.now_ms() + DUE_REST_MS;
            if let Some(held) = self.schedule.held.get_mut(&(key.due_ms, key.id)) {
                (held.fired, held.not_before_ms) = (false, not_before_ms);
            }
            return self.timers.arm(not_before_ms, Timer::Due { look: false });
        }
        // In the batch of its record, where it was stored.
        effects.entries.push(Entry::Due { key, message: None });
        self.schedule.turn = effects.turn;
        self.forget_due(key);
        self.ask_for_due(effects);
    }

    fn forget_due(&mut self, key: DueKey) {
        self.schedule.held.remove(&(key.due_ms, key.id));
    }
}
