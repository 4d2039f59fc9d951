use bitcoin::hashes::sha256;
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{InvoiceBuilder, PaymentSecret};
use std::time::Duration;

use super::*;
use crate::domain::invoice::NodeId;

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
const IDLE: u64 = 300;

fn key(mark: u8) -> SecretKey {
    SecretKey::from_slice(&[mark; 32]).unwrap()
}

fn node() -> NodeInfo {
    NodeInfo {
        id: NodeId(key(1).public_key(&Secp256k1::new()).serialize()),
        network: "regtest".to_owned(),
    }
}

/// Made by the node with this key.
fn invoice(of: u8, currency: Currency, msat: Option<u64>, expiry: u64) -> String {
    let builder = InvoiceBuilder::new(currency)
        .description("refund".to_owned())
        .payment_hash(sha256::Hash::from_byte_array([7; 32]))
        .payment_secret(PaymentSecret([8; 32]))
        .duration_since_epoch(Duration::from_secs(NOW.0))
        .min_final_cltv_expiry_delta(80)
        .expiry_time(Duration::from_secs(expiry));
    let builder = match msat {
        Some(msat) => builder.amount_milli_satoshis(msat),
        None => builder,
    };
    let curve = Secp256k1::new();
    builder
        .build_signed(|hash| curve.sign_ecdsa_recoverable(hash, &key(of)))
        .unwrap()
        .to_string()
}

fn check(text: &str) -> Result<ReturnInvoice, InvalidReturnInvoice> {
    ReturnInvoice::check(text, &node(), IDLE, NOW)
}

fn good() -> String {
    invoice(2, Currency::Regtest, None, 3_600)
}

#[test]
fn an_invoice_without_amount_is_good_and_so_is_an_explicit_zero() {
    for text in [good(), invoice(2, Currency::Regtest, Some(0), 3_600)] {
        let checked = check(&text).unwrap();
        assert_eq!(checked.payment_hash, PaymentHash([7; 32]));
        assert_eq!(checked.expires, UnixSeconds(NOW.0 + 3_600));
        assert_eq!(checked.text.as_str(), text);
        assert!(!format!("{checked:?}").contains(&text));
    }
}

#[test]
fn what_cannot_be_paid_is_refused_and_the_reason_does_not_repeat_it() {
    let network = InvalidReturnInvoice::Network("regtest".to_owned());
    let mut altered = good();
    let last = altered.pop().unwrap();
    altered.push(if last == 'q' { 'p' } else { 'q' });
    for (text, reason) in [
        (altered, InvalidReturnInvoice::Malformed),
        (String::new(), InvalidReturnInvoice::Malformed),
        (format!(" {}", good()), InvalidReturnInvoice::Malformed),
        ("lnbcrt1".to_owned(), InvalidReturnInvoice::Malformed),
        ("l".repeat(2_048), InvalidReturnInvoice::Malformed),
        (good() + &"q".repeat(2_048), InvalidReturnInvoice::TooLong),
        (invoice(2, Currency::Bitcoin, None, 3_600), network.clone()),
        (invoice(2, Currency::Signet, None, 3_600), network),
        (
            invoice(2, Currency::Regtest, Some(1), 3_600),
            InvalidReturnInvoice::Amount,
        ),
        (
            invoice(1, Currency::Regtest, None, 3_600),
            InvalidReturnInvoice::OwnNode,
        ),
        (
            invoice(2, Currency::Regtest, None, 599),
            InvalidReturnInvoice::TooShort(600),
        ),
    ] {
        assert_eq!(check(&text), Err(reason.clone()), "{text}");
        assert!(text.is_empty() || !reason.to_string().contains(&text));
    }
    assert!(check(&invoice(2, Currency::Regtest, None, 600)).is_ok());
}

#[test]
fn an_expired_invoice_is_refused() {
    let later = UnixSeconds(NOW.0 + 3_600);
    let checked = ReturnInvoice::check(&good(), &node(), IDLE, later);
    assert_eq!(checked, Err(InvalidReturnInvoice::TooShort(600)));
}

#[test]
fn a_short_idle_timeout_leaves_time_for_the_refund_all_the_same() {
    let of = |expiry| {
        let text = invoice(2, Currency::Regtest, None, expiry);
        ReturnInvoice::check(&text, &node(), 5, NOW)
    };
    assert_eq!(of(64), Err(InvalidReturnInvoice::TooShort(65)));
    assert!(of(65).is_ok());
}

/// Invoices of other software, from the vectors of the specification.
#[test]
fn the_vectors_return_invoices_are_judged_as_they_say() {
    let text = include_str!("../../../../protocol/tests/vectors/payment-auth.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let now = UnixSeconds(vectors["now_unix"].as_u64().unwrap());
    let mut seen = 0;
    for vector in vectors["bolt11"].as_array().unwrap() {
        let name = vector["name"].as_str().unwrap();
        if !name.starts_with("return invoice") {
            continue;
        }
        seen += 1;
        let text = vector["invoice"].as_str().unwrap();
        let checked = ReturnInvoice::check(text, &node(), IDLE, now);
        match name {
            "return invoice, no amount" => {
                let hash = vector["payment_hash"].as_str().unwrap();
                assert_eq!(checked.unwrap().payment_hash.to_string(), hash);
            }
            "return invoice, 10 sat (reject)" => {
                assert_eq!(checked, Err(InvalidReturnInvoice::Amount));
            }
            "return invoice, signet (reject on regtest)" => {
                let network = "regtest".to_owned();
                assert_eq!(checked, Err(InvalidReturnInvoice::Network(network)));
            }
            "return invoice, expired" => {
                assert_eq!(checked, Err(InvalidReturnInvoice::TooShort(600)));
            }
            other => panic!("{other} is not looked at"),
        }
    }
    assert_eq!(seen, 4);
}
