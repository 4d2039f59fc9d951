//! One offer: an invoice with the token that its payment makes valid, and its times.

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;

/// Which of the payment schemes an offer or a sale belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// Macaroon and preimage.
    L402,
}

impl Scheme {
    /// Name in the ledger, in metrics and in the trusted headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L402 => "l402",
        }
    }
}

/// Until when something minted can be accepted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Validity {
    /// Up to, and not at, this moment.
    Until(UnixSeconds),
    /// No end.
    Forever,
}

/// An offer as the ledger keeps it, written before it leaves the sidecar.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OfferRow {
    /// Hash of its invoice; one offer per invoice.
    pub payment_hash: PaymentHash,
    /// Random token id; with the hash it makes the macaroon's identifier.
    pub token_id: TokenId,
    /// Service that is sold.
    pub service: String,
    /// How it is paid and presented.
    pub scheme: Scheme,
    /// Amount of the invoice.
    pub amount: Msat,
    /// When it was handed out.
    pub created: UnixSeconds,
    /// When its invoice expires.
    pub expires: UnixSeconds,
    /// When its token expires.
    pub valid_until: Validity,
}

/// A sale: one settled payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sale {
    /// Which payment.
    pub payment_hash: PaymentHash,
    /// How it was sold.
    pub scheme: Scheme,
    /// What was sold.
    pub service: String,
    /// What was really paid.
    pub amount: Msat,
    /// When the node settled it.
    pub settled_at: UnixSeconds,
}

/// The times of an offer, from the life of its invoice.
///
/// An invoice of 600 s is handed out until 240 s of its life are left and shown until 120 s are
/// left, so that a filter has some minutes to show it and who saw it at last can still pay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShowWindow {
    payment_margin: u64,
    hand_out_margin: u64,
}

impl ShowWindow {
    /// For invoices that live `expiry_seconds`.
    #[must_use]
    pub const fn new(expiry_seconds: u64) -> Self {
        let fifth = expiry_seconds.div_ceil(5);
        Self {
            payment_margin: fifth,
            hand_out_margin: fifth.saturating_mul(2),
        }
    }

    /// When an offer of an invoice that expires at `expires` must no longer be shown.
    #[must_use]
    pub const fn show_until(self, expires: UnixSeconds) -> UnixSeconds {
        UnixSeconds(expires.0.saturating_sub(self.payment_margin))
    }

    /// Whether such an invoice may still be handed out now.
    #[must_use]
    pub const fn may_hand_out(self, expires: UnixSeconds, now: UnixSeconds) -> bool {
        now.0.saturating_add(self.hand_out_margin) < expires.0
    }
}

/// When the token of an offer shown until `show_until` expires: the last one to see it still gets
/// the whole `lifetime`.
#[must_use]
pub const fn token_validity(show_until: UnixSeconds, lifetime_seconds: Option<u64>) -> Validity {
    match lifetime_seconds {
        None => Validity::Forever,
        Some(seconds) => Validity::Until(UnixSeconds(show_until.0.saturating_add(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_shown_for_a_while_and_can_be_paid_after_that() {
        let window = ShowWindow::new(600);
        let expires = UnixSeconds(10_600);
        assert_eq!(window.show_until(expires), UnixSeconds(10_480));
        assert!(window.may_hand_out(expires, UnixSeconds(10_359)));
        assert!(!window.may_hand_out(expires, UnixSeconds(10_360)));
    }

    #[test]
    fn the_last_one_to_see_an_offer_gets_the_whole_lifetime() {
        assert_eq!(
            token_validity(UnixSeconds(100), Some(60)),
            Validity::Until(UnixSeconds(160))
        );
        assert_eq!(token_validity(UnixSeconds(100), None), Validity::Forever);
    }
}
