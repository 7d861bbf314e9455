//! The line to the coordinator: gRPC, dialled from here. Wire types stop in this folder.

mod counted;

use std::collections::BTreeSet;
use std::time::Duration;

use secateur_common::{ByteCount, Digest, Generation, Report, VariantId, caps};
use secateur_proto::v1::{self, agent_message, coordinator_message, fleet_client::FleetClient};
use secateur_proto::{
    DEVICE_KEY_METADATA, JOIN_TOKEN_METADATA, Message, PROTOCOL, WireError, labels_to_wire, variant_id,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use self::counted::Connector;
use crate::Config;
use crate::core::pulse::Pulse;
use crate::core::{Held, UpdateRef, Wanted};

/// A session with the coordinator.
pub(crate) struct Link {
    client: FleetClient<Channel>,
    incoming: Streaming<v1::CoordinatorMessage>,
    outgoing: mpsc::Sender<v1::AgentMessage>,
    pass: Pass,
    socket: Connector,
    pub(crate) pulse: Pulse,
    /// Within what time to dial again where the line breaks.
    pub(crate) spread: Duration,
}

/// What each call carries: the device's credential and the fleet's token.
#[derive(Clone)]
struct Pass {
    credential: Vec<u8>,
    token: String,
}

/// What the coordinator says. An acknowledgement tells its bytes too.
pub(crate) enum Heard {
    Wanted(Box<Assignment>),
    Acknowledged(u64, u64),
    /// The most that may be received in a day, and whether every measurement is wanted.
    Limits {
        cap: Option<u64>,
        watched: bool,
    },
    Nothing,
}

/// A wanted variant, and how to test it before it comes into force.
pub(crate) struct Assignment {
    pub(crate) wanted: Wanted,
    pub(crate) probe: Option<Probe>,
}

/// The outputs that the variant gives on a known input.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) seed: u64,
    pub(crate) expected: Vec<f32>,
    pub(crate) tolerance: f32,
}

/// Why the line broke.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("cannot reach the coordinator")]
    Transport(#[from] tonic::transport::Error),
    #[error("the coordinator refuses: {}", .0.message())]
    Refused(Box<Status>),
    #[error("cannot understand the coordinator")]
    Wire(#[from] WireError),
    #[error("the coordinator does not answer")]
    Silent,
    #[error("the coordinator ended the session")]
    Ended,
    #[error("the coordinator speaks protocol {theirs}, this program {ours}: update the older of the two")]
    Protocol { theirs: u32, ours: u32 },
    #[error("a credential or token holds what cannot be sent")]
    Credential,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Bytes of a message of the session beside its own: HTTP/2's head, gRPC's, the field that holds it.
const FRAMING: u64 = 9 + 5 + 2;
/// The longest that dialling takes, that the coordinator takes to answer a hello or a request, and that a message waits to be
/// taken up by the line.
const AT_MOST: Duration = Duration::from_secs(30);

impl Link {
    /// Dials and says hello.
    pub(crate) async fn open(config: &Config, credential: Vec<u8>, held: &Held) -> Result<Self, LinkError> {
        let opened = tokio::time::timeout(AT_MOST, Self::greet(config, credential, held));
        opened.await.map_err(|_| LinkError::Silent)?
    }

    async fn greet(config: &Config, credential: Vec<u8>, held: &Held) -> Result<Self, LinkError> {
        let socket = Connector::default();
        let channel = Endpoint::from_shared(config.coordinator.clone())?
            .connect_timeout(AT_MOST)
            .connect_with_connector(socket.clone())
            .await?;
        let mut client = FleetClient::new(channel).max_decoding_message_size(caps::MESSAGE_BYTES);
        let pass = Pass { credential, token: config.join_token.clone() };
        let (outgoing, messages) = mpsc::channel(caps::DEVICE_QUEUE);
        let hello = v1::Hello {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.to_string(),
            labels: labels_to_wire(&config.labels),
            active: held.active.as_ref().map(|active| v1::Holding {
                model: active.model.to_string(),
                variant: active.variant.0.as_bytes().to_vec(),
                generation: active.generation.0,
            }),
            variants: variants(&held.variants),
            generation: held.accepted.0,
        };
        send(&outgoing, agent_message::Kind::Hello(hello)).await?;
        let mut incoming = client.session(pass.on(ReceiverStream::new(messages))?).await?.into_inner();
        match incoming.message().await?.and_then(|message| message.kind) {
            Some(coordinator_message::Kind::Welcome(welcome)) if welcome.protocol == PROTOCOL => {
                let pulse = Pulse::new(welcome.heartbeat_ms / 1000);
                let spread = Duration::from_millis(welcome.spread_ms);
                Ok(Self { client, incoming, outgoing, pass, socket, pulse, spread })
            }
            Some(coordinator_message::Kind::Welcome(welcome)) => {
                Err(LinkError::Protocol { theirs: welcome.protocol, ours: PROTOCOL })
            }
            _ => Err(WireError::Missing("welcome").into()),
        }
    }

    /// Bytes received over this line.
    pub(crate) fn received(&self) -> u64 {
        self.socket.received()
    }

    /// The next thing the coordinator says.
    pub(crate) async fn hear(&mut self) -> Result<Heard, LinkError> {
        let message = self.incoming.message().await?.ok_or(LinkError::Ended)?;
        self.pulse.heard();
        Ok(match message.kind {
            Some(coordinator_message::Kind::Assignment(wire)) => Heard::Wanted(Box::new(assignment(wire)?)),
            Some(coordinator_message::Kind::ReportAck(ack)) => {
                Heard::Acknowledged(ack.sequence, ack.encoded_len() as u64 + FRAMING)
            }
            Some(coordinator_message::Kind::Limits(limits)) => {
                let cap = Some(limits.download_bytes_per_day).filter(|&bytes| bytes > 0);
                Heard::Limits { cap, watched: limits.watched }
            }
            _ => Heard::Nothing,
        })
    }

    /// Sends a report.
    pub(crate) async fn report(&mut self, report: &Report) -> Result<(), LinkError> {
        self.pulse.said();
        send(&self.outgoing, agent_message::Kind::Report(report.into())).await
    }

    /// Says that the line is in use.
    pub(crate) async fn heartbeat(&mut self) -> Result<(), LinkError> {
        self.pulse.said();
        send(&self.outgoing, agent_message::Kind::Heartbeat(v1::Heartbeat {})).await
    }

    /// Tells how an assignment ended: an error text where it failed.
    pub(crate) async fn outcome(&self, told: Outcome<'_>) -> Result<(), LinkError> {
        let result =
            if told.failure.is_none() { v1::outcome::Result::Activated } else { v1::outcome::Result::Failed };
        let reason: String = told.failure.unwrap_or_default().chars().take(caps::TEXT_BYTES / 4).collect();
        let outcome = v1::Outcome {
            generation: told.wanted.generation.0,
            variant: told.wanted.variant.0.as_bytes().to_vec(),
            result: result.into(),
            reason,
            update_bytes: told.update_bytes.get(),
            base_unusable: told.base_unusable,
            variants: variants(told.held),
        };
        send(&self.outgoing, agent_message::Kind::Outcome(outcome)).await
    }

    /// The bytes of an update from `offset` on, at most `limit` of them.
    pub(crate) async fn download(
        &mut self,
        update: UpdateRef,
        offset: u64,
        limit: Option<u64>,
    ) -> Result<Download, LinkError> {
        let limit = limit.unwrap_or(0);
        let request = v1::DownloadRequest { update: update.id.as_bytes().to_vec(), offset, limit };
        self.pulse.heard();
        let begun = tokio::time::timeout(AT_MOST, self.client.download(self.pass.on(request)?)).await;
        let chunks = begun.map_err(|_| LinkError::Silent)??.into_inner();
        Ok(Download { chunks, offset })
    }
}

/// How an assignment ended.
pub(crate) struct Outcome<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) failure: Option<String>,
    pub(crate) update_bytes: ByteCount,
    pub(crate) base_unusable: bool,
    pub(crate) held: &'a BTreeSet<VariantId>,
}

/// An update on its way.
pub(crate) struct Download {
    chunks: Streaming<v1::Chunk>,
    offset: u64,
}

impl Download {
    /// The next piece, which continues the one before; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let Some(chunk) = self.chunks.message().await? else { return Ok(None) };
        if chunk.offset != self.offset || chunk.data.len() > caps::CHUNK_BYTES {
            return Err(WireError::OverLimit("chunk", caps::CHUNK_BYTES).into());
        }
        self.offset += chunk.data.len() as u64;
        Ok(Some(chunk.data.to_vec()))
    }
}

impl Pass {
    fn on<T>(&self, message: T) -> Result<Request<T>, LinkError> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert_bin(DEVICE_KEY_METADATA, MetadataValue::from_bytes(&self.credential));
        let token = self.token.parse().map_err(|_| LinkError::Credential)?;
        metadata.insert(JOIN_TOKEN_METADATA, token);
        Ok(request)
    }
}

async fn send(outgoing: &mpsc::Sender<v1::AgentMessage>, kind: agent_message::Kind) -> Result<(), LinkError> {
    let sent = tokio::time::timeout(AT_MOST, outgoing.send(v1::AgentMessage { kind: Some(kind) })).await;
    sent.map_err(|_| LinkError::Silent)?.map_err(|_| LinkError::Ended)
}

fn variants(held: &BTreeSet<VariantId>) -> Vec<Vec<u8>> {
    held.iter().map(|variant| variant.0.as_bytes().to_vec()).collect()
}

fn assignment(wire: v1::Assignment) -> Result<Assignment, WireError> {
    let update = |wire: v1::Update| -> Result<UpdateRef, WireError> {
        if wire.size > caps::UPDATE_BYTES as u64 {
            return Err(WireError::OverLimit("update", caps::UPDATE_BYTES));
        }
        let base = if wire.base.is_empty() { None } else { Some(variant_id(&wire.base)?) };
        Ok(UpdateRef { id: Digest::try_from(&wire.id[..])?, size: ByteCount(wire.size), base })
    };
    if wire.probe.as_ref().is_some_and(|probe| probe.expected.len() > caps::PROBE_VALUES) {
        return Err(WireError::OverLimit("probe", caps::PROBE_VALUES));
    }
    Ok(Assignment {
        wanted: Wanted {
            generation: Generation(wire.generation),
            model: wire.model.parse()?,
            variant: variant_id(&wire.variant)?,
            update: wire.update.map(update).transpose()?,
        },
        probe: wire.probe.map(|p| Probe { seed: p.seed, expected: p.expected, tolerance: p.tolerance }),
    })
}
