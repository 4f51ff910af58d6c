//! The server's HTTP API, as far as a load needs it: groups. One connection, one request at a time.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Users in one request; a server takes some hundred.
const USERS: usize = 400;
/// Time for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A longer answer is none of ours.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// A connection to the API.
pub struct Api {
    stream: BufReader<TcpStream>,
    server: SocketAddr,
    key: String,
}

impl Api {
    /// Connects; the key is in `key_file`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn new(server: SocketAddr, key_file: &Path) -> Result<Api, String> {
        let key = std::fs::read_to_string(key_file).map_err(|error| {
            format!(
                "cannot read the server's API key {}: {error}; name it with --api-key-file (the \
                 server keeps it as api-key in its data directory)",
                key_file.display()
            )
        })?;
        let stream = TcpStream::connect_timeout(&server, ANSWER_MAX)
            .map_err(|error| format!("cannot connect to the API at {server}: {error}"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(ANSWER_MAX)))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_MAX)))
            .map_err(|error| format!("cannot set up the connection to the API: {error}"))?;
        Ok(Api { stream: BufReader::new(stream), server, key: key.trim().to_owned() })
    }

    /// Makes a group of these users, of whom the first is the owner.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn make_group(&mut self, id: &str, users: &[String]) -> Result<(), String> {
        let (owner, members) = users.split_first().expect("a group has an owner");
        let (first, rest) = members.split_at(members.len().min(USERS));
        let group = json!({"id": id, "name": id, "owner": owner, "members": first});
        self.post("/v1/groups", &group)?;
        for users in rest.chunks(USERS) {
            self.post(&format!("/v1/groups/{id}/members"), &json!({ "users": users }))?;
        }
        Ok(())
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<(), String> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.server,
            self.key,
            body.len()
        );
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        let answer = sent.and_then(|()| self.answer());
        let (status, body) =
            answer.map_err(|error| format!("POST {path} at {}: {error}", self.server))?;
        match status {
            200..300 => Ok(()),
            _ => Err(format!("POST {path}: {status} {}", String::from_utf8_lossy(&body))),
        }
    }

    /// Status and body; the API gives every body its length.
    fn answer(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let malformed = || std::io::Error::other("that is no HTTP answer");
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(malformed)?;
        let mut length = 0u64;
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(malformed());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().map_err(|_| malformed())?;
            }
        }
        if length > ANSWER_BYTES_MAX {
            return Err(malformed());
        }
        let mut body = Vec::new();
        self.stream.by_ref().take(length).read_to_end(&mut body)?;
        Ok((status, body))
    }
}
