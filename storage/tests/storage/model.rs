//! A long random script with a fixed seed: after every step the disk and the fake answer alike,
//! through memtables, table files, merges and openings.

use ringpost_core::event::{Entry, Load};
use ringpost_storage::{Fake, FakeSeed, Log, Options, Rocks};

use crate::support::*;

const USERS: [&str; 5] = ["a", "ab", "abc", "b", "zoe"];
const STEPS: u32 = 1_500;

/// A linear congruential generator: any mixture of steps will do, the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % sides
    }

    fn pair(&mut self) -> (&'static str, &'static str) {
        (USERS[self.roll(5) as usize], USERS[self.roll(5) as usize])
    }
}

#[test]
fn random_scripts_are_answered_alike() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { durability: ringpost_storage::Durability::Os, ..Options::default() };
    let mut rocks = Rocks::open(dir.path(), options).expect("opened");
    let fake = Fake::new(FakeSeed::default());
    let mut dice = Dice(20_261_120);
    for step in 0..STEPS {
        let turn = step_of(&mut dice, &fake);
        turn.commit(&rocks);
        turn.commit(&fake);
        match dice.roll(200) {
            0 => rocks.flush().expect("flushed"),
            1 => rocks.compact(),
            2 => {
                drop(rocks);
                rocks = Rocks::open(dir.path(), options).expect("opened again");
            }
            _ => {}
        }
        let load = load_of(&mut dice);
        assert_eq!(ask(&rocks, &load), ask(&fake, &load), "step {step}: {load:?}");
        if let Some(loaded) = rocks.load_cached(&load).expect("answered") {
            assert_eq!(format!("{loaded:?}"), ask(&fake, &load), "step {step}: {load:?}");
        }
    }
    assert_eq!(rocks.opening().leased, 0);
}

/// Entries as the core would make them: seqs without gaps, names with the first message.
fn step_of(dice: &mut Dice, log: &impl Log) -> Turn {
    let (one, other) = dice.pair();
    let seq = head(log, one, other);
    let turn = Turn::default();
    match dice.roll(10) {
        0..=4 => {
            let content = vec![dice.roll(256) as u8; dice.roll(2_000) as usize];
            let turn = turn.message(one, other, seq + 1, &content);
            if seq == 0 { turn.named(one, other) } else { turn }
        }
        5 | 6 => turn.cursor(one, one, other, ["p", "ph", "web"][dice.roll(3) as usize], seq),
        7 if seq > 0 => turn.mark(one, one, other, 1 + dice.roll(seq)),
        8 => turn.entry(Entry::MarkGone { user: user(one), conversation: key(one, other) }),
        _ => turn.entry(Entry::DeviceGone { user: user(one), device: device("p") }),
    }
}

fn load_of(dice: &mut Dice) -> Load {
    let (one, other) = dice.pair();
    let conversation = key(one, other);
    match dice.roll(6) {
        0 => Load::Conversation { key: conversation, expected: Some(private(one, other)) },
        1 => Load::Dedup { key: dedup(one, other, &format!("c{}", dice.roll(100))) },
        2 => Load::User { user: user(one) },
        3 => Load::Inbox { user: user(one), after: None, limit: dice.roll(8) as u32 },
        4 => Load::Cursors { user: user(one), conversation },
        _ => {
            let from = 1 + dice.roll(50);
            let bytes = dice.roll(20_000) as u32;
            Load::Page { conversation, from, to: from + dice.roll(50), bytes }
        }
    }
}
