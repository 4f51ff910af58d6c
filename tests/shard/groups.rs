//! Groups: who is a member, what reaches whom, and what is left after a crash.

use ringpost_core::command::GroupOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, JoinPolicy, Load, Operation};
use ringpost_core::ids::{ConnId, UserId};
use ringpost_core::limits;
use serde_json::Value;

use super::world::World;
use super::xid;

fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

fn users(ids: &[&str]) -> Vec<UserId> {
    ids.iter().map(|id| user(id)).collect()
}

/// Creates the users, and the group with the first as its owner.
pub fn found(world: &mut World, group: &str, members: &[&str]) {
    for id in members {
        let put = Operation::PutUser { user: user(id), profile: "{}".to_owned() };
        assert!(world.ask(put).is_some());
    }
    let create = GroupOperation::Create {
        owner: user(members[0]),
        members: users(&members[1..]),
        join_policy: JoinPolicy::Approve,
        profile: "{}".to_owned(),
    };
    match world.group(group, create) {
        Answer::Group { row, created: true } => assert_eq!(row.members as usize, members.len()),
        other => panic!("{other:?}"),
    }
}

pub fn add(world: &mut World, group: &str, ids: &[&str]) {
    let added = world.group(group, GroupOperation::Add { users: users(ids), by: None });
    assert!(matches!(added, Answer::Members(_)), "{added:?}");
}

pub fn remove(world: &mut World, group: &str, id: &str) {
    let remove = GroupOperation::Remove { user: user(id), by: None };
    assert_eq!(world.group(group, remove), Answer::Done);
}

/// What came, acknowledged: payloads of messages, `msg_type`s of events.
pub fn got(world: &mut World, conn: ConnId, did: &str) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let frames = world.take(conn);
        if frames.is_empty() {
            return got;
        }
        for frame in frames {
            match frame["type"].as_str().expect("a type") {
                "C2G" => got.push(frame["payload"].as_str().expect("a text").to_owned()),
                "S2C" => {
                    got.push(frame["payload"]["msg_type"].as_str().expect("a word").to_owned());
                }
                "C2G_SERVER_ACK" => continue,
                other => panic!("{other}"),
            }
            world.ack_frame(conn, &frame, did);
        }
    }
}

/// Whoever asks: the HTTP API names each once, but what is stored must be readable in any case.
#[test]
fn who_is_named_twice_is_a_member_once() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob"]);
    for id in ["carol", "dave"] {
        world.put_user(id, "{}");
    }
    add(&mut world, "team", &["dave", "carol", "dave", "bob", "carol"]);
    let create = GroupOperation::Create {
        owner: user("alice"),
        members: users(&["bob", "alice", "bob"]),
        join_policy: JoinPolicy::Open,
        profile: "{}".to_owned(),
    };
    let Answer::Group { row, .. } = world.group("pair", create) else { panic!("made") };
    assert_eq!(row.members, 2);
    // What was stored is read again.
    let mut world = world.crash(3);
    match world.group("team", GroupOperation::Get) {
        Answer::Group { row, created: false } => assert_eq!(row.members, 4),
        other => panic!("{other:?}"),
    }
    let (alice, dave) = (world.connect("alice", "d"), world.connect("dave", "d"));
    world.send_group(alice, &xid(1), "team", "hello");
    assert_eq!(got(&mut world, dave, "d"), ["hello"]);
}

#[test]
fn a_message_reaches_every_other_member_once_it_is_durable() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        found(&mut world, "team", &["alice", "bob", "carol", "dave"]);
        let conns = ["alice", "bob", "carol"].map(|id| world.connect(id, "d"));
        let other = world.connect("erin", "d");
        world.commits = false;
        world.send_group(conns[0], &xid(1), "team", "hi");
        for conn in conns {
            assert_eq!(world.take(conn), Vec::<Value>::new(), "not durable");
        }
        world.commits = true;
        world.settle();
        let receipt = world.take(conns[0]);
        assert_eq!(receipt.len(), 1, "nobody gets his own message: {receipt:?}");
        assert_eq!(receipt[0]["type"], "C2G_SERVER_ACK");
        for conn in &conns[1..] {
            let frames = world.take(*conn);
            assert_eq!(frames.len(), 1);
            let frame = &frames[0];
            assert_eq!((&frame["id"], &frame["type"]), (&xid(1).into(), &"C2G".into()));
            assert_eq!((&frame["from"], &frame["to"]), (&"alice".into(), &"team".into()));
            world.ack_frame(*conn, frame, "d");
        }
        assert_eq!(world.take(other), Vec::<Value>::new());
        world.advance_ms(60_000);
        for conn in conns {
            assert_eq!(world.take(conn), Vec::<Value>::new(), "acknowledged: not again");
        }
        // Who was away gets it when he comes.
        let dave = world.connect("dave", "d");
        assert_eq!(got(&mut world, dave, "d"), ["hi"]);
        // And nobody gets anything again, whoever is asked.
        let mut world = world.crash(shards);
        for id in ["alice", "bob", "carol", "dave"] {
            let conn = world.connect(id, "d");
            let got = got(&mut world, conn, "d");
            // Dave's acknowledgement was of the last second before the crash.
            assert!(got.is_empty() || (id == "dave" && got == ["hi"]), "{id}: {got:?}");
        }
    }
}

#[test]
fn only_members_of_an_open_group_may_write() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob"]);
    let (alice, carol) = (world.connect("alice", "d"), world.connect("carol", "d"));
    let refused = |world: &mut World, conn, to: &str, why: &str| {
        world.send_group(conn, &xid(9), to, "x");
        let frames = world.take(conn);
        assert_eq!((&frames[0]["code"], &frames[0]["id"]), (&3.into(), &xid(9).into()));
        assert_eq!(frames[0]["payload"]["content"], why);
    };
    refused(&mut world, carol, "team", "not in the group");
    refused(&mut world, carol, "nowhere", "no such group");
    refused(&mut world, carol, "a b", "no such group");
    add(&mut world, "team", &["carol"]);
    world.take(alice);
    world.send_group(carol, &xid(1), "team", "now");
    assert_eq!(world.take(carol)[0]["type"], "C2G_SERVER_ACK");
    remove(&mut world, "team", "carol");
    world.take(carol);
    refused(&mut world, carol, "team", "not in the group");
    let dissolve = GroupOperation::Dissolve { by: None };
    assert_eq!(world.group("team", dissolve.clone()), Answer::Done);
    world.take(alice);
    refused(&mut world, alice, "team", "no such group");
    assert_eq!(world.group("team", dissolve), Answer::Refused(Refusal::NoSuchGroup));
}

#[test]
fn a_membership_is_what_lies_between_joining_and_leaving() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        found(&mut world, "team", &["alice", "bob"]);
        assert!(
            world.ask(Operation::PutUser { user: user("carol"), profile: "{}".into() }).is_some()
        );
        let alice = world.connect("alice", "a");
        let carol = world.connect("carol", "c");
        let mut n = 0;
        let mut say = |world: &mut World, text: &str| {
            n += 1;
            world.send_group(alice, &xid(n), "team", text);
        };
        say(&mut world, "before");
        add(&mut world, "team", &["carol"]);
        say(&mut world, "one");
        assert_eq!(got(&mut world, carol, "c"), ["one"]);
        say(&mut world, "two");
        // She leaves with a message under way, is away, comes back and gets her part only.
        remove(&mut world, "team", "carol");
        say(&mut world, "between");
        assert_eq!(got(&mut world, carol, "c"), ["two", "group_member_leave"]);
        world.disconnect(carol);
        say(&mut world, "between again");
        add(&mut world, "team", &["carol"]);
        say(&mut world, "three");
        let carol = world.connect("carol", "c");
        world.advance_ms(1_000);
        assert_eq!(got(&mut world, carol, "c"), ["three"]);
        // The same while she is connected all the time.
        remove(&mut world, "team", "carol");
        say(&mut world, "hidden");
        add(&mut world, "team", &["carol"]);
        say(&mut world, "four");
        assert_eq!(got(&mut world, carol, "c"), ["group_member_leave", "four"]);
        assert_eq!(
            got(&mut world, alice, "a"),
            [
                "group_member_join",
                "group_member_leave",
                "group_member_join",
                "group_member_leave",
                "group_member_join"
            ],
        );
        // A device that was never there starts where the other one is.
        world.advance_ms(2_000);
        let mut world = world.crash(shards);
        let tablet = world.connect("carol", "tablet");
        world.advance_ms(2_000);
        assert_eq!(got(&mut world, tablet, "tablet"), Vec::<String>::new());
    }
}

#[test]
fn who_left_while_away_gets_what_was_his_and_then_forgets_the_group() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        found(&mut world, "team", &["alice", "bob"]);
        let alice = world.connect("alice", "a");
        for n in 0..5 {
            world.send_group(alice, &xid(n), "team", &n.to_string());
        }
        remove(&mut world, "team", "bob");
        world.send_group(alice, &xid(10), "team", "not for bob");
        for round in 0..2 {
            let bob = world.connect("bob", "b");
            let mut all = Vec::new();
            for _ in 0..20 {
                all.extend(got(&mut world, bob, "b"));
                world.advance_ms(110);
            }
            if round == 0 {
                assert_eq!(all, ["0", "1", "2", "3", "4", "group_member_leave"]);
            } else {
                assert_eq!(all, Vec::<String>::new());
            }
            world.disconnect(bob);
        }
        let left =
            ringpost_core::event::Load::Memberships { user: user("bob"), after: None, limit: 10 };
        let loaded = ringpost_storage::Log::load(&world.log, &left).expect("no failure");
        let ringpost_core::event::Loaded::Memberships(left) = loaded else { panic!() };
        assert!(left.is_empty(), "nothing is left to see: {left:?}");
    }
}

#[test]
fn everybody_is_told_of_a_dissolved_group_also_who_was_away() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        found(&mut world, "team", &["alice", "bob", "carol"]);
        let alice = world.connect("alice", "a");
        let bob = world.connect("bob", "b");
        world.send_group(bob, &xid(1), "team", "last words");
        assert_eq!(world.group("team", GroupOperation::Dissolve { by: None }), Answer::Done);
        assert_eq!(got(&mut world, alice, "a"), ["last words", "group_dissolve"]);
        assert_eq!(got(&mut world, bob, "b"), ["group_dissolve"]);
        world.advance_ms(2_000);
        let mut world = world.crash(shards);
        let carol = world.connect("carol", "c");
        world.advance_ms(200);
        assert_eq!(got(&mut world, carol, "c"), ["last words", "group_dissolve"]);
        world.advance_ms(2_000);
        for (id, did) in [("alice", "a"), ("bob", "b"), ("carol", "c")] {
            let conn = world.connect(id, did);
            world.advance_ms(500);
            assert_eq!(got(&mut world, conn, did), Vec::<String>::new(), "{id}");
        }
    }
}

#[test]
fn an_alias_is_told_to_all_and_roles_are_kept() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob"]);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let change = |alias: Option<&str>, role| GroupOperation::ChangeMember {
        user: user("bob"),
        alias: alias.map(str::to_owned),
        description: None,
        role,
    };
    let answer = world.group("team", change(Some("Bobby"), None));
    let Answer::Members(members) = answer else { panic!("{answer:?}") };
    assert_eq!(members[0].1.alias, "Bobby");
    for conn in [alice, bob] {
        let frames = world.take(conn);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0]["payload"]["msg_type"], "group_member_alias");
        assert_eq!((&frames[0]["alias"], &frames[0]["from"]), (&"Bobby".into(), &"bob".into()));
    }
    // The group is transferred: the former owner may leave, the new one may not.
    use ringpost_core::event::MemberRole;
    let transfer = world.group("team", change(None, Some(MemberRole::Owner)));
    assert!(matches!(transfer, Answer::Members(_)), "{transfer:?}");
    let remove = |id| GroupOperation::Remove { user: user(id), by: None };
    assert_eq!(world.group("team", remove("bob")), Answer::Refused(Refusal::NotPermitted));
    assert_eq!(world.group("team", remove("alice")), Answer::Done);
    assert_eq!(world.group("team", remove("alice")), Answer::Refused(Refusal::NotInGroup));
    let mut world = world.crash(1);
    let list = world.group("team", GroupOperation::List { after: None, limit: 10 });
    let Answer::Members(members) = list else { panic!("{list:?}") };
    assert_eq!(members.len(), 1);
    assert_eq!((members[0].1.role, members[0].1.alias.as_str()), (MemberRole::Owner, "Bobby"));
}

#[test]
fn members_come_in_pages_and_unknown_users_do_not() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice"]);
    let create = GroupOperation::Create {
        owner: user("nobody"),
        members: Vec::new(),
        join_policy: JoinPolicy::Open,
        profile: "{}".to_owned(),
    };
    assert_eq!(world.group("other", create.clone()), Answer::Refused(Refusal::NoSuchUser));
    assert_eq!(world.group("team", create), Answer::Refused(Refusal::GroupExists));
    let all: Vec<String> = (0..1_200).map(|n| format!("u{n:04}")).collect();
    for id in &all {
        let put = Operation::PutUser { user: user(id), profile: "{}".to_owned() };
        assert!(world.ask(put).is_some());
    }
    for some in all.chunks(limits::MEMBERS_CHANGED_MAX) {
        let some: Vec<&str> = some.iter().map(String::as_str).collect();
        add(&mut world, "team", &some);
        add(&mut world, "team", &some[..2]);
    }
    let unknown = GroupOperation::Add { users: users(&["u0001", "who"]), by: None };
    assert_eq!(world.group("team", unknown), Answer::Refused(Refusal::NoSuchUser));
    let too_many: Vec<UserId> = (0..501).map(|n| user(&format!("u{n:04}"))).collect();
    for one in &too_many {
        world.group("team", GroupOperation::Remove { user: one.clone(), by: None });
    }
    let too_many = GroupOperation::Add { users: too_many, by: None };
    assert_eq!(world.group("team", too_many), Answer::Refused(Refusal::TooLarge));
    let mut listed = Vec::new();
    loop {
        let after = listed.last().cloned();
        let list = world.group("team", GroupOperation::List { after, limit: 100 });
        let Answer::Members(page) = list else { panic!("{list:?}") };
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(id, _)| id));
    }
    assert_eq!(listed.len(), 1 + 1_200 - 501);
    assert!(listed.is_sorted());
    let Answer::Group { row, .. } = world.group("team", GroupOperation::Get) else { panic!() };
    assert_eq!(row.members as usize, listed.len());
}

#[test]
fn a_member_who_does_not_read_costs_a_window_and_gets_everything_later() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob", "carol"]);
    let alice = world.connect("alice", "a");
    let (bob, carol) = (world.connect("bob", "b"), world.connect("carol", "c"));
    let count = 3 * limits::WINDOW_MESSAGES;
    for n in 0..count {
        world.send_group(alice, &xid(n), "team", &n.to_string());
        assert_eq!(got(&mut world, carol, "c"), [n.to_string()]);
    }
    world.take(alice);
    let mut all: Vec<String> = Vec::new();
    let mut first = true;
    while all.len() < count as usize {
        let frames = world.take(bob);
        if std::mem::take(&mut first) {
            assert!(frames.len() <= limits::WINDOW_MESSAGES as usize, "{}", frames.len());
        }
        assert!(!frames.is_empty(), "after {}", all.len());
        for frame in &frames {
            all.push(frame["payload"].as_str().expect("a text").to_owned());
            world.ack_frame(bob, frame, "b");
        }
        world.advance_ms(limits::PULL_DELAY_MS + 10);
    }
    let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    assert_eq!(all, expected);
}

#[test]
fn unacknowledged_group_messages_are_sent_again_at_their_times() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob"]);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.send_group(alice, &xid(1), "team", "hi");
    let mut at = Vec::new();
    for ms in (0..20_000).step_by(100) {
        at.extend(world.take(bob).iter().map(|_| ms));
        world.advance_ms(100);
    }
    let near = |ms: u64, wanted: u64| ms >= wanted && ms <= wanted + 100;
    let wanted = [0, 3_500, 7_000, 10_000, 15_000];
    assert_eq!(at.len(), wanted.len(), "{at:?}");
    assert!(at.iter().zip(wanted).all(|(&ms, wanted)| near(ms, wanted)), "{at:?}");
}

/// Nobody acknowledges what a device is not shown: its own messages, and news for other dialects.
#[test]
fn what_is_not_shown_is_read_once() {
    let mut world = World::new(2);
    found(&mut world, "team", &["alice", "bob"]);
    let pages_read = |world: &mut World, end: fn(&mut World, ConnId)| {
        world.asked = Some(Vec::new());
        let alice = world.connect("alice", "a");
        assert_eq!(world.take(alice), Vec::<Value>::new());
        end(world, alice);
        let asked = world.asked.take().expect("put above");
        asked.iter().filter(|load| matches!(load, Load::Page { .. })).count()
    };
    assert_eq!(pages_read(&mut world, World::disconnect), 1);
    assert_eq!(pages_read(&mut world, World::disconnect), 0, "it was stored when she left");
    let alice = world.connect("alice", "a");
    for n in 0..3 {
        world.send_group(alice, &xid(n), "team", "hi");
    }
    world = world.crash(2);
    let stays = |world: &mut World, _| world.advance_ms(limits::CURSOR_FLUSH_MS + 10);
    assert_eq!(pages_read(&mut world, stays), 1);
    world = world.crash(2);
    assert_eq!(pages_read(&mut world, stays), 0, "it was stored after a second");
    let bob = world.connect("bob", "b");
    assert_eq!(got(&mut world, bob, "b").len(), 3);
}

/// News of one group must not pass a device by while it waits for another group's head.
#[test]
fn news_that_come_while_another_group_is_looked_for_are_not_passed() {
    let mut world = World::new(2);
    // Both users and one group on a shard, the other group on the other.
    let here = world.home("alice");
    let on = |world: &World, shard, n| {
        let mut ids = (0..).map(|n| format!("u{n}")).filter(|id| world.home(id) == shard);
        ids.nth(n).expect("there are more")
    };
    let (bob, near, far) = (on(&world, here, 0), on(&world, here, 0), on(&world, 1 - here, 0));
    let later = on(&world, here, 1);
    found(&mut world, &near, &["alice", &bob]);
    found(&mut world, &far, &[&bob]);
    found(&mut world, &later, &["alice"]);
    let (alice, conn) = (world.connect("alice", "a"), world.connect(&bob, "b"));
    world.send_group(alice, &xid(0), &near, "zero");
    assert_eq!(got(&mut world, conn, "b"), ["zero"]);
    world.disconnect(conn);
    world.carries = false;
    let conn = world.connect(&bob, "b");
    world.send_group(alice, &xid(1), &near, "one");
    add(&mut world, &later, &[&bob]);
    world.send_group(alice, &xid(3), &later, "a new one");
    assert_eq!(got(&mut world, conn, "b"), Vec::<String>::new(), "the other head is under way");
    world.carries = true;
    world.settle();
    world.send_group(alice, &xid(2), &near, "two");
    let all = got(&mut world, conn, "b");
    let of = |texts: &[&str]| all.iter().filter(|text| texts.contains(&text.as_str())).count();
    assert_eq!((all.len(), of(&["one", "two"]), of(&["a new one"])), (3, 2, 1), "{all:?}");
}

#[test]
fn what_one_request_learns_of_a_member_is_enough_for_the_next() {
    let mut world = World::new(1);
    found(&mut world, "team", &["alice", "bob"]);
    let mut world = world.crash(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.answers_loads = false;
    for n in 1..=3 {
        world.send_group(alice, &xid(n), "team", &n.to_string());
    }
    // The group, then for each message whether it is a resend and who its sender is: the second
    // and third answer about her come when their messages have gone on.
    while world.answer_load(0) {
        world.settle();
    }
    assert_eq!(got(&mut world, bob, "b"), ["1", "2", "3"]);
    assert_eq!(world.take(alice).len(), 3);
}

/// Members come, go, write, read and are cut off while records are under way between shards, and the
/// process crashes in between: everybody sees his part of one order, without a hole.
#[test]
fn random_histories_of_a_group() {
    for seed in 0..60 {
        history(seed);
    }
}

fn history(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let names = ["alice", "bob", "carol", "dave", "erin"];
    let mut world = World::new(1 + (seed % 3) as u16);
    found(&mut world, "team", &["alice"]);
    for id in &names[1..] {
        assert!(world.ask(Operation::PutUser { user: user(id), profile: "{}".into() }).is_some());
    }
    let mut conns: [Option<ConnId>; 5] = [None; 5];
    // The model: what was said, in order, and for each user which of it is his and how much he has
    // seen without a gap.
    let mut said: Vec<(usize, String)> = Vec::new();
    let mut member = [true, false, false, false, false];
    let mut his: [Vec<usize>; 5] = Default::default();
    let mut seen: [usize; 5] = [0; 5];
    let mut n = 0;
    for _ in 0..120 {
        let who = random(5) as usize;
        match random(12) {
            0..=4 => {
                if let (Some(conn), true) = (conns[who], member[who]) {
                    n += 1;
                    let text = format!("{who}-{n}");
                    world.send_group(conn, &xid(n), "team", &text);
                    for (other, his) in his.iter_mut().enumerate() {
                        if member[other] && other != who {
                            his.push(said.len());
                        }
                    }
                    said.push((who, text));
                }
            }
            5 if who > 0 => {
                if member[who] {
                    remove(&mut world, "team", names[who]);
                } else {
                    add(&mut world, "team", &[names[who]]);
                }
                member[who] = !member[who];
            }
            6 | 7 => match conns[who].take() {
                Some(conn) => world.disconnect(conn),
                None => conns[who] = Some(world.connect(names[who], "d")),
            },
            8 if random(4) == 0 => {
                let shards = 1 + random(3) as u16;
                conns = [None; 5];
                world = world.crash(shards);
            }
            _ => world.advance_ms(random(400)),
        }
        for who in 0..5 {
            if let Some(conn) = conns[who] {
                read(&mut world, conn, &said, &his[who], &mut seen[who]);
            }
        }
    }
    for who in 0..5 {
        let conn = conns[who].unwrap_or_else(|| world.connect(names[who], "d"));
        for _ in 0..his[who].len() + 40 {
            read(&mut world, conn, &said, &his[who], &mut seen[who]);
            world.advance_ms(110);
        }
        assert_eq!(seen[who], his[who].len(), "seed {seed}: {} misses something", names[who]);
    }
}

/// Takes what came: what is new is the next of his part, what is not new he has had.
fn read(
    world: &mut World,
    conn: ConnId,
    said: &[(usize, String)],
    his: &[usize],
    seen: &mut usize,
) {
    for frame in world.take(conn) {
        match frame["type"].as_str() {
            Some("C2G") => {
                let text = frame["payload"].as_str().expect("a text");
                let at = said.iter().position(|(_, known)| known == text).expect("it was said");
                let place = his.iter().position(|&own| own == at);
                let place = place.unwrap_or_else(|| panic!("{text} is not for him"));
                assert!(place <= *seen, "{text} comes before one that he has not had");
                *seen = (*seen).max(place + 1);
                world.ack_frame(conn, &frame, "d");
            }
            Some("S2C") => world.ack_frame(conn, &frame, "d"),
            Some("C2G_SERVER_ACK") => {}
            other => panic!("{other:?}: {frame}"),
        }
    }
}
