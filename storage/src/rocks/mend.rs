//! Makes the families agree again after a repair has cut the write-ahead log.
//!
//! A family that was flushed after the hole is ahead of one that was not: the log may lack messages
//! whose ids, dedup keys, cursors and marks are there, or have messages that lack theirs. The log
//! decides what has happened; everything else is made to follow from it (FORMAT.md, *Repair*).
//! What is cut, and whether, was decided before (`repair`).

use std::ops::ControlFlow;
use std::time::{SystemTime, UNIX_EPOCH};

use ringpost_core::event::{Entry, Position, Stored};
use ringpost_core::ids::{ConvKey, Conversation, DedupKey, ShardId, Slot, UserId};
use ringpost_core::limits::{DEDUP_KEPT_MS, ID_LEASE_S};
use ringpost_core::record::Record;
use ringpost_core::scheduled::DueKey;
use rocksdb::{Cache, DB, ReadOptions, WriteBatch, WriteOptions};

use super::{Reads, check_families, failed, handle, open_failed, random, tuning, write_failed};
use crate::batch::{self, Batch};
use crate::directory::Directory;
use crate::error::{LogError, Malformed};
use crate::keys::{self, Family, Row, meta};
use crate::load::{View, malformed};
use crate::repair::{Loss, Mended};
use crate::{Opening, Recovery, opening, record, value};

/// Batch numbers that a repair leaves out: none of them was ever given to a lost batch.
const NUMBERS_SKIPPED: u64 = 1_000_000;
/// Memory for blocks while everything is read once.
const CACHE_BYTES: usize = 64 << 20;
/// Changes are written in batches of about this size.
const BATCH_BYTES: usize = 1 << 20;

/// Opens without changing anything, in the strictest mode; what the store says about itself.
pub(crate) fn look(directory: &Directory) -> Result<Opening, LogError> {
    let rocks = directory.rocks();
    let cache = Cache::new_hyper_clock_cache(CACHE_BYTES, 0);
    let families = tuning::families(&cache);
    let db = DB::open_cf_descriptors_read_only(&tuning::database(0), &rocks, families, false)
        .map_err(|error| open_failed(&rocks, &error))?;
    let options = ReadOptions::default();
    opening::read(&Reads { db: &db, options: &options, cached: false }, Recovery::default())
}

/// Opens what a repair has left, makes it agree with itself, gives it a new epoch, and goes on far
/// behind all numbers and ids that were lost. May be done again when it was interrupted.
pub(crate) fn mend(directory: &Directory, loss: &Loss) -> Result<Mended, LogError> {
    let rocks = directory.rocks();
    let cache = Cache::new_hyper_clock_cache(CACHE_BYTES, 0);
    let mut options = tuning::database(0);
    // The manifest remembers the files that were cut; RocksDB forgets them when this is off.
    options.set_track_and_verify_wals_in_manifest(false);
    let db = DB::open_cf_descriptors(&options, &rocks, tuning::families(&cache))
        .map_err(|error| open_failed(&rocks, &error))?;
    check_families(&db)?;
    // Tables have an order, also where memtables have none.
    flush(&db)?;
    let options = ReadOptions::default();
    let view = Reads { db: &db, options: &options, cached: false };
    let before = opening::read(&view, Recovery::default())?;
    let number = before.batch.max(loss.before).max(loss.last) + NUMBERS_SKIPPED;
    let seal = directory.seal;
    let writer = Writer { db: &db, seal, number, batch: Batch::new() };
    let mut mend = Mend { db: &db, view, writer, secret: before.secret, mended: Mended::default() };
    mend.follow_the_log()?;
    mend.forget_the_lost()?;
    mend.cut_positions()?;
    mend.mark_the_unread()?;
    let Mend { mut writer, mut mended, .. } = mend;
    mended.epoch = random()?;
    mended.leased = before.leased.max(loss.leased).max(now_s()).saturating_add(2 * ID_LEASE_S);
    let lease = Entry::IdLease { shard: ShardId(0), second: mended.leased };
    writer.batch.entry(&lease, &[]);
    writer.batch.put(Family::Meta, meta::EPOCH, &mended.epoch.to_be_bytes());
    mended.batch = writer.number;
    writer.write()?;
    flush(&db)?;
    Ok(mended)
}

fn flush(db: &DB) -> Result<(), LogError> {
    Family::ALL
        .into_iter()
        .try_for_each(|family| db.flush_cf(handle(db, family)).map_err(|e| write_failed(&e)))
}

fn now_s() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Writes changes as batches of the store, synced.
struct Writer<'a> {
    db: &'a DB,
    seal: [u8; 8],
    /// Of the next batch.
    number: u64,
    batch: Batch,
}

impl Writer<'_> {
    fn write_if_large(&mut self) -> Result<(), LogError> {
        if self.batch.bytes() < BATCH_BYTES { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![];
        batch::join(&mut bytes, std::slice::from_ref(&self.batch), self.number, self.seal);
        let mut writes = WriteOptions::default();
        writes.set_sync(true);
        let joined = WriteBatch::from_data(&bytes);
        self.db.write_opt(joined, &writes).map_err(|error| write_failed(&error))?;
        self.number += 1;
        self.batch.clear();
        Ok(())
    }
}

struct Mend<'a> {
    db: &'a DB,
    view: Reads<'a>,
    writer: Writer<'a>,
    secret: u64,
    mended: Mended,
}

impl Mend<'_> {
    /// Every message has its id and its dedup key. Where the name of the conversation is lost,
    /// nobody can be told about its messages any more, and they go too.
    fn follow_the_log(&mut self) -> Result<(), LogError> {
        let mut current = None;
        let mut name = None;
        each(self.db, Family::Log, |key, value| {
            let (conv, seq) =
                keys::parse_log(key).map_err(|why| malformed(Family::Log, key, why))?;
            let record = record::get(seq, value).map_err(|why| malformed(Family::Log, key, why))?;
            match current {
                Some((same, last)) if same == conv && seq == last + 1 => {}
                Some((same, _)) if same == conv => {
                    let why = Malformed("a record is missing before this one");
                    return Err(malformed(Family::Log, key, why));
                }
                _ => name = self.name(conv)?,
            }
            current = Some((conv, seq));
            if let Some(name) = &name {
                self.index(conv, name, &record)?;
            } else {
                self.writer.batch.delete(Family::Log, key);
                self.mended.nameless += 1;
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()
    }

    /// A conversation's name. Everybody's is known, and made where it is lost.
    fn name(&mut self, conv: ConvKey) -> Result<Option<Conversation>, LogError> {
        let row = keys::conversation(conv);
        let name = self.view.get(Family::Rows, &row, value::conversation)?;
        if name.is_none() && conv == Conversation::Broadcast.key(self.secret) {
            let conversation = Conversation::Broadcast;
            self.writer.batch.entry(&Entry::Conversation { key: conv, conversation }, &[]);
            return Ok(Some(Conversation::Broadcast));
        }
        Ok(name)
    }

    /// Where it is found when it comes again, if it was given an id.
    fn dedup(&self, conv: ConvKey, name: &Conversation, record: &Record<'_>) -> Option<DedupKey> {
        if record.client_id.is_empty() {
            return None;
        }
        let (id, secret) = (record.client_id, self.secret);
        match (UserId::parse(record.sender), name) {
            (Some(sender), _) => Some(DedupKey::new(conv, &sender, id, secret)),
            (None, Conversation::Notice(user)) => {
                Some(DedupKey::of_notice(conv, Some(user), id, secret))
            }
            (None, Conversation::Broadcast) => Some(DedupKey::of_notice(conv, None, id, secret)),
            (None, _) => None,
        }
    }

    fn index(
        &mut self,
        conv: ConvKey,
        name: &Conversation,
        record: &Record<'_>,
    ) -> Result<(), LogError> {
        let (id, seq, time_ms) = (record.id, record.seq, record.time_ms);
        if !self.has(Family::Ids, &keys::id(id))? {
            let mut place = vec![];
            value::put_place(&mut place, conv, seq);
            self.writer.batch.put(Family::Ids, &keys::id(id), &place);
            self.mended.ids_made += 1;
        }
        if let Some(dedup) = self.dedup(conv, name, record)
            && time_ms.saturating_add(DEDUP_KEPT_MS) > u64::from(now_s()) * 1_000
        {
            let key = keys::dedup(dedup);
            if !self.has(Family::Dedup, &key)? {
                let mut stored = vec![];
                value::put_stored(&mut stored, Stored { id, seq, time_ms });
                self.writer.batch.put(Family::Dedup, &key, &stored);
                self.mended.dedup_made += 1;
            }
        }
        Ok(())
    }

    /// No id and no dedup key is of a message that the log does not have: who sends a lost message
    /// again, sends a new one.
    fn forget_the_lost(&mut self) -> Result<(), LogError> {
        each(self.db, Family::Ids, |key, value| {
            let (conv, seq) =
                value::place(value).map_err(|why| malformed(Family::Ids, key, why))?;
            let same = |value: &[u8]| Ok(record::get(seq, value)?.id.0[..] == *key);
            if self.view.get(Family::Log, &keys::log(conv, seq), same)? != Some(true) {
                self.writer.batch.delete(Family::Ids, key);
                self.mended.ids_gone += 1;
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()?;
        each(self.db, Family::Dedup, |key, value| {
            // What is not about a message stays; what cannot be read is told by whoever loads it.
            if let Ok(stored) = value::stored(value)
                && !self.has(Family::Ids, &keys::id(stored.id))?
                && !self.is_scheduled(key, stored)?
            {
                self.writer.batch.delete(Family::Dedup, key);
                self.mended.dedup_gone += 1;
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()?;
        // What has been stored already is not stored again.
        each(self.db, Family::Due, |key, _| {
            let due = keys::parse_due(key).map_err(|why| malformed(Family::Due, key, why))?;
            if self.has(Family::Ids, &keys::id(due.id))? {
                self.writer.batch.delete(Family::Due, key);
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()
    }

    /// Whether what a dedup key leads to is a message that is still to be stored.
    fn is_scheduled(&self, dedup: &[u8], stored: Stored) -> Result<bool, LogError> {
        let wrong = Malformed("a dedup key has no slot");
        let slot = dedup.first_chunk().ok_or_else(|| malformed(Family::Dedup, dedup, wrong))?;
        let slot = Slot(u16::from_be_bytes(*slot));
        let key = keys::due(DueKey { slot, due_ms: stored.time_ms, id: stored.id });
        Ok(stored.seq == 0 && self.has(Family::Due, &key)?)
    }

    /// No cursor, no mark, and nothing else that has a seq, is ahead of its conversation, and nobody
    /// begins behind the last notice to everybody: the seqs behind the head will be those of other
    /// messages.
    fn cut_positions(&mut self) -> Result<(), LogError> {
        let everybody = self.head(Conversation::Broadcast.key(self.secret))?;
        each(self.db, Family::Rows, |key, value| {
            let wrong = |why| malformed(Family::Rows, key, why);
            match keys::parse_row(key).map_err(wrong)? {
                Row::Cursor(conv) => {
                    let position = value::position(value).map_err(wrong)?;
                    if let Some(position) = cut(&position, self.head(conv)?) {
                        let mut value = vec![];
                        value::put_position(&mut value, &position);
                        self.writer.batch.put(Family::Rows, key, &value);
                        self.mended.cursors_cut += 1;
                    }
                }
                // It was put because every device had everything before it.
                Row::Mark(conv) => {
                    if value::seq(value).map_err(wrong)? > self.head(conv)? {
                        self.writer.batch.delete(Family::Rows, key);
                        self.mended.marks_gone += 1;
                    }
                }
                Row::Seq(conv) => {
                    let (seq, head) = (value::seq(value).map_err(wrong)?, self.head(conv)?);
                    if seq > head {
                        let mut value = vec![];
                        value::put_seq(&mut value, head);
                        self.writer.batch.put(Family::Rows, key, &value);
                        self.mended.cursors_cut += 1;
                    }
                }
                Row::Mention(conv, seq) => {
                    if seq > self.head(conv)? {
                        self.writer.batch.delete(Family::Rows, key);
                        self.mended.marks_gone += 1;
                    }
                }
                Row::User => {
                    let mut row = value::user(value).map_err(wrong)?;
                    if row.began > everybody {
                        row.began = everybody;
                        let mut value = vec![];
                        value::put_user(&mut value, &row);
                        self.writer.batch.put(Family::Rows, key, &value);
                        self.mended.cursors_cut += 1;
                    }
                }
                Row::Conversation(_) | Row::Other => {}
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()
    }

    /// Whoever has a device that has not got everything that others said has a mark.
    fn mark_the_unread(&mut self) -> Result<(), LogError> {
        each(self.db, Family::Rows, |key, value| {
            let wrong = |why| malformed(Family::Rows, key, why);
            let Row::Conversation(conversation) = keys::parse_row(key).map_err(wrong)? else {
                return Ok(());
            };
            let name = value::conversation(value).map_err(wrong)?;
            for user in name.marked() {
                if !self.has(Family::Rows, &keys::chat(user, conversation))? {
                    let chat = Entry::Chat { user: user.clone(), conversation };
                    self.writer.batch.entry(&chat, &[]);
                }
                if !self.has(Family::Rows, &keys::mark(user, conversation))?
                    && let Some(seq) = self.first_unread(user, conversation)?
                {
                    let mark = Entry::Mark { user: user.clone(), conversation, seq };
                    self.writer.batch.entry(&mark, &[]);
                    self.mended.marks_made += 1;
                }
            }
            self.writer.write_if_large()
        })?;
        self.writer.write()
    }

    fn first_unread(&self, user: &UserId, conv: ConvKey) -> Result<Option<u64>, LogError> {
        let prefix = keys::cursors(user, conv);
        let mut least = u64::MAX;
        self.view.scan(Family::Rows, &prefix, &prefix.end(), |_, value| {
            least = least.min(value::position(value)?.acked);
            Ok(ControlFlow::Continue(()))
        })?;
        // A device without a cursor has never had anything to acknowledge here.
        if least == u64::MAX {
            return Ok(None);
        }
        let mut first = None;
        let (from, end) = (keys::log(conv, least + 1), keys::log(conv, u64::MAX));
        self.view.scan(Family::Log, &from, &end, |key, value| {
            let record = record::get(keys::log_seq(key)?, value)?;
            if record.sender == user.as_str() {
                return Ok(ControlFlow::Continue(()));
            }
            first = Some(record.seq);
            Ok(ControlFlow::Break(()))
        })?;
        Ok(first)
    }

    fn has(&self, family: Family, key: &[u8]) -> Result<bool, LogError> {
        Ok(self.view.get(family, key, |_| Ok(()))?.is_some())
    }

    fn head(&self, conversation: ConvKey) -> Result<u64, LogError> {
        Ok(self.view.last(conversation, |key, _| keys::log_seq(key))?.unwrap_or(0))
    }
}

/// Visits all keys of a family, as they are now, in order.
fn each(
    db: &DB,
    family: Family,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut options = ReadOptions::default();
    options.set_total_order_seek(true);
    options.fill_cache(false);
    let mut iterator = db.raw_iterator_cf_opt(handle(db, family), options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(|error| failed(&error))
}

/// The position in a conversation that ends with `head`, when it is another one.
fn cut(position: &Position, head: u64) -> Option<Position> {
    let top = position.ranges.last().map_or(position.acked, |(_, last)| *last);
    if top <= head {
        return None;
    }
    let within = position.ranges.iter().filter(|(first, _)| *first <= head);
    let ranges = within.map(|(first, last)| (*first, (*last).min(head))).collect();
    Some(Position { acked: position.acked.min(head), ranges })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_end_at_the_head() {
        let at = |acked, ranges: &[(u64, u64)]| Position { acked, ranges: ranges.to_vec() };
        for (before, head, after) in [
            (at(5, &[]), 5, None),
            (at(5, &[]), 3, Some(at(3, &[]))),
            (at(5, &[(7, 9), (11, 12)]), 12, None),
            (at(5, &[(7, 9), (11, 12)]), 11, Some(at(5, &[(7, 9), (11, 11)]))),
            (at(5, &[(7, 9), (11, 12)]), 8, Some(at(5, &[(7, 8)]))),
            (at(5, &[(7, 9), (11, 12)]), 0, Some(at(0, &[]))),
        ] {
            assert_eq!(cut(&before, head), after, "{before:?} with head {head}");
        }
    }
}
