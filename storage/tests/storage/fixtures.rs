//! Stores that earlier versions of this program wrote still open, and are read to the byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringpost_core::event::{Load, Loaded};
use ringpost_storage::{FORMAT, Fake, FakeSeed, Log, Rocks};

use crate::support::*;
use crate::{sample, sample_v2};

fn fixture(version: &str) -> PathBuf {
    Path::new("tests/fixtures").join(version)
}

#[test]
fn the_sample_is_read_back_from_everywhere() {
    let fake = Fake::new(FakeSeed { secret: 9, ..FakeSeed::default() });
    sample_v2::fill(&fake);
    sample::fill(&fake, || {});
    sample::check(&fake);
    sample_v2::check(&fake);
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    sample_v2::fill(&rocks);
    sample::fill(&rocks, || rocks.flush().expect("flushed"));
    sample::check(&rocks);
    sample_v2::check(&rocks);
    drop(rocks);
    let rocks = open(dir.path());
    rocks.compact();
    sample::check(&rocks);
    sample_v2::check(&rocks);
}

#[test]
fn a_store_of_version_1_opens() {
    opens_and_goes_on("v1");
}

#[test]
fn a_store_of_version_2_opens() {
    let rocks = opens_and_goes_on("v2");
    sample_v2::check(&rocks.1);
}

/// Opens a copy of the fixture, reads it, and uses it as a store of this version.
fn opens_and_goes_on(version: &str) -> (tempfile::TempDir, Rocks) {
    let store = copy(&fixture(version));
    let rocks = open(store.path());
    let opening = rocks.opening();
    assert!(!opening.recovery.created);
    assert_eq!((opening.format, opening.leased), (FORMAT, sample::LEASED));
    assert_eq!(opening.recovery.torn, None);
    assert!(opening.recovery.wal_batches > 10, "some of it is in the write-ahead log");
    assert!(rocks.gauges().tables > 10_000, "and some in table files");
    sample::check(&rocks);
    if version != "v1" {
        sample_v2::check(&rocks);
    }
    let load = Load::Chats { user: user("ann"), after: None, limit: 99, acked_is_read: vec![] };
    let Loaded::Chats(chats) = rocks.load(&load).expect("answered") else { panic!("no answer") };
    let names = chats.chats.iter().map(|chat| chat.conversation.canonical());
    let long = format!("single:ann-{}", sample::longest_user());
    let wanted = ["single:ann-ann", "single:ann-bob", &long, "group:team"].map(str::to_owned);
    let count = if version == "v1" { 3 } else { 4 };
    assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from_iter(wanted.into_iter().take(count)));
    // It goes on as a store of this version.
    let secret = opening.secret;
    let batch = opening.batch;
    Turn::default().lease(2, sample::LEASED + 1).commit(&rocks);
    drop(rocks);
    let rocks = open(store.path());
    rocks.flush().expect("flushed");
    rocks.compact();
    assert_eq!((rocks.opening().secret, rocks.opening().batch), (secret, batch + 1));
    assert_eq!(rocks.opening().leased, sample::LEASED + 1);
    (store, rocks)
}
