//! What a shard does because time has passed: ends reads that bring nothing, upgrade requests that
//! do not come, closes that are not answered, connections that are stuck or silent; and the end of
//! the process, step by step. It is looked at in each turn; no connection has a timer of its own.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::rc::Rc;

use ringpost_core::Input;
use ringpost_core::ids::ConnId;
use ringpost_core::ws::frame;

use crate::bounds::{ACTIVE_MS, BACKLOG, Bounds, SWEEP_MS};
use crate::mesh::EndStep;
use crate::shard_thread::{Conn, ConnState, Due, Local};
use crate::sys::Socket;
use crate::table::Table;

/// Parts in which the table of connections is looked over.
const SWEEP_PARTS: u64 = 16;
/// What every client is told when the process ends (RFC 6455 section 7.4.1, *IANA registry*).
const SERVICE_RESTART: u16 = 1012;

/// What only the watch uses.
#[derive(Default)]
pub struct State {
    /// When the reads in flight are looked at again.
    reads_due_us: u64,
    /// The place in the table of connections that is looked at next, and when.
    swept: u32,
    sweep_due_us: u64,
    /// The connections that the end of the process has not closed yet.
    closing: Option<Closing>,
}

/// Closes spread over a time.
struct Closing {
    ids: VecDeque<ConnId>,
    from_us: u64,
    /// Between two closes.
    pause_us: u64,
    closed: u64,
}

impl Closing {
    fn next_us(&self) -> Option<u64> {
        (!self.ids.is_empty()).then(|| self.from_us + self.closed * self.pause_us)
    }
}

impl Local {
    /// Does what is due.
    pub fn keep_time(&self) {
        let now_us = self.now().mono_us;
        self.end_slow_reads(now_us);
        for socket in
            overdue(&self.handshakes_due, now_us, &self.handshakes.borrow(), Socket::clone)
        {
            socket.shutdown(Shutdown::Both);
        }
        for socket in overdue(&self.closes_due, now_us, &self.conns.borrow(), socket_of) {
            socket.reset_on_close();
            socket.shutdown(Shutdown::Both);
        }
        self.sweep(now_us);
        self.close_next(now_us);
    }

    /// When something is due next.
    pub fn next_due_us(&self) -> u64 {
        let watch = self.watch.borrow();
        let first = |queue: &VecDeque<Due>| queue.front().map(|due| due.at_us);
        let candidates = [
            self.engine.borrow().next_timer_us(),
            (!self.active.borrow().is_empty()).then_some(watch.reads_due_us),
            first(&self.handshakes_due.borrow()),
            first(&self.closes_due.borrow()),
            (self.conns.borrow().len() > 0).then_some(watch.sweep_due_us),
            watch.closing.as_ref().and_then(Closing::next_us),
        ];
        candidates.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Ends the reads in flight of connections that have had no data for [`ACTIVE_MS`].
    fn end_slow_reads(&self, now_us: u64) {
        self.stats().reads_held.set(self.read_pool.borrow().in_flight() as u64);
        let mut active = self.active.borrow_mut();
        let mut watch = self.watch.borrow_mut();
        if active.is_empty() || now_us < watch.reads_due_us {
            return;
        }
        watch.reads_due_us = now_us + ACTIVE_MS * 1_000 / 2;
        let now_ms = self.now_ms();
        let mut conns = self.conns.borrow_mut();
        active.retain(|id| {
            let Some(conn) = conns.get_mut(*id) else { return false };
            let keep = u64::from(now_ms.wrapping_sub(conn.heard_ms)) <= ACTIVE_MS;
            if !keep && let Some(canceller) = conn.canceller.take() {
                drop(canceller.cancel());
            }
            keep
        });
    }

    /// Looks at the next part of the table of connections.
    fn sweep(&self, now_us: u64) {
        let places = self.conns.borrow().places();
        let mut watch = self.watch.borrow_mut();
        if places == 0 || now_us < watch.sweep_due_us {
            return;
        }
        watch.sweep_due_us = now_us + SWEEP_MS * 1_000 / SWEEP_PARTS;
        self.read_pool.borrow_mut().trim();
        self.out_pool.borrow_mut().trim();
        for _ in 0..u64::from(places).div_ceil(SWEEP_PARTS) {
            let holder = self.conns.borrow().holder(watch.swept);
            watch.swept = (watch.swept + 1) % places;
            if let Some(id) = holder {
                self.look_after(id);
            }
        }
    }

    /// Ends a connection that is stuck or silent; asks one that has been silent for long.
    fn look_after(&self, id: ConnId) {
        let Bounds { stall_ms, idle_ms, .. } = self.common.bounds;
        let now_ms = self.now_ms();
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = conns.get_mut(id) else { return };
        let since = |then: u32| u64::from(now_ms.wrapping_sub(then));
        if conn.writing && since(conn.taken_ms) >= stall_ms {
            tracing::debug!(?id, "no byte was taken for too long");
            self.stats().stalled_closes.add(1);
            let socket = conn.socket.clone();
            drop(conns);
            // Nothing fits into the socket; the frame says why only to whoever looks at the core.
            self.begin_close(id, Some((Some(1008), "too slow")), true);
            socket.reset_on_close();
            socket.shutdown(Shutdown::Both);
            return;
        }
        // Who is not read cannot be heard.
        if conn.state != ConnState::Open || conn.waker.is_some() {
            return;
        }
        if since(conn.heard_ms) >= idle_ms {
            conn.socket.shutdown(Shutdown::Both);
        } else if since(conn.heard_ms) >= idle_ms / 2 && !conn.pinged {
            conn.pinged = true;
            let mut ping = Vec::new();
            frame::encode_ping(b"", &mut ping);
            self.push(conn, &ping);
            self.mark(id, conn);
        }
    }

    /// Takes the next step of the process's end.
    pub fn take_end(self: &Rc<Self>, step: EndStep) {
        self.end.set(Some(step));
        match step {
            EndStep::Drain => {
                let listeners = std::mem::take(&mut *self.listeners.borrow_mut());
                for (index, listener) in listeners.iter().enumerate() {
                    // Who waits is told, instead of being reset by the listener's end.
                    let most = BACKLOG as usize;
                    let _as_far_as_possible = self.accept_some(index, listener, most);
                    let _ended = socket2::SockRef::from(&**listener).shutdown(Shutdown::Both);
                }
                let now = self.now();
                self.engine.borrow_mut().drive(now, Input::Drain, self.stats());
            }
            EndStep::Close(over) => {
                for id in self.handshakes.borrow().ids() {
                    let handshakes = self.handshakes.borrow();
                    handshakes.get(id).expect("an id of this table").shutdown(Shutdown::Read);
                }
                let ids: VecDeque<ConnId> = self.conns.borrow().ids().collect();
                let pause_us = over.as_micros() as u64 / (ids.len() as u64).max(1);
                let from_us = self.now().mono_us;
                let closing = Closing { ids, from_us, pause_us, closed: 0 };
                self.watch.borrow_mut().closing = Some(closing);
            }
            EndStep::Stop => {}
        }
    }

    /// Closes the connections whose turn it is at the end of the process.
    fn close_next(&self, now_us: u64) {
        loop {
            let id = {
                let mut watch = self.watch.borrow_mut();
                let Some(closing) = &mut watch.closing else { return };
                if closing.next_us().is_none_or(|next_us| next_us > now_us) {
                    return;
                }
                closing.closed += 1;
                closing.ids.pop_front().expect("there is a next one")
            };
            self.begin_close(id, Some((Some(SERVICE_RESTART), "service restart")), false);
        }
    }
}

fn socket_of(conn: &Conn) -> Socket {
    conn.socket.clone()
}

/// Takes what is over from a queue in order of time: the sockets of those that are late. Those
/// that are done are forgotten.
fn overdue<T>(
    queue: &std::cell::RefCell<VecDeque<Due>>,
    now_us: u64,
    table: &Table<T>,
    socket: impl Fn(&T) -> Socket,
) -> Vec<Socket> {
    let mut late = Vec::new();
    let mut queue = queue.borrow_mut();
    while let Some(due) = queue.front() {
        match table.get(due.id) {
            Some(_) if due.at_us > now_us => break,
            Some(value) => late.push(socket(value)),
            None => {}
        }
        queue.pop_front();
    }
    late
}
