use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::adapters::ledger::conformance::refunds::{Owed, owe};
use crate::adapters::ledger::sqlite::SqliteLedger;
use crate::adapters::lightning::dev::{DevNode, DevSettlements, WalletInvoice};
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::app::fixture::{REFUNDS, ledger_path};
use crate::domain::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeInfo, NodeStatus,
};
use crate::domain::payment::{PaymentOrder, PaymentState};
use crate::domain::payout::{Moved, RefundOutcome};
use crate::domain::ports::{LightningError, RefundLedger as _};
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};

const SHORT: Duration = Duration::from_millis(300);

/// The dev network behind gates: a payment waits where the test wants it to.
struct Gated {
    dev: DevNode,
    before_pay: watch::Receiver<bool>,
    reached: watch::Sender<u32>,
}

impl Lightning for Gated {
    type Settlements = DevSettlements;

    async fn add_invoice(&self, request: InvoiceRequest) -> Result<Invoice, LightningError> {
        self.dev.add_invoice(request).await
    }

    async fn lookup(&self, hash: PaymentHash) -> Result<InvoiceState, LightningError> {
        self.dev.lookup(hash).await
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<Cancellation, LightningError> {
        self.dev.cancel(hash).await
    }

    async fn pay(&self, order: PaymentOrder) -> Result<PaymentState, LightningError> {
        self.reached.send_modify(|count| *count += 1);
        let mut gate = self.before_pay.clone();
        if gate.wait_for(|open| *open).await.is_err() {
            std::future::pending::<()>().await;
        }
        Lightning::pay(&self.dev, order).await
    }

    async fn track(&self, hash: PaymentHash) -> Result<PaymentState, LightningError> {
        self.dev.track(hash).await
    }

    async fn info(&self) -> Result<NodeInfo, LightningError> {
        self.dev.info().await
    }

    async fn status(&self) -> NodeStatus {
        NodeStatus::Ready
    }

    async fn settlements(&self, since: u64) -> Result<DevSettlements, LightningError> {
        self.dev.settlements(since).await
    }
}

struct World {
    dir: TempDir,
    ledger: Arc<SqliteLedger>,
    dev: DevNode,
    hash: PaymentHash,
}

const SESSION: PaymentHash = PaymentHash([1; 32]);

impl World {
    /// 900 satoshi are owed.
    async fn owing() -> Self {
        let dir = TempDir::new().unwrap();
        let ledger = Arc::new(SqliteLedger::open(&ledger_path(&dir)).unwrap());
        let clock = Arc::new(SystemClock::new());
        let random = Arc::new(SystemRandom);
        let file = dir.path().join("dev.db");
        let dev = DevNode::open(&file, Duration::ZERO, clock, random).unwrap();
        let earned = InvoiceRequest {
            amount: Msat::new(1_000_000).unwrap(),
            description: String::new(),
            expiry_seconds: 600,
        };
        let earned = dev.add_invoice(earned).await.unwrap();
        dev.pay(&earned.bolt11, None).await.unwrap();
        let invoice = dev.wallet_invoice(&WalletInvoice::default()).unwrap();
        let owed = Owed {
            n: 1,
            node: dev.info().await.unwrap().id,
            amount: 900,
            spent: 100,
            invoice: ReturnInvoice {
                text: ReturnText(invoice.bolt11),
                payment_hash: invoice.payment_hash,
                expires: invoice.expires,
            },
        };
        owe(&*ledger, owed).await;
        Self {
            dir,
            ledger,
            dev,
            hash: invoice.payment_hash,
        }
    }

    /// A worker that is silent for [`SHORT`] at most, and how often it came to pay.
    fn worker(
        &self,
        gate: &watch::Sender<bool>,
    ) -> (
        Refunder<SqliteLedger, Gated>,
        Arc<Endings>,
        watch::Receiver<u32>,
    ) {
        let (reached, seen) = watch::channel(0);
        let metrics = Arc::new(Metrics::new());
        let endings = Arc::new(Endings::default());
        let gated = Gated {
            dev: self.dev.clone(),
            before_pay: gate.subscribe(),
            reached,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let clocks = Clocks::new(
            Arc::clone(&self.ledger),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let parts = RefunderParts {
            ledger: Arc::clone(&self.ledger),
            node: Arc::new(Node::new(gated, Arc::clone(&metrics))),
            config: REFUNDS,
            clocks: Arc::new(clocks),
            clock,
            worker: WorkerId::random(&SystemRandom).unwrap(),
            endings: Arc::clone(&endings),
            metrics,
        };
        let mut refunder = Refunder::new(parts);
        Arc::get_mut(&mut refunder.0).unwrap().hold = SHORT;
        (refunder, endings, seen)
    }

    async fn state(&self) -> RefundState {
        let work = self.ledger.find_refund(SESSION).await.unwrap();
        work.unwrap().refund.state
    }

    fn held_until(&self) -> u64 {
        let db = rusqlite::Connection::open(ledger_path(&self.dir)).unwrap();
        let until = db.query_row("SELECT worked_until_ms FROM refunds", [], |row| {
            row.get::<_, i64>(0)
        });
        until.unwrap().unsigned_abs()
    }

    async fn is_taken(&self) -> bool {
        let node = self.dev.info().await.unwrap().id;
        let me = WorkerId([9; 16]);
        let taken = self.ledger.take_refund(node, me, SHORT, false).await;
        taken.unwrap().is_none()
    }
}

/// Runs a worker, which asks its node how it is first.
fn run(refunder: Refunder<SqliteLedger, Gated>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let node = Arc::clone(&refunder.0.node);
        tokio::select! {
            () = node.watch() => {}
            _ = refunder.run() => {}
        }
    })
}

#[tokio::test]
async fn who_waits_is_told_when_it_is_paid() {
    let world = World::owing().await;
    let (refunder, endings, _) = world.worker(&watch::Sender::new(true));
    let waiting = endings.wait_for(SESSION);
    let told = waiting.told();
    let running = run(refunder);
    told.await;
    assert_eq!(world.state().await, RefundState::Succeeded);
    assert_eq!(world.dev.stats().unwrap().sent_msat, 900_000);
    running.abort();
}

#[tokio::test]
async fn a_worker_that_waits_for_its_node_keeps_what_it_has_and_a_dead_one_is_followed_by_another()
{
    let world = World::owing().await;
    let shut = watch::Sender::new(false);
    let (refunder, _, mut reached) = world.worker(&shut);
    let running = run(refunder);
    reached.wait_for(|count| *count == 1).await.unwrap();
    assert_eq!(world.state().await, RefundState::Sending);
    // It says again and again that it lives, so that nobody else gets it.
    for _ in 0..3 {
        let held_until = world.held_until();
        let deadline = Instant::now() + Duration::from_secs(20);
        while world.held_until() <= held_until {
            assert!(Instant::now() < deadline, "never heard of again");
            tokio::time::sleep(SHORT / 10).await;
        }
        assert!(world.is_taken().await);
    }
    running.abort();

    let open = watch::Sender::new(true);
    let (refunder, endings, _) = world.worker(&open);
    let waiting = endings.wait_for(SESSION);
    let told = waiting.told();
    let other = run(refunder);
    told.await;
    assert_eq!(world.state().await, RefundState::Succeeded);
    let received = world.dev.received(world.hash).unwrap();
    let all = Msat::new(900_000).unwrap();
    assert_eq!(
        received,
        crate::adapters::lightning::dev::Received::Settled(all)
    );
    other.abort();
}

#[tokio::test]
async fn of_many_workers_one_pays() {
    let world = World::owing().await;
    let open = watch::Sender::new(true);
    let paid = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (refunder, endings, reached) = world.worker(&open);
        paid.lock().unwrap().push(reached);
        tasks.spawn(async move {
            let waiting = endings.wait_for(SESSION);
            let told = waiting.told();
            let running = run(refunder);
            told.await;
            running.abort();
        });
    }
    tasks.join_next().await.unwrap().unwrap();
    let attempts: u32 = paid.lock().unwrap().iter().map(|seen| *seen.borrow()).sum();
    assert_eq!(attempts, 1);
    assert_eq!(world.dev.stats().unwrap().sent, 1);
}

#[tokio::test]
async fn what_a_human_paid_to_a_failed_refunds_invoice_can_be_taken_for_it() {
    let world = World::owing().await;
    let node = world.dev.info().await.unwrap().id;
    let me = WorkerId([9; 16]);
    let (ledger, dev) = (&*world.ledger, &world.dev);
    let work = ledger.take_refund(node, me, SHORT, false).await.unwrap();
    let work = work.unwrap();
    let failed = RefundOutcome::Failed { why: String::new() };
    assert_eq!(ledger.record_refund(&work, me, failed).await, Ok(true));
    let accepted = accept(ledger, dev, SESSION, me).await;
    assert_eq!(accepted, Err(ReplaceError::NotPaid));
    let by_hand = PaymentOrder {
        bolt11: work.refund.return_invoice.as_str().to_owned(),
        payment_hash: world.hash,
        amount: Msat::new(850_000).unwrap(),
        fee_limit: Msat::ZERO,
        cltv_limit: 720,
        timeout: SHORT,
    };
    Lightning::pay(dev, by_hand).await.unwrap();
    let other = dev.wallet_invoice(&WalletInvoice::default()).unwrap();
    let now = SystemClock::new().now();
    let replaced = replace(ledger, dev, SESSION, &other.bolt11, now).await;
    let paid = Msat::new(850_000).unwrap();
    assert_eq!(replaced, Err(ReplaceError::WasPaid(paid)));
    let accepted = accept(ledger, dev, SESSION, me).await;
    assert_eq!(accepted.map(|sent| sent.get()), Ok(850));
    assert_eq!(world.state().await, RefundState::Succeeded);
    let again = accept(ledger, dev, SESSION, me).await;
    assert_eq!(again, Err(ReplaceError::NotFailed(RefundState::Succeeded)));
}

#[tokio::test]
async fn a_refund_of_a_node_that_has_gone_is_paid_by_the_one_that_takes_it_over() {
    let world = World::owing().await;
    let gone = NodeId([7; 33]);
    let (ledger, dev) = (&*world.ledger, &world.dev);
    let own = take_over(ledger, dev, SESSION).await;
    assert!(matches!(own, Err(ReplaceError::NotMoved(_))), "{own:?}");
    assert_eq!(ledger.move_refund(SESSION, gone).await, Ok(Moved::Moved));
    let open = watch::Sender::new(true);
    let (refunder, endings, _) = world.worker(&open);
    let metrics = Arc::clone(&refunder.0.metrics);
    let waiting = endings.wait_for(SESSION);
    let running = run(refunder);
    let deadline = Instant::now() + Duration::from_secs(20);
    while metrics.refunds_elsewhere.get() != 1 {
        assert!(Instant::now() < deadline, "never noticed");
        tokio::time::sleep(SHORT / 10).await;
    }
    assert_eq!(world.state().await, RefundState::Pending);
    let told = waiting.told();
    take_over(ledger, dev, SESSION).await.unwrap();
    told.await;
    assert_eq!(world.state().await, RefundState::Succeeded);
    running.abort();
}
