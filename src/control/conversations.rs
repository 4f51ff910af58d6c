//! `/v1/users/{id}/conversations` and `/v1/conversations/{conv}/read`: what a user has, how much of it
//! he has not read, and how far he has.

use ringpost_core::event::{Answer, Chat, Operation as Ask, Part};
use ringpost_core::ids::{ConvKey, Conversation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::messages::{self, Shown};
use super::types::{After, Limit, Page, User, next};

/// A user's conversations, in no particular order.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListConversations {
    id: User,
    after: Option<After<ConvKey>>,
    limit: Option<Limit<500>>,
}

/// A conversation of a user.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Conversation")]
pub struct ShownChat {
    conversation: String,
    /// The seq up to which he has read.
    read: u64,
    /// How many messages he has not read.
    unread: u64,
    /// The seq of the first unread message that mentions him.
    #[serde(skip_serializing_if = "Option::is_none")]
    mention: Option<u64>,
    last: Shown,
}

impl Operation for ListConversations {
    const ROUTE: Route = Route::get("listConversations", "/v1/users/{id}/conversations");
    type Answer = Page<ShownChat>;

    async fn perform(self, at: At) -> Result<Answered<Page<ShownChat>>, ApiError> {
        let (after, limit) = (self.after.map(|after| after.0), Limit::or_usual(self.limit));
        match at.shared.ask(Ask::Chats { user: self.id.0, after, limit }).await? {
            Answer::Chats(page) => {
                let items = page.chats.iter().map(shown).collect::<Result<_, _>>()?;
                ok(Page { items, next: page.next.as_ref().map(next) })
            }
            Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
            _ => Err(ApiError::internal("a user's home gave another answer than was asked for")),
        }
    }
}

/// Messages of a conversation, and what happened in it, in order of their seqs: those behind
/// `after_seq`, or the last ones before `before_seq`, or the last of all. There may be fewer than
/// asked for where they are long; there are no more when there is none.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListMessages {
    conversation: String,
    after_seq: Option<u64>,
    before_seq: Option<u64>,
    limit: Option<Limit<500>>,
}

impl Operation for ListMessages {
    const ROUTE: Route = Route::get("listMessages", "/v1/conversations/{conversation}/messages");
    type Answer = Page<Shown>;

    async fn perform(self, at: At) -> Result<Answered<Page<Shown>>, ApiError> {
        let part = match (self.after_seq, self.before_seq) {
            (Some(after), before) => Part::After { after, before },
            (None, before) => Part::Before(before),
        };
        let limit = Limit::or_usual(self.limit);
        let readings = Conversation::readings(&self.conversation);
        if readings.is_empty() {
            return Err(ApiError::invalid("conversation", "is no conversation's id"));
        }
        // One of them exists, but for users whose ids are made to confuse.
        for conversation in readings {
            match at.shared.ask(Ask::History { conversation, part, limit }).await? {
                Answer::Found(Some((conversation, page))) => {
                    let items = page.iter().map(|record| messages::shown(&conversation, &record));
                    return ok(Page::whole(items.collect()));
                }
                Answer::Found(None) => {}
                _ => return Err(ApiError::internal("a home gave another answer than asked for")),
            }
        }
        Err(ApiError::not_found("no such conversation"))
    }
}

/// A user has read everything up to a message. It never goes back.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkRead {
    conversation: String,
    user: User,
    #[schemars(range(min = 1))]
    seq: u64,
}

/// How far a user has read now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Read {
    conversation: String,
    read: u64,
}

impl Operation for MarkRead {
    const ROUTE: Route = Route::post("markRead", "/v1/conversations/{conversation}/read");
    type Answer = Read;

    async fn perform(self, at: At) -> Result<Answered<Read>, ApiError> {
        let (user, seq) = (self.user.0, self.seq);
        if seq == 0 {
            return Err(ApiError::invalid("seq", "must be a whole number, 1 or more"));
        }
        let conversation = Conversation::parse(&self.conversation, &user)
            .ok_or_else(|| ApiError::invalid("conversation", "is none that this user can have"))?;
        match at.shared.ask(Ask::Read { user, conversation, seq }).await? {
            Answer::Read(read) => ok(Read { conversation: self.conversation, read }),
            Answer::NoSuchUser => Err(ApiError::not_found("no such user")),
            Answer::Found(None) => Err(ApiError::not_found("the user has no such message there")),
            _ => Err(ApiError::internal("a user's home gave another answer than was asked for")),
        }
    }
}

fn shown(chat: &Chat) -> Result<ShownChat, ApiError> {
    let last = chat.last.get(0);
    let last = last.ok_or_else(|| ApiError::internal("a conversation without a last message"))?;
    Ok(ShownChat {
        conversation: chat.conversation.canonical(),
        read: chat.read,
        unread: chat.unread,
        mention: chat.mention,
        last: messages::shown(&chat.conversation, &last),
    })
}
