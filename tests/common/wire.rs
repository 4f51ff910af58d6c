//! Upgrade requests and WebSocket frames by hand, for what no library sends: many connections
//! without a buffer each, extensions, broken frames, headers of a proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::DEADLINE;

pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame as it came.
#[derive(Debug)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

/// A connected socket with deadlines.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("a TCP socket");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a TCP socket");
    stream
}

/// An upgrade request for this target, with these header lines more, each ended by CRLF.
pub fn upgrade_request(target: &str, more: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
}

/// Reads the head of an answer, with the empty line behind it.
pub fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

/// Sends an upgrade request and returns the head of what is answered.
pub fn upgrade(stream: &mut TcpStream, target: &str, more: &str) -> String {
    stream.write_all(upgrade_request(target, more).as_bytes()).expect("connected");
    read_head(stream).expect("an answer")
}

/// A client's frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 8, 9, 10];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The server's next frame.
pub fn read_frame(stream: &mut TcpStream) -> io::Result<Frame> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    let len = match head[1] {
        126 => {
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            u16::from_be_bytes(len).into()
        }
        127 => {
            let mut len = [0; 8];
            stream.read_exact(&mut len)?;
            u64::from_be_bytes(len) as usize
        }
        len => {
            assert!(len < 126, "a server does not mask");
            len.into()
        }
    };
    let mut payload = vec![0; len];
    stream.read_exact(&mut payload)?;
    Ok(Frame { first: head[0], payload })
}

/// Reads frames up to the server's close frame and returns its code.
pub fn closed(stream: &mut TcpStream) -> u16 {
    loop {
        let frame = read_frame(stream).expect("a close frame comes first");
        if frame.first == FIN | CLOSE {
            return u16::from_be_bytes(frame.payload[..2].try_into().expect("a code"));
        }
    }
}

/// A header of the PROXY protocol, version 2, for this client.
pub fn proxy_header(client: [u8; 4]) -> Vec<u8> {
    let body = [&client[..], &[10, 0, 0, 1, 0, 1, 0, 2]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c"[..], &body].concat()
}
