//! Payloads as imboy's app writes them, and random ones.

use serde_json::{Value, json};

use super::*;
use crate::content::{Card, Segment};
use crate::dialect::imboy::hashids::Hashids;

fn read(payload: &Value) -> Body {
    parse(&Settings::default(), &payload.to_string())
}

fn shown(body: &Body) -> Value {
    let mut out = Vec::new();
    write(&Settings::default(), body, &mut out);
    serde_json::from_slice(&out).expect("a payload is JSON")
}

/// What imboy can show comes back as it was. Behind `=>`: what became of the rest.
#[test]
fn payloads_of_the_app_come_back() {
    let same = [
        json!({"msg_type": "text", "text": "hi \"you\"\n"}),
        json!({"msg_type": "image", "name": "a.png", "size": 7, "uri": "https://x/a", "width": 3,
            "height": 4, "md5": ""}),
        json!({"msg_type": "file", "name": "a.pdf", "size": 7, "uri": "https://x/a",
            "mimeType": "application/pdf", "md5": "00ff"}),
        json!({"msg_type": "custom", "custom_type": "audio", "uri": "https://x/a", "size": 7,
            "duration_ms": 1500, "mime_type": "", "waveform": []}),
        json!({"msg_type": "custom", "custom_type": "location", "title": "Zoo", "address": "1 Road",
            "latitude": "52.5", "longitude": "-13.25", "thumb": ""}),
        json!({"msg_type": "custom", "custom_type": "visit_card", "uid": "bob", "title": "bob",
            "avatar": ""}),
        json!({"msg_type": "custom", "custom_type": "quote", "quote_msg": {"type": "text",
            "id": "9m4e2mr0ui3e8a215n4g", "text": "what?", "author": {"id": "bob"},
            "createdAt": 1_700_000_000_000u64}, "quote_msg_author_name": "bob",
            "quote_text": "that"}),
    ];
    for payload in same {
        assert_eq!(shown(&read(&payload)), payload);
    }
    let others = [
        // Numbers as the app writes them, and what is not known.
        (
            json!({"msg_type": "image", "uri": "u", "width": 3.0, "height": "4", "md5": "00"}),
            json!({"msg_type": "image", "name": "", "size": 1, "uri": "u", "width": 3, "height": 4,
                "md5": ""}),
        ),
        (
            json!({"msg_type": "custom", "custom_type": "location", "latitude": 52.5,
                "longitude": "far"}),
            json!({"msg_type": "custom", "custom_type": "location", "title": "", "address": "",
                "latitude": "52.5", "longitude": "0", "thumb": ""}),
        ),
        // What the table has no form for is text.
        (
            json!({"msg_type": "custom", "custom_type": "video",
                "video": {"uri": "https://x/v", "filesize": 9}, "thumb": {"uri": "https://x/t"}}),
            json!({"msg_type": "text", "text": "[video] https://x/v"}),
        ),
        (json!("just text"), json!({"msg_type": "text", "text": "just text"})),
        (json!([1, {"a": null}]), json!({"msg_type": "text", "text": "[1,{\"a\":null}]"})),
        (json!(null), json!({"msg_type": "text", "text": "null"})),
        (json!({"text": "hi"}), json!({"msg_type": "text", "text": "hi"})),
        (json!({"msg_type": "new", "content": "hi"}), json!({"msg_type": "text", "text": "hi"})),
        (
            json!({"msg_type": "custom", "custom_type": "poll", "options": [1, 2]}),
            json!({"msg_type": "text", "text": "[poll] {\"custom_type\":\"poll\",\
                \"msg_type\":\"custom\",\"options\":[1,2]}"}),
        ),
    ];
    for (payload, expected) in others {
        assert_eq!(shown(&read(&payload)), expected, "{payload}");
    }
}

#[test]
fn video_and_quote_are_read_for_the_others() {
    let video = json!({"msg_type": "custom", "custom_type": "video", "thumb": {"uri": "t"},
        "video": {"uri": "v", "filesize": 9, "width": 640.0, "height": 480, "duration_ms": 5}});
    let expected = Video {
        url: "v".to_owned(),
        cover: "t".to_owned(),
        duration_ms: 5,
        size: 9,
        width: 640,
        height: 480,
    };
    assert_eq!(read(&video).content, Content::Video(expected));
    let image = json!({"msg_type": "quote", "quote_text": "nice", "quote_msg": {"type": "image",
        "id": "x", "name": "a.png", "uri": "u", "author": {"id": "bob"}, "createdAt": 5}});
    let body = read(&image);
    assert_eq!(body.content, Content::Text("nice".to_owned()));
    let reply = body.reply_to.expect("a quote");
    let parts = (reply.id.as_str(), reply.author.as_str(), reply.time_ms, reply.text.as_str());
    assert_eq!(parts, ("x", "bob", 5, "a.png"));
}

#[test]
fn what_others_say_is_shown_or_told() {
    let url = "https://x/1".to_owned();
    let sticker = Image { url: url.clone(), sticker: true, ..Image::default() };
    let image = json!({"msg_type": "image", "name": "", "size": 1, "uri": url, "width": 1,
        "height": 1, "md5": ""});
    assert_eq!(shown(&Content::Image(sticker).into()), image);
    let path = File { place: Place::Path("/p".to_owned()), ..File::default() };
    let rich = vec![
        Segment::Mention { user: Some("bob".to_owned()), text: String::new() },
        Segment::Text(" hi".to_owned()),
    ];
    let card = Card { title: "News".to_owned(), url, ..Card::default() };
    for (content, text) in [
        (Content::File(path), "[file] /p"),
        (Content::Rich(rich.clone()), "@bob hi"),
        (Content::Card(card), "[card] News https://x/1"),
    ] {
        assert_eq!(shown(&content.into()), json!({"msg_type": "text", "text": text}));
    }
    let reply = Reply { id: "x".to_owned(), author: "al".to_owned(), ..Reply::default() };
    let quote = shown(&Body { reply_to: Some(reply), ..Content::Rich(rich).into() });
    assert_eq!((&quote["custom_type"], &quote["quote_text"]), (&json!("quote"), &json!("@bob hi")));
    assert_eq!(quote["quote_msg"]["author"]["id"], "al");
}

#[test]
fn ids_in_payloads_made_here_are_hashids_too() {
    let hashids = Hashids::new("salt", Hashids::MIN_LENGTH, Hashids::ALPHABET).expect("valid");
    let settings = Settings { hashids: Some(hashids), ..Settings::default() };
    let body = Body::from(Content::Contact("42".to_owned()));
    let mut out = Vec::new();
    write(&settings, &body, &mut out);
    let payload = String::from_utf8(out).expect("text");
    assert!(payload.contains("\"uid\":\"v9e4xp\""), "{payload}");
    assert_eq!(parse(&settings, &payload), body);
}

/// Whatever the payload: it is read, and what is shown of it is stable: reading and showing it
/// again changes nothing, and no text is lost on the way.
#[test]
fn any_payload_is_shown_and_then_stays_as_it_is() {
    let mut seed = 7u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    const NAMES: [&str; 18] = [
        "msg_type",
        "custom_type",
        "text",
        "content",
        "uri",
        "name",
        "size",
        "width",
        "height",
        "latitude",
        "longitude",
        "title",
        "uid",
        "quote_msg",
        "quote_text",
        "video",
        "author",
        "id",
    ];
    const WORDS: [&str; 12] = [
        "text",
        "custom",
        "image",
        "file",
        "audio",
        "video",
        "location",
        "visit_card",
        "quote",
        "ü \"x\"",
        "12.5",
        "",
    ];
    fn value(random: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
        match random(if depth == 0 { 6 } else { 9 }) {
            0 => Value::Null,
            1 => json!(random(2_000_000)),
            2 => json!(random(1_000) as f64 / 8.0 - 60.0),
            3..6 => json!(WORDS[random(WORDS.len() as u64) as usize]),
            6 => (0..random(4)).map(|_| value(random, depth - 1)).collect::<Vec<_>>().into(),
            _ => object(random, depth - 1),
        }
    }
    fn object(random: &mut impl FnMut(u64) -> u64, depth: u32) -> Value {
        let members = (0..random(8)).map(|_| {
            let name = NAMES[random(NAMES.len() as u64) as usize];
            (name.to_owned(), value(random, depth))
        });
        Value::Object(members.collect())
    }
    let mut kinds = std::collections::BTreeSet::new();
    for _ in 0..20_000 {
        let mut payload = object(&mut random, 2);
        if random(2) == 0 {
            payload["msg_type"] = json!(WORDS[random(9) as usize]);
        }
        let body = read(&payload);
        let first = shown(&body);
        assert!(first["msg_type"].is_string(), "{payload}");
        assert_eq!(shown(&read(&first)), first, "{payload}");
        if let (Content::Text(text), None) = (&body.content, &body.reply_to) {
            assert_eq!(first["text"], text.as_str(), "{payload}");
        }
        kinds.insert(format!("{:?}", std::mem::discriminant(&body.content)));
    }
    assert!(kinds.len() >= 7, "the generator reaches {kinds:?} only");
}
