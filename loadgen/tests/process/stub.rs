//! A chat server in memory that speaks imboy through an independent WebSocket library, stores
//! nothing, and can be told to do one thing wrong.

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::{Message, Utf8Bytes};

/// What the stub does wrong, once: at the message with this number, counted over all users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// The delivery does not happen.
    DropDelivery(u64),
    /// The sender gets no receipt.
    DropReceipt(u64),
    /// The delivery happens twice.
    Duplicate(u64),
    /// The delivery happens after the sender's next one.
    Reorder(u64),
    /// One character of the text is another.
    Damage(u64),
    /// The receiver is the sender itself.
    Misroute(u64),
    /// The message is answered with error code 3.
    Refuse(u64),
    /// The sender's connection ends.
    HangUp(u64),
    /// Every login is answered with error code 706.
    RefuseLogin,
    /// Every message from this one on is left unanswered.
    StandStill(u64),
}

/// The stub; it ends when it is dropped, its connections when their clients end them.
pub struct Stub {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepter: Option<JoinHandle<()>>,
}

struct Shared {
    secret: &'static [u8],
    fault: Fault,
    /// Messages so far.
    count: AtomicU64,
    /// CLIENT_ACKs so far.
    acknowledgements: AtomicU64,
    ended: AtomicBool,
    users: Mutex<HashMap<String, TcpStream>>,
    /// A delivery that waits for its sender's next one, by sender.
    held: Mutex<Option<(String, Value)>>,
}

impl Stub {
    pub fn start(secret: &'static [u8], fault: Fault) -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            secret,
            fault,
            count: AtomicU64::new(0),
            acknowledgements: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            users: Mutex::default(),
            held: Mutex::default(),
        });
        let accepting = shared.clone();
        let accepter = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = accepting.clone();
                let stream = stream.expect("descriptors suffice");
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Stub { address, shared, accepter: Some(accepter) }
    }

    /// CLIENT_ACKs that came.
    pub fn acknowledgements(&self) -> u64 {
        self.shared.acknowledgements.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accepter, which then sees that it has ended.
        drop(TcpStream::connect(self.address));
        if let Some(accepter) = self.accepter.take() {
            // A panic of the accepter has shown as a failed run.
            drop(accepter.join());
        }
    }
}

impl Shared {
    /// One connection from handshake to end.
    fn serve(&self, stream: TcpStream) {
        stream.set_nodelay(true).expect("a TCP option");
        let writer = stream.try_clone().expect("descriptors suffice");
        let mut login = (String::new(), String::new());
        #[expect(clippy::result_large_err, reason = "the library's own type for a refusal")]
        let accepted = tungstenite::accept_hdr(stream, |request: &Request, response: Response| {
            let header = |name: &str| {
                let value = request.headers().get(name);
                value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            login = (header("authorization"), header("did"));
            Ok(response)
        });
        let Ok(mut socket) = accepted else { return };
        let (token, device) = login;
        let user = self.user(&token).filter(|_| !device.is_empty());
        let Some(user) = user.filter(|_| self.fault != Fault::RefuseLogin) else {
            let error = json!({"type": "error", "code": 706, "server_ts": now_ms()});
            send(&writer, &error.to_string());
            let close = CloseFrame { code: 4006.into(), reason: Utf8Bytes::default() };
            drop(socket.close(Some(close)));
            while socket.read().is_ok() {}
            return;
        };
        lock(&self.users).insert(user.clone(), writer);
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message
                && !self.on_text(&user, &device, &text)
            {
                break;
            }
        }
        // The library has answered a close frame by now; ours ends the connection otherwise.
        lock(&self.users).remove(&user);
    }

    fn user(&self, token: &str) -> Option<String> {
        let key = DecodingKey::from_secret(self.secret);
        let claims =
            jsonwebtoken::decode::<Value>(token, &key, &Validation::default()).ok()?.claims;
        claims["sub"].as_str().map(str::to_owned)
    }

    /// Whether the connection goes on.
    fn on_text(&self, user: &str, device: &str, text: &str) -> bool {
        if text == "ping" {
            self.send(user, "pong2");
            return true;
        }
        if let Some(acknowledged) = text.strip_prefix("CLIENT_ACK,C2C,") {
            assert_eq!(acknowledged.split_once(',').map(|(_, did)| did), Some(device));
            self.acknowledgements.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        let frame: Value = serde_json::from_str(text).expect("a client sends JSON");
        assert_eq!(frame["type"], "C2C");
        self.on_message(user, &frame, self.count.fetch_add(1, Ordering::SeqCst))
    }

    fn on_message(&self, user: &str, frame: &Value, number: u64) -> bool {
        let (id, ts) = (&frame["id"], now_ms());
        let receipt = json!({"id": id, "type": "C2C_SERVER_ACK", "server_ts": ts});
        let mut delivery = json!({
            "id": id, "type": "C2C", "from": user, "to": frame["to"], "payload": frame["payload"],
            "created_at": ts, "server_ts": ts,
        });
        let to = frame["to"].as_str().expect("a message has a receiver").to_owned();
        match self.fault {
            Fault::DropDelivery(n) if n == number => self.send(user, &receipt.to_string()),
            Fault::DropReceipt(n) if n == number => self.send(&to, &delivery.to_string()),
            Fault::Duplicate(n) if n == number => {
                self.send(user, &receipt.to_string());
                self.send(&to, &delivery.to_string());
                self.send(&to, &delivery.to_string());
            }
            Fault::Reorder(n) if n == number => {
                self.send(user, &receipt.to_string());
                *lock(&self.held) = Some((user.to_owned(), delivery));
            }
            Fault::Misroute(n) if n == number => {
                self.send(user, &receipt.to_string());
                self.send(user, &delivery.to_string());
            }
            Fault::Refuse(n) if n == number => {
                let payload = json!({"content": "no such user"});
                let error = json!({"type": "error", "code": 3, "id": id, "payload": payload,
                                   "server_ts": ts});
                self.send(user, &error.to_string());
            }
            Fault::HangUp(n) if n == number => return false,
            Fault::StandStill(n) if n <= number => {}
            fault => {
                if fault == Fault::Damage(number) {
                    let text = delivery["payload"]["text"].as_str().expect("text").to_owned();
                    delivery["payload"]["text"] = json!(format!("{}!", &text[..text.len() - 1]));
                }
                self.send(user, &receipt.to_string());
                self.send(&to, &delivery.to_string());
                let held = lock(&self.held).take_if(|(sender, _)| sender == user);
                if let Some((_, held)) = held {
                    self.send(&to, &held.to_string());
                }
            }
        }
        true
    }

    fn send(&self, user: &str, text: &str) {
        if let Some(stream) = lock(&self.users).get(user) {
            send(stream, text);
        }
    }
}

/// Writes one frame; a client that is gone is noticed by its reader.
fn send(mut stream: &TcpStream, text: &str) {
    let frame = Frame::message(text.to_owned(), OpCode::Data(Data::Text), true);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).expect("a vector takes everything");
    drop(stream.write_all(&bytes));
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("it is after 1970").as_millis() as u64
}

/// A panic elsewhere has shown already; what is behind the lock is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
