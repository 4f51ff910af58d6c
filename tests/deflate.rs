//! permessage-deflate end to end: a real server, and a client that writes and reads compressed
//! frames by hand, with zlib and nothing of ours: the WebSocket library of the other tests has no
//! extensions.

mod common;

use std::io::Write;
use std::net::TcpStream;

use common::Server;
use common::client::{Client, c2c, xid};
use common::wire::{self, CLOSE, FIN, Frame, PING, PONG, RSV1, TEXT};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};

/// What browsers offer.
const BROWSER: &str = "permessage-deflate; client_max_window_bits";

/// A client that negotiates compression.
struct Zipped {
    stream: TcpStream,
    /// Of the server's frames.
    window: u8,
    /// The extensions that the server has answered; empty: none.
    extensions: String,
}

impl Zipped {
    fn connect(server: &Server, user: &str, did: &str, offer: &str, window: u8) -> Zipped {
        let mut stream = wire::connect(server.addr());
        let target = format!("/imboy/ws?did={did}&token={}", server.token(user));
        let offer = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let head = wire::upgrade(&mut stream, &target, &offer);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let mut lines = head.lines();
        let extensions = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
        let extensions = extensions.unwrap_or_default().to_owned();
        Zipped { stream, window, extensions }
    }

    /// Sends a frame with this first byte.
    fn send(&mut self, first: u8, payload: &[u8]) {
        self.stream.write_all(&wire::frame(first, payload)).expect("the server reads");
    }

    fn send_text(&mut self, text: &str) {
        self.send(FIN | RSV1 | TEXT, &deflate(text.as_bytes()));
    }

    fn next(&mut self) -> Frame {
        wire::read_frame(&mut self.stream).expect("a frame")
    }

    /// The next frame, which is a text: whether it came compressed, and what it says.
    fn text(&mut self) -> (bool, String) {
        let frame = self.next();
        let text = match frame.first {
            first if first == FIN | TEXT => frame.payload,
            first if first == FIN | RSV1 | TEXT => inflate(&frame.payload, self.window),
            _ => panic!("{frame:?} is no text"),
        };
        (frame.first & RSV1 > 0, String::from_utf8(text).expect("UTF-8"))
    }

    fn json(&mut self) -> (bool, Value) {
        let (compressed, text) = self.text();
        (compressed, serde_json::from_str(&text).expect("JSON"))
    }

    /// Reads the server's close frame and returns its code.
    fn closed(&mut self) -> u16 {
        let frame = self.next();
        assert_eq!(frame.first, FIN | CLOSE, "{frame:?}");
        u16::from_be_bytes(frame.payload[..2].try_into().expect("a code"))
    }

    /// Asserts that the connection is alive and that nothing else was said.
    fn nothing_more(&mut self) {
        self.send_text("ping");
        assert_eq!(self.text(), (false, "pong2".to_owned()), "short: not compressed");
    }
}

/// A whole message as RFC 7692 section 7.2.1 has it.
fn deflate(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 1000);
    let mut context = Compress::new(Compression::best(), false);
    context.compress_vec(message, &mut out, FlushCompress::Sync).expect("there is room");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]) && context.total_in() as usize == message.len());
    out.truncate(out.len() - 4);
    out
}

/// What it stands for, with no more of a window than was agreed on: it is read in small parts.
fn inflate(payload: &[u8], window: u8) -> Vec<u8> {
    let payload = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut context = Decompress::new_with_window_bits(false, window);
    let (mut out, mut part) = (Vec::new(), [0; 100]);
    loop {
        let (taken, given) = (context.total_in() as usize, context.total_out());
        context.decompress(&payload[taken..], &mut part, FlushDecompress::Sync).expect("proper");
        let given = (context.total_out() - given) as usize;
        out.extend_from_slice(&part[..given]);
        if given < part.len() {
            assert_eq!(context.total_in() as usize, payload.len());
            return out;
        }
    }
}

/// A payload whose second half refers far back, in a frame that is worth compressing.
fn payload() -> Value {
    let words: Vec<String> =
        (0..200u32).map(|n| format!("w{}", n.wrapping_mul(2_654_435_761))).collect();
    json!({"msg_type": "text", "text": words.join(" ").repeat(2)})
}

#[test]
fn messages_go_compressed_both_ways_and_each_device_gets_its_own_form() {
    let server = Server::start_with(&["--shards", "2"]);
    let mut alice = Zipped::connect(&server, "alice", "a", BROWSER, 15);
    let answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(alice.extensions, answer);
    let offer = "permessage-deflate; server_max_window_bits=8, \
        permessage-deflate; server_max_window_bits=9; client_max_window_bits=10";
    let mut small = Zipped::connect(&server, "bob", "small", offer, 9);
    let more = "; server_max_window_bits=9; client_max_window_bits=10";
    assert_eq!(small.extensions, format!("{answer}{more}"));
    let mut large = Zipped::connect(&server, "bob", "large", BROWSER, 15);
    let mut plain = Client::connect(&server, "bob", "plain");
    // Each is told of those that came after it.
    for (client, did, later) in [(&mut small, "small", 2), (&mut large, "large", 1)] {
        for _ in 0..later {
            let (_, told) = client.json();
            assert_eq!(told["id"], "logged_another_device");
            client.send_text(&format!("CLIENT_ACK,S2C,logged_another_device,{did}"));
        }
    }
    let payload = payload();
    for round in 0..3 {
        let id = xid(round);
        alice.send_text(&c2c(&id, "bob", &payload));
        let (compressed, receipt) = alice.json();
        assert_eq!((compressed, &receipt["type"]), (false, &json!("C2C_SERVER_ACK")));
        let (compressed, at_large) = large.json();
        assert!(compressed);
        assert_eq!((&at_large["id"], &at_large["payload"]), (&json!(id), &payload));
        assert_eq!(small.json(), (true, at_large.clone()));
        assert_eq!(plain.next(), at_large);
        plain.ack(&id);
        large.send_text(&format!("CLIENT_ACK,C2C,{id},large"));
        small.send_text(&format!("CLIENT_ACK,C2C,{id},small"));
    }
    alice.nothing_more();
    small.nothing_more();
    large.nothing_more();
    plain.nothing_more();
    // Each frame was compressed once for each window that it needed.
    let metrics = server.http().get("/metrics").body;
    let sum = |name: &str| -> u64 {
        let lines =
            metrics.lines().filter(|line| line.starts_with(&format!("ringpost_{name}_total{{")));
        lines
            .map(|line| line.rsplit(' ').next().expect("a value").parse::<u64>().expect("whole"))
            .sum()
    };
    let (before, after) = (sum("deflated_from_bytes"), sum("deflated_bytes"));
    let frame = payload.to_string().len() as u64;
    assert!((6 * frame..7 * frame).contains(&before), "{before} for 6 times {frame}");
    assert!(after > 0 && after < before);
    assert!(sum("inflated_bytes") > sum("inflated_from_bytes"));
}

#[test]
fn fragments_of_a_compressed_message_with_a_ping_between_them() {
    let server = Server::start();
    let mut alice = Zipped::connect(&server, "alice", "a", BROWSER, 15);
    Client::connect(&server, "bob", "b").close();
    let message = deflate(c2c("m", "bob", &payload()).as_bytes());
    let (one, two) = message.split_at(message.len() / 2);
    alice.send(RSV1 | TEXT, one);
    alice.send(FIN | PING, b"between");
    alice.send(0, &[]);
    alice.send(FIN, two);
    let pong = alice.next();
    assert_eq!((pong.first, &pong.payload[..]), (FIN | PONG, &b"between"[..]));
    assert_eq!(alice.json().1["id"], "m");
    // A message may go plain, and one that is empty may go either way.
    alice.send(FIN | TEXT, b"ping");
    assert_eq!(alice.text().1, "pong2");
    alice.send(FIN | RSV1 | TEXT, &[0]);
    assert_eq!(alice.json().1["code"], 1);
    // What waited for him comes compressed too: it is read from the log.
    let mut bob = Zipped::connect(&server, "bob", "b", BROWSER, 15);
    let (compressed, message) = bob.json();
    assert!(compressed);
    assert_eq!(message["payload"], payload());
}

#[test]
fn who_breaks_it_is_told_how_and_nobody_else_notices() {
    let server = Server::start();
    let mut witness = Zipped::connect(&server, "witness", "w", BROWSER, 15);
    let bomb = deflate(&vec![b'x'; (1 << 20) + 1]);
    let huge = deflate(&vec![b'x'; 100 << 20]);
    let text = deflate(b"\xff not UTF-8");
    let proper = deflate(b"CLIENT_ACK,C2C,x,u, and more text so that there is something to cut");
    let cases: [(u8, &[u8], u16); 10] = [
        (FIN | RSV1 | TEXT, &bomb, 1009),
        (FIN | RSV1 | TEXT, &huge, 1009),
        (FIN | RSV1 | TEXT, &text, 1007),
        (FIN | RSV1 | TEXT, &proper[..proper.len() - 3], 1007),
        (FIN | RSV1 | TEXT, b"\xff\xff\xff", 1007),
        // A reference to the message before it, which was not agreed on.
        (FIN | RSV1 | TEXT, b"\xf2\x00\x11\x00\x00", 1007),
        (FIN | RSV1 | PING, b"", 1002),
        (FIN | RSV1 | CLOSE, b"", 1002),
        (RSV1, b"", 1002),
        (FIN | 0x20 | TEXT, b"", 1002),
    ];
    for (first, payload, code) in cases {
        let mut client = Zipped::connect(&server, "u", "d", BROWSER, 15);
        client.nothing_more();
        client.send(first, payload);
        assert_eq!(client.closed(), code, "{first:x} {:?}", payload.get(..8));
        witness.nothing_more();
    }
}

#[test]
fn without_an_agreement_there_is_no_compression() {
    let server = Server::start();
    let declined = "permessage-deflate; server_max_window_bits=8, permessage-deflate; level=9";
    let mut client = Zipped::connect(&server, "u", "d", declined, 15);
    assert_eq!(client.extensions, "");
    client.send_text("ping");
    assert_eq!(client.closed(), 1002);
    // Nor when the operator does not want it.
    let server = Server::start_with(&["--deflate", "false"]);
    let mut client = Zipped::connect(&server, "u", "d", BROWSER, 15);
    assert_eq!(client.extensions, "");
    client.send(FIN | TEXT, c2c("m", "u", &payload()).as_bytes());
    let (compressed, _) = client.text();
    assert!(!compressed);
    client.send_text("ping");
    assert_eq!(client.closed(), 1002);
}
