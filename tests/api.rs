//! The HTTP API and the command line of a real process: what it makes at its start, what survives
//! a crash, how it ends.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::thread;

use common::http::Http;
use common::{DEADLINE, Server, ringpost};
use serde_json::json;
use sha2::{Digest, Sha256};

#[test]
fn a_server_without_configuration_is_ready_and_says_how_to_use_it() {
    let server = Server::start();
    let open = Http::new(server.api_addr());
    assert_eq!(open.get("/healthz").status, 200);
    assert_eq!(open.get("/readyz").status, 200);
    for path in ["/metrics", "/v1/info", "/v1/users/u", "/nothing"] {
        assert_eq!(open.get(path).status, 401, "{path}");
    }
    for name in ["token-secret", "api-key"] {
        let mode = fs::metadata(server.data().join(name)).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let mode = fs::metadata(server.data()).expect("made").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let log = server.log();
    assert!(log.contains(&server.data().join("api-key").display().to_string()), "{log}");
    assert!(log.contains(&format!("ws://{}/imboy/ws?did=1&token=$(", server.addr())), "{log}");
    let secret = fs::read_to_string(server.data().join("token-secret")).expect("made");
    assert!(!log.contains(secret.trim()) && !log.contains(&server.api_key()), "no secret is shown");
    let info = server.http().get("/v1/info").json();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let metrics = server.http().get("/metrics");
    assert!(metrics.body.contains("ringpost_ready 1\n"), "{}", metrics.body);
}

#[test]
fn a_user_is_durable_when_the_answer_comes() {
    let mut server = Server::start_with(&["--shards", "2"]);
    let api = server.http();
    // Homes on both shards, and one that is created by connecting later.
    for n in 0..8 {
        let put = api.put(&format!("/v1/users/u{n}"), &json!({"name": n.to_string()}));
        assert_eq!(put.status, 201, "{put:?}");
    }
    let put = api.put("/v1/users/u0", &json!({"email": "a@b.c"}));
    assert_eq!(put.status, 200);
    let created = put.json()["created_ts"].as_u64().expect("ms");
    assert!(created / 1000 <= common::wall_s());
    server.kill9();
    server.restart(&["--shards", "1"]);
    let api = server.http();
    assert_eq!(
        api.get("/v1/users/u0").json(),
        json!({"id": "u0", "name": "0", "email": "a@b.c", "created_ts": created})
    );
    for n in 1..8 {
        assert_eq!(api.get(&format!("/v1/users/u{n}")).json()["name"], n.to_string());
    }
    assert_eq!(api.get("/v1/users/u8").status, 404);
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let server = Server::start_with(&["--shards", "2"]);
    let fields = ["name", "avatar", "email", "account", "sign", "region", "org", "gender"];
    thread::scope(|scope| {
        for field in fields {
            let api = server.http();
            scope.spawn(move || {
                for n in 0..10 {
                    assert!(api.put("/v1/users/u", &json!({ field: n.to_string() })).status < 202);
                }
            });
        }
    });
    let user = server.http().get("/v1/users/u").json();
    for field in fields {
        assert_eq!(user[field], "9", "{field} in {user}");
    }
}

#[test]
fn tokens_of_the_api_and_of_the_command_are_taken() {
    let server = Server::start();
    let data = server.data();
    let data = data.to_str().expect("UTF-8");
    let minted = server.http().post("/v1/tokens", &json!({"user": "u1", "ttl_s": 60}));
    assert_eq!(minted.status, 200);
    let from_api = minted.json()["token"].as_str().expect("a token").to_owned();
    let output = ringpost(&["token", "--user", "u2", "--data", data, "--exp-unit", "ms"]);
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    let from_command = String::from_utf8(output.stdout).expect("ASCII");
    for token in [from_api.as_str(), from_command.trim_end(), &server.token("u3")] {
        assert_eq!(upgrade(&server, token), "HTTP/1.1 101 Switching Protocols");
    }
}

/// The first line that answers an imboy upgrade with this token.
fn upgrade(server: &Server, token: &str) -> String {
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("above zero");
    let request = format!(
        "GET /imboy/ws?did=d&token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("ASCII").trim_end().to_owned()
}

#[test]
fn configured_keys_replace_the_generated_ones() {
    let hash = Sha256::digest(b"reader's key");
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!(
        "[metrics]\npublic = true\n[[api.key]]\nname = \"reader\"\nhash = \"sha256:{hash}\"\n\
         scopes = [\"read\"]\n[[auth]]\nsecret = \"a secret of the operator's own\"\n"
    );
    let mut path = None;
    let server = Server::start_prepared(&["--config", "ringpost.toml"], |directory| {
        fs::write(directory.join("ringpost.toml"), &config).expect("written");
        path = Some(directory.join("ringpost.toml"));
    });
    let open = Http::new(server.api_addr());
    assert_eq!(open.get("/metrics").status, 200);
    let reader = Http::new(server.api_addr()).with_key("reader's key");
    assert_eq!(reader.get("/v1/users/u").status, 404);
    assert_eq!(reader.put("/v1/users/u", &json!({})).status, 403);
    assert_eq!(reader.post("/v1/tokens", &json!({"user": "u", "ttl_s": 1})).status, 403);
    for name in ["api-key", "token-secret"] {
        assert!(!server.data().join(name).exists(), "{name} is not made");
    }
    let path = path.expect("it was prepared");
    let config = ["--config", path.to_str().expect("UTF-8")];
    let output = ringpost(&[&["token", "--user", "u"], &config[..]].concat());
    let token = String::from_utf8(output.stdout).expect("ASCII");
    assert_eq!(upgrade(&server, token.trim_end()), "HTTP/1.1 101 Switching Protocols");
}

#[test]
fn a_terminated_server_ends_with_0_and_keeps_its_secrets() {
    let mut server = Server::start_with(&["--drain-s", "0"]);
    assert_eq!(server.http().put("/v1/users/u", &json!({"name": "N"})).status, 201);
    let (key, token) = (server.api_key(), server.token("u"));
    assert_eq!(server.sigterm_and_wait().code(), Some(0), "{}", server.log());
    server.restart(&["--drain-s", "0"]);
    assert_eq!(server.api_key(), key);
    assert_eq!(server.http().get("/v1/users/u").json()["name"], "N");
    assert_eq!(upgrade(&server, &token), "HTTP/1.1 101 Switching Protocols");
    server.signal(libc::SIGINT);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_server_that_nobody_listens_to_goes_on() {
    let mut server = Server::start_unheard();
    // Minting is logged.
    let minted = server.http().post("/v1/tokens", &json!({"user": "u", "ttl_s": 60}));
    assert_eq!(minted.status, 200);
    assert_eq!(server.sigterm_and_wait().code(), Some(0));
}

#[test]
fn a_second_server_over_the_same_store_is_refused() {
    let server = Server::start();
    let data = server.data();
    let data = data.to_str().expect("UTF-8");
    let listen = ["--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"];
    let output = ringpost(&[&["serve", "--data", data], &listen[..]].concat());
    assert_eq!(output.status.code(), Some(75));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(data), "{said}");
    assert_eq!(server.http().put("/v1/users/u", &json!({})).status, 201, "the first goes on");
}

#[test]
fn an_address_in_use_is_told() {
    let server = Server::start();
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let api = server.api_addr().to_string();
    let output =
        ringpost(&["serve", "--data", data, "--listen", "127.0.0.1:0", "--api-listen", &api]);
    assert_eq!(output.status.code(), Some(72));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&api));
}

#[test]
fn wrong_usage_and_configuration_are_status_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringpost.toml");
    fs::write(&file, "shard = 2\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    for (args, words) in [
        (vec!["serve", "--shards", "0"], "flag --shards: must be 1 to 256"),
        (vec!["serve", "--config", file], "shard: unknown key"),
        (vec!["serve", "--config", "/nonexistent"], "/nonexistent: cannot read it"),
        (vec!["serve", "--nonsense"], "--nonsense"),
        (vec![], "Usage"),
    ] {
        let output = ringpost(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let missing = ringpost(&["token", "--user", "u", "--data", "/nonexistent"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/token-secret"));
    let help = ringpost(&["serve", "--help"]);
    assert!(help.status.success() && help.stdout.starts_with(b"Run the server"));
}
