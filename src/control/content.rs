//! The content of messages as the API's document describes it. What it takes is decided by
//! `ringpost_core::content::json`; a test holds this to it.

#![expect(dead_code, reason = "these types are only their schemas")]

use schemars::JsonSchema;

use super::types::Any;

/// What a message says: the neutral model, which every dialect can show, or one dialect's own words.
#[derive(JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum Given {
    Neutral(Content),
    Raw(Raw),
}

/// One dialect's own words; the others read them into the neutral model.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub struct Raw {
    raw: RawContent,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
struct RawContent {
    dialect: Dialect,
    payload: Any,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Dialect {
    Imboy,
}

/// The neutral model. What is not known may be left out, where it is not required.
#[derive(JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[schemars(inline)]
pub enum Content {
    Text {
        text: String,
    },
    Image {
        url: String,
        #[serde(default)]
        name: String,
        /// Bytes.
        #[serde(default)]
        size: u64,
        /// Pixels.
        #[serde(default)]
        width: u64,
        /// Pixels.
        #[serde(default)]
        height: u64,
        /// It stands for a feeling and is shown small.
        #[serde(default)]
        sticker: bool,
    },
    Voice {
        url: String,
        #[serde(default)]
        duration_ms: u64,
        /// Bytes.
        #[serde(default)]
        size: u64,
    },
    Video {
        url: String,
        /// Where a picture of it is.
        #[serde(default)]
        cover: String,
        #[serde(default)]
        duration_ms: u64,
        /// Bytes.
        #[serde(default)]
        size: u64,
        /// Pixels.
        #[serde(default)]
        width: u64,
        /// Pixels.
        #[serde(default)]
        height: u64,
    },
    /// With either a url or a path.
    File {
        #[serde(default)]
        url: String,
        /// What only the sender's dialect can open.
        #[serde(default)]
        path: String,
        #[serde(default)]
        name: String,
        /// Bytes.
        #[serde(default)]
        size: u64,
        /// Media type.
        #[serde(default)]
        mime: String,
        #[serde(default)]
        hash: String,
    },
    Location {
        /// Degrees.
        #[schemars(range(min = -90.0, max = 90.0))]
        lat: f64,
        /// Degrees.
        #[schemars(range(min = -180.0, max = 180.0))]
        lon: f64,
        #[serde(default)]
        title: String,
        #[serde(default)]
        address: String,
    },
    /// Something with a page of its own.
    Card {
        title: String,
        #[serde(default)]
        text: String,
        #[serde(default)]
        url: String,
        #[serde(default)]
        picture: String,
        #[serde(default)]
        entity_kind: String,
        #[serde(default)]
        entity_id: String,
    },
    /// A user, to be written to.
    Contact {
        user: String,
    },
    /// Parts of several kinds, in order.
    Rich {
        segments: Vec<Segment>,
    },
    /// What only its own dialect knows.
    Custom {
        r#type: String,
        raw: Any,
    },
}

/// A part of a rich content.
#[derive(JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[schemars(inline)]
pub enum Segment {
    Text {
        text: String,
    },
    Image {
        url: String,
        #[serde(default)]
        name: String,
        /// Bytes.
        #[serde(default)]
        size: u64,
        /// Pixels.
        #[serde(default)]
        width: u64,
        /// Pixels.
        #[serde(default)]
        height: u64,
        #[serde(default)]
        sticker: bool,
    },
    Emoji {
        id: String,
        #[serde(default)]
        text: String,
    },
    /// With either a user or everybody.
    Mention {
        #[serde(default)]
        user: String,
        #[serde(default)]
        everybody: bool,
        #[serde(default)]
        text: String,
    },
    Link {
        url: String,
        #[serde(default)]
        text: String,
    },
}

/// A message that another one answers.
#[derive(JsonSchema)]
pub struct Quoted {
    id: String,
    author: String,
    /// Ms since 1970.
    time_ms: u64,
    /// Its text, shortened.
    text: String,
}

#[cfg(test)]
mod tests {
    use ringpost_core::content::Content;
    use schemars::SchemaGenerator;
    use serde_json::{Map, Value, json};

    use super::super::catalogue::request_settings;

    /// A value for a member of that name and schema.
    fn sample(name: &str, schema: &Value) -> Value {
        match (name, schema["type"].as_str()) {
            ("segments", _) => json!([{"kind": "text", "text": "x"}]),
            (_, Some("string")) => json!(schema["const"].as_str().unwrap_or("x")),
            (_, Some("integer" | "number")) => json!(1),
            (_, Some("boolean")) => json!(true),
            _ => json!({"any": [1]}),
        }
    }

    fn variants(schema: &Value) -> Vec<Value> {
        schema["oneOf"].as_array().expect("one schema a kind").clone()
    }

    fn taken(content: &Map<String, Value>) -> bool {
        Content::from_json(&Value::Object(content.clone()).to_string()).is_ok()
    }

    /// Every member of every kind is taken, those that are required are needed, and no other.
    fn check(schema: &Value, wrapped: impl Fn(Map<String, Value>) -> Map<String, Value>) {
        for variant in variants(schema) {
            let properties = variant["properties"].as_object().expect("members");
            let required = variant["required"].as_array().expect("kind at least");
            let mut least = Map::new();
            for name in required {
                let name = name.as_str().expect("a name");
                least.insert(name.to_owned(), sample(name, &properties[name]));
            }
            let kind = properties["kind"]["const"].as_str().expect("a kind").to_owned();
            let either: &[&str] = match kind.as_str() {
                "file" => &["url", "path"],
                "mention" => &["user", "everybody"],
                _ => &[],
            };
            for name in properties.keys().filter(|name| !either.contains(&name.as_str())) {
                let mut content = least.clone();
                if let Some(one) = either.first() {
                    content.insert((*one).to_owned(), sample(one, &properties[*one]));
                }
                content.insert(name.clone(), sample(name, &properties[name]));
                assert!(taken(&wrapped(content.clone())), "{kind}.{name}");
                if required.contains(&json!(name)) {
                    content.remove(name);
                    assert!(!taken(&wrapped(content)), "{kind}.{name} is required");
                }
            }
            for name in either {
                let mut content = least.clone();
                content.insert((*name).to_owned(), sample(name, &properties[*name]));
                assert!(taken(&wrapped(content)), "{kind}.{name}");
            }
            let mut content = least;
            content.insert("other".to_owned(), json!(1));
            assert!(!taken(&wrapped(content)), "{kind}: unknown members are refused");
        }
    }

    #[test]
    fn what_is_described_is_what_is_taken() {
        let mut generator: SchemaGenerator = request_settings().into_generator();
        let content = generator.subschema_for::<super::Content>().to_value();
        assert_eq!(variants(&content).len(), 10);
        check(&content, |content| content);
        let segment = generator.subschema_for::<super::Segment>().to_value();
        assert_eq!(variants(&segment).len(), 5);
        check(&segment, |segment| {
            let rich = json!({"kind": "rich", "segments": [segment]});
            rich.as_object().expect("an object").clone()
        });
    }
}
