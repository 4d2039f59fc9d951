//! The end of a key generation that somebody else may know.

use protocol::api::KeyState;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, params};

use super::columns::{signed, unsigned};
use super::keys::generations;
use super::{Result, next_version};
use crate::domain::ledger::{GenerationUse, LedgerError};

/// The token ids of a generation: they begin with its number. No end for the last one.
fn token_ids(id: u8) -> ([u8; 1], Option<[u8; 1]>) {
    ([id], id.checked_add(1).map(|next| [next]))
}

pub(in super::super) fn generation_use(
    db: &Connection,
    id: u8,
    now: UnixSeconds,
) -> Result<GenerationUse> {
    let state = generations(db)?
        .iter()
        .find(|generation| generation.id == id)
        .map(|generation| generation.state);
    if state != Some(KeyState::Retired) {
        return Err(LedgerError::NotRetired { id, state });
    }
    let (from, to) = token_ids(id);
    let found = db
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE state = 'settled'
                                     AND (valid_until IS NULL OR valid_until > ?3)),
                    count(*) FILTER (WHERE state = 'offered'),
                    (SELECT count(*) FROM sessions
                     WHERE state <> 'closed' AND (generation = ?4 OR newest_generation = ?4))
             FROM offers WHERE token_id >= ?1 AND (?2 IS NULL OR token_id < ?2)",
        )?
        .query_row(params![from, to, signed(now.0), id], |row| {
            Ok(GenerationUse {
                sold: unsigned(row, 0)?,
                unpaid: unsigned(row, 1)?,
                sessions: unsigned(row, 2)?,
            })
        })?;
    Ok(found)
}

pub(in super::super) fn revoke_generation(
    db: &Connection,
    id: u8,
    now_millis: u64,
) -> Result<GenerationUse> {
    let found = generation_use(db, id, UnixSeconds(now_millis / 1_000))?;
    db.execute("DELETE FROM key_generations WHERE id = ?1", [id])?;
    // The sweep then takes them for expired and cancels their invoices.
    let (from, to) = token_ids(id);
    db.execute(
        "UPDATE offers SET expires_at = created_at
         WHERE state = 'offered' AND token_id >= ?1 AND (?2 IS NULL OR token_id < ?2)",
        params![from, to],
    )?;
    next_version(db, now_millis)?;
    Ok(found)
}
