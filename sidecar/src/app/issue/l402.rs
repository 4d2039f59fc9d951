//! L402: an invoice and the token that its payment makes valid.

use protocol::amount::Msat;
use protocol::api::{Offer, OfferTemplate};
use protocol::l402::{Identifier, caveats_for, mint};
use protocol::time::UnixSeconds;

use super::product::Product;
use super::{IssueError, invalid};
use crate::app::names::is_name;
use crate::app::state::IssuingKey;
use crate::domain::invoice::Invoice;
use crate::domain::offer::{OfferRow, Scheme, Validity, token_validity};

const MOST_CAVEATS: usize = 60;
const LONGEST_CAVEAT: usize = 1_024;

impl Product for OfferTemplate {
    const SCHEME: Scheme = Scheme::L402;
    type Offer = Offer;

    fn check(&self) -> Result<(), IssueError> {
        if self.price_msat == Msat::ZERO {
            return invalid("price_msat must be at least 1");
        }
        if !is_name(&self.service) || !self.capabilities.iter().all(|name| is_name(name)) {
            return invalid(
                "names of services and capabilities have letters, digits, - and _ only",
            );
        }
        let is_caveat = |(condition, value): &(String, String)| {
            is_name(condition)
                && condition.len() + value.len() < LONGEST_CAVEAT
                && !value.contains(|c: char| c.is_control())
        };
        let count = self.constraints.len() + self.capabilities.len();
        if count > MOST_CAVEATS || !self.constraints.iter().all(is_caveat) {
            return invalid("too many, too long or malformed constraints");
        }
        Ok(())
    }

    fn service(&self) -> &str {
        &self.service
    }

    fn amount(&self) -> Msat {
        self.price_msat
    }

    fn accepts(&self, _: &Invoice) -> bool {
        true
    }

    fn valid_until(&self, invoice: &Invoice) -> Validity {
        token_validity(invoice.expires, self.lifetime_seconds)
    }

    fn offer(
        &self,
        invoice: &Invoice,
        row: &OfferRow,
        key: &IssuingKey,
        show_until: UnixSeconds,
    ) -> Offer {
        let identifier = Identifier {
            payment_hash: row.payment_hash,
            token_id: row.token_id,
        };
        let end = match row.valid_until {
            Validity::Forever => None,
            Validity::Until(end) => Some(end),
        };
        let root_key = key.key.root_key(&identifier);
        Offer {
            payment_hash: row.payment_hash.to_string(),
            invoice: invoice.bolt11.clone(),
            macaroon: mint(&root_key, &identifier, caveats_for(self, end)).to_base64(),
            show_until: show_until.0,
        }
    }
}
