//! Whatever comes: no panic, and nothing unpaid goes on to what has its price.

use proptest::prelude::*;
use protocol::encoding::base64url;

use super::fixture::{Fixture, Sent, apply};
use crate::flow::*;
use crate::pairs::{Pairs, encode};

/// A header name: one of those that matter, or anything.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "authorization",
        "macaroon",
        "grpc-metadata-macaroon",
        "token",
        "payment-authorization",
        "accept-payment",
        "content-type",
        "origin",
        "access-control-request-method",
        "access-control-request-headers",
        "x-boltgate-service",
        "x_boltgate_tier",
        "x-forwarded-for",
        ":path",
        ":method",
        ":authority",
    ]);
    prop_oneof![4 => known.prop_map(|name| name.as_bytes().to_vec()), 1 => any::<Vec<u8>>()]
}

/// A header value: bits of credentials, or anything.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let bits = prop::sample::select(vec![
        "L402 ",
        "LSAT ",
        "Payment ",
        "eyJjaGFsbGVuZ2UiOnt9fQ",
        "Basic YTpi",
        "AgEEbHNhdAJCAAA=",
        ":",
        ",",
        "\"",
        "\\",
        "00",
        "0202",
        "application/grpc",
        "OPTIONS",
        "GET",
        "/v1/",
        "/v1/health",
        "..",
        "%2e",
        "api.example.com",
    ]);
    let bits = prop::collection::vec(bits, 0..8).prop_map(|bits| bits.concat().into_bytes());
    prop_oneof![3 => bits, 1 => any::<Vec<u8>>()]
}

fn fields() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    prop::collection::vec((name(), value()), 0..20)
}

proptest! {
    #[test]
    fn nothing_unpaid_is_forwarded_on_a_priced_route(extra in fields()) {
        let mut gate = Fixture::stocked(4);
        let mut sent = Sent::get("/v1/forecast");
        // A second pseudo-header field of a name does not reach the filter.
        sent.0.extend(extra.into_iter().filter(|(name, _)| name.first() != Some(&b':')));
        let decision = gate.request(&sent);
        prop_assert!(!matches!(decision, Decision::Forward { .. }), "{:?}", decision);
    }

    #[test]
    fn nothing_unpaid_is_forwarded_where_charges_alone_are_sold(
        extra in fields(),
        json in any::<Vec<u8>>(),
        bytes in any::<Vec<u8>>(),
    ) {
        let mut gate = Fixture::of(
            r#""payment":{"realm":"r","tls":"terminated"}"#,
            r#"[{"name":"charges","match":[{"hosts":["*"]}],"price":{"sat":1},"schemes":["charge"]}]"#,
        );
        gate.bootstrap();
        for value in [bytes, format!("Payment {}", base64url(&json)).into_bytes()] {
            let mut sent = Sent::get("/");
            sent.0.push((b"authorization".to_vec(), value));
            sent.0.extend(extra.iter().filter(|(name, _)| name.first() != Some(&b':')).cloned());
            let decision = gate.request(&sent);
            let is_open = matches!(decision, Decision::Forward { .. } | Decision::HoldCleaned(_));
            prop_assert!(!is_open, "{:?}", decision);
        }
    }

    #[test]
    fn any_fields_are_decided_without_a_panic(sent in fields()) {
        let mut gate = Fixture::stocked(4);
        let _ = gate.request(&Sent(sent));
    }

    #[test]
    fn any_bytes_are_a_head_or_none(bytes in any::<Vec<u8>>()) {
        if let Some(pairs) = Pairs::parse(&bytes) {
            let _ = Head::new(pairs);
            let _ = trailers(&pairs);
        }
    }

    #[test]
    fn an_upstream_never_sees_our_names_or_credentials(extra in fields(), foreign in any::<bool>()) {
        let mut gate = Fixture::ready();
        let paid = gate.token("weather", None);
        let mut sent = Sent::get("/v1/health").with("authorization", &paid);
        if foreign {
            sent = sent.host("other.example");
        }
        sent.0.extend(extra.into_iter().filter(|(name, _)| name.first() != Some(&b':')));
        if let Decision::Forward { edits, .. } = gate.request(&sent) {
            let secret = paid.rsplit(':').next().unwrap().as_bytes();
            for (name, value) in apply(&sent, &edits) {
                prop_assert!(!crate::head::is_ours(&name));
                prop_assert!(!value.windows(secret.len()).any(|part| part == secret));
            }
        }
    }

    #[test]
    fn any_answer_of_the_sidecar_is_survived(
        body in any::<Vec<u8>>(),
        status in any::<u16>(),
        is_marked in any::<bool>(),
        count in any::<u16>(),
    ) {
        let mut gate = Fixture::ready();
        let answer = Answer { status, is_marked, retry_after: Some(u64::MAX), body: &body,
                              no_cluster: false };
        for kind in [CallKind::Bootstrap, CallKind::Offers { shelf: 0, count },
                     CallKind::Offers { shelf: 9, count }, CallKind::Claim { number: 1 },
                     CallKind::Abandon { number: 1 }] {
            gate.gate.answered(kind, &answer, gate.now());
        }
        let _ = gate.request(&Sent::get("/v1/forecast"));
    }

    #[test]
    fn trailers_lose_our_names(extra in fields()) {
        let borrowed: Vec<_> = extra.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        let bytes = encode(&borrowed);
        let edits = trailers(&Pairs::parse(&bytes).unwrap());
        for (name, _) in apply(&Sent(extra.clone()), &edits) {
            prop_assert!(!crate::head::is_ours(&name));
        }
    }
}
