//! Closes: what is stopped, and what is answered first.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Result;
use super::columns::{refund_state, refund_status, sat, session_state, signed, unsigned};
use super::leases::Opened as Account;
use super::sessions::record;
use crate::adapters::ledger::sqlite::clock::Now;
use crate::domain::session::{CallKind, CallMark, CloseBegun, Ending, NewClose, Refunded};

pub(in super::super) fn begin_close(
    db: &Connection,
    close: &NewClose,
    now: Now,
) -> Result<CloseBegun> {
    let (call, id) = (&close.call, close.session_id);
    let recorded = match recorded_close(db, call, id)? {
        None => None,
        Some((fingerprint, at, answered)) if fingerprint == call.fingerprint => {
            Some((at, answered))
        }
        Some(_) => return Ok(CloseBegun::Consumed),
    };
    let Some(mut account) = Account::read(db, id, close.lease.as_ref().map(|l| l.holder))? else {
        return Ok(CloseBegun::NotFound);
    };
    let is_repeated = recorded.is_some();
    let (at, answered) = match recorded {
        Some(before) => before,
        None => {
            if let Some(refused) = refuse_close(db, close, &account)? {
                return Ok(refused);
            }
            record(db, CallKind::Close, call, id, now)?;
            account.account.close();
            (UnixSeconds(now.seconds()), None)
        }
    };
    // After it stopped granting, so that the lease gets no more.
    let report = |report| account.account.report(report, now.steady_ms);
    let lease = close.lease.as_ref().map(report);
    account.write(db, now)?;
    Ok(CloseBegun::Begun {
        at,
        is_repeated,
        answered,
        lease,
    })
}

/// Why a session is not closed by this call, that was never heard before.
fn refuse_close(
    db: &Connection,
    close: &NewClose,
    account: &Account,
) -> Result<Option<CloseBegun>> {
    let exists = |query, of: &dyn rusqlite::ToSql| -> Result<bool> {
        Ok(db
            .prepare_cached(query)?
            .query_row(params![close.session_id.0, of], |row| row.get(0))?)
    };
    let is_of_another = exists(
        "SELECT EXISTS (SELECT 1 FROM session_results
                        WHERE challenge_id = ?2 AND session_id <> ?1 AND kind <> 'close')",
        &close.call.challenge_id,
    )?;
    if is_of_another {
        return Ok(Some(CloseBegun::Consumed));
    }
    let is_own = exists(
        "SELECT EXISTS (SELECT 1 FROM session_results
                        WHERE session_id = ?1 AND payment_hash = ?2 AND kind <> 'close')",
        &close.call.payment_hash.0,
    )?;
    if close.must_be_own && !is_own {
        return Ok(Some(CloseBegun::Expired));
    }
    Ok((!account.account.is_open).then_some(CloseBegun::AlreadyClosed))
}

type RecordedClose = ([u8; 32], UnixSeconds, Option<Refunded>);

fn recorded_close(
    db: &Connection,
    call: &CallMark,
    session_id: PaymentHash,
) -> Result<Option<RecordedClose>> {
    let found = db
        .prepare_cached(
            "SELECT fingerprint, at, refund_sats, refund_status FROM session_results
             WHERE challenge_id = ?1 AND session_id = ?2 AND kind = 'close'",
        )?
        .query_row(params![call.challenge_id, session_id.0], |row| {
            let answered = match refund_status(row, 3)? {
                None => None,
                Some(status) => Some(Refunded {
                    refund: sat(row, 2)?,
                    status,
                }),
            };
            Ok((row.get(0)?, UnixSeconds(unsigned(row, 1)?), answered))
        })
        .optional()?;
    Ok(found)
}

pub(in super::super) fn ending(db: &Connection, id: PaymentHash) -> Result<Option<Ending>> {
    let found = db
        .prepare_cached(
            // Of a refund that was paid: what the buyer got of it.
            "SELECT s.state,
                    CASE r.state WHEN 'succeeded' THEN r.sent_sat
                                 ELSE s.deposited_sat - s.spent_sat END,
                    r.state
             FROM sessions s LEFT JOIN refunds r USING (session_id) WHERE s.session_id = ?1",
        )?
        .query_row([id.0], |row| {
            Ok(Ending {
                state: session_state(row, 0)?,
                rest: sat(row, 1)?,
                refund: refund_state(row, 2)?,
            })
        })
        .optional()?;
    Ok(found)
}

pub(in super::super) fn record_answer(
    db: &Connection,
    call: &CallMark,
    session_id: PaymentHash,
    answer: Refunded,
) -> Result<Refunded> {
    db.prepare_cached(
        "UPDATE session_results SET refund_sats = ?3, refund_status = ?4
         WHERE challenge_id = ?1 AND session_id = ?2 AND kind = 'close' AND refund_status IS NULL",
    )?
    .execute(params![
        call.challenge_id,
        session_id.0,
        signed(answer.refund.get()),
        answer.status.as_str()
    ])?;
    let recorded = recorded_close(db, call, session_id)?;
    Ok(recorded.and_then(|(_, _, first)| first).unwrap_or(answer))
}

pub(in super::super) fn drop_old_results(db: &Connection, limit: u32, now: Now) -> Result<usize> {
    let dropped = db
        .prepare_cached(
            "DELETE FROM session_results WHERE (challenge_id, session_id, kind) IN (
                SELECT challenge_id, session_id, kind FROM session_results
                WHERE kind = 'close' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?
        .execute(params![signed(now.seconds()), limit])?;
    Ok(dropped)
}
