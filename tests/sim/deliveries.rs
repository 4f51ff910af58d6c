//! Frames to devices, judged twice: when a shard makes them (nothing again that is acknowledged, and
//! not before its time) and when they leave it (nothing that is not durable, in order, without a
//! gap, and what it says).

use std::collections::{BTreeMap, BTreeSet};

use crate::client::{Class, Hear, Speech};
use crate::ledger::Sort;
use crate::model::{Ack, Fate, Model};
use crate::names::Place;

/// A message's content may still come for so long after the device was told that it was taken
/// back: the log may have been read before. Longer than any load of a run takes.
const READ_BEFORE_US: u64 = 4_000_000;

/// A device's time on one connection, or until it asks for everything again.
#[derive(Clone, Default, Debug)]
pub struct Stay {
    pub number: u32,
    /// When each record was first made a frame of, µs, and how often again.
    emitted: BTreeMap<(Place, u64), (u64, usize)>,
    released: BTreeSet<(Place, u64)>,
    last: BTreeMap<Place, u64>,
}

impl Stay {
    pub fn next(&self) -> Stay {
        Stay { number: self.number + 1, ..Stay::default() }
    }
}

impl Model {
    /// The record that a frame for a device of `user` is of.
    fn identify(&self, user: usize, hear: &Hear) -> Option<(Place, u64)> {
        let own = &self.names.users[user];
        let (sort, place, wire) = match hear {
            Hear::Said { group, wire, from, to, .. } => {
                (Sort::Message, self.place_of(*group, user, from, to), wire)
            }
            Hear::Revoked { group, wire, from, to, .. } => {
                (Sort::Revoke, self.place_of(*group, user, from, to), wire)
            }
            Hear::Event { wire, to, .. } => {
                assert_eq!(to, own, "an event for another");
                let notices = Place::Notices(user);
                let known = (notices, Sort::Event, wire.clone());
                let place = if self.wires.contains_key(&known) {
                    notices
                } else {
                    let of =
                        |used: &&(Place, Sort, String)| used.1 == Sort::Event && used.2 == *wire;
                    self.wires.keys().find(of).map_or(notices, |found| found.0)
                };
                (Sort::Event, place, wire)
            }
            _ => return None,
        };
        let found = self.wires.get(&(place, sort, wire.clone())).map(Vec::as_slice);
        match found {
            Some([seq]) => Some((place, *seq)),
            other => panic!("{hear:?} for {own} is of {other:?} in {place:?}"),
        }
    }

    fn place_of(&self, group: bool, user: usize, from: &str, to: &str) -> Place {
        if group {
            Place::Group(self.names.group(to))
        } else {
            assert_eq!(to, self.names.users[user], "a message for another");
            Place::pair(user, self.names.user(from))
        }
    }

    fn class_of(&self, place: Place, seq: u64) -> Class {
        let rec = self.log(place).get(seq).expect("it was sent");
        match (place, rec.sort) {
            (Place::Pair(..), Sort::Message) => Class::Private,
            (Place::Group(_), Sort::Message) => Class::Group,
            _ => Class::Event,
        }
    }

    /// A shard has made a frame for a device.
    pub fn emitted(
        &mut self,
        now_us: u64,
        device: usize,
        stay: &mut Stay,
        speech: Speech,
        hear: &Hear,
    ) {
        let user = self.devices[device].user;
        let Some((place, seq)) = self.identify(user, hear) else { return };
        let name = format!("{place:?} {seq} for {user} {}", self.devices[device].name);
        let banned = self.users[user].banned.known;
        assert_ne!(banned, Some(true), "{name}: he is banned");
        let log = self.log(place);
        let rec = log.get(seq).expect("identified above").clone();
        assert!(self.shows(place, seq, &rec, user), "{name}: it is not for him");
        let class = self.class_of(place, seq);
        let revoked_by = rec.revoked_by.filter(|by| log.is_durable(*by));
        let at = &mut self.devices[device];
        let seen = at.seen.entry(place).or_default();
        assert!(seq > seen.start, "{name}: it was not there then (start {})", seen.start);
        let mark = seen.marks.entry(seq).or_default();
        let again = matches!(mark.ack, Ack::Taken(_) | Ack::Sure);
        assert!(!again, "{name}: again, though it is acknowledged: {mark:?}");
        // The server does not know of an acknowledgement that a crash has taken.
        mark.ack = Ack::No;
        if let Hear::Said { payload: Some(_), .. } = hear
            && revoked_by.is_some()
            && let Some(told_us) = at.told_revoked.get(&(place, seq))
        {
            assert!(now_us < told_us + READ_BEFORE_US, "{name}: its content, though revoked");
        }
        if let Some(target) = rec.revokes {
            at.told_revoked.entry((place, target)).or_insert(now_us);
        }
        match stay.emitted.get_mut(&(place, seq)) {
            None => drop(stay.emitted.insert((place, seq), (now_us, 0))),
            Some((first_us, tries)) => {
                let times = speech.retry_ms(class, &rec.wire);
                let due_ms = times.get(*tries);
                let due_ms =
                    due_ms.unwrap_or_else(|| panic!("{name}: once more than often enough"));
                let after_ms = now_us / 1000 - *first_us / 1000;
                assert!(after_ms >= *due_ms, "{name}: again after {after_ms} ms, not {due_ms}");
                *tries += 1;
            }
        }
    }

    /// When the next of what a stay was sent and has not acknowledged is due again, µs.
    pub fn due_again(&self, device: usize, stay: &Stay, speech: Speech) -> Option<(u64, String)> {
        let seen = &self.devices[device].seen;
        let open = stay.emitted.iter().filter(|((place, seq), _)| {
            seen.get(place).is_some_and(|seen| seen.mark(*seq).ack == Ack::No)
        });
        let due = open.filter_map(|((place, seq), (first_us, tries))| {
            let rec = self.log(*place).get(*seq).expect("it was sent");
            let after = speech.retry_ms(self.class_of(*place, *seq), &rec.wire).get(*tries)?;
            Some((first_us + after * 1_000, format!("{place:?} {seq}")))
        });
        due.min()
    }

    /// A frame leaves its shard. `fresh`: it was made in this stay.
    pub fn released(&mut self, device: usize, stay: &mut Stay, fresh: bool, hear: &Hear) {
        let user = self.devices[device].user;
        self.released_answer(user, hear);
        let Some((place, seq)) = self.identify(user, hear) else { return };
        let name = format!("{place:?} {seq} for {user} {}", self.devices[device].name);
        let log = self.log(place);
        let rec = log.get(seq).expect("identified above");
        assert!(log.is_durable(seq), "{name}: shown before it is durable");
        self.says(&name, place, seq, hear);
        let sender = rec.sender.map(|sender| self.names.users[sender].clone());
        if let Hear::Said { from, .. } | Hear::Revoked { from, .. } = hear {
            assert_eq!(Some(from), sender.as_ref(), "{name}: by whom");
        }
        if !fresh || !stay.released.insert((place, seq)) {
            return;
        }
        let seen = self.devices[device].seen.get(&place).cloned().unwrap_or_default();
        for before in self.part(place, user).take_while(|before| *before < seq) {
            let out = stay.released.contains(&(place, before));
            assert!(out || !seen.lacks(before), "{name}: {before} comes first");
        }
        let last = stay.last.entry(place).or_default();
        assert!(*last < seq, "{name}: after {last}");
        *last = seq;
    }

    /// A frame says what its record says.
    fn says(&self, name: &str, place: Place, seq: u64, hear: &Hear) {
        let log = self.log(place);
        let rec = log.get(seq).expect("identified by the caller");
        let intent = rec.intent.map(|intent| &self.intents[intent]);
        match hear {
            Hear::Said { payload, time_ms, .. } => {
                assert_eq!(*time_ms, rec.time_ms, "{name}: when");
                match payload {
                    Some(payload) => {
                        let intent = intent.expect("a message is one that was sent");
                        assert_eq!(*payload, intent.payload, "{name}: another payload");
                    }
                    None => {
                        let revoked = rec.revoked_by.is_some_and(|by| log.is_durable(by));
                        assert!(revoked, "{name}: shown as revoked, and is not");
                    }
                }
            }
            Hear::Event { payload, time_ms, .. } => {
                assert_eq!(*time_ms, rec.time_ms, "{name}: when");
                if let Some(intent) = intent {
                    assert_eq!(payload["content"], intent.payload, "{name}: another payload");
                }
                if let Place::Group(group) = place {
                    assert_eq!(payload["gid"], self.names.groups[group].as_str(), "{name}");
                }
            }
            _ => {}
        }
    }

    /// What a client is told of its own messages.
    fn released_answer(&self, user: usize, hear: &Hear) {
        let intent = |id: &String| {
            let found = self.by_client.get(&(user, id.clone()));
            &self.intents[*found.unwrap_or_else(|| panic!("{user} has not sent {id}"))]
        };
        match hear {
            Hear::Receipt { id, time_ms, group } => {
                let intent = intent(id);
                let place = intent.place.expect("it goes somewhere");
                let seq = intent.at.unwrap_or_else(|| panic!("a receipt, not stored: {intent:?}"));
                let log = self.log(place);
                assert!(log.is_durable(seq), "a receipt before {intent:?} is durable");
                let rec = log.get(seq).expect("durable");
                assert_eq!(*time_ms, rec.time_ms, "the receipt of {intent:?}");
                assert_eq!(*group, matches!(place, Place::Group(_)));
            }
            Hear::RevokeReceipt { id } => {
                let intent = intent(id);
                let log = self.log(intent.place.expect("it goes somewhere"));
                let rec = intent.at.and_then(|seq| log.get(seq)).expect("what is revoked is there");
                let by = rec.revoked_by.expect("it is revoked");
                assert!(log.is_durable(by), "a revoke is confirmed before it is durable");
            }
            _ => {}
        }
    }

    /// The server takes an acknowledgement: of the oldest record with that id which this stay was
    /// sent. By `by_us` the device's position is handed to the log.
    pub fn acknowledged(&mut self, device: usize, stay: &Stay, class: Class, id: &str, by_us: u64) {
        let here = stay.emitted.keys().copied().filter(|(place, seq)| {
            let seen = self.devices[device].seen.get(place);
            seen.is_some_and(|seen| seen.mark(*seq).ack == Ack::No)
                && self.class_of(*place, *seq) == class
                && self.log(*place).get(*seq).is_some_and(|rec| rec.wire == id)
        });
        let here: Vec<_> = here.collect();
        assert!(here.len() <= 1, "ids are different: {here:?}");
        for (place, seq) in here {
            let seen = self.devices[device].seen.entry(place).or_default();
            seen.marks.entry(seq).or_default().ack = Ack::Taken(by_us);
        }
    }

    /// The device is gone: its positions are handed to the log now.
    pub fn stay_ended(&mut self, device: usize, now_us: u64) {
        let seen = self.devices[device].seen.values_mut();
        for mark in seen.flat_map(|seen| seen.marks.values_mut()) {
            if let Ack::Taken(by) = &mut mark.ack {
                *by = now_us.min(*by);
            }
        }
    }

    /// A frame has come to its device.
    pub fn heard(&mut self, device: usize, hear: &Hear) {
        let user = self.devices[device].user;
        if let Some((place, seq)) = self.identify(user, hear) {
            let seen = self.devices[device].seen.entry(place).or_default();
            seen.marks.entry(seq).or_default().got = true;
        }
        let find = |id: &String| self.by_client.get(&(user, id.clone())).copied();
        match hear {
            Hear::Receipt { id, .. } => {
                let index = find(id).expect("looked at when it left");
                self.intents[index].fate = Fate::Stored;
            }
            Hear::Refused { id: Some(id), why } if why != "try again" => {
                if let Some(index) = find(id) {
                    self.refused(index, why);
                }
            }
            _ => {}
        }
    }

    /// A message is refused: only for a reason that there is, or was since it was sent.
    pub fn refused(&mut self, index: usize, why: &str) {
        let intent = &self.intents[index];
        if intent.at.is_some() && intent.fate == Fate::Stored {
            // It was the revoke of a message under the same id that was refused.
            return;
        }
        let place = intent.place.expect("it goes somewhere");
        let since = intent.since;
        let log = self.log(place);
        let legit = match (why, place) {
            ("not in the group" | "no such group", Place::Group(_)) => {
                let was = log.get(since).map_or(crate::names::Set::default(), |rec| rec.members);
                let member = |members: crate::names::Set| members.has(intent.user);
                let later = log.recs.iter().skip(since as usize);
                !member(was) || later.into_iter().any(|rec| !member(rec.members))
            }
            ("in_denylist" | "blocked", Place::Pair(low, high)) => {
                let other = if intent.user == low { high } else { low };
                self.blocks.contains_key(&(other, intent.user))
            }
            ("no such user", Place::Pair(low, high)) => {
                let other = if intent.user == low { high } else { low };
                self.users[other].row.is_none() || self.users[other].late
            }
            // Of a revoke: see `workload`.
            ("no such message, or too late" | "not permitted", _) => return,
            _ => false,
        };
        assert!(
            legit,
            "{intent:?} is refused: {why} {:?}",
            log.recs.iter().map(|r| (r.sort, r.members)).collect::<Vec<_>>()
        );
        if intent.at.is_none() {
            self.intents[index].fate = Fate::Refused(why.to_owned());
        }
    }
}
