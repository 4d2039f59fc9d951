//! What is measured: the Envoys, what stands behind them, and the requests of each case.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use axum::serve::ListenerExt as _;
use e2e::{
    envoy::merge,
    eventually,
    http_client::Http,
    paths, ports,
    process::Process,
    sidecar::{Node, Sidecar},
};
use serde_json::{Value, json};

use crate::{
    cpu,
    envoy::{Gate, Ports, config},
    sse::{self, Pacing},
};

/// Envoy has a core of its own.
pub(crate) const ENVOY_CORE: usize = 0;
/// Load, upstream and sidecar share the other.
pub(crate) const OTHER_CORE: usize = 1;
/// Realm of the Payment scheme.
pub(crate) const REALM: &str = "bench.test";
/// What sessions are opened with, in satoshis: enough for all rounds.
const DEPOSIT: u32 = 1_000_000_000;
/// The same of those whose streams run dry.
pub(crate) const SHORT_DEPOSIT: u32 = 10;
/// The sidecars' bearer token.
pub(crate) const BEARER: &str = "bench-bearer-token-0123456789abcdef";

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

/// A server of short answers: the upstream, and the authorization server of `ext_authz`. It also
/// has the streams of events.
pub(crate) fn server(pacing: &Pacing) -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let router = sse::routes(pacing.clone());
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let answer =
                || async { "the weather in Zug: sunny, 21 degrees, no rain until Sunday." };
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let listener = listener.tap_io(|stream| {
                let _ = stream.set_nodelay(true);
            });
            axum::serve(listener, router.fallback(answer)).await
        })
    });
    Ok(address)
}

/// Starts a sidecar on the embedded network whose limits do not stand in the way, with so many
/// invoices ready for each price.
pub(crate) async fn sidecar(folder: &Path, node_delay: &str, pool: u32) -> Result<Sidecar> {
    std::fs::create_dir_all(folder)?;
    let over = json!({
        "lightning": { "dev": { "invoiceDelay": node_delay } },
        "offers": {
            "perSecond": 1_000_000, "burst": 1_000_000, "maxOutstanding": 10_000_000,
            "perClientPerMinute": 1_000_000, "poolMin": pool, "poolMax": pool,
        },
        "log": { "level": "warn" },
    });
    let mut sidecar = Sidecar::prepare(folder, Node::Dev, BEARER, over)?;
    start(&mut sidecar).await?;
    Ok(sidecar)
}

/// Changes the ledger of a sidecar while nobody has it open.
pub(crate) async fn with_ledger(
    sidecar: &mut Sidecar,
    change: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    sidecar.kill();
    change(&sidecar.ledger())?;
    start(sidecar).await
}

async fn start(sidecar: &mut Sidecar) -> Result<()> {
    sidecar.start().await?;
    sidecar.ready().await?;
    cpu::pin(u32::try_from(sidecar.running()?.id())?, OTHER_CORE)
}

/// Puts many revocations of tokens that nobody has into a ledger at rest.
pub(crate) fn revoke(ledger: &Path, count: u32) -> Result<()> {
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

/// As [`plugin`] of one service, which sells by every scheme, with two more that sell streams.
pub(crate) fn plugin_with_payment() -> Value {
    let mut plugin = plugin(1);
    merge(
        &mut plugin,
        json!({
            "payment": { "realm": REALM, "tls": "terminated", "idleTimeout": "1h" },
            "clientLimits": { "challengesPerMinute": 1_000_000, "burst": 1_000_000 },
        }),
    );
    let streams = |name: &str, deposit: u32| {
        json!({
            "name": name,
            "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": format!("/{name}/") } }],
            "freePaths": [{ "prefix": format!("/{name}/free/") }],
            "price": { "sat": 1 },
            "schemes": ["session"],
            "session": { "unit": "event", "deposit": { "sat": deposit } },
        })
    };
    if let Some(services) = plugin
        .pointer_mut("/services")
        .and_then(Value::as_array_mut)
    {
        if let Some(service) = services.first_mut() {
            let session = json!({ "price": { "sat": 1 }, "deposit": { "sat": DEPOSIT } });
            merge(
                service,
                json!({ "schemes": ["l402", "charge", "session"], "session": session }),
            );
        }
        services.extend([streams("stream", DEPOSIT), streams("short", SHORT_DEPOSIT)]);
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
