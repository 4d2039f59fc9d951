//! Invoices and settlements as the Lightning port speaks of them.

use bitcoin::hashes::Hash as _;
use lightning_invoice::{Bolt11Invoice, SignedRawBolt11Invoice};
use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

/// The unit of amounts within invoices (BOLT 11).
pub(crate) const PICO_BTC_PER_MSAT: u64 = 10;

/// Life of an invoice that does not say (BOLT 11).
const DEFAULT_EXPIRY_SECONDS: u64 = 3_600;

/// Public key of a Lightning node, compressed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub [u8; 33]);

/// What to ask the node for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InvoiceRequest {
    /// Amount of the invoice, more than nothing.
    pub amount: Msat,
    /// Text that wallets show.
    pub description: String,
    /// Life of the invoice in seconds.
    pub expiry_seconds: u64,
}

/// A fresh invoice of the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Invoice {
    /// Hash whose preimage the payer learns.
    pub payment_hash: PaymentHash,
    /// BOLT 11 text.
    pub bolt11: String,
    /// From then on it can no longer be paid.
    pub expires: UnixSeconds,
    /// Who made it and will have the money, if that is known.
    pub node: Option<NodeId>,
}

impl Invoice {
    /// Whether its text, which is what is paid, asks for exactly this amount under its hash
    /// (R-CHARGE-8). The signature is the node's business.
    #[must_use]
    pub fn asks_for(&self, amount: Msat) -> bool {
        let Ok(invoice) = self.bolt11.parse::<SignedRawBolt11Invoice>() else {
            return false;
        };
        let invoice = invoice.raw_invoice();
        let hash = invoice.payment_hash().map(|hash| hash.0.to_byte_array());
        let asked = invoice.amount_pico_btc();
        hash == Some(self.payment_hash.0) && asked == amount.get().checked_mul(PICO_BTC_PER_MSAT)
    }
}

/// The node that an invoice pays, by its own words; `None` if the text is none.
#[must_use]
pub fn payee_of(bolt11: &str) -> Option<NodeId> {
    let invoice: Bolt11Invoice = bolt11.parse().ok()?;
    Some(NodeId(invoice.get_payee_pub_key().serialize()))
}

/// When an invoice expires, by its own words; `None` if the text is none.
#[must_use]
pub fn expiry_of(bolt11: &str) -> Option<UnixSeconds> {
    let invoice: SignedRawBolt11Invoice = bolt11.parse().ok()?;
    let invoice = invoice.raw_invoice();
    let made = invoice.data.timestamp.as_unix_timestamp();
    let life = invoice
        .expiry_time()
        .map_or(DEFAULT_EXPIRY_SECONDS, |expiry| expiry.as_seconds());
    Some(UnixSeconds(made.saturating_add(life)))
}

/// One invoice that was paid, final.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// Which invoice.
    pub payment_hash: PaymentHash,
    /// What really arrived; may be more than was asked.
    pub amount: Msat,
    /// When, by the node's clock.
    pub settled_at: UnixSeconds,
    /// The node's running number of settlements, from 1.
    pub settle_index: u64,
}

/// Where an invoice stands at the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InvoiceState {
    /// It can still be paid, or money for it is on its way.
    Open,
    /// It was paid.
    Settled(Settlement),
    /// It cannot be paid any more: cancelled, or expired.
    Cancelled,
    /// The node does not know it.
    Unknown,
}

/// What became of a wish to cancel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cancellation {
    /// It can never be paid: cancelled now or before, or not known to this node.
    Cancelled,
    /// Too late: it was paid.
    Settled(Settlement),
}

/// Facts about the node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeInfo {
    /// Its public key; settle indexes belong to it.
    pub id: NodeId,
    /// `mainnet`, `regtest` and so on.
    pub network: String,
}

/// How the node is, in words for an operator and for `/readyz`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum NodeStatus {
    /// It makes invoices.
    Ready,
    /// It runs and its wallet waits for the password.
    Locked,
    /// It runs and is still starting.
    Starting,
    /// It answers and does not accept our macaroon.
    Unauthorized,
    /// Nobody answers, or too late.
    Unreachable,
}

impl NodeStatus {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Locked => "locked",
            Self::Starting => "starting",
            Self::Unauthorized => "unauthorized",
            Self::Unreachable => "unreachable",
        }
    }
}
