//! Connections as they come in. One that does not greet is dropped before anything is built for it, and where no more can be
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

/// What a client of HTTP/2 says first (RFC 9113, section 3.4),
const GREETING: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// One that came in part is looked at again after this time.
const AGAIN: Duration = Duration::from_millis(50);
/// Connections that have not greeted yet, at most; others wait in the system's queue.
const WAITING: usize = 1024;
/// After a connection that could not be accepted, as where no more files may be open.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that have greeted.
pub(super) struct Incoming {
    listener: TcpListener,
    patience: Duration,
    waiting: JoinSet<io::Result<TcpStream>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, patience: PATIENCE, waiting: JoinSet::new(), pause: None }
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
                Poll::Ready(Ok((stream, _))) => drop(self.waiting.spawn(greeted(stream, self.patience))),
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

/// The connection once its greeting is there, which it keeps.
async fn greeted(stream: TcpStream, within: Duration) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    tokio::time::timeout(within, greeting(&stream)).await??;
    Ok(stream)
}

async fn greeting(stream: &TcpStream) -> io::Result<()> {
    let mut said = [0; GREETING.len()];
    loop {
        let length = stream.peek(&mut said).await?;
        match length {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length if said[..length] != GREETING[..length] => return Err(io::ErrorKind::InvalidData.into()),
            length if length == GREETING.len() => return Ok(()),
            _ => sleep(AGAIN).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn who_does_not_greet_is_dropped_and_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut incoming = Incoming { patience: Duration::from_secs(1), ..Incoming::new(listener) };
        let mut rude = Vec::new();
        for said in [&b""[..], b"P", b"GET / HTTP/1.1\r\n\r\n"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            rude.push(stream);
        }
        let mut polite = TcpStream::connect(address).await.unwrap();
        polite.write_all(&GREETING[..10]).await.unwrap();
        tokio::task::yield_now().await;
        polite.write_all(&GREETING[10..]).await.unwrap();
        let heard = incoming.next().await.unwrap().unwrap();
        assert_eq!(heard.peer_addr().unwrap(), polite.local_addr().unwrap());
        for mut stream in rude {
            let mut byte = [0];
            let end = tokio::select! {
                end = stream.read(&mut byte) => end,
                _ = incoming.next() => panic!("nobody else greeted"),
            };
            assert_eq!(end.unwrap_or(0), 0, "it was closed");
        }
    }
}
