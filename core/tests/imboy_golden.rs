//! imboy's frames, byte for byte, as golden files (`golden/imboy/`).
//!
//! `decode.txt`: a client's frame behind `<`, what it means behind `=`.
//! `encode.txt`: what is told behind `=`, the frame behind `>`.
//! `GOLDEN_UPDATE=1` writes the results into the files; read the difference before you commit it.

use ringpost_core::account::Presence;
use ringpost_core::dialect::Place;
use ringpost_core::dialect::imboy::hashids::Hashids;
use ringpost_core::dialect::imboy::{self, Frame, Settings, s2c};
use ringpost_core::dialect::json::Scratch;
use ringpost_core::error::Refusal;
use ringpost_core::happened::Happened;
use ringpost_core::ids::{Dialect, GroupId, MessageId};
use ringpost_core::limits::CONTENT_BYTES_MAX;
use ringpost_core::record::{Kind, Record};
use ringpost_core::relations::{FriendNews, Person, Terms};
use ringpost_core::session::LoginFault;

/// Runs every input of a golden file (lines behind `mark`) and compares the line that follows it.
fn check(file: &str, mark: &str, result_mark: &str, result: impl Fn(&str) -> String) {
    // Tests run in their package's directory. A path compiled in would be that of another checkout where
    // two of them share a target directory.
    let path = format!("tests/golden/imboy/{file}");
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    let mut actual = String::new();
    let mut cases = 0;
    for line in golden.lines().filter(|line| !line.starts_with(result_mark)) {
        actual.push_str(line);
        actual.push('\n');
        if let Some(input) = line.strip_prefix(mark) {
            cases += 1;
            actual.push_str(&format!("{result_mark}{}\n", result(input)));
        }
    }
    assert!(cases > 0, "{path} has no cases");
    if std::env::var_os("GOLDEN_UPDATE").is_some() {
        std::fs::write(&path, &actual).expect("the golden file can be written");
    }
    assert!(actual == golden, "{path} differs; GOLDEN_UPDATE=1 shows how\n{actual}");
}

#[test]
fn frames_from_clients() {
    check("decode.txt", "< ", "= ", |frame| {
        let mut scratch = Scratch::default();
        match imboy::decode(frame.as_bytes(), &mut scratch) {
            Ok(Frame::Send { group, id, to, sender_ms, payload }) => {
                let payload = &frame[payload];
                let kind = if group { "group" } else { "send" };
                format!("{kind} id={id:?} to={to:?} sender_ms={sender_ms:?} payload={payload}")
            }
            Ok(Frame::Signal { id, to, members }) => {
                let members = std::str::from_utf8(&members).expect("frames are text");
                format!("signal id={id:?} to={to:?} members={members}")
            }
            Ok(other) => format!("{other:?}"),
            Err(undecodable) => format!("{undecodable:?}"),
        }
    });
}

/// The refusals, by the names that protocols/README.md gives their reasons.
fn refusal(reason: &str) -> Refusal {
    match reason {
        "unknown type" => Refusal::UnknownOperation,
        "not allowed to write to" => Refusal::NotAFriend,
        "blocked by the receiver" => Refusal::Blocked,
        "no such user" => Refusal::NoSuchUser,
        "sender unknown" => Refusal::SenderUnknown,
        "no such group" => Refusal::NoSuchGroup,
        "not in the group" => Refusal::NotInGroup,
        "muted in the group" => Refusal::Muted,
        "not permitted" => Refusal::NotPermitted,
        "no such message, or too late to revoke" => Refusal::NotRevocable,
        "too large" => Refusal::TooLarge,
        "rate limited" => Refusal::RateLimited,
        "try again" => Refusal::TryAgain,
        "banned in a session" => Refusal::Banned,
        other => panic!("{other:?} is not known to the test"),
    }
}

#[test]
fn frames_to_clients() {
    let record = |client_id: &'static str, sender_ms| Record {
        seq: 7,
        kind: Kind::Message,
        id: MessageId::parse_xid(b"9m4e2mr0ui3e8a215n4g").expect("an xid"),
        time_ms: 1_700_000_000_123,
        sender_ms,
        countable: 7,
        sent: [0; 2],
        sender: "alice",
        dialect: Dialect::Imboy,
        device: "phone",
        client_id,
        content: br#"{"msg_type":"text","text":"h\u00e9 \"you\""}"#,
    };
    let plain = &Settings::default();
    let hashids = Hashids::new("salt", Hashids::MIN_LENGTH, Hashids::ALPHABET).expect("valid");
    let hashed = &Settings { hashids: Some(hashids), ..Settings::default() };
    let event = |happened: &Happened, out: &mut Vec<u8>| {
        let mut content = Vec::new();
        happened.encode(&mut content);
        let record = Record { kind: Kind::Event, content: &content, ..record("", None) };
        let team = GroupId::parse("team").expect("valid");
        imboy::write_event(plain, happened, &record, Place::Group(&team), "bob", out);
    };
    let news = || {
        let text = str::to_owned;
        let terms = Terms {
            source: text("qrcode"),
            message: text("I am \"A\""),
            remark: text("bobby"),
            role: text("all"),
            tag: text("never shown"),
            do_not_look: false,
            do_not_show: true,
        };
        let asker =
            Person { name: text("Alice"), avatar: text("https://a/1"), ..Person::default() };
        let asked = Person {
            account: text("b1"),
            name: text("Bob"),
            avatar: text("https://b/2"),
            sign: text("hi"),
            gender: text("1"),
            region: text("Berlin"),
        };
        let (from, to, remark) = (text("alice"), text("bob"), text("ally"));
        Box::new(FriendNews { from, to, terms, remark, asker, asked })
    };
    let now_ms = 1_700_000_000_456;
    check("encode.txt", "= ", "> ", |what| {
        let mut out = Vec::new();
        match what {
            "message, client id is an xid" => {
                let record = record("cgv1u0k8dbuq4gd5jj80", Some(1_699_999_999_000));
                imboy::write_message(plain, &record, "C2C", "bob", &mut out);
            }
            "message from 7 to 42, with hashids" => {
                let record = Record { sender: "7", ..record("m-1", None) };
                imboy::write_message(hashed, &record, "C2C", "42", &mut out);
            }
            "message from alice to 042, with hashids" => {
                imboy::write_message(hashed, &record("m-1", None), "C2C", "042", &mut out);
            }
            "signal from 7 to 42, with hashids" => {
                imboy::write_signal(hashed, b"\"id\":\"x\"", "7", "42", &mut out);
            }
            "42 is blocked, with hashids" => {
                let refusal = Refusal::Blocked;
                imboy::write_refusal(hashed, refusal, Some("x"), "42", now_ms, &mut out);
            }
            "another device of 42, with hashids" => {
                s2c::write_another_device(hashed, "42", "7", "ios", now_ms, &mut out);
            }
            "signal" => {
                let members = br#""id":"x","type":"webrtc_offer","payload":{"sd":null}"#;
                imboy::write_signal(plain, members, "alice", "bob", &mut out);
            }
            "message, client id is not an xid, no created_at" => {
                imboy::write_message(plain, &record("m-1", None), "C2C", "bob", &mut out);
            }
            "message of a group" => {
                imboy::write_message(plain, &record("m-1", None), "C2G", "team", &mut out);
            }
            "revoked message" => {
                let record = Record { kind: Kind::Revoked, content: b"", ..record("m-1", None) };
                imboy::write_message(plain, &record, "C2C", "bob", &mut out);
            }
            "event: members joined" => {
                let users = vec!["carol".to_owned(), "dave".to_owned()];
                event(&Happened::MembersJoined { users }, &mut out);
            }
            "event: member left" => {
                event(&Happened::MembersLeft { users: vec!["carol".to_owned()] }, &mut out);
            }
            "event: group dissolved" => event(&Happened::Dissolved, &mut out),
            "event: alias" => {
                let user = "alice".to_owned();
                let (alias, description) = ("A \"l\"".to_owned(), "here".to_owned());
                event(&Happened::AliasChanged { user, alias, description }, &mut out);
            }
            "event: revoked in a group" => {
                event(&Happened::Revoked { seq: 3, wire: record("", None).id }, &mut out);
            }
            "event: friend request" => event(&Happened::FriendAsked(news()), &mut out),
            "event: friend request of nobody known" => {
                let (from, to) = ("carol".to_owned(), "dave".to_owned());
                let news = FriendNews { from, to, ..FriendNews::default() };
                event(&Happened::FriendAsked(Box::new(news)), &mut out);
            }
            "event: friend request accepted" => {
                event(&Happened::FriendAccepted(news()), &mut out);
            }
            "event: account cancelled" => event(&Happened::AccountCancelled, &mut out),
            "event: business notice" => {
                let [stream, kind] = ["orders", "shipped"].map(str::to_owned);
                let (title, content) = ("On its \"way\"".to_owned(), r#"{"no":[1]}"#.to_owned());
                event(&Happened::Noticed { stream, kind, title, content, data: None }, &mut out);
            }
            "event: business notice without a title" => {
                let [stream, kind, title, content] = ["", "k", "", "null"].map(str::to_owned);
                event(&Happened::Noticed { stream, kind, title, content, data: None }, &mut out);
            }
            "online" => {
                let id = record("", None).id;
                imboy::write_presence(
                    plain,
                    id,
                    "alice",
                    "bob",
                    Presence::Online,
                    now_ms,
                    &mut out,
                );
            }
            "offline" => {
                let id = record("", None).id;
                imboy::write_presence(
                    plain,
                    id,
                    "alice",
                    "bob",
                    Presence::Offline,
                    now_ms,
                    &mut out,
                );
            }
            "hide" => {
                let id = record("", None).id;
                imboy::write_presence(
                    plain,
                    id,
                    "alice",
                    "bob",
                    Presence::Hidden,
                    now_ms,
                    &mut out,
                );
            }
            "account banned in a session" => {
                imboy::write_dismissal("Account banned", "for \"spam\"", now_ms, &mut out);
            }
            "answer to a revoke" => {
                imboy::write_revoke_ack(
                    plain,
                    true,
                    "m1",
                    "alice",
                    "team",
                    1_700_000_000_123,
                    &mut out,
                );
            }
            "receipt" => imboy::write_server_ack(false, "m\"1", 1_700_000_000_123, &mut out),
            "receipt of a group" => {
                imboy::write_server_ack(true, "m1", 1_700_000_000_123, &mut out)
            }
            "malformed, without id" => {
                let refusal = Refusal::Malformed("not a JSON object");
                imboy::write_refusal(plain, refusal, None, "", now_ms, &mut out);
            }
            "token expired" => {
                imboy::write_login_fault(LoginFault::TokenExpired, now_ms, &mut out);
            }
            "token invalid" => {
                imboy::write_login_fault(LoginFault::TokenInvalid, now_ms, &mut out);
            }
            "signature wrong" => {
                imboy::write_login_fault(LoginFault::SignatureWrong, now_ms, &mut out);
            }
            "refresh your token" => s2c::write_refresh_token(plain, "alice", now_ms, &mut out),
            "another device" => {
                s2c::write_another_device(plain, "alice", "t\"1", "ios", now_ms, &mut out);
            }
            "pong" => out.extend_from_slice(imboy::PONG),
            other => {
                let refusal = refusal(other);
                imboy::write_refusal(plain, refusal, Some("x"), "bob", now_ms, &mut out);
            }
        }
        let frame = String::from_utf8(out).expect("frames are text");
        if what != "pong" {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&frame);
            assert!(parsed.is_ok_and(|value| value.is_object()), "{frame}");
        }
        frame
    });
}

#[test]
fn content_over_the_limit_is_refused_with_its_id() {
    let frame = |len: usize| {
        let payload = "x".repeat(len - 2);
        format!(r#"{{"id":"m1","type":"C2C","to":"bob","payload":"{payload}"}}"#)
    };
    let decode = |frame: &str| {
        let mut scratch = Scratch::default();
        imboy::decode(frame.as_bytes(), &mut scratch).map(|_| ())
    };
    assert_eq!(decode(&frame(CONTENT_BYTES_MAX)), Ok(()));
    let refused = decode(&frame(CONTENT_BYTES_MAX + 1)).expect_err("too large");
    assert_eq!((refused.refusal, refused.id.as_deref()), (Refusal::TooLarge, Some("m1")));
}
