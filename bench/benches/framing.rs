//! What WebSocket framing costs without a socket: masks, heads, whole messages from a read buffer,
//! frames into a write arena. Its ceiling is a copy of the same bytes.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringpost_core::ws::frame::{
    Opcode, Role, begin_frame, encode_head, encode_masked, end_frame, unmask,
};
use ringpost_core::ws::message::{Event, Receiver};
use std::hint::black_box;

/// Frames in one read buffer, as they come when a client has several messages in flight.
const FRAMES: usize = 16;
/// A private message of 256 B as imboy sends it.
const MESSAGE_BYTES: usize = 340;

fn masks(c: &mut Criterion) {
    let mut group = c.benchmark_group("unmask");
    for bytes in [64usize, 340, 4096, 65_536] {
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut payload = vec![b'x'; bytes];
        group.bench_function(format!("{bytes} B"), |b| {
            b.iter(|| unmask(black_box(&mut payload), black_box([1, 2, 3, 4]), 0));
        });
        let (from, mut to) = (vec![b'x'; bytes], vec![0u8; bytes]);
        group.bench_function(format!("{bytes} B, a copy beside it"), |b| {
            b.iter(|| black_box(&mut to[..]).copy_from_slice(black_box(&from)));
        });
    }
    group.finish();
}

fn messages_in(c: &mut Criterion) {
    let mut stream = Vec::new();
    for _ in 0..FRAMES {
        encode_masked(Opcode::Text, &[b'x'; MESSAGE_BYTES], [1, 2, 3, 4], &mut stream);
    }
    let mut group = c.benchmark_group("receive");
    group.throughput(Throughput::Elements(FRAMES as u64));
    group.bench_function(format!("{FRAMES} texts of {MESSAGE_BYTES} B in one read"), |b| {
        let mut receiver = Receiver::new(Role::Server);
        b.iter_batched_ref(
            || stream.clone(),
            |bytes| assert_eq!(take_all(&mut receiver, bytes), FRAMES),
            BatchSize::SmallInput,
        );
    });
    group.bench_function(format!("{FRAMES} texts of {MESSAGE_BYTES} B, cut in 100 B reads"), |b| {
        let mut receiver = Receiver::new(Role::Server);
        b.iter_batched_ref(
            || stream.clone(),
            |bytes| assert_eq!(take_in_parts(&mut receiver, bytes, 100), FRAMES),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// How many messages there are in `bytes`, all of which are consumed.
fn take_all(receiver: &mut Receiver, bytes: &mut [u8]) -> usize {
    let (mut at, mut count) = (0, 0);
    loop {
        let (consumed, event) = receiver.step(&mut bytes[at..]).expect("valid frames");
        at += consumed;
        match event {
            Some(Event::Message { bytes, .. }) => {
                count += usize::from(!black_box(bytes).is_empty())
            }
            Some(_) => unreachable!("there are only messages"),
            None => return count,
        }
    }
}

/// The same, as if every read brought `part` more bytes.
fn take_in_parts(receiver: &mut Receiver, bytes: &mut [u8], part: usize) -> usize {
    let (mut at, mut have, mut count) = (0, 0, 0);
    while have < bytes.len() {
        have = bytes.len().min(have + part);
        loop {
            let (consumed, event) = receiver.step(&mut bytes[at..have]).expect("valid frames");
            at += consumed;
            count += usize::from(event.is_some());
            if event.is_none() {
                break;
            }
        }
    }
    count
}

fn frames_out(c: &mut Criterion) {
    let payload = [b'x'; MESSAGE_BYTES];
    let mut group = c.benchmark_group("send");
    group.throughput(Throughput::Elements(1));
    let mut arena = Vec::with_capacity(1 << 16);
    group.bench_function("head and payload of known length", |b| {
        b.iter(|| {
            arena.clear();
            encode_head(Opcode::Text, payload.len(), &mut arena);
            arena.extend_from_slice(black_box(&payload));
            arena.len()
        });
    });
    group.bench_function("payload first, then its head", |b| {
        b.iter(|| {
            arena.clear();
            let start = begin_frame(&mut arena);
            arena.extend_from_slice(black_box(&payload));
            end_frame(&mut arena, start, Opcode::Text)
        });
    });
    group.bench_function("a client's masked frame", |b| {
        b.iter(|| {
            arena.clear();
            encode_masked(Opcode::Text, black_box(&payload), [1, 2, 3, 4], &mut arena);
            arena.len()
        });
    });
    group.finish();
}

criterion_group!(benches, masks, messages_in, frames_out);
criterion_main!(benches);
