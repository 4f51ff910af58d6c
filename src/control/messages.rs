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
use ringpost_core::command::Action;
use ringpost_core::content::Content;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation, Post};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{Conversation, MessageId, UserId};
use ringpost_core::limits::{CLIENT_ID_BYTES_MAX, CONTENT_BYTES_MAX};
use ringpost_core::record::{Kind, Page, Record};
use serde_json::{Map, Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, user_id};
use super::groups::group_id;

/// `POST /v1/messages`: stores and delivers; answers once it is durable.
pub async fn send(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let sender = fields.user("from")?;
    let conversation = receiver(&sender, fields.take("to"))?;
    let (kind, content) = content(fields.take("content"))?;
    let client_id = fields.text("client_id", CLIENT_ID_BYTES_MAX)?.unwrap_or_default();
    fields.end()?;
    let name = conversation.canonical();
    // The sender's own devices pass it, wherever they are.
    let action = Action::Send { kind, sender_ms: None, content, copies: true };
    let client_id = CompactString::from(client_id);
    let post = Post { conversation, sender, client_id, action };
    match shared.ask(Operation::Post(Box::new(post))).await? {
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

/// The neutral model, or `{"raw": {"dialect": "imboy", "payload": …}}`.
fn content(content: Option<Value>) -> Result<(Kind, Bytes), ApiError> {
    let Some(Value::Object(mut content)) = content else {
        return Err(ApiError::invalid("content", "must be an object with a kind, or raw"));
    };
    let (kind, text) = match content.remove("raw") {
        Some(raw) if content.is_empty() => (Kind::Message, raw_payload(raw)?.to_string()),
        Some(_) => return Err(ApiError::invalid("content", "has raw and something else")),
        None => {
            let text = Value::Object(content).to_string();
            Content::from_json(&text).map_err(|error| {
                let field = if error.field.is_empty() {
                    "content".to_owned()
                } else {
                    format!("content.{}", error.field)
                };
                ApiError::invalid(field, error.problem)
            })?;
            (Kind::Neutral, text)
        }
    };
    if text.len() > CONTENT_BYTES_MAX {
        let message = format!("a message may have {CONTENT_BYTES_MAX} bytes of content as JSON");
        return Err(ApiError::too_large(message));
    }
    Ok((kind, Bytes::from(text)))
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
fn shown(conversation: &Conversation, record: &Record<'_>) -> Value {
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
            put("content", parsed());
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
