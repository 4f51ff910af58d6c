//! What permessage-deflate costs for one message without a socket: a frame compressed as the shard
//! does it, and inflated as a connection does it. Its ceiling is the frame that stays plain.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost_core::ws::deflate::{Deflater, Inflater};
use ringpost_core::ws::extensions::Window;
use ringpost_core::ws::frame::{Opcode, begin_frame, end_frame};
use std::hint::black_box;
use std::ops::Range;

/// A private message of imboy with about as much text.
fn message(text_bytes: usize) -> String {
    let words = [
        "see",
        "you",
        "tomorrow",
        "at",
        "the",
        "station",
        "then",
        "we",
        "can",
        "talk",
        "about",
        "it",
        "again",
        "ok?",
        "\u{1f600}",
        "would",
        "be",
        "nice",
        "to",
        "have",
        "some",
        "coffee",
    ];
    let mut text = String::new();
    // The same words, in an order that does not soon repeat.
    for at in 0usize.. {
        if text.len() >= text_bytes {
            break;
        }
        text += words[(at * at + at / 7) % words.len()];
        text.push(' ');
    }
    format!(
        "{{\"id\":\"cq8fnl5ke2s4v0000001\",\"type\":\"C2C\",\"from\":\"alice\",\"to\":\"bob\",\
         \"payload\":{{\"msg_type\":\"text\",\"text\":\"{text}\"}},\"created_at\":1764054376000,\
         \"server_ts\":1764054376123}}"
    )
}

fn plain(arena: &mut Vec<u8>, text: &str) -> Range<u32> {
    arena.clear();
    let start = begin_frame(arena);
    arena.extend_from_slice(text.as_bytes());
    end_frame(arena, start, Opcode::Text)
}

fn benches(c: &mut Criterion) {
    for bytes in [256, 2048] {
        let text = message(bytes);
        let mut group = c.benchmark_group(format!("{bytes} B of text"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut arena = Vec::with_capacity(1 << 14);
        group.bench_function("frame, plain", |b| {
            b.iter(|| plain(&mut arena, black_box(&text)));
        });
        for level in [1, 3, 6, 9] {
            let mut deflater = Deflater::new(level);
            let mut compress = |arena: &mut Vec<u8>| {
                let range = plain(arena, black_box(&text));
                deflater.compress(arena, range, Window::LARGEST).expect("text compresses")
            };
            let range = compress(&mut arena);
            let saved = 100 - 100 * range.len() / text.len();
            group.bench_function(format!("frame, level {level} (saves {saved} %)"), |b| {
                b.iter(|| compress(&mut arena));
            });
            let frame = arena[range.start as usize..range.end as usize].to_vec();
            // The head of a frame of 126 to 65,535 bytes, or of a shorter one.
            let payload = if frame[1] == 126 { &frame[4..] } else { &frame[2..] };
            let mut inflater = Inflater::default();
            group.bench_function(format!("inflate, level {level}"), |b| {
                b.iter(|| inflater.inflate(false, black_box(payload)).expect("ours").len());
            });
        }
        group.finish();
    }
}

criterion_group!(all, benches);
criterion_main!(all);
