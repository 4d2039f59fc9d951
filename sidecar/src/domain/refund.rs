//! Refunds: what a closed session owes to its buyer (design section 6).

use protocol::amount::{Msat, Sat};
use protocol::hash::PaymentHash;

use super::invoice::NodeId;
use super::return_invoice::ReturnText;

/// Where a refund stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RefundState {
    /// Nobody has begun to pay it.
    Pending,
    /// It was handed to the node; what became of it is the node's to say.
    Sending,
    /// Paid, final.
    Succeeded,
    /// It cannot be paid; an operator has to look at it.
    Failed,
}

impl RefundState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Sending, Self::Succeeded, Self::Failed];

    /// Name in the ledger and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// Whether a worker has nothing more to do.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What the answer to a close says of its refund (X17).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefundStatus {
    /// Paid.
    Succeeded,
    /// Not paid, or not known to be when the answer was due.
    Failed,
    /// There was nothing to refund.
    Skipped,
}

impl RefundStatus {
    /// The word on the wire and in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The status of this word.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed, Self::Skipped]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// A refund as the ledger keeps it, written in the transaction that fixes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefundRow {
    /// Whose rest it is.
    pub session_id: PaymentHash,
    /// The node that has the deposits; only it pays.
    pub node: NodeId,
    /// Where it goes.
    pub return_invoice: ReturnText,
    /// Hash of that invoice.
    pub return_hash: PaymentHash,
    /// How much, more than nothing.
    pub amount: Sat,
    /// Where it stands.
    pub state: RefundState,
    /// How often it was handed to the node.
    pub attempts: u64,
    /// What routing cost, once paid.
    pub fee: Option<Msat>,
    /// Why it cannot be paid, in words for the operator.
    pub failure: Option<String>,
    /// When it was written, milliseconds by the ledger's clock.
    pub created_ms: u64,
    /// When it last changed, milliseconds by the ledger's clock.
    pub updated_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for state in RefundState::ALL {
            assert_eq!(RefundState::of_name(state.as_str()), Some(state));
        }
        assert_eq!(RefundState::of_name("lost"), None);
        for word in ["succeeded", "failed", "skipped"] {
            let read = RefundStatus::of_name(word).map(RefundStatus::as_str);
            assert_eq!(read, Some(word));
        }
    }
}
