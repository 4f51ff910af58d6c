//! The catalogue as an OpenAPI 3.1 document, and as `API.md`. Both say what the operations' types
//! say: there is nothing to keep up to date.

use std::sync::Arc;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::catalogue::{Entry, request_settings};

/// `GET /openapi.json`.
pub async fn serve(document: Arc<String>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.as_str().to_owned()).into_response()
}

/// The document.
pub fn document(entries: &[Entry]) -> Value {
    let mut answers = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.meta_schema = None;
            settings.definitions_path = "/components/schemas".into();
        })
        .for_serialize()
        .into_generator();
    let mut paths = Map::new();
    for entry in entries {
        let Described { about, path, query, body } = Described::of(entry);
        let mut parameters = Vec::new();
        parameters.extend(path.iter().map(|field| parameter(field, "path")));
        parameters.extend(query.iter().map(|field| parameter(field, "query")));
        let answer = (entry.answer)(&mut answers).to_value();
        let statuses = entry.route.statuses.iter();
        let mut responses: Map<String, Value> = statuses
            .map(|status| (status.to_string(), response("What was asked for.", &answer)))
            .collect();
        for refusal in ["4XX", "5XX"] {
            let reference = json!({ "$ref": "#/components/responses/Refused" });
            responses.insert(refusal.to_owned(), reference);
        }
        let mut operation = json!({
            "operationId": entry.route.name,
            "summary": first_sentence(&about),
            "description": format!("{about}\n\nScope: {}.", entry.route.scope.name()),
            "tags": [tag(entry.route.path)],
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(body) = body {
            let content = json!({ "application/json": { "schema": body } });
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        let method = entry.route.method.method().as_str().to_lowercase();
        let item = paths.entry(entry.route.path).or_insert_with(|| json!({}));
        item[method] = operation;
    }
    let mut schemas = answers.take_definitions(true);
    schemas.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ringpost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The HTTP API of a Ringpost server. A change is answered when it is durable.",
        },
        "security": [{ "key": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Refused": response("Why it was not done.", &json!({ "$ref": "#/components/schemas/Error" })),
            },
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "An API key." },
            },
        },
    })
}

/// The part of the API that a path belongs to.
fn tag(path: &str) -> &str {
    path.split('/').nth(2).unwrap_or_default()
}

fn response(about: &str, schema: &Value) -> Value {
    json!({ "description": about, "content": { "application/json": { "schema": schema } } })
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {
                    "code": { "type": "string", "description": "One word per cause, for programs." },
                    "message": { "type": "string", "description": "For people." },
                    "field": {
                        "type": "string",
                        "description": "What is wrong of the path, the query or the body.",
                    },
                },
            },
        },
    })
}

/// A field of an operation.
struct Field {
    name: String,
    required: bool,
    schema: Value,
}

/// An operation's fields by where they stand.
struct Described {
    about: String,
    path: Vec<Field>,
    query: Vec<Field>,
    /// Of the body; `None`: there is none.
    body: Option<Value>,
}

impl Described {
    fn of(entry: &Entry) -> Described {
        let mut generator = request_settings().into_generator();
        let schema: Schema = (entry.request)(&mut generator);
        let schema = schema.to_value();
        let about = one_paragraph(schema["description"].as_str().unwrap_or_default());
        let required = |name: &str| {
            schema["required"].as_array().is_some_and(|names| names.iter().any(|it| it == name))
        };
        let fields = schema["properties"].as_object().into_iter().flatten();
        let fields = fields.map(|(name, schema)| Field {
            name: name.clone(),
            required: required(name),
            schema: schema.clone(),
        });
        let is_part = |name: &str| entry.route.parts().any(|part| part == name);
        let (path, others): (Vec<Field>, Vec<Field>) =
            fields.partition(|field| is_part(&field.name));
        if !entry.route.method.has_body() {
            let present = |field: Field| Field { schema: without_null(field.schema), ..field };
            return Described {
                about,
                path,
                query: others.into_iter().map(present).collect(),
                body: None,
            };
        }
        if others.is_empty() {
            return Described { about, path, query: vec![], body: None };
        }
        let names = others.iter().filter(|field| field.required).map(|field| &field.name);
        let body = json!({
            "type": "object",
            "required": names.collect::<Vec<_>>(),
            "properties": others.iter().map(|field| (field.name.clone(), field.schema.clone())).collect::<Map<_, _>>(),
            "additionalProperties": false,
        });
        Described { about, path, query: vec![], body: Some(body) }
    }
}

/// A query has no null: what is not said is absent.
fn without_null(mut schema: Value) -> Value {
    if let Some(kinds) = schema["type"].as_array_mut() {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            schema["type"] = kind.clone();
        }
    }
    if let Some(any) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        any.retain(|schema| schema["type"] != "null");
    }
    schema
}

fn parameter(field: &Field, place: &str) -> Value {
    let mut schema = field.schema.clone();
    let about = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let mut parameter = json!({
        "name": field.name, "in": place, "required": field.required, "schema": schema,
    });
    if let Some(about) = about {
        parameter["description"] = about;
    }
    parameter
}

/// A doc comment's lines as one.
fn one_paragraph(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn first_sentence(text: &str) -> &str {
    text.find(". ").map_or(text, |end| &text[..=end])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::fs;

    use super::super::operations;
    use super::*;

    /// `API.md`, as it must be.
    fn reference() -> String {
        let mut text = String::from(
            "# HTTP API\n\nMade from the catalogue of operations (`src/control/catalogue.rs`); \
             `RINGPOST_WRITE_API=1 make unit` writes it. A server\nhas the same as an OpenAPI 3.1 \
             document at `/openapi.json`. *Scope* is what a key must be allowed to. Fields\nare \
             the path's, then the query's (GET, DELETE) or the JSON body's; in *italics* those that \
             may be left out.\nLists answer `{items, next?}`; `after` is an earlier `next`.\n",
        );
        let document = document(&operations());
        for entry in operations() {
            let route = &entry.route;
            let Described { about, path, query, body } = Described::of(&entry);
            let method = route.method.method();
            let scope = route.scope.name();
            write!(
                text,
                "\n## {method} {}\n\n`{}`, scope {scope}. {about}\n",
                route.path, route.name
            )
            .expect("a text takes all");
            let of_body = body.iter().flat_map(|body| {
                let required = body["required"].as_array().expect("a list");
                let properties = body["properties"].as_object().expect("an object");
                properties.iter().map(|(name, schema)| Field {
                    name: name.clone(),
                    required: required.iter().any(|it| it == name.as_str()),
                    schema: schema.clone(),
                })
            });
            let of_body: Vec<Field> = of_body.collect();
            let fields: Vec<&Field> = path.iter().chain(&query).chain(&of_body).collect();
            if !fields.is_empty() {
                text.push_str("\n| field | what |\n|---|---|\n");
            }
            for Field { name, required, schema } in fields {
                let mark = if *required { "" } else { "*" };
                let about = one_paragraph(schema["description"].as_str().unwrap_or_default());
                let kind = kind(schema);
                let about = if about.is_empty() { kind } else { format!("{kind}; {about}") };
                writeln!(text, "| {mark}`{name}`{mark} | {about} |").expect("a text takes all");
            }
            let status = route.statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
            let method = method.as_str().to_lowercase();
            let good = &document["paths"][route.path][method]["responses"];
            let good =
                &good[route.statuses[0].to_string()]["content"]["application/json"]["schema"];
            let schemas = &document["components"]["schemas"];
            write!(text, "\nAnswers {status}: {}\n", answer(good, schemas))
                .expect("a text takes all");
        }
        text
    }

    /// A schema in a few words.
    fn kind(schema: &Value) -> String {
        if let Some(of) = schema["enum"].as_array() {
            return of
                .iter()
                .filter(|it| !it.is_null())
                .map(|it| format!("`{}`", it.as_str().unwrap_or("?")))
                .collect::<Vec<_>>()
                .join(" or ");
        }
        for several in ["oneOf", "anyOf"] {
            if let Some(of) = schema[several].as_array() {
                let words: Vec<_> = of
                    .iter()
                    .filter(|it| it["type"] != "null")
                    .map(|it| match it["const"].as_str() {
                        Some(word) => format!("`{word}`"),
                        None => kind(it),
                    })
                    .collect();
                let words: BTreeSet<_> = words.into_iter().collect();
                return words.into_iter().collect::<Vec<_>>().join(" or ");
            }
        }
        let kinds = match &schema["type"] {
            Value::String(kind) => vec![kind.as_str()],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => vec![],
        };
        let limit = |name: &str| schema[name].as_u64();
        let words = kinds.into_iter().filter(|kind| *kind != "null").map(|kind| match kind {
            "string" if schema["pattern"].is_string() => "id".to_owned(),
            "string" => {
                limit("maxLength").map_or("text".to_owned(), |most| format!("text, {most} bytes"))
            }
            "integer" => match (limit("minimum"), limit("maximum")) {
                (Some(least), Some(most)) => format!("number, {least} to {most}"),
                _ => "number".to_owned(),
            },
            "boolean" => "true or false".to_owned(),
            "array" => format!("list of {}", kind_of_items(schema)),
            "object" => schema["properties"].as_object().map_or("object".to_owned(), |members| {
                let names = members.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!("`{{{names}}}`")
            }),
            other => other.to_owned(),
        });
        let words = words.collect::<Vec<_>>().join(" or ");
        if words.is_empty() { "any JSON".to_owned() } else { words }
    }

    fn kind_of_items(schema: &Value) -> String {
        kind(&schema["items"])
    }

    /// An answer's members.
    fn answer(schema: &Value, schemas: &Value) -> String {
        let schema = match schema["$ref"].as_str() {
            Some(reference) => &schemas[reference.rsplit('/').next().expect("a name")],
            None => schema,
        };
        let required = schema["required"].as_array();
        let Some(members) = schema["properties"].as_object() else { return "`{}`.".to_owned() };
        if members.is_empty() {
            return "`{}`.".to_owned();
        }
        let shown = members.iter().map(|(name, schema)| {
            let needed = required.is_some_and(|names| names.iter().any(|it| it == name.as_str()));
            let optional = if needed { "" } else { "?" };
            let inner = &schema["items"];
            match inner.is_object() && name == "items" {
                true => format!("{name}: [{}]", answer(inner, schemas).trim_matches(['`', '.'])),
                false => format!("{name}{optional}"),
            }
        });
        format!("`{{{}}}`.", shown.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn the_reference_is_that_of_the_catalogue() {
        let reference = reference();
        if std::env::var_os("RINGPOST_WRITE_API").is_some() {
            fs::write("API.md", &reference).expect("it can be written");
        }
        let written = fs::read_to_string("API.md").expect("API.md is there");
        assert!(written == reference, "API.md is not up to date: RINGPOST_WRITE_API=1 make unit");
    }

    #[test]
    fn every_operation_is_described_once() {
        let operations = operations();
        let document = document(&operations);
        let names: BTreeSet<_> = operations.iter().map(|entry| entry.route.name).collect();
        assert_eq!(names.len(), operations.len(), "each name once");
        let paths = document["paths"].as_object().expect("paths");
        let described = paths.values().map(|item| item.as_object().expect("methods").len());
        assert_eq!(described.sum::<usize>(), operations.len());
        for entry in &operations {
            let method = entry.route.method.method().as_str().to_lowercase();
            let operation = &document["paths"][entry.route.path][method];
            assert_eq!(operation["operationId"], entry.route.name);
            let summary = operation["summary"].as_str().expect("a sentence");
            assert!(summary.ends_with('.'), "{}: {summary:?}", entry.route.name);
        }
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().expect("it ends");
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
