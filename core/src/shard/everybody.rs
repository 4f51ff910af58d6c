//! Notices to everybody: one conversation that every user is a member of, from his creation on.
//!
//! Every shard subscribes to it when it starts, and serves no user before it knows the head: who is
//! made then begins there. So a notice that is stored after a user's creation is behind his
//! beginning, and he gets it. The other way round, a shard may make a user while a notice is on its
//! way to it, and he would get what was there before him. Therefore the home answers who has sent a
//! notice only when every shard has heard of it: whoever is made after that answer begins behind it.
//! What is stored while a user is being made comes before or after him; nobody can tell.
//!
//! Its passes are those of groups (`fanout.rs`), with one difference: a user's seat is his place in
//! memory, so that it costs nothing where nobody has ever sent such a notice.

use crate::command::NoticeOperation;
use crate::error::Refusal;
use crate::event::{Answer, ControlId, Effects, Load, Position, Routed, Stored};
use crate::ids::{ConvKey, Conversation, DedupKey, DeviceId, ShardId};
use crate::limits::{CONVERSATION_WAITERS_MAX, UNHEARD_MAX};
use crate::shard::conversations::Request;
use crate::shard::fanout::Audience;
use crate::shard::users::UserRef;
use crate::shard::{Shard, ShardConfig, Waiting};

/// What a shard knows of the notices to everybody, beside their passes.
#[derive(Debug)]
pub(crate) struct Everybody {
    key: ConvKey,
    /// Users that are not served before the head is known.
    waiting: Vec<UserRef>,
    /// At the home: up to where each shard has heard of them.
    heard: Vec<u64>,
    /// At the home: who is answered when all have. At most [`UNHEARD_MAX`].
    unheard: Vec<(ControlId, Stored)>,
}

impl Everybody {
    pub(crate) fn new(config: &ShardConfig) -> Everybody {
        let key = Conversation::Broadcast.key(config.secret);
        let heard = vec![0; usize::from(config.shards)];
        Everybody { key, waiting: Vec::new(), heard, unheard: Vec::new() }
    }

    fn heard_by_all(&self) -> u64 {
        self.heard.iter().copied().min().unwrap_or(0)
    }
}

impl Shard {
    /// The start: from now on they come here.
    pub(crate) fn subscribe_to_everybody(&mut self, effects: &mut Effects) {
        self.subscribe_to(self.everybody.key, Audience::Everybody, effects);
    }

    /// Whether users may be served; if not, this one is when they may.
    pub(crate) fn serves(&mut self, user: UserRef) -> bool {
        let serves = self.groups.head(self.everybody.key).is_some();
        if !serves {
            self.everybody.waiting.push(user);
        }
        serves
    }

    /// Where a user begins that is made now.
    pub(crate) fn beginning(&self) -> u64 {
        self.groups.head(self.everybody.key).expect("nobody is served before it is known")
    }

    /// There is news of a conversation that comes here once for all.
    pub(crate) fn heard_of(&mut self, key: ConvKey, effects: &mut Effects) {
        if key != self.everybody.key {
            return;
        }
        let head = self.beginning();
        let heard = Routed::Heard { from: self.config.shard, head };
        self.route(key.slot.shard(self.config.shards), heard, 0, effects);
        for user in std::mem::take(&mut self.everybody.waiting) {
            self.serve_waiters(user, effects);
        }
    }

    /// At the home: a shard knows of the notices up to `head`.
    pub(crate) fn heard(&mut self, from: ShardId, head: u64, effects: &mut Effects) {
        let heard = &mut self.everybody.heard[usize::from(from.0)];
        *heard = head.max(*heard);
        let all = self.everybody.heard_by_all();
        // What a shard has heard of is durable.
        let (now, rest) = std::mem::take(&mut self.everybody.unheard)
            .into_iter()
            .partition(|(_, stored)| stored.seq <= all);
        self.everybody.unheard = rest;
        let now: Vec<(ControlId, Stored)> = now;
        let answers = now.into_iter().map(|(id, stored)| (id, Answer::Stored(stored)));
        effects.now.answers.extend(answers);
    }

    /// A notice to everybody, at the home.
    pub(crate) fn notice_to_all(
        &mut self,
        id: ControlId,
        notice: Box<NoticeOperation>,
        effects: &mut Effects,
    ) {
        let key = self.everybody.key;
        let index = self.conversation(key, Some(&Conversation::Broadcast), effects);
        let waiting = self.conversations.slab[index as usize].waiting.len();
        if waiting >= CONVERSATION_WAITERS_MAX
            || waiting + self.everybody.unheard.len() >= UNHEARD_MAX
        {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        let dedup = (!notice.id.is_empty())
            .then(|| DedupKey::of_notice(key, None, &notice.id, self.config.secret));
        self.enqueue(index, Request::Notice(id, notice), dedup, effects);
    }

    /// Answers who has sent a notice: at the end of `turn`, or, to everybody, when all shards have
    /// heard of it.
    pub(crate) fn answer_notice(
        &mut self,
        key: ConvKey,
        id: ControlId,
        answer: Answer,
        turn: u64,
        effects: &mut Effects,
    ) {
        match answer {
            Answer::Stored(stored)
                if key == self.everybody.key && stored.seq > self.everybody.heard_by_all() =>
            {
                self.everybody.unheard.push((id, stored));
            }
            answer => self.out(effects, turn).answers.push((id, answer)),
        }
    }

    /// Asks the log where a device stands that may have something to get; `false`: it has not, its
    /// user has begun at the head.
    pub(crate) fn asks_for_everybody(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        effects: &mut Effects,
    ) -> bool {
        let head = self.beginning();
        let owner = self.users.get(user).expect("it has a live device");
        if owner.began() >= head {
            return false;
        }
        let load = Load::Cursors { user: owner.id.clone(), conversation: self.everybody.key };
        self.load(Waiting::Everybody { user, device, epoch }, load, effects);
        true
    }

    /// A device takes its place among everybody, and gets what it has not got, before all else.
    pub(crate) fn place_among_everybody(
        &mut self,
        user: UserRef,
        device: u32,
        cursors: &[(DeviceId, Position)],
        effects: &mut Effects,
    ) {
        let key = self.everybody.key;
        let (seated, head) = self.seat_position(user, key).expect("everybody has a seat");
        let began = self.users.get(user).expect("it has a live device").began();
        let position = self.start(user, device, key, cursors, began, Some(seated), effects);
        if position.acked == seated && position.ranges.is_empty() {
            // Its place is its seat's.
            return;
        }
        let audience = Some(&Audience::Everybody);
        self.begin_reading(user, device, key, position, head, audience);
        if let Some(live) = self.live_now(user, device) {
            live.put_first(key);
        }
    }
}
