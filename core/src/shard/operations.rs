//! What the control plane asks a shard for: where each operation goes, and what those about a user
//! do.

use crate::error::Refusal;
use crate::event::{Answer, ControlId, Effects, Load, Operation};
use crate::ids::Conversation;
use crate::limits::HISTORY_BYTES;
use crate::relations::PrivatePolicy;
use crate::shard::users::{UserRef, Waiter};
use crate::shard::{Shard, Waiting};

impl Shard {
    /// The control plane's question about a user of this shard.
    pub(crate) fn control(&mut self, id: ControlId, operation: Operation, effects: &mut Effects) {
        if self.space_low && operation.stores() {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        let user = match &operation {
            Operation::PutUser { user, .. }
            | Operation::GetUser { user }
            | Operation::Friends { user, .. }
            | Operation::Chats { user, .. }
            | Operation::Read { user, .. }
            | Operation::Account { user, .. } => user.clone(),
            Operation::Group { .. }
            | Operation::Relation(_)
            | Operation::Notice { .. }
            | Operation::NoticeToAll { .. }
            | Operation::Post(_)
            | Operation::Find { .. }
            | Operation::History { .. } => {
                return self.elsewhere(id, operation, effects);
            }
        };
        let user = self.user(&user, effects);
        self.wait_for_user(user, Waiter::Control(id, operation), effects);
    }

    /// Operations that are about no user of this shard.
    fn elsewhere(&mut self, id: ControlId, operation: Operation, effects: &mut Effects) {
        match operation {
            Operation::Group { group, operation } => {
                self.group_operation(id, &Conversation::Group(group), operation, effects);
            }
            Operation::Post(post) => self.post(id, *post, effects),
            Operation::Find { id: message } => {
                self.load(Waiting::Find { id }, Load::Find { id: message }, effects);
            }
            Operation::History { conversation, part, limit } => {
                let key = conversation.key(self.config.secret);
                let load = Load::History { conversation, key, part, limit, bytes: HISTORY_BYTES };
                self.load(Waiting::Find { id }, load, effects);
            }
            Operation::Relation(operation) => self.relation(id, *operation, effects),
            Operation::Notice { user, notice } => self.notice(id, &user, notice, effects),
            Operation::NoticeToAll { notice } => self.notice_to_all(id, notice, effects),
            Operation::PutUser { .. }
            | Operation::GetUser { .. }
            | Operation::Friends { .. }
            | Operation::Chats { .. }
            | Operation::Read { .. }
            | Operation::Account { .. } => unreachable!("about a user"),
        }
    }

    pub(crate) fn perform(
        &mut self,
        user: UserRef,
        id: ControlId,
        operation: Operation,
        effects: &mut Effects,
    ) {
        let (wall_ms, beginning) = (self.now.wall_ms, self.beginning());
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let cancelled = owner.row.as_ref().is_some_and(|row| row.standing.cancelled_ms > 0);
        let answer = match operation {
            Operation::Account { operation, .. } => {
                let answer = self.account(user, operation, effects);
                // With the last connection the user may have been forgotten: all of it is durable.
                let turn = self.users.get(user).map_or(0, |owner| owner.turn);
                return self.out(effects, turn).answers.push((id, answer));
            }
            _ if cancelled => Answer::NoSuchUser,
            Operation::Friends { user, after, limit } if owner.row.is_some() => {
                let load = Load::Relations { user, after, limit, friends: true };
                return self.load(Waiting::Friends { id }, load, effects);
            }
            Operation::Chats { after, limit, .. } if owner.row.is_some() => {
                return self.list_chats(user, id, after, limit, effects);
            }
            Operation::Read { conversation, seq, .. } if owner.row.is_some() => {
                return self.read(user, id, conversation, seq, effects);
            }
            Operation::Friends { .. } | Operation::Chats { .. } | Operation::Read { .. } => {
                Answer::NoSuchUser
            }
            Operation::PutUser { profile, .. } => {
                let created = owner.row.is_none();
                let row = owner.row.get_or_insert_default();
                if created {
                    (row.created_ms, row.began) = (wall_ms, beginning);
                }
                row.profile = profile;
                let row = row.clone();
                let id = owner.id.clone();
                self.write_user(user, effects);
                if self.config.private_policy == PrivatePolicy::Contacts {
                    self.tell_changed(&id, effects);
                }
                Answer::User { row, created }
            }
            Operation::GetUser { .. } => match &owner.row {
                Some(row) => Answer::User { row: row.clone(), created: false },
                None => Answer::NoSuchUser,
            },
            Operation::Group { .. }
            | Operation::Relation(_)
            | Operation::Notice { .. }
            | Operation::NoticeToAll { .. }
            | Operation::Post(_)
            | Operation::Find { .. }
            | Operation::History { .. } => {
                unreachable!("it needs no user")
            }
        };
        let turn = self.users.get(user).expect("it waits for nothing").turn;
        self.out(effects, turn).answers.push((id, answer));
    }
}
