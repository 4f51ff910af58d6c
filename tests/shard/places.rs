//! Where devices stand in groups whose members leave and come back, also while a device that has
//! just connected is still finding its places.

use ringpost_core::account::AccountOperation;
use ringpost_core::ids::{GroupId, UserId};
use ringpost_core::limits;
use serde_json::Value;

use super::groups::{add, found, got, remove};
use super::world::World;
use super::xid;

/// A group whose home is `shard`.
fn group_at(world: &World, shard: usize) -> String {
    let at = |group: &String| {
        let group = GroupId::parse(group).expect("a valid id");
        usize::from(group.slot().shard(world.shards()).0) == shard
    };
    let mut names = (0..).map(|n| format!("team{n}"));
    names.find(at).expect("each shard has slots")
}

/// A user whose home is `shard`.
fn user_at(world: &World, shard: usize, prefix: &str) -> String {
    let mut names = (0..).map(|n| format!("{prefix}{n}"));
    let name = names.find(|name| world.home(name) == shard).expect("each shard has slots");
    assert!(UserId::parse(&name).is_some());
    name
}

#[test]
fn a_stored_position_that_encloses_a_gap_stays_one_that_the_log_can_read() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        found(&mut world, "team", &["alice", "bob"]);
        let (alice, bob) = (world.connect("alice", "d"), world.connect("bob", "d"));
        world.send_group(alice, &xid(1), "team", "not acknowledged");
        assert_eq!(world.take(bob).len(), 1);
        world.send_group(alice, &xid(2), "team", "acknowledged");
        assert_eq!(got(&mut world, bob, "d"), ["acknowledged"]);
        remove(&mut world, "team", "bob");
        assert_eq!(got(&mut world, bob, "d"), ["group_member_leave"]);
        world.send_group(alice, &xid(3), "team", "hidden");
        add(&mut world, "team", &["bob"]);
        // Gone and back at once: nothing lies between.
        remove(&mut world, "team", "bob");
        add(&mut world, "team", &["bob"]);
        world.send_group(alice, &xid(4), "team", "acknowledged");
        assert_eq!(got(&mut world, bob, "d"), ["group_member_leave", "acknowledged"]);
        // What is stored encloses both gaps.
        world.disconnect(bob);
        for n in 5..8 {
            let bob = world.connect("bob", "d");
            let frames = world.take(bob);
            assert_eq!(frames.len(), 1, "{frames:?}");
            assert_eq!(frames[0]["payload"], "not acknowledged");
            world.advance_ms(1_000);
            world.send_group(alice, &xid(n), "team", "acknowledged");
            assert_eq!(got(&mut world, bob, "d"), ["acknowledged"]);
            world.disconnect(bob);
        }
        world = world.crash(shards);
        let bob = world.connect("bob", "d");
        assert_eq!(got(&mut world, bob, "d"), ["not acknowledged"]);
        world.disconnect(bob);
        let bob = world.connect("bob", "d");
        assert_eq!(got(&mut world, bob, "d"), Vec::<String>::new());
    }
}

#[test]
fn what_one_group_says_while_another_ones_head_is_waited_for_is_not_missed() {
    let mut world = World::new(2);
    let (near, far) = (group_at(&world, 0), group_at(&world, 1));
    let (ann, bob) = (user_at(&world, 0, "ann"), user_at(&world, 0, "bob"));
    found(&mut world, &near, &[&ann, &bob]);
    let zoe = user_at(&world, 1, "zoe");
    found(&mut world, &far, &[&zoe, &bob]);
    // Bob has everything of the near group: his place there will be his seat's.
    let says = world.connect(&ann, "d");
    world.send_group(says, &xid(9), &near, "first");
    let listens = world.connect(&bob, "d");
    assert_eq!(got(&mut world, listens, "d"), ["first"]);
    world.disconnect(listens);
    // Nobody of the first shard is in the far group, so that its head is not known there.
    world.carries = false;
    let listens = world.connect(&bob, "d");
    world.send_group(says, &xid(1), &near, "early");
    world.carries = true;
    world.settle();
    world.send_group(says, &xid(2), &near, "late");
    let zoe = world.connect(&zoe, "d");
    world.send_group(zoe, &xid(3), &far, "far");
    assert_eq!(got(&mut world, listens, "d"), ["early", "late", "far"]);
    world.advance_ms(60_000);
    assert_eq!(world.take(listens), Vec::<Value>::new());
}

/// Bob connects; before the group's head is known at his home, `change` happens at the group's.
fn meanwhile(change: impl Fn(&mut World, &str, &str)) -> Vec<String> {
    let mut world = World::new(2);
    let group = group_at(&world, 1);
    let (ann, bob) = (user_at(&world, 1, "ann"), user_at(&world, 0, "bob"));
    found(&mut world, &group, &[&ann, &bob]);
    let says = world.connect(&ann, "d");
    world.send_group(says, &xid(1), &group, "before");
    world.carries = false;
    let listens = world.connect(&bob, "d");
    assert_eq!(world.take(listens), Vec::<Value>::new());
    change(&mut world, &group, &bob);
    world.send_group(says, &xid(2), &group, "while he is away");
    world.carries = true;
    world.settle();
    let mut all = got(&mut world, listens, "d");
    if !all.contains(&"group_member_leave".to_owned()) {
        return all;
    }
    add(&mut world, &group, &[&bob]);
    world.send_group(says, &xid(3), &group, "back");
    world.send(says, &xid(4), &bob, "in private");
    let frames = world.take(listens);
    for frame in &frames {
        world.ack_frame(listens, frame, "d");
    }
    all.extend(frames.iter().map(|frame| frame["payload"].as_str().expect("a text").to_owned()));
    all
}

#[test]
fn who_leaves_before_the_groups_head_is_known_gets_what_came_before_and_goes_on() {
    let all = meanwhile(remove);
    assert_eq!(all, ["before", "group_member_leave", "back", "in private"]);
}

#[test]
fn who_leaves_and_is_back_before_the_groups_head_is_known_sees_nothing_of_between() {
    let all = meanwhile(|world, group, bob| {
        remove(world, group, bob);
        let ann = user_at(world, 1, "ann");
        let says = world.connect(&ann, "other");
        world.send_group(says, &xid(9), group, "hidden");
        add(world, group, &[bob]);
    });
    assert_eq!(all[..3], ["before", "group_member_leave", "while he is away"]);
}

#[test]
fn who_comes_back_while_others_are_served_sees_nothing_of_between() {
    let mut world = World::new(2);
    let group = group_at(&world, 1);
    let ann = user_at(&world, 1, "ann");
    let [bob, carl] = ["bob", "carl"].map(|name| user_at(&world, 0, name));
    found(&mut world, &group, &[&ann, &bob, &carl]);
    // Carl stays, so that his shard and Bob's goes on getting what is said.
    let conns = [&ann, &bob, &carl].map(|user| world.connect(user, "d"));
    remove(&mut world, &group, &bob);
    assert_eq!(got(&mut world, conns[1], "d"), ["group_member_leave"]);
    world.advance_ms(2_000);
    world.carries = false;
    for n in 0..3 {
        world.send_group(conns[0], &xid(n), &group, "hidden");
    }
    add(&mut world, &group, &[&bob]);
    // All of it comes before the first member is served.
    while world.carry() {}
    world.carries = true;
    world.settle();
    world.send_group(conns[0], &xid(3), &group, "seen");
    assert_eq!(got(&mut world, conns[1], "d"), ["seen"]);
    let all = ["group_member_leave", "hidden", "hidden", "hidden", "group_member_join", "seen"];
    assert_eq!(got(&mut world, conns[2], "d"), all);
}

#[test]
fn who_goes_in_the_middle_of_a_pass_leaves_the_others_their_seats() {
    let names: Vec<String> =
        (0..limits::FANOUT_TURN_BUDGET + 50).map(|n| format!("u{n}")).collect();
    let mut world = World::new(1);
    let members: Vec<&str> = names.iter().map(String::as_str).collect();
    for some in members.chunks(100) {
        let mut founders = vec!["owner"];
        founders.extend(some);
        if some[0] == "u0" {
            found(&mut world, "team", &founders);
        } else {
            some.iter().for_each(|id| world.put_user(id, "{}"));
            add(&mut world, "team", some);
        }
    }
    let owner = world.connect("owner", "d");
    let conns: Vec<_> = members.iter().map(|id| world.connect(id, "d")).collect();
    for conn in [&owner].into_iter().chain(&conns) {
        got(&mut world, *conn, "d");
    }
    world.commits = false;
    world.send_group(owner, &xid(1), "team", "to all");
    // A turn visits so many; the owner has the first seat.
    assert!(world.commit(0));
    world.tick(0);
    let visited = limits::FANOUT_TURN_BUDGET - 1;
    let has = |world: &World, at: usize| !world.clients[&conns[at]].frames.is_empty();
    assert!(has(&world, visited - 1) && !has(&world, visited));
    world.commits = true;
    // The last one visited, one before, and one who was not yet.
    let gone = [visited - 1, 7, visited + 7];
    for at in gone {
        world.hang_up(conns[at]);
    }
    world.settle();
    for at in (0..conns.len()).filter(|at| !gone.contains(at)) {
        assert_eq!(got(&mut world, conns[at], "d"), ["to all"], "{at}");
    }
}

#[test]
fn what_is_pending_is_counted_and_nothing_of_it_is_left_behind() {
    let mut world = World::new(2);
    let pending = |world: &World| (0..2).map(|shard| world.gauges(shard).pending).sum::<usize>();
    found(&mut world, "team", &["alice", "bob", "carol"]);
    let alice = world.connect("alice", "d");
    let (phone, tablet) = (world.connect("bob", "phone"), world.connect("bob", "tablet"));
    let carol = world.connect("carol", "d");
    for n in 0..10 {
        world.send_group(alice, &xid(n), "team", "to all");
        world.send(alice, &xid(100 + n), "bob", "to bob");
    }
    // Ten to three devices, and ten to two.
    assert_eq!(pending(&world), 50);
    let frames = world.take(phone);
    for frame in frames.iter().filter(|frame| frame["id"] != "logged_another_device") {
        world.ack_frame(phone, frame, "phone");
        // The second time it means nothing.
        world.ack_frame(phone, frame, "phone");
    }
    assert_eq!(pending(&world), 30);
    // Sent again, they are the same messages.
    world.advance_ms(20_000);
    assert_eq!(pending(&world), 30);
    assert!(world.take(tablet).len() > 40, "first times and retries");
    // As after another connect: one by one, with pauses.
    world.say(tablet, "check_offline_msg");
    assert!(pending(&world) < 30);
    world.advance_ms(5_000);
    assert_eq!(pending(&world), 30);
    // Replaced by the same device.
    let tablet = world.connect("bob", "tablet");
    world.advance_ms(5_000);
    assert_eq!(pending(&world), 30);
    world.disconnect(tablet);
    assert_eq!(pending(&world), 10, "Carol's");
    world.account("carol", AccountOperation::Kick { device: None });
    assert!(world.clients[&carol].closed.is_some());
    world.disconnect(carol);
    assert_eq!(pending(&world), 0);
    let carol = world.connect("carol", "d");
    world.advance_ms(2_000);
    assert_eq!(pending(&world), 10);
    assert_eq!(got(&mut world, carol, "d").len(), 10);
    assert_eq!(pending(&world), 0);
}

/// The log may know already that somebody has come back when the news of his leaving arrives.
#[test]
fn old_news_of_leaving_and_coming_back_takes_nothing_away() {
    let mut world = World::new(2);
    let home = world.home("bob");
    let group = (0..).map(|n| format!("g{n}")).find(|id| world.home(id) != home);
    let group = group.expect("half of them are");
    found(&mut world, &group, &["alice", "bob"]);
    let alice = world.connect("alice", "a");
    let bob = world.connect("bob", "b");
    world.take(bob);
    world.disconnect(bob);
    for n in 1..=3 {
        world.send_group(alice, &xid(n), &group, &n.to_string());
    }
    world.carries = false;
    remove(&mut world, &group, "bob");
    add(&mut world, &group, &["bob"]);
    let bob = world.connect("bob", "b");
    world.carries = true;
    world.settle();
    let mut all = Vec::new();
    for _ in 0..10 {
        world.advance_ms(110);
        all.extend(got(&mut world, bob, "b"));
    }
    assert_eq!(all, ["1", "2", "3", "group_member_leave"]);
    world.send_group(alice, &xid(4), &group, "4");
    assert_eq!(got(&mut world, bob, "b"), ["4"]);
}

/// The receipt of a resend names an old message, which is no news for a device that connects.
#[test]
fn a_resend_while_a_device_connects_brings_back_nothing() {
    // The conversation's home is alice's, which is not bob's.
    let mut world = World::new(2);
    let (here, there) = (world.home("bob"), world.home("alice"));
    assert_ne!(here, there);
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    let tablet = world.connect("bob", "tablet");
    world.send(bob, &xid(1), "alice", "mine");
    world.send(alice, &xid(2), "bob", "yours");
    world.send(bob, &xid(3), "alice", "mine, too");
    for (conn, did) in [(bob, "b"), (tablet, "tablet")] {
        world.ack(conn, &xid(2), did);
    }
    world.advance_ms(10_000);
    world.disconnect(tablet);
    world.take(bob);
    world.answers_loads = false;
    let tablet = world.connect("bob", "tablet");
    world.send(bob, &xid(1), "alice", "mine");
    world.send(bob, &xid(3), "alice", "mine, too");
    while world.answer_load(there) {}
    world.settle();
    let frames = world.take(bob);
    assert!(frames.iter().any(|frame| frame["type"] == "C2C_SERVER_ACK"), "{frames:?}");
    world.answers_loads = true;
    world.advance_ms(1_000);
    assert_eq!(world.take(tablet), Vec::<Value>::new(), "it has acknowledged everything");
}
