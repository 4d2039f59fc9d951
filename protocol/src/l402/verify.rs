//! Verification of a credential, cheapest and most telling tests first (spec/l402 section 7).

use subtle::ConstantTimeEq as _;

use super::caveat::{self, Capabilities, Services};
use super::{Budget, Credential, Identifier, Refusal, TokenId};
use crate::hash::{PaymentHash, Preimage, sha256};
use crate::keys::RootKey;
use crate::macaroon::Macaroon;
use crate::time::UnixSeconds;

/// Where the root key of a token comes from.
pub trait RootKeys {
    /// The root key, or `None` if this token's key is not (or no longer) known.
    fn root_key(&self, identifier: &Identifier) -> Option<RootKey>;
}

/// What the client wants to use its credential for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Capability that this route needs, if it needs one.
    pub capability: Option<&'a str>,
    /// The time of the request.
    pub now: UnixSeconds,
}

/// What an accepted token is good for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Name of the token.
    pub token_id: TokenId,
    /// `sha256(identifier)`: under this the token may be revoked later.
    pub identifier_hash: [u8; 32],
    /// Tier of the service, from the first `services` caveat.
    pub tier: u8,
    /// The second at which the token ends for this service: the last `<service>_valid_until`.
    pub valid_until: Option<UnixSeconds>,
}

/// Accepts the first token that holds in every respect. Tokens that belong to another payment
/// are passed over (spec/l402 E8).
///
/// `is_revoked` is asked with `sha256(identifier)` of tokens whose preimage is right.
///
/// # Errors
///
/// The [`Refusal`] of the token that came furthest.
pub fn verify(
    credential: &Credential,
    keys: &impl RootKeys,
    is_revoked: impl Fn(&[u8; 32]) -> bool,
    target: &Target<'_>,
) -> Result<Grant, Refusal> {
    verify_within(credential, keys, is_revoked, target, &mut Budget::default())
}

/// The same for one of several credentials of a request.
///
/// # Errors
///
/// The [`Refusal`] of the token that came furthest.
pub fn verify_within(
    credential: &Credential,
    keys: &impl RootKeys,
    is_revoked: impl Fn(&[u8; 32]) -> bool,
    target: &Target<'_>,
    budget: &mut Budget,
) -> Result<Grant, Refusal> {
    let paid_hash = credential.preimage().map(Preimage::hash);
    let mut refusal = None;
    for token in credential.tokens() {
        match verify_token(token, paid_hash, keys, &is_revoked, target, budget) {
            Ok(grant) => return Ok(grant),
            Err(reason) => refusal = refusal.max(Some(reason)),
        }
    }
    // A credential holds at least one token.
    Err(refusal.unwrap_or(Refusal::NoPreimage))
}

fn verify_token(
    token: &[u8],
    paid_hash: Option<PaymentHash>,
    keys: &impl RootKeys,
    is_revoked: &impl Fn(&[u8; 32]) -> bool,
    target: &Target<'_>,
    budget: &mut Budget,
) -> Result<Grant, Refusal> {
    let macaroon = Macaroon::parse(token)?;
    let identifier = Identifier::parse(macaroon.identifier())?;
    let paid_hash = paid_hash
        .or_else(|| preimage_caveat(&macaroon))
        .ok_or(Refusal::NoPreimage)?;
    if !bool::from(paid_hash.0.ct_eq(&identifier.payment_hash.0)) {
        return Err(Refusal::PreimageMismatch);
    }
    let identifier_hash = sha256(macaroon.identifier());
    if is_revoked(&identifier_hash) {
        return Err(Refusal::Revoked);
    }
    let root_key = keys.root_key(&identifier).ok_or(Refusal::Revoked)?;
    budget.take_caveats(&macaroon)?;
    if !macaroon.is_signed_with(root_key.expose()) {
        return Err(Refusal::Signature);
    }
    let (tier, valid_until) = evaluate(&macaroon, target)?;
    Ok(Grant {
        token_id: identifier.token_id,
        identifier_hash,
        tier,
        valid_until,
    })
}

/// Hash of the preimage in the last `preimage` caveat (spec/l402 E15).
fn preimage_caveat(macaroon: &Macaroon<'_>) -> Option<PaymentHash> {
    let (_, value) = macaroon
        .caveats()
        .filter_map(caveat::split)
        .filter(|(condition, _)| *condition == caveat::PREIMAGE.as_bytes())
        .last()?;
    Preimage::from_hex(value)
        .ok()
        .map(|preimage| preimage.hash())
}

/// Checks all caveats: each of a kind within the one before it, the last one against the target.
/// Conditions without meaning here are skipped (R-L402-18).
fn evaluate(
    macaroon: &Macaroon<'_>,
    target: &Target<'_>,
) -> Result<(u8, Option<UnixSeconds>), Refusal> {
    let state = Evaluation::of(macaroon, target)?;
    let (first, last) = state.services.ok_or(Refusal::NoServices)?;
    last.find(target.service).ok_or(Refusal::Service)?;
    let tier = first.find(target.service).ok_or(Refusal::Service)?.tier;
    if let (Some((_, allowed)), Some(wanted)) = (state.capabilities, target.capability)
        && !allowed.contains(wanted.as_bytes())
    {
        return Err(Refusal::Capability);
    }
    if state.valid_until.is_some_and(|end| target.now >= end) {
        return Err(Refusal::Expired);
    }
    if state.has_others {
        check_constraints(macaroon, target, state.capabilities.map(|(first, _)| first))?;
    }
    Ok((tier, state.valid_until))
}

/// First and last value of each condition that counts for the target.
#[derive(Default)]
struct Evaluation<'a> {
    services: Option<(Services<'a>, Services<'a>)>,
    capabilities: Option<(Capabilities<'a>, Capabilities<'a>)>,
    valid_until: Option<UnixSeconds>,
    /// There are caveats of other conditions.
    has_others: bool,
}

impl<'a> Evaluation<'a> {
    fn of(macaroon: &Macaroon<'a>, target: &Target<'_>) -> Result<Self, Refusal> {
        let mut state = Self::default();
        for (condition, value) in macaroon.caveats().filter_map(caveat::split) {
            match Kind::of(condition, target.service) {
                Kind::Services => state.services(value)?,
                Kind::Capabilities => state.capabilities(value)?,
                Kind::ValidUntil => state.valid_until(value)?,
                Kind::Other => state.has_others = true,
            }
        }
        Ok(state)
    }

    fn services(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        let next = Services::parse(value).map_err(|_| Refusal::MalformedCaveat)?;
        let first = match self.services {
            None => next,
            Some((first, last)) if next.is_within(last) => first,
            Some(_) => return Err(Refusal::ServicesWidened),
        };
        self.services = Some((first, next));
        Ok(())
    }

    fn capabilities(&mut self, value: &'a [u8]) -> Result<(), Refusal> {
        let next = Capabilities::parse(value).map_err(|_| Refusal::MalformedCaveat)?;
        let first = match self.capabilities {
            None => next,
            Some((first, last)) if next.is_within(last) => first,
            Some(_) => return Err(Refusal::CapabilitiesWidened),
        };
        self.capabilities = Some((first, next));
        Ok(())
    }

    fn valid_until(&mut self, value: &[u8]) -> Result<(), Refusal> {
        let next = caveat::decimal(value)
            .map(UnixSeconds)
            .ok_or(Refusal::MalformedCaveat)?;
        if self.valid_until.is_some_and(|last| next > last) {
            return Err(Refusal::ExpiryWidened);
        }
        self.valid_until = Some(next);
        Ok(())
    }
}

enum Kind {
    Services,
    Capabilities,
    ValidUntil,
    Other,
}

impl Kind {
    fn of(condition: &[u8], service: &str) -> Self {
        if condition == caveat::SERVICES.as_bytes() {
            return Self::Services;
        }
        match condition.strip_prefix(service.as_bytes()) {
            Some(suffix) if suffix == caveat::CAPABILITIES_SUFFIX.as_bytes() => Self::Capabilities,
            Some(suffix) if suffix == caveat::VALID_UNTIL_SUFFIX.as_bytes() => Self::ValidUntil,
            _ => Self::Other,
        }
    }
}

/// `<capability>_<constraint>`: of two numbers under one condition the later may not be larger
/// (R-L402-22). Counts for the capabilities that the token was minted with, or for the one that
/// is asked for when it was minted with all.
fn check_constraints(
    macaroon: &Macaroon<'_>,
    target: &Target<'_>,
    granted: Option<Capabilities<'_>>,
) -> Result<(), Refusal> {
    let is_constraint = |condition: &[u8]| match (granted, target.capability) {
        (Some(granted), _) => granted.iter().any(|name| constrains(condition, name)),
        (None, Some(wanted)) => constrains(condition, wanted.as_bytes()),
        (None, None) => false,
    };
    if granted.is_none() && target.capability.is_none() {
        return Ok(());
    }
    for (index, (condition, value)) in numbers(macaroon) {
        let earlier = numbers(macaroon)
            .take_while(|(other, _)| *other < index)
            .filter(|(_, (other, _))| *other == condition)
            .last();
        if earlier.is_some_and(|(_, (_, earlier))| value > earlier) && is_constraint(condition) {
            return Err(Refusal::ConstraintWidened);
        }
    }
    Ok(())
}

/// The caveats whose value is a number, with their positions.
fn numbers<'a>(macaroon: &Macaroon<'a>) -> impl Iterator<Item = (usize, (&'a [u8], u64))> {
    macaroon
        .caveats()
        .enumerate()
        .filter_map(|(index, caveat)| {
            let (condition, value) = caveat::split(caveat)?;
            Some((index, (condition, caveat::decimal(value)?)))
        })
}

fn constrains(condition: &[u8], capability: &[u8]) -> bool {
    condition
        .strip_prefix(capability)
        .and_then(|rest| rest.strip_prefix(b"_"))
        .is_some_and(|constraint| !constraint.is_empty())
}
