//! Accounts as such: who is sent away, who may not come again, who is hidden, what ends with an
//! account. The control plane asks, at the user's home.

use crate::account::{AccountOperation, Ban, Connected};
use crate::dialect::imboy;
use crate::event::{Answer, Effects, Entry, Routed};
use crate::ids::{ConnId, Dialect, ShardId, UserId};
use crate::owed::{CancelStep, Owed};
use crate::session::Client;
use crate::shard::users::UserRef;
use crate::shard::{Shard, write_frame};

/// What a client is told before its connection is closed: a title and a sentence.
struct Dismissal<'a> {
    title: &'a str,
    content: &'a str,
    /// Of the close frame.
    reason: &'static str,
}

impl Shard {
    /// Executes an operation; the user is loaded. The answer waits for the user's last turn.
    pub(crate) fn account(
        &mut self,
        user: UserRef,
        operation: AccountOperation,
        effects: &mut Effects,
    ) -> Answer {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let open = owner.row.as_ref().is_some_and(|row| row.standing.cancelled_ms == 0);
        if !open {
            return Answer::NoSuchUser;
        }
        match operation {
            AccountOperation::Kick { device } => {
                let dismissal = Dismissal {
                    title: "Signed out",
                    content: "The operator has ended this connection.",
                    reason: "signed out by the operator",
                };
                self.dismiss(user, device.as_deref(), &dismissal, 0, effects);
                Answer::Done
            }
            AccountOperation::Ban(ban) => self.ban(user, ban, effects),
            AccountOperation::Hide(hidden) => {
                let row = owner.row.as_mut().expect("looked at above");
                if row.standing.hidden != hidden {
                    row.standing.hidden = hidden;
                    self.write_user(user, effects);
                    self.presence_changed(user, effects);
                }
                Answer::Done
            }
            AccountOperation::Connections => Answer::Connections(self.connected(user)),
            AccountOperation::Presence => Answer::Presence(owner.presence()),
            AccountOperation::Cancel { heir } => self.cancel(user, heir, effects),
        }
    }

    fn ban(&mut self, user: UserRef, ban: Option<Ban>, effects: &mut Effects) -> Answer {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let row = owner.row.as_mut().expect("looked at by the caller");
        if row.standing.ban != ban {
            row.standing.ban.clone_from(&ban);
            self.write_user(user, effects);
        }
        if let Some(ban) = ban {
            let dismissal = Dismissal {
                title: "Account banned",
                content: &ban.reason,
                reason: "the account is banned",
            };
            self.dismiss(user, None, &dismissal, effects.turn, effects);
        }
        Answer::Done
    }

    /// The account ends: nobody connects to it or writes to it any more. What it is to others and
    /// to groups is given up afterwards, page by page, and owed until then.
    fn cancel(&mut self, user: UserRef, heir: Option<UserId>, effects: &mut Effects) -> Answer {
        let wall_ms = self.now.wall_ms;
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let id = owner.id.clone();
        let done = CancelStep::Relations(None);
        let owed = Owed::Cancel { user: id.clone(), heir, done };
        if !self.owe(id.slot(), owed, effects) {
            return Answer::Refused(crate::error::Refusal::TryAgain);
        }
        let owner = self.users.get_mut(user).expect("looked up above");
        let row = owner.row.as_mut().expect("looked at by the caller");
        row.standing.cancelled_ms = wall_ms;
        row.profile = "{}".to_owned();
        self.write_user(user, effects);
        let dismissal = Dismissal {
            title: "Account cancelled",
            content: "This account does not exist any more.",
            reason: "the account is cancelled",
        };
        self.dismiss(user, None, &dismissal, effects.turn, effects);
        if let Some(owner) = self.users.get_mut(user) {
            // Friends are told that the account is gone, and not that it is offline.
            owner.told.forget();
            for device in owner.devices.iter_mut().filter(|device| !device.gone) {
                device.gone = true;
                let (user, device) = (id.clone(), device.id.clone());
                effects.entries.push(Entry::DeviceGone { user, device });
            }
        }
        self.tell_changed(&id, effects);
        Answer::Done
    }

    fn connected(&self, user: UserRef) -> Vec<Connected> {
        let owner = self.users.get(user).expect("looked up by the caller");
        let devices = owner.devices.iter().enumerate();
        let live =
            devices.filter_map(|(index, device)| Some((index, device, device.live.as_ref()?)));
        let connected = live.map(|(index, device, live)| {
            let behind = owner.inbox.values().filter_map(|inbox| {
                let cursor = inbox.cursors.iter().find(|cursor| cursor.device == index as u32)?;
                Some(inbox.head.saturating_sub(cursor.sent))
            });
            Connected {
                dialect: device.id.dialect,
                device: device.id.name.clone(),
                client: live
                    .conns
                    .first()
                    .and_then(|conn| self.sessions.get(*conn))
                    .map_or_else(Client::default, |session| session.client.clone()),
                connections: live.conns.len() as u32,
                since_ms: live.since_ms,
                pending: live.unacknowledged().count() as u64 + behind.sum::<u64>(),
            }
        });
        connected.collect()
    }

    /// Writes the user's row with the open turn.
    pub(crate) fn write_user(&mut self, user: UserRef, effects: &mut Effects) {
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        owner.turn = effects.turn;
        let row = owner.row.clone().expect("who is written exists");
        effects.entries.push(Entry::User { user: owner.id.clone(), row });
    }

    /// Tells all shards that what they know of a user is out of date, once the open turn is durable.
    pub(crate) fn tell_changed(&mut self, user: &UserId, effects: &mut Effects) {
        for to in (0..self.config.shards).map(ShardId) {
            let changed = Routed::Changed { user: user.clone() };
            self.route_later(to, changed, effects.turn, effects);
        }
    }

    /// Ends connections of a user, each told why, once `turn` is durable. The user may be forgotten
    /// with the last of them.
    fn dismiss(
        &mut self,
        user: UserRef,
        device: Option<&str>,
        dismissal: &Dismissal<'_>,
        turn: u64,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("looked up by the caller");
        let named =
            owner.devices.iter().filter(|known| device.is_none_or(|id| known.id.name == *id));
        let live = named.filter_map(|device| device.live.as_ref());
        let conns: Vec<ConnId> = live.flat_map(|live| live.conns.iter().copied()).collect();
        let wall_ms = self.now.wall_ms;
        for conn in conns {
            let session = self.sessions.get_mut(conn).expect("a device's connections are open");
            session.turn = session.turn.max(turn);
            let (dialect, turn) = (session.dialect, session.turn);
            let outputs = self.out(effects, turn);
            let code = match dialect {
                Dialect::Imboy => {
                    write_frame(outputs, conn, |out| {
                        imboy::write_dismissal(dismissal.title, dismissal.content, wall_ms, out);
                    });
                    4006
                }
            };
            self.close(conn, code, dismissal.reason, effects);
        }
    }
}
