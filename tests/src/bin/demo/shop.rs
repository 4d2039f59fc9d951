//! What the demo starts: the weather API, the sidecar with its embedded network, and Envoy with the
//! configuration that people copy.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::http_client::Http;
use e2e::process::Process;
use e2e::sidecar::{Node, Sidecar};
use e2e::{eventually, paths, ports};
use rand::RngExt as _;
use serde_json::json;

use crate::number;

/// Everything that runs; gone when dropped.
#[derive(Debug)]
pub(crate) struct Shop {
    /// Where Envoy sells.
    pub(crate) envoy: SocketAddr,
    /// Where invoices are paid.
    pub(crate) pay: SocketAddr,
    pub(crate) sidecar: Sidecar,
    counts: SocketAddr,
    // In the order in which they end: first who sends requests.
    _processes: [Process; 2],
}

impl Shop {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let folder = paths::fresh_folder("demo")?;
        let token: [u8; 24] = rand::rng().random();
        let token = e2e::macaroon::hex(&token);

        let (sold, counts) = (ports::free_or(8080)?, ports::free_or(8081)?);
        let mut weather = Command::new(paths::program("weather")?);
        weather
            .arg(format!("--listen=127.0.0.1:{sold}"))
            .arg(format!("--counts=127.0.0.1:{counts}"));
        let weather = Process::spawn("weather", &folder.join("weather.log"), &weather)?;

        let sidecar_ports = [
            ports::free_or(9402)?,
            ports::free_or(9403)?,
            ports::free_or(9404)?,
        ];
        let mut sidecar =
            Sidecar::prepare_on(sidecar_ports, &folder, Node::Dev, &token, json!({}))?;
        sidecar.start().await?;
        sidecar.ready().await?;

        let (port, admin) = (ports::free_or(10_000)?, ports::free_or(9901)?);
        let [api, probes, _] = sidecar_ports;
        let places = [
            (10_000, port),
            (9901, admin),
            (8080, sold),
            (9402, api),
            (9403, probes),
        ];
        let config = folder.join("envoy.yaml");
        fs::write(&config, envoy_config(&places)?)?;
        let mut command = Command::new(paths::envoy()?);
        command
            .arg("--config-path")
            .arg(&config)
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "2",
                "--log-level",
                "warning",
            ])
            .env("BOLTGATE_TOKEN", &token);
        let mut envoy = Process::spawn("envoy", &folder.join("envoy.log"), &command)?;
        let listens = Http::new(SocketAddr::from(([127, 0, 0, 1], admin)));
        let running = std::sync::Mutex::new(&mut envoy);
        eventually("Envoy listens", Duration::from_secs(30), || {
            let state = running
                .lock()
                .map_or(Ok(()), |mut envoy| envoy.check_running());
            let ready = listens.get("/ready");
            async move {
                state?;
                ensure!(ready.send().await?.status == 200, "not ready");
                Ok(())
            }
        })
        .await?;
        Ok(Self {
            envoy: SocketAddr::from(([127, 0, 0, 1], port)),
            pay: sidecar.dev_address(),
            sidecar,
            counts: SocketAddr::from(([127, 0, 0, 1], counts)),
            _processes: [envoy, weather],
        })
    }

    /// Requests that have reached the API.
    pub(crate) async fn requests_seen(&self) -> anyhow::Result<u64> {
        number(
            &Http::new(self.counts).get("/_counts").send().await?,
            "total",
        )
    }

    /// Payments that the embedded network has settled.
    pub(crate) async fn payments(&self) -> anyhow::Result<u64> {
        number(&Http::new(self.pay).get("/stats").send().await?, "payments")
    }

    /// Lines for a shell that buy by hand.
    pub(crate) fn print_lines(&self) {
        let (url, pay) = (format!("http://{}/v1/forecast", self.envoy), self.pay);
        println!("It stays up until Ctrl-C. Buy something yourself, in another shell:\n");
        println!("  # 1. what does it cost?");
        println!("  curl -i {url}");
        println!("  # 2. keep a token and its invoice");
        println!("  R=$(curl -s {url})");
        println!(r#"  M=$(echo "$R" | sed 's/.*"macaroon": *"\([^"]*\)".*/\1/')"#);
        println!(r#"  I=$(echo "$R" | sed 's/.*"invoice": *"\([^"]*\)".*/\1/')"#);
        println!("  # 3. pay: the preimage is the receipt");
        println!(
            r#"  P=$(curl -s http://{pay}/pay -H 'content-type: application/json' -d "{{\"invoice\":\"$I\"}}" | sed 's/.*"preimage": *"\([^"]*\)".*/\1/')"#
        );
        println!("  # 4. ask again, as often as you like");
        println!(r#"  curl -i {url} -H "authorization: L402 $M:$P""#);
        println!();
    }
}

/// Lines of the plugin configuration, and what is said there to sell by the Payment scheme as well.
/// No hop before the demo ends TLS; nobody else can listen.
const PAYMENT: [(&str, &str); 2] = [
    (
        r#""otherHosts": "deny","#,
        r#""payment": { "realm": "weather", "tls": "terminated" },"#,
    ),
    (
        // In one line, as YAML's indentation is not known here.
        r#""lifetime": "24h","#,
        concat!(
            r#""schemes": ["l402", "charge", "session"], "session": "#,
            r#"{ "price": { "sat": 1 }, "deposit": { "sat": 20 }, "unit": "event" },"#,
        ),
    ),
];

/// `envoy/envoy.yaml` with the Payment scheme, other ports where its own are taken, and the
/// filter's full path.
fn envoy_config(places: &[(u16, u16)]) -> anyhow::Result<String> {
    let file = paths::root().join("envoy/envoy.yaml");
    let mut text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let filter = paths::filter_wasm()?;
    substitute(
        &mut text,
        "target/boltgate/filter.wasm",
        &filter.display().to_string(),
        &file,
    )?;
    for (at, more) in PAYMENT {
        substitute(&mut text, at, &[at, more].join(" "), &file)?;
    }
    // By way of a name that is no port: a new port may be another's old one.
    for (old, _) in places {
        substitute(
            &mut text,
            &format!("port_value: {old} "),
            &format!("port_value: <{old}> "),
            &file,
        )?;
    }
    for (old, new) in places {
        substitute(&mut text, &format!("<{old}>"), &new.to_string(), &file)?;
    }
    Ok(text)
}

fn substitute(text: &mut String, old: &str, new: &str, file: &Path) -> anyhow::Result<()> {
    ensure!(
        text.contains(old),
        "{} does not hold `{old}`",
        file.display()
    );
    *text = text.replace(old, new);
    Ok(())
}
