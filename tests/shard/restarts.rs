//! What a process leaves behind and the next one goes on with, with other numbers of shards too.

use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::ids::UserId;

use super::world::World;
use super::{receipts, xid};

#[test]
fn acknowledgements_older_than_a_second_survive_a_crash() {
    let mut world = World::new(2);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    for n in 0..6 {
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    for n in [0, 1, 3, 5] {
        world.ack(bob, &xid(n), "b");
    }
    world.advance_ms(1_100);
    world.ack(bob, &xid(2), "b");
    let mut world = world.crash(1);
    let bob = world.connect("bob", "b");
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(world.take_messages(bob));
        world.advance_ms(110);
    }
    // 2 was acknowledged within the last second before the crash: it may come again.
    assert_eq!(got, ["2", "4"]);
}

#[test]
fn a_clean_disconnect_keeps_every_acknowledgement() {
    let mut world = World::new(2);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    for n in 0..3 {
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    world.ack(bob, &xid(0), "b");
    world.ack(bob, &xid(2), "b");
    world.disconnect(bob);
    let mut world = world.crash(3);
    let bob = world.connect("bob", "b");
    world.advance_ms(500);
    assert_eq!(world.take_messages(bob), ["1"]);
}

#[test]
fn pending_messages_survive_restarts_with_other_numbers_of_shards() {
    let mut world = World::new(2);
    let mut sent = 0;
    for shards in [1, 3, 2, 4] {
        let alice = world.connect("alice", "a");
        if sent == 0 {
            let bob = world.connect("bob", "b");
            world.disconnect(bob);
        }
        for _ in 0..10 {
            world.send(alice, &xid(sent), "bob", &sent.to_string());
            sent += 1;
        }
        assert_eq!(world.take(alice).len(), 10);
        world = world.crash(shards);
    }
    let bob = world.connect("bob", "b");
    let mut got = Vec::new();
    for n in 0..sent {
        got.extend(world.take_messages(bob));
        world.ack(bob, &xid(n), "b");
    }
    assert_eq!(got, (0..sent).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn ids_go_up_over_a_crash_and_a_clock_set_back() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let mut ids = Vec::new();
    world.send(alice, "m1", "bob", "1");
    ids.push(world.take(bob)[0]["id"].as_str().expect("an id").to_owned());
    let mut world = world.crash(1);
    world.now.wall_ms -= 3_600_000;
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.take(bob);
    world.ack(bob, &ids[0], "b");
    world.send(alice, "m2", "bob", "2");
    let frames = world.take(bob);
    ids.push(frames[0]["id"].as_str().expect("an id").to_owned());
    assert!(ids[1] > ids[0], "{ids:?}");
    assert_eq!(frames[0]["payload"], "2");
}

#[test]
fn a_shard_takes_nothing_before_it_may_give_ids() {
    let mut world = World::new(1);
    assert!(world.admits(0));
    world.commits = false;
    let mut fresh = World::new_uncommitted(1);
    assert!(!fresh.admits(0));
    fresh.commits = true;
    fresh.settle();
    assert!(fresh.admits(0));
}

#[test]
fn a_full_disk_refuses_what_stores_and_nothing_else() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        for n in 0..5 {
            world.send(alice, &xid(n), "bob", &n.to_string());
        }
        world.take(alice);
        assert_eq!(world.take_messages(bob).len(), 5);
        world.disconnect(bob);
        world.send(alice, &xid(5), "bob", "5");
        let receipt = world.take(alice);
        world.space(true);

        // New messages are refused, in either direction; nobody's order of errors changes.
        world.send(alice, &xid(6), "bob", "6");
        let frames = world.take(alice);
        assert_eq!(frames.len(), 1, "{frames:?}");
        assert_eq!(frames[0]["type"], "error");
        assert_eq!((&frames[0]["code"], &frames[0]["id"]), (&1.into(), &xid(6).into()));
        assert_eq!(frames[0]["payload"]["content"], "try again");
        world.send(alice, &xid(7), "nobody", "7");
        assert_eq!(world.take(alice)[0]["code"], 3, "no such user");
        // A resend is still recognised.
        world.send(alice, &xid(5), "bob", "5");
        assert_eq!(world.take(alice), receipt);

        // Known users connect, with new devices too, get what is pending and acknowledge it.
        let (bob, tablet) = (world.connect("bob", "b"), world.connect("bob", "t"));
        for n in 0..6 {
            world.ack(bob, &xid(n), "b");
        }
        world.advance_ms(1_000);
        assert_eq!(world.take_messages(bob).last().map(String::as_str), Some("5"));
        world.take_messages(tablet);
        let refused = world.connect_refused("carol", "c");
        assert!(refused.starts_with("HTTP/1.1 503 "), "a new user: {refused}");
        assert!(refused.contains("Retry-After"), "{refused}");
        let [dora, alice_id] = ["dora", "alice"].map(|id| UserId::parse(id).expect("valid"));
        let put = Operation::PutUser { user: dora, profile: "{}".to_owned() };
        assert_eq!(world.ask(put.clone()), Some(Answer::Refused(Refusal::TryAgain)));
        let get = world.ask(Operation::GetUser { user: alice_id });
        assert!(matches!(get, Some(Answer::User { created: false, .. })), "{get:?}");

        // What was acknowledged meanwhile is durable.
        let mut world = world.crash(shards);
        world.space(true);
        let bob = world.connect("bob", "b");
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
        // Room again.
        let alice = world.connect("alice", "a");
        world.space(false);
        world.send(alice, &xid(6), "bob", "6");
        assert_eq!(receipts(&world.take(alice)), [xid(6)]);
        assert_eq!(world.take_messages(bob), ["6"]);
        assert!(matches!(world.ask(put), Some(Answer::User { created: true, .. })));
        world.connect("carol", "c");
    }
}
