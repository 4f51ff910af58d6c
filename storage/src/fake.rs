//! The log in memory, for tests and the simulator: it can be slow, fail, and crash.
//!
//! Same batches, same answers as the store on disk; nothing here reads a clock or draws a random
//! number, so the same calls give the same state. A commit has two halves that a test may pull
//! apart: [`Fake::append`] hands it to the disk, [`Fake::complete`] makes it durable and visible.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ringpost_core::event::{Load, Loaded};
use ringpost_core::ids::ConvKey;

use crate::batch::{self, Batch};
use crate::error::{LogError, Malformed};
use crate::keys::{self, Family};
use crate::load::{self, Miss, View, malformed};
use crate::{Gauges, Log, Opening, Recovery, opening};

/// What a store on disk draws at random when it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FakeSeed {
    /// See [`Opening::epoch`].
    pub epoch: u64,
    /// See [`Opening::node`].
    pub node: [u8; 3],
    /// See [`Opening::secret`].
    pub secret: u64,
}

/// A log in memory.
pub struct Fake {
    opening: Opening,
    state: Mutex<State>,
    /// Told when a stall ends.
    released: Condvar,
}

type Families = BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>;

#[derive(Clone, Default)]
struct State {
    /// What is durable: the batches up to `durable`.
    families: Families,
    durable: u64,
    /// What the disk was given and has not confirmed, in order.
    pending: VecDeque<Vec<u8>>,
    /// Commits wait for [`Fake::release`].
    stalled: bool,
    /// Commits fail from now on.
    failing: bool,
    /// Nothing is in memory: [`Log::load_cached`] says so.
    cold: bool,
}

impl State {
    fn append(&mut self, batches: &[Batch]) -> u64 {
        let number = self.written() + 1;
        let mut bytes = vec![];
        batch::join(&mut bytes, batches, number, SEAL);
        self.pending.push_back(bytes);
        number
    }

    fn written(&self) -> u64 {
        self.durable + self.pending.len() as u64
    }

    fn complete(&mut self, number: u64) {
        assert!(number <= self.written(), "batch {number} was not written");
        while self.durable < number {
            let bytes = self.pending.pop_front().expect("it was written and is not durable");
            for op in batch::ops(&bytes) {
                let op = op.expect("append wrote it");
                let family = self.families.entry(op.family).or_default();
                match op.value {
                    Some(value) => family.insert(op.key.to_vec(), value.to_vec()),
                    None => family.remove(op.key),
                };
            }
            self.durable += 1;
        }
    }
}

/// Nobody forges batches here.
const SEAL: [u8; 8] = [0; 8];

impl Fake {
    /// A new store.
    pub fn new(seed: FakeSeed) -> Fake {
        let mut state = State::default();
        let number = state.append(&[opening::first(seed.epoch, seed.node, seed.secret)]);
        state.complete(number);
        Fake::open(state, true)
    }

    fn open(state: State, created: bool) -> Fake {
        let recovery = Recovery { created, ..Recovery::default() };
        let opening = opening::read(&state, recovery).expect("the first batch has all of it");
        Fake { opening, state: Mutex::new(state), released: Condvar::new() }
    }

    /// Hands the batches to the disk and returns their number. They are neither durable nor
    /// visible before [`Fake::complete`].
    pub fn append(&self, batches: &[Batch]) -> u64 {
        self.state().append(batches)
    }

    /// Makes everything up to batch `number` durable and visible.
    pub fn complete(&self, number: u64) {
        self.state().complete(number);
    }

    /// Number of the last durable batch.
    pub fn durable(&self) -> u64 {
        self.state().durable
    }

    /// Number of the last batch that was handed to the disk.
    pub fn written(&self) -> u64 {
        self.state().written()
    }

    /// The store as the next process finds it when a crash leaves the first `number` batches.
    /// That may be any number from [`Fake::durable`] to [`Fake::written`].
    pub fn crash_image(&self, number: u64) -> Fake {
        let state = self.state();
        assert!(number >= state.durable, "batch {number} is durable, no crash takes it back");
        let mut image = State { stalled: false, failing: false, cold: false, ..state.clone() };
        drop(state);
        image.complete(number);
        image.pending.clear();
        Fake::open(image, false)
    }

    /// Commits wait, after they were handed to the disk, until [`Fake::release`].
    pub fn stall(&self) {
        self.state().stalled = true;
    }

    /// Ends a stall.
    pub fn release(&self) {
        self.state().stalled = false;
        self.released.notify_all();
    }

    /// All commits from now on fail, and leave open whether the disk has them.
    pub fn fail(&self) {
        self.state().failing = true;
    }

    /// Whether [`Log::load_cached`] knows nothing, so that every load needs a reader thread.
    pub fn set_cold(&self, cold: bool) {
        self.state().cold = cold;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No method leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Fake {
    fn opening(&self) -> &Opening {
        &self.opening
    }

    fn commit(&self, batches: &[Batch]) -> Result<(), LogError> {
        if batches.iter().all(Batch::is_empty) {
            return Ok(());
        }
        let mut state = self.state();
        let number = state.append(batches);
        while state.stalled {
            state = self.released.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failing {
            return Err(LogError::Write("the fake was told to fail".into()));
        }
        state.complete(number);
        Ok(())
    }

    fn sync(&self) -> Result<(), LogError> {
        if self.state().failing {
            return Err(LogError::Write("the fake was told to fail".into()));
        }
        Ok(())
    }

    fn load_cached(&self, load: &Load) -> Result<Option<Loaded>, LogError> {
        if self.state().cold {
            return Ok(None);
        }
        self.load(load).map(Some)
    }

    fn load(&self, load: &Load) -> Result<Loaded, LogError> {
        load::load(&*self.state(), load).map_err(LogError::from)
    }

    fn set_room(&self, _free: u64) -> Result<(), LogError> {
        // There is nothing to merge.
        Ok(())
    }

    fn gauges(&self) -> Gauges {
        let state = self.state();
        let sizes = state.families.values().flatten().map(|(key, value)| key.len() + value.len());
        Gauges { memtables: sizes.sum::<usize>() as u64, ..Gauges::default() }
    }
}

impl View for State {
    fn get<R>(
        &self,
        family: Family,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss> {
        let value = self.families.get(&family).and_then(|family| family.get(key));
        let value = value.map(|value| read(value)).transpose();
        value.map_err(|why| malformed(family, key, why).into())
    }

    fn last<R>(
        &self,
        conversation: ConvKey,
        read: impl FnOnce(&[u8], &[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss> {
        let bounds =
            keys::log(conversation, 0).to_vec()..=keys::log(conversation, u64::MAX).to_vec();
        let last = self.families.get(&Family::Log).and_then(|log| log.range(bounds).next_back());
        last.map(|(key, value)| {
            read(key, value).map_err(|why| malformed(Family::Log, key, why).into())
        })
        .transpose()
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Malformed>,
    ) -> Result<(), Miss> {
        let bounds = (Bound::Included(from), Bound::Excluded(end));
        let Some(keys) = self.families.get(&family) else {
            return Ok(());
        };
        for (key, value) in keys.range::<[u8], _>(bounds) {
            match visit(key, value) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(why) => return Err(malformed(family, key, why).into()),
            }
        }
        Ok(())
    }
}
