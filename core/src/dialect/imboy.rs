//! imboy: JSON text frames with `CLIENT_ACK` (protocols/imboy.md).
//!
//! Translates between its frames and the core's words. Bodies only: the WebSocket head around
//! them is `ws::frame`'s.

mod notices;

use compact_str::CompactString;
use std::ops::Range;

use crate::admit::{TokenCheck, TokenFault};
use crate::dialect::json::{Scratch, Value, member_span, write_integer, write_string};
use crate::dialect::{Delivery, Place};
use crate::error::Refusal;
use crate::happened::Happened;
use crate::ids::{DeviceId, Dialect, MessageId};
use crate::limits::{CONTENT_BYTES_MAX, DEVICE_ID_BYTES_MAX};
use crate::record::{Kind, Record};
use crate::session::{Login, LoginFault};
use crate::ws::handshake::Request;

pub use notices::{write_dismissal, write_presence};

/// Client message ids have 1 to 40 bytes.
const ID_BYTES_MAX: usize = 40;

/// The id, and payload `msg_type`, of the reminder that a token is past its time.
pub const REFRESH_TOKEN: &str = "please_refresh_token";

/// What the operator can set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Pause between two messages pushed at connect, unless the first is acknowledged, ms.
    pub catchup_gap_ms: u64,
    /// Send times of a private message, ms after the first, ascending.
    pub c2c_retry_ms: Vec<u64>,
    /// The same of a group's message.
    pub c2g_retry_ms: Vec<u64>,
    /// The same of a stored S2C event.
    pub s2c_retry_ms: Vec<u64>,
    /// The same of a friend request and its acceptance.
    pub friend_retry_ms: Vec<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            catchup_gap_ms: 100,
            c2c_retry_ms: vec![5_000, 12_000, 23_000],
            c2g_retry_ms: vec![3_500, 7_000, 10_000, 15_000],
            s2c_retry_ms: vec![1_000_000, 2_000_000],
            friend_retry_ms: vec![1_500, 3_000, 6_000, 11_000, 18_000],
        }
    }
}

impl Settings {
    /// See [`Delivery`].
    pub fn delivery(&self) -> Delivery<'_> {
        Delivery {
            // In the order of `Class`.
            retry_ms: [
                &self.c2c_retry_ms,
                &self.c2g_retry_ms,
                &self.s2c_retry_ms,
                &self.friend_retry_ms,
            ],
            catch_up_gap_ms: self.catchup_gap_ms,
            echo_to_own_devices: false,
            replaced_close: Some(4001),
        }
    }
}

/// Reads who connects; the second part is the subprotocol to echo (the first one offered).
pub fn login<'a>(
    request: &Request<'a>,
    tokens: &dyn TokenCheck,
    wall_ms: u64,
) -> (Result<Login, LoginFault>, Option<&'a str>) {
    (read_login(request, tokens, wall_ms), request.subprotocols().next())
}

fn read_login(
    request: &Request<'_>,
    tokens: &dyn TokenCheck,
    wall_ms: u64,
) -> Result<Login, LoginFault> {
    // Browsers cannot set headers: each is accepted as a query key too.
    let value = |name: &str| {
        let header = request.header(name).map(CompactString::new);
        header.or_else(|| request.query_value(name).map(CompactString::from))
    };
    let token = ["authorization", "token", "access_token"].into_iter().find_map(value);
    let token = token.ok_or(LoginFault::TokenInvalid)?;
    let token = token.strip_prefix("Bearer ").unwrap_or(&token).trim();
    let claims = tokens.check(wall_ms, token).map_err(|fault| match fault {
        TokenFault::Expired => LoginFault::TokenExpired,
        TokenFault::Invalid => LoginFault::TokenInvalid,
    })?;
    let name = value("did").filter(|did| (1..=DEVICE_ID_BYTES_MAX).contains(&did.len()));
    let name = name.ok_or(LoginFault::TokenInvalid)?;
    if claims.device.is_some_and(|bound| bound != name) {
        return Err(LoginFault::TokenInvalid);
    }
    let device = DeviceId { dialect: Dialect::Imboy, name };
    Ok(Login { user: claims.user, device, expires_ms: claims.expires_ms })
}

/// A frame from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// `ping`, answered by [`PONG`].
    Ping,
    /// `logout`: close 1000.
    Logout,
    /// `CLIENT_ACK`, in either spelling.
    Ack {
        /// What was acknowledged.
        kind: AckKind,
        /// The wire id of it; may be empty.
        id: &'a str,
        /// The device that the client says it is.
        device: &'a str,
    },
    /// `C2C` or `C2G`.
    Send {
        /// Whether `to` is a group.
        group: bool,
        /// The client's own id, 1 to 40 bytes.
        id: CompactString,
        /// To whom; not checked.
        to: CompactString,
        /// `created_at`.
        sender_ms: Option<i64>,
        /// Where in the frame the payload is.
        payload: Range<usize>,
    },
}

/// What a `CLIENT_ACK` is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckKind {
    /// A private message.
    C2c,
    /// A group's message.
    C2g,
    /// What the server says.
    S2c,
    /// A signal: accepted in silence.
    Webrtc,
}

/// Why a frame is not one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Undecodable {
    /// What is wrong with it.
    pub refusal: Refusal,
    /// Its `id`, if it had one; the error answer carries it.
    pub id: Option<CompactString>,
}

impl Undecodable {
    fn new(why: &'static str) -> Undecodable {
        Undecodable { refusal: Refusal::Malformed(why), id: None }
    }
}

/// The body that answers [`Frame::Ping`].
pub const PONG: &[u8] = b"pong2";

/// Reads a text frame.
///
/// # Errors
/// The refusal that the client is told, with the id that the answer carries.
pub fn decode<'a>(text: &'a [u8], scratch: &mut Scratch) -> Result<Frame<'a>, Undecodable> {
    match text {
        b"ping" => Ok(Frame::Ping),
        b"logout" => Ok(Frame::Logout),
        _ => match text.strip_prefix(b"CLIENT_ACK") {
            Some(rest) => decode_ack(rest),
            None => decode_object(text, scratch),
        },
    }
}

/// `,<type>,<msgid>,<did>`, or the older form without the first comma.
fn decode_ack(rest: &[u8]) -> Result<Frame<'_>, Undecodable> {
    let malformed = || Undecodable::new("CLIENT_ACK,<type>,<msgid>,<did> expected");
    let rest = std::str::from_utf8(rest).map_err(|_| malformed())?;
    let mut parts = rest.strip_prefix(',').unwrap_or(rest).splitn(3, ',');
    let (Some(kind), Some(id), Some(device)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(malformed());
    };
    let known = |name: &str| kind.eq_ignore_ascii_case(name);
    let kind = if known("C2C") {
        AckKind::C2c
    } else if known("C2G") {
        AckKind::C2g
    } else if known("S2C") {
        AckKind::S2c
    } else if known("WEBRTC") {
        AckKind::Webrtc
    } else {
        return Err(malformed());
    };
    Ok(Frame::Ack { kind, id, device })
}

#[derive(Default)]
struct Fields {
    id: Option<CompactString>,
    kind: Option<CompactString>,
    to: Option<CompactString>,
    sender_ms: Option<i64>,
    payload: Option<usize>,
}

fn decode_object<'a>(text: &'a [u8], scratch: &mut Scratch) -> Result<Frame<'a>, Undecodable> {
    let fields = scratch.members(text, |members| {
        let mut fields = Fields::default();
        for (ordinal, key, value) in members {
            match (key, value) {
                ("id", Value::Text(id)) => fields.id = Some(CompactString::new(id)),
                ("type", Value::Text(kind)) => fields.kind = Some(CompactString::new(kind)),
                ("to", Value::Text(to)) => fields.to = Some(CompactString::new(to)),
                ("created_at", Value::Integer(ms)) => fields.sender_ms = Some(ms),
                ("payload", _) => fields.payload = Some(ordinal),
                _ => {}
            }
        }
        fields
    });
    let Ok(fields) = fields else { return Err(Undecodable::new("not a JSON object")) };
    let Fields { id, kind, to, sender_ms, payload } = fields;
    // The error answer carries the id; one that is too long to be an id is not echoed.
    let id = id.filter(|id| id.len() <= ID_BYTES_MAX);
    let refuse = |refusal| Undecodable { refusal, id: id.clone() };
    let missing = |what| refuse(Refusal::Malformed(what));
    let kind = kind.ok_or_else(|| missing("type is missing"))?;
    let group = kind.eq_ignore_ascii_case("C2G");
    if !group && !kind.eq_ignore_ascii_case("C2C") {
        return Err(refuse(Refusal::UnknownOperation));
    }
    let to = to.ok_or_else(|| missing("to is missing"))?;
    let payload = payload.ok_or_else(|| missing("payload is missing"))?;
    let payload = member_span(text, payload);
    if payload.len() > CONTENT_BYTES_MAX {
        return Err(refuse(Refusal::TooLarge));
    }
    match id {
        Some(id) if !id.is_empty() => Ok(Frame::Send { group, id, to, sender_ms, payload }),
        _ => Err(Undecodable::new("id must be a string of 1 to 40 bytes")),
    }
}

/// The id under which receivers know a record: the sender's when that is a valid xid, else ours.
pub fn wire_id(record: &Record<'_>) -> MessageId {
    let own = record.dialect == Dialect::Imboy;
    own.then(|| MessageId::parse_xid(record.client_id.as_bytes())).flatten().unwrap_or(record.id)
}

/// The same of an event, for comparing: friend requests have ids that are no xids.
pub fn event_key(happened: &Happened, record: &Record<'_>) -> MessageId {
    match notices::friend_id(happened) {
        Some(id) => MessageId::key_of(&id),
        None => wire_id(record),
    }
}

/// Whether the receiver `to` is told what happened (protocols/imboy.md, *S2C events*).
pub fn shows(happened: &Happened, record: &Record<'_>, to: &str) -> bool {
    match happened {
        // The members before the change; who joins is not told.
        Happened::MembersJoined { users } => !users.iter().any(|user| user == to),
        Happened::MembersLeft { .. }
        | Happened::Dissolved
        | Happened::AliasChanged { .. }
        | Happened::FriendAsked(_)
        | Happened::FriendAccepted(_)
        | Happened::AccountCancelled
        | Happened::Noticed { .. } => true,
        // The one who revoked it has his own answer.
        Happened::Revoked { .. } => record.sender != to,
    }
}

/// Appends a message of type `kind` (`C2C` or `C2G`); `to` is its receiver, or the group.
pub fn write_message(record: &Record<'_>, kind: &str, to: &str, out: &mut Vec<u8>) {
    begin_message(&wire_id(record).to_xid(), kind, record.sender, to, out);
    out.extend_from_slice(b",\"payload\":");
    match record.kind {
        Kind::Revoked => {
            out.extend_from_slice(br#"{"msg_type":"custom","custom_type":"peer_revoked"}"#);
        }
        _ => out.extend_from_slice(record.content),
    }
    let time_ms = record.time_ms as i64;
    write_created_at(record.sender_ms.unwrap_or(time_ms), out);
    write_server_ts(record.time_ms, out);
}

/// Appends what happened, as the receiver `to` is told: an S2C event, or a revoke.
pub fn write_event(
    happened: &Happened,
    record: &Record<'_>,
    place: Place<'_>,
    to: &str,
    out: &mut Vec<u8>,
) {
    let group = match place {
        Place::Group(group) => group.as_str(),
        Place::User => "",
    };
    let kind = match happened {
        Happened::Revoked { .. } => return write_revoke(happened, record, place, to, out),
        Happened::MembersJoined { .. } => "group_member_join",
        Happened::MembersLeft { .. } => "group_member_leave",
        Happened::Dissolved => "group_dissolve",
        Happened::AliasChanged { .. } => "group_member_alias",
        Happened::FriendAsked(_)
        | Happened::FriendAccepted(_)
        | Happened::AccountCancelled
        | Happened::Noticed { .. } => return notices::write(happened, record, to, out),
    };
    begin_message(&record.id.to_xid(), "S2C", record.sender, to, out);
    out.extend_from_slice(b",\"payload\":{\"msg_type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"gid\":\"");
    out.extend_from_slice(group.as_bytes());
    out.push(b'"');
    match happened {
        Happened::MembersJoined { users } | Happened::MembersLeft { users } => {
            out.extend_from_slice(b",\"user_ids\":[");
            for (n, user) in users.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_string(user, out);
            }
            out.push(b']');
        }
        Happened::AliasChanged { user, alias, description } => {
            out.extend_from_slice(b",\"user_id\":");
            write_string(user, out);
            write_alias(alias, description, record.time_ms, out);
        }
        _ => {}
    }
    out.push(b'}');
    if let Happened::AliasChanged { alias, description, .. } = happened {
        // The app reads these three at the top.
        write_alias(alias, description, record.time_ms, out);
    }
    write_created_at(record.time_ms as i64, out);
    write_server_ts(record.time_ms, out);
}

fn write_alias(alias: &str, description: &str, time_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"alias\":");
    write_string(alias, out);
    out.extend_from_slice(b",\"description\":");
    write_string(description, out);
    out.extend_from_slice(b",\"updated_at\":");
    write_integer(time_ms as i64, out);
}

fn write_revoke(
    happened: &Happened,
    record: &Record<'_>,
    place: Place<'_>,
    to: &str,
    out: &mut Vec<u8>,
) {
    let Happened::Revoked { wire, .. } = happened else { unreachable!("the caller looked") };
    let (kind, to) = match place {
        Place::User => ("C2C_REVOKE", to),
        Place::Group(group) => ("C2G_REVOKE", group.as_str()),
    };
    begin_message(&wire.to_xid(), kind, record.sender, to, out);
    write_server_ts(record.time_ms, out);
}

/// `{"id":…,"type":…,"from":…,"to":…`. Ids of users and groups have nothing that JSON escapes.
fn begin_message(id: &[u8], kind: &str, from: &str, to: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(id);
    for (name, value) in [("type", kind), ("from", from), ("to", to)] {
        out.extend_from_slice(b"\",\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":\"");
        out.extend_from_slice(value.as_bytes());
    }
    out.push(b'"');
}

fn write_created_at(ms: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"created_at\":");
    write_integer(ms, out);
}

/// Appends the sender's receipt.
pub fn write_server_ack(group: bool, id: &str, time_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    write_string(id, out);
    out.extend_from_slice(if group {
        b",\"type\":\"C2G_SERVER_ACK\""
    } else {
        b",\"type\":\"C2C_SERVER_ACK\""
    });
    write_server_ts(time_ms, out);
}

/// Appends the answer to a private message that `to` may not be sent, for which the app has screens
/// of its own; `None`: the refusal is another one.
pub fn write_unwanted(
    refusal: Refusal,
    id: &str,
    to: &str,
    wall_ms: u64,
    out: &mut Vec<u8>,
) -> Option<()> {
    let kind = match refusal {
        Refusal::NotAFriend => "not_a_friend",
        Refusal::Blocked => "in_denylist",
        _ => return None,
    };
    notices::write_unwanted(kind, id, to, wall_ms, out);
    Some(())
}

/// Appends the answer to a frame that failed.
pub fn write_refusal(refusal: Refusal, id: Option<&str>, wall_ms: u64, out: &mut Vec<u8>) {
    let code = match refusal {
        Refusal::Malformed(_) | Refusal::UnknownOperation | Refusal::TryAgain => 1,
        Refusal::NoSuchUser
        | Refusal::TooLarge
        | Refusal::NoSuchGroup
        | Refusal::NotInGroup
        | Refusal::NotPermitted
        | Refusal::GroupExists
        | Refusal::GroupFull
        | Refusal::NotAFriend
        | Refusal::Blocked
        | Refusal::NoSuchRequest => 3,
        Refusal::SenderUnknown => 706,
    };
    begin_error(code, id, out);
    out.extend_from_slice(b",\"payload\":{\"title\":\"\",\"content\":");
    match refusal {
        // The reasons are ours: plain ASCII.
        Refusal::Malformed(why) => write_string(why, out),
        other => write_string(&other_text(other), out),
    }
    out.push(b'}');
    write_server_ts(wall_ms, out);
}

fn other_text(refusal: Refusal) -> CompactString {
    compact_str::format_compact!("{refusal}")
}

/// Appends the error that a failed login gets: 705 *refresh it*, 706 *log in again*.
pub fn write_login_fault(fault: LoginFault, wall_ms: u64, out: &mut Vec<u8>) {
    let code = match fault {
        LoginFault::TokenExpired => 705,
        LoginFault::TokenInvalid => 706,
    };
    begin_error(code, None, out);
    write_server_ts(wall_ms, out);
}

/// Appends the S2C reminder that the token is past its time; `to` is empty before a login.
pub fn write_refresh_token(to: &str, wall_ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"{\"id\":\"please_refresh_token\",\"type\":\"S2C\",\"from\":\"\",\"to\":\"",
    );
    out.extend_from_slice(to.as_bytes());
    out.extend_from_slice(
        b"\",\"payload\":{\"msg_type\":\"please_refresh_token\"},\"created_at\":",
    );
    write_integer(wall_ms as i64, out);
    write_server_ts(wall_ms, out);
}

fn begin_error(code: i64, id: Option<&str>, out: &mut Vec<u8>) {
    out.push(b'{');
    if let Some(id) = id {
        out.extend_from_slice(b"\"id\":");
        write_string(id, out);
        out.push(b',');
    }
    out.extend_from_slice(b"\"type\":\"error\",\"code\":");
    write_integer(code, out);
}

/// Every frame ends with the server's time.
fn write_server_ts(ms: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"server_ts\":");
    write_integer(ms as i64, out);
    out.push(b'}');
}
