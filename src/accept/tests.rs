//! Upgrade requests, good and bad, over real sockets.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use ringpost_core::ws::frame::Opcode;

use crate::bounds::Bounds;
use crate::mesh::EndStep;
use crate::testing::{Client, Got, Shards, frame, request, request_as, until};

#[test]
fn refusals_are_read_to_their_end() {
    let shards = Shards::start(1);
    let cases: [(&[u8], &str); 4] = [
        (b"GET /nowhere", "404"),
        (b"POST /ws", "405"),
        (b"GET /ws?\x01", "400"),
        (b"GET /ws?token=u", "426"),
    ];
    for (start, status) in cases {
        let mut bytes = request("u");
        let line_end = bytes.windows(9).position(|part| part == b" HTTP/1.1").expect("a request");
        bytes.splice(..line_end, start.iter().copied());
        if status == "426" {
            let at = bytes.windows(2).position(|part| part == b"13").expect("a version");
            bytes[at] = b'2';
        }
        // What follows the request is still unread when the answer leaves: it must not be lost
        // by a reset.
        bytes.extend(vec![b'x'; 100_000]);
        let mut client = Client::silent(shards.addr);
        client.send(&bytes);
        client.socket.shutdown(Shutdown::Write).expect("open");
        let head = client.head();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {head}");
        assert!(!client.rest().is_empty(), "it says why");
    }
    shards.until(|stats| &stats.refused, cases.len() as u64);
    shards.until(|stats| &stats.handshakes, 0);
}

#[test]
fn a_request_may_come_byte_by_byte_and_frames_right_behind_it() {
    let shards = Shards::start(2);
    for shard in 0..2 {
        let mut client = Client::silent(shards.addr);
        let mut bytes = request(&shards.user_of(shard));
        bytes.extend(frame(Opcode::Text, b"ping"));
        for byte in &bytes {
            client.send(std::slice::from_ref(byte));
        }
        client.expect_switching();
        assert_eq!(client.text(), "pong2");
    }
}

#[test]
fn a_head_without_end_is_refused() {
    let shards = Shards::start(1);
    let mut client = Client::silent(shards.addr);
    client.send(b"GET /ws HTTP/1.1\r\nX-Header: ");
    // The server may have answered and closed before all of it is written.
    let _refused_meanwhile = client.socket.write_all(&[b'x'; 100_000]);
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
}

#[test]
fn who_says_nothing_is_let_go() {
    let bounds = Bounds { handshake_ms: 50, ..Bounds::default() };
    let shards = Shards::start_with(1, bounds, 1_000);
    let mut silent = Client::silent(shards.addr);
    let mut slow = Client::silent(shards.addr);
    slow.send(b"GET /ws HTTP/1.1\r\n");
    assert_eq!(silent.rest(), "");
    assert_eq!(slow.rest(), "");
    shards.until(|stats| &stats.handshakes, 0);
}

#[test]
fn connections_move_to_their_users_home() {
    let shards = Shards::start(3);
    let mut clients = Vec::new();
    for shard in 0..3 {
        let user = shards.user_of(shard);
        for device in 0..8 {
            // Each is accepted by a shard of the kernel's choice.
            let mut client = Client::silent(shards.addr);
            client.send(&request_as(&user, &format!("d{device}")));
            client.expect_switching();
            clients.push(client);
        }
    }
    clients.iter_mut().for_each(Client::check);
    for shard in shards.stats.shards() {
        assert_eq!(shard.connections.read(), 8);
    }
    drop(clients);
    shards.until(|stats| &stats.connections, 0);
}

#[test]
fn with_no_descriptors_left_requests_are_refused_and_then_dropped() {
    let shards = Shards::start_with(1, Bounds::default(), 2);
    let mut one = shards.connect("one");
    let _two = shards.connect("two");
    let mut third = Client::silent(shards.addr);
    third.send(&request("three"));
    assert!(third.head().starts_with("HTTP/1.1 503 "));
    drop(third);
    shards.until(|stats| &stats.handshakes, 0);
    one.check();
}

#[test]
fn a_drain_refuses_who_is_half_way_in() {
    let shards = Shards::start(1);
    let mut old = shards.connect("old");
    let mut late = Client::silent(shards.addr);
    let mut silent = Client::silent(shards.addr);
    shards.until(|stats| &stats.accepted, 3);
    shards.end(EndStep::Drain);
    until(|| shards.mesh.census().busy == 0, || "the drain does not begin".to_owned());
    late.send(&request("late"));
    assert!(late.head().starts_with("HTTP/1.1 503 "));
    shards.end(EndStep::Close(Duration::ZERO));
    assert_eq!(silent.rest(), "");
    assert_eq!(old.next(), Got::Close(Some(1012)));
    old.send(&frame(Opcode::Close, &1012u16.to_be_bytes()));
    assert_eq!(old.next(), Got::End);
    shards.until(|stats| &stats.connections, 0);
    TcpStream::connect(shards.addr).expect_err("nobody listens any more");
}
