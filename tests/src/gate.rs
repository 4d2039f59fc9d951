//! The whole: Envoy with the filter, the sidecar, an upstream, a wallet.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::envoy::{Envoy, EnvoyConfig, merge};
use crate::eventually;
use crate::http_client::Http;
use crate::l402::{Challenge, Token};
use crate::paths;
use crate::regtest::Regtest;
use crate::sidecar::{Node, Sidecar};
use crate::upstream::Upstream;
use crate::wallet::Wallet;

/// The sidecar's bearer token in tests.
pub const BEARER: &str = "e2e-bearer-token-0123456789abcdef";

/// What is sold unless a test says otherwise: service `weather`, 10 sat for a day, everything
/// below `/v1/` on loopback and on `api.test`, with `/v1/health` free.
#[must_use]
pub fn default_plugin() -> Value {
    json!({
        "sidecar": {
            "cluster": "boltgate",
            "offersCluster": "boltgate_offers",
            "authority": "boltgate",
            "timeout": "3s",
            "tokenEnv": "BOLTGATE_TOKEN",
        },
        "services": [{
            "name": "weather",
            "match": [{
                "hosts": ["127.0.0.1", "localhost", "api.test"],
                "path": { "prefix": "/v1/" },
            }],
            "price": { "sat": 10 },
            "lifetime": "24h",
            "freePaths": [{ "exact": "/v1/health" }],
        }],
    })
}

/// The same sold by charge and by session as well, behind a hop that ends TLS: a session costs
/// `deposit` satoshis and a unit of it, a request or an event, one.
pub fn by_every_scheme(plugin: &mut Value, deposit: usize) {
    let service = json!({
        "schemes": ["l402", "charge", "session"],
        "session": { "price": { "sat": 1 }, "deposit": { "sat": deposit }, "unit": "event" },
    });
    if let Some(first) = plugin.pointer_mut("/services/0") {
        merge(first, service);
    }
    merge(
        plugin,
        json!({ "payment": { "realm": "api.test", "tls": "terminated" } }),
    );
}

/// A gate that is being put together.
#[must_use]
pub struct Builder<'a> {
    name: String,
    regtest: Option<&'a Regtest>,
    plugin: Value,
    sidecar: Value,
    envoy: Box<dyn FnOnce(&mut EnvoyConfig) + Send + 'a>,
    start_sidecar: bool,
    clock_seconds: i64,
}

/// A running gate. Its parts are public: tests kill, freeze, restart and reload them.
#[derive(Debug)]
pub struct Gate {
    /// Envoy with the filter.
    pub envoy: Envoy,
    /// The sidecar.
    pub sidecar: Sidecar,
    /// The API that is sold.
    pub upstream: Upstream,
    /// Pays invoices.
    pub wallet: Wallet,
    /// Where everything keeps its files: `target/e2e/<name>`.
    pub folder: PathBuf,
}

impl Gate {
    /// A gate on the sidecar's embedded Lightning network. `name` is that of the test.
    pub fn dev(name: &str) -> Builder<'static> {
        Builder {
            name: name.to_owned(),
            regtest: None,
            plugin: default_plugin(),
            sidecar: json!({}),
            envoy: Box::new(|_| {}),
            start_sidecar: true,
            clock_seconds: 0,
        }
    }

    /// A gate whose sidecar uses the network's selling node; its wallet is the buying node.
    pub fn lnd<'a>(name: &str, regtest: &'a Regtest) -> Builder<'a> {
        let Builder {
            name,
            plugin,
            sidecar,
            start_sidecar,
            clock_seconds,
            ..
        } = Self::dev(name);
        let envoy: Box<dyn FnOnce(&mut EnvoyConfig) + Send> = Box::new(|_| {});
        Builder {
            name,
            regtest: Some(regtest),
            plugin,
            sidecar,
            envoy,
            start_sidecar,
            clock_seconds,
        }
    }

    /// An HTTP/1.1 client of Envoy.
    #[must_use]
    pub fn http(&self) -> Http {
        Http::new(self.envoy.address())
    }

    /// An HTTP/2 client of Envoy.
    #[must_use]
    pub fn h2(&self) -> Http {
        Http::h2(self.envoy.address())
    }

    /// Asks for `target` without a token and gives the challenge that a buyer pays. Careful as a
    /// buyer should be: exactly 402, token and invoice belong together.
    ///
    /// # Errors
    /// When the answer is no proper challenge.
    pub async fn challenge(&self, target: &str) -> anyhow::Result<Challenge> {
        let answer = self.http().get(target).send().await?;
        ensure!(
            answer.status == 402,
            "{target}: {} {}",
            answer.status,
            answer.text()
        );
        let challenge = answer
            .challenges()
            .into_iter()
            .find(|challenge| challenge.scheme == "L402")
            .with_context(|| format!("no L402 challenge in {:?}", answer.headers))?;
        challenge.check()?;
        Ok(challenge)
    }

    /// Buys access to `target`: challenge, payment, token. Nothing is fetched with it yet.
    ///
    /// # Errors
    /// When any step fails.
    pub async fn buy(&self, target: &str) -> anyhow::Result<Token> {
        let challenge = self.challenge(target).await?;
        let preimage = self.wallet.pay(&challenge.invoice).await?;
        Ok(challenge.paid(&preimage))
    }

    /// Waits until the filter challenges `target`: its workers have keys and offers.
    ///
    /// # Errors
    /// When it does not within ten seconds.
    pub async fn open(&self, target: &str) -> anyhow::Result<()> {
        eventually("the gate sells", Duration::from_secs(10), || async {
            self.challenge(target).await.map(drop)
        })
        .await
    }
}

impl<'a> Builder<'a> {
    /// Changes the plugin configuration, which is [`default_plugin`] at first.
    pub fn plugin(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.plugin);
        self
    }

    /// Merges `over` over the sidecar's configuration.
    pub fn sidecar(mut self, over: Value) -> Self {
        merge(&mut self.sidecar, over);
        self
    }

    /// Changes Envoy's configuration.
    pub fn envoy(mut self, change: impl FnOnce(&mut EnvoyConfig) + Send + 'a) -> Self {
        self.envoy = Box::new(change);
        self
    }

    /// The sidecar's clock is ahead by so many seconds, or behind.
    pub const fn sidecar_clock(mut self, seconds: i64) -> Self {
        self.clock_seconds = seconds;
        self
    }

    /// The sidecar is prepared and not started.
    pub fn without_sidecar(mut self) -> Self {
        self.start_sidecar = false;
        self
    }

    /// Starts everything and waits until it serves. The filter may still be fetching its keys:
    /// it then lets requests wait.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start(self) -> anyhow::Result<Gate> {
        let folder = paths::fresh_folder(&self.name)?;
        let upstream = Upstream::start()?;
        let node = self
            .regtest
            .map_or(Node::Dev, |regtest| Node::Lnd(&regtest.seller));
        let mut sidecar = Sidecar::prepare(&folder, node, BEARER, self.sidecar)?;
        sidecar.clock_seconds = self.clock_seconds;
        if self.start_sidecar {
            sidecar.start().await?;
            sidecar.ready().await?;
        }
        let wallet = self
            .regtest
            .map_or_else(|| Wallet::Dev(sidecar.dev_address()), Regtest::wallet);
        let mut config =
            EnvoyConfig::new(&self.plugin, upstream.address(), sidecar.address(), BEARER)?;
        (self.envoy)(&mut config);
        let envoy = Envoy::start(&folder, config).await?;
        Ok(Gate {
            envoy,
            sidecar,
            upstream,
            wallet,
            folder,
        })
    }
}
