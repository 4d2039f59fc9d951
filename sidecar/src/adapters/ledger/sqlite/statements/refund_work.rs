//! Refunds as they are paid. A refund is taken by one worker at a time; what it writes counts only
//! while the row still has its name and the same return invoice.

use std::time::Duration;

use protocol::amount::{Msat, Sat};
use protocol::hash::PaymentHash;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Result;
use super::columns::{msat, signed, unsigned};
use crate::domain::invoice::NodeId;
use crate::domain::payout::{
    Payout, RefundCaps, RefundCounts, RefundOutcome, RefundWork, Sending, WorkerId,
};
use crate::domain::refund::{RefundRow, RefundState};
use crate::domain::return_invoice::ReturnText;

const DAY_MS: u64 = 86_400_000;

/// Which row, and who may change it.
#[derive(Clone, Copy)]
pub(in super::super) struct RefundKey {
    pub(in super::super) id: PaymentHash,
    pub(in super::super) hash: PaymentHash,
    pub(in super::super) worker: WorkerId,
}

/// ?1 node, ?2 now, ?3 only what was handed to the node.
/// Who waits, or works on it, for longer than an hour does so since the clock was set back.
const DUE: &str = "node = ?1 AND state IN ('pending', 'sending')
                   AND (due_ms <= ?2 OR due_ms > ?2 + 3600000)
                   AND coalesce(worked_until_ms NOT BETWEEN ?2 + 1 AND ?2 + 3600000, 1)
                   AND (?3 = 0 OR state = 'sending')";

const WORK: &str = "SELECT refunds.session_id, refunds.node, refunds.return_invoice,
                           refunds.return_hash, amount_sat, refunds.state, attempts, fee_msat,
                           failure, created_ms, updated_ms, spent_sat, sent_sat, fee_limit_msat
                    FROM refunds JOIN sessions USING (session_id)";

fn work(row: &Row<'_>) -> rusqlite::Result<RefundWork> {
    let sent = row.get::<_, Option<i64>>(12)?;
    let payout = match sent {
        None => None,
        Some(_) => Some(Payout {
            sent: sat(row, 12)?,
            fee_limit: msat(row, 13)?,
        }),
    };
    let fee = row.get::<_, Option<i64>>(7)?;
    let refund = RefundRow {
        session_id: PaymentHash(row.get(0)?),
        node: NodeId(row.get(1)?),
        return_invoice: ReturnText(row.get(2)?),
        return_hash: PaymentHash(row.get(3)?),
        amount: sat(row, 4)?,
        state: state(row, 5)?,
        attempts: unsigned(row, 6)?,
        fee: fee.map(|_| msat(row, 7)).transpose()?,
        failure: row.get(8)?,
        created_ms: unsigned(row, 9)?,
        updated_ms: unsigned(row, 10)?,
    };
    Ok(RefundWork {
        refund,
        spent: sat(row, 11)?,
        payout,
    })
}

fn sat(row: &Row<'_>, column: usize) -> rusqlite::Result<Sat> {
    let value = unsigned(row, column)?;
    Sat::new(value).ok_or(rusqlite::Error::IntegralValueOutOfRange(
        column,
        signed(value),
    ))
}

pub(super) fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<RefundState> {
    let name = row.get_ref(column)?.as_str()?;
    RefundState::of_name(name).ok_or_else(|| {
        let error = FromSqlError::Other(format!("unknown state {name}").into());
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(in super::super) fn is_refund_due(
    db: &Connection,
    node: NodeId,
    only_sending: bool,
    now_millis: u64,
) -> Result<bool> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM refunds WHERE {DUE})");
    let is_due = db
        .prepare_cached(&sql)?
        .query_row(params![node.0, signed(now_millis), only_sending], |row| {
            row.get(0)
        })?;
    Ok(is_due)
}

pub(in super::super) fn take_refund(
    db: &Connection,
    node: NodeId,
    worker: WorkerId,
    hold: Duration,
    only_sending: bool,
    now_millis: u64,
) -> Result<Option<RefundWork>> {
    let until = now_millis.saturating_add(millis(hold));
    let sql = format!(
        "UPDATE refunds SET worker = ?4, worked_until_ms = ?5
         WHERE session_id = (SELECT session_id FROM refunds WHERE {DUE}
                             ORDER BY due_ms, created_ms LIMIT 1)
         RETURNING session_id"
    );
    let taken = db
        .prepare_cached(&sql)?
        .query_row(
            params![
                node.0,
                signed(now_millis),
                only_sending,
                worker.0,
                signed(until)
            ],
            |row| row.get(0).map(PaymentHash),
        )
        .optional()?;
    match taken {
        None => Ok(None),
        Some(id) => find_refund(db, id),
    }
}

pub(in super::super) fn keep_refund(
    db: &Connection,
    id: PaymentHash,
    worker: WorkerId,
    hold: Duration,
    now_millis: u64,
) -> Result<bool> {
    let until = now_millis.saturating_add(millis(hold));
    let kept = db
        .prepare_cached(
            "UPDATE refunds SET worked_until_ms = ?3
             WHERE session_id = ?1 AND worker = ?2 AND state IN ('pending', 'sending')",
        )?
        .execute(params![id.0, worker.0, signed(until)])?;
    Ok(kept == 1)
}

pub(in super::super) fn begin_sending(
    db: &Connection,
    key: RefundKey,
    node: NodeId,
    payout: Payout,
    caps: RefundCaps,
    now_millis: u64,
) -> Result<Sending> {
    // What this refund itself takes up from an earlier attempt does not count, nor what its buyer
    // bears: who opens and closes all day must not use up what others' refunds need.
    let (others, reserved, amount) = db
        .prepare_cached(
            "SELECT count(*),
                    coalesce(sum(max(0, fee_limit_msat - (amount_sat - sent_sat) * 1000)), 0),
                    coalesce((SELECT amount_sat FROM refunds WHERE session_id = ?2), 0)
             FROM refunds
             WHERE node = ?1 AND state = 'sending' AND session_id <> ?2",
        )?
        .query_row(params![node.0, key.id.0], |row| {
            Ok((unsigned(row, 0)?, unsigned(row, 1)?, unsigned(row, 2)?))
        })?;
    let own = payout.sellers_share(Sat::new(amount).unwrap_or(Sat::ZERO));
    let since = signed(now_millis.saturating_sub(DAY_MS));
    let paid = db
        .prepare_cached(
            "SELECT coalesce(sum(max(0, fee_msat - (amount_sat - sent_sat) * 1000)), 0)
             FROM refunds WHERE node = ?1 AND sent_ms > ?2 AND state = 'succeeded'",
        )?
        .query_row(params![node.0, since], |row| unsigned(row, 0))?;
    if others >= u64::from(caps.in_flight) {
        return Ok(Sending::InFlightFull);
    }
    let fees = paid.saturating_add(reserved).saturating_add(own.get());
    if own > Msat::ZERO && fees > caps.daily_fees.to_msat().get() {
        return Ok(Sending::BudgetSpent);
    }
    let begun = db
        .prepare_cached(
            "UPDATE refunds SET state = 'sending', attempts = attempts + 1, sent_sat = ?4,
                                fee_limit_msat = ?5, sent_ms = ?6, updated_ms = ?6
             WHERE session_id = ?1 AND return_hash = ?2 AND worker = ?3
               AND state IN ('pending', 'sending')",
        )?
        .execute(params![
            key.id.0,
            key.hash.0,
            key.worker.0,
            signed(payout.sent.get()),
            signed(payout.fee_limit.get()),
            signed(now_millis)
        ])?;
    Ok(if begun == 1 {
        Sending::Begun
    } else {
        Sending::Lost
    })
}

pub(in super::super) fn record_refund(
    db: &Connection,
    key: RefundKey,
    outcome: &RefundOutcome,
    now_millis: u64,
) -> Result<bool> {
    let (id, hash, worker) = (key.id.0, key.hash.0, key.worker.0);
    let now = signed(now_millis);
    let due = |after: Duration| signed(now_millis.saturating_add(millis(after)));
    let changed = match outcome {
        RefundOutcome::Paid { sent, fee } => db
            .prepare_cached(
                "UPDATE refunds SET state = 'succeeded', sent_sat = ?5, fee_msat = ?3,
                                    fee_limit_msat = CASE state
                                        WHEN 'failed' THEN max(coalesce(fee_limit_msat, 0), ?3)
                                        ELSE fee_limit_msat END,
                                    failure = NULL,
                                    updated_ms = ?4, worker = NULL, worked_until_ms = NULL
                 WHERE session_id = ?1 AND return_hash = ?2
                   AND (state = 'failed'
                        OR state IN ('pending', 'sending') AND sent_sat IS NOT NULL)",
            )?
            .execute(params![
                id,
                hash,
                signed(fee.get()),
                now,
                signed(sent.get())
            ])?,
        RefundOutcome::Again { after, why } => db
            .prepare_cached(
                "UPDATE refunds SET state = 'pending', failure = ?4, due_ms = ?5, updated_ms = ?6,
                                    worker = NULL, worked_until_ms = NULL
                 WHERE session_id = ?1 AND return_hash = ?2 AND worker = ?3
                   AND state IN ('pending', 'sending')",
            )?
            .execute(params![id, hash, worker, why, due(*after), now])?,
        RefundOutcome::Failed { why } => db
            .prepare_cached(
                "UPDATE refunds SET state = 'failed', failure = ?4, updated_ms = ?5,
                                    worker = NULL, worked_until_ms = NULL
                 WHERE session_id = ?1 AND return_hash = ?2 AND worker = ?3
                   AND state IN ('pending', 'sending')",
            )?
            .execute(params![id, hash, worker, why, now])?,
        RefundOutcome::Later { after } => db
            .prepare_cached(
                "UPDATE refunds SET due_ms = ?4, worker = NULL, worked_until_ms = NULL
                 WHERE session_id = ?1 AND return_hash = ?2 AND worker = ?3
                   AND state IN ('pending', 'sending')",
            )?
            .execute(params![id, hash, worker, due(*after)])?,
    };
    Ok(changed == 1)
}

pub(in super::super) fn unpaid_refunds(db: &Connection, limit: u32) -> Result<Vec<RefundWork>> {
    let mut rows = Vec::new();
    for which in ["= 'failed'", "IN ('pending', 'sending')"] {
        let sql = format!("{WORK} WHERE refunds.state {which} ORDER BY created_ms LIMIT ?1");
        let found = db
            .prepare_cached(&sql)?
            .query_map([limit], work)?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        rows.extend(found);
    }
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(rows)
}

pub(in super::super) fn find_refund(
    db: &Connection,
    id: PaymentHash,
) -> Result<Option<RefundWork>> {
    let found = db
        .prepare_cached(&format!("{WORK} WHERE refunds.session_id = ?1"))?
        .query_row([id.0], work)
        .optional()?;
    Ok(found)
}

pub(in super::super) fn refunds_under_way(db: &Connection, node: NodeId) -> Result<u64> {
    let count = db
        .prepare_cached("SELECT count(*) FROM refunds WHERE node = ?1 AND state = 'sending'")?
        .query_row([node.0], |row| unsigned(row, 0))?;
    Ok(count)
}

/// ?1 node. Each kind by its own index, which holds no paid ones: those are all but all of them.
pub(in super::super) const COUNTS: &str =
    "SELECT state, count(*), min(created_ms), node = ?1 FROM refunds
     WHERE state IN ('pending', 'sending') GROUP BY state, node = ?1
     UNION ALL
     SELECT state, count(*), min(created_ms), node = ?1 FROM refunds
     WHERE state = 'failed' GROUP BY node = ?1";

pub(in super::super) fn refund_counts(
    db: &Connection,
    node: NodeId,
    now_millis: u64,
) -> Result<RefundCounts> {
    let mut counts = RefundCounts::default();
    let mut statement = db.prepare_cached(COUNTS)?;
    let rows = statement.query_map([node.0], |row| {
        let is_ours: bool = row.get(3)?;
        Ok((
            state(row, 0)?,
            unsigned(row, 1)?,
            unsigned(row, 2)?,
            is_ours,
        ))
    })?;
    for row in rows {
        let (state, count, oldest, is_ours) = row?;
        if !is_ours {
            counts.elsewhere = counts.elsewhere.saturating_add(count);
            continue;
        }
        match state {
            RefundState::Pending => counts.pending = count,
            RefundState::Sending => counts.sending = count,
            RefundState::Failed => counts.failed = count,
            RefundState::Succeeded => {}
        }
        if matches!(state, RefundState::Pending | RefundState::Sending) {
            counts.oldest_ms = counts.oldest_ms.max(now_millis.saturating_sub(oldest));
        }
    }
    Ok(counts)
}
