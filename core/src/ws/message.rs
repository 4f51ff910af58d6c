//! Messages from frames (RFC 6455 sections 5.4 to 5.6, 8.1). Assembles what one peer sends; owns
//! neither the socket nor the read buffer, and answers nothing: pongs and closes are the caller's,
//! and so is inflating.

use std::ops::{Deref, DerefMut};

use super::WsError;
use super::frame::{self, CONTROL_BYTES_MAX, Head, Opcode, Role, decode_head, unmask};
use super::utf8::Utf8;
use crate::limits::{DEFLATED_BYTES_MAX, MESSAGE_BYTES_MAX};

/// What [`Receiver::step`] leaves in the caller's buffer is always shorter than this: it is part
/// of a frame's head, or of one control frame. A buffer of this size is enough for any stream.
pub const BUFFER_BYTES_MIN: usize = 2 + 4 + CONTROL_BYTES_MAX;

/// The assembly buffer starts with this much room, unless less is known to suffice.
const ASSEMBLY_BYTES_MIN: usize = 1024;

/// What the peer sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole message, unmasked, its fragments together. Text is valid UTF-8.
    Message { binary: bool, bytes: Payload<'a> },
    /// The same, compressed: it is what [`super::deflate::Inflater::inflate`] makes of it. Only
    /// from a receiver [`Receiver::with_deflate`].
    Compressed { binary: bool, bytes: Payload<'a> },
    /// To be answered by a pong with the same payload (section 5.5.2).
    Ping(&'a [u8]),
    /// The answer to a ping, or unasked for (section 5.5.3).
    Pong(&'a [u8]),
    /// The peer's close frame (section 5.5.1): answered by one with the same code, if none was
    /// sent yet. What comes after it is swallowed.
    Close { code: Option<u16>, reason: &'a str },
    /// Only from [`Receiver::step_control`]: the next byte belongs to a data frame.
    Blocked,
}

/// A message's bytes, free to be changed.
#[derive(Debug)]
pub enum Payload<'a> {
    /// It came in one frame and in one piece: it lies where it was received.
    InPlace(&'a mut [u8]),
    /// It had to be put together; its memory goes with it.
    Assembled(Vec<u8>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

impl DerefMut for Payload<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Payload::InPlace(bytes) => bytes,
            Payload::Assembled(bytes) => bytes,
        }
    }
}

/// What a connection has received of a message that is not whole: one per connection. Without a
/// message under way it holds no memory beyond its own few bytes.
#[derive(Debug)]
pub struct Receiver {
    /// The message under way, unmasked. Bound: [`MESSAGE_BYTES_MAX`], or [`DEFLATED_BYTES_MAX`].
    assembly: Vec<u8>,
    /// Payload bytes of the frame under way that have not come; 0: the next byte is a head's.
    missing: u32,
    /// Payload bytes of the frame under way that have come.
    taken: u32,
    /// Of the frame under way.
    mask: [u8; 4],
    /// Of the message under way, if it is text.
    utf8: Utf8,
    /// The frame under way ends its message.
    fin: bool,
    message: Message,
    /// The message under way is compressed.
    compressed: bool,
    /// permessage-deflate was negotiated.
    deflate: bool,
    role: Role,
    /// Nothing is read any more: the peer closed, or broke the protocol.
    ended: bool,
}

/// What a continuation frame would continue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Message {
    None,
    Text,
    Binary,
}

// Idle connections are many.
const _: () = assert!(size_of::<Receiver>() <= 48);
// `missing` and `taken` hold any payload that is not refused, and a head fits where a control
// frame does.
const _: () = assert!(DEFLATED_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(frame::HEAD_BYTES_MAX <= BUFFER_BYTES_MIN);

impl Receiver {
    /// For the bytes behind the handshake's.
    pub fn new(role: Role) -> Receiver {
        Receiver {
            assembly: Vec::new(),
            missing: 0,
            taken: 0,
            mask: [0; 4],
            utf8: Utf8::default(),
            fin: false,
            message: Message::None,
            compressed: false,
            deflate: false,
            role,
            ended: false,
        }
    }

    /// For a connection that negotiated permessage-deflate.
    pub fn with_deflate(self) -> Receiver {
        Receiver { deflate: true, ..self }
    }

    /// Takes the bytes received, up to the first event. Returns how many were consumed: the caller
    /// removes those, and calls again until there is no event. What is left then (always less than
    /// [`BUFFER_BYTES_MIN`]) must stand in front of what comes next; it has not been changed.
    ///
    /// A frame that is whole in `buf` is unmasked there and, if it is all of its message, handed
    /// out without a copy. Of any other data frame the payload is consumed as it comes.
    ///
    /// # Errors
    /// The peer broke the protocol: told as early as the bytes show it, invalid text included.
    /// Everything after an error is swallowed.
    #[inline]
    pub fn step<'a>(
        &'a mut self,
        buf: &'a mut [u8],
    ) -> Result<(usize, Option<Event<'a>>), WsError> {
        self.advance(buf, true)
    }

    /// The same, for a connection whose data may not be taken now: consumes control frames, and
    /// ends with [`Event::Blocked`] in front of any byte of a data frame.
    ///
    /// # Errors
    /// As [`Receiver::step`]; a data frame that is not taken is not checked beyond its head.
    pub fn step_control<'a>(
        &'a mut self,
        buf: &'a mut [u8],
    ) -> Result<(usize, Option<Event<'a>>), WsError> {
        self.advance(buf, false)
    }

    /// Bytes of memory held for the message under way.
    pub fn held_bytes(&self) -> usize {
        self.assembly.capacity()
    }

    fn advance<'a>(
        &'a mut self,
        buf: &'a mut [u8],
        take_data: bool,
    ) -> Result<(usize, Option<Event<'a>>), WsError> {
        if self.ended {
            return Ok((buf.len(), None));
        }
        let (consumed, found) = match self.find(buf, take_data) {
            Ok(found) => found,
            Err(error) => return Err(self.end(error)),
        };
        let Some(found) = found else { return Ok((consumed, None)) };
        let (before, _) = buf.split_at_mut(consumed);
        let event = match found {
            Found::Blocked => Event::Blocked,
            Found::Assembled { kind } => {
                kind.event(Payload::Assembled(std::mem::take(&mut self.assembly)))
            }
            Found::InPlace { kind, len } => {
                let (_, bytes) = before.split_at_mut(consumed - len);
                kind.event(Payload::InPlace(bytes))
            }
            Found::Control { opcode, len } => {
                let (_, payload) = before.split_at(consumed - len);
                match opcode {
                    Opcode::Ping => Event::Ping(payload),
                    Opcode::Pong => Event::Pong(payload),
                    _ => match decode_close(payload) {
                        Ok((code, reason)) => {
                            self.release();
                            Event::Close { code, reason }
                        }
                        Err(error) => return Err(self.end(error)),
                    },
                }
            }
        };
        Ok((consumed, Some(event)))
    }

    /// Goes on to the end of the first frame that is an event. Returns the bytes consumed; what
    /// was found lies directly before that point.
    fn find(&mut self, buf: &mut [u8], take_data: bool) -> Result<(usize, Option<Found>), WsError> {
        let mut at = 0;
        loop {
            if self.missing > 0 {
                if !take_data {
                    return Ok((at, Some(Found::Blocked)));
                }
                let (_, rest) = buf.split_at_mut(at);
                let (consumed, whole) = self.take_part(rest)?;
                at += consumed;
                match whole {
                    Whole::Message(found) => return Ok((at, Some(found))),
                    Whole::Fragment => continue,
                    Whole::Not => return Ok((at, None)),
                }
            }
            let (_, rest) = buf.split_at_mut(at);
            let Some(head) = decode_head(rest, self.role, self.deflate)? else {
                return Ok((at, None));
            };
            if head.opcode.is_control() {
                let len = head.payload_len as usize;
                let end = head.head_len + len;
                let Some(payload) = rest.get_mut(head.head_len..end) else { return Ok((at, None)) };
                unmask(payload, head.mask, 0);
                return Ok((at + end, Some(Found::Control { opcode: head.opcode, len })));
            }
            self.check_data(&head)?;
            if !take_data {
                return Ok((at, Some(Found::Blocked)));
            }
            at += head.head_len;
            let (_, payload) = rest.split_at_mut(head.head_len);
            let len = head.payload_len as usize;
            if let Some(payload) = payload.get_mut(..len) {
                at += len;
                if let Some(found) = self.take_whole(&head, payload)? {
                    return Ok((at, Some(found)));
                }
            } else {
                self.begin(&head);
            }
        }
    }

    /// Refuses a data frame that is out of order (section 5.4) or goes over the limit.
    #[inline]
    fn check_data(&self, head: &Head) -> Result<(), WsError> {
        if (head.opcode == Opcode::Continuation) != (self.message != Message::None) {
            return Err(WsError::Fragmentation);
        }
        let room = most(self.compressed || head.compressed) - self.assembly.len();
        if head.payload_len > room as u64 { Err(WsError::TooBig) } else { Ok(()) }
    }

    /// Takes a data frame whose payload is all there.
    #[inline]
    fn take_whole(&mut self, head: &Head, payload: &mut [u8]) -> Result<Option<Found>, WsError> {
        if head.fin && head.opcode != Opcode::Continuation {
            unmask(payload, head.mask, 0);
            let binary = head.opcode == Opcode::Binary;
            let kind = Kind { binary, compressed: head.compressed };
            if !binary && !head.compressed && simdutf8::basic::from_utf8(payload).is_err() {
                return Err(WsError::Utf8);
            }
            return Ok(Some(Found::InPlace { kind, len: payload.len() }));
        }
        self.begin(head);
        self.append(payload)?;
        self.finish_frame()
    }

    /// Remembers the frame whose payload comes next.
    fn begin(&mut self, head: &Head) {
        self.missing = head.payload_len as u32;
        self.taken = 0;
        self.mask = head.mask;
        self.fin = head.fin;
        match head.opcode {
            Opcode::Text => self.message = Message::Text,
            Opcode::Binary => self.message = Message::Binary,
            // It goes on as it was begun.
            _ => return,
        }
        self.compressed = head.compressed;
    }

    /// Takes as much of the payload under way as is there.
    fn take_part(&mut self, rest: &mut [u8]) -> Result<(usize, Whole), WsError> {
        let len = rest.len().min(self.missing as usize);
        let (part, _) = rest.split_at_mut(len);
        self.append(part)?;
        if self.missing > 0 {
            return Ok((len, Whole::Not));
        }
        let whole = self.finish_frame()?;
        Ok((len, whole.map_or(Whole::Fragment, Whole::Message)))
    }

    /// Unmasks the next part of the payload under way and moves it into the assembly.
    fn append(&mut self, part: &mut [u8]) -> Result<(), WsError> {
        if part.is_empty() {
            return Ok(());
        }
        unmask(part, self.mask, self.taken as usize);
        // Compressed text is looked at when it is inflated.
        if self.message == Message::Text && !self.compressed {
            self.utf8.feed(part)?;
        }
        self.reserve(part.len());
        self.assembly.extend_from_slice(part);
        self.taken += part.len() as u32;
        self.missing -= part.len() as u32;
        Ok(())
    }

    /// Makes room for `more` bytes. Doubles, so that many small parts cost as much as one, but
    /// goes by what has come, not by what a head has announced, and never beyond what can come.
    fn reserve(&mut self, more: usize) {
        let need = self.assembly.len() + more;
        if need <= self.assembly.capacity() {
            return;
        }
        let most = if self.fin {
            self.assembly.len() + self.missing as usize
        } else {
            most(self.compressed)
        };
        let room = need.max(2 * self.assembly.capacity()).max(ASSEMBLY_BYTES_MIN).min(most);
        self.assembly.reserve_exact(room - self.assembly.len());
    }

    /// The frame under way is whole: so is its message, or not yet.
    fn finish_frame(&mut self) -> Result<Option<Found>, WsError> {
        if !self.fin {
            return Ok(None);
        }
        let message = std::mem::replace(&mut self.message, Message::None);
        let compressed = std::mem::take(&mut self.compressed);
        self.utf8.finish()?;
        let kind = Kind { binary: message == Message::Binary, compressed };
        Ok(Some(Found::Assembled { kind }))
    }

    /// Ends after an error.
    #[cold]
    fn end(&mut self, error: WsError) -> WsError {
        self.release();
        error
    }

    /// Nothing is read any more, so nothing is held.
    fn release(&mut self) {
        self.ended = true;
        self.assembly = Vec::new();
    }
}

/// Bytes that a message may have as it is sent.
fn most(compressed: bool) -> usize {
    if compressed { DEFLATED_BYTES_MAX } else { MESSAGE_BYTES_MAX }
}

/// What a whole message is.
#[derive(Clone, Copy)]
struct Kind {
    binary: bool,
    compressed: bool,
}

impl Kind {
    fn event(self, bytes: Payload<'_>) -> Event<'_> {
        let Kind { binary, compressed } = self;
        if compressed {
            Event::Compressed { binary, bytes }
        } else {
            Event::Message { binary, bytes }
        }
    }
}

/// What [`Receiver::find`] came upon; `len` bytes of payload.
enum Found {
    InPlace { kind: Kind, len: usize },
    Assembled { kind: Kind },
    Control { opcode: Opcode, len: usize },
    Blocked,
}

/// How far a frame that comes in parts is.
enum Whole {
    Not,
    Fragment,
    Message(Found),
}

/// Reads a close frame's payload (section 5.5.1).
fn decode_close(payload: &[u8]) -> Result<(Option<u16>, &str), WsError> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok((None, "")) } else { Err(WsError::CloseFrame) };
    };
    let code = u16::from_be_bytes(*code);
    if !frame::may_be_sent(code) {
        return Err(WsError::CloseFrame);
    }
    let reason = std::str::from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok((Some(code), reason))
}

#[cfg(test)]
mod tests;
