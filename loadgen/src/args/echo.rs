//! The command line of the `echo` scenario.

use clap::Args;
use std::time::Duration;

use super::{CommonArgs, seconds};

/// The `echo` scenario.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    ringpost-loadgen echo --server-pid $(pgrep -x ringpost)\n  \
    ringpost-loadgen echo --users 200 --in-flight 8")]
pub struct EchoArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Users, each with one connection
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=65_534))]
    pub users: u32,
    /// Pings without an answer on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub in_flight: u32,
    /// Load before measuring begins, s
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// Load that is measured, s
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
}

impl EchoArgs {
    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        self.common.check(self.users)?;
        if u32::from(self.common.threads) > self.users {
            return Err("--threads is more than --users".to_owned());
        }
        if self.duration.is_zero() {
            return Err("--duration is 0; nothing would be measured".to_owned());
        }
        Ok(())
    }
}
