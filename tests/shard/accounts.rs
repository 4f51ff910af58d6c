//! Accounts: who is sent away, who may not come, and what is left of a cancelled one.

use ringpost_core::account::{AccountOperation, Ban};
use ringpost_core::command::GroupOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, CloseHow, JoinPolicy, Load, Loaded, MemberRole, Operation};
use ringpost_core::ids::ConnId;
use ringpost_storage::Log;
use serde_json::Value;

use super::relations::{ask, befriend, friends, user};
use super::world::World;
use super::xid;

fn closed(world: &World, conn: ConnId) -> Option<u16> {
    match world.clients[&conn].closed {
        Some(CloseHow::Frame { code, .. }) => Some(code),
        Some(CloseHow::Http) => panic!("refused"),
        None => None,
    }
}

/// Was told why in a frame with a title, and closed.
fn dismissed(world: &mut World, conn: ConnId, title: &str) -> String {
    let frames = world.take(conn);
    let last = frames.last().expect("it was told why");
    assert_eq!((&last["type"], &last["code"]), (&"error".into(), &2.into()));
    assert_eq!(last["payload"]["title"], title);
    assert_eq!(closed(world, conn), Some(4006));
    last["payload"]["content"].as_str().expect("a text").to_owned()
}

/// A login that is refused like one with a bad token.
fn refused(world: &mut World, id: &str) {
    let conn = world.connect(id, "again");
    let frames = world.take(conn);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0]["code"], 706);
    assert_eq!(closed(world, conn), Some(4006));
}

#[test]
fn a_kick_ends_one_device_or_all() {
    let mut world = World::new(2);
    let (phone, tablet) = (world.connect("bob", "phone"), world.connect("bob", "tablet"));
    let kick = |device: Option<&str>| AccountOperation::Kick { device: device.map(Into::into) };
    assert_eq!(world.account("bob", kick(Some("phone"))), Answer::Done);
    dismissed(&mut world, phone, "Signed out");
    assert_eq!(closed(&world, tablet), None);
    let phone = world.connect("bob", "phone");
    let answer = world.account("bob", AccountOperation::Connections);
    let Answer::Connections(devices) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = devices.iter().map(|device| device.device.as_str()).collect();
    assert_eq!(names, ["phone", "tablet"]);
    assert_eq!(world.account("bob", kick(None)), Answer::Done);
    dismissed(&mut world, phone, "Signed out");
    dismissed(&mut world, tablet, "Signed out");
    assert_eq!(world.account("bob", AccountOperation::Connections), Answer::Connections(vec![]));
    assert_eq!(world.account("bob", kick(None)), Answer::Done);
    assert_eq!(world.account("nobody", kick(None)), Answer::NoSuchUser);
    assert_eq!(closed(&world, world.clients.keys().next().copied().expect("one")), Some(4006));
}

#[test]
fn what_is_pending_is_counted() {
    let mut world = World::new(2);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    for n in 0..3 {
        world.send(alice, &xid(n), "bob", "x");
    }
    world.ack(bob, &xid(0), "b");
    let answer = world.account("bob", AccountOperation::Connections);
    let Answer::Connections(devices) = answer else { panic!("{answer:?}") };
    assert_eq!((devices[0].pending, devices[0].connections), (2, 1));
    assert_eq!(devices[0].since_ms, world.now.wall_ms);
}

#[test]
fn a_ban_ends_the_session_when_it_is_durable_and_refuses_logins_until_it_is_over() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let bob = world.connect("bob", "b");
        let until_ms = world.now.wall_ms + 60_000;
        let ban = AccountOperation::Ban(Some(Ban { until_ms, reason: "spam".to_owned() }));
        world.commits = false;
        let operation = Operation::Account { user: user("bob"), operation: ban };
        assert_eq!(world.ask(operation), None);
        assert_eq!(world.take(bob), Vec::<Value>::new(), "not durable");
        world.commits = true;
        world.settle();
        assert_eq!(dismissed(&mut world, bob, "Account banned"), "spam");
        refused(&mut world, "bob");
        let mut world = world.crash(shards);
        refused(&mut world, "bob");
        world.advance_ms(61_000);
        let bob = world.connect("bob", "b");
        assert_eq!(closed(&world, bob), None, "it is over");
        let ban = Ban { until_ms: u64::MAX, reason: "again".to_owned() };
        assert_eq!(world.account("bob", AccountOperation::Ban(Some(ban))), Answer::Done);
        refused(&mut world, "bob");
        assert_eq!(world.account("bob", AccountOperation::Ban(None)), Answer::Done);
        let bob = world.connect("bob", "b");
        assert_eq!(closed(&world, bob), None);
    }
}

fn found(world: &mut World, group: &str, owner: &str, members: &[&str]) {
    let create = GroupOperation::Create {
        owner: user(owner),
        members: members.iter().map(|id| user(id)).collect(),
        join_policy: JoinPolicy::Open,
        profile: "{}".to_owned(),
    };
    assert!(matches!(world.group(group, create), Answer::Group { .. }));
}

fn memberships(world: &World, id: &str) -> usize {
    let load = Load::Memberships { user: user(id), after: None, limit: 100 };
    match world.log.load(&load).expect("the fake does not fail") {
        Loaded::Memberships(memberships) => memberships.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_cancelled_account_leaves_friends_and_groups_and_does_not_come_back() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        for id in ["alice", "bob", "carol", "dave"] {
            world.put_user(id, r#"{"name":"N"}"#);
        }
        befriend(&mut world, "alice", "bob");
        befriend(&mut world, "dave", "alice");
        assert_eq!(world.relation(ask("alice", "carol")), Answer::Done);
        found(&mut world, "his", "alice", &["bob"]);
        found(&mut world, "bobs", "bob", &["alice", "carol"]);
        found(&mut world, "nobodys", "alice", &["carol"]);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        let take = |world: &mut World, conn, did| {
            let mut words = Vec::new();
            for _ in 0..20 {
                for frame in world.take(conn) {
                    let word = &frame["payload"]["msg_type"];
                    words.push(format!("{} {}", word.as_str().expect("a word"), frame["from"]));
                    world.ack_frame(conn, &frame, did);
                }
                world.advance_ms(100);
            }
            words
        };
        take(&mut world, bob, "b");
        let heir = Some(user("bob"));
        assert_eq!(world.account("alice", AccountOperation::Cancel { heir }), Answer::Done);
        dismissed(&mut world, alice, "Account cancelled");
        let mut told = take(&mut world, bob, "b");
        told.sort_unstable();
        let expected = [
            "group_member_leave \"alice\"",
            "group_member_leave \"alice\"",
            "user_cancel \"alice\"",
        ];
        assert_eq!(told, expected, "{shards} shards");
        // Dave was away, carol was only asked.
        for (id, wanted) in [("dave", &["user_cancel"][..]), ("carol", &["group_dissolve"])] {
            let conn = world.connect(id, "d");
            let told = take(&mut world, conn, "d");
            for word in ["user_cancel", "group_dissolve"] {
                let count = told.iter().filter(|told| told.starts_with(word)).count();
                assert_eq!(count, usize::from(wanted.contains(&word)), "{id}: {told:?}");
            }
        }
        assert_eq!(memberships(&world, "alice"), 0);
        let mut world = world.crash(shards);
        refused(&mut world, "alice");
        for id in ["bob", "dave"] {
            assert_eq!(friends(&mut world, id), []);
        }
        let bob = world.connect("bob", "b");
        world.take(bob);
        world.send(bob, &xid(1), "alice", "are you there?");
        let frames = world.take(bob);
        assert_eq!(frames[0]["payload"]["content"], "no such user");
        // The group that had an heir is his, the other one is closed.
        let Answer::Group { row, .. } = world.group("his", GroupOperation::Get) else { panic!() };
        assert_eq!((row.owner, row.members, row.closed_seq), (user("bob"), 1, 0));
        let Answer::Group { row, .. } = world.group("nobodys", GroupOperation::Get) else {
            panic!()
        };
        assert!(row.closed_seq > 0);
        let list = world.group("his", GroupOperation::List { after: None, limit: 9 });
        let Answer::Members(members) = list else { panic!("{list:?}") };
        assert_eq!((members.len(), members[0].1.role), (1, MemberRole::Owner));
        let cancel = AccountOperation::Cancel { heir: None };
        assert_eq!(world.account("alice", cancel), Answer::NoSuchUser);
        let get = Operation::GetUser { user: user("alice") };
        assert_eq!(world.ask(get), Some(Answer::NoSuchUser));
        let put = Operation::PutUser { user: user("alice"), profile: "{}".to_owned() };
        assert_eq!(world.ask(put), Some(Answer::NoSuchUser));
        let request = world.relation(ask("bob", "alice"));
        assert_eq!(request, Answer::Refused(Refusal::NoSuchUser));
    }
}

#[test]
fn a_message_after_the_cancellation_is_refused_where_the_conversation_was_in_use() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        world.send(alice, &xid(1), "bob", "x");
        world.send(bob, &xid(2), "alice", "y");
        world.take(bob);
        let cancel = AccountOperation::Cancel { heir: None };
        assert_eq!(world.account("alice", cancel), Answer::Done);
        world.send(bob, &xid(3), "alice", "z");
        assert_eq!(world.take(bob)[0]["payload"]["content"], "no such user");
    }
}

#[test]
fn a_cancellation_of_many_friends_goes_on_after_a_crash() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        world.put_user("alice", "{}");
        let count = 1_300;
        for n in 0..count {
            let id = format!("f{n}");
            world.put_user(&id, "{}");
            befriend(&mut world, &id, "alice");
        }
        world.commits = false;
        let operation = AccountOperation::Cancel { heir: None };
        let cancel = Operation::Account { user: user("alice"), operation };
        assert_eq!(world.ask(cancel), None);
        // Crashes in the middle of it, again and again.
        for round in 0..4 {
            for _ in 0..=round {
                for shard in 0..usize::from(shards) {
                    world.commit(shard);
                }
                world.settle();
            }
            let now = world.now;
            let log = world.log.crash_image(world.log.durable());
            world = World::on_uncommitted(log, shards, now);
        }
        world.commits = true;
        world.advance_ms(2_000);
        for n in [0, 1, 499, 500, 501, 1_000, count - 1] {
            let id = format!("f{n}");
            assert_eq!(friends(&mut world, &id), []);
            let conn = world.connect(&id, "d");
            let mut cancelled = 0;
            for _ in 0..5 {
                for frame in world.take(conn) {
                    cancelled += usize::from(frame["payload"]["msg_type"] == "user_cancel");
                    world.ack_frame(conn, &frame, "d");
                }
                world.advance_ms(110);
            }
            assert_eq!(cancelled, 1, "{id} of {shards} shards");
        }
        let load = Load::Relations { user: user("alice"), after: None, limit: 9, friends: false };
        let Loaded::Relations(left) = world.log.load(&load).expect("no failure") else { panic!() };
        assert_eq!(left, []);
    }
}
