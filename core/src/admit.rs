//! What an upgrade request is before its connection has a home: which dialect, who, and what to
//! answer. Pure functions; no account is read here.

use compact_str::CompactString;

use crate::dialect::imboy;
use crate::error::HttpRefusal;
use crate::ids::{Dialect, Slot, UserId};
use crate::session::{Hello, Login};
use crate::ws::extensions::negotiate;
use crate::ws::handshake::{Request, switching_protocols};

/// Checks tokens: a pure function of keys, time and token, given to the core by the process.
pub trait TokenCheck {
    /// `wall_ms` is the time to check against, ms since 1970.
    fn check(&self, wall_ms: u64, token: &str) -> Result<Claims, TokenFault>;
}

/// What a valid token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claims {
    /// Whose token it is.
    pub user: UserId,
    /// End of its validity, ms since 1970.
    pub expires_ms: u64,
    /// The device it is bound to, if it is.
    pub device: Option<CompactString>,
}

/// Why a token is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenFault {
    /// Properly signed, for a user, but past its time.
    Expired,
    /// Anything else: malformed, badly signed, wrong algorithm, missing claims, not valid yet.
    Invalid,
}

/// A path and the dialect that is spoken there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Compared byte for byte with the request's path.
    pub path: String,
    /// Spoken there.
    pub dialect: Dialect,
}

/// An accepted upgrade request, ready for [`crate::Input::Opened`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Who, as what.
    pub hello: Hello,
    /// The slot whose shard must get it; `None`: any shard, the login was refused.
    pub home: Option<Slot>,
}

/// Decides about a whole upgrade request that passed [`crate::ws::handshake::parse`]. `deflate`:
/// whether a client that offers compression gets it.
///
/// # Errors
/// The HTTP answer for a request that no dialect takes (404 for a path without a route).
pub fn admit(
    request: &Request<'_>,
    routes: &[Route],
    tokens: &dyn TokenCheck,
    wall_ms: u64,
    deflate: bool,
) -> Result<Admission, HttpRefusal> {
    let route = routes.iter().find(|route| route.path == request.path);
    let dialect = route.ok_or(HttpRefusal::NotFound)?.dialect;
    let (login, subprotocol): (Result<Login, _>, _) = match dialect {
        Dialect::Imboy => imboy::login(request, tokens, wall_ms),
    };
    let mut switching = Vec::with_capacity(192);
    let agreement = deflate.then(|| negotiate(request)).flatten();
    let answer = agreement.map(|agreement| agreement.answer());
    switching_protocols(request.key, subprotocol, answer.as_deref(), &mut switching);
    let deflate = agreement.map(|agreement| agreement.window());
    let home = login.as_ref().ok().map(|login| login.user.slot());
    Ok(Admission { hello: Hello { dialect, switching, deflate, login }, home })
}
