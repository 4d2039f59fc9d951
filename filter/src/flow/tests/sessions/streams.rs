//! Streams of events that sessions pay for: who asks when, whose turn it is, and who is given up.

use super::*;
use crate::meter::{Change, Step};

/// One event with data.
const EVENT: &[u8] = b"data: 1\n\n";

/// The price of an event at `/v4/`.
const PRICE: u64 = 5;

impl World {
    /// A session with that many units, and the response to a request of it, a stream.
    fn stream(&mut self, units: u64) -> (Session, u32) {
        let session = self.session("/v4/x", PRICE * units + PRICE);
        let stream = self.stream_of(&session);
        (session, stream)
    }

    /// A further request of a session: its response is a stream.
    fn stream_of(&mut self, session: &Session) -> u32 {
        let sent = self.bearer(session, "/v4/x");
        let spent = self.asked(&sent).spent();
        let stream = self.gate.stream();
        let around = self.gate.around();
        self.gate.gate.meter(stream, spent, &around);
        stream
    }

    fn chunk(&mut self, stream: u32, chunk: &[u8]) {
        let around = self.gate.around();
        let step = self.gate.gate.stream_chunk(stream, chunk, false, &around);
        assert!(step.is_some());
    }

    /// Turns as the host gives them; the bytes that streams let go.
    fn turns(&mut self, is_tick: bool) -> Vec<(u32, Vec<u8>)> {
        let around = self.gate.around();
        let gate = &mut self.gate.gate;
        let mut sent = Vec::new();
        for id in gate.stream_turns(1_000, is_tick, &around) {
            let step = gate.take_stream_turn(id, &around);
            if let Some(Step {
                change: Change::Append(bytes),
                resume: true,
                ..
            }) = step
            {
                sent.push((id, bytes));
            }
        }
        sent
    }

    /// Ticks as the host makes them, for so long; what streams let go, and after how long.
    fn flow(&mut self, ms: u64) -> Vec<(u64, u32, String)> {
        let mut sent = Vec::new();
        let start_ms = self.gate.now_ms;
        let mut note = |world: &mut Self, is_tick| {
            let after_ms = world.gate.now_ms - start_ms;
            for (id, bytes) in world.turns(is_tick) {
                sent.push((after_ms, id, String::from_utf8(bytes).unwrap()));
            }
        };
        while self.gate.now_ms < start_ms + ms {
            self.gate.now_ms += match self.gate.gate.has_backlog() {
                true => 20,
                false => 100,
            };
            self.gate.gate.tick(self.gate.now());
            note(self, true);
            while let Some((kind, _, path, body)) = self.gate.call() {
                if path == "/v1/leases" {
                    self.answer_reports(kind, &body);
                    note(self, false);
                }
            }
        }
        sent
    }

    fn reports_within(&mut self, ms: u64) -> usize {
        self.reports = 0;
        self.flow(ms);
        self.reports
    }
}

fn contains(sent: &[(u64, u32, String)], text: &str) -> bool {
    sent.iter().any(|(_, _, bytes)| bytes.contains(text))
}

#[test]
fn a_stream_without_money_asks_ever_more_seldom() {
    let mut world = World::new();
    let (_, stream) = world.stream(1);
    world.chunk(stream, &EVENT.repeat(3));
    let sent = world.flow(200);
    assert!(contains(&sent, "payment-need-topup"));
    assert!(
        !world.gate.gate.has_backlog(),
        "it does not want quick ticks"
    );
    let reports = world.reports_within(2_000);
    assert!((15..=21).contains(&reports), "{reports}");
    world.flow(40_000);
    world.refresh();
    let reports = world.reports_within(8_000);
    assert!((7..=12).contains(&reports), "{reports}");
}

#[test]
fn whoever_waits_does_not_make_others_report() {
    let mut world = World::new();
    let other = world.session("/v3/x", 400);
    world.asked(&world.bearer(&other, "/v3/x")).spent();
    let (_, stream) = world.stream(1);
    world.flow(200);
    world.chunk(stream, &EVENT.repeat(3));
    let other: AccountId = other.id.parse().unwrap();
    let mut of_other = 0;
    for _ in 0..50 {
        world.gate.now_ms += 20;
        world.gate.gate.tick(world.gate.now());
        while let Some((kind, _, path, body)) = world.gate.call() {
            assert_eq!(path, "/v1/leases");
            let request: LeasesRequest = serde_json::from_slice(&body).unwrap();
            of_other += usize::from(request.reports.iter().any(|one| one.account == other));
            // The ledger has something to say of others only: the stream waits in hope.
            world.gate.respond(kind, 200, true, r#"{"answers":[]}"#);
        }
        world.turns(true);
        assert!(world.gate.gate.has_backlog());
    }
    assert!((9..=11).contains(&of_other), "{of_other}");
}

#[test]
fn money_from_another_vm_is_found_soon_and_from_this_one_at_once() {
    for (waited_ms, at_most_ms) in [(300, 140), (4_000, 140), (50_000, 1_100)] {
        let mut world = World::new();
        let (session, stream) = world.stream(1);
        world.chunk(stream, &EVENT.repeat(3));
        world.flow(waited_ms);
        world.account(&session).deposited += 2 * PRICE;
        let sent = world.flow(2_000);
        let (after_ms, id, bytes) = &sent[0];
        assert!(*id == stream && bytes.as_bytes().starts_with(EVENT));
        assert!(*after_ms <= at_most_ms, "{after_ms} after {waited_ms}");
    }
    let mut world = World::new();
    let (session, stream) = world.stream(1);
    world.chunk(stream, &EVENT.repeat(3));
    world.flow(50_000);
    world.refresh();
    let (_, kind, _) = world.topping_up(&session, "/v4/x");
    world.account(&session).deposited += PRICE;
    world.gate.now_ms += 20;
    world
        .gate
        .respond(kind, 200, true, r#"{"result":"credited","at":1}"#);
    let (report, _, path, body) = world.gate.call().unwrap();
    assert_eq!(path, "/v1/leases");
    world.answer_reports(report, &body);
    assert_eq!(world.turns(false), [(stream, EVENT.to_vec())]);
}

#[test]
fn streams_of_one_session_share_what_there_is() {
    let mut world = World::new();
    let (session, first) = world.stream(1);
    world.account(&session).deposited += 2 * PRICE;
    let streams = [first, world.stream_of(&session), world.stream_of(&session)];
    for stream in streams {
        world.chunk(stream, &EVENT.repeat(100));
    }
    world.flow(200);
    // What comes by and by goes to each of them in turn.
    let mut units = [0; 3];
    for _ in 0..30 {
        world.account(&session).deposited += PRICE;
        for (_, id, bytes) in world.flow(100) {
            let which = streams.iter().position(|one| *one == id).unwrap();
            units[which] += bytes.matches("data: 1\n").count();
        }
    }
    assert!(
        units.iter().all(|count| (8..=12).contains(count)),
        "{units:?}"
    );
    // And of much at once none takes all.
    world.account(&session).deposited += 90 * PRICE;
    let mut units = [0; 3];
    for (_, id, bytes) in world.flow(300) {
        let which = streams.iter().position(|one| *one == id).unwrap();
        units[which] += bytes.matches("data: 1\n").count();
    }
    assert!(
        units.iter().all(|count| (20..=40).contains(count)),
        "{units:?}"
    );
}

#[test]
fn when_a_round_ends_early_the_next_begins_there() {
    let mut world = World::new();
    let streams: Vec<_> = (0..5).map(|_| world.stream(1).1).collect();
    for stream in &streams {
        world.chunk(*stream, &EVENT.repeat(30));
    }
    let around = world.gate.around();
    let gate = &mut world.gate.gate;
    let twice: Vec<_> = streams.iter().flat_map(|id| [*id, *id]).collect();
    let mut seen: Vec<u32> = Vec::new();
    for _ in 0..5 {
        let round = gate.stream_turns(1_000, true, &around);
        seen.extend(&round[..2]);
        gate.put_off(round[2]);
    }
    seen.sort_unstable();
    assert_eq!(seen, twice);
    let mut seen: Vec<_> = (0..5)
        .flat_map(|_| gate.stream_turns(2, true, &around))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, twice);
}

#[test]
fn of_too_many_without_money_who_has_waited_longest_is_given_up() {
    let mut world = World::new();
    let (session, first) = world.stream(40);
    let others: Vec<_> = (0..32).map(|_| world.stream_of(&session)).collect();
    let left = world.account(&session).free();
    world.account(&session).deposited -= left;
    world.chunk(first, &EVENT.repeat(60));
    world.flow(100);
    for stream in &others {
        world.chunk(*stream, &EVENT.repeat(60));
    }
    let sent = world.flow(1_000);
    let ended: Vec<_> = sent
        .iter()
        .filter(|(_, _, bytes)| bytes.contains("session-timeout"))
        .map(|(_, id, _)| *id)
        .collect();
    assert_eq!(ended, [first]);
}

#[test]
fn whose_session_has_money_is_not_given_up_for_others_that_have_none() {
    let mut world = World::new();
    let poor: Vec<_> = (0..17).map(|_| world.stream(1)).collect();
    for (session, first) in poor {
        world.account(&session).deposited += 30 * PRICE;
        let others: Vec<_> = (0..30).map(|_| world.stream_of(&session)).collect();
        let left = world.account(&session).free();
        world.account(&session).deposited -= left;
        for stream in others.into_iter().chain([first]) {
            world.chunk(stream, &EVENT.repeat(60));
        }
    }
    let ended = world.flow(200);
    let ended = ended
        .iter()
        .filter(|(_, _, bytes)| bytes.contains("timeout"));
    assert_eq!(ended.count(), 17 * 31 - 512);
    // The ledger does not answer: of these it is not known that they cannot pay.
    let (session, first) = world.stream(100);
    let late: Vec<_> = (0..50).map(|_| world.stream_of(&session)).collect();
    for stream in late.iter().chain([&first]) {
        world.chunk(*stream, &EVENT.repeat(100));
    }
    for _ in 0..10 {
        world.gate.now_ms += 20;
        world.gate.gate.tick(world.gate.now());
        world.turns(true);
    }
    let gate = &world.gate.gate;
    assert!(gate.has_stream(first) && late.iter().all(|one| gate.has_stream(*one)));
    world.account(&session).deposited += 51 * 100 * PRICE;
    let sent = world.flow(3_000);
    assert!(!contains(&sent, "timeout") && contains(&sent, "data: 1"));
}

#[test]
fn a_stream_that_is_over_is_forgotten_also_where_nothing_is_done_at_its_end() {
    let ends = [(&b"data: [DONE]\n\n"[..], false), (b"", false), (b"", true)];
    for (last, has_trailers) in ends {
        let mut world = World::new();
        let (_, stream) = world.stream(3);
        world.chunk(stream, EVENT);
        world.chunk(stream, last);
        let around = world.gate.around();
        let gate = &mut world.gate.gate;
        let step = match has_trailers {
            true => gate.stream_trailers(stream, &around),
            false => gate.stream_chunk(stream, b"", true, &around),
        };
        assert!(step.is_some() && !gate.has_stream(stream) && gate.streams() == 0);
    }
}

#[test]
fn an_answer_without_a_body_is_sold_as_a_whole() {
    let mut world = World::new();
    let session = world.session("/v4/x", 10 * PRICE);
    let mut head = world.bearer(&session, "/v4/x");
    head.0[0].1 = b"HEAD".to_vec();
    // The first one is asked for, the second one is known.
    for _ in 0..2 {
        let spent = world.asked(&head).spent();
        assert!(!Admission::Session(spent).is_by_event());
        let get = world.bearer(&session, "/v4/x");
        let spent = world.asked(&get).spent();
        assert!(Admission::Session(spent).is_by_event());
    }
    world.flow(200);
    assert_eq!(world.account(&session).spent, 5 * PRICE);
    // So with the request that opens a session.
    let line = world.challenge("/v4/x");
    let credential = world.paid(&line, "open", &[("returnInvoice", RETURN)]);
    head = Sent::get("/v4/x").with("authorization", &credential);
    head.0[0].1 = b"HEAD".to_vec();
    assert!(matches!(world.at_once(&head), Seen::Held));
    let (kind, request) = world.errand::<OpenRequest>("/v1/sessions/open");
    let body = world.opened(&request, 10 * PRICE);
    world.gate.respond(kind, 200, true, &body);
    let spent = world.due().spent();
    assert!(!Admission::Session(spent).is_by_event());
}
