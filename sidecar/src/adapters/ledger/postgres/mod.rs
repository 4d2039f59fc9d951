//! The ledger in a PostgreSQL database, for several sidecars at once.
//!
//! The driver is tokio-postgres with deadpool's pool: the SQL is written for PostgreSQL and uses
//! what it has (arrays of rows, advisory locks, `SKIP LOCKED`), as the SQLite adapter's uses what
//! that has, so a common dialect would be in the way. What a call has returned from is committed
//! with `synchronous_commit=on`. Decisions are one statement, or one transaction under a lock
//! ([`statements`]); claims that wait share a transaction ([`writer`]); what another transaction
//! has crossed is tried again ([`failure`]). Every call ends within [`session::DEADLINE`], whatever
//! the database does, and a connection that was lost is replaced by the next call.

mod books;
mod connect;
mod failure;
mod migrate;
mod refunds;
mod session;
mod sessions;
mod statements;
mod tls;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

use self::connect::Connections;
use self::session::{LONG_DEADLINE, ask, change};
use self::writer::Writer;
use super::Migration;
use super::sqlite::Commit;
use crate::config::PostgresConfig;
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

/// Told of each commit of claims.
pub type Observer = Arc<dyn Fn(Commit) + Send + Sync>;

/// A ledger in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresLedger {
    pool: Connections,
    claims: Writer,
}

impl PostgresLedger {
    /// Connects and brings the schema up to date, or only looks at it.
    ///
    /// # Errors
    /// The database cannot be reached, is something else, or its schema is of another version.
    pub async fn open(config: &PostgresConfig, migration: Migration) -> Result<Self, LedgerError> {
        Self::open_observed(config, migration, Arc::new(|_| {})).await
    }

    /// As [`Self::open`]; `observer` is told of every commit of claims.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_observed(
        config: &PostgresConfig,
        migration: Migration,
        observer: Observer,
    ) -> Result<Self, LedgerError> {
        let pool = connect::pool(config)?;
        migrate::migrate(&pool, migration).await?;
        let claims = Writer::start(&pool, &observer);
        Ok(Self { pool, claims })
    }
}

impl Ledger for PostgresLedger {
    async fn now_millis(&self) -> Result<Option<u64>, LedgerError> {
        let now: Result<u64, LedgerError> = ask!(self.pool, |db| statements::now_ms(db));
        now.map(Some)
    }

    async fn version(&self) -> Result<Version, LedgerError> {
        ask!(self.pool, |db| statements::version(db))
    }

    async fn snapshot(&self) -> Result<Snapshot, LedgerError> {
        ask!(self.pool, |db| statements::snapshot(db))
    }

    async fn install_first_key(&self, key: NewKey, now_millis: u64) -> Result<(), LedgerError> {
        change!(self.pool, |tx| statements::install_first_key(
            &tx, &key, now_millis
        ))
    }

    async fn begin_rotation(&self, key: NewKey, now_millis: u64) -> Result<u8, LedgerError> {
        change!(self.pool, |tx| statements::begin_rotation(
            &tx, &key, now_millis
        ))
    }

    async fn promote(&self, id: u8, now_millis: u64, kept: Duration) -> Result<bool, LedgerError> {
        change!(self.pool, |tx| statements::promote(
            &tx, id, now_millis, kept
        ))
    }

    async fn generation_use(&self, id: u8, now: UnixSeconds) -> Result<GenerationUse, LedgerError> {
        ask!(self.pool, LONG_DEADLINE, |db| async {
            let tx = books::long_read(db).await?;
            let found = statements::generation_use(&tx, id, now).await?;
            tx.commit().await?;
            Ok(found)
        })
    }

    /// Counted before, since that may take long, and a key that has leaked is to end soon.
    async fn revoke_generation(
        &self,
        id: u8,
        now_millis: u64,
    ) -> Result<GenerationUse, LedgerError> {
        let now = UnixSeconds(now_millis / 1_000);
        let found = self.generation_use(id, now).await?;
        let revoked: Result<(), LedgerError> = change!(self.pool, |tx| {
            statements::revoke_generation(&tx, id, now_millis)
        });
        revoked.map(|()| found)
    }

    async fn prune_expired(&self, now_millis: u64) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::prune_expired(&tx, now_millis))
    }

    async fn revoke(
        &self,
        revocation: NewRevocation,
        now_millis: u64,
    ) -> Result<bool, LedgerError> {
        change!(self.pool, |tx| statements::revoke(
            &tx,
            &revocation,
            now_millis
        ))
    }

    async fn record_offers(&self, batch: OfferBatch) -> Result<(), LedgerError> {
        change!(self.pool, |tx| statements::record_offers(&tx, &batch))
    }

    async fn record_settlements(
        &self,
        node: NodeId,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Sale>, LedgerError> {
        change!(self.pool, |tx| statements::record_settlements(
            &tx,
            node,
            &settlements
        ))
    }

    async fn settle_index(&self, node: NodeId) -> Result<u64, LedgerError> {
        ask!(self.pool, |db| statements::settle_index(db, node))
    }

    async fn outstanding(&self, node: Option<NodeId>) -> Result<u64, LedgerError> {
        ask!(self.pool, |db| statements::outstanding(db, node))
    }

    async fn unpaid(
        &self,
        node: NodeId,
        after: Option<PaymentHash>,
        expired_before: UnixSeconds,
        limit: u32,
    ) -> Result<Vec<PaymentHash>, LedgerError> {
        ask!(self.pool, |db| statements::unpaid(
            db,
            node,
            after,
            expired_before,
            limit
        ))
    }

    async fn drop_unpaid(&self, hashes: Vec<PaymentHash>) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::drop_unpaid(&tx, &hashes))
    }

    async fn drop_expired_tokens(
        &self,
        before: UnixSeconds,
        limit: u32,
    ) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::drop_expired_tokens(
            &tx, before, limit
        ))
    }

    async fn find_offer(&self, name: OfferName) -> Result<Option<OfferRow>, LedgerError> {
        ask!(self.pool, |db| statements::find_offer(db, name))
    }

    async fn sales(&self, since: UnixSeconds, limit: u32) -> Result<Vec<Sale>, LedgerError> {
        ask!(self.pool, LONG_DEADLINE, |db| statements::sales(
            db, since, limit
        ))
    }

    async fn claim(&self, claim: NewClaim, times: ClaimTimes) -> Result<Claimed, LedgerError> {
        self.claims.claim(claim, times).await
    }

    async fn abandon(&self, attempts: Vec<(PaymentHash, AttemptId)>) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::abandon(&tx, &attempts))
    }

    async fn drop_old_claims(&self, times: ClaimTimes, limit: u32) -> Result<usize, LedgerError> {
        change!(self.pool, |tx| statements::drop_old_claims(
            &tx, &times, limit
        ))
    }

    async fn share_filters(
        &self,
        heard: Vec<FilterHeard>,
        window: Duration,
    ) -> Result<Option<Vec<FilterHeard>>, LedgerError> {
        let all: Result<_, LedgerError> = change!(self.pool, |tx| statements::share_filters(
            &tx, &heard, window
        ));
        all.map(Some)
    }

    async fn take_duty(
        &self,
        duty: Duty,
        process: WorkerId,
        time: Duration,
    ) -> Result<bool, LedgerError> {
        change!(self.pool, |tx| statements::take_duty(
            &tx, duty, process, time
        ))
    }

    async fn close(&self) {
        self.claims.close().await;
        self.pool.close();
    }
}

#[cfg(test)]
mod tests;
