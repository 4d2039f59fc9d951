//! Sessions and leases, as the port asks for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::hash::PaymentHash;
use protocol::lease::Report;
use rand::RngExt as _;

use super::session::{ask, change};
use super::statements::Heard;
use super::{PostgresLedger, statements};
use crate::domain::lease::Times;
use crate::domain::ledger::LedgerError;
use crate::domain::offer::Sale;
use crate::domain::ports::SessionLedger;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, ReportedLeases, SessionCounts, SessionRow, Stopped, SweptLeases,
};

/// Rounds of hearing reports, with pauses that grow to a quarter of a second.
const ROUNDS: u32 = 8;
/// No further round after so long: what was heard is to be answered in time.
const ROUNDS_END: Duration = Duration::from_secs(1);

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

    /// In rounds: what another transaction has in one is there in the next, mostly. What is not
    /// there at last is left out, and only if that is all of it the call fails.
    async fn report_leases(&self, reports: Vec<Report>) -> Result<ReportedLeases, LedgerError> {
        let reports = Arc::new(reports);
        let mut all = Heard::default();
        let mut places: Vec<_> = (0..reports.len()).collect();
        let begun = Instant::now();
        for round in 0..ROUNDS {
            let these = Arc::clone(&reports);
            let heard: Result<Heard, LedgerError> = change!(self.pool, |tx| {
                statements::report_leases(&tx, &these, &places)
            });
            let heard = match heard {
                Ok(heard) => heard,
                // What was heard before counts, and so is what was answered.
                Err(error) if all.answers.is_empty() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "reports could not be heard");
                    break;
                }
            };
            all.answers.extend(heard.answers);
            all.settled.extend(heard.settled);
            all.lost_units = all.lost_units.saturating_add(heard.lost_units);
            places = heard.busy;
            if places.is_empty() || begun.elapsed() > ROUNDS_END {
                break;
            }
            let pause = rand::rng().random_range(1..=2 << round);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        all.answers.sort_by_key(|(place, _)| *place);
        if all.answers.is_empty() && !reports.is_empty() {
            let held_up = "the sessions are held up by another transaction".to_owned();
            return Err(LedgerError::Store(held_up));
        }
        Ok(ReportedLeases {
            answers: all.answers.into_iter().map(|(_, answer)| answer).collect(),
            lost_units: all.lost_units,
            settled: all.settled,
        })
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
