//! What can happen in a conversation beside that somebody says something: the content of a record
//! of kind `Event`, in no protocol's words.
//!
//! Encoded as a tag byte and fields in order; numbers are big-endian, texts have a 16-bit length in
//! front, lists a 16-bit count (storage/FORMAT.md, *Events*). Dialects make frames of it, or show
//! nothing where they have no word for it.

use crate::ids::MessageId;

/// Something that happened. Who caused it, and when, is in the record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    /// These users are members of the group from this record on.
    MembersJoined {
        /// User ids; at least one, at most [`crate::limits::MEMBERS_CHANGED_MAX`].
        users: Vec<String>,
    },
    /// These users are members of the group up to this record.
    MembersLeft {
        /// User ids, as above.
        users: Vec<String>,
    },
    /// The group is closed; this is its last record.
    Dissolved,
    /// A member goes by another name in the group.
    AliasChanged {
        /// Whose name.
        user: String,
        /// The name; empty: none any more.
        alias: String,
        /// What the member says of himself in the group.
        description: String,
    },
    /// The author, or who may, has taken a message back.
    Revoked {
        /// Position of the message in this conversation.
        seq: u64,
        /// The id under which imboy's clients know it: [`crate::dialect::imboy::wire_id`].
        wire: MessageId,
    },
}

/// The tags, in the order in which they came to be. Never reused.
mod tag {
    pub const MEMBERS_JOINED: u8 = 1;
    pub const MEMBERS_LEFT: u8 = 2;
    pub const DISSOLVED: u8 = 3;
    pub const ALIAS_CHANGED: u8 = 4;
    pub const REVOKED: u8 = 5;
}

impl Happened {
    /// Appends the encoded form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Happened::MembersJoined { users } => {
                out.push(tag::MEMBERS_JOINED);
                put_list(users, out);
            }
            Happened::MembersLeft { users } => {
                out.push(tag::MEMBERS_LEFT);
                put_list(users, out);
            }
            Happened::Dissolved => out.push(tag::DISSOLVED),
            Happened::AliasChanged { user, alias, description } => {
                out.push(tag::ALIAS_CHANGED);
                [user, alias, description].into_iter().for_each(|text| put_text(text, out));
            }
            Happened::Revoked { seq, wire } => {
                out.push(tag::REVOKED);
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&wire.0);
            }
        }
    }

    /// The inverse of [`Happened::encode`]. `None`: a later version's, or not one.
    pub fn decode(content: &[u8]) -> Option<Happened> {
        let (&tag, rest) = content.split_first()?;
        let mut fields = Fields { rest };
        let happened = match tag {
            tag::MEMBERS_JOINED => Happened::MembersJoined { users: fields.list()? },
            tag::MEMBERS_LEFT => Happened::MembersLeft { users: fields.list()? },
            tag::DISSOLVED => Happened::Dissolved,
            tag::ALIAS_CHANGED => Happened::AliasChanged {
                user: fields.text()?,
                alias: fields.text()?,
                description: fields.text()?,
            },
            tag::REVOKED => Happened::Revoked {
                seq: u64::from_be_bytes(*fields.take()?),
                wire: MessageId(*fields.take()?),
            },
            _ => return None,
        };
        fields.rest.is_empty().then_some(happened)
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).expect("who makes an event has checked its lengths");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_list(texts: &[String], out: &mut Vec<u8>) {
    let count = u16::try_from(texts.len()).expect("who makes an event has checked its lengths");
    out.extend_from_slice(&count.to_be_bytes());
    texts.iter().for_each(|text| put_text(text, out));
}

/// What is left of an encoded event.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(self.u16()?);
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }

    fn list(&mut self) -> Option<Vec<String>> {
        (0..self.u16()?).map(|_| self.text()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_bytes_of_the_format_document_and_come_back() {
        let text = |text: &str| text.to_owned();
        let cases: [(Happened, &[u8]); 5] = [
            (
                Happened::MembersJoined { users: vec![text("ann"), text("bo")] },
                b"\x01\0\x02\0\x03ann\0\x02bo",
            ),
            (Happened::MembersLeft { users: vec![text("bo")] }, b"\x02\0\x01\0\x02bo"),
            (Happened::Dissolved, b"\x03"),
            (
                Happened::AliasChanged {
                    user: text("bo"),
                    alias: text("B"),
                    description: text(""),
                },
                b"\x04\0\x02bo\0\x01B\0\0",
            ),
            (
                Happened::Revoked { seq: 7, wire: MessageId([9; 12]) },
                b"\x05\0\0\0\0\0\0\0\x07\t\t\t\t\t\t\t\t\t\t\t\t",
            ),
        ];
        for (happened, bytes) in cases {
            let mut out = Vec::new();
            happened.encode(&mut out);
            assert_eq!(out, bytes, "{happened:?}");
            assert_eq!(Happened::decode(bytes), Some(happened));
            for end in 0..bytes.len() {
                assert_eq!(Happened::decode(&bytes[..end]), None, "cut at {end}");
            }
            assert_eq!(Happened::decode(&[bytes, b"x"].concat()), None, "too long");
        }
        assert_eq!(Happened::decode(b"\xff"), None, "of a later version");
    }
}
