//! `/metrics`: the process's counters as OpenMetrics text. It names them and says what they mean;
//! it counts nothing.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use ringpost_storage::Gauges;

use super::auth::Caller;
use super::error::ApiError;
use super::{Process, Shared};
use crate::config::Scope;
use crate::stats::{BUCKETS, Counter, Histogram, ShardStats};
use crate::sys;

/// The text of all metrics. Needs `read`, unless it is public.
pub async fn metrics(
    State(shared): State<Arc<Shared>>,
    caller: Option<axum::Extension<Caller>>,
) -> Result<impl IntoResponse, ApiError> {
    if let Some(caller) = caller {
        caller.must(Scope::Read)?;
    }
    let mut registry = Registry::with_prefix("ringpost");
    registry.register_collector(Box::new(Page(shared.process.clone())));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(|_| ApiError::internal("the metrics cannot be written"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

/// What a shard's counter is called and means.
struct Row {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    of: fn(&ShardStats) -> &Counter,
}

const fn counter(name: &'static str, help: &'static str, of: fn(&ShardStats) -> &Counter) -> Row {
    Row { name, help, kind: MetricType::Counter, of }
}

const fn gauge(name: &'static str, help: &'static str, of: fn(&ShardStats) -> &Counter) -> Row {
    Row { name, help, kind: MetricType::Gauge, of }
}

const ROWS: &[Row] = &[
    gauge("connections", "Connections that are open", |s| &s.connections),
    gauge("handshakes", "Sockets whose upgrade request is being read", |s| &s.handshakes),
    counter("accepted", "Sockets accepted", |s| &s.accepted),
    counter("refused", "Upgrade requests refused", |s| &s.refused),
    counter("limited", "Upgrade requests over a limit of their address", |s| &s.limited),
    counter("accept_errors", "Accepts that failed or were dropped", |s| &s.accept_errors),
    counter("received_bytes", "Bytes read from sockets", |s| &s.bytes_in),
    counter("sent_bytes", "Bytes written to sockets", |s| &s.bytes_out),
    counter("messages", "WebSocket messages read", |s| &s.messages_in),
    counter("inflated_from_bytes", "Bytes of compressed messages read", |s| &s.inflated_from_bytes),
    counter("inflated_bytes", "What they inflated to", |s| &s.inflated_bytes),
    counter("deflated_from_bytes", "Bytes of frames before compression, once per frame", |s| {
        &s.deflated_from_bytes
    }),
    counter("deflated_bytes", "Bytes of the same frames after it", |s| &s.deflated_bytes),
    counter("frames", "Frames and handshake answers written", |s| &s.writes_out),
    counter("sends", "Writes to sockets; one may carry several frames", |s| &s.sends),
    counter("protocol_closes", "Connections ended for breaking the protocol", |s| {
        &s.protocol_closes
    }),
    counter("stalled_closes", "Connections ended because the peer took no byte", |s| {
        &s.stalled_closes
    }),
    counter("turns", "Turns of the shard", |s| &s.turns),
    counter("turns_logged", "Turns handed to the log", |s| &s.turns_logged),
    gauge("turns_waiting", "Turns handed to the log and not durable yet", |s| &s.turns_waiting),
    counter("parcels_received", "Parcels taken from the inbox", |s| &s.parcels_in),
    counter("parcels_sent", "Parcels sent to other shards", |s| &s.parcels_out),
    gauge("inbox", "Parcels in the inbox at the last turn", |s| &s.inbox),
    counter("loads_cached", "Loads answered from memory", |s| &s.loads_cached),
    counter("loads_read", "Loads given to a reader thread", |s| &s.loads_read),
    gauge("waiting_connections", "Connections whose data frames wait", |s| &s.waiting),
    gauge("unfinished_bytes", "Bytes of unfinished or waiting messages", |s| &s.unfinished_bytes),
    gauge("queued_bytes", "Bytes that wait to be written to sockets", |s| &s.queued_bytes),
    gauge("users", "Users in memory", |s| &s.users),
    gauge("conversations", "Conversations in memory", |s| &s.conversations),
    gauge("requests", "Requests taken from sockets and not answered yet", |s| &s.requests),
    gauge("loads_waiting", "Loads without an answer yet", |s| &s.loads_waiting),
    gauge("catch_ups", "Devices that catch up or wait for it", |s| &s.catch_ups),
    gauge("owed", "What homes have to cause in other logs", |s| &s.owed),
    gauge("due", "Scheduled messages that are due soon", |s| &s.due),
    gauge("pending", "Messages sent to connected devices and not acknowledged", |s| &s.pending),
];

/// The store's sizes: name, meaning, value.
type StoreRow = (&'static str, &'static str, fn(&Gauges) -> u64);

const STORE_ROWS: &[StoreRow] = &[
    ("store_wal_bytes", "Files of the write-ahead log", |g| g.wal),
    ("store_memtable_bytes", "Memtables, those being flushed included", |g| g.memtables),
    ("store_block_cache_bytes", "Blocks of table files in the cache", |g| g.block_cache),
    ("store_table_reader_bytes", "Indexes and filters of open table files", |g| g.table_readers),
    ("store_table_bytes", "Table files on disk", |g| g.tables),
    ("store_compaction_pending_bytes", "What compactions are behind by", |g| g.compaction_pending),
    ("store_background_errors", "Failed flushes and compactions", |g| g.background_errors),
    ("store_write_stopped", "1 while writes wait for flushes or compactions", |g| g.write_stopped),
];

/// Reads the counters when it is asked to.
struct Page(Process);

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Page")
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Process { mesh, health, stats, store, .. } = &self.0;
        for row in ROWS {
            let mut family = encoder.encode_descriptor(row.name, row.help, None, row.kind)?;
            for (index, shard) in stats.shards().iter().enumerate() {
                let labels = [("shard", index.to_string())];
                let value = (row.of)(shard).read();
                one(family.encode_family(&labels)?, row.kind, value)?;
            }
        }
        let log = stats.log();
        single(&mut encoder, "log_commits", "Commits", MetricType::Counter, log.commits.read())?;
        let entries = log.entries.read();
        single(&mut encoder, "log_entries", "Entries written", MetricType::Counter, entries)?;
        let help = "Turns of shards that one commit carried";
        histogram(&mut encoder, "log_commit_turns", help, &log.turns, 1.0)?;
        let help = "Time that a commit takes";
        histogram(&mut encoder, "log_commit_seconds", help, &log.commit_us, 1e-6)?;
        let help = "1 when new connections should be sent here";
        let ready = u64::from(health.ready().is_ok());
        single(&mut encoder, "ready", help, MetricType::Gauge, ready)?;
        let (free, reserve) = health.disk();
        let help = "Free bytes of the store's disk";
        single(&mut encoder, "disk_free_bytes", help, MetricType::Gauge, free)?;
        let help = "Bytes of the store's disk that are kept free";
        single(&mut encoder, "disk_reserve_bytes", help, MetricType::Gauge, reserve)?;
        let help = "Time since the process began";
        let uptime = health.uptime().as_secs();
        single(&mut encoder, "uptime_seconds", help, MetricType::Gauge, uptime)?;
        let help = "Questions of the HTTP API that shards have not answered yet";
        single(&mut encoder, "api_questions", help, MetricType::Gauge, mesh.asks() as u64)?;
        let help = "The version that runs: 1, with its name as a label";
        let mut family = encoder.encode_descriptor("build", help, None, MetricType::Gauge)?;
        let labels = [("version", env!("CARGO_PKG_VERSION"))];
        one(family.encode_family(&labels)?, MetricType::Gauge, 1)?;
        if let Some(store) = store.upgrade() {
            let gauges = store.gauges();
            for (name, help, of) in STORE_ROWS {
                single(&mut encoder, name, help, MetricType::Gauge, of(&gauges))?;
            }
        }
        let (now, peak) = sys::allocated_bytes();
        let help = "Memory that the allocator holds from the kernel";
        single(&mut encoder, "allocator_bytes", help, MetricType::Gauge, now)?;
        let help = "The same, at most so far";
        single(&mut encoder, "allocator_peak_bytes", help, MetricType::Gauge, peak)?;
        process(&mut encoder)
    }
}

/// What the kernel knows of the process. Nothing is shown when /proc is not there.
fn process(encoder: &mut DescriptorEncoder) -> fmt::Result {
    if let Some(bytes) = resident_bytes() {
        single(encoder, "resident_bytes", "Resident memory", MetricType::Gauge, bytes)?;
    }
    if let Some(seconds) = cpu_seconds() {
        let help = "Processor time of all threads, in user and kernel mode";
        let family = encoder.encode_descriptor("cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(family)?;
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        let count = entries.count() as u64;
        single(encoder, "open_files", "Open descriptors", MetricType::Gauge, count)?;
    }
    Ok(())
}

fn single(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: MetricType,
    value: u64,
) -> fmt::Result {
    one(encoder.encode_descriptor(name, help, None, kind)?, kind, value)
}

fn one(encoder: MetricEncoder, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(encoder),
        // Gauges are signed in the format; none of ours comes near the end.
        _ => ConstGauge::new(value as i64).encode(encoder),
    }
}

/// None of ours has any; the library asks for their type all the same.
type Exemplars = HashMap<usize, Exemplar<NoLabelSet, f64>>;

/// `unit` is what one of the histogram's steps is in the unit of the name.
fn histogram(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    histogram: &Histogram,
    unit: f64,
) -> fmt::Result {
    let mut buckets = [(0.0, 0); BUCKETS];
    for (power, (bucket, counter)) in buckets.iter_mut().zip(&histogram.buckets).enumerate() {
        // Bucket n holds whole numbers below 2^n: those up to 2^n - 1, as `le` has it.
        let largest =
            if power == BUCKETS - 1 { f64::INFINITY } else { 2f64.powi(power as i32) - 1.0 };
        *bucket = (largest * unit, counter.read());
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = histogram.sum.read() as f64 * unit;
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    family.encode_histogram(sum, count, &buckets, None::<&Exemplars>)
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold anything; what follows are numbers. utime and stime are the
    // 14th and 15th of all fields, in ticks of 10 ms whatever the kernel's own clock is.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;
    use crate::mesh::Mesh;
    use crate::stats::Stats;
    use ringpost_storage::{Fake, FakeSeed, Log};
    use std::collections::BTreeSet;
    use std::time::Duration;

    fn text(process: Process) -> String {
        let mut registry = Registry::with_prefix("ringpost");
        registry.register_collector(Box::new(Page(process)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String");
        text
    }

    #[test]
    fn counters_are_shown_for_each_shard() {
        let (mesh, _inboxes) = Mesh::new(2).expect("descriptors");
        let stats = Stats::new(2);
        stats.shards()[0].connections.set(7);
        stats.shards()[1].messages_in.set(9);
        stats.shards()[1].pending.set(4);
        stats.log().committed(3, 5, Duration::from_micros(1000));
        let log: Arc<dyn Log> = Arc::new(Fake::new(FakeSeed::default()));
        let store = Arc::downgrade(&log);
        let text = text(Process {
            mesh,
            health: Health::default(),
            stats,
            store,
            dialects: Arc::default(),
            epoch: 0,
        });
        for line in [
            "ringpost_connections{shard=\"0\"} 7",
            "ringpost_connections{shard=\"1\"} 0",
            "ringpost_messages_total{shard=\"1\"} 9",
            "ringpost_pending{shard=\"1\"} 4",
            "ringpost_log_commits_total 1",
            "ringpost_log_entries_total 5",
            "ringpost_log_commit_turns_bucket{le=\"1.0\"} 0",
            "ringpost_log_commit_turns_bucket{le=\"3.0\"} 1",
            "ringpost_log_commit_turns_bucket{le=\"+Inf\"} 1",
            "ringpost_log_commit_seconds_sum 0.001",
            "ringpost_log_commit_seconds_count 1",
            "ringpost_ready 0",
            "ringpost_api_questions 0",
            "ringpost_store_background_errors 0",
            concat!("ringpost_build{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# TYPE ringpost_cpu_seconds counter",
            "# TYPE ringpost_resident_bytes gauge",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_document_has_what_is_served_and_nothing_else() {
        let (mesh, _inboxes) = Mesh::new(1).expect("a descriptor");
        let log: Arc<dyn Log> = Arc::new(Fake::new(FakeSeed::default()));
        let store = Arc::downgrade(&log);
        let text = text(Process {
            mesh,
            health: Health::default(),
            stats: Stats::new(1),
            store,
            dialects: Arc::default(),
            epoch: 0,
        });
        let mut served = BTreeSet::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a kind");
            let total = if kind == "counter" { "_total" } else { "" };
            let of_shard = text.contains(&format!("{name}{total}{{shard="));
            let label = if of_shard { "shard" } else { "" };
            served.insert((format!("{name}{total}"), kind.to_owned(), label.to_owned()));
        }
        // | `name` | kind | label | meaning |
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `ringpost_")?.split('|').map(str::trim);
            let name = format!("ringpost_{}", cells.next()?.trim_end_matches('`'));
            let (kind, label) = (cells.next()?.to_owned(), cells.next()?.to_owned());
            assert!(cells.next().is_some_and(|meaning| !meaning.is_empty()), "{name}");
            let label = if label == "version" { String::new() } else { label };
            Some((name, kind, label))
        };
        let documented = include_str!("../../METRICS.md").lines().filter_map(row);
        assert_eq!(documented.collect::<BTreeSet<_>>(), served);
    }

    #[test]
    fn the_allocator_says_what_it_holds() {
        let (now, peak) = sys::allocated_bytes();
        assert!(now > 1 << 16 && peak >= now, "{now} {peak}");
    }

    #[test]
    fn the_kernel_says_what_we_use() {
        assert!(resident_bytes().expect("a line in /proc/self/status") > 1 << 16);
        assert!(cpu_seconds().expect("fields in /proc/self/stat") >= 0.0);
    }
}
