//! A user with very many conversations who connects.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};

use super::common::client::Client;
use super::common::wire;
use super::common::{DEADLINE, Server};
use super::witness::{SLACK, Witness, size};

/// Requests on their way on one connection to the API.
const PIPELINED: usize = 100;
/// Connections to the API.
const POSTERS: usize = 8;

/// Makes `count` requests (method, path, body) over a few connections to the API; each is answered
/// by 201.
pub fn post_all(server: &Server, count: usize, request: impl Fn(usize) -> (String, Value) + Sync) {
    let next = AtomicUsize::new(0);
    let (address, key) = (server.api_addr(), server.api_key());
    let poster = || {
        let mut stream = TcpStream::connect(address).expect("the API listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
        loop {
            let from = next.fetch_add(PIPELINED, Ordering::Relaxed);
            let numbers = from..(from + PIPELINED).min(count);
            if numbers.is_empty() {
                return;
            }
            let mut bytes = Vec::new();
            for n in numbers.clone() {
                let (line, body) = request(n);
                let body = body.to_string();
                let head = format!(
                    "{line} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(body.as_bytes());
            }
            stream.write_all(&bytes).expect("the API reads");
            for n in numbers {
                let head = wire::read_head(&mut stream).expect("an answer");
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
                });
                let mut body = vec![0; length.expect("a length")];
                stream.read_exact(&mut body).expect("a body");
                let body = String::from_utf8_lossy(&body);
                assert!(head.starts_with("HTTP/1.1 201 "), "{n}: {head}{body}");
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..POSTERS {
            scope.spawn(poster);
        }
    });
}

#[test]
fn a_user_with_very_many_conversations_connects() {
    // What the conversations of a connecting user may take in memory, each.
    const CONVERSATION_BYTES: u64 = 3 << 10;
    let server = Server::start_with(&["--shards", "2", "--imboy-catchup-gap-ms", "0"]);
    let count = size(1_000, 100_000);
    Client::connect(&server, "popular", "p").close();
    let user = |n: usize| (format!("PUT /v1/users/u{n}"), json!({}));
    post_all(&server, count, user);
    post_all(&server, count, |n| {
        let body = json!({"from": format!("u{n}"), "to": {"user": "popular"},
            "content": {"kind": "text", "text": n.to_string()}});
        ("POST /v1/messages".to_owned(), body)
    });
    let bound = count as u64 * CONVERSATION_BYTES + SLACK;
    let witness = Witness::new(&server, "100,000 conversations catch up", bound);
    witness.during(|| {
        // Again and again without reading: each time all of it begins anew.
        for _ in 0..size(3, 20) {
            let mut popular = Client::connect(&server, "popular", "p");
            popular.send_text("ping").expect("connected");
            while popular.next_text().expect("an answer") != "pong2" {}
        }
        let mut popular = Client::connect(&server, "popular", "p");
        let mut waiting: BTreeSet<String> = (0..count).map(|n| format!("u{n}")).collect();
        while !waiting.is_empty() {
            let message = popular.next();
            let id = message["id"].as_str().expect("an id").to_owned();
            if message["type"] == "S2C" {
                popular.ack_s2c(&id);
                continue;
            }
            let from = message["from"].as_str().expect("a user");
            assert_eq!(message["payload"]["text"], from[1..], "{message}");
            // A slow machine is late with its acknowledgements, and a message comes again.
            waiting.remove(from);
            popular.ack(&id);
        }
        popular.send_text("ping").expect("connected");
        while popular.next_text().expect("an answer") != "pong2" {}
    });
    let mut popular = Client::connect(&server, "popular", "p");
    popular.nothing_more();
}
