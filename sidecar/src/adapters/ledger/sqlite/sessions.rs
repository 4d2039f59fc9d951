//! Sessions and leases, as the port asks for them.

use protocol::hash::PaymentHash;
use protocol::lease::Report;

use super::{SqliteLedger, statements};
use crate::domain::lease::Times;
use crate::domain::ledger::LedgerError;
use crate::domain::offer::Sale;
use crate::domain::ports::SessionLedger;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, ReportedLeases, SessionCounts, SessionRow, Stopped, SweptLeases,
};

impl SessionLedger for SqliteLedger {
    async fn begin_serving(&self) -> Result<(), LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::begin_serving(tx, clock.now()))
            .await
    }

    async fn find_sale(&self, payment_hash: PaymentHash) -> Result<Option<Sale>, LedgerError> {
        self.readers
            .read(move |db| statements::find_sale(db, payment_hash))
            .await
    }

    async fn find_session(
        &self,
        session_id: PaymentHash,
    ) -> Result<Option<SessionRow>, LedgerError> {
        self.readers
            .read(move |db| statements::find_session(db, session_id))
            .await
    }

    async fn recorded_deposit(
        &self,
        challenge_id: String,
        session_id: PaymentHash,
        kind: CallKind,
    ) -> Result<Option<RecordedDeposit>, LedgerError> {
        self.readers
            .read(move |db| statements::recorded_deposit(db, &challenge_id, session_id, kind))
            .await
    }

    async fn open_session(&self, session: NewSession) -> Result<Opened, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::open_session(tx, &session, clock.now()))
            .await
    }

    async fn top_up(&self, deposit: NewDeposit) -> Result<Deposited, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::top_up(tx, &deposit, clock.now()))
            .await
    }

    async fn begin_close(&self, close: NewClose) -> Result<CloseBegun, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::begin_close(tx, &close, clock.now()))
            .await
    }

    async fn ending(&self, session_id: PaymentHash) -> Result<Option<Ending>, LedgerError> {
        self.readers
            .read(move |db| statements::ending(db, session_id))
            .await
    }

    async fn record_answer(
        &self,
        call: CallMark,
        session_id: PaymentHash,
        answer: Refunded,
    ) -> Result<Refunded, LedgerError> {
        self.writer
            .write(move |tx| statements::record_answer(tx, &call, session_id, answer))
            .await
    }

    /// One change for the whole batch: it is one wait for the disk anyway.
    async fn report_leases(&self, reports: Vec<Report>) -> Result<ReportedLeases, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::report_leases(tx, &reports, clock.now()))
            .await
    }

    async fn sweep_leases(&self, times: Times, limit: u32) -> Result<SweptLeases, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::sweep_leases(tx, &times, limit, clock.now()))
            .await
    }

    async fn stop_unused(&self, limit: u32) -> Result<Vec<Stopped>, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::stop_unused(tx, limit, clock.now()))
            .await
    }

    async fn drop_old_results(&self, limit: u32) -> Result<usize, LedgerError> {
        let clock = self.clock;
        self.writer
            .write(move |tx| statements::drop_old_results(tx, limit, clock.now()))
            .await
    }

    async fn session_counts(&self) -> Result<SessionCounts, LedgerError> {
        self.readers.read(statements::session_counts).await
    }
}
