//! The Payment scheme at one service: the challenges that sell a response or a session, and the
//! credential that says it is paid for (spec/payment-auth sections 2 and 4).

use protocol::keys::{ChallengeKeys, generation_of};
use protocol::payment::accept::{self, AcceptPayment};
use protocol::payment::request::{ChargeRequest, SessionRequest};
use protocol::payment::{
    Challenge, Charge, Credential, Intent, Outcome, Refusal, SessionCall, Target, verify,
};
use protocol::policy::{ChargeTerms, Payment, PluginConfig, Tls};
use protocol::time::UnixSeconds;

use super::State;
use super::bootstrap;
use super::stock::{Goods, Invoiced, Offer};
use crate::head::Head;

/// Whether this module can sell by the Payment scheme at all.
pub(super) const IS_BUILT_IN: bool = cfg!(feature = "payment");

/// The keys under which a credential may have been issued.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    /// Of the service's charges.
    pub(super) charge: Option<&'a ChallengeKeys>,
    /// Of the realm's sessions.
    pub(super) session: Option<&'a ChallengeKeys>,
}

/// What a good credential asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Judged {
    /// To be claimed.
    Charge(Charge),
    /// To be done to a session; `true` if the challenge has ended and is not the session's own.
    Session(SessionCall, bool),
}

/// Why nothing is to be done for a credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unpaid {
    Refused(Refusal),
    /// It may be paid: its key generation is unknown, and one may have come meanwhile.
    KeyUnknownToUs,
}

/// Judges what was presented, all but what only the ledger knows.
pub(super) fn judge(
    credential: &Credential<'_>,
    payment: &Payment,
    keys: Keys<'_>,
    may_lack_a_key: bool,
    now: UnixSeconds,
) -> Result<Judged, Unpaid> {
    let target = Target {
        realm: &payment.realm,
        charge: keys.charge,
        session: keys.session,
        body: None,
        now,
    };
    match verify(credential, &target) {
        Ok(Outcome::Charge(charge)) => Ok(Judged::Charge(charge)),
        Ok(Outcome::Session(call)) => Ok(Judged::Session(call, false)),
        Ok(Outcome::Expired(call)) => Ok(Judged::Session(call, true)),
        Err(Refusal::UnknownChallenge) if may_lack_a_key => {
            // Both have the same generations.
            let known = keys.session.or(keys.charge);
            let is_unknown = generation_of(&credential.challenge.id).is_some_and(|generation| {
                known.is_some_and(|known| known.get(generation).is_none())
            });
            Err(if is_unknown {
                Unpaid::KeyUnknownToUs
            } else {
                Unpaid::Refused(Refusal::UnknownChallenge)
            })
        }
        Err(refusal) => Err(Unpaid::Refused(refusal)),
    }
}

/// The request may see challenges of the scheme, and may present credentials.
pub(super) fn is_private(payment: &Payment, head: &Head<'_>) -> bool {
    payment.tls == Tls::Terminated || head.is_https
}

/// Which offers the client wants to see of a charge and of a session, as far as there are such.
/// Something has to be left, unless there is an offer of another scheme (R-CORE-19).
pub(super) fn accepted(
    head: &Head<'_>,
    (charge, session): (bool, bool),
    has_other: bool,
) -> (bool, bool) {
    let mut values = head.pairs.values(accept::HEADER.as_bytes()).peekable();
    if values.peek().is_none() {
        return (charge, session);
    }
    let accept = AcceptPayment::parse(values);
    let accepted = (
        charge && accept.accepts(Intent::Charge),
        session && accept.accepts(Intent::Session),
    );
    match accepted {
        (false, false) if !has_other => (charge, session),
        accepted => accepted,
    }
}

/// The keys of the realm's sessions.
pub(super) fn session_keys(config: &PluginConfig, keys: &bootstrap::Keys) -> Option<ChallengeKeys> {
    let payment = config.payment.as_ref().filter(|_| IS_BUILT_IN)?;
    (!keys.is_absent()).then(|| keys.payment.session(&payment.realm))
}

/// The keys of each service's charges.
pub(super) fn charge_keys(
    config: &PluginConfig,
    keys: &bootstrap::Keys,
) -> Vec<Option<ChallengeKeys>> {
    if !IS_BUILT_IN || config.payment.is_none() {
        return Vec::new();
    }
    let services = config.policy.services().iter();
    services
        .map(|service| {
            let is_sold = service.charge().is_some();
            is_sold.then(|| keys.payment.charge(service.name()))
        })
        .collect()
}

impl State {
    /// How a service is sold by charge, if it is.
    pub(super) fn terms(&self, config: &PluginConfig, service: usize) -> Option<ChargeTerms> {
        if !IS_BUILT_IN {
            return None;
        }
        config.policy.services().get(service)?.charge()
    }

    /// The line that offers a charge. `None` while no key may issue.
    pub(super) fn charge_line(
        &self,
        config: &PluginConfig,
        service: usize,
        offer: &Offer,
    ) -> Option<String> {
        let Goods::Charge(Invoiced {
            payment_hash,
            network,
            expires,
        }) = offer.goods
        else {
            return None;
        };
        let terms = self.terms(config, service)?;
        let keys = self.charge_keys.get(service)?.as_ref()?;
        let key = keys.get(self.keys.current?)?;
        let realm = &config.payment.as_ref()?.realm;
        let request = ChargeRequest::new(terms.amount, &offer.invoice, payment_hash, network);
        Some(Challenge::charge(key, realm, &request, expires).to_line())
    }

    /// The line that offers a session, or more for one. `None` while no key may issue.
    pub(super) fn session_line(
        &self,
        config: &PluginConfig,
        service: usize,
        offer: &Offer,
    ) -> Option<String> {
        let Goods::Deposit(invoiced) = offer.goods else {
            return None;
        };
        let terms = self.session_terms(config, service)?;
        let key = self.sessions.keys.as_ref()?.get(self.keys.current?)?;
        let payment = config.payment.as_ref()?;
        let request = SessionRequest {
            amount: terms.price,
            deposit_amount: Some(terms.deposit),
            deposit_invoice: Some(offer.invoice.as_str().into()),
            description: None,
            idle_timeout_seconds: Some(payment.idle_timeout.as_secs()),
            payment_hash: invoiced.payment_hash,
            unit_type: Some(terms.unit.as_str().into()),
        };
        let line = Challenge::session(key, &payment.realm, &request, invoiced.expires);
        Some(line.to_line())
    }
}
