//! Where the rest of a session goes: the buyer's return invoice (design section 6, R-SESSION-6).

use std::fmt;

use bitcoin::hashes::Hash as _;
use lightning_invoice::{Bolt11Invoice, Currency};
use protocol::api::session::MAX_RETURN_INVOICE_LEN;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::invoice::NodeInfo;
use super::session::least_return_life;

/// BOLT 11 text of a return invoice. It names the buyer's node, so it is not for logs.
#[derive(Clone, Eq, PartialEq)]
pub struct ReturnText(pub String);

impl ReturnText {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReturnText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReturnText")
    }
}

/// A return invoice that was found good when its session began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnInvoice {
    /// What is paid.
    pub text: ReturnText,
    /// Its hash; no other session may use it.
    pub payment_hash: PaymentHash,
    /// From then on it can no longer be paid.
    pub expires: UnixSeconds,
}

/// Why nothing can be refunded to an invoice, in words for the client. They never repeat it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidReturnInvoice {
    /// It cannot be read, or its checksum or signature is wrong.
    #[error("the return invoice is no valid BOLT 11 invoice")]
    Malformed,
    /// It is longer than any invoice need be.
    #[error("the return invoice is longer than {MAX_RETURN_INVOICE_LEN} bytes")]
    TooLong,
    /// It is for another network.
    #[error("the return invoice must be for the network {0}")]
    Network(String),
    /// It asks for an amount; what goes back is not known before the end.
    #[error("the return invoice must not have an amount")]
    Amount,
    /// We would pay ourselves.
    #[error("the return invoice is of the node that would have to pay it")]
    OwnNode,
    /// It expires too soon, or has expired.
    #[error("the return invoice must be payable for at least {0} seconds from now")]
    TooShort(u64),
    /// Another session has it.
    #[error("the return invoice belongs to another session")]
    Used,
}

impl ReturnInvoice {
    /// Reads `text` as a return invoice for a session that begins `now` on `node`.
    ///
    /// # Errors
    /// Why it cannot be one.
    pub fn check(
        text: &str,
        node: &NodeInfo,
        idle_timeout_seconds: u64,
        now: UnixSeconds,
    ) -> Result<Self, InvalidReturnInvoice> {
        if text.len() > MAX_RETURN_INVOICE_LEN {
            return Err(InvalidReturnInvoice::TooLong);
        }
        // Checksum, signature and what BOLT 11 demands are looked at by this.
        let invoice: Bolt11Invoice = text.parse().map_err(|_| InvalidReturnInvoice::Malformed)?;
        if network_of(invoice.currency()) != Some(node.network.as_str()) {
            return Err(InvalidReturnInvoice::Network(node.network.clone()));
        }
        if invoice.amount_milli_satoshis().is_some_and(|msat| msat > 0) {
            return Err(InvalidReturnInvoice::Amount);
        }
        if invoice.get_payee_pub_key().serialize() == node.id.0 {
            return Err(InvalidReturnInvoice::OwnNode);
        }
        let least = least_return_life(idle_timeout_seconds);
        let expires = invoice.expires_at().map_or(0, |end| end.as_secs());
        if expires < now.0.saturating_add(least) {
            return Err(InvalidReturnInvoice::TooShort(least));
        }
        Ok(Self {
            payment_hash: PaymentHash(invoice.payment_hash().to_byte_array()),
            expires: UnixSeconds(expires),
            text: ReturnText(text.to_owned()),
        })
    }
}

/// As nodes name it.
const fn network_of(currency: Currency) -> Option<&'static str> {
    match currency {
        Currency::Bitcoin => Some("mainnet"),
        Currency::BitcoinTestnet => Some("testnet"),
        Currency::Regtest => Some("regtest"),
        Currency::Signet => Some("signet"),
        Currency::Simnet => Some("simnet"),
    }
}

#[cfg(test)]
mod tests;
