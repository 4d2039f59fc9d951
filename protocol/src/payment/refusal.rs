//! Why a Payment credential is refused before anything is claimed.

use super::CredentialError;
use super::problem::ProblemType;
use crate::http::problem::Problem;

/// Why a credential is refused. All of them are the client's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[error("{}", self.reason())]
pub enum Refusal {
    /// It could not be read.
    Credential(CredentialError),
    /// It names another payment method than `lightning`.
    Method,
    /// The id was not made here for this service or realm, or something was changed since.
    UnknownChallenge,
    /// The charge is presented too late.
    ChargeExpired,
    /// The session challenge is presented too late.
    ChallengeExpired,
    /// The challenge is for another request body.
    Digest,
    /// Not the preimage of the payment hash.
    Preimage,
}

impl Refusal {
    /// A short text of a closed set, fit for a problem's `detail`, logs and metric labels.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Credential(error) => error.reason(),
            Self::Method => "payment method not offered",
            Self::UnknownChallenge => "unknown challenge",
            Self::ChargeExpired => "invoice expired",
            Self::ChallengeExpired => "challenge expired",
            Self::Digest => "body digest mismatch",
            Self::Preimage => "preimage mismatch",
        }
    }

    /// The sort of problem; `None` for one that the scheme has no name for.
    #[must_use]
    pub const fn problem_type(self) -> Option<ProblemType> {
        Some(match self {
            Self::Credential(CredentialError::Several) => return None,
            Self::Credential(_) => ProblemType::MalformedLightningCredential,
            Self::Method => ProblemType::MethodUnsupported,
            Self::UnknownChallenge => ProblemType::UnknownChallenge,
            Self::ChargeExpired => ProblemType::ExpiredInvoice,
            Self::ChallengeExpired => ProblemType::ChallengeExpired,
            Self::Digest => ProblemType::VerificationFailed,
            Self::Preimage => ProblemType::InvalidPreimage,
        })
    }

    /// The HTTP status. 402 is to carry a fresh challenge, 400 none.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self.problem_type() {
            Some(kind) => kind.status(),
            None => 400,
        }
    }

    /// The problem with its detail.
    #[must_use]
    pub fn problem(self) -> Problem {
        match self.problem_type() {
            Some(kind) => kind.problem(),
            None => Problem::new("about:blank", "Bad Request", 400),
        }
        .with_detail(self.reason())
    }
}

impl From<CredentialError> for Refusal {
    fn from(error: CredentialError) -> Self {
        Self::Credential(error)
    }
}
