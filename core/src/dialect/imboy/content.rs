//! imboy's payloads to the neutral model and back (protocols/README.md, *Rendering*).
//!
//! Nothing here fails: a payload of an unknown shape is text, or a thing of its own dialect that
//! becomes text elsewhere.

use simd_json::BorrowedValue;
use simd_json::borrowed::Object;
use simd_json::prelude::{ValueAsObject, ValueAsScalar};

use crate::content::{Body, Content, Custom, File, Image, Location, Place, Reply, Video, Voice};
use crate::dialect::imboy::Settings;
use crate::dialect::json::{document, write_integer, write_string};

/// What imboy writes for a number that is not known: its app divides by some of them.
const UNKNOWN: u64 = 1;

/// Reads a payload, a JSON value.
pub fn parse(settings: &Settings, payload: &str) -> Body {
    let mut bytes = payload.as_bytes().to_vec();
    let Ok(value) = document(&mut bytes) else {
        // Not from a frame: those have parsed.
        return Content::Text(payload.to_owned()).into();
    };
    match (value.as_object(), value.as_str()) {
        (Some(object), _) => parse_object(settings, &Members(object), payload),
        (_, Some(text)) => Content::Text(text.to_owned()).into(),
        _ => Content::Text(payload.to_owned()).into(),
    }
}

fn parse_object(settings: &Settings, members: &Members<'_, '_>, payload: &str) -> Body {
    let msg_type = members.text("msg_type");
    let kind = if msg_type == "custom" { members.text("custom_type") } else { msg_type };
    let url = members.text("uri");
    let content = match kind.as_str() {
        "text" => Content::Text(members.text("text")),
        "image" => Content::Image(Image {
            url,
            name: members.text("name"),
            size: members.number("size"),
            width: members.number("width"),
            height: members.number("height"),
            sticker: false,
        }),
        "file" => Content::File(File {
            place: Place::Url(url),
            name: members.text("name"),
            size: members.number("size"),
            mime: members.text("mimeType"),
            hash: members.text("md5"),
        }),
        "audio" => {
            let (duration_ms, size) = (members.number("duration_ms"), members.number("size"));
            Content::Voice(Voice { url, duration_ms, size })
        }
        "video" if members.inner("video").is_some() => Content::Video(video(members)),
        "location" => Content::Location(Location {
            lat: members.degrees("latitude"),
            lon: members.degrees("longitude"),
            title: members.text("title"),
            address: members.text("address"),
        }),
        "visit_card" => Content::Contact(settings.read_id(&members.text("uid"))),
        "quote" => {
            let quoted = members.inner("quote_msg").map(|quoted| reply(settings, &quoted));
            let content = Content::Text(members.text("quote_text"));
            return Body { reply_to: quoted, ..content.into() };
        }
        _ => {
            // A text by another name, or something that only imboy knows.
            let text = ["text", "content"].map(|name| members.text(name));
            match text.into_iter().find(|text| !text.is_empty()) {
                Some(text) => Content::Text(text),
                None => Content::Custom(Custom { kind, raw: payload.to_owned() }),
            }
        }
    };
    content.into()
}

fn video(members: &Members<'_, '_>) -> Video {
    let video = members.inner("video").expect("the caller looked");
    let cover = members.inner("thumb").map(|thumb| thumb.text("uri")).unwrap_or_default();
    Video {
        url: video.text("uri"),
        cover,
        duration_ms: video.number("duration_ms"),
        size: video.number("size").max(video.number("filesize")),
        width: video.number("width"),
        height: video.number("height"),
    }
}

/// The app quotes a whole message as its chat widget keeps it.
fn reply(settings: &Settings, quoted: &Members<'_, '_>) -> Reply {
    let author = quoted.inner("author").map(|author| author.text("id")).unwrap_or_default();
    let texts = ["text", "name", "uri"].map(|name| quoted.text(name));
    Reply {
        id: quoted.text("id"),
        author: settings.read_id(&author),
        time_ms: quoted.number("createdAt"),
        text: texts.into_iter().find(|text| !text.is_empty()).unwrap_or_default(),
    }
}

/// Appends the payload that shows `body`.
pub fn write(settings: &Settings, body: &Body, out: &mut Vec<u8>) {
    match &body.content {
        Content::Image(image) => {
            let Image { url, name, size, width, height, sticker: _ } = image;
            begin("image", out);
            texts(&[("name", name), ("uri", url), ("md5", "")], out);
            numbers(&[("size", *size), ("width", *width), ("height", *height)], out);
        }
        Content::File(File { place: Place::Url(url), name, size, mime, hash }) => {
            begin("file", out);
            texts(&[("name", name), ("uri", url), ("mimeType", mime), ("md5", hash)], out);
            numbers(&[("size", *size)], out);
        }
        Content::Voice(Voice { url, duration_ms, size }) => {
            begin_custom("audio", out);
            texts(&[("uri", url), ("mime_type", "")], out);
            numbers(&[("size", *size), ("duration_ms", *duration_ms)], out);
            out.extend_from_slice(b",\"waveform\":[]");
        }
        Content::Location(Location { lat, lon, title, address }) => {
            begin_custom("location", out);
            texts(&[("title", title), ("address", address), ("thumb", "")], out);
            // Its app parses these two from strings.
            let (lat, lon) = (lat.to_string(), lon.to_string());
            texts(&[("latitude", &lat), ("longitude", &lon)], out);
        }
        Content::Contact(user) => {
            begin_custom("visit_card", out);
            let uid = settings.shown_id(user);
            texts(&[("uid", &uid), ("title", user), ("avatar", "")], out);
        }
        content => match &body.reply_to {
            Some(reply) => write_quote(settings, reply, &content.to_text(), out),
            None => {
                begin("text", out);
                texts(&[("text", &content.to_text())], out);
            }
        },
    }
    out.push(b'}');
}

fn write_quote(settings: &Settings, reply: &Reply, text: &str, out: &mut Vec<u8>) {
    let Reply { id, author, time_ms, text: quoted } = reply;
    begin_custom("quote", out);
    out.extend_from_slice(b",\"quote_msg\":{\"type\":\"text\"");
    texts(&[("id", id), ("text", quoted)], out);
    out.extend_from_slice(b",\"author\":{\"id\":");
    write_string(&settings.shown_id(author), out);
    out.extend_from_slice(b"},\"createdAt\":");
    write_integer(*time_ms as i64, out);
    out.push(b'}');
    texts(&[("quote_msg_author_name", author), ("quote_text", text)], out);
}

fn begin(msg_type: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"msg_type\":");
    write_string(msg_type, out);
}

fn begin_custom(custom_type: &str, out: &mut Vec<u8>) {
    begin("custom", out);
    texts(&[("custom_type", custom_type)], out);
}

fn texts(members: &[(&str, &str)], out: &mut Vec<u8>) {
    for (name, text) in members {
        out.push(b',');
        write_string(name, out);
        out.push(b':');
        write_string(text, out);
    }
}

fn numbers(members: &[(&str, u64)], out: &mut Vec<u8>) {
    for (name, number) in members {
        out.push(b',');
        write_string(name, out);
        out.push(b':');
        let number = if *number == 0 { UNKNOWN } else { *number };
        write_integer(i64::try_from(number).unwrap_or(i64::MAX), out);
    }
}

impl Settings {
    /// The id that a client shows as `text`. Who else may have that very id is not asked here: in
    /// a payload nothing is delivered by it.
    fn read_id(&self, text: &str) -> String {
        let number = self.hashids.as_ref().and_then(|hashids| hashids.read(text));
        number.map_or_else(|| text.to_owned(), |number| number.to_string())
    }

    /// The inverse.
    fn shown_id(&self, id: &str) -> String {
        let mut shown = Vec::new();
        self.write_id(id, &mut shown);
        String::from_utf8(shown).expect("ids are text, and so are hashids")
    }
}

/// The members of an object, as its writers spell them: a number may be a string and have a
/// fraction, and what is missing or of another type is not known.
struct Members<'a, 'v>(&'a Object<'v>);

impl<'a, 'v> Members<'a, 'v> {
    fn get(&self, name: &str) -> Option<&'a BorrowedValue<'v>> {
        self.0.get(name)
    }

    fn text(&self, name: &str) -> String {
        self.get(name).and_then(ValueAsScalar::as_str).unwrap_or_default().to_owned()
    }

    fn float(&self, name: &str) -> Option<f64> {
        let value = self.get(name)?;
        let number = value.cast_f64().or_else(|| value.as_str()?.trim().parse().ok());
        number.filter(|number| number.is_finite())
    }

    fn number(&self, name: &str) -> u64 {
        // Whole in the range of what is measured here; the cast saturates.
        self.float(name).map_or(0, |number| number.round() as u64)
    }

    fn degrees(&self, name: &str) -> f64 {
        self.float(name).filter(|degrees| degrees.abs() <= 180.0).unwrap_or_default()
    }

    fn inner(&self, name: &str) -> Option<Members<'a, 'v>> {
        self.get(name).and_then(ValueAsObject::as_object).map(Members)
    }
}

#[cfg(test)]
mod tests;
