//! What is measured: the Envoys, what stands behind them, and the requests of each case.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use e2e::{
    envoy::merge,
    eventually,
    http_client::Http,
    paths, ports,
    process::Process,
    sidecar::{Node, Sidecar},
};
use protocol::{
    amount::Sat,
    api::{Bootstrap, KeyState},
    encoding::hex_encode,
    hash::Preimage,
    keys::{ChallengeKeys, L402Key, L402Keys, PaymentKey, PaymentKeys},
    l402::{Identifier, RootKeys as _, TokenId, caveats_for, mint},
    payment::{
        Challenge, Realm, credential,
        request::{ChargeRequest, Network},
    },
    time::UnixSeconds,
};
use serde_json::{Value, json};

use crate::{
    cpu,
    envoy::{Gate, Ports, config},
};

/// Envoy has a core of its own.
pub(crate) const ENVOY_CORE: usize = 0;
/// Load, upstream and sidecar share the other.
pub(crate) const OTHER_CORE: usize = 1;
/// Realm of the Payment scheme.
const REALM: &str = "bench.test";
/// The sidecars' bearer token.
const BEARER: &str = "bench-bearer-token-0123456789abcdef";

/// A running Envoy.
pub(crate) struct Subject {
    process: Process,
    pub(crate) address: SocketAddr,
}

impl Subject {
    /// Starts one with `gate` before the router.
    pub(crate) async fn start(
        folder: &Path,
        name: &str,
        gate: &Gate<'_>,
        upstream: SocketAddr,
        helper: SocketAddr,
        workers: u32,
    ) -> Result<Self> {
        let at = Ports {
            listen: ports::free()?,
            admin: ports::free()?,
            upstream: upstream.port(),
            helper: helper.port(),
        };
        let file = folder.join(format!("envoy-{name}.json"));
        std::fs::write(&file, config(gate, at).to_string())?;
        let mut command = Command::new(paths::envoy()?);
        command
            .arg("--config-path")
            .arg(&file)
            .args([
                "--concurrency",
                &workers.to_string(),
                "--disable-hot-restart",
            ])
            .args(["--log-level", "warn"])
            .env("BOLTGATE_TOKEN", BEARER);
        let log = folder.join(format!("envoy-{name}.log"));
        let process = Process::spawn(name, &log, &command)?;
        let admin = Http::new(SocketAddr::from(([127, 0, 0, 1], at.admin)));
        eventually("Envoy is ready", Duration::from_secs(30), || async {
            let ready = admin.get("/ready").send().await?;
            ensure!(ready.status == 200, "Envoy is not ready");
            Ok(())
        })
        .await?;
        let subject = Self {
            process,
            address: SocketAddr::from(([127, 0, 0, 1], at.listen)),
        };
        cpu::pin(subject.id()?, ENVOY_CORE)?;
        Ok(subject)
    }

    pub(crate) fn id(&self) -> Result<u32> {
        Ok(u32::try_from(self.process.id())?)
    }
}

/// A server of short answers: the upstream, and the authorization server of `ext_authz`.
pub(crate) fn server() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let answer =
                || async { "the weather in Zug: sunny, 21 degrees, no rain until Sunday." };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, Router::new().fallback(answer)).await
        })
    });
    Ok(address)
}

/// Starts a sidecar on the embedded network whose limits do not stand in the way.
pub(crate) async fn sidecar(folder: &Path, node_delay: &str, revoked: u32) -> Result<Sidecar> {
    std::fs::create_dir_all(folder)?;
    let over = json!({
        "lightning": { "dev": { "invoiceDelay": node_delay } },
        "offers": {
            "perSecond": 1_000_000, "burst": 1_000_000, "maxOutstanding": 10_000_000,
            "perClientPerMinute": 1_000_000, "poolMin": 20_000, "poolMax": 20_000,
        },
        "log": { "level": "warn" },
    });
    let mut sidecar = Sidecar::prepare(folder, Node::Dev, BEARER, over)?;
    sidecar.start().await?;
    sidecar.ready().await?;
    if revoked > 0 {
        sidecar.kill();
        revoke(&sidecar.ledger(), revoked)?;
        sidecar.start().await?;
        sidecar.ready().await?;
    }
    cpu::pin(u32::try_from(sidecar.running()?.id())?, OTHER_CORE)?;
    Ok(sidecar)
}

/// Puts many revocations of tokens that nobody has into a ledger at rest.
fn revoke(ledger: &Path, count: u32) -> Result<()> {
    let mut ledger = rusqlite::Connection::open(ledger)?;
    let change = ledger.transaction()?;
    change.execute("UPDATE instance SET version = version + 1", [])?;
    for number in 0..count {
        let mut hash = [0xaa_u8; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        change.execute(
            "INSERT INTO revocations (identifier_hash, added_version, created_at)
             SELECT ?1, version, 0 FROM instance",
            [hash],
        )?;
    }
    change.commit()?;
    Ok(())
}

/// Mints tokens and charges that a sidecar's filters accept, as if each had been paid for.
pub(crate) struct Mint {
    keys: L402Keys,
    charges: ChallengeKeys,
    generation: u8,
    next: u64,
}

impl Mint {
    /// Asks the sidecar for the keys, as a filter does.
    pub(crate) async fn of(sidecar: &Sidecar) -> Result<Self> {
        let answer = Http::h2(sidecar.address())
            .get("/v1/bootstrap?vm=00000000000000000000000000000bec")
            .header("authorization", format!("Bearer {BEARER}"))
            .send()
            .await?;
        let bootstrap: Bootstrap = serde_json::from_str(&answer.text())?;
        let current = bootstrap
            .keys
            .iter()
            .find(|key| key.state == KeyState::Current);
        let current = current.context("no current key")?;
        let key: L402Key = current.l402.parse()?;
        let generation = current.generation;
        let payment: PaymentKey = current.payment.parse()?;
        Ok(Self {
            keys: [(generation, key)].into_iter().collect(),
            charges: PaymentKeys::from_iter([(generation, payment)]).charge("weather"),
            generation,
            next: 0,
        })
    }

    /// A preimage that was never used before.
    fn preimage(&mut self) -> [u8; 32] {
        self.next += 1;
        let mut preimage = [7_u8; 32];
        preimage[..8].copy_from_slice(&self.next.to_be_bytes());
        preimage
    }

    /// The value of an `Authorization` header for a charge that was never presented before.
    pub(crate) fn charge(&mut self, run: u64) -> Result<String> {
        let mut preimage = self.preimage();
        preimage[8..16].copy_from_slice(&run.to_be_bytes());
        let hex = hex_encode(&preimage);
        let preimage = Preimage::new(preimage);
        let key = self.charges.get(self.generation).context("no key")?;
        let realm: Realm = REALM.parse()?;
        // As long as a real one; nobody decodes it any more.
        let invoice = format!("lnbcrt100n1{}", "q".repeat(270));
        let amount = Sat::new(10).context("an amount")?;
        let request = ChargeRequest::new(amount, &invoice, preimage.hash(), Network::Regtest);
        let expires = UnixSeconds(unix_seconds()?.saturating_add(600));
        let challenge = Challenge::charge(key, &realm, &request, expires);
        Ok(credential::encode(&challenge, &[("preimage", &hex)]))
    }

    /// The value of an `Authorization` header that was never used before.
    pub(crate) fn credential(&mut self, service: &str) -> Result<String> {
        let preimage = self.preimage();
        let mut name = [9_u8; 31];
        name[..8].copy_from_slice(&self.next.to_be_bytes());
        let identifier = Identifier {
            payment_hash: Preimage::new(preimage).hash(),
            token_id: TokenId::new(self.generation, name),
        };
        let root_key = self.keys.root_key(&identifier).context("no key")?;
        let template = serde_json::from_value(json!({
            "service": service, "tier": 0, "price_msat": 10_000, "lifetime_seconds": 86_400,
            "capabilities": [], "constraints": [],
        }))?;
        let caveats = caveats_for(&template, Some(UnixSeconds(4_102_444_800)));
        let token = mint(&root_key, &identifier, &caveats);
        let hex: String = preimage.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!(
            "L402 {}:{hex}",
            BASE64_STANDARD.encode(token.to_bytes())
        ))
    }
}

fn unix_seconds() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.as_secs())
}

/// As [`plugin`] of one service, which sells by every scheme.
pub(crate) fn plugin_with_payment() -> Value {
    let mut plugin = plugin(1);
    merge(
        &mut plugin,
        json!({ "payment": { "realm": REALM, "tls": "terminated" } }),
    );
    if let Some(service) = plugin.pointer_mut("/services/0") {
        merge(service, json!({ "schemes": ["l402", "charge"] }));
    }
    plugin
}

/// A plugin configuration with `count` services, of which `weather` is the last.
pub(crate) fn plugin(count: usize) -> Value {
    let mut services: Vec<Value> = (1..count)
        .map(|number| {
            json!({
                "name": format!("service-{number}"),
                "match": [{ "hosts": ["127.0.0.1"], "path": if number % 2 == 0 {
                    json!({ "prefix": format!("/service/{number}/") })
                } else {
                    json!({ "exact": format!("/service/{number}") })
                } }],
                "price": { "sat": number },
            })
        })
        .collect();
    services.push(json!({
        "name": "weather",
        "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": "/v1/" } }],
        "price": { "sat": 10 },
        "lifetime": "24h",
        "freePaths": [{ "exact": "/v1/health" }],
    }));
    json!({
        "sidecar": { "cluster": "boltgate", "offersCluster": "boltgate_offers" },
        "services": services,
    })
}

/// A request as a well-mannered client sends it, with `more` header lines.
pub(crate) fn request(path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: boltgate-bench/1\r\n\
         accept: application/json\r\n{more}\r\n"
    )
    .into_bytes()
}
