//! What holds for all inputs.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::encoding::{base64_decode_lenient, base64_std, hex_decode_into, hex_encode};
use protocol::hash::PaymentHash;
use protocol::http::auth::{Challenge, Value};
use protocol::l402::{Credential, Identifier, Target, TokenId, authorization, metadata, verify};
use protocol::macaroon::{Macaroon, MacaroonBuf};
use protocol::policy::PluginConfig;
use protocol::time::UnixSeconds;

#[path = "common/token.rs"]
mod token;

use token::{NOW, check, keys, preimage, token};

/// Caveats that mean something for service `a` and capability `c`.
fn caveat() -> impl Strategy<Value = String> {
    let service = prop_oneof![Just("a:0"), Just("a:1"), Just("b:0"), Just("b")];
    let capability = prop_oneof![Just("c"), Just("d"), Just("e"), Just("")];
    let number = prop_oneof![0_u64..4, Just(NOW.0), NOW.0 + 1..NOW.0 + 4];
    prop_oneof![
        4 => vec(service, 1..4).prop_map(|list| format!("services={}", list.join(","))),
        2 => vec(capability, 1..4).prop_map(|list| format!("a_capabilities={}", list.join(","))),
        2 => number.clone().prop_map(|end| format!("a_valid_until={end}")),
        2 => number.prop_map(|most| format!("c_volume={most}")),
        1 => "[a-z=_:,0-9]{0,12}",
    ]
}

proptest! {
    // A failure prints its input, to be kept as an ordinary test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn encodings_come_back(bytes in vec(any::<u8>(), 0..200)) {
        let mut back = Vec::new();
        hex_decode_into(hex_encode(&bytes).as_bytes(), &mut back).unwrap();
        prop_assert_eq!(&back, &bytes);
        let text = base64_std(&bytes);
        let url_safe = text.replace('+', "-").replace('/', "_");
        for form in [&*text, &*url_safe, text.trim_end_matches('='), url_safe.trim_end_matches('=')] {
            prop_assert_eq!(base64_decode_lenient(form).unwrap(), bytes.clone());
        }
    }

    #[test]
    fn identifiers_come_back(hash in any::<[u8; 32]>(), id in any::<[u8; 32]>()) {
        let identifier = Identifier { payment_hash: PaymentHash(hash), token_id: TokenId(id) };
        prop_assert_eq!(Identifier::parse(&identifier.to_bytes()), Ok(identifier));
    }

    #[test]
    fn macaroons_come_back(
        root_key in vec(any::<u8>(), 0..100),
        location in vec(any::<u8>(), 0..40),
        identifier in vec(any::<u8>(), 0..300),
        caveats in vec(vec(any::<u8>(), 0..300), 0..10),
    ) {
        let mut macaroon = MacaroonBuf::new(&root_key, &location, &identifier);
        for caveat in &caveats {
            macaroon.add(caveat);
        }
        let bytes = macaroon.to_bytes();
        let read = Macaroon::parse(&bytes).unwrap();
        prop_assert_eq!(read.location(), &location);
        prop_assert_eq!(read.identifier(), &identifier);
        prop_assert_eq!(read.caveats().collect::<Vec<_>>(), caveats);
        prop_assert!(read.is_signed_with(&root_key));
        prop_assert!(MacaroonBuf::from(&read).to_bytes() == bytes);
    }

    #[test]
    fn bytes_that_are_a_macaroon_are_its_only_form(bytes in vec(any::<u8>(), 0..120)) {
        if let Ok(read) = Macaroon::parse(&bytes) {
            let written = MacaroonBuf::from(&read).to_bytes();
            // An empty location may be written or left out.
            prop_assert!(written == bytes || bytes.starts_with(&[2, 1, 0]));
        }
    }

    #[test]
    fn any_single_changed_bit_is_refused(
        caveats in vec("[ -~]{0,30}", 0..4),
        position in any::<prop::sample::Index>(),
    ) {
        let caveats = ["services=a:0".to_owned()].into_iter().chain(caveats);
        let mut bytes = token(caveats).to_bytes();
        let bit = position.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let credential = Credential::of_macaroon(bytes, Some(preimage()));
        let target = Target { service: "a", capability: None, now: NOW };
        prop_assert!(verify(&credential, &keys(), |_| false, &target).is_err());
    }

    /// Whatever is refused stays refused when more caveats are added, for every target. Each of
    /// our tokens is minted with a `services` caveat.
    #[test]
    fn attenuation_never_widens(
        services in "services=(a:0|a:0,b:0|b:0|a:1)",
        minted in vec(caveat(), 0..5),
        added in vec(caveat(), 1..5),
    ) {
        let before = token([services].iter().chain(&minted));
        let mut after = before.clone();
        for caveat in &added {
            after.add(caveat.as_bytes());
        }
        for service in ["a", "b"] {
            for capability in [None, Some("c"), Some("d"), Some("e")] {
                let Ok(wide) = check(&before, service, capability) else {
                    prop_assert!(check(&after, service, capability).is_err());
                    continue;
                };
                if let Ok(narrow) = check(&after, service, capability) {
                    let end = |end: Option<UnixSeconds>| end.unwrap_or(UnixSeconds(u64::MAX));
                    prop_assert!(end(narrow.valid_until) <= end(wide.valid_until));
                    prop_assert_eq!(narrow.tier, wide.tier);
                    prop_assert_eq!(narrow.token_id, wide.token_id);
                }
            }
        }
    }

    #[test]
    fn a_credential_is_found_among_foreign_ones(
        before in vec("[A-Za-z]{1,8} [A-Za-z0-9+/]{1,20}={0,2}", 0..3),
        after in vec("Digest [a-z]{1,5}=\"[^\"\\\\\\x00-\\x1f]{0,20}\", [a-z]{1,5} = [a-z0-9]{1,5}", 0..3),
        scheme in "[lL]402|[lL][sS][aA][tT]",
        blanks in " {1,4}",
        comma in " {0,2},[ \t]{0,2}",
    ) {
        let is_ours = |one: &String| {
            ["l402 ", "lsat "].iter().any(|name| one.to_ascii_lowercase().starts_with(name))
        };
        prop_assume!(!before.iter().any(is_ours));
        let macaroon = token(["services=a:0"]).to_base64();
        let credential = format!("{scheme}{blanks}{macaroon}:{}", hex_encode(preimage().expose()));
        let all: Vec<_> =
            before.iter().chain([&credential]).chain(&after).map(String::as_str).collect();
        let found = authorization::parse([all.join(&comma).as_bytes()]);
        prop_assert_eq!(found.credentials.len(), 1);
        prop_assert_eq!(found.malformed, None);
        // What is not ours stays as it was, commas included.
        let rest = [before.join(&comma), after.join(&comma)];
        let rest: Vec<_> = rest.iter().filter(|part| !part.is_empty()).cloned().collect();
        let rest = rest.join(", ");
        let expected = if rest.is_empty() {
            authorization::Upstream::Removed
        } else {
            authorization::Upstream::Replaced(rest.into_bytes())
        };
        prop_assert_eq!(found.upstream, expected);
    }

    #[test]
    fn challenges_come_back(
        scheme in "[A-Za-z][A-Za-z0-9]{0,8}",
        values in vec("[ -~\t]{0,30}", 0..5),
    ) {
        let names: Vec<_> = (0..values.len()).map(|index| format!("p{index}")).collect();
        let params = names.iter().map(String::as_str).zip(values.iter().map(|value| value.into()));
        let challenge = Challenge { scheme: &scheme, value: Value::Params(params.collect()) };
        let text = challenge.to_string();
        prop_assert_eq!(Challenge::parse_one(&text), Ok(challenge.clone()));
        let twice = format!("{text}, {text}");
        prop_assert_eq!(Challenge::parse_list(&twice), Ok(vec![challenge.clone(), challenge]));
    }

    #[test]
    fn no_parser_panics(bytes in vec(any::<u8>(), 0..400), text in "\\PC{0,200}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let _ = Macaroon::parse(input);
            let _ = Identifier::parse(input);
            let _ = PluginConfig::from_json(input);
            let _ = authorization::parse([input]);
            for name in metadata::NAMES {
                let _ = metadata::parse(name, input);
            }
            let _ = base64_decode_lenient(input);
        }
        let _ = Challenge::parse_list(&text);
    }

    /// Nearly a credential, which random bytes never are.
    #[test]
    fn no_credential_is_left_to_the_upstream(
        parts in vec("(L402|LSAT|Basic|a=|\"|:|,| |\\\\|AgE=|[0-9a-f]{64}){1,6}", 1..6),
    ) {
        let value = parts.join(", ");
        let found = authorization::parse([value.as_bytes()]);
        if let authorization::Upstream::Replaced(rest) = found.upstream {
            let again = authorization::parse([rest.as_slice()]);
            prop_assert!(!again.is_ours(), "{} left in {:?}", value, String::from_utf8(rest));
        }
    }
}

#[test]
fn every_changed_bit_of_one_token_is_refused() {
    let bytes = token(["services=a:0", "a_valid_until=1900000000"]).to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let credential = Credential::of_macaroon(changed, Some(preimage()));
        let target = Target {
            service: "a",
            capability: None,
            now: NOW,
        };
        assert!(
            verify(&credential, &keys(), |_| false, &target).is_err(),
            "bit {bit}"
        );
    }
}
