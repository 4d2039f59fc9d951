//! Sessions: deposits, and what ends because nobody uses it.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Result;
use super::claims::claim_deposit;
use super::columns::{sat, session_state, signed, unsigned};
use super::leases::Opened as Account;
use crate::adapters::ledger::sqlite::clock::Now;
use crate::domain::hearing::USED_EVERY_MS;
use crate::domain::invoice::NodeId;
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};
use crate::domain::session::{
    CallKind, CallMark, Deposited, NewDeposit, NewSession, Opened, RecordedDeposit, SessionCounts,
    SessionRow, SessionState, Stopped, close_by, remembered_until,
};

/// Sessions and leases are heard of anew: this file is served by one process, and while that was
/// down nobody could hear them. One row says so for all. Before the machine's clock was set back,
/// moments were noted that are still to come; those are few or none.
pub(in super::super) fn begin_serving(db: &Connection, now: Now) -> Result<()> {
    for hear in [
        "UPDATE hearing SET serving_since_ms = ?1",
        "UPDATE sessions SET active_ms = ?1 WHERE state = 'open' AND active_ms > ?1",
        "UPDATE lease_holders SET seen_ms = ?1 WHERE is_live = 1 AND seen_ms > ?1",
    ] {
        db.prepare_cached(hear)?.execute([signed(now.steady_ms)])?;
    }
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
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7,
                    coalesce((SELECT node FROM sales WHERE payment_hash = ?1), ?8),
                    ?9, ?9, ?10, ?11, ?12
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

pub(super) fn record(
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

pub(in super::super) fn stop_unused(db: &Connection, limit: u32, now: Now) -> Result<Vec<Stopped>> {
    let stopped: Vec<Stopped> = db
        .prepare_cached(
            "SELECT session_id, 1 FROM sessions, hearing
             WHERE state = 'open' AND active_ms + idle_timeout_seconds * 1000 <= ?1 - ?4
                   AND serving_since_ms + idle_timeout_seconds * 1000 <= ?1
             UNION
             SELECT session_id, 0 FROM sessions, hearing
             WHERE state = 'open' AND close_by <= ?2
                   AND max(active_ms + ?4, serving_since_ms) + idle_timeout_seconds * 1000 > ?1
             LIMIT ?3",
        )?
        .query_map(
            params![
                signed(now.steady_ms),
                signed(now.seconds()),
                limit,
                signed(USED_EVERY_MS)
            ],
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
