//! The neutral model as JSON, for the HTTP API: `{"kind":"text","text":…}`, one set of members for
//! each kind. Unknown members are refused by name; what is not known may be left out.

use simd_json::BorrowedValue;
use simd_json::borrowed::Object;
use simd_json::prelude::{ValueAsArray, ValueAsMutObject, ValueAsObject, ValueAsScalar};

use crate::content::{
    Body, Card, Content, Custom, File, Image, Location, Mentions, Place, Reply, Segment, Video,
    Voice,
};
use crate::dialect::json::{Scratch, document, member_span, write_integer, write_string};

/// What is wrong with a content, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct ContentError {
    /// The member's name, with its place in a list before it; empty for the whole.
    pub field: String,
    /// In words.
    pub problem: &'static str,
}

impl ContentError {
    fn of(field: &str, problem: &'static str) -> ContentError {
        ContentError { field: field.to_owned(), problem }
    }
}

impl Body {
    /// Reads a content that has two more members: `mentions`, a list of user ids or `all`, and
    /// `reply_to` `{id, author, time_ms, text}`.
    ///
    /// # Errors
    /// As for [`Content::from_json`].
    pub fn from_json(text: &str) -> Result<Body, ContentError> {
        let mut bytes = text.as_bytes().to_vec();
        let value = document(&mut bytes);
        let mut value = value.map_err(|_| ContentError::of("", "not JSON"))?;
        let object = value.as_object_mut();
        let object = object.ok_or_else(|| ContentError::of("", "must be an object"))?;
        let mentions = match object.remove("mentions") {
            None => Mentions::default(),
            Some(mentions) => read_mentions(&mentions)?,
        };
        let reply_to = object.remove("reply_to").map(|reply| read_reply(&reply)).transpose()?;
        Ok(Body { content: Content::from_object(object, text)?, mentions, reply_to })
    }

    /// Appends it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        self.content.write_json(out);
        let Body { mentions, reply_to, .. } = self;
        out.pop();
        if *mentions != Mentions::default() {
            let named = mentions.users.iter().map(String::as_str);
            out.extend_from_slice(b",\"mentions\":[");
            for (n, user) in named.chain(mentions.everybody.then_some(EVERYBODY)).enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_string(user, out);
            }
            out.push(b']');
        }
        if let Some(Reply { id, author, time_ms, text }) = reply_to {
            out.extend_from_slice(b",\"reply_to\":{\"id\":");
            write_string(id, out);
            let mut writer = Writer { out };
            writer.texts(&[("author", author), ("text", text)]);
            writer.numbers(&[("time_ms", *time_ms)]);
            out.push(b'}');
        }
        out.push(b'}');
    }
}

/// Stands for everybody in a list of users: no user has this id.
const EVERYBODY: &str = "all";

fn read_mentions(value: &BorrowedValue<'_>) -> Result<Mentions, ContentError> {
    let wrong = || ContentError::of("mentions", "must be a list of user ids");
    let mut mentions = Mentions::default();
    for user in value.as_array().ok_or_else(wrong)? {
        match user.as_str().ok_or_else(wrong)? {
            EVERYBODY => mentions.everybody = true,
            user => mentions.users.push(user.to_owned()),
        }
    }
    Ok(mentions)
}

fn read_reply(value: &BorrowedValue<'_>) -> Result<Reply, ContentError> {
    let object = value.as_object();
    let object = object.ok_or_else(|| ContentError::of("reply_to", "must be an object"))?;
    let members = Members { object, place: "reply_to." };
    members.only(&["id", "author", "time_ms", "text"])?;
    Ok(Reply {
        id: members.needed("id")?,
        author: members.text("author")?,
        time_ms: members.number("time_ms")?,
        text: members.text("text")?,
    })
}

impl Content {
    /// Reads it.
    ///
    /// # Errors
    /// The first member that is unknown, missing, or of another type.
    pub fn from_json(text: &str) -> Result<Content, ContentError> {
        let body = Body::from_json(text)?;
        match (body.mentions == Mentions::default(), body.reply_to) {
            (false, _) => Err(ContentError::of("mentions", "is not known")),
            (true, Some(_)) => Err(ContentError::of("reply_to", "is not known")),
            (true, None) => Ok(body.content),
        }
    }

    /// Reads what is left of an object when the body's own members are taken out.
    fn from_object(object: &Object<'_>, text: &str) -> Result<Content, ContentError> {
        let members = Members { object, place: "" };
        Ok(match members.text("kind")?.as_str() {
            "text" => {
                members.only(&["text"])?;
                Content::Text(members.needed("text")?)
            }
            "image" => Content::Image(members.image()?),
            "voice" => {
                members.only(&["url", "duration_ms", "size"])?;
                Content::Voice(Voice {
                    url: members.needed("url")?,
                    duration_ms: members.number("duration_ms")?,
                    size: members.number("size")?,
                })
            }
            "video" => {
                members.only(&["url", "cover", "duration_ms", "size", "width", "height"])?;
                Content::Video(Video {
                    url: members.needed("url")?,
                    cover: members.text("cover")?,
                    duration_ms: members.number("duration_ms")?,
                    size: members.number("size")?,
                    width: members.number("width")?,
                    height: members.number("height")?,
                })
            }
            "file" => Content::File(members.file()?),
            "location" => {
                members.only(&["lat", "lon", "title", "address"])?;
                Content::Location(Location {
                    lat: members.degrees("lat", 90.0)?,
                    lon: members.degrees("lon", 180.0)?,
                    title: members.text("title")?,
                    address: members.text("address")?,
                })
            }
            "card" => {
                let names = ["title", "text", "url", "picture", "entity_kind", "entity_id"];
                members.only(&names)?;
                Content::Card(Card {
                    title: members.needed("title")?,
                    text: members.text("text")?,
                    url: members.text("url")?,
                    picture: members.text("picture")?,
                    entity_kind: members.text("entity_kind")?,
                    entity_id: members.text("entity_id")?,
                })
            }
            "contact" => {
                members.only(&["user"])?;
                Content::Contact(members.needed("user")?)
            }
            "rich" => {
                members.only(&["segments"])?;
                let segments = object.get("segments").and_then(|value| value.as_array());
                let segments =
                    segments.ok_or_else(|| members.wrong("segments", "must be a list"))?;
                let read = segments.iter().enumerate().map(|(n, value)| segment(n, value));
                Content::Rich(read.collect::<Result<_, _>>()?)
            }
            "custom" => {
                members.only(&["type", "raw"])?;
                let raw = span(text, "raw").ok_or_else(|| members.wrong("raw", "is missing"))?;
                Content::Custom(Custom { kind: members.needed("type")?, raw: raw.to_owned() })
            }
            _ => return Err(members.wrong("kind", "is none of the known ones")),
        })
    }

    /// Appends it.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut writer = Writer { out };
        match self {
            Content::Text(text) => {
                writer.begin("text");
                writer.member("text", text);
            }
            Content::Image(image) => writer.image(image),
            Content::Voice(Voice { url, duration_ms, size }) => {
                writer.begin("voice");
                writer.member("url", url);
                writer.numbers(&[("duration_ms", *duration_ms), ("size", *size)]);
            }
            Content::Video(Video { url, cover, duration_ms, size, width, height }) => {
                writer.begin("video");
                writer.member("url", url);
                writer.texts(&[("cover", cover)]);
                writer.numbers(&[("duration_ms", *duration_ms), ("size", *size)]);
                writer.numbers(&[("width", *width), ("height", *height)]);
            }
            Content::File(File { place, name, size, mime, hash }) => {
                writer.begin("file");
                match place {
                    Place::Url(url) => writer.member("url", url),
                    Place::Path(path) => writer.member("path", path),
                }
                writer.texts(&[("name", name), ("mime", mime), ("hash", hash)]);
                writer.numbers(&[("size", *size)]);
            }
            Content::Location(Location { lat, lon, title, address }) => {
                writer.begin("location");
                writer.raw("lat", &lat.to_string());
                writer.raw("lon", &lon.to_string());
                writer.texts(&[("title", title), ("address", address)]);
            }
            Content::Card(Card { title, text, url, picture, entity_kind, entity_id }) => {
                writer.begin("card");
                writer.member("title", title);
                writer.texts(&[("text", text), ("url", url), ("picture", picture)]);
                writer.texts(&[("entity_kind", entity_kind), ("entity_id", entity_id)]);
            }
            Content::Contact(user) => {
                writer.begin("contact");
                writer.member("user", user);
            }
            Content::Rich(segments) => {
                writer.begin("rich");
                writer.out.extend_from_slice(b",\"segments\":[");
                for (n, segment) in segments.iter().enumerate() {
                    if n > 0 {
                        writer.out.push(b',');
                    }
                    writer.segment(segment);
                }
                writer.out.push(b']');
            }
            Content::Custom(Custom { kind, raw }) => {
                writer.begin("custom");
                writer.member("type", kind);
                writer.raw("raw", raw);
            }
        }
        out.push(b'}');
    }
}

/// The value of a member of the object `text`, as it stands there.
fn span<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let ordinal = Scratch::default().members(text.as_bytes(), |members| {
        members.filter(|(_, key, _)| *key == name).map(|(ordinal, ..)| ordinal).last()
    });
    Some(&text[member_span(text.as_bytes(), ordinal.ok()??)])
}

fn segment(n: usize, value: &BorrowedValue<'_>) -> Result<Segment, ContentError> {
    let place = format!("segments[{n}].");
    let object = value.as_object();
    let not_one = || ContentError { field: format!("segments[{n}]"), problem: "must be an object" };
    let members = Members { object: object.ok_or_else(not_one)?, place: &place };
    Ok(match members.text("kind")?.as_str() {
        "text" => {
            members.only(&["text"])?;
            Segment::Text(members.needed("text")?)
        }
        "image" => Segment::Image(members.image()?),
        "emoji" => {
            members.only(&["id", "text"])?;
            Segment::Emoji { id: members.needed("id")?, text: members.text("text")? }
        }
        "mention" => {
            members.only(&["user", "everybody", "text"])?;
            let text = members.text("text")?;
            match members.flag("everybody")? {
                true => Segment::Mention { user: None, text },
                false => Segment::Mention { user: Some(members.needed("user")?), text },
            }
        }
        "link" => {
            members.only(&["url", "text"])?;
            Segment::Link { url: members.needed("url")?, text: members.text("text")? }
        }
        _ => return Err(members.wrong("kind", "is none of the known ones")),
    })
}

/// The members of one object.
struct Members<'a, 'v> {
    object: &'a Object<'v>,
    /// Before their names in errors.
    place: &'a str,
}

impl Members<'_, '_> {
    fn wrong(&self, name: &str, problem: &'static str) -> ContentError {
        ContentError { field: format!("{}{name}", self.place), problem }
    }

    /// Nothing but `kind` and these.
    fn only(&self, names: &[&str]) -> Result<(), ContentError> {
        let unknown = self.object.keys().map(|key| &**key);
        let unknown = unknown.filter(|key| *key != "kind" && !names.contains(key)).min();
        unknown.map_or(Ok(()), |key| Err(self.wrong(key, "is not known")))
    }

    fn get(&self, name: &str) -> Option<&BorrowedValue<'_>> {
        self.object.get(name).filter(|value| value.as_null().is_none())
    }

    fn text(&self, name: &str) -> Result<String, ContentError> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(value) => {
                let text = value.as_str().ok_or_else(|| self.wrong(name, "must be a string"))?;
                Ok(text.to_owned())
            }
        }
    }

    fn needed(&self, name: &str) -> Result<String, ContentError> {
        let text = self.text(name)?;
        if text.is_empty() { Err(self.wrong(name, "is missing")) } else { Ok(text) }
    }

    fn number(&self, name: &str) -> Result<u64, ContentError> {
        let number = self.get(name).map_or(Some(0), ValueAsScalar::as_u64);
        number.ok_or_else(|| self.wrong(name, "must be a whole number"))
    }

    fn flag(&self, name: &str) -> Result<bool, ContentError> {
        let flag = self.get(name).map_or(Some(false), ValueAsScalar::as_bool);
        flag.ok_or_else(|| self.wrong(name, "must be true or false"))
    }

    fn degrees(&self, name: &str, most: f64) -> Result<f64, ContentError> {
        let number = self.get(name).and_then(ValueAsScalar::cast_f64);
        let number = number.filter(|number| (-most..=most).contains(number));
        number.ok_or_else(|| self.wrong(name, "must be a number of degrees"))
    }

    fn image(&self) -> Result<Image, ContentError> {
        self.only(&["url", "name", "size", "width", "height", "sticker"])?;
        Ok(Image {
            url: self.needed("url")?,
            name: self.text("name")?,
            size: self.number("size")?,
            width: self.number("width")?,
            height: self.number("height")?,
            sticker: self.flag("sticker")?,
        })
    }

    fn file(&self) -> Result<File, ContentError> {
        self.only(&["url", "path", "name", "size", "mime", "hash"])?;
        let place = match (self.text("url")?, self.text("path")?) {
            (url, path) if !url.is_empty() && path.is_empty() => Place::Url(url),
            (url, path) if url.is_empty() && !path.is_empty() => Place::Path(path),
            _ => return Err(self.wrong("url", "either this or path must be given")),
        };
        Ok(File {
            place,
            name: self.text("name")?,
            size: self.number("size")?,
            mime: self.text("mime")?,
            hash: self.text("hash")?,
        })
    }
}

/// Writes the members of an object; what is not known is left out.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn begin(&mut self, kind: &str) {
        self.out.extend_from_slice(b"{\"kind\":");
        write_string(kind, self.out);
    }

    fn raw(&mut self, name: &str, json: &str) {
        self.out.push(b',');
        write_string(name, self.out);
        self.out.push(b':');
        self.out.extend_from_slice(json.as_bytes());
    }

    fn member(&mut self, name: &str, text: &str) {
        self.raw(name, "");
        write_string(text, self.out);
    }

    fn texts(&mut self, members: &[(&str, &str)]) {
        for (name, text) in members.iter().filter(|(_, text)| !text.is_empty()) {
            self.member(name, text);
        }
    }

    fn numbers(&mut self, members: &[(&str, u64)]) {
        for (name, number) in members.iter().filter(|(_, number)| *number > 0) {
            self.raw(name, "");
            write_integer(i64::try_from(*number).unwrap_or(i64::MAX), self.out);
        }
    }

    fn image(&mut self, image: &Image) {
        let Image { url, name, size, width, height, sticker } = image;
        self.begin("image");
        self.member("url", url);
        self.texts(&[("name", name)]);
        self.numbers(&[("size", *size), ("width", *width), ("height", *height)]);
        if *sticker {
            self.raw("sticker", "true");
        }
    }

    fn segment(&mut self, segment: &Segment) {
        match segment {
            Segment::Text(text) => {
                self.begin("text");
                self.member("text", text);
            }
            Segment::Image(image) => self.image(image),
            Segment::Emoji { id, text } => {
                self.begin("emoji");
                self.member("id", id);
                self.texts(&[("text", text)]);
            }
            Segment::Mention { user, text } => {
                self.begin("mention");
                match user {
                    Some(user) => self.member("user", user),
                    None => self.raw("everybody", "true"),
                }
                self.texts(&[("text", text)]);
            }
            Segment::Link { url, text } => {
                self.begin("link");
                self.member("url", url);
                self.texts(&[("text", text)]);
            }
        }
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &Content) -> String {
        let mut out = Vec::new();
        content.write_json(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn every_kind_is_read_and_written_again() {
        for text in [
            r#"{"kind":"text","text":"h\"i"}"#,
            r#"{"kind":"image","url":"u"}"#,
            r#"{"kind":"image","url":"u","name":"n","size":1,"width":2,"height":3,"sticker":true}"#,
            r#"{"kind":"voice","url":"u","duration_ms":1500,"size":9}"#,
            r#"{"kind":"video","url":"u","cover":"c","duration_ms":1,"size":2,"width":3,"height":4}"#,
            r#"{"kind":"file","url":"u","name":"n","mime":"m","hash":"h","size":9}"#,
            r#"{"kind":"file","path":"/p"}"#,
            r#"{"kind":"location","lat":52.5,"lon":-13.25,"title":"t","address":"a"}"#,
            r#"{"kind":"card","title":"t","text":"x","url":"u","picture":"p","entity_kind":"k","entity_id":"7"}"#,
            r#"{"kind":"contact","user":"bob"}"#,
            r#"{"kind":"rich","segments":[{"kind":"text","text":"a"},{"kind":"image","url":"u"},{"kind":"emoji","id":"7","text":"/smile"},{"kind":"mention","user":"bob","text":"@Bob"},{"kind":"mention","everybody":true},{"kind":"link","url":"u","text":"l"}]}"#,
            r#"{"kind":"custom","type":"poll","raw":{"a":[1,null,"x"]}}"#,
        ] {
            let content = Content::from_json(text).expect(text);
            assert_eq!(written(&content), text);
        }
        let nulls = r#"{"kind":"image","url":"u","name":null,"size":null,"sticker":null}"#;
        assert_eq!(
            Content::from_json(nulls).map(|content| written(&content)).as_deref(),
            Ok(r#"{"kind":"image","url":"u"}"#)
        );
    }

    #[test]
    fn what_stands_beside_is_read_and_written_again() {
        for text in [
            r#"{"kind":"text","text":"x"}"#,
            r#"{"kind":"text","text":"x","mentions":["ann","bob"]}"#,
            r#"{"kind":"custom","type":"t","raw":{"mentions":1},"mentions":["ann","all"]}"#,
            r#"{"kind":"text","text":"x","reply_to":{"id":"m","author":"ann","text":"hi","time_ms":7}}"#,
            r#"{"kind":"text","text":"x","mentions":["all"],"reply_to":{"id":"m"}}"#,
        ] {
            let body = Body::from_json(text).expect(text);
            let mut out = Vec::new();
            body.write_json(&mut out);
            assert_eq!(String::from_utf8(out).expect("text"), text);
        }
        for (text, error) in [
            (
                r#"{"kind":"text","text":"x","mentions":"ann"}"#,
                "mentions: must be a list of user ids",
            ),
            (
                r#"{"kind":"text","text":"x","mentions":[1]}"#,
                "mentions: must be a list of user ids",
            ),
            (r#"{"kind":"text","text":"x","reply_to":"m"}"#, "reply_to: must be an object"),
            (r#"{"kind":"text","text":"x","reply_to":{}}"#, "reply_to.id: is missing"),
            (
                r#"{"kind":"text","text":"x","reply_to":{"id":"m","x":1}}"#,
                "reply_to.x: is not known",
            ),
        ] {
            let wrong = Body::from_json(text).expect_err(text);
            assert_eq!(wrong.to_string(), error, "{text}");
        }
        for name in ["mentions", "reply_to"] {
            let value = if name == "mentions" { r#"["ann"]"# } else { r#"{"id":"m"}"# };
            let text = format!(r#"{{"kind":"text","text":"x","{name}":{value}}}"#);
            let wrong = Content::from_json(&text).expect_err("not part of a content");
            assert_eq!(wrong.field, name);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("", ": not JSON"),
            ("[]", ": must be an object"),
            ("{}", "kind: is none of the known ones"),
            (r#"{"kind":"smell"}"#, "kind: is none of the known ones"),
            (r#"{"kind":7}"#, "kind: must be a string"),
            (r#"{"kind":"text"}"#, "text: is missing"),
            (r#"{"kind":"text","text":"x","colour":1}"#, "colour: is not known"),
            (r#"{"kind":"image","url":"u","size":-1}"#, "size: must be a whole number"),
            (r#"{"kind":"image","url":"u","sticker":1}"#, "sticker: must be true or false"),
            (r#"{"kind":"file","name":"n"}"#, "url: either this or path must be given"),
            (r#"{"kind":"file","url":"u","path":"p"}"#, "url: either this or path must be given"),
            (r#"{"kind":"location","lat":91,"lon":0}"#, "lat: must be a number of degrees"),
            (r#"{"kind":"location","lat":0}"#, "lon: must be a number of degrees"),
            (r#"{"kind":"rich"}"#, "segments: must be a list"),
            (r#"{"kind":"rich","segments":[1]}"#, "segments[0]: must be an object"),
            (
                r#"{"kind":"rich","segments":[{"kind":"text","text":"x"},{"kind":"mention"}]}"#,
                "segments[1].user: is missing",
            ),
            (r#"{"kind":"custom","type":"x"}"#, "raw: is missing"),
        ] {
            let wrong = Content::from_json(text).expect_err(text);
            assert_eq!(wrong.to_string(), error, "{text}");
        }
    }
}
