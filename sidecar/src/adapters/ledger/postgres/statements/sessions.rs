//! Sessions and their deposits.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use tokio_postgres::Row;

use super::accounts::{Locked, Opened as Account};
use super::claims::claim_deposit;
use super::columns::{array, sat, session_state, signed, unsigned};
use super::{Lock, Result, beside_others, now_ms};
use crate::domain::invoice::NodeId;
use crate::domain::return_invoice::{ReturnInvoice, ReturnText};
use crate::domain::session::{
    CallKind, CallMark, Deposited, NewDeposit, NewSession, Opened, RecordedDeposit, SessionCounts,
    SessionRow, SessionState, close_by, remembered_until,
};

pub(super) const fn seconds(now_ms: u64) -> UnixSeconds {
    UnixSeconds(now_ms / 1_000)
}

pub(in super::super) async fn find_session(
    db: &impl GenericClient,
    id: PaymentHash,
) -> Result<Option<SessionRow>> {
    let query = db
        .prepare_cached(
            "SELECT session_id, service, deposited_sat, spent_sat, return_invoice, return_hash,
                    return_expires_at, node, generation, idle_timeout_seconds, close_by, state,
                    opened_ms, active_ms, closed_ms
             FROM sessions WHERE session_id = $1",
        )
        .await?;
    let row = db.query_opt(&query, &[&&id.0[..]]).await?;
    row.as_ref().map(session).transpose()
}

fn session(row: &Row) -> Result<SessionRow> {
    let closed_ms: Option<i64> = row.try_get(14)?;
    Ok(SessionRow {
        id: PaymentHash(array(row, 0)?),
        service: row.try_get(1)?,
        deposited: sat(row, 2)?,
        spent: sat(row, 3)?,
        return_invoice: ReturnInvoice {
            text: ReturnText(row.try_get(4)?),
            payment_hash: PaymentHash(array(row, 5)?),
            expires: UnixSeconds(unsigned(row, 6)?),
        },
        node: NodeId(array(row, 7)?),
        generation: row.try_get::<_, i16>(8)?.to_le_bytes()[0],
        idle_timeout_seconds: unsigned(row, 9)?,
        close_by: UnixSeconds(unsigned(row, 10)?),
        state: session_state(row, 11)?,
        opened_ms: unsigned(row, 12)?,
        active_ms: unsigned(row, 13)?,
        closed_ms: closed_ms.map(i64::unsigned_abs),
    })
}

pub(in super::super) async fn recorded_deposit(
    db: &impl GenericClient,
    challenge_id: &str,
    session_id: PaymentHash,
    kind: CallKind,
) -> Result<Option<RecordedDeposit>> {
    let query = db
        .prepare_cached(
            "SELECT fingerprint, at FROM session_results
             WHERE challenge_id = $1 AND session_id = $2 AND kind = $3",
        )
        .await?;
    let row = db
        .query_opt(&query, &[&challenge_id, &&session_id.0[..], &kind.as_str()])
        .await?;
    let recorded = row.as_ref().map(|row| {
        Ok(RecordedDeposit {
            fingerprint: array(row, 0)?,
            at: UnixSeconds(unsigned(row, 1)?),
        })
    });
    recorded.transpose()
}

/// The claim of the payment is what makes it happen once: whoever comes second waits for the first
/// to end at that row.
pub(in super::super) async fn open_session(
    db: &impl GenericClient,
    new: &NewSession,
) -> Result<Opened> {
    beside_others(db, Lock::Returns).await?;
    let (call, id) = (&new.call, new.call.payment_hash);
    if !claim_deposit(db, CallKind::Open, call, &new.service, new.deposited).await? {
        return Ok(Opened::Claimed);
    }
    let now_ms = now_ms(db).await?;
    if !insert_session(db, new, now_ms).await? {
        let let_go = db
            .prepare_cached("DELETE FROM claims WHERE payment_hash = $1")
            .await?;
        db.execute(&let_go, &[&&id.0[..]]).await?;
        return Ok(Opened::ReturnInvoiceUsed);
    }
    record(db, CallKind::Open, call, id, now_ms).await?;
    let mut account = Account::new(new.deposited);
    let lease = account.account.report(&new.lease, now_ms);
    let accounts = BTreeMap::from([(id, account)]);
    Locked { accounts, now_ms }.write(db).await?;
    Ok(Opened::Opened {
        at_ms: now_ms,
        lease,
    })
}

/// `false` if another session, or a refund that went to a later invoice, has the return invoice.
async fn insert_session(db: &impl GenericClient, new: &NewSession, now_ms: u64) -> Result<bool> {
    let to = &new.return_invoice;
    let insert = db
        .prepare_cached(
            "INSERT INTO sessions (session_id, service, deposited_sat, return_invoice, return_hash,
                                   return_expires_at, close_by, node, generation,
                                   newest_generation, idle_timeout_seconds, opened_ms, active_ms)
             SELECT $1, $2, $3, $4, $5, $6, $7,
                    coalesce((SELECT node FROM sales WHERE payment_hash = $1), $8),
                    $9, $9, $10, $11, $11
             WHERE NOT EXISTS (SELECT 1 FROM refunds WHERE return_hash = $5)
             ON CONFLICT (return_hash) DO NOTHING",
        )
        .await?;
    let inserted = db
        .execute(
            &insert,
            &[
                &&new.call.payment_hash.0[..],
                &new.service,
                &signed(new.deposited.get()),
                &to.text.as_str(),
                &&to.payment_hash.0[..],
                &signed(to.expires.0),
                &signed(close_by(to.expires, new.idle_timeout_seconds).0),
                &&new.node.0[..],
                &i16::from(new.call.generation),
                &signed(new.idle_timeout_seconds),
                &signed(now_ms),
            ],
        )
        .await?;
    Ok(inserted == 1)
}

pub(super) async fn record(
    db: &impl GenericClient,
    kind: CallKind,
    call: &CallMark,
    session_id: PaymentHash,
    now_ms: u64,
) -> Result<()> {
    let at = seconds(now_ms);
    let until = (kind == CallKind::Close).then(|| remembered_until(call.expires, at));
    let insert = db
        .prepare_cached(
            "INSERT INTO session_results (challenge_id, session_id, kind, fingerprint,
                                          payment_hash, at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .await?;
    db.execute(
        &insert,
        &[
            &call.challenge_id,
            &&session_id.0[..],
            &kind.as_str(),
            &&call.fingerprint[..],
            &&call.payment_hash.0[..],
            &signed(at.0),
            &until.map(|until| signed(until.0)),
        ],
    )
    .await?;
    Ok(())
}

pub(in super::super) async fn top_up(
    db: &impl GenericClient,
    deposit: &NewDeposit,
) -> Result<Deposited> {
    let (call, id) = (&deposit.call, deposit.session_id);
    let lock = db
        .prepare_cached("SELECT state FROM sessions WHERE session_id = $1 FOR UPDATE")
        .await?;
    let state = db.query_opt(&lock, &[&&id.0[..]]).await?;
    match state.map(|row| session_state(&row, 0)).transpose()? {
        None => return Ok(Deposited::NotFound),
        Some(SessionState::Open) => {}
        Some(SessionState::Closing | SessionState::Closed) => return Ok(Deposited::Closed),
    }
    if !claim_deposit(db, CallKind::TopUp, call, &deposit.service, deposit.amount).await? {
        return Ok(Deposited::Claimed);
    }
    let now_ms = now_ms(db).await?;
    record(db, CallKind::TopUp, call, id, now_ms).await?;
    let credit = db
        .prepare_cached(
            "UPDATE sessions
             SET deposited_sat = deposited_sat + $2, newest_generation = $3, active_ms = $4
             WHERE session_id = $1",
        )
        .await?;
    db.execute(
        &credit,
        &[
            &&id.0[..],
            &signed(deposit.amount.get()),
            &i16::from(call.generation),
            &signed(now_ms),
        ],
    )
    .await?;
    Ok(Deposited::Credited(now_ms))
}

pub(in super::super) async fn session_counts(db: &impl GenericClient) -> Result<SessionCounts> {
    let query = db
        .prepare_cached(
            "SELECT (SELECT count(*) FROM sessions WHERE state = 'open'),
                    (SELECT count(*) FROM sessions WHERE state = 'closing'),
                    (SELECT count(*) FROM lease_holders WHERE is_live)",
        )
        .await?;
    let row = db.query_one(&query, &[]).await?;
    Ok(SessionCounts {
        open: unsigned(&row, 0)?,
        closing: unsigned(&row, 1)?,
        holders: unsigned(&row, 2)?,
    })
}
