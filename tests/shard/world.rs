//! Shards of the real core on one thread in virtual time, with the log that can crash.
//!
//! The test decides when commits happen and when loads are answered; nothing here sleeps or
//! listens. What a connection was written is kept as frames.

use std::collections::{BTreeMap, VecDeque};

use ringpost_core::account::AccountOperation;
use ringpost_core::command::GroupOperation;
use ringpost_core::dialect::Settings;
use ringpost_core::event::{Answer, CloseHow, ControlId, Load, LoadId, Operation, Outputs, Routed};
use ringpost_core::ids::{ConnId, DeviceId, Dialect, GroupId, ShardId, Slot, UserId};
use ringpost_core::rate::RateLimits;
use ringpost_core::relations::{PrivatePolicy, RelationOperation};
use ringpost_core::session::{Client as ClientWords, Hello, Login};
use ringpost_core::shard::Gauges;
use ringpost_core::shard::links::delivery_bytes;
use ringpost_core::{Effects, Input, Now, Shard, ShardConfig};
use ringpost_storage::{Batch, Fake, FakeSeed, Log};
use serde_json::Value;

/// Of the store.
const SEED: FakeSeed = FakeSeed { epoch: 1, node: [1, 2, 3], secret: 7 };
/// The `101` of the tests: the shard writes what it is given.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

/// A connection's client side.
#[derive(Debug, Default)]
pub struct Client {
    pub shard: usize,
    pub open: bool,
    /// Text frames that it was written and that the test has not taken.
    pub frames: VecDeque<String>,
    pub upgraded: bool,
    pub closed: Option<CloseHow>,
}

/// One shard with what its driver holds.
struct Thread {
    shard: Shard,
    open: Effects,
    /// Turns handed to the log or waiting for it, in order.
    held: VecDeque<Effects>,
    durable: u64,
    loads: VecDeque<(LoadId, Load)>,
    drained: Vec<(u64, u64)>,
}

/// Everything.
pub struct World {
    pub log: Fake,
    threads: Vec<Thread>,
    mesh: VecDeque<(usize, usize, Routed)>,
    pub clients: BTreeMap<ConnId, Client>,
    pub now: Now,
    next_conn: u32,
    /// How long the tokens of new connections are valid.
    pub token_ms: u64,
    next_control: u64,
    answers: BTreeMap<ControlId, Answer>,
    /// Turns become durable by themselves, in `settle`.
    pub commits: bool,
    /// Loads are answered by themselves.
    pub answers_loads: bool,
    /// Deliveries between shards arrive by themselves.
    pub carries: bool,
    /// Questions for what is scheduled are not answered, whoever answers the others.
    pub holds_schedules: bool,
    /// Passes over members go on by themselves; else only with time.
    pub passes: bool,
    /// What is asked of the log, while somebody wants to know.
    pub asked: Option<Vec<Load>>,
    /// The most bytes that one turn has written to connections.
    pub most_written: usize,
}

impl World {
    pub fn new(shards: u16) -> World {
        World::with(shards, |_| ())
    }

    /// A new store under this policy.
    pub fn with_policy(shards: u16, policy: PrivatePolicy) -> World {
        World::with(shards, |config| config.private_policy = policy)
    }

    /// A process that tells nobody for a while who comes and goes.
    pub fn quiet(log: Fake, shards: u16, now: Now, quiet_ms: u64) -> World {
        let mut world = World::idle(log, shards, now, |config| config.presence_quiet_ms = quiet_ms);
        world.advance_ms(0);
        world
    }

    /// The same, with other settings than the default ones.
    pub fn with(shards: u16, change: impl Fn(&mut ShardConfig)) -> World {
        let now = Now { mono_us: 1, wall_ms: 1_700_000_000_000 };
        let mut world = World::idle(Fake::new(SEED), shards, now, change);
        world.advance_ms(0);
        world
    }

    /// A process started on what is in `log`.
    pub fn on(log: Fake, shards: u16, now: Now) -> World {
        let mut world = World::idle(log, shards, now, |_| ());
        world.advance_ms(0);
        world
    }

    /// The same, in which nothing becomes durable by itself but the first id leases.
    pub fn on_uncommitted(log: Fake, shards: u16, now: Now) -> World {
        let mut world = World::idle(log, shards, now, |_| ());
        world.commits = false;
        world.advance_ms(0);
        for shard in 0..usize::from(shards) {
            world.commit(shard);
        }
        world.settle();
        world
    }

    /// A process started on what is in `log`, which is not told what is scheduled.
    pub fn on_unscheduled(log: Fake, shards: u16, now: Now) -> World {
        let mut world = World::idle(log, shards, now, |_| ());
        world.holds_schedules = true;
        world.advance_ms(0);
        world
    }

    /// A fresh process whose first id lease is on its way to the disk.
    pub fn new_uncommitted(shards: u16) -> World {
        let now = Now { mono_us: 1, wall_ms: 1_700_000_000_000 };
        let mut world = World::idle(Fake::new(SEED), shards, now, |_| ());
        world.commits = false;
        world.advance_ms(0);
        world
    }

    fn idle(log: Fake, shards: u16, now: Now, change: impl Fn(&mut ShardConfig)) -> World {
        let opening = log.opening().clone();
        let threads = (0..shards).map(|shard| {
            let mut config = ShardConfig {
                shard: ShardId(shard),
                shards,
                secret: opening.secret,
                node: opening.node,
                id_leased: opening.leased,
                auto_create_users: true,
                private_policy: PrivatePolicy::Anyone,
                strangers_over_groups: false,
                presence_quiet_ms: 0,
                revoke_within_ms: 120_000,
                deflate_level: 1,
                dialects: Settings::default(),
                rates: RateLimits::default(),
            };
            change(&mut config);
            let open = Effects { turn: 1, ..Effects::default() };
            let drained = vec![(0, 0); usize::from(shards)];
            let (held, loads) = (VecDeque::new(), VecDeque::new());
            Thread { shard: Shard::new(config), open, held, durable: 0, loads, drained }
        });
        World {
            log,
            threads: threads.collect(),
            mesh: VecDeque::new(),
            clients: BTreeMap::new(),
            now,
            next_conn: 0,
            token_ms: 86_400_000,
            next_control: 0,
            answers: BTreeMap::new(),
            commits: true,
            answers_loads: true,
            carries: true,
            holds_schedules: false,
            passes: true,
            asked: None,
            most_written: 0,
        }
    }

    pub fn gauges(&self, shard: usize) -> Gauges {
        self.threads[shard].shard.gauges()
    }

    pub fn admits(&self, shard: usize) -> bool {
        self.threads[shard].shard.admits()
    }

    /// The process dies and starts again with what the log had made durable.
    pub fn crash(self, shards: u16) -> World {
        World::on(self.log.crash_image(self.log.durable()), shards, self.now)
    }

    /// Scheduled messages that the shards hold.
    pub fn due(&self) -> usize {
        self.threads.iter().map(|thread| thread.shard.gauges().due).sum()
    }

    /// The same, and nothing that shards say to each other arrives.
    pub fn crash_deaf(self, shards: u16) -> World {
        let log = self.log.crash_image(self.log.durable());
        let mut world = World::idle(log, shards, self.now, |_| ());
        world.carries = false;
        world.advance_ms(0);
        world
    }

    pub fn secret(&self) -> u64 {
        SEED.secret
    }

    pub fn shards(&self) -> u16 {
        self.threads.len() as u16
    }

    pub fn home(&self, user: &str) -> usize {
        usize::from(Slot::of(user).shard(self.shards()).0)
    }

    /// Connects a device at its user's home.
    pub fn connect(&mut self, user: &str, did: &str) -> ConnId {
        let conn = self.open(user, did);
        self.settle();
        conn
    }

    /// The HTTP answer that a refused upgrade gets.
    pub fn connect_refused(&mut self, user: &str, did: &str) -> String {
        let conn = self.open(user, did);
        self.settle();
        let client = self.clients.get_mut(&conn).expect("opened above");
        assert_eq!((client.upgraded, client.closed), (false, Some(CloseHow::Http)));
        client.frames.pop_front().expect("an answer")
    }

    fn open(&mut self, user: &str, did: &str) -> ConnId {
        let conn = ConnId { index: self.next_conn, generation: 0 };
        self.next_conn += 1;
        let shard = self.home(user);
        self.clients.insert(conn, Client { shard, open: true, ..Client::default() });
        let login = Login {
            user: UserId::parse(user).expect("a valid id"),
            device: DeviceId { dialect: Dialect::Imboy, name: did.into() },
            expires_ms: self.now.wall_ms + self.token_ms,
            client: ClientWords { platform: "ios".into(), version: "0.3.3".into() },
        };
        let switching = SWITCHING.to_vec();
        let hello =
            Box::new(Hello { dialect: Dialect::Imboy, switching, deflate: None, login: Ok(login) });
        self.input(shard, Input::Opened { conn, hello });
        conn
    }

    /// Asks a home; `None`: it has not answered yet.
    pub fn ask(&mut self, operation: Operation) -> Option<Answer> {
        self.next_control += 1;
        let id = ControlId(self.next_control);
        let shard = usize::from(operation.slot().shard(self.shards()).0);
        self.input(shard, Input::Control { id, operation });
        self.settle();
        self.answers.remove(&id)
    }

    /// Answers that came after [`World::ask`] had returned, in order of the questions.
    pub fn late_answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers).into_values().collect()
    }

    /// The answer to what was asked last, if it has come since.
    pub fn answer(&mut self) -> Option<Answer> {
        self.answers.remove(&ControlId(self.next_control))
    }

    pub fn group(&mut self, group: &str, operation: GroupOperation) -> Answer {
        let group = GroupId::parse(group).expect("a valid id");
        let answer = self.ask(Operation::Group { group, operation });
        answer.expect("commits are made and loads answered")
    }

    /// Creates a user, or changes it.
    pub fn put_user(&mut self, user: &str, profile: &str) {
        let user = UserId::parse(user).expect("a valid id");
        let put = Operation::PutUser { user, profile: profile.to_owned() };
        let put = self.ask(put).expect("commits are made and loads answered");
        assert!(matches!(put, Answer::User { .. }), "{put:?}");
    }

    pub fn relation(&mut self, operation: RelationOperation) -> Answer {
        let answer = self.ask(Operation::Relation(Box::new(operation)));
        answer.expect("commits are made and loads answered")
    }

    pub fn account(&mut self, user: &str, operation: AccountOperation) -> Answer {
        let user = UserId::parse(user).expect("a valid id");
        let answer = self.ask(Operation::Account { user, operation });
        answer.expect("commits are made and loads answered")
    }

    pub fn disconnect(&mut self, conn: ConnId) {
        self.hang_up(conn);
        self.settle();
    }

    /// One tick of a shard and nothing else.
    pub fn tick(&mut self, shard: usize) {
        self.input(shard, Input::Tick);
        self.end_turn(shard);
    }

    /// The connection ends; what follows from it waits.
    pub fn hang_up(&mut self, conn: ConnId) {
        let client = self.clients.get_mut(&conn).expect("connected before");
        assert!(std::mem::take(&mut client.open));
        let shard = client.shard;
        self.input(shard, Input::Closed { conn });
    }

    /// A text frame from the client.
    pub fn say(&mut self, conn: ConnId, text: &str) {
        let shard = self.clients[&conn].shard;
        let mut bytes = text.as_bytes().to_vec();
        self.input(shard, Input::Message { conn, binary: false, bytes: &mut bytes });
        self.settle();
    }

    /// A private message with a text payload.
    pub fn send(&mut self, conn: ConnId, id: &str, to: &str, text: &str) {
        let frame = serde_json::json!({"id": id, "type": "C2C", "to": to, "payload": text});
        self.say(conn, &frame.to_string());
    }

    /// A group's message with a text payload.
    pub fn send_group(&mut self, conn: ConnId, id: &str, to: &str, text: &str) {
        let frame = serde_json::json!({"id": id, "type": "C2G", "to": to, "payload": text});
        self.say(conn, &frame.to_string());
    }

    /// Acknowledges a frame of [`World::take`].
    pub fn ack_frame(&mut self, conn: ConnId, frame: &Value, did: &str) {
        let (kind, id) = (frame["type"].as_str(), frame["id"].as_str());
        let (kind, id) = (kind.expect("a type"), id.expect("an id"));
        self.say(conn, &format!("CLIENT_ACK,{kind},{id},{did}"));
    }

    pub fn ack(&mut self, conn: ConnId, wire_id: &str, did: &str) {
        self.say(conn, &format!("CLIENT_ACK,C2C,{wire_id},{did}"));
    }

    /// The frames that came since the last call.
    pub fn take(&mut self, conn: ConnId) -> Vec<Value> {
        let client = self.clients.get_mut(&conn).expect("connected before");
        let frames = client.frames.drain(..);
        frames.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))).collect()
    }

    /// The payloads of the messages that came since the last call; nothing else may come but the
    /// news of the user's other devices, which is not what these tests are about.
    pub fn take_messages(&mut self, conn: ConnId) -> Vec<String> {
        let frames = self.take(conn).into_iter();
        let frames = frames.filter(|frame| frame["id"] != "logged_another_device");
        let messages = frames.map(|frame| {
            assert_eq!(frame["type"], "C2C", "{frame}");
            frame["payload"].as_str().expect("the tests send texts").to_owned()
        });
        messages.collect()
    }

    pub fn advance_ms(&mut self, ms: u64) {
        // In small steps, as a driver would: timers arm timers.
        let until = self.now.mono_us + ms * 1000;
        loop {
            for shard in 0..self.threads.len() {
                self.input(shard, Input::Tick);
            }
            self.settle();
            if self.now.mono_us >= until {
                return;
            }
            let step = (until - self.now.mono_us).min(4_000);
            self.now.mono_us += step;
            self.now.wall_ms += step / 1000;
        }
    }

    /// The log's disk is down to its reserve, or has room again.
    pub fn space(&mut self, low: bool) {
        for shard in 0..self.threads.len() {
            self.input(shard, Input::Space { low });
        }
        self.settle();
    }

    /// Performs whatever the world does by itself, until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            let mut idle = true;
            for shard in 0..self.threads.len() {
                idle &= !self.end_turn(shard);
                idle &= !(self.commits && self.commit(shard));
                idle &= !(self.answers_loads && self.answer_load(shard));
                if self.passes && self.threads[shard].shard.has_work() {
                    self.input(shard, Input::Tick);
                    idle = false;
                }
            }
            idle &= !(self.carries && self.carry());
            if idle {
                return;
            }
        }
    }

    fn input(&mut self, shard: usize, input: Input<'_>) {
        let thread = &mut self.threads[shard];
        thread.shard.handle(self.now, input, &mut thread.open);
        thread.loads.extend(thread.open.loads.drain(..));
    }

    /// Ends the open turn of a shard, if there is anything in it.
    fn end_turn(&mut self, shard: usize) -> bool {
        let thread = &mut self.threads[shard];
        let mut now = std::mem::take(&mut thread.open.now);
        let acted = !now.is_empty();
        let sealed = !thread.open.entries.is_empty() && thread.held.len() < 2;
        // Held effects without entries leave with the turns before them.
        let loose = thread.open.entries.is_empty() && thread.held.is_empty();
        let mut released = Outputs::default();
        if sealed {
            let turn = thread.open.turn + 1;
            let open = Effects { turn, ..Effects::default() };
            thread.held.push_back(std::mem::replace(&mut thread.open, open));
        } else if loose {
            released = std::mem::take(&mut thread.open.held);
        }
        let acted = acted || sealed || !released.is_empty();
        self.perform(shard, &mut now);
        self.perform(shard, &mut released);
        acted
    }

    /// Makes the oldest turn of a shard durable.
    pub fn commit(&mut self, shard: usize) -> bool {
        let thread = &mut self.threads[shard];
        let Some(mut turn) = thread.held.pop_front() else { return false };
        let mut batch = Batch::default();
        batch.push(&turn);
        self.log.commit(std::slice::from_ref(&batch)).expect("the fake does not fail");
        thread.durable = turn.turn;
        self.perform(shard, &mut turn.held);
        self.input(shard, Input::Durable { turn: turn.turn });
        true
    }

    /// Answers the oldest load of a shard.
    pub fn answer_load(&mut self, shard: usize) -> bool {
        let holds = self.holds_schedules;
        let held = |load: &Load| holds && matches!(load, Load::DueKeys { .. });
        let loads = &mut self.threads[shard].loads;
        let Some(at) = loads.iter().position(|(_, load)| !held(load)) else { return false };
        let (id, load) = loads.remove(at).expect("found above");
        let loaded = self.log.load(&load).expect("the fake does not fail");
        if let Some(asked) = &mut self.asked {
            asked.push(load);
        }
        self.input(shard, Input::Loaded { id, loaded });
        true
    }

    /// How many messages between shards, of those that `is` says, have not arrived.
    pub fn under_way(&self, is: impl Fn(&Routed) -> bool) -> usize {
        self.mesh.iter().filter(|(_, _, routed)| is(routed)).count()
    }

    /// Brings the oldest message between shards to its shard.
    pub fn carry(&mut self) -> bool {
        let Some((from, to, routed)) = self.mesh.pop_front() else { return false };
        let bytes = delivery_bytes(&routed);
        self.input(to, Input::Routed { from: ShardId(from as u16), routed });
        if let Some(bytes) = bytes {
            let (deliveries, drained) = &mut self.threads[to].drained[from];
            *deliveries += 1;
            *drained += bytes;
            let (deliveries, bytes) = (*deliveries, *drained);
            let shard = ShardId(to as u16);
            self.input(from, Input::LinkDrained { shard, deliveries, bytes });
        }
        true
    }

    fn perform(&mut self, shard: usize, outputs: &mut Outputs) {
        let written = outputs.writes.iter().map(|write| write.range.len()).sum();
        self.most_written = self.most_written.max(written);
        for write in outputs.writes.iter().chain(&outputs.signals).chain(&outputs.repeats) {
            let range = write.range.start as usize..write.range.end as usize;
            let bytes = &outputs.arena[range];
            let client = self.clients.get_mut(&write.conn).expect("known to the test");
            if !client.open {
                continue;
            }
            assert_eq!(client.closed, None, "nothing is written behind a close");
            if bytes == SWITCHING {
                assert!(!client.upgraded, "one answer to one upgrade");
                client.upgraded = true;
            } else if bytes.starts_with(b"HTTP/1.1 ") {
                assert!(!client.upgraded, "one answer to one upgrade");
                client.frames.push_back(String::from_utf8_lossy(bytes).into_owned());
            } else {
                assert!(client.upgraded, "the 101 comes first, not {:?}", texts_of_frames(bytes));
                client.frames.extend(texts_of_frames(bytes));
            }
        }
        for close in &outputs.closes {
            let client = self.clients.get_mut(&close.conn).expect("known to the test");
            client.closed = Some(close.how);
        }
        self.answers.extend(outputs.answers.drain(..));
        for (to, routed) in outputs.routes.drain(..) {
            assert_ne!(usize::from(to.0), shard, "nothing is routed to oneself");
            self.mesh.push_back((shard, usize::from(to.0), routed));
        }
    }
}

/// The payloads of unmasked, unfragmented text frames (RFC 6455 section 5.2).
fn texts_of_frames(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x81, "a whole text frame");
        let (len, start) = match bytes[1] {
            126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            127 => (u64::from_be_bytes(bytes[2..10].try_into().expect("eight")) as usize, 10),
            short => (usize::from(short), 2),
        };
        let (frame, rest) = bytes.split_at(start + len);
        texts.push(String::from_utf8(frame[start..].to_vec()).expect("text frames are UTF-8"));
        bytes = rest;
    }
    texts
}
