//! The Payment scheme: what is offered, what is refused, and what one payment buys.

use protocol::api::charge::{AbandonRequest, ChargeOffersRequest, ClaimRequest};
use protocol::encoding::{base64url, base64url_decode, hex_encode};
use protocol::hash::Preimage;
use protocol::payment::Challenge;
use serde_json::{Value, json};

use super::fixture::*;
use crate::flow::*;

/// `/v1/` is sold by both schemes, `/v2/` by tokens only, `/v3/` by charge only.
const SERVICES: &str = r#"[
    {"name":"both","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v1/"}}],
     "price":{"sat":10},"schemes":["l402","charge"],"freePaths":[{"exact":"/v1/health"}]},
    {"name":"tokens","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v2/"}}],
     "price":{"sat":10}},
    {"name":"charges","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v3/"}}],
     "price":{"sat":10},"schemes":["charge"],"chargeSettled":true,
     "noInvoicePaths":[{"prefix":"/v3/cb/"}]}]"#;
const BEHIND_TLS: &str = r#""payment":{"realm":"api.example.com","tls":"terminated"}"#;
const TLS_HERE: &str = r#""payment":{"realm":"api.example.com"}"#;

fn gate_of(settings: &str) -> Fixture {
    let mut gate = Fixture::of(settings, SERVICES);
    gate.bootstrap();
    while gate.gate.next_call().is_some() {}
    gate
}

fn gate() -> Fixture {
    gate_of(BEHIND_TLS)
}

fn lines(reply: &Reply) -> Vec<&str> {
    let lines = reply.headers.iter();
    lines
        .filter(|(name, _)| *name == "www-authenticate")
        .map(|(_, value)| value.as_str())
        .collect()
}

fn header<'r>(reply: &'r Reply, wanted: &str) -> Option<&'r str> {
    let found = reply.headers.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| value.as_str())
}

fn problem(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let kind = body["type"].as_str().unwrap();
    kind.trim_start_matches("https://paymentauth.org/problems/")
        .to_owned()
}

impl Fixture {
    fn respond(&mut self, kind: CallKind, status: u16, is_marked: bool, body: &str) {
        let answer = Answer {
            status,
            is_marked,
            retry_after: None,
            body: body.as_bytes(),
        };
        self.gate.answered(kind, &answer, self.now());
    }

    /// The next call that is no poll: its kind, cluster, path and body.
    fn call(&mut self) -> Option<(CallKind, String, String, Vec<u8>)> {
        let call = loop {
            let call = self.gate.next_call()?;
            if call.kind != CallKind::Bootstrap {
                break call;
            }
        };
        let path = call.headers.iter().find(|(name, _)| *name == ":path");
        Some((call.kind, call.cluster, path?.1.clone(), call.body))
    }

    /// Answers all calls for offers; their preimages are their numbers.
    fn sell(&mut self) {
        while let Some((kind, cluster, path, body)) = self.call() {
            assert_eq!(cluster, "boltgate");
            match (kind, path.as_str()) {
                (CallKind::Offers { .. }, "/v1/offers") => {
                    let request: protocol::api::OffersRequest =
                        serde_json::from_slice(&body).unwrap();
                    self.offers(kind, request.count.into());
                }
                (CallKind::Offers { .. }, "/v1/charges/offers") => {
                    let request: ChargeOffersRequest = serde_json::from_slice(&body).unwrap();
                    assert_eq!(request.amount.get(), 10);
                    self.charge_offers(kind, request.count);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn charge_offers(&mut self, kind: CallKind, count: u16) {
        let offers: Vec<_> = (0..count)
            .map(|_| {
                let number = self.number();
                json!({
                    "payment_hash": Preimage::new([number; 32]).hash().to_string(),
                    "invoice": format!("lnbcrt100n1charge{number}"),
                    "show_until": CREDENTIAL_TIME + 500,
                    "expires": CREDENTIAL_TIME + 600,
                })
            })
            .collect();
        let body = json!({ "offers": offers }).to_string();
        self.respond(kind, 200, true, &body);
    }

    /// Asks without a credential until there is an answer.
    fn challenged(&mut self, sent: &Sent) -> Reply {
        match self.request(sent) {
            Decision::Reply(reply) => *reply,
            Decision::Hold => {
                self.sell();
                self.due_reply()
            }
            other => panic!("expected a challenge, found {other:?}"),
        }
    }

    fn due_reply(&mut self) -> Reply {
        let due = self.gate.next_due().expect("something due");
        match self.gate.answer(due) {
            Some(Decision::Reply(reply)) => *reply,
            other => panic!("expected a reply, found {other:?}"),
        }
    }

    /// Buys a charge for a path: the credential, without its scheme, and the challenge's id.
    fn bought(&mut self, path: &str) -> (String, String) {
        let reply = self.challenged(&Sent::get(path));
        let line = *lines(&reply).last().unwrap();
        credential_for(line, |_| {})
    }

    /// Presents a credential that has to be claimed.
    fn presented(&mut self, sent: &Sent) -> (CallKind, ClaimRequest) {
        match self.request(sent) {
            Decision::HoldCleaned(edits) => {
                for (name, value) in apply(sent, &edits) {
                    let value = String::from_utf8_lossy(&value).to_lowercase();
                    assert!(name != b"payment-authorization" && !value.contains("payment "));
                }
            }
            other => panic!("expected to be held, found {other:?}"),
        }
        let (kind, cluster, path, body) = self.call().expect("a claim");
        assert_eq!(
            (cluster.as_str(), path.as_str()),
            ("boltgate", "/v1/charges/claim")
        );
        assert!(self.call().is_none(), "one call, and no more");
        (kind, serde_json::from_slice(&body).unwrap())
    }

    fn due_forward(&mut self) -> Note {
        let due = self.gate.next_due().expect("something due");
        match self.gate.answer(due) {
            Some(Decision::Forward { edits, note }) if edits.is_empty() => note,
            other => panic!("expected to be forwarded, found {other:?}"),
        }
    }

    /// The attempts that the sidecar is told of at the next tick.
    fn abandoned(&mut self) -> Option<(CallKind, Vec<String>)> {
        self.gate.tick(self.now());
        let (kind, cluster, path, body) = self.call()?;
        assert_eq!(
            (cluster.as_str(), path.as_str()),
            ("boltgate", "/v1/charges/abandon")
        );
        let request: AbandonRequest = serde_json::from_slice(&body).unwrap();
        let names = request.attempts.into_iter().map(|one| one.attempt);
        Some((kind, names.collect()))
    }
}

/// Pays a challenge; `change` may spoil the credential.
fn credential_for(line: &str, change: impl FnOnce(&mut Value)) -> (String, String) {
    let challenge = Challenge::parse_list(line).unwrap().remove(0);
    let request: Value =
        serde_json::from_slice(&base64url_decode(&*challenge.request).unwrap()).unwrap();
    let hash = request["methodDetails"]["paymentHash"].as_str().unwrap();
    let preimage = (0..=255_u8)
        .map(|number| Preimage::new([number; 32]))
        .find(|preimage| preimage.hash().to_string() == hash)
        .unwrap();
    let mut credential = json!({
        "challenge": {
            "id": challenge.id, "realm": challenge.realm, "method": challenge.method,
            "intent": challenge.intent, "request": challenge.request, "expires": challenge.expires,
        },
        "payload": {"preimage": hex_encode(preimage.expose())},
    });
    change(&mut credential);
    let id = challenge.id.into_owned();
    (base64url(credential.to_string().as_bytes()), id)
}

fn with_payment(path: &str, credential: &str) -> Sent {
    Sent::get(path).with("authorization", &format!("Payment {credential}"))
}

#[test]
fn tokens_and_charges_are_offered_in_order_each_with_its_own_invoice() {
    let mut gate = gate();
    let reply = gate.challenged(&Sent::get("/v1/x").with("origin", "https://a.example"));
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "payment-required".to_owned())
    );
    let lines = lines(&reply);
    let starts = ["LSAT macaroon=\"", "L402 macaroon=\"", "Payment id=\""];
    assert_eq!(lines.len(), 3);
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let challenge = Challenge::parse_list(lines[2]).unwrap().remove(0);
    assert_eq!(
        (&*challenge.realm, &*challenge.method),
        ("api.example.com", "lightning")
    );
    assert_eq!(&*challenge.intent, "charge");
    assert!(challenge.opaque.is_none() && challenge.digest.is_none());
    let request: Value =
        serde_json::from_slice(&base64url_decode(&*challenge.request).unwrap()).unwrap();
    assert_eq!(
        (&request["amount"], &request["currency"]),
        (&json!("10"), &json!("sat"))
    );
    let invoice = request["methodDetails"]["invoice"].as_str().unwrap();
    assert!(!lines[0].contains(invoice) && !lines[1].contains(invoice));
    assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    let exposed = header(&reply, "access-control-expose-headers").unwrap();
    assert!(exposed.contains("Payment-Receipt"), "{exposed}");
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(body["price_sats"], 10);
    assert!(lines[1].contains(body["invoice"].as_str().unwrap()));
}

#[test]
fn a_service_offers_what_it_sells_and_nothing_else() {
    let mut gate = gate();
    for (path, schemes) in [("/v2/x", &["LSAT", "L402"][..]), ("/v3/x", &["Payment"])] {
        let reply = gate.challenged(&Sent::get(path));
        let found: Vec<_> = lines(&reply)
            .iter()
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(found, schemes, "{path}");
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body.get("macaroon").is_some(), path == "/v2/x");
    }
    let grpc = Sent::get("/v3/x").with("content-type", "application/grpc");
    let reply = gate.challenged(&grpc);
    assert_eq!((reply.status, reply.grpc_status), (200, Some(13)));
    assert_eq!(lines(&reply).len(), 1);
}

#[test]
fn a_stocked_challenge_is_one_local_reply_and_shown_once() {
    let mut gate = gate();
    gate.challenged(&Sent::get("/v1/x"));
    gate.gate.tick(gate.now());
    gate.sell();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let reply = gate.reply(&Sent::get("/v1/x"));
        assert!(seen.insert(lines(&reply)[2].to_owned()));
    }
}

#[test]
fn what_a_client_does_not_accept_is_not_taken_from_stock() {
    for (accept, count) in [
        ("lightning/charge", 3),
        ("*/*", 3),
        ("nonsense", 3),
        ("lightning/session", 2),
        ("lightning/charge;q=0", 2),
        ("tempo/charge", 2),
    ] {
        let mut gate = gate();
        let sent = Sent::get("/v1/x").with("accept-payment", accept);
        assert_eq!(lines(&gate.challenged(&sent)).len(), count, "{accept}");
        // Alone it is offered all the same: a 402 needs a challenge.
        let sent = Sent::get("/v3/x").with("accept-payment", accept);
        assert_eq!(lines(&gate.challenged(&sent)).len(), 1, "{accept}");
    }
    let mut gate = gate();
    let sent = Sent::get("/v1/x").with("accept-payment", "lightning/session");
    assert_eq!(gate.request(&sent), Decision::Hold);
    let (_, _, path, _) = gate.call().unwrap();
    assert_eq!((path.as_str(), gate.call()), ("/v1/offers", None));
}

#[test]
fn without_tls_nothing_is_sold_by_the_payment_scheme() {
    let mut gate = gate_of(TLS_HERE);
    let secure = |sent: Sent| sent.with(":scheme", "https");
    let plain = |sent: Sent| sent.with(":scheme", "http");
    let reply = gate.challenged(&secure(Sent::get("/v1/x")));
    let (credential, _) = credential_for(lines(&reply)[2], |_| {});
    assert_eq!(lines(&gate.challenged(&plain(Sent::get("/v1/x")))).len(), 2);
    for sent in [
        plain(Sent::get("/v3/x")),
        Sent::get("/v3/x"),
        plain(with_payment("/v1/x", &credential)),
        plain(with_payment("/v3/x", "nonsense")),
    ] {
        let reply = gate.reply(&sent);
        let found = (reply.status, reply.note.outcome, lines(&reply).len());
        assert_eq!(found, (403, Outcome::Insecure, 0), "{sent:?}");
    }
    gate.presented(&secure(with_payment("/v1/x", &credential)));
}

#[test]
fn a_paid_charge_is_claimed_once_and_forwarded_with_its_trusted_fields() {
    for (path, name, is_settled) in [("/v1/x", "both", false), ("/v3/x", "charges", true)] {
        let mut gate = gate();
        let (credential, id) = gate.bought(path);
        let (kind, claim) = gate.presented(&with_payment(path, &credential));
        assert_eq!((claim.service.as_str(), claim.settled), (name, is_settled));
        assert_eq!(
            (claim.amount.get(), claim.expires),
            (10, CREDENTIAL_TIME + 600)
        );
        assert_eq!((claim.attempt.len(), claim.challenge_id == id), (32, true));
        assert!(
            gate.gate.next_due().is_none(),
            "nothing is decided before the answer"
        );
        gate.respond(kind, 200, true, r#"{"claim":"won"}"#);
        let note = gate.due_forward();
        assert_eq!(note.outcome, Outcome::Paid);
        let admitted = note.admitted.unwrap();
        let hash = claim.payment_hash.to_string();
        let fields: Vec<_> = admitted.trusted_fields().collect();
        assert_eq!(
            fields,
            [
                ("x-boltgate-service", name),
                ("x-boltgate-scheme", "charge"),
                ("x-boltgate-payment-hash", hash.as_str()),
            ]
        );
        assert!(gate.abandoned().is_none());
    }
}

#[test]
fn every_form_in_which_a_credential_comes_is_taken_and_removed() {
    for form in 0..5 {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let sent = match form {
            0 => Sent::get("/v1/x").with("authorization", &format!("payment  {credential}")),
            1 => Sent::get("/v1/x").with("payment-authorization", &credential),
            2 => Sent::get("/v1/x").with("payment-authorization", &format!("Payment {credential}")),
            3 => Sent::get("/v1/x").with(
                "authorization",
                &format!("Basic YTpi, Payment {credential}"),
            ),
            _ => Sent::get("/v1/x")
                .with("authorization", "L402 nonsense")
                .with("authorization", &format!("Payment {credential}")),
        };
        gate.presented(&sent);
    }
}

#[test]
fn credentials_are_taken_out_where_nothing_is_sold_by_them() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let payment = format!("Payment {credential}");
    for sent in [
        Sent::get("/v1/health"),
        Sent::get("/v1/health").host("other.example"),
    ] {
        for sent in [
            sent.clone().with("authorization", &payment),
            sent.clone().with("payment-authorization", &credential),
            sent.clone()
                .with("authorization", &format!("Bearer x, {payment}")),
            sent.with("authorization", "L402 a:b")
                .with("authorization", &payment),
        ] {
            let forwarded = gate.forwarded(&sent);
            for name in &forwarded.names {
                let value = forwarded.value(name).unwrap();
                assert!(!value.contains(&credential), "{sent:?}");
            }
        }
    }
    let fields = [
        ("authorization", payment.as_str()),
        ("payment-authorization", "x"),
    ];
    let bytes = Sent::raw(&fields).encoded();
    let edits = trailers(&crate::pairs::Pairs::parse(&bytes).unwrap());
    assert!(apply(&Sent::raw(&fields), &edits).is_empty());
}

#[test]
fn a_good_token_is_used_before_a_charge_is() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let token = gate.token("both", None);
    for _ in 0..2 {
        let sent = Sent::get("/v1/x")
            .with("authorization", &token)
            .with("payment-authorization", &credential);
        let forwarded = gate.forwarded(&sent);
        assert_eq!(forwarded.value("payment-authorization"), None);
        let scheme = forwarded
            .note
            .admitted
            .as_ref()
            .unwrap()
            .trusted_fields()
            .nth(1);
        assert_eq!(scheme, Some(("x-boltgate-scheme", "l402")));
    }
    assert!(gate.call().is_none(), "nothing is claimed");
}

#[test]
fn each_fault_of_a_credential_has_its_answer() {
    let of = |change: fn(&mut Value)| Some(change);
    for (what, change, status, kind) in [
        (
            "id",
            of(|c| c["challenge"]["id"] = json!("x")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "request",
            of(|c| c["challenge"]["request"] = json!("e30")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "realm",
            of(|c| c["challenge"]["realm"] = json!("other")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "session",
            of(|c| c["challenge"]["intent"] = json!("session")),
            402,
            "lightning/unknown-challenge",
        ),
        (
            "method",
            of(|c| c["challenge"]["method"] = json!("tempo")),
            400,
            "method-unsupported",
        ),
        (
            "preimage",
            of(|c| c["payload"]["preimage"] = json!("00".repeat(32))),
            402,
            "lightning/invalid-preimage",
        ),
        (
            "payload",
            of(|c| c["payload"] = json!(7)),
            402,
            "lightning/malformed-credential",
        ),
        ("text", None, 402, "lightning/malformed-credential"),
    ] {
        let mut gate = gate();
        let offer = gate.challenged(&Sent::get("/v3/x"));
        let credential = match change {
            Some(change) => credential_for(lines(&offer)[0], change).0,
            None => "%%%".to_owned(),
        };
        let reply = gate.challenged(&with_payment("/v3/x", &credential));
        let found = (reply.status, problem(&reply), reply.note.outcome);
        assert_eq!(found, (status, kind.to_owned(), Outcome::Refused), "{what}");
        assert_eq!(lines(&reply).len(), usize::from(status == 402), "{what}");
        assert_eq!(header(&reply, "cache-control"), Some("no-store"));
    }
}

#[test]
fn two_credentials_are_400_whatever_they_are() {
    let mut gate = gate();
    let (one, _) = gate.bought("/v1/x");
    let (other, _) = gate.bought("/v1/x");
    let token = gate.token("both", None);
    for sent in [
        with_payment("/v1/x", &one).with("payment-authorization", &other),
        with_payment("/v1/x", &one).with("authorization", &format!("Payment {other}")),
        Sent::get("/v1/x").with("authorization", &format!("Payment {one}, Payment {other}")),
        with_payment("/v1/x", "x")
            .with("payment-authorization", "y")
            .with("authorization", &token),
    ] {
        let reply = gate.reply(&sent);
        assert_eq!((reply.status, lines(&reply).len()), (400, 0), "{sent:?}");
    }
    assert!(gate.abandoned().is_none());
}

#[test]
fn a_charge_expires_and_belongs_to_one_service() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let reply = gate.challenged(&with_payment("/v3/x", &credential));
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let reply = gate.challenged(&with_payment("/v2/x", &credential));
    assert_eq!((reply.status, lines(&reply).len()), (402, 2));
    assert!(
        reply
            .body
            .contains("not sold by this authentication scheme"),
        "{}",
        reply.body
    );
    let token = gate.token("charges", None);
    let reply = gate.challenged(&Sent::get("/v3/x").with("authorization", &token));
    assert_eq!((reply.status, lines(&reply).len()), (402, 1));
    gate.now_ms += 600_000;
    gate.bootstrap();
    let (kind, ..) = match gate.request(&with_payment("/v1/x", &credential)) {
        Decision::Hold => gate.call().unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(kind, CallKind::Offers { .. }));
}

#[test]
fn what_the_sidecar_says_of_a_claim_decides() {
    for (status, is_marked, body, seen, is_abandoned) in [
        (200, true, r#"{"claim":"busy"}"#, 503, false),
        (200, true, r#"{"claim":"unsettled"}"#, 503, false),
        (200, true, r#"{"claim":"maybe"}"#, 503, true),
        (200, true, "", 503, true),
        (200, false, r#"{"claim":"won"}"#, 503, true),
        (503, true, r#"{"claim":"won"}"#, 503, true),
        (401, true, "", 503, true),
        (504, false, "", 503, true),
        (0, false, "", 503, true),
    ] {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
        gate.respond(kind, status, is_marked, body);
        let reply = gate.due_reply();
        let what = format!("{status} {is_marked} {body}");
        assert_eq!(
            (reply.status, reply.note.outcome),
            (seen, Outcome::Unavailable),
            "{what}"
        );
        assert!(
            lines(&reply).is_empty() && header(&reply, "retry-after").is_some(),
            "{what}"
        );
        let told = gate.abandoned().map(|(_, names)| names);
        assert_eq!(told, is_abandoned.then(|| vec![claim.attempt]), "{what}");
        // The same credential is tried again under another name.
        let (again, second) = gate.presented(&with_payment("/v1/x", &credential));
        assert_ne!(told.unwrap_or_default(), [second.attempt]);
        gate.respond(again, 200, true, r#"{"claim":"won"}"#);
        gate.due_forward();
    }
}

#[test]
fn a_lost_claim_is_402_with_a_fresh_offer() {
    let mut gate = gate();
    let (credential, id) = gate.bought("/v3/x");
    let (kind, _) = gate.presented(&with_payment("/v3/x", &credential));
    gate.respond(kind, 200, true, r#"{"claim":"lost"}"#);
    let reply = match gate.gate.next_due() {
        Some(due) => match gate.gate.answer(due) {
            Some(Decision::Reply(reply)) => *reply,
            other => panic!("{other:?}"),
        },
        None => {
            gate.sell();
            gate.due_reply()
        }
    };
    assert_eq!(
        (reply.status, problem(&reply)),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let [line] = lines(&reply)[..] else {
        panic!("one challenge")
    };
    assert_ne!(Challenge::parse_list(line).unwrap()[0].id, id);
    assert!(gate.abandoned().is_none(), "it is lost for good");
}

#[test]
fn an_answer_too_late_is_no_answer_and_the_attempt_is_abandoned_until_heard() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let (claim_call, claim) = gate.presented(&with_payment("/v1/x", &credential));
    gate.now_ms += 3_250;
    let (kind, names) = gate.abandoned().unwrap();
    assert_eq!(names, std::slice::from_ref(&claim.attempt));
    assert_eq!(gate.due_statuses(), [503]);
    gate.respond(claim_call, 200, true, r#"{"claim":"won"}"#);
    assert!(gate.gate.next_due().is_none(), "decided once");
    // One batch at a time, again after each failure, and never after it was heard.
    assert!(gate.abandoned().is_none());
    gate.respond(kind, 503, false, "");
    for _ in 0..3 {
        let (kind, names) = gate.abandoned().unwrap();
        assert_eq!(names, std::slice::from_ref(&claim.attempt));
        gate.respond(kind, 200, false, "{}");
    }
    let (lost, _) = gate.abandoned().unwrap();
    gate.now_ms += 6_001;
    let (kind, _) = gate.abandoned().unwrap();
    gate.respond(lost, 200, true, "{}");
    gate.respond(kind, 200, true, "{}");
    assert!(gate.abandoned().is_none());
}

#[test]
fn a_claim_that_was_won_in_vain_is_abandoned() {
    for is_gone in [true, false] {
        let mut gate = gate();
        let (credential, _) = gate.bought("/v1/x");
        let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
        gate.respond(kind, 200, true, r#"{"claim":"won"}"#);
        let due = gate.gate.next_due().unwrap();
        let stream = due.stream;
        if is_gone {
            gate.gate.gone(due);
        } else {
            let Some(Decision::Forward { note, .. }) = gate.gate.answer(due) else {
                panic!("to be forwarded")
            };
            gate.gate.not_forwarded(stream, &note);
        }
        assert!(gate.gate.receipt_for(stream).is_none());
        assert_eq!(gate.abandoned().unwrap().1, [claim.attempt]);
    }
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    let (kind, claim) = gate.presented(&with_payment("/v1/x", &credential));
    let stream = gate.stream();
    assert!(gate.gate.holds(stream));
    gate.gate.let_go(stream);
    gate.respond(kind, 200, true, r#"{"claim":"won"}"#);
    assert!(gate.gate.next_due().is_none());
    assert_eq!(gate.abandoned().unwrap().1, [claim.attempt]);
}

#[test]
fn a_new_configuration_goes_on_abandoning() {
    let mut old = gate();
    let (credential, _) = old.bought("/v1/x");
    let (kind, claim) = old.presented(&with_payment("/v1/x", &credential));
    old.respond(kind, 500, true, "");
    let mut new = Fixture::of(BEHIND_TLS, SERVICES);
    new.gate.inherit(&old.gate, old.now());
    assert_eq!(new.abandoned().unwrap().1, [claim.attempt]);
    new.presented(&with_payment("/v1/x", &credential));
}

#[test]
fn a_refusal_of_ours_comes_before_the_claim() {
    let mut full = gate_of(&format!(r#"{BEHIND_TLS},"maxWaiting":1"#));
    let (credential, _) = full.bought("/v1/x");
    let (_, _) = full.presented(&with_payment("/v1/x", &credential));
    let reply = full.reply(&with_payment("/v1/x", &credential));
    assert_eq!((reply.status, full.call()), (503, None));

    let mut old = gate();
    let (credential, _) = old.bought("/v1/x");
    old.now_ms += 60_001;
    let reply = old.reply(&with_payment("/v1/x", &credential));
    assert_eq!(
        (reply.status, old.call()),
        (503, None),
        "keys of unknown age"
    );
}

#[test]
fn a_key_that_we_may_have_missed_is_a_fault_of_ours_also_for_charges() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v3/x");
    gate.install_keys(&[(7, [9; 32])]);
    let sent = with_payment("/v3/x", &credential);
    gate.now_ms += 10_001;
    assert_eq!(gate.reply(&sent).status, 503);
    gate.install_keys(&[(7, [9; 32])]);
    assert_eq!(gate.challenged(&sent).status, 402);
}

#[test]
fn a_challenge_outlives_the_rotation_of_its_key() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v1/x");
    gate.install_keys(&[(2, [8; 32]), (1, KEY)]);
    gate.presented(&with_payment("/v1/x", &credential));
    let (newer, _) = gate.bought("/v1/x");
    gate.install_keys(&[(2, [8; 32])]);
    gate.presented(&with_payment("/v1/x", &newer));
}

#[test]
fn where_no_invoice_may_be_made_a_charge_is_good_and_its_lack_is_401() {
    let mut gate = gate();
    let (credential, _) = gate.bought("/v3/x");
    let reply = gate.reply(&Sent::get("/v3/cb/x"));
    assert_eq!((reply.status, lines(&reply).len()), (401, 0));
    let (kind, _) = gate.presented(&with_payment("/v3/cb/x", &credential));
    gate.respond(kind, 200, true, r#"{"claim":"lost"}"#);
    let reply = gate.due_reply();
    assert_eq!((reply.status, lines(&reply).len()), (401, 0));
    assert!(reply.body.contains("already used"), "{}", reply.body);
}

#[test]
fn the_stream_that_was_paid_for_has_one_receipt() {
    let mut gate = gate();
    let (credential, id) = gate.bought("/v1/x");
    let sent = with_payment("/v1/x", &credential).with("origin", "https://a.example");
    let (kind, claim) = gate.presented(&sent);
    let stream = gate.stream();
    gate.respond(kind, 200, true, r#"{"claim":"won"}"#);
    gate.due_forward();
    assert!(gate.gate.gives_receipts() && gate.gate.receipt_for(stream + 1).is_none());
    assert_eq!(gate.gate.next_awaited(), Some(stream));
    let Some(Awaited::Paid(claimed)) = gate.gate.receipt_for(stream) else {
        panic!("a receipt is awaited")
    };
    assert!(claimed.is_for_browser());
    let receipt: Value =
        serde_json::from_slice(&base64url_decode(claimed.receipt().unwrap()).unwrap()).unwrap();
    assert_eq!(receipt["reference"], claim.payment_hash.to_string());
    assert_eq!(
        (&receipt["challengeId"], &receipt["status"]),
        (&json!(id), &json!("success"))
    );
    let preimage = hex_encode(Preimage::new([1; 32]).expose());
    assert!(!receipt.to_string().contains(&preimage));
    assert!(gate.gate.receipt_for(stream).is_none(), "once");
    assert_eq!(gate.gate.next_awaited(), None);
}

#[test]
fn a_refusal_to_make_offers_is_passed_on_for_charges_too() {
    let mut gate = gate();
    assert_eq!(gate.request(&Sent::get("/v1/x")), Decision::Hold);
    let (tokens, ..) = gate.call().unwrap();
    let (charges, ..) = gate.call().unwrap();
    gate.offers(tokens, 1);
    assert!(gate.gate.next_due().is_none(), "both are wanted");
    gate.respond(charges, 429, true, "{}");
    assert_eq!(gate.due_statuses(), [429]);
    // The offer that nobody saw is there still.
    let sent = Sent::get("/v1/x").with("accept-payment", "lightning/session");
    assert_eq!(gate.reply(&sent).status, 402);
}

#[test]
fn offers_that_cannot_be_made_into_a_challenge_are_no_offers() {
    for offer in [
        json!({"payment_hash": "00", "invoice": "lnbcrt1x", "show_until": u64::MAX, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lntb1x", "show_until": 1, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lnbcrt1x\"", "show_until": 1, "expires": 1}),
        json!({"payment_hash": "00".repeat(32), "invoice": "lnbcrt1x", "show_until": 1}),
    ] {
        let mut gate = gate();
        assert_eq!(gate.request(&Sent::get("/v3/x")), Decision::Hold);
        let (kind, ..) = gate.call().unwrap();
        gate.respond(kind, 200, true, &json!({ "offers": [offer] }).to_string());
        assert_eq!(gate.due_statuses(), [503]);
    }
}
