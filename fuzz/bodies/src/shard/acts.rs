//! What happens in a history: one act for each byte, and a few more for its details.

use std::borrow::Cow;

use ringpost_core::account::{AccountOperation, Ban};
use ringpost_core::command::{Action, GroupOperation, Mentioned, NoticeOperation};
use ringpost_core::event::{JoinPolicy, MemberRole, Operation, Post};
use ringpost_core::happened::Happened;
use ringpost_core::ids::Conversation;
use ringpost_core::record::Kind;
use ringpost_core::relations::{RelationOperation, Terms};

use super::{DEVICES, GROUP, History, Key, TIME_MAX_MS, USERS, group_id, user_id};

impl History<'_> {
    fn who(&mut self) -> Key {
        let byte = usize::from(self.choices.byte());
        (byte % USERS.len(), byte / USERS.len() % DEVICES.len())
    }

    /// The next act.
    pub fn act(mut self) -> Self {
        match self.choices.byte() % 32 {
            0..4 => {
                let key = self.who();
                self.connect(key);
            }
            4 | 5 => {
                let key = self.who();
                let device = self.devices.get_mut(&key);
                if let Some(conn) = device.and_then(|device| device.conn.take()) {
                    self.devices.get_mut(&key).expect("known").open.clear();
                    self.world.disconnect(conn);
                }
            }
            6..11 => self.send_private(),
            11..13 => self.send_group(),
            13..16 => {
                let (key, most) = (self.who(), 1 + self.choices.below(8));
                self.acknowledge(key, most);
            }
            16 => {
                let key = self.who();
                self.say(key, "check_offline_msg");
            }
            17..19 => self.pass(),
            19 | 20 => {
                let flows = self.choices.byte();
                self.set_flows([flows & 1 == 0, flows & 2 == 0, flows & 4 == 0]);
            }
            21 => {
                let shard = self.choices.below(usize::from(self.world.shards()));
                let _ = self.world.commit(shard) | self.world.answer_load(shard);
                self.world.carry();
                self.world.settle();
            }
            22 => return self.crash(),
            23 => {
                let low = self.choices.byte() & 1 != 0;
                self.world.space(low);
            }
            24 => self.change_group(),
            25 => self.post(),
            26 => self.ask_something(),
            27 => {
                let key = self.who();
                self.say(key, "ping");
            }
            rough if self.gentle => {
                // So that a history can be made gentle by one bit and stay the same otherwise.
                let _ = (rough, self.who());
            }
            28 => self.account(),
            29 => self.relation(),
            30 => self.revoke(),
            _ => self.raw(),
        }
        self
    }

    fn send_private(&mut self) {
        let (key, to) = (self.who(), self.choices.below(USERS.len()));
        let number = self.number(key.0);
        let conversation = Conversation::private(&user_id(key.0), &user_id(to));
        self.send(key, "C2C", USERS[to], number, conversation, to);
    }

    fn send_group(&mut self) {
        let key = self.who();
        let number = self.number(key.0);
        self.send(key, "C2G", GROUP, number, Conversation::Group(group_id()), 0);
    }

    /// Each user's own, and few, so that there are resends.
    fn number(&mut self, user: usize) -> u64 {
        (user * 64 + self.choices.below(64)) as u64
    }

    fn send(
        &mut self,
        key: Key,
        kind: &str,
        to: &str,
        number: u64,
        conversation: Conversation,
        receiver: usize,
    ) {
        let group = matches!(conversation, Conversation::Group(_));
        // A user's number is one message, whoever it is for.
        let id =
            if group { format!("g{number}") } else { format!("m{}", number * 4 + receiver as u64) };
        let n = if group { number } else { number * 4 + receiver as u64 };
        let size = self.choices.below(4) * 100;
        let frame = serde_json::json!({
            "id": id, "type": kind, "to": to, "payload": {"n": n, "text": "x".repeat(size)},
        });
        let place = (conversation.key(self.world.secret()), receiver);
        if let Some(conn) = self.speaker(key) {
            self.sent.entry((key.0, id)).or_default().insert(place);
            self.world.say(conn, &frame.to_string());
        }
    }

    fn pass(&mut self) {
        let ms = [1, 30, 150, 1_100, 6_000][self.choices.below(5)];
        let ms = ms.min(TIME_MAX_MS - self.passed_ms);
        self.passed_ms += ms;
        self.world.advance_ms(ms);
    }

    fn crash(mut self) -> Self {
        self.collect();
        let shards = 1 + self.choices.below(4) as u16;
        self.world = self.world.crash(shards);
        self.flows = [true; 3];
        for device in self.devices.values_mut() {
            device.conn = None;
            device.open.clear();
        }
        self
    }

    fn ask(&mut self, operation: Operation) {
        // Nobody waits for the answer; it may come late, or never.
        let _ = self.world.ask(operation);
    }

    fn change_group(&mut self) {
        let (user, other) = (self.choices.below(USERS.len()), self.choices.below(USERS.len()));
        let (user, other) = (user_id(user), user_id(other));
        let operation = match self.choices.below(8) {
            0 | 1 => GroupOperation::Create {
                owner: user,
                members: vec![other],
                join_policy: JoinPolicy::Open,
                profile: "{}".to_owned(),
            },
            2 | 3 => GroupOperation::Add { users: vec![user, other], by: None },
            4 => GroupOperation::Remove { user, by: None },
            5 => GroupOperation::ChangeMember {
                user,
                alias: Some("al".to_owned()),
                description: None,
                role: Some([MemberRole::Member, MemberRole::Admin][self.choices.below(2)]),
            },
            6 => GroupOperation::List { after: None, limit: 10 },
            _ => GroupOperation::Dissolve { by: None },
        };
        self.ask(Operation::Group { group: group_id(), operation });
    }

    /// A message of the HTTP API, perhaps for later.
    fn post(&mut self) {
        let (from, to) = (self.choices.below(USERS.len()), self.choices.below(USERS.len()));
        let conversation = match self.choices.below(3) {
            0 => Conversation::Group(group_id()),
            _ => Conversation::private(&user_id(from), &user_id(to)),
        };
        let everybody = self.choices.byte() & 1 != 0;
        let mentions = Mentioned { users: vec![user_id(to)], everybody };
        let action = Action::Send {
            kind: Kind::Neutral,
            sender_ms: None,
            content: br#"{"kind":"text","text":"hi"}"#.to_vec().into(),
            copies: false,
            mentions: Some(Box::new(mentions)),
            after_ms: [0, 0, 50, 2_000][self.choices.below(4)],
        };
        let client_id = format!("p{}", self.choices.below(16)).into();
        let post = Post { conversation, sender: user_id(from), client_id, action };
        self.ask(Operation::Post(Box::new(post)));
    }

    fn ask_something(&mut self) {
        let (user, other) = (self.choices.below(USERS.len()), self.choices.below(USERS.len()));
        let conversation = Conversation::private(&user_id(user), &user_id(other));
        let user = user_id(user);
        let operation = match self.choices.below(8) {
            0 | 1 => Operation::Chats { user, after: None, limit: 5 },
            2 | 3 => {
                let seq = self.choices.below(40) as u64;
                Operation::Read { user, conversation, seq }
            }
            4 => Operation::PutUser { user, profile: r#"{"name":"N"}"#.to_owned() },
            5 => Operation::GetUser { user },
            6 => {
                let notice = Box::new(notice(self.choices.below(4)));
                Operation::Notice { user, notice }
            }
            _ => Operation::NoticeToAll { notice: Box::new(notice(self.choices.below(4))) },
        };
        self.ask(operation);
    }

    fn account(&mut self) {
        let user = user_id(self.choices.below(USERS.len()));
        let other = user_id(self.choices.below(USERS.len()));
        let ban = Ban { until_ms: 0, reason: "because".to_owned() };
        let operation = match self.choices.below(8) {
            0 => AccountOperation::Kick { device: None },
            1 => AccountOperation::Ban(Some(ban)),
            2 | 3 => AccountOperation::Ban(None),
            4 => AccountOperation::Hide(self.choices.byte() & 1 != 0),
            5 => AccountOperation::Connections,
            6 => AccountOperation::Presence,
            _ => AccountOperation::Cancel { heir: Some(other) },
        };
        self.ask(Operation::Account { user, operation });
    }

    fn relation(&mut self) {
        let from = self.choices.below(USERS.len());
        let to = (from + 1 + self.choices.below(USERS.len() - 1)) % USERS.len();
        let (from, to) = (user_id(from), user_id(to));
        let terms = Terms { message: "hello".to_owned(), ..Terms::default() };
        let operation = match self.choices.below(6) {
            0 | 1 => RelationOperation::Ask { from, to, terms },
            2 => RelationOperation::Accept { from, to, terms },
            3 => RelationOperation::Reject { from, to },
            4 => RelationOperation::End { one: from, other: to },
            _ => RelationOperation::Block { by: from, other: to, on: self.choices.byte() & 1 != 0 },
        };
        self.ask(Operation::Relation(Box::new(operation)));
    }

    fn revoke(&mut self) {
        let (key, to) = (self.who(), self.choices.below(USERS.len()));
        let number = self.number(key.0);
        let group = self.choices.byte() & 1 != 0;
        let (kind, id, to) = match group {
            true => ("C2G_REVOKE", format!("g{number}"), GROUP),
            false => ("C2C_REVOKE", format!("m{}", number * 4 + to as u64), USERS[to]),
        };
        let frame = serde_json::json!({"id": id, "type": kind, "to": to});
        self.say(key, &frame.to_string());
    }

    /// Any text frame.
    fn raw(&mut self) {
        let (key, len) = (self.who(), usize::from(self.choices.byte()));
        let text: Cow<'_, str> = String::from_utf8_lossy(self.choices.take(len));
        let text = text.into_owned();
        self.say(key, &text);
    }
}

fn notice(id: usize) -> NoticeOperation {
    let happened = Happened::Noticed {
        stream: String::new(),
        kind: "news".to_owned(),
        title: String::new(),
        content: "{}".to_owned(),
        data: None,
    };
    let mut content = Vec::new();
    happened.encode(&mut content);
    NoticeOperation { id: format!("n{id}").into(), content: content.into() }
}
