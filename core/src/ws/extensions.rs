//! Negotiates the one extension there is, permessage-deflate (RFC 7692 section 7.1): reads a
//! client's offers, picks the first that can be kept, writes the answer.
//!
//! Both directions go without context takeover, whether the client asks for it or not (sections
//! 7.1.1.1 and 7.1.1.2 allow an answer to say so unasked): an idle connection holds no window, and
//! one compressed frame serves every receiver.

use std::num::NonZero;

use super::handshake::Request;

const NAME: &[u8] = b"permessage-deflate";

/// How far back a compressed message may refer: its two to the power of 9 to 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Window(NonZero<u8>);

impl Window {
    /// 32 KiB: what a client can always take, unless it says otherwise.
    pub const LARGEST: Window = Window(NonZero::<u8>::MIN.saturating_add(14));

    /// The window of that many bits, if deflate can keep to it. 8 bits it cannot: zlib's own
    /// streams for them need 9.
    pub fn new(bits: u8) -> Option<Window> {
        if matches!(bits, 9..=15) { NonZero::new(bits).map(Window) } else { None }
    }

    /// Its size as a power of two.
    pub fn bits(self) -> u8 {
        self.0.get()
    }

    /// The largest window that is as good for a message of `len` bytes: one no longer than the
    /// window can refer to nothing before it.
    pub fn for_message(self, len: usize) -> Window {
        if len <= 1 << self.bits() { Window::LARGEST } else { self }
    }
}

/// What was agreed with a client: compressed messages, either way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreement {
    /// `server_max_window_bits`, if the client has set a limit.
    server: Option<Window>,
    /// `client_max_window_bits`, if the client has named a value. Any will do: inflating is done
    /// with the largest window.
    client: Option<u8>,
}

impl Agreement {
    /// What the server's messages keep to.
    pub fn window(&self) -> Window {
        self.server.unwrap_or(Window::LARGEST)
    }

    /// The value of the answer's `Sec-WebSocket-Extensions`.
    pub fn answer(&self) -> String {
        let mut text =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if let Some(bits) = self.server.map(Window::bits) {
            text += &format!("; server_max_window_bits={bits}");
        }
        if let Some(bits) = self.client {
            text += &format!("; client_max_window_bits={bits}");
        }
        text
    }
}

/// Agrees to the first offer that can be kept, over all headers in their order; `None`: there is
/// none, and the connection goes without compression (RFC 7692 section 5).
pub fn negotiate(request: &Request<'_>) -> Option<Agreement> {
    let mut offers = request.extensions().flat_map(|value| split(value, b','));
    offers.find_map(accept)
}

/// Section 7.1: an offer with a parameter that is unknown, twice there, or has a wrong value is
/// declined.
fn accept(offer: &[u8]) -> Option<Agreement> {
    let mut parts = split(offer, b';');
    if parts.next() != Some(NAME) {
        return None;
    }
    let (mut server, mut client) = (None, None);
    let (mut server_takeover, mut client_takeover) = (None, None);
    for part in parts {
        let (name, value) = match part.iter().position(|&byte| byte == b'=') {
            Some(at) => {
                let (name, value) = part.split_at(at);
                (name.trim_ascii(), value.strip_prefix(b"=").map(<[u8]>::trim_ascii))
            }
            None => (part, None),
        };
        match (name, value) {
            (b"server_no_context_takeover", None) => once(&mut server_takeover, ())?,
            (b"client_no_context_takeover", None) => once(&mut client_takeover, ())?,
            (b"server_max_window_bits", Some(value)) => {
                once(&mut server, Window::new(window_bits(value)?)?)?;
            }
            (b"client_max_window_bits", Some(value)) => {
                once(&mut client, Some(window_bits(value)?))?;
            }
            // It only says that the client understands a limit; we set none.
            (b"client_max_window_bits", None) => once(&mut client, None)?,
            _ => return None,
        }
    }
    Some(Agreement { server, client: client.flatten() })
}

/// `None`: it came before.
fn once<T>(seen: &mut Option<T>, value: T) -> Option<()> {
    seen.replace(value).is_none().then_some(())
}

/// 8 to 15 without leading zeros (sections 7.1.2.1 and 7.1.2.2), as a token or in quotes (RFC 6455
/// section 9.1).
fn window_bits(value: &[u8]) -> Option<u8> {
    let (mut quoted, mut bits) = (Vec::new(), value);
    if let Some(rest) = value.strip_prefix(b"\"") {
        let mut bytes = rest.strip_suffix(b"\"")?.iter();
        while let Some(&byte) = bytes.next() {
            quoted.push(if byte == b'\\' { *bytes.next()? } else { byte });
        }
        bits = &quoted;
    }
    match bits {
        [ones @ b'8'..=b'9'] => Some(ones - b'0'),
        [b'1', ones @ b'0'..=b'5'] => Some(10 + ones - b'0'),
        _ => None,
    }
}

/// The parts between separators that are not in quotes, trimmed.
fn split(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(move |&byte| {
        if std::mem::take(&mut escaped) {
            return false;
        }
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => escaped = quoted,
            _ => {}
        }
        byte == separator && !quoted
    });
    parts.map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
