//! What the refund worker and the operator need of the ledger.

use std::time::Duration;

use protocol::hash::PaymentHash;

use crate::domain::invoice::NodeId;
use crate::domain::ledger::LedgerError;
use crate::domain::payout::{
    Moved, Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Replaced, Sending, WorkerId,
};
use crate::domain::return_invoice::ReturnInvoice;

/// The part of the ledger that pays refunds. Each call is one atomic change; all times are the
/// store's own, so that several sidecars agree.
pub trait RefundLedger: Send + Sync + 'static {
    /// Takes the refund of this node that has been due for longest and that nobody works on; with
    /// `only_sending` one that was handed to the node. For `hold` nobody else gets it.
    fn take_refund(
        &self,
        node: NodeId,
        worker: WorkerId,
        hold: Duration,
        only_sending: bool,
    ) -> impl Future<Output = Result<Option<RefundWork>, LedgerError>> + Send;

    /// Works on it for longer; `false` if somebody else has it or it is over.
    fn keep_refund(
        &self,
        session_id: PaymentHash,
        worker: WorkerId,
        hold: Duration,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Writes that a refund is about to be handed to the node, if this worker still has it and the
    /// caps allow it. Before the payment leaves: what is written as sending may have been paid.
    fn begin_sending(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        payout: Payout,
        caps: RefundCaps,
    ) -> impl Future<Output = Result<Sending, LedgerError>> + Send;

    /// Writes what became of it and lets go of it; `false` if that was no longer ours to say.
    /// A payment that succeeded is a fact, whoever says it and whatever was thought before.
    fn record_refund(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        outcome: RefundOutcome,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Refunds that are not paid, oldest first, those that need a human before all others.
    fn unpaid_refunds(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<RefundWork>, LedgerError>> + Send;

    /// One refund.
    fn find_refund(
        &self,
        session_id: PaymentHash,
    ) -> impl Future<Output = Result<Option<RefundWork>, LedgerError>> + Send;

    /// Gives a failed refund another return invoice instead of that of hash `old`, which was found
    /// not to be paid; it is paid as if it were new.
    fn replace_return_invoice(
        &self,
        session_id: PaymentHash,
        old: PaymentHash,
        invoice: ReturnInvoice,
    ) -> impl Future<Output = Result<Replaced, LedgerError>> + Send;

    /// Lets node `to` pay a refund that was never handed to the node that has its deposits.
    fn move_refund(
        &self,
        session_id: PaymentHash,
        to: NodeId,
    ) -> impl Future<Output = Result<Moved, LedgerError>> + Send;

    /// How many refunds of this node were handed to it and are not decided.
    fn refunds_under_way(
        &self,
        node: NodeId,
    ) -> impl Future<Output = Result<u64, LedgerError>> + Send;

    /// How many refunds of this node, and of others, are not paid.
    fn refund_counts(
        &self,
        node: NodeId,
    ) -> impl Future<Output = Result<RefundCounts, LedgerError>> + Send;
}
