//! The hasher of the core's maps: fixed, because the same inputs must make the same run.
//!
//! Ids are hashed by XXH3 in one go; conversation keys are hashes already (with the store's
//! secret) and stand for themselves. Not for keys that a client can choose freely and in numbers:
//! user ids come from tokens, which the operator signs.

use std::hash::{BuildHasher, Hasher};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Makes [`KeyHasher`]s.
#[derive(Clone, Copy, Default, Debug)]
pub struct Hashing;

impl BuildHasher for Hashing {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(0)
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The byte that ends a `str`: it tells ("a", "b") from ("ab", ""), where two are hashed.
    fn write_u8(&mut self, byte: u8) {
        self.0 = self.0.rotate_left(8) ^ u64::from(byte);
    }

    /// A number that is spread already.
    fn write_u64(&mut self, number: u64) {
        self.0 = self.0.rotate_left(32) ^ number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Conversation, UserId};

    #[test]
    fn keys_spread() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0..10_000 {
            let user = UserId::parse(&format!("user-{n}")).expect("valid");
            assert!(seen.insert(Hashing.hash_one(&user)));
            let key = Conversation::private(&user, &user).key(7);
            assert!(seen.insert(Hashing.hash_one(key)));
        }
        // The seven top bits and the bottom ones choose a place in the map.
        for shift in [0, 57] {
            let places: std::collections::BTreeSet<_> =
                seen.iter().map(|hash| hash >> shift & 0x7f).collect();
            assert_eq!(places.len(), 128);
        }
    }

    #[test]
    fn a_borrowed_id_is_found() {
        let user = UserId::parse("alice").expect("valid");
        assert_eq!(Hashing.hash_one(&user), Hashing.hash_one("alice"));
    }
}
