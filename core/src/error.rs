//! Why a request is refused and why a connection ends, by blame.
//!
//! [`Refusal`] is told to the client in its dialect's words (protocols/README.md, *What bad input
//! gets*); [`WsError`](crate::ws::WsError) ends the connection with RFC 6455's code.

use thiserror::Error;

/// The rules refuse a request. Nothing was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refusal {
    /// The frame is not what the dialect says.
    #[error("bad request: {0}")]
    Malformed(&'static str),
    /// No such operation in the dialect.
    #[error("unknown type")]
    UnknownOperation,
    /// The receiver is not a user.
    #[error("no such user")]
    NoSuchUser,
    /// The sender is not a user any more.
    #[error("sender unknown")]
    SenderUnknown,
    /// Only friends, contacts or members of a common group may write to the receiver.
    #[error("not a friend")]
    NotAFriend,
    /// The receiver has blocked the sender.
    #[error("blocked")]
    Blocked,
    /// There is no such group, or not any more.
    #[error("no such group")]
    NoSuchGroup,
    /// The user is not a member of the group.
    #[error("not in the group")]
    NotInGroup,
    /// The user, or the whole group, is muted.
    #[error("muted")]
    Muted,
    /// Who asks may not do that.
    #[error("not permitted")]
    NotPermitted,
    /// No such message in the conversation, or too late to revoke it.
    #[error("no such message, or too late")]
    NotRevocable,
    /// Over a rate limit: see [`crate::rate::RateLimits`].
    #[error("rate limited")]
    RateLimited,
    /// The account was banned; the connection ends after this.
    #[error("this account is banned")]
    Banned,
    /// There is a group with this id already.
    #[error("the group exists")]
    GroupExists,
    /// One more would be over [`crate::limits::GROUP_MEMBERS_MAX`].
    #[error("the group is full")]
    GroupFull,
    /// Nobody has asked for what is accepted or rejected.
    #[error("no such request")]
    NoSuchRequest,
    /// Content over [`crate::limits::CONTENT_BYTES_MAX`].
    #[error("too large")]
    TooLarge,
    /// The log cannot take it now, or too much waits for this conversation.
    #[error("try again")]
    TryAgain,
}

/// An upgrade request is refused: the whole answer is one HTTP response.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HttpRefusal {
    /// Not HTTP/1.1, or not an upgrade request as RFC 6455 section 4.2.1 has it.
    #[error("400 Bad Request")]
    BadRequest,
    /// No route has this path.
    #[error("404 Not Found")]
    NotFound,
    /// A method other than GET.
    #[error("405 Method Not Allowed")]
    MethodNotAllowed,
    /// The head is over [`crate::limits::HANDSHAKE_BYTES_MAX`].
    #[error("413 Content Too Large")]
    TooLarge,
    /// `Sec-WebSocket-Version` other than 13; the answer names 13 (RFC 6455 section 4.2.2).
    #[error("426 Upgrade Required")]
    WrongVersion,
    /// Over a connection limit; the answer has `Retry-After`.
    #[error("429 Too Many Requests")]
    TooManyConnections,
    /// Over the rate of its address; the answer says when it will be below it again.
    #[error("429 Too Many Requests")]
    TooFast {
        /// Seconds.
        retry_after_s: u16,
    },
    /// Draining or overloaded; the answer has `Retry-After`.
    #[error("503 Service Unavailable")]
    Unavailable,
}
