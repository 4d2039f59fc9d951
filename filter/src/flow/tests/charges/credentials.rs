//! Credentials that pay for a charge, and what is wrong with others.

use super::*;

#[test]
fn every_form_in_which_a_credential_comes_is_taken_and_removed() {
    for form in 0..5 {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let sent = match form {
            0 => Sent::get("/v1/x").with("authorization", &format!("payment  {credential}")),
            1 => Sent::get("/v1/x").with("payment-authorization", &credential),
            2 => Sent::get("/v1/x").with("payment-authorization", &format!("Payment {credential}")),
            3 => Sent::get("/v1/x").with(
                "authorization",
                &format!("Basic YTpi, Payment {credential}"),
            ),
            _ => Sent::get("/v1/x")
                .with("authorization", "L402 nonsense")
                .with("authorization", &format!("Payment {credential}")),
        };
        gate.presented(&sent);
    }
}

#[test]
fn credentials_are_taken_out_where_nothing_is_sold_by_them() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let payment = format!("Payment {credential}");
    for sent in [
        Sent::get("/v1/health"),
        Sent::get("/v1/health").host("other.example"),
    ] {
        for sent in [
            sent.clone().with("authorization", &payment),
            sent.clone().with("payment-authorization", &credential),
            sent.clone()
                .with("authorization", &format!("Bearer x, {payment}")),
            sent.with("authorization", "L402 a:b")
                .with("authorization", &payment),
        ] {
            let forwarded = gate.forwarded(&sent);
            for name in &forwarded.names {
                let value = forwarded.value(name).unwrap();
                assert!(!value.contains(&credential), "{sent:?}");
            }
        }
    }
    let fields = [
        ("authorization", payment.as_str()),
        ("payment-authorization", "x"),
    ];
    let bytes = Sent::raw(&fields).encoded();
    let edits = trailers(&crate::pairs::Pairs::parse(&bytes).unwrap());
    assert!(apply(&Sent::raw(&fields), &edits).is_empty());
}

#[test]
fn a_good_token_is_used_before_a_charge_is() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let token = gate.token("both", None);
    for _ in 0..2 {
        let sent = Sent::get("/v1/x")
            .with("authorization", &token)
            .with("payment-authorization", &credential);
        let forwarded = gate.forwarded(&sent);
        assert_eq!(forwarded.value("payment-authorization"), None);
        let scheme = forwarded
            .note
            .admitted
            .as_ref()
            .unwrap()
            .trusted_fields()
            .nth(1);
        assert_eq!(scheme, Some(("x-boltgate-scheme", "l402")));
    }
    assert!(gate.call().is_none(), "nothing is claimed");
}

#[test]
fn each_fault_of_a_credential_has_its_answer() {
    let of = |change: fn(&mut Value)| Some(change);
    for (what, change, status, kind) in [
        (
            "id",
            of(|c| c["challenge"]["id"] = json!("x")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "request",
            of(|c| c["challenge"]["request"] = json!("e30")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "realm",
            of(|c| c["challenge"]["realm"] = json!("other")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "session",
            of(|c| c["challenge"]["intent"] = json!("session")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "method",
            of(|c| c["challenge"]["method"] = json!("tempo")),
            400,
            "method-unsupported",
        ),
        (
            "preimage",
            of(|c| c["payload"]["preimage"] = json!("00".repeat(32))),
            402,
            "lightning/invalid-preimage",
        ),
        (
            "payload",
            of(|c| c["payload"] = json!(7)),
            402,
            "lightning/malformed-credential",
        ),
        ("text", None, 402, "lightning/malformed-credential"),
    ] {
        let mut gate = gate();
        let offer = gate.challenged(&Sent::get("/v3/x"));
        let credential = match change {
            Some(change) => credential_for(lines(&offer)[0], change).0,
            None => "%%%".to_owned(),
        };
        let reply = gate.challenged(&with_payment("/v3/x", &credential));
        let found = (reply.status, problem(&reply), reply.note.outcome);
        assert_eq!(found, (status, kind.to_owned(), Outcome::Refused), "{what}");
        assert_eq!(lines(&reply).len(), usize::from(status == 402), "{what}");
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    }
}

#[test]
fn two_credentials_are_400_whatever_they_are() {
    let mut gate = gate();
    let (one, _) = gate.bought("/v1/x");
    let (other, _) = gate.bought("/v1/x");
    let token = gate.token("both", None);
    for sent in [
        with_payment("/v1/x", &one).with("payment-authorization", &other),
        with_payment("/v1/x", &one).with("authorization", &format!("Payment {other}")),
        Sent::get("/v1/x").with("authorization", &format!("Payment {one}, Payment {other}")),
        with_payment("/v1/x", "x")
            .with("payment-authorization", "y")
            .with("authorization", &token),
    ] {
        let reply = gate.reply(&sent);
        assert_eq!((reply.status, lines(&reply).len()), (400, 0), "{sent:?}");
    }
    assert!(gate.abandoned().is_none());
}

#[test]
fn a_charge_expires_and_belongs_to_one_service() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let reply = gate.challenged(&with_payment("/v3/x", &credential));
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let reply = gate.challenged(&with_payment("/v2/x", &credential));
    assert_eq!((reply.status, lines(&reply).len()), (402, 2));
    assert!(
        reply
            .body
            .contains("not sold by this authentication scheme"),
        "{}",
        reply.body
    );
    let token = gate.token("charges", None);
    let reply = gate.challenged(&Sent::get("/v3/x").with("authorization", &token));
    assert_eq!((reply.status, lines(&reply).len()), (402, 1));
    gate.now_ms += 600_000;
    gate.bootstrap();
    let (kind, ..) = match gate.request(&with_payment("/v1/x", &credential)) {
        Decision::Hold => gate.call().unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(kind, CallKind::Offers { .. }));
}

#[test]
fn a_key_that_we_may_have_missed_is_a_fault_of_ours_also_for_charges() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v3/x");
    gate.install_keys(&[(7, [9; 32])]);
    let sent = with_payment("/v3/x", &credential);
    gate.now_ms += 10_001;
    assert_eq!(gate.reply(&sent).status, 503);
    gate.install_keys(&[(7, [9; 32])]);
    assert_eq!(gate.challenged(&sent).status, 402);
}

#[test]
fn a_challenge_outlives_the_rotation_of_its_key() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    gate.install_keys(&[(2, [8; 32]), (1, KEY)]);
    let (kind, _) = gate.presented(&with_payment("/v1/x", &credential));
    gate.respond(kind, 200, true, r#"{"claims":["won"]}"#);
    let (newer, _) = gate.bought("/v1/x");
    gate.install_keys(&[(2, [8; 32])]);
    gate.presented(&with_payment("/v1/x", &newer));
}

#[test]
fn where_no_invoice_may_be_made_a_charge_is_good_and_its_lack_is_401() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v3/x");
    let reply = gate.reply(&Sent::get("/v3/cb/x"));
    assert_eq!((reply.status, lines(&reply).len()), (401, 0));
    let (kind, _) = gate.presented(&with_payment("/v3/cb/x", &credential));
    gate.respond(kind, 200, true, r#"{"claims":["lost"]}"#);
    let reply = gate.due_reply();
    assert_eq!((reply.status, lines(&reply).len()), (401, 0));
    assert!(reply.body.contains("already used"), "{}", reply.body);
}
