//! What a device is told of itself until it acknowledges: another device of its user, a token that
//! ends. None of it is stored.

use ringpost_core::event::CloseHow;
use ringpost_core::ids::ConnId;
use ringpost_core::limits;
use serde_json::Value;

use super::world::World;
use super::xid;

/// When each frame that `wanted` knows comes, in ms, looking every 20 ms.
fn times(
    world: &mut World,
    conn: ConnId,
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
