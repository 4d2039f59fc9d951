//! The part of the port that pays refunds.

use std::time::Duration;

use protocol::hash::PaymentHash;

use super::session::{ask, change};
use super::{PostgresLedger, statements};
use crate::domain::invoice::NodeId;
use crate::domain::ledger::LedgerError;
use crate::domain::payout::{
    Moved, Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Replaced, Sending, WorkerId,
};
use crate::domain::ports::RefundLedger;
use crate::domain::return_invoice::ReturnInvoice;

impl RefundLedger for PostgresLedger {
    async fn take_refund(
        &self,
        node: NodeId,
        worker: WorkerId,
        hold: Duration,
        only_sending: bool,
    ) -> Result<Option<RefundWork>, LedgerError> {
        // Mostly there is nothing, and looking costs no transaction.
        let is_due: Result<_, LedgerError> = ask!(self.pool, |db| statements::is_refund_due(
            db,
            node,
            only_sending
        ));
        if !is_due? {
            return Ok(None);
        }
        change!(self.pool, |tx| statements::take_refund(
            &tx,
            node,
            worker,
            hold,
            only_sending
        ))
    }

    async fn keep_refund(
        &self,
        session_id: PaymentHash,
        worker: WorkerId,
        hold: Duration,
    ) -> Result<bool, LedgerError> {
        change!(self.pool, |tx| statements::keep_refund(
            &tx, session_id, worker, hold
        ))
    }

    async fn begin_sending(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        payout: Payout,
        caps: RefundCaps,
    ) -> Result<Sending, LedgerError> {
        let (key, node) = (key(work, worker), work.refund.node);
        change!(self.pool, |tx| statements::begin_sending(
            &tx, key, node, payout, caps
        ))
    }

    async fn record_refund(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        outcome: RefundOutcome,
    ) -> Result<bool, LedgerError> {
        let key = key(work, worker);
        change!(self.pool, |tx| statements::record_refund(
            &tx, key, &outcome
        ))
    }

    async fn unpaid_refunds(&self, limit: u32) -> Result<Vec<RefundWork>, LedgerError> {
        ask!(self.pool, |db| statements::unpaid_refunds(db, limit))
    }

    async fn find_refund(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<RefundWork>, LedgerError> {
        ask!(self.pool, |db| statements::find_refund(db, session_id))
    }

    async fn replace_return_invoice(
        &self,
        session_id: PaymentHash,
        old: PaymentHash,
        invoice: ReturnInvoice,
    ) -> Result<Replaced, LedgerError> {
        change!(self.pool, |tx| statements::replace_return_invoice(
            &tx, session_id, old, &invoice
        ))
    }

    async fn move_refund(&self, session_id: PaymentHash, to: NodeId) -> Result<Moved, LedgerError> {
        change!(self.pool, |tx| statements::move_refund(&tx, session_id, to))
    }

    async fn refunds_under_way(&self, node: NodeId) -> Result<u64, LedgerError> {
        ask!(self.pool, |db| statements::refunds_under_way(db, node))
    }

    async fn refund_counts(&self, node: NodeId) -> Result<RefundCounts, LedgerError> {
        ask!(self.pool, |db| statements::refund_counts(db, node))
    }
}

const fn key(work: &RefundWork, worker: WorkerId) -> statements::RefundKey {
    statements::RefundKey {
        id: work.refund.session_id,
        hash: work.refund.return_hash,
        worker,
    }
}
