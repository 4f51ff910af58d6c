//! What leaves for connections that negotiated compression leaves compressed: once for each frame
//! and window, however many get it.
//!
//! Everywhere else in the shard frames are written plain; here, behind each input, the writes that
//! it has added are pointed to the compressed form of their frames. Windows of delivery count plain
//! bytes, so that they mean the same for everybody.

use std::ops::Range;

use hashbrown::HashMap;

use crate::event::{Effects, Outputs};
use crate::hash::Hashing;
use crate::shard::sessions::Sessions;
use crate::ws::deflate::Deflater;
use crate::ws::extensions::Window;

/// The shard's scratch for it.
#[derive(Debug)]
pub(crate) struct Compression {
    deflater: Deflater,
    /// What was done for the writes of this input: where a frame begins, and for which window,
    /// to where the one to send is. Bound: the input's writes.
    done: HashMap<(u32, Window), Range<u32>, Hashing>,
    totals: CompressedBytes,
}

/// Bytes of the frames that were compressed, for the metrics; each counts once, however many get it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CompressedBytes {
    /// As they were.
    pub before: u64,
    /// As they leave.
    pub after: u64,
}

/// How many writes, and how many repeats, there were before an input.
#[derive(Clone, Copy)]
pub(crate) struct Before {
    now: (usize, usize),
    held: (usize, usize),
}

impl Before {
    pub(crate) fn of(effects: &Effects) -> Before {
        let of = |outputs: &Outputs| (outputs.writes.len(), outputs.repeats.len());
        Before { now: of(&effects.now), held: of(&effects.held) }
    }
}

impl Compression {
    pub(crate) fn new(level: u8) -> Compression {
        let deflater = Deflater::new(level);
        Compression { deflater, done: HashMap::default(), totals: CompressedBytes::default() }
    }

    pub(crate) fn totals(&self) -> CompressedBytes {
        self.totals
    }

    /// Compresses what was written since `before`.
    pub(crate) fn compress(&mut self, sessions: &Sessions, before: Before, effects: &mut Effects) {
        if sessions.any_deflates() {
            self.outputs(sessions, before.now, &mut effects.now);
            self.outputs(sessions, before.held, &mut effects.held);
        }
    }

    fn outputs(&mut self, sessions: &Sessions, from: (usize, usize), outputs: &mut Outputs) {
        let Outputs { arena, writes, repeats, .. } = outputs;
        self.done.clear();
        let writes = writes.iter_mut().skip(from.0);
        for write in writes.chain(repeats.iter_mut().skip(from.1)) {
            let session = sessions.get(write.conn);
            let Some(window) = session.and_then(|session| session.deflate) else { continue };
            let plain = write.range.clone();
            let window = window.for_message(plain.len());
            let done = self.done.entry((plain.start, window)).or_insert_with(|| {
                match self.deflater.compress(arena, plain.clone(), window) {
                    Some(compressed) => {
                        self.totals.before += plain.len() as u64;
                        self.totals.after += compressed.len() as u64;
                        compressed
                    }
                    None => plain,
                }
            });
            write.range = done.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Write;
    use crate::ids::{ConnId, Dialect};
    use crate::shard::sessions::State;
    use crate::shard::write_frame;
    use crate::ws::deflate::Inflater;
    use crate::ws::frame::{Role, decode_head};

    fn conn(index: u32) -> ConnId {
        ConnId { index, generation: 1 }
    }

    /// Connections 0 to 3: without compression, with windows of 15, 15 and 9 bits.
    fn sessions() -> Sessions {
        let mut sessions = Sessions::default();
        for (index, bits) in [None, Some(15), Some(15), Some(9)].into_iter().enumerate() {
            let window = bits.map(|bits| Window::new(bits).expect("deflate can"));
            sessions.insert(conn(index as u32), Dialect::Imboy, window, State::Refused);
        }
        sessions
    }

    /// Writes one frame to all of them.
    fn to_all(outputs: &mut Outputs, text: &str) {
        write_frame(outputs, conn(0), |out| out.extend_from_slice(text.as_bytes()));
        let range = outputs.writes.last().expect("just written").range.clone();
        for index in 1..4 {
            outputs.writes.push(Write { conn: conn(index), range: range.clone() });
        }
    }

    /// Whether the write is compressed, and the text.
    fn read(outputs: &Outputs, write: usize) -> (bool, String) {
        let range = outputs.writes[write].range.clone();
        let frame = &outputs.arena[range.start as usize..range.end as usize];
        let head = decode_head(frame, Role::Client, true).expect("proper").expect("whole");
        let payload = &frame[head.head_len..];
        let mut inflater = Inflater::default();
        let text = match head.compressed {
            true => inflater.inflate(false, payload).expect("proper").to_vec(),
            false => payload.to_vec(),
        };
        (head.compressed, String::from_utf8(text).expect("checked"))
    }

    #[test]
    fn a_frame_is_compressed_once_for_each_window_and_stays_plain_for_the_others() {
        let (sessions, mut compression) = (sessions(), Compression::new(1));
        let mut effects = Effects::default();
        to_all(&mut effects.now, &"before ".repeat(100));
        let before = Before::of(&effects);
        let (long, short) = ("a text of some length ".repeat(40), "a short text ".repeat(30));
        to_all(&mut effects.now, &long);
        to_all(&mut effects.held, &short);
        to_all(&mut effects.held, &long);
        compression.compress(&sessions, before, &mut effects);
        for write in 0..4 {
            assert!(!read(&effects.now, write).0, "another input's");
        }
        let ranges = |outputs: &Outputs, from: usize| -> Vec<_> {
            outputs.writes[from..from + 4].iter().map(|write| write.range.clone()).collect()
        };
        for (outputs, from, text) in
            [(&effects.now, 4, &long), (&effects.held, 0, &short), (&effects.held, 4, &long)]
        {
            for write in 0..4 {
                assert_eq!(read(outputs, from + write), (write > 0, text.clone()));
            }
            let ranges = ranges(outputs, from);
            assert_eq!(ranges[1], ranges[2], "shared");
            // A short text fits into the small window, and so any other's serves.
            assert_eq!(ranges[1] == ranges[3], text == &short);
        }
        let CompressedBytes { before, after } = compression.totals();
        assert_eq!(before as usize, 4 * (long.len() + 4) + short.len() + 4, "once for each");
        assert!(0 < after && after < before / 5);
    }

    #[test]
    fn nothing_is_compressed_when_nobody_can_read_it() {
        let (mut sessions, mut compression) = (sessions(), Compression::new(1));
        for index in 1..4 {
            assert!(sessions.any_deflates());
            sessions.remove(conn(index));
        }
        assert!(!sessions.any_deflates());
        let mut effects = Effects::default();
        let before = Before::of(&effects);
        to_all(&mut effects.now, &"text ".repeat(100));
        let arena = effects.now.arena.clone();
        compression.compress(&sessions, before, &mut effects);
        assert_eq!(effects.now.arena, arena);
        assert_eq!(compression.totals(), CompressedBytes::default());
    }
}
