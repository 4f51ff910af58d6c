//! What a refused request is told: `{"error": {"code", "message", "field"?}}` and the status that
//! fits. Nothing of the process's inside is in it.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A refusal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiError {
    status: StatusCode,
    /// For programs: one word per cause, never changed.
    code: &'static str,
    /// For people.
    message: Cow<'static, str>,
    /// The field, path part or header that is wrong.
    field: Option<Cow<'static, str>>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        ApiError { status, code, message: message.into(), field: None }
    }

    /// 400: the request as a whole cannot be read.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// 400: a field has no value that it may have.
    pub fn invalid(
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_field", message);
        ApiError { field: Some(field.into()), ..error }
    }

    /// 400: there is no such field.
    pub fn unknown_field(field: String) -> ApiError {
        let message = format!("unknown field {field:?}");
        let error = ApiError::new(StatusCode::BAD_REQUEST, "unknown_field", message);
        ApiError { field: Some(field.into()), ..error }
    }

    /// 401: no key, or none of ours.
    pub fn unauthorized(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 403: the key does not have this scope.
    pub fn forbidden(scope: &'static str) -> ApiError {
        let message = format!("the API key does not have the scope {scope:?}");
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    /// 404.
    pub fn not_found(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// 403: the rules do not allow it, whoever asks.
    pub fn not_permitted(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "not_permitted", message)
    }

    /// 409: it does not go together with what is there.
    pub fn conflict(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// 405; the HTTP stack adds `Allow`.
    pub fn method_not_allowed() -> ApiError {
        let message = "this path does not know this method";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// 408: the request did not come in time, or the answer did not.
    pub fn timeout() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the request took too long")
    }

    /// 413.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    /// 500: a stored value is not what we store.
    pub fn internal(message: &'static str) -> ApiError {
        tracing::error!(message, "the API found something that must not be");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// 501: this server is not set up for it.
    pub fn not_configured(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_configured", message)
    }

    /// 503: later it may work.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(field) = self.field {
            error["field"] = json!(field);
        }
        let mut response = (self.status, Json(json!({ "error": error }))).into_response();
        let extra: Option<(HeaderName, &'static str)> = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => Some((header::RETRY_AFTER, "1")),
            // What is left of the request would be read as the next one.
            StatusCode::REQUEST_TIMEOUT => Some((header::CONNECTION, "close")),
            _ => None,
        };
        if let Some((name, value)) = extra {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
