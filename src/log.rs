//! The threads between the shards and the log: one writer that commits the turns of all shards
//! together, and readers for what memory cannot answer. They decide nothing; an error of the log
//! ends the process, because nothing may be acknowledged after it.
//!
//! *Bounds.* A shard hands over at most [`crate::bounds::TURNS_HANDED_MAX`] turns before one of
//! them is durable, so the writer's queue is as long as twice the number of shards. A reader's
//! queue holds at most what the core waits for: 64 waiters for one conversation, and nothing new
//! is taken from sockets when a shard's requests are at their limit.

use std::io;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use ringpost_core::event::{Effects, Load, LoadId, Loaded};
use ringpost_core::ids::ShardId;
use ringpost_storage::{Batch, Durability, Log, LogError};

use crate::bounds::{READERS, TURNS_HANDED_MAX};
use crate::fatal::{self, Cause};
use crate::health::Health;
use crate::mesh::{Mesh, Parcel};
use crate::space::{LOOK_BYTES, Space};
use crate::stats::Stats;

/// A turn on its way to the log.
struct Turn {
    shard: ShardId,
    number: u64,
    entries: u64,
    batch: Batch,
}

/// A question on its way to a reader.
struct Question {
    shard: ShardId,
    id: LoadId,
    load: Load,
}

/// A shard's end of the log.
pub struct ShardLog {
    shard: ShardId,
    log: Arc<dyn Log>,
    turns: Sender<Turn>,
    questions: Sender<Question>,
    /// Batches that come back from the writer, empty.
    batches: Receiver<Batch>,
}

/// The threads of the log. They end when all [`ShardLog`]s are gone.
pub struct Threads {
    threads: Vec<JoinHandle<()>>,
    log: Arc<dyn Log>,
}

/// What the writer needs beside the log.
struct Writer {
    log: Arc<dyn Log>,
    durability: Durability,
    turns: Receiver<Turn>,
    /// Back to the shards, by number.
    batches: Vec<Sender<Batch>>,
    mesh: Mesh,
    health: Health,
    stats: Stats,
    /// Looked at as bytes are written; `None`: nobody watches the disk.
    space: Option<Space>,
}

/// Starts the threads of the log; the shards' ends are in order.
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    log: Arc<dyn Log>,
    durability: Durability,
    mesh: &Mesh,
    health: &Health,
    stats: &Stats,
    space: Option<Space>,
) -> io::Result<(Threads, Vec<ShardLog>)> {
    let (turns, turns_out) = crossbeam_channel::unbounded();
    let (questions, questions_out) = crossbeam_channel::unbounded();
    let mut ends = Vec::new();
    let mut returns = Vec::new();
    for shard in (0..mesh.shards()).map(ShardId) {
        let (back, batches) = crossbeam_channel::bounded(TURNS_HANDED_MAX);
        returns.push(back);
        let (log, turns, questions) = (log.clone(), turns.clone(), questions.clone());
        ends.push(ShardLog { shard, log, turns, questions, batches });
    }
    let writer = Writer {
        log: log.clone(),
        durability,
        turns: turns_out,
        batches: returns,
        mesh: mesh.clone(),
        health: health.clone(),
        stats: stats.clone(),
        space,
    };
    let named = |name: String| thread::Builder::new().name(name);
    let mut threads = vec![named("log-writer".to_owned()).spawn(move || writer.run())?];
    for number in 0..READERS {
        let (log, questions, mesh) = (log.clone(), questions_out.clone(), mesh.clone());
        let reader = named(format!("log-reader-{number}"));
        threads.push(reader.spawn(move || read(&*log, &questions, &mesh))?);
    }
    Ok((Threads { threads, log }, ends))
}

impl Threads {
    /// The log, as long as it is open.
    pub fn store(&self) -> Weak<dyn Log> {
        Arc::downgrade(&self.log)
    }

    /// Waits for the threads to end, and gives the log back to be closed. All [`ShardLog`]s must be
    /// gone.
    pub fn join(self) -> Arc<dyn Log> {
        for thread in self.threads {
            thread.join().expect("a panic ends the process");
        }
        self.log
    }
}

impl ShardLog {
    /// Answers from memory, or says `None`.
    pub fn load_cached(&self, load: &Load) -> Option<Loaded> {
        self.log.load_cached(load).unwrap_or_else(|error| failed(&error))
    }

    /// Has a reader answer, by [`Parcel::Loaded`].
    pub fn read(&self, id: LoadId, load: Load) {
        let question = Question { shard: self.shard, id, load };
        self.questions.send(question).expect("the readers live as long as this");
    }

    /// Hands a turn's entries to the writer, which will publish its number in the mesh.
    pub fn hand_over(&self, effects: &Effects) {
        let mut batch = self.batches.try_recv().unwrap_or_default();
        batch.push(effects);
        let entries = effects.entries.len() as u64;
        let turn = Turn { shard: self.shard, number: effects.turn, entries, batch };
        self.turns.send(turn).expect("the writer lives as long as this");
    }
}

impl Writer {
    /// Commits until the shards are gone, then makes everything durable.
    fn run(self) {
        let mut turns = Vec::new();
        let mut batches = Vec::new();
        let mut last_sync = Instant::now();
        let mut unsynced = false;
        let mut unseen = 0;
        loop {
            match self.next(last_sync, unsynced) {
                Ok(turn) => turns.push(turn),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            // What has gathered while the last commit was in the disk goes together.
            turns.extend(self.turns.try_iter());
            batches.extend(turns.iter_mut().map(|turn: &mut Turn| std::mem::take(&mut turn.batch)));
            if !batches.is_empty() {
                self.commit(&turns, &batches);
                self.publish(&turns);
                unsynced = true;
                unseen += batches.iter().map(|batch| batch.bytes() as u64).sum::<u64>();
                self.look(&mut unseen);
            }
            for (turn, mut batch) in turns.drain(..).zip(batches.drain(..)) {
                batch.clear();
                let back = &self.batches[usize::from(turn.shard.0)];
                // It has enough, or has ended.
                let _freed = back.try_send(batch);
            }
            if let Some(interval) = self.interval()
                && unsynced
                && last_sync.elapsed() >= interval
            {
                self.sync();
                (last_sync, unsynced) = (Instant::now(), false);
            }
        }
        self.sync();
    }

    /// The next turn. [`RecvTimeoutError::Timeout`]: a sync is due.
    fn next(&self, last_sync: Instant, unsynced: bool) -> Result<Turn, RecvTimeoutError> {
        match self.interval() {
            Some(interval) if unsynced => self.turns.recv_deadline(last_sync + interval),
            _ => self.turns.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn interval(&self) -> Option<Duration> {
        match self.durability {
            Durability::Interval(ms) => Some(Duration::from_millis(ms)),
            Durability::Fsync | Durability::Os => None,
        }
    }

    fn commit(&self, turns: &[Turn], batches: &[Batch]) {
        self.health.set_committing(true);
        let began = Instant::now();
        if let Err(error) = self.log.commit(batches) {
            failed(&error);
        }
        let took = began.elapsed();
        self.health.set_committing(false);
        let entries = turns.iter().map(|turn| turn.entries).sum();
        self.stats.log().committed(turns.len() as u64, entries, took);
    }

    fn publish(&self, turns: &[Turn]) {
        for turn in turns {
            self.mesh.publish_durable(turn.shard, turn.number);
        }
        for turn in turns {
            self.mesh.ring(turn.shard);
        }
    }

    /// Looks at the disk when so much was written that the reserve might be reached.
    fn look(&self, unseen: &mut u64) {
        if *unseen >= LOOK_BYTES
            && let Some(space) = &self.space
        {
            *unseen = 0;
            if let Err(error) = space.look() {
                // The supervisor looks too, and says so.
                tracing::debug!(%error, "the room on the disk is not known");
            }
        }
    }

    fn sync(&self) {
        self.health.set_committing(true);
        if let Err(error) = self.log.sync() {
            failed(&error);
        }
        self.health.set_committing(false);
    }
}

/// A reader thread: answers until the shards are gone.
fn read(log: &dyn Log, questions: &Receiver<Question>, mesh: &Mesh) {
    for Question { shard, id, load } in questions {
        let loaded = log.load(&load).unwrap_or_else(|error| failed(&error));
        mesh.send(shard, Parcel::Loaded { id, loaded });
    }
}

/// The log cannot go on, so nothing can.
fn failed(error: &LogError) -> ! {
    fatal::exit(
        cause(error),
        &format!("the log failed, no message is acknowledged any more: {error}"),
    )
}

/// The exit status of an error of the log.
pub fn cause(error: &LogError) -> Cause {
    match error {
        LogError::Locked { .. } => Cause::StoreLocked,
        LogError::NotAStore { .. } | LogError::Format { .. } => Cause::Config,
        LogError::Hole(_)
        | LogError::Repairing { .. }
        | LogError::Corrupt { .. }
        | LogError::Collision { .. } => Cause::LogDamaged,
        LogError::Read(_) | LogError::Write(_) => Cause::LogFailed,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ringpost_core::event::Entry;
    use ringpost_storage::{Fake, FakeSeed, Gauges, Opening};

    use super::*;

    /// A log that says when it is synced, and waits until it may be.
    struct Watched {
        log: Fake,
        syncs: Sender<()>,
        may: Mutex<Receiver<()>>,
    }

    impl Log for Watched {
        fn opening(&self) -> &Opening {
            self.log.opening()
        }

        fn commit(&self, batches: &[Batch]) -> Result<(), LogError> {
            self.log.commit(batches)
        }

        fn sync(&self) -> Result<(), LogError> {
            self.syncs.send(()).expect("the test listens");
            self.may.lock().expect("no panic").recv().expect("the test says when");
            self.log.sync()
        }

        fn load_cached(&self, load: &Load) -> Result<Option<Loaded>, LogError> {
            self.log.load_cached(load)
        }

        fn load(&self, load: &Load) -> Result<Loaded, LogError> {
            self.log.load(load)
        }

        fn set_room(&self, free: u64) -> Result<(), LogError> {
            self.log.set_room(free)
        }

        fn gauges(&self) -> Gauges {
            self.log.gauges()
        }
    }

    #[test]
    fn the_writer_syncs_by_its_timer_and_at_the_end() {
        const DEADLINE: Duration = Duration::from_secs(30);
        for durability in [Durability::Interval(1), Durability::Interval(3_600_000), Durability::Os]
        {
            let (syncs, synced) = crossbeam_channel::unbounded();
            let (allow, may) = crossbeam_channel::unbounded();
            let log = Fake::new(FakeSeed::default());
            let log = Arc::new(Watched { log, syncs, may: Mutex::new(may) });
            let (mesh, inboxes) = Mesh::new(1).expect("a descriptor");
            let (health, stats) = (Health::default(), Stats::new(1));
            let (threads, mut ends) =
                start(log, durability, &mesh, &health, &stats, None).expect("threads");
            for turn in 1..=3 {
                let lease = Entry::IdLease { shard: ShardId(0), second: turn as u32 };
                let effects = Effects { turn, entries: vec![lease], ..Effects::default() };
                ends[0].hand_over(&effects);
                let began = Instant::now();
                while inboxes[0].durable() < turn {
                    // Told before the sync, which this test does not let happen yet.
                    assert!(began.elapsed() < DEADLINE, "{durability}: turn {turn} is not told");
                    thread::yield_now();
                }
                if durability == Durability::Interval(1) {
                    synced.recv_timeout(DEADLINE).expect("the timer's sync");
                    allow.send(()).expect("it waits");
                } else {
                    assert!(synced.is_empty(), "{durability}: not before its time");
                }
            }
            ends.clear();
            synced.recv_timeout(DEADLINE).expect("the sync at the end");
            allow.send(()).expect("it waits");
            drop(threads.join());
            assert!(synced.is_empty(), "{durability}: once at the end");
        }
    }
}
