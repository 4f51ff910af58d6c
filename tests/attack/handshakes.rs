//! Before a token is seen: upgrade requests that never end, sockets that say nothing, reconnects
//! without end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::common::wire::{self, proxy_header, read_head, upgrade_request};
use super::common::{DEADLINE, Server, Under};
use super::witness::{SLACK, Witness, size};

/// An upgrade request must be whole in this time, and this large (protocols/README.md, *Limits*).
const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKE_BYTES: usize = 16 << 10;
/// What a socket may cost before its request is whole, beside the request: its task and its places
/// in tables.
const VISITOR_BYTES: u64 = 4 << 10;
/// Descriptors that connections never get (README, `ringpost doctor`).
const RESERVED: u64 = 512;
/// Of these, for refusals in proper HTTP.
const FOR_REFUSALS: u64 = 128;

/// Whether the server has ended the stream, by an end or a reset.
fn is_over(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
    let mut bytes = [0; 512];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn upgrade_requests_that_never_end() {
    let server = Server::start_with(&["--shards", "2"]);
    let count = size(200, 8_000);
    let bound = count as u64 * (HANDSHAKE_BYTES as u64 + VISITOR_BYTES) + SLACK;
    let witness = Witness::new(&server, "slow upgrade requests", bound);
    witness.during(|| {
        let began = Instant::now();
        let mut slow: Vec<TcpStream> = (0..count)
            .map(|_| {
                let mut stream = wire::connect(server.addr());
                stream.write_all(b"GET /imboy/ws HTTP/1.1\r\nX-Slow: ").expect("connected");
                stream
            })
            .collect();
        let all = began.elapsed();
        // A byte at a time, as slow as it takes to keep them going until they are sent away.
        let mut rounds = 0;
        while began.elapsed() < HANDSHAKE - Duration::from_secs(1) {
            for stream in &mut slow {
                // Those that came first may be gone where it took long to connect them all.
                let _gone_already = stream.write_all(b"x");
            }
            rounds += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(rounds > 3, "{rounds} bytes each");
        let open = server.metric("ringpost_handshakes");
        if all < Duration::from_secs(1) {
            assert_eq!(open, count as u64, "none is sent away before its time");
        }
        for stream in &mut slow {
            assert!(is_over(stream), "it is sent away");
        }
        let took = began.elapsed() - all;
        assert!(took < HANDSHAKE + Duration::from_secs(5), "{took:?}");
    });
    assert_eq!(server.metric("ringpost_handshakes"), 0);
}

#[test]
fn upgrade_requests_that_are_too_large() {
    let server = Server::start_with(&["--shards", "2"]);
    let count = size(100, 4_000);
    let bound = count as u64 * (HANDSHAKE_BYTES as u64 + VISITOR_BYTES) + SLACK;
    let witness = Witness::new(&server, "large upgrade requests", bound);
    witness.during(|| {
        let mut large = Vec::new();
        for _ in 0..count {
            let mut stream = wire::connect(server.addr());
            let head = b"GET /imboy/ws HTTP/1.1\r\nX-Large: ";
            stream.write_all(head).expect("connected");
            stream.write_all(&vec![b'x'; HANDSHAKE_BYTES - head.len()]).expect("taken");
            large.push(stream);
        }
        // All of them are held when the first byte too much comes.
        for stream in &mut large {
            stream.write_all(b"xx").expect("connected");
        }
        for stream in &mut large {
            let head = read_head(stream).expect("an answer");
            assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        }
    });
}

/// Half-open connections up to the limit of files and beyond: those with a session are served,
/// tables are written, the API answers; who comes is told to come again.
#[test]
fn sockets_that_say_nothing_at_the_file_limit() {
    let files = size(1_100, 6_000);
    let under = Under { files: Some(files), ..Under::default() };
    // The write-ahead log is as short as it can be, so that table files are opened meanwhile.
    let server = Server::start_under(under, &["--shards", "2", "--reserve-bytes", "1"]);
    let most = files - RESERVED;
    let bound = (most + FOR_REFUSALS) * VISITOR_BYTES + SLACK + (16 << 20);
    let witness = Witness::new(&server, "half-open connections at the file limit", bound);
    // Not whole yet, not refused.
    let (mut visible, began) = (Vec::new(), Instant::now());
    witness.during(|| {
        while server.metric("ringpost_handshakes") + 2 < most {
            visible.push(wire::connect(server.addr()));
            assert!(began.elapsed() < HANDSHAKE, "it takes too long to fill a server up");
            if visible.len() as u64 + 2 < most {
                continue;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let token = server.token("late");
        let target = format!("/imboy/ws?did=d&token={token}");
        let answer = wire::upgrade(&mut wire::connect(server.addr()), &target, "");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
        // Beyond what is kept for refusals a socket is closed without a word.
        let refused: Vec<TcpStream> =
            (0..2 * FOR_REFUSALS).map(|_| wire::connect(server.addr())).collect();
        while server.metric("ringpost_accept_errors_total") == 0 {
            assert!(began.elapsed() < HANDSHAKE, "nobody is dropped");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(server.http().get("/readyz").status, 200);
        store_tables(&server);
        drop(refused);
        visible.clear();
        // There is room again.
        loop {
            let answer = wire::upgrade(&mut wire::connect(server.addr()), &target, "");
            if answer.starts_with("HTTP/1.1 101 ") {
                break;
            }
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(began.elapsed() < DEADLINE, "there is no room again");
        }
    });
}

/// Stores 12 MB of messages over the API, three times what makes RocksDB write tables.
fn store_tables(server: &Server) {
    let api = server.http();
    assert_eq!(api.put("/v1/users/writer", &serde_json::json!({})).status, 201);
    let text = "x".repeat(60_000);
    for n in 0..200 {
        let body = serde_json::json!({"from": "writer", "to": {"user": "writer"},
            "content": {"kind": "text", "text": format!("{n} {text}")}});
        let stored = api.post("/v1/messages", &body);
        assert_eq!(stored.status, 201, "{stored:?}");
    }
    assert!(server.metric("ringpost_store_table_bytes") > 0, "tables were written");
}

#[test]
fn reconnects_from_one_address_without_end() {
    const RATE: u64 = 20;
    let server = Server::start_configured(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.0/8\"]\n\
         [address]\nupgrades_per_s = 20\nupgrade_burst = 20\nhandshakes_max = 50\n",
    );
    let witness = Witness::new(&server, "reconnects from one address", SLACK);
    let proxied = |client: [u8; 4]| {
        let mut stream = wire::connect(server.listen(1));
        stream.write_all(&proxy_header(client)).expect("connected");
        stream
    };
    let target = format!("/imboy/ws?did=d&token={}", server.token("mallory"));
    let request = upgrade_request(&target, "");
    witness.during(|| {
        let began = Instant::now();
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..size(500, 30_000) {
            let mut stream = proxied([192, 0, 2, 1]);
            stream.write_all(request.as_bytes()).expect("connected");
            let answer = read_head(&mut stream).expect("an answer");
            if answer.starts_with("HTTP/1.1 101 ") {
                accepted += 1;
            } else {
                assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
                assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
                refused += 1;
            }
        }
        let most = RATE * (began.elapsed().as_secs() + 2);
        assert!((RATE..=most).contains(&accepted), "{accepted} were accepted, {refused} not");
        // Another address is not refused for it.
        let mut other = proxied([192, 0, 2, 2]);
        other.write_all(request.as_bytes()).expect("connected");
        let answer = read_head(&mut other).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // Nor does it get more by not finishing what it begins.
        let mut half_open: Vec<TcpStream> = (0..50)
            .map(|_| {
                let mut stream = proxied([192, 0, 2, 3]);
                stream.write_all(b"GET ").expect("connected");
                stream
            })
            .collect();
        // The bucket lets 20 of them in at once; the others are told so.
        let mut answer = String::new();
        while !answer.starts_with("HTTP/1.1 429 ") {
            let mut stream = proxied([192, 0, 2, 3]);
            stream.write_all(b"GET ").expect("connected");
            answer = read_head(&mut stream).expect("an answer");
        }
        half_open.clear();
    });
    assert!(server.metric("ringpost_limited_total") > 0);
}
