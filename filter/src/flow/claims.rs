//! Claims: of all requests that present one paid charge, one is forwarded (design sections 5, 6).
//!
//! A request asks once, under a name of its own, and is held meanwhile. Whatever ends otherwise
//! than with forwarding what was won is abandoned: told to the sidecar again and again until it
//! has heard, so that a fault of ours never costs the buyer the payment.

use std::collections::VecDeque;
use std::rc::Rc;

use protocol::api::charge::{ABANDON_PATH, CLAIM_PATH, MAX_ABANDONED};
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

/// Who waits for the answer to a claim.
#[derive(Debug)]
pub(super) struct Claimant {
    /// Of the claim, growing.
    pub(super) number: u64,
    attempt: Attempt,
    claiming: Claiming,
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
    /// Oldest first.
    abandoned: VecDeque<Attempt>,
    /// Number of the batch under way, how many it has, and when it was sent.
    batch: Option<(u64, usize, u64)>,
}

impl Claims {
    pub(super) fn is_full(&self) -> bool {
        self.abandoned.len() >= MOST
    }

    pub(super) fn abandon(&mut self, attempt: Attempt) {
        self.abandoned.push_back(attempt);
    }

    /// Takes over what the gate of an older configuration still has to say; saying it twice does
    /// no harm.
    pub(super) fn inherit(&mut self, other: &Self) {
        self.abandoned.extend(other.abandoned.iter().cloned());
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
    /// Only what the sidecar itself says counts ([`protocol::api::charge::Claim`]).
    fn of(answer: &Answer<'_>) -> Self {
        if !answer.is_marked || answer.status != 200 {
            return Self::Fault;
        }
        let json = Json::parse(answer.body);
        match json.as_ref().and_then(|json| json.text("claim")) {
            Some("won") => Self::Won,
            Some("lost") => Self::Lost,
            Some("busy" | "unsettled") => Self::NotNow,
            _ => Self::Fault,
        }
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
        let (service, charge) = (claiming.service, &claiming.charge);
        let Some((name, terms)) = self.names.get(service).zip(self.terms(config, service)) else {
            return false;
        };
        self.claims.numbers += 1;
        let number = self.claims.numbers;
        let attempt = Attempt {
            name: self.sidecar.name_of_attempt(number),
            payment_hash: charge.payment_hash.to_string(),
            expires: charge.expires,
        };
        let body = Object::with_capacity(512)
            .text("vm", self.sidecar.vm())
            .text("attempt", &attempt.name)
            .text("payment_hash", &attempt.payment_hash)
            .text("challenge_id", &charge.challenge_id)
            .text("service", name)
            .number("amount", charge.amount.get())
            .number("expires", charge.expires.0)
            .boolean("settled", terms.settled)
            .finish();
        let kind = CallKind::Claim { number };
        let target = ("POST", CLAIM_PATH.to_owned());
        let cluster = &config.sidecar.cluster;
        if !self
            .sidecar
            .call(config, kind, cluster, target, body.into_bytes())
        {
            return false;
        }
        self.waiting.for_claim(Waiter {
            stream: claiming.stream,
            since_ms: now_ms,
            deadline_ms: now_ms.saturating_add(patience_ms(config)),
            what: Box::new(Claimant {
                number,
                attempt,
                claiming,
            }),
        });
        true
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
        claims.numbers += 1;
        let number = claims.numbers;
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
    pub(super) fn claimed(&mut self, number: u64, answer: &Answer<'_>, now_ms: u64) -> CallResult {
        let state = &mut self.state;
        let verdict = Verdict::of(answer);
        let result = match verdict {
            Verdict::Won | Verdict::Lost => CallResult::Ok,
            Verdict::NotNow => CallResult::Refused,
            Verdict::Fault if answer.is_marked => CallResult::Refused,
            Verdict::Fault => CallResult::Failed,
        };
        // Who is not there any more has been told to come again, and the attempt is abandoned.
        let Some(waiter) = state.waiting.claimant(number) else {
            return result;
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
        result
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
