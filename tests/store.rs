//! What an operator does with a store: one that an earlier version wrote, and one whose write-ahead
//! log is damaged in the middle, which is told, never passed over, and repaired when he says so.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::client::{Client, xid};
use common::{Server, ringpost};
use serde_json::{Value, json};

/// Exit status of a server whose store has lost what was acknowledged.
const DAMAGED: i32 = 65;

#[test]
fn a_store_of_version_1_is_served() {
    let fixture = Path::new("storage/tests/fixtures/v1");
    let server = Server::start_prepared(&["--shards", "2"], |directory| {
        copy(fixture, &directory.join("data"));
    });
    let api = server.http();
    let ann = api.get("/v1/users/ann");
    assert_eq!((ann.status, &ann.json()["name"]), (200, &json!("Ann")));
    // Bob's phone has acknowledged all but the last two; the last is his own.
    let mut bob = Client::connect(&server, "bob", "phone");
    let message = bob.next();
    assert_eq!((&message["type"], &message["from"]), (&json!("C2C"), &json!("ann")));
    let text = message["payload"].as_str().expect("a text");
    assert_eq!((text.len(), &text[..3]), (7 * 39, "pqr"));
    bob.ack(message["id"].as_str().expect("an id"));
    bob.nothing_more();
    // A resend of an old message is recognised, a new one follows the old ones.
    let mut ann = Client::connect(&server, "ann", "phone");
    ann.nothing_more();
    let receipt = ann.send_stored("c39", "bob", &json!("again"));
    assert_eq!(receipt["server_ts"], message["server_ts"]);
    bob.nothing_more();
    ann.send_stored(&xid(1), "bob", &json!("new"));
    assert_eq!(bob.next()["payload"], "new");
}

/// A server that had messages from alice to bob, killed; how many.
fn crashed() -> (Server, u32) {
    let mut server = Server::start_with(&["--shards", "2"]);
    Client::connect(&server, "bob", "b").close();
    let mut alice = Client::connect(&server, "alice", "a");
    let count = 200;
    for n in 0..count {
        alice.send_stored(&xid(n), "bob", &json!({"n": n, "text": "x".repeat(500)}));
    }
    server.kill9();
    (server, count)
}

/// Flips a bit in the middle of the write-ahead log.
fn damage(server: &Server) -> PathBuf {
    let files = fs::read_dir(server.data().join("rocks")).expect("a store");
    let mut logs: Vec<PathBuf> = files
        .map(|entry| entry.expect("read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort_by_key(|path| fs::metadata(path).expect("there").len());
    let file = logs.pop().expect("a write-ahead log");
    let mut bytes = fs::read(&file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&file, bytes).expect("written");
    file
}

/// What `serve` says about a store that it does not open, and its exit status.
fn serve(data: &str) -> (Option<i32>, String) {
    let addresses = ["--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"];
    let output = ringpost(&[&["serve", "--data", data], &addresses[..]].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs `ringpost repair` and returns its status and what it printed.
fn repair(args: &[&str]) -> (Option<i32>, String) {
    let output = ringpost(&[&["repair"], args].concat());
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn a_flipped_bit_in_the_middle_is_told_and_repaired_when_the_operator_says_so() {
    let (mut server, count) = crashed();
    let data = server.data();
    let data = data.to_str().expect("UTF-8");
    let file = damage(&server);
    for _ in 0..2 {
        let (status, said) = serve(data);
        assert_eq!(status, Some(DAMAGED), "{said}");
        assert!(said.contains("acknowledged messages are damaged"), "{said}");
        assert!(said.contains(file.to_str().expect("UTF-8")), "{said}");
        assert!(said.contains(&format!("`ringpost repair {data}`")), "{said}");
    }

    let (status, said) = repair(&[data]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("Lost: the batches ") && said.contains("Nothing was changed"), "{said}");
    assert!(said.contains(&format!("ringpost repair --yes {data}")), "{said}");
    let (status, said) = repair(&["--json", data]);
    assert_eq!(status, Some(1));
    let plan: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(plan["state"], "hole");
    assert_eq!(serve(data).0, Some(DAMAGED), "nothing was changed");
    let (status, said) = repair(&["--yes", "--json", data]);
    assert_eq!(status, Some(0), "{said}");
    let done: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&done["state"], &done["lost"]), (&json!("repaired"), &plan["lost"]));
    let skipped = plan["lost"]["last"].as_u64().expect("a number") + 1_000_000;
    assert!(done["batch"].as_u64().expect("a number") >= skipped, "{done}");
    let kept = fs::read_dir(done["kept"].as_str().expect("a path")).expect("it is there").count();
    assert!(kept > 0, "what was cut off is kept");
    let (status, said) = repair(&[data]);
    assert_eq!(status, Some(0));
    assert!(said.contains("There is nothing to repair"), "{said}");

    server.restart(&["--shards", "1"]);
    let info = server.http().get("/v1/info").json();
    assert_eq!(info["store_epoch"], done["epoch"]);
    check_goes_on(&server, count);
}

/// The messages in front of the hole come, in order; those behind it are new when they are sent
/// again; no id comes twice.
fn check_goes_on(server: &Server, count: u32) {
    let mut bob = Client::connect(server, "bob", "b");
    let mut alice = Client::connect(server, "alice", "a");
    // A client id that is no xid is shown as the server's own id.
    let receipt = alice.send_stored("marker", "bob", &json!("marker"));
    let mut left = 0;
    let marker = loop {
        let message = bob.next();
        if message["payload"] == "marker" {
            break message;
        }
        assert_eq!(message["payload"]["n"], left);
        bob.ack(&xid(left));
        left += 1;
    };
    assert!((1..count).contains(&left), "{left} of {count} are left");
    bob.ack(marker["id"].as_str().expect("an id"));
    assert_eq!(marker["server_ts"], receipt["server_ts"]);
    let known = alice.send_stored(&xid(left - 1), "bob", &json!("known"));
    assert!(known["server_ts"].as_u64() <= receipt["server_ts"].as_u64());
    bob.nothing_more();
    let lost = alice.send_stored(&xid(left), "bob", &json!("lost"));
    assert!(lost["server_ts"].as_u64() >= receipt["server_ts"].as_u64(), "a new message");
    assert_eq!(bob.next()["payload"], "lost");
}

#[test]
fn a_store_that_opens_is_not_repaired() {
    let (mut server, count) = crashed();
    let data = server.data();
    let data = data.to_str().expect("UTF-8");
    for args in [&[data][..], &["--yes", data]] {
        let (status, said) = repair(args);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("opens") && said.contains("nothing was changed"), "{said}");
    }
    let (_, said) = repair(&["--json", "--yes", data]);
    let whole: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(whole["state"], "whole");
    server.restart(&[]);
    let info = server.http().get("/v1/info").json();
    assert_eq!(info["store_epoch"], whole["epoch"], "the epoch is the same");
    let mut bob = Client::connect(&server, "bob", "b");
    for n in 0..count {
        assert_eq!(bob.next()["payload"]["n"], n);
        bob.ack(&xid(n));
    }
    // In use, and not there: told, with status 1.
    for (path, words) in [(data, "in use by another process"), ("/nonexistent", "none to repair")] {
        let output = ringpost(&["repair", "--yes", path]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(words), "{said}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("read");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}
