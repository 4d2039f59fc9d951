//! `deploy/envoy-gateway` through Envoy Gateway's own translator, with the module fetched from an
//! image registry by Envoy Gateway's own code, and what comes out run by a real Envoy.
//!
//! Changed are only addresses of backends, the listener's port, and where Envoy reads the module:
//! in a cluster it fetches it from Envoy Gateway, here it has the file whose digest was told.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::http_client::Http;
use e2e::process::Process;
use e2e::sidecar::{Node, Sidecar};
use e2e::upstream::Upstream;
use e2e::wallet::Wallet;
use e2e::{eventually, paths, ports};
use serde_json::{Value, json};

use crate::kubernetes::kustomize;
use crate::registry::Registry;

const TOKEN: &str = "envoy-gateway-test-token-0123456789abcdef";
/// In a cluster this one is the user's.
const UPSTREAM_SERVICE: &str = r"
---
apiVersion: v1
kind: Service
metadata: { name: weather, namespace: boltgate }
spec:
  clusterIP: 10.96.0.8
  ports: [{ name: http, port: 8080 }]
";

#[tokio::test]
async fn what_envoy_gateway_makes_of_our_manifests_sells_a_request() {
    let folder = paths::fresh_folder("envoy-gateway").unwrap();
    let registry = Registry::start(&std::fs::read(paths::filter_wasm().unwrap()).unwrap())
        .await
        .unwrap();
    let translated = translate(&registry).unwrap();

    let upstream = Upstream::start().unwrap();
    let mut sidecar = Sidecar::prepare(&folder, Node::Dev, TOKEN, json!({})).unwrap();
    sidecar.start().await.unwrap();
    sidecar.ready().await.unwrap();
    let services = BTreeMap::from([
        ("boltgate", sidecar.address()),
        ("boltgate-offers", sidecar.address()),
        ("weather", upstream.address()),
    ]);
    let (port, admin) = (ports::free().unwrap(), ports::free().unwrap());
    let config = bootstrap(&translated, &services, port, admin, &registry.module_sha256).unwrap();
    let envoy = start_envoy(&folder, &config).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let shop = Http::new(address).host("api.example.com");

    let challenge = eventually("the gate sells", Duration::from_secs(30), || async {
        let answer = shop.get("/v1/forecast").send().await?;
        ensure!(answer.status == 402, "{}: {}", answer.status, answer.text());
        answer.challenges().pop().context("no challenge")
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", envoy.output()));
    assert_eq!(challenge.check().unwrap(), 10_000);
    assert_eq!(upstream.count(), 0);
    let preimage = Wallet::Dev(sidecar.dev_address())
        .pay(&challenge.invoice)
        .await
        .unwrap();
    let token = challenge.paid(&preimage);
    for _ in 0..2 {
        let served = shop.get("/v1/forecast").token(&token).send().await.unwrap();
        assert_eq!(served.status, 200, "{}", served.text());
    }
    let seen = upstream.last().unwrap();
    assert_eq!(seen.header("x-boltgate-service"), "weather");
    assert_eq!(seen.header("authorization"), "");
    let free = shop.get("/v1/health").send().await.unwrap();
    assert_eq!((free.status, upstream.count()), (200, 3));

    // The streaming route is gated like the rest.
    assert_eq!(shop.get("/v1/stream").send().await.unwrap().status, 402);
    let stream = shop.get("/v1/stream").token(&token).send().await.unwrap();
    assert!(
        stream.text().ends_with("data: [DONE]\n\n"),
        "{}",
        stream.text()
    );

    // What an upstream could read as a paid path is not let through as a free one.
    for path in ["/v1/health/..%2fforecast", "/v1/health/%2e%2e;/forecast"] {
        let answer = shop.get(path).send().await.unwrap();
        assert!(
            [400, 402].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }
    assert_eq!(upstream.count(), 4);

    // The route that makes the sidecar's clusters leads nobody to the sidecar.
    let sidecar_host = Http::new(address).host("boltgate-sidecar.invalid");
    for path in ["/0", "/1", "/v1/bootstrap"] {
        let answer = sidecar_host
            .get(path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .send()
            .await
            .unwrap();
        assert!(
            [403, 404].contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }

    // The labels that the EnvoyProxy resource adds.
    let metrics = Http::new(SocketAddr::from(([127, 0, 0, 1], admin)));
    let metrics = metrics
        .get("/stats/prometheus")
        .send()
        .await
        .unwrap()
        .text();
    let paid = metrics.lines().find(|line| {
        line.starts_with("boltgate_requests_total{")
            && line.contains(r#"outcome="paid""#)
            && line.contains(r#"service="weather""#)
    });
    assert!(paid.is_some_and(|line| line.ends_with(" 3")), "{paid:?}");
}

/// Envoy Gateway's output for `deploy/envoy-gateway`; everything in it has been accepted.
fn translate(registry: &Registry) -> anyhow::Result<Value> {
    let manifests = kustomize(&paths::root().join("deploy/envoy-gateway"))?;
    ensure!(manifests.contains("ghcr.io/boltgate/filter:0.1.0"));
    let manifests =
        manifests.replace("ghcr.io/boltgate/filter", &registry.image()) + UPSTREAM_SERVICE;
    let mut translate = Command::new(paths::tool("manifest-tools/translate")?)
        .args(["--plain-registry", &registry.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    translate
        .stdin
        .take()
        .context("stdin")?
        .write_all(manifests.as_bytes())?;
    let output = translate.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let translated: Value = serde_json::from_slice(&output.stdout)?;
    let conditions = list(&translated, "conditions")?;
    for condition in conditions {
        ensure!(condition["status"] == "True", "{condition}\n{said}");
    }
    for kind in [
        "Gateway",
        "HTTPRoute",
        "EnvoyExtensionPolicy",
        "ClientTrafficPolicy",
        "SecurityPolicy",
        "BackendTrafficPolicy",
    ] {
        let of_kind = |it: &&Value| it["object"].as_str().is_some_and(|it| it.starts_with(kind));
        ensure!(
            conditions.iter().any(|it| of_kind(&it)),
            "{kind} has no status"
        );
    }
    Ok(translated)
}

fn list<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("no {key}"))
}

/// One static configuration of what a cluster's Envoy gets piece by piece.
fn bootstrap(
    translated: &Value,
    services: &BTreeMap<&str, SocketAddr>,
    port: u16,
    admin: u16,
    module_sha256: &str,
) -> anyhow::Result<Value> {
    let mut listener = named(list(translated, "listeners")?, "boltgate/shop/http")?.clone();
    listener["address"]["socketAddress"] = json!({ "address": "127.0.0.1", "portValue": port });
    let manager = listener
        .pointer_mut("/defaultFilterChain/filters/0/typedConfig")
        .and_then(Value::as_object_mut)
        .context("no connection manager")?;
    let rds = manager.remove("rds").context("no rds")?;
    let routes = rds["routeConfigName"].as_str().context("no route")?;
    manager.insert(
        "routeConfig".to_owned(),
        named(list(translated, "routes")?, routes)?.clone(),
    );
    let filters = manager["httpFilters"]
        .as_array_mut()
        .context("no filters")?;
    let wasm = filters
        .iter_mut()
        .find(|filter| {
            filter["name"]
                .as_str()
                .is_some_and(|name| name.contains("wasm"))
        })
        .context("no wasm filter")?;
    let code = &mut wasm["typedConfig"]["config"]["vmConfig"]["code"];
    let told = code["remote"]["sha256"].as_str().unwrap_or_default();
    ensure!(told == module_sha256, "another module: {code}");
    *code = json!({ "local": { "filename": paths::filter_wasm()? } });

    let mut clusters = Vec::new();
    for cluster in list(translated, "clusters")? {
        let name = cluster["name"].as_str().context("no name")?;
        if !name.starts_with("httproute/") {
            // Where a cluster's Envoy fetches the module.
            ensure!(name == "wasm_cluster", "unexpected cluster {name}");
            continue;
        }
        let endpoints = list(translated, "endpoints")?;
        let mut endpoints = endpoints
            .iter()
            .find(|endpoints| endpoints["clusterName"] == name)
            .with_context(|| format!("{name} has no endpoints"))?
            .clone();
        place(&mut endpoints, services)?;
        let mut cluster = cluster.clone();
        let map = cluster.as_object_mut().context("no object")?;
        map.remove("edsClusterConfig");
        map.insert("type".to_owned(), json!("STATIC"));
        map.insert("loadAssignment".to_owned(), endpoints);
        clusters.push(cluster);
    }
    let rendered = translated["bootstrap"].as_str().context("no bootstrap")?;
    let rendered = crate::kubernetes::documents(rendered)?.remove(0);
    Ok(json!({
        "node": { "id": "test", "cluster": "test" },
        "admin": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": admin } } },
        "layered_runtime": rendered["layered_runtime"],
        "stats_config": rendered["stats_config"],
        "static_resources": { "listeners": [listener], "clusters": clusters },
    }))
}

fn named<'a>(list: &'a [Value], name: &str) -> anyhow::Result<&'a Value> {
    list.iter()
        .find(|it| it["name"] == name)
        .with_context(|| format!("no {name}"))
}

/// Puts the address of the Service that an endpoint stands for.
fn place(endpoints: &mut Value, services: &BTreeMap<&str, SocketAddr>) -> anyhow::Result<()> {
    for locality in endpoints["endpoints"]
        .as_array_mut()
        .context("no localities")?
    {
        let service = locality
            .pointer("/metadata/filterMetadata/envoy-gateway/resources/0/name")
            .and_then(Value::as_str)
            .context("no service")?;
        let at = *services
            .get(service)
            .with_context(|| format!("no service {service}"))?;
        for endpoint in locality["lbEndpoints"]
            .as_array_mut()
            .context("no endpoints")?
        {
            endpoint["endpoint"]["address"]["socketAddress"] =
                json!({ "address": at.ip().to_string(), "portValue": at.port() });
        }
    }
    Ok(())
}

fn start_envoy(folder: &Path, config: &Value) -> anyhow::Result<Process> {
    let file = folder.join("envoy.json");
    std::fs::write(&file, config.to_string())?;
    let mut command = Command::new(paths::envoy()?);
    command
        .arg("-c")
        .arg(&file)
        .args(["--concurrency", "2", "--disable-hot-restart"])
        .env("BOLTGATE_TOKEN", TOKEN);
    Process::spawn("envoy", &folder.join("envoy.log"), &command)
}
