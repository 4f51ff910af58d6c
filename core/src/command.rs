//! What a client asks for and what it is told, in no protocol's words.
//!
//! Dialects make [`Command`]s from frames and frames from [`Outcome`]s. A command is executed by
//! its conversation's home, wherever the connection lives.

use bytes::Bytes;
use compact_str::CompactString;

use crate::error::Refusal;
use crate::event::Stored;
use crate::ids::{ConnId, ConvKey, Conversation, DeviceId, ShardId, UserId};

/// Where an outcome goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The connection's shard.
    pub shard: ShardId,
    /// The connection.
    pub conn: ConnId,
}

/// A request for a conversation's home.
#[derive(Clone, Debug)]
pub struct Command {
    /// Who waits for the outcome.
    pub origin: Origin,
    /// The conversation it is about.
    pub conversation: Conversation,
    /// Its key, computed once.
    pub key: ConvKey,
    /// Who asks: the user of the connection's token.
    pub sender: UserId,
    /// From which device.
    pub device: DeviceId,
    /// The client's own id of the message; empty: no dedup.
    pub client_id: CompactString,
    /// If there is a user of this id, he is meant in place of the conversation's other member,
    /// whose id the client wrote in a form of its dialect.
    pub rival: Option<UserId>,
    /// What is asked.
    pub action: Action,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Action {
    /// Store and deliver a message.
    Send {
        /// Sender's time, if given.
        sender_ms: Option<i64>,
        /// What was sent, as the sender's dialect has it.
        content: Bytes,
        /// The sender has other devices that want a copy (a dialect with `echo_to_own_devices`).
        copies: bool,
    },
    /// Relay a signal to the receiver's connections of the sender's dialect, if he may be written
    /// to. Nothing is stored.
    Signal {
        /// What was sent, as the sender's dialect has it.
        content: Bytes,
    },
}

impl Action {
    /// Bytes that admission counts.
    pub fn content_bytes(&self) -> usize {
        match self {
            Action::Send { content, .. } | Action::Signal { content } => content.len(),
        }
    }
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// A message is stored, or was before.
    Stored(Stored),
    /// A signal was relayed, or dropped: nobody is told which.
    Relayed,
}

/// What the connection is told.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The connection.
    pub conn: ConnId,
    /// The conversation that the message went to.
    pub conversation: ConvKey,
    /// Whose message it is.
    pub sender: UserId,
    /// The client's own id of the message.
    pub client_id: CompactString,
    /// Whom it was for, where the refusal says that he may not be written to.
    pub refused_to: Option<UserId>,
    /// Bytes of content that the request carried, given back to admission.
    pub content_bytes: u32,
    /// The result.
    pub result: Result<Done, Refusal>,
}
