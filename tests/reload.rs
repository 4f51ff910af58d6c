//! SIGHUP: keys, limits and the log's level change, and nobody who is connected notices.

mod common;

use std::fs;
use std::path::Path;

use common::client::Client;
use common::http::Http;
use common::keys::Pair;
use common::{Server, wall_s};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tungstenite::Message;

/// A configuration with these API and token keys, and more.
fn write_config(directory: &Path, api_key: &str, auth: &str, more: &str) {
    let hash: String =
        Sha256::digest(api_key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!(
        "{more}\n[[api.key]]\nname = \"k\"\nhash = \"sha256:{hash}\"\nscopes = [\"read\"]\n\
         [[auth]]\n{auth}\n"
    );
    fs::write(directory.join("ringpost.toml"), text).expect("written");
}

fn write_keys(directory: &Path, keys: &[Value]) {
    fs::write(directory.join("keys.json"), json!({ "keys": keys }).to_string()).expect("written");
}

/// Has the server read everything again, for the `nth` time with success.
fn reload(server: &Server, nth: usize) {
    server.signal(libc::SIGHUP);
    server.until_logged("reloaded: the new settings", nth);
}

/// A client with this token: welcome, or told the error code.
fn connect(server: &Server, token: String) -> Result<Client, Value> {
    let headers = [("authorization", token), ("did", "d".to_owned())];
    let (mut client, _) = Client::with_headers(server, "/imboy/ws", &headers).expect("upgraded");
    client.send_text("ping").expect("connected");
    match client.next() {
        Value::String(pong) if pong == "pong2" => Ok(client),
        other => Err(other["code"].clone()),
    }
}

const JWKS: &str = "jwks_file = \"keys.json\"";

#[test]
fn token_keys_api_keys_and_the_log_level_change_under_open_connections() {
    let (one, two) = (Pair::eddsa(1), Pair::es256(2));
    let args = ["--shards", "2", "--config", "ringpost.toml"];
    let server = Server::start_prepared(&args, |directory| {
        write_config(directory, "first", JWKS, "");
        write_keys(directory, &[one.jwk(Some("one"))]);
    });
    let directory = server.directory();
    let claims = |user: &str| json!({"sub": user, "exp": wall_s() + 3600});
    let by_one = |user: &str| connect(&server, one.token(Some("one"), &claims(user)));
    let by_two = |user: &str| connect(&server, two.token(Some("two"), &claims(user)));
    let api = |key: &str| Http::new(server.api_addr()).with_key(key).get("/v1/info").status;
    // Users of both shards, whose connections stay.
    let mut old: Vec<Client> = (0..8).map(|n| by_one(&format!("u{n}")).expect("known")).collect();
    assert_eq!(by_two("v").err(), Some(json!(706)));
    assert_eq!((api("first"), api("second")), (200, 401));

    // The set is replaced; its name in the configuration is the same.
    write_keys(directory, &[two.jwk(Some("two"))]);
    reload(&server, 1);
    for n in 0..8 {
        by_two(&format!("w{n}")).expect("known now");
        assert_eq!(by_one(&format!("u{n}")).err(), Some(json!(706)));
    }
    // The configuration itself: another API key, and a secret in a file beside the set.
    let secret = "a secret of the operator's own, in a file";
    fs::write(directory.join("secret"), secret).expect("written");
    write_config(directory, "second", &format!("{JWKS}\n[[auth]]\nsecret_file = \"secret\""), "");
    reload(&server, 2);
    assert_eq!((api("first"), api("second")), (401, 200));
    let signed = |secret: &str| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims("x"), &key).expect("HS256")
    };
    connect(&server, signed(secret)).expect("known now");
    fs::write(directory.join("secret"), "another secret of the operator").expect("written");
    reload(&server, 3);
    assert_eq!(connect(&server, signed(secret)).err(), Some(json!(706)));
    connect(&server, signed("another secret of the operator")).expect("known now");

    // One request per second for a connection that has been there all the time.
    let limited = "drain_s = 10\n[rate_limit]\nrequests_per_s = 1\nrequests_burst = 1";
    write_config(directory, "second", JWKS, limited);
    reload(&server, 4);
    for n in 0..3 {
        let id = format!("m{n}");
        old[0].send_c2c(&id, "u1", &json!("x"));
    }
    let answers = [(); 3].map(|()| old[0].next()["type"].clone());
    assert!(answers.contains(&json!("error")), "{answers:?}");

    // What breaks the protocol is logged at the level debug.
    let words = "the peer broke the protocol";
    let break_protocol = || {
        let mut client = by_two("y").expect("known");
        client.send_raw(Message::binary(vec![0; 2 << 20])).ok();
        assert_eq!(client.closed(), Some(1009));
    };
    break_protocol();
    assert!(!server.log().contains(words));
    write_config(directory, "second", JWKS, "drain_s = 3\n[log]\nlevel = \"debug\"");
    reload(&server, 5);
    break_protocol();
    server.until_logged(words, 1);
    let log = server.log();
    let changed = r#"["log.level", "rate_limit.requests_burst", "rate_limit.requests_per_s"]"#;
    assert!(log.contains(changed), "{log}");
    // What needs a restart is named.
    let later = log.lines().find(|line| line.contains("at the next start")).expect("a warning");
    assert!(later.contains(r#"["drain_s"]"#), "{later}");

    for client in &mut old[2..] {
        client.nothing_more();
    }
}

#[test]
fn a_wrong_configuration_is_told_and_the_old_one_stays() {
    let key = Pair::es256(1);
    let server = Server::start_prepared(&["--config", "ringpost.toml"], |directory| {
        write_config(directory, "first", JWKS, "");
        write_keys(directory, &[key.jwk(None)]);
    });
    let directory = server.directory();
    let token = key.token(None, &json!({"sub": "u", "exp": wall_s() + 3600}));
    let good = |nth: usize, words: &str| {
        server.signal(libc::SIGHUP);
        server.until_logged("not reloaded, the old settings stay", nth);
        let log = server.log();
        assert!(log.contains(words), "{words} is missing in\n{log}");
        connect(&server, token.clone()).expect("still known");
        let api = Http::new(server.api_addr()).with_key("first");
        assert_eq!(api.get("/v1/info").status, 200);
    };
    write_config(directory, "second", JWKS, "shards = 0");
    good(1, "ringpost.toml: shards: must be 1 to 256");
    write_config(directory, "second", JWKS, "colour = 1");
    good(2, "ringpost.toml: colour: unknown key");
    write_config(directory, "second", "public_key_file = \"gone.pem\"", "");
    good(3, "auth.public_key_file: gone.pem: No such file");
    write_config(directory, "second", JWKS, "");
    write_keys(directory, &[json!({"kty": "OKP", "crv": "Ed25519", "kid": "short", "x": "AAAA"})]);
    good(4, "auth.jwks_file: keys.json: key \"short\": an Ed25519 key has 32 bytes, not 3");
    fs::remove_file(directory.join("ringpost.toml")).expect("there");
    good(5, "ringpost.toml: cannot read it");
    assert!(!server.log().contains("reloaded: the new settings"));
}
