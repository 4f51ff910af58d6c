//! `POST /v1/tokens`: a token for a user, as `ringpost token` prints it. Nothing is stored; whether
//! the user exists is asked when the token is used.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ringpost_core::limits::DEVICE_ID_BYTES_MAX;
use serde_json::{Value, json};

use super::Shared;
use super::auth::IsAdmin;
use super::error::ApiError;
use super::fields::Fields;
use crate::token::Grant;

/// `{user, device?, platform?, app?, role?, ttl_s, exp_unit?}` → `{token}`. Needs `admin`: whoever
/// mints tokens can be any user.
pub async fn mint(
    IsAdmin(caller): IsAdmin,
    State(shared): State<Arc<Shared>>,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let grant = Grant {
        user: fields.user("user")?,
        device: fields.text("device", DEVICE_ID_BYTES_MAX)?,
        platform: fields.text("platform", DEVICE_ID_BYTES_MAX)?,
        app: fields.text("app", DEVICE_ID_BYTES_MAX)?,
        role: fields.word("role", "user, service")?,
        ttl_s: fields
            .number("ttl_s")?
            .ok_or_else(|| ApiError::invalid("ttl_s", "must say for how many seconds"))?,
        exp_unit: fields.word("exp_unit", "s, ms")?.unwrap_or_default(),
    };
    fields.end()?;
    let setup = shared.setup();
    let signer = setup.signer.as_ref().ok_or_else(|| {
        ApiError::not_configured("tokens are minted with a secret, and there are public keys only")
    })?;
    let token = signer
        .mint(super::wall_ms(), &grant)
        .map_err(|error| ApiError::invalid(error.field, error.problem))?;
    tracing::info!(key = %caller.name, user = %grant.user, ttl_s = grant.ttl_s, "token minted");
    Ok(Json(json!({ "token": token })))
}
