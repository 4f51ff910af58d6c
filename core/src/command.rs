//! What a client asks for and what it is told, in no protocol's words.
//!
//! Dialects make [`Command`]s from frames and frames from [`Outcome`]s. A command is executed by
//! its conversation's home, wherever the connection lives.

use bytes::Bytes;
use compact_str::CompactString;

use crate::error::Refusal;
use crate::event::{ControlId, JoinPolicy, MemberRole, Stored};
use crate::ids::{ConnId, ConvKey, ConvKind, Conversation, DeviceId, ShardId, UserId};
use crate::record::Kind;
use crate::scheduled::DueKey;

/// Who waits for what becomes of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A connection.
    Conn {
        /// The connection's shard.
        shard: ShardId,
        /// The connection.
        conn: ConnId,
    },
    /// The control plane, which has asked the conversation's home itself.
    Control(ControlId),
    /// Nobody: it was scheduled, and its time has come.
    Schedule(DueKey),
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
    /// Meant in place of `conversation` if there is such a user or group: the client wrote an id
    /// in a form of its dialect, which may also be somebody's very id.
    pub rival: Option<Conversation>,
    /// What is asked.
    pub action: Action,
}

impl Command {
    /// The other user of a private conversation.
    pub fn other(&self) -> Option<&UserId> {
        self.conversation.marked().find(|user| **user != self.sender)
    }

    /// The peer, oneself in notes to oneself, or the group, as clients name it.
    pub fn to(&self) -> Option<CompactString> {
        match &self.conversation {
            Conversation::Group(group) => Some(CompactString::new(group.as_str())),
            _ => Some(CompactString::new(self.other().unwrap_or(&self.sender).as_str())),
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum Action {
    /// Store and deliver a message.
    Send {
        /// [`Kind::Message`] or [`Kind::Neutral`].
        kind: Kind,
        /// Sender's time, if given.
        sender_ms: Option<i64>,
        /// What was sent, as the sender's dialect has it.
        content: Bytes,
        /// The sender has other devices that want a copy (a dialect with `echo_to_own_devices`).
        copies: bool,
        /// Whom it is addressed to among those who get it; `None`: nobody in particular.
        mentions: Option<Box<Mentioned>>,
        /// Not before so many ms; 0: at once. At most [`crate::limits::DUE_AFTER_MS_MAX`].
        after_ms: u64,
    },
    /// Take a message back: the one that the command's `client_id` names.
    Revoke {
        /// Whoever wrote it, and however long ago.
        by_operator: bool,
    },
    /// Relay a signal to the receiver's connections of the sender's dialect, if he may be written
    /// to. Nothing is stored.
    Signal {
        /// What was sent, as the sender's dialect has it.
        content: Bytes,
    },
}

/// Whom a message mentions. Who is no member of the conversation is not told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mentioned {
    /// These users, each once; at most [`crate::limits::MENTIONS_MAX`].
    pub users: Vec<UserId>,
    /// Everybody who gets the message.
    pub everybody: bool,
}

impl Action {
    /// Users whom it mentions by name.
    pub fn mentioned(&self) -> &[UserId] {
        match self {
            Action::Send { mentions: Some(mentions), .. } => &mentions.users,
            _ => &[],
        }
    }

    /// Bytes that admission counts.
    pub fn content_bytes(&self) -> usize {
        match self {
            Action::Send { content, .. } | Action::Signal { content } => content.len(),
            Action::Revoke { .. } => 0,
        }
    }
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// A message is stored, or was before.
    Stored(Stored),
    /// A message was taken back, or was before; the event that says so.
    Revoked(Stored),
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
    /// What kind of one.
    pub kind: ConvKind,
    /// Whose message it is.
    pub sender: UserId,
    /// The client's own id of the message.
    pub client_id: CompactString,
    /// The peer or group that it was for, where the answer names it.
    pub to: Option<CompactString>,
    /// Bytes of content that the request carried, given back to admission.
    pub content_bytes: u32,
    /// The result.
    pub result: Result<Done, Refusal>,
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
