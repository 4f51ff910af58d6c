//! Messages that are stored later: at their time, once, in order, and after a crash all the same.

use ringpost_core::account::AccountOperation;
use ringpost_core::command::{Action, GroupOperation};
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, JoinPolicy, Operation, Post, Stored};
use ringpost_core::ids::{Conversation, GroupId, MessageId, UserId};
use ringpost_core::limits::{DUE_HELD_MAX, DUE_SOON_MS};
use ringpost_core::record::Kind;
use ringpost_core::relations::RelationOperation;

use super::world::World;

fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

fn private(one: &str, other: &str) -> Conversation {
    Conversation::private(&user(one), &user(other))
}

fn ask(
    world: &mut World,
    from: &str,
    to: &Conversation,
    id: &str,
    after_ms: u64,
) -> Option<Answer> {
    let content = format!(r#"{{"kind":"text","text":"{id}"}}"#).into();
    let (kind, mentions) = (Kind::Neutral, None);
    let action = Action::Send { kind, sender_ms: None, content, copies: true, mentions, after_ms };
    let (conversation, sender) = (to.clone(), user(from));
    let post = Post { conversation, sender, client_id: id.into(), action };
    world.ask(Operation::Post(Box::new(post)))
}

/// Schedules a message, or sends it at once.
fn post(world: &mut World, from: &str, to: &Conversation, id: &str, after_ms: u64) -> Stored {
    match ask(world, from, to, id, after_ms) {
        Some(Answer::Stored(stored)) => stored,
        other => panic!("{other:?}"),
    }
}

fn find(world: &mut World, id: MessageId) -> Option<u64> {
    match world.ask(Operation::Find { id }) {
        Some(Answer::Found(found)) => found.map(|(_, page)| page.get(0).expect("a record").seq),
        other => panic!("{other:?}"),
    }
}

/// What is in a private conversation, by the client ids.
fn told(world: &mut World, to: &str) -> Vec<String> {
    let conn = world.connect(to, "d");
    world.advance_ms(3_000);
    let mut got = Vec::new();
    loop {
        let frames = world.take(conn);
        if frames.is_empty() {
            world.advance_ms(1_200);
            world.disconnect(conn);
            return got;
        }
        for frame in frames {
            if frame["type"] == "C2C" || frame["type"] == "C2G" {
                got.push(frame["payload"]["text"].as_str().expect("a text").to_owned());
            }
            world.ack_frame(conn, &frame, "d");
        }
        world.advance_ms(200);
    }
}

#[test]
fn it_comes_at_its_time_once_under_its_id_and_resends_are_recognised() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let talk = private("alice", "bob");
        world.put_user("alice", "{}");
        let bob = world.connect("bob", "b");
        let first = post(&mut world, "alice", &talk, "later", 5_000);
        assert_eq!((first.seq, first.time_ms), (0, world.now.wall_ms + 5_000));
        assert_eq!(post(&mut world, "alice", &talk, "later", 9_000), first, "said again");
        assert_eq!(post(&mut world, "alice", &talk, "later", 0), first, "and for now");
        assert_eq!(post(&mut world, "alice", &talk, "now", 0).seq, 1);
        assert_eq!(find(&mut world, first.id), None, "not before its time");
        let frames = world.take(bob);
        assert_eq!(frames.len(), 1, "{frames:?}");
        world.ack_frame(bob, &frames[0], "b");
        world.advance_ms(4_900);
        assert_eq!((find(&mut world, first.id), world.take(bob).len()), (None, 0));
        world.advance_ms(200);
        let frames = world.take(bob);
        assert_eq!(frames.len(), 1, "{frames:?}");
        assert_eq!(
            (&frames[0]["payload"]["text"], &frames[0]["from"]),
            (&"later".into(), &"alice".into())
        );
        assert_eq!(frames[0]["id"], first.id.to_string());
        let at = frames[0]["server_ts"].as_u64().expect("ms");
        assert!((first.time_ms..first.time_ms + 50).contains(&at), "{at}");
        assert_eq!(find(&mut world, first.id), Some(2));
        let again = post(&mut world, "alice", &talk, "later", 5_000);
        assert_eq!((again.id, again.seq, again.time_ms), (first.id, 2, at));
        let mut world = world.crash(shards % 3 + 1);
        assert_eq!(post(&mut world, "alice", &talk, "later", 5_000), again);
        world.advance_ms(2 * DUE_SOON_MS);
        assert_eq!(find(&mut world, first.id), Some(2));
        assert_eq!(post(&mut world, "alice", &talk, "end", 0).seq, 3, "nothing came twice");
    }
}

#[test]
fn it_is_durable_when_it_is_answered_and_survives_crashes() {
    let mut world = World::new(2);
    let talk = private("alice", "bob");
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    world.commits = false;
    assert_eq!(ask(&mut world, "alice", &talk, "lost", 2_000), None, "not durable");
    let mut world = world.crash(1);
    world.advance_ms(3_000);
    assert_eq!(told(&mut world, "bob"), [""; 0]);
    // Far and near, found by whoever starts, with any number of shards.
    let near = post(&mut world, "alice", &talk, "near", 2_000);
    let far = post(&mut world, "alice", &talk, "far", 3 * DUE_SOON_MS);
    let mut world = world.crash(3);
    world.advance_ms(3_000);
    assert_eq!(find(&mut world, near.id), Some(1));
    // A crash while it is being stored: it is stored afterwards, and once.
    let next = post(&mut world, "alice", &talk, "next", 1_000);
    world.commits = false;
    world.advance_ms(1_500);
    let mut world = world.crash(2);
    world.advance_ms(500);
    assert_eq!(find(&mut world, next.id), Some(2));
    // What fell due while nothing ran comes at once.
    world.now.wall_ms += 4 * DUE_SOON_MS;
    let mut world = world.crash(1);
    world.advance_ms(100);
    assert_eq!(find(&mut world, far.id), Some(3));
    assert_eq!(told(&mut world, "bob"), ["near", "next", "far"]);
    let mut world = world.crash(2);
    world.advance_ms(2 * DUE_SOON_MS);
    assert_eq!(post(&mut world, "alice", &talk, "end", 0).seq, 4, "nothing came twice");
}

#[test]
fn the_log_is_read_on_as_time_goes_by() {
    let mut world = World::new(2);
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    let talk = private("alice", "bob");
    let hour = 3_600_000;
    let messages: Vec<_> =
        (1..=6).map(|n| post(&mut world, "alice", &talk, &format!("m{n}"), n * hour / 6)).collect();
    for message in &messages {
        world.advance_ms(hour / 6 - 1_000);
        assert_eq!(find(&mut world, message.id), None, "not before");
        world.advance_ms(1_100);
        assert!(find(&mut world, message.id).is_some(), "within a second");
        // Keep in step with the schedule.
        world.now.wall_ms -= 100;
    }
    let seqs: Vec<_> = messages.iter().map(|message| find(&mut world, message.id)).collect();
    assert_eq!(seqs, (1..=6).map(Some).collect::<Vec<_>>());
}

#[test]
fn who_may_not_write_when_it_is_due_does_not() {
    let mut world = World::new(2);
    for id in ["alice", "bob", "carol", "dave"] {
        world.put_user(id, "{}");
    }
    let create = GroupOperation::Create {
        owner: user("bob"),
        members: vec![user("alice"), user("dave")],
        join_policy: JoinPolicy::Approve,
        profile: "{}".to_owned(),
    };
    assert!(matches!(world.group("team", create), Answer::Group { .. }));
    let team = Conversation::Group(GroupId::parse("team").expect("valid"));
    // Refused at once, as it would be now.
    let refused = ask(&mut world, "carol", &team, "x", 1_000);
    assert_eq!(refused, Some(Answer::Refused(Refusal::NotInGroup)));
    let refused = ask(&mut world, "alice", &private("alice", "nobody"), "x", 1_000);
    assert_eq!(refused, Some(Answer::Refused(Refusal::NoSuchUser)));
    let in_group = post(&mut world, "alice", &team, "g", 1_000);
    let blocked = post(&mut world, "alice", &private("alice", "bob"), "b", 1_000);
    let cancelled = post(&mut world, "carol", &private("carol", "bob"), "c", 1_000);
    let stays = post(&mut world, "dave", &team, "d", 1_000);
    let remove = GroupOperation::Remove { user: user("alice"), by: None };
    assert_eq!(world.group("team", remove), Answer::Done);
    let block = RelationOperation::Block { by: user("bob"), other: user("alice"), on: true };
    assert_eq!(world.relation(block), Answer::Done);
    assert_eq!(world.account("carol", AccountOperation::Cancel { heir: None }), Answer::Done);
    world.advance_ms(2_000);
    for dropped in [in_group, blocked, cancelled] {
        assert_eq!(find(&mut world, dropped.id), None);
    }
    assert!(find(&mut world, stays.id).is_some());
    // Dropped for good.
    let unblock = RelationOperation::Block { by: user("bob"), other: user("alice"), on: false };
    assert_eq!(world.relation(unblock), Answer::Done);
    let mut world = world.crash(1);
    world.advance_ms(2_000);
    assert_eq!(find(&mut world, blocked.id), None);
}

#[test]
fn a_clock_that_is_set_neither_loses_nor_repeats() {
    let mut world = World::new(1);
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    let talk = private("alice", "bob");
    let one = post(&mut world, "alice", &talk, "one", 2_000);
    let two = post(&mut world, "alice", &talk, "two", 60_000);
    world.advance_ms(2_100);
    assert_eq!(find(&mut world, one.id), Some(1));
    world.now.wall_ms -= 30_000;
    world.advance_ms(31_000);
    assert_eq!(find(&mut world, two.id), None, "its time is further away now");
    world.now.wall_ms += 70_000;
    world.advance_ms(600);
    assert_eq!(find(&mut world, two.id), Some(2), "its time has passed");
    world.now.wall_ms -= 200_000;
    world.advance_ms(250_000);
    assert_eq!(post(&mut world, "alice", &talk, "end", 0).seq, 3, "nothing came twice");
}

#[test]
fn what_is_stored_is_not_stored_again_by_a_late_answer() {
    let mut world = World::new(1);
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    let talk = private("alice", "bob");
    let now = world.now;
    // The log is asked for the first window, and answers late.
    let log = world.log.crash_image(world.log.durable());
    let mut world = World::on_unscheduled(log, 1, now);
    let message = post(&mut world, "alice", &talk, "m", 1_000);
    world.commits = false;
    world.advance_ms(1_100);
    // It is stored, not durably, when the log still shows its key.
    world.holds_schedules = false;
    world.advance_ms(100);
    world.commits = true;
    world.advance_ms(2_000);
    assert_eq!(find(&mut world, message.id), Some(1));
    assert_eq!(world.due(), 0);
    assert_eq!(post(&mut world, "alice", &talk, "end", 0).seq, 2, "nothing came twice");
}

#[test]
fn a_disk_that_is_full_when_it_is_read_holds_it_up_too() {
    let mut world = World::new(1);
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    let talk = private("alice", "bob");
    let message = post(&mut world, "alice", &talk, "m", 1_000);
    world.answers_loads = false;
    world.advance_ms(1_100);
    world.space(true);
    world.answers_loads = true;
    world.advance_ms(3_000);
    assert_eq!(find(&mut world, message.id), None);
    world.space(false);
    world.advance_ms(1_600);
    assert_eq!(find(&mut world, message.id), Some(1));
}

#[test]
fn a_full_disk_holds_it_up_and_no_more() {
    let mut world = World::new(1);
    world.put_user("alice", "{}");
    world.put_user("bob", "{}");
    let talk = private("alice", "bob");
    let message = post(&mut world, "alice", &talk, "m", 1_000);
    world.space(true);
    let refused = ask(&mut world, "alice", &talk, "n", 1_000);
    assert_eq!(refused, Some(Answer::Refused(Refusal::TryAgain)));
    world.advance_ms(5_000);
    assert_eq!(find(&mut world, message.id), None);
    world.space(false);
    world.advance_ms(600);
    assert_eq!(find(&mut world, message.id), Some(1));
}

#[test]
fn more_than_memory_holds_come_in_order_of_time_for_each_conversation() {
    let mut world = World::new(1);
    for id in ["alice", "bob", "carol"] {
        world.put_user(id, "{}");
    }
    // Two conversations in turns, the latest first; twice what is held.
    let talks = [private("alice", "bob"), private("alice", "carol")];
    let count = 2 * DUE_HELD_MAX as u64;
    let mut ids = Vec::new();
    for n in (0..count).rev() {
        let talk = &talks[n as usize % 2];
        ids.push(post(&mut world, "alice", talk, "", 1_000 + n * 2).id);
    }
    ids.reverse();
    assert!(world.due() <= DUE_HELD_MAX + 1_024, "{}", world.due());
    let mut world = world.crash(1);
    assert!(world.due() <= DUE_HELD_MAX + 1_024, "{}", world.due());
    world.advance_ms(1_000 + count * 2 + 2_000);
    for (n, id) in ids.iter().enumerate().step_by(97) {
        assert_eq!(find(&mut world, *id), Some(1 + n as u64 / 2), "{n}");
    }
    assert_eq!(world.due(), 0);
    assert_eq!(post(&mut world, "alice", &talks[0], "end", 0).seq, count / 2 + 1);
}
