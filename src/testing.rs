//! Shards in the test's own process, over a log in memory, and a client that can misbehave.
//!
//! Everything waits for what it needs with one generous deadline; nothing sleeps to let something
//! happen.

#[path = "../tests/common/keys.rs"]
pub mod keys;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringpost_core::ShardConfig;
use ringpost_core::admit::{Claims, Route, TokenCheck, TokenFault};
use ringpost_core::dialect;
use ringpost_core::ids::{Dialect, ShardId, UserId};
use ringpost_core::rate::RateLimits;
use ringpost_core::relations::PrivatePolicy;
use ringpost_core::ws::frame::{Opcode, Role, encode_masked};
use ringpost_core::ws::message::{Event, Receiver};
use ringpost_storage::{Durability, Fake, FakeSeed};

use crate::address::{Addresses, Rules};
use crate::bounds::Bounds;
use crate::config::Listener;
use crate::health::Health;
use crate::log::{self, Threads};
use crate::mesh::{EndStep, Mesh, Parcel};
use crate::serve;
use crate::settings::Settings;
use crate::shard_thread::{self, Common, Setup};
use crate::stats::{Counter, ShardStats, Stats};

/// How long anything may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(30);

/// Running shards. Dropping them ends them in order.
pub struct Shards {
    /// Where clients connect.
    pub addr: SocketAddr,
    /// The log.
    pub log: Arc<Fake>,
    /// The way to the shards.
    pub mesh: Mesh,
    /// Their counters.
    pub stats: Stats,
    /// What they have in common.
    pub common: &'static Common,
    threads: Vec<JoinHandle<()>>,
    log_threads: Option<Threads>,
}

/// Takes the user's id as a token.
pub struct AnyToken;

impl TokenCheck for AnyToken {
    fn check(&self, _wall_ms: u64, token: &str) -> Result<Claims, TokenFault> {
        let user = UserId::parse(token).ok_or(TokenFault::Invalid)?;
        Ok(Claims { user, expires_ms: u64::MAX, device: None })
    }
}

impl Shards {
    /// With the bounds of a server.
    pub fn start(shards: u16) -> Shards {
        Shards::start_with(shards, Bounds::default(), 1_000)
    }

    /// With other bounds, and a limit of sockets.
    pub fn start_with(shards: u16, bounds: Bounds, sockets_max: u64) -> Shards {
        let any = Listener::at(SocketAddr::from(([127, 0, 0, 1], 0)));
        Shards::start_at(shards, bounds, sockets_max, any, Rules::default())
    }

    /// With another listener, and rules for addresses.
    pub fn start_at(
        shards: u16,
        bounds: Bounds,
        sockets_max: u64,
        listener: Listener,
        rules: Rules,
    ) -> Shards {
        let log = Arc::new(Fake::new(FakeSeed::default()));
        let (mesh, inboxes) = Mesh::new(shards).expect("descriptors");
        let stats = Stats::new(shards);
        let health = Health::default();
        let (log_threads, ends) =
            log::start(log.clone(), Durability::Fsync, &mesh, &health, &stats, None)
                .expect("threads");
        let (listeners, addr) = listeners(listener.address, shards);
        let common: &'static Common = Box::leak(Box::new(Common {
            routes: vec![Route { path: "/ws".to_owned(), dialect: Dialect::Imboy }],
            listeners: vec![listener],
            addresses: Addresses::new([1, 2]),
            dialects: dialect::Settings::default(),
            deflate: true,
            sockets_max,
            bounds,
            stats: stats.clone(),
            started: Instant::now(),
        }));
        let settings = Arc::new(Settings {
            tokens: Box::new(AnyToken),
            address: rules,
            rates: RateLimits::default(),
        });
        let threads =
            inboxes.into_iter().zip(ends).zip(listeners).map(|((inbox, log), listener)| {
                let core = ShardConfig {
                    shard: inbox.shard(),
                    shards,
                    secret: 0,
                    node: [0; 3],
                    id_leased: 0,
                    auto_create_users: true,
                    private_policy: PrivatePolicy::default(),
                    strangers_over_groups: false,
                    presence_quiet_ms: 0,
                    revoke_within_ms: 120_000,
                    deflate_level: 1,
                    dialects: dialect::Settings::default(),
                    rates: RateLimits::default(),
                };
                let listeners = vec![listener];
                let settings = settings.clone();
                let setup = Setup { inbox, log, core, listeners, common, settings, cpu: None };
                thread::spawn(move || shard_thread::run(setup))
            });
        let threads = threads.collect();
        until(|| mesh.census().busy == 0, || "the shards do not get ready".to_owned());
        mesh.send_all(|| Parcel::Open);
        Shards { addr, log, mesh, stats, common, threads, log_threads: Some(log_threads) }
    }

    /// A connected and accepted client.
    pub fn connect(&self, user: &str) -> Client {
        Client::connect(self.addr, user)
    }

    /// A user whose home is this shard.
    pub fn user_of(&self, shard: u16) -> String {
        let name = |n: u32| format!("user-{n}");
        let home =
            |name: &str| UserId::parse(name).expect("valid").slot().shard(self.mesh.shards());
        (0..).map(name).find(|name| home(name) == ShardId(shard)).expect("there are many names")
    }

    /// Has all shards take a step of the end.
    pub fn end(&self, step: EndStep) {
        self.mesh.send_all(|| Parcel::End(step));
    }

    /// Waits until a counter, summed over the shards, has this value.
    pub fn until(&self, counter: impl Fn(&ShardStats) -> &Counter, value: u64) {
        let sum = || self.stats.shards().iter().map(|shard| counter(shard).read()).sum::<u64>();
        until(|| sum() == value, || format!("the counter is {}, not {value}", sum()));
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.log.release();
        self.end(EndStep::Drain);
        self.end(EndStep::Stop);
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        if !thread::panicking() {
            ended.into_iter().for_each(|ended| ended.expect("a shard panicked"));
            let log = self.log_threads.take().expect("until now").join();
            assert_eq!(Arc::strong_count(&log), 2, "ours, and that of the threads");
        }
    }
}

/// One listener for each shard, at the same address.
fn listeners(any: SocketAddr, shards: u16) -> (Vec<TcpListener>, SocketAddr) {
    let first = serve::bind(any).expect("a free port");
    let addr = first.local_addr().expect("it is bound");
    let others = (1..shards).map(|_| serve::bind(addr).expect("the port is shared"));
    (std::iter::once(first).chain(others).collect(), addr)
}

/// Waits until something is so.
pub fn until(is_so: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", otherwise());
        thread::sleep(Duration::from_millis(1));
    }
}

/// An upgrade request for the user, as device `did`.
pub fn request(user: &str) -> Vec<u8> {
    request_as(user, "did")
}

/// An upgrade request for the user, as this device.
pub fn request_as(user: &str, did: &str) -> Vec<u8> {
    format!(
        "GET /ws?did={did}&token={user} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A masked frame.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_masked(opcode, payload, [1, 2, 3, 4], &mut bytes);
    bytes
}

/// A text frame with a message for `to`.
pub fn c2c(id: &str, to: &str, payload: &str) -> Vec<u8> {
    let json = format!(r#"{{"id":"{id}","type":"C2C","to":"{to}","payload":"{payload}"}}"#);
    frame(Opcode::Text, json.as_bytes())
}

/// What a client gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Got {
    /// A text message.
    Text(String),
    /// A ping's payload.
    Ping(Vec<u8>),
    /// A pong's payload.
    Pong(Vec<u8>),
    /// A close frame's code.
    Close(Option<u16>),
    /// The end of the stream.
    End,
    /// The connection was reset.
    Reset,
}

/// A client.
pub struct Client {
    /// Its socket.
    pub socket: TcpStream,
    receiver: Receiver,
    bytes: Vec<u8>,
}

impl Client {
    /// A connection on which nothing was said.
    pub fn silent(addr: SocketAddr) -> Client {
        let socket = TcpStream::connect(addr).expect("it listens");
        Client::over(socket)
    }

    /// A client over this socket.
    pub fn over(socket: TcpStream) -> Client {
        socket.set_nodelay(true).expect("an open socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("an open socket");
        socket.set_write_timeout(Some(DEADLINE)).expect("an open socket");
        Client { socket, receiver: Receiver::new(Role::Client), bytes: Vec::new() }
    }

    /// A connected client whose request was accepted.
    pub fn connect(addr: SocketAddr, user: &str) -> Client {
        let mut client = Client::silent(addr);
        client.send(&request(user));
        client.expect_switching();
        client
    }

    /// Reads the `101` answer.
    pub fn expect_switching(&mut self) {
        let head = self.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Reads an answer's head.
    pub fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            assert!(self.read().expect("no reset") > 0, "the stream ended within the head");
        }
    }

    /// Reads to the end of the stream.
    pub fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.bytes);
        self.socket.read_to_end(&mut rest).expect("no reset");
        String::from_utf8(rest).expect("text")
    }

    /// Writes bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the server reads");
    }

    /// Writes a text frame.
    pub fn say(&mut self, text: &str) {
        self.send(&frame(Opcode::Text, text.as_bytes()));
    }

    /// Reads the next of what comes.
    pub fn next(&mut self) -> Got {
        loop {
            let (consumed, event) = self.receiver.step(&mut self.bytes).expect("a proper server");
            let got = event.map(|event| match event {
                Event::Message { binary, bytes } => {
                    assert!(!binary, "this dialect has text only");
                    Got::Text(String::from_utf8(bytes.to_vec()).expect("checked"))
                }
                Event::Ping(payload) => Got::Ping(payload.to_vec()),
                Event::Pong(payload) => Got::Pong(payload.to_vec()),
                Event::Close { code, .. } => Got::Close(code),
                Event::Compressed { .. } | Event::Blocked => unreachable!("only when asked for"),
            });
            self.bytes.drain(..consumed);
            if let Some(got) = got {
                return got;
            }
            match self.read() {
                Ok(0) => return Got::End,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Got::Reset,
                Err(error) => panic!("nothing came: {error}"),
            }
        }
    }

    /// Reads the next text.
    pub fn text(&mut self) -> String {
        match self.next() {
            Got::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the connection is alive: a request is answered, perhaps behind what it is told of
    /// its user's other devices.
    pub fn check(&mut self) {
        self.say("ping");
        while self.text() != "pong2" {}
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut part = [0; 64 << 10];
        let count = self.socket.read(&mut part)?;
        self.bytes.extend_from_slice(&part[..count]);
        Ok(count)
    }
}
