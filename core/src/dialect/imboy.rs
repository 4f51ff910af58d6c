//! imboy: JSON text frames with `CLIENT_ACK` (protocols/imboy.md).

use crate::admit::TokenCheck;
use crate::session::{Login, LoginFault};
use crate::ws::handshake::Request;

/// What the operator can set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Pause between two messages pushed at connect, unless the first is acknowledged, ms.
    pub catchup_gap_ms: u64,
    /// Send times of a private message, ms after the first, ascending.
    pub c2c_retry_ms: Vec<u64>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { catchup_gap_ms: 100, c2c_retry_ms: vec![5_000, 12_000, 23_000] }
    }
}

/// Reads who connects; the second part is the subprotocol to echo.
pub fn login<'a>(
    request: &Request<'a>,
    _settings: &Settings,
    _tokens: &dyn TokenCheck,
    _wall_ms: u64,
) -> (Result<Login, LoginFault>, Option<&'a str>) {
    let _ = request;
    (Err(LoginFault::TokenInvalid), None)
}
