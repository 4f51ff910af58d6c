//! `/v1/friends…`, `/v1/users/{id}/friends`, `/v1/users/{id}/blocks/{other}`: what users are to each
//! other. What may be done is decided by the pair's home.

use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation as Ask};
use ringpost_core::ids::UserId;
use ringpost_core::limits::TERMS_TEXT_BYTES_MAX;
use ringpost_core::relations::{RelationOperation, RelationRow, Terms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::types::{After, Done, Limit, Page, Text, User};

type Word = Option<Text<TERMS_TEXT_BYTES_MAX>>;

/// `from` asks `to` to be friends. Somebody who has asked `from` is accepted; a second request
/// replaces the first.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AskFriend {
    from: User,
    to: User,
    message: Word,
    /// How they have found each other.
    source: Word,
    /// What `from` calls the other.
    remark: Word,
    role: Word,
    /// `from` does not want to see the other's moments.
    donotlookhim: Option<bool>,
    /// The other shall not see those of `from`.
    donotlethimlook: Option<bool>,
    tag: Word,
}

impl Operation for AskFriend {
    const ROUTE: Route = Route::post("askFriend", "/v1/friends/requests");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        different(&self.from, &self.to, "to")?;
        let terms = Terms {
            message: text(self.message),
            source: text(self.source),
            remark: text(self.remark),
            role: text(self.role),
            do_not_look: self.donotlookhim.unwrap_or_default(),
            do_not_show: self.donotlethimlook.unwrap_or_default(),
            tag: text(self.tag),
        };
        let (from, to) = (self.from.0, self.to.0);
        at.shared.relation(RelationOperation::Ask { from, to, terms }).await
    }
}

/// `to` accepts what `from` has asked.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptFriend {
    from: User,
    to: User,
    remark: Word,
    role: Word,
    donotlookhim: Option<bool>,
    donotlethimlook: Option<bool>,
}

impl Operation for AcceptFriend {
    const ROUTE: Route = Route::post("acceptFriend", "/v1/friends/accept");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        different(&self.from, &self.to, "to")?;
        let terms = Terms {
            remark: text(self.remark),
            role: text(self.role),
            do_not_look: self.donotlookhim.unwrap_or_default(),
            do_not_show: self.donotlethimlook.unwrap_or_default(),
            ..Terms::default()
        };
        let (from, to) = (self.from.0, self.to.0);
        at.shared.relation(RelationOperation::Accept { from, to, terms }).await
    }
}

/// `to` does not want to be a friend of `from`, who is not told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectFriend {
    from: User,
    to: User,
}

impl Operation for RejectFriend {
    const ROUTE: Route = Route::post("rejectFriend", "/v1/friends/reject");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        different(&self.from, &self.to, "to")?;
        let (from, to) = (self.from.0, self.to.0);
        at.shared.relation(RelationOperation::Reject { from, to }).await
    }
}

/// Ends a friendship, for both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndFriendship {
    a: User,
    b: User,
    /// Who ends it: one of the two.
    by: Option<User>,
}

impl Operation for EndFriendship {
    const ROUTE: Route = Route::delete("endFriendship", "/v1/friends/{a}/{b}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        if self.by.as_ref().is_some_and(|by| *by != self.a && *by != self.b) {
            return Err(ApiError::invalid("by", "must be one of the two"));
        }
        different(&self.a, &self.b, "b")?;
        let (one, other) = (self.a.0, self.b.0);
        at.shared.relation(RelationOperation::End { one, other }).await
    }
}

/// A user's friends, in order of their ids.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListFriends {
    id: User,
    after: Option<After<UserId>>,
    limit: Option<Limit<1000>>,
}

/// A friend, and what was said of him.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Friend {
    user: String,
    /// Ms since 1970.
    since_ts: u64,
    /// He cannot write.
    blocked: bool,
    source: String,
    remark: String,
    role: String,
    tag: String,
    donotlookhim: bool,
    donotlethimlook: bool,
}

impl Operation for ListFriends {
    const ROUTE: Route = Route::get("listFriends", "/v1/users/{id}/friends");
    type Answer = Page<Friend>;

    async fn perform(self, at: At) -> Result<Answered<Page<Friend>>, ApiError> {
        let (after, limit) = (self.after.map(|after| after.0), Limit::or_usual(self.limit));
        match at.shared.ask(Ask::Friends { user: self.id.0, after, limit }).await? {
            Answer::Friends(friends) => ok(Page::of(&friends, limit, shown, |(user, _)| user)),
            answer => Err(refused(answer)),
        }
    }
}

/// `other` cannot write to the user any more.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Block {
    id: User,
    other: User,
}

impl Operation for Block {
    const ROUTE: Route = Route::put("blockUser", "/v1/users/{id}/blocks/{other}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        at.shared.block(self.id, self.other, true).await
    }
}

/// `other` can write to the user again.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unblock {
    id: User,
    other: User,
}

impl Operation for Unblock {
    const ROUTE: Route = Route::delete("unblockUser", "/v1/users/{id}/blocks/{other}");
    type Answer = Done;

    async fn perform(self, at: At) -> Result<Answered<Done>, ApiError> {
        at.shared.block(self.id, self.other, false).await
    }
}

impl Shared {
    async fn block(&self, by: User, other: User, on: bool) -> Result<Answered<Done>, ApiError> {
        different(&by, &other, "other")?;
        self.relation(RelationOperation::Block { by: by.0, other: other.0, on }).await
    }

    async fn relation(&self, operation: RelationOperation) -> Result<Answered<Done>, ApiError> {
        match self.ask(Ask::Relation(Box::new(operation))).await? {
            Answer::Done => ok(Done {}),
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

fn different(one: &User, other: &User, field: &'static str) -> Result<(), ApiError> {
    if one == other {
        return Err(ApiError::invalid(field, "must be another user"));
    }
    Ok(())
}

fn text(word: Word) -> String {
    word.unwrap_or_default().0
}

fn shown((user, row): &(UserId, RelationRow)) -> Friend {
    let terms = row.terms.clone();
    Friend {
        user: user.to_string(),
        since_ts: row.friends_ms,
        blocked: row.blocked_ms > 0,
        source: terms.source,
        remark: terms.remark,
        role: terms.role,
        tag: terms.tag,
        donotlookhim: terms.do_not_look,
        donotlethimlook: terms.do_not_show,
    }
}
