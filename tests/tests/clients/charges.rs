//! Charges, bought by the engines of the Payment scheme (`mppx`, `pympp`, `mpp`) with a lightning
//! method plugged in, and by lightning clients that know charges.

use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::envoy::merge;
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::payment::offers;
use e2e::regtest::Regtest;
use http::header::WWW_AUTHENTICATE;
use regex_lite::Regex;
use serde_json::{Value, json};

use super::client::{Client, Kind, Said};
use super::hop::{Exchange, Hop, Rewriting};
use super::payer::Payer;
use super::{FORECAST, buy_and_reuse, dev_pay, dev_payments, url};

const REALM: &str = "api.test";
/// Longer than a claim counts as young, and an abandoned one takes to be freed.
pub(crate) const SETTLING: Duration = Duration::from_secs(20);
/// The engines: they pay again for a fresh 402.
pub(crate) const ENGINES: [Kind; 3] = [Kind::Mppx, Kind::Pympp, Kind::Mpp];

/// Sells `/v1/` by these schemes, behind a hop that ends TLS.
pub(crate) fn sold_by<'a>(builder: Builder<'a>, schemes: &[&str]) -> Builder<'a> {
    builder.plugin(|plugin| {
        let payment = json!({ "payment": { "realm": REALM, "tls": "terminated" } });
        merge(plugin, payment);
        if let Some(service) = plugin.pointer_mut("/services/0") {
            merge(service, json!({ "schemes": schemes }));
        }
    })
}

pub(crate) fn charges_only(name: &str) -> Builder<'static> {
    sold_by(Gate::dev(name), &["charge"])
}

/// The request that reached the upstream last was paid for by a charge; gives its payment hash.
fn served(gate: &Gate, said: &Said, kind: Kind) -> anyhow::Result<String> {
    ensure!(said.status == 200, "{kind:?}: {said:?}");
    ensure!(said.body.contains("Reykjavik"), "{kind:?}: {said:?}");
    let seen = gate.upstream.last()?;
    ensure!(
        seen.header("x-boltgate-scheme") == "charge",
        "{kind:?}: {seen:?}"
    );
    ensure!(
        seen.header("authorization").is_empty(),
        "{kind:?}: the upstream saw the credential"
    );
    let hash = seen.header("x-boltgate-payment-hash").to_owned();
    if kind.reads_receipts() {
        let receipt = |key| said.receipt.get(key).and_then(Value::as_str);
        ensure!(
            receipt("reference") == Some(&hash),
            "{kind:?}: {:?}",
            said.receipt
        );
        ensure!(receipt("status") == Some("success"), "{kind:?}: {said:?}");
        ensure!(receipt("method") == Some("lightning"), "{kind:?}: {said:?}");
    }
    Ok(hash)
}

impl Kind {
    /// The client has code of its own that reads receipts; Alby's has none.
    fn reads_receipts(self) -> bool {
        ![Self::AlbyCharge, Self::AlbyMpp].contains(&self)
    }

    /// It sends back a description that came with the offer; Alby leaves it out.
    fn echoes_description(self) -> bool {
        ![Self::AlbyCharge, Self::AlbyMpp].contains(&self)
    }
}

async fn pays_for_each_response(name: &str, kind: Kind) -> anyhow::Result<()> {
    let gate = charges_only(name).start().await?;
    let mut client = Client::start(kind, &dev_pay(&gate))?;
    let mut hashes = Vec::new();
    for number in 1..=2 {
        let said = client.get(&url(&gate, FORECAST)).await?;
        assert_eq!(said.payments, number, "{said:?}");
        hashes.push(served(&gate, &said, kind)?);
    }
    assert_eq!(gate.upstream.count(), 2);
    assert_eq!(dev_payments(&gate).await?, 2);
    hashes.sort_unstable();
    eventually("both sales are noted", SETTLING, || async {
        let sold = gate.sidecar.sales()?;
        ensure!(sold.iter().all(|sale| sale.scheme == "charge"), "{sold:?}");
        let mut sold: Vec<_> = sold.into_iter().map(|sale| sale.payment_hash).collect();
        sold.sort_unstable();
        ensure!(sold == hashes, "{sold:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn mppx_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-mppx", Kind::Mppx).await
}

#[tokio::test]
async fn pympp_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-pympp", Kind::Pympp).await
}

#[tokio::test]
async fn mpp_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-mpp", Kind::Mpp).await
}

#[tokio::test]
async fn alby_fetch402_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-alby-charge", Kind::AlbyCharge).await
}

#[tokio::test]
async fn alby_fetch_with_mpp_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-alby-mpp", Kind::AlbyMpp).await
}

#[tokio::test]
async fn l402_requests_pays_for_each_response() -> anyhow::Result<()> {
    pays_for_each_response("clients-l402-requests-charge", Kind::L402Requests).await
}

#[tokio::test]
async fn every_client_buys_a_response_from_a_real_node_to_a_real_node() -> anyhow::Result<()> {
    let network = Regtest::shared()?;
    let gate = sold_by(Gate::lnd("clients-charge-lnd", network), &["charge"]);
    let gate = gate.start().await?;
    let payer = Payer::start(gate.wallet.clone()).await?;
    for kind in Kind::CHARGE {
        let said = Client::start(kind, &payer.url())?
            .get(&url(&gate, FORECAST))
            .await?;
        assert_eq!(said.payments, 1, "{kind:?}");
        served(&gate, &said, kind)?;
    }
    Ok(())
}

#[tokio::test]
async fn beside_each_other_tokens_and_charges_are_bought_by_those_who_know_them()
-> anyhow::Result<()> {
    let builder = sold_by(Gate::dev("clients-both"), &["l402", "charge"]);
    let gate = builder.start().await?;
    for kind in Kind::L402 {
        buy_and_reuse(kind, &gate, &dev_pay(&gate)).await?;
    }
    for kind in ENGINES {
        let mut client = Client::start(kind, &dev_pay(&gate))?;
        let said = client.get(&url(&gate, FORECAST)).await?;
        assert_eq!(said.payments, 1, "{kind:?}");
        served(&gate, &said, kind)?;
    }
    // It looks at the first offer only, which is never a charge where tokens are sold.
    let mut client = Client::start(Kind::AlbyMpp, &dev_pay(&gate))?;
    let said = client.get(&url(&gate, FORECAST)).await?;
    assert_eq!((said.status, said.payments), (402, 0));
    Ok(())
}

#[tokio::test]
async fn joined_lines_and_unknown_parameters_keep_no_client_from_buying() -> anyhow::Result<()> {
    let more = r#", description="weather", x-hint="1""#;
    let rewriting =
        [(true, ""), (false, more), (true, more)].map(|(joins, adds)| Rewriting { joins, adds });
    for (schemes, kinds) in [
        (&["charge"][..], &Kind::CHARGE[..]),
        (&["l402", "charge"], &ENGINES),
    ] {
        let gate = sold_by(Gate::dev("clients-joined"), schemes)
            .start()
            .await?;
        for rewriting in rewriting {
            let hop = Hop::start(gate.http(), rewriting).await?;
            for kind in kinds {
                let mut client = Client::start(*kind, &dev_pay(&gate))?;
                let said = client.get(&hop.url(FORECAST)).await?;
                assert_eq!(said.payments, 1, "{kind:?} {rewriting:?}");
                served(&gate, &said, *kind)?;
                // What is outside of the binding comes back or not, and either is accepted. A
                // parameter that the scheme does not know comes back from nobody.
                let exchanges = hop.exchanges();
                let echoed = echo(exchanges.last().context("nothing has passed")?)?;
                let is_added = !rewriting.adds.is_empty() && kind.echoes_description();
                assert_eq!(echoed.contains_key("description"), is_added, "{kind:?}");
                assert!(!echoed.contains_key("x-hint"), "{kind:?}");
            }
        }
    }
    Ok(())
}

/// `challenge` of the credential that was sent.
pub(crate) fn echo(exchange: &Exchange) -> anyhow::Result<serde_json::Map<String, Value>> {
    let credential = exchange.sent("authorization").strip_prefix("Payment ");
    let credential = URL_SAFE_NO_PAD.decode(credential.context("no credential")?)?;
    let credential: Value = serde_json::from_slice(&credential)?;
    let challenge = credential.get("challenge").and_then(Value::as_object);
    challenge.cloned().context("no challenge")
}

#[tokio::test]
async fn each_client_echoes_what_an_offer_has_and_says_what_it_takes() -> anyhow::Result<()> {
    let gate = charges_only("clients-echo").start().await?;
    // As long as offers have no more parameters than these, it is one that drops the others
    // (Alby's `opaque`, mppx's unknown ones) can do no harm.
    let line = Regex::new(
        r#"^Payment id="[\w-]{44}", realm="api\.test", method="lightning", intent="charge", request="[\w-]+", expires="[0-9T:-]{19}Z"$"#,
    )?;
    let plain = Rewriting::default();
    for kind in Kind::CHARGE {
        let hop = Hop::start(gate.http(), plain).await?;
        Client::start(kind, &dev_pay(&gate))?
            .get(&hop.url(FORECAST))
            .await?;
        let exchanges = hop.exchanges();
        let [asked, paid] = exchanges.as_slice() else {
            panic!("{kind:?}: {exchanges:?}");
        };
        assert_eq!((asked.status, paid.status), (402, 200), "{kind:?}");

        let accepts = match kind {
            Kind::Mppx | Kind::Pympp | Kind::Mpp => "lightning/charge",
            _ => "",
        };
        assert_eq!(asked.sent("accept-payment"), accepts, "{kind:?}");

        assert!(
            line.is_match(asked.got(WWW_AUTHENTICATE.as_str())),
            "{asked:?}"
        );
        let offered = offers(&asked.answer);
        let [offer] = offered.as_slice() else {
            panic!("{offered:?}");
        };
        let echoed = echo(paid)?;
        for (name, value) in &offer.parameters {
            assert_eq!(echoed.get(name), Some(&json!(value)), "{kind:?} {name}");
        }
        assert_eq!(echoed.len(), offer.parameters.len(), "{kind:?}: {echoed:?}");
    }
    Ok(())
}

#[tokio::test]
async fn engines_pay_nothing_where_no_charge_is_offered() -> anyhow::Result<()> {
    let gate = Gate::dev("clients-no-charge").start().await?;
    gate.open(FORECAST).await?;
    for kind in ENGINES {
        let mut client = Client::start(kind, &dev_pay(&gate))?;
        let said = client.get(&url(&gate, FORECAST)).await;
        // One gives its caller the answer, the others an error.
        let error = match kind {
            Kind::Mppx => "No Payment schemes found",
            Kind::Mpp => "no supported challenge",
            _ => {
                let said = said?;
                assert_eq!((said.status, said.payments), (402, 0), "{kind:?}");
                continue;
            }
        };
        let said = said.expect_err("it knows no way to pay").to_string();
        assert!(said.contains(error), "{kind:?}: {said}");
    }
    assert_eq!(dev_payments(&gate).await?, 0);
    Ok(())
}
