//! Delayed messages end to end: scheduled over the HTTP API, delivered to an imboy client at their
//! time, also when the server was killed or not there meanwhile.

mod common;

use std::time::{Duration, Instant};

use common::client::Client;
use common::http::{Http, Response};
use common::{Server, wall_ms};
use serde_json::{Value, json};

fn schedule(api: &Http, text: &str, after_s: u64) -> Response {
    let content = json!({"kind": "text", "text": text});
    let message = json!({"from": "alice", "to": {"user": "bob"}, "content": content,
        "client_id": text, "deliver_after_s": after_s});
    api.post("/v1/messages", &message)
}

fn message(api: &Http, posted: &Value) -> Response {
    api.get(&format!("/v1/messages/{}", posted["id"].as_str().expect("an id")))
}

#[test]
fn a_scheduled_message_comes_at_its_time_through_kill_and_restart() {
    let mut server = Server::start_with(&["--shards", "2"]);
    let api = server.http();
    for user in ["alice", "bob"] {
        assert_eq!(api.put(&format!("/v1/users/{user}"), &json!({})).status, 201);
    }
    let before = wall_ms();
    let soon = schedule(&api, "soon", 2);
    assert_eq!(soon.status, 201, "{soon:?}");
    let soon = soon.json();
    let due = soon["due"].as_u64().expect("ms");
    assert!((before + 2_000..=wall_ms() + 2_000).contains(&due), "{due}");
    assert_eq!(
        soon,
        json!({"id": soon["id"], "conversation": "single:alice-bob", "seq": null,
            "server_ts": null, "due": due})
    );
    assert_eq!(schedule(&api, "soon", 9).json(), soon, "a resend is recognised");
    assert_eq!(message(&api, &soon).status, 404, "not before its time");
    let down = schedule(&api, "down", 4).json();
    let far = schedule(&api, "far", 864_000).json();

    server.kill9();
    server.restart(&["--shards", "3"]);
    let mut bob = Client::connect(&server, "bob", "b");
    let got = bob.next();
    assert_eq!((&got["payload"]["text"], &got["id"]), (&json!("soon"), &soon["id"]));
    let at = got["server_ts"].as_u64().expect("ms");
    assert!((due..due + 1_000).contains(&at), "due at {due}, stored at {at}");
    bob.ack(soon["id"].as_str().expect("an id"));
    let api = server.http();
    assert_eq!(message(&api, &soon).json()["seq"], 1);
    let again = schedule(&api, "soon", 2).json();
    assert_eq!((&again["seq"], &again["id"]), (&json!(1), &soon["id"]));

    // It falls due while nothing runs, and comes when the server does.
    server.kill9();
    let due = down["due"].as_u64().expect("ms");
    let wait = Duration::from_millis((due + 500).saturating_sub(wall_ms()));
    // Not for anything to happen: for its time to pass.
    std::thread::sleep(wait);
    let started = Instant::now();
    server.restart(&["--shards", "1"]);
    let mut bob = Client::connect(&server, "bob", "b");
    // The last second of acknowledgements may be lost.
    let again = |frame: &Value| frame["payload"]["text"] == "soon";
    let got = std::iter::repeat_with(|| bob.next()).find(|frame| !again(frame));
    assert_eq!(got.expect("it waits until something comes")["payload"]["text"], "down");
    assert!(started.elapsed() < Duration::from_secs(10));
    bob.ack(down["id"].as_str().expect("an id"));
    let api = server.http();
    assert_eq!(message(&api, &far).status, 404);
    bob.nothing_more();

    for wrong in [json!(0), json!(864_001), json!(-1), json!("1"), json!(1.5)] {
        let body = json!({"from": "alice", "to": {"user": "bob"},
            "content": {"kind": "text", "text": "x"}, "deliver_after_s": wrong});
        let refused = api.post("/v1/messages", &body);
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(refused.json()["error"]["field"], "deliver_after_s");
    }
    let body = json!({"from": "alice", "to": {"user": "nobody"},
        "content": {"kind": "text", "text": "x"}, "deliver_after_s": 1});
    assert_eq!(api.post("/v1/messages", &body).status, 404, "the rules hold at once");
}
