//! A shard of the message core.

use crate::dialect::Settings;
use crate::event::{Effects, Input, Now};
use crate::ids::{ConnId, ShardId};

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// The store's secret: seeds conversation and dedup keys.
    pub secret: u64,
    /// The store's node id, for message ids.
    pub node: [u8; 3],
    /// The largest second that any shard of this store was allowed to use in ids.
    pub id_leased: u32,
    /// Create unknown users when they connect.
    pub auto_create_users: bool,
    /// Settings of the dialects.
    pub dialects: Settings,
}

/// A state machine: one thread's part of the users and conversations.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
}

impl Shard {
    /// A shard that knows nothing yet.
    pub fn new(config: ShardConfig) -> Shard {
        Shard { config }
    }

    /// Takes one input; appends what follows from it to the open turn. See [`crate::event`].
    pub fn handle(&mut self, _now: Now, _input: Input<'_>, _effects: &mut Effects) {
        let _ = &self.config;
    }

    /// When [`Input::Tick`] is due next, in [`Now::mono_us`]; `None`: no timer runs.
    pub fn next_timer_us(&self) -> Option<u64> {
        None
    }

    /// Whether data may be read from sockets at all: admission of the whole shard.
    pub fn admits(&self) -> bool {
        true
    }

    /// Whether the next data message of this connection may be given to [`Shard::handle`]: it has
    /// fewer than [`crate::limits::CONNECTION_REQUESTS_MAX`] requests in progress, and the shard
    /// admits. Control frames need not ask.
    pub fn takes(&self, _conn: ConnId) -> bool {
        true
    }
}
