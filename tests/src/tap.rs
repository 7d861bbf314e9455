//! A line that counts: a proxy that passes bytes on and tells the HTTP/2 frames that they are, head included, by direction.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Of HTTP/2: the head of a frame, and what a client says before its first.
const HEAD: usize = 9;
const PREFACE: usize = 24;

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the agent.
    Up,
    /// From the coordinator.
    Down,
}

/// A frame that was passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Which way.
    pub way: Way,
    /// HTTP/2's number of its kind; 0 is data.
    pub kind: u8,
    /// Its bytes, head included.
    pub bytes: usize,
}

/// What was passed on, in order.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<Vec<Frame>>>);

impl Tap {
    /// Listens, and passes on what comes to `target`; tells where.
    ///
    /// # Errors
    /// Where no address is free.
    pub async fn open(target: SocketAddr) -> Result<(Self, SocketAddr)> {
        let (tap, listener) = (Self::default(), TcpListener::bind("127.0.0.1:0").await?);
        let address = listener.local_addr()?;
        let tapped = tap.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let ((from_agent, to_agent), (from_cloud, to_cloud)) = (near.into_split(), far.into_split());
                tokio::spawn(tapped.clone().pass(Way::Up, from_agent, to_cloud));
                tokio::spawn(tapped.clone().pass(Way::Down, from_cloud, to_agent));
            }
        });
        Ok((tap, address))
    }

    /// All frames so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn pass(self, way: Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut waiting = vec![0; if way == Way::Up { PREFACE } else { 0 }];
        if from.read_exact(&mut waiting).await.is_err() || to.write_all(&waiting).await.is_err() {
            return;
        }
        waiting.clear();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            waiting.extend_from_slice(&buffer[..count]);
            self.note(way, &mut waiting);
            if to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    /// Notes the frames that are whole, and leaves the rest.
    fn note(&self, way: Way, waiting: &mut Vec<u8>) {
        while let [a, b, c, kind, ..] = waiting[..] {
            let bytes = HEAD + u32::from_be_bytes([0, a, b, c]) as usize;
            if waiting.len() < bytes {
                return;
            }
            waiting.drain(..bytes);
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Frame { way, kind, bytes });
        }
    }
}
