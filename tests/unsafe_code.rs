//! Where `unsafe` is: counted for each file, every block with its reason directly above it, and
//! forbidden in the crates that decide (ARCHITECTURE.md, *Invariants*).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Blocks, functions, implementations and foreign blocks that say `unsafe`. A number that grows wants a
/// reason in its commit; one that shrinks is good news.
const COUNTS: [(&str, usize); 8] = [
    // The allocator that counts, and clocks of other threads.
    ("bench/src/allocations.rs", 9),
    ("bench/src/clock.rs", 2),
    ("bench/src/server.rs", 1),
    ("loadgen/src/sys.rs", 7),
    ("src/processor.rs", 3),
    ("src/sys.rs", 25),
    // Signals to children and their limit of open files, and a disk that is full.
    // Signals to children and their limit of open files, and a disk that is full.
    ("tests/common/mod.rs", 3),
    ("tests/space.rs", 4),
];

/// Crates whose sources cannot have any.
const FORBID: [&str; 2] = ["core/src/lib.rs", "storage/src/lib.rs"];

/// All Rust sources of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut found = vec![];
    let mut directories: Vec<_> =
        ["src", "core", "storage", "loadgen", "bench", "tests", "fuzz"].map(PathBuf::from).into();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("readable").path();
            match path.file_name().and_then(|name| name.to_str()) {
                Some("target" | "corpus") => {}
                _ if path.is_dir() => directories.push(path),
                _ if path.extension().is_some_and(|extension| extension == "rs") => {
                    found.push(path)
                }
                _ => {}
            }
        }
    }
    assert!(found.len() > 100, "the sources are there");
    found.sort();
    found
}

/// The line without its comment, and without what its strings say. Good enough for these sources: none
/// has a string over several lines that says `unsafe`.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"")
}

/// Whether the word stands in the code.
fn has_unsafe(line: &str) -> bool {
    let code = code(line);
    let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    // `#[unsafe(…)]` is an attribute; it is counted, too.
    words.any(|word| word == "unsafe")
}

/// Whether a `SAFETY:` comment is directly above the statement that line `at` belongs to; between them
/// may be the statement's own beginning and attributes.
fn has_reason(lines: &[&str], at: usize) -> bool {
    for line in lines[..at].iter().rev().map(|line| line.trim()) {
        if line.starts_with("//") {
            if line.contains("SAFETY:") || line.contains("# Safety") {
                return true;
            }
            continue;
        }
        // Another statement, or the beginning of what this one is in.
        if line.is_empty() || line.ends_with([';', '}', '{']) {
            return false;
        }
    }
    false
}

#[test]
fn unsafe_code_is_where_it_is_known_to_be() {
    let mut found = BTreeMap::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let count = text.lines().filter(|line| has_unsafe(line)).count();
        let name = path.to_str().expect("UTF-8").to_owned();
        found.insert(name, count);
    }
    let expected: BTreeMap<String, usize> =
        COUNTS.into_iter().map(|(path, count)| (path.to_owned(), count)).collect();
    found.retain(|_, count| *count > 0);
    assert_eq!(found, expected);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut reasons = 0;
    for path in sources() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| has_unsafe(line)) {
            // An implementation's functions are promised by its trait; their blocks have reasons.
            if code(line).contains("unsafe fn") {
                continue;
            }
            let place = format!("{}:{}: {line}", path.display(), at + 1);
            assert!(has_reason(&lines, at), "no SAFETY comment directly above {place}");
            reasons += 1;
        }
    }
    assert!(reasons > 30, "they were looked at: {reasons}");
}

#[test]
fn what_decides_has_none() {
    for path in FORBID {
        let text = fs::read_to_string(Path::new(path)).expect("UTF-8");
        assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "{path}");
    }
}

/// The test's own eyes.
#[test]
fn the_scanner_sees_what_it_looks_for() {
    for line in ["    let x = unsafe { f() };", "unsafe impl A for B {", "#[unsafe(no_mangle)]"] {
        assert!(has_unsafe(line), "{line}");
    }
    for line in ["// unsafe", "#![forbid(unsafe_code)]", "print(\"unsafe\");", "let unsafely = 1;"]
    {
        assert!(!has_unsafe(line), "{line}");
    }
    let lines = ["// SAFETY: because.", "let x =", "    unsafe { f() };", "unsafe { g() };"];
    assert!(has_reason(&lines, 2) && !has_reason(&lines, 3));
}
