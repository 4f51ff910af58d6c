//! The first frames of one pair of users, kept to be printed: what the protocol looks like.
//!
//! Keeps text only; control frames and binary frames are not shown.

use std::fmt::Write;

/// Keeps the first frames of connections 0 and 1 of a thread.
#[derive(Debug, Default)]
pub struct Show {
    /// Frames that may still be kept.
    left: u32,
    names: [String; 2],
    lines: Vec<String>,
    on: bool,
}

impl Show {
    /// Longer frames are cut when they are shown.
    const CHARS_MAX: usize = 160;

    /// Keeps `frames` of the users with these names, once it is switched on.
    pub fn new(frames: u32, names: [String; 2]) -> Show {
        Show { left: frames, names, lines: Vec::new(), on: false }
    }

    /// From here on frames are kept (what comes before is not load).
    pub fn start(&mut self) {
        self.on = true;
    }

    /// A client's frame.
    pub fn sent(&mut self, conn: u16, text: &[u8]) {
        self.keep(conn, "-> server", text);
    }

    /// A server's frame.
    pub fn received(&mut self, conn: u16, text: &[u8]) {
        self.keep(conn, "<- server", text);
    }

    /// What was kept, one line for each frame.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }

    fn keep(&mut self, conn: u16, direction: &str, text: &[u8]) {
        if self.on && self.left > 0 && conn < 2 {
            self.left -= 1;
            let name = &self.names[usize::from(conn)];
            let text = String::from_utf8_lossy(text);
            let mut line = format!("{name} {direction}  ");
            line.extend(text.chars().take(Self::CHARS_MAX));
            let cut = text.chars().count().saturating_sub(Self::CHARS_MAX);
            if cut > 0 {
                // A String takes everything.
                let _ = write!(line, "… ({cut} more)");
            }
            self.lines.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frames_of_the_first_pair_are_kept() {
        let mut show = Show::new(2, ["ann".to_owned(), "bob".to_owned()]);
        show.sent(0, b"too early");
        show.start();
        show.sent(0, b"one");
        show.received(2, b"of somebody else");
        show.received(1, &[b'x'; 200]);
        show.sent(0, b"three");
        let lines = show.into_lines();
        assert_eq!(lines[0], "ann -> server  one");
        assert!(lines[1].starts_with("bob <- server  xxx") && lines[1].ends_with("… (40 more)"));
        assert_eq!(lines.len(), 2);
    }
}
