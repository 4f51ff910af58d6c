//! What users, operators and fate do, one step at a time, drawn by the run's profile.

use ringpost_core::Input;
use ringpost_core::account::{AccountOperation, Ban};
use ringpost_core::command::{Action, GroupOperation, NoticeOperation};
use ringpost_core::event::{JoinPolicy, Operation, Post};
use ringpost_core::happened::Happened;
use ringpost_core::ids::{ConnId, MessageId};
use ringpost_core::record::Kind;
use ringpost_core::relations::{RelationOperation, Terms};
use serde_json::{Value, json};

use crate::client::Say;
use crate::ledger::Sort;
use crate::model::{Device, Fate, Intent};
use crate::names::{Place, Set};
use crate::operations::Asked;
use crate::profile::Step;
use crate::world::{Event, STALL_US, World};

/// Devices of one user, at most.
const DEVICES_MAX: usize = 4;

impl World {
    /// Users and groups that are there before anything else happens.
    pub fn set_up(&mut self) {
        let users = self.model.users.len();
        for user in 0..users {
            self.add_device(user);
            if user >= users - self.profile.late_users {
                self.model.users[user].late = true;
                continue;
            }
            self.model.users[user].everybody_before = Some(0);
            let put =
                Operation::PutUser { user: self.model.names.user_id(user), profile: "{}".into() };
            self.ask(put, Asked::PutUser { user });
        }
        self.run(3_000_000);
        assert!(self.asked.is_empty(), "users are made");
        for group in 0..self.model.groups.len() {
            if self.random.percent(80) {
                self.create_group(group);
            }
        }
        self.run(3_000_000);
    }

    pub fn step(&mut self) {
        match self.profile.clone().step(&mut self.random) {
            Step::Private => self.say_privately(),
            Step::Group => self.say_to_group(),
            Step::Resend => self.resend(),
            Step::Revoke => self.revoke(),
            Step::Acknowledge => self.acknowledge_some(),
            Step::Connect => self.come(),
            Step::NewDevice => self.new_device(),
            Step::Cut => self.with_live(World::cut),
            Step::Logout => self.with_live(|world, conn| world.say(conn, Say::Logout)),
            Step::CheckOffline => {
                self.with_live(|world, conn| world.say(conn, Say::CheckOffline));
            }
            Step::Garbage => self.with_live(|world, conn| {
                world.say(conn, Say::Garbage);
                world.say(conn, Say::Ping);
            }),
            Step::Members => self.change_members(),
            Step::Alias => self.change_alias(),
            Step::CreateGroup => {
                let group = self.random.index(self.model.groups.len());
                self.create_group(group);
            }
            Step::Dissolve => {
                if let Some(group) = self.some_group() {
                    let dissolve = GroupOperation::Dissolve { by: None };
                    self.ask_group(group, dissolve, Asked::Dissolve { group });
                }
            }
            Step::Post => self.post(None),
            Step::Later => {
                let longest = *self.random.pick(&[100, 2_000, 20_000, 900_000]);
                let after = self.random.range(1, longest);
                self.post(Some(after));
            }
            Step::Notice => {
                let place = self.some_user().map(Place::Notices);
                place.into_iter().for_each(|place| self.notice(place));
            }
            Step::NoticeToAll => self.notice(Place::Everybody),
            Step::Read => self.read_some(),
            Step::Block => self.block(),
            Step::Friends => self.befriend(),
            Step::Ban => self.ban_or_hide(true),
            Step::Hide => self.ban_or_hide(false),
            Step::Kick => {
                if let Some(user) = self.some_user() {
                    let (user, operation) =
                        (self.model.names.user_id(user), AccountOperation::Kick { device: None });
                    self.ask(Operation::Account { user, operation }, Asked::Kick);
                }
            }
            Step::Look => self.look(),
            fault => self.fault(fault),
        }
    }

    fn fault(&mut self, fault: Step) {
        let us = self.random.range(1, STALL_US);
        let until = self.now.mono_us + us;
        match fault {
            Step::StallReader => self.with_live(|world, conn| {
                let until = world.now.mono_us + world.random.range(1, 8_000_000);
                world.net.conns.get_mut(&conn).expect("it is live").stalled_until = until;
            }),
            Step::StallCommits => self.writer_stalled_until = until,
            Step::StallShard => {
                let shard = self.random.index(self.shards());
                self.sleep(shard, us);
            }
            Step::StallLink => {
                let shards = self.shards();
                let link = (self.random.index(shards), self.random.index(shards));
                self.link_stalled_until.insert(link, until);
            }
            Step::FailCommit => {
                // The process ends with a batch of which nobody knows whether the disk has it.
                self.writer_stalled_until = until;
                let us = self.random.range(1, us);
                self.run(us);
                self.crash_into_some();
            }
            Step::Crash => self.crash_into_some(),
            Step::Clock => {
                let longest = *self.random.pick(&[50, 5_000, 600_000]);
                let ms = self.random.range(1, longest);
                let wall_ms = self.now.wall_ms;
                let back = self.random.percent(50);
                self.now.wall_ms = if back { wall_ms - ms } else { wall_ms + ms };
            }
            Step::Space => {
                let low = self.random.percent(50);
                self.space(low);
            }
            Step::Wait => {
                let longest = *self.random.pick(&[1_000_000, 7_000_000, 30_000_000]);
                let us = self.random.range(1, longest);
                self.run(us);
            }
            other => unreachable!("{other:?} is no fault"),
        }
    }

    pub fn space(&mut self, low: bool) {
        (0..self.shards()).for_each(|shard| self.handle(shard, Input::Space { low }));
    }

    fn crash_into_some(&mut self) {
        let shards = self.random.range(1, 4) as u16;
        self.crash(shards);
    }

    // --- who and what there is ---

    fn live_devices(&self) -> Vec<usize> {
        (0..self.model.devices.len()).filter(|device| self.net.live(*device).is_some()).collect()
    }

    fn with_live(&mut self, act: impl FnOnce(&mut World, ConnId)) {
        let live = self.live_devices();
        if let Some(device) = self.random.some(&live) {
            let conn = self.net.live(device).expect("filtered above");
            act(self, conn);
        }
    }

    /// A user who exists, for sure.
    fn some_user(&mut self) -> Option<usize> {
        let users: Vec<usize> = (0..self.model.users.len()).collect();
        let users: Vec<usize> =
            users.into_iter().filter(|user| self.model.users[*user].durable.is_some()).collect();
        self.random.some(&users)
    }

    /// A group that exists and that nobody is changing.
    fn some_group(&mut self) -> Option<usize> {
        let open = |group: &usize| {
            let group = &self.model.groups[*group];
            !group.asking && group.durable.is_some()
        };
        let groups: Vec<usize> = (0..self.model.groups.len()).filter(open).collect();
        self.random.some(&groups)
    }

    fn client_id(&mut self) -> (String, bool) {
        let number = self.model.intents.len() as u32;
        if self.random.percent(self.profile.plain_ids_percent) {
            (format!("own-{number}"), false)
        } else {
            let mut id = [7u8; 12];
            id[8..].copy_from_slice(&number.to_be_bytes());
            (MessageId(id).to_string(), true)
        }
    }

    fn padding(&mut self) -> String {
        let len = self.random.range(0, self.profile.padding) as usize;
        "x".repeat(len)
    }

    // --- what clients do ---

    pub fn add_device(&mut self, user: usize) -> usize {
        let name = format!("d{}", self.model.devices.len());
        let (written, durable) = (false, false);
        let (seen, told_revoked) = Default::default();
        self.model.devices.push(Device { user, name, written, durable, seen, told_revoked });
        self.model.devices.len() - 1
    }

    fn come(&mut self) {
        let away = |device: &usize| !self.net.of_device.contains_key(device);
        let all: Vec<usize> = (0..self.model.devices.len()).collect();
        let away: Vec<usize> = all.iter().copied().filter(away).collect();
        let device =
            if self.random.percent(15) { self.random.some(&all) } else { self.random.some(&away) };
        if let Some(device) = device {
            self.connect(device);
        }
    }

    fn new_device(&mut self) {
        let user = self.random.index(self.model.users.len());
        let devices = self.model.devices.iter().filter(|device| device.user == user).count();
        if devices < DEVICES_MAX {
            let device = self.add_device(user);
            self.connect(device);
        }
    }

    fn say_privately(&mut self) {
        let count = self.random.range(1, self.profile.burst);
        self.with_live(|world, conn| {
            let user = world.user_of(conn);
            let other = world.random.index(world.model.users.len());
            for _ in 0..count {
                world.send(conn, Place::pair(user, other));
            }
        });
    }

    fn say_to_group(&mut self) {
        let count = self.random.range(1, self.profile.burst);
        self.with_live(|world, conn| {
            let user = world.user_of(conn);
            let all: Vec<usize> = (0..world.model.groups.len()).collect();
            let own = |group: &usize| world.model.members(*group).has(user);
            let own: Vec<usize> = all.iter().copied().filter(own).collect();
            let any = world.random.percent(5);
            let group = world.random.some(if any { &all } else { &own });
            for _ in 0..count {
                group.into_iter().for_each(|group| world.send(conn, Place::Group(group)));
            }
        });
    }

    fn user_of(&self, conn: ConnId) -> usize {
        self.model.devices[self.net.conns[&conn].device].user
    }

    fn send(&mut self, conn: ConnId, place: Place) {
        let user = self.user_of(conn);
        let (client_id, is_xid) = self.client_id();
        let number = self.model.intents.len();
        let padding = self.padding();
        let payload = format!(r#"{{"n":{number},"p":"{padding}"}}"#);
        let intent = Intent {
            user,
            place: Some(place),
            client_id,
            is_xid,
            content: payload.clone().into_bytes(),
            payload: serde_json::from_str(&payload).expect("made above"),
            ..Intent::default()
        };
        let intent = self.model.intend(intent);
        self.send_intent(conn, intent);
    }

    /// Says a message, or says it again.
    pub fn send_intent(&mut self, conn: ConnId, intent: usize) {
        let Intent { place, user, client_id, content, .. } = &self.model.intents[intent];
        let (group, to) = self.to(place.expect("it goes somewhere"), *user);
        let payload = String::from_utf8(content.clone()).expect("it is JSON");
        let say = Say::Send { group, id: client_id.clone(), to, payload };
        self.say(conn, say);
    }

    fn to(&self, place: Place, user: usize) -> (bool, String) {
        match place {
            Place::Pair(low, high) => {
                let other = if user == low { high } else { low };
                (false, self.model.names.users[other].clone())
            }
            Place::Group(group) => (true, self.model.names.groups[group].clone()),
            other => panic!("nobody writes to {other:?}"),
        }
    }

    fn resend(&mut self) {
        let count = self.model.intents.len();
        let Some(index) = count.checked_sub(1).map(|last| last - self.random.index(count.min(40)))
        else {
            return;
        };
        let intent = &self.model.intents[index];
        if intent.client_id.is_empty() || matches!(intent.fate, Fate::Refused(_)) {
            return;
        }
        if intent.posted {
            return self.post_again(index);
        }
        let of = |device: &usize| self.model.devices[*device].user == intent.user;
        let devices: Vec<usize> = self.live_devices().into_iter().filter(of).collect();
        if let Some(conn) = self.random.some(&devices).and_then(|device| self.net.live(device)) {
            self.send_intent(conn, index);
        }
    }

    fn revoke(&mut self) {
        let said: Vec<usize> = (0..self.model.intents.len())
            .filter(|index| {
                let intent = &self.model.intents[*index];
                let message = matches!(intent.place, Some(Place::Pair(..) | Place::Group(_)));
                message && intent.at.is_some() && intent.fate == Fate::Stored
            })
            .collect();
        let Some(index) = self.random.some(&said) else { return };
        let intent = &self.model.intents[index];
        let (place, seq) = (intent.place.expect("looked at above"), intent.at.expect("likewise"));
        let of = |device: &usize| self.model.devices[*device].user == intent.user;
        let devices: Vec<usize> = self.live_devices().into_iter().filter(of).collect();
        let conn = self.random.some(&devices).and_then(|device| self.net.live(device));
        match conn {
            Some(conn) if !self.model.intents[index].client_id.is_empty() => {
                let intent = &self.model.intents[index];
                let (group, to) = self.to(place, intent.user);
                let say = Say::Revoke { group, id: intent.client_id.clone(), to };
                self.say(conn, say);
            }
            _ if self.model.log(place).is_durable(seq) => {
                let rec = self.model.log(place).get(seq).expect("durable");
                let (sender, id) = (rec.sender.expect("a message"), rec.id);
                let post = Post {
                    conversation: self.model.names.conversation(place),
                    sender: self.model.names.user_id(sender),
                    client_id: id.to_string().as_str().into(),
                    action: Action::Revoke { by_operator: true },
                };
                self.model.foreign_revokes.insert((place, seq));
                self.ask(Operation::Post(Box::new(post)), Asked::Revoke { place, seq });
            }
            _ => {}
        }
    }

    fn acknowledge_some(&mut self) {
        self.with_live(|world, conn| {
            let unacked =
                std::mem::take(&mut world.net.conns.get_mut(&conn).expect("live").unacked);
            let mut rest = Vec::new();
            for ack in unacked {
                if world.random.percent(50) {
                    world.say(conn, ack);
                } else {
                    rest.push(ack);
                }
            }
            world.net.conns.get_mut(&conn).expect("live").unacked = rest;
        });
    }

    // --- what is asked over the control plane ---

    fn ask_group(&mut self, group: usize, operation: GroupOperation, asked: Asked) {
        self.model.groups[group].asking = true;
        let group = self.model.names.group_id(group);
        self.ask(Operation::Group { group, operation }, asked);
    }

    fn create_group(&mut self, group: usize) {
        let Some(owner) = self.some_user().filter(|_| !known_or_asking(&self.model.groups[group]))
        else {
            return;
        };
        let mut members = Set::of([owner]);
        for _ in 0..self.random.below(5) {
            members = members.and(Set::of(self.some_user()));
        }
        let others = members.without(Set::of([owner])).iter();
        let create = GroupOperation::Create {
            owner: self.model.names.user_id(owner),
            members: others.map(|user| self.model.names.user_id(user)).collect(),
            join_policy: JoinPolicy::Approve,
            profile: "{}".to_owned(),
        };
        self.ask_group(group, create, Asked::CreateGroup { group, members });
    }

    fn change_members(&mut self) {
        let (Some(group), Some(user)) = (self.some_group(), self.some_user()) else { return };
        let row = self.model.groups[group].durable.as_ref().expect("it exists");
        let owner = self.model.names.user(row.owner.as_str());
        if self.random.percent(45) && user != owner {
            let id = self.model.names.user_id(user);
            let remove = GroupOperation::Remove { user: id, by: None };
            return self.ask_group(group, remove, Asked::Remove { group, user });
        }
        let mut users = Set::of([user]);
        if self.random.percent(30) {
            users = users.and(Set::of(self.some_user()));
        }
        let ids = users.iter().map(|user| self.model.names.user_id(user)).collect();
        let add = GroupOperation::Add { users: ids, by: None };
        self.ask_group(group, add, Asked::Add { group, users });
    }

    fn change_alias(&mut self) {
        let (Some(group), Some(user)) = (self.some_group(), self.some_user()) else { return };
        let change = GroupOperation::ChangeMember {
            user: self.model.names.user_id(user),
            alias: Some(format!("alias {}", self.random.below(100))),
            description: None,
            role: None,
        };
        self.ask_group(group, change, Asked::Alias { group });
    }

    fn post(&mut self, after_ms: Option<u64>) {
        let Some(user) = self.some_user() else { return };
        let all: Vec<usize> = (0..self.model.groups.len()).collect();
        let own = |group: &usize| self.model.members(*group).has(user);
        let groups: Vec<usize> = all.into_iter().filter(own).collect();
        let place = match self.random.some(&groups).filter(|_| self.random.percent(50)) {
            Some(group) => Place::Group(group),
            None => Place::pair(user, self.random.index(self.model.users.len())),
        };
        let number = self.model.intents.len();
        let text = format!("{number} {}", self.padding());
        let (mut client_id, is_xid) = self.client_id();
        // Without an id there is no telling what became of it after a crash.
        if after_ms.is_none() && self.random.percent(20) {
            client_id.clear();
        }
        let intent = Intent {
            user,
            place: Some(place),
            is_xid: is_xid && !client_id.is_empty(),
            client_id,
            posted: true,
            content: json!({"kind": "text", "text": text}).to_string().into_bytes(),
            payload: json!({"msg_type": "text", "text": text}),
            after_ms,
            ..Intent::default()
        };
        let index = self.model.intend(intent);
        self.post_again(index);
    }

    /// Posts a message or a notice, maybe again.
    pub fn post_again(&mut self, index: usize) {
        let intent = &mut self.model.intents[index];
        if std::mem::replace(&mut intent.asking, true) {
            return;
        }
        let intent = intent.clone();
        let place = intent.place.expect("it goes somewhere");
        let content = intent.content.clone().into();
        let id = intent.client_id.as_str().into();
        let operation = match place {
            Place::Notices(user) => Operation::Notice {
                user: self.model.names.user_id(user),
                notice: Box::new(NoticeOperation { id, content }),
            },
            Place::Everybody => {
                Operation::NoticeToAll { notice: Box::new(NoticeOperation { id, content }) }
            }
            _ => Operation::Post(Box::new(Post {
                conversation: self.model.names.conversation(place),
                sender: self.model.names.user_id(intent.user),
                client_id: id,
                action: Action::Send {
                    kind: Kind::Neutral,
                    sender_ms: None,
                    content,
                    copies: true,
                    mentions: None,
                    after_ms: intent.after_ms.unwrap_or(0),
                },
            })),
        };
        let asked = match place {
            Place::Notices(_) | Place::Everybody => Asked::Notice { intent: index },
            _ => Asked::Post { intent: index },
        };
        self.ask(operation, asked);
    }

    fn notice(&mut self, place: Place) {
        let number = self.model.intents.len();
        let payload: Value = json!({"n": number, "p": self.padding()});
        let happened = Happened::Noticed {
            stream: String::new(),
            kind: "note".to_owned(),
            title: String::new(),
            content: payload.to_string(),
            data: None,
        };
        let mut content = Vec::new();
        if payload.to_string().len() > 40_000 {
            return;
        }
        happened.encode(&mut content);
        let (client_id, _) = self.client_id();
        let user = if let Place::Notices(user) = place { user } else { 0 };
        let intent = Intent {
            user,
            place: Some(place),
            client_id,
            posted: true,
            content,
            payload,
            ..Intent::default()
        };
        let index = self.model.intend(intent);
        self.post_again(index);
    }

    fn read_some(&mut self) {
        let Some(user) = self.some_user() else { return };
        let seen = |(place, log): (&Place, &crate::ledger::Log)| {
            let sees = |(_, rec): &(u64, &crate::ledger::Rec)| rec.visible.has(user);
            let last = (1..).zip(&log.recs[..log.durable]).filter(sees).last();
            last.map(|(seq, _)| (*place, seq))
        };
        let places: Vec<(Place, u64)> = self.model.logs.iter().filter_map(seen).collect();
        let Some((place, last)) = self.random.some(&places) else { return };
        let seq = self.random.range(1, last);
        let operation = Operation::Read {
            user: self.model.names.user_id(user),
            conversation: self.model.names.conversation(place),
            seq,
        };
        self.ask(operation, Asked::Read { user, place, seq });
    }

    fn block(&mut self) {
        let (Some(by), Some(other)) = (self.some_user(), self.some_user()) else { return };
        let block = self.model.blocks.entry((by, other)).or_default();
        if by == other || block.asking {
            return;
        }
        (block.known, block.asking) = (None, true);
        let on = self.random.percent(50);
        let names = &self.model.names;
        let (one, two) = (names.user_id(by), names.user_id(other));
        let block = RelationOperation::Block { by: one, other: two, on };
        self.ask(Operation::Relation(Box::new(block)), Asked::Block { by, other, on });
    }

    fn befriend(&mut self) {
        let (Some(one), Some(other)) = (self.some_user(), self.some_user()) else { return };
        let names = &self.model.names;
        let (from, to) = (names.user_id(one), names.user_id(other));
        let asked = format!("af_{from}_{to}");
        let (accepted, turned) = (format!("afc_{from}_{to}"), format!("afc_{to}_{from}"));
        if one == other {
            return;
        }
        let terms = Terms::default();
        if !self.model.friends.contains_key(&asked) {
            // Who asks the one who has asked him accepts.
            self.model.friends.insert(asked.clone(), false);
            self.model.friends.entry(turned).or_insert(false);
            let ask = RelationOperation::Ask { from, to, terms };
            self.ask(Operation::Relation(Box::new(ask)), Asked::Friends { wire: asked });
        } else {
            self.model.friends.entry(accepted.clone()).or_insert(false);
            let accept = RelationOperation::Accept { from, to, terms };
            self.ask(Operation::Relation(Box::new(accept)), Asked::Friends { wire: accepted });
        }
    }

    fn ban_or_hide(&mut self, ban: bool) {
        let Some(user) = self.some_user() else { return };
        let on = self.random.percent(50);
        self.set_standing(user, ban, on);
    }

    /// Bans a user, or hides him, or not any more.
    pub fn set_standing(&mut self, user: usize, ban: bool, on: bool) {
        let account = &mut self.model.users[user];
        let certain = if ban { &mut account.banned } else { &mut account.hidden };
        if certain.asking {
            return;
        }
        (certain.known, certain.asking) = (None, true);
        let reason = "no reason".to_owned();
        let (operation, asked) = if ban {
            let ban = on.then_some(Ban { until_ms: u64::MAX, reason });
            (AccountOperation::Ban(ban), Asked::Ban { user, on })
        } else {
            (AccountOperation::Hide(on), Asked::Hide { user, on })
        };
        let user = self.model.names.user_id(user);
        self.ask(Operation::Account { user, operation }, asked);
    }

    /// Asks what there is.
    pub fn look(&mut self) {
        let version = self.model.version;
        if let Some(user) = self.some_user() {
            self.look_at_chats(user);
        }
        if let Some(group) = self.some_group() {
            let list = GroupOperation::List { after: None, limit: 1_000 };
            self.ask_group(group, list, Asked::Members { group, version });
        }
    }

    pub fn look_at_chats(&mut self, user: usize) {
        let version = self.model.version;
        let id = self.model.names.user_id(user);
        let chats = Operation::Chats { user: id, after: None, limit: 1_000 };
        self.ask(chats, Asked::Chats { user, version });
    }

    /// Whether a message that was taken was dropped by the rules when its time came.
    pub fn may_be_dropped(&self, intent: &Intent) -> bool {
        let place = intent.place.expect("it goes somewhere");
        match place {
            Place::Group(_) => {
                let recs = &self.model.log(place).recs;
                recs.iter().any(|rec| !rec.members.has(intent.user) && rec.sort == Sort::Event)
            }
            Place::Pair(low, high) => {
                let other = if intent.user == low { high } else { low };
                self.model.blocks.contains_key(&(other, intent.user))
            }
            _ => false,
        }
    }

    /// Nothing more is late: events that wait for a stalled client happen now.
    pub fn wake_readers(&mut self) {
        let conns: Vec<ConnId> = self.net.conns.keys().copied().collect();
        for conn in conns {
            let at = self.net.conns.get_mut(&conn).expect("listed above");
            let waiting = at.waiting();
            at.stalled_until = 0;
            (0..waiting).for_each(|_| self.later(self.now.mono_us, Event::ToClient(conn)));
        }
    }
}

fn known_or_asking(group: &crate::model::Group) -> bool {
    group.asking || group.durable.is_some()
}
