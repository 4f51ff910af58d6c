//! A real `ringpost` process for tests: started on ports of the system's choice over a data
//! directory of its own, and ended whatever the test does.
//!
//! It speaks no WebSocket: tests bring a client that is not ours. It waits for the ready file by
//! polling with a deadline, because another process has no better signal to give.

// Each test file uses its part of these.
#![allow(dead_code)]

pub mod client;
pub mod http;
pub mod keys;
pub mod wire;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a start, a drain or an answer may take before the test fails. Far above what any of
/// them needs, so that a busy machine does not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that another process does.
const POLL: Duration = Duration::from_millis(5);

/// A server process and its data directory.
///
/// Dropping it kills the process (SIGKILL) and removes the directory; while the test panics, what
/// the server wrote is printed first.
pub struct Server {
    directory: TempDir,
    /// `None` while stopped.
    running: Option<Running>,
    starts: u32,
    /// Whether anybody reads what it writes.
    heard: bool,
    /// Whether its configuration file says where to listen.
    listens_by_file: bool,
    /// What it runs under.
    under: Under,
}

/// What a server of a test runs under, beside its flags.
#[derive(Clone, Default)]
pub struct Under {
    /// Variables of its environment.
    pub environment: Vec<(String, String)>,
    /// Its limit of open files, soft and hard.
    pub files: Option<u64>,
}

struct Running {
    child: Child,
    /// In the order of the configuration.
    listen: Vec<SocketAddr>,
    api: SocketAddr,
}

impl Server {
    /// Starts a server with default settings.
    pub fn start() -> Server {
        Server::start_with(&[])
    }

    /// Starts a server with these flags after `serve` and the ones that give it its place.
    pub fn start_with(args: &[&str]) -> Server {
        Server::start_prepared(args, |_| ())
    }

    /// Starts a server whose output goes to a pipe that nobody reads any more.
    pub fn start_unheard() -> Server {
        let directory = TempDir::new().expect("a temporary directory");
        let mut server = Server::stopped(directory);
        server.heard = false;
        server.restart(&[]);
        server
    }

    /// The same as [`Server::start_with`]; `prepare` gets the (existing) directory in which `data` will be, to put e.g. a
    /// configuration file there before the start.
    pub fn start_prepared(args: &[&str], prepare: impl FnOnce(&Path)) -> Server {
        let directory = TempDir::new().expect("a temporary directory");
        prepare(directory.path());
        let mut server = Server::stopped(directory);
        server.restart(args);
        server
    }

    /// Starts a server by this configuration file, which says where to listen.
    pub fn start_configured(config: &str) -> Server {
        let directory = TempDir::new().expect("a temporary directory");
        fs::write(directory.path().join("ringpost.toml"), config).expect("written");
        let mut server = Server::stopped(directory);
        server.listens_by_file = true;
        server.restart(&["--config", "ringpost.toml"]);
        server
    }

    /// Starts a server with these flags, under other circumstances than the test's own; they stay
    /// when it is started again.
    pub fn start_under(under: Under, args: &[&str]) -> Server {
        let mut server = Server::stopped(TempDir::new().expect("a temporary directory"));
        server.under = under;
        server.restart(args);
        server
    }

    fn stopped(directory: TempDir) -> Server {
        Server {
            directory,
            running: None,
            starts: 0,
            heard: true,
            listens_by_file: false,
            under: Under::default(),
        }
    }

    /// Starts a stopped server again over the same data, on new ports, with other flags.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn restart(&mut self, args: &[&str]) {
        assert!(self.running.is_none(), "stop the server before starting it again");
        self.starts += 1;
        let ready = self.directory.path().join(format!("ready-{}", self.starts));
        let mut child = self.command(args, &ready).spawn().expect("the binary starts");
        let deadline = Instant::now() + DEADLINE;
        let text = loop {
            // The file appears whole: it is written aside and renamed.
            if let Ok(text) = fs::read_to_string(&ready) {
                break text;
            }
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("the server ended with {status} before it was ready:\n{}", self.log());
            }
            if Instant::now() > deadline {
                end(&mut child);
                panic!("the server did not become ready:\n{}", self.log());
            }
            thread::sleep(POLL);
        };
        let ready: Value = serde_json::from_str(&text).expect("the ready file is JSON");
        assert_eq!(ready["pid"], json!(child.id()), "the ready file names its process");
        // `listen` may be one address or a list of them.
        let addresses = |key: &str| -> Vec<SocketAddr> {
            let list = ready[key].as_array().cloned().unwrap_or_else(|| vec![ready[key].clone()]);
            let parse = |value: &Value| value.as_str()?.parse().ok();
            let parsed: Option<Vec<SocketAddr>> = list.iter().map(parse).collect();
            parsed.unwrap_or_else(|| panic!("no address under {key:?} in the ready file: {text}"))
        };
        let (listen, api) = (addresses("listen"), addresses("api")[0]);
        self.running = Some(Running { child, listen, api });
    }

    fn command(&self, args: &[&str], ready: &Path) -> Command {
        let output = if self.heard {
            let file = File::options().create(true).append(true).open(self.log_path());
            OwnedFd::from(file.expect("the server's output file"))
        } else {
            let (_reader, writer) = std::io::pipe().expect("two descriptors");
            OwnedFd::from(writer)
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
        command
            .current_dir(self.directory.path())
            .arg("serve")
            .arg("--data")
            .arg(self.data())
            .args(if self.listens_by_file { &[][..] } else { &["--listen", "127.0.0.1:0"] })
            .args(["--api-listen", "127.0.0.1:0"])
            .arg("--ready-file")
            .arg(ready)
            .args(args)
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a descriptor"))
            .stdout(output);
        // What the machine's environment says must not change what is tested.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGPOST_") {
                command.env_remove(name);
            }
        }
        command.envs(self.under.environment.iter().cloned());
        if let Some(files) = self.under.files {
            limit_files(&mut command, files);
        }
        // A signal to the test runner's group must not end the server before the test does.
        command.process_group(0);
        command
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the server runs")
    }

    /// The address for WebSocket clients; the first of several.
    pub fn addr(&self) -> SocketAddr {
        self.listen(0)
    }

    /// The address of this listener, in the order of the configuration.
    pub fn listen(&self, index: usize) -> SocketAddr {
        self.running().listen[index]
    }

    /// The HTTP API's address.
    pub fn api_addr(&self) -> SocketAddr {
        self.running().api
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// The data directory; it stays when the server is stopped.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The directory around it, for other files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("output")
    }

    /// What the server wrote on stdout and stderr so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the server has written this so many times.
    ///
    /// # Panics
    /// When it does not before the deadline.
    pub fn until_logged(&self, words: &str, times: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.log().matches(words).count() < times {
            assert!(Instant::now() < deadline, "{words:?} was not logged {times} times");
            thread::sleep(POLL);
        }
    }

    /// A token for `user`, valid for an hour, signed with the generated secret.
    pub fn token(&self, user: &str) -> String {
        self.token_of(&json!({ "sub": user, "exp": wall_s() + 3600 }))
    }

    /// A token with these claims, signed with the generated secret: for expired tokens and such.
    pub fn token_of(&self, claims: &Value) -> String {
        let secret = fs::read_to_string(self.data().join("token-secret"));
        let secret = secret.expect("the server has made a token secret");
        let key = jsonwebtoken::EncodingKey::from_secret(secret.trim_end().as_bytes());
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).expect("HS256")
    }

    /// The URL at which an imboy client of `user` connects with device `did`.
    pub fn imboy_url(&self, user: &str, did: &str) -> String {
        format!("ws://{}/imboy/ws?did={did}&token={}", self.addr(), self.token(user))
    }

    /// The generated API key.
    pub fn api_key(&self) -> String {
        let key = fs::read_to_string(self.data().join("api-key"));
        key.expect("the server has made an API key").trim_end().to_owned()
    }

    /// An API client that has the generated key.
    pub fn http(&self) -> http::Http {
        http::Http::new(self.api_addr()).with_key(self.api_key())
    }

    /// Its resident memory, in bytes: now.
    pub fn resident(&self) -> u64 {
        self.status_kib("VmRSS:") << 10
    }

    /// The most that it was since [`Server::forget_peak`].
    pub fn resident_peak(&self) -> u64 {
        self.status_kib("VmHWM:") << 10
    }

    /// Counts the peak from here on.
    pub fn forget_peak(&self) {
        // proc(5), *clear_refs*: 5 resets the peak resident set size.
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("our own child");
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("proc(5)");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The sum of all lines of a metric.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.http().get("/metrics").body;
        let of = |line: &str| -> Option<u64> {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse().ok())?
        };
        let values: Vec<u64> = text.lines().filter_map(of).collect();
        assert!(!values.is_empty(), "no metric {name:?} in {text}");
        values.iter().sum()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it does not end before the deadline.
    pub fn sigterm_and_wait(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("process ids are positive i32");
        // SAFETY: kill(2) has no memory effects here; the child has not been waited for, so its
        // id cannot belong to another process.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the server is our child");
    }

    /// Waits until the server has ended by itself.
    ///
    /// # Panics
    /// When it does not end before the deadline.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the server runs");
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = running.child.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() > deadline {
                end(&mut running.child);
                panic!("the server did not end:\n{}", self.log());
            }
            thread::sleep(POLL);
        }
    }

    /// Kills it as a crash would (SIGKILL), and waits until it is gone.
    pub fn kill9(&mut self) {
        let mut running = self.running.take().expect("the server runs");
        end(&mut running.child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            end(&mut running.child);
        }
        if thread::panicking() {
            eprintln!("--- the server's output ---\n{}---", self.log());
        }
    }
}

/// Has the command begin with this limit of open files.
fn limit_files(command: &mut Command, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    let set = move || {
        // SAFETY: `limit` is initialised and only read; setrlimit is a system call and nothing
        // else, so it may be called between fork and exec.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure allocates nothing, takes no lock and touches no memory but its own.
    unsafe { command.pre_exec(set) };
}

fn end(child: &mut Child) {
    // Both fail only when the child is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    since.as_millis() as u64
}

/// Seconds since 1970.
pub fn wall_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Runs the binary with these arguments to its end; for the commands that do not serve.
pub fn ringpost(args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RINGPOST_") {
            command.env_remove(name);
        }
    }
    command.output().expect("the binary starts")
}
