//! A connection at its home: reads bytes, gives whole messages to the core, ends as RFC 6455 has
//! it. It knows no dialect and no user.
//!
//! An idle connection waits in `readable()` and holds no buffer. While data comes, one read on the
//! ring with a buffer of the shard's pool is in flight. Writing is in `flush.rs`.

use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::task::Poll;
use std::{future, io};

use monoio::io::Canceller;
use ringpost_core::Input;
use ringpost_core::ids::ConnId;
use ringpost_core::session::Hello;
use ringpost_core::ws::WsError;
use ringpost_core::ws::frame::{self, Role};
use ringpost_core::ws::message::{Event, Receiver};

use crate::bounds::{ACTIVE_MS, MESSAGES_BUDGET, OUT_BYTES_MAX, READ_BYTES};
use crate::out::Out;
use crate::shard_thread::{Conn, ConnState, Due, Local};
use crate::sys::Socket;

/// What a connection's task has of its stream.
struct Stream {
    id: ConnId,
    socket: Socket,
    receiver: Receiver,
    /// What was read and not consumed.
    unread: Vec<u8>,
    /// What this connection counts for in [`Local::unfinished`].
    unfinished: usize,
}

/// What a connection's task does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Read: what was there has been consumed.
    Read,
    /// Go on behind the turn: others have their share first.
    Yield,
    /// Wait until the next data message may be taken.
    Wait,
    /// The connection ends: write what there is, and let the peer read it.
    Close,
    /// Nothing can be read or written any more.
    Gone,
}

impl Local {
    /// Gives a connection its place and its task. `unread` was read behind its upgrade request.
    pub fn open(
        self: &Rc<Self>,
        socket: Socket,
        address: IpAddr,
        unread: Vec<u8>,
        hello: Box<Hello>,
    ) {
        let now = self.begin_turn();
        let user = hello.login.as_ref().map(|login| login.user.as_str()).ok();
        let conn = self.conns.borrow_mut().insert(Conn {
            socket: socket.clone(),
            out: Out::default(),
            canceller: None,
            state: ConnState::Open,
            told_closed: false,
            writing: false,
            touched: false,
            fin: false,
            answered: false,
            pinged: false,
            waker: None,
            heard_ms: self.now_ms(),
            taken_ms: self.now_ms(),
        });
        // What is logged of it later names the id alone: an address per connection is memory.
        tracing::debug!(id = ?conn, %address, user, "a connection opens");
        self.stats().connections.add(1);
        let receiver = Receiver::new(Role::Server);
        let receiver = if hello.deflate.is_some() { receiver.with_deflate() } else { receiver };
        self.engine.borrow_mut().drive(now, Input::Opened { conn, hello }, self.stats());
        let stream = Stream { id: conn, socket, receiver, unread, unfinished: 0 };
        monoio::spawn(run(self.clone(), stream));
    }

    /// Tells the core, once, that a connection is gone or about to be.
    pub fn tell_closed(&self, id: ConnId) {
        let mut conns = self.conns.borrow_mut();
        if let Some(conn) = conns.get_mut(id)
            && !std::mem::replace(&mut conn.told_closed, true)
        {
            conn.state = ConnState::Closing;
            drop(conns);
            let now = self.begin_turn();
            self.engine.borrow_mut().drive(now, Input::Closed { conn: id }, self.stats());
        }
    }

    /// Begins the end of a connection: a close frame behind what was written before, unless the
    /// stream is not (or not any more) one of frames, and a time by which all must be over.
    /// `fin`: nothing more is expected from the peer.
    pub fn begin_close(&self, id: ConnId, frame: Option<(Option<u16>, &str)>, fin: bool) {
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = conns.get_mut(id) else { return };
        if conn.state == ConnState::Closing {
            return;
        }
        conn.state = ConnState::Closing;
        conn.fin = fin;
        if let Some((code, reason)) = frame {
            let mut bytes = Vec::new();
            frame::encode_close(code, reason, &mut bytes);
            self.push(conn, &bytes);
        }
        self.mark(id, conn);
        // Its task may wait for something that will not come any more.
        conn.wake();
        drop(conns);
        let at_us = self.begin_turn().mono_us + self.common.bounds.close_ms * 1_000;
        self.closes_due.borrow_mut().push_back(Due { at_us, id });
        self.tell_closed(id);
    }

    /// Ends a connection whose peer broke the protocol.
    #[cold]
    fn broken(&self, id: ConnId, error: WsError) -> Step {
        tracing::debug!(?id, %error, "the peer broke the protocol");
        self.stats().protocol_closes.add(1);
        self.begin_close(id, Some((Some(error.close_code()), "")), true);
        Step::Close
    }

    /// Whether the next data message of this connection may be taken.
    fn takes(&self, id: ConnId) -> bool {
        let room = |conn: &Conn| conn.answered && conn.out.waiting() < OUT_BYTES_MAX;
        !self.is_ending()
            && self.conns.borrow().get(id).is_some_and(room)
            && self.engine.borrow().takes(id)
    }

    /// Has the turn wake this connection's task when its next data message may be taken.
    async fn until_taken(&self, id: ConnId) {
        self.parked.borrow_mut().push(id);
        self.until_woken(id).await;
    }

    /// Waits for [`Conn::wake`].
    async fn until_woken(&self, id: ConnId) {
        let mut waited = false;
        future::poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            match self.conns.borrow_mut().get_mut(id) {
                Some(conn) => conn.waker = Some(cx.waker().clone()),
                None => return Poll::Ready(()),
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until everything queued is written, or nothing can be any more.
    async fn until_written(&self, id: ConnId) {
        let unwritten = |conn: &Conn| conn.writing || !conn.out.is_empty();
        while self.conns.borrow().get(id).is_some_and(unwritten) {
            self.until_woken(id).await;
        }
    }

    /// Wakes the tasks whose next data message may be taken now.
    pub fn unpark(&self) {
        if !self.parked.borrow().is_empty() && !self.is_ending() && self.engine.borrow().admits() {
            self.parked.borrow_mut().retain(|id| {
                let wake = self.takes(*id);
                if wake && let Some(conn) = self.conns.borrow_mut().get_mut(*id) {
                    conn.wake();
                }
                !wake && self.state(*id) == Some(ConnState::Open)
            });
        }
        self.stats().waiting.set(self.parked.borrow().len() as u64);
    }

    fn state(&self, id: ConnId) -> Option<ConnState> {
        self.conns.borrow().get(id).map(|conn| conn.state)
    }
}

/// A connection's task.
///
/// An `async` block that uses its captures in place: an `async fn` would keep its arguments twice,
/// and idle connections are many.
#[expect(clippy::manual_async_fn, reason = "half the size")]
fn run(local: Rc<Local>, mut stream: Stream) -> impl Future<Output = ()> {
    async move {
        loop {
            match stream.ingest(&local) {
                Step::Read => {
                    local.read_pool.borrow_mut().give(&mut stream.unread);
                    if stream.socket.readable().await.is_err() {
                        break;
                    }
                    match stream.read_now(&local) {
                        Read::End | Read::Failed => break,
                        Read::Data { active: true } if local.read_pool.borrow().has_room() => {
                            // Boxed, so that idle connections do not pay for its size.
                            if Box::pin(stream.read_on_ring(&local)).await == Step::Gone {
                                break;
                            }
                        }
                        Read::Nothing | Read::Data { .. } => {}
                    }
                }
                Step::Yield => local.behind_turn().await,
                Step::Wait => local.until_taken(stream.id).await,
                Step::Close => {
                    Box::pin(stream.close(&local)).await;
                    break;
                }
                Step::Gone => break,
            }
        }
        stream.gone(&local);
    }
}

/// What a read without waiting brought.
enum Read {
    Nothing,
    /// `active`: the data before this came not long ago.
    Data {
        active: bool,
    },
    /// The peer's stream has ended.
    End,
    Failed,
}

impl Stream {
    /// Takes what was read, up to [`MESSAGES_BUDGET`] messages.
    fn ingest(&mut self, local: &Local) -> Step {
        match local.state(self.id) {
            Some(ConnState::Open) => {}
            Some(ConnState::Closing) => return Step::Close,
            None => return Step::Gone,
        }
        // A client that does not wait for the answer must not get another one before it.
        if !local.conns.borrow().get(self.id).is_some_and(|conn| conn.answered) {
            return if self.account(local, Step::Wait) { Step::Wait } else { Step::Close };
        }
        let mut at = 0;
        let mut budget = MESSAGES_BUDGET;
        let step = loop {
            if budget == 0 {
                break Step::Yield;
            }
            match self.step(local, &mut at) {
                None => {}
                Some(step) => break step,
            }
            budget -= 1;
        };
        self.unread.drain(..at);
        if self.account(local, step) { step } else { Step::Close }
    }

    /// Takes the next event of the stream. `None`: there may be more.
    fn step(&mut self, local: &Local, at: &mut usize) -> Option<Step> {
        let id = self.id;
        let taken = local.takes(id);
        let (_, rest) = self.unread.split_at_mut(*at);
        let stepped = match taken {
            true => self.receiver.step(rest),
            false => self.receiver.step_control(rest),
        };
        let (consumed, event) = match stepped {
            Ok(stepped) => stepped,
            Err(error) => return Some(local.broken(id, error)),
        };
        *at += consumed;
        match event {
            None => return Some(Step::Read),
            Some(Event::Blocked) => return Some(Step::Wait),
            Some(Event::Message { binary, mut bytes }) => {
                let stats = local.stats();
                stats.messages_in.add(1);
                let now = local.begin_turn();
                let input = Input::Message { conn: id, binary, bytes: &mut bytes };
                local.engine.borrow_mut().drive(now, input, stats);
            }
            Some(Event::Compressed { binary, bytes }) => {
                let mut inflater = local.inflater.borrow_mut();
                let stats = local.stats();
                stats.inflated_from_bytes.add(bytes.len() as u64);
                let bytes = match inflater.inflate(binary, &bytes) {
                    Ok(bytes) => bytes,
                    Err(error) => return Some(local.broken(id, error)),
                };
                stats.messages_in.add(1);
                stats.inflated_bytes.add(bytes.len() as u64);
                let large = bytes.len() > READ_BYTES;
                let now = local.begin_turn();
                let input = Input::Message { conn: id, binary, bytes };
                local.engine.borrow_mut().drive(now, input, stats);
                // A few bytes may inflate to a large message, and one read holds many of them: the
                // others have their share after each.
                return large.then_some(Step::Yield);
            }
            Some(Event::Ping(payload)) => local.pong(id, payload),
            Some(Event::Pong(_)) => {}
            Some(Event::Close { code, reason: _ }) => {
                // RFC 6455 section 5.5.1: the answer is a close frame, usually with the same code.
                local.begin_close(id, Some((code, "")), true);
                return Some(Step::Close);
            }
        }
        None
    }

    /// Counts what this connection holds; `false`: the shard cannot hold that, it was closed.
    fn account(&mut self, local: &Local, step: Step) -> bool {
        let waits = if step == Step::Wait { self.unread.capacity() } else { 0 };
        let holds = self.receiver.held_bytes() + waits;
        if holds == self.unfinished {
            return true;
        }
        let all = local.unfinished.get() - self.unfinished + holds;
        local.unfinished.set(all);
        local.stats().unfinished_bytes.set(all as u64);
        let grows = std::mem::replace(&mut self.unfinished, holds) < holds;
        if grows && all > local.common.bounds.unfinished_bytes {
            local.stats().protocol_closes.add(1);
            local.begin_close(self.id, Some((Some(1009), "too much unfinished input")), true);
            return false;
        }
        true
    }

    /// Reads what is there without waiting.
    fn read_now(&mut self, local: &Local) -> Read {
        local.read_pool.borrow_mut().make_room(&mut self.unread);
        match self.socket.recv(&mut self.unread) {
            Ok(0) => Read::End,
            Ok(bytes) => Read::Data { active: self.heard(local, bytes) },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::Failed,
        }
    }

    /// Notes that data came; whether other data had come not long before.
    fn heard(&self, local: &Local, bytes: usize) -> bool {
        local.stats().bytes_in.add(bytes as u64);
        local.begin_turn();
        let now_ms = local.now_ms();
        let mut conns = local.conns.borrow_mut();
        let Some(conn) = conns.get_mut(self.id) else { return false };
        conn.pinged = false;
        let before = std::mem::replace(&mut conn.heard_ms, now_ms);
        u64::from(now_ms.wrapping_sub(before)) <= ACTIVE_MS
    }

    /// Keeps a read on the ring in flight, until no data has come for [`ACTIVE_MS`], something
    /// else than reading is to be done, or the shard has no buffer for it.
    async fn read_on_ring(&mut self, local: &Local) -> Step {
        loop {
            match self.ingest(local) {
                Step::Read => {}
                Step::Yield => {
                    local.behind_turn().await;
                    continue;
                }
                step => return step,
            }
            if !local.read_pool.borrow().has_room() {
                return Step::Read;
            }
            local.read_pool.borrow_mut().begins();
            let result = self.read_once(local).await;
            local.read_pool.borrow_mut().ended();
            match result {
                Ok(0) => return Step::Gone,
                Ok(bytes) => _ = self.heard(local, bytes),
                Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => return Step::Read,
                Err(_) => return Step::Gone,
            }
        }
    }

    /// One read on the ring, awaited to its end: the turn ends it when it takes too long.
    async fn read_once(&mut self, local: &Local) -> io::Result<usize> {
        let handle = {
            let mut conns = local.conns.borrow_mut();
            let Some(conn) = conns.get_mut(self.id) else { return Ok(0) };
            if conn.canceller.is_none() {
                conn.canceller = Some(Canceller::new());
                local.active.borrow_mut().push(self.id);
            }
            conn.canceller.as_ref().expect("made above").handle()
        };
        local.read_pool.borrow_mut().make_room(&mut self.unread);
        let (result, buffer) = self.socket.read(std::mem::take(&mut self.unread), handle).await;
        self.unread = buffer.into_inner();
        result
    }

    /// Ends the connection in order: everything is written, then (unless the peer has sent its
    /// close frame, or none is to be expected) its close frame is awaited, then the end of its
    /// stream, so that nothing it may still read is lost by a reset. The turn ends this after
    /// [`crate::bounds::CLOSE_MS_MAX`] by shutdown(2).
    async fn close(&mut self, local: &Local) {
        loop {
            if self.find_close() {
                local.finish_writing(self.id);
            }
            local.read_pool.borrow_mut().give(&mut self.unread);
            if self.socket.readable().await.is_err() {
                return;
            }
            match self.read_now(local) {
                Read::Nothing | Read::Data { .. } => {}
                Read::End => {
                    local.finish_writing(self.id);
                    return local.until_written(self.id).await;
                }
                Read::Failed => return,
            }
        }
    }

    /// Skips what was read; whether a close frame was in it.
    fn find_close(&mut self) -> bool {
        let mut found = false;
        let mut at = 0;
        loop {
            let (_, rest) = self.unread.split_at_mut(at);
            match self.receiver.step(rest) {
                Ok((consumed, event)) => {
                    at += consumed;
                    found |= matches!(event, Some(Event::Close { .. }));
                    if event.is_none() {
                        break;
                    }
                }
                // What broke off now is not answered any more; the receiver swallows the rest.
                Err(_too_late) => {}
            }
        }
        self.unread.drain(..at);
        found
    }

    /// The connection's end.
    fn gone(&mut self, local: &Local) {
        local.tell_closed(self.id);
        self.unread.clear();
        local.read_pool.borrow_mut().give(&mut self.unread);
        let unfinished = local.unfinished.get() - self.unfinished;
        local.unfinished.set(unfinished);
        local.stats().unfinished_bytes.set(unfinished as u64);
        // A write in flight ends by this, and finds its connection gone.
        self.socket.shutdown(Shutdown::Both);
        if let Some(conn) = local.conns.borrow_mut().remove(self.id) {
            local.stats().connections.sub(1);
            local.stats().queued_bytes.sub(conn.out.waiting() as u64);
        }
        local.begin_turn();
    }
}

#[cfg(test)]
mod tests;
