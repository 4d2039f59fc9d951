//! Sessions of the Payment scheme through real Envoy: a deposit, then units of it, and the rest
//! back; whoever asks at once, and whatever dies meanwhile.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic"
)]

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{Builder, Gate};
use e2e::http_client::{Answer, Http};
use e2e::payment::{Offer, Session, offer_of, present, receipt};
use e2e::regtest::Regtest;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

const FORECAST: &str = "/v1/forecast";
const STREAM: &str = "/v1/stream";
const REALM: &str = "api.test";
/// Deposit of every session, in satoshis; a unit costs one.
const DEPOSIT: usize = 100;

/// Sells `/v1/` by session as well; events of the stream are units.
fn selling<'a>(builder: Builder<'a>) -> Builder<'a> {
    selling_by(builder, DEPOSIT)
}

fn selling_by<'a>(builder: Builder<'a>, deposit: usize) -> Builder<'a> {
    builder.plugin(move |plugin| {
        if let Some(service) = plugin
            .pointer_mut("/services/0")
            .and_then(Value::as_object_mut)
        {
            service.insert("schemes".into(), json!(["l402", "charge", "session"]));
            let session = json!({ "price": { "sat": 1 }, "deposit": { "sat": deposit },
                                  "unit": "event" });
            service.insert("session".into(), session);
        }
        if let Some(plugin) = plugin.as_object_mut() {
            let payment = json!({ "realm": REALM, "tls": "terminated" });
            plugin.insert("payment".into(), payment);
            // All clients of a test have one address.
            let limits = json!({ "challengesPerMinute": 1_000_000, "burst": 1_000_000 });
            plugin.insert("clientLimits".into(), limits);
        }
    })
}

async fn challenged(http: &Http) -> anyhow::Result<Answer> {
    eventually("the gate sells", Duration::from_secs(15), || async {
        let answer = http.get(FORECAST).send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await
}

/// Pays a deposit.
async fn deposit(gate: &Gate) -> anyhow::Result<Session> {
    let answer = challenged(&gate.http()).await?;
    let invoice = gate.wallet.return_invoice().await?;
    Session::deposit(&answer, &gate.wallet, &invoice).await
}

/// Opens a session by a request that costs one unit.
async fn opened(gate: &Gate) -> anyhow::Result<Session> {
    let session = deposit(gate).await?;
    let answer = present(&gate.http(), FORECAST, &session.open()).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(session)
}

/// Pays a further deposit.
async fn further(gate: &Gate) -> anyhow::Result<(Offer, String)> {
    let answer = challenged(&gate.http()).await?;
    let offer = offer_of(&answer, "session")?;
    let preimage = offer.pay(&gate.wallet).await?;
    Ok((offer, preimage))
}

/// Closes a session: what comes back to the buyer, and whether it has arrived.
async fn closed(gate: &Gate, session: &Session) -> anyhow::Result<(u64, String)> {
    let answer = present(&gate.http(), FORECAST, &session.close()?).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    refunded(&answer)
}

fn refunded(answer: &Answer) -> anyhow::Result<(u64, String)> {
    let said = answer.json();
    ensure!(said["status"] == "closed", "{said}");
    let receipt = receipt(answer)?;
    ensure!(
        receipt["refundSats"] == said["refundSats"]
            && receipt["refundStatus"] == said["refundStatus"],
        "{receipt} {said}"
    );
    let sats = said["refundSats"].as_u64().context("no refundSats")?;
    Ok((sats, said["refundStatus"].as_str().unwrap_or("").to_owned()))
}

/// The whole life of a session; the wallet is whoever's the gate has.
async fn story(gate: &Gate) -> anyhow::Result<()> {
    let session = deposit(gate).await?;
    gate.upstream.clear();
    let answer = present(&gate.http(), FORECAST, &session.open()).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = receipt(&answer)?;
    assert_eq!(said["reference"], json!(session.id()?));
    assert_eq!(said["challengeId"], json!(session.offer.parameter("id")));
    assert!(answer.header("cache-control").contains("private"));
    let seen = gate.upstream.last()?;
    assert_eq!(seen.header("x-boltgate-scheme"), "session");
    assert_eq!(seen.header("x-boltgate-session-id"), session.id()?);
    assert_eq!(seen.header("authorization"), "");

    // Fifty requests over both workers.
    for _ in 0..50 {
        let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        receipt(&answer)?;
    }
    assert_eq!(gate.upstream.count(), 51);
    // A stream of eight events.
    let answer = present(&gate.http(), STREAM, &session.bearer()?).await?;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    assert_eq!(text.matches("celsius").count(), 8, "{text}");
    let (before, after) = text
        .split_once("event: payment-receipt\n")
        .context("no receipt")?;
    assert!(
        before.ends_with("\n\n") && after.ends_with("\n\ndata: [DONE]\n\n"),
        "{text}"
    );
    assert!(
        after.contains(r#""units":8"#) && after.contains(r#""spent":8"#),
        "{after}"
    );

    // 41 are left. Five more streams and a bit: the last one runs dry after one event.
    for _ in 0..5 {
        let answer = present(&gate.http(), STREAM, &session.bearer()?).await?;
        assert_eq!(answer.text().matches("celsius").count(), 8);
    }
    let request = gate.http().get(STREAM);
    let request = request.header("authorization", session.bearer()?);
    let mut streaming = request.stream().await?;
    assert_eq!(streaming.status, 200);
    let held = streaming.until("}\n\n", Duration::from_secs(10)).await?;
    let held = match held.contains("need-topup") {
        true => held,
        false => held + &streaming.until("}\n\n", Duration::from_secs(10)).await?,
    };
    assert_eq!(held.matches("celsius").count(), 1, "{held}");
    let (_, event) = held
        .split_once("event: payment-need-topup\ndata: ")
        .context("not held")?;
    let need: Value = serde_json::from_str(event.trim())?;
    assert_eq!(
        need,
        json!({ "sessionId": session.id()?, "balanceSpent": DEPOSIT, "balanceRequired": 1 })
    );
    // While it is held: another request finds nothing left.
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402, "{}", answer.text());
    assert!(answer.text().contains("lightning/insufficient-balance"));

    let (offer, preimage) = further(gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    let answer = present(&gate.http(), FORECAST, &top_up).await?;
    assert_eq!(
        (answer.status, answer.json()),
        (200, json!({ "status": "ok" }))
    );
    let first = receipt(&answer)?;
    let rest = streaming.rest(Duration::from_secs(10)).await?;
    assert_eq!(rest.matches("celsius").count(), 7, "{rest}");
    assert!(
        rest.contains("payment-receipt") && rest.ends_with("data: [DONE]\n\n"),
        "{rest}"
    );
    // The same again: the same answer, and nothing more on the account.
    let answer = present(&gate.http(), FORECAST, &top_up).await?;
    assert_eq!((answer.status, receipt(&answer)?), (200, first));

    let upstream = gate.upstream.count();
    let (sats, status) = closed(gate, &session).await?;
    assert_eq!((sats, status.as_str()), (93, "succeeded"));
    eventually("the refund arrives", Duration::from_secs(10), || async {
        let received = gate.wallet.received(&session.return_invoice).await?;
        ensure!(received == Some(93_000), "{received:?}");
        Ok(())
    })
    .await?;
    // The same again, and then nothing else.
    assert_eq!(closed(gate, &session).await?, (93, "succeeded".to_owned()));
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402);
    assert!(
        answer.text().contains("lightning/session-closed"),
        "{}",
        answer.text()
    );
    assert_eq!(gate.upstream.count(), upstream);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_from_its_deposit_to_its_refund() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-story"));
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    story(&gate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_real_nodes_balances_to_the_sat() -> anyhow::Result<()> {
    let regtest = Regtest::start("session-lnd")?;
    let builder = selling(Gate::lnd("session-lnd-gate", &regtest));
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    story(&gate).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balance_of_a_hundred_units_serves_a_hundred_requests() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-hundred"));
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    let session = opened(&gate).await?;
    gate.upstream.clear();
    let bearer = session.bearer()?;
    let clients: Vec<Http> = (0..8).map(|_| gate.h2()).collect();
    let statuses: Vec<u16> = stream::iter(clients.iter().cycle().take(1_000))
        .map(|http| async { anyhow::Ok(present(http, FORECAST, &bearer).await?.status) })
        .buffer_unordered(1_000)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<anyhow::Result<_>>()?;
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(served, gate.upstream.count());
    assert!(
        statuses
            .iter()
            .all(|status| [200, 402, 503].contains(status)),
        "{statuses:?}"
    );
    // Whoever was told to come again while the last units were on their way does so.
    let mut left = DEPOSIT - 1 - served;
    while left > 0 {
        let answer = present(&gate.http(), FORECAST, &bearer).await?;
        match answer.status {
            200 => left -= 1,
            503 => tokio::task::yield_now().await,
            status => panic!("{status} with {left} left: {}", answer.text()),
        }
    }
    eventually("nothing is left", Duration::from_secs(10), || async {
        let answer = present(&gate.http(), FORECAST, &bearer).await?;
        ensure!(answer.status == 402, "{}", answer.status);
        Ok(())
    })
    .await?;
    assert_eq!(gate.upstream.count(), DEPOSIT - 1);
    assert_eq!(closed(&gate, &session).await?, (0, "skipped".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_races_with_requests_pays_back_what_was_not_served() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-race"));
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    for round in 0..3 {
        let session = opened(&gate).await?;
        let (offer, preimage) = further(&gate).await?;
        gate.upstream.clear();
        let (bearer, clients) = (
            session.bearer()?,
            (0..30).map(|_| gate.http()).collect::<Vec<_>>(),
        );
        let served = join_all(clients.iter().map(|http| async {
            let mut served = 0;
            for _ in 0..4 {
                let answer = present(http, FORECAST, &bearer).await?;
                served += u64::from(answer.status == 200);
                ensure!(
                    [200, 402, 503].contains(&answer.status),
                    "{}",
                    answer.status
                );
            }
            anyhow::Ok(served)
        }));
        let top_up = session.top_up(&offer, &preimage)?;
        let http = gate.http();
        let topped = present(&http, FORECAST, &top_up);
        let closing = closed(&gate, &session);
        let (served, topped, closing) = tokio::join!(served, topped, closing);
        let served: u64 = served
            .into_iter()
            .collect::<anyhow::Result<Vec<_>>>()?
            .iter()
            .sum();
        let topped = topped?;
        let deposits = match topped.status {
            200 => 2 * DEPOSIT,
            402 => DEPOSIT,
            status => panic!("{status} {}", topped.text()),
        } as u64;
        let (refund, status) = closing?;
        assert_eq!(1 + served + refund, deposits, "round {round}");
        assert_eq!(status, if refund == 0 { "skipped" } else { "succeeded" });
        if topped.status == 402 {
            // The money that lost to the close opens a new session.
            let session = Session {
                offer,
                preimage,
                return_invoice: gate.wallet.return_invoice().await?,
            };
            let answer = present(&gate.http(), FORECAST, &session.open()).await?;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(closed(&gate, &session).await?.0, DEPOSIT as u64 - 1);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_before_every_request_uses_few_invoices() -> anyhow::Result<()> {
    let builder = selling_by(Gate::dev("session-mppx"), 2_000);
    let gate = builder.envoy(|envoy| envoy.concurrency = 2).start().await?;
    let session = opened(&gate).await?;
    let mut hashes = std::collections::BTreeSet::new();
    let clients = [gate.http(), gate.http(), gate.http(), gate.http()];
    for http in clients.iter().cycle().take(1_000) {
        let answer = http.get(FORECAST).send().await?;
        let offer = offer_of(&answer, "session")?;
        hashes.insert(offer.payment_hash()?.to_owned());
        let answer = present(http, FORECAST, &session.bearer_under(&offer)?).await?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    }
    // Four for each of two workers; each worker may have shown some before it knew the session.
    assert!(
        hashes.len() <= 12,
        "{} deposit invoices were shown",
        hashes.len()
    );
    assert_eq!(closed(&gate, &session).await?.0, 999);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_answered_costs_nothing() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-unanswered"));
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    for _ in 0..5 {
        let answer = present(&gate.http(), "/v1/reset", &session.bearer()?).await?;
        assert_eq!((answer.status, answer.header("payment-receipt")), (503, ""));
    }
    // What the upstream itself says is an answer, whatever it says.
    let answer = present(&gate.http(), "/v1/broken", &session.bearer()?).await?;
    assert_eq!((answer.status, answer.header("payment-receipt")), (503, ""));
    assert_eq!(closed(&gate, &session).await?, (98, "succeeded".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn open_top_up_and_close_survive_the_sidecar_that_died_over_them() -> anyhow::Result<()> {
    let mut gate = selling(Gate::dev("session-crash")).start().await?;
    let session = deposit(&gate).await?;
    let (offer, preimage) = further(&gate).await?;
    let steps = [
        session.open(),
        session.top_up(&offer, &preimage)?,
        session.close()?,
    ];
    for (step, authorization) in steps.iter().enumerate() {
        gate.sidecar.running()?.freeze()?;
        let refused = {
            let http = gate.http();
            let presented = present(&http, FORECAST, authorization);
            let killed = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                gate.sidecar.kill();
            };
            tokio::join!(presented, killed).0?
        };
        assert_eq!(refused.status, 503, "step {step}: {}", refused.text());
        assert!(refused.header("www-authenticate").is_empty());
        gate.sidecar.start().await?;
        gate.sidecar.ready().await?;
        let done = eventually("it is done", Duration::from_secs(20), || async {
            let answer = present(&gate.http(), FORECAST, authorization).await?;
            ensure!(
                answer.status == 200,
                "step {step}: {} {}",
                answer.status,
                answer.text()
            );
            Ok(answer)
        })
        .await?;
        if step == 2 {
            assert_eq!(refunded(&done)?.0, 2 * DEPOSIT as u64 - 1);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_uses_is_closed_and_paid_back() -> anyhow::Result<()> {
    let builder = selling(Gate::dev("session-idle")).plugin(|plugin| {
        if let Some(payment) = plugin.pointer_mut("/payment") {
            payment["idleTimeout"] = json!("10s");
        }
    });
    let gate = builder.start().await?;
    let session = opened(&gate).await?;
    assert_eq!(session.offer.said("/idleTimeout")?, "10");
    eventually("the rest comes back", Duration::from_secs(40), || async {
        let received = gate.wallet.received(&session.return_invoice).await?;
        ensure!(received == Some(99_000), "{received:?}");
        Ok(())
    })
    .await?;
    let answer = present(&gate.http(), FORECAST, &session.bearer()?).await?;
    assert_eq!(answer.status, 402);
    assert!(
        answer.text().contains("lightning/session-closed"),
        "{}",
        answer.text()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_spends_what_is_not_his() -> anyhow::Result<()> {
    let gate = selling(Gate::dev("session-strangers")).start().await?;
    let session = opened(&gate).await?;
    let stranger = deposit(&gate).await?;
    gate.upstream.clear();
    let problem = |answer: &Answer| {
        let said = answer.json();
        let kind = said["type"].as_str().unwrap_or("").to_owned();
        (
            answer.status,
            kind.rsplit("problems/").next().unwrap_or("").to_owned(),
        )
    };
    let payload = |action: &str, more: Value| {
        let mut payload = json!({ "action": action });
        e2e::envoy::merge(&mut payload, more);
        payload
    };
    let (id, other) = (session.id()?.to_owned(), stranger.id()?.to_owned());
    let return_invoice = gate.wallet.return_invoice().await?;
    let wrong = "00".repeat(32);
    let cases = [
        (
            payload("bearer", json!({ "sessionId": id, "preimage": wrong })),
            "invalid-preimage",
        ),
        (
            payload(
                "bearer",
                json!({ "sessionId": id, "preimage": stranger.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "bearer",
                json!({ "sessionId": other, "preimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "close",
                json!({ "sessionId": id, "preimage": stranger.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "close",
                json!({ "sessionId": other, "preimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "topUp",
                json!({ "sessionId": id, "topUpPreimage": session.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "topUp",
                json!({ "sessionId": wrong, "topUpPreimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "open",
                json!({ "preimage": wrong, "returnInvoice": return_invoice }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": stranger.offer.invoice()? }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": session.return_invoice }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": "lnbcrt1nonsense" }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload("open", json!({ "preimage": stranger.preimage })),
            "malformed-credential",
        ),
        (payload("sing", json!({})), "malformed-credential"),
    ];
    for (payload, expected) in cases {
        let answer = present(&gate.http(), FORECAST, &stranger.offer.credential(&payload)).await?;
        let expected = (402, ["lightning/", expected].concat());
        assert_eq!(
            problem(&answer),
            expected,
            "{} {}",
            payload["action"],
            answer.text()
        );
        offer_of(&answer, "session")?;
    }
    assert_eq!(gate.upstream.count(), 0);
    // Nothing of that has cost anybody anything.
    let answer = present(&gate.http(), FORECAST, &stranger.open()).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (offer, preimage) = further(&gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    assert_eq!(present(&gate.http(), FORECAST, &top_up).await?.status, 200);
    // One payment, one use: not for another session, and not to open one.
    let again = stranger.top_up(&offer, &preimage)?;
    let answer = present(&gate.http(), FORECAST, &again).await?;
    assert_eq!(
        problem(&answer),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let third = Session {
        offer,
        preimage,
        return_invoice,
    };
    let answer = present(&gate.http(), FORECAST, &third.open()).await?;
    assert_eq!(
        problem(&answer),
        (402, "lightning/unknown-challenge".to_owned())
    );
    assert_eq!(closed(&gate, &session).await?.0, 2 * DEPOSIT as u64 - 1);
    assert_eq!(closed(&gate, &stranger).await?.0, DEPOSIT as u64 - 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn top_up_and_close_are_answered_at_any_path_and_never_forwarded() -> anyhow::Result<()> {
    let gate = selling(Gate::dev("session-anywhere")).start().await?;
    let session = opened(&gate).await?;
    gate.upstream.clear();
    let (offer, preimage) = further(&gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    for target in ["/v1/health", "/nowhere", FORECAST] {
        let answer = present(&gate.http(), target, &top_up).await?;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "status": "ok" })),
            "{target}"
        );
        let post = gate
            .http()
            .post(target, "{}")
            .header("authorization", &top_up);
        assert_eq!(post.send().await?.status, 200, "{target}");
    }
    let answer = present(&gate.http(), "/v1/health", &session.close()?).await?;
    assert_eq!(refunded(&answer)?.0, 2 * DEPOSIT as u64 - 1);
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}
