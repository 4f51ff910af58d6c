//! imboy's decoder, its payloads and what it writes; and the neutral model as JSON.
//!
//! The first byte chooses the settings, the rest is a text frame.

use ringpost_core::content::Body;
use ringpost_core::dialect::imboy::hashids::Hashids;
use ringpost_core::dialect::imboy::{self, Frame, Settings, Undecodable, content};
use ringpost_core::dialect::json::Scratch;
use ringpost_core::error::Refusal;
use ringpost_core::ids::{Conversation, Dialect, MessageId, UserId};
use ringpost_core::limits::CONTENT_BYTES_MAX;
use ringpost_core::record::{Kind, Record};
use serde_json::Value;

const NOW_MS: u64 = 1_700_000_000_123;

/// See the module.
pub fn run(data: &[u8]) {
    let Some((&flags, text)) = data.split_first() else { return };
    // What is not UTF-8 is no text frame: `ws::message` has closed the connection.
    let Ok(text) = std::str::from_utf8(text) else { return };
    let hashids = || Hashids::new("salt", Hashids::MIN_LENGTH, Hashids::ALPHABET).expect("valid");
    let settings = Settings { hashids: (flags & 1 != 0).then(hashids), ..Settings::default() };
    let mut scratch = Scratch::default();
    // Twice: the scratch must not remember.
    let decoded = imboy::decode(text.as_bytes(), &mut scratch);
    assert_eq!(decoded, imboy::decode(text.as_bytes(), &mut scratch));
    match decoded {
        Err(undecodable) => refused(&settings, &undecodable, text),
        Ok(Frame::Ping) => assert_eq!(text, "ping"),
        Ok(Frame::Logout) => assert_eq!(text, "logout"),
        Ok(Frame::CheckOffline) => assert_eq!(text, "check_offline_msg"),
        Ok(Frame::Ack { id, device, .. }) => {
            assert!(text.starts_with("CLIENT_ACK") && text.ends_with(&format!("{id},{device}")));
        }
        Ok(Frame::Send { group, id, to, sender_ms, payload }) => {
            let frame = object(text);
            assert_eq!(id, *last(&frame, "id").expect("an id"));
            assert_eq!(to, *last(&frame, "to").expect("a receiver"));
            assert!((1..=40).contains(&id.len()) && payload.len() <= CONTENT_BYTES_MAX);
            to_whom(&settings, group, &to);
            sent(&settings, group, &id, sender_ms, &text[payload]);
        }
        Ok(Frame::Revoke { group, id, to }) => {
            assert!((1..=40).contains(&id.len()));
            to_whom(&settings, group, &to);
            let mut out = Vec::new();
            imboy::write_revoke_ack(&settings, group, &id, "7", "bob", NOW_MS, &mut out);
            assert_eq!(object_of(&out)["id"], *id);
        }
        Ok(Frame::RevokeAck { id }) => assert!((1..=40).contains(&id.len())),
        Ok(Frame::Signal { id, to, members }) => {
            assert!((1..=40).contains(&id.len()) && members.len() <= CONTENT_BYTES_MAX);
            to_whom(&settings, false, &to);
            let mut out = Vec::new();
            imboy::write_signal(&settings, &members, "7", "bob", &mut out);
            let out = std::str::from_utf8(&out).expect("text");
            // A member that is given twice stays so; the last one counts, here and there.
            if let (Ok(told), Ok(mut said)) = (parse(out), parse(text)) {
                said["from"] = imboy_id(&settings, "7").into();
                said["to"] = "bob".into();
                assert_eq!(told, said);
            }
        }
    }
    body(&settings, text);
}

/// serde_json's reading; it has limits of its own (`crate::json`).
fn parse(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// The frame as serde_json reads it; empty if it does not.
fn object(text: &str) -> Value {
    parse(text).unwrap_or_default()
}

fn object_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("what we write is JSON")
}

/// A member of a frame that serde_json has read.
fn last<'a>(frame: &'a Value, name: &str) -> Option<&'a str> {
    frame[name].as_str()
}

fn imboy_id(settings: &Settings, id: &str) -> String {
    let mut out = Vec::new();
    settings.write_id(id, &mut out);
    String::from_utf8(out).expect("text")
}

/// The documented answer to a frame that is none.
fn refused(settings: &Settings, undecodable: &Undecodable, text: &str) {
    let Undecodable { refusal, id } = undecodable;
    let code = match refusal {
        Refusal::Malformed(_) | Refusal::UnknownOperation => 1,
        Refusal::TooLarge => 3,
        other => panic!("no decoder says {other:?}"),
    };
    if *refusal == Refusal::TooLarge {
        assert!(text.len() > CONTENT_BYTES_MAX);
    }
    let mut out = Vec::new();
    imboy::write_refusal(settings, *refusal, id.as_deref(), "bob", NOW_MS, &mut out);
    let answer = object_of(&out);
    assert_eq!((&answer["type"], &answer["code"]), (&"error".into(), &code.into()));
    assert_eq!(answer["server_ts"], NOW_MS);
    assert_eq!(answer.get("id").and_then(Value::as_str), id.as_deref());
    assert!(answer["payload"]["content"].as_str().is_some_and(|why| !why.is_empty()));
    assert!(id.as_ref().is_none_or(|id| id.len() <= 40));
}

/// Whom a frame is for is a conversation of the sender's, or nobody.
fn to_whom(settings: &Settings, group: bool, to: &str) {
    let sender = UserId::parse("7").expect("valid");
    let Some((meant, rival)) = settings.conversation(&sender, group, to) else { return };
    for conversation in [Some(&meant), rival.as_ref()].into_iter().flatten() {
        match conversation {
            Conversation::Group(_) => assert!(group),
            Conversation::Private { low, high } => {
                assert!(!group && low <= high && (*low == sender || *high == sender));
            }
            other => panic!("nobody writes to {other:?}"),
        }
    }
    assert!(rival.is_none_or(|rival| rival != meant), "{to}");
}

/// Receivers get the very bytes of a payload, and other dialects what they say.
fn sent(settings: &Settings, group: bool, id: &str, sender_ms: Option<i64>, payload: &str) {
    let record = Record {
        seq: 1,
        kind: Kind::Message,
        id: MessageId([1; 12]),
        time_ms: NOW_MS,
        sender_ms,
        countable: 1,
        sent: [0; 2],
        sender: "7",
        dialect: Dialect::Imboy,
        device: "phone",
        client_id: id,
        content: payload.as_bytes(),
    };
    let mut out = Vec::new();
    let kind = if group { "C2G" } else { "C2C" };
    imboy::write_message(settings, &record, kind, "bob", &mut out);
    let told = std::str::from_utf8(&out).expect("text");
    let head = format!(
        "{{\"id\":\"{}\",\"type\":\"{kind}\",\"from\":\"{}\",\"to\":\"bob\",\"payload\":{payload},",
        std::str::from_utf8(&imboy::wire_id(&record).to_xid()).expect("ASCII"),
        imboy_id(settings, "7"),
    );
    assert!(told.starts_with(&head), "{told} and not {head}");
    let tail = format!("{{{}", &told[head.len()..]);
    let created = sender_ms.map_or(Value::from(NOW_MS), Value::from);
    let expected = serde_json::json!({"created_at": created, "server_ts": NOW_MS});
    assert_eq!(object_of(tail.as_bytes()), expected);
    let mut out = Vec::new();
    imboy::write_server_ack(group, id, NOW_MS, &mut out);
    assert_eq!(object_of(&out)["id"], id);
    let read = content::parse(settings, payload);
    rendered(settings, &read);
}

/// A content of the HTTP API, if the text is one.
fn body(settings: &Settings, text: &str) {
    match Body::from_json(text) {
        Ok(body) => rendered(settings, &body),
        Err(error) => assert!(!error.problem.is_empty()),
    }
}

/// What was read comes back from the neutral model's JSON, and imboy can show it.
fn rendered(settings: &Settings, body: &Body) {
    let mut shown = Vec::new();
    content::write(settings, body, &mut shown);
    let payload = std::str::from_utf8(&shown).expect("text");
    assert!(parse(payload).is_ok_and(|payload| payload["msg_type"].is_string()), "{payload}");
    let mut neutral = Vec::new();
    body.write_json(&mut neutral);
    let neutral = std::str::from_utf8(&neutral).expect("text");
    match Body::from_json(neutral) {
        Ok(again) => assert_eq!(again, *body, "{neutral}"),
        // What the API's callers must say may be empty in a payload.
        Err(error) => {
            let needed = ["is missing", "either this or path must be given"];
            assert!(needed.contains(&error.problem), "{error}: {neutral}");
        }
    }
}
