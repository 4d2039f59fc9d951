//! The meter against a model of how Envoy treats a response's body.

mod envoy;
mod properties;

use self::envoy::{Envoy, Purse, word};
use super::*;

const EVENTS: &[u8] = b"data: 1\n\ndata: 2\n\ndata: 3\n\n";

fn receipt(units: u64) -> String {
    Purse::default().receipt(units)
}

fn text(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn what_is_paid_passes_untouched() {
    let mut envoy = Envoy::with_units(5);
    let step = envoy.meter.chunk(EVENTS, false, &mut envoy.purse, None);
    assert_eq!(step, Step::NOTHING);
    assert_eq!(envoy.purse.units, 3, "the first one came with the request");
}

#[test]
fn at_the_end_of_the_balance_what_is_paid_leaves_then_the_word_then_after_credit_the_rest() {
    let mut envoy = Envoy::with_units(1);
    envoy.data(EVENTS, false);
    envoy.tick(true);
    let held = text(&["data: 1\n\ndata: 2\n\n", &word()]);
    assert_eq!(envoy.sent(), held);
    // Said once.
    envoy.tick(true);
    assert_eq!(envoy.sent(), held);
    envoy.purse.units = 1;
    envoy.tick(true);
    assert_eq!(envoy.sent(), text(&[&held, "data: 3\n\n"]));
    envoy.data(b"data: [DONE]\n\n", true);
    let all = text(&[&held, "data: 3\n\n", &receipt(3), "data: [DONE]\n\n"]);
    assert_eq!(envoy.sent(), all);
    assert!(envoy.is_ended && envoy.meter.is_over() && envoy.meter.unsent() == 0);
}

#[test]
fn each_exhaustion_is_told() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(EVENTS, false);
    envoy.tick(true);
    envoy.purse.units = 1;
    envoy.tick(true);
    envoy.tick(true);
    let expected = text(&["data: 1\n\n", &word(), "data: 2\n\n", &word()]);
    assert_eq!(envoy.sent(), expected);
}

#[test]
fn a_late_lease_is_not_told_of() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(EVENTS, false);
    envoy.tick(false);
    assert_eq!(envoy.sent(), "data: 1\n\n");
    envoy.purse.units = 2;
    envoy.tick(false);
    assert_eq!(envoy.sent().as_bytes(), EVENTS);
}

#[test]
fn what_an_upstream_calls_by_our_names_is_paid_for() {
    for name in [
        "payment-receipt",
        "payment-need-topup",
        "session-timeout",
        "payment-x",
    ] {
        let mut envoy = Envoy::with_units(1);
        let event = format!("event: {name}\ndata: {{}}\n\n");
        envoy.data(event.repeat(3).as_bytes(), false);
        assert!(envoy.meter.is_waiting());
        assert_eq!(envoy.purse.units, 0, "{name}");
    }
}

#[test]
fn the_start_of_an_event_waits_for_its_end() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(b": hello\n\ndata: 1\n\nid: 2\nda", false);
    assert_eq!(envoy.sent(), ": hello\n\ndata: 1\n\n");
    envoy.data(b"ta: 2\n\n", false);
    envoy.tick(true);
    assert_eq!(envoy.sent(), text(&[": hello\n\ndata: 1\n\n", &word()]));
    envoy.purse.units = 1;
    envoy.tick(true);
    assert!(envoy.sent().ends_with("\n\nid: 2\ndata: 2\n\n"));
}

#[test]
fn a_receipt_stands_before_done_or_at_the_end() {
    for (input, expected) in [
        (
            "data: 1\n\ndata: [DONE]\n\n",
            "data: 1\n\n|data: [DONE]\n\n",
        ),
        ("data: 1\n\n", "data: 1\n\n|"),
        ("data: 1\n\ndata: 2", "data: 1\n\n|data: 2"),
        ("data: 1\n\n: bye\n", "data: 1\n\n|: bye\n"),
        ("data: 1\n\ndata: [DONE]", "data: 1\n\n|data: [DONE]"),
    ] {
        let units = input.matches("data: ").count() - input.matches("DONE").count();
        let expected = expected.replace('|', &receipt(units as u64));
        for cut in 0..=input.len() {
            let (first, second) = input.as_bytes().split_at(cut);
            let mut envoy = Envoy::with_units(9);
            envoy.data(first, false);
            envoy.data(second, true);
            assert_eq!(envoy.sent(), expected, "{cut}");
            let mut envoy = Envoy::with_units(9);
            envoy.data(first, false);
            envoy.data(second, false);
            envoy.data(b"", true);
            assert_eq!(envoy.sent(), expected, "{cut}");
        }
    }
}

#[test]
fn who_does_not_pay_is_told_so_and_the_stream_ends() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(EVENTS, false);
    envoy.tick(true);
    envoy.time_out();
    let expected = text(&["data: 1\n\n", &word(), &receipt(1), "TIMEOUT\n\n"]);
    assert_eq!(envoy.sent(), expected);
    assert!(!envoy.is_ended && !envoy.is_closed);
    // What still comes is dropped, also when it could be paid.
    envoy.purse.units = 9;
    envoy.data(b"data: 4\n\n", false);
    assert_eq!(envoy.sent(), expected);
    envoy.tick(true);
    assert!(envoy.is_closed);
    assert_eq!((envoy.meter.unsent(), envoy.purse.units), (0, 9));
}

#[test]
fn an_upstream_that_ends_after_the_time_limit_ends_the_stream_cleanly() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(EVENTS, false);
    envoy.tick(true);
    envoy.time_out();
    envoy.data(b"data: 4\n\n", true);
    assert!(envoy.is_ended && envoy.sent().ends_with("TIMEOUT\n\n"));
}

#[test]
fn when_the_upstream_has_ended_the_time_limit_ends_the_stream_cleanly() {
    let mut envoy = Envoy::with_units(1);
    envoy.data(b"data: 1\n\n", false);
    envoy.data(b"data: 2\n\ndata: 3\n\n", true);
    envoy.tick(true);
    assert_eq!(
        envoy.sent(),
        "data: 1\n\n",
        "nothing can leave without the end"
    );
    envoy.time_out();
    let expected = text(&["data: 1\n\ndata: 2\n\n", &receipt(2), "TIMEOUT\n\n"]);
    assert_eq!(envoy.sent(), expected);
    assert!(envoy.is_ended && envoy.meter.unsent() == 0);
}

#[test]
fn a_stream_without_events_gives_its_unit_back() {
    for input in [&b""[..], b": nothing\n\n", b"data: [DONE]\n\n"] {
        let mut envoy = Envoy::with_units(1);
        envoy.data(input, true);
        assert_eq!((envoy.meter.unsent(), envoy.purse.units), (1, 1));
        assert!(envoy.sent().contains(&receipt(0)));
    }
    // Who leaves before an event has come does not get it back.
    let mut envoy = Envoy::with_units(1);
    envoy.data(b": nothing\n\n", false);
    assert_eq!(envoy.meter.unsent(), 0);
}

#[test]
fn an_upstream_that_is_too_quick_is_slowed_down_and_then_all_leaves_together() {
    let mut envoy = Envoy::with_units(0);
    let event = [b"data: ".as_slice(), &[b'x'; 10_000], b"\n\n"].concat();
    let mut input = [b"data: 1\n\n", &event[..]].concat();
    envoy.data(&input, false);
    envoy.tick(true);
    let mut count = 1;
    while !envoy.is_slowed() {
        envoy.data(&event, false);
        input.extend_from_slice(&event);
        count += 1;
        assert!(count < 1_000);
    }
    assert!(envoy.meter.held() == 0 && envoy.meter.is_waiting());
    envoy.purse.units = count - 1;
    envoy.tick(true);
    assert_eq!(envoy.sent(), text(&["data: 1\n\n", &word()]));
    assert_eq!((envoy.purse.units, envoy.meter.unsent()), (0, count - 1));
    envoy.purse.units = 1;
    envoy.tick(true);
    assert_eq!(envoy.sent().replace(&word(), "").as_bytes(), input);
    assert_eq!((envoy.purse.units, envoy.meter.unsent()), (0, 0));
    envoy.data(b"data: 2\n\n", true);
    assert!(envoy.meter.is_waiting() && !envoy.is_ended);
}

#[test]
fn units_for_what_could_not_leave_any_more_are_known() {
    let mut envoy = Envoy::with_units(0);
    let event = [b"data: ".as_slice(), &[b'x'; 10_000], b"\n\n"].concat();
    while !envoy.is_slowed() {
        envoy.data(&event, false);
    }
    envoy.purse.units = 3;
    envoy.tick(true);
    envoy.time_out();
    assert!(envoy.is_closed);
    assert_eq!((envoy.meter.unsent(), envoy.purse.units), (3, 0));
}

#[test]
fn a_large_event_is_paid_at_its_start_and_not_kept() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(b"data: 1\n\n", false);
    let large = [b"data: ".as_slice(), &[b'x'; 100_000]].concat();
    for chunk in large.chunks(10_000) {
        envoy.data(chunk, false);
    }
    envoy.tick(true);
    assert_eq!(envoy.sent(), text(&["data: 1\n\n", &word()]));
    envoy.purse.units = 2;
    tick_until_quiet(&mut envoy);
    assert_eq!(envoy.purse.units, 1);
    envoy.data(&[b'y'; 100_000], false);
    assert_eq!(envoy.meter.held(), 0);
    envoy.data(b"\n\ndata: 3\n\n", false);
    assert_eq!(envoy.purse.units, 0);
    let expected = [
        b"data: 1\n\n",
        &large[..],
        &[b'y'; 100_000],
        b"\n\ndata: 3\n\n",
    ]
    .concat();
    assert_eq!(envoy.sent().replace(&word(), "").as_bytes(), expected);
}

#[test]
fn trailers_wait_for_what_came_before_them() {
    let mut envoy = Envoy::with_units(0);
    envoy.data(EVENTS, false);
    envoy.trailers();
    assert!(!envoy.is_ended);
    envoy.purse.units = 2;
    envoy.tick(true);
    let expected = [EVENTS, receipt(3).as_bytes()].concat();
    assert_eq!(envoy.sent().as_bytes(), expected);
    assert!(envoy.is_ended);
}

fn event(size: usize) -> Vec<u8> {
    [b"data: ".as_slice(), &vec![b'x'; size], b"\n\n"].concat()
}

fn theirs(envoy: &Envoy) -> Vec<u8> {
    envoy.sent().replace(&word(), "").into_bytes()
}

fn tick_until_quiet(envoy: &mut Envoy) {
    for _ in 0..100 {
        envoy.tick(true);
    }
}

#[test]
fn after_a_large_chunk_a_tick_lets_go_what_is_paid_without_another_chunk() {
    let event = event(10_000);
    let mut envoy = Envoy::with_units(1);
    envoy.data(&event.repeat(4), false);
    tick_until_quiet(&mut envoy);
    let held = [event.repeat(2), word().into_bytes()].concat();
    assert_eq!(envoy.sent().as_bytes(), held);
    envoy.data(&event.repeat(4), false);
    envoy.purse.units = 6;
    tick_until_quiet(&mut envoy);
    assert_eq!(theirs(&envoy), event.repeat(8));

    // The next one may be as large as the buffer: nothing of ours is in it.
    let mut envoy = Envoy::with_units(1);
    envoy.data(&event.repeat(4), false);
    envoy.data(&event.repeat(13), false);
    envoy.purse.units = 16;
    envoy.data(&event, false);
    tick_until_quiet(&mut envoy);
    assert_eq!(envoy.sent().as_bytes(), event.repeat(18));
}

#[test]
fn much_that_few_units_pay_for_leaves_with_a_tick_once_they_are_there() {
    let event = event(10_000);
    let mut envoy = Envoy::with_units(1);
    for _ in 0..9 {
        envoy.data(&event, false);
        envoy.tick(true);
    }
    tick_until_quiet(&mut envoy);
    envoy.purse.units = 7;
    tick_until_quiet(&mut envoy);
    assert_eq!(theirs(&envoy), event.repeat(9));
    assert_eq!((envoy.purse.units, envoy.meter.unsent()), (0, 0));
}

#[test]
fn much_that_many_units_pay_for_is_paid_by_ticks_and_leaves_by_and_by() {
    let event = event(1_000);
    let mut envoy = Envoy::with_units(0);
    for _ in 0..100 {
        envoy.data(&event, false);
    }
    assert!(envoy.meter.held() > STOP_LIMIT);
    envoy.purse.units = 10;
    tick_until_quiet(&mut envoy);
    assert_eq!(envoy.purse.units, 0, "so the stream does not time out");
    envoy.data(&event, false);
    tick_until_quiet(&mut envoy);
    assert_eq!(theirs(&envoy), event.repeat(11));
    assert!(envoy.sent().contains(&word()));
    envoy.purse.units = 90;
    tick_until_quiet(&mut envoy);
    assert!(!envoy.meter.is_waiting());
    envoy.data(b"data: 1\n\n", true);
    tick_until_quiet(&mut envoy);
    envoy.purse.units = 1;
    tick_until_quiet(&mut envoy);
    assert!(envoy.is_ended && envoy.meter.unsent() == 0);
}

#[test]
fn after_a_huge_chunk_the_upstream_is_slowed_down_at_once() {
    let event = event(10_000);
    let mut envoy = Envoy::with_units(1);
    envoy.data(&event.repeat(10), false);
    envoy.tick(true);
    assert_eq!(envoy.sent().as_bytes(), event.repeat(2));
    // What is as large as the buffer does not reset the stream, and what is paid goes on.
    envoy.purse.units = 3;
    envoy.data(&event.repeat(100), false);
    envoy.tick(true);
    assert_eq!(theirs(&envoy), event.repeat(5));
    envoy.data(&event.repeat(100), false);
    assert!(envoy.is_slowed());
    envoy.purse.units = 205;
    envoy.tick(true);
    assert_eq!(theirs(&envoy), event.repeat(210));

    // A small chunk says that it is not quick any more.
    let mut envoy = Envoy::with_units(1);
    envoy.data(&event.repeat(6), false);
    envoy.data(b": still here\n\n", false);
    tick_until_quiet(&mut envoy);
    let told = [event.repeat(2), word().into_bytes()].concat();
    assert_eq!(envoy.sent().as_bytes(), told);

    // Trailers come where nothing can be put back: broken off, and nothing is paid for nothing.
    for units in [1, 20] {
        let mut envoy = Envoy::with_units(1);
        envoy.data(&event.repeat(12), false);
        envoy.purse.units = units - 1;
        if units > 1 {
            envoy.tick(true);
        }
        envoy.trailers();
        assert!(envoy.is_closed);
        let sent = envoy.sent().len() / event.len();
        let spent = envoy.purse.taken + 1 - envoy.meter.unsent();
        assert_eq!(spent, sent as u64);
    }
}

#[test]
fn units_for_the_start_of_what_waits_as_a_whole_are_known() {
    let event = event(10_000);
    for chunk in [1, 30, 150] {
        let mut envoy = Envoy::with_units(2);
        envoy.data(&event.repeat(5), false);
        envoy.data(&event.repeat(chunk), true);
        envoy.tick(true);
        if !envoy.is_closed {
            envoy.time_out();
        }
        let sent = envoy.sent().matches("data: x").count() as u64;
        assert_eq!(envoy.purse.taken + 1 - envoy.meter.unsent(), sent);
    }
}
