//! The operator's client: asks the coordinator and answers in plain values.
//!
//! Architecture invariant: the wire's types are named in this folder and nowhere else in this crate.

mod view;

use std::time::Duration;

use secateur_common::{FleetSpec, ModelName, Name, caps};
use secateur_proto::v1::{self, operator_client::OperatorClient};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status as Refusal};

use crate::failure::{Failure, OrFail, Outcome};

pub use view::{
    AccuracyLoss, AccuracyView, Applied, BeforeAfter, Device, Forecast, Model, Plan, PlanStep, Rollout, Rung,
    Status, Steer, Steered, budget_by_name,
};

/// A connection to the operator's address of a coordinator.
#[derive(Clone, Debug)]
pub struct Client {
    inner: OperatorClient<Channel>,
    address: String,
}

/// A model to register: files as they were read.
#[derive(Debug)]
pub struct NewModel {
    /// Its name.
    pub name: ModelName,
    /// The ONNX file.
    pub onnx: Vec<u8>,
    /// Calibration data, `.npz`.
    pub calibration: Vec<u8>,
    /// Validation data, `.npz`; empty for none.
    pub validation: Vec<u8>,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    /// Connects to `address`, such as `http://127.0.0.1:7071`; the scheme may be left out.
    ///
    /// # Errors
    /// Where the address makes no sense or nobody answers there.
    pub async fn connect(address: &str) -> Outcome<Self> {
        let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(uri)
            .or_input(format!("bad coordinator address {address}"), "give HOST:PORT")?
            .connect_timeout(CONNECT_TIMEOUT);
        let advice = "start it (secateur coordinator), or give its operator address with --coordinator";
        let doing = format!("cannot reach the coordinator at {address}");
        let channel = endpoint.connect().await.or_work(doing, advice)?;
        let inner = OperatorClient::new(channel)
            .max_decoding_message_size(64 * caps::MESSAGE_BYTES)
            .max_encoding_message_size(caps::MESSAGE_BYTES);
        Ok(Self { inner, address: address.to_owned() })
    }

    /// Registers a model; `progress` is told stage, done and total.
    ///
    /// # Errors
    /// Where the coordinator refuses it or fails.
    pub async fn add_model(
        &mut self,
        model: NewModel,
        mut progress: impl FnMut(&str, u64, u64),
    ) -> Outcome<Model> {
        let parts = tokio_stream::iter(parts(model));
        let mut events = self.inner.add_model(parts).await.map_err(|e| self.refused(&e))?.into_inner();
        while let Some(event) = events.message().await.map_err(|e| self.refused(&e))? {
            match event.kind {
                Some(v1::add_model_event::Kind::Progress(p)) => progress(&p.stage, p.done, p.total),
                Some(v1::add_model_event::Kind::Model(model)) => return self.understood(model.try_into()),
                None => {}
            }
        }
        Err(self.incomprehensible("the answer ended before the model was ready"))
    }

    /// All models.
    ///
    /// # Errors
    /// Where the coordinator fails.
    pub async fn models(&mut self) -> Outcome<Vec<Model>> {
        let answer = self.inner.list_models(v1::ListModelsRequest {}).await;
        let models = answer.map_err(|e| self.refused(&e))?.into_inner().models;
        models.into_iter().map(|model| self.understood(model.try_into())).collect()
    }

    /// The model `name`.
    ///
    /// # Errors
    /// Where there is none, or the coordinator fails.
    pub async fn model(&mut self, name: &str) -> Outcome<Model> {
        let answer = self.inner.show_model(v1::ShowModelRequest { name: name.into() }).await;
        let model = answer.map_err(|e| self.refused(&e))?.into_inner();
        self.understood(model.try_into())
    }

    /// Removes the model `name`.
    ///
    /// # Errors
    /// Where there is none, a group uses it, or the coordinator fails.
    pub async fn remove_model(&mut self, name: &str) -> Outcome {
        let answer = self.inner.remove_model(v1::RemoveModelRequest { name: name.into() }).await;
        answer.map(drop).map_err(|e| self.refused(&e))
    }

    /// Declares the fleet; answers what changes and the plan in force afterwards.
    ///
    /// # Errors
    /// Where the coordinator refuses it or fails.
    pub async fn apply(&mut self, fleet: &FleetSpec, dry_run: bool) -> Outcome<Applied> {
        let request = v1::ApplyRequest { fleet: Some(fleet.into()), dry_run };
        let answer = self.inner.apply(request).await.map_err(|e| self.refused(&e))?;
        Ok(answer.into_inner().into())
    }

    /// The rollouts, of all groups or of one.
    ///
    /// # Errors
    /// Where there is no such group or it stages nothing, or the coordinator fails.
    pub async fn rollouts(&mut self, group: Option<&Name>) -> Outcome<Vec<Rollout>> {
        let request = v1::ListRolloutsRequest { group: text(group) };
        let answer = self.inner.list_rollouts(request).await.map_err(|e| self.refused(&e))?;
        Ok(answer.into_inner().rollouts.into_iter().map(Rollout::from).collect())
    }

    /// Pauses, resumes or aborts the rollouts of all groups or of one.
    ///
    /// # Errors
    /// Where there is nothing to pause, to resume or to abort, or the coordinator fails.
    pub async fn steer(&mut self, steer: Steer, group: Option<&Name>) -> Outcome<Steered> {
        use v1::steer_rollout_request::Action;
        let action = match steer {
            Steer::Pause => Action::Pause,
            Steer::Resume => Action::Resume,
            Steer::Abort => Action::Abort,
        };
        let request = v1::SteerRolloutRequest { group: text(group), action: action.into() };
        let answer = self.inner.steer_rollout(request).await.map_err(|e| self.refused(&e))?.into_inner();
        let rollouts = answer.rollouts.into_iter().map(Rollout::from).collect();
        Ok(Steered { rollouts, released: answer.released })
    }

    /// All devices.
    ///
    /// # Errors
    /// Where the coordinator fails.
    pub async fn devices(&mut self) -> Outcome<Vec<Device>> {
        let answer = self.inner.list_devices(v1::ListDevicesRequest {}).await;
        let devices = answer.map_err(|e| self.refused(&e))?.into_inner().devices;
        devices.into_iter().map(|device| self.understood(device.try_into())).collect()
    }

    /// The device with this id or name.
    ///
    /// # Errors
    /// Where there is none, or the coordinator fails.
    pub async fn device(&mut self, device: &str) -> Outcome<Device> {
        let answer = self.inner.show_device(v1::ShowDeviceRequest { device: device.into() }).await;
        let device = answer.map_err(|e| self.refused(&e))?.into_inner();
        self.understood(device.try_into())
    }

    /// The plan `id`, the newest for 0.
    ///
    /// # Errors
    /// Where there is none, or the coordinator fails.
    pub async fn plan(&mut self, id: u64) -> Outcome<Plan> {
        let answer = self.inner.show_plan(v1::ShowPlanRequest { id }).await;
        let plan = answer.map_err(|e| self.refused(&e))?.into_inner();
        self.understood(plan.try_into())
    }

    /// The coordinator at a glance.
    ///
    /// # Errors
    /// Where the coordinator fails.
    pub async fn status(&mut self) -> Outcome<Status> {
        let answer = self.inner.status(v1::StatusRequest {}).await;
        Ok(answer.map_err(|e| self.refused(&e))?.into_inner().into())
    }

    fn refused(&self, status: &Refusal) -> Failure {
        let what = format!("the coordinator at {} answers: {}", self.address, status.message());
        match status.code() {
            Code::NotFound => {
                Failure::input(what, "see what there is with `model list`, `device list` or `rollout status`")
            }
            Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition | Code::OutOfRange => {
                Failure::input(what, "correct the request and send it again; nothing was changed")
            }
            Code::Unimplemented => {
                Failure::work(what, "run a coordinator of this program's version, at its operator address")
            }
            code => Failure::work(format!("{what} ({code:?})"), "see the coordinator's log"),
        }
    }

    fn understood<T>(&self, value: Result<T, secateur_proto::WireError>) -> Outcome<T> {
        value.map_err(|error| self.incomprehensible(&error.to_string()))
    }

    fn incomprehensible(&self, error: &str) -> Failure {
        let what = format!("cannot understand the coordinator at {}: {error}", self.address);
        Failure::work(what, "run a coordinator of this program's version")
    }
}

/// A group's name as the wire carries it: empty for all groups.
fn text(group: Option<&Name>) -> String {
    group.map(ToString::to_string).unwrap_or_default()
}

/// The header, then each file in chunks.
fn parts(model: NewModel) -> Vec<v1::AddModelPart> {
    use v1::add_model_part::Kind;
    fn pieces(bytes: &[u8], kind: fn(Vec<u8>) -> Kind) -> impl Iterator<Item = Kind> {
        bytes.chunks(caps::CHUNK_BYTES).map(move |chunk| kind(chunk.to_vec()))
    }
    let header = Kind::Header(v1::AddModelHeader { name: model.name.to_string() });
    std::iter::once(header)
        .chain(pieces(&model.onnx, Kind::Onnx))
        .chain(pieces(&model.calibration, Kind::Calibration))
        .chain(pieces(&model.validation, Kind::Validation))
        .map(|kind| v1::AddModelPart { kind: Some(kind) })
        .collect()
}
