//! What an operator may change for the shards while they run. Each shard holds one `Arc` of it and
//! gets the next one as a parcel: nobody waits for anybody, and a connection keeps what it was
//! admitted by.

use std::fmt;

use ringpost_core::admit::TokenCheck;
use ringpost_core::rate::RateLimits;

use crate::address::Rules;

/// See the module.
pub struct Settings {
    /// Checks tokens.
    pub tokens: Box<dyn TokenCheck + Send + Sync>,
    /// What one client address may.
    pub address: Rules,
    /// What one connection and one user may.
    pub rates: RateLimits,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are nobody's business.
        f.write_str("Settings")
    }
}
