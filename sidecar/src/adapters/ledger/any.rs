//! The store that the configuration names.

use std::sync::Arc;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use super::Migration;
use super::postgres::PostgresLedger;
use super::sqlite::{Commit, SqliteLedger};
use crate::config::{LedgerConfig, StoreConfig};
use crate::domain::books::{Entry, EntryKind, Place, Violation};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::deny_list::Version;
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::keys::{FilterHeard, NewKey};
use crate::domain::lease::Times;
use crate::domain::ledger::{
    Duty, GenerationUse, LedgerError, NewRevocation, OfferBatch, OfferName, Snapshot,
};
use crate::domain::offer::{OfferRow, Sale};
use crate::domain::payout::{
    Moved, Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Replaced, Sending, WorkerId,
};
use crate::domain::ports::{BooksLedger, Ledger, RefundLedger, SessionLedger};
use crate::domain::return_invoice::ReturnInvoice;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, ReportedLeases, SessionCounts, SessionRow, Stopped, SweptLeases,
};
use protocol::lease::Report;

/// A ledger of either kind, so that what stands on it is compiled once.
#[derive(Debug)]
pub enum AnyLedger {
    /// In a file, for one sidecar.
    Sqlite(SqliteLedger),
    /// In a database, for several.
    Postgres(PostgresLedger),
}

impl AnyLedger {
    /// Opens what the configuration names, as it says to.
    ///
    /// # Errors
    /// It cannot be opened, or its schema is not as it must be.
    pub async fn open(config: &LedgerConfig) -> Result<Self, LedgerError> {
        Self::open_observed(config, Migration::of(config), |_| {}).await
    }

    /// As [`Self::open`], with a say in `migration`; `observer` is told of commits.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_observed(
        config: &LedgerConfig,
        migration: Migration,
        observer: impl Fn(Commit) + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        match &config.store {
            StoreConfig::Sqlite(path) => {
                SqliteLedger::open_observed(path, migration, Box::new(observer)).map(Self::Sqlite)
            }
            StoreConfig::Postgres(postgres) => {
                PostgresLedger::open_observed(postgres, migration, Arc::new(observer))
                    .await
                    .map(Self::Postgres)
            }
        }
    }
}

macro_rules! either {
    ($self:ident, |$ledger:ident| $call:expr) => {
        match $self {
            Self::Sqlite($ledger) => $call.await,
            Self::Postgres($ledger) => $call.await,
        }
    };
}

impl Ledger for AnyLedger {
    async fn now_millis(&self) -> Result<Option<u64>, LedgerError> {
        either!(self, |ledger| ledger.now_millis())
    }

    async fn version(&self) -> Result<Version, LedgerError> {
        either!(self, |ledger| ledger.version())
    }

    async fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        either!(self, |ledger| ledger.snapshot())
    }

    async fn install_first_key(&self, key: NewKey, now_millis: u64) -> Result<(), LedgerError> {
        either!(self, |ledger| ledger.install_first_key(key, now_millis))
    }

    async fn begin_rotation(&self, key: NewKey, now_millis: u64) -> Result<u8, LedgerError> {
        either!(self, |ledger| ledger.begin_rotation(key, now_millis))
    }

    async fn promote(&self, id: u8, now_millis: u64, kept: Duration) -> Result<bool, LedgerError> {
        either!(self, |ledger| ledger.promote(id, now_millis, kept))
    }

    async fn generation_use(&self, id: u8, now: UnixSeconds) -> Result<GenerationUse, LedgerError> {
        either!(self, |ledger| ledger.generation_use(id, now))
    }

    async fn revoke_generation(
        &self,
        id: u8,
        now_millis: u64,
    ) -> Result<GenerationUse, LedgerError> {
        either!(self, |ledger| ledger.revoke_generation(id, now_millis))
    }

    async fn prune_expired(&self, now_millis: u64) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.prune_expired(now_millis))
    }

    async fn revoke(
        &self,
        revocation: NewRevocation,
        now_millis: u64,
    ) -> Result<bool, LedgerError> {
        either!(self, |ledger| ledger.revoke(revocation, now_millis))
    }

    async fn record_offers(&self, batch: OfferBatch) -> Result<(), LedgerError> {
        either!(self, |ledger| ledger.record_offers(batch))
    }

    async fn record_settlements(
        &self,
        node: NodeId,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Sale>, LedgerError> {
        either!(self, |ledger| ledger.record_settlements(node, settlements))
    }

    async fn settle_index(&self, node: NodeId) -> Result<u64, LedgerError> {
        either!(self, |ledger| ledger.settle_index(node))
    }

    async fn outstanding(&self, node: Option<NodeId>) -> Result<u64, LedgerError> {
        either!(self, |ledger| ledger.outstanding(node))
    }

    async fn unpaid(
        &self,
        node: NodeId,
        after: Option<PaymentHash>,
        expired_before: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<PaymentHash>, LedgerError> {
        either!(self, |ledger| ledger.unpaid(
            node,
            after,
            expired_before,
            limit
        ))
    }

    async fn drop_unpaid(&self, hashes: Vec<PaymentHash>) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.drop_unpaid(hashes))
    }

    async fn drop_expired_tokens(
        &self,
        before: UnixSeconds,
        limit: u32,
    ) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.drop_expired_tokens(before, limit))
    }

    async fn find_offer(&self, name: OfferName) -> Result<Option<OfferRow>, LedgerError> {
        either!(self, |ledger| ledger.find_offer(name))
    }

    async fn sales(&self, since: UnixSeconds, limit: u32) -> Result<Vec<Sale>, LedgerError> {
        either!(self, |ledger| ledger.sales(since, limit))
    }

    async fn claim(&self, claim: NewClaim, times: ClaimTimes) -> Result<Claimed, LedgerError> {
        either!(self, |ledger| ledger.claim(claim, times))
    }

    async fn abandon(&self, attempts: Vec<(PaymentHash, AttemptId)>) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.abandon(attempts))
    }

    async fn drop_old_claims(&self, times: ClaimTimes, limit: u32) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.drop_old_claims(times, limit))
    }

    async fn share_filters(
        &self,
        heard: Vec<FilterHeard>,
        window: Duration,
    ) -> Result<Option<Vec<FilterHeard>>, LedgerError> {
        either!(self, |ledger| ledger.share_filters(heard, window))
    }

    async fn take_duty(
        &self,
        duty: Duty,
        process: WorkerId,
        time: Duration,
    ) -> Result<bool, LedgerError> {
        either!(self, |ledger| ledger.take_duty(duty, process, time))
    }

    async fn close(&self) {
        either!(self, |ledger| ledger.close())
    }
}

impl SessionLedger for AnyLedger {
    async fn begin_serving(&self) -> Result<(), LedgerError> {
        either!(self, |ledger| ledger.begin_serving())
    }

    async fn find_sale(&self, payment_hash: PaymentHash) -> Result<Option<Sale>, LedgerError> {
        either!(self, |ledger| ledger.find_sale(payment_hash))
    }

    async fn find_session(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<SessionRow>, LedgerError> {
        either!(self, |ledger| ledger.find_session(session_id))
    }

    async fn recorded_deposit(
        &self,
        challenge_id: String,
        session_id: PaymentHash,
        kind: CallKind,
    ) -> Result<Option<RecordedDeposit>, LedgerError> {
        either!(self, |ledger| ledger.recorded_deposit(
            challenge_id,
            session_id,
            kind
        ))
    }

    async fn open_session(&self, session: NewSession) -> Result<Opened, LedgerError> {
        either!(self, |ledger| ledger.open_session(session))
    }

    async fn top_up(&self, deposit: NewDeposit) -> Result<Deposited, LedgerError> {
        either!(self, |ledger| ledger.top_up(deposit))
    }

    async fn begin_close(&self, close: NewClose) -> Result<CloseBegun, LedgerError> {
        either!(self, |ledger| ledger.begin_close(close))
    }

    async fn ending(&self, session_id: PaymentHash) -> Result<Option<Ending>, LedgerError> {
        either!(self, |ledger| ledger.ending(session_id))
    }

    async fn record_answer(
        &self,
        call: CallMark,
        session_id: PaymentHash,
        answer: Refunded,
    ) -> Result<Refunded, LedgerError> {
        either!(self, |ledger| ledger
            .record_answer(call, session_id, answer))
    }

    async fn report_leases(&self, reports: Vec<Report>) -> Result<ReportedLeases, LedgerError> {
        either!(self, |ledger| ledger.report_leases(reports))
    }

    async fn sweep_leases(&self, times: Times, limit: u32) -> Result<SweptLeases, LedgerError> {
        either!(self, |ledger| ledger.sweep_leases(times, limit))
    }

    async fn stop_unused(&self, limit: u32) -> Result<Vec<Stopped>, LedgerError> {
        either!(self, |ledger| ledger.stop_unused(limit))
    }

    async fn drop_old_results(&self, limit: u32) -> Result<usize, LedgerError> {
        either!(self, |ledger| ledger.drop_old_results(limit))
    }

    async fn session_counts(&self) -> Result<SessionCounts, LedgerError> {
        either!(self, |ledger| ledger.session_counts())
    }
}

impl RefundLedger for AnyLedger {
    async fn take_refund(
        &self,
        node: NodeId,
        worker: WorkerId,
        hold: Duration,
        only_sending: bool,
    ) -> Result<Option<RefundWork>, LedgerError> {
        either!(self, |ledger| ledger.take_refund(
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
        either!(self, |ledger| ledger.keep_refund(session_id, worker, hold))
    }

    async fn begin_sending(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        payout: Payout,
        caps: RefundCaps,
    ) -> Result<Sending, LedgerError> {
        either!(self, |ledger| ledger
            .begin_sending(work, worker, payout, caps))
    }

    async fn record_refund(
        &self,
        work: &RefundWork,
        worker: WorkerId,
        outcome: RefundOutcome,
    ) -> Result<bool, LedgerError> {
        either!(self, |ledger| ledger.record_refund(work, worker, outcome))
    }

    async fn unpaid_refunds(&self, limit: u32) -> Result<Vec<RefundWork>, LedgerError> {
        either!(self, |ledger| ledger.unpaid_refunds(limit))
    }

    async fn find_refund(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<RefundWork>, LedgerError> {
        either!(self, |ledger| ledger.find_refund(session_id))
    }

    async fn replace_return_invoice(
        &self,
        session_id: PaymentHash,
        old: PaymentHash,
        invoice: ReturnInvoice,
    ) -> Result<Replaced, LedgerError> {
        either!(self, |ledger| ledger
            .replace_return_invoice(session_id, old, invoice))
    }

    async fn move_refund(&self, session_id: PaymentHash, to: NodeId) -> Result<Moved, LedgerError> {
        either!(self, |ledger| ledger.move_refund(session_id, to))
    }

    async fn refunds_under_way(&self, node: NodeId) -> Result<u64, LedgerError> {
        either!(self, |ledger| ledger.refunds_under_way(node))
    }

    async fn refund_counts(&self, node: NodeId) -> Result<RefundCounts, LedgerError> {
        either!(self, |ledger| ledger.refund_counts(node))
    }
}

impl BooksLedger for AnyLedger {
    async fn violations(&self, limit: u32) -> Result<Vec<Violation>, LedgerError> {
        either!(self, |ledger| ledger.violations(limit))
    }

    async fn entries(
        &self,
        kind: EntryKind,
        place: Place,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        either!(self, |ledger| ledger.entries(kind, place, limit))
    }
}
