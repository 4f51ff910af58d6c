//! The command lines of the scenarios whose subject is the connections themselves.

use clap::Args;
use std::time::Duration;

use super::{ApiArgs, CommonArgs, seconds};
use crate::payload;

/// The `idle` scenario.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    ringpost-loadgen idle --server-pid $(pgrep -x ringpost)\n  \
    ringpost-loadgen idle --counts 500,1000 --settle 6 --duration 10 --heartbeat 5\n\n\
    Memory per connection is the slope between the counts, so that what the server has anyway does\n\
    not count. Each connection is one descriptor here and one in the server.")]
pub struct IdleArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// How many connections there are when the server's memory is read, ascending; two to eight
    #[arg(long, default_value = "5000,10000,19000", value_name = "N,N,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub counts: Vec<u32>,
    /// How long the server may come to rest before its memory is read, s
    #[arg(long, default_value = "8", value_name = "SECONDS", value_parser = seconds)]
    pub settle: Duration,
    /// Idle time with all connections in which CPU is measured, s
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// Each client says that it is alive once in this time, s; 0: never
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub heartbeat: Duration,
}

impl IdleArgs {
    /// Connections in the end.
    pub fn connections(&self) -> u32 {
        self.counts.last().copied().unwrap_or(0)
    }

    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        self.common.check(self.connections())?;
        if !(2..=8).contains(&self.counts.len()) {
            return Err("--counts needs two to eight numbers: memory is their slope".to_owned());
        }
        if !self.counts.is_sorted_by(|one, next| one < next) {
            return Err("--counts must ascend".to_owned());
        }
        if self.duration.is_zero() {
            return Err("--duration is 0; nothing would be measured".to_owned());
        }
        Ok(())
    }
}

/// The `connect` scenario.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    ringpost-loadgen connect --server-pid $(pgrep -x ringpost)\n  \
    ringpost-loadgen connect --users 2000 --at-once 128 --duration 20\n  \
    ringpost-loadgen connect --storm --users 19000 --conversations 0 --groups 0 --at-once 19000\n\n\
    A connection is usable when its first ping is answered: TCP connect, upgrade with an HS256\n\
    token, and a login that the server has accepted.")]
pub struct ConnectArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Users, who connect in turn; all are connected once before, and then hold a descriptor each
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    pub users: u32,
    /// Private conversations that each user has, all of them read to their end
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=200))]
    pub conversations: u32,
    /// Groups that each user is a member of, of 50 users each; nothing is sent to them
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=50))]
    pub groups: u32,
    #[command(flatten)]
    pub api: ApiArgs,
    /// Connections being opened at the same time
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub at_once: u32,
    /// How long the server may come to rest between preparation and load, s
    #[arg(long, default_value = "8", value_name = "SECONDS", value_parser = seconds)]
    pub settle: Duration,
    /// Load before measuring begins, s
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// Load that is measured, s
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// Each user connects once and stays, and all of them are measured: a reconnect storm
    #[arg(long, conflicts_with_all = ["warmup", "duration"])]
    pub storm: bool,
}

impl ConnectArgs {
    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        self.common.check(self.users)?;
        self.api.check(self.common.allow_remote)?;
        if !self.conversations.is_multiple_of(2) {
            return Err("--conversations must be even: each user begins half of them".to_owned());
        }
        if self.conversations >= self.users {
            return Err("--conversations needs more --users than that".to_owned());
        }
        if self.at_once > self.users {
            return Err("--at-once is more than all --users".to_owned());
        }
        if u32::from(self.common.threads) > self.at_once {
            return Err("--threads is more than --at-once".to_owned());
        }
        if self.duration.is_zero() {
            return Err("--duration is 0; nothing would be measured".to_owned());
        }
        Ok(())
    }
}

/// The `catch-up` scenario.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    ringpost-loadgen catch-up --users 10000 --messages 200 --server-pid $(pgrep -x ringpost)\n  \
    ringpost-loadgen catch-up --users 1 --messages 1000000 --limit 600\n\n\
    The messages are sent while their receivers are away; then all receivers connect, acknowledge\n\
    what they get, and are caught up with their last message.")]
pub struct CatchUpArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Users who have been away
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=65_534))]
    pub users: u32,
    /// Messages that wait for each of them
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub messages: u32,
    /// Users who send them
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub senders: u32,
    /// Bytes of each message's payload, a JSON object
    #[arg(long, default_value_t = 256, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(payload::BYTES_MIN as i64..=payload::BYTES_MAX as i64))]
    pub payload: u32,
    /// Connections being opened at the same time; by default all of them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub at_once: Option<u32>,
    /// How long sending and catching up may take each; what is missing then is lost, s
    #[arg(long, default_value = "300", value_name = "SECONDS", value_parser = seconds)]
    pub limit: Duration,
}

impl CatchUpArgs {
    /// All messages.
    pub fn total(&self) -> u64 {
        u64::from(self.users) * u64::from(self.messages)
    }

    /// Senders that have somebody to send to.
    pub fn sender_count(&self) -> u32 {
        self.senders.min(self.users)
    }

    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        self.common.check(self.users + self.senders)?;
        if self.total() > 100_000_000 {
            return Err(format!("{} messages are more than 100,000,000", self.total()));
        }
        if u32::from(self.common.threads) > self.sender_count() {
            return Err("--threads is more than the senders, or the users".to_owned());
        }
        if self.limit.is_zero() {
            return Err("--limit is 0; nothing could be sent".to_owned());
        }
        Ok(())
    }
}
