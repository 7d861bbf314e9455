//! What is heard and answered over gRPC. Wire types live here and nowhere else in this crate.

mod fleet;
mod identity;
mod incoming;
mod operator;
mod rollouts;
mod session;
mod view;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use secateur_common::caps;
use secateur_proto::v1;
use secateur_proto::v1::fleet_server::FleetServer;
use secateur_proto::v1::operator_client::OperatorClient;
use secateur_proto::v1::operator_server::OperatorServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Status};

use self::incoming::Incoming;
use crate::draft::Draft;
use crate::shared::{Clock, Shared};
use crate::store::{Redb, Store};
use crate::{Config, CoordinatorError, pruning, staging, writer};

/// A coordinator that serves.
#[derive(Debug)]
pub struct Running {
    /// Where agents dial.
    pub fleet: SocketAddr,
    /// Where operators dial.
    pub operator: SocketAddr,
    tasks: Vec<JoinHandle<Result<(), CoordinatorError>>>,
    /// Cancelled when the store is closed.
    closed: CancellationToken,
}

impl Running {
    /// Returns when the coordinator has stopped and its store is closed.
    ///
    /// # Errors
    /// What stopped it, if it was not told to.
    pub async fn wait(self) -> Result<(), CoordinatorError> {
        for task in self.tasks {
            task.await.map_err(|error| CoordinatorError::Server(error.to_string()))??;
        }
        self.closed.cancelled().await;
        Ok(())
    }
}

/// Opens the store, listens, and serves until `shutdown`. The addresses are written to `addresses.json` in the data
/// folder, so that port 0 can be used.
///
/// # Errors
/// Where the store cannot be opened or an address not be listened on.
pub async fn start(config: Config, shutdown: CancellationToken) -> Result<Running, CoordinatorError> {
    start_by(Arc::new(crate::shared::unix_s), config, shutdown).await
}

/// Starts by a given clock; otherwise as [`start`].
///
/// # Errors
/// As there.
pub async fn start_by(
    clock: Clock,
    config: Config,
    shutdown: CancellationToken,
) -> Result<Running, CoordinatorError> {
    let data = config.data.clone();
    let write = |path: std::path::PathBuf| move |source| CoordinatorError::Write { path, source };
    std::fs::create_dir_all(&data).map_err(write(data.clone()))?;
    let store: Arc<dyn Store> = Arc::new(Redb::open(&data.join("coordinator.redb"))?);
    let (fleet, operator) = (listen(config.fleet).await?, listen(config.operator).await?);
    let closed = CancellationToken::new();
    let (shared, queue) = Shared::load(clock, config, store, closed.clone().drop_guard())?;
    let shared = Arc::new(shared);
    tokio::spawn(writer::run(Arc::downgrade(&shared), queue));
    let (fleet_address, fleet_stream) = fleet;
    let (operator_address, operator_stream) = operator;

    let fleet_service = FleetServer::new(fleet::Service::new(shared.clone(), shutdown.clone()))
        .max_decoding_message_size(caps::DEVICE_MESSAGE_BYTES);
    let operator_service = OperatorServer::new(operator::Service::new(shared.clone()))
        .max_decoding_message_size(caps::MESSAGE_BYTES)
        .max_encoding_message_size(64 * caps::MESSAGE_BYTES);
    let tasks = vec![
        serve(fleet_server().add_service(fleet_service), fleet_stream, shutdown.clone()),
        serve(server().add_service(operator_service), operator_stream, shutdown.clone()),
        tokio::spawn({
            let (shared, shutdown) = (shared.clone(), shutdown.clone());
            async move {
                // What was stored before a restart is planned anew.
                let all = |draft: &mut Draft<'_>| {
                    draft.all_due();
                    Ok(())
                };
                shared.orders.change(all).await?;
                pruning::run(shared, shutdown).await;
                Ok(())
            }
        }),
        tokio::spawn({
            let (shared, shutdown) = (shared.clone(), shutdown.clone());
            async move {
                staging::run(shared, shutdown).await;
                Ok(())
            }
        }),
    ];
    let told = serde_json::json!({ "fleet": fleet_address, "operator": operator_address }).to_string();
    let (temporary, path) = (data.join("addresses.json.new"), data.join("addresses.json"));
    std::fs::write(&temporary, told).map_err(write(temporary.clone()))?;
    std::fs::rename(&temporary, &path).map_err(write(path.clone()))?;
    Ok(Running { fleet: fleet_address, operator: operator_address, tasks, closed })
}

async fn listen(address: SocketAddr) -> Result<(SocketAddr, Incoming), CoordinatorError> {
    let failed = |source| CoordinatorError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, Incoming::new(listener)))
}

/// Lines that say nothing are asked whether they stand; a session's own heartbeats come sooner.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(600)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

/// What one device may hold here is bounded, as there are many.
fn fleet_server() -> Server {
    server()
        .initial_stream_window_size(caps::DEVICE_MESSAGE_BYTES as u32)
        .initial_connection_window_size(2 * caps::DEVICE_MESSAGE_BYTES as u32)
        .max_concurrent_streams(caps::DEVICE_CALLS)
}

fn serve(
    router: tonic::transport::server::Router,
    stream: Incoming,
    shutdown: CancellationToken,
) -> JoinHandle<Result<(), CoordinatorError>> {
    tokio::spawn(async move {
        let until = shutdown.clone().cancelled_owned();
        let served = router.serve_with_incoming_shutdown(stream, until);
        // Open streams are told to end; one that does not within the grace time is cut.
        let grace = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            result = served => result.map_err(|error| CoordinatorError::Server(error.to_string())),
            () = grace => Ok(()),
        }
    })
}

/// How long open streams may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// Asks the coordinator of `config` on this machine whether it serves.
///
/// # Errors
/// Where it does not answer.
pub(crate) async fn health(config: &Config) -> Result<(), CoordinatorError> {
    let mut address = config.operator;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let down = |error: &dyn std::fmt::Display| {
        CoordinatorError::Server(format!("the coordinator at {address} does not answer: {error}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| down(&error))?;
    let endpoint = endpoint.connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(2));
    let channel = endpoint.connect().await.map_err(|error| down(&error))?;
    let answer = OperatorClient::new(channel).status(v1::StatusRequest {}).await;
    answer.map(drop).map_err(|status| down(&status.message()))
}

/// A failure as a peer is told of it.
fn status_of(error: CoordinatorError) -> Status {
    let code = match &error {
        CoordinatorError::Bad { .. } => Code::InvalidArgument,
        CoordinatorError::NotFound(_) => Code::NotFound,
        CoordinatorError::Exists(_) => Code::AlreadyExists,
        CoordinatorError::Refused(_) => Code::FailedPrecondition,
        _ => Code::Internal,
    };
    if code == Code::Internal {
        tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
    }
    Status::new(code, error.to_string())
}
