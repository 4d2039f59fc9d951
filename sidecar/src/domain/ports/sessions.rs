//! What the durable store does for sessions and their leases.

use std::future::Future;

use protocol::hash::PaymentHash;
use protocol::lease::Report;

use crate::domain::lease::Times;
use crate::domain::ledger::LedgerError;
use crate::domain::offer::Sale;
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, ReportedLeases, SessionCounts, SessionRow, Stopped, SweptLeases,
};

/// The part of the [ledger](super::Ledger) that keeps sessions. Each call is one atomic change,
/// unless it says otherwise.
///
/// All times are the store's own, so that several sidecars agree. What was heard and when is
/// measured by a clock that never goes back. A store locks one account while the rules of
/// [`crate::domain::lease`] are applied to it; accounts do not wait for each other.
pub trait SessionLedger: Send + Sync + 'static {
    /// From now on this process hears reports. If nobody could hear them before, every lease and
    /// every session counts as heard of now: what was down must not end what it could not hear
    /// (spec/lease L6).
    fn begin_serving(&self) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// The sale that this payment made, once its settlement was recorded.
    fn find_sale(
        &self,
        payment_hash: PaymentHash,
    ) -> impl Future<Output = Result<Option<Sale>, LedgerError>> + Send;

    /// One session.
    fn find_session(
        &self,
        session_id: PaymentHash,
    ) -> impl Future<Output = Result<Option<SessionRow>, LedgerError>> + Send;

    /// What was recorded of an open or a topUp with this challenge and for this session.
    fn recorded_deposit(
        &self,
        challenge_id: String,
        session_id: PaymentHash,
        kind: CallKind,
    ) -> impl Future<Output = Result<Option<RecordedDeposit>, LedgerError>> + Send;

    /// Claims the payment, makes the session, records the result and grants the first lease: all
    /// of it or nothing.
    fn open_session(
        &self,
        session: NewSession,
    ) -> impl Future<Output = Result<Opened, LedgerError>> + Send;

    /// Claims the payment, credits it and records the result: all of it or nothing.
    fn top_up(
        &self,
        deposit: NewDeposit,
    ) -> impl Future<Output = Result<Deposited, LedgerError>> + Send;

    /// Stops granting from a session (spec/lease L8) and notes the call; settles the session if no
    /// lease lives. An earlier call that said the same is found again.
    fn begin_close(
        &self,
        close: NewClose,
    ) -> impl Future<Output = Result<CloseBegun, LedgerError>> + Send;

    /// How far the end of a session has come. `None`: there is no such session.
    fn ending(
        &self,
        session_id: PaymentHash,
    ) -> impl Future<Output = Result<Option<Ending>, LedgerError>> + Send;

    /// Notes what is answered to a close, the first time only. Gives what was noted.
    fn record_answer(
        &self,
        call: CallMark,
        session_id: PaymentHash,
        answer: Refunded,
    ) -> impl Future<Output = Result<Refunded, LedgerError>> + Send;

    /// Applies each report to its account (spec/lease L2, L3, L6, L7, L11), and settles the
    /// sessions whose last lease ends by it. Atomic per report; a failure may leave some undone,
    /// which then are reported again.
    fn report_leases(
        &self,
        reports: Vec<Report>,
    ) -> impl Future<Output = Result<ReportedLeases, LedgerError>> + Send;

    /// Ends leases of which nothing was heard, settles what can be settled, and forgets leases
    /// that ended long ago (spec/lease L6, L8, L11). At most `limit` sessions and as many
    /// forgotten leases; atomic per session.
    fn sweep_leases(
        &self,
        times: Times,
        limit: u32,
    ) -> impl Future<Output = Result<SweptLeases, LedgerError>> + Send;

    /// Begins to close sessions that nobody used for their idle timeout, and those whose return
    /// invoice must not get older (R-SESSION-13); at most `limit`.
    fn stop_unused(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Stopped>, LedgerError>> + Send;

    /// Deletes results of closes that need not be remembered; at most `limit`. Their number.
    fn drop_old_results(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// How many sessions and leases there are.
    fn session_counts(&self) -> impl Future<Output = Result<SessionCounts, LedgerError>> + Send;
}
