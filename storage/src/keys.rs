//! The keys of the store: which family, which bytes (FORMAT.md, *Keys*).
//!
//! Pure functions in both directions; knows nothing of RocksDB and nothing of values.

use std::ops::Deref;

use ringpost_core::ids::{
    ConvKey, DedupKey, DeviceId, Dialect, GroupId, MessageId, ShardId, Slot, UserId,
};
use ringpost_core::limits::{DEVICE_ID_BYTES_MAX, USER_ID_BYTES_MAX};
use ringpost_core::scheduled::DueKey;

use crate::error::Malformed;

/// The column families. The numbers are those that RocksDB gave them at creation; they are
/// checked at every opening, because [`crate::Batch`] writes them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Family {
    /// The messages.
    Log = 1,
    /// Message id to place.
    Ids = 2,
    /// Recognition of resends.
    Dedup = 3,
    /// One key per fact, latest value.
    Rows = 4,
    /// What shall be sent later; nothing is written yet.
    Due = 5,
    /// What one home owes another log.
    Owed = 6,
    /// The store itself.
    Meta = 7,
}

impl Family {
    /// All of them, in the order of their creation.
    pub const ALL: [Family; 7] = [
        Family::Log,
        Family::Ids,
        Family::Dedup,
        Family::Rows,
        Family::Due,
        Family::Owed,
        Family::Meta,
    ];

    /// Its name in RocksDB.
    pub fn name(self) -> &'static str {
        match self {
            Family::Log => "log",
            Family::Ids => "ids",
            Family::Dedup => "dedup",
            Family::Rows => "rows",
            Family::Due => "due",
            Family::Owed => "owed",
            Family::Meta => "meta",
        }
    }

    /// Its number in RocksDB.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Family::number`].
    pub fn from_number(number: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.number() == number)
    }
}

/// Bytes of a conversation's key: slot and hash.
pub const CONV_BYTES: usize = 2 + 16;
/// Bytes of an `owed` key.
pub const OWED_BYTES: usize = 2 + 12;
/// Bytes of a `due` key.
pub const DUE_BYTES: usize = 2 + 8 + 12;
/// Bytes of a `log` key.
pub const LOG_BYTES: usize = CONV_BYTES + 8;

/// Kinds of `rows`, the byte behind the slot.
mod kind {
    pub const CHAT: u8 = b'h';
    pub const CONVERSATION: u8 = b'C';
    pub const CURSOR: u8 = b'c';
    pub const DEVICE: u8 = b'd';
    pub const GROUP: u8 = b'G';
    pub const MARK: u8 = b'm';
    pub const MEMBER: u8 = b'r';
    pub const MEMBERSHIP: u8 = b'g';
    pub const MENTION: u8 = b'a';
    pub const MENTION_ALL: u8 = b'A';
    pub const READ: u8 = b'p';
    pub const RELATION: u8 = b'f';
    pub const SENT: u8 = b's';
    pub const USER: u8 = b'u';
}

/// The longest key of `rows`: a cursor's.
const ROW_BYTES_MAX: usize =
    2 + 1 + (USER_ID_BYTES_MAX + 1) + CONV_BYTES + (1 + DEVICE_ID_BYTES_MAX);
const _: () = assert!(ROW_BYTES_MAX <= u8::MAX as usize, "Key::len is a byte");

/// A key of `rows` or `meta`, or the beginning of some, on the stack.
#[derive(Clone)]
pub struct Key {
    /// Invariant: `len <= ROW_BYTES_MAX`.
    len: u8,
    bytes: [u8; ROW_BYTES_MAX],
}

impl Key {
    fn new() -> Key {
        Key { len: 0, bytes: [0; ROW_BYTES_MAX] }
    }

    fn row(slot: Slot, kind: u8) -> Key {
        let mut key = Key::new();
        key.push(&slot.0.to_be_bytes());
        key.push(&[kind]);
        key
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        let end = start + bytes.len();
        assert!(end <= ROW_BYTES_MAX, "ids are within the limits they were parsed with");
        self.bytes[start..end].copy_from_slice(bytes);
        self.len = end as u8;
    }

    fn user(mut self, user: &UserId) -> Key {
        self.push(user.as_str().as_bytes());
        self.push(&[0]);
        self
    }

    /// The same with a conversation behind it.
    pub fn conversation(mut self, conversation: ConvKey) -> Key {
        self.push(&conv(conversation));
        self
    }

    fn device(mut self, device: &DeviceId) -> Key {
        self.push(&[device.dialect.number()]);
        self.push(device.name.as_bytes());
        self
    }

    /// The first key behind all those that begin with this one.
    pub fn end(&self) -> Key {
        let mut end = self.clone();
        while let Some(last) = end.len.checked_sub(1) {
            let byte = &mut end.bytes[usize::from(last)];
            if *byte < u8::MAX {
                *byte += 1;
                return end;
            }
            end.len = last;
        }
        unreachable!("a key begins with a slot, which is below 0xffff, or with a letter");
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A conversation: slot, hash.
pub fn conv(conversation: ConvKey) -> [u8; CONV_BYTES] {
    let mut key = [0; CONV_BYTES];
    key[..2].copy_from_slice(&conversation.slot.0.to_be_bytes());
    key[2..].copy_from_slice(&conversation.hash);
    key
}

/// The inverse of [`conv`].
pub fn parse_conv(bytes: &[u8]) -> Result<ConvKey, Malformed> {
    let bytes: &[u8; CONV_BYTES] =
        bytes.try_into().map_err(|_| Malformed("a conversation's key is not 18 bytes"))?;
    let slot = Slot(u16::from_be_bytes([bytes[0], bytes[1]]));
    let hash = bytes[2..].try_into().expect("16 of the 18 bytes are left");
    Ok(ConvKey { slot, hash })
}

/// `log`: slot, conversation, seq.
pub fn log(conversation: ConvKey, seq: u64) -> [u8; LOG_BYTES] {
    let mut key = [0; LOG_BYTES];
    key[..CONV_BYTES].copy_from_slice(&conv(conversation));
    key[CONV_BYTES..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// The conversation and seq of a `log` key.
pub fn parse_log(key: &[u8]) -> Result<(ConvKey, u64), Malformed> {
    let seq = log_seq(key)?;
    Ok((parse_conv(&key[..CONV_BYTES])?, seq))
}

/// The seq of a `log` key.
pub fn log_seq(key: &[u8]) -> Result<u64, Malformed> {
    let key: &[u8; LOG_BYTES] =
        key.try_into().map_err(|_| Malformed("a key of the log is not 26 bytes"))?;
    Ok(u64::from_be_bytes(key[CONV_BYTES..].try_into().expect("8 of the 26 bytes are left")))
}

/// `ids`: the id.
pub fn id(id: MessageId) -> [u8; 12] {
    id.0
}

/// `dedup`: slot, hash.
pub fn dedup(key: DedupKey) -> [u8; CONV_BYTES] {
    conv(ConvKey { slot: key.slot, hash: key.hash })
}

/// `rows`: a user.
pub fn user(user: &UserId) -> Key {
    Key::row(user.slot(), kind::USER).user(user)
}

/// `rows`: all devices of a user begin with this.
pub fn devices(user: &UserId) -> Key {
    Key::row(user.slot(), kind::DEVICE).user(user)
}

/// `rows`: a device.
pub fn device(user: &UserId, device: &DeviceId) -> Key {
    devices(user).device(device)
}

/// `rows`: the cursors of all devices of a user in a conversation begin with this.
pub fn cursors(user: &UserId, conversation: ConvKey) -> Key {
    Key::row(user.slot(), kind::CURSOR).user(user).conversation(conversation)
}

/// `rows`: a device's cursor.
pub fn cursor(user: &UserId, conversation: ConvKey, device: &DeviceId) -> Key {
    cursors(user, conversation).device(device)
}

/// `rows`: all marks of a user begin with this.
pub fn marks(user: &UserId) -> Key {
    Key::row(user.slot(), kind::MARK).user(user)
}

/// `rows`: a mark.
pub fn mark(user: &UserId, conversation: ConvKey) -> Key {
    marks(user).conversation(conversation)
}

/// `rows`: a group.
pub fn group(group: &GroupId) -> Key {
    let mut key = Key::row(group.slot(), kind::GROUP);
    key.push(group.as_str().as_bytes());
    key.push(&[0]);
    key
}

/// `rows`: all lines of a group's roster begin with this.
pub fn members(group: &GroupId) -> Key {
    let mut key = Key::row(group.slot(), kind::MEMBER);
    key.push(group.as_str().as_bytes());
    key.push(&[0]);
    key
}

/// `rows`: a line of a group's roster.
pub fn member(group: &GroupId, user: &UserId) -> Key {
    let mut key = members(group);
    key.push(user.as_str().as_bytes());
    key
}

/// The end of a roster's or a relation's key: the user.
pub fn parse_user(bytes: &[u8]) -> Result<UserId, Malformed> {
    let user = std::str::from_utf8(bytes).ok().and_then(UserId::parse);
    user.ok_or(Malformed("a key does not end in a user id"))
}

/// `rows`: all memberships of a user begin with this.
pub fn memberships(user: &UserId) -> Key {
    Key::row(user.slot(), kind::MEMBERSHIP).user(user)
}

/// `rows`: a membership.
pub fn membership(user: &UserId, conversation: ConvKey) -> Key {
    memberships(user).conversation(conversation)
}

/// `rows`: all conversations of a user but groups begin with this.
pub fn chats(user: &UserId) -> Key {
    Key::row(user.slot(), kind::CHAT).user(user)
}

/// `rows`: a conversation that a user has.
pub fn chat(user: &UserId, conversation: ConvKey) -> Key {
    chats(user).conversation(conversation)
}

/// `rows`: how far a user has read a conversation.
pub fn read(user: &UserId, conversation: ConvKey) -> Key {
    Key::row(user.slot(), kind::READ).user(user).conversation(conversation)
}

/// `rows`: a member's last message in a group.
pub fn sent(conversation: ConvKey, user: &UserId) -> Key {
    let mut key = Key::row(conversation.slot, kind::SENT);
    key.push(&conversation.hash);
    key.push(user.as_str().as_bytes());
    key
}

/// `rows`: all mentions of a user in a conversation begin with this.
pub fn mentions(user: &UserId, conversation: ConvKey) -> Key {
    Key::row(user.slot(), kind::MENTION).user(user).conversation(conversation)
}

/// `rows`: a message that mentions a user.
pub fn mention(user: &UserId, conversation: ConvKey, seq: u64) -> Key {
    let mut key = mentions(user, conversation);
    key.push(&seq.to_be_bytes());
    key
}

/// `rows`: a message that mentions everybody.
pub fn mention_all(conversation: ConvKey, seq: u64) -> Key {
    let mut key = Key::row(conversation.slot, kind::MENTION_ALL);
    key.push(&conversation.hash);
    key.push(&seq.to_be_bytes());
    key
}

/// The end of a mention's key: the seq.
pub fn mention_seq(key: &[u8]) -> Result<u64, Malformed> {
    let seq = key.last_chunk().ok_or(Malformed("a mention's key has no seq"))?;
    Ok(u64::from_be_bytes(*seq))
}

/// `rows`: all that a user is to others begins with this.
pub fn relations(user: &UserId) -> Key {
    Key::row(user.slot(), kind::RELATION).user(user)
}

/// `rows`: what a user is to another.
pub fn relation(user: &UserId, other: &UserId) -> Key {
    let mut key = relations(user);
    key.push(other.as_str().as_bytes());
    key
}

/// `owed`: slot of the cause, id.
pub fn owed(slot: Slot, id: MessageId) -> [u8; OWED_BYTES] {
    let mut key = [0; OWED_BYTES];
    key[..2].copy_from_slice(&slot.0.to_be_bytes());
    key[2..].copy_from_slice(&id.0);
    key
}

/// The inverse of [`owed`].
pub fn parse_owed(bytes: &[u8]) -> Result<(Slot, MessageId), Malformed> {
    let bytes: &[u8; OWED_BYTES] =
        bytes.try_into().map_err(|_| Malformed("a key of what is owed is not 14 bytes"))?;
    let slot = Slot(u16::from_be_bytes([bytes[0], bytes[1]]));
    Ok((slot, MessageId(bytes[2..].try_into().expect("12 of the 14 bytes are left"))))
}

/// `due`: slot, time, id.
pub fn due(key: DueKey) -> [u8; DUE_BYTES] {
    let mut bytes = [0; DUE_BYTES];
    bytes[..2].copy_from_slice(&key.slot.0.to_be_bytes());
    bytes[2..10].copy_from_slice(&key.due_ms.to_be_bytes());
    bytes[10..].copy_from_slice(&key.id.0);
    bytes
}

/// The inverse of [`due`].
pub fn parse_due(bytes: &[u8]) -> Result<DueKey, Malformed> {
    const WRONG: Malformed = Malformed("a key of what is due is not 22 bytes");
    let (slot, rest) = bytes.split_first_chunk().ok_or(WRONG)?;
    let (due_ms, id) = rest.split_first_chunk().ok_or(WRONG)?;
    Ok(DueKey {
        slot: Slot(u16::from_be_bytes(*slot)),
        due_ms: u64::from_be_bytes(*due_ms),
        id: MessageId(id.try_into().map_err(|_| WRONG)?),
    })
}

/// `rows`: a conversation's full name.
pub fn conversation(key: ConvKey) -> Key {
    let mut row = Key::row(key.slot, kind::CONVERSATION);
    row.push(&key.hash);
    row
}

/// What a key of `rows` is about, as far as it is about a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Row {
    /// A conversation's full name.
    Conversation(ConvKey),
    /// A device's cursor in it.
    Cursor(ConvKey),
    /// A user's mark for it.
    Mark(ConvKey),
    /// A seq that it has: how far a user has read, or a member's last message.
    Seq(ConvKey),
    /// A message that mentions somebody, or everybody.
    Mention(ConvKey, u64),
    /// A user, who begins somewhere in the notices to everybody.
    User,
    /// None of these.
    Other,
}

/// Reads a key of `rows`.
pub fn parse_row(key: &[u8]) -> Result<Row, Malformed> {
    const SHORT: Malformed = Malformed("a key of rows ends too early");
    let (slot, rest) = key.split_first_chunk::<2>().ok_or(SHORT)?;
    let (kind, rest) = rest.split_first().ok_or(SHORT)?;
    // What stands behind the user.
    let conversation = || {
        let end = rest.iter().position(|&byte| byte == 0).ok_or(SHORT)?;
        parse_conv(rest[end + 1..].get(..CONV_BYTES).ok_or(SHORT)?)
    };
    // In front of what is under the conversation's own slot.
    let own = || parse_conv(&[slot, rest.get(..16).ok_or(SHORT)?].concat());
    match *kind {
        kind::READ => conversation().map(Row::Seq),
        kind::SENT => own().map(Row::Seq),
        kind::MENTION => Ok(Row::Mention(conversation()?, mention_seq(key)?)),
        kind::MENTION_ALL => Ok(Row::Mention(own()?, mention_seq(key)?)),
        kind::CONVERSATION => parse_conv(&[slot, rest].concat()).map(Row::Conversation),
        kind::CURSOR => conversation().map(Row::Cursor),
        kind::MARK => conversation().map(Row::Mark),
        kind::USER => Ok(Row::User),
        _ => Ok(Row::Other),
    }
}

/// The end of a device's or cursor's key: dialect, name.
pub fn parse_device(bytes: &[u8]) -> Result<DeviceId, Malformed> {
    let (&dialect, name) = bytes.split_first().ok_or(Malformed("a key ends before its device"))?;
    let dialect =
        Dialect::from_number(dialect).ok_or(Malformed("a key has a dialect of a later version"))?;
    let name = std::str::from_utf8(name).map_err(|_| Malformed("a device's name is not UTF-8"))?;
    Ok(DeviceId { dialect, name: name.into() })
}

/// `meta`: the keys with fixed names.
pub mod meta {
    /// Number of the last batch, and the store's seal. In every batch, as its last operation.
    pub const BATCH: &[u8] = b"batch";
    /// The store's epoch, 8 bytes.
    pub const EPOCH: &[u8] = b"epoch";
    /// Version of the format, 4 bytes.
    pub const FORMAT: &[u8] = b"format";
    /// All id leases begin with this.
    pub const LEASES: &[u8] = b"lease/";
    /// The first key behind the leases.
    pub const LEASES_END: &[u8] = b"lease0";
    /// The node id in message ids, 3 bytes.
    pub const NODE: &[u8] = b"node";
    /// The secret of conversation and dedup keys, 8 bytes.
    pub const SECRET: &[u8] = b"secret";
}

/// `meta`: a shard's id lease.
pub fn lease(shard: ShardId) -> Key {
    let mut key = Key::new();
    key.push(meta::LEASES);
    key.push(&shard.0.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user_id(id: &str) -> UserId {
        UserId::parse(id).expect("valid")
    }

    fn conv_key(byte: u8) -> ConvKey {
        ConvKey { slot: Slot(u16::from(byte)), hash: [byte; 16] }
    }

    fn phone() -> DeviceId {
        DeviceId { dialect: Dialect::Imboy, name: "phone".into() }
    }

    #[test]
    fn keys_are_the_bytes_of_the_format_document() {
        let ann = user_id("ann");
        let slot = ann.slot().0.to_be_bytes();
        let expect = |parts: &[&[u8]]| parts.concat();
        assert_eq!(log(conv_key(3), 258), *expect(&[&[0, 3], &[3; 16], &[0, 0, 0, 0, 0, 0, 1, 2]]));
        assert_eq!(*user(&ann), *expect(&[&slot, b"uann\0"]));
        assert_eq!(*device(&ann, &phone()), *expect(&[&slot, b"dann\0\x01phone"]));
        assert_eq!(*mark(&ann, conv_key(4)), *expect(&[&slot, b"mann\0", &[0, 4], &[4; 16]]));
        assert_eq!(
            *cursor(&ann, conv_key(4), &phone()),
            *expect(&[&slot, b"cann\0", &[0, 4], &[4; 16], b"\x01phone"])
        );
        let team = GroupId::parse("team").expect("valid");
        let home = team.slot().0.to_be_bytes();
        assert_eq!(*group(&team), *expect(&[&home, b"Gteam\0"]));
        let seq = [0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(*chat(&ann, conv_key(4)), *expect(&[&slot, b"hann\0", &[0, 4], &[4; 16]]));
        let due_key = DueKey { slot: Slot(3), due_ms: 258, id: MessageId([9; 12]) };
        assert_eq!(due(due_key), *expect(&[&[0, 3], &seq, &[9; 12]]));
        assert_eq!(parse_due(&due(due_key)), Ok(due_key));
        assert!(parse_due(&due(due_key)[1..]).is_err());
        assert_eq!(*read(&ann, conv_key(4)), *expect(&[&slot, b"pann\0", &[0, 4], &[4; 16]]));
        assert_eq!(*sent(conv_key(4), &ann), *expect(&[&[0, 4], b"s", &[4; 16], b"ann"]));
        let mention = mention(&ann, conv_key(4), 258);
        assert_eq!(*mention, *expect(&[&slot, b"aann\0", &[0, 4], &[4; 16], &seq]));
        assert_eq!(mention_seq(&mention), Ok(258));
        let all = mention_all(conv_key(4), 258);
        assert_eq!(*all, *expect(&[&[0, 4], b"A", &[4; 16], &seq]));
        assert_eq!(*member(&team, &ann), *expect(&[&home, b"rteam\0ann"]));
        assert_eq!(*membership(&ann, conv_key(4)), *expect(&[&slot, b"gann\0", &[0, 4], &[4; 16]]));
        let bob = user_id("bob");
        assert_eq!(*relation(&ann, &bob), *expect(&[&slot, b"fann\0bob"]));
        assert_eq!(owed(Slot(258), MessageId([7; 12])), *expect(&[&[1, 2], &[7; 12]]));
        assert_eq!(*conversation(conv_key(5)), *expect(&[&[0, 5], b"C", &[5; 16]]));
        assert_eq!(*lease(ShardId(258)), *b"lease/\x01\x02");
    }

    #[test]
    fn a_prefix_ends_before_its_neighbour() {
        // "an" is a prefix of "ann": the zero byte keeps their ranges apart.
        let prefix = devices(&user_id("an"));
        let neighbour = [&prefix[..prefix.len() - 1], b"n\0\x01phone"].concat();
        let own = [&*prefix, b"\x01phone"].concat();
        let range = &*prefix..&*prefix.end();
        assert!(range.contains(&&*own));
        assert!(!range.contains(&&*neighbour));
        let full = cursors(&user_id("ann"), ConvKey { slot: Slot(0xffff), hash: [0xff; 16] });
        assert!(*full.end() > *[&*full, &[0xff; 3]].concat());
    }

    #[test]
    fn what_was_put_into_a_key_comes_out() {
        assert_eq!(parse_conv(&conv(conv_key(9))), Ok(conv_key(9)));
        assert_eq!(log_seq(&log(conv_key(9), u64::MAX)), Ok(u64::MAX));
        assert_eq!(parse_log(&log(conv_key(9), 7)), Ok((conv_key(9), 7)));
        let ann = user_id("ann");
        for (key, row) in [
            (conversation(conv_key(9)), Row::Conversation(conv_key(9))),
            (cursor(&ann, conv_key(9), &phone()), Row::Cursor(conv_key(9))),
            (mark(&ann, conv_key(9)), Row::Mark(conv_key(9))),
            (device(&ann, &phone()), Row::Other),
            (user(&ann), Row::User),
        ] {
            assert_eq!(parse_row(&key), Ok(row), "{row:?}");
        }
        let full = cursor(&ann, conv_key(9), &phone());
        let whole = full.len() - "\x01phone".len();
        assert!((0..whole).all(|end| parse_row(&full[..end]).is_err()));
        let key = device(&user_id("ann"), &phone());
        assert_eq!(parse_device(&key[devices(&user_id("ann")).len()..]), Ok(phone()));
        let key = owed(Slot(9), MessageId([8; 12]));
        assert_eq!(parse_owed(&key), Ok((Slot(9), MessageId([8; 12]))));
        assert!(parse_owed(&key[1..]).is_err());
        assert!(parse_conv(&[0; 17]).is_err());
        assert!(log_seq(&[0; 25]).is_err());
        assert!(parse_device(b"").is_err());
        assert!(parse_device(b"\xffphone").is_err());
        assert!(parse_device(b"\x01\xff").is_err());
    }

    #[test]
    fn the_longest_ids_fit() {
        let long = user_id(&"u".repeat(USER_ID_BYTES_MAX));
        let name = "d".repeat(DEVICE_ID_BYTES_MAX);
        let device = DeviceId { dialect: Dialect::Imboy, name: name.into() };
        assert_eq!(cursor(&long, conv_key(1), &device).len(), ROW_BYTES_MAX);
    }

    #[test]
    fn the_leases_end_behind_the_last_shard() {
        assert!(*lease(ShardId(u16::MAX)) < *meta::LEASES_END);
    }
}
