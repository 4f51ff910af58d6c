//! What a scenario wants to send: frames gather here for each connection, until the driver takes
//! all of a connection's bytes for one write at the end of its turn.
//!
//! Bound: a scenario only adds what its own limit of messages in flight allows, and answers to
//! what the server sent.

use ringpost_core::ws::frame::{self, Opcode};

use crate::payload::mix;
use crate::show::Show;

/// Bytes to send, by connection of this thread.
#[derive(Debug)]
pub struct Outbox {
    bytes: Vec<Vec<u8>>,
    /// Connections with bytes that the driver has not been told of, each once.
    touched: Vec<u16>,
    is_touched: Vec<bool>,
    mask: u64,
    /// The frames to print, of both directions.
    pub show: Show,
}

impl Outbox {
    /// For `connections` of them.
    pub fn new(connections: usize, seed: u64, show: Show) -> Outbox {
        Outbox {
            bytes: vec![Vec::new(); connections],
            touched: Vec::with_capacity(connections),
            is_touched: vec![false; connections],
            mask: seed,
            show,
        }
    }

    /// Adds a text frame.
    pub fn text(&mut self, conn: u16, text: &[u8]) {
        self.show.sent(conn, text);
        self.frame(conn, Opcode::Text, text);
    }

    /// Adds the answer to a ping.
    pub fn pong(&mut self, conn: u16, payload: &[u8]) {
        self.frame(conn, Opcode::Pong, payload);
    }

    /// Adds a close frame.
    pub fn close(&mut self, conn: u16, code: u16) {
        self.frame(conn, Opcode::Close, &code.to_be_bytes());
    }

    /// Takes a connection's bytes, and leaves `empty` in their place.
    pub fn take(&mut self, conn: u16, empty: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.bytes[usize::from(conn)], empty)
    }

    /// The next connection that has bytes since it was last given here.
    pub fn next_touched(&mut self) -> Option<u16> {
        let conn = self.touched.pop()?;
        self.is_touched[usize::from(conn)] = false;
        Some(conn)
    }

    fn frame(&mut self, conn: u16, opcode: Opcode, payload: &[u8]) {
        self.mask = mix(self.mask);
        // Unpredictable to anybody in between, as RFC 6455 section 5.3 wants it.
        let mask = ((self.mask >> 32) as u32).to_ne_bytes();
        let index = usize::from(conn);
        frame::encode_masked(opcode, payload, mask, &mut self.bytes[index]);
        if !std::mem::replace(&mut self.is_touched[index], true) {
            self.touched.push(conn);
        }
    }
}
