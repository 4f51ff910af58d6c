//! `/v1/users/{id}`: profiles. What the fields may hold is said here, for the core they are one
//! opaque JSON object.

use ringpost_core::account::Ban;
use ringpost_core::event::{Answer, Operation as Ask, UserRow};
use ringpost_core::ids::UserId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::{Answered, At, Operation, Route, created, ok};
use super::error::ApiError;
use super::types::{Any, Change, Text, User, WordOrNumber};
use crate::token::Role;

/// A profile is read whenever its user connects.
const PROFILE_BYTES_MAX: usize = 64 << 10;

/// Creates a user, or changes one: fields that are absent stay as they are, null clears them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PutUser {
    id: User,
    /// How he is called.
    #[serde(default)]
    name: Change<Text<256>>,
    /// Where his picture is.
    #[serde(default)]
    avatar: Change<Text<2048>>,
    #[serde(default)]
    email: Change<Text<320>>,
    /// The name that he logs in with.
    #[serde(default)]
    account: Change<Text<256>>,
    /// What he says of himself.
    #[serde(default)]
    sign: Change<Text<1024>>,
    #[serde(default)]
    gender: Change<WordOrNumber<32>>,
    #[serde(default)]
    region: Change<Text<256>>,
    /// Under the `private_policy` contacts, users of one org may write to each other.
    #[serde(default)]
    org: Change<Text<256>>,
    #[serde(default)]
    role: Change<Role>,
    /// Whose program it is.
    #[serde(default)]
    owner: Change<User>,
    /// Kept for the operator's own programs.
    #[serde(default)]
    extra: Change<Any>,
}

/// What a user's profile holds.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Profile {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gender: Option<WordOrNumber<32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<Any>,
}

/// A user.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UserProfile")]
pub struct Shown {
    id: String,
    /// When the account was made, ms since 1970.
    created_ts: u64,
    /// Friends are told nothing of him.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ban: Option<BanShown>,
    #[serde(flatten)]
    profile: Profile,
}

/// What friends are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum State {
    Online,
    Hide,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct BanShown {
    /// Ms since 1970; null: for ever.
    until: Option<u64>,
    reason: String,
}

impl Operation for PutUser {
    const ROUTE: Route = Route::put("putUser", "/v1/users/{id}").answers(&[200, 201]);
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let user = self.id.0.clone();
        // Held until the write is answered: a read of another request sees all of it, or nothing.
        let _alone = at.shared.lock(user.slot()).lock().await;
        let mut profile = match at.shared.ask(Ask::GetUser { user: user.clone() }).await? {
            Answer::User { row, .. } => stored_profile(&row)?,
            Answer::NoSuchUser => Profile::default(),
            _ => return Err(other_answer()),
        };
        self.apply(&mut profile);
        let profile = serde_json::to_string(&profile)
            .map_err(|_| ApiError::internal("a profile is not JSON"))?;
        if profile.len() > PROFILE_BYTES_MAX {
            let message = format!("a profile may have {PROFILE_BYTES_MAX} bytes as JSON");
            return Err(ApiError::too_large(message));
        }
        match at.shared.ask(Ask::PutUser { user: user.clone(), profile }).await? {
            Answer::User { row, created: true } => created(shown(&user, &row)?),
            Answer::User { row, created: false } => ok(shown(&user, &row)?),
            Answer::NoSuchUser => {
                Err(ApiError::conflict("the account was cancelled; its id is not given again"))
            }
            _ => Err(other_answer()),
        }
    }
}

impl PutUser {
    fn apply(self, profile: &mut Profile) {
        self.name.map(|text| text.0).apply(&mut profile.name);
        self.avatar.map(|text| text.0).apply(&mut profile.avatar);
        self.email.map(|text| text.0).apply(&mut profile.email);
        self.account.map(|text| text.0).apply(&mut profile.account);
        self.sign.map(|text| text.0).apply(&mut profile.sign);
        self.gender.apply(&mut profile.gender);
        self.region.map(|text| text.0).apply(&mut profile.region);
        self.org.map(|text| text.0).apply(&mut profile.org);
        self.role.apply(&mut profile.role);
        self.owner.map(|user| user.0.to_string()).apply(&mut profile.owner);
        self.extra.apply(&mut profile.extra);
    }
}

/// A user's profile.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetUser {
    id: User,
}

impl Operation for GetUser {
    const ROUTE: Route = Route::get("getUser", "/v1/users/{id}");
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let user = self.id.0;
        match at.shared.ask(Ask::GetUser { user: user.clone() }).await? {
            Answer::User { row, .. } => ok(shown(&user, &row)?),
            Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
            _ => Err(other_answer()),
        }
    }
}

fn other_answer() -> ApiError {
    ApiError::internal("a user's home gave another answer than was asked for")
}

/// A user that was created by connecting has no profile yet.
fn stored_profile(row: &UserRow) -> Result<Profile, ApiError> {
    if row.profile.is_empty() {
        return Ok(Profile::default());
    }
    serde_json::from_str(&row.profile)
        .map_err(|_| ApiError::internal("a stored profile is not a JSON object"))
}

fn shown(user: &UserId, row: &UserRow) -> Result<Shown, ApiError> {
    let ban = row.standing.ban.as_ref().map(|Ban { until_ms, reason }| BanShown {
        until: (*until_ms != u64::MAX).then_some(*until_ms),
        reason: reason.clone(),
    });
    Ok(Shown {
        id: user.to_string(),
        created_ts: row.created_ms,
        state: row.standing.hidden.then_some(State::Hide),
        ban,
        profile: stored_profile(row)?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_is_stored_is_read_whatever_it_was_set_from() {
        let set = serde_json::json!({"id": "u", "name": "N", "gender": 1, "role": "service",
            "owner": "o", "extra": {"a": [1, null]}});
        let put: PutUser = serde_json::from_value(set).expect("good fields");
        let mut profile = Profile::default();
        put.apply(&mut profile);
        let stored = serde_json::to_value(&profile).expect("JSON");
        let expected: Value = serde_json::json!({"name": "N", "gender": 1, "role": "service",
            "owner": "o", "extra": {"a": [1, null]}});
        assert_eq!(stored, expected);
        let cleared = serde_json::json!({"id": "u", "name": null, "extra": null});
        let put: PutUser = serde_json::from_value(cleared).expect("good fields");
        put.apply(&mut profile);
        let stored = serde_json::to_value(&profile).expect("JSON");
        assert_eq!(stored, serde_json::json!({"gender": 1, "role": "service", "owner": "o"}));
    }
}
