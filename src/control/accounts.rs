//! `/v1/users/{id}/…` and `/v1/presence`: who is sent away, banned, cancelled, hidden, connected.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use ringpost_core::account::{AccountOperation, Ban, Connected, Presence};
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation};
use ringpost_core::ids::UserId;
use ringpost_core::limits::{BAN_REASON_BYTES_MAX, DEVICE_ID_BYTES_MAX};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, Parameters, Params, PathOf, path_user, user_id};
use super::{Shared, wall_ms};

/// Users of one question about presence: each is asked at its home.
const PRESENCE_MAX: usize = 100;

/// `POST /v1/users/{id}/kick`: ends the connections of a device, or all.
pub async fn kick(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let device = fields.text("device", DEVICE_ID_BYTES_MAX)?.map(Into::into);
    fields.end()?;
    shared.change(user, AccountOperation::Kick { device }).await
}

/// `POST /v1/users/{id}/ban`: `until` in ms since 1970, without it for ever.
pub async fn ban(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let until_ms = fields.number("until")?.unwrap_or(u64::MAX);
    let reason = fields.text("reason", BAN_REASON_BYTES_MAX)?;
    let reason = reason.filter(|reason| !reason.is_empty());
    fields.end()?;
    let reason = reason.ok_or_else(|| ApiError::invalid("reason", "must be given: it is shown"))?;
    if until_ms <= wall_ms() {
        return Err(ApiError::invalid("until", "must be in the future, in ms since 1970"));
    }
    shared.change(user, AccountOperation::Ban(Some(Ban { until_ms, reason }))).await
}

/// `DELETE /v1/users/{id}/ban`.
pub async fn unban(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    shared.change(user, AccountOperation::Ban(None)).await
}

/// What friends are told.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Shown {
    Online,
    Hide,
}

/// `PUT /v1/users/{id}/state`.
pub async fn state(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let state = fields.word("state", "online, hide")?;
    fields.end()?;
    let state: Shown =
        state.ok_or_else(|| ApiError::invalid("state", "must be one of online, hide"))?;
    shared.change(user, AccountOperation::Hide(matches!(state, Shown::Hide))).await
}

/// `DELETE /v1/users/{id}?transfer_to=`: cancels the account. Answered when nobody can use it or
/// write to it any more; friends are told, and groups left, right after that.
pub async fn cancel(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let mut params = Parameters::of(params)?;
    let heir = params.user("transfer_to")?;
    params.end()?;
    if heir.as_ref() == Some(&user) {
        return Err(ApiError::invalid("transfer_to", "must be another user"));
    }
    // A change of the profile may be under way.
    let _alone = shared.lock(user.slot()).lock().await;
    shared.change(user, AccountOperation::Cancel { heir }).await
}

/// `GET /v1/users/{id}/connections`.
pub async fn connections(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    let operation = AccountOperation::Connections;
    match shared.ask(Operation::Account { user, operation }).await? {
        Answer::Connections(devices) => {
            let items: Vec<Value> = devices.iter().map(shown).collect();
            Ok(Json(json!({ "items": items })))
        }
        answer => Err(refused(answer)),
    }
}

/// `GET /v1/presence?user=a&user=b`: unknown users are offline.
pub async fn presence(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    params: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(params) = params.map_err(|_| ApiError::bad_request("the query is malformed"))?;
    if params.is_empty() || params.len() > PRESENCE_MAX {
        return Err(ApiError::invalid("user", format!("must be given 1 to {PRESENCE_MAX} times")));
    }
    let mut users: Vec<UserId> = Vec::with_capacity(params.len());
    for (name, id) in params {
        if name != "user" {
            return Err(ApiError::unknown_field(name));
        }
        users.push(user_id("user", &id)?);
    }
    let mut items = Vec::with_capacity(users.len());
    for user in users {
        let operation = AccountOperation::Presence;
        let state = match shared.ask(Operation::Account { user: user.clone(), operation }).await? {
            Answer::Presence(Presence::Online) => "online",
            Answer::Presence(Presence::Hidden) => "hide",
            Answer::Presence(Presence::Offline) | Answer::NoSuchUser => "offline",
            answer => return Err(refused(answer)),
        };
        items.push(json!({ "user": user.as_str(), "state": state }));
    }
    Ok(Json(json!({ "items": items })))
}

impl Shared {
    async fn change(
        &self,
        user: UserId,
        operation: AccountOperation,
    ) -> Result<Json<Value>, ApiError> {
        match self.ask(Operation::Account { user, operation }).await? {
            Answer::Done => Ok(Json(json!({}))),
            answer => Err(refused(answer)),
        }
    }
}

fn refused(answer: Answer) -> ApiError {
    match answer {
        Answer::NoSuchUser => ApiError::not_found("no such user"),
        Answer::Refused(Refusal::TryAgain) => ApiError::unavailable("try again"),
        _ => ApiError::internal("a user's home gave another answer than was asked for"),
    }
}

fn shown(device: &Connected) -> Value {
    json!({
        "dialect": device.dialect.name(), "device": device.device.as_str(),
        "platform": device.client.platform.as_str(),
        "version": device.client.version.as_str(),
        "connections": device.connections, "since_ts": device.since_ms, "pending": device.pending,
    })
}
