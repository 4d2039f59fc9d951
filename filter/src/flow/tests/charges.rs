//! Charges: what is offered, what is refused, and what one payment buys.

mod claims;
mod credentials;
mod offers;

use protocol::api::charge::{AbandonRequest, ChargeOffersRequest, ClaimRequest, ClaimsRequest};
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

pub(super) fn lines(reply: &Reply) -> Vec<&str> {
    let lines = reply.headers.iter();
    lines
        .filter(|(name, _)| *name == "www-authenticate")
        .map(|(_, value)| value.as_str())
        .collect()
}

pub(super) fn header<'r>(reply: &'r Reply, wanted: &str) -> Option<&'r str> {
    let found = reply.headers.iter().find(|(name, _)| *name == wanted);
    found.map(|(_, value)| value.as_str())
}

pub(super) fn problem(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let kind = body["type"].as_str().unwrap();
    kind.trim_start_matches("https://paymentauth.org/problems/")
        .to_owned()
}

impl Fixture {
    pub(super) fn respond(&mut self, kind: CallKind, status: u16, is_marked: bool, body: &str) {
        let answer = Answer {
            status,
            is_marked,
            retry_after: None,
            body: body.as_bytes(),
            ..Answer::default()
        };
        self.gate.answered(kind, &answer, self.now());
    }

    /// The next call that is no poll: its kind, cluster, path and body.
    pub(super) fn call(&mut self) -> Option<(CallKind, String, String, Vec<u8>)> {
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

    pub(super) fn charge_offers(&mut self, kind: CallKind, count: u16) {
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

    /// Presents a credential that has to be claimed, and is at once.
    fn presented(&mut self, sent: &Sent) -> (CallKind, ClaimRequest) {
        self.held(sent);
        let (kind, mut claims) = self.claims().expect("a claim");
        assert!(self.call().is_none(), "one call, and no more");
        assert_eq!(claims.len(), 1);
        (kind, claims.remove(0))
    }

    /// Presents a credential that has to be claimed.
    fn held(&mut self, sent: &Sent) {
        match self.request(sent) {
            Decision::HoldCleaned(edits) => {
                for (name, value) in apply(sent, &edits) {
                    let value = String::from_utf8_lossy(&value).to_lowercase();
                    assert!(name != b"payment-authorization" && !value.contains("payment "));
                }
            }
            other => panic!("expected to be held, found {other:?}"),
        }
    }

    /// The next call, which has claims.
    fn claims(&mut self) -> Option<(CallKind, Vec<ClaimRequest>)> {
        let (kind, cluster, path, body) = self.call()?;
        assert_eq!(
            (cluster.as_str(), path.as_str()),
            ("boltgate", "/v1/charges/claim")
        );
        let request: ClaimsRequest = serde_json::from_slice(&body).unwrap();
        Some((kind, request.claims))
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
