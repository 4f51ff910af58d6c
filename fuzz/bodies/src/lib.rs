//! What the fuzz targets do with their bytes, as plain functions: cargo-fuzz calls them, and so does
//! `tests/corpus.rs`, which needs neither a nightly compiler nor a fuzzer.
//!
//! Each module has one `run`, which panics when a promise is broken (fuzz/README.md has the list).

pub mod frames;
pub mod imboy;
pub mod json;
pub mod peer;
pub mod shard;
pub mod stored;
pub mod upgrade;

/// A target: its name, which is its corpus's directory, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("upgrade", upgrade::run),
    ("frames", frames::run),
    ("peer", peer::run),
    ("imboy", imboy::run),
    ("json", json::run),
    ("stored", stored::run),
    ("shard", shard::run),
];

/// Decisions out of bytes: what has run out is 0.
struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { rest: bytes }
    }

    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        first
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// The next `len` bytes, or as many as there are.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}
