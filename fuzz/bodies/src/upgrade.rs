//! The upgrade request: `ws::handshake`, `ws::extensions`, `admit`, imboy's login.
//!
//! The first byte chooses the operator's settings, the rest is what the client sends.

use ringpost_core::admit::{Claims, Route, Rules, TokenCheck, TokenFault, admit};
use ringpost_core::dialect::Settings;
use ringpost_core::dialect::imboy::sign::SignKeys;
use ringpost_core::error::HttpRefusal;
use ringpost_core::ids::{Dialect, UserId};
use ringpost_core::limits::{
    CLIENT_WORD_BYTES_MAX, DEVICE_ID_BYTES_MAX, HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX,
};
use ringpost_core::ws::handshake::{Request, parse, parse_switching, refusal};

/// A time, ms since 1970.
const NOW_MS: u64 = 1_700_000_000_000;

/// Tokens of the target: `ok-USER`, `old-USER` (past its time), `did-DEVICE-USER` (bound).
struct Tokens;

impl TokenCheck for Tokens {
    fn check(&self, wall_ms: u64, token: &str) -> Result<Claims, TokenFault> {
        assert_eq!(wall_ms, NOW_MS, "the time of the request");
        let claims = |user: &str, device: Option<&str>| {
            let user = UserId::parse(user).ok_or(TokenFault::Invalid)?;
            Ok(Claims { user, expires_ms: NOW_MS + 1, device: device.map(Into::into) })
        };
        match token.split_once('-') {
            Some(("ok", user)) => claims(user, None),
            Some(("old", _)) => Err(TokenFault::Expired),
            Some(("did", rest)) => {
                let (device, user) = rest.split_once('-').ok_or(TokenFault::Invalid)?;
                claims(user, Some(device))
            }
            _ => Err(TokenFault::Invalid),
        }
    }
}

/// See the module.
pub fn run(data: &[u8]) {
    let Some((&flags, bytes)) = data.split_first() else { return };
    let whole = parse(bytes);
    decides_as_early(bytes, &whole);
    match whole {
        Ok(None) => assert!(bytes.len() < HANDSHAKE_BYTES_MAX, "too long a head is not waited for"),
        Ok(Some((request, len))) => accepted(flags, bytes, &request, len),
        Err(refused) => answered(refused),
    }
}

/// However the bytes come, what is said first is what is said of all of them.
fn decides_as_early(bytes: &[u8], whole: &Result<Option<(Request<'_>, usize)>, HttpRefusal>) {
    // Every cut of a short request; of a long one some, and those around its end.
    let step = 1 + bytes.len() / 512;
    for cut in (0..=bytes.len()).step_by(step) {
        match (parse(&bytes[..cut]), whole) {
            (Ok(None), _) => {}
            (Ok(Some((early, len))), Ok(Some((late, late_len)))) => {
                assert_eq!((early.path, early.query, early.key), (late.path, late.query, late.key));
                assert_eq!(len, *late_len);
                assert!(len <= cut);
            }
            (Err(early), Err(late)) => assert_eq!(early, *late, "cut at {cut}"),
            (early, late) => panic!("cut at {cut}: {early:?}, then {late:?}"),
        }
    }
    if let Ok(Some((_, len))) = whole {
        assert!(matches!(parse(&bytes[..len - 1]), Ok(None)), "all of the head is needed");
    }
}

fn accepted(flags: u8, bytes: &[u8], request: &Request<'_>, len: usize) {
    assert!(len <= HANDSHAKE_BYTES_MAX && len <= bytes.len());
    assert!(bytes[..len].ends_with(b"\r\n\r\n"), "a head ends with an empty line");
    assert!(request.path.starts_with('/'));
    let visible = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    assert!(visible(request.path) && visible(request.query));
    assert_eq!(request.key.len(), 24);
    a_peer_agrees(&bytes[..len]);
    let mut dialects = Settings::default();
    if flags & 1 != 0 {
        dialects.imboy.sign_keys = SignKeys::new([("0".to_owned(), "key".to_owned())].into());
    }
    let routes = [Route { path: "/imboy/ws".to_owned(), dialect: Dialect::Imboy }];
    let otherwise = (flags & 2 != 0).then_some(Dialect::Imboy);
    let (tokens, deflate) = (&Tokens, flags & 4 != 0);
    let rules = Rules { routes: &routes, otherwise, dialects: &dialects, tokens, deflate };
    let admission = match admit(request, &rules, NOW_MS) {
        Ok(admission) => admission,
        Err(refused) => {
            assert_eq!(refused, HttpRefusal::NotFound, "nothing else is wrong with it");
            assert!(otherwise.is_none() && request.path != "/imboy/ws");
            return answered(refused);
        }
    };
    let hello = &admission.hello;
    switched(&hello.switching, request);
    assert!(hello.deflate.is_none() || deflate, "only if the operator wants it");
    let Ok(login) = &hello.login else {
        assert_eq!(admission.home, None, "nobody's home");
        return;
    };
    assert_eq!(admission.home, Some(login.user.slot()));
    assert!((1..=DEVICE_ID_BYTES_MAX).contains(&login.device.name.len()));
    assert!(login.client.platform.len() <= CLIENT_WORD_BYTES_MAX);
    assert!(login.client.version.len() <= CLIENT_WORD_BYTES_MAX);
    assert_eq!(login.expires_ms, NOW_MS + 1, "as the token says");
}

/// What we take for one head is one to another parser. Not the other way round: ours is stricter.
fn a_peer_agrees(head: &[u8]) {
    let mut storage = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut peer = httparse::Request::new(&mut storage);
    match peer.parse(head) {
        Ok(httparse::Status::Complete(len)) => {
            assert_eq!((len, peer.method), (head.len(), Some("GET")));
        }
        // A later 1.x is ours alone (RFC 9112 section 2.3: taken as the highest one known), and so
        // are bytes beyond ASCII in a target that are UTF-8.
        Err(httparse::Error::Version | httparse::Error::Token) => {}
        other => panic!("another parser says {other:?}"),
    }
}

/// The `101` is a whole head of just our lines, for that key.
fn switched(answer: &[u8], request: &Request<'_>) {
    let text = std::str::from_utf8(answer).expect("ASCII");
    let lines: Vec<&str> = text.split("\r\n").collect();
    let [first, headers @ .., "", ""] = &lines[..] else { panic!("not a head: {text:?}") };
    assert_eq!(*first, "HTTP/1.1 101 Switching Protocols");
    for line in headers {
        let (name, value) = line.split_once(": ").expect("a header line");
        match name {
            "Upgrade" | "Connection" | "Sec-WebSocket-Accept" => {}
            "Sec-WebSocket-Protocol" => {
                assert!(request.subprotocols().any(|offered| offered == value), "offered: {value}");
            }
            "Sec-WebSocket-Extensions" => {
                assert!(value.starts_with("permessage-deflate; server_no_context_takeover; "));
            }
            other => panic!("a line that is not ours: {other}"),
        }
    }
    if !text.contains("Sec-WebSocket-Extensions") {
        assert_eq!(parse_switching(answer, request.key), Ok(Some(answer.len())));
    }
}

/// A refusal is one whole HTTP response, whose body is as long as it says.
fn answered(refused: HttpRefusal) {
    let mut out = Vec::new();
    refusal(refused, &mut out);
    let mut storage = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut storage);
    let parsed = response.parse(&out).expect("HTTP");
    let httparse::Status::Complete(head) = parsed else { panic!("half of an answer") };
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name == name);
        header.map(|header| std::str::from_utf8(header.value).expect("ASCII"))
    };
    let body: usize = value("Content-Length").expect("a length").parse().expect("a number");
    assert_eq!(out.len() - head, body);
    assert!(value("Connection").is_some_and(|value| value.starts_with("close")));
    let status = match refused {
        HttpRefusal::BadRequest => 400,
        HttpRefusal::NotFound => 404,
        HttpRefusal::MethodNotAllowed => 405,
        HttpRefusal::TooLarge => 413,
        HttpRefusal::WrongVersion => 426,
        HttpRefusal::TooManyConnections
        | HttpRefusal::TooFast { .. }
        | HttpRefusal::Unavailable => {
            panic!("no request says that by itself")
        }
    };
    assert_eq!(response.code, Some(status));
    assert_eq!(value("Sec-WebSocket-Version"), (status == 426).then_some("13"));
}
