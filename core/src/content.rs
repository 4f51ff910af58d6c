//! What a message says, in no protocol's words (protocols/README.md, *One core, five dialects*).
//!
//! A receiver on the sender's own dialect gets the content back as it was sent; only for another
//! dialect is it read into this model and rendered from it. Nothing is an error on that way: what
//! a target cannot show becomes readable text, and nothing is dropped. Only the HTTP API, which
//! has the model as JSON ([`json`]), refuses what it does not know.

pub mod json;

use std::fmt::Write;

/// A message's content and what stands beside it.
#[derive(Clone, PartialEq, Debug)]
pub struct Body {
    /// What it says.
    pub content: Content,
    /// Whom it is addressed to among those who get it.
    pub mentions: Mentions,
    /// The message that it answers.
    pub reply_to: Option<Reply>,
}

/// What a message says. Where a number is not known it is 0, and a text empty.
#[derive(Clone, PartialEq, Debug)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// A picture.
    Image(Image),
    /// A recording.
    Voice(Voice),
    /// A film.
    Video(Video),
    /// Any other file.
    File(File),
    /// A place.
    Location(Location),
    /// Something with a page of its own.
    Card(Card),
    /// A user, to be written to.
    Contact(String),
    /// Parts of several kinds, in order.
    Rich(Vec<Segment>),
    /// What only its own dialect knows.
    Custom(Custom),
}

/// See [`Content::Image`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// Where it is.
    pub url: String,
    /// Its file's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Pixels.
    pub width: u64,
    /// Pixels.
    pub height: u64,
    /// It stands for a feeling and is shown small.
    pub sticker: bool,
}

/// See [`Content::Voice`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Voice {
    /// Where it is.
    pub url: String,
    /// How long it is.
    pub duration_ms: u64,
    /// Bytes.
    pub size: u64,
}

/// See [`Content::Video`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Video {
    /// Where it is.
    pub url: String,
    /// Where a picture of it is.
    pub cover: String,
    /// How long it is.
    pub duration_ms: u64,
    /// Bytes.
    pub size: u64,
    /// Pixels.
    pub width: u64,
    /// Pixels.
    pub height: u64,
}

/// See [`Content::File`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct File {
    /// Where it is.
    pub place: Place,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its media type.
    pub mime: String,
    /// Its hash, as the sender gave it.
    pub hash: String,
}

/// Where a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A whole URL.
    Url(String),
    /// A path that only the sender's dialect can open.
    Path(String),
}

impl Default for Place {
    fn default() -> Place {
        Place::Url(String::new())
    }
}

impl Place {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        let (Place::Url(text) | Place::Path(text)) = self;
        text
    }
}

/// See [`Content::Location`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Location {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
    /// What is there.
    pub title: String,
    /// Street and town.
    pub address: String,
}

/// See [`Content::Card`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Card {
    /// Its heading.
    pub title: String,
    /// Some lines.
    pub text: String,
    /// Its page.
    pub url: String,
    /// A picture for it.
    pub picture: String,
    /// What it is, to the application that made it.
    pub entity_kind: String,
    /// Which one of that kind.
    pub entity_id: String,
}

/// A part of [`Content::Rich`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Plain text.
    Text(String),
    /// A picture between the words.
    Image(Image),
    /// A small picture that its dialect knows by an id; `text` stands for it elsewhere.
    Emoji { id: String, text: String },
    /// A user, or with `None` everybody; `text` is how he is called there.
    Mention { user: Option<String>, text: String },
    /// A page; `text` is what can be clicked.
    Link { url: String, text: String },
}

/// See [`Content::Custom`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Custom {
    /// What its dialect calls it.
    pub kind: String,
    /// A JSON value, as it was sent.
    pub raw: String,
}

/// Who is mentioned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mentions {
    /// These users.
    pub users: Vec<String>,
    /// Everybody who gets the message.
    pub everybody: bool,
}

/// The message that another one answers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reply {
    /// Its id on the wire.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// When, ms since 1970.
    pub time_ms: u64,
    /// What it said, as readable text.
    pub text: String,
}

impl From<Content> for Body {
    /// Nobody is mentioned and nothing answered.
    fn from(content: Content) -> Body {
        Body { content, mentions: Mentions::default(), reply_to: None }
    }
}

impl Content {
    /// All of it as text that a person can read: for whoever cannot be shown the thing itself.
    pub fn to_text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Image(image) => image.to_text(),
            Content::Voice(Voice { url, duration_ms, .. }) => {
                labelled("voice", &[&seconds(*duration_ms), url])
            }
            Content::Video(Video { url, duration_ms, .. }) => {
                labelled("video", &[&seconds(*duration_ms), url])
            }
            Content::File(File { place, name, .. }) => labelled("file", &[name, place.as_str()]),
            Content::Location(Location { lat, lon, title, address }) => {
                labelled("location", &[title, address, &format!("{lat},{lon}")])
            }
            Content::Card(Card { title, text, url, .. }) => labelled("card", &[title, text, url]),
            Content::Contact(user) => labelled("contact", &[user]),
            Content::Rich(segments) => segments.iter().map(Segment::to_text).collect(),
            Content::Custom(Custom { kind, raw }) if kind.is_empty() => raw.clone(),
            Content::Custom(Custom { kind, raw }) => labelled(kind, &[raw]),
        }
    }
}

impl Image {
    fn to_text(&self) -> String {
        let label = if self.sticker { "sticker" } else { "image" };
        labelled(label, &[&self.name, &self.url])
    }
}

impl Segment {
    fn to_text(&self) -> String {
        match self {
            Segment::Text(text) => text.clone(),
            Segment::Image(image) => image.to_text(),
            Segment::Emoji { id, text } if text.is_empty() => labelled("emoji", &[id]),
            Segment::Emoji { text, .. } => text.clone(),
            Segment::Mention { user, text } if text.is_empty() => {
                format!("@{}", user.as_deref().unwrap_or("all"))
            }
            Segment::Mention { text, .. } => text.clone(),
            Segment::Link { url, text } if text.is_empty() || text == url => url.clone(),
            Segment::Link { url, text } => format!("{text} ({url})"),
        }
    }
}

/// `[image] photo.png https://…`, without the parts that are not known.
fn labelled(label: &str, parts: &[&str]) -> String {
    let mut text = format!("[{label}]");
    for part in parts.iter().filter(|part| !part.is_empty()) {
        text.push(' ');
        text.push_str(part);
    }
    text
}

/// `3 s`, or nothing when it is not known. Begun seconds count.
fn seconds(ms: u64) -> String {
    let mut text = String::new();
    if ms > 0 {
        write!(text, "{} s", ms.div_ceil(1000)).expect("a string takes everything");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_read() {
        let url = || "https://x.example/1".to_owned();
        let image = Image { url: url(), name: "photo.png".to_owned(), ..Image::default() };
        let sticker = Image { name: String::new(), sticker: true, ..image.clone() };
        let rich = vec![
            Segment::Mention { user: None, text: String::new() },
            Segment::Text(" look: ".to_owned()),
            Segment::Link { url: url(), text: "here".to_owned() },
            Segment::Emoji { id: "7".to_owned(), text: String::new() },
            Segment::Emoji { id: "8".to_owned(), text: "/smile".to_owned() },
            Segment::Mention { user: Some("bob".to_owned()), text: String::new() },
        ];
        let file = File {
            place: Place::Path("/a/b".to_owned()),
            name: "b.pdf".to_owned(),
            ..File::default()
        };
        let location =
            Location { lat: 52.5, lon: -13.0, title: "Zoo".to_owned(), address: String::new() };
        let card = Card { title: "News".to_owned(), url: url(), ..Card::default() };
        let custom = |kind: &str| Custom { kind: kind.to_owned(), raw: "{\"a\":1}".to_owned() };
        for (content, text) in [
            (Content::Text("hi".to_owned()), "hi"),
            (Content::Image(image), "[image] photo.png https://x.example/1"),
            (Content::Image(sticker), "[sticker] https://x.example/1"),
            (
                Content::Voice(Voice { url: url(), duration_ms: 2_100, size: 5 }),
                "[voice] 3 s https://x.example/1",
            ),
            (
                Content::Video(Video { url: url(), ..Video::default() }),
                "[video] https://x.example/1",
            ),
            (Content::File(file), "[file] b.pdf /a/b"),
            (Content::Location(location), "[location] Zoo 52.5,-13"),
            (Content::Card(card), "[card] News https://x.example/1"),
            (Content::Contact("bob".to_owned()), "[contact] bob"),
            (Content::Rich(rich), "@all look: here (https://x.example/1)[emoji] 7/smile@bob"),
            (Content::Custom(custom("poll")), "[poll] {\"a\":1}"),
            (Content::Custom(custom("")), "{\"a\":1}"),
        ] {
            assert_eq!(content.to_text(), text);
        }
    }
}
