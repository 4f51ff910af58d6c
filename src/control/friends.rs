//! `/v1/friends…`, `/v1/users/{id}/friends`, `/v1/users/{id}/blocks/{other}`: what users are to each
//! other. What may be done is decided by the pair's home.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::ids::UserId;
use ringpost_core::limits::TERMS_TEXT_BYTES_MAX;
use ringpost_core::relations::{RelationOperation, RelationRow, Terms};
use serde_json::{Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, Parameters, Params, PathOf, path_user, path_users};
use super::groups::{closed, opened};

/// Friends in one page of a list, unless another number is asked for, and the most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 1_000;

/// `POST /v1/friends/requests`: `from` asks `to` to be friends.
pub async fn ask(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let (from, to) = pair(&mut fields)?;
    let mut terms = terms(&mut fields)?;
    terms.message = text(&mut fields, "message")?;
    terms.source = text(&mut fields, "source")?;
    terms.tag = text(&mut fields, "tag")?;
    fields.end()?;
    shared.relation(RelationOperation::Ask { from, to, terms }).await
}

/// `POST /v1/friends/accept`: `to` accepts what `from` has asked.
pub async fn accept(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let (from, to) = pair(&mut fields)?;
    let terms = terms(&mut fields)?;
    fields.end()?;
    shared.relation(RelationOperation::Accept { from, to, terms }).await
}

/// `POST /v1/friends/reject`: `to` does not; `from` is not told.
pub async fn reject(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let (from, to) = pair(&mut fields)?;
    fields.end()?;
    shared.relation(RelationOperation::Reject { from, to }).await
}

/// `DELETE /v1/friends/{a}/{b}?by=`: their friendship ends, for both. `by` must be one of them.
pub async fn end(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    path: PathOf<(String, String)>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let (one, other) = path_users(path)?;
    let mut params = Parameters::of(params)?;
    let by = params.user("by")?;
    params.end()?;
    if by.is_some_and(|by| by != one && by != other) {
        return Err(ApiError::invalid("by", "must be one of the two"));
    }
    different(&one, &other, "b")?;
    shared.relation(RelationOperation::End { one, other }).await
}

/// `GET /v1/users/{id}/friends?after=&limit=`: in order of their ids.
pub async fn list(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let (after, limit) = Parameters::of(params)?.page(opened, PAGE, PAGE_MAX)?;
    match shared.ask(Operation::Friends { user, after, limit }).await? {
        Answer::Friends(friends) => {
            let items: Vec<Value> = friends.iter().map(shown).collect();
            let mut page = json!({ "items": items });
            if let Some((last, _)) = friends.last().filter(|_| friends.len() == limit as usize) {
                page["next"] = closed(last);
            }
            Ok(Json(page))
        }
        answer => Err(refused(answer)),
    }
}

/// `PUT /v1/users/{id}/blocks/{other}`: `other` cannot write to the user any more.
pub async fn block(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    path: PathOf<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    shared.block(path, true).await
}

/// `DELETE /v1/users/{id}/blocks/{other}`: `other` can again.
pub async fn unblock(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    path: PathOf<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    shared.block(path, false).await
}

impl Shared {
    async fn block(
        &self,
        path: PathOf<(String, String)>,
        on: bool,
    ) -> Result<Json<Value>, ApiError> {
        let (by, other) = path_users(path)?;
        different(&by, &other, "other")?;
        self.relation(RelationOperation::Block { by, other, on }).await
    }

    async fn relation(&self, operation: RelationOperation) -> Result<Json<Value>, ApiError> {
        match self.ask(Operation::Relation(Box::new(operation))).await? {
            Answer::Done => Ok(Json(json!({}))),
            answer => Err(refused(answer)),
        }
    }
}

fn refused(answer: Answer) -> ApiError {
    match answer {
        Answer::NoSuchUser => ApiError::not_found("no such user"),
        Answer::Refused(Refusal::NoSuchUser) => ApiError::not_found("one of the two is no user"),
        Answer::Refused(Refusal::NoSuchRequest) => ApiError::not_found("no such friend request"),
        Answer::Refused(Refusal::NotAFriend) => ApiError::not_found("they are not friends"),
        Answer::Refused(Refusal::TryAgain) => ApiError::unavailable("try again"),
        _ => ApiError::internal("a pair's home gave another answer than was asked for"),
    }
}

fn pair(fields: &mut Fields) -> Result<(UserId, UserId), ApiError> {
    let (from, to) = (fields.user("from")?, fields.user("to")?);
    different(&from, &to, "to")?;
    Ok((from, to))
}

fn different(one: &UserId, other: &UserId, field: &'static str) -> Result<(), ApiError> {
    if one == other {
        return Err(ApiError::invalid(field, "must be another user"));
    }
    Ok(())
}

/// What a request and an acceptance have in common.
fn terms(fields: &mut Fields) -> Result<Terms, ApiError> {
    Ok(Terms {
        remark: text(fields, "remark")?,
        role: text(fields, "role")?,
        do_not_look: fields.flag("donotlookhim")?.unwrap_or_default(),
        do_not_show: fields.flag("donotlethimlook")?.unwrap_or_default(),
        ..Terms::default()
    })
}

fn text(fields: &mut Fields, name: &'static str) -> Result<String, ApiError> {
    Ok(fields.text(name, TERMS_TEXT_BYTES_MAX)?.unwrap_or_default())
}

fn shown((user, row): &(UserId, RelationRow)) -> Value {
    let Terms { source, remark, role, tag, do_not_look, do_not_show, .. } = &row.terms;
    json!({
        "user": user.as_str(), "since_ts": row.friends_ms, "blocked": row.blocked_ms > 0,
        "source": source, "remark": remark, "role": role, "tag": tag,
        "donotlookhim": do_not_look, "donotlethimlook": do_not_show,
    })
}
