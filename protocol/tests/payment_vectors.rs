//! Every case of `vectors/payment-auth.json`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{HashMap, HashSet};

use protocol::encoding::{base64url, base64url_decode, hex_encode};
use protocol::hash::{PaymentHash, Preimage};
use protocol::keys::ChallengeKey;
use protocol::payment::accept::AcceptPayment;
use protocol::payment::challenge::content_digest;
use protocol::payment::event::{Balance, StreamReceipt};
use protocol::payment::problem::ProblemType;
use protocol::payment::receipt::{self, Receipt, Refund, RefundStatus};
use protocol::payment::request::{self, ChargeRequest, Network, SessionRequest};
use protocol::payment::sse::{Kind, Scanner};
use protocol::payment::{
    Action, Challenge, Intent, Issued, Outcome, Realm, Refusal, SessionCall, Slots, Target,
    authorization, credential, jcs, verify,
};
use protocol::time::UnixSeconds;
use serde_json::Value;

#[path = "common/params.rs"]
mod params;

use params::{challenge, list, text};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/payment-auth.json")).unwrap()
}

/// The vectors' ids are bare HMACs: they know no key generations.
struct PlainIds(ChallengeKey);

impl PlainIds {
    fn of(all: &Value) -> Self {
        Self(ChallengeKey::from_secret(
            0,
            text(all, "secret_utf8").as_bytes(),
        ))
    }

    fn id(&self, slots: &Slots<'_>) -> String {
        base64url(&self.0.sign(slots))
    }
}

impl Issued for PlainIds {
    fn is_issued(&self, id: &str, slots: &Slots<'_>) -> bool {
        self.id(slots) == id
    }
}

fn judge(
    all: &Value,
    header: &str,
    body: Option<&[u8]>,
    now: UnixSeconds,
) -> Result<Outcome, Refusal> {
    let found = authorization::parse([header.as_bytes()], []);
    let presented = found.presented?.unwrap();
    let keys = PlainIds::of(all);
    verify(
        &presented.credential()?,
        &Target {
            realm: &text(all, "realm").parse::<Realm>().unwrap(),
            charge: Some(&keys),
            session: Some(&keys),
            body,
            now,
        },
    )
}

fn now(all: &Value, case: &Value) -> UnixSeconds {
    let case = case.get("now_unix").unwrap_or(&all["now_unix"]);
    UnixSeconds(case.as_u64().unwrap())
}

#[test]
fn the_clock_reads_as_written() {
    let all = vectors();
    assert_eq!(now(&all, &all).to_rfc3339(), text(&all, "now"));
    for pair in list(&all, "preimages") {
        let preimage: Preimage = text(pair, "preimage").parse().unwrap();
        assert_eq!(preimage.hash().to_string(), text(pair, "payment_hash"));
    }
}

#[test]
fn json_is_made_canonical() {
    let all = vectors();
    let cases = list(&all, "jcs");
    assert_eq!(cases.len(), 8);
    for case in cases {
        let value = serde_json::from_str(text(case, "input")).unwrap();
        let canonical = jcs::to_string(&value);
        assert_eq!(canonical, text(case, "canonical"), "{}", text(case, "name"));
        assert_eq!(base64url(canonical.as_bytes()), text(case, "b64url"));
    }
}

#[test]
fn base64url_is_strict_but_for_padding() {
    let all = vectors();
    let cases = list(&all, "base64url_decode");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let read = base64url_decode(text(case, "in")).ok();
        let expected = case["ok"].as_bool().unwrap().then(|| text(case, "hex"));
        assert_eq!(
            read.map(|bytes| hex_encode(&bytes)).as_deref(),
            expected,
            "{case}"
        );
    }
}

#[test]
fn bodies_have_an_rfc_9530_digest() {
    let all = vectors();
    let cases = list(&all, "digest");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let digest = content_digest(text(case, "body_utf8").as_bytes());
        assert_eq!(digest, text(case, "rfc9530"));
    }
}

#[test]
fn challenge_ids_are_the_hmac_of_seven_slots() {
    let all = vectors();
    let keys = PlainIds::of(&all);
    let cases = list(&all, "challenge_ids");
    assert_eq!(cases.len(), 11);
    for case in cases {
        let mut expected = case["params"].clone();
        expected["id"] = case["id"].clone();
        let challenge = challenge(&expected);
        assert_eq!(keys.id(&challenge.slots()), text(case, "id"), "{case}");
        let name = text(case, "name");
        assert_eq!(
            challenge.realm.parse::<Realm>().is_err(),
            name == "pipe collision A",
            "{name}"
        );
        if let Some(json) = case.get("request_json") {
            let canonical = base64url(jcs::to_string(json).as_bytes());
            assert_eq!(canonical, challenge.request);
        }
        if let Some(json) = case.get("opaque_json") {
            let canonical = base64url(jcs::to_string(json).as_bytes());
            assert_eq!(Some(&*canonical), challenge.opaque.as_deref());
        }
    }
}

/// Also where the vector puts a `|`: such a challenge is never ours, whatever its HMAC.
#[test]
fn colliding_parameters_are_no_challenge_of_ours() {
    let all = vectors();
    let keys = PlainIds::of(&all);
    let mut collisions = 0;
    for case in list(&all, "challenge_ids") {
        if !text(case, "name").starts_with("pipe") {
            continue;
        }
        collisions += 1;
        let mut params = case["params"].clone();
        params["id"] = case["id"].clone();
        let challenge = challenge(&params);
        assert!(keys.is_issued(&challenge.id, &challenge.slots()));
        let header = credential::encode(&challenge, &[("preimage", &"0".repeat(64))]);
        let presented = authorization::parse([header.as_bytes()], []).presented;
        let presented = presented.ok().unwrap().unwrap();
        let target = Target {
            realm: &"a".parse().unwrap(),
            charge: Some(&keys),
            session: Some(&keys),
            body: None,
            now: now(&all, &all),
        };
        let refused = verify(&presented.credential().unwrap(), &target).unwrap_err();
        let expected = match &*challenge.method {
            "lightning" => Refusal::UnknownChallenge,
            _ => Refusal::Method,
        };
        assert_eq!(refused, expected);
    }
    assert_eq!(collisions, 2);
}

#[test]
fn requests_are_written_as_they_are_read() {
    let all = vectors();
    let mut seen = 0;
    for case in list(&all, "challenge_ids") {
        let encoded = text(&case["params"], "request");
        let Ok(json) = request::decode(encoded) else {
            continue;
        };
        let written = match text(&case["params"], "intent") {
            "session" => SessionRequest::from_json(&json).unwrap().encode(),
            _ => match ChargeRequest::from_json(&json) {
                Ok(request) => {
                    let network = Network::of_invoice(&request.invoice);
                    assert_eq!(request.network, network);
                    request.encode()
                }
                // The short ones have no invoice.
                Err(_) => continue,
            },
        };
        assert_eq!(written, encoded);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn www_authenticate_lines_are_written() {
    let all = vectors();
    let cases = list(&all, "www_authenticate_emit");
    assert_eq!(cases.len(), 4);
    for case in cases {
        let challenge = challenge(&case["params"]);
        assert_eq!(challenge.to_line(), text(case, "value"));
        let read = Challenge::parse_list(text(case, "value")).unwrap();
        assert_eq!(read, [challenge]);
    }
}

#[test]
fn www_authenticate_lines_are_read() {
    let all = vectors();
    let cases = list(&all, "www_authenticate_parse");
    assert_eq!(cases.len(), 5);
    for case in cases {
        let read = Challenge::parse_list(text(case, "value")).unwrap();
        let expected: Vec<_> = list(case, "challenges").iter().map(challenge).collect();
        assert_eq!(read, expected, "{}", text(case, "name"));
    }
}

#[test]
fn invoices_name_their_network() {
    let all = vectors();
    let cases = list(&all, "bolt11");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let network = Network::of_invoice(text(case, "invoice")).unwrap();
        assert_eq!(network.as_str(), text(case, "network"));
    }
}

/// A server that always sends `expires` never issues what these two present, and refuses both,
/// while the specification would take the first until the invoice expires.
const NEVER_ISSUED: &str = "no expires parameter, invoice not yet expired";

#[test]
fn charge_credentials_are_accepted_or_refused_for_the_right_reason() {
    let all = vectors();
    let cases = list(&all["charge_credentials"], "cases");
    assert_eq!(cases.len(), 24);
    let by_name = |name: &Value| cases.iter().find(|case| case["name"] == *name).unwrap();
    for case in cases {
        let (name, expect) = (text(case, "name"), &case["expect"]);
        // What the ledger does: the cases do not know of each other unless they say so.
        let mut claimed = HashSet::new();
        let mut present = |case: &Value| {
            let body = case["body_utf8"].as_str().map(str::as_bytes);
            let header = text(case, "authorization");
            let Outcome::Charge(charge) = judge(&all, header, body, now(&all, case))? else {
                panic!("no charge: {case}")
            };
            assert_eq!(charge.amount.get(), 100);
            if claimed.insert(charge.payment_hash) {
                Ok(())
            } else {
                Err(Refusal::UnknownChallenge)
            }
        };
        for earlier in case["after"].as_array().into_iter().flatten() {
            present(by_name(earlier)).unwrap();
        }
        let judged = present(case);
        if name == NEVER_ISSUED {
            assert_eq!(judged, Err(Refusal::ChargeExpired));
            continue;
        }
        match judged {
            Ok(_) => assert_eq!(expect["accept"], true, "{name}"),
            Err(refusal) => check_refusal(name, refusal, expect),
        }
    }
}

fn check_refusal(name: &str, refusal: Refusal, expect: &Value) {
    assert_eq!(expect["accept"], false, "{name}: {refusal}");
    assert_eq!(expect["status"], refusal.status(), "{name}");
    assert_eq!(expect["status"], refusal.problem().status(), "{name}");
    let uri = refusal.problem_type().map(ProblemType::uri);
    assert_eq!(expect["problem"].as_str(), uri, "{name}");
}

#[test]
fn two_credentials_in_two_lines_are_two() {
    let all = vectors();
    let cases = list(&all["charge_credentials"], "cases");
    let valid = text(&cases[0], "authorization").as_bytes();
    let refused = |found: authorization::Authorization| found.presented.err().unwrap().into();
    for found in [
        authorization::parse([valid, valid], []),
        authorization::parse([valid], [valid]),
        authorization::parse([], [valid, valid]),
    ] {
        let refusal: Refusal = refused(found);
        assert_eq!(refusal.status(), 400);
    }
}

#[test]
fn a_credential_is_encoded_as_the_canonical_one_is() {
    let all = vectors();
    let valid = &list(&all["charge_credentials"], "cases")[0];
    let payload: Vec<_> = valid["decoded"]["payload"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let challenge = challenge(&valid["decoded"]["challenge"]);
    let encoded = credential::encode(&challenge, &payload);
    assert_eq!(encoded, text(valid, "authorization"));
}

/// The ledger of the session draft, as simple as can be.
#[derive(Default)]
struct Sessions {
    /// Deposit, spent, open.
    rows: HashMap<PaymentHash, (u64, u64, bool)>,
    claimed: HashSet<PaymentHash>,
    results: HashMap<String, ([u8; 32], Option<Value>)>,
}

impl Sessions {
    fn run(
        &mut self,
        call: &SessionCall,
        is_expired: bool,
        is_good_return: impl Fn(&str) -> bool,
    ) -> Result<Option<Value>, ProblemType> {
        let is_consuming = !matches!(call.action, Action::Bearer { .. });
        if is_consuming && let Some((print, result)) = self.results.get(&call.challenge_id) {
            return if *print == call.fingerprint() {
                Ok(result.clone())
            } else {
                Err(ProblemType::UnknownChallenge)
            };
        }
        if is_expired {
            return Err(ProblemType::ChallengeExpired);
        }
        let id = call.session_id();
        let result = if let Action::Open { return_invoice } = &call.action {
            if !is_good_return(return_invoice) {
                return Err(ProblemType::InvalidReturnInvoice);
            }
            assert!(self.claimed.insert(call.payment_hash));
            self.rows.insert(id, (call.deposit.unwrap().get(), 0, true));
            None
        } else {
            let row = self.rows.get_mut(&id).ok_or(ProblemType::SessionNotFound)?;
            if !row.2 {
                return Err(ProblemType::SessionClosed);
            }
            match &call.action {
                Action::TopUp { .. } => {
                    if !self.claimed.insert(call.payment_hash) {
                        return Err(ProblemType::UnknownChallenge);
                    }
                    row.0 += call.deposit.unwrap().get();
                    Some(serde_json::json!({"status": "ok"}))
                }
                Action::Close { .. } => {
                    row.2 = false;
                    let refund = row.0 - row.1;
                    Some(serde_json::json!({
                        "status": "closed", "refundSats": refund, "refundStatus": "succeeded",
                    }))
                }
                _ => None,
            }
        };
        if is_consuming {
            self.results.insert(
                call.challenge_id.clone(),
                (call.fingerprint(), result.clone()),
            );
        }
        Ok(result)
    }
}

#[test]
fn session_actions_are_judged_as_the_ledger_needs_them() {
    let all = vectors();
    let sequence = &all["session_sequence"];
    let steps = list(sequence, "steps");
    assert_eq!(steps.len(), 20);
    let is_good_return = |invoice: &str| {
        let known = list(&all, "bolt11").iter();
        let found = known.filter(|one| text(one, "invoice") == invoice);
        found
            .into_iter()
            .any(|one| one["network"] == "regtest" && one["amount_sat"].is_null())
    };
    let mut sessions = Sessions::default();
    for step in steps {
        let (name, expect) = (text(step, "name"), &step["expect"]);
        let judged = judge(&all, text(step, "authorization"), None, now(&all, step));
        let (call, is_expired) = match judged {
            Ok(Outcome::Session(call)) => (call, false),
            Ok(Outcome::Expired(call)) => (call, true),
            Ok(Outcome::Charge(_)) => panic!("{name}"),
            Err(refusal) => {
                check_refusal(name, refusal, expect);
                continue;
            }
        };
        assert_eq!(call.action.name(), text(&step["payload"], "action"));
        assert_eq!(Some(call.price.get()), sequence["price_per_unit"].as_u64());
        match sessions.run(&call, is_expired, is_good_return) {
            Ok(result) => {
                assert_eq!(expect["accept"], true, "{name}");
                assert_eq!(result.as_ref(), expect.get("json"), "{name}");
                if let Some(row) = sessions.rows.get_mut(&call.session_id()) {
                    row.1 += step["then_stream_spends"].as_u64().unwrap();
                }
            }
            Err(problem) => {
                assert_eq!(expect["accept"], false, "{name}");
                assert_eq!(text(expect, "problem"), problem.uri(), "{name}");
            }
        }
        if let Some(id) = step["state_after"]["sessionId"].as_str() {
            let state = &step["state_after"];
            let row = sessions.rows[&id.parse().unwrap()];
            let status = if row.2 { "open" } else { "closed" };
            assert_eq!(Some(row.0), state["depositSats"].as_u64(), "{name}");
            assert_eq!(Some(row.1), state["spent"].as_u64(), "{name}");
            assert_eq!(status, text(state, "status"), "{name}");
        }
    }
}

#[test]
fn receipts_are_written_and_read() {
    let all = vectors();
    let cases = list(&all, "receipts");
    assert_eq!(cases.len(), 5);
    for case in cases {
        let json = &case["json"];
        let refund = json.get("refundStatus").map(|status| Refund {
            sats: json["refundSats"].as_u64().unwrap(),
            status: RefundStatus::from_name(status.as_str().unwrap()).unwrap(),
        });
        let timestamp = UnixSeconds::from_rfc3339(text(json, "timestamp")).unwrap();
        let reference = text(json, "reference").parse().unwrap();
        let mut receipt = Receipt::new("", reference, timestamp);
        // The drafts' least for sessions has no challenge id; ours always has.
        receipt.challenge_id = json["challengeId"].as_str().map(Into::into);
        receipt.refund = refund;
        assert_eq!(receipt.to_header(), text(case, "header"));
        let read = receipt::decode(text(case, "header")).unwrap();
        assert_eq!(Receipt::from_json(&read), Ok(receipt));
    }
}

/// Meters a stream as the filter does, one chunk at a time, with one top-up if it is given.
fn meter(
    upstream: &[u8],
    chunk: usize,
    mut balance: u64,
    mut topup: Option<u64>,
    session: PaymentHash,
    timestamp: UnixSeconds,
) -> (String, u64) {
    const PRICE: u64 = 2;
    let (mut scanner, mut out, mut units) = (Scanner::new(), Vec::new(), 0);
    let receipt = |units: u64| {
        let spent = units * PRICE;
        StreamReceipt {
            session_id: session,
            spent,
            units,
            timestamp,
        }
        .event()
    };
    let mut has_receipt = false;
    // Bytes of an event that may not be paid for yet are held back.
    let mut held = Vec::new();
    for chunk in upstream.chunks(chunk) {
        let mut from = 0;
        for event in scanner.feed(chunk) {
            held.extend(&chunk[from..event.end]);
            from = event.end;
            match event.kind {
                Kind::Data => {
                    if balance < PRICE {
                        let state = Balance::new(session, units * PRICE, PRICE);
                        out.extend(state.need_topup().as_bytes());
                        let Some(amount) = topup.take() else {
                            out.extend(state.session_timeout().as_bytes());
                            return (String::from_utf8(out).unwrap(), units);
                        };
                        balance += amount;
                    }
                    balance -= PRICE;
                    units += 1;
                }
                Kind::Done => {
                    out.extend(receipt(units).as_bytes());
                    has_receipt = true;
                }
            }
            out.append(&mut held);
        }
        held.extend(&chunk[from..]);
    }
    out.append(&mut held);
    if !has_receipt {
        out.extend(receipt(units).as_bytes());
    }
    (String::from_utf8(out).unwrap(), units)
}

#[test]
fn streams_are_metered_by_event_however_they_are_cut() {
    let all = vectors();
    let sse = &all["sse"];
    let cases = list(sse, "cases");
    assert_eq!(cases.len(), 4);
    let session = text(&list(&all, "preimages")[1], "payment_hash")
        .parse()
        .unwrap();
    let timestamp = UnixSeconds::from_rfc3339("2026-03-15T12:00:20Z").unwrap();
    for case in cases {
        let upstream = case
            .get("upstream")
            .unwrap_or(&sse["upstream"])
            .as_str()
            .unwrap();
        let (expected, topup) = match case.get("downstream") {
            Some(all) => (all.as_str().unwrap().to_owned(), None),
            None => {
                let before = text(case, "downstream_before_topup");
                (
                    format!("{before}{}", text(case, "downstream_after_topup")),
                    Some(40),
                )
            }
        };
        let balance = case["balance"].as_u64().unwrap();
        for chunk in 1..=upstream.len() {
            let (downstream, units) = meter(
                upstream.as_bytes(),
                chunk,
                balance,
                topup,
                session,
                timestamp,
            );
            // A comment is let through once the event after it is, so only the order counts here.
            assert_eq!(downstream, expected, "{} by {chunk}", text(case, "name"));
            assert_eq!(Some(units), case["units"].as_u64());
            assert_eq!(Some(units * 2), case["spent"].as_u64());
        }
    }
}

#[test]
fn accept_payment_chooses_and_orders_the_offers() {
    let all = vectors();
    let cases = list(&all, "accept_payment");
    assert_eq!(cases.len(), 8);
    let intents = |case: &Value, key: &str| -> Vec<Intent> {
        let names = list(case, key).iter().map(|name| name.as_str().unwrap());
        names
            .map(|name| name.strip_prefix("lightning/").unwrap().parse().unwrap())
            .collect()
    };
    for case in cases {
        let accept = AcceptPayment::parse(case["header"].as_str().map(str::as_bytes));
        let selected = accept.select(&intents(case, "offers"));
        assert_eq!(selected, intents(case, "result"), "{case}");
    }
}

#[test]
fn every_problem_has_its_uri_and_status() {
    let all = vectors();
    let cases = list(&all, "problems");
    assert_eq!(cases.len(), ProblemType::ALL.len());
    let mut titles = HashSet::new();
    for case in cases {
        let uri = text(case, "type");
        let problem = ProblemType::ALL.into_iter().find(|one| one.uri() == uri);
        let problem = problem.unwrap_or_else(|| panic!("{uri}"));
        assert_eq!(case["status"], problem.status());
        titles.insert((problem.title(), uri.contains("/lightning/")));
    }
    assert_eq!(titles.len(), cases.len());
}

/// JSON-RPC carries `request` as it is; the id is the same, and so are receipt and problem.
#[test]
fn json_rpc_challenges_have_the_same_ids() {
    let all = vectors();
    let mcp = &all["mcp"];
    let keys = PlainIds::of(&all);
    let data = &mcp["error"]["error"]["data"];
    let roots = [
        &mcp["request_nested"]["params"]["_meta"]["org.paymentauth/credential"]["challenge"],
        &mcp["request_root"]["_meta"]["org.paymentauth/credential"]["challenge"],
        &data["challenges"][0],
    ];
    for root in roots {
        let mut params = root.clone();
        params["request"] = base64url(jcs::to_string(&root["request"]).as_bytes()).into();
        let challenge = challenge(&params);
        assert!(keys.is_issued(&challenge.id, &challenge.slots()));
    }
    let receipt = jcs::to_string(&mcp["receipt"]);
    assert_eq!(
        Receipt::from_json(receipt.as_bytes()).unwrap().to_json(),
        receipt
    );
    let problem = ProblemType::PaymentRequired
        .problem()
        .with_detail("Payment required for access.")
        .with("challengeId", text(&data["problem"], "challengeId"));
    let problem: Value = serde_json::from_str(&problem.to_json()).unwrap();
    assert_eq!(problem, data["problem"]);
}
