//! Refunds as they are paid. A refund is taken by one worker at a time; what it writes counts only
//! while the row still has its name and the same return invoice.

use std::time::Duration;

use deadpool_postgres::GenericClient;
use protocol::amount::{Msat, Sat};
use protocol::hash::PaymentHash;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::columns::{array, millis, msat, refund_state, sat, signed, unsigned};
use super::{Lock, NOW_MS, Result, alone, now_ms};
use crate::domain::invoice::NodeId;
use crate::domain::ledger::LedgerError;
use crate::domain::payout::{
    Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Sending, WorkerId,
};
use crate::domain::refund::{RefundRow, RefundState};
use crate::domain::return_invoice::ReturnText;

const DAY_MS: i64 = 86_400_000;

/// Which row, and who may change it.
#[derive(Clone, Copy)]
pub(in super::super) struct RefundKey {
    pub(in super::super) id: PaymentHash,
    pub(in super::super) hash: PaymentHash,
    pub(in super::super) worker: WorkerId,
}

/// $1 node, $2 only what was handed to the node, $3 now.
/// Who waits, or works on it, for longer than an hour does so since the clock was set back.
const DUE: &str = "node = $1 AND state IN ('pending', 'sending')
                   AND (due_ms <= $3 OR due_ms > $3 + 3600000)
                   AND coalesce(worked_until_ms NOT BETWEEN $3 + 1 AND $3 + 3600000, true)
                   AND (NOT $2 OR state = 'sending')";

const WORK: &str = "SELECT r.session_id, r.node, r.return_invoice, r.return_hash, r.amount_sat,
                           r.state, r.attempts, r.fee_msat, r.failure, r.created_ms, r.updated_ms,
                           s.spent_sat, r.sent_sat, r.fee_limit_msat
                    FROM refunds AS r JOIN sessions AS s USING (session_id)";

fn work(row: &Row) -> Result<RefundWork> {
    let payout = match row.try_get::<_, Option<i64>>(12)? {
        None => None,
        Some(_) => Some(Payout {
            sent: sat(row, 12)?,
            fee_limit: msat(row, 13)?,
        }),
    };
    let fee: Option<i64> = row.try_get(7)?;
    let refund = RefundRow {
        session_id: PaymentHash(array(row, 0)?),
        node: NodeId(array(row, 1)?),
        return_invoice: ReturnText(row.try_get(2)?),
        return_hash: PaymentHash(array(row, 3)?),
        amount: sat(row, 4)?,
        state: state(row, 5)?,
        attempts: unsigned(row, 6)?,
        fee: fee.map(|_| msat(row, 7)).transpose()?,
        failure: row.try_get(8)?,
        created_ms: unsigned(row, 9)?,
        updated_ms: unsigned(row, 10)?,
    };
    Ok(RefundWork {
        refund,
        spent: sat(row, 11)?,
        payout,
    })
}

pub(super) fn state(row: &Row, column: usize) -> Result<RefundState> {
    let nothing = || LedgerError::Store("a refund without a state".to_owned());
    Ok(refund_state(row, column)?.ok_or_else(nothing)?)
}

pub(in super::super) async fn is_refund_due(
    db: &impl GenericClient,
    node: NodeId,
    only_sending: bool,
) -> Result<bool> {
    let now = signed(now_ms(db).await?);
    let query = db
        .prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM refunds WHERE {DUE})"
        ))
        .await?;
    let row = db
        .query_one(&query, &[&&node.0[..], &only_sending, &now])
        .await?;
    Ok(row.try_get(0)?)
}

/// What another worker is just taking is left to it.
pub(in super::super) async fn take_refund(
    db: &impl GenericClient,
    node: NodeId,
    worker: WorkerId,
    hold: Duration,
    only_sending: bool,
) -> Result<Option<RefundWork>> {
    let now = signed(now_ms(db).await?);
    let take = db
        .prepare_cached(&format!(
            "UPDATE refunds SET worker = $4, worked_until_ms = $3 + $5
             WHERE session_id = (SELECT session_id FROM refunds WHERE {DUE}
                                 ORDER BY due_ms, created_ms LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING session_id"
        ))
        .await?;
    let taken = db
        .query_opt(
            &take,
            &[
                &&node.0[..],
                &only_sending,
                &now,
                &&worker.0[..],
                &millis(hold),
            ],
        )
        .await?;
    match taken {
        None => Ok(None),
        Some(row) => find_refund(db, PaymentHash(array(&row, 0)?)).await,
    }
}

pub(in super::super) async fn keep_refund(
    db: &impl GenericClient,
    id: PaymentHash,
    worker: WorkerId,
    hold: Duration,
) -> Result<bool> {
    let keep = db
        .prepare_cached(&format!(
            "UPDATE refunds SET worked_until_ms = {NOW_MS} + $3
             WHERE session_id = $1 AND worker = $2 AND state IN ('pending', 'sending')"
        ))
        .await?;
    let kept = db
        .execute(&keep, &[&&id.0[..], &&worker.0[..], &millis(hold)])
        .await?;
    Ok(kept == 1)
}

/// One at a time, since each looks at what all others take up of the caps.
pub(in super::super) async fn begin_sending(
    db: &impl GenericClient,
    key: RefundKey,
    node: NodeId,
    payout: Payout,
    caps: RefundCaps,
) -> Result<Sending> {
    alone(db, Lock::Caps).await?;
    let now = signed(now_ms(db).await?);
    // What this refund itself takes up from an earlier attempt does not count, nor what its buyer
    // bears: who opens and closes all day must not use up what others' refunds need.
    let query = db
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE state = 'sending' AND session_id <> $2),
                    coalesce(sum(greatest(0, fee_limit_msat - (amount_sat - sent_sat) * 1000))
                             FILTER (WHERE state = 'sending' AND session_id <> $2), 0)::bigint,
                    coalesce(sum(greatest(0, fee_msat - (amount_sat - sent_sat) * 1000))
                             FILTER (WHERE state = 'succeeded' AND sent_ms > $3), 0)::bigint,
                    coalesce((SELECT amount_sat FROM refunds WHERE session_id = $2), 0)::bigint
             FROM refunds
             WHERE node = $1 AND (state = 'sending' OR (sent_ms IS NOT NULL AND sent_ms > $3))",
        )
        .await?;
    let since = now.saturating_sub(DAY_MS);
    let row = db
        .query_one(&query, &[&&node.0[..], &&key.id.0[..], &since])
        .await?;
    let (others, reserved, paid) = (unsigned(&row, 0)?, unsigned(&row, 1)?, unsigned(&row, 2)?);
    let own = payout.sellers_share(Sat::new(unsigned(&row, 3)?).unwrap_or(Sat::ZERO));
    if others >= u64::from(caps.in_flight) {
        return Ok(Sending::InFlightFull);
    }
    let fees = paid.saturating_add(reserved).saturating_add(own.get());
    if own > Msat::ZERO && fees > caps.daily_fees.to_msat().get() {
        return Ok(Sending::BudgetSpent);
    }
    let begin = db
        .prepare_cached(
            "UPDATE refunds SET state = 'sending', attempts = attempts + 1, sent_sat = $4,
                                fee_limit_msat = $5, sent_ms = $6, updated_ms = $6
             WHERE session_id = $1 AND return_hash = $2 AND worker = $3
               AND state IN ('pending', 'sending')",
        )
        .await?;
    let begun = db
        .execute(
            &begin,
            &[
                &&key.id.0[..],
                &&key.hash.0[..],
                &&key.worker.0[..],
                &signed(payout.sent.get()),
                &signed(payout.fee_limit.get()),
                &now,
            ],
        )
        .await?;
    Ok(match begun {
        1 => Sending::Begun,
        _ => Sending::Lost,
    })
}

pub(in super::super) async fn record_refund(
    db: &impl GenericClient,
    key: RefundKey,
    outcome: &RefundOutcome,
) -> Result<bool> {
    let (id, hash, worker) = (&key.id.0[..], &key.hash.0[..], &key.worker.0[..]);
    // All but what was paid is for its worker to say.
    let write = async |set: &str, of: &[&(dyn ToSql + Sync)]| {
        let sql = format!(
            "UPDATE refunds SET {set}, worker = NULL, worked_until_ms = NULL
             WHERE session_id = $1 AND return_hash = $2 AND worker = $3
               AND state IN ('pending', 'sending')"
        );
        let changed = db.execute(&db.prepare_cached(&sql).await?, of).await?;
        Result::Ok(changed == 1)
    };
    match outcome {
        RefundOutcome::Paid { sent, fee } => {
            let paid = db
                .prepare_cached(&format!(
                    "UPDATE refunds SET state = 'succeeded', sent_sat = $3, fee_msat = $4,
                                        fee_limit_msat = CASE state
                                            WHEN 'failed' THEN greatest(fee_limit_msat, $4)
                                            ELSE fee_limit_msat END,
                                        failure = NULL, updated_ms = {NOW_MS}, worker = NULL,
                                        worked_until_ms = NULL
                     WHERE session_id = $1 AND return_hash = $2
                       AND (state = 'failed'
                            OR state IN ('pending', 'sending') AND sent_sat IS NOT NULL)"
                ))
                .await?;
            let (sent, fee) = (signed(sent.get()), signed(fee.get()));
            let changed = db.execute(&paid, &[&id, &hash, &sent, &fee]).await?;
            Ok(changed == 1)
        }
        RefundOutcome::Again { after, why } => {
            let set = format!(
                "state = 'pending', failure = $4, due_ms = {NOW_MS} + $5, updated_ms = {NOW_MS}"
            );
            write(&set, &[&id, &hash, &worker, &why, &millis(*after)]).await
        }
        RefundOutcome::Failed { why } => {
            let set = format!("state = 'failed', failure = $4, updated_ms = {NOW_MS}");
            write(&set, &[&id, &hash, &worker, &why]).await
        }
        RefundOutcome::Later { after } => {
            let set = format!("due_ms = {NOW_MS} + $4");
            write(&set, &[&id, &hash, &worker, &millis(*after)]).await
        }
    }
}

/// Each kind by its own index, which holds no paid ones: those are all but all of them.
pub(in super::super) async fn unpaid_refunds(
    db: &impl GenericClient,
    limit: u32,
) -> Result<Vec<RefundWork>> {
    let mut all = Vec::new();
    for which in ["= 'failed'", "IN ('pending', 'sending')"] {
        let query = db
            .prepare_cached(&format!(
                "{WORK} WHERE r.state {which} ORDER BY r.created_ms LIMIT $1"
            ))
            .await?;
        let rows = db.query(&query, &[&i64::from(limit)]).await?;
        let works = rows.iter().map(work).collect::<Result<Vec<_>>>()?;
        all.extend(works);
    }
    all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(all)
}

pub(in super::super) async fn find_refund(
    db: &impl GenericClient,
    id: PaymentHash,
) -> Result<Option<RefundWork>> {
    let query = db
        .prepare_cached(&format!("{WORK} WHERE r.session_id = $1"))
        .await?;
    let row = db.query_opt(&query, &[&&id.0[..]]).await?;
    row.as_ref().map(work).transpose()
}

pub(in super::super) async fn refunds_under_way(
    db: &impl GenericClient,
    node: NodeId,
) -> Result<u64> {
    let query = db
        .prepare_cached("SELECT count(*) FROM refunds WHERE node = $1 AND state = 'sending'")
        .await?;
    unsigned(&db.query_one(&query, &[&&node.0[..]]).await?, 0)
}

/// $1 node. As [`unpaid_refunds`].
pub(in super::super) const COUNTS: &str =
    "SELECT open.pending, open.sending, failed.count, open.oldest, open.others + failed.others
     FROM (SELECT count(*) FILTER (WHERE node = $1 AND state = 'pending') AS pending,
                  count(*) FILTER (WHERE node = $1 AND state = 'sending') AS sending,
                  min(created_ms) FILTER (WHERE node = $1) AS oldest,
                  count(*) FILTER (WHERE node <> $1) AS others
           FROM refunds WHERE state IN ('pending', 'sending')) AS open,
          (SELECT count(*) FILTER (WHERE node = $1) AS count,
                  count(*) FILTER (WHERE node <> $1) AS others
           FROM refunds WHERE state = 'failed') AS failed";

pub(in super::super) async fn refund_counts(
    db: &impl GenericClient,
    node: NodeId,
) -> Result<RefundCounts> {
    let now = now_ms(db).await?;
    let query = db.prepare_cached(COUNTS).await?;
    let row = db.query_one(&query, &[&&node.0[..]]).await?;
    let oldest: Option<i64> = row.try_get(3)?;
    Ok(RefundCounts {
        pending: unsigned(&row, 0)?,
        sending: unsigned(&row, 1)?,
        failed: unsigned(&row, 2)?,
        oldest_ms: oldest.map_or(0, |oldest| now.saturating_sub(oldest.unsigned_abs())),
        elsewhere: unsigned(&row, 4)?,
    })
}
