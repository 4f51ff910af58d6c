//! Frames and messages, compressed ones too: `ws::frame`, `ws::message`, `ws::deflate`.
//!
//! The first byte chooses the reader's role and extension, the second how the stream is cut into
//! reads; the rest is the stream.

use ringpost_core::limits::{DEFLATE_BYTES_MIN, DEFLATED_BYTES_MAX, MESSAGE_BYTES_MAX};
use ringpost_core::ws::WsError;
use ringpost_core::ws::deflate::{Deflater, Inflater};
use ringpost_core::ws::extensions::Window;
use ringpost_core::ws::frame::{
    CONTROL_BYTES_MAX, Opcode, Role, begin_frame, encode_close, encode_head, encode_masked,
    encode_ping, encode_pong, end_frame,
};
use ringpost_core::ws::message::{BUFFER_BYTES_MIN, Event, Receiver};

/// An event that owns its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Said {
    Message(bool, Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(WsError),
}

/// See the module.
pub fn run(data: &[u8]) {
    let [flags, cuts, stream @ ..] = data else { return };
    let role = if flags & 1 == 0 { Role::Server } else { Role::Client };
    let deflate = flags & 2 != 0;
    let whole = read(role, deflate, stream, &mut |rest| rest);
    // Single bytes, and pieces of a length that goes through a few values.
    let bytes = read(role, deflate, stream, &mut |_| 1);
    assert_eq!(whole, bytes, "byte by byte");
    let mut state = u32::from(*cuts) + 1;
    let pieces = read(role, deflate, stream, &mut |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        1 + (state >> 24) as usize % 300
    });
    assert_eq!(whole, pieces, "cut by {cuts}");
    let mut inflater = Inflater::default();
    for said in &whole {
        check(said, role);
        if let Said::Compressed(binary, bytes) = said {
            inflated(&mut inflater, *binary, bytes);
        }
    }
    let ended = whole.iter().position(|said| matches!(said, Said::Close(..) | Said::Error(_)));
    assert!(ended.is_none_or(|at| at + 1 == whole.len()), "nothing is said behind an end");
    written_again(&whole);
}

/// What a receiver says of the stream, given in reads of so many bytes; every other step it is
/// asked first for what it may say without taking data.
pub(crate) fn read(
    role: Role,
    deflate: bool,
    mut stream: &[u8],
    next: &mut dyn FnMut(usize) -> usize,
) -> Vec<Said> {
    let mut receiver = Receiver::new(role);
    if deflate {
        receiver = receiver.with_deflate();
    }
    let (mut said, mut buffer, mut received) = (Vec::new(), Vec::new(), 0);
    let mut control = false;
    while !stream.is_empty() {
        let (piece, rest) = stream.split_at(next(stream.len()).clamp(1, stream.len()));
        stream = rest;
        received += piece.len();
        buffer.extend_from_slice(piece);
        loop {
            control = !control;
            let step = match control {
                true => receiver.step_control(&mut buffer),
                false => receiver.step(&mut buffer),
            };
            let (consumed, event) = match step {
                Ok((consumed, event)) => (consumed, event),
                Err(error) => {
                    said.push(Said::Error(error));
                    // From here on everything is swallowed.
                    let len = buffer.len();
                    let after = receiver.step(&mut buffer).expect("it has ended");
                    assert!(after.0 == len && after.1.is_none());
                    assert_eq!(receiver.held_bytes(), 0);
                    return said;
                }
            };
            let (mut nothing, mut blocked) = (false, false);
            match event {
                None => nothing = true,
                Some(Event::Blocked) => blocked = true,
                Some(Event::Message { binary, bytes }) => {
                    said.push(Said::Message(binary, bytes.to_vec()));
                }
                Some(Event::Compressed { binary, bytes }) => {
                    said.push(Said::Compressed(binary, bytes.to_vec()));
                }
                Some(Event::Ping(bytes)) => said.push(Said::Ping(bytes.to_vec())),
                Some(Event::Pong(bytes)) => said.push(Said::Pong(bytes.to_vec())),
                Some(Event::Close { code, reason }) => {
                    said.push(Said::Close(code, reason.to_owned()));
                }
            }
            assert!(!blocked || control, "only who does not take data is blocked");
            buffer.drain(..consumed);
            // A control step that finds nothing has looked at what a data step would.
            if nothing && !control {
                break;
            }
        }
        assert!(buffer.len() < BUFFER_BYTES_MIN, "{} bytes are left", buffer.len());
        let most = (2 * received + 1024).min(DEFLATED_BYTES_MAX);
        assert!(receiver.held_bytes() <= most, "{} for {received}", receiver.held_bytes());
    }
    said
}

/// What every event keeps to.
fn check(said: &Said, role: Role) {
    match said {
        Said::Message(binary, bytes) => {
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert!(*binary || std::str::from_utf8(bytes).is_ok(), "text is text");
        }
        Said::Compressed(_, bytes) => assert!(bytes.len() <= DEFLATED_BYTES_MAX),
        Said::Ping(bytes) | Said::Pong(bytes) => assert!(bytes.len() <= CONTROL_BYTES_MAX),
        Said::Close(code, reason) => {
            let sendable = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            assert!(code.is_none_or(sendable), "{code:?}");
            assert!(reason.len() <= CONTROL_BYTES_MAX - 2);
            assert!(code.is_some() || reason.is_empty());
        }
        Said::Error(error) => {
            let expected = match error {
                WsError::Utf8 | WsError::Deflate => 1007,
                WsError::TooBig => 1009,
                _ => 1002,
            };
            assert_eq!(error.close_code(), expected, "{role:?}");
        }
    }
}

/// Inflates, as another inflater does; and what is inflated comes back when it is compressed.
fn inflated(inflater: &mut Inflater, binary: bool, compressed: &[u8]) {
    let again = Inflater::default().inflate(binary, compressed).map(|bytes| bytes.to_vec());
    let message = inflater.inflate(binary, compressed).map(|bytes| bytes.to_vec());
    assert_eq!(message, again, "nothing is remembered from one message to the next");
    let message = match message {
        Ok(message) => message,
        Err(error) => {
            assert!(matches!(error, WsError::Deflate | WsError::Utf8 | WsError::TooBig));
            return;
        }
    };
    check(&Said::Message(binary, message.clone()), Role::Server);
    a_peer_inflates(compressed, &message);
    let mut deflater = Deflater::new(1);
    let opcode = if binary { Opcode::Binary } else { Opcode::Text };
    for bits in [9, 15] {
        let window = Window::new(bits).expect("deflate keeps to it");
        let mut arena = Vec::new();
        encode_head(opcode, message.len(), &mut arena);
        arena.extend_from_slice(&message);
        let plain = arena.len();
        let range = deflater.compress(&mut arena, 0..plain as u32, window);
        let Some(range) = range else { continue };
        assert!(message.len() >= DEFLATE_BYTES_MIN && range.len() < plain);
        let frame = &arena[range.start as usize..range.end as usize];
        let said = read(Role::Client, true, frame, &mut |rest| rest);
        let [Said::Compressed(kind, bytes)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(*kind, binary);
        assert_eq!(inflater.inflate(binary, bytes), Ok(&mut message.clone()[..]));
    }
}

/// What we inflate is what a plain inflate of the same bytes and the flush gives, as far as that
/// goes: it ends at the first block that says it is the last, which we read beyond.
fn a_peer_inflates(compressed: &[u8], message: &[u8]) {
    let mut peer = flate2::Decompress::new(false);
    let input = [compressed, &[0, 0, 0xff, 0xff]].concat();
    let mut out = Vec::with_capacity(message.len() + 1);
    let done = peer.decompress_vec(&input, &mut out, flate2::FlushDecompress::Sync);
    let done = done.expect("we can inflate it");
    assert!(message.starts_with(&out));
    let ended = done == flate2::Status::StreamEnd;
    assert!(ended || out == message, "{} of {} bytes", out.len(), message.len());
}

/// What was read is written by our own writers, and read again.
fn written_again(all: &[Said]) {
    let (mut server, mut client) = (Vec::new(), Vec::new());
    let mut expected = Vec::new();
    for said in all {
        match said {
            Said::Message(binary, bytes) => {
                let opcode = if *binary { Opcode::Binary } else { Opcode::Text };
                let at = server.len();
                encode_head(opcode, bytes.len(), &mut server);
                server.extend_from_slice(bytes);
                // The same where the length is not known at first.
                let mut arena = vec![0xff; 3];
                let start = begin_frame(&mut arena);
                arena.extend_from_slice(bytes);
                let range = end_frame(&mut arena, start, opcode);
                assert_eq!(arena[range.start as usize..range.end as usize], server[at..]);
                encode_masked(opcode, bytes, [1, 2, 3, bytes.len() as u8], &mut client);
            }
            Said::Ping(bytes) => {
                encode_ping(bytes, &mut server);
                encode_masked(Opcode::Ping, bytes, [9, 0, 0, 7], &mut client);
            }
            Said::Pong(bytes) => {
                encode_pong(bytes, &mut server);
                encode_masked(Opcode::Pong, bytes, [0, 0, 0, 7], &mut client);
            }
            Said::Close(code, reason) => {
                encode_close(*code, reason, &mut server);
                let mut payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
                payload.extend_from_slice(reason.as_bytes());
                encode_masked(Opcode::Close, &payload, [4, 3, 2, 1], &mut client);
            }
            Said::Compressed(..) | Said::Error(_) => continue,
        }
        expected.push(said.clone());
    }
    assert_eq!(read(Role::Client, false, &server, &mut |rest| rest), expected);
    assert_eq!(read(Role::Server, false, &client, &mut |rest| rest), expected);
}
