//! How threads reach a shard: one inbox each, a doorbell, and three kinds of numbers that are read
//! instead of sent (turns that are durable, deliveries that were drained, who is at rest).
//!
//! It only moves: what may be sent and when it has become too much is decided in the core.
//! Nothing here waits for a shard, and nothing makes a shard wait.
//!
//! *Bounds.* An inbox takes everything. What can be in it is bounded by who sends: commands and
//! outcomes by admission, deliveries and heads by the links, loads by the waiters of the core,
//! connections by the descriptors, questions of the control plane by [`ASKS_MAX`].

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use ringpost_core::event::{Answer, LoadId, Loaded, Operation, Routed};
use ringpost_core::ids::ShardId;
use ringpost_core::session::Hello;
use tokio::sync::{Semaphore, oneshot};

use crate::settings::Settings;
use crate::sys;

/// Questions of the control plane that are not answered yet; the next is told [`AskError::Busy`].
pub const ASKS_MAX: usize = 1_024;

/// What arrives in a shard's inbox.
#[derive(Debug)]
pub enum Parcel {
    /// From another shard's core.
    Routed {
        /// The sender.
        from: ShardId,
        /// What it says.
        routed: Routed,
    },
    /// A connection that another shard accepted.
    Connection(Box<HandOver>),
    /// The answer of a reader thread.
    Loaded {
        /// Names the question.
        id: LoadId,
        /// Its answer.
        loaded: Loaded,
    },
    /// A question of the control plane.
    Ask {
        /// What it wants.
        operation: Operation,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
    /// All shards are ready: accept connections.
    Open,
    /// What the operator has changed, for everybody who connects from now on.
    Settings(Arc<Settings>),
    /// The store's disk is down to its reserve (`low`), or has room again.
    Space {
        /// See [`ringpost_core::Input::Space`].
        low: bool,
    },
    /// The process ends, step by step.
    End(EndStep),
}

/// A connection on its way to its home.
#[derive(Debug)]
pub struct HandOver {
    /// The socket, without an operation in flight.
    pub fd: OwnedFd,
    /// The client's.
    pub address: IpAddr,
    /// What was read behind the upgrade request.
    pub unread: Vec<u8>,
    /// Who connects.
    pub hello: Box<Hello>,
}

/// The steps of the process's end, in their order. The supervisor sends each to all shards when
/// the one before has been done by all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EndStep {
    /// Accept and read no more; finish what is in progress.
    Drain,
    /// Close all connections, spread over this time.
    Close(Duration),
    /// End the thread.
    Stop,
}

/// Why a question to a shard has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskError {
    /// [`ASKS_MAX`] are under way: try again.
    Busy,
    /// The process ends.
    Ending,
}

/// What all threads share.
#[derive(Clone, Debug)]
pub struct Mesh(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ports: Box<[Port]>,
    /// By receiver, then sender.
    links: Box<[Link]>,
    asks: Semaphore,
}

/// One shard, seen from outside. Aligned so that two shards never share a cache line, or the pair
/// of lines that is fetched at once.
#[derive(Debug)]
#[repr(align(128))]
struct Port {
    inbox: Sender<Parcel>,
    bell: File,
    /// The shard has looked at everything and waits for its bell.
    asleep: AtomicBool,
    /// The last turn that is durable. Written by the log's writer.
    durable: AtomicU64,
    /// Nothing of this shard's is under way. Written by the shard.
    at_rest: AtomicBool,
    /// Turns so far. Written by the shard.
    turns: AtomicU64,
    /// Connections it has. Written by the shard.
    connections: AtomicU64,
}

/// What a shard has drained of another's deliveries. Written by the receiver, except `wanted`.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Link {
    deliveries: AtomicU64,
    bytes: AtomicU64,
    /// The sender's link is full: it wants to be woken when this changes.
    wanted: AtomicBool,
}

/// A shard's end of the mesh.
#[derive(Debug)]
pub struct Inbox {
    shard: ShardId,
    receiver: Receiver<Parcel>,
    mesh: Mesh,
}

impl Mesh {
    /// A mesh and the inboxes of its shards, in order.
    ///
    /// # Errors
    /// When there is no descriptor for a doorbell.
    pub fn new(shards: u16) -> io::Result<(Mesh, Vec<Inbox>)> {
        let mut ports = Vec::new();
        let mut receivers = Vec::new();
        for _ in 0..shards {
            let (inbox, receiver) = crossbeam_channel::unbounded();
            receivers.push(receiver);
            ports.push(Port {
                inbox,
                bell: sys::eventfd()?,
                asleep: AtomicBool::new(false),
                durable: AtomicU64::new(0),
                at_rest: AtomicBool::new(false),
                turns: AtomicU64::new(0),
                connections: AtomicU64::new(0),
            });
        }
        let links = (0..usize::from(shards).pow(2)).map(|_| Link::default()).collect();
        let asks = Semaphore::new(ASKS_MAX);
        let mesh = Mesh(Arc::new(Shared { ports: ports.into(), links, asks }));
        let inboxes = (0..shards).zip(receivers).map(|(shard, receiver)| Inbox {
            shard: ShardId(shard),
            receiver,
            mesh: mesh.clone(),
        });
        Ok((mesh.clone(), inboxes.collect()))
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.0.ports.len() as u16
    }

    /// Asks the home that executes the operation. For the control plane; the answer comes when it is durable.
    ///
    /// # Errors
    /// [`AskError`]; nothing is known then about whether the operation was executed.
    pub async fn ask(&self, operation: Operation) -> Result<Answer, AskError> {
        let _permit = self.0.asks.try_acquire().map_err(|_none_left| AskError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let home = operation.slot().shard(self.shards());
        self.send(home, Parcel::Ask { operation, answer });
        answered.await.map_err(|_dropped_at_the_end| AskError::Ending)
    }

    /// Questions of the control plane that wait for their answer.
    pub fn asks(&self) -> usize {
        ASKS_MAX - self.0.asks.available_permits()
    }

    /// Puts the same parcel into every shard's inbox.
    pub fn send_all(&self, parcel: impl Fn() -> Parcel) {
        for shard in (0..self.shards()).map(ShardId) {
            self.send(shard, parcel());
        }
    }

    /// Puts a parcel into a shard's inbox and wakes the shard if it sleeps.
    pub fn send(&self, to: ShardId, parcel: Parcel) {
        self.post(to, parcel);
        self.ring(to);
    }

    /// Puts a parcel into a shard's inbox. [`Mesh::ring`] must follow; one is enough for many.
    pub fn post(&self, to: ShardId, parcel: Parcel) {
        // A shard that has ended has dropped its inbox: what was for it is lost with the process.
        let _ended = self.port(to).inbox.send(parcel);
    }

    /// Wakes a shard that sleeps, after something was posted or published for it.
    pub fn ring(&self, to: ShardId) {
        // Pairs with the fence in `Inbox::sleep`: either we see that it sleeps, or it sees what
        // was posted before this.
        fence(SeqCst);
        let port = self.port(to);
        if port.asleep.load(Relaxed) && port.asleep.swap(false, Relaxed) {
            port.ring();
        }
    }

    /// All turns of `shard` up to `turn` are durable. [`Mesh::ring`] must follow.
    pub fn publish_durable(&self, shard: ShardId, turn: u64) {
        self.port(shard).durable.store(turn, Release);
    }

    /// The shards that have connections, or something under way: in an inbox, in a turn that is
    /// not durable, with a reader. Only meaningful once nothing comes in from outside.
    pub fn census(&self) -> Census {
        let ports = &self.0.ports;
        let turns = |port: &Port| port.turns.load(SeqCst);
        // Each shard is looked at twice: what passes from one to another between two looks would
        // have made a turn.
        let before: Vec<u64> = ports.iter().map(turns).collect();
        let at_rest = |port: &Port| port.at_rest.load(SeqCst) && port.inbox.is_empty();
        let mut busy = ports.iter().filter(|port| !at_rest(port)).count();
        if busy == 0 {
            let still = ports.iter().zip(before).filter(|(port, before)| turns(port) == *before);
            busy = ports.len() - still.filter(|(port, _)| at_rest(port)).count();
        }
        let connections = ports.iter().map(|port| port.connections.load(SeqCst)).sum();
        Census { busy, connections }
    }

    fn port(&self, shard: ShardId) -> &Port {
        &self.0.ports[usize::from(shard.0)]
    }

    fn link(&self, receiver: ShardId, sender: ShardId) -> &Link {
        let shards = self.0.ports.len();
        &self.0.links[usize::from(receiver.0) * shards + usize::from(sender.0)]
    }
}

/// See [`Mesh::census`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Census {
    /// Shards with something under way.
    pub busy: usize,
    /// Connections of all shards.
    pub connections: u64,
}

impl Port {
    fn ring(&self) {
        // Fails only when the count would overflow; then the bell has been rung long ago.
        let _rung_already = (&self.bell).write(&1u64.to_ne_bytes());
    }
}

impl Inbox {
    /// Whose it is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The mesh it belongs to.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The next parcel, FIFO for each sender.
    pub fn take(&self) -> Option<Parcel> {
        self.receiver.try_recv().ok()
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.receiver.len()
    }

    /// The last of our turns that is durable.
    pub fn durable(&self) -> u64 {
        self.port().durable.load(Acquire)
    }

    /// What `receiver` has drained of our deliveries, by count and bytes.
    pub fn drained_by(&self, receiver: ShardId) -> (u64, u64) {
        let link = self.mesh.link(receiver, self.shard);
        // The count is published last: bytes are never behind it.
        let deliveries = link.deliveries.load(Acquire);
        (deliveries, link.bytes.load(Relaxed))
    }

    /// Asks `receiver` to ring us when it drains, because our link to it is full; or not any more.
    pub fn want_drained(&self, receiver: ShardId, wanted: bool) {
        let link = self.mesh.link(receiver, self.shard);
        if link.wanted.load(Relaxed) != wanted {
            link.wanted.store(wanted, SeqCst);
        }
    }

    /// Tells `sender` what we have drained of its deliveries since the process began.
    pub fn publish_drained(&self, sender: ShardId, deliveries: u64, bytes: u64) {
        let link = self.mesh.link(self.shard, sender);
        link.bytes.store(bytes, Relaxed);
        link.deliveries.store(deliveries, SeqCst);
        if link.wanted.load(SeqCst) {
            self.mesh.ring(sender);
        }
    }

    /// Another descriptor of the doorbell, to be read on the shard's ring: it has something to
    /// read after somebody has rung.
    pub fn bell(&self) -> io::Result<File> {
        self.port().bell.try_clone()
    }

    /// Rings our own bell: there is work left, but first the ring is to be served.
    pub fn ring_self(&self) {
        self.port().ring();
    }

    /// Says that the shard is about to sleep. Afterwards everything that others post or publish
    /// must be looked at once more; then [`Inbox::wake`], or wait for the bell.
    pub fn sleep(&self) {
        self.port().asleep.store(true, Relaxed);
        // Pairs with the fence in `Mesh::ring`.
        fence(SeqCst);
    }

    /// The shard is awake; nobody needs to ring.
    pub fn wake(&self) {
        self.port().asleep.store(false, Relaxed);
    }

    /// A turn begins.
    pub fn set_busy(&self, turns: u64) {
        self.port().at_rest.store(false, SeqCst);
        self.port().turns.store(turns, SeqCst);
    }

    /// A turn has ended; `at_rest`: nothing of ours is under way any more, except in our inbox.
    pub fn set_rest(&self, at_rest: bool, connections: u64) {
        self.port().connections.store(connections, SeqCst);
        self.port().at_rest.store(at_rest, SeqCst);
    }

    fn port(&self) -> &Port {
        self.mesh.port(self.shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_core::ids::UserId;
    use std::io::Read;

    fn end(inbox: &Inbox) -> Option<EndStep> {
        match inbox.take()? {
            Parcel::End(step) => Some(step),
            parcel => panic!("{parcel:?}"),
        }
    }

    #[test]
    fn parcels_of_one_sender_keep_their_order() {
        let (mesh, inboxes) = Mesh::new(2).expect("two descriptors");
        mesh.send(ShardId(1), Parcel::End(EndStep::Drain));
        mesh.send(ShardId(1), Parcel::End(EndStep::Stop));
        assert_eq!(end(&inboxes[0]), None);
        assert_eq!(end(&inboxes[1]), Some(EndStep::Drain));
        assert_eq!(end(&inboxes[1]), Some(EndStep::Stop));
        assert_eq!(end(&inboxes[1]), None);
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let (mesh, inboxes) = Mesh::new(1).expect("a descriptor");
        let inbox = &inboxes[0];
        mesh.send(ShardId(0), Parcel::End(EndStep::Drain));
        inbox.sleep();
        mesh.send(ShardId(0), Parcel::End(EndStep::Drain));
        mesh.send(ShardId(0), Parcel::End(EndStep::Drain));
        let mut count = [0; 8];
        inbox.bell().expect("a descriptor").read_exact(&mut count).expect("it was rung");
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    #[test]
    fn no_parcel_is_missed_by_a_shard_that_goes_to_sleep() {
        const PARCELS: usize = 20_000;
        let (mesh, mut inboxes) = Mesh::new(1).expect("a descriptor");
        let inbox = inboxes.remove(0);
        let mut bell = inbox.bell().expect("a descriptor");
        let sender = std::thread::spawn(move || {
            for _ in 0..PARCELS {
                mesh.send(ShardId(0), Parcel::End(EndStep::Drain));
            }
        });
        let mut got = 0;
        while got < PARCELS {
            while inbox.take().is_some() {
                got += 1;
            }
            inbox.sleep();
            if inbox.waiting() == 0 && got < PARCELS {
                // A missed wake would wait here for ever: no parcel comes after the last.
                bell.read_exact(&mut [0; 8]).expect("an eventfd");
            }
            inbox.wake();
        }
        sender.join().expect("it does not panic");
    }

    #[test]
    fn a_full_link_wakes_its_sender() {
        let (_mesh, inboxes) = Mesh::new(2).expect("two descriptors");
        let (sender, receiver) = (&inboxes[0], &inboxes[1]);
        sender.want_drained(ShardId(1), true);
        sender.sleep();
        receiver.publish_drained(ShardId(0), 3, 300);
        assert_eq!(sender.drained_by(ShardId(1)), (3, 300));
        sender.bell().expect("a descriptor").read_exact(&mut [0; 8]).expect("it was rung");
        assert_eq!(receiver.drained_by(ShardId(0)), (0, 0), "the other direction is its own");
    }

    #[test]
    fn a_census_counts_what_is_in_an_inbox() {
        let (mesh, inboxes) = Mesh::new(2).expect("two descriptors");
        assert_eq!(mesh.census().busy, 2, "nobody has said that it rests");
        inboxes.iter().for_each(|inbox| inbox.set_rest(true, 3));
        assert_eq!(mesh.census(), Census { busy: 0, connections: 6 });
        mesh.send(ShardId(1), Parcel::End(EndStep::Drain));
        assert_eq!(mesh.census().busy, 1);
    }

    #[test]
    fn questions_are_bounded_and_end_with_the_process() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (mesh, mut inboxes) = Mesh::new(1).expect("a descriptor");
            let user = UserId::parse("u").expect("valid");
            let ask = || mesh.ask(Operation::GetUser { user: user.clone() });
            let mut asks: Vec<_> = (0..ASKS_MAX).map(|_| Box::pin(ask())).collect();
            for ask in &mut asks {
                assert!(futures_poll(ask).await.is_none());
            }
            assert_eq!(ask().await, Err(AskError::Busy));
            let Some(Parcel::Ask { answer, .. }) = inboxes[0].take() else { panic!("none") };
            answer.send(Answer::NoSuchUser).expect("it waits");
            assert_eq!(asks.remove(0).await, Ok(Answer::NoSuchUser));
            drop(inboxes.remove(0));
            assert_eq!(asks.remove(0).await, Err(AskError::Ending));
        });
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            let poll = std::pin::Pin::new(&mut *future).poll(cx);
            std::task::Poll::Ready(match poll {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }
}
