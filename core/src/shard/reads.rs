//! How far a user has read, at his home (protocols/README.md, *Unread*).
//!
//! What he has read is the furthest of three: what he has said himself (a row, written here), his own
//! last message (part of the log, written by the conversation's home), and, where the dialect says
//! so, what a device has acknowledged (its cursor). Counts follow from the log when they are asked
//! for; none is kept.

use crate::event::{Answer, ControlId, Effects, Entry, Load, ReadingLoaded};
use crate::ids::{ConvKey, Conversation, Dialect};
use crate::limits::{MENTIONS_READ_MAX, READS_KNOWN};
use crate::shard::users::UserRef;
use crate::shard::{Shard, Waiting};

/// See [`crate::shard::users::User::reads`].
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Positions that the log may not show yet; at most [`READS_KNOWN`] that it does show.
    known: Vec<(ConvKey, u64)>,
    /// Questions that the log has not answered.
    asking: u32,
}

impl Reads {
    pub(crate) fn is_asking(&self) -> bool {
        self.asking > 0
    }

    fn known(&self, key: ConvKey) -> u64 {
        self.known.iter().find(|(known, _)| *known == key).map_or(0, |(_, seq)| *seq)
    }

    fn put(&mut self, key: ConvKey, seq: u64) {
        match self.known.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = seq,
            None => self.known.push((key, seq)),
        }
    }
}

impl Shard {
    /// A page of a user's conversations, once the log has what his devices have acknowledged, where
    /// that counts.
    pub(crate) fn list_chats(
        &mut self,
        user: UserRef,
        id: ControlId,
        after: Option<ConvKey>,
        limit: u32,
        effects: &mut Effects,
    ) {
        let counts = |dialect: &Dialect| self.config.dialects.delivery(*dialect).ack_is_read;
        let acked_is_read: Vec<Dialect> = Dialect::ALL.into_iter().filter(counts).collect();
        if !acked_is_read.is_empty() {
            self.flush_cursors(effects);
        }
        let owner = self.users.get(user).expect("looked up by the caller");
        let (turn, of) = (owner.turn, owner.id.clone());
        let load = Load::Chats { user: of, after, limit, acked_is_read };
        self.load_after(turn, Waiting::Chats { id }, load, effects);
    }

    /// A user says how far he has read.
    pub(crate) fn read(
        &mut self,
        user: UserRef,
        id: ControlId,
        conversation: Conversation,
        seq: u64,
        effects: &mut Effects,
    ) {
        let key = conversation.key(self.config.secret);
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        owner.reads.asking += 1;
        let (of, limit) = (owner.id.clone(), MENTIONS_READ_MAX);
        let load = Load::Reading { user: of, conversation, key, to: seq, limit };
        self.load(Waiting::Read { id, user, key, seq }, load, effects);
    }

    pub(crate) fn reading_loaded(
        &mut self,
        id: ControlId,
        user: UserRef,
        key: ConvKey,
        seq: u64,
        loaded: Option<ReadingLoaded>,
        effects: &mut Effects,
    ) {
        let durable = self.durable;
        let owner = self.users.get_mut(user).expect("who is being looked up is not forgotten");
        owner.reads.asking -= 1;
        let answer = match loaded {
            Some(loaded) if seq <= loaded.head => {
                let known = loaded.read.max(owner.reads.known(key));
                if seq > known {
                    if owner.turn <= durable && owner.reads.known.len() >= READS_KNOWN {
                        owner.reads.known.clear();
                    }
                    owner.reads.put(key, seq);
                    owner.turn = effects.turn;
                    let (user, conversation) = (owner.id.clone(), key);
                    effects.entries.push(Entry::Read { user, conversation, seq });
                }
                // What is left over is read all the same, and goes with the next.
                for seq in loaded.mentions {
                    owner.turn = effects.turn;
                    let (user, conversation) = (owner.id.clone(), key);
                    effects.entries.push(Entry::MentionGone { user, conversation, seq });
                }
                Answer::Read(known.max(seq))
            }
            _ => Answer::Found(None),
        };
        let turn = owner.turn;
        self.out(effects, turn).answers.push((id, answer));
        self.leave_if_idle(user);
    }
}
