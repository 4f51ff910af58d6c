//! The command line of the `group` scenario, and of the API that makes groups.

use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{CommonArgs, seconds};
use crate::payload;

/// Where groups are made.
#[derive(Clone, Debug, Args)]
pub struct ApiArgs {
    /// Address of the server's HTTP API, which makes the groups
    #[arg(long, default_value = "127.0.0.1:7080", value_name = "ADDR")]
    pub api: SocketAddr,
    /// A key of it that may write
    #[arg(long, default_value = "data/api-key", value_name = "FILE")]
    pub api_key_file: PathBuf,
}

impl ApiArgs {
    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self, allow_remote: bool) -> Result<(), String> {
        if !allow_remote && !self.api.ip().is_loopback() {
            return Err(format!("{} is not a loopback address; see --allow-remote", self.api));
        }
        Ok(())
    }
}

/// The `group` scenario.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    ringpost-loadgen group --members 10000 --in-flight 1 --server-pid $(pgrep -x ringpost)\n  \
    ringpost-loadgen group --groups 100 --members 100 --senders 10 --in-flight 1\n  \
    ringpost-loadgen group --members 5000 --rate 20\n  \
    ringpost-loadgen group --members 10000 --stalled 1\n\n\
    Every delivery is acknowledged and checked at its receiver: content, order, loss, duplicates.")]
pub struct GroupArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub api: ApiArgs,
    /// Groups; nobody is in two of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub groups: u32,
    /// Members of each, all of them connected
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=65_534))]
    pub members: u32,
    /// Members of each that send
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub senders: u32,
    /// Members of each, the last ones, that read nothing before the load is over; then they must get
    /// all of it, within --drain
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub stalled: u32,
    /// Messages in flight per sender. A message is in flight until its sender has the server's
    /// receipt and all other members who read have the message
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub in_flight: u32,
    /// Bytes of each message's payload, a JSON object
    #[arg(long, default_value_t = 256, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(payload::BYTES_MIN as i64..=payload::BYTES_MAX as i64))]
    pub payload: u32,
    /// Load before measuring begins, s
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// Load that is measured, s
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// How long to wait at the end for what is still in flight, s
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub drain: Duration,
    /// Open loop: send this many messages/s in all, evenly, and count latency from the moment at
    /// which each should have been sent
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,
    /// Print the first N frames of the first two users as they went over the wire
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub show: u32,
}

impl GroupArgs {
    /// Members of all groups.
    pub fn user_count(&self) -> u32 {
        self.groups * self.members
    }

    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        self.common.check(self.user_count())?;
        self.api.check(self.common.allow_remote)?;
        if self.user_count() > 65_534 {
            return Err(format!("{} members are more than 65,534", self.user_count()));
        }
        if self.senders > self.members {
            return Err("--senders is more than --members".to_owned());
        }
        if self.senders.max(2) + self.stalled > self.members {
            return Err("--senders and --stalled leave nobody to listen in --members".to_owned());
        }
        if self.user_count() * self.senders > 1 << 24 {
            return Err("--members times --senders of all groups is too much to check".to_owned());
        }
        if u32::from(self.common.threads) > self.groups {
            return Err("--threads is more than --groups: a group's members are on one".to_owned());
        }
        if self.duration.is_zero() {
            return Err("--duration is 0; nothing would be measured".to_owned());
        }
        Ok(())
    }
}
