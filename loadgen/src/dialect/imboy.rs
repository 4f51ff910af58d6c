//! imboy as its clients speak it: JSON text frames, `CLIENT_ACK` text, `ping` and `pong2`
//! (protocols/imboy.md).

use super::{Dialect, Incoming, Kind, Upgrade, json};

/// The protocol; a client of it keeps no state.
#[derive(Clone, Copy, Debug)]
pub struct Imboy;

impl Dialect for Imboy {
    fn upgrade(&self, token: &str, device: &str) -> Upgrade {
        let headers = vec![
            ("authorization", token.to_owned()),
            ("did", device.to_owned()),
            ("cos", "linux".to_owned()),
            ("vsn", env!("CARGO_PKG_VERSION").to_owned()),
        ];
        Upgrade { target: "/imboy/ws".to_owned(), headers }
    }

    fn message(&self, kind: Kind, id: &[u8], to: &str, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"id":""#);
        out.extend_from_slice(id);
        out.extend_from_slice(br#"","type":""#);
        out.extend_from_slice(word(kind));
        out.extend_from_slice(br#"","to":""#);
        out.extend_from_slice(to.as_bytes());
        out.extend_from_slice(br#"","payload":"#);
        out.extend_from_slice(payload);
        out.push(b'}');
    }

    fn acknowledge(&self, kind: Kind, id: &[u8], device: &str, out: &mut Vec<u8>) {
        client_ack(word(kind), id, device, out);
    }

    fn acknowledge_notice(&self, id: &[u8], device: &str, out: &mut Vec<u8>) {
        client_ack(b"S2C", id, device, out);
    }

    fn probe(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"ping");
    }

    fn hint(&self, text: &[u8]) -> Option<&'static str> {
        let code = json::members(text).flatten().find(|(name, _)| *name == b"code")?.1;
        match code {
            b"705" => Some("token expired: do the clocks of client and server differ?"),
            b"706" => Some(
                "token refused: is --secret-file this server's token-secret, and may it create \
                 unknown users?",
            ),
            b"707" => Some("signature refused: the server has imboy.sign_keys configured"),
            _ => None,
        }
    }

    fn decode<'a>(&self, text: &'a [u8]) -> Result<Incoming<'a>, &'static str> {
        if text == b"pong2" {
            return Ok(Incoming::Probe);
        }
        let mut frame = Frame::default();
        for member in json::members(text) {
            frame.enter(member.ok_or("not a JSON object")?);
        }
        frame.meaning()
    }
}

/// The type of a message's frames.
fn word(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Private => b"C2C",
        Kind::Group => b"C2G",
    }
}

fn client_ack(kind: &[u8], id: &[u8], device: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"CLIENT_ACK,");
    out.extend_from_slice(kind);
    out.push(b',');
    out.extend_from_slice(id);
    out.push(b',');
    out.extend_from_slice(device.as_bytes());
}

/// The members that any frame may have.
#[derive(Default)]
struct Frame<'a> {
    id: Option<&'a [u8]>,
    kind: Option<&'a [u8]>,
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
    payload: Option<&'a [u8]>,
    code: Option<&'a [u8]>,
    created_at: Option<&'a [u8]>,
    server_ts: Option<&'a [u8]>,
}

impl<'a> Frame<'a> {
    fn enter(&mut self, (name, value): (&'a [u8], &'a [u8])) {
        match name {
            b"id" => self.id = json::string(value),
            b"type" => self.kind = json::string(value),
            b"from" => self.from = json::string(value),
            b"to" => self.to = json::string(value),
            b"payload" => self.payload = Some(value),
            b"code" => self.code = Some(value),
            b"created_at" => self.created_at = Some(value),
            b"server_ts" => self.server_ts = Some(value),
            _ => {}
        }
    }

    fn meaning(&self) -> Result<Incoming<'a>, &'static str> {
        let is_ms = |value: Option<&[u8]>| {
            value.is_some_and(|digits| digits.len() == 13 && digits.iter().all(u8::is_ascii_digit))
        };
        if !is_ms(self.server_ts) {
            return Err("no server_ts in ms");
        }
        match self.kind.ok_or("no type")? {
            b"C2C_SERVER_ACK" | b"C2G_SERVER_ACK" => {
                Ok(Incoming::Receipt { id: self.id.ok_or("no id")? })
            }
            kind @ (b"C2C" | b"C2G") => {
                if !is_ms(self.created_at) {
                    return Err("no created_at in ms");
                }
                Ok(Incoming::Message {
                    kind: if kind == b"C2C" { Kind::Private } else { Kind::Group },
                    id: self.id.ok_or("no id")?,
                    from: self.from.ok_or("no from")?,
                    to: self.to.ok_or("no to")?,
                    payload: self.payload.ok_or("no payload")?,
                })
            }
            b"S2C" => self.notice(),
            b"error" => {
                self.code.ok_or("an error without a code")?;
                Ok(Incoming::Refused { id: self.id })
            }
            _ => Err("unknown type"),
        }
    }

    /// Two of the notices are refusals of a message, whose id they carry.
    fn notice(&self) -> Result<Incoming<'a>, &'static str> {
        let id = self.id.ok_or("no id")?;
        for member in json::members(self.payload.ok_or("no payload")?) {
            let (name, value) = member.ok_or("a payload that is not an object")?;
            if name == b"msg_type" {
                return Ok(match json::string(value) {
                    Some(b"not_a_friend" | b"in_denylist") => Incoming::Refused { id: Some(id) },
                    _ => Incoming::Notice { id },
                });
            }
        }
        Err("no msg_type")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(make: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        make(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn frames_are_as_the_protocol_has_them() {
        let id = b"9m4e2mr0ui3e8a215n4g";
        let message = made(|out| Imboy.message(Kind::Private, id, "bob", br#"{"text":"hi"}"#, out));
        assert_eq!(
            message,
            r#"{"id":"9m4e2mr0ui3e8a215n4g","type":"C2C","to":"bob","payload":{"text":"hi"}}"#
        );
        let message = made(|out| Imboy.message(Kind::Group, id, "g1", b"1", out));
        assert_eq!(message, r#"{"id":"9m4e2mr0ui3e8a215n4g","type":"C2G","to":"g1","payload":1}"#);
        let acknowledgement = made(|out| Imboy.acknowledge(Kind::Private, id, "phone-1", out));
        assert_eq!(acknowledgement, "CLIENT_ACK,C2C,9m4e2mr0ui3e8a215n4g,phone-1");
        let acknowledgement = made(|out| Imboy.acknowledge(Kind::Group, id, "phone-1", out));
        assert_eq!(acknowledgement, "CLIENT_ACK,C2G,9m4e2mr0ui3e8a215n4g,phone-1");
        let acknowledgement = made(|out| Imboy.acknowledge_notice(b"", "phone-1", out));
        assert_eq!(acknowledgement, "CLIENT_ACK,S2C,,phone-1");
        let upgrade = Imboy.upgrade("token", "phone-1");
        assert_eq!(upgrade.target, "/imboy/ws");
        assert!(upgrade.headers.contains(&("did", "phone-1".to_owned())));
    }

    #[test]
    fn what_the_server_says_is_understood() {
        let check = |text: &'static str, expected| {
            assert_eq!(Imboy.decode(text.as_bytes()), expected, "{text}")
        };
        check("pong2", Ok(Incoming::Probe));
        check(
            r#"{"id":"x","type":"C2C_SERVER_ACK","server_ts":1700000000000}"#,
            Ok(Incoming::Receipt { id: b"x" }),
        );
        check(
            r#"{"id":"x","type":"C2C","from":"a","to":"b","payload":{"id":"}"},"created_at":1700000000000,"server_ts":1700000000001}"#,
            Ok(Incoming::Message {
                kind: Kind::Private,
                id: b"x",
                from: b"a",
                to: b"b",
                payload: br#"{"id":"}"}"#,
            }),
        );
        check(
            r#"{"id":"x","type":"C2G_SERVER_ACK","server_ts":1700000000000}"#,
            Ok(Incoming::Receipt { id: b"x" }),
        );
        check(
            r#"{"id":"x","type":"C2G","from":"a","to":"g","payload":1,"created_at":1700000000000,"server_ts":1700000000001}"#,
            Ok(Incoming::Message {
                kind: Kind::Group,
                id: b"x",
                from: b"a",
                to: b"g",
                payload: b"1",
            }),
        );
        check(
            r#"{"type":"error","code":706,"server_ts":1700000000000}"#,
            Ok(Incoming::Refused { id: None }),
        );
        check(
            r#"{"type":"error","code":3,"payload":{"content":"no"},"id":"x","server_ts":1700000000000}"#,
            Ok(Incoming::Refused { id: Some(b"x") }),
        );
        check(
            r#"{"id":"x","type":"S2C","from":"","to":"b","payload":{"msg_type":"in_denylist"},"server_ts":1700000000000}"#,
            Ok(Incoming::Refused { id: Some(b"x") }),
        );
        check(
            r#"{"id":"x","type":"S2C","from":"a","to":"b","payload":{"msg_type":"online"},"server_ts":1700000000000}"#,
            Ok(Incoming::Notice { id: b"x" }),
        );
    }

    #[test]
    fn refused_logins_are_explained() {
        let hint = |text: &str| Imboy.hint(text.as_bytes());
        assert!(
            hint(r#"{"type":"error","code":705}"#).is_some_and(|hint| hint.contains("expired"))
        );
        assert!(hint(r#"{"type":"error","code":706}"#).is_some_and(|hint| hint.contains("secret")));
        assert_eq!(hint(r#"{"type":"error","code":1}"#), None);
        assert_eq!(hint("pong2"), None);
    }

    #[test]
    fn what_is_missing_or_malformed_is_named() {
        for (text, why) in [
            ("hello", "not a JSON object"),
            (r#"{"type":"C2C_SERVER_ACK","server_ts":1700000000000}"#, "no id"),
            (r#"{"id":"x","type":"C2C_SERVER_ACK"}"#, "no server_ts in ms"),
            (r#"{"id":"x","type":"C2C_SERVER_ACK","server_ts":1700000000}"#, "no server_ts in ms"),
            (r#"{"id":"x","type":"C2X","server_ts":1700000000000}"#, "unknown type"),
            (
                r#"{"id":"x","type":"C2C","from":"a","to":"b","payload":1,"server_ts":1700000000000}"#,
                "no created_at in ms",
            ),
        ] {
            assert_eq!(Imboy.decode(text.as_bytes()), Err(why), "{text}");
        }
    }
}
