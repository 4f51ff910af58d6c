//! A plain HTTP/1.1 client over one `TcpStream` per request: what the tests need and no more.
//!
//! It is not a client library: bodies are JSON or text, answers have a length or end with the
//! connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::DEADLINE;

/// Where to ask, and with which key.
pub struct Http {
    address: SocketAddr,
    key: Option<String>,
}

/// What was answered.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Http {
    /// A client without a key.
    pub fn new(address: SocketAddr) -> Http {
        Http { address, key: None }
    }

    /// The same with `Authorization: Bearer <key>` on every request.
    pub fn with_key(self, key: impl Into<String>) -> Http {
        Http { key: Some(key.into()), ..self }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, None)
    }

    /// PUT of a JSON body.
    pub fn put(&self, path: &str, body: &Value) -> Response {
        self.request("PUT", path, Some(body.to_string().as_bytes()))
    }

    /// POST of a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, Some(body.to_string().as_bytes()))
    }

    /// Any request; a body is sent as `application/json`.
    pub fn request(&self, method: &str, path: &str, body: Option<&[u8]>) -> Response {
        self.raw(&self.bytes_of(method, path, body))
    }

    /// The same to a server that may be killed meanwhile; `None`: no whole answer came.
    pub fn try_request(&self, method: &str, path: &str, body: &Value) -> Option<Response> {
        let body = (!body.is_null()).then(|| body.to_string());
        let bytes = self.bytes_of(method, path, body.as_deref().map(str::as_bytes));
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        stream.write_all(&bytes).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        parse(&answer)
    }

    fn bytes_of(&self, method: &str, path: &str, body: Option<&[u8]>) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(key) = &self.key {
            head += &format!("Authorization: Bearer {key}\r\n");
        }
        if let Some(body) = body {
            head +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        head += "Connection: close\r\n\r\n";
        [head.as_bytes(), body.unwrap_or_default()].concat()
    }

    /// Sends exactly these bytes and reads the answer until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Response {
        let mut stream = TcpStream::connect(self.address).expect("the API listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout above zero");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout above zero");
        // A server that refuses a large body may answer and stop reading: the answer counts.
        let written = stream.write_all(bytes);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer) {
            assert!(!answer.is_empty(), "no answer: {error}; request: {written:?}");
        }
        let whole = parse(&answer);
        whole.unwrap_or_else(|| panic!("no whole answer: {:?}", String::from_utf8_lossy(&answer)))
    }
}

impl Response {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.body))
    }

    /// The first header with this name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The code of an error answer.
    pub fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().expect("an error has a code").to_owned()
    }
}

/// `None`: it is not whole.
fn parse(answer: &[u8]) -> Option<Response> {
    let text = String::from_utf8(answer.to_vec()).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: Option<usize> = length.and_then(|(_, value)| value.parse().ok());
    let whole = length.is_none_or(|length| length == body.len());
    whole.then(|| Response { status, headers, body: body.to_owned() })
}
