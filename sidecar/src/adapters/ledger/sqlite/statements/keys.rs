//! Key generations and the deny list.

use std::time::Duration;

use protocol::api::{KeyState, MAX_REVOCATIONS};
use protocol::keys::MasterSecret;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, Row, params};

use super::columns::{end_of, signed, unsigned};
use super::{Result, next_version};
use crate::domain::deny_list::{EXPIRY_GRACE_SECONDS, Version};
use crate::domain::keys::{self, Generation, KeySource, NewKey};
use crate::domain::ledger::{LedgerError, NewRevocation};
use crate::domain::offer::Validity;

/// Filters that were away for longer than this get the whole deny list instead of its changes.
const REMEMBER_REMOVALS_MILLIS: u64 = 3_600_000;

pub(super) fn generations(db: &Connection) -> Result<Vec<Generation>> {
    let rows = db
        .prepare_cached(
            "SELECT id, state, secret, fingerprint, issued_until, issued_forever, added_version,
                    created_at
             FROM key_generations ORDER BY id",
        )?
        .query_map([], generation)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

fn generation(row: &Row<'_>) -> rusqlite::Result<Generation> {
    let until: Option<i64> = row.get(4)?;
    let forever: bool = row.get(5)?;
    let until = until.map(|end| Validity::Until(UnixSeconds(end.unsigned_abs())));
    Ok(Generation {
        id: row.get(0)?,
        state: match row.get_ref(1)?.as_str()? {
            "next" => KeyState::Next,
            "current" => KeyState::Current,
            _ => KeyState::Retired,
        },
        source: row
            .get::<_, Option<[u8; 32]>>(2)?
            .map_or(KeySource::File, |bytes| {
                KeySource::Ledger(MasterSecret::new(bytes))
            }),
        fingerprint: row.get(3)?,
        issued: if forever {
            Some(Validity::Forever)
        } else {
            until
        },
        added: Version(unsigned(row, 6)?),
        created: UnixSeconds(unsigned(row, 7)?),
    })
}

fn insert_generation(
    db: &Connection,
    id: u8,
    state: &str,
    key: &NewKey,
    now_millis: u64,
) -> Result<()> {
    let version = next_version(db, now_millis)?;
    let secret = match &key.source {
        KeySource::Ledger(master) => Some(master.expose()),
        KeySource::File => None,
    };
    db.prepare_cached(
        "INSERT INTO key_generations (id, state, secret, fingerprint, added_version, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        id,
        state,
        secret,
        key.fingerprint,
        signed(version.0),
        signed(now_millis / 1_000)
    ])?;
    Ok(())
}

pub(in super::super) fn install_first_key(
    db: &Connection,
    key: &NewKey,
    now_millis: u64,
) -> Result<()> {
    if generations(db)?.is_empty() {
        insert_generation(db, 0, "current", key, now_millis)?;
    }
    Ok(())
}

pub(in super::super) fn begin_rotation(
    db: &Connection,
    key: &NewKey,
    now_millis: u64,
) -> Result<u8> {
    let id = keys::plan_rotation(&generations(db)?, key)?;
    insert_generation(db, id, "next", key, now_millis)?;
    Ok(id)
}

pub(in super::super) fn promote(
    db: &Connection,
    id: u8,
    now_millis: u64,
    kept: Duration,
) -> Result<bool> {
    let is_next: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM key_generations WHERE id = ?1 AND state = 'next')",
        )?
        .query_row([id], |row| row.get(0))?;
    if !is_next {
        return Ok(false);
    }
    let until = (now_millis / 1_000).saturating_add(kept.as_secs());
    db.execute(
        "UPDATE key_generations
         SET state = 'retired', issued_until = max(coalesce(issued_until, 0), ?1)
         WHERE state = 'current'",
        [signed(until)],
    )?;
    db.execute(
        "UPDATE key_generations SET state = 'current' WHERE id = ?1",
        [id],
    )?;
    next_version(db, now_millis)?;
    Ok(true)
}

pub(in super::super) fn prune_expired(db: &Connection, now_millis: u64) -> Result<usize> {
    let now = UnixSeconds(now_millis / 1_000);
    let mut spent = 0;
    for generation in generations(db)?.iter().filter(|g| g.is_spent(now)) {
        spent += db.execute(
            "DELETE FROM key_generations WHERE id = ?1 AND NOT EXISTS (
                SELECT 1 FROM sessions WHERE state <> 'closed' AND generation = ?1)
             AND NOT EXISTS (
                SELECT 1 FROM sessions WHERE state <> 'closed' AND newest_generation = ?1)",
            [generation.id],
        )?;
    }
    let obsolete: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
                            WHERE removed_version IS NULL AND expires_at < ?1)",
        )?
        .query_row(
            [signed(now.0.saturating_sub(EXPIRY_GRACE_SECONDS))],
            |row| row.get(0),
        )?;
    let mut changed = spent;
    if obsolete || changed > 0 {
        let version = next_version(db, now_millis)?;
        changed += db.execute(
            "UPDATE revocations SET removed_version = ?1
             WHERE removed_version IS NULL AND expires_at < ?2",
            [
                signed(version.0),
                signed(now.0.saturating_sub(EXPIRY_GRACE_SECONDS)),
            ],
        )?;
    }
    forget_old_removals(db, now_millis.saturating_sub(REMEMBER_REMOVALS_MILLIS))?;
    Ok(changed)
}

/// A version is at least the milliseconds of its time, and in practice hardly more.
fn forget_old_removals(db: &Connection, before: u64) -> Result<()> {
    let newest: Option<i64> = db
        .prepare_cached("SELECT max(removed_version) FROM revocations WHERE removed_version < ?1")?
        .query_row([signed(before)], |row| row.get(0))?;
    if let Some(newest) = newest {
        db.execute(
            "DELETE FROM revocations WHERE removed_version <= ?1",
            [newest],
        )?;
        db.execute(
            "UPDATE instance SET revocation_floor = max(revocation_floor, ?1) WHERE id = 1",
            [newest],
        )?;
    }
    Ok(())
}

pub(in super::super) fn revoke(
    db: &Connection,
    revocation: &NewRevocation,
    now_millis: u64,
) -> Result<bool> {
    let known: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
                            WHERE identifier_hash = ?1 AND removed_version IS NULL)",
        )?
        .query_row([revocation.identifier_hash], |row| row.get(0))?;
    if known {
        return Ok(false);
    }
    let count = db
        .prepare_cached("SELECT count(*) FROM revocations WHERE removed_version IS NULL")?
        .query_row([], |row| unsigned(row, 0))?;
    if count >= MAX_REVOCATIONS as u64 {
        return Err(LedgerError::DenyListFull);
    }
    let version = next_version(db, now_millis)?;
    db.prepare_cached(
        "INSERT INTO revocations (identifier_hash, added_version, expires_at, created_at)
         VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (identifier_hash) DO UPDATE SET
            added_version = excluded.added_version, expires_at = excluded.expires_at,
            removed_version = NULL, created_at = excluded.created_at",
    )?
    .execute(params![
        revocation.identifier_hash,
        signed(version.0),
        end_of(revocation.expires),
        signed(revocation.at.0)
    ])?;
    Ok(true)
}
