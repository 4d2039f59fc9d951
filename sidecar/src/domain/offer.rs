//! One offer: an invoice with what its payment makes valid, and its times.

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;

use super::invoice::NodeId;

/// Which of the payment schemes an offer or a sale belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// Macaroon and preimage.
    L402,
    /// One payment for one response, of the Payment scheme.
    Charge,
    /// A deposit for a session, of the Payment scheme.
    Session,
}

impl Scheme {
    /// Name in the ledger, in metrics and in the trusted headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::L402 => "l402",
            Self::Charge => "charge",
            Self::Session => "session",
        }
    }

    /// The scheme of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::L402, Self::Charge, Self::Session]
            .into_iter()
            .find(|scheme| scheme.as_str() == name)
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
    /// Random id that names the key generation. Of L402 it makes, with the hash, the macaroon's
    /// identifier; a charge has one so that it ends with its key.
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
    /// When its token or its challenge expires.
    pub valid_until: Validity,
    /// The node that made its invoice, if that is known.
    pub node: Option<NodeId>,
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
    /// The node that has the money, if that is known.
    pub node: Option<NodeId>,
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

/// A payment that began in time may arrive this long after its invoice has expired.
pub const LATE_PAYMENT_SECONDS: u64 = 30;

/// When the token of an invoice that expires at `expires` does: counted from the last moment at
/// which the invoice can be paid, so that whoever pays gets the whole `lifetime`, however late.
#[must_use]
pub const fn token_validity(expires: UnixSeconds, lifetime_seconds: Option<u64>) -> Validity {
    match lifetime_seconds {
        None => Validity::Forever,
        Some(seconds) => {
            let last_payment = expires.0.saturating_add(LATE_PAYMENT_SECONDS);
            Validity::Until(UnixSeconds(last_payment.saturating_add(seconds)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_token_without_a_lifetime_never_expires() {
        assert_eq!(token_validity(UnixSeconds(100), None), Validity::Forever);
    }

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn expiry() -> impl Strategy<Value = u64> {
        prop_oneof![Just(5), Just(600), Just(DAY), 5..=DAY]
    }

    fn lifetime() -> impl Strategy<Value = u64> {
        prop_oneof![Just(1), Just(60), Just(3_600), 1..3_653 * DAY]
    }

    proptest! {
        #[test]
        fn whoever_pays_while_the_invoice_can_be_paid_gets_the_whole_lifetime(
            expiry in expiry(),
            lifetime in lifetime(),
            waited in 0.0..=1.0,
        ) {
            let expires = UnixSeconds(NOW + expiry);
            let Validity::Until(end) = token_validity(expires, Some(lifetime)) else {
                panic!("for ever");
            };
            let longest = expiry + LATE_PAYMENT_SECONDS;
            for waited in [0, (longest as f64 * waited) as u64, longest] {
                let paid_at = NOW + waited;
                prop_assert!(end.0 - paid_at >= lifetime);
            }
        }
    }
}
