//! `kill -9` at random moments under load: nothing that was acknowledged is lost, nothing is
//! delivered again that was acknowledged more than a second before, order stays, resends are
//! recognised (design invariants 2 to 5). The durability, the number of shards and the devices that
//! are connected change from round to round.
//!
//! Private conversations are here, groups whose members come and go in `crash/groups.rs`.
//! `RINGPOST_CRASH_ROUNDS` sets the number of rounds of each; the defaults are what every test run
//! does, and `make crash` does a hundred.

mod common;
#[path = "crash/groups.rs"]
mod groups;
#[path = "crash/ledger.rs"]
mod ledger;
#[path = "crash/rounds.rs"]
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Instant;

use common::Server;
use common::client::{Client, c2c, xid};
use rounds::{AGAIN, Round, rounds};
use serde_json::json;

/// Pairs that chat at the same time, each over two connections.
const PAIRS: usize = 6;
/// Messages that a sender has in flight.
const IN_FLIGHT: u32 = 8;
/// Client ids of different pairs never meet.
const IDS_PER_PAIR: u32 = 10_000_000;
/// The receiver's devices; the first is always connected.
const DEVICES: [&str; 2] = ["r", "tablet"];
/// Rounds of a test run.
const ROUNDS: usize = 20;

/// What one pair knows, over all rounds.
#[derive(Default)]
struct Pair {
    /// Numbers sent so far.
    sent: u32,
    /// Numbers with a receipt, and its time (`server_ts`).
    stored: BTreeMap<u32, u64>,
    /// Sent without a receipt when the server died.
    unanswered: Vec<u32>,
    devices: [Device; DEVICES.len()],
}

/// What a device of the receiver knows.
#[derive(Default)]
struct Device {
    /// Numbers that it got.
    got: BTreeSet<u32>,
    /// When its acknowledgement was sent.
    acked: BTreeMap<u32, Instant>,
    /// The largest number got first so far: order.
    top: Option<u32>,
}

#[test]
fn kill_9_under_load_loses_nothing_acknowledged() {
    let _alone = rounds::alone();
    let mut server = Server::start_with(&["--shards", "2"]);
    let mut pairs: Vec<Pair> = (0..PAIRS).map(|_| Pair::default()).collect();
    for pair in 0..PAIRS {
        for device in DEVICES {
            Client::connect(&server, &receiver(pair), device).close();
        }
    }
    let mut count = 0;
    for round in rounds(ROUNDS) {
        count += 1;
        let killed;
        let connected = if round.all_devices() { DEVICES.len() } else { 1 };
        (pairs, killed) = load_and_kill(&mut server, pairs, connected, &round);
        round.restart(&mut server);
        thread::scope(|scope| {
            for (number, pair) in pairs.iter_mut().enumerate() {
                let (server, round) = (&server, &round);
                scope.spawn(move || verify(server, number, pair, killed, round));
            }
        });
    }
    let stored: usize = pairs.iter().map(|pair| pair.stored.len()).sum();
    assert!(stored > 100 * PAIRS, "the load was real: {stored}");
    println!("{count} rounds, {stored} messages acknowledged, none lost");
}

fn sender(pair: usize) -> String {
    // Which of the two ids is smaller, and so whose shard is the conversation's, changes.
    if pair.is_multiple_of(2) { format!("a-sender-{pair}") } else { format!("z-sender-{pair}") }
}

fn receiver(pair: usize) -> String {
    format!("receiver-{pair}")
}

fn id(pair: usize, number: u32) -> String {
    xid(pair as u32 * IDS_PER_PAIR + number)
}

/// All pairs chat, over the first devices, until the server is killed.
fn load_and_kill(
    server: &mut Server,
    pairs: Vec<Pair>,
    devices: usize,
    round: &Round,
) -> (Vec<Pair>, Instant) {
    let mut ready = Vec::new();
    for (number, pair) in pairs.into_iter().enumerate() {
        let sending = Client::connect(server, &sender(number), "s");
        let connect = |device: &&str| Client::connect(server, &receiver(number), device);
        let receiving: Vec<Client> = DEVICES[..devices].iter().map(connect).collect();
        ready.push((number, pair, sending, receiving));
    }
    let threads: Vec<_> = ready
        .into_iter()
        .map(|(number, pair, sending, receiving)| {
            let receive = |client| thread::spawn(move || receive(number, client));
            let got: Vec<_> = receiving.into_iter().map(receive).collect();
            (thread::spawn(move || send(number, pair, sending)), got)
        })
        .collect();
    let killed = round.kill(server);
    let collect = threads.into_iter().map(|(sending, receiving)| {
        let mut pair = sending.join().expect("the sender ended");
        for (device, receiving) in pair.devices.iter_mut().zip(receiving) {
            let (got, acked) = receiving.join().expect("the receiver ended");
            for number in got {
                let first = device.top.is_none_or(|top| top < number);
                assert!(first, "{number} is out of order or again");
                device.top = Some(number);
                device.got.insert(number);
            }
            device.acked.extend(acked);
        }
        pair
    });
    (collect.collect(), killed)
}

/// Sends as fast as receipts come, until the connection breaks.
fn send(number: usize, mut pair: Pair, mut client: Client) -> Pair {
    let mut open = BTreeSet::new();
    loop {
        while open.len() < IN_FLIGHT as usize {
            let n = pair.sent;
            let frame = c2c(&id(number, n), &receiver(number), &json!(n));
            if client.queue_text(&frame).is_err() {
                pair.unanswered.extend(&open);
                return pair;
            }
            pair.sent += 1;
            open.insert(n);
        }
        let answer = client.flush().and_then(|()| client.next_text());
        let Ok(text) = answer else {
            pair.unanswered.extend(&open);
            return pair;
        };
        let receipt: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(receipt["type"], "C2C_SERVER_ACK", "{text}");
        let first = open.iter().copied().find(|n| receipt["id"] == id(number, *n));
        let n = first.unwrap_or_else(|| panic!("a receipt for nothing open: {text}"));
        open.remove(&n);
        pair.stored.insert(n, receipt["server_ts"].as_u64().expect("ms"));
    }
}

/// Acknowledges all but every fiftieth message, until the connection breaks.
fn receive(number: usize, mut client: Client) -> (Vec<u32>, BTreeMap<u32, Instant>) {
    let (mut got, mut acked) = (Vec::new(), BTreeMap::new());
    while let Ok(text) = client.next_text() {
        let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        if message["type"] == "S2C" {
            // Of the other device.
            let id = message["id"].as_str().expect("an id");
            let _gone_already = client.send_text(&format!("CLIENT_ACK,S2C,{id},{}", client.did));
            continue;
        }
        let n = message["payload"].as_u64().expect("a number") as u32;
        got.push(n);
        let ack = format!("CLIENT_ACK,C2C,{},{}", id(number, n), client.did);
        if !n.is_multiple_of(50) && client.send_text(&ack).is_ok() {
            acked.insert(n, Instant::now());
        }
    }
    (got, acked)
}

/// After the restart: what is pending comes, what was acknowledged in time does not, resends are
/// recognised.
fn verify(server: &Server, number: usize, pair: &mut Pair, killed: Instant, round: &Round) {
    let context = format!("pair {number}, round {}", round.number);
    let mut sending = Client::connect(server, &sender(number), "s");
    for n in std::mem::take(&mut pair.unanswered) {
        // A client sends again what was not answered; it may be stored already.
        sending.send_c2c(&id(number, n), &receiver(number), &json!(n));
        let receipt = sending.next();
        assert_eq!(receipt["id"], id(number, n), "{context}");
        pair.stored.insert(n, receipt["server_ts"].as_u64().expect("ms"));
    }
    if let Some((n, ts)) = pair.stored.iter().next_back() {
        sending.send_c2c(&id(number, *n), &receiver(number), &json!(n));
        assert_eq!(sending.next()["server_ts"], *ts, "{context}: the first result again");
    }
    let stored = &pair.stored;
    for (name, device) in DEVICES.into_iter().zip(&mut pair.devices) {
        let client = Client::connect(server, &receiver(number), name);
        verify_device(client, number, stored, device, killed, &format!("{context}, {name}"));
    }
}

fn verify_device(
    mut receiving: Client,
    number: usize,
    stored: &BTreeMap<u32, u64>,
    device: &mut Device,
    killed: Instant,
    context: &str,
) {
    let acked = device.acked.clone();
    let mut previous = None;
    let mut waiting: BTreeSet<u32> =
        stored.keys().copied().filter(|n| !acked.contains_key(n)).collect();
    let mut take = |message: serde_json::Value, waiting: &mut BTreeSet<u32>| {
        let n = message["payload"].as_u64().expect("a number") as u32;
        assert!(previous < Some(n), "{context}: {n} behind {previous:?}");
        previous = Some(n);
        if let Some(acked) = acked.get(&n) {
            let age = killed.saturating_duration_since(*acked);
            assert!(age < AGAIN, "{context}: {n} again, acknowledged {age:?} before the crash");
        }
        assert!(stored.contains_key(&n), "{context}: {n} was never stored");
        device.got.insert(n);
        device.acked.insert(n, Instant::now());
        device.top = device.top.max(Some(n));
        waiting.remove(&n);
        n
    };
    // A lost message would make this wait until the client's deadline.
    while !waiting.is_empty() {
        let n = take(receiving.next(), &mut waiting);
        receiving.ack(&id(number, n));
    }
    // Acknowledgements of the last second may have been lost: those messages may come again.
    loop {
        receiving.send_text("ping").expect("connected");
        let mut more = false;
        loop {
            let message = receiving.next();
            if message == "pong2" {
                break;
            }
            let n = take(message, &mut waiting);
            receiving.ack(&id(number, n));
            more = true;
        }
        if !more {
            break;
        }
    }
    receiving.close();
    assert_eq!(device.got.len(), stored.len(), "{context}: everything stored was delivered");
}
