//! The ledger in one SQLite file.
//!
//! WAL with `synchronous=FULL`: what a call has returned from survives loss of power. One thread
//! writes and puts whatever waits into one transaction ([`writer`]); reads go through connections
//! of their own ([`reader`]). Other processes (the CLI) may read and write the same file; only one
//! sidecar may serve from it, since key rotation counts on hearing every filter.

mod books;
mod clock;
mod migrate;
mod open;
mod private;
mod reader;
mod refunds;
mod sessions;
mod statements;
mod writer;

use std::path::Path;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use self::clock::StoreClock;
pub use self::open::ServingLock;
use self::reader::Readers;
use self::writer::Writer;
pub use self::writer::{Commit, CommitObserver};
use super::Migration;
use crate::adapters::system::unix_millis;
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::deny_list::Version;
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::keys::{FilterHeard, NewKey};
use crate::domain::ledger::{
    Duty, GenerationUse, LedgerError, NewRevocation, OfferBatch, OfferName, Snapshot,
};
use crate::domain::offer::{OfferRow, Sale};
use crate::domain::payout::WorkerId;
use crate::domain::ports::Ledger;

/// A ledger in an SQLite file.
#[derive(Debug)]
pub struct SqliteLedger {
    writer: Writer,
    readers: Readers,
    clock: StoreClock,
}

impl SqliteLedger {
    /// Opens the file, makes it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// The file cannot be opened, is something else, or was made by a newer version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_observed(path, Migration::ToLatest, Box::new(|_| {}))
    }

    /// As [`Self::open`], with a say in `migration`; `observer` is told of every commit.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_observed(
        path: &Path,
        migration: Migration,
        observer: CommitObserver,
    ) -> Result<Self, LedgerError> {
        let connection = open::for_writing(path, migration)?;
        let writer = Writer::start(connection, observer)?;
        Ok(Self {
            writer,
            readers: Readers::new(path),
            clock: StoreClock::new(),
        })
    }

    /// Claims the file for one serving process, until the value is dropped or the process ends.
    ///
    /// # Errors
    /// [`LedgerError::InUse`] if another process has it.
    pub fn lock_for_serving(path: &Path) -> Result<ServingLock, LedgerError> {
        ServingLock::acquire(path)
    }
}

impl Ledger for SqliteLedger {
    async fn now_millis(&self) -> Result<Option<u64>, LedgerError> {
        Ok(None)
    }

    async fn version(&self) -> Result<Version, LedgerError> {
        self.readers.read(statements::version).await
    }

    async fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        self.readers.read(statements::snapshot).await
    }

    async fn install_first_key(&self, key: NewKey, now_millis: u64) -> Result<(), LedgerError> {
        self.writer
            .write(move |tx| statements::install_first_key(tx, &key, now_millis))
            .await
    }

    async fn begin_rotation(&self, key: NewKey, now_millis: u64) -> Result<u8, LedgerError> {
        self.writer
            .write(move |tx| statements::begin_rotation(tx, &key, now_millis))
            .await
    }

    async fn promote(&self, id: u8, now_millis: u64, kept: Duration) -> Result<bool, LedgerError> {
        self.writer
            .write(move |tx| statements::promote(tx, id, now_millis, kept))
            .await
    }

    async fn generation_use(&self, id: u8, now: UnixSeconds) -> Result<GenerationUse, LedgerError> {
        self.readers
            .read(move |db| statements::generation_use(db, id, now))
            .await
    }

    async fn revoke_generation(
        &self,
        id: u8,
        now_millis: u64,
    ) -> Result<GenerationUse, LedgerError> {
        self.writer
            .write(move |tx| statements::revoke_generation(tx, id, now_millis))
            .await
    }

    async fn prune_expired(&self, now_millis: u64) -> Result<usize, LedgerError> {
        self.writer
            .write(move |tx| statements::prune_expired(tx, now_millis))
            .await
    }

    async fn revoke(
        &self,
        revocation: NewRevocation,
        now_millis: u64,
    ) -> Result<bool, LedgerError> {
        self.writer
            .write(move |tx| statements::revoke(tx, &revocation, now_millis))
            .await
    }

    async fn record_offers(&self, batch: OfferBatch) -> Result<(), LedgerError> {
        self.writer
            .write(move |tx| statements::record_offers(tx, &batch))
            .await
    }

    async fn record_settlements(
        &self,
        node: NodeId,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Sale>, LedgerError> {
        self.writer
            .write(move |tx| statements::record_settlements(tx, node, &settlements))
            .await
    }

    async fn settle_index(&self, node: NodeId) -> Result<u64, LedgerError> {
        self.readers
            .read(move |db| statements::settle_index(db, node))
            .await
    }

    async fn outstanding(&self, node: Option<NodeId>) -> Result<u64, LedgerError> {
        self.readers
            .read(move |db| statements::outstanding(db, node))
            .await
    }

    async fn unpaid(
        &self,
        node: NodeId,
        after: Option<PaymentHash>,
        expired_before: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<PaymentHash>, LedgerError> {
        self.readers
            .read(move |db| statements::unpaid(db, node, after, expired_before, limit))
            .await
    }

    async fn drop_unpaid(&self, hashes: Vec<PaymentHash>) -> Result<usize, LedgerError> {
        self.writer
            .write(move |tx| statements::drop_unpaid(tx, &hashes))
            .await
    }

    async fn drop_expired_tokens(
        &self,
        before: UnixSeconds,
        limit: u32,
    ) -> Result<usize, LedgerError> {
        self.writer
            .write(move |tx| statements::drop_expired_tokens(tx, before, limit))
            .await
    }

    async fn find_offer(&self, name: OfferName) -> Result<Option<OfferRow>, LedgerError> {
        self.readers
            .read(move |db| statements::find_offer(db, name))
            .await
    }

    async fn sales(&self, since: UnixSeconds, limit: u32) -> Result<Vec<Sale>, LedgerError> {
        self.readers
            .read(move |db| statements::sales(db, since, limit))
            .await
    }

    async fn claim(&self, claim: NewClaim, times: ClaimTimes) -> Result<Claimed, LedgerError> {
        self.writer
            .write(move |tx| statements::claim(tx, &claim, &times, unix_millis()))
            .await
    }

    async fn abandon(&self, attempts: Vec<(PaymentHash, AttemptId)>) -> Result<usize, LedgerError> {
        self.writer
            .write(move |tx| statements::abandon(tx, &attempts, unix_millis()))
            .await
    }

    async fn drop_old_claims(&self, times: ClaimTimes, limit: u32) -> Result<usize, LedgerError> {
        self.writer
            .write(move |tx| statements::drop_old_claims(tx, &times, limit, unix_millis()))
            .await
    }

    /// One sidecar serves from the file, and hears every filter itself.
    async fn share_filters(
        &self,
        _: Vec<FilterHeard>,
        _: Duration,
    ) -> Result<Option<Vec<FilterHeard>>, LedgerError> {
        Ok(None)
    }

    async fn take_duty(&self, _: Duty, _: WorkerId, _: Duration) -> Result<bool, LedgerError> {
        Ok(true)
    }

    async fn close(&self) {
        self.writer.close().await;
        self.readers.close();
    }
}

#[cfg(test)]
mod tests;
