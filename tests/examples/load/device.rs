//! A device as the coordinator sees one: it dials, says hello, runs what it is assigned, reports, and dials again by the
//! agent's own rule. It only does not infer.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use secateur_agent::backoff::Backoff;
use secateur_common::Digest;
use secateur_proto::v1::{self, agent_message, coordinator_message, fleet_client::FleetClient};
use secateur_proto::{DEVICE_KEY_METADATA, JOIN_TOKEN_METADATA, PROTOCOL};
use secateur_tests::fleet::TOKEN;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use crate::crowd::Crowd;

/// One device, as it remembers itself.
pub(crate) struct Device {
    crowd: Arc<Crowd>,
    fleet: SocketAddr,
    index: usize,
    dice: Digest,
    active: Option<v1::Holding>,
    /// What it has been assigned and does not run yet.
    assigned: Option<v1::Assignment>,
    sequence: u64,
    sent_us: u64,
}

impl Device {
    pub(crate) fn new(crowd: &Arc<Crowd>, fleet: SocketAddr, index: usize) -> Self {
        let dice = Digest::of(&index.to_be_bytes());
        Self {
            crowd: crowd.clone(),
            fleet,
            index,
            dice,
            active: None,
            assigned: None,
            sequence: 0,
            sent_us: 0,
        }
    }

    /// From 0 to 1, the next of its own numbers.
    fn random(&mut self) -> f64 {
        self.dice = Digest::of(self.dice.as_bytes());
        let bytes = self.dice.as_bytes();
        f64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) / f64::from(u32::MAX)
    }

    /// Lives for ever; it dials first within `ramp`.
    pub(crate) async fn live(mut self, ramp: Duration) {
        let mut backoff = Backoff::default();
        let first = ramp.mul_f64(self.random());
        tokio::time::sleep(first).await;
        loop {
            let dialled = Instant::now();
            let _ = self.session(&mut backoff).await; // cut, or refused: it dials again
            let wait = backoff.after(dialled.elapsed(), self.random());
            tokio::time::sleep(wait).await;
        }
    }

    async fn session(&mut self, backoff: &mut Backoff) -> Result<()> {
        let mut cut = self.crowd.cut.subscribe();
        let channel = dial(self.fleet, self.index).await?;
        let (say, mut heard) = greet(channel, self.index, self.active.clone()).await?;
        let welcome = heard.message().await?.and_then(|message| message.kind);
        let Some(coordinator_message::Kind::Welcome(welcome)) = welcome else { bail!("no welcome") };
        backoff.spread(Duration::from_millis(welcome.spread_ms));
        self.crowd.welcomed();
        let ended = tokio::select! {
            _ = cut.changed() => Ok(()),
            ended = self.talk(&say, &mut heard) => ended,
        };
        self.crowd.away();
        ended
    }

    async fn talk(
        &mut self,
        say: &mpsc::Sender<v1::AgentMessage>,
        heard: &mut Streaming<v1::CoordinatorMessage>,
    ) -> Result<()> {
        let phase = self.crowd.report_every.mul_f64(self.random());
        let mut turn = tokio::time::interval_at(tokio::time::Instant::now() + phase, self.crowd.report_every);
        loop {
            tokio::select! {
                message = heard.message() => match message?.context("the session ended")?.kind {
                    Some(coordinator_message::Kind::Assignment(assignment)) => {
                        self.crowd.assign(self.index);
                        self.assigned = Some(assignment);
                    }
                    Some(coordinator_message::Kind::ReportAck(_)) => {
                        self.crowd.acknowledge(self.index, self.sent_us);
                    }
                    _ => {}
                },
                _ = turn.tick() => {
                    let kind = match self.assigned.take() {
                        Some(assignment) => Some(self.activate(assignment)),
                        None => self.report(),
                    };
                    if let Some(kind) = kind {
                        say.send(v1::AgentMessage { kind: Some(kind) }).await?;
                    }
                }
            }
        }
    }

    fn activate(&mut self, assignment: v1::Assignment) -> agent_message::Kind {
        let v1::Assignment { generation, model, variant, update, .. } = assignment;
        self.active = Some(v1::Holding { model, variant: variant.clone(), generation });
        self.crowd.settle();
        agent_message::Kind::Outcome(v1::Outcome {
            generation,
            variant: variant.clone(),
            result: v1::outcome::Result::Activated.into(),
            update_bytes: update.map_or(0, |update| update.size),
            variants: vec![variant],
            ..v1::Outcome::default()
        })
    }

    fn report(&mut self) -> Option<agent_message::Kind> {
        let v1::Holding { model, variant, generation } = self.active.clone()?;
        self.sequence += 1;
        self.sent_us = self.crowd.now();
        let p50 = 1000 + (50.0 * self.random()) as u64;
        let traffic =
            v1::Traffic { day: 20_000, update_bytes: 70_000, control_bytes: 9_000, report_bytes: 4_000 };
        Some(agent_message::Kind::Report(v1::Report {
            sequence: self.sequence,
            model,
            variant,
            generation,
            samples: 400,
            correct: 385 + self.index as u64 % 10,
            latency_count: 400,
            latency_p50_us: p50,
            latency_p95_us: p50 + 200,
            latency_p99_us: p50 + 400,
            inference_peak_bytes: 300_000,
            process_peak_bytes: 9_000_000,
            model_bytes: 180_000,
            disk_bytes: 500_000,
            wire_bytes: 70_000,
            today: Some(traffic),
            ..v1::Report::default()
        }))
    }
}

/// Says hello over `channel` as the device `index`: where it says more, and what it hears.
pub(crate) async fn greet(
    channel: Channel,
    index: usize,
    active: Option<v1::Holding>,
) -> Result<(mpsc::Sender<v1::AgentMessage>, Streaming<v1::CoordinatorMessage>)> {
    let (say, said) = mpsc::channel(4);
    let hello = v1::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        name: format!("gateway-{index:06}"),
        labels: [("site", format!("s{}", index % 50)), ("class", "small".to_owned())]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
        variants: active.iter().map(|active| active.variant.clone()).collect(),
        generation: active.as_ref().map_or(0, |active| active.generation),
        active,
    };
    say.send(v1::AgentMessage { kind: Some(agent_message::Kind::Hello(hello)) }).await?;
    let mut request = Request::new(ReceiverStream::new(said));
    let key = Digest::of(&[b"device", &index.to_be_bytes()[..]].concat());
    request.metadata_mut().insert_bin(DEVICE_KEY_METADATA, MetadataValue::from_bytes(key.as_bytes()));
    request.metadata_mut().insert(JOIN_TOKEN_METADATA, TOKEN.parse()?);
    let heard = FleetClient::new(channel).session(request).await?.into_inner();
    Ok((say, heard))
}

/// A connection of the device `index`, from one of several addresses of this machine, so that ports do not run out.
pub(crate) async fn dial(fleet: SocketAddr, index: usize) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{fleet}"))?.buffer_size(8);
    let from = Ipv4Addr::new(127, 0, 1, (1 + index % 200) as u8);
    Ok(endpoint.connect_with_connector(Source { from, fleet }).await?)
}

struct Source {
    from: Ipv4Addr,
    fleet: SocketAddr,
}

impl Service<Uri> for Source {
    type Response = TokioIo<TcpStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (from, fleet) = (self.from, self.fleet);
        Box::pin(async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((from, 0)))?;
            let stream = socket.connect(fleet).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}
