//! What a group's log says, record by record, and whether what a device got agrees with it.
//!
//! The records come from a device of the owner, who never leaves and sends nothing, so that he is
//! shown everything behind the founding; the server is asked for the seq of each. Who was a member
//! when is what the log's own events say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::http::Http;
use super::rounds::AGAIN;

/// Nothing is sent again on one connection earlier: the first retry of a group's message comes
/// after 3.5 s (protocols/imboy.md).
const RETRY: Duration = Duration::from_secs(3);

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Said { from: String, n: u32, ts: u64 },
    Joined(Vec<String>),
    Left(String),
}

/// A record as it came to a device.
pub struct Got {
    pub id: String,
    pub what: What,
    pub at: Instant,
}

impl Got {
    /// `None`: what came is no record of a group.
    pub fn of(frame: &Value, group: &str) -> Option<Got> {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let payload = &frame["payload"];
        let what = if frame["type"] == "C2G" {
            assert_eq!(frame["to"], group, "{frame}");
            let n = payload.as_u64().expect("a number") as u32;
            let ts = frame["server_ts"].as_u64().expect("ms");
            What::Said { from: text(&frame["from"]), n, ts }
        } else {
            let users = payload["user_ids"].as_array();
            let users = users.into_iter().flatten().map(text).collect();
            match payload["msg_type"].as_str() {
                Some("group_member_join") => What::Joined(users),
                Some("group_member_leave") => What::Left(users.concat()),
                _ => return None,
            }
        };
        Some(Got { id: text(&frame["id"]), what, at: Instant::now() })
    }
}

/// The log of a group.
pub struct Ledger {
    pub group: String,
    founders: Vec<String>,
    /// Behind the founding, which has seq 1 and which nobody is shown.
    records: Vec<What>,
    seqs: HashMap<String, u64>,
}

impl Ledger {
    pub fn new(group: &str, founders: &[String]) -> Ledger {
        let (group, founders) = (group.to_owned(), founders.to_vec());
        Ledger { group, founders, records: Vec::new(), seqs: HashMap::new() }
    }

    /// The last seq.
    pub fn head(&self) -> u64 {
        self.records.len() as u64 + 1
    }

    /// The records behind `seq`.
    pub fn behind(&self, seq: u64) -> &[What] {
        &self.records[seq as usize - 1..]
    }

    /// Takes what the owner's device got and the ledger does not know. The server is asked where
    /// changes of members stand, some messages between, and the last ones, which are those that may
    /// have been shown too early: a record too many or too few would move all behind it.
    pub fn extend(&mut self, http: &Http, got: &[Got]) {
        for (at, Got { id, what, .. }) in got.iter().enumerate() {
            if self.seqs.contains_key(id) {
                continue;
            }
            let next = self.head() + 1;
            let said = matches!(what, What::Said { .. });
            if !said || at % 16 == 0 || at + 64 > got.len() {
                let answer = http.get(&format!("/v1/messages/{id}"));
                assert_eq!(answer.status, 200, "{what:?} was delivered and is not stored");
                let stored = answer.json();
                assert_eq!(stored["conversation"], format!("group:{}", self.group));
                assert_eq!(stored["seq"], next, "{what:?} comes next to the owner");
                if let What::Said { from, ts, .. } = what {
                    assert_eq!(
                        (stored["from"].as_str(), stored["server_ts"].as_u64()),
                        (Some(&from[..]), Some(*ts))
                    );
                }
            }
            self.seqs.insert(id.clone(), next);
            self.records.push(what.clone());
        }
    }

    /// All who ever were members.
    pub fn users(&self) -> BTreeSet<String> {
        let joined = self.records.iter().filter_map(|what| match what {
            What::Joined(users) => Some(users),
            _ => None,
        });
        self.founders.iter().chain(joined.flatten()).cloned().collect()
    }

    /// From which seq to which a user is, or was, a member.
    pub fn memberships(&self, user: &str) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        if self.founders.iter().any(|founder| founder == user) {
            ranges.push((1, u64::MAX));
        }
        for (seq, what) in (2..).zip(&self.records) {
            let last = ranges.last_mut().filter(|(_, last)| *last == u64::MAX);
            match what {
                What::Joined(users) if users.iter().any(|joined| joined == user) => {
                    assert_eq!(last, None, "{user} joins at {seq} and is a member");
                    ranges.push((seq, u64::MAX));
                }
                What::Left(left) if left == user => {
                    last.unwrap_or_else(|| panic!("{user} leaves at {seq} and is no member")).1 =
                        seq;
                }
                What::Said { from, .. } if from == user => {
                    assert!(last.is_some(), "{user} writes at {seq} and is no member");
                }
                _ => {}
            }
        }
        ranges
    }

    /// What a user is shown.
    pub fn visible(&self, user: &str) -> BTreeSet<u64> {
        let shown = |what: &What| match what {
            What::Said { from, .. } => from != user,
            What::Joined(users) => users.iter().all(|joined| joined != user),
            What::Left(_) => true,
        };
        let ranges = self.memberships(user).into_iter();
        let seqs = ranges.flat_map(|(from, to)| from.max(2)..=to.min(self.head()));
        seqs.filter(|seq| shown(&self.records[*seq as usize - 2])).collect()
    }

    /// Numbers and times of what a user said, in the log's order.
    pub fn said(&self, user: &str) -> Vec<(u32, u64)> {
        let said = self.records.iter().filter_map(|what| match what {
            What::Said { from, n, ts } if from == user => Some((*n, *ts)),
            _ => None,
        });
        said.collect()
    }

    pub fn seq(&self, id: &str) -> Option<u64> {
        self.seqs.get(id).copied()
    }
}

/// What a device knows, over all rounds.
#[derive(Default)]
pub struct Device {
    got: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    /// When it acknowledged what it did since the last crash.
    fresh: BTreeMap<u64, Instant>,
    /// Acknowledged so shortly before a crash that it may come again, and not again since.
    shaky: BTreeSet<u64>,
}

impl Device {
    /// Judges what one connection got, in order.
    pub fn take(&mut self, ledger: &Ledger, visible: &BTreeSet<u64>, got: &[Got], context: &str) {
        let mut here: BTreeMap<u64, Instant> = BTreeMap::new();
        for Got { id, what, at } in got {
            let seq = ledger.seq(id);
            let seq = seq.unwrap_or_else(|| panic!("{context}: {what:?} is in nobody's log"));
            assert_eq!(ledger.behind(seq - 1)[0], *what, "{context}: seq {seq}");
            assert!(visible.contains(&seq), "{context}: {what:?} at {seq} is not for this user");
            if let Some(first) = here.get(&seq) {
                let after = at.saturating_duration_since(*first);
                assert!(after >= RETRY, "{context}: {seq} twice, after {after:?}");
                continue;
            }
            let previous = here.last_key_value().map(|(seq, _)| *seq);
            assert!(previous < Some(seq), "{context}: {seq} behind {previous:?}");
            here.insert(seq, *at);
            if self.acked.contains(&seq) {
                assert!(self.shaky.contains(&seq), "{context}: {seq} again, long acknowledged");
            }
            if !self.got.contains(&seq) {
                let overtaken = self.got.last();
                assert!(overtaken < Some(&seq), "{context}: {seq} first behind {overtaken:?}");
                self.got.insert(seq);
            }
        }
    }

    /// Acknowledgements that it sent, by id.
    pub fn acknowledged(&mut self, ledger: &Ledger, acks: Vec<(String, Instant)>) {
        for (id, at) in acks {
            // What else it was told is no record.
            let Some(seq) = ledger.seq(&id) else { continue };
            self.acked.insert(seq);
            self.fresh.insert(seq, at);
            self.shaky.remove(&seq);
        }
    }

    /// The server was killed.
    pub fn crashed(&mut self, killed: Instant) {
        for (seq, at) in std::mem::take(&mut self.fresh) {
            if killed.saturating_duration_since(at) < AGAIN {
                self.shaky.insert(seq);
            }
        }
    }

    /// What of `visible` it has not acknowledged: that must come.
    pub fn awaits(&self, visible: &BTreeSet<u64>) -> BTreeSet<u64> {
        visible.iter().copied().filter(|seq| !self.acked.contains(seq)).collect()
    }

    /// Everything that it is shown has come.
    pub fn has_all(&self, visible: &BTreeSet<u64>, context: &str) {
        let missing: Vec<_> = visible.difference(&self.got).take(10).collect();
        assert!(missing.is_empty(), "{context}: {missing:?} never came");
    }
}
