//! Pairs against a server in memory that can be told to misbehave.

use super::*;
use crate::args::DialectName;
use crate::dialect;
use crate::show::Show;
use ringpost_core::ws::frame::Role;
use ringpost_core::ws::message::{Event, Receiver};
use serde_json::{Value, json};

const MS: u64 = 1_000_000;

/// Two users and the server between them. Frames travel when the test says so.
struct World {
    pairs: Private,
    out: Outbox,
    receivers: [Receiver; 2],
    /// Answers and deliveries that have not left the server: to whom, what.
    queue: Vec<(u16, Value)>,
    /// Acknowledgements that came, by user.
    acknowledged: [Vec<String>; 2],
    now_ns: u64,
}

impl World {
    fn new(in_flight: [u32; 2], rate: Option<u32>) -> World {
        let settings =
            Settings { first_user: 0, users: 2, in_flight, payload: 256, rate, all_users: 2 };
        let dialect = dialect::by_name(DialectName::Imboy);
        let mut world = World {
            pairs: Private::new(settings, Run::new(Some("u")), dialect),
            out: Outbox::new(2, 1, Show::default()),
            receivers: [Receiver::new(Role::Server), Receiver::new(Role::Server)],
            queue: Vec::new(),
            acknowledged: [Vec::new(), Vec::new()],
            now_ns: 0,
        };
        let times = Times { start_ns: 0, measured_ns: 0..1_000 * MS, deadline_ns: 2_000 * MS };
        world.pairs.start(&times, &mut world.out);
        world
    }

    /// The server reads everything that was sent, and queues what it has to say.
    fn serve(&mut self) {
        for conn in 0..2u16 {
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
        if let Some(rest) = text.strip_prefix("CLIENT_ACK,C2C,") {
            let (id, device) = rest.split_once(',').expect("id and device");
            assert_eq!(device, format!("loadgen-{conn}"));
            return self.acknowledged[usize::from(conn)].push(id.to_owned());
        }
        let frame: Value = serde_json::from_str(text).expect("JSON");
        let to = conn ^ 1;
        assert_eq!((&frame["type"], &frame["to"]), (&json!("C2C"), &json!(format!("u{to}"))));
        let ts = 1_700_000_000_000u64;
        self.queue
            .push((conn, json!({"id": frame["id"], "type": "C2C_SERVER_ACK", "server_ts": ts})));
        self.queue.push((
            to,
            json!({"id": frame["id"], "type": "C2C", "from": format!("u{conn}"), "to": frame["to"],
                   "payload": frame["payload"], "created_at": ts, "server_ts": ts}),
        ));
    }

    /// The queued frames reach the clients.
    fn deliver(&mut self) {
        for (conn, frame) in std::mem::take(&mut self.queue) {
            self.pairs.on_text(conn, frame.to_string().as_bytes(), self.now_ns, &mut self.out);
        }
    }

    fn round(&mut self) {
        self.serve();
        self.deliver();
    }

    /// Stops, serves everything that is left, and gives the result.
    fn finish(mut self) -> Outcome {
        self.pairs.stop(self.now_ns, &mut self.out);
        self.round();
        assert!(self.pairs.is_settled());
        self.end()
    }

    fn end(self) -> Outcome {
        self.pairs.finish()
    }

    fn is_delivery((_, frame): &(u16, Value)) -> bool {
        frame["type"] == "C2C"
    }
}

fn found(outcome: &Outcome) -> Vec<(FaultKind, u64)> {
    let all = FaultKind::ALL.into_iter().map(|kind| (kind, outcome.faults.count(kind)));
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn each_direction_keeps_to_its_limit_and_every_delivery_is_acknowledged() {
    let mut world = World::new([3, 1], None);
    for round in 1..=10 {
        world.now_ns = round * MS;
        world.round();
    }
    let acknowledged: Vec<usize> = world.acknowledged.iter().map(Vec::len).collect();
    // Acknowledgements of the tenth round have not been read yet.
    assert_eq!(acknowledged, [9, 27]);
    let outcome = world.finish();
    assert_eq!(found(&outcome), []);
    assert_eq!((outcome.sent, outcome.receipts, outcome.deliveries), (44, 44, 44));
    assert_eq!(outcome.completed, 44);
    let summary = outcome.delivery.summary();
    assert_eq!(summary.count, 44);
    assert!((summary.p50_us - 1_000.0).abs() < 2.0, "each round took a millisecond: {summary:?}");
}

#[test]
fn a_direction_without_a_limit_is_silent() {
    let mut world = World::new([1, 0], None);
    world.round();
    let outcome = world.finish();
    assert_eq!((outcome.sent, found(&outcome)), (2, vec![]));
}

#[test]
fn a_lost_delivery_is_found() {
    let mut world = World::new([4, 4], None);
    world.serve();
    let index = world.queue.iter().position(World::is_delivery).expect("there is one");
    world.queue.remove(index);
    world.deliver();
    world.pairs.stop(0, &mut world.out);
    world.round();
    assert!(!world.pairs.is_settled(), "the drain waits for it");
    let outcome = world.end();
    assert_eq!(found(&outcome), [(FaultKind::Lost, 1)]);
    assert_eq!(outcome.faults.examples()[0].1, "u0 -> u1 #1");
}

#[test]
fn a_lost_receipt_is_found() {
    let mut world = World::new([4, 4], None);
    world.serve();
    world.queue.remove(0);
    world.deliver();
    world.pairs.stop(0, &mut world.out);
    world.round();
    assert_eq!(found(&world.end()), [(FaultKind::NoReceipt, 1)]);
}

#[test]
fn a_duplicate_is_found_and_acknowledged() {
    let mut world = World::new([4, 4], None);
    world.serve();
    let delivery = world.queue.iter().find(|item| World::is_delivery(item)).cloned();
    world.queue.push(delivery.expect("there is one"));
    world.deliver();
    world.serve();
    assert_eq!(world.acknowledged.iter().map(Vec::len).sum::<usize>(), 9);
    assert_eq!(found(&world.finish()), [(FaultKind::Duplicate, 1)]);
}

#[test]
fn a_change_of_order_is_found() {
    let mut world = World::new([4, 4], None);
    world.serve();
    let deliveries: Vec<usize> = (0..world.queue.len())
        .filter(|&index| World::is_delivery(&world.queue[index]) && world.queue[index].0 == 1)
        .collect();
    world.queue.swap(deliveries[1], deliveries[2]);
    world.deliver();
    assert_eq!(found(&world.finish()), [(FaultKind::Reordered, 1)]);
}

#[test]
fn other_content_and_other_names_are_found() {
    for (field, value) in [
        ("payload", json!({"msg_type": "text", "text": "something else"})),
        ("from", json!("u7")),
        ("to", json!("u0")),
    ] {
        let mut world = World::new([4, 4], None);
        world.serve();
        let delivery = world.queue.iter_mut().find(|item| World::is_delivery(item));
        delivery.expect("there is one").1[field] = value;
        world.deliver();
        assert_eq!(found(&world.finish()), [(FaultKind::Damaged, 1)], "{field}");
    }
}

#[test]
fn a_message_at_the_wrong_user_is_found() {
    let mut world = World::new([1, 0], None);
    world.serve();
    let delivery = world.queue.iter_mut().find(|item| World::is_delivery(item));
    delivery.expect("there is one").0 = 0;
    world.deliver();
    world.pairs.stop(0, &mut world.out);
    assert_eq!(found(&world.end()), [(FaultKind::Lost, 1), (FaultKind::Misrouted, 1)]);
}

#[test]
fn a_refused_message_stops_its_sender() {
    let mut world = World::new([1, 1], None);
    world.serve();
    let refused = world.queue[0].1["id"].clone();
    world.queue.retain(|(_, frame)| frame["id"] != refused);
    let error = json!({"type": "error", "code": 3, "id": refused, "payload": {"content": "no"},
                       "server_ts": 1_700_000_000_000u64});
    world.queue.push((0, error));
    world.deliver();
    world.round();
    let outcome = world.finish();
    assert_eq!(found(&outcome), [(FaultKind::Refused, 1)]);
    assert_eq!(outcome.sent, 1 + 3, "the other direction went on");
}

#[test]
fn what_the_protocol_does_not_have_is_found_and_other_runs_are_not_blamed() {
    let mut world = World::new([1, 1], None);
    let ts = 1_700_000_000_000u64;
    world.queue.push((0, json!({"type": "surprise", "server_ts": ts})));
    world.queue.push((
        0,
        json!({"id": "9m4e2mr0ui3e8a215n4g", "type": "C2C", "from": "old", "to": "u0",
               "payload": {}, "created_at": ts, "server_ts": ts}),
    ));
    world.deliver();
    world.serve();
    assert_eq!(world.acknowledged[0], ["9m4e2mr0ui3e8a215n4g"]);
    let outcome = world.finish();
    assert_eq!(found(&outcome), [(FaultKind::Unexpected, 1)]);
    assert_eq!(outcome.foreign, 1);
}

#[test]
fn nobody_waits_for_a_connection_that_ended() {
    let mut world = World::new([4, 4], None);
    world.serve();
    world.pairs.on_closed(1, "gone");
    world.pairs.on_closed(1, "gone again");
    world.pairs.stop(0, &mut world.out);
    assert!(world.pairs.is_settled());
    let expected = [(FaultKind::Unanswered, 8), (FaultKind::Disconnected, 1)];
    assert_eq!(found(&world.end()), expected);
}

#[test]
fn an_open_loop_sends_when_messages_are_due() {
    let mut world = World::new([4, 4], Some(1_000));
    world.pairs.measured_ns = 0..100 * MS;
    for ms in 0..100 {
        world.now_ns = ms * MS;
        let next = world.pairs.on_time(world.now_ns, &mut world.out);
        let due = (ms + 1) * MS;
        assert_eq!(next, Some(due).filter(|_| ms < 99), "one message each millisecond");
        world.round();
    }
    let outcome = world.finish();
    assert_eq!((outcome.sent, outcome.completed, outcome.unsent), (100, 100, 0));
    assert_eq!(found(&outcome), []);
    assert_eq!(outcome.lag.summary().max_us, 0.0);
}

/// A server that stands still for 100 of 1,000 ms delays what was due in that time: 100 of 1,000
/// messages waited 1 to 100 ms. Counted from when they were sent, only the eight in flight would
/// have.
#[test]
fn a_stall_is_charged_to_every_message_that_was_due_in_it() {
    let mut world = World::new([4, 4], Some(1_000));
    for ms in 0..1_000 {
        world.now_ns = ms * MS;
        world.pairs.on_time(world.now_ns, &mut world.out);
        if !(400..500).contains(&ms) {
            world.round();
            world.round();
        }
        if ms == 500 {
            // The backlog moves as fast as the limit allows.
            (0..40).for_each(|_| world.round());
        }
    }
    let outcome = world.finish();
    assert_eq!((outcome.sent, outcome.unsent), (1_000, 0));
    assert_eq!(found(&outcome), []);
    for summary in [outcome.receipt.summary(), outcome.delivery.summary()] {
        assert_eq!(summary.count, 1_000);
        assert!(summary.p50_us < 2_000.0, "{summary:?}");
        assert!((85_000.0..95_000.0).contains(&summary.p99_us), "{summary:?}");
        assert!((95_000.0..105_000.0).contains(&summary.max_us), "{summary:?}");
    }
    let lag = outcome.lag.summary();
    assert!(lag.max_us < 2_000.0, "the client was never late itself: {lag:?}");
}

#[test]
fn what_could_not_be_sent_at_all_still_counts_as_slow() {
    let mut world = World::new([1, 1], Some(1_000));
    for ms in 0..100 {
        world.now_ns = ms * MS;
        world.pairs.on_time(world.now_ns, &mut world.out);
    }
    world.pairs.stop(100 * MS - 1, &mut world.out);
    world.round();
    let outcome = world.end();
    assert_eq!((outcome.sent, outcome.unsent), (2, 98));
    let summary = outcome.receipt.summary();
    assert_eq!(summary.count, 100);
    assert!((45_000.0..55_000.0).contains(&summary.p50_us), "{summary:?}");
}
