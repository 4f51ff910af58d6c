//! The API over a mesh whose one shard is played by the test. What only the whole server can show
//! is in the tests of the process.

#[allow(dead_code)] // It has what the tests of the process need, too.
#[path = "../../tests/common/http.rs"]
mod http;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use ringpost_core::event::UserRow;
use ringpost_core::ids::{ShardId, UserId};
use serde_json::{Value, json};

use super::*;
use crate::config::{ApiKey, Scope};
use crate::mesh::{EndStep, Inbox, Parcel};
use crate::token;
use http::Http;

const DEADLINE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret of thirty-two bytes, so";

/// An API with one shard, which `play` plays until the API has ended.
struct Stage {
    control: Option<Control>,
    shard: Option<JoinHandle<Vec<&'static str>>>,
    process: Process,
    address: SocketAddr,
}

impl Stage {
    fn new(times: Times, keys: &[ApiKey], play: fn(&Inbox) -> Vec<&'static str>) -> Stage {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (mesh, mut inboxes) = Mesh::new(1).expect("a descriptor");
        let store = Weak::<ringpost_storage::Fake>::new();
        let (health, stats) = (Health::default(), Stats::new(1));
        let process =
            Process { mesh, health, stats, store, dialects: Arc::default(), epoch: 0xabc };
        let inbox = inboxes.remove(0);
        let shard = thread::spawn(move || play(&inbox));
        let keys = ApiKeys::new(keys, || Ok::<_, ()>("k".to_owned())).expect("no error");
        let (_, signer) = token::keys(&[], || Ok(SECRET.to_owned())).expect("no file");
        let setup = Setup { keys, signer, metrics_public: false };
        let control = Control::start_timed(listener, setup, process.clone(), times);
        let control = Some(control.expect("a thread"));
        Stage { control, shard: Some(shard), process, address }
    }

    fn http(&self) -> Http {
        Http::new(self.address).with_key("k")
    }

    /// Ends the API, then the shard; what the shard was asked.
    fn end(mut self) -> Vec<&'static str> {
        self.control.take().expect("it runs").stop();
        self.process.mesh.send(ShardId(0), Parcel::End(EndStep::Stop));
        self.shard.take().expect("it runs").join().expect("it does not panic")
    }
}

/// Waits for the next parcel; `None` at the end.
fn next(inbox: &Inbox) -> Option<(Operation, oneshot::Sender<Answer>)> {
    let mut bell = inbox.bell().expect("a descriptor");
    loop {
        inbox.wake();
        match inbox.take() {
            Some(Parcel::Ask { operation, answer }) => return Some((operation, answer)),
            Some(Parcel::End(_)) => return None,
            Some(parcel) => panic!("{parcel:?}"),
            None => {
                inbox.sleep();
                if inbox.waiting() == 0 {
                    bell.read_exact(&mut [0; 8]).expect("an eventfd");
                }
            }
        }
    }
}

/// A shard that keeps users in memory.
fn honest(inbox: &Inbox) -> Vec<&'static str> {
    let mut users: BTreeMap<UserId, UserRow> = BTreeMap::new();
    let mut asked = Vec::new();
    while let Some((operation, answer)) = next(inbox) {
        let answered = match operation {
            Operation::GetUser { user } => {
                asked.push("get");
                match users.get(&user) {
                    Some(row) => Answer::User { row: row.clone(), created: false },
                    None => Answer::NoSuchUser,
                }
            }
            Operation::PutUser { user, profile } => {
                asked.push("put");
                let row = UserRow { created_ms: 5, profile, ..UserRow::default() };
                let created = users.insert(user, row.clone()).is_none();
                Answer::User { row, created }
            }
            other => panic!("{other:?}: the tests here ask about profiles only"),
        };
        // Whoever asked may have given up.
        let _gone = answer.send(answered);
    }
    asked
}

/// A shard that answers nothing as long as the process lives.
fn silent(inbox: &Inbox) -> Vec<&'static str> {
    let mut held = Vec::new();
    while let Some(asked) = next(inbox) {
        held.push(asked);
    }
    Vec::new()
}

#[test]
fn a_profile_is_created_changed_and_cleared() {
    let stage = Stage::new(TIMES, &[], honest);
    let api = stage.http();
    let put = api.put("/v1/users/u1", &json!({"name": "N", "gender": 1, "extra": {"a": [1]}}));
    assert_eq!(put.status, 201, "{put:?}");
    let whole = json!({"id": "u1", "created_ts": 5, "name": "N", "gender": 1, "extra": {"a": [1]}});
    assert_eq!(put.json(), whole);
    let put = api.put("/v1/users/u1", &json!({"gender": null, "org": "O", "role": "service"}));
    assert_eq!(put.status, 200);
    let whole = json!({"id": "u1", "created_ts": 5, "name": "N", "org": "O", "role": "service",
                       "extra": {"a": [1]}});
    assert_eq!(put.json(), whole);
    assert_eq!(api.get("/v1/users/u1").json(), whole);
    // The percent-encoded form of the same id, and of another one that needs it.
    assert_eq!(api.get("/v1/users/%751").json(), whole);
    assert_eq!(api.put("/v1/users/a%40b.c%3A1", &json!({})).status, 201);
    assert_eq!(api.get("/v1/users/a@b.c:1").json()["id"], "a@b.c:1");
    assert_eq!(api.get("/v1/users/u2").error_code(), "not_found");
    stage.end();
}

#[test]
fn changes_of_one_user_do_not_lose_each_other() {
    let stage = Stage::new(TIMES, &[], honest);
    let fields = ["name", "avatar", "email", "account", "sign", "region", "org", "gender"];
    let (address, rounds) = (stage.address, 20);
    let writers = fields.map(|field| {
        thread::spawn(move || {
            let api = Http::new(address).with_key("k");
            for round in 0..rounds {
                let put = api.put("/v1/users/u", &json!({ field: round.to_string() }));
                assert!(matches!(put.status, 200 | 201), "{put:?}");
            }
        })
    });
    for writer in writers {
        writer.join().expect("it does not panic");
    }
    let user = stage.http().get("/v1/users/u").json();
    for field in fields {
        assert_eq!(user[field], (rounds - 1).to_string(), "{field} in {user}");
    }
    let asked = stage.end();
    assert!(asked[..asked.len() - 1].chunks(2).all(|pair| pair == ["get", "put"]), "{asked:?}");
}

#[test]
fn bad_profiles_are_refused_with_their_field() {
    let stage = Stage::new(TIMES, &[], honest);
    let api = stage.http();
    for (body, code, field) in [
        (json!({"nick": "x"}), "unknown_field", "nick"),
        (json!({"name": "x", "id": "y"}), "unknown_field", "id"),
        (json!({"name": 1}), "invalid_field", "name"),
        (json!({"name": "x".repeat(257)}), "invalid_field", "name"),
        (json!({"gender": -1}), "invalid_field", "gender"),
        (json!({"role": "root"}), "invalid_field", "role"),
        (json!({"owner": "a b"}), "invalid_field", "owner"),
        (json!({"avatar": ["x"]}), "invalid_field", "avatar"),
    ] {
        let answer = api.put("/v1/users/u", &body);
        assert_eq!(answer.status, 400, "{body}");
        let error = &answer.json()["error"];
        assert_eq!((&error["code"], &error["field"]), (&json!(code), &json!(field)), "{body}");
    }
    for id in ["all", "0", "a%20b", "group:1", "%ff", &"x".repeat(65)] {
        let answer = api.put(&format!("/v1/users/{id}"), &json!({}));
        assert_eq!(answer.status, 400, "{id}");
        assert_eq!(answer.json()["error"]["field"], "id", "{id}");
    }
    for body in ["", "[]", "{", "\"x\""] {
        let answer = api.request("PUT", "/v1/users/u", Some(body.as_bytes()));
        assert_eq!((answer.status, answer.error_code()), (400, "bad_request".to_owned()), "{body}");
    }
    let large = json!({ "extra": "x".repeat(64 << 10) });
    assert_eq!(api.put("/v1/users/u", &large).status, 413);
    let over = json!({ "extra": "x".repeat(1 << 20) });
    assert_eq!(api.put("/v1/users/u", &over).status, 413);
    assert!(!stage.end().contains(&"put"), "nothing of it was stored");
}

#[test]
fn every_refusal_has_the_same_form() {
    let stage = Stage::new(TIMES, &[], honest);
    let (known, unknown) = (stage.http(), Http::new(stage.address));
    let check = |answer: http::Response, status: u16, code: &str| {
        assert_eq!((answer.status, answer.error_code()), (status, code.to_owned()), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert!(answer.json()["error"]["message"].is_string());
    };
    check(known.get("/v1/nothing"), 404, "not_found");
    check(known.get("/"), 404, "not_found");
    check(known.request("DELETE", "/v1/tokens", None), 405, "method_not_allowed");
    let answer = known.request("PATCH", "/v1/users/u", Some(b"{}"));
    let allow = answer.header("allow").expect("RFC 9110 section 15.5.6 asks for it");
    assert!(allow.contains("GET") && allow.contains("PUT"), "{allow}");
    for path in ["/v1/users/u", "/v1/info", "/metrics", "/v1/nothing", "/"] {
        let answer = unknown.get(path);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
        check(answer, 401, "unauthorized");
        check(Http::new(stage.address).with_key("other").get(path), 401, "unauthorized");
    }
    check(unknown.put("/v1/users/u", &json!({})), 401, "unauthorized");
    check(unknown.post("/v1/tokens", &json!({})), 401, "unauthorized");
    assert!(stage.end().is_empty(), "no shard was asked anything");
}

#[test]
fn scopes_are_kept_apart() {
    use sha2::{Digest, Sha256};
    let key = |name: &str, scope| ApiKey {
        name: name.to_owned(),
        hash: Sha256::digest(name.as_bytes()).into(),
        scopes: vec![scope],
    };
    let keys =
        [key("reader", Scope::Read), key("writer", Scope::Write), key("admin", Scope::Admin)];
    let stage = Stage::new(TIMES, &keys, honest);
    let token = json!({"user": "u", "ttl_s": 60});
    for (name, expected) in
        [("reader", [403, 404, 403]), ("writer", [201, 403, 403]), ("admin", [403, 403, 200])]
    {
        let api = Http::new(stage.address).with_key(name);
        let path = format!("/v1/users/{name}");
        let statuses = [
            api.put(&path, &json!({})).status,
            api.get(&path).status,
            api.post("/v1/tokens", &token).status,
        ];
        assert_eq!(statuses, expected, "{name}");
    }
    // A key that may not is told so before its body is looked at.
    let api = Http::new(stage.address).with_key("reader");
    assert_eq!(api.request("PUT", "/v1/users/u", Some(b"{")).status, 403);
    stage.end();
}

#[test]
fn tokens_are_minted_as_asked() {
    let stage = Stage::new(TIMES, &[], honest);
    let api = stage.http();
    let asked = json!({"user": "u1", "device": "d1", "platform": "ios", "app": "a",
                       "role": "service", "ttl_s": 3600, "exp_unit": "ms"});
    let answer = api.post("/v1/tokens", &asked);
    assert_eq!(answer.status, 200, "{answer:?}");
    let token = answer.json()["token"].as_str().expect("a token").to_owned();
    let (tokens, _) = token::keys(&[], || Ok(SECRET.to_owned())).expect("no file");
    let checked = ringpost_core::admit::TokenCheck::check(&tokens, wall_ms(), &token);
    assert_eq!(checked.expect("valid").device.as_deref(), Some("d1"));
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(&token).expect("claims");
    assert!(claims["exp"].as_u64().expect("a number") > 100_000_000_000, "milliseconds");
    for (body, field) in [
        (json!({"ttl_s": 60}), "user"),
        (json!({"user": "all", "ttl_s": 60}), "user"),
        (json!({"user": "u"}), "ttl_s"),
        (json!({"user": "u", "ttl_s": 0}), "ttl_s"),
        (json!({"user": "u", "ttl_s": "60"}), "ttl_s"),
        (json!({"user": "u", "ttl_s": u64::MAX}), "ttl_s"),
        (json!({"user": "u", "ttl_s": 60, "exp_unit": "h"}), "exp_unit"),
        (json!({"user": "u", "ttl_s": 60, "role": "admin"}), "role"),
        (json!({"user": "u", "ttl_s": 60, "device": ""}), "device"),
        (json!({"user": "u", "ttl_s": 60, "scope": "all"}), "scope"),
    ] {
        let answer = api.post("/v1/tokens", &body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"]["field"], field, "{body}");
    }
    stage.end();
}

#[test]
fn readiness_follows_the_process() {
    let stage = Stage::new(TIMES, &[], honest);
    let api = Http::new(stage.address);
    assert_eq!(api.get("/healthz").status, 200);
    let starting = api.get("/readyz");
    assert_eq!((starting.status, starting.error_code()), (503, "unavailable".to_owned()));
    stage.process.health.set_listening();
    assert_eq!(api.get("/readyz").status, 200);
    stage.process.health.set_draining();
    let draining = api.get("/readyz");
    assert_eq!(draining.status, 503);
    assert_eq!(draining.header("retry-after"), Some("1"));
    assert_eq!(api.get("/healthz").status, 200);
    let info = stage.http().get("/v1/info").json();
    assert_eq!(info["shards"], 1);
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let metrics = stage.http().get("/metrics");
    let kind = metrics.header("content-type").expect("a kind");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(metrics.body.ends_with("# EOF\n"));
    stage.end();
}

#[test]
fn a_shard_that_does_not_answer_is_503() {
    let times = Times { answer: Duration::from_millis(1), ..TIMES };
    let stage = Stage::new(times, &[], silent);
    for answer in [stage.http().get("/v1/users/u"), stage.http().put("/v1/users/u", &json!({}))] {
        assert_eq!((answer.status, answer.error_code()), (503, "unavailable".to_owned()));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    stage.end();
}

#[test]
fn a_shard_that_has_ended_is_503() {
    let stage = Stage::new(TIMES, &[], silent);
    stage.process.mesh.send(ShardId(0), Parcel::End(EndStep::Stop));
    let answer = stage.http().get("/v1/users/u");
    assert_eq!((answer.status, answer.error_code()), (503, "unavailable".to_owned()));
    stage.end();
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let times = Times { request: Duration::from_millis(1), ..TIMES };
    let stage = Stage::new(times, &[], honest);
    let head = b"PUT /v1/users/u HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\
                 Content-Length: 2\r\n\r\n{";
    let answer = stage.http().raw(head);
    assert_eq!((answer.status, answer.error_code()), (408, "timeout".to_owned()));
    stage.end();
}

#[test]
fn the_end_waits_for_requests_but_not_for_ever() {
    let times = Times { stop: Duration::from_millis(1), ..TIMES };
    let stage = Stage::new(times, &[], silent);
    let mut stream = TcpStream::connect(stage.address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("above zero");
    // The first answer shows that the connection is being served; the second request hangs.
    let head = "HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n\r\n";
    stream.write_all(format!("GET /healthz {head}").as_bytes()).expect("sent");
    stream.read_exact(&mut [0; 12]).expect("an answer");
    stream.write_all(format!("GET /v1/users/u {head}").as_bytes()).expect("sent");
    let (ended, end) = mpsc::channel();
    let waiter = thread::spawn(move || {
        stage.end();
        ended.send(()).expect("the test waits");
    });
    end.recv_timeout(DEADLINE).expect("it ends although a request hangs");
    waiter.join().expect("it does not panic");
    let mut rest = Vec::new();
    // Ended or reset, but not left open.
    let _reset = stream.read_to_end(&mut rest);
}
