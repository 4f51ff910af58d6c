//! What a stored message costs: CPU per message at 128 per commit, a lone synced commit, reads,
//! a restart. Prints one line per question; loads nothing beyond a store of its own in a temporary
//! directory (`TMPDIR` chooses the disk).
//!
//! `cargo run --release -p ringpost-storage --example cost [-- <messages>]`; the default of
//! 200,000 takes some ten seconds.

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ringpost_core::event::{Effects, Entry, Load, MessageEntry, Position};
use ringpost_core::ids::{ConvKey, Conversation, DedupKey, DeviceId, Dialect, MessageId, UserId};
use ringpost_core::record::Kind;
use ringpost_storage::{Batch, Durability, Log, Options, Rocks};

/// Messages in one commit.
const COMMIT: u64 = 128;
/// Conversations, as in the canonical workload of the load generator.
const PAIRS: u64 = 500;
/// Content of a message.
const CONTENT: [u8; 256] = [b'x'; 256];
const TIME_MS: u64 = 4_000_000_000_000;

/// What is stored with each message.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    dedup: bool,
    /// Cursors written per message.
    rows: u64,
}

const SHAPES: [Shape; 4] = [
    Shape { name: "log + ids", dedup: false, rows: 0 },
    Shape { name: "log + ids + dedup", dedup: true, rows: 0 },
    Shape { name: "log + ids + dedup + 1 row", dedup: true, rows: 1 },
    Shape { name: "log + ids + dedup + 2 rows", dedup: true, rows: 2 },
];

fn main() {
    let messages = std::env::args().nth(1).map_or(200_000, |n| n.parse().expect("a number"));
    for durability in [Durability::Fsync, Durability::Os] {
        for shape in SHAPES {
            commits(durability, shape, messages);
        }
    }
    lone_commits();
    reads_and_restart(messages);
}

fn open(path: &std::path::Path, durability: Durability) -> Rocks {
    let options = Options { durability, ..Options::default() };
    Rocks::open(path, options).expect("the store opens")
}

/// Members, keys and how far each conversation is.
struct World {
    pairs: Vec<(UserId, UserId, ConvKey)>,
    heads: Vec<u64>,
    device: DeviceId,
    dice: u64,
    next: u64,
}

impl World {
    fn new() -> World {
        let user = |n: u64| UserId::parse(&format!("user{n:06}")).expect("valid");
        let pair = |n| {
            let (one, other) = (user(2 * n), user(2 * n + 1));
            let key = Conversation::private(&one, &other).key(7);
            (one, other, key)
        };
        World {
            pairs: (0..PAIRS).map(pair).collect(),
            heads: vec![0; PAIRS as usize],
            device: DeviceId { dialect: Dialect::Imboy, name: "device-0001".into() },
            dice: 1,
            next: 0,
        }
    }

    /// Appends a message of a random pair to a turn.
    fn message(&mut self, effects: &mut Effects, shape: Shape) {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let index = ((self.dice >> 33) % PAIRS) as usize;
        let (one, other, key) = &self.pairs[index];
        if self.heads[index] == 0 {
            let conversation = Conversation::private(one, other);
            effects.entries.push(Entry::Conversation { key: *key, conversation });
        }
        self.next += 1;
        self.heads[index] += 1;
        let mut id = [0; 12];
        id[..4].copy_from_slice(&((self.next >> 16) as u32).to_be_bytes());
        id[8..].copy_from_slice(&(self.next as u32).to_be_bytes());
        let client_id = format!("{:032x}", u128::from(self.next) * 0x9e37_79b9_7f4a_7c15);
        let start = effects.entry_bytes.len() as u32;
        effects.entry_bytes.extend_from_slice(&CONTENT);
        let record = MessageEntry {
            seq: self.heads[index],
            kind: Kind::Message,
            id: MessageId(id),
            time_ms: TIME_MS + self.next,
            sender_ms: Some(1),
            countable: self.heads[index],
            sent: [0; 2],
            sender: one.as_str().into(),
            device: self.device.clone(),
            client_id: client_id.as_str().into(),
            content: start..effects.entry_bytes.len() as u32,
            dedup: shape.dedup.then(|| DedupKey::new(*key, one, &client_id, 7)),
        };
        effects.entries.push(Entry::Message { conversation: *key, record: Box::new(record) });
        for row in 0..shape.rows {
            let user = if row == 0 { one } else { other };
            effects.entries.push(Entry::Cursor {
                user: user.clone(),
                conversation: *key,
                device: self.device.clone(),
                position: Position { acked: self.heads[index], ranges: vec![] },
            });
        }
    }
}

/// A number in one of the kernel's files about this process.
fn field(path: &str, index: usize) -> u64 {
    let text: String = fs::read_to_string(path).expect("Linux has it");
    text.split_whitespace().nth(index).and_then(|f| f.parse().ok()).expect("a number")
}

fn thread_cpu() -> Duration {
    Duration::from_nanos(field("/proc/thread-self/schedstat", 0))
}

/// User and system time of all threads, in ticks of 10 ms; the command's name has no spaces.
fn process_cpu() -> Duration {
    Duration::from_millis(10 * (field("/proc/self/stat", 13) + field("/proc/self/stat", 14)))
}

fn micros(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}

/// Turns are made, pushed and committed in groups, so that reading the clocks costs nothing.
const GROUP: u64 = 64;

fn commits(durability: Durability, shape: Shape, messages: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path(), durability);
    let mut world = World::new();
    let mut turns: Vec<_> = (0..GROUP).map(|_| (Effects::default(), [Batch::new()])).collect();
    let (mut shard, mut writer, mut wall) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (process, mut generator) = (process_cpu(), Duration::ZERO);
    let groups = messages.div_ceil(COMMIT * GROUP);
    for _ in 0..groups {
        let start = thread_cpu();
        for (effects, batches) in &mut turns {
            effects.clear();
            batches[0].clear();
            (0..COMMIT).for_each(|_| world.message(effects, shape));
        }
        let made = thread_cpu();
        turns.iter_mut().for_each(|(effects, batches)| batches[0].push(effects));
        let pushed = thread_cpu();
        let clock = Instant::now();
        for (_, batches) in &turns {
            rocks.commit(batches).expect("committed");
        }
        wall += clock.elapsed();
        writer += thread_cpu() - pushed;
        shard += pushed - made;
        generator += made - start;
    }
    let messages = groups * GROUP * COMMIT;
    let all = process_cpu().saturating_sub(process + generator);
    println!(
        "{:28} {durability:6}: batch {:.2} + writer {:.2} us CPU per message, with flushes and \
         merges {:.2}; {:.0} bytes; {:.0} us per commit",
        shape.name,
        micros(shard, messages),
        micros(writer, messages),
        micros(all, messages),
        turns[0].1[0].bytes() as f64 / COMMIT as f64,
        micros(wall, messages / COMMIT),
    );
}

fn lone_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path(), Durability::Fsync);
    let mut world = World::new();
    let mut times: Vec<_> = (0..2_000)
        .map(|_| {
            let mut effects = Effects::default();
            world.message(&mut effects, SHAPES[1]);
            let mut batch = Batch::new();
            batch.push(&effects);
            let start = Instant::now();
            rocks.commit(&[batch]).expect("committed");
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |percent: usize| times[times.len() * percent / 100].as_micros();
    println!("a lone synced commit: p50 {} us, p90 {} us, p99 {} us", at(50), at(90), at(99));
}

fn reads_and_restart(messages: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let rocks = open(dir.path(), Durability::Os);
    let mut world = World::new();
    for _ in 0..messages / COMMIT {
        let mut effects = Effects::default();
        (0..COMMIT).for_each(|_| world.message(&mut effects, SHAPES[2]));
        let mut batch = Batch::new();
        batch.push(&effects);
        rocks.commit(&[batch]).expect("committed");
    }
    reads(&rocks, &world, "memtables and tables");
    println!("{:?}", rocks.gauges());
    drop(rocks);
    let rocks = open(dir.path(), Durability::Os);
    println!("restart: {}", rocks.opening().recovery);
    reads(&rocks, &world, "tables only");
    let gauges = rocks.gauges();
    println!("{gauges:?}");
}

fn reads(rocks: &Rocks, world: &World, place: &str) {
    let time = |name: &str, load: &dyn Fn(u64) -> Load| {
        // Warms the cache, and then asks memory only.
        for n in 0..PAIRS {
            rocks.load(&load(n)).expect("answered");
        }
        let (mut answered, start) = (0, Instant::now());
        for n in 0..PAIRS {
            answered +=
                u64::from(black_box(rocks.load_cached(&load(n))).expect("no error").is_some());
        }
        let each = micros(start.elapsed(), PAIRS);
        println!("{place}: {name} {each:.2} us from memory, {answered} of {PAIRS} answered");
    };
    let pair = |n: u64| &world.pairs[n as usize % world.pairs.len()];
    let dedup = |n, id: &str| {
        let (one, _, key) = pair(n);
        Load::Dedup { key: DedupKey::new(*key, one, &format!("{id}{n}"), 7) }
    };
    time("a new message's dedup", &|n| dedup(n, "new"));
    time("a conversation", &|n| Load::Conversation { key: pair(n).2, expected: None });
    time("cursors", &|n| Load::Cursors { user: pair(n).0.clone(), conversation: pair(n).2 });
    time("an empty inbox", &|n| Load::Inbox { user: pair(n).0.clone(), after: None, limit: 256 });
    time("a page of 64 KiB", &|n| Load::Page {
        conversation: pair(n).2,
        from: 1,
        to: u64::MAX,
        bytes: 64 << 10,
    });
}
