//! Paying a failed refund to another invoice, as an operator asks for.

use bitcoin::hashes::Hash as _;
use lightning_invoice::Bolt11Invoice;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use crate::domain::invoice::{NodeId, PICO_BTC_PER_MSAT, expiry_of};
use crate::domain::ledger::LedgerError;
use crate::domain::payment::PaymentState;
use crate::domain::payout::{RefundWork, Replaced};
use crate::domain::ports::{Lightning, LightningError, RefundLedger};
use crate::domain::refund::RefundState;
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};

/// An invoice must be payable for at least this much longer.
const LEAST_LIFE_SECONDS: u64 = 600;
const LONGEST_INVOICE: usize = 2_048;

/// Why a refund is not paid to another invoice.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplaceError {
    /// The session is owed nothing.
    #[error("no refund of this session is in the ledger")]
    NotFound,
    /// Only what has failed can be paid to another invoice.
    #[error("the refund is {}; only a failed one can be paid to another invoice", .0.as_str())]
    NotFailed(RefundState),
    /// The invoice cannot be used.
    #[error("the invoice {0}")]
    Invoice(&'static str),
    /// It would be paid twice.
    #[error("the node has a payment to the old invoice that is not failed; nothing was changed")]
    MayBePaid,
    /// Another node has the money.
    #[error("the refund is of another node than the one this configuration names")]
    OtherNode,
    /// The node cannot be asked about the old invoice.
    #[error(transparent)]
    Node(#[from] LightningError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Gives a failed refund another return invoice, which the running sidecar then pays. The node is
/// asked first, since what failed must not have been paid after all.
///
/// # Errors
/// Nothing was changed.
pub async fn replace<L: RefundLedger, N: Lightning>(
    ledger: &L,
    node: &N,
    session_id: PaymentHash,
    bolt11: &str,
    now: UnixSeconds,
) -> Result<RefundWork, ReplaceError> {
    let work = ledger.find_refund(session_id).await?;
    let work = work.ok_or(ReplaceError::NotFound)?;
    if work.refund.state != RefundState::Failed {
        return Err(ReplaceError::NotFailed(work.refund.state));
    }
    let invoice = check(&work, bolt11, now).map_err(ReplaceError::Invoice)?;
    if node.info().await?.id != work.refund.node {
        return Err(ReplaceError::OtherNode);
    }
    match node.track(work.refund.return_hash).await? {
        PaymentState::NotSent | PaymentState::Failed { .. } => {}
        PaymentState::InFlight | PaymentState::Succeeded { .. } => {
            return Err(ReplaceError::MayBePaid);
        }
    }
    match ledger.replace_return_invoice(session_id, invoice).await? {
        Replaced::Replaced => Ok(work),
        Replaced::NotFound => Err(ReplaceError::NotFound),
        Replaced::NotFailed(state) => Err(ReplaceError::NotFailed(state)),
        Replaced::InvoiceUsed => Err(ReplaceError::Invoice("belongs to another session")),
    }
}

fn check(work: &RefundWork, bolt11: &str, now: UnixSeconds) -> Result<ReturnInvoice, &'static str> {
    if bolt11.len() > LONGEST_INVOICE {
        return Err("is too long");
    }
    let parse = |text: &str| text.parse::<Bolt11Invoice>().map_err(|_| "is not valid");
    let invoice = parse(bolt11)?;
    let former = parse(work.refund.return_invoice.as_str())
        .map_err(|_| "cannot be compared with the former one, which is not valid")?;
    if invoice.currency() != former.currency() {
        return Err("is of another network");
    }
    if NodeId(invoice.get_payee_pub_key().serialize()) == work.refund.node {
        return Err("is of our own node");
    }
    let asked = invoice.clone().into_signed_raw();
    let amount = work.refund.amount.to_msat().get();
    match asked.raw_invoice().amount_pico_btc() {
        None | Some(0) => {}
        asked if asked == amount.checked_mul(PICO_BTC_PER_MSAT) => {}
        Some(_) => return Err("must be without amount, or ask for exactly the refund"),
    }
    let expires = expiry_of(bolt11).ok_or("is not valid")?;
    if expires.0 < now.0.saturating_add(LEAST_LIFE_SECONDS) {
        return Err("expires within ten minutes");
    }
    Ok(ReturnInvoice {
        text: ReturnText(bolt11.to_owned()),
        payment_hash: PaymentHash(invoice.payment_hash().to_byte_array()),
        expires,
    })
}
