//! Friends, requests and blocks: the rules, at the home of the pair's private conversation, and who
//! may write to whom. What the other user is told of it lies in his notices, which this home owes.

use hashbrown::HashMap;

use crate::dialect::json::Scratch;
use crate::error::Refusal;
use crate::event::{Answer, ControlId, Effects, Entry, Load, UserRow};
use crate::happened::Happened;
use crate::hash::Hashing;
use crate::ids::{ConvKey, Conversation, UserId};
use crate::limits::{CHANGES_MAX, CONVERSATION_WAITERS_MAX};
use crate::owed::Owed;
use crate::relations::{
    FriendNews, Person, PrivatePolicy, RelationOperation, RelationRow, Terms, contact_facts,
};
use crate::shard::conversations::{Conv, Pending, Request};
use crate::shard::{Shard, ShardConfig, Waiting};

/// Which users have changed, so that what is known of them elsewhere is looked up again.
///
/// *Bound.* [`CHANGES_MAX`] users; beyond, all that is known is out of date once.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Counts changes.
    clock: u64,
    /// What is known since before this is out of date, whoever it is about.
    floor: u64,
    users: HashMap<UserId, u64, Hashing>,
}

impl Changes {
    pub(crate) fn clock(&self) -> u64 {
        self.clock
    }

    fn note(&mut self, user: UserId) {
        self.clock += 1;
        if self.users.len() >= CHANGES_MAX {
            self.users.clear();
            self.floor = self.clock;
        } else {
            self.users.insert(user, self.clock);
        }
    }

    /// When one of a conversation's members last changed.
    fn latest(&self, name: &Conversation) -> u64 {
        if self.clock == 0 {
            return 0;
        }
        let of = |user: &UserId| self.users.get(user).copied().unwrap_or(0);
        name.marked().map(of).fold(self.floor, u64::max)
    }
}

impl Conv {
    /// Whether the rows of its members must be read before the request is executed. Not in groups:
    /// those know their members.
    pub(crate) fn asks_for_people(
        &self,
        pending: &Pending,
        changes: &Changes,
        policy: PrivatePolicy,
    ) -> bool {
        let Some(name @ (Conversation::Private { .. } | Conversation::Notice(_))) =
            &self.conversation
        else {
            return false;
        };
        let outdated = self.known.is_none_or(|known| known < changes.latest(name));
        outdated
            || match &pending.request {
                Request::Relation(..) => pending.people.is_none(),
                Request::Command(_) => {
                    policy == PrivatePolicy::Contacts
                        && self.contacts.is_none()
                        && !self.are_friends()
                }
                _ => false,
            }
    }

    /// Whether it must be looked up if the two are in a common group: each time, because groups
    /// change without this home's knowing.
    pub(crate) fn asks_for_common_group(&self, pending: &Pending, config: &ShardConfig) -> bool {
        let Some(Conversation::Private { low, high }) = &self.conversation else { return false };
        let policy = config.private_policy;
        let known = pending.common.is_some()
            || low == high
            || self.exists != [true; 2]
            || self.are_friends()
            || (policy == PrivatePolicy::Contacts && self.contacts == Some(true));
        let counts = config.strangers_over_groups && policy != PrivatePolicy::Anyone;
        counts && !known && matches!(pending.request, Request::Command(_))
    }

    /// The request with this ticket, if it still waits.
    fn asker(&mut self, ticket: u64) -> Option<&mut Pending> {
        let at = ticket.checked_sub(self.front)?;
        self.waiting.get_mut(at as usize)
    }

    pub(crate) fn are_friends(&self) -> bool {
        self.relations.as_ref().is_some_and(|rows| rows[0].friends_ms > 0)
    }

    /// Whether the rules let side `from` of a private conversation write to the other one
    /// (protocols/README.md, *Who may do what*).
    pub(crate) fn may_write_to(
        &self,
        from: usize,
        policy: PrivatePolicy,
        common: bool,
    ) -> Result<(), Refusal> {
        if self.relations.as_ref().is_some_and(|rows| rows[1 - from].blocked_ms > 0) {
            return Err(Refusal::Blocked);
        }
        let known = match policy {
            PrivatePolicy::Anyone => true,
            PrivatePolicy::Contacts => self.are_friends() || self.contacts == Some(true),
            PrivatePolicy::Friends => self.are_friends(),
        };
        if known || common { Ok(()) } else { Err(Refusal::NotAFriend) }
    }
}

impl Shard {
    /// Something about a pair whose home this is.
    pub(crate) fn relation(
        &mut self,
        id: ControlId,
        operation: RelationOperation,
        effects: &mut Effects,
    ) {
        let (one, other) = operation.pair();
        let name = Conversation::private(one, other);
        let index = self.conversation(name.key(self.config.secret), Some(&name), effects);
        if self.conversations.slab[index as usize].waiting.len() >= CONVERSATION_WAITERS_MAX {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        self.enqueue(index, Request::Relation(id, Box::new(operation)), None, effects);
    }

    /// Something of this user has changed: row, profile, account.
    pub(crate) fn changed(&mut self, user: UserId) {
        self.changes.note(user);
    }

    /// Reads the rows of a conversation's members if the request needs them.
    pub(crate) fn ask_about_people(&mut self, index: u32, ticket: u64, effects: &mut Effects) {
        let policy = self.config.private_policy;
        let conv = &mut self.conversations.slab[index as usize];
        let pending = &conv.waiting[(ticket - conv.front) as usize];
        if !conv.loaded || pending.asking {
            return;
        }
        if !conv.asks_for_people(pending, &self.changes, policy) {
            return self.ask_about_common_group(index, ticket, effects);
        }
        let name = conv.conversation.as_ref().expect("a loaded one has a name");
        let users: Vec<UserId> = name.marked().cloned().collect();
        let key = conv.key;
        conv.asking += 1;
        conv.waiting[(ticket - conv.front) as usize].asking = true;
        let waiting = Waiting::People { key, ticket, clock: self.changes.clock() };
        self.load(waiting, Load::Users { users }, effects);
    }

    fn ask_about_common_group(&mut self, index: u32, ticket: u64, effects: &mut Effects) {
        let conv = &mut self.conversations.slab[index as usize];
        let at = (ticket - conv.front) as usize;
        if !conv.asks_for_common_group(&conv.waiting[at], &self.config) {
            return;
        }
        let Some(Conversation::Private { low, high }) = &conv.conversation else {
            unreachable!("only two users have a common group")
        };
        let load = Load::CommonGroup { one: low.clone(), other: high.clone() };
        conv.asking += 1;
        conv.waiting[at].asking = true;
        let key = conv.key;
        self.load(Waiting::CommonGroup { key, ticket }, load, effects);
    }

    pub(crate) fn common_group_loaded(
        &mut self,
        key: ConvKey,
        ticket: u64,
        found: bool,
        effects: &mut Effects,
    ) {
        let index = self.conversations.find(key).expect("what asks is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        conv.asking -= 1;
        // It may have gone on already: the two may have become friends.
        if let Some(pending) = conv.asker(ticket) {
            (pending.asking, pending.common) = (false, Some(found));
        }
        self.run(key, effects);
    }

    /// The rows of a conversation's members, as they were when `clock` was.
    pub(crate) fn people_loaded(
        &mut self,
        key: ConvKey,
        ticket: u64,
        clock: u64,
        people: Vec<Option<UserRow>>,
        effects: &mut Effects,
    ) {
        let mut scratch = std::mem::take(&mut self.json);
        let index = self.conversations.find(key).expect("what asks is not evicted");
        let conv = &mut self.conversations.slab[index as usize];
        let open =
            |row: &Option<UserRow>| row.as_ref().is_some_and(|row| row.standing.cancelled_ms == 0);
        let exists = |side: usize| people.get(side).or(people.first()).is_some_and(open);
        conv.exists = [exists(0), exists(1)];
        conv.known = Some(clock);
        conv.contacts = Some(are_contacts(&people, &mut scratch));
        conv.asking -= 1;
        // It may have gone on already, with what another request has learnt.
        if let Some(pending) = conv.asker(ticket) {
            (pending.asking, pending.people) = (false, Some(people));
        }
        self.json = scratch;
        self.run(key, effects);
    }

    /// Executes an operation on a pair; the rows of both users are known.
    pub(crate) fn execute_relation(
        &mut self,
        index: u32,
        id: ControlId,
        operation: &RelationOperation,
        people: &[Option<UserRow>],
        effects: &mut Effects,
    ) {
        let done = match operation {
            RelationOperation::Ask { from, to, terms } => {
                self.ask_to_be_friends(index, from, to, terms, people, effects)
            }
            RelationOperation::Accept { from, to, terms } => {
                self.accept_friend(index, from, to, terms, people, effects)
            }
            RelationOperation::Reject { from, to: _ } => self.reject_friend(index, from, effects),
            RelationOperation::End { .. } => self.end_friendship(index, effects),
            RelationOperation::Block { by, on, .. } => self.block(index, by, *on, effects),
        };
        let answer = done.map_or_else(Answer::Refused, |()| Answer::Done);
        let turn = self.conversations.slab[index as usize].turn;
        self.out(effects, turn).answers.push((id, answer));
    }

    fn ask_to_be_friends(
        &mut self,
        index: u32,
        from: &UserId,
        to: &UserId,
        terms: &Terms,
        people: &[Option<UserRow>],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (conv, side) = self.pair(index, from);
        if conv.exists != [true; 2] {
            return Err(Refusal::NoSuchUser);
        }
        let rows = conv.relations.as_deref();
        if rows.is_some_and(|rows| rows[1 - side].blocked_ms > 0 || rows[side].friends_ms > 0) {
            // He learns nothing from the answer.
            return Ok(());
        }
        if rows.is_some_and(|rows| rows[1 - side].asked_ms > 0) {
            return self.befriend(index, to, from, terms, people, effects);
        }
        let news = self.friend_news(from, to, terms.clone(), "", people);
        let happened = Happened::FriendAsked(Box::new(news));
        self.owe_notice(index, to, from, &happened, effects)?;
        let now_ms = self.now.wall_ms;
        self.change_relation(index, side, effects, |row| {
            row.asked_ms = now_ms;
            row.terms = terms.clone();
        });
        Ok(())
    }

    fn accept_friend(
        &mut self,
        index: u32,
        from: &UserId,
        to: &UserId,
        terms: &Terms,
        people: &[Option<UserRow>],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (conv, side) = self.pair(index, from);
        if conv.are_friends() {
            return Ok(());
        }
        if conv.relations.as_ref().is_none_or(|rows| rows[side].asked_ms == 0) {
            return Err(Refusal::NoSuchRequest);
        }
        self.befriend(index, from, to, terms, people, effects)
    }

    /// `from` has asked, and `to` accepts.
    fn befriend(
        &mut self,
        index: u32,
        from: &UserId,
        to: &UserId,
        terms: &Terms,
        people: &[Option<UserRow>],
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (conv, side) = self.pair(index, from);
        let asked = conv.relations.as_ref().map(|rows| rows[side].terms.clone());
        let asked = asked.expect("the caller has found the request");
        let news = self.friend_news(from, to, asked, &terms.remark, people);
        let happened = Happened::FriendAccepted(Box::new(news));
        self.owe_notice(index, from, to, &happened, effects)?;
        let now_ms = self.now.wall_ms;
        for row_of in [side, 1 - side] {
            self.change_relation(index, row_of, effects, |row| {
                (row.friends_ms, row.asked_ms) = (now_ms, 0);
                if row_of != side {
                    row.terms = terms.clone();
                }
            });
        }
        Ok(())
    }

    fn reject_friend(
        &mut self,
        index: u32,
        from: &UserId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (conv, side) = self.pair(index, from);
        if conv.relations.as_ref().is_none_or(|rows| rows[side].asked_ms == 0) {
            return Err(Refusal::NoSuchRequest);
        }
        self.change_relation(index, side, effects, |row| row.asked_ms = 0);
        Ok(())
    }

    fn end_friendship(&mut self, index: u32, effects: &mut Effects) -> Result<(), Refusal> {
        if !self.conversations.slab[index as usize].are_friends() {
            return Err(Refusal::NotAFriend);
        }
        let now_ms = self.now.wall_ms;
        for side in [0, 1] {
            self.change_relation(index, side, effects, |row| {
                (row.friends_ms, row.ended_ms) = (0, now_ms);
            });
        }
        Ok(())
    }

    fn block(
        &mut self,
        index: u32,
        by: &UserId,
        on: bool,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let (conv, side) = self.pair(index, by);
        if on && conv.exists != [true; 2] {
            return Err(Refusal::NoSuchUser);
        }
        let is = conv.relations.as_ref().is_some_and(|rows| rows[side].blocked_ms > 0);
        if is != on {
            let now_ms = self.now.wall_ms;
            self.change_relation(index, side, effects, |row| {
                row.blocked_ms = if on { now_ms } else { 0 };
            });
        }
        Ok(())
    }

    /// The account `user` was cancelled: nothing is left of what it and the other are to each
    /// other; a friend is told. `false`: not now.
    pub(crate) fn part(&mut self, index: u32, user: &UserId, effects: &mut Effects) -> bool {
        let (conv, side) = self.pair(index, user);
        conv.exists[side] = false;
        let name = conv.conversation.as_ref().expect("loaded");
        let other = name.marked().nth(1 - side).expect("a pair").clone();
        if conv.relations.is_none() {
            return true;
        }
        if conv.are_friends()
            && self.owe_notice(index, &other, user, &Happened::AccountCancelled, effects).is_err()
        {
            return false;
        }
        for side in [0, 1] {
            self.change_relation(index, side, effects, |row| *row = RelationRow::default());
        }
        self.conversations.slab[index as usize].relations = None;
        true
    }

    /// The pair, and on which side of it `user` is.
    fn pair(&mut self, index: u32, user: &UserId) -> (&mut Conv, usize) {
        let conv = &mut self.conversations.slab[index as usize];
        let name = conv.conversation.as_ref().expect("a loaded one has a name");
        let side = name.side(user.as_str()).expect("he is one of the two");
        (conv, side)
    }

    fn friend_news(
        &mut self,
        from: &UserId,
        to: &UserId,
        terms: Terms,
        remark: &str,
        people: &[Option<UserRow>],
    ) -> FriendNews {
        let mut person = |user: &UserId, other: &UserId| {
            // In the order of their ids.
            let row = people.get(usize::from(user > other)).and_then(Option::as_ref);
            let profile = row.map_or("", |row| row.profile.as_str());
            Person::of_profile(profile, &mut self.json)
        };
        let (asker, asked) = (person(from, to), person(to, from));
        let (from, to) = (from.to_string(), to.to_string());
        FriendNews { from, to, terms, remark: remark.to_owned(), asker, asked }
    }

    /// Owes `user` an event in his notices, with the batch of what caused it.
    fn owe_notice(
        &mut self,
        index: u32,
        user: &UserId,
        cause: &UserId,
        happened: &Happened,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let mut content = Vec::new();
        happened.encode(&mut content);
        let slot = self.conversations.slab[index as usize].key.slot;
        let owed = Owed::Notice { user: user.clone(), cause: cause.clone(), content };
        if self.owe(slot, owed, effects) { Ok(()) } else { Err(Refusal::TryAgain) }
    }

    /// Changes one side of a pair and writes it.
    fn change_relation(
        &mut self,
        index: u32,
        side: usize,
        effects: &mut Effects,
        change: impl FnOnce(&mut RelationRow),
    ) {
        let conv = &mut self.conversations.slab[index as usize];
        conv.turn = effects.turn;
        let rows = conv.relations.get_or_insert_default();
        change(&mut rows[side]);
        let row = (!rows[side].is_empty()).then(|| Box::new(rows[side].clone()));
        let name = conv.conversation.as_ref().expect("a loaded one has a name");
        let member = |side| name.marked().nth(side).expect("a pair").clone();
        let (user, other) = (member(side), member(1 - side));
        effects.entries.push(Entry::Relation { user, other, row });
    }
}

/// Whether two users may write to each other under [`PrivatePolicy::Contacts`] without being
/// friends.
fn are_contacts(people: &[Option<UserRow>], scratch: &mut Scratch) -> bool {
    let [Some(one), Some(other)] = people else { return true };
    let (one, one_serves) = contact_facts(&one.profile, scratch);
    let (other, other_serves) = contact_facts(&other.profile, scratch);
    one_serves || other_serves || (!one.is_empty() && one == other)
}
