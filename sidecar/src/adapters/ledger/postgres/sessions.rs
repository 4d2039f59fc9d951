//! Sessions and leases, as the port asks for them.

use protocol::hash::PaymentHash;
use protocol::lease::Report;

use super::session::{ask, change};
use super::{PostgresLedger, statements};
use crate::domain::lease::Times;
use crate::domain::ledger::LedgerError;
use crate::domain::offer::Sale;
use crate::domain::ports::SessionLedger;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, ReportedLeases, SessionCounts, SessionRow, Stopped, SweptLeases,
};

impl SessionLedger for PostgresLedger {
    async fn begin_serving(&self) -> Result<(), LedgerError> {
        change!(self.pool, |tx| statements::hear(&tx))
    }

    async fn find_sale(&self, payment_hash: PaymentHash) -> Result<Option<Sale>, LedgerError> {
        ask!(self.pool, |db| statements::find_sale(db, payment_hash))
    }

    async fn find_session(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<SessionRow>, LedgerError> {
        ask!(self.pool, |db| statements::find_session(db, session_id))
    }

    async fn recorded_deposit(
        &self,
        challenge_id: String,
        session_id: PaymentHash,
        kind: CallKind,
    ) -> Result<Option<RecordedDeposit>, LedgerError> {
        ask!(self.pool, |db| statements::recorded_deposit(
            db,
            &challenge_id,
            session_id,
            kind
        ))
    }

    async fn open_session(&self, session: NewSession) -> Result<Opened, LedgerError> {
        change!(self.pool, |tx| statements::open_session(&tx, &session))
    }

    async fn top_up(&self, deposit: NewDeposit) -> Result<Deposited, LedgerError> {
        change!(self.pool, |tx| statements::top_up(&tx, &deposit))
    }

    async fn begin_close(&self, close: NewClose) -> Result<CloseBegun, LedgerError> {
        change!(self.pool, |tx| statements::begin_close(&tx, &close))
    }

    async fn ending(&self, session_id: PaymentHash) -> Result<Option<Ending>, LedgerError> {
        ask!(self.pool, |db| statements::ending(db, session_id))
    }

    async fn record_answer(
        &self,
        call: CallMark,
        session_id: PaymentHash,
        answer: Refunded,
    ) -> Result<Refunded, LedgerError> {
        change!(self.pool, |tx| statements::record_answer(
            &tx, &call, session_id, answer
        ))
    }

    async fn report_leases(&self, reports: Vec<Report>) -> Result<ReportedLeases, LedgerError> {
        change!(self.pool, |tx| statements::report_leases(&tx, &reports))
    }

    /// That reports can be heard is noted by itself: a sweep that fails is no silence.
    async fn sweep_leases(&self, times: Times, limit: u32) -> Result<SweptLeases, LedgerError> {
        self.begin_serving().await?;
        change!(self.pool, |tx| statements::sweep_leases(&tx, &times, limit))
    }

    async fn stop_unused(&self, limit: u32) -> Result<Vec<Stopped>, LedgerError> {
        self.begin_serving().await?;
        change!(self.pool, |tx| statements::stop_unused(&tx, limit))
    }

    async fn drop_old_results(&self, limit: u32) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::drop_old_results(&tx, limit))
    }

    async fn session_counts(&self) -> Result<SessionCounts, LedgerError> {
        ask!(self.pool, |db| statements::session_counts(db))
    }
}
