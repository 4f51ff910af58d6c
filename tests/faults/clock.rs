//! The wall clock is set while the server runs, and before it starts: ids go up, seqs have no gap,
//! times within a conversation never go back, nothing is lost, and what waits for a time on the
//! monotonic clock neither comes at once nor never.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::client::{Client, xid};
use super::common::http::Http;
use super::common::{Server, Under};
use super::preload::Faults;

/// How far the clock is set; tokens of the tests are good for longer.
const STEP_S: i64 = 3_000;
/// Messages between two steps.
const MESSAGES: u64 = 20;
/// A private message that is not acknowledged comes again after this time (protocols/imboy.md).
const RETRY: Duration = Duration::from_secs(5);
/// Turns of a quiet shard in a second: it looks at its schedule twice, at its connections four
/// times, and an API request is a few. What is far more than this is a timer that runs wild.
const TURNS_PER_S: u64 = 100;

/// What the log has said last.
struct Last {
    id: String,
    seq: u64,
    server_ts: u64,
}

/// Stores messages from alice to bob, who gets each as it comes.
fn talk(api: &Http, bob: &mut Client, last: &mut Last) {
    for _ in 0..MESSAGES {
        let text = format!("m{}", last.seq + 1);
        let body = json!({"from": "alice", "to": {"user": "bob"},
            "content": {"kind": "text", "text": text}});
        let stored = api.post("/v1/messages", &body).json();
        let id = stored["id"].as_str().expect("an id").to_owned();
        // The text form of an xid is in the order of its bytes.
        assert!(id > last.id, "{id} behind {}", last.id);
        assert_eq!(stored["seq"], last.seq + 1);
        let server_ts = stored["server_ts"].as_u64().expect("ms");
        assert!(server_ts >= last.server_ts, "{server_ts} behind {}", last.server_ts);
        // The last second of acknowledgements may have been lost with a process: those come again.
        let got = loop {
            let got = bob.next();
            let came = got["id"].as_str().expect("an id").to_owned();
            bob.ack(&came);
            if came > last.id {
                break got;
            }
        };
        assert_eq!((&got["id"], &got["payload"]["text"]), (&json!(id), &json!(text)));
        assert_eq!(got["server_ts"], server_ts);
        *last = Last { id, seq: last.seq + 1, server_ts };
    }
}

#[test]
fn ids_and_seqs_go_on_whatever_is_done_to_the_clock() {
    let faults = Faults::new();
    let under = Under { environment: faults.environment(), ..Under::default() };
    let mut server = Server::start_under(under, &["--shards", "1"]);
    Client::connect(&server, "alice", "a").close();
    let mut last = Last { id: String::new(), seq: 0, server_ts: 0 };
    for ahead_s in [0, -STEP_S, STEP_S / 2, -STEP_S] {
        // Set while it runs, then a start at a time that is before what the store has seen.
        for restart in [false, true] {
            faults.set_clock(ahead_s);
            if restart {
                server.kill9();
                server.restart(&["--shards", "1"]);
            }
            let mut bob = Client::connect(&server, "bob", "b");
            talk(&server.http(), &mut bob, &mut last);
        }
    }
    assert_eq!(last.seq, 8 * MESSAGES);
    let conversation = server.http().get("/v1/users/bob/conversations").json();
    assert_eq!(conversation["items"][0]["unread"], 8 * MESSAGES, "{conversation}");
}

#[test]
fn timers_keep_to_the_monotonic_clock() {
    let faults = Faults::new();
    let under = Under { environment: faults.environment(), ..Under::default() };
    let server = Server::start_under(under, &["--shards", "1"]);
    let mut bob = Client::connect(&server, "bob", "b");
    let mut alice = Client::connect(&server, "alice", "a");
    alice.send_stored(&xid(1), "bob", &json!("not acknowledged"));
    assert_eq!(bob.next()["id"], xid(1));
    let delivered = Instant::now();
    for ahead_s in [-STEP_S, STEP_S / 2, -86_400, 0, STEP_S / 2] {
        faults.set_clock(ahead_s);
        // The turns of these requests are taken at the new time.
        for client in [&mut alice, &mut bob] {
            client.nothing_more();
        }
    }
    let (turns, began) = (server.metric("ringpost_turns_total"), Instant::now());
    let again = bob.next();
    let waited = delivered.elapsed();
    assert_eq!(again["id"], xid(1));
    assert!(waited + Duration::from_millis(500) > RETRY, "it came again after {waited:?}");
    assert!(waited < 2 * RETRY, "it came again after {waited:?}");
    let turns = server.metric("ringpost_turns_total") - turns;
    let most = TURNS_PER_S * (began.elapsed().as_secs() + 1);
    assert!(turns < most, "{turns} turns in {:?}", began.elapsed());
}

fn schedule(api: &Http, text: &str, after_s: i64) -> Value {
    let body = json!({"from": "alice", "to": {"user": "bob"},
        "content": {"kind": "text", "text": text}, "deliver_after_s": after_s});
    let scheduled = api.post("/v1/messages", &body);
    assert_eq!(scheduled.status, 201, "{scheduled:?}");
    scheduled.json()
}

#[test]
fn what_is_scheduled_follows_the_wall_clock_and_comes_once() {
    let faults = Faults::new();
    let under = Under { environment: faults.environment(), ..Under::default() };
    let server = Server::start_under(under, &["--shards", "2"]);
    Client::connect(&server, "alice", "a").close();
    let mut bob = Client::connect(&server, "bob", "b");
    let api = server.http();
    let first = schedule(&api, "first", STEP_S / 2);
    let second = schedule(&api, "second", STEP_S);
    let from_behind = {
        faults.set_clock(-STEP_S);
        schedule(&api, "scheduled an hour ago", STEP_S / 2)
    };
    bob.nothing_more();
    // Back at the real time: what was scheduled behind it is late by half of the step.
    faults.set_clock(0);
    assert_eq!(bob.next()["id"], from_behind["id"]);
    bob.ack(from_behind["id"].as_str().expect("an id"));
    bob.nothing_more();
    faults.set_clock(STEP_S / 2 + 1);
    assert_eq!(bob.next()["id"], first["id"]);
    bob.ack(first["id"].as_str().expect("an id"));
    faults.set_clock(-STEP_S);
    bob.nothing_more();
    faults.set_clock(STEP_S / 2 + 1);
    bob.nothing_more();
    faults.set_clock(STEP_S + 1);
    let got = bob.next();
    assert_eq!(got["id"], second["id"], "{got}");
    bob.ack(second["id"].as_str().expect("an id"));
    bob.nothing_more();
    let seqs = [&from_behind, &first, &second].map(|message| {
        let id = message["id"].as_str().expect("an id");
        api.get(&format!("/v1/messages/{id}")).json()["seq"].clone()
    });
    assert_eq!(seqs, [json!(1), json!(2), json!(3)]);
}
