//! Connections of this shard: what their frames ask for and what they are told.

use bytes::Bytes;

use crate::command::{Action, Command, Origin, Outcome};
use crate::dialect::Class;
use crate::dialect::imboy::{self, AckKind, Frame, Undecodable};
use crate::error::Refusal;
use crate::event::{Close, CloseHow, Effects, Routed};
use crate::ids::{ConnId, ConvKind, Conversation, Dialect, GroupId, UserId};
use crate::limits::UNDECODABLE_MAX;
use crate::session::LoginFault;
use crate::shard::timers::Timer;
use crate::shard::users::UserRef;
use crate::shard::{Shard, write_frame};

/// The connections, by their index.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Vec<Option<Session>>,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: ConnId,
    pub(crate) dialect: Dialect,
    /// Requests taken and not answered.
    pub(crate) requests: u32,
    /// Undecodable frames in a row.
    undecodable: u8,
    pub(crate) state: State,
    /// Nothing may be written to it before this turn is durable: its `101` waits for it.
    pub(crate) turn: u64,
    /// How far the reminder of a token past its time has got.
    pub(crate) refresh: Refresh,
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

    pub(crate) fn insert(&mut self, conn: ConnId, dialect: Dialect, state: State) {
        let index = conn.index as usize;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        let refresh = Refresh::Quiet;
        let session =
            Session { conn, dialect, requests: 0, undecodable: 0, state, turn: 0, refresh };
        let former = self.table[index].replace(session);
        assert!(former.is_none(), "an index is reused after `Closed`");
    }

    pub(crate) fn remove(&mut self, conn: ConnId) -> Option<Session> {
        self.get(conn)?;
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
        self.count_undecodable(conn, &frame, effects);
        let session = self.sessions.get(conn).expect("looked up by the caller");
        match (frame, session.state) {
            (_, State::Closing) => {}
            (Ok(Frame::Ping), _) => {
                let outputs = self.out(effects, session.turn);
                write_frame(outputs, conn, |out| out.extend_from_slice(imboy::PONG));
            }
            (Ok(Frame::Logout), _) => self.close(conn, 1000, "", effects),
            (Ok(Frame::Ack { id, .. }), State::Refused) => self.refresh_acked(conn, id),
            (Ok(Frame::Ack { kind, id, device }), State::Live { user, device: index }) => {
                self.imboy_ack(conn, kind, id, device, user, index, effects);
            }
            (
                Ok(Frame::Send { group, id, to, sender_ms, payload }),
                State::Live { user, device },
            ) => {
                let owner = self.users.get(user).expect("a live connection holds its user");
                let place = if group {
                    GroupId::parse(&to).map(Conversation::Group).ok_or(Refusal::NoSuchGroup)
                } else {
                    let to = UserId::parse(&to).ok_or(Refusal::NoSuchUser);
                    to.map(|to| Conversation::private(&owner.id, &to))
                };
                let content = Bytes::copy_from_slice(&bytes[payload]);
                let send = Action::Send { sender_ms, content, copies: false };
                match place {
                    Ok(place) => self.request(conn, user, device, place, id, send, effects),
                    // What cannot be an id is nobody's.
                    Err(refusal) => self.refuse(conn, refusal, Some(&id), 0, effects),
                }
            }
            // A client that speaks before its login is through, or after it failed, gets what the
            // login gets; nothing of the account is touched.
            (Ok(_), State::Opening { .. } | State::Refused) => {}
            (Err(Undecodable { refusal, id }), _) => {
                self.refuse(conn, refusal, id.as_deref(), 0, effects);
            }
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
            return self.refuse(conn, refusal, None, 0, effects);
        }
        match kind {
            AckKind::C2c => self.acknowledge(user, index, Class::Private, id, effects),
            AckKind::C2g => self.acknowledge(user, index, Class::Group, id, effects),
            AckKind::S2c => {
                self.acknowledge(user, index, Class::Event, id, effects);
                self.refresh_acked(conn, id);
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
        conversation: Conversation,
        client_id: compact_str::CompactString,
        mut action: Action,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("a live connection holds its user");
        let (sender, own) = (owner.id.clone(), &owner.devices[device as usize].id);
        let Action::Send { content, copies, .. } = &mut action;
        let dialects = &self.config.dialects;
        *copies = owner.devices.iter().any(|other| {
            other.id != *own
                && !other.gone
                && dialects.delivery(other.id.dialect).echo_to_own_devices
        });
        let content_bytes = content.len();
        let device = own.clone();
        let key = conversation.key(self.config.secret);
        let origin = Origin { shard: self.config.shard, conn };
        let command = Command { origin, conversation, key, sender, device, client_id, action };
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
        if let Ok(stored) = outcome.result
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
            Ok(stored) => write_frame(self.out(effects, turn), outcome.conn, |out| {
                let group = outcome.kind == ConvKind::Group;
                imboy::write_server_ack(group, &outcome.client_id, stored.time_ms, out);
            }),
            Err(refusal) => {
                let wall_ms = self.now.wall_ms;
                if let (Dialect::Imboy, Some(to)) = (session.dialect, &outcome.refused_to) {
                    let id = &outcome.client_id;
                    return write_frame(self.out(effects, turn), outcome.conn, |out| {
                        imboy::write_unwanted(refusal, id, to.as_str(), wall_ms, out);
                    });
                }
                self.refuse(outcome.conn, refusal, Some(&outcome.client_id), turn, effects);
            }
        }
    }

    /// The dialect's error answer.
    fn refuse(
        &mut self,
        conn: ConnId,
        refusal: Refusal,
        id: Option<&str>,
        turn: u64,
        effects: &mut Effects,
    ) {
        let wall_ms = self.now.wall_ms;
        let Some(session) = self.sessions.get(conn) else { return };
        if session.state == State::Closing {
            return;
        }
        let outputs = self.out(effects, turn.max(session.turn));
        match session.dialect {
            Dialect::Imboy => write_frame(outputs, conn, |out| {
                imboy::write_refusal(refusal, id, wall_ms, out);
            }),
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
        write_frame(outputs, conn, |out| imboy::write_refresh_token(to, wall_ms, out));
    }

    /// The reminder was acknowledged: a refused connection is closed soon, so that the client
    /// comes again with its new token; a live one stays.
    fn refresh_acked(&mut self, conn: ConnId, id: &str) {
        let now_ms = self.now_ms();
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if id != imboy::REFRESH_TOKEN || session.refresh != Refresh::Asked {
            return;
        }
        session.refresh = Refresh::Settled;
        if session.state == State::Refused {
            let timer = Timer::Refresh { conn, step: step::RECONNECT };
            self.timers.arm(now_ms + RECONNECT_MS, timer);
        }
    }
}
