//! How long a server needs to be ready on a store that has messages.

use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::store;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Restart {
    /// Messages in the store.
    pub messages: u32,
    /// Bytes of its directory.
    pub bytes: u64,
    /// Process start to ready, s.
    pub ready_s: f64,
    /// The same on an empty store.
    pub empty_s: f64,
}

/// Fills a store, and starts a server on it and one on an empty store.
///
/// # Errors
/// A sentence for the user.
pub fn measure(binary: &Path, dir: &Path, messages: u32) -> Result<Restart, String> {
    let (empty, filled) = (dir.join("empty"), dir.join("filled"));
    for dir in [&empty, &filled] {
        std::fs::create_dir(dir).map_err(|error| format!("cannot make a directory: {error}"))?;
    }
    let empty = ready(binary, &empty)?;
    store::puts(&Server::data(&filled), messages)?;
    let bytes = size(&Server::data(&filled))
        .map_err(|error| format!("cannot read the store's directory: {error}"))?;
    let filled = ready(binary, &filled)?;
    Ok(Restart { messages, bytes, ready_s: filled.as_secs_f64(), empty_s: empty.as_secs_f64() })
}

fn ready(binary: &Path, dir: &Path) -> Result<Duration, String> {
    let began = Instant::now();
    let server = Server::start(binary, dir, 1)?;
    let taken = began.elapsed();
    server.stop()?;
    Ok(taken)
}

/// Bytes of all files below a directory.
fn size(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
