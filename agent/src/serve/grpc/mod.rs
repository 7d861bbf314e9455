//! The protocol over gRPC.

mod counted;

use std::sync::Arc;
use std::time::Duration;

use secateur_common::caps;
use secateur_proto::Message;
use secateur_proto::inference::grpc_inference_service_server::{
    GrpcInferenceService, GrpcInferenceServiceServer,
};
use secateur_proto::inference::model_infer_request::InferInputTensor;
use secateur_proto::inference::model_infer_response::InferOutputTensor;
use secateur_proto::inference::model_metadata_response::TensorMetadata;
use secateur_proto::inference::{
    InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse,
    ModelReadyRequest, ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use self::counted::Counted;
use super::listen::{Connection, Listener, accept};
use super::protocol::{self, DATATYPE, Data, Inference, Refused, Sample, Sent, Signature};
use super::{EXTENSIONS, PLATFORM, SERVER, Shared};

const READ: Duration = Duration::from_secs(caps::SERVE_READ_S);
/// A message's tensors are at most a body; names and numbers stand beside them.
const MESSAGE_BYTES: usize = caps::SERVE_BODY_BYTES + 64 * 1024;

/// Serves connections, for ever.
pub(super) async fn serve(listener: Listener, shared: Arc<Shared>) {
    let (accepted, connections) = mpsc::channel(1);
    let bodies = shared.bodies.clone();
    let service = GrpcInferenceServiceServer::new(Service(shared))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let server = Server::builder()
        .timeout(READ)
        .concurrency_limit_per_connection(caps::SERVE_CALLS)
        .max_concurrent_streams(caps::SERVE_CALLS as u32)
        .http2_keepalive_interval(Some(READ))
        .http2_keepalive_timeout(Some(READ))
        .add_service(Counted { inner: service, bodies })
        .serve_with_incoming(ReceiverStream::new(connections));
    let (served, ()) = tokio::join!(server, accept(listener, accepted));
    if let Err(error) = served {
        tracing::error!("inference over gRPC ended: {:#}", anyhow::Error::from(error));
    }
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(
        &self,
        _: Request<ServerLiveRequest>,
    ) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<ServerReadyRequest>,
    ) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: self.0.current.get().is_ok() }))
    }

    async fn model_ready(
        &self,
        request: Request<ModelReadyRequest>,
    ) -> Result<Response<ModelReadyResponse>, Status> {
        let ModelReadyRequest { name, version } = request.get_ref();
        let ready = self.0.current.find(name, Some(version)).is_ok();
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: SERVER.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let ModelMetadataRequest { name, version } = request.get_ref();
        let served = self.0.current.find(name, Some(version))?;
        Ok(Response::new(ModelMetadataResponse {
            name: served.model.clone(),
            versions: vec![served.version.clone()],
            platform: PLATFORM.into(),
            inputs: vec![metadata(&served.signature.input)],
            outputs: vec![metadata(&served.signature.output)],
        }))
    }

    async fn model_infer(
        &self,
        request: Request<ModelInferRequest>,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let request = request.into_inner();
        let _held = self.0.hold(request.encoded_len())?;
        let served = self.0.current.find(&request.model_name, Some(&request.model_version))?;
        let mut inference = read(request, &served.signature)?;
        let values = self.0.infer(&served, &mut inference).await?;
        let output = &served.signature.output;
        Ok(Response::new(ModelInferResponse {
            model_name: served.model.clone(),
            model_version: served.version.clone(),
            id: inference.id,
            outputs: vec![InferOutputTensor {
                name: output.name.clone(),
                datatype: DATATYPE.into(),
                shape: output.batch(inference.rows as i64),
                ..InferOutputTensor::default()
            }],
            raw_output_contents: vec![protocol::bytes(&values)],
            ..ModelInferResponse::default()
        }))
    }
}

/// A request that the model with `signature` can answer.
fn read(request: ModelInferRequest, signature: &Signature) -> Result<Inference, Refused> {
    let ModelInferRequest { id, mut inputs, outputs, raw_input_contents: raw, .. } = request;
    protocol::checked_id(&id)?;
    for output in &outputs {
        signature.output(&output.name)?;
        if !output.parameters.is_empty() {
            return Err(Refused::invalid("parameters of outputs are not offered"));
        }
    }
    if !raw.is_empty() && raw.len() != inputs.len() {
        let text = format!("{} raw_input_contents for {} inputs", raw.len(), inputs.len());
        return Err(Refused::invalid(text));
    }
    let contents: Vec<_> = inputs.iter_mut().map(|input| input.contents.take()).collect();
    let mut sent = Vec::with_capacity(inputs.len());
    for (index, (input, contents)) in inputs.iter().zip(contents).enumerate() {
        let InferInputTensor { name, datatype, shape, parameters, .. } = input;
        if parameters.contains_key("shared_memory_region") {
            return Err(Refused::invalid("shared memory is not offered"));
        }
        let data = elements(contents, raw.get(index).map(Vec::as_slice))?;
        sent.push(Sent { name, datatype, shape, data });
    }
    let (rows, values) = signature.input(sent)?;
    Ok(Inference { id, rows, values, binary_output: true })
}

fn elements(contents: Option<InferTensorContents>, raw: Option<&[u8]>) -> Result<Data<'_>, Refused> {
    match (contents, raw) {
        (None, Some(raw)) => Ok(Data::Bytes(raw)),
        (Some(contents), None) => Ok(Data::Values(contents.fp32_contents)),
        _ => Err(Refused::invalid("an input has either contents or raw_input_contents")),
    }
}

fn metadata(sample: &Sample) -> TensorMetadata {
    TensorMetadata { name: sample.name.clone(), datatype: DATATYPE.into(), shape: sample.batch(-1) }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Invalid(_) => Self::invalid_argument(text),
            Refused::NotFound(_) => Self::not_found(text),
            Refused::NotReady => Self::unavailable(text),
            Refused::Busy | Refused::TooLarge(_) => Self::resource_exhausted(text),
            Refused::Slow => Self::deadline_exceeded(text),
            Refused::Failed(_) => Self::internal(text),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
