//! The end of a run, without faults: everything arrives, everything is acknowledged, nothing is left
//! pending anywhere, and what the server says of it is what the model says.

use ringpost_core::account::AccountOperation;
use ringpost_core::command::GroupOperation;
use ringpost_core::event::{Load, Loaded, Operation};
use ringpost_storage::Log;

use crate::client::Say;
use crate::model::{Fate, Stage};
use crate::names::Place;
use crate::operations::Asked;
use crate::world::World;

/// Seconds that it may take until everything has arrived.
const ROUNDS_MAX: u64 = 300;
/// After so many seconds what was sent often enough is asked for.
const CHECK_OFFLINE_S: u64 = 26;

impl World {
    pub fn drain(&mut self) {
        self.calm_down();
        self.arrive_all();
        self.check_stored();
        // Inbox marks are deleted when all has been at rest for 5 s.
        self.run(20_000_000);
        self.check_rest();
        self.check_answers();
        self.leave_all();
    }

    fn calm_down(&mut self) {
        self.calm = true;
        let profile = &mut self.profile;
        // Half of what was not acknowledged is sent again first.
        profile.acks_percent = 100;
        profile.commit_us = profile.commit_us.min(20_000);
        self.wake_all();
        self.wake_readers();
        self.space(false);
        self.run(3_000_000);
        for user in 0..self.model.users.len() {
            if self.model.users[user].banned.known != Some(false) {
                self.unban(user);
            }
        }
    }

    /// Steps the clock towards what is to be stored later than in a moment.
    fn step_clock(&mut self) {
        let held = self.model.intents.iter().filter(|intent| intent.stage == Stage::Held);
        let last_ms = held.filter_map(|intent| intent.due).map(|(_, due_ms)| due_ms).max();
        if let Some(last_ms) = last_ms
            && last_ms > self.now.wall_ms + 20_000
        {
            self.now.wall_ms = last_ms - 5_000;
        }
    }

    fn unban(&mut self, user: usize) {
        if self.model.users[user].durable.is_none() {
            return;
        }
        self.set_standing(user, true, false);
        self.run(1_500_000);
        assert_eq!(self.model.users[user].banned.known, Some(false), "{user} is not banned");
    }

    fn arrive_all(&mut self) {
        let calm_us = self.now.mono_us;
        for round in 0..ROUNDS_MAX {
            self.connect_all();
            self.say_again(round);
            if round.is_multiple_of(5) {
                self.step_clock();
            }
            self.run(1_000_000);
            let late = self.net.overdue(&self.model, self.now.mono_us, calm_us);
            assert_eq!(late, None, "it is not sent again");
            if self.model.missing().is_none() && self.open().is_none() && self.is_still() {
                return;
            }
        }
        assert_eq!(self.model.missing(), None, "it does not arrive");
        assert_eq!(self.open(), None, "it is not answered");
        panic!(
            "there is no end: {:?}",
            (0..self.shards()).map(|s| self.gauges(s)).collect::<Vec<_>>()
        );
    }

    fn connect_all(&mut self) {
        for device in 0..self.model.devices.len() {
            if !self.net.of_device.contains_key(&device) {
                self.connect(device);
            }
        }
    }

    /// What clients and operators do who have no answer; and what is left unacknowledged.
    fn say_again(&mut self, round: u64) {
        for device in 0..self.model.devices.len() {
            let Some(conn) = self.net.live(device) else { continue };
            if round == CHECK_OFFLINE_S || round == 2 * CHECK_OFFLINE_S {
                self.say(conn, Say::CheckOffline);
            }
            let unacked = &mut self.net.conns.get_mut(&conn).expect("live").unacked;
            // Some acknowledgements are lost: those records come again.
            let mut unacked = std::mem::take(unacked);
            unacked.retain(|_| self.random.percent(50));
            unacked.into_iter().for_each(|ack| self.say(conn, ack));
            if !round.is_multiple_of(3) {
                continue;
            }
            let user = self.model.devices[device].user;
            let open = |index: &usize| {
                let intent = &self.model.intents[*index];
                intent.user == user && !intent.posted && intent.fate == Fate::Open
            };
            let open: Vec<usize> = (0..self.model.intents.len()).filter(open).collect();
            open.into_iter().take(20).for_each(|intent| self.send_intent(conn, intent));
        }
        for index in 0..self.model.intents.len() {
            let intent = &self.model.intents[index];
            let known = !intent.client_id.is_empty();
            if intent.posted && intent.fate == Fate::Open && known && !intent.asking {
                self.post_again(index);
            }
        }
    }

    /// A message whose sender has not been told what became of it; one that is to be stored.
    fn open(&self) -> Option<String> {
        let open = self.model.intents.iter().find(|intent| {
            // Nobody can ask again for what has no name.
            let named = !intent.client_id.is_empty();
            (named && intent.fate == Fate::Open) || intent.stage == Stage::Held
        });
        open.map(|intent| format!("{intent:?}"))
    }

    /// What senders were told is true.
    fn check_stored(&self) {
        for intent in self.model.intents.iter().filter(|intent| intent.fate == Fate::Stored) {
            let place = intent.place.expect("it goes somewhere");
            match intent.at {
                Some(seq) => assert!(self.model.log(place).is_durable(seq), "lost: {intent:?}"),
                None => {
                    let dropped = intent.stage == Stage::Fired && self.may_be_dropped(intent);
                    assert!(dropped, "lost: {intent:?}");
                }
            }
        }
        for (wire, _) in self.model.friends.iter().filter(|(_, answered)| **answered) {
            let mut parts = wire.split('_').skip(1);
            let (from, to) = (parts.next().expect("a name"), parts.next().expect("a name"));
            let names =
                [format!("af_{from}_{to}"), format!("afc_{from}_{to}"), format!("afc_{to}_{from}")];
            let (one, other) = (self.model.names.user(from), self.model.names.user(to));
            let blocks = [(one, other), (other, one)];
            let blocked = blocks.iter().any(|pair| self.model.blocks.contains_key(pair));
            let told = self
                .model
                .wires
                .iter()
                .any(|((_, _, known), seqs)| names.contains(known) && !seqs.is_empty());
            assert!(told || blocked, "nobody was told of {wire}");
        }
    }

    fn check_rest(&mut self) {
        for shard in 0..self.shards() {
            let gauges = self.gauges(shard);
            let busy = (gauges.requests, gauges.loads, gauges.catch_ups);
            let kept = (gauges.owed, gauges.due, gauges.pending);
            assert_eq!((busy, kept), ((0, 0, 0), (0, 0, 0)), "shard {shard}: {gauges:?}");
        }
        for user in 0..self.model.users.len() {
            let load =
                Load::Inbox { user: self.model.names.user_id(user), after: None, limit: 100 };
            match self.log.load(&load).expect("the fake does not fail") {
                Loaded::Inbox(marks) => {
                    let place = |mark: &ringpost_core::event::InboxMark| {
                        self.model.keys.get(&mark.conversation).copied()
                    };
                    let left: Vec<Option<Place>> = marks.iter().map(place).collect();
                    assert!(left.is_empty(), "{user} has marks: {left:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn check_answers(&mut self) {
        for user in 0..self.model.users.len() {
            if self.model.users[user].durable.is_none() {
                continue;
            }
            self.look_at_chats(user);
            let operation = AccountOperation::Presence;
            let id = self.model.names.user_id(user);
            let asked = Asked::Presence { user, online: true };
            self.ask(Operation::Account { user: id, operation }, asked);
            self.run(1_000_000);
        }
        let version = self.model.version;
        for group in 0..self.model.groups.len() {
            if self.model.groups[group].durable.is_some() {
                let operation = GroupOperation::List { after: None, limit: 1_000 };
                let id = self.model.names.group_id(group);
                let asked = Asked::Members { group, version };
                self.ask(Operation::Group { group: id, operation }, asked);
            }
        }
        self.run(1_000_000);
        assert_eq!(version, self.model.version, "nothing happens any more");
        assert!(self.asked.is_empty(), "{:?} has no answer", self.asked);
    }

    /// Who has gone is forgotten.
    fn leave_all(&mut self) {
        for conn in self.net.conns.keys().copied().collect::<Vec<_>>() {
            self.cut(conn);
        }
        self.run(25_000_000);
        for shard in 0..self.shards() {
            assert_eq!(self.gauges(shard).users, 0, "shard {shard} keeps users");
        }
    }
}
