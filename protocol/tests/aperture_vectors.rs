//! Every case of `vectors/aperture-vectors.json`: what Aperture, a peer, reads and writes.
//!
//! From <https://github.com/lightninglabs/aperture> `mpp/testdata/vectors.json` at commit 7ee3ed7
//! (MIT licence, copyright Lightning Labs). Canonical JSON, base64url, challenges and their ids are
//! exact. Of credentials and receipts only reading counts: Aperture writes them in the order of its
//! structs, leaves out a refund of zero, and has short placeholders in the place of hashes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::encoding::{base64url, base64url_decode, hex_decode_into, hex_encode};
use protocol::keys::ChallengeKey;
use protocol::payment::event::Balance;
use protocol::payment::receipt::{self, Receipt};
use protocol::payment::{Challenge, authorization, jcs};
use serde_json::Value;

#[path = "common/params.rs"]
mod params;

use params::{challenge, list, text};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/aperture-vectors.json")).unwrap()
}

fn fails(case: &Value) -> bool {
    case["error"] == true
}

#[test]
fn json_is_made_canonical() {
    let all = vectors();
    let cases = list(&all, "canonicalization");
    assert_eq!(cases.len(), 22);
    for case in cases {
        let value: Result<Value, _> = serde_json::from_str(text(case, "input"));
        assert_eq!(value.is_err(), fails(case));
        if let Ok(value) = value {
            assert_eq!(jcs::to_string(&value), text(case, "canonical"), "{case}");
        }
    }
}

#[test]
fn base64url_is_read_and_written_the_same() {
    let all = vectors();
    let cases = list(&all, "base64url");
    assert_eq!(cases.len(), 17);
    for case in cases {
        let encoded = text(case, "encoded");
        let read = base64url_decode(encoded).ok();
        let expected = (!fails(case)).then(|| case["decodedHex"].as_str().unwrap_or_default());
        let hex = read.as_ref().map(|bytes| hex_encode(bytes));
        assert_eq!(hex.as_deref(), expected, "{case}");
        let is_canonical = read.is_some_and(|bytes| base64url(&bytes) == encoded);
        assert_eq!(is_canonical, case["canonical"] == true, "{case}");
    }
}

#[test]
fn challenges_are_written_and_read_the_same() {
    let all = vectors();
    let cases = list(&all, "challengeHeaders");
    assert_eq!(cases.len(), 6);
    for case in cases {
        assert_eq!(challenge(&case["params"]).to_line(), text(case, "header"));
        let read = Challenge::parse_list(text(case, "header")).unwrap();
        assert_eq!(read, [challenge(&case["parsed"])]);
    }
}

#[test]
fn lists_of_challenges_are_read_the_same() {
    let all = vectors();
    let cases = list(&all, "challengeLists");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let read = Challenge::parse_list(text(case, "header")).unwrap();
        // Aperture calls a value without a challenge an error.
        assert_eq!(read.is_empty(), fails(case), "{case}");
        if !fails(case) {
            let expected: Vec<_> = list(case, "challenges").iter().map(challenge).collect();
            assert_eq!(read, expected, "{case}");
        }
    }
}

#[test]
fn challenge_ids_are_made_the_same() {
    let all = vectors();
    let mut secret = Vec::new();
    hex_decode_into(text(&all, "hmacSecretHex").as_bytes(), &mut secret).unwrap();
    let key = ChallengeKey::from_secret(0, &secret);
    let cases = list(&all, "challengeIds");
    assert_eq!(cases.len(), 4);
    for case in cases {
        let challenge = challenge(&case["params"]);
        let id = base64url(&key.sign(&challenge.slots()));
        assert_eq!(id, challenge.id, "{case}");
    }
}

#[test]
fn credentials_are_read_the_same() {
    let all = vectors();
    let cases = list(&all, "credentials");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let header = text(case, "header").as_bytes();
        let presented = authorization::parse([header], []).presented.ok().flatten();
        let read = presented.as_ref().map(|presented| presented.credential());
        let Some(Ok(read)) = read else {
            assert!(fails(case), "{case}");
            continue;
        };
        assert!(!fails(case), "{case}");
        let json: Value = serde_json::from_str(text(case, "credentialJson")).unwrap();
        assert_eq!(read.challenge, challenge(&json["challenge"]));
        assert_eq!(read.source.as_deref(), json["source"].as_str());
        // Their placeholders are no preimages.
        assert!(read.charge_preimage().is_err());
        assert!(read.session_payload().is_err());
    }
}

#[test]
fn receipts_and_events_are_read_the_same() {
    let all = vectors();
    let cases = list(&all, "receipts");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let read = receipt::decode(text(case, "header")).unwrap();
        assert_eq!(read, text(case, "receiptJson").as_bytes());
        let json: Value = serde_json::from_slice(&read).unwrap();
        if let Some(balance) = Balance::from_json(&read) {
            assert_eq!(balance.session_id, text(&json, "sessionId"));
            assert_eq!(Some(balance.spent), json["balanceSpent"].as_u64());
            assert_eq!(Some(balance.required), json["balanceRequired"].as_u64());
            continue;
        }
        let receipt = Receipt::from_json(&read).unwrap();
        assert_eq!(receipt.reference, text(&json, "reference"));
        assert_eq!(receipt.timestamp, text(&json, "timestamp"));
        assert_eq!(
            receipt.challenge_id.as_deref(),
            json["challengeId"].as_str()
        );
        let refund = receipt
            .refund
            .map(|refund| (refund.sats, refund.status.as_str()));
        let expected = json["refundStatus"].as_str();
        let sats = json["refundSats"].as_u64().unwrap_or_default();
        assert_eq!(refund, expected.map(|status| (sats, status)));
    }
}
