//! What a real LND answers when the sidecar pays back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use e2e::eventually::eventually;
use e2e::regtest::Regtest;
use protocol::amount::Msat;
use serde_json::Value;
use sidecar::adapters::lightning::lnd::{LndNode, LndSettings};
use sidecar::adapters::system::SystemClock;
use sidecar::domain::payment::{PaymentFailure, PaymentOrder, PaymentState};
use sidecar::domain::ports::{Lightning as _, LightningError};

/// The seller's node as the sidecar reaches it: with the rights that the sidecar has.
fn payer(network: &Regtest) -> anyhow::Result<LndNode> {
    let settings = LndSettings {
        endpoint: network.seller.endpoint().parse()?,
        tls_certificate_file: Some(network.seller.tls_cert()),
        macaroon_file: network.seller.baked_macaroon(),
        route_hints: false,
        deadline: Duration::from_secs(5),
    };
    Ok(LndNode::new(settings, Arc::new(SystemClock::new()))?)
}

/// A return invoice of the buyer's node, and the order to pay 900 satoshis to it.
async fn order(network: &Regtest, expiry_seconds: u32) -> anyhow::Result<PaymentOrder> {
    let expiry = expiry_seconds.to_string();
    let invoice = network.buyer.lncli();
    let invoice = invoice.run(&["addinvoice", "--expiry", &expiry]).await?;
    let text = |key| {
        invoice
            .get(key)
            .and_then(Value::as_str)
            .context("no invoice")
    };
    Ok(PaymentOrder {
        bolt11: text("payment_request")?.to_owned(),
        payment_hash: text("r_hash")?.parse()?,
        amount: Msat::from_sat(900).context("amount")?,
        fee_limit: Msat::from_sat(9).context("amount")?,
        cltv_limit: 720,
        timeout: Duration::from_secs(20),
    })
}

#[tokio::test]
async fn the_sellers_node_pays_an_amountless_return_invoice_once_and_says_so() -> anyhow::Result<()>
{
    let network = Regtest::shared()?;
    let node = payer(network)?;
    let order = order(network, 3_600).await?;
    let hash = order.payment_hash;
    ensure!(node.track(hash).await? == PaymentState::NotSent);
    let arrived = PaymentState::Succeeded {
        amount: order.amount,
        fee: Msat::ZERO,
    };
    ensure!(node.pay(order.clone()).await? == arrived);
    ensure!(node.track(hash).await? == arrived);
    let received = network.buyer.lookup(&hash.to_string()).await?;
    let received = received.get("amt_paid_msat").and_then(Value::as_str);
    ensure!(received == Some("900000"), "{received:?}");
    let again = node.pay(order).await;
    ensure!(
        matches!(&again, Err(LightningError::Exists { detail }) if detail.contains("already paid")),
        "{again:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_payment_that_a_real_node_cannot_make_fails_or_is_refused_for_its_reason()
-> anyhow::Result<()> {
    let network = Regtest::shared()?;
    let node = payer(network)?;
    let order = order(network, 3_600).await?;
    let hash = order.payment_hash;
    let too_much = PaymentOrder {
        amount: Msat::from_sat(500_000_000).context("amount")?,
        ..order.clone()
    };
    let failed = node.pay(too_much).await?;
    let poor = PaymentState::Failed {
        reason: PaymentFailure::InsufficientBalance,
    };
    ensure!(failed == poor, "{failed:?}");
    ensure!(node.track(hash).await? == poor);
    let sent = node.pay(order).await?;
    ensure!(matches!(sent, PaymentState::Succeeded { .. }), "{sent:?}");

    let expired = self::order(network, 1).await?;
    let hash = expired.payment_hash;
    let over = SystemTime::now() + Duration::from_secs(2);
    eventually("it has expired", Duration::from_secs(10), async || {
        ensure!(SystemTime::now() >= over, "not yet");
        Ok(())
    })
    .await?;
    let refused = node.pay(expired).await;
    ensure!(
        matches!(&refused, Err(LightningError::Refused { detail, .. })
            if detail.contains("expired")),
        "{refused:?}"
    );
    ensure!(node.track(hash).await? == PaymentState::NotSent);

    let cancelled = self::order(network, 3_600).await?;
    let hash = cancelled.payment_hash;
    let text = hash.to_string();
    network.buyer.lncli().run(&["cancelinvoice", &text]).await?;
    let failed = node.pay(cancelled).await?;
    let refused = PaymentState::Failed {
        reason: PaymentFailure::IncorrectDetails,
    };
    ensure!(failed == refused, "{failed:?}");
    Ok(())
}
