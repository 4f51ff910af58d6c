//! The fuzz targets' corpora, replayed: every file in `fuzz/corpus` goes through what its target does
//! with it (fuzz/README.md).

use std::fs;
use std::path::Path;

use ringpost_fuzz_bodies::TARGETS;

/// Files of one target, and bytes of them all: corpora are minimised before they are committed.
const FILES_MAX: usize = 160;
const BYTES_MAX: u64 = 1 << 20;

/// Files of a directory with their names, in order.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(directory).expect("the corpus is there");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("UTF-8");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_corpus_holds() {
    let mut bytes = 0;
    for (target, run) in TARGETS {
        let files = files(&Path::new("fuzz/corpus").join(target));
        assert!((20..=FILES_MAX).contains(&files.len()), "{target}: {} files", files.len());
        for (name, data) in files {
            bytes += data.len() as u64;
            // Shown with a panic's message, which does not know the file.
            println!("{target}/{name}");
            run(&data);
        }
    }
    assert!(bytes < BYTES_MAX, "{bytes} bytes");
}

#[test]
fn every_corpus_has_its_target() {
    let corpora = fs::read_dir("fuzz/corpus").expect("the corpora are there");
    let mut found: Vec<_> = corpora
        .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
        .collect();
    let mut targets = TARGETS.map(|(target, _)| target.to_owned());
    found.sort();
    targets.sort();
    assert_eq!(found, targets);
    for target in &targets {
        let file = format!("fuzz/fuzz_targets/{target}.rs");
        let text = fs::read_to_string(&file).expect("each has its program");
        assert!(text.contains(&format!("ringpost_fuzz_bodies::{target}::run")), "{file}");
    }
}
