//! Leases: what filters report, and what ends by itself.

use std::collections::BTreeSet;

use deadpool_postgres::GenericClient;
use protocol::hash::PaymentHash;
use protocol::lease::{Answer, Report};

use super::accounts::{Busy, Locked};
use super::columns::{array, signed};
use super::{NOW_MS, Result};
use crate::domain::hearing::USED_EVERY_MS;
use crate::domain::lease::{self, Times};
use crate::domain::session::{Stopped, SweptLeases};

/// When nobody swept for so long, nobody could hear reports either. Longer than one call may take,
/// so that a sweep that fails is no silence; with the time for which leases are valid it stays below
/// the time after which they end.
const DEAF_MS: i64 = 3_000;
/// Sweeps that follow each other faster leave no trace of their own.
const HEARD_EVERY_MS: i64 = 500;

/// What a batch of reports led to as far as nobody else had their accounts.
#[derive(Default)]
pub(in super::super) struct Heard {
    /// The answers, each with the place of its report.
    pub(in super::super) answers: Vec<(usize, Answer)>,
    /// Places of reports on accounts that another transaction has.
    pub(in super::super) busy: Vec<usize>,
    pub(in super::super) lost_units: u64,
    pub(in super::super) settled: Vec<PaymentHash>,
}

/// The reports at `places`, in one transaction: it is one wait for the disk, whatever is in it.
/// Several accounts do not wait for one that another transaction has: that one is left out. A
/// single one is waited for.
pub(in super::super) async fn report_leases(
    db: &impl GenericClient,
    reports: &[Report],
    places: &[usize],
) -> Result<Heard> {
    let reports = places
        .iter()
        .filter_map(|place| Some((*place, reports.get(*place)?)));
    let reports: Vec<_> = reports.collect();
    let named = reports
        .iter()
        .map(|(_, report)| (PaymentHash(report.account.0), report.holder));
    let named: Vec<_> = named.collect();
    let mut ids: Vec<_> = named.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    let busy = match ids.len() {
        0 | 1 => Busy::Wait,
        _ => Busy::Skip,
    };
    let mut locked = Locked::read(db, &ids, &named, busy).await?;
    ids.retain(|id| !locked.accounts.contains_key(id));
    let busy = match busy {
        Busy::Skip if !ids.is_empty() => there(db, &ids).await?,
        _ => BTreeSet::new(),
    };
    let now_ms = locked.now_ms;
    let mut all = Heard::default();
    for (place, report) in reports {
        let id = PaymentHash(report.account.0);
        let Some(opened) = locked.accounts.get_mut(&id) else {
            match busy.contains(&id) {
                true => all.busy.push(place),
                false => all.answers.push((place, lease::unknown(report))),
            }
            continue;
        };
        let reported = opened.account.report(report, now_ms);
        opened.is_used(now_ms);
        all.answers.push((place, reported.answer));
        all.lost_units = all.lost_units.saturating_add(reported.lost_units);
        if opened.settle() {
            all.settled.push(id);
        }
    }
    locked.write(db).await?;
    Ok(all)
}

/// Those of these accounts that exist, whoever has them.
async fn there(db: &impl GenericClient, ids: &[PaymentHash]) -> Result<BTreeSet<PaymentHash>> {
    let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
    let query = db
        .prepare_cached("SELECT session_id FROM sessions WHERE session_id = ANY($1)")
        .await?;
    let rows = db.query(&query, &[&ids]).await?;
    rows.iter()
        .map(|row| Ok(PaymentHash(array(row, 0)?)))
        .collect()
}

/// From now on reports are heard. When none could be for a while, whatever was heard of earlier
/// counts as heard of now: one row says so for all, however many there are. The same when the
/// clock was set, forward or back: what it showed before cannot be compared.
pub(in super::super) async fn hear(db: &impl GenericClient) -> Result<()> {
    let note = db
        .prepare_cached(&format!(
            "UPDATE hearing
             SET heard_ms = now.ms,
                 serving_since_ms = CASE WHEN abs(now.ms - heard_ms) >= $1 THEN now.ms
                                         ELSE serving_since_ms END
             FROM (SELECT {NOW_MS} AS ms) AS now
             WHERE abs(now.ms - heard_ms) > $2"
        ))
        .await?;
    db.execute(&note, &[&DEAF_MS, &HEARD_EVERY_MS]).await?;
    Ok(())
}

pub(in super::super) async fn sweep_leases(
    db: &impl GenericClient,
    times: &Times,
    limit: u32,
) -> Result<SweptLeases> {
    let mut swept = SweptLeases::default();
    let ids = silent(db, times, limit).await?;
    if !ids.is_empty() {
        // Who has one of them is hearing of it; it comes again if it stays silent.
        let mut locked = Locked::read(db, &ids, &[], Busy::Skip).await?;
        let now_ms = locked.now_ms;
        swept.sessions = locked.accounts.len();
        for (id, opened) in &mut locked.accounts {
            let reclaimed = opened.account.sweep(times, now_ms);
            swept.reclaimed = swept.reclaimed.saturating_add(reclaimed);
            if opened.settle() {
                swept.settled.push(*id);
            }
        }
        locked.write(db).await?;
    }
    forget(db, times, limit).await?;
    Ok(swept)
}

/// Sessions with leases of which nothing was heard, and those that could be settled: there should
/// be none of these, since whatever ends a lease settles.
async fn silent(db: &impl GenericClient, times: &Times, limit: u32) -> Result<Vec<PaymentHash>> {
    let query = db
        .prepare_cached(&format!(
            "SELECT h.session_id FROM lease_holders AS h JOIN sessions AS s USING (session_id)
             WHERE h.is_live AND h.seen_ms <= (SELECT {NOW_MS}) - least($1::bigint, $2::bigint)
                   AND greatest(h.seen_ms, (SELECT serving_since_ms FROM hearing))
                       <= (SELECT {NOW_MS}) - CASE s.state WHEN 'open' THEN $1 ELSE $2 END
             UNION
             SELECT h.session_id FROM lease_holders AS h JOIN sessions AS s USING (session_id)
             WHERE h.is_live AND h.seen_ms > (SELECT {NOW_MS})
                   AND (SELECT serving_since_ms FROM hearing)
                       <= (SELECT {NOW_MS}) - CASE s.state WHEN 'open' THEN $1 ELSE $2 END
             UNION
             SELECT s.session_id FROM sessions AS s
             WHERE s.state = 'closing' AND NOT EXISTS (
                SELECT 1 FROM lease_holders AS h WHERE h.session_id = s.session_id AND h.is_live)
             LIMIT $3"
        ))
        .await?;
    let rows = db
        .query(
            &query,
            &[
                &signed(times.reclaim_ms),
                &signed(times.closing_ms),
                &i64::from(limit),
            ],
        )
        .await?;
    rows.iter()
        .map(|row| Ok(PaymentHash(array(row, 0)?)))
        .collect()
}

/// L11. What they had spent stays in their sessions, whose locks are taken for it; who has one of
/// them is not waited for.
async fn forget(db: &impl GenericClient, times: &Times, limit: u32) -> Result<()> {
    let (forget_ms, limit) = (signed(times.forget_ms), i64::from(limit));
    let lock = db
        .prepare_cached(&format!(
            "SELECT session_id FROM sessions WHERE session_id IN (
                SELECT session_id FROM lease_holders
                WHERE NOT is_live AND seen_ms <= (SELECT {NOW_MS}) - $1
                ORDER BY seen_ms LIMIT $2)
             ORDER BY session_id FOR UPDATE SKIP LOCKED"
        ))
        .await?;
    let rows = db.query(&lock, &[&forget_ms, &limit]).await?;
    let ids = rows.iter().map(|row| row.try_get(0));
    let ids = ids.collect::<std::result::Result<Vec<&[u8]>, _>>()?;
    if ids.is_empty() {
        return Ok(());
    }
    let forget = db
        .prepare_cached(&format!(
            "WITH forgotten AS (
                DELETE FROM lease_holders WHERE (session_id, holder) IN (
                    SELECT session_id, holder FROM lease_holders
                    WHERE session_id = ANY($3) AND NOT is_live
                          AND seen_ms <= (SELECT {NOW_MS}) - $1
                    ORDER BY seen_ms LIMIT $2)
                RETURNING session_id, used - returned AS spent),
             spent AS (
                SELECT session_id, sum(spent)::bigint AS sat FROM forgotten GROUP BY session_id)
             UPDATE sessions AS s SET forgotten_sat = s.forgotten_sat + spent.sat
             FROM spent WHERE s.session_id = spent.session_id AND spent.sat <> 0"
        ))
        .await?;
    db.execute(&forget, &[&forget_ms, &limit, &ids]).await?;
    Ok(())
}

pub(in super::super) async fn stop_unused(
    db: &impl GenericClient,
    limit: u32,
) -> Result<Vec<Stopped>> {
    let query = db
        .prepare_cached(&format!(
            "SELECT session_id FROM sessions
             WHERE state = 'open'
                   AND active_ms + idle_timeout_seconds * 1000 <= (SELECT {NOW_MS}) - $2
                   AND (SELECT serving_since_ms FROM hearing) + idle_timeout_seconds * 1000
                       <= (SELECT {NOW_MS})
             UNION
             SELECT session_id FROM sessions
             WHERE state = 'open' AND close_by <= (SELECT {NOW_MS}) / 1000
             LIMIT $1"
        ))
        .await?;
    let late = signed(USED_EVERY_MS);
    let rows = db.query(&query, &[&i64::from(limit), &late]).await?;
    let ids = rows.iter().map(|row| Ok(PaymentHash(array(row, 0)?)));
    let ids = ids.collect::<Result<Vec<_>>>()?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut locked = Locked::read(db, &ids, &[], Busy::Skip).await?;
    // Looked at again: it may have been used while its lock was waited for.
    let query = db
        .prepare_cached(
            "SELECT session_id, is_idle FROM (
                SELECT session_id, close_by, greatest(active_ms + $3, serving_since_ms)
                                             + idle_timeout_seconds * 1000 <= $2 AS is_idle
                FROM sessions, hearing WHERE session_id = ANY($1) AND state = 'open') AS s
             WHERE is_idle OR close_by <= $2 / 1000",
        )
        .await?;
    let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
    let mut stopped = Vec::new();
    let now_ms = signed(locked.now_ms);
    for row in db.query(&query, &[&ids, &now_ms, &late]).await? {
        let session_id = PaymentHash(array(&row, 0)?);
        if let Some(opened) = locked.accounts.get_mut(&session_id) {
            opened.account.close();
            opened.settle();
            let was_idle = row.try_get(1)?;
            stopped.push(Stopped {
                session_id,
                was_idle,
            });
        }
    }
    locked.write(db).await?;
    Ok(stopped)
}
