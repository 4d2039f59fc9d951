//! Claims: of all requests that present one paid charge, one is forwarded (design sections 5, 6).
//!
//! A request asks once, under a name of its own, and is held meanwhile. A call costs Envoy more
//! than all the rest of a request: claims that come while one is under way go together in the next,
//! as the ledger commits them together too. Whatever ends otherwise than with forwarding what was
//! won is abandoned: told to the sidecar again and again until it has heard, so that a fault of ours
//! never costs the buyer the payment.

use std::collections::{HashSet, VecDeque};
use std::rc::Rc;

use protocol::api::charge::{ABANDON_PATH, CLAIM_PATH, MAX_ABANDONED, MAX_CLAIMS};
use protocol::encoding::hex_encode;
use protocol::hash::sha256;
use protocol::payment::Charge;
use protocol::payment::jcs::Object;
use protocol::policy::PluginConfig;
use protocol::time::UnixSeconds;

use super::limits::Client;
use super::reply::{Manner, Why};
use super::sidecar::{Answer, CallKind, LONGEST_RETRY_SECONDS};
use super::waiting::{Turn, Unoffered, Waiter, Wanted};
use super::{
    Admission, Gate, Note, RETRY_AFTER_SECONDS, ServiceTag, State, millis, patience_ms, payment,
};
use crate::outcome::CallResult;
use protocol::json::Json;

/// Attempts that are to be abandoned, at most: with as many no further claim is made.
const MOST: usize = 16_384;
/// A call that takes longer keeps no other claim waiting: it may be a fault of one sidecar alone.
const SLOW_MS: u64 = 20;

/// Who waits for the answer to a claim.
#[derive(Debug)]
pub(super) struct Claimant {
    /// Of the claim, growing.
    pub(super) number: u64,
    attempt: Attempt,
    claiming: Claiming,
    /// The service asks for a payment that the node has settled.
    settled: bool,
}

/// One attempt to claim a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Attempt {
    /// 32 hex digits.
    name: String,
    payment_hash: String,
    /// From then on nobody can claim this payment.
    expires: UnixSeconds,
}

/// A charge that this request has claimed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claimed {
    pub(super) tag: ServiceTag,
    pub(super) attempt: Attempt,
    pub(super) charge: Charge,
    /// When that was.
    pub(super) at: UnixSeconds,
    /// A browser asked across origins.
    pub(super) cors: bool,
}

impl Claimed {
    /// What was paid: 64 hex digits.
    pub(super) fn payment_hash(&self) -> &str {
        &self.attempt.payment_hash
    }
}

/// All that this gate has to say about claims.
#[derive(Default)]
pub(super) struct Claims {
    numbers: u64,
    /// Numbers of claims for which nobody has been asked yet, oldest first.
    ready: VecDeque<u64>,
    /// Calls with claims that are not answered yet.
    calls: Vec<ClaimCall>,
    /// Oldest first.
    abandoned: VecDeque<Attempt>,
    /// Number of the batch under way, how many it has, and when it was sent.
    batch: Option<(u64, usize, u64)>,
}

/// A call with claims.
struct ClaimCall {
    number: u64,
    /// Numbers of its claims, in their order there.
    claims: Vec<u64>,
    sent_ms: u64,
    /// It may have to wait for the node, and nobody waits for it.
    settled: bool,
}

impl Claims {
    /// Claims wait for a call to be answered.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Claims that are ready may be made now.
    fn may_call(&self, now_ms: u64) -> bool {
        let is_young = |call: &ClaimCall| !call.settled && now_ms.abs_diff(call.sent_ms) < SLOW_MS;
        self.has_ready() && (self.ready.len() >= MAX_CLAIMS || !self.calls.iter().any(is_young))
    }

    const fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn is_full(&self) -> bool {
        self.abandoned.len() >= MOST
    }

    pub(super) fn abandon(&mut self, attempt: Attempt) {
        self.abandoned.push_back(attempt);
    }

    /// Takes over what the gate of an older configuration still has to say, which may say it too;
    /// saying it twice does no harm.
    pub(super) fn inherit(&mut self, other: &Self) {
        let known: HashSet<&str> = self.abandoned.iter().map(|one| &*one.name).collect();
        let is_new = |one: &&Attempt| !known.contains(&*one.name);
        let more: Vec<Attempt> = other.abandoned.iter().filter(is_new).cloned().collect();
        self.abandoned.extend(more);
    }
}

/// What a claim came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Won,
    Lost,
    /// Nothing was claimed, and it may be tried again.
    NotNow,
    /// Nobody knows.
    Fault,
}

impl Verdict {
    /// Only what the sidecar itself says of each of that many claims counts
    /// ([`protocol::api::charge::Claim`]).
    fn all_of(answer: &Answer<'_>, count: usize) -> Option<Vec<Self>> {
        if !answer.is_marked || answer.status != 200 {
            return None;
        }
        let json = Json::parse(answer.body)?;
        let claims = json.list("claims").filter(|claims| claims.len() == count)?;
        let verdicts = claims.iter().map(|claim| match claim.as_text() {
            Some("won") => Self::Won,
            Some("lost") => Self::Lost,
            Some("busy" | "unsettled") => Self::NotNow,
            _ => Self::Fault,
        });
        Some(verdicts.collect())
    }
}

/// What is known of a request that is about to claim.
#[derive(Debug)]
pub(super) struct Claiming {
    pub(super) stream: u32,
    pub(super) service: usize,
    pub(super) manner: Manner,
    pub(super) client: Client,
    /// What it is offered should somebody else have the payment already.
    pub(super) wanted: Wanted,
    pub(super) charge: Charge,
}

impl State {
    /// Asks for a claim and holds the request meanwhile; `false` if nobody can be asked.
    pub(super) fn claim(&mut self, config: &PluginConfig, claiming: Claiming, now_ms: u64) -> bool {
        let Some(terms) = self.terms(config, claiming.service) else {
            return false;
        };
        if !self.sidecar.has_token() {
            return false;
        }
        let number = self.claims.next_number();
        let attempt = Attempt {
            name: self.sidecar.name_of_attempt(number),
            payment_hash: claiming.charge.payment_hash.to_string(),
            expires: claiming.charge.expires,
        };
        let settled = terms.settled;
        self.waiting.for_claim(Waiter {
            stream: claiming.stream,
            since_ms: now_ms,
            deadline_ms: now_ms.saturating_add(patience_ms(config)),
            what: Box::new(Claimant {
                number,
                attempt,
                claiming,
                settled,
            }),
        });
        if settled {
            self.call_for(config, &[number], settled, now_ms);
        } else {
            self.claims.ready.push_back(number);
            self.make_claims(config, now_ms);
        }
        true
    }

    /// Asks for what is ready, if it is time.
    pub(super) fn make_claims(&mut self, config: &PluginConfig, now_ms: u64) {
        while self.claims.may_call(now_ms) {
            let count = self.claims.ready.len().min(MAX_CLAIMS);
            let numbers: Vec<u64> = self.claims.ready.drain(..count).collect();
            self.call_for(config, &numbers, false, now_ms);
        }
    }

    /// Makes these claims, but those whose requests wait no longer.
    fn call_for(&mut self, config: &PluginConfig, numbers: &[u64], settled: bool, now_ms: u64) {
        let claimants = numbers.iter().filter_map(|number| {
            let claimant = self.waiting.claimant_of(*number)?;
            let service = self.names.get(claimant.claiming.service)?;
            Some((claimant, service))
        });
        let claimants: Vec<_> = claimants.collect();
        let claims: Vec<u64> = claimants.iter().map(|(one, _)| one.number).collect();
        if claims.is_empty() {
            return;
        }
        let body = Object::with_capacity(512 * (claims.len() + 1))
            .text("vm", self.sidecar.vm())
            .objects("claims", &claimants, |object, (claimant, service)| {
                let charge = &claimant.claiming.charge;
                object
                    .text("attempt", &claimant.attempt.name)
                    .text("payment_hash", &claimant.attempt.payment_hash)
                    .text("challenge_id", &charge.challenge_id)
                    .text("service", service)
                    .number("amount", charge.amount.get())
                    .number("expires", charge.expires.0)
                    .boolean("settled", claimant.settled);
            })
            .finish();
        let number = self.claims.next_number();
        let kind = CallKind::Claim { number };
        let target = ("POST", CLAIM_PATH.to_owned());
        let cluster = &config.sidecar.cluster;
        // Without a call they are told to come again once they have waited too long.
        if self
            .sidecar
            .call(config, kind, cluster, target, body.into_bytes())
        {
            self.claims.calls.push(ClaimCall {
                number,
                claims,
                sent_ms: now_ms,
                settled,
            });
        }
    }

    /// Who has waited too long is told to come again.
    pub(super) fn expire_claims(&mut self, now_ms: u64) {
        while let Some(waiter) = self.waiting.late_claimant(now_ms) {
            let Claiming {
                service, manner, ..
            } = waiter.what.claiming;
            let turn = Turn::come_again(Some(service), manner);
            self.waiting.is_due(waiter.place(), turn);
            self.claims.abandon(waiter.what.attempt);
        }
    }

    /// Nobody will hear of any claim.
    pub(super) fn abandon_claims(&mut self) {
        while let Some(waiter) = self.waiting.late_claimant(u64::MAX) {
            self.claims.abandon(waiter.what.attempt);
        }
    }

    /// Tells the sidecar what is to be abandoned, one batch at a time.
    pub(super) fn tell_abandoned(&mut self, config: &PluginConfig, now_ms: u64) {
        let lost_after_ms = millis(config.sidecar.timeout).saturating_mul(2);
        let claims = &mut self.claims;
        if claims
            .batch
            .is_some_and(|(.., sent_ms)| now_ms.abs_diff(sent_ms) <= lost_after_ms)
        {
            return;
        }
        let now = UnixSeconds(now_ms / 1_000);
        claims.abandoned.retain(|attempt| now < attempt.expires);
        let count = claims.abandoned.len().min(MAX_ABANDONED);
        if count == 0 {
            return;
        }
        let number = claims.next_number();
        claims.batch = Some((number, count, now_ms));
        let attempts = claims.abandoned.iter().take(count);
        let body = Object::with_capacity(128 * (count + 1))
            .text("vm", self.sidecar.vm())
            .objects("attempts", attempts, |object, attempt| {
                object
                    .text("attempt", &attempt.name)
                    .text("payment_hash", &attempt.payment_hash);
            })
            .finish();
        let target = ("POST", ABANDON_PATH.to_owned());
        let kind = CallKind::Abandon { number };
        let cluster = &config.sidecar.cluster;
        self.sidecar
            .call(config, kind, cluster, target, body.into_bytes());
    }
}

impl Gate {
    /// A call with claims is answered, or failed.
    pub(super) fn claimed(&mut self, number: u64, answer: &Answer<'_>, now_ms: u64) -> CallResult {
        let calls = &mut self.state.claims.calls;
        let Some(place) = calls.iter().position(|call| call.number == number) else {
            return CallResult::Failed;
        };
        let claims = calls.swap_remove(place).claims;
        let verdicts = Verdict::all_of(answer, claims.len());
        let result = match &verdicts {
            Some(_) => CallResult::Ok,
            None if answer.is_marked => CallResult::Refused,
            None => CallResult::Failed,
        };
        let verdicts = verdicts.unwrap_or_else(|| vec![Verdict::Fault; claims.len()]);
        for (number, verdict) in claims.into_iter().zip(verdicts) {
            self.decided(number, verdict, answer, now_ms);
        }
        self.state.make_claims(&self.config, now_ms);
        result
    }

    fn decided(&mut self, number: u64, verdict: Verdict, answer: &Answer<'_>, now_ms: u64) {
        let state = &mut self.state;
        // Who is not there any more has been told to come again, and the attempt is abandoned.
        let Some(waiter) = state.waiting.claimant(number) else {
            return;
        };
        let place = waiter.place();
        let Claimant {
            attempt, claiming, ..
        } = *waiter.what;
        let Claiming {
            service,
            manner,
            client,
            wanted,
            charge,
            ..
        } = claiming;
        let tag = state.tag(service);
        let turn = match (verdict, tag) {
            (Verdict::Won, Some(tag)) => {
                state.clients.has_paid(client, now_ms);
                let claimed = Rc::new(Claimed {
                    tag,
                    attempt,
                    charge,
                    at: UnixSeconds(now_ms / 1_000),
                    cors: manner.cors,
                });
                Some(Turn::Forward { service, claimed })
            }
            (Verdict::Lost, _) => {
                let unoffered = Unoffered {
                    manner,
                    refused: Some(Why::CONSUMED),
                    client,
                    wanted,
                    deposit: None,
                };
                state.refuse_held(&self.config, place, service, unoffered, now_ms)
            }
            (verdict, _) => {
                if verdict != Verdict::NotNow {
                    state.claims.abandon(attempt);
                }
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
        };
        if let Some(turn) = turn {
            state.waiting.is_due(place, turn);
        }
    }

    /// The sidecar has heard, or not, of a batch of abandoned attempts.
    pub(super) fn heard_abandoned(&mut self, number: u64, answer: &Answer<'_>) -> CallResult {
        let claims = &mut self.state.claims;
        let Some((_, count, _)) = claims.batch.take_if(|(sent, ..)| *sent == number) else {
            return CallResult::Failed;
        };
        match (answer.is_marked, answer.status) {
            (true, 200) => {
                claims.abandoned.drain(..count.min(claims.abandoned.len()));
                CallResult::Ok
            }
            (true, _) => CallResult::Refused,
            (false, _) => CallResult::Failed,
        }
    }

    /// The stream was not forwarded, although the gate had said so.
    pub fn not_forwarded(&mut self, stream: u32, note: &Note) {
        if !payment::IS_BUILT_IN {
            return;
        }
        self.response_ended(stream);
        match &note.admitted {
            Some(Admission::Charge(claimed)) => {
                self.state.claims.abandon(claimed.attempt.clone());
            }
            Some(Admission::Session(spent)) => self.give_back(spent),
            Some(Admission::Token(_)) | None => {}
        }
    }

    /// The stream has been answered otherwise while it was held.
    pub fn let_go(&mut self, stream: u32) {
        if !payment::IS_BUILT_IN {
            return;
        }
        let state = &mut self.state;
        if let Some(waiter) = state.waiting.claimant_on(stream) {
            state.claims.abandon(waiter.what.attempt);
        }
        if let Some(waiter) = state.waiting.take_errand(|one| one.stream == stream) {
            state.forget_errand(*waiter.what);
        }
        state.let_asker_go(stream);
    }
}

/// A name that no other attempt has: that of the VM is random, and its numbers differ.
pub(super) fn name_of_attempt(vm: &[u8; 16], number: u64) -> String {
    let mut name = hex_encode(&sha256(
        [&vm[..], &number.to_le_bytes()].concat().as_slice(),
    ));
    name.truncate(32);
    name
}
