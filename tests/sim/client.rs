//! What clients say and hear, in no protocol's words. A dialect's client is one module here: it
//! makes frames of what the workload wants said, and reads what the server writes. Another dialect
//! is another variant of [`Speech`], and nothing outside of this folder knows of it.

mod imboy;

use ringpost_core::ids::Dialect;
use serde_json::Value;

/// The protocols that clients of a run speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    Imboy,
}

/// What an acknowledgement is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    Private,
    Group,
    Event,
}

/// What a client says.
#[derive(Clone, PartialEq, Debug)]
pub enum Say {
    /// A message; `payload` is JSON.
    Send { group: bool, id: String, to: String, payload: String },
    /// Take a message back.
    Revoke { group: bool, id: String, to: String },
    /// It has come.
    Ack { class: Class, id: String },
    /// Everything that is pending, again.
    CheckOffline,
    /// Alive?
    Ping,
    /// The end.
    Logout,
    /// Bytes that mean nothing.
    Garbage,
}

/// What a client hears.
#[derive(Clone, PartialEq, Debug)]
pub enum Hear {
    /// The message is stored.
    Receipt { group: bool, id: String, time_ms: u64 },
    /// A message; `payload` is `None` when it was revoked.
    Said {
        group: bool,
        wire: String,
        from: String,
        to: String,
        payload: Option<Value>,
        time_ms: u64,
    },
    /// A message was taken back by another.
    Revoked { group: bool, wire: String, from: String, to: String, time_ms: u64 },
    /// Its own message was.
    RevokeReceipt { id: String },
    /// Something stored that is no message.
    Event { wire: String, to: String, payload: Value, time_ms: u64 },
    /// A friend has come, gone or hidden.
    Presence { from: String, what: String },
    /// Another device of the user has connected.
    OtherDevice { id: String },
    /// A request, or the login, was refused.
    Refused { id: Option<String>, why: String },
    /// The answer to a ping.
    Pong,
}

impl Speech {
    pub fn dialect(self) -> Dialect {
        match self {
            Speech::Imboy => Dialect::Imboy,
        }
    }

    /// The bytes of a message from a client; `device` is its device.
    pub fn encode(self, say: &Say, device: &str) -> Vec<u8> {
        match self {
            Speech::Imboy => imboy::encode(say, device).into_bytes(),
        }
    }

    /// What a message of the server says.
    pub fn decode(self, text: &str) -> Hear {
        match self {
            Speech::Imboy => imboy::decode(text),
        }
    }

    /// The times after the first one at which a record is sent again, ms.
    pub fn retry_ms(self, class: Class, wire: &str) -> &'static [u64] {
        match self {
            Speech::Imboy => imboy::retry_ms(class, wire),
        }
    }
}

impl Hear {
    /// How it is acknowledged, if it is.
    pub fn ack(&self) -> Option<Say> {
        match self {
            Hear::Said { group, wire, .. } => {
                let class = if *group { Class::Group } else { Class::Private };
                Some(Say::Ack { class, id: wire.clone() })
            }
            Hear::Revoked { wire, .. } | Hear::Event { wire, .. } => {
                Some(Say::Ack { class: Class::Event, id: wire.clone() })
            }
            Hear::OtherDevice { id } => Some(Say::Ack { class: Class::Event, id: id.clone() }),
            _ => None,
        }
    }
}
