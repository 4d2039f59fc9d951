//! The embedded `dev` Lightning network: one node that invoices and pays itself. No money moves.
//!
//! Its invoices are real BOLT 11 on regtest, signed by the node's key. The preimage of an invoice
//! is derived from the node's seed and the payment secret that stands in the invoice, so an
//! invoice costs no write to disk and can be paid after a restart all the same. Only what was
//! settled or cancelled is stored, in a file of the dev node's own ([`store`]), as a real node
//! would: the ledger never sees seed or preimage.

pub mod http;
mod store;

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
use sha2::Sha256;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::store::{Paid, Store};
use crate::domain::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeId, NodeInfo, NodeStatus, Settlement,
};
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
        let key = SecretKey::from_slice(&derive(&seed, b"boltgate/dev/node", &[]))
            .map_err(|error| refused("start", error))?;
        let curve = Secp256k1::new();
        let last = store
            .last_index()
            .map_err(|error| refused("start", error))?;
        Ok(Self(Arc::new(Inner {
            id: key.public_key(&curve),
            seed,
            key,
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

    /// Invoices made by this process, payments ever made, and their sum in millisatoshi.
    ///
    /// # Errors
    /// The node's own file failed.
    pub fn stats(&self) -> Result<(u64, u64, u64), PayError> {
        let (payments, sum) = self
            .0
            .store
            .totals()
            .map_err(|error| PayError::Store(error.to_string()))?;
        Ok((self.0.invoices.load(Ordering::Relaxed), payments, sum))
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
        let now = self.0.clock.now();
        let bolt11 = InvoiceBuilder::new(Currency::Regtest)
            .description(request.description.clone())
            .payment_hash(sha256::Hash::from_byte_array(payment_hash.0))
            .payment_secret(PaymentSecret(secret))
            .duration_since_epoch(Duration::from_secs(now.0))
            .min_final_cltv_expiry_delta(FINAL_CLTV_DELTA)
            .amount_milli_satoshis(request.amount.get())
            .expiry_time(Duration::from_secs(request.expiry_seconds))
            .build_signed(|hash| self.0.curve.sign_ecdsa_recoverable(hash, &self.0.key))
            .map_err(|error| refused(rpc, format!("{error:?}")))?
            .to_string();
        self.0.invoices.fetch_add(1, Ordering::Relaxed);
        let expires = now.saturating_add(Duration::from_secs(request.expiry_seconds));
        Ok(Invoice {
            payment_hash,
            bolt11,
            expires,
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
