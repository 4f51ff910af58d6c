//! A shard of the message core: one thread's part of the users and conversations.
//!
//! The way of a message through it: [`sessions`] decodes a frame into a command; [`requests`], at the
//! home of its [`conversations`] entry, executes it when all that it needs is known; [`appending`]
//! stores it; [`delivery`] (at the member's home) sends it to devices; what they cannot take live is
//! read from the log by [`reading`] and sent again by [`retries`]; [`positions`] counts
//! acknowledgements. [`connect`] brings connections to their user, [`catch_up`] finds out what there
//! is for them; [`operations`] is what the control plane asks; [`users`], [`links`] and [`timers`] hold
//! state. Nothing here may touch the world: see [`crate::event`].

mod accounts;
mod appending;
mod catch_up;
mod compression;
mod connect;
mod conversations;
mod debts;
mod delivery;
mod everybody;
mod fanout;
mod groups;
pub mod links;
mod operations;
mod positions;
mod presence;
mod prompts;
mod reading;
mod reads;
mod relations;
mod requests;
mod retries;
mod schedule;
mod sessions;
mod signals;
mod timers;
mod users;

use std::collections::VecDeque;
use std::ops::Range;

use slab::Slab;

use crate::account::Presence;
use crate::dialect::Settings;
use crate::dialect::json::Scratch;
use crate::event::{
    Answer, ControlId, Effects, Entry, Input, Load, LoadId, Loaded, Now, Outputs, Routed, Write,
};
use crate::ids::{ConnId, ConvKey, IdGenerator, MessageId, ShardId, UserId};
use crate::limits::{CONNECTION_REQUESTS_MAX, SHARD_REQUEST_BYTES_MAX, SHARD_REQUESTS_MAX};
use crate::rate::RateLimits;
use crate::relations::PrivatePolicy;
use crate::scheduled::DueKey;
pub use crate::shard::compression::CompressedBytes;
use crate::shard::compression::{Before, Compression};
use crate::shard::conversations::Conversations;
use crate::shard::debts::Debts;
use crate::shard::everybody::Everybody;
use crate::shard::fanout::LocalGroups;
use crate::shard::links::Links;
use crate::shard::presence::Announcements;
use crate::shard::relations::Changes;
use crate::shard::schedule::Schedule;
use crate::shard::sessions::Sessions;
use crate::shard::timers::{Timer, Timers};
use crate::shard::users::{UserRef, Users};
use crate::ws::frame::{Opcode, begin_frame, end_frame};

/// How often the id lease is looked at.
const LEASE_LOOK_MS: u64 = 5_000;

/// What a shard is told when it is made.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// The store's secret: seeds conversation and dedup keys.
    pub secret: u64,
    /// The store's node id, for message ids.
    pub node: [u8; 3],
    /// The largest second that any shard of this store was allowed to use in ids.
    pub id_leased: u32,
    /// Create unknown users when they connect.
    pub auto_create_users: bool,
    /// Who may write to whom.
    pub private_policy: PrivatePolicy,
    /// Members of a common group may, too, where not everybody may.
    pub strangers_over_groups: bool,
    /// Nobody is told who comes and goes for so long after the start, ms.
    pub presence_quiet_ms: u64,
    /// How long an author may take a message back, ms; 0: always.
    pub revoke_within_ms: u64,
    /// How hard frames are compressed, for connections that negotiated it: 1 to 9.
    pub deflate_level: u8,
    /// Settings of the dialects.
    pub dialects: Settings,
    /// How fast connections and users may ask.
    pub rates: RateLimits,
}

/// What a load was for.
#[derive(Clone, Debug)]
enum Waiting {
    Conversation { key: ConvKey },
    Dedup { key: ConvKey, ticket: u64 },
    Message { key: ConvKey },
    Rival { key: ConvKey, ticket: u64 },
    Members { key: ConvKey, ticket: u64, users: Vec<UserId> },
    Roster { id: ControlId },
    People { key: ConvKey, ticket: u64, clock: u64 },
    CommonGroup { key: ConvKey, ticket: u64 },
    Friends { id: ControlId },
    Presence { user: UserRef, presence: Presence },
    DueKeys,
    Scheduled { keys: Vec<DueKey> },
    Chats { id: ControlId },
    Read { id: ControlId, user: UserRef, key: ConvKey, seq: u64 },
    Owed,
    Cancel { id: MessageId },
    Find { id: ControlId },
    Memberships { user: UserRef, device: u32, epoch: u32 },
    User { user: UserRef },
    Inbox { user: UserRef, device: u32, epoch: u32 },
    Everybody { user: UserRef, device: u32, epoch: u32 },
    Settle { user: UserRef, key: ConvKey, seq: u64 },
    Page { user: UserRef, device: u32, epoch: u32, key: ConvKey },
    Retry { user: UserRef, device: u32, epoch: u32, key: ConvKey },
}

/// A state machine: see the module.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    now: Now,
    /// All turns up to this one are durable.
    durable: u64,
    /// The last turn that has entries.
    written: u64,
    ids: IdGenerator,
    /// The lease that is being written: turn and second.
    lease: Option<(u64, u32)>,
    lease_armed: bool,
    sessions: Sessions,
    users: Users,
    conversations: Conversations,
    /// The groups that connected users of this shard are in.
    groups: LocalGroups,
    /// Notices to everybody.
    everybody: Everybody,
    /// What the homes of this shard owe to others.
    debts: Debts,
    /// Messages that are due soon.
    schedule: Schedule,
    /// Which users have changed since what is known of them was loaded.
    changes: Changes,
    /// Users whose friends have to be told that they have come or gone.
    announcements: Announcements,
    /// What this shard routes to itself once its turn is durable.
    later: VecDeque<(u64, Routed)>,
    /// Conversations whose next request waits for a turn to be durable.
    runs_after: VecDeque<(u64, ConvKey)>,
    /// Loads without an answer yet, by load id.
    loads: Slab<Waiting>,
    timers: Timers,
    /// Scratch of `tick`.
    due: Vec<Timer>,
    links: Links,
    /// Conversations of users whose cursors are to be written.
    dirty: Vec<(UserRef, ConvKey)>,
    flush_armed: bool,
    /// Records that devices must read from the log once their turn is durable.
    unread: VecDeque<delivery::Unread>,
    /// Questions to the log that wait for a turn to be durable.
    loads_after: VecDeque<(u64, Waiting, Load)>,
    /// Devices whose inbox marks are read once the turn is durable.
    marks_after: VecDeque<(u64, UserRef, u32, u32)>,
    /// Users that may be forgotten once the turn is durable.
    leaving: VecDeque<(u64, UserRef)>,
    /// Devices that catch up, and those that wait for it: user, device, epoch.
    catch_ups: usize,
    catch_up_queue: VecDeque<(UserRef, u32, u32)>,
    /// Tells stays of devices apart.
    epoch: u32,
    /// Messages in flight, of all devices: the sum of their `unacked`.
    pending: usize,
    /// Requests taken from this shard's sockets and not answered yet, and their content's bytes.
    requests: u32,
    request_bytes: usize,
    /// The log's disk is down to its reserve.
    space_low: bool,
    json: Scratch,
    compression: Compression,
}

/// What a shard has in memory, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Users in use.
    pub users: usize,
    /// Conversations in use.
    pub conversations: usize,
    /// Requests taken and not answered.
    pub requests: u32,
    /// Loads without an answer.
    pub loads: usize,
    /// Devices that catch up or wait for it.
    pub catch_ups: usize,
    /// What homes owe to others' logs.
    pub owed: usize,
    /// Scheduled messages that are due soon.
    pub due: usize,
    /// Messages sent to connected devices and not acknowledged.
    pub pending: usize,
}

impl Shard {
    /// A shard that knows nothing yet. It admits nothing before its first id lease is durable:
    /// give it a tick first.
    pub fn new(config: ShardConfig) -> Shard {
        let ids = IdGenerator::new(config.node, config.shard, config.id_leased);
        let links = Links::new(config.shards);
        let debts = Debts::new(config.shards);
        let announcements = Announcements::new(config.presence_quiet_ms);
        let compression = Compression::new(config.deflate_level);
        let everybody = Everybody::new(&config);
        Shard {
            config,
            now: Now::default(),
            durable: 0,
            written: 0,
            ids,
            lease: None,
            lease_armed: false,
            sessions: Sessions::default(),
            users: Users::default(),
            conversations: Conversations::default(),
            groups: LocalGroups::default(),
            everybody,
            debts,
            schedule: Schedule::default(),
            changes: Changes::default(),
            announcements,
            later: VecDeque::new(),
            runs_after: VecDeque::new(),
            loads: Slab::new(),
            timers: Timers::new(),
            due: Vec::new(),
            links,
            dirty: Vec::new(),
            flush_armed: false,
            unread: VecDeque::new(),
            loads_after: VecDeque::new(),
            marks_after: VecDeque::new(),
            leaving: VecDeque::new(),
            catch_ups: 0,
            catch_up_queue: VecDeque::new(),
            epoch: 0,
            pending: 0,
            requests: 0,
            request_bytes: 0,
            space_low: false,
            json: Scratch::default(),
            compression,
        }
    }

    /// Takes one input; appends what follows from it to the open turn. See [`crate::event`] for
    /// the rule of driving it.
    ///
    /// # Panics
    /// When the driver breaks that rule.
    pub fn handle(&mut self, now: Now, input: Input<'_>, effects: &mut Effects) {
        assert!(effects.turn > self.durable, "the open turn is not durable");
        assert!(now.mono_us >= self.now.mono_us, "the monotonic clock goes on");
        self.now = now;
        let entries = effects.entries.len();
        let before = Before::of(effects);
        match input {
            Input::Opened { conn, hello } => self.opened(conn, hello, effects),
            Input::Message { conn, binary, bytes } => self.message(conn, binary, bytes, effects),
            Input::Closed { conn } => self.closed(conn, effects),
            Input::Routed { from: _, routed } => self.routed(routed, 0, effects),
            Input::LinkDrained { shard, deliveries, bytes } => {
                self.links.drained(shard, deliveries, bytes);
                self.send_heads(shard, effects);
            }
            Input::Durable { turn } => self.became_durable(turn, effects),
            Input::Loaded { id, loaded } => self.loaded(id, loaded, effects),
            Input::Control { id, operation } => self.control(id, operation, effects),
            Input::Rates(rates) => self.config.rates = rates,
            Input::Drain => self.flush_cursors(effects),
            Input::Space { low } => self.space_low = low,
            Input::Tick => self.tick(effects),
        }
        if effects.entries.len() > entries {
            self.written = effects.turn;
        }
        self.compression.compress(&self.sessions, before, effects);
    }

    /// Whether a tick is due at once: there are members who have not got a group's news.
    pub fn has_work(&self) -> bool {
        self.groups.is_busy()
    }

    /// When [`Input::Tick`] is due next, in [`Now::mono_us`]; `None`: no timer runs.
    pub fn next_timer_us(&self) -> Option<u64> {
        self.timers.next_ms().map(|ms| ms * 1000)
    }

    /// Whether data may be read from sockets at all: admission of the whole shard.
    pub fn admits(&self) -> bool {
        self.requests < SHARD_REQUESTS_MAX
            && self.request_bytes < SHARD_REQUEST_BYTES_MAX
            && self.ids.is_leased((self.now.wall_ms / 1000) as u32)
    }

    /// Whether the next data message of this connection may be given to [`Shard::handle`]: it has
    /// fewer than [`CONNECTION_REQUESTS_MAX`] requests in progress, and the shard admits. Control
    /// frames need not ask.
    pub fn takes(&self, conn: ConnId) -> bool {
        let requests = self.sessions.get(conn).map_or(0, |session| session.requests);
        requests < CONNECTION_REQUESTS_MAX && self.admits()
    }

    /// What is in memory.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            users: self.users.len(),
            conversations: self.conversations.len(),
            requests: self.requests,
            loads: self.loads.len(),
            catch_ups: self.catch_ups + self.catch_up_queue.len(),
            owed: self.debts.len(),
            due: self.schedule.len(),
            pending: self.pending,
        }
    }

    /// What compression has done so far.
    pub fn compressed(&self) -> CompressedBytes {
        self.compression.totals()
    }

    fn routed(&mut self, routed: Routed, turn: u64, effects: &mut Effects) {
        match routed {
            Routed::Command(command) => self.command(*command, effects),
            Routed::Outcome(outcome) => self.outcome(*outcome, turn, effects),
            Routed::Deliver { user, deliver } => {
                let key = deliver.conversation;
                self.deliver(&user, key, &deliver.record(), turn, effects);
            }
            Routed::Signal(signal) => self.signal(&signal, turn, effects),
            Routed::Head { user: Some(user), conversation, from, head } => {
                self.head(&user, conversation, from, head, effects);
            }
            Routed::Head { user: None, conversation, head, .. } => {
                self.group_head(conversation, head, effects);
            }
            Routed::Settled { user, conversation, seq, all } => {
                self.settled(user, conversation, seq, all, effects);
            }
            Routed::Noted { user, conversation, seq } => self.noted(&user, conversation, seq),
            Routed::Subscribe { from, conversation } => {
                self.subscribe(from, &conversation, effects);
            }
            Routed::Unsubscribe { from, conversation } => self.unsubscribe(from, conversation),
            Routed::Subscribed { conversation, head } => {
                self.subscribed(conversation, head, effects);
            }
            Routed::GroupDeliver(deliver) => self.group_deliver(deliver, effects),
            Routed::Heard { from, head } => self.heard(from, head, effects),
            Routed::Owed { from, slot, id, owed } => self.owed(from, slot, id, *owed, effects),
            Routed::Paid { slot, id, done } => self.paid(slot, id, done, effects),
            Routed::Changed { user } => self.changed(user),
            Routed::Presence(news) => self.presence_news(&news, effects),
            Routed::Membership { group, seq, joined, users } => {
                self.membership_changed(&group, seq, joined, &users, effects);
            }
        }
    }

    /// To another shard, or at once to this one, once `turn` is durable.
    fn route(&mut self, to: ShardId, routed: Routed, turn: u64, effects: &mut Effects) {
        if to == self.config.shard {
            self.routed(routed, turn, effects);
        } else {
            self.out(effects, turn).routes.push((to, routed));
        }
    }

    /// The same, but not to this shard either before `turn` is durable.
    fn route_later(&mut self, to: ShardId, routed: Routed, turn: u64, effects: &mut Effects) {
        if to == self.config.shard && turn > self.durable {
            self.later.push_back((turn, routed));
        } else {
            self.route(to, routed, turn, effects);
        }
    }

    fn became_durable(&mut self, turn: u64, effects: &mut Effects) {
        assert!(turn >= self.durable && turn < effects.turn);
        self.durable = turn;
        if let Some((leased, second)) = self.lease
            && leased <= turn
        {
            self.ids.extend(second);
            self.lease = None;
        }
        self.read_marks_of_durable(effects);
        self.read_durable(effects);
        while let Some((_, routed)) = self.later.pop_front_if(|(waits, _)| *waits <= turn) {
            self.routed(routed, 0, effects);
        }
        self.send_owed(effects);
        self.ask_durable(effects);
        self.run_durable(effects);
        self.forget_idle_users();
        for shard in 0..self.config.shards {
            self.send_heads(ShardId(shard), effects);
        }
    }

    fn send_heads(&mut self, to: ShardId, effects: &mut Effects) {
        while let Some((routed, turn)) = self.links.next_head(to) {
            self.out(effects, turn).routes.push((to, routed));
        }
    }

    fn loaded(&mut self, id: LoadId, loaded: Loaded, effects: &mut Effects) {
        let waiting = self.loads.remove(id.0 as usize);
        match (waiting, loaded) {
            (Waiting::Conversation { key }, Loaded::Conversation(loaded)) => {
                self.conversation_loaded(key, *loaded, effects);
            }
            (Waiting::Dedup { key, ticket }, Loaded::Dedup(found)) => {
                self.dedup_loaded(key, ticket, found, effects);
            }
            (Waiting::Message { key }, Loaded::Message(found)) => {
                self.message_loaded(key, found, effects);
            }
            (Waiting::Rival { key, ticket }, Loaded::User(loaded)) => {
                self.rival_loaded(key, ticket, loaded.row.is_some(), effects);
            }
            (Waiting::Rival { key, ticket }, Loaded::Conversation(loaded)) => {
                self.rival_loaded(key, ticket, loaded.group.is_some(), effects);
            }
            (Waiting::Members { key, ticket, users }, Loaded::Members(loaded)) => {
                self.members_loaded(key, ticket, users, loaded, effects);
            }
            (Waiting::Find { id }, Loaded::Found(found)) => {
                effects.now.answers.push((id, Answer::Found(found)));
            }
            (Waiting::Roster { id }, Loaded::Roster(members)) => {
                effects.now.answers.push((id, Answer::Members(members)));
            }
            (Waiting::People { key, ticket, clock }, Loaded::Users(people)) => {
                self.people_loaded(key, ticket, clock, people, effects);
            }
            (Waiting::CommonGroup { key, ticket }, Loaded::CommonGroup(found)) => {
                self.common_group_loaded(key, ticket, found.is_some(), effects);
            }
            (Waiting::Friends { id }, Loaded::Relations(friends)) => {
                effects.now.answers.push((id, Answer::Friends(friends)));
            }
            (Waiting::Presence { user, presence }, Loaded::Relations(friends)) => {
                self.friends_loaded(user, presence, &friends, effects);
            }
            (Waiting::DueKeys, Loaded::DueKeys(page)) => self.due_keys_loaded(&page, effects),
            (Waiting::Scheduled { keys }, Loaded::Scheduled(loaded)) => {
                self.scheduled_loaded(&keys, loaded, effects);
            }
            (Waiting::Chats { id }, Loaded::Chats(chats)) => {
                effects.now.answers.push((id, Answer::Chats(chats)));
            }
            (Waiting::Read { id, user, key, seq }, Loaded::Reading(loaded)) => {
                self.reading_loaded(id, user, key, seq, loaded, effects);
            }
            (Waiting::Owed, Loaded::Owed(page)) => self.owed_loaded(page, effects),
            (Waiting::Cancel { id }, Loaded::Relations(page)) => {
                self.cancel_relations(id, page, effects);
            }
            (Waiting::Cancel { id }, Loaded::Memberships(page)) => {
                self.cancel_memberships(id, page, effects);
            }
            (Waiting::Memberships { user, device, epoch }, Loaded::Memberships(memberships)) => {
                self.memberships_loaded(user, device, epoch, memberships, effects);
            }
            (Waiting::User { user }, Loaded::User(loaded)) => {
                self.user_loaded(user, *loaded, effects);
            }
            (Waiting::Inbox { user, device, epoch }, Loaded::Inbox(marks)) => {
                self.marks_loaded(user, device, epoch, marks, effects);
            }
            (Waiting::Everybody { user, device, epoch }, Loaded::Cursors(cursors)) => {
                self.loading_ended(user, device, epoch, &cursors, effects);
            }
            (Waiting::Settle { user, key, seq }, Loaded::Cursors(cursors)) => {
                self.settle_others(user, key, seq, &cursors, effects);
            }
            (Waiting::Page { user, device, epoch, key }, Loaded::Page(page)) => {
                self.page_loaded(user, device, epoch, key, page, effects);
            }
            (Waiting::Retry { user, device, epoch, key }, Loaded::Page(page)) => {
                self.retry_loaded(user, device, epoch, key, &page, effects);
            }
            (waiting, loaded) => panic!("{loaded:?} is no answer to {waiting:?}"),
        }
    }

    /// Asks the log.
    fn load(&mut self, waiting: Waiting, load: Load, effects: &mut Effects) {
        let id = LoadId(self.loads.insert(waiting) as u32);
        effects.loads.push((id, load));
    }

    /// Asks the log once `turn` is durable.
    fn load_after(&mut self, turn: u64, waiting: Waiting, load: Load, effects: &mut Effects) {
        if turn <= self.durable {
            self.load(waiting, load, effects);
        } else {
            self.loads_after.push_back((turn, waiting, load));
        }
    }

    /// What can be asked now.
    fn ask_durable(&mut self, effects: &mut Effects) {
        let durable = self.durable;
        while let Some((_, waiting, load)) =
            self.loads_after.pop_front_if(|(turn, ..)| *turn <= durable)
        {
            self.load(waiting, load, effects);
        }
    }

    fn tick(&mut self, effects: &mut Effects) {
        let now_ms = self.now_ms();
        if !self.lease_armed {
            self.lease_armed = true;
            // From here on presence is held back.
            self.announce(effects);
            self.subscribe_to_everybody(effects);
            self.timers.arm(now_ms, Timer::Lease);
            self.timers.arm(now_ms, Timer::Due { look: true });
        }
        let mut due = std::mem::take(&mut self.due);
        self.timers.fire(now_ms, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Retry { user, device, epoch } => self.retry(user, device, epoch, effects),
                Timer::Flush => self.flush_cursors(effects),
                Timer::Settle { user, conversation } => self.settle(user, conversation, effects),
                Timer::Gap { user, device, epoch, message } => {
                    self.gap_over(user, device, epoch, message, effects);
                }
                Timer::Pull { user, device, epoch } => self.pull(user, device, epoch, effects),
                Timer::Refresh { conn, step } => self.refresh(conn, step, effects),
                Timer::Offline { user } => self.gone_offline(user, effects),
                Timer::Announce => self.announce(effects),
                Timer::Owed => self.owed_again(effects),
                Timer::Due { look } => self.look_at_schedule(look, effects),
                Timer::Prompt { conn } => self.prompt_again(conn, effects),
                Timer::Lease => self.renew_lease(effects),
            }
        }
        self.due = due;
        self.fan_out(effects);
    }

    fn renew_lease(&mut self, effects: &mut Effects) {
        self.timers.arm(self.now_ms() + LEASE_LOOK_MS, Timer::Lease);
        let wanted = self.ids.lease_wanted((self.now.wall_ms / 1000) as u32);
        if let (None, Some(second)) = (self.lease, wanted) {
            self.lease = Some((effects.turn, second));
            effects.entries.push(Entry::IdLease { shard: self.config.shard, second });
        }
    }

    /// Milliseconds of the monotonic clock.
    fn now_ms(&self) -> u64 {
        self.now.mono_us / 1000
    }

    /// Where an effect goes that shows the state of `turn`, or follows from it: it leaves at the
    /// end of this turn when that is durable, else with the open turn, which is no earlier.
    fn out<'e>(&self, effects: &'e mut Effects, turn: u64) -> &'e mut Outputs {
        if turn <= self.durable { &mut effects.now } else { &mut effects.held }
    }
}

/// Appends a text frame whose body `body` writes; returns where it stands in the arena.
fn frame(outputs: &mut Outputs, body: impl FnOnce(&mut Vec<u8>)) -> Range<u32> {
    let start = begin_frame(&mut outputs.arena);
    body(&mut outputs.arena);
    end_frame(&mut outputs.arena, start, Opcode::Text)
}

/// The same, for one connection.
fn write_frame(outputs: &mut Outputs, conn: ConnId, body: impl FnOnce(&mut Vec<u8>)) {
    let range = frame(outputs, body);
    outputs.writes.push(Write { conn, range });
}
