//! Compressed messages (RFC 7692 section 7.2), each for itself: nothing is remembered from one to
//! the next. The contexts are scratch of whoever reads or writes many connections; no connection
//! has one.

use std::ops::Range;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::WsError;
use super::extensions::Window;
use super::frame::{Head, Opcode, Role, decode_head, encode_compressed_head};
use crate::limits::{DEFLATE_BYTES_MIN, MESSAGE_BYTES_MAX, deflated_bytes_max};

/// How a sender's flush ends; it is not sent (section 7.2.1), so a receiver puts it back (7.2.2).
const TAIL: &[u8; 4] = &[0x00, 0x00, 0xff, 0xff];
/// The tail, and an empty last block behind it (RFC 1951: BFINAL, fixed codes, end of block). The
/// stream ends there if and only if the message stopped where the tail belongs: what was cut off
/// is not taken for all of it.
const END: &[u8; 6] = &[0x00, 0x00, 0xff, 0xff, 0x03, 0x00];

/// Least room for an inflated message.
const ROOM_BYTES_MIN: usize = 4 << 10;

/// Undoes compression.
///
/// *Bound:* a context of some 50 KiB, and room for the largest message so far, at most one byte
/// more than [`MESSAGE_BYTES_MAX`].
#[derive(Debug)]
pub struct Inflater {
    context: Decompress,
    /// The message.
    out: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Inflater {
        let context = Decompress::new_with_window_bits(false, Window::LARGEST.bits());
        Inflater { context, out: Vec::new() }
    }
}

impl Inflater {
    /// The message that `compressed`, the payload of its frames, stands for; text is valid UTF-8.
    /// It may be changed in place.
    ///
    /// # Errors
    /// [`WsError::Deflate`], [`WsError::Utf8`]; [`WsError::TooBig`] as soon as it is over
    /// [`MESSAGE_BYTES_MAX`], however much more there would be.
    pub fn inflate(&mut self, binary: bool, compressed: &[u8]) -> Result<&mut [u8], WsError> {
        self.context.reset(false);
        self.out.clear();
        self.out.reserve_exact(compressed.len().clamp(ROOM_BYTES_MIN, MESSAGE_BYTES_MAX + 1));
        // A sender that flushes an empty message may have nothing to flush, and so sends nothing.
        if !compressed.is_empty() {
            // A stream that ends here has a last block of its own (section 7.2.3.4).
            let ended = self.feed(compressed)?;
            if !ended && !self.feed(END)? {
                return Err(WsError::Deflate);
            }
        }
        if !binary && simdutf8::basic::from_utf8(&self.out).is_err() {
            return Err(WsError::Utf8);
        }
        Ok(&mut self.out)
    }

    /// Takes all of `input`; whether a stream ended with it. One that ended before is followed by
    /// another.
    fn feed(&mut self, mut input: &[u8]) -> Result<bool, WsError> {
        loop {
            self.make_room()?;
            let (taken_before, len_before) = (self.context.total_in(), self.out.len());
            // Into the room behind what is there; the vector does not grow.
            let status = self.context.decompress_vec(input, &mut self.out, FlushDecompress::None);
            let status = status.map_err(|_| WsError::Deflate)?;
            let taken = (self.context.total_in() - taken_before) as usize;
            input = input.get(taken..).ok_or(WsError::Deflate)?;
            if self.out.len() > MESSAGE_BYTES_MAX {
                return Err(WsError::TooBig);
            }
            match status {
                Status::StreamEnd if input.is_empty() => return Ok(true),
                Status::StreamEnd => self.context.reset(false),
                // With room left there is nothing that only waits for room.
                _ if input.is_empty() && self.out.len() < self.out.capacity() => return Ok(false),
                _ if taken == 0 && self.out.len() == len_before => return Err(WsError::Deflate),
                _ => {}
            }
        }
    }

    /// Makes room for at least one byte, up to one more than a message may have: the one by which
    /// it is seen to be too big.
    fn make_room(&mut self) -> Result<(), WsError> {
        let have = self.out.capacity();
        if self.out.len() == have {
            let want = (2 * have).min(MESSAGE_BYTES_MAX + 1);
            self.out.reserve_exact(want.checked_sub(have).ok_or(WsError::TooBig)?);
        }
        Ok(())
    }
}

/// Compresses frames.
///
/// *Bound:* one context of up to 350 KiB for each window in use, of which there are 7, and room for
/// the longest frame so far.
#[derive(Debug)]
pub struct Deflater {
    level: Compression,
    /// By bits of the window, from 9.
    contexts: [Option<Compress>; 7],
    out: Vec<u8>,
}

impl Deflater {
    /// `level`: 1, the fastest, to 9, the smallest.
    pub fn new(level: u8) -> Deflater {
        let level = Compression::new(level.into());
        Deflater { level, contexts: Default::default(), out: Vec::new() }
    }

    /// Appends the compressed form of a server's frame that stands in `arena` at `range`, and
    /// returns where it is. `None`, and the arena as it was: there is no shorter one, or it is not
    /// worth its time, or the bytes are no whole message (a control frame, an HTTP answer).
    pub fn compress(
        &mut self,
        arena: &mut Vec<u8>,
        range: Range<u32>,
        window: Window,
    ) -> Option<Range<u32>> {
        let frame = arena.get(range.start as usize..range.end as usize)?;
        let (head, payload) = message(frame)?;
        if payload.len() < DEFLATE_BYTES_MIN {
            return None;
        }
        let place = self.contexts.get_mut(usize::from(window.bits() - 9))?;
        let context = place.get_or_insert_with(|| {
            Compress::new_with_window_bits(self.level, false, window.bits())
        });
        context.reset();
        self.out.clear();
        self.out.reserve(deflated_bytes_max(payload.len()));
        let done = context.compress_vec(payload, &mut self.out, FlushCompress::Sync);
        if done.is_err() || self.out.len() == self.out.capacity() {
            // It may have more to say. That does not happen with this room; if it did, the context
            // would not be fit for use: zlib-rs 0.6.8 forgets a part of it in `reset`, and panics
            // some messages later.
            *place = None;
            return None;
        }
        // Section 7.2.1: a flush ends with an empty block, whose last bytes are not sent.
        let compressed = self.out.strip_suffix(TAIL)?;
        if compressed.len() >= payload.len() {
            return None;
        }
        let start = arena.len();
        encode_compressed_head(head.opcode, compressed.len(), arena);
        arena.extend_from_slice(compressed);
        let position = |at: usize| u32::try_from(at).expect("a turn's arena is far below 4 GiB");
        Some(position(start)..position(arena.len()))
    }
}

/// Takes a server's frame apart that is all of a message.
fn message(frame: &[u8]) -> Option<(Head, &[u8])> {
    let head = decode_head(frame, Role::Client, false).ok()??;
    let (_, payload) = frame.split_at_checked(head.head_len)?;
    let starts = matches!(head.opcode, Opcode::Text | Opcode::Binary);
    let whole = starts && head.fin && payload.len() as u64 == head.payload_len;
    whole.then_some((head, payload))
}

#[cfg(test)]
mod tests;
