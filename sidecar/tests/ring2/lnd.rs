use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::time::UnixSeconds;
use sidecar::adapters::ledger::sqlite::SqliteLedger;
use sidecar::adapters::lightning::lnd::lnrpc::invoice::InvoiceState;
use sidecar::domain::offer::Sale;
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;

use crate::fake_lnd::{FakeLnd, Mode};
use crate::support::{Sidecar, eventually, wish};

async fn start(dir: TempDir, lnd: SocketAddr) -> Sidecar {
    std::fs::write(dir.path().join("macaroon"), [2, 1, 3, 0xff]).unwrap();
    let macaroon = dir.path().join("macaroon");
    let yaml = format!(
        "lightning: {{ lnd: {{ endpoint: 'http://{lnd}', macaroonFile: '{}', timeout: 1s }} }}\n",
        macaroon.display()
    );
    Sidecar::start(dir, &yaml).await
}

async fn node_is(sidecar: &Sidecar, state: &str) {
    eventually(state, async || {
        let (_, body) = sidecar.ready("").await;
        (body["checks"]["lightning"] == state).then_some(())
    })
    .await;
}

async fn sales(sidecar: &Sidecar, count: usize) -> Vec<Sale> {
    let ledger = SqliteLedger::open(&sidecar.ledger()).unwrap();
    eventually("the sales", async || {
        let sales = ledger.sales(UnixSeconds(0), 100).await.unwrap();
        assert!(sales.len() <= count, "a sale too many");
        (sales.len() == count).then_some(sales)
    })
    .await
}

#[tokio::test]
async fn a_locked_wallet_is_told_from_a_dead_node_and_neither_makes_the_sidecar_unready() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let address = serving.address;
    let sidecar = start(TempDir::new().unwrap(), address).await;
    node_is(&sidecar, "ready").await;
    lnd.set(Mode::Locked);
    node_is(&sidecar, "locked").await;
    let (status, _) = sidecar.ready("").await;
    assert_eq!(status, 200, "filters still need the keys");
    assert_eq!(sidecar.ready("?require=lightning").await.0, 503);
    let begun = Instant::now();
    let answer = sidecar.api.ask(&wish(1)).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&answer.body).contains("locked"));
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "known to be down, so nobody waits"
    );

    serving.kill().await;
    node_is(&sidecar, "unreachable").await;
    assert!(sidecar.api.bootstrap(None).await.is_some());

    lnd.set(Mode::Ready);
    let _serving = lnd.serve(&address.to_string(), None).await;
    node_is(&sidecar, "ready").await;
    sidecar.api.offers(1).await;
}

#[tokio::test]
async fn a_hanging_node_leaves_bootstrap_and_the_pool_alone() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let sidecar = start(TempDir::new().unwrap(), serving.address).await;
    node_is(&sidecar, "ready").await;
    sidecar.api.offers(8).await;
    eventually("a warm pool", async || {
        let ready = sidecar
            .metric("boltgate_sidecar_pool_ready_invoices")
            .await?;
        (ready >= 4.0).then_some(())
    })
    .await;
    lnd.set(Mode::Hanging);
    for _ in 0..4 {
        let begun = Instant::now();
        sidecar.api.offers(1).await;
        sidecar.api.bootstrap(None).await.unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
    }
    let begun = Instant::now();
    let mut other = wish(1);
    other.template.service = "cold".to_owned();
    assert_eq!(
        sidecar.api.ask(&other).await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert!(begun.elapsed() < Duration::from_secs(3));
    node_is(&sidecar, "unreachable").await;
    lnd.set(Mode::Ready);
    node_is(&sidecar, "ready").await;
    assert_eq!(sidecar.api.ask(&other).await.status, StatusCode::OK);
}

#[tokio::test]
async fn settlements_of_an_outage_of_either_side_are_recorded_once() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let address = serving.address;
    let sidecar = start(TempDir::new().unwrap(), address).await;
    node_is(&sidecar, "ready").await;
    let offers = sidecar.api.collect(4).await;
    lnd.pay(&offers[0].payment_hash);
    sales(&sidecar, 1).await;

    // The node goes and comes back; meanwhile it was paid, and had other business.
    serving.kill().await;
    lnd.other_business(1);
    lnd.pay(&offers[1].payment_hash);
    let _serving = lnd.serve(&address.to_string(), None).await;
    sales(&sidecar, 2).await;

    // The sidecar goes and comes back.
    let dir = sidecar.end().await;
    lnd.pay(&offers[2].payment_hash);
    lnd.other_business(2);
    let sidecar = start(dir, address).await;
    sales(&sidecar, 3).await;
    lnd.pay(&offers[3].payment_hash);
    let all = sales(&sidecar, 4).await;
    assert!(all.iter().all(|sale| sale.amount.get() == 10_000));
}

#[tokio::test]
async fn a_first_settlement_that_came_before_any_index_was_known_is_found() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let sidecar = start(TempDir::new().unwrap(), serving.address).await;
    node_is(&sidecar, "ready").await;
    let offer = sidecar.api.offers(1).await.offers.remove(0);
    let dir = sidecar.end().await;
    lnd.pay(&offer.payment_hash);
    let sidecar = start(dir, serving.address).await;
    sales(&sidecar, 1).await;
}

#[tokio::test]
async fn a_macaroon_that_was_baked_anew_is_read_again() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let sidecar = start(TempDir::new().unwrap(), serving.address).await;
    node_is(&sidecar, "ready").await;
    lnd.require_macaroon("0a0b");
    node_is(&sidecar, "unauthorized").await;
    std::fs::write(sidecar.dir.path().join("macaroon"), "0A0B".to_lowercase()).unwrap();
    node_is(&sidecar, "ready").await;
}

#[tokio::test]
async fn leftovers_of_the_pool_are_cancelled_when_the_sidecar_ends() {
    let lnd = FakeLnd::new();
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let sidecar = start(TempDir::new().unwrap(), serving.address).await;
    node_is(&sidecar, "ready").await;
    let shown = sidecar.api.offers(8).await.offers.len();
    eventually("a warm pool", async || {
        let ready = sidecar
            .metric("boltgate_sidecar_pool_ready_invoices")
            .await?;
        (ready >= 4.0).then_some(())
    })
    .await;
    sidecar.end().await;
    assert_eq!(
        lnd.count(InvoiceState::Open),
        shown,
        "only what was shown can still be paid"
    );
    assert!(lnd.count(InvoiceState::Canceled) >= 4);
}
