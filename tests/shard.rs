//! The core's promises, on real shards in virtual time with a log that can crash: durability before
//! receipts, order, resends, devices, windows, retries, restarts (ARCHITECTURE.md, *Invariants*).

#[path = "shard/accounts.rs"]
mod accounts;
#[path = "shard/groups.rs"]
mod groups;
#[path = "shard/presence.rs"]
mod presence;
#[path = "shard/random.rs"]
mod random;
#[path = "shard/relations.rs"]
mod relations;
#[path = "shard/world.rs"]
mod world;

use ringpost_core::event::{CloseHow, Load, Loaded};
use ringpost_core::ids::UserId;
use ringpost_core::limits;
use ringpost_storage::Log;
use serde_json::Value;
use world::World;

/// Two users on different shards of two, so that a message crosses.
const PAIRS: [(&str, &str); 3] = [("alice", "bob"), ("carol", "dave"), ("u1", "u2")];

fn xid(n: u32) -> String {
    let mut id = [0u8; 12];
    id[..4].copy_from_slice(&1u32.to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    String::from_utf8(ringpost_core::ids::MessageId(id).to_xid().to_vec()).expect("ASCII")
}

/// Receipts by client id.
fn receipts(frames: &[Value]) -> Vec<&str> {
    let receipts = frames.iter().filter(|frame| frame["type"] == "C2C_SERVER_ACK");
    receipts.map(|frame| frame["id"].as_str().expect("an id")).collect()
}

fn marks(world: &World, user: &str) -> usize {
    let user = UserId::parse(user).expect("valid");
    let load = Load::Inbox { user, after: None, limit: 100 };
    match world.log.load(&load).expect("the fake does not fail") {
        Loaded::Inbox(marks) => marks.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_acknowledged_or_delivered_before_it_is_durable() {
    for shards in [1, 2, 3] {
        for (a, b) in PAIRS {
            let mut world = World::new(shards);
            let (alice, bob) = (world.connect(a, "d1"), world.connect(b, "d2"));
            world.commits = false;
            world.send(alice, &xid(1), b, "hi");
            assert_eq!(world.take(alice), Vec::<Value>::new());
            assert_eq!(world.take(bob), Vec::<Value>::new());
            world.say(alice, "ping");
            assert_eq!(world.take(alice), ["pong2"], "what shows nothing does not wait");
            world.commits = true;
            world.settle();
            assert_eq!(receipts(&world.take(alice)), [xid(1)]);
            let frames = world.take(bob);
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0]["id"], xid(1));
            assert_eq!((&frames[0]["from"], &frames[0]["to"]), (&a.into(), &b.into()));
        }
    }
}

#[test]
fn a_resend_gets_the_first_result_and_is_not_delivered_again() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "d1"), world.connect("bob", "d2"));
        world.commits = false;
        world.send(alice, &xid(1), "bob", "hi");
        world.send(alice, &xid(1), "bob", "hi");
        assert_eq!(world.take(alice), Vec::<Value>::new(), "the resend waits for the first");
        world.commits = true;
        world.settle();
        world.advance_ms(1_000);
        world.send(alice, &xid(1), "bob", "another text does not matter");
        let frames = world.take(alice);
        assert_eq!(receipts(&frames), [xid(1), xid(1), xid(1)]);
        assert!(frames.iter().all(|frame| frame["server_ts"] == frames[0]["server_ts"]));
        assert_eq!(world.take_messages(bob), ["hi"]);

        let mut world = world.crash(shards);
        let (alice, bob) = (world.connect("alice", "d1"), world.connect("bob", "d2"));
        assert_eq!(world.take_messages(bob), ["hi"], "not acknowledged: offered again");
        world.send(alice, &xid(1), "bob", "hi");
        let again = world.take(alice);
        assert_eq!(receipts(&again), [xid(1)]);
        assert_eq!(again[0]["server_ts"], frames[0]["server_ts"]);
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
        // The same id to somebody else is another message.
        world.connect("carol", "d3");
        world.send(alice, &xid(1), "carol", "hi");
        assert_ne!(world.take(alice)[0]["server_ts"], frames[0]["server_ts"]);
    }
}

#[test]
fn an_offline_user_gets_everything_in_order_with_pauses() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let bob = world.connect("bob", "d2");
        world.disconnect(bob);
        let alice = world.connect("alice", "d1");
        let texts: Vec<String> = (0..50).map(|n| n.to_string()).collect();
        for (n, text) in texts.iter().enumerate() {
            world.send(alice, &xid(n as u32), "bob", text);
        }
        let bob = world.connect("bob", "d2");
        assert_eq!(world.take_messages(bob), ["0"]);
        world.advance_ms(99);
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
        world.advance_ms(10);
        assert_eq!(world.take_messages(bob), ["1"], "without an acknowledgement after 100 ms");
        world.ack(bob, &xid(0), "d2");
        assert_eq!(
            world.take_messages(bob),
            Vec::<String>::new(),
            "not the one that is waited for"
        );
        world.ack(bob, &xid(1), "d2");
        let mut got = vec!["0".to_owned(), "1".to_owned()];
        // A new message while the old ones are being pushed keeps its place.
        world.send(alice, &xid(50), "bob", "50");
        for n in 2..51 {
            got.extend(world.take_messages(bob));
            world.ack(bob, &xid(n), "d2");
        }
        assert_eq!(got[..50], texts[..]);
        assert_eq!(got[50..], ["50"]);
        world.advance_ms(30_000);
        assert_eq!(world.take_messages(bob), Vec::<String>::new(), "nothing again");
        assert_eq!(marks(&world, "bob"), 0);
    }
}

#[test]
fn a_reconnect_keeps_the_pauses() {
    let mut world = World::new(1);
    let bob = world.connect("bob", "b");
    world.disconnect(bob);
    let alice = world.connect("alice", "a");
    for n in 0..20 {
        world.send(alice, &xid(n), "bob", &n.to_string());
    }
    // Its timers are still running when the device comes again.
    let bob = world.connect("bob", "b");
    for n in 0..10 {
        assert_eq!(world.take_messages(bob), [n.to_string()]);
        world.ack(bob, &xid(n), "b");
        world.advance_ms(4);
    }
    world.disconnect(bob);
    let bob = world.connect("bob", "b");
    assert_eq!(world.take_messages(bob), ["10"]);
    world.advance_ms(96);
    assert_eq!(world.take_messages(bob), Vec::<String>::new());
    world.advance_ms(12);
    assert_eq!(world.take_messages(bob), ["11"]);
}

#[test]
fn every_device_acknowledges_for_itself() {
    let mut world = World::new(2);
    let alice = world.connect("alice", "a");
    let (phone, tablet) = (world.connect("bob", "phone"), world.connect("bob", "tablet"));
    world.send(alice, &xid(1), "bob", "one");
    assert_eq!(world.take_messages(phone), ["one"]);
    assert_eq!(world.take_messages(tablet), ["one"]);
    world.ack(phone, &xid(1), "phone");
    world.advance_ms(5_020);
    assert_eq!(world.take_messages(phone), Vec::<String>::new());
    assert_eq!(world.take_messages(tablet), ["one"], "a retry for the one that has not");
    world.disconnect(tablet);
    world.advance_ms(20_000);
    world.send(alice, &xid(2), "bob", "two");
    assert_eq!(world.take_messages(phone), ["two"]);
    world.ack(phone, &xid(2), "phone");
    world.advance_ms(20_000);
    assert_eq!(marks(&world, "bob"), 1, "the tablet has not got everything");
    let tablet = world.connect("bob", "tablet");
    let mut got = world.take_messages(tablet);
    world.ack(tablet, &xid(1), "tablet");
    got.extend(world.take_messages(tablet));
    world.ack(tablet, &xid(2), "tablet");
    assert_eq!(got, ["one", "two"]);
    // A new device starts where the furthest is.
    world.disconnect(phone);
    let watch = world.connect("bob", "watch");
    assert_eq!(world.take_messages(watch), Vec::<String>::new());
    world.advance_ms(20_000);
    let phone = world.connect("bob", "phone");
    assert_eq!(world.take_messages(phone), Vec::<String>::new());
    world.advance_ms(20_000);
    assert_eq!(marks(&world, "bob"), 0);
}

#[test]
fn unacknowledged_messages_come_again_at_their_times() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.send(alice, &xid(1), "bob", "1");
    world.send(alice, &xid(2), "bob", "2");
    world.ack(bob, &xid(2), "b");
    assert_eq!(world.take_messages(bob), ["1", "2"]);
    let mut times = Vec::new();
    for ms in (20..120_000).step_by(20) {
        world.advance_ms(20);
        for text in world.take_messages(bob) {
            assert_eq!(text, "1");
            times.push(ms);
        }
    }
    let near = |ms: i32, expected: i32| (expected..expected + 40).contains(&ms);
    assert_eq!(times.len(), 3, "{times:?}");
    assert!(near(times[0], 5_000) && near(times[1], 12_000) && near(times[2], 23_000), "{times:?}");
    // It waits for the next connect.
    world.disconnect(bob);
    let bob = world.connect("bob", "b");
    assert_eq!(world.take_messages(bob), ["1"]);
    world.ack(bob, &xid(1), "b");
    world.advance_ms(60_000);
    assert_eq!(world.take_messages(bob), Vec::<String>::new());
}

#[test]
fn a_reader_that_stops_costs_its_window_and_gets_everything_in_order() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        let count = 5_000u32;
        for n in 0..count {
            world.send(alice, &xid(n), "bob", &n.to_string());
        }
        let mut got = world.take_messages(bob);
        assert_eq!(got.len(), limits::WINDOW_MESSAGES as usize);
        let mut acked = 0;
        while acked < got.len() {
            world.ack(bob, &xid(acked as u32), "b");
            acked += 1;
            got.extend(world.take_messages(bob));
            if acked == got.len() {
                world.advance_ms(limits::PULL_DELAY_MS + 10);
                got.extend(world.take_messages(bob));
            }
        }
        let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(got.len(), expected.len());
        assert_eq!(got, expected);
        world.send(alice, &xid(count), "bob", "live again");
        assert_eq!(world.take_messages(bob), ["live again"]);
    }
}

#[test]
fn the_window_counts_bytes_too() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let text = "x".repeat(60_000);
    for n in 0..20 {
        world.send(alice, &xid(n), "bob", &text);
    }
    let got = world.take_messages(bob).len() as u64;
    assert_eq!(got, limits::WINDOW_BYTES.div_ceil(60_100));
}

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
fn a_message_stored_while_its_receiver_connects_is_not_missed() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let bob = world.connect("bob", "b");
        world.disconnect(bob);
        let alice = world.connect("alice", "a");
        world.commits = false;
        world.send(alice, &xid(1), "bob", "in an open turn");
        let bob = world.connect("bob", "b");
        world.send(alice, &xid(2), "bob", "behind it");
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
        world.commits = true;
        world.settle();
        let mut got = world.take_messages(bob);
        world.ack(bob, &xid(1), "b");
        got.extend(world.take_messages(bob));
        world.ack(bob, &xid(2), "b");
        assert_eq!(got, ["in an open turn", "behind it"]);
        world.advance_ms(30_000);
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
    }
}

#[test]
fn the_same_device_replaces_its_old_connection() {
    let mut world = World::new(2);
    let old = world.connect("bob", "b");
    let new = world.connect("bob", "b");
    let closed = world.clients[&old].closed;
    assert!(matches!(closed, Some(CloseHow::Frame { code: 4001, .. })), "{closed:?}");
    let alice = world.connect("alice", "a");
    world.send(alice, &xid(1), "bob", "hi");
    assert_eq!(world.take_messages(new), ["hi"]);
    world.say(old, "ping");
    assert_eq!(world.take(old), Vec::<Value>::new());
    world.disconnect(old);
    world.send(alice, &xid(2), "bob", "still here");
    assert_eq!(world.take_messages(new), ["still here"]);
}

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
fn who_does_not_exist_is_told_and_not_remembered() {
    let mut world = World::new(2);
    let alice = world.connect("alice", "a");
    for to in ["bob", "not an id", "all", ""] {
        world.send(alice, "m1", to, "hi");
        let frames = world.take(alice);
        assert_eq!(frames.len(), 1);
        assert_eq!((&frames[0]["code"], &frames[0]["id"]), (&3.into(), &"m1".into()), "{to}");
        assert_eq!(frames[0]["payload"]["content"], "no such user");
    }
    let bob = world.connect("bob", "b");
    world.send(alice, "m1", "bob", "hi");
    assert_eq!(receipts(&world.take(alice)), ["m1"]);
    let frames = world.take(bob);
    assert_eq!(frames[0]["id"].as_str().map(str::len), Some(20), "ours, since m1 is no xid");
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
fn an_acknowledgement_for_another_device_is_refused() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.send(alice, &xid(1), "bob", "hi");
    world.take(bob);
    world.ack(bob, &xid(1), "c");
    assert_eq!(world.take(bob)[0]["code"], 1);
    world.say(bob, "CLIENT_ACK,S2C,,b");
    world.say(bob, &format!("CLIENT_ACKC2C,{},b", xid(9)));
    assert_eq!(world.take(bob), Vec::<Value>::new(), "accepted in silence");
    world.advance_ms(5_100);
    assert_eq!(world.take_messages(bob), ["hi"], "it is still not acknowledged");
    world.say(bob, &format!("CLIENT_ACKC2C,{},b", xid(1)));
    world.advance_ms(60_000);
    assert_eq!(world.take_messages(bob), Vec::<String>::new());
}

#[test]
fn a_link_that_is_full_loses_nothing() {
    let mut world = World::new(2);
    let (a, b) = ("alice", "bob");
    assert_ne!(world.home(a), world.home(b), "the test needs two shards");
    // The conversation's home is the smaller member's.
    let (alice, bob) = (world.connect(a, "a"), world.connect(b, "b"));
    world.carries = false;
    let count = limits::LINK_DELIVERIES_MAX as u32 + 2_000;
    for n in 0..count {
        world.send(alice, &xid(n), b, &n.to_string());
    }
    assert_eq!(world.take(alice).len(), count as usize, "the sender does not wait for it");
    world.carries = true;
    world.settle();
    let mut got = world.take_messages(bob);
    let mut acked = 0;
    while acked < got.len() {
        world.ack(bob, &xid(acked as u32), "b");
        acked += 1;
        if acked == got.len() {
            world.advance_ms(limits::PULL_DELAY_MS + 10);
        }
        got.extend(world.take_messages(bob));
    }
    assert_eq!(got, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
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

#[test]
fn random_histories_lose_nothing_and_keep_order() {
    for seed in 0..300 {
        random::run(seed);
    }
}
