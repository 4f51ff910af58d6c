//! Behind a proxy, end to end: the client's address from the PROXY protocol's header.

mod common;

use std::io::Write;

use common::Server;
use common::wire::{connect, proxy_header, read_head, upgrade_request};

/// The head of the answer to an upgrade request at `path` behind this header.
fn upgrade(server: &Server, header: &[u8], path: &str) -> String {
    let token = server.token("u");
    let mut stream = connect(server.addr());
    let request = upgrade_request(&format!("{path}?did=d&token={token}"), "");
    stream.write_all(&[header, request.as_bytes()].concat()).expect("sent");
    read_head(&mut stream).expect("an answer")
}

#[test]
fn the_clients_address_counts_and_is_logged() {
    let server = Server::start_configured(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.0/8\"]\n\
         default_dialect = \"imboy\"\n\
         [address]\nupgrades_per_s = 1\nupgrade_burst = 2\n\
         [log]\nlevel = \"debug\"\n[metrics]\npublic = true\n",
    );
    let header = proxy_header([192, 0, 2, 7]);
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
    assert!(upgrade(&server, &proxy_header([192, 0, 2, 8]), "/").starts_with("HTTP/1.1 101 "));
    assert!(upgrade(&server, b"", "/").starts_with("HTTP/1.1 400 "));
    let metrics = common::http::Http::new(server.api_addr()).get("/metrics").body;
    let limited: u64 = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("ringpost_limited_total{")?.split_once("} "))
        .map(|(_, count)| count.parse::<u64>().expect("a number"))
        .sum();
    assert_eq!(limited, 1, "{metrics}");
}
