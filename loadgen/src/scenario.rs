//! Scenarios: what the users of a run do. Each is a state machine without I/O: frames and the time
//! go in, frames to send come out; the driver (`drive.rs`) moves the bytes.

pub mod echo;
pub mod group;
pub mod private;

use std::ops::Range;

use crate::check::Faults;
use crate::latency::Latencies;
use crate::outbox::Outbox;

/// The moments of a run, in nanoseconds since its clock began.
#[derive(Clone, Debug)]
pub struct Times {
    /// Load begins.
    pub start_ns: u64,
    /// What is measured; its end is the end of the load.
    pub measured_ns: Range<u64>,
    /// Waiting for what is still open ends.
    pub deadline_ns: u64,
}

/// The users of one client thread, connected.
///
/// Times are nanoseconds since the run's clock began; connections are numbered from 0 on each
/// thread.
pub trait Scenario {
    /// Load begins now.
    fn start(&mut self, times: &Times, out: &mut Outbox);

    /// The server sent a text message.
    fn on_text(&mut self, conn: u16, text: &[u8], now_ns: u64, out: &mut Outbox);

    /// Whether a connection reads now; one that does not is asked again.
    fn reads(&self, _conn: u16) -> bool {
        true
    }

    /// A connection ended before the run did.
    fn on_closed(&mut self, conn: u16, why: &str);

    /// Time has passed. Gives the next moment at which this has something to do, if there is one.
    fn on_time(&mut self, now_ns: u64, out: &mut Outbox) -> Option<u64>;

    /// No new load from now on.
    fn stop(&mut self, now_ns: u64, out: &mut Outbox);

    /// Nothing is under way that can still be finished.
    fn is_settled(&self) -> bool;

    /// The run is over: what is still open now is a fault.
    fn finish(self) -> Outcome;
}

/// What members got who did not read before the load was over.
#[derive(Debug)]
pub struct Stalled {
    /// Messages that waited for them when they began to read.
    pub pending: u64,
    /// Messages that they got, each once.
    pub deliveries: u64,
    /// What they got more than once: it was sent again before they could acknowledge it.
    pub repeats: u64,
    /// From reading to having everything, for each who has.
    pub catch_up: Latencies,
}

impl Default for Stalled {
    fn default() -> Stalled {
        Stalled { pending: 0, deliveries: 0, repeats: 0, catch_up: Latencies::new() }
    }
}

impl Stalled {
    fn merge(&mut self, other: &Stalled) {
        self.pending += other.pending;
        self.deliveries += other.deliveries;
        self.repeats += other.repeats;
        self.catch_up.merge(&other.catch_up);
    }
}

/// What one thread's users measured and found.
#[derive(Debug)]
pub struct Outcome {
    /// Messages sent, in the whole run.
    pub sent: u64,
    /// Receipts that came for them.
    pub receipts: u64,
    /// Deliveries of them, each once.
    pub deliveries: u64,
    /// Messages of other runs that were delivered to these users.
    pub foreign: u64,
    /// Messages that became both acknowledged and delivered in the measured time.
    pub completed: u64,
    /// Open loop: messages due in the measured time that could not be sent before its end. They
    /// are in the latencies with the time they had waited until then.
    pub unsent: u64,
    /// Send to receipt, of messages sent (or due) in the measured time.
    pub receipt: Latencies,
    /// Send to delivery, of the same.
    pub delivery: Latencies,
    /// Groups: deliveries in the measured time.
    pub measured_deliveries: u64,
    /// Groups: send to the first receiver's delivery, of messages sent in the measured time.
    pub first: Latencies,
    /// Groups: send to the last receiver's.
    pub last: Latencies,
    /// Groups: of members who did not read.
    pub stalled: Stalled,
    /// Open loop: due to sent, of messages that only the client itself held up.
    pub lag: Latencies,
    /// What went wrong.
    pub faults: Faults,
}

impl Outcome {
    /// Nothing yet.
    pub fn new() -> Outcome {
        Outcome {
            sent: 0,
            receipts: 0,
            deliveries: 0,
            foreign: 0,
            completed: 0,
            unsent: 0,
            receipt: Latencies::new(),
            delivery: Latencies::new(),
            measured_deliveries: 0,
            first: Latencies::new(),
            last: Latencies::new(),
            stalled: Stalled::default(),
            lag: Latencies::new(),
            faults: Faults::default(),
        }
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: Outcome) {
        self.sent += other.sent;
        self.receipts += other.receipts;
        self.deliveries += other.deliveries;
        self.foreign += other.foreign;
        self.completed += other.completed;
        self.unsent += other.unsent;
        self.receipt.merge(&other.receipt);
        self.delivery.merge(&other.delivery);
        self.measured_deliveries += other.measured_deliveries;
        self.first.merge(&other.first);
        self.last.merge(&other.last);
        self.stalled.merge(&other.stalled);
        self.lag.merge(&other.lag);
        self.faults.merge(other.faults);
    }
}
