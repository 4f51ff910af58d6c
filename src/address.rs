//! How much one client address may cause before it has shown a token: upgrade requests, by a token
//! bucket, and requests that are not whole, by number. It knows nothing of sockets.
//!
//! The shards share it, because the kernel spreads the connections of one address over them. They
//! do so without a lock: an address has one cell in each of two rows, found by two secret hashes,
//! and is over a limit only when both cells say so. So the table has one size, whoever comes;
//! nothing is ever evicted, because a full bucket and a count of zero are the same as no entry; and
//! to be refused for another's sake, an address must meet two others who are over their limits.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Cells of a row; two rows of two numbers are 2 MiB, of which only what is used is ever touched.
const CELLS: usize = 1 << 16;
/// An address of IPv6 is a customer's network.
const V6_NETWORK_BITS: u32 = 64;

/// What one address may. 0: as much as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Upgrade requests per second, in the long run.
    pub upgrades_per_s: u32,
    /// Upgrade requests at once, after a pause.
    pub upgrade_burst: u32,
    /// Requests that are not whole at any time.
    pub handshakes_max: u32,
}

/// What all addresses have caused lately.
#[derive(Debug)]
pub struct Addresses {
    seeds: [u64; 2],
    /// When the bucket will be full again, in µs as callers have them.
    full_us: [Box<[AtomicU64]>; 2],
    /// Requests that are not whole.
    open: [Box<[AtomicU64]>; 2],
}

/// An upgrade request that is being read; dropped when it is over.
#[derive(Debug)]
pub struct Guest<'a> {
    counts: [&'a AtomicU64; 2],
}

/// Over a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Over the rate; it is below it again after so many seconds.
    Rate { retry_after_s: u16 },
    /// Too many requests that are not whole.
    Handshakes,
}

impl Addresses {
    /// Nobody has come yet. The seeds are secret, so that nobody can choose whom he shares with.
    pub fn new(seeds: [u64; 2]) -> Addresses {
        let row = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Addresses { seeds, full_us: [row(), row()], open: [row(), row()] }
    }

    /// Counts one that comes. Loopback addresses are free.
    ///
    /// # Errors
    /// It is over a limit: nothing is counted, or, over the rate, only that it is there.
    pub fn enter(
        &self,
        rules: Rules,
        address: IpAddr,
        now_us: u64,
    ) -> (Option<Guest<'_>>, Result<(), Refused>) {
        let address = address.to_canonical();
        if address.is_loopback() {
            return (None, Ok(()));
        }
        let cells = self.cells(address);
        let mut guest = None;
        if rules.handshakes_max > 0 {
            let counts = [0, 1].map(|row| &self.open[row][cells[row]]);
            let before = counts.map(|count| count.fetch_add(1, Relaxed));
            let entered = Guest { counts };
            if before.iter().min() >= Some(&rules.handshakes_max.into()) {
                return (None, Err(Refused::Handshakes));
            }
            guest = Some(entered);
        }
        (guest, self.take(rules, cells, now_us))
    }

    /// Takes a token of the address's bucket.
    fn take(&self, rules: Rules, cells: [usize; 2], now_us: u64) -> Result<(), Refused> {
        if rules.upgrades_per_s == 0 {
            return Ok(());
        }
        let pause_us = 1_000_000 / u64::from(rules.upgrades_per_s);
        let depth_us = pause_us * u64::from(rules.upgrade_burst.max(1));
        // A bucket is as empty as it takes time to be full: one token is `pause_us` of it.
        let taken = |full_us: u64| full_us.max(now_us) + pause_us;
        let mut wait_us = u64::MAX;
        let mut has_token = false;
        for (row, cell) in self.full_us.iter().zip(cells) {
            let took = row[cell].fetch_update(Relaxed, Relaxed, |full_us| {
                Some(taken(full_us)).filter(|full_us| full_us - now_us <= depth_us)
            });
            match took {
                Ok(_) => has_token = true,
                Err(full_us) => wait_us = wait_us.min(taken(full_us) - now_us - depth_us),
            }
        }
        if has_token {
            return Ok(());
        }
        let retry_after_s = u16::try_from(wait_us.div_ceil(1_000_000)).unwrap_or(u16::MAX);
        Err(Refused::Rate { retry_after_s })
    }

    /// How many requests of this address are not whole.
    #[cfg(test)]
    pub fn open(&self, address: IpAddr) -> u64 {
        let cells = self.cells(address.to_canonical());
        [0, 1].map(|row| self.open[row][cells[row]].load(Relaxed)).into_iter().min().unwrap_or(0)
    }

    fn cells(&self, address: IpAddr) -> [usize; 2] {
        let network = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits() >> (u128::BITS - V6_NETWORK_BITS) << V6_NETWORK_BITS,
        };
        // The lower half of a network is zero, so that none is taken for an address of IPv4.
        let bytes = network.to_be_bytes();
        self.seeds.map(|seed| xxh3_64_with_seed(&bytes, seed) as usize % CELLS)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        for count in self.counts {
            count.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { upgrades_per_s: 10, upgrade_burst: 5, handshakes_max: 0 };

    fn addresses() -> Addresses {
        Addresses::new([1, 2])
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let addresses = addresses();
        let enter = |now_us| addresses.enter(RULES, address("192.0.2.1"), now_us).1;
        for _ in 0..5 {
            assert_eq!(enter(1_000_000), Ok(()));
        }
        assert_eq!(enter(1_000_000), Err(Refused::Rate { retry_after_s: 1 }));
        assert_eq!(enter(1_099_999), Err(Refused::Rate { retry_after_s: 1 }));
        assert_eq!(enter(1_100_000), Ok(()), "a tenth of a second is one token");
        assert!(enter(1_100_000).is_err());
        // A long pause fills it, and not more than that.
        for n in 0..6 {
            assert_eq!(enter(90_000_000).is_ok(), n < 5);
        }
        assert_eq!(addresses.enter(RULES, address("192.0.2.2"), 90_000_000).1, Ok(()));
    }

    #[test]
    fn a_refused_one_is_told_when_to_come_again() {
        let addresses = addresses();
        let slow = Rules { upgrades_per_s: 1, upgrade_burst: 1, ..RULES };
        let enter = |now_us| addresses.enter(slow, address("2001:db8::1"), now_us).1;
        assert_eq!(enter(0), Ok(()));
        assert_eq!(enter(1), Err(Refused::Rate { retry_after_s: 1 }));
        assert_eq!(enter(1_000_000), Ok(()));
        // The rules may have become stricter meanwhile.
        let many = Rules { upgrade_burst: 10, ..slow };
        for _ in 0..10 {
            assert_eq!(addresses.enter(many, address("192.0.2.1"), 0).1, Ok(()));
        }
        let strict = addresses.enter(slow, address("192.0.2.1"), 0).1;
        assert_eq!(strict, Err(Refused::Rate { retry_after_s: 10 }));
    }

    #[test]
    fn what_is_one_address() {
        let addresses = addresses();
        let once = Rules { upgrade_burst: 1, ..RULES };
        let enter = |text| addresses.enter(once, address(text), 0).1.is_ok();
        assert!(enter("2001:db8:0:1::1"));
        assert!(!enter("2001:db8:0:1:ffff::2"), "the same network");
        assert!(enter("2001:db8:0:2::1"), "another network");
        assert!(enter("192.0.2.1"));
        assert!(!enter("::ffff:192.0.2.1"), "the same in another form");
        for _ in 0..10 {
            for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
                assert!(enter(text), "loopback is free");
            }
        }
    }

    #[test]
    fn requests_in_progress_are_counted_until_they_are_over() {
        let addresses = addresses();
        let rules = Rules { handshakes_max: 2, ..Rules::default() };
        let enter = || addresses.enter(rules, address("192.0.2.1"), 0);
        let (one, two) = (enter(), enter());
        assert_eq!((one.1, two.1), (Ok(()), Ok(())));
        assert!(matches!(enter(), (None, Err(Refused::Handshakes))));
        assert!(matches!(enter(), (None, Err(Refused::Handshakes))), "the refused do not count");
        assert_eq!(addresses.enter(rules, address("192.0.2.2"), 0).1, Ok(()));
        drop(one);
        let again = enter();
        assert_eq!(again.1, Ok(()));
        assert_eq!(enter().1, Err(Refused::Handshakes));
        drop((two, again));
        assert!(addresses.open.iter().flatten().all(|count| count.load(Relaxed) == 0));
        // One that is over its rate is there until it has read so.
        let both = Rules { handshakes_max: 1, upgrade_burst: 1, ..RULES };
        drop(addresses.enter(both, address("192.0.2.1"), 0));
        let (guest, refused) = addresses.enter(both, address("192.0.2.1"), 0);
        assert!(guest.is_some() && matches!(refused, Err(Refused::Rate { .. })));
        assert_eq!(addresses.enter(both, address("192.0.2.1"), 0).1, Err(Refused::Handshakes));
    }

    #[test]
    fn a_crowd_does_not_stand_in_an_honest_ones_way() {
        let addresses = addresses();
        let once = Rules { upgrade_burst: 1, ..RULES };
        let crowd = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        for n in 0..2_000 {
            drop(addresses.enter(once, crowd(n), 0));
        }
        let refused = (10_000..20_000).filter(|n| addresses.enter(once, crowd(*n), 0).1.is_err());
        // Each comes once: refused are those whose two cells others have emptied, in the end one in
        // thirty of as many addresses as there are cells in six.
        assert!(refused.count() < 300);
    }

    #[test]
    fn shards_share_one_bucket() {
        let addresses = addresses();
        let rules = Rules { upgrade_burst: 1_000, upgrades_per_s: 1, ..RULES };
        let passed = std::thread::scope(|scope| {
            let shard = || {
                (0..1_000)
                    .filter(|_| addresses.enter(rules, address("192.0.2.1"), 0).1.is_ok())
                    .count()
            };
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
            shards.into_iter().map(|shard| shard.join().expect("no panic")).sum::<usize>()
        });
        // A thread may find the last token in one row while another takes it in the other.
        assert!((1_000..1_010).contains(&passed), "{passed}");
    }
}
