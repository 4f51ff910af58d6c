//! Friends, blocks, presence, accounts and business notices end to end: the HTTP API on one side,
//! imboy clients on the other.

mod common;

use common::client::{Client, xid};
use common::http::{Http, Response};
use common::{Server, wall_s};
use serde_json::{Value, json};

/// Users whose homes differ with two shards: what is owed crosses.
const TWO_SHARDS: [&str; 4] = ["--shards", "2", "--presence-quiet-s", "0"];

fn put_user(api: &Http, id: &str, profile: &Value) {
    assert_eq!(api.put(&format!("/v1/users/{id}"), profile).status, 201);
}

fn delete(api: &Http, path: &str) -> Response {
    api.request("DELETE", path, None)
}

fn done(response: &Response) {
    assert_eq!((response.status, response.body.as_str()), (200, "{}"), "{response:?}");
}

/// Acknowledges an S2C frame.
fn ack(client: &mut Client, frame: &Value) {
    let id = frame["id"].as_str().expect("an id");
    let text = format!("CLIENT_ACK,S2C,{id},{}", client.did);
    client.send_text(&text).expect("connected");
}

/// The next frame, which must be S2C of this `msg_type`; acknowledged.
fn told(client: &mut Client, msg_type: &str) -> Value {
    let frame = client.next();
    assert_eq!(frame["type"], "S2C", "{frame}");
    assert_eq!(frame["payload"]["msg_type"], msg_type, "{frame}");
    ack(client, &frame);
    frame
}

fn befriend(api: &Http, from: &str, to: &str) {
    done(&api.post("/v1/friends/requests", &json!({"from": from, "to": to})));
    done(&api.post("/v1/friends/accept", &json!({"from": from, "to": to})));
}

#[test]
fn friends_are_made_listed_and_parted() {
    let mut server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    put_user(&api, "alice", &json!({"name": "Alice \"A\"", "avatar": "https://a/1"}));
    put_user(&api, "bob", &json!({"name": "Bob", "account": "b1", "gender": 1, "sign": "hi"}));
    let mut bob = Client::connect(&server, "bob", "b");
    let request = json!({"from": "alice", "to": "bob", "message": "I am \u{1f44d}",
        "source": "qrcode", "remark": "bobby", "role": "all", "donotlethimlook": true,
        "tag": "work"});
    done(&api.post("/v1/friends/requests", &request));
    let frame = told(&mut bob, "apply_friend");
    let ts = frame["server_ts"].as_u64().expect("ms");
    assert!(ts / 1000 + 60 > wall_s());
    assert_eq!(
        frame,
        json!({"id": "af_alice_bob", "type": "S2C", "from": "alice", "to": "bob",
            "payload": {"msg_type": "apply_friend", "custom_type": "apply_friend", "content": "",
                "from": {"source": "qrcode", "msg": "I am \u{1f44d}", "remark": "bobby",
                    "role": "all", "donotlookhim": false, "donotlethimlook": true,
                    "nickname": "Alice \"A\"", "avatar": "https://a/1"},
                "to": {"account": "b1", "nickname": "Bob", "avatar": "", "sign": "hi",
                    "gender": 1, "region": "", "remark": ""}},
            "created_at": ts, "server_ts": ts})
    );
    done(&api.post("/v1/friends/accept", &json!({"from": "alice", "to": "bob", "remark": "ally"})));
    // She was away; what is owed to her is in her notices, also after a crash.
    server.kill9();
    server.restart(&["--shards", "1"]);
    let api = server.http();
    let mut alice = Client::connect(&server, "alice", "a");
    let frame = told(&mut alice, "apply_friend_confirm");
    assert_eq!((&frame["id"], &frame["from"]), (&json!("afc_alice_bob"), &json!("bob")));
    assert_eq!(frame["payload"]["to"]["remark"], "ally");
    alice.nothing_more();
    let friends = api.get("/v1/users/alice/friends").json();
    let item = &friends["items"][0];
    assert_eq!((&item["user"], &item["remark"]), (&json!("bob"), &json!("bobby")));
    assert_eq!((&item["tag"], &item["donotlethimlook"]), (&json!("work"), &json!(true)));
    assert!(item["since_ts"].as_u64().is_some_and(|ms| ms / 1000 <= wall_s()));
    assert_eq!(friends.get("next"), None);
    let friends = api.get("/v1/users/bob/friends?limit=1").json();
    assert_eq!(friends["items"][0]["user"], "alice");
    let next = format!("/v1/users/bob/friends?after={}", friends["next"].as_str().expect("more"));
    assert_eq!(api.get(&next).json(), json!({"items": []}));
    done(&delete(&api, "/v1/friends/bob/alice?by=alice"));
    assert_eq!(delete(&api, "/v1/friends/bob/alice").status, 404);
    assert_eq!(api.get("/v1/users/bob/friends").json(), json!({"items": []}));
}

#[test]
fn requests_that_make_no_sense_are_refused_with_their_field() {
    let server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    put_user(&api, "alice", &json!({}));
    put_user(&api, "bob", &json!({}));
    for (body, field) in [
        (json!({"from": "alice"}), "to"),
        (json!({"from": "alice", "to": "alice"}), "to"),
        (json!({"from": "alice", "to": "b b"}), "to"),
        (json!({"from": "alice", "to": "bob", "message": 7}), "message"),
        (json!({"from": "alice", "to": "bob", "remark": "x".repeat(1_025)}), "remark"),
        (json!({"from": "alice", "to": "bob", "donotlookhim": "yes"}), "donotlookhim"),
        (json!({"from": "alice", "to": "bob", "colour": "red"}), "colour"),
    ] {
        let refused = api.post("/v1/friends/requests", &body);
        assert_eq!(refused.status, 400, "{refused:?}");
        assert_eq!(refused.json()["error"]["field"], field, "{refused:?}");
    }
    let pair = json!({"from": "alice", "to": "bob"});
    assert_eq!(api.post("/v1/friends/accept", &pair).status, 404);
    assert_eq!(api.post("/v1/friends/reject", &pair).status, 404);
    let nobody = json!({"from": "alice", "to": "nobody"});
    assert_eq!(api.post("/v1/friends/requests", &nobody).status, 404);
    assert_eq!(delete(&api, "/v1/friends/alice/bob?by=carol").json()["error"]["field"], "by");
    assert_eq!(api.get("/v1/users/nobody/friends").status, 404);
    assert_eq!(api.request("PUT", "/v1/users/alice/blocks/nobody", None).status, 404);
    let same = api.request("PUT", "/v1/users/alice/blocks/alice", None);
    assert_eq!(same.json()["error"]["field"], "other");
    let reject = |body: Value, path: &str, field: &str| {
        let refused = api.post(path, &body);
        assert_eq!((refused.status, &refused.json()["error"]["field"]), (400, &json!(field)));
    };
    reject(json!({}), "/v1/users/alice/ban", "reason");
    reject(json!({"reason": "r", "until": 5}), "/v1/users/alice/ban", "until");
    reject(json!({"device": 5}), "/v1/users/alice/kick", "device");
    reject(json!({"kind": "k"}), "/v1/notices", "to");
    reject(json!({"to": ["alice"]}), "/v1/notices", "kind");
    reject(json!({"to": ["alice"], "kind": "k", "all": true}), "/v1/notices", "all");
    let state = api.put("/v1/users/alice/state", &json!({"state": "away"}));
    assert_eq!(state.json()["error"]["field"], "state");
    assert_eq!(delete(&api, "/v1/users/alice?transfer_to=alice").status, 400);
    assert_eq!(delete(&api, "/v1/users/nobody").status, 404);
    assert_eq!(api.get("/v1/presence").status, 400);
}

#[test]
fn a_block_and_a_policy_are_told_to_the_sender_with_the_id_of_his_message() {
    let server = Server::start_with(&[&TWO_SHARDS[..], &["--private-policy", "friends"]].concat());
    let api = server.http();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let refused = |alice: &mut Client, id: &str, msg_type: &str| {
        alice.send_c2c(id, "bob", &json!("x"));
        let frame = alice.next();
        let ts = frame["server_ts"].as_u64().expect("ms");
        assert_eq!(
            frame,
            json!({"id": id, "type": "S2C", "from": "", "to": "bob",
                "payload": {"msg_type": msg_type}, "created_at": ts, "server_ts": ts})
        );
        // The app acknowledges whatever is S2C.
        ack(alice, &frame);
    };
    refused(&mut alice, &xid(1), "not_a_friend");
    refused(&mut alice, "m-1", "not_a_friend");
    befriend(&api, "alice", "bob");
    told(&mut bob, "apply_friend");
    told(&mut alice, "apply_friend_confirm");
    alice.send_stored(&xid(2), "bob", &json!("x"));
    assert_eq!(bob.next()["payload"], "x");
    done(&api.request("PUT", "/v1/users/bob/blocks/alice", None));
    refused(&mut alice, &xid(3), "in_denylist");
    done(&delete(&api, "/v1/users/bob/blocks/alice"));
    alice.send_stored(&xid(4), "bob", &json!("y"));
    assert_eq!(bob.next()["payload"], "y");
}

#[test]
fn friends_see_who_comes_and_hides() {
    let server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    for id in ["alice", "bob", "carol"] {
        put_user(&api, id, &json!({}));
    }
    befriend(&api, "alice", "bob");
    let mut bob = Client::connect(&server, "bob", "b");
    told(&mut bob, "apply_friend");
    let mut carol = Client::connect(&server, "carol", "c");
    let mut alice = Client::connect(&server, "alice", "a");
    let frame = told(&mut bob, "online");
    assert_eq!((&frame["from"], &frame["to"]), (&json!("alice"), &json!("bob")));
    told(&mut alice, "apply_friend_confirm");
    let presence = |users: &str| api.get(&format!("/v1/presence?{users}")).json()["items"].clone();
    assert_eq!(
        presence("user=alice&user=carol&user=dave"),
        json!([{"user": "alice", "state": "online"}, {"user": "carol", "state": "online"},
            {"user": "dave", "state": "offline"}])
    );
    let connected = api.get("/v1/users/alice/connections").json();
    let item = &connected["items"][0];
    assert_eq!((&item["dialect"], &item["device"]), (&json!("imboy"), &json!("a")));
    assert!(item["since_ts"].as_u64().is_some_and(|ms| ms / 1000 <= wall_s()));
    done(&api.put("/v1/users/alice/state", &json!({"state": "hide"})));
    told(&mut bob, "hide");
    assert_eq!(presence("user=alice"), json!([{"user": "alice", "state": "hide"}]));
    done(&api.put("/v1/users/alice/state", &json!({"state": "online"})));
    told(&mut bob, "online");
    bob.nothing_more();
    carol.nothing_more();
}

#[test]
fn who_is_kicked_may_come_again_and_who_is_banned_may_not() {
    let mut server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    let mut phone = Client::connect(&server, "bob", "phone");
    let mut tablet = Client::connect(&server, "bob", "tablet");
    told(&mut phone, "logged_another_device");
    done(&api.post("/v1/users/bob/kick", &json!({"device": "phone"})));
    let error = phone.next();
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(2)));
    assert!(error["payload"]["title"].is_string() && error["payload"]["content"].is_string());
    assert_eq!(phone.closed(), Some(4006));
    tablet.nothing_more();
    let mut phone = Client::connect(&server, "bob", "phone");
    phone.nothing_more();
    told(&mut tablet, "logged_another_device");
    done(&api.post("/v1/users/bob/ban", &json!({"reason": "for \"spam\""})));
    for client in [&mut phone, &mut tablet] {
        let error = client.next();
        assert_eq!(
            (&error["code"], &error["payload"]["content"]),
            (&json!(2), &json!("for \"spam\""))
        );
        assert_eq!(client.closed(), Some(4006));
    }
    server.kill9();
    server.restart(&TWO_SHARDS);
    let ban = server.http().get("/v1/users/bob").json()["ban"].clone();
    assert_eq!(ban, json!({"until": null, "reason": "for \"spam\""}));
    let mut phone = Client::connect(&server, "bob", "phone");
    assert_eq!(phone.next()["code"], 706);
    assert_eq!(phone.closed(), Some(4006));
    done(&delete(&server.http(), "/v1/users/bob/ban"));
    Client::connect(&server, "bob", "phone").nothing_more();
}

#[test]
fn a_cancelled_account_is_gone_for_its_friends_and_groups() {
    let mut server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    for id in ["alice", "bob", "carol"] {
        put_user(&api, id, &json!({}));
    }
    befriend(&api, "alice", "bob");
    let group = |id: &str| json!({"id": id, "owner": "alice", "members": ["bob", "carol"]});
    assert_eq!(api.post("/v1/groups", &group("team")).status, 201);
    let mut alice = Client::connect(&server, "alice", "a");
    told(&mut alice, "apply_friend_confirm");
    done(&delete(&api, "/v1/users/alice?transfer_to=carol"));
    assert_eq!(alice.next()["code"], 2);
    assert_eq!(alice.closed(), Some(4006));
    let mut bob = Client::connect(&server, "bob", "b");
    told(&mut bob, "apply_friend");
    // Two conversations, and what an account owes them is done in its own time.
    let mut events = Vec::new();
    for _ in 0..2 {
        let frame = bob.next();
        ack(&mut bob, &frame);
        assert_eq!((&frame["from"], &frame["to"]), (&json!("alice"), &json!("bob")));
        events.push(frame["payload"]["msg_type"].as_str().expect("a word").to_owned());
    }
    events.sort_unstable();
    assert_eq!(events, ["group_member_leave", "user_cancel"]);
    server.kill9();
    server.restart(&TWO_SHARDS);
    let api = server.http();
    let mut alice = Client::connect(&server, "alice", "a");
    assert_eq!(alice.next()["code"], 706);
    assert_eq!(api.get("/v1/users/alice").status, 404);
    assert_eq!(api.put("/v1/users/alice", &json!({})).status, 409);
    assert_eq!(api.get("/v1/users/bob/friends").json(), json!({"items": []}));
    let team = api.get("/v1/groups/team").json();
    assert_eq!((&team["owner"], &team["members"]), (&json!("carol"), &json!(2)));
}

#[test]
fn a_business_notice_is_an_event_of_its_kind() {
    let server = Server::start_with(&TWO_SHARDS);
    let api = server.http();
    let mut bob = Client::connect(&server, "bob", "b");
    Client::connect(&server, "alice", "a").close();
    let notice = json!({"to": ["bob", "nobody", "alice"], "id": "n1", "stream": "orders",
        "kind": "shipped", "title": "On its way", "content": {"no": [7, "x"]}});
    for _ in 0..2 {
        let sent = api.post("/v1/notices", &notice);
        assert_eq!((sent.status, sent.json()), (200, json!({"unknown": ["nobody"]})));
    }
    let payload =
        json!({"msg_type": "shipped", "title": "On its way", "content": {"no": [7, "x"]}});
    let frame = told(&mut bob, "shipped");
    assert_eq!((&frame["payload"], &frame["from"]), (&payload, &json!("")));
    bob.nothing_more();
    let mut alice = Client::connect(&server, "alice", "a");
    assert_eq!(told(&mut alice, "shipped")["payload"], payload);
    alice.nothing_more();
}
