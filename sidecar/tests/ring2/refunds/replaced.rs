//! `boltgate refunds`: seen and paid again by an operator.

use std::process::Output;

use sidecar::adapters::lightning::lnd::lnrpc::PaymentFailureReason;
use sidecar::domain::refund::RefundState;

use super::{HOUR, Shop, hash, owe, session};
use crate::fake_lnd::Routing;
use crate::payments::return_invoice;
use crate::process::run;

async fn refunds(shop: &Shop, arguments: &[&str]) -> Output {
    let dir = shop.sidecar.dir.path();
    let config = format!(
        "ledger: {{ sqlite: {{ path: '{dir}/ledger.db' }} }}\ntokenFiles: ['{dir}/token']\n\
         lightning: {{ lnd: {{ endpoint: 'http://{}', macaroonFile: '{dir}/macaroon' }} }}\n",
        shop._serving.address,
        dir = dir.display(),
    );
    std::fs::write(dir.join("config.yaml"), config).unwrap();
    std::fs::write(dir.join("token"), crate::support::TOKEN).unwrap();
    let arguments = [&["refunds"], arguments, &["--config", "config.yaml"]].concat();
    run(dir, &arguments).await
}

async fn pay(shop: &Shop, n: u8, invoice: &str) -> Result<String, String> {
    let id = session(n).to_string();
    let output = refunds(shop, &["pay", "--session", &id, "--invoice", invoice]).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

#[tokio::test]
async fn a_failed_refund_is_listed_and_paid_to_another_invoice() {
    let no_route = PaymentFailureReason::FailureReasonNoRoute;
    let shop = Shop::owing("attempts: 1", |ledger, lnd| {
        lnd.route(Routing::Fail(no_route));
        owe(ledger, 1, 900, 100);
        owe(ledger, 2, 800, 0);
    })
    .await;
    for n in 1..=2 {
        shop.refund_is(n, RefundState::Failed).await;
    }
    let listed = refunds(&shop, &["list"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    let line = |n| {
        let id = session(n).to_string();
        listed.lines().find(|l| l.starts_with(&id)).unwrap()
    };
    let words: Vec<_> = line(1).split_whitespace().collect();
    assert_eq!(words[1..3], ["failed", "900"]);
    assert_eq!([words[4], words[6]], ["1", "no_route"]);
    assert_eq!(words[5].len(), 12, "the node's name begins so");
    assert!(!listed.contains("lnbcrt"), "the invoices are the buyers'");

    shop.lnd.route(Routing::Arrive { fee_msat: 3 });
    let amountless = return_invoice(11, None, HOUR);
    let said = pay(&shop, 1, &amountless).await.unwrap();
    assert!(said.contains("900 satoshi"), "{said}");
    let paid = shop.refund_is(1, RefundState::Succeeded).await;
    assert_eq!(paid.refund.return_hash, hash(11));
    // One that asks for it all gets it all.
    let exact = return_invoice(12, Some(800_000), HOUR);
    pay(&shop, 2, &exact).await.unwrap();
    shop.refund_is(2, RefundState::Succeeded).await;
    let arrived = shop.lnd.arrived();
    assert_eq!(arrived, [(hash(11), 900_000, 3), (hash(12), 800_000, 3)]);
    let listed = refunds(&shop, &["list"]).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.trim(), "every refund is paid");
}

#[tokio::test]
async fn an_invoice_that_would_not_pay_this_buyer_once_is_refused() {
    let no_route = PaymentFailureReason::FailureReasonNoRoute;
    let shop = Shop::owing("attempts: 1, maxInFlight: 1", |ledger, lnd| {
        lnd.route(Routing::Fail(no_route));
        owe(ledger, 1, 900, 100);
    })
    .await;
    shop.refund_is(1, RefundState::Failed).await;
    shop.lnd.route(Routing::Hold);
    owe(&shop.sidecar.ledger(), 2, 900, 100);
    shop.refund_is(2, RefundState::Sending).await;

    let refused = async |n, invoice: &str, says: &str| {
        let error = pay(&shop, n, invoice).await.unwrap_err();
        assert!(error.contains(says), "{error}");
        assert!(!error.contains(invoice), "{error}");
    };
    let good = return_invoice(11, None, HOUR);
    refused(1, &return_invoice(11, Some(900_001), HOUR), "exactly").await;
    refused(1, &return_invoice(2, None, HOUR), "another session").await;
    let short = std::time::Duration::from_secs(60);
    refused(1, &return_invoice(11, None, short), "ten minutes").await;
    refused(1, "lnbcrt1nonsense", "not valid").await;
    refused(2, &good, "is sending").await;
    refused(9, &good, "no refund").await;
    let mainnet = "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj32dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql";
    refused(1, mainnet, "another network").await;

    // The old invoice was paid after all, by whomever.
    let mut late = shop.lnd.payment(hash(1));
    late.set_status(sidecar::adapters::lightning::lnd::lnrpc::payment::PaymentStatus::Succeeded);
    shop.lnd.remember(late);
    refused(1, &good, "nothing was changed").await;
    assert_eq!(shop.refund(1).await.refund.state, RefundState::Failed);
}
