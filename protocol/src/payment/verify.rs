//! Judging a credential as far as that is possible without the ledger (spec/payment-auth section 4,
//! steps 3 to 9).

use std::fmt;

use subtle::ConstantTimeEq as _;

use super::challenge::content_digest;
use super::credential::SessionPayload;
use super::request::{self, ChargeRequest, SessionRequest};
use super::{Challenge, Credential, Intent, Issued, METHOD, Realm, Refusal};
use crate::amount::Sat;
use crate::hash::{PaymentHash, Preimage, sha256};
use crate::time::UnixSeconds;

/// What a credential is presented to.
pub struct Target<'a, K> {
    /// The realm of our challenges.
    pub realm: &'a Realm,
    /// Knows the charge challenges of the service; `None` if it sells none.
    pub charge: Option<&'a K>,
    /// Knows the session challenges of the realm; `None` if the service takes no sessions.
    pub session: Option<&'a K>,
    /// The request body, for a challenge with `digest`. Ours have none, so `None` will do.
    pub body: Option<&'a [u8]>,
    /// The time of the request.
    pub now: UnixSeconds,
}

/// What is left to be done for an authentic credential with a right preimage.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Claim the payment, then forward.
    Charge(Charge),
    /// Do this to the session.
    Session(SessionCall),
    /// The challenge has expired. Only what the ledger knows already may answer it: the recorded
    /// result of the very same call (X1), or the session whose topUp challenge this was (X2). Else
    /// it is [`Refusal::ChallengeExpired`].
    Expired(SessionCall),
}

/// A charge that is paid and not yet claimed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Charge {
    /// For the receipt.
    pub challenge_id: String,
    /// What is to be claimed.
    pub payment_hash: PaymentHash,
    /// What was asked for it.
    pub amount: Sat,
    /// The challenge is refused from this second on.
    pub expires: UnixSeconds,
}

/// An action on a session, by somebody who knows the preimage. Holds no secret apart from the
/// return invoice, which it does not print.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionCall {
    /// For the receipt and for recorded results.
    pub challenge_id: String,
    /// What is asked for.
    pub action: Action,
    /// Payment hash of the challenge's deposit invoice: what open and topUp claim.
    pub payment_hash: PaymentHash,
    /// Price of one unit by the challenge. The service must have offered it (X3).
    pub price: Sat,
    /// Amount of the challenge's deposit invoice. Credited is what was really paid.
    pub deposit: Option<Sat>,
    /// The challenge is refused from this second on, with the exceptions of X1 and X2.
    pub expires: UnixSeconds,
}

/// What is asked of a session; each with its proof done.
#[derive(Clone, Eq, PartialEq)]
pub enum Action {
    /// Begin it, with [`SessionCall::payment_hash`] as its id.
    Open {
        /// BOLT 11 text as the client wrote it; nothing about it is checked yet.
        return_invoice: String,
    },
    /// Use it.
    Bearer {
        /// Payment hash of its first deposit.
        session_id: PaymentHash,
    },
    /// Add the deposit [`SessionCall::payment_hash`] to it.
    TopUp {
        /// Payment hash of its first deposit.
        session_id: PaymentHash,
    },
    /// End it.
    Close {
        /// Payment hash of its first deposit.
        session_id: PaymentHash,
    },
}

impl Action {
    /// The name on the wire.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Bearer { .. } => "bearer",
            Self::TopUp { .. } => "topUp",
            Self::Close { .. } => "close",
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl SessionCall {
    /// The session that is meant.
    #[must_use]
    pub const fn session_id(&self) -> PaymentHash {
        match &self.action {
            Action::Open { .. } => self.payment_hash,
            Action::Bearer { session_id }
            | Action::TopUp { session_id }
            | Action::Close { session_id } => *session_id,
        }
    }

    /// The challenge is the one whose deposit opened the session.
    #[must_use]
    pub fn has_own_challenge(&self) -> bool {
        self.payment_hash == self.session_id()
    }

    /// The same for two calls exactly if challenge and payload say the same: a repeated call gets
    /// the recorded result, another one under a consumed challenge is refused (X1).
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let return_invoice = match &self.action {
            Action::Open { return_invoice } => return_invoice.as_bytes(),
            _ => b"",
        };
        let session_id = self.session_id();
        let parts = [
            self.challenge_id.as_bytes(),
            self.action.name().as_bytes(),
            session_id.as_bytes(),
            return_invoice,
        ];
        sha256(parts.map(sha256).as_flattened())
    }
}

/// Judges a credential: method, intent, realm, id, expiry, body digest, payload, preimage.
///
/// Nothing is marked as used here: nobody can burn a paid challenge that is not his.
///
/// # Errors
///
/// The first [`Refusal`].
pub fn verify<K: Issued>(
    credential: &Credential<'_>,
    target: &Target<'_, K>,
) -> Result<Outcome, Refusal> {
    let challenge = &credential.challenge;
    if challenge.method != METHOD {
        return Err(Refusal::Method);
    }
    let intent: Intent = challenge
        .intent
        .parse()
        .map_err(|_| Refusal::UnknownChallenge)?;
    let issued = match intent {
        Intent::Charge => target.charge,
        Intent::Session => target.session,
    };
    let is_ours = challenge.realm == target.realm.as_str()
        && issued.is_some_and(|issued| issued.is_issued(&challenge.id, &challenge.slots()));
    if !is_ours {
        return Err(Refusal::UnknownChallenge);
    }
    // From here on the challenge is what we made of it; it cannot be anything but well-formed.
    let json = request::decode(&challenge.request).map_err(|_| Refusal::UnknownChallenge)?;
    match intent {
        Intent::Charge => charge(credential, &json, target).map(Outcome::Charge),
        Intent::Session => session(credential, &json, target),
    }
}

fn charge<K>(
    credential: &Credential<'_>,
    json: &[u8],
    target: &Target<'_, K>,
) -> Result<Charge, Refusal> {
    let challenge = &credential.challenge;
    let request = ChargeRequest::from_json(json).map_err(|_| Refusal::UnknownChallenge)?;
    let payment_hash = request.payment_hash.ok_or(Refusal::UnknownChallenge)?;
    let expires = expires(challenge)
        .filter(|end| target.now < *end)
        .ok_or(Refusal::ChargeExpired)?;
    check_digest(challenge, target)?;
    check_preimage(&credential.charge_preimage()?, payment_hash)?;
    Ok(Charge {
        challenge_id: challenge.id.clone().into_owned(),
        payment_hash,
        amount: request.amount,
        expires,
    })
}

fn session<K>(
    credential: &Credential<'_>,
    json: &[u8],
    target: &Target<'_, K>,
) -> Result<Outcome, Refusal> {
    let challenge = &credential.challenge;
    let request = SessionRequest::from_json(json).map_err(|_| Refusal::UnknownChallenge)?;
    let expires = expires(challenge).ok_or(Refusal::ChallengeExpired)?;
    check_digest(challenge, target)?;
    let payment_hash = request.payment_hash;
    let (action, preimage, proves) = match credential.session_payload()? {
        SessionPayload::Open {
            preimage,
            return_invoice,
        } => {
            let return_invoice = return_invoice.to_owned();
            (Action::Open { return_invoice }, preimage, payment_hash)
        }
        SessionPayload::Bearer {
            session_id,
            preimage,
        } => (Action::Bearer { session_id }, preimage, session_id),
        SessionPayload::TopUp {
            session_id,
            preimage,
        } => (Action::TopUp { session_id }, preimage, payment_hash),
        SessionPayload::Close {
            session_id,
            preimage,
        } => (Action::Close { session_id }, preimage, session_id),
    };
    let is_proven = check_preimage(&preimage, proves);
    let call = SessionCall {
        challenge_id: challenge.id.clone().into_owned(),
        action,
        payment_hash,
        price: request.amount,
        deposit: request.deposit_amount,
        expires,
    };
    if target.now < expires {
        return is_proven.map(|()| Outcome::Session(call));
    }
    // Expiry is told before a wrong preimage is, and nothing recorded is told without a right one.
    is_proven.map_err(|_| Refusal::ChallengeExpired)?;
    let uses_own = matches!(call.action, Action::Bearer { .. } | Action::Close { .. })
        && call.has_own_challenge();
    Ok(if uses_own {
        Outcome::Session(call)
    } else {
        Outcome::Expired(call)
    })
}

/// `None` for a challenge that names no time of ours: none such is ever issued, and it would never
/// end.
fn expires(challenge: &Challenge<'_>) -> Option<UnixSeconds> {
    challenge
        .expires
        .as_deref()
        .and_then(UnixSeconds::from_rfc3339)
}

fn check_digest<K>(challenge: &Challenge<'_>, target: &Target<'_, K>) -> Result<(), Refusal> {
    let Some(digest) = &challenge.digest else {
        return Ok(());
    };
    let body = target.body.ok_or(Refusal::Digest)?;
    if *digest == content_digest(body) {
        Ok(())
    } else {
        Err(Refusal::Digest)
    }
}

fn check_preimage(preimage: &Preimage, hash: PaymentHash) -> Result<(), Refusal> {
    if preimage.hash().0.ct_eq(&hash.0).into() {
        Ok(())
    } else {
        Err(Refusal::Preimage)
    }
}
