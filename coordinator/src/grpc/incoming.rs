//! Connections as they come in. One that says nothing is dropped before anything is built for it, and where no more can be
//! accepted those that are open go on.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

/// A connection must say something within this time.
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Connections that have said nothing yet, at most; others wait in the system's queue.
const WAITING: usize = 1024;
/// After a connection that could not be accepted, as where no more files may be open.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that have said something.
pub(super) struct Incoming {
    listener: TcpListener,
    first_word: Duration,
    waiting: JoinSet<io::Result<TcpStream>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, first_word: FIRST_WORD, waiting: JoinSet::new(), pause: None }
    }

    /// Accepts what there is and room for.
    fn accept(&mut self, context: &mut Context<'_>) {
        while self.waiting.len() < WAITING {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    return;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Pending => return,
                Poll::Ready(Ok((stream, _))) => drop(self.waiting.spawn(spoken(stream, self.first_word))),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<TcpStream>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            this.accept(context);
            match this.waiting.poll_join_next(context) {
                Poll::Ready(Some(Ok(Ok(stream)))) => return Poll::Ready(Some(Ok(stream))),
                Poll::Ready(Some(_)) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The connection once its first byte is there, which it keeps.
async fn spoken(stream: TcpStream, within: Duration) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    match tokio::time::timeout(within, stream.peek(&mut [0])).await {
        Ok(Ok(1)) => Ok(stream),
        Ok(Ok(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
        Ok(Err(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_is_dropped_and_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming { first_word: Duration::from_secs(1), ..Incoming::new(listener) };
        let mut mute = TcpStream::connect(address).await.unwrap();
        let mut speaker = TcpStream::connect(address).await.unwrap();
        speaker.write_all(b"P").await.unwrap();
        let heard = incoming.next().await.unwrap().unwrap();
        assert_eq!(heard.peer_addr().unwrap(), speaker.local_addr().unwrap());
        let mut byte = [0];
        let end = tokio::select! {
            end = mute.read(&mut byte) => end,
            _ = incoming.next() => panic!("nobody else spoke"),
        };
        assert_eq!(end.unwrap_or(0), 0, "it was closed");
    }
}
