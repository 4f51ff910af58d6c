//! UTF-8 that comes in pieces (RFC 6455 section 8.1). Fails at the first byte that no valid text
//! can have there; keeps no more than the start of one character.

use super::WsError;

/// Where in a text the last piece ended: between characters, or within one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Utf8 {
    /// The start of a character. Invariant: `start[..len]` is a valid, incomplete one, so at most
    /// 3 bytes; the fourth is only written while a piece is looked at.
    start: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Takes the next piece of the text.
    ///
    /// # Errors
    /// [`WsError::Utf8`] as soon as no continuation can make the text valid.
    pub(super) fn feed(&mut self, mut piece: &[u8]) -> Result<(), WsError> {
        while self.len > 0 {
            let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.complete(byte)?;
        }
        let Err(error) = simdutf8::compat::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(WsError::Utf8);
        }
        for &byte in piece.iter().skip(error.valid_up_to()) {
            self.push(byte);
        }
        Ok(())
    }

    /// The text is over.
    ///
    /// # Errors
    /// [`WsError::Utf8`] when it ends within a character.
    pub(super) fn finish(self) -> Result<(), WsError> {
        if self.len == 0 { Ok(()) } else { Err(WsError::Utf8) }
    }

    /// Takes one more byte of the character under way.
    fn complete(&mut self, byte: u8) -> Result<(), WsError> {
        self.push(byte);
        let start = self.start.get(..usize::from(self.len)).unwrap_or(&self.start);
        match std::str::from_utf8(start) {
            Ok(_) => self.len = 0,
            Err(error) if error.error_len().is_none() => {}
            Err(_) => return Err(WsError::Utf8),
        }
        Ok(())
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.start.get_mut(usize::from(self.len)) {
            *place = byte;
            self.len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a text given in these pieces, and after how many bytes it fell.
    fn verdict(pieces: &[&[u8]]) -> (bool, usize) {
        let mut utf8 = Utf8::default();
        let mut seen = 0;
        for piece in pieces {
            if utf8.feed(piece).is_err() {
                return (false, seen);
            }
            seen += piece.len();
        }
        (utf8.finish().is_ok(), seen)
    }

    /// Every string over these bytes up to length 4, whole and in all 1-byte pieces: the standard
    /// library is the judge. They are the edges of all classes of RFC 3629's grammar.
    #[test]
    fn section_8_1_edges_of_the_grammar_agree_with_the_standard_library() {
        let edges = [
            0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1,
            0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
        ];
        let count = edges.len();
        for length in 1..=4u32 {
            for code in 0..count.pow(length) {
                let text: Vec<u8> =
                    (0..length).map(|at| edges[code / count.pow(at) % count]).collect();
                let expected = std::str::from_utf8(&text);
                assert_eq!(verdict(&[&text]).0, expected.is_ok(), "{text:x?}");
                let bytes: Vec<&[u8]> = text.chunks(1).collect();
                let (valid, seen) = verdict(&bytes);
                assert_eq!(valid, expected.is_ok(), "{text:x?}");
                if let Err(error) = expected
                    && let Some(bad) = error.error_len()
                {
                    // The byte that makes it invalid is the one behind the bad prefix, or the
                    // only one of it.
                    let first = error.valid_up_to();
                    assert!(seen >= first && seen <= first + bad, "{text:x?} fell at {seen}");
                }
            }
        }
    }

    #[test]
    fn section_8_1_every_cut_of_a_long_text_is_valid() {
        let text = "κόσμε — 日本語 🦀🦀 plain ASCII to fill more than one vector of 64 bytes, é"
            .repeat(3)
            .into_bytes();
        for a in 0..=text.len() {
            for b in (a..=text.len()).step_by(7) {
                assert_eq!(verdict(&[&text[..a], &text[a..b], &text[b..]]), (true, text.len()));
            }
        }
        assert_eq!(verdict(&[]), (true, 0));
    }

    #[test]
    fn section_8_1_a_text_may_not_end_within_a_character() {
        for text in [&b"\xc3"[..], b"abc\xe2\x82", b"\xf0\x9f\xa6", b"\xf0", b"a\xf4\x8f\xbf"] {
            assert!(!verdict(&[text]).0);
            assert!(!verdict(&text.chunks(1).collect::<Vec<_>>()).0);
        }
    }
}
