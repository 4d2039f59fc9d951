//! The claim: of all who present one payment, one is forwarded.

use protocol::api::charge::MAX_CLAIMS;

use super::*;

#[test]
fn what_the_sidecar_says_of_a_claim_decides() {
    for (status, is_marked, body, seen, is_abandoned) in [
        (200, true, r#"{"claims":["busy"]}"#, 503, false),
        (200, true, r#"{"claims":["unsettled"]}"#, 503, false),
        (200, true, r#"{"claims":["maybe"]}"#, 503, true),
        (200, true, r#"{"claims":[]}"#, 503, true),
        (200, true, r#"{"claims":["won","won"]}"#, 503, true),
        (200, true, r#"{"claims":[true]}"#, 503, true),
        (200, true, "", 503, true),
        (200, false, r#"{"claims":["won"]}"#, 503, true),
        (503, true, r#"{"claims":["won"]}"#, 503, true),
        (401, true, "", 503, true),
        (504, false, "", 503, true),
        (0, false, "", 503, true),
    ] {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
        gate.respond(kind, status, is_marked, body);
        let reply = gate.due_reply();
        let what = format!("{status} {is_marked} {body}");
        assert_eq!(
            (reply.status, reply.note.outcome),
            (seen, Outcome::Unavailable),
            "{what}"
        );
        assert!(
            lines(&reply).is_empty() && header(&reply, "retry-after").is_some(),
            "{what}"
        );
        let told = gate.abandoned().map(|(_, names)| names);
        assert_eq!(told, is_abandoned.then(|| vec![claim.attempt]), "{what}");
        // The same credential is tried again under another name.
        let (again, second) = gate.presented(&with_payment("/v1/x", &credential));
        assert_ne!(told.unwrap_or_default(), [second.attempt]);
        gate.respond(again, 200, true, r#"{"claims":["won"]}"#);
        gate.due_forward();
    }
}

#[test]
fn a_lost_claim_is_402_with_a_fresh_offer() {
    let mut gate = gate();
    let (credential, id) = gate.bought("/v3/x");
    let (kind, _) = gate.presented(&with_payment("/v3/x", &credential));
    gate.respond(kind, 200, true, r#"{"claims":["lost"]}"#);
    let reply = match gate.gate.next_due() {
        Some(due) => match gate.gate.answer(due) {
            Some(Decision::Reply(reply)) => *reply,
            other => panic!("{other:?}"),
        },
        None => {
            gate.sell();
            gate.due_reply()
        }
    };
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let [line] = lines(&reply)[..] else {
        panic!("one challenge")
    };
    assert_ne!(Challenge::parse_list(line).unwrap()[0].id, id);
    assert!(gate.abandoned().is_none(), "it is lost for good");
}

#[test]
fn an_answer_too_late_is_no_answer_and_the_attempt_is_abandoned_until_heard() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let (claim_call, claim) = gate.presented(&with_payment("/v1/x", &credential));
    gate.now_ms += 3_250;
    let (kind, names) = gate.abandoned().unwrap();
    assert_eq!(names, std::slice::from_ref(&claim.attempt));
    assert_eq!(gate.due_statuses(), [503]);
    gate.respond(claim_call, 200, true, r#"{"claims":["won"]}"#);
    assert!(gate.gate.next_due().is_none(), "decided once");
    // One batch at a time, again after each failure, and never after it was heard.
    assert!(gate.abandoned().is_none());
    gate.respond(kind, 503, false, "");
    for _ in 0..3 {
        let (kind, names) = gate.abandoned().unwrap();
        assert_eq!(names, std::slice::from_ref(&claim.attempt));
        gate.respond(kind, 200, false, "{}");
    }
    let (lost, _) = gate.abandoned().unwrap();
    gate.now_ms += 6_001;
    let (kind, _) = gate.abandoned().unwrap();
    gate.respond(lost, 200, true, "{}");
    gate.respond(kind, 200, true, "{}");
    assert!(gate.abandoned().is_none());
}

#[test]
fn a_claim_that_was_won_in_vain_is_abandoned() {
    for is_gone in [true, false] {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
        gate.respond(kind, 200, true, r#"{"claims":["won"]}"#);
        let due = gate.gate.next_due().unwrap();
        let stream = due.stream;
        if is_gone {
            gate.gate.gone(due);
        } else {
            let Some(Decision::Forward { note, .. }) = gate.gate.answer(due) else {
                panic!("to be forwarded")
            };
            gate.gate.not_forwarded(stream, &note);
        }
        assert!(gate.gate.receipt_for(stream).is_none());
        assert_eq!(gate.abandoned().unwrap().1, [claim.attempt]);
    }
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
    let stream = gate.stream();
    assert!(gate.gate.holds(stream));
    gate.gate.let_go(stream);
    gate.respond(kind, 200, true, r#"{"claims":["won"]}"#);
    assert!(gate.gate.next_due().is_none());
    assert_eq!(gate.abandoned().unwrap().1, [claim.attempt]);
}

#[test]
fn a_new_configuration_goes_on_abandoning() {
    let mut old = gate();
    let (credential, _) = old.bought("/v1/x");
    let (kind, claim) = old.presented(&with_payment("/v1/x", &credential));
    old.respond(kind, 500, true, "");
    let mut new = Fixture::of(BEHIND_TLS, SERVICES);
    new.gate.inherit(&old.gate, old.now());
    assert_eq!(new.abandoned().unwrap().1, [claim.attempt]);
    new.presented(&with_payment("/v1/x", &credential));
}

#[test]
fn a_refusal_of_ours_comes_before_the_claim() {
    let mut full = gate_of(&format!(r#"{BEHIND_TLS},"maxWaiting":1"#));
    let (credential, _) = full.bought("/v1/x");
    let (_, _) = full.presented(&with_payment("/v1/x", &credential));
    let reply = full.reply(&with_payment("/v1/x", &credential));
    assert_eq!((reply.status, full.call()), (503, None));

    let mut old = gate();
    let (credential, _) = old.bought("/v1/x");
    old.now_ms += 60_001;
    let reply = old.reply(&with_payment("/v1/x", &credential));
    assert_eq!(
        (reply.status, old.call()),
        (503, None),
        "keys of unknown age"
    );
}

#[test]
fn the_stream_that_was_paid_for_has_one_receipt() {
    let mut gate = gate();
    let (credential, id) = gate.bought("/v1/x");
    let sent = with_payment("/v1/x", &credential).with("origin", "https://a.example");
    let (kind, claim) = gate.presented(&sent);
    let stream = gate.stream();
    gate.respond(kind, 200, true, r#"{"claims":["won"]}"#);
    gate.due_forward();
    assert!(gate.gate.gives_receipts() && gate.gate.receipt_for(stream + 1).is_none());
    assert_eq!(gate.gate.next_request(), Some(stream));
    let Some(Awaited::Paid(claimed)) = gate.gate.receipt_for(stream) else {
        panic!("a receipt is awaited")
    };
    assert!(claimed.is_for_browser());
    let receipt: Value =
        serde_json::from_slice(&base64url_decode(claimed.receipt().unwrap()).unwrap()).unwrap();
    assert_eq!(receipt["reference"], claim.payment_hash.to_string());
    assert_eq!(
        (&receipt["challengeId"], &receipt["status"]),
        (&json!(id), &json!("success"))
    );
    let preimage = hex_encode(Preimage::new([1; 32]).expose());
    assert!(!receipt.to_string().contains(&preimage));
    assert!(gate.gate.receipt_for(stream).is_none(), "once");
    assert_eq!(gate.gate.next_request(), None);
}

#[test]
fn a_paid_charge_is_claimed_once_and_forwarded_with_its_trusted_fields() {
    for (path, name, is_settled) in [("/v1/x", "both", false), ("/v3/x", "charges", true)] {
        let mut gate = gate();
        let (credential, id) = gate.bought(path);
        let (kind, claim) = gate.presented(&with_payment(path, &credential));
        assert_eq!((claim.service.as_str(), claim.settled), (name, is_settled));
        assert_eq!(
            (claim.amount.get(), claim.expires),
            (10, CREDENTIAL_TIME + 600)
        );
        assert_eq!((claim.attempt.len(), claim.challenge_id == id), (32, true));
        assert!(
            gate.gate.next_due().is_none(),
            "nothing is decided before the answer"
        );
        gate.respond(kind, 200, true, r#"{"claims":["won"]}"#);
        let note = gate.due_forward();
        assert_eq!(note.outcome, Outcome::Paid);
        let admitted = note.admitted.unwrap();
        let hash = claim.payment_hash.to_string();
        let fields: Vec<_> = admitted.trusted_fields().collect();
        assert_eq!(
            fields,
            [
                ("x-boltgate-service", name),
                ("x-boltgate-scheme", "charge"),
                ("x-boltgate-payment-hash", hash.as_str()),
            ]
        );
        assert!(gate.abandoned().is_none());
    }
}

/// That many credentials for a path.
fn several(gate: &mut Fixture, path: &str, count: usize) -> Vec<Sent> {
    let bought = (0..count).map(|_| with_payment(path, &gate.bought(path).0));
    let bought = bought.collect();
    gate.sell();
    bought
}

#[test]
fn claims_that_come_while_a_call_is_under_way_share_the_next() {
    let mut gate = gate();
    let requests = several(&mut gate, "/v1/x", 4);
    let (first, _) = gate.presented(&requests[0]);
    let mut streams = vec![];
    for request in &requests[1..] {
        gate.held(request);
        streams.push(gate.stream());
        assert!(gate.call().is_none() && gate.gate.has_backlog());
    }
    // One of them has gone before anybody was asked.
    gate.gate.let_go(streams[1]);
    gate.respond(first, 503, true, "");
    assert_eq!(gate.due_statuses(), [503]);
    let (second, claims) = gate.claims().unwrap();
    assert!(gate.call().is_none() && !gate.gate.has_backlog());
    assert_eq!(claims.len(), 2);
    assert_ne!(claims[0].payment_hash, claims[1].payment_hash);
    gate.respond(second, 200, true, r#"{"claims":["busy","won"]}"#);
    let refused = gate.gate.next_due().unwrap();
    assert_eq!(refused.stream, streams[0]);
    let Some(Decision::Reply(reply)) = gate.gate.answer(refused) else {
        panic!("to be refused")
    };
    assert_eq!(reply.status, 503);
    let due = gate.gate.next_due().unwrap();
    assert_eq!(due.stream, streams[2]);
    let Some(Decision::Forward { note, .. }) = gate.gate.answer(due) else {
        panic!("to be forwarded")
    };
    let hash = claims[1].payment_hash.to_string();
    let mut fields = note.admitted.as_ref().unwrap().trusted_fields();
    assert!(fields.any(|(_, value)| value == hash));
    // The first, of which nobody knows, and the one that has gone.
    assert_eq!(gate.abandoned().unwrap().1.len(), 2);
}

#[test]
fn a_call_that_fails_is_no_answer_to_any_of_its_claims() {
    for (status, is_marked, body) in [
        (200, true, r#"{"claims":["won"]}"#),
        (200, false, r#"{"claims":["won","won"]}"#),
        (503, true, r#"{"claims":["won","won"]}"#),
        (504, false, ""),
    ] {
        let mut gate = gate();
        let requests = several(&mut gate, "/v1/x", 3);
        let (first, _) = gate.presented(&requests[0]);
        requests[1..].iter().for_each(|request| gate.held(request));
        gate.respond(first, 200, true, r#"{"claims":["won"]}"#);
        gate.due_forward();
        let (second, claims) = gate.claims().unwrap();
        gate.respond(second, status, is_marked, body);
        assert_eq!(gate.due_statuses(), [503, 503], "{status} {body}");
        let names: Vec<_> = claims.into_iter().map(|claim| claim.attempt).collect();
        assert_eq!(gate.abandoned().unwrap().1, names);
    }
}

#[test]
fn a_slow_call_keeps_no_claim_waiting() {
    let mut gate = gate();
    let requests = several(&mut gate, "/v1/x", 3);
    let (slow, _) = gate.presented(&requests[0]);
    gate.held(&requests[1]);
    gate.now_ms += 19;
    gate.gate.tick(gate.now());
    assert!(gate.call().is_none());
    gate.now_ms += 1;
    gate.gate.tick(gate.now());
    let (quick, claims) = gate.claims().unwrap();
    assert_eq!(claims.len(), 1);
    gate.respond(quick, 200, true, r#"{"claims":["won"]}"#);
    gate.due_forward();
    // The slow one alone keeps nobody waiting either.
    let (third, _) = gate.presented(&requests[2]);
    gate.respond(third, 200, true, r#"{"claims":["won"]}"#);
    gate.due_forward();
    gate.respond(slow, 200, true, r#"{"claims":["won"]}"#);
    gate.due_forward();
    assert!(gate.abandoned().is_none());
}

#[test]
fn a_call_has_at_most_as_many_claims_as_are_read() {
    let mut gate = gate_of(&format!(
        r#"{BEHIND_TLS},"clientLimits":{{"challengesPerMinute":60000,"burst":60000}}"#
    ));
    let requests = several(&mut gate, "/v1/x", MAX_CLAIMS + 2);
    let (first, _) = gate.presented(&requests[0]);
    let mut full = None;
    for request in &requests[1..] {
        gate.held(request);
        full = full.or_else(|| gate.claims());
    }
    let (full, claims) = full.expect("a call that is full need not wait");
    assert_eq!(claims.len(), MAX_CLAIMS);
    assert!(gate.call().is_none());
    let all = json!({ "claims": vec!["won"; MAX_CLAIMS] }).to_string();
    gate.respond(full, 200, true, &all);
    for _ in 0..MAX_CLAIMS {
        gate.due_forward();
    }
    assert!(gate.call().is_none(), "the first is still under way");
    gate.respond(first, 200, true, r#"{"claims":["won"]}"#);
    let (_, claims) = gate.claims().unwrap();
    assert_eq!(claims.len(), 1);
}

#[test]
fn a_claim_for_which_the_node_is_asked_keeps_no_other_waiting() {
    let mut gate = gate();
    let settled = several(&mut gate, "/v3/x", 2);
    let others = several(&mut gate, "/v1/x", 2);
    for request in &settled {
        let (_, claim) = gate.presented(request);
        assert!(claim.settled);
    }
    let (_, claim) = gate.presented(&others[0]);
    assert!(!claim.settled);
    gate.held(&others[1]);
    assert!(gate.call().is_none());
}

#[test]
fn what_a_gate_that_is_gone_has_claimed_is_abandoned_by_its_heir() {
    let mut old = gate();
    let requests = several(&mut old, "/v1/x", 3);
    let (won, first) = old.presented(&requests[0]);
    old.held(&requests[1]);
    old.respond(won, 200, true, r#"{"claims":["won"]}"#);
    assert!(old.gate.has_backlog(), "the first waits for its turn");
    let (_, second) = old.claims().unwrap();
    old.held(&requests[2]);
    let mut heir = gate();
    assert!(heir.gate.absorb(old.gate).is_none());
    let told = heir.abandoned().unwrap().1;
    assert_eq!(told.len(), 3);
    for claim in [first, second.into_iter().next().unwrap()] {
        assert!(told.contains(&claim.attempt));
    }
}

#[test]
fn what_several_gates_have_to_say_is_inherited_once() {
    let mut old = gate();
    let (credential, _) = old.bought("/v1/x");
    let (kind, claim) = old.presented(&with_payment("/v1/x", &credential));
    old.respond(kind, 500, true, "");
    let mut new = gate();
    new.gate.inherit(&old.gate, new.now());
    let mut newest = gate();
    for other in [&old, &new] {
        newest.gate.inherit(&other.gate, newest.now());
    }
    assert_eq!(newest.abandoned().unwrap().1, [claim.attempt]);
}
