//! Answers applications on the device by the Open Inference Protocol v2, over HTTP, gRPC and a Unix socket.
//!
//! What they ask stays on the device. A request runs wholly on the variant that it took; wire types stop in this folder.

mod grpc;
mod labels;
mod listen;
pub mod protocol;
mod rest;
mod served;
mod worker;

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use secateur_common::{Accuracy, ModelName, VariantId, caps};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;

use self::labels::Labels;
use self::listen::Listener;
use self::protocol::{Inference, Refused};
use self::served::{Current, Served};
use self::worker::Worker;
use crate::Config;
use crate::loaded::Loaded;

/// The server's name.
const SERVER: &str = "secateur-agent";
/// What runs the models.
const PLATFORM: &str = "secateur";
/// What is offered beyond the protocol's core.
const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// Everything that answers; it ends when this is dropped.
pub(crate) struct Serving {
    shared: Arc<Shared>,
    /// HTTP's and gRPC's, where they listen.
    #[cfg_attr(not(test), expect(dead_code, reason = "the ports that the tests were given"))]
    addresses: [Option<SocketAddr>; 2],
    _listeners: JoinSet<()>,
}

/// What all connections share.
struct Shared {
    current: Current,
    worker: Worker,
    labels: Mutex<Labels>,
    /// Bytes of bodies that may still be held.
    bodies: Arc<Semaphore>,
}

impl Serving {
    /// Listens where `config` says; none where it says nothing.
    ///
    /// # Errors
    /// Where an address or the socket cannot be had.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Option<Self>> {
        if config.serve.is_none() && config.serve_grpc.is_none() && config.serve_socket.is_none() {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            current: Current::default(),
            worker: Worker::start(Duration::from_micros(config.serve_delay_us))
                .context("cannot start the inference thread")?,
            labels: Mutex::default(),
            bodies: Arc::new(Semaphore::new(caps::SERVE_BODIES_BYTES)),
        });
        let mut listeners = JoinSet::new();
        let mut addresses = [None; 2];
        if let Some(address) = config.serve {
            let listener = listen(address).await?;
            addresses[0] = Some(listener.local_addr()?);
            listeners.spawn(rest::serve(Listener::Tcp(listener), shared.clone()));
        }
        if let Some(address) = config.serve_grpc {
            let listener = listen(address).await?;
            addresses[1] = Some(listener.local_addr()?);
            listeners.spawn(grpc::serve(Listener::Tcp(listener), shared.clone()));
        }
        if let Some(path) = &config.serve_socket {
            let listener = listen_on_socket(path)?;
            listeners.spawn(rest::serve(Listener::Unix(listener), shared.clone()));
        }
        Ok(Some(Self { shared, addresses, _listeners: listeners }))
    }

    /// Has `loaded` answer from now on; the one before ends with its last request.
    pub(crate) fn put(&self, model: &ModelName, variant: VariantId, loaded: Arc<Loaded>) {
        let served = Served::new(model, variant, loaded);
        tracing::info!(%model, version = served.version, "serves");
        self.shared.current.swap(served);
    }

    /// Labels told for answers of `variant` since the last time.
    pub(crate) fn labelled(&self, variant: VariantId) -> Accuracy {
        self.shared.labels().take(variant)
    }
}

impl Shared {
    fn labels(&self) -> MutexGuard<'_, Labels> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's share of what all may hold.
    fn hold(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Refused> {
        let bytes = u32::try_from(bytes).map_err(|_| Refused::TooLarge(caps::SERVE_BODY_BYTES))?;
        self.bodies.try_acquire_many(bytes).map_err(|_| Refused::Busy)
    }

    /// The outputs of a request by the variant that it took.
    async fn infer(&self, served: &Arc<Served>, inference: &mut Inference) -> Result<Vec<f32>, Refused> {
        let values = std::mem::take(&mut inference.values);
        let outputs = self.worker.run(served.clone(), inference.rows, values).await?;
        if !inference.id.is_empty() && inference.rows == 1 {
            self.labels().answered(&inference.id, served.variant, &outputs, caps::SERVE_LABELS);
        }
        Ok(outputs)
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "inference is open to other machines, without a password");
    }
    TcpListener::bind(address).await.with_context(|| format!("cannot serve on {address}"))
}

/// A socket that an agent before left behind gives way.
fn listen_on_socket(path: &Path) -> anyhow::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?;
    }
    UnixListener::bind(path).with_context(|| format!("cannot serve on {}", path.display()))
}

#[cfg(test)]
mod tests;
