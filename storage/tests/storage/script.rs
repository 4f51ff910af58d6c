//! One script of entries and loads, with the answers written out; it runs on disk and in memory.

use bytes::Bytes;
use ringpost_core::account::Standing;
use ringpost_core::event::{
    ConversationLoaded, DeviceRow, Entry, InboxMark, Load, Loaded, Position, Stored, UserLoaded,
    UserRow,
};
use ringpost_core::ids::{ShardId, Slot};
use ringpost_core::owed::Owed;
use ringpost_core::record::Kind;
use ringpost_core::relations::RelationRow;
use ringpost_core::scheduled::{DueKey, Scheduled};
use ringpost_storage::{Fake, FakeSeed, Log, LogError};

use crate::support::*;

#[test]
fn the_same_on_disk_and_in_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let fake = Fake::new(FakeSeed::default());
    run(&rocks, || {});
    run(&fake, || {});
    // Once more from table files, where bloom filters have a say.
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    run(&rocks, || rocks.flush().expect("flushed"));
    rocks.compact();
    check_end(&rocks);
}

fn run(log: &impl Log, pause: impl Fn()) {
    nothing_is_known(log);
    first_message(log);
    pause();
    more_messages(log);
    pause();
    devices_and_cursors(log);
    pause();
    pages(log);
    pause();
    inboxes(log);
    pause();
    relations_and_debts(log);
    schedules(log);
    check_end(log);
}

fn conversation(log: &impl Log, load: &Load) -> ConversationLoaded {
    match log.load(load).expect("answered") {
        Loaded::Conversation(loaded) => *loaded,
        other => panic!("not a conversation: {other:?}"),
    }
}

fn nothing_is_known(log: &impl Log) {
    let key = key("ann", "bob");
    let empty = ConversationLoaded::default();
    assert_eq!(conversation(log, &Load::Conversation { key, expected: None }), empty);
    let expected = Some(private("ann", "bob"));
    assert_eq!(conversation(log, &Load::Conversation { key, expected }), empty);
    assert_eq!(ask(log, &Load::Dedup { key: dedup("ann", "bob", "c1") }), "Dedup(None)");
    assert_eq!(ask(log, &Load::Inbox { user: user("ann"), after: None, limit: 9 }), "Inbox([])");
    assert!(contents(log, &page("ann", "bob", 1, u64::MAX, 1000)).is_empty());
    // An empty commit is none.
    log.commit(&[Turn::default().batch()]).expect("nothing to do");
}

fn first_message(log: &impl Log) {
    let row = UserRow { created_ms: 5, profile: r#"{"name":"Ann"}"#.into(), ..Default::default() };
    let bob = Entry::User { user: user("bob"), row: row.clone() };
    Turn::default().entry(bob).commit(log);
    // Members and marks are told for the expected name while the conversation has none.
    let key = key("ann", "bob");
    let expected = Some(private("bob", "ann"));
    let loaded = conversation(log, &Load::Conversation { key, expected: expected.clone() });
    assert_eq!(loaded, ConversationLoaded { exists: [false, true], ..Default::default() });

    // Two shards' turns in one commit.
    let message = Turn::default().named("ann", "bob").message("ann", "bob", 1, b"hello");
    let ann = Turn::default().entry(Entry::User { user: user("ann"), row }).lease(1, 100);
    log.commit(&[message.mark("bob", "ann", "bob", 1).batch(), ann.batch()]).expect("committed");
    let expect = ConversationLoaded {
        conversation: expected.clone(),
        head: 1,
        time_ms: EPOCH_MS + 1,
        countable: 1,
        sent: [0; 2],
        marks: [None, Some(1)],
        exists: [true, true],
        ..Default::default()
    };
    assert_eq!(conversation(log, &Load::Conversation { key, expected: None }), expect);
    assert_eq!(conversation(log, &Load::Conversation { key, expected }), expect);

    let expected = Some(private("ann", "carl"));
    let collision = log.load(&Load::Conversation { key, expected }).expect_err("another name");
    assert!(matches!(collision, LogError::Collision { .. }), "{collision}");
}

fn more_messages(log: &impl Log) {
    for seq in 2..=300 {
        Turn::default().message("ann", "bob", seq, format!("m{seq}").as_bytes()).commit(log);
    }
    // A neighbour in the key space and a conversation with oneself.
    Turn::default().named("ann", "ann").message("ann", "ann", 1, b"note").commit(log);
    Turn::default().named("ann", "carl").message("ann", "carl", 1, b"hi").commit(log);
    let note = conversation(log, &Load::Conversation { key: key("ann", "ann"), expected: None });
    assert_eq!(note.conversation, Some(private("ann", "ann")));
    assert_eq!((note.head, note.exists), (1, [true, true]));
    let carl = conversation(log, &Load::Conversation { key: key("ann", "carl"), expected: None });
    assert_eq!((carl.head, carl.exists), (1, [true, false]));

    let stored = Stored { id: id(2), seq: 2, time_ms: EPOCH_MS + 2 };
    let resend = ask(log, &Load::Dedup { key: dedup("ann", "bob", "c2") });
    assert_eq!(resend, format!("Dedup({:?})", Some(stored)));
    assert_eq!(ask(log, &Load::Dedup { key: dedup("ann", "bob", "c301") }), "Dedup(None)");
}

fn devices_and_cursors(log: &impl Log) {
    let row = |seen_ms| DeviceRow { created_ms: 1, seen_ms };
    let put = |name, seen_ms| Entry::Device {
        user: user("bob"),
        device: device(name),
        row: row(seen_ms),
    };
    let neighbour = Entry::Device { user: user("bobby"), device: device("other"), row: row(9) };
    Turn::default().entry(put("web", 1)).entry(put("phone", 2)).entry(neighbour).commit(log);
    Turn::default().entry(put("old", 3)).entry(put("web", 4)).commit(log);
    let gone = Entry::DeviceGone { user: user("bob"), device: device("old") };
    Turn::default().entry(gone).commit(log);
    let loaded = match log.load(&Load::User { user: user("bob") }).expect("answered") {
        Loaded::User(loaded) => *loaded,
        other => panic!("not a user: {other:?}"),
    };
    let expect = UserLoaded {
        row: Some(UserRow {
            created_ms: 5,
            profile: r#"{"name":"Ann"}"#.into(),
            ..Default::default()
        }),
        devices: vec![(device("phone"), row(2)), (device("web"), row(4))],
    };
    assert_eq!(loaded, expect);
    let nobody = ask(log, &Load::User { user: user("bo") });
    assert_eq!(nobody, format!("User({:?})", UserLoaded::default()));

    Turn::default().cursor("bob", "ann", "bob", "web", 7).commit(log);
    Turn::default()
        .cursor("bob", "ann", "bob", "web", 8)
        .cursor("bob", "ann", "bob", "phone", 9)
        .cursor("ann", "ann", "bob", "phone", 1)
        .commit(log);
    let at = |acked| Position { acked, ranges: vec![(acked + 2, acked + 3)] };
    let cursors = vec![(device("phone"), at(9)), (device("web"), at(8))];
    let load = Load::Cursors { user: user("bob"), conversation: key("ann", "bob") };
    assert_eq!(ask(log, &load), format!("Cursors({cursors:?})"));
}

fn pages(log: &impl Log) {
    let seqs = |from, to, bytes| {
        let page = contents(log, &page("ann", "bob", from, to, bytes));
        page.iter().map(|(seq, _)| *seq).collect::<Vec<_>>()
    };
    assert_eq!(seqs(1, 3, 64 << 10), [1, 2, 3]);
    assert_eq!(seqs(0, 1, 64 << 10), [1], "seqs count from 1");
    assert_eq!(seqs(299, u64::MAX, 64 << 10), [299, 300]);
    assert_eq!(seqs(301, u64::MAX, 64 << 10), [0; 0]);
    assert_eq!(seqs(5, 4, 64 << 10), [0; 0]);
    assert_eq!(seqs(5, 300, 0), [5], "at least one");
    let some = seqs(5, 300, 1_000);
    assert!((5..15).contains(&some.len()), "about 90 bytes each: {some:?}");
    assert_eq!(contents(log, &page("ann", "bob", 1, 1, 0)), [(1, b"hello".to_vec())]);

    let large = vec![0xa5; 64 << 10];
    Turn::default().message("ann", "carl", 2, &large).message("ann", "carl", 3, b"").commit(log);
    let page = contents(log, &page("ann", "carl", 2, 3, 64 << 10));
    assert_eq!(page, [(2, large)], "the next one does not fit");

    Turn::default().message("ann", "carl", 5, b"there is no 4").commit(log);
    let hole = log.load(&crate::support::page("ann", "carl", 3, 9, 1_000)).expect_err("a hole");
    assert!(hole.to_string().contains("a record is missing"), "{hole}");
    let first = log.load(&crate::support::page("ann", "carl", 4, 9, 1_000)).expect_err("a hole");
    assert!(matches!(first, LogError::Corrupt { .. }), "{first}");
}

fn inboxes(log: &impl Log) {
    Turn::default().mark("ann", "ann", "carl", 2).mark("ann", "ann", "ann", 1).commit(log);
    Turn::default().mark("ann", "ann", "bob", 7).mark("anna", "ann", "bob", 1).commit(log);
    let at = |acked| Position { acked, ranges: vec![(acked + 2, acked + 3)] };
    let mut expect = vec![
        InboxMark { conversation: key("ann", "carl"), seq: 2, head: 5, cursors: vec![] },
        InboxMark { conversation: key("ann", "ann"), seq: 1, head: 1, cursors: vec![] },
        InboxMark {
            conversation: key("ann", "bob"),
            seq: 7,
            head: 300,
            cursors: vec![(device("phone"), at(1))],
        },
    ];
    expect.sort_by_key(|mark| mark.conversation);
    let inbox = |after, limit| ask(log, &Load::Inbox { user: user("ann"), after, limit });
    assert_eq!(inbox(None, 256), format!("Inbox({expect:?})"));
    assert_eq!(inbox(None, 2), format!("Inbox({:?})", &expect[..2]));
    let after = Some(expect[1].conversation);
    assert_eq!(inbox(after, 2), format!("Inbox({:?})", &expect[2..]));
    assert_eq!(inbox(Some(expect[2].conversation), 2), "Inbox([])");
    let gone = Entry::MarkGone { user: user("ann"), conversation: expect[0].conversation };
    Turn::default().entry(gone).commit(log);
    assert_eq!(inbox(None, 256), format!("Inbox({:?})", &expect[1..]));

    // Marks follow records, never the other way round.
    Turn::default().mark("dora", "dora", "eve", 1).commit(log);
    let load = Load::Inbox { user: user("dora"), after: None, limit: 1 };
    let ahead = log.load(&load).expect_err("a mark without its record");
    assert!(ahead.to_string().contains("ahead of its conversation"), "{ahead}");
    // And names come with the first record.
    Turn::default().message("dora", "eve", 1, b"no name").commit(log);
    let load = Load::Conversation { key: key("dora", "eve"), expected: None };
    let nameless = log.load(&load).expect_err("no name");
    assert!(nameless.to_string().contains("records and no name"), "{nameless}");
}

fn schedules(log: &impl Log) {
    let due = |slot, due_ms, number| DueKey { slot: Slot(slot), due_ms, id: id(number) };
    let message = Scheduled {
        conversation: private("ann", "bob"),
        sender: user("bob"),
        device: device("phone"),
        client_id: "later".into(),
        kind: Kind::Neutral,
        sender_ms: None,
        mentions: None,
        content: Bytes::from_static(b"{}"),
    };
    let put = |key| Entry::Due { key, message: Some(Box::new(message.clone())) };
    let keys = [due(2, 5, 1), due(2, 50, 2), due(2, 50, 3), due(3, 7, 4), due(4095, 9, 5)];
    let mut turn = Turn::default();
    for key in keys.into_iter().chain([due(4, 8, 6)]) {
        turn = turn.entry(put(key));
    }
    turn.commit(log);
    Turn::default().entry(Entry::Due { key: due(4, 8, 6), message: None }).commit(log);
    let load = |shard, shards, from_ms, until_ms, after, limit| {
        let shard = ShardId(shard);
        ask(log, &Load::DueKeys { shard, shards, from_ms, until_ms, after, limit })
    };
    let found = |keys: &[DueKey]| format!("DueKeys({keys:?})");
    assert_eq!(load(0, 1, 0, 100, None, 9), found(&keys));
    assert_eq!(load(0, 2, 0, 100, None, 9), found(&keys[..3]));
    assert_eq!(load(1, 2, 0, 100, None, 9), found(&keys[3..]));
    assert_eq!(load(0, 1, 6, 50, None, 9), found(&keys[3..]), "later and earlier ones between");
    assert_eq!(load(0, 1, 50, 51, None, 9), found(&keys[1..3]));
    assert_eq!(load(0, 1, 0, 100, Some(keys[1]), 2), found(&keys[2..4]));
    assert_eq!(load(0, 1, 0, 100, Some(keys[4]), 2), found(&[]));
    let both = [Some(message.clone()), None];
    let load = Load::Scheduled { keys: vec![keys[1], due(4, 8, 6)] };
    assert_eq!(ask(log, &load), format!("Scheduled({both:?})"));
    let stored = Stored { id: id(2), seq: 0, time_ms: EPOCH_MS + 50 };
    let recognised = dedup("bob", "ann", "later");
    Turn::default().entry(Entry::Scheduled { dedup: recognised, stored }).commit(log);
    let resend = ask(log, &Load::Dedup { key: recognised });
    assert_eq!(resend, format!("Dedup({:?})", Some(stored)));
}

fn relations_and_debts(log: &impl Log) {
    let row = |friends_ms| RelationRow { friends_ms, asked_ms: 1, ..RelationRow::default() };
    let put = |one: &str, other: &str, friends_ms| Entry::Relation {
        user: user(one),
        other: user(other),
        row: Some(Box::new(row(friends_ms))),
    };
    let gone = Entry::Relation { user: user("ann"), other: user("carl"), row: None };
    let turn = Turn::default().entry(put("ann", "bob", 5)).entry(put("ann", "bo", 0));
    let turn = turn.entry(put("ann", "carl", 6)).entry(put("anna", "bob", 7));
    turn.entry(put("ann", "dora", 8)).commit(log);
    Turn::default().entry(gone).commit(log);
    let relations = |after: Option<&str>, limit, friends| {
        let after = after.map(user);
        ask(log, &Load::Relations { user: user("ann"), after, limit, friends })
    };
    let all = [(user("bo"), row(0)), (user("bob"), row(5)), (user("dora"), row(8))];
    assert_eq!(relations(None, 9, false), format!("Relations({all:?})"));
    assert_eq!(relations(None, 9, true), format!("Relations({:?})", &all[1..]));
    assert_eq!(relations(Some("bo"), 1, false), format!("Relations({:?})", &all[1..2]));
    assert_eq!(relations(Some("dora"), 9, false), "Relations([])");
    // Both sides come with the conversation of the two.
    let expected = Some(private("ann", "bob"));
    let loaded = conversation(log, &Load::Conversation { key: key("ann", "bob"), expected });
    assert_eq!(loaded.relations, Some(Box::new([row(5), RelationRow::default()])));
    let expected = Some(private("ann", "carl"));
    let loaded = conversation(log, &Load::Conversation { key: key("ann", "carl"), expected });
    assert_eq!(loaded.relations, None);

    let owed = |other: &str| Owed::Part { user: user("ann"), other: user(other) };
    let put = |slot, number, other: &str| Entry::Owed {
        slot: Slot(slot),
        id: id(number),
        owed: Some(Box::new(owed(other))),
    };
    let turn = Turn::default().entry(put(4095, 1, "bob")).entry(put(2, 3, "carl"));
    turn.entry(put(2, 2, "dora")).entry(put(3, 9, "eve")).entry(put(4, 5, "bo")).commit(log);
    let gone = Entry::Owed { slot: Slot(4), id: id(5), owed: None };
    Turn::default().entry(gone).commit(log);
    let load = |shard, shards, after, limit| {
        ask(log, &Load::Owed { shard: ShardId(shard), shards, after, limit })
    };
    let even = [(Slot(2), id(2), owed("dora")), (Slot(2), id(3), owed("carl"))];
    assert_eq!(load(0, 2, None, 9), format!("Owed({even:?})"));
    let odd = [(Slot(3), id(9), owed("eve")), (Slot(4095), id(1), owed("bob"))];
    assert_eq!(load(1, 2, None, 9), format!("Owed({odd:?})"));
    assert_eq!(load(1, 2, None, 1), format!("Owed({:?})", &odd[..1]));
    assert_eq!(load(1, 2, Some((Slot(3), id(9))), 1), format!("Owed({:?})", &odd[1..]));
    assert_eq!(load(0, 1, Some((Slot(2), id(2))), 1), format!("Owed({:?})", &even[1..]));

    // A cancelled user can be read, and does not exist.
    let standing = Standing { cancelled_ms: 7, ..Standing::default() };
    let row = UserRow { created_ms: 5, profile: "{}".into(), standing, ..Default::default() };
    Turn::default().entry(Entry::User { user: user("gone"), row: row.clone() }).commit(log);
    let users = [None, Some(row)];
    let load = Load::Users { users: vec![user("nobody"), user("gone")] };
    assert_eq!(ask(log, &load), format!("Users({users:?})"));
    let expected = Some(private("ann", "gone"));
    let loaded = conversation(log, &Load::Conversation { key: key("ann", "gone"), expected });
    assert_eq!(loaded.exists, [true, false]);
}

/// Part of what the script leaves.
fn check_end(log: &impl Log) {
    assert_eq!(head(log, "ann", "bob"), 300);
    assert_eq!(head(log, "ann", "carl"), 5);
    assert_eq!(contents(log, &page("ann", "bob", 1, 300, 1 << 20)).len(), 300);
    let load = Load::Cursors { user: user("bob"), conversation: key("ann", "bob") };
    assert!(ask(log, &load).contains("acked: 9"));
}
