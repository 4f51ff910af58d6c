//! The answers to a [`Load`], from three ways to read: a key, the end of a conversation's log, a
//! range. RocksDB and the fake give these three; what they mean is decided once, here.

use std::ops::{ControlFlow, Range};

use ringpost_core::event::{
    ConversationLoaded, InboxMark, Load, Loaded, MemberLoaded, MemberRow, MembershipLoaded,
    MembershipRow, OPEN, Part, Position, UserLoaded,
};
use ringpost_core::ids::{
    ConvKey, Conversation, DedupKey, DeviceId, GroupId, MessageId, SLOTS, ShardId, Slot, UserId,
};
use ringpost_core::owed::Owed;
use ringpost_core::record::{Page, Record};
use ringpost_core::relations::RelationRow;
use ringpost_core::scheduled::DueKey;

use crate::error::{LogError, Malformed, hex};
use crate::keys::{self, Family, Key};
use crate::{chats, record, value};

/// Why a view has no answer.
#[derive(Debug)]
pub(crate) enum Miss {
    /// Memory does not have it and the disk was not to be asked.
    Cold,
    /// It could not be read, or is not what was written.
    Failed(LogError),
}

impl From<LogError> for Miss {
    fn from(error: LogError) -> Miss {
        Miss::Failed(error)
    }
}

/// For those who may ask the disk.
impl From<Miss> for LogError {
    fn from(miss: Miss) -> LogError {
        match miss {
            Miss::Failed(error) => error,
            Miss::Cold => LogError::Read("the disk was not read, though it may be".into()),
        }
    }
}

/// Ways to read committed keys. Each call sees one state; two calls may see two.
pub(crate) trait View {
    /// The value of a key, handed to `read`.
    fn get<R>(
        &self,
        family: Family,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss>;

    /// The last record of a conversation, handed to `read` with its key.
    fn last<R>(
        &self,
        conversation: ConvKey,
        read: impl FnOnce(&[u8], &[u8]) -> Result<R, Malformed>,
    ) -> Result<Option<R>, Miss>;

    /// The keys of `from..end` in order, handed to `visit` until it breaks.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: &[u8],
        visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, Malformed>,
    ) -> Result<(), Miss>;

    /// The keys that begin with each of `prefixes`, which ascend, handed to `visit` with the
    /// prefix's index.
    fn scan_prefixes(
        &self,
        family: Family,
        prefixes: &[Key],
        mut visit: impl FnMut(usize, &[u8], &[u8]) -> Result<(), Malformed>,
    ) -> Result<(), Miss> {
        prefixes.iter().enumerate().try_for_each(|(index, prefix)| {
            self.scan(family, prefix, &prefix.end(), |key, value| {
                visit(index, key, value).map(ControlFlow::Continue)
            })
        })
    }
}

/// What a malformed key or value is reported as.
pub(crate) fn malformed(family: Family, key: &[u8], why: Malformed) -> LogError {
    LogError::Corrupt { file: None, what: format!("{why} ({} {})", family.name(), hex(key)) }
}

/// Answers `load`.
pub(crate) fn load(view: &impl View, load: &Load) -> Result<Loaded, Miss> {
    match load {
        Load::Conversation { key, expected } => conversation(view, *key, expected.as_ref())
            .map(|loaded| Loaded::Conversation(Box::new(loaded))),
        Load::Dedup { key } => {
            view.get(Family::Dedup, &keys::dedup(*key), value::stored).map(Loaded::Dedup)
        }
        Load::User { user: id } => user(view, id).map(|loaded| Loaded::User(Box::new(loaded))),
        Load::Inbox { user, after, limit } => inbox(view, user, *after, *limit).map(Loaded::Inbox),
        Load::Message { conversation, dedup, id, search } => {
            message(view, *conversation, *dedup, *id, *search).map(Loaded::Message)
        }
        Load::Find { id } => find(view, *id).map(Loaded::Found),
        Load::Members { group, conversation, users } => {
            members(view, group, *conversation, users).map(Loaded::Members)
        }
        Load::Roster { group, after, limit } => {
            roster(view, group, after.as_ref(), *limit).map(Loaded::Roster)
        }
        Load::Memberships { user, after, limit } => {
            memberships(view, user, *after, *limit).map(Loaded::Memberships)
        }
        Load::Users { users } => {
            let of = |user: &UserId| view.get(Family::Rows, &keys::user(user), value::user);
            users.iter().map(of).collect::<Result<_, _>>().map(Loaded::Users)
        }
        Load::Relations { user, after, limit, friends } => {
            relations(view, user, after.as_ref(), *limit, *friends).map(Loaded::Relations)
        }
        Load::CommonGroup { one, other } => common_group(view, one, other).map(Loaded::CommonGroup),
        Load::Owed { shard, shards, after, limit } => {
            owed(view, *shard, *shards, *after, *limit).map(Loaded::Owed)
        }
        Load::DueKeys { shard, shards, from_ms, until_ms, after, limit } => {
            let mine = |slot: Slot| slot.shard(*shards) == *shard;
            due_keys(view, mine, *from_ms..*until_ms, *after, *limit).map(Loaded::DueKeys)
        }
        Load::Scheduled { keys } => {
            let of = |key: &DueKey| view.get(Family::Due, &keys::due(*key), value::scheduled);
            keys.iter().map(of).collect::<Result<_, _>>().map(Loaded::Scheduled)
        }
        Load::Chats { user, after, limit, acked_is_read } => {
            chats::chats(view, user, *after, *limit, acked_is_read).map(Loaded::Chats)
        }
        Load::Reading { user, conversation, key, to, limit } => {
            chats::reading(view, user, conversation, *key, *to, *limit).map(Loaded::Reading)
        }
        Load::Cursors { user, conversation } => {
            cursors_in(view, user, *conversation).map(Loaded::Cursors)
        }
        Load::History { conversation, key, part, limit, bytes } => {
            history(view, conversation, *key, *part, *limit, *bytes).map(Loaded::Found)
        }
        Load::Page { conversation, from, to, bytes } => {
            page(view, *conversation, *from, *to, *bytes).map(Loaded::Page)
        }
    }
}

/// The head of a conversation's log.
#[derive(Clone, Copy, Default)]
pub(crate) struct Head {
    pub(crate) seq: u64,
    time_ms: u64,
    countable: u64,
    pub(crate) sent: [u64; 2],
}

pub(crate) fn head(view: &impl View, conversation: ConvKey) -> Result<Head, Miss> {
    let head = view.last(conversation, |key, value| {
        let Record { seq, time_ms, countable, sent, .. } = record::get(keys::log_seq(key)?, value)?;
        Ok(Head { seq, time_ms, countable, sent })
    })?;
    Ok(head.unwrap_or_default())
}

fn conversation(
    view: &impl View,
    key: ConvKey,
    expected: Option<&Conversation>,
) -> Result<ConversationLoaded, Miss> {
    // The name is committed with the first record, so whoever sees a record sees the name, if he
    // asks for the name afterwards.
    let head = head(view, key)?;
    let row = keys::conversation(key);
    let stored = view.get(Family::Rows, &row, value::conversation)?;
    if stored.is_none() && head.seq > 0 {
        let why = Malformed("a conversation has records and no name");
        return Err(malformed(Family::Rows, &row, why).into());
    }
    if let (Some(stored), Some(expected)) = (&stored, expected)
        && stored != expected
    {
        return Err(collision(key, stored.clone(), expected.clone()));
    }
    let mut loaded = ConversationLoaded {
        head: head.seq,
        time_ms: head.time_ms,
        countable: head.countable,
        sent: head.sent,
        ..ConversationLoaded::default()
    };
    if let Some(name) = stored.as_ref().or(expected) {
        for (side, user) in name.marked().enumerate() {
            let mark = keys::mark(user, key);
            loaded.marks[side] = view.get(Family::Rows, &mark, value::seq)?;
            loaded.exists[side] = exists(view, user)?;
        }
        if name.marked().count() == 1 {
            // The one is the other, too.
            loaded.exists[1] = loaded.exists[0];
        }
        if let Conversation::Private { low, high } = name
            && low != high
        {
            let of =
                |user, other| view.get(Family::Rows, &keys::relation(user, other), value::relation);
            let both = [of(low, high)?, of(high, low)?];
            if both.iter().any(Option::is_some) {
                loaded.relations = Some(Box::new(both.map(Option::unwrap_or_default)));
            }
        }
        if let Conversation::Group(group) = name {
            let row = view.get(Family::Rows, &keys::group(group), value::group)?;
            loaded.group = row.map(Box::new);
        }
    }
    loaded.conversation = stored;
    Ok(loaded)
}

/// Two conversations under one key.
pub(crate) fn collision(key: ConvKey, stored: Conversation, expected: Conversation) -> Miss {
    LogError::Collision { key, stored: Box::new(stored), expected: Box::new(expected) }.into()
}

fn exists(view: &impl View, user: &UserId) -> Result<bool, Miss> {
    Ok(view.get(Family::Rows, &keys::user(user), value::user_exists)?.unwrap_or(false))
}

fn message(
    view: &impl View,
    conversation: ConvKey,
    dedup: DedupKey,
    id: Option<MessageId>,
    search: u32,
) -> Result<Page, Miss> {
    let own = view.get(Family::Dedup, &keys::dedup(dedup), value::stored)?;
    let seq = match (own, id) {
        (Some(stored), _) => Some(stored.seq),
        (None, Some(id)) => {
            let place = view.get(Family::Ids, &keys::id(id), value::place)?;
            match place.filter(|(key, _)| *key == conversation) {
                Some((_, seq)) => Some(seq),
                None => search_client_id(view, conversation, id, search)?,
            }
        }
        (None, None) => None,
    };
    seq.map_or_else(|| Ok(Page::default()), |seq| page(view, conversation, seq, seq, 0))
}

/// The last of the newest `count` records that a client has given this id.
fn search_client_id(
    view: &impl View,
    conversation: ConvKey,
    id: MessageId,
    count: u32,
) -> Result<Option<u64>, Miss> {
    if count == 0 {
        return Ok(None);
    }
    let text = id.to_xid();
    let from = head(view, conversation)?.seq.saturating_sub(count.into()) + 1;
    let (start, end) = (keys::log(conversation, from), keys::log(conversation, u64::MAX));
    let mut found = None;
    view.scan(Family::Log, &start, &end, |key, value| {
        let record = record::get(keys::log_seq(key)?, value)?;
        if record.client_id.as_bytes() == text {
            found = Some(record.seq);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn find(view: &impl View, id: MessageId) -> Result<Option<(Conversation, Page)>, Miss> {
    let place = view.get(Family::Ids, &keys::id(id), value::place)?;
    let Some((key, seq)) = place else { return Ok(None) };
    let name = keys::conversation(key);
    let conversation = view.get(Family::Rows, &name, value::conversation)?;
    let Some(conversation) = conversation else {
        let why = Malformed("a conversation has records and no name");
        return Err(malformed(Family::Rows, &name, why).into());
    };
    Ok(Some((conversation, page(view, key, seq, seq, 0)?)))
}

fn members(
    view: &impl View,
    group: &GroupId,
    conversation: ConvKey,
    users: &[UserId],
) -> Result<Vec<MemberLoaded>, Miss> {
    let of = |user: &UserId| {
        let membership = keys::membership(user, conversation);
        let membership = view.get(Family::Rows, &membership, value::membership)?;
        Ok(MemberLoaded {
            exists: exists(view, user)?,
            member: view.get(Family::Rows, &keys::member(group, user), value::member)?,
            ranges: membership.map(|row| row.ranges).unwrap_or_default(),
        })
    };
    users.iter().map(of).collect()
}

fn roster(
    view: &impl View,
    group: &GroupId,
    after: Option<&UserId>,
    limit: u32,
) -> Result<Vec<(UserId, MemberRow)>, Miss> {
    let prefix = keys::members(group);
    // The smallest key behind a user's: one byte longer.
    let mut from =
        after.map_or_else(|| prefix.to_vec(), |after| keys::member(group, after).to_vec());
    if after.is_some() {
        from.push(0);
    }
    let mut members = vec![];
    view.scan(Family::Rows, &from, &prefix.end(), |key, value| {
        if members.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        members.push((keys::parse_user(&key[prefix.len()..])?, value::member(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(members)
}

fn relations(
    view: &impl View,
    user: &UserId,
    after: Option<&UserId>,
    limit: u32,
    friends: bool,
) -> Result<Vec<(UserId, RelationRow)>, Miss> {
    let prefix = keys::relations(user);
    // The smallest key behind a user's: one byte longer.
    let mut from =
        after.map_or_else(|| prefix.to_vec(), |after| keys::relation(user, after).to_vec());
    if after.is_some() {
        from.push(0);
    }
    let mut relations = vec![];
    view.scan(Family::Rows, &from, &prefix.end(), |key, value| {
        if relations.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        let row = value::relation(value)?;
        if !friends || row.friends_ms > 0 {
            relations.push((keys::parse_user(&key[prefix.len()..])?, row));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(relations)
}

fn common_group(view: &impl View, one: &UserId, other: &UserId) -> Result<Option<GroupId>, Miss> {
    let prefix = keys::memberships(one);
    let mut groups = vec![];
    view.scan(Family::Rows, &prefix, &prefix.end(), |key, value| {
        let row = value::membership(value)?;
        if is_open(&row) {
            groups.push((keys::parse_conv(&key[prefix.len()..])?, row.group));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    for (conversation, group) in groups {
        let theirs = keys::membership(other, conversation);
        let theirs = view.get(Family::Rows, &theirs, value::membership)?;
        if theirs.is_some_and(|row| is_open(&row)) {
            let row = view.get(Family::Rows, &keys::group(&group), value::group)?;
            if row.is_some_and(|row| row.closed_seq == 0) {
                return Ok(Some(group));
            }
        }
    }
    Ok(None)
}

fn is_open(row: &MembershipRow) -> bool {
    row.ranges.last().is_some_and(|&(_, last)| last == OPEN)
}

fn owed(
    view: &impl View,
    shard: ShardId,
    shards: u16,
    after: Option<(Slot, MessageId)>,
    limit: u32,
) -> Result<Vec<(Slot, MessageId, Owed)>, Miss> {
    let mut from = after.map_or_else(Vec::new, |(slot, id)| keys::owed(slot, id).to_vec());
    if after.is_some() {
        from.push(0);
    }
    let mut found = vec![];
    view.scan(Family::Owed, &from, &keys::owed(Slot(SLOTS), MessageId([0; 12])), |key, value| {
        if found.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        let (slot, id) = keys::parse_owed(key)?;
        if slot.shard(shards) == shard {
            found.push((slot, id, value::owed(value)?));
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Every slot's keys are in order of time: what is outside of the window is jumped over.
fn due_keys(
    view: &impl View,
    mine: impl Fn(Slot) -> bool,
    window: Range<u64>,
    after: Option<DueKey>,
    limit: u32,
) -> Result<Vec<DueKey>, Miss> {
    let first = |slot| keys::due(DueKey { slot, due_ms: window.start, id: MessageId([0; 12]) });
    let end = first(Slot(SLOTS));
    let mut from = match after {
        Some(after) => [&keys::due(after)[..], &[0]].concat(),
        None => first(Slot(0)).to_vec(),
    };
    let mut found = vec![];
    loop {
        let mut next = None;
        view.scan(Family::Due, &from, &end, |key, _| {
            let key = keys::parse_due(key)?;
            if !mine(key.slot) || key.due_ms >= window.end {
                next = Some(first(Slot(key.slot.0 + 1)));
            } else if key.due_ms < window.start {
                next = Some(first(key.slot));
            } else {
                found.push(key);
            }
            let done = next.is_some() || found.len() == limit as usize;
            Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        match next {
            Some(next) => from = next.to_vec(),
            None => return Ok(found),
        }
    }
}

fn memberships(
    view: &impl View,
    user: &UserId,
    after: Option<ConvKey>,
    limit: u32,
) -> Result<Vec<MembershipLoaded>, Miss> {
    let prefix = keys::memberships(user);
    // No membership's key is a prefix of another's: they all have the same length.
    let from = after.map_or_else(|| prefix.clone(), |after| keys::membership(user, after).end());
    let mut rows = vec![];
    view.scan(Family::Rows, &from, &prefix.end(), |key, value| {
        if rows.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        rows.push((keys::parse_conv(&key[prefix.len()..])?, value::membership(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    let cursors = cursors(view, user, rows.iter().map(|(conversation, _)| *conversation))?;
    let mut memberships = Vec::with_capacity(rows.len());
    for ((conversation, mut row), cursors) in rows.into_iter().zip(cursors) {
        let key = keys::group(&row.group);
        let group = view.get(Family::Rows, &key, value::group)?;
        let Some(group) = group else {
            let why = Malformed("a membership's group is missing");
            return Err(malformed(Family::Rows, &key, why).into());
        };
        if let Some((_, last)) = row.ranges.last_mut()
            && *last == OPEN
            && group.closed_seq > 0
        {
            *last = group.closed_seq;
        }
        memberships.push(MembershipLoaded { conversation, row, cursors });
    }
    Ok(memberships)
}

fn user(view: &impl View, user: &UserId) -> Result<UserLoaded, Miss> {
    let row = view.get(Family::Rows, &keys::user(user), value::user)?;
    let prefix = keys::devices(user);
    let mut devices = vec![];
    view.scan(Family::Rows, &prefix, &prefix.end(), |key, value| {
        devices.push((keys::parse_device(&key[prefix.len()..])?, value::device(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(UserLoaded { row, devices })
}

/// The positions of the user's devices in each of these conversations, which ascend.
fn cursors(
    view: &impl View,
    user: &UserId,
    conversations: impl Iterator<Item = ConvKey>,
) -> Result<Vec<Vec<(DeviceId, Position)>>, Miss> {
    let prefixes: Vec<_> =
        conversations.map(|conversation| keys::cursors(user, conversation)).collect();
    let mut cursors = vec![vec![]; prefixes.len()];
    view.scan_prefixes(Family::Rows, &prefixes, |index, key, value| {
        let device = keys::parse_device(&key[prefixes[index].len()..])?;
        cursors[index].push((device, value::position(value)?));
        Ok(())
    })?;
    Ok(cursors)
}

/// The same in one conversation.
pub(crate) fn cursors_in(
    view: &impl View,
    user: &UserId,
    conversation: ConvKey,
) -> Result<Vec<(DeviceId, Position)>, Miss> {
    cursors(view, user, std::iter::once(conversation)).map(|mut cursors| cursors.remove(0))
}

fn inbox(
    view: &impl View,
    user: &UserId,
    after: Option<ConvKey>,
    limit: u32,
) -> Result<Vec<InboxMark>, Miss> {
    let prefix = keys::marks(user);
    // No mark's key is a prefix of another's: they all have the same length.
    let from = after.map_or_else(|| prefix.clone(), |after| keys::mark(user, after).end());
    let mut marks = vec![];
    view.scan(Family::Rows, &from, &prefix.end(), |key, value| {
        if marks.len() == limit as usize {
            return Ok(ControlFlow::Break(()));
        }
        marks.push((keys::parse_conv(&key[prefix.len()..])?, value::seq(value)?));
        Ok(ControlFlow::Continue(()))
    })?;
    let cursors = cursors(view, user, marks.iter().map(|(conversation, _)| *conversation))?;
    let mut inbox = Vec::with_capacity(marks.len());
    for ((conversation, seq), cursors) in marks.into_iter().zip(cursors) {
        // Asked after the mark: a mark is committed with the record that it was put for.
        let head = head(view, conversation)?.seq;
        if head < seq {
            let why = Malformed("a mark is ahead of its conversation");
            return Err(malformed(Family::Rows, &keys::mark(user, conversation), why).into());
        }
        inbox.push(InboxMark { conversation, seq, head, cursors });
    }
    Ok(inbox)
}

fn history(
    view: &impl View,
    conversation: &Conversation,
    key: ConvKey,
    part: Part,
    limit: u32,
    bytes: u32,
) -> Result<Option<(Conversation, Page)>, Miss> {
    let head = head(view, key)?.seq;
    let stored = view.get(Family::Rows, &keys::conversation(key), value::conversation)?;
    let Some(stored) = stored.filter(|_| head > 0) else { return Ok(None) };
    if stored != *conversation {
        return Err(collision(key, stored, conversation.clone()));
    }
    let to = |before: Option<u64>| before.map_or(head, |before| before.saturating_sub(1).min(head));
    let mut limit = u64::from(limit);
    let found = match part {
        Part::After { after, before } => {
            let to = to(before).min(after.saturating_add(limit));
            page(view, key, after.saturating_add(1), to, bytes)?
        }
        Part::Before(before) => {
            let to = to(before);
            loop {
                // What is cut off for its bytes must be the oldest, not the newest.
                let found = page(view, key, (to + 1).saturating_sub(limit), to, bytes)?;
                let whole = found.iter().last().is_none_or(|last| last.seq == to);
                if whole || limit == 1 {
                    break found;
                }
                limit /= 2;
            }
        }
    };
    Ok(Some((stored, found)))
}

/// The budget counts stored bytes: they bound what the page takes, however short the contents.
pub(crate) fn page(
    view: &impl View,
    conversation: ConvKey,
    from: u64,
    to: u64,
    bytes: u32,
) -> Result<Page, Miss> {
    let mut page = Page::default();
    let from = from.max(1);
    if to < from {
        return Ok(page);
    }
    let mut expected = from;
    let mut left = bytes as usize;
    let start = keys::log(conversation, from);
    // Seqs end far below `u64::MAX`, so the last one may stand for all behind it.
    let end = keys::log(conversation, to.saturating_add(1));
    view.scan(Family::Log, &start, &end, |key, value| {
        if keys::log_seq(key)? != expected {
            return Err(Malformed("a record is missing before this one"));
        }
        if value.len() > left && !page.is_empty() {
            return Ok(ControlFlow::Break(()));
        }
        left = left.saturating_sub(value.len());
        page.push(&record::get(expected, value)?);
        expected += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(page)
}
