//! Writing to connections: what a turn gave them leaves in one write each, one in flight per
//! connection, by a task that lives as long as there is something to write.

use std::net::Shutdown;
use std::rc::Rc;

use monoio::buf::IoBuf;
use ringpost_core::ids::ConnId;

use crate::shard_thread::{Conn, ConnState, Local};
use crate::sys::Socket;

impl Local {
    /// Queues whole frames for a connection; dropped when it is gone or about to be.
    #[inline]
    pub fn write(&self, id: ConnId, frames: &[u8]) {
        let mut conns = self.conns.borrow_mut();
        if let Some(conn) = conns.get_mut(id)
            && conn.state == ConnState::Open
        {
            conn.answered = true;
            self.push(conn, frames);
            self.mark(id, conn);
        }
    }

    /// The same for what a connection that is behind, with so many bytes waiting, does not get.
    pub fn write_unless_behind(&self, id: ConnId, frame: &[u8], most: usize) {
        let behind = |conn: &Conn| conn.out.waiting() >= most;
        if !self.conns.borrow().get(id).is_none_or(behind) {
            self.write(id, frame);
        }
    }

    /// Queues whole frames; [`Local::mark`] must follow.
    #[inline]
    pub fn push(&self, conn: &mut Conn, frames: &[u8]) {
        conn.out.push(frames, &mut self.out_pool.borrow_mut());
        self.stats().writes_out.add(1);
        self.stats().queued_bytes.add(frames.len() as u64);
    }

    /// Answers a ping, ahead of what is queued.
    pub fn pong(&self, id: ConnId, payload: &[u8]) {
        self.begin_turn();
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = conns.get_mut(id) else { return };
        let before = conn.out.waiting() as u64;
        conn.out.pong(payload);
        let stats = self.stats();
        stats.queued_bytes.sub(before);
        stats.queued_bytes.add(conn.out.waiting() as u64);
        self.mark(id, conn);
    }

    /// Has the turn look at the connection's out queue.
    #[inline]
    pub fn mark(&self, id: ConnId, conn: &mut Conn) {
        if !std::mem::replace(&mut conn.touched, true) {
            self.touched.borrow_mut().push(id);
        }
    }

    /// The peer has ended its side in order: when everything is written, so do we.
    pub fn finish_writing(&self, id: ConnId) {
        self.begin_turn();
        if let Some(conn) = self.conns.borrow_mut().get_mut(id) {
            conn.fin = true;
            self.mark(id, conn);
        }
    }

    /// Starts a write for each connection that got something in this turn and has none in flight.
    pub fn flush_touched(self: &Rc<Self>) {
        let mut touched = std::mem::take(&mut *self.touched.borrow_mut());
        for id in touched.drain(..) {
            let mut conns = self.conns.borrow_mut();
            let Some(conn) = conns.get_mut(id) else { continue };
            conn.touched = false;
            if conn.writing {
                continue;
            }
            conn.taken_ms = self.now_ms();
            if let Some(chunk) = conn.out.take() {
                conn.writing = true;
                let socket = conn.socket.clone();
                drop(conns);
                monoio::spawn(run(self.clone(), id, socket, chunk));
            } else if conn.fin {
                conn.socket.shutdown(Shutdown::Write);
            }
        }
        *self.touched.borrow_mut() = touched;
    }

    /// The kernel has taken some of the bytes in flight. `false`: the connection is gone.
    fn taken(&self, id: ConnId, bytes: usize) -> bool {
        let stats = self.stats();
        stats.sends.add(1);
        stats.bytes_out.add(bytes as u64);
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = conns.get_mut(id) else { return false };
        stats.queued_bytes.sub(bytes as u64);
        conn.out.sent(bytes);
        conn.taken_ms = self.now_ms();
        if conn.waker.is_some() {
            // Its next request may have waited for this.
            self.begin_turn();
        }
        true
    }

    /// What a connection's writing task writes next; `None`: it ends.
    fn next_chunk(&self, id: ConnId) -> Option<Vec<u8>> {
        let mut conns = self.conns.borrow_mut();
        let conn = conns.get_mut(id)?;
        let next = conn.out.take();
        if next.is_none() {
            conn.writing = false;
            if conn.fin {
                conn.socket.shutdown(Shutdown::Write);
                conn.wake();
            }
        }
        next
    }
}

impl Local {
    fn writing_failed(&self, id: ConnId, socket: &Socket) {
        socket.shutdown(Shutdown::Both);
        if let Some(conn) = self.conns.borrow_mut().get_mut(id) {
            self.stats().queued_bytes.sub(conn.out.fail() as u64);
            conn.writing = false;
            conn.wake();
        }
    }
}

/// A connection's writing task. As in `conn.rs`, the captures are used in place.
#[expect(clippy::manual_async_fn, reason = "half the size")]
fn run(
    local: Rc<Local>,
    id: ConnId,
    socket: Socket,
    mut chunk: Vec<u8>,
) -> impl Future<Output = ()> {
    async move {
        loop {
            let mut at = 0;
            while at < chunk.len() {
                let unwritten = std::mem::take(&mut chunk).slice(at..);
                let (result, slice) = socket.write(unwritten).await;
                chunk = slice.into_inner();
                match result {
                    Ok(bytes) if bytes > 0 && local.taken(id, bytes) => at += bytes,
                    // The reading task sees the end of the stream and takes care of the rest.
                    _ => return local.writing_failed(id, &socket),
                }
            }
            local.out_pool.borrow_mut().give(std::mem::take(&mut chunk));
            match local.next_chunk(id) {
                Some(next) => chunk = next,
                None => return,
            }
        }
    }
}
