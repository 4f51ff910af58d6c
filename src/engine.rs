//! Drives the core as its contract says (core/src/event.rs): gathers a turn, answers its loads,
//! hands its entries to the log, and keeps what must wait for them. It performs nothing.

use std::collections::VecDeque;

use ringpost_core::event::{Effects, Input, LoadId, Loaded, Outputs, Write};
use ringpost_core::ids::ConnId;
use ringpost_core::limits::TURN_BYTES_MAX;
use ringpost_core::shard::Gauges;
use ringpost_core::{Now, Shard};

use crate::bounds::{ENTRY_BYTES, TURNS_HANDED_MAX};
use crate::log::ShardLog;
use crate::stats::ShardStats;

/// A shard of the core and its turns.
pub struct Engine {
    shard: Shard,
    /// Until the end.
    log: Option<ShardLog>,
    /// The open turn.
    open: Box<Effects>,
    /// What waits for a turn to become durable, in order. At most [`TURNS_HANDED_MAX`] turns that
    /// were handed over, and after each one turn without entries.
    waiting: VecDeque<Waiting>,
    /// Turns to be used again: at most as many as `waiting` ever held.
    #[expect(clippy::vec_box, reason = "they go from place to place, and are large")]
    spare: Vec<Box<Effects>>,
    /// The last turn handed over.
    handed: u64,
    /// The last turn whose held effects were released.
    durable: u64,
    /// Loads that the readers have.
    reading: usize,
}

/// A turn whose held effects wait.
struct Waiting {
    /// Until this turn is durable.
    turn: u64,
    effects: Box<Effects>,
}

impl Engine {
    /// Nothing has happened yet.
    pub fn new(shard: Shard, log: ShardLog) -> Engine {
        let open = Box::new(Effects { turn: 1, ..Effects::default() });
        Engine {
            shard,
            log: Some(log),
            open,
            waiting: VecDeque::new(),
            spare: Vec::new(),
            handed: 0,
            durable: 0,
            reading: 0,
        }
    }

    /// Takes one input into the open turn, and answers from memory what it asks the log.
    pub fn drive(&mut self, now: Now, input: Input<'_>, stats: &ShardStats) {
        self.shard.handle(now, input, &mut self.open);
        while !self.open.loads.is_empty() {
            let mut loads = std::mem::take(&mut self.open.loads);
            for (id, load) in loads.drain(..) {
                match log(&self.log).load_cached(&load) {
                    Some(loaded) => {
                        stats.loads_cached.add(1);
                        self.shard.handle(now, Input::Loaded { id, loaded }, &mut self.open);
                    }
                    None => {
                        stats.loads_read.add(1);
                        self.reading += 1;
                        log(&self.log).read(id, load);
                    }
                }
            }
            if self.open.loads.is_empty() {
                // The vector's capacity stays with the turn.
                self.open.loads = loads;
                return;
            }
        }
    }

    /// Takes a reader's answer.
    pub fn loaded(&mut self, now: Now, id: LoadId, loaded: Loaded, stats: &ShardStats) {
        self.reading -= 1;
        self.drive(now, Input::Loaded { id, loaded }, stats);
    }

    /// Whether data may be read from sockets at all.
    pub fn admits(&self) -> bool {
        self.shard.admits() && !self.is_full()
    }

    /// Whether the next data message of this connection may be taken.
    pub fn takes(&self, conn: ConnId) -> bool {
        !self.is_full() && self.shard.takes(conn)
    }

    /// When the core wants its next tick, in [`Now::mono_us`].
    pub fn next_timer_us(&self) -> Option<u64> {
        self.shard.next_timer_us()
    }

    /// Publishes what the core has in memory.
    pub fn publish(&self, stats: &ShardStats) {
        let Gauges { users, conversations, requests, loads, catch_ups, owed, due, pending } =
            self.shard.gauges();
        stats.users.set(users as u64);
        stats.conversations.set(conversations as u64);
        stats.requests.set(requests.into());
        stats.loads_waiting.set(loads as u64);
        stats.catch_ups.set(catch_ups as u64);
        stats.owed.set(owed as u64);
        stats.due.set(due as u64);
        stats.pending.set(pending as u64);
    }

    /// Whether the core wants a tick at once.
    pub fn has_work(&self) -> bool {
        self.shard.has_work()
    }

    /// The effects that may leave now; they are to be given back by [`Engine::put_back`].
    pub fn take_now(&mut self) -> Outputs {
        std::mem::take(&mut self.open.now)
    }

    /// Takes performed effects back, emptied, for their capacity.
    pub fn put_back(&mut self, mut outputs: Outputs) {
        outputs.clear();
        if self.open.now.is_empty() {
            self.open.now = outputs;
        }
    }

    /// Closes the open turn if it can be: hands its entries to the log, or lets what is held wait
    /// for the turns before it.
    pub fn close_turn(&mut self, stats: &ShardStats) {
        if !self.open.entries.is_empty() {
            if self.turns_waiting() < TURNS_HANDED_MAX as u64 {
                let turn = self.open.turn;
                assert!(turn == self.handed + 1, "turns are handed over in order");
                log(&self.log).hand_over(&self.open);
                self.handed = turn;
                stats.turns_logged.add(1);
                self.open.clear_entries();
                let effects = self.reopen();
                self.waiting.push_back(Waiting { turn, effects });
            }
        } else if !self.open.held.is_empty() {
            match self.waiting.back_mut() {
                // A second turn without entries after the same one: they leave together.
                Some(last) if last.effects.turn > self.handed => {
                    append(&mut last.effects.held, &mut self.open.held);
                }
                _ => {
                    let effects = self.reopen();
                    self.waiting.push_back(Waiting { turn: self.handed, effects });
                }
            }
        }
        stats.turns_waiting.set(self.turns_waiting());
        let compressed = self.shard.compressed();
        stats.deflated_from_bytes.set(compressed.before);
        stats.deflated_bytes.set(compressed.after);
    }

    /// Replaces the open turn by an empty one, which continues what may leave at once.
    fn reopen(&mut self) -> Box<Effects> {
        let mut effects = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
        self.open.turn = self.handed + 1;
        std::mem::swap(&mut self.open.now, &mut effects.now);
        std::mem::swap(&mut self.open.loads, &mut effects.loads);
        effects
    }

    /// The held effects of the next turn that waits for nothing any more.
    pub fn release(&mut self, durable: u64) -> Option<Box<Effects>> {
        let ready = self.waiting.front().is_some_and(|waiting| waiting.turn <= durable);
        ready.then(|| self.waiting.pop_front().expect("there is a front").effects)
    }

    /// All turns up to this one are durable, and what they held has been performed.
    pub fn set_durable(&mut self, now: Now, turn: u64, stats: &ShardStats) {
        if turn > self.durable {
            assert!(turn <= self.handed, "only what was handed over can be durable");
            self.durable = turn;
            self.drive(now, Input::Durable { turn }, stats);
        }
    }

    /// Takes a turn whose effects were performed back, for its capacity.
    pub fn recycle(&mut self, mut effects: Box<Effects>) {
        effects.clear();
        if self.spare.len() < 2 * TURNS_HANDED_MAX + 1 {
            self.spare.push(effects);
        }
    }

    /// The last turn that was seen durable.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// There is nothing that could be done without an input.
    pub fn is_settled(&self) -> bool {
        let stuck = self.turns_waiting() == TURNS_HANDED_MAX as u64;
        let open = &self.open;
        open.now.is_empty() && (stuck || (open.entries.is_empty() && open.held.is_empty()))
    }

    /// Nothing is on its way to the log or from it.
    pub fn is_at_rest(&self) -> bool {
        self.open.is_empty() && self.waiting.is_empty() && self.reading == 0
    }

    /// Lets the log go, so that it can be closed. No input may come after this.
    pub fn end(&mut self) {
        self.log = None;
    }

    fn turns_waiting(&self) -> u64 {
        self.handed - self.durable
    }

    /// The open turn can neither be handed over nor take more.
    fn is_full(&self) -> bool {
        let bytes = self.open.entry_bytes.len() + self.open.entries.len() * ENTRY_BYTES;
        bytes >= TURN_BYTES_MAX && self.turns_waiting() == TURNS_HANDED_MAX as u64
    }
}

fn log(log: &Option<ShardLog>) -> &ShardLog {
    log.as_ref().expect("no input comes after the end")
}

/// Moves `from`'s effects behind those of `to`.
fn append(to: &mut Outputs, from: &mut Outputs) {
    let offset = u32::try_from(to.arena.len()).expect("held effects are far below 4 GiB");
    to.arena.append(&mut from.arena);
    let moved = |mut write: Write| {
        write.range = write.range.start + offset..write.range.end + offset;
        write
    };
    to.writes.extend(from.writes.drain(..).map(moved));
    to.signals.extend(from.signals.drain(..).map(moved));
    to.repeats.extend(from.repeats.drain(..).map(moved));
    to.closes.append(&mut from.closes);
    to.routes.append(&mut from.routes);
    to.answers.append(&mut from.answers);
}
