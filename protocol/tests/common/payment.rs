//! A shop that sells by the Payment scheme, and what a buyer sends it.
#![allow(dead_code)]

use protocol::amount::Sat;
use protocol::hash::Preimage;
use protocol::keys::{ChallengeKeys, MasterSecret, PaymentKeys};
use protocol::payment::request::{ChargeRequest, Network, SessionRequest};
use protocol::payment::{
    Challenge, Outcome, Realm, Refusal, Target, authorization, credential, verify,
};
use protocol::time::UnixSeconds;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);
pub(crate) const EXPIRES: UnixSeconds = UnixSeconds(NOW.0 + 600);
pub(crate) const INVOICE: &str = "lnbcrt100n1pqqqq";

pub(crate) fn preimage() -> Preimage {
    Preimage::new([5; 32])
}

pub(crate) fn hex(preimage: &Preimage) -> String {
    protocol::encoding::hex_encode(preimage.expose())
}

pub(crate) fn sat(amount: u64) -> Sat {
    Sat::new(amount).unwrap()
}

pub(crate) struct Shop {
    pub(crate) realm: Realm,
    pub(crate) charge: ChallengeKeys,
    pub(crate) session: ChallengeKeys,
}

impl Shop {
    pub(crate) fn new(service: &str, realm: &str) -> Self {
        let keys: PaymentKeys = [1, 2]
            .map(|id| (id, MasterSecret::new([id; 32]).derive_payment()))
            .into_iter()
            .collect();
        let realm: Realm = realm.parse().unwrap();
        Self {
            charge: keys.charge(service),
            session: keys.session(&realm),
            realm,
        }
    }

    pub(crate) fn charge(&self) -> Challenge<'_> {
        let hash = preimage().hash();
        let request = ChargeRequest::new(sat(10), INVOICE, hash, Network::Regtest);
        Challenge::charge(self.charge.get(2).unwrap(), &self.realm, &request, EXPIRES)
    }

    pub(crate) fn session(&self, deposit: &Preimage) -> Challenge<'_> {
        let request = SessionRequest {
            amount: sat(2),
            deposit_amount: Some(sat(40)),
            deposit_invoice: Some(INVOICE.into()),
            description: None,
            idle_timeout_seconds: Some(300),
            payment_hash: deposit.hash(),
            unit_type: Some("event".into()),
        };
        Challenge::session(self.session.get(2).unwrap(), &self.realm, &request, EXPIRES)
    }

    pub(crate) fn judge(&self, header: &str, now: UnixSeconds) -> Result<Outcome, Refusal> {
        let found = authorization::parse([header.as_bytes()], []);
        let presented = found.presented?.unwrap();
        let target = Target {
            realm: &self.realm,
            charge: Some(&self.charge),
            session: Some(&self.session),
            body: None,
            now,
        };
        verify(&presented.credential()?, &target)
    }

    /// Presents a challenge as it is, with the preimage of a charge.
    pub(crate) fn present(&self, challenge: &Challenge<'_>) -> Result<Outcome, Refusal> {
        let header = credential::encode(challenge, &[("preimage", &hex(&preimage()))]);
        self.judge(&header, NOW)
    }
}
