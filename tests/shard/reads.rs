//! How much a user has not read, and where he is mentioned: exact, whatever happens.

use std::collections::BTreeMap;

use ringpost_core::command::{Action, GroupOperation, Mentioned};
use ringpost_core::event::{Answer, Chat, JoinPolicy, Operation, Post};
use ringpost_core::ids::{ConnId, Conversation, GroupId, UserId};
use ringpost_core::record::Kind;

use super::random::Random;
use super::world::World;
use super::xid;

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

fn team() -> Conversation {
    Conversation::Group(GroupId::parse("team").expect("a valid id"))
}

fn private(one: &str, other: &str) -> Conversation {
    Conversation::private(&user(one), &user(other))
}

fn chats(world: &mut World, of: &str) -> BTreeMap<String, Chat> {
    let mut chats = BTreeMap::new();
    let mut after = None;
    loop {
        // Pages of one, so that paging is seen to lose nothing.
        let ask = Operation::Chats { user: user(of), after, limit: 1 };
        let Some(Answer::Chats(page)) = world.ask(ask) else { panic!("no answer") };
        assert!(page.chats.len() <= 1);
        for chat in page.chats {
            assert!(chats.insert(chat.conversation.canonical(), chat).is_none(), "once");
        }
        after = match page.next {
            Some(next) => Some(next),
            None => return chats,
        };
    }
}

/// Read up to, unread, first mention.
fn seen(world: &mut World, of: &str, conversation: &Conversation) -> (u64, u64, Option<u64>) {
    let chat = chats(world, of).remove(&conversation.canonical()).expect("one of his");
    (chat.read, chat.unread, chat.mention)
}

fn read(world: &mut World, of: &str, conversation: &Conversation, seq: u64) -> Answer {
    let (user, conversation) = (user(of), conversation.clone());
    let answer = world.ask(Operation::Read { user, conversation, seq });
    answer.expect("commits are made and loads answered")
}

fn post(world: &mut World, from: &str, to: &Conversation, mentions: Mentioned) -> Answer {
    let mentions = Some(Box::new(mentions));
    let content = br#"{"kind":"text","text":"x"}"#.as_slice().into();
    let kind = Kind::Neutral;
    let action =
        Action::Send { kind, sender_ms: None, content, copies: true, mentions, after_ms: 0 };
    let (conversation, sender) = (to.clone(), user(from));
    let post = Post { conversation, sender, client_id: "".into(), action };
    let answer = world.ask(Operation::Post(Box::new(post)));
    answer.expect("commits are made and loads answered")
}

fn found(world: &mut World, members: &[&str]) {
    for id in USERS {
        world.put_user(id, "{}");
    }
    let create = GroupOperation::Create {
        owner: user(members[0]),
        members: members[1..].iter().map(|id| user(id)).collect(),
        join_policy: JoinPolicy::Approve,
        profile: "{}".to_owned(),
    };
    assert!(matches!(world.group("team", create), Answer::Group { created: true, .. }));
}

#[test]
fn private_messages_are_unread_until_read_or_answered() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let chat = private("alice", "bob");
        let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
        for n in 1..=3 {
            world.send(alice, &xid(n), "bob", "hi");
        }
        assert_eq!(seen(&mut world, "alice", &chat), (3, 0, None), "one's own are read");
        assert_eq!(seen(&mut world, "bob", &chat), (0, 3, None));
        for frame in world.take(bob) {
            world.ack_frame(bob, &frame, "b");
        }
        assert_eq!(seen(&mut world, "bob", &chat), (0, 3, None), "to have got is not to have read");
        assert_eq!(read(&mut world, "bob", &chat, 2), Answer::Read(2));
        assert_eq!(seen(&mut world, "bob", &chat), (2, 1, None));
        assert_eq!(read(&mut world, "bob", &chat, 1), Answer::Read(2), "it never goes back");
        assert_eq!(read(&mut world, "bob", &chat, 4), Answer::Found(None), "nothing is there");
        let other = private("bob", "carol");
        assert_eq!(read(&mut world, "bob", &other, 1), Answer::Found(None));
        // Answering is reading, and a revoke counts nothing.
        world.send(bob, &xid(9), "alice", "hello");
        assert_eq!(seen(&mut world, "bob", &chat), (4, 0, None));
        assert_eq!(seen(&mut world, "alice", &chat), (3, 1, None));
        world.say(bob, &format!(r#"{{"id":"{}","type":"C2C_REVOKE","to":"alice"}}"#, xid(9)));
        assert_eq!(seen(&mut world, "bob", &chat), (4, 0, None), "a revoke is no message");
        assert_eq!(seen(&mut world, "alice", &chat), (3, 1, None), "revoked, not read");
        let mut world = world.crash(3 - shards);
        assert_eq!(seen(&mut world, "bob", &chat), (4, 0, None));
        assert_eq!(seen(&mut world, "alice", &chat), (3, 1, None));
        assert_eq!(read(&mut world, "alice", &chat, 5), Answer::Read(5));
        assert_eq!(seen(&mut world, "alice", &chat), (5, 0, None));
    }
}

#[test]
fn a_position_is_durable_when_it_is_answered_and_two_at_once_do_not_go_back() {
    let mut world = World::new(1);
    let chat = private("alice", "bob");
    let alice = world.connect("alice", "a");
    world.put_user("bob", "{}");
    for n in 1..=3 {
        world.send(alice, &xid(n), "bob", "hi");
    }
    world.commits = false;
    world.answers_loads = false;
    let ask = |world: &mut World, seq| {
        let (user, conversation) = (user("bob"), private("alice", "bob"));
        world.ask(Operation::Read { user, conversation, seq })
    };
    assert_eq!(ask(&mut world, 3), None);
    assert_eq!(ask(&mut world, 2), None);
    world.answers_loads = true;
    world.settle();
    assert_eq!(world.late_answers(), [], "not durable");
    let mut lost = World::on(world.log.crash_image(world.log.durable()), 1, world.now);
    assert_eq!(seen(&mut lost, "bob", &chat), (0, 3, None));
    world.commits = true;
    world.settle();
    assert_eq!(world.late_answers(), [Answer::Read(3), Answer::Read(3)]);
    let mut world = world.crash(2);
    assert_eq!(seen(&mut world, "bob", &chat), (3, 0, None));
}

#[test]
fn acknowledging_is_reading_where_the_operator_says_so() {
    let mut world = World::with(2, |config| config.dialects.imboy.ack_is_read = true);
    let chat = private("alice", "bob");
    let (alice, bob) = (world.connect("alice", "a"), world.connect("bob", "b"));
    for n in 1..=3 {
        world.send(alice, &xid(n), "bob", "hi");
    }
    let frames = world.take(bob);
    assert_eq!(seen(&mut world, "bob", &chat), (0, 3, None));
    world.ack_frame(bob, &frames[0], "b");
    // At once, although positions are written once a second.
    assert_eq!(seen(&mut world, "bob", &chat), (1, 2, None));
    world.ack_frame(bob, &frames[2], "b");
    assert_eq!(seen(&mut world, "bob", &chat), (1, 2, None), "there is a gap");
    world.ack_frame(bob, &frames[1], "b");
    assert_eq!(seen(&mut world, "bob", &chat), (3, 0, None));
}

#[test]
fn mentions_are_members_until_they_have_read() {
    let mut world = World::new(2);
    found(&mut world, &["alice", "bob", "carol"]);
    let named = |ids: &[&str]| Mentioned {
        users: ids.iter().map(|id| user(id)).collect(),
        everybody: false,
    };
    // Seq 1 is the event of the founding.
    assert!(matches!(post(&mut world, "alice", &team(), named(&[])), Answer::Stored(_)));
    post(&mut world, "alice", &team(), named(&["bob", "dave"]));
    post(&mut world, "bob", &team(), named(&["carol", "bob"]));
    post(&mut world, "alice", &team(), Mentioned { users: vec![], everybody: true });
    assert_eq!(seen(&mut world, "bob", &team()), (4, 1, Some(5)), "he has answered the first");
    assert_eq!(seen(&mut world, "carol", &team()), (0, 4, Some(4)));
    assert_eq!(seen(&mut world, "alice", &team()), (5, 0, None));
    // Who was no member was not mentioned, and is not when he comes.
    let add = GroupOperation::Add { users: vec![user("dave")], by: None };
    assert!(matches!(world.group("team", add), Answer::Members(_)));
    assert_eq!(seen(&mut world, "dave", &team()), (0, 0, None));
    let mut world = world.crash(1);
    assert_eq!(read(&mut world, "carol", &team(), 4), Answer::Read(4));
    assert_eq!(seen(&mut world, "carol", &team()), (4, 1, Some(5)));
    assert_eq!(read(&mut world, "carol", &team(), 5), Answer::Read(5));
    assert_eq!(seen(&mut world, "carol", &team()), (5, 0, None));
    let none = private("alice", "bob");
    let everybody = Mentioned { users: vec![user("carol")], everybody: true };
    post(&mut world, "alice", &none, everybody);
    assert_eq!(seen(&mut world, "bob", &none), (0, 1, Some(1)));
    assert!(!chats(&mut world, "carol").contains_key(&none.canonical()));
}

/// Countable, whose, whom it mentions.
type Said = (bool, &'static str, Vec<&'static str>);

/// What a naive reader of everything that was sent would say.
#[derive(Default)]
struct Model {
    /// By conversation.
    records: BTreeMap<String, Vec<Said>>,
    /// The group's members, by the visible ranges of seqs.
    ranges: BTreeMap<&'static str, Vec<(u64, u64)>>,
    said: BTreeMap<(&'static str, String), u64>,
}

impl Model {
    fn push(&mut self, place: &Conversation, record: Said) {
        self.records.entry(place.canonical()).or_default().push(record);
    }

    fn head(&self, place: &str) -> u64 {
        self.records.get(place).map_or(0, |records| records.len() as u64)
    }

    fn is_member(&self, of: &str) -> bool {
        self.ranges.get(of).and_then(|ranges| ranges.last()).is_some_and(|last| last.1 == u64::MAX)
    }

    fn seen(&self, of: &'static str, place: &str) -> Option<(u64, u64, Option<u64>)> {
        let records = self.records.get(place)?;
        let everything = vec![(1, u64::MAX)];
        let ranges = match place {
            "group:team" => self.ranges.get(of)?,
            _ => &everything,
        };
        let shown = |seq: u64| ranges.iter().any(|range| (range.0..=range.1).contains(&seq));
        let numbered = || (1..).zip(records).filter(|(seq, _)| shown(*seq));
        let last = numbered().map(|(seq, _)| seq).last()?;
        let own = (1..).zip(records).filter(|(_, record)| record.0 && record.1 == of);
        let own = own.map(|(seq, _)| seq).last().unwrap_or(0);
        let said = self.said.get(&(of, place.to_owned())).copied().unwrap_or(0);
        let read = own.max(said).min(last);
        let unread = || numbered().filter(|(seq, _)| *seq > read);
        let count = unread().filter(|(_, record)| record.0).count() as u64;
        let mention = unread().find(|(_, record)| record.2.contains(&of)).map(|(seq, _)| seq);
        Some((read, count, mention))
    }
}

#[test]
fn a_naive_reader_counts_the_same() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let mut world = World::new(2);
        found(&mut world, &["alice", "bob", "carol"]);
        let mut model = Model::default();
        model.push(&team(), (false, "alice", vec![]));
        for id in ["alice", "bob", "carol"] {
            model.ranges.insert(id, vec![(1, u64::MAX)]);
        }
        for _ in 0..250 {
            step(&mut world, &mut model, &mut random);
            if random.below(40) == 0 {
                let shards = 1 + random.below(3) as u16;
                world = world.crash(shards);
            }
        }
        for of in USERS {
            let found = chats(&mut world, of);
            for place in model.records.keys() {
                let seen = found.get(place).map(|chat| (chat.read, chat.unread, chat.mention));
                let ours = place.contains("group") || place.contains(of);
                let wanted = ours.then(|| model.seen(of, place)).flatten();
                // A former member's part of a group goes when his devices have all of it.
                if seen.is_none() && place.contains("group") && !model.is_member(of) {
                    continue;
                }
                assert_eq!(seen, wanted, "seed {seed}, {of} in {place}");
            }
        }
    }
}

fn step(world: &mut World, model: &mut Model, random: &mut Random) {
    let any = |random: &mut Random| USERS[random.below(USERS.len() as u64) as usize];
    let (from, other) = (any(random), any(random));
    let talk = private(from, other);
    match random.below(10) {
        0..=2 => {
            let sent = post(world, from, &talk, Mentioned::default());
            assert!(matches!(sent, Answer::Stored(_)), "{sent:?}");
            model.push(&talk, (true, from, vec![]));
        }
        3..=5 => {
            let everybody = random.below(5) == 0;
            let named = [any(random), any(random)];
            let mut mentions = Mentioned { users: named.map(user).to_vec(), everybody };
            mentions.users.dedup();
            let sent = post(world, from, &team(), mentions);
            if model.is_member(from) {
                assert!(matches!(sent, Answer::Stored(_)), "{sent:?}");
                let told = |id: &&str| model.is_member(id) && (everybody || named.contains(id));
                let told = USERS.into_iter().filter(told).collect();
                model.push(&team(), (true, from, told));
            }
        }
        6 | 7 => {
            let place = if random.below(2) == 0 { talk } else { team() };
            let head = model.seen(from, &place.canonical()).map(|_| model.head(&place.canonical()));
            let Some(head) = head else { return };
            let seq = 1 + random.below(head);
            if let Answer::Read(read) = read(world, from, &place, seq) {
                assert!(read >= seq);
                let said = model.said.entry((from, place.canonical())).or_default();
                *said = (*said).max(seq);
            }
        }
        8 if from != "alice" => {
            let seq = model.head("group:team") + 1;
            let ranges = model.ranges.entry(from).or_default();
            match ranges.last_mut().filter(|last| last.1 == u64::MAX) {
                Some(last) => {
                    last.1 = seq;
                    let remove = GroupOperation::Remove { user: user(from), by: None };
                    assert_eq!(world.group("team", remove), Answer::Done);
                }
                None => {
                    ranges.push((seq, u64::MAX));
                    let add = GroupOperation::Add { users: vec![user(from)], by: None };
                    assert!(matches!(world.group("team", add), Answer::Members(_)));
                }
            }
            model.push(&team(), (false, "alice", vec![]));
        }
        _ => {
            // Devices come, take everything, and go: reading is another matter.
            let conn: ConnId = world.connect(from, "d");
            world.advance_ms(700);
            for frame in world.take(conn) {
                world.ack_frame(conn, &frame, "d");
            }
            world.disconnect(conn);
        }
    }
}
