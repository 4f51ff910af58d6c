//! The load generator as a process, against a server that can be told to do one thing wrong: what
//! goes wrong must be found, named, and end in exit status 1.

mod crowd;
mod group;
mod stub;

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use stub::{Fault, Stub};

const SECRET: &[u8] = b"a secret of thirty-two characters";

/// Runs it with `arguments` against `server`; short, and with few users.
fn loadgen(server: &str, secret: &[u8], arguments: &[&str]) -> Output {
    let usual = ["--pairs", "4", "--warmup", "0", "--duration", "0.3", "--drain", "0.3"];
    scenario("private", server, secret, &[&usual, arguments].concat())
}

/// Runs one scenario with `arguments` against `server`.
fn scenario(name: &str, server: &str, secret: &[u8], arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("token-secret");
    std::fs::write(&file, secret).expect("written");
    let file = Path::to_str(&file).expect("temporary names are text");
    Command::new(env!("CARGO_BIN_EXE_ringpost-loadgen"))
        .args([name, "--server", server, "--secret-file", file])
        .args(arguments)
        .output()
        .expect("the binary runs")
}

/// Runs it against a stub with this fault; gives the exit status and the result.
fn run(fault: Fault, arguments: &[&str]) -> (Option<i32>, Value) {
    let stub = Stub::start(SECRET, fault);
    let arguments = [arguments, &["--json"]].concat();
    let output = loadgen(&stub.address.to_string(), SECRET, &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {errors}")))
}

/// The one kind of fault found, and how often.
fn only_fault(report: &Value) -> (String, u64) {
    let faults = report["faults"].as_object().expect("an object");
    assert_eq!(faults.len(), 1, "{faults:?}");
    let (name, count) = faults.iter().next().expect("just counted");
    (name.clone(), count.as_u64().expect("a count"))
}

#[test]
fn a_faultless_server_passes_and_every_delivery_is_acknowledged() {
    let stub = Stub::start(SECRET, Fault::None);
    let pid = std::process::id().to_string();
    for extra in [&["--threads", "1"] as &[&str], &["--threads", "3"], &["--rate", "500"]] {
        let before = stub.acknowledgements();
        let arguments = [extra, &["--json", "--server-pid", &pid]].concat();
        let output = loadgen(&stub.address.to_string(), SECRET, &arguments);
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(output.status.code(), Some(0), "{report}");
        assert_eq!(report["ok"], true);
        let sent = report["sent"].as_u64().expect("a count");
        assert!(sent > 0 && report["receipts"] == sent && report["deliveries"] == sent, "{report}");
        // The connections end with a close handshake: what was sent before has arrived.
        assert_eq!(stub.acknowledgements() - before, sent);
        let messages = report["messages"].as_u64().expect("a count");
        assert!(messages > 0 && messages <= sent);
        assert!(report["receipt"]["p50_us"].as_f64().expect("a number") > 0.0);
        assert!(report["delivery"]["count"].as_u64() >= Some(messages));
        assert!(report["server_cpu"]["us"].as_f64().expect("a number") > 0.0);
        assert!(report["client_cpu"]["us"].as_f64().expect("a number") > 0.0);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let (status, report) = run(Fault::None, &["--rate", "1000"]);
    assert_eq!(status, Some(0), "{report}");
    let count = |name: &str| report[name].as_u64().expect("a count");
    // However slow the stub is on a busy machine, no message that was due is forgotten.
    assert_eq!(count("sent") + count("unsent"), 300, "{report}");
    assert_eq!(report["receipt"]["count"], 300);
    assert!(report["send_lag"]["count"].as_u64() > Some(0));
}

#[test]
fn each_fault_is_found_and_named() {
    for (fault, name) in [
        (Fault::DropDelivery(50), "lost"),
        (Fault::DropReceipt(50), "no_receipt"),
        (Fault::Duplicate(50), "duplicate"),
        (Fault::Reorder(50), "reordered"),
        (Fault::Damage(50), "damaged"),
        (Fault::Refuse(50), "refused"),
    ] {
        let (status, report) = run(fault, &[]);
        assert_eq!(status, Some(1), "{fault:?}: {report}");
        assert_eq!(only_fault(&report), (name.to_owned(), 1), "{fault:?}: {report}");
        let examples = report["fault_examples"].as_array().expect("an array");
        assert_eq!(examples.len(), 1);
    }
}

#[test]
fn a_message_at_the_wrong_user_is_a_fault_and_a_loss() {
    let (status, report) = run(Fault::Misroute(50), &[]);
    assert_eq!(status, Some(1));
    assert_eq!(report["faults"], serde_json::json!({"lost": 1, "misrouted": 1}), "{report}");
}

#[test]
fn a_connection_that_ends_is_a_fault() {
    let (status, report) = run(Fault::HangUp(50), &[]);
    assert_eq!(status, Some(1));
    assert_eq!(report["faults"]["disconnected"], 1, "{report}");
    assert!(report["faults"]["unanswered"].as_u64() >= Some(1), "{report}");
}

#[test]
fn a_server_that_stands_still_does_not_hang_the_run() {
    let (status, report) = run(Fault::StandStill(50), &[]);
    assert_eq!(status, Some(1));
    // Four pairs with eight messages in flight each.
    assert_eq!(only_fault(&report), ("unanswered".to_owned(), 32), "{report}");
}

#[test]
fn refused_logins_are_explained() {
    let stub = Stub::start(SECRET, Fault::RefuseLogin);
    let other = Stub::start(SECRET, Fault::None);
    for (stub, secret) in [(&stub, SECRET), (&other, b"another secret of 32 characters.")] {
        let output = loadgen(&stub.address.to_string(), secret, &[]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("706") && errors.contains("--secret-file"), "{errors}");
    }
}

#[test]
fn what_cannot_be_connected_to_is_explained() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = closed.local_addr().expect("it is bound").to_string();
    drop(closed);
    let output = loadgen(&address, SECRET, &[]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains(&address) && errors.contains("is the server running"), "{errors}");
}

#[test]
fn a_server_that_speaks_no_websocket_is_explained() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("it connects");
        let mut request = [0u8; 4096];
        assert!(stream.read(&mut request).expect("it asks") > 0);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").expect("it listens");
        // The others wait for an answer until the run is given up.
        listener
    });
    let output = loadgen(&address, SECRET, &[]);
    answering.join().expect("it was asked");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("404"), "{errors}");
}

#[test]
fn usage_errors_have_their_own_status() {
    for arguments in [&["--users", "3"] as &[&str], &["--nonsense"], &["--payload", "1"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringpost-loadgen")).args(arguments).output();
        assert_eq!(output.expect("the binary runs").status.code(), Some(2), "{arguments:?}");
    }
    let output = loadgen("192.0.2.1:7070", SECRET, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-remote"));
}

#[test]
fn frames_can_be_shown() {
    let stub = Stub::start(SECRET, Fault::None);
    let address = stub.address.to_string();
    // So many that every user's are among them, whoever is the faster.
    let output =
        loadgen(&address, SECRET, &["--show", "2000", "--in-flight", "2", "--prefix", "demo-"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        r#"demo-0 -> server  {"id":""#,
        r#""type":"C2C","to":"demo-1","payload":{"msg_type":"text","text":""#,
        r#"demo-0 <- server  {"id":""#,
        r#""type":"C2C_SERVER_ACK""#,
        "demo-1 -> server  CLIENT_ACK,C2C,",
        "throughput",
        "all in order, intact, exactly once",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
