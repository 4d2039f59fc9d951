//! The part of the port that pays refunds.

use std::time::Duration;

use protocol::hash::PaymentHash;

use super::{SqliteLedger, statements};
use crate::adapters::system::unix_millis;
use crate::domain::invoice::NodeId;
use crate::domain::ledger::LedgerError;
use crate::domain::payout::{
    Moved, Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Replaced, Sending, WorkerId,
};
use crate::domain::ports::RefundLedger;
use crate::domain::return_invoice::ReturnInvoice;

impl RefundLedger for SqliteLedger {
    async fn take_refund(
        &self,
        node: NodeId,
        worker: WorkerId,
        hold: Duration,
        only_sending: bool,
    ) -> Result<Option<RefundWork>, LedgerError> {
        // Mostly there is nothing, and looking costs no commit.
        let is_due = move |db: &_| statements::is_refund_due(db, node, only_sending, unix_millis());
        if !self.readers.read(is_due).await? {
            return Ok(None);
        }
        self.writer
            .write(move |tx| {
                statements::take_refund(tx, node, worker, hold, only_sending, unix_millis())
            })
            .await
    }

    async fn keep_refund(
        &self,
        session_id: PaymentHash,
        worker: WorkerId,
        hold: Duration,
    ) -> Result<bool, LedgerError> {
        self.writer
            .write(move |tx| statements::keep_refund(tx, session_id, worker, hold, unix_millis()))
            .await
    }

    async fn begin_sending(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        payout: Payout,
        caps: RefundCaps,
    ) -> Result<Sending, LedgerError> {
        let (id, hash) = (work.refund.session_id, work.refund.return_hash);
        let node = work.refund.node;
        self.writer
            .write(move |tx| {
                let key = statements::RefundKey { id, hash, worker };
                statements::begin_sending(tx, key, node, payout, caps, unix_millis())
            })
            .await
    }

    async fn record_refund(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        outcome: RefundOutcome,
    ) -> Result<bool, LedgerError> {
        let (id, hash) = (work.refund.session_id, work.refund.return_hash);
        self.writer
            .write(move |tx| {
                let key = statements::RefundKey { id, hash, worker };
                statements::record_refund(tx, key, &outcome, unix_millis())
            })
            .await
    }

    async fn unpaid_refunds(&self, limit: u32) -> Result<Vec<RefundWork>, LedgerError> {
        self.readers
            .read(move |db| statements::unpaid_refunds(db, limit))
            .await
    }

    async fn find_refund(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<RefundWork>, LedgerError> {
        self.readers
            .read(move |db| statements::find_refund(db, session_id))
            .await
    }

    async fn replace_return_invoice(
        &self,
        session_id: PaymentHash,
        old: PaymentHash,
        invoice: ReturnInvoice,
    ) -> Result<Replaced, LedgerError> {
        self.writer
            .write(move |tx| {
                statements::replace_return_invoice(tx, session_id, old, &invoice, unix_millis())
            })
            .await
    }

    async fn move_refund(&self, session_id: PaymentHash, to: NodeId) -> Result<Moved, LedgerError> {
        self.writer
            .write(move |tx| statements::move_refund(tx, session_id, to, unix_millis()))
            .await
    }

    async fn refunds_under_way(&self, node: NodeId) -> Result<u64, LedgerError> {
        self.readers
            .read(move |db| statements::refunds_under_way(db, node))
            .await
    }

    async fn refund_counts(&self, node: NodeId) -> Result<RefundCounts, LedgerError> {
        self.readers
            .read(move |db| statements::refund_counts(db, node, unix_millis()))
            .await
    }
}
