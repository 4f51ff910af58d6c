//! A chat server in memory that speaks imboy through an independent WebSocket library, keeps what is
//! sent to users who are away until they come, and can be told to do one thing wrong.

use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
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
    /// The connection ends at the ping with this number.
    HangUpAtPing(u64),
    /// Everything that a user ever got comes again when the user does.
    DeliverAgain,
}

/// The stub; it ends when it is dropped, its connections when their clients end them.
pub struct Stub {
    pub address: SocketAddr,
    /// Its HTTP API, which can make groups.
    pub api: SocketAddr,
    shared: Arc<Shared>,
    accepters: Vec<JoinHandle<()>>,
}

struct Shared {
    secret: &'static [u8],
    fault: Fault,
    /// Messages so far.
    count: AtomicU64,
    /// CLIENT_ACKs so far.
    acknowledgements: AtomicU64,
    /// Pings so far.
    pings: AtomicU64,
    /// Connections so far.
    connections: AtomicU64,
    ended: AtomicBool,
    users: Mutex<HashMap<String, User>>,
    /// Members by group.
    groups: Mutex<HashMap<String, Vec<String>>>,
    /// A delivery that waits for its sender's next one, by sender.
    held: Mutex<Option<(String, Value)>>,
}

#[derive(Default)]
struct User {
    /// The last connection, and its number.
    connection: Option<(u64, TcpStream)>,
    /// Frames for when the user comes.
    waiting: Vec<String>,
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
            pings: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            users: Mutex::default(),
            groups: Mutex::default(),
            held: Mutex::default(),
        });
        let listener_api = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let api = listener_api.local_addr().expect("it is bound");
        let accepters = vec![
            accept(listener, shared.clone(), Shared::serve),
            accept(listener_api, shared.clone(), Shared::serve_api),
        ];
        Stub { address, api, shared, accepters }
    }

    /// CLIENT_ACKs that came.
    pub fn acknowledgements(&self) -> u64 {
        self.shared.acknowledgements.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the accepters, which then see that it has ended.
        drop((TcpStream::connect(self.address), TcpStream::connect(self.api)));
        for accepter in self.accepters.drain(..) {
            // A panic of the accepter has shown as a failed run.
            drop(accepter.join());
        }
    }
}

/// Serves each connection on a thread of its own.
fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    serve: fn(&Shared, TcpStream),
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if shared.ended.load(Ordering::SeqCst) {
                return;
            }
            let shared = shared.clone();
            let stream = stream.expect("descriptors suffice");
            std::thread::spawn(move || serve(&shared, stream));
        }
    })
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
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        self.came(&user, number, writer);
        while let Ok(message) = socket.read() {
            if let Message::Text(text) = message
                && !self.on_text(&user, &device, &text)
            {
                break;
            }
        }
        // The library has answered a close frame by now; ours ends the connection otherwise.
        let mut users = lock(&self.users);
        let connection = &mut users.entry(user).or_default().connection;
        // The user may have come again before this thread noticed the end.
        connection.take_if(|(last, _)| *last == number);
    }

    fn came(&self, user: &str, number: u64, writer: TcpStream) {
        let mut users = lock(&self.users);
        let user = users.entry(user.to_owned()).or_default();
        user.waiting.iter().for_each(|text| send(&writer, text));
        if self.fault != Fault::DeliverAgain {
            user.waiting.clear();
        }
        user.connection = Some((number, writer));
    }

    /// `POST /v1/groups` and `POST /v1/groups/{id}/members`, until the client has enough.
    fn serve_api(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                match line.trim_end() {
                    "" => break,
                    line => head.push(line.to_owned()),
                }
            }
            let value = |name: &str| {
                let lines = head.iter().filter_map(|line| line.split_once(": "));
                lines.into_iter().find_map(|(key, value)| (key == name).then(|| value.to_owned()))
            };
            let length = value("Content-Length").and_then(|length| length.parse().ok());
            let mut body = vec![0; length.expect("a length")];
            reader.read_exact(&mut body).expect("a body of that length");
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let known = value("Authorization").as_deref() == Some("Bearer the key");
            let status =
                if known { self.change_group(&head[0], &body) } else { "401 Unauthorized" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}");
            reader.get_mut().write_all(answer.as_bytes()).expect("it listens");
        }
    }

    fn change_group(&self, request: &str, body: &Value) -> &'static str {
        let names = |list: &Value| -> Vec<String> {
            let list = list.as_array().expect("a list").iter();
            list.map(|name| name.as_str().expect("a name").to_owned()).collect()
        };
        let path = request.strip_prefix("POST ").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
        let path = path.and_then(|path| path.strip_prefix("/v1/groups")).expect("a group's path");
        let mut groups = lock(&self.groups);
        if path.is_empty() {
            let mut members = vec![body["owner"].as_str().expect("an owner").to_owned()];
            members.extend(names(&body["members"]));
            groups.insert(body["id"].as_str().expect("an id").to_owned(), members);
            return "201 Created";
        }
        let group = path.strip_prefix('/').and_then(|path| path.strip_suffix("/members"));
        let members = groups.get_mut(group.expect("members")).expect("it was made before");
        let event = json!({
            "id": "9m4e2mr0ui3e8a215n4g", "type": "S2C", "from": "", "to": "",
            "payload": {"msg_type": "group_member_join"}, "server_ts": now_ms(),
        });
        let before = members.clone();
        members.extend(names(&body["users"]));
        drop(groups);
        before.iter().for_each(|member| self.send(member, &event.to_string()));
        "200 OK"
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
            let number = self.pings.fetch_add(1, Ordering::SeqCst);
            self.send(user, "pong2");
            return self.fault != Fault::HangUpAtPing(number);
        }
        let acknowledged = ["C2C", "C2G", "S2C"].iter().find_map(|kind| {
            text.strip_prefix("CLIENT_ACK,")?.strip_prefix(kind)?.strip_prefix(',')
        });
        if let Some(acknowledged) = acknowledged {
            assert_eq!(acknowledged.split_once(',').map(|(_, did)| did), Some(device));
            self.acknowledgements.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        let frame: Value = serde_json::from_str(text).expect("a client sends JSON");
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        match frame["type"].as_str() {
            Some("C2C") => self.on_message(user, &frame, number),
            Some("C2G") => self.on_group_message(user, &frame, number),
            other => panic!("{other:?} is no type"),
        }
    }

    /// The fault is that of the first receiver's delivery.
    fn on_group_message(&self, user: &str, frame: &Value, number: u64) -> bool {
        let (id, ts) = (&frame["id"], now_ms());
        let group = frame["to"].as_str().expect("a message has a receiver").to_owned();
        let members = lock(&self.groups)[&group].clone();
        let receipt = json!({"id": id, "type": "C2G_SERVER_ACK", "server_ts": ts});
        let delivery = json!({
            "id": id, "type": "C2G", "from": user, "to": group, "payload": frame["payload"],
            "created_at": ts, "server_ts": ts,
        });
        if self.fault != Fault::DropReceipt(number) {
            self.send(user, &receipt.to_string());
        }
        let text = delivery.to_string();
        for (place, to) in members.iter().filter(|member| *member != user).enumerate() {
            match self.fault {
                Fault::DropDelivery(n) if n == number && place == 0 => continue,
                Fault::Duplicate(n) if n == number && place == 0 => self.send(to, &text),
                Fault::Damage(n) if n == number && place == 0 => {
                    self.send(to, &text.replace(r#""payload":{"#, r#""payload":{"more":1,"#));
                    continue;
                }
                _ => {}
            }
            self.send(to, &text);
        }
        true
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
        let mut users = lock(&self.users);
        let user = users.entry(user.to_owned()).or_default();
        if let Some((_, stream)) = &user.connection {
            send(stream, text);
        }
        let again = self.fault == Fault::DeliverAgain && text.contains(r#""type":"C2C"}"#);
        if again || user.connection.is_none() {
            user.waiting.push(text.to_owned());
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
