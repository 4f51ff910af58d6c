//! imboy: JSON text frames with `CLIENT_ACK` (protocols/imboy.md).
//!
//! Translates between its frames and the core's words. Bodies only: the WebSocket head around
//! them is `ws::frame`'s. What the server says in its own name is in [`s2c`].

pub mod content;
pub mod hashids;
mod notices;
pub mod s2c;
pub mod sign;

use bytes::Bytes;
use compact_str::CompactString;
use std::ops::Range;

use crate::admit::{TokenCheck, TokenFault, token_of};
use crate::content::{Body, Content};
use crate::dialect::imboy::hashids::Hashids;
use crate::dialect::imboy::sign::SignKeys;
use crate::dialect::json::{
    Scratch, Value, copy_members, member_span, write_integer, write_string,
};
use crate::dialect::{Delivery, Place, Retries};
use crate::error::Refusal;
use crate::happened::Happened;
use crate::ids::{Conversation, DeviceId, Dialect, GroupId, MessageId, UserId};
use crate::limits::{CLIENT_WORD_BYTES_MAX, CONTENT_BYTES_MAX, DEVICE_ID_BYTES_MAX};
use crate::record::{Kind, Record};
use crate::session::{Client, Login, LoginFault};
use crate::ws::handshake::Request;

pub use notices::{write_dismissal, write_presence};

/// Client message ids have 1 to 40 bytes.
const ID_BYTES_MAX: usize = 40;

/// What the operator can set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Pause between two messages pushed at connect, unless the first is acknowledged, ms.
    pub catchup_gap_ms: u64,
    /// A `CLIENT_ACK` says that the message was read, not only that it came.
    pub ack_is_read: bool,
    /// When what is not acknowledged is sent again.
    pub retries: Retries,
    /// What apps must sign with to connect.
    pub sign_keys: SignKeys,
    /// How user ids are shown, if not as they are.
    pub hashids: Option<Hashids>,
}

impl Default for Settings {
    fn default() -> Settings {
        let retries = Retries {
            private: vec![5_000, 12_000, 23_000],
            group: vec![3_500, 7_000, 10_000, 15_000],
            friend_request: vec![1_500, 3_000, 6_000, 11_000, 18_000],
            another_device: vec![5_000, 15_000],
            notice: vec![1_000_000, 2_000_000],
        };
        let sign_keys = SignKeys::default();
        Settings { catchup_gap_ms: 100, ack_is_read: false, retries, sign_keys, hashids: None }
    }
}

impl Settings {
    /// See [`Delivery`].
    pub fn delivery(&self) -> Delivery<'_> {
        Delivery {
            retries: &self.retries,
            catch_up_gap_ms: self.catchup_gap_ms,
            echo_to_own_devices: false,
            ack_is_read: self.ack_is_read,
            replaced_close: Some(4001),
            tells_other_devices: true,
        }
    }
}

impl Settings {
    /// Appends the id of a user or group as clients see it. Ids have nothing that JSON escapes.
    pub fn write_id(&self, id: &str, out: &mut Vec<u8>) {
        match &self.hashids {
            None => out.extend_from_slice(id.as_bytes()),
            Some(hashids) => hashids.write(id, out),
        }
    }

    /// The conversation that `sender` means by `to`, a user or a group; and, when `to` is read as
    /// another id than it is, the one that he means if there is a user or group of that very id.
    pub fn conversation(
        &self,
        sender: &UserId,
        group: bool,
        to: &str,
    ) -> Option<(Conversation, Option<Conversation>)> {
        let with = |id: &str| match group {
            true => GroupId::parse(id).map(Conversation::Group),
            false => UserId::parse(id).map(|user| Conversation::private(sender, &user)),
        };
        match self.hashids.as_ref().and_then(|hashids| hashids.read(to)) {
            Some(number) => with(&number.to_string()).map(|meant| (meant, with(to))),
            None => with(to).map(|meant| (meant, None)),
        }
    }
}

/// Reads who connects; the second part is the subprotocol to echo (the first one offered).
pub fn login<'a>(
    settings: &Settings,
    request: &Request<'a>,
    tokens: &dyn TokenCheck,
    wall_ms: u64,
) -> (Result<Login, LoginFault>, Option<&'a str>) {
    (read_login(settings, request, tokens, wall_ms), request.subprotocols().next())
}

fn read_login(
    settings: &Settings,
    request: &Request<'_>,
    tokens: &dyn TokenCheck,
    wall_ms: u64,
) -> Result<Login, LoginFault> {
    // Browsers cannot set headers: each is accepted as a query key too.
    let value = |name: &str| {
        let header = request.header(name).map(CompactString::new);
        header.or_else(|| request.query_value(name).map(CompactString::from))
    };
    let token = token_of(request).ok_or(LoginFault::TokenInvalid)?;
    let claims = tokens.check(wall_ms, &token).map_err(|fault| match fault {
        TokenFault::Expired => LoginFault::TokenExpired,
        TokenFault::Invalid => LoginFault::TokenInvalid,
    })?;
    let name = value("did").filter(|did| (1..=DEVICE_ID_BYTES_MAX).contains(&did.len()));
    let name = name.ok_or(LoginFault::TokenInvalid)?;
    if claims.device.is_some_and(|bound| bound != name) {
        return Err(LoginFault::TokenInvalid);
    }
    let device = DeviceId { dialect: Dialect::Imboy, name };
    let text = |name| value(name).unwrap_or_default();
    if !settings.sign_keys.accept(&device.name, &text("vsn"), &text("method"), &text("sign")) {
        return Err(LoginFault::SignatureWrong);
    }
    // What is longer than any name of a platform or version is none.
    let word = |name| value(name).filter(|word| word.len() <= CLIENT_WORD_BYTES_MAX);
    let client = Client {
        platform: word("cos").unwrap_or_default(),
        version: word("vsn").unwrap_or_default(),
    };
    Ok(Login { user: claims.user, device, expires_ms: claims.expires_ms, client })
}

/// A frame from the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// `ping`, answered by [`PONG`].
    Ping,
    /// `logout`: close 1000.
    Logout,
    /// `check_offline_msg`: what is pending is pushed again.
    CheckOffline,
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
    /// `C2C_REVOKE` or `C2G_REVOKE`.
    Revoke {
        /// Whether `to` is a group.
        group: bool,
        /// The id under which the message is known.
        id: CompactString,
        /// The peer or group; not checked.
        to: CompactString,
    },
    /// A receiver's `C2C_REVOKE_ACK` or `C2G_REVOKE_ACK`.
    RevokeAck {
        /// The revoked message's id.
        id: CompactString,
    },
    /// `webrtc_*`.
    Signal {
        /// The client's own id, 1 to 40 bytes.
        id: CompactString,
        /// To whom; not checked.
        to: CompactString,
        /// The frame's members as they stand, but for `from` and `to`.
        members: Bytes,
    },
}

impl Frame<'_> {
    /// Whether it answers what the server has sent.
    pub fn is_ack(&self) -> bool {
        matches!(self, Frame::Ack { .. } | Frame::RevokeAck { .. })
    }

    /// The id that an error answer to it carries.
    pub fn id(&self) -> Option<&str> {
        match self {
            Frame::Send { id, .. } | Frame::Revoke { id, .. } | Frame::Signal { id, .. } => {
                Some(id)
            }
            Frame::Ping
            | Frame::Logout
            | Frame::CheckOffline
            | Frame::Ack { .. }
            | Frame::RevokeAck { .. } => None,
        }
    }
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
        b"check_offline_msg" => Ok(Frame::CheckOffline),
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
    /// Where `from` and `to` stand, for a frame that is relayed without them.
    from_at: Option<usize>,
    to_at: Option<usize>,
    /// One of these two is given twice.
    twice: bool,
}

fn decode_object<'a>(text: &'a [u8], scratch: &mut Scratch) -> Result<Frame<'a>, Undecodable> {
    let fields = scratch.members(text, |members| {
        let mut fields = Fields::default();
        for (ordinal, key, value) in members {
            match key {
                "from" => fields.twice |= fields.from_at.replace(ordinal).is_some(),
                "to" => fields.twice |= fields.to_at.replace(ordinal).is_some(),
                _ => {}
            }
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
    let Fields { id, kind, to, sender_ms, payload, from_at, to_at, twice } = fields;
    // The error answer carries the id; one that is too long to be an id is not echoed.
    let id = id.filter(|id| id.len() <= ID_BYTES_MAX);
    let named = id.clone();
    let refuse = |refusal| Undecodable { refusal, id: named.clone() };
    let missing = |what| refuse(Refusal::Malformed(what));
    let kind = kind.ok_or_else(|| missing("type is missing"))?;
    let Some(verb) = Verb::parse(&kind) else { return Err(refuse(Refusal::UnknownOperation)) };
    let id = id.filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| Undecodable::new("id must be a string of 1 to 40 bytes"))?;
    if verb == Verb::RevokeAck {
        return Ok(Frame::RevokeAck { id });
    }
    let to = to.ok_or_else(|| missing("to is missing"))?;
    if let Verb::Revoke { group } = verb {
        return Ok(Frame::Revoke { group, id, to });
    }
    let payload = payload.ok_or_else(|| missing("payload is missing"))?;
    let payload = member_span(text, payload);
    if payload.len() > CONTENT_BYTES_MAX {
        return Err(refuse(Refusal::TooLarge));
    }
    if let Verb::Send { group } = verb {
        return Ok(Frame::Send { group, id, to, sender_ms, payload });
    }
    if twice {
        return Err(missing("from and to may be given once"));
    }
    let mut members = Vec::with_capacity(text.len());
    copy_members(text, [from_at, to_at], &mut members);
    if members.len() > CONTENT_BYTES_MAX {
        return Err(refuse(Refusal::TooLarge));
    }
    Ok(Frame::Signal { id, to, members: members.into() })
}

/// What a frame's `type` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Send { group: bool },
    Revoke { group: bool },
    RevokeAck,
    Signal,
}

impl Verb {
    /// `type` is matched without case.
    fn parse(kind: &str) -> Option<Verb> {
        let verbs = [
            ("C2C", Verb::Send { group: false }),
            ("C2G", Verb::Send { group: true }),
            ("C2C_REVOKE", Verb::Revoke { group: false }),
            ("C2G_REVOKE", Verb::Revoke { group: true }),
            ("C2C_REVOKE_ACK", Verb::RevokeAck),
            ("C2G_REVOKE_ACK", Verb::RevokeAck),
        ];
        let found = verbs.into_iter().find(|(name, _)| kind.eq_ignore_ascii_case(name));
        let webrtc = || kind.get(..7).is_some_and(|kind| kind.eq_ignore_ascii_case("webrtc_"));
        found.map(|(_, verb)| verb).or_else(|| webrtc().then_some(Verb::Signal))
    }
}

/// The id under which receivers know a record: the sender's when that is a valid xid, else ours.
pub fn wire_id(record: &Record<'_>) -> MessageId {
    let own = record.dialect == Dialect::Imboy;
    own.then(|| MessageId::parse_xid(record.client_id.as_bytes())).flatten().unwrap_or(record.id)
}

/// The id under which receivers acknowledge what happened, for comparing: friend requests have ids
/// that are no xids.
pub fn event_id(settings: &Settings, happened: &Happened, record: &Record<'_>) -> MessageId {
    match happened {
        Happened::Revoked { wire, .. } => *wire,
        _ => notices::friend_id(settings, happened).map_or(record.id, |id| MessageId::key_of(&id)),
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
pub fn write_message(
    settings: &Settings,
    record: &Record<'_>,
    kind: &str,
    to: &str,
    out: &mut Vec<u8>,
) {
    begin_message(settings, &wire_id(record), kind, record.sender, to, out);
    out.extend_from_slice(b",\"payload\":");
    match record.kind {
        Kind::Revoked => {
            out.extend_from_slice(br#"{"msg_type":"custom","custom_type":"peer_revoked"}"#);
        }
        Kind::Neutral => write_neutral(settings, record.content, out),
        Kind::Message | Kind::Event => out.extend_from_slice(record.content),
    }
    let time_ms = record.time_ms as i64;
    write_created_at(record.sender_ms.unwrap_or(time_ms), out);
    write_server_ts(record.time_ms, out);
}

/// Appends the payload for content of the HTTP API, which was checked when it came.
fn write_neutral(settings: &Settings, content: &[u8], out: &mut Vec<u8>) {
    let text = std::str::from_utf8(content).unwrap_or_default();
    let body = Body::from_json(text).unwrap_or_else(|_| Content::Text(text.to_owned()).into());
    content::write(settings, &body, out);
}

/// Appends what happened, as the receiver `to` is told: an S2C event, or a revoke.
pub fn write_event(
    settings: &Settings,
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
        Happened::Revoked { .. } => {
            return write_revoke(settings, happened, record, place, to, out);
        }
        Happened::MembersJoined { .. } => "group_member_join",
        Happened::MembersLeft { .. } => "group_member_leave",
        Happened::Dissolved => "group_dissolve",
        Happened::AliasChanged { .. } => "group_member_alias",
        Happened::FriendAsked(_)
        | Happened::FriendAccepted(_)
        | Happened::AccountCancelled
        | Happened::Noticed { .. } => return notices::write(settings, happened, record, to, out),
    };
    begin_message(settings, &record.id, "S2C", record.sender, to, out);
    out.extend_from_slice(b",\"payload\":{\"msg_type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"gid\":\"");
    settings.write_id(group, out);
    out.push(b'"');
    match happened {
        Happened::MembersJoined { users } | Happened::MembersLeft { users } => {
            out.extend_from_slice(b",\"user_ids\":[");
            for (n, user) in users.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                out.push(b'"');
                settings.write_id(user, out);
                out.push(b'"');
            }
            out.push(b']');
        }
        Happened::AliasChanged { user, alias, description } => {
            out.extend_from_slice(b",\"user_id\":\"");
            settings.write_id(user, out);
            out.push(b'"');
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
    settings: &Settings,
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
    begin_message(settings, wire, kind, record.sender, to, out);
    write_server_ts(record.time_ms, out);
}

/// `{"id":…,"type":…,"from":…,"to":…`. Ids of users and groups have nothing that JSON escapes.
fn begin_message(
    settings: &Settings,
    id: &MessageId,
    kind: &str,
    from: &str,
    to: &str,
    out: &mut Vec<u8>,
) {
    begin_frame(settings, &id.to_xid(), kind, from, to, out);
}

/// The same with any id that has nothing that JSON escapes.
fn begin_frame(
    settings: &Settings,
    id: &[u8],
    kind: &str,
    from: &str,
    to: &str,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\",\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"from\":\"");
    settings.write_id(from, out);
    out.extend_from_slice(b"\",\"to\":\"");
    settings.write_id(to, out);
    out.push(b'"');
}

fn write_created_at(ms: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"created_at\":");
    write_integer(ms, out);
}

/// Appends a signal as its receiver `to` gets it: as it was sent, and from whom.
pub fn write_signal(settings: &Settings, members: &[u8], from: &str, to: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"from\":\"");
    settings.write_id(from, out);
    out.extend_from_slice(b"\",\"to\":\"");
    settings.write_id(to, out);
    out.extend_from_slice(b"\",");
    // There are three at least: without them it would not have been taken.
    out.extend_from_slice(members);
    out.push(b'}');
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

/// Appends the answer to who has revoked a message; `to` is the peer or group.
pub fn write_revoke_ack(
    settings: &Settings,
    group: bool,
    id: &str,
    from: &str,
    to: &str,
    time_ms: u64,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"{\"id\":");
    write_string(id, out);
    out.extend_from_slice(if group {
        b",\"type\":\"C2G_REVOKE_ACK\",\"from\":\""
    } else {
        b",\"type\":\"C2C_REVOKE_ACK\",\"from\":\""
    });
    settings.write_id(from, out);
    out.extend_from_slice(b"\",\"to\":\"");
    settings.write_id(to, out);
    out.push(b'"');
    write_server_ts(time_ms, out);
}

/// Appends the answer to a frame that failed. `to` is whom it was for, where that is refused.
pub fn write_refusal(
    settings: &Settings,
    refusal: Refusal,
    id: Option<&str>,
    to: &str,
    wall_ms: u64,
    out: &mut Vec<u8>,
) {
    let code = match refusal {
        Refusal::Malformed(_) | Refusal::UnknownOperation | Refusal::TryAgain => 1,
        Refusal::Banned => 2,
        Refusal::NoSuchUser
        | Refusal::TooLarge
        | Refusal::NoSuchGroup
        | Refusal::NotInGroup
        | Refusal::Muted
        | Refusal::NotPermitted
        | Refusal::NotRevocable
        | Refusal::RateLimited
        | Refusal::GroupExists
        | Refusal::GroupFull
        | Refusal::NoSuchRequest => 3,
        Refusal::SenderUnknown => 706,
        // The app has screens of its own for these two.
        Refusal::NotAFriend => {
            return s2c::write_refused(settings, "not_a_friend", id, to, wall_ms, out);
        }
        Refusal::Blocked => {
            return s2c::write_refused(settings, "in_denylist", id, to, wall_ms, out);
        }
    };
    begin_error(code, id, out);
    // Only code 2 has a title, which the app shows above the content.
    let title = if code == 2 { "Account banned" } else { "" };
    out.extend_from_slice(b",\"payload\":{\"title\":");
    write_string(title, out);
    out.extend_from_slice(b",\"content\":");
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

/// Appends the error that a failed login gets: 705 *refresh it*, 706 *log in again*,
/// 707 *get the newest app*.
pub fn write_login_fault(fault: LoginFault, wall_ms: u64, out: &mut Vec<u8>) {
    let code = match fault {
        LoginFault::TokenExpired => 705,
        LoginFault::TokenInvalid => 706,
        LoginFault::SignatureWrong => 707,
    };
    begin_error(code, None, out);
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
