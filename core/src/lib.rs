//! Ringpost's message core: a state machine without I/O.
//!
//! Open [`event`] first: it is the whole contract. Then [`shard`], which keeps it.
//!
//! There is no clock, thread, randomness, socket, file or `async` in this crate: time and seeds
//! come in as arguments, and everything that shall happen goes out as data.

#![forbid(unsafe_code)]

pub mod account;
pub mod admit;
pub mod command;
pub mod content;
pub mod dialect;
pub mod error;
pub mod event;
pub mod happened;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod owed;
pub mod rate;
pub mod record;
pub mod relations;
pub mod scheduled;
pub mod session;
pub mod shard;
pub mod ws;

pub use event::{Effects, Input, Now};
pub use shard::{Shard, ShardConfig};
