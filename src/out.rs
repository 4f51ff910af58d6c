//! What waits to be written to one connection. It does not write.
//!
//! *Bound:* the core's window for deliveries, and [`crate::bounds::OUT_BYTES_MAX`] of answers, at
//! which no further request of the connection is taken.

use std::collections::VecDeque;

use ringpost_core::ws::frame;

use crate::bounds::{CHUNK_BYTES, OUT_POOL_BYTES_MAX};
use crate::pool::Pool;

/// The out queue of a connection. Empty it holds no memory beyond its own few bytes.
#[derive(Debug, Default)]
pub struct Out {
    /// Whole frames, gathered until they are written together.
    chunk: Vec<u8>,
    more: Option<Box<More>>,
    /// Bytes in `chunk` and `more.chunks`.
    bytes: usize,
    /// Bytes handed to the writing task and not yet taken by the kernel.
    in_flight: usize,
}

/// What few connections have.
#[derive(Debug, Default)]
struct More {
    /// Before `Out::chunk`; full.
    chunks: VecDeque<Vec<u8>>,
    /// Goes ahead of everything but the chunk in flight. Only the answer to the latest ping is
    /// kept (RFC 6455 section 5.5.3), so that pings without end cost nothing.
    pong: Vec<u8>,
}

impl Out {
    /// Appends whole frames.
    #[inline]
    pub fn push(&mut self, frames: &[u8], pool: &mut Pool) {
        self.bytes += frames.len();
        if !self.chunk.is_empty() && self.chunk.len() + frames.len() > CHUNK_BYTES {
            let full = std::mem::take(&mut self.chunk);
            self.more.get_or_insert_default().chunks.push_back(full);
        }
        if self.chunk.capacity() == 0 {
            self.chunk = pool.take();
        }
        self.chunk.extend_from_slice(frames);
    }

    /// Answers a ping, ahead of what is queued.
    pub fn pong(&mut self, payload: &[u8]) {
        let more = self.more.get_or_insert_default();
        self.bytes -= more.pong.len();
        more.pong.clear();
        frame::encode_pong(payload, &mut more.pong);
        self.bytes += more.pong.len();
    }

    /// The next bytes to write, whole frames; now they count as in flight. Only when what was
    /// taken before has been [`Out::sent`].
    pub fn take(&mut self) -> Option<Vec<u8>> {
        assert!(self.in_flight == 0, "one write at a time keeps the bytes in order");
        if self.bytes == 0 {
            self.more = None;
            return None;
        }
        let next = match self.more.as_deref_mut() {
            Some(more) if !more.pong.is_empty() => std::mem::take(&mut more.pong),
            Some(More { chunks, .. }) if !chunks.is_empty() => chunks.pop_front().expect("some"),
            _ => std::mem::take(&mut self.chunk),
        };
        self.bytes -= next.len();
        self.in_flight = next.len();
        Some(next)
    }

    /// The kernel has taken this many of the bytes in flight.
    pub fn sent(&mut self, bytes: usize) {
        self.in_flight -= bytes;
    }

    /// Nothing can be written any more: forgets everything. Returns how many bytes that were.
    pub fn fail(&mut self) -> usize {
        std::mem::take(self).waiting()
    }

    /// Bytes that the kernel has not taken.
    pub fn waiting(&self) -> usize {
        self.bytes + self.in_flight
    }

    /// Nothing is to be written that is not in flight already.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }
}

/// The buffers of a shard's out queues.
pub fn pool() -> Pool {
    Pool::new(OUT_BYTES_MIN, CHUNK_BYTES, OUT_POOL_BYTES_MAX)
}

/// The smallest allocation of a buffer: some frames.
const OUT_BYTES_MIN: usize = 1 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_together_and_in_order() {
        let (mut out, mut pool) = (Out::default(), pool());
        assert_eq!(out.take(), None);
        out.push(b"one", &mut pool);
        out.push(b"two", &mut pool);
        assert_eq!(out.waiting(), 6);
        let buffer = out.take().expect("some");
        assert_eq!(buffer, b"onetwo");
        out.push(b"three", &mut pool);
        assert_eq!(out.waiting(), 11);
        out.sent(6);
        pool.give(buffer);
        assert_eq!(out.take().as_deref(), Some(&b"three"[..]));
        out.sent(5);
        assert_eq!(out.waiting(), 0);
    }

    #[test]
    fn a_pong_overtakes_whole_chunks_and_only_the_latest_is_kept() {
        let (mut out, mut pool) = (Out::default(), pool());
        let big = vec![b'x'; CHUNK_BYTES - 10];
        for _ in 0..3 {
            out.push(&big, &mut pool);
        }
        let first = out.take().expect("some");
        out.pong(b"early");
        out.pong(b"late");
        assert_eq!(out.waiting(), 3 * big.len() + 6);
        out.sent(first.len());
        assert_eq!(out.take().as_deref(), Some(&b"\x8a\x04late"[..]));
        out.sent(6);
        for _ in 0..2 {
            assert_eq!(out.take().expect("some").len(), big.len(), "no frame was cut");
            out.sent(big.len());
        }
        assert_eq!(out.take(), None);
        assert!(out.more.is_none(), "an empty queue holds nothing");
    }
}
