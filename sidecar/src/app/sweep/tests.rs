use std::sync::atomic::{AtomicU64, Ordering};

use protocol::amount::Msat;
use protocol::api::{OfferTemplate, OffersRequest};
use tempfile::TempDir;

use super::*;
use crate::adapters::ledger::sqlite::SqliteLedger;
use crate::adapters::lightning::dev::{DevNode, PayError};
use crate::adapters::system::SystemRandom;
use crate::app::Parts;
use crate::app::keys::MasterKeys;
use crate::config::{FiltersConfig, OffersConfig};

#[derive(Default)]
struct ManualClock(AtomicU64);

impl Clock for ManualClock {
    fn unix_millis(&self) -> u64 {
        (1_800_000_000 + self.0.load(Ordering::SeqCst)) * 1_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

const OFFERS: OffersConfig = OffersConfig {
    invoice_expiry: Duration::from_secs(600),
    per_second: 100,
    burst: 100,
    max_outstanding: 100,
    per_client_per_minute: 100,
    paid_factor: 1,
    pool_min: 0,
    pool_max: 8,
};

const FILTERS: FiltersConfig = FiltersConfig {
    revocation_poll: Duration::from_millis(500),
    live_window: Duration::from_secs(30),
};

async fn app(
    dir: &TempDir,
    clock: &Arc<ManualClock>,
) -> (Arc<App<SqliteLedger, DevNode>>, DevNode) {
    let time: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let dev = dir.path().join("dev.db");
    let random = Arc::new(SystemRandom);
    let node = DevNode::open(&dev, Duration::ZERO, Arc::clone(&time), random).unwrap();
    let parts = Parts {
        ledger: Arc::new(SqliteLedger::open(&dir.path().join("l.db")).unwrap()),
        lightning: node.clone(),
        master_keys: MasterKeys::new(Vec::new(), None),
        clock: time,
        random: Arc::new(SystemRandom),
        metrics: Arc::new(Metrics::new()),
    };
    (App::start(parts, OFFERS, FILTERS).await.unwrap(), node)
}

fn wish() -> OffersRequest {
    OffersRequest {
        vm: String::new(),
        request_id: String::new(),
        count: 1,
        template: OfferTemplate {
            service: "weather".to_owned(),
            tier: 0,
            price_msat: Msat::new(1_000).unwrap(),
            lifetime_seconds: Some(3_600),
            capabilities: Vec::new(),
            constraints: Vec::new(),
        },
        client: None,
    }
}

#[tokio::test]
async fn an_expired_unpaid_offer_is_cancelled_at_the_node_and_forgotten_and_a_paid_one_kept() {
    let dir = TempDir::new().unwrap();
    let clock = Arc::new(ManualClock::default());
    let (app, node) = app(&dir, &clock).await;
    let sweeper = Sweeper::new(&app);
    let unpaid = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    let paid = app.issuer.offers(&wish()).await.unwrap().offers.remove(0);
    node.pay(&paid.invoice, None).await.unwrap();
    sweeper.sweep().await.unwrap();
    assert_eq!(app.ledger.outstanding().await, Ok(2), "nothing has expired");

    clock
        .0
        .fetch_add(600 + LATE_PAYMENT_SECONDS + 1, Ordering::SeqCst);
    sweeper.sweep().await.unwrap();
    assert_eq!(app.ledger.outstanding().await, Ok(0));
    let sales = app.ledger.sales(UnixSeconds(0), 10).await.unwrap();
    assert_eq!(sales.len(), 1, "a payment that nobody told us of was found");
    assert_eq!(sales[0].payment_hash.to_string(), paid.payment_hash);
    let refused = node.pay(&unpaid.invoice, None).await.unwrap_err();
    assert!(matches!(refused, PayError::Expired(_)));
    let state = app
        .node
        .lookup(unpaid.payment_hash.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(state, crate::domain::invoice::InvoiceState::Cancelled);

    // The paid one stays for as long as its token lives, so that it can be revoked by its hash.
    let name = crate::domain::ledger::OfferName::PaymentHash(sales[0].payment_hash);
    assert!(app.ledger.find_offer(name).await.unwrap().is_some());
    clock.0.fetch_add(3_600, Ordering::SeqCst);
    sweeper.sweep().await.unwrap();
    assert!(app.ledger.find_offer(name).await.unwrap().is_none());
    assert_eq!(app.ledger.sales(UnixSeconds(0), 10).await.unwrap().len(), 1);
}
