//! The operators' service.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};

use secateur_common::{DeviceId, FleetSpec, ModelName, caps};
use secateur_proto::v1::{self, add_model_event, add_model_part};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{rollouts, status_of, view};
use crate::CoordinatorError;
use crate::catalog::{self, NewModel};
use crate::forecast::outlook;
use crate::inventory::DeviceRecord;
use crate::rollout;
use crate::shared::Shared;
use crate::state::State;
use crate::store::records;

pub(super) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn device(&self, state: &State, device: &DeviceRecord) -> v1::Device {
        view::device(state, self.shared.lines.is_open(device.view.id), device)
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::AddModelEvent, Status>> + Send>>;

#[tonic::async_trait]
impl v1::operator_server::Operator for Service {
    type AddModelStream = Events;

    async fn add_model(
        &self,
        request: Request<Streaming<v1::AddModelPart>>,
    ) -> Result<Response<Events>, Status> {
        let (name, new) = receive(request.into_inner()).await?;
        let (events, queue) = mpsc::channel(64);
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let model = |model| v1::AddModelEvent { kind: Some(add_model_event::Kind::Model(model)) };
            let last = known_or_added(&shared, &name, new, &events).map(model).map_err(status_of);
            let _ = events.blocking_send(last);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn list_models(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        let models = self.shared.state().models.values().map(view::model).collect();
        Ok(Response::new(v1::ListModelsResponse { models }))
    }

    async fn show_model(
        &self,
        request: Request<v1::ShowModelRequest>,
    ) -> Result<Response<v1::Model>, Status> {
        let name = model_name(&request.into_inner().name)?;
        let state = self.shared.state();
        state.models.get(&name).map(|model| Response::new(view::model(model))).ok_or_else(|| no_model(&name))
    }

    async fn remove_model(
        &self,
        request: Request<v1::RemoveModelRequest>,
    ) -> Result<Response<v1::RemoveModelResponse>, Status> {
        let name = model_name(&request.into_inner().name)?;
        let removed = self.shared.orders.change(move |draft| {
            let model =
                draft.model(&name).ok_or_else(|| CoordinatorError::NotFound(format!("model {name}")))?;
            let family = records::delete_family(model.family());
            if let Some(group) = draft.fleet().groups.iter().find(|group| group.model == name) {
                return Err(CoordinatorError::Refused(format!("group {} uses model {name}", group.name)));
            }
            if let Some(device) = draft.now().goes_back_to(&name) {
                let why = format!("device {device} goes back to model {name} if its rollout is halted");
                return Err(CoordinatorError::Refused(why));
            }
            draft.remove_model(&name);
            draft.store([family]);
            Ok(())
        });
        removed.await.map_err(status_of)?;
        Ok(Response::new(v1::RemoveModelResponse {}))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = request.into_inner();
        let fleet = request.fleet.ok_or_else(|| Status::invalid_argument("the request lacks `fleet`"))?;
        let fleet =
            FleetSpec::try_from(&fleet).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let shared = self.shared.clone();
        let asked = fleet.clone();
        let looked = tokio::task::spawn_blocking(move || {
            models_exist(&asked, |model| shared.state().models.contains_key(model))?;
            let outlook = outlook(&shared, &asked);
            Ok((view::changes(&shared.state(), &asked, &outlook.next), outlook))
        });
        let looked = looked.await.map_err(|error| Status::internal(error.to_string()))?;
        let (changes, outlook) = looked.map_err(status_of)?;
        if !request.dry_run {
            // It is planned with the change, so that who asks next sees the plan.
            let applied = self.shared.orders.change(move |draft| {
                models_exist(&fleet, |model| draft.model(model).is_some())?;
                draft.set_fleet(fleet);
                Ok(())
            });
            applied.await.map_err(status_of)?;
        }
        let plan = self.shared.state().plan().id;
        let shared = self.shared.clone();
        let forecast = tokio::task::spawn_blocking(move || outlook.forecast(&shared)).await;
        let forecast = forecast.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::ApplyResponse { changes, plan, forecast: Some(view::forecast(forecast)) }))
    }

    async fn show_fleet(&self, _: Request<v1::ShowFleetRequest>) -> Result<Response<v1::FleetSpec>, Status> {
        Ok(Response::new((&self.shared.state().fleet).into()))
    }

    async fn list_devices(
        &self,
        _: Request<v1::ListDevicesRequest>,
    ) -> Result<Response<v1::ListDevicesResponse>, Status> {
        let state = self.shared.state();
        let mut devices: Vec<v1::Device> =
            state.devices.values().map(|device| self.device(&state, device)).collect();
        devices.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(Response::new(v1::ListDevicesResponse { devices }))
    }

    async fn show_device(
        &self,
        request: Request<v1::ShowDeviceRequest>,
    ) -> Result<Response<v1::Device>, Status> {
        let wanted = request.into_inner().device;
        let state = self.shared.state();
        let by_id = wanted.parse::<DeviceId>().ok().and_then(|id| state.devices.get(&id));
        let mut named = state.devices.values().filter(|device| device.name.as_str() == wanted);
        let device = match (by_id.or_else(|| named.next()), named.next()) {
            (Some(device), None) => device,
            (Some(_), Some(_)) => {
                return Err(Status::failed_precondition(format!(
                    "several devices are named {wanted}: give the id"
                )));
            }
            (None, _) => {
                return Err(Status::not_found(format!("there is no device {}", view::clipped(&wanted))));
            }
        };
        Ok(Response::new(self.device(&state, device)))
    }

    async fn show_plan(&self, request: Request<v1::ShowPlanRequest>) -> Result<Response<v1::Plan>, Status> {
        let id = request.into_inner().id;
        let shared = self.shared.clone();
        let shown = tokio::task::spawn_blocking(move || show_plan(&shared, id)).await;
        let shown = shown.map_err(|error| Status::internal(error.to_string()))?;
        shown.map(Response::new).map_err(status_of)
    }

    async fn list_rollouts(
        &self,
        request: Request<v1::ListRolloutsRequest>,
    ) -> Result<Response<v1::ListRolloutsResponse>, Status> {
        let rollouts = rollouts::list(&self.shared, &request.into_inner().group)?;
        Ok(Response::new(v1::ListRolloutsResponse { rollouts }))
    }

    async fn steer_rollout(
        &self,
        request: Request<v1::SteerRolloutRequest>,
    ) -> Result<Response<v1::SteerRolloutResponse>, Status> {
        rollouts::steer(&self.shared, request.into_inner()).await.map(Response::new)
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let settled = self.shared.settled();
        let state = self.shared.state();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: state.devices.len() as u64,
            connected: self.shared.lines.connected().len() as u64,
            models: state.models.len() as u64,
            plans: state.plan().id,
            reprunes: state.counters.reprunes,
            settled,
        }))
    }
}

fn model_name(text: &str) -> Result<ModelName, Status> {
    text.parse().map_err(|error: secateur_common::ParseError| Status::invalid_argument(error.to_string()))
}

fn no_model(name: &ModelName) -> Status {
    Status::not_found(format!("there is no model {name}"))
}

/// Takes in the parts of a new model, each file within its cap.
async fn receive(mut parts: Streaming<v1::AddModelPart>) -> Result<(ModelName, NewModel), Status> {
    let Some(v1::AddModelPart { kind: Some(add_model_part::Kind::Header(header)) }) = parts.message().await?
    else {
        return Err(Status::invalid_argument("the first part must be the header"));
    };
    let name = model_name(&header.name)?;
    let mut new = NewModel::default();
    while let Some(part) = parts.message().await? {
        let (file, bytes, cap) = match part.kind {
            Some(add_model_part::Kind::Onnx(bytes)) => (&mut new.onnx, bytes, caps::MODEL_BYTES),
            Some(add_model_part::Kind::Calibration(bytes)) => {
                (&mut new.calibration, bytes, caps::DATASET_BYTES)
            }
            Some(add_model_part::Kind::Validation(bytes)) => {
                (&mut new.validation, bytes, caps::DATASET_BYTES)
            }
            Some(add_model_part::Kind::Header(_)) => {
                return Err(Status::invalid_argument("one header is enough"));
            }
            None => continue,
        };
        if file.len() + bytes.len() > cap {
            return Err(Status::invalid_argument(format!("a file is over its limit of {cap} bytes")));
        }
        file.extend_from_slice(&bytes);
    }
    Ok((name, new))
}

/// The newest plan for 0, else the plan `id`, whole.
fn show_plan(shared: &Shared, id: u64) -> Result<v1::Plan, CoordinatorError> {
    let unknown = || CoordinatorError::NotFound("such plan, or it is no longer kept".into());
    let (newest, head) = {
        let state = shared.state();
        let id = if id == 0 { state.plan().id } else { id };
        let head = state.plans.iter().find(|plan| plan.id == id).cloned();
        (state.whole_plan(), head.ok_or_else(unknown)?)
    };
    let plan = rollout::older(&*shared.store, newest, head.id)?.ok_or_else(unknown)?;
    Ok(view::plan(&shared.state(), &head, &plan))
}

fn models_exist(fleet: &FleetSpec, known: impl Fn(&ModelName) -> bool) -> Result<(), CoordinatorError> {
    match fleet.groups.iter().find(|group| !known(&group.model)) {
        None => Ok(()),
        Some(group) => {
            let (group, model) = (&group.name, &group.model);
            let message = format!("group {group} names model {model}, which is not registered");
            Err(CoordinatorError::Refused(message))
        }
    }
}

/// The names of models that are being built.
fn building(shared: &Shared) -> MutexGuard<'_, BTreeSet<ModelName>> {
    shared.building.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the name for a model that is being built.
fn reserve(shared: &Arc<Shared>, name: &ModelName) -> Result<(), CoordinatorError> {
    let (state, mut building) = (shared.state(), building(shared));
    if state.models.len() + building.len() >= caps::MODELS {
        return Err(CoordinatorError::Refused(format!("there are {} models already", caps::MODELS)));
    }
    if state.models.contains_key(name) || !building.insert(name.clone()) {
        return Err(CoordinatorError::Exists(format!("another model {name}")));
    }
    Ok(())
}

/// What an operator hears while a model is added.
type Told = mpsc::Sender<Result<v1::AddModelEvent, Status>>;

/// The model as it is known, where the same is asked for again, as by a set-up that runs twice; else a new one.
fn known_or_added(
    shared: &Arc<Shared>,
    name: &ModelName,
    new: NewModel,
    events: &Told,
) -> Result<v1::Model, CoordinatorError> {
    // A copy: nobody waits for the digests of large files.
    let known = shared.state().models.get(name).cloned();
    if let Some(same) = known.filter(|known| known.is_of(&new)) {
        return Ok(view::model(&same));
    }
    reserve(shared, name)?;
    let added = add(shared, name, new, events);
    building(shared).remove(name);
    added
}

fn add(
    shared: &Arc<Shared>,
    name: &ModelName,
    new: NewModel,
    events: &Told,
) -> Result<v1::Model, CoordinatorError> {
    let mut tell = |stage: &str, done: usize, total: usize| {
        let progress = v1::Progress { stage: stage.to_owned(), done: done as u64, total: total as u64 };
        // Progress that nobody takes in time is dropped; the model is built all the same.
        let _ =
            events.try_send(Ok(v1::AddModelEvent { kind: Some(add_model_event::Kind::Progress(progress)) }));
    };
    let (record, changes) =
        catalog::build(name, new, &shared.config, &shared.families, &*shared.store, &mut tell)?;
    let model = view::model(&record);
    shared.orders.change_blocking(move |draft| {
        draft.store(changes);
        draft.set_model(record);
        Ok(())
    })?;
    Ok(model)
}
