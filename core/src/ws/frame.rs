//! Frames (RFC 6455 section 5): heads in and out, masks, control frames. What frames mean together
//! is [`super::message`]'s.

use std::ops::Range;

use super::WsError;

/// Payload of a control frame (section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Flags and opcode, length, 8 bytes of long length, mask (section 5.2).
pub const HEAD_BYTES_MAX: usize = 14;
/// The same without a mask: what a server writes.
const SERVER_HEAD_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// The message that was begun goes on.
    Continuation = 0,
    /// A message of text begins.
    Text = 1,
    /// A message of bytes begins.
    Binary = 2,
    /// The peer sends no more (section 5.5.1).
    Close = 8,
    /// To be answered by a pong with the same payload (section 5.5.2).
    Ping = 9,
    /// The answer (section 5.5.3).
    Pong = 10,
}

impl Opcode {
    /// Close, ping or pong (section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }

    fn decode(bits: u8) -> Result<Opcode, WsError> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(WsError::ReservedOpcode),
        })
    }
}

/// Which end of the connection reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Reads what a client sends: every frame is masked (section 5.1).
    Server,
    /// Reads what a server sends: no frame is.
    Client,
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The last fragment of its message, or all of it.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The message that begins is compressed.
    pub compressed: bool,
    /// The masking key; zero, which changes nothing, in an unmasked frame.
    pub mask: [u8; 4],
    /// Payload bytes that follow the head; the top bit is never set.
    pub payload_len: u64,
    /// Bytes of the head itself, at most [`HEAD_BYTES_MAX`].
    pub head_len: usize,
}

/// Reads a frame's head from the start of `bytes`; `None`: not all of it is there. `deflate`:
/// permessage-deflate was negotiated.
///
/// # Errors
/// What section 5.2 forbids in one head, as soon as the bytes that tell are there: reserved bits
/// and opcodes, wrong masking, a length in too long a form, control frames that are long or in
/// fragments.
#[inline]
pub fn decode_head(bytes: &[u8], role: Role, deflate: bool) -> Result<Option<Head>, WsError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    // Only an extension gives RSV1 to RSV3 a meaning. Ours means RSV1, and on the first frame of
    // a message alone (RFC 7692 section 6).
    let reserved = first & RESERVED;
    let starts = matches!(first & OPCODE, 1 | 2);
    let compressed = reserved == RSV1 && deflate && starts;
    if reserved != 0 && !compressed {
        return Err(WsError::ReservedBits);
    }
    let opcode = Opcode::decode(first & OPCODE)?;
    let fin = first & FIN != 0;
    let masked = second & MASKED != 0;
    if masked != (role == Role::Server) {
        return Err(WsError::Masking);
    }
    let short = second & !MASKED;
    if opcode.is_control() && (!fin || usize::from(short) > CONTROL_BYTES_MAX) {
        return Err(WsError::ControlFrame);
    }
    let (payload_len, rest) = match short {
        126 => {
            let Some((len, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (long_len(u16::from_be_bytes(*len).into(), 126)?, rest)
        }
        127 => {
            let Some((len, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (long_len(u64::from_be_bytes(*len), 0x1_0000)?, rest)
        }
        len => (len.into(), rest),
    };
    let (mask, rest) = if masked {
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        (*mask, rest)
    } else {
        ([0; 4], rest)
    };
    let head_len = bytes.len() - rest.len();
    Ok(Some(Head { fin, opcode, compressed, mask, payload_len, head_len }))
}

/// A length in a form that shorter ones than `least` must not have, and none over 63 bits.
fn long_len(len: u64, least: u64) -> Result<u64, WsError> {
    if len < least || len > i64::MAX as u64 { Err(WsError::LengthForm) } else { Ok(len) }
}

/// Masks or unmasks (section 5.3): `bytes` stand `offset` bytes behind the start of the payload.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut mask = mask;
    mask.rotate_left(offset % 4);
    let word = u32::from_ne_bytes(mask);
    let double = u64::from(word) << 32 | u64::from(word);
    let quad = u128::from(double) << 64 | u128::from(double);
    // One register at a time, which the compiler unrolls.
    let (chunks, rest) = bytes.as_chunks_mut::<16>();
    for chunk in chunks {
        *chunk = (u128::from_ne_bytes(*chunk) ^ quad).to_ne_bytes();
    }
    let (chunks, rest) = rest.as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// Appends the head of a server's unfragmented frame; `payload_len` bytes must follow it.
#[inline]
pub fn encode_head(opcode: Opcode, payload_len: usize, out: &mut Vec<u8>) {
    with_head(FIN | opcode as u8, 0, payload_len, |head| out.extend_from_slice(head));
}

/// The same for a compressed message (RFC 7692 section 6).
pub fn encode_compressed_head(opcode: Opcode, payload_len: usize, out: &mut Vec<u8>) {
    with_head(FIN | RSV1 | opcode as u8, 0, payload_len, |head| out.extend_from_slice(head));
}

/// A server's frame under way in a byte arena; [`end_frame`] ends it.
#[derive(Debug)]
#[must_use = "the frame has no head before `end_frame`"]
pub struct FrameStart {
    /// Where the payload begins.
    payload: usize,
}

/// Begins a server's frame at the end of `out`, for a payload whose length is not known before it
/// is there: append the payload to `out`, then call [`end_frame`].
///
/// Room for the longest head is left in front of the payload, which so never has to move: at most
/// 8 unused bytes in the arena are cheaper than a second copy of the payload.
#[inline]
pub fn begin_frame(out: &mut Vec<u8>) -> FrameStart {
    out.extend_from_slice(&[0; SERVER_HEAD_BYTES_MAX]);
    FrameStart { payload: out.len() }
}

/// Ends a frame: everything in `out` since [`begin_frame`] is its payload. Writes the shortest
/// head directly in front of it. Returns where head and payload stand in `out`; the unused bytes
/// of the room are before that.
///
/// # Panics
/// When `out` is not what the frame was begun in, or is over 4 GiB.
#[inline]
pub fn end_frame(out: &mut [u8], start: FrameStart, opcode: Opcode) -> Range<u32> {
    let FrameStart { payload } = start;
    let end = out.len();
    let mut begin = payload;
    with_head(FIN | opcode as u8, 0, end - payload, |head| {
        begin = payload - head.len();
        out.get_mut(begin..payload)
            .expect("begin_frame left room for the longest head")
            .copy_from_slice(head);
    });
    let position = |at: usize| u32::try_from(at).expect("a turn's arena is far below 4 GiB");
    position(begin)..position(end)
}

/// Appends a server's close frame (section 5.5.1). `None` writes no code, which a peer sees as
/// 1005: right only as the echo of a close frame that had none. The reason is cut to the 123 bytes
/// that fit, between characters.
pub fn encode_close(code: Option<u16>, reason: &str, out: &mut Vec<u8>) {
    let Some(code) = code else { return encode_head(Opcode::Close, 0, out) };
    debug_assert!(may_be_sent(code), "{code} must not be sent");
    let (reason, _) = reason.split_at(reason.floor_char_boundary(CONTROL_BYTES_MAX - 2));
    encode_head(Opcode::Close, 2 + reason.len(), out);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Whether a close frame may have this code: what section 7.4.1 defines but 1004 (reserved), 1005,
/// 1006 and 1015 (only ever local), 1012 to 1014, which were registered later, and section 7.4.2's
/// ranges for libraries and applications.
pub fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Appends a server's ping (section 5.5.2).
///
/// # Panics
/// When the payload is over [`CONTROL_BYTES_MAX`].
pub fn encode_ping(payload: &[u8], out: &mut Vec<u8>) {
    encode_control(Opcode::Ping, payload, out);
}

/// Appends a server's pong (section 5.5.3); as the answer to a ping it has that ping's payload.
///
/// # Panics
/// When the payload is over [`CONTROL_BYTES_MAX`]; a ping's never is.
pub fn encode_pong(payload: &[u8], out: &mut Vec<u8>) {
    encode_control(Opcode::Pong, payload, out);
}

fn encode_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    assert!(payload.len() <= CONTROL_BYTES_MAX, "section 5.5: a control frame has 125 bytes");
    encode_head(opcode, payload.len(), out);
    out.extend_from_slice(payload);
}

/// Appends a client's unfragmented frame, masked (section 5.3). The mask must be unpredictable
/// where the payload is somebody else's; the caller draws it.
pub fn encode_masked(opcode: Opcode, payload: &[u8], mask: [u8; 4], out: &mut Vec<u8>) {
    out.reserve(HEAD_BYTES_MAX + payload.len());
    with_head(FIN | opcode as u8, MASKED, payload.len(), |head| out.extend_from_slice(head));
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    let (_, payload) = out.split_at_mut(start);
    unmask(payload, mask, 0);
}

/// Gives `put` the shortest head, without the mask. Inlined, every arm is one copy of fixed size.
#[inline(always)]
fn with_head(first: u8, masked: u8, payload_len: usize, put: impl FnOnce(&[u8])) {
    match payload_len {
        0..=125 => put(&[first, masked | payload_len as u8]),
        126..=0xffff => {
            let [a, b] = (payload_len as u16).to_be_bytes();
            put(&[first, masked | 126, a, b]);
        }
        _ => {
            let [a, b, c, d, e, f, g, h] = (payload_len as u64).to_be_bytes();
            put(&[first, masked | 127, a, b, c, d, e, f, g, h]);
        }
    }
}

#[cfg(test)]
mod tests;
