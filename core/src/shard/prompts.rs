//! What the server tells one connection without storing it, again and again until it is
//! acknowledged or its times are over: that another device of the user has connected.
//!
//! At most [`PROMPTS_MAX`] wait for their acknowledgement; the oldest makes room. With the
//! connection they are gone.

use crate::dialect::imboy::s2c;
use crate::event::Effects;
use crate::ids::{ConnId, Dialect};
use crate::limits::PROMPTS_MAX;
use crate::shard::sessions::State;
use crate::shard::timers::Timer;
use crate::shard::users::UserRef;
use crate::shard::{Shard, write_frame};

/// One of them. The frame is kept: nothing else could make it again.
#[derive(Debug)]
pub(crate) struct Prompt {
    /// Under which it is acknowledged.
    id: &'static str,
    body: Box<[u8]>,
    first_ms: u64,
    /// How often it was sent again.
    tries: u8,
}

impl Prompt {
    fn due_ms(&self, retry_ms: &[u64]) -> Option<u64> {
        retry_ms.get(usize::from(self.tries)).map(|after| self.first_ms + after)
    }
}

impl Shard {
    /// Tells the user's other devices of this dialect that one has connected. `turn` makes that
    /// durable.
    pub(crate) fn tell_other_devices(
        &mut self,
        user: UserRef,
        conn: ConnId,
        turn: u64,
        effects: &mut Effects,
    ) {
        let session = self.sessions.get(conn).expect("it has just connected");
        let State::Live { device, .. } = session.state else { return };
        let dname = &session.client.platform;
        let owner = self.users.get(user).expect("a live connection holds its user");
        let new = &owner.devices[device as usize].id;
        if !self.config.dialects.delivery(new.dialect).tells_other_devices {
            return;
        }
        let others = owner.devices.iter().filter(|other| {
            !other.gone && other.id.dialect == new.dialect && other.id.name != new.name
        });
        let conns = others.filter_map(|other| other.live.as_ref()).flat_map(|live| &live.conns);
        let conns: Vec<ConnId> = conns.copied().collect();
        if conns.is_empty() {
            return;
        }
        let mut body = Vec::new();
        match new.dialect {
            Dialect::Imboy => {
                let settings = &self.config.dialects.imboy;
                let (to, did, wall_ms) = (owner.id.as_str(), &new.name, self.now.wall_ms);
                s2c::write_another_device(settings, to, did, dname, wall_ms, &mut body);
            }
        }
        for conn in conns {
            self.prompt(conn, s2c::ANOTHER_DEVICE, &body, turn, effects);
        }
    }

    fn prompt(
        &mut self,
        conn: ConnId,
        id: &'static str,
        body: &[u8],
        turn: u64,
        effects: &mut Effects,
    ) {
        let now_ms = self.now_ms();
        let session = self.sessions.get_mut(conn).expect("a device's connections are open");
        if session.prompts.len() >= PROMPTS_MAX {
            session.prompts.remove(0);
        }
        let prompt = Prompt { id, body: body.into(), first_ms: now_ms, tries: 0 };
        let times = &self.config.dialects.delivery(session.dialect).retries.another_device;
        if let Some(due_ms) = prompt.due_ms(times) {
            session.prompts.push(prompt);
            self.timers.arm(due_ms, Timer::Prompt { conn });
        }
        let turn = turn.max(session.turn);
        write_frame(self.out(effects, turn), conn, |out| out.extend_from_slice(body));
    }

    /// Some of a connection's may be due again.
    pub(crate) fn prompt_again(&mut self, conn: ConnId, effects: &mut Effects) {
        let (now_ms, durable) = (self.now_ms(), self.durable);
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.state == State::Closing {
            return;
        }
        let times = &self.config.dialects.delivery(session.dialect).retries.another_device;
        let held = session.turn > durable;
        let outputs = if held { &mut effects.held } else { &mut effects.now };
        let timers = &mut self.timers;
        session.prompts.retain_mut(|prompt| {
            if prompt.due_ms(times).is_some_and(|due_ms| due_ms <= now_ms) {
                prompt.tries += 1;
                write_frame(outputs, conn, |out| out.extend_from_slice(&prompt.body));
                if let Some(due_ms) = prompt.due_ms(times) {
                    timers.arm(due_ms.max(now_ms + 1), Timer::Prompt { conn });
                }
            }
            prompt.due_ms(times).is_some()
        });
    }

    /// The oldest with this id is acknowledged.
    pub(crate) fn prompt_acked(&mut self, conn: ConnId, id: &str) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if let Some(at) = session.prompts.iter().position(|prompt| prompt.id == id) {
            session.prompts.remove(at);
        }
    }
}
