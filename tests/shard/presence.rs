//! Presence: what friends are told of who comes, goes and hides, and when they are told nothing.

use ringpost_core::account::{AccountOperation, Presence};
use ringpost_core::event::Answer;
use ringpost_core::ids::ConnId;
use serde_json::{Value, json};

use super::relations::{befriend, block};
use super::world::World;

/// Alice and Bob are friends and Bob is connected; nobody waits for anything.
fn friends(shards: u16) -> (World, ConnId) {
    let mut world = World::new(shards);
    for id in ["alice", "bob", "carol"] {
        world.put_user(id, "{}");
    }
    befriend(&mut world, "alice", "bob");
    let carol = world.connect("carol", "c");
    let bob = world.connect("bob", "b");
    drain(&mut world, bob, "b");
    // What alice has been told is of no interest here.
    let alice = world.connect("alice", "a");
    drain(&mut world, alice, "a");
    world.disconnect(alice);
    world.advance_ms(20_000);
    drain(&mut world, bob, "b");
    assert_eq!(world.take(carol), Vec::<Value>::new(), "no friend of theirs");
    (world, bob)
}

fn drain(world: &mut World, conn: ConnId, did: &str) {
    loop {
        let frames = world.take(conn);
        if frames.is_empty() {
            return;
        }
        frames.iter().for_each(|frame| world.ack_frame(conn, frame, did));
    }
}

/// The words that came, all of them of alice.
fn words(world: &mut World, conn: ConnId) -> Vec<String> {
    let words = world.take(conn).into_iter().map(|frame| {
        assert_eq!((&frame["type"], &frame["from"]), (&"S2C".into(), &"alice".into()), "{frame}");
        assert_eq!(frame["to"], "bob");
        assert_eq!(frame["id"].as_str().map(str::len), Some(20));
        frame["payload"]["msg_type"].as_str().expect("a word").to_owned()
    });
    words.collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn the_first_connection_and_ten_seconds_without_any_are_told_once() {
    for shards in [1, 2, 3] {
        let (mut world, bob) = friends(shards);
        let phone = world.connect("alice", "phone");
        assert_eq!(words(&mut world, bob), ["online"]);
        let tablet = world.connect("alice", "tablet");
        world.disconnect(phone);
        world.advance_ms(20_000);
        assert_eq!(words(&mut world, bob), NOTHING, "the tablet is there");
        // A quick reconnect tells nothing.
        world.disconnect(tablet);
        world.advance_ms(9_000);
        let tablet = world.connect("alice", "tablet");
        world.advance_ms(20_000);
        assert_eq!(words(&mut world, bob), NOTHING);
        let again = world.connect("alice", "tablet");
        assert_eq!(words(&mut world, bob), NOTHING, "the same device replaces itself");
        world.disconnect(tablet);
        world.disconnect(again);
        world.advance_ms(9_900);
        assert_eq!(words(&mut world, bob), NOTHING);
        world.advance_ms(200);
        assert_eq!(words(&mut world, bob), ["offline"]);
        world.advance_ms(60_000);
        assert_eq!(words(&mut world, bob), NOTHING, "once, and never repeated");
    }
}

#[test]
fn who_hides_is_not_seen_until_he_shows_himself() {
    for shards in [1, 2] {
        let (mut world, bob) = friends(shards);
        let hide = |world: &mut World, on| {
            assert_eq!(world.account("alice", AccountOperation::Hide(on)), Answer::Done);
        };
        let presence = |world: &mut World| world.account("alice", AccountOperation::Presence);
        assert_eq!(presence(&mut world), Answer::Presence(Presence::Offline));
        let alice = world.connect("alice", "a");
        assert_eq!(words(&mut world, bob), ["online"]);
        assert_eq!(presence(&mut world), Answer::Presence(Presence::Online));
        hide(&mut world, true);
        hide(&mut world, true);
        assert_eq!(words(&mut world, bob), ["hide"]);
        assert_eq!(presence(&mut world), Answer::Presence(Presence::Hidden));
        world.disconnect(alice);
        world.advance_ms(20_000);
        // It is stored.
        let mut world = world.crash(shards);
        let bob = world.connect("bob", "b");
        drain(&mut world, bob, "b");
        world.connect("alice", "a");
        world.advance_ms(20_000);
        assert_eq!(words(&mut world, bob), NOTHING);
        hide(&mut world, false);
        assert_eq!(words(&mut world, bob), ["online"]);
    }
}

#[test]
fn who_is_blocked_is_told_nothing() {
    let (mut world, bob) = friends(2);
    assert_eq!(world.relation(block("alice", "bob", true)), Answer::Done);
    let alice = world.connect("alice", "a");
    world.disconnect(alice);
    world.advance_ms(20_000);
    assert_eq!(words(&mut world, bob), NOTHING);
}

#[test]
fn after_a_start_presence_is_held_back_for_a_while() {
    for shards in [1, 2] {
        let (world, _) = friends(shards);
        let log = world.log.crash_image(world.log.durable());
        let mut world = World::quiet(log, shards, world.now, 60_000);
        let bob = world.connect("bob", "b");
        drain(&mut world, bob, "b");
        let alice = world.connect("alice", "a");
        world.advance_ms(1_000);
        world.disconnect(alice);
        world.advance_ms(20_000);
        world.connect("alice", "a");
        world.advance_ms(38_000);
        assert_eq!(words(&mut world, bob), NOTHING);
        world.advance_ms(2_000);
        assert_eq!(words(&mut world, bob), ["online"], "told in the end, once");
    }
}

#[test]
fn a_thousand_friends_are_told_in_pages() {
    let mut world = World::new(2);
    world.put_user("alice", "{}");
    let mut conns = Vec::new();
    for n in 0..1_100 {
        let id = format!("f{n}");
        world.put_user(&id, "{}");
        befriend(&mut world, &id, "alice");
        if n % 100 == 99 {
            let conn = world.connect(&id, "d");
            drain(&mut world, conn, "d");
            conns.push(conn);
        }
    }
    world.connect("alice", "a");
    for conn in conns {
        let frames = world.take(conn);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0]["payload"], json!({"msg_type": "online"}));
    }
}
