//! WebSocket by hand (RFC 6455): the upgrade, frames, messages. No I/O, no clock: bytes in, bytes
//! or events out, and never a panic, whatever the bytes are.
//!
//! A connection reads its upgrade request with [`handshake::parse`], then gives what it receives
//! to a [`message::Receiver`] and writes with the functions of [`frame`]. What
//! [`extensions::negotiate`] agrees on is done by [`deflate`].

// Bytes of a peer are taken apart by patterns and `get`, which make the missing case visible.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod deflate;
pub mod extensions;
pub mod frame;
pub mod handshake;
pub mod message;
#[cfg(test)]
mod testing;
mod utf8;

use thiserror::Error;

/// A peer broke RFC 6455; the connection ends with [`WsError::close_code`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum WsError {
    /// RSV bits that no negotiated extension gives a meaning (section 5.2).
    #[error("reserved bits are set")]
    ReservedBits,
    /// Opcodes 3 to 7 and 11 to 15 (section 5.2).
    #[error("reserved opcode")]
    ReservedOpcode,
    /// Client to server unmasked (section 5.1), or server to client masked.
    #[error("wrong masking")]
    Masking,
    /// A length that is not written in the shortest form, or has its top bit set (section 5.2).
    #[error("length not minimal")]
    LengthForm,
    /// A control frame over 125 bytes or in fragments (section 5.5).
    #[error("bad control frame")]
    ControlFrame,
    /// A continuation without a start, or a start within a message (section 5.4).
    #[error("fragments out of order")]
    Fragmentation,
    /// A close frame of one byte, or with a code that must not be sent (sections 5.5.1 and 7.4).
    #[error("bad close frame")]
    CloseFrame,
    /// Text, or a close reason, that is not UTF-8 (section 8.1).
    #[error("invalid UTF-8")]
    Utf8,
    /// A compressed message that is no deflate stream, or ends within one (RFC 7692 section 7.2.2).
    #[error("invalid compressed data")]
    Deflate,
    /// More than the limit, alone or with its fragments; of a compressed one, what it inflates to.
    #[error("message too big")]
    TooBig,
}

impl WsError {
    /// The close code that tells the peer (section 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            WsError::Utf8 | WsError::Deflate => 1007,
            WsError::TooBig => 1009,
            WsError::ReservedBits
            | WsError::ReservedOpcode
            | WsError::Masking
            | WsError::LengthForm
            | WsError::ControlFrame
            | WsError::Fragmentation
            | WsError::CloseFrame => 1002,
        }
    }
}
