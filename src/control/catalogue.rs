//! The catalogue of the API's operations. Each is said once, as a type: what may be asked are the
//! fields of a struct, wherever in the request they stand (path, query or body); what is answered is
//! its [`Operation::Answer`]; what it does is its doc comment. From that come the routes, what is
//! refused, the OpenAPI document (`openapi`) and `API.md`.
//!
//! An operation takes its fields by name, not its HTTP request, so that it can be asked for in other
//! ways than HTTP.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter};
use axum::{Json, Router};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::auth::Caller;
use super::error::ApiError;
use super::{BODY_BYTES_MAX, Shared};
use crate::config::Scope;

/// An operation: what is asked for.
pub trait Operation: DeserializeOwned + JsonSchema + Send + 'static {
    /// How HTTP reaches it, and who may.
    const ROUTE: Route;
    /// What it answers.
    type Answer: Serialize + JsonSchema + Send;

    /// Does it; a change is answered when it is durable.
    fn perform(
        self,
        at: At,
    ) -> impl Future<Output = Result<Answered<Self::Answer>, ApiError>> + Send;
}

/// Where an operation is done, and for whom.
pub struct At {
    pub shared: Arc<Shared>,
    pub caller: Caller,
}

/// How HTTP reaches an operation.
#[derive(Clone, Copy)]
pub struct Route {
    /// Its name in documents and programs made of them.
    pub name: &'static str,
    pub method: Verb,
    /// Parts in braces are fields.
    pub path: &'static str,
    /// What a key must be allowed to.
    pub scope: Scope,
    /// The statuses of its good answers.
    pub statuses: &'static [u16],
}

/// The methods of operations.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Get,
    Put,
    Post,
    Patch,
    Delete,
}

impl Verb {
    pub fn method(self) -> Method {
        match self {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
            Verb::Post => Method::POST,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
        }
    }

    fn filter(self) -> MethodFilter {
        match self {
            Verb::Get => MethodFilter::GET,
            Verb::Put => MethodFilter::PUT,
            Verb::Post => MethodFilter::POST,
            Verb::Patch => MethodFilter::PATCH,
            Verb::Delete => MethodFilter::DELETE,
        }
    }

    /// Whether fields that are not in the path are the body's; else they are the query's.
    pub fn has_body(self) -> bool {
        matches!(self, Verb::Put | Verb::Post | Verb::Patch)
    }
}

impl Route {
    const fn new(name: &'static str, method: Verb, path: &'static str, scope: Scope) -> Route {
        Route { name, method, path, scope, statuses: &[200] }
    }

    pub const fn get(name: &'static str, path: &'static str) -> Route {
        Route::new(name, Verb::Get, path, Scope::Read)
    }

    pub const fn put(name: &'static str, path: &'static str) -> Route {
        Route::new(name, Verb::Put, path, Scope::Write)
    }

    pub const fn post(name: &'static str, path: &'static str) -> Route {
        Route::new(name, Verb::Post, path, Scope::Write)
    }

    pub const fn patch(name: &'static str, path: &'static str) -> Route {
        Route::new(name, Verb::Patch, path, Scope::Write)
    }

    pub const fn delete(name: &'static str, path: &'static str) -> Route {
        Route::new(name, Verb::Delete, path, Scope::Write)
    }

    pub const fn for_admins(mut self) -> Route {
        self.scope = Scope::Admin;
        self
    }

    pub const fn answers(mut self, statuses: &'static [u16]) -> Route {
        self.statuses = statuses;
        self
    }

    /// The names in the path's braces.
    pub fn parts(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// An answer with its status.
#[derive(Debug)]
pub struct Answered<A> {
    status: StatusCode,
    answer: A,
}

/// 200.
pub fn ok<A>(answer: A) -> Result<Answered<A>, ApiError> {
    Ok(Answered { status: StatusCode::OK, answer })
}

/// 201: it was not there before.
pub fn created<A>(answer: A) -> Result<Answered<A>, ApiError> {
    Ok(Answered { status: StatusCode::CREATED, answer })
}

/// An operation of the catalogue.
pub struct Entry {
    pub route: Route,
    /// Of its fields.
    pub request: fn(&mut SchemaGenerator) -> Schema,
    /// Of its answer.
    pub answer: fn(&mut SchemaGenerator) -> Schema,
    handler: fn(Route) -> MethodRouter<Arc<Shared>>,
}

/// The entry of an operation.
pub fn entry<O: Operation>() -> Entry {
    Entry {
        route: O::ROUTE,
        request: O::json_schema,
        answer: |generator| generator.subschema_for::<O::Answer>(),
        handler: |route| {
            let fields = Arc::new(Fields::of::<O>());
            axum::routing::on(
                route.method.filter(),
                move |State(shared): State<Arc<Shared>>, request: Request| {
                    handle::<O>(shared, fields.clone(), request)
                },
            )
        },
    }
}

/// All operations at their paths.
pub fn router(entries: &[Entry]) -> Router<Arc<Shared>> {
    entries.iter().fold(Router::new(), |router, entry| {
        router.route(entry.route.path, (entry.handler)(entry.route))
    })
}

/// The settings under which fields are described: each type whole, where it stands.
pub fn request_settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.meta_schema = None;
        settings.inline_subschemas = true;
    })
}

/// What an HTTP request for an operation may have, and as what it is read.
struct Fields {
    route: Route,
    kinds: BTreeMap<String, Kind>,
}

/// A query has texts only: what they are to be read as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Number,
    Flag,
    /// Given once for each.
    List,
    Other,
}

impl Kind {
    fn of(schema: &Value) -> Kind {
        let is = |name: &str| match &schema["type"] {
            Value::String(kind) => kind == name,
            Value::Array(kinds) => kinds.iter().any(|kind| kind == name),
            _ => false,
        };
        match (is("integer"), is("boolean"), is("array")) {
            (true, _, _) => Kind::Number,
            (_, true, _) => Kind::Flag,
            (_, _, true) => Kind::List,
            _ => Kind::Other,
        }
    }

    /// What cannot be read stays a text, which the field then refuses.
    fn read(self, text: String) -> Value {
        match self {
            Kind::Number => text.parse::<u64>().map_or(Value::String(text), Value::from),
            Kind::Flag => text.parse::<bool>().map_or(Value::String(text), Value::from),
            Kind::List | Kind::Other => Value::String(text),
        }
    }
}

impl Fields {
    fn of<O: Operation>() -> Fields {
        let mut generator = request_settings().into_generator();
        let schema = O::json_schema(&mut generator);
        let properties = schema.get("properties").and_then(Value::as_object);
        let kinds = properties.into_iter().flatten();
        let kinds = kinds.map(|(name, schema)| (name.clone(), Kind::of(schema)));
        let fields = Fields { route: O::ROUTE, kinds: kinds.collect() };
        for part in O::ROUTE.parts() {
            assert!(fields.kinds.contains_key(part), "{}: {part} is no field", O::ROUTE.name);
        }
        fields
    }

    /// Everything that the request says, by name.
    async fn read(&self, mut parts: Parts, body: axum::body::Body) -> Result<Value, ApiError> {
        let mut found = Map::new();
        self.read_path(&mut parts, &mut found).await?;
        if self.route.method.has_body() {
            no_query(&parts)?;
            self.read_body(parts, body, &mut found).await?;
        } else {
            self.read_query(&mut parts, &mut found).await?;
        }
        Ok(Value::Object(found))
    }

    async fn read_path(
        &self,
        parts: &mut Parts,
        found: &mut Map<String, Value>,
    ) -> Result<(), ApiError> {
        let first = self.route.parts().next().unwrap_or("path");
        let params = RawPathParams::from_request_parts(parts, &()).await;
        let params =
            params.map_err(|_| ApiError::invalid(first, "is not percent-encoded UTF-8"))?;
        for (name, value) in &params {
            found.insert(name.to_owned(), Value::String(value.to_owned()));
        }
        Ok(())
    }

    async fn read_query(
        &self,
        parts: &mut Parts,
        found: &mut Map<String, Value>,
    ) -> Result<(), ApiError> {
        let query = Query::<Vec<(String, String)>>::from_request_parts(parts, &()).await;
        let Query(query) = query.map_err(|_| ApiError::bad_request("the query is malformed"))?;
        for (name, text) in query {
            let kind = self.known(&name)?;
            match (kind, found.get_mut(&name)) {
                (Kind::List, Some(Value::Array(list))) => list.push(Value::String(text)),
                (Kind::List, _) => {
                    found.insert(name, Value::Array(vec![Value::String(text)]));
                }
                (_, None) => {
                    found.insert(name, kind.read(text));
                }
                (_, Some(_)) => return Err(ApiError::invalid(name, "may be given once")),
            }
        }
        Ok(())
    }

    async fn read_body(
        &self,
        parts: Parts,
        body: axum::body::Body,
        found: &mut Map<String, Value>,
    ) -> Result<(), ApiError> {
        let bytes = Bytes::from_request(Request::from_parts(parts, body), &()).await;
        let bytes = bytes.map_err(|rejection| match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                ApiError::too_large(format!("a body may have {BODY_BYTES_MAX} bytes"))
            }
            _ => ApiError::bad_request("the body did not come whole"),
        })?;
        if bytes.is_empty() && self.kinds.len() == found.len() {
            return Ok(());
        }
        let body = match serde_json::from_slice(&bytes) {
            Ok(Value::Object(body)) => body,
            Ok(_) => return Err(ApiError::bad_request("the body must be a JSON object")),
            Err(error) => {
                return Err(ApiError::bad_request(format!("the body is not JSON: {error}")));
            }
        };
        for (name, value) in body {
            self.known(&name)?;
            found.insert(name, value);
        }
        Ok(())
    }

    /// A field that is not in the path.
    fn known(&self, name: &str) -> Result<Kind, ApiError> {
        let kind = self.kinds.get(name).filter(|_| self.route.parts().all(|part| part != name));
        kind.copied().ok_or_else(|| ApiError::unknown_field(name.to_owned()))
    }
}

/// What stands in a query where the fields are the body's would be passed over.
fn no_query(parts: &Parts) -> Result<(), ApiError> {
    match parts.uri.query() {
        None | Some("") => Ok(()),
        Some(query) => {
            let name = query.split(['=', '&']).next().unwrap_or_default();
            Err(ApiError::unknown_field(name.to_owned()))
        }
    }
}

async fn handle<O: Operation>(
    shared: Arc<Shared>,
    fields: Arc<Fields>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // A key that may not is told so before anything else is looked at.
    let caller = parts.extensions.get::<Caller>();
    let caller = caller.ok_or_else(|| ApiError::unauthorized("needs an API key"))?.clone();
    caller.must(O::ROUTE.scope)?;
    let asked = fields.read(parts, body).await?;
    let operation: O = asked_for(asked)?;
    let Answered { status, answer } = operation.perform(At { shared, caller }).await?;
    Ok((status, Json(answer)).into_response())
}

/// Fields as an operation, or which of them is wrong.
pub fn asked_for<O: Operation>(fields: Value) -> Result<O, ApiError> {
    serde_path_to_error::deserialize(fields).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        let within = |name: &str| match path.as_str() {
            "." => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        // serde has no other way to say these two.
        let named = |rest: &str| rest.split('`').next().unwrap_or_default().to_owned();
        if let Some(rest) = message.strip_prefix("missing field `") {
            ApiError::invalid(within(&named(rest)), "must be given")
        } else if let Some(rest) = message.strip_prefix("unknown field `") {
            // The path has its name already.
            let name = if path == "." { named(rest) } else { path.clone() };
            ApiError::unknown_field(name)
        } else {
            ApiError::invalid(path, message)
        }
    })
}
