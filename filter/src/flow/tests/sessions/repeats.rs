//! A topUp or close that says what was said before: a look-up each.

use super::*;

const LIMITS: &str = r#""clientLimits":{"burst":6,"paidFactor":1}"#;
const TOP_UP: &str = "/v1/sessions/topup";
const CLOSE: &str = "/v1/sessions/close";

/// A session, and credentials that add to it and end it, with where they are sent.
fn world() -> (World, [(String, &'static str); 2]) {
    let mut world = World::of(&format!("{BEHIND_TLS},{LIMITS}"), SERVICES);
    let session = world.session("/v3/x", 40);
    let own = [
        ("sessionId", session.id.as_str()),
        ("preimage", session.preimage.as_str()),
    ];
    let line = world.challenge("/v3/x");
    let top_up = world.paid(&line, "topUp", &own[..1]);
    let close = world.paid(&session.line, "close", &own);
    (world, [(top_up, TOP_UP), (close, CLOSE)])
}

/// What a sidecar says that has recorded the result; one that is older does not say when.
fn recorded(path: &str, repeated: Option<bool>) -> String {
    let mut answer = match path {
        TOP_UP => json!({"result": "credited", "at": CREDENTIAL_TIME}),
        _ => json!({"result": "closed", "at": CREDENTIAL_TIME, "refund_sats": 38,
                    "refund_status": "succeeded"}),
    };
    if let Some(repeated) = repeated {
        answer["repeated"] = json!(repeated);
    }
    answer.to_string()
}

impl World {
    /// Presents a credential that many times, and gives what came of each: the sidecar's `answer`,
    /// or what the gate says itself.
    fn presented(&mut self, credential: &str, path: &str, times: usize, answer: &str) -> Vec<u16> {
        let sent = Sent::get("/v3/x").with("authorization", credential);
        let one = |_| match self.at_once(&sent) {
            Seen::Held => {
                let (kind, _) = self.errand::<Value>(path);
                self.gate.respond(kind, 200, true, answer);
                self.due().status()
            }
            seen => seen.status(),
        };
        (0..times).map(one).collect()
    }
}

#[test]
fn a_repeated_top_up_or_close_costs_a_look_up() {
    for which in 0..2 {
        let (mut world, credentials) = world();
        let (credential, path) = &credentials[which];
        let first = recorded(path, Some(false));
        assert_eq!(world.presented(credential, path, 1, &first), [200]);
        let again = recorded(path, Some(true));
        let statuses = world.presented(credential, path, 8, &again);
        let expected = [200, 200, 200, 200, 200, 200, 429, 429];
        assert_eq!(statuses, expected, "{path}");
        // Another one has to wait as well, and all are served in time.
        let (other, others) = &credentials[1 - which];
        let first = recorded(others, Some(false));
        assert_eq!(world.presented(other, others, 1, &first), [429]);
        world.gate.now_ms += 300_000;
        world.refresh();
        assert_eq!(world.presented(credential, path, 1, &again), [200]);
    }
}

#[test]
fn one_that_is_not_said_to_be_repeated_costs_nothing() {
    for which in 0..2 {
        for repeated in [None, Some(false)] {
            let (mut world, credentials) = world();
            let (credential, path) = &credentials[which];
            let answer = recorded(path, repeated);
            let statuses = world.presented(credential, path, 12, &answer);
            assert_eq!(statuses, [200; 12], "{path} {repeated:?}");
        }
    }
}

#[test]
fn a_retry_after_a_lost_answer_gets_the_recorded_result_at_once() {
    for which in 0..2 {
        for (status, is_marked) in [(0, false), (504, false), (503, true)] {
            let (mut world, credentials) = world();
            let (credential, path) = &credentials[which];
            let sent = Sent::get("/v3/x").with("authorization", credential);
            assert!(matches!(world.at_once(&sent), Seen::Held));
            let (kind, request) = world.errand::<Value>(path);
            world.gate.respond(kind, status, is_marked, "");
            assert_eq!(world.due().status(), 503);
            assert!(matches!(world.at_once(&sent), Seen::Held));
            let (kind, again) = world.errand::<Value>(path);
            assert_eq!(again["call"], request["call"]);
            let answer = recorded(path, Some(true));
            world.gate.respond(kind, 200, true, &answer);
            let reply = world.due().reply();
            let outcome = match *path {
                TOP_UP => Outcome::ToppedUp,
                _ => Outcome::Closed,
            };
            assert_eq!((reply.status, reply.note.outcome), (200, outcome));
            assert!(header(&reply, "payment-receipt").is_some());
            // The lost answer cost nothing, and this one a look-up.
            let statuses = world.presented(credential, path, 6, &answer);
            assert_eq!(statuses, [200, 200, 200, 200, 200, 429], "{path} {status}");
        }
    }
}
