//! From a listener to a connection's home: accepts, reads what a trusted proxy says of the client,
//! holds the client's address to its limits, reads the upgrade request, has it admitted, hands the
//! socket over. It answers refusals; the `101` of an accepted one is the core's.
//!
//! Until a connection is at its home it is only waited for in `readable()` and read by recv(2), so
//! that no operation is in flight when the descriptor moves.

mod proxy;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use ringpost_core::admit::{Admission, Rules, admit};
use ringpost_core::error::HttpRefusal;
use ringpost_core::ids::ConnId;
use ringpost_core::limits::HANDSHAKE_BYTES_MAX;
use ringpost_core::ws::handshake;

use crate::address::{Guest, Refused};
use crate::bounds::{ACCEPT_BUDGET, ACCEPT_PAUSE_MS, DESCRIPTORS_FOR_REFUSALS, READ_BYTES};
use crate::config::Listener;
use crate::mesh::{HandOver, Parcel};
use crate::shard_thread::{Due, Local};
use crate::sys::Socket;

/// First room for an upgrade request: most fit.
const REQUEST_BYTES: usize = 2 << 10;

/// Accepts from one listener, by its number, until the drain.
pub async fn run(local: Rc<Local>, index: usize, listener: Rc<TcpListener>) {
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
            Ok(()) => local.accept_some(index, &listener, ACCEPT_BUDGET),
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

/// A socket whose upgrade request is being read.
struct Visitor {
    id: ConnId,
    socket: Socket,
    /// Where it came in.
    listener: &'static Listener,
    /// The peer's; the client's once a trusted proxy has said so.
    address: IpAddr,
    /// The process holds as many connections as it may.
    full: bool,
    /// What was read and not consumed.
    bytes: Vec<u8>,
}

/// What a visit comes to.
type Decision = Result<(Admission, usize), HttpRefusal>;

impl Local {
    /// Accepts what waits, at most so many; returns how many.
    pub fn accept_some(
        self: &Rc<Self>,
        index: usize,
        listener: &TcpListener,
        most: usize,
    ) -> io::Result<usize> {
        for count in 0..most {
            match listener.accept() {
                Ok((stream, peer)) => self.accepted(index, stream, peer.ip())?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                // The peer has given up meanwhile; that says nothing about the listener.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(most)
    }

    fn accepted(self: &Rc<Self>, index: usize, stream: TcpStream, peer: IpAddr) -> io::Result<()> {
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
        let listener = &self.common.listeners[index];
        let address = peer.to_canonical();
        let visitor = Visitor { id, socket, listener, address, full, bytes: Vec::new() };
        monoio::spawn(greet(self.clone(), visitor));
        Ok(())
    }

    /// Forgets an upgrade request. Its socket has no other holder but the caller then.
    fn forget(&self, id: ConnId) {
        if self.handshakes.borrow_mut().remove(id).is_some() {
            self.stats().handshakes.sub(1);
        }
    }

    /// Counts what comes from an address.
    fn enter(&self, address: IpAddr) -> (Option<Guest<'static>>, Result<(), Refused>) {
        let rules = self.settings.borrow().address;
        self.common.addresses.enter(rules, address, self.begin_turn().mono_us)
    }

    /// Decides about what has come of an upgrade request so far; `None`: it is not whole.
    fn decide(&self, visitor: &Visitor) -> Option<Decision> {
        let (request, len) = match handshake::parse(&visitor.bytes) {
            Ok(None) => return None,
            Ok(Some(parsed)) => parsed,
            Err(refusal) => return Some(Err(refusal)),
        };
        if visitor.full || self.is_ending() {
            return Some(Err(HttpRefusal::Unavailable));
        }
        let now = self.begin_turn();
        let (settings, common) = (self.settings.borrow(), self.common);
        let rules = Rules {
            routes: &common.routes,
            otherwise: visitor.listener.default_dialect,
            dialects: &common.dialects,
            tokens: &*settings.tokens,
            deflate: common.deflate,
        };
        let admission = admit(&request, &rules, now.wall_ms);
        Some(admission.map(|admission| (admission, len)))
    }
}

/// Receives one visitor and does what its upgrade request deserves. The turn ends the wait by
/// shutdown(2) when it takes longer than [`crate::bounds::Bounds::handshake_ms`], header of a proxy
/// included.
async fn greet(local: Rc<Local>, mut visitor: Visitor) {
    // Held to the end of the visit.
    let mut guest = None;
    let decision = visitor.hear(&local, &mut guest).await;
    let Visitor { id, socket, address, mut bytes, .. } = visitor;
    match decision {
        Some(Ok((admission, len))) => {
            local.forget(id);
            bytes.drain(..len);
            local.hand_over(socket, address, bytes, admission);
        }
        Some(Err(refusal)) => {
            tracing::debug!(%address, %refusal, "an upgrade request is refused");
            refuse(&local, &socket, refusal, bytes).await;
            local.forget(id);
        }
        None => local.forget(id),
    }
}

impl Visitor {
    /// Hears it out; `None`: it has gone, or was sent away without a word.
    async fn hear(
        &mut self,
        local: &Local,
        guest: &mut Option<Guest<'static>>,
    ) -> Option<Decision> {
        let trusted = self.listener.proxy_from.iter().any(|net| net.contains(self.address));
        if trusted {
            match self.introduced().await? {
                Ok(proxy::Origin::Client(client)) => self.address = client,
                // The proxy's own connections are its health checks.
                Ok(proxy::Origin::Proxy) => return self.request(local).await,
                Err(proxy::Malformed) => return Some(Err(HttpRefusal::BadRequest)),
            }
        }
        let (counted, entered) = local.enter(self.address);
        *guest = counted;
        if let Err(refused) = entered {
            local.stats().limited.add(1);
            return match refused {
                Refused::Rate { retry_after_s } => {
                    Some(Err(HttpRefusal::TooFast { retry_after_s }))
                }
                Refused::Handshakes => {
                    // It is told if it listens, but it is not waited for: waiting is what it has
                    // too much of.
                    local.stats().refused.add(1);
                    let mut answer = Vec::new();
                    handshake::refusal(HttpRefusal::TooFast { retry_after_s: 1 }, &mut answer);
                    let _what_it_wants = self.read_now();
                    let _unheard = self.socket.send(&answer);
                    None
                }
            };
        }
        self.request(local).await
    }

    /// Reads the header of the PROXY protocol.
    async fn introduced(&mut self) -> Option<Result<proxy::Origin, proxy::Malformed>> {
        loop {
            self.more().await?;
            match proxy::parse(&self.bytes) {
                Ok(None) => {}
                Ok(Some((origin, len))) => {
                    self.bytes.drain(..len);
                    return Some(Ok(origin));
                }
                Err(malformed) => return Some(Err(malformed)),
            }
        }
    }

    /// Reads the upgrade request.
    async fn request(&mut self, local: &Local) -> Option<Decision> {
        loop {
            // A proxy's header and the request often come at once.
            if !self.bytes.is_empty()
                && let Some(decision) = local.decide(self)
            {
                return Some(decision);
            }
            self.more().await?;
        }
    }

    /// Waits for more bytes; `None`: there will be none.
    async fn more(&mut self) -> Option<()> {
        loop {
            self.socket.readable().await.ok()?;
            match self.read_now() {
                Ok(0) => return None,
                Ok(_) => return Some(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads what is there.
    fn read_now(&mut self) -> io::Result<usize> {
        let bytes = &mut self.bytes;
        if bytes.len() == bytes.capacity() {
            // Both parsers refuse more than they need of this.
            let room = (2 * bytes.len()).clamp(REQUEST_BYTES, HANDSHAKE_BYTES_MAX);
            bytes.reserve_exact(room - bytes.len());
        }
        self.socket.recv(bytes)
    }
}

impl Local {
    /// Brings an admitted connection to its home.
    fn hand_over(
        self: &Rc<Self>,
        socket: Socket,
        address: IpAddr,
        mut unread: Vec<u8>,
        admission: Admission,
    ) {
        let own = self.inbox.shard();
        let mesh = self.inbox.mesh();
        let hello = Box::new(admission.hello);
        unread.shrink_to_fit();
        match admission.home.map(|slot| slot.shard(mesh.shards())) {
            Some(home) if home != own => {
                let fd = socket.into_fd();
                let parcel = Parcel::Connection(Box::new(HandOver { fd, address, unread, hello }));
                self.stats().parcels_out.add(1);
                mesh.send(home, parcel);
            }
            _ => self.open(socket, address, unread, hello),
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
