//! The core's promises, on real shards in virtual time with a log that can crash: durability before
//! receipts, order, resends, devices, windows, retries, restarts (ARCHITECTURE.md, *Invariants*).

#[path = "shard/accounts.rs"]
mod accounts;
#[path = "shard/everybody.rs"]
mod everybody;
#[path = "shard/groups.rs"]
mod groups;
#[path = "shard/limited.rs"]
mod limited;
#[path = "shard/places.rs"]
mod places;
#[path = "shard/presence.rs"]
mod presence;
#[path = "shard/prompts.rs"]
mod prompts;
#[path = "shard/random.rs"]
mod random;
#[path = "shard/reads.rs"]
mod reads;
#[path = "shard/relations.rs"]
mod relations;
#[path = "shard/restarts.rs"]
mod restarts;
#[path = "shard/retries.rs"]
mod retries;
#[path = "shard/revoke.rs"]
mod revoke;
#[path = "shard/schedule.rs"]
mod schedule;
#[path = "shard/signals.rs"]
mod signals;
#[path = "shard/world.rs"]
mod world;

use ringpost_core::dialect::imboy::hashids::Hashids;
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
fn hashids_are_decoded_unless_somebody_has_that_very_id() {
    let hashids = Hashids::new("salt", Hashids::MIN_LENGTH, Hashids::ALPHABET).expect("valid");
    let shown = |id: &str| {
        let mut out = Vec::new();
        hashids.write(id, &mut out);
        String::from_utf8(out).expect("text")
    };
    for shards in [1, 2, 3] {
        let mut world = World::with(shards, |config| {
            config.dialects.imboy.hashids = Some(hashids.clone());
        });
        let (seven, bob) = (world.connect("7", "a"), world.connect("bob", "b"));
        let forty_two = world.connect("42", "c");
        world.send(seven, &xid(1), &shown("42"), "hi");
        assert_eq!(receipts(&world.take(seven)), [xid(1)]);
        let frame = world.take(forty_two).remove(0);
        let parts = (&frame["from"], &frame["to"], &frame["payload"]);
        assert_eq!(parts, (&shown("7").into(), &shown("42").into(), &"hi".into()));
        world.send(seven, &xid(2), "42", "the plain id is good too");
        assert_eq!(world.take(forty_two).len(), 1);
        world.send(seven, &xid(3), "bob", "no number");
        assert_eq!(world.take(bob)[0]["to"], "bob");
        world.take(seven);
        world.send(seven, &xid(4), &shown("43"), "nobody");
        assert_eq!(world.take(seven)[0]["payload"]["content"], "no such user");

        // Somebody has the very id that 42 is shown as: he is meant, from now on and in order.
        let rival = world.connect(&shown("42"), "r");
        world.answers_loads = false;
        for n in 0..5 {
            world.send(seven, &xid(10 + n), &shown("42"), &n.to_string());
        }
        world.say(seven, &signals::signal("s1", &shown("42"), 1));
        world.answers_loads = true;
        world.settle();
        assert_eq!(receipts(&world.take(seven)).len(), 5);
        let frames = world.take(rival);
        let payloads: Vec<&Value> = frames[..5].iter().map(|frame| &frame["payload"]).collect();
        assert_eq!(payloads, ["0", "1", "2", "3", "4"]);
        assert_eq!((&frames[5]["id"], frames.len()), (&"s1".into(), 6));
        assert_eq!(world.take(forty_two), Vec::<Value>::new());
    }
}

#[test]
fn check_offline_msg_pushes_everything_pending_again_with_pauses() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        let tablet = world.connect("bob", "tablet");
        for n in 0..6 {
            world.send(alice, &xid(n), "bob", &n.to_string());
        }
        assert_eq!(world.take_messages(bob).len(), 6);
        world.ack(bob, &xid(0), "b");
        world.ack(bob, &xid(3), "b");
        // After the last retry nothing comes by itself any more.
        world.advance_ms(60_000);
        world.take(bob);
        world.take(tablet);
        world.say(bob, "check_offline_msg");
        assert_eq!(world.take_messages(bob), ["1"]);
        world.advance_ms(90);
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
        world.advance_ms(20);
        assert_eq!(world.take_messages(bob), ["2"]);
        world.ack(bob, &xid(2), "b");
        assert_eq!(world.take_messages(bob), ["4"], "3 is acknowledged, 2 needs no pause");
        // Again, in the middle of it: from the beginning.
        world.say(bob, "check_offline_msg");
        let mut got = Vec::new();
        for n in [1, 4, 5] {
            got.extend(world.take_messages(bob));
            world.ack(bob, &xid(n), "b");
        }
        assert_eq!(got, ["1", "4", "5"]);
        world.send(alice, &xid(6), "bob", "live again");
        assert_eq!(world.take_messages(bob), ["live again"]);
        world.ack(bob, &xid(6), "b");
        world.say(bob, "check_offline_msg");
        world.advance_ms(60_000);
        assert_eq!(world.take_messages(bob), Vec::<String>::new(), "nothing is pending");
        assert_eq!(world.take_messages(tablet).first().map(String::as_str), Some("live again"));
        world.disconnect(tablet);
        let mut world = world.crash(1);
        let bob = world.connect("bob", "b");
        assert_eq!(world.take_messages(bob), Vec::<String>::new());
    }
}

#[test]
fn random_histories_lose_nothing_and_keep_order() {
    for seed in 0..300 {
        random::run(seed);
    }
}
