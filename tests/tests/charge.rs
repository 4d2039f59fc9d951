//! The Payment scheme's charge through real Envoy: one payment buys one response, whoever asks how
//! often at once, and whatever dies meanwhile.

use std::time::Duration;

use anyhow::ensure;
use e2e::envoy::{Envoy, EnvoyConfig};
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::http_client::{Answer, Http};
use e2e::payment::{self, Offer, offer_of, receipt};
use futures_util::{StreamExt, stream};
use serde_json::json;

const FORECAST: &str = "/v1/forecast";
const REALM: &str = "api.test";

/// Sells `/v1/` by charge as well, behind a hop that ends TLS.
fn with_charge(name: &str) -> Builder<'static> {
    Gate::dev(name).plugin(|plugin| {
        if let Some(service) = plugin.pointer_mut("/services/0")
            && let Some(service) = service.as_object_mut()
        {
            service.insert("schemes".into(), json!(["l402", "charge"]));
        }
        if let Some(plugin) = plugin.as_object_mut() {
            let payment = json!({ "realm": REALM, "tls": "terminated" });
            plugin.insert("payment".into(), payment);
        }
    })
}

/// A paid credential.
struct Paid {
    offer: Offer,
    authorization: String,
}

async fn challenged(gate: &Gate) -> anyhow::Result<Offer> {
    let answer = gate.http().get(FORECAST).send().await?;
    offer_of(&answer, "charge")
}

async fn buy(gate: &Gate) -> anyhow::Result<Paid> {
    let offer = challenged(gate).await?;
    assert_eq!(offer.parameter("realm"), REALM);
    assert_eq!(
        (offer.said("/amount")?, offer.said("/currency")?),
        ("10", "sat")
    );
    let preimage = offer.pay(&gate.wallet).await?;
    let authorization = offer.credential(&json!({ "preimage": preimage }));
    Ok(Paid {
        offer,
        authorization,
    })
}

async fn present(http: &Http, paid: &Paid) -> anyhow::Result<Answer> {
    payment::present(http, FORECAST, &paid.authorization).await
}

/// Waits until the gate sells by charge.
async fn open(gate: &Gate) -> anyhow::Result<()> {
    eventually("the gate sells", Duration::from_secs(10), || async {
        challenged(gate).await.map(drop)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_buys_one_response_with_a_receipt() -> anyhow::Result<()> {
    let gate = with_charge("charge-story").start().await?;
    open(&gate).await?;
    let paid = buy(&gate).await?;
    gate.upstream.clear();
    let served = present(&gate.http(), &paid).await?;
    assert_eq!(served.status, 200, "{}", served.text());
    let receipt = receipt(&served)?;
    let hash = paid.offer.payment_hash()?;
    assert_eq!(receipt["reference"], json!(hash));
    assert_eq!(receipt["challengeId"], json!(paid.offer.parameter("id")));
    assert_eq!(receipt["status"], "success");
    let control = served.header("cache-control");
    assert!(control.contains("private"), "{control}");
    let seen = gate.upstream.last()?;
    assert_eq!(seen.header("x-boltgate-service"), "weather");
    assert_eq!(seen.header("x-boltgate-scheme"), "charge");
    assert_eq!(seen.header("x-boltgate-payment-hash"), hash);
    assert_eq!(seen.header("authorization"), "");

    // A claim so young might yet be abandoned, so whoever comes at once is told to come again.
    eventually("it is used up", Duration::from_secs(15), || async {
        let again = present(&gate.http(), &paid).await?;
        ensure!(again.header("payment-receipt").is_empty());
        ensure!(again.status == 402, "{} {}", again.status, again.text());
        ensure!(again.text().contains("lightning/unknown-challenge"));
        offer_of(&again, "charge").map(drop)
    })
    .await?;
    assert_eq!(gate.upstream.count(), 1);

    // Other responses have no receipt, and tokens are sold beside charges.
    let token = gate.buy(FORECAST).await?;
    let served = gate.http().get(FORECAST).token(&token).send().await?;
    assert_eq!((served.status, served.header("payment-receipt")), (200, ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_present_one_payment_at_once_one_is_served() -> anyhow::Result<()> {
    let workers = with_charge("charge-race").envoy(|envoy| envoy.concurrency = 2);
    let gate = workers.start().await?;
    open(&gate).await?;
    let paid = buy(&gate).await?;
    gate.upstream.clear();
    // A connection each, so that both workers have some.
    let clients: Vec<_> = (0..50).map(|_| gate.http()).collect();
    let answers = futures_util::future::join_all(clients.iter().map(|http| present(http, &paid)));
    let mut statuses = Vec::new();
    for answer in answers.await {
        let answer = answer?;
        statuses.push(answer.status);
        assert_eq!(
            answer.challenges().is_empty(),
            answer.status != 402,
            "{}",
            answer.status
        );
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!((served, gate.upstream.count()), (1, 1), "{statuses:?}");
    assert!(
        statuses
            .iter()
            .all(|status| [200, 402, 503].contains(status)),
        "{statuses:?}"
    );
    Ok(())
}

/// Presentations in all, and how many of them are under way at a time.
const PRESENTATIONS: usize = 10_000;
const AT_ONCE: usize = 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_presentations_over_two_envoys_one_is_served() -> anyhow::Result<()> {
    let wide = |envoy: &mut EnvoyConfig| {
        envoy.concurrency = 2;
        envoy.manager = json!({ "http2_protocol_options": { "max_concurrent_streams": AT_ONCE } });
    };
    let gate = with_charge("charge-flood").envoy(wide).start().await?;
    open(&gate).await?;
    let folder = gate.folder.join("second");
    std::fs::create_dir(&folder)?;
    let second = Envoy::start(&folder, gate.envoy.config.clone()).await?;
    let paid = buy(&gate).await?;
    let authorization = &paid.authorization;
    eventually(
        "the second Envoy sells",
        Duration::from_secs(10),
        || async {
            let answer = Http::new(second.address()).get(FORECAST).send().await?;
            offer_of(&answer, "charge").map(drop)
        },
    )
    .await?;
    gate.upstream.clear();
    let clients: Vec<Http> = (0..8)
        .map(|number| match number % 2 {
            0 => gate.h2(),
            _ => Http::h2(second.address()),
        })
        .collect();
    let statuses: Vec<u16> = stream::iter(clients.iter().cycle().take(PRESENTATIONS))
        .map(|http| async move {
            let answer = payment::present(http, FORECAST, authorization).await?;
            anyhow::Ok(answer.status)
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    let told = [200, 402, 429, 503].map(|status| (status, count(status)));
    assert_eq!((count(200), gate.upstream.count()), (1, 1), "{told:?}");
    let known: usize = told.iter().map(|(_, count)| count).sum();
    assert_eq!(known, PRESENTATIONS, "{told:?}");
    println!("{told:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_survives_the_sidecar_that_died_over_its_claim() -> anyhow::Result<()> {
    let mut gate = with_charge("charge-crash").start().await?;
    open(&gate).await?;
    let paid = buy(&gate).await?;
    gate.upstream.clear();
    gate.sidecar.running()?.freeze()?;
    let refused = {
        let http = gate.http();
        let presented = present(&http, &paid);
        let killed = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            gate.sidecar.kill();
        };
        tokio::join!(presented, killed).0?
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("www-authenticate").is_empty() && gate.upstream.count() == 0);
    gate.sidecar.start().await?;
    gate.sidecar.ready().await?;
    eventually("it is served", Duration::from_secs(15), || async {
        let served = present(&gate.http(), &paid).await?;
        ensure!(served.status == 200, "{} {}", served.status, served.text());
        Ok(())
    })
    .await?;
    assert_eq!(gate.upstream.count(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_no_charge_is_offered_or_taken() -> anyhow::Result<()> {
    let gate = with_charge("charge-plain").plugin(|plugin| {
        if let Some(tls) = plugin.pointer_mut("/payment/tls") {
            *tls = json!("required");
        }
    });
    let gate = gate.start().await?;
    gate.open(FORECAST).await?;
    let answer = gate.http().get(FORECAST).send().await?;
    let lines = answer.headers.get_all("www-authenticate").iter().count();
    assert_eq!((answer.status, lines), (402, 2));
    let presented = gate
        .http()
        .get(FORECAST)
        .header("authorization", "Payment e30");
    let answer = presented.send().await?;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (403, "")
    );
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}
