//! Refunds by a node: paid once, within limits, whatever dies.

mod killed;
mod limits;
mod replaced;

use std::path::Path;
use std::time::Duration;

use protocol::api::session::{CloseRequest, OpenRequest, OpenResult};
use protocol::hash::PaymentHash;
use protocol::lease::Report;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use sidecar::adapters::ledger::sqlite::SqliteLedger;
use sidecar::adapters::lightning::lnd::lnrpc::payment::PaymentStatus;
use sidecar::adapters::lightning::lnd::lnrpc::{Payment, PaymentFailureReason};
use sidecar::domain::payout::RefundWork;
use sidecar::domain::ports::RefundLedger as _;
use sidecar::domain::refund::RefundState;
use tempfile::TempDir;

use crate::fake_lnd::{FakeLnd, Routing, Serving};
use crate::payments::return_invoice;
use crate::session_client::{Buyer, open_of, opened, report};
use crate::support::{Sidecar, eventually};

const HOUR: Duration = Duration::from_secs(3_600);

/// The fake's public key.
fn node() -> [u8; 33] {
    let mut key = [0xAB; 33];
    key[0] = 2;
    key
}

fn session(n: u8) -> PaymentHash {
    PaymentHash([128 + n; 32])
}

/// Hash of [`return_invoice`] `n`.
fn hash(n: u8) -> PaymentHash {
    PaymentHash([n; 32])
}

/// A closed session that is owed `amount`, as closing writes it.
fn owe_by(ledger: &Path, node: [u8; 33], n: u8, amount: i64, spent: i64, invoice: &str) {
    let db = Connection::open(ledger).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let known: lightning_invoice::SignedRawBolt11Invoice = invoice.parse().unwrap();
    let hash = known.raw_invoice().payment_hash().unwrap().0;
    let hash: [u8; 32] = *bitcoin::hashes::Hash::as_byte_array(&hash);
    db.execute(
        "INSERT INTO sessions (session_id, service, deposited_sat, spent_sat, return_invoice,
             return_hash, return_expires_at, close_by, node, generation, newest_generation,
             idle_timeout_seconds, state, opened_ms, active_ms, closed_ms)
         VALUES (?1, 's', ?2 + ?3, ?3, ?4, ?5, 9, 9, ?6, 0, 0, 300, 'closed', 1, 1, 1)",
        params![session(n).0, amount, spent, invoice, hash, node],
    )
    .unwrap();
    db.execute(
        "INSERT INTO refunds (session_id, node, return_invoice, return_hash, amount_sat,
                              created_ms, updated_ms)
         SELECT session_id, node, return_invoice, return_hash, ?2, ?3, ?3 FROM sessions
         WHERE session_id = ?1",
        params![session(n).0, amount, n],
    )
    .unwrap();
}

fn owe(ledger: &Path, n: u8, amount: i64, spent: i64) {
    let invoice = return_invoice(n, None, HOUR);
    owe_by(ledger, node(), n, amount, spent, &invoice);
}

/// As a sidecar leaves it that died while the payment was with the node.
fn was_sending(ledger: &Path, n: u8, sent: i64) {
    let db = Connection::open(ledger).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    let changed = db.execute(
        "UPDATE refunds SET state = 'sending', attempts = 1, sent_sat = ?2, fee_limit_msat = 9000,
                            sent_ms = 1, updated_ms = unixepoch() * 1000
         WHERE session_id = ?1",
        params![session(n).0, sent],
    );
    assert_eq!(changed, Ok(1));
}

struct Shop {
    lnd: FakeLnd,
    _serving: Serving,
    sidecar: Sidecar,
}

impl Shop {
    async fn open(dir: TempDir, lnd: FakeLnd, refunds: &str) -> Self {
        std::fs::write(dir.path().join("macaroon"), [2, 1, 3, 0xff]).unwrap();
        let serving = lnd.serve("127.0.0.1:0", None).await;
        let yaml = format!(
            "lightning: {{ lnd: {{ endpoint: 'http://{}', macaroonFile: '{}', timeout: 1s }} }}\n\
             refunds: {{ {refunds} }}\n",
            serving.address,
            dir.path().join("macaroon").display()
        );
        Self {
            lnd,
            _serving: serving,
            sidecar: Sidecar::start(dir, &yaml).await,
        }
    }

    /// With a ledger in which refunds are owed before the sidecar starts.
    async fn owing(refunds: &str, owe: impl FnOnce(&Path, &FakeLnd)) -> Self {
        let (dir, lnd) = (TempDir::new().unwrap(), FakeLnd::new());
        let path = dir.path().join("ledger.db");
        drop(SqliteLedger::open(&path).unwrap());
        owe(&path, &lnd);
        Self::open(dir, lnd, refunds).await
    }

    async fn refund(&self, n: u8) -> RefundWork {
        refund(&self.sidecar.ledger(), n).await
    }

    async fn refund_is(&self, n: u8, state: RefundState) -> RefundWork {
        refund_is(&self.sidecar.ledger(), n, state).await
    }
}

async fn refund(ledger: &Path, n: u8) -> RefundWork {
    let ledger = SqliteLedger::open(ledger).unwrap();
    ledger.find_refund(session(n)).await.unwrap().unwrap()
}

async fn refund_is(ledger: &Path, n: u8, state: RefundState) -> RefundWork {
    let ledger = SqliteLedger::open(ledger).unwrap();
    eventually(state.as_str(), async || {
        let work = ledger.find_refund(session(n)).await.unwrap().unwrap();
        (work.refund.state == state).then_some(work)
    })
    .await
}

#[tokio::test]
async fn what_is_owed_is_paid_once_with_limits_and_shown() {
    let shop = Shop::owing("timeout: 7s, cltvLimit: 500", |_, lnd| {
        lnd.route(Routing::Arrive { fee_msat: 1_234 });
    })
    .await;
    owe(&shop.sidecar.ledger(), 1, 900, 100);
    let work = shop.refund_is(1, RefundState::Succeeded).await;
    assert_eq!(work.refund.fee.unwrap().get(), 1_234);
    assert_eq!(work.payout.unwrap().sent.get(), 900);
    assert_eq!(work.refund.attempts, 1);
    assert_eq!(shop.lnd.arrived(), [(hash(1), 900_000, 1_234)]);
    let asked = shop.lnd.send_requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (asked[0].amt_msat, asked[0].fee_limit_msat),
        (900_000, 9_000)
    );
    assert_eq!((asked[0].timeout_seconds, asked[0].cltv_limit), (7, 500));
    eventually("the counts", async || {
        let metric = async |name: &str| {
            let line = format!("boltgate_sidecar_{name}");
            shop.sidecar.metric(&line).await
        };
        let paid = metric("refunds_paid_total").await?;
        let sat = metric("refunds_paid_sat_total").await?;
        let fees = metric("refund_fees_msat_total").await?;
        ((paid, sat, fees) == (1.0, 900.0, 1_234.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn fees_beyond_what_was_earned_come_out_of_the_refund() {
    let shop = Shop::owing("", |ledger, lnd| {
        lnd.route(Routing::Arrive { fee_msat: 3_001 });
        owe(ledger, 1, 1_000, 39);
    })
    .await;
    let work = shop.refund_is(1, RefundState::Succeeded).await;
    assert_eq!(work.refund.amount.get(), 1_000);
    assert_eq!(work.payout.unwrap().sent.get(), 993);
    assert_eq!(shop.lnd.arrived(), [(hash(1), 993_000, 3_001)]);
    let tried: Vec<_> = shop
        .lnd
        .send_requests()
        .iter()
        .map(|asked| (asked.amt_msat, asked.fee_limit_msat))
        .collect();
    assert_eq!(tried, [(1_000_000, 3_000), (993_000, 10_000)]);
}

#[tokio::test]
async fn all_of_the_rest_goes_back_where_routing_costs_no_more_than_was_earned() {
    let shop = Shop::owing("", |ledger, lnd| {
        lnd.route(Routing::Arrive { fee_msat: 3_000 });
        owe(ledger, 1, 1_000, 39);
    })
    .await;
    let work = shop.refund_is(1, RefundState::Succeeded).await;
    assert_eq!(work.payout.unwrap().sent.get(), 1_000);
    assert_eq!(shop.lnd.arrived(), [(hash(1), 1_000_000, 3_000)]);
}

#[tokio::test]
async fn what_was_under_way_is_decided_by_what_the_node_says() {
    let known = |n: u8, status: PaymentStatus, msat, reason| Payment {
        payment_hash: hash(n).to_string(),
        status: status.into(),
        value_msat: msat,
        fee_msat: 77,
        failure_reason: i32::from(reason),
    };
    let none = PaymentFailureReason::FailureReasonNone;
    let shop = Shop::owing("attempts: 1", |ledger, lnd| {
        for n in 1..=6 {
            owe(ledger, n, 900, 100);
            was_sending(ledger, n, 900);
        }
        lnd.remember(known(2, PaymentStatus::InFlight, 900_000, none));
        lnd.remember(known(3, PaymentStatus::Succeeded, 900_000, none));
        let no_route = PaymentFailureReason::FailureReasonNoRoute;
        lnd.remember(known(4, PaymentStatus::Failed, 900_000, no_route));
        let wrong = PaymentFailureReason::FailureReasonIncorrectPaymentDetails;
        lnd.remember(known(5, PaymentStatus::Failed, 900_000, wrong));
        lnd.remember(known(6, PaymentStatus::Succeeded, 5, none));
    })
    .await;
    // Never sent: sent now.
    shop.refund_is(1, RefundState::Succeeded).await;
    let paid = shop.refund_is(3, RefundState::Succeeded).await;
    assert_eq!(paid.refund.fee.unwrap().get(), 77);
    let failed = shop.refund_is(4, RefundState::Failed).await;
    assert_eq!(failed.refund.failure.as_deref(), Some("no_route"));
    let failed = shop.refund_is(5, RefundState::Failed).await;
    let why = failed.refund.failure.unwrap();
    assert_eq!(why, "incorrect_payment_details");
    let failed = shop.refund_is(6, RefundState::Failed).await;
    let why = failed.refund.failure.unwrap();
    assert!(why.contains("not for this refund"), "{why}");
    assert_eq!(shop.refund(2).await.refund.state, RefundState::Sending);
    shop.lnd.resolve(hash(2), Ok(5));
    let paid = shop.refund_is(2, RefundState::Succeeded).await;
    assert_eq!(paid.refund.fee.unwrap().get(), 5);
    assert_eq!(
        shop.lnd.send_requests().len(),
        1,
        "only what was never sent"
    );
}

#[tokio::test]
async fn a_failure_is_followed_by_another_attempt() {
    let failure = PaymentFailureReason::FailureReasonInsufficientBalance;
    let shop = Shop::owing("", |ledger, lnd| {
        owe(ledger, 1, 900, 100);
        lnd.route(Routing::Fail(failure));
    })
    .await;
    eventually("two attempts", async || {
        let work = shop.refund(1).await.refund;
        let why = work.failure.as_deref();
        let is_told = why == Some("insufficient_balance");
        (is_told && work.state == RefundState::Pending && work.attempts == 2).then_some(())
    })
    .await;
    shop.lnd.route(Routing::Arrive { fee_msat: 0 });
    let work = shop.refund_is(1, RefundState::Succeeded).await;
    assert_eq!((work.refund.attempts, work.refund.failure), (3, None));
}

#[tokio::test]
async fn only_the_node_that_has_the_deposits_pays() {
    let shop = Shop::owing("", |ledger, _| {
        let invoice = return_invoice(1, None, HOUR);
        owe_by(ledger, [3; 33], 1, 900, 100, &invoice);
        owe(ledger, 2, 900, 100);
    })
    .await;
    shop.refund_is(2, RefundState::Succeeded).await;
    assert_eq!(shop.refund(1).await.refund.state, RefundState::Pending);
    assert_eq!(shop.lnd.arrived().len(), 1);
}

#[tokio::test]
async fn an_expired_return_invoice_needs_a_human() {
    let shop = Shop::owing("", |ledger, _| {
        let invoice = return_invoice(1, None, Duration::ZERO);
        owe_by(ledger, node(), 1, 900, 100, &invoice);
    })
    .await;
    let failed = shop.refund_is(1, RefundState::Failed).await;
    let why = failed.refund.failure.unwrap();
    assert!(why.contains("expired"), "{why}");
    assert!(shop.lnd.send_requests().is_empty());
    eventually("the count", async || {
        let line = "boltgate_sidecar_refunds{state=\"failed\"}";
        (shop.sidecar.metric(line).await? == 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_close_is_answered_with_what_the_dev_network_paid_back() {
    let sidecar = Sidecar::dev("").await;
    let door = sidecar.dev.unwrap();
    let ask = async |path: &str, body: Option<Value>| -> Value {
        let url = format!("http://{door}{path}");
        let body = body.map(|body| body.to_string());
        let answer = sidecar::http::client::request(&url, body).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    };
    let made = ask("/invoices", Some(json!({}))).await;
    let path = format!("/invoices/{}", made["payment_hash"].as_str().unwrap());
    assert_eq!(ask(&path, None).await["state"], "open");

    let buyer = Buyer::new(&sidecar).await;
    let opening = OpenRequest {
        return_invoice: made["invoice"].as_str().unwrap().to_owned(),
        ..open_of(&buyer.offer, 1)
    };
    let answer = opened(sidecar.api, &opening).await;
    assert_eq!(answer.result, OpenResult::Opened);
    let closing = CloseRequest {
        lease: Some(Report {
            used: 2,
            release: true,
            ..report(buyer.id, 1)
        }),
        ..buyer.close(9)
    };
    let answer = buyer.closed(sidecar.api, &closing).await;
    assert_eq!(answer.refund_sats, 98);
    assert_eq!(answer.refund_status, "succeeded");
    let received = ask(&path, None).await;
    let expected = json!({ "state": "settled", "received_msat": 98_000 });
    assert_eq!(received, expected);
    let stats = ask("/stats", None).await;
    assert_eq!(
        (&stats["paid_msat"], &stats["sent"], &stats["sent_msat"]),
        (&json!(100_000), &json!(1), &json!(98_000))
    );
    let repeated = buyer.closed(sidecar.api, &closing).await;
    assert_eq!(repeated.refund_sats, 98);
}
