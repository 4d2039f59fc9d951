//! A sidecar in this process, a client for it, and waiting.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use protocol::api::charge::{ClaimRequest, ClaimsRequest};
use protocol::api::{
    BOOTSTRAP_PATH, Bootstrap, ClientHint, OFFERS_PATH, Offer, OfferTemplate, Offers, OffersRequest,
};
use serde_json::Value;
use sidecar::Running;
use sidecar::adapters::ledger::AnyLedger;
use sidecar::config::{self, Sources};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "ring2-bearer-token-1";
pub(crate) const PREVIOUS: &str = "ring2-bearer-token-0";
pub(crate) const VM: &str = "0123456789abcdef0123456789abcdef";

/// One call with these claims.
pub(crate) fn claims(claims: &[ClaimRequest]) -> ClaimsRequest {
    ClaimsRequest {
        vm: VM.to_owned(),
        claims: claims.to_vec(),
    }
}

/// Which ledger a test runs on.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// `ledger.db` in the test's folder.
    Sqlite,
    /// A database of the test's own.
    Postgres(Arc<test_postgres::Database>),
}

impl Store {
    /// An empty database.
    pub(crate) async fn postgres() -> Self {
        let made = tokio::task::spawn_blocking(test_postgres::database);
        Self::Postgres(Arc::new(made.await.unwrap().unwrap()))
    }

    /// The setting.
    pub(crate) fn yaml(&self, dir: &Path) -> String {
        match self {
            Self::Sqlite => {
                let path = dir.join("ledger.db");
                format!("ledger: {{ sqlite: {{ path: '{}' }} }}", path.display())
            }
            Self::Postgres(url) => format!("ledger: {{ postgres: {{ url: '{url}' }} }}"),
        }
    }

    /// The ledger beside the sidecar that serves from it.
    pub(crate) async fn open(&self, dir: &Path) -> AnyLedger {
        let yaml = format!("{}\nlightning: {{ dev: {{}} }}\n", self.yaml(dir));
        AnyLedger::open(&load(&yaml).ledger).await.unwrap()
    }
}

/// Makes tests of functions that take a [`Store`]: each for every kind of ledger.
macro_rules! on_each_ledger {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::support::Store::Sqlite).await;
                }
            )+
        }

        mod postgres {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::support::Store::postgres().await).await;
                }
            )+
        }
    };
}
pub(crate) use on_each_ledger;

/// A sidecar and its folder.
pub(crate) struct Sidecar {
    pub(crate) dir: TempDir,
    pub(crate) running: Option<Running>,
    pub(crate) api: Api,
    pub(crate) admin: SocketAddr,
    pub(crate) dev: Option<SocketAddr>,
    store: Store,
    stop: CancellationToken,
}

impl Sidecar {
    /// With the dev network, on a ledger of this kind; `more` is YAML.
    pub(crate) async fn dev_on(store: Store, more: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ledger.db-dev.db");
        let dev = format!("{{ listen: 127.0.0.1:0, path: '{}' }}", path.display());
        let more = format!("lightning: {{ dev: {dev} }}\n{more}\n");
        Self::start_on(store, dir, &more, |_| {}).await
    }

    /// With the dev network; `more` is YAML.
    pub(crate) async fn dev(more: &str) -> Self {
        Self::dev_in(TempDir::new().unwrap(), "{ listen: 127.0.0.1:0 }", more).await
    }

    pub(crate) async fn dev_in(dir: TempDir, dev: &str, more: &str) -> Self {
        Self::start(dir, &format!("lightning: {{ dev: {dev} }}\n{more}\n")).await
    }

    pub(crate) async fn start(dir: TempDir, more: &str) -> Self {
        Self::start_changed(dir, more, |_| {}).await
    }

    /// With a configuration that is changed after it was checked.
    pub(crate) async fn start_changed(
        dir: TempDir,
        more: &str,
        change: impl FnOnce(&mut config::Config),
    ) -> Self {
        Self::start_on(Store::Sqlite, dir, more, change).await
    }

    async fn start_on(
        store: Store,
        dir: TempDir,
        more: &str,
        change: impl FnOnce(&mut config::Config),
    ) -> Self {
        let stop = CancellationToken::new();
        let mut config = load(&yaml_on(&store, &dir, more));
        change(&mut config);
        let running = sidecar::start(config, stop.clone().cancelled_owned())
            .await
            .unwrap();
        Self {
            api: Api(running.api),
            admin: running.admin,
            dev: running.dev,
            running: Some(running),
            store,
            stop,
            dir,
        }
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger.db")
    }

    /// Its ledger, whichever it is.
    pub(crate) async fn open_ledger(&self) -> AnyLedger {
        self.store.open(self.dir.path()).await
    }

    /// Ends it in order and gives its folder back.
    pub(crate) async fn end(mut self) -> TempDir {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            running.ended().await;
        }
        self.dir
    }

    pub(crate) async fn pay(&self, invoice: &str) -> Result<String, String> {
        pay(self.dev.unwrap(), invoice).await
    }

    pub(crate) async fn ready(&self, query: &str) -> (u16, Value) {
        let url = format!("http://{}/readyz{query}", self.admin);
        let answer = sidecar::http::client::request(&url, None).await.unwrap();
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.admin);
        sidecar::http::client::request(&url, None)
            .await
            .unwrap()
            .body
    }

    pub(crate) async fn metric(&self, line: &str) -> Option<f64> {
        let text = self.metrics().await;
        let rest = text.lines().find_map(|l| l.strip_prefix(line))?;
        rest.trim().parse().ok()
    }
}

fn yaml_on(store: &Store, dir: &TempDir, more: &str) -> String {
    let ledger = store.yaml(dir.path());
    format!("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{ledger}\ndrain: 1s\n{more}")
}

pub(crate) fn load(yaml: &str) -> config::Config {
    let sources = Sources {
        file: yaml.to_owned(),
        ..Sources::default()
    };
    let variables = |name: &str| match name {
        "BOLTGATE_TOKEN" => Some(TOKEN.to_owned()),
        "BOLTGATE_TOKEN_PREVIOUS" => Some(PREVIOUS.to_owned()),
        _ => None,
    };
    config::load(&sources, variables).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Pays at the door of a dev network; the preimage, or what it says.
pub(crate) async fn pay(door: SocketAddr, invoice: &str) -> Result<String, String> {
    let body = serde_json::json!({ "invoice": invoice }).to_string();
    let url = format!("http://{door}/pay");
    let answer = sidecar::http::client::request(&url, Some(body)).await?;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    match body["preimage"].as_str() {
        Some(preimage) => Ok(preimage.to_owned()),
        None => Err(body["message"].as_str().unwrap_or_default().to_owned()),
    }
}

/// An answer of the API.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A client of the API.
#[derive(Clone, Copy)]
pub(crate) struct Api(pub(crate) SocketAddr);

impl Api {
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// To a sidecar that may die over it.
    pub(crate) async fn try_send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let connected = TcpStream::connect(self.0).await;
        let io = TokioIo::new(connected.map_err(|error| error.to_string())?);
        let answered = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            read(sender.send_request(request).await?).await
        };
        answered
            .await
            .map_err(|error: hyper::Error| error.to_string())
    }

    pub(crate) async fn send_h2(&self, request: Request<Full<Bytes>>) -> Answer {
        let io = TokioIo::new(TcpStream::connect(self.0).await.unwrap());
        let executor = TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        read(sender.send_request(request).await.unwrap())
            .await
            .unwrap()
    }

    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        body: impl Into<Bytes>,
    ) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{target}", self.0))
            .header("host", "boltgate")
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// `None`: nothing new.
    pub(crate) async fn bootstrap(&self, known: Option<&str>) -> Option<Bootstrap> {
        let known = known.map_or(String::new(), |known| format!("&known={known}"));
        let target = format!("{BOOTSTRAP_PATH}?vm={VM}{known}");
        let answer = self.send(self.request("GET", &target, "")).await;
        match answer.status {
            StatusCode::NOT_MODIFIED => None,
            StatusCode::OK => Some(serde_json::from_slice(&answer.body).unwrap()),
            other => panic!("{other}"),
        }
    }

    pub(crate) async fn ask(&self, request: &OffersRequest) -> Answer {
        let body = serde_json::to_vec(request).unwrap();
        self.send(self.request("POST", OFFERS_PATH, body)).await
    }

    /// Posts it, again while the sidecar has no time for it, as filters do: a ledger on a busy
    /// machine may have no connection in time for one of many. For what may be repeated.
    pub(crate) async fn insist(&self, path: &str, body: Vec<u8>) -> Answer {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.send(self.request("POST", path, body.clone())).await;
            let is_heard = answer.status != StatusCode::SERVICE_UNAVAILABLE;
            if is_heard || tokio::time::Instant::now() > deadline {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// At least `count` offers, in as many requests as it takes.
    pub(crate) async fn collect(&self, count: usize) -> Vec<Offer> {
        let mut offers = Vec::new();
        while offers.len() < count {
            offers.extend(self.offers(4).await.offers);
        }
        offers
    }

    pub(crate) async fn offers(&self, count: u16) -> Offers {
        let body = serde_json::to_vec(&wish(count)).unwrap();
        let answer = self.insist(OFFERS_PATH, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }
}

async fn read(answer: hyper::Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

pub(crate) fn template() -> OfferTemplate {
    OfferTemplate {
        service: "weather".to_owned(),
        tier: 2,
        price_msat: protocol::amount::Msat::new(10_000).unwrap(),
        lifetime_seconds: Some(3_600),
        capabilities: vec!["forecast".to_owned()],
        constraints: vec![("forecast_volume".to_owned(), "5".to_owned())],
    }
}

pub(crate) fn wish(count: u16) -> OffersRequest {
    OffersRequest {
        vm: VM.to_owned(),
        request_id: VM.to_owned(),
        count,
        template: template(),
        client: None,
    }
}

pub(crate) fn wish_of(prefix: &str, has_paid: bool) -> OffersRequest {
    let client = ClientHint {
        prefix: prefix.to_owned(),
        has_paid,
    };
    OffersRequest {
        client: Some(client),
        ..wish(1)
    }
}

/// Waits until `condition` gives something.
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
