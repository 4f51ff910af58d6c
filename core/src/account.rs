//! An account as such: banned, cancelled, hidden, and where it is connected.

use compact_str::CompactString;

use crate::ids::{Dialect, UserId};
use crate::session::Client;

/// What an account may do, and what others see of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Friends are not told whether it is connected.
    pub hidden: bool,
    /// It may not connect.
    pub ban: Option<Ban>,
    /// When it was cancelled, ms since 1970; 0: it was not. Its id is not given again.
    pub cancelled_ms: u64,
}

impl Standing {
    /// Whether a login of the account is refused.
    pub fn refuses(&self, wall_ms: u64) -> bool {
        self.cancelled_ms > 0 || self.ban.as_ref().is_some_and(|ban| ban.until_ms > wall_ms)
    }
}

/// Why an account may not connect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ban {
    /// When it ends, ms since 1970; `u64::MAX`: never.
    pub until_ms: u64,
    /// For the user, at most [`crate::limits::BAN_REASON_BYTES_MAX`].
    pub reason: String,
}

/// What the control plane asks of an account's home.
#[derive(Clone, Debug)]
pub enum AccountOperation {
    /// End its connections; those of one device, by its name, or all.
    Kick { device: Option<CompactString> },
    /// It may not connect any more, or again.
    Ban(Option<Ban>),
    /// Whether friends are told when it is connected.
    Hide(bool),
    /// Where it is connected.
    Connections,
    /// Whether it is.
    Presence,
    /// It ends. Groups that it owns go to the heir, if that is a member, else they are dissolved.
    Cancel { heir: Option<UserId> },
}

/// What others are told of a user's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// There is one.
    Online,
    /// There is none.
    Offline,
    /// It is not told.
    Hidden,
}

/// A connected device, for the control plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connected {
    /// What it speaks.
    pub dialect: Dialect,
    /// Its id in that dialect.
    pub device: CompactString,
    /// What the client has said of itself when it connected.
    pub client: Client,
    /// How many connections it has.
    pub connections: u32,
    /// Since when it is connected, ms since 1970.
    pub since_ms: u64,
    /// Records that it has not acknowledged, those not sent yet included.
    pub pending: u64,
}
