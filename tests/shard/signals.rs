//! `webrtc_*`: to who is connected, stored nowhere, behind what was sent before.

use ringpost_core::limits;
use serde_json::Value;

use super::world::World;
use super::{marks, xid};

pub fn signal(id: &str, to: &str, n: u32) -> String {
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
