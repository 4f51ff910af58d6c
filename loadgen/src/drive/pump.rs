//! The two tasks of a connection: one reads, one writes.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use monoio::buf::IoBufMut;
use monoio::io::{
    AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable,
};
use monoio::net::TcpStream;
use monoio::time::sleep;
use ringpost_core::ws::frame::Role;
use ringpost_core::ws::message::{Event, Receiver};

use super::{Client, Incoming, Scenario, State};

/// How often a connection that does not read looks whether it shall.
const STALL_POLL: Duration = Duration::from_millis(20);
/// One read takes at most this much; larger messages are put together by the receiver.
const READ_BYTES: usize = 16 << 10;

impl<S: Scenario + 'static> Client<S> {
    /// Starts both tasks; `rest` came behind the handshake.
    pub(super) fn spawn_pumps(self: &Rc<Self>, conn: u16, stream: TcpStream, rest: Vec<u8>) {
        let (reader, writer) = stream.into_split();
        monoio::spawn(self.clone().write(conn, writer));
        monoio::spawn(self.clone().read(conn, reader, rest));
    }

    async fn write(self: Rc<Self>, conn: u16, mut half: OwnedWriteHalf<TcpStream>) {
        let mut spare = Vec::new();
        loop {
            let bytes = poll_fn(|cx| {
                let state = &mut *self.state.borrow_mut();
                let bytes = state.out.take(conn, std::mem::take(&mut spare));
                if !bytes.is_empty() || !state.links[usize::from(conn)].open {
                    return Poll::Ready(bytes);
                }
                spare = bytes;
                let mut waker = self.writers[usize::from(conn)].borrow_mut();
                if waker.is_none() {
                    *waker = Some(cx.waker().clone());
                }
                Poll::Pending
            })
            .await;
            if bytes.is_empty() {
                return;
            }
            let (result, bytes) = half.write_all(bytes).await;
            if result.is_err() {
                // The reader sees the same end, and tells.
                return drop(half.shutdown().await);
            }
            spare = bytes;
            spare.clear();
        }
    }

    async fn read(self: Rc<Self>, conn: u16, mut half: OwnedReadHalf<TcpStream>, rest: Vec<u8>) {
        let mut receiver = Receiver::new(Role::Client);
        let mut buffer = rest;
        buffer.reserve_exact(READ_BYTES.saturating_sub(buffer.len()));
        let why = loop {
            // What a read that was under way has brought waits here too.
            while !self.reads(conn) {
                sleep(STALL_POLL).await;
            }
            match self.take(conn, &mut receiver, &mut buffer) {
                Ok(()) => {}
                Err(why) => break why,
            }
            let kept = buffer.len();
            let (result, slice) = half.read(buffer.slice_mut(kept..)).await;
            buffer = slice.into_inner();
            match result {
                Ok(0) => break "the server ended the connection".to_owned(),
                Ok(_) => {}
                Err(error) => break format!("cannot read: {error}"),
            }
        };
        self.ended(conn, &why);
    }

    /// Whether the scenario lets this connection read; before the load all do.
    fn reads(&self, conn: u16) -> bool {
        let state = self.state.borrow();
        !state.started || state.scenario.as_ref().is_none_or(|scenario| scenario.reads(conn))
    }

    /// Gives whole messages to the scenario; leaves the rest at the start of `buffer`.
    fn take(&self, conn: u16, receiver: &mut Receiver, buffer: &mut Vec<u8>) -> Result<(), String> {
        let now_ns = self.now_ns();
        let state = &mut *self.state.borrow_mut();
        let mut at = 0;
        let result = loop {
            let step = receiver.step(&mut buffer[at..]);
            let (consumed, event) = match step {
                Ok(step) => step,
                Err(error) => break Err(format!("the server broke RFC 6455: {error}")),
            };
            at += consumed;
            match event {
                None => break Ok(()),
                Some(Event::Message { bytes, .. }) => self.on_text(state, conn, &bytes, now_ns),
                Some(Event::Ping(payload)) => state.out.pong(conn, payload),
                Some(Event::Pong(_) | Event::Blocked) => {}
                Some(Event::Compressed { .. }) => unreachable!("no compression was offered"),
                Some(Event::Close { code, reason }) => {
                    let code = code.map_or("no code".to_owned(), |code| code.to_string());
                    break Err(format!("the server closed with {code} {reason}"));
                }
            }
        };
        buffer.drain(..at);
        self.wake_writers(state);
        result
    }

    fn on_text(&self, state: &mut State<S>, conn: u16, text: &[u8], now_ns: u64) {
        state.out.show.received(conn, text);
        let link = &mut state.links[usize::from(conn)];
        if link.probed {
            match self.plan.dialect.decode(text) {
                Ok(Incoming::Probe) => {
                    link.probed = false;
                    if let Some(waker) = self.probers[usize::from(conn)].take() {
                        waker.wake();
                    }
                    return;
                }
                Ok(Incoming::Refused { id: None }) if !state.started => {
                    let hint = self.plan.dialect.hint(text).unwrap_or("refused");
                    let text = String::from_utf8_lossy(text);
                    return self.fail(conn, &format!("the server answered {text} ({hint})"));
                }
                _ => {}
            }
        }
        if let Some(scenario) = &mut state.scenario {
            scenario.on_text(conn, text, now_ns, &mut state.out);
        }
    }

    /// The connection is gone: a fault, unless the run is over.
    fn ended(&self, conn: u16, why: &str) {
        let state = &mut *self.state.borrow_mut();
        let link = &mut state.links[usize::from(conn)];
        link.open = false;
        if !state.started {
            self.fail(conn, why);
        }
        if let Some(scenario) = &mut state.scenario {
            scenario.on_closed(conn, why);
        }
        if let Some(waker) = self.writers[usize::from(conn)].take() {
            waker.wake();
        }
    }
}
