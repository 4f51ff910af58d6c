//! The conversations of a shard that are in use: what is known of each, and what waits for it to be
//! loaded. A conversation's home is the only place that assigns its seqs and ids and checks its
//! rules; [`super::requests`] executes what is asked of it.

use std::collections::VecDeque;

use hashbrown::HashMap;
use slab::Slab;

use crate::command::{Command, GroupOperation, NoticeOperation};
use crate::error::Refusal;
use crate::event::{ControlId, ConversationLoaded, Effects, Entry, Load, Routed, Stored, UserRow};
use crate::hash::Hashing;
use crate::ids::{ConvKey, Conversation, DedupKey, ShardId, UserId};
use crate::limits::{CONVERSATION_WAITERS_MAX, CONVERSATIONS_MAX};
use crate::record::Page;
use crate::relations::{PrivatePolicy, RelationOperation, RelationRow};
use crate::shard::debts::Bill;
use crate::shard::groups::Group;
use crate::shard::relations::Changes;
use crate::shard::{Shard, ShardConfig, Waiting};

/// The conversations of this shard that are in use.
/// The conversations of this shard that are in use.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    pub(crate) slab: Slab<Conv>,
    by_key: HashMap<ConvKey, u32, Hashing>,
    /// Where the search for something to evict goes on.
    hand: usize,
}

/// A conversation in use.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) key: ConvKey,
    /// `None` while it was asked for by its key alone and is not loaded.
    pub(crate) conversation: Option<Conversation>,
    pub(crate) loaded: bool,
    pub(crate) head: u64,
    pub(crate) time_ms: u64,
    pub(crate) countable: u64,
    /// See [`crate::record::Record::sent`].
    pub(crate) sent: [u64; 2],
    /// The inbox marks of [`Conversation::marked`], as put (durable or not).
    pub(crate) marks: [Option<u64>; 2],
    /// Whether these are users.
    pub(crate) exists: [bool; 2],
    /// The count of changes up to which that is known; `None`: it must be looked up again.
    pub(crate) known: Option<u64>,
    /// Whether the two of a private conversation are contacts; `None`: not looked up.
    pub(crate) contacts: Option<bool>,
    /// Questions about its members that the log has not answered. A request does not wait for its
    /// own when the answer to another's is enough.
    pub(crate) asking: u32,
    /// What the two of a private conversation are to each other.
    pub(crate) relations: Option<Box<[RelationRow; 2]>>,
    /// What there is beside if it is a group.
    pub(crate) group: Option<Box<Group>>,
    /// The last turn that changed it. What shows its state waits for that one.
    pub(crate) turn: u64,
    /// Messages that a look-up in the log might not have seen.
    recent: VecDeque<Recent>,
    pub(crate) waiting: VecDeque<Pending>,
    /// Ticket of `waiting`'s front; tickets count up.
    pub(crate) front: u64,
    /// Settlements that wait for the load: user, seq, all devices.
    pub(crate) settles: Vec<(UserId, u64, bool)>,
    /// Used since the hand passed.
    pub(crate) used: bool,
}

#[derive(Debug)]
struct Recent {
    dedup: DedupKey,
    stored: Stored,
    turn: u64,
}

/// A request that waits for what it needs to know.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) dedup: Option<DedupKey>,
    /// What the log said; `None` while it was not asked or has not answered.
    pub(crate) answer: Option<Option<Stored>>,
    /// Whether the command's rival exists; likewise.
    pub(crate) rival: Option<bool>,
    /// What was durable when the log was asked: later messages may be missing in its answer.
    pub(crate) asked: u64,
    /// The log is being asked about members.
    pub(crate) asking: bool,
    /// The rows of a private conversation's members, in order.
    pub(crate) people: Option<Vec<Option<UserRow>>>,
    /// Whether the two are in a common group; `None`: not looked up.
    pub(crate) common: Option<bool>,
    /// The message that is to be revoked.
    pub(crate) target: Target,
}

/// A message that a request is about.
#[derive(Debug)]
pub(crate) enum Target {
    /// It is about none.
    None,
    /// The log is to be asked once everything of the conversation is durable.
    Wanted,
    /// The log is being asked.
    Asked,
    /// That record, or none.
    Known(Page),
}

/// What is asked of a conversation.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all requests are commands")]
pub(crate) enum Request {
    /// By a client.
    Command(Command),
    /// By the control plane.
    Group(ControlId, GroupOperation),
    /// By the control plane, about a pair of users.
    Relation(ControlId, Box<RelationOperation>),
    /// By the control plane, for a user's notices or everybody's.
    Notice(ControlId, Box<NoticeOperation>),
    /// By another home, which owes it.
    Owed(Bill),
    /// By a user's home: all the user's devices have everything up to this seq of the group.
    Seen(UserId, u64),
    /// By a shard that starts: it must know the head of the notices to everybody. One from each.
    Subscribe(ShardId),
}

impl Request {
    /// What to ask the log about the command's rival, if it has one.
    pub(crate) fn rival(&self, secret: u64) -> Option<Load> {
        let Request::Command(Command { sender, rival: Some(rival), .. }) = self else {
            return None;
        };
        Some(match rival {
            Conversation::Private { .. } => {
                let other = rival.marked().find(|user| *user != sender);
                Load::User { user: other.unwrap_or(sender).clone() }
            }
            other => Load::Conversation { key: other.key(secret), expected: Some(other.clone()) },
        })
    }

    fn has_rival(&self) -> bool {
        matches!(self, Request::Command(Command { rival: Some(_), .. }))
    }
}

impl Conv {
    pub(crate) fn is_ready(
        &self,
        pending: &Pending,
        changes: &Changes,
        config: &ShardConfig,
    ) -> bool {
        self.loaded
            && !self.asks_for_people(pending, changes, config.private_policy)
            && !self.asks_for_common_group(pending, config)
            && (pending.dedup.is_none() || pending.answer.is_some())
            && matches!(pending.target, Target::None | Target::Known(_))
            && (!pending.request.has_rival() || pending.rival.is_some())
            && self.group.as_ref().is_none_or(|group| group.knows(&pending.request))
    }

    /// Whether nothing holds it in memory.
    pub(crate) fn rests(&self, durable: u64) -> bool {
        self.loaded
            && self.waiting.is_empty()
            && self.turn <= durable
            && self.asking == 0
            && self.group.as_ref().is_none_or(|group| group.rests())
    }

    /// Whether it is not there yet: one of its users, or the group, does not exist, and may
    /// tomorrow.
    pub(crate) fn is_void(&self) -> bool {
        match &self.group {
            Some(group) => group.row.is_none(),
            None => self.exists != [true; 2],
        }
    }

    fn apply(&mut self, loaded: ConversationLoaded) {
        let ConversationLoaded { conversation, head, time_ms, countable, marks, exists, .. } =
            loaded;
        let ConversationLoaded { group, relations, sent, .. } = loaded;
        if let Some(name) = conversation {
            let same = self.conversation.as_ref().is_none_or(|known| *known == name);
            assert!(same, "the log refuses another conversation under the same key");
            self.conversation = Some(name);
        }
        (self.head, self.time_ms, self.countable, self.sent) = (head, time_ms, countable, sent);
        (self.marks, self.exists, self.relations) = (marks, exists, relations);
        if let Some(Conversation::Group(_)) = self.conversation {
            self.group.get_or_insert_default().row = group;
        }
        if self.conversation == Some(Conversation::Broadcast) {
            // There is always everybody.
            self.exists = [true; 2];
        }
        self.loaded = true;
    }

    /// Whether the rules let a client write here (protocols/README.md, *Who may do what*).
    /// `common`: the two are in a common group, where that counts.
    pub(crate) fn may_write(
        &self,
        command: &Command,
        policy: PrivatePolicy,
        common: bool,
    ) -> Result<(), Refusal> {
        if let Some(group) = &self.group {
            return group.may_write(&command.sender);
        }
        let name = self.conversation.as_ref().expect("loaded");
        let from = name.side(command.sender.as_str()).expect("the sender is a member");
        if !self.exists[from] {
            return Err(Refusal::SenderUnknown);
        }
        if name.marked().count() == 1 {
            // Notes to oneself.
            return Ok(());
        }
        if !self.exists[1 - from] {
            return Err(Refusal::NoSuchUser);
        }
        self.may_write_to(from, policy, common)
    }

    /// What this request was stored as when it came before.
    pub(crate) fn first_stored(
        &self,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
    ) -> Option<Stored> {
        let recent = dedup.and_then(|dedup| {
            // The last one: a scheduled message is stored under the same key.
            let found = self.recent.iter().rev().find(|recent| recent.dedup == dedup);
            found.map(|recent| recent.stored)
        });
        recent.or(answer.flatten())
    }

    /// Remembers a message until every look-up can see it.
    pub(crate) fn remember(&mut self, dedup: DedupKey, stored: Stored, turn: u64) {
        self.recent.push_back(Recent { dedup, stored, turn });
    }

    /// Notes who has sent the last message: what is before it he has read.
    pub(crate) fn note_sent(&mut self, sender: &str, seq: u64, effects: &mut Effects) {
        let name = self.conversation.as_ref().expect("loaded");
        if let Some(side) = name.side(sender) {
            self.sent[side] = seq;
        } else if self.group.is_some() {
            let user = UserId::parse(sender).expect("a member has written it");
            effects.entries.push(Entry::Sent { conversation: self.key, user, seq });
        }
    }

    /// Forgets messages that every look-up still to be answered has seen.
    pub(crate) fn forget_recent(&mut self, durable: u64) {
        let seen = self.waiting.front().map_or(durable, |front| front.asked);
        while self.recent.front().is_some_and(|recent| recent.turn <= seen) {
            self.recent.pop_front();
        }
    }
}

impl Conversations {
    pub(crate) fn find(&self, key: ConvKey) -> Option<u32> {
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
            sent: [0; 2],
            marks: [None; 2],
            exists: [false; 2],
            known: None,
            contacts: None,
            asking: 0,
            relations: None,
            group: None,
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

    pub(crate) fn remove(&mut self, index: u32) {
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
    /// The index of a conversation, loading it if it is cold.
    pub(crate) fn conversation(
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
        let index = self.conversations.find(key).expect("the caller has made it");
        let conv = &mut self.conversations.slab[index as usize];
        conv.known = Some(self.changes.clock());
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
        let tickets = conv.front..conv.front + conv.waiting.len() as u64;
        for (user, seq, all) in std::mem::take(&mut conv.settles) {
            self.settled(user, key, seq, all, effects);
        }
        for ticket in tickets {
            self.ask_about_members(index, ticket, effects);
            self.ask_about_people(index, ticket, effects);
        }
        self.answer_subscribers(index, effects);
        self.run(key, effects);
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
        if conv.group.is_some() {
            // With too much waiting it is not said again before the user's next connect.
            if all && conv.waiting.len() < CONVERSATION_WAITERS_MAX {
                self.enqueue(index, Request::Seen(user, seq), None, effects);
            }
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
