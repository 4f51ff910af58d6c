//! What this shard's homes owe to other logs: it leaves when its cause is durable, at most
//! [`OWED_IN_FLIGHT_MAX`] for each shard at a time, is sent again when its home could not do it, and
//! is forgotten in the batch behind the confirmation. After a start all of it is read and sent
//! again: who does it recognises it by its id, or finds it done.
//!
//! A cancelled account's relations and memberships are given up in pages, one account at a time.
//!
//! *Bound.* [`OWED_MAX`]: over it, what would owe more is refused, and pages wait.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::event::{Effects, Entry, Load, MembershipLoaded, OPEN, Routed};
use crate::hash::Hashing;
use crate::ids::{Conversation, DedupKey, MessageId, ShardId, Slot, UserId};
use crate::limits::{
    CANCEL_PAGE, CONVERSATION_WAITERS_MAX, OWED_AGAIN_MS, OWED_IN_FLIGHT_MAX, OWED_MAX,
};
use crate::owed::{CancelStep, Owed};
use crate::relations::RelationRow;
use crate::shard::conversations::Request;
use crate::shard::timers::Timer;
use crate::shard::{Shard, Waiting};

/// What is read at a time after a start.
const READ_PAGE: u32 = 1_024;
const _: () = assert!((READ_PAGE as usize) < OWED_MAX);

/// What this shard's homes owe.
#[derive(Debug)]
pub(crate) struct Debts {
    open: HashMap<MessageId, Debt, Hashing>,
    /// By the shard that does it.
    queues: Vec<Queue>,
    /// To be sent again, in order: when, and what.
    again: VecDeque<(u64, MessageId)>,
    /// Cancellations, in order.
    cancels: VecDeque<MessageId>,
    /// The first of them is reading its next page.
    cancelling: bool,
    reading: Reading,
    /// Being sent: what is confirmed at once does not begin to send in turn.
    sending: bool,
}

/// Something owed.
#[derive(Debug)]
struct Debt {
    slot: Slot,
    owed: Owed,
    /// The turn that made it what it is.
    turn: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<MessageId>,
    in_flight: usize,
}

/// How far the look into the log after the start has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reading {
    NotBegun,
    Under,
    From(Slot, MessageId),
    Done,
}

/// What is owed and waits at the conversation whose home does it.
#[derive(Debug)]
pub(crate) struct Bill {
    pub(crate) from: ShardId,
    pub(crate) slot: Slot,
    pub(crate) id: MessageId,
    pub(crate) owed: Owed,
}

impl Debts {
    pub(crate) fn new(shards: u16) -> Debts {
        Debts {
            open: HashMap::default(),
            queues: (0..shards).map(|_| Queue::default()).collect(),
            again: VecDeque::new(),
            cancels: VecDeque::new(),
            cancelling: false,
            reading: Reading::NotBegun,
            sending: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }
}

impl Shard {
    /// Notes that `slot` owes something because of what the open turn stores. `false`: there is no
    /// room or no id for it, and nothing may be stored that causes it: try again.
    #[must_use]
    pub(crate) fn owe(&mut self, slot: Slot, owed: Owed, effects: &mut Effects) -> bool {
        if self.debts.open.len() >= OWED_MAX || self.space_low {
            return false;
        }
        let Some(id) = self.ids.next((self.now.wall_ms / 1000) as u32) else { return false };
        let stored = Some(Box::new(owed.clone()));
        effects.entries.push(Entry::Owed { slot, id, owed: stored });
        self.take_debt(slot, id, owed, effects.turn);
        true
    }

    fn take_debt(&mut self, slot: Slot, id: MessageId, owed: Owed, turn: u64) {
        if let Owed::Cancel { .. } = owed {
            self.debts.cancels.push_back(id);
        } else {
            let to = owed.slot().shard(self.config.shards);
            self.debts.queues[usize::from(to.0)].waiting.push_back(id);
        }
        self.debts.open.insert(id, Debt { slot, owed, turn });
    }

    /// Sends what may leave, and goes on with what waits for room.
    pub(crate) fn send_owed(&mut self, effects: &mut Effects) {
        if std::mem::replace(&mut self.debts.sending, true) {
            return;
        }
        for to in (0..self.config.shards).map(ShardId) {
            while let Some((slot, id, owed)) = self.next_owed(to) {
                let from = self.config.shard;
                let owed = Routed::Owed { from, slot, id, owed: Box::new(owed) };
                self.route(to, owed, 0, effects);
            }
        }
        self.debts.sending = false;
        self.read_owed(effects);
        self.go_on_cancelling(effects);
    }

    fn next_owed(&mut self, to: ShardId) -> Option<(Slot, MessageId, Owed)> {
        let queue = &mut self.debts.queues[usize::from(to.0)];
        if queue.in_flight >= OWED_IN_FLIGHT_MAX {
            return None;
        }
        let id = *queue.waiting.front()?;
        let debt = &self.debts.open[&id];
        if debt.turn > self.durable {
            return None;
        }
        queue.waiting.pop_front();
        queue.in_flight += 1;
        Some((debt.slot, id, debt.owed.clone()))
    }

    /// Reads what was owed when the process before this one ended.
    fn read_owed(&mut self, effects: &mut Effects) {
        let after = match self.debts.reading {
            Reading::NotBegun => None,
            Reading::From(slot, id) => Some((slot, id)),
            Reading::Under | Reading::Done => return,
        };
        if self.debts.open.len() + READ_PAGE as usize > OWED_MAX {
            return;
        }
        self.debts.reading = Reading::Under;
        let (shard, shards) = (self.config.shard, self.config.shards);
        let load = Load::Owed { shard, shards, after, limit: READ_PAGE };
        self.load(Waiting::Owed, load, effects);
    }

    pub(crate) fn owed_loaded(
        &mut self,
        page: Vec<(Slot, MessageId, Owed)>,
        effects: &mut Effects,
    ) {
        self.debts.reading = match page.last() {
            Some((slot, id, _)) if page.len() == READ_PAGE as usize => Reading::From(*slot, *id),
            _ => Reading::Done,
        };
        for (slot, id, owed) in page {
            // What has come to be owed meanwhile may be in it.
            if !self.debts.open.contains_key(&id) {
                self.take_debt(slot, id, owed, 0);
            }
        }
        self.send_owed(effects);
    }

    /// Something owed has been done, or could not be done now.
    pub(crate) fn paid(&mut self, slot: Slot, id: MessageId, done: bool, effects: &mut Effects) {
        let debt = self.debts.open.get(&id).expect("it is kept until it is confirmed");
        let to = debt.owed.slot().shard(self.config.shards);
        self.debts.queues[usize::from(to.0)].in_flight -= 1;
        if done {
            self.debts.open.remove(&id);
            effects.entries.push(Entry::Owed { slot, id, owed: None });
        } else {
            let due_ms = self.now_ms() + OWED_AGAIN_MS;
            self.debts.again.push_back((due_ms, id));
            self.timers.arm(due_ms, Timer::Owed);
        }
        self.send_owed(effects);
    }

    /// What could not be done is sent again.
    pub(crate) fn owed_again(&mut self, effects: &mut Effects) {
        let now_ms = self.now_ms();
        while let Some((_, id)) = self.debts.again.pop_front_if(|(due_ms, _)| *due_ms <= now_ms) {
            let to = self.debts.open[&id].owed.slot().shard(self.config.shards);
            self.debts.queues[usize::from(to.0)].waiting.push_back(id);
        }
        self.send_owed(effects);
    }

    /// Something that a home of this shard is to do for another.
    pub(crate) fn owed(
        &mut self,
        from: ShardId,
        slot: Slot,
        id: MessageId,
        owed: Owed,
        effects: &mut Effects,
    ) {
        let name = match &owed {
            Owed::Notice { user, .. } => Conversation::Notice(user.clone()),
            Owed::Part { user, other } => Conversation::private(user, other),
            Owed::Leave { group, .. } => Conversation::Group(group.clone()),
            Owed::Cancel { .. } => unreachable!("its own home does it"),
        };
        let key = name.key(self.config.secret);
        let index = self.conversation(key, Some(&name), effects);
        if self.conversations.slab[index as usize].waiting.len() >= CONVERSATION_WAITERS_MAX {
            return self.confirm(from, slot, id, false, 0, effects);
        }
        let dedup = match &owed {
            Owed::Notice { cause, .. } => {
                let own = compact_str::format_compact!("owed:{id}");
                Some(DedupKey::new(key, cause, &own, self.config.secret))
            }
            _ => None,
        };
        self.enqueue(index, Request::Owed(Bill { from, slot, id, owed }), dedup, effects);
    }

    /// Tells who owes that it is done once `turn` is durable, or (not `done`) cannot be done now.
    pub(crate) fn confirm(
        &mut self,
        from: ShardId,
        slot: Slot,
        id: MessageId,
        done: bool,
        turn: u64,
        effects: &mut Effects,
    ) {
        self.route_later(from, Routed::Paid { slot, id, done }, turn, effects);
    }

    /// Reads the next page of what the first cancelled account has to give up.
    fn go_on_cancelling(&mut self, effects: &mut Effects) {
        let Some(&id) = self.debts.cancels.front() else { return };
        let debt = &self.debts.open[&id];
        let full = self.debts.open.len() + CANCEL_PAGE as usize > OWED_MAX;
        if self.debts.cancelling || full || debt.turn > self.durable {
            return;
        }
        let Owed::Cancel { user, done, .. } = &debt.owed else {
            unreachable!("only cancellations are in the list")
        };
        let (user, limit) = (user.clone(), CANCEL_PAGE);
        let load = match done.clone() {
            CancelStep::Relations(after) => Load::Relations { user, after, limit, friends: false },
            CancelStep::Memberships(after) => Load::Memberships { user, after, limit },
        };
        self.debts.cancelling = true;
        self.load(Waiting::Cancel { id }, load, effects);
    }

    pub(crate) fn cancel_relations(
        &mut self,
        id: MessageId,
        page: Vec<(UserId, RelationRow)>,
        effects: &mut Effects,
    ) {
        let more = page.len() == CANCEL_PAGE as usize;
        let last = page.last().map(|(other, _)| other.clone()).filter(|_| more);
        let (user, _) = self.cancelled(id);
        let parts = page.into_iter().map(|(other, _)| Owed::Part { user: user.clone(), other });
        let next = match last {
            Some(last) => CancelStep::Relations(Some(last)),
            None => CancelStep::Memberships(None),
        };
        self.owe_page(id, parts.collect(), Some(next), effects);
    }

    pub(crate) fn cancel_memberships(
        &mut self,
        id: MessageId,
        page: Vec<MembershipLoaded>,
        effects: &mut Effects,
    ) {
        let more = page.len() == CANCEL_PAGE as usize;
        let last = page.last().map(|membership| membership.conversation).filter(|_| more);
        let (user, heir) = self.cancelled(id);
        let open = page.into_iter().filter(|membership| {
            membership.row.ranges.last().is_some_and(|&(_, last)| last == OPEN)
        });
        let leaves = open.map(|membership| Owed::Leave {
            user: user.clone(),
            group: membership.row.group,
            heir: heir.clone(),
        });
        let next = last.map(|last| CancelStep::Memberships(Some(last)));
        self.owe_page(id, leaves.collect(), next, effects);
    }

    fn cancelled(&self, id: MessageId) -> (UserId, Option<UserId>) {
        match &self.debts.open[&id].owed {
            Owed::Cancel { user, heir, .. } => (user.clone(), heir.clone()),
            other => panic!("{other:?} is no cancellation"),
        }
    }

    /// Owes what one page has, and notes how far the cancellation has come, in one batch; `None`:
    /// to its end.
    fn owe_page(
        &mut self,
        id: MessageId,
        page: Vec<Owed>,
        next: Option<CancelStep>,
        effects: &mut Effects,
    ) {
        self.debts.cancelling = false;
        let slot = self.debts.open[&id].slot;
        for owed in page {
            if !self.owe(slot, owed, effects) {
                // The page is read again; what of it is owed twice is found done.
                self.timers.arm(self.now_ms() + OWED_AGAIN_MS, Timer::Owed);
                return;
            }
        }
        let turn = effects.turn;
        match next {
            Some(next) => {
                let debt = self.debts.open.get_mut(&id).expect("looked up above");
                let Owed::Cancel { done, .. } = &mut debt.owed else {
                    unreachable!("only cancellations are in the list")
                };
                *done = next;
                debt.turn = turn;
                let owed = Some(Box::new(debt.owed.clone()));
                effects.entries.push(Entry::Owed { slot, id, owed });
            }
            None => {
                self.debts.open.remove(&id);
                self.debts.cancels.pop_front();
                effects.entries.push(Entry::Owed { slot, id, owed: None });
            }
        }
    }
}
