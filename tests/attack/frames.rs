//! With a session: frames that are small and many, pings without end, compressed bombs.

use std::io::Write;
use std::net::TcpStream;

use flate2::{Compress, Compression, FlushCompress};

use super::common::Server;
use super::common::wire::{
    self, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, closed, frame, read_frame,
};
use super::witness::{SLACK, Witness, size};

/// One WebSocket message (protocols/README.md, *Limits*).
const MESSAGE_BYTES: usize = 1 << 20;
/// Undecodable messages in a row before the connection is closed.
const UNDECODABLE: usize = 32;
/// Frames that one write to a socket carries.
const AT_ONCE: usize = 1_000;

/// A session of `user`, with these extensions.
fn session(server: &Server, user: &str, extensions: &str) -> TcpStream {
    let mut stream = wire::connect(server.addr());
    let target = format!("/imboy/ws?did=d&token={}", server.token(user));
    let offer = if extensions.is_empty() {
        String::new()
    } else {
        format!("Sec-WebSocket-Extensions: {extensions}\r\n")
    };
    let head = wire::upgrade(&mut stream, &target, &offer);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}

/// The connection is served: a `ping` is answered next.
fn check_alive(stream: &mut TcpStream) {
    stream.write_all(&frame(FIN | TEXT, b"ping")).expect("connected");
    let answer = read_frame(stream).expect("an answer");
    assert_eq!((answer.first, &answer.payload[..]), (FIN | TEXT, &b"pong2"[..]));
}

#[test]
fn frames_of_nothing() {
    let server = Server::start_with(&["--shards", "2"]);
    let witness = Witness::new(&server, "frames of 0 and 1 bytes", SLACK);
    witness.during(|| {
        let mut mallory = session(&server, "mallory", "");
        mallory.write_all(&frame(TEXT, b"")).expect("connected");
        let nothing = frame(CONTINUATION, b"").repeat(AT_ONCE);
        for _ in 0..size(200, 10_000) {
            mallory.write_all(&nothing).expect("taken");
        }
        // It is one message after all, and the last fragment ends it.
        mallory.write_all(&frame(FIN | CONTINUATION, b"ping")).expect("connected");
        assert_eq!(read_frame(&mut mallory).expect("an answer").payload, b"pong2");
        // Up to the limit of a message, a byte in each.
        mallory.write_all(&frame(TEXT, b"")).expect("connected");
        let one = frame(CONTINUATION, b"x").repeat(AT_ONCE);
        for _ in 0..=MESSAGE_BYTES / AT_ONCE {
            if mallory.write_all(&one).is_err() {
                break;
            }
        }
        assert_eq!(closed(&mut mallory), 1009);
    });
}

#[test]
fn messages_of_a_byte_that_say_nothing() {
    let server = Server::start_with(&["--shards", "2"]);
    let witness = Witness::new(&server, "undecodable messages of 1 byte", SLACK);
    witness.during(|| {
        for _ in 0..size(20, 2_000) {
            let mut mallory = session(&server, "mallory", "");
            mallory.write_all(&frame(FIN | TEXT, b"x").repeat(AT_ONCE)).expect("connected");
            let mut errors = 0;
            let code = loop {
                let answer = read_frame(&mut mallory).expect("a close frame comes first");
                if answer.first == FIN | CLOSE {
                    break u16::from_be_bytes(answer.payload[..2].try_into().expect("a code"));
                }
                let text = String::from_utf8(answer.payload).expect("text");
                assert!(text.contains("\"code\":1"), "{text}");
                errors += 1;
            };
            // The last of them is answered by the close.
            assert_eq!((code, errors), (1008, UNDECODABLE - 1));
        }
    });
}

#[test]
fn pings_whose_pongs_nobody_reads() {
    let server = Server::start_with(&["--shards", "2"]);
    let witness = Witness::new(&server, "pings", SLACK);
    witness.during(|| {
        let mut mallory = session(&server, "mallory", "");
        let mut sent = 0u32;
        for _ in 0..size(100, 5_000) {
            let mut pings = Vec::new();
            for _ in 0..AT_ONCE {
                sent += 1;
                // The longest that there is.
                let payload = [&sent.to_be_bytes()[..], &[0; 121]].concat();
                pings.extend(frame(FIN | PING, &payload));
            }
            // The server never waits for the pongs to be taken before it reads on.
            mallory.write_all(&pings).expect("taken");
        }
        // RFC 6455 section 5.5.3: the latest is answered, the others may be left out.
        let mut last = 0;
        while last < sent {
            let pong = read_frame(&mut mallory).expect("a pong");
            assert_eq!((pong.first, pong.payload.len()), (FIN | PONG, 125));
            let number = u32::from_be_bytes(pong.payload[..4].try_into().expect("4 bytes"));
            assert!(number > last, "in order: {number} behind {last}");
            last = number;
        }
        check_alive(&mut mallory);
    });
}

#[test]
fn requests_whose_answers_nobody_reads() {
    let server = Server::start_with(&["--shards", "2"]);
    let count = size(8, 100);
    // What may wait for each to take it, and what is read and may not be taken (src/bounds.rs).
    let bound = count as u64 * ((512 << 10) + (64 << 10)) + SLACK;
    let witness = Witness::new(&server, "requests, answers not read", bound);
    witness.during(|| {
        let streams: Vec<TcpStream> = (0..count)
            .map(|n| {
                let mut mallory = session(&server, &format!("mallory-{n}"), "");
                let block = frame(FIN | TEXT, b"ping").repeat(AT_ONCE);
                mallory.set_nonblocking(true).expect("a TCP socket");
                // Until it takes no more: it has stopped reading.
                let mut taken = 0;
                while let Ok(bytes) = mallory.write(&block) {
                    taken += bytes;
                    assert!(taken < 1 << 30, "it would read for ever");
                }
                mallory.set_nonblocking(false).expect("a TCP socket");
                mallory
            })
            .collect();
        let queued = server.metric("ringpost_queued_bytes");
        assert!(queued <= count as u64 * ((512 << 10) + (64 << 10)), "{queued} bytes wait");
        for mut mallory in streams {
            // Once it reads, it is served; nothing was lost on the way.
            for _ in 0..AT_ONCE {
                let answer = read_frame(&mut mallory).expect("an answer");
                assert_eq!(answer.payload, b"pong2");
            }
        }
    });
}

/// A whole message as RFC 7692 section 7.2.1 has it.
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() / 100 + 1_000);
    let mut context = Compress::new(Compression::best(), false);
    context.compress_vec(message, &mut out, FlushCompress::Sync).expect("there is room");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]) && context.total_in() as usize == message.len());
    out.truncate(out.len() - 4);
    out
}

#[test]
fn compressed_bombs() {
    let server = Server::start_with(&["--shards", "2"]);
    // What one shard inflates at a time, twice, and the bombs themselves.
    let bound = 2 * 2 * MESSAGE_BYTES as u64 + SLACK;
    let huge = deflate(&vec![b'x'; 64 << 20]);
    assert!(huge.len() < 70_000, "a thousand times smaller");
    // Just not too large, and no JSON: each costs the server a megabyte of reading.
    let legal = deflate(&vec![b' '; MESSAGE_BYTES]);
    let witness = Witness::new(&server, "compressed bombs", bound);
    witness.during(|| {
        for n in 0..size(10, 300) {
            let mut mallory =
                session(&server, &format!("mallory-{}", n % 16), "permessage-deflate");
            mallory.write_all(&frame(FIN | RSV1 | TEXT, &huge)).expect("connected");
            assert_eq!(closed(&mut mallory), 1009);
            let mut mallory =
                session(&server, &format!("mallory-{}", n % 16), "permessage-deflate");
            let bombs = frame(FIN | RSV1 | TEXT, &legal).repeat(UNDECODABLE);
            mallory.write_all(&bombs).expect("connected");
            assert_eq!(closed(&mut mallory), 1008);
        }
    });
}
