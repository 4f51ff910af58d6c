//! What the shards hand to the log, as the model keeps it: one list of records for each
//! conversation, and what is durable of it. Every entry is judged when it is made: seqs are gapless,
//! ids new, nothing is stored that nobody has sent, nothing twice, nothing too early, and nobody
//! writes where he may not.

use std::collections::BTreeMap;

use ringpost_core::Now;
use ringpost_core::event::{Entry, GroupRow, MessageEntry, UserRow};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{ConvKey, MessageId};
use ringpost_core::record::Kind;

use crate::model::{Intent, Model, Stage};
use crate::names::{Place, Set};

/// What a record is, for its wire id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Sort {
    Message,
    Revoke,
    Event,
}

/// A record.
#[derive(Clone, Debug)]
pub struct Rec {
    pub id: MessageId,
    pub time_ms: u64,
    pub sort: Sort,
    pub sender: Option<usize>,
    /// Under which receivers know it.
    pub wire: String,
    /// The message that it is, if it is one (or a notice).
    pub intent: Option<usize>,
    /// The message that it takes back.
    pub revokes: Option<u64>,
    /// The record that takes it back.
    pub revoked_by: Option<u64>,
    /// It is its conversation's last.
    pub closes: bool,
    /// Counts as unread.
    pub says: bool,
    pub countable: u64,
    /// Of a group: the members behind it.
    pub members: Set,
    /// Whose part of the log it is.
    pub visible: Set,
    /// Whose devices are shown it.
    pub shown: Set,
}

/// The records of a conversation; seq 1 is the first.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub recs: Vec<Rec>,
    pub durable: usize,
}

impl Log {
    pub fn len(&self) -> u64 {
        self.recs.len() as u64
    }

    pub fn get(&self, seq: u64) -> Option<&Rec> {
        self.recs.get((seq as usize).checked_sub(1)?)
    }

    pub fn is_durable(&self, seq: u64) -> bool {
        (1..=self.durable as u64).contains(&seq)
    }

    pub fn members(&self) -> Set {
        self.recs.last().map_or(Set::default(), |rec| rec.members)
    }

    pub fn durable_members(&self) -> Set {
        let last = self.durable.checked_sub(1);
        last.map_or(Set::default(), |last| self.recs[last].members)
    }
}

/// Where an id was used.
#[derive(Clone, Copy, Debug)]
pub struct IdUse {
    /// It was given to a message that is stored later.
    pub scheduled: bool,
    pub at: Option<(Place, u64)>,
}

/// What changes when a turn is durable.
#[derive(Clone, Debug)]
pub enum Fact {
    Record(Place),
    User(usize, UserRow),
    Group(usize, GroupRow),
    Device(usize, String),
    Read(usize, Place, u64),
    Due(MessageId, bool),
    Blocked(usize, usize, bool),
}

impl Model {
    /// Judges an entry of the open turn; what it changes once that is durable goes to `facts`.
    pub fn entry(&mut self, now: Now, entry: &Entry, bytes: &[u8], facts: &mut Vec<Fact>) {
        // The clock may be set back while a message is read whose time had come.
        self.latest_ms = self.latest_ms.max(now.wall_ms);
        match entry {
            Entry::Conversation { key, conversation } => {
                let place = self.names.place(conversation);
                let former = self.keys.insert(*key, place);
                assert!(former.is_none_or(|former| former == place), "{place:?} has two keys");
            }
            Entry::Message { conversation, record } => {
                let place = self.place(*conversation);
                self.append(now, place, record, bytes);
                facts.push(Fact::Record(place));
            }
            Entry::Emptied { conversation, record } => {
                let place = self.place(*conversation);
                self.empty(place, record);
            }
            Entry::Due { key, message: Some(message) } => {
                let place = self.names.place(&message.conversation);
                let intent = self.intent_of(place, &message.content);
                let intent = &mut self.intents[intent];
                let due = intent.after_ms.map(|after| now.wall_ms + after);
                assert_eq!(due, Some(key.due_ms), "{intent:?}: when it is due");
                assert!(intent.due.is_none(), "{intent:?} is scheduled twice");
                intent.due = Some((key.id, key.due_ms));
                let used = IdUse { scheduled: true, at: None };
                assert!(self.ids.insert(key.id, used).is_none(), "the id {} is used again", key.id);
                facts.push(Fact::Due(key.id, true));
            }
            Entry::Due { key, message: None } => facts.push(Fact::Due(key.id, false)),
            Entry::User { user, row } => {
                let user = self.names.user(user.as_str());
                self.user_written(user, row);
                facts.push(Fact::User(user, row.clone()));
            }
            Entry::Group { group, row } => {
                let group = self.names.group(group.as_str());
                let members = self.log(Place::Group(group)).members().iter().count();
                let open = row.closed_seq == 0;
                assert!(!open || row.members as usize == members, "members of group {group}");
                facts.push(Fact::Group(group, (**row).clone()));
            }
            Entry::Device { user, device, .. } => {
                let user = self.names.user(user.as_str());
                self.device_written(user, &device.name);
                facts.push(Fact::Device(user, device.name.to_string()));
            }
            Entry::Read { user, conversation, seq } => {
                let (user, place) = (self.names.user(user.as_str()), self.place(*conversation));
                facts.push(Fact::Read(user, place, *seq));
            }
            Entry::Relation { user, other, row } => {
                let (by, other) = (self.names.user(user.as_str()), self.names.user(other.as_str()));
                let on = row.as_ref().is_some_and(|row| row.blocked_ms > 0);
                facts.push(Fact::Blocked(by, other, on));
            }
            _ => {}
        }
    }

    fn place(&self, key: ConvKey) -> Place {
        *self.keys.get(&key).unwrap_or_else(|| panic!("{key:?} has no name"))
    }

    pub fn log(&self, place: Place) -> &Log {
        const EMPTY: &Log = &Log { recs: Vec::new(), durable: 0 };
        self.logs.get(&place).unwrap_or(EMPTY)
    }

    fn append(&mut self, now: Now, place: Place, record: &MessageEntry, bytes: &[u8]) {
        let (len, before) = {
            let log = self.log(place);
            (log.len(), log.recs.last().cloned())
        };
        let seq = record.seq;
        assert_eq!(seq, len + 1, "{place:?}: seqs are gapless and never repeat");
        let closed = before.as_ref().is_some_and(|last| last.closes);
        assert!(!closed, "{place:?} {seq}: the group is dissolved");
        let (was_ms, members, count) =
            before.map_or((0, Set::default(), 0), |b| (b.time_ms, b.members, b.countable));
        assert_eq!(record.time_ms, was_ms.max(now.wall_ms), "{place:?} {seq}: its time");
        let sender = (!record.sender.is_empty()).then(|| self.names.user(&record.sender));
        let content = &bytes[record.content.start as usize..record.content.end as usize];
        let rec = Rec {
            id: record.id,
            time_ms: record.time_ms,
            sort: Sort::Event,
            sender,
            wire: record.id.to_string(),
            intent: None,
            revokes: None,
            revoked_by: None,
            closes: false,
            says: false,
            countable: count,
            members,
            visible: members,
            shown: members,
        };
        let rec = match record.kind {
            Kind::Message | Kind::Neutral => self.append_message(place, rec, record, content),
            Kind::Event => self.append_event(place, rec, content),
            Kind::Revoked => panic!("{place:?} {seq} is revoked before it is there"),
        };
        assert_eq!(record.countable, rec.countable, "{place:?} {seq}: what counts up to it");
        self.use_id(place, seq, &rec);
        let key = (place, rec.sort, rec.wire.clone());
        self.wires.entry(key).or_default().push(seq);
        self.logs.entry(place).or_default().recs.push(rec);
    }

    fn use_id(&mut self, place: Place, seq: u64, rec: &Rec) {
        let scheduled = rec.intent.and_then(|intent| self.intents[intent].due);
        let at = Some((place, seq));
        match (self.ids.get_mut(&rec.id), scheduled) {
            (None, None) => {
                self.ids.insert(rec.id, IdUse { scheduled: false, at });
            }
            (Some(used), Some((id, _))) if used.scheduled && used.at.is_none() => {
                assert_eq!(id, rec.id, "a scheduled message keeps its id");
                used.at = at;
            }
            (used, scheduled) => {
                panic!("{place:?} {seq}: the id {} was {used:?}, {scheduled:?}", rec.id)
            }
        }
    }

    fn append_message(
        &mut self,
        place: Place,
        mut rec: Rec,
        record: &MessageEntry,
        content: &[u8],
    ) -> Rec {
        let sender = rec.sender.expect("somebody says it");
        let seq = record.seq;
        let index = self.intent_of(place, content);
        let blocked = match place {
            Place::Pair(low, high) if low != high => {
                let other = if sender == low { high } else { low };
                self.blocks.get(&(other, sender)).and_then(|block| block.known)
            }
            _ => None,
        };
        let intent = &mut self.intents[index];
        assert_eq!(intent.user, sender, "{intent:?} is by another");
        assert_eq!(intent.client_id, record.client_id, "{intent:?}");
        assert_eq!(intent.at, None, "{place:?} {seq}: {intent:?} is stored again");
        if let Some(after) = intent.after_ms {
            let (_, due_ms) = intent.due.unwrap_or_else(|| panic!("not scheduled: {after}"));
            assert!(due_ms <= self.latest_ms, "{intent:?} is stored before its time {due_ms}");
        }
        assert_ne!(blocked, Some(true), "{intent:?} is stored though its sender is blocked");
        intent.at = Some(seq);
        (rec.sort, rec.intent, rec.says) = (Sort::Message, Some(index), true);
        rec.countable += 1;
        if intent.is_xid {
            rec.wire.clone_from(&intent.client_id);
        }
        let all = match place {
            Place::Pair(low, high) => Set::of([low, high]),
            Place::Group(_) => rec.members,
            other => panic!("nobody says anything in {other:?}"),
        };
        assert!(all.has(sender), "{place:?} {seq}: {sender} is no member, and says {intent:?}");
        rec.visible = all;
        rec.shown = all.without(Set::of([sender]));
        rec
    }

    fn append_event(&mut self, place: Place, mut rec: Rec, content: &[u8]) -> Rec {
        let users = |names: &[String]| Set::of(names.iter().map(|name| self.names.user(name)));
        match Happened::decode(content).expect("core encodes what it decodes") {
            Happened::MembersJoined { users: names } => {
                let joined = users(&names);
                assert_eq!(rec.members.0 & joined.0, 0, "{place:?}: who joins is a member");
                rec.visible = rec.members.and(joined);
                rec.members = rec.visible;
            }
            Happened::MembersLeft { users: names } => {
                let left = users(&names);
                assert_eq!(left.without(rec.members), Set(0), "{place:?}: who leaves is none");
                rec.members = rec.members.without(left);
            }
            Happened::Dissolved => (rec.members, rec.closes) = (Set::default(), true),
            Happened::AliasChanged { user, .. } => {
                assert!(
                    rec.members.has(self.names.user(&user)),
                    "{place:?}: an alias of no member"
                );
            }
            Happened::Revoked { seq, .. } => {
                let revoker = rec.sender.expect("somebody takes it back");
                let target = self.log(place).get(seq).expect("what is revoked is there").clone();
                assert_eq!(target.sort, Sort::Message, "{place:?} {seq} is no message");
                assert_eq!(target.revoked_by, None, "{place:?} {seq} is revoked twice");
                let may =
                    target.sender == Some(revoker) || self.foreign_revokes.contains(&(place, seq));
                assert!(may, "{place:?} {seq} was revoked by {revoker}, who may not");
                let all = match place {
                    Place::Pair(low, high) => Set::of([low, high]),
                    _ => rec.members,
                };
                (rec.sort, rec.revokes, rec.wire) = (Sort::Revoke, Some(seq), target.wire);
                rec.visible = all;
                rec.shown = all.without(Set::of([revoker]));
            }
            Happened::FriendAsked(news) => self.append_friend(place, &mut rec, "af", &news),
            Happened::FriendAccepted(news) => self.append_friend(place, &mut rec, "afc", &news),
            Happened::AccountCancelled => panic!("nobody is cancelled in these runs"),
            Happened::Noticed { .. } => {
                let index = self.intent_of(place, content);
                let intent = &mut self.intents[index];
                assert_eq!(intent.at, None, "{place:?}: {intent:?} is stored again");
                intent.at = Some(self.logs.get(&place).map_or(0, Log::len) + 1);
                rec.intent = Some(index);
                rec.visible = match place {
                    Place::Notices(user) => Set::of([user]),
                    // See `Model::shows`.
                    Place::Everybody => Set::default(),
                    other => panic!("a notice in {other:?}"),
                };
                rec.shown = rec.visible;
            }
        }
        rec
    }

    fn append_friend(
        &mut self,
        place: Place,
        rec: &mut Rec,
        word: &str,
        news: &ringpost_core::relations::FriendNews,
    ) {
        let (from, to) = (self.names.user(&news.from), self.names.user(&news.to));
        let owner = if word == "af" { to } else { from };
        assert_eq!(place, Place::Notices(owner), "it is told to another");
        rec.wire = format!("{word}_{}_{}", news.from, news.to);
        (rec.visible, rec.shown) = (Set::of([owner]), Set::of([owner]));
        let told = (place, Sort::Event, rec.wire.clone());
        let before = self.wires.get(&told).map_or(0, Vec::len);
        assert_eq!(before, 0, "{} is told twice", rec.wire);
        assert!(self.friends.contains_key(&rec.wire), "{} was never asked for", rec.wire);
    }

    /// A message loses its content in the batch of the event that says so.
    fn empty(&mut self, place: Place, record: &MessageEntry) {
        let log = self.logs.get_mut(&place).expect("what is revoked is there");
        let (event, by) = (log.recs.last().expect("the event is there"), log.len());
        assert_eq!(event.revokes, Some(record.seq), "{place:?} {}: without an event", record.seq);
        let rec = &mut log.recs[record.seq as usize - 1];
        assert_eq!((rec.id, rec.time_ms), (record.id, record.time_ms), "only the content goes");
        assert_eq!(rec.countable, record.countable, "a revoke changes no count");
        assert!(record.content.is_empty() && record.kind == Kind::Revoked, "without content");
        rec.revoked_by = Some(by);
    }

    /// The turn with these facts is durable.
    pub fn durable(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.version += u64::from(matches!(fact, Fact::Record(_) | Fact::Read(..)));
            match fact {
                Fact::Record(place) => {
                    let log = self.logs.get_mut(&place).expect("appended before");
                    log.durable += 1;
                    assert!(log.durable <= log.recs.len());
                }
                Fact::User(user, row) => self.users[user].durable = Some(row),
                Fact::Group(group, row) => self.groups[group].durable = Some(row),
                Fact::Device(user, name) => self.device(user, &name).durable = true,
                Fact::Read(user, place, seq) => {
                    let read = self.reads.entry((user, place)).or_default();
                    *read = seq.max(*read);
                }
                Fact::Due(id, on) => {
                    let of = |intent: &&mut Intent| intent.due.is_some_and(|due| due.0 == id);
                    let intent = self.intents.iter_mut().find(of).expect("scheduled before");
                    intent.stage = if on { Stage::Held } else { Stage::Fired };
                }
                Fact::Blocked(by, other, on) => {
                    self.blocked.insert((by, other), on);
                }
            }
        }
    }

    /// The process has ended: what was not durable never was.
    pub fn forget_undurable(&mut self) {
        for (place, log) in &mut self.logs {
            let kept = log.durable as u64;
            for (rec, seq) in log.recs.iter().zip(1..).filter(|(_, seq)| *seq > kept) {
                if let Some(intent) = rec.intent {
                    self.intents[intent].at = None;
                }
                let wires = self.wires.get_mut(&(*place, rec.sort, rec.wire.clone()));
                wires.expect("put with the record").retain(|at| *at != seq);
                if let Some(used) = self.ids.get_mut(&rec.id) {
                    used.at = None;
                }
            }
            log.recs.truncate(log.durable);
            for rec in &mut log.recs {
                rec.revoked_by = rec.revoked_by.filter(|by| *by <= kept);
            }
        }
        for intent in &mut self.intents {
            if intent.stage == Stage::Undurable {
                intent.due = None;
            }
        }
    }

    /// Heads of all conversations.
    pub fn heads(&self) -> BTreeMap<Place, u64> {
        self.logs.iter().map(|(place, log)| (*place, log.len())).collect()
    }
}
