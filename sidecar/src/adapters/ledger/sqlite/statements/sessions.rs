//! Sessions: deposits, closes, and what was answered.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Result;
use super::claims::claim_deposit;
use super::columns::{refund_state, refund_status, sat, session_state, signed, unsigned};
use super::leases::Opened as Account;
use crate::adapters::ledger::sqlite::clock::Now;
use crate::domain::invoice::NodeId;
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};
use crate::domain::session::{
    CallKind, CallMark, CloseBegun, Deposited, Ending, NewClose, NewDeposit, NewSession, Opened,
    RecordedDeposit, Refunded, SessionCounts, SessionRow, SessionState, Stopped, close_by,
    remembered_until,
};

/// Sessions and leases are heard of anew: this file is served by one process, and while that was
/// down nobody could hear them.
pub(in super::super) fn begin_serving(db: &Connection, now: Now) -> Result<()> {
    let now = signed(now.steady_ms);
    db.execute(
        "UPDATE sessions SET active_ms = ?1 WHERE state = 'open'",
        [now],
    )?;
    db.execute(
        "UPDATE lease_holders SET seen_ms = ?1 WHERE is_live = 1",
        [now],
    )?;
    Ok(())
}

pub(in super::super) fn find_session(
    db: &Connection,
    id: PaymentHash,
) -> Result<Option<SessionRow>> {
    let found = db
        .prepare_cached(
            "SELECT session_id, service, deposited_sat, spent_sat, return_invoice, return_hash,
                    return_expires_at, node, generation, idle_timeout_seconds, close_by, state,
                    opened_ms, active_ms, closed_ms
             FROM sessions WHERE session_id = ?1",
        )?
        .query_row([id.0], session)
        .optional()?;
    Ok(found)
}

fn session(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    Ok(SessionRow {
        id: PaymentHash(row.get(0)?),
        service: row.get(1)?,
        deposited: sat(row, 2)?,
        spent: sat(row, 3)?,
        return_invoice: ReturnInvoice {
            text: ReturnText(row.get(4)?),
            payment_hash: PaymentHash(row.get(5)?),
            expires: UnixSeconds(unsigned(row, 6)?),
        },
        node: NodeId(row.get(7)?),
        generation: row.get(8)?,
        idle_timeout_seconds: unsigned(row, 9)?,
        close_by: UnixSeconds(unsigned(row, 10)?),
        state: session_state(row, 11)?,
        opened_ms: unsigned(row, 12)?,
        active_ms: unsigned(row, 13)?,
        closed_ms: row.get::<_, Option<i64>>(14)?.map(i64::unsigned_abs),
    })
}

pub(in super::super) fn recorded_deposit(
    db: &Connection,
    challenge_id: &str,
    session_id: PaymentHash,
    kind: CallKind,
) -> Result<Option<RecordedDeposit>> {
    let found = db
        .prepare_cached(
            "SELECT fingerprint, at FROM session_results
             WHERE challenge_id = ?1 AND session_id = ?2 AND kind = ?3",
        )?
        .query_row(params![challenge_id, session_id.0, kind.as_str()], |row| {
            Ok(RecordedDeposit {
                fingerprint: row.get(0)?,
                at: UnixSeconds(unsigned(row, 1)?),
            })
        })
        .optional()?;
    Ok(found)
}

pub(in super::super) fn open_session(
    db: &Connection,
    new: &NewSession,
    now: Now,
) -> Result<Opened> {
    let (call, id) = (&new.call, new.call.payment_hash);
    let is_claimed = !claim_deposit(
        db,
        CallKind::Open,
        call,
        &new.service,
        new.deposited,
        now.wall_ms,
    )?;
    if is_claimed {
        return Ok(Opened::Claimed);
    }
    if !insert_session(db, new, now)? {
        db.prepare_cached("DELETE FROM claims WHERE payment_hash = ?1")?
            .execute([id.0])?;
        return Ok(Opened::ReturnInvoiceUsed);
    }
    record(db, CallKind::Open, call, id, now)?;
    let mut account = Account::new(id, new.deposited);
    let lease = account.account.report(&new.lease, now.steady_ms);
    account.write(db, now)?;
    Ok(Opened::Opened {
        at_ms: now.wall_ms,
        lease,
    })
}

/// `false` if another session, or a refund that went to a later invoice, has the return invoice.
fn insert_session(db: &Connection, new: &NewSession, now: Now) -> Result<bool> {
    let to = &new.return_invoice;
    let inserted = db
        .prepare_cached(
            "INSERT INTO sessions (session_id, service, deposited_sat, return_invoice, return_hash,
                                   return_expires_at, close_by, node, generation,
                                   newest_generation, idle_timeout_seconds, opened_ms, active_ms)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?11, ?12
             WHERE NOT EXISTS (SELECT 1 FROM refunds WHERE return_hash = ?5)
             ON CONFLICT (return_hash) DO NOTHING",
        )?
        .execute(params![
            new.call.payment_hash.0,
            new.service,
            signed(new.deposited.get()),
            to.text.as_str(),
            to.payment_hash.0,
            signed(to.expires.0),
            signed(close_by(to.expires, new.idle_timeout_seconds).0),
            new.node.0,
            new.call.generation,
            signed(new.idle_timeout_seconds),
            signed(now.wall_ms),
            signed(now.steady_ms)
        ])?;
    Ok(inserted == 1)
}

fn record(
    db: &Connection,
    kind: CallKind,
    call: &CallMark,
    session_id: PaymentHash,
    now: Now,
) -> Result<()> {
    let at = UnixSeconds(now.seconds());
    let until = (kind == CallKind::Close).then(|| remembered_until(call.expires, at));
    db.prepare_cached(
        "INSERT INTO session_results (challenge_id, session_id, kind, fingerprint, payment_hash,
                                      at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        call.challenge_id,
        session_id.0,
        kind.as_str(),
        call.fingerprint,
        call.payment_hash.0,
        signed(at.0),
        until.map(|until| signed(until.0))
    ])?;
    Ok(())
}

pub(in super::super) fn top_up(
    db: &Connection,
    deposit: &NewDeposit,
    now: Now,
) -> Result<Deposited> {
    let (call, id) = (&deposit.call, deposit.session_id);
    match state(db, id)? {
        None => return Ok(Deposited::NotFound),
        Some(SessionState::Open) => {}
        Some(SessionState::Closing | SessionState::Closed) => return Ok(Deposited::Closed),
    }
    let is_claimed = !claim_deposit(
        db,
        CallKind::TopUp,
        call,
        &deposit.service,
        deposit.amount,
        now.wall_ms,
    )?;
    if is_claimed {
        return Ok(Deposited::Claimed);
    }
    record(db, CallKind::TopUp, call, id, now)?;
    db.prepare_cached(
        "UPDATE sessions
         SET deposited_sat = deposited_sat + ?2, newest_generation = ?3, active_ms = ?4
         WHERE session_id = ?1",
    )?
    .execute(params![
        id.0,
        signed(deposit.amount.get()),
        call.generation,
        signed(now.steady_ms)
    ])?;
    Ok(Deposited::Credited(now.wall_ms))
}

fn state(db: &Connection, id: PaymentHash) -> Result<Option<SessionState>> {
    let found = db
        .prepare_cached("SELECT state FROM sessions WHERE session_id = ?1")?
        .query_row([id.0], |row| session_state(row, 0))
        .optional()?;
    Ok(found)
}

pub(in super::super) fn begin_close(
    db: &Connection,
    close: &NewClose,
    now: Now,
) -> Result<CloseBegun> {
    let (call, id) = (&close.call, close.session_id);
    let answered = match recorded_close(db, call, id)? {
        None => None,
        Some((fingerprint, at, answered)) if fingerprint == call.fingerprint => {
            Some((at, answered))
        }
        Some(_) => return Ok(CloseBegun::Consumed),
    };
    let Some(mut account) = Account::read(db, id, close.lease.as_ref().map(|l| l.holder))? else {
        return Ok(CloseBegun::NotFound);
    };
    let (at, answered) = match answered {
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

pub(in super::super) fn stop_unused(db: &Connection, limit: u32, now: Now) -> Result<Vec<Stopped>> {
    let stopped: Vec<Stopped> = db
        .prepare_cached(
            "SELECT session_id, 1 FROM sessions
             WHERE state = 'open' AND active_ms + idle_timeout_seconds * 1000 <= ?1
             UNION
             SELECT session_id, 0 FROM sessions
             WHERE state = 'open' AND close_by <= ?2
                   AND active_ms + idle_timeout_seconds * 1000 > ?1
             LIMIT ?3",
        )?
        .query_map(
            params![signed(now.steady_ms), signed(now.seconds()), limit],
            |row| {
                Ok(Stopped {
                    session_id: PaymentHash(row.get(0)?),
                    was_idle: row.get(1)?,
                })
            },
        )?
        .collect::<rusqlite::Result<_>>()?;
    for one in &stopped {
        if let Some(mut account) = Account::read(db, one.session_id, None)? {
            account.account.close();
            account.write(db, now)?;
        }
    }
    Ok(stopped)
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

pub(in super::super) fn session_counts(db: &Connection) -> Result<SessionCounts> {
    let counts = db
        .prepare_cached(
            "SELECT (SELECT count(*) FROM sessions WHERE state = 'open'),
                    (SELECT count(*) FROM sessions WHERE state = 'closing'),
                    (SELECT count(*) FROM lease_holders WHERE is_live = 1)",
        )?
        .query_row([], |row| {
            Ok(SessionCounts {
                open: unsigned(row, 0)?,
                closing: unsigned(row, 1)?,
                holders: unsigned(row, 2)?,
            })
        })?;
    Ok(counts)
}
