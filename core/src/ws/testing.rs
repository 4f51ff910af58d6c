//! What the tests of this module share: frames of any kind, right or wrong, and deterministic
//! randomness. Uses nothing of the code under test.

/// SplitMix64: enough randomness for tests, the same on every machine.
pub(super) struct Prng(pub u64);

impl Prng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Mostly small, sometimes up to `max`.
    pub(super) fn size(&mut self, max: usize) -> usize {
        let bits = self.below(max.ilog2() as usize + 2) as u32;
        self.below(1usize << bits).min(max)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// Valid text of about `len` bytes, with characters of every length.
    pub(super) fn text(&mut self, len: usize) -> String {
        let mut text = String::new();
        while text.len() < len {
            let bits = [7, 7, 11, 16, 21][self.below(5)];
            text.extend(char::from_u32(self.next() as u32 & ((1 << bits) - 1)));
        }
        text
    }

    pub(super) fn mask(&mut self) -> [u8; 4] {
        (self.next() as u32).to_be_bytes()
    }

    /// `bytes` in pieces, some of them empty.
    pub(super) fn cut<'a>(&mut self, mut bytes: &'a [u8], piece_max: usize) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.size(piece_max).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}

/// The first byte of a final frame.
pub(super) const FIN: u8 = 0x80;
/// Of a compressed message's first frame.
pub(super) const RSV1: u8 = 0x40;

/// A frame with this first byte, the shortest length, and the payload masked if there is a mask.
pub(super) fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut frame = head(first, mask, payload.len() as u64);
    let key = mask.unwrap_or_default();
    frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
    frame
}

/// The head alone.
pub(super) fn head(first: u8, mask: Option<[u8; 4]>, len: u64) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut head = vec![first];
    if len < 126 {
        head.push(masked | len as u8);
    } else if len < 65_536 {
        head.push(masked | 126);
        head.extend((len as u16).to_be_bytes());
    } else {
        head.push(masked | 127);
        head.extend(len.to_be_bytes());
    }
    head.extend(mask.iter().flatten());
    head
}

/// A client's frame, with the mask of section 5.7's examples.
pub(super) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, Some([0x37, 0xfa, 0x21, 0x3d]), payload)
}
