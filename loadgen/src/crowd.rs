//! Scenarios whose subject is the connections themselves: how many, how fast, what each costs. Here
//! every connection is a task of its own, and what all of them share.
//!
//! The main thread leads: it names the stage that the run is in, the client threads follow and say
//! when they have arrived. What a server does at the side of a scenario is measured between stages.

pub mod catch_up;
pub mod connecting;
pub mod idle;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use monoio::time::{sleep, timeout};

use crate::args::CommonArgs;
use crate::check::{FaultKind, Faults};
use crate::connect::Route;
use crate::dialect::{self, Dialect, Incoming};
use crate::drive;
use crate::payload::mix;
use crate::run::{Minter, Run};
use crate::session::{Frames, Session};

/// Time for a connection to be opened and to be answered its first ping.
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How often a thread looks whether the next stage has come.
const STAGE_POLL: Duration = Duration::from_millis(2);
/// How much longer than planned a thread may take before it is given up.
pub const GRACE: Duration = Duration::from_secs(15);

/// What all connections of a run share.
pub struct Crowd {
    /// Where connections go to and come from.
    pub route: Route,
    /// Names and ids.
    pub run: Run,
    /// What is spoken.
    pub dialect: Box<dyn Dialect>,
    /// When the run's clock began.
    pub clock: Instant,
    minter: Minter,
}

impl Crowd {
    /// For at most `connections` at the same time.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn new(common: &CommonArgs, connections: u32) -> Result<Arc<Crowd>, String> {
        crate::check_descriptors(connections)?;
        Ok(Arc::new(Crowd {
            route: Route::new(common.server, &common.sources, connections)?,
            run: Run::new(common.prefix.as_deref()),
            dialect: dialect::by_name(common.dialect),
            clock: Instant::now(),
            minter: Minter::from_file(&common.secret_file)?,
        }))
    }

    /// Nanoseconds since the run's clock began.
    pub fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Opens a connection of this user and waits until its first ping is answered. What else comes
    /// before that is given to `on_other`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn open(
        &self,
        user: u32,
        mut on_other: impl FnMut(&[u8], &mut Frames),
    ) -> Result<Session, String> {
        let name = self.run.user(user);
        let device = self.run.device(user);
        let opening = async {
            let upgrade = self.dialect.upgrade(&self.minter.mint(&name)?, &device);
            let seed = mix(self.run.seed ^ u64::from(user) << 20);
            let mut session = Session::open(&self.route, user, &upgrade, seed).await?;
            self.ping(&mut session, &mut on_other).await?;
            Ok(session)
        };
        let result = match timeout(CONNECT_MAX, opening).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", CONNECT_MAX.as_secs())),
        };
        result.map_err(|why: String| format!("{name} at {}: {why}", self.route.server()))
    }

    /// Sends a ping and waits for its answer.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn ping(
        &self,
        session: &mut Session,
        on_other: &mut impl FnMut(&[u8], &mut Frames),
    ) -> Result<(), String> {
        let mut probe = Vec::new();
        self.dialect.probe(&mut probe);
        session.frames().text(&probe);
        session.flush().await?;
        let (mut answered, mut refused) = (false, None);
        while !answered {
            session
                .receive(|text, frames| match self.dialect.decode(text) {
                    Ok(Incoming::Probe) => answered = true,
                    Ok(Incoming::Refused { id: None }) => {
                        let hint = self.dialect.hint(text).unwrap_or("refused");
                        let text = String::from_utf8_lossy(text);
                        refused = Some(format!("the server answered {text} ({hint})"));
                    }
                    _ => on_other(text, frames),
                })
                .await?;
            if let Some(why) = refused {
                return Err(why);
            }
        }
        Ok(())
    }

    /// What a client does with anything that is not what its scenario is about: it acknowledges
    /// messages and notices, and tells what the protocol does not have.
    pub fn acknowledge(&self, user: u32, text: &[u8], frames: &mut Frames, faults: &mut Faults) {
        let mut frame = Vec::new();
        match self.dialect.decode(text) {
            Ok(Incoming::Message { kind, id, .. }) => {
                self.dialect.acknowledge(kind, id, &self.run.device(user), &mut frame);
                frames.text(&frame);
            }
            Ok(Incoming::Notice { id }) => {
                self.dialect.acknowledge_notice(id, &self.run.device(user), &mut frame);
                frames.text(&frame);
            }
            Ok(Incoming::Receipt { .. } | Incoming::Probe) => {}
            Ok(Incoming::Refused { .. }) => faults
                .add(FaultKind::Refused, || format!("{} got {}", self.run.user(user), shown(text))),
            Err(why) => faults.add(FaultKind::Unexpected, || {
                format!("{} got {}: {why}", self.run.user(user), shown(text))
            }),
        }
    }
}

/// What a server said, for a person to read.
pub fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().take(200).collect()
}

/// Where a run is.
#[derive(Debug, Default)]
pub struct Stage {
    now: AtomicU32,
    arrived: AtomicU32,
}

impl Stage {
    /// The stage that the main thread has named last; 0 before the first.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Acquire)
    }

    /// A client thread waits for a stage.
    pub async fn reached(&self, stage: u32) {
        while self.now() < stage {
            sleep(STAGE_POLL).await;
        }
    }

    /// A client thread has done what the stage asks of it.
    pub fn arrive(&self) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
    }
}

/// The client threads of a run, as the main thread sees them.
pub struct Threads<T> {
    count: u16,
    stage: Arc<Stage>,
    inbox: Receiver<Result<T, String>>,
    /// Arrivals of the stages before.
    arrivals: u32,
}

impl<T: Send + 'static> Threads<T> {
    /// Starts `count` of them, each with a ring of its own.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn start<F: Future<Output = Result<T, String>>>(
        count: u16,
        work: impl Fn(u16, Arc<Stage>) -> F + Clone + Send + 'static,
    ) -> Result<Threads<T>, String> {
        let stage = Arc::new(Stage::default());
        let (tell, inbox) = mpsc::channel();
        for thread in 0..count {
            let (work, stage, tell) = (work.clone(), stage.clone(), tell.clone());
            let body = move || {
                let result =
                    drive::runtime().and_then(|mut runtime| runtime.block_on(work(thread, stage)));
                // The main thread is gone only when it has given up on us.
                drop(tell.send(result));
            };
            // Threads are not joined: a thread's last word is its result.
            std::thread::Builder::new()
                .name(format!("loadgen-{thread}"))
                .spawn(body)
                .map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        Ok(Threads { count, stage, inbox, arrivals: 0 })
    }

    /// Names a stage, without waiting for anybody.
    pub fn name(&self, stage: u32) {
        self.stage.now.store(stage, Ordering::Release);
    }

    /// Names a stage and waits until all threads have arrived.
    ///
    /// # Errors
    /// A sentence for the user: a thread's failure, or none of their business after `limit`.
    pub fn lead(&mut self, stage: u32, limit: Duration) -> Result<(), String> {
        self.arrivals += u32::from(self.count);
        self.name(stage);
        let by = Instant::now() + limit;
        while self.stage.arrived.load(Ordering::Acquire) < self.arrivals {
            match self.inbox.recv_timeout(STAGE_POLL) {
                Err(RecvTimeoutError::Timeout) if Instant::now() < by => {}
                Err(RecvTimeoutError::Timeout) => return Err(hangs()),
                Err(RecvTimeoutError::Disconnected) => return Err(died()),
                Ok(Err(why)) => return Err(why),
                Ok(Ok(_)) => return Err("a client thread ended early".to_owned()),
            }
        }
        Ok(())
    }

    /// Names the last stage and gives what the threads have found.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn finish(self, stage: u32, limit: Duration) -> Result<Vec<T>, String> {
        self.name(stage);
        let by = Instant::now() + limit;
        let one = |_| match self.inbox.recv_timeout(by.saturating_duration_since(Instant::now())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(hangs()),
            Err(RecvTimeoutError::Disconnected) => Err(died()),
        };
        (0..self.count).map(one).collect()
    }
}

fn hangs() -> String {
    "a client thread hangs; giving up".to_owned()
}

fn died() -> String {
    "a client thread died".to_owned()
}

/// The part of `0..count` that belongs to one of `threads`.
pub fn share(count: u32, thread: u16, threads: u16) -> impl Iterator<Item = u32> + Clone {
    (u32::from(thread)..count).step_by(usize::from(threads))
}

/// What one of `threads` may do at the same time, of `at_once` in all.
pub fn at_once_of_thread(at_once: u32, thread: u16, threads: u16) -> usize {
    share(at_once, thread, threads).count().max(1)
}

/// Does `one` for each of `items`, `at_once` at a time; ends at the first failure.
///
/// # Errors
/// That failure.
pub async fn for_each<I, F>(
    items: I,
    at_once: usize,
    one: impl Fn(u32) -> F + Clone + 'static,
) -> Result<(), String>
where
    I: Iterator<Item = u32> + 'static,
    F: Future<Output = Result<(), String>> + 'static,
{
    let items = Rc::new(RefCell::new(items));
    let worker = || {
        let (items, one) = (items.clone(), one.clone());
        async move {
            loop {
                let next = items.borrow_mut().next();
                let Some(item) = next else { return Ok::<(), String>(()) };
                one(item).await?;
            }
        }
    };
    let workers: Vec<_> = (0..at_once).map(|_| monoio::spawn(worker())).collect();
    for worker in workers {
        worker.await?;
    }
    Ok(())
}

/// Time for so many connections to be opened, at the slowest that is worth waiting for.
pub fn time_to_connect(connections: u32) -> Duration {
    GRACE + CONNECT_MAX + Duration::from_millis(5 * u64::from(connections))
}
