//! Behind a proxy, end to end: the client's address from the PROXY protocol's header.

mod common;

use std::io::{Read, Write};

use common::Server;
use common::client::raw;

/// A proxy's header for this client.
fn header_for(client: [u8; 4]) -> Vec<u8> {
    let body = [&client[..], &[10, 0, 0, 1, 0, 1, 0, 2]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &body].concat()
}

/// The head of the answer to an upgrade request at `path` behind this header.
fn upgrade(server: &Server, header: &[u8], path: &str) -> String {
    let token = server.token("u");
    let request = format!(
        "GET {path}?did=d&token={token} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let mut stream = raw(server);
    stream.write_all(&[header, request.as_bytes()].concat()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    String::from_utf8(answer).expect("ASCII")
}

#[test]
fn the_clients_address_counts_and_is_logged() {
    let server = Server::start_configured(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.0/8\"]\n\
         default_dialect = \"imboy\"\n\
         [address]\nupgrades_per_s = 1\nupgrade_burst = 2\n\
         [log]\nlevel = \"debug\"\n[metrics]\npublic = true\n",
    );
    let header = header_for([192, 0, 2, 7]);
    // The root, and the path of the table.
    for path in ["/", "/imboy/ws"] {
        assert!(upgrade(&server, &header, path).starts_with("HTTP/1.1 101 "), "{path}");
    }
    server.until_logged("a connection opens", 2);
    let log = server.log();
    let line = log.lines().find(|line| line.contains("a connection opens")).expect("just seen");
    assert!(line.contains("address=192.0.2.7") && line.contains("user=\"u\""), "{line}");
    let refused = upgrade(&server, &header, "/");
    assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    assert!(refused.contains("\r\nRetry-After: 1\r\n"), "{refused}");
    server.until_logged("an upgrade request is refused", 1);
    assert!(upgrade(&server, &header_for([192, 0, 2, 8]), "/").starts_with("HTTP/1.1 101 "));
    assert!(upgrade(&server, b"", "/").starts_with("HTTP/1.1 400 "));
    let metrics = common::http::Http::new(server.api_addr()).get("/metrics").body;
    let limited: u64 = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("ringpost_limited_total{")?.split_once("} "))
        .map(|(_, count)| count.parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(limited, 1, "{metrics}");
}
