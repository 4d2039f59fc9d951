//! Good and bad credentials, remembered ones, and faults of ours.

use super::fixture::*;
use crate::flow::*;

#[test]
fn where_no_invoice_may_be_made_the_answer_is_401_without_a_challenge() {
    let mut gate = Fixture::stocked(5);
    let wrong = gate.token("other", None);
    for sent in [
        Sent::get("/v1/cb/x"),
        Sent::get("/v1/cb/x").with("authorization", &wrong),
    ] {
        let reply = gate.reply(&sent);
        assert_eq!(
            (reply.status, reply.note.outcome),
            (401, Outcome::Unauthorized)
        );
        assert!(
            !reply
                .headers
                .iter()
                .any(|(name, _)| *name == "www-authenticate")
        );
    }
    let paid = gate.token("weather", None);
    gate.forwarded(&Sent::get("/v1/cb/x").with("authorization", &paid));
}

#[test]
fn a_paid_request_goes_on_with_trusted_fields_and_without_its_credential() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    for _ in 0..3 {
        let sent = Sent::get("/v1/forecast").with("authorization", &paid);
        let forwarded = gate.forwarded(&sent);
        assert_eq!(forwarded.note.outcome, Outcome::Paid);
        assert_eq!(forwarded.value("authorization"), None);
        let admitted = forwarded.note.admitted.unwrap();
        let fields: Vec<_> = admitted.trusted_fields().collect();
        let [service, scheme, token_id, tier] = fields[..] else {
            panic!("{fields:?}")
        };
        assert_eq!(service, ("x-boltgate-service", "weather"));
        assert_eq!(scheme, ("x-boltgate-scheme", "l402"));
        assert_eq!((token_id.0, token_id.1.len()), ("x-boltgate-token-id", 64));
        assert_eq!(tier, ("x-boltgate-tier", "0"));
    }
}

#[test]
fn metadata_of_grpc_clients_is_taken_and_cached() {
    let mut gate = Fixture::ready();
    let hex = gate.metadata_token("weather");
    for name in ["token", "macaroon", "grpc-metadata-macaroon"] {
        for _ in 0..2 {
            let sent = Sent::get("/v1/x")
                .with("content-type", "application/grpc")
                .with(name, &hex);
            assert_eq!(gate.forwarded(&sent).value(name), None, "{name}");
        }
    }
    let other = Sent::get("/v1/health").with("token", "something else");
    assert_eq!(
        gate.forwarded(&other).value("token"),
        Some("something else")
    );
}

#[test]
fn each_fault_of_a_credential_is_a_402_with_its_reason() {
    let mut gate = Fixture::stocked(20);
    let good = gate.token("weather", None);
    let (start, end) = good.split_at(good.len() - 1);
    let wrong_preimage = format!("{start}{}", if end == "0" { "1" } else { "0" });
    let expired = gate.token("weather", Some(CREDENTIAL_TIME - 1));
    let other = gate.token("other", None);
    for (credential, reason) in [
        (wrong_preimage.as_str(), "preimage mismatch"),
        (&expired, "expired"),
        (&other, "service not authorised"),
        ("L402 nonsense", "malformed: no preimage after a colon"),
    ] {
        let reply = gate.reply(&Sent::get("/v1/forecast").with("authorization", credential));
        assert_eq!((reply.status, reply.note.outcome), (402, Outcome::Refused));
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body["detail"], reason);
    }
}

#[test]
fn refused_credentials_can_be_told_401_with_a_challenge() {
    let mut gate = Fixture::with_settings(r#""l402InvalidStatus":401"#);
    gate.bootstrap();
    gate.fill(4);
    let reply = gate.reply(&Sent::get("/v1/x").with("authorization", "L402 x"));
    assert_eq!(reply.status, 401);
    assert!(
        reply
            .headers
            .iter()
            .any(|(name, _)| *name == "www-authenticate")
    );
    assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 402);
}

#[test]
fn a_remembered_credential_still_expires() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", Some(CREDENTIAL_TIME + 10));
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.forwarded(&sent);
    gate.now_ms += 10_000;
    gate.bootstrap();
    assert_eq!(
        gate.request(&sent),
        Decision::Hold,
        "an offer is fetched for it"
    );
}

#[test]
fn a_remembered_credential_is_refused_once_revoked() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.revoke_last();
    let reply = gate.reply(&sent);
    assert_eq!(reply.status, 402);
    assert!(reply.body.contains("revoked"), "{}", reply.body);
}

#[test]
fn a_remembered_credential_is_refused_once_its_key_is_gone() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.install_keys(&[(7, [9; 32])]);
    assert_eq!(gate.reply(&sent).status, 402);
}

#[test]
fn a_key_that_we_may_have_missed_is_a_fault_of_ours() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    gate.install_keys(&[(7, [9; 32])]);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.now_ms += 10_000;
    assert_eq!(gate.reply(&sent).status, 402, "no sidecar has such a key");
    gate.now_ms += 1;
    assert_eq!(gate.reply(&sent).status, 503, "one may, by now");

    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    gate.revoke_last();
    gate.now_ms += 10_001;
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    assert_eq!(gate.reply(&sent).status, 402, "revoked is revoked");
}

#[test]
fn a_good_credential_counts_beside_one_of_an_unknown_key() {
    let mut gate = Fixture::ready();
    let unknown = gate.token("weather", None);
    gate.install_keys(&[(7, [9; 32])]);
    let good = gate.token_of((7, [9; 32]), "weather", &[]);
    gate.now_ms += 10_001;
    for both in [[&unknown, &good], [&good, &unknown]] {
        let sent = both.iter().fold(Sent::get("/v1/x"), |sent, one| {
            sent.with("authorization", one)
        });
        assert_eq!(gate.forwarded(&sent).note.outcome, Outcome::Paid);
    }
    let two = Sent::get("/v1/x").with("authorization", &unknown);
    assert_eq!(gate.reply(&two.with("authorization", "L402 x")).status, 503);
}

#[test]
fn all_credentials_of_a_request_share_one_budget() {
    let mut gate = Fixture::stocked(10);
    let caveats = vec!["x=1".to_owned(); 40];
    // Not signed by us, so that the chain is computed and fails.
    let bad = gate.token_of((1, [9; 32]), "weather", &caveats);
    let good = gate.token_of((1, KEY), "weather", &caveats);
    gate.forwarded(&Sent::get("/v1/x").with("authorization", &good));
    let both = Sent::get("/v1/x")
        .with("authorization", &bad)
        .with("authorization", &good);
    let reply = gate.reply(&both);
    assert!(
        reply.status == 402 && reply.body.contains("bad signature"),
        "{}",
        reply.body
    );

    // Sixteen tokens are looked at, and those of `token` come last.
    let hex = gate.metadata_token("weather");
    let all = |others: &str| {
        let mut sent = Sent::get("/v1/x");
        for name in ["token", "macaroon", "grpc-metadata-macaroon"] {
            for _ in 0..8 {
                sent = sent.with(name, if name == "token" { &hex } else { others });
            }
        }
        sent
    };
    gate.forwarded(&all(&hex));
    let (start, end) = hex.split_at(hex.len() - 1);
    let wrong = format!("{start}{}", if end == "0" { "1" } else { "0" });
    let reply = gate.reply(&all(&wrong));
    assert!(
        reply.status == 402 && reply.body.contains("bad signature"),
        "{}",
        reply.body
    );
    let sent = all(&hex).host("other.example");
    let names = gate.forwarded(&sent).names;
    assert_eq!(
        names.len(),
        3,
        "all of them go, also where nothing is verified"
    );
}

#[test]
fn a_remembered_credential_is_not_good_for_another_service() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    gate.forwarded(&Sent::get("/v1/forecast").with("authorization", &paid));
    let elsewhere = Sent::get("/v2/x").with("authorization", &paid);
    assert_eq!(gate.request(&elsewhere), Decision::Hold);
}

#[test]
fn faults_of_ours_are_503_and_never_a_challenge() {
    let check = |gate: &mut Fixture, paid: &str| {
        for sent in [
            Sent::get("/v1/x"),
            Sent::get("/v1/x").with("authorization", paid),
        ] {
            let reply = gate.reply(&sent);
            assert_eq!(
                (reply.status, reply.note.outcome),
                (503, Outcome::Unavailable)
            );
            assert!(reply.headers.iter().any(|(name, _)| *name == "retry-after"));
            assert!(
                !reply
                    .headers
                    .iter()
                    .any(|(name, _)| *name == "www-authenticate")
            );
        }
    };
    let mut old = Fixture::stocked(10);
    let paid = old.token("weather", None);
    old.forwarded(&Sent::get("/v1/x").with("authorization", &paid));
    old.now_ms += 60_001;
    check(&mut old, &paid);

    let mut no_token = Fixture::without_token();
    check(&mut no_token, &paid);

    let mut no_wait = Fixture::with_settings(r#""bootstrapWait":"0s""#);
    check(&mut no_wait, &paid);
}
