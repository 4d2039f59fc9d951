use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::api::{BOOTSTRAP_PATH, KeyState, MARKER_HEADER, MARKER_VALUE, OFFERS_PATH};
use protocol::encoding::hex_encode;
use sidecar::adapters::ledger::sqlite::SqliteLedger;
use sidecar::adapters::system::SystemClock;
use sidecar::domain::keys::KeySource;
use sidecar::domain::ledger::NewRevocation;
use sidecar::domain::offer::Validity;
use sidecar::domain::ports::{Clock as _, Ledger as _};

use crate::support::{PREVIOUS, Sidecar, Store, VM, eventually, on_each_ledger, wish};

on_each_ledger! {
    a_revocation_written_to_the_ledger_by_another_process_is_seen_within_a_second,
}

#[tokio::test]
async fn a_new_filter_gets_everything_and_then_only_changes() {
    let sidecar = Sidecar::dev("").await;
    let first = sidecar.api.bootstrap(None).await.unwrap();
    assert!(first.revocations.full);
    assert_eq!(first.keys.len(), 1);
    assert_eq!(first.keys[0].state, KeyState::Current);
    assert!(sidecar.api.bootstrap(Some(&first.version)).await.is_none());
}

async fn a_revocation_written_to_the_ledger_by_another_process_is_seen_within_a_second(
    store: Store,
) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let first = sidecar.api.bootstrap(None).await.unwrap();
    let other = sidecar.open_ledger().await;
    let clock = SystemClock::new();
    let revocation = NewRevocation {
        identifier_hash: [7; 32],
        expires: Validity::Forever,
        at: clock.now(),
    };
    other.revoke(revocation, clock.unix_millis()).await.unwrap();
    let begun = Instant::now();
    let known = first.version.clone();
    let second = eventually("the revocation", async || {
        sidecar.api.bootstrap(Some(&known)).await
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert!(!second.revocations.full);
    assert_eq!(second.revocations.add, [hex_encode(&[7; 32])]);
}

#[tokio::test]
async fn the_master_key_is_in_no_answer() {
    let sidecar = Sidecar::dev("").await;
    let ledger = SqliteLedger::open(&sidecar.ledger()).unwrap();
    let snapshot = ledger.snapshot().await.unwrap();
    let KeySource::Ledger(master) = &snapshot.generations[0].source else {
        panic!("no key")
    };
    let bootstrap = sidecar.api.bootstrap(None).await.unwrap();
    let text = serde_json::to_string(&bootstrap).unwrap();
    assert!(!text.contains(&hex_encode(master.expose())));
    assert!(text.contains(&master.derive_l402().expose_hex()));
}

#[tokio::test]
async fn every_answer_of_the_sidecar_carries_the_marker_and_errors_are_problems() {
    let sidecar = Sidecar::dev("").await;
    let api = sidecar.api;
    let good = serde_json::to_vec(&wish(1)).unwrap();
    let bootstrap = format!("{BOOTSTRAP_PATH}?vm={VM}");
    let mut unauthorized = api.request("GET", &bootstrap, "");
    unauthorized
        .headers_mut()
        .insert("authorization", "Bearer wrong".parse().unwrap());
    let mut nobody = api.request("GET", &bootstrap, "");
    nobody.headers_mut().remove("authorization");
    let mut twice = api.request("GET", &bootstrap, "");
    twice
        .headers_mut()
        .append("authorization", "Bearer x".parse().unwrap());
    let mut previous = api.request("GET", &bootstrap, "");
    let value = format!("bearer {PREVIOUS}").parse().unwrap();
    previous.headers_mut().insert("authorization", value);
    let cases = [
        (api.request("GET", &bootstrap, ""), 200),
        (previous, 200),
        (unauthorized, 401),
        (nobody, 401),
        (twice, 401),
        (api.request("GET", BOOTSTRAP_PATH, ""), 400),
        (
            api.request("GET", &format!("{BOOTSTRAP_PATH}?vm=short"), ""),
            400,
        ),
        (api.request("GET", "/v1/nothing", ""), 404),
        (api.request("GET", OFFERS_PATH, ""), 405),
        (api.request("POST", OFFERS_PATH, good), 200),
        (api.request("POST", OFFERS_PATH, "{"), 400),
        (api.request("POST", OFFERS_PATH, "{\"unknown\":1}"), 400),
        (api.request("POST", OFFERS_PATH, vec![b' '; 100_000]), 413),
    ];
    for (request, status) in cases {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = api.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{what}");
        assert_eq!(answer.header(MARKER_HEADER), Some(MARKER_VALUE), "{what}");
        if status >= 400 {
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{what}"
            );
            assert_eq!(answer.json()["status"], status, "{what}");
        }
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_understood() {
    let sidecar = Sidecar::dev("").await;
    let request = sidecar
        .api
        .request("GET", &format!("{BOOTSTRAP_PATH}?vm={VM}"), "");
    assert_eq!(sidecar.api.send_h2(request).await.status, StatusCode::OK);
}

#[tokio::test]
async fn probes_and_metrics_answer_on_their_own_listener() {
    let sidecar = Sidecar::dev("").await;
    let (status, body) = sidecar.ready("").await;
    assert_eq!((status, &body["checks"]["ledger"]), (200, &"ready".into()));
    eventually("the node was asked", async || {
        (sidecar.ready("?require=lightning").await.0 == 200).then_some(())
    })
    .await;
    sidecar.api.offers(1).await;
    let metrics = sidecar.metrics().await;
    assert!(metrics.contains("boltgate_sidecar_build_info{version="));
    assert!(metrics.contains("boltgate_sidecar_offers_total{outcome=\"issued\"} 1"));
    assert!(metrics.contains("boltgate_sidecar_lightning_call_seconds_bucket"));
}
