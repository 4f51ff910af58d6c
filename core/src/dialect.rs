//! The dialects: pure translators between a protocol's frames and the core's commands and events.
//!
//! A dialect owns no rule, no timer and no storage. What differs between dialects in delivery
//! (retry times, pauses, copies) it states as data, in [`Delivery`].

pub mod imboy;
pub mod json;

use crate::content::Body;
use crate::ids::{Dialect, GroupId};

/// What the operator can set, for all dialects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// See [`imboy::Settings`].
    pub imboy: imboy::Settings,
}

/// What a delivered record is to a dialect: how it is acknowledged and how often it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A message of a private conversation.
    Private,
    /// A message of a group.
    Group,
    /// Something that happened.
    Event,
    /// A friend request or its acceptance: an event that is repeated sooner.
    FriendRequest,
}

impl Class {
    /// Whether an acknowledgement of `other` is one of this.
    pub fn is_acknowledged_as(self, other: Class) -> bool {
        self == other || (self == Class::FriendRequest && other == Class::Event)
    }
}

/// Where a record is, as far as its frame shows it.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// A conversation that is the receiver's own or has one peer.
    User,
    /// A group.
    Group(&'a GroupId),
}

/// How the core delivers to a device of a dialect (protocols/README.md, *Delivery*).
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// When what is not acknowledged is sent again.
    pub retries: &'a Retries,
    /// Pause between two messages pushed at connect, unless the first is acknowledged; 0: none.
    pub catch_up_gap_ms: u64,
    /// A user's other devices of this dialect get what the user sends.
    pub echo_to_own_devices: bool,
    /// What a device has acknowledged its user has read.
    pub ack_is_read: bool,
    /// A second connection of the same device replaces the first, which is closed with this code.
    pub replaced_close: Option<u16>,
    /// The user's other devices of this dialect are told when one connects.
    pub tells_other_devices: bool,
}

/// Send times after the first one, in ms after it, ascending, by what is sent. After the last one
/// a stored message waits for the next connect.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retries {
    /// A private message.
    pub private: Vec<u64>,
    /// A group message.
    pub group: Vec<u64>,
    /// A friend request and its confirmation.
    pub friend_request: Vec<u64>,
    /// The news that another device has connected; not stored.
    pub another_device: Vec<u64>,
    /// Any other stored message of the server's own.
    pub notice: Vec<u64>,
}

impl<'a> Delivery<'a> {
    /// The send times of a class.
    pub fn retry_ms(&self, class: Class) -> &'a [u64] {
        match class {
            Class::Private => &self.retries.private,
            Class::Group => &self.retries.group,
            Class::Event => &self.retries.notice,
            Class::FriendRequest => &self.retries.friend_request,
        }
    }
}

impl Settings {
    /// What a message of `dialect` says, in no protocol's words.
    pub fn parse(&self, dialect: Dialect, content: &str) -> Body {
        match dialect {
            Dialect::Imboy => imboy::content::parse(&self.imboy, content),
        }
    }

    /// The delivery rules of `dialect`.
    pub fn delivery(&self, dialect: Dialect) -> Delivery<'_> {
        match dialect {
            Dialect::Imboy => self.imboy.delivery(),
        }
    }
}
