//! One shard's thread: its runtime, its state, and the clock of its turns. What happens in a turn
//! is in `turn.rs`, what a connection does in `conn.rs`.
//!
//! All of the state belongs to this thread. It is in cells that are borrowed within one call and
//! never across an await, by tasks of which only one runs at a time.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use monoio::io::Canceller;
use monoio::{IoUringDriver, RuntimeBuilder};
use ringpost_core::admit::Route;
use ringpost_core::dialect;
use ringpost_core::event::{Answer, ControlId};
use ringpost_core::ids::ConnId;
use ringpost_core::ws::deflate::Inflater;
use ringpost_core::{Now, Shard, ShardConfig};
use tokio::sync::oneshot;

use crate::address::Addresses;
use crate::bounds::{Bounds, READ_BYTES, READS_MAX};
use crate::config::Listener;
use crate::engine::Engine;
use crate::fatal::{self, Cause};
use crate::log::ShardLog;
use crate::mesh::{EndStep, Inbox};
use crate::out::{self, Out};
use crate::pool::Pool;
use crate::settings::Settings;
use crate::stats::{ShardStats, Stats};
use crate::sys::Socket;
use crate::table::Table;
use crate::{turn, watch};

/// Entries of the submission ring: what is submitted between two looks at the completions without
/// a system call in between.
const RING_ENTRIES: u32 = 4_096;

/// What a shard's thread is made of.
pub struct Setup {
    /// Its end of the mesh.
    pub inbox: Inbox,
    /// Its end of the log.
    pub log: ShardLog,
    /// Of the core.
    pub core: ShardConfig,
    /// One per address, listening, non-blocking.
    pub listeners: Vec<TcpListener>,
    /// What all shards have in common.
    pub common: &'static Common,
    /// What may change while it runs.
    pub settings: Arc<Settings>,
    /// The processor to stay on.
    pub cpu: Option<usize>,
}

/// What all shards have in common, made once for the life of the process.
pub struct Common {
    /// Which dialect is spoken where.
    pub routes: Vec<Route>,
    /// The listeners, in the order of those of each shard.
    pub listeners: Vec<Listener>,
    /// What client addresses have caused lately.
    pub addresses: Addresses,
    /// What the dialects let an operator set.
    pub dialects: dialect::Settings,
    /// Whether clients that offer compression get it.
    pub deflate: bool,
    /// Connections and upgrade requests that all shards together may hold.
    pub sockets_max: u64,
    /// What it takes before patience ends.
    pub bounds: Bounds,
    /// Counters of all shards.
    pub stats: Stats,
    /// Zero of [`Now::mono_us`].
    pub started: Instant,
}

/// The state of a shard's thread.
pub struct Local {
    /// Its end of the mesh.
    pub inbox: Inbox,
    /// What all shards have in common.
    pub common: &'static Common,
    /// What the operator may have changed.
    pub settings: RefCell<Arc<Settings>>,
    /// The core and its turns.
    pub engine: RefCell<Engine>,
    /// The connections that live here.
    pub conns: RefCell<Table<Conn>>,
    /// The sockets whose upgrade request is being read, and those being refused.
    pub handshakes: RefCell<Table<Socket>>,
    /// When they must be done, in order.
    pub handshakes_due: RefCell<VecDeque<Due>>,
    /// When the closing connections must be gone, in order.
    pub closes_due: RefCell<VecDeque<Due>>,
    /// Connections with a read in flight that holds a buffer, see [`crate::bounds::READS_MAX`].
    pub active: RefCell<Vec<ConnId>>,
    /// Connections that got something to write in this turn.
    pub touched: RefCell<Vec<ConnId>>,
    /// Tasks that go on behind the turn.
    pub behind_turn: RefCell<Vec<Waker>>,
    /// Connections whose data may not be taken: their tasks wait. One entry each at most.
    pub parked: RefCell<Vec<ConnId>>,
    /// Questions of the control plane: as many as the mesh admits.
    pub asks: RefCell<HashMap<ControlId, oneshot::Sender<Answer>>>,
    /// Buffers for reads.
    pub read_pool: RefCell<ReadPool>,
    /// Undoes the compression of messages, one at a time.
    pub inflater: RefCell<Inflater>,
    /// Buffers for writes.
    pub out_pool: RefCell<Pool>,
    /// What connections hold of messages and frames that are not whole or not taken.
    pub unfinished: Cell<usize>,
    /// The listeners, until the drain.
    pub listeners: RefCell<Vec<Rc<TcpListener>>>,
    /// How far the end has come.
    pub end: Cell<Option<EndStep>>,
    /// What only the turn uses.
    pub turn: RefCell<turn::State>,
    /// What only the watch over time uses.
    pub watch: RefCell<watch::State>,
    clock: Clock,
}

/// A connection that lives here.
pub struct Conn {
    /// Its socket.
    pub socket: Socket,
    /// What waits to be written.
    pub out: Out,
    /// Ends the read in flight.
    pub canceller: Option<Canceller>,
    /// How far its life has come.
    pub state: ConnState,
    /// The core was told that it is gone.
    pub told_closed: bool,
    /// A task writes to it.
    pub writing: bool,
    /// It is in [`Local::touched`].
    pub touched: bool,
    /// Once everything is written, the end of the stream is written too.
    pub fin: bool,
    /// The upgrade was answered: before that nothing else is written, and so nothing is taken.
    pub answered: bool,
    /// A ping was sent and nothing was heard since.
    pub pinged: bool,
    /// Of its task, while that waits for something else than its socket.
    pub waker: Option<Waker>,
    /// When something was last heard from it, ms as in [`Local::now_ms`].
    pub heard_ms: u32,
    /// When the kernel last took a byte of what waits, or it began to wait.
    pub taken_ms: u32,
}

impl Conn {
    /// Wakes its task, if that waits for something else than its socket.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// How far the life of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnState {
    /// Its messages go to the core.
    Open,
    /// It ends: what is read is not looked at, or only for the peer's close frame.
    Closing,
}

/// Something that must be over by then.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// In [`Now::mono_us`].
    pub at_us: u64,
    /// Which.
    pub id: ConnId,
}

/// The clock of the turns: read once per turn, by whoever begins it.
struct Clock {
    now: Cell<Now>,
    /// A turn has begun: the turn task runs behind the tasks that are ready now.
    begun: Cell<bool>,
    /// Of the turn task, while it waits.
    waker: RefCell<Option<Waker>>,
}

/// Buffers for reads.
///
/// *Bound:* [`READS_MAX`] reads in flight hold one; a connection whose bytes may not be taken yet
/// holds one too, which counts as unfinished input.
pub struct ReadPool {
    pool: Pool,
    in_flight: usize,
}

impl ReadPool {
    fn new() -> ReadPool {
        let pool = Pool::new(READ_BYTES, 2 * READ_BYTES, READS_MAX * READ_BYTES);
        ReadPool { pool, in_flight: 0 }
    }

    /// Whether one more read in flight may hold a buffer.
    pub fn has_room(&self) -> bool {
        self.in_flight < READS_MAX
    }

    /// A read begins; it holds a buffer until [`ReadPool::ended`].
    pub fn begins(&mut self) {
        assert!(self.has_room(), "asked before");
        self.in_flight += 1;
    }

    /// A read in flight has ended.
    pub fn ended(&mut self) {
        self.in_flight -= 1;
    }

    /// Reads in flight that hold a buffer.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Makes room in `buffer` for a read, behind what it has: at most a few bytes.
    pub fn make_room(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() < READ_BYTES {
            let mut larger = self.pool.take();
            larger.extend_from_slice(buffer);
            *buffer = larger;
        }
        assert!(buffer.len() < buffer.capacity(), "a read without room would look like the end");
    }

    /// Takes the buffer back; what is left in it moves to one that just fits.
    pub fn give(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() >= READ_BYTES {
            let rest = buffer.as_slice().to_vec();
            self.pool.give(std::mem::replace(buffer, rest));
        }
    }

    /// See [`Pool::trim`].
    pub fn trim(&mut self) {
        self.pool.trim();
    }
}

/// Runs the shard until the end of the process.
pub fn run(setup: Setup) {
    if let Some(cpu) = setup.cpu
        && let Err(error) = monoio::utils::bind_to_cpu_set([cpu])
    {
        tracing::warn!(cpu, %error, "the shard cannot be kept on its processor");
    }
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    let runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(ring)
        .enable_timer()
        .build();
    match runtime {
        Ok(mut runtime) => runtime.block_on(main(setup)),
        Err(error) => fatal::exit(
            Cause::Environment,
            &format!("a shard's io_uring cannot be set up: {error}"),
        ),
    }
}

async fn main(setup: Setup) {
    let bell = match setup.inbox.bell() {
        Ok(bell) => bell,
        Err(error) => fatal::exit(Cause::Environment, &format!("no descriptor is left: {error}")),
    };
    let local = Rc::new(Local::new(setup));
    monoio::spawn(turn::listen(local.clone(), bell));
    turn::run(local).await;
}

impl Local {
    fn new(setup: Setup) -> Local {
        let Setup { inbox, log, core, listeners, common, settings, cpu: _ } = setup;
        Local {
            engine: RefCell::new(Engine::new(Shard::new(core), log)),
            turn: RefCell::new(turn::State::new(inbox.mesh().shards())),
            watch: RefCell::default(),
            inbox,
            common,
            settings: RefCell::new(settings),
            conns: RefCell::default(),
            handshakes: RefCell::default(),
            handshakes_due: RefCell::default(),
            closes_due: RefCell::default(),
            active: RefCell::default(),
            touched: RefCell::default(),
            behind_turn: RefCell::default(),
            parked: RefCell::default(),
            asks: RefCell::default(),
            read_pool: RefCell::new(ReadPool::new()),
            inflater: RefCell::default(),
            out_pool: RefCell::new(out::pool()),
            unfinished: Cell::new(0),
            listeners: RefCell::new(listeners.into_iter().map(Rc::new).collect()),
            end: Cell::new(None),
            clock: Clock {
                now: Cell::new(Now::default()),
                begun: Cell::new(false),
                waker: RefCell::new(None),
            },
        }
    }

    /// This shard's counters.
    pub fn stats(&self) -> &'static ShardStats {
        &self.common.stats.shards()[usize::from(self.inbox.shard().0)]
    }

    /// The process ends: nothing is accepted or read any more.
    pub fn is_ending(&self) -> bool {
        self.end.get().is_some()
    }

    /// Begins a turn, unless one has begun: the turn task will run behind those that are ready
    /// now. Returns the turn's time.
    pub fn begin_turn(&self) -> Now {
        if !self.clock.begun.replace(true) {
            self.clock.now.set(self.read_clock());
            // Nobody needs to ring: the turn looks at the inbox anyway.
            self.inbox.wake();
            if let Some(waker) = self.clock.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
        self.clock.now.get()
    }

    /// The turn is over; the next input begins another.
    pub fn end_turn(&self) {
        self.clock.begun.set(false);
    }

    /// Ready once a turn has begun. For the turn task alone.
    pub fn poll_turn(&self, cx: &Context<'_>) -> Poll<()> {
        if self.clock.begun.get() {
            return Poll::Ready(());
        }
        let mut waker = self.clock.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The time of the turn, or of the last one.
    pub fn now(&self) -> Now {
        self.clock.now.get()
    }

    /// The same in ms, cut to 32 bits: only differences mean something, by `wrapping_sub`.
    pub fn now_ms(&self) -> u32 {
        (self.now().mono_us / 1_000) as u32
    }

    fn read_clock(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Now {
            mono_us: self.common.started.elapsed().as_micros() as u64,
            wall_ms: wall.as_millis() as u64,
        }
    }

    /// Goes on behind the turn, which is begun if it was not: others have their share first.
    ///
    /// A task that woke itself would go to the front of the runtime's queue.
    pub async fn behind_turn(&self) {
        let mut waited = false;
        future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.begin_turn();
            self.behind_turn.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Sockets that all shards hold now.
    pub fn sockets(&self) -> u64 {
        let shards = self.common.stats.shards();
        shards.iter().map(|shard| shard.connections.read() + shard.handshakes.read()).sum()
    }
}
