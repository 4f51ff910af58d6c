//! Users who connect, are answered, and are gone again: how many a second, how long until they are
//! usable, what each costs the server. All of them have conversations, read to their end.
//!
//! As a storm each user connects once and stays.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Crowd, GRACE, Stage, Threads, at_once_of_thread, for_each, share, shown, time_to_connect,
};
use crate::api::Api;
use crate::args::ConnectArgs;
use crate::check::{FaultKind, Faults};
use crate::dialect::{Incoming, Kind};
use crate::latency::Latencies;
use crate::payload::{self, Payloads};
use crate::report::Measured;
use crate::run::Run;
use crate::session::{Frames, Session};

/// Connections being opened at the same time in preparation.
const HANDSHAKES: u32 = 64;
/// Members of each group; they all fit into one request, so that no member is told of others.
const GROUP_MEMBERS: u32 = 50;
/// Time for one user's conversations to be made.
const EXCHANGE_MAX: Duration = Duration::from_secs(60);
/// After all connections have ended, before new ones come.
const GONE: Duration = Duration::from_millis(500);

// The stages of a run.
const KNOWN: u32 = 1;
const EXCHANGED: u32 = 2;
const AWAY: u32 = 3;
const WARM_UP: u32 = 4;
const MEASURED: u32 = 5;
const END: u32 = 6;

/// What was found.
pub struct Found {
    /// CPU of the measured time.
    pub measured: Measured,
    /// How long that was, s.
    pub wall_s: f64,
    /// Connections that became usable in it.
    pub connections: u64,
    /// From the first packet to the TCP connection.
    pub tcp: Latencies,
    /// From the first packet to the server's answer to the upgrade.
    pub upgraded: Latencies,
    /// From the first packet to the first ping's answer.
    pub usable: Latencies,
    /// What went wrong.
    pub faults: Faults,
}

impl Found {
    fn new(measured: Measured, wall_s: f64) -> Found {
        let [tcp, upgraded, usable] = [(); 3].map(|()| Latencies::new());
        Found { measured, wall_s, connections: 0, tcp, upgraded, usable, faults: Faults::default() }
    }
}

/// Runs it.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &ConnectArgs) -> Result<Found, String> {
    let crowd = Crowd::new(&args.common, args.users)?;
    let (pid, run) = (args.common.server_pid, crowd.run.clone());
    crate::samples(pid)?;
    let thread_args = args.clone();
    let mut threads = Threads::start(args.common.threads, move |thread, stage| {
        client(crowd.clone(), stage, thread_args.clone(), thread)
    })?;
    let prepared_by = time_to_connect(args.users);
    threads.lead(KNOWN, prepared_by)?;
    make_groups(args, &run)?;
    threads.lead(EXCHANGED, prepared_by + EXCHANGE_MAX)?;
    if args.conversations > 0 || args.groups > 0 {
        // Until the server has noted that nothing is pending.
        std::thread::sleep(args.settle);
    }
    threads.lead(AWAY, GRACE)?;
    std::thread::sleep(GONE);
    let before;
    let parts;
    let after;
    if args.storm {
        before = crate::samples(pid)?;
        threads.lead(MEASURED, prepared_by)?;
        after = crate::samples(pid)?;
        parts = threads.finish(END, GRACE)?;
    } else {
        threads.name(WARM_UP);
        std::thread::sleep(args.warmup);
        before = crate::samples(pid)?;
        threads.name(MEASURED);
        std::thread::sleep(args.duration);
        after = crate::samples(pid)?;
        parts = threads.finish(END, super::CONNECT_MAX + GRACE)?;
    }
    let measured = crate::used(before, after);
    let wall_s = measured.client.wall_s;
    let mut found = Found::new(measured, wall_s);
    for part in parts {
        found.connections += part.connections;
        found.tcp.merge(&part.tcp);
        found.upgraded.merge(&part.upgraded);
        found.usable.merge(&part.usable);
        found.faults.merge(part.faults);
    }
    Ok(found)
}

/// Every user becomes a member of so many groups, with other users in each.
fn make_groups(args: &ConnectArgs, run: &Run) -> Result<(), String> {
    if args.groups == 0 {
        return Ok(());
    }
    let mut api = Api::new(args.api.api, &args.api.api_key_file)?;
    let mut number = 0;
    for round in 0..args.groups {
        // Each round cuts the circle of users into groups at other places.
        let names: Vec<_> = (0..args.users)
            .map(|user| {
                run.user((user + round * (GROUP_MEMBERS / args.groups).max(1)) % args.users)
            })
            .collect();
        for users in names.chunks(GROUP_MEMBERS as usize) {
            api.make_group(&run.group(number), users)?;
            number += 1;
        }
    }
    Ok(())
}

/// What one thread has seen.
struct Seen {
    connections: u64,
    tcp: Latencies,
    upgraded: Latencies,
    usable: Latencies,
    faults: Faults,
}

impl Seen {
    fn new() -> Seen {
        let [tcp, upgraded, usable] = [(); 3].map(|()| Latencies::new());
        Seen { connections: 0, tcp, upgraded, usable, faults: Faults::default() }
    }
}

/// One thread's users.
struct Client {
    crowd: Arc<Crowd>,
    args: ConnectArgs,
    stage: Arc<Stage>,
    /// Their connections of the preparation, or of a storm.
    sessions: RefCell<Vec<(u32, Session)>>,
    payloads: Payloads,
    seen: RefCell<Seen>,
    /// A connection has failed: the run is over.
    failed: Cell<bool>,
}

async fn client(
    crowd: Arc<Crowd>,
    stage: Arc<Stage>,
    args: ConnectArgs,
    thread: u16,
) -> Result<Seen, String> {
    let (users, threads, at_once) = (args.users, args.common.threads, args.at_once);
    let client = Rc::new(Client {
        payloads: Payloads::new(crowd.run.seed, payload::BYTES_MIN),
        crowd,
        args,
        stage: stage.clone(),
        sessions: RefCell::default(),
        seen: RefCell::new(Seen::new()),
        failed: Cell::new(false),
    });
    let own = share(users, thread, threads);

    stage.reached(KNOWN).await;
    let opening = client.clone();
    let handshakes = at_once_of_thread(HANDSHAKES, thread, threads);
    for_each(own.clone(), handshakes, move |user| opening.clone().prepare(user)).await?;
    stage.arrive();

    stage.reached(EXCHANGED).await;
    client.clone().exchange().await?;
    stage.arrive();

    stage.reached(AWAY).await;
    client.sessions.take().into_iter().for_each(|(_, session)| session.reset());
    stage.arrive();

    let at_once = at_once_of_thread(at_once, thread, threads);
    if client.args.storm {
        stage.reached(MEASURED).await;
        let opening = client.clone();
        for_each(own, at_once, move |user| opening.clone().arrive(user)).await?;
        stage.arrive();
        stage.reached(END).await;
        client.sessions.take().into_iter().for_each(|(_, session)| session.reset());
    } else {
        stage.reached(WARM_UP).await;
        let workers: Vec<_> = (0..at_once)
            .map(|worker| {
                let users = own.clone().skip(worker).step_by(at_once);
                monoio::spawn(client.clone().come_and_go(users))
            })
            .collect();
        for worker in workers {
            worker.await?;
        }
    }
    Ok(client.seen.replace(Seen::new()))
}

impl Client {
    async fn prepare(self: Rc<Self>, user: u32) -> Result<(), String> {
        let session = self.crowd.open(user, |text, frames| self.other(user, text, frames)).await?;
        self.sessions.borrow_mut().push((user, session));
        Ok(())
    }

    /// Every user sends one message to each of the next users, and gets one from each before.
    async fn exchange(self: Rc<Self>) -> Result<(), String> {
        if self.args.conversations == 0 {
            return Ok(());
        }
        let sessions = self.sessions.take();
        let begin = |(user, session)| monoio::spawn(self.clone().converse(user, session));
        let tasks: Vec<_> = sessions.into_iter().map(begin).collect();
        for task in tasks {
            let session = task.await?;
            self.sessions.borrow_mut().push(session);
        }
        Ok(())
    }

    async fn converse(
        self: Rc<Self>,
        user: u32,
        mut session: Session,
    ) -> Result<(u32, Session), String> {
        let half = self.args.conversations / 2;
        let crowd = &self.crowd;
        let (mut payload, mut frame) = (Vec::new(), Vec::new());
        for next in 1..=half {
            let to = crowd.run.user((user + next) % self.args.users);
            let id = crowd.run.message_id(user as u16, user >> 16 << 8 | next);
            payload.clear();
            self.payloads.append(user as u16, next, &mut payload);
            frame.clear();
            crowd.dialect.message(Kind::Private, &id, &to, &payload, &mut frame);
            session.frames().text(&frame);
        }
        session.flush().await?;
        let (mut receipts, mut deliveries) = (0, 0);
        let exchanging = async {
            while receipts < half || deliveries < half {
                session
                    .receive(|text, frames| {
                        match crowd.dialect.decode(text) {
                            Ok(Incoming::Receipt { .. }) => receipts += 1,
                            Ok(Incoming::Message { .. }) => deliveries += 1,
                            _ => {}
                        }
                        let faults = &mut self.seen.borrow_mut().faults;
                        crowd.acknowledge(user, text, frames, faults);
                    })
                    .await?;
                if self.seen.borrow().faults.count(FaultKind::Refused) > 0 {
                    let seen = self.seen.borrow();
                    return Err(seen.faults.examples()[0].1.clone());
                }
            }
            Ok(())
        };
        let name = || crowd.run.user(user);
        match monoio::time::timeout(EXCHANGE_MAX, exchanging).await {
            Ok(Ok(())) => Ok((user, session)),
            Ok(Err(why)) => Err(format!("{}: {why}", name())),
            Err(_) => Err(format!(
                "{}: {receipts} receipts and {deliveries} messages of {half} within {} s",
                name(),
                EXCHANGE_MAX.as_secs()
            )),
        }
    }

    /// One worker's users, one after the other, until the end: no user twice at the same time.
    async fn come_and_go(
        self: Rc<Self>,
        users: impl Iterator<Item = u32> + Clone,
    ) -> Result<(), String> {
        for user in users.cycle() {
            if self.stage.now() >= END || self.failed.get() {
                return Ok(());
            }
            match self.connect(user).await {
                Ok(session) => session.reset(),
                Err(why) => {
                    self.failed.set(true);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Once, in a storm.
    async fn arrive(self: Rc<Self>, user: u32) -> Result<(), String> {
        let session = self.connect(user).await?;
        self.sessions.borrow_mut().push((user, session));
        Ok(())
    }

    async fn connect(&self, user: u32) -> Result<Session, String> {
        let began_in = self.stage.now();
        let began_ns = self.crowd.now_ns();
        let session = self
            .crowd
            .open(user, |text, frames| {
                // Everything was acknowledged long ago.
                if let Ok(Incoming::Message { .. }) = self.crowd.dialect.decode(text) {
                    let name = self.crowd.run.user(user);
                    let example = || format!("{name} got {} again", shown(text));
                    self.seen.borrow_mut().faults.add(FaultKind::Duplicate, example);
                }
                self.other(user, text, frames);
            })
            .await?;
        let usable_ns = self.crowd.now_ns() - began_ns;
        let seen = &mut *self.seen.borrow_mut();
        if self.stage.now() == MEASURED {
            seen.connections += 1;
            if began_in == MEASURED {
                seen.tcp.record(session.tcp.as_nanos() as u64);
                seen.upgraded.record(session.upgraded.as_nanos() as u64);
                seen.usable.record(usable_ns);
            }
        }
        Ok(session)
    }

    fn other(&self, user: u32, text: &[u8], frames: &mut Frames) {
        let faults = &mut self.seen.borrow_mut().faults;
        self.crowd.acknowledge(user, text, frames, faults);
    }
}
