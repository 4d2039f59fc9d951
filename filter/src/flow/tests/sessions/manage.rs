//! TopUp and close: answered at any path of the realm, and never forwarded.

use super::*;

impl World {
    pub(super) fn topping_up(
        &mut self,
        session: &Session,
        path: &str,
    ) -> (String, CallKind, TopUpRequest) {
        let line = self.challenge("/v3/other");
        let members = [("sessionId", session.id.as_str())];
        let credential = self.paid(&line, "topUp", &members);
        let sent = Sent::get(path).with("authorization", &credential);
        assert!(matches!(self.at_once(&sent), Seen::Held), "{path}");
        let (kind, request) = self.errand::<TopUpRequest>("/v1/sessions/topup");
        (line, kind, request)
    }

    fn closing(&mut self, session: &Session, sent: Sent) -> (CallKind, CloseRequest) {
        let members = [
            ("sessionId", session.id.as_str()),
            ("preimage", session.preimage.as_str()),
        ];
        let credential = self.paid(&session.line, "close", &members);
        let sent = sent.with("authorization", &credential);
        assert!(matches!(self.at_once(&sent), Seen::Held), "{sent:?}");
        self.errand::<CloseRequest>("/v1/sessions/close")
    }
}

fn post(path: &str) -> Sent {
    let mut sent = Sent::get(path);
    sent.0[0].1 = b"DELETE".to_vec();
    sent
}

#[test]
fn a_top_up_is_answered_wherever_it_comes() {
    for path in [
        "/v3/x", "/v1/x", "/v2/x", "/v2/free", "/v3/cb/x", "/nowhere",
    ] {
        let mut world = World::new();
        let session = world.session("/v3/x", 40);
        let (line, kind, request) = world.topping_up(&session, path);
        assert_eq!(request.session_id.to_string(), session.id);
        let hash = request_of(&line)["paymentHash"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(request.call.payment_hash.to_string(), hash);
        assert!(!request.call.is_expired);
        let stream = world.gate.stream();
        world
            .gate
            .respond(kind, 200, true, r#"{"result":"credited","at":1800000007}"#);
        let reply = world.due().reply();
        let found = (reply.status, reply.body.as_str(), reply.note.outcome);
        assert_eq!(
            found,
            (200, r#"{"status":"ok"}"#, Outcome::ToppedUp),
            "{path}"
        );
        let control = header(&reply, "cache-control").unwrap();
        assert!(control.contains("private"), "{control}");
        let receipt = receipt_of(header(&reply, "payment-receipt").unwrap());
        assert_eq!(receipt["reference"], session.id);
        assert_eq!(receipt["timestamp"], "2027-01-15T08:00:07Z");
        assert!(receipt.get("refundSats").is_none());
        // The reply passes through the filter, which is to leave its receipt alone.
        assert_eq!(world.gate.gate.receipt_for(stream), Some(Awaited::Reply));
    }
}

#[test]
fn what_the_sidecar_says_of_a_top_up_decides() {
    for (result, status, kind) in [
        ("unsettled", 503, ""),
        ("consumed", 402, "lightning/unknown-challenge"),
        ("not-found", 402, "lightning/session-not-found"),
        ("closed", 402, "lightning/session-closed"),
        ("expired", 402, "lightning/challenge-expired"),
        ("opened", 503, ""),
    ] {
        for path in ["/v3/x", "/nowhere", "/v3/cb/x"] {
            let mut world = World::new();
            let session = world.session("/v3/x", 40);
            let (_, call, _) = world.topping_up(&session, path);
            let body = json!({"result": result, "at": 0}).to_string();
            world.gate.respond(call, 200, true, &body);
            let reply = world.due().reply();
            let may_offer = path != "/v3/cb/x";
            match status {
                402 if may_offer => {
                    assert_eq!((reply.status, problem(&reply)), (402, kind.to_owned()));
                    // Nothing but a session helps.
                    assert_eq!(lines(&reply).len(), 1, "{path}");
                    session_line(&reply);
                }
                402 => assert_eq!((reply.status, lines(&reply).len()), (401, 0)),
                _ => assert_eq!((reply.status, lines(&reply).len()), (503, 0)),
            }
        }
    }
}

#[test]
fn a_top_up_wakes_who_waits_for_it() {
    let mut world = World::new();
    let session = world.session("/v3/x", 2);
    let sent = world.bearer(&session, "/v3/x");
    let (_, kind, _) = world.topping_up(&session, "/v3/x");
    let topping_up = world.gate.stream();
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let waiting = world.gate.stream();
    world.gate.now_ms += 20;
    world.gate.gate.tick(world.gate.now());
    // The report says that nothing is left; before the answer the money comes.
    let (report, _, _, body) = world.gate.call().expect("a report");
    let request: LeasesRequest = serde_json::from_slice(&body).unwrap();
    let answers: Vec<_> = request
        .reports
        .iter()
        .map(|one| world.answer(one))
        .collect();
    assert!(answers.iter().any(|answer| answer.short));
    world.account(&session).deposited += 40;
    world
        .gate
        .respond(kind, 200, true, r#"{"result":"credited","at":1}"#);
    let body = serde_json::to_string(&world.leases_answer(answers)).unwrap();
    world.gate.respond(report, 200, true, &body);
    assert!(world.gate.gate.has_backlog());
    world.wait(20);
    let (stream, reply) = world.next_due().unwrap();
    assert_eq!((stream, reply.status()), (topping_up, 200));
    let (stream, served) = world.next_due().unwrap();
    assert_eq!(stream, waiting);
    served.spent();
}

#[test]
fn a_close_returns_the_lease_and_tells_of_the_refund() {
    for (path, cors) in [
        ("/v3/x", false),
        ("/v2/x", true),
        ("/v2/free", false),
        ("/no", true),
    ] {
        let mut world = World::new();
        let session = world.session("/v3/x", 40);
        let mut sent = post(path);
        if cors {
            sent = sent.with("origin", "https://a.example");
        }
        let (kind, request) = world.closing(&session, sent);
        let report = request.lease.expect("the lease is returned in the call");
        assert!(report.release && report.used == 2);
        // Nothing more is spent meanwhile.
        let bearer = world.bearer(&session, "/v3/x");
        assert!(matches!(world.at_once(&bearer), Seen::Held));
        let account = world.account(&session);
        account.is_closed = true;
        let lease = account.answer(&report);
        let body = json!({"result": "closed", "at": 1_800_000_009_u64, "refund_sats": 38,
                          "refund_status": "succeeded", "lease": lease});
        world.gate.respond(kind, 200, true, &body.to_string());
        let mut seen = Vec::new();
        for _ in 0..5 {
            while let Some((_, one)) = world.next_due() {
                seen.push(one.reply());
            }
            world.wait(20);
        }
        seen.sort_by_key(|reply| reply.status);
        assert_eq!(seen.len(), 2);
        assert_eq!(problem(&seen[1]), "lightning/session-closed");
        let reply = &seen[0];
        let said: Value = serde_json::from_str(&reply.body).unwrap();
        let expected = json!({"status": "closed", "refundSats": 38, "refundStatus": "succeeded"});
        assert_eq!((said, reply.note.outcome), (expected, Outcome::Closed));
        let receipt = receipt_of(header(reply, "payment-receipt").unwrap());
        let found = (
            &receipt["refundSats"],
            &receipt["refundStatus"],
            &receipt["timestamp"],
        );
        let at = json!("2027-01-15T08:00:09Z");
        assert_eq!(found, (&json!(38), &json!("succeeded"), &at));
        let exposed = header(reply, "access-control-expose-headers");
        assert_eq!(
            exposed.is_some_and(|names| names.contains("Payment-Receipt")),
            cors
        );
        // Closed for good.
        let reply = world.asked(&bearer).reply();
        assert_eq!(problem(&reply), "lightning/session-closed");
        assert!(world.gate.gate.state.sessions.leases.is_empty());
    }
}

#[test]
fn what_the_sidecar_says_of_a_close_decides() {
    for (body, status, kind) in [
        (
            r#"{"result":"not-found","at":0}"#,
            402,
            "lightning/session-not-found",
        ),
        (
            r#"{"result":"already-closed","at":0}"#,
            402,
            "lightning/session-closed",
        ),
        (
            r#"{"result":"consumed","at":0}"#,
            402,
            "lightning/unknown-challenge",
        ),
        (
            r#"{"result":"expired","at":0}"#,
            402,
            "lightning/challenge-expired",
        ),
        (
            r#"{"result":"closed","at":1,"refund_sats":1,"refund_status":"perhaps"}"#,
            503,
            "",
        ),
        (
            r#"{"result":"closed","at":1,"refund_status":"failed"}"#,
            503,
            "",
        ),
        ("", 503, ""),
    ] {
        let mut world = World::new();
        let session = world.session("/v3/x", 40);
        let (call, _) = world.closing(&session, Sent::get("/v3/x"));
        world.gate.respond(call, 200, true, body);
        let reply = world.due().reply();
        assert_eq!(reply.status, status, "{body}");
        if status == 402 {
            assert_eq!((problem(&reply), lines(&reply).len()), (kind.to_owned(), 1));
        }
    }
}

#[test]
fn a_close_is_waited_for_longer_than_other_calls() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let members = [
        ("sessionId", session.id.as_str()),
        ("preimage", session.preimage.as_str()),
    ];
    let credential = world.paid(&session.line, "close", &members);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let call = world.gate.gate.next_call().unwrap();
    assert_eq!(
        (call.timeout_ms, call.cluster.as_str()),
        (9_000, "boltgate")
    );
    world.wait(9_200);
    assert!(world.gate.gate.next_due().is_none());
    world.wait(60);
    assert_eq!(world.next_due().unwrap().1.status(), 503);
}

#[test]
fn expired_calls_go_to_the_sidecar_as_such() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let line = world.challenge("/v3/x");
    world.gate.now_ms += 600_000;
    world.refresh();
    let members = [("sessionId", session.id.as_str())];
    let credential = world.paid(&line, "topUp", &members);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let (_, request) = world.errand::<TopUpRequest>("/v1/sessions/topup");
    assert!(request.call.is_expired);
    let (_, request) = world.closing(&session, Sent::get("/v3/x"));
    assert!(request.call.is_expired && request.lease.is_none());
}

#[test]
fn nothing_that_is_meant_for_the_realm_is_forwarded_good_or_bad() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let token = world.gate.token("tokens", None);
    let close = world.paid(
        &session.line,
        "close",
        &[("sessionId", session.id.as_str())],
    );
    let zeros = "00".repeat(32);
    let faults = [
        world.paid(&session.line, "close", &[]),
        world.paid(&session.line, "topUp", &[("sessionId", "x")]),
        world.paid(
            &session.line,
            "close",
            &[("preimage", zeros.as_str()), ("sessionId", zeros.as_str())],
        ),
        world.paid(&session.line.replace("lightning", "tempo"), "close", &[]),
    ];
    for path in ["/v2/free", "/v2/x", "/nowhere", "/v3/x"] {
        for (at, fault) in faults.iter().enumerate() {
            let sent = Sent::get(path)
                .with("authorization", &token)
                .with("payment-authorization", fault);
            let reply = world.asked(&sent).reply();
            let expected = if at == 3 { 400 } else { 402 };
            assert_eq!(
                (reply.status, reply.note.outcome),
                (expected, Outcome::Refused),
                "{path}"
            );
        }
        let twice = Sent::get(path)
            .with("authorization", &close)
            .with("payment-authorization", &close);
        assert_eq!(world.asked(&twice).status(), 400, "{path}");
    }
    // A preflight asks for nothing, and other hosts are none of our business.
    let preflight = Sent::raw(&[
        (":method", "OPTIONS"),
        (":path", "/v2/free"),
        (":authority", "api.example.com"),
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("authorization", &close),
    ]);
    assert_eq!(world.asked(&preflight).status(), 204);
    let foreign = Sent::get("/v3/x")
        .host("other.example")
        .with("authorization", &close);
    assert!(matches!(world.asked(&foreign), Seen::Forwarded(_)));
    // A bearer is no business of free and unsold paths: it is taken out and forgotten.
    let bearer = world.bearer(&session, "/v2/free");
    let Seen::Forwarded(note) = world.asked(&bearer) else {
        panic!("free")
    };
    assert_eq!((note.outcome, note.admitted), (Outcome::Free, None));
}

#[test]
fn grpc_clients_are_answered_in_their_way() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let grpc = |sent: Sent| sent.with("content-type", "application/grpc");
    let (kind, _) = world.closing(&session, grpc(Sent::get("/v3/x")));
    let body = r#"{"result":"closed","at":1,"refund_sats":0,"refund_status":"skipped"}"#;
    world.gate.respond(kind, 200, true, body);
    let reply = world.due().reply();
    assert_eq!((reply.status, reply.grpc_status), (200, Some(0)));
    assert!(header(&reply, "payment-receipt").is_some());
    let sent = grpc(world.bearer(&session, "/v3/x"));
    let reply = world.asked(&sent).reply();
    assert_eq!((reply.status, reply.grpc_status), (200, Some(13)));
    session_line(&reply);
}

#[test]
fn who_calls_in_vain_again_and_again_is_slowed_down() {
    let settings = format!(r#"{BEHIND_TLS},"clientLimits":{{"burst":5}}"#);
    let mut world = World::of(&settings, SERVICES);
    let line = world.challenge("/v3/x");
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let preimage = world.preimage();
        let session = Session {
            id: preimage.hash().to_string(),
            preimage: hex_encode(preimage.expose()),
            line: line.clone(),
        };
        let members = [
            ("sessionId", session.id.as_str()),
            ("preimage", session.preimage.as_str()),
        ];
        let credential = world.paid(&line, "close", &members);
        let sent = Sent::get("/v2/x").with("authorization", &credential);
        statuses.push(match world.at_once(&sent) {
            Seen::Held => {
                let (kind, _) = world.errand::<CloseRequest>("/v1/sessions/close");
                world
                    .gate
                    .respond(kind, 200, true, r#"{"result":"not-found","at":0}"#);
                world.due().status()
            }
            seen => seen.status(),
        });
    }
    assert_eq!(statuses, [402, 402, 402, 402, 429, 429, 429, 429]);
}
