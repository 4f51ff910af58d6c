//! What two users are to each other: friends, asked, blocked. The rows, what can be done about
//! them, and who may write to whom.
//!
//! A pair's relation is written by the home of their private conversation, one row under each
//! user's slot, both in one batch. The rules are in `shard/relations.rs`.

use crate::dialect::json::{Scratch, Value, write_integer, write_string};
use crate::ids::UserId;
use crate::limits::PERSON_TEXT_BYTES_MAX;

/// Who may write to whom (protocols/README.md, *Who may do what*). Blocks count always.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrivatePolicy {
    /// Everybody to everybody.
    #[default]
    Anyone,
    /// Friends, users of the same organisation, and services.
    Contacts,
    /// Friends alone.
    Friends,
}

/// One user's side of a pair.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RelationRow {
    /// Since when they are friends, ms since 1970; 0: they are not. The same on both sides.
    pub friends_ms: u64,
    /// When their last friendship ended; 0: none has.
    pub ended_ms: u64,
    /// When the user has blocked the other; 0: he has not.
    pub blocked_ms: u64,
    /// When the user has asked the other to be friends, and has no answer yet; 0: he has not.
    pub asked_ms: u64,
    /// What the user says to the other and keeps about him.
    pub terms: Terms,
}

impl RelationRow {
    /// Nothing is known that a row would be needed for.
    pub fn is_empty(&self) -> bool {
        *self == RelationRow::default()
    }
}

/// What a user says with a request or an acceptance, and keeps about the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// How he has found the other: a word of the apps.
    pub source: String,
    /// To the other.
    pub message: String,
    /// What he calls the other.
    pub remark: String,
    /// What the other may see of him: a word of the apps.
    pub role: String,
    /// Under which he keeps the other.
    pub tag: String,
    /// He does not want to see the other's posts.
    pub do_not_look: bool,
    /// The other is not to see his posts.
    pub do_not_show: bool,
}

impl Terms {
    /// The texts, each of at most [`crate::limits::TERMS_TEXT_BYTES_MAX`].
    pub fn texts(&self) -> [&str; 5] {
        [&self.source, &self.message, &self.remark, &self.role, &self.tag]
    }
}

/// What others are shown of a profile.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Person {
    /// The name by which he is found.
    pub account: String,
    /// The name that is shown.
    pub name: String,
    /// An address of a picture.
    pub avatar: String,
    /// A motto.
    pub sign: String,
    /// As JSON: clients give a text or a number. Empty: nothing was given.
    pub gender: String,
    /// Where he lives.
    pub region: String,
}

impl Person {
    /// Reads a profile, the JSON object of a [`crate::event::UserRow`]. What is not there, not a text,
    /// or over [`PERSON_TEXT_BYTES_MAX`] stays empty.
    pub fn of_profile(profile: &str, scratch: &mut Scratch) -> Person {
        let read = scratch.members(profile.as_bytes(), |members| {
            let mut person = Person::default();
            for (_, key, value) in members {
                let field = match (key, value) {
                    ("account", Value::Text(_)) => &mut person.account,
                    ("name", Value::Text(_)) => &mut person.name,
                    ("avatar", Value::Text(_)) => &mut person.avatar,
                    ("sign", Value::Text(_)) => &mut person.sign,
                    ("region", Value::Text(_)) => &mut person.region,
                    ("gender", value) => {
                        person.gender = json_of(value);
                        continue;
                    }
                    _ => continue,
                };
                if let Value::Text(text) = value
                    && text.len() <= PERSON_TEXT_BYTES_MAX
                {
                    field.push_str(text);
                }
            }
            person
        });
        read.unwrap_or_default()
    }

    /// The texts, in order.
    pub fn texts(&self) -> [&str; 6] {
        [&self.account, &self.name, &self.avatar, &self.sign, &self.gender, &self.region]
    }
}

fn json_of(value: Value<'_>) -> String {
    let mut out = Vec::new();
    match value {
        Value::Text(text) if text.len() <= PERSON_TEXT_BYTES_MAX / 8 => {
            write_string(text, &mut out);
        }
        Value::Text(_) => {}
        Value::Integer(number) => write_integer(number, &mut out),
        Value::Other => {}
    }
    String::from_utf8(out).expect("made of a text or of digits")
}

/// What of a profile decides about [`PrivatePolicy::Contacts`]: the organisation, and whether it is
/// a service.
pub fn contact_facts(profile: &str, scratch: &mut Scratch) -> (String, bool) {
    let read = scratch.members(profile.as_bytes(), |members| {
        let (mut org, mut service) = (String::new(), false);
        for (_, key, value) in members {
            match (key, value) {
                ("org", Value::Text(text)) => org = text.to_owned(),
                ("role", Value::Text(text)) => service = text == "service",
                _ => {}
            }
        }
        (org, service)
    });
    read.unwrap_or_default()
}

/// A friend request, as the one who is asked is told, and the one who asked when it is accepted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FriendNews {
    /// User id of who asks.
    pub from: String,
    /// User id of who is asked.
    pub to: String,
    /// What the one who asks has said.
    pub terms: Terms,
    /// What the one who is asked calls the other.
    pub remark: String,
    /// The one who asks.
    pub asker: Person,
    /// The one who is asked.
    pub asked: Person,
}

/// What can be done about a pair.
#[derive(Clone, Debug)]
pub enum RelationOperation {
    /// `from` asks `to` to be friends.
    Ask { from: UserId, to: UserId, terms: Terms },
    /// `to` accepts what `from` has asked.
    Accept { from: UserId, to: UserId, terms: Terms },
    /// `to` does not.
    Reject { from: UserId, to: UserId },
    /// The friendship ends.
    End { one: UserId, other: UserId },
    /// `by` wants to get nothing from `other` any more, or (`on` false) again.
    Block { by: UserId, other: UserId, on: bool },
}

impl RelationOperation {
    /// The pair.
    pub fn pair(&self) -> (&UserId, &UserId) {
        match self {
            RelationOperation::Ask { from, to, .. }
            | RelationOperation::Accept { from, to, .. }
            | RelationOperation::Reject { from, to } => (from, to),
            RelationOperation::End { one, other } => (one, other),
            RelationOperation::Block { by, other, .. } => (by, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_is_what_the_profile_says() {
        let mut scratch = Scratch::default();
        let profile = r#"{"name":"A \"l\"","gender":1,"extra":{"name":"x"},"sign":7,"region":"R"}"#;
        let person = Person::of_profile(profile, &mut scratch);
        let text = str::to_owned;
        let expected = Person {
            name: text("A \"l\""),
            gender: text("1"),
            region: text("R"),
            ..Person::default()
        };
        assert_eq!(person, expected);
        let person = Person::of_profile(r#"{"gender":"f\n"}"#, &mut scratch);
        assert_eq!(person.gender, r#""f\n""#);
        for empty in ["", "{}", "nonsense"] {
            assert_eq!(Person::of_profile(empty, &mut scratch), Person::default());
        }
        let facts = contact_facts(r#"{"org":"O","role":"service"}"#, &mut scratch);
        assert_eq!(facts, ("O".to_owned(), true));
        assert_eq!(contact_facts(r#"{"role":"user"}"#, &mut scratch), (String::new(), false));
    }
}
