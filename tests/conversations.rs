//! What a user has not read, whom a message mentions and what it answers, over the HTTP API, beside
//! imboy clients: counts are exact through restarts.

mod common;

use common::Server;
use common::client::{Client, c2c, xid};
use common::http::Http;
use serde_json::{Value, json};

/// A user's conversations by id.
fn conversation(api: &Http, user: &str, id: &str) -> Value {
    let list = api.get(&format!("/v1/users/{user}/conversations"));
    assert_eq!(list.status, 200, "{list:?}");
    let list = list.json();
    let found = list["items"].as_array().expect("a list").iter();
    let mut found = found.filter(|item| item["conversation"] == id);
    found.next().unwrap_or_else(|| panic!("{user} has {id}: {list}")).clone()
}

fn counts(api: &Http, user: &str, id: &str) -> (u64, u64, Option<u64>) {
    let item = conversation(api, user, id);
    let number = |name: &str| item[name].as_u64().unwrap_or_else(|| panic!("{name}: {item}"));
    (number("read"), number("unread"), item["mention"].as_u64())
}

fn read(api: &Http, user: &str, id: &str, seq: u64) -> (u16, Value) {
    let path = format!("/v1/conversations/{}/read", id.replace(':', "%3A"));
    let answer = api.post(&path, &json!({"user": user, "seq": seq}));
    (answer.status, answer.json())
}

fn post(api: &Http, message: &Value) -> Value {
    let posted = api.post("/v1/messages", message);
    assert_eq!(posted.status, 201, "{posted:?}");
    posted.json()
}

#[test]
fn unread_is_exact_through_restarts() {
    let mut server = Server::start_with(&["--shards", "2"]);
    let api = server.http();
    let mut alice = Client::connect(&server, "alice", "a");
    // Ids may have the sign that stands between them.
    Client::connect(&server, "bob-b", "b").close();
    for n in 1..=3 {
        alice.send_stored(&xid(n), "bob-b", &json!(n));
    }
    let id = "single:alice-bob-b";
    assert_eq!(counts(&api, "alice", id), (3, 0, None));
    assert_eq!(counts(&api, "bob-b", id), (0, 3, None));
    assert_eq!(read(&api, "bob-b", id, 2), (200, json!({"conversation": id, "read": 2})));
    assert_eq!(read(&api, "bob-b", id, 1), (200, json!({"conversation": id, "read": 2})));
    let last = conversation(&api, "bob-b", id)["last"].clone();
    assert_eq!((&last["seq"], &last["from"]), (&json!(3), &json!("alice")));
    assert_eq!(last["content"], json!({"raw": {"dialect": "imboy", "payload": 3}}));
    server.kill9();
    server.restart(&["--shards", "3"]);
    let api = server.http();
    assert_eq!(counts(&api, "bob-b", id), (2, 1, None));
    assert_eq!(counts(&api, "alice", id), (3, 0, None));
    // An answer is the best proof of having read.
    let mut bob = Client::connect(&server, "bob-b", "b");
    bob.send_text(&c2c(&xid(9), "alice", &json!("yes"))).expect("sent");
    while bob.next()["type"] != "C2C_SERVER_ACK" {}
    assert_eq!(counts(&api, "bob-b", id), (4, 0, None));
    assert_eq!(counts(&api, "alice", id), (3, 1, None));
    for (user, id, seq, status) in [
        ("bob-b", id, 5, 404),
        ("carol", id, 1, 400),
        ("bob-b", "single:alice-bob", 1, 400),
        ("bob-b", "group:none", 1, 404),
        ("bob-b", "nonsense", 1, 400),
        ("nobody", "group:none", 1, 404),
        ("bob-b", id, 0, 400),
    ] {
        let (found, body) = read(&api, user, id, seq);
        assert_eq!(found, status, "{user} {id} {seq}: {body}");
    }
}

#[test]
fn acknowledging_is_reading_where_the_configuration_says_so() {
    let server = Server::start_with(&["--imboy-ack-is-read", "true"]);
    let api = server.http();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    alice.send_stored(&xid(1), "bob", &json!("hi"));
    let message = bob.next();
    assert_eq!(counts(&api, "bob", "single:alice-bob"), (0, 1, None));
    bob.ack(message["id"].as_str().expect("an id"));
    // Frames are handled in order: with the answer to this one the acknowledgement is known.
    bob.send_text("ping").expect("sent");
    assert_eq!(bob.next_text().expect("an answer"), "pong2");
    assert_eq!(counts(&api, "bob", "single:alice-bob"), (1, 0, None));
}

#[test]
fn mentions_and_answers_are_stored_and_shown() {
    let server = Server::start_with(&["--shards", "2"]);
    let api = server.http();
    for user in ["alice", "bob", "carol", "dave"] {
        assert_eq!(api.put(&format!("/v1/users/{user}"), &json!({})).status, 201);
    }
    let group = json!({"id": "team", "owner": "alice", "members": ["bob", "carol"]});
    assert_eq!(api.post("/v1/groups", &group).status, 201);
    let mut bob = Client::connect(&server, "bob", "b");
    let text = |text: &str| json!({"kind": "text", "text": text});
    let to = json!({"group": "team"});
    let first = post(
        &api,
        &json!({"from": "alice", "to": to, "content": text("look"), "mentions": ["bob", "dave"]}),
    );
    let answer = json!({"from": "carol", "to": to, "content": text("where?"),
        "mentions": ["all", "alice"], "reply_to": first["id"]});
    let second = post(&api, &answer);
    assert_eq!(counts(&api, "bob", "group:team"), (0, 2, first["seq"].as_u64()));
    assert_eq!(counts(&api, "carol", "group:team").2, None, "he has said it himself");
    assert_eq!(counts(&api, "alice", "group:team").2, second["seq"].as_u64());
    let shown = api.get(&format!("/v1/messages/{}", second["id"].as_str().expect("an id"))).json();
    assert_eq!(shown["content"], text("where?"));
    assert_eq!(shown["mentions"], json!(["alice", "all"]));
    let reply = &shown["reply_to"];
    assert_eq!((&reply["id"], &reply["author"]), (&first["id"], &json!("alice")));
    assert_eq!((&reply["text"], &reply["time_ms"]), (&json!("look"), &first["server_ts"]));
    // The app shows it as a quote.
    let mut payloads = Vec::new();
    while payloads.len() < 2 {
        let frame = bob.next();
        if frame["type"] == "C2G" {
            payloads.push(frame["payload"].clone());
        }
    }
    assert_eq!(payloads[0], json!({"msg_type": "text", "text": "look"}));
    assert_eq!(payloads[1]["custom_type"], "quote");
    assert_eq!(payloads[1]["quote_text"], "where?");
    assert_eq!(payloads[1]["quote_msg"]["text"], "look");

    let many: Vec<String> = (0..65).map(|n| format!("u{n}")).collect();
    let inline = json!({"kind": "rich", "segments": [{"kind": "mention", "user": "bob"}]});
    let posted = post(&api, &json!({"from": "alice", "to": to, "content": inline}));
    let shown = api.get(&format!("/v1/messages/{}", posted["id"].as_str().expect("an id"))).json();
    assert_eq!(shown["mentions"], json!(["bob"]));
    let raw = json!({"raw": {"dialect": "imboy", "payload": 1}});
    let private = json!({"user": "bob"});
    for (field, status, wrong) in [
        (None, 413, json!({"to": to, "content": text("x"), "mentions": many})),
        (Some("mentions"), 400, json!({"to": to, "content": text("x"), "mentions": "bob"})),
        (Some("mentions"), 400, json!({"to": to, "content": text("x"), "mentions": ["a b"]})),
        (Some("mentions"), 400, json!({"to": to, "content": raw, "mentions": ["bob"]})),
        (Some("reply_to"), 400, json!({"to": to, "content": raw, "reply_to": first["id"]})),
        (
            Some("reply_to"),
            400,
            json!({"to": private, "content": text("x"), "reply_to": first["id"]}),
        ),
        (Some("reply_to"), 400, json!({"to": to, "content": text("x"), "reply_to": "x"})),
    ] {
        let mut wrong = wrong;
        wrong["from"] = json!("alice");
        let refused = api.post("/v1/messages", &wrong);
        assert_eq!(refused.status, status, "{wrong}: {refused:?}");
        assert_eq!(refused.json()["error"]["field"].as_str(), field, "{wrong}");
    }
}

fn seqs(api: &Http, conversation: &str, query: &str) -> Vec<u64> {
    let answer = api.get(&format!("/v1/conversations/{conversation}/messages{query}"));
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let items = answer.json()["items"].as_array().expect("a list").clone();
    items.iter().map(|item| item["seq"].as_u64().expect("a seq")).collect()
}

#[test]
fn a_conversation_is_read_from_either_end() {
    let server = Server::start_with(&["--shards", "2"]);
    let api = server.http();
    for user in ["alice", "bob-b", "bob"] {
        assert_eq!(api.put(&format!("/v1/users/{user}"), &json!({})).status, 201);
    }
    let text = |n: u32| json!({"from": "alice", "to": {"user": "bob-b"}, "content": {"kind": "text", "text": n.to_string()}});
    let sent: Vec<Value> = (1..=20).map(|n| post(&api, &text(n))).collect();
    let id = "single%3Aalice-bob-b";
    assert_eq!(seqs(&api, id, ""), (1..=20).collect::<Vec<_>>());
    assert_eq!(seqs(&api, id, "?limit=3"), [18, 19, 20]);
    assert_eq!(seqs(&api, id, "?limit=3&before_seq=18"), [15, 16, 17]);
    assert_eq!(seqs(&api, id, "?limit=3&before_seq=3"), [1, 2]);
    assert_eq!(seqs(&api, id, "?before_seq=1"), [0; 0]);
    assert_eq!(seqs(&api, id, "?limit=3&after_seq=4"), [5, 6, 7]);
    assert_eq!(seqs(&api, id, "?after_seq=4&before_seq=7"), [5, 6]);
    assert_eq!(seqs(&api, id, "?after_seq=20"), [0; 0]);
    assert_eq!(seqs(&api, id, &format!("?after_seq={}", u64::MAX)), [0; 0]);
    // As it is found by its id, and as it is when it was taken back.
    let path = format!("/v1/messages/{}", sent[6]["id"].as_str().expect("an id"));
    let seventh = api.get(&format!("/v1/conversations/{id}/messages?after_seq=6&limit=1")).json();
    assert_eq!(seventh["items"][0], api.get(&path).json());
    assert_eq!(api.post(&format!("{path}/revoke"), &json!({})).status, 200);
    let page = api.get(&format!("/v1/conversations/{id}/messages?after_seq=6")).json();
    assert_eq!(page["items"][0]["revoked"], true);
    assert_eq!(
        page["items"].as_array().and_then(|items| items.last()).expect("some")["event"],
        "revoked"
    );
    // The other conversation that the id could mean.
    let other =
        json!({"from": "bob", "to": {"user": "alice"}, "content": {"kind": "text", "text": "x"}});
    post(&api, &other);
    assert_eq!(seqs(&api, "single%3Aalice-bob", ""), [1]);
    assert_eq!(seqs(&api, id, "?limit=1"), [21]);
    for (path, status) in [
        ("single%3Aalice-carol", 404),
        ("group%3Anone", 404),
        ("notice%3Aalice", 404),
        ("alice", 400),
        ("single%3Az-a", 400),
    ] {
        let answer = api.get(&format!("/v1/conversations/{path}/messages"));
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    assert_eq!(api.get(&format!("/v1/conversations/{id}/messages?limit=501")).status, 400);
}

/// An answer has a bounded size; what is cut off is what is furthest from where it was asked for.
#[test]
fn long_messages_come_in_smaller_parts() {
    let server = Server::start();
    let api = server.http();
    for user in ["alice", "bob"] {
        assert_eq!(api.put(&format!("/v1/users/{user}"), &json!({})).status, 201);
    }
    let long = "x".repeat(60_000);
    for _ in 0..40 {
        post(
            &api,
            &json!({"from": "alice", "to": {"user": "bob"}, "content": {"kind": "text", "text": long}}),
        );
    }
    let first = seqs(&api, "single%3Aalice-bob", "?after_seq=0");
    assert!(first.len() < 40 && first == (1..=first.len() as u64).collect::<Vec<_>>(), "{first:?}");
    let last = seqs(&api, "single%3Aalice-bob", "");
    let from = 41 - last.len() as u64;
    assert!(last.len() < 40 && last == (from..=40).collect::<Vec<_>>(), "{last:?}");
    let all = (0..40).fold(vec![], |mut all: Vec<u64>, _| {
        let after = all.last().copied().unwrap_or(0);
        all.extend(seqs(&api, "single%3Aalice-bob", &format!("?after_seq={after}")));
        all
    });
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
}
