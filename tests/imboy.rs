//! imboy end to end: a real server, a WebSocket library that is not ours, the frames of
//! protocols/imboy.md.

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::client::{Client, End, c2c, raw, xid};
use common::{Server, wall_s};
use serde_json::{Value, json};
use tungstenite::Message;

/// Two users whose homes differ with two shards: a message crosses.
const TWO_SHARDS: [&str; 2] = ["--shards", "2"];

#[test]
fn a_private_message_with_both_acknowledgements() {
    let server = Server::start_with(&TWO_SHARDS);
    let mut alice = Client::connect(&server, "alice", "a-phone");
    let mut bob = Client::connect(&server, "bob", "b-phone");
    let payload = json!({"msg_type": "text", "text": "Grüß dich, \"Bob\" \u{1f600}"});
    let before_ms = wall_s() * 1000;
    let frame = json!({"id": xid(1), "type": "C2C", "from": "mallory", "to": "bob",
        "payload": payload, "created_at": 1_699_999_999_000u64, "status": 11});
    alice.send_text(&frame.to_string()).expect("connected");
    let receipt = alice.next();
    let ts = receipt["server_ts"].as_u64().expect("ms");
    assert!(ts >= before_ms && ts < before_ms + 60_000);
    assert_eq!(receipt, json!({"id": xid(1), "type": "C2C_SERVER_ACK", "server_ts": ts}));
    assert_eq!(
        bob.next(),
        json!({"id": xid(1), "type": "C2C", "from": "alice", "to": "bob", "payload": payload,
            "created_at": 1_699_999_999_000u64, "server_ts": ts})
    );
    bob.ack(&xid(1));
    bob.nothing_more();
    // Any JSON value is a payload and comes back as it was.
    for (n, payload) in
        [json!(null), json!([1, {"a": [2.5, "x"]}]), json!("text"), json!(-0.25)].iter().enumerate()
    {
        let id = xid(10 + n as u32);
        alice.send_stored(&id, "bob", payload);
        let message = bob.next();
        assert_eq!((&message["id"], &message["payload"]), (&json!(id), payload));
        assert_eq!(message["created_at"], message["server_ts"]);
        bob.ack(&id);
    }
    // An id that is no xid is the client's own; the receiver gets one of the server's.
    alice.send_stored("m-1", "bob", &json!("x"));
    let id = bob.next()["id"].as_str().expect("an id").to_owned();
    assert_eq!(id.len(), 20);
    bob.send_text(&format!("CLIENT_ACKC2C,{id},b-phone")).expect("connected");
    bob.nothing_more();
    alice.close();
    bob.close();
}

#[test]
fn offline_messages_come_in_order_and_only_until_acknowledged() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    Client::connect(&server, "bob", "b").close();
    for n in 0..30 {
        alice.send_stored(&xid(n), "bob", &json!(n));
    }
    let mut bob = Client::connect(&server, "bob", "b");
    let started = Instant::now();
    for n in 0..20 {
        let message = bob.next();
        assert_eq!(message["payload"], n);
        bob.ack(&xid(n));
    }
    assert!(started.elapsed() < Duration::from_millis(20 * 100), "acknowledged: no pause");
    let pending = bob.next();
    assert_eq!(pending["payload"], 20);
    bob.close();
    let started = Instant::now();
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 20..24 {
        assert_eq!(bob.next()["payload"], n, "what was not acknowledged comes again");
    }
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(250), "not acknowledged: 100 ms apart, {waited:?}");
}

#[test]
fn a_second_device_acknowledges_for_itself() {
    let server = Server::start_with(&TWO_SHARDS);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut phone = Client::connect(&server, "bob", "phone");
    let mut tablet = Client::connect(&server, "bob", "tablet");
    told_of_another_device(&mut phone, "tablet");
    alice.send_stored(&xid(1), "bob", &json!("hi"));
    assert_eq!(phone.next()["payload"], "hi");
    assert_eq!(tablet.next()["payload"], "hi");
    phone.ack(&xid(1));
    phone.nothing_more();
    phone.close();
    tablet.close();
    let mut phone = Client::connect(&server, "bob", "phone");
    let mut tablet = Client::connect(&server, "bob", "tablet");
    assert_eq!(tablet.next()["payload"], "hi", "the tablet has not acknowledged");
    tablet.ack(&xid(1));
    tablet.nothing_more();
    told_of_another_device(&mut phone, "tablet");
    phone.nothing_more();
}

#[test]
fn a_resend_is_recognised_after_kill_9() {
    let mut server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let first = alice.send_stored(&xid(1), "bob", &json!("once"));
    assert_eq!(bob.next()["payload"], "once");
    server.kill9();
    server.restart(&TWO_SHARDS);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let again = alice.send_stored(&xid(1), "bob", &json!("once"));
    assert_eq!(again, first, "the first result again, with its time");
    assert_eq!(bob.next()["payload"], "once", "not acknowledged before the crash");
    bob.ack(&xid(1));
    alice.send_stored(&xid(2), "bob", &json!("new"));
    assert_eq!(bob.next()["payload"], "new", "the resend was not delivered again");
}

#[test]
fn the_number_of_shards_may_change_at_every_restart() {
    let mut server = Server::start_with(&TWO_SHARDS);
    let users = ["alice", "bob", "carol", "dave", "erin"];
    for user in users {
        Client::connect(&server, user, "d").close();
    }
    let mut sent = 0;
    for (round, shards) in ["1", "3", "2"].into_iter().enumerate() {
        for from in users {
            let mut client = Client::connect(&server, from, "sender");
            for to in users.iter().filter(|to| **to != from) {
                client.send_c2c(&xid(sent), to, &json!([from, round]));
                while client.next()["type"] != "C2C_SERVER_ACK" {}
                sent += 1;
            }
            client.close();
        }
        let status = if round == 1 {
            server.kill9();
            None
        } else {
            Some(server.sigterm_and_wait())
        };
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
        server.restart(&["--shards", shards]);
    }
    for user in users {
        let mut client = Client::connect(&server, user, "d");
        let mut rounds: Vec<Vec<u64>> = vec![Vec::new(); users.len()];
        for _ in 0..3 * (users.len() - 1) {
            let message = client.next();
            client.ack(message["id"].as_str().expect("an id"));
            let from = users.iter().position(|from| message["from"] == **from).expect("known");
            assert_eq!(message["payload"][0], message["from"]);
            rounds[from].push(message["payload"][1].as_u64().expect("a round"));
        }
        client.nothing_more();
        for (from, rounds) in rounds.iter().enumerate() {
            let expected: &[u64] = if users[from] == user { &[] } else { &[0, 1, 2] };
            assert_eq!(rounds, expected, "{} -> {user}", users[from]);
        }
    }
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("kB");
    kib << 10
}

#[test]
fn a_reader_that_stops_for_100_000_messages_gets_them_all_in_order() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let count = 100_000u32;
    let text = "x".repeat(200);
    let batch = 50;
    // The log's write buffers fill whoever reads: let them, with messages that bob does read.
    let warm_up = 20_000;
    let mut before = 0;
    for first in (0..count + warm_up).step_by(batch as usize) {
        if first == warm_up {
            before = resident(server.pid());
        }
        for n in first..first + batch {
            alice.queue_text(&c2c(&xid(n), "bob", &json!([n, text]))).expect("connected");
        }
        alice.flush().expect("connected");
        for n in first..first + batch {
            assert_eq!(alice.next()["id"], xid(n));
        }
        if first < warm_up {
            for n in first..first + batch {
                assert_eq!(bob.next()["payload"][0], n);
                bob.queue_text(&format!("CLIENT_ACK,C2C,{},b", xid(n))).expect("connected");
            }
            bob.flush().expect("connected");
        }
    }
    // What waits for the reader is his window of 256 KiB, once more for each time (three at most)
    // that it was repeated, not the 25 MB of messages that he has not read.
    let metrics = server.http().get("/metrics").body;
    let queued = metrics.lines().find_map(|line| {
        line.strip_prefix("ringpost_queued_bytes{shard=\"0\"} ")?.parse::<u64>().ok()
    });
    let queued = queued.expect("the gauge is there");
    assert!(queued <= 4 * (256 << 10) + (64 << 10), "{queued} bytes wait for one reader");
    // All that grows besides are the log's write buffers, which have their own bound.
    let grown = resident(server.pid()).saturating_sub(before);
    assert!(grown < 128 << 20, "resident memory grew by {grown} bytes");
    let mut expected = warm_up;
    while expected < count + warm_up {
        let message = bob.next();
        let n = message["payload"][0].as_u64().expect("a number") as u32;
        assert!(n <= expected, "a gap: {n} instead of {expected}");
        // What was sent and not acknowledged for five seconds comes again.
        expected = expected.max(n + 1);
        bob.queue_text(&format!("CLIENT_ACK,C2C,{},b", xid(n))).expect("connected");
        if n % 64 == 63 {
            bob.flush().expect("connected");
        }
    }
    bob.flush().expect("connected");
    // Repeats that were under way when their first copy was acknowledged.
    bob.send_text("ping").expect("connected");
    loop {
        let message = bob.next();
        if message == "pong2" {
            break;
        }
        let n = message["payload"][0].as_u64().expect("a number") as u32;
        assert!(n < expected);
    }
    bob.nothing_more();
    alice.nothing_more();
}

#[test]
fn the_window_is_all_that_a_stopped_reader_gets() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let payload = json!("x".repeat(1000));
    for first in (0..3_000).step_by(50) {
        for n in first..first + 50 {
            alice.queue_text(&c2c(&xid(n), "bob", &payload)).expect("connected");
        }
        alice.flush().expect("connected");
        for _ in 0..50 {
            alice.next();
        }
    }
    // 256 KiB of frames of about 1.1 kB; then only the answer to a ping.
    bob.send_text("ping").expect("connected");
    let mut got = 0;
    while bob.next() != "pong2" {
        got += 1;
    }
    assert!((200..=260).contains(&got), "{got}");
}

#[test]
fn the_same_device_replaces_its_connection_and_others_do_not() {
    let server = Server::start();
    let mut old = Client::connect(&server, "bob", "phone");
    let mut other = Client::connect(&server, "bob", "tablet");
    let mut new = Client::connect(&server, "bob", "phone");
    told_of_another_device(&mut old, "tablet");
    assert_eq!(old.closed(), Some(4001));
    new.nothing_more();
    told_of_another_device(&mut other, "phone");
    other.nothing_more();
}

/// Takes and acknowledges the news that the user has connected with `did`.
fn told_of_another_device(client: &mut Client, did: &str) {
    let told = client.next();
    let ts = &told["server_ts"];
    assert!(ts.is_u64(), "{told}");
    let payload =
        json!({"msg_type": "logged_another_device", "did": did, "dname": "", "content": ""});
    let expected = json!({"id": "logged_another_device", "type": "S2C", "from": "",
        "to": "bob", "payload": payload, "created_at": ts, "server_ts": ts});
    assert_eq!(told, expected);
    client.ack_s2c("logged_another_device");
}

#[test]
fn another_device_is_told_again_until_acknowledged() {
    let server = Server::start_with(&["--imboy-logged-another-device-retry-s", "0.2,0.4"]);
    let mut phone = Client::connect(&server, "bob", "phone");
    let headers = [
        ("authorization", server.token("bob")),
        ("did", "tablet".to_owned()),
        ("cos", "macos".to_owned()),
        ("vsn", "0.3.3".to_owned()),
    ];
    let tablet = Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded");
    for _ in 0..3 {
        let payload = &phone.next()["payload"];
        assert_eq!((&payload["did"], &payload["dname"]), (&json!("tablet"), &json!("macos")));
    }
    phone.nothing_more();
    drop(tablet);
}

#[test]
fn an_app_must_sign_what_it_is() {
    let config = "[imboy.sign_keys]\n0 = \"key of 0\"\n";
    let server = Server::start_prepared(&["--config", "ringpost.toml"], |directory| {
        std::fs::write(directory.join("ringpost.toml"), config).expect("written");
    });
    // printf 'phone-1|0' | openssl dgst -sha256 -hmac 'key of 0' -binary | base64
    let sign = "lbfC0ug5XpeJb5AQRUBH4PVb7RHicgmCChx+4c9+8bc=";
    let connect = |did: &str, method: &str, sign: &str| {
        let headers = [
            ("authorization", server.token("alice")),
            ("did", did.to_owned()),
            ("vsn", "0.3.3".to_owned()),
            ("method", method.to_owned()),
            ("sign", sign.to_owned()),
        ];
        Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded").0
    };
    connect("phone-1", "sha256", sign).nothing_more();
    for (did, method, sign) in
        [("phone-2", "sha256", sign), ("phone-1", "sha512", sign), ("phone-1", "sha256", "")]
    {
        let mut client = connect(did, method, sign);
        let error = client.next();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(707)));
        assert_eq!(client.closed(), Some(1008));
    }
}

#[test]
fn check_offline_msg_brings_everything_pending_again() {
    let server = Server::start_with(&TWO_SHARDS);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 0..5 {
        alice.send_stored(&xid(n), "bob", &json!(n));
        assert_eq!(bob.next()["payload"], n);
    }
    bob.ack(&xid(1));
    bob.send_text("check_offline_msg").expect("connected");
    for n in [0, 2, 3, 4] {
        assert_eq!(bob.next()["payload"], n);
        bob.ack(&xid(n));
    }
    bob.send_text("check_offline_msg").expect("connected");
    bob.nothing_more();
}

#[test]
fn a_token_that_ends_in_a_session_is_asked_for_and_then_missed() {
    let server = Server::start();
    let token = server.token_of(&json!({"sub": "alice", "exp": wall_s() + 2}));
    let headers = [("authorization", token), ("did", "phone".to_owned())];
    let (mut client, _) = Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded");
    client.nothing_more();
    let mut reminder = || {
        let reminder = client.next();
        assert_eq!(reminder["payload"]["msg_type"], "please_refresh_token");
        assert_eq!((&reminder["type"], &reminder["to"]), (&json!("S2C"), &json!("alice")));
        Instant::now()
    };
    let first = reminder();
    let between = reminder() - first;
    assert!((10_900..14_000).contains(&between.as_millis()), "{between:?}");
    assert_eq!(client.closed(), Some(4006));
    let waited = first.elapsed();
    assert!((17_900..21_000).contains(&waited.as_millis()), "{waited:?}");
}

#[test]
fn webrtc_signals_are_relayed_and_never_stored() {
    let server = Server::start_with(&TWO_SHARDS);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let offer = json!({"id": xid(1), "type": "webrtc_offer", "from": "mallory", "to": "bob",
        "payload": {"sd": {"sdp": "v=0\r\n", "type": "offer"}, "media": "video"}, "ts": 5});
    alice.send_text(&offer.to_string()).expect("connected");
    let mut expected = offer.clone();
    expected["from"] = json!("alice");
    assert_eq!(bob.next(), expected);
    bob.send_text(&format!("CLIENT_ACK,WEBRTC,{},b", xid(1))).expect("connected");
    bob.nothing_more();
    alice.nothing_more();
    bob.close();
    alice.send_text(&offer.to_string()).expect("connected");
    alice.send_text(&offer.to_string().replace("bob", "nobody")).expect("connected");
    let refused = alice.next();
    assert_eq!((&refused["code"], &refused["id"]), (&json!(3), &json!(xid(1))), "{refused}");
    let mut bob = Client::connect(&server, "bob", "b");
    alice.send_stored(&xid(2), "bob", &json!("missed my call?"));
    assert_eq!(bob.next()["payload"], "missed my call?", "the signal is not stored");
}

#[test]
fn signals_for_a_reader_that_stopped_are_dropped() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let sdp = "x".repeat(60_000);
    // 36 MB: more than the kernel's buffers of a connection take.
    let count = 600;
    for n in 0..count {
        let signal = json!({"id": xid(n), "type": "webrtc_offer", "to": "bob",
            "payload": {"n": n, "sdp": sdp}});
        alice.send_text(&signal.to_string()).expect("connected");
        alice.nothing_more();
    }
    let metrics = server.http().get("/metrics").body;
    let queued = metrics.lines().find_map(|line| {
        line.strip_prefix("ringpost_queued_bytes{shard=\"0\"} ")?.parse::<u64>().ok()
    });
    let queued = queued.expect("the gauge is there");
    assert!(queued <= (512 << 10) + (64 << 10), "{queued} bytes wait for one reader");
    alice.send_stored(&xid(count), "bob", &json!("are you there?"));
    let mut got = 0;
    loop {
        let frame = bob.next();
        if frame["type"] == "C2C" {
            break;
        }
        got += 1;
    }
    assert!(got > 0 && got < count, "{got}");
    bob.ack(&xid(count));
    bob.nothing_more();
}

#[test]
fn user_ids_are_shown_as_hashids() {
    let config = "[imboy.hashids]\nsalt = \"salt\"\n";
    let mut args = TWO_SHARDS.to_vec();
    args.extend(["--config", "ringpost.toml"]);
    let server = Server::start_prepared(&args, |directory| {
        std::fs::write(directory.join("ringpost.toml"), config).expect("written");
    });
    // 7 and 42, with this salt and imboy's alphabet.
    let (seven, forty_two) = ("j9aj9d", "v9e4xp");
    let mut sender = Client::connect(&server, "7", "a");
    let mut receiver = Client::connect(&server, "42", "b");
    sender.send_stored(&xid(1), forty_two, &json!({"uid": "7"}));
    let message = receiver.next();
    assert_eq!((&message["from"], &message["to"]), (&json!(seven), &json!(forty_two)));
    assert_eq!(message["payload"], json!({"uid": "7"}), "payloads are not touched");
    receiver.ack(&xid(1));
    // Somebody is called so: he is meant.
    let mut rival = Client::connect(&server, forty_two, "c");
    sender.send_stored(&xid(2), forty_two, &json!("for whom?"));
    assert_eq!(rival.next()["payload"], "for whom?");
    receiver.nothing_more();
}

#[test]
fn who_asks_too_fast_is_refused_and_in_the_end_closed() {
    let server = Server::start_with(&[
        "--rate-limit-requests-per-s",
        "1",
        "--rate-limit-requests-burst",
        "10",
        "--rate-limit-strikes",
        "20",
    ]);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bystander = Client::connect(&server, "bob", "b");
    for _ in 0..60 {
        // The server may have closed already.
        let _sent = alice.send_text("ping");
    }
    let mut pongs = 0;
    let mut refusals = 0;
    loop {
        match alice.next_text() {
            Ok(text) if text == "pong2" => pongs += 1,
            Ok(text) => {
                let error: Value = serde_json::from_str(&text).expect("JSON");
                let why = (&error["code"], &error["payload"]["content"]);
                assert_eq!(why, (&json!(3), &json!("rate limited")));
                refusals += 1;
            }
            Err(End::Closed(code)) => {
                assert_eq!(code, Some(1008));
                break;
            }
            Err(End::Broken) => panic!("the close was not told"),
        }
    }
    assert!((10..20).contains(&pongs), "{pongs}");
    assert_eq!(refusals, 20);
    bystander.nothing_more();
}

#[test]
fn logins_that_fail_are_told_after_the_upgrade() {
    let server = Server::start();
    let did = ("did", "phone".to_owned());
    let token = |claims: Value| ("authorization", server.token_of(&claims));
    let good = json!({"sub": "alice", "exp": wall_s() + 60});
    let bad_logins = [
        vec![did.clone()],
        vec![("authorization", "rubbish".to_owned()), did.clone()],
        vec![("authorization", format!("{}x", server.token("alice"))), did.clone()],
        vec![token(good.clone())],
        vec![token(json!({"sub": "alice", "exp": wall_s() + 60, "did": "tablet"})), did.clone()],
        vec![token(json!({"exp": wall_s() + 60})), did.clone()],
        vec![token(json!({"sub": "a b", "exp": wall_s() + 60})), did.clone()],
    ];
    for headers in bad_logins {
        let (mut client, _) =
            Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded");
        let error = client.next();
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(706)), "{headers:?}");
        assert!(error["server_ts"].is_u64());
        assert_eq!(client.closed(), Some(4006));
    }
    // Nobody was created.
    assert_eq!(server.http().get("/v1/users/alice").status, 404);
    // Bearer, the query, and a token bound to this device are fine.
    let bound = json!({"sub": "alice", "exp": wall_s() + 60, "did": "phone"});
    let bearer = ("authorization", format!("Bearer {}", server.token_of(&bound)));
    let (mut client, _) = Client::with_headers(&server, "/ws", &[bearer, did]).expect("upgraded");
    client.nothing_more();
    let token = server.token("alice");
    let query = format!("/ws/?did=other&authorization={token}");
    let (mut client, _) = Client::with_headers(&server, &query, &[]).expect("upgraded");
    client.nothing_more();
}

#[test]
fn an_expired_token_is_told_to_be_refreshed() {
    let server = Server::start();
    let expired = server.token_of(&json!({"sub": "alice", "exp": wall_s() - 60}));
    let headers = [("authorization", expired), ("did", "phone".to_owned())];
    let (mut client, _) = Client::with_headers(&server, "/imboy/ws", &headers).expect("upgraded");
    assert_eq!(client.next()["code"], 705);
    let reminder = client.next();
    assert_eq!(reminder["id"], "please_refresh_token");
    assert_eq!(reminder["type"], "S2C");
    assert_eq!(reminder["payload"]["msg_type"], "please_refresh_token");
    client.send_text("CLIENT_ACK,S2C,please_refresh_token,phone").expect("connected");
    let acked = Instant::now();
    assert_eq!(client.closed(), Some(4000));
    let waited = acked.elapsed();
    assert!(
        waited > Duration::from_millis(4_900) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
    assert_eq!(server.http().get("/v1/users/alice").status, 404, "the account was not touched");
}

#[test]
fn the_first_subprotocol_is_echoed_and_none_is_invented() {
    let server = Server::start();
    let login = [("authorization", server.token("alice")), ("did", "d".to_owned())];
    let (_, response) = Client::with_headers(&server, "/imboy/ws", &login).expect("upgraded");
    assert!(!response.headers().contains_key("sec-websocket-protocol"));
    let mut offer = login.to_vec();
    offer.push(("sec-websocket-protocol", "text, sip".to_owned()));
    let (_, response) = Client::with_headers(&server, "/imboy/ws", &offer).expect("upgraded");
    assert_eq!(response.headers()["sec-websocket-protocol"], "text");
}

#[test]
fn what_a_dialect_refuses_is_answered_and_costs_nothing_else() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    let mut refused = |frame: Message, code: u64, id: Value| {
        let shown = frame.to_string();
        alice.send_raw(frame).expect("connected");
        let error = alice.next();
        let shown = &shown[..shown.len().min(80)];
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!(code)), "{shown}");
        assert_eq!(error["id"], id, "{shown}");
        assert!(error["payload"]["content"].as_str().is_some_and(|why| !why.is_empty()), "{error}");
    };
    refused(Message::text("no json"), 1, Value::Null);
    refused(Message::text("{\"id\":\"7\"}"), 1, json!("7"));
    refused(Message::text(c2c("7", "bob", &json!(1)).replace("C2C", "NEWS")), 1, json!("7"));
    refused(Message::binary(vec![1, 2, 3]), 1, Value::Null);
    refused(Message::text("CLIENT_ACK,C2C,x,not-my-device"), 1, Value::Null);
    refused(Message::text(c2c("7", "nobody", &json!(1))), 3, json!("7"));
    refused(Message::text(c2c("7", "bob", &json!("x".repeat(70_000)))), 3, json!("7"));
    alice.send_stored(&xid(1), "bob", &json!("still here"));
    assert_eq!(bob.next()["payload"], "still here");
    bob.nothing_more();
}

#[test]
fn bytes_that_break_rfc_6455_end_that_connection_only() {
    let server = Server::start();
    let mut bystander = Client::connect(&server, "carol", "c");
    // (bytes of the client, close code)
    let cases: [(&[u8], u16); 8] = [
        (b"\x81\x05hello", 1002),                                // not masked
        (b"\xc1\x85abcd\x00\x00\x00\x00\x00", 1002),             // RSV1 without an extension
        (b"\x83\x80abcd", 1002),                                 // reserved opcode
        (b"\x80\x80abcd", 1002),                                 // continuation of nothing
        (b"\x89\xfe\x00\x7eabcd", 1002),                         // control frame over 125 bytes
        (b"\x81\x81\x00\x00\x00\x00\xff", 1007),                 // not UTF-8
        (b"\x81\xff\x00\x00\x00\x00\x00\x20\x00\x00abcd", 1009), // 2 MiB
        (b"\x88\x82\x00\x00\x00\x00\x03\xed", 1002),             // close code 1005
    ];
    for (bytes, code) in cases {
        let mut stream = raw(&server);
        let request = format!(
            "GET /imboy/ws?did=d&token={} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\n\r\n",
            server.token("alice")
        );
        stream.write_all(request.as_bytes()).expect("connected");
        stream.write_all(bytes).expect("connected");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the server ends it properly");
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
        assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455 section 1.3: {text}");
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let close = &answer[end..];
        assert!(close.len() >= 4 && close[0] == 0x88, "{bytes:02x?}: {close:02x?}");
        assert_eq!(u16::from_be_bytes([close[2], close[3]]), code, "{bytes:02x?}");
    }
    bystander.nothing_more();
}

#[test]
fn requests_that_are_no_upgrade_get_plain_http() {
    let server = Server::start();
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let upgrade = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let version = "Sec-WebSocket-Version: 13\r\n";
    let long = format!("X-Long: {}\r\n", "y".repeat(20_000));
    let cases = [
        (format!("GET /nowhere HTTP/1.1\r\n{upgrade}{key}{version}\r\n"), "404", ""),
        (format!("POST /ws HTTP/1.1\r\n{upgrade}{key}{version}\r\n"), "405", "allow: get"),
        (format!("GET /ws HTTP/1.1\r\n{upgrade}{version}\r\n"), "400", ""),
        (
            format!("GET /ws HTTP/1.1\r\n{upgrade}{key}Sec-WebSocket-Version: 8\r\n\r\n"),
            "426",
            "sec-websocket-version: 13",
        ),
        (format!("GET /ws HTTP/1.1\r\n{upgrade}{key}{version}{long}\r\n"), "413", ""),
        ("rubbish\r\n\r\n".to_owned(), "400", ""),
    ];
    for (request, status, header) in cases {
        let mut stream = raw(&server);
        stream.write_all(request.as_bytes()).expect("connected");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server ends it properly");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.to_ascii_lowercase().contains(header), "{header}: {answer}");
    }
}

#[test]
fn fragments_pings_and_closes_as_rfc_6455_has_them() {
    let server = Server::start();
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    // A message in fragments, with a ping between them.
    let text = c2c(&xid(1), "bob", &json!("in pieces: äöü"));
    let (first, rest) = text.as_bytes().split_at(text.find('ä').expect("there") + 1);
    let frame = |opcode: u8, payload: &[u8]| {
        let mut frame = vec![opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(payload);
        frame
    };
    assert!(first.len() < 126 && rest.len() < 126);
    for bytes in [frame(0x01, first), frame(0x89, b"still there?"), frame(0x80, rest)] {
        alice.stream().write_all(&bytes).expect("connected");
    }
    assert_eq!(alice.next_raw().expect("the pong"), Message::Pong(b"still there?".to_vec().into()));
    assert_eq!(alice.next()["type"], "C2C_SERVER_ACK");
    assert_eq!(bob.next()["payload"], "in pieces: äöü");
    // The server echoes the code of a close.
    let close = tungstenite::protocol::CloseFrame { code: 3001.into(), reason: "bye".into() };
    alice.send_raw(Message::Close(Some(close))).expect("connected");
    match alice.next_text() {
        Err(End::Closed(code)) => assert_eq!(code, Some(3001)),
        other => panic!("{other:?}"),
    }
    bob.send_text("logout").expect("connected");
    assert_eq!(bob.closed(), Some(1000));
}

#[test]
fn sigterm_drains_with_1012_and_loses_nothing() {
    let mut server = Server::start_with(&["--drain-s", "1"]);
    let mut alice = Client::connect(&server, "alice", "a");
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 0..20 {
        alice.queue_text(&c2c(&xid(n), "bob", &json!(n))).expect("connected");
    }
    alice.flush().expect("connected");
    for n in 0..20 {
        assert_eq!(alice.next()["id"], xid(n));
        assert_eq!(bob.next()["payload"], n);
    }
    for n in 0..10 {
        bob.ack(&xid(n));
    }
    bob.nothing_more();
    server.signal(libc::SIGTERM);
    assert_eq!(alice.closed(), Some(1012));
    assert_eq!(bob.closed(), Some(1012));
    assert!(server.wait().success());
    server.restart(&[]);
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 10..20 {
        assert_eq!(bob.next()["payload"], n, "acknowledgements were written at the drain");
        bob.ack(&xid(n));
    }
    bob.nothing_more();
}
