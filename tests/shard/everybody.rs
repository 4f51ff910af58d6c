//! Notices to everybody: who gets them and who does not, in which order, and what is left after a
//! crash.

use ringpost_core::command::NoticeOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Load, Loaded, Operation, Stored};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{ConnId, Conversation, UserId};
use ringpost_core::limits;
use ringpost_storage::Log;
use serde_json::{Value, json};

use super::world::World;
use super::xid;

/// On different shards of two, and of three.
const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

fn notice(id: &str, kind: &str, bytes: usize) -> Box<NoticeOperation> {
    let content = json!("x".repeat(bytes)).to_string();
    let (stream, title) = (String::new(), String::new());
    let mut encoded = Vec::new();
    Happened::Noticed { stream, kind: kind.to_owned(), title, content, data: None }
        .encode(&mut encoded);
    Box::new(NoticeOperation { id: id.into(), content: encoded.into() })
}

/// Sends a notice of this kind to everybody.
fn tell(world: &mut World, kind: &str) -> Stored {
    tell_as(world, "", kind)
}

fn tell_as(world: &mut World, id: &str, kind: &str) -> Stored {
    match world.ask(Operation::NoticeToAll { notice: notice(id, kind, 1) }) {
        Some(Answer::Stored(stored)) => stored,
        other => panic!("{other:?}"),
    }
}

/// The kinds of what came, in order, acknowledged where `acks`; texts of private messages.
fn got(world: &mut World, conn: ConnId, did: &str, acks: bool) -> Vec<String> {
    let mut got = Vec::new();
    loop {
        let frames = world.take(conn);
        if frames.is_empty() {
            return got;
        }
        for frame in frames {
            let said = match frame["type"].as_str() {
                Some("S2C") => &frame["payload"]["msg_type"],
                Some("C2C" | "C2G") => &frame["payload"],
                _ => continue,
            };
            let said = said.as_str().expect("a text").to_owned();
            if said == "logged_another_device" || said == "online" {
                continue;
            }
            got.push(said);
            if acks {
                world.ack_frame(conn, &frame, did);
            }
        }
    }
}

/// What a device that connects gets in the time of a few pauses.
fn comes(world: &mut World, id: &str, did: &str) -> (ConnId, Vec<String>) {
    let conn = world.connect(id, did);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.extend(got(world, conn, did, true));
        world.advance_ms(110);
    }
    (conn, all)
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn everybody_gets_it_and_nobody_who_comes_later() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let conns = NAMES.map(|id| world.connect(id, "d"));
        world.put_user("erin", "{}");
        world.commits = false;
        let home = usize::from(Conversation::Broadcast.slot().shard(shards).0);
        assert_eq!(world.ask(Operation::NoticeToAll { notice: notice("", "sale", 1) }), None);
        for conn in conns {
            assert_eq!(world.take(conn), Vec::<Value>::new(), "not durable");
        }
        assert!(world.commit(home));
        world.commits = true;
        world.settle();
        for (name, conn) in NAMES.into_iter().zip(conns) {
            let frames = world.take(conn);
            assert_eq!(frames.len(), 1, "{name}: {frames:?}");
            let frame = &frames[0];
            assert_eq!((&frame["type"], &frame["from"]), (&"S2C".into(), &"".into()));
            assert_eq!(frame["to"], name, "as it is told to each");
            assert_eq!(frame["payload"], json!({"msg_type": "sale", "content": "x"}));
            world.ack_frame(conn, frame, "d");
        }
        // Who was away gets it when he comes; who is made now does not, however he is made.
        world.put_user("frank", "{}");
        for id in ["frank", "grace"] {
            assert_eq!(comes(&mut world, id, "d").1, none(), "{id} was not there");
        }
        assert_eq!(comes(&mut world, "erin", "d").1, ["sale"]);
        world.advance_ms(3_000_000);
        for (name, conn) in NAMES.into_iter().zip(conns) {
            assert_eq!(world.take(conn), Vec::<Value>::new(), "{name} has acknowledged it");
        }
        // And the next one is for them, too, on a process with another number of shards.
        let mut world = world.crash(4 - shards);
        for id in NAMES.into_iter().chain(["erin", "frank", "grace", "new"]) {
            assert_eq!(comes(&mut world, id, "d").1, none(), "{id}");
        }
        let mut world = world.crash(shards);
        world.put_user("last", "{}");
        tell(&mut world, "more");
        for id in NAMES.into_iter().chain(["erin", "frank", "grace", "new", "last"]) {
            assert_eq!(comes(&mut world, id, "d").1, ["more"], "{id}");
        }
    }
}

#[test]
fn it_is_offered_until_it_is_acknowledged_on_each_device() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let [phone, tablet] = ["phone", "tablet"].map(|did| world.connect("bob", did));
        tell(&mut world, "one");
        assert_eq!(got(&mut world, phone, "phone", true), ["one"]);
        assert_eq!(got(&mut world, tablet, "tablet", false), ["one"]);
        // Sent again after 1,000 and 2,000 seconds.
        world.advance_ms(1_000_100);
        assert_eq!(got(&mut world, phone, "phone", true), none());
        assert_eq!(got(&mut world, tablet, "tablet", false), ["one"]);
        world.advance_ms(1_000_000);
        assert_eq!(got(&mut world, tablet, "tablet", false), ["one"]);
        world.say(tablet, "check_offline_msg");
        assert_eq!(got(&mut world, tablet, "tablet", false), ["one"]);
        tell(&mut world, "two");
        for crash in [false, true] {
            if crash {
                world = world.crash(3 - shards);
            } else {
                world.disconnect(tablet);
                world.advance_ms(20);
            }
            let tablet = world.connect("bob", "tablet");
            world.advance_ms(300);
            assert_eq!(got(&mut world, tablet, "tablet", false), ["one", "two"], "{crash}");
        }
        // A device that was never there starts where the furthest of the others is.
        assert_eq!(comes(&mut world, "bob", "phone").1, ["two"]);
        world.advance_ms(2_000);
        assert_eq!(comes(&mut world, "bob", "watch").1, none());
        let mut world = world.crash(shards);
        assert_eq!(comes(&mut world, "bob", "watch").1, none());
        assert_eq!(comes(&mut world, "bob", "desk").1, none(), "nobody is connected now");
        tell(&mut world, "three");
        assert_eq!(comes(&mut world, "bob", "watch").1, ["three"]);
        assert_eq!(comes(&mut world, "bob", "tablet").1, ["one", "two", "three"]);
    }
}

#[test]
fn under_its_id_it_is_stored_once() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let bob = world.connect("bob", "b");
        let first = tell_as(&mut world, "n1", "sale");
        assert_eq!(tell_as(&mut world, "n1", "sale"), first);
        assert_eq!(got(&mut world, bob, "b", true), ["sale"]);
        world.advance_ms(limits::CURSOR_FLUSH_MS);
        let mut world = world.crash(3 - shards);
        assert_eq!(tell_as(&mut world, "n1", "sale"), first, "also after a crash");
        // Both may be under way; a personal notice of that id is another one.
        world.commits = false;
        for _ in 0..2 {
            let again = Operation::NoticeToAll { notice: notice("n2", "more", 1) };
            assert_eq!(world.ask(again), None);
        }
        world.commits = true;
        world.settle();
        let second = tell_as(&mut world, "n2", "more");
        assert_eq!(second.seq, first.seq + 1);
        let own = Operation::Notice { user: user("bob"), notice: notice("n2", "own", 1) };
        assert!(matches!(world.ask(own), Some(Answer::Stored(stored)) if stored.seq == 1));
        assert_eq!(comes(&mut world, "bob", "b").1, ["more", "own"]);
        // Its own id is kept with it.
        let Some(Answer::Found(Some((name, page)))) = world.ask(Operation::Find { id: first.id })
        else {
            panic!("not found")
        };
        assert_eq!((name.canonical(), name), ("notice:*".to_owned(), Conversation::Broadcast));
        assert_eq!(page.get(0).expect("a record").client_id, "n1");
        world.space(true);
        let full = Operation::NoticeToAll { notice: notice("", "more", 1) };
        assert_eq!(world.ask(full), Some(Answer::Refused(Refusal::TryAgain)));
    }
}

/// The answer says that whoever is made from now on will not get it: it waits for every shard.
#[test]
fn who_is_made_after_the_answer_does_not_get_it() {
    let mut world = World::new(2);
    let home = usize::from(Conversation::Broadcast.slot().shard(2).0);
    let away = |n: usize| format!("u{n}");
    let away = (0..).map(away).find(|id| world.home(id) != home).expect("there is one");
    world.carries = false;
    let asked = Operation::NoticeToAll { notice: notice("n", "sale", 1) };
    assert_eq!(world.ask(asked), None, "the other shard has not heard of it");
    // A user of that shard is made meanwhile: it cannot know of the notice, and is not answered
    // for.
    world.put_user(&away, "{}");
    world.carries = true;
    world.settle();
    let stored = tell_as(&mut world, "n", "sale");
    assert_eq!(stored.seq, 1);
    assert_eq!(comes(&mut world, &away, "d").1, ["sale"], "at the same time: before him");
    // With the link to that shard full the news come later, and so does the answer.
    let to = world.connect(&away, "d");
    world.take(to);
    let from = NAMES.into_iter().find(|id| world.home(id) == home).expect("there is one");
    let from = world.connect(from, "d");
    world.carries = false;
    for n in 0..limits::LINK_DELIVERIES_MAX as u32 + 2 {
        world.send(from, &xid(n), &away, "x");
    }
    let late = Operation::NoticeToAll { notice: notice("late", "late", 1) };
    assert_eq!(world.ask(late), None);
    let made = (0..).map(|n| format!("v{n}")).find(|id| world.home(id) != home);
    let made = made.expect("there is one");
    world.carries = true;
    world.settle();
    tell_as(&mut world, "late", "late");
    world.put_user(&made, "{}");
    assert_eq!(comes(&mut world, &made, "d").1, none());
}

#[test]
fn nobody_is_served_before_the_head_is_known() {
    let mut world = World::new(2);
    world.put_user("bob", "{}");
    tell(&mut world, "sale");
    let home = usize::from(Conversation::Broadcast.slot().shard(2).0);
    let away = |n: usize| format!("u{n}");
    let away = (0..).map(away).find(|id| world.home(id) != home).expect("there is one");
    let mut world = world.crash_deaf(2);
    let conn = world.connect(&away, "d");
    let put = Operation::PutUser { user: user(&away), profile: "{}".into() };
    assert_eq!(world.ask(put), None, "it waits");
    assert!(!world.clients[&conn].upgraded);
    let gone = world.connect(&away, "other");
    world.disconnect(gone);
    world.carries = true;
    world.settle();
    assert!(world.clients[&conn].upgraded);
    world.advance_ms(500);
    assert_eq!(got(&mut world, conn, "d", true), none(), "he is made after it");
    tell(&mut world, "more");
    assert_eq!(got(&mut world, conn, "d", true), ["more"]);
}

/// Whatever the process dies behind: what was answered or shown is in the log, is recognised, and is
/// offered to whoever was a user, and to nobody else.
#[test]
fn after_a_crash_at_any_point_nothing_is_lost() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let mut seen = Seen::default();
        world.commits = false;
        let bob = world.connect("bob", "b");
        seen.checked_at_each_commit(&mut world);
        assert!(world.ask(Operation::NoticeToAll { notice: notice("n", "sale", 1) }).is_none());
        seen.checked_at_each_commit(&mut world);
        let Some(Answer::Stored(stored)) = world.answer() else { panic!("not answered") };
        seen.answered = Some(stored);
        assert_eq!(got(&mut world, bob, "b", true), ["sale"]);
        seen.acknowledged = true;
        let put = Operation::PutUser { user: user("frank"), profile: "{}".into() };
        assert!(world.ask(put).is_none());
        seen.checked_at_each_commit(&mut world);
        world.disconnect(bob);
        seen.checked_at_each_commit(&mut world);
        seen.written = true;
        seen.check(&world);
        assert!(seen.crashes > 5, "{}", seen.crashes);
    }
}

/// What clients and the back end have been told.
#[derive(Default)]
struct Seen {
    answered: Option<Stored>,
    acknowledged: bool,
    /// The acknowledgement is durable.
    written: bool,
    crashes: usize,
}

impl Seen {
    fn checked_at_each_commit(&mut self, world: &mut World) {
        self.check(world);
        while (0..usize::from(world.shards())).any(|shard| world.commit(shard)) {
            world.settle();
            if let Some(conn) = world.clients.keys().next().copied() {
                let frames = &world.clients[&conn].frames;
                let stored = |world: &World| head(world) == 1;
                assert!(frames.is_empty() || stored(world), "shown before it is durable");
            }
            self.check(world);
        }
    }

    /// The process dies now.
    fn check(&mut self, world: &World) {
        self.crashes += 1;
        let image = world.log.crash_image(world.log.durable());
        let mut after = World::on(image, 3 - world.shards(), world.now);
        let (head, known) = (head(&after), began(&after, "bob").is_some());
        assert!(head == 1 || self.answered.is_none(), "answered and lost");
        if let Some(frank) = began(&after, "frank") {
            assert_eq!(frank, 1, "made after the answer");
            assert_eq!(comes(&mut after, "frank", "f").1, none());
        }
        let got = comes(&mut after, "bob", "b").1;
        let offered = head == 1 && known && !self.written;
        let again = self.acknowledged && got.is_empty();
        assert!(again || got == if offered { vec!["sale"] } else { vec![] }, "{got:?}");
        let stored = tell_as(&mut after, "n", "sale");
        assert_eq!(stored.seq, 1, "also when it was lost");
        assert!(self.answered.is_none_or(|first| first == stored), "recognised");
        assert_eq!(tell_as(&mut after, "", "next").seq, 2);
    }
}

fn head(world: &World) -> u64 {
    let key = Conversation::Broadcast.key(world.secret());
    match world.log.load(&Load::Conversation { key, expected: None }) {
        Ok(Loaded::Conversation(loaded)) => loaded.head,
        other => panic!("{other:?}"),
    }
}

/// Where a user begins, if there is such a user.
fn began(world: &World, id: &str) -> Option<u64> {
    match world.log.load(&Load::User { user: user(id) }) {
        Ok(Loaded::User(loaded)) => loaded.row.map(|row| row.began),
        other => panic!("{other:?}"),
    }
}

#[test]
fn it_comes_first_at_connect_and_in_order() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        world.put_user("bob", "{}");
        let alice = world.connect("alice", "a");
        world.send(alice, &xid(1), "bob", "private");
        for n in 0..3 {
            tell(&mut world, &format!("all {n}"));
            let own = notice("", &format!("own {n}"), 1);
            world.ask(Operation::Notice { user: user("bob"), notice: own });
        }
        world.send(alice, &xid(2), "bob", "private 2");
        let (bob, mut all) = comes(&mut world, "bob", "b");
        for _ in 0..8 {
            world.advance_ms(110);
            all.extend(got(&mut world, bob, "b", true));
        }
        assert_eq!(all.split_off(6), ["private", "private 2"]);
        for kind in ["all", "own"] {
            let of: Vec<&String> = all.iter().filter(|text| text.starts_with(kind)).collect();
            assert_eq!(of, [0, 1, 2].map(|n| format!("{kind} {n}")).each_ref(), "{all:?}");
        }
        // Unacknowledged ones are paced.
        let (carol, dave) = ("carol", "dave");
        world.put_user(carol, "{}");
        world.put_user(dave, "{}");
        tell(&mut world, "one");
        tell(&mut world, "two");
        let carol = world.connect(carol, "c");
        assert_eq!(got(&mut world, carol, "c", false), ["one"]);
        world.advance_ms(110);
        assert_eq!(got(&mut world, carol, "c", false), ["two"]);
        // What comes while the first ones are pushed comes behind them.
        let dave = world.connect(dave, "d");
        tell(&mut world, "three");
        assert_eq!(got(&mut world, dave, "d", false), ["one"]);
        world.advance_ms(300);
        assert_eq!(got(&mut world, dave, "d", true), ["two", "three"]);
    }
}

#[test]
fn who_does_not_read_costs_a_window_and_gets_everything_later() {
    let mut world = World::new(2);
    let (bob, carol) = (world.connect("bob", "b"), world.connect("carol", "c"));
    let count = 2 * limits::WINDOW_MESSAGES as usize;
    let kind = |n: usize| n.to_string();
    for n in 0..count {
        tell(&mut world, &kind(n));
        assert_eq!(got(&mut world, carol, "c", true), [kind(n)]);
    }
    let first = world.take(bob);
    assert!(first.len() <= limits::WINDOW_MESSAGES as usize, "{}", first.len());
    let mut all = Vec::new();
    for frame in &first {
        all.push(frame["payload"]["msg_type"].as_str().expect("a text").to_owned());
        world.ack_frame(bob, frame, "b");
    }
    while all.len() < count {
        world.advance_ms(limits::PULL_DELAY_MS + 10);
        let more = got(&mut world, bob, "b", true);
        assert!(!more.is_empty(), "after {}", all.len());
        all.extend(more);
    }
    let expected: Vec<String> = (0..count).map(kind).collect();
    assert_eq!(all, expected);
    world.advance_ms(2_000);
    let mut world = world.crash(1);
    for (id, did) in [("bob", "b"), ("carol", "c")] {
        assert_eq!(comes(&mut world, id, did).1, none(), "{id}");
    }
}

/// A connect reads nothing about notices to everybody that its user began behind, and nothing is
/// written for who has not got one.
#[test]
fn it_costs_nothing_where_there_is_none() {
    let mut world = World::new(2);
    let asks = |world: &mut World, id: &str| {
        let key = Conversation::Broadcast.key(world.secret());
        world.asked = Some(Vec::new());
        let conn = world.connect(id, "d");
        world.disconnect(conn);
        world.advance_ms(0);
        let asked = world.asked.take().expect("put above");
        let of_all = |load: &Load| match load {
            Load::Cursors { conversation, .. } | Load::Page { conversation, .. } => {
                *conversation == key
            }
            _ => false,
        };
        asked.iter().filter(|load| of_all(load)).count()
    };
    world.put_user("bob", "{}");
    assert_eq!(asks(&mut world, "bob"), 0, "there was none");
    tell(&mut world, "sale");
    assert_eq!(asks(&mut world, "carol"), 0, "it was before her");
    assert_eq!(asks(&mut world, "carol"), 0);
    assert_eq!(asks(&mut world, "bob"), 2, "where he stands, and what it is");
    assert_eq!(comes(&mut world, "bob", "d").1, ["sale"]);
    assert_eq!(asks(&mut world, "bob"), 1, "where he stands");
    let load =
        |id: &str| Load::Cursors { user: user(id), conversation: Conversation::Broadcast.key(7) };
    for (id, rows) in [("bob", 1), ("carol", 0)] {
        let Ok(Loaded::Cursors(cursors)) = world.log.load(&load(id)) else { panic!() };
        assert_eq!(cursors.len(), rows, "{id}");
    }
}

/// A turn makes no more than its share of frames, however many want it and however long it is.
#[test]
fn a_pass_is_made_in_slices() {
    for (users, bytes) in [(3_000, 100), (200, limits::NOTICE_BYTES_MAX - 2)] {
        let mut world = World::new(1);
        let conns: Vec<ConnId> = (0..users).map(|n| world.connect(&format!("u{n}"), "d")).collect();
        world.most_written = 0;
        let asked = Operation::NoticeToAll { notice: notice("", "sale", bytes) };
        assert!(matches!(world.ask(asked), Some(Answer::Stored(_))));
        for conn in conns {
            assert_eq!(world.take(conn).len(), 1);
        }
        let most =
            limits::FANOUT_TURN_BUDGET * limits::FANOUT_SEAT_BYTES + limits::NOTICE_BYTES_MAX;
        assert!(world.most_written <= 2 * most, "{} bytes in a turn", world.most_written);
        let frame = bytes + 200;
        assert!(
            world.most_written <= limits::FANOUT_TURN_BUDGET * frame,
            "{} bytes in a turn",
            world.most_written
        );
    }
}

/// Who comes and goes while a pass is under way gets everything once, whether it has been at his seat
/// or not, and whoever sat there before him.
#[test]
fn who_comes_while_a_pass_is_under_way_misses_nothing() {
    let mut world = World::new(1);
    let name = |n: usize| format!("u{n}");
    let mut conns: Vec<ConnId> = (0..2_000).map(|n| world.connect(&name(n), "d")).collect();
    // Two have gone for so long that their seats are free.
    let gone = [30, 1_700];
    gone.iter().for_each(|at| world.disconnect(conns[*at]));
    world.advance_ms(limits::OFFLINE_MS + 100);
    world.passes = false;
    tell(&mut world, "one");
    world.advance_ms(0);
    let visited = conns.iter().filter(|conn| !world.clients[*conn].frames.is_empty()).count();
    assert_eq!(visited, limits::FANOUT_TURN_BUDGET - 1, "one free seat is among them");
    // In front of the pass and behind it: one comes again, one has another device, and one is new.
    for at in [10, 1_500] {
        world.disconnect(conns[at]);
        conns[at] = world.connect(&name(at), "d");
    }
    let others = [20, 1_600].map(|at| world.connect(&name(at), "other"));
    let new = ["new", "newer"].map(|id| world.connect(id, "d"));
    world.passes = true;
    world.settle();
    let conns: Vec<ConnId> = conns
        .into_iter()
        .enumerate()
        .filter(|(n, _)| !gone.contains(n))
        .map(|(_, conn)| conn)
        .collect();
    for conn in &conns {
        assert_eq!(got(&mut world, *conn, "d", true), ["one"]);
    }
    for conn in others {
        assert_eq!(got(&mut world, conn, "other", true), ["one"]);
    }
    tell(&mut world, "two");
    for conn in conns.into_iter().chain(new) {
        assert_eq!(got(&mut world, conn, "d", true), ["two"]);
    }
    for n in gone {
        assert_eq!(comes(&mut world, &name(n), "d").1, ["one", "two"]);
    }
}

/// What comes while a device is finding out what there is for it comes behind what it finds.
#[test]
fn what_comes_between_the_loads_of_a_connect_is_not_missed() {
    for shards in [1, 2] {
        for (id, did) in [("bob", "b"), ("bob", "new"), ("carol", "c")] {
            for loads in 0..8 {
                let mut world = World::new(shards);
                world.put_user("bob", "{}");
                let bob = world.connect("bob", "b");
                tell(&mut world, "zero");
                assert_eq!(got(&mut world, bob, "b", true), ["zero"]);
                world.disconnect(bob);
                tell(&mut world, "one");
                world.put_user("carol", "{}");
                world.advance_ms(limits::OFFLINE_MS + 100);
                let home = world.home(id);
                world.answers_loads = false;
                let conn = world.connect(id, did);
                for _ in 0..loads {
                    world.answer_load(home);
                    world.settle();
                }
                tell(&mut world, "two");
                tell(&mut world, "three");
                world.answers_loads = true;
                world.settle();
                let mut all = got(&mut world, conn, did, true);
                for _ in 0..4 {
                    world.advance_ms(110);
                    all.extend(got(&mut world, conn, did, true));
                }
                let mut expected = vec!["one", "two", "three"];
                if id == "carol" {
                    expected.remove(0);
                }
                assert_eq!(all, expected, "{id} {did}, behind {loads} loads");
            }
        }
    }
}

/// Users come, go and are made while notices are under way, links are slow and the process crashes:
/// everybody sees what came after he was made, in order, without a hole.
#[test]
fn random_histories_of_everybody() {
    for seed in 0..80 {
        history(seed);
    }
}

/// What the model knows of a user: the notices answered before he was asked for, those asked for
/// before he was answered, and how many he has seen.
#[derive(Clone, Copy)]
struct Model {
    least: usize,
    most: usize,
    first: Option<usize>,
    seen: usize,
    conn: Option<ConnId>,
}

fn history(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut world = World::new(1 + (seed % 3) as u16);
    let mut users: Vec<Model> = Vec::new();
    let mut told = 0;
    for _ in 0..120 {
        match random(10) {
            0 | 1 => {
                tell(&mut world, &told.to_string());
                told += 1;
            }
            2 if users.len() < 8 => {
                let conn = world.connect(&format!("u{}", users.len()), "d");
                users.push(Model {
                    least: told,
                    most: told,
                    first: None,
                    seen: told,
                    conn: Some(conn),
                });
            }
            3..=5 if !users.is_empty() => {
                let at = random(users.len() as u64) as usize;
                match users[at].conn.take() {
                    Some(conn) => world.disconnect(conn),
                    None => users[at].conn = Some(world.connect(&format!("u{at}"), "d")),
                }
            }
            6 if random(4) == 0 => {
                users.iter_mut().for_each(|user| user.conn = None);
                world = world.crash(1 + random(3) as u16);
            }
            7 => {
                // One notice is on its way while somebody comes or goes.
                world.carries = false;
                world.ask(Operation::NoticeToAll { notice: notice("", &told.to_string(), 1) });
                told += 1;
                if let Some(user) = users.first_mut() {
                    match user.conn.take() {
                        Some(conn) => world.disconnect(conn),
                        None => user.conn = Some(world.connect("u0", "d")),
                    }
                }
                world.carries = true;
                world.settle();
            }
            _ => world.advance_ms(random(400)),
        }
        for user in &mut users {
            read(&mut world, user);
        }
    }
    for (at, user) in users.iter_mut().enumerate() {
        user.conn.get_or_insert_with(|| world.connect(&format!("u{at}"), "d"));
        for _ in 0..told + 4 {
            read(&mut world, user);
            world.advance_ms(110);
        }
        assert_eq!(user.seen, told, "seed {seed}: u{at} misses something");
    }
}

/// What is new is the next one, what is not new he has had; nothing is from before him.
fn read(world: &mut World, user: &mut Model) {
    let Some(conn) = user.conn else { return };
    for frame in world.take(conn) {
        let Some(kind) = frame["payload"]["msg_type"].as_str() else { continue };
        let at: usize = kind.parse().expect("a number");
        let first = *user.first.get_or_insert(at);
        assert!((user.least..=user.most).contains(&first), "{at} is from before him");
        assert!(at <= user.seen, "{at} comes before {}", user.seen);
        user.seen = user.seen.max(at + 1);
        world.ack_frame(conn, &frame, "d");
    }
}
