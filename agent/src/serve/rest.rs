//! The protocol over HTTP/1.1, on TCP and on a Unix socket.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use secateur_common::caps;
use serde_json::json;
use tokio::sync::{SemaphorePermit, mpsc};
use tokio::task::JoinSet;

use super::listen::{Connection, Listener, accept};
use super::protocol::{self, Answer, Refused};
use super::served::Served;
use super::{EXTENSIONS, PLATFORM, SERVER, Shared};

/// The length of the JSON where tensors stand behind it as bytes.
const HEADER_LENGTH: &str = "inference-header-content-length";
/// A request's head, at most, in bytes.
const HEAD_BYTES: usize = 16 * 1024;
const READ: Duration = Duration::from_secs(caps::SERVE_READ_S);

/// Serves connections, for ever.
pub(super) async fn serve(listener: Listener, shared: Arc<Shared>) {
    let (accepted, mut connections) = mpsc::channel(1);
    let conversations = async {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(Ok(connection)) = connections.recv() => drop(open.spawn(converse(connection, shared.clone()))),
                Some(_) = open.join_next() => {}
                else => return,
            }
        }
    };
    tokio::join!(conversations, accept(listener, accepted));
}

async fn converse(connection: Connection, shared: Arc<Shared>) {
    let service = service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(respond(&shared, request).await) }
    });
    let conversation = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), service);
    if let Err(error) = conversation.await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// What a path asks for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Route<'a> {
    Live,
    Ready,
    Server,
    Model { model: &'a str, version: Option<&'a str>, action: Action },
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Action {
    Metadata,
    Ready,
    Infer,
    Feedback,
}

impl<'a> Route<'a> {
    /// Names may hold slashes, so a path is read from its end.
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/v2")?;
        let rest = match path.trim_end_matches('/') {
            "" => return Some(Self::Server),
            "/health/live" => return Some(Self::Live),
            "/health/ready" => return Some(Self::Ready),
            path => path.strip_prefix("/models/")?,
        };
        let (rest, action) = match rest.rsplit_once('/') {
            Some((rest, "ready")) => (rest, Action::Ready),
            Some((rest, "infer")) => (rest, Action::Infer),
            Some((rest, "feedback")) => (rest, Action::Feedback),
            _ => (rest, Action::Metadata),
        };
        let (model, version) = match rest.rsplit_once("/versions/") {
            Some((model, version)) => (model, Some(version)),
            None => (rest, None),
        };
        Some(Self::Model { model, version, action })
    }

    fn method(self) -> Method {
        match self {
            Self::Model { action: Action::Infer | Action::Feedback, .. } => Method::POST,
            _ => Method::GET,
        }
    }
}

type Reply = Response<Full<Bytes>>;

async fn respond(shared: &Shared, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().replace("%2F", "/");
    let Some(route) = Route::of(&path) else {
        return refuse(&Refused::NotFound(format!("path `{}`", path.chars().take(80).collect::<String>())));
    };
    if request.method() != route.method() {
        let refused = Refused::Invalid(format!("this path takes {}", route.method()));
        return with_status(StatusCode::METHOD_NOT_ALLOWED, error(&refused));
    }
    let result = match route {
        Route::Live => Ok(Response::default()),
        Route::Ready => shared.current.get().map(|_| Response::default()),
        Route::Server => Ok(json(&json!({
            "name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS,
        }))),
        Route::Model { model, version, action } => match shared.current.find(model, version) {
            Ok(served) => act(shared, &served, action, request).await,
            Err(refused) => Err(refused),
        },
    };
    result.unwrap_or_else(|refused| refuse(&refused))
}

async fn act(
    shared: &Shared,
    served: &Arc<Served>,
    action: Action,
    request: Request<Incoming>,
) -> Result<Reply, Refused> {
    match action {
        Action::Ready => Ok(Response::default()),
        Action::Metadata => Ok(metadata(served)),
        Action::Infer => infer(shared, served, request).await,
        Action::Feedback => {
            let (id, label) = protocol::read_label(&body(shared, request).await?.1)?;
            match shared.labels().label(&id, label) {
                true => Ok(json(&json!({ "id": id }))),
                false => Err(Refused::NotFound(format!("request `{id}`"))),
            }
        }
    }
}

fn metadata(served: &Served) -> Reply {
    json(&json!({
        "name": served.model,
        "versions": [served.version],
        "platform": PLATFORM,
        "inputs": [served.signature.input.metadata()],
        "outputs": [served.signature.output.metadata()],
    }))
}

async fn infer(shared: &Shared, served: &Arc<Served>, request: Request<Incoming>) -> Result<Reply, Refused> {
    let header_bytes = match request.headers().get(HEADER_LENGTH) {
        None => None,
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.parse::<usize>().ok());
            Some(length.ok_or_else(|| Refused::invalid(format!("{HEADER_LENGTH} is not a length")))?)
        }
    };
    let (_held, bytes) = body(shared, request).await?;
    let mut inference = protocol::read(&bytes, header_bytes, &served.signature)?;
    drop(bytes);
    let values = shared.infer(served, &mut inference).await?;
    let answer = Answer {
        model: &served.model,
        version: &served.version,
        id: &inference.id,
        output: &served.signature.output,
        rows: inference.rows,
        values: &values,
    };
    let (body, header_bytes) = protocol::write(&answer, inference.binary_output);
    let mut reply = Response::new(Full::new(body.into()));
    let headers = reply.headers_mut();
    let kind = if header_bytes.is_some() { "application/octet-stream" } else { "application/json" };
    headers.insert(CONTENT_TYPE, kind.parse().map_err(failed)?);
    if let Some(length) = header_bytes {
        headers.insert(HEADER_LENGTH, length.into());
    }
    Ok(reply)
}

/// The whole body, with its share of what all bodies may take.
async fn body<'a>(
    shared: &'a Shared,
    request: Request<Incoming>,
) -> Result<(SemaphorePermit<'a>, Bytes), Refused> {
    if is_encoded(request.headers()) {
        return Err(Refused::invalid("compressed bodies are not offered"));
    }
    let most = request.body().size_hint().upper().unwrap_or(caps::SERVE_BODY_BYTES as u64);
    if most > caps::SERVE_BODY_BYTES as u64 {
        return Err(Refused::TooLarge(caps::SERVE_BODY_BYTES));
    }
    let held = shared.hold(most as usize)?;
    let whole = Limited::new(request.into_body(), most as usize).collect();
    match tokio::time::timeout(READ, whole).await {
        Err(_) => Err(Refused::Slow),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refused::TooLarge(caps::SERVE_BODY_BYTES)),
        Ok(Err(error)) => Err(Refused::invalid(format!("the body cannot be read: {error}"))),
        Ok(Ok(whole)) => Ok((held, whole.to_bytes())),
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
}

fn json(value: &serde_json::Value) -> Reply {
    let mut reply = Response::new(Full::new(value.to_string().into()));
    if let Ok(kind) = "application/json".parse() {
        reply.headers_mut().insert(CONTENT_TYPE, kind);
    }
    reply
}

fn error(refused: &Refused) -> Reply {
    json(&json!({ "error": refused.to_string() }))
}

fn refuse(refused: &Refused) -> Reply {
    let status = match refused {
        Refused::Invalid(_) => StatusCode::BAD_REQUEST,
        Refused::NotFound(_) => StatusCode::NOT_FOUND,
        Refused::NotReady => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Busy => StatusCode::TOO_MANY_REQUESTS,
        Refused::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::Slow => StatusCode::REQUEST_TIMEOUT,
        Refused::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    with_status(status, error(refused))
}

fn with_status(status: StatusCode, mut reply: Reply) -> Reply {
    *reply.status_mut() = status;
    reply
}

fn failed(error: impl std::fmt::Display) -> Refused {
    Refused::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        let model = |model, version, action| Some(Route::Model { model, version, action });
        for (path, route) in [
            ("/v2", Some(Route::Server)),
            ("/v2/", Some(Route::Server)),
            ("/v2/health/live", Some(Route::Live)),
            ("/v2/health/ready", Some(Route::Ready)),
            ("/v2/models/m", model("m", None, Action::Metadata)),
            ("/v2/models/a/b/infer", model("a/b", None, Action::Infer)),
            ("/v2/models/a/b/versions/1/ready", model("a/b", Some("1"), Action::Ready)),
            ("/v2/models/m/versions/1", model("m", Some("1"), Action::Metadata)),
            ("/v2/models/m/feedback", model("m", None, Action::Feedback)),
            ("/v1/models/m", None),
            ("/v2models/m", None),
            ("/v2/health", None),
            ("", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
