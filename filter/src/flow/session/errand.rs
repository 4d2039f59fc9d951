//! Calls about a session as a whole: open, topUp and close. The request is held meanwhile; what it
//! is told is what the sidecar has recorded, so that a lost answer costs nobody anything: the same
//! credential presented again gets the same result (X1).

use std::rc::Rc;

use protocol::api::session::{CLOSE_PATH, CLOSE_SECONDS, OPEN_PATH, TOP_UP_PATH};
use protocol::encoding::hex_encode;
use protocol::json::Json;
use protocol::lease::Report;
use protocol::payment::jcs::Object;
use protocol::payment::receipt::Receipt;
use protocol::payment::{Action, CredentialError, Refusal, SessionCall};
use protocol::policy::PluginConfig;

use super::bearer::Heard;
use super::reports::{read_answer, write_report};
use super::told::Told;
use super::{Asker, Bearer};
use crate::flow::asked::{Asked, is_hopeless};
use crate::flow::clean::{Edit, PaymentCredential};
use crate::flow::decide::seconds;
use crate::flow::payment::{self, Judged, Unpaid};
use crate::flow::reply::{Reply, Why};
use crate::flow::sidecar::{Answer, CallKind, LONGEST_RETRY_SECONDS};
use crate::flow::waiting::{Turn, Waiter};
use crate::flow::{
    Decision, Gate, Note, Now, Outcome, RETRY_AFTER_SECONDS, State, Surroundings, millis,
};
use crate::lease::InVain;
use crate::outcome::CallResult;

/// How long after a call's own timeout its request is still held.
const GRACE_MS: u64 = 250;

/// Who waits for the answer to a call about a session.
#[derive(Debug)]
pub(in crate::flow) struct Errand {
    /// Of the call.
    pub(in crate::flow) number: u64,
    job: Job,
    call: SessionCall,
    asker: Asker,
    /// By the steady clock.
    sent_ms: u64,
}

/// The price of the challenge is one of the service's.
type IsOffered = bool;

/// What is to be done, with what was said of a lease of this VM.
#[derive(Clone, Debug)]
pub(in crate::flow) enum Job {
    /// Begin a session, with a lease. Its first unit is spent on the request that opens it only
    /// at a price that is offered there.
    Open(Report, IsOffered),
    /// Add a deposit.
    TopUp,
    /// End it, and a lease with it if there is one.
    Close(Option<Report>),
}

impl Job {
    const fn kind(&self, number: u64) -> CallKind {
        match self {
            Self::Open(..) => CallKind::Open { number },
            Self::TopUp => CallKind::TopUp { number },
            Self::Close(_) => CallKind::Close { number },
        }
    }

    const fn path(&self) -> &'static str {
        match self {
            Self::Open(..) => OPEN_PATH,
            Self::TopUp => TOP_UP_PATH,
            Self::Close(_) => CLOSE_PATH,
        }
    }

    fn timeout_ms(&self, config: &PluginConfig) -> u64 {
        match self {
            Self::Open(..) | Self::TopUp => millis(config.sidecar.timeout),
            Self::Close(_) => (CLOSE_SECONDS + 1) * 1_000,
        }
    }
}

impl<'h, S: Surroundings> Asked<'_, 'h, S> {
    /// A topUp or close, which is answered wherever it comes; `None` for anything else.
    pub(in crate::flow) fn for_realm(
        &self,
        state: &mut State,
        edits: &mut Vec<Edit<'h>>,
        presented: &PaymentCredential,
    ) -> Option<Decision<'h>> {
        let presented = match presented {
            Ok(presented) => presented,
            Err(CredentialError::Several) => {
                return Some(self.bad_credential(state, CredentialError::Several.into()));
            }
            Err(_) => return None,
        };
        let credential = presented.credential().ok()?;
        if !credential.is_for_realm() {
            return None;
        }
        let now = self.now();
        if let Some(decision) = self.cannot_verify(state, now.ms) {
            return Some(decision);
        }
        let payment = self.config.payment.as_ref()?;
        if !payment::is_private(payment, self.head) {
            let note = self.note(state, Outcome::Insecure);
            return Some(Decision::reply(Reply::insecure(self.manner, note)));
        }
        let keys = payment::Keys {
            charge: None,
            session: state.sessions.keys.as_ref(),
        };
        let may_lack_a_key = self.may_lack_a_key(state, now.ms);
        let judged = payment::judge(&credential, payment, keys, may_lack_a_key, seconds(now.ms));
        Some(match judged {
            Ok(Judged::Session(call, _)) => self.manage(state, std::mem::take(edits), call),
            Ok(Judged::Charge(_)) => {
                self.refuse(state, Some(Refusal::UnknownChallenge.into()), now.ms)
            }
            Err(Unpaid::KeyUnknownToUs) => self.unavailable(state, RETRY_AFTER_SECONDS),
            Err(Unpaid::Refused(refusal)) if is_hopeless(refusal) => {
                self.bad_credential(state, refusal)
            }
            Err(Unpaid::Refused(refusal)) => self.refuse(state, Some(refusal.into()), now.ms),
        })
    }

    fn manage(&self, state: &mut State, edits: Vec<Edit<'h>>, call: SessionCall) -> Decision<'h> {
        let now = self.now();
        let account = protocol::lease::AccountId(call.session_id().0);
        let job = match call.action {
            Action::Close { .. } => {
                let leases = &mut state.sessions.leases;
                Job::Close(leases.release(&account, now.steady_ms))
            }
            _ => Job::TopUp,
        };
        let asker = Asker {
            bearer: Rc::new(Bearer::new(&call)),
            service: self.matched.index,
            manner: self.manner,
            client: self.client(),
            wanted: self.wanted_after_refusal(state),
            opened: None,
            asks_from: 0,
        };
        self.send(state, edits, (job, call, asker))
    }

    /// The deposit of the challenge is to begin a session.
    pub(super) fn open(
        &self,
        state: &mut State,
        edits: Vec<Edit<'h>>,
        asker: Asker,
        (call, is_offered): (SessionCall, IsOffered),
    ) -> Decision<'h> {
        let leases = &mut state.sessions.leases;
        let report = leases.begin(asker.bearer.account, asker.bearer.price.get());
        self.send(state, edits, (Job::Open(report, is_offered), call, asker))
    }

    /// Calls the sidecar and holds the request.
    fn send(
        &self,
        state: &mut State,
        edits: Vec<Edit<'h>>,
        (job, call, asker): (Job, SessionCall, Asker),
    ) -> Decision<'h> {
        let now = self.now();
        if state.is_full(self.config) {
            return self.unavailable(state, RETRY_AFTER_SECONDS);
        }
        // Whoever makes sessions up, or says the same again and again, is slowed down.
        if let Err(retry_after) = state.sessions.look_ups.take(asker.client, now.ms) {
            let note = self.note(state, Outcome::Limited);
            return Decision::reply(Reply::limited(retry_after, self.manner, note));
        }
        let deposits = &mut state.sessions.deposits;
        deposits.presented(call.session_id());
        if matches!(job, Job::TopUp) {
            deposits.presented(call.payment_hash);
        }
        let client = asker.client;
        let place = (self.stream, now.ms);
        if state.run_errand(self.config, place, (job, call, asker), now) {
            Decision::HoldCleaned(edits)
        } else {
            state.sessions.look_ups.give_back(client, now.ms);
            self.unavailable(state, RETRY_AFTER_SECONDS)
        }
    }
}

impl State {
    /// `false` if nobody can be asked.
    fn run_errand(
        &mut self,
        config: &PluginConfig,
        (stream, since_ms): (u32, u64),
        (job, call, asker): (Job, SessionCall, Asker),
        now: Now,
    ) -> bool {
        self.sessions.errands += 1;
        let number = self.sessions.errands;
        let service = self.names.get(asker.service).map_or("", |name| name);
        let mut body = Object::with_capacity(4_096);
        body.text("vm", self.sidecar.vm()).object("call", |object| {
            object
                .text("challenge_id", &call.challenge_id)
                .text("fingerprint", &hex_encode(&call.fingerprint()))
                .text("payment_hash", &call.payment_hash.to_string())
                .number("expires", call.expires.0)
                .boolean("is_expired", call.expires <= seconds(now.ms));
        });
        match (&job, &call.action) {
            (Job::Open(report, _), Action::Open { return_invoice }) => {
                let idle = config.payment.as_ref().map(|payment| payment.idle_timeout);
                body.text("service", service)
                    .number("price", call.price.get())
                    .number("idle_timeout_seconds", idle.unwrap_or_default().as_secs())
                    .text("return_invoice", return_invoice)
                    .object("lease", |object| write_report(object, report));
            }
            (Job::Close(Some(report)), _) => {
                body.text("session_id", &asker.bearer.session_id)
                    .object("lease", |object| write_report(object, report));
            }
            (Job::Close(None), _) => {
                body.text("session_id", &asker.bearer.session_id);
            }
            (Job::TopUp | Job::Open(..), _) => {
                body.text("session_id", &asker.bearer.session_id)
                    .text("service", service);
            }
        }
        let timeout_ms = job.timeout_ms(config);
        let target = ("POST", job.path().to_owned());
        let body = body.finish().into_bytes();
        let cluster = &config.sidecar.cluster;
        let kind = job.kind(number);
        if !self
            .sidecar
            .call_within(config, kind, cluster, target, body, timeout_ms)
        {
            return false;
        }
        self.waiting.errands.push_back(Waiter {
            stream,
            since_ms,
            deadline_ms: now.ms.saturating_add(timeout_ms).saturating_add(GRACE_MS),
            what: Box::new(Errand {
                number,
                job,
                call,
                asker,
                sent_ms: now.steady_ms,
            }),
        });
        true
    }

    /// Who has waited too long is told to come again.
    pub(in crate::flow) fn expire_errands(&mut self, now: Now) {
        let is_late = |waiter: &Waiter<Box<Errand>>| waiter.deadline_ms <= now.ms;
        while let Some(waiter) = self.waiting.take_errand(is_late) {
            let asker = &waiter.what.asker;
            let turn = Turn::come_again(Some(asker.service), asker.manner);
            self.sessions.look_ups.give_back(asker.client, now.ms);
            self.waiting.is_due(waiter.place(), turn);
            self.forget_errand(*waiter.what);
        }
    }

    /// What was asked for is of no use any more. What the ledger granted for it is returned.
    pub(in crate::flow) fn forget_errand(&mut self, errand: Errand) {
        if let Job::Open(report, _) = &errand.job {
            let leases = &mut self.sessions.leases;
            leases.begun(report, None, errand.sent_ms);
        }
    }
}

impl Gate {
    pub(in crate::flow) fn ran_errand(
        &mut self,
        number: u64,
        answer: &Answer<'_>,
        now: Now,
    ) -> CallResult {
        let (config, state) = (&self.config, &mut self.state);
        let json = Json::parse(answer.body);
        let waiter = state.waiting.take_errand(|one| one.what.number == number);
        // Who is not there any more has been told to come again, and will be told the same then.
        let Some(waiter) = waiter else {
            return CallResult::Failed;
        };
        let place = waiter.place();
        let Errand {
            job,
            call,
            asker,
            sent_ms,
            ..
        } = *waiter.what;
        let told = Told::of(&job, answer, json.as_ref());
        let result = match told {
            Told::Fault if !answer.is_marked => CallResult::Failed,
            Told::Fault | Told::NotNow => CallResult::Refused,
            _ => CallResult::Ok,
        };
        let said = json.as_ref().filter(|_| !matches!(told, Told::Fault));
        if !told.costs_a_look_up() {
            state.sessions.look_ups.give_back(asker.client, now.ms);
        }
        if let Some(json) = said {
            state.heard_terms(json);
        }
        let said = said.and_then(|json| json.get("lease"));
        let lease = said.and_then(read_answer);
        let account = asker.bearer.account;
        let mut in_vain = None;
        match &job {
            // Only then may the ledger have granted something, whether that was heard or not.
            Job::Open(report, _) if said.is_some() || matches!(told, Told::Fault) => {
                let is_open = matches!(told, Told::Opened(..));
                let lease = lease.as_ref().filter(|_| is_open);
                let leases = &mut state.sessions.leases;
                in_vain = leases.begun(report, lease, sent_ms);
            }
            Job::Close(_) => {
                if let Some(lease) = &lease {
                    let _ = state.sessions.leases.answered(lease, sent_ms);
                }
            }
            Job::Open(..) | Job::TopUp => {}
        }
        let service = asker.service;
        let manner = asker.manner;
        let turn = match told {
            Told::Fault | Told::NotNow => {
                let retry_after_seconds = match answer.retry_after {
                    Some(seconds) if answer.is_marked => seconds.clamp(1, LONGEST_RETRY_SECONDS),
                    _ => RETRY_AFTER_SECONDS,
                };
                Some(Turn::Refuse {
                    service: Some(service),
                    manner,
                    status: 503,
                    retry_after_seconds,
                })
            }
            Told::Refused(why) => state.refuse_asker(config, place, asker, why, now.ms),
            Told::Opened(at, _) => {
                state.sessions.in_vain.forget(&account);
                let asker = Asker {
                    opened: Some(at),
                    ..asker
                };
                let in_vain = match &job {
                    Job::Open(_, false) => Some(Why::PRICE_NOT_OFFERED),
                    _ => in_vain.map(Why::from),
                };
                match in_vain {
                    Some(why) => state.refuse_asker(config, place, asker, why, now.ms),
                    None => state.spend_or_wait(config, place, asker, now),
                }
            }
            Told::Credited(at, _) => {
                // Whoever waits for the money asks again, whatever was said before.
                let next = state.sessions.reports.next_number();
                state.waiting.units.ask_again(&account, next);
                state.sessions.leases.ask_now(&account);
                state.sessions.reports.hurry();
                state.note_session(config, asker.client, now.ms);
                let receipt = Receipt::new(&call.challenge_id, call.session_id(), at);
                let body = Object::with_capacity(32).text("status", "ok").finish();
                let outcome = Outcome::ToppedUp;
                Some(state.told(service, (outcome, &receipt, body), &asker))
            }
            Told::Closed(at, refund, _) => {
                let heard = Heard {
                    account,
                    in_vain: Some(InVain::Closed),
                    need: 0,
                    number: u64::MAX,
                    asked_ms: sent_ms,
                };
                state.heard_of(config, &heard, now);
                let receipt =
                    Receipt::new(&call.challenge_id, call.session_id(), at).with_refund(refund);
                let body = Object::with_capacity(128)
                    .text("status", "closed")
                    .number("refundSats", refund.sats)
                    .text("refundStatus", refund.status.as_str())
                    .finish();
                let outcome = Outcome::Closed;
                Some(state.told(service, (outcome, &receipt, body), &asker))
            }
        };
        if let Some(turn) = turn {
            state.waiting.is_due(place, turn);
        }
        state.report_leases(config, now);
        result
    }
}

impl State {
    fn told(
        &self,
        service: usize,
        (outcome, receipt, body): (Outcome, &Receipt<'_>, String),
        asker: &Asker,
    ) -> Turn {
        let note = Note {
            service: self.tag(service),
            ..Note::of(outcome)
        };
        let reply = Reply::managed(receipt, body, asker.manner, note);
        Turn::Reply(Box::new(reply))
    }
}
