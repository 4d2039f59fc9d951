//! What is said about leases, when, and who says it.

use super::*;

#[test]
fn leases_are_reported_each_tick_and_not_without_need() {
    let mut world = World::new();
    world.wait(1_000);
    assert_eq!(world.reports, 0, "nothing is held, needed or returned");
    world.session("/v3/x", 400);
    world.reports = 0;
    world.wait(1_000);
    assert!((8..=11).contains(&world.reports), "{}", world.reports);
    // What nobody spends is returned after two seconds, and then nothing is said.
    world.wait(1_500);
    world.reports = 0;
    world.wait(1_000);
    assert_eq!(world.reports, 0);
}

#[test]
fn one_call_is_under_way_at_a_time_until_it_is_lost() {
    let mut world = World::new();
    world.session("/v3/x", 400);
    let mut calls = Vec::new();
    let mut tick = |world: &mut World, ms| {
        world.gate.now_ms += ms;
        world.gate.gate.tick(world.gate.now());
        if let Some((kind, cluster, _, body)) = world.gate.call() {
            assert_eq!(cluster, "boltgate");
            calls.push((kind, body));
        }
        calls.len()
    };
    assert_eq!(tick(&mut world, 100), 1);
    for _ in 0..12 {
        assert_eq!(tick(&mut world, 100), 1);
    }
    assert_eq!(tick(&mut world, 100), 2);
    // Both answers count, whichever comes first; a third one is of nobody's call.
    let (second, first) = (calls.pop().unwrap(), calls.pop().unwrap());
    for (kind, body) in [&second, &first] {
        let request: LeasesRequest = serde_json::from_slice(body).unwrap();
        let answers = request
            .reports
            .iter()
            .map(|one| world.answer(one))
            .collect();
        let body = serde_json::to_string(&world.leases_answer(answers)).unwrap();
        world.gate.respond(*kind, 200, true, &body);
    }
    let (kind, _) = second;
    let answer = Answer::default();
    let now = world.gate.now();
    let result = world.gate.gate.answered(kind, &answer, now);
    assert_eq!(result, crate::outcome::CallResult::Failed);
}

/// Uses the session after each of these times, while nobody answers: whether it was served from the
/// lease each time. It is in use all the while, so that nothing but the time ends the lease.
fn in_silence(world: &mut World, sent: &Sent, steps_ms: &[u64]) -> Vec<bool> {
    let served = steps_ms.iter().map(|ms| {
        world.gate.now_ms += ms;
        let is_served = matches!(world.at_once(sent), Seen::Forwarded(_));
        while world.gate.call().is_some() {}
        is_served
    });
    served.collect()
}

#[test]
fn a_lease_lasts_as_long_as_the_steady_clock_says() {
    let mut world = World::new();
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
    // A first request more, so that something is here.
    world.asked(&sent).spent();
    world.wait(100);
    // Five seconds, and not a request longer.
    let served = in_silence(&mut world, &sent, &[0, 1_500, 1_500, 1_500, 600]);
    assert_eq!(served, [true, true, true, true, false]);
}

#[test]
fn leases_are_kept_as_the_sidecar_says_with_its_answers() {
    let mut world = World::new();
    world.terms = lease::Terms {
        valid_ms: 3_000,
        tick_ms: 250,
        waiting_tick_ms: 50,
    };
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
    world.wait(100);
    world.reports = 0;
    world.wait(1_000);
    assert!((3..=4).contains(&world.reports), "{}", world.reports);
    assert!(matches!(world.at_once(&sent), Seen::Forwarded(_)));
    // What makes no sense is not kept to.
    world.terms.valid_ms = 3_600_000;
    world.wait(500);
    let served = in_silence(&mut world, &sent, &[1_400, 1_300, 400]);
    assert_eq!(served, [true, true, false]);
}

#[test]
fn the_first_lease_lasts_as_the_answer_to_the_open_says() {
    let mut world = World::new();
    world.terms.valid_ms = 2_000;
    let session = world.session("/v3/x", 400);
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
    let served = in_silence(&mut world, &sent, &[1_000, 900, 200]);
    assert_eq!(served, [true, true, false]);
}

#[test]
fn what_a_dead_gate_has_left_is_returned_by_another_once() {
    let mut old = World::new();
    let session = old.session("/v3/x", 40);
    let sent = old.bearer(&session, "/v3/x");
    let spent = old.asked(&sent).spent();
    old.asked(&sent).spent();
    let mut new = World::of(BEHIND_TLS, SERVICES);
    new.gate.gate.inherit(&old.gate.gate, old.gate.now());
    new.accounts = std::mem::take(&mut old.accounts);
    new.gate.now_ms = old.gate.now_ms;
    new.number_holders_from(77);
    assert!(new.gate.gate.absorb(old.gate.gate).is_none());
    new.gate.gate.give_back(&spent);
    new.wait(200);
    let account = new.account(&session);
    assert_eq!((account.spent, account.free()), (4, 36));
    new.reports = 0;
    new.wait(500);
    assert_eq!(new.reports, 0);
    let other = Fixture::of_another_sidecar();
    assert!(new.gate.gate.absorb(other.gate).is_some());
}

#[test]
fn a_session_in_use_is_said_to_be() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let sent = world.bearer(&session, "/v3/x");
    let spent = world.asked(&sent).spent();
    world.wait(2_600);
    world.reports = 0;
    world.gate.gate.touch(&spent);
    world.wait(200);
    assert_eq!(world.reports, 1);
    assert_eq!(world.account(&session).free(), 36);
}

#[test]
fn a_request_under_way_keeps_its_session_in_use_until_its_response_has_ended() {
    let mut world = World::new();
    let session = world.session("/v3/x", 40);
    let sent = world.bearer(&session, "/v3/x");
    world.asked(&sent).spent();
    let stream = world.gate.stream();
    // Minutes later neither the response has begun nor, then, has it ended.
    for has_begun in [false, true] {
        if has_begun {
            assert!(world.gate.gate.receipt_for(stream).is_some());
        }
        for _ in 0..2 {
            let around = world.gate.around();
            world.gate.gate.request_lives(stream, &around);
            world.wait(10_000);
            world.reports = 0;
            for _ in 0..7 {
                world.wait(10_000);
                world.refresh();
                let around = world.gate.around();
                world.gate.gate.request_lives(stream, &around);
            }
            world.wait(200);
            assert_eq!(world.reports, 1, "{has_begun}");
        }
    }
    world.gate.gate.response_ended(stream);
    while let Some(other) = world.gate.gate.next_request() {
        assert_ne!(other, stream);
        world.gate.gate.response_ended(other);
    }
    world.reports = 0;
    world.wait(100_000);
    let around = world.gate.around();
    world.gate.gate.request_lives(stream, &around);
    world.wait(200);
    assert_eq!((world.reports, world.gate.gate.requests()), (0, 0));
}
