//! An imboy client for tests, on the `tungstenite` WebSocket library, which is not ours.

use std::net::TcpStream;
use std::time::Duration;

use ringpost_core::ids::MessageId;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::CloseFrame;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::{DEADLINE, Server};

/// A connection of one device.
pub struct Client {
    socket: WebSocket<TcpStream>,
    pub did: String,
}

/// What came instead of a frame.
#[derive(Debug)]
pub enum End {
    /// The server closed with this code, or without one.
    Closed(Option<u16>),
    /// The connection broke.
    Broken,
}

impl Client {
    /// Connects a device of `user` with a fresh token.
    pub fn connect(server: &Server, user: &str, did: &str) -> Client {
        let headers = [("authorization", server.token(user)), ("did", did.to_owned())];
        let (client, _) = Client::with_headers(server, "/imboy/ws", &headers).expect("accepted");
        client
    }

    /// Connects with these headers; an HTTP refusal is its status.
    pub fn with_headers(
        server: &Server,
        target: &str,
        headers: &[(&'static str, String)],
    ) -> Result<(Client, Response), u16> {
        let stream = TcpStream::connect(server.addr()).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
        let url = format!("ws://{}{target}", server.addr());
        let mut request = url.into_client_request().expect("a valid URL");
        let mut did = String::new();
        for (name, value) in headers {
            if *name == "did" {
                did.clone_from(value);
            }
            let value = HeaderValue::from_str(value).expect("a header value");
            request.headers_mut().insert(*name, value);
        }
        match tungstenite::client(request, stream) {
            Ok((socket, response)) => Ok((Client { socket, did }, response)),
            Err(HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(response.status().as_u16())
            }
            Err(error) => panic!("the handshake failed: {error}"),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    pub fn send_text(&mut self, text: &str) -> Result<(), End> {
        self.send_raw(Message::text(text))
    }

    pub fn send_raw(&mut self, message: Message) -> Result<(), End> {
        self.socket.send(message).map_err(|_| End::Broken)
    }

    /// Sends without flushing; [`Client::flush`] sends what gathered.
    pub fn queue_text(&mut self, text: &str) -> Result<(), End> {
        self.socket.write(Message::text(text)).map_err(|_| End::Broken)
    }

    pub fn flush(&mut self) -> Result<(), End> {
        self.socket.flush().map_err(|_| End::Broken)
    }

    /// The next text frame.
    pub fn next_text(&mut self) -> Result<String, End> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(frame)) => return Err(End::Closed(code(frame))),
                Ok(_) => {}
                Err(_) => return Err(End::Broken),
            }
        }
    }

    /// The next message of any kind.
    pub fn next_raw(&mut self) -> Result<Message, End> {
        self.socket.read().map_err(|_| End::Broken)
    }

    /// The next text frame, as JSON.
    pub fn next(&mut self) -> Value {
        let text = self.next_text().expect("a frame");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// Asserts that everything that the server had to say was said: a `ping` is answered next.
    pub fn nothing_more(&mut self) {
        self.send_text("ping").expect("connected");
        assert_eq!(self.next(), "pong2");
    }

    /// Waits for the close and returns its code.
    pub fn closed(&mut self) -> Option<u16> {
        match self.next_text() {
            Err(End::Closed(code)) => code,
            other => panic!("a close was expected, {other:?} came"),
        }
    }

    pub fn send_c2c(&mut self, id: &str, to: &str, payload: &Value) {
        self.send_text(&c2c(id, to, payload)).expect("connected");
    }

    pub fn ack(&mut self, id: &str) {
        let text = format!("CLIENT_ACK,C2C,{id},{}", self.did);
        self.send_text(&text).expect("connected");
    }

    pub fn ack_s2c(&mut self, id: &str) {
        let text = format!("CLIENT_ACK,S2C,{id},{}", self.did);
        self.send_text(&text).expect("connected");
    }

    /// Sends the message and waits for its receipt, which is all that comes.
    pub fn send_stored(&mut self, id: &str, to: &str, payload: &Value) -> Value {
        self.send_c2c(id, to, payload);
        let receipt = self.next();
        assert_eq!((&receipt["type"], &receipt["id"]), (&json!("C2C_SERVER_ACK"), &json!(id)));
        receipt
    }

    /// Closes properly.
    pub fn close(mut self) {
        // The peer may be gone already.
        let _ = self.socket.close(None);
        while self.socket.read().is_ok() {}
    }
}

fn code(frame: Option<CloseFrame>) -> Option<u16> {
    frame.map(|frame| u16::from(frame.code))
}

/// A `C2C` frame.
pub fn c2c(id: &str, to: &str, payload: &Value) -> String {
    json!({"id": id, "type": "C2C", "to": to, "payload": payload}).to_string()
}

/// The `n`th of the valid xids that tests use as client ids.
pub fn xid(n: u32) -> String {
    let mut id = [0u8; 12];
    id[..4].copy_from_slice(&1u32.to_be_bytes());
    id[8..].copy_from_slice(&n.to_be_bytes());
    String::from_utf8(MessageId(id).to_xid().to_vec()).expect("ASCII")
}

/// A socket with no protocol on it, for bytes that no library sends.
pub fn raw(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("the server listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a TCP socket");
    stream
}
