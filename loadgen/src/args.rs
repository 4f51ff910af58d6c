//! The command line: what can be asked for, its defaults (the canonical workload) and its bounds.
//!
//! Refuses what cannot work or could hurt somebody else: addresses that are not loopback need
//! `--allow-remote`, and everything has a maximum, so that every run ends.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::payload;

mod crowd;
mod echo;
mod group;

pub use crowd::{CatchUpArgs, ConnectArgs, IdleArgs};
pub use echo::EchoArgs;
pub use group::{ApiArgs, GroupArgs};

/// What `ringpost-loadgen` understands.
#[derive(Debug, Parser)]
#[command(
    name = "ringpost-loadgen",
    version,
    about = "Ringpost's load generator: canonical workloads, checked for loss, order and duplicates",
    after_help = "Examples:\n  \
        ringpost-loadgen                          the canonical workload against 127.0.0.1:7070\n  \
        ringpost-loadgen private --rate 20000     open loop: 20,000 messages/s, whatever comes back\n  \
        ringpost-loadgen private --users 20 --duration 5 --show 30\n  \
        ringpost-loadgen group --members 10000 --in-flight 1\n  \
        ringpost-loadgen idle --counts 5000,10000,19000 --server-pid 4242\n  \
        ringpost-loadgen connect --users 2000 --conversations 20\n  \
        ringpost-loadgen catch-up --users 10000 --messages 200\n\n\
        Exit status: 0 all checks passed, 1 a check or the run failed, 2 usage.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// The scenario; without one it is `private`.
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// Flags of the default scenario.
    #[command(flatten)]
    pub private: PrivateArgs,
}

/// The scenarios there are.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Private messages between pairs of users, acknowledged by server and receiver
    Private(PrivateArgs),
    /// Messages to groups whose members are all connected
    Group(GroupArgs),
    /// Pings, which the server answers at once: what it adds to a bare echo
    Echo(EchoArgs),
    /// Connections that stay idle: the server's memory for each, and what their heartbeats cost
    Idle(IdleArgs),
    /// Users who connect, are answered, and are gone: connections per second, time until usable
    Connect(ConnectArgs),
    /// Users with pending messages who connect at once: messages per second, time to caught up
    CatchUp(CatchUpArgs),
}

impl Scenario {
    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Scenario::Private(args) => args.check(),
            Scenario::Group(args) => args.check(),
            Scenario::Echo(args) => args.check(),
            Scenario::Idle(args) => args.check(),
            Scenario::Connect(args) => args.check(),
            Scenario::CatchUp(args) => args.check(),
        }
    }
}

/// Which protocol the clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DialectName {
    /// JSON text frames with CLIENT_ACK
    Imboy,
}

impl DialectName {
    /// As in `--dialect`.
    pub fn as_str(self) -> &'static str {
        match self {
            DialectName::Imboy => "imboy",
        }
    }
}

/// What all scenarios have in common: where the server is, who connects, what is reported.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Address of the server's message listener
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDR")]
    pub server: SocketAddr,
    /// Allow a server that is not on a loopback address
    #[arg(long)]
    pub allow_remote: bool,
    /// The server's HS256 secret, with which the users' tokens are minted
    #[arg(long, default_value = "data/token-secret", value_name = "FILE")]
    pub secret_file: PathBuf,
    /// What the clients speak
    #[arg(long, value_enum, default_value = "imboy")]
    pub dialect: DialectName,
    /// User names are PREFIX followed by a number; by default a fresh one for every run
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Client threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// Process id of the server, to report its CPU per message, split by thread name
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Connect from this address; several take turns, and each has some 28,000 ports. By default the
    /// system chooses, and many connections to 127.0.0.0/8 are spread over 127.0.0.1, 127.0.0.2, …
    #[arg(long = "source", value_name = "IP")]
    pub sources: Vec<IpAddr>,
}

impl CommonArgs {
    /// What clap cannot check alone; the run will have users up to number `users - 1`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self, users: u32) -> Result<(), String> {
        if !self.allow_remote && !self.server.ip().is_loopback() {
            return Err(format!(
                "{} is not a loopback address; load on other machines needs --allow-remote",
                self.server
            ));
        }
        if let Some(source) = self.sources.iter().find(|ip| ip.is_ipv4() != self.server.is_ipv4()) {
            return Err(format!("--source {source} cannot connect to {}", self.server));
        }
        if let Some(prefix) = &self.prefix {
            let longest = format!("{prefix}{}", users.saturating_sub(1));
            if ringpost_core::ids::UserId::parse(&longest).is_none() {
                return Err(format!("--prefix {prefix}: {longest} is not a valid user id"));
            }
        }
        Ok(())
    }
}

/// The `private` scenario.
#[derive(Clone, Debug, Args)]
pub struct PrivateArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Users, each with one connection; two of them are a pair
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=65_534))]
    pub users: u32,
    /// The same as twice as many --users
    #[arg(long, conflicts_with = "users", value_parser = clap::value_parser!(u32).range(1..=32_767))]
    pub pairs: Option<u32>,
    /// Messages in flight per pair, both directions together (half each way, an odd one more from
    /// the pair's first user). A message is in flight from being sent until its sender has the
    /// server's receipt and its receiver has the message
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub in_flight: u32,
    /// Bytes of each message's payload, a JSON object
    #[arg(long, default_value_t = 256, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(payload::BYTES_MIN as i64..=payload::BYTES_MAX as i64))]
    pub payload: u32,
    /// Load before measuring begins, s
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// Load that is measured, s
    #[arg(long, default_value = "20", value_name = "SECONDS", value_parser = seconds)]
    pub duration: Duration,
    /// How long to wait at the end for what is still in flight, s
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub drain: Duration,
    /// Open loop: send this many messages/s in all, evenly, and count latency from the moment at
    /// which each should have been sent. Without it the loop is closed: a message follows as soon
    /// as one is no longer in flight
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub rate: Option<u32>,
    /// Print the first N frames of the first pair of users as they went over the wire
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub show: u32,
}

impl PrivateArgs {
    /// Users, whichever of the two options named them.
    pub fn user_count(&self) -> u32 {
        self.pairs.map_or(self.users, |pairs| pairs * 2)
    }

    /// Messages in flight per pair from its first and from its second user.
    pub fn in_flight_split(&self) -> [u32; 2] {
        [self.in_flight.div_ceil(2), self.in_flight / 2]
    }

    /// What clap cannot check alone.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn check(&self) -> Result<(), String> {
        let common = &self.common;
        common.check(self.user_count())?;
        if !self.user_count().is_multiple_of(2) {
            return Err(format!("--users {} is odd; users come in pairs", self.users));
        }
        if u32::from(common.threads) * 2 > self.user_count() {
            return Err(format!("{} threads need at least as many pairs", common.threads));
        }
        if self.rate.is_some() && self.in_flight < 2 {
            return Err("--rate sends both ways and needs --in-flight 2 or more".to_owned());
        }
        if self.duration.is_zero() {
            return Err("--duration is 0; nothing would be measured".to_owned());
        }
        Ok(())
    }
}

/// Seconds as a decimal number, at most an hour.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=3600.0).contains(&value) {
        return Err("must be from 0 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<PrivateArgs, String> {
        let arguments = std::iter::once("ringpost-loadgen").chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let args = match cli.scenario {
            Some(Scenario::Private(args)) => args,
            None => cli.private,
            Some(other) => panic!("{other:?} is not what these tests ask for"),
        };
        args.check().map(|()| args)
    }

    #[test]
    fn no_flags_are_the_canonical_workload() {
        for arguments in [&[] as &[&str], &["private"]] {
            let args = parse(arguments).expect("the defaults are valid");
            assert_eq!(
                (args.user_count(), args.in_flight_split(), args.payload),
                (1000, [4, 4], 256)
            );
            assert_eq!((args.warmup.as_secs(), args.duration.as_secs()), (3, 20));
            assert_eq!((args.rate, args.common.threads), (None, 1));
        }
    }

    #[test]
    fn flags_work_with_and_without_the_sub_command() {
        for arguments in
            [&["--pairs", "3", "--json"] as &[&str], &["private", "--pairs", "3", "--json"]]
        {
            let args = parse(arguments).expect("valid");
            assert_eq!((args.user_count(), args.common.json), (6, true));
        }
        assert_eq!(parse(&["--in-flight", "7"]).expect("valid").in_flight_split(), [4, 3]);
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (arguments, word) in [
            (&["--server", "192.0.2.1:7070"] as &[&str], "--allow-remote"),
            (&["--users", "3"], "pairs"),
            (&["--users", "2", "--threads", "2"], "threads"),
            (&["--rate", "10", "--in-flight", "1"], "--in-flight"),
            (&["--duration", "0"], "--duration"),
            (&["--duration", "4000"], "3600"),
            (&["--prefix", "a b"], "--prefix"),
            (&["--payload", "10"], "payload"),
            (&["--users", "2", "--pairs", "1"], "cannot be used with"),
        ] {
            let error = parse(arguments).expect_err("refused");
            assert!(error.contains(word), "{arguments:?}: {error}");
        }
        assert!(parse(&["--server", "192.0.2.1:7070", "--allow-remote"]).is_ok());
    }
}
