//! What a conversation's home appends to its log, and whom it brings that to.

use bytes::Bytes;
use compact_str::CompactString;

use crate::command::{Action, Command, Done, Mentioned, NoticeOperation, Origin};
use crate::dialect::imboy;
use crate::error::Refusal;
use crate::event::{Answer, ControlId, Deliver, Effects, Entry, MessageEntry, Routed, Stored};
use crate::happened::Happened;
use crate::ids::{Conversation, DedupKey, DeviceId, Dialect, MessageId, UserId};
use crate::owed::Owed;
use crate::record::{Kind, Record};
use crate::shard::Shard;
use crate::shard::conversations::Target;
use crate::shard::debts::Bill;
use crate::shard::groups::{Subscribers, event};

/// A record that is to be appended. Who it is by and where are the caller's business.
pub(crate) struct Draft<'a> {
    /// The id that it has been given already.
    pub(crate) id: Option<MessageId>,
    pub(crate) kind: Kind,
    pub(crate) sender_ms: Option<i64>,
    pub(crate) sender: &'a str,
    pub(crate) device: &'a DeviceId,
    pub(crate) client_id: &'a str,
    pub(crate) content: &'a [u8],
    pub(crate) dedup: Option<DedupKey>,
}

impl Shard {
    /// Stores a message, answers its sender and delivers it.
    pub(crate) fn store(
        &mut self,
        index: u32,
        command: &Command,
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) {
        let Action::Send { kind, sender_ms, content, copies, mentions, .. } = &command.action
        else {
            unreachable!("only a message is stored");
        };
        let (id, dedup) = match command.origin {
            // What resends find from now on has a seq.
            Origin::Schedule(key) => (Some(key.id), self.dedup_of(command)),
            _ => (None, dedup),
        };
        let draft = Draft {
            id,
            kind: *kind,
            sender_ms: *sender_ms,
            sender: command.sender.as_str(),
            device: &command.device,
            client_id: &command.client_id,
            content,
            dedup,
        };
        let Some(stored) = self.append(index, &draft, effects) else {
            return self.answer(command, Err(Refusal::TryAgain), 0, effects);
        };
        if let Some(mentions) = mentions {
            self.put_mentions(index, mentions, stored.seq, effects);
        }
        // Without copies, the sender's home passes the message when it gets the outcome.
        let passes = (!copies).then_some(&command.sender);
        self.put_marks(index, passes, stored.seq, effects);
        self.answer(command, Ok(Done::Stored(stored)), effects.turn, effects);
        self.spread(index, &draft, stored, Some(content), passes, effects);
    }

    /// Takes a message back (protocols/README.md, *Revoke*): an event says so, and the message loses
    /// its content in the same batch.
    pub(crate) fn revoke(
        &mut self,
        index: u32,
        command: &Command,
        target: &Target,
        common: bool,
        effects: &mut Effects,
    ) {
        let (wall_ms, within_ms) = (self.now.wall_ms, self.config.revoke_within_ms);
        let conv = &mut self.conversations.slab[index as usize];
        let turn = conv.turn;
        let Target::Known(page) = target else { unreachable!("it was ready") };
        let found = page.get(0).filter(|record| record.kind != Kind::Event);
        let by_operator = matches!(command.action, Action::Revoke { by_operator: true });
        let policy = self.config.private_policy;
        let checked = match &conv.group {
            // Not even the operator adds to a closed group: its last record is the one that says so.
            Some(group) if by_operator => group.is_open(),
            None if by_operator => Ok(()),
            _ => conv.may_write(command, policy, common),
        };
        let checked = checked.and_then(|()| {
            let record = found.ok_or(Refusal::NotRevocable)?;
            let manages =
                conv.group.as_ref().is_some_and(|group| group.may_manage(&command.sender));
            let own = record.sender == command.sender.as_str();
            let late = within_ms > 0 && record.time_ms + within_ms < wall_ms;
            match (own, manages || by_operator) {
                (_, true) => Ok(record),
                (true, false) if !late => Ok(record),
                (true, false) => Err(Refusal::NotRevocable),
                (false, false) => Err(Refusal::NotPermitted),
            }
        });
        let record = match checked {
            Ok(record) => record,
            Err(refusal) => {
                return self.answer(command, Err(refusal), turn, effects);
            }
        };
        let place = Stored { id: record.id, seq: record.seq, time_ms: record.time_ms };
        if record.kind == Kind::Revoked {
            // Said again: nothing happens again.
            let done = Done::Revoked(Stored { time_ms: wall_ms, ..place });
            return self.answer(command, Ok(done), turn, effects);
        }
        let happened = Happened::Revoked { seq: record.seq, wire: imboy::wire_id(&record) };
        let mut content = Vec::new();
        happened.encode(&mut content);
        let draft = Draft {
            id: None,
            kind: Kind::Event,
            sender_ms: None,
            sender: command.sender.as_str(),
            device: &command.device,
            client_id: "",
            content: &content,
            dedup: None,
        };
        let Some(stored) = self.append(index, &draft, effects) else {
            return self.answer(command, Err(Refusal::TryAgain), 0, effects);
        };
        let conversation = command.key;
        effects.entries.push(Entry::Emptied { conversation, record: emptied(&record) });
        self.put_marks(index, Some(&command.sender), stored.seq, effects);
        self.answer(command, Ok(Done::Revoked(stored)), effects.turn, effects);
        self.spread(index, &draft, stored, None, Some(&command.sender), effects);
    }

    /// Executes a notice of the control plane.
    pub(crate) fn store_notice(
        &mut self,
        index: u32,
        id: ControlId,
        notice: &NoticeOperation,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
        effects: &mut Effects,
    ) {
        let conv = &mut self.conversations.slab[index as usize];
        let known = conv.first_stored(dedup, answer);
        conv.forget_recent(self.durable);
        let answer = match known {
            Some(stored) => Answer::Stored(stored),
            None if !conv.exists[0] => Answer::NoSuchUser,
            None => self
                .append_notice(index, "", &notice.id, &notice.content, dedup, effects)
                .map_or(Answer::Refused(Refusal::TryAgain), Answer::Stored),
        };
        let conv = &self.conversations.slab[index as usize];
        let (key, turn) = (conv.key, conv.turn);
        self.answer_notice(key, id, answer, turn, effects);
    }

    /// Appends an event to a user's notices, or everybody's, and delivers it. `None`: try again.
    fn append_notice(
        &mut self,
        index: u32,
        by: &str,
        client_id: &str,
        content: &[u8],
        dedup: Option<DedupKey>,
        effects: &mut Effects,
    ) -> Option<Stored> {
        let device = no_device();
        let draft = Draft { client_id, dedup, ..event(content, by, &device) };
        let stored = self.append(index, &draft, effects)?;
        self.put_marks(index, None, stored.seq, effects);
        self.spread(index, &draft, stored, None, None, effects);
        Some(stored)
    }

    /// Does what another home owes, and confirms it once it is durable.
    pub(crate) fn pay(
        &mut self,
        index: u32,
        bill: Bill,
        dedup: Option<DedupKey>,
        answer: Option<Option<Stored>>,
        effects: &mut Effects,
    ) {
        let Bill { from, slot, id, owed } = bill;
        let conv = &mut self.conversations.slab[index as usize];
        let known = conv.first_stored(dedup, answer);
        conv.forget_recent(self.durable);
        let done = match owed {
            Owed::Notice { cause, content, .. } => {
                // Who does not exist any more needs not be told.
                known.is_some()
                    || !conv.exists[0]
                    || self
                        .append_notice(index, cause.as_str(), "", &content, dedup, effects)
                        .is_some()
            }
            Owed::Part { user, .. } => self.part(index, &user, effects),
            Owed::Leave { user, heir, .. } => self.leave(index, &user, heir, effects),
            Owed::Cancel { .. } => unreachable!("its own home does it"),
        };
        let turn = self.conversations.slab[index as usize].turn;
        self.confirm(from, slot, id, done, turn, effects);
    }

    /// Appends a record. `None`: there is no id for it yet, try again.
    pub(crate) fn append(
        &mut self,
        index: u32,
        draft: &Draft<'_>,
        effects: &mut Effects,
    ) -> Option<Stored> {
        if self.space_low {
            return None;
        }
        let now_ms = self.now.wall_ms;
        let id = match draft.id {
            Some(id) => id,
            None => self.ids.next((now_ms / 1000) as u32)?,
        };
        let turn = effects.turn;
        let conv = &mut self.conversations.slab[index as usize];
        conv.head += 1;
        let says = matches!(draft.kind, Kind::Message | Kind::Neutral);
        conv.countable += u64::from(says);
        conv.time_ms = conv.time_ms.max(now_ms);
        conv.turn = turn;
        let stored = Stored { id, seq: conv.head, time_ms: conv.time_ms };
        if says {
            conv.note_sent(draft.sender, stored.seq, effects);
        }
        if let Some(dedup) = draft.dedup {
            conv.remember(dedup, stored, turn);
        }
        let key = conv.key;
        if stored.seq == 1 {
            let conversation = conv.conversation.clone().expect("loaded");
            for user in conversation.marked().cloned() {
                effects.entries.push(Entry::Chat { user, conversation: key });
            }
            effects.entries.push(Entry::Conversation { key, conversation });
        }
        let start = effects.entry_bytes.len() as u32;
        effects.entry_bytes.extend_from_slice(draft.content);
        let record = MessageEntry {
            seq: stored.seq,
            kind: draft.kind,
            id,
            time_ms: stored.time_ms,
            sender_ms: draft.sender_ms,
            countable: conv.countable,
            sent: conv.sent,
            sender: CompactString::new(draft.sender),
            device: draft.device.clone(),
            client_id: CompactString::new(draft.client_id),
            content: start..effects.entry_bytes.len() as u32,
            dedup: draft.dedup,
        };
        effects.message(key, record);
        Some(stored)
    }

    /// Notes whom a message mentions, as far as they are members.
    fn put_mentions(&mut self, index: u32, mentions: &Mentioned, seq: u64, effects: &mut Effects) {
        let conv = &self.conversations.slab[index as usize];
        let (conversation, name) = (conv.key, conv.conversation.as_ref().expect("loaded"));
        let is_member = |user: &&UserId| match &conv.group {
            Some(group) => group.has_member(user),
            None => name.side(user.as_str()).is_some(),
        };
        let named = mentions.users.iter().filter(is_member);
        let entry = |user: &UserId| Entry::Mention { user: user.clone(), conversation, seq };
        effects.entries.extend(named.map(entry));
        if mentions.everybody {
            effects.entries.push(Entry::MentionAll { conversation, seq });
        }
    }

    /// Puts the inbox marks of those that have none; the devices of `passes` need none.
    fn put_marks(&mut self, index: u32, passes: Option<&UserId>, seq: u64, effects: &mut Effects) {
        let conv = &mut self.conversations.slab[index as usize];
        let name = conv.conversation.as_ref().expect("loaded");
        for (member, mark) in name.marked().zip(&mut conv.marks) {
            if Some(member) != passes && mark.is_none() {
                *mark = Some(seq);
                let (user, conversation) = (member.clone(), conv.key);
                effects.entries.push(Entry::Mark { user, conversation, seq });
            }
        }
    }

    /// Brings a record to whom it concerns, once the open turn is durable: to the homes of the
    /// marked users but `passes`, or to the shards that have subscribed to the group, or to all.
    /// `body` is the content where it can be shared.
    pub(crate) fn spread(
        &mut self,
        index: u32,
        draft: &Draft<'_>,
        stored: Stored,
        body: Option<&Bytes>,
        passes: Option<&UserId>,
        effects: &mut Effects,
    ) {
        let conv = &self.conversations.slab[index as usize];
        let (key, countable, turn) = (conv.key, conv.countable, effects.turn);
        let deliver = || Deliver {
            conversation: key,
            stored,
            kind: draft.kind,
            sender_ms: draft.sender_ms,
            countable,
            sender: CompactString::new(draft.sender),
            device: draft.device.clone(),
            client_id: CompactString::new(draft.client_id),
            content: body.cloned().unwrap_or_else(|| Bytes::copy_from_slice(draft.content)),
        };
        let subscribers = match (&conv.group, &conv.conversation) {
            (Some(group), _) => Some(group.subscribers.clone()),
            (None, Some(Conversation::Broadcast)) => Some(Subscribers::all(self.config.shards)),
            (None, _) => None,
        };
        if let Some(subscribers) = subscribers {
            if subscribers.is_empty() {
                return;
            }
            let deliver = deliver();
            for to in subscribers.iter() {
                let deliver = Box::new(deliver.clone());
                if to == self.config.shard {
                    self.route_later(to, Routed::GroupDeliver(deliver), turn, effects);
                } else if let Some(routed) = self.links.offer(to, None, deliver, turn) {
                    self.out(effects, turn).routes.push((to, routed));
                }
            }
            return;
        }
        let name = conv.conversation.clone().expect("loaded");
        for member in name.marked().filter(|member| Some(*member) != passes) {
            let home = member.slot().shard(self.config.shards);
            if home == self.config.shard {
                let record = Record {
                    seq: stored.seq,
                    kind: draft.kind,
                    id: stored.id,
                    time_ms: stored.time_ms,
                    sender_ms: draft.sender_ms,
                    countable,
                    sent: [0; 2],
                    sender: draft.sender,
                    dialect: draft.device.dialect,
                    device: &draft.device.name,
                    client_id: draft.client_id,
                    content: draft.content,
                };
                self.deliver(member, key, &record, turn, effects);
            } else if let Some(routed) =
                self.links.offer(home, Some(member.clone()), Box::new(deliver()), turn)
            {
                self.out(effects, turn).routes.push((home, routed));
            }
        }
    }
}

/// What comes from no device; the dialect of its record means nothing.
pub(crate) fn no_device() -> DeviceId {
    DeviceId { dialect: Dialect::Imboy, name: "".into() }
}

/// A message without its content.
fn emptied(record: &Record<'_>) -> Box<MessageEntry> {
    Box::new(MessageEntry {
        seq: record.seq,
        kind: Kind::Revoked,
        id: record.id,
        time_ms: record.time_ms,
        sender_ms: record.sender_ms,
        countable: record.countable,
        sent: record.sent,
        sender: CompactString::new(record.sender),
        device: DeviceId { dialect: record.dialect, name: CompactString::new(record.device) },
        client_id: CompactString::new(record.client_id),
        content: 0..0,
        dedup: None,
    })
}
