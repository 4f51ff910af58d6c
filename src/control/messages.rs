//! `/v1/messages…`: messages in a user's name, by their ids, and taken back.
//!
//! Content is the neutral model, or a dialect's own words, which other dialects read into it; both
//! are checked here, so that what is stored can be shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use compact_str::CompactString;
use ringpost_core::command::{Action, Mentioned};
use ringpost_core::content::{Body, Content, Mentions, Reply, Segment};
use ringpost_core::dialect::Settings;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation, Post};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{Conversation, MessageId, UserId};
use ringpost_core::limits::{
    CLIENT_ID_BYTES_MAX, CONTENT_BYTES_MAX, DUE_AFTER_MS_MAX, MENTIONS_MAX,
};
use ringpost_core::record::{Kind, Page, Record};
use serde_json::{Map, Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, user_id};
use super::groups::group_id;

/// Characters of a quoted message that go with the answer to it.
const QUOTE_CHARS_MAX: usize = 200;

/// `POST /v1/messages`: stores and delivers; answers once it is durable.
pub async fn send(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let sender = fields.user("from")?;
    let conversation = receiver(&sender, fields.take("to"))?;
    let content = content(fields.take("content"))?;
    let named = mentions(&mut fields)?;
    let reply_to = fields.text("reply_to", 20)?;
    let client_id = fields.text("client_id", CLIENT_ID_BYTES_MAX)?.unwrap_or_default();
    let after_ms = fields.number("deliver_after_s")?.map(after_ms).transpose()?.unwrap_or(0);
    fields.end()?;
    let name = conversation.canonical();
    let reply_to = match reply_to {
        Some(id) => Some(quoted(&shared, &conversation, &id).await?),
        None => None,
    };
    let (kind, content, mentions) = composed(content, named, reply_to)?;
    // The sender's own devices pass it, wherever they are.
    let action = Action::Send { kind, sender_ms: None, content, copies: true, mentions, after_ms };
    let client_id = CompactString::from(client_id);
    let post = Post { conversation, sender, client_id, action };
    match shared.ask(Operation::Post(Box::new(post))).await? {
        Answer::Stored(stored) if stored.seq == 0 => Ok((
            StatusCode::CREATED,
            Json(json!({
                "id": stored.id.to_string(), "conversation": name, "seq": null,
                "server_ts": null, "due": stored.time_ms,
            })),
        )),
        Answer::Stored(stored) => Ok((
            StatusCode::CREATED,
            Json(json!({
                "id": stored.id.to_string(), "conversation": name, "seq": stored.seq,
                "server_ts": stored.time_ms,
            })),
        )),
        answer => Err(refused(answer)),
    }
}

/// `GET /v1/messages/{id}`.
pub async fn read(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let (conversation, page) = find(&shared, id).await?;
    let record = only(&page)?;
    Ok(Json(shown(&conversation, &record)))
}

/// `POST /v1/messages/{id}/revoke` `{by}`: takes it back in the name of `by`, without it of its
/// author, whoever wrote it and however long ago.
pub async fn revoke(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let by = fields.optional_user("by")?;
    fields.end()?;
    let (conversation, page) = find(&shared, id).await?;
    let record = only(&page)?;
    let author = UserId::parse(record.sender);
    let (Some(sender), false) = (by.or(author), record.kind == Kind::Event) else {
        return Err(ApiError::conflict("what happened cannot be taken back"));
    };
    let client_id = CompactString::from(record.id.to_string());
    let name = conversation.canonical();
    let action = Action::Revoke { by_operator: true };
    let post = Post { conversation, sender, client_id, action };
    match shared.ask(Operation::Post(Box::new(post))).await? {
        Answer::Stored(stored) => Ok(Json(json!({
            "id": record.id.to_string(), "conversation": name, "server_ts": stored.time_ms,
        }))),
        answer => Err(refused(answer)),
    }
}

/// `{user}` or `{group}`.
fn receiver(sender: &UserId, to: Option<Value>) -> Result<Conversation, ApiError> {
    let wanted = || ApiError::invalid("to", "must be {\"user\": id} or {\"group\": id}");
    let Some(Value::Object(to)) = to else { return Err(wanted()) };
    let mut to = to.into_iter();
    match (to.next(), to.next()) {
        (Some((name, Value::String(id))), None) if name == "user" => {
            Ok(Conversation::private(sender, &user_id("to.user", &id)?))
        }
        (Some((name, Value::String(id))), None) if name == "group" => {
            Ok(Conversation::Group(group_id("to.group", &id)?))
        }
        _ => Err(wanted()),
    }
}

/// What the `content` of a request says.
enum Given {
    /// A dialect's own words.
    Raw(String),
    /// The neutral model.
    Neutral(Content),
}

/// The neutral model, or `{"raw": {"dialect": "imboy", "payload": …}}`.
fn content(content: Option<Value>) -> Result<Given, ApiError> {
    let Some(Value::Object(mut content)) = content else {
        return Err(ApiError::invalid("content", "must be an object with a kind, or raw"));
    };
    match content.get("raw") {
        // The kind `custom` has a member of that name, too.
        Some(_) if content.contains_key("kind") => {}
        Some(_) if content.len() > 1 => {
            return Err(ApiError::invalid("content", "has raw and something else"));
        }
        Some(_) => {
            let raw = content.remove("raw").unwrap_or_default();
            return Ok(Given::Raw(raw_payload(raw)?.to_string()));
        }
        None => {}
    }
    let text = Value::Object(content).to_string();
    let content = Content::from_json(&text).map_err(|error| {
        let field = if error.field.is_empty() {
            "content".to_owned()
        } else {
            format!("content.{}", error.field)
        };
        ApiError::invalid(field, error.problem)
    })?;
    Ok(Given::Neutral(content))
}

/// `deliver_after_s`, in ms.
fn after_ms(seconds: u64) -> Result<u64, ApiError> {
    let ms = seconds.saturating_mul(1_000);
    let most = DUE_AFTER_MS_MAX / 1_000;
    let wrong = || ApiError::invalid("deliver_after_s", format!("must be 1 to {most}"));
    (1..=DUE_AFTER_MS_MAX).contains(&ms).then_some(ms).ok_or_else(wrong)
}

/// `mentions`: user ids, or `all`.
fn mentions(fields: &mut Fields) -> Result<Mentioned, ApiError> {
    let wrong = || ApiError::invalid("mentions", "must be a list of user ids, or of \"all\"");
    let mut mentioned = Mentioned::default();
    let list = match fields.take("mentions") {
        None | Some(Value::Null) => return Ok(mentioned),
        Some(Value::Array(list)) => list,
        Some(_) => return Err(wrong()),
    };
    for user in &list {
        match user.as_str().ok_or_else(wrong)? {
            "all" => mentioned.everybody = true,
            user => mentioned.users.push(user_id("mentions", user)?),
        }
    }
    Ok(mentioned)
}

/// The message that another one answers, as it is quoted there.
async fn quoted(shared: &Shared, conversation: &Conversation, id: &str) -> Result<Reply, ApiError> {
    let wrong = |message: &'static str| ApiError::invalid("reply_to", message);
    let id = MessageId::parse_xid(id.as_bytes());
    let id = id.ok_or_else(|| wrong("must be a message id of 20 characters"))?;
    let found = match shared.ask(Operation::Find { id }).await? {
        Answer::Found(found) => found.filter(|(place, _)| place == conversation),
        answer => return Err(refused(answer)),
    };
    let (_, page) = found.ok_or_else(|| wrong("is no message of this conversation"))?;
    let record = only(&page)?;
    let text = match record.kind {
        Kind::Event => return Err(wrong("is no message")),
        Kind::Revoked => "[message revoked]".to_owned(),
        Kind::Message | Kind::Neutral => said(&record, &shared.process.dialects)?,
    };
    let (id, author, time_ms) = (id.to_string(), record.sender.to_owned(), record.time_ms);
    Ok(Reply { id, author, time_ms, text: shortened(text) })
}

/// A message as readable text.
fn said(record: &Record<'_>, dialects: &Settings) -> Result<String, ApiError> {
    let content = std::str::from_utf8(record.content)
        .map_err(|_| ApiError::internal("a message's content is not UTF-8"))?;
    let body = match record.kind {
        Kind::Neutral => {
            Body::from_json(content).map_err(|_| ApiError::internal("not a content"))?
        }
        _ => dialects.parse(record.dialect, content),
    };
    Ok(body.content.to_text())
}

/// No more of a quoted text than an answer needs to be understood.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(QUOTE_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What is stored: the kind of the record, its content, and whom it mentions.
fn composed(
    content: Given,
    mut mentioned: Mentioned,
    reply_to: Option<Reply>,
) -> Result<(Kind, Bytes, Option<Box<Mentioned>>), ApiError> {
    let (kind, text) = match content {
        Given::Raw(_) if mentioned != Mentioned::default() => {
            return Err(ApiError::invalid("mentions", "goes with a content of the neutral model"));
        }
        Given::Raw(_) if reply_to.is_some() => {
            return Err(ApiError::invalid("reply_to", "goes with a content of the neutral model"));
        }
        Given::Raw(payload) => (Kind::Message, payload.into_bytes()),
        Given::Neutral(content) => {
            mention_inline(&content, &mut mentioned)?;
            mentioned.users.sort_unstable();
            mentioned.users.dedup();
            let users = mentioned.users.iter().map(UserId::to_string).collect();
            let mentions = Mentions { users, everybody: mentioned.everybody };
            let mut out = Vec::new();
            Body { content, mentions, reply_to }.write_json(&mut out);
            (Kind::Neutral, out)
        }
    };
    if mentioned.users.len() > MENTIONS_MAX {
        return Err(ApiError::too_large(format!("a message may name {MENTIONS_MAX} users")));
    }
    if text.len() > CONTENT_BYTES_MAX {
        let message = format!("a message may have {CONTENT_BYTES_MAX} bytes of content as JSON");
        return Err(ApiError::too_large(message));
    }
    let mentions = (mentioned != Mentioned::default()).then(|| Box::new(mentioned));
    Ok((kind, Bytes::from(text), mentions))
}

/// Whom the parts of a rich content mention, is mentioned.
fn mention_inline(content: &Content, mentioned: &mut Mentioned) -> Result<(), ApiError> {
    let Content::Rich(segments) = content else { return Ok(()) };
    for segment in segments {
        match segment {
            Segment::Mention { user: Some(user), .. } => {
                mentioned.users.push(user_id("content.segments", user)?);
            }
            Segment::Mention { user: None, .. } => mentioned.everybody = true,
            _ => {}
        }
    }
    Ok(())
}

fn raw_payload(raw: Value) -> Result<Value, ApiError> {
    let wanted = || {
        ApiError::invalid("content.raw", "must be {\"dialect\": \"imboy\", \"payload\": any JSON}")
    };
    let Value::Object(mut raw) = raw else { return Err(wanted()) };
    let (dialect, payload) = (raw.remove("dialect"), raw.remove("payload"));
    match (dialect.as_ref().and_then(Value::as_str), payload) {
        (Some("imboy"), Some(payload)) if raw.is_empty() => Ok(payload),
        _ => Err(wanted()),
    }
}

async fn find(
    shared: &Shared,
    id: Result<Path<String>, PathRejection>,
) -> Result<(Conversation, Page), ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "is not percent-encoded UTF-8"))?;
    let id = MessageId::parse_xid(id.as_bytes());
    let id = id.ok_or_else(|| ApiError::invalid("id", "must be a message id of 20 characters"))?;
    match shared.ask(Operation::Find { id }).await? {
        Answer::Found(Some(found)) => Ok(found),
        Answer::Found(None) => Err(ApiError::not_found("no such message")),
        answer => Err(refused(answer)),
    }
}

fn only(page: &Page) -> Result<Record<'_>, ApiError> {
    page.get(0).ok_or_else(|| ApiError::internal("a message that is known is not there"))
}

/// A record as the API shows it.
pub(super) fn shown(conversation: &Conversation, record: &Record<'_>) -> Value {
    let mut shown = Map::new();
    let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
    put("id", json!(record.id.to_string()));
    put("conversation", json!(conversation.canonical()));
    put("seq", json!(record.seq));
    put("from", json!(record.sender));
    put("server_ts", json!(record.time_ms));
    let parsed = || serde_json::from_slice(record.content).unwrap_or(Value::Null);
    match record.kind {
        Kind::Message => {
            let raw = json!({ "dialect": record.dialect.name(), "payload": parsed() });
            put("content", json!({ "raw": raw }));
        }
        Kind::Neutral => {
            let mut content = parsed();
            for beside in ["mentions", "reply_to"] {
                if let Some(value) = content.as_object_mut().and_then(|it| it.remove(beside)) {
                    put(beside, value);
                }
            }
            put("content", content);
        }
        Kind::Revoked => {
            put("revoked", json!(true));
        }
        Kind::Event => {
            put("event", json!(event_name(record.content)));
        }
    }
    if !record.client_id.is_empty() {
        shown.insert("client_id".to_owned(), json!(record.client_id));
    }
    Value::Object(shown)
}

fn event_name(content: &[u8]) -> &'static str {
    match Happened::decode(content) {
        Some(Happened::MembersJoined { .. }) => "members_joined",
        Some(Happened::MembersLeft { .. }) => "members_left",
        Some(Happened::Dissolved) => "dissolved",
        Some(Happened::AliasChanged { .. }) => "alias_changed",
        Some(Happened::Revoked { .. }) => "revoked",
        Some(Happened::FriendAsked(_)) => "friend_asked",
        Some(Happened::FriendAccepted(_)) => "friend_accepted",
        Some(Happened::AccountCancelled) => "account_cancelled",
        Some(Happened::Noticed { .. }) => "noticed",
        None => "unknown",
    }
}

/// A refusal as a status.
fn refused(answer: Answer) -> ApiError {
    let Answer::Refused(refusal) = answer else {
        return ApiError::internal("a conversation's home gave another answer than was asked for");
    };
    match refusal {
        Refusal::NoSuchUser => ApiError::not_found("the receiver does not exist"),
        Refusal::SenderUnknown => ApiError::not_found("the sender does not exist"),
        Refusal::NoSuchGroup => ApiError::not_found("no such group, or it is dissolved"),
        Refusal::NotInGroup => ApiError::not_permitted("the sender is not in the group"),
        Refusal::NotAFriend => ApiError::not_permitted("the sender is not a friend"),
        Refusal::Blocked => ApiError::not_permitted("the receiver has blocked the sender"),
        Refusal::Muted => ApiError::not_permitted("the sender is muted in the group"),
        Refusal::NotRevocable => ApiError::not_found("no such message"),
        Refusal::TryAgain => ApiError::unavailable("try again"),
        _ => ApiError::internal("a conversation's home refused for a reason of clients"),
    }
}
