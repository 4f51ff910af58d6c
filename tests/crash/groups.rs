//! The same for groups: members on several devices talk while an operator adds and removes some of
//! them over the HTTP API. After each restart everything is judged by the group's log (`ledger.rs`):
//! what lies in a membership comes, in order, to each device of the member, and nothing else; an
//! operation that was answered has happened, the one that was not may have.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::common::Server;
use super::common::client::{Client, End};
use super::common::http::Http;
use super::ledger::{Device, Got, Ledger, What};
use super::rounds::{self, Round, rounds};

/// Rounds of a test run.
const ROUNDS: usize = 8;
/// Groups at the same time.
const GROUPS: usize = 2;
/// Members who stay; the first is the owner, who only listens, the others send.
const STAYING: usize = 3;
/// Users who come and go; the first of them sends whether he is a member or not.
const COMING: usize = 3;
/// Messages that a member has in flight. Who may be refused has one.
const IN_FLIGHT: usize = 4;
/// Each user's devices; the first is always connected.
const DEVICES: [&str; 2] = ["phone", "tablet"];
/// Between two changes of members: nobody may come and go so often in a round that the oldest of
/// his memberships are forgotten.
const PACE: Duration = Duration::from_millis(10);

struct Group {
    ledger: Ledger,
    users: Vec<User>,
}

struct User {
    name: String,
    sends: Option<Sends>,
    devices: [Device; DEVICES.len()],
    /// What its devices got before the kill, and acknowledged: judged when the log is known.
    past: Vec<(Vec<Got>, Acks)>,
    /// What its first device got after the restart, until the log was known.
    after: Option<(Vec<Got>, Acks)>,
}

/// Ids and when they were acknowledged.
type Acks = Vec<(String, Instant)>;

/// What a user has sent, over all rounds.
#[derive(Default)]
struct Sends {
    user: String,
    in_flight: usize,
    sent: u32,
    /// Without an answer.
    open: BTreeSet<u32>,
    /// With a receipt, and its time.
    stored: BTreeMap<u32, u64>,
    refused: u32,
}

/// A device's connection to a group.
struct Talk {
    client: Client,
    group: String,
    sends: Option<Sends>,
    got: Vec<Got>,
    acks: Acks,
    /// It leaves some messages unacknowledged.
    forgets: bool,
}

#[test]
fn kill_9_while_members_come_and_go_loses_nothing_of_any_membership() {
    let _alone = rounds::alone();
    let mut server = Server::start_with(&["--shards", "2"]);
    let mut groups: Vec<Group> = (0..GROUPS).map(|number| found(&server, number)).collect();
    let mut count = 0;
    for round in rounds(ROUNDS) {
        count += 1;
        let (operations, killed) = load_and_kill(&mut server, &mut groups, &round);
        round.restart(&mut server);
        thread::scope(|scope| {
            for (group, (answered, open)) in groups.iter_mut().zip(operations) {
                let (server, round) = (&server, &round);
                scope.spawn(move || verify(server, group, &answered, open, killed, round));
            }
        });
    }
    for Group { ledger, users } in &groups {
        let changes = ledger.behind(1).iter().filter(|what| !matches!(what, What::Said { .. }));
        let said: usize = users.iter().map(|user| ledger.said(&user.name).len()).sum();
        let refused: u32 =
            users.iter().flat_map(|user| &user.sends).map(|sends| sends.refused).sum();
        let changes = changes.count();
        println!(
            "{count} rounds, {}: {said} messages, {changes} changes, {refused} refused",
            ledger.group
        );
        assert!(said > 10 * count && changes > count, "the load was real");
    }
}

fn found(server: &Server, number: usize) -> Group {
    let names: Vec<String> =
        (0..STAYING + COMING).map(|user| format!("u{number}-{user}")).collect();
    let users = names.iter().enumerate().map(|(at, name)| {
        for did in DEVICES {
            // From here on it is known.
            Client::connect(server, name, did).close();
        }
        let in_flight = if at < STAYING { IN_FLIGHT } else { 1 };
        let sends = (1..=STAYING).contains(&at).then(|| Sends {
            user: name.clone(),
            in_flight,
            ..Sends::default()
        });
        User {
            name: name.clone(),
            sends,
            devices: Default::default(),
            past: Vec::new(),
            after: None,
        }
    });
    let users = users.collect();
    let name = format!("team-{number}");
    let founders = &names[..STAYING];
    let group = json!({"id": name, "owner": names[0], "members": founders[1..]});
    let made = server.http().post("/v1/groups", &group);
    assert_eq!(made.status, 201, "{}", made.body);
    Group { ledger: Ledger::new(&name, founders), users }
}

/// What an operator did: answered operations, and the one that was not.
type Operations = (Vec<What>, What);

/// All groups talk until the server is killed.
fn load_and_kill(
    server: &mut Server,
    groups: &mut [Group],
    round: &Round,
) -> (Vec<Operations>, Instant) {
    let connected = if round.all_devices() { &DEVICES[..] } else { &DEVICES[..1] };
    let mut ready = Vec::new();
    for group in &mut *groups {
        let mut talks = Vec::new();
        for user in &mut group.users {
            for did in connected {
                let sends = if *did == DEVICES[0] { user.sends.take() } else { None };
                let client = Client::connect(server, &user.name, did);
                talks.push(Talk { forgets: true, ..Talk::new(client, &group.ledger.group, sends) });
            }
        }
        ready.push((server.http(), talks));
    }
    let mut threads = Vec::new();
    for (group, (http, talks)) in groups.iter().zip(ready) {
        let talks: Vec<_> =
            talks.into_iter().map(|talk| thread::spawn(move || talk.until_broken())).collect();
        let coming: Vec<(String, bool)> = group.users[STAYING..]
            .iter()
            .map(|user| {
                let ranges = group.ledger.memberships(&user.name);
                (user.name.clone(), ranges.last().is_some_and(|(_, last)| *last == u64::MAX))
            })
            .collect();
        let name = group.ledger.group.clone();
        let seed = round.number as u64;
        threads.push((thread::spawn(move || operate(&http, &name, coming, seed)), talks));
    }
    let killed = round.kill(server);
    let mut operations = Vec::new();
    for (group, (operator, talks)) in groups.iter_mut().zip(threads) {
        operations.push(operator.join().expect("the operator ended"));
        let mut talks = talks.into_iter().map(|talk| talk.join().expect("the device ended"));
        for user in &mut group.users {
            for did in connected {
                let mut talk = talks.next().expect("as many as were started");
                if *did == DEVICES[0] {
                    user.sends = talk.sends.take();
                }
                user.past.push((talk.got, talk.acks));
            }
        }
    }
    (operations, killed)
}

/// Adds and removes, one after the other, until the server is gone.
fn operate(http: &Http, group: &str, mut coming: Vec<(String, bool)>, seed: u64) -> Operations {
    let mut answered = Vec::new();
    for step in seed.. {
        let at = (step.wrapping_mul(2654435761) >> 7) as usize % coming.len();
        let path = format!("/v1/groups/{group}/members");
        let (operation, answer) = if coming[at].1 {
            let user = &coming[at].0;
            let path = format!("{path}/{user}");
            (What::Left(user.clone()), http.try_request("DELETE", &path, &Value::Null))
        } else {
            // Who is away comes alone, or with all others who are.
            let comes = |other: &usize| !coming[*other].1 && (*other == at || step % 3 == 0);
            let users = (0..coming.len()).filter(comes).map(|other| coming[other].0.clone());
            let users: Vec<String> = users.collect();
            let body = json!({"users": users});
            (What::Joined(users), http.try_request("POST", &path, &body))
        };
        let Some(answer) = answer else { return (answered, operation) };
        assert_eq!(answer.status, 200, "{operation:?}: {}", answer.body);
        for (user, is_member) in &mut coming {
            match &operation {
                What::Joined(users) => *is_member |= users.contains(user),
                What::Left(left) => *is_member &= left != user,
                What::Said { .. } => {}
            }
        }
        answered.push(operation);
        thread::sleep(PACE);
    }
    unreachable!("it goes on until the server is gone")
}

impl Talk {
    fn new(client: Client, group: &str, sends: Option<Sends>) -> Talk {
        let group = group.to_owned();
        Talk { client, group, sends, got: Vec::new(), acks: Vec::new(), forgets: false }
    }

    /// Sends as fast as answers come, and acknowledges what comes, until the connection breaks.
    fn until_broken(mut self) -> Talk {
        loop {
            if let Some(sends) = &mut self.sends {
                while sends.open.len() < sends.in_flight {
                    let n = sends.sent;
                    sends.sent += 1;
                    sends.open.insert(n);
                    if self.client.queue_text(&sends.frame(&self.group, n)).is_err() {
                        return self;
                    }
                }
            }
            if self.step().is_err() {
                return self;
            }
        }
    }

    /// The next frame; whether it is the answer to a `ping`.
    fn step(&mut self) -> Result<bool, End> {
        self.client.flush()?;
        let text = self.client.next_text()?;
        if text == "pong2" {
            return Ok(true);
        }
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        if frame["type"] == "C2G_SERVER_ACK" || frame["type"] == "error" {
            self.sends.as_mut().expect("it sends").answer(&frame);
            return Ok(false);
        }
        let (kind, id) = (frame["type"].as_str(), frame["id"].as_str());
        let (kind, id) = (kind.expect("a type"), id.expect("an id"));
        let got = Got::of(&frame, &self.group);
        let forgotten = self.forgets && got.is_some() && self.got.len() % 50 == 49;
        self.got.extend(got);
        if !forgotten {
            self.client.queue_text(&format!("CLIENT_ACK,{kind},{id},{}", self.client.did))?;
            self.acks.push((id.to_owned(), Instant::now()));
        }
        Ok(false)
    }

    /// Sends these again, or for the first time, and waits for all answers.
    fn send(&mut self, numbers: &BTreeSet<u32>, context: &str) {
        for n in numbers {
            let sends = self.sends.as_mut().expect("it sends");
            sends.open.insert(*n);
            let frame = sends.frame(&self.group, *n);
            self.client.queue_text(&frame).expect("connected");
        }
        while self.sends.as_ref().is_some_and(|sends| !sends.open.is_empty()) {
            self.step().unwrap_or_else(|end| panic!("{context}: no answer: {end:?}"));
        }
    }

    /// Waits until everything has come that must, and then until nothing more does.
    fn finish(&mut self, ledger: &Ledger, mut awaited: BTreeSet<u64>, context: &str) {
        let mut seen = 0;
        let mut look = |got: &[Got], awaited: &mut BTreeSet<u64>| {
            got[seen..].iter().filter_map(|got| ledger.seq(&got.id)).for_each(|seq| {
                awaited.remove(&seq);
            });
            let more = got.len() > seen;
            seen = got.len();
            more
        };
        look(&self.got, &mut awaited);
        while !awaited.is_empty() {
            let first = awaited.first().copied();
            self.step().unwrap_or_else(|end| panic!("{context}: {first:?} did not come: {end:?}"));
            look(&self.got, &mut awaited);
        }
        loop {
            self.client.queue_text("ping").expect("connected");
            while !self.step().expect("connected") {}
            if !look(&self.got, &mut awaited) {
                return;
            }
        }
    }
}

impl Sends {
    fn frame(&self, group: &str, n: u32) -> String {
        // Not an xid: receivers see the server's id, by which the API finds the message.
        let id = format!("{}-{n}", self.user);
        json!({"id": id, "type": "C2G", "to": group, "payload": n}).to_string()
    }

    fn answer(&mut self, frame: &Value) {
        let id = frame["id"].as_str().expect("an id");
        let n = id.strip_prefix(&format!("{}-", self.user)).and_then(|n| n.parse().ok());
        let n: u32 = n.unwrap_or_else(|| panic!("an answer to nothing sent: {frame}"));
        assert!(self.open.remove(&n), "an answer to nothing open: {frame}");
        if frame["type"] == "error" {
            assert_eq!((&frame["code"], self.in_flight), (&json!(3), 1), "{frame}");
            assert!(!self.stored.contains_key(&n), "stored, and then refused: {frame}");
            self.refused += 1;
            return;
        }
        let ts = frame["server_ts"].as_u64().expect("ms");
        let first = *self.stored.entry(n).or_insert(ts);
        assert_eq!(ts, first, "the first result again: {frame}");
    }
}

/// After the restart.
fn verify(
    server: &Server,
    group: &mut Group,
    answered: &[What],
    open: What,
    killed: Instant,
    round: &Round,
) {
    let Group { ledger, users } = group;
    let context = format!("{}, round {}", ledger.group, round.number);
    let before = ledger.head();
    // What was not answered is sent again; it may be stored already. And the last that was.
    let past = |talk: Talk| {
        talk.client.close();
        (talk.got, talk.acks)
    };
    for user in &mut *users {
        let Some(sends) = user.sends.take() else { continue };
        let client = Client::connect(server, &user.name, DEVICES[0]);
        let mut again = sends.open.clone();
        again.extend(sends.stored.keys().next_back());
        let mut talk = Talk::new(client, &ledger.group, Some(sends));
        talk.send(&again, &context);
        user.sends = talk.sends.take();
        user.after = Some(past(talk));
    }
    // One more, of a device that is not looked at: when it has come, everything before it has, or
    // never will.
    let sends = users[1].sends.take().expect("he sends");
    let last = sends.sent;
    let client = Client::connect(server, &users[1].name, "watch");
    let mut talk = Talk::new(client, &ledger.group, Some(Sends { sent: last + 1, ..sends }));
    talk.send(&BTreeSet::from([last]), &context);
    users[1].sends = talk.sends.take();
    talk.client.close();
    let client = Client::connect(server, &users[0].name, DEVICES[0]);
    let mut owner = Talk::new(client, &ledger.group, None);
    let is_last = |got: &Got| matches!(&got.what, What::Said { from, n, .. } if *from == users[1].name && *n == last);
    while !owner.got.last().is_some_and(is_last) {
        owner.step().unwrap_or_else(|end| panic!("{context}: the last did not come: {end:?}"));
    }
    if let Some((got, _)) = users[0].past.first() {
        ledger.extend(&server.http(), got);
    }
    ledger.extend(&server.http(), &owner.got);
    users[0].after = Some(past(owner));
    verify_log(&server.http(), ledger, before, answered, open, &context);
    let ledger = &*ledger;
    thread::scope(|scope| {
        for user in users {
            let context = format!("{context}, {}", user.name);
            scope.spawn(move || verify_user(server, ledger, user, killed, &context));
        }
    });
}

/// The log has what was done, and the roster is what the log says.
fn verify_log(
    http: &Http,
    ledger: &Ledger,
    before: u64,
    answered: &[What],
    open: What,
    context: &str,
) {
    let changes = ledger.behind(before).iter().filter(|what| !matches!(what, What::Said { .. }));
    let changes: Vec<&What> = changes.collect();
    let with_open: Vec<&What> = answered.iter().chain([&open]).collect();
    let happened = changes == with_open || changes == with_open[..answered.len()];
    assert!(
        happened,
        "{context}: {with_open:?} was done, the last without an answer; the log has {changes:?}"
    );
    let path = format!("/v1/groups/{}", ledger.group);
    let roster = http.get(&format!("{path}/members?limit=100")).json();
    let member = |item: &Value| {
        let user = item["user"].as_str().expect("an id").to_owned();
        (user, item["joined_seq"].as_u64().expect("a seq"))
    };
    let roster: BTreeMap<String, u64> =
        roster["items"].as_array().expect("items").iter().map(member).collect();
    let present = |user: String| {
        let (joined, last) = ledger.memberships(&user).pop()?;
        (last == u64::MAX).then_some((user, joined))
    };
    let expected: BTreeMap<String, u64> = ledger.users().into_iter().filter_map(present).collect();
    assert_eq!(roster, expected, "{context}");
    assert_eq!(http.get(&path).json()["members"], expected.len(), "{context}");
}

/// What was answered is in the log, once and in order; each device has what it must.
fn verify_user(server: &Server, ledger: &Ledger, user: &mut User, killed: Instant, context: &str) {
    let visible = ledger.visible(&user.name);
    let past = std::mem::take(&mut user.past);
    for ((device, did), (got, acks)) in user.devices.iter_mut().zip(DEVICES).zip(past) {
        device.take(ledger, &visible, &got, &format!("{context}, {did} before the kill"));
        device.acknowledged(ledger, acks);
    }
    for device in &mut user.devices {
        device.crashed(killed);
    }
    for (device, did) in user.devices.iter_mut().zip(DEVICES) {
        let context = format!("{context}, {did}");
        if let Some((got, acks)) = user.after.take() {
            device.take(ledger, &visible, &got, &format!("{context}, first"));
            device.acknowledged(ledger, acks);
        }
        let mut talk = Talk::new(Client::connect(server, &user.name, did), &ledger.group, None);
        talk.finish(ledger, device.awaits(&visible), &context);
        device.take(ledger, &visible, &talk.got, &context);
        device.acknowledged(ledger, talk.acks);
        device.has_all(&visible, &context);
        talk.client.close();
    }
    if let Some(sends) = &user.sends {
        let stored: Vec<(u32, u64)> = sends.stored.iter().map(|(n, ts)| (*n, *ts)).collect();
        assert_eq!(ledger.said(&user.name), stored, "{context}: what was answered, once, in order");
    }
}
