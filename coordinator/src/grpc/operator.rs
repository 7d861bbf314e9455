//! The operators' service.

use std::pin::Pin;
use std::sync::Arc;

use secateur_common::{DeviceId, FleetSpec, ModelName, caps};
use secateur_proto::v1::{self, add_model_event, add_model_part};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{status_of, view};
use crate::CoordinatorError;
use crate::catalog::{self, NewModel};
use crate::rollout;
use crate::shared::Shared;
use crate::store::records;

pub(super) struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
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
        reserve(&self.shared, &name).map_err(status_of)?;
        let (events, queue) = mpsc::channel(64);
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || {
            let last = match add(&shared, &name, new, &events) {
                Ok(model) => Ok(v1::AddModelEvent { kind: Some(add_model_event::Kind::Model(model)) }),
                Err(error) => Err(status_of(error)),
            };
            shared.state().building.remove(&name);
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
        let family = {
            let state = self.shared.state();
            let family = state.models.get(&name).ok_or_else(|| no_model(&name))?.family();
            if let Some(group) = state.fleet.groups.iter().find(|group| group.model == name) {
                return Err(Status::failed_precondition(format!("group {} uses model {name}", group.name)));
            }
            family
        };
        let changes = [records::delete_model(&name), records::delete_family(family)];
        let removed = self.shared.commit(&changes, |state| drop(state.models.remove(&name)));
        removed.map_err(status_of)?;
        Ok(Response::new(v1::RemoveModelResponse {}))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = request.into_inner();
        let fleet = request.fleet.ok_or_else(|| Status::invalid_argument("the request lacks `fleet`"))?;
        let fleet =
            FleetSpec::try_from(&fleet).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let changes = {
            let state = self.shared.state();
            for group in &fleet.groups {
                if !state.models.contains_key(&group.model) {
                    let message =
                        format!("group {} names model {}, which is not registered", group.name, group.model);
                    return Err(Status::failed_precondition(message));
                }
            }
            view::changes(&state, &fleet, &rollout::proposal(&state, &fleet).plan)
        };
        if !request.dry_run {
            let put = records::put(&fleet);
            self.shared.commit(&[put], |state| state.fleet = fleet).map_err(status_of)?;
            let shared = self.shared.clone();
            // The plan is made before the answer, so that who asks next sees it.
            let planned = tokio::task::spawn_blocking(move || rollout::replan_now(&shared)).await;
            planned.map_err(|error| Status::internal(error.to_string()))?.map_err(status_of)?;
        }
        let plan = self.shared.state().plan.plan.id;
        Ok(Response::new(v1::ApplyResponse { changes, plan }))
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
            state.devices.values().map(|device| view::device(&state, device)).collect();
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
        Ok(Response::new(view::device(&state, device)))
    }

    async fn show_plan(&self, request: Request<v1::ShowPlanRequest>) -> Result<Response<v1::Plan>, Status> {
        let id = request.into_inner().id;
        let state = self.shared.state();
        let plan = match id {
            0 => Some(state.plan.clone()),
            id => records::plan(&*self.shared.store, id).map_err(|error| status_of(error.into()))?,
        };
        let plan =
            plan.filter(|plan| plan.plan.id > 0).ok_or_else(|| Status::not_found("there is no such plan"))?;
        Ok(Response::new(view::plan(&state, &plan)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let state = self.shared.state();
        Ok(Response::new(v1::StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: state.devices.len() as u64,
            connected: state.sessions.len() as u64,
            models: state.models.len() as u64,
            plans: state.plan.plan.id,
            reprunes: state.counters.reprunes,
            settled: state.settled(),
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

/// Takes the name for a model that is being built.
fn reserve(shared: &Arc<Shared>, name: &ModelName) -> Result<(), CoordinatorError> {
    let mut state = shared.state();
    if state.models.len() + state.building.len() >= caps::MODELS {
        return Err(CoordinatorError::Refused(format!("there are {} models already", caps::MODELS)));
    }
    if state.models.contains_key(name) || !state.building.insert(name.clone()) {
        return Err(CoordinatorError::Exists(format!("model {name}")));
    }
    Ok(())
}

fn add(
    shared: &Arc<Shared>,
    name: &ModelName,
    new: NewModel,
    events: &mpsc::Sender<Result<v1::AddModelEvent, Status>>,
) -> Result<v1::Model, CoordinatorError> {
    let mut tell = |stage: &str, done: usize, total: usize| {
        let progress = v1::Progress { stage: stage.to_owned(), done: done as u64, total: total as u64 };
        // Progress that nobody takes in time is dropped; the model is built all the same.
        let _ =
            events.try_send(Ok(v1::AddModelEvent { kind: Some(add_model_event::Kind::Progress(progress)) }));
    };
    let (record, mut changes) =
        catalog::build(name, new, &shared.config, &shared.families, &*shared.store, &mut tell)?;
    changes.push(records::put(&record));
    let model = view::model(&record);
    shared.commit(&changes, |state| drop(state.models.insert(name.clone(), record)))?;
    shared.changed.notify_one();
    Ok(model)
}
