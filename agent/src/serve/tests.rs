//! Applications and the agent over real sockets on free ports.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use secateur_common::Digest;
use secateur_model::{Dim, Graph, Node, OpSet, Tensor, ValueInfo};
use secateur_proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use secateur_proto::inference::model_infer_request::InferInputTensor;
use secateur_proto::inference::{
    InferTensorContents, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerLiveRequest,
    ServerMetadataRequest, ServerReadyRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::Code;
use tonic::transport::Channel;

use super::*;

/// `y = factor · [x₀ + x₁ + x₂, 1]`, so that an answer tells its variant.
fn loaded(factor: u8) -> Arc<Loaded> {
    Arc::new(Loaded::fresh(&graph(factor)))
}

fn graph(factor: u8) -> Graph {
    let factor = f32::from(factor);
    let value = |name: &str, length| ValueInfo {
        name: name.into(),
        dtype: 1,
        shape: Some(vec![Dim::Symbol("N".into()), Dim::Fixed(length)]),
    };
    let weights = (0..6).map(|at| if at % 2 == 0 { factor } else { 0.0 }).collect();
    let tensors = [
        ("w".to_owned(), Tensor::f32([3, 2], weights).unwrap()),
        ("b".to_owned(), Tensor::f32([2], vec![0.0, factor]).unwrap()),
    ];
    Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x", 3)],
        outputs: vec![value("y", 2)],
        nodes: vec![Node {
            op: "Gemm".into(),
            inputs: ["x", "w", "b"].map(str::to_owned).to_vec(),
            outputs: vec!["y".into()],
            ..Node::default()
        }],
        initializers: tensors.into_iter().collect(),
        ..Graph::default()
    }
}

fn variant(factor: u8) -> VariantId {
    VariantId(Digest::from_bytes([factor; 32]))
}

fn version(factor: u8) -> String {
    variant(factor).0.short()
}

pub(super) fn served(factor: u8) -> Served {
    Served::new(&"m".parse().unwrap(), variant(factor), loaded(factor))
}

fn put(serving: &Serving, factor: u8) {
    serving.put(&"m".parse().unwrap(), variant(factor), loaded(factor));
}

async fn start(socket: Option<&Path>) -> Serving {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let text = "coordinator = 'http://c:1'\nname = 'gw'\njoin_token = 't'\ndata = 'd'\n";
    let config = Config {
        serve: Some(free),
        serve_grpc: Some(free),
        serve_socket: socket.map(Path::to_owned),
        ..toml::from_str(text).unwrap()
    };
    Serving::start(&config).await.unwrap().unwrap()
}

/// A connection that speaks plain HTTP/1.1 and stays open.
struct Http<S>(S);

struct Heard {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Http<TcpStream> {
    async fn to(serving: &Serving) -> Self {
        Self(TcpStream::connect(serving.addresses[0].unwrap()).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http<S> {
    async fn ask(&mut self, line: &str, headers: &str, body: &[u8]) -> Heard {
        let head = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
        self.0.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> Heard {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = field(&head, "content-length").unwrap_or(0);
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Heard { status: head[9..12].parse().unwrap(), head, body }
    }

    async fn get(&mut self, path: &str) -> (u16, Value) {
        self.json(&format!("GET {path}"), "", b"").await
    }

    async fn json(&mut self, line: &str, headers: &str, body: &[u8]) -> (u16, Value) {
        let Heard { status, body, .. } = self.ask(line, headers, body).await;
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

fn field(head: &str, name: &str) -> Option<usize> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok())
}

fn numbers(x: [f32; 3]) -> Vec<u8> {
    let input = json!({ "name": "x", "datatype": "FP32", "shape": [1, 3], "data": x });
    json!({ "id": "7", "inputs": [input] }).to_string().into_bytes()
}

/// JSON with the input as bytes behind it, and the length of the JSON.
fn binary(x: &[f32]) -> (Vec<u8>, String) {
    let parameters = json!({ "binary_data_size": x.len() * 4 });
    let input =
        json!({ "name": "x", "datatype": "FP32", "shape": [x.len() / 3, 3], "parameters": parameters });
    let header = json!({ "parameters": { "binary_data_output": true }, "inputs": [input] }).to_string();
    let length = format!("inference-header-content-length: {}\r\n", header.len());
    ([header.as_bytes(), &protocol::bytes(x)].concat(), length)
}

const INFER: &str = "POST /v2/models/m/infer";

#[tokio::test(flavor = "multi_thread")]
async fn http_answers_and_refuses() {
    let serving = start(None).await;
    let mut http = Http::to(&serving).await;
    assert_eq!(http.get("/v2/health/live").await.0, 200);
    assert_eq!(http.get("/v2/health/ready").await.0, 503);
    let (status, refused) = http.json(INFER, "", &numbers([1.0; 3])).await;
    assert_eq!((status, &refused["error"]), (503, &json!("no model is in force yet")));
    put(&serving, 2);
    assert_eq!(http.get("/v2/health/ready").await.0, 200);
    assert_eq!(http.get("/v2").await.1["extensions"], json!(["binary_tensor_data"]));
    let (_, model) = http.get("/v2/models/m").await;
    let tensor = |name, length| json!([{ "name": name, "datatype": "FP32", "shape": [-1, length] }]);
    assert_eq!((&model["inputs"], &model["outputs"]), (&tensor("x", 3), &tensor("y", 2)));
    assert_eq!(model["versions"], json!([version(2)]));

    let (status, answer) = http.json(INFER, "", &numbers([1.0, 2.0, 4.0])).await;
    assert_eq!((status, &answer["outputs"][0]["data"]), (200, &json!([14.0, 2.0])), "{answer}");
    assert_eq!((&answer["model_version"], &answer["id"]), (&json!(version(2)), &json!("7")));
    let (body, length) = binary(&[1.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]);
    let answer = http.ask(&format!("POST /v2/models/m/versions/{}/infer", version(2)), &length, &body).await;
    let header = field(&answer.head, "inference-header-content-length").unwrap();
    let outputs: Vec<f32> =
        answer.body[header..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    // The last is 0 · NaN + 2: NaN to a dense kernel, 2 to a sparse one, and either may have won the trial.
    assert!(outputs.len() == 4 && outputs[..2] == [2.0, 2.0] && outputs[2].is_nan(), "{outputs:?}");

    let good = numbers([1.0; 3]);
    for (line, headers, body, expected) in [
        (INFER, "", &b"{"[..], 400),
        (INFER, "inference-header-content-length: 9999\r\n", &good, 400),
        (INFER, "inference-header-content-length: -1\r\n", &good, 400),
        (INFER, "content-encoding: gzip\r\n", &good, 400),
        ("POST /v2/models/n/infer", "", &good, 404),
        ("POST /v2/models/m/versions/9/infer", "", &good, 404),
        ("POST /v3", "", b"", 404),
        ("GET /v2/models/m/infer", "", b"", 405),
        ("POST /v2/models/m/feedback", "", br#"{"id":"8","label":0}"#, 404),
    ] {
        let (status, refused) = http.json(line, headers, body).await;
        assert_eq!(status, expected, "{line} {headers} {refused}");
        assert!(refused["error"].is_string());
    }
    assert_eq!(http.json(INFER, "", &good).await.0, 200, "the connection goes on");
    let mut large = Http::to(&serving).await;
    let length = caps::SERVE_BODY_BYTES + 1;
    large
        .0
        .write_all(format!("{INFER} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(large.hear().await.status, 413);

    let label = |label: u8| json!({ "id": "7", "label": label }).to_string();
    assert_eq!(http.json("POST /v2/models/m/feedback", "", label(0).as_bytes()).await.0, 200);
    assert_eq!(http.json("POST /v2/models/m/feedback", "", label(0).as_bytes()).await.0, 404, "once");
    assert_eq!(http.json(INFER, "", &good).await.0, 200);
    assert_eq!(http.json("POST /v2/models/m/feedback", "", label(1).as_bytes()).await.0, 200);
    assert_eq!(serving.labelled(variant(2)), Accuracy { samples: 2, correct: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_share_what_they_may_take() {
    let serving = start(None).await;
    put(&serving, 1);
    let _held = serving.shared.bodies.acquire_many(caps::SERVE_BODIES_BYTES as u32 - 8).await.unwrap();
    let mut http = Http::to(&serving).await;
    assert_eq!(http.json(INFER, "", &numbers([1.0; 3])).await.0, 429);
    assert_eq!(http.get("/v2/models/m").await.0, 200);
    let refused = grpc(&serving).await.model_infer(call(&[1.0; 3])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_answers_and_replaces_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    for factor in [1, 2] {
        let serving = start(Some(&path)).await;
        put(&serving, factor);
        let mut http = Http(UnixStream::connect(&path).await.unwrap());
        let (_, answer) = http.json(INFER, "", &numbers([1.0; 3])).await;
        assert_eq!(answer["outputs"][0]["data"][1], json!(f32::from(factor)));
    }
    std::fs::write(folder.path().join("file"), "mine").unwrap();
    assert!(listen_on_socket(&folder.path().join("file")).is_err(), "a file is not taken away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_connections_keeps_nobody_out() {
    let serving = start(None).await;
    put(&serving, 1);
    for address in serving.addresses {
        let mut silent = Vec::new();
        for _ in 0..2 * caps::SERVE_CONNECTIONS {
            silent.push(TcpStream::connect(address.unwrap()).await.unwrap());
        }
        assert!(grpc(&serving).await.model_infer(call(&[1.0; 3])).await.is_ok());
        assert_eq!(Http::to(&serving).await.json(INFER, "", &numbers([1.0; 3])).await.0, 200);
        // The first gave way: the connection ends, with whatever the protocol says first.
        let _ = silent[0].read_to_end(&mut Vec::new()).await;
    }
}

async fn grpc(serving: &Serving) -> GrpcInferenceServiceClient<Channel> {
    let address = format!("http://{}", serving.addresses[1].unwrap());
    GrpcInferenceServiceClient::connect(address).await.unwrap()
}

fn call(x: &[f32]) -> ModelInferRequest {
    let shape = vec![x.len() as i64 / 3, 3];
    let input =
        InferInputTensor { name: "x".into(), datatype: "FP32".into(), shape, ..InferInputTensor::default() };
    ModelInferRequest {
        model_name: "m".into(),
        id: "7".into(),
        inputs: vec![input],
        raw_input_contents: vec![protocol::bytes(x)],
        ..ModelInferRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_answers_and_refuses() {
    let serving = start(None).await;
    let mut grpc = grpc(&serving).await;
    assert!(grpc.server_live(ServerLiveRequest {}).await.unwrap().get_ref().live);
    assert!(!grpc.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    assert_eq!(grpc.model_infer(call(&[1.0; 3])).await.unwrap_err().code(), Code::Unavailable);
    put(&serving, 2);
    assert!(grpc.server_ready(ServerReadyRequest {}).await.unwrap().get_ref().ready);
    let metadata = grpc.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "secateur-agent");
    for (name, ready) in [("m", true), ("n", false)] {
        let request = ModelReadyRequest { name: name.into(), version: String::new() };
        assert_eq!(grpc.model_ready(request).await.unwrap().get_ref().ready, ready);
    }
    let request = ModelMetadataRequest { name: "m".into(), version: version(2) };
    let model = grpc.model_metadata(request).await.unwrap().into_inner();
    assert_eq!((model.versions, &model.inputs[0].shape[..]), (vec![version(2)], &[-1, 3][..]));

    let answer = grpc.model_infer(call(&[1.0, 2.0, 4.0, 0.0, 0.0, 1.0])).await.unwrap().into_inner();
    assert_eq!(answer.raw_output_contents, [protocol::bytes(&[14.0, 2.0, 2.0, 2.0])]);
    assert_eq!((answer.outputs[0].shape.as_slice(), answer.id.as_str()), (&[2, 2][..], "7"));
    let mut numbers = call(&[1.0; 3]);
    numbers.raw_input_contents.clear();
    let fp32_contents = vec![1.0; 3];
    numbers.inputs[0].contents =
        Some(InferTensorContents { fp32_contents, ..InferTensorContents::default() });
    assert!(grpc.model_infer(numbers.clone()).await.is_ok());

    let refused = |change: fn(&mut ModelInferRequest)| {
        let mut request = call(&[1.0; 3]);
        change(&mut request);
        let mut grpc = grpc.clone();
        async move { grpc.model_infer(request).await.unwrap_err().code() }
    };
    assert_eq!(refused(|request| request.model_name = "n".into()).await, Code::NotFound);
    assert_eq!(refused(|request| request.model_version = "9".into()).await, Code::NotFound);
    assert_eq!(refused(|request| request.inputs[0].shape[0] = i64::MAX).await, Code::InvalidArgument);
    assert_eq!(refused(|request| request.inputs[0].datatype.clear()).await, Code::InvalidArgument);
    assert_eq!(refused(|request| request.raw_input_contents[0].truncate(11)).await, Code::InvalidArgument);
    assert_eq!(refused(|request| request.raw_input_contents.push(vec![])).await, Code::InvalidArgument);
    assert_eq!(refused(|request| request.raw_input_contents.clear()).await, Code::InvalidArgument);
    numbers.raw_input_contents = vec![vec![0; 12]];
    assert_eq!(grpc.model_infer(numbers).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(grpc.model_infer(call(&[1.0; 3])).await.is_ok(), "the connection goes on");
}

/// What one client saw: its requests, and those of them that variant 2 answered.
#[derive(Default)]
struct Seen {
    requests: usize,
    second: usize,
}

impl Seen {
    /// The answer to `[x, 0, 0]` is wholly that of the version it tells.
    fn check(&mut self, x: f32, told: &str, output: [f32; 2]) {
        let factor = if told == version(1) { 1.0 } else { 2.0 };
        assert!(told == version(1) || told == version(2), "an unknown version {told}");
        assert_eq!(output, [factor * x, factor], "an answer that is not version {told}'s");
        self.requests += 1;
        self.second += usize::from(factor == 2.0);
    }
}

/// Requests of a client, at least; swaps under them, at least.
const REQUESTS: usize = 100;
const SWAPS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swaps_under_load_lose_and_mix_nothing() {
    let serving = Arc::new(start(None).await);
    put(&serving, 1);
    let swaps = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for client in 0..6 {
        let (serving, swaps) = (serving.clone(), swaps.clone());
        clients.spawn(async move {
            let (mut http, mut grpc, mut seen) =
                (Http::to(&serving).await, grpc(&serving).await, Seen::default());
            while seen.requests < REQUESTS || swaps.load(Ordering::Relaxed) < SWAPS {
                let x = seen.requests as f32;
                if client % 2 == 0 {
                    let (status, answer) = http.json(INFER, "", &numbers([x, 0.0, 0.0])).await;
                    assert_eq!(status, 200, "{answer}");
                    let data: [f32; 2] =
                        serde_json::from_value(answer["outputs"][0]["data"].clone()).unwrap();
                    seen.check(x, answer["model_version"].as_str().unwrap(), data);
                } else {
                    let answer = grpc.model_infer(call(&[x, 0.0, 0.0])).await.unwrap().into_inner();
                    let data = |at: usize| {
                        let bytes = answer.raw_output_contents[0][4 * at..4 * at + 4].try_into().unwrap();
                        f32::from_le_bytes(bytes)
                    };
                    seen.check(x, &answer.model_version, [data(0), data(1)]);
                }
            }
            seen
        });
    }
    let mut all = Seen::default();
    while !clients.is_empty() {
        let factor = (swaps.fetch_add(1, Ordering::Relaxed) % 2) as u8 + 1;
        let serving = serving.clone();
        tokio::task::spawn_blocking(move || put(&serving, factor)).await.unwrap();
        while let Some(seen) = clients.try_join_next() {
            let seen = seen.unwrap();
            all.requests += seen.requests;
            all.second += seen.second;
        }
    }
    let swaps = swaps.load(Ordering::Relaxed);
    println!("{} requests, {} answered by the second variant, {swaps} swaps", all.requests, all.second);
    assert!(all.requests >= 6 * REQUESTS && swaps >= SWAPS && all.second > 0 && all.second < all.requests);
}

#[test]
fn the_variant_before_is_freed_with_its_last_request() {
    let current = Current::default();
    current.swap(served(1));
    let taken = current.find("m", None).unwrap();
    let weak = Arc::downgrade(&taken);
    current.swap(served(2));
    assert_eq!(taken.run(1, &[1.0, 0.0, 0.0], || false).unwrap(), [1.0, 1.0]);
    assert!(taken.run(1, &[1.0, 0.0, 0.0], || true).is_err(), "nobody waits for it");
    drop(taken);
    assert!(weak.upgrade().is_none());
    assert_eq!(current.find("m", None).unwrap().version, version(2));
}
