//! Our JSON beside serde_json's, on the same bytes: the same documents are taken, with the same
//! members and values, and what is opaque keeps its bytes (`dialect::json`).
//!
//! What may differ:
//!
//! * A number beyond the range of f64 is one to us: in a payload it is not ours to judge. serde_json
//!   refuses it.
//! * serde_json takes 128 levels, we 1,024.
//! * A number's exact value, where it is no integer of 64 bits, is compared to a relative 1e-15: both
//!   round.

use ringpost_core::dialect::json::{
    self, NotAnObject, Scratch, Value, copy_members, member_span, write_integer, write_string,
};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value as Peer;
use simd_json::{BorrowedValue, StaticNode};

/// All members of an object in their order, those with the same name too.
struct Members(Vec<(String, Peer)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Members, D::Error> {
        struct Of;
        impl<'de> Visitor<'de> for Of {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Of)
    }
}

/// What of a member is compared; a text's or a key's bytes, unescaped.
#[derive(PartialEq, Debug)]
enum Seen {
    Text(String),
    Integer(i64),
    Other,
}

/// See the module.
pub fn run(data: &[u8]) {
    members(data);
    document(data);
    if let Ok(text) = std::str::from_utf8(data) {
        written(text);
    }
}

/// `Scratch::members` and the spans.
fn members(text: &[u8]) {
    let mut scratch = Scratch::default();
    let ours = scratch.members(text, |members| {
        let seen = |value: Value<'_>| match value {
            Value::Text(text) => Seen::Text(text.to_owned()),
            Value::Integer(number) => Seen::Integer(number),
            Value::Other => Seen::Other,
        };
        members
            .enumerate()
            .map(|(at, (ordinal, key, value))| {
                assert_eq!(at, ordinal, "in order");
                (key.to_owned(), seen(value))
            })
            .collect::<Vec<_>>()
    });
    // The scratch is as good as new.
    let again = scratch.members(text, |members| members.count());
    assert_eq!(again, ours.as_ref().map(Vec::len).map_err(|_| NotAnObject));
    let peer = serde_json::from_slice::<Members>(text);
    if let Ok(ours) = &ours {
        spans(text, ours);
    }
    let peer = match peer {
        Ok(Members(peer)) => peer,
        Err(error) => {
            assert!(ours.is_err() || is_known(&error, text), "only we take it: {error}");
            return;
        }
    };
    let ours = ours.expect("serde_json takes it");
    assert_eq!(ours.len(), peer.len());
    for (ordinal, ((key, seen), (peer_key, value))) in ours.iter().zip(&peer).enumerate() {
        assert_eq!(key, peer_key);
        let expected = match value {
            Peer::String(text) => Seen::Text(text.clone()),
            Peer::Number(number) => number.as_i64().map_or(Seen::Other, Seen::Integer),
            _ => Seen::Other,
        };
        let span = &text[member_span(text, ordinal)];
        // Minus nothing is 0 to us, and a fraction to serde_json.
        assert!(*seen == expected || span == b"-0", "{key:?}: {seen:?} and {expected:?}");
        let alone: Peer = serde_json::from_slice(span).expect("a value");
        assert_eq!(alone, *value, "the span of {key:?}");
    }
}

/// Members are where their spans are: nothing is around them but blanks, colons and commas, and
/// copied as they stand they are the object again.
fn spans(text: &[u8], members: &[(String, Seen)]) {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let mut before = 0;
    for ordinal in 0..members.len() {
        let span = member_span(text, ordinal);
        assert!(before < span.start && span.start < span.end && span.end < text.len());
        assert!(!blank(&text[span.start]) && !blank(&text[span.end - 1]));
        before = span.end;
    }
    assert!(text[before..].iter().all(|byte| blank(byte) || b"{}".contains(byte)));
    let mut copy = b"{".to_vec();
    let mut inner = Vec::new();
    copy_members(text, [None; 2], &mut inner);
    copy.extend_from_slice(&inner);
    copy.push(b'}');
    let mut scratch = Scratch::default();
    let copied = |text: &[u8], scratch: &mut Scratch| {
        scratch.members(text, |members| {
            members.map(|(ordinal, key, _)| (ordinal, key.to_owned())).collect::<Vec<_>>()
        })
    };
    let original = copied(text, &mut scratch);
    assert_eq!(copied(&copy, &mut scratch), original);
    for ordinal in 0..members.len() {
        assert_eq!(copy[member_span(&copy, ordinal)], text[member_span(text, ordinal)]);
    }
}

/// Whole documents, as payloads and contents are read.
fn document(text: &[u8]) {
    let mut bytes = text.to_vec();
    let ours = json::document(&mut bytes);
    let peer = serde_json::from_slice::<Peer>(text);
    match (&ours, &peer) {
        (Ok(ours), Ok(peer)) => assert!(same(ours, peer), "{ours:?} and {peer:?}"),
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => assert!(is_known(error, text), "only we take it: {error}"),
        (Err(error), Ok(_)) => panic!("only serde_json takes it: {error}"),
    }
}

/// The first two differences in the list above.
fn is_known(error: &serde_json::Error, text: &[u8]) -> bool {
    let said = error.to_string();
    said.starts_with("number out of range")
        || said.starts_with("recursion limit exceeded") && nesting(text) >= 128
}

/// Levels of a document; more, if strings have brackets.
fn nesting(text: &[u8]) -> usize {
    text.iter().filter(|byte| b"[{".contains(byte)).count()
}

fn same(ours: &BorrowedValue<'_>, peer: &Peer) -> bool {
    match (ours, peer) {
        (BorrowedValue::Static(StaticNode::Null), Peer::Null) => true,
        (BorrowedValue::Static(StaticNode::Bool(one)), Peer::Bool(other)) => one == other,
        (BorrowedValue::String(one), Peer::String(other)) => *one == *other,
        (BorrowedValue::Array(one), Peer::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (BorrowedValue::Object(one), Peer::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| {
                    other.get(key.as_ref()).is_some_and(|other| same(value, other))
                })
        }
        (BorrowedValue::Static(StaticNode::I64(one)), Peer::Number(other)) => {
            other.as_i64() == Some(*one) || *one == 0 && other.as_f64() == Some(0.0)
        }
        (BorrowedValue::Static(StaticNode::U64(one)), Peer::Number(other)) => {
            other.as_u64() == Some(*one)
        }
        (BorrowedValue::Static(StaticNode::F64(one)), Peer::Number(other)) => {
            let (one, other) = (*one, other.as_f64().unwrap_or(f64::NAN));
            // The third difference.
            one == other || (one - other).abs() <= other.abs() * 1e-15
        }
        _ => false,
    }
}

/// What we write serde_json reads.
fn written(text: &str) {
    let mut out = Vec::new();
    write_string(text, &mut out);
    assert_eq!(serde_json::from_slice::<String>(&out).expect("a string"), text);
    let mut bytes = [0; 8];
    let len = text.len().min(8);
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    let number = i64::from_le_bytes(bytes);
    out.clear();
    write_integer(number, &mut out);
    assert_eq!(out, number.to_string().as_bytes());
}
