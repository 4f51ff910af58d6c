//! Accepts the API's connections, not more than [`CONNECTIONS_MAX`] at a time, and ends those on
//! which nothing happens, or which send without ever being answered: the HTTP stack bounds neither.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Further ones wait in the kernel's accept queue. Together with the largest body it bounds what
/// the API may hold in memory.
pub const CONNECTIONS_MAX: usize = 256;
/// How long a connection may take.
const PATIENCE: Patience =
    Patience { byte: Duration::from_secs(60), answer: Duration::from_secs(120) };
/// After an accept that failed (descriptors ran out): until something may have changed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection may take.
#[derive(Clone, Copy)]
struct Patience {
    /// Between two bytes, in either direction.
    byte: Duration,
    /// Between two bytes of answers: a pause, and after it the slowest request.
    answer: Duration,
}

/// The API's listener.
pub struct Bounded {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    patience: Patience,
}

impl Bounded {
    pub fn new(listener: TcpListener) -> Bounded {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Bounded { listener, permits, patience: PATIENCE }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Watched;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Watched, SocketAddr) {
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    // Answers are one write; an error means that the peer is gone already.
                    let _gone = stream.set_nodelay(true);
                    return (Watched::new(stream, self.patience, permit), address);
                }
                Err(error) => {
                    tracing::warn!(%error, "the API cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
pub struct Watched {
    stream: TcpStream,
    patience: Patience,
    /// When bytes of an answer must have left.
    answer_by: Instant,
    /// Ends at `answer_by` or before it.
    over: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    _permit: OwnedSemaphorePermit,
}

impl Watched {
    fn new(stream: TcpStream, patience: Patience, permit: OwnedSemaphorePermit) -> Watched {
        let answer_by = Instant::now() + patience.answer;
        let over = Box::pin(sleep(patience.byte));
        Watched { stream, patience, answer_by, over, _permit: permit }
    }

    /// Passes on what the stream said, unless the time is over.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            let now = Instant::now();
            if now >= self.answer_by {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.over.as_mut().reset(self.answer_by.min(now + self.patience.byte));
            return polled;
        }
        match self.over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// The same for bytes of an answer.
    fn watch_answer<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.answer_by = Instant::now() + self.patience.answer;
        }
        self.watch(cx, polled)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watch(cx, polled)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch_answer(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch_answer(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    use axum::serve::Listener;

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(future)
    }

    async fn pair(patience: Patience) -> (Watched, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut bounded = Bounded { patience, ..Bounded::new(listener) };
        let address = bounded.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("it listens");
        (bounded.accept().await.0, client)
    }

    async fn read(server: &mut Watched) -> io::Result<usize> {
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        poll_fn(|cx| Pin::new(&mut *server).poll_read(cx, &mut byte)).await?;
        Ok(byte.filled().len())
    }

    #[test]
    fn a_connection_without_a_byte_is_ended() {
        block_on(async {
            let patience = Patience { byte: Duration::ZERO, ..PATIENCE };
            let (mut server, _client) = pair(patience).await;
            let error = read(&mut server).await.expect_err("nothing comes");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn bytes_alone_do_not_keep_a_connection() {
        block_on(async {
            let patience = Patience { answer: Duration::ZERO, ..PATIENCE };
            let (mut server, client) = pair(patience).await;
            client.writable().await.expect("connected");
            client.try_write(b"x").expect("room for a byte");
            let error = read(&mut server).await.expect_err("nothing was ever answered");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            // With time for an answer, the same byte arrives.
            let (mut server, client) = pair(PATIENCE).await;
            client.writable().await.expect("connected");
            client.try_write(b"x").expect("room for a byte");
            assert_eq!(read(&mut server).await.expect("a byte"), 1);
            let write = poll_fn(|cx| Pin::new(&mut server).poll_write(cx, b"y"));
            assert_eq!(write.await.expect("room for a byte"), 1);
        });
    }

    #[test]
    fn one_more_is_accepted_when_one_has_gone() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let bounded = Bounded::new(listener);
            let mut bounded = Bounded { permits: Arc::new(Semaphore::new(1)), ..bounded };
            let address = bounded.local_addr().expect("bound");
            let _one = TcpStream::connect(address).await.expect("it listens");
            let _two = TcpStream::connect(address).await.expect("the kernel takes it");
            let (first, _) = bounded.accept().await;
            {
                let mut second = std::pin::pin!(bounded.accept());
                tokio::select! {
                    biased;
                    _ = &mut second => panic!("there is no room"),
                    () = tokio::task::yield_now() => {}
                }
                drop(first);
                second.await;
            }
        });
    }
}
