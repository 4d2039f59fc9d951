//! Claims: one payment buys one response (design section 6).

use std::time::Duration;

use protocol::amount::Sat;
use protocol::encoding::{DecodeError, hex_decode};
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

/// After so long a filter has given up waiting for the answer to a claim.
pub const CALLOUT_TIMEOUT: Duration = Duration::from_secs(3);

/// Random name of one attempt to claim, made by a filter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AttemptId(pub [u8; 16]);

impl AttemptId {
    /// 32 hexadecimal digits.
    ///
    /// # Errors
    /// [`DecodeError::Hex`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, DecodeError> {
        hex_decode(text).map(Self)
    }
}

/// A wish to be served for a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewClaim {
    /// What was paid.
    pub payment_hash: PaymentHash,
    /// Who asks.
    pub attempt: AttemptId,
    /// Id of the challenge.
    pub challenge_id: String,
    /// What is bought.
    pub service: String,
    /// Its price.
    pub amount: Sat,
    /// When the challenge expires; the same in every claim of one payment.
    pub expires: UnixSeconds,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// This attempt has the payment.
    Won,
    /// Another has, for good.
    Lost,
    /// Another has and may yet abandon it; or nobody has and this attempt was abandoned.
    Busy,
}

/// How long the ledger waits and remembers.
#[derive(Clone, Copy, Debug)]
pub struct ClaimTimes {
    /// A claim younger than this may yet be abandoned.
    pub young: Duration,
    /// Claims are remembered for so long after their challenge has expired, far beyond what the
    /// clocks of sidecar and filter may differ; abandoned attempts for so long after they were
    /// abandoned, far beyond the longest life of a message.
    pub kept: Duration,
}

impl Default for ClaimTimes {
    fn default() -> Self {
        Self {
            young: CALLOUT_TIMEOUT,
            kept: Duration::from_secs(3_600),
        }
    }
}
