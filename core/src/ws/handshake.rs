//! The opening handshake (RFC 6455 section 4), both ends. Decides whether a request is a proper
//! upgrade, not whether anybody wants it: paths, tokens and origins are [`crate::admit`]'s.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Status};
use sha1::{Digest, Sha1};
use thiserror::Error;

use crate::error::HttpRefusal;
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};

/// What the key is hashed with (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What a refused client is told to wait; it spreads its own attempts beyond that.
const RETRY_AFTER_S: u16 = 1;

/// An upgrade request. All parts borrow from the bytes that were parsed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path, without the query, percent-encoding untouched.
    pub path: &'a str,
    /// The query, without its `?`; empty when there is none.
    pub query: &'a str,
    /// `Sec-WebSocket-Key`: checked, 24 characters.
    pub key: &'a str,
    /// Whole header lines, each ended by CRLF, without the empty one.
    headers: &'a [u8],
}

impl<'a> Request<'a> {
    /// The first header of that name (any case), trimmed; `None` when absent or not text.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let mut values = self.values(name);
        values.next().and_then(|value| str::from_utf8(value).ok())
    }

    /// The first value of that name in the query, percent-encoding and `+` undone; a name without
    /// `=` has the value `""`. `None` when absent or not UTF-8. Any character may be in it,
    /// controls included.
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        let mut pairs =
            self.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.find(|(key, _)| decode(key).is_some_and(|key| key == name))?;
        decode(value)
    }

    /// The subprotocols that the client offers, in its order of preference, of all its
    /// `Sec-WebSocket-Protocol` headers; what is not a token is left out (section 4.1, item 10).
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.values("Sec-WebSocket-Protocol")
            .flat_map(elements)
            .filter_map(|element| str::from_utf8(element).ok().filter(|text| is_token(text)))
    }

    /// The values of all `Sec-WebSocket-Extensions` headers, trimmed.
    pub(super) fn extensions(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.values("Sec-WebSocket-Extensions")
    }

    /// The values of all headers of that name, trimmed.
    fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers.split(|&byte| byte == b'\n').filter_map(move |line| {
            let (key, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            key.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }
}

/// Reads a request head from the start of `bytes`.
///
/// `Ok(None)`: not all of it is there yet. `Ok(Some((request, len)))`: `len` bytes were the head.
///
/// # Errors
/// [`HttpRefusal::BadRequest`], as early as the bytes show it, for what is not HTTP; for the rest
/// once the head is whole. `TooLarge` for a head over [`HANDSHAKE_BYTES_MAX`], whole or not.
pub fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, HttpRefusal> {
    // Frames may follow the head; they do not count.
    let window = bytes.get(..HANDSHAKE_BYTES_MAX).unwrap_or(bytes);
    match parse_head(window)? {
        None if bytes.len() >= HANDSHAKE_BYTES_MAX => Err(HttpRefusal::TooLarge),
        parsed => Ok(parsed),
    }
}

fn parse_head(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, HttpRefusal> {
    // RFC 9112 section 2.2: an empty line before the request is ignored.
    let text = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let Some(line_len) = text.iter().position(|&byte| byte == b'\n') else {
        // What can never become a request line, TLS for one, is told at once.
        let line = text.strip_suffix(b"\r").unwrap_or(text);
        let plausible = line.iter().all(|&byte| byte >= b' ' && byte != 0x7f);
        return if plausible { Ok(None) } else { Err(HttpRefusal::BadRequest) };
    };
    let (line, rest) = text.split_at(line_len + 1);
    let (method, target) = split_request_line(line).ok_or(HttpRefusal::BadRequest)?;
    let mut storage = [EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let (headers_len, headers) = match httparse::parse_headers(rest, &mut storage) {
        Ok(Status::Complete(parsed)) => parsed,
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err(HttpRefusal::BadRequest),
    };
    let (lines, after) = rest.split_at(headers_len);
    // The empty line is a bare LF when a line ends so; then it must not end a header either.
    let lines = lines.strip_suffix(b"\r\n").ok_or(HttpRefusal::BadRequest)?;
    if has_bare_lf(lines) {
        return Err(HttpRefusal::BadRequest);
    }
    if method != "GET" {
        return Err(HttpRefusal::MethodNotAllowed);
    }
    let (path, query) = split_target(target).ok_or(HttpRefusal::BadRequest)?;
    let key = check_headers(headers)?;
    Ok(Some((Request { path, query, key, headers: lines }, bytes.len() - after.len())))
}

/// Method and target of a request line of HTTP/1.1 or a later 1.x (RFC 9112 section 3). The line
/// has exactly two spaces and ends with CRLF.
fn split_request_line(line: &[u8]) -> Option<(&str, &str)> {
    let line = str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?;
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.split_once(' ')?;
    let minor = version.strip_prefix("HTTP/1.")?;
    let visible = target.bytes().all(|byte| byte > b' ' && byte != 0x7f);
    let proper = is_token(method)
        && visible
        && !target.is_empty()
        && matches!(minor.as_bytes(), [b'1'..=b'9']);
    proper.then_some((method, target))
}

/// Path and query of a target in origin-form, or in absolute-form, whose authority is not looked
/// at (RFC 9112 section 3.2). There is no fragment (RFC 6455 section 3).
fn split_target(target: &str) -> Option<(&str, &str)> {
    let origin = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        let known = ["http", "https", "ws", "wss"];
        if !known.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
        if authority_len == 0 {
            return None;
        }
        rest.split_at(authority_len).1
    };
    if origin.contains('#') {
        return None;
    }
    let (path, query) = origin.split_once('?').unwrap_or((origin, ""));
    Some((if path.is_empty() { "/" } else { path }, query))
}

/// Section 4.2.1, items 2 to 6; returns the key.
fn check_headers<'a>(headers: &[Header<'a>]) -> Result<&'a str, HttpRefusal> {
    let (mut host, mut key, mut version) = (None, None, None);
    let (mut upgrade, mut connection) = (false, false);
    for Header { name, value } in headers.iter().copied() {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Host") {
            once(&mut host, value)?;
        } else if is("Upgrade") {
            upgrade |= has_element(value, "websocket");
        } else if is("Connection") {
            connection |= has_element(value, "Upgrade");
        } else if is("Sec-WebSocket-Key") {
            once(&mut key, value)?;
        } else if is("Sec-WebSocket-Version") {
            once(&mut version, value)?;
        } else if is("Transfer-Encoding") || is("Content-Length") && value != b"0" {
            // A body would be read as frames here, and perhaps not by what is in front of us.
            return Err(HttpRefusal::BadRequest);
        }
    }
    if !upgrade || !connection || !host.is_some_and(is_authority) {
        return Err(HttpRefusal::BadRequest);
    }
    // Before the key, which other versions may not have.
    if version != Some(b"13") {
        return Err(HttpRefusal::WrongVersion);
    }
    key.and_then(|key| str::from_utf8(key).ok())
        .filter(|key| is_key(key))
        .ok_or(HttpRefusal::BadRequest)
}

/// Remembers a header that must not come twice (sections 11.3.1 and 11.3.5; RFC 9112 section 3.2).
fn once<'a>(seen: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), HttpRefusal> {
    if seen.replace(value).is_some() { Err(HttpRefusal::BadRequest) } else { Ok(()) }
}

/// Whether a header line ends in LF alone: others might see one line where we see two.
fn has_bare_lf(lines: &[u8]) -> bool {
    lines.split_inclusive(|&byte| byte == b'\n').any(|line| !line.ends_with(b"\r\n"))
}

/// Roughly `uri-host [":" port]`: nothing that would end an authority, no list.
fn is_authority(host: &[u8]) -> bool {
    !host.is_empty()
        && host.iter().all(|byte| byte.is_ascii_graphic() && !b"/?#@,\\".contains(byte))
}

/// The base64 of 16 bytes (section 4.1, item 7): 22 digits and the padding. The low bits of the
/// last digit are ignored, as most decoders do; nothing depends on them.
fn is_key(key: &str) -> bool {
    let digits = key.strip_suffix("==").unwrap_or_default();
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    digits.len() == 22 && digits.bytes().all(is_digit)
}

/// The elements of a list (RFC 9110 section 5.6.1), empty ones too.
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

fn has_element(value: &[u8], token: &str) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Undoes the encoding of a query; `None` when the result is not UTF-8. A `%` without two digits
/// stands for itself, as browsers have it.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let byte = match (first, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, tail @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = tail;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => *first,
        };
        out.push(byte);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// Appends the `101` answer (section 4.2.2). A subprotocol that is not a token is left out: no
/// client can have offered it, and it must not write header lines. `extensions` are ours.
pub fn switching_protocols(
    key: &str,
    subprotocol: Option<&str>,
    extensions: Option<&str>,
    out: &mut Vec<u8>,
) {
    let accept = accept(key);
    put(
        out,
        &[
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: ",
            &accept,
            "\r\n",
        ],
    );
    if let Some(subprotocol) = subprotocol.filter(|text| is_token(text)) {
        put(out, &["Sec-WebSocket-Protocol: ", subprotocol, "\r\n"]);
    }
    if let Some(extensions) = extensions {
        put(out, &["Sec-WebSocket-Extensions: ", extensions, "\r\n"]);
    }
    put(out, &["\r\n"]);
}

/// Appends the whole answer to a refused request; the socket is to be closed after it.
pub fn refusal(refusal: HttpRefusal, out: &mut Vec<u8>) {
    let retry_after_s = match refusal {
        HttpRefusal::TooFast { retry_after_s } => retry_after_s,
        _ => RETRY_AFTER_S,
    };
    let retry = format!("Retry-After: {retry_after_s}\r\n");
    let (header, body) = match refusal {
        HttpRefusal::BadRequest => (
            "",
            "This is a WebSocket endpoint: it takes an HTTP/1.1 upgrade request as RFC 6455 \
             section 4.2.1 has it.",
        ),
        HttpRefusal::NotFound => ("", "No WebSocket endpoint has this path."),
        HttpRefusal::MethodNotAllowed => {
            ("Allow: GET\r\n", "This is a WebSocket endpoint: an upgrade request is a GET.")
        }
        HttpRefusal::TooLarge => ("", "The head of the upgrade request is too large."),
        // RFC 9110 section 15.5.22: a 426 names what to upgrade to.
        HttpRefusal::WrongVersion => (
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            "This WebSocket endpoint speaks version 13 (RFC 6455).",
        ),
        HttpRefusal::TooFast { .. } => (&*retry, "Too many requests from this address."),
        HttpRefusal::TooManyConnections => (&*retry, "Too many connections: try again later."),
        HttpRefusal::Unavailable => (&*retry, "Not available now: try again later."),
    };
    // RFC 9110 section 7.8: who sends Upgrade names it here.
    let close = if refusal == HttpRefusal::WrongVersion { "close, Upgrade" } else { "close" };
    let body_len = (body.len() + 1).to_string();
    put(out, &["HTTP/1.1 ", &refusal.to_string(), "\r\nConnection: ", close, "\r\n", header]);
    put(out, &["Content-Type: text/plain\r\nContent-Length: ", &body_len, "\r\n\r\n", body, "\n"]);
}

/// Why a server's answer to an upgrade request does not open a WebSocket (section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AnswerFault {
    /// Not HTTP/1.1, or its head is over [`HANDSHAKE_BYTES_MAX`].
    #[error("the answer is not HTTP")]
    NotHttp,
    /// Another status than 101.
    #[error("refused with status {0}")]
    Refused(u16),
    /// `Upgrade` or `Connection` is missing or wrong, or an extension is there that was not asked
    /// for.
    #[error("the answer upgrades to something else")]
    WrongUpgrade,
    /// `Sec-WebSocket-Accept` does not belong to the key.
    #[error("the answer is for another key")]
    WrongAccept,
}

/// A client's key (section 4.1, item 7) from 16 random bytes: 24 characters.
pub fn key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// Appends a client's upgrade request (section 4.1). `host` is the authority, `target` path and
/// query; these and `headers` must be proper HTTP, `key` is from [`key`].
pub fn upgrade_request(
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    key: &str,
    out: &mut Vec<u8>,
) {
    put(
        out,
        &[
            "GET ",
            target,
            " HTTP/1.1\r\nHost: ",
            host,
            "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ",
            key,
            "\r\nSec-WebSocket-Version: 13\r\n",
        ],
    );
    for (name, value) in headers {
        put(out, &[name, ": ", value, "\r\n"]);
    }
    put(out, &["\r\n"]);
}

/// Reads a server's answer to the request with `key`.
///
/// `Ok(None)`: not all of it is there yet. `Ok(Some(len))`: it opens a WebSocket; `len` bytes were
/// the head, frames follow.
///
/// # Errors
/// Anything else, as section 4.1 lists it.
pub fn parse_switching(bytes: &[u8], key: &str) -> Result<Option<usize>, AnswerFault> {
    let window = bytes.get(..HANDSHAKE_BYTES_MAX).unwrap_or(bytes);
    let mut storage = [EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut storage);
    let head_len = match response.parse(window) {
        Ok(Status::Complete(head_len)) => head_len,
        Ok(Status::Partial) if bytes.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
        _ => return Err(AnswerFault::NotHttp),
    };
    match (response.version, response.code) {
        (Some(1), Some(101)) => {}
        (_, Some(status)) if status != 101 => return Err(AnswerFault::Refused(status)),
        _ => return Err(AnswerFault::NotHttp),
    }
    let (mut upgrade, mut connection, mut extensions) = (false, false, false);
    let mut answered = None;
    for Header { name, value } in response.headers.iter().copied() {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        if is("Upgrade") {
            upgrade |= value.eq_ignore_ascii_case(b"websocket");
        } else if is("Connection") {
            connection |= has_element(value, "Upgrade");
        } else if is("Sec-WebSocket-Accept") {
            answered = Some(value);
        } else if is("Sec-WebSocket-Extensions") {
            extensions |= !value.is_empty();
        }
    }
    if !upgrade || !connection || extensions {
        return Err(AnswerFault::WrongUpgrade);
    }
    let right = answered == Some(accept(key).as_bytes());
    if right { Ok(Some(head_len)) } else { Err(AnswerFault::WrongAccept) }
}

/// `Sec-WebSocket-Accept` (section 4.2.2, item 5.4).
fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests;
