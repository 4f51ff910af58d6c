//! Who is not attacking: two users whose messages must go on, how long they take, and what the
//! server needs meanwhile.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::common::Server;
use super::common::client::{Client, xid};

/// What the allocator and the threads of a quiet server may come to have in any case.
pub const SLACK: u64 = 24 << 20;
/// An exchange of the others takes less than this, whatever the attack; the machine may be busy.
const SERVED: Duration = Duration::from_secs(10);
/// Exchanges during an attack at the least: it goes on until there were so many.
const EXCHANGES_MIN: usize = 20;
/// What others' p99 during an attack is wanted to stay below, as a multiple of the quiet one.
const WANTED: f64 = 3.0;

/// Whether the sizes of `make attack` are wanted.
pub fn is_full() -> bool {
    std::env::var("RINGPOST_ATTACK").is_ok_and(|value| value == "full")
}

/// A size: of a test run, or of `make attack`.
pub fn size<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Two users who exchange messages, and the server's memory before the attack.
pub struct Witness<'a> {
    server: &'a Server,
    name: &'static str,
    /// What the attack may add to the server's resident memory.
    bound: u64,
    pair: Pair,
    quiet: Vec<Duration>,
    /// Resident memory before the attack.
    before: u64,
}

/// The two.
struct Pair {
    sender: Client,
    receiver: Client,
    sent: u32,
}

impl Pair {
    /// One message from being sent to its delivery; both sides see what they should.
    fn exchange(&mut self) -> Duration {
        let (id, began) = (xid(self.sent), Instant::now());
        self.sender.send_stored(&id, "witness-b", &json!(self.sent));
        let message = self.receiver.next();
        let took = began.elapsed();
        assert_eq!((&message["id"], &message["payload"]), (&json!(id), &json!(self.sent)));
        self.receiver.ack(&id);
        self.sent += 1;
        assert!(took < SERVED, "others waited {took:?}");
        took
    }
}

impl<'a> Witness<'a> {
    /// Connects the two and measures while it is quiet. `bound`: what the attack may add to the
    /// server's resident memory, in bytes.
    pub fn new(server: &'a Server, name: &'static str, bound: u64) -> Witness<'a> {
        let receiver = Client::connect(server, "witness-b", "b");
        let sender = Client::connect(server, "witness-a", "a");
        let mut pair = Pair { sender, receiver, sent: 0 };
        let quiet = (0..size(EXCHANGES_MIN, 5_000)).map(|_| pair.exchange()).collect();
        server.forget_peak();
        let before = server.resident();
        Witness { server, name, bound, pair, quiet, before }
    }

    /// Attacks on this thread while the two go on, then looks at what it cost.
    pub fn during<T: Send>(mut self, attack: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let (result, took) = thread::scope(|scope| {
            let pair = &mut self.pair;
            let over = &over;
            let others = scope.spawn(move || {
                let mut took = Vec::new();
                while !over.load(Ordering::Relaxed) || took.len() < EXCHANGES_MIN {
                    took.push(pair.exchange());
                }
                took
            });
            let end = End(over);
            let result = attack();
            drop(end);
            (result, others.join().expect("others are served"))
        });
        let grown = self.server.resident_peak().saturating_sub(self.before);
        assert!(
            grown <= self.bound,
            "{}: {} KiB more, at most {} KiB are its bound",
            self.name,
            grown >> 10,
            self.bound >> 10
        );
        if is_full() {
            row(self.name, &mut self.quiet, took, grown, self.bound);
        }
        result
    }
}

/// Ends the others' exchanges, also when the attack's own test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A line of the table.
fn row(name: &str, quiet: &mut [Duration], mut took: Vec<Duration>, grown: u64, bound: u64) {
    static HEAD: Once = Once::new();
    HEAD.call_once(|| {
        println!(
            "\n{:<44} {:>9} {:>9} {:>7} {:>9} {:>9}   wanted: p99 at most {WANTED} x quiet",
            "attack", "quiet p99", "p99", "x", "MiB more", "bound"
        );
    });
    let p99 = |took: &mut [Duration]| {
        took.sort_unstable();
        took[took.len() * 99 / 100].as_secs_f64() * 1e3
    };
    let (quiet, during) = (p99(quiet), p99(&mut took));
    println!(
        "{name:<44} {quiet:>6.2} ms {during:>6.2} ms {:>7.2} {:>9.1} {:>9.1}{}",
        during / quiet,
        grown as f64 / f64::from(1 << 20),
        bound as f64 / f64::from(1 << 20),
        if during <= WANTED * quiet { "" } else { "   over" }
    );
}
