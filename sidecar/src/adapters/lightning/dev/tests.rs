use std::str::FromStr as _;

use tempfile::TempDir;

use super::*;
use crate::adapters::system::{SystemClock, SystemRandom};

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
