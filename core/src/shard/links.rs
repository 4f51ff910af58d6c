//! What may be under way from this shard to another, and what becomes of the rest.
//!
//! Commands and outcomes are bounded by admission, settlements by one per conversation. Deliveries
//! are bounded here: past [`LINK_DELIVERIES_MAX`] or [`LINK_BYTES_MAX`] not yet drained by the
//! receiver, a delivery is replaced by the conversation's head, one per member and conversation,
//! and the heads leave when there is room. A delivery may be lost that way; a head is not. A signal
//! that finds no room is dropped.

use std::collections::VecDeque;

use crate::hash::Hashing;
use hashbrown::HashMap;

use crate::event::{Deliver, PresenceNews, Routed, Signal};
use crate::ids::{ConvKey, ShardId, UserId};
use crate::limits::{LINK_BYTES_MAX, LINK_DELIVERIES_MAX};

/// Whom a delivery is for: the devices of one user, or (`None`) the shard's members of a group.
type To = (Option<UserId>, ConvKey);

/// The link to one shard.
#[derive(Debug, Default)]
struct Link {
    sent: u64,
    sent_bytes: u64,
    drained: u64,
    drained_bytes: u64,
    /// Heads that wait: `from..=head` are in the log. While a conversation is here, its later
    /// deliveries are added to it, so that no delivery overtakes an earlier one.
    heads: HashMap<To, (u64, u64), Hashing>,
    /// The order in which the heads leave.
    order: VecDeque<To>,
    /// The last turn that a waiting head depends on.
    turn: u64,
}

impl Link {
    fn has_room(&self) -> bool {
        self.sent - self.drained < LINK_DELIVERIES_MAX
            && self.sent_bytes - self.drained_bytes < LINK_BYTES_MAX
    }
}

/// The links to all shards, by number.
#[derive(Debug)]
pub(crate) struct Links {
    links: Vec<Link>,
}

/// What counts as one delivery's size, here and where the receiver drains it.
pub fn delivery_bytes(routed: &Routed) -> Option<u64> {
    match routed {
        Routed::Deliver { deliver, .. } | Routed::GroupDeliver(deliver) => {
            Some(256 + deliver.content.len() as u64)
        }
        Routed::Signal(signal) => Some(256 + signal.content.len() as u64),
        Routed::Head { .. } => Some(128),
        Routed::Presence(news) => Some(128 + 32 * news.friends.len() as u64),
        Routed::Command(_)
        | Routed::Outcome(_)
        | Routed::Owed { .. }
        | Routed::Paid { .. }
        | Routed::Changed { .. }
        | Routed::Settled { .. }
        | Routed::Noted { .. }
        | Routed::Subscribe { .. }
        | Routed::Unsubscribe { .. }
        | Routed::Subscribed { .. }
        | Routed::Heard { .. }
        | Routed::Membership { .. } => None,
    }
}

impl Links {
    pub(crate) fn new(shards: u16) -> Links {
        Links { links: (0..shards).map(|_| Link::default()).collect() }
    }

    /// The delivery itself, when there is room for it; else it has become a head. `turn` is the
    /// one that makes it durable.
    pub(crate) fn offer(
        &mut self,
        to: ShardId,
        user: Option<UserId>,
        deliver: Box<Deliver>,
        turn: u64,
    ) -> Option<Routed> {
        let link = &mut self.links[usize::from(to.0)];
        let seq = deliver.stored.seq;
        let key = (user, deliver.conversation);
        if let Some((_, head)) = link.heads.get_mut(&key) {
            *head = seq;
        } else if link.has_room() {
            let routed = match key.0 {
                Some(user) => Routed::Deliver { user, deliver },
                None => Routed::GroupDeliver(deliver),
            };
            link.sent += 1;
            link.sent_bytes += delivery_bytes(&routed).expect("a delivery");
            return Some(routed);
        } else {
            link.order.push_back(key.clone());
            link.heads.insert(key, (seq, seq));
        }
        link.turn = link.turn.max(turn);
        None
    }

    /// A list of friends to be told of somebody's presence; `None`: there is no room, and it is
    /// dropped.
    pub(crate) fn offer_presence(
        &mut self,
        to: ShardId,
        news: Box<PresenceNews>,
    ) -> Option<Routed> {
        self.offer_fleeting(to, Routed::Presence(news))
    }

    /// The signal, when there is room for it; else it is dropped.
    pub(crate) fn offer_signal(&mut self, to: ShardId, signal: Box<Signal>) -> Option<Routed> {
        self.offer_fleeting(to, Routed::Signal(signal))
    }

    fn offer_fleeting(&mut self, to: ShardId, routed: Routed) -> Option<Routed> {
        let link = &mut self.links[usize::from(to.0)];
        if !link.has_room() {
            return None;
        }
        link.sent += 1;
        link.sent_bytes += delivery_bytes(&routed).expect("counted like a delivery");
        Some(routed)
    }

    /// The receiver has drained so much since the process began.
    pub(crate) fn drained(&mut self, to: ShardId, deliveries: u64, bytes: u64) {
        let link = &mut self.links[usize::from(to.0)];
        assert!(deliveries <= link.sent && bytes <= link.sent_bytes, "drained more than was sent");
        link.drained = link.drained.max(deliveries);
        link.drained_bytes = link.drained_bytes.max(bytes);
    }

    /// The next waiting head, when there is room for one, and the turn it depends on.
    pub(crate) fn next_head(&mut self, to: ShardId) -> Option<(Routed, u64)> {
        let link = &mut self.links[usize::from(to.0)];
        if !link.has_room() {
            return None;
        }
        let key = link.order.pop_front()?;
        let (from, head) = link.heads.remove(&key).expect("both are kept together");
        let (user, conversation) = key;
        let routed = Routed::Head { user, conversation, from, head };
        link.sent += 1;
        link.sent_bytes += delivery_bytes(&routed).expect("a head");
        Some((routed, link.turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Stored;
    use crate::ids::{DeviceId, Dialect, MessageId, Slot};
    use crate::record::Kind;

    fn deliver(conversation: u8, seq: u64, bytes: usize) -> Box<Deliver> {
        Box::new(Deliver {
            conversation: ConvKey { slot: Slot(0), hash: [conversation; 16] },
            stored: Stored { id: MessageId([0; 12]), seq, time_ms: 0 },
            kind: Kind::Message,
            sender_ms: None,
            countable: seq,
            sender: "u".into(),
            device: DeviceId { dialect: Dialect::Imboy, name: "d".into() },
            client_id: "".into(),
            content: vec![0; bytes].into(),
        })
    }

    fn user() -> Option<UserId> {
        UserId::parse("u")
    }

    #[test]
    fn a_full_link_keeps_one_head_per_conversation_and_loses_none() {
        let to = ShardId(1);
        let mut links = Links::new(2);
        let mut sent = 0;
        while links.offer(to, user(), deliver(1, sent + 1, 10), 1).is_some() {
            sent += 1;
        }
        assert_eq!(sent, LINK_DELIVERIES_MAX);
        for seq in sent + 2..sent + 1000 {
            assert!(links.offer(to, user(), deliver(1, seq, 10), 2).is_none());
        }
        assert!(links.offer(to, user(), deliver(2, 7, 10), 3).is_none());
        assert!(links.next_head(to).is_none(), "there is still no room");

        links.drained(to, 1, 266);
        // There is room, but the waiting head may not be overtaken by its successor.
        assert!(links.offer(to, user(), deliver(1, sent + 1000, 10), 4).is_none());
        let (routed, turn) = links.next_head(to).expect("room for one");
        let Routed::Head { from, head, .. } = routed else { panic!("{routed:?}") };
        assert_eq!((from, head, turn), (sent + 1, sent + 1000, 4));
        assert!(links.next_head(to).is_none(), "the room is used");

        links.drained(to, 2, 2 * 266);
        let (routed, _) = links.next_head(to).expect("the other conversation");
        assert!(matches!(routed, Routed::Head { from: 7, head: 7, .. }), "{routed:?}");
        links.drained(to, 3, 3 * 266);
        assert!(links.offer(to, user(), deliver(1, sent + 1001, 10), 5).is_some(), "live again");
    }

    #[test]
    fn signals_take_room_and_are_dropped_without_it() {
        let to = ShardId(0);
        let mut links = Links::new(1);
        let user = UserId::parse("u").expect("valid");
        let device = DeviceId { dialect: Dialect::Imboy, name: "d".into() };
        let signal = || {
            let content = vec![0; 4].into();
            let (user, sender, device) = (user.clone(), user.clone(), device.clone());
            Box::new(Signal { user, sender, device, content })
        };
        let fit =
            (0..2 * LINK_DELIVERIES_MAX).filter(|_| links.offer_signal(to, signal()).is_some());
        assert_eq!(fit.count() as u64, LINK_DELIVERIES_MAX);
        assert!(
            links.offer(to, super::tests::user(), deliver(1, 1, 10), 1).is_none(),
            "they share the room"
        );
        links.drained(to, 2, 2 * 260);
        assert!(links.next_head(to).is_some(), "what was stored is not lost");
        assert!(links.offer_signal(to, signal()).is_some());
        assert!(links.offer_signal(to, signal()).is_none());
    }

    #[test]
    fn bytes_fill_a_link_too() {
        let to = ShardId(0);
        let mut links = Links::new(1);
        let big = 1 << 20;
        let fit =
            (0..20).take_while(|&n| links.offer(to, user(), deliver(1, n + 1, big), 1).is_some());
        assert_eq!(fit.count() as u64, LINK_BYTES_MAX / (1 << 20));
    }

    #[test]
    fn presence_is_dropped_where_deliveries_have_no_room() {
        let to = ShardId(0);
        let mut links = Links::new(1);
        let user = UserId::parse("u").expect("valid");
        let news = || {
            let (user, presence) = (user.clone(), crate::account::Presence::Online);
            Box::new(PresenceNews { user: user.clone(), presence, friends: vec![user] })
        };
        let mut sent = 0;
        while links.offer_presence(to, news()).is_some() {
            sent += 1;
        }
        assert_eq!(sent, LINK_DELIVERIES_MAX, "it takes room like deliveries");
        links.drained(to, 1, 160);
        assert!(links.offer_presence(to, news()).is_some());
        assert!(links.offer_presence(to, news()).is_none());
    }
}
