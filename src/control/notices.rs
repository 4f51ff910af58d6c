//! `POST /v1/notices`: business notices to some users, each stored in his notices, or to everybody,
//! stored once; delivered until acknowledged.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ringpost_core::command::NoticeOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::happened::{Happened, NoticeData};
use ringpost_core::ids::UserId;
use ringpost_core::limits::{
    NOTICE_BYTES_MAX, NOTICE_EXT_BYTES_MAX, NOTICE_ID_BYTES_MAX, NOTICE_WORD_BYTES_MAX,
};
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
/// What the lists of notices begin with, in xxim.
const LIST_PREFIX: &str = "notice:";

/// Whom a notice is for.
enum To {
    Users(Vec<UserId>),
    Everybody,
}

/// Sends `content`, any JSON, as a notice of `kind` to each of `to`, or to everybody (`all`). With
/// an `id` a request that is repeated is not stored again. `unknown`: those of `to` who are no
/// users; the others have it. `conv_id`, `unread`, `content_type`, `ext` and `options` are for
/// xxim's clients, and kept with the notice.
pub async fn send(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let to = receivers(&mut fields)?;
    let word = |fields: &mut Fields, name| fields.text(name, NOTICE_WORD_BYTES_MAX);
    let id = fields.text("id", NOTICE_ID_BYTES_MAX)?.unwrap_or_default();
    let stream = word(&mut fields, "stream")?.unwrap_or_default();
    let kind = word(&mut fields, "kind")?.filter(|kind| !kind.is_empty());
    let title = word(&mut fields, "title")?.unwrap_or_default();
    let content = fields.take("content").unwrap_or(Value::Null).to_string();
    let data = notice_data(&mut fields)?;
    fields.end()?;
    let to = to.ok_or_else(|| ApiError::invalid("to", "must be a list of user ids"))?;
    let kind = kind.ok_or_else(|| ApiError::invalid("kind", "must be a word"))?;
    if content.len() > NOTICE_BYTES_MAX {
        return Err(ApiError::invalid(
            "content",
            format!("may have {NOTICE_BYTES_MAX} bytes as JSON"),
        ));
    }
    let data = (data != NoticeData::default()).then(|| Box::new(data));
    let mut encoded = Vec::new();
    Happened::Noticed { stream, kind, title, content, data }.encode(&mut encoded);
    let notice = NoticeOperation { id: id.into(), content: encoded.into() };
    match to {
        To::Users(to) => {
            let unknown = send_to_each(&shared, to, &notice).await?;
            Ok(Json(json!({ "unknown": unknown })))
        }
        To::Everybody => send_to_everybody(&shared, notice).await,
    }
}

/// `None`: neither a user nor everybody is named.
fn receivers(fields: &mut Fields) -> Result<Option<To>, ApiError> {
    let to = fields.users("to", USERS_MAX)?;
    let all = fields.flag("all")?.unwrap_or(false);
    match (to, all) {
        (Some(_), true) => Err(ApiError::invalid("all", "cannot be true beside `to`")),
        (None, true) => Ok(Some(To::Everybody)),
        (to, false) => Ok(to.filter(|to| !to.is_empty()).map(To::Users)),
    }
}

/// What is for xxim's clients alone.
fn notice_data(fields: &mut Fields) -> Result<NoticeData, ApiError> {
    let conv_id = fields.text("conv_id", NOTICE_WORD_BYTES_MAX)?.unwrap_or_default();
    if !conv_id.is_empty() && conv_id.strip_prefix(LIST_PREFIX).is_none_or(str::is_empty) {
        return Err(ApiError::invalid("conv_id", "must be notice: and a name"));
    }
    let ext = fields.text("ext", NOTICE_EXT_BYTES_MAX)?.unwrap_or_default();
    let content_type = int32(fields, "content_type")?;
    let within = |name: &'static str| move |error: ApiError| error.within(name);
    let unread = fields.object("unread")?.map(unread).transpose().map_err(within("unread"))?;
    let options = fields.object("options")?.map(options).transpose().map_err(within("options"))?;
    let (storage_for_client, update_conv) = options.unwrap_or_default();
    // It means: never stored, and pushed to those of xxim's clients that are connected. There are
    // none yet, and everything else is delivered until acknowledged.
    if fields.flag("once")?.unwrap_or(false) {
        return Err(ApiError::invalid("once", "only xxim's clients know it: not available yet"));
    }
    Ok(NoticeData { conv_id, ext, unread, content_type, storage_for_client, update_conv })
}

/// Count, and whether it is absolute.
fn unread(mut fields: Fields) -> Result<(i32, bool), ApiError> {
    let count = int32(&mut fields, "count")?;
    let absolute = fields.flag("absolute")?.unwrap_or(false);
    fields.end()?;
    Ok((count.ok_or_else(|| ApiError::invalid("count", INT32))?, absolute))
}

/// Whether the client keeps the notice, and whether it is the last of its list.
fn options(mut fields: Fields) -> Result<(bool, bool), ApiError> {
    let storage = fields.flag("storage_for_client")?.unwrap_or(false);
    let update = fields.flag("update_conv_msg")?.unwrap_or(false);
    fields.end()?;
    Ok((storage, update))
}

const INT32: &str = "must be a whole number, 0 to 2147483647";

fn int32(fields: &mut Fields, name: &'static str) -> Result<Option<i32>, ApiError> {
    let wrong = |_| ApiError::invalid(name, INT32);
    fields.number(name)?.map(i32::try_from).transpose().map_err(wrong)
}

/// One append, whoever there is.
async fn send_to_everybody(
    shared: &Shared,
    notice: NoticeOperation,
) -> Result<Json<Value>, ApiError> {
    match shared.ask(Operation::NoticeToAll { notice: Box::new(notice) }).await? {
        Answer::Stored(stored) => Ok(Json(json!({ "unknown": [], "id": stored.id.to_string() }))),
        Answer::Refused(Refusal::TryAgain) => Err(ApiError::unavailable("try again")),
        _ => Err(ApiError::internal("the notices' home gave another answer than asked for")),
    }
}

/// Who of them is no user.
async fn send_to_each(
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
