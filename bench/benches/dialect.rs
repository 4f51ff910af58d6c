//! What imboy's frames cost: reading a client's, writing the server's. Its ceiling is a copy of the
//! same bytes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost_core::dialect::imboy;
use ringpost_core::dialect::json::Scratch;
use ringpost_core::ids::{Dialect, MessageId};
use ringpost_core::record::{Kind, Record};
use std::hint::black_box;

const PAYLOAD_BYTES: usize = 256;

fn payload() -> String {
    let text = "x".repeat(PAYLOAD_BYTES - r#"{"msg_type":"text","text":""}"#.len());
    format!(r#"{{"msg_type":"text","text":"{text}"}}"#)
}

fn decode(c: &mut Criterion) {
    let message = |kind: &str| {
        let payload = payload();
        format!(
            r#"{{"id":"9m4e2mr0ui3e8a215n4g","type":"{kind}","to":"user-12345","created_at":1700000000000,"payload":{payload}}}"#
        )
    };
    let mut group = c.benchmark_group("imboy decode");
    for (name, text) in [
        ("C2C, 256 B payload", message("C2C")),
        ("C2G, 256 B payload", message("C2G")),
        ("CLIENT_ACK", "CLIENT_ACK,C2C,9m4e2mr0ui3e8a215n4g,device-12345".to_owned()),
        ("ping", "ping".to_owned()),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        let mut scratch = Scratch::default();
        group.bench_function(name, |b| {
            b.iter(|| {
                let frame = imboy::decode(black_box(text.as_bytes()), &mut scratch);
                black_box(frame).expect("a valid frame");
            });
        });
        let mut copy = vec![0u8; text.len()];
        group.bench_function(format!("{name}, a copy beside it"), |b| {
            b.iter(|| black_box(&mut copy[..]).copy_from_slice(black_box(text.as_bytes())));
        });
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let payload = payload();
    let record = Record {
        seq: 7,
        kind: Kind::Message,
        id: MessageId([9; 12]),
        time_ms: 1_700_000_000_001,
        sender_ms: Some(1_700_000_000_000),
        countable: 7,
        sent: [0; 2],
        sender: "user-12344",
        dialect: Dialect::Imboy,
        device: "device-12344",
        client_id: "9m4e2mr0ui3e8a215n4g",
        content: payload.as_bytes(),
    };
    let settings = imboy::Settings::default();
    let mut out = Vec::with_capacity(1 << 12);
    let mut group = c.benchmark_group("imboy encode");
    group.throughput(Throughput::Elements(1));
    group.bench_function("C2C, 256 B payload", |b| {
        b.iter(|| {
            out.clear();
            imboy::write_message(&settings, black_box(&record), "C2C", "user-12345", &mut out);
            out.len()
        });
    });
    group.bench_function("C2C_SERVER_ACK", |b| {
        b.iter(|| {
            out.clear();
            let id = black_box("9m4e2mr0ui3e8a215n4g");
            imboy::write_server_ack(false, id, 1_700_000_000_001, &mut out);
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
