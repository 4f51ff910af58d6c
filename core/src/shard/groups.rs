//! A group at home: who is a member, what members may do, and which shards want its records.
//!
//! The roster is not in memory: a request about members waits until those it names are known
//! (`requests.rs`). Every change of members is a record of the group's own log; the batch that
//! has it also has the rows that follow from it, here and under the members' slots.

use hashbrown::HashMap;

use crate::command::{Command, GroupOperation};
use crate::error::Refusal;
use crate::event::{
    Answer, ControlId, Effects, Entry, GroupRow, JoinPolicy, Load, MemberLoaded, MemberRole,
    MemberRow, MembershipRow, OPEN, Routed, Stored,
};
use crate::happened::Happened;
use crate::hash::Hashing;
use crate::ids::{ConvKey, Conversation, DeviceId, GroupId, ShardId, UserId};
use crate::limits::{GROUP_MEMBERS_MAX, MEMBERS_CHANGED_MAX, MEMBERS_KNOWN, MEMBERSHIP_RANGES_MAX};
use crate::owed::Owed;
use crate::record::Kind;
use crate::shard::appending::{Draft, no_device};
use crate::shard::conversations::Request;
use crate::shard::debts::Bill;
use crate::shard::{Shard, Waiting};

/// What a group's home knows beside what it knows of every conversation.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// `None`: there is no such group.
    pub(crate) row: Option<Box<GroupRow>>,
    /// Those of the users that were asked about lately, members or not.
    members: HashMap<UserId, Member, Hashing>,
    /// Questions about members that the log has not answered. A request does not wait for its own
    /// when the answer to another's is enough.
    pub(crate) asking: u32,
    /// The shards that want its records.
    pub(crate) subscribers: Subscribers,
    /// Shards that wait for the head until the group is loaded.
    pub(crate) asked: Vec<ShardId>,
}

/// A user as a group knows it.
#[derive(Debug)]
struct Member {
    exists: bool,
    row: Option<MemberRow>,
    /// See [`MembershipRow::ranges`].
    ranges: Vec<(u64, u64)>,
    /// The last turn that changed it: before that is durable the log does not know it.
    turn: u64,
}

/// A set of shards.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscribers {
    bits: [u64; 4],
}

impl Subscribers {
    pub(crate) fn all(shards: u16) -> Subscribers {
        let mut all = Subscribers::default();
        (0..shards).for_each(|shard| all.insert(ShardId(shard)));
        all
    }

    pub(crate) fn insert(&mut self, shard: ShardId) {
        self.bits[usize::from(shard.0 / 64)] |= 1 << (shard.0 % 64);
    }

    pub(crate) fn remove(&mut self, shard: ShardId) {
        self.bits[usize::from(shard.0 / 64)] &= !(1 << (shard.0 % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bits == [0; 4]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ShardId> {
        (0..256u16).filter(|n| self.bits[usize::from(n / 64)] >> (n % 64) & 1 == 1).map(ShardId)
    }
}

impl Group {
    /// Whether nothing of it would be missed if it were not in memory.
    pub(crate) fn rests(&self) -> bool {
        self.subscribers.is_empty() && self.asking == 0
    }

    /// Whether everything that the request's execution looks at is known.
    pub(crate) fn knows(&self, request: &Request) -> bool {
        match request {
            Request::Command(command) => {
                concerned(command).all(|user| self.members.contains_key(user))
            }
            Request::Seen(user, _) => self.members.contains_key(user),
            Request::Owed(bill) => self.leaving(bill).all(|user| self.members.contains_key(user)),
            Request::Relation(..) | Request::Notice(..) | Request::Subscribe(_) => true,
            Request::Group(_, operation) => {
                self.involved(operation).all(|user| self.members.contains_key(user))
            }
        }
    }

    /// The users that a request is about and that are not known.
    pub(crate) fn unknown(&self, request: &Request) -> Vec<UserId> {
        match request {
            Request::Command(command) => {
                let unknown = concerned(command);
                unknown.filter(|user| !self.members.contains_key(*user)).cloned().collect()
            }
            Request::Seen(user, _) => vec![user.clone()],
            Request::Owed(bill) => {
                let unknown = self.leaving(bill);
                unknown.filter(|user| !self.members.contains_key(*user)).cloned().collect()
            }
            Request::Relation(..) | Request::Notice(..) | Request::Subscribe(_) => Vec::new(),
            Request::Group(_, operation) => {
                let unknown = self.involved(operation);
                unknown.filter(|user| !self.members.contains_key(*user)).cloned().collect()
            }
        }
    }

    /// Who leaves because his account is cancelled, and who may get the group then.
    fn leaving<'a>(&self, bill: &'a Bill) -> impl Iterator<Item = &'a UserId> + use<'a> {
        let users = match &bill.owed {
            Owed::Leave { user, heir, .. } => [Some(user), heir.as_ref()],
            _ => [None, None],
        };
        users.into_iter().flatten()
    }

    fn involved<'a>(
        &'a self,
        operation: &'a GroupOperation,
    ) -> impl Iterator<Item = &'a UserId> + 'a {
        let owner = self.row.as_ref().map(|row| &row.owner);
        let (listed, named): (&[UserId], [Option<&UserId>; 2]) = match operation {
            GroupOperation::Create { owner, members, .. } => (members, [Some(owner), None]),
            GroupOperation::Add { users, .. } => (users, [None, None]),
            GroupOperation::Remove { user, .. } => (&[], [Some(user), None]),
            GroupOperation::ChangeMember { user, role: Some(MemberRole::Owner), .. } => {
                (&[], [Some(user), owner])
            }
            GroupOperation::ChangeMember { user, .. } => (&[], [Some(user), None]),
            GroupOperation::Get
            | GroupOperation::Change { .. }
            | GroupOperation::Dissolve { .. }
            | GroupOperation::List { .. } => (&[], [None, None]),
        };
        listed.iter().chain(named.into_iter().flatten())
    }

    /// What the log says. What is known already is newer.
    pub(crate) fn learn(&mut self, loaded: impl Iterator<Item = (UserId, MemberLoaded)>) {
        for (user, MemberLoaded { exists, member, ranges }) in loaded {
            let member = Member { exists, row: member, ranges, turn: 0 };
            self.members.entry(user).or_insert(member);
        }
    }

    fn row_of(&self, user: &UserId) -> Option<&MemberRow> {
        self.members.get(user).and_then(|member| member.row.as_ref())
    }

    /// Whether this user may write into it.
    pub(crate) fn may_write(&self, sender: &UserId) -> Result<(), Refusal> {
        self.open()?;
        self.row_of(sender).map(|_| ()).ok_or(Refusal::NotInGroup)
    }

    /// Whether this user is a member; it must be known.
    pub(crate) fn has_member(&self, user: &UserId) -> bool {
        self.row_of(user).is_some()
    }

    /// Whether this user may revoke what others have said.
    pub(crate) fn may_manage(&self, user: &UserId) -> bool {
        self.row_of(user).is_some_and(|row| row.role >= MemberRole::Admin)
    }

    /// Whether it is there and not dissolved.
    pub(crate) fn is_open(&self) -> Result<(), Refusal> {
        self.open().map(|_| ())
    }

    /// The row of a group that is not dissolved.
    fn open(&self) -> Result<&GroupRow, Refusal> {
        let row = self.row.as_deref().filter(|row| row.closed_seq == 0);
        row.ok_or(Refusal::NoSuchGroup)
    }
}

/// Who writes, and whom he mentions.
fn concerned(command: &Command) -> impl Iterator<Item = &UserId> {
    std::iter::once(&command.sender).chain(command.action.mentioned())
}

impl Shard {
    /// Executes an operation of the control plane; what it looks at is known.
    pub(crate) fn execute_operation(
        &mut self,
        index: u32,
        id: ControlId,
        operation: GroupOperation,
        effects: &mut Effects,
    ) {
        let answer = match operation {
            GroupOperation::List { after, limit } => {
                let group = self.group(index);
                let Some(name) = group.row.is_some().then(|| self.group_name(index)) else {
                    return self.answer_operation(index, id, Err(Refusal::NoSuchGroup), effects);
                };
                let load = Load::Roster { group: name, after, limit };
                return self.load(Waiting::Roster { id }, load, effects);
            }
            GroupOperation::Get => match &self.group(index).row {
                Some(row) => Ok(Answer::Group { row: row.clone(), created: false }),
                None => Err(Refusal::NoSuchGroup),
            },
            GroupOperation::Create { owner, members, join_policy, profile } => {
                let row = GroupRow {
                    created_ms: self.now.wall_ms,
                    owner,
                    join_policy,
                    members: 0,
                    closed_seq: 0,
                    profile,
                };
                self.create_group(index, row, members, effects)
            }
            GroupOperation::Change { join_policy, profile } => {
                self.change_group(index, join_policy, profile, effects)
            }
            GroupOperation::Dissolve { by } => self.dissolve(index, by, effects),
            GroupOperation::Add { users, by } => self.add_members(index, users, by, effects),
            GroupOperation::Remove { user, by } => self.remove_member(index, user, by, effects),
            GroupOperation::ChangeMember { user, alias, description, role } => {
                self.change_member(index, user, alias, description, role, effects)
            }
        };
        self.answer_operation(index, id, answer, effects);
    }

    fn answer_operation(
        &self,
        index: u32,
        id: ControlId,
        answer: Result<Answer, Refusal>,
        effects: &mut Effects,
    ) {
        let turn = self.conversations.slab[index as usize].turn;
        let answer = answer.unwrap_or_else(Answer::Refused);
        self.out(effects, turn).answers.push((id, answer));
    }

    fn create_group(
        &mut self,
        index: u32,
        row: GroupRow,
        members: Vec<UserId>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let group = self.group(index);
        if group.row.is_some() {
            return Err(Refusal::GroupExists);
        }
        let owner = row.owner.clone();
        let mut users = vec![owner.clone()];
        users.extend(each_once(members).into_iter().filter(|user| *user != owner));
        group.row = Some(Box::new(row));
        let joined = self.join(index, users, &owner, effects);
        let group = self.group(index);
        if let Err(refusal) = joined {
            group.row = None;
            return Err(refusal);
        }
        let row = group.row.clone().expect("made above");
        Ok(Answer::Group { row, created: true })
    }

    fn change_group(
        &mut self,
        index: u32,
        join_policy: Option<JoinPolicy>,
        profile: Option<String>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let group = self.group(index);
        group.open()?;
        let row = group.row.as_mut().expect("it is open");
        row.join_policy = join_policy.unwrap_or(row.join_policy);
        if let Some(profile) = profile {
            row.profile = profile;
        }
        let row = row.clone();
        self.write_group(index, effects);
        Ok(Answer::Group { row, created: false })
    }

    fn dissolve(
        &mut self,
        index: u32,
        by: Option<UserId>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let by = by.unwrap_or(self.group(index).open()?.owner.clone());
        let stored = self.append_event(index, &Happened::Dissolved, &by, effects)?;
        self.group(index).row.as_mut().expect("it is open").closed_seq = stored.seq;
        self.write_group(index, effects);
        Ok(Answer::Done)
    }

    fn add_members(
        &mut self,
        index: u32,
        users: Vec<UserId>,
        by: Option<UserId>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let users = each_once(users);
        let group = self.group(index);
        let by = by.unwrap_or(group.open()?.owner.clone());
        let new: Vec<UserId> =
            users.iter().filter(|user| group.row_of(user).is_none()).cloned().collect();
        if !new.is_empty() {
            self.join(index, new, &by, effects)?;
        }
        let group = self.group(index);
        let rows = users.into_iter().filter_map(|user| {
            let row = group.row_of(&user)?.clone();
            Some((user, row))
        });
        Ok(Answer::Members(rows.collect()))
    }

    fn remove_member(
        &mut self,
        index: u32,
        user: UserId,
        by: Option<UserId>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let group = self.group(index);
        let owner = &group.open()?.owner;
        if *owner == user {
            // He transfers the group or dissolves it.
            return Err(Refusal::NotPermitted);
        }
        group.row_of(&user).ok_or(Refusal::NotInGroup)?;
        let by = by.unwrap_or_else(|| owner.clone());
        let users = vec![user];
        let happened = Happened::MembersLeft { users: texts(&users) };
        self.tell_members(index, false, &users, &happened, &by, effects)?;
        Ok(Answer::Done)
    }

    fn change_member(
        &mut self,
        index: u32,
        user: UserId,
        alias: Option<String>,
        description: Option<String>,
        role: Option<MemberRole>,
        effects: &mut Effects,
    ) -> Result<Answer, Refusal> {
        let (wall_ms, turn) = (self.now.wall_ms, effects.turn);
        let group = self.group(index);
        let owner = group.open()?.owner.clone();
        let mut row = group.row_of(&user).ok_or(Refusal::NotInGroup)?.clone();
        if user == owner && role.is_some_and(|role| role != MemberRole::Owner) {
            return Err(Refusal::NotPermitted);
        }
        if alias.is_some() || description.is_some() {
            row.alias = alias.unwrap_or(row.alias);
            row.description = description.unwrap_or(row.description);
            let happened = Happened::AliasChanged {
                user: user.to_string(),
                alias: row.alias.clone(),
                description: row.description.clone(),
            };
            let stored = self.append_event(index, &happened, &user, effects)?;
            row.updated_ms = stored.time_ms.max(wall_ms);
        }
        row.role = role.unwrap_or(row.role);
        let transfers = role == Some(MemberRole::Owner) && user != owner;
        self.set_member(index, &user, row.clone(), turn, effects);
        if transfers {
            let group = self.group(index);
            let mut former = group.row_of(&owner).expect("the owner is a member").clone();
            former.role = MemberRole::Admin;
            group.row.as_mut().expect("it is open").owner = user.clone();
            self.set_member(index, &owner, former, turn, effects);
            self.write_group(index, effects);
        }
        Ok(Answer::Members(vec![(user, row)]))
    }

    /// The account `user` was cancelled: it is a member no more, and sees nothing more. A group that
    /// it owns goes to the heir if that is a member, else it is dissolved. `false`: not now.
    pub(crate) fn leave(
        &mut self,
        index: u32,
        user: &UserId,
        heir: Option<UserId>,
        effects: &mut Effects,
    ) -> bool {
        let group = self.group(index);
        if let Some(member) = group.members.get_mut(user) {
            member.exists = false;
        }
        let Ok(row) = group.open() else { return true };
        if group.row_of(user).is_none() {
            return true;
        }
        let left = if row.owner != *user {
            self.remove_member(index, user.clone(), Some(user.clone()), effects)
        } else if let Some(heir) = heir.filter(|heir| heir != user && group.row_of(heir).is_some())
        {
            let owner = Some(MemberRole::Owner);
            self.change_member(index, heir, None, None, owner, effects)
                .and_then(|_| self.remove_member(index, user.clone(), Some(user.clone()), effects))
        } else {
            self.dissolve(index, Some(user.clone()), effects)
        };
        if left.is_err() {
            return false;
        }
        // No device of his will ever see the last of it.
        let (name, key) = (self.group_name(index), self.key_of(index));
        let group = self.group(index);
        let member = group.members.get_mut(user).expect("looked at above");
        (member.turn, member.row) = (effects.turn, None);
        member.ranges.clear();
        effects.entries.push(Entry::Member { group: name, user: user.clone(), row: None });
        let user = user.clone();
        effects.entries.push(Entry::Membership { user, conversation: key, row: None });
        true
    }

    /// Makes users members who are none yet: record, rows and news.
    fn join(
        &mut self,
        index: u32,
        users: Vec<UserId>,
        by: &UserId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let group = self.group(index);
        if users.len() > MEMBERS_CHANGED_MAX {
            return Err(Refusal::TooLarge);
        }
        if !users.iter().all(|user| group.members.get(user).is_some_and(|member| member.exists)) {
            return Err(Refusal::NoSuchUser);
        }
        let members = group.row.as_ref().map_or(0, |row| row.members) as usize + users.len();
        if members > GROUP_MEMBERS_MAX as usize {
            return Err(Refusal::GroupFull);
        }
        let happened = Happened::MembersJoined { users: texts(&users) };
        self.tell_members(index, true, &users, &happened, by, effects)
    }

    /// The record of a change of members, the rows that follow from it, and the news of it.
    fn tell_members(
        &mut self,
        index: u32,
        joined: bool,
        users: &[UserId],
        happened: &Happened,
        by: &UserId,
        effects: &mut Effects,
    ) -> Result<(), Refusal> {
        let turn = effects.turn;
        let (content, device) = (encoded(happened), no_device());
        let draft = event(&content, by.as_str(), &device);
        let stored = self.append(index, &draft, effects).ok_or(Refusal::TryAgain)?;
        for user in users {
            self.write_member(index, user, joined, stored.seq, turn, effects);
        }
        let group = self.group(index);
        let row = group.row.as_mut().expect("it is open");
        let count = users.len() as u32;
        row.members = if joined { row.members + count } else { row.members - count };
        self.write_group(index, effects);
        self.send_memberships(index, joined, stored.seq, users, effects);
        self.spread(index, &draft, stored, None, None, effects);
        Ok(())
    }

    /// Writes a member's lines in the roster and among the user's memberships.
    fn write_member(
        &mut self,
        index: u32,
        user: &UserId,
        joined: bool,
        seq: u64,
        turn: u64,
        effects: &mut Effects,
    ) {
        let (name, key) = (self.group_name(index), self.key_of(index));
        let group = self.group(index);
        let owner = group.row.as_ref().is_some_and(|row| row.owner == *user);
        let member = group.members.get_mut(user).expect("looked at before");
        member.turn = turn;
        if joined {
            member.ranges.push((seq, OPEN));
            if member.ranges.len() > MEMBERSHIP_RANGES_MAX {
                member.ranges.remove(0);
            }
            member.row = Some(MemberRow {
                role: if owner { MemberRole::Owner } else { MemberRole::Member },
                joined_seq: seq,
                alias: String::new(),
                description: String::new(),
                updated_ms: 0,
            });
        } else {
            member.row = None;
            member.ranges.last_mut().expect("a member has an open range").1 = seq;
        }
        let row = member.row.clone().map(Box::new);
        let ranges = member.ranges.clone();
        effects.entries.push(Entry::Member { group: name.clone(), user: user.clone(), row });
        let row = Some(Box::new(MembershipRow { group: name, ranges }));
        effects.entries.push(Entry::Membership { user: user.clone(), conversation: key, row });
    }

    fn set_member(
        &mut self,
        index: u32,
        user: &UserId,
        row: MemberRow,
        turn: u64,
        effects: &mut Effects,
    ) {
        let name = self.group_name(index);
        let conv = &mut self.conversations.slab[index as usize];
        conv.turn = turn;
        let group = conv.group.as_mut().expect("looked at by the caller");
        let member = group.members.get_mut(user).expect("looked at by the caller");
        (member.row, member.turn) = (Some(row.clone()), turn);
        let row = Some(Box::new(row));
        effects.entries.push(Entry::Member { group: name, user: user.clone(), row });
    }

    fn write_group(&mut self, index: u32, effects: &mut Effects) {
        let name = self.group_name(index);
        let conv = &mut self.conversations.slab[index as usize];
        conv.turn = effects.turn;
        let row = conv.group.as_ref().and_then(|group| group.row.clone());
        let row = row.expect("a group that is written exists");
        effects.entries.push(Entry::Group { group: name, row });
    }

    /// Tells the homes of these users that their membership has changed, in front of the record.
    fn send_memberships(
        &mut self,
        index: u32,
        joined: bool,
        seq: u64,
        users: &[UserId],
        effects: &mut Effects,
    ) {
        let group = self.group_name(index);
        for home in (0..self.config.shards).map(ShardId) {
            let here = |user: &&UserId| user.slot().shard(self.config.shards) == home;
            let users: Vec<UserId> = users.iter().filter(here).cloned().collect();
            if !users.is_empty() {
                let news = Routed::Membership { group: group.clone(), seq, joined, users };
                self.route_later(home, news, effects.turn, effects);
            }
        }
    }

    /// An event without rows of its own, for all who are members.
    fn append_event(
        &mut self,
        index: u32,
        happened: &Happened,
        by: &UserId,
        effects: &mut Effects,
    ) -> Result<Stored, Refusal> {
        let (content, device) = (encoded(happened), no_device());
        let draft = event(&content, by.as_str(), &device);
        let stored = self.append(index, &draft, effects).ok_or(Refusal::TryAgain)?;
        self.spread(index, &draft, stored, None, None, effects);
        Ok(stored)
    }

    /// A shard wants the conversation's records from now on.
    pub(crate) fn subscribe(&mut self, from: ShardId, name: &Conversation, effects: &mut Effects) {
        let index = self.conversation(name.key(self.config.secret), Some(name), effects);
        if *name == Conversation::Broadcast {
            // Everything goes to every shard; it only has to know what came before.
            return self.enqueue(index, Request::Subscribe(from), None, effects);
        }
        let conv = &mut self.conversations.slab[index as usize];
        conv.group.get_or_insert_default().asked.push(from);
        if conv.loaded {
            self.answer_subscribers(index, effects);
        }
    }

    /// Tells the shards that have asked where the group stands. What is not durable yet is known to
    /// them when it is.
    pub(crate) fn answer_subscribers(&mut self, index: u32, effects: &mut Effects) {
        let conv = &mut self.conversations.slab[index as usize];
        let (conversation, head, turn) = (conv.key, conv.head, conv.turn);
        let Some(group) = &mut conv.group else { return };
        let asked = std::mem::take(&mut group.asked);
        asked.iter().for_each(|from| group.subscribers.insert(*from));
        for from in asked {
            let news = Routed::Subscribed { conversation, head };
            self.route_later(from, news, turn, effects);
        }
    }

    /// A shard has nobody left who wants the group's records.
    pub(crate) fn unsubscribe(&mut self, from: ShardId, key: ConvKey) {
        let Some(index) = self.conversations.find(key) else { return };
        if let Some(group) = &mut self.conversations.slab[index as usize].group {
            group.asked.retain(|asked| *asked != from);
            group.subscribers.remove(from);
        }
    }

    /// Every device of the user has everything up to `seq`. If nothing more can come, the user's
    /// membership is forgotten.
    pub(crate) fn membership_seen(
        &mut self,
        index: u32,
        user: &UserId,
        seq: u64,
        effects: &mut Effects,
    ) {
        let (name, key) = (self.group_name(index), self.key_of(index));
        let conv = &mut self.conversations.slab[index as usize];
        let group = conv.group.as_mut().expect("looked at by the caller");
        let closed = group.row.as_ref().is_some_and(|row| row.closed_seq == seq);
        let member = group.members.get_mut(user).expect("looked at before");
        let over = member.ranges.last().is_some_and(|&(_, last)| {
            // The user may have come back since.
            last == seq || (last == OPEN && closed)
        });
        if !over {
            return;
        }
        member.ranges.clear();
        member.turn = effects.turn;
        let listed = member.row.take().is_some();
        conv.turn = effects.turn;
        let user = user.clone();
        if listed {
            effects.entries.push(Entry::Member { group: name, user: user.clone(), row: None });
        }
        effects.entries.push(Entry::Membership { user, conversation: key, row: None });
    }

    /// Forgets members, when there are many, whose rows the log knows. Not while it is being asked:
    /// its answer could be older than what is forgotten.
    pub(crate) fn forget_members(&mut self, index: u32) {
        let durable = self.durable;
        let conv = &mut self.conversations.slab[index as usize];
        let Some(group) = &mut conv.group else { return };
        if group.asking == 0 && group.members.len() > MEMBERS_KNOWN {
            group.members.retain(|_, member| member.turn > durable);
        }
    }

    fn group(&mut self, index: u32) -> &mut Group {
        let group = self.conversations.slab[index as usize].group.as_mut();
        group.expect("the caller knows that it is a group")
    }

    fn group_name(&self, index: u32) -> GroupId {
        match &self.conversations.slab[index as usize].conversation {
            Some(Conversation::Group(name)) => name.clone(),
            other => panic!("{other:?} is no group"),
        }
    }

    fn key_of(&self, index: u32) -> ConvKey {
        self.conversations.slab[index as usize].key
    }
}

/// The record of an event.
pub(crate) fn event<'a>(content: &'a [u8], by: &'a str, device: &'a DeviceId) -> Draft<'a> {
    Draft {
        id: None,
        kind: Kind::Event,
        sender_ms: None,
        sender: by,
        device,
        client_id: "",
        content,
        dedup: None,
    }
}

fn encoded(happened: &Happened) -> Vec<u8> {
    let mut content = Vec::new();
    happened.encode(&mut content);
    content
}

/// Users in the order of their ids. A membership that begins twice at the same record would be a row
/// that the log does not read again.
fn each_once(mut users: Vec<UserId>) -> Vec<UserId> {
    users.sort_unstable();
    users.dedup();
    users
}

fn texts(users: &[UserId]) -> Vec<String> {
    users.iter().map(UserId::to_string).collect()
}
