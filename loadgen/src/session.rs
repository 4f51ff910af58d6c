//! One connection as one task uses it: for scenarios whose subject is the connections themselves.
//!
//! An idle one holds no buffer and one poll in the ring.

use std::rc::Rc;
use std::time::Duration;

use monoio::net::TcpStream;
use ringpost_core::ws::frame::{self, Opcode, Role};
use ringpost_core::ws::message::{Event, Receiver};
use socket2::SockRef;

use crate::connect::{self, Opened, Route};
use crate::dialect::Upgrade;
use crate::payload::mix;
use crate::sys;

/// One read takes at most this much; larger messages are put together by the receiver.
const READ_BYTES: usize = 4 << 10;

/// A WebSocket with a user behind it.
pub struct Session {
    stream: Rc<TcpStream>,
    receiver: Receiver,
    /// What came and is no whole frame yet.
    rest: Vec<u8>,
    frames: Frames,
    /// From the first packet to the TCP connection.
    pub tcp: Duration,
    /// From the first packet to the server's answer to the upgrade.
    pub upgraded: Duration,
}

/// Masked frames that leave together.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    mask: u64,
}

impl Frames {
    /// None yet.
    pub fn new(seed: u64) -> Frames {
        Frames { bytes: Vec::new(), mask: seed }
    }

    /// Adds a text frame.
    pub fn text(&mut self, text: &[u8]) {
        self.frame(Opcode::Text, text);
    }

    fn frame(&mut self, opcode: Opcode, payload: &[u8]) {
        self.mask = mix(self.mask);
        let mask = ((self.mask >> 32) as u32).to_ne_bytes();
        frame::encode_masked(opcode, payload, mask, &mut self.bytes);
    }
}

impl Session {
    /// Connects and upgrades.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn open(
        route: &Route,
        index: u32,
        upgrade: &Upgrade,
        seed: u64,
    ) -> Result<Session, String> {
        let Opened { stream, rest, tcp, upgraded } =
            connect::open(route, index, upgrade, seed).await?;
        Ok(Session {
            stream: Rc::new(stream),
            receiver: Receiver::new(Role::Client),
            rest,
            frames: Frames::new(mix(seed)),
            tcp,
            upgraded,
        })
    }

    /// The frames that leave with the next [`Session::flush`].
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Sends what has gathered.
    ///
    /// # Errors
    /// A sentence for the user.
    pub async fn flush(&mut self) -> Result<(), String> {
        if self.frames.bytes.is_empty() {
            return Ok(());
        }
        let result = connect::send_all(&self.stream, &self.frames.bytes).await;
        self.frames.bytes.clear();
        result.map_err(|error| format!("cannot send: {error}"))
    }

    /// Waits until something comes, gives each text message to `on_text`, and sends what that adds
    /// and the answers to the server's pings.
    ///
    /// # Errors
    /// A sentence for the user, when the connection ends or the server breaks the protocol.
    pub async fn receive(
        &mut self,
        mut on_text: impl FnMut(&[u8], &mut Frames),
    ) -> Result<(), String> {
        let before = self.rest.len();
        if before == 0 || !self.take(&mut on_text)? {
            let received = connect::receive(&self.stream, &mut self.rest, READ_BYTES).await;
            match received {
                Ok(0) => return Err("the server ended the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("cannot read: {error}")),
            }
            self.take(&mut on_text)?;
        }
        self.flush().await
    }

    /// Handles the whole frames of `rest`; whether there were any.
    fn take(&mut self, on_text: &mut impl FnMut(&[u8], &mut Frames)) -> Result<bool, String> {
        let mut at = 0;
        loop {
            let step = self.receiver.step(&mut self.rest[at..]);
            let (consumed, event) =
                step.map_err(|error| format!("the server broke RFC 6455: {error}"))?;
            at += consumed;
            match event {
                None => break,
                Some(Event::Message { bytes, .. }) => on_text(&bytes, &mut self.frames),
                Some(Event::Compressed { .. }) => {
                    return Err("the server compresses what it was not asked to".to_owned());
                }
                Some(Event::Ping(payload)) => self.frames.frame(Opcode::Pong, payload),
                Some(Event::Pong(_) | Event::Blocked) => {}
                Some(Event::Close { code, reason }) => {
                    let code = code.map_or("no code".to_owned(), |code| code.to_string());
                    return Err(format!("the server closed with {code} {reason}"));
                }
            }
        }
        if at == self.rest.len() {
            // Idle connections hold nothing.
            self.rest = Vec::new();
        } else {
            self.rest.drain(..at);
        }
        Ok(at > 0)
    }

    /// A handle for another task, which may send a few bytes at a time.
    pub fn sender(&self) -> Sender {
        Sender { stream: self.stream.clone() }
    }

    /// Ends the connection by a reset: neither side keeps its port in TIME_WAIT.
    pub fn reset(self) {
        self.sender().reset_on_close();
    }
}

/// Sends without waiting.
#[derive(Clone)]
pub struct Sender {
    stream: Rc<TcpStream>,
}

impl Sender {
    /// Whether all of it went: a server that does not read a few bytes is not healthy.
    pub fn send(&self, frames: &mut Frames) -> bool {
        let sent = SockRef::from(&sys::descriptor(&self.stream)).send(&frames.bytes);
        let whole = sent.is_ok_and(|count| count == frames.bytes.len());
        frames.bytes.clear();
        whole
    }

    /// From now on a close is a reset.
    pub fn reset_on_close(&self) {
        let descriptor = sys::descriptor(&self.stream);
        // An error means that the server was faster.
        let _gone_already = SockRef::from(&descriptor).set_linger(Some(Duration::ZERO));
    }
}
