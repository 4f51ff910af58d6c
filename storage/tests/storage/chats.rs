//! What a user has and has not read, on disk and in memory alike.

use ringpost_core::event::{
    Chats, Entry, Load, Loaded, MembershipRow, MessageEntry, OPEN, ReadingLoaded,
};
use ringpost_core::ids::{ConvKey, Conversation, Dialect, GroupId};
use ringpost_core::record::Kind;
use ringpost_storage::{Fake, FakeSeed, Log};

use crate::support::*;

#[test]
fn the_same_on_disk_and_in_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path());
    let fake = Fake::new(FakeSeed { secret: SECRET, ..FakeSeed::default() });
    for log in [&rocks as &dyn Fill, &fake] {
        log.fill();
    }
    check(&rocks);
    check(&fake);
    rocks.flush().expect("flushed");
    rocks.compact();
    check(&rocks);
}

/// Both kinds of log.
trait Fill {
    fn fill(&self);
}

impl<L: Log> Fill for L {
    fn fill(&self) {
        private_talk(self);
        team(self);
    }
}

fn group() -> Conversation {
    Conversation::Group(GroupId::parse("team").expect("a valid id"))
}

/// Ann and Bob: 1 and 2 are hers, 3 an event of his, 4 his, 5 hers.
fn private_talk(log: &impl Log) {
    let mut turn = Turn::default().named("ann", "bob");
    for of in ["ann", "bob"] {
        let chat = Entry::Chat { user: user(of), conversation: key("ann", "bob") };
        turn = turn.entry(chat);
    }
    turn.commit(log);
    let records = [
        ("ann", Kind::Message, 1, [1, 0]),
        ("ann", Kind::Revoked, 2, [2, 0]),
        ("bob", Kind::Event, 2, [2, 0]),
        ("bob", Kind::Neutral, 3, [2, 4]),
        ("ann", Kind::Message, 4, [5, 4]),
    ];
    append(log, key("ann", "bob"), &records);
}

/// Everybody speaks; Bob has left with 4 and come back with 6.
fn team(log: &impl Log) {
    let (conversation, name) = (group().key(SECRET), group());
    let mut turn =
        Turn::default().entry(Entry::Conversation { key: conversation, conversation: name });
    let group = GroupId::parse("team").expect("a valid id");
    for (of, ranges) in [("ann", vec![(1, OPEN)]), ("bob", vec![(1, 4), (6, OPEN)])] {
        let row = Some(Box::new(MembershipRow { group: group.clone(), ranges }));
        turn = turn.entry(Entry::Membership { user: user(of), conversation, row });
    }
    turn.commit(log);
    let kinds = [Kind::Event, Kind::Message, Kind::Message, Kind::Event, Kind::Message];
    let kinds = kinds.into_iter().chain([Kind::Event, Kind::Message]);
    let mut count = 0;
    let records: Vec<_> = kinds
        .map(|kind| {
            count += u64::from(kind == Kind::Message);
            ("ann", kind, count, [0; 2])
        })
        .collect();
    append(log, conversation, &records);
    let mentions = [3, 5, 7].map(|seq| Entry::MentionAll { conversation, seq });
    let mut turn =
        Turn::default().entry(Entry::Mention { user: user("bob"), conversation, seq: 2 });
    for entry in mentions {
        turn = turn.entry(entry);
    }
    turn.entry(Entry::Sent { conversation, user: user("ann"), seq: 7 }).commit(log);
}

fn append(log: &impl Log, conversation: ConvKey, records: &[(&str, Kind, u64, [u64; 2])]) {
    for (seq, (sender, kind, countable, sent)) in (1..).zip(records) {
        let record = MessageEntry {
            seq,
            kind: *kind,
            id: id(1_000 * u64::from(conversation.hash[0]) + seq),
            time_ms: EPOCH_MS + seq,
            sender_ms: None,
            countable: *countable,
            sent: *sent,
            sender: (*sender).into(),
            device: device("phone"),
            client_id: "".into(),
            content: 0..0,
            dedup: None,
        };
        let entry = Entry::Message { conversation, record: Box::new(record) };
        Turn::default().entry(entry).commit(log);
    }
}

fn page(log: &impl Log, of: &str, after: Option<ConvKey>, limit: u32, acked: bool) -> Chats {
    let acked_is_read = if acked { vec![Dialect::Imboy] } else { vec![] };
    let load = Load::Chats { user: user(of), after, limit, acked_is_read };
    match log.load(&load).expect("answered") {
        Loaded::Chats(page) => page,
        other => panic!("{other:?}"),
    }
}

/// Read up to, unread, first mention, seq of the last record.
fn seen(log: &impl Log, of: &str, name: &Conversation) -> (u64, u64, Option<u64>, u64) {
    let chats = page(log, of, None, 100, false).chats;
    let chat = chats.iter().find(|chat| chat.conversation == *name).expect("one of his");
    let last = chat.last.get(0).expect("a record").seq;
    (chat.read, chat.unread, chat.mention, last)
}

fn reading(log: &impl Log, of: &str, name: &Conversation, to: u64) -> Option<ReadingLoaded> {
    let (conversation, key) = (name.clone(), name.key(SECRET));
    let load = Load::Reading { user: user(of), conversation, key, to, limit: 9 };
    match log.load(&load).expect("answered") {
        Loaded::Reading(loaded) => loaded,
        other => panic!("{other:?}"),
    }
}

fn check(log: &(impl Log + 'static)) {
    let talk = private("ann", "bob");
    assert_eq!(seen(log, "ann", &talk), (5, 0, None, 5));
    assert_eq!(seen(log, "bob", &talk), (4, 1, None, 5), "his own is read, and what is before it");
    assert_eq!(seen(log, "ann", &group()), (7, 0, None, 7));
    // 2 and 3 of the first part, 7 of the second; 5 is not for him.
    assert_eq!(seen(log, "bob", &group()), (0, 3, Some(2), 7));
    assert!(page(log, "carl", None, 9, false).chats.is_empty());
    // Pages of one lose nothing.
    let first = page(log, "bob", None, 1, false);
    let second = page(log, "bob", first.next, 1, false);
    assert_eq!((first.chats.len(), second.chats.len()), (1, 1));
    assert_ne!(first.chats[0].conversation, second.chats[0].conversation);
    let end = page(log, "bob", second.next, 1, false);
    assert_eq!((end.chats.len(), end.next), (0, None));

    let none = private("ann", "carl");
    assert_eq!(reading(log, "ann", &none, 9), None, "nothing is there");
    assert_eq!(reading(log, "carl", &talk, 9), None, "not his");
    let loaded = ReadingLoaded { head: 7, read: 0, mentions: vec![2] };
    assert_eq!(reading(log, "bob", &group(), 7), Some(loaded));
}

#[test]
fn reading_moves_and_acknowledging_counts_where_it_shall() {
    let log = Fake::new(FakeSeed { secret: SECRET, ..FakeSeed::default() });
    log.fill();
    let conversation = group().key(SECRET);
    let read = |seq| Entry::Read { user: user("bob"), conversation, seq };
    Turn::default().entry(read(2)).commit(&log);
    assert_eq!(seen(&log, "bob", &group()), (2, 2, Some(3), 7));
    Turn::default().entry(read(4)).commit(&log);
    assert_eq!(seen(&log, "bob", &group()), (4, 1, Some(7), 7), "5 lies between his parts");
    let gone = Entry::MentionGone { user: user("bob"), conversation, seq: 2 };
    Turn::default().entry(gone).commit(&log);
    let loaded = ReadingLoaded { head: 7, read: 4, mentions: vec![] };
    assert_eq!(reading(&log, "bob", &group(), 7), Some(loaded));
    // His phone has everything, which says nothing unless the operator says so.
    Turn::default().cursor("bob", "ann", "bob", "phone", 5).commit(&log);
    let talk = private("ann", "bob");
    assert_eq!(seen(&log, "bob", &talk), (4, 1, None, 5));
    let acked = page(&log, "bob", None, 9, true).chats;
    let acked = acked.iter().find(|chat| chat.conversation == talk).expect("one of his");
    assert_eq!((acked.read, acked.unread), (5, 0));
}
