//! A request for something that has its price: paid, refused, or held.

use std::cell::Cell;
use std::rc::Rc;

use protocol::l402::{self, Refusal, Target};
use protocol::payment::{self as scheme, Charge, CredentialError};
use protocol::policy::{Access, PluginConfig, Service};

use super::claims::Claiming;
use super::clean::{self, Edit, PaymentCredential, Presented};
use super::decide::{answer, outcome_of, seconds};
use super::limits::Client;
use super::payment::{self, Judged, Unpaid};
use super::place::Matched;
use super::reply::{Manner, Reply, Why};
use super::verdicts::Key;
use super::waiting::{Unoffered, Waiter, Wanted};
use super::{
    Admission, Admitted, Decision, Note, Now, RETRY_AFTER_SECONDS, State, Surroundings, millis,
};
use crate::head::Head;
use crate::outcome::Outcome;

/// Keys of an older answer may lack one that is in use already: the sidecar waits for a filter's
/// acknowledgement as long as it was heard of within 30 s.
const KEYS_COMPLETE_MS: u64 = 10_000;
/// How often the client of a remembered credential is noted as one that has paid: to ask for its
/// address costs as much as to read a header.
const NOTED_MS: u64 = 60_000;

/// Why no credential was accepted.
enum Refused {
    /// What is wrong with the best one; `None` if there was none.
    Because(Option<Why>),
    /// It may be good: its key generation is unknown, and we have not heard of the sidecar lately.
    KeyUnknownToUs,
}

/// A request for something that has its price.
pub(super) struct Asked<'a, 'h, S> {
    pub(super) config: &'a PluginConfig,
    pub(super) stream: u32,
    pub(super) head: &'a Head<'h>,
    pub(super) matched: &'a Matched<'a>,
    pub(super) manner: Manner,
    pub(super) around: &'a S,
    /// The service is only the one whose sessions are offered: the request itself is for something
    /// that is not sold by session.
    pub(super) is_elsewhere: bool,
}

/// Credentials that have been taken out of a request.
pub(super) struct Taken {
    pub(super) presented: Presented,
    /// They were all that its field held.
    pub(super) is_all_ours: bool,
}

impl Taken {
    pub(super) fn out_of<'h>(head: &Head<'h>, edits: &mut Vec<Edit<'h>>) -> Self {
        let before = edits.len();
        let presented = clean::take_credentials(head, true, edits);
        Self {
            presented,
            is_all_ours: matches!(edits.get(before..), Some([Edit::Remove(_)])),
        }
    }
}

/// No challenge is the answer to it.
pub(super) const fn is_hopeless(refusal: scheme::Refusal) -> bool {
    refusal.status() == 400
}

impl<'h, S: Surroundings> Asked<'_, 'h, S> {
    /// Nothing can be verified now: what becomes of the request.
    pub(super) fn cannot_verify(&self, state: &mut State, now_ms: u64) -> Option<Decision<'h>> {
        if state.keys.is_absent() {
            return Some(self.hold_for_keys(state, now_ms));
        }
        (!self.has_fresh_keys(state, now_ms)).then(|| self.unavailable(state, RETRY_AFTER_SECONDS))
    }

    pub(super) fn has_fresh_keys(&self, state: &State, now_ms: u64) -> bool {
        let most_ms = millis(self.config.revocation_max_age);
        !state.keys.is_absent() && state.keys.age_ms(now_ms) <= most_ms
    }

    pub(super) fn may_lack_a_key(&self, state: &State, now_ms: u64) -> bool {
        state.keys.age_ms(now_ms) > KEYS_COMPLETE_MS
    }

    pub(super) fn now(&self) -> Now {
        Now {
            ms: self.around.now_ms(),
            steady_ms: self.around.steady_ms(),
        }
    }

    /// `taken` is what has been taken out of the request already.
    pub(super) fn priced(
        &self,
        state: &mut State,
        mut edits: Vec<Edit<'h>>,
        taken: Option<Taken>,
    ) -> Decision<'h> {
        let now_ms = self.around.now_ms();
        if let Some(decision) = self.cannot_verify(state, now_ms) {
            return decision;
        }
        let text = self.only_credential();
        if let Some((name, text)) = text
            && let Some(admitted) = self.seen_before(state, text, now_ms)
        {
            if now_ms.abs_diff(admitted.noted_ms.get()) >= NOTED_MS {
                admitted.noted_ms.set(now_ms);
                state.clients.has_paid(self.client(), now_ms);
            }
            edits.push(Edit::Remove(name));
            return self.admit(state, edits, admitted);
        }
        let Taken {
            mut presented,
            is_all_ours,
        } = taken.unwrap_or_else(|| Taken::out_of(self.head, &mut edits));
        let payment = presented.payment.take();
        let index = self.matched.index;
        let sells_payment = state.terms(self.config, index).is_some()
            || state.session_terms(self.config, index).is_some();
        if sells_payment && matches!(payment, Some(Err(CredentialError::Several))) {
            return self.bad_credential(state, CredentialError::Several.into());
        }
        match self.verify(state, &mut presented, now_ms) {
            Err(Refused::KeyUnknownToUs) => self.unavailable(state, RETRY_AFTER_SECONDS),
            Err(Refused::Because(refused)) => match payment {
                Some(payment) if sells_payment => {
                    self.paid(state, edits, (&payment, is_all_ours), now_ms)
                }
                Some(_) => self.refuse(state, refused.or(Some(Why::SCHEME_NOT_SOLD)), now_ms),
                None => self.refuse(state, refused, now_ms),
            },
            Ok(admitted) => {
                if let Some((_, text)) = text.filter(|_| is_all_ours) {
                    state.verdicts.insert(&self.key(text), admitted.clone());
                }
                state.clients.has_paid(self.client(), now_ms);
                self.admit(state, edits, admitted)
            }
        }
    }

    /// A credential of the Payment scheme, to a service that sells by it.
    fn paid(
        &self,
        state: &mut State,
        edits: Vec<Edit<'h>>,
        (presented, is_all_ours): (&PaymentCredential, bool),
        now_ms: u64,
    ) -> Decision<'h> {
        let Some(payment) = &self.config.payment else {
            return self.unavailable(state, RETRY_AFTER_SECONDS);
        };
        if !payment::is_private(payment, self.head) {
            return Decision::reply(Reply::insecure(
                self.manner,
                self.note(state, Outcome::Insecure),
            ));
        }
        let credential = match presented {
            Ok(presented) => presented.credential(),
            Err(error) => Err(*error),
        };
        let keys = payment::Keys {
            charge: state
                .charge_keys
                .get(self.matched.index)
                .and_then(Option::as_ref),
            session: state.sessions.keys.as_ref(),
        };
        let may_lack_a_key = self.may_lack_a_key(state, now_ms);
        let judged = match &credential {
            Ok(credential) => {
                payment::judge(credential, payment, keys, may_lack_a_key, seconds(now_ms))
            }
            Err(error) => Err(Unpaid::Refused((*error).into())),
        };
        match judged {
            Ok(Judged::Charge(charge)) => self.charge(state, edits, charge, now_ms),
            Ok(Judged::Session(call, was_late)) => {
                self.session(state, edits, (call, was_late), is_all_ours)
            }
            Err(Unpaid::KeyUnknownToUs) => self.unavailable(state, RETRY_AFTER_SECONDS),
            Err(Unpaid::Refused(refusal)) if is_hopeless(refusal) => {
                self.bad_credential(state, refusal)
            }
            Err(Unpaid::Refused(refusal)) => self.refuse(state, Some(refusal.into()), now_ms),
        }
    }

    /// A charge that is paid: it is claimed, as the last thing that could refuse it.
    fn charge(
        &self,
        state: &mut State,
        edits: Vec<Edit<'h>>,
        charge: Charge,
        now_ms: u64,
    ) -> Decision<'h> {
        let index = self.matched.index;
        if state.is_full(self.config) || state.claims.is_full() {
            return self.unavailable(state, RETRY_AFTER_SECONDS);
        }
        let claiming = Claiming {
            stream: self.stream,
            service: index,
            manner: self.manner,
            client: self.client(),
            wanted: self.wanted_after_refusal(state),
            charge,
        };
        if state.claim(self.config, claiming, now_ms) {
            Decision::HoldCleaned(edits)
        } else {
            self.unavailable(state, RETRY_AFTER_SECONDS)
        }
    }

    /// The schemes by which this request can be sold to.
    pub(super) fn wanted(&self, state: &State) -> Wanted {
        let index = self.matched.index;
        let service = self.config.policy.services().get(index);
        let l402 = !self.is_elsewhere && service.is_some_and(Service::sells_l402);
        let is_private = |payment| payment::is_private(payment, self.head);
        if !payment::IS_BUILT_IN || !self.config.payment.as_ref().is_some_and(is_private) {
            return Wanted {
                l402,
                ..Wanted::NOTHING
            };
        }
        let sold = (
            !self.is_elsewhere && state.terms(self.config, index).is_some(),
            state.session_terms(self.config, index).is_some(),
        );
        let (charge, session) = payment::accepted(self.head, sold, l402);
        Wanted {
            l402,
            charge,
            session,
        }
    }

    pub(super) fn bad_credential(&self, state: &State, refusal: scheme::Refusal) -> Decision<'h> {
        let note = self.note(state, Outcome::Refused);
        Decision::reply(Reply::bad_credential(refusal, self.manner, note))
    }

    /// The field that holds a credential, if there is only one that could.
    pub(super) fn only_credential(&self) -> Option<(&'static [u8], &'h [u8])> {
        if self.head.has_payment_authorization {
            return None;
        }
        match (self.head.authorization, self.head.has_metadata) {
            (Some(value), false) if !self.head.authorization_repeated => {
                Some((b"authorization", value))
            }
            (None, true) => {
                let mut fields = crate::head::METADATA
                    .into_iter()
                    .flat_map(|name| self.head.pairs.values(name).map(move |value| (name, value)));
                let first = fields.next()?;
                fields.next().is_none().then_some(first)
            }
            _ => None,
        }
    }

    pub(super) fn key<'k>(&'k self, text: &'k [u8]) -> Key<'k> {
        Key {
            credential: text,
            service: self.matched.index,
            capability: self.matched.capability,
        }
    }

    fn seen_before(&self, state: &mut State, text: &[u8], now_ms: u64) -> Option<Rc<Admitted>> {
        state.verdicts.enter_generation(state.keys.generation);
        let key = self.key(text);
        let admitted = state.verdicts.find(&key)?;
        let has_expired = admitted
            .valid_until
            .is_some_and(|end| seconds(now_ms) >= end);
        if has_expired || state.keys.is_denied(&admitted.identifier_hash) {
            state.verdicts.remove(&key);
            return None;
        }
        Some(admitted.clone())
    }

    /// The first credential that holds, else why the one that came furthest does not.
    fn verify(
        &self,
        state: &State,
        presented: &mut Presented,
        now_ms: u64,
    ) -> Result<Rc<Admitted>, Refused> {
        let Some(service) = state.names.get(self.matched.index) else {
            return Err(Refused::Because(None));
        };
        let policy = self.config.policy.services();
        if !policy
            .get(self.matched.index)
            .is_some_and(Service::sells_l402)
        {
            let refused = presented.has_l402().then_some(Why::SCHEME_NOT_SOLD);
            return Err(Refused::Because(refused));
        }
        let target = Target {
            service,
            capability: self.matched.capability,
            now: seconds(now_ms),
        };
        let mut refused = presented.malformed.map(Refusal::Credential);
        let mut is_key_unknown = false;
        let may_lack_a_key = self.may_lack_a_key(state, now_ms);
        for credential in &presented.credentials {
            let was_denied = Cell::new(false);
            let is_denied = |hash: &[u8; 32]| {
                was_denied.set(state.keys.is_denied(hash));
                was_denied.get()
            };
            let (keys, budget) = (&state.keys.l402, &mut presented.budget);
            match l402::verify_within(credential, keys, is_denied, &target, budget) {
                Ok(grant) => {
                    return Ok(Rc::new(Admitted {
                        service: service.clone(),
                        token_id: grant.token_id.to_string(),
                        tier: grant.tier.to_string(),
                        identifier_hash: grant.identifier_hash,
                        valid_until: grant.valid_until,
                        noted_ms: Cell::new(now_ms),
                    }));
                }
                Err(Refusal::Revoked) if may_lack_a_key && !was_denied.get() => {
                    is_key_unknown = true;
                }
                Err(refusal) => refused = refused.max(Some(refusal)),
            }
        }
        Err(if is_key_unknown {
            Refused::KeyUnknownToUs
        } else {
            Refused::Because(refused.map(Why::from))
        })
    }

    fn admit(&self, state: &State, edits: Vec<Edit<'h>>, admitted: Rc<Admitted>) -> Decision<'h> {
        let note = Note {
            admitted: Some(Admission::Token(admitted)),
            ..self.note(state, Outcome::Paid)
        };
        Decision::Forward { edits, note }
    }

    /// No good credential: an offer, where one may be made.
    pub(super) fn refuse(
        &self,
        state: &mut State,
        refused: Option<Why>,
        now_ms: u64,
    ) -> Decision<'h> {
        let outcome = outcome_of(refused.is_some());
        if self.matched.access == Access::NoInvoice {
            let note = self.note(state, outcome);
            let reply = Reply::unauthorized(refused.as_ref(), self.manner, note);
            return Decision::reply(reply);
        }
        let wanted = self.wanted(state);
        if wanted == Wanted::NOTHING {
            let note = self.note(state, outcome);
            return Decision::reply(Reply::insecure(self.manner, note));
        }
        let unoffered = Unoffered {
            manner: self.manner,
            refused,
            client: self.client(),
            wanted,
            deposit: None,
        };
        let stream = (self.stream, now_ms);
        match state.offer(self.config, stream, self.matched.index, unoffered, now_ms) {
            None => Decision::Hold,
            Some(turn) => answer(self.config, state, turn)
                .unwrap_or_else(|| self.unavailable(state, RETRY_AFTER_SECONDS)),
        }
    }

    fn hold_for_keys(&self, state: &mut State, now_ms: u64) -> Decision<'h> {
        let patience = millis(self.config.bootstrap_wait);
        let is_full = state.is_full_of_strangers(self.config);
        if patience == 0 || is_full || !state.sidecar.has_token() {
            return self.unavailable(state, RETRY_AFTER_SECONDS);
        }
        state.waiting.for_keys(Waiter {
            stream: self.stream,
            since_ms: now_ms,
            deadline_ms: now_ms.saturating_add(patience),
            what: self.manner,
        });
        Decision::Hold
    }

    pub(super) fn unavailable(&self, state: &State, retry_after: u64) -> Decision<'h> {
        let note = self.note(state, Outcome::Unavailable);
        Decision::reply(Reply::unavailable(retry_after, self.manner, note))
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.around.client(), &self.config.client_limits)
    }

    pub(super) fn note(&self, state: &State, outcome: Outcome) -> Note {
        Note {
            service: state.tag(self.matched.index),
            ..Note::of(outcome)
        }
    }
}
