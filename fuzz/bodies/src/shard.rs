//! A sequence of inputs to shards: users with devices write, acknowledge, come and go; commits, loads
//! and the mesh stall; the process crashes and starts again with another number of shards.
//!
//! The first byte chooses the number of shards and whether the history is a *gentle* one: nobody is
//! banned, blocked or cancelled, nothing is taken back, and all frames are well-formed. Of those it is
//! checked in the end that every message with a receipt arrived. Of all of them: what a client is told
//! is in the durable log at that moment, logs are gapless, queues are within their limits.

mod acts;
// The shards' tests have it: real shards in virtual time, over a log that can crash.
#[expect(dead_code, reason = "tests use more of it")]
#[path = "../../../tests/shard/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use ringpost_core::event::{Load, Loaded};
use ringpost_core::ids::{ConnId, ConvKey, Conversation, DedupKey, GroupId, MessageId, UserId};
use ringpost_core::limits;
use ringpost_core::record::{Kind, Page};
use ringpost_storage::Log;
use serde_json::Value;

use crate::Choices;
use world::World;

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const DEVICES: [&str; 2] = ["d0", "d1"];
const GROUP: &str = "team";
/// Acts of one history; what is behind them is not looked at.
const ACTS_MAX: usize = 160;
/// Virtual time that acts may let pass, ms.
const TIME_MAX_MS: u64 = 20_000;
/// Frames that a client sends before its answers are waited for; fewer than what a driver must hold
/// back ([`limits::CONNECTION_REQUESTS_MAX`]).
const UNANSWERED_MAX: u32 = 60;
const _: () = assert!(UNANSWERED_MAX < limits::CONNECTION_REQUESTS_MAX);

/// A user's device.
type Key = (usize, usize);

/// One device as the history sees it.
#[derive(Default)]
struct Device {
    conn: Option<ConnId>,
    /// Frames said since everything was settled.
    unanswered: u32,
    /// Types and ids of what it got and has not acknowledged.
    open: Vec<(String, String)>,
    /// Numbers of the messages that it got.
    seen: BTreeSet<u64>,
}

struct History<'a> {
    choices: Choices<'a>,
    gentle: bool,
    world: World,
    devices: BTreeMap<Key, Device>,
    /// Where a message of a user with this client id may be.
    sent: BTreeMap<(usize, String), BTreeSet<(ConvKey, usize)>>,
    /// Private messages with a receipt: number and receiver.
    stored: BTreeSet<(u64, usize)>,
    passed_ms: u64,
    /// Commits are made, loads answered and deliveries carried.
    flows: [bool; 3],
}

/// See the module.
pub fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let flags = choices.byte();
    let world = World::new(1 + u16::from(flags >> 1 & 3));
    let mut history = History {
        choices,
        gentle: flags & 1 == 0,
        world,
        devices: BTreeMap::new(),
        sent: BTreeMap::new(),
        stored: BTreeSet::new(),
        passed_ms: 0,
        flows: [true; 3],
    };
    // Every user exists before anybody writes.
    for user in 0..USERS.len() {
        history.connect((user, 0));
    }
    for _ in 0..ACTS_MAX {
        if history.choices.is_empty() {
            break;
        }
        history = history.act();
        history.collect();
        history.within_limits();
    }
    history.drain();
    history.logs_are_whole();
}

fn user_id(user: usize) -> UserId {
    UserId::parse(USERS[user]).expect("valid")
}

fn group_id() -> GroupId {
    GroupId::parse(GROUP).expect("valid")
}

impl History<'_> {
    fn connect(&mut self, key: Key) {
        let device = self.devices.entry(key).or_default();
        if device.conn.is_none() {
            device.conn = Some(self.world.connect(USERS[key.0], DEVICES[key.1]));
            device.unanswered = 0;
        }
    }

    /// The connection, if it may say something now.
    fn speaker(&mut self, key: Key) -> Option<ConnId> {
        let device = self.devices.get_mut(&key)?;
        let conn = device.conn?;
        let client = &self.world.clients[&conn];
        let may = client.upgraded && client.closed.is_none();
        if !may || device.unanswered >= UNANSWERED_MAX || !self.world.admits(client.shard) {
            return None;
        }
        device.unanswered += 1;
        Some(conn)
    }

    fn say(&mut self, key: Key, text: &str) {
        if let Some(conn) = self.speaker(key) {
            self.world.say(conn, text);
        }
    }

    fn set_flows(&mut self, flows: [bool; 3]) {
        self.flows = flows;
        [self.world.commits, self.world.answers_loads, self.world.carries] = flows;
        self.world.settle();
    }

    /// Everybody is told what waits for him; who was closed is gone.
    fn collect(&mut self) {
        let keys: Vec<Key> = self.devices.keys().copied().collect();
        for key in keys {
            let Some(conn) = self.devices[&key].conn else { continue };
            if self.world.clients[&conn].upgraded {
                for frame in self.world.take(conn) {
                    self.told(key, &frame);
                }
            }
            let device = self.devices.get_mut(&key).expect("known");
            if self.flows == [true; 3] {
                device.unanswered = 0;
            }
            if self.world.clients[&conn].closed.is_some() {
                device.conn = None;
                device.open.clear();
                self.world.disconnect(conn);
            }
        }
    }

    fn told(&mut self, key: Key, frame: &Value) {
        let (user, _) = key;
        // Words of the dialect, `pong2`, are no objects.
        let Some(kind) = frame["type"].as_str() else {
            assert_eq!(frame, "pong2", "to {}", USERS[user]);
            return;
        };
        if kind.ends_with("_SERVER_ACK") {
            let id = frame["id"].as_str().expect("a receipt has the client's id");
            return self.receipt(user, id);
        }
        if kind == "error" {
            assert!(frame["code"].is_i64() && frame["server_ts"].is_u64(), "{frame}");
            return;
        }
        let id = frame["id"].as_str().expect("an id").to_owned();
        if kind == "C2C" || kind == "C2G" {
            self.delivered(key, kind, &id, frame);
        }
        if matches!(kind, "C2C" | "C2G" | "S2C") {
            self.devices.get_mut(&key).expect("known").open.push((kind.to_owned(), id));
        }
    }

    /// What has a receipt is in the log, where a resend finds it.
    fn receipt(&mut self, user: usize, id: &str) {
        // Made of bytes of the history, it may be anybody's.
        let Some(places) = self.sent.get(&(user, id.to_owned())) else { return };
        let secret = self.world.secret();
        let log = &self.world.log;
        let is_stored = |conversation: ConvKey| {
            let key = DedupKey::new(conversation, &user_id(user), id, secret);
            let loaded = log.load(&Load::Dedup { key }).expect("the fake does not fail");
            matches!(loaded, Loaded::Dedup(Some(_)))
        };
        let stored: Vec<usize> =
            places.iter().filter(|(place, _)| is_stored(*place)).map(|(_, to)| *to).collect();
        assert!(!stored.is_empty(), "{} has a receipt for {id} too early", USERS[user]);
        if let Some(number) = id.strip_prefix('m').and_then(|number| number.parse().ok()) {
            // Who writes to himself is told by the receipt.
            let others = stored.into_iter().filter(|to| *to != user);
            self.stored.extend(others.map(|to| (number, to)));
        }
    }

    /// What is delivered is in the log, as it is.
    fn delivered(&mut self, key: Key, kind: &str, id: &str, frame: &Value) {
        let to = if kind == "C2C" { USERS[key.0] } else { GROUP };
        assert_eq!(frame["to"], to, "{frame}");
        let Some(number) = frame["payload"]["n"].as_u64() else { return };
        let id = MessageId::parse_xid(id.as_bytes()).expect("ids of others are no xids here");
        let loaded = self.world.log.load(&Load::Find { id }).expect("the fake does not fail");
        let Loaded::Found(Some((conversation, page))) = loaded else {
            panic!("delivered before it is durable: {frame}");
        };
        let record = page.get(0).expect("the record");
        assert_eq!(frame["from"], record.sender);
        let group = matches!(conversation, Conversation::Group(_));
        assert_eq!(group, kind == "C2G");
        // Since then it may have been taken back.
        if record.kind == Kind::Message {
            let content: Value = serde_json::from_slice(record.content).expect("JSON");
            assert_eq!(content, frame["payload"]);
        }
        self.devices.get_mut(&key).expect("known").seen.insert(number);
    }

    fn within_limits(&self) {
        let clients = self.world.clients.len();
        for shard in 0..usize::from(self.world.shards()) {
            let gauges = self.world.gauges(shard);
            assert!(gauges.requests <= limits::SHARD_REQUESTS_MAX, "{gauges:?}");
            assert!(gauges.owed <= limits::OWED_MAX, "{gauges:?}");
            assert!(gauges.due <= limits::DUE_HELD_MAX, "{gauges:?}");
            assert!(gauges.pending <= clients * limits::WINDOW_MESSAGES as usize, "{gauges:?}");
            assert!(gauges.catch_ups <= clients, "{gauges:?}");
            assert!(gauges.conversations <= limits::CONVERSATIONS_MAX, "{gauges:?}");
        }
    }

    /// No more faults: all that was begun comes to an end.
    fn drain(&mut self) {
        self.world.space(false);
        self.set_flows([true; 3]);
        self.collect();
        if !self.gentle {
            self.world.advance_ms(200);
            return self.collect();
        }
        let keys: Vec<Key> = self.devices.keys().copied().collect();
        for _ in 0..40 {
            for key in &keys {
                self.connect(*key);
                self.acknowledge(*key, usize::MAX);
            }
            self.collect();
            let open = self.devices.values().any(|device| !device.open.is_empty());
            if !open && self.missing().is_none() {
                break;
            }
            self.world.advance_ms(120);
            self.collect();
        }
        assert_eq!(self.missing(), None, "a message with a receipt has not come");
        for shard in 0..usize::from(self.world.shards()) {
            let gauges = self.world.gauges(shard);
            assert_eq!((gauges.requests, gauges.loads), (0, 0), "{gauges:?}");
        }
    }

    /// A message with a receipt that the receiver's first device has not got.
    fn missing(&self) -> Option<(u64, usize)> {
        let got = |(number, to): &(u64, usize)| self.devices[&(*to, 0)].seen.contains(number);
        self.stored.iter().find(|message| !got(message)).copied()
    }

    fn acknowledge(&mut self, key: Key, most: usize) {
        let Some(device) = self.devices.get_mut(&key) else { return };
        let most = most.min(device.open.len());
        for (kind, id) in device.open.drain(..most).collect::<Vec<_>>() {
            self.say(key, &format!("CLIENT_ACK,{kind},{id},{}", DEVICES[key.1]));
        }
    }

    /// Every log is gapless from 1, in order of time, and counts what it has.
    fn logs_are_whole(&self) {
        let mut conversations = vec![Conversation::Group(group_id()), Conversation::Broadcast];
        for one in 0..USERS.len() {
            conversations.push(Conversation::Notice(user_id(one)));
            conversations
                .extend((0..=one).map(|to| Conversation::private(&user_id(one), &user_id(to))));
        }
        for conversation in conversations {
            let (mut seq, mut time_ms, mut countable) = (0, 0, 0);
            loop {
                for record in self.page(&conversation, seq + 1).iter() {
                    assert_eq!(record.seq, seq + 1, "{conversation:?}");
                    assert!(record.time_ms >= time_ms && record.countable >= countable);
                    assert!(record.countable - countable <= 1);
                    (seq, time_ms, countable) = (record.seq, record.time_ms, record.countable);
                }
                if self.page(&conversation, seq + 1).is_empty() {
                    break;
                }
            }
        }
    }

    fn page(&self, conversation: &Conversation, from: u64) -> Page {
        let conversation = conversation.key(self.world.secret());
        let load = Load::Page { conversation, from, to: u64::MAX, bytes: limits::PAGE_BYTES };
        match self.world.log.load(&load).expect("the fake does not fail") {
            Loaded::Page(page) => page,
            other => panic!("{other:?}"),
        }
    }
}
