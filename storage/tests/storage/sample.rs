//! A store with every kind of key and value in it, known to the byte: [`fill`] writes it, [`check`]
//! reads it back field by field. The stores in `tests/fixtures/` were written by [`fill`] at their
//! time and must be read by [`check`] for ever, so what is here is added to, never changed.

use ringpost_core::event::{
    DeviceRow, Effects, Entry, InboxMark, Load, Loaded, MessageEntry, Position, UserRow,
};
use ringpost_core::ids::{Conversation, DedupKey, MessageId, ShardId, UserId};
use ringpost_core::record::Kind;
use ringpost_storage::{Batch, Log};

use crate::support::{EPOCH_MS, device, id, private, user};

/// The largest lease.
pub const LEASED: u32 = 1_790_000_030;
/// Messages between `ann` and `bob`, in turns; odd ones are hers.
pub const TALK: u64 = 40;

/// A message of the sample.
struct Sent {
    sender: String,
    other: String,
    seq: u64,
    id: MessageId,
    sender_ms: Option<i64>,
    device: String,
    client_id: String,
    content: Vec<u8>,
}

impl Sent {
    fn conversation(&self) -> Conversation {
        private(&self.sender, &self.other)
    }

    fn time_ms(&self) -> u64 {
        EPOCH_MS + 1_000 * self.seq
    }
}

/// The longest user id that there can be.
pub fn longest_user() -> String {
    "u".repeat(64)
}

/// The content of message `seq` between `ann` and `bob`: a JSON string of some length.
pub fn talk(seq: u64) -> String {
    let length = match seq {
        20 => 16 << 10,
        30 => 64 << 10,
        _ => 2 + 7 * seq,
    };
    let letters = (2..length).map(|at| char::from(b'a' + ((at + seq) % 26) as u8));
    format!("\"{}\"", letters.collect::<String>())
}

fn messages() -> Vec<Sent> {
    let mut messages = vec![];
    let mut add = |sender: &str, other: &str, seq, client_id: &str, content: &[u8]| {
        messages.push(Sent {
            sender: sender.to_owned(),
            other: other.to_owned(),
            seq,
            id: MessageId([0; 12]),
            sender_ms: match seq % 4 {
                0 => None,
                1 => Some(EPOCH_MS as i64),
                2 => Some(i64::MIN),
                _ => Some(i64::MAX),
            },
            device: "phone".to_owned(),
            client_id: client_id.to_owned(),
            content: content.to_vec(),
        });
    };
    add("ann", "ann", 1, "note", b"\"to myself\"");
    add("bob", "carl", 1, "", b"{}");
    add("bob", "carl", 2, "", b"[1,2,3]");
    add("bob", "carl", 3, "", b"");
    add(&longest_user(), "ann", 1, &"c".repeat(64), b"\"long names\"");
    for seq in 1..=TALK {
        let (one, other) = if seq % 2 == 1 { ("ann", "bob") } else { ("bob", "ann") };
        add(one, other, seq, &format!("c{seq}"), talk(seq).as_bytes());
    }
    for (number, sent) in messages.iter_mut().enumerate() {
        sent.id = id(number as u64 + 1);
        if sent.sender == longest_user() {
            sent.device = "d".repeat(128);
        }
    }
    messages
}

/// Profiles by user.
fn users() -> Vec<(UserId, UserRow)> {
    let row = |created, profile: &str| UserRow {
        created_ms: EPOCH_MS + created,
        profile: profile.to_owned(),
        ..UserRow::default()
    };
    vec![
        (user("ann"), row(1, r#"{"name":"Ann"}"#)),
        (user("bob"), row(2, "{}")),
        (user("carl"), row(3, &format!(r#"{{"sign":"{}"}}"#, "žluťoučký ".repeat(40)))),
        (user(&longest_user()), row(4, "")),
    ]
}

/// Devices and cursors by user: name, position between `ann` and `bob`.
fn devices() -> Vec<(UserId, &'static str, Position)> {
    let at = |acked, ranges: Vec<(u64, u64)>| Position { acked, ranges };
    vec![
        (user("ann"), "phone", at(TALK, vec![])),
        (user("bob"), "phone", at(38, vec![])),
        (user("bob"), "tablet", at(5, vec![(7, 8), (10, 10), (20, 39)])),
        (user("carl"), "many", at(1, (1..=100).map(|n| (3 * n, 3 * n)).collect())),
    ]
}

fn row_of(name: &str) -> DeviceRow {
    let created_ms = EPOCH_MS + name.len() as u64;
    DeviceRow { created_ms, seen_ms: created_ms + 10 }
}

/// Writes the sample in many commits; `pause` is called in the middle of it.
pub fn fill(log: &impl Log, pause: impl FnOnce()) {
    let secret = log.opening().secret;
    let key = |one: &str, other: &str| private(one, other).key(secret);
    let talk = key("ann", "bob");
    commit(log, users().into_iter().map(|(user, row)| Entry::User { user, row }));
    let mut pause = Some(pause);
    for sent in messages() {
        if sent.seq == TALK / 2
            && let Some(pause) = pause.take()
        {
            pause();
        }
        message(log, &sent);
    }
    for (user, name, position) in devices() {
        let device = device(name);
        let entry = Entry::Device { user: user.clone(), device: device.clone(), row: row_of(name) };
        let cursor = Entry::Cursor { user, conversation: talk, device, position };
        commit(log, [entry, cursor]);
    }
    let gone = || (user("bob"), device("gone"));
    let ((user_1, device_1), (user_2, device_2)) = (gone(), gone());
    commit(log, [Entry::Device { user: user_1, device: device_1, row: row_of("gone") }]);
    commit(log, [Entry::DeviceGone { user: user_2, device: device_2 }]);
    let mark = |of, conversation, seq| Entry::Mark { user: user(of), conversation, seq };
    commit(log, [mark("bob", talk, 6), mark("ann", key("ann", "ann"), 1)]);
    commit(log, [mark("carl", key("bob", "carl"), 1)]);
    commit(log, [Entry::MarkGone { user: user("carl"), conversation: key("bob", "carl") }]);
    let lease = |shard, second| Entry::IdLease { shard: ShardId(shard), second };
    commit(log, [lease(0, LEASED - 30), lease(1, LEASED)]);
}

fn commit(log: &impl Log, entries: impl IntoIterator<Item = Entry>) {
    let effects = Effects { entries: entries.into_iter().collect(), ..Effects::default() };
    push(log, &effects);
}

fn push(log: &impl Log, effects: &Effects) {
    let mut batch = Batch::new();
    batch.push(effects);
    log.commit(&[batch]).expect("committed");
}

fn message(log: &impl Log, sent: &Sent) {
    let secret = log.opening().secret;
    let (conversation, sender) = (sent.conversation(), user(&sent.sender));
    let key = conversation.key(secret);
    let named = !sent.client_id.is_empty();
    let record = MessageEntry {
        kind: Kind::Message,
        seq: sent.seq,
        id: sent.id,
        time_ms: sent.time_ms(),
        sender_ms: sent.sender_ms,
        countable: sent.seq,
        sent: [0; 2],
        sender: sender.as_str().into(),
        device: device(&sent.device),
        client_id: sent.client_id.as_str().into(),
        content: 0..sent.content.len() as u32,
        dedup: named.then(|| DedupKey::new(key, &sender, &sent.client_id, secret)),
    };
    let mut effects = Effects { entry_bytes: sent.content.clone(), ..Effects::default() };
    if sent.seq == 1 {
        effects.entries.push(Entry::Conversation { key, conversation });
    }
    effects.entries.push(Entry::Message { conversation: key, record: Box::new(record) });
    push(log, &effects);
}

/// Asserts that the log answers what [`fill`] wrote.
pub fn check(log: &impl Log) {
    for sent in messages() {
        check_message(log, &sent);
    }
    check_heads(log);
    for (user, row) in users() {
        let loaded = match ask(log, &Load::User { user: user.clone() }) {
            Loaded::User(loaded) => *loaded,
            other => panic!("{other:?}"),
        };
        let stored = loaded.row.expect("a user");
        assert_eq!((stored.created_ms, &stored.profile), (row.created_ms, &row.profile));
        let wanted = devices().into_iter().filter(|(owner, ..)| *owner == user);
        let wanted: Vec<_> = wanted.map(|(_, name, _)| (device(name), row_of(name))).collect();
        assert_eq!(loaded.devices, wanted, "{user:?}");
    }
    check_positions(log);
}

fn check_message(log: &impl Log, sent: &Sent) {
    let secret = log.opening().secret;
    let conversation = sent.conversation().key(secret);
    let load = Load::Page { conversation, from: sent.seq, to: sent.seq, bytes: 1 };
    let Loaded::Page(page) = ask(log, &load) else { panic!("not a page") };
    let records: Vec<_> = page.iter().collect();
    let [record] = &records[..] else { panic!("{} records", records.len()) };
    assert_eq!((record.seq, record.id, record.time_ms), (sent.seq, sent.id, sent.time_ms()));
    assert_eq!((record.sender_ms, record.countable), (sent.sender_ms, sent.seq));
    assert_eq!((record.sender, record.device), (&*sent.sender, &*sent.device));
    assert_eq!((record.client_id, record.content), (&*sent.client_id, &*sent.content));
    if !sent.client_id.is_empty() {
        let key = DedupKey::new(conversation, &user(&sent.sender), &sent.client_id, secret);
        let Loaded::Dedup(stored) = ask(log, &Load::Dedup { key }) else { panic!("no answer") };
        let stored = stored.expect("a resend is recognised");
        assert_eq!((stored.id, stored.seq, stored.time_ms), (sent.id, sent.seq, sent.time_ms()));
    }
}

fn check_heads(log: &impl Log) {
    let secret = log.opening().secret;
    let long = longest_user();
    for (one, other, head) in
        [("ann", "bob", TALK), ("ann", "ann", 1), ("bob", "carl", 3), ("ann", &long, 1)]
    {
        let name = private(one, other);
        let load = Load::Conversation { key: name.key(secret), expected: Some(name.clone()) };
        let Loaded::Conversation(loaded) = ask(log, &load) else { panic!("no answer") };
        assert_eq!((loaded.head, loaded.countable), (head, head), "{name:?}");
        assert_eq!(loaded.time_ms, EPOCH_MS + 1_000 * head, "{name:?}");
        assert_eq!(loaded.conversation, Some(name));
        assert_eq!(loaded.exists, [true; 2]);
    }
}

fn check_positions(log: &impl Log) {
    let secret = log.opening().secret;
    let talk = private("ann", "bob").key(secret);
    for owner in ["ann", "bob", "carl"].map(user) {
        let wanted = devices().into_iter().filter(|(user, ..)| *user == owner);
        let wanted: Vec<_> = wanted.map(|(_, name, at)| (device(name), at)).collect();
        let load = Load::Cursors { user: owner, conversation: talk };
        let Loaded::Cursors(cursors) = ask(log, &load) else { panic!("no answer") };
        assert_eq!(cursors, wanted);
    }
    let marks = |of: &str| match ask(log, &Load::Inbox { user: user(of), after: None, limit: 9 }) {
        Loaded::Inbox(marks) => marks,
        other => panic!("{other:?}"),
    };
    let [InboxMark { conversation, seq, head, cursors }] = &marks("bob")[..] else {
        panic!("one mark")
    };
    assert_eq!((*conversation, *seq, *head, cursors.len()), (talk, 6, TALK, 2));
    let own = private("ann", "ann").key(secret);
    let ann: Vec<_> = marks("ann").iter().map(|mark| (mark.conversation, mark.seq)).collect();
    assert_eq!(ann, [(own, 1)]);
    assert!(marks("carl").is_empty(), "it was deleted");
}

fn ask(log: &impl Log, load: &Load) -> Loaded {
    log.load(load).expect("answered")
}
