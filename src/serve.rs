//! The server's life: opens the store, starts the threads, supervises them, and ends in order.
//! Everything here runs on the main thread, once; no message passes through it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringpost_core::ShardConfig;
use ringpost_storage::{Durability, Log, Opening, Options, Rocks};
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::Addresses;
use crate::bounds::{
    BACKLOG, Bounds, CLOSE_MS_MAX, DESCRIPTORS_RESERVED, QUIET_MS_MAX, SEND_BUFFER_BYTES,
};
use crate::config::{self, Config};
use crate::control::{self, Control};
use crate::fatal::{self, Cause};
use crate::health::{COMMIT_MS_MAX, Health};
use crate::mesh::{Census, EndStep, Inbox, Mesh, Parcel};
use crate::settings::Settings;
use crate::shard_thread::{self, Common, Setup};
use crate::space::Space;
use crate::stats::Stats;
use crate::sys::Signal;
use crate::{log, secrets, sys};

/// How often the supervisor looks at what cannot tell it by itself.
const LOOK: Duration = Duration::from_millis(500);
/// The same while something is about to be done: at the start and at the end.
const LOOK_SOON: Duration = Duration::from_millis(1);

/// What is bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Where WebSocket clients connect, in the order of the configuration.
    pub listen: Vec<SocketAddr>,
    /// The HTTP API.
    pub api: SocketAddr,
}

/// What may change while the server runs.
pub struct Live {
    /// For the shards.
    pub settings: Settings,
    /// For the HTTP API.
    pub api: control::Setup,
}

/// Serves until a signal ends it: exit status 0. Whatever prevents that ends the process with the
/// status of its [`Cause`]. `announce` is called once, when all listeners are open; `reload` at
/// each SIGHUP, and what it returns is used from then on.
pub fn serve(
    config: &Config,
    live: Live,
    announce: impl FnOnce(&Bound),
    reload: impl FnMut() -> Option<Live>,
) -> ExitCode {
    fatal::exit_on_panic();
    let began = Instant::now();
    let environment = |what: &str, error: io::Error| -> ! {
        fatal::exit(Cause::Environment, &format!("{what}: {error}"))
    };
    // Before the first thread: all of them inherit the mask.
    sys::hold_signals().unwrap_or_else(|error| environment("signals cannot be held", error));
    let files = sys::raise_file_limit()
        .unwrap_or_else(|error| environment("the limit of open files cannot be raised", error));
    if files <= 2 * DESCRIPTORS_RESERVED {
        let what = format!("{files} open files are too few, at least 1025: ulimit -n 524288");
        fatal::exit(Cause::Environment, &what);
    }
    let store = open(config);
    let opening = store.opening().clone();
    let mut server = Server::start(config, store, files, began)
        .unwrap_or_else(|error| environment("a thread or its doorbell cannot be made", error));
    server.start_shards(config, &opening, live.settings);
    let opened = server.open_api(live.api);
    opened.unwrap_or_else(|error| environment("the HTTP API cannot start", error));
    if server.open_listeners() {
        let bound = &server.bound;
        write_ready_file(config.ready_file.as_deref(), bound);
        server.health.set_listening();
        tracing::info!(
            listen = ?bound.listen, api = %bound.api, shards = config.shards, files,
            ready_ms = began.elapsed().as_millis() as u64, "ready"
        );
        announce(bound);
        server.supervise(reload);
    }
    server.end(Duration::from_secs(config.drain_s.into()))
}

fn open(config: &Config) -> Arc<dyn Log> {
    if let Err(error) = secrets::create_private_directory(&config.data) {
        let what = format!("the directory {} cannot be made: {error}", config.data.display());
        fatal::exit(Cause::Environment, &what);
    }
    let options = Options {
        durability: durability(config),
        wal_bytes_max: config.reserve.wal_bytes_max(disk_bytes(config)),
        ..Options::default()
    };
    match Rocks::open(&config.data, options) {
        Ok(store) => {
            tracing::info!(data = %config.data.display(), "store: {}", store.opening().recovery);
            Arc::new(store)
        }
        Err(error) => {
            let what = format!("the store {} cannot be opened: {error}", config.data.display());
            fatal::exit(log::cause(&error), &what)
        }
    }
}

/// The size of the store's disk.
fn disk_bytes(config: &Config) -> u64 {
    match sys::disk(&config.data) {
        Ok(disk) => disk.bytes,
        Err(error) => {
            let what =
                format!("the disk of {} cannot be looked at: {error}", config.data.display());
            fatal::exit(Cause::Environment, &what)
        }
    }
}

fn durability(config: &Config) -> Durability {
    match config.durability {
        config::Durability::Fsync => Durability::Fsync,
        config::Durability::Interval(ms) => Durability::Interval(ms.into()),
        config::Durability::Os => Durability::Os,
    }
}

/// The parts of a running server that its end needs.
struct Server {
    mesh: Mesh,
    health: Health,
    stats: Stats,
    space: Space,
    store: Arc<dyn Log>,
    common: &'static Common,
    shards: Vec<JoinHandle<()>>,
    /// Until the shards have them.
    idle: Vec<(Inbox, log::ShardLog)>,
    log: log::Threads,
    control: Option<Control>,
    listeners: Vec<Vec<TcpListener>>,
    api: Option<TcpListener>,
    bound: Bound,
}

impl Server {
    fn start(
        config: &Config,
        store: Arc<dyn Log>,
        files: u64,
        started: Instant,
    ) -> io::Result<Server> {
        let (mesh, inboxes) = Mesh::new(config.shards)?;
        let health = Health::default();
        let stats = Stats::new(config.shards);
        let space = Space::new(config.data.clone(), config.reserve, &mesh, &health);
        // Before anybody could store anything.
        space.look_for(&*store)?;
        let looks = Some(space.clone());
        let (log, ends) =
            log::start(store.clone(), durability(config), &mesh, &health, &stats, looks)?;
        let (listeners, listen) = bind_all(config);
        let api = bind_api(config.api.listen);
        let bound = Bound { listen, api: api.local_addr()? };
        let common = Common {
            routes: config.routes.clone(),
            listeners: config.listeners.clone(),
            addresses: Addresses::new(seeds()?),
            dialects: config.dialects.clone(),
            deflate: config.deflate,
            sockets_max: files - DESCRIPTORS_RESERVED,
            bounds: Bounds::default(),
            stats: stats.clone(),
            started,
        };
        Ok(Server {
            mesh,
            health,
            stats,
            space,
            store,
            // One for the life of the process, so that no shard counts who uses it.
            common: Box::leak(Box::new(common)),
            shards: Vec::new(),
            idle: inboxes.into_iter().zip(ends).collect(),
            log,
            control: None,
            listeners,
            api: Some(api),
            bound,
        })
    }

    fn start_shards(&mut self, config: &Config, opening: &Opening, settings: Settings) {
        let settings = Arc::new(settings);
        let cpus = cpus_for(config.shards);
        let listeners = std::mem::take(&mut self.listeners);
        for ((inbox, log), listeners) in self.idle.drain(..).zip(listeners) {
            let shard = inbox.shard();
            let core = ShardConfig {
                shard,
                shards: config.shards,
                secret: opening.secret,
                node: opening.node,
                id_leased: opening.leased,
                auto_create_users: config.auto_create_users,
                private_policy: config.private_policy,
                strangers_over_groups: config.strangers_over_groups,
                // On a new store nobody has been here before, who would come again.
                presence_quiet_ms: if opening.recovery.created {
                    0
                } else {
                    u64::from(config.presence_quiet_s) * 1_000
                },
                revoke_within_ms: config.revoke_within_s * 1_000,
                deflate_level: config.deflate_level,
                dialects: config.dialects.clone(),
                rates: config.rates,
            };
            let cpu = cpus.as_ref().map(|cpus| cpus[usize::from(shard.0)]);
            let (common, settings) = (self.common, settings.clone());
            let setup = Setup { inbox, log, core, listeners, common, settings, cpu };
            let thread = thread::Builder::new().name(format!("shard-{}", shard.0));
            match thread.spawn(move || shard_thread::run(setup)) {
                Ok(thread) => self.shards.push(thread),
                Err(error) => {
                    fatal::exit(Cause::Environment, &format!("no thread for a shard: {error}"))
                }
            }
        }
    }

    fn open_api(&mut self, setup: control::Setup) -> io::Result<()> {
        let process = control::Process {
            dialects: Arc::new(self.common.dialects.clone()),
            mesh: self.mesh.clone(),
            health: self.health.clone(),
            stats: self.stats.clone(),
            store: self.log.store(),
            epoch: self.store.opening().epoch,
        };
        let listener = self.api.take().expect("bound by `start`");
        self.control = Some(Control::start(listener, setup, process)?);
        Ok(())
    }

    /// Lets clients in, once every shard has its lease of ids in the log: before that it could not
    /// store what another shard sends it. `false`: a signal to end came first. (What a signal to
    /// reload wants was read a moment ago.)
    fn open_listeners(&self) -> bool {
        while self.mesh.census().busy > 0 {
            if sys::next_signal(LOOK_SOON) == Some(Signal::End) {
                return false;
            }
        }
        self.mesh.send_all(|| Parcel::Open);
        true
    }

    /// Waits for a signal to end, reloads at the others, and looks at the disk, and says so once when
    /// a commit hangs.
    fn supervise(&self, mut reload: impl FnMut() -> Option<Live>) {
        let mut told = false;
        let mut unknown = false;
        loop {
            match sys::next_signal(LOOK) {
                Some(Signal::End) => return,
                Some(Signal::Reload) => {
                    if let Some(live) = reload() {
                        self.change(live);
                    }
                }
                None => {}
            }
            let age = self.health.commit_age();
            let hangs = age >= Duration::from_millis(COMMIT_MS_MAX);
            if hangs && !told {
                let age_ms = age.as_millis() as u64;
                tracing::error!(age_ms, "a commit hangs: the disk does not answer; not ready");
            } else if told && !hangs {
                tracing::info!("commits go on");
            }
            told = hangs;
            if let Err(error) = self.space.look_for(&*self.store)
                && !std::mem::replace(&mut unknown, true)
            {
                tracing::error!(%error, "the room on the disk is not known any more");
            }
        }
    }

    /// Gives what has changed to those who use it.
    fn change(&self, live: Live) {
        let settings = Arc::new(live.settings);
        self.mesh.send_all(|| Parcel::Settings(settings.clone()));
        if let Some(control) = &self.control {
            control.set(live.api);
        }
        tracing::info!("reloaded: the new settings are for whoever comes from now on");
    }

    /// Ends in order: see [`EndStep`].
    fn end(mut self, drain: Duration) -> ExitCode {
        let began = Instant::now();
        self.health.set_draining();
        tracing::info!(drain_s = drain.as_secs(), "ending; a second signal ends at once");
        end_at_second_signal();
        let quiet = Duration::from_millis(QUIET_MS_MAX);
        self.step(EndStep::Drain, quiet, |census| census.busy == 0);
        let closes = drain + Duration::from_millis(CLOSE_MS_MAX);
        self.step(EndStep::Close(drain), closes + quiet, |census| {
            census.busy == 0 && census.connections == 0
        });
        if let Some(control) = self.control.take() {
            control.stop();
        }
        self.step(EndStep::Stop, Duration::ZERO, |_| true);
        for shard in self.shards {
            shard.join().expect("a panic ends the process");
        }
        drop(self.store);
        let log = self.log.join();
        assert!(Arc::strong_count(&log) == 1, "the log closes when nobody uses it any more");
        drop(log);
        tracing::info!(took_ms = began.elapsed().as_millis() as u64, "ended");
        ExitCode::SUCCESS
    }

    /// Has all shards take a step, and waits until `done`, at most so long.
    fn step(&self, step: EndStep, most: Duration, done: impl Fn(Census) -> bool) {
        self.mesh.send_all(|| Parcel::End(step));
        let deadline = Instant::now() + most;
        while most > Duration::ZERO && !done(self.mesh.census()) {
            if Instant::now() >= deadline {
                let Census { busy, connections } = self.mesh.census();
                tracing::warn!(
                    ?step,
                    busy,
                    connections,
                    "the end does not wait for these any more"
                );
                return;
            }
            thread::sleep(LOOK_SOON);
        }
    }
}

/// Whatever the end waits for: a second signal ends the process at once.
fn end_at_second_signal() {
    let waits = thread::Builder::new().name("second-signal".to_owned()).spawn(|| {
        while sys::next_signal(LOOK) != Some(Signal::End) {}
        fatal::exit(Cause::SecondSignal, "ended at once by a second signal");
    });
    if let Err(error) = waits {
        tracing::warn!(%error, "a second signal will not be noticed");
    }
}

/// The listeners of each shard: one for each address, all of which share it by SO_REUSEPORT; and
/// the addresses.
fn bind_all(config: &Config) -> (Vec<Vec<TcpListener>>, Vec<SocketAddr>) {
    let mut shards: Vec<_> = (0..config.shards).map(|_| Vec::new()).collect();
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let mut address = listener.address;
        for shard in &mut shards {
            let socket = bind(address).and_then(|socket| {
                // The system chooses port 0 once; the others take the same.
                address = socket.local_addr()?;
                Ok(socket)
            });
            match socket {
                Ok(socket) => shard.push(socket),
                Err(error) => cannot_listen(address, &error),
            }
        }
        bound.push(address);
    }
    (shards, bound)
}

/// A listener that shares its address with those of the other shards.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // A wildcard of one family does not take the other's connections.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Accepted sockets inherit these.
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The API's listener. Nobody else's may share the address, by mistake or not.
fn bind_api(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).unwrap_or_else(|error| cannot_listen(address, &error))
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> ! {
    fatal::exit(Cause::Listen, &format!("cannot listen on {address}: {error}"))
}

/// The processors of the shards, when there are more than shards: the last ones, because devices
/// interrupt the first.
fn cpus_for(shards: u16) -> Option<Vec<usize>> {
    let cpus = sys::allowed_cpus();
    let first = cpus.len().checked_sub(usize::from(shards)).filter(|left| *left > 0)?;
    Some(cpus[first..].to_vec())
}

/// Numbers that nobody outside knows.
fn seeds() -> io::Result<[u64; 2]> {
    let seed = || getrandom::u64().map_err(io::Error::other);
    Ok([seed()?, seed()?])
}

/// Says where the server is, in a file that appears whole.
fn write_ready_file(path: Option<&Path>, bound: &Bound) {
    let Some(path) = path else { return };
    let listen = match &bound.listen[..] {
        [one] => serde_json::json!(one),
        all => serde_json::json!(all),
    };
    let ready = serde_json::json!({
        "listen": listen,
        "api": bound.api,
        "pid": std::process::id(),
    });
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}", std::process::id()));
    let written = fs::write(&aside, format!("{ready}\n")).and_then(|()| fs::rename(&aside, path));
    if let Err(error) = written {
        let what = format!("the ready file {} cannot be written: {error}", path.display());
        fatal::exit(Cause::CannotCreate, &what);
    }
}
