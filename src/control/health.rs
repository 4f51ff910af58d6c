//! `/healthz`, `/readyz` and `/v1/info`: what a supervisor, a load balancer and an operator ask.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use ringpost_core::limits;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::catalogue::{Answered, At, Operation, Route, ok};
use super::error::ApiError;
use super::{BODY_BYTES_MAX, Shared};

/// The process lives: it answers.
pub async fn alive() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Whether new connections should be sent here; 503 with the reason when not.
pub async fn ready(State(shared): State<Arc<Shared>>) -> Result<Json<Value>, ApiError> {
    match shared.process.health.ready() {
        Ok(()) => Ok(Json(json!({ "status": "ready" }))),
        Err(reason) => Err(ApiError::unavailable(reason.reason())),
    }
}

/// Version, store epoch, shards, uptime, limits.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetInfo {}

/// What this server is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Info {
    version: &'static str,
    /// Another one after a repair or a restore: what clients have stored may be gone here.
    store_epoch: String,
    shards: u16,
    uptime_s: u64,
    limits: Limits,
}

/// What there may be at most.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(inline)]
struct Limits {
    content_bytes: usize,
    message_bytes: usize,
    user_connections: usize,
    user_devices: usize,
    connection_requests: u32,
    window_messages: u32,
    window_bytes: u64,
    api_body_bytes: usize,
}

impl Operation for GetInfo {
    const ROUTE: Route = Route::get("getInfo", "/v1/info");
    type Answer = Info;

    async fn perform(self, At { shared, .. }: At) -> Result<Answered<Info>, ApiError> {
        ok(Info {
            version: env!("CARGO_PKG_VERSION"),
            store_epoch: format!("{:016x}", shared.process.epoch),
            shards: shared.process.mesh.shards(),
            uptime_s: shared.process.health.uptime().as_secs(),
            limits: Limits {
                content_bytes: limits::CONTENT_BYTES_MAX,
                message_bytes: limits::MESSAGE_BYTES_MAX,
                user_connections: limits::USER_CONNECTIONS_MAX,
                user_devices: limits::USER_DEVICES_MAX,
                connection_requests: limits::CONNECTION_REQUESTS_MAX,
                window_messages: limits::WINDOW_MESSAGES,
                window_bytes: limits::WINDOW_BYTES,
                api_body_bytes: BODY_BYTES_MAX,
            },
        })
    }
}
