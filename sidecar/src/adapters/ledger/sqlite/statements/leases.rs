//! Leases: one account is read, the rules of [`crate::domain::lease`] are applied to it, and what
//! changed is written, all in one transaction.

use std::collections::BTreeMap;

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::lease::{HolderId, Report};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Result;
use super::columns::{session_state, signed, unsigned};
use crate::adapters::ledger::sqlite::clock::Now;
use crate::domain::hearing::{Hearing, is_use_news};
use crate::domain::lease::{self, Account, Holder, Reported, Times};
use crate::domain::session::{ReportedLeases, SessionState, SweptLeases};

const HOLDERS: &str = "SELECT holder, granted, used, returned, late, is_live, is_recalled, seen_ms
    FROM lease_holders ";
/// The planner takes the primary key by itself, and reads all that have ended too.
const LIVE: &str = "INDEXED BY lease_holders_account WHERE session_id = ?1 AND is_live = 1";
const NAMED: &str = "WHERE session_id = ?1 AND holder = ?2";

/// A session's account as it was read, with what must be written back.
pub(super) struct Opened {
    id: PaymentHash,
    state: SessionState,
    pub(super) account: Account,
    read: Account,
    /// When the session was last used, as it is written.
    noted_ms: u64,
    /// When the session was used, if it was now and that is news.
    active_ms: Option<u64>,
}

impl Opened {
    /// The account with its live holders, and `named` though it may have ended: all that the
    /// rules look at.
    pub(super) fn read(
        db: &Connection,
        id: PaymentHash,
        named: Option<HolderId>,
    ) -> Result<Option<Self>> {
        let found = db
            .prepare_cached(
                "SELECT deposited_sat, spent_sat, forgotten_sat, state, active_ms FROM sessions
                 WHERE session_id = ?1",
            )?
            .query_row([id.0], |row| {
                let amounts = (unsigned(row, 0)?, unsigned(row, 1)?, unsigned(row, 2)?);
                Ok((amounts, session_state(row, 3)?, unsigned(row, 4)?))
            })
            .optional()?;
        let Some(((deposited, spent, forgotten), state, noted_ms)) = found else {
            return Ok(None);
        };
        let mut holders = db
            .prepare_cached(&format!("{HOLDERS}{LIVE}"))?
            .query_map([id.0], holder)?
            .collect::<rusqlite::Result<BTreeMap<_, _>>>()?;
        if let Some(named) = named.filter(|named| !holders.contains_key(named)) {
            let ended = db
                .prepare_cached(&format!("{HOLDERS}{NAMED}"))?
                .query_row(params![id.0, named.0], holder)
                .optional()?;
            holders.extend(ended);
        }
        let account = Account {
            deposited,
            spent,
            forgotten,
            is_open: state == SessionState::Open,
            is_settled: state == SessionState::Closed,
            holders,
        };
        Ok(Some(Self {
            id,
            state,
            read: account.clone(),
            account,
            noted_ms,
            active_ms: None,
        }))
    }

    /// Of a session that was made in this transaction.
    pub(super) fn new(id: PaymentHash, deposited: Sat) -> Self {
        let account = Account {
            deposited: deposited.get(),
            is_open: true,
            ..Account::default()
        };
        Self {
            id,
            state: SessionState::Open,
            read: account.clone(),
            account,
            noted_ms: 0,
            active_ms: None,
        }
    }

    /// Live leases count as heard of when somebody could hear them, not before.
    fn hear_of_live(&mut self, hearing: Hearing) {
        for (id, holder) in &mut self.account.holders {
            if holder.is_live {
                holder.seen_ms = hearing.heard(holder.seen_ms);
                self.read.holders.insert(*id, *holder);
            }
        }
    }

    /// Writes what the rules changed, and settles the session if they let it. Whether it did.
    pub(super) fn write(mut self, db: &Connection, now: Now) -> Result<bool> {
        let mut upsert = db.prepare_cached(
            "INSERT INTO lease_holders (session_id, holder, granted, used, returned, late, is_live,
                                        is_recalled, seen_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (session_id, holder) DO UPDATE SET
                granted = excluded.granted, used = excluded.used, returned = excluded.returned,
                late = excluded.late, is_live = excluded.is_live,
                is_recalled = excluded.is_recalled, seen_ms = excluded.seen_ms",
        )?;
        for (id, holder) in &self.account.holders {
            if self.read.holders.get(id) == Some(holder) {
                continue;
            }
            upsert.execute(params![
                self.id.0,
                id.0,
                signed(holder.granted),
                signed(holder.used),
                signed(holder.returned),
                signed(holder.late),
                holder.is_live,
                holder.is_recalled,
                signed(holder.seen_ms)
            ])?;
        }
        let gone = (self.read.holders.keys()).filter(|id| !self.account.holders.contains_key(id));
        for id in gone {
            db.prepare_cached("DELETE FROM lease_holders WHERE session_id = ?1 AND holder = ?2")?
                .execute([self.id.0.as_slice(), &id.0])?;
        }
        let amounts = |of: &Account| (of.spent, of.forgotten);
        if amounts(&self.account) != amounts(&self.read) || self.active_ms.is_some() {
            db.prepare_cached(
                "UPDATE sessions
                 SET spent_sat = ?2, forgotten_sat = ?3, active_ms = coalesce(?4, active_ms)
                 WHERE session_id = ?1",
            )?
            .execute(params![
                self.id.0,
                signed(self.account.spent),
                signed(self.account.forgotten),
                self.active_ms.map(signed)
            ])?;
        }
        if self.state == SessionState::Open && !self.account.is_open {
            db.prepare_cached(
                "UPDATE sessions SET state = 'closing', closed_ms = ?2 WHERE session_id = ?1",
            )?
            .execute(params![self.id.0, signed(now.wall_ms)])?;
        }
        match self.account.settle() {
            Some(refund) => settle(db, self.id, refund, now).map(|()| true),
            None => Ok(false),
        }
    }
}

/// L8: what goes back is fixed, and the wish to pay it is written with it.
fn settle(db: &Connection, id: PaymentHash, refund: u64, now: Now) -> Result<()> {
    db.prepare_cached("UPDATE sessions SET state = 'closed' WHERE session_id = ?1")?
        .execute([id.0])?;
    if refund > 0 {
        db.prepare_cached(
            "INSERT INTO refunds (session_id, node, return_invoice, return_hash, amount_sat,
                                  created_ms, updated_ms)
             SELECT session_id, node, return_invoice, return_hash, ?2, ?3, ?3
             FROM sessions WHERE session_id = ?1",
        )?
        .execute(params![id.0, signed(refund), signed(now.wall_ms)])?;
    }
    Ok(())
}

fn holder(row: &Row<'_>) -> rusqlite::Result<(HolderId, Holder)> {
    let holder = Holder {
        granted: unsigned(row, 1)?,
        used: unsigned(row, 2)?,
        returned: unsigned(row, 3)?,
        late: unsigned(row, 4)?,
        is_live: row.get(5)?,
        is_recalled: row.get(6)?,
        seen_ms: unsigned(row, 7)?,
    };
    Ok((HolderId(row.get(0)?), holder))
}

pub(in super::super) fn report_leases(
    db: &Connection,
    reports: &[Report],
    now: Now,
) -> Result<ReportedLeases> {
    let mut all = ReportedLeases::default();
    for report in reports {
        let Some((reported, settled)) = report_lease(db, report, now)? else {
            all.answers.push(lease::unknown(report));
            continue;
        };
        all.answers.push(reported.answer);
        all.lost_units = all.lost_units.saturating_add(reported.lost_units);
        if settled {
            all.settled.push(PaymentHash(report.account.0));
        }
    }
    Ok(all)
}

/// The answer, and whether the session was settled by it; `None`: there is no such session.
fn report_lease(db: &Connection, report: &Report, now: Now) -> Result<Option<(Reported, bool)>> {
    let id = PaymentHash(report.account.0);
    let Some(mut opened) = Opened::read(db, id, Some(report.holder))? else {
        return Ok(None);
    };
    let reported = opened.account.report(report, now.steady_ms);
    let is_news = is_use_news(opened.noted_ms, now.steady_ms);
    let is_used = opened.state == SessionState::Open && is_news;
    opened.active_ms = is_used.then_some(now.steady_ms);
    let settled = opened.write(db, now)?;
    Ok(Some((reported, settled)))
}

pub(in super::super) fn sweep_leases(
    db: &Connection,
    times: &Times,
    limit: u32,
    now: Now,
) -> Result<SweptLeases> {
    let mut swept = SweptLeases::default();
    let since: i64 = db
        .prepare_cached("SELECT serving_since_ms FROM hearing")?
        .query_row([], |row| row.get(0))?;
    let hearing = Hearing {
        now_ms: now.steady_ms,
        since_ms: since.unsigned_abs(),
    };
    for id in silent(db, times, limit, now)? {
        let Some(mut opened) = Opened::read(db, id, None)? else {
            continue;
        };
        swept.sessions += 1;
        opened.hear_of_live(hearing);
        let reclaimed = opened.account.sweep(times, now.steady_ms);
        swept.reclaimed = swept.reclaimed.saturating_add(reclaimed);
        if opened.write(db, now)? {
            swept.settled.push(id);
        }
    }
    forget(db, times, limit, now)?;
    Ok(swept)
}

/// Sessions with leases of which nothing was heard, and those that could be settled: there should
/// be none of these, since whatever ends a lease settles.
fn silent(db: &Connection, times: &Times, limit: u32, now: Now) -> Result<Vec<PaymentHash>> {
    let before = |ms: u64| signed(now.steady_ms.saturating_sub(ms));
    let (reclaim, closing) = (before(times.reclaim_ms), before(times.closing_ms));
    let found = db
        .prepare_cached(
            "SELECT h.session_id FROM lease_holders h JOIN sessions s USING (session_id), hearing
             WHERE h.is_live = 1 AND h.seen_ms <= ?3
                   AND max(h.seen_ms, serving_since_ms)
                       <= CASE s.state WHEN 'open' THEN ?1 ELSE ?2 END
             UNION
             SELECT s.session_id FROM sessions s
             WHERE s.state = 'closing' AND NOT EXISTS (
                SELECT 1 FROM lease_holders h WHERE h.session_id = s.session_id AND h.is_live = 1)
             LIMIT ?4",
        )?
        .query_map(
            params![reclaim, closing, reclaim.max(closing), limit],
            |row| Ok(PaymentHash(row.get(0)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

/// L11. What they had spent stays in their sessions.
fn forget(db: &Connection, times: &Times, limit: u32, now: Now) -> Result<()> {
    let Some(until) = now.steady_ms.checked_sub(times.forget_ms) else {
        return Ok(());
    };
    let forgotten = db
        .prepare_cached(
            "DELETE FROM lease_holders WHERE (session_id, holder) IN (
                SELECT session_id, holder FROM lease_holders
                WHERE is_live = 0 AND seen_ms <= ?1 ORDER BY seen_ms LIMIT ?2)
             RETURNING session_id, used - returned",
        )?
        .query_map(params![signed(until), limit], |row| {
            Ok((PaymentHash(row.get(0)?), row.get::<_, i64>(1)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut keep = db.prepare_cached(
        "UPDATE sessions SET forgotten_sat = forgotten_sat + ?2 WHERE session_id = ?1",
    )?;
    for (id, spent) in forgotten.iter().filter(|(_, spent)| *spent != 0) {
        keep.execute(params![id.0, spent])?;
    }
    Ok(())
}
