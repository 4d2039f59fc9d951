//! Problem types of the scheme (spec/payment-auth section 4).

use crate::http::problem::Problem;

/// Sorts of problems that clients of the scheme know.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ProblemType {
    /// No credential.
    PaymentRequired,
    /// Less was paid than asked for; cannot happen with Lightning.
    PaymentInsufficient,
    /// Paid too late; the Lightning types say it more exactly.
    PaymentExpired,
    /// The body is not the one that the challenge was for.
    VerificationFailed,
    /// The credential names a payment method that is not offered.
    MethodUnsupported,
    /// Core form of [`Self::MalformedLightningCredential`].
    MalformedCredential,
    /// Core form of [`Self::UnknownChallenge`].
    InvalidChallenge,
    /// Undecodable, or a required member absent or of the wrong form.
    MalformedLightningCredential,
    /// Not issued here, altered, or consumed.
    UnknownChallenge,
    /// The preimage is not that of the payment hash.
    InvalidPreimage,
    /// A charge was presented after its challenge or invoice had expired.
    ExpiredInvoice,
    /// No such session.
    SessionNotFound,
    /// The session has been closed.
    SessionClosed,
    /// The session cannot pay for another unit: top up.
    InsufficientBalance,
    /// A session challenge was presented after its end.
    ChallengeExpired,
    /// Refunds could not be paid to this invoice.
    InvalidReturnInvoice,
}

impl ProblemType {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::PaymentRequired,
        Self::PaymentInsufficient,
        Self::PaymentExpired,
        Self::VerificationFailed,
        Self::MethodUnsupported,
        Self::MalformedCredential,
        Self::InvalidChallenge,
        Self::MalformedLightningCredential,
        Self::UnknownChallenge,
        Self::InvalidPreimage,
        Self::ExpiredInvoice,
        Self::SessionNotFound,
        Self::SessionClosed,
        Self::InsufficientBalance,
        Self::ChallengeExpired,
        Self::InvalidReturnInvoice,
    ];

    const fn parts(self) -> (&'static str, &'static str) {
        macro_rules! problem {
            ($name:literal, $title:literal) => {
                (concat!("https://paymentauth.org/problems/", $name), $title)
            };
        }
        match self {
            Self::PaymentRequired => problem!("payment-required", "Payment Required"),
            Self::PaymentInsufficient => problem!("payment-insufficient", "Payment Insufficient"),
            Self::PaymentExpired => problem!("payment-expired", "Payment Expired"),
            Self::VerificationFailed => problem!("verification-failed", "Verification Failed"),
            Self::MethodUnsupported => problem!("method-unsupported", "Method Unsupported"),
            Self::MalformedCredential => problem!("malformed-credential", "Malformed Credential"),
            Self::InvalidChallenge => problem!("invalid-challenge", "Invalid Challenge"),
            Self::MalformedLightningCredential => {
                problem!("lightning/malformed-credential", "Malformed Credential")
            }
            Self::UnknownChallenge => problem!("lightning/unknown-challenge", "Unknown Challenge"),
            Self::InvalidPreimage => problem!("lightning/invalid-preimage", "Invalid Preimage"),
            Self::ExpiredInvoice => problem!("lightning/expired-invoice", "Expired Invoice"),
            Self::SessionNotFound => problem!("lightning/session-not-found", "Session Not Found"),
            Self::SessionClosed => problem!("lightning/session-closed", "Session Closed"),
            Self::InsufficientBalance => {
                problem!("lightning/insufficient-balance", "Insufficient Balance")
            }
            Self::ChallengeExpired => problem!("lightning/challenge-expired", "Challenge Expired"),
            Self::InvalidReturnInvoice => {
                problem!("lightning/invalid-return-invoice", "Invalid Return Invoice")
            }
        }
    }

    /// The URI.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        self.parts().0
    }

    /// The same in words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.parts().1
    }

    /// The HTTP status: 402, with a fresh challenge, or 400.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::MethodUnsupported => 400,
            _ => 402,
        }
    }

    /// A problem of this sort, for details and members to be added.
    #[must_use]
    pub const fn problem(self) -> Problem {
        Problem::new(self.uri(), self.title(), self.status())
    }
}
