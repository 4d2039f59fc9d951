//! Requests that are held, with body and trailers, under a setting of Envoy's that lets bodies go on
//! past a filter that only stops the headers. Nothing of them passes before it is decided.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use e2e::envoy::{EnvoyConfig, merge};
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::raw::{Part, h2_exchange};
use e2e::unpaid::{self, MARK, none_arrived};
use serde_json::json;

const FORECAST: &str = "/v1/forecast";
/// Of a service that nobody has asked for, so that no offer is in stock.
const MAPS: &str = "/maps/x";
const QUIET: Duration = Duration::from_secs(10);

fn gate(name: &str, bootstrap_wait: &str) -> Builder<'static> {
    let wait = json!({ "bootstrapWait": bootstrap_wait });
    Gate::dev(name)
        .plugin(|plugin| {
            unpaid::without_limits(plugin);
            merge(plugin, wait);
            let maps = json!({
                "name": "maps",
                "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": "/maps/" } }],
                "price": { "sat": 1000 },
            });
            if let Some(services) = plugin["services"].as_array_mut() {
                services.push(maps);
            }
        })
        .sidecar(unpaid::sidecar_without_limits())
        .envoy(|config: &mut EnvoyConfig| {
            // One worker, so that the state of all of them is known.
            config.concurrency = 1;
            config.wasm = json!({ "allow_on_headers_stop_iteration": true });
        })
}

/// A gRPC-like POST (the way to the upstream then has trailers) with a body in two parts.
async fn post(server: SocketAddr, path: &str, credential: Option<&str>) -> anyhow::Result<()> {
    let path = path.to_owned();
    let credential = credential.map(str::to_owned);
    tokio::task::spawn_blocking(move || {
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", b"127.0.0.1"),
            (b":path", path.as_bytes()),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
            (b"x-boltgate-tier", b"9"),
        ];
        match &credential {
            Some(credential) => fields.push((b"authorization", credential.as_bytes())),
            None => fields.push((MARK.as_bytes(), b"1")),
        }
        let trailers: [(&[u8], &[u8]); 2] = [(b"x-boltgate-tier", b"9"), (b"x-mine", b"1")];
        let parts = [
            Part::Fields(&fields),
            Part::Data(b"first "),
            Part::Data(b"second"),
            Part::Fields(&trailers),
        ];
        h2_exchange(server, &parts, QUIET)
    })
    .await?
}

async fn alive(gate: &Gate) -> anyhow::Result<()> {
    none_arrived(gate)?;
    let reloads = gate.envoy.stats("vm_reload").await?;
    assert!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    Ok(())
}

#[tokio::test]
async fn bodies_and_trailers_of_unpaid_requests_wait_with_them() -> anyhow::Result<()> {
    let mut gate = gate("held-unpaid", "1s").start().await?;
    let token = gate.buy(FORECAST).await?;
    let served = gate.http().get(FORECAST).token(&token).send().await?;
    assert_eq!(served.status, 200);
    let before = gate.upstream.count();

    // Held for an offer, from a sidecar that hangs.
    gate.sidecar.running()?.freeze()?;
    let server = gate.envoy.address();
    for path in [MAPS, FORECAST] {
        post(server, path, None).await?;
    }
    assert_eq!(gate.upstream.count(), before);
    gate.sidecar.running()?.thaw()?;

    // Held for keys, from a sidecar that is not there.
    gate.sidecar.kill();
    gate.envoy.restart().await?;
    post(server, FORECAST, None).await?;
    post(server, FORECAST, Some(&token.authorization())).await?;
    assert_eq!(gate.upstream.count(), before);
    alive(&gate).await
}

#[tokio::test]
async fn a_paid_request_that_was_held_arrives_whole_and_clean() -> anyhow::Result<()> {
    let mut gate = gate("held-paid", "20s").start().await?;
    let token = gate.buy(FORECAST).await?;
    gate.sidecar.kill();
    gate.envoy.restart().await?;
    let credential = token.authorization();
    let (server, before) = (gate.envoy.address(), gate.upstream.count());
    let (sent, started) = tokio::join!(post(server, FORECAST, Some(&credential)), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(gate.upstream.count(), before, "nothing passes meanwhile");
        gate.sidecar.start().await
    });
    sent?;
    started?;
    eventually("it arrives", QUIET, || async {
        let trailers = gate.upstream.last()?.trailers;
        ensure!(trailers.contains_key("x-mine"), "{trailers:?}");
        Ok(())
    })
    .await?;
    let seen = gate.upstream.last()?;
    assert_eq!(seen.body_bytes, "first second".len());
    assert!(!seen.trailers.contains_key("x-boltgate-tier"));
    assert_eq!(seen.header("x-boltgate-tier"), "0");
    assert_eq!(seen.header("authorization"), "");
    alive(&gate).await
}
