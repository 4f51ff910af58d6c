//! Who may use the API: keys of which only hashes are known, each with its scopes.
//!
//! The keys are long and random, so that a fast hash is right; comparisons take the same time
//! whatever they find.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::config::{ApiKey, Scope};

/// The keys that are valid.
#[derive(Clone, Debug)]
pub struct ApiKeys(Vec<ApiKey>);

impl ApiKeys {
    /// The configured keys; with none configured, the generated one that the closure fetches, with
    /// every scope.
    ///
    /// # Errors
    /// The closure's.
    pub fn new<E>(
        configured: &[ApiKey],
        generated: impl FnOnce() -> Result<String, E>,
    ) -> Result<ApiKeys, E> {
        if !configured.is_empty() {
            return Ok(ApiKeys(configured.to_vec()));
        }
        let hash = Sha256::digest(generated()?.as_bytes()).into();
        let scopes = Scope::ALL.to_vec();
        Ok(ApiKeys(vec![ApiKey { name: "generated".to_owned(), hash, scopes }]))
    }

    /// Whose key the request carries.
    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let missing = || ApiError::unauthorized("needs Authorization: Bearer and an API key");
        let value = headers.get(header::AUTHORIZATION).ok_or_else(missing)?;
        let value = value.as_bytes();
        // The scheme's name is without case (RFC 9110 section 11.1).
        let (scheme, key) = value.split_at_checked(7).ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(missing());
        }
        let hash: [u8; 32] = Sha256::digest(key.trim_ascii()).into();
        let mut found = None;
        for (index, known) in self.0.iter().enumerate() {
            if same(&hash, &known.hash) {
                found = Some(index);
            }
        }
        let key = &self.0[found.ok_or_else(|| ApiError::unauthorized("unknown API key"))?];
        Ok(Caller { name: key.name.clone(), scopes: key.scopes.clone() })
    }
}

/// Compares without stopping at the first difference.
fn same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

/// Whoever made a request: a valid key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The key's name, for the log.
    pub name: String,
    scopes: Vec<Scope>,
}

impl Caller {
    /// Refuses when the key does not have the scope.
    pub fn must(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.contains(&scope) { Ok(()) } else { Err(ApiError::forbidden(scope.name())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, StatusCode};
    use axum::response::IntoResponse;

    fn caller(keys: &ApiKeys, authorization: Option<&str>) -> Result<Caller, ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("ASCII"));
        }
        keys.caller(&headers)
    }

    fn configured(name: &str, key: &str, scopes: &[Scope]) -> ApiKey {
        let hash = Sha256::digest(key.as_bytes()).into();
        ApiKey { name: name.to_owned(), hash, scopes: scopes.to_vec() }
    }

    #[test]
    fn the_key_that_was_sent_is_found() {
        let keys = ApiKeys::new(
            &[configured("r", "key-r", &[Scope::Read]), configured("w", "key-w", &[Scope::Write])],
            || -> Result<String, ()> { unreachable!("keys are configured") },
        )
        .expect("no closure is called");
        let reader = caller(&keys, Some("Bearer key-r")).expect("known");
        assert_eq!(reader.name, "r");
        assert_eq!(reader.must(Scope::Read), Ok(()));
        assert_eq!(reader.must(Scope::Write), Err(ApiError::forbidden("write")));
        assert_eq!(caller(&keys, Some("bearer key-w")).expect("known").name, "w");
        for wrong in
            ["Bearer", "Bearer ", "Bearer key", "Bearer key-rr", "Basic key-r", "key-r", ""]
        {
            let error = caller(&keys, Some(wrong)).expect_err(wrong);
            assert_eq!(error.into_response().status(), StatusCode::UNAUTHORIZED, "{wrong}");
        }
        assert!(caller(&keys, None).is_err());
    }

    #[test]
    fn the_generated_key_may_everything() {
        let keys = ApiKeys::new(&[], || Ok::<_, ()>("made".to_owned())).expect("made");
        let caller = caller(&keys, Some("Bearer made")).expect("known");
        for scope in Scope::ALL {
            assert_eq!(caller.must(scope), Ok(()));
        }
    }
}
