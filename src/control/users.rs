//! `/v1/users/{id}`: profiles. What the fields may hold is said here, for the core they are one
//! opaque JSON object.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use ringpost_core::account::Ban;
use ringpost_core::event::{Answer, Operation, UserRow};
use ringpost_core::ids::UserId;
use serde_json::{Map, Value, json};

use super::Shared;
use super::auth::{MayRead, MayWrite};
use super::error::ApiError;
use super::fields::{Fields, PathOf, path_user};

/// A profile is read whenever its user connects.
const PROFILE_BYTES_MAX: usize = 64 << 10;

/// What a field of a profile may hold. Null is allowed everywhere: it clears the field.
enum Kind {
    /// Text up to so many bytes.
    Text(usize),
    /// Text up to so many bytes, or a whole number: clients send either.
    TextOrNumber(usize),
    /// One of these.
    Word(&'static [&'static str]),
    /// A user id.
    User,
    /// Any JSON.
    Any,
}

/// The fields of a profile.
const FIELDS: [(&str, Kind); 11] = [
    ("name", Kind::Text(256)),
    ("avatar", Kind::Text(2_048)),
    ("email", Kind::Text(320)),
    ("account", Kind::Text(256)),
    ("sign", Kind::Text(1_024)),
    ("gender", Kind::TextOrNumber(32)),
    ("region", Kind::Text(256)),
    ("org", Kind::Text(256)),
    ("role", Kind::Word(&["user", "service"])),
    ("owner", Kind::User),
    ("extra", Kind::Any),
];

/// Fields to set, and (null) to clear.
#[derive(Debug)]
struct Patch(Vec<(&'static str, Value)>);

impl Patch {
    fn read(mut fields: Fields) -> Result<Patch, ApiError> {
        let mut patch = Vec::new();
        for (name, kind) in &FIELDS {
            if let Some(value) = fields.take(name) {
                kind.check(name, &value)?;
                patch.push((*name, value));
            }
        }
        fields.end()?;
        Ok(Patch(patch))
    }

    fn apply(self, profile: &mut Map<String, Value>) {
        for (name, value) in self.0 {
            if value.is_null() {
                profile.remove(name);
            } else {
                profile.insert(name.to_owned(), value);
            }
        }
    }
}

impl Kind {
    fn check(&self, name: &'static str, value: &Value) -> Result<(), ApiError> {
        let short = |max: &usize| value.as_str().is_some_and(|text| text.len() <= *max);
        let (good, wanted) = match self {
            Kind::Text(max) => (short(max), format!("a text of at most {max} bytes")),
            Kind::TextOrNumber(max) => (
                short(max) || value.is_u64(),
                format!("a text of at most {max} bytes or a whole number"),
            ),
            Kind::Word(words) => (
                value.as_str().is_some_and(|word| words.contains(&word)),
                format!("one of {}", words.join(", ")),
            ),
            Kind::User => {
                (value.as_str().and_then(UserId::parse).is_some(), "a user id".to_owned())
            }
            Kind::Any => (true, String::new()),
        };
        if good || value.is_null() {
            return Ok(());
        }
        Err(ApiError::invalid(name, format!("must be {wanted}, or null to clear it")))
    }
}

/// `PUT /v1/users/{id}`: creates the user (201) or changes it (200); answers with the whole user
/// once that is durable. Fields that are absent stay as they are.
pub async fn put(
    _: MayWrite,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
    fields: Fields,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let user = path_user(id)?;
    let patch = Patch::read(fields)?;
    // Held until the write is answered: a read of another request sees all of it, or nothing.
    let _alone = shared.lock(user.slot()).lock().await;
    let mut profile = match shared.ask(Operation::GetUser { user: user.clone() }).await? {
        Answer::User { row, .. } => stored_profile(&row)?,
        Answer::NoSuchUser => Map::new(),
        _ => return Err(other_answer()),
    };
    patch.apply(&mut profile);
    let profile = Value::Object(profile).to_string();
    if profile.len() > PROFILE_BYTES_MAX {
        let message = format!("a profile may have {PROFILE_BYTES_MAX} bytes as JSON");
        return Err(ApiError::too_large(message));
    }
    match shared.ask(Operation::PutUser { user: user.clone(), profile }).await? {
        Answer::User { row, created } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            Ok((status, Json(shown(&user, &row)?)))
        }
        Answer::NoSuchUser => {
            Err(ApiError::conflict("the account was cancelled; its id is not given again"))
        }
        _ => Err(other_answer()),
    }
}

/// `GET /v1/users/{id}`.
pub async fn read(
    _: MayRead,
    State(shared): State<Arc<Shared>>,
    id: PathOf<String>,
) -> Result<Json<Value>, ApiError> {
    let user = path_user(id)?;
    match shared.ask(Operation::GetUser { user: user.clone() }).await? {
        Answer::User { row, .. } => Ok(Json(shown(&user, &row)?)),
        Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
        _ => Err(other_answer()),
    }
}

fn other_answer() -> ApiError {
    ApiError::internal("a user's home gave another answer than was asked for")
}

/// A user that was created by connecting has no profile yet.
fn stored_profile(row: &UserRow) -> Result<Map<String, Value>, ApiError> {
    if row.profile.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(&row.profile)
        .map_err(|_| ApiError::internal("a stored profile is not a JSON object"))
}

fn shown(user: &UserId, row: &UserRow) -> Result<Value, ApiError> {
    let mut shown = stored_profile(row)?;
    shown.insert("id".to_owned(), json!(user.as_str()));
    shown.insert("created_ts".to_owned(), json!(row.created_ms));
    if row.standing.hidden {
        shown.insert("state".to_owned(), json!("hide"));
    }
    if let Some(Ban { until_ms, reason }) = &row.standing.ban {
        let until = (*until_ms != u64::MAX).then_some(until_ms);
        shown.insert("ban".to_owned(), json!({ "until": until, "reason": reason }));
    }
    Ok(Value::Object(shown))
}
