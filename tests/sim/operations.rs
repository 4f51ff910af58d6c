//! What is asked over the control plane, and what the answers must be.

use ringpost_core::account::Presence;
use ringpost_core::error::Refusal;
use ringpost_core::event::{Answer, Chats, Stored};

use crate::ledger::Rec;
use crate::model::{Ack, Certain, Fate, Model, Stage};
use crate::names::{Place, Set};

/// A question that has no answer yet.
#[derive(Clone, Debug)]
pub enum Asked {
    PutUser { user: usize },
    CreateGroup { group: usize, members: Set },
    Add { group: usize, users: Set },
    Remove { group: usize, user: usize },
    Alias { group: usize },
    Dissolve { group: usize },
    Members { group: usize, version: u64 },
    Post { intent: usize },
    Notice { intent: usize },
    Revoke { place: Place, seq: u64 },
    Read { user: usize, place: Place, seq: u64 },
    Chats { user: usize, version: u64 },
    Block { by: usize, other: usize, on: bool },
    Friends { wire: String },
    Ban { user: usize, on: bool },
    Hide { user: usize, on: bool },
    Kick,
    Presence { user: usize, online: bool },
}

impl Model {
    /// An answer has come. `calm`: clients acknowledge everything.
    pub fn answered(&mut self, asked: &Asked, answer: &Answer, calm: bool) {
        let refused = |why: &Refusal| *answer == Answer::Refused(*why);
        let again = refused(&Refusal::TryAgain);
        match asked {
            Asked::PutUser { user } => {
                assert!(matches!(answer, Answer::User { .. }), "{asked:?}: {answer:?}");
                assert!(self.users[*user].durable.is_some(), "{user} is not durable");
            }
            Asked::CreateGroup { group, members } => {
                self.groups[*group].asking = false;
                if !again && !refused(&Refusal::GroupExists) {
                    assert!(matches!(answer, Answer::Group { created: true, .. }), "{answer:?}");
                    assert!(self.groups[*group].durable.is_some(), "{group} is not durable");
                    let now = self.log(Place::Group(*group)).durable_members();
                    assert_eq!(now, *members, "who is in group {group}");
                }
            }
            Asked::Add { group, users } => {
                self.groups[*group].asking = false;
                if !again && !refused(&Refusal::NoSuchGroup) {
                    assert!(matches!(answer, Answer::Members(_)), "{asked:?}: {answer:?}");
                    let now = self.log(Place::Group(*group)).durable_members();
                    assert_eq!(users.without(now), Set(0), "{asked:?}: not durable");
                }
            }
            Asked::Remove { group, user } => {
                self.groups[*group].asking = false;
                let now = self.log(Place::Group(*group)).durable_members();
                match answer {
                    Answer::Done => assert!(!now.has(*user), "{asked:?}: not durable"),
                    Answer::Refused(Refusal::NotInGroup | Refusal::NoSuchGroup) => {
                        assert!(!now.has(*user), "{asked:?}: {answer:?}");
                    }
                    Answer::Refused(Refusal::TryAgain) => {}
                    other => panic!("{asked:?}: {other:?}"),
                }
            }
            Asked::Alias { group } => self.groups[*group].asking = false,
            Asked::Dissolve { group } => {
                self.groups[*group].asking = false;
                if *answer == Answer::Done {
                    let row = self.groups[*group].durable.as_ref().expect("it exists");
                    let len = self.log(Place::Group(*group)).durable as u64;
                    assert_eq!(row.closed_seq, len, "{asked:?}: not durable");
                }
            }
            Asked::Members { group, version } => {
                self.groups[*group].asking = false;
                if let Answer::Members(rows) = answer
                    && *version == self.version
                {
                    let listed = rows.iter().map(|(user, _)| self.names.user(user.as_str()));
                    let listed = Set::of(listed);
                    let row = self.groups[*group].durable.as_ref().expect("it exists");
                    let open = row.closed_seq == 0;
                    let now = self.log(Place::Group(*group)).durable_members();
                    assert!(!open || listed == now, "{asked:?}: {rows:?}, not {now:?}");
                }
            }
            Asked::Post { intent } | Asked::Notice { intent } => self.stored(*intent, answer),
            Asked::Revoke { place, seq } => {
                if let Answer::Stored(_) = answer {
                    let log = self.log(*place);
                    let by = log.get(*seq).and_then(|rec| rec.revoked_by);
                    let durable = by.is_some_and(|by| log.is_durable(by));
                    assert!(durable, "{asked:?} is answered before it is durable");
                } else {
                    // The group may be closed.
                    let none = refused(&Refusal::NoSuchGroup) && matches!(place, Place::Group(_));
                    assert!(again || none, "{asked:?}: {answer:?}");
                }
            }
            Asked::Read { user, place, seq } => match answer {
                Answer::Read(to) => {
                    let read = self.reads.get(&(*user, *place)).copied().unwrap_or(0);
                    assert!(to >= seq && read >= *to, "{asked:?}: {to}, durable {read}");
                }
                Answer::Found(None) | Answer::NoSuchUser => {}
                other => panic!("{asked:?}: {other:?}"),
            },
            Asked::Chats { user, version } => match answer {
                Answer::Chats(chats) if *version == self.version => {
                    self.check_chats(*user, chats, calm);
                }
                Answer::Chats(_) => {}
                other => panic!("{asked:?}: {other:?}"),
            },
            Asked::Block { by, other, on } => {
                let done = *answer == Answer::Done;
                if done {
                    let now = self.blocked.get(&(*by, *other)).copied().unwrap_or(false);
                    assert_eq!(now, *on, "{asked:?} is answered before it is durable");
                } else {
                    assert!(again || refused(&Refusal::NoSuchUser), "{asked:?}: {answer:?}");
                }
                settle(self.blocks.entry((*by, *other)).or_default(), *on, done);
            }
            Asked::Friends { wire } => {
                if *answer == Answer::Done {
                    self.friends.insert(wire.clone(), true);
                }
            }
            Asked::Ban { user, on } => {
                let done = *answer == Answer::Done;
                let row = self.users[*user].durable.as_ref();
                let now = row.is_some_and(|row| row.standing.ban.is_some());
                assert!(!done || now == *on, "{asked:?} is answered before it is durable");
                settle(&mut self.users[*user].banned, *on, done);
            }
            Asked::Hide { user, on } => {
                let done = *answer == Answer::Done;
                let row = self.users[*user].durable.as_ref();
                let now = row.is_some_and(|row| row.standing.hidden);
                assert!(!done || now == *on, "{asked:?} is answered before it is durable");
                settle(&mut self.users[*user].hidden, *on, done);
            }
            Asked::Kick => {}
            Asked::Presence { user, online } => {
                let hidden = self.users[*user].durable.as_ref().expect("it exists");
                let presence = match (hidden.standing.hidden, online) {
                    (true, _) => Presence::Hidden,
                    (false, true) => Presence::Online,
                    (false, false) => Presence::Offline,
                };
                assert_eq!(*answer, Answer::Presence(presence), "{asked:?}");
            }
        }
    }

    /// The answer to who has posted a message, or a notice.
    fn stored(&mut self, index: usize, answer: &Answer) {
        self.intents[index].asking = false;
        let stored = match answer {
            Answer::Stored(stored) => *stored,
            Answer::Refused(Refusal::TryAgain) => return,
            Answer::Refused(why) => return self.refused(index, &why.to_string()),
            other => panic!("{:?}: {other:?}", self.intents[index]),
        };
        let intent = &mut self.intents[index];
        let Stored { id, seq, time_ms } = stored;
        let place = intent.place.expect("it goes somewhere");
        if let Some(first) = intent.first
            && !intent.client_id.is_empty()
        {
            assert_eq!(first.id, id, "{intent:?}: a resend has another id");
        }
        intent.first = Some(stored);
        intent.fate = Fate::Stored;
        if seq == 0 {
            let (of, due_ms) = intent.due.expect("it is scheduled");
            assert_eq!((id, time_ms), (of, due_ms), "{intent:?}: when it is due");
            assert_ne!(intent.stage, Stage::Undurable, "{intent:?}: answered before");
            return;
        }
        let (at, user) = (intent.at, intent.user);
        assert_eq!(at, Some(seq), "{:?}: where it is", self.intents[index]);
        let log = self.log(place);
        assert!(log.is_durable(seq), "answered before it is durable: {place:?} {seq}");
        let rec = log.get(seq).expect("durable");
        assert_eq!((id, time_ms), (rec.id, rec.time_ms), "{place:?} {seq} of {user}");
        if place == Place::Everybody {
            self.everybody_answered = seq.max(self.everybody_answered);
        }
    }

    /// A user's conversations: what is durable now was when the log was read.
    fn check_chats(&self, user: usize, chats: &Chats, calm: bool) {
        assert!(chats.next.is_none(), "there are few");
        let mut told: Vec<Place> = Vec::new();
        for chat in &chats.chats {
            let place = self.names.place(&chat.conversation);
            told.push(place);
            let log = self.log(place);
            let sees = |rec: &Rec| rec.visible.has(user);
            let recs = &log.recs[..log.durable];
            let visible = || (1..).zip(recs).filter(|(_, rec)| sees(rec));
            let last = visible().last().expect("he sees something of it").0;
            let own = |(_, rec): &(u64, &Rec)| rec.says && rec.sender == Some(user);
            let sent = (1..).zip(recs).filter(own).last().map_or(0, |(seq, _)| seq);
            let said = self.reads.get(&(user, place)).copied().unwrap_or(0);
            let acked = if self.ack_is_read { self.acked(user, place) } else { 0 };
            let read = said.max(sent).max(acked).min(last);
            // An earlier membership is forgotten when all of the user's devices have all of it.
            let joins = visible().filter(|(seq, _)| *seq == 1 || !sees(&recs[*seq as usize - 2]));
            let unread = joins.map(|(from, _)| {
                let counts = |(seq, rec): &(u64, &Rec)| rec.says && *seq > read && *seq >= from;
                visible().filter(counts).count() as u64
            });
            let unread: Vec<u64> = unread.collect();
            let shown = chat.last.get(0).map(|record| record.seq);
            assert_eq!(shown, Some(last), "{user}: the last of {place:?}");
            // A device's position also passes what is not shown, and may be on its way.
            let exact = !self.ack_is_read;
            if exact || calm {
                let told = chat.unread;
                assert!(
                    unread.contains(&told),
                    "{user}: {told} unread of {place:?}, not {unread:?}"
                );
            }
            assert!(!exact || chat.read == read, "{user}: {} of {place:?}, not {read}", chat.read);
        }
        for (place, log) in &self.logs {
            let his = match place {
                Place::Everybody => false,
                Place::Group(_) => log.durable_members().has(user),
                _ => log.durable > 0 && log.recs[0].visible.has(user),
            };
            assert!(!his || told.contains(place), "{user}: {place:?} is not told");
        }
    }

    /// How far the furthest device of a user has acknowledged a conversation.
    fn acked(&self, user: usize, place: Place) -> u64 {
        let reach = |device: &crate::model::Device| {
            let seen = device.seen.get(&place).cloned().unwrap_or_default();
            let known = |seq: &u64| seen.mark(*seq).ack != Ack::No || *seq <= seen.start;
            self.part(place, user).take_while(known).last().unwrap_or(0)
        };
        let devices = self.devices.iter().filter(|device| device.user == user && device.written);
        devices.map(reach).max().unwrap_or(0)
    }
}

fn settle(certain: &mut Certain, on: bool, done: bool) {
    certain.asking = false;
    certain.known = done.then_some(on);
}
