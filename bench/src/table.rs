//! The whole table of numbers, from one run: each beside what it is compared with, and its target.
//!
//! A row that cannot be measured says why and fails the run; the others are measured all the same.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::echo::{self, Shape};
use crate::first_row::{self, FirstRow};
use crate::loadgen::{self, Cpu, Latency, flags};
use crate::restart;
use crate::server::Server;
use crate::{FirstRowArgs, Measured, TableArgs, allocations};

/// A ping is 10 B on the wire, its answer 7.
const PING_BYTES: usize = 8;
/// Connections that ping, and that echo.
const PINGERS: u32 = 200;

// What is to be reached.
const ECHO_SHARE_MIN: f64 = 0.9;
const FAN_OUT_ECHOES_MAX: f64 = 0.6;
const IDLE_BYTES_MAX: f64 = 2_048.0;
const CONNECTS_MIN: f64 = 10_000.0;
const SECOND_SHARD_MAX: f64 = 1.1;
const ALLOCATIONS_MAX: f64 = 0.0;
const RESTART_S_MAX: f64 = 2.0;

/// Everything.
#[derive(Debug, Serialize)]
pub struct Table {
    quick: bool,
    rows: Vec<Row>,
    /// All of the first part, in detail.
    message: Option<FirstRow>,
}

/// One line.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The number, as people read it; or why there is none.
    pub measured: String,
    /// What it stands beside.
    pub beside: String,
    /// What is to be reached; empty: nothing.
    pub target: String,
    /// Whether it is.
    pub reached: Option<bool>,
    /// There is no number.
    pub failed: bool,
}

/// How long and how much.
struct Sizes {
    load: Duration,
    warmup: Duration,
    echo: Duration,
    members: u32,
    idle: &'static str,
    idle_settle: &'static str,
    idle_seconds: &'static str,
    connecting: u32,
    conversations: u32,
    settle: &'static str,
    turns: u32,
    restart: u32,
}

const QUICK: Sizes = Sizes {
    load: Duration::from_secs(1),
    warmup: Duration::from_millis(300),
    echo: Duration::from_millis(100),
    members: 200,
    idle: "100,400",
    idle_settle: "0.5",
    idle_seconds: "1",
    connecting: 100,
    conversations: 4,
    settle: "0.5",
    turns: 100,
    restart: 10_000,
};

const FULL: Sizes = Sizes {
    load: Duration::from_secs(15),
    warmup: Duration::from_secs(3),
    echo: Duration::from_secs(2),
    members: 10_000,
    idle: "5000,10000,19000",
    idle_settle: "8",
    idle_seconds: "20",
    connecting: 1_000,
    conversations: 20,
    settle: "8",
    turns: 5_000,
    restart: 1_000_000,
};

/// Measures all of it.
///
/// # Errors
/// A sentence for the user, when nothing can be measured at all.
pub fn measure(args: &TableArgs) -> Result<Table, String> {
    let sizes = if args.quick { QUICK } else { FULL };
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let bench = Bench {
        server: loadgen::binary(args.server_bin.as_deref(), "ringpost")?,
        loadgen: loadgen::binary(args.loadgen_bin.as_deref(), "ringpost-loadgen")?,
        dir: dir.path().to_owned(),
        restart: args.restart_messages.unwrap_or(sizes.restart),
        sizes,
    };
    let mut rows = Vec::new();
    rows.extend(bench.pings());
    let message = first_row::measure(&FirstRowArgs {
        server_bin: args.server_bin.clone(),
        loadgen_bin: args.loadgen_bin.clone(),
        dir: Some(bench.dir.clone()),
        warmup: bench.sizes.warmup,
        duration: bench.sizes.load,
    });
    match &message {
        Ok(message) => rows.extend(message.rows()),
        Err(why) => rows.push(Row::failed("durable private message", why)),
    }
    let message = message.ok();
    rows.push(bench.row("group fan-out, CPU per delivery", |bench| bench.fan_out()));
    rows.push(bench.row("idle connection, user memory", Bench::idle));
    rows.extend(bench.connects());
    let one_shard = message.as_ref().map(FirstRow::us_per_message);
    rows.push(bench.row("second shard, CPU per message", |bench| bench.second_shard(one_shard)));
    rows.push(bench.allocations());
    rows.push(bench.row("restart, ready", Bench::restart));
    Ok(Table { quick: args.quick, rows, message })
}

impl Table {
    /// Whether every row has a number.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|row| !row.failed)
    }
}

impl Row {
    /// A number with a target.
    pub fn new(what: &str, measured: String, beside: String, target: String, reached: bool) -> Row {
        let reached = Some(reached);
        Row { what: what.to_owned(), measured, beside, target, reached, failed: false }
    }

    /// A number without one.
    pub fn plain(what: &str, measured: String, beside: String) -> Row {
        let target = String::new();
        Row { what: what.to_owned(), measured, beside, target, reached: None, failed: false }
    }

    fn failed(what: &str, why: &str) -> Row {
        let (beside, target) = (why.to_owned(), String::new());
        let (what, measured) = (what.to_owned(), "FAILED".to_owned());
        Row { what, measured, beside, target, reached: None, failed: true }
    }
}

struct Bench {
    server: PathBuf,
    loadgen: PathBuf,
    dir: PathBuf,
    restart: u32,
    sizes: Sizes,
}

#[derive(Deserialize)]
struct Pings {
    echoes_per_s: f64,
    server_cpu: Cpu,
}

#[derive(Deserialize)]
struct FanOut {
    deliveries_per_s: f64,
    first: Latency,
    last: Latency,
    server_cpu: Cpu,
}

#[derive(Deserialize)]
struct Idle {
    slope: Slope,
    server_core_share: f64,
}

#[derive(Deserialize)]
struct Slope {
    user_bytes: f64,
    kernel_bytes: f64,
}

#[derive(Deserialize)]
struct Connects {
    connections_per_s: f64,
    connections_per_core_s: f64,
    usable: Latency,
    bottleneck: String,
}

#[derive(Deserialize)]
struct Messages {
    messages_per_s: f64,
    server_cpu: Cpu,
}

impl Bench {
    fn row(&self, what: &str, measure: impl FnOnce(&Bench) -> Result<Row, String>) -> Row {
        measure(self).unwrap_or_else(|why| Row::failed(what, &why))
    }

    /// A server with a fresh store, for as long as `with` needs it.
    fn with_server<T>(
        &self,
        name: &str,
        shards: u16,
        with: impl FnOnce(&Server) -> Result<T, String>,
    ) -> Result<T, String> {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).map_err(|error| format!("cannot make a directory: {error}"))?;
        let server = Server::start(&self.server, &dir, shards)?;
        let result = with(&server)?;
        server.stop()?;
        Ok(result)
    }

    fn bare_echo(&self, bytes: usize, in_flight: usize) -> Result<f64, String> {
        let shape = Shape { bytes, connections: PINGERS as usize, in_flight };
        Ok(echo::measure(shape, self.sizes.echo)?.cpu_us)
    }

    fn pings(&self) -> Vec<Row> {
        let rows = [1, 8].map(|in_flight| {
            let what = format!("ping echo, CPU, {in_flight} in flight");
            self.row(&what, |bench| bench.ping(&what, in_flight))
        });
        rows.into()
    }

    fn ping(&self, what: &str, in_flight: usize) -> Result<Row, String> {
        let before = self.bare_echo(PING_BYTES, in_flight)?;
        let name = format!("ping-{in_flight}");
        let pings: Pings = self.with_server(&name, 1, |server| {
            let arguments = flags([
                ("users", PINGERS.to_string()),
                ("in-flight", in_flight.to_string()),
                ("warmup", self.sizes.echo.as_secs_f64().to_string()),
                ("duration", self.sizes.echo.as_secs_f64().to_string()),
            ]);
            loadgen::run(&self.loadgen, server, "echo", &arguments)
        })?;
        let after = self.bare_echo(PING_BYTES, in_flight)?;
        let (bare, us) = ((before + after) / 2.0, pings.server_cpu.us);
        Ok(Row::new(
            what,
            format!("{us:.2} µs"),
            format!(
                "bare echo {bare:.2} µs ({before:.2}, then {after:.2}): {:.2} of it; {:.0}/s",
                bare / us,
                pings.echoes_per_s
            ),
            format!("≥ {ECHO_SHARE_MIN} of it"),
            bare / us >= ECHO_SHARE_MIN,
        ))
    }

    fn fan_out(&self) -> Result<Row, String> {
        let members = self.sizes.members;
        let bare = self.bare_echo(first_row::ECHO_BYTES, 1)?;
        let found: FanOut = self.with_server("group", 1, |server| {
            let mut arguments = flags([
                ("members", members.to_string()),
                ("in-flight", "16".to_owned()),
                ("warmup", self.sizes.warmup.as_secs_f64().to_string()),
                ("duration", self.sizes.load.as_secs_f64().to_string()),
            ]);
            arguments.extend(loadgen::api(server));
            loadgen::run(&self.loadgen, server, "group", &arguments)
        })?;
        let us = found.server_cpu.us;
        Ok(Row::new(
            &format!("group fan-out to {members}, CPU per delivery"),
            format!("{us:.2} µs"),
            format!(
                "{:.2} of a bare echo ({bare:.2} µs); {:.0}/s, first {:.1} ms, last {:.1} ms (p50)",
                us / bare,
                found.deliveries_per_s,
                found.first.p50_us / 1e3,
                found.last.p50_us / 1e3
            ),
            format!("≤ {FAN_OUT_ECHOES_MAX} of it"),
            us / bare <= FAN_OUT_ECHOES_MAX,
        ))
    }

    fn idle(&self) -> Result<Row, String> {
        let found: Idle = self.with_server("idle", 1, |server| {
            let arguments = flags([
                ("counts", self.sizes.idle.to_owned()),
                ("settle", self.sizes.idle_settle.to_owned()),
                ("duration", self.sizes.idle_seconds.to_owned()),
                ("heartbeat", "60".to_owned()),
            ]);
            loadgen::run(&self.loadgen, server, "idle", &arguments)
        })?;
        let Slope { user_bytes, kernel_bytes } = found.slope;
        Ok(Row::new(
            "idle connection, user memory",
            format!("{user_bytes:.0} B"),
            format!(
                "slope over {} connections; kernel, both ends: {kernel_bytes:.0} B; CPU {:.1} % of a core with 60 s heartbeats",
                self.sizes.idle,
                found.server_core_share * 100.0
            ),
            format!("≤ {IDLE_BYTES_MAX:.0} B"),
            user_bytes <= IDLE_BYTES_MAX,
        ))
    }

    fn connects(&self) -> Vec<Row> {
        // Without and with what a connect has to look at.
        let rows = [(0, 0), (self.sizes.conversations, 5)].map(|(conversations, groups)| {
            let what =
                format!("connect, {conversations} conversations, {groups} groups, per core and s");
            self.row(&what, |bench| bench.connect(&what, conversations, groups))
        });
        rows.into()
    }

    fn connect(&self, what: &str, conversations: u32, groups: u32) -> Result<Row, String> {
        let found: Connects = self.with_server(&format!("connect-{groups}"), 1, |server| {
            let mut arguments = flags([
                ("users", self.sizes.connecting.to_string()),
                ("conversations", conversations.to_string()),
                ("groups", groups.to_string()),
                ("settle", self.sizes.settle.to_owned()),
                ("warmup", self.sizes.warmup.as_secs_f64().to_string()),
                ("duration", self.sizes.load.as_secs_f64().to_string()),
            ]);
            arguments.extend(loadgen::api(server));
            loadgen::run(&self.loadgen, server, "connect", &arguments)
        })?;
        Ok(Row::new(
            what,
            format!("{:.0}", found.connections_per_core_s),
            format!(
                "{:.0}/s; usable after {:.2} ms (p50), {:.2} ms (p99); bottleneck: {}",
                found.connections_per_s,
                found.usable.p50_us / 1e3,
                found.usable.p99_us / 1e3,
                found.bottleneck.replace('_', " ")
            ),
            format!("≥ {CONNECTS_MIN:.0}"),
            found.connections_per_core_s >= CONNECTS_MIN,
        ))
    }

    fn second_shard(&self, one_shard_us: Option<f64>) -> Result<Row, String> {
        let one = one_shard_us.ok_or("there is no number of one shard to set it beside")?;
        let found: Messages = self.with_server("second-shard", 2, |server| {
            let arguments = flags([
                ("warmup", self.sizes.warmup.as_secs_f64().to_string()),
                ("duration", self.sizes.load.as_secs_f64().to_string()),
            ]);
            loadgen::run(&self.loadgen, server, "private", &arguments)
        })?;
        let two = found.server_cpu.us;
        Ok(Row::new(
            "second shard, CPU per message",
            format!("{two:.2} µs"),
            format!(
                "{:.2} × one shard's {one:.2} µs; {:.0} messages/s; half of the messages cross shards",
                two / one,
                found.messages_per_s
            ),
            format!("≤ {SECOND_SHARD_MAX} ×"),
            two / one <= SECOND_SHARD_MAX,
        ))
    }

    fn allocations(&self) -> Row {
        let counted = allocations::count(self.sizes.turns);
        Row::new(
            "warm path, allocations per message",
            format!("{:.2}", counted.per_message),
            format!("core, ws and dialect, both acknowledgements; {}", counted.sizes()),
            format!("{ALLOCATIONS_MAX:.0}, or their reasons"),
            counted.per_message <= ALLOCATIONS_MAX,
        )
    }

    fn restart(&self) -> Result<Row, String> {
        let dir = self.dir.join("restart");
        std::fs::create_dir(&dir).map_err(|error| format!("cannot make a directory: {error}"))?;
        let found = restart::measure(&self.server, Path::new(&dir), self.restart)?;
        Ok(Row::new(
            &format!("restart with {} messages, ready", found.messages),
            format!("{:.2} s", found.ready_s),
            format!(
                "{:.2} s on an empty store: {:.1} × that; {:.2} GB stored",
                found.empty_s,
                found.ready_s / found.empty_s,
                found.bytes as f64 / 1e9
            ),
            format!("< {RESTART_S_MAX:.0} s with 10,000,000"),
            found.ready_s < RESTART_S_MAX,
        ))
    }
}

impl Measured for Table {
    fn text(&self) -> String {
        let mut text = String::new();
        if self.quick {
            text.push_str(
                "Quick: whether everything can be measured. The numbers say nothing.\n\n",
            );
        }
        text.push_str(&self::text(&self.rows));
        if let Some(message) = &self.message {
            message.write_threads(&mut text);
            message.write_doubts(&mut text);
        }
        text
    }
}

/// Rows, for people.
pub fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut line = |what: &str, measured: &str, reached: &str, target: &str, beside: &str| {
        writeln!(text, "{what:<54} {measured:>11}  {reached:<3}  {target:<26} {beside}")
            .expect("a string takes everything");
    };
    line("what", "measured", "", "target", "beside it, in the same run");
    for row in rows {
        let reached = match row.reached {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        line(&row.what, &row.measured, reached, &row.target, &row.beside);
    }
    text
}
