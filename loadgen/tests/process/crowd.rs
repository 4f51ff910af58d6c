//! `echo`, `idle`, `connect` and `catch-up`, against the same server.

use super::stub::{Fault, Stub};
use super::{SECRET, only_fault, scenario};
use serde_json::Value;
use std::process::Command;

/// Runs a scenario against a stub with this fault; gives the exit status and the result.
fn run(name: &str, fault: Fault, arguments: &[&str]) -> (Option<i32>, Value) {
    let stub = Stub::start(SECRET, fault);
    let pid = std::process::id().to_string();
    let arguments = [arguments, &["--json", "--server-pid", &pid]].concat();
    let output = scenario(name, &stub.address.to_string(), SECRET, &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {errors}")))
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}

const IDLE: [&str; 8] =
    ["--counts", "4,9,12", "--settle", "0", "--duration", "0.4", "--heartbeat", "0.1"];
const CONNECT: [&str; 8] =
    ["--users", "8", "--conversations", "4", "--groups", "0", "--settle", "0"];
const CATCH_UP: [&str; 4] = ["--users", "5", "--messages", "20"];

#[test]
fn idle_connections_are_measured_and_answer() {
    for threads in ["1", "2"] {
        let (status, report) =
            run("idle", Fault::None, &[&IDLE[..], &["--threads", threads]].concat());
        assert_eq!(status, Some(0), "{report}");
        assert_eq!(count(&report, "connections"), 12);
        assert!(count(&report, "heartbeats") > 0, "{report}");
        let counts = report["memory"].as_array().expect("an array").iter();
        let counts: Vec<_> = counts.map(|memory| count(memory, "connections")).collect();
        assert_eq!(counts, [0, 4, 9, 12]);
        assert!(report["memory"][0]["user"].as_u64() > Some(0), "{report}");
        assert_eq!(report["slopes"].as_array().map(Vec::len), Some(2));
        assert!(report["slope"]["user_bytes"].is_number(), "{report}");
    }
}

#[test]
fn an_idle_connection_that_ends_is_a_fault() {
    // Each connection pings once when it is opened; the thirteenth ping is a heartbeat.
    let (status, report) = run("idle", Fault::HangUpAtPing(12), &IDLE);
    assert_eq!(status, Some(1), "{report}");
    assert_eq!(only_fault(&report), ("disconnected".to_owned(), 1), "{report}");
}

#[test]
fn pings_are_counted_and_all_answered() {
    let load = ["--users", "5", "--in-flight", "3", "--warmup", "0", "--duration", "0.3"];
    for threads in ["1", "2"] {
        let arguments = [&load[..], &["--threads", threads]].concat();
        let (status, report) = run("echo", Fault::None, &arguments);
        assert_eq!(status, Some(0), "{report}");
        assert!(count(&report, "echoes") > 0, "{report}");
        assert!(report["server_cpu"]["us"].as_f64() > Some(0.0), "{report}");
    }
}

#[test]
fn connections_are_counted_and_timed() {
    for threads in ["1", "2"] {
        let load = ["--at-once", "4", "--warmup", "0", "--duration", "0.4", "--threads", threads];
        let (status, report) = run("connect", Fault::None, &[&CONNECT[..], &load].concat());
        assert_eq!(status, Some(0), "{report}");
        assert!(count(&report, "connections") > 0, "{report}");
        let p50 = |name: &str| report[name]["p50_us"].as_f64().expect("a number");
        assert!(0.0 < p50("tcp") && p50("tcp") <= p50("upgraded"), "{report}");
        assert!(p50("upgraded") <= p50("usable"), "{report}");
        assert!(report["connections_per_core_s"].as_f64() > Some(0.0), "{report}");
    }
}

#[test]
fn in_a_storm_everybody_connects_once() {
    let load = ["--at-once", "8", "--storm"];
    let (status, report) = run("connect", Fault::None, &[&CONNECT[..], &load].concat());
    assert_eq!(status, Some(0), "{report}");
    assert_eq!((count(&report, "connections"), count(&report["usable"], "count")), (8, 8));
}

#[test]
fn what_comes_again_at_connect_is_a_fault() {
    let load = ["--at-once", "8", "--storm"];
    let (status, report) = run("connect", Fault::DeliverAgain, &[&CONNECT[..], &load].concat());
    assert_eq!(status, Some(1), "{report}");
    // Each of eight users had two messages.
    assert_eq!(only_fault(&report), ("duplicate".to_owned(), 16), "{report}");
}

#[test]
fn pending_messages_are_counted_and_checked() {
    for threads in ["1", "2"] {
        let arguments = [&CATCH_UP[..], &["--senders", "2", "--threads", threads]].concat();
        let (status, report) = run("catch-up", Fault::None, &arguments);
        assert_eq!(status, Some(0), "{report}");
        assert_eq!((count(&report, "receipts"), count(&report, "deliveries")), (100, 100));
        assert_eq!(count(&report["caught_up"], "count"), 5);
    }
}

#[test]
fn each_fault_of_catching_up_is_found_and_named() {
    for (fault, name) in [
        (Fault::DropDelivery(50), "lost"),
        (Fault::Duplicate(50), "duplicate"),
        (Fault::Reorder(50), "reordered"),
        (Fault::Damage(50), "damaged"),
    ] {
        let (status, report) = run("catch-up", fault, &[&CATCH_UP[..], &["--limit", "2"]].concat());
        assert_eq!(status, Some(1), "{fault:?}: {report}");
        assert_eq!(only_fault(&report), (name.to_owned(), 1), "{fault:?}: {report}");
    }
}

#[test]
fn the_descriptor_limit_is_named() {
    let stub = Stub::start(SECRET, Fault::None);
    let limited = format!(
        "ulimit -n 64 && exec {} idle --counts 10,100 --server {} --secret-file /dev/null",
        env!("CARGO_BIN_EXE_ringpost-loadgen"),
        stub.address
    );
    let output = Command::new("bash").args(["-c", &limited]).output().expect("bash runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("DESCRIPTOR LIMIT") && errors.contains("at most 32"), "{errors}");
}

#[test]
fn usage_errors_are_explained() {
    for (name, arguments, word) in [
        ("idle", &["--counts", "10"] as &[&str], "--counts"),
        ("idle", &["--counts", "10,5"], "ascend"),
        ("connect", &["--conversations", "3"], "--conversations"),
        ("connect", &["--users", "4", "--conversations", "4"], "--users"),
        ("connect", &["--users", "4", "--conversations", "0"], "--at-once"),
        ("catch-up", &["--messages", "100000000"], "messages"),
    ] {
        let output = scenario(name, "127.0.0.1:1", SECRET, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(word), "{arguments:?}: {errors}");
    }
}
