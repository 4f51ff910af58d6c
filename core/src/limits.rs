//! Every maximum of the core, with its reason, and the relations between them.
//!
//! Nothing else in the workspace defines a limit on what a client may cause.

/// User and group ids (protocols/README.md, *Identities on the wire*).
pub const USER_ID_BYTES_MAX: usize = 64;
/// Device ids: no dialect sends more than a UUID or a phone's serial number.
pub const DEVICE_ID_BYTES_MAX: usize = 128;
/// Client message ids: imboy takes 40; the other dialects' are no longer than this.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// Platform and version of a client, each: the names that clients use are shorter than this.
pub const CLIENT_WORD_BYTES_MAX: usize = 32;
/// What the server tells one connection without storing it and has not seen acknowledged; the
/// oldest makes room.
pub const PROMPTS_MAX: usize = 8;
/// Content of one message (protocols/README.md, *Limits*).
pub const CONTENT_BYTES_MAX: usize = 64 << 10;
/// One WebSocket message, its fragments together.
pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// The same as it is sent, when it is compressed; inflated it must keep to the limit above.
pub const DEFLATED_BYTES_MAX: usize = deflated_bytes_max(MESSAGE_BYTES_MAX);
/// What cannot be compressed grows: by no more than this with zlib's worst settings (its
/// `deflateBound`, and a flush).
pub const fn deflated_bytes_max(len: usize) -> usize {
    len + len / 8 + len / 64 + 32
}
/// Shorter messages are not compressed: they would save some thirty bytes, less than the headers
/// of the packet that carries them, at nearly the price of a long one.
pub const DEFLATE_BYTES_MIN: usize = 256;
/// The upgrade request's head.
pub const HANDSHAKE_BYTES_MAX: usize = 16 << 10;
/// Header lines of one head: browsers send some 15, proxies add a few.
pub const HANDSHAKE_HEADERS_MAX: usize = 64;
/// Time for the whole of the upgrade request to arrive.
pub const HANDSHAKE_MS_MAX: u64 = 10_000;
/// How long a message may be scheduled ahead: ten days (protocols/xxim.md, `deliverAfter`).
pub const DUE_AFTER_MS_MAX: u64 = 10 * 24 * 3_600_000;
/// Scheduled messages that are due within this time are known by their keys.
pub const DUE_SOON_MS: u64 = 600_000;
/// How many of them; where there are more, a shard looks less far ahead. 64 bytes each.
pub const DUE_HELD_MAX: usize = 1 << 16;
/// Their keys in one page.
pub const DUE_PAGE: u32 = 1_024;
/// Scheduled messages read at a time to be stored: content of 64 KiB each at most.
pub const DUE_AT_ONCE: usize = 16;
/// The schedule is looked at so often however quiet it is, because clocks are set.
pub const DUE_LOOK_MS: u64 = 500;
/// A scheduled message that cannot be stored is tried again after this time.
pub const DUE_REST_MS: u64 = 1_000;
/// Users that one message may name; more is too large (protocols/README.md, *Limits*).
pub const MENTIONS_MAX: usize = 64;
/// Mentions that one report of having read removes; what is left goes with the next.
pub const MENTIONS_READ_MAX: u32 = 512;
/// Read positions of one user that are remembered although the log shows them.
pub const READS_KNOWN: usize = 64;
/// Connections of one user; the next is refused with 429.
pub const USER_CONNECTIONS_MAX: usize = 32;
/// Devices of one user; the longest unseen makes room.
pub const USER_DEVICES_MAX: usize = 32;
/// A device unseen for so long is forgotten.
pub const DEVICE_FORGOTTEN_MS: u64 = 90 * 24 * 3_600_000;
/// A device's row is written at a connect only when its last-seen time is older than this.
pub const DEVICE_SEEN_MS: u64 = 3_600_000;
/// Members of one group (protocols/README.md, *Conversations*).
pub const GROUP_MEMBERS_MAX: u32 = 100_000;
/// Records of a group among which a message is looked for that an admin takes back by the id that
/// its author's client gave it: nothing leads from there to the message but looking.
pub const REVOKE_SEARCH_MAX: u32 = 1_024;
/// Users that one operation adds to a group: two rows each, within the 1,024 of one command.
pub const MEMBERS_CHANGED_MAX: usize = 500;
/// A member's name, and what he says of himself, in a group.
pub const ALIAS_BYTES_MAX: usize = 1 << 10;
/// Visible ranges of one membership: who leaves and comes back more often sees nothing of the
/// oldest ones any more.
pub const MEMBERSHIP_RANGES_MAX: usize = 64;
/// What a home knows of members of one group, of those who wrote or changed lately; beyond, those
/// at rest are forgotten.
pub const MEMBERS_KNOWN: usize = 4_096;
/// Groups read at a time while a user connects.
pub const MEMBERSHIPS_PAGE: u32 = 256;
/// Members that one visit of a group's news serves before others have their turn.
pub const FANOUT_BUDGET: usize = 256;
/// Members that one turn serves, of all groups together.
pub const FANOUT_TURN_BUDGET: usize = 1_024;
/// Records of one group that are kept for members who have not been visited yet.
pub const FANOUT_RECORDS_MAX: usize = 256;
/// The same, in bytes of content.
pub const FANOUT_BYTES_MAX: usize = 64 << 10;
/// Each text of a friend request or an acceptance.
pub const TERMS_TEXT_BYTES_MAX: usize = 1 << 10;
/// Each text of a profile that is told to others with a friend request; longer ones are not.
pub const PERSON_TEXT_BYTES_MAX: usize = 2 << 10;
/// What one unit of the two budgets above may be in bytes of frames: where each member has his own,
/// long ones are made for fewer members at a time.
pub const FANOUT_SEAT_BYTES: usize = 4 << 10;
/// Notices to everybody that are stored and that not every shard has heard of; the next is told *try
/// again*.
pub const UNHEARD_MAX: usize = 1_024;
/// The content of a business notice, as JSON.
pub const NOTICE_BYTES_MAX: usize = 48 << 10;
/// The caller's own id of a business notice.
pub const NOTICE_ID_BYTES_MAX: usize = 40;
/// Kind, stream and title of a business notice, each.
pub const NOTICE_WORD_BYTES_MAX: usize = 1 << 10;
/// What a business notice gives to xxim's clients as it is.
pub const NOTICE_EXT_BYTES_MAX: usize = 4 << 10;
/// Why an account is banned: the app shows it.
pub const BAN_REASON_BYTES_MAX: usize = 1 << 10;
/// What one shard's homes owe to another's and has been sent; the rest waits.
pub const OWED_IN_FLIGHT_MAX: usize = 64;
/// What a shard's homes owe altogether: over it, what would owe more is told *try again*.
pub const OWED_MAX: usize = 4_096;
/// What is owed is sent again after this time when its home could not do it.
pub const OWED_AGAIN_MS: u64 = 1_000;
/// Relations, or memberships, that one step of a cancellation gives up: one entry each, within the
/// 1,024 of one command.
pub const CANCEL_PAGE: u32 = 500;
/// Users whose change is remembered one by one; beyond, everything that is known of users is out of
/// date.
pub const CHANGES_MAX: usize = 4_096;
/// Friends are told that somebody has gone when he has not come again within this time.
pub const OFFLINE_MS: u64 = 10_000;
/// Friends read at a time to tell them of somebody's presence.
pub const PRESENCE_PAGE: u32 = 1_024;
/// Users whose friends a shard is telling at a time; the others wait, each once.
pub const PRESENCE_TOLD_MAX: usize = 16;
/// Requests of one connection that are not answered yet; then its data frames wait.
pub const CONNECTION_REQUESTS_MAX: u32 = 64;
/// Undecodable frames in a row before the connection is closed with 1008.
pub const UNDECODABLE_MAX: u8 = 32;
/// A connection that kept to its rates for so long has no strikes any more.
pub const STRIKES_FORGOTTEN_MS: u64 = 60_000;
/// Requests taken from sockets of a shard and not yet answered; then sockets are not read.
pub const SHARD_REQUESTS_MAX: u32 = 16_384;
/// The same, in bytes of content.
pub const SHARD_REQUEST_BYTES_MAX: usize = 64 << 20;
/// Commands that wait for one conversation to be loaded; the next is told *try again*.
pub const CONVERSATION_WAITERS_MAX: usize = 64;
/// Messages sent to a device and not acknowledged; then the connection is in pull mode.
pub const WINDOW_MESSAGES: u32 = 1024;
/// The same, in bytes of frames.
pub const WINDOW_BYTES: u64 = 256 << 10;
/// Acknowledged ranges above a device's position in one conversation; then pull mode: nothing more
/// is sent before older messages are acknowledged.
pub const CURSOR_RANGES_PULL: usize = 32;
/// Acknowledged ranges that a position can have: what is in flight when pull mode begins may still
/// be acknowledged one by one, and each of those acknowledgements must survive a crash.
pub const CURSOR_RANGES_MAX: usize = WINDOW_MESSAGES as usize;
/// Pull mode waits for this much room, or for [`PULL_DELAY_MS`], so that a page carries more than
/// one message.
pub const PULL_ROOM_MESSAGES: u32 = WINDOW_MESSAGES / 8;
/// How long pull mode lets acknowledgements gather when there is little room.
pub const PULL_DELAY_MS: u64 = 20;
/// One read of the log (also the least that a page holds: one record).
pub const PAGE_BYTES: u32 = 64 << 10;
/// Stored bytes of one answer to a question for a part of a conversation: it goes through the home
/// and the API's thread, and whoever reads on asks again.
pub const HISTORY_BYTES: u32 = 1 << 20;
/// Connections of a shard that catch up at the same time; the others wait in order of arrival.
pub const CATCH_UPS_MAX: usize = 256;
/// Inbox marks read at a time while a user connects.
pub const INBOX_PAGE: u32 = 256;
/// A dirty cursor is written after this time at the latest.
pub const CURSOR_FLUSH_MS: u64 = 1_000;
/// All devices must have stood at the head for this long before the inbox mark is deleted.
pub const SETTLE_MS: u64 = 5_000;
/// Deliveries under way from one shard to another; then only heads are kept.
pub const LINK_DELIVERIES_MAX: u64 = 4_096;
/// The same, in bytes.
pub const LINK_BYTES_MAX: u64 = 8 << 20;
/// Seconds that an id lease reaches ahead.
pub const ID_LEASE_S: u32 = 60;
/// Entries that one open turn gathers while two turns are on their way to the disk.
pub const TURN_BYTES_MAX: usize = 4 << 20;
/// Conversations that a shard keeps in memory before it evicts those at rest.
pub const CONVERSATIONS_MAX: usize = 1 << 20;
/// How long a resend is recognised.
pub const DEDUP_KEPT_MS: u64 = 7 * 24 * 3_600_000;

const _: () = {
    // The largest content fits into a message with a kilobyte for the names around it, twice.
    assert!(CONTENT_BYTES_MAX * 2 + 2048 <= MESSAGE_BYTES_MAX);
    // An event that names as many users as one operation may change is not too large.
    assert!(MEMBERS_CHANGED_MAX * (USER_ID_BYTES_MAX + 2) + 64 <= CONTENT_BYTES_MAX);
    // A friend request with all its texts, of both persons, and a notice, are not too large.
    assert!(6 * (TERMS_TEXT_BYTES_MAX + 2) + 12 * (PERSON_TEXT_BYTES_MAX + 2) < CONTENT_BYTES_MAX);
    assert!(
        NOTICE_BYTES_MAX + NOTICE_EXT_BYTES_MAX + 5 * (NOTICE_WORD_BYTES_MAX + 2)
            < CONTENT_BYTES_MAX
    );
    assert!(NOTICE_BYTES_MAX <= u16::MAX as usize);
    // A step of a cancellation owes no more than there is room for.
    assert!(CANCEL_PAGE as usize + 2 <= 1024 && CANCEL_PAGE as usize * 4 < OWED_MAX);
    // The caller's id of a notice, and the server's own of what it owes, fit behind their prefix.
    assert!(NOTICE_ID_BYTES_MAX + 8 <= CLIENT_ID_BYTES_MAX);
    // Roster and membership of each, the group's row, the record and its index.
    assert!(2 * MEMBERS_CHANGED_MAX + 8 <= 1024);
    // One record of the largest content is more than a page: pages hold at least one record.
    assert!(PAGE_BYTES as usize >= CONTENT_BYTES_MAX);
    // A page never holds more than the window, so that pull mode reads what it may send.
    assert!(PAGE_BYTES as u64 <= WINDOW_BYTES);
    assert!(PULL_ROOM_MESSAGES >= 1);
    // All requests of one connection together fit into the shard's share.
    assert!(CONNECTION_REQUESTS_MAX < SHARD_REQUESTS_MAX);
};
