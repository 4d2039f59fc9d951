//! Credentials as clients and proxies really send them, and what holders may do to a token.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use protocol::amount::Msat;
use protocol::api::{Offer, OfferError, OfferTemplate};
use protocol::encoding::{base64_std, hex_encode};
use protocol::hash::Preimage;
use protocol::l402::authorization::{self, Authorization, Upstream};
use protocol::l402::metadata::{self, Metadata};
use protocol::l402::{
    Credential, MAX_HEADER_LEN, MAX_TOKENS, Malformed, Refusal, Target, caveats_for, verify,
};
use protocol::time::UnixSeconds;

#[path = "common/token.rs"]
mod token;

use token::{NOW, check, identifier, keys, preimage, token};

fn header(scheme: &str, tokens: &[String]) -> String {
    format!(
        "{scheme} {}:{}",
        tokens.join(","),
        hex_encode(preimage().expose())
    )
}

fn ours() -> String {
    header("L402", &[token(["services=a:0"]).to_base64()])
}

fn parse(values: &[&str]) -> Authorization {
    authorization::parse(values.iter().map(|value| value.as_bytes()))
}

#[test]
fn credentials_of_other_schemes_are_left_for_the_upstream() {
    let ours = ours();
    let lsat = ours.replace("L402", "lsat");
    let digest = r#"Digest username="a, b", realm="b\"", nc=1, uri = "/""#;
    let cases = [
        (vec!["Basic YTpi"], 0, Upstream::Untouched),
        (vec![digest], 0, Upstream::Untouched),
        (vec![], 0, Upstream::Untouched),
        (vec![""], 0, Upstream::Untouched),
        (vec![&*ours], 1, Upstream::Removed),
        (
            vec![&*ours, "Basic YTpi"],
            1,
            Upstream::Replaced(b"Basic YTpi".to_vec()),
        ),
        (vec!["Bearer x", &*ours, digest], 1, {
            Upstream::Replaced(format!("Bearer x, {digest}").into_bytes())
        }),
        (vec![&*lsat, &*ours], 2, Upstream::Removed),
    ];
    for (values, count, upstream) in cases {
        let joined = values.join(", ");
        let tight = values.join(",");
        for found in [parse(&values), parse(&[&joined]), parse(&[&tight])] {
            assert_eq!(found.credentials.len(), count, "{values:?}");
            assert_eq!(found.malformed, None, "{values:?}");
            assert_eq!(found.upstream, upstream, "{values:?}");
        }
    }
}

#[test]
fn what_is_meant_for_us_is_taken_out_even_when_it_is_useless() {
    let preimage = "0".repeat(64);
    let cases = [
        ("L402".to_owned(), Malformed::NoColon),
        ("lsat ".to_owned(), Malformed::NoColon),
        ("L402\tx".to_owned(), Malformed::NoColon),
        ("L402 =x".to_owned(), Malformed::NoColon),
        ("L402\u{c}".to_owned(), Malformed::NoColon),
        (format!("L402:AgE=:{preimage}"), Malformed::Encoding),
        ("L402 AgE:xyz".to_owned(), Malformed::Preimage),
        (format!("L402 AgE:{preimage}0"), Malformed::Preimage),
        (
            format!("L402 AgE:{preimage}:{preimage}"),
            Malformed::Encoding,
        ),
        (format!("L402 a:b:{preimage}"), Malformed::Encoding),
        (format!("L402 A\u{1}E=:{preimage}"), Malformed::Encoding),
        (format!("L402 AgE=,:{preimage}"), Malformed::Encoding),
        (format!("L402 AgE=,,AgE=:{preimage}"), Malformed::Encoding),
        (
            header("L402", &vec!["AgE=".to_owned(); MAX_TOKENS + 1]),
            Malformed::TooManyTokens,
        ),
        (
            header("L402", &["A".repeat(MAX_HEADER_LEN)]),
            Malformed::TooLong,
        ),
    ];
    for (value, malformed) in cases {
        for value in [
            value.clone(),
            format!("{value}, Basic x"),
            format!("Basic x,{value}"),
        ] {
            let found = parse(&[&value]);
            assert_eq!(found.malformed, Some(malformed), "{value}");
            assert!(found.is_ours() && found.credentials.is_empty(), "{value}");
            let is_mixed = value.contains("Basic");
            assert_eq!(found.upstream == Upstream::Removed, !is_mixed, "{value}");
            if let Upstream::Replaced(rest) = found.upstream {
                assert_eq!(rest, b"Basic x", "{value}");
            }
        }
    }
}

#[test]
fn a_stray_quotation_mark_hides_no_credential() {
    let ours = ours();
    for before in [r#"Basic a"b"#, r#"Digest a="b"#, r#"Digest a="b\"#] {
        let found = parse(&[&format!("{before}, {ours}")]);
        assert_eq!(found.credentials.len(), 1, "{before}");
        assert_eq!(
            found.upstream,
            Upstream::Replaced(before.as_bytes().to_vec()),
            "{before}"
        );
        // Within quotes it is useless, but ours all the same.
        let found = parse(&[&format!("{before}, {ours}\"")]);
        assert_eq!(found.malformed, Some(Malformed::Preimage), "{before}");
    }
}

#[test]
fn all_credentials_of_a_request_share_one_limit() {
    let long = header("L402", &["AAAA".repeat(MAX_HEADER_LEN / 4 - 100)]);
    let found = parse(&[&long, &ours(), &ours()]);
    assert_eq!(
        (found.credentials.len(), found.malformed),
        (2, Some(Malformed::TooLong))
    );
    let eight = header("L402", &vec!["AgE=".to_owned(); MAX_TOKENS]);
    let found = parse(&[&eight, &eight, &eight]);
    assert_eq!(
        (found.credentials.len(), found.malformed),
        (2, Some(Malformed::TooManyTokens))
    );
}

#[test]
fn metadata_named_token_is_ours_only_if_it_is_a_macaroon() {
    let hex = hex_encode(&token(["services=a:0"]).to_bytes());
    assert!(matches!(
        metadata::parse("Token", hex.as_bytes()),
        Metadata::Ours(_)
    ));
    assert!(matches!(
        metadata::parse("token", hex.to_uppercase().as_bytes()),
        Metadata::Ours(_)
    ));
    for foreign in ["", "deadbeef", "eyJhbGciOi", "02", "c0ffee, 02"] {
        assert_eq!(
            metadata::parse("token", foreign.as_bytes()),
            Metadata::Foreign,
            "{foreign}"
        );
    }
    let cut = &hex[..hex.len() - 1];
    assert_eq!(
        metadata::parse("token", cut.as_bytes()),
        Metadata::Malformed(Malformed::Encoding)
    );
    for name in ["macaroon", "grpc-metadata-macaroon"] {
        let parsed = metadata::parse(name, b"eyJ");
        assert_eq!(parsed, Metadata::Malformed(Malformed::Encoding));
        let Metadata::Ours(two) = metadata::parse(name, format!("{hex}, {hex}").as_bytes()) else {
            panic!("{name}");
        };
        assert_eq!(two.token_count(), 2);
    }
    let long = "0".repeat(MAX_HEADER_LEN + 2);
    assert_eq!(
        metadata::parse("macaroon", long.as_bytes()),
        Metadata::Malformed(Malformed::TooLong)
    );
}

#[test]
fn tokens_of_another_payment_are_passed_over() {
    let good = token(["services=a:0"]).to_base64();
    let mut bytes = token(["services=a:0"]).to_bytes();
    // Within the payment hash.
    bytes[10] ^= 1;
    let other = base64_std(&bytes);
    for tokens in [[good.clone(), other.clone()], [other.clone(), good]] {
        let found = parse(&[&header("L402", &tokens)]);
        let target = Target {
            service: "a",
            capability: None,
            now: NOW,
        };
        assert!(verify(&found.credentials[0], &keys(), |_| false, &target).is_ok());
    }
    let expired = token(["services=a:0", "a_valid_until=1"]).to_base64();
    let found = parse(&[&header("L402", &[other, expired])]);
    let target = Target {
        service: "a",
        capability: None,
        now: NOW,
    };
    let verdict = verify(&found.credentials[0], &keys(), |_| false, &target);
    assert_eq!(
        verdict,
        Err(Refusal::Expired),
        "the reason of the token that came furthest"
    );
}

#[test]
fn the_deny_list_is_asked_only_for_what_was_paid() {
    let macaroon = token(["services=a:0"]).to_bytes();
    let target = Target {
        service: "a",
        capability: None,
        now: NOW,
    };
    let hash = identifier().hash();
    let paid = Credential::of_macaroon(macaroon.clone(), Some(preimage()));
    let verdict = verify(&paid, &keys(), |asked| *asked == hash, &target);
    assert_eq!(verdict, Err(Refusal::Revoked));
    let unpaid = Credential::of_macaroon(macaroon, Some(Preimage::new([0; 32])));
    let verdict = verify(&unpaid, &keys(), |_| panic!("asked"), &target);
    assert_eq!(verdict, Err(Refusal::PreimageMismatch));
}

#[test]
fn a_grant_says_what_the_token_is_good_for() {
    let token = token([
        "services=b:1,a:3",
        "a_valid_until=1900000000",
        "a_valid_until=1850000000",
    ]);
    let grant = check(&token, "a", None).unwrap();
    assert_eq!(grant.tier, 3);
    assert_eq!(grant.valid_until, Some(UnixSeconds(1_850_000_000)));
    assert_eq!(grant.token_id, identifier().token_id);
    assert_eq!(grant.identifier_hash, identifier().hash());
    assert_eq!(check(&token, "b", None).unwrap().valid_until, None);
}

#[test]
fn holders_can_only_take_away() {
    let minted = [
        "services=a:0,b:1",
        "a_capabilities=read,write",
        "read_monthly_sats=100",
        "read_label=x",
    ];
    let cases = [
        (
            vec!["services=b:1", "services=b:1,a:0"],
            Some(Refusal::ServicesWidened),
        ),
        (vec!["services=a:0"], None),
        (vec!["services=a:1"], Some(Refusal::ServicesWidened)),
        (vec!["services="], Some(Refusal::MalformedCaveat)),
        (vec!["services=a:0,"], Some(Refusal::MalformedCaveat)),
        (vec!["services=a:+0"], Some(Refusal::MalformedCaveat)),
        (vec!["services=b:1"], Some(Refusal::Service)),
        (vec!["a_capabilities=read"], None),
        (vec!["a_capabilities=write"], Some(Refusal::Capability)),
        (vec!["a_capabilities="], Some(Refusal::MalformedCaveat)),
        (
            vec!["a_capabilities=read,admin"],
            Some(Refusal::CapabilitiesWidened),
        ),
        (vec!["b_capabilities=none"], None),
        (vec!["read_monthly_sats=100", "read_monthly_sats=99"], None),
        (
            vec!["read_monthly_sats=101"],
            Some(Refusal::ConstraintWidened),
        ),
        (
            vec!["read_monthly_sats=50", "read_monthly_sats=51"],
            Some(Refusal::ConstraintWidened),
        ),
        (
            vec![
                "read_monthly_sats=50",
                "read_monthly_sats=x",
                "read_monthly_sats=51",
            ],
            Some(Refusal::ConstraintWidened),
        ),
        // Still a constraint of a capability that was granted, though given up since.
        (
            vec!["write_x=1", "a_capabilities=read", "write_x=2"],
            Some(Refusal::ConstraintWidened),
        ),
        (
            vec![
                "read_label=zzz",
                "other_x=1",
                "other_x=2",
                "read=1",
                "read=2",
            ],
            None,
        ),
        (
            vec!["a_valid_until=1900000000", "a_valid_until=1900000001"],
            Some(Refusal::ExpiryWidened),
        ),
        (vec!["a_valid_until=-1"], Some(Refusal::MalformedCaveat)),
        (
            vec!["a_valid_until=99999999999999999999"],
            Some(Refusal::MalformedCaveat),
        ),
        (vec!["preimage=zz"], None),
    ];
    for (added, refusal) in cases {
        let token = token(minted.iter().chain(&added));
        assert_eq!(check(&token, "a", Some("read")).err(), refusal, "{added:?}");
    }
}

#[test]
fn constraints_of_a_capability_hold_without_a_capabilities_caveat() {
    let token = token(["services=a:0", "read_x=1", "read_x=2"]);
    assert_eq!(
        check(&token, "a", Some("read")),
        Err(Refusal::ConstraintWidened)
    );
    assert!(check(&token, "a", Some("write")).is_ok());
    assert!(check(&token, "a", None).is_ok());
}

#[test]
fn lists_are_bounded() {
    let list = |length: usize| {
        let entries: Vec<_> = (0..length).map(|index| format!("s{index}:0")).collect();
        token([format!("services={}", entries.join(","))])
    };
    assert!(check(&list(64), "s63", None).is_ok());
    assert_eq!(check(&list(65), "s0", None), Err(Refusal::MalformedCaveat));
}

#[test]
fn an_offer_becomes_caveats_in_the_order_of_the_specification() {
    let mut template = OfferTemplate {
        service: "a".to_owned(),
        tier: 2,
        price_msat: Msat::new(1).unwrap(),
        lifetime_seconds: Some(60),
        capabilities: vec!["read".to_owned(), "write".to_owned()],
        constraints: vec![("read_x".to_owned(), "5".to_owned())],
    };
    let end = NOW.saturating_add(Duration::from_secs(60));
    let caveats = caveats_for(&template, Some(end));
    assert_eq!(
        caveats,
        [
            "services=a:2",
            "a_capabilities=read,write",
            "read_x=5",
            "a_valid_until=1800000060"
        ]
    );
    assert!(check(&token(&caveats), "a", Some("read")).is_ok());
    template.capabilities.clear();
    template.constraints.clear();
    assert_eq!(caveats_for(&template, None), ["services=a:2"]);
}

#[test]
fn an_offer_that_belongs_to_another_invoice_is_found_out() {
    let offer = |change: fn(&mut Offer)| {
        let mut offer = Offer {
            payment_hash: identifier().payment_hash.to_string(),
            invoice: "lnbcrt1xyz".to_owned(),
            macaroon: token(["services=a:0"]).to_base64(),
            show_until: 0,
        };
        change(&mut offer);
        offer.check()
    };
    assert_eq!(offer(|_| {}), Ok(identifier()));
    assert_eq!(
        offer(|offer| offer.payment_hash.push('0')),
        Err(OfferError::PaymentHash)
    );
    assert_eq!(
        offer(|offer| offer.payment_hash = "0".repeat(64)),
        Err(OfferError::Mismatch)
    );
    for invoice in ["", "ln\"bc", "ln\r\nx", &"a".repeat(5_000)] {
        let mut offer = Offer {
            payment_hash: identifier().payment_hash.to_string(),
            invoice: invoice.to_owned(),
            macaroon: token(["services=a:0"]).to_base64(),
            show_until: 0,
        };
        assert_eq!(offer.check(), Err(OfferError::Invoice));
        offer.macaroon = String::new();
        assert!(offer.check().is_err());
    }
    assert_eq!(
        offer(|offer| offer.macaroon.truncate(40)),
        Err(OfferError::Macaroon)
    );
    assert_eq!(
        offer(|offer| offer.macaroon = "-_8=".to_owned()),
        Err(OfferError::Macaroon)
    );
}

#[test]
fn nothing_secret_is_printed() {
    let macaroon = token(["services=a:0"]).to_bytes();
    let printed = format!("{:?}", Credential::of_macaroon(macaroon, Some(preimage())));
    assert_eq!(printed, "Credential { tokens: 1, has_preimage: true }");
}
