//! Streams of frames, most of them right.

use ringpost_core::ws::frame::{Opcode, Role, encode_head, encode_masked};
use ringpost_core::ws::message::{Event, Receiver};
use ringpost_fuzz_bodies::{frames, peer};
use tungstenite::protocol::WebSocket;

use super::Random;

/// How many streams.
const STREAMS: u64 = 20_000;

fn frame(random: &mut Random, out: &mut Vec<u8>, masked: bool, first: u8, payload: &[u8]) {
    let bit = if masked { 0x80 } else { 0 };
    out.push(first);
    // Now and then in more bytes than needed.
    let form = if random.below(60) == 0 { random.below(3) } else { 0 };
    match (form, payload.len()) {
        (0, len @ 0..126) => out.push(bit | len as u8),
        (0 | 1, len @ 0..0x1_0000) => {
            out.push(bit | 126);
            out.extend((len as u16).to_be_bytes());
        }
        (_, len) => {
            out.push(bit | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    let mask = if masked { (random.word() as u32).to_be_bytes() } else { [0; 4] };
    out.extend(mask.iter().filter(|_| masked));
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
}

fn payload(random: &mut Random, text: bool) -> Vec<u8> {
    let len = random.pick(&[0, 1, 3, 20, 125, 126, 127, 300, 70_000]);
    let len = if len == 70_000 && random.below(20) > 0 { 5 } else { len };
    if !text {
        return (0..len).map(|_| random.word() as u8).collect();
    }
    let mut text = String::new();
    while text.len() < len {
        text.push(random.pick(&['a', 'é', '€', '😀', '\0', '"']));
    }
    text.into_bytes()
}

/// A stream for the role that reads it; whole messages, fragments with control frames between them,
/// closes, and some of what no stream may have.
fn stream(random: &mut Random, role: Role) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + random.below(6) {
        let masked = (role == Role::Server) != (random.below(200) == 0);
        match random.below(20) {
            0..9 => {
                let text = random.below(2) == 0;
                let payload = payload(random, text);
                frame(random, &mut out, masked, if text { 0x81 } else { 0x82 }, &payload);
            }
            9..14 => {
                let text = random.below(2) == 0;
                let payload = payload(random, text);
                // Anywhere: within a character, too.
                let cut = random.below(payload.len() + 1);
                let kind = if text { 1 } else { 2 };
                frame(random, &mut out, masked, kind, &payload[..cut]);
                if random.below(3) == 0 {
                    frame(random, &mut out, masked, 0x89, b"between");
                }
                if random.below(8) > 0 {
                    frame(random, &mut out, masked, 0x80, &payload[cut..]);
                }
            }
            14..17 => {
                let first = random.pick(&[0x89, 0x8a, 0x8a, 0x09]);
                let len = random.pick(&[0, 4, 125, 126]);
                frame(random, &mut out, masked, first, &vec![7; len]);
            }
            17 | 18 => {
                let code = random.pick(&[
                    999u16, 1000, 1001, 1003, 1004, 1005, 1006, 1007, 1011, 1012, 1013, 1014, 1015,
                    1016, 2999, 3000, 4999, 5000,
                ]);
                let mut payload = code.to_be_bytes().to_vec();
                payload.extend_from_slice(random.pick(&[
                    &b""[..],
                    b"bye",
                    "é".as_bytes(),
                    b"\xff",
                ]));
                payload.truncate(random.pick(&[0, 1, 2, 9, 9, 9]));
                frame(random, &mut out, masked, 0x88, &payload);
            }
            _ => {
                let first = random.word() as u8;
                frame(random, &mut out, masked, first, b"odd");
            }
        }
    }
    out
}

#[test]
fn framing_agrees_with_tungstenite() {
    for seed in 0..STREAMS {
        let random = &mut Random(seed);
        let role = if random.below(4) == 0 { Role::Client } else { Role::Server };
        let mut data = vec![u8::from(role == Role::Client)];
        data.extend(stream(random, role));
        match random.below(4) {
            0 => random.mutate(&mut data),
            1 => data.truncate(1 + random.below(data.len())),
            _ => {}
        }
        data[0] = u8::from(role == Role::Client);
        println!("seed {seed}");
        peer::run(&data);
        // The same stream in other cuts, without the peer.
        data.insert(1, seed as u8);
        frames::run(&data);
    }
}

/// What we write tungstenite reads, both ways, and what it writes we read.
#[test]
fn each_reads_what_the_other_writes() {
    for seed in 0..300 {
        let random = &mut Random(seed);
        let text = random.below(2) == 0;
        let payload = payload(random, text);
        let (opcode, first) = if text { (Opcode::Text, 0x81) } else { (Opcode::Binary, 0x82) };
        let mut server = Vec::new();
        encode_head(opcode, payload.len(), &mut server);
        server.extend_from_slice(&payload);
        let mut expected = Vec::new();
        frame(&mut Random(4_000_000), &mut expected, false, first, &payload);
        assert_eq!(server, expected, "a server's frame in its shortest form");
        let mut client = Vec::new();
        encode_masked(opcode, &payload, [1, 2, 3, 4], &mut client);
        for (role, bytes) in [(Role::Client, &server), (Role::Server, &client)] {
            let data = [&[u8::from(role == Role::Client)][..], bytes].concat();
            peer::run(&data);
        }
        // Theirs.
        let message = match text {
            true => tungstenite::Message::text(String::from_utf8(payload.clone()).expect("text")),
            false => tungstenite::Message::binary(payload.clone()),
        };
        for (theirs, ours) in [
            (tungstenite::protocol::Role::Client, Role::Server),
            (tungstenite::protocol::Role::Server, Role::Client),
        ] {
            let socket = std::io::Cursor::new(Vec::new());
            let mut socket = WebSocket::from_raw_socket(socket, theirs, None);
            socket.send(message.clone()).expect("a Vec takes everything");
            let mut bytes = socket.get_ref().get_ref().clone();
            let len = bytes.len();
            match Receiver::new(ours).step(&mut bytes) {
                Ok((consumed, Some(Event::Message { binary, bytes }))) => {
                    assert_eq!((consumed, binary, &bytes[..]), (len, !text, &payload[..]));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
