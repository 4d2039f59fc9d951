//! The embedded `dev` Lightning network: a node that is paid by asking for it, and a wallet that it
//! pays ([`wallet`]). No money moves.
//!
//! Its invoices are real BOLT 11 on regtest, signed by the node's key. The preimage of an invoice
//! is derived from the node's seed and the payment secret that stands in the invoice, so an
//! invoice costs no write to disk and can be paid after a restart all the same. Only what was
//! settled or cancelled is stored, in a file of the dev node's own ([`store`]), as a real node
//! would: the ledger never sees seed or preimage.

pub mod http;
mod store;
mod wallet;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bitcoin::hashes::{Hash as _, sha256};
use bitcoin::secp256k1::{All, PublicKey, Secp256k1, SecretKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use lightning_invoice::{Bolt11Invoice, Currency, InvoiceBuilder, PaymentSecret};
use protocol::amount::Msat;
use protocol::hash::{PaymentHash, Preimage};
use serde::Serialize;
use sha2::Sha256;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::store::{Paid, Store};
pub use self::wallet::{Received, WalletInvoice};
use crate::domain::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeId, NodeInfo, NodeStatus, Settlement,
    payee_of,
};
use crate::domain::payment::{PaymentOrder, PaymentState};
use crate::domain::ports::{Clock, Lightning, LightningError, Random, Settlements};

/// The one network it accepts to be.
pub const NETWORK: &str = "regtest";

const FINAL_CLTV_DELTA: u64 = 80;
/// Settlements read from the store at a time.
const PAGE: u32 = 256;

/// The dev node.
#[derive(Clone)]
pub struct DevNode(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; 32]>,
    key: SecretKey,
    id: PublicKey,
    /// The dev wallet's key.
    wallet: SecretKey,
    curve: Secp256k1<All>,
    store: Store,
    settled: watch::Sender<u64>,
    invoices: AtomicU64,
    delay: Duration,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

/// Why an invoice was not paid. The words are those of LND.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PayError {
    /// Not BOLT 11.
    #[error("invalid invoice: {0}")]
    Invalid(String),
    /// Another network or another node's.
    #[error("unable to find a path to destination: {0}")]
    NoRoute(&'static str),
    /// Too late.
    #[error("invoice expired. Valid until {0} (Unix seconds)")]
    Expired(u64),
    /// Paid before.
    #[error("invoice is already paid")]
    AlreadyPaid,
    /// It was cancelled.
    #[error("FAILURE_REASON_INCORRECT_PAYMENT_DETAILS")]
    Cancelled,
    /// An amountless invoice without an amount, or the other way round.
    #[error("{0}")]
    Amount(&'static str),
    /// The node's own file failed.
    #[error("dev node: {0}")]
    Store(String),
}

/// A payment that was made.
#[derive(Clone, Debug)]
pub struct Payment {
    /// What the payer learns.
    pub preimage: Preimage,
    /// Its hash.
    pub payment_hash: PaymentHash,
    /// What was paid.
    pub amount: Msat,
}

/// Counts of a dev node, amounts in millisatoshi.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Stats {
    /// Invoices of the node made by this process.
    pub invoices: u64,
    /// Payments to the node, ever.
    pub payments: u64,
    /// Their sum.
    pub paid_msat: u64,
    /// Payments by the node that succeeded, ever.
    pub sent: u64,
    /// Their sum.
    pub sent_msat: u64,
}

/// What goes into an invoice.
struct InvoiceParts {
    payment_hash: PaymentHash,
    secret: [u8; 32],
    amount: Option<Msat>,
    description: String,
    expiry_seconds: u64,
}

impl DevNode {
    /// Opens the node's own file and starts with the seed in it, or with a new one.
    ///
    /// `delay`: how long each invoice takes to be made, to stand for a slow node.
    ///
    /// # Errors
    /// The file cannot be used, or there is no randomness.
    pub fn open(
        path: &Path,
        delay: Duration,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, LightningError> {
        let fresh = random.secret().map_err(|error| refused("start", error))?;
        let store = Store::open(path, &fresh).map_err(|error| refused("start", error))?;
        let seed = store.seed();
        let key = |label| {
            SecretKey::from_slice(&derive(&seed, label, &[])).map_err(|e| refused("start", e))
        };
        let (key, wallet) = (key(b"boltgate/dev/node")?, key(b"boltgate/dev/wallet")?);
        let curve = Secp256k1::new();
        let last = store
            .last_index()
            .map_err(|error| refused("start", error))?;
        Ok(Self(Arc::new(Inner {
            id: key.public_key(&curve),
            seed,
            key,
            wallet,
            curve,
            store,
            settled: watch::Sender::new(last),
            invoices: AtomicU64::new(0),
            delay,
            clock,
            random,
        })))
    }

    /// Pays an invoice of this node and gives the preimage. `amount` is for amountless invoices.
    ///
    /// # Errors
    /// As a real node: expired, paid already, cancelled, not ours.
    pub async fn pay(&self, bolt11: &str, amount: Option<Msat>) -> Result<Payment, PayError> {
        let invoice: Bolt11Invoice = bolt11
            .parse()
            .map_err(|error| PayError::Invalid(format!("{error:?}")))?;
        let amount = self.check_payable(&invoice, amount)?;
        let preimage = self.preimage(&invoice.payment_secret().0);
        let payment_hash = preimage.hash();
        if payment_hash.0 != invoice.payment_hash().to_byte_array() {
            return Err(PayError::Cancelled);
        }
        let paid_at = self.0.clock.now();
        let node = self.clone();
        let paid =
            tokio::task::spawn_blocking(move || node.0.store.pay(payment_hash, amount, paid_at))
                .await
                .map_err(|error| PayError::Store(error.to_string()))?
                .map_err(|error| PayError::Store(error.to_string()))?;
        match paid {
            Paid::Now(index) => {
                self.0.settled.send_modify(|last| *last = index.max(*last));
                Ok(Payment {
                    preimage,
                    payment_hash,
                    amount,
                })
            }
            Paid::Before => Err(PayError::AlreadyPaid),
            Paid::NeverCancelled => Err(PayError::Cancelled),
        }
    }

    /// What happened so far.
    ///
    /// # Errors
    /// The node's own file failed.
    pub fn stats(&self) -> Result<Stats, PayError> {
        let failed = |error: rusqlite::Error| PayError::Store(error.to_string());
        let (payments, paid_msat) = self.0.store.totals().map_err(failed)?;
        let (sent, sent_msat) = self.0.store.sent_totals().map_err(failed)?;
        Ok(Stats {
            invoices: self.0.invoices.load(Ordering::Relaxed),
            payments,
            paid_msat,
            sent,
            sent_msat,
        })
    }

    fn check_payable(
        &self,
        invoice: &Bolt11Invoice,
        amount: Option<Msat>,
    ) -> Result<Msat, PayError> {
        if invoice.currency() != Currency::Regtest {
            return Err(PayError::NoRoute("invoice is not for regtest"));
        }
        if invoice.recover_payee_pub_key() != self.0.id {
            return Err(PayError::NoRoute("invoice is of another node"));
        }
        let expires = invoice.expires_at().map_or(u64::MAX, |at| at.as_secs());
        if self.0.clock.now().0 >= expires {
            return Err(PayError::Expired(expires));
        }
        match (invoice.amount_milli_satoshis().and_then(Msat::new), amount) {
            (Some(asked), None) => Ok(asked),
            (Some(asked), Some(given)) if given == asked => Ok(asked),
            (None, Some(given)) if given > Msat::ZERO => Ok(given),
            (None, _) => Err(PayError::Amount(
                "amount must be specified when paying a zero amount invoice",
            )),
            (Some(_), Some(_)) => Err(PayError::Amount(
                "amount must not be specified when paying a non-zero amount invoice",
            )),
        }
    }

    fn preimage(&self, payment_secret: &[u8; 32]) -> Preimage {
        Preimage::new(derive(
            &self.0.seed,
            b"boltgate/dev/preimage",
            payment_secret,
        ))
    }

    fn make_invoice(&self, request: &InvoiceRequest) -> Result<Invoice, LightningError> {
        let rpc = "AddInvoice";
        let secret = self
            .0
            .random
            .secret()
            .map_err(|error| refused(rpc, error))?;
        let payment_hash = self.preimage(&secret).hash();
        let invoice = self.sign_invoice(
            &self.0.key,
            InvoiceParts {
                payment_hash,
                secret,
                amount: Some(request.amount),
                description: request.description.clone(),
                expiry_seconds: request.expiry_seconds,
            },
        )?;
        self.0.invoices.fetch_add(1, Ordering::Relaxed);
        Ok(invoice)
    }

    fn sign_invoice(
        &self,
        key: &SecretKey,
        parts: InvoiceParts,
    ) -> Result<Invoice, LightningError> {
        let rpc = "AddInvoice";
        let now = self.0.clock.now();
        let expiry = Duration::from_secs(parts.expiry_seconds);
        let mut builder = InvoiceBuilder::new(Currency::Regtest)
            .description(parts.description)
            .payment_hash(sha256::Hash::from_byte_array(parts.payment_hash.0))
            .payment_secret(PaymentSecret(parts.secret))
            .duration_since_epoch(Duration::from_secs(now.0))
            .min_final_cltv_expiry_delta(FINAL_CLTV_DELTA)
            .expiry_time(expiry);
        if let Some(amount) = parts.amount {
            builder = builder.amount_milli_satoshis(amount.get());
        }
        let bolt11 = builder
            .build_signed(|hash| self.0.curve.sign_ecdsa_recoverable(hash, key))
            .map_err(|error| refused(rpc, format!("{error:?}")))?
            .to_string();
        Ok(Invoice {
            payment_hash: parts.payment_hash,
            node: payee_of(&bolt11),
            bolt11,
            expires: now.saturating_add(expiry),
        })
    }
}

impl Lightning for DevNode {
    type Settlements = DevSettlements;

    async fn add_invoice(&self, request: InvoiceRequest) -> Result<Invoice, LightningError> {
        if !self.0.delay.is_zero() {
            tokio::time::sleep(self.0.delay).await;
        }
        self.make_invoice(&request)
    }

    /// Open invoices are not stored, so one that was never made looks open too.
    async fn lookup(&self, hash: PaymentHash) -> Result<InvoiceState, LightningError> {
        self.0
            .store
            .state(hash)
            .map_err(|error| refused("LookupInvoice", error))
    }

    async fn cancel(&self, hash: PaymentHash) -> Result<Cancellation, LightningError> {
        let now = self.0.clock.now();
        self.0
            .store
            .cancel(hash, now)
            .map_err(|error| refused("CancelInvoice", error))
    }

    async fn pay(&self, order: PaymentOrder) -> Result<PaymentState, LightningError> {
        let node = self.clone();
        tokio::task::spawn_blocking(move || node.send(&order))
            .await
            .map_err(|error| refused("SendPaymentV2", error))?
    }

    async fn track(&self, hash: PaymentHash) -> Result<PaymentState, LightningError> {
        let state = self.0.store.sent(hash);
        state.map_err(|error| refused("TrackPaymentV2", error))
    }

    async fn info(&self) -> Result<NodeInfo, LightningError> {
        Ok(NodeInfo {
            id: NodeId(self.0.id.serialize()),
            network: NETWORK.to_owned(),
        })
    }

    async fn status(&self) -> NodeStatus {
        NodeStatus::Ready
    }

    async fn settlements(&self, since: u64) -> Result<DevSettlements, LightningError> {
        let changed = self.0.settled.subscribe();
        let cursor = if since == 0 { *changed.borrow() } else { since };
        Ok(DevSettlements {
            node: self.clone(),
            changed,
            cursor,
            page: Vec::new().into_iter(),
        })
    }
}

/// Settlements of the dev node in their order.
pub struct DevSettlements {
    node: DevNode,
    changed: watch::Receiver<u64>,
    cursor: u64,
    page: std::vec::IntoIter<Settlement>,
}

impl Settlements for DevSettlements {
    async fn next(&mut self) -> Result<Settlement, LightningError> {
        loop {
            if let Some(settlement) = self.page.next() {
                self.cursor = settlement.settle_index;
                return Ok(settlement);
            }
            let cursor = self.cursor;
            let wait = self.changed.wait_for(|last| *last > cursor).await;
            wait.map_err(|error| refused("SubscribeInvoices", error))?;
            let page = self.node.0.store.settled_after(cursor, PAGE);
            self.page = page
                .map_err(|error| refused("SubscribeInvoices", error))?
                .into_iter();
        }
    }
}

fn derive(seed: &[u8; 32], label: &[u8], input: &[u8]) -> [u8; 32] {
    // An HMAC-SHA256 key of 32 bytes is padded to the block of 64, which cannot fail.
    let mut block = Zeroizing::new([0; 64]);
    block.split_at_mut(32).0.copy_from_slice(seed);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(label);
    mac.update(input);
    mac.finalize().into_bytes().into()
}

fn refused(rpc: &'static str, error: impl ToString) -> LightningError {
    LightningError::Refused {
        rpc,
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
