//! A real server as a child process: started on free ports with an empty store, drained at the end.

use serde::Deserialize;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running server. It is killed when this is dropped before [`Server::stop`].
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens for messages.
    pub listen: SocketAddr,
    /// Where its API listens.
    pub api: SocketAddr,
    /// Its token secret.
    pub secret: PathBuf,
    /// Its API key.
    pub api_key: PathBuf,
    log: PathBuf,
}

/// Time for a server with an empty store to be ready, and for a draining one to end.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct Ready {
    listen: Addresses,
    api: Addresses,
}

/// One address, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Addresses {
    One(SocketAddr),
    All(Vec<SocketAddr>),
}

impl Addresses {
    fn first(self) -> Option<SocketAddr> {
        match self {
            Addresses::One(address) => Some(address),
            Addresses::All(all) => all.first().copied(),
        }
    }
}

impl Server {
    /// The store of a server that runs in `dir`.
    pub fn data(dir: &Path) -> PathBuf {
        dir.join("data")
    }

    /// Starts one with so many shards and everything it writes under `dir`.
    ///
    /// # Errors
    /// A sentence for the user, with the end of what the server said.
    pub fn start(binary: &Path, dir: &Path, shards: u16) -> Result<Server, String> {
        let cannot = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
        let (data, ready, log) = (Server::data(dir), dir.join("ready"), dir.join("server.log"));
        let output = File::create(&log).map_err(|error| cannot("make a log file", &error))?;
        let errors = output.try_clone().map_err(|error| cannot("make a log file", &error))?;
        let child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"])
            .args(["--shards", &shards.to_string(), "--data"])
            .arg(&data)
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| cannot(&format!("start {}", binary.display()), &error))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (secret, api_key) = (data.join("token-secret"), data.join("api-key"));
        let mut server = Server { child, listen: nowhere, api: nowhere, secret, api_key, log };
        let deadline = Instant::now() + WAIT;
        while !ready.exists() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("the server ended with {status}:\n{}", server.last_words()));
            }
            if Instant::now() > deadline {
                return Err(format!("the server was not ready in time:\n{}", server.last_words()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let text = fs::read(&ready).map_err(|error| cannot("read the ready file", &error))?;
        let Ready { listen, api } = serde_json::from_slice(&text)
            .map_err(|error| cannot("understand the ready file", &error))?;
        server.listen = listen.first().ok_or("the server listens nowhere")?;
        server.api = api.first().ok_or("the server's API listens nowhere")?;
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Drains it and waits for its end.
    ///
    /// # Errors
    /// A sentence for the user when it does not end, or not well.
    pub fn stop(mut self) -> Result<(), String> {
        let pid = i32::try_from(self.child.id()).expect("a process id is positive");
        // SAFETY: takes no pointer; the child was not waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        match self.wait() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("the server ended with {status}:\n{}", self.last_words())),
            None => Err(format!("the server did not drain:\n{}", self.last_words())),
        }
    }

    fn wait(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + WAIT;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
                _ => return None,
            }
        }
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended long ago; then both do nothing.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
