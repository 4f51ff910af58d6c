//! The values of `ids`, `dedup`, `rows` and `meta` (FORMAT.md, *Values*): a version byte, then
//! fixed fields in big-endian order. Records have their own file.
//!
//! Encoders append to the caller's buffer; decoders trust nothing.

use bytes::Bytes;
use ringpost_core::account::{Ban, Standing};
use ringpost_core::command::Mentioned;
use ringpost_core::event::{
    DeviceRow, GroupRow, JoinPolicy, MemberRole, MemberRow, MembershipRow, Position, Stored,
    UserRow,
};
use ringpost_core::ids::{
    ConvKey, ConvKind, Conversation, DeviceId, Dialect, GroupId, MessageId, UserId,
};
use ringpost_core::limits::DEDUP_KEPT_MS;
use ringpost_core::owed::{CancelStep, Owed};
use ringpost_core::record::Kind;
use ringpost_core::relations::{RelationRow, Terms};
use ringpost_core::scheduled::Scheduled;

use crate::error::Malformed;
use crate::keys;

/// The version byte of every value written by this version of the program.
const VERSION: u8 = 1;
/// The version byte of a value of `dedup` that says itself when it may be forgotten.
const EXPIRES: u8 = 2;

/// `ids`: where the message is.
pub fn put_place(out: &mut Vec<u8>, conversation: ConvKey, seq: u64) {
    out.push(VERSION);
    out.extend_from_slice(&keys::conv(conversation));
    out.extend_from_slice(&seq.to_be_bytes());
}

/// The inverse of [`put_place`].
pub fn place(value: &[u8]) -> Result<(ConvKey, u64), Malformed> {
    let mut fields = Fields::of(value)?;
    let place = (keys::parse_conv(fields.take::<{ keys::CONV_BYTES }>()?)?, fields.u64()?);
    fields.end()?;
    Ok(place)
}

/// `dedup`: what the first request became.
pub fn put_stored(out: &mut Vec<u8>, stored: Stored) {
    out.push(VERSION);
    out.extend_from_slice(&stored.id.0);
    out.extend_from_slice(&stored.seq.to_be_bytes());
    out.extend_from_slice(&stored.time_ms.to_be_bytes());
}

/// The inverse of [`put_stored`].
pub fn stored(value: &[u8]) -> Result<Stored, Malformed> {
    let mut fields = Fields::of(value)?;
    let stored =
        Stored { id: MessageId(*fields.take()?), seq: fields.u64()?, time_ms: fields.u64()? };
    fields.end()?;
    Ok(stored)
}

/// `dedup`: when a value may be forgotten, ms since 1970. What lives for another time than resends
/// do begins with [`EXPIRES`] and that time; nothing is written that way yet.
pub fn dedup_expires_ms(value: &[u8]) -> Result<u64, Malformed> {
    match value.split_first() {
        Some((&EXPIRES, rest)) => Fields { rest }.u64(),
        _ => Ok(stored(value)?.time_ms.saturating_add(DEDUP_KEPT_MS)),
    }
}

/// `rows`: a conversation's full name. The kind is the same byte as in its key's hash.
pub fn put_conversation(out: &mut Vec<u8>, conversation: &Conversation) {
    out.push(VERSION);
    put_name(out, conversation);
}

/// The inverse of [`put_conversation`].
pub fn conversation(value: &[u8]) -> Result<Conversation, Malformed> {
    let mut fields = Fields::of(value)?;
    let conversation = fields.name()?;
    fields.end()?;
    Ok(conversation)
}

fn put_name(out: &mut Vec<u8>, conversation: &Conversation) {
    out.push(conversation.kind() as u8);
    match conversation {
        Conversation::Private { low, high } => {
            put_id(out, low.as_str());
            put_id(out, high.as_str());
        }
        Conversation::Group(group) => put_id(out, group.as_str()),
        Conversation::Notice(user) => put_id(out, user.as_str()),
        Conversation::Broadcast => {}
    }
}

/// `due`: a message that is to be stored later.
pub fn put_scheduled(out: &mut Vec<u8>, message: &Scheduled) {
    let everybody = message.mentions.as_ref().is_some_and(|mentions| mentions.everybody);
    let named = message.mentions.as_ref().map_or(&[][..], |mentions| &mentions.users);
    let flags = u8::from(message.sender_ms.is_some()) | u8::from(everybody) << 1;
    out.extend_from_slice(&[VERSION, message.kind.number(), flags]);
    if let Some(ms) = message.sender_ms {
        out.extend_from_slice(&ms.to_be_bytes());
    }
    put_name(out, &message.conversation);
    put_id(out, message.sender.as_str());
    out.push(message.device.dialect.number());
    put_text(out, &message.device.name);
    put_text(out, &message.client_id);
    out.push(u8::try_from(named.len()).expect("a message names a bounded number of users"));
    named.iter().for_each(|user| put_id(out, user.as_str()));
    out.extend_from_slice(&message.content);
}

/// The inverse of [`put_scheduled`].
pub fn scheduled(value: &[u8]) -> Result<Scheduled, Malformed> {
    let mut fields = Fields::of(value)?;
    let [kind, flags] = *fields.take()?;
    if flags > 0b11 {
        return Err(Malformed("a scheduled message has flags of a later version"));
    }
    let kind = Kind::from_number(kind);
    let kind = kind.ok_or(Malformed("a scheduled message has a kind of a later version"))?;
    let sender_ms = if flags & 1 != 0 { Some(fields.u64()? as i64) } else { None };
    let (conversation, sender) = (fields.name()?, fields.user()?);
    let [dialect] = *fields.take()?;
    let dialect = Dialect::from_number(dialect);
    let dialect = dialect.ok_or(Malformed("a scheduled message is of a later dialect"))?;
    let device = DeviceId { dialect, name: fields.text()?.into() };
    let client_id = fields.text()?.into();
    let [named] = *fields.take()?;
    let users = (0..named).map(|_| fields.user()).collect::<Result<Vec<_>, _>>()?;
    let mentions = Mentioned { users, everybody: flags & 2 != 0 };
    let mentions = (mentions != Mentioned::default()).then(|| Box::new(mentions));
    let content = Bytes::copy_from_slice(fields.rest);
    Ok(Scheduled { conversation, sender, device, client_id, kind, sender_ms, mentions, content })
}

/// `rows`: a group.
pub fn put_group(out: &mut Vec<u8>, row: &GroupRow) {
    out.push(VERSION);
    out.extend_from_slice(&row.created_ms.to_be_bytes());
    out.push(row.join_policy as u8);
    out.extend_from_slice(&row.members.to_be_bytes());
    out.extend_from_slice(&row.closed_seq.to_be_bytes());
    put_id(out, row.owner.as_str());
    out.extend_from_slice(row.profile.as_bytes());
}

/// The inverse of [`put_group`].
pub fn group(value: &[u8]) -> Result<GroupRow, Malformed> {
    let mut fields = Fields::of(value)?;
    let created_ms = fields.u64()?;
    let join_policy = match *fields.take::<1>()? {
        [1] => JoinPolicy::Open,
        [2] => JoinPolicy::Approve,
        [3] => JoinPolicy::Invite,
        _ => return Err(Malformed("a group has a join policy of a later version")),
    };
    let members = u32::from_be_bytes(*fields.take()?);
    let (closed_seq, owner, profile) = (fields.u64()?, fields.user()?, fields.rest_text()?);
    Ok(GroupRow { created_ms, owner, join_policy, members, closed_seq, profile })
}

/// `rows`: a line of a group's roster.
pub fn put_member(out: &mut Vec<u8>, row: &MemberRow) {
    out.extend_from_slice(&[VERSION, row.role as u8]);
    out.extend_from_slice(&row.joined_seq.to_be_bytes());
    out.extend_from_slice(&row.updated_ms.to_be_bytes());
    let alias = u16::try_from(row.alias.len()).expect("an alias is within its limit");
    out.extend_from_slice(&alias.to_be_bytes());
    out.extend_from_slice(row.alias.as_bytes());
    out.extend_from_slice(row.description.as_bytes());
}

/// The inverse of [`put_member`].
pub fn member(value: &[u8]) -> Result<MemberRow, Malformed> {
    let mut fields = Fields::of(value)?;
    let role = match *fields.take::<1>()? {
        [1] => MemberRole::Member,
        [2] => MemberRole::Admin,
        [3] => MemberRole::Owner,
        _ => return Err(Malformed("a member has a role of a later version")),
    };
    let (joined_seq, updated_ms) = (fields.u64()?, fields.u64()?);
    let alias = usize::from(u16::from_be_bytes(*fields.take()?));
    let (alias, description) = fields
        .rest_text()?
        .split_at_checked(alias)
        .map(|(alias, description)| (alias.to_owned(), description.to_owned()))
        .ok_or(Malformed("a member's alias ends too early"))?;
    Ok(MemberRow { role, joined_seq, alias, description, updated_ms })
}

/// `rows`: a membership.
pub fn put_membership(out: &mut Vec<u8>, row: &MembershipRow) {
    out.push(VERSION);
    put_id(out, row.group.as_str());
    for (first, last) in &row.ranges {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&last.to_be_bytes());
    }
}

/// The inverse of [`put_membership`]: at least one range, ascending and disjoint.
pub fn membership(value: &[u8]) -> Result<MembershipRow, Malformed> {
    let mut fields = Fields::of(value)?;
    let group = fields.group()?;
    let mut ranges: Vec<(u64, u64)> = Vec::with_capacity(fields.rest.len() / 16);
    while !fields.rest.is_empty() || ranges.is_empty() {
        let (first, last) = (fields.u64()?, fields.u64()?);
        let before = ranges.last().map_or(0, |range| range.1);
        if first <= before || last < first {
            return Err(Malformed("a membership's ranges are not in order"));
        }
        ranges.push((first, last));
    }
    Ok(MembershipRow { group, ranges })
}

/// A text with its length in front.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("a text of a row is within its limit");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// An id, ended by a zero byte: ids have none.
fn put_id(out: &mut Vec<u8>, id: &str) {
    out.extend_from_slice(id.as_bytes());
    out.push(0);
}

/// The version of a user about whom there is more than a profile.
const STANDING_VERSION: u8 = 2;
/// The version of a user who was made after a notice to everybody.
const BEGAN_VERSION: u8 = 3;

/// `rows`: a user.
pub fn put_user(out: &mut Vec<u8>, row: &UserRow) {
    let plain = row.standing == Standing::default();
    let version = match (plain, row.began) {
        (true, 0) => VERSION,
        (false, 0) => STANDING_VERSION,
        _ => BEGAN_VERSION,
    };
    out.push(version);
    out.extend_from_slice(&row.created_ms.to_be_bytes());
    if version == BEGAN_VERSION {
        out.extend_from_slice(&row.began.to_be_bytes());
    }
    if version != VERSION {
        put_standing(out, &row.standing);
    }
    out.extend_from_slice(row.profile.as_bytes());
}

fn put_standing(out: &mut Vec<u8>, standing: &Standing) {
    let Standing { hidden, ban, cancelled_ms } = standing;
    out.push(u8::from(*hidden) | u8::from(ban.is_some()) << 1);
    out.extend_from_slice(&cancelled_ms.to_be_bytes());
    if let Some(ban) = ban {
        out.extend_from_slice(&ban.until_ms.to_be_bytes());
        put_text(out, &ban.reason);
    }
}

/// The inverse of [`put_user`].
pub fn user(value: &[u8]) -> Result<UserRow, Malformed> {
    let (version, mut fields) = user_fields(value)?;
    let created_ms = fields.u64()?;
    let began = if version == BEGAN_VERSION { fields.u64()? } else { 0 };
    let mut standing = Standing::default();
    if version != VERSION {
        let [flags] = *fields.take()?;
        if flags > 0b11 {
            return Err(Malformed("a user has flags of a later version"));
        }
        standing.hidden = flags & 1 != 0;
        standing.cancelled_ms = fields.u64()?;
        if flags & 2 != 0 {
            standing.ban = Some(Ban { until_ms: fields.u64()?, reason: fields.text()? });
        }
    }
    Ok(UserRow { created_ms, profile: fields.rest_text()?, standing, began })
}

fn user_fields(value: &[u8]) -> Result<(u8, Fields<'_>), Malformed> {
    match value.split_first() {
        Some((&version @ (STANDING_VERSION | BEGAN_VERSION), rest)) => {
            Ok((version, Fields { rest }))
        }
        _ => Ok((VERSION, Fields::of(value)?)),
    }
}

/// Whether a user of this value can be written to: not if it was cancelled. Looks at no more.
pub fn user_exists(value: &[u8]) -> Result<bool, Malformed> {
    let (version, mut fields) = user_fields(value)?;
    if version == VERSION {
        return Ok(true);
    }
    let _created_ms = fields.u64()?;
    if version == BEGAN_VERSION {
        fields.u64()?;
    }
    let _flags = fields.take::<1>()?;
    Ok(fields.u64()? == 0)
}

/// `rows`: what a user is to another.
pub fn put_relation(out: &mut Vec<u8>, row: &RelationRow) {
    let RelationRow { friends_ms, ended_ms, blocked_ms, asked_ms, terms } = row;
    out.push(VERSION);
    for ms in [friends_ms, ended_ms, blocked_ms, asked_ms] {
        out.extend_from_slice(&ms.to_be_bytes());
    }
    out.push(u8::from(terms.do_not_look) | u8::from(terms.do_not_show) << 1);
    terms.texts().into_iter().for_each(|text| put_text(out, text));
}

/// The inverse of [`put_relation`].
pub fn relation(value: &[u8]) -> Result<RelationRow, Malformed> {
    let mut fields = Fields::of(value)?;
    let [friends_ms, ended_ms, blocked_ms, asked_ms] =
        [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
    let [flags] = *fields.take()?;
    if flags > 0b11 {
        return Err(Malformed("a relation has flags of a later version"));
    }
    let terms = Terms {
        source: fields.text()?,
        message: fields.text()?,
        remark: fields.text()?,
        role: fields.text()?,
        tag: fields.text()?,
        do_not_look: flags & 1 != 0,
        do_not_show: flags & 2 != 0,
    };
    fields.end()?;
    Ok(RelationRow { friends_ms, ended_ms, blocked_ms, asked_ms, terms })
}

/// Kinds of what is owed.
mod owed_kind {
    pub const NOTICE: u8 = 1;
    pub const PART: u8 = 2;
    pub const LEAVE: u8 = 3;
    pub const CANCEL_RELATIONS: u8 = 4;
    pub const CANCEL_MEMBERSHIPS: u8 = 5;
}

/// `owed`: what one home owes.
pub fn put_owed(out: &mut Vec<u8>, owed: &Owed) {
    let optional = |user: &Option<UserId>, out: &mut Vec<u8>| {
        put_id(out, user.as_ref().map_or("", UserId::as_str));
    };
    out.push(VERSION);
    match owed {
        Owed::Notice { user, cause, content } => {
            out.push(owed_kind::NOTICE);
            put_id(out, user.as_str());
            put_id(out, cause.as_str());
            out.extend_from_slice(content);
        }
        Owed::Part { user, other } => {
            out.push(owed_kind::PART);
            put_id(out, user.as_str());
            put_id(out, other.as_str());
        }
        Owed::Leave { user, group, heir } => {
            out.push(owed_kind::LEAVE);
            put_id(out, user.as_str());
            put_id(out, group.as_str());
            optional(heir, out);
        }
        Owed::Cancel { user, heir, done: CancelStep::Relations(done) } => {
            out.push(owed_kind::CANCEL_RELATIONS);
            put_id(out, user.as_str());
            optional(heir, out);
            optional(done, out);
        }
        Owed::Cancel { user, heir, done: CancelStep::Memberships(done) } => {
            out.push(owed_kind::CANCEL_MEMBERSHIPS);
            put_id(out, user.as_str());
            optional(heir, out);
            done.iter().for_each(|done| out.extend_from_slice(&keys::conv(*done)));
        }
    }
}

/// The inverse of [`put_owed`].
pub fn owed(value: &[u8]) -> Result<Owed, Malformed> {
    let mut fields = Fields::of(value)?;
    let [kind] = *fields.take()?;
    let user = fields.user()?;
    let owed = match kind {
        owed_kind::NOTICE => {
            let cause = fields.user()?;
            let content = std::mem::take(&mut fields.rest).to_vec();
            Owed::Notice { user, cause, content }
        }
        owed_kind::PART => Owed::Part { user, other: fields.user()? },
        owed_kind::LEAVE => {
            let group = fields.group()?;
            Owed::Leave { user, group, heir: fields.optional_user()? }
        }
        owed_kind::CANCEL_RELATIONS => {
            let heir = fields.optional_user()?;
            let done = CancelStep::Relations(fields.optional_user()?);
            Owed::Cancel { user, heir, done }
        }
        owed_kind::CANCEL_MEMBERSHIPS => {
            let heir = fields.optional_user()?;
            let done = std::mem::take(&mut fields.rest);
            let done = (!done.is_empty()).then(|| keys::parse_conv(done)).transpose()?;
            Owed::Cancel { user, heir, done: CancelStep::Memberships(done) }
        }
        _ => return Err(Malformed("something owed is of a later version")),
    };
    fields.end()?;
    Ok(owed)
}

/// `rows`: a device.
pub fn put_device(out: &mut Vec<u8>, row: DeviceRow) {
    out.push(VERSION);
    out.extend_from_slice(&row.created_ms.to_be_bytes());
    out.extend_from_slice(&row.seen_ms.to_be_bytes());
}

/// The inverse of [`put_device`].
pub fn device(value: &[u8]) -> Result<DeviceRow, Malformed> {
    let mut fields = Fields::of(value)?;
    let row = DeviceRow { created_ms: fields.u64()?, seen_ms: fields.u64()? };
    fields.end()?;
    Ok(row)
}

/// `rows`: a cursor.
pub fn put_position(out: &mut Vec<u8>, position: &Position) {
    out.push(VERSION);
    out.extend_from_slice(&position.acked.to_be_bytes());
    for (first, last) in &position.ranges {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&last.to_be_bytes());
    }
}

/// The inverse of [`put_position`]: ranges ascending, not touching each other or `acked`.
pub fn position(value: &[u8]) -> Result<Position, Malformed> {
    let mut fields = Fields::of(value)?;
    let acked = fields.u64()?;
    let mut ranges = Vec::with_capacity(fields.rest.len() / 16);
    let mut before = acked;
    while !fields.rest.is_empty() {
        let (first, last) = (fields.u64()?, fields.u64()?);
        if first.saturating_sub(before) < 2 || last < first {
            return Err(Malformed("a cursor's ranges are not in order"));
        }
        ranges.push((first, last));
        before = last;
    }
    Ok(Position { acked, ranges })
}

/// `rows`: what is all in its key.
pub fn put_present(out: &mut Vec<u8>) {
    out.push(VERSION);
}

/// The inverse of [`put_present`].
pub fn present(value: &[u8]) -> Result<(), Malformed> {
    Fields::of(value)?.end()
}

/// `rows`: a seq, alone: a mark, a read position, a member's last message.
pub fn put_seq(out: &mut Vec<u8>, seq: u64) {
    out.push(VERSION);
    out.extend_from_slice(&seq.to_be_bytes());
}

/// The inverse of [`put_seq`].
pub fn seq(value: &[u8]) -> Result<u64, Malformed> {
    let mut fields = Fields::of(value)?;
    let seq = fields.u64()?;
    fields.end()?;
    Ok(seq)
}

/// `meta`: plain bytes of a fixed length, without a version byte: the format's own version says
/// what they are.
pub fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Malformed> {
    value.try_into().map_err(|_| Malformed("a value of meta has another length"))
}

/// What is left of a value.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(value: &'a [u8]) -> Result<Fields<'a>, Malformed> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(Fields { rest }),
            Some(_) => Err(Malformed("a value has a version that this program does not know")),
            None => Err(Malformed("a value is empty")),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        let (taken, rest) =
            self.rest.split_first_chunk().ok_or(Malformed("a value ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// An id ended by a zero byte.
    fn id(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.iter().position(|&byte| byte == 0);
        let (id, rest) = self.rest.split_at(end.ok_or(Malformed("an id has no end"))?);
        self.rest = &rest[1..];
        std::str::from_utf8(id).map_err(|_| Malformed("an id is not UTF-8"))
    }

    /// A conversation's kind and ids.
    fn name(&mut self) -> Result<Conversation, Malformed> {
        const PRIVATE: u8 = ConvKind::Private as u8;
        const GROUP: u8 = ConvKind::Group as u8;
        const NOTICE: u8 = ConvKind::Notice as u8;
        const BROADCAST: u8 = ConvKind::Broadcast as u8;
        Ok(match *self.take::<1>()? {
            [PRIVATE] => {
                let (low, high) = (self.user()?, self.user()?);
                if low > high {
                    return Err(Malformed("a private conversation's members are not in order"));
                }
                Conversation::Private { low, high }
            }
            [GROUP] => Conversation::Group(self.group()?),
            [NOTICE] => Conversation::Notice(self.user()?),
            [BROADCAST] => Conversation::Broadcast,
            _ => return Err(Malformed("a conversation of a kind that this version does not know")),
        })
    }

    fn user(&mut self) -> Result<UserId, Malformed> {
        UserId::parse(self.id()?).ok_or(Malformed("a user id is not one"))
    }

    fn group(&mut self) -> Result<GroupId, Malformed> {
        GroupId::parse(self.id()?).ok_or(Malformed("a group id is not one"))
    }

    /// A user id, or none.
    fn optional_user(&mut self) -> Result<Option<UserId>, Malformed> {
        match self.id()? {
            "" => Ok(None),
            id => UserId::parse(id).map(Some).ok_or(Malformed("a user id is not one")),
        }
    }

    /// A text with its length in front.
    fn text(&mut self) -> Result<String, Malformed> {
        let len = usize::from(u16::from_be_bytes(*self.take()?));
        let cut = self.rest.split_at_checked(len);
        let (text, rest) = cut.ok_or(Malformed("a text ends too early"))?;
        self.rest = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// All that is left, as text.
    fn rest_text(&mut self) -> Result<String, Malformed> {
        let text = std::str::from_utf8(std::mem::take(&mut self.rest));
        text.map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("a value is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_core::ids::Slot;

    /// Encodes, compares with the bytes of the format document, and decodes at every length.
    fn check<T: PartialEq + std::fmt::Debug>(
        expect: &T,
        put: impl Fn(&mut Vec<u8>),
        get: impl Fn(&[u8]) -> Result<T, Malformed>,
        bytes: &[u8],
    ) {
        let mut out = vec![];
        put(&mut out);
        assert_eq!(out, bytes);
        assert_eq!(get(&out).as_ref(), Ok(expect));
        for end in 0..out.len() {
            assert_ne!(get(&out[..end]).as_ref(), Ok(expect), "cut at {end}");
        }
        out[0] = 99;
        assert_eq!(
            get(&out),
            Err(Malformed("a value has a version that this program does not know"))
        );
    }

    fn u64s(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_be_bytes()).collect()
    }

    #[test]
    fn values_are_the_bytes_of_the_format_document() {
        let conv = ConvKey { slot: Slot(0x0102), hash: [9; 16] };
        let bytes = [&[1, 1, 2][..], &[9; 16], &u64s(&[7])].concat();
        check(&(conv, 7), |out| put_place(out, conv, 7), place, &bytes);

        let was = Stored { id: MessageId([3; 12]), seq: 4, time_ms: 5 };
        let bytes = [&[1][..], &[3; 12], &u64s(&[4, 5])].concat();
        check(&was, |out| put_stored(out, was), stored, &bytes);

        let [ann, bob] = ["ann", "bob"].map(|id| UserId::parse(id).expect("valid"));
        let both = Conversation::private(&bob, &ann);
        check(&both, |out| put_conversation(out, &both), conversation, b"\x01\x01ann\0bob\0");

        let team = GroupId::parse("team").expect("valid");
        let name = Conversation::Group(team.clone());
        check(&name, |out| put_conversation(out, &name), conversation, b"\x01\x02team\0");
        let name = Conversation::Notice(ann.clone());
        check(&name, |out| put_conversation(out, &name), conversation, b"\x01\x03ann\0");
        let name = Conversation::Broadcast;
        check(&name, |out| put_conversation(out, &name), conversation, b"\x01\x04");

        let row = GroupRow {
            created_ms: 6,
            owner: ann.clone(),
            join_policy: JoinPolicy::Invite,
            members: 258,
            closed_seq: 7,
            profile: "{}".into(),
        };
        let bytes = [&[1][..], &u64s(&[6]), &[3, 0, 0, 1, 2], &u64s(&[7]), b"ann\0{}"].concat();
        check(&row, |out| put_group(out, &row), group, &bytes);

        let row = MemberRow {
            role: MemberRole::Admin,
            joined_seq: 6,
            alias: "A".into(),
            description: "d".into(),
            updated_ms: 7,
        };
        let bytes = [&[1, 2][..], &u64s(&[6, 7]), &[0, 1], b"Ad"].concat();
        check(&row, |out| put_member(out, &row), member, &bytes);

        let row = MembershipRow { group: team, ranges: vec![(2, 4), (5, u64::MAX)] };
        let bytes = [&[1][..], b"team\0", &u64s(&[2, 4, 5, u64::MAX])].concat();
        check(&row, |out| put_membership(out, &row), membership, &bytes);

        let row = UserRow { created_ms: 6, profile: "{}".into(), ..UserRow::default() };
        let bytes = [&[1][..], &u64s(&[6]), b"{}"].concat();
        check(&row, |out| put_user(out, &row), user, &bytes);
        assert_eq!(user_exists(&bytes), Ok(true));

        let terms = Terms { message: "hi".into(), do_not_show: true, ..Terms::default() };
        let row = RelationRow { friends_ms: 6, ended_ms: 7, blocked_ms: 8, asked_ms: 9, terms };
        let bytes = [&[1][..], &u64s(&[6, 7, 8, 9]), b"\x02\0\0\0\x02hi\0\0\0\0\0\0"].concat();
        check(&row, |out| put_relation(out, &row), relation, &bytes);

        let row = DeviceRow { created_ms: 6, seen_ms: 7 };
        check(&row, |out| put_device(out, row), device, &[&[1][..], &u64s(&[6, 7])].concat());

        let at = Position { acked: 8, ranges: vec![(10, 11), (13, 13)] };
        let bytes = [&[1][..], &u64s(&[8, 10, 11, 13, 13])].concat();
        check(&at, |out| put_position(out, &at), position, &bytes);

        check(&9, |out| put_seq(out, 9), seq, &[&[1][..], &u64s(&[9])].concat());
    }

    #[test]
    fn a_user_has_a_standing_where_there_is_one() {
        let ban = Ban { until_ms: 9, reason: "r".into() };
        let standing = Standing { hidden: true, ban: Some(ban), cancelled_ms: 0 };
        let mut row = UserRow { created_ms: 6, profile: "{}".into(), standing, began: 0 };
        let bytes = [&[2][..], &u64s(&[6]), &[3], &u64s(&[0, 9]), b"\0\x01r{}"].concat();
        let mut out = vec![];
        put_user(&mut out, &row);
        assert_eq!(out, bytes);
        assert_eq!((user(&out).as_ref(), user_exists(&out)), (Ok(&row), Ok(true)));
        row.standing = Standing { cancelled_ms: 5, ..Standing::default() };
        out.clear();
        put_user(&mut out, &row);
        assert_eq!((user(&out).as_ref(), user_exists(&out)), (Ok(&row), Ok(false)));
        for end in 0..out.len() {
            assert_ne!(user(&out[..end]).as_ref(), Ok(&row), "cut at {end}");
        }
        assert!(user_exists(b"\x04").is_err(), "of a later version");
    }

    #[test]
    fn a_user_made_after_a_notice_to_everybody_begins_behind_it() {
        let standing = Standing { hidden: true, ..Standing::default() };
        let mut row = UserRow { created_ms: 6, profile: "{}".into(), standing, began: 7 };
        let bytes = [&[3][..], &u64s(&[6, 7]), &[1], &u64s(&[0]), b"{}"].concat();
        check(&row, |out| put_user(out, &row), user, &bytes);
        assert_eq!(user_exists(&bytes), Ok(true));
        row.standing = Standing { cancelled_ms: 5, ..Standing::default() };
        let mut out = vec![];
        put_user(&mut out, &row);
        assert_eq!((user(&out).as_ref(), user_exists(&out)), (Ok(&row), Ok(false)));
    }

    #[test]
    fn what_is_owed_is_the_bytes_of_the_format_document() {
        let [ann, bob] = ["ann", "bob"].map(|id| UserId::parse(id).expect("valid"));
        let (heir, group) = (Some(bob.clone()), GroupId::parse("team").expect("valid"));
        let conv = ConvKey { slot: Slot(1), hash: [9; 16] };
        let cancel = |heir, done| Owed::Cancel { user: ann.clone(), heir, done };
        let memberships = [&b"\x01\x05ann\0\0\0\x01"[..], &[9; 16]].concat();
        let content = b"x".to_vec();
        let cases: [(Owed, &[u8]); 7] = [
            (
                Owed::Notice { user: ann.clone(), cause: bob.clone(), content },
                b"\x01\x01ann\0bob\0x",
            ),
            (Owed::Part { user: ann.clone(), other: bob.clone() }, b"\x01\x02ann\0bob\0"),
            (Owed::Leave { user: ann.clone(), group, heir: None }, b"\x01\x03ann\0team\0\0"),
            (cancel(heir.clone(), CancelStep::Relations(None)), b"\x01\x04ann\0bob\0\0"),
            (cancel(None, CancelStep::Relations(heir)), b"\x01\x04ann\0\0bob\0"),
            (cancel(None, CancelStep::Memberships(None)), b"\x01\x05ann\0\0"),
            (cancel(None, CancelStep::Memberships(Some(conv))), &memberships),
        ];
        for (expect, bytes) in cases {
            check(&expect, |out| put_owed(out, &expect), owed, bytes);
        }
        assert!(owed(b"\x01\x09ann\0").is_err(), "of a later version");
        assert!(owed(b"\x01\x02ann\0bob\0x").is_err(), "too long");
    }

    #[test]
    fn scheduled_messages_are_the_bytes_of_the_format_document() {
        let user = |id: &str| UserId::parse(id).expect("valid");
        let mut message = Scheduled {
            conversation: Conversation::private(&user("bob"), &user("ann")),
            sender: user("bob"),
            device: DeviceId { dialect: Dialect::Imboy, name: "d".into() },
            client_id: "c1".into(),
            kind: Kind::Neutral,
            sender_ms: None,
            mentions: None,
            content: Bytes::from_static(b"{}"),
        };
        let plain = b"\x01\x03\x00\x01ann\0bob\0bob\0\x01\x00\x01d\x00\x02c1\x00{}";
        check(&message, |out| put_scheduled(out, &message), scheduled, plain);
        for end in 0..plain.len() - 2 {
            assert!(scheduled(&plain[..end]).is_err(), "cut at {end}");
        }
        let later = |at: usize| {
            let mut bytes = plain.to_vec();
            bytes[at] = 200;
            scheduled(&bytes)
        };
        assert!([0, 1, 2, 3].into_iter().all(|at| later(at).is_err()), "of a later version");
        message.sender_ms = Some(-2);
        message.conversation = Conversation::Group(GroupId::parse("team").expect("valid"));
        message.mentions =
            Some(Box::new(Mentioned { users: vec![user("ann"), user("carl")], everybody: true }));
        let time = (-2i64).to_be_bytes();
        let all = [
            &b"\x01\x03\x03"[..],
            &time,
            b"\x02team\0bob\0\x01\x00\x01d\x00\x02c1\x02ann\0carl\0{}",
        ];
        check(&message, |out| put_scheduled(out, &message), scheduled, &all.concat());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cursor = |numbers: &[u64]| position(&[&[1][..], &u64s(numbers)].concat());
        assert!(cursor(&[8, 9, 9]).is_err(), "touches the acknowledged part");
        assert!(cursor(&[8, 10, 9]).is_err(), "ends before it begins");
        assert!(cursor(&[8, 10, 10, 11, 11]).is_err(), "ranges touch");
        assert!(conversation(b"\x01\x01bob\0ann\0").is_err(), "not in order");
        assert!(conversation(b"\x01\x09ann\0bob\0").is_err(), "unknown kind");
        let ranges = |numbers: &[u64]| membership(&[&b"\x01team\0"[..], &u64s(numbers)].concat());
        assert!(ranges(&[]).is_err(), "no range");
        assert!(ranges(&[1, 4, 4, 9]).is_err(), "ranges overlap");
        assert!(ranges(&[0, 4]).is_err(), "seqs count from 1");
        assert!(conversation(b"\x01\x01ann\0bob\0x").is_err(), "too long");
        assert!(conversation(b"\x01\x01ann\0b b\0").is_err(), "not an id");
        assert!(user(b"\x01\0\0\0\0\0\0\0\0\xff").is_err(), "not UTF-8");
        assert_eq!(fixed::<3>(&[1, 2]), Err(Malformed("a value of meta has another length")));
    }
}
