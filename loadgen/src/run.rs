//! What makes one run distinguishable from all others: its names, message ids and tokens.
//!
//! Decides nothing about load.

use jsonwebtoken::{EncodingKey, Header};
use ringpost_core::ids::MessageId;
use serde::Serialize;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Length of a message id on the wire.
pub const ID_LEN: usize = 20;

/// The identity of a run.
#[derive(Clone, Debug)]
pub struct Run {
    prefix: String,
    /// Unix time of its start: the first four bytes of every message id.
    second: u32,
    /// The next two bytes, random.
    tag: u16,
    /// For payloads and masks.
    pub seed: u64,
}

impl Run {
    /// A run that starts now, with user names of its own unless `prefix` names others.
    pub fn new(prefix: Option<&str>) -> Run {
        let second = unix_seconds() as u32;
        let seed = RandomState::new().hash_one(std::process::id());
        let tag = seed as u16;
        let fresh = || format!("lg{second:x}{tag:04x}-");
        Run { prefix: prefix.map_or_else(fresh, str::to_owned), second, tag, seed }
    }

    /// The user of connection `index`.
    pub fn user(&self, index: u32) -> String {
        format!("{}{index}", self.prefix)
    }

    /// Group `index`.
    pub fn group(&self, index: u32) -> String {
        format!("{}g{index}", self.prefix)
    }

    /// The device of connection `index`.
    pub fn device(&self, index: u32) -> String {
        format!("loadgen-{index}")
    }

    /// The id of message `number` of sender `flow`, in the xid's text form.
    pub fn message_id(&self, flow: u16, number: u32) -> [u8; ID_LEN] {
        let mut id = [0u8; 12];
        id[..4].copy_from_slice(&self.second.to_be_bytes());
        id[4..6].copy_from_slice(&self.tag.to_be_bytes());
        id[6..8].copy_from_slice(&flow.to_be_bytes());
        id[8..].copy_from_slice(&number.to_be_bytes());
        MessageId(id).to_xid()
    }

    /// The inverse of [`Run::message_id`]; `None` for an id that this run did not make.
    pub fn parse_id(&self, text: &[u8]) -> Option<(u16, u32)> {
        let MessageId(id) = MessageId::parse_xid(text)?;
        let ours = id[..4] == self.second.to_be_bytes() && id[4..6] == self.tag.to_be_bytes();
        let number = u32::from_be_bytes([id[8], id[9], id[10], id[11]]);
        ours.then(|| (u16::from_be_bytes([id[6], id[7]]), number))
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Mints HS256 tokens with the server's own secret.
pub struct Minter {
    key: EncodingKey,
    now_s: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
}

impl Minter {
    /// Tokens live longer than the longest run.
    const LIFE_S: u64 = 6 * 3600;

    /// Reads the secret that the server generated; white space at its end does not count.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn from_file(path: &Path) -> Result<Minter, String> {
        let secret = std::fs::read(path).map_err(|error| {
            format!(
                "cannot read the server's token secret {}: {error}; name it with --secret-file \
                 (the server keeps it as token-secret in its data directory)",
                path.display()
            )
        })?;
        let secret = secret.trim_ascii_end();
        if secret.is_empty() {
            return Err(format!("the token secret {} is empty", path.display()));
        }
        Ok(Minter { key: EncodingKey::from_secret(secret), now_s: unix_seconds() })
    }

    /// A token for `user`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn mint(&self, user: &str) -> Result<String, String> {
        let claims = Claims { sub: user, iat: self.now_s, exp: self.now_s + Self::LIFE_S };
        jsonwebtoken::encode(&Header::default(), &claims, &self.key)
            .map_err(|error| format!("cannot mint a token: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_valid_xids_and_belong_to_one_run() {
        let run = Run { prefix: "p".to_owned(), second: 1_700_000_000, tag: 0xbeef, seed: 1 };
        for (flow, number) in [(0, 1), (999, u32::MAX), (u16::MAX, 0x0102_0304)] {
            let id = run.message_id(flow, number);
            assert_eq!(run.parse_id(&id), Some((flow, number)));
            assert!(MessageId::parse_xid(&id).is_some());
            assert_eq!(Run { tag: 0xbeee, ..run.clone() }.parse_id(&id), None);
            assert_eq!(Run { second: 1, ..run.clone() }.parse_id(&id), None);
        }
        assert_eq!(run.parse_id(b"9m4e2mr0ui3e8a215n4g"), None);
        assert_eq!(run.parse_id(b"not an id"), None);
    }

    #[test]
    fn user_names_are_valid_and_fresh_by_default() {
        let run = Run::new(None);
        assert!(ringpost_core::ids::UserId::parse(&run.user(u16::MAX.into())).is_some());
        assert_eq!(Run::new(Some("bob-")).user(3), "bob-3");
    }

    #[test]
    fn tokens_verify_with_the_secret() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("token-secret");
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").expect("written");
        let token = Minter::from_file(&path).expect("read").mint("ann").expect("minted");
        let key = jsonwebtoken::DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        let mut validation = jsonwebtoken::Validation::default();
        validation.set_required_spec_claims(&["exp", "sub"]);
        let claims: serde_json::Value =
            jsonwebtoken::decode(&token, &key, &validation).expect("valid").claims;
        assert_eq!(claims["sub"], "ann");
        assert!(claims["iat"].as_u64() < claims["exp"].as_u64());
        assert!(Minter::from_file(&dir.path().join("absent")).is_err());
    }
}
