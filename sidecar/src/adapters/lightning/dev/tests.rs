use std::str::FromStr as _;

use tempfile::TempDir;

use super::*;
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::domain::payment::PaymentFailure;

fn node(dir: &TempDir) -> DevNode {
    DevNode::open(
        &dir.path().join("dev.db"),
        Duration::ZERO,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
    )
    .unwrap()
}

fn request(expiry_seconds: u64) -> InvoiceRequest {
    InvoiceRequest {
        amount: Msat::new(1_500).unwrap(),
        description: "weather".to_owned(),
        expiry_seconds,
    }
}

#[tokio::test]
async fn an_invoice_decodes_to_what_was_asked_for() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    let invoice = node.add_invoice(request(600)).await.unwrap();
    let decoded = Bolt11Invoice::from_str(&invoice.bolt11).unwrap();
    assert!(invoice.bolt11.starts_with("lnbcrt15n1"));
    assert_eq!(
        decoded.payment_hash().to_byte_array(),
        invoice.payment_hash.0
    );
    assert_eq!(decoded.amount_milli_satoshis(), Some(1_500));
    assert_eq!(decoded.expires_at().unwrap().as_secs(), invoice.expires.0);
    assert_eq!(decoded.expiry_time(), Duration::from_secs(600));
    let payee = decoded.recover_payee_pub_key().serialize();
    assert_eq!(NodeId(payee), node.info().await.unwrap().id);
}

#[tokio::test]
async fn an_invoice_is_paid_once_and_gives_its_preimage() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    let invoice = node.add_invoice(request(600)).await.unwrap();
    let payment = node.pay(&invoice.bolt11, None).await.unwrap();
    assert_eq!(payment.preimage.hash(), invoice.payment_hash);
    assert_eq!(
        node.pay(&invoice.bolt11, None).await.unwrap_err(),
        PayError::AlreadyPaid
    );
}

#[tokio::test]
async fn an_invoice_can_be_paid_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let invoice = node(&dir).add_invoice(request(600)).await.unwrap();
    let payment = node(&dir).pay(&invoice.bolt11, None).await.unwrap();
    assert_eq!(payment.preimage.hash(), invoice.payment_hash);
}

#[tokio::test]
async fn an_expired_a_cancelled_and_a_foreign_invoice_are_refused() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    let expired = node.add_invoice(request(0)).await.unwrap();
    assert!(matches!(
        node.pay(&expired.bolt11, None).await,
        Err(PayError::Expired(_))
    ));

    let cancelled = node.add_invoice(request(600)).await.unwrap();
    assert_eq!(
        node.cancel(cancelled.payment_hash).await,
        Ok(Cancellation::Cancelled)
    );
    assert_eq!(
        node.pay(&cancelled.bolt11, None).await.unwrap_err(),
        PayError::Cancelled
    );
    assert_eq!(
        node.lookup(cancelled.payment_hash).await,
        Ok(InvoiceState::Cancelled)
    );

    let elsewhere = TempDir::new().unwrap();
    let foreign = self::node(&elsewhere)
        .add_invoice(request(600))
        .await
        .unwrap();
    assert!(matches!(
        node.pay(&foreign.bolt11, None).await,
        Err(PayError::NoRoute(_))
    ));
}

#[tokio::test]
async fn a_paid_invoice_cannot_be_cancelled() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    let invoice = node.add_invoice(request(600)).await.unwrap();
    node.pay(&invoice.bolt11, None).await.unwrap();
    let Ok(Cancellation::Settled(settlement)) = node.cancel(invoice.payment_hash).await else {
        panic!("cancelled a paid invoice");
    };
    assert_eq!(settlement.amount, Msat::new(1_500).unwrap());
    assert_eq!(settlement.settle_index, 1);
}

#[tokio::test]
async fn settlements_after_an_index_are_delivered_past_ones_first() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    let mut hashes = Vec::new();
    for _ in 0..3 {
        let invoice = node.add_invoice(request(600)).await.unwrap();
        node.pay(&invoice.bolt11, None).await.unwrap();
        hashes.push(invoice.payment_hash);
    }
    let mut settlements = node.settlements(1).await.unwrap();
    let mut fresh = node.settlements(0).await.unwrap();
    for hash in &hashes[1..] {
        assert_eq!(settlements.next().await.unwrap().payment_hash, *hash);
    }
    let invoice = node.add_invoice(request(600)).await.unwrap();
    node.pay(&invoice.bolt11, None).await.unwrap();
    assert_eq!(
        settlements.next().await.unwrap().payment_hash,
        invoice.payment_hash
    );
    assert_eq!(
        fresh.next().await.unwrap().payment_hash,
        invoice.payment_hash
    );
}

/// What the node has to send, it must have earned.
async fn earn(node: &DevNode, msat: u64) {
    let invoice = node
        .add_invoice(InvoiceRequest {
            amount: Msat::new(msat).unwrap(),
            ..request(600)
        })
        .await
        .unwrap();
    node.pay(&invoice.bolt11, None).await.unwrap();
}

fn order(invoice: &Invoice, msat: u64) -> PaymentOrder {
    PaymentOrder {
        bolt11: invoice.bolt11.clone(),
        payment_hash: invoice.payment_hash,
        amount: Msat::new(msat).unwrap(),
        fee_limit: Msat::new(5_000).unwrap(),
        cltv_limit: 720,
        timeout: Duration::from_secs(1),
    }
}

const fn succeeded(msat: u64) -> PaymentState {
    PaymentState::Succeeded {
        amount: Msat::new(msat).unwrap(),
        fee: Msat::ZERO,
    }
}

#[tokio::test]
async fn an_amountless_invoice_of_the_wallet_is_paid_once_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    earn(&node, 10_000).await;
    let invoice = node.wallet_invoice(&WalletInvoice::default()).unwrap();
    let decoded = Bolt11Invoice::from_str(&invoice.bolt11).unwrap();
    assert_eq!(decoded.amount_milli_satoshis(), None);
    let payee = NodeId(decoded.recover_payee_pub_key().serialize());
    assert_ne!(payee, node.info().await.unwrap().id, "a wallet of its own");

    let hash = invoice.payment_hash;
    assert_eq!(node.track(hash).await, Ok(PaymentState::NotSent));
    assert_eq!(node.received(hash), Ok(Received::Open));
    let paid = Lightning::pay(&node, order(&invoice, 4_000)).await;
    assert_eq!(paid, Ok(succeeded(4_000)));
    let node = self::node(&dir);
    assert_eq!(node.track(hash).await, Ok(succeeded(4_000)));
    for again in [4_000, 5_000] {
        let refused = Lightning::pay(&node, order(&invoice, again)).await;
        let detail = "invoice is already paid".to_owned();
        assert_eq!(refused, Err(LightningError::Exists { detail }));
    }
    let received = Received::Settled(Msat::new(4_000).unwrap());
    assert_eq!(node.received(hash), Ok(received));
    let stats = node.stats().unwrap();
    assert_eq!(
        (stats.paid_msat, stats.sent, stats.sent_msat),
        (10_000, 1, 4_000)
    );
}

#[tokio::test]
async fn the_node_sends_no_more_than_it_has_earned_and_the_same_hash_later() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    earn(&node, 1_000).await;
    let invoice = node.wallet_invoice(&WalletInvoice::default()).unwrap();
    let failed = PaymentState::Failed {
        reason: PaymentFailure::InsufficientBalance,
    };
    let sent = Lightning::pay(&node, order(&invoice, 1_001)).await;
    assert_eq!(sent, Ok(failed));
    assert_eq!(node.track(invoice.payment_hash).await, Ok(failed));
    earn(&node, 1).await;
    let sent = Lightning::pay(&node, order(&invoice, 1_001)).await;
    assert_eq!(sent, Ok(succeeded(1_001)));
}

#[tokio::test]
async fn a_held_payment_is_under_way_until_it_is_taken_or_sent_back() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    earn(&node, 2_000).await;
    let held = WalletInvoice {
        hold: true,
        ..WalletInvoice::default()
    };
    for take in [true, false] {
        let invoice = node.wallet_invoice(&held).unwrap();
        let hash = invoice.payment_hash;
        let sent = Lightning::pay(&node, order(&invoice, 1_000)).await;
        assert_eq!(sent, Ok(PaymentState::InFlight));
        assert_eq!(node.received(hash), Ok(Received::InFlight));
        let again = Lightning::pay(&node, order(&invoice, 1_000)).await;
        assert!(matches!(again, Err(LightningError::Exists { .. })));
        assert_eq!(node.resolve(hash, take), Ok(true));
        let failed = PaymentState::Failed {
            reason: PaymentFailure::IncorrectDetails,
        };
        let expected = if take { succeeded(1_000) } else { failed };
        assert_eq!(node.track(hash).await, Ok(expected));
    }
}

#[tokio::test]
async fn what_cannot_be_paid_is_refused_or_fails() {
    let dir = TempDir::new().unwrap();
    let node = node(&dir);
    earn(&node, 10_000).await;
    let own = node.add_invoice(request(600)).await.unwrap();
    let expired = WalletInvoice {
        expiry_seconds: 0,
        ..WalletInvoice::default()
    };
    let priced = WalletInvoice {
        amount: Msat::new(2_000),
        ..WalletInvoice::default()
    };
    let expired = node.wallet_invoice(&expired).unwrap();
    let priced = node.wallet_invoice(&priced).unwrap();
    let mut other_hash = order(&priced, 2_000);
    other_hash.payment_hash = own.payment_hash;
    for (wrong, says) in [
        (order(&own, 1_500), "self-payments"),
        (order(&expired, 1_000), "invoice expired"),
        (order(&priced, 2_001), "another amount"),
        (order(&priced, 0), "nothing to pay"),
        (other_hash, "another payment hash"),
    ] {
        let refused = Lightning::pay(&node, wrong).await;
        let Err(LightningError::Refused { detail, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(detail.contains(says), "{detail}");
    }
    let elsewhere = TempDir::new().unwrap();
    let foreign = self::node(&elsewhere);
    let foreign = foreign.wallet_invoice(&WalletInvoice::default()).unwrap();
    let no_route = PaymentState::Failed {
        reason: PaymentFailure::NoRoute,
    };
    let sent = Lightning::pay(&node, order(&foreign, 1_000)).await;
    assert_eq!(sent, Ok(no_route));
    assert_eq!(
        node.track(priced.payment_hash).await,
        Ok(PaymentState::NotSent)
    );
    let sent = Lightning::pay(&node, order(&priced, 2_000)).await;
    assert_eq!(sent, Ok(succeeded(2_000)));
}
