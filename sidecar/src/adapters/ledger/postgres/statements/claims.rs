//! Claims of payments, and the attempts that were abandoned.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use deadpool_postgres::GenericClient;
use protocol::amount::Sat;
use protocol::hash::PaymentHash;

use super::columns::{array, signed, unsigned};
use super::offers::count;
use super::{Lock, NOW_MS, Result, alone, beside_others};
use crate::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use crate::domain::session::{CallKind, CallMark};

/// A claim is deleted so much later than it may be forgotten: a statement that has just found it
/// to be remembered has ended by then, as none lives half as long.
const FORGET_LATER: Duration = Duration::from_secs(30);

/// Deposits are claimed by no attempt of a filter.
const NO_ATTEMPT: [u8; 16] = [0; 16];

/// Who has a payment.
struct Holder {
    attempt: AttemptId,
    claimed_ms: u64,
    is_charge: bool,
}

/// Many claims at once, of one payment or of many; what became of each, in their order.
pub(in super::super) async fn claim_all(
    db: &impl GenericClient,
    claims: &[(NewClaim, ClaimTimes)],
) -> Result<Vec<Claimed>> {
    beside_others(db, Lock::Claims).await?;
    let won = insert(db, claims).await?;
    let has_won = |claim: &NewClaim| won.contains(&(claim.payment_hash, claim.attempt));
    if claims.iter().all(|(claim, _)| has_won(claim)) {
        return Ok(vec![Claimed::Won; claims.len()]);
    }
    let others = claims.iter().filter(|(claim, _)| !has_won(claim));
    let hashes: Vec<&[u8]> = others.map(|(claim, _)| &claim.payment_hash.0[..]).collect();
    let (holders, now_ms) = holders(db, &hashes).await?;
    let judged = claims.iter().map(|(claim, times)| {
        if has_won(claim) {
            return Claimed::Won;
        }
        judged(claim, times, holders.get(&claim.payment_hash), now_ms)
    });
    Ok(judged.collect())
}

/// The insert-if-absent: those that have won. In the order of the hashes, so that two of these
/// never wait for each other in a circle.
async fn insert(
    db: &impl GenericClient,
    claims: &[(NewClaim, ClaimTimes)],
) -> Result<HashSet<(PaymentHash, AttemptId)>> {
    let mut ordered: Vec<_> = claims.iter().collect();
    ordered.sort_by_key(|(claim, _)| claim.payment_hash.0);
    let column = |of: fn(&NewClaim) -> i64| ordered.iter().map(|(c, _)| of(c)).collect::<Vec<_>>();
    let hashes: Vec<&[u8]> = ordered.iter().map(|(c, _)| &c.payment_hash.0[..]).collect();
    let attempts: Vec<&[u8]> = ordered.iter().map(|(c, _)| &c.attempt.0[..]).collect();
    let challenges: Vec<_> = ordered
        .iter()
        .map(|(c, _)| c.challenge_id.as_str())
        .collect();
    let services: Vec<_> = ordered.iter().map(|(c, _)| c.service.as_str()).collect();
    let kept: Vec<_> = ordered
        .iter()
        .map(|(_, t)| signed(t.kept.as_secs()))
        .collect();
    let insert = db
        .prepare_cached(&format!(
            "WITH clock AS MATERIALIZED (SELECT {NOW_MS} AS ms)
             INSERT INTO claims (payment_hash, purpose, attempt, challenge_id, service, amount_sat,
                                 expires_at, claimed_ms)
             SELECT new.payment_hash, 'charge', new.attempt, new.challenge_id, new.service,
                    new.amount_sat, new.expires_at, clock.ms
             FROM clock, unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::bigint[],
                                $6::bigint[], $7::bigint[]) WITH ORDINALITY
                  AS new (payment_hash, attempt, challenge_id, service, amount_sat, expires_at,
                          kept, place)
             WHERE new.expires_at > clock.ms / 1000 - new.kept
               AND NOT EXISTS (SELECT 1 FROM abandoned_attempts AS abandoned
                               WHERE abandoned.payment_hash = new.payment_hash
                                 AND abandoned.attempt = new.attempt)
             ORDER BY new.place
             ON CONFLICT (payment_hash) DO NOTHING
             RETURNING payment_hash, attempt"
        ))
        .await?;
    let rows = db
        .query(
            &insert,
            &[
                &hashes,
                &attempts,
                &challenges,
                &services,
                &column(|claim| signed(claim.amount.get())),
                &column(|claim| signed(claim.expires.0)),
                &kept,
            ],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((PaymentHash(array(row, 0)?), AttemptId(array(row, 1)?))))
        .collect()
}

/// Who has these payments, and what time it is. A statement of its own, so that it sees what was
/// committed while the insert waited.
async fn holders(
    db: &impl GenericClient,
    hashes: &[&[u8]],
) -> Result<(HashMap<PaymentHash, Holder>, u64)> {
    let query = db
        .prepare_cached(&format!(
            "SELECT clock.ms, claims.payment_hash, claims.attempt, claims.claimed_ms,
                    claims.purpose = 'charge'
             FROM (SELECT {NOW_MS} AS ms) AS clock
             LEFT JOIN claims ON claims.payment_hash = ANY($1)"
        ))
        .await?;
    let (mut holders, mut now_ms) = (HashMap::new(), 0);
    for row in db.query(&query, &[&hashes]).await? {
        now_ms = now_ms.max(unsigned(&row, 0)?);
        if row.try_get::<_, Option<&[u8]>>(1)?.is_none() {
            continue;
        }
        let holder = Holder {
            attempt: AttemptId(array(&row, 2)?),
            claimed_ms: unsigned(&row, 3)?,
            is_charge: row.try_get(4)?,
        };
        holders.insert(PaymentHash(array(&row, 1)?), holder);
    }
    Ok((holders, now_ms))
}

/// A claim that has not won just now.
fn judged(claim: &NewClaim, times: &ClaimTimes, holder: Option<&Holder>, now_ms: u64) -> Claimed {
    if claim.expires.0.saturating_add(times.kept.as_secs()) <= now_ms / 1_000 {
        return Claimed::Lost;
    }
    match holder {
        // A deposit is never abandoned.
        Some(holder) if !holder.is_charge => Claimed::Lost,
        Some(holder) if holder.attempt == claim.attempt => Claimed::Won,
        Some(holder) if is_young(holder.claimed_ms, now_ms, times) => Claimed::Busy,
        Some(_) => Claimed::Lost,
        // Only this attempt is barred; nobody has used the payment.
        None => Claimed::Busy,
    }
}

fn is_young(claimed_ms: u64, now_ms: u64, times: &ClaimTimes) -> bool {
    Duration::from_millis(now_ms.saturating_sub(claimed_ms)) < times.young
}

/// Claims the payment of a deposit for good. `false` if it was claimed before, for whatever.
pub(super) async fn claim_deposit(
    db: &impl GenericClient,
    purpose: CallKind,
    call: &CallMark,
    service: &str,
    amount: Sat,
) -> Result<bool> {
    let insert = db
        .prepare_cached(&format!(
            "INSERT INTO claims (payment_hash, purpose, attempt, challenge_id, service, amount_sat,
                                 expires_at, claimed_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, {NOW_MS})
             ON CONFLICT (payment_hash) DO NOTHING"
        ))
        .await?;
    let inserted = db
        .execute(
            &insert,
            &[
                &&call.payment_hash.0[..],
                &purpose.as_str(),
                &&NO_ATTEMPT[..],
                &call.challenge_id,
                &service,
                &signed(amount.get()),
                &signed(call.expires.0),
            ],
        )
        .await?;
    Ok(inserted == 1)
}

pub(in super::super) async fn abandon(
    db: &impl GenericClient,
    attempts: &[(PaymentHash, AttemptId)],
) -> Result<usize> {
    alone(db, Lock::Claims).await?;
    let hashes: Vec<&[u8]> = attempts.iter().map(|(hash, _)| &hash.0[..]).collect();
    let names: Vec<&[u8]> = attempts.iter().map(|(_, attempt)| &attempt.0[..]).collect();
    let remember = db
        .prepare_cached(&format!(
            "INSERT INTO abandoned_attempts (payment_hash, attempt, abandoned_at)
             SELECT payment_hash, attempt, {NOW_MS} / 1000
             FROM unnest($1::bytea[], $2::bytea[]) AS gone (payment_hash, attempt)
             ON CONFLICT DO NOTHING"
        ))
        .await?;
    db.execute(&remember, &[&hashes, &names]).await?;
    let let_go = db
        .prepare_cached(
            "DELETE FROM claims
             USING unnest($1::bytea[], $2::bytea[]) AS gone (payment_hash, attempt)
             WHERE claims.payment_hash = gone.payment_hash AND claims.attempt = gone.attempt
               AND claims.purpose = 'charge'",
        )
        .await?;
    Ok(count(db.execute(&let_go, &[&hashes, &names]).await?))
}

pub(in super::super) async fn drop_old_claims(
    db: &impl GenericClient,
    times: &ClaimTimes,
    limit: u32,
) -> Result<usize> {
    let kept = signed(times.kept.as_secs());
    let later = signed(FORGET_LATER.as_secs());
    let drop_claims = db
        .prepare_cached(&format!(
            "DELETE FROM claims WHERE payment_hash IN (
                SELECT payment_hash FROM claims
                WHERE purpose = 'charge' AND expires_at <= {NOW_MS} / 1000 - $1 - $2
                ORDER BY expires_at LIMIT $3 FOR UPDATE SKIP LOCKED)
             RETURNING payment_hash"
        ))
        .await?;
    let claims = db
        .query(&drop_claims, &[&kept, &later, &i64::from(limit)])
        .await?;
    if !claims.is_empty() {
        let claimed = claims.iter().map(|row| row.try_get(0));
        let claimed = claimed.collect::<std::result::Result<Vec<&[u8]>, _>>()?;
        let note = db
            .prepare_cached("UPDATE sales SET was_claimed = true WHERE payment_hash = ANY($1)")
            .await?;
        db.execute(&note, &[&claimed]).await?;
    }
    let drop_attempts = db
        .prepare_cached(&format!(
            "DELETE FROM abandoned_attempts WHERE (payment_hash, attempt) IN (
                SELECT payment_hash, attempt FROM abandoned_attempts
                WHERE abandoned_at <= {NOW_MS} / 1000 - $1
                ORDER BY abandoned_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
        ))
        .await?;
    let attempts = db
        .execute(&drop_attempts, &[&kept, &i64::from(limit)])
        .await?;
    Ok(claims.len().saturating_add(count(attempts)))
}
