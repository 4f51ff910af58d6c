//! The driver of one client thread: it connects the users, moves bytes between their sockets and a
//! scenario, and keeps the run's times. One monoio runtime on io_uring, as in the server.
//!
//! Decides nothing about messages. Frames that a scenario adds while one turn's bytes are read
//! leave in one write for each connection, behind all reads of that turn: a connection's writer is
//! woken by its first frame and runs when the readers before it in the queue have run.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::mpsc::Sender;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use monoio::time::sleep;
use socket2::SockRef;

use crate::connect::{self, Opened, Route};
use crate::dialect::{Dialect, Incoming, Upgrade};
use crate::outbox::Outbox;
use crate::scenario::{Outcome, Scenario, Times};
use crate::show::Show;
use crate::sys::{self, Timer};

mod pump;

/// What one thread is to do, besides its scenario.
pub struct Plan {
    /// Where the server is, and where connections come from.
    pub route: Route,
    /// Number of this thread's first user in the run.
    pub first_user: u32,
    /// Each connection's user, for messages to people, and its upgrade request.
    pub users: Vec<(String, Upgrade)>,
    /// What is spoken.
    pub dialect: Box<dyn Dialect>,
    /// Handshakes under way at the same time.
    pub handshakes: usize,
    /// When the run's clock began.
    pub clock: Instant,
    /// For masks and keys.
    pub seed: u64,
    /// What to show.
    pub show: Show,
}

/// What a thread tells the main one.
#[derive(Debug)]
pub enum Report {
    /// All its users are connected.
    Connected,
    /// Something made the run impossible.
    Failed(String),
    /// The run is over.
    Done(Box<Outcome>, Vec<String>),
}

/// Time for a connection to be opened and to be answered its first probe.
const CONNECT_MS_MAX: u64 = 10_000;
/// Time for the server to answer close frames at the end.
const CLOSE_MS_MAX: u64 = 2_000;
/// How often the thread looks whether the next phase has come; far below any phase.
const PHASE_POLL: Duration = Duration::from_millis(2);
/// An open loop never sleeps for less: messages due within it leave together, at most this late.
const PACE_NS_MIN: u64 = 50_000;

/// The runtime of a client thread.
type Runtime = monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>;

/// Makes it: one ring, settings as in the server.
///
/// # Errors
/// A sentence for the user.
pub fn runtime() -> Result<Runtime, String> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .uring_builder(ring)
        .enable_timer()
        .build()
        .map_err(|error| format!("cannot set up io_uring: {error}"))
}

/// Runs one thread's part; `times` is set by the main thread when all threads are connected.
pub fn run<S: Scenario + 'static>(
    plan: Plan,
    scenario: S,
    times: &OnceLock<Times>,
    reports: &Sender<(usize, Report)>,
    thread: usize,
) {
    let runtime = runtime();
    // The main thread is gone only when it has given up on us.
    let tell = |report| drop(reports.send((thread, report)));
    let mut runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tell(Report::Failed(error)),
    };
    let client = Rc::new(Client::new(plan, scenario));
    runtime.block_on(async {
        if let Err(error) = client.connect().await {
            return tell(Report::Failed(error));
        }
        tell(Report::Connected);
        let times = loop {
            match times.get() {
                Some(times) => break times,
                None => sleep(PHASE_POLL).await,
            }
        };
        match client.load(times).await {
            Ok(()) => {
                let (outcome, shown) = client.finish();
                client.close().await;
                tell(Report::Done(Box::new(outcome), shown));
            }
            Err(error) => tell(Report::Failed(error)),
        }
    });
}

/// One thread's users.
struct Client<S> {
    plan: Plan,
    state: RefCell<State<S>>,
    /// The writers of the connections, to be woken when there is something to write.
    writers: Vec<RefCell<Option<Waker>>>,
    /// Connectors that wait for a probe's answer.
    probers: Vec<RefCell<Option<Waker>>>,
    /// The next connection to be opened.
    next: Cell<usize>,
    /// Connections that are open and answered a probe.
    connected: Cell<usize>,
    /// The first failure of the connect phase.
    failure: RefCell<Option<String>>,
}

struct State<S> {
    /// The connect phase is over.
    started: bool,
    /// `None` when the run is over.
    scenario: Option<S>,
    out: Outbox,
    links: Vec<Link>,
}

/// What the driver knows of a connection.
#[derive(Clone, Copy, Default)]
struct Link {
    open: bool,
    /// A probe was sent and not answered.
    probed: bool,
}

impl<S: Scenario + 'static> Client<S> {
    fn new(mut plan: Plan, scenario: S) -> Client<S> {
        let count = plan.users.len();
        let out = Outbox::new(count, plan.seed, std::mem::take(&mut plan.show));
        let links = vec![Link::default(); count];
        Client {
            plan,
            state: RefCell::new(State { started: false, scenario: Some(scenario), out, links }),
            writers: (0..count).map(|_| RefCell::new(None)).collect(),
            probers: (0..count).map(|_| RefCell::new(None)).collect(),
            next: Cell::new(0),
            connected: Cell::new(0),
            failure: RefCell::new(None),
        }
    }

    fn now_ns(&self) -> u64 {
        self.plan.clock.elapsed().as_nanos() as u64
    }

    /// Opens all connections, some of them at a time; ends at the first failure.
    async fn connect(self: &Rc<Self>) -> Result<(), String> {
        for _ in 0..self.plan.handshakes {
            monoio::spawn(self.clone().connect_some());
        }
        while self.connected.get() < self.plan.users.len() && self.failure.borrow().is_none() {
            sleep(PHASE_POLL).await;
        }
        self.failure.take().map_or(Ok(()), Err)
    }

    async fn connect_some(self: Rc<Self>) {
        while self.failure.borrow().is_none() {
            let index = self.next.get();
            if index == self.plan.users.len() {
                return;
            }
            self.next.set(index + 1);
            let limit = Duration::from_millis(CONNECT_MS_MAX);
            match monoio::time::timeout(limit, self.connect_one(index as u16)).await {
                Ok(Ok(())) => self.connected.set(self.connected.get() + 1),
                Ok(Err(why)) => self.fail(index as u16, &why),
                Err(_) => {
                    self.fail(index as u16, &format!("no answer within {} s", limit.as_secs()));
                }
            }
        }
    }

    async fn connect_one(self: &Rc<Self>, conn: u16) -> Result<(), String> {
        let (_, upgrade) = &self.plan.users[usize::from(conn)];
        let seed = self.plan.seed ^ u64::from(conn);
        let index = self.plan.first_user + u32::from(conn);
        let opened = connect::open(&self.plan.route, index, upgrade, seed).await?;
        let Opened { stream, rest, .. } = opened;
        // From here on the ring waits by itself.
        SockRef::from(&sys::descriptor(&stream))
            .set_nonblocking(false)
            .map_err(|error| format!("cannot make the socket wait: {error}"))?;
        self.state.borrow_mut().links[usize::from(conn)].open = true;
        self.spawn_pumps(conn, stream, rest);
        self.probe(conn);
        poll_fn(|cx| {
            if !self.state.borrow().links[usize::from(conn)].probed {
                return Poll::Ready(());
            }
            *self.probers[usize::from(conn)].borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        Ok(())
    }

    /// The connect phase has failed; the first reason is kept.
    fn fail(&self, conn: u16, why: &str) {
        let (user, _) = &self.plan.users[usize::from(conn)];
        let reason = || format!("{user} at {}: {why}", self.plan.route.server());
        self.failure.borrow_mut().get_or_insert_with(reason);
    }

    fn probe(&self, conn: u16) {
        let mut frame = Vec::new();
        self.plan.dialect.probe(&mut frame);
        let mut state = self.state.borrow_mut();
        state.links[usize::from(conn)].probed = true;
        state.out.text(conn, &frame);
        self.wake_writers(&mut state);
    }

    /// Load, from start to the end of the drain.
    async fn load(self: &Rc<Self>, times: &Times) -> Result<(), String> {
        self.sleep_until(times.start_ns).await;
        self.state.borrow_mut().started = true;
        self.with_scenario(|scenario, out| {
            out.show.start();
            scenario.start(times, out);
        });
        let timer = Timer::new().map_err(|error| format!("cannot make a timer: {error}"))?;
        let pacer = monoio::spawn(self.clone().pace(timer));
        self.sleep_until(times.measured_ns.end).await;
        self.with_scenario(|scenario, out| scenario.stop(self.now_ns(), out));
        pacer.await?;
        while self.now_ns() < times.deadline_ns && !self.with_scenario(|s, _| s.is_settled()) {
            sleep(PHASE_POLL).await;
        }
        self.probe_all(times).await;
        Ok(())
    }

    /// Gives the scenario the moments that it asks for.
    async fn pace(self: Rc<Self>, timer: Timer) -> Result<(), String> {
        let cannot = |error| format!("cannot use a timer: {error}");
        let file = timer.file().and_then(monoio::fs::File::from_std).map_err(cannot)?;
        loop {
            let now_ns = self.now_ns();
            let next_ns = self.with_scenario(|scenario, out| scenario.on_time(now_ns, out));
            let Some(next_ns) = next_ns else { return Ok(()) };
            timer.set(next_ns.saturating_sub(now_ns).max(PACE_NS_MIN)).map_err(cannot)?;
            let (result, _) = file.read_at(vec![0u8; 8], 0).await;
            result.map_err(cannot)?;
        }
    }

    /// Makes sure that every connection still answers, and that what the server sent before the
    /// answer has been seen.
    async fn probe_all(self: &Rc<Self>, times: &Times) {
        let count = self.plan.users.len() as u16;
        let waiting = |conn: &u16| {
            let link = self.state.borrow().links[usize::from(*conn)];
            link.open && link.probed
        };
        for conn in 0..count {
            if self.state.borrow().links[usize::from(conn)].open {
                self.probe(conn);
            }
        }
        let deadline_ns = times.deadline_ns.max(self.now_ns() + CLOSE_MS_MAX * 1_000_000);
        while self.now_ns() < deadline_ns && (0..count).any(|conn| waiting(&conn)) {
            sleep(PHASE_POLL).await;
        }
        for conn in (0..count).filter(waiting) {
            self.with_scenario(|scenario, _| scenario.on_closed(conn, "answers no more"));
        }
    }

    fn finish(&self) -> (Outcome, Vec<String>) {
        let mut state = self.state.borrow_mut();
        let scenario = state.scenario.take().expect("the run ends once");
        (scenario.finish(), std::mem::take(&mut state.out.show).into_lines())
    }

    /// Says goodbye, and lets the server end the connections.
    async fn close(&self) {
        {
            let state = &mut *self.state.borrow_mut();
            for conn in 0..self.plan.users.len() as u16 {
                if state.links[usize::from(conn)].open {
                    state.out.close(conn, 1000);
                }
            }
            self.wake_writers(state);
        }
        let deadline_ns = self.now_ns() + CLOSE_MS_MAX * 1_000_000;
        while self.now_ns() < deadline_ns && self.state.borrow().links.iter().any(|link| link.open)
        {
            sleep(PHASE_POLL).await;
        }
    }

    async fn sleep_until(&self, moment_ns: u64) {
        let now_ns = self.now_ns();
        if let Some(left_ns) = moment_ns.checked_sub(now_ns) {
            sleep(Duration::from_nanos(left_ns)).await;
        }
    }

    /// Does something with the scenario, and sends what that adds.
    fn with_scenario<R>(&self, act: impl FnOnce(&mut S, &mut Outbox) -> R) -> R {
        let state = &mut *self.state.borrow_mut();
        let scenario = state.scenario.as_mut().expect("the run is not over");
        let result = act(scenario, &mut state.out);
        self.wake_writers(state);
        result
    }

    fn wake_writers(&self, state: &mut State<S>) {
        while let Some(conn) = state.out.next_touched() {
            if let Some(waker) = &*self.writers[usize::from(conn)].borrow() {
                waker.wake_by_ref();
            }
        }
    }
}
