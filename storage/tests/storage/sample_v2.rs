//! What version 2 of the format has beyond version 1: groups, notices, events, relations, standings,
//! things owed, and messages of other kinds. [`fill`] writes it beside the first sample, [`check`]
//! reads it back; like there, what is here is added to, never changed.

use ringpost_core::account::{Ban, Standing};
use ringpost_core::event::{
    Effects, Entry, GroupRow, JoinPolicy, Load, Loaded, MemberRole, MemberRow, MembershipRow,
    MessageEntry, OPEN, Position, UserRow,
};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{
    ConvKey, Conversation, DeviceId, Dialect, GroupId, ShardId, Slot, UserId,
};
use ringpost_core::owed::{CancelStep, Owed};
use ringpost_core::record::Kind;
use ringpost_core::relations::{RelationRow, Terms};
use ringpost_storage::{Batch, Log};

use crate::support::{EPOCH_MS, device, id, user};

/// The group's members, its owner first; `gone` has left it.
const MEMBERS: [&str; 3] = ["ann", "bob", "dora"];

fn group() -> GroupId {
    GroupId::parse("team").expect("a valid id")
}

fn group_row() -> GroupRow {
    GroupRow {
        created_ms: EPOCH_MS,
        owner: user("ann"),
        join_policy: JoinPolicy::Invite,
        members: 3,
        closed_seq: 0,
        profile: r#"{"name":"Team"}"#.to_owned(),
    }
}

fn member_row(name: &str) -> MemberRow {
    let owns = name == "ann";
    MemberRow {
        role: if owns { MemberRole::Owner } else { MemberRole::Member },
        joined_seq: 1,
        alias: if owns { "the boss".to_owned() } else { String::new() },
        description: if owns { "ž".repeat(9) } else { String::new() },
        updated_ms: u64::from(owns) * (EPOCH_MS + 5),
    }
}

fn membership(ranges: &[(u64, u64)]) -> MembershipRow {
    MembershipRow { group: group(), ranges: ranges.to_vec() }
}

/// Records by seq: kind, content.
fn records() -> Vec<(Kind, Vec<u8>)> {
    let event = |happened: Happened| {
        let mut content = vec![];
        happened.encode(&mut content);
        (Kind::Event, content)
    };
    let users = |of: &[&str]| of.iter().map(|user| (*user).to_owned()).collect();
    vec![
        event(Happened::MembersJoined { users: users(&["ann", "bob", "dora", "gone"]) }),
        (Kind::Message, br#"{"msg_type":"text","text":"hello"}"#.to_vec()),
        (Kind::Neutral, br#"{"kind":"text","text":"from outside"}"#.to_vec()),
        (Kind::Revoked, vec![]),
        event(Happened::Revoked { seq: 4, wire: id(204) }),
        event(Happened::MembersLeft { users: users(&["gone"]) }),
        event(Happened::AliasChanged {
            user: "ann".to_owned(),
            alias: "the boss".to_owned(),
            description: "ž".repeat(9),
        }),
    ]
}

fn noticed() -> Vec<u8> {
    let mut content = vec![];
    let [stream, kind, title] = ["news", "sale", "Now"].map(str::to_owned);
    Happened::Noticed { stream, kind, title, content: "[1,2]".to_owned(), data: None }
        .encode(&mut content);
    content
}

fn relation() -> RelationRow {
    let [source, message, remark, role, tag] = ["qr", "hi", "", "all", "work"].map(str::to_owned);
    let terms = Terms { source, message, remark, role, tag, do_not_look: true, do_not_show: false };
    RelationRow { friends_ms: 1, ended_ms: 2, blocked_ms: 3, asked_ms: 4, terms }
}

/// Users about whom there is more than a profile.
fn standings() -> Vec<(UserId, UserRow)> {
    let row =
        |standing| UserRow { created_ms: EPOCH_MS, profile: "{}".to_owned(), standing, began: 0 };
    let ban = Some(Ban { until_ms: u64::MAX, reason: "spam".to_owned() });
    vec![
        (user("dora"), row(Standing { hidden: true, ..Standing::default() })),
        (user("banned"), row(Standing { ban, ..Standing::default() })),
        (user("gone"), row(Standing { cancelled_ms: EPOCH_MS + 9, ..Standing::default() })),
    ]
}

fn owed(conversation: ConvKey) -> Vec<Owed> {
    let (gone, ann) = (user("gone"), user("ann"));
    let cancel = |done| Owed::Cancel { user: gone.clone(), heir: Some(ann.clone()), done };
    vec![
        Owed::Notice { user: ann.clone(), cause: gone.clone(), content: noticed() },
        Owed::Part { user: gone.clone(), other: ann.clone() },
        Owed::Leave { user: gone.clone(), group: group(), heir: None },
        cancel(CancelStep::Relations(None)),
        cancel(CancelStep::Relations(Some(ann.clone()))),
        cancel(CancelStep::Memberships(None)),
        cancel(CancelStep::Memberships(Some(conversation))),
    ]
}

/// Writes it.
pub fn fill(log: &impl Log) {
    let secret = log.opening().secret;
    let name = Conversation::Group(group());
    let team = name.key(secret);
    let notices = Conversation::Notice(user("dora"));
    let mut turn = Effects::default();
    let entries = standings().into_iter().map(|(user, row)| Entry::User { user, row });
    turn.entries.extend(entries);
    turn.entries.push(Entry::Group { group: group(), row: Box::new(group_row()) });
    for member in MEMBERS {
        let (user, row) = (user(member), Some(Box::new(member_row(member))));
        turn.entries.push(Entry::Member { group: group(), user, row });
    }
    let all = MEMBERS.into_iter().map(|member| (member, membership(&[(1, OPEN)])));
    for (member, row) in all.chain([("gone", membership(&[(1, 6)]))]) {
        let (user, row) = (user(member), Some(Box::new(row)));
        turn.entries.push(Entry::Membership { user, conversation: team, row });
    }
    push(log, turn);
    append(log, &name, &records());
    append(log, &notices, &[(Kind::Event, noticed())]);
    let mut turn = Effects::default();
    let other = user("dora");
    let row = Some(Box::new(relation()));
    turn.entries.push(Entry::Relation { user: user("ann"), other, row });
    let key = notices.key(secret);
    turn.entries.push(Entry::Mark { user: user("dora"), conversation: key, seq: 1 });
    let (device, position) = (device("phone"), Position { acked: 3, ranges: vec![(5, 6)] });
    turn.entries.push(Entry::Cursor { user: user("bob"), conversation: team, device, position });
    for (number, owed) in owed(team).into_iter().enumerate() {
        let (slot, id) = (Slot(number as u16), id(300 + number as u64));
        turn.entries.push(Entry::Owed { slot, id, owed: Some(Box::new(owed)) });
    }
    push(log, turn);
}

fn push(log: &impl Log, effects: Effects) {
    let mut batch = Batch::new();
    batch.push(&effects);
    log.commit(&[batch]).expect("committed");
}

/// Message ids count from 201 in the group and are 250 in the notices.
fn record_id(name: &Conversation, seq: u64) -> ringpost_core::ids::MessageId {
    id(if matches!(name, Conversation::Group(_)) { 200 + seq } else { 250 })
}

fn append(log: &impl Log, name: &Conversation, records: &[(Kind, Vec<u8>)]) {
    let conversation = name.key(log.opening().secret);
    let mut turn = Effects::default();
    turn.entries.push(Entry::Conversation { key: conversation, conversation: name.clone() });
    for (seq, (kind, content)) in (1..).zip(records) {
        let start = turn.entry_bytes.len() as u32;
        turn.entry_bytes.extend_from_slice(content);
        let record = MessageEntry {
            seq,
            kind: *kind,
            id: record_id(name, seq),
            time_ms: EPOCH_MS + seq,
            sender_ms: None,
            countable: seq.min(3),
            sent: [0; 2],
            sender: "ann".into(),
            device: DeviceId { dialect: Dialect::Imboy, name: "".into() },
            client_id: "".into(),
            content: start..turn.entry_bytes.len() as u32,
            dedup: None,
        };
        turn.entries.push(Entry::Message { conversation, record: Box::new(record) });
    }
    push(log, turn);
}

/// Asserts that the log answers what [`fill`] wrote.
pub fn check(log: &impl Log) {
    let secret = log.opening().secret;
    let (name, notices) = (Conversation::Group(group()), Conversation::Notice(user("dora")));
    check_records(log, &name, &records());
    check_records(log, &notices, &[(Kind::Event, noticed())]);
    let team = name.key(secret);
    let load = Load::Conversation { key: team, expected: Some(name) };
    let Loaded::Conversation(loaded) = ask(log, &load) else { panic!("no answer") };
    assert_eq!(loaded.group, Some(Box::new(group_row())));
    let load = Load::Roster { group: group(), after: None, limit: 9 };
    let Loaded::Roster(roster) = ask(log, &load) else { panic!("no answer") };
    assert_eq!(roster, MEMBERS.map(|member| (user(member), member_row(member))));
    for (of, range) in [("ann", (1, OPEN)), ("bob", (1, OPEN)), ("gone", (1, 6))] {
        let load = Load::Memberships { user: user(of), after: None, limit: 9 };
        let Loaded::Memberships(memberships) = ask(log, &load) else { panic!("no answer") };
        assert_eq!(memberships.len(), 1, "{of}");
        assert_eq!(memberships[0].row, membership(&[range]), "{of}");
        let cursors = vec![(device("phone"), Position { acked: 3, ranges: vec![(5, 6)] })];
        assert_eq!(memberships[0].cursors, if of == "bob" { cursors } else { vec![] });
    }
    for (user, row) in standings() {
        let Loaded::User(loaded) = ask(log, &Load::User { user }) else { panic!("no answer") };
        assert_eq!(loaded.row, Some(row));
    }
    let load = Load::Relations { user: user("ann"), after: None, limit: 9, friends: true };
    let Loaded::Relations(relations) = ask(log, &load) else { panic!("no answer") };
    assert_eq!(relations, [(user("dora"), relation())]);
    let load = Load::Owed { shard: ShardId(0), shards: 1, after: None, limit: 99 };
    let Loaded::Owed(found) = ask(log, &load) else { panic!("no answer") };
    let found: Vec<_> = found.into_iter().map(|(_, _, owed)| owed).collect();
    assert_eq!(found, owed(team));
}

fn check_records(log: &impl Log, name: &Conversation, records: &[(Kind, Vec<u8>)]) {
    let conversation = name.key(log.opening().secret);
    let load = Load::Page { conversation, from: 1, to: u64::MAX, bytes: u32::MAX };
    let Loaded::Page(page) = ask(log, &load) else { panic!("not a page") };
    assert_eq!(page.len(), records.len());
    for (record, (kind, content)) in page.iter().zip(records) {
        assert_eq!((record.kind, record.content), (*kind, &content[..]));
        assert_eq!(
            (record.id, record.time_ms),
            (record_id(name, record.seq), EPOCH_MS + record.seq)
        );
        assert_eq!((record.countable, record.sender), (record.seq.min(3), "ann"));
        let Loaded::Found(found) = ask(log, &Load::Find { id: record.id }) else { panic!() };
        assert_eq!(found.expect("found by its id").0, *name);
    }
}

fn ask(log: &impl Log, load: &Load) -> Loaded {
    log.load(load).expect("answered")
}
