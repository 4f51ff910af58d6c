//! Ids of users and groups as hashids (protocols/imboy.md, *Hashids*): decimal ids are shown encoded, and what a
//! client sends is decoded. The code is the library's (harsh).

use std::fmt;

use harsh::Harsh;

/// How ids are shown.
#[derive(Clone)]
pub struct Hashids {
    salt: String,
    min_length: usize,
    alphabet: String,
    code: Harsh,
}

impl PartialEq for Hashids {
    /// The code follows from the rest.
    fn eq(&self, other: &Hashids) -> bool {
        (&self.salt, self.min_length, &self.alphabet)
            == (&other.salt, other.min_length, &other.alphabet)
    }
}

impl Eq for Hashids {}

impl fmt::Debug for Hashids {
    /// The salt is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Hashids");
        shown.field("min_length", &self.min_length).field("alphabet", &self.alphabet).finish()
    }
}

impl Hashids {
    /// The characters that imboy uses: none that look alike.
    pub const ALPHABET: &str = "123456789abcdefghijkmnpqrstuvwxyz";
    /// Shown ids have no fewer characters.
    pub const MIN_LENGTH: usize = 6;
    /// The largest `min_length`: shown ids stay well below the length of a user id.
    pub const MIN_LENGTH_MAX: usize = 32;

    /// A code; the error says what is wrong with its settings.
    pub fn new(salt: &str, min_length: usize, alphabet: &str) -> Result<Hashids, String> {
        if min_length > Hashids::MIN_LENGTH_MAX {
            return Err(format!("min_length: must be 0 to {}", Hashids::MIN_LENGTH_MAX));
        }
        // Ids of users are made of these too, and JSON does not escape them.
        if !alphabet.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err("alphabet: must be letters and digits of ASCII".to_owned());
        }
        let code = Harsh::builder().salt(salt).length(min_length).alphabet(alphabet).build();
        let code = code.map_err(|error| format!("alphabet: {error}"))?;
        let (salt, alphabet) = (salt.to_owned(), alphabet.to_owned());
        Ok(Hashids { salt, min_length, alphabet, code })
    }

    /// Appends an id as clients see it.
    pub fn write(&self, id: &str, out: &mut Vec<u8>) {
        match canonical(id) {
            Some(number) => out.extend_from_slice(self.code.encode(&[number]).as_bytes()),
            None => out.extend_from_slice(id.as_bytes()),
        }
    }

    /// The decimal id that clients see as `text`, if it is one: encoding it gives `text` again.
    pub fn read(&self, text: &str) -> Option<u64> {
        // Longer ones cannot be; the library's arithmetic is for short ones.
        if text.len() > Hashids::MIN_LENGTH_MAX + 24 {
            return None;
        }
        let numbers = self.code.decode(text).ok()?;
        let [number] = numbers[..] else { return None };
        let again = self.code.encode(&[number]);
        (again == text).then_some(number)
    }
}

/// The number that `id` is the canonical decimal of.
fn canonical(id: &str) -> Option<u64> {
    let canonical = id == "0" || !id.starts_with(['0', '+']);
    id.parse().ok().filter(|_| canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashids() -> Hashids {
        Hashids::new("salt", Hashids::MIN_LENGTH, Hashids::ALPHABET).expect("valid")
    }

    fn shown(id: &str) -> String {
        let mut out = Vec::new();
        hashids().write(id, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn decimals_are_encoded_as_the_original_does() {
        // hashids.org: new Hashids("this is my salt").encode(1226198605112)
        let plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ1234567890";
        let other = Hashids::new("this is my salt", 0, plain).expect("valid");
        let mut out = Vec::new();
        other.write("1226198605112", &mut out);
        assert_eq!(out, b"4o6Z7KqxE");
        assert_eq!(shown("1").len(), 6);
        for id in ["alice", "007", "+7", "-7", "1.5", "18446744073709551616", ""] {
            assert_eq!(shown(id), id);
        }
    }

    #[test]
    fn what_is_shown_is_read_and_nothing_else() {
        let hashids = hashids();
        for number in (1..2_000).chain([1 << 31, 1 << 53, u64::MAX - 1, u64::MAX]) {
            assert_eq!(hashids.read(&shown(&number.to_string())), Some(number));
        }
        let mut others = 0;
        let seven = shown("7");
        for text in ["", "1", "alice", "0", "7", "!!!!!!", &"x".repeat(56), &"x".repeat(1_000)] {
            assert_eq!(hashids.read(text), None, "{text}");
        }
        // No other string reads as 7, and none makes the library panic.
        for at in 0..seven.len() {
            for c in Hashids::ALPHABET.chars().chain(['l', 'o', '0', '-', 'ü']) {
                let mut text: Vec<char> = seven.chars().collect();
                text[at] = c;
                let text = String::from_iter(text);
                others += 1;
                if text != seven {
                    assert_ne!(hashids.read(&text), Some(7));
                }
            }
        }
        assert!(others > 200);
    }

    #[test]
    fn settings_are_checked() {
        for (min_length, alphabet) in
            [(33, Hashids::ALPHABET), (6, "abc"), (6, "abcdefghijklmnop\"")]
        {
            assert!(Hashids::new("", min_length, alphabet).is_err(), "{min_length} {alphabet}");
        }
    }
}
