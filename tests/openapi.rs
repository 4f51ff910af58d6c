//! The server's OpenAPI document is what the server does: every operation in it is called, and answers
//! with a status and members that the document has. `make api-check` asks with generated data.

mod common;

use std::collections::BTreeSet;

use common::Server;
use serde_json::{Value, json};

/// One good call of each operation, in an order in which they work. `{message}` is the id of the
/// message sent last.
fn calls() -> Vec<(&'static str, &'static str, &'static str, Option<Value>)> {
    let put = |path, body| ("putUser", "PUT", path, Some(body));
    let profile = json!({"name": "A", "avatar": "a", "email": "e", "account": "ac", "sign": "s",
        "gender": 1, "region": "r", "org": "o", "role": "service", "owner": "bob",
        "extra": {"any": [1]}});
    let bodyless = |name, method, path| (name, method, path, None);
    let message = |content| json!({"from": "alice", "to": {"group": "team"}, "content": content});
    vec![
        put("/v1/users/alice", profile),
        put("/v1/users/bob", json!({})),
        put("/v1/users/carol", json!({})),
        bodyless("getUser", "GET", "/v1/users/alice"),
        bodyless("getInfo", "GET", "/v1/info"),
        ("mintToken", "POST", "/v1/tokens", Some(json!({"user": "alice", "ttl_s": 60}))),
        ("setUserState", "PUT", "/v1/users/bob/state", Some(json!({"state": "hide"}))),
        ("banUser", "POST", "/v1/users/bob/ban", Some(json!({"reason": "spam"}))),
        bodyless("getUser", "GET", "/v1/users/bob"),
        bodyless("unbanUser", "DELETE", "/v1/users/bob/ban"),
        ("kickUser", "POST", "/v1/users/bob/kick", Some(json!({}))),
        bodyless("listConnections", "GET", "/v1/users/alice/connections"),
        bodyless("getPresence", "GET", "/v1/presence?user=alice&user=bob&user=nobody"),
        ("askFriend", "POST", "/v1/friends/requests", Some(json!({"from": "alice", "to": "bob"}))),
        ("acceptFriend", "POST", "/v1/friends/accept", Some(json!({"from": "alice", "to": "bob"}))),
        bodyless("listFriends", "GET", "/v1/users/alice/friends?limit=10"),
        ("askFriend", "POST", "/v1/friends/requests", Some(json!({"from": "carol", "to": "bob"}))),
        ("rejectFriend", "POST", "/v1/friends/reject", Some(json!({"from": "carol", "to": "bob"}))),
        bodyless("endFriendship", "DELETE", "/v1/friends/alice/bob?by=bob"),
        bodyless("blockUser", "PUT", "/v1/users/bob/blocks/carol"),
        bodyless("unblockUser", "DELETE", "/v1/users/bob/blocks/carol"),
        (
            "createGroup",
            "POST",
            "/v1/groups",
            Some(json!({"id": "team", "owner": "alice",
            "members": ["bob"], "name": "T", "avatar": "a", "notice": "n", "creator": "bob",
            "is_post": true, "join_policy": "open"})),
        ),
        bodyless("getGroup", "GET", "/v1/groups/team"),
        ("changeGroup", "PATCH", "/v1/groups/team", Some(json!({"notice": null}))),
        ("addMembers", "POST", "/v1/groups/team/members", Some(json!({"users": ["carol"]}))),
        bodyless("listMembers", "GET", "/v1/groups/team/members?limit=2"),
        ("changeMember", "PATCH", "/v1/groups/team/members/bob", Some(json!({"alias": "B"}))),
        bodyless("removeMember", "DELETE", "/v1/groups/team/members/carol?operator=alice"),
        (
            "sendMessage",
            "POST",
            "/v1/messages",
            Some(message(json!({"raw": {"dialect": "imboy", "payload": [1]}}))),
        ),
        bodyless("getMessage", "GET", "/v1/messages/{message}"),
        (
            "sendMessage",
            "POST",
            "/v1/messages",
            Some(json!({"from": "bob", "to": {"user": "alice"},
            "content": {"kind": "text", "text": "later"}, "deliver_after_s": 1000})),
        ),
        (
            "sendMessage",
            "POST",
            "/v1/messages",
            Some(json!({"from": "alice", "client_id": "c1",
            "to": {"group": "team"}, "content": {"kind": "text", "text": "hi"},
            "mentions": ["bob", "all"]})),
        ),
        bodyless("getMessage", "GET", "/v1/messages/{message}"),
        bodyless("listMessages", "GET", "/v1/conversations/group:team/messages?limit=3"),
        bodyless("listConversations", "GET", "/v1/users/bob/conversations?limit=1"),
        (
            "markRead",
            "POST",
            "/v1/conversations/group:team/read",
            Some(json!({"user": "bob", "seq": 1})),
        ),
        ("revokeMessage", "POST", "/v1/messages/{message}/revoke", Some(json!({}))),
        bodyless("getMessage", "GET", "/v1/messages/{message}"),
        ("sendNotice", "POST", "/v1/notices", Some(json!({"to": ["bob", "nobody"], "kind": "k"}))),
        ("sendNotice", "POST", "/v1/notices", Some(json!({"all": true, "kind": "k"}))),
        bodyless("dissolveGroup", "DELETE", "/v1/groups/team"),
        bodyless("cancelUser", "DELETE", "/v1/users/carol?transfer_to=bob"),
    ]
}

#[test]
fn every_operation_answers_as_the_document_says() {
    let server = Server::start();
    let api = server.http();
    let document = api.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut message = String::new();
    let mut called = BTreeSet::new();
    for (name, method, path, body) in calls() {
        let path = path.replace("{message}", &message);
        let (template, operation) = described(&document, name);
        assert!(operation.get(method.to_lowercase()).is_some(), "{name} is no {method}");
        assert!(fits(template, path.split('?').next().expect("a path")), "{name}: {template}");
        let body = body.map(|body| body.to_string());
        let answer = api.request(method, &path, body.as_deref().map(str::as_bytes));
        let responses = &operation[method.to_lowercase()]["responses"];
        let expected = &responses[answer.status.to_string()];
        assert!(expected.is_object(), "{name}: {answer:?}");
        let schema = &expected["content"]["application/json"]["schema"];
        check(&document, schema, &answer.json(), name);
        if name == "sendMessage" && answer.json()["seq"].is_u64() {
            message = answer.json()["id"].as_str().expect("an id").to_owned();
        }
        called.insert(name);
    }
    let refused = api.get("/v1/users/nobody");
    let schema = json!({"$ref": "#/components/schemas/Error"});
    check(&document, &schema, &refused.json(), "a refusal");
    assert_eq!(called, names(&document), "each operation is called");
    assert_eq!(server.http().with_key("other").get("/openapi.json").status, 401);
}

fn names(document: &Value) -> BTreeSet<&str> {
    let items = document["paths"].as_object().expect("paths").values();
    let operations = items.flat_map(|item| item.as_object().expect("methods").values());
    operations.map(|operation| operation["operationId"].as_str().expect("a name")).collect()
}

/// The path of the operation of that name, and what stands there.
fn described<'a>(document: &'a Value, name: &str) -> (&'a str, &'a Value) {
    let mut paths = document["paths"].as_object().expect("paths").iter();
    let has = |item: &Value| {
        item.as_object()
            .expect("methods")
            .values()
            .any(|operation| operation["operationId"] == name)
    };
    let (path, item) = paths.find(|(_, item)| has(item)).unwrap_or_else(|| panic!("{name}"));
    (path, item)
}

/// Whether a path is one of a template.
fn fits(template: &str, path: &str) -> bool {
    let (wanted, given): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    wanted.len() == given.len()
        && wanted
            .iter()
            .zip(given)
            .all(|(wanted, given)| wanted.starts_with('{') || *wanted == given)
}

/// Holds a value to a schema: types, required and unknown members, lists.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("of this document");
        let schema = document.pointer(pointer).unwrap_or_else(|| panic!("{reference}"));
        return check(document, schema, value, place);
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        // Any JSON, or one of several schemas: the generated requests look closer.
        _ => return,
    };
    let is = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    assert!(kinds.iter().any(is), "{place}: {value} is none of {kinds:?}");
    for item in value.as_array().into_iter().flatten() {
        check(document, &schema["items"], item, place);
    }
    let Some(members) = value.as_object() else { return };
    let properties = &schema["properties"];
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(members.contains_key(name.as_str().expect("a name")), "{place}: no {name}");
    }
    for (name, value) in members {
        let place = format!("{place}.{name}");
        assert!(properties[name].is_object(), "{place} is not in the document");
        check(document, &properties[name], value, &place);
    }
}
