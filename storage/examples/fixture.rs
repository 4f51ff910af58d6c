//! Writes the sample of the tests as a store of the version of the format that this program writes:
//! that is how the stores in `storage/tests/fixtures/` were made.
//!
//! `cargo build --release --workspace --locked --examples`, then
//! `$CARGO_TARGET_DIR/release/examples/fixture storage/tests/fixtures/v2`

// The tests use more of these.
#[allow(dead_code)]
#[path = "../tests/storage/sample.rs"]
mod sample;
#[allow(dead_code)]
#[path = "../tests/storage/sample_v2.rs"]
mod sample_v2;
#[allow(dead_code)]
#[path = "../tests/storage/support.rs"]
mod support;

use std::fs;
use std::path::PathBuf;

use ringpost_storage::{Options, Rocks};

fn main() {
    let path = PathBuf::from(std::env::args().nth(1).expect("a directory that is not there yet"));
    assert!(!path.exists(), "{} is there already", path.display());
    let rocks = Rocks::open(&path, Options::default()).expect("the store opens");
    sample_v2::fill(&rocks);
    // Half in table files, half in the write-ahead log.
    sample::fill(&rocks, || rocks.flush().expect("flushed"));
    sample::check(&rocks);
    sample_v2::check(&rocks);
    drop(rocks);
    // Nothing reads these: locks, RocksDB's notes, and the options it was opened with.
    for directory in [path.clone(), path.join("rocks")] {
        for entry in fs::read_dir(directory).expect("read") {
            let path = entry.expect("read").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if ["lock", "LOCK", "LOG"].contains(&&*name)
                || name.starts_with("LOG.")
                || name.starts_with("OPTIONS")
            {
                fs::remove_file(&path).expect("removed");
            }
        }
    }
}
