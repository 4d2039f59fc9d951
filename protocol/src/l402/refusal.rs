//! Why a credential is refused, in words that clients and operators see.

use super::{IdentifierError, Malformed};
use crate::macaroon::MacaroonError;

/// Why a credential is refused; ordered by how far verification came (spec/l402 section 7).
///
/// Every one of them is the client's: a new payment helps.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
#[error("{}", self.reason())]
pub enum Refusal {
    /// The header could not be read.
    Credential(Malformed),
    /// The token is no macaroon of the form in use.
    Macaroon(MacaroonError),
    /// The identifier is not 66 bytes long.
    IdentifierLength,
    /// The identifier has a version other than 0.
    IdentifierVersion,
    /// Neither the header nor a caveat holds a preimage.
    NoPreimage,
    /// The preimage is not that of the token's payment hash: not paid, or paid for another token.
    PreimageMismatch,
    /// The token is on the deny list, or its key generation is gone.
    Revoked,
    /// The chain of HMACs does not end in the signature.
    Signature,
    /// A caveat of a known condition has an impossible value.
    MalformedCaveat,
    /// There is no `services` caveat at all (spec/l402 E10).
    NoServices,
    /// A later `services` caveat names more than an earlier one.
    ServicesWidened,
    /// The token is not for this service.
    Service,
    /// A later capabilities caveat names more than an earlier one.
    CapabilitiesWidened,
    /// The token does not have this capability.
    Capability,
    /// A later expiry is after an earlier one.
    ExpiryWidened,
    /// The token's life for this service is over.
    Expired,
    /// A later constraint allows more than an earlier one.
    ConstraintWidened,
}

impl Refusal {
    /// A short text of a closed set, fit for a problem's `detail`, logs and metric labels.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Credential(malformed) => malformed.reason(),
            Self::Macaroon(error) => match error {
                MacaroonError::NotV2 => "malformed: not v2",
                MacaroonError::Short => "malformed: short",
                MacaroonError::Length => "malformed: length",
                MacaroonError::Header => "malformed: header",
                MacaroonError::Caveat => "malformed: third-party or malformed caveat",
                MacaroonError::TooManyCaveats => "malformed: too many caveats",
                MacaroonError::Signature => "malformed: signature",
            },
            Self::IdentifierLength => "malformed: identifier length",
            Self::IdentifierVersion => "unknown identifier version",
            Self::NoPreimage => "no preimage",
            Self::PreimageMismatch => "preimage mismatch",
            Self::Revoked => "unknown or revoked root key",
            Self::Signature => "bad signature",
            Self::MalformedCaveat => "malformed caveat",
            Self::NoServices => "no services caveat",
            Self::ServicesWidened => "services widened",
            Self::Service => "service not authorised",
            Self::CapabilitiesWidened => "capabilities widened",
            Self::Capability => "capability not authorised",
            Self::ExpiryWidened => "expiry widened",
            Self::Expired => "expired",
            Self::ConstraintWidened => "constraint widened",
        }
    }
}

impl From<MacaroonError> for Refusal {
    fn from(error: MacaroonError) -> Self {
        Self::Macaroon(error)
    }
}

impl From<IdentifierError> for Refusal {
    fn from(error: IdentifierError) -> Self {
        match error {
            IdentifierError::Length { .. } => Self::IdentifierLength,
            IdentifierError::Version { .. } => Self::IdentifierVersion,
        }
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Credential(malformed)
    }
}
