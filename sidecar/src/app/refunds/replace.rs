//! What an operator asks for: paying a failed refund to another invoice, or by another node, and
//! taking what the node has paid for the refund.

use bitcoin::hashes::Hash as _;
use lightning_invoice::Bolt11Invoice;
use protocol::amount::{Msat, Sat};
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use crate::domain::invoice::{NodeId, PICO_BTC_PER_MSAT, expiry_of};
use crate::domain::ledger::LedgerError;
use crate::domain::payment::PaymentState;
use crate::domain::payout::{Moved, RefundOutcome, RefundWork, Replaced, WorkerId};
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
    #[error("the node has a payment to the old invoice under way; nothing was changed")]
    MayBePaid,
    /// It would be paid twice.
    #[error(
        "the node has paid {0} to the old invoice; nothing was changed; if that was for this \
         refund, say so with `boltgate refunds accept`"
    )]
    WasPaid(Msat),
    /// What the node paid can only be taken for the refund when it did.
    #[error("the node has not paid the refund's invoice; nothing was changed")]
    NotPaid,
    /// Somebody else was faster.
    #[error("the refund got another invoice meanwhile; nothing was changed")]
    OtherInvoice,
    /// Only what waits and was never sent can be paid by another node.
    #[error("the refund cannot be given to another node: {0}")]
    NotMoved(&'static str),
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
        PaymentState::InFlight => return Err(ReplaceError::MayBePaid),
        PaymentState::Succeeded { amount, .. } => return Err(ReplaceError::WasPaid(amount)),
    }
    let asked_about = work.refund.return_hash;
    let replaced = ledger.replace_return_invoice(session_id, asked_about, invoice);
    match replaced.await? {
        Replaced::Replaced => Ok(work),
        Replaced::NotFound => Err(ReplaceError::NotFound),
        Replaced::NotFailed(state) => Err(ReplaceError::NotFailed(state)),
        Replaced::InvoiceUsed => Err(ReplaceError::Invoice("belongs to another session")),
        Replaced::OtherInvoice => Err(ReplaceError::OtherInvoice),
    }
}

/// Takes what the node has paid to the invoice of a failed refund for the refund: what is more than
/// it owes is the operator's. Gives what was paid.
///
/// # Errors
/// Nothing was changed.
pub async fn accept<L: RefundLedger, N: Lightning>(
    ledger: &L,
    node: &N,
    session_id: PaymentHash,
    worker: WorkerId,
) -> Result<Sat, ReplaceError> {
    let work = ledger.find_refund(session_id).await?;
    let work = work.ok_or(ReplaceError::NotFound)?;
    if work.refund.state != RefundState::Failed {
        return Err(ReplaceError::NotFailed(work.refund.state));
    }
    if node.info().await?.id != work.refund.node {
        return Err(ReplaceError::OtherNode);
    }
    let PaymentState::Succeeded { amount, fee } = node.track(work.refund.return_hash).await? else {
        return Err(ReplaceError::NotPaid);
    };
    let sent = Sat::new(amount.to_sat_floor()).filter(|sent| *sent > Sat::ZERO);
    let sent = sent.ok_or(ReplaceError::NotPaid)?.min(work.refund.amount);
    let paid = RefundOutcome::Paid { sent, fee };
    match ledger.record_refund(&work, worker, paid).await? {
        true => Ok(sent),
        false => Err(ReplaceError::OtherInvoice),
    }
}

/// Lets `node` pay a refund that was never handed to the node that has the deposits.
///
/// # Errors
/// Nothing was changed.
pub async fn take_over<L: RefundLedger, N: Lightning>(
    ledger: &L,
    node: &N,
    session_id: PaymentHash,
) -> Result<RefundWork, ReplaceError> {
    let work = ledger.find_refund(session_id).await?;
    let work = work.ok_or(ReplaceError::NotFound)?;
    let to = node.info().await?.id;
    let invoice = work.refund.return_invoice.as_str().parse::<Bolt11Invoice>();
    if invoice.is_ok_and(|invoice| NodeId(invoice.get_payee_pub_key().serialize()) == to) {
        return Err(ReplaceError::NotMoved("its invoice is of this node"));
    }
    let why = match ledger.move_refund(session_id, to).await? {
        Moved::Moved => return Ok(work),
        Moved::NotFound => return Err(ReplaceError::NotFound),
        Moved::Same => "it is of this node",
        Moved::NotPending(RefundState::Pending) => "it waits",
        Moved::NotPending(RefundState::Sending) => "its node was told to pay it",
        Moved::NotPending(RefundState::Succeeded) => "it is paid",
        Moved::NotPending(RefundState::Failed) => "it has failed, which its own node must confirm",
        Moved::WasSent => "its node was told to pay it before",
        Moved::Taken => "a sidecar works on it now",
    };
    Err(ReplaceError::NotMoved(why))
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
