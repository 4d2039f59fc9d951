//! Key generations and the deny list.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use protocol::api::{KeyState, MAX_REVOCATIONS};
use protocol::keys::MasterSecret;
use protocol::time::UnixSeconds;
use tokio_postgres::Row;

use super::columns::{array, end_of, signed, unsigned};
use super::offers::count;
use super::{Lock, Result, alone, next_version, now_ms};
use crate::domain::deny_list::{EXPIRY_GRACE_SECONDS, Version};
use crate::domain::keys::{self, Generation, KeySource, NewKey};
use crate::domain::ledger::{LedgerError, NewRevocation};
use crate::domain::offer::Validity;

/// Filters that were away for longer than this get the whole deny list instead of its changes.
const REMEMBER_REMOVALS_MILLIS: u64 = 3_600_000;

pub(super) async fn generations(db: &impl GenericClient) -> Result<Vec<Generation>> {
    let query = db
        .prepare_cached(
            "SELECT id, state, secret, fingerprint, issued_until, issued_forever, added_version,
                    created_at
             FROM key_generations ORDER BY id",
        )
        .await?;
    let rows = db.query(&query, &[]).await?;
    rows.iter().map(generation).collect()
}

fn generation(row: &Row) -> Result<Generation> {
    let until: Option<i64> = row.try_get(4)?;
    let until = until.map(|end| Validity::Until(UnixSeconds(end.unsigned_abs())));
    let is_ours = row.try_get::<_, Option<&[u8]>>(2)?.is_some();
    Ok(Generation {
        id: row.try_get::<_, i16>(0)?.to_le_bytes()[0],
        state: match row.try_get(1)? {
            "next" => KeyState::Next,
            "current" => KeyState::Current,
            _ => KeyState::Retired,
        },
        source: match is_ours {
            true => KeySource::Ledger(MasterSecret::new(array(row, 2)?)),
            false => KeySource::File,
        },
        fingerprint: array(row, 3)?,
        issued: match row.try_get(5)? {
            true => Some(Validity::Forever),
            false => until,
        },
        added: Version(unsigned(row, 6)?),
        created: UnixSeconds(unsigned(row, 7)?),
    })
}

async fn insert_generation(
    db: &impl GenericClient,
    id: u8,
    state: &str,
    key: &NewKey,
    now_millis: u64,
) -> Result<()> {
    let version = next_version(db, now_millis).await?;
    let secret: Option<&[u8]> = match &key.source {
        KeySource::Ledger(master) => Some(master.expose()),
        KeySource::File => None,
    };
    let insert = db
        .prepare_cached(
            "INSERT INTO key_generations (id, state, secret, fingerprint, added_version, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .await?;
    db.execute(
        &insert,
        &[
            &i16::from(id),
            &state,
            &secret,
            &&key.fingerprint[..],
            &signed(version.0),
            &signed(now_millis / 1_000),
        ],
    )
    .await?;
    Ok(())
}

pub(in super::super) async fn install_first_key(
    db: &impl GenericClient,
    key: &NewKey,
    now_millis: u64,
) -> Result<()> {
    alone(db, Lock::Keys).await?;
    if generations(db).await?.is_empty() {
        insert_generation(db, 0, "current", key, now_millis).await?;
    }
    Ok(())
}

pub(in super::super) async fn begin_rotation(
    db: &impl GenericClient,
    key: &NewKey,
    now_millis: u64,
) -> Result<u8> {
    alone(db, Lock::Keys).await?;
    let id = keys::plan_rotation(&generations(db).await?, key)?;
    insert_generation(db, id, "next", key, now_millis).await?;
    Ok(id)
}

pub(in super::super) async fn promote(
    db: &impl GenericClient,
    id: u8,
    now_millis: u64,
    kept: Duration,
) -> Result<bool> {
    alone(db, Lock::Keys).await?;
    let all = generations(db).await?;
    if !all.iter().any(|g| g.id == id && g.state == KeyState::Next) {
        return Ok(false);
    }
    let until = (now_millis / 1_000).saturating_add(kept.as_secs());
    let retire = db
        .prepare_cached(
            "UPDATE key_generations
             SET state = 'retired', issued_until = greatest(issued_until, $1)
             WHERE state = 'current'",
        )
        .await?;
    db.execute(&retire, &[&signed(until)]).await?;
    let advance = db
        .prepare_cached("UPDATE key_generations SET state = 'current' WHERE id = $1")
        .await?;
    db.execute(&advance, &[&i16::from(id)]).await?;
    next_version(db, now_millis).await?;
    Ok(true)
}

pub(in super::super) async fn prune_expired(
    db: &impl GenericClient,
    now_millis: u64,
) -> Result<usize> {
    alone(db, Lock::Keys).await?;
    // What is deleted here is gone for all sidecars: not on the word of one clock.
    let now_millis = now_millis.min(now_ms(db).await?);
    let now = UnixSeconds(now_millis / 1_000);
    let generations = generations(db).await?;
    let spent: Vec<i16> = generations
        .iter()
        .filter(|g| g.is_spent(now))
        .map(|g| i16::from(g.id))
        .collect();
    let delete = db
        .prepare_cached(
            "DELETE FROM key_generations WHERE id = ANY($1) AND NOT EXISTS (
                SELECT 1 FROM sessions WHERE state <> 'closed' AND generation = id)
             AND NOT EXISTS (
                SELECT 1 FROM sessions WHERE state <> 'closed' AND newest_generation = id)",
        )
        .await?;
    let deleted = db.execute(&delete, &[&spent]).await?;
    let over = signed(now.0.saturating_sub(EXPIRY_GRACE_SECONDS));
    let query = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
                            WHERE removed_version IS NULL AND expires_at < $1)",
        )
        .await?;
    let obsolete: bool = db.query_one(&query, &[&over]).await?.try_get(0)?;
    let mut changed = count(deleted);
    if obsolete || changed > 0 {
        let version = next_version(db, now_millis).await?;
        let remove = db
            .prepare_cached(
                "UPDATE revocations SET removed_version = $1
                 WHERE removed_version IS NULL AND expires_at < $2",
            )
            .await?;
        let removed = db.execute(&remove, &[&signed(version.0), &over]).await?;
        changed = changed.saturating_add(count(removed));
    }
    forget_old_removals(db, now_millis.saturating_sub(REMEMBER_REMOVALS_MILLIS)).await?;
    Ok(changed)
}

/// A version is at least the milliseconds of its time, and in practice hardly more.
async fn forget_old_removals(db: &impl GenericClient, before: u64) -> Result<()> {
    let query = db
        .prepare_cached("SELECT max(removed_version) FROM revocations WHERE removed_version < $1")
        .await?;
    let newest: Option<i64> = db.query_one(&query, &[&signed(before)]).await?.try_get(0)?;
    let Some(newest) = newest else { return Ok(()) };
    for change in [
        "DELETE FROM revocations WHERE removed_version <= $1",
        "UPDATE instance SET revocation_floor = greatest(revocation_floor, $1) WHERE id = 1",
    ] {
        let change = db.prepare_cached(change).await?;
        db.execute(&change, &[&newest]).await?;
    }
    Ok(())
}

pub(in super::super) async fn revoke(
    db: &impl GenericClient,
    revocation: &NewRevocation,
    now_millis: u64,
) -> Result<bool> {
    alone(db, Lock::Keys).await?;
    let hash = &revocation.identifier_hash[..];
    let query = db
        .prepare_cached(
            "SELECT count(*), count(*) FILTER (WHERE identifier_hash = $1) > 0
             FROM revocations WHERE removed_version IS NULL",
        )
        .await?;
    let row = db.query_one(&query, &[&hash]).await?;
    if row.try_get(1)? {
        return Ok(false);
    }
    if unsigned(&row, 0)? >= MAX_REVOCATIONS as u64 {
        return Err(LedgerError::DenyListFull.into());
    }
    let version = next_version(db, now_millis).await?;
    let insert = db
        .prepare_cached(
            "INSERT INTO revocations (identifier_hash, added_version, expires_at, created_at)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (identifier_hash) DO UPDATE SET
                added_version = excluded.added_version, expires_at = excluded.expires_at,
                removed_version = NULL, created_at = excluded.created_at",
        )
        .await?;
    db.execute(
        &insert,
        &[
            &hash,
            &signed(version.0),
            &end_of(revocation.expires),
            &signed(revocation.at.0),
        ],
    )
    .await?;
    Ok(true)
}
