//! What can be sold for an invoice.

use protocol::amount::Msat;
use protocol::api::{ClientHint, MAX_OFFERS_PER_REQUEST};
use protocol::time::UnixSeconds;

use super::{IssueError, invalid};
use crate::app::state::IssuingKey;
use crate::domain::invoice::Invoice;
use crate::domain::offer::{OfferRow, Scheme, Validity};

const LONGEST_PREFIX: usize = 64;

/// What one payment buys, and what must be told to who asks for it.
pub(super) trait Product: Sync {
    /// How it is paid and presented.
    const SCHEME: Scheme;
    /// What leaves the sidecar for one invoice.
    type Offer: Send;

    /// Whether the request for it makes sense.
    fn check(&self) -> Result<(), IssueError>;
    /// Service that sells it.
    fn service(&self) -> &str;
    /// Price.
    fn amount(&self) -> Msat;
    /// Whether it may be sold for this invoice.
    fn accepts(&self, invoice: &Invoice) -> bool;
    /// Until when it can be presented.
    fn valid_until(&self, invoice: &Invoice) -> Validity;
    /// One offer, of which `row` is being written.
    fn offer(
        &self,
        invoice: &Invoice,
        row: &OfferRow,
        key: &IssuingKey,
        show_until: UnixSeconds,
    ) -> Self::Offer;
}

/// A request for offers.
pub(super) struct Wish<'a, P> {
    pub(super) count: u16,
    pub(super) client: Option<&'a ClientHint>,
    pub(super) product: &'a P,
}

impl<P: Product> Wish<'_, P> {
    /// The filter's policy was checked, so this only keeps nonsense out of tokens and ledger.
    pub(super) fn check(&self) -> Result<(), IssueError> {
        if self.count == 0 || self.count > MAX_OFFERS_PER_REQUEST {
            return invalid("count must be from 1 to 256");
        }
        let is_long = |client: &ClientHint| client.prefix.len() > LONGEST_PREFIX;
        if self.client.is_some_and(is_long) {
            return invalid("client prefix is too long");
        }
        self.product.check()
    }
}
