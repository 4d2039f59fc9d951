//! The Lightning network of the tests by itself: what the other tests rely on.

use e2e::regtest::Regtest;
use e2e::wallet::Wallet;
use serde_json::Value;

#[tokio::test]
async fn a_node_pays_the_other_and_comes_back_after_a_crash() -> anyhow::Result<()> {
    let network = Regtest::shared()?;
    let seller = network.seller.lncli();
    let invoice = seller.run(&["addinvoice", "--amt", "10"]).await?;
    let text = invoice
        .get("payment_request")
        .and_then(Value::as_str)
        .unwrap_or_default();
    assert!(text.starts_with("lnbcrt"), "{invoice}");
    let preimage = network.wallet().pay(text).await?;
    assert_eq!(preimage.len(), 64);
    let again = Wallet::Lnd(network.buyer.lncli()).pay(text).await;
    assert!(again.is_err(), "the same invoice was paid twice");

    network.seller.restart()?;
    network.wait_payable()?;
    let invoice = seller.run(&["addinvoice", "--amt", "11"]).await?;
    let text = invoice
        .get("payment_request")
        .and_then(Value::as_str)
        .unwrap_or_default();
    network.wallet().pay(text).await?;
    Ok(())
}
