//! Tables of events: what goes in, what must come out.

mod fixture;
mod properties;

use self::fixture::{CREDENTIAL_TIME, Fixture, Sent, outcome};
use super::*;

#[test]
fn other_hosts_pass_less_our_headers_and_credentials() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/anything")
        .host("other.example")
        .with("authorization", &paid)
        .with("x-boltgate-tier", "9")
        .with("x_boltgate_service", "evil")
        .with("cookie", "a=b");
    let forwarded = gate.forwarded(&sent);
    assert_eq!(forwarded.note.outcome, Outcome::Foreign);
    assert_eq!(
        forwarded.names,
        [":method", ":path", ":authority", "cookie"]
    );
}

#[test]
fn other_hosts_keep_macaroons_that_are_not_of_our_kind() {
    let mut gate = Fixture::ready();
    let sent = Sent::get("/")
        .host("lnd.example")
        .with("grpc-metadata-macaroon", "0201036c6e64");
    assert!(
        gate.forwarded(&sent)
            .names
            .contains(&"grpc-metadata-macaroon".to_owned())
    );
}

#[test]
fn foreign_parts_of_an_authorization_stay() {
    let mut gate = Fixture::ready();
    let both = format!("Basic YTpi, {}", gate.token("weather", None));
    for path in ["/v1/forecast", "/v1/health"] {
        let forwarded = gate.forwarded(&Sent::get(path).with("authorization", &both));
        assert_eq!(
            forwarded.value("authorization"),
            Some("Basic YTpi"),
            "{path}"
        );
    }
}

#[test]
fn a_free_path_needs_nothing_and_no_keys() {
    let mut gate = Fixture::new();
    assert_eq!(
        gate.forwarded(&Sent::get("/v1/health")).note.outcome,
        Outcome::Free
    );
}

#[test]
fn a_path_that_could_be_read_as_a_paid_one_is_not_free() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[{"hosts":["*"],"path":{"prefix":"/paid"}}],"price":{"sat":1}},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/PAID",
        "/paid;a=b",
        "/%70aid",
        "/PAID/;x",
        "/pAiD/x?y",
        "/;a/paid",
        "/;/;a/paid/x",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        assert!(
            !matches!(decision, Decision::Forward { .. }),
            "{path}: {decision:?}"
        );
    }
    for path in ["/Free", "/free;a=b"] {
        assert_eq!(
            gate.forwarded(&Sent::get(path)).note.outcome,
            Outcome::Free,
            "{path}"
        );
    }
}

#[test]
fn a_free_path_is_free_as_the_configuration_spells_it() {
    let mut gate = Fixture::with(
        r#"[{"name":"all","match":[{"hosts":["*"]}],"price":{"sat":1},"freePaths":[
            {"prefix":"/grpc.health.v1.Health/"},{"prefix":"/docs/"},{"exact":"/Start/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/grpc.health.v1.Health/check",
        "/docs/",
        "/docs/a",
        "/Start/",
    ] {
        let note = gate.forwarded(&Sent::get(path)).note;
        assert_eq!(note.outcome, Outcome::Free, "{path}");
    }
    for path in ["/grpc.health.v1.health/check", "/DOCS/", "/docs", "/start/"] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        let is_forwarded = matches!(decision, Decision::Forward { .. });
        assert!(!is_forwarded, "{path}: {decision:?}");
    }
}

#[test]
fn a_paid_path_with_capitals_is_paid_in_any_case() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[
              {"hosts":["*"],"path":{"prefix":"/Paid/"}},
              {"hosts":["*"],"path":{"exact":"/One"}},
              {"hosts":["*"],"path":{"regex":"/Item/[A-F]+"}}],
             "price":{"sat":1},"freePaths":[{"prefix":"/Paid/Docs/"}]},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/Paid/x",
        "/paid/x",
        "/PAID/;y/x",
        "/one",
        "/ONE?a",
        "/item/ab",
        "/paid/docs/",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        assert!(
            !matches!(decision, Decision::Forward { .. }),
            "{path}: {decision:?}"
        );
    }
    for path in ["/Paid/Docs/x", "/Free", "/items/ab", "/ones"] {
        let note = gate.forwarded(&Sent::get(path)).note;
        assert_eq!(note.outcome, Outcome::Free, "{path}");
    }
}

#[test]
fn an_escaped_question_mark_hides_no_exact_path() {
    let mut gate = Fixture::with(
        r#"[{"name":"paid","match":[{"hosts":["*"],"path":{"exact":"/paid"}}],"price":{"sat":1}},
            {"name":"rest","match":[{"hosts":["*"]}],"price":{"sat":1},
             "freePaths":[{"prefix":"/"}]}]"#,
    );
    gate.bootstrap();
    for path in [
        "/paid%3fa",
        "/paid%3F",
        "/paid%23a",
        "/paid/;x%3f",
        "/PAID%23/b",
    ] {
        let sent = Sent::get(path);
        let decision = gate.request(&sent);
        let is_forwarded = matches!(decision, Decision::Forward { .. });
        assert!(!is_forwarded, "{path}: {decision:?}");
    }
}

#[test]
fn ambiguous_requests_on_our_hosts_are_refused_and_elsewhere_pass() {
    let mut gate = Fixture::ready();
    for path in ["//v1", "/v1/../x", "/v1/%2e%2e/x", "/v1\\x", "*", "/v1/%ff"] {
        assert_eq!(gate.reply(&Sent::get(path)).status, 400, "{path}");
        let elsewhere = gate.forwarded(&Sent::get(path).host("other.example"));
        assert_eq!(elsewhere.note.outcome, Outcome::Foreign);
    }
    for host in ["", "api.example.com,x", "u@api.example.com"] {
        assert_eq!(
            gate.reply(&Sent::get("/v1/x").host(host)).status,
            400,
            "{host}"
        );
    }
    let connect = Sent::raw(&[
        (":method", "CONNECT"),
        (":authority", "api.example.com:443"),
    ]);
    assert_eq!(gate.reply(&connect).status, 400);
}

#[test]
fn what_no_service_matches_is_refused_unless_the_policy_lets_it_pass() {
    let mut gate = Fixture::ready();
    assert_eq!(gate.reply(&Sent::get("/nothing")).status, 404);
    let mut open = Fixture::with_settings(r#""unmatched":"pass""#);
    assert_eq!(
        open.forwarded(&Sent::get("/nothing")).note.outcome,
        Outcome::Passed
    );
    let sent = Sent::get("/V1/forecast");
    let decision = open.request(&sent);
    assert!(
        !matches!(decision, Decision::Forward { .. }),
        "another case of a paid path"
    );
}

#[test]
fn a_preflight_is_answered_here() {
    let mut gate = Fixture::new();
    let sent = Sent::raw(&[
        (":method", "OPTIONS"),
        (":path", "/v1/forecast"),
        (":authority", "api.example.com"),
        ("origin", "https://a.example"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "x-a, x-b"),
    ]);
    let reply = gate.reply(&sent);
    assert_eq!(
        (reply.status, reply.note.outcome),
        (204, Outcome::Preflight)
    );
    let allowed = reply
        .headers
        .iter()
        .find(|(name, _)| *name == "access-control-allow-headers");
    assert_eq!(allowed.unwrap().1, "authorization, x-a, x-b");
}

#[test]
fn without_a_credential_there_is_an_offer_from_stock() {
    let mut gate = Fixture::stocked(5);
    let reply = gate.reply(&Sent::get("/v1/forecast").with("origin", "https://a.example"));
    assert_eq!(
        (reply.status, reply.note.outcome),
        (402, Outcome::Challenged)
    );
    let lines: Vec<_> = reply
        .headers
        .iter()
        .filter(|(n, _)| *n == "www-authenticate")
        .collect();
    assert!(
        lines[0].1.starts_with("LSAT macaroon=\"") && lines[1].1.starts_with("L402 macaroon=\"")
    );
    assert!(
        reply
            .headers
            .contains(&("access-control-allow-origin", "*".to_owned()))
    );
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["price_sats"], 10);
    assert_eq!(body["service"], "weather");
    assert_eq!(body["status"], 402);
    assert!(body["invoice"].is_string() && body["macaroon"].is_string());
}

#[test]
fn every_offer_is_shown_once() {
    let mut gate = Fixture::stocked(4);
    let bodies: std::collections::HashSet<_> = (0..4)
        .map(|_| gate.reply(&Sent::get("/v1/forecast")).body)
        .collect();
    assert_eq!(bodies.len(), 4);
}

#[test]
fn grpc_is_told_in_trailers_and_grpc_web_is_not() {
    let mut gate = Fixture::stocked(5);
    let reply = gate.reply(&Sent::get("/v1/x").with("content-type", "application/grpc+proto"));
    assert_eq!((reply.status, reply.grpc_status), (200, Some(13)));
    assert_eq!(reply.body, "payment required");
    let web = gate.reply(&Sent::get("/v1/x").with("content-type", "application/grpc-web"));
    assert_eq!((web.status, web.grpc_status), (402, None));
}

#[test]
fn an_empty_stock_asks_once_for_all_who_wait() {
    let mut gate = Fixture::ready();
    for client in 1..=3 {
        gate.client = Some(IpAddr::from([192, 0, 2, client]));
        assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    }
    let (kind, request) = gate.offers_call();
    assert_eq!(
        request["client"]["prefix"], "192.0.2.1/32",
        "one waited when it was made"
    );
    gate.offers(kind, 1);
    assert_eq!(gate.due_statuses(), [402]);
    let (kind, request) = gate.offers_call();
    assert!(request.get("client").is_none(), "two clients wait");
    gate.offers(kind, 10);
    assert_eq!(gate.due_statuses(), [402, 402]);
}

#[test]
fn an_offer_for_a_client_that_has_gone_goes_to_another() {
    let mut gate = Fixture::ready();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    let (kind, _) = gate.offers_call();
    gate.offers(kind, 1);
    let due = gate.gate.next_due().unwrap();
    gate.gate.gone(due);
    assert_eq!(gate.reply(&Sent::get("/v1/forecast")).status, 402);
}

#[test]
fn the_sidecars_no_is_passed_on_with_its_retry_after() {
    for (status, marked, seen) in [
        (429, true, 429),
        (503, true, 503),
        (500, true, 503),
        (200, false, 503),
    ] {
        let mut gate = Fixture::ready();
        assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
        let (kind, _) = gate.offers_call();
        let answer = Answer {
            status,
            is_marked: marked,
            retry_after: Some(7),
            body: b"{}",
        };
        gate.gate.answered(kind, &answer, gate.now_ms);
        let due = gate.gate.next_due().unwrap();
        let reply = gate.gate.answer(due).unwrap();
        assert_eq!(reply.status, seen);
        let retry = if marked { "7" } else { "1" };
        assert!(
            reply.headers.contains(&("retry-after", retry.to_owned())),
            "{status}"
        );
        assert!(
            !reply
                .headers
                .iter()
                .any(|(name, _)| *name == "www-authenticate")
        );
        // While that is fresh nobody waits for the same answer.
        assert_eq!(gate.reply(&Sent::get("/v1/forecast")).status, seen);
    }
}

#[test]
fn a_client_over_its_limit_gets_429_and_takes_no_offer() {
    let mut gate = Fixture::with_settings(r#""clientLimits":{"challengesPerMinute":60,"burst":2}"#);
    gate.bootstrap();
    gate.fill(10);
    let statuses: Vec<_> = (0..4)
        .map(|_| gate.reply(&Sent::get("/v1/forecast")).status)
        .collect();
    assert_eq!(statuses, [402, 402, 429, 429]);
    gate.client = Some(IpAddr::from([192, 0, 2, 99]));
    assert_eq!(gate.reply(&Sent::get("/v1/forecast")).status, 402);
}

#[test]
fn where_no_invoice_may_be_made_the_answer_is_401_without_a_challenge() {
    let mut gate = Fixture::stocked(5);
    let wrong = gate.token("other", None);
    for sent in [
        Sent::get("/v1/cb/x"),
        Sent::get("/v1/cb/x").with("authorization", &wrong),
    ] {
        let reply = gate.reply(&sent);
        assert_eq!(
            (reply.status, reply.note.outcome),
            (401, Outcome::Unauthorized)
        );
        assert!(
            !reply
                .headers
                .iter()
                .any(|(name, _)| *name == "www-authenticate")
        );
    }
    let paid = gate.token("weather", None);
    gate.forwarded(&Sent::get("/v1/cb/x").with("authorization", &paid));
}

#[test]
fn a_paid_request_goes_on_with_trusted_fields_and_without_its_credential() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    for _ in 0..3 {
        let sent = Sent::get("/v1/forecast").with("authorization", &paid);
        let forwarded = gate.forwarded(&sent);
        assert_eq!(forwarded.note.outcome, Outcome::Paid);
        assert_eq!(forwarded.value("authorization"), None);
        let admitted = forwarded.note.admitted.unwrap();
        let [service, scheme, token_id, tier] = admitted.trusted_fields();
        assert_eq!(service, ("x-boltgate-service", "weather"));
        assert_eq!(scheme, ("x-boltgate-scheme", "l402"));
        assert_eq!((token_id.0, token_id.1.len()), ("x-boltgate-token-id", 64));
        assert_eq!(tier, ("x-boltgate-tier", "0"));
    }
}

#[test]
fn metadata_of_grpc_clients_is_taken_and_cached() {
    let mut gate = Fixture::ready();
    let hex = gate.metadata_token("weather");
    for name in ["token", "macaroon", "grpc-metadata-macaroon"] {
        for _ in 0..2 {
            let sent = Sent::get("/v1/x")
                .with("content-type", "application/grpc")
                .with(name, &hex);
            assert_eq!(gate.forwarded(&sent).value(name), None, "{name}");
        }
    }
    let other = Sent::get("/v1/health").with("token", "something else");
    assert_eq!(
        gate.forwarded(&other).value("token"),
        Some("something else")
    );
}

#[test]
fn each_fault_of_a_credential_is_a_402_with_its_reason() {
    let mut gate = Fixture::stocked(20);
    let good = gate.token("weather", None);
    let (start, end) = good.split_at(good.len() - 1);
    let wrong_preimage = format!("{start}{}", if end == "0" { "1" } else { "0" });
    let expired = gate.token("weather", Some(CREDENTIAL_TIME - 1));
    let other = gate.token("other", None);
    for (credential, reason) in [
        (wrong_preimage.as_str(), "preimage mismatch"),
        (&expired, "expired"),
        (&other, "service not authorised"),
        ("L402 nonsense", "malformed: no preimage after a colon"),
    ] {
        let reply = gate.reply(&Sent::get("/v1/forecast").with("authorization", credential));
        assert_eq!((reply.status, reply.note.outcome), (402, Outcome::Refused));
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body["detail"], reason);
    }
}

#[test]
fn refused_credentials_can_be_told_401_with_a_challenge() {
    let mut gate = Fixture::with_settings(r#""l402InvalidStatus":401"#);
    gate.bootstrap();
    gate.fill(4);
    let reply = gate.reply(&Sent::get("/v1/x").with("authorization", "L402 x"));
    assert_eq!(reply.status, 401);
    assert!(
        reply
            .headers
            .iter()
            .any(|(name, _)| *name == "www-authenticate")
    );
    assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 402);
}

#[test]
fn a_remembered_credential_still_expires() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", Some(CREDENTIAL_TIME + 10));
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.forwarded(&sent);
    gate.now_ms += 10_000;
    gate.bootstrap();
    assert_eq!(
        gate.request(&sent),
        Decision::Hold,
        "an offer is fetched for it"
    );
}

#[test]
fn a_remembered_credential_is_refused_once_revoked() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.revoke_last();
    let reply = gate.reply(&sent);
    assert_eq!(reply.status, 402);
    assert!(reply.body.contains("revoked"), "{}", reply.body);
}

#[test]
fn a_remembered_credential_is_refused_once_its_key_is_gone() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.install_keys(&[(7, [9; 32])]);
    assert_eq!(gate.reply(&sent).status, 402);
}

#[test]
fn a_key_that_we_may_have_missed_is_a_fault_of_ours() {
    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    gate.install_keys(&[(7, [9; 32])]);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    gate.now_ms += 10_000;
    assert_eq!(gate.reply(&sent).status, 402, "no sidecar has such a key");
    gate.now_ms += 1;
    assert_eq!(gate.reply(&sent).status, 503, "one may, by now");

    let mut gate = Fixture::stocked(4);
    let paid = gate.token("weather", None);
    gate.revoke_last();
    gate.now_ms += 10_001;
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    assert_eq!(gate.reply(&sent).status, 402, "revoked is revoked");
}

#[test]
fn a_remembered_credential_is_not_good_for_another_service() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    gate.forwarded(&Sent::get("/v1/forecast").with("authorization", &paid));
    let elsewhere = Sent::get("/v2/x").with("authorization", &paid);
    assert_eq!(gate.request(&elsewhere), Decision::Hold);
}

#[test]
fn faults_of_ours_are_503_and_never_a_challenge() {
    let check = |gate: &mut Fixture, paid: &str| {
        for sent in [
            Sent::get("/v1/x"),
            Sent::get("/v1/x").with("authorization", paid),
        ] {
            let reply = gate.reply(&sent);
            assert_eq!(
                (reply.status, reply.note.outcome),
                (503, Outcome::Unavailable)
            );
            assert!(reply.headers.iter().any(|(name, _)| *name == "retry-after"));
            assert!(
                !reply
                    .headers
                    .iter()
                    .any(|(name, _)| *name == "www-authenticate")
            );
        }
    };
    let mut old = Fixture::stocked(10);
    let paid = old.token("weather", None);
    old.forwarded(&Sent::get("/v1/x").with("authorization", &paid));
    old.now_ms += 60_001;
    check(&mut old, &paid);

    let mut no_token = Fixture::without_token();
    check(&mut no_token, &paid);

    let mut no_wait = Fixture::with_settings(r#""bootstrapWait":"0s""#);
    check(&mut no_wait, &paid);
}

#[test]
fn requests_before_the_first_keys_wait_and_are_decided_afresh() {
    let mut gate = Fixture::new();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    assert_eq!(gate.request(&sent), Decision::Hold);
    assert!(gate.gate.next_due().is_none());
    gate.bootstrap();
    let due = gate.gate.next_due().unwrap();
    assert!(gate.gate.answer(due).is_none(), "to be decided anew");
    assert_eq!(gate.forwarded(&sent).note.outcome, Outcome::Paid);
}

#[test]
fn a_new_configuration_takes_over_the_keys_of_the_one_before() {
    let mut old = Fixture::ready();
    let paid = old.token("weather", None);
    let sent = Sent::get("/v1/forecast").with("authorization", &paid);
    let mut new = Fixture::with_settings(r#""unmatched":"pass""#);
    new.gate.inherit(&old.gate);
    assert_eq!(new.forwarded(&sent).note.outcome, Outcome::Paid);

    let mut elsewhere = Fixture::of_another_sidecar();
    elsewhere.gate.inherit(&old.gate);
    assert_eq!(elsewhere.request(&sent), Decision::Hold);
}

#[test]
fn who_waits_too_long_gets_503() {
    let mut gate = Fixture::new();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    gate.now_ms += 1_999;
    gate.gate.tick(gate.now_ms);
    assert!(!gate.gate.has_backlog());
    gate.now_ms += 1;
    gate.gate.tick(gate.now_ms);
    assert_eq!(gate.due_statuses(), [503]);

    let mut gate = Fixture::ready();
    assert_eq!(gate.request(&Sent::get("/v1/forecast")), Decision::Hold);
    gate.now_ms += 3_250;
    gate.gate.tick(gate.now_ms);
    assert_eq!(gate.due_statuses(), [503]);
}

#[test]
fn no_more_than_so_many_wait() {
    let mut gate = Fixture::with_settings(r#""maxWaiting":2"#);
    assert_eq!(gate.request(&Sent::get("/v1/a")), Decision::Hold);
    assert_eq!(gate.request(&Sent::get("/v1/b")), Decision::Hold);
    assert_eq!(gate.reply(&Sent::get("/v1/c")).status, 503);
}

#[test]
fn wrong_bootstraps_are_refused_whole() {
    for body in [
        "",
        "{}",
        r#"{"version":"1","keys":[],"revocations":{"full":true,"add":[],"remove":[]}}"#,
        r#"{"version":"1","keys":[{"generation":1,"state":"current","l402":"ab"}],"revocations":{"full":true,"add":[],"remove":[]}}"#,
    ] {
        let mut gate = Fixture::new();
        gate.answer_bootstrap(200, true, body);
        assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold, "{body}");
    }
    let mut gate = Fixture::new();
    let body = Fixture::bootstrap_body(&[(1, fixture::KEY)], &[], "1");
    gate.answer_bootstrap(200, false, &body);
    assert_eq!(
        gate.request(&Sent::get("/v1/x")),
        Decision::Hold,
        "not marked"
    );
    let partial = body.replace("true", "false");
    gate.answer_bootstrap(200, true, &partial);
    assert_eq!(
        gate.request(&Sent::get("/v1/x")),
        Decision::Hold,
        "no full deny list"
    );
}

#[test]
fn an_unchanged_bootstrap_renews_the_age_of_the_deny_list() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/x").with("authorization", &paid);
    for _ in 0..5 {
        gate.now_ms += 50_000;
        gate.answer_bootstrap(304, true, "");
        assert_eq!(gate.forwarded(&sent).note.outcome, Outcome::Paid);
    }
}

#[test]
fn a_clock_that_is_set_back_makes_the_deny_list_old_and_the_poll_due() {
    let mut gate = Fixture::ready();
    let paid = gate.token("weather", None);
    gate.now_ms -= 3_600_000;
    assert_eq!(
        gate.reply(&Sent::get("/v1/x").with("authorization", &paid))
            .status,
        503
    );
    gate.bootstrap();
    gate.forwarded(&Sent::get("/v1/x").with("authorization", &paid));
}

#[test]
fn the_known_version_is_named_in_the_next_poll() {
    let mut gate = Fixture::ready();
    gate.now_ms += 5_000;
    gate.gate.tick(gate.now_ms);
    let path = gate.bootstrap_path().unwrap();
    assert!(
        path.starts_with("/v1/bootstrap?vm=") && path.ends_with("&known=v-1"),
        "{path}"
    );
}

#[test]
fn a_missing_token_is_named_once_and_nobody_is_asked() {
    let mut gate = Fixture::without_token();
    let Some(Notice::Error(text)) = gate.gate.next_notice() else {
        panic!("no notice")
    };
    assert!(text.contains("BOLTGATE_TOKEN"), "{text}");
    gate.gate.tick(gate.now_ms);
    assert!(gate.gate.next_call().is_none());
}

#[test]
fn no_secret_is_in_a_notice() {
    let mut gate = Fixture::new();
    gate.answer_bootstrap(401, true, "");
    while let Some(notice) = gate.gate.next_notice() {
        assert!(!format!("{notice:?}").contains(fixture::TOKEN));
    }
}

#[test]
fn outcomes_have_distinct_words() {
    let words: std::collections::HashSet<_> = Outcome::ALL.iter().map(|o| o.word()).collect();
    assert_eq!(words.len(), Outcome::ALL.len());
    assert_eq!(outcome(&Decision::Hold), None);
}
