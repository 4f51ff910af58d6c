//! What each durability promises: which commits are synced, what the end of the process leaves, and
//! what a loss of power may take.

use std::fs;
use std::path::Path;

use ringpost_storage::{Durability, Log, Options, Rocks};

use crate::recovery::{length, wal};
use crate::support::*;

const ALL: [Durability; 3] = [Durability::Fsync, Durability::Interval(50), Durability::Os];
const COMMITS: u64 = 20;

fn open_with(path: &Path, durability: Durability) -> Rocks {
    let options = Options { durability, statistics: true, ..Options::default() };
    Rocks::open(path, options).expect("the store opens")
}

fn commit(rocks: &Rocks, seq: u64) {
    let turn = Turn::default().message("ann", "bob", seq, &[seq as u8; 700]);
    let turn = if seq == 1 { turn.named("ann", "bob") } else { turn };
    turn.commit(rocks);
}

#[test]
fn fsync_syncs_every_commit_and_the_others_when_they_are_told() {
    for durability in ALL {
        let dir = tempfile::tempdir().expect("a directory");
        let rocks = open_with(dir.path(), durability);
        assert_eq!(rocks.durability(), durability);
        let before = rocks.gauges().wal_syncs;
        for seq in 1..=COMMITS {
            commit(&rocks, seq);
            let synced = rocks.gauges().wal_syncs - before;
            let wanted = if durability == Durability::Fsync { seq } else { 0 };
            assert_eq!(synced, wanted, "{durability}, commit {seq}");
        }
        let before = rocks.gauges().wal_syncs;
        rocks.sync().expect("synced");
        assert_eq!(rocks.gauges().wal_syncs - before, 1, "{durability}");
    }
}

#[test]
fn the_end_of_the_process_takes_nothing() {
    for durability in ALL {
        let dir = tempfile::tempdir().expect("a directory");
        let rocks = open_with(dir.path(), durability);
        for seq in 1..=COMMITS {
            commit(&rocks, seq);
            // What the kernel has is what a killed process leaves.
            let copy = copy(dir.path());
            assert_eq!(head(&open(copy.path()), "ann", "bob"), seq, "{durability}");
        }
    }
}

#[test]
fn a_loss_of_power_takes_nothing_that_was_synced() {
    for durability in ALL {
        let dir = tempfile::tempdir().expect("a directory");
        let rocks = open_with(dir.path(), durability);
        // Up to which commit, and how long the write-ahead log was then.
        let mut synced = (0, length(&wal(dir.path())));
        for seq in 1..=COMMITS {
            commit(&rocks, seq);
            if durability == Durability::Fsync {
                synced = (seq, length(&wal(dir.path())));
            } else if seq == COMMITS / 2 {
                rocks.sync().expect("synced");
                synced = (seq, length(&wal(dir.path())));
            }
        }
        // Behind it the disk may have anything: some of the bytes, zeroes, nothing.
        let (least, length) = synced;
        let end = fs::metadata(wal(dir.path())).expect("there").len();
        for left in [length, length + (end - length) / 3, end] {
            for zeroes in [0, end - left] {
                let copy = copy(dir.path());
                let path = wal(copy.path());
                let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
                file.set_len(left).expect("cut");
                file.set_len(left + zeroes).expect("filled");
                let left = open(copy.path());
                let head = head(&left, "ann", "bob");
                assert!((least..=COMMITS).contains(&head), "{durability}: {head} of {least}");
            }
        }
        if durability != Durability::Fsync {
            assert!(least < COMMITS, "there was something to lose");
        }
    }
}
