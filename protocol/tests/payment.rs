//! The Payment scheme where the vectors say nothing.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use protocol::encoding::base64url;
use protocol::hash::Preimage;
use protocol::l402;
use protocol::payment::authorization::{self, Upstream};
use protocol::payment::event::Balance;
use protocol::payment::problem::ProblemType;
use protocol::payment::receipt::{Receipt, Refund, RefundStatus};
use protocol::payment::{
    Action, CredentialError, Intent, MAX_HEADER_LEN, Outcome, Refusal, SessionCall, Target,
    credential, verify,
};
use protocol::time::UnixSeconds;

#[path = "common/payment.rs"]
mod shop;

use shop::{EXPIRES, NOW, Shop, hex, preimage, sat};

fn shop() -> Shop {
    Shop::new("weather", "api.example.com")
}

fn error(found: &authorization::Authorization) -> Option<CredentialError> {
    found.presented.as_ref().err().copied()
}

/// The preimage of a later deposit.
fn other() -> Preimage {
    Preimage::new([6; 32])
}

#[test]
fn a_charge_line_has_the_form_that_every_client_reads() {
    let shop = shop();
    let line = shop.charge().to_line();
    let names: Vec<_> = line
        .strip_prefix("Payment ")
        .unwrap()
        .split(", ")
        .map(|param| param.split_once("=\"").unwrap().0)
        .collect();
    // No description, digest or opaque, which some clients lose or misread.
    assert_eq!(
        names,
        ["id", "realm", "method", "intent", "request", "expires"]
    );
    assert!(!line.contains('\\') && line.is_ascii());
}

#[test]
fn a_challenge_with_a_long_invoice_stays_below_8_kb() {
    use protocol::payment::request::{ChargeRequest, Network};
    let shop = shop();
    let invoice = "l".repeat(protocol::api::Offer::MAX_INVOICE_LEN);
    let hash = preimage().hash();
    let request = ChargeRequest::new(sat(10), &invoice, hash, Network::Mainnet);
    let key = shop.charge.get(1).unwrap();
    let challenge = protocol::payment::Challenge::charge(key, &shop.realm, &request, EXPIRES);
    assert!(challenge.to_line().len() < 8 * 1024);
    // And what comes back can be read.
    let header = credential::encode(&challenge, &[("preimage", &hex(&preimage()))]);
    assert!(header.len() < MAX_HEADER_LEN);
    assert!(shop.judge(&header, NOW).is_ok());
}

#[test]
fn a_paid_charge_is_to_be_claimed_until_the_second_it_expires() {
    let shop = shop();
    let challenge = shop.charge();
    let header = credential::encode(&challenge, &[("preimage", &hex(&preimage()))]);
    let Ok(Outcome::Charge(charge)) = shop.judge(&header, UnixSeconds(EXPIRES.0 - 1)) else {
        panic!()
    };
    assert_eq!(charge.challenge_id, challenge.id);
    assert_eq!(charge.payment_hash, preimage().hash());
    assert_eq!((charge.amount, charge.expires), (sat(10), EXPIRES));
    assert_eq!(shop.judge(&header, EXPIRES), Err(Refusal::ChargeExpired));
}

#[test]
fn a_charge_of_another_service_or_realm_is_unknown() {
    let challenge = shop();
    let challenge = challenge.charge();
    for (service, realm, is_ours) in [
        ("weather", "api.example.com", true),
        ("maps", "api.example.com", false),
        ("weather", "other.example.com", false),
    ] {
        let judged = Shop::new(service, realm).present(&challenge);
        let expected = if is_ours {
            None
        } else {
            Some(Refusal::UnknownChallenge)
        };
        assert_eq!(judged.err(), expected, "{service} {realm}");
    }
}

#[test]
fn sessions_are_good_for_every_service_of_their_realm() {
    let (here, there) = (Shop::new("a", "r"), Shop::new("b", "r"));
    let header = credential::encode(
        &here.session(&preimage()),
        &[
            ("action", "bearer"),
            ("sessionId", &preimage().hash().to_string()),
            ("preimage", &hex(&preimage())),
        ],
    );
    assert!(there.judge(&header, NOW).is_ok());
}

#[test]
fn what_a_service_does_not_sell_is_unknown() {
    let shop = shop();
    let header = credential::encode(&shop.charge(), &[("preimage", &hex(&preimage()))]);
    let found = authorization::parse([header.as_bytes()], []);
    let presented = found.presented.ok().unwrap().unwrap();
    let target = Target {
        realm: &shop.realm,
        charge: None,
        session: Some(&shop.session),
        body: None,
        now: NOW,
    };
    let judged = verify(&presented.credential().unwrap(), &target);
    assert_eq!(judged, Err(Refusal::UnknownChallenge));
}

#[test]
fn an_intent_or_method_in_other_letters_is_not_ours() {
    let shop = shop();
    let mut challenge = shop.charge();
    challenge.intent = "Charge".into();
    assert_eq!(shop.present(&challenge), Err(Refusal::UnknownChallenge));
    challenge.method = "Lightning".into();
    assert_eq!(shop.present(&challenge), Err(Refusal::Method));
}

#[test]
fn a_description_added_on_the_way_does_no_harm() {
    let shop = shop();
    let mut challenge = shop.charge();
    challenge.description = Some("for you".into());
    assert!(shop.present(&challenge).is_ok());
    challenge.opaque = Some(String::new().into());
    assert!(
        shop.present(&challenge).is_ok(),
        "an empty slot is an absent one"
    );
    challenge.opaque = Some("e30".into());
    assert_eq!(shop.present(&challenge), Err(Refusal::UnknownChallenge));
}

fn act(shop: &Shop, deposit: &Preimage, payload: &[(&str, &str)], now: UnixSeconds) -> Outcome {
    let header = credential::encode(&shop.session(deposit), payload);
    shop.judge(&header, now).unwrap()
}

#[test]
fn session_actions_carry_what_the_ledger_needs_and_no_preimage() {
    let shop = shop();
    let (id, proof) = (preimage().hash(), hex(&preimage()));
    let session = id.to_string();
    let open = [
        ("action", "open"),
        ("preimage", &*proof),
        ("returnInvoice", "lnbcrt1secret"),
    ];
    let Outcome::Session(call) = act(&shop, &preimage(), &open, NOW) else {
        panic!()
    };
    let expected = SessionCall {
        challenge_id: shop.session(&preimage()).id.into_owned(),
        action: Action::Open {
            return_invoice: "lnbcrt1secret".to_owned(),
        },
        payment_hash: id,
        price: sat(2),
        deposit: Some(sat(40)),
        expires: EXPIRES,
    };
    assert_eq!(call, expected);
    assert_eq!((call.session_id(), call.has_own_challenge()), (id, true));
    assert!(!format!("{call:?}").contains("secret"));

    let top_up = hex(&other());
    let payload = [
        ("action", "topUp"),
        ("sessionId", &*session),
        ("topUpPreimage", &*top_up),
    ];
    let Outcome::Session(call) = act(&shop, &other(), &payload, NOW) else {
        panic!()
    };
    assert_eq!(call.action, Action::TopUp { session_id: id });
    assert_eq!(
        (call.payment_hash, call.has_own_challenge()),
        (other().hash(), false)
    );

    for (name, action) in [
        ("bearer", Action::Bearer { session_id: id }),
        ("close", Action::Close { session_id: id }),
    ] {
        let payload = [
            ("action", name),
            ("sessionId", &*session),
            ("preimage", &*proof),
        ];
        // Any challenge of the realm will do, paid or not.
        let Outcome::Session(call) = act(&shop, &other(), &payload, NOW) else {
            panic!()
        };
        assert_eq!((call.session_id(), call.action), (id, action));
    }
}

#[test]
fn after_its_expiry_a_challenge_serves_only_its_own_session_or_a_recorded_result() {
    let shop = shop();
    let (session, proof) = (preimage().hash().to_string(), hex(&preimage()));
    for name in ["bearer", "close"] {
        let payload = [
            ("action", name),
            ("sessionId", &*session),
            ("preimage", &*proof),
        ];
        let own = act(&shop, &preimage(), &payload, EXPIRES);
        assert!(matches!(own, Outcome::Session(_)), "{name}: {own:?}");
        let foreign = act(&shop, &other(), &payload, EXPIRES);
        assert!(
            matches!(foreign, Outcome::Expired(_)),
            "{name}: {foreign:?}"
        );
    }
    let open = [
        ("action", "open"),
        ("preimage", &*proof),
        ("returnInvoice", "x"),
    ];
    assert!(matches!(
        act(&shop, &preimage(), &open, EXPIRES),
        Outcome::Expired(_)
    ));
    let wrong = hex(&other());
    let open = [
        ("action", "open"),
        ("preimage", &*wrong),
        ("returnInvoice", "x"),
    ];
    let header = credential::encode(&shop.session(&preimage()), &open);
    assert_eq!(shop.judge(&header, EXPIRES), Err(Refusal::ChallengeExpired));
    assert_eq!(shop.judge(&header, NOW), Err(Refusal::Preimage));
}

#[test]
fn a_fingerprint_tells_repeated_calls_from_other_ones() {
    let shop = shop();
    let proof = hex(&preimage());
    let fingerprint = |invoice: &str, challenge: &Preimage| {
        let proof = hex(challenge);
        let open = [
            ("action", "open"),
            ("preimage", &*proof),
            ("returnInvoice", invoice),
        ];
        match act(&shop, challenge, &open, NOW) {
            Outcome::Session(call) => call.fingerprint(),
            other => panic!("{other:?}"),
        }
    };
    let first = fingerprint("a", &preimage());
    assert_eq!(fingerprint("a", &preimage()), first);
    assert_ne!(fingerprint("b", &preimage()), first);
    assert_ne!(fingerprint("a", &other()), first);
    let session = preimage().hash().to_string();
    let close = [
        ("action", "close"),
        ("sessionId", &*session),
        ("preimage", &*proof),
    ];
    let Outcome::Session(close) = act(&shop, &preimage(), &close, NOW) else {
        panic!()
    };
    assert_ne!(close.fingerprint(), first);
}

#[test]
fn payloads_of_the_wrong_form_are_malformed() {
    let shop = shop();
    let session = preimage().hash().to_string();
    let upper = session.to_uppercase();
    let proof = hex(&preimage());
    let cases: [(&[(&str, &str)], CredentialError); 8] = [
        (&[], CredentialError::Payload),
        (&[("action", "spend")], CredentialError::Action),
        (
            &[("action", "open"), ("preimage", &proof)],
            CredentialError::Payload,
        ),
        (
            &[("action", "bearer"), ("preimage", &proof)],
            CredentialError::Payload,
        ),
        (
            &[
                ("action", "bearer"),
                ("sessionId", &upper),
                ("preimage", &proof),
            ],
            CredentialError::SessionId,
        ),
        (
            &[
                ("action", "close"),
                ("sessionId", &session),
                ("preimage", "00"),
            ],
            CredentialError::Preimage,
        ),
        (
            &[
                ("action", "topUp"),
                ("sessionId", &session),
                ("preimage", &proof),
            ],
            CredentialError::Payload,
        ),
        (
            &[
                ("action", "topUp"),
                ("sessionId", "x"),
                ("topUpPreimage", &proof),
            ],
            CredentialError::SessionId,
        ),
    ];
    for (payload, error) in cases {
        let header = credential::encode(&shop.session(&preimage()), payload);
        let judged = shop.judge(&header, NOW);
        assert_eq!(judged, Err(Refusal::Credential(error)), "{payload:?}");
        let kind = Refusal::Credential(error).problem_type();
        assert_eq!(kind, Some(ProblemType::MalformedLightningCredential));
    }
}

#[test]
fn challenges_in_a_credential_must_be_whole_and_of_text() {
    for json in [
        r#"{"challenge":{},"payload":{}}"#,
        r#"{"challenge":"x","payload":{}}"#,
        r#"{"payload":{}}"#,
        r#"{"challenge":{"id":"","realm":"r","method":"m","intent":"i","request":"q"},"payload":{}}"#,
        r#"{"challenge":{"id":1,"realm":"r","method":"m","intent":"i","request":"q"},"payload":{}}"#,
        r#"{"challenge":{"id":"i","realm":"r","method":"m","intent":"i","request":{}},"payload":{}}"#,
        r#"{"challenge":{"id":"i","realm":"r","method":"m","intent":"i","request":"q","expires":null},"payload":{}}"#,
    ] {
        let error = credential::Credential::from_json(json.as_bytes()).err();
        assert_eq!(error, Some(CredentialError::Challenge), "{json}");
    }
}

#[test]
fn credentials_are_found_among_foreign_ones_and_taken_out() {
    let shop = shop();
    let ours = credential::encode(&shop.charge(), &[("preimage", &hex(&preimage()))]);
    let token = ours.strip_prefix("Payment ").unwrap();
    let cases = [
        (ours.clone(), Upstream::Removed),
        (format!("PAYMENT\t {token} "), Upstream::Removed),
        (
            format!("Bearer abc, {ours}"),
            Upstream::Replaced(b"Bearer abc".to_vec()),
        ),
        (
            format!("{ours}, Basic YTpi"),
            Upstream::Replaced(b"Basic YTpi".to_vec()),
        ),
        (
            format!(r#"Digest a="b", c=d,{ours},Basic YTpi"#),
            Upstream::Replaced(br#"Digest a="b", c=d, Basic YTpi"#.to_vec()),
        ),
    ];
    for (header, upstream) in cases {
        let found = authorization::parse([header.as_bytes()], []);
        assert_eq!(found.upstream, upstream, "{header}");
        assert!(
            found.is_ours() && shop.judge(&header, NOW).is_ok(),
            "{header}"
        );
    }
    let foreign = authorization::parse([&b"Payments abc"[..], b"L402 a:b"], []);
    assert_eq!(
        (foreign.is_ours(), foreign.upstream),
        (false, Upstream::Untouched)
    );
}

#[test]
fn both_schemes_take_their_own_from_one_header() {
    let shop = shop();
    let ours = credential::encode(&shop.charge(), &[("preimage", &hex(&preimage()))]);
    let l402 = format!("L402 AgE=:{}", "0".repeat(64));
    for header in [
        format!("{l402}, {ours}, Basic YTpi"),
        format!("{ours}, Basic YTpi, {l402}"),
    ] {
        let found = authorization::parse([header.as_bytes()], []);
        assert!(matches!(found.presented, Ok(Some(_))));
        let Upstream::Replaced(rest) = found.upstream else {
            panic!("{header}")
        };
        let found = l402::authorization::parse([rest.as_slice()]);
        assert_eq!(found.credentials.len(), 1, "{header}");
        assert_eq!(found.upstream, Upstream::Replaced(b"Basic YTpi".to_vec()));
    }
}

#[test]
fn the_other_header_takes_a_credential_with_and_without_scheme() {
    let shop = shop();
    let ours = credential::encode(&shop.charge(), &[("preimage", &hex(&preimage()))]);
    let token = ours.strip_prefix("Payment ").unwrap();
    for value in [ours.as_str(), token] {
        let found = authorization::parse([&b"Bearer abc"[..]], [value.as_bytes()]);
        assert_eq!(found.upstream, Upstream::Untouched);
        assert!(matches!(found.presented, Ok(Some(_))));
    }
    let both = authorization::parse([ours.as_bytes()], [token.as_bytes()]);
    assert_eq!(error(&both), Some(CredentialError::Several));
    for wrong in ["", "Bearer abc", "Payment"] {
        let found = authorization::parse([], [wrong.as_bytes()]);
        assert_eq!(error(&found), Some(CredentialError::Encoding), "{wrong}");
    }
}

#[test]
fn what_cannot_be_a_credential_is_malformed_and_still_taken_out() {
    let long = "A".repeat(MAX_HEADER_LEN + 4);
    for (token, expected) in [
        ("", CredentialError::Encoding),
        ("!!!", CredentialError::Encoding),
        ("abc, def=1", CredentialError::Encoding),
        ("a+b/", CredentialError::Encoding),
        (&long, CredentialError::TooLong),
    ] {
        let header = format!("Payment {token}");
        let found = authorization::parse([header.as_bytes()], []);
        assert_eq!(error(&found), Some(expected), "{token}");
        assert_eq!(found.upstream, Upstream::Removed);
    }
    let nested = base64url("{\"a\":".repeat(1_000).as_bytes());
    let refused = shop().judge(&format!("Payment {nested}"), NOW);
    assert_eq!(refused, Err(Refusal::Credential(CredentialError::NotJson)));
}

#[test]
fn every_refusal_says_its_status_and_problem() {
    use CredentialError as E;
    let cases = [
        (Refusal::Credential(E::Several), 400, None),
        (
            Refusal::Credential(E::TooLong),
            402,
            Some("lightning/malformed-credential"),
        ),
        (Refusal::Method, 400, Some("method-unsupported")),
        (
            Refusal::UnknownChallenge,
            402,
            Some("lightning/unknown-challenge"),
        ),
        (
            Refusal::ChargeExpired,
            402,
            Some("lightning/expired-invoice"),
        ),
        (
            Refusal::ChallengeExpired,
            402,
            Some("lightning/challenge-expired"),
        ),
        (Refusal::Digest, 402, Some("verification-failed")),
        (Refusal::Preimage, 402, Some("lightning/invalid-preimage")),
    ];
    for (refusal, status, kind) in cases {
        let uri = kind.map(|kind| format!("https://paymentauth.org/problems/{kind}"));
        assert_eq!(refusal.problem_type().map(ProblemType::uri), uri.as_deref());
        assert_eq!(
            (refusal.status(), refusal.problem().status()),
            (status, status)
        );
        let json = refusal.problem().to_json();
        assert!(json.contains(refusal.reason()), "{json}");
    }
}

#[test]
fn receipts_of_ours_name_their_challenge() {
    let receipt = Receipt::new("id", preimage().hash(), NOW);
    let hash = preimage().hash();
    assert_eq!(
        receipt.to_json(),
        format!(
            r#"{{"challengeId":"id","method":"lightning","reference":"{hash}","status":"success","timestamp":"2027-01-15T08:00:00Z"}}"#
        )
    );
    let refund = Refund {
        sats: 0,
        status: RefundStatus::Skipped,
    };
    let close = receipt.with_refund(refund).to_json();
    assert!(
        close.contains(r#""refundSats":0,"refundStatus":"skipped""#),
        "{close}"
    );
}

#[test]
fn an_event_of_ours_is_one_event() {
    use protocol::payment::sse::{Event, Kind, Scanner};
    let balance = Balance::new(preimage().hash(), 6, 2);
    for text in [balance.need_topup(), balance.session_timeout()] {
        let events: Vec<_> = Scanner::new().feed(text.as_bytes()).collect();
        assert_eq!(
            events,
            [Event {
                end: text.len(),
                kind: Kind::Data
            }]
        );
    }
}

#[test]
fn intents_have_one_name() {
    for intent in [Intent::Charge, Intent::Session] {
        assert_eq!(intent.to_string().parse(), Ok(intent));
    }
    assert!("subscription".parse::<Intent>().is_err());
}
