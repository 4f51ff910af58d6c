//! The opening handshake (RFC 6455 section 4).

use crate::error::HttpRefusal;

/// An upgrade request. All parts borrow from the bytes that were parsed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The path, without the query, percent-encoding untouched.
    pub path: &'a str,
    /// The query, without its `?`; empty when there is none.
    pub query: &'a str,
    /// `Sec-WebSocket-Key`: checked, 24 characters.
    pub key: &'a str,
    headers: &'a [u8],
}

impl<'a> Request<'a> {
    /// The first header of that name (any case), trimmed; `None` when absent or not text.
    pub fn header(&self, _name: &str) -> Option<&'a str> {
        let _ = self.headers;
        None
    }
}

/// Reads a request head from the start of `bytes`.
///
/// `Ok(None)`: not all of it is there yet. `Ok(Some((request, len)))`: `len` bytes were the head.
pub fn parse(_bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, HttpRefusal> {
    Ok(None)
}

/// Appends the `101` answer.
pub fn switching_protocols(_key: &str, _subprotocol: Option<&str>, _out: &mut Vec<u8>) {}
