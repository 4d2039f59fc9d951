use std::collections::HashSet;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::api::{Bootstrap, Offer, OfferTemplate, OffersRequest};
use protocol::encoding::base64_decode_lenient;
use protocol::hash::Preimage;
use protocol::keys::L402Keys;
use protocol::l402::{Credential, Target, verify};
use protocol::time::UnixSeconds;
use sidecar::adapters::system::SystemClock;
use sidecar::domain::offer::LATE_PAYMENT_SECONDS;
use sidecar::domain::ports::{Clock as _, Ledger as _};
use tempfile::TempDir;

use crate::support::{Sidecar, Store, eventually, on_each_ledger, template, wish, wish_of};

on_each_ledger! {
    a_paid_offer_is_a_token_that_a_filter_accepts_for_at_least_its_lifetime,
    a_sale_is_recorded_with_what_was_paid,
    no_two_offers_share_an_invoice_under_load,
    outstanding_invoices_are_bounded_also_at_the_node,
}

/// Verifies as a filter does; the end of the token.
pub(crate) fn verified(
    bootstrap: &Bootstrap,
    offer: &Offer,
    preimage: &str,
) -> Result<Option<UnixSeconds>, String> {
    let keys: L402Keys = bootstrap
        .keys
        .iter()
        .map(|key| (key.generation, key.l402.parse().unwrap()))
        .collect();
    let token = base64_decode_lenient(&offer.macaroon).unwrap();
    let credential = Credential::of_macaroon(token, Some(preimage.parse::<Preimage>().unwrap()));
    let revoked = |hash: &[u8; 32]| {
        let hash = protocol::encoding::hex_encode(hash);
        bootstrap.revocations.add.contains(&hash)
    };
    let target = Target {
        service: "weather",
        capability: Some("forecast"),
        now: SystemClock::new().now(),
    };
    let grant =
        verify(&credential, &keys, revoked, &target).map_err(|refusal| format!("{refusal:?}"))?;
    assert_eq!(grant.tier, 2);
    Ok(grant.valid_until)
}

async fn a_paid_offer_is_a_token_that_a_filter_accepts_for_at_least_its_lifetime(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let offer = sidecar.api.offers(1).await.offers.remove(0);
    let preimage = sidecar.pay(&offer.invoice).await.unwrap();
    assert_eq!(
        preimage.parse::<Preimage>().unwrap().hash().to_string(),
        offer.payment_hash
    );
    let bootstrap = sidecar.api.bootstrap(None).await.unwrap();
    let end = verified(&bootstrap, &offer, &preimage).unwrap().unwrap();
    let last_payment = offer.show_until + 120 + LATE_PAYMENT_SECONDS;
    assert_eq!(
        end.0,
        last_payment + 3_600,
        "whoever pays last gets the whole lifetime"
    );
    let wrong = "00".repeat(32);
    assert!(verified(&bootstrap, &offer, &wrong).is_err());
}

async fn a_sale_is_recorded_with_what_was_paid(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let offers = sidecar.api.collect(2).await;
    sidecar.pay(&offers[0].invoice).await.unwrap();
    let paid_again = sidecar.pay(&offers[0].invoice).await;
    assert_eq!(paid_again, Err("invoice is already paid".to_owned()));
    let ledger = sidecar.open_ledger().await;
    let sales = eventually("the sale", async || {
        Some(ledger.sales(UnixSeconds(0), 10).await.unwrap()).filter(|sales| !sales.is_empty())
    })
    .await;
    assert_eq!(sales.len(), 1);
    assert_eq!(sales[0].payment_hash.to_string(), offers[0].payment_hash);
    assert_eq!(
        (sales[0].service.as_str(), sales[0].amount.get()),
        ("weather", 10_000)
    );
    assert_eq!(sales[0].scheme.as_str(), "l402");
}

async fn no_two_offers_share_an_invoice_under_load(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let api = sidecar.api;
        tasks.spawn(async move { api.offers(8).await.offers });
    }
    let mut hashes = HashSet::new();
    let mut macaroons = HashSet::new();
    while let Some(offers) = tasks.join_next().await {
        for offer in offers.unwrap() {
            assert!(hashes.insert(offer.payment_hash));
            assert!(macaroons.insert(offer.macaroon));
        }
    }
    assert!(hashes.len() >= 64);
}

#[tokio::test]
async fn one_client_is_limited_before_minting_and_others_are_not_harmed() {
    let sidecar = Sidecar::dev("offers: { perClientPerMinute: 5, paidFactor: 4 }").await;
    for _ in 0..5 {
        let answer = sidecar.api.ask(&wish_of("192.0.2.1/32", false)).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    for _ in 0..20 {
        let answer = sidecar.api.ask(&wish_of("192.0.2.1/32", false)).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=12).contains(&wait));
    }
    assert_eq!(
        sidecar
            .api
            .ask(&wish_of("192.0.2.2/32", false))
            .await
            .status,
        StatusCode::OK
    );
    assert_eq!(
        sidecar.api.ask(&wish(1)).await.status,
        StatusCode::OK,
        "a stock being filled"
    );
    let paid = sidecar.api.ask(&wish_of("192.0.2.1/32", true)).await;
    assert_eq!(paid.status, StatusCode::OK, "who has paid gets more");
}

#[tokio::test]
async fn all_clients_together_are_limited() {
    let sidecar = Sidecar::dev("offers: { perSecond: 1, burst: 10 }").await;
    let mut issued = 0;
    let refused = loop {
        let answer = sidecar.api.ask(&wish(4)).await;
        if answer.status != StatusCode::OK {
            break answer;
        }
        issued += answer.json()["offers"].as_array().unwrap().len();
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.header("retry-after").is_some());
    assert!((10..=13).contains(&issued), "{issued}");
}

async fn outstanding_invoices_are_bounded_also_at_the_node(store: Store) {
    let sidecar = Sidecar::dev_on(store, "offers: { maxOutstanding: 25 }").await;
    let mut issued = 0;
    // What is being counted anew may be counted twice for a moment, so the end may come late.
    eventually("as many as may be", async || {
        let answer = sidecar.api.ask(&wish(4)).await;
        if answer.status == StatusCode::OK {
            issued += answer.json()["offers"].as_array().unwrap().len();
        }
        (issued >= 20).then_some(())
    })
    .await;
    assert_eq!(issued, 20, "a fifth is kept");
    eventually("a customer's offers", async || {
        let answer = sidecar.api.ask(&wish_of("192.0.2.1/32", true)).await;
        issued += usize::from(answer.status == StatusCode::OK);
        (issued >= 25).then_some(())
    })
    .await;
    for _ in 0..20 {
        let refused = sidecar.api.ask(&wish(4)).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.header("retry-after").is_some());
    }
    let url = format!("http://{}/stats", sidecar.dev.unwrap());
    let stats = sidecar::http::client::request(&url, None)
        .await
        .unwrap()
        .body;
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["invoices"], 25);
}

#[tokio::test]
async fn a_hanging_node_costs_one_bounded_wait_and_slows_no_bootstrap() {
    let dev = "{ listen: 127.0.0.1:0, invoiceDelay: 60s }";
    let sidecar = Sidecar::dev_in(TempDir::new().unwrap(), dev, "").await;
    let api = sidecar.api;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..50 {
        waiting.spawn(async move {
            let begun = Instant::now();
            (api.ask(&wish(1)).await, begun.elapsed())
        });
    }
    for _ in 0..20 {
        let begun = Instant::now();
        api.bootstrap(None).await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    while let Some(done) = waiting.join_next().await {
        let (answer, took) = done.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.header("retry-after").is_some());
        assert!(
            took < Duration::from_secs(3),
            "within the filter's timeout: {took:?}"
        );
    }
}

#[tokio::test]
async fn nonsense_is_refused() {
    let sidecar = Sidecar::dev("").await;
    let with = |change: &dyn Fn(&mut OfferTemplate)| {
        let mut template = template();
        change(&mut template);
        OffersRequest {
            template,
            ..wish(1)
        }
    };
    let free = protocol::amount::Msat::ZERO;
    for (what, request) in [
        (
            "no offers",
            OffersRequest {
                count: 0,
                ..wish(1)
            },
        ),
        (
            "too many",
            OffersRequest {
                count: 257,
                ..wish(1)
            },
        ),
        ("free", with(&|t| t.price_msat = free)),
        ("no name", with(&|t| t.service = String::new())),
        ("a list of names", with(&|t| t.service = "a:0,b".to_owned())),
        (
            "a caveat in a name",
            with(&|t| t.capabilities = vec!["a=b".to_owned()]),
        ),
        (
            "a control character",
            with(&|t| t.constraints[0].1 = "1\n2".to_owned()),
        ),
        (
            "a long caveat",
            with(&|t| t.constraints[0].1 = "1".repeat(5_000)),
        ),
    ] {
        assert_eq!(
            sidecar.api.ask(&request).await.status,
            StatusCode::BAD_REQUEST,
            "{what}"
        );
    }
}
