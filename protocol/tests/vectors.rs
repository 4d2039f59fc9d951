//! Every case of `vectors/l402.json`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use protocol::encoding::{base64_decode_lenient, hex_encode};
use protocol::hash::Preimage;
use protocol::http::auth::Challenge;
use protocol::keys::{L402Key, RootKey};
use protocol::l402::{
    Credential, Identifier, RootKeys, Target, TokenId, authorization, challenge, metadata, verify,
};
use protocol::macaroon::{Chain, Macaroon, MacaroonBuf, derive_key};
use protocol::time::UnixSeconds;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/l402.json")).unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

fn bytes(hex: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    protocol::encoding::hex_decode_into(hex.as_bytes(), &mut bytes).unwrap();
    bytes
}

fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn field_lengths_are_written_and_read_as_varints() {
    let all = vectors();
    let cases = list(&all, "varint");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let length = usize::try_from(case["n"].as_u64().unwrap()).unwrap();
        let location = vec![b'x'; length];
        let written = MacaroonBuf::new(b"root", &location, b"id").to_bytes();
        assert_eq!(Macaroon::parse(&written).unwrap().location(), location);
        if length > 0 {
            let head = format!("0201{}", text(case, "hex"));
            assert!(hex_encode(&written).starts_with(&head), "{length}");
        }
    }
}

#[test]
fn root_keys_are_derived_as_every_library_does() {
    let all = vectors();
    let cases = list(&all, "key_derivation");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let derived = derive_key(&bytes(text(case, "root_key")));
        assert_eq!(hex_encode(&derived), text(case, "derived_key"));
    }
}

#[test]
fn identifiers_are_read_and_written() {
    let all = vectors();
    let cases = list(&all, "identifiers");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let identifier = Identifier {
            payment_hash: text(case, "payment_hash").parse().unwrap(),
            token_id: text(case, "token_id").parse::<TokenId>().unwrap(),
        };
        assert_eq!(hex_encode(&identifier.to_bytes()), text(case, "hex"));
        assert_eq!(Identifier::parse(&identifier.to_bytes()), Ok(identifier));
        assert_eq!(
            hex_encode(&identifier.hash()),
            text(case, "lookup_key_sha256")
        );
    }
}

#[test]
fn macaroons_are_made_byte_for_byte_and_read_back() {
    let all = vectors();
    let cases = list(&all, "macaroons");
    assert_eq!(cases.len(), 10);
    for case in cases {
        let name = text(case, "name");
        let root_key = bytes(text(case, "root_key"));
        let identifier = bytes(text(case, "identifier"));
        let chain = list(case, "signature_chain");
        let mut macaroon =
            MacaroonBuf::new(&root_key, text(case, "location").as_bytes(), &identifier);
        let mut signature = Chain::start(&root_key, &identifier);
        assert_eq!(
            hex_encode(signature.signature()),
            chain[0].as_str().unwrap(),
            "{name}"
        );
        for (index, caveat) in list(case, "caveats").iter().enumerate() {
            let caveat = caveat.as_str().unwrap().as_bytes();
            macaroon.add(caveat);
            signature.add(caveat);
            let expected = chain[index + 1].as_str().unwrap();
            assert_eq!(hex_encode(signature.signature()), expected, "{name}");
        }
        let written = macaroon.to_bytes();
        assert_eq!(hex_encode(&written), text(case, "v2_hex"), "{name}");
        assert_eq!(macaroon.to_base64(), text(case, "base64_std"), "{name}");
        for form in ["base64_std", "base64_url_nopad"] {
            assert_eq!(
                base64_decode_lenient(text(case, form)).unwrap(),
                written,
                "{name}"
            );
        }
        let read = Macaroon::parse(&written).unwrap();
        let caveats: Vec<_> = read.caveats().map(utf8).collect();
        assert_eq!(caveats, list(case, "caveats"), "{name}");
        assert_eq!(read.identifier(), identifier, "{name}");
        assert!(read.is_signed_with(&root_key), "{name}");
        assert!(MacaroonBuf::from(&read).to_bytes() == written, "{name}");
    }
}

#[test]
fn the_printed_examples_of_the_specification_are_corrected() {
    let all = vectors();
    let errata = &all["spec_errata"];
    assert!(Macaroon::parse(&bytes(text(errata, "v2_layout_prose_hex"))).is_err());
    assert!(Macaroon::parse(&bytes(text(errata, "v2_layout_libraries_hex"))).is_ok());
    let inputs = &errata["worked_example_inputs"];
    let identifier = text(inputs, "identifier").as_bytes();
    let mut chain = Chain::start(&bytes(text(inputs, "root_key")), identifier);
    let mut signatures = vec![hex_encode(chain.signature())];
    for caveat in list(inputs, "caveats") {
        chain.add(caveat.as_str().unwrap().as_bytes());
        signatures.push(hex_encode(chain.signature()));
    }
    assert_eq!(
        signatures,
        list(errata, "signatures_with_key_derivation (libraries)")
    );
}

/// Root keys by `sha256(identifier)`, as the cases give them.
struct Table(BTreeMap<String, String>);

impl RootKeys for Table {
    fn root_key(&self, identifier: &Identifier) -> Option<RootKey> {
        let hex = self.0.get(&hex_encode(&identifier.hash()))?;
        Some(RootKey::new(protocol::encoding::hex_decode(hex).unwrap()))
    }
}

#[test]
fn all_39_credentials_get_the_stated_verdict() {
    let all = vectors();
    let section = &all["verify"];
    let keys =
        Table(serde_json::from_value(section["root_keys_by_identifier_sha256"].clone()).unwrap());
    let cases = list(section, "cases");
    assert_eq!(cases.len(), 39);
    for case in cases {
        let name = text(case, "name");
        let token = base64_decode_lenient(text(case, "token_base64")).unwrap();
        let preimage = case["preimage_in_header"]
            .as_str()
            .map(|hex| Preimage::from_hex(hex).unwrap());
        let target = Target {
            service: text(case, "service"),
            capability: case["capability"].as_str(),
            now: UnixSeconds(case["now_unix"].as_u64().unwrap()),
        };
        // A key that is gone and an entry in the deny list come to the same.
        let verdict = verify(
            &Credential::of_macaroon(token, preimage),
            &keys,
            |_| false,
            &target,
        );
        let reason = verdict.err().map(|refusal| refusal.reason());
        assert_eq!(reason, case["reason"].as_str(), "{name}");
        assert_eq!(verdict.is_ok(), case["accept"].as_bool().unwrap(), "{name}");
    }
}

#[test]
fn all_14_authorization_headers_are_read_as_stated() {
    let all = vectors();
    let cases = list(&all, "authorization");
    assert_eq!(cases.len(), 14);
    for case in cases {
        let name = text(case, "name");
        let value = text(case, "value");
        let found = authorization::parse([value.as_bytes()]);
        assert_eq!(
            !found.credentials.is_empty(),
            case["ok"].as_bool().unwrap(),
            "{name}"
        );
        let is_foreign = name == "other scheme";
        assert_eq!(found.is_ours(), !is_foreign, "{name}");
        assert_eq!(
            found.upstream == authorization::Upstream::Untouched,
            is_foreign,
            "{name}"
        );
        let empty = Vec::new();
        let expected = case["credentials"].as_array().unwrap_or(&empty);
        assert_eq!(found.credentials.len(), expected.len(), "{name}");
        for (found, expected) in found.credentials.iter().zip(expected) {
            let tokens: Vec<_> = found.tokens().map(hex_encode).collect();
            assert_eq!(tokens, list(expected, "tokens_hex"), "{name}");
            let preimage = hex_encode(found.preimage().unwrap().expose());
            assert_eq!(preimage, text(expected, "preimage"), "{name}");
        }
    }
}

#[test]
fn challenge_lines_are_the_forms_that_clients_parse() {
    let all = vectors();
    let section = &all["challenge_headers"];
    let (token, invoice) = (text(section, "token"), text(section, "invoice"));
    let form = |name: &str| {
        list(section, "forms")
            .iter()
            .find(|form| form["name"] == name)
            .unwrap()
            .clone()
    };
    let (lsat, both) = (form("lsat"), form("both names"));
    assert_eq!(challenge::lsat_line(token, invoice), text(&lsat, "value"));
    assert_eq!(challenge::l402_line(token, invoice), text(&both, "value"));
    for client in [
        "Aperture client (regex)",
        "lnget (regex)",
        "Alby js-lightning-tools (by name)",
    ] {
        assert_eq!(lsat["accepted_by"][client], true, "{client}");
        assert_eq!(both["accepted_by"][client], true, "{client}");
    }
}

#[test]
fn all_challenge_forms_are_read_by_the_rfc_9110_grammar() {
    let all = vectors();
    let section = &all["challenge_headers"];
    let forms = list(section, "forms");
    assert_eq!(forms.len(), 5);
    for form in forms {
        let read = Challenge::parse_one(text(form, "value")).unwrap();
        assert!(read.is("L402") || read.is("lsat"));
        let token = read.param("macaroon").or_else(|| read.param("token"));
        assert_eq!(token, section["token"].as_str(), "{form}");
        assert_eq!(read.param("invoice"), section["invoice"].as_str(), "{form}");
    }
}

#[test]
fn grpc_metadata_of_every_name_is_accepted_and_the_challenge_is_ours() {
    let all = vectors();
    let grpc = &all["grpc"];
    let keys = Table(
        serde_json::from_value(all["verify"]["root_keys_by_identifier_sha256"].clone()).unwrap(),
    );
    let legacy = list(grpc, "legacy_request_metadata").iter();
    let requests: Vec<_> = legacy.chain([&grpc["request_metadata"]]).collect();
    assert_eq!(requests.len(), metadata::NAMES.len());
    for request in requests {
        for (name, value) in request.as_object().unwrap() {
            assert!(metadata::NAMES.contains(&name.as_str()), "{name}");
            let value = value.as_str().unwrap().as_bytes();
            let metadata::Metadata::Ours(credential) = metadata::parse(name, value) else {
                panic!("{name} is not read");
            };
            let target = Target {
                service: "weather",
                capability: None,
                now: UnixSeconds(1_773_576_000),
            };
            assert!(
                verify(&credential, &keys, |_| false, &target).is_ok(),
                "{name}"
            );
        }
    }
    let section = &all["challenge_headers"];
    let (token, invoice) = (text(section, "token"), text(section, "invoice"));
    let lines = [
        challenge::lsat_line(token, invoice),
        challenge::l402_line(token, invoice),
    ];
    assert_eq!(
        lines.as_slice(),
        list(&grpc["challenge"], "www-authenticate")
    );
}

#[test]
fn the_root_key_of_a_token_is_derived_from_the_master() {
    let all = vectors();
    let case = &all["derived_root_key_option"];
    // The vector's master is our `L402Key`: one derivation lies between it and the real master.
    let key: L402Key = text(case, "master").parse().unwrap();
    let identifier = Identifier::parse(&bytes(text(case, "identifier"))).unwrap();
    assert_eq!(
        hex_encode(key.root_key(&identifier).expose()),
        text(case, "root_key")
    );
}
