//! Clients that other people wrote, buying through the gate with wallets that really pay. Counted
//! from the outside: payments at the network or node that settled them, requests at the upstream.

#[path = "clients/charges.rs"]
mod charges;
#[path = "clients/client.rs"]
mod client;
#[path = "clients/hop.rs"]
mod hop;
#[path = "clients/payer.rs"]
mod payer;
#[path = "clients/sessions.rs"]
mod sessions;
#[path = "clients/unserved.rs"]
mod unserved;

use std::time::Duration;

use anyhow::{Context, ensure};
use client::{Client, Kind};
use e2e::eventually;
use e2e::gate::Gate;
use e2e::http_client::Http;
use e2e::regtest::{LndNode, Regtest};
use payer::Payer;
use serde_json::{Value, json};

const FORECAST: &str = "/v1/forecast";

fn url(gate: &Gate, target: &str) -> String {
    format!("http://{}{target}", gate.envoy.address())
}

/// Where the embedded network takes payments.
fn dev_pay(gate: &Gate) -> String {
    format!("http://{}/pay", gate.sidecar.dev_address())
}

/// Payments that the embedded network has settled.
async fn dev_payments(gate: &Gate) -> anyhow::Result<u64> {
    let stats = Http::new(gate.sidecar.dev_address())
        .get("/stats")
        .send()
        .await?
        .json();
    stats
        .get("payments")
        .and_then(Value::as_u64)
        .with_context(|| format!("{stats}"))
}

/// Payments that a node has made.
async fn node_payments(node: &LndNode) -> anyhow::Result<usize> {
    let answer = node.lncli().run(&["listpayments"]).await?;
    let all = answer
        .get("payments")
        .and_then(Value::as_array)
        .context("no payments")?;
    let made = |payment: &&Value| payment.get("status") == Some(&json!("SUCCEEDED"));
    Ok(all.iter().filter(made).count())
}

/// Buys with the first request, reuses with the second; both must be served.
async fn buy_and_reuse(kind: Kind, gate: &Gate, pay_url: &str) -> anyhow::Result<Client> {
    gate.upstream.clear();
    let mut client = Client::start(kind, pay_url)?;
    for request in ["buying", "reusing"] {
        let said = client.get(&url(gate, FORECAST)).await?;
        ensure!(said.status == 200, "{kind:?} {request}: {said:?}");
        ensure!(said.payments == 1, "{kind:?} {request}: {said:?}");
        ensure!(
            said.body.contains("Reykjavik"),
            "{kind:?} {request}: {said:?}"
        );
    }
    let served = gate.upstream.requests();
    ensure!(
        served.len() == 2,
        "{kind:?}: {} requests at the upstream",
        served.len()
    );
    let token_ids: Vec<&str> = served
        .iter()
        .map(|one| one.header("x-boltgate-token-id"))
        .collect();
    ensure!(
        token_ids.first() == token_ids.last(),
        "{kind:?}: two tokens: {token_ids:?}"
    );
    ensure!(
        token_ids.iter().all(|id| id.len() == 64),
        "{kind:?}: {token_ids:?}"
    );
    for one in &served {
        ensure!(
            one.header("x-boltgate-service") == "weather",
            "{kind:?}: {one:?}"
        );
        ensure!(
            one.header("authorization").is_empty(),
            "{kind:?}: the upstream saw the token"
        );
    }
    Ok(client)
}

async fn pays_once_and_reuses(name: &str, kind: Kind) -> anyhow::Result<()> {
    let gate = Gate::dev(name).start().await?;
    buy_and_reuse(kind, &gate, &dev_pay(&gate)).await?;
    assert_eq!(dev_payments(&gate).await?, 1);
    Ok(())
}

#[tokio::test]
async fn alby_fetch402_pays_once_and_reuses_its_token() -> anyhow::Result<()> {
    pays_once_and_reuses("clients-alby", Kind::Alby).await
}

#[tokio::test]
async fn alby_fetch_with_l402_pays_once_and_reuses_its_token() -> anyhow::Result<()> {
    pays_once_and_reuses("clients-alby-l402", Kind::AlbyL402).await
}

#[tokio::test]
async fn npm_l402_pays_once_and_reuses_its_token() -> anyhow::Result<()> {
    pays_once_and_reuses("clients-axios", Kind::Axios).await
}

#[tokio::test]
async fn l402_requests_pays_once_and_reuses_its_token() -> anyhow::Result<()> {
    pays_once_and_reuses("clients-l402-requests", Kind::L402Requests).await
}

#[tokio::test]
async fn l402kit_pays_once_and_reuses_its_token() -> anyhow::Result<()> {
    pays_once_and_reuses("clients-l402kit", Kind::L402Kit).await
}

#[tokio::test]
async fn every_client_pays_once_from_a_real_node_to_a_real_node() -> anyhow::Result<()> {
    let network = Regtest::shared()?;
    let gate = Gate::lnd("clients-lnd", network).start().await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    for kind in Kind::L402 {
        let before = node_payments(&network.buyer).await?;
        buy_and_reuse(kind, &gate, &payer.url()).await?;
        let made = node_payments(&network.buyer).await? - before;
        assert_eq!(made, 1, "{kind:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_whose_token_is_revoked_buys_exactly_one_more() -> anyhow::Result<()> {
    let gate = Gate::dev("clients-revoked").start().await?;
    for kind in Kind::L402 {
        let before = dev_payments(&gate).await?;
        let mut client = buy_and_reuse(kind, &gate, &dev_pay(&gate)).await?;
        let token_id = gate
            .upstream
            .last()?
            .header("x-boltgate-token-id")
            .to_owned();
        gate.sidecar
            .command(&["tokens", "revoke", "--token-id", &token_id])
            .await?;

        let client = tokio::sync::Mutex::new(&mut client);
        let target = url(&gate, FORECAST);
        eventually("the client buys again", Duration::from_secs(20), || async {
            let said = client.lock().await.get(&target).await?;
            ensure!(said.payments == 2, "{kind:?}: {said:?}");
            ensure!(said.status == 200, "{kind:?}: {said:?}");
            Ok(())
        })
        .await?;
        for _ in 0..4 {
            let said = client.lock().await.get(&target).await?;
            assert_eq!((said.status, said.payments), (200, 2), "{kind:?}");
        }
        assert_ne!(
            gate.upstream.last()?.header("x-boltgate-token-id"),
            token_id,
            "{kind:?}"
        );
        assert_eq!(dev_payments(&gate).await? - before, 2, "{kind:?}");
    }
    Ok(())
}

#[tokio::test]
async fn no_client_pays_for_what_is_free() -> anyhow::Result<()> {
    let gate = Gate::dev("clients-free").start().await?;
    for kind in Kind::all() {
        let mut client = Client::start(kind, &dev_pay(&gate))?;
        let said = client.get(&url(&gate, "/v1/health")).await?;
        assert_eq!((said.status, said.payments), (200, 0), "{kind:?}: {said:?}");
    }
    assert_eq!(dev_payments(&gate).await?, 0);
    assert_eq!(gate.upstream.count(), Kind::all().count());
    Ok(())
}

#[tokio::test]
async fn no_client_pays_while_the_sidecar_is_absent() -> anyhow::Result<()> {
    let gate = Gate::dev("clients-no-sidecar")
        .without_sidecar()
        .start()
        .await?;
    for kind in Kind::all() {
        let mut client = Client::start(kind, &dev_pay(&gate))?;
        let said = client.get(&url(&gate, FORECAST)).await?;
        assert_eq!((said.status, said.payments), (503, 0), "{kind:?}: {said:?}");
    }
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}

#[tokio::test]
async fn a_fault_of_ours_costs_no_client_a_second_payment() -> anyhow::Result<()> {
    let mut gate = Gate::dev("clients-fault")
        .plugin(|plugin| {
            if let Some(plugin) = plugin.as_object_mut() {
                plugin.insert("revocationMaxAge".to_owned(), json!("5s"));
            }
        })
        .start()
        .await?;
    let mut clients = Vec::new();
    for kind in Kind::L402 {
        clients.push((kind, buy_and_reuse(kind, &gate, &dev_pay(&gate)).await?));
    }
    let target = url(&gate, FORECAST);

    gate.sidecar.kill();
    for (kind, client) in &mut clients {
        let client = tokio::sync::Mutex::new(client);
        eventually(
            "the deny list is too old",
            Duration::from_secs(20),
            || async {
                let said = client.lock().await.get(&target).await?;
                assert_eq!(said.payments, 1, "{kind:?}: {said:?}");
                ensure!(said.status == 503, "{kind:?}: {said:?}");
                Ok(())
            },
        )
        .await?;
    }

    gate.sidecar.start().await?;
    for (kind, client) in &mut clients {
        let client = tokio::sync::Mutex::new(client);
        eventually(
            "the token is good again",
            Duration::from_secs(20),
            || async {
                let said = client.lock().await.get(&target).await?;
                assert_eq!(said.payments, 1, "{kind:?}: {said:?}");
                ensure!(said.status == 200, "{kind:?}: {said:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}
