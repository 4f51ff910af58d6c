//! Connections that stay idle: the server's memory for each, as the slope between several counts,
//! and what their heartbeats cost.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::time::sleep;

use super::{Crowd, GRACE, Stage, Threads, for_each, share, shown, time_to_connect};
use crate::args::IdleArgs;
use crate::check::{FaultKind, Faults};
use crate::dialect::Incoming;
use crate::latency::Latencies;
use crate::memory::{self, Memory};
use crate::payload::mix;
use crate::report::Measured;
use crate::session::{Frames, Sender, Session};

/// Connections being opened at the same time, over all threads.
const HANDSHAKES: u32 = 64;
/// Heartbeats due within this time leave together.
const BEAT: Duration = Duration::from_millis(20);
/// Time for all connections to answer at the end.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What was found.
pub struct Found {
    /// Before the first connection, and at each count.
    pub memory: Vec<Memory>,
    /// CPU of the idle time.
    pub measured: Measured,
    /// Pings of the idle time that were answered.
    pub heartbeats: u64,
    /// Ping to answer.
    pub latency: Latencies,
    /// Messages of earlier runs that were delivered.
    pub foreign: u64,
    /// What went wrong.
    pub faults: Faults,
    /// Addresses that the connections came from; 0: the system's choice.
    pub sources: usize,
}

/// Runs it.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &IdleArgs) -> Result<Found, String> {
    let crowd = Crowd::new(&args.common, args.connections())?;
    let pid = args.common.server_pid;
    let sources = crowd.route.sources();
    let mut memory = Vec::new();
    let mut read_memory = |connections| match pid {
        Some(pid) => memory::sample(pid, connections)
            .map(|sample| memory.push(sample))
            .map_err(|error| format!("cannot read the memory of {pid}: {error}")),
        None => Ok(()),
    };
    read_memory(0)?;
    let thread_args = args.clone();
    let mut threads = Threads::start(args.common.threads, move |thread, stage| {
        client(crowd.clone(), stage, thread_args.clone(), thread)
    })?;
    let mut stage = 0;
    for count in &args.counts {
        stage += 1;
        threads.lead(stage, time_to_connect(*count))?;
        std::thread::sleep(args.settle);
        read_memory(*count)?;
    }
    let before = crate::samples(pid)?;
    threads.name(stage + 1);
    std::thread::sleep(args.duration);
    let after = crate::samples(pid)?;
    let parts = threads.finish(stage + 2, ANSWER_MAX + GRACE)?;

    let measured = crate::used(before, after);
    let (latency, faults) = (Latencies::new(), Faults::default());
    let mut found = Found { memory, measured, heartbeats: 0, latency, foreign: 0, faults, sources };
    for part in parts {
        found.heartbeats += part.heartbeats;
        found.foreign += part.foreign;
        found.latency.merge(&part.latency);
        found.faults.merge(part.faults);
    }
    Ok(found)
}

/// What one thread has seen.
struct Seen {
    heartbeats: u64,
    foreign: u64,
    latency: Latencies,
    faults: Faults,
}

/// A connection, as those who are not its reader know it.
struct Link {
    user: u32,
    sender: Sender,
    open: Cell<bool>,
    /// When it was sent the ping that is not answered yet.
    asked_ns: Cell<Option<u64>>,
}

/// One thread's connections.
struct Client {
    crowd: Arc<Crowd>,
    links: RefCell<Vec<Rc<Link>>>,
    seen: RefCell<Seen>,
    /// Heartbeats are counted: the idle time has begun.
    measuring: Cell<bool>,
}

async fn client(
    crowd: Arc<Crowd>,
    stage: Arc<Stage>,
    args: IdleArgs,
    thread: u16,
) -> Result<Seen, String> {
    let threads = args.common.threads;
    let latency = Latencies::new();
    let seen = Seen { heartbeats: 0, foreign: 0, latency, faults: Faults::default() };
    let client = Rc::new(Client {
        crowd,
        links: RefCell::default(),
        seen: RefCell::new(seen),
        measuring: Cell::new(false),
    });
    let at_once = super::at_once_of_thread(HANDSHAKES, thread, threads);
    let (mut opened, mut number) = (0, 0);
    for count in &args.counts {
        number += 1;
        stage.reached(number).await;
        let first = opened;
        let users = share(*count, thread, threads).skip_while(move |user| *user < first);
        let opening = client.clone();
        for_each(users, at_once, move |user| opening.clone().open(user)).await?;
        opened = *count;
        stage.arrive();
    }
    stage.reached(number + 1).await;
    client.measuring.set(true);
    if !args.heartbeat.is_zero() {
        monoio::spawn(client.clone().beat(args.heartbeat));
    }
    stage.reached(number + 2).await;
    client.measuring.set(false);
    client.all_answer().await;
    Ok(client.end())
}

impl Client {
    async fn open(self: Rc<Self>, user: u32) -> Result<(), String> {
        let session = self.crowd.open(user, |text, frames| self.other(user, text, frames)).await?;
        let sender = session.sender();
        let link = Rc::new(Link { user, sender, open: Cell::new(true), asked_ns: Cell::new(None) });
        self.links.borrow_mut().push(link.clone());
        monoio::spawn(self.clone().stay(link, session));
        Ok(())
    }

    /// Reads until the connection ends.
    async fn stay(self: Rc<Self>, link: Rc<Link>, mut session: Session) {
        loop {
            let result = session.receive(|text, frames| self.on_text(&link, text, frames)).await;
            if let Err(why) = result {
                link.open.set(false);
                let name = self.crowd.run.user(link.user);
                let example = || format!("{name}: {why}");
                return self.seen.borrow_mut().faults.add(FaultKind::Disconnected, example);
            }
        }
    }

    fn on_text(&self, link: &Link, text: &[u8], frames: &mut Frames) {
        if self.crowd.dialect.decode(text) != Ok(Incoming::Probe) {
            return self.other(link.user, text, frames);
        }
        let seen = &mut *self.seen.borrow_mut();
        match link.asked_ns.take() {
            Some(asked_ns) if self.measuring.get() => {
                seen.heartbeats += 1;
                seen.latency.record(self.crowd.now_ns() - asked_ns);
            }
            Some(_) => {}
            None => {
                let name = self.crowd.run.user(link.user);
                let example = || format!("{name} got {} unasked", shown(text));
                seen.faults.add(FaultKind::Unexpected, example);
            }
        }
    }

    fn other(&self, user: u32, text: &[u8], frames: &mut Frames) {
        let seen = &mut *self.seen.borrow_mut();
        if let Ok(Incoming::Message { .. }) = self.crowd.dialect.decode(text) {
            seen.foreign += 1;
        }
        self.crowd.acknowledge(user, text, frames, &mut seen.faults);
    }

    /// Every connection sends one ping each `period`, evenly one after the other.
    async fn beat(self: Rc<Self>, period: Duration) {
        let links = self.links.borrow().clone();
        let began = Instant::now();
        let mut sent = 0u64;
        while self.measuring.get() {
            let due = began.elapsed().as_secs_f64() / period.as_secs_f64() * links.len() as f64;
            while sent < due as u64 {
                let link = &links[sent as usize % links.len()];
                // One that has not answered for a whole period is asked no more, and told at the end.
                if link.open.get() && link.asked_ns.get().is_none() {
                    self.ask(link);
                }
                sent += 1;
            }
            sleep(BEAT).await;
        }
    }

    fn ask(&self, link: &Link) {
        let now_ns = self.crowd.now_ns();
        let mut probe = Vec::new();
        self.crowd.dialect.probe(&mut probe);
        let mut frames = Frames::new(mix(now_ns ^ u64::from(link.user)));
        frames.text(&probe);
        link.asked_ns.set(Some(now_ns));
        // When it cannot be sent, the missing answer tells.
        let _told_later = link.sender.send(&mut frames);
    }

    /// Makes sure that every connection is still there.
    async fn all_answer(&self) {
        let links = self.links.borrow().clone();
        for (count, link) in links.iter().filter(|link| link.open.get()).enumerate() {
            if link.asked_ns.get().is_none() {
                self.ask(link);
            }
            if count % 256 == 255 {
                // The answers are read meanwhile.
                sleep(Duration::from_millis(1)).await;
            }
        }
        let by = Instant::now() + ANSWER_MAX;
        let waits = |link: &Rc<Link>| link.open.get() && link.asked_ns.get().is_some();
        while Instant::now() < by && links.iter().any(waits) {
            sleep(Duration::from_millis(5)).await;
        }
        for link in links.iter().filter(|link| waits(link)) {
            let name = self.crowd.run.user(link.user);
            let example = || format!("{name}: answers no more");
            self.seen.borrow_mut().faults.add(FaultKind::Disconnected, example);
        }
    }

    /// Ends all connections, by resets, when the thread and its ring end.
    fn end(&self) -> Seen {
        for link in &*self.links.borrow() {
            link.sender.reset_on_close();
        }
        let empty = Seen {
            heartbeats: 0,
            foreign: 0,
            latency: Latencies::new(),
            faults: Faults::default(),
        };
        self.seen.replace(empty)
    }
}
