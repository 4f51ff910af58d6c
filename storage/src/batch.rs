//! A turn's entries as operations on keys and values, in one buffer that is used again.
//!
//! The shard that makes a turn writes its batch; the log's writer only puts batches behind each
//! other. So the bytes are RocksDB's own (its write-batch representation, FORMAT.md, *Batches*):
//! building a write batch from them costs the writer 26 ns per message of three keys, where a call
//! for each operation costs 142. Nothing here calls RocksDB.

use ringpost_core::event::{Effects, Entry, MessageEntry, Stored};
use ringpost_core::ids::ConvKey;

use crate::error::Malformed;
use crate::keys::{self, Family, meta};
use crate::{record, value};

/// RocksDB's tag of a put that names its family.
const PUT: u8 = 0x5;
/// RocksDB's tag of a deletion that names its family.
const DELETE: u8 = 0x4;
/// RocksDB's header: its sequence number, filled in when it is written, and the count.
pub(crate) const HEADER_BYTES: usize = 8 + 4;
/// The last operation of every batch in the log: puts `meta` `batch`.
pub(crate) const SEAL_BYTES: usize = 1 + 1 + 1 + meta::BATCH.len() + 1 + 16;

/// The operations of one turn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    ops: Vec<u8>,
    count: u32,
}

impl Batch {
    /// An empty one.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Appends all entries of a turn.
    pub fn push(&mut self, effects: &Effects) {
        for entry in &effects.entries {
            self.entry(entry, &effects.entry_bytes);
        }
    }

    /// Empties it for reuse; the capacity stays.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.count = 0;
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it adds to the write-ahead log.
    pub fn bytes(&self) -> usize {
        self.ops.len()
    }

    /// Appends one entry. `bytes` are those that its ranges point into.
    pub fn entry(&mut self, entry: &Entry, bytes: &[u8]) {
        match entry {
            Entry::Message { conversation, record } => self.message(*conversation, record, bytes),
            Entry::Emptied { conversation, record } => self.record(*conversation, record, bytes),
            Entry::Due { key, message: Some(message) } => {
                self.row_in(Family::Due, &keys::due(*key), |out| {
                    value::put_scheduled(out, message);
                });
            }
            Entry::Due { key, message: None } => self.delete(Family::Due, &keys::due(*key)),
            Entry::Scheduled { dedup, stored } => {
                self.row_in(Family::Dedup, &keys::dedup(*dedup), |out| {
                    value::put_stored(out, *stored);
                });
            }
            Entry::Conversation { key, conversation } => {
                self.row(&keys::conversation(*key), |out| {
                    value::put_conversation(out, conversation);
                });
            }
            Entry::User { user, row } => {
                self.row(&keys::user(user), |out| value::put_user(out, row));
            }
            Entry::Group { group, row } => {
                self.row(&keys::group(group), |out| value::put_group(out, row));
            }
            Entry::Member { group, user, row } => {
                self.row_or_none(&keys::member(group, user), row.as_deref(), value::put_member);
            }
            Entry::Membership { user, conversation, row } => {
                let key = keys::membership(user, *conversation);
                self.row_or_none(&key, row.as_deref(), value::put_membership);
            }
            Entry::Relation { user, other, row } => {
                self.row_or_none(&keys::relation(user, other), row.as_deref(), value::put_relation);
            }
            Entry::Owed { slot, id, owed } => {
                let key = keys::owed(*slot, *id);
                match owed {
                    Some(owed) => self.row_in(Family::Owed, &key, |out| {
                        value::put_owed(out, owed);
                    }),
                    None => self.delete(Family::Owed, &key),
                }
            }
            Entry::Device { user, device, row } => {
                self.row(&keys::device(user, device), |out| value::put_device(out, *row));
            }
            Entry::DeviceGone { user, device } => {
                self.delete(Family::Rows, &keys::device(user, device));
            }
            Entry::Cursor { user, conversation, device, position } => {
                self.row(&keys::cursor(user, *conversation, device), |out| {
                    value::put_position(out, position);
                });
            }
            Entry::Mark { user, conversation, seq } => {
                self.row(&keys::mark(user, *conversation), |out| value::put_seq(out, *seq));
            }
            Entry::MarkGone { user, conversation } => {
                self.delete(Family::Rows, &keys::mark(user, *conversation));
            }
            Entry::Chat { user, conversation } => {
                self.row(&keys::chat(user, *conversation), value::put_present);
            }
            Entry::Sent { conversation, user, seq } => {
                self.row(&keys::sent(*conversation, user), |out| value::put_seq(out, *seq));
            }
            Entry::Read { user, conversation, seq } => {
                self.row(&keys::read(user, *conversation), |out| value::put_seq(out, *seq));
            }
            Entry::Mention { user, conversation, seq } => {
                self.row(&keys::mention(user, *conversation, *seq), value::put_present);
            }
            Entry::MentionGone { user, conversation, seq } => {
                self.delete(Family::Rows, &keys::mention(user, *conversation, *seq));
            }
            Entry::MentionAll { conversation, seq } => {
                self.row(&keys::mention_all(*conversation, *seq), value::put_present);
            }
            Entry::IdLease { shard, second } => {
                self.put(Family::Meta, &keys::lease(*shard), &second.to_be_bytes());
            }
        }
    }

    fn message(&mut self, conversation: ConvKey, entry: &MessageEntry, bytes: &[u8]) {
        self.record(conversation, entry, bytes);
        self.row_in(Family::Ids, &keys::id(entry.id), |out| {
            value::put_place(out, conversation, entry.seq);
        });
        if let Some(dedup) = entry.dedup {
            let stored = Stored { id: entry.id, seq: entry.seq, time_ms: entry.time_ms };
            self.row_in(Family::Dedup, &keys::dedup(dedup), |out| {
                value::put_stored(out, stored);
            });
        }
    }

    fn record(&mut self, conversation: ConvKey, entry: &MessageEntry, bytes: &[u8]) {
        assert!(entry.seq > 0, "seqs count from 1");
        let view = entry.record(bytes);
        self.key(PUT, Family::Log, &keys::log(conversation, entry.seq));
        varint(&mut self.ops, record::len(&view));
        record::put(&mut self.ops, &view);
    }

    /// Puts a row, or deletes it.
    fn row_or_none<R>(&mut self, key: &[u8], row: Option<&R>, put: impl Fn(&mut Vec<u8>, &R)) {
        match row {
            Some(row) => self.row(key, |out| put(out, row)),
            None => self.delete(Family::Rows, key),
        }
    }

    fn row(&mut self, key: &[u8], put: impl FnOnce(&mut Vec<u8>)) {
        self.row_in(Family::Rows, key, put);
    }

    /// Puts a value whose length is known only when it is written.
    fn row_in(&mut self, family: Family, key: &[u8], put: impl FnOnce(&mut Vec<u8>)) {
        self.key(PUT, family, key);
        // Nearly all values are shorter than 128 bytes, so one byte is kept for their length.
        let at = self.ops.len();
        self.ops.push(0);
        put(&mut self.ops);
        let len = self.ops.len() - at - 1;
        if len < 0x80 {
            self.ops[at] = len as u8;
        } else {
            let mut length = Vec::with_capacity(5);
            varint(&mut length, len);
            self.ops.splice(at..=at, length);
        }
    }

    pub(crate) fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.key(PUT, family, key);
        varint(&mut self.ops, value.len());
        self.ops.extend_from_slice(value);
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.key(DELETE, family, key);
    }

    fn key(&mut self, tag: u8, family: Family, key: &[u8]) {
        // Families are numbered below 128: their varint is one byte.
        self.ops.extend_from_slice(&[tag, family.number()]);
        varint(&mut self.ops, key.len());
        self.ops.extend_from_slice(key);
        self.count += 1;
    }
}

/// Writes into `out` what the log gets for `batches`: all their operations and, as the last one,
/// the number of this commit with the store's seal.
pub(crate) fn join(out: &mut Vec<u8>, batches: &[Batch], number: u64, seal: [u8; 8]) {
    out.clear();
    let count: u32 = batches.iter().map(|batch| batch.count).sum::<u32>() + 1;
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&count.to_le_bytes());
    for batch in batches {
        out.extend_from_slice(&batch.ops);
    }
    out.extend_from_slice(&seal_head());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&seal);
}

/// The number of a batch that [`join`] wrote with this seal; `None` for any other bytes.
pub(crate) fn sealed(batch: &[u8], seal: [u8; 8]) -> Option<u64> {
    let (rest, last) = batch.split_last_chunk::<SEAL_BYTES>()?;
    let (head, value) = last.split_at(SEAL_BYTES - 16);
    let (number, mark) = value.split_first_chunk::<8>()?;
    (rest.len() >= HEADER_BYTES && *head == seal_head() && *mark == seal)
        .then(|| u64::from_be_bytes(*number))
}

/// How many operations the header of a batch says it has.
pub(crate) fn count(batch: &[u8]) -> Option<u32> {
    batch.get(8..HEADER_BYTES)?.try_into().ok().map(u32::from_le_bytes)
}

fn seal_head() -> [u8; SEAL_BYTES - 16] {
    let [b, a, t, c, h] = *b"batch";
    [PUT, Family::Meta as u8, meta::BATCH.len() as u8, b, a, t, c, h, 16]
}

/// One operation of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Op<'a> {
    pub family: Family,
    pub key: &'a [u8],
    /// `None` deletes the key.
    pub value: Option<&'a [u8]>,
}

/// The operations of what [`join`] wrote.
pub(crate) fn ops(batch: &[u8]) -> impl Iterator<Item = Result<Op<'_>, Malformed>> {
    let mut rest = batch.get(HEADER_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let op = (!rest.is_empty()).then(|| take_op(&mut rest));
        if let Some(Err(_)) = op {
            rest = &[];
        }
        op
    })
}

fn take_op<'a>(rest: &mut &'a [u8]) -> Result<Op<'a>, Malformed> {
    let tag = take(rest, 1)?[0];
    let family = Family::from_number(take(rest, 1)?[0]).ok_or(Malformed("no such family"))?;
    let key = take_sized(rest)?;
    let value = match tag {
        PUT => Some(take_sized(rest)?),
        DELETE => None,
        _ => return Err(Malformed("an operation that no batch has")),
    };
    Ok(Op { family, key, value })
}

fn take_sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let mut len = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = take(rest, 1)?[0];
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return take(rest, len);
        }
    }
    Err(Malformed("a length in a batch is too long"))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
    let (taken, after) = rest.split_at_checked(len).ok_or(Malformed("a batch ends too early"))?;
    *rest = after;
    Ok(taken)
}

fn varint(out: &mut Vec<u8>, len: usize) {
    let mut len = u32::try_from(len).expect("a turn's bytes are bounded far below 4 GiB");
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_core::event::UserRow;
    use ringpost_core::ids::{ShardId, UserId};

    fn user(profile: usize) -> Entry {
        let user = UserId::parse("ann").expect("valid");
        Entry::User {
            user,
            row: UserRow { created_ms: 1, profile: "x".repeat(profile), ..UserRow::default() },
        }
    }

    #[test]
    fn values_of_every_length_come_back() {
        for profile in [0, 1, 118, 119, 120, 16_374, 16_375, 16_376, 300_000] {
            let mut batch = Batch::new();
            batch.entry(&user(profile), &[]);
            batch.entry(&Entry::IdLease { shard: ShardId(1), second: 2 }, &[]);
            let mut out = vec![];
            join(&mut out, &[batch], 5, [7; 8]);
            let ops: Vec<_> = ops(&out).collect::<Result<_, _>>().expect("well formed");
            assert_eq!(ops.len(), 3);
            assert_eq!(count(&out), Some(3));
            let row = value::user(ops[0].value.expect("a put")).expect("a user");
            assert_eq!(row.profile.len(), profile);
            assert_eq!(ops[1].value, Some(&[0, 0, 0, 2][..]));
            assert_eq!(ops[2].key, meta::BATCH);
        }
    }

    #[test]
    fn only_the_own_seal_is_one() {
        let mut batch = Batch::new();
        batch.entry(&user(3), &[]);
        let mut out = vec![];
        join(&mut out, &[batch], 0x0102, [7; 8]);
        assert_eq!(sealed(&out, [7; 8]), Some(0x0102));
        assert_eq!(sealed(&out, [8; 8]), None, "another store's");
        assert_eq!(sealed(&out[1..], [7; 8]), Some(0x0102), "the seal is at the end");
        assert_eq!(sealed(&out[..out.len() - 1], [7; 8]), None, "cut");
        assert_eq!(sealed(&out[out.len() - SEAL_BYTES..], [7; 8]), None, "no header");
        assert_eq!(sealed(&[], [7; 8]), None);
    }

    #[test]
    fn batches_lie_behind_each_other() {
        let [mut one, mut two] = [Batch::new(), Batch::new()];
        one.entry(&user(1), &[]);
        two.entry(&Entry::IdLease { shard: ShardId(0), second: 9 }, &[]);
        let mut out = vec![0xff; 9];
        join(&mut out, &[one.clone(), Batch::new(), two.clone()], 1, [0; 8]);
        assert_eq!(out.len(), HEADER_BYTES + one.bytes() + two.bytes() + SEAL_BYTES);
        let families: Vec<_> = ops(&out).map(|op| op.expect("well formed").family).collect();
        assert_eq!(families, [Family::Rows, Family::Meta, Family::Meta]);
        one.clear();
        assert!(one.is_empty() && one.bytes() == 0);
    }

    #[test]
    fn broken_batches_end_in_an_error() {
        let mut batch = Batch::new();
        batch.entry(&user(200), &[]);
        let mut out = vec![];
        join(&mut out, &[batch], 1, [0; 8]);
        for end in HEADER_BYTES + 1..out.len() - SEAL_BYTES {
            assert!(ops(&out[..end]).last().is_some_and(|op| op.is_err()), "cut at {end}");
        }
        out[HEADER_BYTES] = 0x7f;
        assert_eq!(ops(&out).next(), Some(Err(Malformed("an operation that no batch has"))));
    }
}
