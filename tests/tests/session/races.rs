//! Many at once.

use std::time::Duration;

use anyhow::ensure;
use e2e::eventually;
use e2e::gate::Gate;
use e2e::http_client::Http;
use e2e::payment::{Session, offer_of, present};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};

use crate::{DEPOSIT, FORECAST, closed, further, opened, selling, selling_by};

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
            .all(|status| [200, 402, 429, 503].contains(status)),
        "{statuses:?}"
    );
    // Whoever was told to come again while the last units were on their way does so.
    for left in (served + 1..DEPOSIT).rev() {
        eventually("a unit is served", Duration::from_secs(10), || async {
            let answer = present(&gate.http(), FORECAST, &bearer).await?;
            ensure!(answer.status == 200, "{} with {left} left", answer.status);
            Ok(())
        })
        .await?;
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
                    [200, 402, 429, 503].contains(&answer.status),
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
    let mut left = clients.iter().cycle().take(999).peekable();
    while let Some(http) = left.peek() {
        let answer = http.get(FORECAST).send().await?;
        let offer = offer_of(&answer, "session")?;
        hashes.insert(offer.payment_hash()?.to_owned());
        let answer = present(http, FORECAST, &session.bearer_under(&offer)?).await?;
        // A busy machine may take a second to lease; whoever is told so comes again.
        if answer.status == 503 {
            continue;
        }
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        left.next();
    }
    // Four for each of two workers; each worker may have shown some before it knew the session.
    assert!(
        hashes.len() <= 12,
        "{} deposit invoices were shown",
        hashes.len()
    );
    assert_eq!(closed(&gate, &session).await?.0, 1_000);
    Ok(())
}
