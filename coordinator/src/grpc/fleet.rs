//! The agents' service: one session a device, and the bytes of its updates.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use secateur_common::{ByteCount, Cause, DeviceId, Digest, Generation, Report, VariantId, caps};
use secateur_proto::v1::{self, agent_message, coordinator_message};
use secateur_proto::{Message, PROTOCOL, WireError, labels_from_wire, variant_id};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{identity, status_of};
use crate::catalog::SEED;
use crate::inventory::Hello;
use crate::lines::Line;
use crate::rollout::{self, Directive};
use crate::shared::Shared;
use crate::updates::TOLERANCE;

/// A device must say hello within this time.
const HELLO: Duration = Duration::from_secs(10);
/// A session that is silent for this many heartbeats is closed.
const SILENT_BEATS: u32 = 3;
/// After a failed activation the same assignment is sent again no sooner than this.
const RETRY: Duration = Duration::from_secs(15);

/// Update bytes sent at once: small enough that a slow link shows progress and loses little to a cut.
const PIECE: usize = 4 * 1024;
const _: () = assert!(PIECE <= caps::CHUNK_BYTES);

/// Bytes that a message takes beside its own, about: HTTP/2's head, gRPC's, the fields around it.
const FRAMING: u64 = 9 + 5 + 10;

/// The day's bytes are spent.
fn spent() -> Status {
    Status::resource_exhausted("the day's bytes are spent: come back tomorrow")
}

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
        let (outgoing, queue) = mpsc::channel(caps::DEVICE_QUEUE);
        let session = Session {
            shared: self.shared.clone(),
            shutdown: self.shutdown.clone(),
            id,
            line: self.shared.lines.open(id),
            outgoing,
            sent: None,
            offered: None,
            limit: None,
            retry_at: None,
        };
        tokio::spawn(session.run(incoming));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
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
        let chunk = move |start: usize| {
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
fn variants(wire: &[Vec<u8>]) -> Result<Vec<VariantId>, WireError> {
    if wire.len() > caps::RUNGS {
        return Err(WireError::OverLimit("variants", caps::RUNGS));
    }
    wire.iter().map(|bytes| variant_id(bytes)).collect()
}

/// One device's stream.
struct Session {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    id: DeviceId,
    line: Line,
    outgoing: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
    /// The generation that was sent last on this stream.
    sent: Option<Generation>,
    /// The update that was offered last: its generation, and whether it is a delta.
    offered: Option<(Generation, bool)>,
    /// The cap that was told last on this stream.
    limit: Option<u64>,
    /// When to send it again after a failure.
    retry_at: Option<tokio::time::Instant>,
}

impl Session {
    async fn run(mut self, mut incoming: Streaming<v1::AgentMessage>) {
        match self.converse(&mut incoming).await {
            Ok(()) => {}
            Err(status) => {
                tracing::info!(id = %self.id, reason = status.message(), "session ends");
                let _ = self.outgoing.try_send(Err(status));
            }
        }
        self.shared.lines.close(self.id, &self.line);
    }

    async fn converse(&mut self, incoming: &mut Streaming<v1::AgentMessage>) -> Result<(), Status> {
        let beat = Duration::from_secs(self.shared.config.heartbeat_s);
        self.send(coordinator_message::Kind::Welcome(v1::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device_id: self.id.to_string(),
            heartbeat_ms: beat.as_millis() as u64,
        }))
        .await?;
        let mut heartbeat = tokio::time::interval(beat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = tokio::time::Instant::now();
        loop {
            self.direct().await?;
            let retry_at =
                self.retry_at.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                message = incoming.message() => match message? {
                    None => return Ok(()),
                    Some(message) => {
                        heard = tokio::time::Instant::now();
                        self.hear(message).await?;
                    }
                },
                () = self.line.wake.notified() => {
                    if !self.shared.lines.is_newest(self.id, &self.line) {
                        return Err(Status::aborted("the device dialled again; this is its older stream"));
                    }
                }
                () = tokio::time::sleep_until(retry_at) => (self.sent, self.retry_at) = (None, None),
                _ = heartbeat.tick() => {
                    if heard.elapsed() > beat * SILENT_BEATS {
                        return Err(Status::deadline_exceeded("the device is silent"));
                    }
                    self.send(coordinator_message::Kind::Heartbeat(v1::Heartbeat {})).await?;
                }
                () = self.shutdown.cancelled() => return Err(Status::unavailable("the coordinator stops")),
            }
        }
    }

    async fn hear(&mut self, message: v1::AgentMessage) -> Result<(), Status> {
        let bad = |error: WireError| Status::invalid_argument(error.to_string());
        match message.kind {
            Some(agent_message::Kind::Report(report)) => {
                let report = Report::try_from(&report).map_err(bad)?;
                let sequence = report.sequence;
                self.shared.report(self.id, report).await.map_err(status_of)?;
                self.send(coordinator_message::Kind::ReportAck(v1::ReportAck { sequence })).await
            }
            Some(agent_message::Kind::Outcome(outcome)) => self.outcome(outcome).await,
            Some(agent_message::Kind::Hello(_)) => Err(Status::invalid_argument("hello comes once")),
            Some(agent_message::Kind::Heartbeat(_)) | None => Ok(()), // unknown kinds are passed over
        }
    }

    async fn outcome(&mut self, outcome: v1::Outcome) -> Result<(), Status> {
        let bad = |error: WireError| Status::invalid_argument(error.to_string());
        let variant = variant_id(&outcome.variant).map_err(bad)?;
        let (generation, held) = (Generation(outcome.generation), variants(&outcome.variants).map_err(bad)?);
        if outcome.result == v1::outcome::Result::Activated as i32 {
            let bytes = ByteCount(outcome.update_bytes);
            // Without bytes the device held the variant already.
            let delta = self.offered == Some((generation, true));
            let shipped = (bytes.get() > 0).then_some((bytes, delta));
            let activated = self.shared.activated(self.id, (variant, generation), shipped, held);
            activated.await.map_err(status_of)
        } else {
            let line = format!("generation {generation} failed: {}", outcome.reason);
            tracing::warn!(id = %self.id, line, "an activation failed");
            self.retry_at = Some(
                tokio::time::Instant::now() + if outcome.base_unusable { Duration::ZERO } else { RETRY },
            );
            let failed = self.shared.failed(self.id, (generation, line), outcome.base_unusable, held);
            failed.await.map_err(status_of)
        }
    }

    /// Sends the device's assignment if it is not what was sent last.
    async fn direct(&mut self) -> Result<(), Status> {
        let planned = self.shared.state().assignment(self.id).map(|assignment| assignment.generation);
        let limit = self.shared.cap(self.id).unwrap_or(0);
        if planned.is_some() && self.limit != Some(limit) {
            let told = v1::Limits { download_bytes_per_day: limit };
            self.send(coordinator_message::Kind::Limits(told)).await?;
            self.limit = Some(limit);
        }
        if planned.is_none() || planned == self.sent {
            return Ok(());
        }
        let directive = rollout::directive(&self.shared, self.id).await.map_err(status_of)?;
        self.sent = planned;
        let update = directive.as_ref().and_then(|directive| directive.means.update.as_ref());
        self.offered = update.map(|update| (update.generation, update.base.is_some()));
        match directive {
            Some(directive) => self.send(coordinator_message::Kind::Assignment(assignment(directive))).await,
            None => Ok(()),
        }
    }

    async fn send(&self, kind: coordinator_message::Kind) -> Result<(), Status> {
        let cause = match kind {
            coordinator_message::Kind::ReportAck(_) => Cause::Report,
            _ => Cause::Control,
        };
        let message = v1::CoordinatorMessage { kind: Some(kind) };
        if !self.shared.charge(self.id, cause, message.encoded_len() as u64 + FRAMING) {
            return Err(spent());
        }
        self.outgoing.send(Ok(message)).await.map_err(|_| Status::cancelled("the device is gone"))
    }
}

fn assignment(directive: Directive) -> v1::Assignment {
    let update = directive.means.update.as_ref().map(|encoded| v1::Update {
        id: encoded.id.as_bytes().to_vec(),
        size: encoded.bytes.len() as u64,
        base: encoded.base.map(|base| base.0.as_bytes().to_vec()).unwrap_or_default(),
    });
    v1::Assignment {
        generation: directive.generation.0,
        model: directive.model.to_string(),
        variant: directive.variant.0.as_bytes().to_vec(),
        update,
        probe: Some(v1::Probe {
            seed: SEED,
            expected: directive.means.expected.clone(),
            tolerance: TOLERANCE,
        }),
    }
}
