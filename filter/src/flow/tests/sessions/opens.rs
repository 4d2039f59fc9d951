//! The deposit that begins a session.

use super::*;

#[test]
fn an_open_is_sent_with_a_lease_and_its_request_is_forwarded_for_the_first_unit() {
    for (path, name, price, unit) in [
        ("/v3/x", "cheap", 2, protocol::policy::Unit::Request),
        ("/v4/x", "dear", 5, protocol::policy::Unit::Event),
    ] {
        let mut world = World::new();
        let (session, kind, request) = world.opening(path);
        assert_eq!(
            (request.service.as_str(), request.price.get()),
            (name, price)
        );
        assert_eq!(request.return_invoice, RETURN);
        assert_eq!(
            (request.idle_timeout_seconds, request.call.is_expired),
            (300, false)
        );
        assert_eq!(request.call.fingerprint.len(), 64);
        let lease = &request.lease;
        assert_eq!((lease.used, lease.need, lease.price), (0, price, price));
        assert!(
            world.gate.gate.next_due().is_none(),
            "nothing is forwarded yet"
        );
        let body = world.opened(&request, 40);
        world.gate.respond(kind, 200, true, &body);
        let spent = world.due().spent();
        assert_eq!(
            (spent.session_id(), spent.price().get()),
            (session.id.as_str(), price)
        );
        assert_eq!(spent.unit(), unit);
        let admission = Admission::Session(spent);
        let fields: Vec<_> = admission.trusted_fields().collect();
        let expected = [
            ("x-boltgate-service", name),
            ("x-boltgate-scheme", "session"),
            ("x-boltgate-session-id", session.id.as_str()),
        ];
        assert_eq!(fields, expected);
        let receipt = receipt_of(&admission.receipt().unwrap());
        assert_eq!(receipt["reference"], session.id);
        assert_eq!(receipt["challengeId"], request.call.challenge_id);
        assert_eq!(receipt["timestamp"], "2027-01-15T08:00:01Z");
        assert!(!receipt.to_string().contains(&session.preimage));
        // What it spent is reported.
        world.wait(2_500);
        assert_eq!(world.account(&session).spent, price);
    }
}

#[test]
fn what_the_sidecar_says_of_an_open_decides() {
    let unknown = "lightning/unknown-challenge";
    for (result, status, kind) in [
        ("unsettled", 503, ""),
        ("whatever", 503, ""),
        ("consumed", 402, unknown),
        ("closed", 402, "lightning/session-closed"),
        ("expired", 402, "lightning/challenge-expired"),
        (
            "invalid-return-invoice",
            402,
            "lightning/invalid-return-invoice",
        ),
        ("too-little", 402, "lightning/insufficient-balance"),
    ] {
        let mut world = World::new();
        let (_, call, _) = world.opening("/v3/x");
        let body = json!({"result": result, "at": 0, "reason": "it has an amount"}).to_string();
        world.gate.respond(call, 200, true, &body);
        let reply = world.due().reply();
        assert_eq!(reply.status, status, "{result}");
        assert_eq!(lines(&reply).len(), usize::from(status == 402), "{result}");
        if status == 402 {
            assert_eq!(problem(&reply), kind);
            let has_words = reply.body.contains("it has an amount");
            assert_eq!(has_words, result == "invalid-return-invoice");
        } else {
            assert!(header(&reply, "retry-after").is_some());
        }
    }
}

#[test]
fn an_open_whose_answer_is_lost_is_safe_to_repeat() {
    for (status, is_marked, body) in [
        (503, true, "{}"),
        (504, false, ""),
        (0, false, ""),
        (200, false, r#"{"result":"opened","at":1}"#),
        (200, true, ""),
    ] {
        let mut world = World::new();
        let (session, kind, request) = world.opening("/v3/x");
        // The ledger has done it all the same.
        world.opened(&request, 40);
        world.gate.respond(kind, status, is_marked, body);
        let reply = world.due().reply();
        assert_eq!((reply.status, lines(&reply).len()), (503, 0));
        // What it granted is returned.
        world.wait(100);
        assert_eq!(world.account(&session).free(), 40);
        let credential = world.paid(&session.line, "open", &[("returnInvoice", RETURN)]);
        let sent = Sent::get("/v3/x").with("authorization", &credential);
        assert!(matches!(world.at_once(&sent), Seen::Held));
        let (kind, again) = world.errand::<OpenRequest>("/v1/sessions/open");
        assert_eq!(again.call.fingerprint, request.call.fingerprint);
        assert_ne!(again.lease.holder, request.lease.holder);
        let body = world.opened(&again, 40);
        world.gate.respond(kind, 200, true, &body);
        world.due().spent();
    }
}

#[test]
fn a_repeated_open_is_a_bearer_that_begins_no_lease_and_costs_a_look_up() {
    let limits = r#""clientLimits":{"burst":6,"paidFactor":1}"#;
    let mut world = World::of(&format!("{BEHIND_TLS},{limits}"), SERVICES);
    let session = world.session("/v3/x", 400);
    let credential = world.paid(&session.line, "open", &[("returnInvoice", RETURN)]);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(match world.at_once(&sent) {
            Seen::Held => {
                let (kind, request) = world.errand::<OpenRequest>("/v1/sessions/open");
                let body = world.opened(&request, 400);
                world.gate.respond(kind, 200, true, &body);
                let spent = world.due().spent();
                assert_eq!(spent.at.0, CREDENTIAL_TIME + 1, "when it was opened");
                200
            }
            seen => seen.status(),
        });
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 429, 429]);
    world.wait(100);
    let account = world.account(&session);
    assert_eq!((account.holders.len(), account.spent), (1, 7 * 2));
    // Bearers go on.
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
}

#[test]
fn an_open_that_takes_too_long_is_answered_once() {
    let mut world = World::new();
    let (session, kind, request) = world.opening("/v3/x");
    let stream = world.gate.stream();
    assert!(world.gate.gate.holds(stream));
    let body = world.opened(&request, 40);
    world.wait(3_300);
    assert_eq!(world.next_due().unwrap().1.status(), 503);
    world.gate.respond(kind, 200, true, &body);
    assert!(world.gate.gate.next_due().is_none() && !world.gate.gate.holds(stream));
    world.wait(100);
    assert_eq!(world.account(&session).free(), 40);
}

#[test]
fn an_open_of_a_session_that_is_spent_is_told_so() {
    let mut world = World::new();
    let session = world.session("/v3/x", 2);
    let credential = world.paid(&session.line, "open", &[("returnInvoice", RETURN)]);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let (kind, request) = world.errand::<OpenRequest>("/v1/sessions/open");
    let body = world.opened(&request, 2);
    world.gate.respond(kind, 200, true, &body);
    let reply = world.due().reply();
    assert_eq!(problem(&reply), "lightning/insufficient-balance");
    assert_eq!(lines(&reply).len(), 1);
}

#[test]
fn a_late_open_goes_to_the_sidecar_and_spends_only_at_a_price_of_the_service() {
    for (path, is_served) in [("/v3/x", true), ("/v4/x", false)] {
        let mut world = World::new();
        let line = world.challenge("/v3/x");
        world.gate.now_ms += 600_000;
        world.refresh();
        let credential = world.paid(&line, "open", &[("returnInvoice", RETURN)]);
        let sent = Sent::get(path).with("authorization", &credential);
        assert!(matches!(world.at_once(&sent), Seen::Held));
        let (kind, request) = world.errand::<OpenRequest>("/v1/sessions/open");
        assert!(request.call.is_expired);
        let body = world.opened(&request, 40);
        world.gate.respond(kind, 200, true, &body);
        let seen = world.due();
        if is_served {
            assert_eq!(seen.spent().price().get(), 2);
        } else {
            let reply = seen.reply();
            assert_eq!(problem(&reply), "lightning/unknown-challenge");
        }
    }
    // In time it is not taken for another price at all.
    let mut world = World::new();
    let line = world.challenge("/v3/x");
    let credential = world.paid(&line, "open", &[("returnInvoice", RETURN)]);
    let sent = Sent::get("/v4/x").with("authorization", &credential);
    let reply = world.asked(&sent).reply();
    assert_eq!(problem(&reply), "lightning/unknown-challenge");
}

#[test]
fn each_fault_of_a_session_credential_has_its_answer() {
    let none: &[(&str, &str)] = &[];
    let zeros = "00".repeat(32);
    let wrong = [("preimage", zeros.as_str()), ("returnInvoice", RETURN)];
    let malformed = "lightning/malformed-credential";
    for (action, members, kind) in [
        ("open", none, malformed),
        ("open", &wrong[..], "lightning/invalid-preimage"),
        ("bearer", none, malformed),
        ("bearer", &[("sessionId", "XX")][..], malformed),
        (
            "bearer",
            &[("sessionId", zeros.as_str())][..],
            "lightning/invalid-preimage",
        ),
        (
            "close",
            &[("sessionId", zeros.as_str())][..],
            "lightning/invalid-preimage",
        ),
        ("topUp", none, malformed),
        ("dance", none, malformed),
    ] {
        let mut world = World::new();
        let line = world.challenge("/v3/x");
        let credential = world.paid(&line, action, members);
        let sent = Sent::get("/v3/x").with("authorization", &credential);
        let reply = world.asked(&sent).reply();
        assert_eq!(
            (reply.status, problem(&reply)),
            (402, kind.to_owned()),
            "{action}"
        );
        assert_eq!(
            (lines(&reply).len(), reply.note.outcome),
            (1, Outcome::Refused)
        );
    }
    let mut world = World::new();
    let line = world.challenge("/v3/x");
    let altered = line.replace("realm=\"api.example.com\"", "realm=\"other\"");
    let credential = world.paid(&altered, "open", &[("returnInvoice", RETURN)]);
    let reply = world.asked(&Sent::get("/v3/x").with("authorization", &credential));
    assert_eq!(problem(&reply.reply()), "lightning/unknown-challenge");
    let method = line.replace("method=\"lightning\"", "method=\"tempo\"");
    let credential = world.paid(&method, "open", &[("returnInvoice", RETURN)]);
    let reply = world.asked(&Sent::get("/v3/x").with("authorization", &credential));
    let reply = reply.reply();
    assert_eq!(
        (reply.status, problem(&reply)),
        (400, "method-unsupported".to_owned())
    );
    let good = world.paid(&line, "open", &[("returnInvoice", RETURN)]);
    let twice = Sent::get("/v3/x")
        .with("authorization", &good)
        .with("payment-authorization", &good);
    assert_eq!(world.asked(&twice).status(), 400);
}

#[test]
fn without_tls_sessions_are_neither_sold_nor_taken() {
    let mut world = World::of(r#""payment":{"realm":"api.example.com"}"#, SERVICES);
    let https = |sent: Sent| sent.with(":scheme", "https");
    let reply = world.asked(&https(Sent::get("/v3/x"))).reply();
    let line = session_line(&reply);
    for (action, members) in [
        ("open", &[("returnInvoice", RETURN)][..]),
        ("close", &[("sessionId", "00")][..]),
    ] {
        let credential = world.paid(&line, action, members);
        let sent = Sent::get("/v3/x").with("authorization", &credential);
        let reply = world.asked(&sent).reply();
        assert_eq!((reply.status, reply.note.outcome), (403, Outcome::Insecure));
    }
    assert_eq!(world.asked(&Sent::get("/v3/x")).status(), 403);
    assert_eq!(lines(&world.asked(&Sent::get("/v1/x")).reply()).len(), 2);
}
