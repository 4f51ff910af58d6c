//! Reads a JSON body field by field, so that every refusal names its field.
//!
//! Every field must be asked for: what is left over at the end is unknown, and refused.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, Path, Query, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ringpost_core::ids::UserId;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

/// A body that is a JSON object, and which of its fields are still to be read.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Fields, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(refusal)?;
        Fields::parse(&bytes)
    }
}

fn refusal(rejection: BytesRejection) -> ApiError {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ApiError::too_large(format!("a body may have {} bytes", super::BODY_BYTES_MAX))
        }
        _ => ApiError::bad_request("the body did not come whole"),
    }
}

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Fields, ApiError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(ApiError::bad_request("the body must be a JSON object")),
            Err(error) => Err(ApiError::bad_request(format!("the body is not JSON: {error}"))),
        }
    }

    /// Takes a field out; `None` when it is absent. Null is a value here.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.0.remove(name)
    }

    /// A text of `bytes_max` bytes at most; null and absent are `None`.
    pub fn text(
        &mut self,
        name: &'static str,
        bytes_max: usize,
    ) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= bytes_max => Ok(Some(text)),
            Some(_) => {
                Err(ApiError::invalid(name, format!("must be a text of at most {bytes_max} bytes")))
            }
        }
    }

    /// A whole number; null and absent are `None`.
    pub fn number(&mut self, name: &'static str) -> Result<Option<u64>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_u64();
                let wrong = || ApiError::invalid(name, "must be a whole number, not below 0");
                number.map(Some).ok_or_else(wrong)
            }
        }
    }

    /// One of some words; null and absent are `None`.
    pub fn word<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        words: &str,
    ) -> Result<Option<T>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let wrong = |_| ApiError::invalid(name, format!("must be one of {words}"));
                serde_json::from_value(value).map(Some).map_err(wrong)
            }
        }
    }

    /// A user id, which must be there.
    pub fn user(&mut self, name: &'static str) -> Result<UserId, ApiError> {
        match self.take(name) {
            Some(Value::String(id)) => user_id(name, &id),
            _ => Err(ApiError::invalid(name, USER_ID)),
        }
    }

    /// A user id; null and absent are `None`.
    pub fn optional_user(&mut self, name: &'static str) -> Result<Option<UserId>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) => user_id(name, &id).map(Some),
            Some(_) => Err(ApiError::invalid(name, USER_ID)),
        }
    }

    /// A list of at most `count_max` different user ids; null and absent are `None`.
    pub fn users(
        &mut self,
        name: &'static str,
        count_max: usize,
    ) -> Result<Option<Vec<UserId>>, ApiError> {
        let list = match self.take(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(list)) if list.len() <= count_max => list,
            Some(_) => {
                let message = format!("must be a list of at most {count_max} user ids");
                return Err(ApiError::invalid(name, message));
            }
        };
        let mut users = Vec::with_capacity(list.len());
        for id in &list {
            users.push(user_id(name, id.as_str().unwrap_or_default())?);
        }
        users.sort_unstable();
        users.dedup();
        Ok(Some(users))
    }

    /// A text of `bytes_max` bytes at most; null is an empty one, absent is `None`.
    pub fn text_or_null(
        &mut self,
        name: &'static str,
        bytes_max: usize,
    ) -> Result<Option<String>, ApiError> {
        if self.0.get(name) == Some(&Value::Null) {
            self.take(name);
            return Ok(Some(String::new()));
        }
        self.text(name, bytes_max)
    }

    /// True or false; null and absent are `None`.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }

    /// An object; null and absent are `None`.
    pub fn object(&mut self, name: &'static str) -> Result<Option<Fields>, ApiError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Fields(fields))),
            Some(_) => Err(ApiError::invalid(name, "must be an object")),
        }
    }

    /// Every field has been asked for: the first one that is left is unknown.
    pub fn end(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(ApiError::unknown_field(name)),
            None => Ok(()),
        }
    }
}

const USER_ID: &str =
    "must be a user id: 1 to 64 of A-Z a-z 0-9 _ . @ : - and none of the reserved words";

/// The user id in a field or in the path.
pub fn user_id(field: &'static str, id: &str) -> Result<UserId, ApiError> {
    UserId::parse(id).ok_or_else(|| ApiError::invalid(field, USER_ID))
}

/// Parts of a path.
pub type PathOf<T> = Result<Path<T>, PathRejection>;
/// A query, each name once.
pub type Params = Result<Query<BTreeMap<String, String>>, QueryRejection>;

/// The one user id in a path.
pub fn path_user(id: PathOf<String>) -> Result<UserId, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::invalid("id", "is not percent-encoded UTF-8"))?;
    user_id("id", &id)
}

/// The two user ids in a path.
pub fn path_users(path: PathOf<(String, String)>) -> Result<(UserId, UserId), ApiError> {
    let Path((one, other)) =
        path.map_err(|_| ApiError::invalid("id", "is not percent-encoded UTF-8"))?;
    Ok((user_id("id", &one)?, user_id("other", &other)?))
}

/// The parameters of a query, each to be asked for: what is left is unknown, and refused.
#[derive(Debug)]
pub struct Parameters(BTreeMap<String, String>);

impl Parameters {
    /// All of them.
    pub fn of(params: Params) -> Result<Parameters, ApiError> {
        let Query(params) = params.map_err(|_| ApiError::bad_request("the query is malformed"))?;
        Ok(Parameters(params))
    }

    /// Takes one out.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.0.remove(name)
    }

    /// A user id.
    pub fn user(&mut self, name: &'static str) -> Result<Option<UserId>, ApiError> {
        self.take(name).map(|id| user_id(name, &id)).transpose()
    }

    /// A whole number, `min..=max`.
    pub fn number(
        &mut self,
        name: &'static str,
        min: u32,
        max: u32,
    ) -> Result<Option<u32>, ApiError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        let wrong = || ApiError::invalid(name, format!("must be a number, {min} to {max}"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Those of a list, and nothing else: what it begins behind, which `opened` reads from the `next`
    /// of an earlier answer, and how many there may be.
    pub fn page<T>(
        mut self,
        opened: impl Fn(&str) -> Result<T, ApiError>,
        limit: u32,
        most: u32,
    ) -> Result<(Option<T>, u32), ApiError> {
        let after = self.take("after").map(|after| opened(&after)).transpose()?;
        let limit = self.number("limit", 1, most)?.unwrap_or(limit);
        self.end()?;
        Ok((after, limit))
    }

    /// Every one has been asked for: the first that is left is unknown.
    pub fn end(self) -> Result<(), ApiError> {
        match self.0.into_keys().next() {
            Some(name) => Err(ApiError::unknown_field(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Role;

    fn fields(body: &str) -> Fields {
        Fields::parse(body.as_bytes()).expect("a JSON object")
    }

    #[test]
    fn a_body_is_an_object() {
        for body in ["", "{", "[]", "7", "null", "{\"a\":1}x", "\u{0}"] {
            assert!(Fields::parse(body.as_bytes()).is_err(), "{body:?}");
        }
        assert!(Fields::parse(b"{\"a\":\"\xff\"}").is_err(), "not UTF-8");
        // Deeper than anything we ask for: refused, not a full stack.
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(Fields::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused_with_their_field() {
        assert_eq!(fields(r#"{"a":"xy"}"#).text("a", 2), Ok(Some("xy".to_owned())));
        assert_eq!(fields(r#"{"a":null}"#).text("a", 2), Ok(None));
        assert_eq!(fields("{}").text("a", 2), Ok(None));
        assert!(fields(r#"{"a":"xyz"}"#).text("a", 2).is_err());
        assert!(fields(r#"{"a":1}"#).text("a", 2).is_err());
        assert_eq!(fields(r#"{"a":7}"#).number("a"), Ok(Some(7)));
        assert!(fields(r#"{"a":-7}"#).number("a").is_err());
        assert!(fields(r#"{"a":"7"}"#).number("a").is_err());
        assert!(fields(r#"{"a":7.5}"#).number("a").is_err());
        let role = |body| fields(body).word::<Role>("role", "user, service");
        assert_eq!(role(r#"{"role":"service"}"#), Ok(Some(Role::Service)));
        assert_eq!(role("{}"), Ok(None));
        assert!(role(r#"{"role":"root"}"#).is_err());
        assert!(role(r#"{"role":1}"#).is_err());
        assert!(fields("{}").user("user").is_err());
        assert!(fields(r#"{"user":"a b"}"#).user("user").is_err());
        assert!(fields(r#"{"user":"a"}"#).user("user").is_ok());
    }

    #[test]
    fn what_nobody_asked_for_is_unknown() {
        let mut fields = fields(r#"{"a":1,"b":2}"#);
        assert_eq!(fields.take("a"), Some(Value::from(1)));
        assert_eq!(fields.end(), Err(ApiError::unknown_field("b".to_owned())));
    }
}
