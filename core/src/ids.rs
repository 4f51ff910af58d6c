//! The names of things: users, devices, conversations, shards, slots, messages; and the generator
//! of message ids.
//!
//! Each id is a type of its own, so that two of them cannot be swapped. Nothing here reads a clock
//! or draws a random number: seconds and secrets come in as arguments.

use compact_str::{CompactString, format_compact};
use std::fmt;
use std::hash::{Hash, Hasher};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::limits;

/// Slots are fixed for the life of a store: 4,096 of them, each a contiguous range of keys.
pub const SLOTS: u16 = 4096;

/// A contiguous range of keys, and the unit in which users and conversations are spread over shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Slot(pub u16);

impl Slot {
    /// `xxh3(id) mod 4096`, for a user or a group.
    pub fn of(id: &str) -> Slot {
        Slot((xxh3_64(id.as_bytes()) % u64::from(SLOTS)) as u16)
    }

    /// The shard that is this slot's home while the process has `shards` of them.
    pub fn shard(self, shards: u16) -> ShardId {
        ShardId(self.0 % shards)
    }
}

/// One of the process's shard threads, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ShardId(pub u16);

/// A connection of one shard. The generation tells a reused index from its former holder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId {
    /// Position in the shard's table of connections.
    pub index: u32,
    /// How often that position had been given away before.
    pub generation: u32,
}

/// A user: 1 to 64 bytes of `[A-Za-z0-9_.@:-]`, and none of the reserved words
/// (protocols/README.md, *Identities on the wire*).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UserId(CompactString);

/// Whether `text` may name a user or a group: 1 to 64 bytes of `[A-Za-z0-9_.@:-]`, and none of the
/// reserved words (protocols/README.md, *Identities on the wire*).
fn is_name(text: &str) -> bool {
    let reserved = matches!(text, "all" | "service" | "direct" | "0")
        || ["single:", "group:", "notice:", "channel:"]
            .iter()
            .any(|prefix| text.starts_with(prefix));
    let fits = !text.is_empty() && text.len() <= limits::USER_ID_BYTES_MAX;
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'@' | b':' | b'-'));
    fits && clean && !reserved
}

impl UserId {
    /// `None` when `text` is not a user id.
    pub fn parse(text: &str) -> Option<UserId> {
        is_name(text).then(|| UserId(CompactString::new(text)))
    }

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot that is this user's home.
    pub fn slot(&self) -> Slot {
        Slot::of(&self.0)
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// A group: the same alphabet as a user's id, another name space.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupId(CompactString);

impl GroupId {
    /// `None` when `text` is not a group id.
    pub fn parse(text: &str) -> Option<GroupId> {
        is_name(text).then(|| GroupId(CompactString::new(text)))
    }

    /// The id as it stands on the wire.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The slot that is this group's home.
    pub fn slot(&self) -> Slot {
        Slot::of(&self.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The protocols that clients speak (protocols/README.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Dialect {
    /// JSON text with `CLIENT_ACK` (protocols/imboy.md).
    Imboy = 1,
}

impl Dialect {
    /// How many there are.
    pub const COUNT: usize = 1;
    /// All of them.
    pub const ALL: [Dialect; Dialect::COUNT] = [Dialect::Imboy];

    /// Its place among them, below [`Dialect::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Dialect::Imboy => 0,
        }
    }

    /// The number it has in the store.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The inverse of [`Dialect::number`].
    pub fn from_number(number: u8) -> Option<Dialect> {
        match number {
            1 => Some(Dialect::Imboy),
            _ => None,
        }
    }

    /// The name it has in configuration, logs and the HTTP API.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Imboy => "imboy",
        }
    }
}

/// One device of a user: a dialect and the id that the client gave (1 to 128 bytes).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DeviceId {
    /// What the device speaks.
    pub dialect: Dialect,
    /// Its id in that dialect, e.g. imboy's `did`.
    pub name: CompactString,
}

/// A conversation, by its members or name. Never a string inside the process.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Conversation {
    /// Two users, `low <= high` by bytes; equal for notes to oneself.
    Private {
        /// The smaller id; its slot is the conversation's.
        low: UserId,
        /// The larger id.
        high: UserId,
    },
    /// A group: its roster's members.
    Group(GroupId),
    /// What happened to one user: requests, confirmations, business notices.
    Notice(UserId),
    /// Notices to everybody: every user is a member, from his creation on.
    Broadcast,
}

/// The name of [`Conversation::Broadcast`]; no user and no group has it.
const EVERYBODY: &str = "*";

/// What kind a conversation is; the number is the first byte under its key's hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum ConvKind {
    /// See [`Conversation::Private`].
    Private = 1,
    /// See [`Conversation::Group`].
    Group = 2,
    /// See [`Conversation::Notice`].
    Notice = 3,
    /// See [`Conversation::Broadcast`].
    Broadcast = 4,
}

impl Conversation {
    /// The private conversation of two users, in either order.
    pub fn private(one: &UserId, other: &UserId) -> Conversation {
        let (low, high) = if one <= other { (one, other) } else { (other, one) };
        Conversation::Private { low: low.clone(), high: high.clone() }
    }

    /// What kind it is.
    pub fn kind(&self) -> ConvKind {
        match self {
            Conversation::Private { .. } => ConvKind::Private,
            Conversation::Group(_) => ConvKind::Group,
            Conversation::Notice(_) => ConvKind::Notice,
            Conversation::Broadcast => ConvKind::Broadcast,
        }
    }

    /// The slot that is its home.
    pub fn slot(&self) -> Slot {
        match self {
            Conversation::Private { low, .. } => low.slot(),
            Conversation::Group(group) => group.slot(),
            Conversation::Notice(user) => user.slot(),
            Conversation::Broadcast => Slot::of(EVERYBODY),
        }
    }

    /// Its canonical id on the wire (protocols/README.md, *Conversations*).
    pub fn canonical(&self) -> String {
        match self {
            Conversation::Private { low, high } => format!("single:{low}-{high}"),
            Conversation::Group(group) => format!("group:{group}"),
            Conversation::Notice(user) => format!("notice:{user}"),
            Conversation::Broadcast => format!("notice:{EVERYBODY}"),
        }
    }

    /// Reads a canonical id as `user` means it: a private conversation is one of his, which tells
    /// where the first id ends (ids may contain `-`), and so are notices.
    pub fn parse(text: &str, user: &UserId) -> Option<Conversation> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "single" => {
                let after = rest.strip_prefix(user.as_str()).and_then(|it| it.strip_prefix('-'));
                let before = rest.strip_suffix(user.as_str()).and_then(|it| it.strip_suffix('-'));
                // The two are in order; at most one of these fits.
                let high = after.and_then(UserId::parse).filter(|high| user <= high);
                let low = before.and_then(UserId::parse).filter(|low| low <= user);
                high.or(low).map(|other| Conversation::private(user, &other))
            }
            "group" => GroupId::parse(rest).map(Conversation::Group),
            "notice" => (rest == user.as_str()).then(|| Conversation::Notice(user.clone())),
            _ => None,
        }
    }

    /// All that a canonical id may mean when it is not known whose it is: ids may contain `-`.
    pub fn readings(text: &str) -> Vec<Conversation> {
        let Some((kind, rest)) = text.split_once(':') else { return vec![] };
        match kind {
            "single" => {
                let splits = rest.match_indices('-');
                let pairs = splits.filter_map(|(at, _)| {
                    let low = UserId::parse(&rest[..at])?;
                    let high = UserId::parse(&rest[at + 1..])?;
                    (low <= high).then_some(Conversation::Private { low, high })
                });
                pairs.collect()
            }
            "group" => GroupId::parse(rest).map(Conversation::Group).into_iter().collect(),
            "notice" if rest == EVERYBODY => vec![Conversation::Broadcast],
            "notice" => UserId::parse(rest).map(Conversation::Notice).into_iter().collect(),
            _ => vec![],
        }
    }

    /// Its key in this store: the home's slot and 128 bits over kind and ids, each id ended by a
    /// zero byte, seeded with the store's secret.
    pub fn key(&self, secret: u64) -> ConvKey {
        let ids = match self {
            Conversation::Private { low, high } => [Some(low.as_str()), Some(high.as_str())],
            Conversation::Group(group) => [Some(group.as_str()), None],
            Conversation::Notice(user) => [Some(user.as_str()), None],
            Conversation::Broadcast => [None, None],
        };
        let mut text = [0u8; 1 + 2 * (limits::USER_ID_BYTES_MAX + 1)];
        text[0] = self.kind() as u8;
        let mut len = 1;
        for id in ids.into_iter().flatten() {
            text[len..len + id.len()].copy_from_slice(id.as_bytes());
            len += id.len() + 1;
        }
        let hash = xxh3_128_with_seed(&text[..len], secret).to_be_bytes();
        ConvKey { slot: self.slot(), hash }
    }

    /// The users whose devices have marks in it, in order: both of a private conversation, the
    /// smaller first (one for notes to oneself), and the owner of notices. A group's members are
    /// in its roster, and have none; nor has everybody.
    pub fn marked(&self) -> impl Iterator<Item = &UserId> {
        let (first, second) = match self {
            Conversation::Private { low, high } => (Some(low), (low != high).then_some(high)),
            Conversation::Group(_) | Conversation::Broadcast => (None, None),
            Conversation::Notice(user) => (Some(user), None),
        };
        first.into_iter().chain(second)
    }

    /// Where `user` stands in [`Conversation::marked`].
    pub fn side(&self, user: &str) -> Option<usize> {
        self.marked().position(|marked| marked.as_str() == user)
    }
}

/// A conversation's key in storage: its slot, then 16 bytes of hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConvKey {
    /// Home of the conversation.
    pub slot: Slot,
    /// XXH3-128 over kind and ids.
    pub hash: [u8; 16],
}

impl Hash for ConvKey {
    /// Eight of its bytes: they are a hash already. Equality looks at all of them.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.hash;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Key of a resend's recognition: slot of the conversation, hash over conversation, sender and
/// client message id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DedupKey {
    /// Home of the conversation.
    pub slot: Slot,
    /// XXH3-128 of the three parts.
    pub hash: [u8; 16],
}

impl DedupKey {
    /// `client_id` is the client's own message id, 1 to 64 bytes.
    pub fn new(conversation: ConvKey, sender: &UserId, client_id: &str, secret: u64) -> DedupKey {
        DedupKey::of(conversation, sender.as_str(), client_id, secret)
    }

    /// The same for a notice, which nobody has sent: to this user, or to everybody. `id` is its
    /// sender's own id for it.
    pub fn of_notice(
        conversation: ConvKey,
        to: Option<&UserId>,
        id: &str,
        secret: u64,
    ) -> DedupKey {
        let id = format_compact!("notice:{id}");
        DedupKey::of(conversation, to.map_or("", UserId::as_str), &id, secret)
    }

    fn of(conversation: ConvKey, sender: &str, client_id: &str, secret: u64) -> DedupKey {
        assert!(client_id.len() <= limits::CLIENT_ID_BYTES_MAX);
        let mut text = [0u8; 16 + limits::USER_ID_BYTES_MAX + 1 + limits::CLIENT_ID_BYTES_MAX];
        text[..16].copy_from_slice(&conversation.hash);
        let sender = sender.as_bytes();
        text[16..16 + sender.len()].copy_from_slice(sender);
        let start = 16 + sender.len() + 1;
        let end = start + client_id.len();
        text[start..end].copy_from_slice(client_id.as_bytes());
        let hash = xxh3_128_with_seed(&text[..end], secret).to_be_bytes();
        DedupKey { slot: conversation.slot, hash }
    }
}

/// A message's id: the 12 bytes of an xid (u32 seconds, 5 bytes node and shard, 3 bytes counter,
/// all big-endian), made by the server alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct MessageId(pub [u8; 12]);

const XID_ALPHABET: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

impl MessageId {
    /// The 20 characters of the xid's text form (base32hex, lower case).
    pub fn to_xid(self) -> [u8; 20] {
        let mut text = [0u8; 20];
        let mut bits = 0u32;
        let mut count = 0;
        let mut out = 0;
        for byte in self.0 {
            bits = (bits << 8) | u32::from(byte);
            count += 8;
            while count >= 5 {
                count -= 5;
                text[out] = XID_ALPHABET[(bits >> count & 31) as usize];
                out += 1;
            }
        }
        text[out] = XID_ALPHABET[(bits << (5 - count) & 31) as usize];
        text
    }

    /// `None` when `text` is not the text form of an xid, exactly as [`MessageId::to_xid`] writes it.
    pub fn parse_xid(text: &[u8]) -> Option<MessageId> {
        if text.len() != 20 {
            return None;
        }
        let mut id = [0u8; 12];
        let mut bits = 0u32;
        let mut count = 0;
        let mut out = 0;
        for &c in text {
            let value = match c {
                b'0'..=b'9' => c - b'0',
                b'a'..=b'v' => c - b'a' + 10,
                _ => return None,
            };
            bits = (bits << 5) | u32::from(value);
            count += 5;
            if count >= 8 {
                count -= 8;
                id[out] = (bits >> count) as u8;
                out += 1;
            }
        }
        // 100 bits carry 96: the last four are zero in a valid xid.
        (bits & 0b1111 == 0).then_some(MessageId(id))
    }
}

impl MessageId {
    /// What tells wire ids apart that need not be xids: the xid that the text is, else a hash of it.
    /// Only for comparing; no message has it.
    pub fn key_of(text: &str) -> MessageId {
        MessageId::parse_xid(text.as_bytes()).unwrap_or_else(|| {
            let hash = xxh3_128_with_seed(text.as_bytes(), 0).to_be_bytes();
            MessageId(*hash.first_chunk().expect("16 bytes have 12"))
        })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_xid().iter().try_for_each(|&c| fmt::Write::write_char(f, char::from(c)))
    }
}

/// Makes message ids that never repeat, whatever the clock does.
///
/// The second in an id never exceeds the lease, and the lease is durable before it is used: a
/// restart starts behind every lease there is, so a clock set back cannot bring an id back.
#[derive(Debug)]
pub struct IdGenerator {
    node: [u8; 5],
    second: u32,
    counter: u32,
    /// Invariant: `second <= lease`.
    lease: u32,
}

impl IdGenerator {
    /// `node` tells processes apart, `leased` is the largest second that any shard of this store
    /// was ever allowed to use.
    pub fn new(node: [u8; 3], shard: ShardId, leased: u32) -> IdGenerator {
        let [high, low] = shard.0.to_be_bytes();
        let node = [node[0], node[1], node[2], high, low];
        IdGenerator { node, second: leased, counter: 1 << 24, lease: leased }
    }

    /// The lease to write now, if it is time: 60 s ahead, when less than half of that is left.
    /// The caller writes it and calls [`IdGenerator::extend`] once it is durable.
    pub fn lease_wanted(&self, now_s: u32) -> Option<u32> {
        let from = now_s.max(self.second);
        (self.lease < from.saturating_add(limits::ID_LEASE_S / 2))
            .then(|| from.saturating_add(limits::ID_LEASE_S))
    }

    /// The lease until `second` (inclusive) is durable.
    pub fn extend(&mut self, second: u32) {
        self.lease = self.lease.max(second);
    }

    /// Whether [`IdGenerator::next`] has ids to give.
    pub fn is_leased(&self, now_s: u32) -> bool {
        self.second < self.lease
            || (self.counter < 1 << 24 && (now_s <= self.second || now_s > self.lease))
    }

    /// The next id, or `None` while the lease does not allow one.
    pub fn next(&mut self, now_s: u32) -> Option<MessageId> {
        if now_s > self.second && now_s <= self.lease {
            (self.second, self.counter) = (now_s, 0);
        } else if self.counter >= 1 << 24 {
            if self.second >= self.lease {
                return None;
            }
            (self.second, self.counter) = (self.second + 1, 0);
        }
        let mut id = [0u8; 12];
        id[..4].copy_from_slice(&self.second.to_be_bytes());
        id[4..9].copy_from_slice(&self.node);
        id[9..].copy_from_slice(&self.counter.to_be_bytes()[1..]);
        self.counter += 1;
        Some(MessageId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xid_text_is_a_bijection_on_valid_ids() {
        let id =
            MessageId([0x4d, 0x88, 0xe1, 0x5b, 0x60, 0xf4, 0x86, 0xe4, 0x28, 0x41, 0x2d, 0xc9]);
        // The example of the xid library's own documentation.
        assert_eq!(&id.to_xid(), b"9m4e2mr0ui3e8a215n4g");
        assert_eq!(MessageId::parse_xid(b"9m4e2mr0ui3e8a215n4g"), Some(id));
        assert_eq!(MessageId::parse_xid(b"9m4e2mr0ui3e8a215n4h"), None, "spare bits set");
        assert_eq!(MessageId::parse_xid(b"9M4E2MR0UI3E8A215N4G"), None);
        assert_eq!(MessageId::parse_xid(b"9m4e2mr0ui3e8a215n4"), None);
    }

    #[test]
    fn user_ids_are_checked() {
        for good in ["a", "u-1@x.y:z_", &"x".repeat(64), "allx", "00"] {
            assert!(UserId::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "ü", &"x".repeat(65), "all", "service", "direct", "0", "single:x"] {
            assert!(UserId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn ids_of_members_cannot_run_into_each_other() {
        let user = |id| UserId::parse(id).expect("valid");
        let one = Conversation::private(&user("a-b"), &user("c")).key(7);
        let other = Conversation::private(&user("a"), &user("b-c")).key(7);
        assert_ne!(one.hash, other.hash);
        let swapped = Conversation::private(&user("c"), &user("a-b")).key(7);
        assert_eq!(one, swapped);
        assert_ne!(one, Conversation::private(&user("a-b"), &user("c")).key(8));
    }

    #[test]
    fn ids_wait_for_the_lease_and_survive_a_clock_set_back() {
        let mut ids = IdGenerator::new([1, 2, 3], ShardId(0), 0);
        assert_eq!(ids.next(1000), None, "nothing is leased yet");
        let lease = ids.lease_wanted(1000).expect("wanted at once");
        ids.extend(lease);
        let first = ids.next(1000).expect("leased");
        let back = ids.next(10).expect("the clock set back does not matter");
        assert!(back > first);
        // A restart, with the clock still wrong: everything is after the lease.
        let mut again = IdGenerator::new([1, 2, 3], ShardId(0), lease);
        assert_eq!(again.next(10), None);
        again.extend(again.lease_wanted(10).expect("wanted"));
        assert!(
            again.next(10).expect("leased")
                > MessageId([
                    (lease >> 24) as u8,
                    (lease >> 16) as u8,
                    (lease >> 8) as u8,
                    lease as u8,
                    255,
                    255,
                    255,
                    255,
                    255,
                    255,
                    255,
                    255,
                ])
        );
    }

    #[test]
    fn a_full_counter_borrows_the_next_second_within_the_lease() {
        let mut ids = IdGenerator::new([0; 3], ShardId(1), 99);
        ids.extend(101);
        ids.second = 100;
        ids.counter = (1 << 24) - 1;
        let last = ids.next(100).expect("one left");
        let borrowed = ids.next(100).expect("second 101 is leased");
        assert!(borrowed > last);
        ids.counter = 1 << 24;
        assert_eq!(ids.next(100), None, "second 102 is not leased");
    }

    #[test]
    fn a_canonical_id_is_read_as_its_user_means_it() {
        let user = |id: &str| UserId::parse(id).expect("valid");
        for (one, other) in [("a", "b"), ("a-b", "c"), ("a", "b-c"), ("a-", "a--a"), ("u", "u")] {
            let name = Conversation::private(&user(one), &user(other));
            for of in [one, other] {
                let read = Conversation::parse(&name.canonical(), &user(of));
                assert_eq!(read.as_ref(), Some(&name), "{} of {of}", name.canonical());
            }
        }
        let group = Conversation::parse("group:team", &user("a"));
        assert_eq!(group, GroupId::parse("team").map(Conversation::Group));
        let all = |text| Conversation::readings(text);
        let pair = |one, other| Conversation::private(&user(one), &user(other));
        assert_eq!(all("single:a-b"), [pair("a", "b")]);
        assert_eq!(all("single:a-b-c"), [pair("a", "b-c"), pair("a-b", "c")]);
        assert_eq!(all("single:b-a"), []);
        assert_eq!(all("group:g"), [Conversation::Group(GroupId::parse("g").expect("valid"))]);
        assert_eq!(all("notice:*"), [Conversation::Broadcast]);
        assert_eq!(all("notice:a"), [Conversation::Notice(user("a"))]);
        for wrong in ["a", "single:a", "x:a", "notice:", "group:all"] {
            assert_eq!(all(wrong), [], "{wrong}");
        }
        let notice = Conversation::parse("notice:a", &user("a"));
        assert_eq!(notice, Some(Conversation::Notice(user("a"))));
        for wrong in ["single:b-a", "single:b-c", "single:a", "single:a-", "notice:b", "x:a", "a"] {
            assert_eq!(Conversation::parse(wrong, &user("a")), None, "{wrong}");
        }
    }
}
