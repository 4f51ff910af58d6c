//! Who is connected, told to friends: `online` with the first connection, `offline` when there was
//! none for [`OFFLINE_MS`], `hide` when the user wants nothing told any more.
//!
//! Nothing of it is stored, and it is the first thing to be given up: each user waits at most once
//! for his turn, friends are read in pages, one list goes to each shard, and it is dropped where the
//! link's deliveries are full. After a start it is held back for a while: everybody comes again.

use std::collections::VecDeque;

use crate::account::Presence;
use crate::dialect::imboy;
use crate::event::{Effects, Load, PresenceNews, Routed, Write};
use crate::ids::{Dialect, ShardId, UserId};
use crate::limits::{OFFLINE_MS, PRESENCE_PAGE, PRESENCE_TOLD_MAX};
use crate::relations::RelationRow;
use crate::shard::timers::Timer;
use crate::shard::users::{User, UserRef};
use crate::shard::{Shard, Waiting, frame};

/// Users whose friends have to be told.
#[derive(Debug)]
pub(crate) struct Announcements {
    /// In order, each once: see [`Told::queued`].
    waiting: VecDeque<UserRef>,
    /// How many are being told.
    telling: usize,
    /// Nothing is told before: ms of the monotonic clock. `None`: the clock has not been read yet.
    quiet_until_ms: Option<u64>,
    quiet_ms: u64,
}

/// What a user's friends have been told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// That he is online, and nothing since.
    online: bool,
    /// He waits for his turn.
    queued: bool,
    /// His friends are being read.
    telling: bool,
    /// The last connection has gone: friends are told then, ms of the monotonic clock; 0: not so.
    offline_at_ms: u64,
}

impl Told {
    /// Nothing of it is under way, or would be lost.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.online && !self.queued && !self.telling
    }

    /// Friends are told something else that says that he is gone.
    pub(crate) fn forget(&mut self) {
        (self.online, self.offline_at_ms) = (false, 0);
    }
}

impl Announcements {
    pub(crate) fn new(quiet_ms: u64) -> Announcements {
        let waiting = VecDeque::new();
        Announcements { waiting, telling: 0, quiet_until_ms: None, quiet_ms }
    }
}

impl User {
    /// What others may be told of his connections.
    pub(crate) fn presence(&self) -> Presence {
        match &self.row {
            Some(row) if row.standing.hidden => Presence::Hidden,
            Some(_) if self.connections > 0 || self.told.offline_at_ms > 0 => Presence::Online,
            _ => Presence::Offline,
        }
    }
}

impl Shard {
    /// A first connection has come, the last one gone, or the user has hidden or not any more:
    /// friends are told when it is his turn.
    pub(crate) fn presence_changed(&mut self, user: UserRef, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        if owner.connections > 0 {
            owner.told.offline_at_ms = 0;
        } else if owner.told.online && owner.told.offline_at_ms == 0 {
            owner.told.offline_at_ms = now_ms + OFFLINE_MS;
            self.timers.arm(owner.told.offline_at_ms, Timer::Offline { user });
        }
        if (owner.presence() == Presence::Online) != owner.told.online && !owner.told.queued {
            owner.told.queued = true;
            self.announcements.waiting.push_back(user);
        }
        self.announce(effects);
    }

    /// A user may have been away for long enough.
    pub(crate) fn gone_offline(&mut self, user: UserRef, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let Some(owner) = self.users.get_mut(user) else { return };
        let due_ms = owner.told.offline_at_ms;
        if due_ms == 0 || due_ms > now_ms || owner.connections > 0 {
            return;
        }
        owner.told.offline_at_ms = 0;
        if owner.told.online && !owner.told.queued {
            owner.told.queued = true;
            self.announcements.waiting.push_back(user);
        }
        self.announce(effects);
    }

    /// Begins to tell the friends of those whose turn it is.
    pub(crate) fn announce(&mut self, effects: &mut Effects) {
        let now_ms = self.now_ms();
        let quiet_ms = self.announcements.quiet_ms;
        let until_ms = *self.announcements.quiet_until_ms.get_or_insert(now_ms + quiet_ms);
        if now_ms < until_ms {
            if !self.announcements.waiting.is_empty() {
                self.timers.arm(until_ms, Timer::Announce);
            }
            return;
        }
        while self.announcements.telling < PRESENCE_TOLD_MAX
            && let Some(user) = self.announcements.waiting.pop_front()
        {
            let owner = self.users.get_mut(user).expect("who waits is not forgotten");
            owner.told.queued = false;
            let presence = owner.presence();
            let online = presence == Presence::Online;
            if online == owner.told.online || owner.told.telling {
                // Of two changes, the friends are told neither; of one that comes while they are
                // being told of another, afterwards.
                self.leave_if_idle(user);
                continue;
            }
            owner.told.online = online;
            owner.told.telling = true;
            self.announcements.telling += 1;
            self.load_friends(user, presence, None, effects);
        }
    }

    fn load_friends(
        &mut self,
        user: UserRef,
        presence: Presence,
        after: Option<UserId>,
        effects: &mut Effects,
    ) {
        let id = self.users.get(user).expect("who is told of is not forgotten").id.clone();
        let load = Load::Relations { user: id, after, limit: PRESENCE_PAGE, friends: true };
        self.load(Waiting::Presence { user, presence }, load, effects);
    }

    pub(crate) fn friends_loaded(
        &mut self,
        user: UserRef,
        presence: Presence,
        page: &[(UserId, RelationRow)],
        effects: &mut Effects,
    ) {
        let owner = self.users.get(user).expect("who is told of is not forgotten");
        let (id, turn) = (owner.id.clone(), owner.turn);
        for home in (0..self.config.shards).map(ShardId) {
            // Who is blocked is told nothing.
            let friends = page.iter().filter(|(friend, row)| {
                row.blocked_ms == 0 && friend.slot().shard(self.config.shards) == home
            });
            let friends: Vec<UserId> = friends.map(|(friend, _)| friend.clone()).collect();
            if friends.is_empty() {
                continue;
            }
            let news = Box::new(PresenceNews { user: id.clone(), presence, friends });
            if home == self.config.shard {
                self.route_later(home, Routed::Presence(news), turn, effects);
            } else if let Some(routed) = self.links.offer_presence(home, news) {
                self.out(effects, turn).routes.push((home, routed));
            }
        }
        if page.len() == PRESENCE_PAGE as usize {
            let last = page.last().map(|(friend, _)| friend.clone());
            return self.load_friends(user, presence, last, effects);
        }
        self.announcements.telling -= 1;
        let owner = self.users.get_mut(user).expect("looked up above");
        owner.told.telling = false;
        // It may have changed again.
        self.presence_changed(user, effects);
        self.leave_if_idle(user);
    }

    /// Friends of this shard are told.
    pub(crate) fn presence_news(&mut self, news: &PresenceNews, effects: &mut Effects) {
        let wall_ms = self.now.wall_ms;
        let Some(id) = self.ids.next((wall_ms / 1000) as u32) else { return };
        for friend in &news.friends {
            let Some(user) = self.users.find(friend.as_str()) else { continue };
            let owner = self.users.get_mut(user).expect("found");
            for device in &mut owner.devices {
                let Some(live) = &mut device.live else { continue };
                let held = live.holds(self.durable, effects.turn);
                let outputs = if held { &mut effects.held } else { &mut effects.now };
                let settings = &self.config.dialects.imboy;
                let range = match device.id.dialect {
                    Dialect::Imboy => frame(outputs, |out| {
                        let (from, to) = (news.user.as_str(), friend.as_str());
                        imboy::write_presence(settings, id, from, to, news.presence, wall_ms, out);
                    }),
                };
                let writes = live.conns.iter().map(|&conn| Write { conn, range: range.clone() });
                outputs.signals.extend(writes);
            }
        }
    }
}
