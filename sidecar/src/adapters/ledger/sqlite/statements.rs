//! The SQL, one function per call of the port. Each runs inside a transaction.

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

use rusqlite::Connection;

pub(super) use self::claims::{abandon, claim, drop_old_claims};
pub(super) use self::closes::{begin_close, drop_old_results, ending, record_answer};
use self::columns::{signed, unsigned, validity};
pub(super) use self::keys::{begin_rotation, install_first_key, promote, prune_expired, revoke};
pub(super) use self::leases::{report_leases, sweep_leases};
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
    begin_serving, find_session, open_session, recorded_deposit, session_counts, stop_unused,
    top_up,
};
use crate::domain::deny_list::{DenyList, Revocation, Version};
use crate::domain::ledger::{Epoch, LedgerError, Snapshot};

type Result<T> = std::result::Result<T, LedgerError>;

pub(super) fn version(db: &Connection) -> Result<Version> {
    let version = db
        .prepare_cached("SELECT version FROM instance WHERE id = 1")?
        .query_row([], |row| unsigned(row, 0))?;
    Ok(Version(version))
}

/// A new version for a change made now.
fn next_version(db: &Connection, now_millis: u64) -> Result<Version> {
    let version = db
        .prepare_cached(
            "UPDATE instance SET version = max(version + 1, ?1) WHERE id = 1 RETURNING version",
        )?
        .query_row([signed(now_millis)], |row| unsigned(row, 0))?;
    Ok(Version(version))
}

pub(super) fn snapshot(db: &Connection) -> Result<Snapshot> {
    let (epoch, version, floor) = db
        .prepare_cached("SELECT epoch, version, revocation_floor FROM instance WHERE id = 1")?
        .query_row([], |row| {
            Ok((
                Epoch(row.get(0)?),
                Version(unsigned(row, 1)?),
                Version(unsigned(row, 2)?),
            ))
        })?;
    let revocations = db
        .prepare_cached(
            "SELECT identifier_hash, added_version, expires_at, removed_version FROM revocations",
        )?
        .query_map([], |row| {
            Ok(Revocation {
                identifier_hash: row.get(0)?,
                added: Version(unsigned(row, 1)?),
                expires: validity(row, 2)?,
                removed: row
                    .get::<_, Option<i64>>(3)?
                    .map(|v| Version(v.unsigned_abs())),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Snapshot {
        epoch,
        version,
        generations: keys::generations(db)?,
        deny_list: DenyList::new(revocations, floor),
    })
}
