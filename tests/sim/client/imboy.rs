//! imboy's client (protocols/imboy.md): JSON text frames, and `CLIENT_ACK`.

use serde_json::{Value, json};

use super::{Class, Hear, Say};

pub fn encode(say: &Say, device: &str) -> String {
    match say {
        Say::Send { group, id, to, payload } => {
            let kind = if *group { "C2G" } else { "C2C" };
            // The payload stands as it is: it comes back byte for byte.
            format!(r#"{{"id":"{id}","type":"{kind}","to":"{to}","payload":{payload}}}"#)
        }
        Say::Revoke { group, id, to } => {
            let kind = if *group { "C2G_REVOKE" } else { "C2C_REVOKE" };
            json!({"id": id, "type": kind, "to": to}).to_string()
        }
        Say::Ack { class, id } => {
            let kind = match class {
                Class::Private => "C2C",
                Class::Group => "C2G",
                Class::Event => "S2C",
            };
            format!("CLIENT_ACK,{kind},{id},{device}")
        }
        Say::CheckOffline => "check_offline_msg".to_owned(),
        Say::Ping => "ping".to_owned(),
        Say::Logout => "logout".to_owned(),
        Say::Garbage => r#"{"id":"x","type":"#.to_owned(),
    }
}

pub fn decode(text: &str) -> Hear {
    if text == "pong2" {
        return Hear::Pong;
    }
    let frame: Value = serde_json::from_str(text).expect("the server writes JSON");
    let word = |key: &str| frame[key].as_str().map(str::to_owned);
    let (id, from, to) = (word("id"), word("from"), word("to"));
    let time_ms = frame["server_ts"].as_u64().expect("every frame has the server's time");
    let kind = frame["type"].as_str().expect("a type");
    let id_of = || id.clone().expect("an id");
    match kind {
        "C2C_SERVER_ACK" | "C2G_SERVER_ACK" => {
            Hear::Receipt { group: kind.starts_with("C2G"), id: id_of(), time_ms }
        }
        "C2C" | "C2G" => {
            let payload = frame["payload"].clone();
            let revoked = payload["custom_type"] == "peer_revoked";
            Hear::Said {
                group: kind == "C2G",
                wire: id_of(),
                from: from.expect("a sender"),
                to: to.expect("a receiver"),
                payload: (!revoked).then_some(payload),
                time_ms,
            }
        }
        "C2C_REVOKE" | "C2G_REVOKE" => Hear::Revoked {
            group: kind.starts_with("C2G"),
            wire: id_of(),
            from: from.expect("a sender"),
            to: to.expect("a receiver"),
            time_ms,
        },
        "C2C_REVOKE_ACK" | "C2G_REVOKE_ACK" => Hear::RevokeReceipt { id: id_of() },
        "error" => {
            let why = frame["payload"]["content"].as_str().map(str::to_owned);
            let why = why.unwrap_or_else(|| frame["code"].to_string());
            Hear::Refused { id, why }
        }
        "S2C" => {
            let payload = frame["payload"].clone();
            let word = payload["msg_type"].as_str().expect("an event has its word").to_owned();
            match word.as_str() {
                "logged_another_device" => Hear::OtherDevice { id: id_of() },
                "online" | "offline" | "hide" => {
                    Hear::Presence { from: from.expect("a friend"), what: word }
                }
                "not_a_friend" | "in_denylist" => Hear::Refused { id, why: word },
                _ => Hear::Event { wire: id_of(), to: to.expect("a receiver"), payload, time_ms },
            }
        }
        other => panic!("the server says {other}: {text}"),
    }
}

pub fn retry_ms(class: Class, wire: &str) -> &'static [u64] {
    match class {
        Class::Private => &[5_000, 12_000, 23_000],
        Class::Group => &[3_500, 7_000, 10_000, 15_000],
        Class::Event if wire.starts_with("af") && wire.contains('_') => {
            &[1_500, 3_000, 6_000, 11_000, 18_000]
        }
        Class::Event => &[1_000_000, 2_000_000],
    }
}
