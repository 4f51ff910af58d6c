//! What can happen in a conversation beside that somebody says something: the content of a record
//! of kind `Event`, in no protocol's words.
//!
//! Encoded as a tag byte and fields in order; numbers are big-endian, texts have a 16-bit length in
//! front, lists a 16-bit count (storage/FORMAT.md, *Events*). Dialects make frames of it, or show
//! nothing where they have no word for it.

use crate::ids::MessageId;
use crate::relations::{FriendNews, Person, Terms};

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
    /// Somebody asks the user to be friends.
    FriendAsked(Box<FriendNews>),
    /// The user has asked, and the other has accepted.
    FriendAccepted(Box<FriendNews>),
    /// The account of a friend, who caused the record, was cancelled.
    AccountCancelled,
    /// A business notice. What the texts mean is between the operator's back end and its apps.
    Noticed {
        /// What notices it belongs to; may be empty.
        stream: String,
        /// What it is.
        kind: String,
        /// May be empty.
        title: String,
        /// As JSON, at most [`crate::limits::NOTICE_BYTES_MAX`].
        content: String,
        /// What it says to xxim's clients beside that.
        data: Option<Box<NoticeData>>,
    },
}

/// What only xxim's clients are told of a business notice (protocols/xxim.md, NoticeData).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NoticeData {
    /// The list of notices that it is shown in; empty: the system's.
    pub conv_id: String,
    /// A text that clients are given as it is.
    pub ext: String,
    /// Of that list: how many more are unread, or (`true`) how many are.
    pub unread: Option<(i32, bool)>,
    /// What the content is.
    pub content_type: Option<i32>,
    /// The client is to keep it.
    pub storage_for_client: bool,
    /// The client is to show it as the list's last one.
    pub update_conv: bool,
}

/// The tags, in the order in which they came to be. Never reused.
mod tag {
    pub const MEMBERS_JOINED: u8 = 1;
    pub const MEMBERS_LEFT: u8 = 2;
    pub const DISSOLVED: u8 = 3;
    pub const ALIAS_CHANGED: u8 = 4;
    pub const REVOKED: u8 = 5;
    pub const FRIEND_ASKED: u8 = 6;
    pub const FRIEND_ACCEPTED: u8 = 7;
    pub const ACCOUNT_CANCELLED: u8 = 8;
    pub const NOTICED: u8 = 9;
    pub const NOTICED_WITH_DATA: u8 = 10;
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
            Happened::FriendAsked(news) => {
                out.push(tag::FRIEND_ASKED);
                put_friend_news(news, out);
            }
            Happened::FriendAccepted(news) => {
                out.push(tag::FRIEND_ACCEPTED);
                put_friend_news(news, out);
            }
            Happened::AccountCancelled => out.push(tag::ACCOUNT_CANCELLED),
            Happened::Noticed { stream, kind, title, content, data } => {
                let tag = data.as_ref().map_or(tag::NOTICED, |_| tag::NOTICED_WITH_DATA);
                out.push(tag);
                [stream, kind, title, content].into_iter().for_each(|text| put_text(text, out));
                data.iter().for_each(|data| put_notice_data(data, out));
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
            tag::FRIEND_ASKED => Happened::FriendAsked(Box::new(fields.friend_news()?)),
            tag::FRIEND_ACCEPTED => Happened::FriendAccepted(Box::new(fields.friend_news()?)),
            tag::ACCOUNT_CANCELLED => Happened::AccountCancelled,
            tag::NOTICED | tag::NOTICED_WITH_DATA => Happened::Noticed {
                stream: fields.text()?,
                kind: fields.text()?,
                title: fields.text()?,
                content: fields.text()?,
                data: match tag {
                    tag::NOTICED => None,
                    _ => Some(Box::new(fields.notice_data()?)),
                },
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

fn put_friend_news(news: &FriendNews, out: &mut Vec<u8>) {
    let FriendNews { from, to, terms, remark, asker, asked } = news;
    out.push(u8::from(terms.do_not_look) | u8::from(terms.do_not_show) << 1);
    let texts = [from.as_str(), to].into_iter().chain(terms.texts()).chain([remark.as_str()]);
    let texts = texts.chain(asker.texts()).chain(asked.texts());
    texts.for_each(|text| put_text(text, out));
}

fn put_notice_data(data: &NoticeData, out: &mut Vec<u8>) {
    let NoticeData { conv_id, ext, unread, content_type, storage_for_client, update_conv } = data;
    put_text(conv_id, out);
    put_text(ext, out);
    let (count, absolute) = unread.unwrap_or_default();
    let flags =
        [unread.is_some(), absolute, content_type.is_some(), *storage_for_client, *update_conv];
    out.push((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
    out.extend_from_slice(&count.to_be_bytes());
    out.extend_from_slice(&content_type.unwrap_or_default().to_be_bytes());
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

    fn friend_news(&mut self) -> Option<FriendNews> {
        let [flags] = *self.take()?;
        if flags > 0b11 {
            return None;
        }
        let (from, to) = (self.text()?, self.text()?);
        let terms = Terms {
            source: self.text()?,
            message: self.text()?,
            remark: self.text()?,
            role: self.text()?,
            tag: self.text()?,
            do_not_look: flags & 1 != 0,
            do_not_show: flags & 2 != 0,
        };
        let remark = self.text()?;
        let (asker, asked) = (self.person()?, self.person()?);
        Some(FriendNews { from, to, terms, remark, asker, asked })
    }

    fn notice_data(&mut self) -> Option<NoticeData> {
        let (conv_id, ext) = (self.text()?, self.text()?);
        let [flags] = *self.take()?;
        if flags > 0b1_1111 {
            return None;
        }
        let [has_unread, absolute, has_type, storage_for_client, update_conv] =
            [1, 2, 4, 8, 16].map(|bit| flags & bit != 0);
        let (count, kind) = (i32::from_be_bytes(*self.take()?), i32::from_be_bytes(*self.take()?));
        let (unread, content_type) =
            (has_unread.then_some((count, absolute)), has_type.then_some(kind));
        Some(NoticeData { conv_id, ext, unread, content_type, storage_for_client, update_conv })
    }

    fn person(&mut self) -> Option<Person> {
        Some(Person {
            account: self.text()?,
            name: self.text()?,
            avatar: self.text()?,
            sign: self.text()?,
            gender: self.text()?,
            region: self.text()?,
        })
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
        let news = FriendNews {
            from: text("ann"),
            to: text("bo"),
            terms: Terms { message: text("hi"), do_not_show: true, ..Terms::default() },
            remark: text("A"),
            asker: Person { name: text("Ann"), ..Person::default() },
            asked: Person { gender: text("1"), ..Person::default() },
        };
        let noticed = Happened::Noticed {
            stream: text("s"),
            kind: text("k"),
            title: text(""),
            content: text("{}"),
            data: None,
        };
        let with_data = |data| Happened::Noticed {
            stream: text("s"),
            kind: text("k"),
            title: text(""),
            content: text("{}"),
            data: Some(Box::new(data)),
        };
        let full = NoticeData {
            conv_id: text("notice:n"),
            ext: text("e"),
            unread: Some((258, true)),
            content_type: Some(1),
            storage_for_client: true,
            update_conv: true,
        };
        let friends = b"\x02\0\x03ann\0\x02bo\0\0\0\x02hi\0\0\0\0\0\0\0\x01A\
            \0\0\0\x03Ann\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x011\0\0";
        let (asked, accepted) =
            ([b"\x06", &friends[..]].concat(), [b"\x07", &friends[..]].concat());
        let cases: [(Happened, &[u8]); 11] = [
            (Happened::FriendAsked(Box::new(news.clone())), &asked),
            (Happened::FriendAccepted(Box::new(news)), &accepted),
            (Happened::AccountCancelled, b"\x08"),
            (noticed, b"\x09\0\x01s\0\x01k\0\0\0\x02{}"),
            (
                with_data(full),
                b"\x0a\0\x01s\0\x01k\0\0\0\x02{}\0\x08notice:n\0\x01e\x1f\0\0\x01\x02\0\0\0\x01",
            ),
            (
                with_data(NoticeData::default()),
                b"\x0a\0\x01s\0\x01k\0\0\0\x02{}\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
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
