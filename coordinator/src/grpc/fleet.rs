//! The agents' service: one session a device, and the bytes of its updates.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secateur_common::{Cause, Digest, Generation, VariantId, caps};
use secateur_proto::v1::{self, agent_message};
use secateur_proto::{PROTOCOL, WireError, labels_from_wire, variant_id};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::session::{Conversation, Session, spent};
use super::{identity, status_of};
use crate::inventory::Hello;
use crate::shared::Shared;

/// A device must say hello within this time.
const HELLO: Duration = Duration::from_secs(10);

/// Update bytes sent at once: small enough that a slow link shows progress and loses little to a cut.
const PIECE: usize = 4 * 1024;
const _: () = assert!(PIECE <= caps::CHUNK_BYTES);

/// Bytes that a piece takes beside its own, about: HTTP/2's head, gRPC's, the fields around it.
const FRAMING: u64 = 9 + 5 + 10;

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Service {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Service {
    type SessionStream = Outgoing<v1::CoordinatorMessage>;
    type DownloadStream = Outgoing<v1::Chunk>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let id = identity::of(&request, &self.shared.config.join_token)?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(HELLO, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(v1::AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the first message must be hello"));
        };
        let told = read(&hello)?;
        self.shared.greet(id, told).await.map_err(status_of)?;
        tracing::info!(device = hello.name, %id, "connected");
        let session = Session::new(self.shared.clone(), self.shutdown.clone(), id);
        Ok(Response::new(Box::pin(Conversation::new(session, incoming))))
    }

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let id = identity::of(&request, &self.shared.config.join_token)?;
        let wanted = request.into_inner();
        let update = Digest::try_from(&wanted.update[..])
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let unknown =
            || Status::not_found("this update is not assigned to this device now: wait for its assignment");
        let encoded = self.shared.found.update(update).ok_or_else(unknown)?;
        let assigned = {
            let state = self.shared.state();
            state.assignment(id).is_some_and(|assignment| {
                assignment.variant == Some(encoded.target) && assignment.generation == encoded.generation
            })
        };
        if !assigned {
            return Err(unknown());
        }
        let size = encoded.bytes.len();
        let offset = usize::try_from(wanted.offset).ok().filter(|&offset| offset <= size);
        let offset = offset.ok_or_else(|| Status::out_of_range(format!("the update has {size} bytes")))?;
        let end = match wanted.limit {
            0 => size,
            limit => size.min(offset.saturating_add(usize::try_from(limit).unwrap_or(usize::MAX))),
        };
        let shared = self.shared.clone();
        let number = shared.lines.download(id);
        let chunk = move |start: usize| {
            if !shared.lines.is_newest_download(id, number) {
                return Err(Status::aborted("the device asked again; this is its older download"));
            }
            let data = encoded.bytes.slice(start..(start + PIECE).min(end));
            if !shared.charge(id, Cause::Update, data.len() as u64 + FRAMING) {
                return Err(spent());
            }
            Ok(v1::Chunk { offset: start as u64, data })
        };
        let chunks = tokio_stream::iter((offset..end).step_by(PIECE)).map(chunk);
        Ok(Response::new(Box::pin(chunks)))
    }
}

/// What a hello says.
fn read(hello: &v1::Hello) -> Result<Hello, Status> {
    if hello.protocol != PROTOCOL {
        let message = format!(
            "this coordinator speaks protocol {PROTOCOL}, the agent {} ({}): run versions that match",
            hello.protocol, hello.version
        );
        return Err(Status::failed_precondition(message));
    }
    let bad = |error: WireError| Status::invalid_argument(error.to_string());
    Ok(Hello {
        name: hello.name.parse().map_err(|error: secateur_common::ParseError| bad(error.into()))?,
        labels: labels_from_wire(&hello.labels).map_err(bad)?,
        held: variants(&hello.variants).map_err(bad)?,
        active: match &hello.active {
            None => None,
            Some(holding) => {
                Some((variant_id(&holding.variant).map_err(bad)?, Generation(holding.generation)))
            }
        },
        accepted: Generation(hello.generation),
    })
}

/// Variants that a device says it holds.
pub(super) fn variants(wire: &[Vec<u8>]) -> Result<Vec<VariantId>, WireError> {
    if wire.len() > caps::RUNGS {
        return Err(WireError::OverLimit("variants", caps::RUNGS));
    }
    wire.iter().map(|bytes| variant_id(bytes)).collect()
}
