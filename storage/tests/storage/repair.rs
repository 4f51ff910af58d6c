//! Repairs: what opens is never touched; a hole is told, cut, and what is left agrees with itself,
//! also where a family is ahead of another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ringpost_core::event::{Entry, Load, Loaded, Position, UserRow};
use ringpost_core::ids::{Conversation, DedupKey};
use ringpost_storage::{Durability, Finding, Log, LogError, Loss, Mended, Options, Repair, Rocks};

use crate::recovery::{Store, two_files, wal, wals};
use crate::support::*;

/// All files of a store but the lock, with their bytes.
fn files(store: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![store.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("read") {
            let path = entry.expect("read").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().is_some_and(|name| name != "lock") {
                files.insert(path.clone(), fs::read(path).expect("read"));
            }
        }
    }
    files
}

fn examine(store: &Path) -> Finding {
    let before = files(store);
    let repair = Repair::examine(store).expect("examined");
    let finding = repair.finding().clone();
    drop(repair);
    assert!(files(store) == before, "nothing was changed");
    finding
}

fn hole(store: &Path) -> Loss {
    match examine(store) {
        Finding::Hole(loss) => loss,
        other => panic!("not a hole: {other:?}"),
    }
}

fn perform(store: &Path) -> Mended {
    let repair = Repair::examine(store).expect("examined");
    repair.perform().expect("repaired").expect("there was a hole")
}

fn refused(store: &Path) -> LogError {
    Rocks::open(store, Options::default()).map(|_| ()).expect_err("it does not open")
}

#[test]
fn what_opens_is_not_touched() {
    let store = Store::fill(20, |_| vec![0x55; 300]);
    let path = store.dir.path();
    let epoch = open(copy(path).path()).opening().epoch;
    assert_eq!(examine(path), Finding::Whole { batch: 21, epoch });
    let before = files(path);
    let nothing = Repair::examine(path).expect("examined").perform().expect("nothing to do");
    assert_eq!(nothing, None);
    assert!(files(path) == before, "nothing was changed");

    let (start, end) = (store.start(20), store.end(20));
    let torn = store.damaged(|wal| wal.truncate((start + end) / 2));
    assert_eq!(examine(torn.path()), Finding::Torn { batch: 20 });
    let before = files(torn.path());
    let nothing = Repair::examine(torn.path()).expect("examined").perform().expect("nothing");
    assert_eq!(nothing, None);
    assert!(files(torn.path()) == before, "nothing was changed");
    assert_eq!(head(&open(torn.path()), "ann", "bob"), 19);
}

#[test]
fn a_hole_is_cut_and_the_store_goes_on_far_behind_it() {
    let store = Store::fill(200, |_| vec![0x55; 1_000]);
    let (epoch, secret) = {
        let copy = copy(store.dir.path());
        let rocks = open(copy.path());
        (rocks.opening().epoch, rocks.opening().secret)
    };
    for commit in [1, 2, 100, 199] {
        let at = store.start(commit) + 40;
        let copy = store.damaged(|wal| wal[at] ^= 1);
        let path = copy.path();
        let error = refused(path).to_string();
        assert!(error.contains(&format!("`ringpost repair {}`", path.display())), "{error}");
        let loss = hole(path);
        let before = commit as u64;
        assert_eq!((loss.before, loss.last), (before, 201), "{loss}");
        assert_eq!(loss.batches(), (before + 1, 201));
        assert_eq!(loss.intact, 201 - before - 1);
        assert_eq!(loss.offset, store.start(commit) as u64);
        let whole = fs::read(wal(path)).expect("read");

        let mended = perform(path);
        assert_ne!(mended.epoch, epoch);
        assert!(mended.batch >= 201 + 1_000_000, "{mended}");
        let kept = loss.kept.join(format!(
            "{}-{}",
            loss.file.file_name().expect("a name").to_string_lossy(),
            loss.offset
        ));
        assert_eq!(fs::read(kept).expect("kept"), whole[loss.offset as usize..]);

        let rocks = open(path);
        let opening = rocks.opening();
        assert_eq!((opening.epoch, opening.secret), (mended.epoch, secret));
        assert_eq!((opening.batch, opening.leased), (mended.batch, mended.leased));
        let left = before - 1;
        assert_eq!(head(&rocks, "ann", "bob"), left);
        let lost = Load::Dedup { key: dedup("ann", "bob", &format!("c{}", left + 1)) };
        assert_eq!(ask(&rocks, &lost), "Dedup(None)", "who sends it again sends a new one");
        Turn::default().named("ann", "bob").message("ann", "bob", left + 1, b"on").commit(&rocks);
        drop(rocks);
        let rocks = open(path);
        assert_eq!(rocks.opening().batch, mended.batch + 1);
        assert_eq!(head(&rocks, "ann", "bob"), left + 1);
        drop(rocks);
        assert!(matches!(examine(path), Finding::Whole { .. }));
    }
}

#[test]
fn leases_in_lost_batches_are_skipped() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let far = 4_200_000_000;
    Turn::default().lease(0, 1_000).commit(&rocks);
    let at = fs::metadata(wal(dir.path())).expect("there").len() as usize + 20;
    Turn::default().lease(0, 1_060).commit(&rocks);
    Turn::default().lease(3, far).commit(&rocks);
    drop(rocks);
    let path = wal(dir.path());
    let mut bytes = fs::read(&path).expect("read");
    bytes[at] ^= 1;
    fs::write(&path, bytes).expect("written");
    assert_eq!(hole(dir.path()).leased, far);
    let mended = perform(dir.path());
    assert!(mended.leased > far);
    assert_eq!(open(dir.path()).opening().leased, mended.leased);
    // Without one it is the clock that says which ids may have been given.
    let store = Store::fill(3, |_| vec![1]);
    let at = store.start(2) + 40;
    let copy = store.damaged(|wal| wal[at] ^= 1);
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    assert!(u64::from(perform(copy.path()).leased) > now_s + 60);
}

#[test]
fn rows_that_are_ahead_of_the_log_are_cut_to_it() {
    let store = two_files();
    let [first, second] = wals(store.path()).try_into().expect("two files");
    let last = {
        let copy = copy(store.path());
        open(copy.path()).opening().batch
    };
    let mut bytes = fs::read(&first).expect("read");
    bytes[1_000_000] ^= 1;
    fs::write(&first, bytes).expect("written");
    let later = fs::read(&second).expect("read");
    let loss = hole(store.path());
    assert_eq!(loss.last, last, "the second file is behind the hole");
    let mended = perform(store.path());
    assert_eq!(fs::read(loss.kept.join(second.file_name().expect("a name"))).expect("kept"), later);
    // The rows' table has cursors with ranges that no message will have for long.
    assert!(mended.cursors_cut > 1_000, "{mended}");
    let rocks = open(store.path());
    assert_eq!(head(&rocks, "ann", "bob"), 1);
    for number in [1, 1_000] {
        let user = user(&format!("user{number}"));
        let load = Load::Cursors { user, conversation: key("ann", "bob") };
        let Loaded::Cursors(cursors) = rocks.load(&load).expect("answered") else { panic!() };
        assert_eq!(cursors, [(device("phone"), Position { acked: 1, ranges: vec![] })]);
    }
}

#[test]
fn messages_that_are_ahead_of_the_rows_are_kept_and_offered() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { durability: Durability::Os, ..Options::default() };
    let rocks = Rocks::open(dir.path(), options).expect("opened");
    let file = wal(dir.path());
    let first = Turn::default().named("ann", "bob").message("ann", "bob", 1, b"1");
    let cursor = Entry::Cursor {
        user: user("bob"),
        conversation: key("ann", "bob"),
        device: device("phone"),
        position: Position { acked: 1, ranges: vec![] },
    };
    first.entry(cursor).commit(&rocks);
    let damaged = fs::metadata(&file).expect("there").len() as usize + 30;
    Turn::default().message("ann", "bob", 2, b"2").mark("bob", "ann", "bob", 2).commit(&rocks);
    Turn::default().named("eve", "fay").message("eve", "fay", 1, b"1").commit(&rocks);
    // The log's memtable fills and becomes a table; the other families' are still only in the
    // write-ahead log.
    let mut seq = 2;
    while rocks.gauges().tables < 1 << 20 {
        seq += 1;
        Turn::default().message("ann", "bob", seq, &vec![7; 512 << 10]).commit(&rocks);
    }
    drop(rocks);
    let mut bytes = fs::read(&file).expect("read");
    bytes[damaged] ^= 1;
    fs::write(&file, bytes).expect("written");
    assert_eq!(hole(dir.path()).before, 2);

    let mended = perform(dir.path());
    let rocks = open(dir.path());
    let head = head(&rocks, "ann", "bob");
    assert!((100..=seq).contains(&head), "{head} of {seq} were in the table");
    assert_eq!(mended.ids_made, head - 1, "{mended}");
    // The tests' own keys have another secret than the store: the first one's is made too.
    assert_eq!(mended.dedup_made, head, "{mended}");
    assert_eq!((mended.marks_made, mended.nameless), (1, 1), "{mended}");
    let marks = ask(&rocks, &Load::Inbox { user: user("bob"), after: None, limit: 9 });
    assert!(marks.contains("seq: 2, head: "), "what bob has not got is offered: {marks}");
    let secret = rocks.opening().secret;
    let resend = DedupKey::new(key("ann", "bob"), &user("ann"), "c2", secret);
    let resend = ask(&rocks, &Load::Dedup { key: resend });
    assert!(resend.contains("seq: 2"), "{resend}");
    // Whose name is lost can be begun again.
    let load = Load::Conversation { key: key("eve", "fay"), expected: Some(private("eve", "fay")) };
    assert!(ask(&rocks, &load).contains("head: 0"));
}

/// Who was made behind notices that are lost must get the next ones, which have their seqs.
#[test]
fn nobody_begins_behind_the_last_notice_to_everybody() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let all = Conversation::Broadcast.key(rocks.opening().secret);
    let turn = |seq| Turn::default().notice_to_all(all, seq, "");
    (1..=3).for_each(|seq| turn(seq).commit(&rocks));
    for (id, began) in [("ann", 3), ("bob", 5), ("carl", 0)] {
        let row = UserRow { created_ms: 1, profile: "{}".into(), began, ..Default::default() };
        Turn::default().entry(Entry::User { user: user(id), row }).commit(&rocks);
    }
    let at = fs::metadata(wal(dir.path())).expect("there").len() as usize + 20;
    (4..=5).for_each(|seq| turn(seq).commit(&rocks));
    drop(rocks);
    let mut bytes = fs::read(wal(dir.path())).expect("read");
    bytes[at] ^= 1;
    fs::write(wal(dir.path()), bytes).expect("written");
    let mended = perform(dir.path());
    assert_eq!((mended.cursors_cut, mended.nameless), (1, 0), "{mended}");
    let rocks = open(dir.path());
    for (id, began) in [("ann", 3), ("bob", 3), ("carl", 0)] {
        let load = Load::User { user: user(id) };
        let Loaded::User(loaded) = rocks.load(&load).expect("answered") else { panic!() };
        assert_eq!(loaded.row.expect("kept").began, began, "{id}");
    }
}

/// What was said to everybody is for whoever is there: its name needs not be stored to be known.
#[test]
fn notices_to_everybody_whose_name_is_lost_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { durability: Durability::Os, ..Options::default() };
    let rocks = Rocks::open(dir.path(), options).expect("opened");
    let (file, secret) = (wal(dir.path()), rocks.opening().secret);
    let all = Conversation::Broadcast.key(secret);
    Turn::default().named("ann", "bob").message("ann", "bob", 1, b"1").commit(&rocks);
    let damaged = fs::metadata(&file).expect("there").len() as usize + 30;
    Turn::default().notice_to_all(all, 1, "n1").commit(&rocks);
    let mut seq = 1;
    while rocks.gauges().tables < 1 << 20 {
        seq += 1;
        Turn::default().message("ann", "bob", seq, &vec![7; 512 << 10]).commit(&rocks);
    }
    drop(rocks);
    let mut bytes = fs::read(&file).expect("read");
    bytes[damaged] ^= 1;
    fs::write(&file, bytes).expect("written");
    assert_eq!(perform(dir.path()).nameless, 0);
    let rocks = open(dir.path());
    let load = Load::Conversation { key: all, expected: None };
    let Loaded::Conversation(loaded) = rocks.load(&load).expect("answered") else { panic!() };
    assert_eq!((loaded.conversation, loaded.head), (Some(Conversation::Broadcast), 1));
    let again = ask(&rocks, &Load::Dedup { key: DedupKey::of_notice(all, None, "n1", secret) });
    assert!(again.contains("seq: 1"), "{again}");
}

#[test]
fn an_interrupted_repair_must_be_finished() {
    let store = Store::fill(9, |_| vec![0x55; 300]);
    let whole = copy(store.dir.path());
    let path = whole.path();
    // Cut and not mended, as it is left when the process dies between the two.
    let note = "100\n10\n25\n3\n900\n77\na wrong checksum\n/data/7.log\n/data/lost/x\n";
    fs::write(path.join("repairing"), note).expect("written");
    let error = refused(path);
    assert!(matches!(error, LogError::Repairing { .. }), "{error}");
    assert!(error.to_string().contains("`ringpost repair --yes "), "{error}");
    let loss = hole(path);
    assert_eq!((loss.before, loss.last, loss.begun), (10, 25, true));
    let mended = perform(path);
    assert!((1_000_025..1_000_030).contains(&mended.batch), "{mended}");
    let rocks = open(path);
    assert_eq!(rocks.opening().epoch, mended.epoch);
    assert_eq!(head(&rocks, "ann", "bob"), 9);
    drop(rocks);
    // Before the cut: the damage is still there, and both know something.
    let at = store.start(4) + 40;
    let copy = store.damaged(|wal| wal[at] ^= 1);
    fs::write(copy.path().join("repairing"), note).expect("written");
    let loss = hole(copy.path());
    assert_eq!((loss.before, loss.last, loss.leased, loss.begun), (4, 25, 77, true));
    perform(copy.path());
    assert_eq!(head(&open(copy.path()), "ann", "bob"), 3);
    // A note that is none is left alone.
    fs::write(copy.path().join("repairing"), "x").expect("written");
    assert!(Repair::examine(copy.path()).is_err());
}

#[test]
fn what_a_repair_cannot_mend_is_left_alone() {
    let refused = |store: &Path, words: &str| {
        let error = Repair::examine(store).map(|_| ()).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    };
    let check = |store: &Path, words: &str| {
        let before = files(store);
        refused(store, words);
        assert!(files(store) == before, "nothing was changed");
    };
    let dir = tempfile::tempdir().expect("a directory");
    check(dir.path(), "there is none to repair");
    let none = dir.path().join("none");
    assert!(Repair::examine(&none).is_err() && !none.exists());
    let store = Store::fill(9, |_| vec![0x55; 300]);
    let creation = store.damaged(|wal| wal[20] ^= 1);
    check(creation.path(), "nothing is left in front of the damage");
    let other = Store::fill(2, |_| vec![1]);
    let foreign = fs::read(wal(other.dir.path())).expect("read");
    let mixed = store.damaged(|wal| wal.clone_from(&foreign));
    check(mixed.path(), "this store did not write");
    let rocks = open(store.dir.path());
    // Its files change while it is open: RocksDB writes notes and removes what it needs no more.
    refused(store.dir.path(), "in use by another process");
    rocks.flush().expect("flushed");
    drop(rocks);
    for file in files(store.dir.path()).into_keys() {
        if file.extension().is_some_and(|extension| extension == "sst") {
            fs::remove_file(file).expect("removed");
        }
    }
    check(store.dir.path(), "the store is damaged");
}
