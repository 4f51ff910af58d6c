//! Friends, requests, blocks and notices: who is told what, who may write to whom, and what is left
//! after a crash.

use ringpost_core::command::NoticeOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Load, Loaded, Operation, Routed};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{ConnId, UserId};
use ringpost_core::limits;
use ringpost_core::relations::{PrivatePolicy, RelationOperation, RelationRow, Terms};
use ringpost_storage::Log;
use serde_json::{Value, json};

use super::world::World;
use super::{marks, xid};

pub fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

pub fn ask(from: &str, to: &str) -> RelationOperation {
    let terms = Terms { message: "hi".to_owned(), ..Terms::default() };
    RelationOperation::Ask { from: user(from), to: user(to), terms }
}

pub fn accept(from: &str, to: &str) -> RelationOperation {
    let terms = Terms { remark: "R".to_owned(), ..Terms::default() };
    RelationOperation::Accept { from: user(from), to: user(to), terms }
}

pub fn end(one: &str, other: &str) -> RelationOperation {
    RelationOperation::End { one: user(one), other: user(other) }
}

pub fn block(by: &str, other: &str, on: bool) -> RelationOperation {
    RelationOperation::Block { by: user(by), other: user(other), on }
}

/// Makes two users friends; both are told nothing of it here.
pub fn befriend(world: &mut World, one: &str, other: &str) {
    assert_eq!(world.relation(ask(one, other)), Answer::Done);
    assert_eq!(world.relation(accept(one, other)), Answer::Done);
}

pub fn friends(world: &mut World, id: &str) -> Vec<(String, RelationRow)> {
    let operation = Operation::Friends { user: user(id), after: None, limit: 1_000 };
    match world.ask(operation).expect("an answer") {
        Answer::Friends(friends) => {
            friends.into_iter().map(|(id, row)| (id.to_string(), row)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn owed(world: &World) -> usize {
    use ringpost_core::ids::ShardId;
    let load = Load::Owed { shard: ShardId(0), shards: 1, after: None, limit: 100 };
    match world.log.load(&load).expect("the fake does not fail") {
        Loaded::Owed(owed) => owed.len(),
        other => panic!("{other:?}"),
    }
}

/// The ids of the frames that came; all of them are S2C.
fn ids(frames: &[Value]) -> Vec<&str> {
    frames
        .iter()
        .map(|frame| {
            assert_eq!(frame["type"], "S2C", "{frame}");
            frame["id"].as_str().expect("an id")
        })
        .collect()
}

fn ack_all(world: &mut World, conn: ConnId, frames: &[Value], did: &str) {
    frames.iter().for_each(|frame| world.ack_frame(conn, frame, did));
}

const PAIRS: [(&str, &str); 3] = [("alice", "bob"), ("dave", "carol"), ("u1", "u2")];

#[test]
fn a_request_and_its_acceptance_are_told_with_profiles_once_they_are_durable() {
    for shards in [1, 2, 3] {
        for (a, b) in PAIRS {
            let mut world = World::new(shards);
            world.put_user(a, r#"{"name":"A","avatar":"pic","extra":{"name":"no"}}"#);
            world.put_user(b, r#"{"name":"B","account":"acc","gender":2,"region":"R"}"#);
            let (one, other) = (world.connect(a, "d1"), world.connect(b, "d2"));
            world.commits = false;
            let request = Operation::Relation(Box::new(ask(a, b)));
            assert_eq!(world.ask(request), None, "not durable");
            assert_eq!(world.take(other), Vec::<Value>::new());
            world.commits = true;
            world.settle();
            let frames = world.take(other);
            assert_eq!(ids(&frames), [format!("af_{a}_{b}")]);
            let frame = &frames[0];
            assert_eq!((&frame["from"], &frame["to"]), (&a.into(), &b.into()));
            let payload = json!({
                "msg_type": "apply_friend", "custom_type": "apply_friend", "content": "",
                "from": {"source": "", "msg": "hi", "remark": "", "role": "", "nickname": "A",
                    "donotlookhim": false, "donotlethimlook": false, "avatar": "pic"},
                "to": {"account": "acc", "nickname": "B", "avatar": "", "sign": "", "gender": 2,
                    "region": "R", "remark": ""},
            });
            assert_eq!(frame["payload"], payload);
            ack_all(&mut world, other, &frames, "d2");
            assert_eq!(world.take(one), Vec::<Value>::new());

            assert_eq!(world.relation(accept(a, b)), Answer::Done);
            let frames = world.take(one);
            assert_eq!(ids(&frames), [format!("afc_{a}_{b}")]);
            assert_eq!((&frames[0]["from"], &frames[0]["to"]), (&b.into(), &a.into()));
            assert_eq!(frames[0]["payload"]["msg_type"], "apply_friend_confirm");
            assert_eq!(frames[0]["payload"]["from"]["msg"], "hi");
            assert_eq!(frames[0]["payload"]["to"]["remark"], "R");
            ack_all(&mut world, one, &frames, "d1");
            world.advance_ms(30_000);
            assert_eq!(world.take(one), Vec::<Value>::new(), "acknowledged: not again");
            assert_eq!(world.take(other), Vec::<Value>::new());
            assert_eq!((marks(&world, a), marks(&world, b)), (0, 0));
            assert_eq!(owed(&world), 0, "everything was confirmed");

            let mut world = world.crash(shards + 1);
            for (user, friend, remark) in [(a, b, ""), (b, a, "R")] {
                let friends = friends(&mut world, user);
                assert_eq!(friends.len(), 1);
                assert_eq!(
                    (friends[0].0.as_str(), friends[0].1.terms.remark.as_str()),
                    (friend, remark)
                );
            }
            // Who is a friend already is answered as success, and nothing is sent.
            let other = world.connect(b, "d2");
            assert_eq!(world.relation(ask(a, b)), Answer::Done);
            assert_eq!(world.relation(accept(a, b)), Answer::Done);
            assert_eq!(world.take(other), Vec::<Value>::new());
        }
    }
}

#[test]
fn a_repeated_request_has_the_same_id_and_comes_again() {
    let mut world = World::new(2);
    for id in ["alice", "bob"] {
        world.put_user(id, "{}");
    }
    let bob = world.connect("bob", "b");
    for _ in 0..2 {
        assert_eq!(world.relation(ask("alice", "bob")), Answer::Done);
        let frames = world.take(bob);
        assert_eq!(ids(&frames), ["af_alice_bob"]);
        ack_all(&mut world, bob, &frames, "b");
    }
    world.advance_ms(20_000);
    assert_eq!(world.take(bob), Vec::<Value>::new());
    // Asked in return, it is accepted.
    assert_eq!(world.relation(ask("bob", "alice")), Answer::Done);
    let alice = world.connect("alice", "a");
    assert_eq!(ids(&world.take(alice)), ["afc_alice_bob"]);
    assert_eq!(friends(&mut world, "bob").len(), 1);
    // It is over for both, and can begin again.
    assert_eq!(world.relation(end("bob", "alice")), Answer::Done);
    assert_eq!(friends(&mut world, "alice"), []);
    assert_eq!(friends(&mut world, "bob"), []);
    assert_eq!(world.relation(end("alice", "bob")), Answer::Refused(Refusal::NotAFriend));
    assert_eq!(world.relation(ask("bob", "alice")), Answer::Done);
    assert_eq!(ids(&world.take(alice)), ["af_bob_alice"]);
    // A rejection is told to nobody.
    let reject = || RelationOperation::Reject { from: user("bob"), to: user("alice") };
    assert_eq!(world.relation(reject()), Answer::Done);
    let none = Answer::Refused(Refusal::NoSuchRequest);
    assert_eq!(world.relation(reject()), none);
    assert_eq!(world.relation(accept("bob", "alice")), none);
    let told = world.take(bob);
    let words: Vec<_> = told.iter().map(|frame| &frame["payload"]["msg_type"]).collect();
    assert_eq!(words, ["online"], "while they were friends, and nothing since");
    let unknown = Answer::Refused(Refusal::NoSuchUser);
    assert_eq!(world.relation(ask("alice", "nobody")), unknown);
    assert_eq!(world.relation(block("alice", "nobody", true)), unknown);
}

#[test]
fn unacknowledged_requests_are_sent_again_at_their_times() {
    let mut world = World::new(2);
    for id in ["alice", "bob"] {
        world.put_user(id, "{}");
    }
    let bob = world.connect("bob", "b");
    assert_eq!(world.relation(ask("alice", "bob")), Answer::Done);
    let mut at = Vec::new();
    for ms in (0..40_000).step_by(100) {
        at.extend(world.take(bob).iter().map(|_| ms));
        world.advance_ms(100);
    }
    let wanted = [0, 1_500, 3_000, 6_000, 11_000, 18_000];
    assert_eq!(at.len(), wanted.len(), "{at:?}");
    let near = |(&ms, wanted): (&u64, u64)| ms >= wanted && ms <= wanted + 100;
    assert!(at.iter().zip(wanted).all(near), "{at:?}");
    // After the last one it waits for the next connect.
    world.disconnect(bob);
    let bob = world.connect("bob", "b");
    assert_eq!(ids(&world.take(bob)), ["af_alice_bob"]);
}

#[test]
fn notices_are_pushed_before_private_messages_and_groups() {
    use ringpost_core::command::GroupOperation;
    use ringpost_core::event::JoinPolicy;
    // Marks are read in the order of their keys: each receiver's notices have another place in it.
    for receiver in ["ann", "bob", "carl", "dora", "zoe"] {
        let mut world = World::new(2);
        world.put_user(receiver, "{}");
        for n in 1..12 {
            world.put_user(&format!("u{n}"), "{}");
        }
        let create = GroupOperation::Create {
            owner: user("u1"),
            members: vec![user(receiver)],
            join_policy: JoinPolicy::Open,
            profile: "{}".to_owned(),
        };
        assert!(matches!(world.group("team", create), Answer::Group { .. }));
        for n in 1..12 {
            let conn = world.connect(&format!("u{n}"), "d");
            world.send(conn, &xid(n), receiver, "private");
            if n == 1 {
                world.send_group(conn, &xid(100), "team", "group");
            }
            assert_eq!(world.relation(ask(&format!("u{n}"), receiver)), Answer::Done);
        }
        let conn = world.connect(receiver, "d");
        let mut kinds = Vec::new();
        for _ in 0..60 {
            for frame in world.take(conn) {
                kinds.push(frame["type"].as_str().expect("a type").to_owned());
                world.ack_frame(conn, &frame, "d");
            }
            world.advance_ms(4);
        }
        let expected = [vec!["S2C"; 11], vec!["C2C"; 11], vec!["C2G"; 1]].concat();
        assert_eq!(kinds, expected, "{receiver}");
    }
}

#[test]
fn what_is_owed_survives_a_crash_and_is_done_once() {
    for shards in [1, 2, 3] {
        for (a, b) in PAIRS {
            let mut world = World::new(shards);
            for id in [a, b] {
                world.put_user(id, "{}");
            }
            // The request is in the log; what it owes has not reached the other home, or has, or
            // has and was not confirmed.
            for steps in 0..6 {
                world.carries = false;
                world.commits = false;
                let request = Operation::Relation(Box::new(ask(a, b)));
                assert_eq!(world.ask(request), None);
                for _ in 0..steps {
                    for shard in 0..usize::from(shards) {
                        world.commit(shard);
                    }
                    world.carry();
                    world.settle();
                }
                for shard in 0..usize::from(shards) {
                    while world.commit(shard) {}
                }
                world = world.crash(shards);
                assert_eq!(owed(&world), 0, "sent again, done and confirmed");
                let bob = world.connect(b, "d");
                let frames = world.take(bob);
                assert_eq!(ids(&frames), [format!("af_{a}_{b}")], "after {steps} steps");
                ack_all(&mut world, bob, &frames, "d");
                world.advance_ms(20_000);
                assert_eq!(world.take(bob), Vec::<Value>::new(), "once");
                world.disconnect(bob);
            }
        }
    }
}

#[test]
fn blocks_refuse_messages_and_requests_and_keep_the_friendship() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        befriend(&mut world, "alice", "bob");
        world.take(alice);
        let told = world.take(bob);
        ack_all(&mut world, bob, &told, "b");
        world.advance_ms(2_000);
        assert_eq!(world.relation(block("bob", "alice", true)), Answer::Done);
        let mut world = world.crash(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        for (conn, did) in [(alice, "a"), (bob, "b")] {
            let told = world.take(conn);
            ack_all(&mut world, conn, &told, did);
        }
        world.send(alice, &xid(1), "bob", "x");
        let frames = world.take(alice);
        assert_eq!(frames.len(), 1);
        let frame = &frames[0];
        assert_eq!((&frame["id"], &frame["type"]), (&xid(1).into(), &"S2C".into()));
        assert_eq!((&frame["from"], &frame["to"]), (&"".into(), &"bob".into()));
        assert_eq!(frame["payload"], json!({"msg_type": "in_denylist"}));
        assert_eq!(world.take(bob), Vec::<Value>::new());
        // The other way is open.
        world.send(bob, &xid(2), "alice", "y");
        assert_eq!(world.take(alice)[0]["payload"], "y");
        world.take(bob);
        let row = friends(&mut world, "bob")[0].1.clone();
        assert!(row.blocked_ms > 0 && row.friends_ms > 0, "{row:?}");
        // A request of somebody who is blocked is answered as success, and nothing is sent.
        assert_eq!(world.relation(end("alice", "bob")), Answer::Done);
        assert_eq!(world.relation(ask("alice", "bob")), Answer::Done);
        assert_eq!(world.take(bob), Vec::<Value>::new());
        assert_eq!(world.relation(block("bob", "alice", false)), Answer::Done);
        world.send(alice, &xid(3), "bob", "z");
        assert_eq!(world.take_messages(bob), ["z"]);
    }
}

/// What a message from one to the other gets: `None` is its receipt.
fn refused(world: &mut World, n: u32, from: ConnId, to: &str) -> Option<String> {
    world.send(from, &xid(n), to, "x");
    let frames = world.take(from);
    let frame = frames.iter().find(|frame| frame["id"] == xid(n)).expect("an answer");
    (frame["type"] != "C2C_SERVER_ACK")
        .then(|| frame["payload"]["msg_type"].as_str().expect("a word").to_owned())
}

#[test]
fn the_policy_says_who_may_write() {
    for policy in [PrivatePolicy::Anyone, PrivatePolicy::Contacts, PrivatePolicy::Friends] {
        let mut world = World::with_policy(2, policy);
        world.put_user("boss", r#"{"org":"O"}"#);
        world.put_user("clerk", r#"{"org":"O"}"#);
        world.put_user("guest", r#"{"org":""}"#);
        world.put_user("other", r#"{"org":""}"#);
        world.put_user("robot", r#"{"role":"service"}"#);
        let boss = world.connect("boss", "d");
        let guest = world.connect("guest", "d");
        let no = Some("not_a_friend".to_owned());
        let anyone = policy == PrivatePolicy::Anyone;
        let contacts = anyone || policy == PrivatePolicy::Contacts;
        let told = |may: bool| if may { None } else { no.clone() };
        assert_eq!(refused(&mut world, 1, boss, "clerk"), told(contacts), "{policy:?}");
        assert_eq!(refused(&mut world, 2, boss, "robot"), told(contacts), "{policy:?}");
        assert_eq!(refused(&mut world, 3, boss, "guest"), told(anyone), "{policy:?}");
        assert_eq!(refused(&mut world, 4, guest, "other"), told(anyone), "no organisation");
        assert_eq!(refused(&mut world, 5, boss, "boss"), None, "notes to oneself");
        // A changed profile counts at once.
        world.put_user("guest", r#"{"org":"O"}"#);
        assert_eq!(refused(&mut world, 6, boss, "guest"), told(contacts), "{policy:?}");
        world.put_user("guest", "{}");
        assert_eq!(refused(&mut world, 7, boss, "guest"), told(anyone), "{policy:?}");
        befriend(&mut world, "boss", "guest");
        assert_eq!(refused(&mut world, 8, boss, "guest"), None);
        assert_eq!(refused(&mut world, 9, guest, "boss"), None);
        assert_eq!(world.relation(end("guest", "boss")), Answer::Done);
        assert_eq!(refused(&mut world, 10, guest, "boss"), told(anyone));
    }
}

#[test]
fn a_business_notice_is_delivered_until_acknowledged_and_stored_once_under_its_id() {
    let mut world = World::new(2);
    let bob = world.connect("bob", "b");
    let notice = |id: &str| {
        let [stream, kind, title, content] = ["s", "shipped", "", r#"{"no":7}"#].map(str::to_owned);
        let mut encoded = Vec::new();
        Happened::Noticed { stream, kind, title, content, data: None }.encode(&mut encoded);
        let notice = Box::new(NoticeOperation { id: id.into(), content: encoded.into() });
        Operation::Notice { user: user("bob"), notice }
    };
    let Some(Answer::Stored(first)) = world.ask(notice("n1")) else { panic!("not stored") };
    let frames = world.take(bob);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0]["payload"], json!({"msg_type": "shipped", "content": {"no": 7}}));
    assert_eq!(frames[0]["from"], "");
    let mut world = world.crash(1);
    assert_eq!(world.ask(notice("n1")), Some(Answer::Stored(first)));
    let bob = world.connect("bob", "b");
    let again = world.take(bob);
    assert_eq!(again, frames, "it was not acknowledged, and not stored twice");
    ack_all(&mut world, bob, &again, "b");
    let Some(Answer::Stored(second)) = world.ask(notice("")) else { panic!("not stored") };
    assert_eq!(second.seq, first.seq + 1);
    let unknown = Operation::Notice {
        user: user("nobody"),
        notice: Box::new(NoticeOperation { id: "".into(), content: "".into() }),
    };
    assert_eq!(world.ask(unknown), Some(Answer::NoSuchUser));
}

#[test]
fn friends_come_in_pages() {
    let mut world = World::new(3);
    for n in 0..30 {
        world.put_user(&format!("u{n:02}"), "{}");
    }
    for n in 1..30 {
        befriend(&mut world, "u00", &format!("u{n:02}"));
    }
    assert_eq!(world.relation(end("u05", "u00")), Answer::Done);
    let mut listed: Vec<UserId> = Vec::new();
    loop {
        let after = listed.last().cloned();
        let page = Operation::Friends { user: user("u00"), after, limit: 10 };
        let Some(Answer::Friends(page)) = world.ask(page) else { panic!("no page") };
        let last = page.len() < 10;
        listed.extend(page.into_iter().map(|(id, _)| id));
        if last {
            break;
        }
    }
    let expected: Vec<UserId> =
        (1..30).filter(|n| *n != 5).map(|n| user(&format!("u{n:02}"))).collect();
    assert_eq!(listed, expected);
    let unknown = Operation::Friends { user: user("nobody"), after: None, limit: 10 };
    assert_eq!(world.ask(unknown), Some(Answer::NoSuchUser));
}

#[test]
fn what_is_owed_is_bounded_under_way_and_altogether() {
    let mut world = World::new(2);
    world.put_user("z", "{}");
    let here = world.home("z");
    // The pair's home is that of the smaller id.
    let askers = (0..).map(|n| format!("u{n}")).filter(|id| world.home(id) != here);
    let askers: Vec<String> = askers.take(limits::OWED_MAX + 1).collect();
    for id in &askers {
        world.put_user(id, "{}");
    }
    world.carries = false;
    for id in &askers[..limits::OWED_MAX] {
        assert_eq!(world.relation(ask(id, "z")), Answer::Done);
    }
    let owed = |world: &World| world.under_way(|routed| matches!(routed, Routed::Owed { .. }));
    assert_eq!(owed(&world), limits::OWED_IN_FLIGHT_MAX);
    let last = askers.last().expect("one more");
    assert_eq!(world.relation(ask(last, "z")), Answer::Refused(Refusal::TryAgain));
    assert_eq!(world.relation(accept(last, "z")), Answer::Refused(Refusal::NoSuchRequest));
    // What owes nothing is done.
    assert_eq!(world.relation(block(last, "z", true)), Answer::Done);
    world.carries = true;
    world.advance_ms(0);
    assert_eq!(owed(&world), 0);
    assert_eq!(world.relation(ask(last, "z")), Answer::Done);
    world.connect("z", "d");
    let load = Load::Inbox { user: user("z"), after: None, limit: 9 };
    match world.log.load(&load).expect("the fake does not fail") {
        Loaded::Inbox(marks) => assert_eq!(marks[0].head as usize, limits::OWED_MAX + 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn strangers_may_write_while_they_are_in_a_common_group() {
    use ringpost_core::command::GroupOperation;
    use ringpost_core::event::JoinPolicy;
    for policy in [PrivatePolicy::Contacts, PrivatePolicy::Friends] {
        for strangers in [false, true] {
            let mut world = World::with(2, |config| {
                config.private_policy = policy;
                config.strangers_over_groups = strangers;
            });
            for id in ["alice", "bob", "carol"] {
                world.put_user(id, "{}");
            }
            let alice = world.connect("alice", "a");
            let no = Some("not_a_friend".to_owned());
            assert_eq!(refused(&mut world, 1, alice, "bob"), no);
            let create = GroupOperation::Create {
                owner: user("carol"),
                members: vec![user("alice"), user("bob")],
                join_policy: JoinPolicy::Open,
                profile: "{}".to_owned(),
            };
            assert!(matches!(world.group("team", create), Answer::Group { .. }));
            let told = if strangers { None } else { no.clone() };
            assert_eq!(refused(&mut world, 2, alice, "bob"), told);
            // Blocks count always.
            assert_eq!(world.relation(block("bob", "alice", true)), Answer::Done);
            assert_eq!(refused(&mut world, 3, alice, "bob"), Some("in_denylist".to_owned()));
            assert_eq!(world.relation(block("bob", "alice", false)), Answer::Done);
            assert_eq!(refused(&mut world, 4, alice, "bob"), told);
            let leave = GroupOperation::Remove { user: user("bob"), by: None };
            assert_eq!(world.group("team", leave), Answer::Done);
            assert_eq!(refused(&mut world, 5, alice, "bob"), no);
            assert_eq!(refused(&mut world, 6, alice, "carol"), told);
            let dissolve = GroupOperation::Dissolve { by: None };
            assert_eq!(world.group("team", dissolve), Answer::Done);
            assert_eq!(refused(&mut world, 7, alice, "carol"), no);
        }
    }
}

#[test]
fn an_answer_may_come_when_its_request_has_gone_on() {
    let mut world = World::with_policy(2, PrivatePolicy::Contacts);
    for id in ["alice", "bob"] {
        world.put_user(id, r#"{"org":"O"}"#);
    }
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    assert_eq!(refused(&mut world, 1, alice, "bob"), None);
    world.put_user("bob", r#"{"org":"O","name":"B"}"#);
    world.take(bob);
    // Both ask who bob is now, and the first answer is enough for both.
    world.answers_loads = false;
    world.send(alice, &xid(2), "bob", "x");
    let signal = json!({"id": "s", "type": "webrtc_offer", "to": "bob", "payload": {}});
    world.say(alice, &signal.to_string());
    world.answers_loads = true;
    world.settle();
    let kinds: Vec<_> = world.take(bob).iter().map(|frame| frame["type"].clone()).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert_eq!(refused(&mut world, 3, alice, "bob"), None);
}
