//! The core's promises, on real shards in virtual time with a log that can crash: durability before
//! receipts, order, resends, devices, windows, retries, restarts (ARCHITECTURE.md, *Invariants*).

#[path = "shard/accounts.rs"]
mod accounts;
#[path = "shard/everybody.rs"]
mod everybody;
#[path = "shard/groups.rs"]
mod groups;
#[path = "shard/places.rs"]
mod places;
#[path = "shard/presence.rs"]
mod presence;
#[path = "shard/random.rs"]
mod random;
#[path = "shard/reads.rs"]
mod reads;
#[path = "shard/relations.rs"]
mod relations;
#[path = "shard/revoke.rs"]
mod revoke;
#[path = "shard/schedule.rs"]
mod schedule;
#[path = "shard/world.rs"]
mod world;

use ringpost_core::dialect::imboy::hashids::Hashids;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, CloseHow, Load, Loaded, Operation};
use ringpost_core::ids::UserId;
use ringpost_core::limits;
use ringpost_core::rate::Rate;
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

fn signal(id: &str, to: &str, n: u32) -> String {
    serde_json::json!({"id": id, "type": "webrtc_offer", "to": to, "from": "mallory",
        "payload": {"n": n}, "ts": 5})
    .to_string()
}

#[test]
fn signals_reach_who_is_connected_and_nobody_later() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let alice = world.connect("alice", "a");
        let (phone, tablet) = (world.connect("bob", "phone"), world.connect("bob", "tablet"));
        world.say(phone, "CLIENT_ACK,S2C,logged_another_device,phone");
        world.take(phone);
        world.say(alice, &signal("s1", "bob", 1));
        let expected = serde_json::json!({"id": "s1", "type": "webrtc_offer", "from": "alice",
            "to": "bob", "payload": {"n": 1}, "ts": 5});
        assert_eq!(world.take(phone), std::slice::from_ref(&expected));
        assert_eq!(world.take(tablet), [expected]);
        world.say(phone, "CLIENT_ACK,WEBRTC,s1,phone");
        assert_eq!(world.take(alice), Vec::<Value>::new(), "a signal has no receipt");
        world.advance_ms(60_000);
        assert_eq!(world.take(phone), Vec::<Value>::new(), "and no retries");
        world.disconnect(phone);
        world.say(alice, &signal("s2", "bob", 2));
        let phone = world.connect("bob", "phone");
        world.advance_ms(1_000);
        assert_eq!(world.take(phone), Vec::<Value>::new(), "it is not stored");
        assert_eq!(marks(&world, "bob"), 0);

        // To oneself: to the other devices.
        world.take(tablet);
        world.say(phone, &signal("s3", "bob", 3));
        assert_eq!(world.take(tablet)[0]["id"], "s3");
        assert_eq!(world.take(phone), Vec::<Value>::new());
        // The same refusals as a message.
        for to in ["nobody", "no id"] {
            world.say(alice, &signal("s4", to, 4));
            let refused = world.take(alice);
            assert_eq!((&refused[0]["code"], &refused[0]["id"]), (&3.into(), &"s4".into()));
        }
    }
}

#[test]
fn a_signal_does_not_overtake_what_it_follows() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        world.commits = false;
        world.send(alice, &xid(1), "bob", "I will call you");
        world.say(alice, &signal("s1", "bob", 1));
        assert_eq!(world.take(bob), Vec::<Value>::new());
        world.commits = true;
        world.settle();
        let ids = world.take(bob);
        assert_eq!((&ids[0]["id"], &ids[1]["id"]), (&xid(1).into(), &"s1".into()));
    }
}

#[test]
fn a_full_link_drops_signals_and_nothing_else() {
    let mut world = World::new(2);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    assert_ne!(world.home("alice"), world.home("bob"), "the test needs two shards");
    world.send(alice, &xid(1), "bob", "hello");
    world.ack(bob, &xid(1), "b");
    world.take(bob);
    world.carries = false;
    let count = limits::LINK_DELIVERIES_MAX as u32 + 100;
    for n in 0..count {
        world.say(alice, &signal("s", "bob", n));
    }
    world.send(alice, &xid(2), "bob", "stored");
    world.carries = true;
    world.settle();
    let frames = world.take(bob);
    let signals = frames.iter().filter(|frame| frame["type"] == "webrtc_offer").count() as u64;
    assert_eq!(signals, limits::LINK_DELIVERIES_MAX);
    assert!(frames.iter().any(|frame| frame["payload"] == "stored"));
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
        world.say(seven, &signal("s1", &shown("42"), 1));
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

/// When each frame that `wanted` knows comes, in ms, looking every 20 ms.
fn times(
    world: &mut World,
    conn: ringpost_core::ids::ConnId,
    until_ms: u64,
    wanted: impl Fn(&Value) -> bool,
) -> Vec<u64> {
    let mut times = Vec::new();
    for ms in (0..until_ms).step_by(20) {
        let frames = world.take(conn);
        times.extend(frames.iter().filter(|frame| wanted(frame)).map(|_| ms));
        world.advance_ms(20);
    }
    times
}

/// Whether the times are those expected, up to two looks later.
fn are_near(times: &[u64], expected: &[u64]) -> bool {
    times.len() == expected.len()
        && times.iter().zip(expected).all(|(ms, due)| (*due..=due + 40).contains(ms))
}

#[test]
fn another_device_is_told_until_acknowledged() {
    let mut world = World::new(2);
    let (phone, tablet) = (world.connect("bob", "phone"), world.connect("bob", "tablet"));
    let told = world.take(phone);
    assert_eq!(told.len(), 1);
    let ts = &told[0]["server_ts"];
    let payload = serde_json::json!({"msg_type": "logged_another_device", "did": "tablet",
        "dname": "ios", "content": ""});
    let expected = serde_json::json!({"id": "logged_another_device", "type": "S2C", "from": "",
        "to": "bob", "payload": payload, "created_at": ts, "server_ts": ts});
    assert_eq!(told[0], expected);
    let is_it = |frame: &Value| *frame == expected;
    let seen = times(&mut world, phone, 60_000, is_it);
    assert!(are_near(&seen, &[5_000, 15_000]), "{seen:?}");
    assert_eq!(world.take(tablet), Vec::<Value>::new(), "the new one is not told about itself");

    // Acknowledged: not again. Two of them take two acknowledgements.
    world.connect("bob", "watch");
    world.connect("bob", "car");
    let devices = |frames: &[Value]| {
        let did = |frame: &Value| frame["payload"]["did"].as_str().expect("a did").to_owned();
        frames.iter().map(did).collect::<Vec<_>>()
    };
    assert_eq!(devices(&world.take(phone)), ["watch", "car"]);
    assert_eq!(devices(&world.take(tablet)), ["watch", "car"]);
    world.say(phone, "CLIENT_ACK,S2C,logged_another_device,phone");
    world.say(tablet, "CLIENT_ACK,S2C,logged_another_device,tablet");
    world.say(tablet, "CLIENT_ACK,S2C,logged_another_device,tablet");
    world.advance_ms(60_000);
    assert_eq!(devices(&world.take(phone)), ["car", "car"]);
    assert_eq!(world.take(tablet), Vec::<Value>::new());

    // The same device again is no other device; another user's is not bob's.
    let phone = world.connect("bob", "phone");
    world.connect("carol", "laptop");
    world.take(tablet);
    assert_eq!(world.take(phone), Vec::<Value>::new());
}

#[test]
fn what_is_not_acknowledged_and_not_stored_is_bounded() {
    let mut world = World::new(1);
    let phone = world.connect("bob", "phone");
    for n in 0..limits::USER_CONNECTIONS_MAX - 1 {
        world.connect("bob", &format!("d{n}"));
    }
    world.take(phone);
    world.advance_ms(5_100);
    let again = world.take(phone);
    assert_eq!(again.len(), limits::PROMPTS_MAX, "the oldest have made room");
    let last = format!("d{}", limits::USER_CONNECTIONS_MAX - 2);
    assert_eq!(again.last().expect("some")["payload"]["did"], last);
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
fn a_token_that_ends_in_a_session_is_asked_for_and_then_missed() {
    let is_reminder = |frame: &Value| {
        frame["id"] == "please_refresh_token" && frame["payload"]["msg_type"] == frame["id"]
    };
    let mut world = World::new(1);
    world.token_ms = 3_000;
    let bob = world.connect("bob", "b");
    world.token_ms = 86_400_000;
    let alice = world.connect("alice", "a");
    let seen = times(&mut world, bob, 20_900, is_reminder);
    assert!(are_near(&seen, &[3_000, 14_000]), "{seen:?}");
    assert_eq!(world.clients[&bob].closed, None);
    world.send(alice, &xid(1), "bob", "still here");
    assert_eq!(world.take_messages(bob), ["still here"], "the session goes on meanwhile");
    world.advance_ms(200);
    let closed = world.clients[&bob].closed;
    assert!(matches!(closed, Some(CloseHow::Frame { code: 4006, .. })), "{closed:?}");

    // Its acknowledgement settles the matter, before or after the second time.
    for acked_ms in [3_500, 15_000] {
        world.token_ms = 3_000;
        let bob = world.connect("bob", "b2");
        let before = times(&mut world, bob, acked_ms, is_reminder);
        world.say(bob, "CLIENT_ACK,S2C,please_refresh_token,b2");
        let after = times(&mut world, bob, 60_000, is_reminder);
        assert_eq!(after, Vec::<u64>::new());
        assert_eq!(before.len(), if acked_ms < 14_000 { 1 } else { 2 });
        assert_eq!(world.clients[&bob].closed, None);
        world.disconnect(bob);
    }
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

#[test]
fn random_histories_lose_nothing_and_keep_order() {
    for seed in 0..300 {
        random::run(seed);
    }
}
