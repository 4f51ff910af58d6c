//! `/v1/messages…`: messages in a user's name, by their ids, and taken back.
//!
//! Content is the neutral model, or a dialect's own words, which other dialects read into it; both
//! are checked here, so that what is stored can be shown.

use bytes::Bytes;
use compact_str::CompactString;
use ringpost_core::command::{Action, Mentioned};
use ringpost_core::content::{Body, Content, Mentions, Reply, Segment};
use ringpost_core::dialect::Settings;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Operation as Ask, Post};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{Conversation, MessageId, UserId};
use ringpost_core::limits::{
    CLIENT_ID_BYTES_MAX, CONTENT_BYTES_MAX, DUE_AFTER_MS_MAX, MENTIONS_MAX,
};
use ringpost_core::record::{Kind, Page, Record};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Shared;
use super::catalogue::{Answered, At, Operation, Route, created, ok};
use super::content::{Given as GivenSchema, Quoted};
use super::error::ApiError;
use super::types::{Group, Message, Text, User};

/// Characters of a quoted message that go with the answer to it.
const QUOTE_CHARS_MAX: usize = 200;

/// Stores a message in a user's name and delivers it, now or later.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    from: User,
    to: To,
    #[schemars(with = "GivenSchema")]
    content: Value,
    /// Whom it is addressed to among those who get it: user ids, or `all`.
    mentions: Option<Vec<Named>>,
    /// The message of the same conversation that it answers.
    reply_to: Option<Message>,
    /// A request with the same one is the same message.
    client_id: Option<Text<CLIENT_ID_BYTES_MAX>>,
    /// Seconds until it is stored and delivered, up to ten days.
    #[schemars(range(min = 1, max = 864_000))]
    deliver_after_s: Option<u64>,
}

/// Who gets a message.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum To {
    User(User),
    Group(Group),
}

/// A user id, or `all`.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
struct Named(#[schemars(regex(pattern = NAMED))] String);

const NAMED: &str = "^(?!(service|direct|0)$)(?!(single|group|notice|channel):)\
                     [A-Za-z0-9_.@:-]{1,64}$";

/// Where a message is stored.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SentMessage")]
pub struct Sent {
    id: String,
    conversation: String,
    /// Null until a scheduled message is due.
    seq: Option<u64>,
    /// Ms since 1970; null until a scheduled message is due.
    server_ts: Option<u64>,
    /// When a scheduled message is due, ms since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
}

impl Operation for SendMessage {
    const ROUTE: Route = Route::post("sendMessage", "/v1/messages").answers(&[201]);
    type Answer = Sent;

    async fn perform(self, At { shared, .. }: At) -> Result<Answered<Sent>, ApiError> {
        let sender = self.from.0;
        let conversation = match self.to {
            To::User(user) => Conversation::private(&sender, &user.0),
            To::Group(group) => Conversation::Group(group.0),
        };
        let content = content(self.content)?;
        let named = mentioned(self.mentions.unwrap_or_default())?;
        let after_ms = self.deliver_after_s.map(after_ms).transpose()?.unwrap_or(0);
        let name = conversation.canonical();
        let reply_to = match self.reply_to {
            Some(id) => Some(quoted(&shared, &conversation, id.0).await?),
            None => None,
        };
        let (kind, content, mentions) = composed(content, named, reply_to)?;
        // The sender's own devices pass it, wherever they are.
        let action =
            Action::Send { kind, sender_ms: None, content, copies: true, mentions, after_ms };
        let client_id = CompactString::from(self.client_id.unwrap_or_default().0);
        let post = Post { conversation, sender, client_id, action };
        match shared.ask(Ask::Post(Box::new(post))).await? {
            Answer::Stored(stored) => {
                let due = stored.seq == 0;
                created(Sent {
                    id: stored.id.to_string(),
                    conversation: name,
                    seq: (!due).then_some(stored.seq),
                    server_ts: (!due).then_some(stored.time_ms),
                    due: due.then_some(stored.time_ms),
                })
            }
            answer => Err(refused(answer)),
        }
    }
}

/// A message by its id; a scheduled one is there when it is due.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetMessage {
    id: Message,
}

impl Operation for GetMessage {
    const ROUTE: Route = Route::get("getMessage", "/v1/messages/{id}");
    type Answer = Shown;

    async fn perform(self, at: At) -> Result<Answered<Shown>, ApiError> {
        let (conversation, page) = find(&at.shared, self.id.0).await?;
        let record = only(&page)?;
        ok(shown(&conversation, &record))
    }
}

/// Takes a message back, whoever wrote it and however long ago.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeMessage {
    id: Message,
    /// In whose name; its author's without it.
    by: Option<User>,
}

/// A message that was taken back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Revoked {
    id: String,
    conversation: String,
    /// When it was, ms since 1970.
    server_ts: u64,
}

impl Operation for RevokeMessage {
    const ROUTE: Route = Route::post("revokeMessage", "/v1/messages/{id}/revoke");
    type Answer = Revoked;

    async fn perform(self, At { shared, .. }: At) -> Result<Answered<Revoked>, ApiError> {
        let (conversation, page) = find(&shared, self.id.0).await?;
        let record = only(&page)?;
        let author = UserId::parse(record.sender);
        let by = self.by.map(|by| by.0);
        let (Some(sender), false) = (by.or(author), record.kind == Kind::Event) else {
            return Err(ApiError::conflict("what happened cannot be taken back"));
        };
        let client_id = CompactString::from(record.id.to_string());
        let name = conversation.canonical();
        let action = Action::Revoke { by_operator: true };
        let post = Post { conversation, sender, client_id, action };
        match shared.ask(Ask::Post(Box::new(post))).await? {
            Answer::Stored(stored) => ok(Revoked {
                id: record.id.to_string(),
                conversation: name,
                server_ts: stored.time_ms,
            }),
            answer => Err(refused(answer)),
        }
    }
}

/// What the `content` of a request says.
enum Given {
    /// A dialect's own words.
    Raw(String),
    /// The neutral model.
    Neutral(Content),
}

/// The neutral model, or `{"raw": {"dialect": "imboy", "payload": …}}`.
fn content(content: Value) -> Result<Given, ApiError> {
    let Value::Object(mut content) = content else {
        return Err(ApiError::invalid("content", "must be an object with a kind, or raw"));
    };
    match content.get("raw") {
        // The kind `custom` has a member of that name, too.
        Some(_) if content.contains_key("kind") => {}
        Some(_) if content.len() > 1 => {
            return Err(ApiError::invalid("content", "has raw and something else"));
        }
        Some(_) => {
            let raw = content.remove("raw").unwrap_or_default();
            return Ok(Given::Raw(raw_payload(raw)?.to_string()));
        }
        None => {}
    }
    let text = Value::Object(content).to_string();
    let content = Content::from_json(&text).map_err(|error| {
        let field = if error.field.is_empty() {
            "content".to_owned()
        } else {
            format!("content.{}", error.field)
        };
        ApiError::invalid(field, error.problem)
    })?;
    Ok(Given::Neutral(content))
}

/// `deliver_after_s`, in ms.
fn after_ms(seconds: u64) -> Result<u64, ApiError> {
    let ms = seconds.saturating_mul(1_000);
    let most = DUE_AFTER_MS_MAX / 1_000;
    let wrong = || ApiError::invalid("deliver_after_s", format!("must be 1 to {most}"));
    (1..=DUE_AFTER_MS_MAX).contains(&ms).then_some(ms).ok_or_else(wrong)
}

fn mentioned(named: Vec<Named>) -> Result<Mentioned, ApiError> {
    let mut mentioned = Mentioned::default();
    for Named(user) in named {
        match user.as_str() {
            "all" => mentioned.everybody = true,
            user => mentioned.users.push(user_id("mentions", user)?),
        }
    }
    Ok(mentioned)
}

fn user_id(field: &'static str, id: &str) -> Result<UserId, ApiError> {
    UserId::parse(id).ok_or_else(|| ApiError::invalid(field, "has what is no user id"))
}

/// The message that another one answers, as it is quoted there.
async fn quoted(
    shared: &Shared,
    conversation: &Conversation,
    id: MessageId,
) -> Result<Reply, ApiError> {
    let wrong = |message: &'static str| ApiError::invalid("reply_to", message);
    let found = match shared.ask(Ask::Find { id }).await? {
        Answer::Found(found) => found.filter(|(place, _)| place == conversation),
        answer => return Err(refused(answer)),
    };
    let (_, page) = found.ok_or_else(|| wrong("is no message of this conversation"))?;
    let record = only(&page)?;
    let text = match record.kind {
        Kind::Event => return Err(wrong("is no message")),
        Kind::Revoked => "[message revoked]".to_owned(),
        Kind::Message | Kind::Neutral => said(&record, &shared.process.dialects)?,
    };
    let (id, author, time_ms) = (id.to_string(), record.sender.to_owned(), record.time_ms);
    Ok(Reply { id, author, time_ms, text: shortened(text) })
}

/// A message as readable text.
fn said(record: &Record<'_>, dialects: &Settings) -> Result<String, ApiError> {
    let content = std::str::from_utf8(record.content)
        .map_err(|_| ApiError::internal("a message's content is not UTF-8"))?;
    let body = match record.kind {
        Kind::Neutral => {
            Body::from_json(content).map_err(|_| ApiError::internal("not a content"))?
        }
        _ => dialects.parse(record.dialect, content),
    };
    Ok(body.content.to_text())
}

/// No more of a quoted text than an answer needs to be understood.
fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(QUOTE_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// What is stored: the kind of the record, its content, and whom it mentions.
fn composed(
    content: Given,
    mut mentioned: Mentioned,
    reply_to: Option<Reply>,
) -> Result<(Kind, Bytes, Option<Box<Mentioned>>), ApiError> {
    let (kind, text) = match content {
        Given::Raw(_) if mentioned != Mentioned::default() => {
            return Err(ApiError::invalid("mentions", "goes with a content of the neutral model"));
        }
        Given::Raw(_) if reply_to.is_some() => {
            return Err(ApiError::invalid("reply_to", "goes with a content of the neutral model"));
        }
        Given::Raw(payload) => (Kind::Message, payload.into_bytes()),
        Given::Neutral(content) => {
            mention_inline(&content, &mut mentioned)?;
            mentioned.users.sort_unstable();
            mentioned.users.dedup();
            let users = mentioned.users.iter().map(UserId::to_string).collect();
            let mentions = Mentions { users, everybody: mentioned.everybody };
            let mut out = Vec::new();
            Body { content, mentions, reply_to }.write_json(&mut out);
            (Kind::Neutral, out)
        }
    };
    if mentioned.users.len() > MENTIONS_MAX {
        return Err(ApiError::too_large(format!("a message may name {MENTIONS_MAX} users")));
    }
    if text.len() > CONTENT_BYTES_MAX {
        let message = format!("a message may have {CONTENT_BYTES_MAX} bytes of content as JSON");
        return Err(ApiError::too_large(message));
    }
    let mentions = (mentioned != Mentioned::default()).then(|| Box::new(mentioned));
    Ok((kind, Bytes::from(text), mentions))
}

/// Whom the parts of a rich content mention, is mentioned.
fn mention_inline(content: &Content, mentioned: &mut Mentioned) -> Result<(), ApiError> {
    let Content::Rich(segments) = content else { return Ok(()) };
    for segment in segments {
        match segment {
            Segment::Mention { user: Some(user), .. } => {
                mentioned.users.push(user_id("content.segments", user)?);
            }
            Segment::Mention { user: None, .. } => mentioned.everybody = true,
            _ => {}
        }
    }
    Ok(())
}

fn raw_payload(raw: Value) -> Result<Value, ApiError> {
    let wanted = || {
        ApiError::invalid("content.raw", "must be {\"dialect\": \"imboy\", \"payload\": any JSON}")
    };
    let Value::Object(mut raw) = raw else { return Err(wanted()) };
    let (dialect, payload) = (raw.remove("dialect"), raw.remove("payload"));
    match (dialect.as_ref().and_then(Value::as_str), payload) {
        (Some("imboy"), Some(payload)) if raw.is_empty() => Ok(payload),
        _ => Err(wanted()),
    }
}

async fn find(shared: &Shared, id: MessageId) -> Result<(Conversation, Page), ApiError> {
    match shared.ask(Ask::Find { id }).await? {
        Answer::Found(Some(found)) => Ok(found),
        Answer::Found(None) => Err(ApiError::not_found("no such message")),
        answer => Err(refused(answer)),
    }
}

fn only(page: &Page) -> Result<Record<'_>, ApiError> {
    page.get(0).ok_or_else(|| ApiError::internal("a message that is known is not there"))
}

/// A message, or what happened, as the API shows it.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Message")]
pub struct Shown {
    id: String,
    conversation: String,
    seq: u64,
    /// Who has written or caused it; empty: nobody.
    from: String,
    /// Ms since 1970.
    server_ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<GivenSchema>")]
    content: Option<Value>,
    /// User ids, and `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<String>>")]
    mentions: Option<Value>,
    /// The message that it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Quoted>")]
    reply_to: Option<Value>,
    /// It was taken back, and has no content any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<bool>,
    /// What happened, where this is no message.
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    /// The sender's own id for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
}

/// A record as the API shows it.
pub fn shown(conversation: &Conversation, record: &Record<'_>) -> Shown {
    let client_id = (!record.client_id.is_empty()).then(|| record.client_id.to_owned());
    let mut shown = Shown {
        id: record.id.to_string(),
        conversation: conversation.canonical(),
        seq: record.seq,
        from: record.sender.to_owned(),
        server_ts: record.time_ms,
        client_id,
        ..Shown::default()
    };
    let parsed = || serde_json::from_slice(record.content).unwrap_or(Value::Null);
    match record.kind {
        Kind::Message => {
            let raw = json!({ "dialect": record.dialect.name(), "payload": parsed() });
            shown.content = Some(json!({ "raw": raw }));
        }
        Kind::Neutral => {
            let mut content = parsed();
            let mut beside = |name| content.as_object_mut().and_then(|it| it.remove(name));
            shown.mentions = beside("mentions");
            shown.reply_to = beside("reply_to");
            shown.content = Some(content);
        }
        Kind::Revoked => shown.revoked = Some(true),
        Kind::Event => shown.event = Some(event_name(record.content)),
    }
    shown
}

fn event_name(content: &[u8]) -> &'static str {
    match Happened::decode(content) {
        Some(Happened::MembersJoined { .. }) => "members_joined",
        Some(Happened::MembersLeft { .. }) => "members_left",
        Some(Happened::Dissolved) => "dissolved",
        Some(Happened::AliasChanged { .. }) => "alias_changed",
        Some(Happened::Revoked { .. }) => "revoked",
        Some(Happened::FriendAsked(_)) => "friend_asked",
        Some(Happened::FriendAccepted(_)) => "friend_accepted",
        Some(Happened::AccountCancelled) => "account_cancelled",
        Some(Happened::Noticed { .. }) => "noticed",
        None => "unknown",
    }
}

/// A refusal as a status.
fn refused(answer: Answer) -> ApiError {
    let Answer::Refused(refusal) = answer else {
        return ApiError::internal("a conversation's home gave another answer than was asked for");
    };
    match refusal {
        Refusal::NoSuchUser => ApiError::not_found("the receiver does not exist"),
        Refusal::SenderUnknown => ApiError::not_found("the sender does not exist"),
        Refusal::NoSuchGroup => ApiError::not_found("no such group, or it is dissolved"),
        Refusal::NotInGroup => ApiError::not_permitted("the sender is not in the group"),
        Refusal::NotAFriend => ApiError::not_permitted("the sender is not a friend"),
        Refusal::Blocked => ApiError::not_permitted("the receiver has blocked the sender"),
        Refusal::Muted => ApiError::not_permitted("the sender is muted in the group"),
        Refusal::NotRevocable => ApiError::not_found("no such message"),
        Refusal::TryAgain => ApiError::unavailable("try again"),
        _ => ApiError::internal("a conversation's home refused for a reason of clients"),
    }
}
