//! Signals: what is relayed to whoever is connected now and never stored (`webrtc_*`). The
//! conversation's home has checked that the sender may write to the receiver.
//!
//! Nothing makes room for a signal: on a link or to a connection that is behind it is dropped.

use crate::command::{Action, Command};
use crate::dialect::imboy;
use crate::event::{Effects, Signal, Write};
use crate::ids::{ConnId, DeviceId, Dialect};
use crate::shard::{Shard, frame};

impl Shard {
    /// Sends a permitted signal to its receiver's home. It shows the state of `turn`.
    pub(crate) fn relay(&mut self, command: &Command, turn: u64, effects: &mut Effects) {
        let Action::Signal { content } = &command.action else {
            unreachable!("only a signal is relayed");
        };
        // Notes to oneself have one member: a call between the user's own devices.
        let signal = Box::new(Signal {
            user: command.other().unwrap_or(&command.sender).clone(),
            sender: command.sender.clone(),
            device: command.device.clone(),
            content: content.clone(),
        });
        let home = signal.user.slot().shard(self.config.shards);
        if home == self.config.shard {
            self.signal(&signal, turn, effects);
        } else if let Some(routed) = self.links.offer_signal(home, signal) {
            self.out(effects, turn).routes.push((home, routed));
        }
    }

    /// A signal for a user of this shard.
    pub(crate) fn signal(&mut self, signal: &Signal, turn: u64, effects: &mut Effects) {
        let Some(owner) = self.users.find(signal.user.as_str()).and_then(|at| self.users.get(at))
        else {
            return;
        };
        let own = |device: &DeviceId| signal.user == signal.sender && *device == signal.device;
        let devices = owner
            .devices
            .iter()
            .filter(|device| device.id.dialect == signal.device.dialect && !own(&device.id));
        let conns = devices.filter_map(|device| device.live.as_ref()).flat_map(|live| &live.conns);
        let conns: Vec<ConnId> = conns.copied().collect();
        for held in [false, true] {
            let waits = |conn: &&ConnId| {
                let session = self.sessions.get(**conn).expect("a device's connections are open");
                (turn.max(session.turn) > self.durable) == held
            };
            let mut conns = conns.iter().filter(waits).peekable();
            if conns.peek().is_none() {
                continue;
            }
            let outputs = if held { &mut effects.held } else { &mut effects.now };
            let range = match signal.device.dialect {
                Dialect::Imboy => frame(outputs, |out| {
                    let (from, to) = (signal.sender.as_str(), signal.user.as_str());
                    let settings = &self.config.dialects.imboy;
                    imboy::write_signal(settings, &signal.content, from, to, out);
                }),
            };
            let writes = conns.map(|&conn| Write { conn, range: range.clone() });
            outputs.signals.extend(writes);
        }
    }
}
