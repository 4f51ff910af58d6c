//! Connections: what is on its way to and from clients. A connection is cut with what is on its way
//! lost from some message on; a message of which a part has come is none.

use std::collections::{BTreeMap, VecDeque};

use ringpost_core::event::CloseHow;
use ringpost_core::ids::{ConnId, DeviceId};
use ringpost_core::session::{Client, Hello, Login};
use ringpost_core::{Input, Now};

use crate::client::{Hear, Say, Speech};
use crate::deliveries::Stay;
use crate::model::Model;
use crate::world::{Event, FLUSH_US, STALL_US, World};

/// The answer to an upgrade: the shard writes what it is given.
const SWITCHING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";

/// A retry is late after this time without faults.
const OVERDUE_US: u64 = 2_500_000;

/// What comes to a client.
#[derive(Clone, Debug)]
enum Packet {
    Upgraded,
    Heard(Hear),
    Closed,
}

/// How the server sees a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Server {
    Open,
    /// The core has closed it.
    Closing,
    /// The core was told that it is gone.
    Gone,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    pub device: usize,
    pub speech: Speech,
    pub shard: usize,
    server: Server,
    stay: Stay,
    /// The client has it.
    pub open: bool,
    /// The client has the `101`.
    pub up: bool,
    /// The client reads nothing before.
    pub stalled_until: u64,
    to_client: VecDeque<(u64, Packet)>,
    to_server: VecDeque<(u64, Say)>,
    last_in: u64,
    /// What came and is not acknowledged yet.
    pub unacked: Vec<Say>,
}

#[derive(Debug, Default)]
pub struct Net {
    pub conns: BTreeMap<ConnId, Conn>,
    /// Indices that may be used again, with the next generation.
    free: Vec<ConnId>,
    next: u32,
    /// The connection that each device has, as its client sees it.
    pub of_device: BTreeMap<usize, ConnId>,
}

impl Net {
    pub fn shard(&self, conn: ConnId) -> Option<usize> {
        self.conns.get(&conn).map(|conn| conn.shard)
    }

    /// A device's connection, if it is upgraded.
    pub fn live(&self, device: usize) -> Option<ConnId> {
        let conn = *self.of_device.get(&device)?;
        self.conns.get(&conn).is_some_and(|conn| conn.up && conn.open).then_some(conn)
    }

    /// A record that a connected device has not acknowledged, and that was due again a while ago.
    pub fn overdue(&self, model: &Model, now_us: u64, calm_us: u64) -> Option<String> {
        let reads = |conn: &&Conn| conn.server == Server::Open && conn.up && conn.open;
        self.conns.values().filter(reads).find_map(|conn| {
            let due = model.due_again(conn.device, &conn.stay, conn.speech);
            due.filter(|(at_us, _)| (*at_us).max(calm_us) + OVERDUE_US < now_us)
                .map(|(at_us, what)| format!("{what} was due {} us ago", now_us - at_us))
        })
    }

    pub fn is_still(&self) -> bool {
        self.conns.values().all(|conn| conn.to_server.is_empty() && conn.to_client.is_empty())
    }

    /// A shard has made a write; the stay that it is in.
    pub fn emitted(&mut self, model: &mut Model, now: Now, conn: ConnId, bytes: &[u8]) -> u32 {
        let Some(conn) = self.conns.get_mut(&conn) else { return 0 };
        if let Some(text) = text_of(bytes) {
            let hear = conn.speech.decode(text);
            let (device, speech) = (conn.device, conn.speech);
            model.emitted(now.mono_us, device, &mut conn.stay, speech, &hear);
        }
        conn.stay.number
    }

    /// A write leaves; whether there is a connection for it.
    pub fn released(&mut self, model: &mut Model, id: ConnId, bytes: &[u8], stay: u32) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        if conn.server == Server::Gone {
            return false;
        }
        match text_of(bytes) {
            Some(text) => {
                let hear = conn.speech.decode(text);
                let fresh = stay == conn.stay.number;
                model.released(conn.device, &mut conn.stay, fresh, &hear);
            }
            None if bytes == SWITCHING => {
                let user = model.devices[conn.device].user;
                assert!(model.users[user].durable.is_some(), "{user} is not durable");
            }
            None => assert!(bytes.starts_with(b"HTTP/1.1 "), "an answer to the upgrade"),
        }
        true
    }

    /// The core closes a connection: it takes nothing from it any more.
    pub fn closing(&mut self, conn: ConnId) {
        if let Some(conn) = self.conns.get_mut(&conn)
            && conn.server == Server::Open
        {
            conn.server = Server::Closing;
        }
    }
}

impl World {
    /// A device connects.
    pub fn connect(&mut self, device: usize) {
        let (user, name) = {
            let device = &self.model.devices[device];
            (device.user, device.name.clone())
        };
        let account = &mut self.model.users[user];
        account.everybody_before.get_or_insert(self.model.everybody_answered);
        self.model.device_comes(device, self.now.mono_us);
        let id = match self.net.free.pop() {
            Some(ConnId { index, generation }) => ConnId { index, generation: generation + 1 },
            None => {
                self.net.next += 1;
                ConnId { index: self.net.next - 1, generation: 0 }
            }
        };
        let (shard, speech) = (self.home(user), Speech::Imboy);
        let conn = Conn {
            device,
            speech,
            shard,
            server: Server::Open,
            stay: Stay::default(),
            open: true,
            up: false,
            stalled_until: 0,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            last_in: 0,
            unacked: Vec::new(),
        };
        self.net.conns.insert(id, conn);
        self.net.of_device.insert(device, id);
        let login = Login {
            user: self.model.names.user_id(user),
            device: DeviceId { dialect: speech.dialect(), name: name.as_str().into() },
            expires_ms: self.now.wall_ms + 864_000_000,
            client: Client::default(),
        };
        let switching = SWITCHING.to_vec();
        let login = Ok(login);
        let hello = Box::new(Hello { dialect: speech.dialect(), switching, deflate: None, login });
        self.handle(shard, Input::Opened { conn: id, hello });
    }

    /// A client says something.
    pub fn say(&mut self, id: ConnId, say: Say) {
        let delay = 1 + self.delay(self.profile.net_us);
        let conn = self.net.conns.get_mut(&id).expect("it is open");
        let at = (self.now.mono_us + delay).max(conn.last_in);
        conn.last_in = at;
        conn.to_server.push_back((at, say));
        self.later(at, Event::ToServer(id));
    }

    pub(crate) fn arrive_at_server(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let Some((_, say)) = conn.to_server.front() else { return };
        if conn.server == Server::Gone {
            return;
        }
        let (shard, device) = (conn.shard, conn.device);
        if !self.takes(shard, id) && *say != Say::Ping {
            // Sockets are not read now.
            return self.later(self.now.mono_us + 1_000, Event::ToServer(id));
        }
        let conn = self.net.conns.get_mut(&id).expect("looked up above");
        let (_, say) = conn.to_server.pop_front().expect("looked at above");
        let mut bytes = conn.speech.encode(&say, &self.model.devices[device].name);
        if conn.server == Server::Open {
            match &say {
                Say::Ack { class, id: wire } => {
                    let by_us = self.now.mono_us + FLUSH_US + STALL_US;
                    self.model.acknowledged(device, &conn.stay, *class, wire, by_us);
                }
                Say::CheckOffline => conn.stay = conn.stay.next(),
                _ => {}
            }
        }
        self.digest.bytes(&bytes);
        self.handle(shard, Input::Message { conn: id, binary: false, bytes: &mut bytes });
    }

    pub(crate) fn send_to_client(&mut self, id: ConnId, bytes: &[u8]) {
        let packet = match text_of(bytes) {
            Some(text) => Packet::Heard(self.net.conns[&id].speech.decode(text)),
            None if bytes == SWITCHING => Packet::Upgraded,
            // A close follows.
            None => return,
        };
        self.packet(id, packet);
    }

    pub(crate) fn close_to_client(&mut self, id: ConnId, _how: CloseHow) {
        if self.net.conns.contains_key(&id) {
            self.packet(id, Packet::Closed);
        }
    }

    fn packet(&mut self, id: ConnId, packet: Packet) {
        let delay = 1 + self.delay(self.profile.net_us);
        let conn = self.net.conns.get_mut(&id).expect("looked up by the caller");
        if !conn.open {
            return;
        }
        let last = conn.to_client.back().map_or(0, |(at, _)| *at);
        let at = (self.now.mono_us + delay).max(last);
        conn.to_client.push_back((at, packet));
        self.later(at, Event::ToClient(id));
    }

    pub(crate) fn arrive_at_client(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if !conn.open || conn.to_client.is_empty() {
            return;
        }
        if conn.stalled_until > self.now.mono_us {
            let until = conn.stalled_until;
            return self.later(until, Event::ToClient(id));
        }
        let (_, packet) = conn.to_client.pop_front().expect("looked at above");
        self.receive(id, packet);
    }

    fn receive(&mut self, id: ConnId, packet: Packet) {
        let conn = self.net.conns.get_mut(&id).expect("looked up by the caller");
        let device = conn.device;
        match packet {
            Packet::Upgraded => {
                assert!(!std::mem::replace(&mut conn.up, true), "one answer to one upgrade");
            }
            Packet::Closed => self.client_lost(id),
            Packet::Heard(hear) => {
                assert!(conn.up, "the 101 comes first, not {hear:?}");
                self.model.heard(device, &hear);
                let Some(ack) = hear.ack() else { return };
                if self.random.percent(self.profile.acks_percent) {
                    self.say(id, ack.clone());
                    if self.random.percent(self.profile.acks_again_percent) {
                        self.say(id, ack);
                    }
                } else {
                    let conn = self.net.conns.get_mut(&id).expect("looked up above");
                    conn.unacked.push(ack);
                }
            }
        }
    }

    /// The client has no connection any more.
    fn client_lost(&mut self, id: ConnId) {
        let conn = self.net.conns.get_mut(&id).expect("looked up by the caller");
        (conn.open, conn.up) = (false, false);
        conn.to_client.clear();
        conn.unacked.clear();
        if self.net.of_device.get(&conn.device) == Some(&id) {
            self.net.of_device.remove(&conn.device);
        }
        if self.net.conns[&id].server == Server::Gone {
            self.forget(id);
        }
    }

    /// A connection is cut: of what is on its way, something may still arrive.
    pub fn cut(&mut self, id: ConnId) {
        let conn = &self.net.conns[&id];
        let (heard, said) = (conn.to_client.len() as u64, conn.to_server.len() as u64);
        for _ in 0..self.random.range(0, heard) {
            let Some(conn) = self.net.conns.get_mut(&id) else { return };
            match conn.to_client.pop_front() {
                Some((_, packet)) if conn.open => self.receive(id, packet),
                _ => break,
            }
        }
        let kept = self.random.range(0, said);
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.to_server.truncate(kept as usize);
        if conn.open {
            self.client_lost(id);
        }
        if !self.net.conns.contains_key(&id) {
            return;
        }
        let longest = if self.random.percent(50) { self.profile.net_us } else { 3_000_000 };
        let last = self.net.conns[&id].last_in;
        let at = (self.now.mono_us + self.delay(longest)).max(last);
        self.later(at, Event::Gone(id));
    }

    /// The driver tells the core that a connection is gone.
    pub(crate) fn gone(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if conn.server == Server::Gone {
            return;
        }
        let (device, shard) = (conn.device, conn.shard);
        let ended = conn.server == Server::Open && self.net.of_device.get(&device) != Some(&id);
        conn.server = Server::Gone;
        conn.to_server.clear();
        // What is on its way to the client still arrives.
        let came_again = self.net.of_device.contains_key(&device);
        if ended && !came_again {
            self.model.stay_ended(device, self.now.mono_us);
        }
        self.handle(shard, Input::Closed { conn: id });
        self.forget(id);
    }

    /// Its index may be used again once the client has lost it, too.
    fn forget(&mut self, id: ConnId) {
        if !self.net.conns[&id].open {
            self.net.conns.remove(&id);
            self.net.free.push(id);
        }
    }

    /// The process has ended, and every connection with it.
    pub(crate) fn crash_net(&mut self) {
        for id in self.net.conns.keys().copied().collect::<Vec<_>>() {
            let some = self.net.conns[&id].to_client.len() as u64;
            for _ in 0..self.random.range(0, some) {
                let Some(conn) = self.net.conns.get_mut(&id) else { break };
                match conn.to_client.pop_front() {
                    Some((_, packet)) if conn.open => self.receive(id, packet),
                    _ => break,
                }
            }
        }
        self.net.conns.clear();
        self.net.free.clear();
        self.net.of_device.clear();
    }
}

/// The payload of an unmasked text frame (RFC 6455 section 5.2); `None`: it is HTTP.
fn text_of(bytes: &[u8]) -> Option<&str> {
    if bytes.starts_with(b"HTTP/1.1 ") {
        return None;
    }
    assert_eq!(bytes[0], 0x81, "a whole text frame");
    let (len, start) = match bytes[1] {
        126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
        127 => (u64::from_be_bytes(bytes[2..10].try_into().expect("eight")) as usize, 10),
        short => (usize::from(short), 2),
    };
    assert_eq!(bytes.len(), start + len, "one frame is one write");
    Some(std::str::from_utf8(&bytes[start..]).expect("text frames are UTF-8"))
}

impl Conn {
    /// How many messages wait for the client to read.
    pub fn waiting(&self) -> usize {
        self.to_client.len()
    }
}
