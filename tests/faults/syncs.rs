//! A sync that fails: the process ends with its own status, and acknowledges, delivers and shows
//! nothing after it; what it has acknowledged is there when it starts again.

use serde_json::json;

use super::common::client::{Client, c2c, xid};
use super::common::{Server, Under};
use super::preload::{Faults, Kind};

/// Exit status of a server whose log failed.
const LOG_FAILED: i32 = 74;
/// Messages with a receipt before the fault.
const BEFORE: u32 = 50;
/// Messages sent behind it, at once.
const BEHIND: u32 = 20;

fn start(faults: &Faults, args: &[&str]) -> Server {
    let under = Under { environment: faults.environment(), ..Under::default() };
    Server::start_under(under, args)
}

/// The server ends by itself, with the status and the words for it.
fn check_end(server: &mut Server) {
    assert_eq!(server.wait().code(), Some(LOG_FAILED), "{}", server.log());
    let log = server.log();
    assert!(log.contains("the log failed, no message is acknowledged any more"), "{log}");
}

/// Takes messages in order from `bob`'s device up to `last`, each once.
fn take(bob: &mut Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        let message = bob.next();
        assert_eq!((&message["id"], &message["payload"]), (&json!(xid(n)), &json!(n)));
        bob.ack(&xid(n));
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_or_delivered() {
    let faults = Faults::new();
    let mut server = start(&faults, &["--shards", "2"]);
    let mut bob = Client::connect(&server, "bob", "b");
    let mut alice = Client::connect(&server, "alice", "a");
    for n in 0..BEFORE {
        alice.send_stored(&xid(n), "bob", &json!(n));
    }
    take(&mut bob, 0..BEFORE);
    assert!(faults.synced() > i64::from(BEFORE), "{} syncs", faults.synced());
    assert_eq!(faults.failed(), 0);

    let api = server.http();
    faults.fail_syncs(&[Kind::Log]);
    for n in BEFORE..BEFORE + BEHIND {
        alice.queue_text(&c2c(&xid(n), "bob", &json!(n))).expect("connected");
    }
    alice.flush().expect("connected");
    let nothing = alice.next_text();
    assert!(nothing.is_err(), "the sender was told {nothing:?}");
    let nothing = bob.next_text();
    assert!(nothing.is_err(), "the receiver got {nothing:?}");
    check_end(&mut server);
    assert_eq!(faults.failed(), 1, "a sync is never tried again");
    assert!(api.try_request("GET", "/v1/users/alice", &json!(null)).is_none(), "nobody answers");

    faults.heal();
    server.restart(&["--shards", "2"]);
    let mut alice = Client::connect(&server, "alice", "a");
    // Whether those without a receipt are stored is open; sent again, they are there once.
    for n in 0..BEFORE + BEHIND {
        alice.send_stored(&xid(n), "bob", &json!(n));
    }
    let mut bob = Client::connect(&server, "bob", "b");
    let mut next = None;
    while next != Some(BEFORE + BEHIND) {
        let message = bob.next();
        let n = message["payload"].as_u64().expect("a number") as u32;
        // The last second of acknowledgements may have been lost.
        let expected = next.unwrap_or(if n < BEFORE { n } else { BEFORE });
        assert_eq!((&message["id"], n), (&json!(xid(n)), expected));
        bob.ack(&xid(n));
        next = Some(n + 1);
    }
    bob.nothing_more();
}

#[test]
fn a_failed_sync_ends_the_process_where_nobody_waits_for_it() {
    for durability in ["interval:5", "os"] {
        let faults = Faults::new();
        let args = ["--shards", "1", "--durability", durability];
        let mut server = start(&faults, &args);
        Client::connect(&server, "bob", "b").close();
        let mut alice = Client::connect(&server, "alice", "a");
        faults.fail_syncs(&[Kind::Log]);
        // Receipts do not wait for syncs here, so some come before the end.
        let mut stored = 0;
        if durability == "os" {
            for _ in 0..BEFORE {
                alice.send_stored(&xid(stored), "bob", &json!(stored));
                stored += 1;
            }
            // The only one is the last, and must not be taken for a proper end.
            server.signal(libc::SIGTERM);
        } else {
            while alice.send_text(&c2c(&xid(stored), "bob", &json!(stored))).is_ok() {
                match alice.next_text() {
                    Ok(text) => assert!(text.contains("C2C_SERVER_ACK"), "{text}"),
                    Err(_) => break,
                }
                stored += 1;
            }
        }
        check_end(&mut server);
        assert_eq!(faults.failed(), 1, "{durability}");
        faults.heal();
        server.restart(&args);
        // The end of the process takes nothing that was acknowledged.
        take(&mut Client::connect(&server, "bob", "b"), 0..stored);
    }
}

#[test]
fn a_table_file_that_cannot_be_synced_ends_the_process() {
    let faults = Faults::new();
    // As small as it can be: the write-ahead log makes RocksDB write tables out after 4 MiB.
    let args = ["--shards", "1", "--reserve-bytes", "1"];
    let mut server = start(&faults, &args);
    Client::connect(&server, "bob", "b").close();
    let mut alice = Client::connect(&server, "alice", "a");
    faults.fail_syncs(&[Kind::Table]);
    let text = "x".repeat(60_000);
    let mut stored = 0;
    while alice.send_text(&c2c(&xid(stored), "bob", &json!({"n": stored, "text": text}))).is_ok() {
        match alice.next_text() {
            Ok(text) => assert!(text.contains("C2C_SERVER_ACK"), "{text}"),
            Err(_) => break,
        }
        stored += 1;
        assert!(stored < 4_000, "240 MB were stored and no table was written");
    }
    check_end(&mut server);
    assert!(faults.failed() > 0);
    faults.heal();
    server.restart(&args);
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 0..stored {
        let message = bob.next();
        assert_eq!((&message["id"], &message["payload"]["n"]), (&json!(xid(n)), &json!(n)));
        bob.ack(&xid(n));
    }
}
