//! `POST /v1/notices`: business notices to some users, each stored in his notices and delivered
//! until acknowledged.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ringpost_core::command::NoticeOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::happened::Happened;
use ringpost_core::ids::UserId;
use ringpost_core::limits::{NOTICE_BYTES_MAX, NOTICE_ID_BYTES_MAX, NOTICE_WORD_BYTES_MAX};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Shared;
use super::auth::MayWrite;
use super::error::ApiError;
use super::fields::Fields;

/// Users of one request.
const USERS_MAX: usize = 1_000;
/// Homes asked at a time: one request leaves room for others.
const ASKS: usize = 64;

/// Sends `content`, any JSON, as a notice of `kind` to each of `to`. With an `id` a request that is
/// repeated is not stored again. `unknown`: those of `to` who are no users; the others have it.
pub async fn send(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let to = fields.users("to", USERS_MAX)?.filter(|to| !to.is_empty());
    let word = |fields: &mut Fields, name| fields.text(name, NOTICE_WORD_BYTES_MAX);
    let id = fields.text("id", NOTICE_ID_BYTES_MAX)?.unwrap_or_default();
    let stream = word(&mut fields, "stream")?.unwrap_or_default();
    let kind = word(&mut fields, "kind")?.filter(|kind| !kind.is_empty());
    let title = word(&mut fields, "title")?.unwrap_or_default();
    let content = fields.take("content").unwrap_or(Value::Null).to_string();
    fields.end()?;
    let to = to.ok_or_else(|| ApiError::invalid("to", "must be a list of user ids"))?;
    let kind = kind.ok_or_else(|| ApiError::invalid("kind", "must be a word"))?;
    if content.len() > NOTICE_BYTES_MAX {
        return Err(ApiError::invalid(
            "content",
            format!("may have {NOTICE_BYTES_MAX} bytes as JSON"),
        ));
    }
    let mut encoded = Vec::new();
    Happened::Noticed { stream, kind, title, content }.encode(&mut encoded);
    let notice = NoticeOperation { id: id.into(), content: encoded.into() };
    let unknown = send_to_all(&shared, to, &notice).await?;
    Ok(Json(json!({ "unknown": unknown })))
}

/// Who of them is no user.
async fn send_to_all(
    shared: &Arc<Shared>,
    to: Vec<UserId>,
    notice: &NoticeOperation,
) -> Result<Vec<String>, ApiError> {
    let mut to = to.into_iter();
    let mut asks = JoinSet::new();
    let mut unknown = Vec::new();
    loop {
        while asks.len() < ASKS
            && let Some(user) = to.next()
        {
            let (shared, notice) = (shared.clone(), Box::new(notice.clone()));
            asks.spawn(async move {
                let asked = Operation::Notice { user: user.clone(), notice };
                (user, shared.ask(asked).await)
            });
        }
        let Some(done) = asks.join_next().await else { break };
        let (user, answer) =
            done.map_err(|_| ApiError::internal("a notice's task has not come to its end"))?;
        match answer? {
            Answer::Stored(_) => {}
            Answer::NoSuchUser => unknown.push(user.to_string()),
            Answer::Refused(Refusal::TryAgain) => return Err(ApiError::unavailable("try again")),
            _ => {
                return Err(ApiError::internal("a user's home gave another answer than asked for"));
            }
        }
    }
    unknown.sort_unstable();
    Ok(unknown)
}
