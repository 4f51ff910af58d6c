//! What is asked of a conversation, at its home. A request waits here until what it needs is loaded
//! (the conversation, whether it is a resend, whom it names), in order of arrival; then it is
//! executed without waiting.

use crate::command::{Action, Command, Done, GroupOperation, NoticeOperation, Origin, Outcome};
use crate::error::Refusal;
use crate::event::{Answer, ControlId, Effects, Load, MemberLoaded, Post, Routed, Stored};
use crate::ids::{ConnId, ConvKey, Conversation, DedupKey, MessageId, UserId};
use crate::limits::{CONVERSATION_WAITERS_MAX, DEDUP_KEPT_MS, REVOKE_SEARCH_MAX};
use crate::record::Page;
use crate::shard::appending::no_device;
use crate::shard::conversations::{Pending, Request, Target};
use crate::shard::{Shard, Waiting};

impl Shard {
    /// A command for a conversation of this shard.
    pub(crate) fn command(&mut self, command: Command, effects: &mut Effects) {
        let index = self.conversation(command.key, Some(&command.conversation), effects);
        let conv = &mut self.conversations.slab[index as usize];
        if conv.waiting.len() >= CONVERSATION_WAITERS_MAX {
            return self.answer(&command, Err(Refusal::TryAgain), 0, effects);
        }
        // A scheduled one was new when it came, and would find itself.
        let scheduled = matches!(command.origin, Origin::Schedule(_));
        let dedup = self.dedup_of(&command).filter(|_| !scheduled);
        self.enqueue(index, Request::Command(command), dedup, effects);
    }

    /// Where a resend of the command's message finds it.
    pub(crate) fn dedup_of(&self, command: &Command) -> Option<DedupKey> {
        let stores = matches!(command.action, Action::Send { .. });
        (stores && !command.client_id.is_empty()).then(|| {
            DedupKey::new(command.key, &command.sender, &command.client_id, self.config.secret)
        })
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
        let dedup = (!notice.id.is_empty())
            .then(|| DedupKey::of_notice(key, Some(user), &notice.id, self.config.secret));
        self.enqueue(index, Request::Notice(id, notice), dedup, effects);
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
    pub(crate) fn ask_about_members(&mut self, index: u32, ticket: u64, effects: &mut Effects) {
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
                Request::Subscribe(from) => {
                    let conv = &self.conversations.slab[index as usize];
                    let (head, turn) = (conv.head, conv.turn);
                    let news = Routed::Subscribed { conversation: key, head };
                    self.route_later(from, news, turn, effects);
                }
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
            Action::Send { after_ms, .. } if after_ms > 0 => {
                self.schedule(index, &command, after_ms, dedup, effects);
            }
            Action::Send { .. } => self.store(index, &command, dedup, effects),
            Action::Signal { .. } => {
                self.relay(&command, turn, effects);
                self.answer(&command, Ok(Done::Relayed), turn, effects);
            }
            Action::Revoke { .. } => unreachable!("executed above"),
        }
    }

    /// Tells who has asked what became of it, once `turn` is durable.
    pub(crate) fn answer(
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
            Origin::Schedule(key) => self.fired(key, &result, effects),
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
