//! What one client may ask for: connections, undecodable frames, requests and messages in a second,
//! commands that wait.

use ringpost_core::event::CloseHow;
use ringpost_core::limits;
use ringpost_core::rate::Rate;
use serde_json::Value;

use super::world::World;
use super::{receipts, xid};

#[test]
fn the_connection_over_the_limit_is_refused_before_the_upgrade() {
    let mut world = World::new(1);
    for n in 0..limits::USER_CONNECTIONS_MAX {
        let conn = world.connect("bob", &format!("d{n}"));
        assert!(world.clients[&conn].upgraded);
    }
    let over = world.connect_refused("bob", "one more");
    assert!(over.starts_with("HTTP/1.1 429 "), "{over}");
}

#[test]
fn undecodable_frames_in_a_row_end_the_connection() {
    let mut world = World::new(1);
    let alice = world.connect("alice", "a");
    for _ in 0..limits::UNDECODABLE_MAX - 1 {
        world.say(alice, "{");
    }
    world.say(alice, r#"{"id":"1","type":"nonsense"}"#);
    for _ in 0..limits::UNDECODABLE_MAX - 1 {
        world.say(alice, "{");
    }
    assert_eq!(world.clients[&alice].closed, None, "a decodable frame starts the count again");
    let frames = world.take(alice);
    assert_eq!(frames.len(), 2 * (limits::UNDECODABLE_MAX as usize - 1) + 1);
    assert!(frames.iter().all(|frame| frame["code"] == 1));
    world.say(alice, "{");
    let closed = world.clients[&alice].closed;
    assert!(matches!(closed, Some(CloseHow::Frame { code: 1008, .. })), "{closed:?}");
}

#[test]
fn requests_over_the_rate_are_refused_and_end_the_connection_in_the_end() {
    let mut world = World::with(2, |config| {
        config.rates.requests = Rate { per_s: 10, burst: 5 };
        config.rates.strikes = 4;
    });
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    for n in 0..6 {
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    let frames = world.take(alice);
    assert_eq!(receipts(&frames).len(), 5);
    let refusal = frames.last().expect("some");
    assert_eq!((&refusal["code"], &refusal["id"]), (&3.into(), &xid(5).into()), "{refusal}");
    assert_eq!(refusal["payload"]["content"], "rate limited");
    assert_eq!(world.take_messages(bob).len(), 5, "what is refused is not stored");
    for n in 0..100 {
        world.ack(bob, &xid(n), "b");
    }
    world.say(bob, "ping");
    assert_eq!(world.take(bob), ["pong2"], "acknowledgements are no requests");
    // At its rate it may go on for ever; after a minute without one, strikes are forgotten.
    for n in 6..700 {
        world.advance_ms(100);
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    assert_eq!(receipts(&world.take(alice)).len(), 694);
    for closed in [false, false, false, true] {
        world.say(alice, "{");
        assert_eq!(world.clients[&alice].closed.is_some(), closed);
    }
    let closed = world.clients[&alice].closed;
    assert!(matches!(closed, Some(CloseHow::Frame { code: 1008, .. })), "{closed:?}");
    let frames = world.take(alice);
    assert!(frames.iter().all(|frame| frame["payload"]["content"] == "rate limited"));
    assert_eq!(world.clients[&bob].closed, None);
}

#[test]
fn messages_are_limited_per_user_over_all_connections() {
    let mut world = World::with(1, |config| {
        config.rates.messages = Rate { per_s: 1, burst: 3 };
    });
    let (phone, tablet) = (world.connect("alice", "phone"), world.connect("alice", "tablet"));
    world.connect("bob", "b");
    let carol = world.connect("carol", "c");
    world.take(phone);
    for n in 0..2 {
        world.send(phone, &xid(n), "bob", "hi");
        world.send(tablet, &xid(10 + n), "bob", "hi");
    }
    let refused = |frames: &[Value]| frames.iter().filter(|frame| frame["code"] == 3).count();
    let (of_phone, of_tablet) = (world.take(phone), world.take(tablet));
    assert_eq!((receipts(&of_phone).len(), refused(&of_phone)), (2, 0));
    assert_eq!((receipts(&of_tablet).len(), refused(&of_tablet)), (1, 1));
    world.say(phone, "ping");
    assert_eq!(world.take(phone), ["pong2"], "no message");
    world.send(carol, &xid(20), "bob", "hi");
    assert_eq!(receipts(&world.take(carol)).len(), 1, "others have their own");
    world.advance_ms(1_010);
    world.send(tablet, &xid(11), "bob", "hi");
    assert_eq!(receipts(&world.take(tablet)).len(), 1);
}

#[test]
fn commands_wait_for_loads_in_order_and_the_sixty_fifth_is_told_to_try_again() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.answers_loads = false;
    let count = limits::CONVERSATION_WAITERS_MAX as u32 + 1;
    for n in 0..count {
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    let frames = world.take(alice);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0]["payload"]["content"], "try again");
    assert_eq!(frames[0]["id"], xid(count - 1));
    world.answers_loads = true;
    world.settle();
    assert_eq!(receipts(&world.take(alice)).len(), limits::CONVERSATION_WAITERS_MAX);
    let expected: Vec<String> = (0..count - 1).map(|n| n.to_string()).collect();
    assert_eq!(world.take_messages(bob), expected);
}
