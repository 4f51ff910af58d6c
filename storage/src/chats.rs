//! What a user's conversations hold for him: how far he has read, how much he has not, and where he
//! is mentioned. Nothing of it is counted beside the log: every record says how many countable ones
//! its conversation has up to it, so that a difference of two is exact.

use std::ops::ControlFlow;

use ringpost_core::event::{Chat, Chats, OPEN, ReadingLoaded};
use ringpost_core::ids::{ConvKey, Conversation, Dialect, UserId};
use ringpost_core::record::Record;

use crate::error::Malformed;
use crate::keys::{self, CONV_BYTES, Family, Key};
use crate::load::{Head, Miss, View, cursors_in, head, malformed, page};
use crate::{record, value};

/// A page of a user's conversations.
pub(crate) fn chats(
    view: &impl View,
    user: &UserId,
    after: Option<ConvKey>,
    limit: u32,
    acked_is_read: &[Dialect],
) -> Result<Chats, Miss> {
    let limit = limit as usize;
    let mut found = vec![];
    for prefix in [keys::memberships(user), keys::chats(user)] {
        found.extend(conversations(view, &prefix, after, limit)?);
    }
    found.sort_unstable();
    let next = (found.len() >= limit).then(|| found.get(limit - 1).copied()).flatten();
    found.truncate(limit);
    let mut chats = Vec::with_capacity(found.len());
    for conversation in found {
        chats.extend(chat(view, user, conversation, acked_is_read)?);
    }
    Ok(Chats { chats, next })
}

/// The conversations of the keys that begin with `prefix`, behind `after`.
fn conversations(
    view: &impl View,
    prefix: &Key,
    after: Option<ConvKey>,
    limit: usize,
) -> Result<Vec<ConvKey>, Miss> {
    let from =
        after.map_or_else(|| prefix.clone(), |after| prefix.clone().conversation(after).end());
    let mut found: Vec<ConvKey> = vec![];
    view.scan(Family::Rows, &from, &prefix.end(), |key, _| {
        const SHORT: Malformed = Malformed("a key of rows ends before its conversation");
        let of = key.get(prefix.len()..prefix.len() + CONV_BYTES).ok_or(SHORT)?;
        if found.len() == limit {
            return Ok(ControlFlow::Break(()));
        }
        found.push(keys::parse_conv(of)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// The parts of a conversation that a user may see.
struct Visible {
    name: Conversation,
    head: Head,
    /// `first..=last`, ascending, none behind the head; at least one.
    ranges: Vec<(u64, u64)>,
}

impl Visible {
    fn last(&self) -> u64 {
        self.ranges.last().expect("there is one").1
    }
}

/// `None`: it is not his, or has nothing yet.
fn visible(view: &impl View, user: &UserId, key: ConvKey) -> Result<Option<Visible>, Miss> {
    // The name is committed with the first record.
    let head = head(view, key)?;
    let name = view.get(Family::Rows, &keys::conversation(key), value::conversation)?;
    let Some(name) = name.filter(|_| head.seq > 0) else { return Ok(None) };
    let mut ranges = match &name {
        Conversation::Group(_) => {
            let membership = keys::membership(user, key);
            let membership = view.get(Family::Rows, &membership, value::membership)?;
            membership.map(|row| row.ranges).unwrap_or_default()
        }
        name if name.side(user.as_str()).is_some() => vec![(1, OPEN)],
        _ => vec![],
    };
    ranges.retain(|range| range.0 <= head.seq);
    if let Some(range) = ranges.last_mut() {
        range.1 = range.1.min(head.seq);
    }
    Ok((!ranges.is_empty()).then_some(Visible { name, head, ranges }))
}

fn chat(
    view: &impl View,
    user: &UserId,
    key: ConvKey,
    acked_is_read: &[Dialect],
) -> Result<Option<Chat>, Miss> {
    let Some(visible) = visible(view, user, key)? else { return Ok(None) };
    let last = visible.last();
    let said = view.get(Family::Rows, &keys::read(user, key), value::seq)?.unwrap_or(0);
    let sent = match visible.name.side(user.as_str()) {
        Some(side) => visible.head.sent[side],
        None => view.get(Family::Rows, &keys::sent(key, user), value::seq)?.unwrap_or(0),
    };
    let mut read = said.max(sent);
    if !acked_is_read.is_empty() {
        for (device, position) in cursors_in(view, user, key)? {
            if acked_is_read.contains(&device.dialect) {
                read = read.max(position.acked);
            }
        }
    }
    let read = read.min(last);
    let mut unread = 0;
    for &(first, last) in &visible.ranges {
        let from = read.max(first - 1);
        if from < last {
            unread += countable(view, key, last)? - countable(view, key, from)?;
        }
    }
    let mention = mention(view, user, key, &visible, read)?;
    let last = page(view, key, last, last, 0)?;
    Ok(Some(Chat { conversation: visible.name, read, unread, mention, last }))
}

/// Countable records up to `seq`.
fn countable(view: &impl View, key: ConvKey, seq: u64) -> Result<u64, Miss> {
    if seq == 0 {
        return Ok(0);
    }
    let at = keys::log(key, seq);
    let read = |value: &[u8]| record::get(seq, value).map(|Record { countable, .. }| countable);
    let found = view.get(Family::Log, &at, read)?;
    found.ok_or_else(|| malformed(Family::Log, &at, Malformed("a record is missing")).into())
}

/// The first message behind `read` that mentions the user or everybody.
fn mention(
    view: &impl View,
    user: &UserId,
    key: ConvKey,
    visible: &Visible,
    read: u64,
) -> Result<Option<u64>, Miss> {
    let named = keys::mentions(user, key).end();
    let named = first_mention(view, &keys::mention(user, key, read + 1), &named)?;
    let mut all = None;
    for &(first, last) in visible.ranges.iter().filter(|range| range.1 > read) {
        let (from, end) = (first.max(read + 1), last + 1);
        all = first_mention(view, &keys::mention_all(key, from), &keys::mention_all(key, end))?;
        if all.is_some() {
            break;
        }
    }
    Ok(named.into_iter().chain(all).min())
}

fn first_mention(view: &impl View, from: &[u8], end: &[u8]) -> Result<Option<u64>, Miss> {
    let mut first = None;
    view.scan(Family::Rows, from, end, |key, value| {
        value::present(value)?;
        first = Some(keys::mention_seq(key)?);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(first)
}

/// See [`ringpost_core::event::Load::Reading`].
pub(crate) fn reading(
    view: &impl View,
    user: &UserId,
    conversation: &Conversation,
    key: ConvKey,
    to: u64,
    limit: u32,
) -> Result<Option<ReadingLoaded>, Miss> {
    let Some(visible) = visible(view, user, key)? else { return Ok(None) };
    if visible.name != *conversation {
        return Err(crate::load::collision(key, visible.name, conversation.clone()));
    }
    let read = view.get(Family::Rows, &keys::read(user, key), value::seq)?.unwrap_or(0);
    let mut mentions = vec![];
    let end = keys::mention(user, key, to.min(visible.last()) + 1);
    view.scan(Family::Rows, &keys::mentions(user, key), &end, |key, value| {
        if mentions.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        value::present(value)?;
        mentions.push(keys::mention_seq(key)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Some(ReadingLoaded { head: visible.last(), read, mentions }))
}
