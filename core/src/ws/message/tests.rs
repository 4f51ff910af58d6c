//! Streams of frames against what they say. `drive` plays the caller, with its one small buffer;
//! `reference` judges streams that nobody wrote by hand.

mod reference;

use super::*;
use crate::ws::testing::{FIN, Prng, RSV1, frame, head, masked};
use reference::reference;

/// An event that owns its bytes, or the error that ended the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Said {
    Text(String),
    Binary(Vec<u8>),
    Compressed(bool, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Blocked,
    Error(WsError),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Said {
        match event {
            Event::Message { binary: true, bytes } => Said::Binary(bytes.to_vec()),
            Event::Message { binary: false, bytes } => {
                Said::Text(String::from_utf8(bytes.to_vec()).expect("text is valid"))
            }
            Event::Compressed { binary, bytes } => Said::Compressed(binary, bytes.to_vec()),
            Event::Ping(bytes) => Said::Ping(bytes.to_vec()),
            Event::Pong(bytes) => Said::Pong(bytes.to_vec()),
            Event::Close { code, reason } => Said::Close(code, reason.to_owned()),
            Event::Blocked => Said::Blocked,
        }
    }
}

/// A caller: gives the pieces to a receiver and keeps what is left over.
struct Caller {
    receiver: Receiver,
    left: Vec<u8>,
    said: Vec<Said>,
    received: usize,
}

impl Caller {
    fn new(role: Role) -> Caller {
        Caller::of(Receiver::new(role))
    }

    fn of(receiver: Receiver) -> Caller {
        Caller { receiver, left: Vec::new(), said: Vec::new(), received: 0 }
    }

    fn receive(&mut self, piece: &[u8]) {
        self.received += piece.len();
        self.left.extend_from_slice(piece);
        loop {
            let before = self.left.clone();
            match self.receiver.step(&mut self.left) {
                Ok((consumed, event)) => {
                    let more = event.is_some();
                    self.said.extend(event.map(Said::from));
                    assert_eq!(self.left[consumed..], before[consumed..], "what is left is intact");
                    self.left.drain(..consumed);
                    if !more {
                        break;
                    }
                }
                Err(error) => {
                    self.said.push(Said::Error(error));
                    assert_eq!(self.receiver.held_bytes(), 0);
                    self.left.clear();
                    break;
                }
            }
        }
        assert!(self.left.len() < BUFFER_BYTES_MIN, "{} bytes are left", self.left.len());
        let held = self.receiver.held_bytes();
        let most = if self.receiver.deflate { DEFLATED_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        assert!(held <= most && held <= ASSEMBLY_BYTES_MIN.max(2 * self.received));
    }
}

fn drive(role: Role, pieces: &[&[u8]]) -> Vec<Said> {
    drive_on(Receiver::new(role), pieces)
}

fn drive_on(receiver: Receiver, pieces: &[&[u8]]) -> Vec<Said> {
    let mut caller = Caller::of(receiver);
    for piece in pieces {
        caller.receive(piece);
    }
    caller.said
}

/// A receiver of a connection with or without permessage-deflate.
fn receiver(role: Role, deflate: bool) -> Receiver {
    let receiver = Receiver::new(role);
    if deflate { receiver.with_deflate() } else { receiver }
}

/// What a server makes of a client's stream, in one piece and byte by byte.
fn serve(stream: &[u8]) -> Vec<Said> {
    let said = drive(Role::Server, &[stream]);
    assert_eq!(said, drive(Role::Server, &stream.chunks(1).collect::<Vec<_>>()));
    said
}

fn text(text: &str) -> Said {
    Said::Text(text.to_owned())
}

fn error(error: WsError) -> Vec<Said> {
    vec![Said::Error(error)]
}

#[test]
fn section_5_7_examples() {
    let client = |stream: &[u8]| drive(Role::Client, &[stream]);
    assert_eq!(client(b"\x81\x05Hello"), [text("Hello")]);
    assert_eq!(serve(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), [text("Hello")]);
    assert_eq!(client(b"\x01\x03Hel\x80\x02lo"), [text("Hello")]);
    assert_eq!(client(b"\x89\x05Hello"), [Said::Ping(b"Hello".to_vec())]);
    let pong = [Said::Pong(b"Hello".to_vec())];
    assert_eq!(serve(b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"), pong);
    let bytes = Prng(57).bytes(65_536);
    let short = [b"\x82\x7e\x01\x00", &bytes[..256]].concat();
    assert_eq!(client(&short), [Said::Binary(bytes[..256].to_vec())]);
    let long = [b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00", &bytes[..]].concat();
    assert_eq!(client(&long), [Said::Binary(bytes)]);
}

#[test]
fn section_5_4_control_frames_between_fragments() {
    let stream = [
        masked(0x01, b"one "),
        masked(FIN | 9, b"?"),
        masked(0x00, b""),
        masked(FIN | 10, b""),
        masked(0x00, b"two "),
        masked(FIN, b"three"),
        masked(FIN | 2, b"\xff"),
        masked(0x02, b""),
        masked(FIN, b""),
    ]
    .concat();
    let expected = [
        Said::Ping(b"?".to_vec()),
        Said::Pong(Vec::new()),
        text("one two three"),
        Said::Binary(b"\xff".to_vec()),
        Said::Binary(Vec::new()),
    ];
    assert_eq!(serve(&stream), expected);
}

#[test]
fn section_5_4_fragments_out_of_order() {
    let fragmentation = error(WsError::Fragmentation);
    assert_eq!(serve(&masked(FIN, b"x")), fragmentation);
    assert_eq!(serve(&masked(0x00, b"x")), fragmentation);
    for first in [0x01, 0x02, FIN | 1, FIN | 2] {
        assert_eq!(serve(&[masked(0x01, b"x"), masked(first, b"y")].concat()), fragmentation);
        // Also behind an empty fragment, which leaves no bytes to remember it by.
        assert_eq!(serve(&[masked(0x02, b""), masked(first, b"y")].concat()), fragmentation);
        // After a whole message nothing is to be continued.
        let whole = [masked(0x02, b"a"), masked(FIN, b"b"), masked(FIN, b"c")].concat();
        let said = [Said::Binary(b"ab".to_vec()), Said::Error(WsError::Fragmentation)];
        assert_eq!(serve(&whole), said);
    }
}

#[test]
fn section_5_4_empty_fragments_cost_nothing() {
    let mut caller = Caller::new(Role::Server);
    caller.receive(&masked(0x01, b""));
    let empty = masked(0x00, b"").repeat(256);
    for _ in 0..256 {
        caller.receive(&empty);
        assert_eq!(caller.receiver.held_bytes(), 0);
    }
    caller.receive(&masked(FIN, "é".as_bytes()));
    assert_eq!(caller.said, [text("é")]);
}

#[test]
fn section_5_4_many_small_fragments_are_copied_a_bounded_number_of_times() {
    let mut caller = Caller::new(Role::Server);
    caller.receive(&masked(0x02, b"x"));
    let mut moves = 0;
    for _ in 1..MESSAGE_BYTES_MAX / 16 {
        let held = caller.receiver.held_bytes();
        caller.receive(&masked(0x00, b"x"));
        moves += usize::from(caller.receiver.held_bytes() != held);
    }
    assert!(moves <= 7, "from 1 to 64 KiB it doubles 6 times, and not {moves}");
    caller.receive(&masked(FIN, b"x"));
    assert_eq!(caller.said, [Said::Binary(vec![b'x'; MESSAGE_BYTES_MAX / 16 + 1])]);
}

#[test]
fn section_5_1_masking_goes_by_the_role() {
    assert_eq!(drive(Role::Server, &[b"\x81\x05Hello"]), error(WsError::Masking));
    assert_eq!(drive(Role::Client, &[&masked(FIN | 1, b"Hello")]), error(WsError::Masking));
    // A mask of zero is one.
    assert_eq!(serve(&frame(FIN | 1, Some([0; 4]), b"Hello")), [text("Hello")]);
}

#[test]
fn section_5_2_reserved_bits_opcodes_and_long_lengths() {
    for bit in [0x40, 0x20, 0x10] {
        assert_eq!(serve(&masked(FIN | bit | 1, b"")), error(WsError::ReservedBits));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_eq!(serve(&masked(FIN | opcode, b"")), error(WsError::ReservedOpcode));
    }
    assert_eq!(serve(b"\x82\xfe\x00\x7d"), error(WsError::LengthForm));
    assert_eq!(serve(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"), error(WsError::LengthForm));
}

/// What a server that negotiated permessage-deflate makes of a client's stream.
fn serve_deflate(stream: &[u8]) -> Vec<Said> {
    let deflate = || Receiver::new(Role::Server).with_deflate();
    let said = drive_on(deflate(), &[stream]);
    assert_eq!(said, drive_on(deflate(), &stream.chunks(1).collect::<Vec<_>>()));
    said
}

#[test]
fn rfc_7692_section_6_rsv1_is_on_the_first_frame_of_a_data_message_alone() {
    let reserved = error(WsError::ReservedBits);
    let compressed = |binary, bytes: &[u8]| Said::Compressed(binary, bytes.to_vec());
    assert_eq!(serve_deflate(&masked(FIN | RSV1 | 1, b"\xff")), [compressed(false, b"\xff")]);
    assert_eq!(serve_deflate(&masked(FIN | RSV1 | 2, b"")), [compressed(true, b"")]);
    let fragments = [
        masked(RSV1 | 1, b"one "),
        masked(FIN | 9, b"?"),
        masked(0x00, b"\xfftwo "),
        masked(FIN, b""),
        // The next ones are for themselves.
        masked(FIN | 1, "é".as_bytes()),
        masked(RSV1 | 2, b""),
        masked(FIN, b"three"),
        masked(0x01, b"pl"),
        masked(FIN, b"ain"),
    ];
    let said = [
        Said::Ping(b"?".to_vec()),
        compressed(false, b"one \xfftwo "),
        text("é"),
        compressed(true, b"three"),
        text("plain"),
    ];
    assert_eq!(serve_deflate(&fragments.concat()), said);
    for first in [RSV1, FIN | RSV1] {
        assert_eq!(
            serve_deflate(&[masked(RSV1 | 1, b"x"), masked(first, b"y")].concat()),
            reserved
        );
        assert_eq!(serve_deflate(&[masked(0x01, b"x"), masked(first, b"y")].concat()), reserved);
    }
    for control in [8, 9, 10] {
        assert_eq!(serve_deflate(&masked(FIN | RSV1 | control, b"")), reserved);
    }
    for bits in [0x20, 0x10, 0x60, 0x50, 0x70] {
        assert_eq!(serve_deflate(&masked(FIN | bits | 1, b"")), reserved);
    }
    assert_eq!(serve(&masked(FIN | RSV1 | 1, b"")), reserved, "not negotiated");
}

#[test]
fn rfc_7692_what_cannot_be_compressed_may_grow() {
    let mask = Some([1, 2, 3, 4]);
    let max = DEFLATED_BYTES_MAX;
    let deflate = || Receiver::new(Role::Server).with_deflate();
    let bytes = vec![b'x'; max];
    let whole = frame(FIN | RSV1 | 2, mask, &bytes);
    let fragments =
        [frame(RSV1 | 2, mask, &bytes[1..]), frame(0, mask, &[]), frame(FIN, mask, b"x")].concat();
    for stream in [whole, fragments] {
        let expected = [Said::Compressed(true, bytes.clone())];
        assert_eq!(drive_on(deflate(), &stream.chunks(4096).collect::<Vec<_>>()), expected);
        let larger = [&head(FIN | RSV1 | 2, mask, max as u64 + 1)[..], &stream].concat();
        assert_eq!(drive_on(deflate(), &[&larger]), error(WsError::TooBig));
    }
    let more = [frame(RSV1 | 1, mask, &bytes), head(FIN, mask, 1)].concat();
    assert_eq!(drive_on(deflate(), &[&more]), error(WsError::TooBig));
    // A message that is not compressed keeps to its own limit.
    let plain = head(FIN | 2, mask, MESSAGE_BYTES_MAX as u64 + 1);
    assert_eq!(drive_on(deflate(), &[&plain]), error(WsError::TooBig));
}

#[test]
fn section_5_5_control_frames_are_short_and_whole() {
    let payload = [b'x'; 126];
    for opcode in [8, 9, 10] {
        assert_eq!(serve(&masked(FIN | opcode, &payload)), error(WsError::ControlFrame));
        assert_eq!(serve(&masked(opcode, b"")), error(WsError::ControlFrame));
    }
    assert_eq!(serve(&masked(FIN | 9, &payload[1..])), [Said::Ping(payload[1..].to_vec())]);
    assert_eq!(serve(&masked(FIN | 10, &payload[1..])), [Said::Pong(payload[1..].to_vec())]);
}

#[test]
fn section_5_5_1_close_ends_the_stream() {
    let close = |payload: &[u8]| serve(&masked(FIN | 8, payload));
    assert_eq!(close(b""), [Said::Close(None, String::new())]);
    assert_eq!(close(b"\x03\xe8"), [Said::Close(Some(1000), String::new())]);
    assert_eq!(close("\u{3}éé".as_bytes()), error(WsError::CloseFrame));
    assert_eq!(close(b"\x0b\xb8gone"), [Said::Close(Some(3000), "gone".to_owned())]);
    let long = [b"\x03\xe8", "é".repeat(61).as_bytes(), b"!"].concat();
    assert_eq!(close(&long), [Said::Close(Some(1000), "é".repeat(61) + "!")]);
    assert_eq!(close(b"\x03"), error(WsError::CloseFrame));
    assert_eq!(close(b"\x03\xe8\xff"), error(WsError::Utf8));
    assert_eq!(close(b"\x03\xe8\xe2\x82"), error(WsError::Utf8));
    // Whatever follows is swallowed, be it wrong or right; a message under way is dropped.
    let stream = [
        masked(0x01, b"half"),
        masked(FIN | 8, b""),
        masked(FIN, b"more"),
        b"\xff\xff".to_vec(),
        masked(FIN | 9, b""),
    ]
    .concat();
    let mut caller = Caller::new(Role::Server);
    caller.receive(&stream);
    assert_eq!(caller.said, [Said::Close(None, String::new())]);
    assert!(caller.left.is_empty());
    assert_eq!(caller.receiver.held_bytes(), 0);
}

#[test]
fn section_7_4_only_codes_that_may_be_sent_are_taken() {
    for code in 0..=u16::MAX {
        let said = drive(Role::Server, &[&masked(FIN | 8, &code.to_be_bytes())]);
        let valid = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        let expected = if valid {
            Said::Close(Some(code), String::new())
        } else {
            Said::Error(WsError::CloseFrame)
        };
        assert_eq!(said, [expected]);
    }
}

#[test]
fn section_7_1_7_nothing_is_read_after_an_error() {
    let mut caller = Caller::new(Role::Server);
    caller.receive(&masked(FIN, b""));
    caller.receive(&masked(FIN | 1, b"fine"));
    caller.receive(b"\xff");
    assert_eq!(caller.said, error(WsError::Fragmentation));
    assert!(caller.left.is_empty());
}

#[test]
fn section_8_1_invalid_text_in_every_form() {
    let valid = "κόσμε".as_bytes();
    for bad in [&b"\xed\xa0\x80"[..], b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\x80", b"\xff", b"\xe2"] {
        let utf8 = error(WsError::Utf8);
        let whole = [valid, bad, b"edited"].concat();
        assert_eq!(serve(&masked(FIN | 1, &whole)), utf8);
        let at_end = [valid, bad].concat();
        assert_eq!(serve(&masked(FIN | 1, &at_end)), utf8);
        for cut in 0..=whole.len() {
            let (a, b) = whole.split_at(cut);
            assert_eq!(serve(&[masked(0x01, a), masked(FIN, b)].concat()), utf8);
        }
        // The same bytes are fine as binary.
        assert_eq!(serve(&masked(FIN | 2, &whole)), [Said::Binary(whole)]);
    }
    // A message ends within a character, and the next one does not continue it.
    let stream = [masked(FIN | 1, b"\xe2\x82"), masked(FIN | 1, b"\xac")].concat();
    assert_eq!(serve(&stream), error(WsError::Utf8));
    let stream = [masked(0x01, b"\xe2"), masked(FIN, b"\x82"), masked(FIN | 1, b"x")].concat();
    assert_eq!(serve(&stream), error(WsError::Utf8));
}

#[test]
fn section_8_1_invalid_text_is_told_before_the_frame_is_whole() {
    // U+110000 in the middle: it is wrong from its second byte on.
    let payload = [&b"\xce\xba\xe1\xbd\xb9"[..], b"\xf4\x90\x80\x80", b"edited"].concat();
    for stream in [masked(FIN | 1, &payload), masked(0x01, &payload)] {
        let wrong_at = stream.len() - payload.len() + 6;
        for start in 0..=wrong_at {
            let mut caller = Caller::new(Role::Server);
            caller.receive(&stream[..start]);
            caller.receive(&stream[start..wrong_at]);
            assert_eq!(caller.said, []);
            caller.receive(&stream[wrong_at..=wrong_at]);
            assert_eq!(caller.said, error(WsError::Utf8));
        }
    }
}

#[test]
fn section_10_4_the_limit_is_over_all_fragments() {
    let too_big = error(WsError::TooBig);
    let mask = Some([1, 2, 3, 4]);
    let max = MESSAGE_BYTES_MAX as u64;
    // The head alone tells.
    assert_eq!(serve(&head(FIN | 2, mask, max + 1)), too_big);
    assert_eq!(serve(&head(0x01, mask, i64::MAX as u64)), too_big);
    let half = vec![b'x'; MESSAGE_BYTES_MAX / 2];
    let begun = [frame(0x01, mask, &half), frame(0x00, mask, &half)].concat();
    let one_more = [&begun[..], &head(FIN, mask, 1)].concat();
    assert_eq!(drive(Role::Server, &[&one_more]), too_big);
    // A buffer that has all of it makes no difference.
    let whole = vec![b'x'; MESSAGE_BYTES_MAX + 1];
    assert_eq!(drive(Role::Server, &[&frame(FIN | 1, mask, &whole)]), too_big);
    // The limit itself is allowed, and takes no more memory than it is.
    let expected = [Said::Text("x".repeat(MESSAGE_BYTES_MAX))];
    let ended = [&begun[..], &frame(FIN | 9, mask, b""), &frame(FIN, mask, b"")].concat();
    let mut said = drive(Role::Server, &ended.chunks(4096).collect::<Vec<_>>());
    assert_eq!(said.remove(0), Said::Ping(Vec::new()));
    assert_eq!(said, expected);
    let single = frame(FIN | 1, mask, &whole[1..]);
    assert_eq!(drive(Role::Server, &single.chunks(4096).collect::<Vec<_>>()), expected);
    // And the next message starts from nothing.
    let again = [&single[..], &single[..]].concat();
    let said = drive(Role::Server, &again.chunks(70_000).collect::<Vec<_>>());
    assert_eq!(said, [expected.clone(), expected].concat());
}

#[test]
fn memory_goes_by_what_has_come_and_ends_with_the_message() {
    let mask = Some([1, 2, 3, 4]);
    let mut caller = Caller::new(Role::Server);
    let mut stream = head(FIN | 2, mask, MESSAGE_BYTES_MAX as u64);
    caller.receive(&stream);
    assert_eq!(caller.receiver.held_bytes(), 0);
    caller.receive(b"x");
    assert_eq!(caller.receiver.held_bytes(), ASSEMBLY_BYTES_MIN);
    // A short frame that is cut takes its own size.
    let mut caller = Caller::new(Role::Server);
    stream = frame(FIN | 1, mask, &[b'x'; 300]);
    caller.receive(&stream[..100]);
    assert!(caller.left.is_empty());
    assert_eq!(caller.receiver.held_bytes(), 300);
    caller.receive(&stream[100..]);
    assert_eq!(caller.receiver.held_bytes(), 0);
    assert_eq!(caller.said.len(), 1);
}

#[test]
fn a_message_in_one_frame_and_one_piece_is_handed_out_where_it_lies() {
    let mut stream = [masked(FIN | 1, b"first"), masked(FIN | 2, &[7; 5000])].concat();
    let mut receiver = Receiver::new(Role::Server);
    let base = stream.as_ptr();
    let (consumed, event) = receiver.step(&mut stream).unwrap();
    let Some(Event::Message { binary: false, bytes: Payload::InPlace(bytes) }) = event else {
        panic!("{event:?}")
    };
    assert_eq!(bytes, b"first");
    assert_eq!(bytes.as_ptr(), base.wrapping_add(6));
    assert_eq!(consumed, 11);
    let (more, event) = receiver.step(&mut stream[consumed..]).unwrap();
    let Some(Event::Message { binary: true, mut bytes }) = event else { panic!("{event:?}") };
    assert!(matches!(bytes, Payload::InPlace(_)));
    // It is the caller's to change.
    bytes[0] = 8;
    assert_eq!((bytes.len(), &bytes[..3]), (5000, &[8, 7, 7][..]));
    assert_eq!(consumed + more, stream.len());
    assert_eq!(receiver.held_bytes(), 0);
}

#[test]
fn data_that_may_not_be_taken_blocks_but_control_frames_before_it_do_not() {
    let ping = masked(FIN | 9, b"a");
    let message = [masked(0x01, b"one"), masked(FIN | 10, b"b"), masked(FIN, b"two")].concat();
    let mut stream = [&ping[..], &message].concat();
    let mut receiver = Receiver::new(Role::Server);
    let step = |receiver: &mut Receiver, bytes: &mut [u8]| {
        let (consumed, event) = receiver.step_control(bytes).unwrap();
        (consumed, event.map(Said::from))
    };
    assert_eq!(step(&mut receiver, &mut stream), (7, Some(Said::Ping(b"a".to_vec()))));
    let before = stream.clone();
    assert_eq!(step(&mut receiver, &mut stream[7..]), (0, Some(Said::Blocked)));
    assert_eq!(step(&mut receiver, &mut stream[7..14]), (0, Some(Said::Blocked)));
    assert_eq!(step(&mut receiver, &mut stream[7..10]), (0, None), "not a whole head");
    assert_eq!(stream, before);
    // Within a frame as well, even before its next byte has come.
    let (consumed, event) = receiver.step(&mut stream[7..14]).unwrap();
    assert!(event.is_none());
    assert_eq!(consumed, 7);
    assert_eq!(step(&mut receiver, &mut []), (0, Some(Said::Blocked)));
    assert_eq!(step(&mut receiver, &mut stream[14..]), (0, Some(Said::Blocked)));
    assert_eq!(stream[14..], before[14..]);
    // Then all is taken as if nothing had been.
    let (consumed, event) = receiver.step(&mut stream[14..]).unwrap();
    assert_eq!(event.map(Said::from), Some(Said::Pong(b"b".to_vec())));
    let (_, event) = receiver.step(&mut stream[14 + consumed..]).unwrap();
    assert_eq!(event.map(Said::from), Some(text("onetwo")));
    // What a head alone tells is told.
    let mut stream = masked(FIN, b"no start");
    assert_eq!(receiver.step_control(&mut stream).unwrap_err(), WsError::Fragmentation);
}

/// A stream with a bit of everything, and what it says.
fn mixed() -> (Vec<u8>, Vec<Said>) {
    let long = "é日🦀 ".repeat(20);
    let stream = [
        masked(FIN | 1, b"Hello"),
        masked(FIN | 9, b""),
        masked(0x01, &long.as_bytes()[..100]),
        masked(FIN | 9, b"between"),
        masked(0x00, b""),
        masked(0x00, &long.as_bytes()[100..101]),
        masked(FIN, &long.as_bytes()[101..]),
        masked(FIN | 2, &[0xee; 130]),
        masked(FIN | 1, b""),
        masked(FIN | 8, b"\x03\xe9bye"),
    ]
    .concat();
    let said = vec![
        text("Hello"),
        Said::Ping(Vec::new()),
        Said::Ping(b"between".to_vec()),
        text(&long),
        Said::Binary(vec![0xee; 130]),
        text(""),
        Said::Close(Some(1001), "bye".to_owned()),
    ];
    (stream, said)
}

#[test]
fn every_cut_and_every_pair_of_cuts_says_the_same() {
    let (stream, said) = mixed();
    for a in 0..=stream.len() {
        for b in a..=stream.len() {
            let pieces = [&stream[..a], &stream[a..b], &stream[b..]];
            assert_eq!(drive(Role::Server, &pieces), said, "cut at {a} and {b}");
        }
    }
}

#[test]
fn every_prefix_says_a_prefix() {
    let (stream, said) = mixed();
    for end in 0..stream.len() {
        let part = drive(Role::Server, &[&stream[..end]]);
        assert!(part.len() < said.len() && said.starts_with(&part), "{end}");
    }
}

/// Random messages in random fragments with random control frames between them.
fn random_stream(prng: &mut Prng, role: Role, deflate: bool) -> (Vec<u8>, Vec<Said>) {
    let (mut stream, mut said) = (Vec::new(), Vec::new());
    let mask = |prng: &mut Prng| (role == Role::Server).then(|| prng.mask());
    for _ in 0..prng.below(6) {
        let size = prng.size(20_000);
        let (mut first, bytes, message) = if deflate && prng.below(2) == 0 {
            // Nobody looks into it here.
            let (binary, bytes) = (prng.below(2) == 0, prng.bytes(size));
            (RSV1 | if binary { 2 } else { 1 }, bytes.clone(), Said::Compressed(binary, bytes))
        } else if prng.below(2) == 0 {
            let text = prng.text(size);
            (1, text.clone().into_bytes(), Said::Text(text))
        } else {
            let bytes = prng.bytes(size);
            (2, bytes.clone(), Said::Binary(bytes))
        };
        let fragments = if prng.below(2) == 0 { vec![&bytes[..]] } else { prng.cut(&bytes, 3000) };
        let last = fragments.len().max(1) - 1;
        for at in 0..=last {
            while prng.below(4) == 0 {
                let len = prng.size(CONTROL_BYTES_MAX);
                let payload = prng.bytes(len);
                stream.extend(frame(FIN | 9, mask(prng), &payload));
                said.push(Said::Ping(payload));
            }
            let fin = if at == last { FIN } else { 0 };
            let fragment = fragments.get(at).copied().unwrap_or_default();
            stream.extend(frame(fin | first, mask(prng), fragment));
            first = 0;
        }
        said.push(message);
    }
    (stream, said)
}

#[test]
fn random_messages_fragmented_and_cut_at_random_arrive() {
    let mut prng = Prng(6455);
    for round in 0..600 {
        let role = if round % 3 == 0 { Role::Client } else { Role::Server };
        let deflate = round % 2 == 0;
        let (stream, said) = random_stream(&mut prng, role, deflate);
        let pieces = prng.cut(&stream, 6000);
        assert_eq!(drive_on(receiver(role, deflate), &pieces), said, "round {round}");
        assert_eq!(reference(role, deflate, &stream), said, "round {round}");
    }
}

#[test]
fn random_damage_is_judged_as_the_reference_does_however_it_is_cut() {
    let mut prng = Prng(1007);
    let mut errors = 0;
    for round in 0..3000 {
        let role = if round % 3 == 0 { Role::Client } else { Role::Server };
        let deflate = round % 2 == 0;
        let mut stream = match round % 5 {
            0 => prng.bytes(1 + round % 100),
            1 => mixed().0,
            _ => random_stream(&mut prng, role, deflate).0,
        };
        stream.truncate(4000);
        for _ in 0..prng.below(4) {
            if !stream.is_empty() {
                let at = prng.below(stream.len());
                stream[at] ^= 1 << prng.below(8);
            }
        }
        let expected = reference(role, deflate, &stream);
        errors += usize::from(matches!(expected.last(), Some(Said::Error(_))));
        assert_eq!(drive_on(receiver(role, deflate), &[&stream]), expected, "round {round}");
        for piece_max in [1, 20, 2000] {
            let pieces = prng.cut(&stream, piece_max);
            let said = drive_on(receiver(role, deflate), &pieces);
            assert_eq!(said, expected, "round {round} by {piece_max}");
        }
    }
    assert!(errors > 1000, "damage that nobody notices proves little: {errors}");
}
