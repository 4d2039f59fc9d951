//! The Payment scheme at one service: the challenge that sells a response, and the credential that
//! says it is paid for (spec/payment-auth sections 2 and 4).

use protocol::keys::{ChallengeKeys, generation_of};
use protocol::payment::accept::{self, AcceptPayment};
use protocol::payment::request::ChargeRequest;
use protocol::payment::{Challenge, Charge, Intent, Outcome, Refusal, Target, verify};
use protocol::policy::{ChargeTerms, Payment, PluginConfig, Tls};
use protocol::time::UnixSeconds;

use super::State;
use super::bootstrap::Keys;
use super::clean::PaymentCredential;
use super::stock::{Goods, Offer};
use crate::head::Head;

/// Whether this module can sell by the Payment scheme at all.
pub(super) const IS_BUILT_IN: bool = cfg!(feature = "payment");

/// Why no charge is to be claimed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unpaid {
    Refused(Refusal),
    /// It may be paid: its key generation is unknown, and one may have come meanwhile.
    KeyUnknownToUs,
}

/// Judges what was presented, all but the claim.
pub(super) fn judge(
    presented: &PaymentCredential,
    payment: &Payment,
    keys: &ChallengeKeys,
    may_lack_a_key: bool,
    now: UnixSeconds,
) -> Result<Charge, Unpaid> {
    let refused = |refusal| Err(Unpaid::Refused(refusal));
    let presented = match presented {
        Ok(presented) => presented,
        Err(error) => return refused((*error).into()),
    };
    let credential = match presented.credential() {
        Ok(credential) => credential,
        Err(error) => return refused(error.into()),
    };
    let target = Target {
        realm: &payment.realm,
        charge: Some(keys),
        session: None,
        body: None,
        now,
    };
    match verify(&credential, &target) {
        Ok(Outcome::Charge(charge)) => Ok(charge),
        Ok(Outcome::Session(_) | Outcome::Expired(_)) => refused(Refusal::UnknownChallenge),
        Err(Refusal::UnknownChallenge) if may_lack_a_key => {
            let is_unknown = generation_of(&credential.challenge.id)
                .is_some_and(|generation| keys.get(generation).is_none());
            Err(if is_unknown {
                Unpaid::KeyUnknownToUs
            } else {
                Unpaid::Refused(Refusal::UnknownChallenge)
            })
        }
        Err(refusal) => refused(refusal),
    }
}

/// The request may see challenges of the scheme, and may present credentials.
pub(super) fn is_private(payment: &Payment, head: &Head<'_>) -> bool {
    payment.tls == Tls::Terminated || head.is_https
}

/// The client wants to see the offer of a charge beside others.
pub(super) fn accepts_charge(head: &Head<'_>) -> bool {
    let values = head.pairs.values(accept::HEADER.as_bytes());
    AcceptPayment::parse(values).accepts(Intent::Charge)
}

/// The keys of each service's charges.
pub(super) fn charge_keys(config: &PluginConfig, keys: &Keys) -> Vec<Option<ChallengeKeys>> {
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
        let Goods::Charge {
            payment_hash,
            network,
            expires,
        } = offer.goods
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
}
