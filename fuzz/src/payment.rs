//! The Payment scheme.

use std::sync::LazyLock;

use protocol::keys::{ChallengeKeys, PaymentKey, PaymentKeys};
use protocol::payment::accept::AcceptPayment;
use protocol::payment::authorization::{self, Upstream};
use protocol::payment::event::Balance;
use protocol::payment::receipt::{self, Receipt};
use protocol::payment::request::{self, ChargeRequest, SessionRequest};
use protocol::payment::sse::{Event, Scanner};
use protocol::payment::{Challenge, Credential, Intent, Realm, Target, credential, jcs, verify};

use crate::NOW;

/// Charge and session keys of every generation, so that any id may find one.
static CHALLENGE_KEYS: LazyLock<(Realm, ChallengeKeys, ChallengeKeys)> = LazyLock::new(|| {
    let keys: PaymentKeys = (0..=u8::MAX)
        .map(|generation| (generation, PaymentKey::new([7; 32])))
        .collect();
    let realm: Realm = "api.example.com".parse().expect("a realm");
    (realm.clone(), keys.charge("a"), keys.session(&realm))
});
/// `WWW-Authenticate`, one value per line: what is read as a Payment challenge is written and read
/// as the same, and none is ours. The last line is also read as `Accept-Payment`.
pub fn payment_challenge(data: &[u8]) {
    let offers = [Intent::Charge, Intent::Session];
    for line in data.split(|byte| *byte == b'\n') {
        let selected = AcceptPayment::parse([line]).select(&offers);
        assert!((1..=2).contains(&selected.len()));
        let Ok(text) = std::str::from_utf8(line) else {
            continue;
        };
        for challenge in Challenge::parse_list(text).unwrap_or_default() {
            assert!(!challenge.id.is_empty());
            let written = challenge.to_line();
            if written.len() <= protocol::http::auth::MAX_LEN {
                let again = Challenge::parse_list(&written).expect("what was written");
                assert_eq!(again, [challenge]);
            }
        }
    }
}

/// `Authorization`, one value per line, or the JSON of a credential: nothing of ours is left for
/// the upstream, and nobody who does not have the key is let in.
pub fn payment_credential(data: &[u8]) {
    let values: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let found = authorization::parse(values.iter().copied(), []);
    match &found.upstream {
        Upstream::Untouched => assert!(!found.is_ours()),
        Upstream::Removed => assert!(found.is_ours()),
        Upstream::Replaced(rest) => {
            assert!(found.is_ours());
            assert!(!authorization::parse([rest.as_slice()], []).is_ours());
        }
    }
    if let Ok(Some(presented)) = &found.presented
        && let Ok(credential) = presented.credential()
    {
        refuse(&credential);
    }
    if let Ok(credential) = Credential::from_json(data) {
        refuse(&credential);
        let header = credential::encode(&credential.challenge, &[]);
        let again = authorization::parse([header.as_bytes()], []).presented;
        if let Ok(Some(again)) = again {
            let again = again.credential().ok().expect("what was written is read");
            assert_eq!(again.challenge, credential.challenge);
        }
    }
}

fn refuse(credential: &Credential<'_>) {
    let (realm, charge, session) = &*CHALLENGE_KEYS;
    let target = Target {
        realm,
        charge: Some(charge),
        session: Some(session),
        body: None,
        now: NOW,
    };
    let refusal = verify(credential, &target).expect_err("nobody has the key");
    assert!(matches!(refusal.status(), 400 | 402));
    let _ = credential.charge_preimage();
    let _ = credential.session_payload();
}

/// The JSON of a request, or its base64url: it comes back, and what is written is canonical. Any
/// JSON has one canonical form.
pub fn payment_request(data: &[u8]) {
    let decoded = std::str::from_utf8(data)
        .ok()
        .and_then(|text| request::decode(text).ok());
    for json in [Some(data), decoded.as_deref()].into_iter().flatten() {
        if let Ok(value) = serde_json::from_slice::<serde_json::Value>(json) {
            let canonical = jcs::to_string(&value);
            assert_eq!(canonical_form(canonical.as_bytes()), canonical);
        }
        if let Ok(read) = ChargeRequest::from_json(json) {
            let written = read.to_json();
            assert_eq!(canonical_form(written.as_bytes()), written);
            assert_eq!(
                ChargeRequest::from_json(written.as_bytes()),
                Ok(read.clone())
            );
        }
        if let Ok(read) = SessionRequest::from_json(json) {
            let written = read.to_json();
            assert_eq!(canonical_form(written.as_bytes()), written);
            assert_eq!(
                SessionRequest::from_json(written.as_bytes()),
                Ok(read.clone())
            );
        }
    }
}

/// The JSON of a receipt or of an event, or its base64url: it comes back.
pub fn payment_receipt(data: &[u8]) {
    let decoded = std::str::from_utf8(data)
        .ok()
        .and_then(|text| receipt::decode(text).ok());
    for json in [Some(data), decoded.as_deref()].into_iter().flatten() {
        if let Ok(read) = Receipt::from_json(json) {
            let written = receipt::decode(&read.to_header()).expect("what was written");
            assert_eq!(Receipt::from_json(&written), Ok(read.clone()));
        }
        if let Some(read) = Balance::from_json(json) {
            assert_eq!(
                Balance::from_json(read.to_json().as_bytes()),
                Some(read.clone())
            );
            assert_eq!(events(read.need_topup().as_bytes(), 0).len(), 1);
        }
    }
}

fn canonical_form(json: &[u8]) -> String {
    jcs::to_string(&serde_json::from_slice(json).expect("what was written is JSON"))
}

/// A stream is scanned the same in one piece, byte by byte, and cut at the place that its first
/// byte says.
pub fn sse(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = events(stream, 0);
    for length in [1, usize::from(*cut).max(1)] {
        let cut = events(stream, length);
        assert_eq!(cut.len(), whole.len());
        for (cut, whole) in cut.iter().zip(&whole) {
            assert_eq!(cut.kind, whole.kind);
            // Of a CR LF that is cut in two the event has the CR only.
            assert!(cut.end == whole.end || cut.end + 1 == whole.end && cut.end % length == 0);
        }
    }
}

/// Events with their ends in the whole stream; a length of zero means in one piece.
fn events(stream: &[u8], length: usize) -> Vec<Event> {
    let mut scanner = Scanner::new();
    let mut all = Vec::new();
    let length = if length == 0 {
        stream.len().max(1)
    } else {
        length
    };
    for (index, chunk) in stream.chunks(length).enumerate() {
        all.extend(scanner.feed(chunk).map(|event| {
            assert!((1..=chunk.len()).contains(&event.end));
            Event {
                end: event.end + index * length,
                kind: event.kind,
            }
        }));
    }
    all
}
