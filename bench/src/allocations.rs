//! Allocations of the warm path: how many a private message with both acknowledgements costs in
//! `ws`, dialect and shard, once everything has its size. Counted by the allocator of this program.

use serde::Serialize;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeMap;

use crate::exchange::Exchange;

/// Sizes are told apart up to this, in words of [`WORD`] bytes.
const WORDS: usize = 64;
const WORD: usize = 16;

thread_local! {
    /// Whether this thread's allocations are counted.
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    /// By size: in words, the last one for everything larger.
    static BY_SIZE: [Cell<u64>; WORDS] = const { [const { Cell::new(0) }; WORDS] };
}

/// The allocator of the server, with a count.
pub struct Counted;

fn note(bytes: usize) {
    // Not while a thread ends.
    let counting = COUNTING.try_with(Cell::get).unwrap_or(false);
    if counting {
        let word = bytes.div_ceil(WORD).min(WORDS - 1);
        BY_SIZE.with(|sizes| sizes[word].set(sizes[word].get() + 1));
    }
}

// SAFETY: every call is handed on unchanged to an allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are those that it asks for.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { mimalloc::MiMalloc.realloc(ptr, layout, size) }
    }
}

/// What was counted.
#[derive(Debug, Serialize)]
pub struct Allocations {
    /// Messages that were counted.
    pub messages: u64,
    /// Allocations for each.
    pub per_message: f64,
    /// The same by size: at most so many bytes, those that make a hundredth of one at least.
    pub by_bytes: BTreeMap<usize, f64>,
}

/// Pairs of users, and messages in a turn.
const PAIRS: u32 = 64;
const TURN: u32 = 64;

/// Counts over `turns` turns, after as many that are not counted.
pub fn count(turns: u32) -> Allocations {
    let mut exchange = Exchange::new(PAIRS);
    (0..turns).for_each(|_| exchange.turn(TURN));
    BY_SIZE.with(|sizes| sizes.iter().for_each(|size| size.set(0)));
    COUNTING.set(true);
    (0..turns).for_each(|_| exchange.turn(TURN));
    COUNTING.set(false);
    let messages = u64::from(turns) * u64::from(TURN);
    let counts = BY_SIZE.with(|sizes| sizes.iter().map(Cell::get).collect::<Vec<_>>());
    let each = |count: u64| count as f64 / messages as f64;
    Allocations {
        messages,
        per_message: each(counts.iter().sum()),
        by_bytes: counts
            .iter()
            .enumerate()
            .map(|(word, count)| (word * WORD, each(*count)))
            .filter(|(_, each)| *each >= 0.01)
            .collect(),
    }
}

impl Allocations {
    /// The sizes, for people.
    pub fn sizes(&self) -> String {
        let part = |(bytes, each): (&usize, &f64)| format!("{each:.2} of {bytes} B");
        self.by_bytes.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One: a message's content, which whoever it is delivered to shares and which may outlive the
    /// frame that it came in. Anything more is a step back.
    const PER_MESSAGE_MAX: f64 = 1.05;

    #[test]
    fn the_warm_path_allocates_no_more_than_what_is_known() {
        let counted = count(200);
        assert!(counted.per_message <= PER_MESSAGE_MAX, "{counted:?}");
    }

    #[test]
    fn an_allocation_is_counted_under_its_size() {
        BY_SIZE.with(|sizes| sizes.iter().for_each(|size| size.set(0)));
        COUNTING.set(true);
        let block = std::hint::black_box(vec![0u8; 100]);
        COUNTING.set(false);
        assert_eq!(block.len(), 100);
        assert_eq!(BY_SIZE.with(|sizes| sizes[7].get()), 1, "100 B are seven words");
    }
}
