//! A connection as the core knows it before anything was said on it.

use compact_str::CompactString;

use crate::ids::{DeviceId, Dialect, UserId};
use crate::ws::extensions::Window;

/// How a connection starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What is spoken on it.
    pub dialect: Dialect,
    /// The `101 Switching Protocols` answer, to be sent once the connection is accepted.
    pub switching: Vec<u8>,
    /// Whether messages may be compressed, and what the server's then keep to.
    pub deflate: Option<Window>,
    /// Who it is, or how the dialect tells that the login failed.
    pub login: Result<Login, LoginFault>,
}

/// A checked login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The token's user.
    pub user: UserId,
    /// The device that connects.
    pub device: DeviceId,
    /// End of the token's validity, ms since 1970.
    pub expires_ms: u64,
    /// What the client says about itself.
    pub client: Client,
}

/// What a client says about itself; nothing depends on it but what others are shown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Client {
    /// The device's platform, e.g. imboy's `cos`; empty when not given. At most
    /// [`crate::limits::CLIENT_WORD_BYTES_MAX`].
    pub platform: CompactString,
    /// The app's version, e.g. imboy's `vsn`; likewise.
    pub version: CompactString,
}

/// Why a login failed. Each dialect has its own way to say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginFault {
    /// The token is past its time: get a new one and come again.
    TokenExpired,
    /// No token, a bad one, one for another device, or no device id.
    TokenInvalid,
    /// The app did not prove to be one of the operator's.
    SignatureWrong,
}
