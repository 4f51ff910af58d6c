//! Short names for entries and loads. Asserts nothing itself.

use std::fs;
use std::path::Path;

use ringpost_core::event::{Effects, Entry, Load, Loaded, MessageEntry, Position};
use ringpost_core::ids::{
    ConvKey, Conversation, DedupKey, DeviceId, Dialect, MessageId, ShardId, UserId,
};
use ringpost_core::record::Kind;
use ringpost_storage::{Batch, Log, Options, Rocks};

/// Any constant will do: the tests choose the keys themselves.
pub const SECRET: u64 = 7;
/// Messages are of the year 2096, so that no test's resends expire.
pub const EPOCH_MS: u64 = 4_000_000_000_000;

pub fn user(id: &str) -> UserId {
    UserId::parse(id).expect("a valid id")
}

pub fn device(name: &str) -> DeviceId {
    DeviceId { dialect: Dialect::Imboy, name: name.into() }
}

pub fn private(one: &str, other: &str) -> Conversation {
    Conversation::private(&user(one), &user(other))
}

pub fn key(one: &str, other: &str) -> ConvKey {
    private(one, other).key(SECRET)
}

pub fn id(number: u64) -> MessageId {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    MessageId(bytes)
}

pub fn dedup(one: &str, other: &str, client_id: &str) -> DedupKey {
    DedupKey::new(key(one, other), &user(one), client_id, SECRET)
}

/// A turn, as the core makes it.
#[derive(Default)]
pub struct Turn(Effects);

impl Turn {
    pub fn entry(mut self, entry: Entry) -> Turn {
        self.0.entries.push(entry);
        self
    }

    /// Message `seq` from `one` to `other`; its id, times and client id follow from the seq.
    pub fn message(self, one: &str, other: &str, seq: u64, content: &[u8]) -> Turn {
        self.message_at(EPOCH_MS + seq, one, other, seq, content)
    }

    pub fn message_at(
        mut self,
        time_ms: u64,
        one: &str,
        other: &str,
        seq: u64,
        content: &[u8],
    ) -> Turn {
        let start = self.0.entry_bytes.len() as u32;
        self.0.entry_bytes.extend_from_slice(content);
        let client_id = format!("c{seq}");
        let record = MessageEntry {
            seq,
            kind: Kind::Message,
            id: id(seq),
            time_ms,
            sender_ms: seq.is_multiple_of(2).then_some(-(seq as i64)),
            countable: seq,
            sent: [0; 2],
            sender: one.into(),
            device: device("phone"),
            client_id: client_id.as_str().into(),
            content: start..self.0.entry_bytes.len() as u32,
            dedup: Some(dedup(one, other, &client_id)),
        };
        let conversation = key(one, other);
        self.entry(Entry::Message { conversation, record: Box::new(record) })
    }

    /// A notice to everybody; the first has its conversation's name, too.
    pub fn notice_to_all(mut self, key: ConvKey, seq: u64, client_id: &str) -> Turn {
        let start = self.0.entry_bytes.len() as u32;
        self.0.entry_bytes.extend_from_slice(b"x");
        let record = Box::new(MessageEntry {
            seq,
            kind: Kind::Event,
            id: id(1_000_000 + seq),
            time_ms: EPOCH_MS + seq,
            sender_ms: None,
            countable: 0,
            sent: [0; 2],
            sender: "".into(),
            device: device(""),
            client_id: client_id.into(),
            content: start..self.0.entry_bytes.len() as u32,
            dedup: None,
        });
        if seq == 1 {
            let conversation = Conversation::Broadcast;
            self = self.entry(Entry::Conversation { key, conversation });
        }
        self.entry(Entry::Message { conversation: key, record })
    }

    /// The name that goes with a conversation's first message.
    pub fn named(self, one: &str, other: &str) -> Turn {
        let (key, conversation) = (key(one, other), private(one, other));
        self.entry(Entry::Conversation { key, conversation })
    }

    pub fn mark(self, of: &str, one: &str, other: &str, seq: u64) -> Turn {
        self.entry(Entry::Mark { user: user(of), conversation: key(one, other), seq })
    }

    pub fn cursor(self, of: &str, one: &str, other: &str, name: &str, acked: u64) -> Turn {
        self.entry(Entry::Cursor {
            user: user(of),
            conversation: key(one, other),
            device: device(name),
            position: Position { acked, ranges: vec![(acked + 2, acked + 3)] },
        })
    }

    pub fn lease(self, shard: u16, second: u32) -> Turn {
        self.entry(Entry::IdLease { shard: ShardId(shard), second })
    }

    pub fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.push(&self.0);
        batch
    }

    pub fn commit(&self, log: &impl Log) {
        log.commit(&[self.batch()]).expect("committed");
    }
}

pub fn open(path: &Path) -> Rocks {
    Rocks::open(path, Options::default()).expect("the store opens")
}

/// Loads as a text: answers have no equality of their own.
pub fn ask(log: &impl Log, load: &Load) -> String {
    format!("{:?}", log.load(load).expect("answered"))
}

pub fn page(one: &str, other: &str, from: u64, to: u64, bytes: u32) -> Load {
    Load::Page { conversation: key(one, other), from, to, bytes }
}

/// The seqs and contents of a page.
pub fn contents(log: &impl Log, load: &Load) -> Vec<(u64, Vec<u8>)> {
    match log.load(load).expect("answered") {
        Loaded::Page(page) => page.iter().map(|r| (r.seq, r.content.to_vec())).collect(),
        other => panic!("not a page: {other:?}"),
    }
}

pub fn head(log: &impl Log, one: &str, other: &str) -> u64 {
    match log.load(&Load::Conversation { key: key(one, other), expected: None }).expect("answered")
    {
        Loaded::Conversation(loaded) => loaded.head,
        other => panic!("not a conversation: {other:?}"),
    }
}

/// A copy of a store, which is what a crash leaves.
pub fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("a directory");
    for (from, to) in [(from, to.path()), (&from.join("rocks"), &to.path().join("rocks"))] {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("read") {
            let entry = entry.expect("read");
            if entry.file_type().expect("known").is_file() {
                fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
            }
        }
    }
    to
}
