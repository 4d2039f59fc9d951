//! Sessions: what is offered, what a session pays for, and what is done to one as a whole.

mod bearers;
mod manage;
mod offers;
mod opens;
mod random;
mod repeats;
mod reports;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use protocol::api::charge::ChargeOffersRequest;
use protocol::api::session::{CloseRequest, OpenRequest, TopUpRequest};
use protocol::encoding::{base64url_decode, hex_encode};
use protocol::hash::Preimage;
use protocol::lease::{self, AccountId, AccountState, HolderId, LeasesRequest, Report};
use protocol::payment::Challenge;
use protocol::payment::credential::encode;
use serde_json::{Value, json};

use super::charges::{header, lines, problem};
use super::fixture::*;
use crate::flow::*;

/// `/v1/` is sold by all schemes, `/v2/` by tokens only, `/v3/` and `/v4/` by session only.
const SERVICES: &str = r#"[
    {"name":"all","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v1/"}}],
     "price":{"sat":10},"schemes":["l402","charge","session"],"session":{"price":{"sat":2}}},
    {"name":"tokens","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v2/"}}],
     "price":{"sat":10},"freePaths":[{"exact":"/v2/free"}]},
    {"name":"cheap","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v3/"}}],
     "price":{"sat":2},"schemes":["session"],"noInvoicePaths":[{"prefix":"/v3/cb/"}]},
    {"name":"dear","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v4/"}}],
     "price":{"sat":5},"schemes":["session"],"session":{"unit":"event","deposit":{"sat":50}}}]"#;
const BEHIND_TLS: &str = r#""payment":{"realm":"api.example.com","tls":"terminated"}"#;
const RETURN: &str = "lnbcrt1return";

/// One account as a ledger keeps it: just enough to grant and to count.
#[derive(Default)]
struct Account {
    deposited: u64,
    spent: u64,
    is_closed: bool,
    /// Granted, used and given back.
    holders: BTreeMap<HolderId, (u64, u64, u64)>,
    ended: BTreeSet<HolderId>,
}

impl Account {
    fn of(deposited: u64) -> Self {
        Self {
            deposited,
            ..Self::default()
        }
    }

    fn free(&self) -> u64 {
        let held: u64 = self
            .holders
            .values()
            .map(|(granted, used, _)| granted - used)
            .sum();
        self.deposited - self.spent - held
    }

    fn answer(&mut self, report: &Report) -> lease::Answer {
        let free = self.free();
        let holder = self.holders.entry(report.holder).or_default();
        let is_over = report.release || self.ended.contains(&report.holder);
        assert!(report.used <= holder.0, "more is used than was granted");
        self.spent += report.used.saturating_sub(holder.1);
        holder.1 = holder.1.max(report.used);
        self.spent -= report.returned.saturating_sub(holder.2);
        holder.2 = holder.2.max(report.returned);
        let lacking = report.need.saturating_sub(holder.0 - holder.1);
        let is_short = lacking > free;
        if is_over {
            self.ended.insert(report.holder);
            holder.0 = holder.1;
        } else if !is_short && !self.is_closed {
            let wanted = report.want.saturating_sub(holder.0).max(lacking);
            holder.0 += wanted.min(free);
        }
        let granted = holder.0;
        lease::Answer {
            account: report.account,
            holder: report.holder,
            granted,
            returned: report.returned,
            spent: self.spent,
            recall: is_over || self.is_closed,
            r#final: is_over,
            short: is_short && !is_over,
            state: match self.is_closed {
                true => AccountState::Closed,
                false => AccountState::Open,
            },
        }
    }
}

/// A session as its buyer knows it.
#[derive(Clone)]
struct Session {
    id: String,
    preimage: String,
    /// The line of the challenge that opened it.
    line: String,
}

/// What became of a request.
#[derive(Debug)]
enum Seen {
    Held,
    Forwarded(Note),
    Reply(Reply),
}

impl Seen {
    fn reply(self) -> Reply {
        match self {
            Self::Reply(reply) => reply,
            other => panic!("expected a reply, found {other:?}"),
        }
    }

    fn spent(self) -> Rc<Spent> {
        match self {
            Self::Forwarded(Note {
                outcome: Outcome::Paid,
                admitted: Some(Admission::Session(spent)),
                ..
            }) => spent,
            other => panic!("expected to be paid for by a session, found {other:?}"),
        }
    }

    fn status(&self) -> u16 {
        match self {
            Self::Held => 0,
            Self::Forwarded(_) => 200,
            Self::Reply(reply) => reply.status,
        }
    }
}

/// A gate, and a sidecar that does what it should.
struct World {
    gate: Fixture,
    accounts: BTreeMap<AccountId, Account>,
    preimages: BTreeMap<String, Preimage>,
    /// Deposit invoices made, and calls about leases answered.
    invoices: u32,
    reports: usize,
    terms: lease::Terms,
}

impl World {
    fn of(settings: &str, services: &str) -> Self {
        let mut gate = Fixture::of(settings, services);
        gate.bootstrap();
        while gate.gate.next_call().is_some() {}
        Self {
            gate,
            accounts: BTreeMap::new(),
            preimages: BTreeMap::new(),
            invoices: 0,
            reports: 0,
            terms: lease::Terms::USUAL,
        }
    }

    fn new() -> Self {
        Self::of(BEHIND_TLS, SERVICES)
    }

    /// Holders of two gates never have the same name.
    fn number_holders_from(&mut self, seed: u8) {
        let times = crate::lease::Times::default();
        self.gate.gate.state.sessions.leases = crate::lease::Leases::new(times, [seed; 16]);
    }

    fn preimage(&mut self) -> Preimage {
        self.invoices += 1;
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&self.invoices.to_be_bytes());
        let preimage = Preimage::new(bytes);
        self.preimages
            .insert(preimage.hash().to_string(), preimage.clone());
        preimage
    }

    fn deposit_offers(&mut self, kind: CallKind, count: u16) {
        let offers: Vec<_> = (0..count)
            .map(|_| {
                let hash = self.preimage().hash().to_string();
                let now = self.gate.now_ms / 1_000;
                json!({
                    "payment_hash": hash,
                    "invoice": format!("lnbcrt400n1deposit{}", self.invoices),
                    "show_until": now + 500, "expires": now + 600,
                })
            })
            .collect();
        let body = json!({ "offers": offers }).to_string();
        self.gate.respond(kind, 200, true, &body);
    }

    /// Answers calls for offers and about leases; gives the first other one.
    fn pump(&mut self) -> Option<(CallKind, String, Vec<u8>)> {
        while let Some((kind, cluster, path, body)) = self.gate.call() {
            assert_eq!(cluster, "boltgate");
            match (kind, path.as_str()) {
                (CallKind::Offers { .. }, "/v1/sessions/offers") => {
                    let request: ChargeOffersRequest = serde_json::from_slice(&body).unwrap();
                    assert!([40, 50].contains(&request.amount.get()));
                    self.deposit_offers(kind, request.count);
                }
                (CallKind::Offers { count, .. }, "/v1/charges/offers") => {
                    self.gate.charge_offers(kind, count);
                }
                (CallKind::Offers { count, .. }, "/v1/offers") => {
                    self.gate.offers(kind, count.into());
                }
                (CallKind::Leases { .. }, "/v1/leases") => self.answer_reports(kind, &body),
                _ => return Some((kind, path, body)),
            }
        }
        None
    }

    const fn leases_answer(&self, answers: Vec<lease::Answer>) -> lease::LeasesAnswer {
        lease::LeasesAnswer {
            answers,
            terms: self.terms,
        }
    }

    fn answer_reports(&mut self, kind: CallKind, body: &[u8]) {
        self.reports += 1;
        let request: LeasesRequest = serde_json::from_slice(body).unwrap();
        let answers = request.reports.iter().map(|report| self.answer(report));
        let answers: Vec<_> = answers.collect();
        let body = serde_json::to_string(&self.leases_answer(answers)).unwrap();
        self.gate.respond(kind, 200, true, &body);
    }

    fn answer(&mut self, report: &Report) -> lease::Answer {
        match self.accounts.get_mut(&report.account) {
            Some(account) => account.answer(report),
            None => lease::Answer {
                account: report.account,
                holder: report.holder,
                granted: 0,
                returned: report.returned,
                spent: 0,
                recall: true,
                r#final: true,
                short: false,
                state: AccountState::Unknown,
            },
        }
    }

    /// The call that the gate makes about a session.
    fn errand<T: serde::de::DeserializeOwned>(&mut self, expected: &str) -> (CallKind, T) {
        let (kind, path, body) = self.pump().expect("a call about a session");
        assert_eq!(path, expected);
        (kind, serde_json::from_slice(&body).unwrap())
    }

    /// Time passes, in ticks.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(20) {
            self.gate.now_ms += 20;
            self.tick();
        }
    }

    /// Much time has passed: keys are asked for again.
    fn refresh(&mut self) {
        assert!(self.pump().is_none());
        self.gate.bootstrap();
        assert!(self.pump().is_none());
    }

    fn tick(&mut self) {
        self.gate.gate.tick(self.gate.now());
        assert!(self.pump().is_none());
    }

    fn seen(decision: Decision<'_>, sent: Option<&Sent>) -> Seen {
        match decision {
            Decision::Forward { edits, note } => {
                if let Some(sent) = sent {
                    assert_clean(sent, &edits);
                }
                Seen::Forwarded(note)
            }
            Decision::HoldCleaned(edits) => {
                if let Some(sent) = sent {
                    assert_clean(sent, &edits);
                }
                Seen::Held
            }
            Decision::Hold => Seen::Held,
            Decision::Reply(reply) => Seen::Reply(*reply),
        }
    }

    /// What is done with a request at once.
    fn at_once(&mut self, sent: &Sent) -> Seen {
        let decision = self.gate.request(sent);
        Self::seen(decision, Some(sent))
    }

    /// What becomes of a request in the end, if nothing but offers and leases is needed.
    fn asked(&mut self, sent: &Sent) -> Seen {
        match self.at_once(sent) {
            Seen::Held => self.due(),
            seen => seen,
        }
    }

    /// What becomes of the next held request.
    fn due(&mut self) -> Seen {
        assert!(self.pump().is_none());
        for _ in 0..60 {
            if let Some((_, seen)) = self.next_due() {
                return seen;
            }
            self.wait(20);
        }
        panic!("nothing is due")
    }

    fn next_due(&mut self) -> Option<(u32, Seen)> {
        let due = self.gate.gate.next_due()?;
        let stream = due.stream;
        let decision = self.gate.gate.answer(due).expect("nothing waits for keys");
        Some((stream, Self::seen(decision, None)))
    }

    /// The line of a session challenge.
    fn challenge(&mut self, path: &str) -> String {
        let reply = self.asked(&Sent::get(path)).reply();
        assert_eq!(reply.status, 402, "{reply:?}");
        session_line(&reply)
    }

    /// A credential for the challenge of that line: the preimage of its deposit, and other members.
    fn paid(&self, line: &str, action: &str, members: &[(&str, &str)]) -> String {
        let challenge = Challenge::parse_list(line).unwrap().remove(0);
        let hash = request_of(line)["paymentHash"].as_str().unwrap().to_owned();
        let preimage = hex_encode(self.preimages[&hash].expose());
        let name = match action {
            "topUp" => "topUpPreimage",
            _ => "preimage",
        };
        let mut payload = vec![("action", action), (name, preimage.as_str())];
        payload.retain(|(name, _)| members.iter().all(|(other, _)| other != name));
        payload.extend(members);
        encode(&challenge, &payload)
    }

    /// Presents an open, and gives the call that is made for it.
    fn opening(&mut self, path: &str) -> (Session, CallKind, OpenRequest) {
        let line = self.challenge(path);
        let credential = self.paid(&line, "open", &[("returnInvoice", RETURN)]);
        let sent = Sent::get(path).with("authorization", &credential);
        assert!(matches!(self.at_once(&sent), Seen::Held));
        let (kind, request) = self.errand::<OpenRequest>("/v1/sessions/open");
        let id = request.call.payment_hash.to_string();
        let preimage = hex_encode(self.preimages[&id].expose());
        (Session { id, preimage, line }, kind, request)
    }

    /// The answer of a ledger that has credited that much, once: to a repeated call it grants
    /// nothing.
    fn opened(&mut self, request: &OpenRequest, deposited: u64) -> String {
        let mut answer = json!({"result": "opened", "at": CREDENTIAL_TIME + 1});
        let report = &request.lease;
        self.accounts.entry(report.account).or_insert_with(|| {
            let mut account = Account::of(deposited);
            answer["lease"] = json!(account.answer(report));
            answer["terms"] = json!(self.terms);
            account
        });
        answer.to_string()
    }

    /// A session with that much in it, of which one unit has been spent.
    fn session(&mut self, path: &str, deposited: u64) -> Session {
        let (session, kind, request) = self.opening(path);
        let body = self.opened(&request, deposited);
        self.gate.respond(kind, 200, true, &body);
        let spent = self.due().spent();
        // The upstream has answered.
        let now_ms = self.gate.now_ms;
        self.gate.gate.is_earned(&spent, || now_ms);
        session
    }

    /// A bearer with the challenge that opened the session.
    fn bearer(&self, session: &Session, path: &str) -> Sent {
        self.bearer_by(session, path, &session.line)
    }

    fn bearer_by(&self, session: &Session, path: &str, line: &str) -> Sent {
        let members = [
            ("sessionId", session.id.as_str()),
            ("preimage", session.preimage.as_str()),
        ];
        let credential = self.paid(line, "bearer", &members);
        Sent::get(path).with("authorization", &credential)
    }

    fn account(&mut self, session: &Session) -> &mut Account {
        self.accounts.get_mut(&session.id.parse().unwrap()).unwrap()
    }
}

/// No upstream sees a credential.
fn assert_clean(sent: &Sent, edits: &[Edit<'_>]) {
    for (name, value) in apply(sent, edits) {
        let value = String::from_utf8_lossy(&value).to_lowercase();
        assert!(name != b"payment-authorization" && !value.contains("payment "));
    }
}

fn session_line(reply: &Reply) -> String {
    let line = lines(reply)
        .into_iter()
        .find(|line| line.contains("intent=\"session\""));
    line.expect("a session is offered").to_owned()
}

/// What a challenge asks for.
fn request_of(line: &str) -> Value {
    let challenge = Challenge::parse_list(line).unwrap().remove(0);
    serde_json::from_slice(&base64url_decode(&*challenge.request).unwrap()).unwrap()
}

fn receipt_of(text: &str) -> Value {
    serde_json::from_slice(&base64url_decode(text).unwrap()).unwrap()
}
