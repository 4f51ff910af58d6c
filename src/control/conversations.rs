//! `/v1/users/{id}/conversations` and `/v1/conversations/{conv}/read`: what a user has, how much of it
//! he has not read, and how far he has.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringpost_core::event::{Answer, Chat, Operation};
use ringpost_core::ids::{ConvKey, Conversation, Slot};
use serde_json::{Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, Parameters, Params, PathOf, path_user};
use super::messages;

/// Conversations in one page of a list, unless another number is asked for, and the most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 500;

/// `GET /v1/users/{id}/conversations?after=&limit=`: in no particular order, each with its unread
/// count, the first unread mention (a seq) and the last message or event.
pub async fn list(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let (after, limit) = Parameters::of(params)?.page(opened, PAGE, PAGE_MAX)?;
    match shared.ask(Operation::Chats { user, after, limit }).await? {
        Answer::Chats(page) => {
            let items = page.chats.iter().map(shown).collect::<Result<Vec<Value>, _>>()?;
            let mut answer = json!({ "items": items });
            if let Some(next) = page.next {
                answer["next"] = closed(next);
            }
            Ok(Json(answer))
        }
        Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
        _ => Err(ApiError::internal("a user's home gave another answer than was asked for")),
    }
}

/// `POST /v1/conversations/{conv}/read` `{user, seq}`: the user has read everything up to `seq`. It
/// never goes back: answers how far he has read now.
pub async fn read(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    conversation: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let user = fields.user("user")?;
    let seq = fields.number("seq")?.filter(|seq| *seq > 0);
    fields.end()?;
    let seq = seq.ok_or_else(|| ApiError::invalid("seq", "must be a whole number, 1 or more"))?;
    let Path(text) = conversation
        .map_err(|_| ApiError::invalid("conversation", "is not percent-encoded UTF-8"))?;
    let conversation = Conversation::parse(&text, &user)
        .ok_or_else(|| ApiError::invalid("conversation", "is none that this user can have"))?;
    match shared.ask(Operation::Read { user, conversation, seq }).await? {
        Answer::Read(read) => Ok(Json(json!({ "conversation": text, "read": read }))),
        Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
        Answer::Found(None) => Err(ApiError::not_found("the user has no such message there")),
        _ => Err(ApiError::internal("a user's home gave another answer than was asked for")),
    }
}

fn shown(chat: &Chat) -> Result<Value, ApiError> {
    let last = chat.last.get(0);
    let last = last.ok_or_else(|| ApiError::internal("a conversation without a last message"))?;
    let mut shown = json!({
        "conversation": chat.conversation.canonical(),
        "read": chat.read,
        "unread": chat.unread,
        "last": messages::shown(&chat.conversation, &last),
    });
    if let Some(seq) = chat.mention {
        shown["mention"] = json!(seq);
    }
    Ok(shown)
}

/// The conversation that a page begins behind, of the `next` of an earlier one.
fn opened(after: &str) -> Result<ConvKey, ApiError> {
    let wrong = || ApiError::invalid("after", "must be the `next` of an earlier answer");
    let bytes = URL_SAFE_NO_PAD.decode(after).map_err(|_| wrong())?;
    let (slot, hash) = bytes.split_first_chunk::<2>().ok_or_else(wrong)?;
    let hash = hash.try_into().map_err(|_| wrong())?;
    Ok(ConvKey { slot: Slot(u16::from_be_bytes(*slot)), hash })
}

fn closed(last: ConvKey) -> Value {
    json!(URL_SAFE_NO_PAD.encode([&last.slot.0.to_be_bytes()[..], &last.hash].concat()))
}
