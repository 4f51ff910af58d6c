//! Connections come to their user and leave: loading the user, registering devices, reading the
//! inbox marks, and what the control plane asks about users.

use std::collections::VecDeque;

use crate::error::{HttpRefusal, Refusal};
use crate::event::{
    Answer, Close, CloseHow, ControlId, DeviceRow, Effects, Entry, InboxMark, Load,
    MembershipLoaded, MembershipRow, OPEN, Operation, Outputs, Position, Routed, UserLoaded,
    UserRow, Write,
};
use crate::ids::{ConnId, ConvKey, Conversation, DeviceId, UserId};
use crate::limits::{
    CATCH_UPS_MAX, DEVICE_FORGOTTEN_MS, DEVICE_SEEN_MS, INBOX_PAGE, MEMBERSHIPS_PAGE,
    USER_CONNECTIONS_MAX, USER_DEVICES_MAX,
};
use crate::relations::PrivatePolicy;
use crate::session::{Hello, Login, LoginFault};
use crate::shard::fanout::Audience;
use crate::shard::sessions::State;
use crate::shard::users::{Cursor, Device, Live, UserRef, Waiter};
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

    /// The control plane's question about a user of this shard.
    pub(crate) fn control(&mut self, id: ControlId, operation: Operation, effects: &mut Effects) {
        if self.space_low && operation.stores() {
            return effects.now.answers.push((id, Answer::Refused(Refusal::TryAgain)));
        }
        let user = match &operation {
            Operation::PutUser { user, .. }
            | Operation::GetUser { user }
            | Operation::Friends { user, .. }
            | Operation::Chats { user, .. }
            | Operation::Read { user, .. }
            | Operation::Account { user, .. } => user.clone(),
            Operation::Group { .. }
            | Operation::Relation(_)
            | Operation::Notice { .. }
            | Operation::NoticeToAll { .. }
            | Operation::Post(_)
            | Operation::Find { .. } => {
                return self.elsewhere(id, operation, effects);
            }
        };
        let user = self.user(&user, effects);
        self.wait_for_user(user, Waiter::Control(id, operation), effects);
    }

    /// Operations that are about no user of this shard.
    fn elsewhere(&mut self, id: ControlId, operation: Operation, effects: &mut Effects) {
        match operation {
            Operation::Group { group, operation } => {
                self.group_operation(id, &Conversation::Group(group), operation, effects);
            }
            Operation::Post(post) => self.post(id, *post, effects),
            Operation::Find { id: message } => {
                self.load(Waiting::Find { id }, Load::Find { id: message }, effects);
            }
            Operation::Relation(operation) => self.relation(id, *operation, effects),
            Operation::Notice { user, notice } => self.notice(id, &user, notice, effects),
            Operation::NoticeToAll { notice } => self.notice_to_all(id, notice, effects),
            Operation::PutUser { .. }
            | Operation::GetUser { .. }
            | Operation::Friends { .. }
            | Operation::Chats { .. }
            | Operation::Read { .. }
            | Operation::Account { .. } => unreachable!("about a user"),
        }
    }

    /// The user in memory, loading it if it is cold.
    fn user(&mut self, id: &UserId, effects: &mut Effects) -> UserRef {
        self.users.find(id.as_str()).unwrap_or_else(|| {
            let user = self.users.insert(id.clone());
            self.load(Waiting::User { user }, Load::User { user: id.clone() }, effects);
            user
        })
    }

    fn wait_for_user(&mut self, user: UserRef, waiter: Waiter, effects: &mut Effects) {
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

    fn perform(
        &mut self,
        user: UserRef,
        id: ControlId,
        operation: Operation,
        effects: &mut Effects,
    ) {
        let (wall_ms, beginning) = (self.now.wall_ms, self.beginning());
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let cancelled = owner.row.as_ref().is_some_and(|row| row.standing.cancelled_ms > 0);
        let answer = match operation {
            Operation::Account { operation, .. } => {
                let answer = self.account(user, operation, effects);
                // With the last connection the user may have been forgotten: all of it is durable.
                let turn = self.users.get(user).map_or(0, |owner| owner.turn);
                return self.out(effects, turn).answers.push((id, answer));
            }
            _ if cancelled => Answer::NoSuchUser,
            Operation::Friends { user, after, limit } if owner.row.is_some() => {
                let load = Load::Relations { user, after, limit, friends: true };
                return self.load(Waiting::Friends { id }, load, effects);
            }
            Operation::Chats { after, limit, .. } if owner.row.is_some() => {
                return self.list_chats(user, id, after, limit, effects);
            }
            Operation::Read { conversation, seq, .. } if owner.row.is_some() => {
                return self.read(user, id, conversation, seq, effects);
            }
            Operation::Friends { .. } | Operation::Chats { .. } | Operation::Read { .. } => {
                Answer::NoSuchUser
            }
            Operation::PutUser { profile, .. } => {
                let created = owner.row.is_none();
                let row = owner.row.get_or_insert_default();
                if created {
                    (row.created_ms, row.began) = (wall_ms, beginning);
                }
                row.profile = profile;
                let row = row.clone();
                let id = owner.id.clone();
                self.write_user(user, effects);
                if self.config.private_policy == PrivatePolicy::Contacts {
                    self.tell_changed(&id, effects);
                }
                Answer::User { row, created }
            }
            Operation::GetUser { .. } => match &owner.row {
                Some(row) => Answer::User { row: row.clone(), created: false },
                None => Answer::NoSuchUser,
            },
            Operation::Group { .. }
            | Operation::Relation(_)
            | Operation::Notice { .. }
            | Operation::NoticeToAll { .. }
            | Operation::Post(_)
            | Operation::Find { .. } => {
                unreachable!("it needs no user")
            }
        };
        let turn = self.users.get(user).expect("it waits for nothing").turn;
        self.out(effects, turn).answers.push((id, answer));
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

    /// A device reads its inbox marks, when it is its turn.
    fn queue_catch_up(&mut self, user: UserRef, device: u32, epoch: u32, effects: &mut Effects) {
        if self.catch_ups >= CATCH_UPS_MAX {
            return self.catch_up_queue.push_back((user, device, epoch));
        }
        let Some(live) = self.live(user, device, epoch) else { return };
        live.catch_up.slot = true;
        self.catch_ups += 1;
        // What this shard has stored and is not durable yet is not in the log's answer, and its
        // deliveries found nobody: the marks are read behind it.
        let turn = if effects.entries.is_empty() { self.written } else { effects.turn };
        if turn > self.durable {
            self.marks_after.push_back((turn, user, device, epoch));
        } else {
            self.load_marks(user, device, epoch, None, effects);
        }
    }

    pub(crate) fn read_marks_of_durable(&mut self, effects: &mut Effects) {
        while let Some(&(turn, user, device, epoch)) = self.marks_after.front()
            && turn <= self.durable
        {
            self.marks_after.pop_front();
            self.load_marks(user, device, epoch, None, effects);
        }
    }

    fn load_marks(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        after: Option<ConvKey>,
        effects: &mut Effects,
    ) {
        if self.live(user, device, epoch).is_none() {
            return;
        }
        let id = self.users.get(user).expect("it has a live device").id.clone();
        let load = Load::Inbox { user: id, after, limit: INBOX_PAGE };
        self.load(Waiting::Inbox { user, device, epoch }, load, effects);
    }

    /// The device's stay, unless it is over.
    pub(crate) fn live(&mut self, user: UserRef, device: u32, epoch: u32) -> Option<&mut Live> {
        let device = self.users.get_mut(user)?.devices.get_mut(device as usize)?;
        device.live.as_deref_mut().filter(|live| live.epoch == epoch)
    }

    pub(crate) fn live_now(&mut self, user: UserRef, device: u32) -> Option<&mut Live> {
        self.users.get_mut(user)?.devices.get_mut(device as usize)?.live.as_deref_mut()
    }

    pub(crate) fn marks_loaded(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        marks: Vec<InboxMark>,
        effects: &mut Effects,
    ) {
        if self.live(user, device, epoch).is_none() {
            return;
        }
        let more = marks.len() == INBOX_PAGE as usize;
        let last = marks.last().map(|mark| mark.conversation);
        for mark in marks {
            self.mark_loaded(user, device, mark, effects);
        }
        if more {
            return self.load_marks(user, device, epoch, last, effects);
        }
        self.load_memberships(user, device, epoch, None, effects);
    }

    fn load_memberships(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        after: Option<ConvKey>,
        effects: &mut Effects,
    ) {
        let id = self.users.get(user).expect("it has a live device").id.clone();
        let load = Load::Memberships { user: id, after, limit: MEMBERSHIPS_PAGE };
        self.load(Waiting::Memberships { user, device, epoch }, load, effects);
    }

    /// The groups that the user may see something of, and where the devices stand there.
    pub(crate) fn memberships_loaded(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        memberships: Vec<MembershipLoaded>,
        effects: &mut Effects,
    ) {
        if self.live(user, device, epoch).is_none() {
            return;
        }
        let more = memberships.len() == MEMBERSHIPS_PAGE as usize;
        let last = memberships.last().map(|membership| membership.conversation);
        for membership in memberships {
            self.membership_loaded(user, device, epoch, membership, effects);
        }
        if more {
            return self.load_memberships(user, device, epoch, last, effects);
        }
        // Who has become a member since may be missing in what was read.
        let owner = self.users.get(user).expect("it has a live device");
        for (group, seq, joined) in owner.news.clone() {
            let conversation = Conversation::Group(group.clone()).key(self.config.secret);
            let Some(live) = self.live(user, device, epoch) else { return };
            if joined && !live.catch_up.placed.contains(&conversation) {
                let row = MembershipRow { group, ranges: vec![(seq, OPEN)] };
                let membership = MembershipLoaded { conversation, row, cursors: Vec::new() };
                self.membership_loaded(user, device, epoch, membership, effects);
            }
        }
        let Some(live) = self.live(user, device, epoch) else { return };
        live.catch_up.memberships_read = true;
        self.end_loading(user, device, epoch, effects);
    }

    fn membership_loaded(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        mut membership: MembershipLoaded,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("it has a live device");
        let row = &mut membership.row;
        for (_, seq, joined) in owner.news.iter().filter(|(group, ..)| *group == row.group) {
            change_ranges(&mut row.ranges, *seq, *joined);
        }
        let open = row.ranges.last().is_some_and(|&(_, last)| last == OPEN);
        let group = row.group.clone();
        let Some(live) = self.live(user, device, epoch) else { return };
        live.catch_up.placed.push(membership.conversation);
        if !open {
            return self.place(user, device, &membership, effects);
        }
        let index = self.sit(user, &group, effects);
        if self.wait_for_head(index, user, device, epoch) {
            let Some(live) = self.live(user, device, epoch) else { return };
            live.catch_up.unplaced.push(membership);
        } else {
            self.place(user, device, &membership, effects);
        }
    }

    /// The group's head is known now.
    pub(crate) fn place_waiting(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        key: ConvKey,
        effects: &mut Effects,
    ) {
        let Some(live) = self.live(user, device, epoch) else { return };
        let unplaced = &mut live.catch_up.unplaced;
        let Some(at) = unplaced.iter().position(|waiting| waiting.conversation == key) else {
            return;
        };
        let membership = unplaced.swap_remove(at);
        self.place(user, device, &membership, effects);
        self.end_loading(user, device, epoch, effects);
    }

    /// A device takes its place in a group: where it stands, and what it has to get.
    fn place(
        &mut self,
        user: UserRef,
        device: u32,
        membership: &MembershipLoaded,
        effects: &mut Effects,
    ) {
        let MembershipLoaded { conversation: key, row, cursors } = membership;
        let key = *key;
        let (Some(&(first, _)), Some(&(_, end))) = (row.ranges.first(), row.ranges.last()) else {
            return;
        };
        let seat = if end == OPEN { self.seat_position(user, key) } else { None };
        let head = match (end, seat) {
            (OPEN, Some((_, head))) => head,
            // `left` closes what waits for its place.
            (OPEN, None) => return,
            (end, _) => end,
        };
        let seated = seat.map(|(has, _)| has);
        let mut position = self.start(user, device, key, cursors, first - 1, seated, effects);
        let gaps = row.ranges.windows(2).map(|pair| (pair[0].1 + 1, pair[1].0 - 1));
        // Who comes back with the next record has missed nothing.
        position.ranges.extend(gaps.filter(|gap| gap.0 <= gap.1));
        let position = Position::merged(position.acked, position.ranges);
        if end != OPEN && position.acked >= end {
            return self.report_seen(user, device, membership, end, effects);
        }
        if seated == Some(position.acked) && position.ranges.is_empty() {
            // Its place is its seat's; passes count it from here on (`CatchUp::has_place`).
            return;
        }
        let audience = Audience::Group(row.group.clone());
        self.begin_reading(user, device, key, position, head, Some(&audience));
    }

    /// A membership that has ended, of which this device has everything: when all have, it can be
    /// forgotten.
    fn report_seen(
        &mut self,
        user: UserRef,
        device: u32,
        membership: &MembershipLoaded,
        end: u64,
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("looked up by the caller");
        let all = owner.devices.iter().enumerate().all(|(index, other)| {
            let row = membership.cursors.iter().find(|(id, _)| *id == other.id);
            other.gone || index == device as usize || row.is_some_and(|(_, at)| at.acked >= end)
        });
        if all {
            let (user, conversation) = (owner.id.clone(), membership.conversation);
            let seen = Routed::Settled { user, conversation, seq: end, all };
            let home = conversation.slot.shard(self.config.shards);
            self.route(home, seen, owner.turn, effects);
        }
    }

    /// The device knows what there is for it, once all of it has been looked at.
    fn end_loading(&mut self, user: UserRef, device: u32, epoch: u32, effects: &mut Effects) {
        let Some(live) = self.live(user, device, epoch) else { return };
        let catch_up = &mut live.catch_up;
        if !catch_up.loading || !catch_up.memberships_read || !catch_up.unplaced.is_empty() {
            return;
        }
        if !self.asks_for_everybody(user, device, epoch, effects) {
            self.loading_ended(user, device, epoch, &[], effects);
        }
    }

    /// The device also knows where it stands among everybody: nothing is left to look at.
    pub(crate) fn loading_ended(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        everybody: &[(DeviceId, Position)],
        effects: &mut Effects,
    ) {
        if self.live(user, device, epoch).is_none() {
            return;
        }
        self.place_among_everybody(user, device, everybody, effects);
        let Some(live) = self.live(user, device, epoch) else { return };
        live.catch_up.placed = Vec::new();
        self.take_early(user, device, effects);
        let owner = self.users.get_mut(user).expect("it has a live device");
        if !owner.is_reading_memberships() {
            owner.news = Vec::new();
        }
        self.pump(user, device, effects);
    }

    /// One conversation in which the device may have something to get.
    fn mark_loaded(&mut self, user: UserRef, device: u32, mark: InboxMark, effects: &mut Effects) {
        let InboxMark { conversation: key, seq, head, cursors } = mark;
        let owner = self.users.get(user).expect("it has a live device");
        let notices = Conversation::Notice(owner.id.clone()).key(self.config.secret) == key;
        // When the mark was put, every device stood at least just before it.
        let position = self.start(user, device, key, &cursors, seq - 1, None, effects);
        self.begin_reading(user, device, key, position, head, None);
        if notices && let Some(live) = self.live_now(user, device) {
            // They are pushed before anything else; nothing has been pushed yet.
            live.put_first(key);
        }
        self.arm_settle(user, key);
    }

    /// Where a device starts in a conversation: at its own position, or, seen for the first time,
    /// at that of the furthest of the user's devices; at `floor` at least. A device without a
    /// cursor, but with a seat in the group, stands at `seated`.
    #[expect(
        clippy::too_many_arguments,
        reason = "a conversation, a device of it, and what is known"
    )]
    pub(crate) fn start(
        &mut self,
        user: UserRef,
        device: u32,
        key: ConvKey,
        cursors: &[(DeviceId, Position)],
        floor: u64,
        seated: Option<u64>,
        effects: &mut Effects,
    ) -> Position {
        let owner = self.users.get_mut(user).expect("it has a live device");
        let own = &owner.devices[device as usize];
        let new = own.live.as_ref().is_some_and(|live| live.new);
        let row_of = |id: &DeviceId| {
            cursors.iter().find(|(owner, _)| owner == id).map(|(_, position)| position.clone())
        };
        let position = if new {
            let others = owner
                .devices
                .iter()
                .enumerate()
                .filter(|(index, other)| *index != device as usize && !other.gone);
            let furthest = others.filter_map(|(index, other)| {
                let cursor = owner.inbox.get(&key).and_then(|inbox| {
                    inbox.cursors.iter().find(|cursor| cursor.device == index as u32)
                });
                match (cursor, &other.live) {
                    (Some(cursor), Some(live)) => Some(cursor.position(key, live)),
                    (None, Some(live)) if !live.catch_up.loading && seated.is_some() => {
                        seated.map(|acked| Position { acked, ranges: Vec::new() })
                    }
                    _ => row_of(&other.id),
                }
            });
            furthest.max_by_key(|position| position.acked)
        } else {
            row_of(&own.id)
        };
        let position = position.filter(|position| position.acked >= floor);
        let position = position.unwrap_or(Position { acked: floor, ranges: Vec::new() });
        if new && (position.acked > floor || !position.ranges.is_empty()) {
            let (user, device) = (owner.id.clone(), own.id.clone());
            owner.turn = effects.turn;
            effects.entries.push(Entry::Cursor {
                user,
                conversation: key,
                device,
                position: position.clone(),
            });
        }
        position
    }

    /// A device goes on from a position, up to the head that is known.
    pub(crate) fn begin_reading(
        &mut self,
        user: UserRef,
        device: u32,
        key: ConvKey,
        position: Position,
        head: u64,
        audience: Option<&Audience>,
    ) {
        let now_ms = self.now_ms();
        let owner = self.users.get_mut(user).expect("it has a live device");
        let at = &mut owner.devices[device as usize];
        let live = at.live.as_mut().expect("looked up by the caller");
        let gap = self.config.dialects.delivery(at.id.dialect).catch_up_gap_ms > 0;
        let inbox = owner.inbox.entry(key).or_default();
        inbox.head = inbox.head.max(head);
        inbox.changed_ms = now_ms;
        if inbox.audience.is_none() {
            inbox.audience = audience.cloned();
        }
        if inbox.cursor(device).is_some() {
            return;
        }
        let mut cursor = Cursor::new(device, position.acked);
        cursor.skip = position.ranges;
        if position.acked < inbox.head {
            if gap {
                cursor.paced_until = inbox.head;
                live.catch_up.paced.push_back(key);
            } else {
                cursor.behind = true;
                live.behind.push_back(key);
            }
        }
        inbox.cursors.push(cursor);
    }

    /// What was routed while the marks were read. A new device is registered here: before its
    /// positions are known it has none, and would later be taken for one that has got nothing.
    fn take_early(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        let owner = self.users.get_mut(user).expect("it has a live device");
        let at = &mut owner.devices[device as usize];
        let live = at.live.as_mut().expect("looked up by the caller");
        live.catch_up.loading = false;
        if std::mem::take(&mut live.new) {
            let (user, device, row) = (owner.id.clone(), at.id.clone(), at.row);
            owner.turn = effects.turn;
            live.wait_for(effects.turn);
            effects.entries.push(Entry::Device { user, device, row });
        }
        for (key, early) in std::mem::take(&mut live.catch_up.early) {
            let inbox = owner.inbox.entry(key).or_default();
            inbox.head = inbox.head.max(early.head);
            let head = inbox.head;
            if inbox.cursor(device).is_none() {
                inbox.cursors.push(Cursor::new(device, early.first - 1));
            }
            let cursor = inbox.cursor(device).expect("made above");
            if cursor.sent < head && !cursor.is_paced() && !cursor.behind {
                cursor.behind = true;
                live.behind.push_back(key);
            }
        }
    }

    /// The device has caught up, cannot go on, or is gone: another one may begin.
    pub(crate) fn release_slot(&mut self, user: UserRef, device: u32, effects: &mut Effects) {
        let Some(owner) = self.users.get_mut(user) else { return };
        let live = owner.devices[device as usize].live.as_mut();
        let held = live.is_some_and(|live| std::mem::take(&mut live.catch_up.slot));
        if !held {
            return;
        }
        self.catch_ups -= 1;
        while self.catch_ups < CATCH_UPS_MAX
            && let Some((user, device, epoch)) = self.catch_up_queue.pop_front()
        {
            self.queue_catch_up(user, device, epoch, effects);
        }
    }
}

/// Applies a change of membership to ranges that may have it already.
pub(crate) fn change_ranges(ranges: &mut Vec<(u64, u64)>, seq: u64, joined: bool) {
    match ranges.last_mut() {
        Some((first, last)) if !joined && *last == OPEN && *first <= seq => *last = seq,
        Some(&mut (first, last)) if joined && last != OPEN && first < seq && last < seq => {
            ranges.push((seq, OPEN));
        }
        _ => {}
    }
}

/// Bytes that are no frame: an HTTP answer.
fn write_bytes(outputs: &mut Outputs, conn: ConnId, bytes: &[u8]) {
    let start = outputs.arena.len() as u32;
    outputs.arena.extend_from_slice(bytes);
    outputs.writes.push(Write { conn, range: start..outputs.arena.len() as u32 });
}
