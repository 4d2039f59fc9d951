//! Sessions, spent by the engines of the Payment scheme with a lightning method plugged in. They ask
//! for a 402 before every request and echo it, and its deposit invoice is not paid by anybody.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::envoy::merge;
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::payment::{offer_of, offers};
use e2e::unpaid::{sidecar_without_limits, without_limits};
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::charges::{ENGINES, echo, sold_by};
use super::client::{Client, Kind};
use super::hop::{Hop, Rewriting};
use super::payer::Payer;
use super::{FORECAST, buy_and_reuse, dev_payments, url};

/// Price of a unit in satoshis, and of a deposit.
const UNIT: u64 = 10;
const DEPOSIT: u64 = 100;
/// Deposits that a VM shows in turn to a client with an open session.
const SHOWN: usize = 4;
const WORKERS: u32 = 2;

fn sold_by_session(name: &str, deposit: u64) -> Builder<'static> {
    let change = move |plugin: &mut Value| {
        without_limits(plugin);
        if let Some(service) = plugin.pointer_mut("/services/0") {
            let session = json!({ "price": { "sat": UNIT }, "deposit": { "sat": deposit } });
            merge(
                service,
                json!({ "schemes": ["session"], "session": session }),
            );
        }
    };
    sold_by(Gate::dev(name), &["session"])
        .plugin(change)
        .sidecar(sidecar_without_limits())
        .envoy(|envoy| envoy.concurrency = WORKERS)
}

async fn lives_on_its_deposits(name: &str, kind: Kind) -> anyhow::Result<()> {
    let gate = sold_by_session(name, DEPOSIT).start().await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    let hop = Hop::start(gate.http(), Rewriting::default()).await?;
    let mut client = Client::start(kind, &payer.url())?;
    let url = hop.url(FORECAST);

    let units = DEPOSIT / UNIT;
    let mut session = None;
    for number in 1..=units {
        let said = client.get(&url).await?;
        assert_eq!((said.status, said.payments), (200, 1), "{number}: {said:?}");
        assert!(said.body.contains("Reykjavik"), "{said:?}");
        let seen = gate.upstream.last()?;
        assert_eq!(seen.header("x-boltgate-scheme"), "session");
        assert_eq!(seen.header("authorization"), "");
        let id = seen.header("x-boltgate-session-id").to_owned();
        assert_eq!(said.receipt.get("reference"), Some(&json!(id)));
        assert_eq!(said.receipt.get("status"), Some(&json!("success")));
        assert_eq!(*session.get_or_insert(id.clone()), id);
    }
    for pair in hop.exchanges().chunks(2) {
        let [asked, paid] = pair else {
            bail!("{pair:?}");
        };
        assert_eq!((asked.status, paid.status), (402, 200));
        assert_eq!(asked.sent("accept-payment"), "lightning/session");
        let offered = offers(&asked.answer);
        let offer = offered.first().context("nothing is offered")?;
        assert_eq!(echo(paid)?.get("id"), Some(&json!(offer.parameter("id"))));
    }

    // Nothing is left: the engine shows what it has three times, and pays nothing.
    let passed = hop.exchanges().len();
    let said = client.get(&url).await?;
    assert_eq!((said.status, said.payments), (402, 1), "{said:?}");
    let refused = hop.exchanges().split_off(passed);
    let refused = refused.iter().map(|one| one.status);
    assert_eq!(refused.collect::<Vec<_>>(), [402; 4]);
    assert!(said.body.contains("lightning/insufficient-balance"));
    let said = client.get(&format!("{url} topUp")).await?;
    assert_eq!((said.status, said.payments), (200, 2), "{said:?}");
    assert_eq!(said.body, r#"{"status":"ok"}"#);
    let said = client.get(&url).await?;
    assert_eq!((said.status, said.payments), (200, 2), "{said:?}");

    let rest = DEPOSIT - UNIT;
    let said = client.get(&format!("{url} close")).await?;
    assert_eq!((said.status, said.payments), (200, 2), "{said:?}");
    let closed: Value = serde_json::from_str(&said.body)?;
    assert_eq!(closed.get("status"), Some(&json!("closed")), "{closed}");
    assert_eq!(closed.get("refundSats"), Some(&json!(rest)), "{closed}");
    let invoices = payer.return_invoices();
    let [invoice] = invoices.as_slice() else {
        bail!("{invoices:?}");
    };
    eventually("the rest is back", Duration::from_secs(20), || async {
        let received = gate.wallet.received(invoice).await?;
        ensure!(received == Some(rest * 1_000), "{received:?}");
        Ok(())
    })
    .await?;
    let said = client.get(&url).await?;
    assert_eq!((said.status, said.payments), (402, 2), "{said:?}");
    assert!(said.body.contains("lightning/session-closed"), "{said:?}");
    assert_eq!(u64::try_from(gate.upstream.count())?, units + 1);
    Ok(())
}

#[tokio::test]
async fn mppx_lives_on_its_deposits() -> anyhow::Result<()> {
    lives_on_its_deposits("clients-mppx-session", Kind::MppxSession).await
}

#[tokio::test]
async fn pympp_lives_on_its_deposits() -> anyhow::Result<()> {
    lives_on_its_deposits("clients-pympp-session", Kind::PymppSession).await
}

#[tokio::test]
async fn mpp_lives_on_its_deposits() -> anyhow::Result<()> {
    lives_on_its_deposits("clients-mpp-session", Kind::MppSession).await
}

/// Engines with a session.
const SESSIONS: [Kind; 3] = [Kind::MppxSession, Kind::PymppSession, Kind::MppSession];

async fn buys_one(kind: Kind, gate: &Gate, pay_url: &str) -> anyhow::Result<()> {
    let said = Client::start(kind, pay_url)?
        .get(&url(gate, FORECAST))
        .await?;
    ensure!(
        (said.status, said.payments) == (200, 1),
        "{kind:?}: {said:?}"
    );
    let scheme = if SESSIONS.contains(&kind) {
        "session"
    } else {
        "charge"
    };
    let seen = gate.upstream.last()?;
    ensure!(seen.header("x-boltgate-scheme") == scheme, "{kind:?}");
    Ok(())
}

#[tokio::test]
async fn beside_each_other_all_schemes_are_bought_by_those_who_know_them() -> anyhow::Result<()> {
    let schemes = ["l402", "charge", "session"];
    let gate = sold_by(Gate::dev("clients-all"), &schemes).start().await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    for kind in Kind::L402 {
        buy_and_reuse(kind, &gate, &payer.url()).await?;
    }
    for kind in ENGINES.into_iter().chain(SESSIONS) {
        buys_one(kind, &gate, &payer.url()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_session_beside_a_charge_hides_it_from_alby_and_from_nobody_else() -> anyhow::Result<()> {
    let gate = sold_by(Gate::dev("clients-two"), &["charge", "session"]);
    let gate = gate.start().await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    for kind in Kind::CHARGE.into_iter().chain(SESSIONS) {
        // It reads the parameters of both offers as those of one, and the last ones count.
        let mut alby = Client::start(kind, &payer.url())?;
        match kind {
            Kind::AlbyCharge => {
                let said = alby.get(&url(&gate, FORECAST)).await?;
                assert_eq!((said.status, said.payments), (402, 0), "{said:?}");
            }
            Kind::AlbyMpp => {
                let said = alby.get(&url(&gate, FORECAST)).await;
                let said = said.expect_err("no charge is seen").to_string();
                assert!(said.contains("unsupported WWW-Authenticate"), "{said}");
            }
            _ => buys_one(kind, &gate, &payer.url()).await?,
        }
    }
    Ok(())
}

/// Clients, and requests of each once all have opened.
const CLIENTS: usize = 4;
const REQUESTS: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_requests_in_sessions_are_shown_few_deposits() -> anyhow::Result<()> {
    let deposit = (u64::try_from(REQUESTS)? + 1) * UNIT;
    let gate = sold_by_session("clients-deposits", deposit).start().await?;
    eventually("the gate sells", Duration::from_secs(10), || async {
        let answer = gate.http().get(FORECAST).send().await?;
        offer_of(&answer, "session").map(drop)
    })
    .await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let hop = Hop::start(gate.http(), Rewriting::default()).await?;
        let mut client = Client::start(Kind::MppxSession, &payer.url())?;
        let said = client.get(&hop.url(FORECAST)).await?;
        ensure!(said.status == 200, "{said:?}");
        clients.push((hop, client));
    }
    let before = u64::try_from(CLIENTS)?;
    assert_eq!(dev_payments(&gate).await?, before);

    let spending = clients.iter_mut().map(|(hop, client)| async move {
        let url = hop.url(FORECAST);
        for _ in 0..REQUESTS {
            let said = client.get(&url).await?;
            ensure!((said.status, said.payments) == (200, 1), "{said:?}");
        }
        anyhow::Ok(())
    });
    try_join_all(spending).await?;
    let mut shown = BTreeSet::new();
    for (hop, _) in &clients {
        // The first two opened the session.
        let exchanges = hop.exchanges();
        let asked = exchanges.iter().skip(2).filter(|one| one.status == 402);
        let offered: Vec<_> = asked.flat_map(|one| offers(&one.answer)).collect();
        assert_eq!(offered.len(), REQUESTS);
        for offer in offered {
            shown.insert(offer.payment_hash()?.to_owned());
        }
    }
    let most = SHOWN * usize::try_from(WORKERS)?;
    assert!(shown.len() <= most, "{} deposits", shown.len());
    assert_eq!(gate.upstream.count(), CLIENTS * (REQUESTS + 1));
    assert_eq!(dev_payments(&gate).await?, before);
    Ok(())
}
