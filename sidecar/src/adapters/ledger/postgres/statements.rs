//! The SQL, one function per call of the port. What changes something runs inside a transaction.
//!
//! The transactions are READ COMMITTED: each statement sees what was committed when it began. A
//! decision that takes more than one statement is guarded by a [`Lock`], taken in a statement
//! before them, since a snapshot taken while waiting for a lock would be too old.

mod accounts;
mod claims;
mod closes;
mod columns;
mod keys;
mod leases;
mod offers;
mod refund_changes;
mod refund_work;
mod revoked_key;
mod sessions;
mod shared;

use deadpool_postgres::GenericClient;
use tokio_postgres::IsolationLevel;

pub(super) use self::claims::{abandon, claim_all, drop_old_claims};
pub(super) use self::closes::{begin_close, drop_old_results, ending, record_answer};
use self::columns::validity;
pub(super) use self::columns::{array, signed, unsigned};
pub(super) use self::keys::{begin_rotation, install_first_key, promote, prune_expired, revoke};
pub(super) use self::leases::{Heard, hear, report_leases, stop_unused, sweep_leases};
pub(super) use self::offers::{
    drop_expired_tokens, drop_unpaid, find_offer, find_sale, outstanding, record_offers,
    record_settlements, sales, settle_index, unpaid,
};
pub(super) use self::refund_changes::{move_refund, replace_return_invoice};
#[cfg(test)]
pub(super) use self::refund_work::COUNTS;
pub(super) use self::refund_work::{
    RefundKey, begin_sending, find_refund, is_refund_due, keep_refund, record_refund,
    refund_counts, refunds_under_way, take_refund, unpaid_refunds,
};
pub(super) use self::revoked_key::{generation_use, revoke_generation};
pub(super) use self::sessions::{
    find_session, open_session, recorded_deposit, session_counts, top_up,
};
pub(super) use self::shared::{share_filters, take_duty};
use super::failure::Failure;
use crate::domain::deny_list::{DenyList, Revocation, Version};
use crate::domain::ledger::{Epoch, Snapshot};

type Result<T> = std::result::Result<T, Failure>;

/// First half of the names of our advisory locks: `BtGt`.
const LOCKS: i32 = 0x4274_4774;

/// Milliseconds since 1970 by the database's clock.
const NOW_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// What transactions hold until they end, so that some never run side by side. Each transaction
/// takes one at most, and first of all.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// Schema changes.
    Schema = 1,
    /// Key generations and deny list: changed by one at a time, while nobody issues.
    Keys = 2,
    /// Claims go side by side, since the primary key lets only one win; but no abandoning beside
    /// them. A claim that has looked for abandoned attempts and not committed yet is invisible to
    /// an abandoning, and the other way round: both would succeed.
    Claims = 3,
    /// Return invoices: a session is opened with one while no refund is given another.
    Returns = 4,
    /// What is under way of refunds, which has caps.
    Caps = 5,
}

/// Milliseconds since 1970 by the database's clock. After a lock was waited for.
pub(super) async fn now_ms(db: &impl GenericClient) -> Result<u64> {
    let query = db.prepare_cached(&format!("SELECT {NOW_MS}")).await?;
    unsigned(&db.query_one(&query, &[]).await?, 0)
}

/// Waits until nobody else has `lock`.
pub(super) async fn alone(db: &impl GenericClient, lock: Lock) -> Result<()> {
    let take = db
        .prepare_cached("SELECT pg_advisory_xact_lock($1, $2)")
        .await?;
    db.execute(&take, &[&LOCKS, &(lock as i32)]).await?;
    Ok(())
}

/// Waits until nobody has `lock` [alone].
pub(super) async fn beside_others(db: &impl GenericClient, lock: Lock) -> Result<()> {
    let take = db
        .prepare_cached("SELECT pg_advisory_xact_lock_shared($1, $2)")
        .await?;
    db.execute(&take, &[&LOCKS, &(lock as i32)]).await?;
    Ok(())
}

pub(super) async fn version(db: &impl GenericClient) -> Result<Version> {
    let query = db
        .prepare_cached("SELECT version FROM instance WHERE id = 1")
        .await?;
    Ok(Version(unsigned(&db.query_one(&query, &[]).await?, 0)?))
}

/// A new version for a change made now.
async fn next_version(db: &impl GenericClient, now_millis: u64) -> Result<Version> {
    let query = db
        .prepare_cached(
            "UPDATE instance SET version = greatest(version + 1, $1) WHERE id = 1
             RETURNING version",
        )
        .await?;
    let row = db.query_one(&query, &[&signed(now_millis)]).await?;
    Ok(Version(unsigned(&row, 0)?))
}

/// From one look at the database.
pub(super) async fn snapshot(client: &mut deadpool_postgres::ClientWrapper) -> Result<Snapshot> {
    let tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let instance = tx
        .prepare_cached("SELECT epoch, version, revocation_floor FROM instance WHERE id = 1")
        .await?;
    let instance = tx.query_one(&instance, &[]).await?;
    let query = tx
        .prepare_cached(
            "SELECT identifier_hash, added_version, expires_at, removed_version FROM revocations",
        )
        .await?;
    let mut revocations = Vec::new();
    for row in tx.query(&query, &[]).await? {
        let removed: Option<i64> = row.try_get(3)?;
        revocations.push(Revocation {
            identifier_hash: array(&row, 0)?,
            added: Version(unsigned(&row, 1)?),
            expires: validity(&row, 2)?,
            removed: removed.map(|version| Version(version.unsigned_abs())),
        });
    }
    let generations = keys::generations(&tx).await?;
    tx.commit().await?;
    Ok(Snapshot {
        epoch: Epoch(array(&instance, 0)?),
        version: Version(unsigned(&instance, 1)?),
        generations,
        deny_list: DenyList::new(revocations, Version(unsigned(&instance, 2)?)),
    })
}
