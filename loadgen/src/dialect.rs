//! What a scenario needs of a protocol: frames to send, and the meaning of frames that come.
//!
//! One file for each protocol. They translate, and decide nothing.

pub mod imboy;
mod json;

use crate::args::DialectName;

/// A protocol, as a load-generating client speaks it. Functions that make a frame append its
/// payload to `out`.
pub trait Dialect: Send + Sync {
    /// The request target and the headers of an upgrade request.
    fn upgrade(&self, token: &str, device: &str) -> Upgrade;

    /// A message to a user or a group; `payload` is what the receivers shall get.
    fn message(&self, kind: Kind, id: &[u8], to: &str, payload: &[u8], out: &mut Vec<u8>);

    /// The receiver's acknowledgement of a message.
    fn acknowledge(&self, kind: Kind, id: &[u8], device: &str, out: &mut Vec<u8>);

    /// The receiver's acknowledgement of a notice.
    fn acknowledge_notice(&self, id: &[u8], device: &str, out: &mut Vec<u8>);

    /// A frame that the server answers at once with [`Incoming::Probe`], and that changes nothing.
    fn probe(&self, out: &mut Vec<u8>);

    /// What a client's user can do about a refused login, if the server's frame tells.
    fn hint(&self, text: &[u8]) -> Option<&'static str>;

    /// What a text message from the server means.
    ///
    /// # Errors
    /// What is wrong with it.
    fn decode<'a>(&self, text: &'a [u8]) -> Result<Incoming<'a>, &'static str>;
}

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// To one user.
    Private,
    /// To all other members of a group.
    Group,
}

/// What an upgrade request says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade {
    /// Path and query.
    pub target: String,
    /// Names and values, besides those of WebSocket itself.
    pub headers: Vec<(&'static str, String)>,
}

/// A message from the server. Byte strings are as they stand on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incoming<'a> {
    /// The server has stored the message with this id.
    Receipt {
        /// The sender's own id of it.
        id: &'a [u8],
    },
    /// Somebody sent us this.
    Message {
        /// To us alone, or to a group.
        kind: Kind,
        /// The id to acknowledge it by.
        id: &'a [u8],
        /// Who.
        from: &'a [u8],
        /// To whom: us, or the group.
        to: &'a [u8],
        /// What.
        payload: &'a [u8],
    },
    /// The message with this id was refused; without an id, something else failed.
    Refused {
        /// The sender's own id of it.
        id: Option<&'a [u8]>,
    },
    /// The answer to a probe.
    Probe,
    /// Something that is not load: presence, an event of a group. A client acknowledges it.
    Notice {
        /// The id to acknowledge it by; may be empty.
        id: &'a [u8],
    },
}

/// The protocol of that name.
pub fn by_name(name: DialectName) -> Box<dyn Dialect> {
    match name {
        DialectName::Imboy => Box::new(imboy::Imboy),
    }
}
