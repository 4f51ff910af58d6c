//! A stored message as the core sees it, and pages of them.
//!
//! How a record lies on disk is the storage crate's business (storage/FORMAT.md).

use std::ops::Range;

use crate::ids::{Dialect, MessageId};

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// What a user sent; `content` is in the words of `dialect`.
    Message = 0,
    /// Something that happened; `content` is a [`crate::happened::Happened`].
    Event = 1,
    /// A message that was revoked; it has no content any more.
    Revoked = 2,
    /// A message whose `content` is the neutral model as JSON ([`crate::content::json`]): it came
    /// over the HTTP API, from no device.
    Neutral = 3,
}

impl Kind {
    /// The number it has in the store.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Kind::number`].
    pub fn from_number(number: u8) -> Option<Kind> {
        match number {
            0 => Some(Kind::Message),
            1 => Some(Kind::Event),
            2 => Some(Kind::Revoked),
            3 => Some(Kind::Neutral),
            _ => None,
        }
    }
}

/// One message of a conversation's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Position in the conversation, from 1, gapless.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// The server's id.
    pub id: MessageId,
    /// Server time, ms since 1970; never before the previous record's.
    pub time_ms: u64,
    /// Sender's time, if it gave one.
    pub sender_ms: Option<i64>,
    /// Countable messages of the conversation up to this one.
    pub countable: u64,
    /// Of a private conversation: the seq of the last message of each side (as in
    /// [`crate::ids::Conversation::marked`]) up to this one; 0: none, or not known.
    pub sent: [u64; 2],
    /// User id of who sent or caused it; empty: nobody did.
    pub sender: &'a str,
    /// The sending device's dialect, in which a message's `content` is written.
    pub dialect: Dialect,
    /// The sending device, in that dialect.
    pub device: &'a str,
    /// The sender's own id of it; may be empty.
    pub client_id: &'a str,
    /// What was sent, byte for byte.
    pub content: &'a [u8],
}

/// Records of one conversation in ascending order, in one buffer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    bytes: Vec<u8>,
    heads: Vec<Head>,
}

/// A record's fixed part; the ranges are in `Page::bytes`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Head {
    seq: u64,
    kind: Kind,
    id: MessageId,
    time_ms: u64,
    sender_ms: Option<i64>,
    countable: u64,
    sent: [u64; 2],
    dialect: Dialect,
    /// Ends of sender, device, client id and content, which follow each other from `start`.
    start: u32,
    ends: [u32; 4],
}

impl Page {
    /// Appends a copy of `record`.
    pub fn push(&mut self, record: &Record<'_>) {
        assert!(self.heads.last().is_none_or(|last| last.seq < record.seq));
        let start = self.bytes.len() as u32;
        let parts = [
            record.sender.as_bytes(),
            record.device.as_bytes(),
            record.client_id.as_bytes(),
            record.content,
        ];
        let mut ends = [0; 4];
        for (part, end) in parts.iter().zip(&mut ends) {
            self.bytes.extend_from_slice(part);
            *end = self.bytes.len() as u32;
        }
        let Record { seq, kind, id, time_ms, sender_ms, countable, sent, dialect, .. } = *record;
        self.heads.push(Head {
            seq,
            kind,
            id,
            time_ms,
            sender_ms,
            countable,
            sent,
            dialect,
            start,
            ends,
        });
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// No record.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Bytes of the records' variable parts.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record at `index`.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let head = self.heads.get(index)?;
        let part = |range: Range<u32>| &self.bytes[range.start as usize..range.end as usize];
        // The parts were copied from `str`s by `push`.
        let text = |range| std::str::from_utf8(part(range)).expect("copied from a str");
        let [sender, device, client_id, content] = head.ends;
        Some(Record {
            seq: head.seq,
            kind: head.kind,
            id: head.id,
            time_ms: head.time_ms,
            sender_ms: head.sender_ms,
            countable: head.countable,
            sent: head.sent,
            sender: text(head.start..sender),
            dialect: head.dialect,
            device: text(sender..device),
            client_id: text(device..client_id),
            content: part(client_id..content),
        })
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.heads.len()).filter_map(|index| self.get(index))
    }
}
