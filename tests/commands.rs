//! `ringpost check-config` and `ringpost doctor`, as they are typed.

mod common;

use std::fs;

use common::ringpost;
use serde_json::Value;

#[test]
fn the_example_is_a_good_configuration() {
    let example = ringpost(&["check-config", "--example"]);
    assert_eq!(example.status.code(), Some(0));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringpost.toml");
    fs::write(&file, &example.stdout).expect("written");
    let path = file.to_str().expect("UTF-8");
    let checked = ringpost(&["check-config", "--config", path]);
    let said = String::from_utf8(checked.stdout).expect("UTF-8");
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(said.ends_with("\ngood\n") && said.contains("drain_s = 10 "), "{said}");
    // With the # taken away, by the program that is asked, not by this test.
    let text =
        String::from_utf8(example.stdout).expect("UTF-8").replace("#drain_s = 10", "drain_s = 7");
    fs::write(&file, text).expect("written");
    let checked = ringpost(&["check-config", "--config", path, "--json"]);
    let json: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let rows = json["settings"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["key"] == "drain_s").expect("every key");
    assert_eq!((&row["value"], row["from"].as_str()), (&Value::from("7"), Some(path)));
}

#[test]
fn a_wrong_configuration_fails_the_check_and_names_the_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("ringpost.toml");
    let path = file.to_str().expect("UTF-8");
    for (text, key, problem) in [
        ("[address]\nupgrade_burst = 0", "address.upgrade_burst", "must be 1 to 1000000"),
        ("[[auth]]\npublic_key_file = \"/nonexistent\"", "auth.public_key_file", "No such file"),
        ("[[listener]]\naddress = \"[::]:1\"\nproxy_from = [\"10.0.0.1/8\"]", "listener", "prefix"),
    ] {
        fs::write(&file, text).expect("written");
        let plain = ringpost(&["check-config", "--config", path]);
        let said = String::from_utf8(plain.stdout).expect("UTF-8");
        assert_eq!(plain.status.code(), Some(1), "{said}");
        assert!(said.contains(key) && said.contains(problem), "{said}");
        let json = ringpost(&["check-config", "--config", path, "--json"]);
        assert_eq!(json.status.code(), Some(1));
        let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
        assert_eq!((&json["ok"], json["error"]["key"].as_str()), (&Value::Bool(false), Some(key)));
        assert!(json["error"]["problem"].as_str().expect("words").contains(problem), "{json}");
    }
    let serve = ringpost(&["serve", "--config", path]);
    assert_eq!(serve.status.code(), Some(2), "serve refuses what the check refuses");
}

#[test]
fn the_doctor_says_what_is_missing_and_what_fixes_it() {
    // This machine runs the other tests, so the server works on it.
    let plain = ringpost(&["doctor"]);
    let said = String::from_utf8(plain.stdout).expect("UTF-8");
    assert_eq!(plain.status.code(), Some(0), "{said}");
    for what in
        ["kernel: ", "io_uring: usable", "open files: ", "locked memory: ", "vm.swappiness: "]
    {
        assert!(said.lines().any(|line| line.contains(what)), "{what} is missing in\n{said}");
    }
    for line in said.lines() {
        let verdict = line.split_whitespace().next().expect("a word");
        assert!(["good", "advice"].contains(&verdict), "{line}");
        assert_eq!(line.contains("to fix it: "), verdict != "good", "{line}");
    }
    // No machine holds so many.
    let many = ringpost(&["doctor", "--connections", "1000000000", "--json"]);
    assert_eq!(many.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&many.stdout).expect("JSON");
    assert_eq!(json["ok"], false);
    let findings = json["findings"].as_array().expect("a list");
    let memory = findings.iter().find(|finding| finding["what"] == "memory in bytes");
    let memory = memory.expect("it is looked at");
    assert_eq!(memory["verdict"], "fatal");
    assert!(memory["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{memory}");
}
