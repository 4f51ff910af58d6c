//! The types that the fields of operations have: each says what it takes in words, to who gets it
//! wrong, and as a schema.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringpost_core::ids::{ConvKey, GroupId, MessageId, Slot, UserId};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A schema that stands where it is used.
macro_rules! inline_schema {
    ($type:ty, $name:literal, $schema:expr) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// What [`UserId::parse`] and [`GroupId::parse`] take.
const ID: &str = "^(?!(all|service|direct|0)$)(?!(single|group|notice|channel):)\
                  [A-Za-z0-9_.@:-]{1,64}$";

/// A user id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct User(pub UserId);

impl<'de> Deserialize<'de> for User {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<User, D::Error> {
        let wrong = "must be a user id: 1 to 64 of A-Z a-z 0-9 _ . @ : - and none of the reserved \
                     words";
        let id = text(deserializer)?.and_then(|id| UserId::parse(&id));
        id.map(User).ok_or_else(|| Error::custom(wrong))
    }
}

inline_schema!(User, "User", json_schema!({ "type": "string", "pattern": ID }));

/// A group id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group(pub GroupId);

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Group, D::Error> {
        let wrong = "must be a group id: 1 to 64 of A-Z a-z 0-9 _ . @ : - and none of the reserved \
                     words";
        let id = text(deserializer)?.and_then(|id| GroupId::parse(&id));
        id.map(Group).ok_or_else(|| Error::custom(wrong))
    }
}

inline_schema!(Group, "Group", json_schema!({ "type": "string", "pattern": ID }));

/// A message id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message(pub MessageId);

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        let id = text(deserializer)?.and_then(|id| MessageId::parse_xid(id.as_bytes()));
        id.map(Message).ok_or_else(|| Error::custom("must be a message id of 20 characters"))
    }
}

inline_schema!(
    Message,
    "Message",
    json_schema!({ "type": "string", "pattern": "^[0-9a-v]{19}[0g]$" })
);

/// A text, or nothing where something else stands.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => Some(text),
        _ => None,
    })
}

/// A text of at most so many bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text<const BYTES_MAX: usize>(pub String);

impl<'de, const BYTES_MAX: usize> Deserialize<'de> for Text<BYTES_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = text(deserializer)?.filter(|text| text.len() <= BYTES_MAX);
        let wrong = || Error::custom(format!("must be a text of at most {BYTES_MAX} bytes"));
        text.map(Text).ok_or_else(wrong)
    }
}

impl<const BYTES_MAX: usize> JsonSchema for Text<BYTES_MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Text{BYTES_MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A character has up to four bytes.
        json_schema!({ "type": "string", "maxLength": BYTES_MAX })
    }
}

/// A list of at most so many different user ids.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Users<const COUNT_MAX: usize>(pub Vec<UserId>);

impl<'de, const COUNT_MAX: usize> Deserialize<'de> for Users<COUNT_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || Error::custom(format!("must be a list of at most {COUNT_MAX} user ids"));
        let Value::Array(list) = Value::deserialize(deserializer)? else { return Err(wrong()) };
        if list.len() > COUNT_MAX {
            return Err(wrong());
        }
        let mut users = Vec::with_capacity(list.len());
        for id in list {
            users.push(User::deserialize(id).map_err(Error::custom)?.0);
        }
        users.sort_unstable();
        users.dedup();
        Ok(Users(users))
    }
}

impl<const COUNT_MAX: usize> JsonSchema for Users<COUNT_MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Users{COUNT_MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array", "items": { "type": "string", "pattern": ID }, "maxItems": COUNT_MAX,
        })
    }
}

/// How many of a list there may be in one answer, 1 to so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit<const MAX: u32>(pub u32);

impl<const MAX: u32> Limit<MAX> {
    /// What it is when nothing is said.
    const USUAL: u32 = 100;

    pub fn or_usual(limit: Option<Self>) -> u32 {
        limit.map_or(Self::USUAL, |limit| limit.0)
    }
}

impl<'de, const MAX: u32> Deserialize<'de> for Limit<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Value::deserialize(deserializer)?.as_u64();
        let number = number.and_then(|number| u32::try_from(number).ok());
        let wrong = || Error::custom(format!("must be a number, 1 to {MAX}"));
        number.filter(|number| (1..=MAX).contains(number)).map(Limit).ok_or_else(wrong)
    }
}

impl<const MAX: u32> JsonSchema for Limit<MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Limit{MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": MAX, "default": Self::USUAL })
    }
}

/// The `next` of an earlier answer: what a page begins behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct After<T>(pub T);

/// What a list is in the order of.
pub trait Cursor: Sized {
    fn bytes(&self) -> Vec<u8>;
    fn parse(bytes: &[u8]) -> Option<Self>;
}

impl Cursor for UserId {
    fn bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn parse(bytes: &[u8]) -> Option<UserId> {
        UserId::parse(std::str::from_utf8(bytes).ok()?)
    }
}

impl Cursor for ConvKey {
    fn bytes(&self) -> Vec<u8> {
        [&self.slot.0.to_be_bytes()[..], &self.hash].concat()
    }

    fn parse(bytes: &[u8]) -> Option<ConvKey> {
        let (slot, hash) = bytes.split_first_chunk::<2>()?;
        Some(ConvKey { slot: Slot(u16::from_be_bytes(*slot)), hash: hash.try_into().ok()? })
    }
}

impl<'de, T: Cursor> Deserialize<'de> for After<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = text(deserializer)?.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let found = bytes.and_then(|bytes| T::parse(&bytes));
        found.map(After).ok_or_else(|| Error::custom("must be the `next` of an earlier answer"))
    }
}

impl<T> JsonSchema for After<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "After".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A part of a list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where there may be more: the `after` of the next part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that is whole.
    pub fn whole(items: Vec<T>) -> Page<T> {
        Page { items, next: None }
    }

    /// Those of a list; with as many as were asked for, there may be more behind the last.
    pub fn of<F, C: Cursor>(
        found: &[F],
        limit: u32,
        shown: impl Fn(&F) -> T,
        cursor: impl Fn(&F) -> &C,
    ) -> Page<T> {
        let last = found.last().filter(|_| found.len() == limit as usize);
        Page { items: found.iter().map(shown).collect(), next: last.map(|last| next(cursor(last))) }
    }
}

/// The `next` of a page that ends there.
pub fn next(last: &impl Cursor) -> String {
    URL_SAFE_NO_PAD.encode(last.bytes())
}

/// A field of something that is changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Change<T> {
    /// It was not named.
    #[default]
    Keep,
    /// It is null.
    Clear,
    Set(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|value| value.map_or(Change::Clear, Change::Set))
    }
}

impl<T: JsonSchema> JsonSchema for Change<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Change{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<Option<T>>()
    }
}

impl<T> Change<T> {
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Change::Keep => Change::Keep,
            Change::Clear => Change::Clear,
            Change::Set(value) => Change::Set(map(value)),
        }
    }

    /// Changes what is there.
    pub fn apply(self, to: &mut Option<T>) {
        match self {
            Change::Keep => {}
            Change::Clear => *to = None,
            Change::Set(value) => *to = Some(value),
        }
    }
}

/// Any JSON.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Any(pub Value);

inline_schema!(Any, "Any", json_schema!({}));

/// An answer that says only that it is done.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Done {}

/// A text of at most so many bytes, or a whole number: clients send either.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(transparent)]
pub struct WordOrNumber<const BYTES_MAX: usize>(Value);

impl<'de, const BYTES_MAX: usize> Deserialize<'de> for WordOrNumber<BYTES_MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.is_u64() || value.as_str().is_some_and(|text| text.len() <= BYTES_MAX) {
            return Ok(WordOrNumber(value));
        }
        let wrong = format!("must be a text of at most {BYTES_MAX} bytes or a whole number");
        Err(Error::custom(wrong))
    }
}

impl<const BYTES_MAX: usize> JsonSchema for WordOrNumber<BYTES_MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("WordOrNumber{BYTES_MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minimum": 0, "maxLength": BYTES_MAX })
    }
}

/// A whole number that fits where clients have 31 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Int32(pub i32);

impl<'de> Deserialize<'de> for Int32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Value::deserialize(deserializer)?.as_u64();
        let number = number.and_then(|number| i32::try_from(number).ok());
        let wrong = || Error::custom("must be a whole number, 0 to 2147483647");
        number.map(Int32).ok_or_else(wrong)
    }
}

inline_schema!(
    Int32,
    "Int32",
    json_schema!({ "type": "integer", "minimum": 0, "maximum": i32::MAX })
);
