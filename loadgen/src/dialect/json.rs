//! A scan over the members of one JSON object: cheap enough for a load generator, which knows the
//! few frames that a server sends, and strict enough to notice when one is not such a frame.
//!
//! Values are given as the bytes that they are on the wire; nothing is unescaped or converted.

/// The members of the JSON object `text`, names without their quotes, in order.
///
/// Each item is `None` where `text` is not such an object; nothing comes after that.
pub fn members(text: &[u8]) -> Members<'_> {
    Members { text, at: 0, state: State::Start }
}

/// The inside of a JSON string, quotes taken off; `None` for another kind of value.
pub fn string(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// See [`members`].
#[derive(Debug)]
pub struct Members<'a> {
    text: &'a [u8],
    at: usize,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    Start,
    Within,
    End,
}

impl<'a> Iterator for Members<'a> {
    type Item = Option<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::End {
            return None;
        }
        let member = self.member();
        if !matches!(member, Some(Some(_))) {
            self.state = State::End;
        }
        match member {
            Some(Some(member)) => Some(Some(member)),
            Some(None) => None,
            None => Some(None),
        }
    }
}

impl<'a> Members<'a> {
    /// `None`: malformed. `Some(None)`: the object has ended, and the text with it.
    fn member(&mut self) -> Option<Option<(&'a [u8], &'a [u8])>> {
        let first = self.state == State::Start;
        if first {
            self.expect(b'{')?;
            self.state = State::Within;
        }
        self.space();
        if self.peek()? == b'}' {
            self.at += 1;
            self.space();
            return (self.at == self.text.len()).then_some(None);
        }
        if !first {
            self.expect(b',')?;
            self.space();
        }
        let name = self.value().and_then(string)?;
        self.expect(b':')?;
        self.space();
        let value = self.value()?;
        Some(Some((name, value)))
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// One value; nesting is followed, numbers and words are taken as they stand.
    fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        match self.peek()? {
            b'"' => self.skip_string()?,
            b'{' | b'[' => self.skip_nested()?,
            _ => {
                let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
                while self.peek().is_some_and(word) {
                    self.at += 1;
                }
                (self.at > start).then_some(())?;
            }
        }
        self.text.get(start..self.at)
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let rest = self.text.get(self.at..)?;
            let stop = rest.iter().position(|&b| b == b'"' || b == b'\\')?;
            self.at += stop + 1;
            if rest[stop] == b'"' {
                return Some(());
            }
            self.at += 1;
        }
    }

    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0u32;
        loop {
            match self.peek()? {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> Option<Vec<(&str, &str)>> {
        let utf8 = |bytes| std::str::from_utf8(bytes).expect("cut at ASCII characters");
        members(text.as_bytes()).map(|m| m.map(|(name, value)| (utf8(name), utf8(value)))).collect()
    }

    #[test]
    fn members_come_as_they_stand() {
        let text = r#" { "a" : "x\"}\\" ,"b":{"c":["]",{}],"d":"}"}, "e":-1.5e3,"f":null } "#;
        let expected = [
            ("a", r#""x\"}\\""#),
            ("b", r#"{"c":["]",{}],"d":"}"}"#),
            ("e", "-1.5e3"),
            ("f", "null"),
        ];
        assert_eq!(scan(text).as_deref(), Some(&expected[..]));
        assert_eq!(scan("{}"), Some(vec![]));
    }

    #[test]
    fn what_is_not_an_object_is_noticed() {
        for bad in [
            "",
            "pong2",
            "[]",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1"#,
            r#"{"a":"b}"#,
            r#"{"a":1 "b":2}"#,
            r#"{,"a":1}"#,
            r#"{"a":[1}"#,
            r#"{a:1}"#,
            r#"{"a":1}x"#,
            r#"{"a":"b\"#,
        ] {
            assert_eq!(scan(bad), None, "{bad}");
        }
    }

    #[test]
    fn strings_lose_their_quotes() {
        assert_eq!(string(br#""abc""#), Some(&b"abc"[..]));
        assert_eq!(string(b"12"), None);
        assert_eq!(string(b"\""), None);
    }
}
