//! One device's session: what it says is heard, and what it is to know is said, by level.
//!
//! A session has no task and no channel of its own: whoever reads its answers drives it, so that a device which does not read
//! is not heard either, and a connection at rest holds little.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use secateur_common::{ByteCount, Cause, DeviceId, Generation, Report, caps};
use secateur_proto::v1::{self, agent_message, coordinator_message};
use secateur_proto::{Message, PROTOCOL, WireError, variant_id};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::fleet::variants;
use super::status_of;
use crate::catalog::SEED;
use crate::lines::Line;
use crate::rollout::{self, Directive};
use crate::shared::Shared;
use crate::state::cap;
use crate::updates::TOLERANCE;

/// A device says something in each heartbeat; so much later it counts as gone.
const GRACE: Duration = Duration::from_secs(30);
/// After a failed activation the same assignment is sent again no sooner than this.
const RETRY: Duration = Duration::from_secs(15);
/// Reports that came together are stored, and acknowledged, as one change; at most so many.
const TOGETHER: usize = 64;
/// Bytes that a message takes beside its own, about: HTTP/2's head, gRPC's, the fields around it.
const FRAMING: u64 = 9 + 5 + 10;

/// The day's bytes are spent.
pub(super) fn spent() -> Status {
    Status::resource_exhausted("the day's bytes are spent: come back tomorrow")
}

type Answer = Result<v1::CoordinatorMessage, Status>;

/// What was said and not yet read.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<VecDeque<Answer>>>);

impl Said {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session as the stream of its answers.
pub(super) struct Conversation {
    said: Said,
    /// None when it is over.
    talk: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Conversation {
    pub(super) fn new(session: Session, incoming: Streaming<v1::AgentMessage>) -> Self {
        Self { said: session.said.clone(), talk: Some(Box::pin(session.run(incoming))) }
    }
}

impl Stream for Conversation {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Answer>> {
        let said = self.said.queue().pop_front();
        if said.is_some() {
            return Poll::Ready(said);
        }
        if let Some(talk) = &mut self.talk
            && talk.as_mut().poll(context).is_ready()
        {
            self.talk = None;
        }
        let said = self.said.queue().pop_front();
        match said {
            None if self.talk.is_some() => Poll::Pending,
            said => Poll::Ready(said),
        }
    }
}

/// One device's stream.
pub(super) struct Session {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
    id: DeviceId,
    line: Line,
    said: Said,
    /// The generation that was sent last on this stream.
    sent: Option<Generation>,
    /// The update that was offered last: its generation, and whether it is a delta.
    offered: Option<(Generation, bool)>,
    /// The limits that were told last on this stream.
    limits: Option<v1::Limits>,
    /// When to send it again after a failure.
    retry_at: Option<Instant>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, shutdown: CancellationToken, id: DeviceId) -> Self {
        let line = shared.lines.open(id);
        let (said, sent, offered, limits, retry_at) = Default::default();
        Self { shared, shutdown, id, line, said, sent, offered, limits, retry_at }
    }

    async fn run(mut self, mut incoming: Streaming<v1::AgentMessage>) {
        if let Err(status) = self.converse(&mut incoming).await {
            tracing::info!(id = %self.id, reason = status.message(), "session ends");
            self.said.queue().push_back(Err(status));
        }
    }

    async fn converse(&mut self, incoming: &mut Streaming<v1::AgentMessage>) -> Result<(), Status> {
        let beat = Duration::from_secs(self.shared.config.heartbeat_s);
        self.say(coordinator_message::Kind::Welcome(v1::Welcome {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device_id: self.id.to_string(),
            heartbeat_ms: beat.as_millis() as u64,
            spread_ms: self.shared.spread().as_millis() as u64,
        }))
        .await?;
        let mut gone_at = Instant::now() + beat + GRACE;
        let mut clock = pin!(tokio::time::sleep_until(gone_at));
        let shutdown = self.shutdown.clone();
        let mut stopped = pin!(shutdown.cancelled());
        loop {
            self.direct().await?;
            let due = self.retry_at.map_or(gone_at, |at| at.min(gone_at));
            // Set on only when it rang or would ring late: most messages move no timer.
            if clock.is_elapsed() || clock.deadline() > due {
                clock.as_mut().reset(due);
            }
            tokio::select! {
                message = incoming.message() => match message? {
                    None => return Ok(()),
                    Some(message) => {
                        gone_at = Instant::now() + beat + GRACE;
                        // At rest a session holds no room for what it does about a message.
                        Box::pin(self.hear(message, incoming)).await?;
                    }
                },
                () = self.line.wake.notified() => {
                    if !self.shared.lines.is_newest(self.id, &self.line) {
                        return Err(Status::aborted("the device dialled again; this is its older stream"));
                    }
                }
                () = &mut clock => {
                    let now = Instant::now();
                    if now >= gone_at {
                        return Err(Status::deadline_exceeded("the device is silent"));
                    }
                    if self.retry_at.is_some_and(|at| now >= at) {
                        (self.sent, self.retry_at) = (None, None);
                    }
                }
                () = &mut stopped => return Err(Status::unavailable("the coordinator stops")),
            }
        }
    }

    /// Hears a message, and with a report those that came together with it.
    async fn hear(
        &mut self,
        message: v1::AgentMessage,
        incoming: &mut Streaming<v1::AgentMessage>,
    ) -> Result<(), Status> {
        let mut next = Some(message);
        while let Some(message) = next.take() {
            match message.kind {
                Some(agent_message::Kind::Report(first)) => {
                    let mut reports = vec![report(&first)?];
                    while reports.len() < TOGETHER {
                        match arrived(incoming).await? {
                            Some(v1::AgentMessage { kind: Some(agent_message::Kind::Report(other)) }) => {
                                reports.push(report(&other)?);
                            }
                            other => {
                                next = other;
                                break;
                            }
                        }
                    }
                    self.reports(reports).await?;
                }
                Some(agent_message::Kind::Outcome(outcome)) => self.outcome(outcome).await?,
                Some(agent_message::Kind::Hello(_)) => {
                    return Err(Status::invalid_argument("hello comes once"));
                }
                Some(agent_message::Kind::Heartbeat(beat)) => {
                    self.say(coordinator_message::Kind::Heartbeat(beat)).await?;
                }
                None => {} // unknown kinds are passed over
            }
        }
        Ok(())
    }

    /// Reports are acknowledged when they are durable: the last, and with it all before.
    async fn reports(&mut self, reports: Vec<Report>) -> Result<(), Status> {
        let sequence = reports.iter().map(|report| report.sequence).max().unwrap_or_default();
        self.shared.reports(self.id, reports).await.map_err(status_of)?;
        self.say(coordinator_message::Kind::ReportAck(v1::ReportAck { sequence })).await
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
            self.retry_at = Some(Instant::now() + if outcome.base_unusable { Duration::ZERO } else { RETRY });
            let failed = self.shared.failed(self.id, (generation, line), outcome.base_unusable, held);
            failed.await.map_err(status_of)
        }
    }

    /// Says the device's limits and its assignment where they are not what was said last.
    async fn direct(&mut self) -> Result<(), Status> {
        let (planned, limits) = {
            let state = self.shared.state();
            let Some(assignment) = state.assignment(self.id) else { return Ok(()) };
            let watched = assignment.trial.is_some();
            let download_bytes_per_day = cap(assignment).unwrap_or(0);
            (assignment.generation, v1::Limits { download_bytes_per_day, watched })
        };
        if self.limits != Some(limits) {
            self.say(coordinator_message::Kind::Limits(limits)).await?;
            self.limits = Some(limits);
        }
        if self.sent == Some(planned) {
            return Ok(());
        }
        Box::pin(self.assign(planned)).await
    }

    /// Says the assignment of the generation `planned`, unless the device runs it.
    async fn assign(&mut self, planned: Generation) -> Result<(), Status> {
        let directive = rollout::directive(&self.shared, self.id).await.map_err(status_of)?;
        self.sent = Some(planned);
        let update = directive.as_ref().and_then(|directive| directive.means.update.as_ref());
        self.offered = update.map(|update| (update.generation, update.base.is_some()));
        match directive {
            Some(directive) => self.say(coordinator_message::Kind::Assignment(assignment(directive))).await,
            None => Ok(()),
        }
    }

    /// Says something, once there is room for it.
    async fn say(&self, kind: coordinator_message::Kind) -> Result<(), Status> {
        let cause = match kind {
            coordinator_message::Kind::ReportAck(_) => Cause::Report,
            _ => Cause::Control,
        };
        let message = v1::CoordinatorMessage { kind: Some(kind) };
        if !self.shared.charge(self.id, cause, message.encoded_len() as u64 + FRAMING) {
            return Err(spent());
        }
        // Who reads what was said polls this again.
        let room = |_: &mut Context<'_>| match self.said.queue().len() < caps::DEVICE_QUEUE {
            true => Poll::Ready(()),
            false => Poll::Pending,
        };
        poll_fn(room).await;
        self.said.queue().push_back(Ok(message));
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.lines.close(self.id, &self.line);
    }
}

/// The next message, if it has come already.
async fn arrived(incoming: &mut Streaming<v1::AgentMessage>) -> Result<Option<v1::AgentMessage>, Status> {
    tokio::select! {
        biased;
        message = incoming.message() => message,
        () = std::future::ready(()) => Ok(None),
    }
}

fn report(wire: &v1::Report) -> Result<Report, Status> {
    Report::try_from(wire).map_err(|error| Status::invalid_argument(error.to_string()))
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
