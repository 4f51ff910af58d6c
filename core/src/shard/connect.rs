//! Connections come to their user and leave: loading the user, registering devices, answering the
//! upgrade.

use std::collections::VecDeque;

use crate::error::HttpRefusal;
use crate::event::{
    Close, CloseHow, DeviceRow, Effects, Entry, Load, Outputs, UserLoaded, UserRow, Write,
};
use crate::ids::{ConnId, DeviceId, UserId};
use crate::limits::{DEVICE_FORGOTTEN_MS, DEVICE_SEEN_MS, USER_CONNECTIONS_MAX, USER_DEVICES_MAX};
use crate::session::{Hello, Login, LoginFault};
use crate::shard::sessions::State;
use crate::shard::users::{Device, Live, UserRef, Waiter};
use crate::shard::{Shard, Waiting};
use crate::ws::handshake;

impl Shard {
    /// A connection has come to its user's home (or, refused, to any shard).
    pub(crate) fn opened(&mut self, conn: ConnId, hello: Box<Hello>, effects: &mut Effects) {
        let (dialect, deflate) = (hello.dialect, hello.deflate);
        match &hello.login {
            Err(fault) => {
                let fault = *fault;
                self.sessions.insert(conn, dialect, deflate, State::Refused);
                write_bytes(&mut effects.now, conn, &hello.switching);
                self.refuse_login(conn, fault, effects);
            }
            Ok(login) => {
                let user = self.user(&login.user, effects);
                self.sessions.insert(conn, dialect, deflate, State::Opening { user });
                self.wait_for_user(user, Waiter::Connection(conn, hello), effects);
            }
        }
    }

    /// The user in memory, loading it if it is cold.
    pub(crate) fn user(&mut self, id: &UserId, effects: &mut Effects) -> UserRef {
        self.users.find(id.as_str()).unwrap_or_else(|| {
            let user = self.users.insert(id.clone());
            self.load(Waiting::User { user }, Load::User { user: id.clone() }, effects);
            user
        })
    }

    pub(crate) fn wait_for_user(&mut self, user: UserRef, waiter: Waiter, effects: &mut Effects) {
        let owner = self.users.get_mut(user).expect("found or made by the caller");
        owner.waiting.push_back(waiter);
        if !owner.loading {
            self.serve_waiters(user, effects);
        }
    }

    pub(crate) fn user_loaded(&mut self, user: UserRef, loaded: UserLoaded, effects: &mut Effects) {
        let wall_ms = self.now.wall_ms;
        let owner = self.users.get_mut(user).expect("what is loading is not forgotten");
        owner.row = loaded.row;
        owner.loading = false;
        owner.devices.reserve_exact(loaded.devices.len());
        for (id, row) in loaded.devices {
            if row.seen_ms + DEVICE_FORGOTTEN_MS < wall_ms {
                let user = owner.id.clone();
                effects.entries.push(Entry::DeviceGone { user, device: id });
                owner.turn = effects.turn;
            } else {
                owner.devices.push(Device { id, row, gone: false, live: None });
            }
        }
        self.serve_waiters(user, effects);
    }

    pub(crate) fn serve_waiters(&mut self, user: UserRef, effects: &mut Effects) {
        if !self.serves(user) {
            return;
        }
        while let Some(owner) = self.users.get_mut(user)
            && let Some(waiter) = owner.waiting.pop_front()
        {
            match waiter {
                Waiter::Connection(conn, hello) => self.attach(user, conn, *hello, effects),
                Waiter::Control(id, operation) => self.perform(user, id, operation, effects),
            }
        }
        // A connected user keeps nothing of its wait.
        if let Some(owner) = self.users.get_mut(user)
            && owner.waiting.is_empty()
        {
            owner.waiting = VecDeque::new();
        }
        self.leave_if_idle(user);
    }

    /// A connection gets its user: the upgrade is answered here, one way or the other.
    fn attach(&mut self, user: UserRef, conn: ConnId, hello: Hello, effects: &mut Effects) {
        let Hello { dialect, switching, login, .. } = hello;
        let Ok(Login { device, expires_ms, client, .. }) = login else {
            unreachable!("only a login is brought to a user")
        };
        let (wall_ms, began) = (self.now.wall_ms, self.beginning());
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let refused = match &owner.row {
            Some(row) => row.standing.refuses(wall_ms),
            None => !self.config.auto_create_users,
        };
        if refused {
            self.set_state(conn, State::Refused, 0);
            write_bytes(&mut effects.now, conn, &switching);
            return self.refuse_login(conn, LoginFault::TokenInvalid, effects);
        }
        if owner.row.is_none() && self.space_low {
            // Users who are there already connect and read; a new device of theirs is a small row.
            return self.refuse_upgrade(conn, HttpRefusal::Unavailable, effects);
        }
        if owner.row.is_none() {
            let profile = "{}".to_owned();
            let row = UserRow { created_ms: wall_ms, profile, began, ..UserRow::default() };
            owner.row = Some(row.clone());
            owner.turn = effects.turn;
            effects.entries.push(Entry::User { user: owner.id.clone(), row });
        }
        // Counted from here on: the user is not forgotten while an old connection is replaced.
        owner.connections += 1;
        let replaced = self.config.dialects.delivery(dialect).replaced_close;
        if let Some(code) = replaced {
            self.replace_connections(user, &device, code, effects);
        }
        let owner = self.users.get_mut(user).expect("it has a connection");
        if owner.connections > USER_CONNECTIONS_MAX {
            owner.connections -= 1;
            return self.refuse_upgrade(conn, HttpRefusal::TooManyConnections, effects);
        }
        let (index, new) = self.register(user, device, effects);
        self.epoch = self.epoch.wrapping_add(1);
        let owner = self.users.get_mut(user).expect("looked up above");
        // The 101 leaves with the open turn if anything of the user is not durable yet.
        let turn = if owner.turn > self.durable { effects.turn } else { 0 };
        let device = &mut owner.devices[index as usize];
        match &mut device.live {
            Some(live) => live.conns.push(conn),
            None => {
                let live = Live::new(conn, self.epoch, wall_ms, new, turn);
                device.live = Some(Box::new(live));
            }
        }
        let first = device.live.as_ref().is_some_and(|live| live.epoch == self.epoch);
        self.set_state(conn, State::Live { user, device: index }, turn);
        self.sessions.get_mut(conn).expect("a waiting connection is still open").client = client;
        write_bytes(self.out(effects, turn), conn, &switching);
        self.arm_refresh(conn, expires_ms);
        self.presence_changed(user, effects);
        self.tell_other_devices(user, conn, turn, effects);
        if first {
            self.queue_catch_up(user, index, self.epoch, effects);
        }
    }

    fn set_state(&mut self, conn: ConnId, state: State, turn: u64) {
        let session = self.sessions.get_mut(conn).expect("a waiting connection is still open");
        session.state = state;
        session.turn = turn;
    }

    fn refuse_upgrade(&mut self, conn: ConnId, refusal: HttpRefusal, effects: &mut Effects) {
        self.set_state(conn, State::Closing, 0);
        let start = effects.now.arena.len() as u32;
        handshake::refusal(refusal, &mut effects.now.arena);
        let range = start..effects.now.arena.len() as u32;
        effects.now.writes.push(Write { conn, range });
        effects.now.closes.push(Close { conn, how: CloseHow::Http });
    }

    /// The same device connects again: its old connections end.
    fn replace_connections(
        &mut self,
        user: UserRef,
        device: &DeviceId,
        code: u16,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("looked up by the caller");
        let old = owner.devices.iter().find(|old| !old.gone && old.id == *device);
        let conns = old.and_then(|old| old.live.as_ref()).map(|live| live.conns.clone());
        for conn in conns.into_iter().flatten() {
            self.close(conn, code, "replaced by a new connection of this device", effects);
        }
    }

    /// The device's index, and whether it was seen for the first time.
    fn register(&mut self, user: UserRef, device: DeviceId, effects: &mut Effects) -> (u32, bool) {
        let wall_ms = self.now.wall_ms;
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let known = owner.devices.iter().position(|known| !known.gone && known.id == device);
        if let Some(index) = known {
            let row = &mut owner.devices[index].row;
            if row.seen_ms + DEVICE_SEEN_MS < wall_ms {
                row.seen_ms = wall_ms;
                let (user, row) = (owner.id.clone(), *row);
                owner.turn = effects.turn;
                effects.entries.push(Entry::Device { user, device, row });
            }
            return (index as u32, false);
        }
        if owner.devices.iter().filter(|known| !known.gone).count() >= USER_DEVICES_MAX {
            // There are no more connections than devices, and the new one has none yet.
            let unseen =
                owner.devices.iter_mut().filter(|known| !known.gone && known.live.is_none());
            let unseen = unseen.min_by_key(|known| known.row.seen_ms);
            let unseen = unseen.expect("at most 31 others are connected");
            unseen.gone = true;
            let (user, device) = (owner.id.clone(), unseen.id.clone());
            owner.turn = effects.turn;
            effects.entries.push(Entry::DeviceGone { user, device });
        }
        // Its row is written with its first positions, by `take_early`.
        let row = DeviceRow { created_ms: wall_ms, seen_ms: wall_ms };
        let device = Device { id: device, row, gone: false, live: None };
        let free = owner.devices.iter().position(|known| known.gone);
        match free {
            Some(index) => owner.devices[index] = device,
            None => {
                // Most users have one or two, and a vector begins with room for four.
                owner.devices.reserve_exact(1);
                owner.devices.push(device);
            }
        }
        (free.unwrap_or(owner.devices.len() - 1) as u32, true)
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self, conn: ConnId, effects: &mut Effects) {
        self.detach(conn, effects);
        self.sessions.remove(conn);
    }

    /// Takes a connection from its user; the last one of a device takes the device with it.
    pub(crate) fn detach(&mut self, conn: ConnId, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        match std::mem::replace(&mut session.state, State::Closing) {
            State::Closing | State::Refused => {}
            State::Opening { user } => {
                let owner = self.users.get_mut(user).expect("a waiting connection holds it");
                owner.waiting.retain(
                    |waiter| !matches!(waiter, Waiter::Connection(waiting, _) if *waiting == conn),
                );
                self.leave_if_idle(user);
            }
            State::Live { user, device } => {
                let owner = self.users.get_mut(user).expect("a live connection holds it");
                owner.connections -= 1;
                let live = owner.devices[device as usize].live.as_mut();
                let live = live.expect("a live connection has a live device");
                live.conns.retain(|other| *other != conn);
                if live.conns.is_empty() {
                    self.device_left(user, device, effects);
                }
                self.presence_changed(user, effects);
                self.leave_if_idle(user);
            }
        }
    }

    /// Writes what is dirty of a device and takes it out of memory.
    fn device_left(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        self.release_slot(user, device, effects);
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let gone = &mut owner.devices[device as usize];
        let live = gone.live.take().expect("looked up by the caller");
        self.pending -= live.pending();
        // One that left before it was registered is not known.
        gone.gone |= live.new;
        let mut turn = owner.turn;
        owner.inbox.retain(|key, inbox| {
            if let Some(cursor) = inbox.cursor(device)
                && cursor.dirty
            {
                effects.entries.push(Entry::Cursor {
                    user: owner.id.clone(),
                    conversation: *key,
                    device: gone.id.clone(),
                    position: cursor.position(*key, &live),
                });
                turn = effects.turn;
            }
            inbox.forget(device);
            !inbox.cursors.is_empty()
        });
        owner.turn = turn;
        if owner.devices.iter().all(|device| device.live.is_none()) {
            owner.news = Vec::new();
            for seat in owner.seats.clone() {
                self.stand_up(user, seat, effects);
            }
        }
    }

    pub(crate) fn leave_if_idle(&mut self, user: UserRef) {
        let Some(owner) = self.users.get(user) else { return };
        if owner.is_idle() {
            self.leaving.push_back((owner.turn, user));
            self.forget_idle_users();
        }
    }

    /// Forgets users without connections whose rows are durable.
    pub(crate) fn forget_idle_users(&mut self) {
        while let Some(&(turn, user)) = self.leaving.front()
            && turn <= self.durable
        {
            self.leaving.pop_front();
            let owner = self.users.get(user);
            if owner.is_some_and(|owner| owner.is_idle() && owner.turn <= self.durable) {
                self.users.remove(user);
            }
        }
    }

    /// Pushes what a device has not acknowledged again, as if it had just connected.
    pub(crate) fn push_again(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        let owner = self.users.get(user).expect("a live connection holds its user");
        let live = owner.devices[device as usize].live.as_ref();
        let live = live.expect("a live connection has a live device");
        if live.catch_up.loading {
            // It has just connected, and nothing was pushed yet.
            return;
        }
        self.epoch = self.epoch.wrapping_add(1);
        let again = Box::new(live.again(self.epoch));
        self.device_left(user, device, effects);
        let owner = self.users.get_mut(user).expect("looked up above");
        owner.devices[device as usize].live = Some(again);
        self.queue_catch_up(user, device, self.epoch, effects);
    }

    /// The device's stay, unless it is over.
    pub(crate) fn live(&mut self, user: UserRef, device: u32, epoch: u32) -> Option<&mut Live> {
        let device = self.users.get_mut(user)?.devices.get_mut(device as usize)?;
        device.live.as_deref_mut().filter(|live| live.epoch == epoch)
    }

    pub(crate) fn live_now(&mut self, user: UserRef, device: u32) -> Option<&mut Live> {
        self.users.get_mut(user)?.devices.get_mut(device as usize)?.live.as_deref_mut()
    }
}

/// Bytes that are no frame: an HTTP answer.
fn write_bytes(outputs: &mut Outputs, conn: ConnId, bytes: &[u8]) {
    let start = outputs.arena.len() as u32;
    outputs.arena.extend_from_slice(bytes);
    outputs.writes.push(Write { conn, range: start..outputs.arena.len() as u32 });
}
