//! What a client asks for and what it is told, in no protocol's words.
//!
//! Dialects make [`Command`]s from frames and frames from [`Outcome`]s. A command is executed by
//! its conversation's home, wherever the connection lives.

use bytes::Bytes;
use compact_str::CompactString;

use crate::error::Refusal;
use crate::event::{JoinPolicy, MemberRole, Stored};
use crate::ids::{ConnId, ConvKey, ConvKind, Conversation, DeviceId, ShardId, UserId};

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
}

/// What the connection is told.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The connection.
    pub conn: ConnId,
    /// The conversation that the message went to.
    pub conversation: ConvKey,
    /// What kind of one.
    pub kind: ConvKind,
    /// Whose message it is.
    pub sender: UserId,
    /// The client's own id of the message.
    pub client_id: CompactString,
    /// Whom it was for, where the refusal says that he does not want it.
    pub refused_to: Option<UserId>,
    /// Bytes of content that the request carried, given back to admission.
    pub content_bytes: u32,
    /// The result.
    pub result: Result<Stored, Refusal>,
}

/// A business notice for one user.
#[derive(Clone, Debug)]
pub struct NoticeOperation {
    /// The caller's own id of it, at most [`crate::limits::NOTICE_ID_BYTES_MAX`]; empty: none.
    /// Under the same id it is not stored a second time.
    pub id: CompactString,
    /// The encoded [`crate::happened::Happened::Noticed`].
    pub content: Bytes,
}

/// What the control plane asks of a group's home.
#[derive(Clone, Debug)]
pub enum GroupOperation {
    /// Make it, with its owner and these members.
    Create { owner: UserId, members: Vec<UserId>, join_policy: JoinPolicy, profile: String },
    /// Read it.
    Get,
    /// Replace what is given.
    Change { join_policy: Option<JoinPolicy>, profile: Option<String> },
    /// Close it.
    Dissolve { by: Option<UserId> },
    /// Make these users members; who is one stays as he is.
    Add { users: Vec<UserId>, by: Option<UserId> },
    /// End a membership. The owner's cannot be ended.
    Remove { user: UserId, by: Option<UserId> },
    /// Replace what is given of a member. `role` [`MemberRole::Owner`] transfers the group.
    ChangeMember {
        /// Whose.
        user: UserId,
        /// Name in the group; empty: none any more.
        alias: Option<String>,
        /// What the member says of himself.
        description: Option<String>,
        /// What he may do.
        role: Option<MemberRole>,
    },
    /// A page of the members, in order of their ids.
    List { after: Option<UserId>, limit: u32 },
}
