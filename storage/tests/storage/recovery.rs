//! Openings: after a crash, after every kind of damage to the write-ahead log, and beside another
//! process. Damage is done to a copy of a store, which is what a crash leaves.

use std::fs;
use std::path::{Path, PathBuf};

use ringpost_core::event::Entry;
use ringpost_core::event::{Load, Position};
use ringpost_storage::{Durability, FORMAT, Log, LogError, Options, Rocks, Torn};

use crate::support::*;

/// A store that was closed behind a number of commits, all in one file of the write-ahead log.
pub struct Store {
    pub dir: tempfile::TempDir,
    /// Length of the log after each commit; commit 0 is the store's creation.
    pub ends: Vec<u64>,
}

impl Store {
    /// Commit `n` is message `n`, with so many bytes of content, and has batch number `n + 1`.
    pub fn fill(commits: u64, content: impl Fn(u64) -> Vec<u8>) -> Store {
        let dir = tempfile::tempdir().expect("a directory");
        let rocks = open(dir.path());
        let mut ends = vec![length(&wal(dir.path()))];
        for seq in 1..=commits {
            let turn = Turn::default().message("ann", "bob", seq, &content(seq));
            let turn = if seq == 1 { turn.named("ann", "bob") } else { turn };
            turn.commit(&rocks);
            ends.push(length(&wal(dir.path())));
        }
        assert_eq!(head(&rocks, "ann", "bob"), commits);
        Store { dir, ends }
    }

    /// A copy whose write-ahead log `damage` has changed.
    pub fn damaged(&self, damage: impl FnOnce(&mut Vec<u8>)) -> tempfile::TempDir {
        let copy = copy(self.dir.path());
        let path = wal(copy.path());
        let mut bytes = fs::read(&path).expect("read");
        damage(&mut bytes);
        fs::write(&path, bytes).expect("written");
        copy
    }

    /// Where commit `n` begins.
    pub fn start(&self, commit: usize) -> usize {
        self.ends[commit - 1] as usize
    }

    pub fn end(&self, commit: usize) -> usize {
        self.ends[commit] as usize
    }
}

/// The files of the write-ahead log, oldest first.
pub fn wals(store: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(store.join("rocks"))
        .expect("read")
        .map(|entry| entry.expect("read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

pub fn wal(store: &Path) -> PathBuf {
    let [file] = wals(store).try_into().expect("one file of the write-ahead log");
    file
}

pub fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("there").len()
}

fn reopen(store: &Path) -> Result<Rocks, LogError> {
    Rocks::open(store, Options::default())
}

/// The copy does not open: a hole after batch `before`, in front of batch `after`.
fn check_hole(copy: &tempfile::TempDir, before: u64, after: Option<u64>, case: &str) {
    let path = wals(copy.path()).remove(0);
    let bytes = fs::read(&path).expect("read");
    match reopen(copy.path()).map(|_| ()).expect_err(case) {
        LogError::Hole(hole) => {
            assert_eq!((hole.before, hole.after), (before, after), "{case}: {hole}");
            assert_eq!(hole.file, path, "{case}");
        }
        other => panic!("{case}: {other}"),
    }
    assert_eq!(fs::read(&path).expect("read"), bytes, "{case}: nothing was changed");
    assert!(!copy.path().join("torn").exists(), "{case}: nothing was moved");
}

/// The copy opens with `commits` commits, says where it was cut, and goes on.
fn check_torn(copy: &tempfile::TempDir, commits: u64, case: &str) -> Torn {
    let rocks = reopen(copy.path()).unwrap_or_else(|error| panic!("{case}: {error}"));
    let opening = rocks.opening();
    assert_eq!(opening.batch, commits + 1, "{case}");
    let torn = opening.recovery.torn.clone().unwrap_or_else(|| panic!("{case}: it says so"));
    assert!(opening.recovery.to_string().contains("was torn at byte"), "{case}");
    assert_eq!(length(&torn.kept), torn.bytes, "{case}: what was cut off is kept");
    assert_eq!(head(&rocks, "ann", "bob"), commits, "{case}");
    Turn::default().message("ann", "bob", commits + 1, b"goes on").commit(&rocks);
    drop(rocks);
    let rocks = reopen(copy.path()).unwrap_or_else(|error| panic!("{case}, again: {error}"));
    assert_eq!(rocks.opening().recovery.torn, None, "{case}: cut once");
    let all = contents(&rocks, &page("ann", "bob", 1, u64::MAX, u32::MAX));
    assert_eq!(all.len() as u64, commits + 1, "{case}");
    torn
}

/// The bits to flip in a record: in its checksum, length, kind and payload.
const FLIPS: [(usize, u8, &str); 9] = [
    (0, 0x10, "checksum"),
    (4, 0x01, "length, a little"),
    (5, 0x40, "length, much"),
    (5, 0x80, "length, beyond the block"),
    (6, 0x02, "kind, to another"),
    // RocksDB 11.8 never comes back from opening this.
    (6, 0x04, "kind, to a recycled one"),
    (6, 0x80, "kind, to one that may be ignored"),
    (7, 0x01, "RocksDB's sequence number"),
    (40, 0x01, "payload"),
];

#[test]
fn a_flipped_bit_in_an_acknowledged_batch_is_a_hole() {
    // 200 commits in a good block, and in seven.
    for content in [1, 1_000] {
        let store = Store::fill(200, |_| vec![0x55; content]);
        for commit in [1, 2, 100, 190, 199] {
            for (offset, bit, name) in FLIPS {
                let at = store.start(commit) + offset;
                let copy = store.damaged(|wal| wal[at] ^= bit);
                let case = format!("{name} of commit {commit} with {content} bytes");
                check_hole(&copy, commit as u64, Some(commit as u64 + 2), &case);
            }
        }
    }
}

#[test]
fn no_flipped_bit_goes_unseen() {
    let store = Store::fill(6, |seq| vec![0x55; 10 * seq as usize]);
    let path = wal(store.dir.path());
    let whole = fs::read(&path).expect("read");
    // What is refused changes nothing, so one copy serves for all of them.
    for at in 0..store.start(6) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, bytes).expect("written");
        let before = store.ends.iter().filter(|end| **end <= at as u64).count() as u64;
        match reopen(store.dir.path()).map(|_| ()).expect_err("acknowledged") {
            LogError::Hole(hole) => {
                assert_eq!((hole.before, hole.after), (before, Some(before + 2)), "byte {at}");
            }
            other => panic!("byte {at}: {other}"),
        }
    }
    fs::write(&path, whole).expect("written");
    assert_eq!(head(&open(store.dir.path()), "ann", "bob"), 6);
}

#[test]
fn a_flipped_bit_in_the_last_batch_is_a_torn_end() {
    let store = Store::fill(20, |_| vec![0x55; 300]);
    for (offset, bit, name) in FLIPS {
        let at = store.start(20) + offset;
        let copy = store.damaged(|wal| wal[at] ^= bit);
        let torn = check_torn(&copy, 19, name);
        assert_eq!(torn.offset, store.start(20) as u64);
        assert_eq!(torn.bytes, (store.end(20) - store.start(20)) as u64);
    }
}

#[test]
fn a_truncated_last_batch_is_a_torn_end() {
    let store = Store::fill(5, |_| vec![0x55; 300]);
    let (start, end) = (store.start(5), store.end(5));
    for cut in (start + 1..start + 9).chain((start + 9..end).step_by(61)).chain([end - 1]) {
        let copy = store.damaged(|wal| wal.truncate(cut));
        check_torn(&copy, 4, &format!("{} bytes are left", cut - start));
    }
    // Cut exactly between two: nothing shows that there was more.
    let copy = store.damaged(|wal| wal.truncate(start));
    let rocks = reopen(copy.path()).expect("whole");
    assert_eq!((rocks.opening().batch, &rocks.opening().recovery.torn), (5, &None));
}

#[test]
fn a_last_batch_of_many_blocks_may_be_torn_anywhere() {
    // Five blocks of 32 KiB in the last batch and in the one before.
    let content = |seq| if seq >= 3 { vec![seq as u8; 150_000] } else { vec![1] };
    let store = Store::fill(4, content);
    let span = store.end(4) - store.start(4);
    for part in 0..10 {
        let at = store.start(4) + span * part / 10;
        check_torn(&store.damaged(|wal| wal.truncate(at + 1)), 3, &format!("cut in part {part}"));
        check_torn(&store.damaged(|wal| wal[at] ^= 8), 3, &format!("flip in part {part}"));
        let at = store.start(3) + span * part / 10;
        check_hole(&store.damaged(|wal| wal[at] ^= 8), 3, Some(5), &format!("hole in part {part}"));
    }
    // A block that never reached the disk, in the middle of the last write.
    let blocks = store.damaged(|wal| wal[2 * 98_304..][..32_768].fill(0));
    check_torn(&blocks, 3, "a block of zeroes");
}

#[test]
fn zeroes_are_damage_too() {
    let store = Store::fill(200, |_| vec![0x55; 1_000]);
    let zero = |from: usize, to: usize| store.damaged(|wal| wal[from..to].fill(0));
    check_torn(&zero(store.start(200), store.end(200)), 199, "the last batch");
    check_hole(&zero(store.start(77), store.end(77)), 77, Some(79), "a batch");
    let copy = zero(3 * 32_768, 4 * 32_768);
    let error = reopen(copy.path()).map(|_| ()).expect_err("a block");
    assert!(matches!(error, LogError::Hole(_)), "{error}");
    // Zeroes behind the end, as some file systems leave them.
    let copy = store.damaged(|wal| wal.extend_from_slice(&[0; 5_000]));
    check_torn(&copy, 200, "zeroes behind the end");
}

#[test]
fn a_batch_that_vanished_is_a_hole() {
    let store = Store::fill(30, |_| vec![0x55; 300]);
    let (start, end) = (store.start(10), store.end(10));
    let copy = store.damaged(|wal| drop(wal.drain(start..end)));
    check_hole(&copy, 10, Some(12), "cut out");
}

#[test]
fn a_message_that_looks_like_the_log_is_none() {
    // The content of the last message is a log of another store, intact to the byte.
    let other = Store::fill(9, |_| vec![1; 10]);
    let foreign = fs::read(wal(other.dir.path())).expect("read");
    let store = Store::fill(3, |seq| if seq == 3 { foreign.clone() } else { vec![2] });
    let at = store.start(3);
    check_torn(&store.damaged(|wal| wal[at] ^= 1), 2, "foreign batches");
    // And as the log itself it is not this store's.
    let copy = store.damaged(|wal| wal.clone_from(&foreign));
    let refused = reopen(copy.path()).map(|_| ()).expect_err("another store's log");
    assert!(refused.to_string().contains("this store did not write"), "{refused}");
}

#[test]
fn a_store_that_is_all_damage_does_not_come_up_empty() {
    let store = Store::fill(20, |_| vec![0x55; 300]);
    let copy = store.damaged(|wal| wal.fill(0xff));
    let refused = reopen(copy.path()).map(|_| ()).expect_err("nothing is left");
    assert!(refused.to_string().contains("nothing in it can be read"), "{refused}");
    assert!(!copy.path().join("torn").exists(), "nothing was moved");
    // With table files, what is left is less than a batch and the rest is in them.
    let rocks = open(store.dir.path());
    rocks.flush().expect("flushed");
    Turn::default().message("ann", "bob", 21, &[1; 9_000]).commit(&rocks);
    drop(rocks);
    let copy = store.damaged(|wal| wal.fill(0xff));
    check_torn(&copy, 20, "the only batch behind the tables");
}

#[test]
fn an_old_batch_behind_the_end_is_none() {
    // Blocks of a deleted file may show up behind the end of a new one after a loss of power.
    let store = Store::fill(9, |_| vec![0x55; 300]);
    let (from, to) = (store.start(3), store.end(5));
    let copy = store.damaged(|wal| wal.extend_from_within(from..to));
    check_torn(&copy, 9, "old batches");
}

/// A store whose write-ahead log has two files that are both needed.
pub fn two_files() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { durability: Durability::Os, ..Options::default() };
    let rocks = Rocks::open(dir.path(), options).expect("opened");
    Turn::default().named("ann", "bob").message("ann", "bob", 1, b"x").commit(&rocks);
    // Rows fill their memtable, which begins a new file; the message is still only in the first.
    let position = Position { acked: 1, ranges: (1..32).map(|n| (4 * n, 4 * n + 1)).collect() };
    let mut number = 0;
    while wals(dir.path()).len() < 2 {
        let mut turn = Turn::default();
        for _ in 0..500 {
            number += 1;
            turn = turn.entry(Entry::Cursor {
                user: user(&format!("user{number}")),
                conversation: key("ann", "bob"),
                device: device("phone"),
                position: position.clone(),
            });
        }
        turn.commit(&rocks);
    }
    for seq in 2..=9 {
        Turn::default().message("ann", "bob", seq, b"second file").commit(&rocks);
    }
    rocks.sync().expect("synced");
    drop(rocks);
    assert_eq!(wals(dir.path()).len(), 2);
    dir
}

#[test]
fn damage_in_an_older_file_is_a_hole() {
    let store = two_files();
    let whole = copy(store.path());
    let rocks = reopen(whole.path()).expect("whole");
    assert_eq!(head(&rocks, "ann", "bob"), 9);
    assert_eq!(rocks.opening().recovery.wal_files, 2);
    let last = rocks.opening().batch;
    drop(rocks);

    let refused = |case: &str, damage: &dyn Fn(&Path, &Path)| {
        let copy = copy(store.path());
        let [first, second] = wals(copy.path()).try_into().expect("two files");
        damage(&first, &second);
        let error = reopen(copy.path()).map(|_| ()).expect_err(case);
        let damaged = matches!(error, LogError::Hole(_) | LogError::Corrupt { .. });
        assert!(damaged, "{case}: {error}");
    };
    let shorten = |path: &Path, by: u64| {
        let file = fs::OpenOptions::new().write(true).open(path).expect("opened");
        file.set_len(length(path).saturating_sub(by)).expect("cut");
    };
    refused("a flipped bit", &|first, _| {
        let mut bytes = fs::read(first).expect("read");
        bytes[1_000_000] ^= 1;
        fs::write(first, bytes).expect("written");
    });
    refused("a torn end with a whole file behind it", &|first, _| shorten(first, 10));
    refused("the same, with a torn file behind it", &|first, second| {
        shorten(first, 10);
        let mut bytes = fs::read(second).expect("read");
        bytes.fill(0xff);
        fs::write(second, bytes).expect("written");
    });
    refused("the first file is missing", &|first, _| fs::remove_file(first).expect("removed"));

    // The newest file may be torn; one that was just begun is no reason to doubt the one before.
    let torn = copy(store.path());
    shorten(&wals(torn.path())[1], 1);
    assert_eq!(reopen(torn.path()).expect("opens").opening().batch, last - 1);
    let torn = copy(store.path());
    let [first, second] = wals(torn.path()).try_into().expect("two files");
    fs::write(&second, b"").expect("written");
    drop(first);
    let opened = reopen(torn.path()).expect("opens");
    assert_eq!(head(&opened, "ann", "bob"), 1);
}

#[test]
fn a_store_is_the_same_after_every_opening() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let first = rocks.opening().clone();
    assert!(first.recovery.created);
    assert_eq!((first.format, first.batch, first.leased), (FORMAT, 1, 0));
    Turn::default().lease(0, 70).lease(9, 80).lease(300, 75).commit(&rocks);
    Turn::default().lease(9, 81).commit(&rocks);
    drop(rocks);
    for _ in 0..2 {
        let rocks = open(dir.path());
        let opening = rocks.opening();
        assert_eq!((opening.epoch, opening.node), (first.epoch, first.node));
        assert_eq!(opening.secret, first.secret);
        assert_eq!((opening.leased, opening.batch), (81, 3));
        assert!(!opening.recovery.created);
        drop(rocks);
    }
    let other = tempfile::tempdir().expect("a directory");
    let other = open(other.path());
    assert_ne!((other.opening().epoch, other.opening().secret), (first.epoch, first.secret));
}

#[test]
fn a_crash_takes_nothing_synced() {
    // Copies of an open store are what a killed process leaves.
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    for seq in 1..=20 {
        let turn = Turn::default().message("ann", "bob", seq, &vec![1; 5_000 * seq as usize]);
        let turn = if seq == 1 { turn.named("ann", "bob") } else { turn };
        turn.commit(&rocks);
        if seq == 10 {
            rocks.flush().expect("flushed");
        }
        let copy = copy(dir.path());
        let left = open(copy.path());
        assert_eq!(head(&left, "ann", "bob"), seq);
        assert_eq!(left.opening().batch, seq + 1);
    }
}

#[test]
fn a_store_has_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let second = reopen(dir.path()).map(|_| ()).expect_err("in use");
    assert!(matches!(second, LogError::Locked { .. }), "{second}");
    assert!(second.to_string().contains("in use by another process"));
    Turn::default().lease(0, 1).commit(&rocks);
    drop(rocks);
    assert_eq!(open(dir.path()).opening().leased, 1);
}

#[test]
fn an_interrupted_creation_is_repeated() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    fs::remove_dir_all(dir.path().join("rocks")).expect("removed");
    assert!(open(dir.path()).opening().recovery.created, "only the identity was there");

    // RocksDB was made, its first batch is missing or torn.
    let made = tempfile::tempdir().expect("a directory");
    drop(open(made.path()));
    for left in [0, 1, 60] {
        let copy = copy(made.path());
        let path = wal(copy.path());
        let file = fs::OpenOptions::new().write(true).open(&path).expect("opened");
        file.set_len(left).expect("cut");
        let rocks = open(copy.path());
        assert!(rocks.opening().recovery.created, "{left} bytes were left");
        Turn::default().named("ann", "bob").message("ann", "bob", 1, b"x").commit(&rocks);
        drop(rocks);
        let load = Load::Conversation { key: key("ann", "bob"), expected: None };
        assert!(ask(&open(copy.path()), &load).contains("head: 1"));
    }
}
