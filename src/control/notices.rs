//! `POST /v1/notices`: business notices to some users, each stored in his notices, or to everybody,
//! stored once; delivered until acknowledged.

use std::sync::Arc;

use ringpost_core::command::NoticeOperation;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation as Ask};
use ringpost_core::happened::{Happened, NoticeData};
use ringpost_core::ids::UserId;
use ringpost_core::limits::{
    NOTICE_BYTES_MAX, NOTICE_EXT_BYTES_MAX, NOTICE_ID_BYTES_MAX, NOTICE_WORD_BYTES_MAX,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::Shared;
use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::types::{Any, Int32, Text, Users};

/// Users of one request.
const USERS_MAX: usize = 1_000;
/// Homes asked at a time: one request leaves room for others.
const ASKS: usize = 64;
/// What the lists of notices begin with, in xxim.
const LIST_PREFIX: &str = "notice:";

type Word = Option<Text<NOTICE_WORD_BYTES_MAX>>;

/// Sends a notice to users, or to everybody. With an `id`, a request that is repeated is not stored
/// again. imboy's clients get `kind` as `msg_type` and the content. For xxim's clients `conv_id`,
/// `unread`, `content_type`, `ext` and `options` are kept with it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendNotice {
    /// Whom it is for; or `all`.
    to: Option<Users<USERS_MAX>>,
    /// It is for everybody who is a user now.
    all: Option<bool>,
    /// The sender's own.
    id: Option<Text<NOTICE_ID_BYTES_MAX>>,
    stream: Word,
    #[schemars(length(min = 1))]
    kind: Text<NOTICE_WORD_BYTES_MAX>,
    title: Word,
    #[serde(default)]
    content: Any,
    /// `notice:` and a name: the list it appears in.
    conv_id: Word,
    unread: Option<Unread>,
    content_type: Option<Int32>,
    ext: Option<Text<NOTICE_EXT_BYTES_MAX>>,
    options: Option<Options>,
    /// Not available yet.
    once: Option<bool>,
}

/// What a notice does to the count of its list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Unread {
    count: Int32,
    /// The count is this from now on, not this much more.
    absolute: Option<bool>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The client keeps it.
    storage_for_client: Option<bool>,
    /// It is shown as the last one of its list.
    update_conv_msg: Option<bool>,
}

/// Who has not got it, and its id where there is one for all.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Sent {
    /// Those of `to` who are no users; the others have it.
    unknown: Vec<String>,
    /// Of a notice to everybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl Operation for SendNotice {
    const ROUTE: Route = Route::post("sendNotice", "/v1/notices");
    type Answer = Sent;

    async fn perform(mut self, at: At) -> Result<Answered<Sent>, ApiError> {
        let (to, all) = (self.to.take(), self.all.unwrap_or(false));
        if to.is_some() && all {
            return Err(ApiError::invalid("all", "cannot be true beside `to`"));
        }
        let to = to.filter(|to| !to.0.is_empty());
        if to.is_none() && !all {
            return Err(ApiError::invalid("to", "must be a list of user ids"));
        }
        let notice = self.notice()?;
        match to {
            Some(to) => {
                ok(Sent { unknown: send_to_each(&at.shared, to.0, &notice).await?, id: None })
            }
            None => send_to_everybody(&at.shared, notice).await,
        }
    }
}

impl SendNotice {
    fn notice(self) -> Result<NoticeOperation, ApiError> {
        if self.kind.0.is_empty() {
            return Err(ApiError::invalid("kind", "must be a word"));
        }
        let content = self.content.0.to_string();
        if content.len() > NOTICE_BYTES_MAX {
            let message = format!("may have {NOTICE_BYTES_MAX} bytes as JSON");
            return Err(ApiError::invalid("content", message));
        }
        let conv_id = self.conv_id.unwrap_or_default().0;
        if !conv_id.is_empty() && conv_id.strip_prefix(LIST_PREFIX).is_none_or(str::is_empty) {
            return Err(ApiError::invalid("conv_id", "must be notice: and a name"));
        }
        // It means: never stored, and pushed to those of xxim's clients that are connected. There are
        // none yet, and everything else is delivered until acknowledged.
        if self.once.unwrap_or(false) {
            return Err(ApiError::invalid(
                "once",
                "only xxim's clients know it: not available yet",
            ));
        }
        let options = self.options.unwrap_or_default();
        let data = NoticeData {
            conv_id,
            ext: self.ext.unwrap_or_default().0,
            unread: self.unread.map(|unread| (unread.count.0, unread.absolute.unwrap_or(false))),
            content_type: self.content_type.map(|number| number.0),
            storage_for_client: options.storage_for_client.unwrap_or(false),
            update_conv: options.update_conv_msg.unwrap_or(false),
        };
        let data = (data != NoticeData::default()).then(|| Box::new(data));
        let mut encoded = Vec::new();
        let (stream, title) = (self.stream.unwrap_or_default().0, self.title.unwrap_or_default().0);
        Happened::Noticed { stream, kind: self.kind.0, title, content, data }.encode(&mut encoded);
        let id = self.id.unwrap_or_default().0;
        Ok(NoticeOperation { id: id.into(), content: encoded.into() })
    }
}

/// One append, whoever there is.
async fn send_to_everybody(
    shared: &Shared,
    notice: NoticeOperation,
) -> Result<Answered<Sent>, ApiError> {
    match shared.ask(Ask::NoticeToAll { notice: Box::new(notice) }).await? {
        Answer::Stored(stored) => ok(Sent { unknown: vec![], id: Some(stored.id.to_string()) }),
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
                let asked = Ask::Notice { user: user.clone(), notice };
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
