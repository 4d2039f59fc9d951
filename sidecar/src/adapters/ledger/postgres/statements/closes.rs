//! Closes of sessions, and what was answered to them.

use deadpool_postgres::GenericClient;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use tokio_postgres::types::ToSql;

use super::accounts::{Busy, Locked, Opened as Account};
use super::columns::{array, refund_state, refund_status, sat, session_state, signed, unsigned};
use super::offers::count;
use super::sessions::{record, seconds};
use super::{NOW_MS, Result};
use crate::domain::session::{CallKind, CallMark, CloseBegun, Ending, NewClose, Refunded};

pub(in super::super) async fn begin_close(
    db: &impl GenericClient,
    close: &NewClose,
) -> Result<CloseBegun> {
    let (call, id) = (&close.call, close.session_id);
    let named = close.lease.as_ref().map(|lease| (id, lease.holder));
    let named: Vec<_> = named.into_iter().collect();
    let mut locked = Locked::read(db, &[id], &named, Busy::Wait).await?;
    let now_ms = locked.now_ms;
    let Some(account) = locked.accounts.get_mut(&id) else {
        return Ok(CloseBegun::NotFound);
    };
    let recorded = recorded_close(db, call, id).await?;
    let is_repeated = recorded.is_some();
    let (at, answered) = match recorded {
        Some((fingerprint, at, answered)) if fingerprint == call.fingerprint => (at, answered),
        Some(_) => return Ok(CloseBegun::Consumed),
        None => {
            if let Some(refused) = refuse_close(db, close, account).await? {
                return Ok(refused);
            }
            record(db, CallKind::Close, call, id, now_ms).await?;
            account.account.close();
            (seconds(now_ms), None)
        }
    };
    // After it stopped granting, so that the lease gets no more.
    let report = |report| account.account.report(report, now_ms);
    let lease = close.lease.as_ref().map(report);
    account.settle();
    locked.write(db).await?;
    Ok(CloseBegun::Begun {
        at,
        is_repeated,
        answered,
        lease,
    })
}

/// Why a session is not closed by this call, that was never heard before.
async fn refuse_close(
    db: &impl GenericClient,
    close: &NewClose,
    account: &Account,
) -> Result<Option<CloseBegun>> {
    let id = &close.session_id.0[..];
    let is_of_another = exists(
        db,
        "SELECT EXISTS (SELECT 1 FROM session_results
                        WHERE challenge_id = $2 AND session_id <> $1 AND kind <> 'close')",
        &[&id, &close.call.challenge_id],
    )
    .await?;
    if is_of_another {
        return Ok(Some(CloseBegun::Consumed));
    }
    let is_own = exists(
        db,
        "SELECT EXISTS (SELECT 1 FROM session_results
                        WHERE session_id = $1 AND payment_hash = $2 AND kind <> 'close')",
        &[&id, &&close.call.payment_hash.0[..]],
    )
    .await?;
    if close.must_be_own && !is_own {
        return Ok(Some(CloseBegun::Expired));
    }
    Ok((!account.account.is_open).then_some(CloseBegun::AlreadyClosed))
}

async fn exists(db: &impl GenericClient, query: &str, of: &[&(dyn ToSql + Sync)]) -> Result<bool> {
    let query = db.prepare_cached(query).await?;
    Ok(db.query_one(&query, of).await?.try_get(0)?)
}

type RecordedClose = ([u8; 32], UnixSeconds, Option<Refunded>);

async fn recorded_close(
    db: &impl GenericClient,
    call: &CallMark,
    session_id: PaymentHash,
) -> Result<Option<RecordedClose>> {
    let query = db
        .prepare_cached(
            "SELECT fingerprint, at, refund_sats, refund_status FROM session_results
             WHERE challenge_id = $1 AND session_id = $2 AND kind = 'close'",
        )
        .await?;
    let row = db
        .query_opt(&query, &[&call.challenge_id, &&session_id.0[..]])
        .await?;
    let Some(row) = row else { return Ok(None) };
    let answered = match refund_status(&row, 3)? {
        None => None,
        Some(status) => Some(Refunded {
            refund: sat(&row, 2)?,
            status,
        }),
    };
    let at = UnixSeconds(unsigned(&row, 1)?);
    Ok(Some((array(&row, 0)?, at, answered)))
}

pub(in super::super) async fn ending(
    db: &impl GenericClient,
    id: PaymentHash,
) -> Result<Option<Ending>> {
    let query = db
        .prepare_cached(
            // Of a refund that was paid: what the buyer got of it.
            "SELECT s.state,
                    CASE r.state WHEN 'succeeded' THEN r.sent_sat
                                 ELSE s.deposited_sat - s.spent_sat END,
                    r.state
             FROM sessions AS s LEFT JOIN refunds AS r USING (session_id)
             WHERE s.session_id = $1",
        )
        .await?;
    let row = db.query_opt(&query, &[&&id.0[..]]).await?;
    let ending = row.map(|row| {
        Ok(Ending {
            state: session_state(&row, 0)?,
            rest: sat(&row, 1)?,
            refund: refund_state(&row, 2)?,
        })
    });
    ending.transpose()
}

pub(in super::super) async fn record_answer(
    db: &impl GenericClient,
    call: &CallMark,
    session_id: PaymentHash,
    answer: Refunded,
) -> Result<Refunded> {
    let note = db
        .prepare_cached(
            "UPDATE session_results SET refund_sats = $3, refund_status = $4
             WHERE challenge_id = $1 AND session_id = $2 AND kind = 'close'
                   AND refund_status IS NULL",
        )
        .await?;
    db.execute(
        &note,
        &[
            &call.challenge_id,
            &&session_id.0[..],
            &signed(answer.refund.get()),
            &answer.status.as_str(),
        ],
    )
    .await?;
    // A statement of its own: it sees what another has noted while this one waited.
    let recorded = recorded_close(db, call, session_id).await?;
    Ok(recorded.and_then(|(_, _, first)| first).unwrap_or(answer))
}

pub(in super::super) async fn drop_old_results(
    db: &impl GenericClient,
    limit: u32,
) -> Result<usize> {
    let delete = db
        .prepare_cached(&format!(
            "DELETE FROM session_results WHERE (challenge_id, session_id, kind) IN (
                SELECT challenge_id, session_id, kind FROM session_results
                WHERE kind = 'close' AND expires_at <= (SELECT {NOW_MS}) / 1000
                ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
        ))
        .await?;
    Ok(count(db.execute(&delete, &[&i64::from(limit)]).await?))
}
