//! Messages that are taken back: who may, until when, and that nobody is shown the content after
//! it.

use ringpost_core::command::{Action, GroupOperation};
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, JoinPolicy, Operation, Post};
use ringpost_core::ids::{ConnId, Conversation, GroupId, UserId};
use serde_json::{Value, json};

use super::world::World;
use super::xid;

fn revoke(world: &mut World, conn: ConnId, kind: &str, id: &str, to: &str) -> Value {
    world.say(conn, &json!({"id": id, "type": kind, "to": to}).to_string());
    let mut frames = world.take(conn);
    assert_eq!(frames.len(), 1, "{frames:?}");
    frames.remove(0)
}

#[test]
fn the_author_takes_a_message_back_and_who_was_away_never_sees_it() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        world.connect("carol", "c");
        let bob = world.connect("bob", "b");
        world.disconnect(bob);
        let alice = world.connect("alice", "a");
        world.send(alice, &xid(1), "bob", "secret");
        world.send(alice, "m2", "bob", "other");
        world.take(alice);
        let answer = revoke(&mut world, alice, "C2C_REVOKE", &xid(1), "bob");
        let expected = json!({"id": xid(1), "type": "C2C_REVOKE_ACK", "from": "alice",
            "to": "bob", "server_ts": answer["server_ts"]});
        assert_eq!(answer, expected);
        let again = revoke(&mut world, alice, "c2c_revoke", &xid(1), "bob");
        assert_eq!(again["type"], "C2C_REVOKE_ACK", "said again: the same");
        let mut world = world.crash(shards);
        let bob = world.connect("bob", "b");
        world.advance_ms(300);
        let frames = world.take(bob);
        assert_eq!(frames.len(), 3, "{frames:?}");
        assert_eq!(
            frames[0]["payload"],
            json!({"msg_type": "custom", "custom_type": "peer_revoked"})
        );
        assert_eq!(frames[0]["id"], xid(1));
        assert_eq!(frames[1]["payload"], "other");
        assert_eq!(
            frames[2],
            json!({"id": xid(1), "type": "C2C_REVOKE", "from": "alice", "to": "bob",
                "server_ts": frames[2]["server_ts"]})
        );
        // The receiver's answer acknowledges the revoke.
        world.ack(bob, &xid(1), "b");
        let other = frames[1]["id"].as_str().expect("an id").to_owned();
        world.ack(bob, &other, "b");
        world.say(bob, &json!({"id": xid(1), "type": "C2C_REVOKE_ACK"}).to_string());
        world.advance_ms(1_500);
        let mut world = world.crash(shards);
        let bob = world.connect("bob", "b");
        world.advance_ms(500);
        assert_eq!(world.take(bob), Vec::<Value>::new());
        // The server's own id names it too, for the author alone.
        let alice = world.connect("alice", "a");
        world.advance_ms(500);
        let refused = revoke(&mut world, bob, "C2C_REVOKE", &other, "alice");
        assert_eq!((&refused["code"], &refused["id"]), (&3.into(), &other.as_str().into()));
        assert_eq!(
            revoke(&mut world, alice, "C2C_REVOKE", &other, "bob")["type"],
            "C2C_REVOKE_ACK"
        );
        let frames = world.take(bob);
        assert_eq!((&frames[0]["type"], &frames[0]["id"]), (&"C2C_REVOKE".into(), &other.into()));
    }
}

#[test]
fn a_revoke_waits_for_what_it_follows_from() {
    let mut world = World::new(1);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    world.commits = false;
    world.send(alice, &xid(1), "bob", "hi");
    world.say(alice, &json!({"id": xid(1), "type": "C2C_REVOKE", "to": "bob"}).to_string());
    world.send(alice, &xid(2), "bob", "next");
    assert_eq!(world.take(alice), Vec::<Value>::new());
    assert_eq!(world.take(bob), Vec::<Value>::new());
    world.commits = true;
    world.settle();
    let types = |frames: Vec<Value>| -> Vec<String> {
        frames.iter().map(|frame| frame["type"].as_str().expect("a type").to_owned()).collect()
    };
    assert_eq!(types(world.take(alice)), ["C2C_SERVER_ACK", "C2C_REVOKE_ACK", "C2C_SERVER_ACK"]);
    assert_eq!(types(world.take(bob)), ["C2C", "C2C_REVOKE", "C2C"]);
    // What was sent and not acknowledged comes again as revoked.
    world.advance_ms(6_000);
    let frames = world.take(bob);
    let first = frames.iter().find(|frame| frame["type"] == "C2C").expect("sent again");
    assert_eq!(first["payload"]["custom_type"], "peer_revoked");
}

#[test]
fn it_is_too_late_after_two_minutes_and_never_for_what_is_not_there() {
    let mut world = World::new(2);
    let (alice, _bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let code_3 = |frame: &Value| frame["type"] == "error" && frame["code"] == 3;
    assert!(code_3(&revoke(&mut world, alice, "C2C_REVOKE", &xid(1), "bob")));
    assert!(code_3(&revoke(&mut world, alice, "C2C_REVOKE", "not-an-xid", "bob")));
    assert!(code_3(&revoke(&mut world, alice, "C2G_REVOKE", &xid(1), "nowhere")));
    world.send(alice, &xid(1), "bob", "hi");
    world.take(alice);
    world.advance_ms(119_000);
    assert_eq!(revoke(&mut world, alice, "C2C_REVOKE", &xid(1), "bob")["type"], "C2C_REVOKE_ACK");
    world.send(alice, &xid(2), "bob", "hi");
    world.take(alice);
    world.advance_ms(121_000);
    assert!(code_3(&revoke(&mut world, alice, "C2C_REVOKE", &xid(2), "bob")));
}

#[test]
fn in_a_group_the_owner_may_too_and_at_any_time() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let user = |id| UserId::parse(id).expect("valid");
        for id in ["alice", "bob", "carol"] {
            let put = Operation::PutUser { user: user(id), profile: "{}".to_owned() };
            assert!(world.ask(put).is_some());
        }
        let create = GroupOperation::Create {
            owner: user("alice"),
            members: vec![user("bob"), user("carol")],
            join_policy: JoinPolicy::Open,
            profile: "{}".to_owned(),
        };
        world.group("team", create);
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|id| world.connect(id, "d"));
        world.send_group(bob, "m1", "team", "hi");
        world.take(bob);
        let id = world.take(alice)[0]["id"].as_str().expect("an id").to_owned();
        world.take(carol);
        assert_eq!(revoke(&mut world, carol, "C2G_REVOKE", &id, "team")["code"], 3);
        world.advance_ms(300_000);
        world.take(alice);
        world.take(carol);
        let refused = revoke(&mut world, bob, "C2G_REVOKE", "m1", "team");
        assert_eq!(refused["code"], 3, "too late for the author");
        // The owner knows a message by the id that its author's client gave it, if that is an xid.
        world.send_group(carol, &xid(7), "team", "of carol's");
        world.take(alice);
        world.take(bob);
        world.take(carol);
        assert_eq!(revoke(&mut world, bob, "C2G_REVOKE", &xid(7), "team")["code"], 3);
        let answer = revoke(&mut world, alice, "C2G_REVOKE", &xid(7), "team");
        assert_eq!((&answer["type"], &answer["id"]), (&"C2G_REVOKE_ACK".into(), &xid(7).into()));
        assert_eq!(world.take(carol)[0]["id"], xid(7));
        world.take(bob);
        let answer = revoke(&mut world, alice, "C2G_REVOKE", &id, "team");
        assert_eq!((&answer["type"], &answer["to"]), (&"C2G_REVOKE_ACK".into(), &"team".into()));
        for conn in [bob, carol] {
            let frames = world.take(conn);
            assert_eq!(
                frames,
                [json!({"id": id, "type": "C2G_REVOKE", "from": "alice", "to": "team",
                    "server_ts": answer["server_ts"]})]
            );
        }
    }
}

/// The record that closes a group is its last one.
#[test]
fn not_even_the_operator_adds_to_a_dissolved_group() {
    let mut world = World::new(2);
    super::groups::found(&mut world, "team", &["alice", "bob"]);
    let alice = world.connect("alice", "a");
    world.send_group(alice, &xid(1), "team", "hi");
    let take_back = |world: &mut World| {
        let group = GroupId::parse("team").expect("a valid id");
        let post = Post {
            conversation: Conversation::Group(group),
            sender: UserId::parse("alice").expect("a valid id"),
            client_id: xid(1).as_str().into(),
            action: Action::Revoke { by_operator: true },
        };
        world.ask(Operation::Post(Box::new(post))).expect("commits are made and loads answered")
    };
    assert_eq!(world.group("team", GroupOperation::Dissolve { by: None }), Answer::Done);
    assert_eq!(take_back(&mut world), Answer::Refused(Refusal::NoSuchGroup));
}
