//! Our own store with the messages of `rocks-put`: what the log costs with everything that the
//! server stores of a private message (record, id, recognition of a resend).

use ringpost_core::event::{Entry, MessageEntry};
use ringpost_core::ids::{Conversation, DedupKey, DeviceId, Dialect, MessageId, UserId};
use ringpost_core::record::Kind;
use ringpost_storage::{Batch, Log, Options, Rocks};
use std::path::Path;

use crate::puts::{BATCH, CONVERSATIONS, Puts, VALUE_BYTES, timed, value};

/// Commits `messages` messages, a batch at a time.
///
/// # Errors
/// A sentence for the user.
pub fn puts(path: &Path, messages: u32) -> Result<Puts, String> {
    let rocks = Rocks::open(path, Options::default())
        .map_err(|error| format!("the store cannot be opened: {error}"))?;
    let secret = rocks.opening().secret;
    let user = |number: u64| UserId::parse(&format!("bench-{number}")).expect("a valid id");
    let pairs: Vec<_> = (0..CONVERSATIONS)
        .map(|pair| {
            let (one, other) = (user(2 * pair), user(2 * pair + 1));
            (Conversation::private(&one, &other).key(secret), one)
        })
        .collect();
    let mut batch = [Batch::new()];
    timed(messages, |number| {
        batch[0].clear();
        let first = number * u64::from(BATCH);
        for number in first..first + u64::from(BATCH) {
            let (conversation, sender) = &pairs[(number % CONVERSATIONS) as usize];
            let content = value(number);
            let id = message_id(number);
            let client_id = id.to_string();
            let dedup = DedupKey::new(*conversation, sender, &client_id, secret);
            let record = MessageEntry {
                seq: number / CONVERSATIONS + 1,
                kind: Kind::Message,
                id,
                time_ms: 1_700_000_000_000 + number,
                sender_ms: None,
                countable: number / CONVERSATIONS + 1,
                sent: [0; 2],
                sender: sender.as_str().into(),
                device: DeviceId { dialect: Dialect::Imboy, name: "bench".into() },
                client_id: client_id.into(),
                content: 0..VALUE_BYTES as u32,
                dedup: Some(dedup),
            };
            let record = Box::new(record);
            batch[0].entry(&Entry::Message { conversation: *conversation, record }, &content);
        }
        rocks.commit(&batch).map_err(|error| format!("the store failed: {error}"))
    })
}

/// Ascending, as the server makes them.
fn message_id(number: u64) -> MessageId {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&number.to_be_bytes());
    MessageId(id)
}
