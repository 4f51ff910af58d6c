//! `/v1/users/{id}/…` and `/v1/presence`: who is sent away, banned, cancelled, hidden, connected.

use ringpost_core::account::{AccountOperation, Ban, Connected, Presence};
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation as Ask};
use ringpost_core::ids::UserId;
use ringpost_core::limits::{BAN_REASON_BYTES_MAX, DEVICE_ID_BYTES_MAX};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::types::{Done, Page, Text, User};
use super::users::State;
use super::{Shared, wall_ms};

/// Users of one question about presence: each is asked at its home.
const PRESENCE_MAX: usize = 100;

/// Ends the connections of a user's device, or all of his.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    id: User,
    /// Without it: all devices.
    device: Option<Text<DEVICE_ID_BYTES_MAX>>,
}

impl Operation for Kick {
    const ROUTE: Route = Route::post("kickUser", "/v1/users/{id}/kick");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        let device = self.device.map(|device| device.0.into());
        at.shared.change(self.id.0, AccountOperation::Kick { device }).await
    }
}

/// Bans a user: he is told why, his connections end, and he cannot connect before that time.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BanUser {
    id: User,
    /// Ms since 1970; without it for ever.
    until: Option<u64>,
    /// What he is told.
    #[schemars(length(min = 1))]
    reason: Text<BAN_REASON_BYTES_MAX>,
}

impl Operation for BanUser {
    const ROUTE: Route = Route::post("banUser", "/v1/users/{id}/ban");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        let (until_ms, reason) = (self.until.unwrap_or(u64::MAX), self.reason.0);
        if reason.is_empty() {
            return Err(ApiError::invalid("reason", "must be given: it is shown"));
        }
        if until_ms <= wall_ms() {
            return Err(ApiError::invalid("until", "must be in the future, in ms since 1970"));
        }
        let ban = Some(Ban { until_ms, reason });
        at.shared.change(self.id.0, AccountOperation::Ban(ban)).await
    }
}

/// Ends a user's ban.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unban {
    id: User,
}

impl Operation for Unban {
    const ROUTE: Route = Route::delete("unbanUser", "/v1/users/{id}/ban");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        at.shared.change(self.id.0, AccountOperation::Ban(None)).await
    }
}

/// Says what a user's friends are told of him.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetState {
    id: User,
    state: State,
}

impl Operation for SetState {
    const ROUTE: Route = Route::put("setUserState", "/v1/users/{id}/state");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        at.shared.change(self.id.0, AccountOperation::Hide(self.state == State::Hide)).await
    }
}

/// Cancels an account. Answered when nobody can use it or write to it any more; friends are told,
/// and groups left, right after that.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    id: User,
    /// Who gets the groups that he owns; without it they are dissolved.
    transfer_to: Option<User>,
}

impl Operation for Cancel {
    const ROUTE: Route = Route::delete("cancelUser", "/v1/users/{id}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        let (user, heir) = (self.id.0, self.transfer_to.map(|heir| heir.0));
        if heir.as_ref() == Some(&user) {
            return Err(ApiError::invalid("transfer_to", "must be another user"));
        }
        // A change of the profile may be under way.
        let _alone = at.shared.lock(user.slot()).lock().await;
        at.shared.change(user, AccountOperation::Cancel { heir }).await
    }
}

/// The devices of a user that are connected.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    id: User,
}

/// A connected device.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Connection {
    dialect: &'static str,
    device: String,
    /// As the client says.
    platform: String,
    /// As the client says.
    version: String,
    connections: u32,
    /// Ms since 1970.
    since_ts: u64,
    /// What it has not acknowledged, what was not sent yet included.
    pending: u64,
}

impl Operation for Connections {
    const ROUTE: Route = Route::get("listConnections", "/v1/users/{id}/connections");
    type Answer = Page<Connection>;

    async fn perform(self, at: At) -> Result<Answered<Page<Connection>>, ApiError> {
        let operation = AccountOperation::Connections;
        match at.shared.ask(Ask::Account { user: self.id.0, operation }).await? {
            Answer::Connections(devices) => ok(Page::whole(devices.iter().map(shown).collect())),
            answer => Err(refused(answer)),
        }
    }
}

/// Who is online, of up to 100 users; unknown ones are offline.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetPresence {
    /// Given once for each.
    #[schemars(length(min = 1, max = 100))]
    user: Vec<User>,
}

/// What one user's friends may know.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PresenceOf {
    user: String,
    state: Seen,
}

/// What others may know of a user.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Seen {
    Online,
    Hide,
    Offline,
}

impl Operation for GetPresence {
    const ROUTE: Route = Route::get("getPresence", "/v1/presence");
    type Answer = Page<PresenceOf>;

    async fn perform(self, at: At) -> Result<Answered<Page<PresenceOf>>, ApiError> {
        if !(1..=PRESENCE_MAX).contains(&self.user.len()) {
            let message = format!("must be given 1 to {PRESENCE_MAX} times");
            return Err(ApiError::invalid("user", message));
        }
        let mut items = Vec::with_capacity(self.user.len());
        for User(user) in self.user {
            let operation = AccountOperation::Presence;
            let state = match at.shared.ask(Ask::Account { user: user.clone(), operation }).await? {
                Answer::Presence(Presence::Online) => Seen::Online,
                Answer::Presence(Presence::Hidden) => Seen::Hide,
                Answer::Presence(Presence::Offline) | Answer::NoSuchUser => Seen::Offline,
                answer => return Err(refused(answer)),
            };
            items.push(PresenceOf { user: user.to_string(), state });
        }
        ok(Page::whole(items))
    }
}

impl Shared {
    async fn change(
        &self,
        user: UserId,
        operation: AccountOperation,
    ) -> Result<Answered<Done>, ApiError> {
        match self.ask(Ask::Account { user, operation }).await? {
            Answer::Done => ok(Done {}),
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

fn shown(device: &Connected) -> Connection {
    Connection {
        dialect: device.dialect.name(),
        device: device.device.to_string(),
        platform: device.client.platform.to_string(),
        version: device.client.version.to_string(),
        connections: device.connections,
        since_ts: device.since_ms,
        pending: device.pending,
    }
}
