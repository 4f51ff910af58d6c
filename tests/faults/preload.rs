//! The preload library that gives a server another wall clock and syncs that fail, and the file by
//! which a test tells it to (`preload.c`).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/preload.c");
/// Numbers of 8 bytes in the control file, as in `struct control`.
const CLOCK_S: u64 = 0;
const SYNC_ERROR: u64 = 1;
const SYNC_KINDS: u64 = 2;
const SYNCED: u64 = 3;
const FAILED: u64 = 4;

/// Which files' syncs fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The write-ahead log.
    Log = 1,
    /// Table files.
    Table = 2,
}

/// The library, compiled for this test, and its control file.
pub struct Faults {
    directory: TempDir,
    control: File,
}

impl Faults {
    /// Compiles the library; no fault is on.
    ///
    /// # Panics
    /// Without a C compiler: `$CC`, else `cc`, which comes with the one that RocksDB needs.
    pub fn new() -> Faults {
        let directory = TempDir::new().expect("a temporary directory");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let output = Command::new(&compiler)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(directory.path().join("faults.so"))
            .args([SOURCE, "-ldl"])
            .output()
            .unwrap_or_else(|error| panic!("the C compiler {compiler}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = directory.path().join("control");
        let control = File::options().read(true).write(true).create_new(true).open(path);
        let control = control.expect("a new file");
        control.set_len(5 * 8).expect("there is room");
        Faults { directory, control }
    }

    /// What a server that is to have faults needs in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), text(&self.directory.path().join("faults.so"))),
            ("FAULTS_CONTROL".to_owned(), text(&self.directory.path().join("control"))),
        ]
    }

    /// The wall clock is so many seconds ahead of the machine's from now on; negative: behind.
    pub fn set_clock(&self, ahead_s: i64) {
        self.write(CLOCK_S, ahead_s);
    }

    /// From now on these files' syncs fail with EIO.
    pub fn fail_syncs(&self, kinds: &[Kind]) {
        self.write(SYNC_KINDS, kinds.iter().map(|kind| *kind as i64).sum());
        self.write(SYNC_ERROR, libc::EIO.into());
    }

    /// No sync fails any more.
    pub fn heal(&self) {
        self.write(SYNC_ERROR, 0);
    }

    /// Syncs that were done so far.
    pub fn synced(&self) -> i64 {
        self.read(SYNCED)
    }

    /// Syncs that failed so far.
    pub fn failed(&self) -> i64 {
        self.read(FAILED)
    }

    fn write(&self, place: u64, value: i64) {
        self.control.write_all_at(&value.to_ne_bytes(), place * 8).expect("our own file");
    }

    fn read(&self, place: u64) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, place * 8).expect("our own file");
        i64::from_ne_bytes(bytes)
    }
}
