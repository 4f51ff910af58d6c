//! From a listener to a connection's home: accepts, reads the upgrade request, has it admitted,
//! hands the socket over. It answers refusals; the `101` of an accepted one is the core's.
//!
//! Until a connection is at its home it is only waited for in `readable()` and read by recv(2), so
//! that no operation is in flight when the descriptor moves.

use std::cell::Cell;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use ringpost_core::admit::{Admission, Rules, admit};
use ringpost_core::error::HttpRefusal;
use ringpost_core::ids::ConnId;
use ringpost_core::limits::HANDSHAKE_BYTES_MAX;
use ringpost_core::ws::handshake;

use crate::bounds::{ACCEPT_BUDGET, ACCEPT_PAUSE_MS, DESCRIPTORS_FOR_REFUSALS, READ_BYTES};
use crate::mesh::{HandOver, Parcel};
use crate::shard_thread::{Due, Local};
use crate::sys::Socket;

/// First room for an upgrade request: most fit.
const REQUEST_BYTES: usize = 2 << 10;

/// Accepts from one listener until the drain.
pub async fn run(local: Rc<Local>, listener: Rc<TcpListener>) {
    let poll = listener.try_clone().and_then(monoio::net::TcpListener::from_std);
    let poll = match poll {
        Ok(poll) => poll,
        Err(error) => {
            tracing::error!(%error, "a listener cannot be waited for");
            return;
        }
    };
    let told = Cell::new(false);
    while !local.is_ending() {
        let accepted = match poll.readable(false).await {
            Ok(()) => local.accept_some(&listener, ACCEPT_BUDGET),
            Err(error) => Err(error),
        };
        match accepted {
            Ok(_) => told.set(false),
            Err(_) if local.is_ending() => return,
            Err(error) => {
                local.stats().accept_errors.add(1);
                // Once until it works again: the reason often stays for a while.
                if !told.replace(true) {
                    tracing::warn!(%error, "cannot accept connections, goes on trying");
                }
                monoio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

impl Local {
    /// Accepts what waits, at most so many; returns how many.
    pub fn accept_some(self: &Rc<Self>, listener: &TcpListener, most: usize) -> io::Result<usize> {
        for count in 0..most {
            match listener.accept() {
                Ok((stream, _)) => self.accepted(stream)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                // The peer has given up meanwhile; that says nothing about the listener.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(most)
    }

    fn accepted(self: &Rc<Self>, stream: TcpStream) -> io::Result<()> {
        self.stats().accepted.add(1);
        let others = self.sockets();
        if others >= self.common.sockets_max + DESCRIPTORS_FOR_REFUSALS {
            self.stats().accept_errors.add(1);
            return Ok(());
        }
        let socket = Socket::new(OwnedFd::from(stream))?;
        let id = self.handshakes.borrow_mut().insert(socket.clone());
        self.stats().handshakes.add(1);
        let at_us = self.begin_turn().mono_us + self.common.bounds.handshake_ms * 1_000;
        self.handshakes_due.borrow_mut().push_back(Due { at_us, id });
        let full = others >= self.common.sockets_max;
        monoio::spawn(greet(self.clone(), id, socket, full));
        Ok(())
    }

    /// Forgets an upgrade request. Its socket has no other holder but the caller then.
    fn forget(&self, id: ConnId) {
        if self.handshakes.borrow_mut().remove(id).is_some() {
            self.stats().handshakes.sub(1);
        }
    }

    /// Decides about what has come of an upgrade request so far; `None`: it is not whole.
    fn decide(&self, bytes: &[u8], full: bool) -> Option<Result<(Admission, usize), HttpRefusal>> {
        let (request, len) = match handshake::parse(bytes) {
            Ok(None) => return None,
            Ok(Some(parsed)) => parsed,
            Err(refusal) => return Some(Err(refusal)),
        };
        if full || self.is_ending() {
            return Some(Err(HttpRefusal::Unavailable));
        }
        let now = self.begin_turn();
        let (settings, common) = (self.settings.borrow(), self.common);
        let rules = Rules {
            routes: &common.routes,
            dialects: &common.dialects,
            tokens: &*settings.tokens,
            deflate: common.deflate,
        };
        let admission = admit(&request, &rules, now.wall_ms);
        Some(admission.map(|admission| (admission, len)))
    }
}

/// Reads one upgrade request and does what it deserves. The turn ends the wait by shutdown(2) when
/// it takes longer than [`crate::bounds::Bounds::handshake_ms`].
async fn greet(local: Rc<Local>, id: ConnId, socket: Socket, full: bool) {
    let mut bytes = Vec::with_capacity(REQUEST_BYTES);
    let decision = loop {
        if socket.readable().await.is_err() {
            break None;
        }
        match socket.recv(&mut bytes) {
            Ok(0) => break None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => break None,
        }
        if let Some(decision) = local.decide(&bytes, full) {
            break Some(decision);
        }
        if bytes.len() == bytes.capacity() {
            // The parser refuses a head of more than this.
            bytes.reserve_exact((2 * bytes.len()).min(HANDSHAKE_BYTES_MAX) - bytes.len());
        }
    };
    match decision {
        Some(Ok((admission, len))) => {
            local.forget(id);
            bytes.drain(..len);
            local.hand_over(socket, bytes, admission);
        }
        Some(Err(refusal)) => {
            refuse(&local, &socket, refusal, bytes).await;
            local.forget(id);
        }
        None => local.forget(id),
    }
}

impl Local {
    /// Brings an admitted connection to its home.
    fn hand_over(self: &Rc<Self>, socket: Socket, mut unread: Vec<u8>, admission: Admission) {
        let own = self.inbox.shard();
        let mesh = self.inbox.mesh();
        let hello = Box::new(admission.hello);
        unread.shrink_to_fit();
        match admission.home.map(|slot| slot.shard(mesh.shards())) {
            Some(home) if home != own => {
                let fd = socket.into_fd();
                let parcel = Parcel::Connection(Box::new(HandOver { fd, unread, hello }));
                self.stats().parcels_out.add(1);
                mesh.send(home, parcel);
            }
            _ => self.open(socket, unread, hello),
        }
    }
}

/// Answers and ends a refused request: the answer, the end of our stream, then whatever the peer
/// still sends is read until it ends too, because a close with unread bytes would reset the
/// connection and the answer might be lost.
async fn refuse(local: &Local, socket: &Socket, refusal: HttpRefusal, mut bytes: Vec<u8>) {
    local.stats().refused.add(1);
    bytes.clear();
    handshake::refusal(refusal, &mut bytes);
    // Some hundred bytes, and nothing was written before: the send buffer takes all of it.
    if socket.send(&bytes).is_err() {
        return;
    }
    socket.shutdown(Shutdown::Write);
    bytes.reserve(READ_BYTES);
    while socket.readable().await.is_ok() {
        bytes.clear();
        match socket.recv(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests;
