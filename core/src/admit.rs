//! What an upgrade request is before its connection has a home: which dialect, who, and what to
//! answer. Pure functions; no account is read here.

use compact_str::CompactString;

use crate::dialect::{Settings, imboy};
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

/// The token that an upgrade request brings: in the `authorization` header, with or without
/// `Bearer`, or under one of the query keys that clients use which cannot set headers. The first
/// one that is not empty.
pub fn token_of(request: &Request<'_>) -> Option<CompactString> {
    let header = request.header("authorization").map(CompactString::new);
    let query = |name| request.query_value(name).map(CompactString::from);
    let queries = ["token", "access_token", "authorization"].into_iter().filter_map(query);
    header.into_iter().chain(queries).find_map(|value| {
        // The scheme's name is without case (RFC 9110 section 11.1).
        let token = match value.trim().split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ if value.trim().eq_ignore_ascii_case("bearer") => "",
            _ => value.trim(),
        };
        (!token.is_empty()).then(|| CompactString::new(token))
    })
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

/// What the operator has said about upgrade requests.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// Which dialect is spoken where.
    pub routes: &'a [Route],
    /// What is spoken at every path without a route.
    pub otherwise: Option<Dialect>,
    /// Settings of the dialects.
    pub dialects: &'a Settings,
    /// Checks tokens.
    pub tokens: &'a dyn TokenCheck,
    /// Whether clients that offer compression get it.
    pub deflate: bool,
}

/// Decides about a whole upgrade request that passed [`crate::ws::handshake::parse`].
///
/// # Errors
/// The HTTP answer for a request that no dialect takes (404 for a path that has none).
pub fn admit(
    request: &Request<'_>,
    rules: &Rules<'_>,
    wall_ms: u64,
) -> Result<Admission, HttpRefusal> {
    let Rules { routes, otherwise, dialects, tokens, deflate } = *rules;
    let route = routes.iter().find(|route| route.path == request.path);
    let dialect = route.map(|route| route.dialect).or(otherwise).ok_or(HttpRefusal::NotFound)?;
    let (login, subprotocol): (Result<Login, _>, _) = match dialect {
        Dialect::Imboy => imboy::login(&dialects.imboy, request, tokens, wall_ms),
    };
    let mut switching = Vec::with_capacity(192);
    let agreement = deflate.then(|| negotiate(request)).flatten();
    let answer = agreement.map(|agreement| agreement.answer());
    switching_protocols(request.key, subprotocol, answer.as_deref(), &mut switching);
    let deflate = agreement.map(|agreement| agreement.window());
    let home = login.as_ref().ok().map(|login| login.user.slot());
    Ok(Admission { hello: Hello { dialect, switching, deflate, login }, home })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::handshake::{key, parse, upgrade_request};

    fn token(target: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut bytes = Vec::new();
        upgrade_request("h", target, headers, &key([0; 16]), &mut bytes);
        let (request, _) = parse(&bytes).expect("a proper request").expect("all of it");
        token_of(&request).map(String::from)
    }

    #[test]
    fn a_token_rides_where_clients_put_it() {
        for (target, headers, found) in [
            ("/", &[("authorization", "t1")][..], Some("t1")),
            ("/", &[("Authorization", "Bearer t1")], Some("t1")),
            ("/", &[("AUTHORIZATION", "bEaReR   t1 ")], Some("t1")),
            ("/?token=t1", &[], Some("t1")),
            ("/?access_token=t1", &[], Some("t1")),
            ("/?authorization=t1", &[], Some("t1")),
            ("/?authorization=Bearer%20t1", &[], Some("t1")),
            ("/?x=1&token=Bearer+t1", &[], Some("t1")),
            ("/?token=t1", &[("authorization", "t2")], Some("t2")),
            ("/?authorization=t3&access_token=t2&token=t1", &[], Some("t1")),
            // Empty ones are those of clients that have none there.
            ("/?token=t1", &[("authorization", "")], Some("t1")),
            ("/?token=&access_token=t2", &[("authorization", "Bearer ")], Some("t2")),
            ("/?token=", &[], None),
            ("/", &[("token", "t1"), ("cookie", "token=t1")], None),
        ] {
            assert_eq!(token(target, headers).as_deref(), found, "{target} {headers:?}");
        }
    }
}
