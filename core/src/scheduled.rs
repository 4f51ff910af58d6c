//! A message that is to be stored later, as it lies in the log until then (`shard/schedule.rs`).

use bytes::Bytes;
use compact_str::CompactString;

use crate::command::{Action, Command, Mentioned, Origin};
use crate::ids::{Conversation, DeviceId, MessageId, Slot, UserId};
use crate::record::Kind;

/// Where it lies: under its conversation's slot, by the time when it is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DueKey {
    /// The conversation's.
    pub slot: Slot,
    /// When it is to be stored, ms since 1970.
    pub due_ms: u64,
    /// The id that it will have.
    pub id: MessageId,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scheduled {
    /// Where it goes.
    pub conversation: Conversation,
    /// Who has sent it.
    pub sender: UserId,
    /// From which device.
    pub device: DeviceId,
    /// The sender's own id of it; may be empty.
    pub client_id: CompactString,
    /// See [`Action::Send`], likewise the rest.
    pub kind: Kind,
    /// See there.
    pub sender_ms: Option<i64>,
    /// See there.
    pub mentions: Option<Box<Mentioned>>,
    /// See there.
    pub content: Bytes,
}

impl Scheduled {
    /// What a command to send something later asks for; `None`: it is another one.
    pub fn of(command: &Command) -> Option<Scheduled> {
        let Action::Send { kind, sender_ms, content, mentions, .. } = &command.action else {
            return None;
        };
        Some(Scheduled {
            conversation: command.conversation.clone(),
            sender: command.sender.clone(),
            device: command.device.clone(),
            client_id: command.client_id.clone(),
            kind: *kind,
            sender_ms: *sender_ms,
            mentions: mentions.clone(),
            content: content.clone(),
        })
    }

    /// The command that stores it now.
    pub fn into_command(self, key: DueKey, secret: u64) -> Command {
        let Scheduled { kind, sender_ms, mentions, content, .. } = self;
        // No connection waits for it, whose device would pass it.
        let copies = true;
        Command {
            origin: Origin::Schedule(key),
            key: self.conversation.key(secret),
            conversation: self.conversation,
            sender: self.sender,
            device: self.device,
            client_id: self.client_id,
            rival: None,
            action: Action::Send { kind, sender_ms, content, copies, mentions, after_ms: 0 },
        }
    }
}
