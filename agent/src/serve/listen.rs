//! Connections of any kind, as many as may be. Where there are more, the one that was silent longest gives way, so that a
//! flood of connections keeps nobody out.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use secateur_common::caps;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// After a connection that could not be accepted, and for one that gives way.
const PAUSE: Duration = Duration::from_millis(100);

/// What is listened on.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection; it counts while it is open.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

/// What is known of a connection from outside.
struct Place {
    /// Counts up with whatever is heard on any connection.
    clock: Arc<AtomicU64>,
    heard: AtomicU64,
    closed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream))
            }
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Hands on connections until nobody takes them.
pub(super) async fn accept(listener: Listener, accepted: mpsc::Sender<io::Result<Connection>>) {
    let free = Arc::new(Semaphore::new(caps::SERVE_CONNECTIONS));
    let clock = Arc::default();
    let mut open = Vec::new();
    while !accepted.is_closed() {
        match listener.accept().await {
            Ok(stream) => {
                let Some(permit) = permit(&free, &mut open).await else { return };
                let place = Arc::new(Place::new(&clock));
                open.push(place.clone());
                if accepted.send(Ok(Connection { stream, place, _permit: permit })).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Room for one more of the `open` connections.
async fn permit(free: &Arc<Semaphore>, open: &mut Vec<Arc<Place>>) -> Option<OwnedSemaphorePermit> {
    open.retain(|place| Arc::strong_count(place) > 1);
    if let Ok(permit) = free.clone().try_acquire_owned() {
        return Some(permit);
    }
    loop {
        let silent = open.iter().filter(|place| !place.is_closed());
        if let Some(longest) = silent.min_by_key(|place| place.heard.load(Ordering::Relaxed)) {
            longest.close();
        }
        if let Ok(permit) = tokio::time::timeout(PAUSE, free.clone().acquire_owned()).await {
            return permit.ok();
        }
    }
}

impl Place {
    fn new(clock: &Arc<AtomicU64>) -> Self {
        let heard = AtomicU64::new(clock.fetch_add(1, Ordering::Relaxed));
        Self { clock: clock.clone(), heard, closed: AtomicBool::new(false), waker: Mutex::new(None) }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// Whether it is open still; if it is, `close` wakes the task.
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
        match self.is_closed() {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it gives way to another")),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.place.check(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            let now = self.place.clock.fetch_add(1, Ordering::Relaxed);
            self.place.heard.store(now, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
