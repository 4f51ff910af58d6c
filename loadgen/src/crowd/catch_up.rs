//! Users with pending messages who connect: how fast they are caught up, each message of each
//! sender once and in order.
//!
//! The receivers connect once, so that the server knows them, and leave. The senders send. Then the
//! receivers connect and acknowledge what they get.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{
    Crowd, GRACE, Stage, Threads, at_once_of_thread, for_each, share, shown, time_to_connect,
};
use crate::args::CatchUpArgs;
use crate::check::{FaultKind, Faults, Flow};
use crate::dialect::{Incoming, Kind};
use crate::latency::Latencies;
use crate::payload::Payloads;
use crate::report::Measured;
use crate::session::{Frames, Session};

/// Connections being opened at the same time before it counts.
const HANDSHAKES: u32 = 64;
/// Messages of one sender without a receipt: half of what a server takes from one connection.
const IN_FLIGHT: u32 = 32;
/// Between sending and catching up, for the server to come to rest.
const REST: Duration = Duration::from_secs(2);

// The stages of a run.
const KNOWN: u32 = 1;
const SENT: u32 = 2;
const CAUGHT_UP: u32 = 3;
const END: u32 = 4;

/// What was found.
pub struct Found {
    /// CPU while catching up.
    pub measured: Measured,
    /// Seconds that sending took.
    pub sending_s: f64,
    /// Seconds from the first connect to the last message.
    pub catching_up_s: f64,
    /// Messages that were acknowledged to their senders.
    pub receipts: u64,
    /// Messages that were delivered, each once.
    pub deliveries: u64,
    /// Messages of earlier runs that were delivered.
    pub foreign: u64,
    /// A user's first packet to its first message.
    pub first: Latencies,
    /// A user's first packet to its last message.
    pub caught_up: Latencies,
    /// What went wrong.
    pub faults: Faults,
}

/// Runs it.
///
/// # Errors
/// A sentence for the user.
pub fn run(args: &CatchUpArgs) -> Result<Found, String> {
    let crowd = Crowd::new(&args.common, args.users.max(args.sender_count()))?;
    let pid = args.common.server_pid;
    crate::samples(pid)?;
    let thread_args = args.clone();
    let mut threads = Threads::start(args.common.threads, move |thread, stage| {
        client(crowd.clone(), stage, thread_args.clone(), thread)
    })?;
    threads.lead(KNOWN, time_to_connect(args.users))?;
    let began = Instant::now();
    threads.lead(SENT, args.limit + GRACE)?;
    let sending_s = began.elapsed().as_secs_f64();
    std::thread::sleep(REST);
    let before = crate::samples(pid)?;
    let began = Instant::now();
    threads.lead(CAUGHT_UP, args.limit + GRACE)?;
    let catching_up_s = began.elapsed().as_secs_f64();
    let after = crate::samples(pid)?;
    let parts = threads.finish(END, GRACE + super::CONNECT_MAX)?;

    let mut found = Found {
        measured: crate::used(before, after),
        sending_s,
        catching_up_s,
        receipts: 0,
        deliveries: 0,
        foreign: 0,
        first: Latencies::new(),
        caught_up: Latencies::new(),
        faults: Faults::default(),
    };
    for part in parts {
        found.receipts += part.receipts;
        found.deliveries += part.deliveries;
        found.foreign += part.foreign;
        found.first.merge(&part.first);
        found.caught_up.merge(&part.caught_up);
        found.faults.merge(part.faults);
    }
    Ok(found)
}

/// What one thread has seen.
struct Seen {
    receipts: u64,
    deliveries: u64,
    foreign: u64,
    first: Latencies,
    caught_up: Latencies,
    faults: Faults,
}

impl Seen {
    fn new() -> Seen {
        let [first, caught_up] = [(); 2].map(|()| Latencies::new());
        Seen { receipts: 0, deliveries: 0, foreign: 0, first, caught_up, faults: Faults::default() }
    }
}

/// One receiver, and what was sent to it.
struct Receiver {
    user: u32,
    /// The user who sends to it.
    sender: u32,
    flow: Flow,
    deliveries: u32,
    /// It has its last message, or will get no more.
    done: bool,
}

/// One thread's receivers and their senders.
struct Client {
    crowd: Arc<Crowd>,
    args: CatchUpArgs,
    receivers: RefCell<Vec<Receiver>>,
    sessions: RefCell<Vec<(u32, Session)>>,
    payloads: RefCell<Payloads>,
    seen: RefCell<Seen>,
}

async fn client(
    crowd: Arc<Crowd>,
    stage: Arc<Stage>,
    args: CatchUpArgs,
    thread: u16,
) -> Result<Seen, String> {
    let threads = args.common.threads;
    // The senders' numbers follow the receivers'. Both ends of a flow are on one thread.
    let senders: Vec<u32> =
        share(args.sender_count(), thread, threads).map(|sender| args.users + sender).collect();
    let receivers = share(args.users, thread, threads).enumerate().map(|(index, user)| {
        let sender = senders[index % senders.len()];
        Receiver { user, sender, flow: Flow::new(), deliveries: 0, done: false }
    });
    let client = Rc::new(Client {
        receivers: RefCell::new(receivers.collect()),
        payloads: RefCell::new(Payloads::new(crowd.run.seed, args.payload)),
        crowd,
        sessions: RefCell::default(),
        seen: RefCell::new(Seen::new()),
        args,
    });
    let limit = client.args.limit;
    let count = client.receivers.borrow().len() as u32;
    let handshakes = at_once_of_thread(HANDSHAKES, thread, threads);

    stage.reached(KNOWN).await;
    let knowing = client.clone();
    for_each(0..count, handshakes, move |index| knowing.clone().become_known(index)).await?;
    stage.arrive();

    stage.reached(SENT).await;
    let sending = client.clone();
    let at_once = senders.len();
    let all = for_each(senders.into_iter(), at_once, move |sender| sending.clone().send(sender));
    match monoio::time::timeout(limit, all).await {
        Ok(result) => result?,
        Err(_) => return Err(format!("not everything was sent within {} s", limit.as_secs_f64())),
    }
    stage.arrive();

    stage.reached(CAUGHT_UP).await;
    let catching_up = client.clone();
    let at_once = client.args.at_once.unwrap_or(client.args.users);
    let at_once = at_once_of_thread(at_once, thread, threads);
    let opening = for_each(0..count, at_once, move |index| catching_up.clone().come(index));
    // What has not come until then is found missing below.
    if let Ok(result) = monoio::time::timeout(limit, opening).await {
        result?;
    }
    stage.arrive();

    stage.reached(END).await;
    client.say_goodbye().await;
    Ok(client.finish())
}

impl Client {
    async fn become_known(self: Rc<Self>, index: u32) -> Result<(), String> {
        let user = self.receivers.borrow()[index as usize].user;
        let session = self
            .crowd
            .open(user, |text, frames| {
                let seen = &mut *self.seen.borrow_mut();
                self.crowd.acknowledge(user, text, frames, &mut seen.faults);
            })
            .await?;
        session.reset();
        Ok(())
    }

    /// One sender's messages to all its receivers, in turn.
    async fn send(self: Rc<Self>, sender: u32) -> Result<(), String> {
        let own: Vec<usize> = {
            let receivers = self.receivers.borrow();
            (0..receivers.len()).filter(|&index| receivers[index].sender == sender).collect()
        };
        let mut session = self.crowd.open(sender, |_, _| {}).await?;
        let total = own.len() as u64 * u64::from(self.args.messages);
        let (mut sent, mut answered) = (0u64, 0u64);
        while answered < total {
            while sent < total && sent - answered < u64::from(IN_FLIGHT) {
                let index = own[(sent % own.len() as u64) as usize];
                self.send_one(index, session.frames());
                sent += 1;
            }
            session.flush().await?;
            let mut refused = None;
            session
                .receive(|text, _| match self.crowd.dialect.decode(text) {
                    Ok(Incoming::Receipt { id }) => {
                        answered += 1;
                        self.on_receipt(id);
                    }
                    Ok(Incoming::Refused { .. }) => refused = Some(shown(text)),
                    _ => {}
                })
                .await?;
            if let Some(text) = refused {
                let name = self.crowd.run.user(sender);
                return Err(format!("{name} was refused: {text}"));
            }
        }
        session.reset();
        Ok(())
    }

    fn send_one(&self, index: usize, frames: &mut Frames) {
        let receiver = &mut self.receivers.borrow_mut()[index];
        let number = receiver.flow.sent(0);
        let flow = receiver.user as u16;
        let (mut payload, mut frame) = (Vec::new(), Vec::new());
        self.payloads.borrow().append(flow, number, &mut payload);
        let id = self.crowd.run.message_id(flow, number);
        let to = self.crowd.run.user(receiver.user);
        self.crowd.dialect.message(Kind::Private, &id, &to, &payload, &mut frame);
        frames.text(&frame);
    }

    fn on_receipt(&self, id: &[u8]) {
        let seen = &mut *self.seen.borrow_mut();
        let threads = u32::from(self.args.common.threads);
        let Some((flow, number)) = self.crowd.run.parse_id(id) else {
            return seen
                .faults
                .add(FaultKind::NeverSent, || format!("a receipt for {}", shown(id)));
        };
        // Receiver `user` is the thread's number `user / threads`.
        let index = (u32::from(flow) / threads) as usize;
        match self.receivers.borrow_mut()[index].flow.receipt(number) {
            Ok(_) => seen.receipts += 1,
            Err(kind) => seen.faults.add(kind, || format!("message #{number} to number {flow}")),
        }
    }

    /// One receiver connects and gets everything.
    async fn come(self: Rc<Self>, index: u32) -> Result<(), String> {
        let index = index as usize;
        let (user, began_ns) = (self.receivers.borrow()[index].user, self.crowd.now_ns());
        let opening = self.crowd.open(user, |text, frames| {
            self.on_message(index, began_ns, text, frames);
        });
        let mut session = opening.await?;
        while !self.receivers.borrow()[index].done {
            let receiving =
                session.receive(|text, frames| self.on_message(index, began_ns, text, frames));
            if let Err(why) = receiving.await {
                let name = self.crowd.run.user(user);
                let seen = &mut *self.seen.borrow_mut();
                seen.faults.add(FaultKind::Disconnected, || format!("{name}: {why}"));
                return Ok(());
            }
        }
        self.sessions.borrow_mut().push((index as u32, session));
        Ok(())
    }

    fn on_message(&self, index: usize, began_ns: u64, text: &[u8], frames: &mut Frames) {
        let receiver = &mut self.receivers.borrow_mut()[index];
        let seen = &mut *self.seen.borrow_mut();
        let (crowd, user) = (&self.crowd, receiver.user);
        crowd.acknowledge(user, text, frames, &mut seen.faults);
        let Ok(Incoming::Message { id, from, to, payload, .. }) = crowd.dialect.decode(text) else {
            return;
        };
        let Some((flow, number)) = crowd.run.parse_id(id) else {
            seen.foreign += 1;
            return;
        };
        let name = crowd.run.user(user);
        let example = || format!("message #{number} for number {flow} came to {name}");
        if u32::from(flow) != user {
            return seen.faults.add(FaultKind::Misrouted, example);
        }
        let names_fit = from == crowd.run.user(receiver.sender).as_bytes() && to == name.as_bytes();
        if !names_fit || !self.payloads.borrow_mut().matches(flow, number, payload) {
            seen.faults.add(FaultKind::Damaged, example);
        }
        match receiver.flow.delivered(number) {
            Ok(_) => {}
            Err(kind) => {
                seen.faults.add(kind, example);
                if kind != FaultKind::Reordered {
                    return;
                }
            }
        }
        seen.deliveries += 1;
        receiver.deliveries += 1;
        let taken_ns = crowd.now_ns() - began_ns;
        if receiver.deliveries == 1 {
            seen.first.record(taken_ns);
        }
        if receiver.deliveries == self.args.messages {
            receiver.done = true;
            seen.caught_up.record(taken_ns);
        }
    }

    /// Makes sure that nothing comes behind the last message.
    async fn say_goodbye(&self) {
        for (index, mut session) in self.sessions.take() {
            let mut on_other =
                |text: &[u8], frames: &mut Frames| self.on_message(index as usize, 0, text, frames);
            let pinging = self.crowd.ping(&mut session, &mut on_other);
            let result = monoio::time::timeout(super::CONNECT_MAX, pinging).await;
            if !matches!(result, Ok(Ok(()))) {
                let user = self.receivers.borrow()[index as usize].user;
                let example = || format!("{}: answers no more", self.crowd.run.user(user));
                self.seen.borrow_mut().faults.add(FaultKind::Disconnected, example);
            }
            session.reset();
        }
    }

    fn finish(&self) -> Seen {
        let mut seen = self.seen.replace(Seen::new());
        for receiver in &*self.receivers.borrow() {
            for (number, kind) in receiver.flow.missing() {
                let name = || self.crowd.run.user(receiver.user);
                seen.faults.add(kind, || format!("message #{number} to {}", name()));
            }
        }
        seen
    }
}
