//! A member of a group who does not read: the others are served, the server's memory stays bounded,
//! and he gets all of it later, in order.

mod common;

use std::thread;

use common::Server;
use common::client::Client;
use serde_json::{Value, json};

/// Members; the first sends, the last does not read.
const MEMBERS: usize = 200;
/// Of those, connected ones who read.
const READERS: usize = 8;
/// What is said meanwhile: 6 MB, many times a window.
const MESSAGES: usize = 1_500;
const PAYLOAD: usize = 4_096;
/// Messages of this size in a window of 256 KiB.
const WINDOW: u64 = 64;
/// What may wait to be written: his window once, however often it would be sent again, and a message
/// over it.
const QUEUED_MAX: u64 = (256 << 10) + 2 * PAYLOAD as u64;

fn metric(server: &Server, name: &str) -> u64 {
    let text = server.http().get("/metrics").body;
    let of = |line: &str| line.strip_prefix(name)?.rsplit(' ').next()?.parse::<u64>().ok();
    text.lines().filter_map(of).sum()
}

fn said(n: usize) -> Value {
    json!({"n": n, "text": "x".repeat(PAYLOAD)})
}

/// Takes `count` messages in order and acknowledges them; what comes again (a slow machine is late
/// with its acknowledgements) is passed over. Afterwards the server has taken all of these.
fn read(client: &mut Client, count: usize) {
    let mut next = 0;
    while next < count {
        let frame = client.next();
        let (kind, id) = (&frame["type"], frame["id"].as_str().expect("an id"));
        let kind = kind.as_str().expect("a type");
        client.send_text(&format!("CLIENT_ACK,{kind},{id},{}", client.did)).expect("connected");
        let n = frame["payload"]["n"].as_u64().expect("a number") as usize;
        assert!(n <= next, "{n} came and not {next}");
        next += usize::from(n == next);
    }
    client.send_text("ping").expect("connected");
    while client.next_text().expect("an answer") != "pong2" {}
}

#[test]
fn who_does_not_read_costs_his_window_and_gets_all_of_it_later() {
    let server = Server::start_with(&["--shards", "2"]);
    let names: Vec<String> = (0..MEMBERS).map(|n| format!("u{n:03}")).collect();
    for name in &names {
        assert_eq!(server.http().put(&format!("/v1/users/{name}"), &json!({})).status, 201);
    }
    let group = json!({"id": "big", "owner": names[0], "members": names[1..]});
    assert_eq!(server.http().post("/v1/groups", &group).status, 201);
    let mut stalled = Client::connect(&server, &names[MEMBERS - 1], "stalled");
    let readers: Vec<Client> =
        names[1..=READERS].iter().map(|name| Client::connect(&server, name, "d")).collect();
    let mut sender = Client::connect(&server, &names[0], "d");
    let readers: Vec<_> = readers
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                read(&mut client, MESSAGES);
                client
            })
        })
        .collect();
    for n in 0..MESSAGES {
        let id = format!("message-{n}");
        let frame = json!({"id": id, "type": "C2G", "to": "big", "payload": said(n)});
        sender.send_text(&frame.to_string()).expect("connected");
        assert_eq!(sender.next()["id"], id);
    }
    // The others have it all while he has read nothing.
    let readers: Vec<Client> =
        readers.into_iter().map(|reader| reader.join().expect("it got everything")).collect();
    let pending = metric(&server, "ringpost_pending{");
    assert!((1..=WINDOW).contains(&pending), "{pending} are his");
    let queued = metric(&server, "ringpost_queued_bytes{");
    assert!(queued <= QUEUED_MAX, "{queued} bytes wait to be written");
    read(&mut stalled, MESSAGES);
    stalled.nothing_more();
    for mut reader in readers {
        reader.nothing_more();
    }
}
