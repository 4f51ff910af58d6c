//! What the core costs: a private message with its receipt, its delivery and both acknowledgements,
//! through `ws`, dialect and shard, over a log that answers from memory. The server's CPU per
//! message is this, the kernel's sockets, and the store.

#[path = "../src/exchange.rs"]
mod exchange;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use exchange::Exchange;

/// Pairs of users, as in the canonical workload of the load generator.
const PAIRS: u32 = 500;

fn turns(c: &mut Criterion) {
    let mut group = c.benchmark_group("a private message, both acknowledgements");
    for messages in [1, 32, 256] {
        group.throughput(Throughput::Elements(messages.into()));
        let mut exchange = Exchange::new(PAIRS);
        group.bench_function(format!("{messages} in a turn"), |b| {
            b.iter(|| exchange.turn(messages));
        });
    }
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
