//! Our framing beside tungstenite's, on the same bytes: the same messages, then both refuse, both
//! wait for more, or both have seen the end.
//!
//! The first byte chooses the role, the rest is the stream. What may differ:
//!
//! * A length in more bytes than it needs: we refuse it (RFC 6455 section 5.2), tungstenite reads it.
//! * *When* something is refused: we do as soon as the bytes show it, tungstenite when the frame is
//!   whole. So in the last frame, if the stream ends within it, we may refuse where it waits.
//! * A close frame with a code that must not be sent: we refuse it, tungstenite reads it as a close
//!   frame with code 1002.
//! * Code 1014, which was registered after RFC 6455: we read it, tungstenite does not know it.
//! * Which error it is, and what is behind a close frame, is not compared.

use std::io::{self, Read, Write};

use ringpost_core::limits::MESSAGE_BYTES_MAX;
use ringpost_core::ws::frame::Role;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

use crate::frames::{Said, read};

/// A socket with no more to read than these bytes, into which anything may be written.
struct Stream<'a>(&'a [u8]);

impl Read for Stream<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(out)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How a reader's story ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Waits,
    Refuses,
    Closed,
}

/// See the module.
pub fn run(data: &[u8]) {
    let Some((&flags, stream)) = data.split_first() else { return };
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let mut ours = read(role, false, stream, &mut |rest| rest);
    let our_end = match ours.last() {
        Some(Said::Error(_)) => {
            ours.pop();
            End::Refuses
        }
        Some(Said::Close(Some(1014), _)) => {
            ours.pop();
            End::Refuses
        }
        Some(Said::Close(..)) => End::Closed,
        _ => End::Waits,
    };
    let (theirs, their_end) = tungstenite(role, stream);
    let seen = lengths(stream);
    if seen.too_long {
        // The first difference above: what was said before it must be the same.
        assert!(theirs.starts_with(&ours), "{theirs:?} and not {ours:?}");
        assert_ne!(our_end, End::Waits, "we refuse it, if not something before it");
        return;
    }
    assert_eq!(ours, theirs, "we end with {our_end:?}, they with {their_end:?}");
    let early = our_end == End::Refuses && their_end == End::Waits;
    assert!(our_end == their_end || early && seen.ends_within, "{our_end:?}, they: {their_end:?}");
}

fn tungstenite(role: Role, stream: &[u8]) -> (Vec<Said>, End) {
    let role = match role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    };
    let most = Some(MESSAGE_BYTES_MAX);
    let config = WebSocketConfig::default().max_message_size(most).max_frame_size(most);
    let mut socket = WebSocket::from_raw_socket(Stream(stream), role, Some(config));
    let mut said = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => said.push(Said::Message(false, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => said.push(Said::Message(true, bytes.to_vec())),
            Ok(Message::Ping(bytes)) => said.push(Said::Ping(bytes.to_vec())),
            Ok(Message::Pong(bytes)) => said.push(Said::Pong(bytes.to_vec())),
            Ok(Message::Close(None)) => {
                said.push(Said::Close(None, String::new()));
                return (said, End::Closed);
            }
            Ok(Message::Close(Some(frame))) => {
                // The third difference above.
                if frame.code == CloseCode::Protocol && frame.reason == "Protocol violation" {
                    return (said, End::Refuses);
                }
                said.push(Said::Close(Some(frame.code.into()), frame.reason.to_string()));
                return (said, End::Closed);
            }
            Ok(Message::Frame(frame)) => panic!("never read: {frame:?}"),
            Err(Error::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                return (said, End::Waits);
            }
            Err(_) => return (said, End::Refuses),
        }
    }
}

/// The stream cut into frames by their lengths alone.
#[derive(Default)]
struct Lengths {
    /// A length is in more bytes than it needs.
    too_long: bool,
    /// The stream ends in a frame.
    ends_within: bool,
}

fn lengths(mut stream: &[u8]) -> Lengths {
    let mut seen = Lengths::default();
    while let [_, second, ..] = stream {
        let long = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let bytes = stream.get(2..2 + long);
        let len = match (long, bytes) {
            (0, _) => u64::from(second & 0x7f),
            (_, Some(bytes)) => bytes.iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
            (_, None) => break,
        };
        seen.too_long |= long == 2 && len < 126 || long == 8 && len < 0x1_0000;
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let end = len.saturating_add(2 + long as u64 + mask);
        let rest = usize::try_from(end).ok().and_then(|end| stream.get(end..));
        match rest {
            Some(rest) => stream = rest,
            None => break,
        }
    }
    seen.ends_within = !stream.is_empty();
    seen
}
