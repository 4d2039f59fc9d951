//! What bookkeeping needs of the ledger.

use std::future::Future;

use crate::domain::books::{Entry, EntryKind, Place, Violation};
use crate::domain::ledger::LedgerError;

/// The part of the ledger that shows whether it adds up. It changes nothing.
pub trait BooksLedger: Send + Sync + 'static {
    /// What contradicts the invariants, from one look at the whole ledger; at most `limit` of each
    /// kind. Sees a ledger in use as it is between two transactions.
    fn violations(
        &self,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Violation>, LedgerError>> + Send;

    /// Entries in their order from `place` on; at most `limit`.
    fn entries(
        &self,
        kind: EntryKind,
        place: Place,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Entry>, LedgerError>> + Send;
}
