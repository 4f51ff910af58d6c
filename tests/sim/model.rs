//! What the model knows beside the ledger: what was asked for, who has which devices, what each
//! device has got and acknowledged. It shares no code with the core but the contract's words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};

use ringpost_core::event::{GroupRow, Stored, UserRow};
use ringpost_core::ids::{ConvKey, MessageId};
use serde_json::Value;

use crate::ledger::{IdUse, Log, Rec, Sort};
use crate::names::{Names, Place, Set};

/// What was handed to the log so long ago, µs, is durable, however slow a run is.
const SETTLED_US: u64 = 6_000_000;

/// How far a message that is stored later has come.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Stage {
    /// It is not in the schedule, or that is not durable.
    #[default]
    Undurable,
    /// It is in the schedule.
    Held,
    /// It is not any more: stored, or dropped.
    Fired,
}

/// What became of a message, as far as its sender was told.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Fate {
    /// Nothing, or to try again.
    #[default]
    Open,
    /// It is stored.
    Stored,
    /// It is not.
    Refused(String),
}

/// A message or notice that somebody wants stored.
#[derive(Clone, Default)]
pub struct Intent {
    pub user: usize,
    pub place: Option<Place>,
    /// Empty: a resend is not recognised, and none is made.
    pub client_id: String,
    pub is_xid: bool,
    /// Over the HTTP API.
    pub posted: bool,
    /// As the log has it.
    pub content: Vec<u8>,
    /// As receivers are shown it.
    pub payload: Value,
    pub after_ms: Option<u64>,
    /// Its id, and when it is due.
    pub due: Option<(MessageId, u64)>,
    pub stage: Stage,
    /// Its place in the ledger.
    pub at: Option<u64>,
    pub fate: Fate,
    /// What the first answer to it said.
    pub first: Option<Stored>,
    /// How long its conversation was when it was first sent.
    pub since: u64,
    /// Asked, and not answered.
    pub asking: bool,
}

impl Debug for Intent {
    /// Without its content, which is long.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Intent {
            user, place, client_id, posted, after_ms, due, stage, at, fate, since, ..
        } = self;
        write!(f, "{client_id:?} of {user} to {place:?}, {fate:?} at {at:?} since {since}")?;
        write!(f, " (posted {posted}, after {after_ms:?}, due {due:?}, {stage:?})")
    }
}

/// How a device has acknowledged a record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Ack {
    #[default]
    No,
    /// The server took it; it is handed to the log by this time at the latest, in µs.
    Taken(u64),
    /// It survived a crash.
    Sure,
    /// There was a crash; it may be lost.
    Unsure,
}

/// What a device has of one record.
#[derive(Clone, Copy, Default, Debug)]
pub struct Mark {
    pub got: bool,
    pub ack: Ack,
    /// Another device had acknowledged it when this one was first seen: it may be left out.
    pub optional: bool,
}

/// What a device has of one conversation.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    /// What is up to here is not for it: it was new when others had that.
    pub start: u64,
    pub marks: BTreeMap<u64, Mark>,
}

impl Seen {
    pub fn mark(&self, seq: u64) -> Mark {
        self.marks.get(&seq).copied().unwrap_or_default()
    }

    /// Neither acknowledged nor to be left out.
    pub fn lacks(&self, seq: u64) -> bool {
        let mark = self.mark(seq);
        seq > self.start && mark.ack == Ack::No && !mark.optional
    }
}

/// A device of a user.
#[derive(Clone, Debug)]
pub struct Device {
    pub user: usize,
    pub name: String,
    /// Its row is written; that is durable.
    pub written: bool,
    pub durable: bool,
    pub seen: BTreeMap<Place, Seen>,
    /// When it was told that a message was taken back, µs.
    pub told_revoked: BTreeMap<(Place, u64), u64>,
}

/// A fact that operations change: known while none is under way.
#[derive(Clone, Copy, Default, Debug)]
pub struct Certain {
    pub known: Option<bool>,
    pub asking: bool,
}

/// A user.
#[derive(Clone, Default, Debug)]
pub struct Account {
    /// As it was last written; as it is durable.
    pub row: Option<UserRow>,
    pub durable: Option<UserRow>,
    pub banned: Certain,
    pub hidden: Certain,
    /// It is created by its first connection, while others write already.
    pub late: bool,
    /// The last notice to everybody that was answered when it was first asked for.
    pub everybody_before: Option<u64>,
}

/// A group.
#[derive(Clone, Default, Debug)]
pub struct Group {
    pub durable: Option<GroupRow>,
    /// An operation is under way.
    pub asking: bool,
}

/// Everything the model knows.
pub struct Model {
    pub names: Names,
    pub logs: BTreeMap<Place, Log>,
    pub keys: BTreeMap<ConvKey, Place>,
    pub ids: BTreeMap<MessageId, IdUse>,
    pub wires: BTreeMap<(Place, Sort, String), Vec<u64>>,
    pub intents: Vec<Intent>,
    pub by_content: BTreeMap<(Place, Vec<u8>), usize>,
    pub by_client: BTreeMap<(usize, String), usize>,
    pub users: Vec<Account>,
    pub groups: Vec<Group>,
    pub devices: Vec<Device>,
    /// Read positions that are durable, as users said them.
    pub reads: BTreeMap<(usize, Place), u64>,
    /// Whether one has blocked the other, as the answers said, and as it is durable.
    pub blocks: BTreeMap<(usize, usize), Certain>,
    pub blocked: BTreeMap<(usize, usize), bool>,
    /// Messages that others than their authors may take back.
    pub foreign_revokes: BTreeSet<(Place, u64)>,
    /// Wire ids of requests and acceptances; whether they were answered.
    pub friends: BTreeMap<String, bool>,
    /// The last notice to everybody whose sender has his answer.
    pub everybody_answered: u64,
    /// What devices have acknowledged counts as read.
    pub ack_is_read: bool,
    /// The latest time that a shard was told, ms since 1970.
    pub latest_ms: u64,
    /// Counts durable changes of what conversations show.
    pub version: u64,
}

impl Model {
    pub fn new(names: Names) -> Model {
        let users = names.users.iter().map(|_| Account::default()).collect();
        let groups = names.groups.iter().map(|_| Group::default()).collect();
        Model {
            names,
            logs: BTreeMap::new(),
            keys: BTreeMap::new(),
            ids: BTreeMap::new(),
            wires: BTreeMap::new(),
            intents: Vec::new(),
            by_content: BTreeMap::new(),
            by_client: BTreeMap::new(),
            users,
            groups,
            devices: Vec::new(),
            reads: BTreeMap::new(),
            blocks: BTreeMap::new(),
            blocked: BTreeMap::new(),
            foreign_revokes: BTreeSet::new(),
            friends: BTreeMap::new(),
            everybody_answered: 0,
            ack_is_read: false,
            latest_ms: 0,
            version: 0,
        }
    }

    /// Notes what somebody wants; nothing has been sent yet.
    pub fn intend(&mut self, mut intent: Intent) -> usize {
        let index = self.intents.len();
        let place = intent.place.expect("it goes somewhere");
        intent.since = self.log(place).len();
        let former = self.by_content.insert((place, intent.content.clone()), index);
        assert_eq!(former, None, "contents are different");
        if !intent.client_id.is_empty() {
            self.by_client.insert((intent.user, intent.client_id.clone()), index);
        }
        self.intents.push(intent);
        index
    }

    pub fn intent_of(&self, place: Place, content: &[u8]) -> usize {
        let found = self.by_content.get(&(place, content.to_vec()));
        *found.unwrap_or_else(|| {
            panic!("nobody has sent {:?} to {place:?}", String::from_utf8_lossy(content))
        })
    }

    /// Whether a user's devices are shown a record.
    pub fn shows(&self, place: Place, seq: u64, rec: &Rec, user: usize) -> bool {
        match place {
            Place::Everybody => self.users[user].row.as_ref().is_some_and(|row| row.began < seq),
            _ => rec.shown.has(user),
        }
    }

    /// The records of a conversation that a user's devices are shown, in order.
    pub fn part(&self, place: Place, user: usize) -> impl Iterator<Item = u64> {
        let recs = (1..).zip(&self.log(place).recs);
        recs.filter(move |(seq, rec)| self.shows(place, *seq, rec, user)).map(|(seq, _)| seq)
    }

    pub fn user_written(&mut self, user: usize, row: &UserRow) {
        let account = &mut self.users[user];
        let head = self.logs.get(&Place::Everybody).map_or(0, |log| log.durable as u64);
        match &account.row {
            None => {
                let before = account.everybody_before.expect("somebody has asked for it");
                let began = row.began;
                assert!(before <= began && began <= head, "{user} begins at {began}, not {before}");
            }
            Some(former) => {
                let same = (former.created_ms, former.began) == (row.created_ms, row.began);
                assert!(same, "{user} is created again");
            }
        }
        account.row = Some(row.clone());
    }

    pub fn find_device(&self, user: usize, name: &str) -> Option<usize> {
        self.devices.iter().position(|device| device.user == user && device.name == name)
    }

    pub fn device(&mut self, user: usize, name: &str) -> &mut Device {
        let found = self.find_device(user, name).expect("it has connected");
        &mut self.devices[found]
    }

    /// A device is registered: from here on it is one of its user's.
    pub fn device_written(&mut self, user: usize, name: &str) {
        let index = self.find_device(user, name).expect("it has connected");
        if std::mem::replace(&mut self.devices[index].written, true) {
            return;
        }
        for place in self.logs.keys().copied().collect::<Vec<_>>() {
            let part: Vec<u64> = self.part(place, user).collect();
            for seq in part {
                let optional = self.others(index).any(|other| {
                    let seen = other.seen.get(&place);
                    seen.is_some_and(|seen| !seen.lacks(seq))
                });
                if optional {
                    let seen = self.devices[index].seen.entry(place).or_default();
                    seen.marks.entry(seq).or_default().optional = true;
                }
            }
        }
    }

    /// The user's other devices that are registered.
    fn others(&self, index: usize) -> impl Iterator<Item = &Device> {
        let user = self.devices[index].user;
        let others = self.devices.iter().enumerate();
        let others = others.filter(move |(at, other)| *at != index && other.user == user);
        others.map(|(_, other)| other).filter(|other| other.written)
    }

    /// A device that was never registered connects: what all that is surely acknowledged by the
    /// furthest of the others is not for it.
    pub fn device_comes(&mut self, index: usize, now_us: u64) {
        let user = self.devices[index].user;
        if self.devices[index].written {
            return;
        }
        self.devices[index].seen.clear();
        for place in self.logs.keys().copied().collect::<Vec<_>>() {
            let part: Vec<u64> = self.part(place, user).collect();
            let reach = |other: &Device| {
                let seen = other.seen.get(&place).cloned().unwrap_or_default();
                let surely = |seq: &&u64| {
                    let mark = seen.mark(**seq);
                    let old = match mark.ack {
                        // What was taken just now may be on its way to the log.
                        Ack::Taken(by_us) => by_us + SETTLED_US < now_us,
                        ack => ack == Ack::Sure,
                    };
                    **seq <= seen.start || old
                };
                part.iter().take_while(surely).last().copied().unwrap_or(0)
            };
            let start = self.others(index).map(reach).max().unwrap_or(0);
            self.devices[index].seen.entry(place).or_default().start = start;
        }
    }

    /// The process has ended. `kept_us(user)`: what was handed to the log of his home by then is
    /// durable.
    pub fn crashed(&mut self, kept_us: impl Fn(usize) -> u64) {
        self.forget_undurable();
        for account in &mut self.users {
            account.row = account.durable.clone();
            (account.banned.asking, account.hidden.asking) = (false, false);
        }
        self.groups.iter_mut().for_each(|group| group.asking = false);
        self.blocks.values_mut().for_each(|block| block.asking = false);
        for intent in &mut self.intents {
            intent.asking = false;
            // Who was a member may never have been one.
            let log = intent.place.and_then(|place| self.logs.get(&place));
            intent.since = log.map_or(0, Log::len).min(intent.since);
        }
        for device in &mut self.devices {
            device.written = device.durable;
            let kept = kept_us(device.user);
            for mark in device.seen.values_mut().flat_map(|seen| seen.marks.values_mut()) {
                if let Ack::Taken(by) = mark.ack {
                    mark.ack = if by <= kept { Ack::Sure } else { Ack::Unsure };
                }
            }
        }
    }

    /// A record that a device has not got, though it should; that it has not acknowledged.
    pub fn missing(&self) -> Option<String> {
        for device in self.devices.iter().filter(|device| device.written) {
            for place in self.logs.keys() {
                let seen = device.seen.get(place).cloned().unwrap_or_default();
                let lacks = self.part(*place, device.user).find(|seq| seen.lacks(*seq));
                if let Some(seq) = lacks {
                    let (user, name) = (device.user, &device.name);
                    let mark = seen.mark(seq);
                    return Some(format!("{place:?} {seq} for {user} {name}: {mark:?}"));
                }
            }
        }
        None
    }

    /// Members of a group, as the log says.
    pub fn members(&self, group: usize) -> Set {
        self.log(Place::Group(group)).members()
    }
}
