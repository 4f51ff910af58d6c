//! Groups and messages of the HTTP API end to end: a real server, real clients, the frames of
//! protocols/imboy.md.

mod common;

use common::Server;
use common::client::{Client, xid};
use serde_json::{Value, json};

const TWO_SHARDS: [&str; 2] = ["--shards", "2"];

fn put_users(server: &Server, users: &[&str]) {
    for user in users {
        let put = server.http().put(&format!("/v1/users/{user}"), &json!({}));
        assert_eq!(put.status, 201, "{}", put.body);
    }
}

fn found(server: &Server, id: &str, owner: &str, members: &[&str]) {
    put_users(server, &[&[owner], members].concat());
    let group = json!({"id": id, "name": "The team", "owner": owner, "members": members});
    let made = server.http().post("/v1/groups", &group);
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.json()["members"], members.len() + 1);
}

fn say(client: &mut Client, id: &str, group: &str, payload: &Value) {
    let frame = json!({"id": id, "type": "C2G", "to": group, "payload": payload});
    client.send_text(&frame.to_string()).expect("connected");
    let receipt = client.next();
    assert_eq!((&receipt["type"], &receipt["id"]), (&json!("C2G_SERVER_ACK"), &json!(id)));
}

/// Takes the next frame and acknowledges it.
fn take(client: &mut Client, did: &str) -> Value {
    let frame = client.next();
    let (kind, id) = (frame["type"].as_str(), frame["id"].as_str());
    let (kind, id) = (kind.expect("a type"), id.expect("an id"));
    client.send_text(&format!("CLIENT_ACK,{kind},{id},{did}")).expect("connected");
    frame
}

#[test]
fn three_users_talk_in_a_group_and_see_who_comes_and_goes() {
    let server = Server::start_with(&TWO_SHARDS);
    found(&server, "team", "alice", &["bob", "carol"]);
    put_users(&server, &["dave"]);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let payload = json!({"msg_type": "text", "text": "hello, all"});
    say(&mut alice, &xid(1), "team", &payload);
    let frame = take(&mut bob, "b");
    let ts = frame["server_ts"].clone();
    assert_eq!(
        frame,
        json!({"id": xid(1), "type": "C2G", "from": "alice", "to": "team", "payload": payload,
            "created_at": ts, "server_ts": ts})
    );
    alice.nothing_more();
    // Carol was away; she gets it when she comes, once.
    let mut carol = Client::connect(&server, "carol", "c");
    assert_eq!(take(&mut carol, "c")["id"], xid(1));
    carol.nothing_more();

    let http = server.http();
    let added =
        http.post("/v1/groups/team/members", &json!({"users": ["dave"], "operator": "bob"}));
    assert_eq!(added.status, 200, "{}", added.body);
    assert_eq!(added.json()["items"][0]["role"], "member");
    for (client, did) in [(&mut alice, "a"), (&mut bob, "b"), (&mut carol, "c")] {
        let event = take(client, did);
        assert_eq!((&event["type"], &event["from"]), (&json!("S2C"), &json!("bob")));
        let expected =
            json!({"msg_type": "group_member_join", "gid": "team", "user_ids": ["dave"]});
        assert_eq!(event["payload"], expected);
    }
    let alias = json!({"alias": "Dave D.", "description": "new here"});
    let changed =
        http.request("PATCH", "/v1/groups/team/members/dave", Some(alias.to_string().as_bytes()));
    assert_eq!((changed.status, &changed.json()["alias"]), (200, &json!("Dave D.")));
    let event = take(&mut alice, "a");
    assert_eq!(event["payload"]["msg_type"], "group_member_alias");
    assert_eq!((&event["alias"], &event["description"]), (&json!("Dave D."), &json!("new here")));
    assert_eq!(event["updated_at"], event["payload"]["updated_at"]);
    take(&mut bob, "b");

    let mut dave = Client::connect(&server, "dave", "d");
    assert_eq!(take(&mut dave, "d")["payload"]["msg_type"], "group_member_alias");
    say(&mut dave, &xid(2), "team", &json!("hi"));
    assert_eq!(take(&mut alice, "a")["payload"], "hi");
    let gone = http.request("DELETE", "/v1/groups/team/members/dave?operator=alice", None);
    assert_eq!(gone.status, 200, "{}", gone.body);
    for (client, did) in [(&mut alice, "a"), (&mut dave, "d")] {
        let event = take(client, did);
        let expected =
            json!({"msg_type": "group_member_leave", "gid": "team", "user_ids": ["dave"]});
        assert_eq!(event["payload"], expected);
    }
    say(&mut alice, &xid(3), "team", &json!("without Dave"));
    dave.nothing_more();
    assert_eq!(http.request("DELETE", "/v1/groups/team/members/alice", None).status, 403);
    assert_eq!(http.request("DELETE", "/v1/groups/team/members/dave", None).status, 404);
    assert_eq!(http.request("DELETE", "/v1/groups/team", None).status, 200);
    assert_eq!(
        take(&mut alice, "a")["payload"],
        json!({"msg_type": "group_dissolve", "gid": "team"})
    );
    assert_eq!(http.get("/v1/groups/team").json()["dissolved"], true);
    assert_eq!(http.request("DELETE", "/v1/groups/team", None).status, 404);
}

#[test]
fn the_groups_api_refuses_what_it_does_not_know_and_lists_in_pages() {
    let server = Server::start();
    let http = server.http();
    let members: Vec<String> = (0..250).map(|n| format!("u{n:03}")).collect();
    let names: Vec<&str> = members.iter().map(String::as_str).collect();
    found(&server, "big", "owner", &names);
    let mut listed = Vec::new();
    let mut path = "/v1/groups/big/members?limit=100".to_owned();
    loop {
        let page = http.get(&path).json();
        let items = page["items"].as_array().expect("items");
        listed.extend(items.iter().map(|item| item["user"].as_str().expect("an id").to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/groups/big/members?limit=100&after={next}");
    }
    assert_eq!(listed.len(), 251);
    assert!(listed.is_sorted());

    let made = http.post("/v1/groups", &json!({"owner": "owner", "join_policy": "open"}));
    let id = made.json()["id"].as_str().expect("an id of the server's").to_owned();
    let changed = json!({"name": "n", "notice": "look"}).to_string();
    let path = format!("/v1/groups/{id}");
    let changed = http.request("PATCH", &path, Some(changed.as_bytes())).json();
    assert_eq!((&changed["name"], &changed["join_policy"]), (&json!("n"), &json!("open")));
    let cleared = http.request("PATCH", &path, Some(br#"{"name": null}"#)).json();
    assert_eq!((cleared.get("name"), &cleared["notice"]), (None, &json!("look")));
    for (body, field) in [
        (json!({"owner": "owner", "id": "a b"}), "id"),
        (json!({"owner": "owner", "id": "single:x"}), "id"),
        (json!({"owner": 7}), "owner"),
        (json!({"owner": "owner", "members": "bob"}), "members"),
        (json!({"owner": "owner", "members": ["x y"]}), "members"),
        (json!({"owner": "owner", "join_policy": "maybe"}), "join_policy"),
        (json!({"owner": "owner", "colour": "red"}), "colour"),
    ] {
        let refused = http.post("/v1/groups", &body);
        assert_eq!(refused.status, 400, "{body}");
        assert_eq!(refused.json()["error"]["field"], field, "{body}");
    }
    let twice = http.post("/v1/groups", &json!({"id": "big", "owner": "owner"}));
    assert_eq!((twice.status, twice.error_code().as_str()), (409, "conflict"));
    let nobody = http.post("/v1/groups", &json!({"owner": "nobody"}));
    assert_eq!(nobody.status, 409);
    assert_eq!(http.get("/v1/groups/none").status, 404);
    assert_eq!(http.get("/v1/groups/none/members").status, 404);
    assert_eq!(http.get("/v1/groups/big/members?after=%21").status, 400);
    assert_eq!(http.get("/v1/groups/big/members?limit=0").status, 400);
}

#[test]
fn groups_survive_kill_9_and_another_number_of_shards() {
    let mut server = Server::start_with(&TWO_SHARDS);
    found(&server, "team", "alice", &["bob", "carol", "dave", "erin"]);
    let mut n = 0;
    let mut said: Vec<u32> = Vec::new();
    for shards in ["1", "3", "2"] {
        let mut alice = Client::connect(&server, "alice", "a");
        for _ in 0..20 {
            n += 1;
            say(&mut alice, &xid(n), "team", &json!(n));
            said.push(n);
        }
        server.kill9();
        server.restart(&["--shards", shards]);
    }
    for user in ["bob", "carol", "dave", "erin"] {
        let mut client = Client::connect(&server, user, "d");
        for expected in &said {
            assert_eq!(take(&mut client, "d")["payload"], *expected, "{user}");
        }
        client.nothing_more();
    }
    let mut alice = Client::connect(&server, "alice", "a");
    say(&mut alice, &xid(1), "team", &json!("a resend"));
    let mut bob = Client::connect(&server, "bob", "d");
    bob.nothing_more();
}

#[test]
fn messages_of_the_api_come_like_everybodys() {
    let server = Server::start_with(&TWO_SHARDS);
    found(&server, "team", "alice", &["bob"]);
    let http = server.http();
    let mut bob = Client::connect(&server, "bob", "b");
    let mut alice = Client::connect(&server, "alice", "a");
    let text = json!({"from": "alice", "to": {"user": "bob"}, "client_id": "c1",
        "content": {"kind": "text", "text": "from the office"}});
    let sent = http.post("/v1/messages", &text);
    assert_eq!(sent.status, 201, "{}", sent.body);
    let stored = sent.json();
    assert_eq!((&stored["conversation"], &stored["seq"]), (&json!("single:alice-bob"), &json!(1)));
    let frame = take(&mut bob, "b");
    assert_eq!(frame["payload"], json!({"msg_type": "text", "text": "from the office"}));
    assert_eq!((&frame["from"], &frame["id"]), (&json!("alice"), &stored["id"]));
    assert_eq!(http.post("/v1/messages", &text).json(), stored, "a resend is recognised");
    bob.nothing_more();
    alice.nothing_more();

    let raw = json!({"from": "alice", "to": {"group": "team"},
        "content": {"raw": {"dialect": "imboy", "payload": {"msg_type": "custom", "x": 1}}}});
    let stored = http.post("/v1/messages", &raw).json();
    assert_eq!(stored["conversation"], "group:team");
    let frame = take(&mut bob, "b");
    assert_eq!((&frame["type"], &frame["payload"]["x"]), (&json!("C2G"), &json!(1)));
    let path = format!("/v1/messages/{}", stored["id"].as_str().expect("an id"));
    let shown = http.get(&path).json();
    assert_eq!(shown["content"]["raw"]["payload"]["msg_type"], "custom");
    let revoked = http.post(&format!("{path}/revoke"), &json!({}));
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    assert_eq!(take(&mut bob, "b")["type"], "C2G_REVOKE");
    let shown = http.get(&path).json();
    assert_eq!((&shown["revoked"], shown.get("content")), (&json!(true), None));

    for (body, status, field) in [
        (json!({"from": "alice", "to": {"user": "bob"}}), 400, "content"),
        (json!({"from": "alice", "to": "bob", "content": {"kind": "text", "text": ""}}), 400, "to"),
        (
            json!({"from": "alice", "to": {"user": "bob"}, "content": {"kind": "smell"}}),
            400,
            "content.kind",
        ),
    ] {
        let refused = http.post("/v1/messages", &body);
        assert_eq!(refused.status, status, "{body}");
        assert_eq!(refused.json()["error"]["field"], field, "{body}");
    }
    let text = |from: &str, to: Value| json!({"from": from, "to": to, "content": {"kind": "text", "text": "x"}});
    for (body, status) in [
        (text("nobody", json!({"user": "bob"})), 404),
        (text("alice", json!({"user": "nobody"})), 404),
        (text("alice", json!({"group": "none"})), 404),
    ] {
        assert_eq!(http.post("/v1/messages", &body).status, status, "{body}");
    }
    assert_eq!(http.get("/v1/messages/9m4e2mr0ui3e8a215n4g").status, 404);
    assert_eq!(http.get("/v1/messages/nothing").status, 400);
}
