//! Upgrade requests, good and bad, over real sockets.

use std::io::Write;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ringpost_core::ids::Dialect;
use ringpost_core::limits::USER_CONNECTIONS_MAX;
use ringpost_core::rate::RateLimits;
use ringpost_core::ws::frame::Opcode;

use crate::address::Rules;
use crate::bounds::Bounds;
use crate::config::Listener;
use crate::mesh::{EndStep, Parcel};
use crate::settings::Settings;
use crate::testing::{AnyToken, Client, Got, Shards, frame, request, request_as, until};

#[test]
fn refusals_are_read_to_their_end() {
    let shards = Shards::start(1);
    let cases: [(&[u8], &str, &str); 5] = [
        (b"GET /nowhere", "404", ""),
        // Without a dialect of its own, a listener refuses the root as well.
        (b"GET /", "404", ""),
        (b"POST /ws", "405", "Allow: GET\r\n"),
        (b"GET /ws?\x01", "400", ""),
        (b"GET /ws?token=u", "426", "Sec-WebSocket-Version: 13\r\n"),
    ];
    for (start, status, header) in cases {
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
        assert!(head.contains(header), "{status}: {head}");
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
    let head = third.head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
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
    let head = late.head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    shards.end(EndStep::Close(Duration::ZERO));
    assert_eq!(silent.rest(), "");
    assert_eq!(old.next(), Got::Close(Some(1012)));
    old.send(&frame(Opcode::Close, &1012u16.to_be_bytes()));
    assert_eq!(old.next(), Got::End);
    shards.until(|stats| &stats.connections, 0);
    TcpStream::connect(shards.addr).expect_err("nobody listens any more");
}

/// Shards behind proxies in this network.
fn behind(proxies: &str, bounds: Bounds, rules: Rules) -> Shards {
    let listener = Listener {
        proxy_from: vec![proxies.parse().expect("a network")],
        ..Listener::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    Shards::start_at(2, bounds, 1_000, listener, rules)
}

/// A proxy's header for a client at this address.
fn header_for(client: &str) -> Vec<u8> {
    let (family, addresses) = match client.parse().expect("an address") {
        IpAddr::V4(v4) => (0x11, [&v4.octets()[..], &[10, 0, 0, 1]].concat()),
        IpAddr::V6(v6) => (0x21, [&v6.octets()[..], &[0; 16]].concat()),
    };
    // An extension behind the ports: padding.
    let body = [&addresses[..], &[0, 1, 0, 2], &[4, 0, 3, 0, 0, 0]].concat();
    let len = u16::try_from(body.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21", &[family][..], &len, &body].concat()
}

/// The header of a proxy's own connections.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// The head of the answer to `user`'s request behind this header.
fn answer(shards: &Shards, header: &[u8], user: &str) -> String {
    let mut client = Client::silent(shards.addr);
    client.send(&[header, &request(user)].concat());
    client.head()
}

const SLOW: Rules = Rules { upgrades_per_s: 1, upgrade_burst: 2, handshakes_max: 0 };

#[test]
fn behind_a_proxy_the_limits_are_those_of_the_clients_address() {
    let shards = behind("127.0.0.0/8", Bounds::default(), SLOW);
    for client in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
        let header = header_for(client);
        for user in ["a", "b"] {
            assert!(answer(&shards, &header, user).starts_with("HTTP/1.1 101 "), "{client}");
        }
        let head = answer(&shards, &header, "c");
        assert!(head.starts_with("HTTP/1.1 429 "), "{client}: {head}");
        assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    }
    shards.until(|stats| &stats.limited, 3);
    // The proxy's own connections, and clients on its machine, are free.
    for _ in 0..4 {
        assert!(answer(&shards, LOCAL, "d").starts_with("HTTP/1.1 101 "));
        assert!(answer(&shards, &header_for("127.0.0.1"), "e").starts_with("HTTP/1.1 101 "));
    }
    // Other rules are for whoever comes from now on.
    shards.mesh.send_all(|| {
        let address = Rules { upgrade_burst: 9, ..SLOW };
        let rates = RateLimits::default();
        Parcel::Settings(Arc::new(Settings { tokens: Box::new(AnyToken), address, rates }))
    });
    let header = header_for("192.0.2.1");
    until(
        || answer(&shards, &header, "f").starts_with("HTTP/1.1 101 "),
        || "the new rules do not come".to_owned(),
    );
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let shards = behind("127.0.0.1", Bounds::default(), SLOW);
    let mut client = Client::silent(shards.addr);
    let bytes = [header_for("192.0.2.1"), request("u"), frame(Opcode::Text, b"ping")].concat();
    for byte in &bytes {
        client.send(std::slice::from_ref(byte));
    }
    client.expect_switching();
    assert_eq!(client.text(), "pong2");
}

#[test]
fn where_a_header_must_come_nothing_else_may() {
    let shards = behind("127.0.0.0/8", Bounds::default(), Rules::default());
    let header = header_for("192.0.2.1");
    let mut datagram = header.clone();
    datagram[13] = 0x12;
    let late = [&request("u")[..20], &header[..], &request("u")[20..]].concat();
    for bytes in [
        request("u"),
        late,
        [&header[..], &header[..], &request("u")].concat(),
        [&datagram[..], &request("u")].concat(),
        [b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n", &request("u")[..]].concat(),
    ] {
        let mut client = Client::silent(shards.addr);
        client.send(&bytes);
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    }
    let bounds = Bounds { handshake_ms: 50, ..Bounds::default() };
    let shards = behind("127.0.0.0/8", bounds, Rules::default());
    // One that does not end is not waited for any longer than a request; nor is one that is whole,
    // when the request does not come.
    for part in [&header[..5], &header[..20], &header] {
        let mut client = Client::silent(shards.addr);
        client.send(part);
        assert_eq!(client.rest(), "");
    }
    shards.until(|stats| &stats.handshakes, 0);
}

#[test]
fn a_header_from_somebody_else_is_a_bad_request() {
    let shards = behind("10.0.0.0/8", Bounds::default(), SLOW);
    let head = answer(&shards, &header_for("192.0.2.1"), "u");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    assert!(answer(&shards, LOCAL, "u").starts_with("HTTP/1.1 400 "));
    assert!(answer(&shards, b"", "u").starts_with("HTTP/1.1 101 "), "without one it is a client");
}

#[test]
fn an_address_has_so_many_requests_that_are_not_whole() {
    let rules = Rules { handshakes_max: 2, ..Rules::default() };
    let shards = behind("127.0.0.0/8", Bounds::default(), rules);
    let header = header_for("192.0.2.1");
    let slow = || {
        let mut client = Client::silent(shards.addr);
        client.send(&[&header[..], &request("v")[..20]].concat());
        client
    };
    let open = |wanted: u64| {
        let client = "192.0.2.1".parse().expect("an address");
        let count = || shards.common.addresses.open(client);
        until(|| count() == wanted, || format!("{} are open, not {wanted}", count()));
    };
    let (one, mut two) = (slow(), slow());
    // Both are counted before the third comes: their shards have read their headers.
    open(2);
    let head = answer(&shards, &header, "u");
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("Retry-After: 1"), "{head}");
    assert!(answer(&shards, &header_for("192.0.2.2"), "u").starts_with("HTTP/1.1 101 "));
    // One that gives up, and one that is whole, make room.
    drop(one);
    open(1);
    assert!(answer(&shards, &header, "u").starts_with("HTTP/1.1 101 "));
    two.send(&request("v")[20..]);
    assert!(two.head().starts_with("HTTP/1.1 101 "), "it was not disturbed");
    open(0);
}

#[test]
fn a_listener_may_have_a_dialect_for_every_other_path() {
    let listener = Listener {
        default_dialect: Some(Dialect::Imboy),
        ..Listener::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    };
    let shards = Shards::start_at(1, Bounds::default(), 1_000, listener, Rules::default());
    for path in ["/", "/anything/else", "/ws"] {
        let bytes = String::from_utf8(request("u")).expect("text");
        let mut client = Client::silent(shards.addr);
        client.send(bytes.replacen("/ws?", &format!("{path}?"), 1).as_bytes());
        client.expect_switching();
        client.check();
    }
}

#[test]
fn one_connection_more_than_a_user_may_have_is_refused() {
    let shards = Shards::start(2);
    let mut clients: Vec<Client> = (0..USER_CONNECTIONS_MAX)
        .map(|n| {
            let mut client = Client::silent(shards.addr);
            client.send(&request_as("u", &format!("d{n}")));
            client.expect_switching();
            client
        })
        .collect();
    let mut late = Client::silent(shards.addr);
    late.send(&request_as("u", "late"));
    let head = late.head();
    assert!(head.starts_with("HTTP/1.1 429 ") && head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    clients.iter_mut().for_each(Client::check);
}
