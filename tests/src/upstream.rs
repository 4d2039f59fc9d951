//! The sold API: a small weather service that counts and records every request that arrives,
//! whatever it is. HTTP/1.1 and HTTP/2 with prior knowledge on one port.
//!
//! | path | what |
//! | --- | --- |
//! | `/v1/forecast` | JSON |
//! | `/v1/stream` | server-sent events: eight of them, 100 ms apart, then `[DONE]` |
//! | `/v1/health` | `ok` |
//! | `/v1/broken` | 503 |
//! | `/v1/slow` | JSON after half a second |
//! | `/v1/reset` | no answer: the connection is dropped |
//! | content type `application/grpc` | each message of the request comes back; with a path that ends in `Stream` the first one comes back five times |
//! | all else | JSON that tells method and path |

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// HTTP version.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    /// Bytes of the body that have arrived so far.
    pub body_bytes: usize,
    /// Trailers, empty if none have arrived.
    pub trailers: HeaderMap,
}

impl Seen {
    /// A header's first value as text; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// What has arrived.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<Vec<Seen>>>);

impl Record {
    fn with<T>(&self, look: impl FnOnce(&mut Vec<Seen>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A running upstream, on a thread and a runtime of its own.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    record: Record,
    stop: CancellationToken,
}

impl Upstream {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (record, stop) = (Record::default(), CancellationToken::new());
        let (service, stopped) = (service(&record), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                tokio::select! {
                    _ = axum::serve(listener, service) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Ok(Self {
            address,
            record,
            stop,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Number of requests that have arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.record.with(|all| all.len())
    }

    /// Everything that has arrived.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.record.with(|all| all.clone())
    }

    /// The newest request.
    ///
    /// # Errors
    /// When none has arrived.
    pub fn last(&self) -> anyhow::Result<Seen> {
        self.record
            .with(|all| all.last().cloned())
            .context("nothing has arrived at the upstream")
    }

    /// Forgets what has arrived.
    pub fn clear(&self) {
        self.record.with(Vec::clear);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The service itself, recording into `record`.
pub fn service(record: &Record) -> Router {
    Router::new().fallback(answer).with_state(record.clone())
}

/// `GET /_counts` for a port beside the service: how many requests have arrived, by path.
pub fn counts(record: &Record) -> Router {
    let record = record.clone();
    let count = move || {
        let record = record.clone();
        async move {
            let mut paths = std::collections::BTreeMap::<String, usize>::new();
            let total = record.with(|all| {
                for seen in all.iter() {
                    let path = seen.target.split('?').next().unwrap_or_default();
                    *paths.entry(path.to_owned()).or_default() += 1;
                }
                all.len()
            });
            Json(json!({ "total": total, "paths": paths }))
        }
    };
    Router::new().route("/_counts", get(count))
}

async fn answer(State(record): State<Record>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let target = head
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let index = record.with(|all| {
        all.push(Seen {
            method: head.method.clone(),
            target: target.clone(),
            version: head.version,
            headers: head.headers.clone(),
            body_bytes: 0,
            trailers: HeaderMap::new(),
        });
        all.len() - 1
    });
    let content_type = head
        .headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let path = head.uri.path();
    if content_type.starts_with(b"application/grpc") {
        return grpc(path.ends_with("Stream"), counted(body, record, index));
    }
    let mut body = std::pin::pin!(counted(body, record, index));
    while body.next().await.is_some() {}
    match path {
        "/v1/forecast" => Json(json!({
            "place": "Reykjavik",
            "hours": [
                { "hour": 0, "celsius": 4, "sky": "clear" },
                { "hour": 6, "celsius": 2, "sky": "rain" },
                { "hour": 12, "celsius": 6, "sky": "clouds" },
            ],
        }))
        .into_response(),
        "/v1/stream" => events(),
        "/v1/health" => "ok\n".into_response(),
        "/v1/slow" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Json(json!({ "slow": true })).into_response()
        }
        "/v1/broken" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        // Ends the connection's task, quietly.
        "/v1/reset" => std::panic::resume_unwind(Box::new(())),
        _ => Json(json!({ "method": head.method.as_str(), "path": target })).into_response(),
    }
}

/// The request's data, counted as it arrives.
fn counted(body: Body, record: Record, index: usize) -> impl stream::Stream<Item = Bytes> + Send {
    BodyStream::new(body).filter_map(move |frame| {
        let data = frame.ok().and_then(|frame| {
            let (data, trailers) = match frame.into_data() {
                Ok(data) => (Some(data), None),
                Err(frame) => (None, frame.into_trailers().ok()),
            };
            record.with(|all| {
                if let Some(seen) = all.get_mut(index) {
                    seen.body_bytes += data.as_ref().map_or(0, Bytes::len);
                    seen.trailers.extend(trailers.unwrap_or_default());
                }
            });
            data
        });
        std::future::ready(data)
    })
}

fn events() -> Response {
    let events = stream::unfold(0_u8, |number| async move {
        if number > 8 {
            return None;
        }
        if number > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let event = match number {
            8 => "data: [DONE]\n\n".to_owned(),
            _ => format!("id: {number}\ndata: {{\"celsius\":{}}}\n\n", 4 + number % 3),
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), number + 1))
    });
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(events),
    )
        .into_response()
}

/// Data comes back as it is: messages keep their framing. Status 0 follows in the trailers.
fn grpc(repeat: bool, data: impl stream::Stream<Item = Bytes> + Send + 'static) -> Response {
    let data = if repeat {
        data.take(1)
            .flat_map(|message| stream::repeat(message).take(5))
            .left_stream()
    } else {
        data.right_stream()
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = data
        .map(|data| Ok::<_, Infallible>(Frame::data(data)))
        .chain(stream::once(std::future::ready(Ok(Frame::trailers(
            trailers,
        )))));
    let body = Body::new(StreamBody::new(frames).map_err(axum::Error::new));
    ([(CONTENT_TYPE, "application/grpc")], body).into_response()
}
