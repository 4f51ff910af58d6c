//! A conversation at home: the only place that assigns its seqs and ids and checks its rules.
//!
//! A command waits here until what it needs is loaded (the conversation, and whether it is a
//! resend), in order of arrival; then it is executed without waiting.

use std::collections::VecDeque;

use crate::hash::Hashing;
use hashbrown::HashMap;
use slab::Slab;

use bytes::Bytes;
use compact_str::CompactString;

use crate::command::{Action, Command, Done, GroupOperation, NoticeOperation, Origin, Outcome};
use crate::dialect::imboy;
use crate::error::Refusal;
use crate::event::{
    Answer, ControlId, ConversationLoaded, Deliver, Effects, Entry, Load, MemberLoaded,
    MessageEntry, Post, Routed, Stored, UserRow,
};
use crate::happened::Happened;
use crate::ids::{ConnId, ConvKey, Conversation, DedupKey, DeviceId, Dialect, MessageId, UserId};
use crate::limits::{
    CONVERSATION_WAITERS_MAX, CONVERSATIONS_MAX, DEDUP_KEPT_MS, REVOKE_SEARCH_MAX,
};
use crate::owed::Owed;
use crate::record::{Kind, Page, Record};
use crate::relations::{PrivatePolicy, RelationOperation, RelationRow};
use crate::shard::debts::Bill;
use crate::shard::groups::{Group, event};
use crate::shard::relations::Changes;
use crate::shard::{Shard, ShardConfig, Waiting};

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
    time_ms: u64,
    countable: u64,
    /// The inbox marks of [`Conversation::marked`], as put (durable or not).
    marks: [Option<u64>; 2],
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

/// A request that waits for what it needs to know.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    dedup: Option<DedupKey>,
    /// What the log said; `None` while it was not asked or has not answered.
    answer: Option<Option<Stored>>,
    /// Whether the command's rival exists; likewise.
    rival: Option<bool>,
    /// What was durable when the log was asked: later messages may be missing in its answer.
    asked: u64,
    /// The log is being asked about members.
    pub(crate) asking: bool,
    /// The rows of a private conversation's members, in order.
    pub(crate) people: Option<Vec<Option<UserRow>>>,
    /// Whether the two are in a common group; `None`: not looked up.
    pub(crate) common: Option<bool>,
    /// The message that is to be revoked.
    target: Target,
}

/// A message that a request is about.
#[derive(Debug)]
enum Target {
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
pub(crate) enum Request {
    /// By a client.
    Command(Command),
    /// By the control plane.
    Group(ControlId, GroupOperation),
    /// By the control plane, about a pair of users.
    Relation(ControlId, Box<RelationOperation>),
    /// By the control plane, for a user's notices.
    Notice(ControlId, Box<NoticeOperation>),
    /// By another home, which owes it.
    Owed(Bill),
    /// By a user's home: all the user's devices have everything up to this seq of the group.
    Seen(UserId, u64),
}

impl Request {
    /// What to ask the log about the command's rival, if it has one.
    fn rival(&self, secret: u64) -> Option<Load> {
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

/// A record that is to be appended. Who it is by and where are the caller's business.
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) sender_ms: Option<i64>,
    pub(crate) sender: &'a str,
    pub(crate) device: &'a DeviceId,
    pub(crate) client_id: &'a str,
    pub(crate) content: &'a [u8],
    pub(crate) dedup: Option<DedupKey>,
}

impl Conv {
    fn is_ready(&self, pending: &Pending, changes: &Changes, config: &ShardConfig) -> bool {
        self.loaded
            && !self.asks_for_people(pending, changes, config.private_policy)
            && !self.asks_for_common_group(pending, config)
            && (pending.dedup.is_none() || pending.answer.is_some())
            && matches!(pending.target, Target::None | Target::Known(_))
            && (!pending.request.has_rival() || pending.rival.is_some())
            && self.group.as_ref().is_none_or(|group| group.knows(&pending.request))
    }

    /// Whether nothing holds it in memory.
    fn rests(&self, durable: u64) -> bool {
        self.loaded
            && self.waiting.is_empty()
            && self.turn <= durable
            && self.asking == 0
            && self.group.as_ref().is_none_or(|group| group.rests())
    }

    /// Whether it is not there yet: one of its users, or the group, does not exist, and may
    /// tomorrow.
    fn is_void(&self) -> bool {
        match &self.group {
            Some(group) => group.row.is_none(),
            None => self.exists != [true; 2],
        }
    }

    fn apply(&mut self, loaded: ConversationLoaded) {
        let ConversationLoaded { conversation, head, time_ms, countable, marks, exists, .. } =
            loaded;
        let ConversationLoaded { group, relations, .. } = loaded;
        if let Some(name) = conversation {
            let same = self.conversation.as_ref().is_none_or(|known| *known == name);
            assert!(same, "the log refuses another conversation under the same key");
            self.conversation = Some(name);
        }
        (self.head, self.time_ms, self.countable) = (head, time_ms, countable);
        (self.marks, self.exists, self.relations) = (marks, exists, relations);
        if let Some(Conversation::Group(_)) = self.conversation {
            self.group.get_or_insert_default().row = group;
        }
        self.loaded = true;
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
            return self.answer(&command, Err(Refusal::TryAgain), 0, effects);
        }
        let stores = matches!(command.action, Action::Send { .. });
        let named = stores && !command.client_id.is_empty();
        let dedup = named.then(|| {
            DedupKey::new(command.key, &command.sender, &command.client_id, self.config.secret)
        });
        self.enqueue(index, Request::Command(command), dedup, effects);
    }

    /// A message or a revoke of the control plane, in a user's name.
    pub(crate) fn post(&mut self, id: ControlId, post: Post, effects: &mut Effects) {
        let Post { conversation, sender, client_id, action } = post;
        let command = Command {
            origin: Origin::Control(id),
            key: conversation.key(self.config.secret),
            conversation,
            sender,
            device: no_device(),
            client_id,
            rival: None,
            action,
        };
        self.command(command, effects);
    }

    /// An operation on a group of this shard.
    pub(crate) fn group_operation(
        &mut self,
        id: ControlId,
        name: &Conversation,
        operation: GroupOperation,
        effects: &mut Effects,
    ) {
        let index = self.conversation(name.key(self.config.secret), Some(name), effects);
        let conv = &mut self.conversations.slab[index as usize];
        if conv.waiting.len() >= CONVERSATION_WAITERS_MAX {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        self.enqueue(index, Request::Group(id, operation), None, effects);
    }

    pub(crate) fn enqueue(
        &mut self,
        index: u32,
        request: Request,
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) {
        let conv = &mut self.conversations.slab[index as usize];
        let ticket = conv.front + conv.waiting.len() as u64;
        let key = conv.key;
        let (asked, asking) = (self.durable, false);
        let look_up = request.rival(self.config.secret);
        let revokes =
            matches!(&request, Request::Command(Command { action: Action::Revoke { .. }, .. }));
        let target = if revokes { Target::Wanted } else { Target::None };
        conv.waiting.push_back(Pending {
            request,
            dedup,
            answer: None,
            rival: None,
            asked,
            asking,
            people: None,
            common: None,
            target,
        });
        if let Some(load) = look_up {
            self.load(Waiting::Rival { key, ticket }, load, effects);
        }
        self.ask_about_members(index, ticket, effects);
        self.ask_about_people(index, ticket, effects);
        match dedup {
            Some(dedup) => {
                self.load(Waiting::Dedup { key, ticket }, Load::Dedup { key: dedup }, effects);
            }
            None => self.run(key, effects),
        }
    }

    /// Asks the log about those members that a waiting request is about and that are not known.
    fn ask_about_members(&mut self, index: u32, ticket: u64, effects: &mut Effects) {
        let conv = &mut self.conversations.slab[index as usize];
        let key = conv.key;
        let (Some(group), true) = (&mut conv.group, conv.loaded) else { return };
        let pending = &mut conv.waiting[(ticket - conv.front) as usize];
        if pending.asking || group.knows(&pending.request) {
            return;
        }
        pending.asking = true;
        group.asking += 1;
        let users = group.unknown(&pending.request);
        let Some(Conversation::Group(name)) = &conv.conversation else {
            unreachable!("only a group has members")
        };
        let load = Load::Members { group: name.clone(), conversation: key, users: users.clone() };
        self.load(Waiting::Members { key, ticket, users }, load, effects);
    }

    /// Asks the log for the message that the request in front is about, once the log has all of the
    /// conversation.
    fn ask_about_target(&mut self, index: u32, effects: &mut Effects) {
        let (durable, secret) = (self.durable, self.config.secret);
        let conv = &mut self.conversations.slab[index as usize];
        let (key, turn) = (conv.key, conv.turn);
        let Some(front) = conv.waiting.front_mut() else { return };
        let (Request::Command(command), Target::Wanted, true) =
            (&front.request, &front.target, conv.loaded)
        else {
            return;
        };
        // What the sender may do decides how far it is looked for.
        if conv.group.as_ref().is_some_and(|group| !group.knows(&front.request)) {
            return;
        }
        if turn > durable {
            if self.runs_after.back() != Some(&(turn, key)) {
                self.runs_after.push_back((turn, key));
            }
            return;
        }
        let manages = conv.group.as_ref().is_some_and(|group| group.may_manage(&command.sender));
        let search = if manages { REVOKE_SEARCH_MAX } else { 0 };
        let dedup = DedupKey::new(key, &command.sender, &command.client_id, secret);
        let id = MessageId::parse_xid(command.client_id.as_bytes());
        front.target = Target::Asked;
        let load = Load::Message { conversation: key, dedup, id, search };
        self.load(Waiting::Message { key }, load, effects);
    }

    pub(crate) fn message_loaded(&mut self, key: ConvKey, found: Page, effects: &mut Effects) {
        let index = self.conversations.find(key).expect("what waits is not evicted");
        let front = self.conversations.slab[index as usize].waiting.front_mut();
        front.expect("a request waits for its answer").target = Target::Known(found);
        self.run(key, effects);
    }

    /// Requests that wait for what is durable now.
    pub(crate) fn run_durable(&mut self, effects: &mut Effects) {
        let durable = self.durable;
        while let Some((_, key)) = self.runs_after.pop_front_if(|(turn, _)| *turn <= durable) {
            self.run(key, effects);
        }
    }

    /// What the log knows about members. What has changed since it was asked is known better.
    pub(crate) fn members_loaded(
        &mut self,
        key: ConvKey,
        ticket: u64,
        users: Vec<UserId>,
        loaded: Vec<MemberLoaded>,
        effects: &mut Effects,
    ) {
        let index = self.conversations.find(key).expect("what is asked about is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        // It may have gone on already, with what another request has learnt.
        let at = ticket.checked_sub(conv.front);
        if let Some(pending) = at.and_then(|at| conv.waiting.get_mut(at as usize)) {
            pending.asking = false;
        }
        let group = conv.group.as_mut().expect("only a group has members");
        group.asking -= 1;
        group.learn(users.into_iter().zip(loaded));
        self.run(key, effects);
    }

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

    /// Whether there is a user or group of the very id that the client wrote.
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

    /// Sends a command on to its rival's home.
    fn redirect(&mut self, mut command: Command, effects: &mut Effects) {
        command.conversation = command.rival.take().expect("the caller has found it");
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
    pub(crate) fn run(&mut self, key: ConvKey, effects: &mut Effects) {
        while let Some(index) = self.conversations.find(key) {
            let conv = &mut self.conversations.slab[index as usize];
            match conv.waiting.front() {
                Some(front) if conv.is_ready(front, &self.changes, &self.config) => {}
                Some(_) => {
                    // What it is about may depend on what was before it.
                    let front = conv.front;
                    self.ask_about_target(index, effects);
                    self.ask_about_members(index, front, effects);
                    return self.ask_about_people(index, front, effects);
                }
                None => {
                    if conv.loaded && conv.is_void() && conv.rests(u64::MAX) {
                        if conv.rests(self.durable) {
                            self.conversations.remove(index);
                        } else {
                            conv.known = None;
                        }
                    }
                    return;
                }
            }
            let pending = conv.waiting.pop_front().expect("looked at above");
            conv.front += 1;
            match pending.request {
                Request::Command(_) => self.execute(index, pending, effects),
                Request::Group(id, operation) => {
                    self.execute_operation(index, id, operation, effects);
                }
                Request::Relation(id, operation) => {
                    let people = pending.people.expect("it was not ready without");
                    self.execute_relation(index, id, &operation, &people, effects);
                }
                Request::Notice(id, notice) => {
                    self.store_notice(index, id, &notice, pending.dedup, pending.answer, effects);
                }
                Request::Owed(bill) => {
                    self.pay(index, bill, pending.dedup, pending.answer, effects);
                }
                Request::Seen(user, seq) => self.membership_seen(index, &user, seq, effects),
            }
            self.forget_members(index);
        }
    }

    fn execute(&mut self, index: u32, pending: Pending, effects: &mut Effects) {
        let Pending {
            request: Request::Command(command),
            dedup,
            answer,
            rival,
            target,
            common,
            ..
        } = pending
        else {
            unreachable!("the caller looked")
        };
        if rival == Some(true) {
            return self.redirect(command, effects);
        }
        if let Action::Revoke { .. } = &command.action {
            return self.revoke(index, &command, &target, common == Some(true), effects);
        }
        let conv = &mut self.conversations.slab[index as usize];
        let known = conv.first_stored(dedup, answer);
        conv.forget_recent(self.durable);
        let turn = conv.turn;
        if let Some(stored) = known {
            return self.answer(&command, Ok(Done::Stored(stored)), turn, effects);
        }
        if let Err(refusal) =
            conv.may_write(&command, self.config.private_policy, common == Some(true))
        {
            return self.answer(&command, Err(refusal), turn, effects);
        }
        match command.action {
            Action::Send { .. } => self.store(index, &command, dedup, effects),
            Action::Signal { .. } => {
                self.relay(&command, turn, effects);
                self.answer(&command, Ok(Done::Relayed), turn, effects);
            }
            Action::Revoke { .. } => unreachable!("executed above"),
        }
    }

    /// Takes a message back (protocols/README.md, *Revoke*): an event says so, and the message loses
    /// its content in the same batch.
    fn revoke(
        &mut self,
        index: u32,
        command: &Command,
        target: &Target,
        common: bool,
        effects: &mut Effects,
    ) {
        let (wall_ms, within_ms) = (self.now.wall_ms, self.config.revoke_within_ms);
        let conv = &mut self.conversations.slab[index as usize];
        let turn = conv.turn;
        let Target::Known(page) = target else { unreachable!("it was ready") };
        let found = page.get(0).filter(|record| record.kind != Kind::Event);
        let by_operator = matches!(command.action, Action::Revoke { by_operator: true });
        let policy = self.config.private_policy;
        let checked = if by_operator { Ok(()) } else { conv.may_write(command, policy, common) };
        let checked = checked.and_then(|()| {
            let record = found.ok_or(Refusal::NotRevocable)?;
            let manages =
                conv.group.as_ref().is_some_and(|group| group.may_manage(&command.sender));
            let own = record.sender == command.sender.as_str();
            let late = within_ms > 0 && record.time_ms + within_ms < wall_ms;
            match (own, manages || by_operator) {
                (_, true) => Ok(record),
                (true, false) if !late => Ok(record),
                (true, false) => Err(Refusal::NotRevocable),
                (false, false) => Err(Refusal::NotPermitted),
            }
        });
        let record = match checked {
            Ok(record) => record,
            Err(refusal) => {
                return self.answer(command, Err(refusal), turn, effects);
            }
        };
        let place = Stored { id: record.id, seq: record.seq, time_ms: record.time_ms };
        if record.kind == Kind::Revoked {
            // Said again: nothing happens again.
            let done = Done::Revoked(Stored { time_ms: wall_ms, ..place });
            return self.answer(command, Ok(done), turn, effects);
        }
        let happened = Happened::Revoked { seq: record.seq, wire: imboy::wire_id(&record) };
        let mut content = Vec::new();
        happened.encode(&mut content);
        let draft = Draft {
            kind: Kind::Event,
            sender_ms: None,
            sender: command.sender.as_str(),
            device: &command.device,
            client_id: "",
            content: &content,
            dedup: None,
        };
        let Some(stored) = self.append(index, &draft, effects) else {
            return self.answer(command, Err(Refusal::TryAgain), 0, effects);
        };
        let conversation = command.key;
        effects.entries.push(Entry::Emptied { conversation, record: emptied(&record) });
        self.put_marks(index, Some(&command.sender), stored.seq, effects);
        self.answer(command, Ok(Done::Revoked(stored)), effects.turn, effects);
        self.spread(index, &draft, stored, None, Some(&command.sender), effects);
    }

    /// Stores a message, answers its sender and delivers it.
    fn store(
        &mut self,
        index: u32,
        command: &Command,
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) {
        let Action::Send { kind, sender_ms, content, copies } = &command.action else {
            unreachable!("only a message is stored");
        };
        let draft = Draft {
            kind: *kind,
            sender_ms: *sender_ms,
            sender: command.sender.as_str(),
            device: &command.device,
            client_id: &command.client_id,
            content,
            dedup,
        };
        let Some(stored) = self.append(index, &draft, effects) else {
            return self.answer(command, Err(Refusal::TryAgain), 0, effects);
        };
        // Without copies, the sender's home passes the message when it gets the outcome.
        let passes = (!copies).then_some(&command.sender);
        self.put_marks(index, passes, stored.seq, effects);
        self.answer(command, Ok(Done::Stored(stored)), effects.turn, effects);
        self.spread(index, &draft, stored, Some(content), passes, effects);
    }

    /// Appends an event to a user's notices and delivers it. `None`: try again.
    fn append_notice(
        &mut self,
        index: u32,
        by: &str,
        content: &[u8],
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) -> Option<Stored> {
        let device = no_device();
        let draft = Draft { dedup, ..event(content, by, &device) };
        let stored = self.append(index, &draft, effects)?;
        self.put_marks(index, None, stored.seq, effects);
        self.spread(index, &draft, stored, None, None, effects);
        Some(stored)
    }

    /// Executes a notice of the control plane.
    fn store_notice(
        &mut self,
        index: u32,
        id: ControlId,
        notice: &NoticeOperation,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
        effects: &mut Effects,
    ) {
        let conv = &mut self.conversations.slab[index as usize];
        let known = conv.first_stored(dedup, answer);
        conv.forget_recent(self.durable);
        let answer = match known {
            Some(stored) => Answer::Stored(stored),
            None if !conv.exists[0] => Answer::NoSuchUser,
            None => self
                .append_notice(index, "", &notice.content, dedup, effects)
                .map_or(Answer::Refused(Refusal::TryAgain), Answer::Stored),
        };
        let turn = self.conversations.slab[index as usize].turn;
        self.out(effects, turn).answers.push((id, answer));
    }

    /// Does what another home owes, and confirms it once it is durable.
    fn pay(
        &mut self,
        index: u32,
        bill: Bill,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
        effects: &mut Effects,
    ) {
        let Bill { from, slot, id, owed } = bill;
        let conv = &mut self.conversations.slab[index as usize];
        let known = conv.first_stored(dedup, answer);
        conv.forget_recent(self.durable);
        let done = match owed {
            Owed::Notice { cause, content, .. } => {
                // Who does not exist any more needs not be told.
                known.is_some()
                    || !conv.exists[0]
                    || self.append_notice(index, cause.as_str(), &content, dedup, effects).is_some()
            }
            Owed::Part { user, .. } => self.part(index, &user, effects),
            Owed::Leave { user, heir, .. } => self.leave(index, &user, heir, effects),
            Owed::Cancel { .. } => unreachable!("its own home does it"),
        };
        let turn = self.conversations.slab[index as usize].turn;
        self.confirm(from, slot, id, done, turn, effects);
    }

    /// A business notice for a user of this shard.
    pub(crate) fn notice(
        &mut self,
        id: ControlId,
        user: &UserId,
        notice: Box<NoticeOperation>,
        effects: &mut Effects,
    ) {
        let name = Conversation::Notice(user.clone());
        let key = name.key(self.config.secret);
        let index = self.conversation(key, Some(&name), effects);
        if self.conversations.slab[index as usize].waiting.len() >= CONVERSATION_WAITERS_MAX {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        let dedup = (!notice.id.is_empty()).then(|| {
            let own = compact_str::format_compact!("notice:{}", notice.id);
            DedupKey::new(key, user, &own, self.config.secret)
        });
        self.enqueue(index, Request::Notice(id, notice), dedup, effects);
    }

    /// Appends a record. `None`: there is no id for it yet, try again.
    pub(crate) fn append(
        &mut self,
        index: u32,
        draft: &Draft<'_>,
        effects: &mut Effects,
    ) -> Option<Stored> {
        if self.space_low {
            return None;
        }
        let now_ms = self.now.wall_ms;
        let id = self.ids.next((now_ms / 1000) as u32)?;
        let turn = effects.turn;
        let conv = &mut self.conversations.slab[index as usize];
        conv.head += 1;
        conv.countable += u64::from(matches!(draft.kind, Kind::Message | Kind::Neutral));
        conv.time_ms = conv.time_ms.max(now_ms);
        conv.turn = turn;
        let stored = Stored { id, seq: conv.head, time_ms: conv.time_ms };
        if let Some(dedup) = draft.dedup {
            conv.recent.push_back(Recent { dedup, stored, turn });
        }
        let key = conv.key;
        if stored.seq == 1 {
            let conversation = conv.conversation.clone().expect("loaded");
            effects.entries.push(Entry::Conversation { key, conversation });
        }
        let start = effects.entry_bytes.len() as u32;
        effects.entry_bytes.extend_from_slice(draft.content);
        let record = Box::new(MessageEntry {
            seq: stored.seq,
            kind: draft.kind,
            id,
            time_ms: stored.time_ms,
            sender_ms: draft.sender_ms,
            countable: conv.countable,
            sender: CompactString::new(draft.sender),
            device: draft.device.clone(),
            client_id: CompactString::new(draft.client_id),
            content: start..effects.entry_bytes.len() as u32,
            dedup: draft.dedup,
        });
        effects.entries.push(Entry::Message { conversation: key, record });
        Some(stored)
    }

    /// Puts the inbox marks of those that have none; the devices of `passes` need none.
    fn put_marks(&mut self, index: u32, passes: Option<&UserId>, seq: u64, effects: &mut Effects) {
        let conv = &mut self.conversations.slab[index as usize];
        let name = conv.conversation.as_ref().expect("loaded");
        for (member, mark) in name.marked().zip(&mut conv.marks) {
            if Some(member) != passes && mark.is_none() {
                *mark = Some(seq);
                let (user, conversation) = (member.clone(), conv.key);
                effects.entries.push(Entry::Mark { user, conversation, seq });
            }
        }
    }

    /// Brings a record to whom it concerns, once the open turn is durable: to the homes of the
    /// marked users but `passes`, or to the shards that have subscribed to the group. `body` is
    /// the content where it can be shared.
    pub(crate) fn spread(
        &mut self,
        index: u32,
        draft: &Draft<'_>,
        stored: Stored,
        body: Option<&Bytes>,
        passes: Option<&UserId>,
        effects: &mut Effects,
    ) {
        let conv = &self.conversations.slab[index as usize];
        let (key, countable, turn) = (conv.key, conv.countable, effects.turn);
        let deliver = || Deliver {
            conversation: key,
            stored,
            kind: draft.kind,
            sender_ms: draft.sender_ms,
            countable,
            sender: CompactString::new(draft.sender),
            device: draft.device.clone(),
            client_id: CompactString::new(draft.client_id),
            content: body.cloned().unwrap_or_else(|| Bytes::copy_from_slice(draft.content)),
        };
        if let Some(group) = &conv.group {
            if group.subscribers.is_empty() {
                return;
            }
            let deliver = deliver();
            for to in group.subscribers.clone().iter() {
                let deliver = Box::new(deliver.clone());
                if to == self.config.shard {
                    self.route_later(to, Routed::GroupDeliver(deliver), turn, effects);
                } else if let Some(routed) = self.links.offer(to, None, deliver, turn) {
                    self.out(effects, turn).routes.push((to, routed));
                }
            }
            return;
        }
        let name = conv.conversation.clone().expect("loaded");
        for member in name.marked().filter(|member| Some(*member) != passes) {
            let home = member.slot().shard(self.config.shards);
            if home == self.config.shard {
                let record = Record {
                    seq: stored.seq,
                    kind: draft.kind,
                    id: stored.id,
                    time_ms: stored.time_ms,
                    sender_ms: draft.sender_ms,
                    countable,
                    sender: draft.sender,
                    dialect: draft.device.dialect,
                    device: &draft.device.name,
                    client_id: draft.client_id,
                    content: draft.content,
                };
                self.deliver(member, key, &record, turn, effects);
            } else if let Some(routed) =
                self.links.offer(home, Some(member.clone()), Box::new(deliver()), turn)
            {
                self.out(effects, turn).routes.push((home, routed));
            }
        }
    }

    /// Tells who has asked what became of it, once `turn` is durable.
    fn answer(
        &mut self,
        command: &Command,
        result: Result<Done, Refusal>,
        turn: u64,
        effects: &mut Effects,
    ) {
        match command.origin {
            Origin::Conn { shard, conn } if shard == self.config.shard => {
                self.outcome(outcome(command, conn, result), turn, effects);
            }
            Origin::Conn { shard, conn } => {
                let routed = Routed::Outcome(Box::new(outcome(command, conn, result)));
                self.out(effects, turn).routes.push((shard, routed));
            }
            Origin::Control(id) => {
                let answer = match result {
                    Ok(Done::Stored(stored) | Done::Revoked(stored)) => Answer::Stored(stored),
                    Ok(Done::Relayed) => Answer::Done,
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.out(effects, turn).answers.push((id, answer));
            }
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

impl Conv {
    /// Whether the rules let a client write here (protocols/README.md, *Who may do what*).
    /// `common`: the two are in a common group, where that counts.
    fn may_write(
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
    fn first_stored(
        &self,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
    ) -> Option<Stored> {
        let recent = dedup.and_then(|dedup| {
            let found = self.recent.iter().find(|recent| recent.dedup == dedup);
            found.map(|recent| recent.stored)
        });
        recent.or(answer.flatten())
    }

    /// Forgets messages that every look-up still to be answered has seen.
    fn forget_recent(&mut self, durable: u64) {
        let seen = self.waiting.front().map_or(durable, |front| front.asked);
        while self.recent.front().is_some_and(|recent| recent.turn <= seen) {
            self.recent.pop_front();
        }
    }
}

/// What comes from no device; the dialect of its record means nothing.
pub(crate) fn no_device() -> DeviceId {
    DeviceId { dialect: Dialect::Imboy, name: "".into() }
}

/// A message without its content.
fn emptied(record: &Record<'_>) -> Box<MessageEntry> {
    Box::new(MessageEntry {
        seq: record.seq,
        kind: Kind::Revoked,
        id: record.id,
        time_ms: record.time_ms,
        sender_ms: record.sender_ms,
        countable: record.countable,
        sender: CompactString::new(record.sender),
        device: DeviceId { dialect: record.dialect, name: CompactString::new(record.device) },
        client_id: CompactString::new(record.client_id),
        content: 0..0,
        dedup: None,
    })
}

fn outcome(command: &Command, conn: ConnId, result: Result<Done, Refusal>) -> Outcome {
    let to = match result {
        Err(Refusal::NotAFriend | Refusal::Blocked) | Ok(Done::Revoked(_)) => command.to(),
        _ => None,
    };
    Outcome {
        conn,
        conversation: command.key,
        kind: command.conversation.kind(),
        sender: command.sender.clone(),
        client_id: command.client_id.clone(),
        to,
        content_bytes: command.action.content_bytes() as u32,
        result,
    }
}
