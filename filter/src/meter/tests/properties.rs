//! Any stream, cut anywhere, with any pattern of credit.

use proptest::collection::vec;
use proptest::prelude::*;
use protocol::payment::sse::{Kind, Scanner};

use super::STOP_LIMIT;
use super::envoy::{Envoy, word};

/// What happens next.
#[derive(Clone, Debug)]
enum Act {
    /// So many bytes come.
    Data(usize),
    Credit(u64),
    Tick(bool),
    TimeOut,
}

/// How the upstream ends.
#[derive(Clone, Copy, Debug)]
enum End {
    WithData,
    Alone,
    Trailers,
    /// Reset, or not yet.
    Never,
}

fn large_piece() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => piece(),
        1 => (1_000_usize..150_000).prop_map(|size| format!("data: {}\n\n", "x".repeat(size))),
    ]
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z]{1,9}".prop_map(|text| format!("data: {text}\n\n")),
        2 => "[a-z]{1,9}".prop_map(|text| format!("id: 7\r\nevent: e\r\ndata:{text}\r\n\r\n")),
        1 => Just("data: a\rdata: b\r\r".to_owned()),
        1 => Just(": comment\n\n".to_owned()),
        1 => Just("data\n\n".to_owned()),
        1 => Just("event: later\n\n\n".to_owned()),
        1 => Just("data: [DONE]\n\n".to_owned()),
        1 => Just("id: 9\ndata: [DONE]\r\n\r\n".to_owned()),
        1 => Just("event: session-timeout\ndata: theirs\n\n".to_owned()),
    ]
}

fn stream(piece: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let tail = prop_oneof![
        3 => Just(""),
        1 => Just("data: unfinished"),
        1 => Just("data: unfinished\r\n"),
        1 => Just(": unfin"),
        1 => Just("data: [DONE]\n"),
        1 => Just("id: 1\nev"),
    ];
    (vec(piece, 0..40), tail).prop_map(|(pieces, tail)| pieces.concat() + tail)
}

fn act(most: usize) -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..most).prop_map(Act::Data),
        2 => (1_u64..6).prop_map(Act::Credit),
        3 => any::<bool>().prop_map(Act::Tick),
    ]
}

/// Events as a reader sees them, by the standard: name, data, id; and what is left unfinished.
fn parse(text: &str) -> (Vec<(String, String, String)>, String) {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let (mut name, mut data, mut id) = (String::new(), None::<String>, String::new());
    let mut rest = text.as_str();
    let mut start = rest;
    while let Some((line, after)) = rest.split_once('\n') {
        rest = after;
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push((name.clone(), data, id.clone()));
            }
            name.clear();
            id.clear();
            start = rest;
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                let so_far = data.take().map(|data| data + "\n").unwrap_or_default();
                data = Some(so_far + value);
            }
            "event" => value.clone_into(&mut name),
            "id" => value.clone_into(&mut id),
            _ => {}
        }
    }
    (events, start.to_owned())
}

fn without_ours(sent: &str) -> String {
    let mut text = sent.replace(&word(), "").replace("TIMEOUT\n\n", "");
    while let Some(at) = text.find("event: payment-receipt\n") {
        let length = text[at..].find("\n\n").unwrap() + 2;
        text.replace_range(at..at + length, "");
    }
    text
}

fn data_events(text: &str) -> u64 {
    let mut scanner = Scanner::new();
    let whole = scanner.feed(text.as_bytes());
    let whole = whole.filter(|event| event.kind == Kind::Data).count();
    whole as u64 + u64::from(scanner.unfinished() == Some(Kind::Data))
}

/// What must hold at any time.
fn check(envoy: &Envoy, input: &str) {
    let sent = envoy.sent();
    let theirs = without_ours(sent);
    assert!(
        input.starts_with(&theirs),
        "bytes are lost, doubled or moved"
    );
    let (bought, taken) = (data_events(&theirs), envoy.purse.taken + 1);
    assert!(bought <= taken, "{bought} events for {taken} units");
    // Ours stand between whole events of theirs.
    let mut expected = parse(&theirs).0;
    for event in parse(sent).0 {
        let is_ours = event.0 == "payment-receipt" || event.0 == "payment-need-topup";
        if !is_ours {
            assert_eq!(event, expected.remove(0));
        } else {
            assert!(event.2.is_empty());
        }
    }
    assert!(expected.is_empty());
}

fn run(input: &str, acts: &[Act], end: End, units: u64) {
    let mut envoy = Envoy::with_units(units);
    let mut rest = input.as_bytes();
    let mut is_cut = false;
    for act in acts {
        match act {
            Act::Data(size) => {
                if rest.is_empty() || envoy.is_slowed() || envoy.is_closed {
                    continue;
                }
                let (chunk, after) = rest.split_at(rest.len().min(*size));
                rest = after;
                envoy.data(chunk, rest.is_empty() && matches!(end, End::WithData));
                if rest.is_empty() {
                    match end {
                        End::Alone if !envoy.is_slowed() => envoy.data(b"", true),
                        End::Trailers if !envoy.is_slowed() => envoy.trailers(),
                        _ => {}
                    }
                }
            }
            Act::Credit(more) => envoy.purse.units += more,
            Act::Tick(says) => envoy.tick(*says),
            Act::TimeOut => {
                is_cut |= envoy.meter.is_waiting();
                if envoy.meter.is_waiting() {
                    envoy.time_out();
                }
            }
        }
        if input.len() < 1_000 {
            check(&envoy, input);
        }
    }
    check(&envoy, input);
    if is_cut || !rest.is_empty() || envoy.is_slowed() {
        return;
    }
    // All that is held leaves once there is credit.
    envoy.purse.units += 1_000;
    for _ in 0..500 {
        envoy.tick(true);
    }
    check(&envoy, input);
    assert!(!envoy.meter.is_waiting());
    let theirs = without_ours(envoy.sent());
    let left = &input[theirs.len()..];
    if envoy.is_ended {
        assert_eq!(
            envoy
                .sent()
                .matches("event: payment-receipt\n")
                .count()
                .max(1),
            1
        );
        if left.is_empty() {
            let prepaid = u64::from(data_events(input) > 0);
            assert_eq!(envoy.purse.taken + prepaid, data_events(input));
            assert_eq!(envoy.meter.unsent(), 1 - prepaid);
        } else {
            assert!(matches!(end, End::Trailers));
        }
    }
    // Only what could not be an event yet, or, where it is much, can leave with what comes next.
    let is_little = input.len() <= STOP_LIMIT && !envoy.is_closed;
    assert!(parse(left).0.is_empty() || !is_little && !envoy.meter.wants_tick());
    if envoy.knows_the_end() && !envoy.is_ended {
        // What waited could not be put back.
        assert!(envoy.is_closed && matches!(end, End::Trailers) && input.len() > 16_384);
    }
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::WithData),
        Just(End::Alone),
        Just(End::Trailers),
        Just(End::Never),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn bytes_leave_in_order_and_paid(
        input in stream(piece()),
        acts in vec(act(40), 0..80),
        end in end(),
        units in 0_u64..8,
    ) {
        run(&input, &acts, end, units);
    }

    #[test]
    fn a_time_limit_at_any_moment_does_no_harm(
        input in stream(piece()),
        before in vec(act(40), 0..30),
        after in vec(act(40), 0..30),
        end in end(),
        units in 0_u64..3,
    ) {
        let acts: Vec<_> = before.into_iter().chain([Act::TimeOut]).chain(after).collect();
        run(&input, &acts, end, units);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn large_streams_leave_in_order_and_paid(
        input in stream(large_piece()),
        acts in vec(act(40_000), 0..150),
        end in end(),
        units in 0_u64..8,
    ) {
        run(&input, &acts, end, units);
    }

    #[test]
    fn a_time_limit_of_a_large_stream_does_no_harm(
        input in stream(large_piece()),
        before in vec(act(40_000), 0..90),
        after in vec(act(40_000), 0..30),
        end in end(),
        units in 0_u64..3,
    ) {
        let acts: Vec<_> = before.into_iter().chain([Act::TimeOut]).chain(after).collect();
        run(&input, &acts, end, units);
    }
}
