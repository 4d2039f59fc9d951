//! What the sidecars of one ledger tell each other.

use std::time::Duration;

use deadpool_postgres::GenericClient;

use super::columns::{millis, signed, unsigned};
use super::{NOW_MS, Result};
use crate::domain::deny_list::Version;
use crate::domain::keys::FilterHeard;
use crate::domain::ledger::Duty;
use crate::domain::payout::WorkerId;

/// Filters that nobody has heard of for so long are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// Who has a duty for longer got it before the clock was set back.
const LONGEST_DUTY: Duration = Duration::from_secs(60);

pub(in super::super) async fn share_filters(
    db: &impl GenericClient,
    heard: &[FilterHeard],
    window: Duration,
) -> Result<Vec<FilterHeard>> {
    let mut heard: Vec<_> = heard.iter().collect();
    // Two sidecars never wait for each other's rows in a circle.
    heard.sort_by(|a, b| a.vm.cmp(&b.vm));
    heard.dedup_by(|a, b| a.vm == b.vm);
    let names: Vec<_> = heard.iter().map(|filter| filter.vm.as_str()).collect();
    let versions: Vec<_> = heard.iter().map(|f| f.known.map(|v| signed(v.0))).collect();
    let silences: Vec<_> = heard.iter().map(|filter| millis(filter.silent)).collect();
    if !heard.is_empty() {
        let write = db
            .prepare_cached(&format!(
                "INSERT INTO filters (vm, version, seen_ms)
                 SELECT vm, version, greatest({NOW_MS} - silent, 0)
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS heard (vm, version, silent)
                 ORDER BY vm
                 ON CONFLICT (vm) DO UPDATE
                 SET version = excluded.version, seen_ms = excluded.seen_ms
                 WHERE filters.seen_ms <= excluded.seen_ms"
            ))
            .await?;
        db.execute(&write, &[&names, &versions, &silences]).await?;
    }
    let forget = db
        .prepare_cached(&format!(
            "DELETE FROM filters WHERE vm IN (
                SELECT vm FROM filters WHERE seen_ms < {NOW_MS} - $1 FOR UPDATE SKIP LOCKED)"
        ))
        .await?;
    db.execute(&forget, &[&millis(FORGOTTEN_AFTER)]).await?;
    let read = db
        .prepare_cached(&format!(
            "SELECT vm, version, greatest({NOW_MS} - seen_ms, 0) FROM filters
             WHERE seen_ms >= {NOW_MS} - $1"
        ))
        .await?;
    let mut all = Vec::new();
    for row in db.query(&read, &[&millis(window)]).await? {
        let version: Option<i64> = row.try_get(1)?;
        all.push(FilterHeard {
            vm: row.try_get(0)?,
            known: version.map(|version| Version(version.unsigned_abs())),
            silent: Duration::from_millis(unsigned(&row, 2)?),
        });
    }
    Ok(all)
}

pub(in super::super) async fn take_duty(
    db: &impl GenericClient,
    duty: Duty,
    process: WorkerId,
    time: Duration,
) -> Result<bool> {
    let take = db
        .prepare_cached(&format!(
            "INSERT INTO duties (duty, holder, until_ms) VALUES ($1, $2, {NOW_MS} + $3)
             ON CONFLICT (duty) DO UPDATE
             SET holder = excluded.holder, until_ms = excluded.until_ms
             WHERE duties.holder = excluded.holder
                   OR duties.until_ms NOT BETWEEN {NOW_MS} AND {NOW_MS} + $4"
        ))
        .await?;
    let taken = db
        .execute(
            &take,
            &[
                &duty.as_str(),
                &&process.0[..],
                &millis(time),
                &millis(LONGEST_DUTY.max(time)),
            ],
        )
        .await?;
    Ok(taken == 1)
}
