//! A gate that sells streams, and its buyers.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::envoy::merge;
use e2e::gate::Gate;
use e2e::http_client::{Answer, Http, Streaming};
use e2e::payment::{Session, offer_of, present};
use e2e::unpaid;
use http::Method;
use serde_json::{Value, json};

use super::upstream::Upstream;

/// Longest wait for the next piece.
const PATIENCE: Duration = Duration::from_secs(15);
/// A stream that has been silent for so long is held without having said so.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Versions of HTTP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) client: u8,
    pub(crate) upstream: u8,
}

pub(crate) struct Shop {
    gate: Gate,
    pub(crate) upstream: Upstream,
    clients: [Http; 2],
    strangers: AtomicU16,
}

/// So many events of equal length.
pub(crate) fn events(count: usize) -> String {
    let numbers = 1..=count;
    numbers
        .map(|number| format!("id: {number:03}\ndata: {number:03} of many\n\n"))
        .collect()
}

/// What is left of a stream without what the gate has put in.
pub(crate) fn strip(text: &str) -> String {
    let mut text = text.to_owned();
    for name in ["payment-need-topup", "payment-receipt", "session-timeout"] {
        let start = format!("event: {name}\n");
        while let Some(at) = text.find(&start) {
            let end = text[at..]
                .find("\n\n")
                .map_or(text.len(), |end| at + end + 2);
            text.replace_range(at..end, "");
        }
    }
    text
}

impl Shop {
    /// Sells `/chat/` for 1 sat per event with deposits of 10, and `/much/` with such of 6,000.
    pub(crate) async fn open(name: &str, hold: &str) -> anyhow::Result<Self> {
        let upstream = Upstream::start()?;
        let address = upstream.address();
        let service = |name: &str, deposit: u32| {
            json!({
                "name": name,
                "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": format!("/{name}/") } }],
                "price": { "sat": 1 },
                "schemes": ["session"],
                "session": { "unit": "event", "deposit": { "sat": deposit } },
            })
        };
        let gate = Gate::dev(name)
            .plugin(|plugin| {
                unpaid::without_limits(plugin);
                merge(
                    plugin,
                    json!({
                        "services": [service("chat", 10), service("much", 6_000)],
                        "payment": {
                            "realm": "api.test",
                            "tls": "terminated",
                            "idleTimeout": "10s",
                            "streamHold": hold,
                        },
                    }),
                );
            })
            .sidecar(unpaid::sidecar_without_limits())
            .envoy(move |envoy| {
                envoy.upstream = address;
                envoy.grpc_upstream = address;
                envoy.trusted_hops = 1;
                // As recommended where streams are sold: a chunk is never as large as what the
                // listener may buffer.
                envoy.upstream_clusters = json!({ "per_connection_buffer_limit_bytes": 32_768 });
                envoy.stream_idle_timeout = "60s".to_owned();
                let route = |prefix: &str, cluster: &str| {
                    json!({ "match": { "prefix": prefix },
                            "route": { "cluster": cluster, "timeout": "0s" } })
                };
                envoy.manager = json!({ "route_config": { "virtual_hosts": [{
                    "name": "all",
                    "domains": ["*"],
                    "routes": [route("/chat/h2/", "grpc_upstream"), route("/", "upstream")],
                }] } });
            });
        let gate = gate.start().await?;
        let clients = [gate.http(), gate.h2()];
        Ok(Self {
            gate,
            upstream,
            clients,
            strangers: AtomicU16::new(1),
        })
    }

    pub(crate) fn path(&self, kind: Kind, name: &str) -> String {
        let Kind { client, upstream } = kind;
        format!("/chat/h{upstream}/{name}/{client}")
    }

    /// Pays a deposit for a session, which is opened by its first request.
    pub(crate) async fn session(&self, path: &str) -> anyhow::Result<Session> {
        let wallet = &self.gate.wallet;
        let answer = self.challenge(path).await?;
        let invoice = wallet.return_invoice().await?;
        Session::deposit(&answer, wallet, &invoice).await
    }

    /// Opens it by a request of its own, to which the upstream has no events.
    pub(crate) async fn open_session(&self, session: &Session, path: &str) -> anyhow::Result<()> {
        self.upstream.set(path, &[], vec![super::Act::End]);
        let answer = present(&self.clients[0], path, &session.open()).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    }

    pub(crate) async fn top_up(&self, session: &Session, path: &str) -> anyhow::Result<()> {
        let offer = offer_of(&self.challenge(path).await?, "session")?;
        let preimage = offer.pay(&self.gate.wallet).await?;
        let credential = session.top_up(&offer, &preimage)?;
        let answer = present(&self.clients[0], path, &credential).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        Ok(())
    }

    /// Closes it, and says what it had left, before what the refund costs.
    pub(crate) async fn close(&self, session: &Session, path: &str) -> anyhow::Result<u64> {
        let answer = present(&self.clients[0], path, &session.close()?).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        let (deposited, spent) = self.gate.sidecar.session(session.id()?)?;
        Ok(deposited - spent)
    }

    /// A 402 for a client that has never been here: others might pay the same invoice.
    async fn challenge(&self, path: &str) -> anyhow::Result<Answer> {
        let [high, low] = self.strangers.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = format!("10.1.{high}.{low}");
        let request = self.clients[0].get(path);
        request.header("x-forwarded-for", address).send().await
    }

    /// Asks for a stream of events.
    pub(crate) async fn read(
        &self,
        kind: Kind,
        path: &str,
        credential: &str,
    ) -> anyhow::Result<Reader> {
        let reader = self.read_any(kind, path, credential).await?;
        ensure!(reader.status() == 200, "{}", reader.status());
        Ok(reader)
    }

    pub(crate) async fn read_any(
        &self,
        kind: Kind,
        path: &str,
        credential: &str,
    ) -> anyhow::Result<Reader> {
        let [h1, h2] = &self.clients;
        let client = if kind.client == 2 { h2 } else { h1 };
        let request = client.get(path).header("authorization", credential);
        let stream = tokio::time::timeout(PATIENCE, request.stream());
        Ok(Reader {
            stream: stream.await.context("no answer")??,
            text: String::new(),
            words: 0,
            patience: PATIENCE,
        })
    }

    /// The status of the answer to a HEAD request.
    pub(crate) async fn head(
        &self,
        kind: Kind,
        path: &str,
        credential: &str,
    ) -> anyhow::Result<u16> {
        let [h1, h2] = &self.clients;
        let client = if kind.client == 2 { h2 } else { h1 };
        let request = client.request(Method::HEAD, path);
        let answer = request.header("authorization", credential).send().await?;
        Ok(answer.status)
    }

    /// Envoy and the filter have survived.
    pub(crate) async fn check(&self) -> anyhow::Result<()> {
        let reloads = self.gate.envoy.stats("vm_reload").await?;
        ensure!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
        Ok(())
    }
}

/// Reads one stream.
pub(crate) struct Reader {
    stream: Streaming,
    /// All that has come.
    pub(crate) text: String,
    words: usize,
    patience: Duration,
}

impl Reader {
    pub(crate) const fn status(&self) -> u16 {
        self.stream.status
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.stream.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    pub(crate) const fn within(&mut self, patience: Duration) -> &mut Self {
        self.patience = patience;
        self
    }

    /// `false` at the end.
    async fn more(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let piece = self.stream.piece(patience).await?;
        let is_more = piece.is_some();
        self.text
            .push_str(std::str::from_utf8(&piece.unwrap_or_default())?);
        Ok(is_more)
    }

    /// Reads until that has been said since the last call.
    pub(crate) async fn until(&mut self, what: &str) -> anyhow::Result<()> {
        let from = self.words;
        loop {
            if let Some(at) = self.text.get(from..).and_then(|new| new.find(what)) {
                self.words = from + at + what.len();
                return Ok(());
            }
            let more = self.more(self.patience).await;
            let more = more.with_context(|| format!("no {what:?} in {}", self.text))?;
            ensure!(more, "no {what:?} in {}", self.text);
        }
    }

    pub(crate) async fn read_to_end(&mut self) -> anyhow::Result<()> {
        while self.more(self.patience).await? {}
        Ok(())
    }

    /// Reads until money is asked for, or nothing comes for a while, as when the upstream has
    /// ended before that could be asked. `true` at the end.
    pub(crate) async fn read_on(&mut self) -> anyhow::Result<bool> {
        const WORD: &str = "event: payment-need-topup\n";
        loop {
            let words = self.text.matches(WORD).count();
            if words > self.words {
                self.words = words;
                return Ok(false);
            }
            match tokio::time::timeout(SILENCE, self.more(self.patience)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(true),
                Ok(Err(error)) => {
                    return Err(error.context(format!("after {} bytes", self.text.len())));
                }
                Err(_) => return Ok(false),
            }
        }
    }

    /// The receipt at the end of the stream, the only one.
    pub(crate) fn receipt(&self) -> anyhow::Result<Value> {
        let mut receipts = self.text.split("event: payment-receipt\ndata: ").skip(1);
        let receipt = receipts.next().context("no receipt")?;
        ensure!(receipts.next().is_none(), "two receipts: {}", self.text);
        let line = receipt.lines().next().unwrap_or_default();
        Ok(serde_json::from_str(line)?)
    }
}
