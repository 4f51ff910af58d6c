//! What one home must cause in another log: stored with its cause, sent after the commit, done
//! once however often it is sent, and forgotten when it is confirmed (`shard/debts.rs`).

use crate::ids::{ConvKey, GroupId, Slot, UserId};

/// Something owed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owed {
    /// `user` is told in his notices what `cause` has caused: an encoded
    /// [`crate::happened::Happened`].
    Notice { user: UserId, cause: UserId, content: Vec<u8> },
    /// The account `user` was cancelled: nothing is left between it and `other`.
    Part { user: UserId, other: UserId },
    /// The account `user` was cancelled: it leaves the group. If it owns the group, `heir` does,
    /// if that is a member; else the group is dissolved.
    Leave { user: UserId, group: GroupId, heir: Option<UserId> },
    /// The account `user` was cancelled: what is left to be done about it, by its own home.
    Cancel { user: UserId, heir: Option<UserId>, done: CancelStep },
}

/// How far a cancellation has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CancelStep {
    /// The relations up to that with this user are [`Owed::Part`]s.
    Relations(Option<UserId>),
    /// All relations are, and the memberships up to this group's are [`Owed::Leave`]s.
    Memberships(Option<ConvKey>),
}

impl Owed {
    /// The slot whose home does it.
    pub fn slot(&self) -> Slot {
        match self {
            Owed::Notice { user, .. } | Owed::Cancel { user, .. } => user.slot(),
            Owed::Part { user, other } => user.min(other).slot(),
            Owed::Leave { group, .. } => group.slot(),
        }
    }
}
