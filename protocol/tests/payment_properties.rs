//! What holds for all inputs of the Payment scheme.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use protocol::hash::PaymentHash;
use protocol::payment::accept::AcceptPayment;
use protocol::payment::event::Balance;
use protocol::payment::receipt::{self, Receipt, Refund, RefundStatus};
use protocol::payment::request::{self, ChargeRequest, Network, SessionRequest};
use protocol::payment::sse::{Kind, Scanner};
use protocol::payment::{Challenge, Credential, Intent, Refusal, authorization, credential, jcs};
use serde_json::Value;

#[path = "common/payment.rs"]
mod shop;

use shop::{Shop, preimage, sat};

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        "[\\x00-\\x7f]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(
                ("\\PC{0,3}|[\u{e000}-\u{ffff}\u{10000}-\u{10010}]", inner),
                0..6
            )
            .prop_map(|members| members.into_iter().collect::<Value>()),
        ]
    })
}

fn canonical(json: &str) -> String {
    jcs::to_string(&serde_json::from_str(json).unwrap())
}

/// Text in which the beginnings and ends of SSE lines are likely.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        5 => Just("\n"), 3 => Just("\r"), 3 => Just("\r\n"), 2 => Just("\n\n"),
        3 => Just("data: "), 2 => Just("data:"), 2 => Just("data"), 2 => Just("[DONE]"),
        1 => Just("event: payment-x"), 1 => Just("event: session-timeout"), 1 => Just("event:"),
        1 => Just(": "), 1 => Just("x"), 1 => Just("\u{feff}"), 1 => Just(" "),
        1 => Just("data: [DONE]\n\n"), 1 => Just("a text that is longer than what is kept of it"),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

/// The algorithm of the WHATWG text, on the whole stream at once.
fn naive(stream: &[u8]) -> Vec<Kind> {
    let text = std::str::from_utf8(stream).unwrap();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    // What follows the last line break is no line.
    let Some((lines, _)) = text.rsplit_once('\n') else {
        return Vec::new();
    };
    let (mut kinds, mut data) = (Vec::new(), String::new());
    for line in lines.split('\n') {
        if line.is_empty() {
            let whole = data.strip_suffix('\n').unwrap_or_default();
            if !whole.is_empty() {
                kinds.push(match whole {
                    "[DONE]" => Kind::Done,
                    _ => Kind::Data,
                });
            }
            data = String::new();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        if field == "data" {
            data.extend([value, "\n"]);
        }
    }
    kinds
}

fn network() -> impl Strategy<Value = Network> {
    prop_oneof![
        Just(Network::Mainnet),
        Just(Network::Regtest),
        Just(Network::Signet)
    ]
}

proptest! {
    // A failure prints its input, to be kept as an ordinary test.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_json_is_its_own_canonical_form(value in json()) {
        let once = jcs::to_string(&value);
        prop_assert_eq!(canonical(&once), once);
    }

    #[test]
    fn canonical_numbers_are_the_same_doubles(number in any::<f64>()) {
        let text = jcs::to_string(&Value::from(number));
        prop_assert_eq!(text.parse::<f64>().unwrap(), number, "{}", text);
    }

    #[test]
    fn charge_requests_come_back_and_are_canonical(
        amount in 1..=protocol::amount::Sat::MAX.get(),
        texts in vec(option::of("\\PC{0,12}|[\\x00-\\x7f]{0,12}"), 3),
        invoice in "\\PC{0,20}",
        hash in option::of(any::<[u8; 32]>()),
        network in option::of(network()),
    ) {
        let text = |at: usize| texts[at].as_deref().map(Into::into);
        let request = ChargeRequest {
            amount: sat(amount),
            description: text(0),
            external_id: text(1),
            recipient: text(2),
            invoice: (&*invoice).into(),
            payment_hash: hash.map(PaymentHash),
            network,
        };
        prop_assert_eq!(canonical(&request.to_json()), request.to_json());
        let json = request::decode(&request.encode()).unwrap();
        prop_assert_eq!(ChargeRequest::from_json(&json), Ok(request));
    }

    #[test]
    fn session_requests_come_back_and_are_canonical(
        amounts in (1..1000_u64, option::of(1..1000_u64), option::of(any::<u64>())),
        texts in vec(option::of("\\PC{0,12}|[\\x00-\\x7f]{0,12}"), 3),
        hash in any::<[u8; 32]>(),
    ) {
        let text = |at: usize| texts[at].as_deref().map(Into::into);
        let request = SessionRequest {
            amount: sat(amounts.0),
            deposit_amount: amounts.1.map(sat),
            deposit_invoice: text(0),
            description: text(1),
            idle_timeout_seconds: amounts.2,
            payment_hash: PaymentHash(hash),
            unit_type: text(2),
        };
        prop_assert_eq!(canonical(&request.to_json()), request.to_json());
        let json = request::decode(&request.encode()).unwrap();
        prop_assert_eq!(SessionRequest::from_json(&json), Ok(request));
    }

    #[test]
    fn receipts_and_balances_come_back_and_are_canonical(
        id in option::of("\\PC{0,12}"),
        texts in ("\\PC{0,12}", "\\PC{0,12}"),
        refund in option::of(0..1_u64 << 53),
        status in prop_oneof![
            Just(RefundStatus::Succeeded), Just(RefundStatus::Failed), Just(RefundStatus::Skipped),
        ],
        numbers in (0..1_u64 << 53, 0..1_u64 << 53),
    ) {
        let receipt = Receipt {
            challenge_id: id.map(Into::into),
            reference: (&*texts.0).into(),
            timestamp: (&*texts.1).into(),
            refund: refund.map(|sats| Refund { sats, status }),
        };
        prop_assert_eq!(canonical(&receipt.to_json()), receipt.to_json());
        let json = receipt::decode(&receipt.to_header()).unwrap();
        prop_assert_eq!(Receipt::from_json(&json), Ok(receipt));
        let balance = Balance {
            session_id: (&*texts.0).into(), spent: numbers.0, required: numbers.1,
        };
        prop_assert_eq!(canonical(&balance.to_json()), balance.to_json());
        let json = balance.to_json();
        prop_assert_eq!(Balance::from_json(json.as_bytes()), Some(balance));
    }

    #[test]
    fn challenges_and_credentials_come_back(
        required in vec("[ -~]{1,12}", 5),
        optional in vec(option::of("[ -~]{0,12}"), 4),
        payload in prop::collection::btree_map("[a-z]{1,5}", "\\PC{0,9}", 0..5),
    ) {
        let text = |at: usize| required[at].as_str().into();
        let option = |at: usize| optional[at].as_deref().map(Into::into);
        let challenge = Challenge {
            id: text(0), realm: text(1), method: text(2), intent: text(3), request: text(4),
            expires: option(0), digest: option(1), description: option(2), opaque: option(3),
        };
        let line = challenge.to_line();
        prop_assert_eq!(Challenge::parse_list(&line).unwrap(), [challenge.clone()]);
        let payload: Vec<_> = payload.iter().map(|(name, text)| (&**name, &**text)).collect();
        let header = credential::encode(&challenge, &payload);
        let presented = authorization::parse([header.as_bytes()], []).presented;
        let presented = presented.unwrap().unwrap();
        prop_assert_eq!(presented.credential().unwrap().challenge, challenge);
    }

    /// In an id or a request, in any generation; all other bound parameters as well.
    #[test]
    fn any_single_changed_bit_of_a_challenge_is_refused(
        position in any::<prop::sample::Index>(),
        which in 0..4_usize,
        bit in 0..7_u8,
    ) {
        let shop = Shop::new("a", "r");
        let mut challenge = shop.charge();
        let Challenge { id, request, expires, realm, .. } = &mut challenge;
        let changed = [id, request, expires.as_mut().unwrap(), realm].into_iter().nth(which).unwrap();
        let mut bytes = changed.as_bytes().to_vec();
        let at = position.index(bytes.len());
        bytes[at] ^= 1 << bit;
        *changed = String::from_utf8(bytes).unwrap().into();
        prop_assert_eq!(shop.present(&challenge), Err(Refusal::UnknownChallenge));
    }

    #[test]
    fn events_are_found_however_the_stream_is_cut(
        stream in stream(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut scanner = Scanner::new();
        let whole: Vec<_> = scanner.feed(&stream).collect();
        let unfinished = scanner.unfinished();
        prop_assert_eq!(whole.iter().map(|event| event.kind).collect::<Vec<_>>(), naive(&stream));
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let (mut scanner, mut found) = (Scanner::new(), Vec::new());
        for cut in cuts.windows(2) {
            let (start, end) = (cut[0], cut[1]);
            for event in scanner.feed(&stream[start..end]) {
                // Of a CR LF that is cut in two the event has the CR only.
                let at = start + event.end;
                let is_cut = at == end && stream[..at].ends_with(b"\r") && stream[at..].starts_with(b"\n");
                found.push((at + usize::from(is_cut), event.kind));
            }
        }
        let whole: Vec<_> = whole.iter().map(|event| (event.end, event.kind)).collect();
        prop_assert_eq!(found, whole);
        prop_assert_eq!(scanner.unfinished(), unfinished);
    }

    /// Who stops after each event and goes on with the rest sees the same.
    #[test]
    fn stopping_at_each_event_changes_nothing(stream in stream()) {
        let mut scanner = Scanner::new();
        let whole: Vec<_> = scanner.feed(&stream).collect();
        let (mut scanner, mut at, mut found) = (Scanner::new(), 0, Vec::new());
        while let Some(mut event) = scanner.feed(&stream[at..]).next() {
            event.end += at;
            at = event.end;
            found.push(event);
        }
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn no_parser_panics(bytes in vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let _ = authorization::parse([input], [input]);
            let _ = Credential::from_json(input);
            let _ = ChargeRequest::from_json(input);
            let _ = SessionRequest::from_json(input);
            let _ = Receipt::from_json(input);
            let _ = Balance::from_json(input);
            let _ = AcceptPayment::parse([input]).select(&[Intent::Charge]);
            let _ = Scanner::new().feed(input).count();
        }
        let _ = Challenge::parse_list(&text);
    }

    /// Nearly a credential, which random bytes never are.
    #[test]
    fn no_credential_is_left_to_the_upstream(
        parts in vec("(Payment|payment|Basic|L402|a=|\"|:|,| |\\\\|e30|W10){1,6}", 1..6),
    ) {
        let value = parts.join(", ");
        let found = authorization::parse([value.as_bytes()], []);
        if let authorization::Upstream::Replaced(rest) = found.upstream {
            let again = authorization::parse([rest.as_slice()], []);
            prop_assert!(!again.is_ours(), "{} left in {:?}", value, String::from_utf8(rest));
        }
    }
}

#[test]
fn every_changed_bit_of_one_challenge_id_and_request_is_refused() {
    let shop = Shop::new("a", "r");
    let right = shop.charge();
    assert!(shop.present(&right).is_ok());
    let sessions = shop.session(&preimage());
    let cases = [(&right, right.id.len()), (&sessions, sessions.id.len())];
    for (challenge, id_len) in cases {
        for at in 0..id_len + challenge.request.len() {
            for bit in 0..7 {
                let mut changed = challenge.clone();
                let (text, at) = match at.checked_sub(id_len) {
                    None => (&mut changed.id, at),
                    Some(at) => (&mut changed.request, at),
                };
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                *text = String::from_utf8(bytes).unwrap().into();
                let refused = shop.present(&changed);
                assert_eq!(refused, Err(Refusal::UnknownChallenge), "{at} {bit}");
            }
        }
    }
}
