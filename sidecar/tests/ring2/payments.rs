//! What LND answers to payments, and what we make of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use sidecar::adapters::lightning::lnd::lnrpc::payment::PaymentStatus;
use sidecar::adapters::lightning::lnd::lnrpc::{Payment, PaymentFailureReason};
use sidecar::adapters::lightning::lnd::{LndNode, LndSettings};
use sidecar::adapters::system::SystemClock;
use sidecar::domain::invoice::NodeStatus;
use sidecar::domain::payment::{PaymentFailure, PaymentOrder, PaymentState};
use sidecar::domain::ports::{Lightning as _, LightningError};
use tempfile::TempDir;

use crate::fake_lnd::{FakeLnd, Mode, Routing};
use crate::support::eventually;

/// An invoice of some buyer's node.
pub(crate) fn return_invoice(n: u8, amount: Option<u64>, expiry: Duration) -> String {
    let key = SecretKey::from_slice(&[n.max(1); 32]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut builder = InvoiceBuilder::new(Currency::Regtest)
        .description("rest".to_owned())
        .payment_hash(sha256::Hash::from_byte_array([n; 32]))
        .payment_secret(PaymentSecret([n; 32]))
        .duration_since_epoch(Duration::from_secs(now.as_secs()))
        .min_final_cltv_expiry_delta(80)
        .expiry_time(expiry);
    if let Some(amount) = amount {
        builder = builder.amount_milli_satoshis(amount);
    }
    builder
        .build_signed(|hash| Secp256k1::new().sign_ecdsa_recoverable(hash, &key))
        .unwrap()
        .to_string()
}

const HOUR: Duration = Duration::from_secs(3_600);
const HASH: PaymentHash = PaymentHash([7; 32]);

fn order_of(bolt11: String) -> PaymentOrder {
    PaymentOrder {
        bolt11,
        payment_hash: HASH,
        amount: Msat::new(900_000).unwrap(),
        fee_limit: Msat::new(9_000).unwrap(),
        cltv_limit: 720,
        timeout: Duration::from_secs(1),
    }
}

fn order() -> PaymentOrder {
    order_of(return_invoice(7, None, HOUR))
}

fn node(dir: &TempDir, address: SocketAddr) -> LndNode {
    let macaroon_file = dir.path().join("macaroon");
    std::fs::write(&macaroon_file, [2, 1, 3, 0xff]).unwrap();
    let settings = LndSettings {
        endpoint: format!("http://{address}").parse().unwrap(),
        tls_certificate_file: None,
        macaroon_file,
        route_hints: false,
        deadline: Duration::from_secs(1),
    };
    LndNode::new(settings, Arc::new(SystemClock::new())).unwrap()
}

const fn arrived(amount: u64, fee: u64) -> PaymentState {
    PaymentState::Succeeded {
        amount: Msat::new(amount).unwrap(),
        fee: Msat::new(fee).unwrap(),
    }
}

#[tokio::test]
async fn a_payment_is_sent_with_its_limits_and_once() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    assert_eq!(node.track(HASH).await, Ok(PaymentState::NotSent));
    lnd.route(Routing::Arrive { fee_msat: 1_234 });
    assert_eq!(node.pay(order()).await, Ok(arrived(900_000, 1_234)));
    assert_eq!(node.track(HASH).await, Ok(arrived(900_000, 1_234)));
    let asked = lnd.send_requests().remove(0);
    assert_eq!(
        (asked.amt_msat, asked.fee_limit_msat, asked.cltv_limit),
        (900_000, 9_000, 720)
    );
    assert_eq!(
        (asked.timeout_seconds, asked.no_inflight_updates),
        (1, true)
    );

    let again = node.pay(order()).await;
    let detail = "invoice is already paid".to_owned();
    assert_eq!(again, Err(LightningError::Exists { detail }));
    assert_eq!(lnd.arrived(), [(HASH, 900_000, 1_234)]);
}

#[tokio::test]
async fn an_invoice_with_the_amount_is_paid_without_naming_it_and_one_of_zero_by_naming_it() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    let exact = order_of(return_invoice(7, Some(900_000), HOUR));
    assert_eq!(node.pay(exact).await, Ok(arrived(900_000, 0)));
    assert_eq!(lnd.send_requests()[0].amt_msat, 0);
    let zero = PaymentOrder {
        payment_hash: PaymentHash([8; 32]),
        ..order_of(return_invoice(8, Some(0), HOUR))
    };
    assert_eq!(node.pay(zero).await, Ok(arrived(900_000, 0)));
}

#[tokio::test]
async fn what_is_not_what_was_ordered_never_reaches_the_node() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    let none = PaymentOrder {
        amount: Msat::ZERO,
        ..order()
    };
    for wrong in [
        order_of(return_invoice(7, Some(900_001), HOUR)),
        order_of(return_invoice(8, None, HOUR)),
        order_of("lnbcrt1nonsense".to_owned()),
        none,
    ] {
        let refused = node.pay(wrong).await;
        assert!(matches!(refused, Err(LightningError::Refused { .. })));
    }
    assert!(lnd.send_requests().is_empty());
}

#[tokio::test]
async fn a_failed_payment_says_why_and_the_same_hash_can_be_sent_again() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    use PaymentFailureReason as Reason;
    for (reason, expected) in [
        (Reason::FailureReasonTimeout, PaymentFailure::Timeout),
        (Reason::FailureReasonNoRoute, PaymentFailure::NoRoute),
        (Reason::FailureReasonError, PaymentFailure::Other),
        (
            Reason::FailureReasonIncorrectPaymentDetails,
            PaymentFailure::IncorrectDetails,
        ),
        (
            Reason::FailureReasonInsufficientBalance,
            PaymentFailure::InsufficientBalance,
        ),
        (Reason::FailureReasonCanceled, PaymentFailure::Cancelled),
    ] {
        lnd.route(Routing::Fail(reason));
        let failed = PaymentState::Failed { reason: expected };
        assert_eq!(node.pay(order()).await, Ok(failed));
        assert_eq!(node.track(HASH).await, Ok(failed));
    }
    lnd.route(Routing::Arrive { fee_msat: 1 });
    assert_eq!(node.pay(order()).await, Ok(arrived(900_000, 1)));
}

#[tokio::test]
async fn a_held_payment_is_in_flight_for_whoever_asks() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    lnd.route(Routing::Hold);
    // Listened to until its time is over, and then known to the node only.
    let timeout = Err(LightningError::Timeout {
        rpc: "SendPaymentV2",
    });
    assert_eq!(node.pay(order()).await, timeout);
    assert_eq!(node.track(HASH).await, Ok(PaymentState::InFlight));
    let again = node.pay(order()).await;
    let detail = "payment is in transition".to_owned();
    assert_eq!(again, Err(LightningError::Exists { detail }));
    lnd.resolve(HASH, Ok(77));
    assert_eq!(node.track(HASH).await, Ok(arrived(900_000, 77)));
}

#[tokio::test]
async fn an_expired_invoice_is_refused_without_showing_it() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    let expired = order_of(return_invoice(7, None, Duration::ZERO));
    let invoice = expired.bolt11.clone();
    let refused = node.pay(expired).await.unwrap_err();
    assert!(matches!(&refused, LightningError::Refused { detail, .. }
        if detail.starts_with("invoice expired")));
    assert!(!refused.to_string().contains(&invoice));
    assert_eq!(node.track(HASH).await, Ok(PaymentState::NotSent));
}

#[tokio::test]
async fn a_node_that_is_away_or_forbids_it_is_told_from_one_that_refuses() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    let is = |state: Result<PaymentState, LightningError>, expected: NodeStatus| {
        assert!(
            matches!(&state, Err(LightningError::Unavailable { status, .. })
                if *status == expected),
            "{state:?}"
        );
    };
    lnd.require_macaroon("0a0b");
    is(node.pay(order()).await, NodeStatus::Unauthorized);
    is(node.track(HASH).await, NodeStatus::Unauthorized);
    lnd.set(Mode::Locked);
    is(node.track(HASH).await, NodeStatus::Locked);
    lnd.set(Mode::Hanging);
    let timeout = Err(LightningError::Timeout {
        rpc: "TrackPaymentV2",
    });
    assert_eq!(node.track(HASH).await, timeout);
    serving.kill().await;
    eventually("a node that is not there", async || {
        let state = node.track(HASH).await;
        matches!(state, Err(LightningError::Unavailable { status, .. })
            if status == NodeStatus::Unreachable)
        .then_some(())
    })
    .await;
    assert!(lnd.send_requests().is_empty());
}

#[tokio::test]
async fn an_answer_about_another_payment_or_of_an_unknown_kind_is_not_believed() {
    let (lnd, dir) = (FakeLnd::new(), TempDir::new().unwrap());
    let serving = lnd.serve("127.0.0.1:0", None).await;
    let node = node(&dir, serving.address);
    let known = Payment {
        payment_hash: HASH.to_string(),
        value_msat: 1,
        ..Payment::default()
    };
    let initiated = Payment {
        status: PaymentStatus::Initiated.into(),
        ..known.clone()
    };
    lnd.remember(initiated);
    assert_eq!(node.track(HASH).await, Ok(PaymentState::InFlight));
    for nonsense in [
        Payment {
            status: 0,
            ..known.clone()
        },
        Payment {
            status: 99,
            ..known.clone()
        },
        Payment {
            status: PaymentStatus::Succeeded.into(),
            fee_msat: -1,
            ..known
        },
    ] {
        lnd.remember(nonsense);
        let state = node.track(HASH).await;
        assert!(
            matches!(state, Err(LightningError::Nonsense { .. })),
            "{state:?}"
        );
    }
}
