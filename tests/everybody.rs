//! Notices to everybody end to end: the HTTP API on one side, imboy clients on the other, a server
//! that is killed in between.

mod common;

use common::Server;
use common::client::Client;
use common::http::Http;
use serde_json::{Value, json};

/// Homes on both shards.
const TWO_SHARDS: [&str; 4] = ["--shards", "2", "--presence-quiet-s", "0"];
const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Tells everybody; the id of the message that it is.
fn tell(api: &Http, notice: &Value) -> String {
    let sent = api.post("/v1/notices", notice);
    assert_eq!(sent.status, 200, "{sent:?}");
    let sent = sent.json();
    assert_eq!(sent["unknown"], json!([]));
    sent["id"].as_str().expect("an id").to_owned()
}

/// The next frame, which must be this notice, as it is told to `to`.
fn told(client: &mut Client, id: &str, to: &str, payload: &Value) {
    let frame = client.next();
    let expected = json!({"id": id, "type": "S2C", "from": "", "to": to, "payload": payload,
        "created_at": frame["server_ts"], "server_ts": frame["server_ts"]});
    assert_eq!(frame, expected);
    assert!(frame["server_ts"].is_u64());
}

#[test]
fn everybody_is_told_once_also_over_crashes_and_other_shards() {
    let mut server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    for id in ["erin", "frank"] {
        assert_eq!(api.put(&format!("/v1/users/{id}"), &json!({})).status, 201);
    }
    let mut clients = NAMES.map(|id| Client::connect(&server, id, "d"));
    // Everybody is known when he has been answered.
    clients.iter_mut().for_each(Client::nothing_more);
    let notice = json!({"all": true, "id": "n1", "stream": "news", "kind": "sale",
        "title": "Today", "content": {"percent": 20}, "conv_id": "notice:News",
        "unread": {"count": 1}, "content_type": 1, "ext": "x", "once": false,
        "options": {"storage_for_client": true, "update_conv_msg": true}});
    let sale = tell(&api, &notice);
    assert_eq!(tell(&api, &notice), sale, "under its id it is stored once");
    let payload = json!({"msg_type": "sale", "title": "Today", "content": {"percent": 20}});
    for (id, client) in NAMES.into_iter().zip(&mut clients) {
        told(client, &sale, id, &payload);
        client.nothing_more();
        if id != "dave" {
            client.ack_s2c(&sale);
        }
    }
    // Made after it: not told.
    assert_eq!(api.put("/v1/users/grace", &json!({})).status, 201);
    Client::connect(&server, "heidi", "d").nothing_more();
    // A disconnect writes what was acknowledged; the users come again after that is durable.
    for (id, client) in NAMES.into_iter().zip(clients) {
        client.close();
        if id != "dave" {
            Client::connect(&server, id, "other").nothing_more();
        }
    }
    let message = api.get(&format!("/v1/messages/{sale}")).json();
    assert_eq!(
        (&message["conversation"], &message["event"], &message["client_id"]),
        (&json!("notice:*"), &json!("noticed"), &json!("n1"))
    );
    for shards in ["1", "3", "2"] {
        server.kill9();
        server.restart(&["--shards", shards, "--presence-quiet-s", "0"]);
        assert_eq!(tell(&server.http(), &notice), sale);
        // Not acknowledged on this device, and never on these.
        let mut dave = Client::connect(&server, "dave", "d");
        told(&mut dave, &sale, "dave", &payload);
    }
    let mut frank = Client::connect(&server, "frank", "d");
    told(&mut frank, &sale, "frank", &payload);
    frank.ack_s2c(&sale);
    frank.nothing_more();
    // The next one is for all of them, and the first that comes for who has had the other or was
    // made behind it.
    let more = tell(&server.http(), &json!({"all": true, "kind": "more"}));
    let payload = json!({"msg_type": "more", "content": null});
    told(&mut frank, &more, "frank", &payload);
    for id in ["alice", "bob", "carol", "grace", "heidi"] {
        let mut client = Client::connect(&server, id, "d");
        told(&mut client, &more, id, &payload);
        client.ack_s2c(&more);
        client.nothing_more();
    }
    assert_eq!(server.sigterm_and_wait().code(), Some(0), "{}", server.log());
}

#[test]
fn what_makes_no_sense_is_refused_with_its_field() {
    let server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    let mut bob = Client::connect(&server, "bob", "b");
    bob.nothing_more();
    for (mut body, field) in [
        (json!({"all": false}), "to"),
        (json!({"all": null}), "to"),
        (json!({"to": []}), "to"),
        (json!({"all": true, "to": ["bob"]}), "all"),
        (json!({"all": true, "to": []}), "all"),
        (json!({"all": "yes"}), "all"),
        (json!({"all": true, "kind": ""}), "kind"),
        (json!({"all": true, "id": "x".repeat(41)}), "id"),
        (json!({"all": true, "content": "x".repeat(48 << 10)}), "content"),
        (json!({"all": true, "conv_id": "News"}), "conv_id"),
        (json!({"all": true, "conv_id": "notice:"}), "conv_id"),
        (json!({"all": true, "conv_id": format!("notice:{}", "x".repeat(1_018))}), "conv_id"),
        (json!({"all": true, "ext": "x".repeat((4 << 10) + 1)}), "ext"),
        (json!({"all": true, "ext": {}}), "ext"),
        (json!({"all": true, "content_type": -1}), "content_type"),
        (json!({"all": true, "content_type": 1u64 << 31}), "content_type"),
        (json!({"all": true, "unread": 1}), "unread"),
        (json!({"all": true, "unread": {}}), "unread.count"),
        (json!({"all": true, "unread": {"count": "1"}}), "unread.count"),
        (json!({"all": true, "unread": {"count": 1, "absolute": 1}}), "unread.absolute"),
        (json!({"all": true, "unread": {"count": 1, "of": 1}}), "unread.of"),
        (json!({"all": true, "options": []}), "options"),
        (json!({"all": true, "options": {"update_conv_msg": 1}}), "options.update_conv_msg"),
        (json!({"all": true, "options": {"online_push_once": true}}), "options.online_push_once"),
        (json!({"all": true, "once": true}), "once"),
        (json!({"all": true, "everybody": true}), "everybody"),
    ] {
        let fields = body.as_object_mut().expect("an object");
        fields.entry("kind").or_insert_with(|| json!("k"));
        let refused = api.post("/v1/notices", &body);
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert_eq!(refused.json()["error"]["field"], field, "{body}");
    }
    // The largest of everything is one, and nothing of the above was stored.
    let largest = json!({"all": true, "kind": "k".repeat(1 << 10), "stream": "s".repeat(1 << 10),
        "title": "t".repeat(1 << 10), "content": "c".repeat((48 << 10) - 2),
        "conv_id": format!("notice:{}", "x".repeat(1_017)), "ext": "e".repeat(4 << 10),
        "unread": {"count": i32::MAX, "absolute": true}, "content_type": i32::MAX});
    let id = tell(&api, &largest);
    let frame = bob.next();
    assert_eq!((&frame["id"], &frame["payload"]["msg_type"]), (&json!(id), &largest["kind"]));
    assert_eq!(frame["payload"]["content"], largest["content"]);
    bob.nothing_more();
}
