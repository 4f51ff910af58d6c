//! A group whose members do not read.

use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use super::common::client::Client;
use super::common::wire::{self, FIN, TEXT, frame, read_frame};
use super::common::{DEADLINE, Server};
use super::many::post_all;
use super::witness::{SLACK, Witness, size};

/// What may wait for one member who does not read: a window (protocols/README.md, *Delivery*) of
/// frames, the last of a page over it, and what an allocation is larger than what is in it.
const WAITING_BYTES: u64 = (256 << 10) * 3 / 2;
/// What a group of 10,000 of them may cost: 1.5 GiB, everything else of the server included.
const GROUP_BYTES: u64 = 3 << 29;

/// Members who read nothing, with as little room in the kernel as there can be, while the group
/// talks: the server's memory stays bounded, the others are served, and who reads in the end gets
/// all of it in order.
#[test]
fn a_group_of_members_who_do_not_read() {
    const PAYLOAD: usize = 4_096;
    // Several windows.
    let (count, messages) = (size(300, 10_000), size(500, 300));
    let bound = (count as u64 * WAITING_BYTES + SLACK).min(GROUP_BYTES);
    let server = Server::start_with(&["--shards", "2"]);
    let name = |n: usize| format!("slow-{n:05}");
    post_all(&server, count, |n| (format!("PUT /v1/users/{}", name(n)), json!({})));
    let api = server.http();
    assert_eq!(api.put("/v1/users/owner", &json!({})).status, 201);
    let group = json!({"id": "big", "owner": "owner", "members": []});
    assert_eq!(api.post("/v1/groups", &group).status, 201);
    let names: Vec<String> = (0..count).map(name).collect();
    for part in names.chunks(500) {
        let added = api.post("/v1/groups/big/members", &json!({"users": part}));
        assert_eq!(added.status / 100, 2, "{added:?}");
    }
    let witness = Witness::new(&server, "a group of members who do not read", bound);
    let mut slow: Vec<TcpStream> = Vec::new();
    witness.during(|| {
        for name in &names {
            slow.push(slow_reader(&server, name));
        }
        let mut sender = Client::connect(&server, "owner", "o");
        let text = "x".repeat(PAYLOAD);
        for n in 0..messages {
            let id = format!("message-{n}");
            let frame = json!({"id": id, "type": "C2G", "to": "big",
                "payload": {"n": n, "text": text}});
            sender.send_text(&frame.to_string()).expect("connected");
            // His own device is told of members who joined, too.
            let receipt = loop {
                let frame = sender.next();
                if frame["type"] != "S2C" {
                    break frame;
                }
                sender.ack_s2c(frame["id"].as_str().expect("an id"));
            };
            assert_eq!((&receipt["type"], &receipt["id"]), (&json!("C2G_SERVER_ACK"), &json!(id)));
        }
        // Through the retries of a group's messages: the last comes 15 s after the first sending.
        thread::sleep(size(Duration::from_secs(8), Duration::from_secs(20)));
    });
    // Some of them read in the end.
    slow.truncate(size(10, 50));
    for stream in &mut slow {
        let mut next = 0;
        while next < messages {
            let got = read_frame(stream).expect("a frame");
            if got.first != FIN | TEXT {
                continue;
            }
            let message: Value = serde_json::from_slice(&got.payload).expect("JSON");
            let (kind, id) = (&message["type"], &message["id"]);
            let ack = format!("CLIENT_ACK,{},{},d", kind.as_str().unwrap(), id.as_str().unwrap());
            stream.write_all(&frame(FIN | TEXT, ack.as_bytes())).expect("connected");
            if kind == "C2G" {
                let n = message["payload"]["n"].as_u64().expect("a number") as usize;
                assert!(n <= next, "{n} came and not {next}");
                next += usize::from(n == next);
            }
        }
    }
}

/// A session whose socket takes as little as the kernel allows.
fn slow_reader(server: &Server, name: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    socket.set_recv_buffer_size(4 << 10).expect("before it is connected");
    socket.connect(&server.addr().into()).expect("the server listens");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
    let target = format!("/imboy/ws?did=d&token={}", server.token(name));
    let head = wire::upgrade(&mut stream, &target, "");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream
}
