//! The load generator as a child process, and what it says.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::server::Server;

/// Runs a scenario against `server`, and understands its result.
///
/// # Errors
/// A sentence for the user; a failed check is one.
pub fn run<T: DeserializeOwned>(
    binary: &Path,
    server: &Server,
    scenario: &str,
    arguments: &[String],
) -> Result<T, String> {
    let mut command = Command::new(binary);
    command
        .args([scenario, "--json", "--server", &server.listen.to_string()])
        .args(["--server-pid", &server.pid().to_string()])
        .arg("--secret-file")
        .arg(&server.secret)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = command.output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!(
            "the load generator's {scenario} ended with {}: {text}",
            output.status
        ));
    }
    serde_json::from_str(&text)
        .map_err(|error| format!("cannot understand the load generator: {error}: {text}"))
}

/// `--name value` of each.
pub fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    flags.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
}

/// The flags with which it finds the server's API.
pub fn api(server: &Server) -> Vec<String> {
    flags([("api", server.api.to_string()), ("api-key-file", server.api_key.display().to_string())])
}

/// Finds a program: the one named, or the one beside this.
///
/// # Errors
/// A sentence for the user.
pub fn binary(named: Option<&Path>, name: &str) -> Result<PathBuf, String> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => {
            let own = std::env::current_exe();
            own.map_err(|error| format!("cannot find this binary: {error}"))?.with_file_name(name)
        }
    };
    if path.is_file() {
        return std::path::absolute(&path)
            .map_err(|error| format!("cannot find {}: {error}", path.display()));
    }
    Err(format!("{} is not there: build it (cargo build --release), or name it", path.display()))
}

/// CPU of one side, for each thing that was counted.
#[derive(Debug, Deserialize)]
pub struct Cpu {
    /// µs.
    pub us: f64,
}

/// Percentiles.
#[derive(Debug, Deserialize)]
pub struct Latency {
    /// Half are at most this, µs.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
}
