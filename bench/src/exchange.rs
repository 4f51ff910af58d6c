//! A shard of the core with its users, driven as the server drives it, over a log that is nothing
//! but memory: what a private message and its acknowledgements cost without kernel and disk.
//!
//! Frames are masked as clients mask them and go through `ws`, dialect and shard; what the shard
//! writes is thrown away.

use ringpost_core::dialect::Settings;
use ringpost_core::event::{ConversationLoaded, Load, Loaded};
use ringpost_core::ids::{ConnId, DeviceId, Dialect, MessageId, ShardId, UserId};
use ringpost_core::rate::RateLimits;
use ringpost_core::relations::PrivatePolicy;
use ringpost_core::session::{Client, Hello, Login};
use ringpost_core::ws::frame::{Opcode, Role, encode_masked};
use ringpost_core::ws::message::{Event, Receiver};
use ringpost_core::{Effects, Input, Now, Shard, ShardConfig};

/// Bytes of a message's payload, a JSON text.
const PAYLOAD_BYTES: usize = 256;
/// A turn takes so long, in virtual time.
const TURN_US: u64 = 1_000;

/// Pairs of connected users on one shard.
pub struct Exchange {
    shard: Shard,
    now: Now,
    /// The open turn.
    open: Effects,
    /// The one before it, for its capacity.
    spare: Effects,
    /// By connection: two for each pair.
    receivers: Vec<Receiver>,
    /// A message of each connection to its partner, with a hole for the id.
    messages: Vec<Vec<u8>>,
    /// An acknowledgement of each connection, likewise.
    acknowledgements: Vec<Vec<u8>>,
    /// What comes from a socket.
    read: Vec<u8>,
    /// Messages so far.
    count: u32,
    /// Frames that the shard wrote.
    written: u64,
}

/// Where the id begins in a message and in an acknowledgement.
const MESSAGE_ID_AT: usize = br#"{"id":""#.len();
const ACK_ID_AT: usize = b"CLIENT_ACK,C2C,".len();
const NO_ID: &str = "00000000000000000000";

impl Exchange {
    /// Connects `pairs` of users and settles.
    pub fn new(pairs: u32) -> Exchange {
        let config = ShardConfig {
            shard: ShardId(0),
            shards: 1,
            secret: 7,
            node: [1, 2, 3],
            id_leased: 0,
            auto_create_users: true,
            revoke_within_ms: 0,
            private_policy: PrivatePolicy::default(),
            strangers_over_groups: false,
            presence_quiet_ms: 0,
            deflate_level: 1,
            dialects: Settings::default(),
            rates: RateLimits::default(),
        };
        let text = "x".repeat(PAYLOAD_BYTES - r#"{"msg_type":"text","text":""}"#.len());
        let message = |to: u32| {
            format!(
                r#"{{"id":"{NO_ID}","type":"C2C","to":"user-{to}","payload":{{"msg_type":"text","text":"{text}"}}}}"#
            )
        };
        let users = 0..2 * pairs;
        let mut exchange = Exchange {
            shard: Shard::new(config),
            now: Now { mono_us: 1, wall_ms: 1_700_000_000_000 },
            open: Effects { turn: 1, ..Effects::default() },
            spare: Effects::default(),
            receivers: users.clone().map(|_| Receiver::new(Role::Server)).collect(),
            messages: users.clone().map(|user| message(user ^ 1).into_bytes()).collect(),
            acknowledgements: users
                .clone()
                .map(|user| format!("CLIENT_ACK,C2C,{NO_ID},device-{user}").into_bytes())
                .collect(),
            read: Vec::new(),
            count: 0,
            written: 0,
        };
        exchange.input(Input::Tick);
        exchange.commit();
        for user in users {
            let login = Login {
                user: UserId::parse(&format!("user-{user}")).expect("a valid id"),
                device: DeviceId {
                    dialect: Dialect::Imboy,
                    name: format!("device-{user}").as_str().into(),
                },
                expires_ms: u64::MAX,
                client: Client::default(),
            };
            let switching = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
            let hello = Box::new(Hello {
                dialect: Dialect::Imboy,
                switching,
                deflate: None,
                login: Ok(login),
            });
            exchange.input(Input::Opened { conn: conn(user), hello });
        }
        // The connects, what they write, and what follows from that being durable.
        for _ in 0..3 {
            exchange.commit();
        }
        exchange.written = 0;
        exchange
    }

    /// One turn: `messages` private messages, each of another pair, made durable; then their
    /// deliveries are acknowledged. Receipts and deliveries must all have been written.
    pub fn turn(&mut self, messages: u32) {
        let first = self.count;
        let before = self.written;
        for number in first..first + messages {
            let (sender, id) = self.next(number);
            self.messages[sender][MESSAGE_ID_AT..][..id.len()].copy_from_slice(&id);
            self.frame(sender, false);
        }
        self.commit();
        assert_eq!(self.written - before, 2 * u64::from(messages), "a receipt and a delivery each");
        for number in first..first + messages {
            let (sender, id) = self.next(number);
            let receiver = sender ^ 1;
            self.acknowledgements[receiver][ACK_ID_AT..][..id.len()].copy_from_slice(&id);
            self.frame(receiver, true);
        }
        self.count += messages;
    }

    /// Sender and id of a message. Both users of a pair send, in turn.
    fn next(&self, number: u32) -> (usize, [u8; 20]) {
        let mut id = [9u8; 12];
        id[8..].copy_from_slice(&number.to_be_bytes());
        (number as usize % self.messages.len(), MessageId(id).to_xid())
    }

    /// A frame comes from a client.
    fn frame(&mut self, from: usize, acknowledgement: bool) {
        let text = if acknowledgement { &self.acknowledgements } else { &self.messages };
        self.read.clear();
        encode_masked(Opcode::Text, &text[from], [1, 2, 3, 4], &mut self.read);
        let (_, event) = self.receivers[from].step(&mut self.read).expect("a valid frame");
        let Some(Event::Message { binary, mut bytes }) = event else { panic!("a whole message") };
        let conn = conn(from as u32);
        assert!(self.shard.takes(conn));
        let input = Input::Message { conn, binary, bytes: &mut bytes };
        drive(&mut self.shard, self.now, &mut self.open, input);
    }

    fn input(&mut self, input: Input<'_>) {
        drive(&mut self.shard, self.now, &mut self.open, input);
    }

    /// The open turn is handed to the log and durable; what it held leaves.
    fn commit(&mut self) {
        let turn = self.open.turn;
        self.spare.clear();
        self.spare.turn = turn + 1;
        std::mem::swap(&mut self.open, &mut self.spare);
        self.written += (self.spare.now.writes.len() + self.spare.held.writes.len()) as u64;
        self.now.mono_us += TURN_US;
        self.now.wall_ms += TURN_US / 1_000;
        self.input(Input::Durable { turn });
        self.input(Input::Tick);
    }
}

/// Gives the shard an input, and the answers to what it asks of the log.
fn drive(shard: &mut Shard, now: Now, open: &mut Effects, input: Input<'_>) {
    shard.handle(now, input, open);
    while let Some((id, load)) = open.loads.pop() {
        shard.handle(now, Input::Loaded { id, loaded: answer(&load) }, open);
    }
}

fn conn(user: u32) -> ConnId {
    ConnId { index: user, generation: 0 }
}

/// The log of a store in which nothing was before, and nothing is ever read again.
fn answer(load: &Load) -> Loaded {
    match load {
        Load::Conversation { .. } => Loaded::Conversation(Box::new(ConversationLoaded {
            exists: [true; 2],
            ..ConversationLoaded::default()
        })),
        Load::Dedup { .. } => Loaded::Dedup(None),
        Load::User { .. } => Loaded::User(Box::default()),
        Load::Inbox { .. } => Loaded::Inbox(Vec::new()),
        Load::Memberships { .. } => Loaded::Memberships(Vec::new()),
        Load::Cursors { .. } => Loaded::Cursors(Vec::new()),
        Load::Relations { .. } => Loaded::Relations(Vec::new()),
        Load::Owed { .. } => Loaded::Owed(Vec::new()),
        Load::DueKeys { .. } => Loaded::DueKeys(Vec::new()),
        other => panic!("private messages that are delivered live need no {other:?}"),
    }
}
