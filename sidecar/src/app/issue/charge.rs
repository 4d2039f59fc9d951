//! The Payment scheme: an invoice whose payment buys one response, or is the deposit of a session.
//! The filter makes the challenge of it.

use std::marker::PhantomData;

use protocol::amount::Msat;
use protocol::api::charge::{ChargeOffer, ChargeOffersRequest};
use protocol::time::UnixSeconds;

use super::product::Product;
use super::{IssueError, invalid};
use crate::app::names::{is_name, is_random_name};
use crate::app::state::IssuingKey;
use crate::domain::invoice::Invoice;
use crate::domain::offer::{OfferRow, Scheme, Validity};

/// What a challenge of the Payment scheme is for.
pub(super) trait Intent: Send + Sync {
    /// Its name among the schemes.
    const SCHEME: Scheme;
}

/// One response.
pub(super) struct Charge;

/// Credit for many.
pub(super) struct Deposit;

impl Intent for Charge {
    const SCHEME: Scheme = Scheme::Charge;
}

impl Intent for Deposit {
    const SCHEME: Scheme = Scheme::Session;
}

/// What one challenge of a service asks to be paid.
pub(super) struct Ask<'a, I> {
    service: &'a str,
    amount: Msat,
    intent: PhantomData<I>,
}

impl<'a, I> Ask<'a, I> {
    pub(super) fn of(request: &'a ChargeOffersRequest) -> Self {
        Self {
            service: &request.service,
            amount: request.amount.to_msat(),
            intent: PhantomData,
        }
    }
}

/// What only these requests have.
pub(super) fn check(request: &ChargeOffersRequest) -> Result<(), IssueError> {
    if !is_random_name(&request.vm) || !is_random_name(&request.request_id) {
        return invalid("vm and request_id must be 32 hexadecimal digits");
    }
    Ok(())
}

impl<I: Intent> Product for Ask<'_, I> {
    const SCHEME: Scheme = I::SCHEME;
    type Offer = ChargeOffer;

    fn check(&self) -> Result<(), IssueError> {
        if self.amount == Msat::ZERO {
            return invalid("amount must be at least 1");
        }
        if !is_name(self.service) {
            return invalid("names of services have letters, digits, - and _ only");
        }
        Ok(())
    }

    fn service(&self) -> &str {
        self.service
    }

    fn amount(&self) -> Msat {
        self.amount
    }

    /// R-CHARGE-8: the challenge repeats amount and hash, and a client refuses one whose invoice
    /// says something else.
    fn accepts(&self, invoice: &Invoice) -> bool {
        invoice.asks_for(self.amount)
    }

    /// The challenge ends with the invoice (R-CHARGE-14), and with it the need of its key.
    fn valid_until(&self, invoice: &Invoice) -> Validity {
        Validity::Until(invoice.expires)
    }

    fn offer(
        &self,
        invoice: &Invoice,
        _: &OfferRow,
        _: &IssuingKey,
        show_until: UnixSeconds,
    ) -> ChargeOffer {
        ChargeOffer {
            payment_hash: invoice.payment_hash,
            invoice: invoice.bolt11.clone(),
            show_until: show_until.0,
            expires: invoice.expires.0,
        }
    }
}
