//! Opening one connection: TCP, the WebSocket handshake, and what to tell a person when the server
//! does not want us. And where connections come from, when one address has not enough ports.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use monoio::net::TcpStream;
use ringpost_core::ws::handshake;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::dialect::Upgrade;
use crate::payload::mix;
use crate::sys;

/// A server's answer to the upgrade is a few hundred bytes.
const READ_BYTES: usize = 4096;

/// Connections from one address to one server, at most: Linux has 28,232 ports for them by default
/// (`net.ipv4.ip_local_port_range`), some of which others use.
pub const PER_SOURCE: u32 = 25_000;

/// Where connections go to and come from.
#[derive(Clone, Debug)]
pub struct Route {
    server: SocketAddr,
    /// None: the system chooses.
    sources: Vec<IpAddr>,
}

impl Route {
    /// For `connections` at the same time, from `sources` where the user has named some.
    ///
    /// # Errors
    /// A sentence for the user when there are not enough ports.
    pub fn new(server: SocketAddr, sources: &[IpAddr], connections: u32) -> Result<Route, String> {
        let wanted = connections.div_ceil(PER_SOURCE).max(1);
        let mut sources = sources.to_vec();
        if sources.is_empty()
            && wanted > 1
            && matches!(server.ip(), IpAddr::V4(ip) if ip.is_loopback())
        {
            // All of 127.0.0.0/8 is this machine.
            let nth = |n| IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + n));
            sources = (0..wanted).map(nth).collect();
        }
        if (sources.len().max(1) as u32) < wanted {
            return Err(format!(
                "{connections} connections need {wanted} source addresses, of {PER_SOURCE} ports \
                 each; name them with --source"
            ));
        }
        Ok(Route { server, sources })
    }

    /// Where it goes to.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Addresses that connections come from, if not the system's choice.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The address of connection `index`.
    fn source(&self, index: u32) -> Option<IpAddr> {
        let count = self.sources.len().max(1);
        self.sources.get(index as usize % count).copied()
    }

    /// A TCP connection, in non-blocking mode.
    async fn dial(&self, index: u32) -> io::Result<TcpStream> {
        let domain = Domain::for_address(self.server);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = self.source(index) {
            // The port is chosen at connect, where the pair of addresses must be unique, and not at
            // bind, where the port alone would have to be.
            sys::bind_without_port(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable(false).await?;
        match SockRef::from(&sys::descriptor(&stream)).take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

/// A WebSocket that is open.
pub struct Opened {
    /// In non-blocking mode.
    pub stream: TcpStream,
    /// What came behind the handshake.
    pub rest: Vec<u8>,
    /// From the first packet to the TCP connection.
    pub tcp: Duration,
    /// From the first packet to the server's answer to the upgrade.
    pub upgraded: Duration,
}

/// Connects and upgrades.
///
/// # Errors
/// A sentence for the user.
pub async fn open(
    route: &Route,
    index: u32,
    upgrade: &Upgrade,
    seed: u64,
) -> Result<Opened, String> {
    let began = std::time::Instant::now();
    let stream = route.dial(index).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("cannot connect: {error}; is the server running there?")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("cannot connect: {error}: no port is free; name more addresses with --source")
        }
        _ => format!("cannot connect: {error}"),
    })?;
    let tcp = began.elapsed();

    let random = [mix(seed), mix(mix(seed))].map(u64::to_ne_bytes);
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(random.as_flattened());
    let key = handshake::key(bytes);
    let headers: Vec<(&str, &str)> =
        upgrade.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut request = Vec::new();
    let host = route.server.to_string();
    handshake::upgrade_request(&host, &upgrade.target, &headers, &key, &mut request);
    let sent = send_all(&stream, &request).await;
    sent.map_err(|error| format!("cannot send the upgrade request: {error}"))?;

    let mut answer = Vec::new();
    loop {
        let received = receive(&stream, &mut answer, READ_BYTES).await;
        let count =
            received.map_err(|error| format!("no answer to the upgrade request: {error}"))?;
        if count == 0 {
            return Err("the server ended the connection before it was a WebSocket".to_owned());
        }
        match handshake::parse_switching(&answer, &key) {
            Ok(None) => {}
            Ok(Some(len)) => {
                let rest = answer.split_off(len);
                return Ok(Opened { stream, rest, tcp, upgraded: began.elapsed() });
            }
            Err(fault) => return Err(refusal(&fault, &answer)),
        }
    }
}

/// Sends all of it on a socket in non-blocking mode.
///
/// # Errors
/// Of the connection.
pub async fn send_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match SockRef::from(&sys::descriptor(stream)).send(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                stream.writable(false).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for bytes on a socket in non-blocking mode and appends at most `room` of them; 0: the end.
///
/// # Errors
/// Of the connection.
pub async fn receive(stream: &TcpStream, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
    loop {
        // Readiness first: no buffer is held while nothing comes.
        stream.readable(false).await?;
        let kept = buffer.len();
        buffer.resize(kept + room, 0);
        let result = (&*SockRef::from(&sys::descriptor(stream))).read(&mut buffer[kept..]);
        buffer.truncate(kept + result.as_ref().map_or(0, |count| *count));
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// The fault, and the status line that the server sent.
fn refusal(fault: &handshake::AnswerFault, answer: &[u8]) -> String {
    let line = answer.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    format!("upgrade refused: {fault} ({})", String::from_utf8_lossy(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_spread_when_one_address_has_not_enough_ports() {
        let server = SocketAddr::from(([127, 0, 0, 1], 7070));
        let route = |sources: &[IpAddr], count| Route::new(server, sources, count);
        let few = route(&[], PER_SOURCE).expect("one address will do");
        assert_eq!((few.sources(), few.source(7)), (0, None), "the system's choice");
        let many = route(&[], 2 * PER_SOURCE + 1).expect("loopback has many addresses");
        let ips = [1, 2, 3, 1].map(|n| Some(IpAddr::from([127, 0, 0, n])));
        assert_eq!([0, 1, 2, 3].map(|index| many.source(index)), ips);
        let own = IpAddr::from([127, 0, 0, 9]);
        assert_eq!(route(&[own], 5).expect("enough").source(1), Some(own));
        let error = route(&[own], PER_SOURCE + 1).expect_err("too many for one");
        assert!(error.contains("--source"), "{error}");
        let remote = SocketAddr::from(([192, 0, 2, 1], 7070));
        assert!(Route::new(remote, &[], PER_SOURCE + 1).is_err());
    }
}
