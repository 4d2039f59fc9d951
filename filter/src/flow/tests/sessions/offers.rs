//! What is offered by the session, and how often the same deposit.

use super::*;

#[test]
fn a_session_is_offered_last_with_its_price_and_a_deposit_of_its_own() {
    let mut world = World::new();
    let reply = world.asked(&Sent::get("/v1/x")).reply();
    let lines = lines(&reply);
    assert_eq!((reply.status, lines.len()), (402, 4));
    for (line, part) in lines.iter().zip([
        "LSAT macaroon=",
        "L402 macaroon=",
        "intent=\"charge\"",
        "intent=\"session\"",
    ]) {
        assert!(line.contains(part), "{line}");
    }
    let challenge = Challenge::parse_list(lines[3]).unwrap().remove(0);
    assert_eq!(&*challenge.realm, "api.example.com");
    let request = request_of(lines[3]);
    let hash = request["paymentHash"].as_str().unwrap();
    assert!(world.preimages.contains_key(hash));
    let invoice = request["depositInvoice"].as_str().unwrap();
    assert!(lines[..3].iter().all(|line| !line.contains(invoice)));
    let expected = json!({
        "amount": "2", "currency": "sat", "depositAmount": "40", "depositInvoice": invoice,
        "idleTimeout": "300", "paymentHash": hash, "unitType": "request",
    });
    assert_eq!(request, expected);
    let request = request_of(&world.challenge("/v4/x"));
    let found = (
        &request["amount"],
        &request["depositAmount"],
        &request["unitType"],
    );
    assert_eq!(found, (&json!("5"), &json!("50"), &json!("event")));
}

#[test]
fn what_a_client_accepts_is_decided_for_each_intent() {
    for (accept, intents) in [
        ("*/*", &["charge", "session"][..]),
        ("lightning/session", &["session"]),
        ("lightning/charge", &["charge"]),
        ("lightning/*, lightning/charge;q=0", &["session"]),
        ("tempo/charge", &[]),
    ] {
        let mut world = World::new();
        let sent = Sent::get("/v1/x").with("accept-payment", accept);
        let reply = world.asked(&sent).reply();
        let found: Vec<_> = lines(&reply)[2..]
            .iter()
            .map(|line| Challenge::parse_list(line).unwrap()[0].intent.to_string())
            .collect();
        assert_eq!(found, intents, "{accept}");
        // Alone it is offered all the same.
        let sent = Sent::get("/v3/x").with("accept-payment", accept);
        assert_eq!(lines(&world.asked(&sent).reply()).len(), 1, "{accept}");
    }
}

#[test]
fn who_has_a_session_sees_four_deposits_in_turn_however_often_it_asks() {
    let mut world = World::new();
    let session = world.session("/v3/x", 4_000);
    let bearer = world.bearer(&session, "/v3/x");
    let mut seen = BTreeMap::new();
    for number in 0..1_000 {
        let line = world.challenge("/v3/x");
        let hash = request_of(&line)["paymentHash"].to_string();
        *seen.entry(hash).or_insert(0) += 1;
        world.gate.now_ms += 100;
        if number % 50 == 49 {
            world.refresh();
        }
        world.asked(&bearer).spent();
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    // Others see fresh ones.
    world.gate.client = Some(IpAddr::from([192, 0, 2, 99]));
    let line = world.challenge("/v3/x");
    assert!(!seen.contains_key(&request_of(&line)["paymentHash"].to_string()));
}

#[test]
fn a_deposit_that_was_presented_or_ends_soon_is_not_shown_again() {
    let mut world = World::new();
    let session = world.session("/v3/x", 4_000);
    let shown = |world: &mut World| {
        let line = world.challenge("/v3/x");
        (request_of(&line)["paymentHash"].to_string(), line)
    };
    let first: Vec<_> = (0..4).map(|_| shown(&mut world)).collect();
    let members = [("sessionId", session.id.as_str())];
    let credential = world.paid(&first[1].1, "topUp", &members);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let (kind, _) = world.errand::<TopUpRequest>("/v1/sessions/topup");
    world.gate.respond(kind, 503, false, "");
    assert_eq!(world.due().status(), 503);
    let later: Vec<_> = (0..8).map(|_| shown(&mut world).0).collect();
    assert!(!later.contains(&first[1].0) && later.contains(&first[0].0));
    // They live for 600 s, and 300 must be left.
    world.gate.now_ms += 299_000;
    world.refresh();
    let session_is_used = world.bearer(&session, "/v3/x");
    world.asked(&session_is_used).spent();
    assert!(later.contains(&shown(&mut world).0));
    world.gate.now_ms += 2_000;
    world.refresh();
    let fresh: Vec<_> = (0..4).map(|_| shown(&mut world).0).collect();
    assert!(fresh.iter().all(|hash| !later.contains(hash)));
}

#[test]
fn a_deposit_that_opened_a_session_at_another_worker_is_not_shown_again() {
    for action in ["bearer", "close"] {
        let mut world = World::new();
        world.session("/v3/x", 4_000);
        let shown = |world: &mut World| {
            let line = world.challenge("/v3/x");
            let request = request_of(&line);
            (request["paymentHash"].as_str().unwrap().to_owned(), line)
        };
        let first: Vec<_> = (0..4).map(|_| shown(&mut world)).collect();
        // Its buyer comes from elsewhere as well.
        let (id, line) = first[2].clone();
        world.accounts.insert(id.parse().unwrap(), Account::of(400));
        world.gate.client = Some(IpAddr::from([192, 0, 2, 99]));
        let credential = world.paid(&line, action, &[("sessionId", &id)]);
        let sent = Sent::get("/v3/x").with("authorization", &credential);
        if action == "bearer" {
            world.asked(&sent).spent();
        } else {
            assert!(matches!(world.at_once(&sent), Seen::Held));
            world.errand::<CloseRequest>("/v1/sessions/close");
        }
        world.gate.client = Some(IpAddr::from([192, 0, 2, 1]));
        let later: Vec<_> = (0..8).map(|_| shown(&mut world).0).collect();
        assert!(!later.contains(&id), "{action}");
        assert!(later.contains(&first[1].0));
    }
}

#[test]
fn only_what_is_really_spent_gives_larger_limits() {
    let settings = format!(r#"{BEHIND_TLS},"clientLimits":{{"burst":2,"paidFactor":10}}"#);
    let challenges = |world: &mut World| {
        let asked = (0..30).filter(|_| world.asked(&Sent::get("/v2/x")).status() == 402);
        asked.count()
    };
    for (is_answered, more) in [(false, false), (true, true)] {
        let mut world = World::of(&settings, SERVICES);
        let (_, kind, request) = world.opening("/v3/x");
        let body = world.opened(&request, 400);
        world.gate.respond(kind, 200, true, &body);
        let spent = world.due().spent();
        if is_answered {
            let now_ms = world.gate.now_ms;
            world.gate.gate.is_earned(&spent, || now_ms);
        } else {
            world.gate.gate.give_back(&spent);
        }
        assert_eq!(challenges(&mut world) > 10, more, "{is_answered}");
    }
    // Nor does a deposit that is added, since it can be had back.
    let mut world = World::of(&settings, SERVICES);
    let (session, kind, request) = world.opening("/v3/x");
    let body = world.opened(&request, 400);
    world.gate.respond(kind, 503, false, &body);
    assert_eq!(world.due().status(), 503);
    let line = world.challenge("/v3/x");
    let members = [("sessionId", session.id.as_str())];
    let credential = world.paid(&line, "topUp", &members);
    let sent = Sent::get("/v3/x").with("authorization", &credential);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let (kind, _) = world.errand::<TopUpRequest>("/v1/sessions/topup");
    let credited = json!({"result": "credited", "at": CREDENTIAL_TIME}).to_string();
    world.gate.respond(kind, 200, true, &credited);
    assert_eq!(world.due().status(), 200);
    assert!(challenges(&mut world) < 3);
}

#[test]
fn only_what_is_fresh_counts_against_a_clients_limit() {
    let settings = format!(r#"{BEHIND_TLS},"clientLimits":{{"burst":1,"paidFactor":10}}"#);
    let mut world = World::of(&settings, SERVICES);
    world.session("/v3/x", 400);
    for _ in 0..50 {
        world.challenge("/v3/x");
    }
    let tokens = (0..20).filter(|_| world.asked(&Sent::get("/v2/x")).status() == 402);
    assert!(tokens.count() < 11);
}
