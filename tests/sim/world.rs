//! The shards of the real core with a log that crashes, a mesh and a network that are slow, in
//! virtual time on one thread. It drives the core as its contract says (core/src/event.rs) and shows
//! the model everything that goes in and comes out; it judges nothing itself.

use std::collections::{BTreeMap, VecDeque};

use ringpost_core::dialect::Settings;
use ringpost_core::event::{
    Answer, CloseHow, ControlId, Load, LoadId, Loaded, Operation, Outputs, Routed,
};
use ringpost_core::ids::{ConnId, ShardId};
use ringpost_core::rate::RateLimits;
use ringpost_core::relations::PrivatePolicy;
use ringpost_core::shard::Gauges;
use ringpost_core::shard::links::delivery_bytes;
use ringpost_core::{Effects, Input, Now, Shard, ShardConfig};
use ringpost_storage::{Batch, Fake, FakeSeed, Log};

use crate::digest::Digest;
use crate::ledger::Fact;
use crate::model::Model;
use crate::names::Names;
use crate::net::Net;
use crate::operations::Asked;
use crate::profile::Profile;
use crate::random::Random;

/// Turns of a shard that are on their way to the disk, at most (core/src/event.rs).
const TURNS_HANDED_MAX: u64 = 2;
/// A cursor is handed over a second after an acknowledgement, and a little for the timers' steps.
pub const FLUSH_US: u64 = 1_000_000 + 20_000;
/// The longest that a shard, a link, the writer or a reader of the log stands still.
pub const STALL_US: u64 = 2_000_000;

/// What happens later.
#[derive(Debug)]
pub enum Event {
    /// The shard's turn ends.
    Turn(usize),
    /// The shard's timer.
    Tick(usize, u64),
    /// A message of the mesh arrives.
    Arrive(usize, usize),
    /// The sender hears what was drained.
    Drained(usize, usize),
    /// A load is answered; with what, if it was read before.
    Loaded(usize, LoadId, Load, Option<Loaded>),
    /// The writer takes what there is.
    Write,
    /// The disk has it.
    Written(u64),
    /// The shard hears how far it is durable.
    Durable(usize, u64),
    /// The next message of a client arrives.
    ToServer(ConnId),
    /// The next bytes for a client arrive.
    ToClient(ConnId),
    /// The driver notices that a connection is gone.
    Gone(ConnId),
}

/// A turn's held effects, and in which stay each of their writes was made.
struct Waiting {
    turn: u64,
    held: Outputs,
    stays: Vec<u32>,
}

/// A shard with what its driver holds.
struct Thread {
    shard: Shard,
    open: Effects,
    /// What the open turn's entries change.
    facts: Vec<Fact>,
    now_stays: Vec<u32>,
    held_stays: Vec<u32>,
    handed: u64,
    durable: u64,
    waiting: VecDeque<Waiting>,
    turn_at: Option<u64>,
    tick_at: Option<u64>,
    /// It does nothing before.
    asleep_until: u64,
    /// Deliveries of each shard that it has drained.
    drained: Vec<(u64, u64)>,
    /// What was handed to the log by then, µs, is durable.
    kept_us: u64,
}

/// A turn on its way to the disk.
struct Turn {
    shard: usize,
    number: u64,
    handed_us: u64,
    batch: Batch,
    facts: Vec<Fact>,
}

pub struct World {
    pub random: Random,
    pub profile: Profile,
    pub now: Now,
    pub model: Model,
    pub net: Net,
    pub log: Fake,
    pub digest: Digest,
    pub asked: BTreeMap<ControlId, Asked>,
    /// Faults are over: nothing is lost or late any more.
    pub calm: bool,
    /// What happens is printed.
    pub trace: bool,
    /// How often the process has crashed.
    pub crashes: u32,
    pub writer_stalled_until: u64,
    threads: Vec<Thread>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    mesh: BTreeMap<(usize, usize), VecDeque<(u64, Routed)>>,
    /// Links that bring nothing before.
    pub link_stalled_until: BTreeMap<(usize, usize), u64>,
    queue: Vec<Turn>,
    writing: Vec<Turn>,
    next_control: u64,
}

impl World {
    pub fn new(seed: u64, random: Random, profile: Profile) -> World {
        let names = Names::new(profile.users, profile.groups, seed);
        let store = FakeSeed { epoch: seed, node: [1, 2, 3], secret: seed ^ 0x5ec };
        let now = Now { mono_us: 1_000, wall_ms: 1_700_000_000_000 };
        let mut model = Model::new(names);
        model.ack_is_read = profile.ack_is_read;
        let mut world = World {
            random,
            profile,
            now,
            model,
            net: Net::default(),
            log: Fake::new(store),
            digest: Digest::new(),
            asked: BTreeMap::new(),
            calm: false,
            trace: std::env::var_os("RINGPOST_SIM_TRACE").is_some(),
            crashes: 0,
            writer_stalled_until: 0,
            threads: Vec::new(),
            events: BTreeMap::new(),
            next_event: 0,
            mesh: BTreeMap::new(),
            link_stalled_until: BTreeMap::new(),
            queue: Vec::new(),
            writing: Vec::new(),
            next_control: 0,
        };
        world.start(world.profile.shards);
        world
    }

    /// A process begins on what is in the log.
    fn start(&mut self, shards: u16) {
        let opening = self.log.opening().clone();
        let mut dialects = Settings::default();
        dialects.imboy.catchup_gap_ms = self.profile.gap_ms;
        dialects.imboy.ack_is_read = self.profile.ack_is_read;
        let threads = (0..shards).map(|shard| {
            let config = ShardConfig {
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
                dialects: dialects.clone(),
                rates: RateLimits::default(),
            };
            Thread {
                shard: Shard::new(config),
                open: Effects { turn: 1, ..Effects::default() },
                facts: Vec::new(),
                now_stays: Vec::new(),
                held_stays: Vec::new(),
                handed: 0,
                durable: 0,
                waiting: VecDeque::new(),
                turn_at: None,
                tick_at: None,
                asleep_until: 0,
                drained: vec![(0, 0); usize::from(shards)],
                kept_us: 0,
            }
        });
        self.threads = threads.collect();
        (0..self.threads.len()).for_each(|shard| self.touch(shard));
    }

    pub fn shards(&self) -> usize {
        self.threads.len()
    }

    pub fn home(&self, user: usize) -> usize {
        let slot = self.model.names.user_id(user).slot();
        usize::from(slot.shard(self.threads.len() as u16).0)
    }

    pub fn gauges(&self, shard: usize) -> Gauges {
        self.threads[shard].shard.gauges()
    }

    /// Whether nothing is under way: in the mesh, to the disk, in a shard's turn.
    pub fn is_still(&self) -> bool {
        let rests = |thread: &Thread| {
            let gauges = thread.shard.gauges();
            thread.open.is_empty()
                && thread.waiting.is_empty()
                && gauges.loads == 0
                && gauges.requests == 0
                && !thread.shard.has_work()
        };
        self.queue.is_empty()
            && self.writing.is_empty()
            && self.mesh.values().all(VecDeque::is_empty)
            && self.threads.iter().all(rests)
            && self.net.is_still()
    }

    /// Up to `longest`; mostly much less.
    pub fn delay(&mut self, longest: u64) -> u64 {
        let longest = if self.random.percent(70) { longest / 8 } else { longest };
        if longest == 0 { 0 } else { self.random.below(longest + 1) }
    }

    pub fn later(&mut self, at: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((at.max(self.now.mono_us), self.next_event), event);
    }

    /// Lets things happen for so long.
    pub fn run(&mut self, us: u64) {
        let until = self.now.mono_us + us;
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= until
        {
            let ((at, _), event) = entry.remove_entry();
            self.pass(at - self.now.mono_us);
            self.happen(event);
        }
        self.pass(until - self.now.mono_us);
    }

    fn pass(&mut self, us: u64) {
        let before = self.now.mono_us / 1000;
        self.now.mono_us += us;
        self.now.wall_ms += self.now.mono_us / 1000 - before;
    }

    fn happen(&mut self, event: Event) {
        let shard = match &event {
            Event::Turn(shard) | Event::Tick(shard, _) | Event::Durable(shard, _) => Some(*shard),
            Event::Arrive(_, to) => Some(*to),
            Event::Drained(from, _) => Some(*from),
            Event::Loaded(shard, ..) => Some(*shard),
            Event::ToServer(conn) | Event::Gone(conn) => self.net.shard(*conn),
            Event::Write | Event::Written(_) | Event::ToClient(_) => None,
        };
        if let Some(shard) = shard {
            let until = self.threads[shard].asleep_until;
            if until > self.now.mono_us {
                return match event {
                    Event::Tick(_, at) if self.threads[shard].tick_at == Some(at) => {
                        self.threads[shard].tick_at = Some(until);
                        self.later(until, Event::Tick(shard, until));
                    }
                    Event::Tick(..) => {}
                    event => self.later(until, event),
                };
            }
        }
        match event {
            Event::Turn(shard) => self.end_turn(shard),
            // An earlier one may have come to be due.
            Event::Tick(shard, at) if self.threads[shard].tick_at == Some(at) => {
                self.threads[shard].tick_at = None;
                self.handle(shard, Input::Tick);
            }
            Event::Tick(..) => {}
            Event::Arrive(from, to) => self.arrive(from, to),
            Event::Drained(from, to) => {
                let (deliveries, bytes) = self.threads[to].drained[from];
                let shard = ShardId(to as u16);
                self.handle(from, Input::LinkDrained { shard, deliveries, bytes });
            }
            Event::Loaded(shard, id, load, read) => {
                let loaded = read.unwrap_or_else(|| self.read(&load));
                self.handle(shard, Input::Loaded { id, loaded });
            }
            Event::Write => self.write(),
            Event::Written(number) => self.written(number),
            Event::Durable(shard, turn) => self.release(shard, turn),
            Event::ToServer(conn) => self.arrive_at_server(conn),
            Event::ToClient(conn) => self.arrive_at_client(conn),
            Event::Gone(conn) => self.gone(conn),
        }
    }

    fn read(&self, load: &Load) -> Loaded {
        self.log.load(load).expect("the fake does not fail")
    }

    /// One input, and what the model and the driver have to do with what follows from it.
    pub fn handle(&mut self, shard: usize, input: Input<'_>) {
        if self.trace {
            eprintln!("{} us, shard {shard}: {:.300}", self.now.mono_us, format!("{input:?}"));
        }
        let thread = &mut self.threads[shard];
        let entries = thread.open.entries.len();
        thread.shard.handle(self.now, input, &mut thread.open);
        for entry in &thread.open.entries[entries..] {
            let bytes = &thread.open.entry_bytes;
            self.model.entry(self.now, entry, bytes, &mut thread.facts);
        }
        self.observe(shard);
        let loads = std::mem::take(&mut self.threads[shard].open.loads);
        for (id, load) in loads {
            if self.trace {
                eprintln!("  asks {id:?} {load:?}");
            }
            self.digest.debug(&load);
            if self.random.percent(self.profile.cold_percent) {
                let early = self.random.percent(self.profile.early_reads_percent);
                let read = early.then(|| self.read(&load));
                let at = self.now.mono_us + self.delay(self.profile.load_us);
                self.later(at, Event::Loaded(shard, id, load, read));
            } else {
                let loaded = self.read(&load);
                self.handle(shard, Input::Loaded { id, loaded });
            }
        }
        self.touch(shard);
        self.arm(shard);
    }

    /// The turn ends soon.
    fn touch(&mut self, shard: usize) {
        if self.threads[shard].turn_at.is_none() {
            let at = self.now.mono_us + self.delay(self.profile.turn_us);
            self.threads[shard].turn_at = Some(at);
            self.later(at, Event::Turn(shard));
        }
    }

    fn arm(&mut self, shard: usize) {
        let thread = &mut self.threads[shard];
        if let Some(next) = thread.shard.next_timer_us()
            && thread.tick_at.is_none_or(|at| next < at)
        {
            thread.tick_at = Some(next);
            self.later(next, Event::Tick(shard, next));
        }
    }

    /// Shows the model the frames that were made just now.
    fn observe(&mut self, shard: usize) {
        let thread = &mut self.threads[shard];
        let sets = [
            (&mut thread.open.now, &mut thread.now_stays),
            (&mut thread.open.held, &mut thread.held_stays),
        ];
        for (outputs, stays) in sets {
            // A driver drops them for who is behind; nobody is here for long.
            outputs.writes.append(&mut outputs.repeats);
            for write in &outputs.writes[stays.len()..] {
                let bytes = &outputs.arena[write.range.start as usize..write.range.end as usize];
                let stay = self.net.emitted(&mut self.model, self.now, write.conn, bytes);
                stays.push(stay);
            }
            for close in &outputs.closes {
                self.net.closing(close.conn);
            }
        }
    }

    fn end_turn(&mut self, shard: usize) {
        // What the tick brings belongs to this turn.
        self.handle(shard, Input::Tick);
        self.threads[shard].turn_at = None;
        let thread = &mut self.threads[shard];
        let now = std::mem::take(&mut thread.open.now);
        let stays = std::mem::take(&mut thread.now_stays);
        self.perform(shard, now, &stays);
        let thread = &mut self.threads[shard];
        if !thread.open.entries.is_empty() {
            if thread.handed - thread.durable < TURNS_HANDED_MAX {
                thread.handed = thread.open.turn;
                let mut batch = Batch::default();
                batch.push(&thread.open);
                let turn = Turn {
                    shard,
                    number: thread.open.turn,
                    handed_us: self.now.mono_us,
                    batch,
                    facts: std::mem::take(&mut thread.facts),
                };
                self.digest.debug(&thread.open.entries);
                self.digest.bytes(&thread.open.entry_bytes);
                let open = Effects { turn: thread.open.turn + 1, ..Effects::default() };
                let full = std::mem::replace(&mut thread.open, open);
                let stays = std::mem::take(&mut thread.held_stays);
                let waiting = Waiting { turn: full.turn, held: full.held, stays };
                thread.waiting.push_back(waiting);
                self.hand_over(turn);
            }
        } else if !thread.open.held.is_empty() {
            let held = std::mem::take(&mut thread.open.held);
            let stays = std::mem::take(&mut thread.held_stays);
            let turn = thread.handed;
            thread.waiting.push_back(Waiting { turn, held, stays });
            let durable = thread.durable;
            self.release_waiting(shard, durable);
        }
        if self.threads[shard].shard.has_work() {
            self.touch(shard);
        }
    }

    fn hand_over(&mut self, turn: Turn) {
        if self.queue.is_empty() && self.writing.is_empty() {
            let at = (self.now.mono_us + self.delay(20)).max(self.writer_stalled_until);
            self.later(at, Event::Write);
        }
        self.queue.push(turn);
    }

    /// The writer: one batch of what all shards have handed over, one sync.
    fn write(&mut self) {
        if self.queue.is_empty() || !self.writing.is_empty() {
            return;
        }
        self.writing = std::mem::take(&mut self.queue);
        let batches: Vec<Batch> = self.writing.iter().map(|turn| turn.batch.clone()).collect();
        let number = self.log.append(&batches);
        let at = self.now.mono_us + 10 + self.delay(self.profile.commit_us);
        self.later(at.max(self.writer_stalled_until), Event::Written(number));
    }

    fn written(&mut self, number: u64) {
        self.log.complete(number);
        for (shard, turn) in self.settle_written() {
            let at = self.now.mono_us + self.delay(self.profile.mesh_us.min(1_000));
            self.later(at, Event::Durable(shard, turn));
        }
        if !self.queue.is_empty() {
            let at = self.now.mono_us.max(self.writer_stalled_until);
            self.later(at, Event::Write);
        }
    }

    /// The batch that was being written is durable: the shards' turns in it.
    fn settle_written(&mut self) -> Vec<(usize, u64)> {
        let mut turns = Vec::new();
        for turn in std::mem::take(&mut self.writing) {
            self.model.durable(turn.facts);
            let thread = &mut self.threads[turn.shard];
            thread.kept_us = turn.handed_us.max(thread.kept_us);
            turns.push((turn.shard, turn.number));
        }
        turns
    }

    fn release(&mut self, shard: usize, turn: u64) {
        if turn > self.threads[shard].durable {
            self.threads[shard].durable = turn;
            self.release_waiting(shard, turn);
            self.handle(shard, Input::Durable { turn });
        }
    }

    fn release_waiting(&mut self, shard: usize, durable: u64) {
        while let Some(front) = self.threads[shard].waiting.front()
            && front.turn <= durable
        {
            let Waiting { held, stays, .. } =
                self.threads[shard].waiting.pop_front().expect("looked at above");
            self.perform(shard, held, &stays);
        }
    }

    fn perform(&mut self, shard: usize, mut outputs: Outputs, stays: &[u32]) {
        if outputs.is_empty() {
            return;
        }
        self.digest.debug(&(self.now.mono_us, shard));
        for (write, stay) in outputs.writes.iter().zip(stays) {
            if self.trace {
                let bytes = &outputs.arena[write.range.start as usize..write.range.end as usize];
                let text = String::from_utf8_lossy(bytes);
                eprintln!("  to {:?}: {text:.150}", write.conn);
            }
            let bytes = &outputs.arena[write.range.start as usize..write.range.end as usize];
            self.digest.debug(&write.conn);
            self.digest.bytes(bytes);
            if self.net.released(&mut self.model, write.conn, bytes, *stay) {
                self.send_to_client(write.conn, bytes);
            }
        }
        for close in &outputs.closes {
            self.digest.debug(close);
            self.close(close.conn, close.how);
        }
        for (to, routed) in outputs.routes.drain(..) {
            self.digest.debug(&(to, &routed));
            self.route(shard, usize::from(to.0), routed);
        }
        for (id, answer) in outputs.answers.drain(..) {
            self.digest.debug(&(id, &answer));
            self.answer(id, &answer);
        }
    }

    fn close(&mut self, conn: ConnId, how: CloseHow) {
        self.close_to_client(conn, how);
        let at = self.now.mono_us + self.delay(self.profile.net_us);
        self.later(at, Event::Gone(conn));
    }

    fn answer(&mut self, id: ControlId, answer: &Answer) {
        let asked = self.asked.remove(&id).expect("one answer to one question");
        self.model.answered(&asked, answer, self.calm);
    }

    fn route(&mut self, from: usize, to: usize, routed: Routed) {
        assert_ne!(from, to, "nothing is routed to oneself");
        let stalled = self.link_stalled_until.get(&(from, to)).copied().unwrap_or(0);
        let at = (self.now.mono_us + 1 + self.delay(self.profile.mesh_us)).max(stalled);
        let link = self.mesh.entry((from, to)).or_default();
        let at = link.back().map_or(at, |(last, _)| at.max(*last));
        link.push_back((at, routed));
        self.later(at, Event::Arrive(from, to));
    }

    fn arrive(&mut self, from: usize, to: usize) {
        let link = self.mesh.get_mut(&(from, to)).expect("something was routed");
        let (_, routed) = link.pop_front().expect("one event for each");
        let bytes = delivery_bytes(&routed);
        self.handle(to, Input::Routed { from: ShardId(from as u16), routed });
        if let Some(bytes) = bytes {
            let drained = &mut self.threads[to].drained[from];
            *drained = (drained.0 + 1, drained.1 + bytes);
            let stalled = self.link_stalled_until.get(&(to, from)).copied().unwrap_or(0);
            let at = self.now.mono_us + self.delay(self.profile.mesh_us);
            self.later(at.max(stalled), Event::Drained(from, to));
        }
    }

    /// Asks the home over the control plane.
    pub fn ask(&mut self, operation: Operation, asked: Asked) -> ControlId {
        self.next_control += 1;
        let id = ControlId(self.next_control);
        let shard = usize::from(operation.slot().shard(self.threads.len() as u16).0);
        self.asked.insert(id, asked);
        self.handle(shard, Input::Control { id, operation });
        id
    }

    /// Data may be read from this connection.
    pub fn takes(&self, shard: usize, conn: ConnId) -> bool {
        self.threads[shard].shard.takes(conn)
    }

    pub fn sleep(&mut self, shard: usize, us: u64) {
        self.threads[shard].asleep_until = self.now.mono_us + us;
    }

    /// The process dies here: some of what the disk was given has got there, some of what was
    /// written to connections has left. Another one begins with so many shards.
    pub fn crash(&mut self, shards: u16) {
        self.crashes += 1;
        if self.trace {
            eprintln!("{} us: the process ends; {shards} shards begin", self.now.mono_us);
        }
        let number = self.random.range(self.log.durable(), self.log.written());
        let image = self.log.crash_image(number);
        if number > self.log.durable() {
            self.settle_written();
        }
        self.log = image;
        self.crash_net();
        let kept: Vec<u64> = self.threads.iter().map(|thread| thread.kept_us).collect();
        let homes: Vec<usize> = (0..self.model.users.len()).map(|user| self.home(user)).collect();
        self.model.crashed(|user| kept[homes[user]]);
        self.asked.clear();
        self.events.clear();
        self.mesh.clear();
        self.link_stalled_until.clear();
        self.queue.clear();
        self.writing.clear();
        self.writer_stalled_until = 0;
        // It takes a moment to start.
        self.pass(1_000);
        self.start(shards);
    }

    /// What stands still goes on.
    pub fn wake_all(&mut self) {
        self.threads.iter_mut().for_each(|thread| thread.asleep_until = 0);
        self.writer_stalled_until = 0;
        self.link_stalled_until.clear();
    }
}
