//! A conversation at home: the only place that assigns its seqs and ids and checks its rules.
//!
//! A command waits here until what it needs is loaded (the conversation, and whether it is a
//! resend), in order of arrival; then it is executed without waiting.

use std::collections::VecDeque;

use crate::hash::Hashing;
use hashbrown::HashMap;
use slab::Slab;

use crate::command::{Action, Command, Done, Outcome};
use crate::error::Refusal;
use crate::event::{
    ConversationLoaded, Deliver, Effects, Entry, Load, MessageEntry, Routed, Stored,
};
use crate::ids::{ConvKey, Conversation, DedupKey, UserId};
use crate::limits::{CONVERSATION_WAITERS_MAX, CONVERSATIONS_MAX, DEDUP_KEPT_MS};
use crate::record::Record;
use crate::shard::{Shard, Waiting};

/// The conversations of this shard that are in use.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    slab: Slab<Conv>,
    by_key: HashMap<ConvKey, u32, Hashing>,
    /// Where the search for something to evict goes on.
    hand: usize,
}

/// A conversation in use.
#[derive(Debug)]
struct Conv {
    key: ConvKey,
    /// `None` while it was asked for by its key alone and is not loaded.
    conversation: Option<Conversation>,
    loaded: bool,
    head: u64,
    time_ms: u64,
    countable: u64,
    /// The members' inbox marks, as put (durable or not), the smaller member's first.
    marks: [Option<u64>; 2],
    exists: [bool; 2],
    /// The last turn that changed it. What shows its state waits for that one.
    turn: u64,
    /// Messages that a look-up in the log might not have seen.
    recent: VecDeque<Recent>,
    waiting: VecDeque<Pending>,
    /// Ticket of `waiting`'s front; tickets count up.
    front: u64,
    /// Settlements that wait for the load: member, seq, all devices.
    settles: Vec<(UserId, u64, bool)>,
    /// Used since the hand passed.
    used: bool,
}

#[derive(Debug)]
struct Recent {
    dedup: DedupKey,
    stored: Stored,
    turn: u64,
}

#[derive(Debug)]
struct Pending {
    command: Command,
    dedup: Option<DedupKey>,
    /// What the log said; `None` while it was not asked or has not answered.
    answer: Option<Option<Stored>>,
    /// Whether the command's rival exists; likewise.
    rival: Option<bool>,
    /// What was durable when the log was asked: later messages may be missing in its answer.
    asked: u64,
}

impl Conv {
    fn is_ready(&self, pending: &Pending) -> bool {
        self.loaded
            && (pending.dedup.is_none() || pending.answer.is_some())
            && (pending.command.rival.is_none() || pending.rival.is_some())
    }

    /// Whether nothing holds it in memory.
    fn rests(&self, durable: u64) -> bool {
        self.loaded && self.waiting.is_empty() && self.turn <= durable
    }

    fn apply(&mut self, loaded: ConversationLoaded) {
        let ConversationLoaded { conversation, head, time_ms, countable, marks, exists } = loaded;
        if let Some(name) = conversation {
            let same = self.conversation.as_ref().is_none_or(|known| *known == name);
            assert!(same, "the log refuses another conversation under the same key");
            self.conversation = Some(name);
        }
        (self.head, self.time_ms, self.countable) = (head, time_ms, countable);
        (self.marks, self.exists) = (marks, exists);
        self.loaded = true;
    }
}

impl Conversations {
    fn find(&self, key: ConvKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    fn insert(&mut self, key: ConvKey, conversation: Option<Conversation>) -> u32 {
        let conv = Conv {
            key,
            conversation,
            loaded: false,
            head: 0,
            time_ms: 0,
            countable: 0,
            marks: [None; 2],
            exists: [false; 2],
            turn: 0,
            recent: VecDeque::new(),
            waiting: VecDeque::new(),
            front: 0,
            settles: Vec::new(),
            used: true,
        };
        let index = self.slab.insert(conv) as u32;
        self.by_key.insert(key, index);
        index
    }

    fn remove(&mut self, index: u32) {
        let conv = self.slab.remove(index as usize);
        self.by_key.remove(&conv.key);
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Over the budget: moves the hand a little and evicts what rests and was not used since.
    fn make_room(&mut self, durable: u64) {
        if self.slab.len() < CONVERSATIONS_MAX {
            return;
        }
        for _ in 0..8 {
            let index = self.hand;
            self.hand = if index + 1 < self.slab.capacity() { index + 1 } else { 0 };
            let Some(conv) = self.slab.get_mut(index) else { continue };
            if std::mem::take(&mut conv.used) || !conv.rests(durable) {
                continue;
            }
            self.remove(index as u32);
        }
    }
}

impl Shard {
    /// A command for a conversation of this shard.
    pub(crate) fn command(&mut self, command: Command, effects: &mut Effects) {
        let index = self.conversation(command.key, Some(&command.conversation), effects);
        let conv = &mut self.conversations.slab[index as usize];
        if conv.waiting.len() >= CONVERSATION_WAITERS_MAX {
            let outcome = outcome(&command, Err(Refusal::TryAgain));
            return self.answer(&command, outcome, 0, effects);
        }
        let stores = matches!(command.action, Action::Send { .. });
        let named = stores && !command.client_id.is_empty();
        let dedup = named.then(|| {
            DedupKey::new(command.key, &command.sender, &command.client_id, self.config.secret)
        });
        let ticket = conv.front + conv.waiting.len() as u64;
        let key = conv.key;
        let asked = self.durable;
        let rival = command.rival.clone();
        conv.waiting.push_back(Pending { command, dedup, answer: None, rival: None, asked });
        if let Some(user) = rival {
            self.load(Waiting::Rival { key, ticket }, Load::User { user }, effects);
        }
        match dedup {
            Some(dedup) => {
                self.load(Waiting::Dedup { key, ticket }, Load::Dedup { key: dedup }, effects);
            }
            None => self.run(key, effects),
        }
    }

    /// The index of a conversation, loading it if it is cold.
    fn conversation(
        &mut self,
        key: ConvKey,
        name: Option<&Conversation>,
        effects: &mut Effects,
    ) -> u32 {
        if let Some(index) = self.conversations.find(key) {
            let conv = &mut self.conversations.slab[index as usize];
            conv.used = true;
            if conv.conversation.is_none() {
                conv.conversation = name.cloned();
            }
            return index;
        }
        self.conversations.make_room(self.durable);
        let index = self.conversations.insert(key, name.cloned());
        self.load_conversation(key, name.cloned(), effects);
        index
    }

    fn load_conversation(
        &mut self,
        key: ConvKey,
        expected: Option<Conversation>,
        effects: &mut Effects,
    ) {
        let load = Load::Conversation { key, expected };
        self.load(Waiting::Conversation { key }, load, effects);
    }

    pub(crate) fn conversation_loaded(
        &mut self,
        key: ConvKey,
        loaded: ConversationLoaded,
        effects: &mut Effects,
    ) {
        let index = self.conversations.find(key).expect("what is loading is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        if loaded.conversation.is_none()
            && loaded.exists == [false; 2]
            && conv.conversation.is_some()
        {
            // It was asked for by key alone, or none of the members exists: in the first case the
            // answer says nothing about the members of a command that came meanwhile.
            let asked_by_key = !conv.settles.is_empty();
            if asked_by_key {
                conv.settles.clear();
                let expected = conv.conversation.clone();
                return self.load_conversation(key, expected, effects);
            }
        }
        conv.apply(loaded);
        for (user, seq, all) in std::mem::take(&mut conv.settles) {
            self.settled(user, key, seq, all, effects);
        }
        self.run(key, effects);
    }

    pub(crate) fn dedup_loaded(
        &mut self,
        key: ConvKey,
        ticket: u64,
        found: Option<Stored>,
        effects: &mut Effects,
    ) {
        let index = self.conversations.find(key).expect("what waits is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        let at = ticket.checked_sub(conv.front).expect("a command waits for its answer");
        let pending = conv.waiting.get_mut(at as usize).expect("a command waits for its answer");
        // Expired ones are ignored until the log removes them.
        let kept = |stored: &Stored| stored.time_ms + DEDUP_KEPT_MS > self.now.wall_ms;
        pending.answer = Some(found.filter(kept));
        self.run(key, effects);
    }

    /// Whether there is a user of the very id that the client wrote.
    pub(crate) fn rival_loaded(
        &mut self,
        key: ConvKey,
        ticket: u64,
        exists: bool,
        effects: &mut Effects,
    ) {
        let index = self.conversations.find(key).expect("what waits is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        let at = ticket.checked_sub(conv.front).expect("a command waits for its answer");
        let pending = conv.waiting.get_mut(at as usize).expect("a command waits for its answer");
        pending.rival = Some(exists);
        self.run(key, effects);
    }

    /// Sends a command on to the conversation with its rival.
    fn redirect(&mut self, mut command: Command, effects: &mut Effects) {
        let rival = command.rival.take().expect("the caller has found him");
        command.conversation = Conversation::private(&command.sender, &rival);
        command.key = command.conversation.key(self.config.secret);
        let home = command.key.slot.shard(self.config.shards);
        if home == self.config.shard {
            self.command(command, effects);
        } else {
            let routed = Routed::Command(Box::new(command));
            effects.now.routes.push((home, routed));
        }
    }

    /// Executes what is ready, in order.
    fn run(&mut self, key: ConvKey, effects: &mut Effects) {
        while let Some(index) = self.conversations.find(key) {
            let conv = &mut self.conversations.slab[index as usize];
            match conv.waiting.front() {
                Some(front) if conv.is_ready(front) => {}
                Some(_) => return,
                None => {
                    // A member who is not a user yet may be one tomorrow: do not remember.
                    if conv.loaded && conv.exists != [true; 2] {
                        self.conversations.remove(index);
                    }
                    return;
                }
            }
            let pending = conv.waiting.pop_front().expect("looked at above");
            conv.front += 1;
            self.execute(index, pending, effects);
        }
    }

    fn execute(&mut self, index: u32, pending: Pending, effects: &mut Effects) {
        let Pending { command, dedup, answer, rival, .. } = pending;
        if rival == Some(true) {
            return self.redirect(command, effects);
        }
        let conv = &mut self.conversations.slab[index as usize];
        let recent = dedup.and_then(|dedup| {
            let found = conv.recent.iter().find(|recent| recent.dedup == dedup);
            found.map(|recent| recent.stored)
        });
        let known = recent.or(answer.flatten());
        conv.forget_recent(self.durable);
        let turn = conv.turn;
        if let Some(stored) = known {
            let outcome = outcome(&command, Ok(Done::Stored(stored)));
            return self.answer(&command, outcome, turn, effects);
        }
        let name = conv.conversation.as_ref().expect("loaded");
        let from = name.side(command.sender.as_str()).expect("the sender is a member");
        let refusal = if !conv.exists[from] {
            Some(Refusal::SenderUnknown)
        } else if !conv.exists[1 - from] && name.members().count() == 2 {
            Some(Refusal::NoSuchUser)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            let outcome = outcome(&command, Err(refusal));
            return self.answer(&command, outcome, turn, effects);
        }
        match command.action {
            Action::Send { .. } => self.append(index, command, dedup, effects),
            Action::Signal { .. } => {
                self.relay(&command, turn, effects);
                let outcome = outcome(&command, Ok(Done::Relayed));
                self.answer(&command, outcome, turn, effects);
            }
        }
    }

    /// Stores a message, answers its sender and delivers it.
    fn append(
        &mut self,
        index: u32,
        command: Command,
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) {
        let now_ms = self.now.wall_ms;
        let Some(id) = self.ids.next((now_ms / 1000) as u32) else {
            let outcome = outcome(&command, Err(Refusal::TryAgain));
            return self.answer(&command, outcome, 0, effects);
        };
        let Action::Send { sender_ms, content, copies } = &command.action else {
            unreachable!("only a message is stored");
        };
        let turn = effects.turn;
        let conv = &mut self.conversations.slab[index as usize];
        let (name, key) = (conv.conversation.clone().expect("loaded"), conv.key);
        conv.head += 1;
        conv.countable += 1;
        conv.time_ms = conv.time_ms.max(now_ms);
        conv.turn = turn;
        let stored = Stored { id, seq: conv.head, time_ms: conv.time_ms };
        if let Some(dedup) = dedup {
            conv.recent.push_back(Recent { dedup, stored, turn });
        }
        if stored.seq == 1 {
            effects.entries.push(Entry::Conversation { key, conversation: name.clone() });
        }
        let start = effects.entry_bytes.len() as u32;
        effects.entry_bytes.extend_from_slice(content);
        let record = Box::new(MessageEntry {
            seq: stored.seq,
            id,
            time_ms: stored.time_ms,
            sender_ms: *sender_ms,
            countable: conv.countable,
            sender: command.sender.clone(),
            device: command.device.clone(),
            client_id: command.client_id.clone(),
            content: start..effects.entry_bytes.len() as u32,
            dedup,
        });
        effects.entries.push(Entry::Message { conversation: key, record });
        for (side, member) in name.members().enumerate() {
            let wants = *member != command.sender || *copies;
            if wants && conv.marks[side].is_none() {
                conv.marks[side] = Some(stored.seq);
                let (user, seq) = (member.clone(), stored.seq);
                effects.entries.push(Entry::Mark { user, conversation: key, seq });
            }
        }
        let countable = conv.countable;
        let outcome = outcome(&command, Ok(Done::Stored(stored)));
        self.answer(&command, outcome, turn, effects);
        self.send_deliveries(&name, &command, stored, countable, effects);
    }

    fn send_deliveries(
        &mut self,
        name: &Conversation,
        command: &Command,
        stored: Stored,
        countable: u64,
        effects: &mut Effects,
    ) {
        let Action::Send { sender_ms, content, copies } = &command.action else {
            unreachable!("only a message is stored");
        };
        for member in name.members() {
            // Without copies, the sender's home passes the message when it gets the outcome.
            if *member == command.sender && !*copies {
                continue;
            }
            let home = member.slot().shard(self.config.shards);
            let (turn, key) = (effects.turn, command.key);
            if home == self.config.shard {
                let record = Record {
                    seq: stored.seq,
                    id: stored.id,
                    time_ms: stored.time_ms,
                    sender_ms: *sender_ms,
                    countable,
                    sender: command.sender.as_str(),
                    dialect: command.device.dialect,
                    device: &command.device.name,
                    client_id: &command.client_id,
                    content,
                };
                self.deliver(member, key, &record, turn, effects);
                continue;
            }
            let deliver = Box::new(Deliver {
                user: member.clone(),
                conversation: key,
                stored,
                sender_ms: *sender_ms,
                countable,
                sender: command.sender.clone(),
                device: command.device.clone(),
                client_id: command.client_id.clone(),
                content: content.clone(),
            });
            if let Some(routed) = self.links.offer(home, deliver, turn) {
                self.out(effects, turn).routes.push((home, routed));
            }
        }
    }

    /// Brings an outcome to the connection's shard, once `turn` is durable.
    fn answer(&mut self, command: &Command, outcome: Outcome, turn: u64, effects: &mut Effects) {
        if command.origin.shard == self.config.shard {
            self.outcome(outcome, turn, effects);
        } else {
            let routed = Routed::Outcome(Box::new(outcome));
            self.out(effects, turn).routes.push((command.origin.shard, routed));
        }
    }

    /// The user's home says that its connected devices (`all`: all its devices) stand at `seq`.
    pub(crate) fn settled(
        &mut self,
        user: UserId,
        key: ConvKey,
        seq: u64,
        all: bool,
        effects: &mut Effects,
    ) {
        let index = self.conversation(key, None, effects);
        let conv = &mut self.conversations.slab[index as usize];
        if !conv.loaded {
            conv.settles.push((user, seq, all));
            return;
        }
        let side = conv.conversation.as_ref().and_then(|name| name.side(user.as_str()));
        let Some(side) = side else { return };
        // A newer message is on its way to the user's home already: there will be another report.
        if conv.head != seq {
            return;
        }
        if all && conv.marks[side].take().is_some() {
            conv.turn = effects.turn;
            effects.entries.push(Entry::MarkGone { user: user.clone(), conversation: key });
        }
        let turn = conv.turn;
        let home = user.slot().shard(self.config.shards);
        let noted = Routed::Noted { user, conversation: key, seq };
        self.route(home, noted, turn, effects);
    }
}

impl Conv {
    /// Forgets messages that every look-up still to be answered has seen.
    fn forget_recent(&mut self, durable: u64) {
        let seen = self.waiting.front().map_or(durable, |front| front.asked);
        while self.recent.front().is_some_and(|recent| recent.turn <= seen) {
            self.recent.pop_front();
        }
    }
}

fn outcome(command: &Command, result: Result<Done, Refusal>) -> Outcome {
    let refused_to = match result {
        Err(Refusal::NotAFriend | Refusal::Blocked) => {
            command.conversation.members().find(|member| **member != command.sender).cloned()
        }
        _ => None,
    };
    Outcome {
        conn: command.origin.conn,
        conversation: command.key,
        sender: command.sender.clone(),
        client_id: command.client_id.clone(),
        refused_to,
        content_bytes: command.action.content_bytes() as u32,
        result,
    }
}
