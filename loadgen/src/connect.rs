//! Opening one connection: TCP, the WebSocket handshake, and what to tell a person when the server
//! does not want us.

use std::io;
use std::net::SocketAddr;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use ringpost_core::ws::handshake;

use crate::dialect::Upgrade;
use crate::payload::mix;

/// A server's answer to the upgrade is a few hundred bytes.
const READ_BYTES: usize = 4096;

/// Connects and upgrades; gives the stream and what came behind the handshake.
///
/// # Errors
/// A sentence for the user.
pub async fn open(
    server: SocketAddr,
    upgrade: &Upgrade,
    seed: u64,
) -> Result<(TcpStream, Vec<u8>), String> {
    let mut stream = TcpStream::connect_addr(server).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("cannot connect: {error}; is the server running there?")
        }
        _ => format!("cannot connect: {error}"),
    })?;
    stream.set_nodelay(true).map_err(|error| format!("cannot set TCP_NODELAY: {error}"))?;

    let random = [mix(seed), mix(mix(seed))].map(u64::to_ne_bytes);
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(random.as_flattened());
    let key = handshake::key(bytes);
    let headers: Vec<(&str, &str)> =
        upgrade.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut request = Vec::new();
    handshake::upgrade_request(&server.to_string(), &upgrade.target, &headers, &key, &mut request);
    let (result, _) = stream.write_all(request).await;
    result.map_err(|error| format!("cannot send the upgrade request: {error}"))?;

    let mut answer = Vec::new();
    loop {
        let (result, part) = stream.read(Vec::with_capacity(READ_BYTES)).await;
        let count = result.map_err(|error| format!("no answer to the upgrade request: {error}"))?;
        if count == 0 {
            return Err("the server ended the connection before it was a WebSocket".to_owned());
        }
        answer.extend_from_slice(&part);
        match handshake::parse_switching(&answer, &key) {
            Ok(None) => {}
            Ok(Some(len)) => return Ok((stream, answer.split_off(len))),
            Err(fault) => return Err(refusal(&fault, &answer)),
        }
    }
}

/// The fault, and the status line that the server sent.
fn refusal(fault: &handshake::AnswerFault, answer: &[u8]) -> String {
    let line = answer.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    format!("upgrade refused: {fault} ({})", String::from_utf8_lossy(line))
}
