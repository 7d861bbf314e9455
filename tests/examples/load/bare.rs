//! The least that a server of this protocol can be: it welcomes, and holds the stream.

use std::path::Path;
use std::pin::Pin;

use anyhow::Result;
use secateur_proto::PROTOCOL;
use secateur_proto::v1::{self, coordinator_message::Kind, fleet_server};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

struct Holder;

#[tonic::async_trait]
impl fleet_server::Fleet for Holder {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorMessage, Status>> + Send>>;
    type DownloadStream = tokio_stream::Empty<Result<v1::Chunk, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let welcome = v1::Welcome { protocol: PROTOCOL, heartbeat_ms: 3_600_000, ..v1::Welcome::default() };
        let welcome = v1::CoordinatorMessage { kind: Some(Kind::Welcome(welcome)) };
        let silence = request.into_inner().filter_map(|_| None);
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(welcome)).chain(silence))))
    }

    async fn download(
        &self,
        _: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        Err(Status::unimplemented("nothing is held here"))
    }
}

/// Serves until it is killed; its address is written to `told`.
pub(crate) async fn hold(told: &Path) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    std::fs::write(
        told.with_extension("new"),
        serde_json::json!({ "fleet": address, "operator": address }).to_string(),
    )?;
    std::fs::rename(told.with_extension("new"), told)?;
    let service = fleet_server::FleetServer::new(Holder);
    Ok(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)).await?)
}
