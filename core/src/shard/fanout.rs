//! Groups where their members are: which connected users of this shard are in a group, and how
//! its news reaches them. Notices to everybody reach their users in the same way (`everybody.rs`).
//!
//! A record comes once to the shard, whatever the number of members. The members are then visited
//! in slices, and each device gets everything from its position to the head in one write: a busy
//! group coalesces by itself, and no turn is long. A member whose device has everything and has
//! acknowledged it costs a seat of 16 bytes; its position is the group's.

use std::collections::VecDeque;

use bytes::Bytes;
use hashbrown::HashMap;
use slab::Slab;

use crate::dialect::{Place, Settings};
use crate::event::{Deliver, Effects, Routed};
use crate::happened::Happened;
use crate::hash::Hashing;
use crate::ids::{ConvKey, Conversation, DeviceId, Dialect, GroupId, UserId};
use crate::limits::{
    CURSOR_RANGES_PULL, FANOUT_BUDGET, FANOUT_BYTES_MAX, FANOUT_RECORDS_MAX, FANOUT_SEAT_BYTES,
    FANOUT_TURN_BUDGET,
};
use crate::record::Kind;
use crate::shard::Shard;
use crate::shard::catch_up::change_ranges;
use crate::shard::delivery::{Encoded, encode, is_shown, send};
use crate::shard::users::{Cursor, Live, UserRef};

/// The groups of which connected users of this shard are members.
#[derive(Debug, Default)]
pub(crate) struct LocalGroups {
    slab: Slab<LocalGroup>,
    by_key: HashMap<ConvKey, u32, Hashing>,
    /// Groups with a pass under way, in order of service.
    busy: VecDeque<u32>,
}

/// Whose conversation it is that comes to a shard once, whatever the number of members there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Audience {
    /// A group's.
    Group(GroupId),
    /// [`Conversation::Broadcast`].
    Everybody,
}

impl Audience {
    fn conversation(&self) -> Conversation {
        match self {
            Audience::Group(group) => Conversation::Group(group.clone()),
            Audience::Everybody => Conversation::Broadcast,
        }
    }

    /// What its frames show of it.
    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            Audience::Group(group) => Place::Group(group),
            Audience::Everybody => Place::User,
        }
    }
}

/// A group with connected members here, or everybody.
#[derive(Debug)]
struct LocalGroup {
    key: ConvKey,
    audience: Audience,
    /// The members. Nobody's are needed among everybody: there a user's seat is his place in memory.
    seats: Vec<UserRef>,
    /// The home has answered: `head` is true, and what comes behind it comes here.
    subscribed: bool,
    /// Devices that are placed when it has: user, device, epoch.
    waiting: Vec<(UserRef, u32, u32)>,
    /// The last record in the log, as the home has told.
    head: u64,
    /// What devices without a cursor have, unless the pass has been at their seat.
    done: u64,
    /// The seats are being visited.
    pass: Option<Pass>,
    /// The last records up to `head`, without a gap: at most [`FANOUT_RECORDS_MAX`] and
    /// [`FANOUT_BYTES_MAX`]. What is not here is read from the log.
    recent: VecDeque<Box<Deliver>>,
    recent_bytes: usize,
}

/// A round over the seats.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// The next seat.
    next: usize,
    /// What devices have when it has been there.
    to: u64,
}

/// A user's seat in a group, seen from the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seat {
    group: u32,
    seat: u32,
}

impl LocalGroups {
    pub(crate) fn is_busy(&self) -> bool {
        !self.busy.is_empty()
    }

    fn find(&self, key: ConvKey) -> Option<u32> {
        self.by_key.get(&key).copied()
    }

    /// The last record that is known here, if the home has answered.
    pub(crate) fn head(&self, key: ConvKey) -> Option<u64> {
        let local = &self.slab[self.find(key)? as usize];
        local.subscribed.then_some(local.head)
    }
}

impl LocalGroup {
    /// What a device without a cursor has, at this seat.
    fn position(&self, seat: u32) -> u64 {
        match self.pass {
            Some(pass) if (seat as usize) < pass.next => pass.to,
            _ => self.done,
        }
    }

    /// What was revoked has no content any more, also for those who have not been visited yet.
    fn forget_revoked(&mut self, event: &Deliver) {
        if event.kind != Kind::Event {
            return;
        }
        if let Some(Happened::Revoked { seq, .. }) = Happened::decode(&event.content)
            && let Some(revoked) = self.recent.iter_mut().find(|kept| kept.stored.seq == seq)
        {
            self.recent_bytes -= revoked.content.len();
            (revoked.kind, revoked.content) = (Kind::Revoked, Bytes::new());
        }
    }

    fn push(&mut self, deliver: Box<Deliver>) {
        let seq = deliver.stored.seq;
        if seq != self.head + 1 {
            self.recent.clear();
            self.recent_bytes = 0;
        }
        self.head = seq;
        self.recent_bytes += deliver.content.len();
        self.recent.push_back(deliver);
        while self.recent.len() > FANOUT_RECORDS_MAX || self.recent_bytes > FANOUT_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { return };
            self.recent_bytes -= oldest.content.len();
        }
    }
}

impl Shard {
    /// Gives a user a seat in a group, unless there is one, and has the shard subscribe if it has
    /// not.
    pub(crate) fn sit(&mut self, user: UserRef, group: &GroupId, effects: &mut Effects) -> u32 {
        let key = Conversation::Group(group.clone()).key(self.config.secret);
        let found = self.groups.find(key);
        let index = found
            .unwrap_or_else(|| self.subscribe_to(key, Audience::Group(group.clone()), effects));
        let owner = self.users.get_mut(user).expect("who sits down is in memory");
        if !owner.seats.iter().any(|seat| seat.group == index) {
            let local = &mut self.groups.slab[index as usize];
            owner.seats.push(Seat { group: index, seat: local.seats.len() as u32 });
            local.seats.push(user);
        }
        index
    }

    /// From now on the conversation's records come here.
    pub(crate) fn subscribe_to(
        &mut self,
        key: ConvKey,
        audience: Audience,
        effects: &mut Effects,
    ) -> u32 {
        let conversation = audience.conversation();
        let index = self.groups.slab.insert(LocalGroup {
            key,
            audience,
            seats: Vec::new(),
            subscribed: false,
            waiting: Vec::new(),
            head: 0,
            done: 0,
            pass: None,
            recent: VecDeque::new(),
            recent_bytes: 0,
        }) as u32;
        self.groups.by_key.insert(key, index);
        let subscribe = Routed::Subscribe { from: self.config.shard, conversation };
        self.route(key.slot.shard(self.config.shards), subscribe, 0, effects);
        index
    }

    /// Takes a user's seat away; without any, the shard needs the group's records no more.
    pub(crate) fn stand_up(&mut self, user: UserRef, seat: Seat, effects: &mut Effects) {
        let Some(owner) = self.users.get_mut(user) else { return };
        owner.seats.retain(|other| *other != seat);
        let local = &mut self.groups.slab[seat.group as usize];
        let mut free = seat.seat as usize;
        assert_eq!(local.seats[free], user);
        if let Some(pass) = &mut local.pass
            && free < pass.next
        {
            // The visited seats stay in front of the others.
            pass.next -= 1;
            let last = pass.next;
            if free != last {
                local.seats[free] = local.seats[last];
                self.reseat(seat.group, free);
                free = last;
            }
        }
        let local = &mut self.groups.slab[seat.group as usize];
        local.seats.swap_remove(free);
        if free < local.seats.len() {
            self.reseat(seat.group, free);
        }
        let local = &self.groups.slab[seat.group as usize];
        if local.seats.is_empty() {
            let key = local.key;
            self.groups.slab.remove(seat.group as usize);
            self.groups.by_key.remove(&key);
            self.groups.busy.retain(|busy| *busy != seat.group);
            let leave = Routed::Unsubscribe { from: self.config.shard, conversation: key };
            self.route(key.slot.shard(self.config.shards), leave, 0, effects);
        }
    }

    /// Tells the user who sits on this seat now that it is another number.
    fn reseat(&mut self, group: u32, seat: usize) {
        let user = self.groups.slab[group as usize].seats[seat];
        let owner = self.users.get_mut(user).expect("who has a seat is in memory");
        let own = owner.seats.iter_mut().find(|own| own.group == group);
        own.expect("seats are known on both sides").seat = seat as u32;
    }

    /// The group's home has answered.
    pub(crate) fn subscribed(&mut self, key: ConvKey, head: u64, effects: &mut Effects) {
        let Some(index) = self.groups.find(key) else { return };
        let local = &mut self.groups.slab[index as usize];
        if local.subscribed {
            // The answer to an earlier subscription has come late and was taken for this one's.
            return self.group_head(key, head, effects);
        }
        local.subscribed = true;
        (local.head, local.done) = (local.head.max(head), head);
        for (user, device, epoch) in std::mem::take(&mut local.waiting) {
            self.place_waiting(user, device, epoch, key, effects);
        }
        self.begin_pass(index);
        self.heard_of(key, effects);
    }

    /// Records up to `head` are in the log; those between were not sent.
    pub(crate) fn group_head(&mut self, key: ConvKey, head: u64, effects: &mut Effects) {
        let Some(index) = self.groups.find(key) else { return };
        let local = &mut self.groups.slab[index as usize];
        if head > local.head {
            local.head = head;
            local.recent.clear();
            local.recent_bytes = 0;
            self.begin_pass(index);
            self.heard_of(key, effects);
        }
    }

    /// A durable record of a group.
    pub(crate) fn group_deliver(&mut self, deliver: Box<Deliver>, effects: &mut Effects) {
        let key = deliver.conversation;
        let Some(index) = self.groups.find(key) else { return };
        let local = &mut self.groups.slab[index as usize];
        // What was sent for an earlier subscription is covered by the answer to this one.
        if local.subscribed && deliver.stored.seq > local.head {
            local.forget_revoked(&deliver);
            local.push(deliver);
            self.begin_pass(index);
            self.heard_of(key, effects);
        }
    }

    fn begin_pass(&mut self, index: u32) {
        let local = &mut self.groups.slab[index as usize];
        if local.pass.is_none() && local.subscribed {
            local.pass = Some(Pass { next: 0, to: local.head });
            self.groups.busy.push_back(index);
        }
    }

    /// Membership of users of this shard has changed with the record `seq`.
    pub(crate) fn membership_changed(
        &mut self,
        group: &GroupId,
        seq: u64,
        joined: bool,
        users: &[UserId],
        effects: &mut Effects,
    ) {
        let key = Conversation::Group(group.clone()).key(self.config.secret);
        for user in users {
            let Some(user) = self.users.find(user.as_str()) else { continue };
            let owner = self.users.get_mut(user).expect("found");
            if owner.devices.iter().all(|device| device.live.is_none()) {
                continue;
            }
            if owner.is_reading_memberships() {
                owner.news.push((group.clone(), seq, joined));
            }
            for live in owner.devices.iter_mut().filter_map(|device| device.live.as_mut()) {
                let unplaced = live.catch_up.unplaced.iter_mut();
                for waiting in unplaced.filter(|waiting| waiting.conversation == key) {
                    change_ranges(&mut waiting.row.ranges, seq, joined);
                }
            }
            if joined {
                self.joined(user, group, key, seq, effects);
            } else {
                self.left(user, key, seq, effects);
            }
        }
    }

    fn joined(
        &mut self,
        user: UserRef,
        group: &GroupId,
        key: ConvKey,
        seq: u64,
        effects: &mut Effects,
    ) {
        let local = self.sit(user, group, effects);
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let mut waiting = Vec::new();
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let Some(live) = &mut device.live else { continue };
            let catch_up = &mut live.catch_up;
            if catch_up.unplaced.iter().any(|waiting| waiting.conversation == key) {
                // It may have left its place among those that wait, with the user's former seat.
                waiting.push((index as u32, live.epoch));
            }
            if catch_up.loading && catch_up.memberships_read && !catch_up.placed.contains(&key) {
                // All that was read is older.
                catch_up.placed.push(key);
            }
            if !catch_up.has_place(key) {
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.audience.get_or_insert_with(|| Audience::Group(group.clone()));
            let head = inbox.head;
            match inbox.cursor(index as u32) {
                // What lies between leaving and coming back is not for this user.
                Some(cursor) if cursor.sent + 1 < seq => {
                    let from = cursor.sent.max(head) + 1;
                    if from < seq {
                        cursor.skip.push((from, seq - 1));
                    }
                }
                Some(_) => {}
                None => inbox.cursors.push(Cursor::new(index as u32, seq - 1)),
            }
        }
        for (index, epoch) in waiting {
            if !self.wait_for_head(local, user, index, epoch) {
                self.place_waiting(user, index, epoch, key, effects);
            }
        }
    }

    /// The user may see nothing behind `seq`, and everything up to it.
    fn left(&mut self, user: UserRef, key: ConvKey, seq: u64, effects: &mut Effects) {
        let Some(group) = self.groups.find(key) else { return };
        let owner = self.users.get_mut(user).expect("looked up by the caller");
        let Some(&seat) = owner.seats.iter().find(|seat| seat.group == group) else { return };
        let local = &self.groups.slab[group as usize];
        let (has, audience) = (local.position(seat.seat), local.audience.clone());
        let devices = owner.devices.len() as u32;
        let mut waiting = Vec::new();
        for index in 0..devices {
            let owner = self.users.get_mut(user).expect("looked up above");
            let Some(live) = &mut owner.devices[index as usize].live else { continue };
            if !live.catch_up.has_place(key) {
                waiting.push((index, live.epoch));
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.audience.get_or_insert_with(|| audience.clone());
            inbox.head = inbox.head.max(seq);
            let cursor = inbox.at(index, has);
            if cursor.sent < seq && !cursor.behind && !cursor.is_paced() {
                cursor.behind = true;
                live.behind.push_back(key);
            }
            self.pump(user, index, effects);
        }
        self.stand_up(user, seat, effects);
        // Those that waited for the head need it no more: they read up to here.
        for (index, epoch) in waiting {
            self.place_waiting(user, index, epoch, key, effects);
        }
    }

    /// What a device without a cursor has of a group, and what the group has.
    pub(crate) fn seat_position(&self, user: UserRef, key: ConvKey) -> Option<(u64, u64)> {
        let group = self.groups.find(key)?;
        let local = &self.groups.slab[group as usize];
        let seat = match local.audience {
            Audience::Everybody => user.seat(),
            Audience::Group(_) => {
                self.users.get(user)?.seats.iter().find(|seat| seat.group == group)?.seat
            }
        };
        Some((local.position(seat), local.head))
    }

    /// How many seats there are, taken or not.
    fn seats(&self, group: u32) -> usize {
        let local = &self.groups.slab[group as usize];
        match local.audience {
            Audience::Everybody => self.users.seats(),
            Audience::Group(_) => local.seats.len(),
        }
    }

    /// Who has this seat.
    fn on_seat(&self, group: u32, seat: usize) -> Option<UserRef> {
        let local = &self.groups.slab[group as usize];
        match local.audience {
            Audience::Everybody => self.users.on_seat(seat),
            Audience::Group(_) => local.seats.get(seat).copied(),
        }
    }

    /// Whether the group's head is known; if not, the device is placed when it is.
    pub(crate) fn wait_for_head(
        &mut self,
        group: u32,
        user: UserRef,
        device: u32,
        epoch: u32,
    ) -> bool {
        let local = &mut self.groups.slab[group as usize];
        if !local.subscribed {
            local.waiting.push((user, device, epoch));
        }
        !local.subscribed
    }

    /// Visits members of groups with news, each group's for at most [`FANOUT_BUDGET`] seats before
    /// the next one's, and [`FANOUT_TURN_BUDGET`] in all.
    pub(crate) fn fan_out(&mut self, effects: &mut Effects) {
        let mut left = FANOUT_TURN_BUDGET;
        while left > 0
            && let Some(index) = self.groups.busy.pop_front()
        {
            left = left.saturating_sub(self.visit(index, FANOUT_BUDGET.min(left), effects).max(1));
        }
    }

    /// Visits the next seats of a group; how much of the budget that took: one for a seat, or for
    /// each [`FANOUT_SEAT_BYTES`] of frames. The group goes to the end of the queue, or out of it
    /// when its pass is over.
    fn visit(&mut self, index: u32, budget: usize, effects: &mut Effects) -> usize {
        let (now_ms, durable) = (self.now_ms(), self.durable);
        // Taken out, so that members can be looked at: nothing of it is used meanwhile.
        let local = &mut self.groups.slab[index as usize];
        let mut pass = local.pass.expect("a busy group has a pass");
        let from = local.done;
        let key = local.key;
        let audience = local.audience.clone();
        let recent = std::mem::take(&mut local.recent);
        let news = News { key, audience: &audience, from, to: pass.to, recent: &recent };
        let mut visit = Visit { news, now_ms, durable, frames: Frames::default() };
        let mut behind = Vec::new();
        let made = |effects: &Effects| effects.now.arena.len() + effects.held.arena.len();
        let (seats, before) = (self.seats(index), made(effects));
        let (mut visited, mut spent) = (0, 0);
        while spent < budget && pass.next < seats {
            if let Some(user) = self.on_seat(index, pass.next) {
                self.serve(user, &mut visit, &mut behind, effects);
            }
            pass.next += 1;
            visited += 1;
            spent = visited.max((made(effects) - before) / FANOUT_SEAT_BYTES);
        }
        let local = &mut self.groups.slab[index as usize];
        local.recent = recent;
        if pass.next >= seats {
            local.done = pass.to;
            local.pass = None;
            if local.head > local.done {
                self.begin_pass(index);
            }
        } else {
            local.pass = Some(pass);
            self.groups.busy.push_back(index);
        }
        for (user, device) in behind {
            self.pump(user, device, effects);
        }
        spent
    }

    /// Gives a member's devices what they can take of a group's news; the others read the log.
    fn serve(
        &mut self,
        user: UserRef,
        visit: &mut Visit<'_>,
        behind: &mut Vec<(UserRef, u32)>,
        effects: &mut Effects,
    ) {
        let (key, to) = (visit.news.key, visit.news.to);
        let owner = self.users.get_mut(user).expect("who has a seat is in memory");
        let mut sent = 0;
        for (index, device) in owner.devices.iter_mut().enumerate() {
            let index = index as u32;
            let Some(live) = &mut device.live else { continue };
            if !live.catch_up.has_place(key) {
                continue;
            }
            let known = owner.inbox.get_mut(&key).and_then(|inbox| {
                inbox.head = inbox.head.max(to);
                inbox.cursor(index).map(|cursor| cursor.clone())
            });
            let had_cursor = known.is_some();
            let mut cursor = known.unwrap_or_else(|| Cursor::new(index, visit.news.from));
            if cursor.is_paced() || cursor.behind || cursor.sent > to {
                continue;
            }
            if !live.catch_up.loading {
                let dialects = &self.config.dialects;
                sent += visit.feed(dialects, &owner.id, &device.id, live, &mut cursor, effects);
            }
            let rests = cursor.sent == to && cursor.unacked == 0 && !cursor.dirty;
            let rests = rests && !cursor.skips_ahead();
            if rests && !had_cursor {
                // It has what its seat says.
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.audience.get_or_insert_with(|| visit.news.audience.clone());
            inbox.head = inbox.head.max(to);
            inbox.changed_ms = visit.now_ms;
            if cursor.sent < to {
                cursor.behind = true;
                live.behind.push_back(key);
                behind.push((user, index));
            }
            inbox.put(cursor);
            if rests {
                inbox.forget(index);
            }
        }
        if owner.inbox.get(&key).is_some_and(|inbox| inbox.cursors.is_empty()) {
            owner.inbox.remove(&key);
        }
        self.pending += sent;
        if sent > 0 {
            self.arm_retries(user);
        }
    }
}

/// Some of the members get what a pass brings.
struct Visit<'a> {
    news: News<'a>,
    now_ms: u64,
    durable: u64,
    frames: Frames,
}

impl Visit<'_> {
    /// Sends a device what comes next for it, as long as it is at hand and there is room; how many
    /// messages that were.
    fn feed(
        &mut self,
        dialects: &Settings,
        to: &UserId,
        device: &DeviceId,
        live: &mut Live,
        cursor: &mut Cursor,
        effects: &mut Effects,
    ) -> usize {
        let News { key, audience, recent, .. } = self.news;
        let dialect = device.dialect;
        let echo = dialects.delivery(dialect).echo_to_own_devices;
        let mut sent = 0;
        while cursor.sent < self.news.to {
            let seq = cursor.sent + 1;
            let Some(at) = self.news.at(seq) else { break };
            let record = recent[at].record();
            if cursor.skips(seq) || !is_shown(&record, to, device, echo) {
                cursor.sent = seq;
                continue;
            }
            if !live.has_room() || cursor.ranges(key, live) >= CURSOR_RANGES_PULL {
                break;
            }
            let held = live.holds(self.durable, effects.turn);
            let outputs = if held { &mut effects.held } else { &mut effects.now };
            let encoded = self.frames.get(at, dialect, held).unwrap_or_else(|| {
                let place = audience.place();
                let encoded = encode(dialects, &record, to, place, dialect, held, outputs);
                if encoded.shared {
                    self.frames.keep(at, encoded.clone());
                }
                encoded
            });
            send(live, cursor, key, seq, &encoded, self.now_ms, outputs);
            sent += 1;
        }
        sent
    }
}

/// What a pass brings.
#[derive(Clone, Copy)]
struct News<'a> {
    key: ConvKey,
    audience: &'a Audience,
    /// What devices without a cursor have.
    from: u64,
    /// What all have afterwards, or know that they have not.
    to: u64,
    recent: &'a VecDeque<Box<Deliver>>,
}

impl News<'_> {
    /// The index in `recent` of the record `seq`.
    fn at(&self, seq: u64) -> Option<usize> {
        let first = self.recent.front()?.stored.seq;
        seq.checked_sub(first).map(|at| at as usize).filter(|at| *at < self.recent.len())
    }
}

/// The frames that a visit has made and that more than one member may get: by record, dialect, and
/// whether they leave with the open turn.
#[derive(Default)]
struct Frames {
    made: Vec<Option<Encoded>>,
}

impl Frames {
    fn slot(at: usize, dialect: Dialect, held: bool) -> usize {
        (at * Dialect::COUNT + dialect.index()) * 2 + usize::from(held)
    }

    fn get(&self, at: usize, dialect: Dialect, held: bool) -> Option<Encoded> {
        self.made.get(Frames::slot(at, dialect, held))?.clone()
    }

    fn keep(&mut self, at: usize, encoded: Encoded) {
        let slot = Frames::slot(at, encoded.dialect, encoded.held);
        if self.made.len() <= slot {
            self.made.resize_with(slot + 1, || None);
        }
        self.made[slot] = Some(encoded);
    }
}
