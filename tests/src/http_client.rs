//! An HTTP client that adds nothing: no redirects, no headers, no changed paths.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request as HttpRequest, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::l402::{self, Challenge, Token};

/// Longest wait for a whole answer unless [`Request::timeout`] says otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A client of one server; connections are kept and reused. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, UnsyncBoxBody<Bytes, Infallible>>,
    server: SocketAddr,
    host: Option<String>,
}

impl Http {
    /// HTTP/1.1 to `server`.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self {
            client,
            server,
            host: None,
        }
    }

    /// HTTP/2 with prior knowledge to `server`.
    #[must_use]
    pub fn h2(server: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        Self {
            client,
            server,
            host: None,
        }
    }

    /// Names another host than the server's address in every request.
    #[must_use]
    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// A request to `target`: path and query, sent as they are.
    pub fn request(&self, method: Method, target: &str) -> Request {
        Request {
            http: self.clone(),
            method,
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            trailers: None,
            timeout: TIMEOUT,
            fault: None,
        }
    }

    /// A `GET` request.
    pub fn get(&self, target: &str) -> Request {
        self.request(Method::GET, target)
    }

    /// A `POST` request.
    pub fn post(&self, target: &str, body: impl Into<Bytes>) -> Request {
        let mut request = self.request(Method::POST, target);
        request.body = body.into();
        request
    }
}

/// A request that is being put together.
#[derive(Debug)]
#[must_use]
pub struct Request {
    http: Http,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
    timeout: Duration,
    fault: Option<anyhow::Error>,
}

impl Request {
    /// Adds a header; a name given twice is sent twice.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        match (
            HeaderName::try_from(name),
            HeaderValue::from_bytes(value.as_ref()),
        ) {
            (Ok(name), Ok(value)) => {
                self.headers.append(name, value);
            }
            _ => self.fault = Some(anyhow::anyhow!("no such header can be sent: {name}")),
        }
        self
    }

    /// Presents a token as its buyer does.
    pub fn token(self, token: &Token) -> Self {
        self.header(AUTHORIZATION.as_str(), token.authorization())
    }

    /// Sends these after the body; HTTP/2 only.
    pub fn trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    /// Longest wait for the whole answer.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the whole answer.
    ///
    /// # Errors
    /// When no complete answer comes in time.
    pub async fn send(self) -> anyhow::Result<Answer> {
        let (what, timeout) = (format!("{} {}", self.method, self.target), self.timeout);
        let start = Instant::now();
        let whole = async {
            let answer = self.stream().await?;
            let first_byte = start.elapsed();
            let body = answer.body.collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            anyhow::Ok(Answer {
                status: answer.status,
                headers: answer.headers,
                trailers,
                body: body.to_bytes(),
                first_byte,
                elapsed: start.elapsed(),
            })
        };
        tokio::time::timeout(timeout, whole)
            .await
            .with_context(|| format!("{what}: no answer within {timeout:?}"))?
            .with_context(|| what)
    }

    /// Sends it and reads the head of the answer.
    ///
    /// # Errors
    /// When none comes.
    pub async fn stream(self) -> anyhow::Result<Streaming> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let what = format!("{} {}", self.method, self.target);
        let uri: Uri = format!("http://{}{}", self.http.server, self.target)
            .parse()
            .with_context(|| format!("{what}: not a target"))?;
        let body = Full::new(self.body);
        let mut request = HttpRequest::new(match self.trailers {
            Some(trailers) => body
                .with_trailers(std::future::ready(Some(Ok(trailers))))
                .boxed_unsync(),
            None => body.boxed_unsync(),
        });
        *request.method_mut() = self.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers;
        if let Some(host) = &self.http.host {
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_str(host)?);
        }
        let (head, body) = self.http.client.request(request).await?.into_parts();
        Ok(Streaming {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Streaming {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    body: hyper::body::Incoming,
}

impl Streaming {
    /// Reads on until what has come since the last call ends in `end`, and gives it.
    ///
    /// # Errors
    /// When the body ends or nothing like that comes within `timeout`; what has come is in the
    /// error.
    pub async fn until(&mut self, end: &str, timeout: Duration) -> anyhow::Result<String> {
        let mut text = String::new();
        let wait = async {
            while !text.ends_with(end) {
                let frame = self.body.frame().await.context("the body has ended")??;
                if let Ok(data) = frame.into_data() {
                    text.push_str(std::str::from_utf8(&data)?);
                }
            }
            anyhow::Ok(())
        };
        let waited = tokio::time::timeout(timeout, wait).await;
        let waited = waited.map_err(|_| anyhow::anyhow!("no {end:?} within {timeout:?}"));
        match waited.and_then(|read| read) {
            Ok(()) => Ok(text),
            Err(error) => Err(error.context(format!("after {text:?}"))),
        }
    }

    /// Reads the next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// When it breaks off, or nothing comes within `timeout`.
    pub async fn piece(&mut self, timeout: Duration) -> anyhow::Result<Option<Bytes>> {
        let frame = tokio::time::timeout(timeout, async {
            loop {
                match self.body.frame().await {
                    None => return anyhow::Ok(None),
                    Some(frame) => {
                        if let Ok(data) = frame?.into_data() {
                            return Ok(Some(data));
                        }
                    }
                }
            }
        });
        frame.await.context("nothing has come")?
    }

    /// Reads the rest.
    ///
    /// # Errors
    /// When it breaks off, or does not end within `timeout`.
    pub async fn rest(self, timeout: Duration) -> anyhow::Result<String> {
        let rest = tokio::time::timeout(timeout, self.body.collect()).await??;
        Ok(String::from_utf8(rest.to_bytes().to_vec())?)
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Trailers, empty if there were none.
    pub trailers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Time to the headers.
    pub first_byte: Duration,
    /// Time to the end of the body.
    pub elapsed: Duration,
}

impl Answer {
    /// Body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as JSON; `Null` if it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's first value as text; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// `detail` of the problem body: the reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> String {
        self.json()
            .get("detail")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    /// All L402 and LSAT challenges in it, in order.
    #[must_use]
    pub fn challenges(&self) -> Vec<Challenge> {
        l402::challenges(&self.headers)
    }
}
