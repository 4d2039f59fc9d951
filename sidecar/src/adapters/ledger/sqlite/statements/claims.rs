//! Claims of payments, and the attempts that were abandoned.

use std::time::Duration;

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Result;
use super::columns::{signed, unsigned};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::session::{CallKind, CallMark};

/// Deposits are claimed by no attempt of a filter.
const NO_ATTEMPT: [u8; 16] = [0; 16];

/// `now_millis`: when the transaction runs, by the clock of this machine, which all processes on
/// this file share.
pub(in super::super) fn claim(
    db: &Connection,
    claim: &NewClaim,
    times: &ClaimTimes,
    now_millis: u64,
) -> Result<Claimed> {
    let forgotten = claim.expires.0.saturating_add(times.kept.as_secs());
    if forgotten <= now_millis / 1_000 {
        return Ok(Claimed::Lost);
    }
    let inserted = db
        .prepare_cached(
            "INSERT INTO claims (payment_hash, purpose, attempt, challenge_id, service, amount_sat,
                                 expires_at, claimed_ms)
             SELECT ?1, 'charge', ?2, ?3, ?4, ?5, ?6, ?7
             WHERE NOT EXISTS (SELECT 1 FROM abandoned_attempts
                               WHERE payment_hash = ?1 AND attempt = ?2)
             ON CONFLICT (payment_hash) DO NOTHING",
        )?
        .execute(params![
            claim.payment_hash.0,
            claim.attempt.0,
            claim.challenge_id,
            claim.service,
            signed(claim.amount.get()),
            signed(claim.expires.0),
            signed(now_millis)
        ])?;
    if inserted == 1 {
        return Ok(Claimed::Won);
    }
    let holder = db
        .prepare_cached(
            "SELECT attempt, claimed_ms, purpose = 'charge' FROM claims WHERE payment_hash = ?1",
        )?
        .query_row([claim.payment_hash.0], |row| {
            Ok((AttemptId(row.get(0)?), unsigned(row, 1)?, row.get(2)?))
        })
        .optional()?;
    Ok(match holder {
        // A deposit is never abandoned.
        Some((_, _, false)) => Claimed::Lost,
        Some((attempt, ..)) if attempt == claim.attempt => Claimed::Won,
        Some((_, claimed, _)) if is_young(claimed, now_millis, times) => Claimed::Busy,
        Some(_) => Claimed::Lost,
        // Only this attempt is barred; nobody has used the payment.
        None => Claimed::Busy,
    })
}

/// Claims the payment of a deposit for good. `false` if it was claimed before, for whatever.
pub(super) fn claim_deposit(
    db: &Connection,
    purpose: CallKind,
    call: &CallMark,
    service: &str,
    amount: Sat,
    now_millis: u64,
) -> Result<bool> {
    let inserted = db
        .prepare_cached(
            "INSERT INTO claims (payment_hash, purpose, attempt, challenge_id, service, amount_sat,
                                 expires_at, claimed_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (payment_hash) DO NOTHING",
        )?
        .execute(params![
            call.payment_hash.0,
            purpose.as_str(),
            NO_ATTEMPT,
            call.challenge_id,
            service,
            signed(amount.get()),
            signed(call.expires.0),
            signed(now_millis)
        ])?;
    Ok(inserted == 1)
}

fn is_young(claimed_millis: u64, now_millis: u64, times: &ClaimTimes) -> bool {
    Duration::from_millis(now_millis.saturating_sub(claimed_millis)) < times.young
}

pub(in super::super) fn abandon(
    db: &Connection,
    attempts: &[(PaymentHash, AttemptId)],
    now_millis: u64,
) -> Result<usize> {
    let mut remember = db.prepare_cached(
        "INSERT INTO abandoned_attempts (payment_hash, attempt, abandoned_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
    )?;
    let mut let_go = db.prepare_cached(
        "DELETE FROM claims WHERE payment_hash = ?1 AND attempt = ?2 AND purpose = 'charge'",
    )?;
    let mut freed = 0;
    for (hash, attempt) in attempts {
        remember.execute(params![hash.0, attempt.0, signed(now_millis / 1_000)])?;
        freed += let_go.execute(params![hash.0, attempt.0])?;
    }
    Ok(freed)
}

pub(in super::super) fn drop_old_claims(
    db: &Connection,
    times: &ClaimTimes,
    limit: u32,
    now_millis: u64,
) -> Result<usize> {
    let Some(until) = (now_millis / 1_000).checked_sub(times.kept.as_secs()) else {
        return Ok(0);
    };
    let claims = db
        .prepare_cached(
            "DELETE FROM claims WHERE payment_hash IN (
                SELECT payment_hash FROM claims
                WHERE purpose = 'charge' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)
             RETURNING payment_hash",
        )?
        .query_map(params![signed(until), limit], |row| row.get(0))?
        .collect::<rusqlite::Result<Vec<[u8; 32]>>>()?;
    let mut note = db.prepare_cached("UPDATE sales SET was_claimed = 1 WHERE payment_hash = ?1")?;
    for claimed in &claims {
        note.execute([claimed])?;
    }
    let attempts = db
        .prepare_cached(
            "DELETE FROM abandoned_attempts WHERE (payment_hash, attempt) IN (
                SELECT payment_hash, attempt FROM abandoned_attempts
                WHERE abandoned_at <= ?1 ORDER BY abandoned_at LIMIT ?2)",
        )?
        .execute(params![signed(until), limit])?;
    Ok(claims.len() + attempts)
}
