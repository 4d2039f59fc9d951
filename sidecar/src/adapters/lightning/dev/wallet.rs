//! The buyer's side of the dev network: a wallet that makes invoices for the node to pay, with a
//! key of its own, as a buyer's wallet has. Its preimages are derived as the node's are.

use std::time::Duration;

use bitcoin::hashes::Hash as _;
use bitcoin::secp256k1::PublicKey;
use lightning_invoice::{Bolt11Invoice, Currency};
use protocol::amount::Msat;
use protocol::hash::{PaymentHash, Preimage};

use super::store::Sent;
use super::{DevNode, InvoiceParts, PayError, derive, refused};
use crate::domain::invoice::{Invoice, InvoiceState};
use crate::domain::payment::{PaymentFailure, PaymentOrder, PaymentState};
use crate::domain::ports::LightningError;

/// What the dev wallet is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WalletInvoice {
    /// `None`: whoever pays says how much, as return invoices must be.
    pub amount: Option<Msat>,
    /// Life of the invoice in seconds.
    pub expiry_seconds: u64,
    /// A payment of it stays under way until [`DevNode::resolve`].
    pub hold: bool,
}

/// Where an invoice of the dev wallet stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// It can be paid.
    Open,
    /// The node's payment is under way.
    InFlight,
    /// This was received.
    Settled(Msat),
    /// It cannot be paid any more.
    Cancelled,
}

impl DevNode {
    /// An invoice of the dev wallet.
    ///
    /// # Errors
    /// No randomness, or the node's own file failed.
    pub fn wallet_invoice(&self, wish: &WalletInvoice) -> Result<Invoice, LightningError> {
        let rpc = "AddInvoice";
        let secret = self.0.random.secret().map_err(|e| refused(rpc, e))?;
        let payment_hash = self.wallet_preimage(&secret).hash();
        if wish.hold {
            let held = self.0.store.hold(payment_hash);
            held.map_err(|e| refused(rpc, e))?;
        }
        self.sign_invoice(
            &self.0.wallet,
            InvoiceParts {
                payment_hash,
                secret,
                amount: wish.amount,
                description: "dev wallet".to_owned(),
                expiry_seconds: wish.expiry_seconds,
            },
        )
    }

    /// Where an invoice of the dev wallet stands.
    ///
    /// # Errors
    /// The node's own file failed.
    pub fn received(&self, hash: PaymentHash) -> Result<Received, PayError> {
        let store = &self.0.store;
        let failed = |error: rusqlite::Error| PayError::Store(error.to_string());
        Ok(match store.sent(hash).map_err(failed)? {
            PaymentState::InFlight => Received::InFlight,
            PaymentState::Succeeded { amount, .. } => Received::Settled(amount),
            PaymentState::NotSent | PaymentState::Failed { .. } => {
                match store.state(hash).map_err(failed)? {
                    InvoiceState::Cancelled => Received::Cancelled,
                    _ => Received::Open,
                }
            }
        })
    }

    /// Takes a held payment, or sends it back and never takes one of this invoice; `false` if
    /// there was nothing to take.
    ///
    /// # Errors
    /// The node's own file failed.
    pub fn resolve(&self, hash: PaymentHash, take: bool) -> Result<bool, PayError> {
        let failed = |error: rusqlite::Error| PayError::Store(error.to_string());
        let store = &self.0.store;
        let resolved = store.resolve(hash, take).map_err(failed)?;
        if !take {
            store.cancel(hash, self.0.clock.now()).map_err(failed)?;
        }
        Ok(resolved)
    }

    pub(super) fn send(&self, order: &PaymentOrder) -> Result<PaymentState, LightningError> {
        let rpc = "SendPaymentV2";
        order.names_amount().map_err(|e| refused(rpc, e))?;
        let invoice: Bolt11Invoice = order
            .bolt11
            .parse()
            .map_err(|_| refused(rpc, "invalid invoice"))?;
        let payee = invoice.recover_payee_pub_key();
        if payee == self.0.id {
            return Err(refused(rpc, "self-payments not allowed"));
        }
        let expires = invoice.expires_at().map_or(u64::MAX, |at| at.as_secs());
        let now = self.0.clock.now();
        if now.0 >= expires {
            return Err(refused(rpc, PayError::Expired(expires)));
        }
        let preimage = self.wallet_preimage(&invoice.payment_secret().0);
        let sent = self.0.store.send(
            order.payment_hash,
            order.amount,
            self.unpayable(&invoice, payee, &preimage),
            now,
        );
        match sent.map_err(|e| refused(rpc, e))? {
            Sent::Now(state) => Ok(state),
            Sent::Before(detail) => Err(LightningError::Exists {
                detail: detail.to_owned(),
            }),
        }
    }

    fn unpayable(
        &self,
        invoice: &Bolt11Invoice,
        payee: PublicKey,
        preimage: &Preimage,
    ) -> Option<PaymentFailure> {
        if invoice.currency() != Currency::Regtest || payee != self.wallet_id() {
            return Some(PaymentFailure::NoRoute);
        }
        let is_its_own = preimage.hash().0 == invoice.payment_hash().to_byte_array();
        (!is_its_own).then_some(PaymentFailure::IncorrectDetails)
    }

    fn wallet_id(&self) -> PublicKey {
        self.0.wallet.public_key(&self.0.curve)
    }

    fn wallet_preimage(&self, payment_secret: &[u8; 32]) -> Preimage {
        Preimage::new(derive(
            &self.0.seed,
            b"boltgate/dev/wallet-preimage",
            payment_secret,
        ))
    }
}

impl Default for WalletInvoice {
    /// Amountless, for a day.
    fn default() -> Self {
        Self {
            amount: None,
            expiry_seconds: Duration::from_secs(86_400).as_secs(),
            hold: false,
        }
    }
}
