//! `POST /v1/tokens`: a token for a user, as `ringpost token` prints it. Nothing is stored; whether
//! the user exists is asked when the token is used.

use ringpost_core::limits::DEVICE_ID_BYTES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::types::{Text, User};
use crate::token::{ExpUnit, Grant, Role};

/// Mints a token for a user, with the server's secret. Whoever may do so can be any user.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MintToken {
    user: User,
    /// The only device that may use it.
    #[schemars(length(min = 1))]
    device: Option<Text<DEVICE_ID_BYTES_MAX>>,
    #[schemars(length(min = 1))]
    platform: Option<Text<DEVICE_ID_BYTES_MAX>>,
    /// App key.
    #[schemars(length(min = 1))]
    app: Option<Text<DEVICE_ID_BYTES_MAX>>,
    role: Option<Role>,
    /// For how many seconds it is valid.
    #[schemars(range(min = 1, max = 316_224_000))]
    ttl_s: u64,
    /// The unit of its `exp`; `s` when it is not given.
    exp_unit: Option<ExpUnit>,
}

/// A token.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Minted {
    token: String,
}

impl Operation for MintToken {
    const ROUTE: Route = Route::post("mintToken", "/v1/tokens").for_admins();
    type Answer = Minted;

    async fn perform(self, at: At) -> Result<Answered<Minted>, ApiError> {
        let grant = Grant {
            user: self.user.0,
            device: self.device.map(|text| text.0),
            platform: self.platform.map(|text| text.0),
            app: self.app.map(|text| text.0),
            role: self.role,
            ttl_s: self.ttl_s,
            exp_unit: self.exp_unit.unwrap_or_default(),
        };
        let setup = at.shared.setup();
        let signer = setup.signer.as_ref().ok_or_else(|| {
            ApiError::not_configured(
                "tokens are minted with a secret, and there are public keys only",
            )
        })?;
        let token = signer
            .mint(super::wall_ms(), &grant)
            .map_err(|error| ApiError::invalid(error.field, error.problem))?;
        let Grant { user, ttl_s, .. } = &grant;
        tracing::info!(key = %at.caller.name, %user, ttl_s, "token minted");
        ok(Minted { token })
    }
}
