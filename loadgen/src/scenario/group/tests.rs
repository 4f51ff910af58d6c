//! Groups against a server in memory that can be told to misbehave.

use super::*;
use crate::args::DialectName;
use crate::dialect;
use crate::scenario::Stalled;
use crate::show::Show;
use ringpost_core::ws::frame::Role;
use ringpost_core::ws::message::{Event, Receiver};
use serde_json::{Value, json};

const MS: u64 = 1_000_000;
const TS: u64 = 1_700_000_000_000;

/// Two groups of four, two of whom send, and the server between them.
struct World {
    group: Group,
    out: Outbox,
    receivers: Vec<Receiver>,
    /// Answers and deliveries that have not left the server: to whom, what.
    queue: Vec<(u16, Value)>,
    acknowledged: u32,
    now_ns: u64,
}

impl World {
    fn new(in_flight: u32, rate: Option<u32>) -> World {
        World::with_stalled(in_flight, rate, 0)
    }

    /// The last members of each group do not read.
    fn with_stalled(in_flight: u32, rate: Option<u32>, stalled: u16) -> World {
        let settings = Settings {
            first_group: 3,
            groups: 2,
            all_groups: 2,
            members: 4,
            senders: 2,
            stalled,
            in_flight,
            payload: 256,
            rate,
        };
        let dialect = dialect::by_name(DialectName::Imboy);
        let mut world = World {
            group: Group::new(settings, Run::new(Some("u")), dialect),
            out: Outbox::new(8, 1, Show::default()),
            receivers: (0..8).map(|_| Receiver::new(Role::Server)).collect(),
            queue: Vec::new(),
            acknowledged: 0,
            now_ns: 0,
        };
        let times = Times { start_ns: 0, measured_ns: 0..1_000 * MS, deadline_ns: 2_000 * MS };
        world.group.start(&times, &mut world.out);
        world
    }

    /// The server reads everything that was sent, and queues what it has to say.
    fn serve(&mut self) {
        for conn in 0..8u16 {
            let mut bytes = self.out.take(conn, Vec::new());
            let mut at = 0;
            while let (consumed, Some(event)) =
                self.receivers[usize::from(conn)].step(&mut bytes[at..]).expect("valid frames")
            {
                at += consumed;
                let Event::Message { binary: false, bytes } = event else { panic!("text only") };
                let text = std::str::from_utf8(&bytes).expect("text").to_owned();
                self.queue_answers(conn, &text);
            }
        }
    }

    fn queue_answers(&mut self, conn: u16, text: &str) {
        if let Some(rest) = text.strip_prefix("CLIENT_ACK,C2G,") {
            let (_, device) = rest.split_once(',').expect("id and device");
            // The thread's first user has the number 3 groups × 4 members.
            assert_eq!(device, format!("loadgen-{}", 12 + conn));
            self.acknowledged += 1;
            return;
        }
        let frame: Value = serde_json::from_str(text).expect("JSON");
        let group = 3 + conn / 4;
        assert_eq!((&frame["type"], &frame["to"]), (&json!("C2G"), &json!(format!("ug{group}"))));
        self.queue
            .push((conn, json!({"id": frame["id"], "type": "C2G_SERVER_ACK", "server_ts": TS})));
        for to in (conn / 4 * 4..conn / 4 * 4 + 4).filter(|to| *to != conn) {
            self.queue.push((
                to,
                json!({"id": frame["id"], "type": "C2G", "from": format!("u{}", 12 + conn),
                       "to": frame["to"], "payload": frame["payload"], "created_at": TS,
                       "server_ts": TS}),
            ));
        }
    }

    /// The queued frames reach the clients that read.
    fn deliver(&mut self) {
        for (conn, frame) in std::mem::take(&mut self.queue) {
            if !self.group.reads(conn) {
                self.queue.push((conn, frame));
                continue;
            }
            self.group.on_text(conn, frame.to_string().as_bytes(), self.now_ns, &mut self.out);
        }
    }

    fn round(&mut self) {
        self.serve();
        self.deliver();
    }

    /// The deliveries to one connection that are queued.
    fn deliveries_to(&self, conn: u16) -> Vec<usize> {
        let of = |index: &usize| {
            let (to, frame) = &self.queue[*index];
            *to == conn && frame["type"] == "C2G"
        };
        (0..self.queue.len()).filter(of).collect()
    }

    /// Stops, serves everything that is left, and gives the result.
    fn finish(mut self) -> Outcome {
        self.group.stop(self.now_ns, &mut self.out);
        self.round();
        self.group.finish()
    }
}

fn found(outcome: &Outcome) -> Vec<(FaultKind, u64)> {
    let all = FaultKind::ALL.into_iter().map(|kind| (kind, outcome.faults.count(kind)));
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn every_member_gets_every_message_and_acknowledges_it() {
    let mut world = World::new(2, None);
    for round in 1..=10 {
        world.now_ns = round * MS;
        world.round();
    }
    world.serve();
    // Four senders, two in flight each, ten rounds, three receivers.
    assert_eq!(world.acknowledged, 4 * 2 * 10 * 3);
    world.group.stop(world.now_ns, &mut world.out);
    world.deliver();
    assert!(world.group.is_settled());
    let outcome = world.group.finish();
    assert_eq!(found(&outcome), []);
    assert_eq!((outcome.sent, outcome.receipts, outcome.deliveries), (88, 88, 264));
    assert_eq!((outcome.completed, outcome.measured_deliveries), (88, 264));
    assert_eq!((outcome.first.summary().count, outcome.last.summary().count), (88, 88));
}

/// Ten rounds in which the last member of each group does not read.
fn ten_rounds_without_two() -> World {
    let mut world = World::with_stalled(2, None, 1);
    for round in 1..=10 {
        world.now_ns = round * MS;
        world.round();
    }
    // Four senders, two in flight each, two others who read: nobody is held up.
    assert_eq!(world.group.outcome.completed, 4 * 2 * 10);
    assert_eq!(world.group.outcome.deliveries, 4 * 2 * 10 * 2);
    world.serve();
    world.deliver();
    world.group.stop(world.now_ns, &mut world.out);
    assert!(!world.group.is_settled(), "two have to catch up");
    world
}

#[test]
fn who_does_not_read_holds_nobody_up_and_gets_all_of_it_later() {
    let mut world = ten_rounds_without_two();
    // The server has sent the first one again meanwhile.
    let first = world.deliveries_to(3)[0];
    let again = world.queue[first].clone();
    world.queue.push(again);
    world.now_ns += 5 * MS;
    world.round();
    assert!(world.group.is_settled());
    let outcome = world.group.finish();
    assert_eq!(found(&outcome), []);
    let Stalled { pending, deliveries, repeats, catch_up } = &outcome.stalled;
    assert_eq!((*pending, *deliveries, *repeats), (96, 96, 1));
    assert_eq!((catch_up.summary().count, outcome.sent), (2, 96));
    assert_eq!(outcome.deliveries, 192, "the others'");
}

#[test]
fn what_who_did_not_read_never_gets_is_lost() {
    let mut world = ten_rounds_without_two();
    let second = world.deliveries_to(3)[1];
    world.queue.remove(second);
    world.round();
    assert!(!world.group.is_settled());
    assert_eq!(found(&world.group.finish()), [(FaultKind::Lost, 1)]);
    // A change of order is no repeat.
    let mut world = ten_rounds_without_two();
    let all = world.deliveries_to(7);
    let last = *all.last().expect("some");
    let number = |at: usize| world.queue[at].1["id"].clone();
    let (from, id) = (world.queue[last].1["from"].clone(), number(last));
    let before =
        all.iter().rev().find(|at| world.queue[**at].1["from"] == from && number(**at) != id);
    let before = *before.expect("each sends more than one");
    world.queue.swap(before, last);
    world.round();
    assert_eq!(found(&world.group.finish()), [(FaultKind::Reordered, 1)]);
}

#[test]
fn the_last_receiver_closes_a_message_and_the_first_is_told_apart() {
    let mut world = World::new(1, None);
    world.serve();
    world.group.stop(0, &mut world.out);
    let of = world.deliveries_to(3);
    let (late, prompt) = std::mem::take(&mut world.queue)
        .into_iter()
        .enumerate()
        .partition::<Vec<_>, _>(|(index, _)| of.contains(index));
    let frames = |part: Vec<(usize, _)>| part.into_iter().map(|(_, frame)| frame).collect();
    world.queue = frames(prompt);
    world.now_ns = MS;
    world.deliver();
    assert!(!world.group.is_settled(), "a member has not got it");
    world.now_ns = 5 * MS;
    world.queue = frames(late);
    world.deliver();
    let outcome = world.finish();
    assert_eq!(found(&outcome), []);
    assert!(
        (outcome.first.summary().max_us - 1_000.0).abs() < 2.0,
        "{:?}",
        outcome.first.summary()
    );
    assert!((outcome.last.summary().max_us - 5_000.0).abs() < 10.0, "{:?}", outcome.last.summary());
}

#[test]
fn a_lost_delivery_is_found_at_its_receiver() {
    let mut world = World::new(4, None);
    world.serve();
    let index = world.deliveries_to(7)[1];
    world.queue.remove(index);
    world.deliver();
    let outcome = world.finish();
    assert_eq!(found(&outcome), [(FaultKind::Lost, 1)]);
    assert_eq!(outcome.faults.examples()[0].1, "u16 in ug4 #2, to 1 of 3 members");
}

#[test]
fn duplicates_and_changes_of_order_are_found() {
    let mut world = World::new(4, None);
    world.serve();
    let index = world.deliveries_to(2)[0];
    let again = world.queue[index].clone();
    world.queue.push(again);
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::Duplicate, 1)]);

    let mut world = World::new(4, None);
    world.serve();
    let of = world.deliveries_to(2);
    world.queue.swap(of[1], of[2]);
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::Reordered, 1)]);
}

#[test]
fn a_missing_receipt_a_refusal_and_a_stranger_are_found() {
    let mut world = World::new(1, None);
    world.serve();
    world.queue.remove(0);
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::NoReceipt, 1)]);

    let mut world = World::new(1, None);
    world.serve();
    let refused = world.queue[0].1["id"].clone();
    world.queue.retain(|(_, frame)| frame["id"] != refused);
    let error = json!({"type": "error", "code": 3, "id": refused, "payload": {"content": "no"},
                       "server_ts": TS});
    world.queue.push((0, error));
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::Refused, 1)]);

    let mut world = World::new(1, None);
    world.serve();
    let index = world.deliveries_to(3)[0];
    // A member of the other group gets it.
    world.queue[index].0 = 7;
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::Lost, 1), (FaultKind::Misrouted, 1)]);
}

#[test]
fn other_content_and_other_names_are_found() {
    for (field, value) in [
        ("payload", json!({"msg_type": "text", "text": "something else"})),
        ("from", json!("u13")),
        ("to", json!("u15")),
        ("type", json!("C2C")),
    ] {
        let mut world = World::new(1, None);
        world.serve();
        let index = world.deliveries_to(3)[0];
        world.queue[index].1[field] = value;
        // What is acknowledged as a private message is not counted here.
        world.group.on_text(3, world.queue[index].1.to_string().as_bytes(), 0, &mut world.out);
        assert_eq!(found(&world.group.outcome), [(FaultKind::Damaged, 1)], "{field}");
    }
}

#[test]
fn an_open_loop_shares_its_rate_among_all_senders() {
    let mut world = World::new(4, Some(1_000));
    // The other thread's groups have the first six senders of ten.
    world.group.settings.all_groups = 5;
    let times = Times { start_ns: 0, measured_ns: 0..100 * MS, deadline_ns: 200 * MS };
    world.group.start(&times, &mut world.out);
    for ms in 0..100 {
        world.now_ns = ms * MS;
        world.group.on_time(world.now_ns, &mut world.out);
        world.round();
    }
    let outcome = world.finish();
    assert_eq!((outcome.sent, outcome.unsent), (40, 0));
    assert_eq!(found(&outcome), []);
}
