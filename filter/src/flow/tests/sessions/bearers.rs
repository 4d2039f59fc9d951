//! Requests that a session pays for.

use super::*;

#[test]
fn a_bearer_is_forwarded_at_once_while_there_are_units_here() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    for again in 0..30 {
        let stream = world.gate.stream() + 1;
        let spent = match world.at_once(&sent) {
            Seen::Held => world.due().spent(),
            seen => seen.spent(),
        };
        let Some(Awaited::Paid(paid)) = world.gate.gate.receipt_for(stream) else {
            panic!("a receipt is awaited")
        };
        let receipt = receipt_of(&paid.receipt().unwrap());
        assert_eq!(
            (&*spent.tag.name, &receipt["reference"]),
            ("cheap", &json!(session.id))
        );
        assert!(world.gate.gate.receipt_for(stream).is_none());
        // Browsers are told which header they may read.
        assert!(!paid.is_for_browser(), "{again}");
        world.wait(100);
    }
    assert_eq!(world.account(&session).spent, 62);
    let sent = sent.with("origin", "https://a.example");
    assert!(Admission::Session(world.asked(&sent).spent()).is_for_browser());
}

#[test]
fn every_form_in_which_a_bearer_comes_is_taken_and_removed() {
    let mut world = World::new();
    let session = world.session("/v1/x", 400);
    let Sent(fields) = world.bearer(&session, "/v1/x");
    let credential = String::from_utf8(fields[3].1.clone()).unwrap();
    let token = world.gate.token("tokens", None);
    for sent in [
        Sent::get("/v1/x").with("payment-authorization", &credential),
        Sent::get("/v1/x").with("payment-authorization", &credential[8..]),
        Sent::get("/v1/x").with("authorization", &format!("Basic YTpi, {credential}")),
        Sent::get("/v1/x")
            .with("authorization", &token)
            .with("payment-authorization", &credential),
        Sent::get("/v1/x").with("authorization", &credential.replace("Payment", "payment")),
    ] {
        world.asked(&sent).spent();
    }
    // A token that is good here costs the session nothing.
    let token = world.gate.token("all", None);
    let sent = Sent::get("/v1/x")
        .with("authorization", &token)
        .with("payment-authorization", &credential);
    let Seen::Forwarded(note) = world.asked(&sent) else {
        panic!("paid for by the token")
    };
    assert!(matches!(note.admitted, Some(Admission::Token(_))));
}

#[test]
fn a_burst_is_served_after_two_answers() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    let burst: Vec<_> = (0..64).map(|_| world.at_once(&sent).status()).collect();
    let mut served = burst.iter().filter(|status| **status == 200).count();
    for _ in 0..2 {
        world.wait(20);
        while let Some((_, seen)) = world.next_due() {
            seen.spent();
            served += 1;
        }
    }
    assert_eq!(served, 64);
}

#[test]
fn who_waits_is_served_in_order_as_far_as_the_money_goes() {
    let mut world = World::new();
    let session = world.session("/v3/x", 22);
    let sent = world.bearer(&session, "/v3/x");
    let first = world.gate.stream() + 1;
    let at_once: Vec<_> = (0..16).map(|_| world.at_once(&sent).status()).collect();
    let mut seen: Vec<_> = at_once
        .iter()
        .zip(first..)
        .filter(|(status, _)| **status != 0)
        .map(|(status, stream)| (stream, *status))
        .collect();
    assert!(world.gate.gate.has_backlog());
    for _ in 0..10 {
        while let Some((stream, one)) = world.next_due() {
            if let Seen::Reply(reply) = &one {
                assert_eq!(problem(reply), "lightning/insufficient-balance");
                assert_eq!(lines(reply).len(), 1);
            }
            seen.push((stream, one.status()));
        }
        world.wait(20);
    }
    let expected: Vec<_> = (first..)
        .zip([[200; 10].as_slice(), &[402; 6]].concat())
        .collect();
    assert_eq!(seen, expected);
    assert!(!world.gate.gate.has_backlog());
    world.wait(200);
    assert_eq!(world.account(&session).spent, 22);
}

#[test]
fn units_that_are_held_elsewhere_are_no_fault_of_the_buyers() {
    let mut world = World::new();
    let session = world.session("/v3/x", 4);
    world.wait(2_500);
    // Another VM has the rest, and does not give it back in time.
    let account = world.account(&session);
    account.holders.insert(HolderId([9; 16]), (2, 0, 0));
    let sent = world.bearer(&session, "/v3/x");
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let (kind, _, _, body) = world.gate.call().unwrap();
    let answer = |body: &[u8]| {
        let request: LeasesRequest = serde_json::from_slice(body).unwrap();
        let report = &request.reports[0];
        assert_eq!(report.need, 2);
        let answer = lease::Answer {
            account: report.account,
            holder: report.holder,
            granted: 0,
            returned: 0,
            spent: 2,
            recall: false,
            r#final: false,
            short: false,
            state: AccountState::Open,
        };
        serde_json::to_string(&lease::LeasesAnswer {
            answers: vec![answer],
            terms: lease::Terms::USUAL,
        })
        .unwrap()
    };
    let text = answer(&body);
    world.gate.respond(kind, 200, true, &text);
    let mut asked = 0;
    while world.gate.now_ms < CREDENTIAL_TIME * 1_000 + 2_500 + 1_000 - 20 {
        world.gate.now_ms += 20;
        world.gate.gate.tick(world.gate.now());
        while let Some((kind, _, _, body)) = world.gate.call() {
            asked += 1;
            let text = answer(&body);
            world.gate.respond(kind, 200, true, &text);
        }
        assert!(world.gate.gate.next_due().is_none());
    }
    assert!((40..=50).contains(&asked), "{asked}: each 20 ms");
    world.gate.now_ms += 20;
    world.gate.gate.tick(world.gate.now());
    let reply = world.next_due().unwrap().1.reply();
    assert_eq!(
        (reply.status, header(&reply, "retry-after")),
        (503, Some("1"))
    );
    assert!(lines(&reply).is_empty());
}

#[test]
fn a_session_that_is_closed_or_unknown_is_told_so() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    world.wait(2_500);
    world.account(&session).is_closed = true;
    let sent = world.bearer(&session, "/v3/x");
    for _ in 0..3 {
        let reply = world.asked(&sent).reply();
        assert_eq!(
            (reply.status, problem(&reply)),
            (402, "lightning/session-closed".to_owned())
        );
        assert_eq!(lines(&reply).len(), 1);
    }
    let line = world.challenge("/v3/x");
    let mut made_up = session;
    let preimage = world.preimage();
    made_up.id = preimage.hash().to_string();
    made_up.preimage = hex_encode(preimage.expose());
    let sent = world.bearer_by(&made_up, "/v3/x", &line);
    let reply = world.asked(&sent).reply();
    assert_eq!(problem(&reply), "lightning/session-not-found");
    // It is not asked for again at once, and then it is.
    let before = world.reports;
    assert_eq!(
        problem(&world.asked(&sent).reply()),
        "lightning/session-not-found"
    );
    assert_eq!(world.reports, before);
    world.wait(1_000);
    world.asked(&sent).reply();
    assert_eq!(world.reports, before + 1);
    // Where no invoice may be made there is no challenge.
    let sent = world.bearer_by(&made_up, "/v3/cb/x", &line);
    let reply = world.asked(&sent).reply();
    assert_eq!((reply.status, lines(&reply).len()), (401, 0));
    assert!(reply.body.contains("no such session"), "{}", reply.body);
}

#[test]
fn made_up_sessions_cost_their_client_and_not_who_pays() {
    let settings =
        format!(r#"{BEHIND_TLS},"clientLimits":{{"burst":20,"challengesPerMinute":60}}"#);
    let mut world = World::of(&settings, SERVICES);
    let session = world.session("/v3/x", 4_000);
    let payer = world.gate.client;
    let line = session.line.clone();
    let mut statuses = BTreeMap::new();
    for number in 0..100_u8 {
        world.gate.client = Some(IpAddr::from([198, 51, 100, 1]));
        let preimage = world.preimage();
        let made_up = Session {
            id: preimage.hash().to_string(),
            preimage: hex_encode(preimage.expose()),
            line: line.clone(),
        };
        let sent = world.bearer_by(&made_up, "/v3/x", &line);
        *statuses.entry(world.asked(&sent).status()).or_insert(0) += 1;
        world.gate.client = payer;
        let sent = world.bearer(&session, "/v3/x");
        world.asked(&sent).spent();
        world.gate.now_ms += 10;
        assert!(world.gate.gate.state.sessions.leases.len() < 30, "{number}");
    }
    assert!(statuses[&402] <= 21 && statuses[&429] >= 79, "{statuses:?}");
    // Many strangers with a sidecar that says nothing: few are listened to at a time.
    let mut held = 0;
    for number in 0..1_000_u32 {
        world.gate.client = Some(IpAddr::V4((0x0a00_0000 + (number << 8)).into()));
        let preimage = world.preimage();
        let made_up = Session {
            id: preimage.hash().to_string(),
            preimage: hex_encode(preimage.expose()),
            line: line.clone(),
        };
        let sent = world.bearer_by(&made_up, "/v3/x", &line);
        held += usize::from(matches!(world.at_once(&sent), Seen::Held));
    }
    assert_eq!(held, 256);
    world.gate.client = payer;
    let sent = world.bearer(&session, "/v3/x");
    assert!(matches!(
        world.at_once(&sent),
        Seen::Forwarded(_) | Seen::Held
    ));
    while world.gate.call().is_some() {}
    // And nothing is left of them afterwards.
    for _ in 0..15 {
        world.gate.now_ms += 1_000;
        world.refresh();
        while world.gate.gate.next_due().is_some() {}
        while world.gate.call().is_some() {}
    }
    assert!(world.gate.gate.state.sessions.leases.len() <= 1);
    assert_eq!(world.gate.gate.state.waiting.len(), 0);
}

#[test]
fn only_so_many_wait_for_one_session_and_in_all() {
    let mut world = World::new();
    let session = world.session("/v3/x", 4_000);
    world.wait(2_500);
    let sent = world.bearer(&session, "/v3/x");
    let held = (0..200).filter(|_| matches!(world.at_once(&sent), Seen::Held));
    assert_eq!(held.count(), 128);
    let settings = format!(r#"{BEHIND_TLS},"maxWaiting":2"#);
    let mut world = World::of(&settings, SERVICES);
    let session = world.session("/v3/x", 4_000);
    world.wait(2_500);
    let sent = world.bearer(&session, "/v3/x");
    let statuses: Vec<_> = (0..3).map(|_| world.at_once(&sent).status()).collect();
    assert_eq!(statuses, [0, 0, 503]);
}

#[test]
fn whoever_pays_finds_room_beside_strangers_who_wait() {
    let settings = format!(r#"{BEHIND_TLS},"maxWaiting":4"#);
    let mut world = World::of(&settings, SERVICES);
    let session = world.session("/v3/x", 4_000);
    world.wait(2_500);
    let stranger = Sent::get("/v2/x");
    let held = (0..20).filter(|_| matches!(world.at_once(&stranger), Seen::Held));
    assert_eq!(held.count(), 2);
    let (kind, _, _, _) = world.gate.call().unwrap();
    world.gate.respond(kind, 503, true, "{}");
    // It is their turn, and until they have had it they are there.
    world.gate.now_ms += 3_000;
    assert_eq!(world.at_once(&stranger).status(), 503);
    world.refresh();
    let sent = world.bearer(&session, "/v3/x");
    let statuses: Vec<_> = (0..3).map(|_| world.at_once(&sent).status()).collect();
    assert_eq!(statuses, [0, 0, 503]);
    let seen: Vec<_> = (0..4).map(|_| world.due().status()).collect();
    let served = seen.iter().filter(|status| **status == 200);
    assert_eq!(served.count(), 2, "{seen:?}");
    assert_eq!(world.gate.gate.state.waiting.unpaid(), 0);
}

#[test]
fn an_ended_challenge_is_good_only_with_the_session_that_it_opened() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let other = world.challenge("/v3/x");
    world.gate.now_ms += 600_000;
    world.refresh();
    let own = world.bearer(&session, "/v3/x");
    for _ in 0..2 {
        world.asked(&own).spent();
    }
    let sent = world.bearer_by(&session, "/v3/x", &other);
    let reply = world.asked(&sent).reply();
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "lightning/challenge-expired".to_owned())
    );
}

#[test]
fn the_price_is_that_of_the_challenge_if_the_service_offers_it() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let dear = world.challenge("/v4/x");
    // A cheap challenge does not buy what is dear, nor the other way round.
    for (path, line) in [("/v4/x", &session.line), ("/v3/x", &dear), ("/v1/x", &dear)] {
        let sent = world.bearer_by(&session, path, line);
        let reply = world.asked(&sent).reply();
        assert_eq!(problem(&reply), "lightning/unknown-challenge", "{path}");
    }
    // One session pays at every service of the realm, each at its price.
    let sent = world.bearer_by(&session, "/v4/x", &dear);
    assert_eq!(world.asked(&sent).spent().price().get(), 5);
    let sent = world.bearer(&session, "/v1/x");
    assert_eq!(&*world.asked(&sent).spent().tag.name, "all");
    // Not where sessions are not taken.
    let sent = world.bearer(&session, "/v2/x");
    let reply = world.asked(&sent).reply();
    assert_eq!((reply.status, lines(&reply).len()), (402, 2));
}

#[test]
fn a_former_price_is_good_as_long_as_its_challenges_live() {
    let mut old = World::new();
    let session = old.session("/v3/x", 400);
    let services = SERVICES.replace(
        r#""price":{"sat":2},"schemes":["session"],"noInvoicePaths""#,
        r#""price":{"sat":3},"session":{"deposit":{"sat":40}},"schemes":["session"],"noInvoicePaths""#,
    );
    let mut new = World::of(BEHIND_TLS, &services);
    let now = old.gate.now();
    new.gate.gate.inherit(&old.gate.gate, now);
    new.accounts = std::mem::take(&mut old.accounts);
    new.number_holders_from(77);
    new.preimages = old.preimages.clone();
    new.gate.now_ms = old.gate.now_ms + 1_000;
    let sent = new.bearer(&session, "/v3/x");
    assert_eq!(new.asked(&sent).spent().price().get(), 2);
    // Only there.
    let elsewhere = new.bearer(&session, "/v4/x");
    assert_eq!(
        problem(&new.asked(&elsewhere).reply()),
        "lightning/unknown-challenge"
    );
    new.gate.now_ms += 600_000;
    new.refresh();
    let reply = new.asked(&sent).reply();
    assert_eq!(problem(&reply), "lightning/unknown-challenge");
    let line = session_line(&reply);
    let sent = new.bearer_by(&session, "/v3/x", &line);
    assert_eq!(new.asked(&sent).spent().price().get(), 3);
}

#[test]
fn what_another_listener_sells_cheaper_is_not_cheaper_here() {
    let services = SERVICES.replace(
        r#""price":{"sat":2},"schemes":["session"],"noInvoicePaths""#,
        r#""price":{"sat":3},"session":{"deposit":{"sat":40}},"schemes":["session"],"noInvoicePaths""#,
    );
    for (name, waits_ms, expected) in [
        ("boltgate", 0, 200),
        ("internal", 0, 402),
        // Nor what a gate of the same name, which is not gone, goes on selling.
        ("boltgate", 120_000, 402),
    ] {
        let mut cheap = World::new();
        let mut here = World::of(BEHIND_TLS, &services);
        cheap.gate.gate.plugin = name.into();
        let first = cheap.session("/v3/x", 400);
        here.gate.gate.inherit(&cheap.gate.gate, cheap.gate.now());
        cheap.gate.now_ms += waits_ms;
        cheap.refresh();
        let line = match waits_ms {
            0 => first.line.clone(),
            _ => {
                cheap.gate.client = Some(IpAddr::from([192, 0, 2, 99]));
                let _stocked_before = (0..40).map(|_| cheap.challenge("/v3/x")).count();
                cheap.challenge("/v3/x")
            }
        };
        here.accounts = std::mem::take(&mut cheap.accounts);
        here.number_holders_from(77);
        here.preimages = cheap.preimages.clone();
        here.gate.now_ms = cheap.gate.now_ms + 1_000;
        here.refresh();
        let sent = here.bearer_by(&first, "/v3/x", &line);
        assert_eq!(here.asked(&sent).status(), expected, "{name} {waits_ms}");
    }
}

#[test]
fn what_was_not_delivered_is_given_back() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let sent = world.bearer(&session, "/v3/x");
    // The upstream gave no answer.
    let spent = world.asked(&sent).spent();
    world.gate.gate.give_back(&spent);
    // It could not be forwarded.
    let stream = world.gate.stream() + 1;
    let Seen::Forwarded(note) = world.asked(&sent) else {
        panic!("to be forwarded")
    };
    world.gate.gate.not_forwarded(stream, &note);
    assert!(world.gate.gate.receipt_for(stream).is_none());
    world.wait(2_500);
    assert_eq!(world.account(&session).spent, 2);
    // Its client had gone while it waited.
    assert!(matches!(world.at_once(&sent), Seen::Held));
    assert!(world.pump().is_none());
    let due = world.gate.gate.next_due().unwrap();
    world.gate.gate.gone(due);
    // It was answered otherwise while it waited.
    world.wait(2_500);
    assert!(matches!(world.at_once(&sent), Seen::Held));
    let stream = world.gate.stream();
    assert!(world.gate.gate.holds(stream));
    world.gate.gate.let_go(stream);
    assert!(world.pump().is_none());
    assert!(world.gate.gate.next_due().is_none() && !world.gate.gate.holds(stream));
    world.wait(2_500);
    assert_eq!(world.account(&session).spent, 2);
}

#[test]
fn what_envoy_says_in_the_upstreams_place_is_no_answer() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let grpc = "application/grpc+proto";
    let (reset, timeout) = (
        "upstream_reset_before_response_started{remote_connection_failure}",
        "response_timeout",
    );
    let cancelled = "upstream_reset_before_response_started{remote_reset}";
    for (fields, status, grpc_status, details, expected) in [
        (&[][..], "503", "", reset, true),
        (&[], "502", "", cancelled, true),
        (&[], "504", "", timeout, true),
        (&[], "503", "", "via_upstream", false),
        (&[], "503", "", "", false),
        (&[], "500", "", reset, false),
        // What looks like gRPC and is none.
        (&[], "200", "14", reset, false),
        (&[("content-type", grpc)], "200", "14", reset, true),
        (&[("content-type", grpc)], "200", "14", timeout, true),
        (
            &[("content-type", grpc)],
            "200",
            "14",
            "via_upstream",
            false,
        ),
        (&[("content-type", grpc)], "200", "14", "", false),
        (&[("content-type", grpc)], "200", "0", reset, false),
        (&[("content-type", grpc)], "200", "", reset, false),
        (&[("content-type", grpc)], "503", "", reset, true),
    ] {
        for deadline in [false, true] {
            let mut sent = world.bearer(&session, "/v3/x");
            for (name, value) in fields {
                sent = sent.with(name, value);
            }
            if deadline {
                sent = sent.with("grpc-timeout", "1m");
            }
            let spent = world.asked(&sent).spent();
            let found =
                spent.is_unanswered(status.as_bytes(), || grpc_status.into(), || details.into());
            let may_be_its_deadline = deadline && [timeout, cancelled].contains(&details);
            assert_eq!(
                found,
                expected && !may_be_its_deadline,
                "{fields:?} {status} {grpc_status} {details} {deadline}"
            );
            world.gate.gate.give_back(&spent);
        }
    }
}

#[test]
fn keys_decide_before_units_do() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
    // Of unknown age.
    world.gate.now_ms += 60_001;
    assert_eq!(world.asked(&sent).status(), 503);
    // Rotated, and then retired.
    world.gate.install_keys(&[(2, [8; 32]), (1, KEY)]);
    world.asked(&sent).spent();
    world.gate.install_keys(&[(2, [8; 32])]);
    let reply = world.asked(&sent).reply();
    assert_eq!(problem(&reply), "lightning/unknown-challenge");
    let line = session_line(&reply);
    let sent = world.bearer_by(&session, "/v3/x", &line);
    world.asked(&sent).spent();
    world.gate.now_ms += 10_001;
    world.gate.install_keys(&[(3, [9; 32])]);
    world.gate.now_ms += 10_001;
    assert_eq!(
        world.asked(&sent).status(),
        503,
        "a key that we may have missed"
    );
}

#[test]
fn the_first_quick_requests_of_a_session_wait_for_one_answer() {
    // Opened here, and known from elsewhere.
    for is_opened_here in [true, false] {
        let mut world = World::new();
        let session = world.session("/v3/x", 400);
        let mut others = 0;
        let sent = world.bearer(&session, "/v3/x");
        if !is_opened_here {
            world.wait(3_000);
            assert!(matches!(world.at_once(&sent), Seen::Held));
            world.due().spent();
            others = 1;
        }
        for _ in 0..7 {
            assert!(matches!(world.at_once(&sent), Seen::Forwarded(_)));
        }
        assert!(matches!(world.at_once(&sent), Seen::Held));
        world.due().spent();
        world.wait(200);
        assert_eq!(world.account(&session).spent, 2 * (9 + others));
    }
}
