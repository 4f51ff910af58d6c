//! The `group` scenario, and groups of `connect`, against the same server.

use super::stub::{Fault, Stub};
use super::{SECRET, only_fault, scenario};
use serde_json::Value;

/// Runs a scenario with a key that the API of a stub with this fault knows.
fn run(name: &str, fault: Fault, arguments: &[&str]) -> (Option<i32>, Value) {
    let stub = Stub::start(SECRET, fault);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let key = dir.path().join("api-key");
    std::fs::write(&key, "the key\n").expect("written");
    let (key, api) = (key.to_str().expect("temporary names are text"), stub.api.to_string());
    let arguments = [arguments, &["--api", &api, "--api-key-file", key, "--json"]].concat();
    let output = scenario(name, &stub.address.to_string(), SECRET, &arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {errors}")))
}

const USUAL: [&str; 8] = ["--groups", "2", "--members", "5", "--senders", "2", "--drain", "0.3"];
const SHORT: [&str; 4] = ["--warmup", "0", "--duration", "0.3"];

#[test]
fn a_faultless_server_passes_and_every_member_gets_every_message() {
    for extra in [&["--threads", "1"] as &[&str], &["--threads", "2"], &["--rate", "100"]] {
        let (status, report) = run("group", Fault::None, &[&USUAL[..], &SHORT, extra].concat());
        assert_eq!(status, Some(0), "{report}");
        let count = |name: &str| report[name].as_u64().expect("a count");
        assert!(count("sent") > 0, "{report}");
        assert_eq!((count("receipts"), count("deliveries")), (count("sent"), 4 * count("sent")));
        assert!(count("deliveries_measured") > 0, "{report}");
        let max = |name: &str| report[name]["max_us"].as_f64().expect("a number");
        assert!(0.0 < max("first") && max("first") <= max("last"), "{report}");
    }
}

#[test]
fn who_reads_nothing_before_the_load_is_over_gets_all_of_it_then() {
    let extra = ["--stalled", "1", "--rate", "200", "--drain", "5"];
    let usual = &USUAL[..6];
    let (status, report) = run("group", Fault::None, &[usual, &SHORT, &extra].concat());
    assert_eq!(status, Some(0), "{report}");
    let sent = report["sent"].as_u64().expect("a count");
    assert!(sent > 0, "{report}");
    assert_eq!(report["deliveries"], 3 * sent, "the others'");
    let stalled = &report["stalled"];
    assert_eq!((&stalled["pending"], &stalled["deliveries"]), (&sent.into(), &sent.into()));
    assert_eq!(stalled["catch_up"]["count"], 2, "one of each group");
}

#[test]
fn a_group_that_is_made_in_parts_tells_its_members_who_acknowledge_that() {
    let load = ["--members", "450", "--in-flight", "1", "--drain", "5"];
    let (status, report) = run("group", Fault::None, &[&load[..], &SHORT].concat());
    assert_eq!(status, Some(0), "{report}");
    assert_eq!(report["members"], 450);
}

#[test]
fn each_fault_is_found_and_named() {
    for (fault, name) in [
        (Fault::DropDelivery(20), "lost"),
        (Fault::DropReceipt(20), "no_receipt"),
        (Fault::Duplicate(20), "duplicate"),
        (Fault::Damage(20), "damaged"),
    ] {
        let (status, report) = run("group", fault, &[&USUAL[..], &SHORT].concat());
        assert_eq!(status, Some(1), "{fault:?}: {report}");
        assert_eq!(only_fault(&report), (name.to_owned(), 1), "{fault:?}: {report}");
    }
}

#[test]
fn connecting_users_can_be_members_of_groups() {
    let load = ["--users", "8", "--conversations", "0", "--groups", "2", "--at-once", "8"];
    let (status, report) =
        run("connect", Fault::None, &[&load[..], &["--settle", "0", "--storm"]].concat());
    assert_eq!(status, Some(0), "{report}");
    assert_eq!((&report["groups"], &report["connections"]), (&2.into(), &8.into()));
}

#[test]
fn a_wrong_key_and_a_missing_one_are_explained() {
    let stub = Stub::start(SECRET, Fault::None);
    let (server, api) = (stub.address.to_string(), stub.api.to_string());
    for (key, word) in [("/dev/null", "401"), ("/does/not/exist", "--api-key-file")] {
        let arguments = [&USUAL[..], &SHORT, &["--api", &api, "--api-key-file", key]].concat();
        let output = scenario("group", &server, SECRET, &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains(word), "{key}: {errors}");
    }
}
