//! The little JSON that dialects share: members of an object with their spans, and writing strings.
//!
//! Parsing and validation is simd-json's. It changes its input and keeps no spans, so it gets a
//! copy; an opaque member is then found by a scan of the original, which may trust its input.

use simd_json::borrowed::{Array, Object};
use simd_json::{BorrowedValue, Buffers, Node, StaticNode, Tape};

/// Memory that decoding reuses: no allocation once it is warm, and none for an empty one, which
/// stands in its place while it is used.
#[derive(Default)]
pub struct Scratch {
    copy: Vec<u8>,
    /// Boxed: it is moved around for every frame.
    buffers: Option<Box<Buffers>>,
    tape: Option<Tape<'static>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("copy_bytes", &self.copy.capacity()).finish()
    }
}

/// A top-level member's value, as far as a dialect looks into it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Value<'a> {
    /// A string, unescaped.
    Text(&'a str),
    /// A number that is an integer within i64.
    Integer(i64),
    /// Anything else: other numbers, true, false, null, arrays, objects.
    Other,
}

/// Not a JSON object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnObject;

impl Scratch {
    /// Parses `text` and calls `visit` with each top-level member in order: its ordinal, key and
    /// value. The ordinal finds the member's bytes with [`member_span`].
    pub fn members<R>(
        &mut self,
        text: &[u8],
        visit: impl FnOnce(&mut dyn Iterator<Item = (usize, &str, Value<'_>)>) -> R,
    ) -> Result<R, NotAnObject> {
        self.copy.clear();
        self.copy.extend_from_slice(text);
        let mut tape: Tape<'_> = self.tape.take().unwrap_or_else(Tape::null).reset();
        let buffers = self.buffers.get_or_insert_default();
        let parsed = simd_json::fill_tape(&mut self.copy, buffers, &mut tape);
        let result = match (parsed, tape.0.first()) {
            (Ok(()), Some(&Node::Object { .. })) => {
                Ok(visit(&mut Members { nodes: &tape.0, at: 1, ordinal: 0 }))
            }
            _ => Err(NotAnObject),
        };
        self.tape = Some(tape.reset());
        result
    }
}

/// Reads a whole document; `bytes` are changed. Of a member that is given twice the last one counts,
/// as it does to the apps, and to [`Scratch::members`]' callers: simd-json's own values keep both, and
/// which of them they find depends on how many others there are.
///
/// # Errors
/// It is not JSON.
pub fn document(bytes: &mut [u8]) -> Result<BorrowedValue<'_>, simd_json::Error> {
    let tape = simd_json::to_tape(bytes)?;
    Ok(take_value(&mut tape.0.into_iter()))
}

/// The next value of a tape, which has one.
fn take_value<'a>(nodes: &mut impl Iterator<Item = Node<'a>>) -> BorrowedValue<'a> {
    match nodes.next() {
        Some(Node::String(text)) => BorrowedValue::String(text.into()),
        Some(Node::Static(value)) => BorrowedValue::Static(value),
        Some(Node::Array { len, .. }) => {
            let items: Array<'_> = (0..len).map(|_| take_value(nodes)).collect();
            BorrowedValue::Array(Box::new(items))
        }
        Some(Node::Object { len, .. }) => {
            let mut members = Object::with_capacity_and_hasher(len, Default::default());
            for _ in 0..len {
                let Some(Node::String(key)) = nodes.next() else {
                    unreachable!("a key stands in front of each value of an object");
                };
                let value = take_value(nodes);
                members.insert(key.into(), value);
            }
            BorrowedValue::Object(Box::new(members))
        }
        None => unreachable!("a tape has all the values that it says"),
    }
}

struct Members<'t, 'a> {
    nodes: &'t [Node<'a>],
    at: usize,
    ordinal: usize,
}

impl<'a> Iterator for Members<'_, 'a> {
    type Item = (usize, &'a str, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (Some(&Node::String(key)), Some(&node)) =
            (self.nodes.get(self.at), self.nodes.get(self.at + 1))
        else {
            return None;
        };
        let (value, inner) = match node {
            Node::String(text) => (Value::Text(text), 0),
            Node::Static(StaticNode::I64(number)) => (Value::Integer(number), 0),
            Node::Static(StaticNode::U64(number)) => {
                (i64::try_from(number).map_or(Value::Other, Value::Integer), 0)
            }
            Node::Static(_) => (Value::Other, 0),
            Node::Array { count, .. } | Node::Object { count, .. } => (Value::Other, count),
        };
        self.at += 2 + inner;
        self.ordinal += 1;
        Some((self.ordinal - 1, key, value))
    }
}

/// The bytes of the value of the member `ordinal` of the object `text`, which must be a JSON
/// object that parsed and has that many members.
pub fn member_span(text: &[u8], ordinal: usize) -> std::ops::Range<usize> {
    let mut at = skip_blank(text, 0) + 1;
    for _ in 0..ordinal {
        at = skip_value(text, after_colon(text, at));
        at = skip_blank(text, at) + 1;
    }
    let start = after_colon(text, at);
    start..skip_value(text, start)
}

/// Appends the members of the object `text` as they stand, between commas, but for those with
/// these ordinals. `text` must be a JSON object that parsed.
pub fn copy_members(text: &[u8], without: [Option<usize>; 2], out: &mut Vec<u8>) {
    let mut at = skip_blank(text, 0) + 1;
    for ordinal in 0.. {
        let start = skip_blank(text, at);
        if text.get(start) != Some(&b'"') {
            return;
        }
        let end = skip_value(text, after_colon(text, start));
        if !without.contains(&Some(ordinal)) {
            if !out.is_empty() {
                out.push(b',');
            }
            out.extend_from_slice(&text[start..end]);
        }
        at = skip_blank(text, end) + 1;
    }
}

/// From before a key to the start of its value.
fn after_colon(text: &[u8], at: usize) -> usize {
    let colon = skip_blank(text, skip_value(text, skip_blank(text, at)));
    skip_blank(text, colon + 1)
}

fn skip_blank(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|c| matches!(c, b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// From the first byte of a value to the one behind it.
fn skip_value(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(&c) = text.get(at) {
        match c {
            b'"' => at = skip_string(text, at + 1),
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return at,
            _ => {
                at += 1;
                // A number or a word goes on to its delimiter.
                if depth == 0
                    && !matches!(
                        text.get(at),
                        None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
                    )
                {
                    continue;
                }
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

/// From behind the opening quote to behind the closing one.
fn skip_string(text: &[u8], mut at: usize) -> usize {
    while let Some(&c) = text.get(at) {
        match c {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

/// Appends `text` as a JSON string, quotes included.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut plain = 0;
    let bytes = text.as_bytes();
    for (at, &c) in bytes.iter().enumerate() {
        if c >= 0x20 && c != b'"' && c != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..at]);
        plain = at + 1;
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let hex = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[hex[usize::from(c >> 4)], hex[usize::from(c & 15)]]);
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
    out.push(b'"');
}

/// Appends a decimal integer.
pub fn write_integer(number: i64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use simd_json::prelude::{ValueArrayAccess, ValueAsObject, ValueAsScalar, ValueObjectAccess};

    use super::*;

    fn spans(text: &str) -> Vec<(String, String)> {
        let mut scratch = Scratch::default();
        let names: Vec<(usize, String)> = scratch
            .members(text.as_bytes(), |members| {
                members.map(|(ordinal, key, _)| (ordinal, key.to_owned())).collect()
            })
            .expect("an object");
        names
            .into_iter()
            .map(|(ordinal, key)| (key, text[member_span(text.as_bytes(), ordinal)].to_owned()))
            .collect()
    }

    #[test]
    fn spans_are_the_members_bytes() {
        let text = " { \"a\" : 1 ,\"b\":{\"x\":[1,{\"y\":\"}\\\"]\"}]} , \"c\":\"q\\\\\", \"d\":[ ] ,\"e\":-1.5e3,\"f\":null}";
        let expected = [
            ("a", "1"),
            ("b", "{\"x\":[1,{\"y\":\"}\\\"]\"}]}"),
            ("c", "\"q\\\\\""),
            ("d", "[ ]"),
            ("e", "-1.5e3"),
            ("f", "null"),
        ];
        let expected: Vec<_> = expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_eq!(spans(text), expected);
        assert_eq!(spans("{}"), []);
        assert_eq!(spans("{\"a\":true}"), [("a".to_owned(), "true".to_owned())]);
    }

    /// Every object that serde_json makes out of random values has the spans that serde_json sees.
    #[test]
    fn spans_of_random_objects() {
        let mut seed = 1u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        fn value(random: &mut impl FnMut(u64) -> u64, depth: u32) -> serde_json::Value {
            match random(if depth == 0 { 4 } else { 6 }) {
                0 => serde_json::Value::Null,
                1 => random(1 << 30).into(),
                2 => (random(1000) as f64 / 8.0).into(),
                3 => "\"\\{}[],: ü\u{1}"
                    .chars()
                    .cycle()
                    .skip(random(9) as usize)
                    .take(random(12) as usize)
                    .collect::<String>()
                    .into(),
                4 => (0..random(4)).map(|_| value(random, depth - 1)).collect::<Vec<_>>().into(),
                _ => (0..random(4))
                    .map(|n| (format!("k\"{n}"), value(random, depth - 1)))
                    .collect::<serde_json::Map<_, _>>()
                    .into(),
            }
        }
        for round in 0..500 {
            let object: serde_json::Map<_, _> =
                (0..random(6)).map(|n| (format!("m{n}"), value(&mut random, 3))).collect();
            let text = if round % 2 == 0 {
                serde_json::to_string(&object).expect("json")
            } else {
                serde_json::to_string_pretty(&object).expect("json")
            };
            for (key, span) in spans(&text) {
                let seen: serde_json::Value = serde_json::from_str(&span).expect("a whole value");
                assert_eq!(seen, object[&key], "{text}");
            }
        }
    }

    #[test]
    fn of_a_member_given_twice_the_last_one_counts() {
        // A map of many members is another kind of map.
        for others in [0, 5, 31, 32, 33, 100] {
            for (first, last) in [(0, others), (others / 2, others / 2), (0, 0)] {
                let mut members: Vec<_> = (0..others).map(|n| format!("\"m{n}\":0")).collect();
                members.insert(last, "\"twice\":{\"a\":[],\"a\":\"last\"}".to_owned());
                members.insert(first, "\"twice\":1".to_owned());
                let text = format!("[{{{}}}]", members.join(","));
                let mut bytes = text.as_bytes().to_vec();
                let document = document(&mut bytes).expect("JSON");
                let object = document.get_idx(0).expect("an object");
                assert_eq!(object.as_object().map(|object| object.len()), Some(others + 1));
                let twice = object.get("twice").and_then(|twice| twice.get("a"));
                assert_eq!(twice.and_then(|last| last.as_str()), Some("last"), "{text}");
            }
        }
    }

    #[test]
    fn members_are_copied_as_they_stand() {
        let copied = |text: &str, without| {
            let mut out = Vec::new();
            copy_members(text.as_bytes(), without, &mut out);
            String::from_utf8(out).expect("text")
        };
        let text = " { \"a\" : 1.0 ,\"b\":{\"x\":[1,\"}\"]},\"c\":\",\\\"\" } ";
        let parts = ["\"a\" : 1.0", "\"b\":{\"x\":[1,\"}\"]}", "\"c\":\",\\\"\""];
        assert_eq!(copied(text, [None, None]), parts.join(","));
        assert_eq!(copied(text, [Some(0), None]), parts[1..].join(","));
        assert_eq!(copied(text, [Some(2), Some(1)]), parts[0]);
        assert_eq!(copied(text, [Some(1), Some(7)]), [parts[0], parts[2]].join(","));
        assert_eq!(copied("{ }", [None, None]), "");
    }

    #[test]
    fn what_is_not_an_object_is_refused_and_the_scratch_survives() {
        let mut scratch = Scratch::default();
        for bad in ["", "[]", "1", "{", "{\"a\":}", "{\"a\":1}x", "nul", "{\"a\" 1}"] {
            let result = scratch.members(bad.as_bytes(), |_| ());
            assert_eq!(result, Err(NotAnObject), "{bad}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(scratch.members(deep.as_bytes(), |_| ()), Err(NotAnObject));
        assert_eq!(scratch.members(b"{\"a\":1}", |members| members.count()), Ok(1));
    }

    #[test]
    fn strings_and_integers_are_written_as_serde_json_reads_them() {
        for text in ["", "plain", "q\"b\\s/\n\r\t\u{0}\u{1f}\u{7f}ü\u{1f600}"] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert_eq!(serde_json::from_slice::<String>(&out).expect("json"), text);
        }
        for number in [0, 1, -1, i64::MAX, i64::MIN, 1_700_000_000_000] {
            let mut out = Vec::new();
            write_integer(number, &mut out);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
