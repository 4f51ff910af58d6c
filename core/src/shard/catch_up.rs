//! What there is for a device that has just connected: inbox marks, memberships, its positions in
//! each. Once all of it has been looked at, `reading` delivers it.

use crate::event::{
    Effects, Entry, InboxMark, Load, MembershipLoaded, MembershipRow, OPEN, Position, Routed,
};
use crate::ids::{ConvKey, Conversation, DeviceId};
use crate::limits::{CATCH_UPS_MAX, INBOX_PAGE, MEMBERSHIPS_PAGE};
use crate::shard::fanout::Audience;
use crate::shard::users::{Cursor, UserRef};
use crate::shard::{Shard, Waiting};

impl Shard {
    /// A device reads its inbox marks, when it is its turn.
    pub(crate) fn queue_catch_up(
        &mut self,
        user: UserRef,
        device: u32,
        epoch: u32,
        effects: &mut Effects,
    ) {
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
        let seated = self.seat_position(user, key).is_some();
        let Some(live) = self.live(user, device, epoch) else { return };
        let unplaced = &mut live.catch_up.unplaced;
        let Some(at) = unplaced.iter().position(|waiting| waiting.conversation == key) else {
            return;
        };
        let open = unplaced[at].row.ranges.last().is_some_and(|&(_, last)| last == OPEN);
        if open && !seated {
            // What was read knows already that the user has come back; the news of it is on its way
            // behind that of leaving, and brings the seat.
            return;
        }
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
            let placed = owner.inbox.get_mut(&key).is_some_and(|at| at.cursor(device).is_some());
            if !placed && early.first == 0 {
                continue;
            }
            let inbox = owner.inbox.entry(key).or_default();
            inbox.head = inbox.head.max(early.head);
            let head = inbox.head;
            if !placed {
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
