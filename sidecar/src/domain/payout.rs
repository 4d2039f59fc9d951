//! Paying a refund: how much of it, at what cost, and what becomes of it.

use std::time::Duration;

use protocol::amount::{Msat, Sat};

use super::ports::{Random, RandomError};
use super::refund::{RefundRow, RefundState};

/// Random name of one process that sweeps and pays refunds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkerId(pub [u8; 16]);

impl WorkerId {
    /// A name that nobody else has.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn random(random: &dyn Random) -> Result<Self, RandomError> {
        let [name @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = random.secret()?;
        Ok(Self(name))
    }
}

/// What routing may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FeeTerms {
    /// Of the refund.
    pub percent: u32,
    /// At least this much, since short routes cost something whatever the amount.
    pub least: Sat,
}

/// The seller bears routing up to this part of what the session spent: one tenth.
const SELLERS_PART: u64 = 10;

/// What leaves the node for a refund.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Payout {
    /// What the buyer gets.
    pub sent: Sat,
    /// The most that routing may cost.
    pub fee_limit: Msat,
}

impl Payout {
    /// Of a session that spent `spent` and gets back `amount`. What routing may cost beyond the
    /// seller's share comes out of the refund: a buyer may own the node that earns the fee, and
    /// would get back what the session spent. At least one satoshi goes back.
    #[must_use]
    pub fn of(amount: Sat, spent: Sat, terms: FeeTerms) -> Self {
        let (amount, spent) = (amount.get(), spent.get());
        let share = u128::from(amount) * u128::from(terms.percent);
        let share = u64::try_from(share.div_ceil(100)).unwrap_or(u64::MAX);
        let sellers = spent / SELLERS_PART;
        let affordable = sellers.saturating_add(amount.saturating_sub(1));
        let limit = share.max(terms.least.get()).min(affordable);
        let borne = limit.saturating_sub(sellers);
        // No more than `amount` and what was deposited, both of which are amounts.
        Self {
            sent: Sat::new(amount.saturating_sub(borne)).unwrap_or(Sat::ZERO),
            fee_limit: Sat::new(limit).unwrap_or(Sat::ZERO).to_msat(),
        }
    }

    /// The first try of the same: all of it, as long as routing costs no more than the seller's
    /// share.
    #[must_use]
    pub fn whole(amount: Sat, spent: Sat, terms: FeeTerms) -> Self {
        let reduced = Self::of(amount, spent, terms);
        Self {
            sent: amount,
            fee_limit: reduced.sellers_share(amount),
        }
    }

    /// What the seller pays at most, of a refund of `amount`.
    #[must_use]
    pub fn sellers_share(&self, amount: Sat) -> Msat {
        let borne = Msat::checked_sub(amount.to_msat(), self.sent.to_msat());
        let share = borne.and_then(|borne| self.fee_limit.checked_sub(borne));
        share.unwrap_or(Msat::ZERO)
    }

    /// To an invoice that an operator accepted and that asks for exactly this much: all of it.
    #[must_use]
    pub fn exactly(amount: Sat, spent: Sat, terms: FeeTerms) -> Self {
        Self {
            sent: amount,
            ..Self::of(amount, spent, terms)
        }
    }
}

/// How much may be under way at a time, per node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RefundCaps {
    /// Refunds handed to the node and not decided.
    pub in_flight: u32,
    /// Routing fees within 24 hours, those that may yet be paid included.
    pub daily_fees: Sat,
}

/// A refund with what paying it needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RefundWork {
    /// As the ledger keeps it.
    pub refund: RefundRow,
    /// What the session spent.
    pub spent: Sat,
    /// What was fixed when it was first handed to the node.
    pub payout: Option<Payout>,
}

/// Whether a refund may be handed to the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sending {
    /// It is written; do it.
    Begun,
    /// Too many are under way.
    InFlightFull,
    /// Fees of the last 24 hours are as high as they may be.
    BudgetSpent,
    /// It is no longer this worker's.
    Lost,
}

/// What became of a refund.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RefundOutcome {
    /// The buyer has it, for this fee.
    Paid {
        /// What the buyer got, as the node says.
        sent: Sat,
        /// What routing cost.
        fee: Msat,
    },
    /// It was not paid and nothing is under way: it is sent anew, not before `after`.
    Again {
        /// Pause.
        after: Duration,
        /// Why, in words.
        why: String,
    },
    /// It was not paid and nothing is under way: a human must look at it.
    Failed {
        /// Why, in words.
        why: String,
    },
    /// Nothing new: it is looked at again after a pause.
    Later {
        /// Pause.
        after: Duration,
    },
}

/// What became of a wish to replace a return invoice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replaced {
    /// It will be paid.
    Replaced,
    /// No such refund.
    NotFound,
    /// It is in this state, so it is paid or may be.
    NotFailed(RefundState),
    /// The invoice belongs to another session.
    InvoiceUsed,
    /// Meanwhile it got another invoice than the one that was asked about.
    OtherInvoice,
}

/// What became of a wish to let another node pay a refund.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moved {
    /// The other node pays it.
    Moved,
    /// No such refund.
    NotFound,
    /// It is this node's already.
    Same,
    /// It is in this state.
    NotPending(RefundState),
    /// It was handed to its node before, which alone can say what became of that.
    WasSent,
    /// A sidecar is about to hand it to its node.
    Taken,
}

/// Refunds that are not paid.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RefundCounts {
    /// Not handed to the node.
    pub pending: u64,
    /// Handed to the node.
    pub sending: u64,
    /// Need a human.
    pub failed: u64,
    /// Age of the oldest that is pending or sending, milliseconds.
    pub oldest_ms: u64,
    /// Not paid, in whatever state, and of another node, which alone pays them.
    pub elsewhere: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payout(amount: u64, spent: u64) -> (u64, u64) {
        let terms = FeeTerms {
            percent: 1,
            least: Sat::new(5).unwrap(),
        };
        let sat = |sat| Sat::new(sat).unwrap();
        let payout = Payout::of(sat(amount), sat(spent), terms);
        (payout.sent.get(), payout.fee_limit.get())
    }

    #[test]
    fn fees_beyond_what_was_earned_come_out_of_the_refund() {
        assert_eq!(payout(1_000, 500), (1_000, 10_000));
        assert_eq!(payout(1_000, 100), (1_000, 10_000));
        assert_eq!(payout(1_000, 40), (994, 10_000));
        assert_eq!(payout(1_000, 0), (990, 10_000));
        assert_eq!(payout(100, 0), (95, 5_000));
        assert_eq!(payout(101, 0), (96, 5_000), "1.01 is less than the least");
    }

    #[test]
    fn at_first_all_of_it_is_sent_for_no_more_than_the_sellers_share() {
        let terms = FeeTerms {
            percent: 1,
            least: Sat::new(5).unwrap(),
        };
        let sat = |sat| Sat::new(sat).unwrap();
        for (amount, spent, limit) in [(1_000, 500, 10), (1_000, 40, 4), (100, 9, 0), (100, 70, 5)]
        {
            let payout = Payout::whole(sat(amount), sat(spent), terms);
            assert_eq!(payout.sent, sat(amount));
            assert_eq!(payout.fee_limit, sat(limit).to_msat());
        }
    }

    #[test]
    fn something_always_goes_back_and_never_more_than_there_is() {
        assert_eq!(payout(1, 0), (1, 0));
        assert_eq!(payout(3, 0), (1, 2_000));
        assert_eq!(payout(3, 20), (1, 4_000));
        assert_eq!(payout(3, 90), (3, 5_000));
        let most = Sat::MAX.get();
        assert_eq!(payout(most, 0), (most - most / 100, most / 100 * 1_000));
    }

    #[test]
    fn no_session_costs_its_seller_more_than_a_tenth_of_what_it_spent() {
        for amount in 1..=600 {
            for spent in [0, 1, 2, 4, 5, 6, 9, 100] {
                let (sent, fee_limit) = payout(amount, spent);
                assert!((1..=amount).contains(&sent));
                assert!(sent * 1_000 + fee_limit <= (amount + spent / 10) * 1_000);
            }
        }
    }
}
