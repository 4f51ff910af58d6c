//! With a session or an API key: JSON that is too large or too deep, mentions without end.

use std::time::Duration;

use serde_json::{Value, json};

use super::common::Server;
use super::common::client::{Client, End, c2c, xid};
use super::witness::{SLACK, Witness, size};

/// Content of a message, and a WebSocket message (protocols/README.md, *Limits*).
const CONTENT_BYTES: usize = 64 << 10;
const MESSAGE_BYTES: usize = 1 << 20;
/// Arrays and objects within each other, the message's own object among them (simd-json's limit).
const JSON_DEPTH: usize = 1_024;
/// What JSON of a message may cost while it is read, as a multiple of its bytes: a place for each
/// element, of which the smallest has two bytes.
const JSON_FACTOR: u64 = 32;

fn refusal(client: &mut Client) -> (u64, String) {
    let error = client.next();
    assert_eq!(error["type"], "error", "{error}");
    let why = error["payload"]["content"].as_str().expect("it says why").to_owned();
    (error["code"].as_u64().expect("a code"), why)
}

#[test]
fn json_that_is_too_large_or_too_deep() {
    let server = Server::start_with(&["--shards", "2"]);
    Client::connect(&server, "bob", "b").close();
    let bound = 2 * JSON_FACTOR * MESSAGE_BYTES as u64 + SLACK;
    let witness = Witness::new(&server, "JSON too large, too deep", bound);
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let frame = |payload: &str| c2c("7", "bob", &json!("@")).replace("\"@\"", payload);
    witness.during(|| {
        let mut mallory = Client::connect(&server, "mallory", "m");
        for n in 0..size(3, 300) {
            // Never closed, closed, within what may be stored and beyond it.
            mallory.send_text(&"[".repeat(MESSAGE_BYTES - 100)).expect("connected");
            assert_eq!(refusal(&mut mallory).0, 1);
            mallory.send_text(&"{\"a\":".repeat(MESSAGE_BYTES / 5 - 100)).expect("connected");
            assert_eq!(refusal(&mut mallory).0, 1);
            mallory.send_text(&nested(MESSAGE_BYTES / 2 - 100)).expect("connected");
            assert_eq!(refusal(&mut mallory).0, 1);
            mallory.send_text(&frame(&nested(MESSAGE_BYTES / 2 - 100))).expect("connected");
            assert_eq!(refusal(&mut mallory).0, 1);
            mallory.send_text(&frame(&nested(JSON_DEPTH))).expect("connected");
            assert_eq!(refusal(&mut mallory).0, 1);
            let many = format!("[{}0]", "0,".repeat(MESSAGE_BYTES / 2 - 100));
            mallory.send_text(&frame(&many)).expect("connected");
            assert_eq!(refusal(&mut mallory), (3, "too large".to_owned()));
            // A frame that is decoded in between: none of these is one of 32 in a row.
            mallory.send_stored(&xid(n), "bob", &json!("x".repeat(CONTENT_BYTES - 2)));
        }
        // One byte more than a message may have: the stream ends.
        let mut large = Client::connect(&server, "large", "m");
        let _cut_off = large.send_text(&"x".repeat(MESSAGE_BYTES + 1));
        assert_eq!(large.closed(), Some(1009));
    });
}

/// What is as deep as it may be is passed on as it is, and whoever looks into it does not fall over
/// it.
#[test]
fn a_payload_as_deep_as_it_can_be_is_passed_on() {
    let server = Server::start_with(&["--shards", "2"]);
    let witness = Witness::new(&server, "a deep payload passed on", SLACK);
    let depth = JSON_DEPTH - 2;
    let payload = "[".repeat(depth) + &"]".repeat(depth);
    let frame = c2c(&xid(7), "bob", &json!("@")).replace("\"@\"", &payload);
    witness.during(|| {
        let mut bob = Client::connect(&server, "bob", "b");
        let mut mallory = Client::connect(&server, "mallory", "m");
        mallory.send_text(&frame).expect("connected");
        assert_eq!(mallory.next()["type"], "C2C_SERVER_ACK");
        let text = bob.next_text().expect("the message");
        assert!(text.contains(&payload), "{} bytes came", text.len());
        bob.ack(&xid(7));
        bob.nothing_more();
        // The list of conversations shows the last message.
        let api = server.http();
        let answer = api.get("/v1/users/bob/conversations");
        assert_eq!(answer.status, 200, "{} bytes", answer.body.len());
        assert!(answer.body.contains("single:bob-mallory"), "{} bytes", answer.body.len());
        // So does a revoke, and what comes after it.
        let revoke = json!({"id": xid(7), "type": "C2C_REVOKE", "to": "bob"});
        mallory.send_text(&revoke.to_string()).expect("connected");
        assert_eq!(mallory.next()["type"], "C2C_REVOKE_ACK");
        assert_eq!(bob.next()["type"], "C2C_REVOKE");
        // The API's own requests have a bound of their own.
        let deep =
            format!("{{\"from\": \"bob\", \"to\": {{\"user\": \"bob\"}}, \"content\": {payload}}}");
        let refused = api.request("POST", "/v1/messages", Some(deep.as_bytes()));
        assert_eq!(refused.status, 400, "{} bytes", refused.body.len());
    });
}

#[test]
fn mentions_far_over_the_limit() {
    let server = Server::start_with(&["--shards", "2"]);
    Client::connect(&server, "bob", "b").close();
    let bound = JSON_FACTOR * 4 * MESSAGE_BYTES as u64 + SLACK;
    let witness = Witness::new(&server, "mentions far over the limit", bound);
    let post = |mentions: usize| {
        let names: Vec<String> = (0..mentions).map(|n| format!("u{n}")).collect();
        let body = json!({"from": "bob", "to": {"user": "witness-a"},
            "content": {"kind": "text", "text": "hi"}, "mentions": names});
        server.http().post("/v1/messages", &body)
    };
    // The witness's own messages are private ones of two others: this conversation is another.
    witness.during(|| {
        for _ in 0..size(3, 200) {
            for mentions in [65, 1_000, 90_000] {
                let refused = post(mentions);
                assert_eq!(refused.status, 413, "{refused:?}");
                assert_eq!(refused.error_code(), "too_large", "{refused:?}");
            }
            // A body over 1 MiB is not read at all.
            let refused = post(200_000);
            assert_eq!(refused.status, 413, "{refused:?}");
        }
    });
}

/// What comes within `wait` at the end of an attack is told apart from nothing.
#[test]
fn requests_faster_than_their_rate_limit() {
    let server = Server::start_with(&[
        "--shards",
        "2",
        "--rate-limit-requests-per-s",
        "2000",
        "--rate-limit-requests-burst",
        "2000",
        "--rate-limit-strikes",
        "100",
    ]);
    let witness = Witness::new(&server, "requests over their rate limit", SLACK);
    witness.during(|| {
        for _ in 0..size(3, 200) {
            let mut mallory = Client::connect(&server, "mallory", "m");
            for _ in 0..5_000 {
                if mallory.queue_text("ping").is_err() {
                    break;
                }
            }
            let _closed_meanwhile = mallory.flush();
            let mut told = 0;
            let code = loop {
                match mallory.next_text() {
                    Ok(text) => told += u32::from(text.contains("rate limited")),
                    Err(End::Closed(code)) => break code,
                    Err(End::Broken) => panic!("the close was not told"),
                }
            };
            assert_eq!((code, told), (Some(1008), 100));
        }
    });
}

/// The time in which a request of the API is answered while others attack it.
#[test]
fn large_requests_to_the_api_do_not_hold_messages_up() {
    let server = Server::start_with(&["--shards", "2"]);
    let bound = 4 * JSON_FACTOR * MESSAGE_BYTES as u64 + SLACK;
    let witness = Witness::new(&server, "large requests to the API", bound);
    let body: Value = json!({"profile": vec!["x"; 200_000]});
    witness.during(|| {
        let began = std::time::Instant::now();
        for n in 0..size(5, 500) {
            let refused = server.http().put(&format!("/v1/users/u{n}"), &body);
            assert_eq!(refused.status, 400, "{} bytes", refused.body.len());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    });
}
