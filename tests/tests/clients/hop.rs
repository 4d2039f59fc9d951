//! A hop before the gate: it notes what passes, may change how offers are written down, as hops of
//! the world do, and can hold back what was paid for until a test has done something meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use e2e::http_client::Http;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Method, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// What it does to offers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rewriting {
    /// All lines of `WWW-Authenticate` become one, with commas between.
    pub(crate) joins: bool,
    /// Written at the end of each line of the Payment scheme.
    pub(crate) adds: &'static str,
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// What the client sent.
    pub(crate) request: HeaderMap,
    /// What the gate answered.
    pub(crate) status: u16,
    /// The same, before any rewriting.
    pub(crate) answer: HeaderMap,
}

impl Exchange {
    /// A header that the client sent; empty if there is none.
    pub(crate) fn sent(&self, name: &str) -> &str {
        text(&self.request, name)
    }

    /// A header of the answer; empty if there is none.
    pub(crate) fn got(&self, name: &str) -> &str {
        text(&self.answer, name)
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// A credential of the Payment scheme on its way.
#[derive(Debug)]
pub(crate) struct Held {
    /// Value of `Authorization`.
    pub(crate) authorization: String,
    go: oneshot::Sender<()>,
}

impl Held {
    /// Lets it go on.
    pub(crate) fn let_go(self) {
        let _ = self.go.send(());
    }
}

#[derive(Debug)]
struct Passing {
    gate: Http,
    rewriting: Rewriting,
    exchanges: Mutex<Vec<Exchange>>,
    hold: Mutex<Option<mpsc::UnboundedSender<Held>>>,
}

/// A running hop; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Hop {
    address: SocketAddr,
    passing: Arc<Passing>,
    task: JoinHandle<()>,
}

impl Hop {
    /// Stands before `gate` on a free port.
    pub(crate) async fn start(gate: Http, rewriting: Rewriting) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let passing = Arc::new(Passing {
            gate,
            rewriting,
            exchanges: Mutex::default(),
            hold: Mutex::default(),
        });
        let service = Router::new()
            .fallback(pass)
            .with_state(Arc::clone(&passing));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, service).await;
        });
        Ok(Self {
            address,
            passing,
            task,
        })
    }

    /// `target` by way of this hop.
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// All that has passed, oldest first.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.passing.exchanges).clone()
    }

    /// From now on every credential of the Payment scheme is held and handed out here, until the
    /// receiver is dropped.
    pub(crate) fn hold(&self) -> mpsc::UnboundedReceiver<Held> {
        let (sender, held) = mpsc::unbounded_channel();
        *lock(&self.passing.hold) = Some(sender);
        held
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(State(passing): State<Arc<Passing>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    match passing.on(&head).await {
        Ok(answer) => answer,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

impl Passing {
    async fn on(&self, request: &Parts) -> anyhow::Result<Response> {
        let target = request.uri.path_and_query().context("no target")?;
        anyhow::ensure!(request.method == Method::GET, "not made for bodies");
        let authorization = text(&request.headers, AUTHORIZATION.as_str());
        if authorization.starts_with("Payment ") {
            self.hold_back(authorization).await;
        }
        let mut onward = self.gate.get(target.as_str());
        for (name, value) in &request.headers {
            if ![HOST, CONNECTION].contains(name) {
                onward = onward.header(name.as_str(), value);
            }
        }
        let answer = onward.send().await?;
        lock(&self.exchanges).push(Exchange {
            request: request.headers.clone(),
            status: answer.status,
            answer: answer.headers.clone(),
        });
        let mut back = Response::new(Body::from(answer.body));
        *back.status_mut() = StatusCode::from_u16(answer.status)?;
        *back.headers_mut() = answer.headers;
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            back.headers_mut().remove(name);
        }
        self.rewrite(back.headers_mut())?;
        Ok(back)
    }

    async fn hold_back(&self, authorization: &str) {
        let (go, gone) = oneshot::channel();
        let held = Held {
            authorization: authorization.to_owned(),
            go,
        };
        let is_held = lock(&self.hold)
            .as_ref()
            .is_some_and(|hold| hold.send(held).is_ok());
        if is_held {
            let _ = gone.await;
        }
    }

    fn rewrite(&self, headers: &mut HeaderMap) -> anyhow::Result<()> {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        let lines: Result<Vec<_>, _> = lines.map(|line| line.to_str()).collect();
        let mut lines: Vec<String> = lines?.into_iter().map(str::to_owned).collect();
        for line in &mut lines {
            if line.starts_with("Payment ") {
                line.push_str(self.rewriting.adds);
            }
        }
        if self.rewriting.joins && !lines.is_empty() {
            lines = vec![lines.join(", ")];
        }
        headers.remove(WWW_AUTHENTICATE);
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::try_from(line)?);
        }
        Ok(())
    }
}
