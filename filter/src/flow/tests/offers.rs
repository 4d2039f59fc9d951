//! Challenges, the stock of offers, and the limits on them.

use super::fixture::*;
use crate::flow::*;

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
            ..Answer::default()
        };
        gate.gate.answered(kind, &answer, gate.now());
        let due = gate.gate.next_due().unwrap();
        let Some(Decision::Reply(reply)) = gate.gate.answer(due) else {
            panic!("expected a reply")
        };
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
fn only_challenges_count_against_a_client() {
    let limits = r#""clientLimits":{"challengesPerMinute":1,"burst":2},"maxWaiting":1"#;
    let mut gate = Fixture::with_settings(limits);
    gate.bootstrap();
    let no_offers = |gate: &mut Fixture| {
        let (kind, _) = gate.offers_call();
        let answer = Answer {
            status: 503,
            is_marked: true,
            ..Answer::default()
        };
        gate.gate.answered(kind, &answer, gate.now());
        assert_eq!(gate.due_statuses(), [503]);
    };
    for _ in 0..3 {
        // Held, then told that there is nothing; the next is told so at once.
        assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold);
        assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 503, "one may wait");
        no_offers(&mut gate);
        assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 503);
        gate.now_ms += 1_500;
        gate.gate.tick(gate.now());
    }
    // Nobody answers at all.
    assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold);
    gate.now_ms += 3_250;
    gate.gate.tick(gate.now());
    assert_eq!(gate.due_statuses(), [503]);

    gate.fill(10);
    let statuses: Vec<_> = (0..3)
        .map(|_| gate.reply(&Sent::get("/v1/x")).status)
        .collect();
    assert_eq!(statuses, [402, 402, 429]);
}

#[test]
fn clients_without_an_address_share_one_limit_and_neighbours_a_larger_one() {
    let limits = r#""clientLimits":{"challengesPerMinute":1,"burst":1}"#;
    let mut gate = Fixture::with_settings(limits);
    gate.bootstrap();
    gate.fill(100);
    let mut status = |client| {
        gate.client = client;
        gate.reply(&Sent::get("/v1/x")).status
    };
    assert_eq!([status(None), status(None)], [402, 429]);
    let all: Vec<_> = (0..12)
        .map(|n| status(Some(IpAddr::from([192, 0, 2, n]))))
        .collect();
    assert_eq!(all.iter().filter(|status| **status == 402).count(), 10);
    assert_eq!(status(Some(IpAddr::from([192, 0, 3, 1]))), 402);
}

#[test]
fn who_uses_a_remembered_credential_is_noted_again_as_one_who_has_paid() {
    let mut gate = Fixture::with_settings(r#""clientLimits":{"burst":1,"paidFactor":2}"#);
    gate.bootstrap();
    let paid = gate.token("weather", None);
    let sent = Sent::get("/v1/x").with("authorization", &paid);
    gate.forwarded(&sent);
    gate.client = Some(IpAddr::from([198, 51, 100, 7]));
    gate.forwarded(&sent);
    gate.fill(10);
    assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 402);
    assert_eq!(gate.reply(&Sent::get("/v1/x")).status, 429, "not yet");
    gate.now_ms += 60_000;
    gate.bootstrap();
    gate.forwarded(&sent);
    let statuses: Vec<_> = (0..3)
        .map(|_| gate.reply(&Sent::get("/v1/x")).status)
        .collect();
    assert_eq!(statuses, [402, 402, 429]);
}
