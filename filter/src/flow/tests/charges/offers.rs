//! What is offered by the charge, and what is not.

use super::*;

#[test]
fn tokens_and_charges_are_offered_in_order_each_with_its_own_invoice() {
    let mut gate = gate();
    let reply = gate.challenged(&Sent::get("/v1/x").with("origin", "https://a.example"));
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "payment-required".to_owned())
    );
    let lines = lines(&reply);
    let starts = ["LSAT macaroon=\"", "L402 macaroon=\"", "Payment id=\""];
    assert_eq!(lines.len(), 3);
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let challenge = Challenge::parse_list(lines[2]).unwrap().remove(0);
    assert_eq!(
        (&*challenge.realm, &*challenge.method),
        ("api.example.com", "lightning")
    );
    assert_eq!(&*challenge.intent, "charge");
    assert!(challenge.opaque.is_none() && challenge.digest.is_none());
    let request: Value =
        serde_json::from_slice(&base64url_decode(&*challenge.request).unwrap()).unwrap();
    assert_eq!(
        (&request["amount"], &request["currency"]),
        (&json!("10"), &json!("sat"))
    );
    let invoice = request["methodDetails"]["invoice"].as_str().unwrap();
    assert!(!lines[0].contains(invoice) && !lines[1].contains(invoice));
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    let exposed = header(&reply, "access-control-expose-headers").unwrap();
    assert!(exposed.contains("Payment-Receipt"), "{exposed}");
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["price_sats"], 10);
    assert!(lines[1].contains(body["invoice"].as_str().unwrap()));
}

#[test]
fn a_service_offers_what_it_sells_and_nothing_else() {
    let mut gate = gate();
    for (path, schemes) in [("/v2/x", &["LSAT", "L402"][..]), ("/v3/x", &["Payment"])] {
        let reply = gate.challenged(&Sent::get(path));
        let found: Vec<_> = lines(&reply)
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(found, schemes, "{path}");
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body.get("macaroon").is_some(), path == "/v2/x");
    }
    let grpc = Sent::get("/v3/x").with("content-type", "application/grpc");
    let reply = gate.challenged(&grpc);
    assert_eq!((reply.status, reply.grpc_status), (200, Some(13)));
    assert_eq!(lines(&reply).len(), 1);
}

#[test]
fn a_stocked_challenge_is_one_local_reply_and_shown_once() {
    let mut gate = gate();
    gate.challenged(&Sent::get("/v1/x"));
    gate.gate.tick(gate.now());
    gate.sell();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let reply = gate.reply(&Sent::get("/v1/x"));
        assert!(seen.insert(lines(&reply)[2].to_owned()));
    }
}

#[test]
fn what_a_client_does_not_accept_is_not_taken_from_stock() {
    for (accept, count) in [
        ("lightning/charge", 3),
        ("*/*", 3),
        ("nonsense", 3),
        ("lightning/session", 2),
        ("lightning/charge;q=0", 2),
        ("tempo/charge", 2),
    ] {
        let mut gate = gate();
        let sent = Sent::get("/v1/x").with("accept-payment", accept);
        assert_eq!(lines(&gate.challenged(&sent)).len(), count, "{accept}");
        // Alone it is offered all the same: a 402 needs a challenge.
        let sent = Sent::get("/v3/x").with("accept-payment", accept);
        assert_eq!(lines(&gate.challenged(&sent)).len(), 1, "{accept}");
    }
    let mut gate = gate();
    let sent = Sent::get("/v1/x").with("accept-payment", "lightning/session");
    assert_eq!(gate.request(&sent), Decision::Hold);
    let (_, _, path, _) = gate.call().unwrap();
    assert_eq!((path.as_str(), gate.call()), ("/v1/offers", None));
}

#[test]
fn without_tls_nothing_is_sold_by_the_payment_scheme() {
    let mut gate = gate_of(TLS_HERE);
    let secure = |sent: Sent| sent.with(":scheme", "https");
    let plain = |sent: Sent| sent.with(":scheme", "http");
    let reply = gate.challenged(&secure(Sent::get("/v1/x")));
    let (credential, _) = credential_for(lines(&reply)[2], |_| {});
    assert_eq!(lines(&gate.challenged(&plain(Sent::get("/v1/x")))).len(), 2);
    for sent in [
        plain(Sent::get("/v3/x")),
        Sent::get("/v3/x"),
        plain(with_payment("/v1/x", &credential)),
        plain(with_payment("/v3/x", "nonsense")),
    ] {
        let reply = gate.reply(&sent);
        let found = (reply.status, reply.note.outcome, lines(&reply).len());
        assert_eq!(found, (403, Outcome::Insecure, 0), "{sent:?}");
    }
    gate.presented(&secure(with_payment("/v1/x", &credential)));
}

#[test]
fn a_refusal_to_make_offers_is_passed_on_for_charges_too() {
    let mut gate = gate();
    assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold);
    let (tokens, ..) = gate.call().unwrap();
    let (charges, ..) = gate.call().unwrap();
    gate.offers(tokens, 1);
    assert!(gate.gate.next_due().is_none(), "both are wanted");
    gate.respond(charges, 429, true, "{}");
    assert_eq!(gate.due_statuses(), [429]);
    // The offer that nobody saw is there still.
    let sent = Sent::get("/v1/x").with("accept-payment", "lightning/session");
    assert_eq!(gate.reply(&sent).status, 402);
}

#[test]
fn offers_that_cannot_be_made_into_a_challenge_are_no_offers() {
    for offer in [
        json!({"payment_hash": "00", "invoice": "lnbcrt1x", "show_until": u64::MAX, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lntb1x", "show_until": 1, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lnbcrt1x\"", "show_until": 1, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lnbcrt1x", "show_until": 1}),
    ] {
        let mut gate = gate();
        assert_eq!(gate.request(&Sent::get("/v3/x")), Decision::Hold);
        let (kind, ..) = gate.call().unwrap();
        gate.respond(kind, 200, true, &json!({ "offers": [offer] }).to_string());
        assert_eq!(gate.due_statuses(), [503]);
    }
}
