//! The end of a key generation that somebody else may know.

use deadpool_postgres::GenericClient;
use protocol::api::KeyState;
use protocol::time::UnixSeconds;

use super::columns::{signed, unsigned};
use super::keys::generations;
use super::{Lock, Result, alone, next_version};
use crate::domain::ledger::{GenerationUse, LedgerError};

/// The token ids of a generation: they begin with its number. No end for the last one.
fn token_ids(id: u8) -> ([u8; 1], Option<[u8; 1]>) {
    ([id], id.checked_add(1).map(|next| [next]))
}

pub(in super::super) async fn generation_use(
    db: &impl GenericClient,
    id: u8,
    now: UnixSeconds,
) -> Result<GenerationUse> {
    must_be_retired(db, id).await?;
    let (from, to) = token_ids(id);
    let query = db
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE state = 'settled'
                                     AND (valid_until IS NULL OR valid_until > $3)),
                    count(*) FILTER (WHERE state = 'offered'),
                    (SELECT count(*) FROM sessions
                     WHERE state <> 'closed' AND (generation = $4 OR newest_generation = $4))
             FROM offers WHERE token_id >= $1 AND ($2::bytea IS NULL OR token_id < $2)",
        )
        .await?;
    let to = to.as_ref().map(|to| &to[..]);
    let row = db
        .query_one(&query, &[&&from[..], &to, &signed(now.0), &i16::from(id)])
        .await?;
    Ok(GenerationUse {
        sold: unsigned(&row, 0)?,
        unpaid: unsigned(&row, 1)?,
        sessions: unsigned(&row, 2)?,
    })
}

async fn must_be_retired(db: &impl GenericClient, id: u8) -> Result<()> {
    let all = generations(db).await?;
    let found = all.iter().find(|generation| generation.id == id);
    let state = found.map(|generation| generation.state);
    if state != Some(KeyState::Retired) {
        return Err(LedgerError::NotRetired { id, state }.into());
    }
    Ok(())
}

/// Nobody issues meanwhile, so nothing is counted here.
pub(in super::super) async fn revoke_generation(
    db: &impl GenericClient,
    id: u8,
    now_millis: u64,
) -> Result<()> {
    alone(db, Lock::Keys).await?;
    must_be_retired(db, id).await?;
    let delete = db
        .prepare_cached("DELETE FROM key_generations WHERE id = $1")
        .await?;
    db.execute(&delete, &[&i16::from(id)]).await?;
    // The sweep then takes them for expired and cancels their invoices.
    let (from, to) = token_ids(id);
    let to = to.as_ref().map(|to| &to[..]);
    let expire = db
        .prepare_cached(
            "UPDATE offers SET expires_at = created_at
             WHERE state = 'offered' AND token_id >= $1 AND ($2::bytea IS NULL OR token_id < $2)",
        )
        .await?;
    db.execute(&expire, &[&&from[..], &to]).await?;
    next_version(db, now_millis).await?;
    Ok(())
}
