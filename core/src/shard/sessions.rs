//! Connections of this shard: what their frames ask for and what they are told.

use bytes::Bytes;
use compact_str::CompactString;

use crate::command::{Action, Command, Done, Origin, Outcome};
use crate::dialect::Class;
use crate::dialect::imboy::{self, AckKind, Frame, Undecodable, s2c};
use crate::error::Refusal;
use crate::event::{Close, CloseHow, Effects, Routed};
use crate::ids::{ConnId, ConvKind, Dialect, UserId};
use crate::limits::UNDECODABLE_MAX;
use crate::rate::{Bucket, Strikes};
use crate::record::Kind;
use crate::session::{Client, LoginFault};
use crate::shard::prompts::Prompt;
use crate::shard::timers::Timer;
use crate::shard::users::UserRef;
use crate::shard::{Shard, write_frame};
use crate::ws::extensions::Window;

/// The connections, by their index.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Vec<Option<Session>>,
    /// How many of them negotiated compression.
    deflating: usize,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) dialect: Dialect,
    /// Its messages may leave compressed, within this window.
    pub(crate) deflate: Option<Window>,
    /// Requests taken and not answered.
    pub(crate) requests: u32,
    /// Undecodable frames in a row.
    undecodable: u8,
    /// Of requests.
    bucket: Bucket,
    strikes: Strikes,
    pub(crate) state: State,
    /// Nothing may be written to it before this turn is durable: its `101` waits for it.
    pub(crate) turn: u64,
    /// How far the reminder of a token past its time has got.
    pub(crate) refresh: Refresh,
    /// What the client says about itself.
    pub(crate) client: Client,
    /// What it was told and has not acknowledged.
    pub(crate) prompts: Vec<Prompt>,
}

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Its user is being loaded.
    Opening { user: UserRef },
    /// Logged in.
    Live { user: UserRef, device: u32 },
    /// The login failed; only the dialect's way of saying so happens here.
    Refused,
    /// A close is on its way; what still comes is ignored.
    Closing,
}

/// The reminder that a token is past its time (protocols/imboy.md, *Connect*).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refresh {
    /// Nothing was said.
    Quiet,
    /// Said, and not acknowledged.
    Asked,
    /// Acknowledged.
    Settled,
}

/// The steps of [`Timer::Refresh`].
pub(crate) mod step {
    pub(crate) const ASK: u8 = 0;
    pub(crate) const ASK_AGAIN: u8 = 1;
    pub(crate) const GIVE_UP: u8 = 2;
    pub(crate) const RECONNECT: u8 = 3;
}

const ASK_AGAIN_MS: u64 = 11_000;
const GIVE_UP_MS: u64 = 18_000;
const RECONNECT_MS: u64 = 5_000;

impl Sessions {
    pub(crate) fn get(&self, conn: ConnId) -> Option<&Session> {
        let session = self.table.get(conn.index as usize)?.as_ref();
        session.filter(|session| session.conn == conn)
    }

    pub(crate) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        let session = self.table.get_mut(conn.index as usize)?.as_mut();
        session.filter(|session| session.conn == conn)
    }

    /// Whether any connection negotiated compression.
    pub(crate) fn any_deflates(&self) -> bool {
        self.deflating > 0
    }

    pub(crate) fn insert(
        &mut self,
        conn: ConnId,
        dialect: Dialect,
        deflate: Option<Window>,
        state: State,
    ) {
        let index = conn.index as usize;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.deflating += usize::from(deflate.is_some());
        let session = Session {
            conn,
            dialect,
            deflate,
            requests: 0,
            undecodable: 0,
            bucket: Bucket::default(),
            strikes: Strikes::default(),
            state,
            turn: 0,
            refresh: Refresh::Quiet,
            client: Client::default(),
            prompts: Vec::new(),
        };
        let former = self.table[index].replace(session);
        assert!(former.is_none(), "an index is reused after `Closed`");
    }

    pub(crate) fn remove(&mut self, conn: ConnId) -> Option<Session> {
        let deflate = self.get(conn)?.deflate;
        self.deflating -= usize::from(deflate.is_some());
        self.table[conn.index as usize].take()
    }
}

impl Shard {
    /// A whole WebSocket message.
    pub(crate) fn message(
        &mut self,
        conn: ConnId,
        binary: bool,
        bytes: &mut [u8],
        effects: &mut Effects,
    ) {
        let session = self.sessions.get(conn).expect("the driver opened it");
        if session.state == State::Closing {
            return;
        }
        match session.dialect {
            Dialect::Imboy => self.imboy(conn, binary, bytes, effects),
        }
    }

    fn imboy(&mut self, conn: ConnId, binary: bool, bytes: &[u8], effects: &mut Effects) {
        let mut scratch = std::mem::take(&mut self.json);
        let frame = if binary {
            let refusal = Refusal::Malformed("binary frames are not understood");
            Err(Undecodable { refusal, id: None })
        } else {
            imboy::decode(bytes, &mut scratch)
        };
        self.json = scratch;
        if !frame.as_ref().is_ok_and(Frame::is_ack) && !self.may_ask(conn) {
            let id = match &frame {
                Ok(frame) => frame.id(),
                Err(undecodable) => undecodable.id.as_deref(),
            };
            return self.too_fast(conn, id, effects);
        }
        self.count_undecodable(conn, &frame, effects);
        let session = self.sessions.get(conn).expect("looked up by the caller");
        match (frame, session.state) {
            (_, State::Closing) => {}
            (Ok(Frame::Ping), _) => {
                let outputs = self.out(effects, session.turn);
                write_frame(outputs, conn, |out| out.extend_from_slice(imboy::PONG));
            }
            (Ok(Frame::Logout), _) => self.close(conn, 1000, "", effects),
            (Ok(Frame::CheckOffline), State::Live { user, device }) => {
                self.push_again(user, device, effects);
            }
            (Ok(Frame::Ack { id, .. }), State::Refused) => self.refresh_acked(conn, id),
            (Ok(Frame::Ack { kind, id, device }), State::Live { user, device: index }) => {
                self.imboy_ack(conn, kind, id, device, user, index, effects);
            }
            (
                Ok(Frame::Send { group, id, to, sender_ms, payload }),
                State::Live { user, device },
            ) => {
                let content = Bytes::copy_from_slice(&bytes[payload]);
                let kind = Kind::Message;
                let send = Action::Send {
                    kind,
                    sender_ms,
                    content,
                    copies: false,
                    mentions: None,
                    after_ms: 0,
                };
                self.request(conn, user, device, (group, &to), id, send, effects);
            }
            (Ok(Frame::Revoke { group, id, to }), State::Live { user, device }) => {
                let revoke = Action::Revoke { by_operator: false };
                self.request(conn, user, device, (group, &to), id, revoke, effects);
            }
            (Ok(Frame::RevokeAck { id }), State::Live { user, device }) => {
                self.acknowledge(user, device, Class::Event, &id, effects);
            }
            (Ok(Frame::Signal { id, to, members }), State::Live { user, device }) => {
                let signal = Action::Signal { content: members };
                self.request(conn, user, device, (false, &to), id, signal, effects);
            }
            // A client that speaks before its login is through, or after it failed, gets what the
            // login gets; nothing of the account is touched.
            (Ok(_), State::Opening { .. } | State::Refused) => {}
            (Err(Undecodable { refusal, id }), _) => {
                self.refuse(conn, refusal, id.as_deref(), None, 0, effects);
            }
        }
    }

    /// Whether the connection may make one more request.
    fn may_ask(&mut self, conn: ConnId) -> bool {
        let rate = self.config.rates.requests;
        let session = self.sessions.get_mut(conn).expect("looked up by the caller");
        session.bucket.take(rate, self.now.mono_us)
    }

    /// Refuses a request that came too fast; after many of them the connection ends.
    fn too_fast(&mut self, conn: ConnId, id: Option<&str>, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let session = self.sessions.get_mut(conn).expect("looked up by the caller");
        let too_many = session.strikes.add(&self.config.rates, now_ms);
        self.refuse(conn, Refusal::RateLimited, id, None, 0, effects);
        if too_many {
            self.close(conn, 1008, "over the rate limit", effects);
        }
    }

    /// After many undecodable frames in a row the connection ends; unknown types do not count.
    fn count_undecodable(
        &mut self,
        conn: ConnId,
        frame: &Result<Frame<'_>, Undecodable>,
        effects: &mut Effects,
    ) {
        let session = self.sessions.get_mut(conn).expect("looked up by the caller");
        match frame {
            Err(Undecodable { refusal: Refusal::Malformed(_), .. }) => session.undecodable += 1,
            _ => session.undecodable = 0,
        }
        if session.undecodable >= UNDECODABLE_MAX {
            self.close(conn, 1008, "too many undecodable frames", effects);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one frame and of its connection")]
    fn imboy_ack(
        &mut self,
        conn: ConnId,
        kind: AckKind,
        id: &str,
        device: &str,
        user: UserRef,
        index: u32,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("a live connection holds its user");
        if owner.devices[index as usize].id.name != device {
            let refusal = Refusal::Malformed("CLIENT_ACK for another device");
            return self.refuse(conn, refusal, None, None, 0, effects);
        }
        match kind {
            AckKind::C2c => self.acknowledge(user, index, Class::Private, id, effects),
            AckKind::C2g => self.acknowledge(user, index, Class::Group, id, effects),
            AckKind::S2c => {
                self.acknowledge(user, index, Class::Event, id, effects);
                self.refresh_acked(conn, id);
                self.prompt_acked(conn, id);
            }
            AckKind::Webrtc => {}
        }
    }

    /// Sends a command to its conversation's home.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request")]
    fn request(
        &mut self,
        conn: ConnId,
        user: UserRef,
        device: u32,
        (group, to): (bool, &str),
        client_id: CompactString,
        mut action: Action,
        effects: &mut Effects,
    ) {
        let (rate, now_us) = (self.config.rates.messages, self.now.mono_us);
        let owner = self.users.get_mut(user).expect("a live connection holds its user");
        let stores = matches!(action, Action::Send { .. });
        if stores && !owner.bucket.take(rate, now_us) {
            return self.too_fast(conn, Some(&client_id), effects);
        }
        let settings = &self.config.dialects.imboy;
        let Some((conversation, rival)) = settings.conversation(&owner.id, group, to) else {
            // What cannot be an id is nobody's.
            let refusal = if group { Refusal::NoSuchGroup } else { Refusal::NoSuchUser };
            return self.refuse(conn, refusal, Some(&client_id), None, 0, effects);
        };
        let (sender, own) = (owner.id.clone(), &owner.devices[device as usize].id);
        if let Action::Send { copies, .. } = &mut action {
            let dialects = &self.config.dialects;
            *copies = owner.devices.iter().any(|other| {
                other.id != *own
                    && !other.gone
                    && dialects.delivery(other.id.dialect).echo_to_own_devices
            });
        }
        let content_bytes = action.content_bytes();
        let device = own.clone();
        let key = conversation.key(self.config.secret);
        let origin = Origin::Conn { shard: self.config.shard, conn };
        let command =
            Command { origin, conversation, key, sender, device, client_id, rival, action };
        self.requests += 1;
        self.request_bytes += content_bytes;
        let session = self.sessions.get_mut(conn).expect("looked up by the caller");
        session.requests += 1;
        let turn = session.turn;
        let home = key.slot.shard(self.config.shards);
        if home == self.config.shard {
            self.command(command, effects);
        } else {
            // The home asks the log whether the sender exists.
            let routed = Routed::Command(Box::new(command));
            self.out(effects, turn).routes.push((home, routed));
        }
    }

    /// The outcome of a request that came from this shard.
    pub(crate) fn outcome(&mut self, outcome: Outcome, turn: u64, effects: &mut Effects) {
        self.requests -= 1;
        self.request_bytes -= outcome.content_bytes as usize;
        // In a group the sender's devices see the record go by like everybody's.
        if let Ok(Done::Stored(stored) | Done::Revoked(stored)) = outcome.result
            && outcome.kind == ConvKind::Private
        {
            let (sender, key) = (&outcome.sender, outcome.conversation);
            self.pass_own(sender, key, stored.seq, turn, effects);
        }
        let Some(session) = self.sessions.get_mut(outcome.conn) else { return };
        session.requests -= 1;
        if session.state == State::Closing {
            return;
        }
        let turn = turn.max(session.turn);
        match outcome.result {
            Ok(Done::Relayed) => {}
            Ok(Done::Revoked(stored)) => {
                let (group, id) = (outcome.kind == ConvKind::Group, &outcome.client_id);
                let (from, to) = (outcome.sender.as_str(), outcome.to.as_deref().unwrap_or(""));
                let settings = &self.config.dialects.imboy;
                write_frame(self.out(effects, turn), outcome.conn, |out| {
                    imboy::write_revoke_ack(settings, group, id, from, to, stored.time_ms, out);
                });
            }
            Ok(Done::Stored(stored)) => write_frame(self.out(effects, turn), outcome.conn, |out| {
                let group = outcome.kind == ConvKind::Group;
                imboy::write_server_ack(group, &outcome.client_id, stored.time_ms, out);
            }),
            Err(refusal) => {
                let (id, to) = (Some(&*outcome.client_id), outcome.to.as_deref());
                self.refuse(outcome.conn, refusal, id, to, turn, effects);
            }
        }
    }

    /// The dialect's error answer; `to` is whom the request was for, where that is refused.
    pub(crate) fn refuse(
        &mut self,
        conn: ConnId,
        refusal: Refusal,
        id: Option<&str>,
        to: Option<&str>,
        turn: u64,
        effects: &mut Effects,
    ) {
        let wall_ms = self.now.wall_ms;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.state == State::Closing {
            return;
        }
        let turn = turn.max(session.turn);
        if refusal == Refusal::Banned {
            // The close does not overtake it.
            session.turn = turn;
        }
        let dialect = session.dialect;
        let outputs = self.out(effects, turn);
        match dialect {
            Dialect::Imboy => write_frame(outputs, conn, |out| {
                let settings = &self.config.dialects.imboy;
                imboy::write_refusal(settings, refusal, id, to.unwrap_or(""), wall_ms, out);
            }),
        }
        if refusal == Refusal::Banned {
            self.close(conn, 4006, "banned", effects);
        }
    }

    /// Ends a connection with a close frame; its device is free at once.
    pub(crate) fn close(
        &mut self,
        conn: ConnId,
        code: u16,
        reason: &'static str,
        effects: &mut Effects,
    ) {
        self.detach(conn, effects);
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.state = State::Closing;
        let turn = session.turn;
        let how = CloseHow::Frame { code, reason };
        self.out(effects, turn).closes.push(Close { conn, how });
    }

    /// A failed login is told in the dialect's way.
    pub(crate) fn refuse_login(&mut self, conn: ConnId, fault: LoginFault, effects: &mut Effects) {
        let wall_ms = self.now.wall_ms;
        let outputs = &mut effects.now;
        write_frame(outputs, conn, |out| imboy::write_login_fault(fault, wall_ms, out));
        match fault {
            LoginFault::TokenInvalid => self.close(conn, 4006, "log in again", effects),
            LoginFault::SignatureWrong => self.close(conn, 1008, "get the newest app", effects),
            LoginFault::TokenExpired => self.refresh(conn, step::ASK, effects),
        }
    }

    /// The token of a live connection ends at `expires_ms`.
    pub(crate) fn arm_refresh(&mut self, conn: ConnId, expires_ms: u64) {
        let after = expires_ms.saturating_sub(self.now.wall_ms);
        let timer = Timer::Refresh { conn, step: step::ASK };
        self.timers.arm(self.now_ms().saturating_add(after), timer);
    }

    /// One step of the reminder.
    pub(crate) fn refresh(&mut self, conn: ConnId, now: u8, effects: &mut Effects) {
        let (wall_ms, now_ms) = (self.now.wall_ms, self.now_ms());
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let settled = session.refresh == Refresh::Settled;
        if session.state == State::Closing || (settled && now != step::RECONNECT) {
            return;
        }
        match now {
            step::RECONNECT => return self.close(conn, 4000, "come again", effects),
            step::GIVE_UP => return self.close(conn, 4006, "log in again", effects),
            step::ASK => {
                session.refresh = Refresh::Asked;
                for (step, after) in [(step::ASK_AGAIN, ASK_AGAIN_MS), (step::GIVE_UP, GIVE_UP_MS)]
                {
                    self.timers.arm(now_ms + after, Timer::Refresh { conn, step });
                }
            }
            _ => {}
        }
        let (state, turn) = (session.state, session.turn);
        let to = match state {
            State::Live { user, .. } => self.users.get(user).map(|user| user.id.clone()),
            _ => None,
        };
        let to = to.as_ref().map_or("", UserId::as_str);
        let outputs = self.out(effects, turn);
        let settings = &self.config.dialects.imboy;
        write_frame(outputs, conn, |out| s2c::write_refresh_token(settings, to, wall_ms, out));
    }

    /// The reminder was acknowledged: a refused connection is closed soon, so that the client
    /// comes again with its new token; a live one stays.
    fn refresh_acked(&mut self, conn: ConnId, id: &str) {
        let now_ms = self.now_ms();
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if id != s2c::REFRESH_TOKEN || session.refresh != Refresh::Asked {
            return;
        }
        session.refresh = Refresh::Settled;
        if session.state == State::Refused {
            let timer = Timer::Refresh { conn, step: step::RECONNECT };
            self.timers.arm(now_ms + RECONNECT_MS, timer);
        }
    }
}
