//! A user at home: row, devices, and which conversations hold something for them.
//!
//! Only this shard knows the user's connections and positions. What is here is memory: the log has
//! the truth, and a user without a connection is forgotten once its rows are durable.

use std::collections::VecDeque;

use crate::hash::Hashing;
use hashbrown::HashMap;
use slab::Slab;

use crate::dialect::{Class, Delivery, Place};
use crate::event::{ControlId, DeviceRow, MembershipLoaded, Operation, Position, UserRow};
use crate::ids::{ConnId, ConvKey, DeviceId, GroupId, MessageId, UserId};
use crate::limits::{CURSOR_RANGES_MAX, CURSOR_RANGES_PULL, WINDOW_BYTES, WINDOW_MESSAGES};
use crate::rate::Bucket;
use crate::record::Page;
use crate::session::Hello;
use crate::shard::fanout::{Audience, Seat};
use crate::shard::presence::Told;
use crate::shard::reads::Reads;

/// A user's place in memory; stale once the user was forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct UserRef {
    index: u32,
    generation: u32,
}

impl UserRef {
    /// His seat among everybody: nobody else has it while he is in memory.
    pub(crate) fn seat(self) -> u32 {
        self.index
    }
}

/// The users of this shard that are in use.
#[derive(Debug, Default)]
pub(crate) struct Users {
    slab: Slab<User>,
    /// All indices that were ever used are below.
    seats: usize,
    by_id: HashMap<UserId, UserRef, Hashing>,
    generation: u32,
}

impl Users {
    pub(crate) fn find(&self, id: &str) -> Option<UserRef> {
        self.by_id.get(id).copied()
    }

    pub(crate) fn get(&self, at: UserRef) -> Option<&User> {
        self.slab.get(at.index as usize).filter(|user| user.generation == at.generation)
    }

    pub(crate) fn get_mut(&mut self, at: UserRef) -> Option<&mut User> {
        self.slab.get_mut(at.index as usize).filter(|user| user.generation == at.generation)
    }

    pub(crate) fn insert(&mut self, id: UserId) -> UserRef {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let user = User {
            id: id.clone(),
            generation,
            row: None,
            loading: true,
            devices: Vec::new(),
            inbox: HashMap::default(),
            seats: Vec::new(),
            news: Vec::new(),
            waiting: VecDeque::new(),
            connections: 0,
            told: Told::default(),
            reads: Reads::default(),
            bucket: Bucket::default(),
            turn: 0,
        };
        let index = self.slab.insert(user) as u32;
        self.seats = self.seats.max(index as usize + 1);
        let at = UserRef { index, generation };
        let former = self.by_id.insert(id, at);
        assert!(former.is_none(), "a user is in memory once");
        at
    }

    pub(crate) fn remove(&mut self, at: UserRef) {
        let user = self.slab.remove(at.index as usize);
        assert_eq!(user.generation, at.generation);
        self.by_id.remove(&user.id);
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// How many seats there are, taken or not.
    pub(crate) fn seats(&self) -> usize {
        self.seats
    }

    /// Who has this seat.
    pub(crate) fn on_seat(&self, seat: usize) -> Option<UserRef> {
        let user = self.slab.get(seat)?;
        Some(UserRef { index: seat as u32, generation: user.generation })
    }
}

/// What waits until the user's row is loaded.
#[derive(Debug)]
pub(crate) enum Waiter {
    Connection(ConnId, Box<Hello>),
    Control(ControlId, Operation),
}

/// A user in use.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
    generation: u32,
    /// `None`: there is no such user (or it is not loaded yet).
    pub(crate) row: Option<UserRow>,
    pub(crate) loading: bool,
    /// All registered devices, connected or not; at most `USER_DEVICES_MAX`. An index into it
    /// names the device while the user is in memory.
    pub(crate) devices: Vec<Device>,
    /// Conversations in which something is pending, in flight, or not yet known to be at rest.
    pub(crate) inbox: HashMap<ConvKey, Inbox, Hashing>,
    /// Its seats in groups, while it is connected.
    pub(crate) seats: Vec<Seat>,
    /// Changes of membership while memberships are being read: group, seq, joined. What was read
    /// may be older.
    pub(crate) news: Vec<(GroupId, u64, bool)>,
    pub(crate) waiting: VecDeque<Waiter>,
    pub(crate) connections: usize,
    /// What his friends have been told of it.
    pub(crate) told: Told,
    /// How far he has read, where he has said so lately; what is being looked up about it.
    pub(crate) reads: Reads,
    /// Of messages to be stored.
    pub(crate) bucket: Bucket,
    /// The last turn that changed a row of this user.
    pub(crate) turn: u64,
}

impl User {
    /// Whether a device is finding out what there is for it.
    pub(crate) fn is_reading_memberships(&self) -> bool {
        let reads =
            |device: &Device| device.live.as_ref().is_some_and(|live| live.catch_up.loading);
        self.devices.iter().any(reads)
    }

    /// The last notice to everybody that is not for this user.
    pub(crate) fn began(&self) -> u64 {
        self.row.as_ref().map_or(0, |row| row.began)
    }

    /// Whether it may be forgotten once `turn` is durable.
    pub(crate) fn is_idle(&self) -> bool {
        !self.loading
            && self.connections == 0
            && self.waiting.is_empty()
            && self.told.is_quiet()
            && !self.reads.is_asking()
    }
}

/// A registered device.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) row: DeviceRow,
    /// It makes room: it has no row any more and may not connect under this index.
    pub(crate) gone: bool,
    /// While it is connected.
    pub(crate) live: Option<Box<Live>>,
}

/// A connected device.
#[derive(Debug)]
pub(crate) struct Live {
    /// Its connections: one, or several where the dialect lets them share a device.
    pub(crate) conns: Vec<ConnId>,
    /// Tells this stay from an earlier one when something loaded comes late.
    pub(crate) epoch: u32,
    /// When it came, ms since 1970.
    pub(crate) since_ms: u64,
    /// Registered just now: it starts where the furthest of the others is.
    pub(crate) new: bool,
    /// Nothing may be written to its connections before this turn is durable.
    turn: u64,
    /// What was sent and not acknowledged, in order of sending. Acknowledged entries stay as
    /// tombstones until the front moves past them or they are the majority.
    in_flight: VecDeque<InFlight>,
    unacked: u32,
    unacked_bytes: u64,
    /// Counts messages sent; the number of the next one.
    sent: u64,
    /// When the earliest retry timer is due, ms of the monotonic clock; 0: none runs. Another one
    /// that fires is of an earlier time.
    pub(crate) retry_due_ms: u64,
    /// The number of the first message that no retry timer was armed for.
    unarmed: u64,
    pub(crate) retry_loading: bool,
    /// The conversation that the log is being read for.
    pub(crate) reading: Option<ConvKey>,
    /// The window was full: reads wait for room.
    pub(crate) stalled: bool,
    pub(crate) pull_armed: bool,
    /// Conversations with more in the log than was sent, in order of service.
    pub(crate) behind: VecDeque<ConvKey>,
    pub(crate) catch_up: CatchUp,
}

/// What a device goes through when it connects.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    /// The inbox marks are not all read yet: deliveries are noted in `early`.
    pub(crate) loading: bool,
    /// Counts against `CATCH_UPS_MAX`.
    pub(crate) slot: bool,
    /// First seq and head of what was routed while the marks were read.
    pub(crate) early: HashMap<ConvKey, Early, Hashing>,
    /// Conversations that are pushed with pauses, in order.
    pub(crate) paced: VecDeque<ConvKey>,
    /// The page that is being pushed, and the next record in it.
    pub(crate) page: Option<Box<(ConvKey, Page, usize)>>,
    /// The message whose acknowledgement or pause is waited for.
    pub(crate) waits_for: Option<u64>,
    /// Memberships whose group's head is not known here yet.
    pub(crate) unplaced: Vec<MembershipLoaded>,
    /// Memberships were read to their end.
    pub(crate) memberships_read: bool,
    /// Groups in which the device has its place.
    pub(crate) placed: Vec<ConvKey>,
}

impl CatchUp {
    /// A delivery is routed here while the marks are read.
    pub(crate) fn comes_early(&mut self, key: ConvKey, seq: u64) {
        let early = self.early.entry(key).or_insert(Early { first: seq, head: 0 });
        if early.first == 0 {
            early.first = seq;
        }
    }

    /// Whether the device's place in this group is known. From then on it counts like any other
    /// device there, but nothing is sent to it before the rest is known, too.
    pub(crate) fn has_place(&self, key: ConvKey) -> bool {
        let waits = |membership: &MembershipLoaded| membership.conversation == key;
        !self.loading || (self.placed.contains(&key) && !self.unplaced.iter().any(waits))
    }
}

/// See [`CatchUp::early`]. `first` is 0 while there is nothing to get, `head` until it is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Early {
    pub(crate) first: u64,
    pub(crate) head: u64,
}

/// A message that was sent to a device. Never its body: a retry reads the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) conversation: ConvKey,
    pub(crate) class: Class,
    pub(crate) seq: u64,
    /// The id under which the device acknowledges it.
    pub(crate) wire: MessageId,
    /// Its number in order of sending.
    pub(crate) number: u64,
    pub(crate) first_ms: u64,
    pub(crate) bytes: u32,
    pub(crate) tries: u8,
    acked: bool,
}

impl InFlight {
    /// When it is due again, if ever: ms of the monotonic clock.
    pub(crate) fn due_ms(&self, rules: &Delivery<'_>) -> Option<u64> {
        let after = rules.retry_ms(self.class).get(usize::from(self.tries));
        after.map(|after| self.first_ms + after)
    }
}

impl Live {
    pub(crate) fn new(conn: ConnId, epoch: u32, since_ms: u64, new: bool, turn: u64) -> Live {
        Live {
            conns: vec![conn],
            epoch,
            since_ms,
            new,
            turn,
            in_flight: VecDeque::new(),
            unacked: 0,
            unacked_bytes: 0,
            sent: 0,
            retry_due_ms: 0,
            unarmed: 0,
            retry_loading: false,
            reading: None,
            stalled: false,
            pull_armed: false,
            behind: VecDeque::new(),
            catch_up: CatchUp { loading: true, ..CatchUp::default() },
        }
    }

    /// The same connections at the beginning of another stay.
    pub(crate) fn again(&self, epoch: u32) -> Live {
        let mut again = Live::new(self.conns[0], epoch, self.since_ms, false, self.turn);
        again.conns.clone_from(&self.conns);
        again
    }

    /// Nothing more is written to it before `turn` is durable.
    pub(crate) fn wait_for(&mut self, turn: u64) {
        self.turn = self.turn.max(turn);
    }

    /// Whether a message must be held with the open turn: its connection's `101` is, or a message
    /// that was held for this reason. Then what follows must be held too, or it would overtake.
    pub(crate) fn holds(&mut self, durable: u64, open: u64) -> bool {
        let holds = self.turn > durable;
        if holds {
            self.turn = open;
        }
        holds
    }

    /// A conversation that was put at the end of a list just now comes first.
    pub(crate) fn put_first(&mut self, key: ConvKey) {
        for list in [&mut self.catch_up.paced, &mut self.behind] {
            if list.back() == Some(&key) {
                list.rotate_right(1);
            }
        }
    }

    /// Whether one more message may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.unacked < WINDOW_MESSAGES && self.unacked_bytes < WINDOW_BYTES
    }

    /// Room of the window, in messages and bytes.
    pub(crate) fn room(&self) -> (u32, u64) {
        (
            WINDOW_MESSAGES.saturating_sub(self.unacked),
            WINDOW_BYTES.saturating_sub(self.unacked_bytes),
        )
    }

    /// Notes a message as sent; returns its number.
    pub(crate) fn push(
        &mut self,
        conversation: ConvKey,
        seq: u64,
        class: Class,
        wire: MessageId,
        bytes: u32,
        now_ms: u64,
    ) -> u64 {
        let number = self.sent;
        self.sent += 1;
        self.unacked += 1;
        self.unacked_bytes += u64::from(bytes);
        let first_ms = now_ms;
        let (tries, acked) = (0, false);
        self.in_flight.push_back(InFlight {
            conversation,
            class,
            seq,
            wire,
            number,
            first_ms,
            bytes,
            tries,
            acked,
        });
        number
    }

    /// Takes the oldest unacknowledged message of that class with that id out of flight.
    pub(crate) fn acknowledge(&mut self, class: Class, wire: MessageId) -> Option<InFlight> {
        let wanted = |sent: &&mut InFlight| {
            !sent.acked && sent.wire == wire && sent.class.is_acknowledged_as(class)
        };
        let found = self.in_flight.iter_mut().find(wanted)?;
        found.acked = true;
        let found = *found;
        self.unacked -= 1;
        self.unacked_bytes -= u64::from(found.bytes);
        while self.in_flight.front().is_some_and(|front| front.acked) {
            self.in_flight.pop_front();
        }
        if self.in_flight.len() > 2 * self.unacked as usize + 64 {
            self.in_flight.retain(|sent| !sent.acked);
        }
        Some(found)
    }

    /// How much of what was sent is not acknowledged.
    pub(crate) fn pending(&self) -> usize {
        self.unacked as usize
    }

    /// What is not acknowledged, in order of sending.
    pub(crate) fn unacknowledged(&self) -> impl DoubleEndedIterator<Item = &InFlight> {
        self.in_flight.iter().filter(|sent| !sent.acked)
    }

    /// Of what is not acknowledged, what was sent since the last call, or (`all`) everything.
    pub(crate) fn unarmed(&mut self, all: bool) -> impl Iterator<Item = &InFlight> {
        let from = if all { 0 } else { std::mem::replace(&mut self.unarmed, self.sent) };
        self.unarmed = self.sent;
        self.in_flight
            .iter()
            .rev()
            .take_while(move |sent| sent.number >= from)
            .filter(|sent| !sent.acked)
    }

    /// What is not acknowledged, to count a try.
    pub(crate) fn unacknowledged_mut(&mut self) -> impl Iterator<Item = &mut InFlight> {
        self.in_flight.iter_mut().filter(|sent| !sent.acked)
    }
}

/// What a user's home knows of one conversation.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// The last record that is known to be in the log for everybody to read.
    pub(crate) head: u64,
    /// Devices that are not simply at the head; by index.
    pub(crate) cursors: Vec<Cursor>,
    /// When a position last moved, ms of the monotonic clock.
    pub(crate) changed_ms: u64,
    /// When the timer for it is due; 0: none runs. Another one that fires is of an earlier time.
    pub(crate) settle_due_ms: u64,
    /// A cursor is dirty and this conversation is in the shard's list.
    pub(crate) listed: bool,
    /// Where it comes to the shard once for all: it has no marks, and a device at its head no cursor.
    pub(crate) audience: Option<Audience>,
}

impl Inbox {
    pub(crate) fn cursor(&mut self, device: u32) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|cursor| cursor.device == device)
    }

    /// The device's cursor; one without has everything up to `seq`.
    pub(crate) fn at(&mut self, device: u32, seq: u64) -> &mut Cursor {
        let found = self.cursors.iter().position(|cursor| cursor.device == device);
        let at = found.unwrap_or_else(|| {
            self.cursors.push(Cursor::new(device, seq));
            self.cursors.len() - 1
        });
        &mut self.cursors[at]
    }

    /// Puts a device's cursor.
    pub(crate) fn put(&mut self, cursor: Cursor) {
        match self.cursor(cursor.device) {
            Some(known) => *known = cursor,
            None => self.cursors.push(cursor),
        }
    }

    /// The device's position is known without a cursor.
    pub(crate) fn forget(&mut self, device: u32) {
        self.cursors.retain(|cursor| cursor.device != device);
    }

    /// Where its records are, for their frames.
    pub(crate) fn place(&self) -> Place<'_> {
        self.audience.as_ref().map_or(Place::User, Audience::place)
    }

    /// The seq that everything here has been sent up to, if nothing is left to send or acknowledge.
    pub(crate) fn rest(&self) -> Option<u64> {
        let top = self.cursors.iter().map(|cursor| cursor.sent).fold(self.head, u64::max);
        let rests = |cursor: &Cursor| cursor.sent == top && cursor.unacked == 0;
        self.cursors.iter().all(rests).then_some(top)
    }
}

/// A connected device in one conversation. What was sent and is not in flight is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    pub(crate) device: u32,
    /// Everything up to here was sent, passed, or acknowledged in an earlier stay.
    pub(crate) sent: u64,
    pub(crate) unacked: u32,
    /// Ranges above `sent` that an earlier stay acknowledged; ascending.
    pub(crate) skip: Vec<(u64, u64)>,
    /// Up to here messages are pushed with pauses; `sent` or less when they are not.
    pub(crate) paced_until: u64,
    pub(crate) dirty: bool,
    /// In the device's list of conversations with more in the log.
    pub(crate) behind: bool,
}

impl Cursor {
    pub(crate) fn new(device: u32, sent: u64) -> Cursor {
        let (skip, paced_until) = (Vec::new(), 0);
        Cursor { device, sent, unacked: 0, skip, paced_until, dirty: false, behind: false }
    }

    /// Whether its next message is pushed with a pause.
    pub(crate) fn is_paced(&self) -> bool {
        self.sent < self.paced_until
    }

    /// Whether something ahead is not for this device: its seat does not know that.
    pub(crate) fn skips_ahead(&self) -> bool {
        self.skip.iter().any(|&(_, last)| last > self.sent)
    }

    /// Whether an earlier stay acknowledged `seq`.
    pub(crate) fn skips(&self, seq: u64) -> bool {
        self.skip.iter().any(|&(first, last)| (first..=last).contains(&seq))
    }

    /// The position to store: all that was sent and is not in flight.
    pub(crate) fn position(&self, key: ConvKey, live: &Live) -> Position {
        let mut open: Vec<u64> = Vec::new();
        if self.unacked > 0 {
            let here = live.unacknowledged().filter(|sent| sent.conversation == key);
            open.extend(here.map(|sent| sent.seq));
            open.sort_unstable();
        }
        let mut ranges = Vec::with_capacity(open.len() + self.skip.len());
        for (at, &seq) in open.iter().enumerate() {
            let next = open.get(at + 1).map_or(self.sent, |next| next - 1);
            if next > seq {
                ranges.push((seq + 1, next));
            }
        }
        let behind = self.skip.iter().filter(|&&(_, last)| last > self.sent);
        ranges.extend(behind.map(|&(first, last)| (first.max(self.sent + 1), last)));
        let acked = open.first().map_or(self.sent, |first| first - 1);
        let mut position = Position::merged(acked, ranges);
        // More cannot come together in one window; what is cut off would only be offered again.
        position.ranges.truncate(CURSOR_RANGES_MAX);
        position
    }

    /// How many acknowledged ranges lie above the first unacknowledged message.
    pub(crate) fn ranges(&self, key: ConvKey, live: &Live) -> usize {
        // Fewer open messages than ranges allowed cannot leave more gaps.
        if (self.unacked as usize) < CURSOR_RANGES_PULL {
            return 0;
        }
        self.position(key, live).ranges.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    const KEY: ConvKey = ConvKey { slot: Slot(1), hash: [1; 16] };
    const OTHER: ConvKey = ConvKey { slot: Slot(2), hash: [2; 16] };

    fn live(seqs: &[u64]) -> Live {
        let mut live = Live::new(ConnId { index: 0, generation: 0 }, 0, 0, false, 0);
        for &seq in seqs {
            live.push(KEY, seq, Class::Private, wire(seq), 100, 0);
        }
        live
    }

    fn wire(seq: u64) -> MessageId {
        MessageId([seq as u8; 12])
    }

    fn position(sent: u64, open: &[u64], skip: &[(u64, u64)]) -> (u64, Vec<(u64, u64)>) {
        let mut live = live(open);
        live.push(OTHER, 1, Class::Private, wire(99), 1, 0);
        let mut cursor = Cursor::new(0, sent);
        cursor.unacked = open.len() as u32;
        cursor.skip = skip.to_vec();
        let Position { acked, ranges } = cursor.position(KEY, &live);
        (acked, ranges)
    }

    #[test]
    fn a_position_is_what_was_sent_and_is_not_in_flight() {
        assert_eq!(position(9, &[], &[]), (9, vec![]));
        assert_eq!(position(9, &[5], &[]), (4, vec![(6, 9)]));
        assert_eq!(position(9, &[9], &[]), (8, vec![]));
        assert_eq!(position(9, &[1, 2, 5, 8], &[]), (0, vec![(3, 4), (6, 7), (9, 9)]));
        assert_eq!(position(9, &[9], &[(12, 13)]), (8, vec![(12, 13)]));
        assert_eq!(position(9, &[8], &[(3, 4), (10, 11)]), (7, vec![(9, 11)]));
        assert_eq!(position(9, &[], &[(11, 12)]), (9, vec![(11, 12)]));
        assert_eq!(position(9, &[], &[(10, 12), (14, 15)]), (12, vec![(14, 15)]));
        // Gaps of a membership may be known twice, and lie over what was acknowledged.
        assert_eq!(position(9, &[], &[(14, 15), (12, 20), (14, 15)]), (9, vec![(12, 20)]));
        assert_eq!(position(9, &[], &[(2, 3), (12, 13), (14, 15)]), (9, vec![(12, 15)]));
        assert_eq!(position(9, &[7], &[(8, 11), (13, 13)]), (6, vec![(8, 11), (13, 13)]));
        // What an earlier stay acknowledged may enclose what was not there to be seen.
        assert_eq!(position(9, &[], &[(10, 30), (12, 14)]), (30, vec![]));
        assert_eq!(position(9, &[8], &[(11, 30), (12, 14), (13, 40)]), (7, vec![(9, 9), (11, 40)]));
        assert_eq!(position(9, &[8], &[(5, 12), (14, 13)]), (7, vec![(9, 12)]));
        let every_second: Vec<u64> = (1..200).step_by(2).collect();
        assert_eq!(position(200, &every_second, &[]).1.len(), 100);
    }

    #[test]
    fn acknowledging_takes_the_oldest_of_that_id_and_frees_the_window() {
        let mut live = live(&[1, 2, 3]);
        live.push(OTHER, 7, Class::Private, wire(2), 100, 0);
        assert!(live.acknowledge(Class::Group, wire(2)).is_none(), "of another class");
        assert_eq!(live.room(), (WINDOW_MESSAGES - 4, WINDOW_BYTES - 400));
        assert_eq!(
            live.acknowledge(Class::Private, wire(2)).map(|sent| sent.conversation),
            Some(KEY)
        );
        assert_eq!(
            live.acknowledge(Class::Private, wire(2)).map(|sent| sent.conversation),
            Some(OTHER)
        );
        assert!(live.acknowledge(Class::Private, wire(2)).is_none());
        assert_eq!(live.unacknowledged().map(|sent| sent.seq).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(live.room(), (WINDOW_MESSAGES - 2, WINDOW_BYTES - 200));
    }

    #[test]
    fn tombstones_behind_an_unacknowledged_front_do_not_pile_up() {
        let mut live = live(&[1]);
        for seq in 2..100_000u64 {
            let wire = MessageId([
                (seq >> 16) as u8,
                (seq >> 8) as u8,
                seq as u8,
                1,
                1,
                1,
                1,
                1,
                1,
                1,
                1,
                1,
            ]);
            live.push(KEY, seq, Class::Private, wire, 100, 0);
            assert!(live.acknowledge(Class::Private, wire).is_some());
            assert!(live.in_flight.len() <= 2 + 65);
        }
        assert_eq!(live.unacknowledged().count(), 1);
    }
}
