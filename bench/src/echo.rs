//! Ceiling: what one thread pays for a TCP echo on io_uring when nothing is done with the bytes.
//! The runtime and its settings are the server's; the client is another thread.
//!
//! Measures the server thread's own CPU time, not the client's, so the client need not be fast.

use monoio::buf::IoBuf;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, Runtime, RuntimeBuilder};
use serde::Serialize;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Measured;
use crate::clock::ThreadClock;

/// The shape of an echo load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Bytes of a message.
    pub bytes: usize,
    /// Connections.
    pub connections: usize,
    /// Messages under way on each.
    pub in_flight: usize,
}

/// What was measured of one shape.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Echo {
    /// Of the load.
    #[serde(flatten)]
    pub shape: Shape,
    /// CPU time of the server's thread for each message echoed, µs.
    pub cpu_us: f64,
    /// Messages echoed per second.
    pub per_s: f64,
    /// CPU time of the server's thread as a share of the time that passed, 0 to 1.
    pub busy: f64,
}

/// The rows of `tcp-echo`.
#[derive(Debug, Serialize)]
pub struct Table {
    rows: Vec<Echo>,
}

/// Load before measuring begins.
const WARM_UP: Duration = Duration::from_millis(300);

/// Measures all shapes of `tcp-echo`.
///
/// # Errors
/// A sentence for the user.
pub fn table(seconds: Duration) -> Result<Table, String> {
    let mut rows = Vec::new();
    for bytes in [64, 300] {
        for connections in [50, 200] {
            for in_flight in [1, 8] {
                let shape = Shape { bytes, connections, in_flight };
                rows.push(measure(shape, seconds)?);
            }
        }
    }
    Ok(Table { rows })
}

/// Measures one shape.
///
/// # Errors
/// A sentence for the user.
pub fn measure(shape: Shape, seconds: Duration) -> Result<Echo, String> {
    run(shape, seconds).map_err(|error| format!("the echo failed: {error}"))
}

impl Measured for Table {
    fn text(&self) -> String {
        let mut text = String::from("bare TCP echo on io_uring (monoio), one server thread\n\n");
        text.push_str("bytes  connections  in flight   CPU µs/echo   echoes/s   server busy\n");
        for Echo { shape, cpu_us, per_s, busy } in &self.rows {
            let Shape { bytes, connections, in_flight } = shape;
            writeln!(
                text,
                "{bytes:>5}  {connections:>11}  {in_flight:>9}   {cpu_us:>11.2}   {per_s:>8.0}   {:>9.0} %",
                busy * 100.0
            )
            .expect("a string takes everything");
        }
        text
    }
}

/// What the server's thread shows while it runs.
struct Shown {
    bytes: AtomicU64,
    ended: AtomicBool,
}

fn run(shape: Shape, seconds: Duration) -> io::Result<Echo> {
    let shown = Arc::new(Shown { bytes: AtomicU64::new(0), ended: AtomicBool::new(false) });
    let (server, clock, address) = serve(shape.connections, shown.clone())?;
    let (client, connected) = load(shape, address, shown.clone())?;
    // A server that ended while connections still come would leave their clients waiting.
    connected.recv().map_err(|_| io::Error::other("the client could not connect"))?;
    thread::sleep(WARM_UP);
    let echoed = || shown.bytes.load(Ordering::Relaxed) / shape.bytes as u64;
    let (began, cpu, count) = (Instant::now(), clock.used()?, echoed());
    thread::sleep(seconds);
    let (wall, cpu, count) = (began.elapsed(), clock.used()? - cpu, echoed() - count);
    shown.ended.store(true, Ordering::Relaxed);
    for thread in [client, server] {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    if count == 0 {
        return Err(io::Error::other("nothing was echoed"));
    }
    Ok(Echo {
        shape,
        cpu_us: cpu.as_secs_f64() * 1e6 / count as f64,
        per_s: count as f64 / wall.as_secs_f64(),
        busy: cpu.as_secs_f64() / wall.as_secs_f64(),
    })
}

/// The same ring as a shard's, without the timer.
fn runtime() -> io::Result<Runtime<IoUringDriver>> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_single_issuer().setup_coop_taskrun();
    RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).build()
}

type Thread = JoinHandle<io::Result<()>>;

/// Starts the server; it ends when one connection more than these comes. On a busy machine the last
/// of these may be accepted long after the load was to end.
fn serve(connections: usize, shown: Arc<Shown>) -> io::Result<(Thread, ThreadClock, SocketAddr)> {
    let (tell, told) = mpsc::channel();
    let thread = thread::Builder::new().name("echo-server".to_owned()).spawn(move || {
        runtime()?.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let started = (ThreadClock::current(), listener.local_addr()?);
            tell.send(started).map_err(io::Error::other)?;
            let mut tasks = Vec::with_capacity(connections);
            for _ in 0..connections {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                tasks.push(monoio::spawn(echo(stream, shown.clone())));
            }
            let (last, _) = listener.accept().await?;
            for task in tasks {
                task.await;
            }
            drop(last);
            // Sockets are closed over the ring, which goes with the runtime: something that is
            // waited for behind them takes them along. Otherwise whoever is started later inherits
            // a thousand descriptors.
            TcpStream::connect_addr(listener.local_addr()?).await.map(drop)
        })
    })?;
    let (clock, address) = told.recv().map_err(|_| io::Error::other("the server did not start"))?;
    Ok((thread, clock, address))
}

async fn echo(mut stream: TcpStream, shown: Arc<Shown>) {
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let (result, read) = stream.read(buffer).await;
        let Ok(count @ 1..) = result else { return };
        let (result, read) = stream.write_all(read).await;
        if result.is_err() {
            return;
        }
        buffer = read;
        // One thread writes: no need for an atomic addition.
        shown.bytes.store(shown.bytes.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
    }
}

/// Starts the client: what comes back goes out again, until `ended`. It says when all its
/// connections circulate.
fn load(
    shape: Shape,
    address: SocketAddr,
    shown: Arc<Shown>,
) -> io::Result<(Thread, mpsc::Receiver<()>)> {
    let (tell, connected) = mpsc::channel();
    let thread = thread::Builder::new().name("echo-client".to_owned()).spawn(move || {
        runtime()?.block_on(async {
            let mut tasks = Vec::new();
            for _ in 0..shape.connections {
                let stream = TcpStream::connect_addr(address).await?;
                stream.set_nodelay(true)?;
                tasks.push(monoio::spawn(circulate(stream, shape, shown.clone())));
            }
            tell.send(()).map_err(io::Error::other)?;
            for task in tasks {
                task.await?;
            }
            // The server waits for this one to end.
            TcpStream::connect_addr(address).await.map(drop)
        })
    })?;
    Ok((thread, connected))
}

async fn circulate(mut stream: TcpStream, shape: Shape, shown: Arc<Shown>) -> io::Result<()> {
    let first = vec![0x5a; shape.bytes * shape.in_flight];
    let (result, mut buffer) = stream.write_all(first).await;
    result?;
    buffer.reserve(4096);
    // Bytes of a message that has not come back whole; only whole messages go out again.
    let mut part = 0;
    while !shown.ended.load(Ordering::Relaxed) {
        let (result, read) = stream.read(buffer).await;
        let count = part + result?;
        if count == part {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let whole = count - count % shape.bytes;
        part = count - whole;
        buffer = read;
        buffer.resize(buffer.len().max(whole), 0x5a);
        let (result, written) = stream.write_all(buffer.slice(..whole)).await;
        result?;
        buffer = written.into_inner();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_measured_and_ends() {
        let shape = Shape { bytes: 300, connections: 3, in_flight: 20 };
        let echo = run(shape, Duration::from_millis(50)).expect("loopback works");
        assert!(echo.cpu_us > 0.0 && echo.per_s > 0.0 && echo.busy > 0.0, "{echo:?}");
    }
}
