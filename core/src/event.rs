//! The contract of a shard: what goes in ([`Input`]) and what comes out ([`Effects`]).
//!
//! Two closed types, and one rule: [`crate::Shard::handle`] takes one input and appends to the
//! effects of the open turn. The driver gathers many inputs into a turn, then
//!
//! 1. performs `effects.now` (writes, closes, routes, answers) at once,
//! 2. answers `effects.loads` with [`Input::Loaded`], in the same turn if memory suffices,
//! 3. hands `effects.entries` to the log as one unit, under the number `effects.turn`,
//! 4. performs `effects.held` when that number is durable, and tells the shard
//!    [`Input::Durable`]; turns become durable in order. A turn with held effects but without
//!    entries is released when the turns before it are.
//!
//! At most two turns are on their way to the disk; meanwhile the open turn gathers.

use bytes::Bytes;
use compact_str::CompactString;
use std::ops::Range;

use crate::account::{AccountOperation, Connected, Presence, Standing};
use crate::command::{Action, Command, GroupOperation, NoticeOperation, Outcome};
use crate::error::Refusal;
use crate::ids::{
    ConnId, ConvKey, Conversation, DedupKey, DeviceId, Dialect, GroupId, MessageId, SLOTS, ShardId,
    Slot, UserId,
};
use crate::owed::Owed;
use crate::rate::RateLimits;
use crate::record::{Kind, Page, Record};
use crate::relations::{RelationOperation, RelationRow};
use crate::scheduled::{DueKey, Scheduled};
use crate::session::Hello;

/// The time of a turn, read once by the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Microseconds from an arbitrary start; never goes back. Timers use it.
    pub mono_us: u64,
    /// Milliseconds since 1970; may jump. Records, tokens and ids use it.
    pub wall_ms: u64,
}

/// What came.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection whose upgrade request was accepted and which now lives on this shard: its
    /// user's home, or any shard for a refused one. Nothing has been answered yet.
    Opened { conn: ConnId, hello: Box<Hello> },
    /// A whole WebSocket message; `bytes` may be changed in place. Text is valid UTF-8.
    Message { conn: ConnId, binary: bool, bytes: &'a mut [u8] },
    /// The connection is gone (or is being closed by the driver); its id may be reused after this.
    Closed { conn: ConnId },
    /// Another shard sent this. FIFO for each sender.
    Routed { from: ShardId, routed: Routed },
    /// `shard` has drained this many of our deliveries since the process began.
    LinkDrained { shard: ShardId, deliveries: u64, bytes: u64 },
    /// All turns up to this one are durable.
    Durable { turn: u64 },
    /// The answer to a load.
    Loaded { id: LoadId, loaded: Loaded },
    /// The control plane asks; the answer leaves as [`Answer`].
    Control { id: ControlId, operation: Operation },
    /// The operator has changed the rates: they hold from now on, for everybody.
    Rates(RateLimits),
    /// The process drains: cursors are written now, no new requests will come.
    Drain,
    /// The log's disk is down to its reserve (`low`), or has room again. While it is low, what
    /// would store something new is told to try again; acknowledgements, reading and deliveries
    /// go on, and so does all that they write.
    Space { low: bool },
    /// Time has passed. The driver sends one per turn and whenever [`crate::Shard::next_timer_us`]
    /// says so.
    Tick,
}

/// One turn.
#[derive(Debug, Default)]
pub struct Effects {
    /// The turn's number; from 1, one more for each handed to the log. Set by the driver.
    pub turn: u64,
    /// Shows nothing that is not durable: may leave at the end of the turn.
    pub now: Outputs,
    /// Shows state of this turn or of one before it: leaves when this turn is durable.
    pub held: Outputs,
    /// What the log must hold before `held` may leave.
    pub entries: Vec<Entry>,
    /// Bytes that `entries` point into.
    pub entry_bytes: Vec<u8>,
    /// What the shard needs to know to go on.
    pub loads: Vec<(LoadId, Load)>,
    /// Boxes of earlier turns' messages, for those to come.
    pub spare: Vec<Box<MessageEntry>>,
}

/// Boxes that one turn's object keeps for its next use: those of a full turn of small messages.
const SPARE_MAX: usize = 1_024;

impl Effects {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.now.is_empty()
            && self.held.is_empty()
            && self.entries.is_empty()
            && self.loads.is_empty()
    }

    /// Empties the entries alone: the log has them.
    pub fn clear_entries(&mut self) {
        let spare = &mut self.spare;
        for entry in self.entries.drain(..) {
            if let Entry::Message { record, .. } = entry
                && spare.len() < SPARE_MAX
            {
                spare.push(record);
            }
        }
        self.entry_bytes.clear();
    }

    /// Adds a message to the entries.
    pub(crate) fn message(&mut self, conversation: ConvKey, record: MessageEntry) {
        let record = match self.spare.pop() {
            Some(mut spare) => {
                *spare = record;
                spare
            }
            None => Box::new(record),
        };
        self.entries.push(Entry::Message { conversation, record });
    }

    /// Empties it for reuse; capacities stay.
    pub fn clear(&mut self) {
        self.now.clear();
        self.held.clear();
        self.clear_entries();
        self.loads.clear();
    }
}

/// Effects that leave together, in the order of their vectors.
#[derive(Debug, Default)]
pub struct Outputs {
    /// Bytes that `writes` point into; a fan-out shares them.
    pub arena: Vec<u8>,
    /// Bytes for connections, frames and handshake answers alike; in order for each connection.
    pub writes: Vec<Write>,
    /// The same, behind `writes`, for signals: the driver drops those for a connection that is
    /// behind.
    pub signals: Vec<Write>,
    /// The same, for what was written before and is not acknowledged: the driver drops it for a
    /// connection that has not taken what it was given, for it has the first of them still to come.
    pub repeats: Vec<Write>,
    /// Connections to close, after their writes.
    pub closes: Vec<Close>,
    /// For other shards, in order for each. Never to the own one.
    pub routes: Vec<(ShardId, Routed)>,
    /// For the control plane.
    pub answers: Vec<(ControlId, Answer)>,
}

impl Outputs {
    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.signals.is_empty()
            && self.repeats.is_empty()
            && self.closes.is_empty()
            && self.routes.is_empty()
            && self.answers.is_empty()
    }

    /// Empties it for reuse; capacities stay.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.writes.clear();
        self.signals.clear();
        self.repeats.clear();
        self.closes.clear();
        self.routes.clear();
        self.answers.clear();
    }
}

/// Bytes for one connection.
#[derive(Clone, Debug)]
pub struct Write {
    /// To whom. The driver drops it when that connection is gone.
    pub conn: ConnId,
    /// In [`Outputs::arena`].
    pub range: Range<u32>,
}

/// End of a connection.
#[derive(Clone, Debug)]
pub struct Close {
    /// Whose.
    pub conn: ConnId,
    /// How.
    pub how: CloseHow,
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseHow {
    /// A close frame with this code and reason, after what was written before.
    Frame { code: u16, reason: &'static str },
    /// The upgrade was refused: the HTTP answer has been written, the socket ends after it.
    Http,
}

/// What the log stores. One turn's entries become durable together or not at all.
#[derive(Clone, Debug)]
pub enum Entry {
    /// One message: its record in `log`, its id in `ids`, and its recognition in `dedup`.
    Message { conversation: ConvKey, record: Box<MessageEntry> },
    /// A record that is in the log already, without its content from now on.
    Emptied { conversation: ConvKey, record: Box<MessageEntry> },
    /// A message that is to be stored later; `None`: it is stored, or dropped.
    Due { key: DueKey, message: Option<Box<Scheduled>> },
    /// Where a resend of a scheduled message finds it.
    Scheduled { dedup: DedupKey, stored: Stored },
    /// A conversation's full name, with its first message.
    Conversation { key: ConvKey, conversation: Conversation },
    /// A user.
    User { user: UserId, row: UserRow },
    /// A group.
    Group { group: GroupId, row: Box<GroupRow> },
    /// A line of a group's roster; `None`: not any more. Under the group's slot.
    Member { group: GroupId, user: UserId, row: Option<Box<MemberRow>> },
    /// What a user may see of a group; `None`: nothing is left to see. Under the user's slot,
    /// written by the group's home.
    Membership { user: UserId, conversation: ConvKey, row: Option<Box<MembershipRow>> },
    /// What a user is to another; `None`: nothing any more. Under the user's slot, written by the
    /// home of their private conversation.
    Relation { user: UserId, other: UserId, row: Option<Box<RelationRow>> },
    /// What this home must cause elsewhere; `None`: it is done. `slot` is that of what caused it.
    Owed { slot: Slot, id: MessageId, owed: Option<Box<Owed>> },
    /// A device of a user.
    Device { user: UserId, device: DeviceId, row: DeviceRow },
    /// The device makes room for another.
    DeviceGone { user: UserId, device: DeviceId },
    /// How far a device has acknowledged.
    Cursor { user: UserId, conversation: ConvKey, device: DeviceId, position: Position },
    /// The user has a device that has not acknowledged `seq` of this conversation.
    Mark { user: UserId, conversation: ConvKey, seq: u64 },
    /// Every device of the user has acknowledged everything in it.
    MarkGone { user: UserId, conversation: ConvKey },
    /// The user has this conversation, which is no group. With its first record; under his slot,
    /// written by the conversation's home.
    Chat { user: UserId, conversation: ConvKey },
    /// The last message of a member in a group. Under the group's slot.
    Sent { conversation: ConvKey, user: UserId, seq: u64 },
    /// How far a user has read, as far as he has said so himself.
    Read { user: UserId, conversation: ConvKey, seq: u64 },
    /// The message `seq` mentions the user. Under his slot, written by the conversation's home.
    Mention { user: UserId, conversation: ConvKey, seq: u64 },
    /// He has read it.
    MentionGone { user: UserId, conversation: ConvKey, seq: u64 },
    /// The message `seq` mentions everybody.
    MentionAll { conversation: ConvKey, seq: u64 },
    /// Ids up to this second (inclusive) may be used by this shard.
    IdLease { shard: ShardId, second: u32 },
}

/// A message as the log gets it. Ranges are in [`Effects::entry_bytes`].
#[derive(Clone, Debug)]
pub struct MessageEntry {
    /// Position in the conversation, from 1.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// The server's id.
    pub id: MessageId,
    /// Server time, ms since 1970.
    pub time_ms: u64,
    /// Sender's time, if it gave one.
    pub sender_ms: Option<i64>,
    /// Countable messages of the conversation up to this one.
    pub countable: u64,
    /// See [`Record::sent`].
    pub sent: [u64; 2],
    /// User id of who sent or caused it; empty: nobody did.
    pub sender: CompactString,
    /// From which device.
    pub device: DeviceId,
    /// The sender's own id of it; may be empty.
    pub client_id: CompactString,
    /// What was sent, as the sender's dialect had it, or what happened.
    pub content: Range<u32>,
    /// Where a resend finds it; `None` without a client id.
    pub dedup: Option<DedupKey>,
}

impl MessageEntry {
    /// The same as a record, with `entry_bytes` of the effects it came in.
    pub fn record<'a>(&'a self, entry_bytes: &'a [u8]) -> Record<'a> {
        Record {
            seq: self.seq,
            kind: self.kind,
            id: self.id,
            time_ms: self.time_ms,
            sender_ms: self.sender_ms,
            countable: self.countable,
            sent: self.sent,
            sender: self.sender.as_str(),
            dialect: self.device.dialect,
            device: &self.device.name,
            client_id: &self.client_id,
            content: &entry_bytes[self.content.start as usize..self.content.end as usize],
        }
    }
}

/// What is stored of a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserRow {
    /// When it was created, ms since 1970.
    pub created_ms: u64,
    /// Profile fields as the HTTP API has them: name, avatar, … A JSON object, opaque to the core.
    pub profile: String,
    /// Banned, cancelled, hidden.
    pub standing: Standing,
    /// The last notice to everybody that there was when it was created: those behind it are for
    /// this user, too.
    pub began: u64,
}

/// What is stored of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRow {
    /// When it was created, ms since 1970.
    pub created_ms: u64,
    /// Who may everything. Always a member while the group is open.
    pub owner: UserId,
    /// How others come in.
    pub join_policy: JoinPolicy,
    /// How many members it has, at most [`crate::limits::GROUP_MEMBERS_MAX`].
    pub members: u32,
    /// The seq of its last record once it is dissolved; 0 before.
    pub closed_seq: u64,
    /// Name, avatar, … as the HTTP API has them. A JSON object, opaque to the core.
    pub profile: String,
}

/// How somebody becomes a member (protocols/README.md, *Who may do what*).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum JoinPolicy {
    /// Members invite whom they like.
    Open = 1,
    /// A member's invitation is a request that an admin answers.
    #[default]
    Approve = 2,
    /// Admins alone invite.
    Invite = 3,
}

/// What a group's roster says of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberRow {
    /// What the member may do.
    pub role: MemberRole,
    /// The record that made it a member.
    pub joined_seq: u64,
    /// Its name in the group; empty: none.
    pub alias: String,
    /// What it says of itself in the group.
    pub description: String,
    /// When alias or description were last set, ms since 1970; 0: never.
    pub updated_ms: u64,
}

/// What a member may do (protocols/README.md, *Who may do what*).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum MemberRole {
    /// Write, leave, and what the join policy allows.
    Member = 1,
    /// Also invite, accept, remove and mute members, rename, revoke.
    Admin = 2,
    /// Everything.
    Owner = 3,
}

/// What a user may see of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipRow {
    /// Which group.
    pub group: GroupId,
    /// The visible ranges `joined..=left`, ascending; [`OPEN`] as the last one's end: still a
    /// member. At most [`crate::limits::MEMBERSHIP_RANGES_MAX`].
    pub ranges: Vec<(u64, u64)>,
}

/// The end of a membership that has not ended.
pub const OPEN: u64 = u64::MAX;

/// What is stored of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceRow {
    /// First connect, ms since 1970.
    pub created_ms: u64,
    /// Latest connect known, ms since 1970, exact to [`crate::limits::DEVICE_SEEN_MS`].
    pub seen_ms: u64,
}

/// How far a device has acknowledged one conversation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Everything up to and including this seq.
    pub acked: u64,
    /// Ranges above it, `first..=last`, ascending, disjoint, not touching; at most
    /// [`crate::limits::CURSOR_RANGES_MAX`].
    pub ranges: Vec<(u64, u64)>,
}

impl Position {
    /// Everything up to `acked`, and these ranges, which may lie anywhere: below it, in any order,
    /// over each other; empty ones are none.
    pub fn merged(acked: u64, mut ranges: Vec<(u64, u64)>) -> Position {
        ranges.sort_unstable();
        let mut position = Position { acked, ranges: Vec::with_capacity(ranges.len()) };
        for (first, last) in ranges.into_iter().filter(|range| range.0 <= range.1) {
            let end = position.ranges.last_mut().map_or(&mut position.acked, |range| &mut range.1);
            if first <= end.saturating_add(1) {
                *end = last.max(*end);
            } else {
                position.ranges.push((first, last));
            }
        }
        position
    }
}

/// Which part of a conversation, by seqs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The first ones behind `after` and, if it is given, before `before`.
    After { after: u64, before: Option<u64> },
    /// The last ones before this seq, or the last of all.
    Before(Option<u64>),
}

/// Names a load until its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LoadId(pub u32);

/// A question to the log. Answers show committed records only.
#[derive(Clone, Debug)]
pub enum Load {
    /// A conversation before its first command since it was evicted. `expected` is its full name
    /// where the asker knows it: another name under the same key is a hash collision, and fatal.
    Conversation { key: ConvKey, expected: Option<Conversation> },
    /// Is this a resend?
    Dedup { key: DedupKey },
    /// The record that its author knows under `dedup`, else the one with the server's `id`, if it is
    /// in this conversation, else the last one of the newest `search` that somebody's client has
    /// given `id`.
    Message { conversation: ConvKey, dedup: DedupKey, id: Option<MessageId>, search: u32 },
    /// A user's row and devices.
    User { user: UserId },
    /// A page of the user's inbox marks, in key order, behind `after`.
    Inbox { user: UserId, after: Option<ConvKey>, limit: u32 },
    /// The record with the server's `id`.
    Find { id: MessageId },
    /// What is known of these users in a group, in this order.
    Members { group: GroupId, conversation: ConvKey, users: Vec<UserId> },
    /// A page of a group's roster, in order of user ids, behind `after`.
    Roster { group: GroupId, after: Option<UserId>, limit: u32 },
    /// A page of the groups that the user may see something of, in key order, behind `after`.
    Memberships { user: UserId, after: Option<ConvKey>, limit: u32 },
    /// Rows of users, in this order.
    Users { users: Vec<UserId> },
    /// A page of what a user is to others, in order of their ids, behind `after`; `friends`: those
    /// with a friendship alone.
    Relations { user: UserId, after: Option<UserId>, limit: u32, friends: bool },
    /// An open group that both users are members of.
    CommonGroup { one: UserId, other: UserId },
    /// A page of what the slots of a shard owe, in key order, behind `after`.
    Owed { shard: ShardId, shards: u16, after: Option<(Slot, MessageId)>, limit: u32 },
    /// A page of the messages that the slots of a shard have scheduled for `from_ms..until_ms`, in
    /// key order, behind `after`.
    DueKeys {
        shard: ShardId,
        shards: u16,
        from_ms: u64,
        until_ms: u64,
        after: Option<DueKey>,
        limit: u32,
    },
    /// These scheduled messages, in this order.
    Scheduled { keys: Vec<DueKey> },
    /// A page of the conversations that a user has, in key order, behind `after`. What devices of
    /// these dialects have acknowledged is read.
    Chats { user: UserId, after: Option<ConvKey>, limit: u32, acked_is_read: Vec<Dialect> },
    /// How far a user has read a conversation, and at most `limit` messages up to `to` that mention
    /// him.
    Reading { user: UserId, conversation: Conversation, key: ConvKey, to: u64, limit: u32 },
    /// The cursors of all devices of a user in one conversation.
    Cursors { user: UserId, conversation: ConvKey },
    /// A part of a conversation: at most `limit` records and `bytes`, at least one if there is one.
    History { conversation: Conversation, key: ConvKey, part: Part, limit: u32, bytes: u32 },
    /// Records `from..=to`, as many as fit into `bytes`, at least one if there is one.
    Page { conversation: ConvKey, from: u64, to: u64, bytes: u32 },
}

/// The answer to a [`Load`], variant for variant.
#[derive(Debug)]
pub enum Loaded {
    /// See [`Load::Conversation`]; boxed, because it is rare.
    Conversation(Box<ConversationLoaded>),
    /// The first result under this key, if there is one.
    Dedup(Option<Stored>),
    /// See [`Load::Message`]: that record, or none.
    Message(Page),
    /// See [`Load::User`].
    User(Box<UserLoaded>),
    /// See [`Load::Inbox`]; fewer than asked for means that there are no more.
    Inbox(Vec<InboxMark>),
    /// See [`Load::Find`] and [`Load::History`]; none: there is no such message, or conversation.
    Found(Option<(Conversation, Page)>),
    /// See [`Load::Members`].
    Members(Vec<MemberLoaded>),
    /// See [`Load::Roster`]; fewer than asked for means that there are no more.
    Roster(Vec<(UserId, MemberRow)>),
    /// See [`Load::Memberships`]; fewer than asked for means that there are no more.
    Memberships(Vec<MembershipLoaded>),
    /// See [`Load::Users`].
    Users(Vec<Option<UserRow>>),
    /// See [`Load::Relations`]; fewer than asked for means that there are no more.
    Relations(Vec<(UserId, RelationRow)>),
    /// See [`Load::CommonGroup`]; the first in key order, if there is one.
    CommonGroup(Option<GroupId>),
    /// See [`Load::Owed`]; fewer than asked for means that there are no more.
    Owed(Vec<(Slot, MessageId, Owed)>),
    /// See [`Load::DueKeys`]; fewer than asked for means that there are no more.
    DueKeys(Vec<DueKey>),
    /// See [`Load::Scheduled`].
    Scheduled(Vec<Option<Scheduled>>),
    /// See [`Load::Chats`].
    Chats(Chats),
    /// See [`Load::Reading`]; `None`: the conversation is not the user's, or is empty.
    Reading(Option<ReadingLoaded>),
    /// See [`Load::Cursors`].
    Cursors(Vec<(DeviceId, Position)>),
    /// See [`Load::Page`].
    Page(Page),
}

/// What is known of a conversation.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConversationLoaded {
    /// Its full name; `None` when it has no message yet.
    pub conversation: Option<Conversation>,
    /// The last record's seq; 0 when there is none.
    pub head: u64,
    /// The last record's time, ms.
    pub time_ms: u64,
    /// The last record's count of countable messages.
    pub countable: u64,
    /// The last record's [`Record::sent`].
    pub sent: [u64; 2],
    /// The inbox marks (seq) of [`Conversation::marked`], in that order.
    pub marks: [Option<u64>; 2],
    /// Whether these are users at all; a cancelled one is not.
    pub exists: [bool; 2],
    /// What the two of a private conversation are to each other, in that order; `None`: nothing.
    pub relations: Option<Box<[RelationRow; 2]>>,
    /// The group's row, where it is one.
    pub group: Option<Box<GroupRow>>,
}

/// A page of a user's conversations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Chats {
    /// Those that have a record he may see.
    pub chats: Vec<Chat>,
    /// Where the next page goes on; `None`: this is the last one.
    pub next: Option<ConvKey>,
}

/// A conversation as one of its members sees it (protocols/README.md, *Unread*).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chat {
    /// Which.
    pub conversation: Conversation,
    /// The seq up to which he has read: what he has said himself, and what is in front of his own
    /// last message.
    pub read: u64,
    /// Countable messages behind it that he may see.
    pub unread: u64,
    /// The first unread message that mentions him, or everybody.
    pub mention: Option<u64>,
    /// The last record that he may see.
    pub last: Page,
}

/// See [`Load::Reading`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadingLoaded {
    /// The last record that he may see.
    pub head: u64,
    /// Up to where he has said that he has read.
    pub read: u64,
    /// Seqs of messages that mention him.
    pub mentions: Vec<u64>,
}

/// What is known of a user in a group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberLoaded {
    /// Whether it is a user at all.
    pub exists: bool,
    /// Its line in the roster.
    pub member: Option<MemberRow>,
    /// See [`MembershipRow::ranges`]; empty: it never was a member, or saw everything.
    pub ranges: Vec<(u64, u64)>,
}

/// A group that a user may see something of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipLoaded {
    /// Which conversation.
    pub conversation: ConvKey,
    /// Which group, and which part of it. The end of a dissolved group is applied.
    pub row: MembershipRow,
    /// The cursors of all the user's devices there.
    pub cursors: Vec<(DeviceId, Position)>,
}

/// What is known of a user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserLoaded {
    /// `None`: there is no such user.
    pub row: Option<UserRow>,
    /// All devices, in key order.
    pub devices: Vec<(DeviceId, DeviceRow)>,
}

/// A conversation in which a device of the user may have something to get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboxMark {
    /// Which.
    pub conversation: ConvKey,
    /// The seq that the mark was put for.
    pub seq: u64,
    /// The last record's seq.
    pub head: u64,
    /// The cursors of all the user's devices there.
    pub cursors: Vec<(DeviceId, Position)>,
}

/// Where a message went: the sender's receipt, and what a resend gets again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// The server's id.
    pub id: MessageId,
    /// Position in its conversation; 0: it is scheduled, and has none yet.
    pub seq: u64,
    /// Server time, ms since 1970; of a scheduled one, when it is due.
    pub time_ms: u64,
}

/// What shards say to each other. Each variant says which bound of the mesh holds it (`links.rs`).
#[derive(Clone, Debug)]
pub enum Routed {
    /// To the conversation's home. Bounded by admission at the connection's shard.
    Command(Box<Command>),
    /// Back to the connection's shard: the command's outcome. Bounded by its command.
    Outcome(Box<Outcome>),
    /// To a member's home: a durable message. Bounded by the link; beyond it becomes a head.
    Deliver { user: UserId, deliver: Box<Deliver> },
    /// To the receiver's home: a signal. Bounded by the link; beyond it, dropped.
    Signal(Box<Signal>),
    /// To a member's home, or (without a user) a group's subscriber: records `from..=head` are in
    /// the log. One per member, conversation and link.
    Head { user: Option<UserId>, conversation: ConvKey, from: u64, head: u64 },
    /// To the conversation's home: this user's connected devices have stood at `seq` for
    /// [`crate::limits::SETTLE_MS`]; `all`: so have the others. One per conversation at a time.
    Settled { user: UserId, conversation: ConvKey, seq: u64, all: bool },
    /// Back to the user's home: every delivery up to `seq` has been sent before this.
    Noted { user: UserId, conversation: ConvKey, seq: u64 },
    /// To the home of a group, or of the notices to everybody: from now on, its records are wanted
    /// here. One per conversation and shard.
    Subscribe { from: ShardId, conversation: Conversation },
    /// To a group's home: nobody is left here who wants them. One per `Subscribe`.
    Unsubscribe { from: ShardId, conversation: ConvKey },
    /// The answer to `Subscribe`, one each: records up to `head` are in the log, and all behind them
    /// will come.
    Subscribed { conversation: ConvKey, head: u64 },
    /// From a group's home to a subscriber: a durable record. Bounded by the link; beyond it becomes
    /// a head.
    GroupDeliver(Box<Deliver>),
    /// To the home of the notices to everybody: `from` knows of those up to `head`, for the users
    /// that it makes. One per delivery or head of them.
    Heard { from: ShardId, head: u64 },
    /// To the home that does it: what another home has caused. At most
    /// [`crate::limits::OWED_IN_FLIGHT_MAX`] for each pair of shards.
    Owed { from: ShardId, slot: Slot, id: MessageId, owed: Box<Owed> },
    /// Back to the home that owes it: it is done and durable, or (not `done`) must be sent again
    /// later. One for each `Owed`.
    Paid { slot: Slot, id: MessageId, done: bool },
    /// To all shards: what is known of this user is out of date. Bounded by the operations under way.
    Changed { user: UserId },
    /// To the homes of friends: a user has come, gone or hidden. Bounded by the link; beyond it,
    /// dropped.
    Presence(Box<PresenceNews>),
    /// From a group's home to the homes of users whose membership has changed with the durable record
    /// `seq`, in front of that record. Bounded by the operations under way.
    Membership { group: GroupId, seq: u64, joined: bool, users: Vec<UserId> },
}

/// A user's presence on its way to friends. Nothing of it is stored.
#[derive(Clone, Debug)]
pub struct PresenceNews {
    /// Whose.
    pub user: UserId,
    /// What friends are told.
    pub presence: Presence,
    /// The friends of one shard.
    pub friends: Vec<UserId>,
}

/// A durable record on its way to the shards that deliver it.
#[derive(Clone, Debug)]
pub struct Deliver {
    /// Where it stands.
    pub conversation: ConvKey,
    /// Receipt data.
    pub stored: Stored,
    /// What it is.
    pub kind: Kind,
    /// Sender's time, if it gave one.
    pub sender_ms: Option<i64>,
    /// Countable messages up to this one.
    pub countable: u64,
    /// User id of who sent or caused it; empty: nobody did.
    pub sender: CompactString,
    /// From which device.
    pub device: DeviceId,
    /// The sender's own id of it.
    pub client_id: CompactString,
    /// The content, shared by all the shards that get it.
    pub content: Bytes,
}

impl Deliver {
    /// The same as a record.
    pub fn record(&self) -> Record<'_> {
        Record {
            seq: self.stored.seq,
            kind: self.kind,
            id: self.stored.id,
            time_ms: self.stored.time_ms,
            sender_ms: self.sender_ms,
            countable: self.countable,
            // Of no use to who is shown it.
            sent: [0; 2],
            sender: self.sender.as_str(),
            dialect: self.device.dialect,
            device: &self.device.name,
            client_id: &self.client_id,
            content: &self.content,
        }
    }
}

/// A signal on its way to its receiver's home: nothing that is or was stored.
#[derive(Clone, Debug)]
pub struct Signal {
    /// The receiver.
    pub user: UserId,
    /// Who sent it.
    pub sender: UserId,
    /// From which device; only devices of its dialect get it.
    pub device: DeviceId,
    /// What was sent, as that dialect has it.
    pub content: Bytes,
}

/// Names a question of the control plane until its answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ControlId(pub u64);

/// What the control plane asks of a user's or a group's home.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Create a user, or replace its profile (a JSON object, checked by the asker).
    PutUser { user: UserId, profile: String },
    /// Read a user.
    GetUser { user: UserId },
    /// Something about a group.
    Group { group: GroupId, operation: GroupOperation },
    /// Something about a pair of users.
    Relation(Box<RelationOperation>),
    /// A page of a user's friends, in order of their ids.
    Friends { user: UserId, after: Option<UserId>, limit: u32 },
    /// Something about an account.
    Account { user: UserId, operation: AccountOperation },
    /// Tell a user something in his notices.
    Notice { user: UserId, notice: Box<NoticeOperation> },
    /// Tell everybody something.
    NoticeToAll { notice: Box<NoticeOperation> },
    /// Store a message, or take one back, in a user's name.
    Post(Box<Post>),
    /// Find a message by the server's id.
    Find { id: MessageId },
    /// A part of a conversation, whoever may see it.
    History { conversation: Conversation, part: Part, limit: u32 },
    /// A page of a user's conversations, in key order.
    Chats { user: UserId, after: Option<ConvKey>, limit: u32 },
    /// A user has read a conversation up to this seq; it never goes back.
    Read { user: UserId, conversation: Conversation, seq: u64 },
}

/// See [`Operation::Post`].
#[derive(Clone, Debug)]
pub struct Post {
    /// Where.
    pub conversation: Conversation,
    /// In whose name.
    pub sender: UserId,
    /// The asker's own id of a message, may be empty; the message to take back.
    pub client_id: CompactString,
    /// A message, or a revoke.
    pub action: Action,
}

impl Operation {
    /// The slot whose home executes it.
    pub fn slot(&self) -> Slot {
        match self {
            Operation::PutUser { user, .. }
            | Operation::GetUser { user }
            | Operation::Friends { user, .. }
            | Operation::Account { user, .. }
            | Operation::Chats { user, .. }
            | Operation::Read { user, .. }
            | Operation::Notice { user, .. } => user.slot(),
            Operation::Relation(operation) => {
                let (one, other) = operation.pair();
                one.min(other).slot()
            }
            Operation::Group { group, .. } => group.slot(),
            Operation::NoticeToAll { .. } => Conversation::Broadcast.slot(),
            Operation::Post(post) => post.conversation.slot(),
            Operation::History { conversation, .. } => conversation.slot(),
            // Every shard may read it.
            Operation::Find { id } => Slot(u16::from(id.0[11]) % SLOTS),
        }
    }

    /// Whether it would store something: refused while the log's disk is down to its reserve.
    pub fn stores(&self) -> bool {
        match self {
            Operation::PutUser { .. }
            | Operation::Relation(_)
            | Operation::Notice { .. }
            | Operation::NoticeToAll { .. }
            | Operation::Post(_) => true,
            Operation::GetUser { .. }
            | Operation::Friends { .. }
            | Operation::Chats { .. }
            // Reading goes on, and so does what it writes.
            | Operation::Read { .. }
            | Operation::Find { .. }
            | Operation::History { .. } => false,
            Operation::Account { operation, .. } => match operation {
                AccountOperation::Ban(_)
                | AccountOperation::Hide(_)
                | AccountOperation::Cancel { .. } => true,
                AccountOperation::Kick { .. }
                | AccountOperation::Connections
                | AccountOperation::Presence => false,
            },
            Operation::Group { operation, .. } => match operation {
                GroupOperation::Get | GroupOperation::List { .. } => false,
                GroupOperation::Create { .. }
                | GroupOperation::Change { .. }
                | GroupOperation::Dissolve { .. }
                | GroupOperation::Add { .. }
                | GroupOperation::Remove { .. }
                | GroupOperation::ChangeMember { .. } => true,
            },
        }
    }
}

/// What the control plane is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The user, durable; `created` by this operation.
    User { row: UserRow, created: bool },
    /// The group, durable; `created` by this operation.
    Group { row: Box<GroupRow>, created: bool },
    /// The members after a change of them, or what there is of a page.
    Members(Vec<(UserId, MemberRow)>),
    /// A page of friends.
    Friends(Vec<(UserId, RelationRow)>),
    /// Where an account is connected.
    Connections(Vec<Connected>),
    /// Whether it is.
    Presence(Presence),
    /// The message, the event that takes it back, or the notice, durable.
    Stored(Stored),
    /// A page of conversations.
    Chats(Chats),
    /// How far the user has read now, durable.
    Read(u64),
    /// The message that was looked for, and where it is; `None`: the asker's user has none such.
    Found(Option<(Conversation, Page)>),
    /// Done, and durable.
    Done,
    /// The rules refuse it. Nothing was changed.
    Refused(Refusal),
    /// There is no such user.
    NoSuchUser,
}
