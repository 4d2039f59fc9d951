use std::collections::HashSet;
use std::sync::atomic::AtomicBool;

use protocol::time::UnixSeconds;
use tokio::sync::Notify;

use super::*;
use crate::adapters::system::SystemClock;
use crate::domain::invoice::{Cancellation, InvoiceState, NodeInfo, Settlement};
use crate::domain::payment::{PaymentOrder, PaymentState};
use crate::domain::ports::Settlements;

/// A node whose answers wait for the test.
#[derive(Default)]
struct FakeNode {
    made: AtomicU64,
    open: AtomicBool,
    opened: Notify,
    broken: AtomicBool,
    cancelled: Mutex<HashSet<PaymentHash>>,
}

struct NoSettlements;

impl Settlements for NoSettlements {
    async fn next(&mut self) -> Result<Settlement, LightningError> {
        std::future::pending().await
    }
}

#[derive(Clone, Default)]
struct Fake(Arc<FakeNode>);

impl Fake {
    fn open(&self) {
        self.0.open.store(true, Ordering::SeqCst);
        self.0.opened.notify_waiters();
    }
}

impl Lightning for Fake {
    type Settlements = NoSettlements;

    async fn add_invoice(&self, request: InvoiceRequest) -> Result<Invoice, LightningError> {
        loop {
            let opened = self.0.opened.notified();
            if self.0.broken.load(Ordering::SeqCst) {
                return Err(LightningError::Timeout { rpc: "AddInvoice" });
            }
            if self.0.open.load(Ordering::SeqCst) {
                break;
            }
            opened.await;
        }
        let number = self.0.made.fetch_add(1, Ordering::SeqCst);
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        let expires = SystemClock::new().now().0 + request.expiry_seconds;
        Ok(Invoice {
            payment_hash: PaymentHash(hash),
            bolt11: format!("ln{number}"),
            expires: UnixSeconds(expires),
            node: None,
        })
    }

    async fn lookup(&self, _: PaymentHash) -> Result<InvoiceState, LightningError> {
        Ok(InvoiceState::Open)
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<Cancellation, LightningError> {
        self.0.cancelled.lock().unwrap().insert(hash);
        Ok(Cancellation::Cancelled)
    }

    async fn pay(&self, _: PaymentOrder) -> Result<PaymentState, LightningError> {
        Err(LightningError::Timeout { rpc: "Pay" })
    }

    async fn track(&self, _: PaymentHash) -> Result<PaymentState, LightningError> {
        Ok(PaymentState::NotSent)
    }

    async fn info(&self) -> Result<NodeInfo, LightningError> {
        Err(LightningError::Timeout { rpc: "GetInfo" })
    }

    async fn status(&self) -> NodeStatus {
        NodeStatus::Ready
    }

    async fn settlements(&self, _: u64) -> Result<NoSettlements, LightningError> {
        Ok(NoSettlements)
    }
}

const PATIENCE: Duration = Duration::from_secs(2);

fn config() -> OffersConfig {
    OffersConfig {
        invoice_expiry: Duration::from_secs(600),
        per_second: 400,
        burst: 2_000,
        max_outstanding: 20_000,
        per_client_per_minute: 60,
        paid_factor: 10,
        pool_min: 0,
        pool_max: 64,
    }
}

fn pools(fake: &Fake, config: OffersConfig) -> Arc<Pools<Fake>> {
    let metrics = Arc::new(Metrics::new());
    let node = Arc::new(Node::new(fake.clone(), Arc::clone(&metrics)));
    Arc::new(Pools::new(
        node,
        config,
        Arc::new(SystemClock::new()),
        &metrics,
    ))
}

fn key(service: &str) -> PoolKey {
    PoolKey {
        scheme: Scheme::L402,
        service: service.to_owned(),
        amount: Msat::new(10).unwrap(),
    }
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_invoice_is_handed_out_once() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(&fake, config());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let pools = Arc::clone(&pools);
        tasks.spawn(async move {
            pools
                .take(&key("a"), 3, Standing::New, PATIENCE)
                .await
                .unwrap()
        });
    }
    let mut seen = HashSet::new();
    while let Some(invoices) = tasks.join_next().await {
        for invoice in invoices.unwrap().invoices() {
            assert!(seen.insert(invoice.payment_hash), "handed out twice");
        }
    }
    assert!(seen.len() >= 200);
}

#[tokio::test]
async fn a_warm_pool_answers_while_the_node_hangs() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(&fake, config());
    pools
        .take(&key("a"), 16, Standing::New, PATIENCE)
        .await
        .unwrap();
    eventually("a warm pool", || pools.lock()[&key("a")].ready.len() >= 16).await;
    fake.0.open.store(false, Ordering::SeqCst);
    let begun = std::time::Instant::now();
    for _ in 0..16 {
        pools
            .take(&key("a"), 1, Standing::New, PATIENCE)
            .await
            .unwrap();
    }
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so_and_the_invoice_is_kept_for_the_next() {
    let fake = Fake::default();
    let pools = pools(&fake, config());
    let short = Duration::from_millis(50);
    let late = pools.take(&key("a"), 1, Standing::New, short).await;
    assert_eq!(late.err(), Some(PoolError::Timeout));
    fake.open();
    eventually("a ready invoice", || {
        !pools.lock()[&key("a")].ready.is_empty()
    })
    .await;
    assert_eq!(
        pools
            .take(&key("a"), 1, Standing::New, PATIENCE)
            .await
            .unwrap()
            .invoices()[0]
            .bolt11,
        "ln0"
    );
}

#[tokio::test]
async fn a_node_that_fails_is_reported_at_once() {
    let fake = Fake::default();
    fake.0.broken.store(true, Ordering::SeqCst);
    let pools = pools(&fake, config());
    let error = pools.take(&key("a"), 1, Standing::New, PATIENCE).await;
    let expected = PoolError::Node(LightningError::Timeout { rpc: "AddInvoice" });
    assert_eq!(error.err(), Some(expected));
}

#[tokio::test]
async fn a_hanging_node_gets_a_bounded_number_of_calls_and_another_service_is_not_starved() {
    let fake = Fake::default();
    let pools = pools(&fake, config());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let pools = Arc::clone(&pools);
        waiting.spawn(async move { pools.take(&key("a"), 1, Standing::New, PATIENCE).await });
    }
    eventually("all wait", || {
        pools
            .lock()
            .get(&key("a"))
            .is_some_and(|p| p.waiting.len() == 300)
    })
    .await;
    assert_eq!(pools.lock()[&key("a")].minting, MINTING_PER_POOL);
    let other = tokio::spawn({
        let pools = Arc::clone(&pools);
        async move { pools.take(&key("b"), 1, Standing::New, PATIENCE).await }
    });
    eventually("the other waits too", || {
        pools.lock().contains_key(&key("b"))
    })
    .await;
    fake.open();
    assert!(other.await.unwrap().is_ok());
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_more_is_made_than_may_be_outstanding() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(
        &fake,
        OffersConfig {
            max_outstanding: 10,
            ..config()
        },
    );
    let mut handed_out = 0;
    let error = loop {
        match pools.take(&key("a"), 3, Standing::New, PATIENCE).await {
            Ok(invoices) => {
                handed_out += invoices.invoices().len();
                invoices.written();
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, PoolError::TooManyOutstanding);
    assert_eq!(handed_out, 8);
    assert_eq!(fake.0.made.load(Ordering::SeqCst), 8);

    // Customers can still buy, until really all are out.
    for _ in 0..2 {
        let payer = pools.take(&key("a"), 3, Standing::HasPaid, PATIENCE).await;
        payer.unwrap().written();
        let stranger = pools.take(&key("a"), 3, Standing::New, PATIENCE).await;
        assert_eq!(stranger.err(), Some(PoolError::TooManyOutstanding));
    }
    let payer = pools.take(&key("a"), 3, Standing::HasPaid, PATIENCE).await;
    assert_eq!(payer.err(), Some(PoolError::TooManyOutstanding));
    assert_eq!(fake.0.made.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn who_has_paid_waits_in_front_and_what_is_kept_goes_to_nobody_else() {
    let fake = Fake::default();
    let pools = pools(
        &fake,
        OffersConfig {
            max_outstanding: 5,
            pool_max: 1,
            ..config()
        },
    );
    let ask = |standing| {
        let pools = Arc::clone(&pools);
        tokio::spawn(async move { pools.take(&key("a"), 1, standing, PATIENCE).await })
    };
    let waits = async |count: usize| {
        eventually("waits", || {
            let pools = pools.lock();
            pools
                .get(&key("a"))
                .is_some_and(|p| p.waiting.len() == count)
        })
        .await;
    };
    let mut strangers = Vec::new();
    for count in 1..=4 {
        strangers.push(ask(Standing::New));
        waits(count).await;
    }
    let refused = pools.take(&key("a"), 1, Standing::New, PATIENCE).await;
    assert_eq!(refused.err(), Some(PoolError::TooManyOutstanding));
    let payer = ask(Standing::HasPaid);
    waits(5).await;
    fake.open();
    let payer = payer.await.unwrap().unwrap();
    for stranger in strangers {
        stranger.await.unwrap().unwrap().written();
    }
    payer.written();
    assert_eq!(fake.0.made.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn leftovers_are_cancelled_at_the_end() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(&fake, config());
    pools
        .take(&key("a"), 8, Standing::New, PATIENCE)
        .await
        .unwrap();
    eventually("a warm pool", || {
        let pools = pools.lock();
        pools[&key("a")].ready.len() >= 8 && pools[&key("a")].minting == 0
    })
    .await;
    let ready: HashSet<_> = pools.lock()[&key("a")]
        .ready
        .iter()
        .map(|invoice| invoice.payment_hash)
        .collect();
    pools.close(PATIENCE).await;
    assert_eq!(*fake.0.cancelled.lock().unwrap(), ready);
}

#[tokio::test]
async fn an_invoice_too_close_to_its_end_is_not_handed_out_but_cancelled() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(&fake, config());
    pools
        .take(&key("a"), 1, Standing::New, PATIENCE)
        .await
        .unwrap();
    eventually("a ready invoice", || {
        !pools.lock()[&key("a")].ready.is_empty()
    })
    .await;
    let old = {
        let mut all = pools.lock();
        let pool = all.get_mut(&key("a")).unwrap();
        let soon = SystemClock::new().now().0 + 60;
        pool.ready.truncate(1);
        pool.ready[0].expires = UnixSeconds(soon);
        pool.ready[0].payment_hash
    };
    let fresh = pools
        .take(&key("a"), 1, Standing::New, PATIENCE)
        .await
        .unwrap();
    assert_ne!(fresh.invoices()[0].payment_hash, old);
    assert!(pools.tick().contains(&old));
}

#[tokio::test]
async fn what_a_request_gave_up_is_neither_handed_out_again_nor_counted_for_ever() {
    let fake = Fake::default();
    fake.open();
    let pools = pools(
        &fake,
        OffersConfig {
            max_outstanding: 4,
            pool_max: 1,
            ..config()
        },
    );
    let given_up = pools
        .take(&key("a"), 1, Standing::New, PATIENCE)
        .await
        .unwrap();
    let hash = given_up.invoices()[0].payment_hash;
    drop(given_up);
    for _ in 0..20 {
        let taken = pools
            .take(&key("a"), 1, Standing::New, PATIENCE)
            .await
            .unwrap();
        assert_ne!(taken.invoices()[0].payment_hash, hash);
        taken.give_back();
    }
    eventually("nothing in hand", || {
        pools.in_hand.load(Ordering::SeqCst) == 0
    })
    .await;
}
