//! What a peer may do to its connection, over real sockets: well-behaved, broken, slow, silent.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use ringpost_core::limits::{CONTENT_BYTES_MAX, TURN_BYTES_MAX};
use ringpost_core::ws::frame::Opcode;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::bounds::{Bounds, READ_BYTES};
use crate::testing::{Client, Got, Shards, c2c, frame};

fn future_bytes<F: Future>(_task: impl FnOnce(Rc<Local>, Stream) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn an_idle_connection_is_small() {
    // Its task beside the runtime's own words, and its place in the table.
    assert!(future_bytes(run) <= 232, "{}", future_bytes(run));
    assert!(size_of::<Conn>() <= 96, "{}", size_of::<Conn>());
}

#[test]
fn messages_come_in_any_pieces() {
    let shards = Shards::start(1);
    let mut client = shards.connect("u");
    // Two at once, so that the connection is active when the pieces come.
    for _ in 0..20 {
        client.check();
    }
    let mut bytes = frame(Opcode::Text, b"ping");
    bytes[0] &= 0x7f;
    bytes.extend(frame(Opcode::Ping, b"between"));
    let mut last = frame(Opcode::Continuation, b"");
    last[0] |= 0x80;
    bytes.extend(last);
    for byte in &bytes {
        client.send(std::slice::from_ref(byte));
    }
    assert_eq!(client.next(), Got::Pong(b"between".to_vec()));
    assert_eq!(client.text(), "pong2");
}

#[test]
fn many_messages_in_one_read_are_all_answered() {
    let shards = Shards::start(1);
    let mut client = shards.connect("u");
    let count = 3 * READ_BYTES / 10;
    client.send(&frame(Opcode::Text, b"ping").repeat(count));
    for _ in 0..count {
        assert_eq!(client.text(), "pong2");
    }
    shards.until(|stats| &stats.messages_in, count as u64);
}

#[test]
fn a_read_in_flight_gives_its_buffer_back() {
    let shards = Shards::start(1);
    let mut client = shards.connect("u");
    for round in 0..3 {
        // A few at once make it active.
        for _ in 0..20 {
            client.check();
        }
        assert!(shards.stats.shards()[0].bytes_in.read() > 0, "round {round}");
        shards.until(|stats| &stats.reads_held, 0);
    }
}

#[test]
fn closes_are_answered_and_ended() {
    let shards = Shards::start(1);
    for (payload, code) in [
        (&b""[..], None),
        (&[0x03, 0xe8][..], Some(1000)),
        (&[0x0f, 0xa0, b'b', b'y', b'e'][..], Some(4000)),
    ] {
        let mut client = shards.connect("u");
        client.send(&frame(Opcode::Close, payload));
        // What comes behind the close frame is not looked at.
        client.send(&frame(Opcode::Text, b"ping"));
        assert_eq!(client.next(), Got::Close(code));
        assert_eq!(client.next(), Got::End);
    }
    shards.until(|stats| &stats.connections, 0);
}

#[test]
fn who_breaks_the_protocol_is_told_how_and_nobody_else_notices() {
    let shards = Shards::start(1);
    let mut witness = shards.connect("witness");
    let unmasked = vec![0x81, 0x01, b'x'];
    let text = frame(Opcode::Text, &[0xff]);
    let mut huge = frame(Opcode::Binary, b"");
    huge[1] = 0x80 | 127;
    huge.splice(2..2, (2u64 << 20).to_be_bytes());
    let cases = [(unmasked, 1002), (text, 1007), (huge, 1009), (vec![0xff, 0x80], 1002)];
    for (mut bytes, code) in cases.clone() {
        let mut client = shards.connect("u");
        bytes.extend(vec![0; 100_000]);
        client.send(&bytes);
        assert_eq!(client.next(), Got::Close(Some(code)));
        assert_eq!(client.next(), Got::End);
    }
    witness.check();
    shards.until(|stats| &stats.protocol_closes, cases.len() as u64);
    shards.until(|stats| &stats.connections, 1);
}

#[test]
fn a_close_that_is_not_answered_ends_anyway() {
    let bounds = Bounds { close_ms: 50, ..Bounds::default() };
    let shards = Shards::start_with(1, bounds, 1_000);
    let mut client = shards.connect("u");
    client.send(&[0xff; 16]);
    shards.until(|stats| &stats.connections, 0);
    assert_eq!(client.next(), Got::Close(Some(1002)));
}

#[test]
fn data_waits_while_the_turn_is_full_and_pings_in_front_of_it_do_not() {
    let shards = Shards::start(1);
    let mut client = shards.connect("u");
    client.check();
    shards.connect("target").check();
    let mut flooder = shards.connect("flooder");
    flooder.check();
    shards.log.stall();
    // Two turns are handed over, and the third becomes full.
    let count = 3 * TURN_BYTES_MAX / CONTENT_BYTES_MAX;
    let mut writer = flooder.socket.try_clone().expect("a descriptor");
    let flood = std::thread::spawn(move || {
        let payload = "x".repeat(CONTENT_BYTES_MAX - 2);
        for id in 0..count {
            writer.write_all(&c2c(&format!("m{id}"), "target", &payload)).expect("read later");
        }
    });
    shards.until(|stats| &stats.waiting, 1);
    client.send(&frame(Opcode::Ping, b"before"));
    client.send(&frame(Opcode::Text, b"ping"));
    client.send(&frame(Opcode::Ping, b"behind"));
    assert_eq!(client.next(), Got::Pong(b"before".to_vec()));
    shards.until(|stats| &stats.waiting, 2);
    let taken = shards.stats.shards()[0].messages_in.read();
    assert!(taken < count as u64, "the sockets were read without end");
    shards.log.release();
    let mut last = [client.next(), client.next()];
    last.sort_by_key(|got| matches!(got, Got::Pong(_)));
    assert_eq!(last, [Got::Text("pong2".to_owned()), Got::Pong(b"behind".to_vec())]);
    for _ in 0..count {
        flooder.text();
    }
    flood.join().expect("all was written");
    shards.until(|stats| &stats.waiting, 0);
}

#[test]
fn what_cannot_be_held_is_refused() {
    let bounds = Bounds { unfinished_bytes: 100_000, ..Bounds::default() };
    let shards = Shards::start_with(1, bounds, 1_000);
    let mut client = shards.connect("u");
    let mut part = frame(Opcode::Text, &[b'x'; 60_000]);
    part[0] &= 0x7f;
    let mut other = shards.connect("v");
    other.send(&part);
    shards.until(|stats| &stats.bytes_in, part.len() as u64);
    client.send(&part);
    assert_eq!(client.next(), Got::Close(Some(1009)));
    // The other's message is still being held.
    let mut last = frame(Opcode::Continuation, b"y");
    last[0] |= 0x80;
    other.send(&last);
    assert!(other.text().contains("error"));
    drop((client, other));
    shards.until(|stats| &stats.connections, 0);
    assert_eq!(shards.stats.shards()[0].unfinished_bytes.read(), 0);
}

/// A client whose socket takes little, and that does not read.
fn slow(shards: &Shards, user: &str) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("small is allowed");
    socket.connect(&shards.addr.into()).expect("it listens");
    let mut client = Client::over(TcpStream::from(socket));
    client.send(&crate::testing::request(user));
    client.expect_switching();
    client
}

/// Asks for more answers than fit anywhere, until the server does not read any more.
fn flood(client: &mut Client) {
    let pings = frame(Opcode::Text, b"ping").repeat(1_000);
    client.socket.set_write_timeout(Some(Duration::from_millis(300))).expect("an open socket");
    while client.socket.write_all(&pings).is_ok() {}
}

#[test]
fn who_takes_no_byte_is_closed_in_the_end() {
    let bounds = Bounds { stall_ms: 500, ..Bounds::default() };
    let shards = Shards::start_with(1, bounds, 1_000);
    let mut witness = shards.connect("witness");
    let mut client = slow(&shards, "u");
    flood(&mut client);
    let queued = shards.stats.shards()[0].queued_bytes.read();
    assert!(queued < 2 * OUT_BYTES_MAX as u64, "{queued} bytes wait for one connection");
    shards.until(|stats| &stats.stalled_closes, 1);
    shards.until(|stats| &stats.connections, 1);
    shards.until(|stats| &stats.queued_bytes, 0);
    witness.check();
}

#[test]
fn who_takes_bytes_slowly_gets_all_of_them() {
    let shards = Shards::start(1);
    let mut client = slow(&shards, "u");
    let count = 200_000;
    let mut writer = client.socket.try_clone().expect("a descriptor");
    let pings = std::thread::spawn(move || {
        let pings = frame(Opcode::Text, b"ping").repeat(1_000);
        for _ in 0..count / 1_000 {
            writer.write_all(&pings).expect("the server goes on reading");
        }
    });
    for _ in 0..count {
        assert_eq!(client.text(), "pong2");
    }
    pings.join().expect("all were written");
}

#[test]
fn who_is_silent_is_asked_and_then_let_go() {
    let bounds = Bounds { idle_ms: 1_000, ..Bounds::default() };
    let shards = Shards::start_with(1, bounds, 1_000);
    let mut alive = shards.connect("alive");
    let mut dead = shards.connect("dead");
    assert_eq!(dead.next(), Got::Ping(Vec::new()));
    for _ in 0..4 {
        assert_eq!(alive.next(), Got::Ping(Vec::new()));
        alive.send(&frame(Opcode::Pong, b""));
    }
    assert_eq!(dead.next(), Got::End);
    shards.until(|stats| &stats.connections, 1);
    alive.check();
}
