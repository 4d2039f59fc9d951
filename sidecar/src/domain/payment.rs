//! Payments that our node makes, as the Lightning port speaks of them.

use std::fmt;
use std::time::Duration;

use bitcoin::hashes::Hash as _;
use lightning_invoice::SignedRawBolt11Invoice;
use protocol::amount::Msat;
use protocol::hash::PaymentHash;

use super::invoice::PICO_BTC_PER_MSAT;

/// What to pay, and what it may cost at most.
#[derive(Clone, Eq, PartialEq)]
pub struct PaymentOrder {
    /// The invoice. Not for logs: who has it can watch for its payment.
    pub bolt11: String,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// What the payee gets; equal to the invoice's amount if that has one.
    pub amount: Msat,
    /// The most that routing may cost beyond it.
    pub fee_limit: Msat,
    /// The longest time for which routing nodes may hold the money, in blocks.
    pub cltv_limit: u32,
    /// How long the node looks for routes. What is under way by then goes on.
    pub timeout: Duration,
}

impl PaymentOrder {
    /// Whether the node must be told the amount, since the invoice has none or zero.
    ///
    /// # Errors
    /// In words, when the invoice asks for another amount, has another hash, or is none: paying it
    /// would not be what was ordered.
    pub fn names_amount(&self) -> Result<bool, &'static str> {
        let invoice: SignedRawBolt11Invoice = self.bolt11.parse().map_err(|_| "not an invoice")?;
        let invoice = invoice.raw_invoice();
        let hash = invoice.payment_hash().map(|hash| hash.0.to_byte_array());
        if hash != Some(self.payment_hash.0) {
            return Err("the invoice has another payment hash");
        }
        match invoice.amount_pico_btc() {
            _ if self.amount == Msat::ZERO => Err("nothing to pay"),
            None | Some(0) => Ok(true),
            asked if asked == self.amount.get().checked_mul(PICO_BTC_PER_MSAT) => Ok(false),
            Some(_) => Err("the invoice asks for another amount"),
        }
    }
}

impl fmt::Debug for PaymentOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PaymentOrder")
            .field("payment_hash", &self.payment_hash)
            .field("amount", &self.amount)
            .field("fee_limit", &self.fee_limit)
            .finish_non_exhaustive()
    }
}

/// Where a payment stands at the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PaymentState {
    /// The node never began one of this hash.
    NotSent,
    /// Money may be on its way; the node goes on by itself.
    InFlight,
    /// The payee has it, for ever.
    Succeeded {
        /// What the payee got.
        amount: Msat,
        /// What routing cost.
        fee: Msat,
    },
    /// No money moved and none will by itself; the same hash may be sent again.
    Failed {
        /// Why.
        reason: PaymentFailure,
    },
}

/// Why a payment failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PaymentFailure {
    /// No route was found in time.
    Timeout,
    /// There is no route within the limits.
    NoRoute,
    /// The payee does not take it: an invoice that is unknown, cancelled or paid by somebody else.
    IncorrectDetails,
    /// Our node's channels hold too little.
    InsufficientBalance,
    /// Somebody cancelled it at the node.
    Cancelled,
    /// Anything else.
    Other,
}

impl PaymentFailure {
    const ALL: [Self; 6] = [
        Self::Timeout,
        Self::NoRoute,
        Self::IncorrectDetails,
        Self::InsufficientBalance,
        Self::Cancelled,
        Self::Other,
    ];

    /// The one with this word.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::NoRoute => "no_route",
            Self::IncorrectDetails => "incorrect_payment_details",
            Self::InsufficientBalance => "insufficient_balance",
            Self::Cancelled => "cancelled",
            Self::Other => "error",
        }
    }
}
