//! Requests, most of them one change away from RFC 6455 section 1.2's, against their verdicts.

use super::*;
use crate::ws::testing::Prng;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Section 1.2's request, with the extra lines that its section 1.3 adds.
const SAMPLE: &str = "GET /chat HTTP/1.1\r\n\
    Host: server.example.com\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Origin: http://example.com\r\n\
    Sec-WebSocket-Protocol: chat, superchat\r\n\
    Sec-WebSocket-Version: 13\r\n\
    \r\n";

fn sample(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "{from}");
    SAMPLE.replacen(from, to, 1)
}

/// The verdict on a whole head, which must be the same when it comes byte by byte.
fn verdict(head: &str) -> Result<(), HttpRefusal> {
    let whole = parse(head.as_bytes()).map(|parsed| {
        assert_eq!(parsed.map(|(_, len)| len), Some(head.len()), "{head}");
    });
    for end in 0..head.len() {
        match parse(&head.as_bytes()[..end]) {
            Ok(None) => {}
            Err(early) => assert_eq!(Err(early), whole, "at {end} of {head}"),
            Ok(Some(_)) => panic!("whole at {end} of {head}"),
        }
    }
    whole
}

fn accepted(head: &str) -> Request<'_> {
    assert_eq!(verdict(head), Ok(()), "{head}");
    parse(head.as_bytes()).unwrap().unwrap().0
}

#[track_caller]
fn refused(head: &str, refusal: HttpRefusal) {
    assert_eq!(verdict(head), Err(refusal), "{head}");
}

#[track_caller]
fn bad(from: &str, to: &str) {
    refused(&sample(from, to), HttpRefusal::BadRequest);
}

fn with_target(target: &str) -> String {
    sample("/chat", target)
}

#[test]
fn section_1_3_example_byte_for_byte() {
    let request = accepted(SAMPLE);
    assert_eq!((request.path, request.query, request.key), ("/chat", "", KEY));
    assert_eq!(request.header("origin"), Some("http://example.com"));
    assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["chat", "superchat"]);
    let mut out = Vec::new();
    switching_protocols(request.key, Some("chat"), None, &mut out);
    let expected = "HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Protocol: chat\r\n\
        \r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn what_follows_the_head_is_not_counted() {
    let stream = format!("{SAMPLE}\u{1}\u{2}not a head");
    let (_, len) = parse(stream.as_bytes()).unwrap().unwrap();
    assert_eq!(len, SAMPLE.len());
    let long = [SAMPLE.as_bytes(), &[0; 2 * HANDSHAKE_BYTES_MAX]].concat();
    assert_eq!(parse(&long).unwrap().unwrap().1, SAMPLE.len());
    // RFC 9112 section 2.2: one empty line before it is ignored, and counted.
    accepted(&format!("\r\n{SAMPLE}"));
    refused(&format!("\r\n\r\n{SAMPLE}"), HttpRefusal::BadRequest);
}

#[test]
fn section_4_2_1_item_1_request_line() {
    accepted(&sample("HTTP/1.1", "HTTP/1.2"));
    for version in
        ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "HTTP/1.10", "http/1.1", "", "HTTP"]
    {
        bad("HTTP/1.1", version);
    }
    for line in ["GET /chat", "GET  /chat HTTP/1.1", "GET /chat  HTTP/1.1", " GET /chat HTTP/1.1"] {
        bad("GET /chat HTTP/1.1", line);
    }
    for line in
        ["GET /chat HTTP/1.1 ", "GET\t/chat HTTP/1.1", "GET /ch at HTTP/1.1", "G(T / HTTP/1.1"]
    {
        bad("GET /chat HTTP/1.1", line);
    }
    for method in ["POST", "HEAD", "OPTIONS", "get", "CONNECT"] {
        refused(&sample("GET", method), HttpRefusal::MethodNotAllowed);
    }
}

#[test]
fn section_4_2_1_item_1_target() {
    let parts = |target: &str| {
        let head = with_target(target);
        let request = accepted(&head);
        (request.path.to_owned(), request.query.to_owned())
    };
    let pair = |path: &str, query: &str| (path.to_owned(), query.to_owned());
    assert_eq!(parts("/"), pair("/", ""));
    assert_eq!(parts("/imboy/ws?did=1&cos=ios"), pair("/imboy/ws", "did=1&cos=ios"));
    assert_eq!(parts("/%7Euser?a?b"), pair("/%7Euser", "a?b"));
    assert_eq!(parts("/?"), pair("/", ""));
    assert_eq!(parts("//x"), pair("//x", ""));
    assert_eq!(parts("http://h:80/a?b=://c"), pair("/a", "b=://c"));
    assert_eq!(parts("WS://h"), pair("/", ""));
    assert_eq!(parts("wss://h?q"), pair("/", "q"));
    for target in ["*", "h:443", "chat", "ftp://h/", "http:///a", "http://", "/a#b", "/a?b#c", "?q"]
    {
        bad("/chat", target);
    }
}

#[test]
fn section_4_2_1_item_2_host() {
    accepted(&sample("server.example.com", "[::1]:8080"));
    accepted(&sample("server.example.com", "127.0.0.1:8080"));
    bad("Host: server.example.com\r\n", "");
    bad("Host: server.example.com\r\n", "Host:\r\n");
    bad("Host: server.example.com\r\n", "Host: a\r\nhost: a\r\n");
    for host in ["a, b", "a b", "a/b", "u@a", "a?b", "a\\b", "é"] {
        bad("server.example.com", host);
    }
}

#[test]
fn section_4_2_1_item_3_upgrade() {
    for value in ["WebSocket", "WEBSOCKET", "h2c, websocket", "websocket,", "\twebsocket "] {
        accepted(&sample("Upgrade: websocket", &format!("Upgrade:{value}")));
    }
    accepted(&sample("Upgrade: websocket", "Upgrade: h2c\r\nupgrade: websocket"));
    accepted(&sample("Upgrade: websocket", "Upgrade: websocket\r\nupgrade: h2c"));
    bad("Upgrade: websocket\r\n", "");
    for value in ["", "h2c", "websocket2", "web socket", "websocket/13", "websocket;q=1"] {
        bad("Upgrade: websocket", &format!("Upgrade: {value}"));
    }
}

#[test]
fn section_4_2_1_item_4_connection() {
    for value in ["upgrade", "keep-alive, Upgrade", "Upgrade,keep-alive", ", UPGRADE ,"] {
        accepted(&sample("Connection: Upgrade", &format!("Connection: {value}")));
    }
    accepted(&sample("Connection: Upgrade", "Connection: close\r\nCONNECTION: upgrade"));
    accepted(&sample("Connection: Upgrade", "Connection: upgrade\r\nConnection: TE"));
    bad("Connection: Upgrade\r\n", "");
    for value in ["", "keep-alive", "Upgrade keep-alive", "Upgraded", "\"Upgrade\""] {
        bad("Connection: Upgrade", &format!("Connection: {value}"));
    }
}

#[test]
fn section_4_2_1_item_5_key() {
    accepted(&sample(KEY, "AAAAAAAAAAAAAAAAAAAAAA=="));
    accepted(&sample(KEY, "+/+/+/+/+/+/+/+/+/+/+/=="));
    bad(&format!("Sec-WebSocket-Key: {KEY}\r\n"), "");
    bad(KEY, &format!("{KEY}\r\nSec-WebSocket-Key: {KEY}"));
    for key in [
        "",
        "dGhlIHNhbXBsZSBub25jZQ=",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZQ===",
        "dGhlIHNhbXBsZSBub25jZWE=",
        "dGhlIHNhbXBsZSBub25j",
        "dGhlIHNhbXBsZSBub25jZ===",
        "dGhlIHNhbXBsZSBub25j-_==",
        "dGhl IHNhbXBsZSBub25jQ==",
        "==dGhlIHNhbXBsZSBub25jZQ",
        "éééééééééé==",
    ] {
        bad(KEY, key);
    }
}

#[test]
fn section_4_2_1_item_6_version() {
    for version in ["8", "12", "14", "013", "13, 8", "", "thirteen"] {
        let head = sample("Version: 13", &format!("Version: {version}"));
        refused(&head, HttpRefusal::WrongVersion);
        // Drafts have no such key: they too are told the version.
        let head = head.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), "");
        refused(&head, HttpRefusal::WrongVersion);
    }
    refused(&sample("Sec-WebSocket-Version: 13\r\n", ""), HttpRefusal::WrongVersion);
    // Section 11.3.5: not more than once.
    bad("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13");
}

#[test]
fn section_4_2_1_a_plain_get_is_no_upgrade() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8\r\n\r\n", HttpRefusal::BadRequest);
    refused("GET / HTTP/1.1\r\n\r\n", HttpRefusal::BadRequest);
}

#[test]
fn header_lines_have_one_reading() {
    // Bare CR, bare LF, obs-fold, spaces around the name, controls: RFC 9112 sections 2.2 and 5.
    for origin in [
        "Origin: a\rX: b",
        "Origin: a\nX: b",
        "Origin: a\r\n X: b",
        "Origin: a\r\n\tb",
        "Origin : a",
        " Origin: a",
        "Origin: a\0b",
        "Origin: a\u{1}b",
        "Origin: a\u{7f}b",
        ": a",
        "Origin",
        "Ori gin: a",
        "Origin: a\r\r",
    ] {
        bad("Origin: http://example.com", origin);
    }
    refused(&SAMPLE.replace("\r\n", "\n"), HttpRefusal::BadRequest);
    refused(&SAMPLE.replace("13\r\n\r\n", "13\n\r\n"), HttpRefusal::BadRequest);
    refused(&SAMPLE.replace("13\r\n\r\n", "13\r\n\n"), HttpRefusal::BadRequest);
    bad(" HTTP/1.1\r\n", " HTTP/1.1\n");
    // A header of another name does not hide in one, nor in the target.
    let head = sample("Origin: http://example.com", "X-Origin: a\r\nOriginX: b\r\nOrigi: n: c");
    assert_eq!(accepted(&head).header("Origin"), None);
}

#[test]
fn a_body_is_refused() {
    accepted(&sample("Origin: http://example.com", "Content-Length: 0"));
    for line in [
        "Content-Length: 1",
        "Content-Length: 00",
        "content-length: +0",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: identity",
        "Content-Length: 0\r\nContent-Length: 5",
    ] {
        bad("Origin: http://example.com", line);
    }
}

#[test]
fn what_is_not_http_is_told_at_once() {
    for start in [&b"\x16\x03\x01\x02"[..], b"GET /\0", b"\0", b"GET\t", b"\r\r", b"\x7f", b"G\rE"]
    {
        assert_eq!(parse(start).unwrap_err(), HttpRefusal::BadRequest, "{start:?}");
    }
    for start in
        [&b""[..], b"\r", b"\r\n", b"\r\n\r", b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nH"]
    {
        assert!(parse(start).unwrap().is_none(), "{start:?}");
    }
    assert_eq!(parse(b"PRI * HTTP/2.0\r\n").unwrap_err(), HttpRefusal::BadRequest);
}

#[test]
fn the_head_has_a_size_limit() {
    let padded = |len: usize| {
        let rest = SAMPLE.len() - "http://example.com".len();
        sample("http://example.com", &"x".repeat(len - rest))
    };
    let fits = padded(HANDSHAKE_BYTES_MAX);
    assert_eq!(parse(fits.as_bytes()).unwrap().unwrap().1, HANDSHAKE_BYTES_MAX);
    let parts = |bytes: &[u8]| parse(bytes).map(|parsed| parsed.is_some());
    assert_eq!(parts(&fits.as_bytes()[..HANDSHAKE_BYTES_MAX - 1]), Ok(false));
    let over = padded(HANDSHAKE_BYTES_MAX + 1);
    assert_eq!(parts(over.as_bytes()), Err(HttpRefusal::TooLarge));
    // Whole or not.
    assert_eq!(parts(&over.as_bytes()[..HANDSHAKE_BYTES_MAX]), Err(HttpRefusal::TooLarge));
    assert_eq!(parts(&over.as_bytes()[..HANDSHAKE_BYTES_MAX - 1]), Ok(false));
    assert_eq!(parts(&[b'x'; HANDSHAKE_BYTES_MAX]), Err(HttpRefusal::TooLarge));
    assert_eq!(parts(&[b'x'; 3 * HANDSHAKE_BYTES_MAX]), Err(HttpRefusal::TooLarge));
}

#[test]
fn the_head_has_a_limited_number_of_headers() {
    let padded = |count: usize| sample("Origin: http://example.com\r\n", &"A: b\r\n".repeat(count));
    accepted(&padded(HANDSHAKE_HEADERS_MAX - 6));
    refused(&padded(HANDSHAKE_HEADERS_MAX - 5), HttpRefusal::BadRequest);
}

#[test]
fn headers_are_found_by_name() {
    let lines = "authorization: Bearer a b\r\ndid:\t d \t\r\nDID: second\r\nempty:\r\nname: \u{e9}";
    let head = sample("Origin: http://example.com", lines);
    let request = accepted(&head);
    assert_eq!(request.header("Authorization"), Some("Bearer a b"));
    assert_eq!(request.header("Did"), Some("d"));
    assert_eq!(request.header("empty"), Some(""));
    assert_eq!(request.header("name"), Some("é"));
    assert_eq!(request.header("Host"), Some("server.example.com"));
    assert_eq!(request.header("sec-websocket-version"), Some("13"));
    for name in ["", "di", "didd", "GET /chat HTTP/1.1", "cos", "did:"] {
        assert_eq!(request.header(name), None, "{name}");
    }
    // A value that is not text is there, but cannot be read; it does not let the next one pass.
    let head = sample("Origin: http://example.com", "did: ?\r\ndid: second").replace('?', "\u{1a}");
    let bytes: Vec<u8> = head.bytes().map(|byte| if byte == 0x1a { 0xff } else { byte }).collect();
    let (request, len) = parse(&bytes).unwrap().unwrap();
    assert_eq!((request.header("did"), len), (None, bytes.len()));
}

#[test]
fn section_11_3_4_subprotocols() {
    let offered = |lines: &str| {
        let head = sample("Sec-WebSocket-Protocol: chat, superchat", lines);
        accepted(&head).subprotocols().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered("Sec-WebSocket-Protocol: text, sip"), ["text", "sip"]);
    assert_eq!(offered("Sec-WebSocket-Protocol:a,b ,, c"), ["a", "b", "c"]);
    assert_eq!(
        offered("sec-websocket-protocol: a\r\nSec-WebSocket-Protocol: b, c"),
        ["a", "b", "c"]
    );
    assert_eq!(offered("Sec-WebSocket-Protocol: a b, c\"d, \u{e9}, e"), ["e"]);
    assert!(offered("Sec-WebSocket-Protocol:").is_empty());
    assert!(offered("X: y").is_empty());
}

#[test]
fn query_values_are_decoded() {
    let head = with_target(
        "/ws?a=1&a=2&b=x%20y+z%2B&c&d=&%65=e%3D&f=100%&g=%zz%4&h=%ff&i=a=b&%ff=j&&=k&%E6%97%A5=l",
    );
    let request = accepted(&head);
    let value = |name: &str| request.query_value(name).map(Cow::into_owned);
    let some = |value: &str| Some(value.to_owned());
    assert_eq!(value("a"), some("1"));
    assert_eq!(value("b"), some("x y z+"));
    assert_eq!(value("c"), some(""));
    assert_eq!(value("d"), some(""));
    assert_eq!(value("e"), some("e="));
    assert_eq!(value("f"), some("100%"));
    assert_eq!(value("g"), some("%zz%4"));
    assert_eq!(value("h"), None);
    assert_eq!(value("i"), some("a=b"));
    assert_eq!(value("日"), some("l"));
    assert_eq!(value("j"), None);
    assert_eq!(value("A"), None);
    assert!(matches!(request.query_value("i"), Some(Cow::Borrowed("a=b"))));
    assert_eq!(accepted(SAMPLE).query_value("a"), None);
    assert_eq!(accepted(SAMPLE).query_value(""), Some(Cow::Borrowed("")));
}

#[test]
fn a_subprotocol_cannot_write_header_lines() {
    for wrong in ["a\r\nX: y", "a b", "", "a,b", "é"] {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        switching_protocols(KEY, Some(wrong), None, &mut with);
        switching_protocols(KEY, None, None, &mut without);
        assert_eq!(with, without);
        assert!(without.ends_with(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"));
    }
}

#[test]
fn section_4_2_2_refusals_are_whole_answers() {
    for (kind, status, lines) in [
        (HttpRefusal::BadRequest, "400 Bad Request", &[][..]),
        (HttpRefusal::NotFound, "404 Not Found", &[]),
        (HttpRefusal::MethodNotAllowed, "405 Method Not Allowed", &["Allow: GET"]),
        (HttpRefusal::TooLarge, "413 Content Too Large", &[]),
        (
            HttpRefusal::WrongVersion,
            "426 Upgrade Required",
            &["Sec-WebSocket-Version: 13", "Upgrade: websocket", "Connection: close, Upgrade"],
        ),
        (HttpRefusal::TooFast { retry_after_s: 7 }, "429 Too Many Requests", &["Retry-After: 7"]),
        (HttpRefusal::TooManyConnections, "429 Too Many Requests", &["Retry-After: 1"]),
        (HttpRefusal::Unavailable, "503 Service Unavailable", &["Retry-After: 1"]),
    ] {
        let mut out = b"before".to_vec();
        refusal(kind, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut found = head.split("\r\n");
        assert_eq!(found.next(), Some(&*format!("beforeHTTP/1.1 {status}")));
        let found: Vec<&str> = found.collect();
        assert!(found.iter().any(|line| line.starts_with("Connection: close")), "{text}");
        assert!(found.contains(&"Content-Type: text/plain"));
        assert!(found.contains(&&*format!("Content-Length: {}", body.len())), "{text}");
        assert!(lines.iter().all(|line| found.contains(line)), "{text}");
        assert!(body.ends_with('\n') && body.lines().count() == 1 && body.len() > 20, "{text}");
        let mut headers = [EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        assert!(response.parse(&text.as_bytes()["before".len()..]).unwrap().is_complete());
    }
}

#[test]
fn section_4_1_client_and_server_understand_each_other() {
    let key = key(*b"the sample nonce");
    assert_eq!(key, KEY);
    let headers = [("Authorization", "Bearer t"), ("Sec-WebSocket-Protocol", "text, sip")];
    let mut request = Vec::new();
    upgrade_request("h:1", "/ws?did=1", &headers, &key, &mut request);
    let (parsed, len) = parse(&request).unwrap().unwrap();
    assert_eq!(len, request.len());
    assert_eq!((parsed.path, parsed.query, parsed.key), ("/ws", "did=1", KEY));
    assert_eq!(parsed.header("host"), Some("h:1"));
    assert_eq!(parsed.header("authorization"), Some("Bearer t"));
    let mut answer = Vec::new();
    switching_protocols(parsed.key, parsed.subprotocols().next(), None, &mut answer);
    let len = answer.len();
    answer.extend(b"\x81\x05Hello");
    assert_eq!(parse_switching(&answer, &key), Ok(Some(len)));
    for end in 0..len {
        assert_eq!(parse_switching(&answer[..end], &key), Ok(None));
    }
}

#[test]
fn section_4_1_answers_that_open_nothing() {
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    assert_eq!(parse_switching(answer.as_bytes(), KEY), Ok(Some(answer.len())));
    let fault = |from: &str, to: &str| {
        assert!(answer.contains(from));
        parse_switching(answer.replacen(from, to, 1).as_bytes(), KEY).unwrap_err()
    };
    assert_eq!(fault("101 Switching Protocols", "401 No"), AnswerFault::Refused(401));
    assert_eq!(fault("101", "200"), AnswerFault::Refused(200));
    assert_eq!(fault("HTTP/1.1", "HTTP/1.0"), AnswerFault::NotHttp);
    assert_eq!(fault("HTTP/1.1", "SSH-2.0"), AnswerFault::NotHttp);
    assert_eq!(fault("WebSocket", "h2c"), AnswerFault::WrongUpgrade);
    assert_eq!(fault("Upgrade: ", "X: "), AnswerFault::WrongUpgrade);
    assert_eq!(fault("upgrade", "close"), AnswerFault::WrongUpgrade);
    assert_eq!(fault("s3pP", "S3pP"), AnswerFault::WrongAccept);
    assert_eq!(fault("Sec-WebSocket-Accept", "X"), AnswerFault::WrongAccept);
    let extended = "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    assert_eq!(fault("\r\n\r\n", &format!("\r\n{extended}")), AnswerFault::WrongUpgrade);
    let endless = format!("HTTP/1.1 101 {}", "x".repeat(HANDSHAKE_BYTES_MAX));
    assert_eq!(parse_switching(endless.as_bytes(), KEY), Err(AnswerFault::NotHttp));
    let mut refused = Vec::new();
    refusal(HttpRefusal::TooManyConnections, &mut refused);
    assert_eq!(parse_switching(&refused, KEY), Err(AnswerFault::Refused(429)));
}

#[test]
fn damage_never_panics_and_never_makes_two_readings() {
    let mut prng = Prng(42);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut head = SAMPLE.as_bytes().to_vec();
        for _ in 0..=prng.below(3) {
            let at = prng.below(head.len());
            match prng.below(4) {
                0 => head[at] = prng.next() as u8,
                1 => head.insert(at, b"\r\n \t:,\0?#%"[prng.below(10)]),
                2 => drop(head.remove(at)),
                _ => head[at] ^= 1 << prng.below(8),
            }
        }
        let _ = parse_switching(&head, KEY);
        let Ok(Some((request, len))) = parse(&head) else { continue };
        accepted += 1;
        // What was checked is what is found by name: both come to the same single lines.
        assert_eq!(request.header("Sec-WebSocket-Key"), Some(request.key));
        assert_eq!(request.header("sec-websocket-version"), Some("13"));
        assert!(request.header("Host").is_some_and(|host| is_authority(host.as_bytes())));
        assert!(request.path.starts_with('/'));
        assert!(request.subprotocols().all(is_token));
        let _ = request.query_value("a");
        for end in 0..len {
            assert!(parse(&head[..end]).unwrap().is_none());
        }
    }
    assert!(accepted > 1000, "{accepted}");
}
