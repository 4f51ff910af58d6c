//! The turn of a shard: what came from others goes to the core, what the core wants is done, what
//! must be durable goes to the log, what is durable leaves. It decides nothing.
//!
//! It runs behind the connections' tasks that are ready, woken by the first that has an input, by
//! the doorbell, or by a timer. With work left it rings its own bell instead of waking itself: a
//! task that wakes itself goes to the front of the runtime's queue, and nobody else has a turn.

use std::fs::File;
use std::rc::Rc;
use std::time::Duration;
use std::{future, io};

use monoio::time::Instant;
use ringpost_core::Input;
use ringpost_core::event::{Close, CloseHow, ControlId, Outputs, Routed};
use ringpost_core::ids::ShardId;
use ringpost_core::limits::{LINK_BYTES_MAX, LINK_DELIVERIES_MAX};
use ringpost_core::shard::links::delivery_bytes;

use crate::accept;
use crate::bounds::{OUT_BYTES_MAX, PARCELS_BUDGET, REPEATS_BYTES_MAX};
use crate::fatal::{self, Cause};
use crate::mesh::{EndStep, Parcel};
use crate::shard_thread::Local;
use crate::sys::Socket;

/// What only the turn uses.
pub struct State {
    turns: u64,
    /// Our deliveries to each shard, and what of them it had drained at the last turn.
    sent: Vec<Link>,
    /// What we have drained of each shard's deliveries.
    drained: Vec<Link>,
    next_ask: u64,
}

#[derive(Clone, Copy, Default)]
struct Link {
    deliveries: u64,
    bytes: u64,
    /// Of these, as the core was last told.
    drained: (u64, u64),
    /// Has changed in this turn.
    changed: bool,
}

impl State {
    /// Nothing has happened yet.
    pub fn new(shards: u16) -> State {
        State {
            turns: 0,
            sent: vec![Link::default(); usize::from(shards)],
            drained: vec![Link::default(); usize::from(shards)],
            next_ask: 0,
        }
    }
}

/// Begins a turn whenever the doorbell rings.
pub async fn listen(local: Rc<Local>, bell: File) {
    let bell = match monoio::fs::File::from_std(bell) {
        Ok(bell) => bell,
        Err(error) => bell_failed(&error),
    };
    let mut count = Vec::with_capacity(size_of::<u64>());
    loop {
        // A read on the ring waits for the count to be above zero, and takes all of it.
        let (result, buffer) = bell.read_at(count, 0).await;
        if let Err(error) = result {
            bell_failed(&error);
        }
        count = buffer;
        count.clear();
        local.begin_turn();
    }
}

fn bell_failed(error: &io::Error) -> ! {
    fatal::exit(Cause::Environment, &format!("a shard's doorbell cannot be read: {error}"))
}

/// Makes turns until the end of the process.
pub async fn run(local: Rc<Local>) {
    local.begin_turn();
    let mut armed_us = u64::MAX;
    let far = Duration::from_secs(3_600);
    let mut timer = std::pin::pin!(monoio::time::sleep(far));
    loop {
        future::poll_fn(|cx| {
            if timer.as_mut().poll(cx).is_ready() {
                armed_us = u64::MAX;
                timer.as_mut().reset(Instant::now() + far);
                local.begin_turn();
            }
            local.poll_turn(cx)
        })
        .await;
        local.turn();
        if local.end.get() == Some(EndStep::Stop) {
            // Tasks that still wait keep the rest; it goes with the process.
            local.engine.borrow_mut().end();
            return;
        }
        let next_us = local.next_due_us();
        // A timer that is armed too early costs an empty turn; re-arming it each time costs more.
        if next_us < armed_us {
            armed_us = next_us;
            let pause = next_us.saturating_sub(local.now().mono_us);
            let deadline = Instant::now() + Duration::from_micros(pause).min(far);
            timer.as_mut().reset(deadline);
        }
    }
}

impl Local {
    /// One turn. Its time was read when it began.
    fn turn(self: &Rc<Self>) {
        let now = self.now();
        let stats = self.stats();
        {
            let turns = &mut self.turn.borrow_mut().turns;
            *turns += 1;
            stats.turns.add(1);
            self.inbox.set_busy(*turns);
        }
        let more = self.drain_inbox();
        self.release_durable();
        self.tell_drained();
        self.engine.borrow_mut().drive(now, Input::Tick, stats);
        self.keep_time();
        self.settle();
        self.flush_touched();
        for waker in self.behind_turn.borrow_mut().drain(..) {
            waker.wake();
        }
        self.unpark();
        let more = more || self.engine.borrow().has_work();
        self.rest(more);
        self.end_turn();
    }

    /// Takes parcels, up to [`PARCELS_BUDGET`]; whether there may be more.
    fn drain_inbox(self: &Rc<Self>) -> bool {
        let stats = self.stats();
        stats.inbox.set(self.inbox.waiting() as u64);
        for _ in 0..PARCELS_BUDGET {
            let Some(parcel) = self.inbox.take() else { return false };
            stats.parcels_in.add(1);
            self.take_parcel(parcel);
        }
        true
    }

    fn take_parcel(self: &Rc<Self>, parcel: Parcel) {
        let (now, stats) = (self.now(), self.stats());
        match parcel {
            Parcel::Routed { from, routed } => {
                self.count_drained(from, &routed);
                self.engine.borrow_mut().drive(now, Input::Routed { from, routed }, stats);
            }
            Parcel::Loaded { id, loaded } => {
                self.engine.borrow_mut().loaded(now, id, loaded, stats);
            }
            Parcel::Connection(parcel) => match Socket::new(parcel.fd) {
                Ok(socket) => self.open(socket, parcel.address, parcel.unread, parcel.hello),
                Err(error) => tracing::warn!(%error, "a connection is lost on its way"),
            },
            Parcel::Ask { operation, answer } => {
                let id = {
                    let next = &mut self.turn.borrow_mut().next_ask;
                    *next += 1;
                    ControlId(*next)
                };
                self.asks.borrow_mut().insert(id, answer);
                let input = Input::Control { id, operation };
                self.engine.borrow_mut().drive(now, input, stats);
            }
            Parcel::Open => {
                for (index, listener) in self.listeners.borrow().iter().enumerate() {
                    monoio::spawn(accept::run(self.clone(), index, listener.clone()));
                }
            }
            Parcel::Settings(settings) => {
                let rates = settings.rates;
                self.settings.replace(settings);
                self.engine.borrow_mut().drive(now, Input::Rates(rates), stats);
            }
            Parcel::Space { low } => {
                let input = Input::Space { low };
                self.engine.borrow_mut().drive(now, input, stats);
            }
            Parcel::End(step) => self.take_end(step),
        }
    }

    /// Performs what has become durable, in order, and tells the core.
    fn release_durable(self: &Rc<Self>) {
        let durable = self.inbox.durable();
        if durable > self.engine.borrow().durable() {
            self.release(durable);
            let now = self.now();
            self.engine.borrow_mut().set_durable(now, durable, self.stats());
        }
    }

    fn release(self: &Rc<Self>, durable: u64) {
        loop {
            let released = self.engine.borrow_mut().release(durable);
            let Some(mut effects) = released else { return };
            self.perform(&mut effects.held);
            self.engine.borrow_mut().recycle(effects);
        }
    }

    /// Does what the core wants done until it wants nothing more: closing a connection is an
    /// input, which may have effects.
    fn settle(self: &Rc<Self>) {
        loop {
            let mut now = self.engine.borrow_mut().take_now();
            self.perform(&mut now);
            let mut engine = self.engine.borrow_mut();
            engine.put_back(now);
            engine.close_turn(self.stats());
            // A turn without entries waits only for those before it.
            let durable = engine.durable();
            drop(engine);
            self.release(durable);
            if self.engine.borrow().is_settled() {
                return;
            }
        }
    }

    /// Does what the effects say. The caller empties them.
    fn perform(self: &Rc<Self>, outputs: &mut Outputs) {
        for write in &outputs.writes {
            let range = write.range.start as usize..write.range.end as usize;
            self.write(write.conn, &outputs.arena[range]);
        }
        for signal in &outputs.signals {
            let range = signal.range.start as usize..signal.range.end as usize;
            self.write_unless_behind(signal.conn, &outputs.arena[range], OUT_BYTES_MAX);
        }
        for repeat in &outputs.repeats {
            let range = repeat.range.start as usize..repeat.range.end as usize;
            self.write_unless_behind(repeat.conn, &outputs.arena[range], REPEATS_BYTES_MAX);
        }
        for Close { conn, how } in outputs.closes.drain(..) {
            match how {
                CloseHow::Frame { code, reason } => {
                    self.begin_close(conn, Some((Some(code), reason)), false);
                }
                CloseHow::Http => self.begin_close(conn, None, true),
            }
        }
        if !outputs.routes.is_empty() {
            self.route(outputs);
        }
        for (id, answer) in outputs.answers.drain(..) {
            if let Some(asker) = self.asks.borrow_mut().remove(&id) {
                // It may have given up.
                let _answered = asker.send(answer);
            }
        }
    }

    /// Sends parcels to other shards, and rings each of them once.
    fn route(&self, outputs: &mut Outputs) {
        let mesh = self.inbox.mesh();
        let from = self.inbox.shard();
        let mut state = self.turn.borrow_mut();
        self.stats().parcels_out.add(outputs.routes.len() as u64);
        for (to, routed) in outputs.routes.drain(..) {
            let link = &mut state.sent[usize::from(to.0)];
            link.changed = true;
            if let Some(bytes) = delivery_bytes(&routed) {
                link.deliveries += 1;
                link.bytes += bytes;
            }
            mesh.post(to, Parcel::Routed { from, routed });
        }
        for (to, link) in (0..).zip(&mut state.sent) {
            if std::mem::take(&mut link.changed) {
                mesh.ring(ShardId(to));
            }
        }
    }

    /// Counts what is drained of another shard's deliveries.
    fn count_drained(&self, from: ShardId, routed: &Routed) {
        if let Some(bytes) = delivery_bytes(routed) {
            let link = &mut self.turn.borrow_mut().drained[usize::from(from.0)];
            link.deliveries += 1;
            link.bytes += bytes;
            link.changed = true;
        }
    }

    /// Publishes what we have drained, and tells the core what others have drained of ours.
    fn tell_drained(&self) {
        let (now, stats) = (self.now(), self.stats());
        let mut state = self.turn.borrow_mut();
        for (from, link) in (0..).zip(&mut state.drained) {
            if std::mem::take(&mut link.changed) {
                self.inbox.publish_drained(ShardId(from), link.deliveries, link.bytes);
            }
        }
        for (to, link) in (0..).zip(&mut state.sent) {
            let shard = ShardId(to);
            let drained = self.inbox.drained_by(shard);
            if drained != link.drained {
                link.drained = drained;
                let (deliveries, bytes) = drained;
                let input = Input::LinkDrained { shard, deliveries, bytes };
                self.engine.borrow_mut().drive(now, input, stats);
            }
        }
    }

    /// Ends the turn's bookkeeping and goes to sleep, unless something has come meanwhile.
    fn rest(&self, more: bool) {
        self.engine.borrow().publish(self.stats());
        let at_rest = self.engine.borrow().is_at_rest()
            && self.touched.borrow().is_empty()
            && self.asks.borrow().is_empty();
        let sockets = self.conns.borrow().len() + self.handshakes.borrow().len();
        self.inbox.set_rest(at_rest, sockets as u64);
        let mut state = self.turn.borrow_mut();
        for (to, link) in (0..).zip(&mut state.sent) {
            let full = link.deliveries - link.drained.0 >= LINK_DELIVERIES_MAX
                || link.bytes - link.drained.1 >= LINK_BYTES_MAX;
            self.inbox.want_drained(ShardId(to), full);
        }
        self.inbox.sleep();
        let news = more
            || self.inbox.waiting() > 0
            || self.inbox.durable() > self.engine.borrow().durable()
            || (0..)
                .zip(&state.sent)
                .any(|(to, link)| self.inbox.drained_by(ShardId(to)) != link.drained);
        if news {
            self.inbox.wake();
            self.inbox.ring_self();
        }
    }
}

#[cfg(test)]
mod tests;
