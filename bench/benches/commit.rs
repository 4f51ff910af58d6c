//! What a commit costs: a turn of private messages through `Batch` and `Rocks`, synced. It is the
//! disk's time; CPU per message is `ringpost-bench rocks-put`. Beside it the same without the sync.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringpost_core::event::{Effects, Entry, MessageEntry};
use ringpost_core::ids::{ConvKey, Conversation, DedupKey, DeviceId, Dialect, MessageId, UserId};
use ringpost_core::record::Kind;
use ringpost_storage::{Batch, Durability, Log, Options, Rocks};

const MESSAGES: u64 = 128;
const CONTENT: [u8; 256] = [b'x'; 256];

/// A turn of messages, from number `first` on, of one conversation.
fn turn(first: u64, key: ConvKey, sender: &UserId, secret: u64) -> Effects {
    let mut effects = Effects { entry_bytes: CONTENT.to_vec(), ..Effects::default() };
    for number in first..first + MESSAGES {
        let mut id = [0; 12];
        id[4..].copy_from_slice(&number.to_be_bytes());
        let client_id = MessageId(id).to_string();
        let record = MessageEntry {
            seq: number,
            kind: Kind::Message,
            id: MessageId(id),
            time_ms: 4_000_000_000_000 + number,
            sender_ms: None,
            countable: number,
            sent: [0; 2],
            sender: sender.as_str().into(),
            device: DeviceId { dialect: Dialect::Imboy, name: "bench".into() },
            dedup: Some(DedupKey::new(key, sender, &client_id, secret)),
            client_id: client_id.into(),
            content: 0..CONTENT.len() as u32,
        };
        effects.entries.push(Entry::Message { conversation: key, record: Box::new(record) });
    }
    effects
}

fn commits(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("a commit of {MESSAGES} messages of 256 B"));
    group.throughput(Throughput::Elements(MESSAGES));
    for (name, durability) in [("fsync", Durability::Fsync), ("without a sync", Durability::Os)] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = Options { durability, ..Options::default() };
        let rocks = Rocks::open(dir.path(), options).expect("a new store opens");
        let secret = rocks.opening().secret;
        let user = |name: &str| UserId::parse(name).expect("a valid id");
        let (one, other) = (user("bench-1"), user("bench-2"));
        let key = Conversation::private(&one, &other).key(secret);
        let mut next = 1;
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let effects = turn(next, key, &one, secret);
                    next += MESSAGES;
                    let mut batch = Batch::new();
                    batch.push(&effects);
                    [batch]
                },
                |batch| rocks.commit(&batch).expect("the store works"),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, commits);
criterion_main!(benches);
