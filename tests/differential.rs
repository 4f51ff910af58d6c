//! Ours beside others', on the same bytes: framing beside tungstenite's, JSON beside serde_json's.
//!
//! The comparison, and the list of what may differ, is the fuzz targets' (`fuzz/bodies/src/peer.rs`
//! and `json.rs`); here it gets streams and documents of a seeded generator, whole and mutated, so
//! that it does not depend on what a fuzzer has found.

#[path = "differential/frames.rs"]
mod frames;
#[path = "differential/json.rs"]
mod json;

/// SplitMix64: a seed is the same input for ever.
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Flips, removes, repeats or inserts a few bytes.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(3) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                2 => {
                    let end = (at + 1 + self.below(12)).min(bytes.len());
                    let part = bytes[at.min(end)..end].to_vec();
                    bytes.splice(at..at, part);
                }
                3 => bytes.insert(at, self.word() as u8),
                _ => bytes.insert(at, self.pick(b"{}[]\",:\\u0-1.eE \x80\x81\x88\xff\x7f\x7e")),
            }
        }
    }
}
