//! Streams of zlib and of RFC 7692's examples, whole, damaged, and too large. What the deflater
//! writes is read by zlib with the small window that was agreed on.

use super::*;
use crate::ws::message::{Event, Receiver};
use crate::ws::testing::{FIN, Prng, RSV1, frame, masked};

const TEXT: u8 = 1;
const BINARY: u8 = 2;

fn inflate(compressed: &[u8]) -> Result<Vec<u8>, WsError> {
    Inflater::default().inflate(true, compressed).map(|bytes| bytes.to_vec())
}

/// What a sender makes of a message: some flushes on the way, as `prng` likes it.
fn zlib(prng: &mut Prng, message: &[u8], bits: u8) -> Vec<u8> {
    let level = Compression::new(prng.below(10) as u32);
    let mut context = Compress::new_with_window_bits(level, false, bits);
    let mut out = Vec::with_capacity(2 * message.len() + 10_000);
    let flushes =
        [FlushCompress::None, FlushCompress::Partial, FlushCompress::Sync, FlushCompress::Full];
    for piece in prng.cut(message, 5000) {
        let flush = flushes[prng.below(4)];
        context.compress_vec(piece, &mut out, flush).expect("there is room");
    }
    let len = out.len();
    context.compress_vec(&[], &mut out, FlushCompress::Sync).expect("there is room");
    assert_eq!(context.total_in(), message.len() as u64);
    assert!(out.len() < out.capacity(), "there was room");
    // One flush right behind another has nothing to say; then the tail is that of the first.
    if out.ends_with(TAIL) {
        out.truncate(out.len() - TAIL.len());
    } else {
        assert_eq!(out.len(), len);
    }
    out
}

/// Text that compresses about as chat does.
fn chat(prng: &mut Prng, len: usize) -> String {
    let words =
        ["hello", "\"msg_type\":", "tomorrow", "ja", "\u{fc}ber", "\u{1f600}", "1700000", "the"];
    let mut text = String::new();
    while text.len() < len {
        text += words[prng.below(words.len())];
        text.push((b' ' + prng.below(90) as u8).into());
    }
    text
}

#[test]
fn section_7_2_3_examples() {
    let cases: [(&[u8], &[u8]); 6] = [
        // 7.2.3.1: one block with fixed codes.
        (b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"Hello"),
        // 7.2.3.3: a block that is not compressed.
        (b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", b"Hello"),
        // 7.2.3.4: a block that says it is the last one, and the empty one behind it.
        (b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", b"Hello"),
        // 7.2.3.5: two blocks.
        (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello"),
        // 7.2.3.6: nothing at all.
        (b"\x00", b""),
        (b"\x02\x00", b""),
    ];
    for (compressed, plain) in cases {
        assert_eq!(inflate(compressed).as_deref(), Ok(plain));
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(false, compressed).as_deref(), Ok(plain));
    }
    // 7.2.3.2: the second message refers to the first, which nobody allowed it to.
    let mut inflater = Inflater::default();
    assert_eq!(
        inflater.inflate(false, b"\xf2\x48\xcd\xc9\xc9\x07\x00").as_deref(),
        Ok(&b"Hello"[..])
    );
    assert_eq!(inflater.inflate(false, b"\xf2\x00\x11\x00\x00"), Err(WsError::Deflate));
    // Nor does an error leave anything behind.
    assert_eq!(
        inflater.inflate(false, b"\xf2\x48\xcd\xc9\xc9\x07\x00").as_deref(),
        Ok(&b"Hello"[..])
    );
}

#[test]
fn a_message_without_a_byte_is_an_empty_one() {
    assert_eq!(inflate(b""), Ok(Vec::new()));
}

#[test]
fn streams_that_end_by_themselves_may_follow_one_another() {
    let last = b"\xf3\x48\xcd\xc9\xc9\x07\x00";
    assert_eq!(inflate(last).as_deref(), Ok(&b"Hello"[..]));
    let two = [&last[..], last].concat();
    assert_eq!(inflate(&two).as_deref(), Ok(&b"HelloHello"[..]));
    let then_flushed = [&last[..], b"\xf2\x48\xcd\xc9\xc9\x07\x00"].concat();
    assert_eq!(inflate(&then_flushed).as_deref(), Ok(&b"HelloHello"[..]));
    // A new stream has a new window.
    let back = [&last[..], b"\xf2\x00\x11\x00\x00"].concat();
    assert_eq!(inflate(&back), Err(WsError::Deflate));
}

#[test]
fn what_is_cut_off_is_not_taken_for_all() {
    let mut prng = Prng(722);
    let text = chat(&mut prng, 3000);
    let compressed = zlib(&mut prng, text.as_bytes(), 15);
    for end in 1..compressed.len() {
        if let Ok(part) = inflate(&compressed[..end]) {
            // Only where a flush on the way has ended, which is all that a message needs.
            assert!(compressed[..end + TAIL.len()].ends_with(TAIL), "{end}");
            assert!(text.as_bytes().starts_with(&part));
        }
    }
    // The tail belongs to the receiver: with it the message goes on behind its end.
    assert_eq!(inflate(&[&compressed[..], TAIL].concat()), Err(WsError::Deflate));
}

#[test]
fn text_is_checked_as_it_is_inflated() {
    let mut prng = Prng(81);
    let mut inflater = Inflater::default();
    for bad in [&b"\xed\xa0\x80"[..], b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\x80", b"\xe2\x82"] {
        let plain = [b"some text ", bad].concat();
        let compressed = zlib(&mut prng, &plain, 15);
        assert_eq!(inflater.inflate(false, &compressed), Err(WsError::Utf8));
        assert_eq!(inflater.inflate(true, &compressed).as_deref(), Ok(&plain[..]));
    }
    let good = chat(&mut prng, 1000);
    let compressed = zlib(&mut prng, good.as_bytes(), 15);
    assert_eq!(inflater.inflate(false, &compressed).as_deref(), Ok(good.as_bytes()));
}

#[test]
fn a_bomb_costs_the_limit_and_no_more() {
    let deflated = |len: usize| {
        let mut out = Vec::with_capacity(1 << 20);
        let mut context = Compress::new(Compression::best(), false);
        context.compress_vec(&vec![b'x'; len], &mut out, FlushCompress::Sync).expect("room");
        out.truncate(out.len() - TAIL.len());
        out
    };
    let mut inflater = Inflater::default();
    // The limit itself is allowed.
    let most = deflated(MESSAGE_BYTES_MAX);
    assert!(most.len() < MESSAGE_BYTES_MAX / 500);
    let message = inflater.inflate(false, &most).expect("within the limit");
    assert!(message.len() == MESSAGE_BYTES_MAX && message.iter().all(|&byte| byte == b'x'));
    for len in [MESSAGE_BYTES_MAX + 1, 64 << 20] {
        let bomb = deflated(len);
        assert_eq!(inflater.inflate(false, &bomb), Err(WsError::TooBig));
        assert!(inflater.out.capacity() <= MESSAGE_BYTES_MAX + 1);
        // It stopped there, with the rest unread.
        assert!(inflater.context.total_out() <= MESSAGE_BYTES_MAX as u64 + 1);
        // Also when it comes to it step by step.
        let mut fresh = Inflater::default();
        assert_eq!(fresh.inflate(true, &bomb), Err(WsError::TooBig));
        assert!(fresh.out.capacity() <= MESSAGE_BYTES_MAX + 1);
    }
    assert_eq!(inflater.inflate(false, b"\x00").as_deref(), Ok(&b""[..]));
}

#[test]
fn random_messages_fragmented_and_cut_at_random_arrive() {
    let mut prng = Prng(7692);
    let mut inflater = Inflater::default();
    for round in 0..400 {
        let len = prng.size(100_000);
        let binary = prng.below(2) == 0;
        let message = match prng.below(3) {
            0 if binary => prng.bytes(len),
            0 => prng.text(len).into_bytes(),
            _ => chat(&mut prng, len).into_bytes(),
        };
        let compressed = zlib(&mut prng, &message, 9 + (round % 7) as u8);
        // Fragments, with pings between them.
        let fragments = prng.cut(&compressed, 4000);
        let mut stream = Vec::new();
        let mut first = RSV1 | if binary { BINARY } else { TEXT };
        for fragment in &fragments {
            stream.extend(frame(first, Some(prng.mask()), fragment));
            first = 0;
            if prng.below(4) == 0 {
                stream.extend(masked(FIN | 9, b"ping"));
            }
        }
        stream.extend(masked(FIN | first, b""));
        // Pieces as they are read.
        let mut receiver = Receiver::new(Role::Server).with_deflate();
        let (mut left, mut said) = (Vec::new(), Vec::new());
        for piece in prng.cut(&stream, 6000) {
            left.extend_from_slice(piece);
            loop {
                let (consumed, event) = receiver.step(&mut left).expect("a proper stream");
                let more = event.is_some();
                match event {
                    Some(Event::Compressed { binary, bytes }) => {
                        let message = inflater.inflate(binary, &bytes).expect("a proper message");
                        said.push((binary, message.to_vec()));
                    }
                    Some(Event::Ping(b"ping")) | None => {}
                    Some(other) => panic!("{other:?}"),
                }
                left.drain(..consumed);
                if !more {
                    break;
                }
            }
        }
        assert_eq!(receiver.held_bytes(), 0);
        assert_eq!(said, [(binary, message)], "round {round}");
    }
}

#[test]
fn random_damage_is_an_error_or_another_message_within_the_limit() {
    let mut prng = Prng(1007);
    let mut inflater = Inflater::default();
    let (mut errors, mut messages) = (0, 0);
    for _ in 0..6000 {
        let len = prng.size(4000);
        let mut bytes = match prng.below(4) {
            0 => prng.bytes(len),
            _ => {
                let plain = chat(&mut prng, len);
                zlib(&mut prng, plain.as_bytes(), 15)
            }
        };
        for _ in 0..prng.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = prng.below(bytes.len());
            match prng.below(4) {
                0 => bytes[at] ^= 1 << prng.below(8),
                1 => bytes[at] = prng.next() as u8,
                2 => bytes.truncate(at),
                _ => drop(bytes.drain(at..bytes.len().min(at + 3))),
            }
        }
        let binary = prng.below(2) == 0;
        match inflater.inflate(binary, &bytes) {
            Ok(message) => {
                assert!(binary || std::str::from_utf8(message).is_ok());
                messages += 1;
            }
            Err(WsError::Deflate | WsError::Utf8 | WsError::TooBig) => errors += 1,
            Err(other) => panic!("{other:?}"),
        }
        assert!(inflater.out.capacity() <= MESSAGE_BYTES_MAX + 1);
    }
    assert!(errors > 2000 && messages > 1000, "{errors} and {messages}");
    // What came before does not show.
    assert_eq!(
        inflater.inflate(false, b"\xf2\x48\xcd\xc9\xc9\x07\x00").as_deref(),
        Ok(&b"Hello"[..])
    );
}

/// A deflater and an arena with something in front.
struct Sender {
    deflater: Deflater,
    arena: Vec<u8>,
}

impl Sender {
    fn new(level: u8) -> Sender {
        Sender { deflater: Deflater::new(level), arena: b"before".to_vec() }
    }

    /// The compressed form of these bytes, which stand in the arena.
    fn compress(&mut self, bytes: &[u8], window: Window) -> Option<Vec<u8>> {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        let before = self.arena.clone();
        let range = self.deflater.compress(&mut self.arena, start..before.len() as u32, window);
        assert!(self.arena.starts_with(&before), "nothing but appended");
        match range {
            Some(range) => {
                assert_eq!(
                    (range.start as usize, range.end as usize),
                    (before.len(), self.arena.len())
                );
                Some(self.arena[before.len()..].to_vec())
            }
            None => {
                assert_eq!(self.arena, before);
                None
            }
        }
    }
}

/// What a client that agreed on this window makes of a frame, if that is proper: zlib never looks
/// further back than the window, because it never has more room.
fn client(frame: &[u8], opcode: u8, bits: u8) -> Vec<u8> {
    let head = decode_head(frame, Role::Client, true).expect("a proper head").expect("a whole one");
    assert!(head.fin && head.compressed && head.opcode as u8 == opcode);
    let payload = [&frame[head.head_len..], TAIL].concat();
    assert_eq!(frame.len() - head.head_len, head.payload_len as usize);
    let mut context = Decompress::new_with_window_bits(false, bits);
    let (mut message, mut part) = (Vec::new(), [0; 64]);
    loop {
        let (taken, given) = (context.total_in() as usize, context.total_out());
        context.decompress(&payload[taken..], &mut part, FlushDecompress::Sync).expect("deflated");
        let given = (context.total_out() - given) as usize;
        message.extend_from_slice(&part[..given]);
        if given < part.len() {
            assert_eq!(context.total_in() as usize, payload.len());
            return message;
        }
    }
}

#[test]
fn what_is_compressed_is_shorter_and_within_every_window() {
    let mut prng = Prng(7211);
    for level in 1..=9 {
        let mut sender = Sender::new(level);
        for round in 0..70 {
            let window = Window::new(9 + round % 7).expect("deflate can");
            let len = DEFLATE_BYTES_MIN + prng.size(60_000);
            // Half of it again, from further back than small windows reach.
            let text = chat(&mut prng, len).repeat(2);
            let opcode = [TEXT, BINARY][usize::from(round % 2)];
            let plain = frame(FIN | opcode, None, text.as_bytes());
            let compressed = sender.compress(&plain, window).expect("it repeats itself");
            assert!(compressed.len() < plain.len());
            assert_eq!(
                client(&compressed, opcode, window.bits()),
                text.as_bytes(),
                "{level} {len}"
            );
        }
    }
}

#[test]
fn a_message_no_longer_than_the_window_is_within_it_whatever_the_deflaters_own() {
    let mut prng = Prng(15);
    let mut sender = Sender::new(6);
    for bits in 9..=15 {
        let window = Window::new(bits).expect("deflate can");
        let half = chat(&mut prng, 1 << (bits - 2));
        let text = half.repeat(2);
        assert!(text.len() <= 1 << bits);
        let plain = frame(FIN | TEXT, None, text.as_bytes());
        let compressed = sender.compress(&plain, window.for_message(text.len()));
        assert_eq!(client(&compressed.expect("twice the same"), TEXT, bits), text.as_bytes());
    }
}

#[test]
fn what_gains_nothing_stays_as_it_is() {
    let mut prng = Prng(1);
    let mut sender = Sender::new(1);
    let bytes = prng.bytes(5000);
    let text = "x".repeat(5000);
    for plain in [
        // Not compressible; too short.
        frame(FIN | BINARY, None, &bytes),
        frame(FIN | TEXT, None, &text.as_bytes()[..DEFLATE_BYTES_MIN - 1]),
        // No message, or not all of it; not one frame.
        frame(FIN | 9, None, &text.as_bytes()[..125]),
        frame(TEXT, None, text.as_bytes()),
        frame(FIN, None, text.as_bytes()),
        frame(FIN | RSV1 | TEXT, None, text.as_bytes()),
        frame(FIN | TEXT, None, text.as_bytes())[..4000].to_vec(),
        frame(FIN | TEXT, None, text.as_bytes()).repeat(2),
        format!("HTTP/1.1 101 Switching Protocols\r\nX: {text}\r\n\r\n").into_bytes(),
        Vec::new(),
    ] {
        assert_eq!(sender.compress(&plain, Window::LARGEST), None, "{:?}", plain.get(..8));
    }
    let least = frame(FIN | TEXT, None, &text.as_bytes()[..DEFLATE_BYTES_MIN]);
    let compressed = sender.compress(&least, Window::LARGEST).expect("all the same byte");
    assert_eq!(client(&compressed, TEXT, 15), &text.as_bytes()[..DEFLATE_BYTES_MIN]);
    // Every length around what fits: random bytes with some text behind.
    for len in 0..200 {
        let plain = [&bytes[..DEFLATE_BYTES_MIN], &text.as_bytes()[..len]].concat();
        if let Some(compressed) =
            sender.compress(&frame(FIN | BINARY, None, &plain), Window::LARGEST)
        {
            assert_eq!(client(&compressed, BINARY, 15), plain);
        }
    }
}

#[test]
fn what_does_not_compress_leaves_nothing_behind() {
    let mut prng = Prng(9711);
    for level in 1..=9 {
        let mut sender = Sender::new(level);
        for round in 0..12 {
            let window = Window::new(9 + round % 7).expect("deflate can");
            // Larger than what zlib holds back of its output.
            let noise = prng.bytes(100_000 + 9_000 * usize::from(round));
            assert_eq!(sender.compress(&frame(FIN | BINARY, None, &noise), window), None);
            let text = chat(&mut prng, 100_000);
            let compressed = sender.compress(&frame(FIN | TEXT, None, text.as_bytes()), window);
            let compressed = compressed.expect("text compresses");
            assert_eq!(client(&compressed, TEXT, window.bits()), text.as_bytes());
            // Half of each.
            let mixed = [&noise[..50_000], text.as_bytes()].concat();
            if let Some(compressed) = sender.compress(&frame(FIN | BINARY, None, &mixed), window) {
                assert_eq!(client(&compressed, BINARY, window.bits()), mixed);
            }
            sender.arena.truncate(6);
        }
    }
}

#[test]
fn no_message_shows_in_another_one() {
    let mut sender = Sender::new(6);
    let text = "the same again and again ".repeat(20);
    let plain = frame(FIN | TEXT, None, text.as_bytes());
    let first = sender.compress(&plain, Window::LARGEST);
    assert!(first.is_some());
    assert_eq!(sender.compress(&plain, Window::LARGEST), first, "it knows nothing of the first");
}
