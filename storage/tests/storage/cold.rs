//! What is answered from memory, what is not, and what a damaged table file does.

use std::path::{Path, PathBuf};

use ringpost_core::event::{Load, Loaded};
use ringpost_storage::{Gauges, Log, LogError};

use crate::support::*;

/// A store whose records lie in table files, opened with nothing in memory.
fn cold() -> (tempfile::TempDir, ringpost_storage::Rocks) {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    Turn::default().named("ann", "bob").message("ann", "bob", 1, &[1; 4_000]).commit(&rocks);
    for seq in 2..=20 {
        Turn::default().message("ann", "bob", seq, &[seq as u8; 4_000]).commit(&rocks);
    }
    rocks.flush().expect("flushed");
    drop(rocks);
    let rocks = open(dir.path());
    (dir, rocks)
}

#[test]
fn the_disk_is_asked_only_by_those_who_may_wait() {
    let (_dir, rocks) = cold();
    for load in [
        page("ann", "bob", 1, 20, 64 << 10),
        Load::Conversation { key: key("ann", "bob"), expected: None },
        Load::Dedup { key: dedup("ann", "bob", "c7") },
    ] {
        assert!(rocks.load_cached(&load).expect("no error").is_none(), "{load:?} is on disk");
        let loaded = ask(&rocks, &load);
        let cached = rocks.load_cached(&load).expect("no error").expect("in memory now");
        assert_eq!(format!("{cached:?}"), loaded);
    }
}

#[test]
fn a_new_message_is_proved_new_without_the_disk() {
    let (_dir, rocks) = cold();
    // One in a hundred is a false alarm of the filter.
    let known = (100..200)
        .filter(|number| {
            let load = Load::Dedup { key: dedup("ann", "bob", &format!("c{number}")) };
            matches!(rocks.load_cached(&load).expect("no error"), Some(Loaded::Dedup(None)))
        })
        .count();
    assert!(known >= 90, "{known} of 100 were proved new");
    let load = Load::Conversation { key: key("carl", "dora"), expected: None };
    assert!(rocks.load_cached(&load).expect("no error").is_some(), "a new conversation");
}

#[test]
fn what_was_just_committed_is_in_memory() {
    let (_dir, rocks) = cold();
    Turn::default().named("eve", "fay").message("eve", "fay", 1, b"x").commit(&rocks);
    let load = page("eve", "fay", 1, 1, 100);
    assert!(rocks.load_cached(&load).expect("no error").is_some());
}

/// Flips a bit in the largest table file.
fn damage_largest(store: &Path) -> PathBuf {
    let files: Vec<_> = std::fs::read_dir(store.join("rocks"))
        .expect("read")
        .map(|entry| entry.expect("read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .collect();
    let largest = files
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).expect("there").len())
        .expect("records were flushed");
    let mut bytes = std::fs::read(&largest).expect("read");
    bytes[2_000] ^= 1;
    std::fs::write(&largest, bytes).expect("written");
    largest
}

#[test]
fn a_damaged_table_file_is_named() {
    let (dir, rocks) = cold();
    drop(rocks);
    let damaged = damage_largest(dir.path());
    let rocks = open(dir.path());
    let load = page("ann", "bob", 1, 20, 64 << 10);
    assert!(rocks.load_cached(&load).expect("not looked at").is_none());
    match rocks.load(&load).expect_err("damaged") {
        LogError::Corrupt { file, .. } => assert_eq!(file, Some(damaged)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_merge_of_a_damaged_file_ends_the_commits() {
    let (dir, rocks) = cold();
    drop(rocks);
    damage_largest(dir.path());
    let rocks = open(dir.path());
    // A record within the range of the damaged file, or the files would be moved and not merged.
    let again = Turn::default().message("ann", "bob", 5, b"again");
    again.message("ann", "bob", 21, b"x").commit(&rocks);
    rocks.flush().expect("the new file is whole");
    rocks.compact();
    assert!(rocks.gauges().background_errors > 0);
    for _ in 0..2 {
        let turn = Turn::default().message("ann", "bob", 22, b"x");
        let failed = rocks.commit(&[turn.batch()]).expect_err("nothing is acknowledged any more");
        assert!(matches!(failed, LogError::Write(_)), "{failed}");
        assert!(rocks.sync().is_err());
    }
    assert_eq!(head(&rocks, "ann", "bob"), 21);
}

#[test]
fn expired_resends_are_forgotten_by_a_merge() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let turn = Turn::default().named("ann", "bob").message("ann", "bob", 2, b"of 2096");
    turn.message_at(0, "ann", "bob", 1, b"of 1970").commit(&rocks);
    let load = Load::Dedup { key: dedup("ann", "bob", "c1") };
    assert!(ask(&rocks, &load).contains("seq: 1"), "found until it is merged away");
    rocks.flush().expect("flushed");
    rocks.compact();
    assert_eq!(ask(&rocks, &load), "Dedup(None)");
    let recent = Load::Dedup { key: dedup("ann", "bob", "c2") };
    assert!(ask(&rocks, &recent).contains("seq: 2"));
    let page = contents(&rocks, &page("ann", "bob", 1, 2, 1_000));
    assert_eq!(page.len(), 2, "the messages stay");
}

#[test]
fn expired_resends_give_their_space_back() {
    const RESENDS: u64 = 20_000;
    let tables = |time_ms: u64| {
        let dir = tempfile::tempdir().expect("a directory");
        let rocks = open(dir.path());
        let mut turn = Turn::default().named("ann", "bob");
        for seq in 1..=RESENDS {
            turn = turn.message_at(time_ms, "ann", "bob", seq, b"x");
        }
        turn.commit(&rocks);
        rocks.flush().expect("flushed");
        rocks.compact();
        rocks.gauges().tables
    };
    let (kept, expired) = (tables(EPOCH_MS), tables(0));
    // A key has 18 bytes and its value 29; next to nothing of them is compressed.
    assert!(kept > expired + RESENDS * 45, "{kept} bytes with them, {expired} without");
}

/// Table files, of all families.
fn tables(store: &Path) -> usize {
    let files = std::fs::read_dir(store.join("rocks")).expect("read");
    files
        .filter(|file| {
            let path = file.as_ref().expect("read").path();
            path.extension().is_some_and(|extension| extension == "sst")
        })
        .count()
}

#[test]
fn merges_pause_while_there_may_be_no_room_for_them() {
    const FLUSHES: u64 = 8;
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    Turn::default().named("ann", "bob").message("ann", "bob", 1, b"x").commit(&rocks);
    rocks.flush().expect("flushed");
    rocks.set_room(0).expect("paused");
    let before = tables(dir.path());
    for seq in 2..2 + FLUSHES {
        // Around all others, so that files are merged and not moved.
        let turn = Turn::default().message("a", "b", seq, b"x").message("y", "z", seq, b"x");
        turn.commit(&rocks);
        rocks.flush().expect("flushed");
    }
    // Each flush wrote a file of log, ids and dedup; meta and rows are merged all the time.
    let paused = tables(dir.path());
    assert!(paused >= before + 3 * FLUSHES as usize, "{paused} files, {before} before");
    rocks.set_room(u64::MAX).expect("resumed");
    let began = std::time::Instant::now();
    while tables(dir.path()) > paused - FLUSHES as usize {
        assert!(began.elapsed().as_secs() < 60, "{} files are left", tables(dir.path()));
        std::thread::yield_now();
    }
}

#[test]
fn gauges_follow_the_data() {
    let (_dir, rocks) = cold();
    let before = rocks.gauges();
    assert!(before.tables > 80_000, "{before:?}");
    assert_eq!((before.block_cache, before.background_errors), (before.block_cache, 0));
    Turn::default().message("ann", "bob", 21, &[9; 60_000]).commit(&rocks);
    ask(&rocks, &page("ann", "bob", 1, 20, 64 << 10));
    let Gauges { wal, memtables, block_cache, .. } = rocks.gauges();
    assert!(wal >= before.wal + 60_000);
    assert!(memtables > before.memtables);
    assert!(block_cache >= before.block_cache + 60_000, "{block_cache} bytes are cached");
}
