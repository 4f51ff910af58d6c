//! Message payloads that prove themselves: each is a pure function of the run's seed, its sender
//! and its number, so that the receiver can compare every byte with what must have been sent.
//!
//! Knows nothing of frames or connections.

use ringpost_core::limits::CONTENT_BYTES_MAX;

/// The shortest payload: the JSON around the text, and the text's fixed part.
pub const BYTES_MIN: u32 = 64;
/// The longest one that a server has to take (protocols/README.md, *Limits*).
pub const BYTES_MAX: u32 = CONTENT_BYTES_MAX as u32;

const HEAD: &[u8] = br#"{"msg_type":"text","text":""#;
const TAIL: &[u8] = br#""}"#;
/// Sender, number and check word in hexadecimal, each followed by a dot.
const FIXED: usize = (4 + 1) + (8 + 1) + (16 + 1);
/// Fillings start at one of so many places of the table; a power of two.
const STARTS: usize = 4096;

const _: () = assert!(HEAD.len() + FIXED + TAIL.len() <= BYTES_MIN as usize);

/// Makes and checks the payloads of one run.
#[derive(Debug)]
pub struct Payloads {
    seed: u64,
    fill: usize,
    /// Letters and digits, `STARTS + fill` of them.
    table: Vec<u8>,
    scratch: Vec<u8>,
}

impl Payloads {
    /// Payloads of exactly `bytes` bytes, which lies between [`BYTES_MIN`] and [`BYTES_MAX`].
    pub fn new(seed: u64, bytes: u32) -> Payloads {
        assert!((BYTES_MIN..=BYTES_MAX).contains(&bytes));
        let fill = bytes as usize - HEAD.len() - FIXED - TAIL.len();
        let mut state = seed;
        let letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
        let table = (0..STARTS + fill)
            .map(|_| {
                state = mix(state);
                letters[(state >> 58) as usize]
            })
            .collect();
        Payloads { seed, fill, table, scratch: Vec::with_capacity(bytes as usize) }
    }

    /// Appends message `number` of sender `flow`.
    pub fn append(&self, flow: u16, number: u32, out: &mut Vec<u8>) {
        let word = mix(self.seed ^ (u64::from(flow) << 32 | u64::from(number)));
        out.extend_from_slice(HEAD);
        append_hex(u64::from(flow), 4, out);
        append_hex(u64::from(number), 8, out);
        append_hex(word, 16, out);
        let start = word as usize % STARTS;
        out.extend_from_slice(&self.table[start..start + self.fill]);
        out.extend_from_slice(TAIL);
    }

    /// Whether `payload` is message `number` of sender `flow`: the same bytes, or the same JSON
    /// value (a server may write it differently).
    pub fn matches(&mut self, flow: u16, number: u32, payload: &[u8]) -> bool {
        let mut expected = std::mem::take(&mut self.scratch);
        expected.clear();
        self.append(flow, number, &mut expected);
        let same = expected == payload || same_value(&expected, payload);
        self.scratch = expected;
        same
    }
}

#[cold]
fn same_value(expected: &[u8], payload: &[u8]) -> bool {
    let expected: Result<serde_json::Value, _> = serde_json::from_slice(expected);
    let payload: Result<serde_json::Value, _> = serde_json::from_slice(payload);
    matches!((expected, payload), (Ok(expected), Ok(payload)) if expected == payload)
}

fn append_hex(value: u64, digits: u32, out: &mut Vec<u8>) {
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * digit) & 15) as usize]);
    }
    out.push(b'.');
}

/// One step of SplitMix64: a cheap function whose output looks random for any input.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_is_json_and_names_itself() {
        for bytes in [BYTES_MIN, 256, BYTES_MAX] {
            let mut payloads = Payloads::new(7, bytes);
            let mut payload = Vec::new();
            payloads.append(0x12ab, 9, &mut payload);
            assert_eq!(payload.len(), bytes as usize);
            let value: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
            assert_eq!(value["msg_type"], "text");
            assert!(value["text"].as_str().expect("text").starts_with("12ab.00000009."));
            assert!(payloads.matches(0x12ab, 9, &payload));
            assert!(!payloads.matches(0x12ab, 10, &payload));
            assert!(!payloads.matches(0x12ac, 9, &payload));
        }
    }

    #[test]
    fn any_changed_byte_is_found_and_another_spelling_is_not_a_change() {
        let mut payloads = Payloads::new(7, 256);
        let mut payload = Vec::new();
        payloads.append(1, 1, &mut payload);
        for at in 0..payload.len() {
            payload[at] ^= 1;
            assert!(!payloads.matches(1, 1, &payload), "byte {at}");
            payload[at] ^= 1;
        }
        let value: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        let spaced = serde_json::to_vec_pretty(&value).expect("a value can be written");
        assert!(payloads.matches(1, 1, &spaced));
        assert!(!Payloads::new(8, 256).matches(1, 1, &payload), "another run's payload");
    }
}
