//! Random histories against a naive model: users with several devices write to each other while
//! connections end, acknowledgements are left out, commits and loads and the mesh stall, and the
//! process crashes and starts again with another number of shards.
//!
//! The model keeps, per ordered pair of users, the texts whose receipt came, and per device what it
//! got. In the end everything is connected and acknowledged, and must have drained.

use std::collections::{BTreeMap, BTreeSet};

use ringpost_core::ids::ConnId;

use crate::world::World;

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const DEVICES: [&str; 2] = ["d0", "d1"];

/// A generator of its own, so that a seed is a history for ever.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One device of one user, as the model sees it.
#[derive(Default)]
struct Device {
    conn: Option<ConnId>,
    /// It connected at least once, so everything since then is for it.
    known: bool,
    /// Messages got, in the order of their first arrival, per sender.
    got: BTreeMap<String, Vec<u64>>,
    seen: BTreeSet<u64>,
    /// Wire ids not acknowledged yet.
    open: Vec<String>,
}

struct Model {
    seed: u64,
    random: Random,
    devices: BTreeMap<(&'static str, &'static str), Device>,
    /// Messages with a receipt, per (from, to), in order of sending.
    stored: BTreeMap<(&'static str, &'static str), Vec<u64>>,
    /// Sent and not answered: number -> (from, to).
    sent: BTreeMap<u64, (&'static str, &'static str)>,
    next: u64,
}

pub fn run(seed: u64) {
    let mut random = Random(seed);
    let shards = 1 + random.below(3) as u16;
    let mut world = World::new(shards);
    let devices = USERS.iter().flat_map(|user| DEVICES.map(|device| (*user, device)));
    let devices = devices.map(|key| (key, Device::default())).collect();
    let (stored, sent) = (BTreeMap::new(), BTreeMap::new());
    let mut model = Model { seed, random, devices, stored, sent, next: 1 };
    // Every user exists, with its first device, before anybody writes.
    for user in USERS {
        model.connect(&mut world, user, DEVICES[0]);
    }
    for _ in 0..150 {
        world = model.step(world);
    }
    model.drain(&mut world);
}

impl Model {
    fn step(&mut self, mut world: World) -> World {
        let user = USERS[self.random.below(4) as usize];
        let device = DEVICES[self.random.below(2) as usize];
        let key = (user, device);
        match self.random.below(100) {
            0..45 => {
                let to = USERS[self.random.below(4) as usize];
                if let Some(conn) = self.devices[&key].conn
                    && world.clients[&conn].upgraded
                    && to != user
                {
                    for _ in 0..=self.random.below(4) {
                        self.send(&mut world, conn, user, to);
                    }
                }
            }
            45..65 => self.acknowledge_some(&mut world, key, 50),
            65..72 => {
                if let Some(conn) = self.devices.get_mut(&key).expect("all are there").conn.take() {
                    self.collect(&mut world, key, conn);
                    world.disconnect(conn);
                    self.devices.get_mut(&key).expect("all are there").open.clear();
                }
            }
            72..82 => match self.devices[&key].conn {
                None => self.connect(&mut world, user, device),
                Some(conn) => world.say(conn, "check_offline_msg"),
            },
            82..90 => {
                let ms = [1, 30, 150, 1_100, 6_000][self.random.below(5) as usize];
                world.advance_ms(ms);
            }
            90..93 => world.commits = self.random.chance(50),
            93..95 => world.answers_loads = self.random.chance(50),
            95..97 => world.carries = self.random.chance(50),
            97 => world = self.crash(world),
            _ => {
                let shard = self.random.below(u64::from(world.shards())) as usize;
                let _ = world.commit(shard) | world.answer_load(shard) | world.carry();
                world.settle();
            }
        }
        self.collect_all(&mut world);
        world
    }

    fn connect(&mut self, world: &mut World, user: &'static str, device: &'static str) {
        let conn = world.connect(user, device);
        let entry = self.devices.get_mut(&(user, device)).expect("all are there");
        entry.conn = Some(conn);
        entry.known = true;
    }

    fn send(&mut self, world: &mut World, conn: ConnId, from: &'static str, to: &'static str) {
        let number = self.next;
        self.next += 1;
        self.sent.insert(number, (from, to));
        let frame = serde_json::json!({
            "id": crate::xid(number as u32), "type": "C2C", "to": to, "payload": number,
        });
        world.say(conn, &frame.to_string());
        if self.random.chance(10) {
            world.say(conn, &frame.to_string());
        }
    }

    fn acknowledge_some(
        &mut self,
        world: &mut World,
        key: (&'static str, &'static str),
        percent: u64,
    ) {
        let device = self.devices.get_mut(&key).expect("all are there");
        let Some(conn) = device.conn else { return };
        for id in std::mem::take(&mut device.open) {
            if self.random.chance(percent) {
                world.ack(conn, &id, key.1);
            } else {
                device.open.push(id);
            }
        }
    }

    fn crash(&mut self, mut world: World) -> World {
        self.collect_all(&mut world);
        let shards = 1 + self.random.below(4) as u16;
        let world = world.crash(shards);
        // What was sent and not answered may be in the log or not; a client would send it again.
        self.sent.clear();
        for device in self.devices.values_mut() {
            device.conn = None;
            device.open.clear();
        }
        world
    }

    fn collect_all(&mut self, world: &mut World) {
        let live: Vec<_> =
            self.devices.iter().filter_map(|(key, device)| Some((*key, device.conn?))).collect();
        for (key, conn) in live {
            self.collect(world, key, conn);
        }
    }

    fn collect(&mut self, world: &mut World, key: (&'static str, &'static str), conn: ConnId) {
        let seed = self.seed;
        let closed = world.clients[&conn].closed;
        assert_eq!(closed, None, "seed {seed}: nobody misbehaved");
        for frame in world.take(conn) {
            let device = self.devices.get_mut(&key).expect("all are there");
            if frame["type"] == "C2C_SERVER_ACK" {
                let id = frame["id"].as_str().expect("an id");
                let number = self.sent.keys().find(|n| crate::xid(**n as u32) == id).copied();
                // A resend's second receipt finds nothing any more.
                if let Some(number) = number {
                    let pair = self.sent.remove(&number).expect("found above");
                    self.stored.entry(pair).or_default().push(number);
                }
                continue;
            }
            if frame["type"] == "error" {
                // Too many commands wait while loads stall.
                assert_eq!(frame["payload"]["content"], "try again", "seed {seed}: {frame}");
                continue;
            }
            assert_eq!(frame["to"], key.0, "seed {seed}");
            if frame["type"] == "S2C" {
                // The user's other device has connected.
                assert_eq!(frame["id"], "logged_another_device", "seed {seed}: {frame}");
                continue;
            }
            let number = frame["payload"].as_u64().expect("a number");
            let from = frame["from"].as_str().expect("a user").to_owned();
            device.open.push(frame["id"].as_str().expect("an id").to_owned());
            if device.seen.insert(number) {
                device.got.entry(from).or_default().push(number);
            }
        }
    }

    /// No more faults: everything must arrive.
    fn drain(&mut self, world: &mut World) {
        world.commits = true;
        world.answers_loads = true;
        world.carries = true;
        world.settle();
        self.collect_all(world);
        for user in USERS {
            for device in DEVICES {
                let entry = &self.devices[&(user, device)];
                if entry.conn.is_none() && entry.known {
                    self.connect(world, user, device);
                }
            }
        }
        for _ in 0..2_000 {
            self.collect_all(world);
            let keys: Vec<_> = self.devices.keys().copied().collect();
            let open: usize = self.devices.values().map(|device| device.open.len()).sum();
            for key in keys {
                self.acknowledge_some(world, key, 100);
            }
            world.advance_ms(if open == 0 { 120 } else { 4 });
            self.collect_all(world);
            if open == 0 && self.missing().is_none() {
                break;
            }
        }
        assert_eq!(self.missing(), None, "seed {}", self.seed);
        self.check_order();
        // Everything was acknowledged: a while later nothing is pending, for nobody.
        world.advance_ms(40_000);
        self.collect_all(world);
        for (key, device) in &self.devices {
            assert!(device.open.is_empty(), "seed {}: again for {key:?}", self.seed);
        }
        for user in USERS {
            assert_eq!(crate::marks(world, user), 0, "seed {}: {user} has marks", self.seed);
        }
    }

    /// A stored message that a known first device has not got.
    fn missing(&self) -> Option<(u64, &'static str)> {
        self.stored.iter().find_map(|((_, to), numbers)| {
            let device = &self.devices[&(*to, DEVICES[0])];
            let lost = numbers.iter().find(|number| !device.seen.contains(number));
            lost.map(|number| (*number, *to))
        })
    }

    /// Each device got the messages of each sender in the order in which they were sent.
    fn check_order(&self) {
        for (key, device) in &self.devices {
            for (from, numbers) in &device.got {
                let sorted = numbers.is_sorted();
                assert!(sorted, "seed {}: {from} -> {key:?}: {numbers:?}", self.seed);
            }
        }
    }
}
