//! Accounts: locked, read, and written back after the rules of [`crate::domain::lease`] were applied,
//! all in one transaction.
//!
//! The lock of an account is the row lock of its session: whoever applies the rules takes it first.
//! Several are taken in the order of their ids, so that transactions never wait for each other in a
//! circle; it takes as many statements for one as for all.

use std::collections::BTreeMap;

use deadpool_postgres::GenericClient;
use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::lease::HolderId;
use tokio_postgres::Row;

use super::columns::{array, session_state, signed, unsigned};
use super::{NOW_MS, Result};
use crate::domain::hearing::{Hearing, is_use_news};
use crate::domain::lease::{Account, Holder};
use crate::domain::session::SessionState;

const HOLDERS: &str = "h.session_id, h.holder, h.granted, h.used, h.returned, h.late, h.is_live,
    h.is_recalled, h.seen_ms";

/// A session's account as it was read, with what must be written back.
pub(super) struct Opened {
    pub(super) state: SessionState,
    pub(super) account: Account,
    read: Account,
    /// When the session was last used, as it is written.
    noted_ms: u64,
    /// When the session was used, if it was now and that is news.
    active_ms: Option<u64>,
    /// What goes back to the buyer, if that was fixed now.
    refund: Option<u64>,
}

impl Opened {
    /// Of a session that was made in this transaction.
    pub(super) fn new(deposited: Sat) -> Self {
        let account = Account {
            deposited: deposited.get(),
            is_open: true,
            ..Account::default()
        };
        Self::of(SessionState::Open, account, 0)
    }

    fn of(state: SessionState, account: Account, noted_ms: u64) -> Self {
        Self {
            state,
            noted_ms,
            read: account.clone(),
            account,
            active_ms: None,
            refund: None,
        }
    }

    /// The session is in use.
    pub(super) fn is_used(&mut self, now_ms: u64) {
        let is_news = self.state == SessionState::Open && is_use_news(self.noted_ms, now_ms);
        self.active_ms = self.active_ms.or(is_news.then_some(now_ms));
    }

    /// Settles the account if the rules let it. Whether they did.
    pub(super) fn settle(&mut self) -> bool {
        let refund = self.account.settle();
        self.refund = self.refund.or(refund);
        refund.is_some()
    }

    const fn state_now(&self) -> SessionState {
        match (self.account.is_open, self.account.is_settled) {
            (true, _) => SessionState::Open,
            (false, false) => SessionState::Closing,
            (false, true) => SessionState::Closed,
        }
    }

    fn is_changed(&self) -> bool {
        self.account.spent != self.read.spent
            || self.account.forgotten != self.read.forgotten
            || self.active_ms.is_some()
            || self.state_now() != self.state
    }
}

/// What to do about an account that another transaction has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Busy {
    /// Wait for it.
    Wait,
    /// Leave it out.
    Skip,
}

/// Accounts that nobody else can change until this transaction ends.
pub(super) struct Locked {
    pub(super) accounts: BTreeMap<PaymentHash, Opened>,
    /// The moment, after all locks were there.
    pub(super) now_ms: u64,
}

impl Locked {
    /// These accounts, as far as they are there, with their live holders, and with the `named`
    /// ones though they may have ended: all that the rules look at.
    pub(super) async fn read(
        db: &impl GenericClient,
        ids: &[PaymentHash],
        named: &[(PaymentHash, HolderId)],
        busy: Busy,
    ) -> Result<Self> {
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id.0[..]).collect();
        let lock = db
            .prepare_cached(match busy {
                Busy::Wait => {
                    "SELECT session_id, deposited_sat, spent_sat, forgotten_sat, state, active_ms
                     FROM sessions WHERE session_id = ANY($1) ORDER BY session_id FOR UPDATE"
                }
                Busy::Skip => {
                    "SELECT session_id, deposited_sat, spent_sat, forgotten_sat, state, active_ms
                     FROM sessions WHERE session_id = ANY($1) ORDER BY session_id FOR UPDATE SKIP LOCKED"
                }
            })
            .await?;
        let mut accounts = BTreeMap::new();
        for row in db.query(&lock, &[&ids]).await? {
            let state = session_state(&row, 4)?;
            let account = Account {
                deposited: unsigned(&row, 1)?,
                spent: unsigned(&row, 2)?,
                forgotten: unsigned(&row, 3)?,
                is_open: state == SessionState::Open,
                is_settled: state == SessionState::Closed,
                holders: BTreeMap::new(),
            };
            let opened = Opened::of(state, account, unsigned(&row, 5)?);
            accounts.insert(PaymentHash(array(&row, 0)?), opened);
        }
        // In later statements, which see what was committed while the locks were waited for.
        let holders: Vec<&[u8]> = named.iter().map(|(_, holder)| &holder.0[..]).collect();
        let of: Vec<&[u8]> = named.iter().map(|(id, _)| &id.0[..]).collect();
        let live = db
            .prepare_cached(&format!(
                "SELECT {HOLDERS} FROM lease_holders AS h
                 WHERE h.session_id = ANY($1) AND h.is_live
                 UNION ALL
                 SELECT {HOLDERS}
                 FROM unnest($2::bytea[], $3::bytea[]) AS named (session_id, holder)
                 JOIN lease_holders AS h USING (session_id, holder) WHERE NOT h.is_live"
            ))
            .await?;
        let rows = db.query(&live, &[&ids, &of, &holders]).await?;
        let hearing = hearing(db).await?;
        for row in rows {
            if let Some(opened) = accounts.get_mut(&PaymentHash(array(&row, 0)?)) {
                let (id, mut holder) = holder(&row)?;
                if holder.is_live {
                    holder.seen_ms = hearing.heard(holder.seen_ms);
                }
                opened.account.holders.insert(id, holder);
                opened.read.holders.insert(id, holder);
            }
        }
        Ok(Self {
            accounts,
            now_ms: hearing.now_ms,
        })
    }

    /// Writes what the rules changed; for what was settled (L8) also the wish to pay the refund.
    pub(super) async fn write(&self, db: &impl GenericClient) -> Result<()> {
        self.write_holders(db).await?;
        self.write_sessions(db).await?;
        self.write_refunds(db).await
    }

    async fn write_holders(&self, db: &impl GenericClient) -> Result<()> {
        let all = self.accounts.iter().flat_map(|(session, opened)| {
            let holders = opened.account.holders.iter();
            holders.map(move |(id, holder)| (session, opened, id, holder))
        });
        let changed: Vec<_> = all
            .filter(|(_, opened, id, holder)| opened.read.holders.get(id) != Some(*holder))
            .collect();
        let column = |of: fn(&Holder) -> u64| {
            let values = changed.iter().map(|(.., holder)| signed(of(holder)));
            values.collect::<Vec<_>>()
        };
        let flag = |of: fn(&Holder) -> bool| {
            let values = changed.iter().map(|(.., holder)| of(holder));
            values.collect::<Vec<_>>()
        };
        let sessions: Vec<&[u8]> = changed.iter().map(|(id, ..)| &id.0[..]).collect();
        let holders: Vec<&[u8]> = changed.iter().map(|(_, _, id, _)| &id.0[..]).collect();
        if !changed.is_empty() {
            let upsert = db
                .prepare_cached(
                    "INSERT INTO lease_holders (session_id, holder, granted, used, returned, late,
                                                is_live, is_recalled, seen_ms)
                     SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[],
                                          $5::bigint[], $6::bigint[], $7::boolean[],
                                          $8::boolean[], $9::bigint[])
                     ON CONFLICT (session_id, holder) DO UPDATE SET
                        granted = excluded.granted, used = excluded.used,
                        returned = excluded.returned, late = excluded.late,
                        is_live = excluded.is_live, is_recalled = excluded.is_recalled,
                        seen_ms = excluded.seen_ms",
                )
                .await?;
            db.execute(
                &upsert,
                &[
                    &sessions,
                    &holders,
                    &column(|holder| holder.granted),
                    &column(|holder| holder.used),
                    &column(|holder| holder.returned),
                    &column(|holder| holder.late),
                    &flag(|holder| holder.is_live),
                    &flag(|holder| holder.is_recalled),
                    &column(|holder| holder.seen_ms),
                ],
            )
            .await?;
        }
        self.delete_holders(db).await
    }

    async fn delete_holders(&self, db: &impl GenericClient) -> Result<()> {
        let all = self.accounts.iter().flat_map(|(session, opened)| {
            let was = opened.read.holders.keys();
            let gone = was.filter(|id| !opened.account.holders.contains_key(id));
            gone.map(move |id| (&session.0[..], &id.0[..]))
        });
        let (sessions, holders): (Vec<&[u8]>, Vec<&[u8]>) = all.unzip();
        if sessions.is_empty() {
            return Ok(());
        }
        let delete = db
            .prepare_cached(
                "DELETE FROM lease_holders AS h
                 USING unnest($1::bytea[], $2::bytea[]) AS gone (session_id, holder)
                 WHERE h.session_id = gone.session_id AND h.holder = gone.holder",
            )
            .await?;
        db.execute(&delete, &[&sessions, &holders]).await?;
        Ok(())
    }

    async fn write_sessions(&self, db: &impl GenericClient) -> Result<()> {
        let changed = self
            .accounts
            .iter()
            .filter(|(_, opened)| opened.is_changed());
        let changed: Vec<_> = changed.collect();
        if changed.is_empty() {
            return Ok(());
        }
        let ids: Vec<&[u8]> = changed.iter().map(|(id, _)| &id.0[..]).collect();
        let spent: Vec<_> = changed
            .iter()
            .map(|(_, o)| signed(o.account.spent))
            .collect();
        let forgotten: Vec<_> = changed
            .iter()
            .map(|(_, o)| signed(o.account.forgotten))
            .collect();
        let active: Vec<_> = changed
            .iter()
            .map(|(_, o)| o.active_ms.map(signed))
            .collect();
        let states: Vec<_> = changed
            .iter()
            .map(|(_, o)| o.state_now().as_str())
            .collect();
        let update = db
            .prepare_cached(
                "UPDATE sessions AS s
                 SET spent_sat = new.spent_sat, forgotten_sat = new.forgotten_sat,
                     active_ms = coalesce(new.active_ms, s.active_ms), state = new.state,
                     closed_ms = CASE WHEN new.state <> 'open' THEN coalesce(s.closed_ms, $6) END
                 FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
                      AS new (session_id, spent_sat, forgotten_sat, active_ms, state)
                 WHERE s.session_id = new.session_id",
            )
            .await?;
        db.execute(
            &update,
            &[
                &ids,
                &spent,
                &forgotten,
                &active,
                &states,
                &signed(self.now_ms),
            ],
        )
        .await?;
        Ok(())
    }

    async fn write_refunds(&self, db: &impl GenericClient) -> Result<()> {
        let due = self.accounts.iter().filter_map(|(id, opened)| {
            let refund = opened.refund.filter(|refund| *refund > 0)?;
            Some((&id.0[..], signed(refund)))
        });
        let (ids, amounts): (Vec<&[u8]>, Vec<i64>) = due.unzip();
        if ids.is_empty() {
            return Ok(());
        }
        let insert = db
            .prepare_cached(
                "INSERT INTO refunds (session_id, node, return_invoice, return_hash, amount_sat,
                                      created_ms, updated_ms)
                 SELECT s.session_id, s.node, s.return_invoice, s.return_hash, due.amount, $3, $3
                 FROM sessions AS s
                 JOIN unnest($1::bytea[], $2::bigint[]) AS due (session_id, amount)
                      USING (session_id)",
            )
            .await?;
        db.execute(&insert, &[&ids, &amounts, &signed(self.now_ms)])
            .await?;
        Ok(())
    }
}

/// After the locks were waited for.
async fn hearing(db: &impl GenericClient) -> Result<Hearing> {
    let query = db
        .prepare_cached(&format!("SELECT {NOW_MS}, serving_since_ms FROM hearing"))
        .await?;
    let row = db.query_one(&query, &[]).await?;
    Ok(Hearing {
        now_ms: unsigned(&row, 0)?,
        since_ms: unsigned(&row, 1)?,
    })
}

fn holder(row: &Row) -> Result<(HolderId, Holder)> {
    let holder = Holder {
        granted: unsigned(row, 2)?,
        used: unsigned(row, 3)?,
        returned: unsigned(row, 4)?,
        late: unsigned(row, 5)?,
        is_live: row.try_get(6)?,
        is_recalled: row.try_get(7)?,
        seen_ms: unsigned(row, 8)?,
    };
    Ok((HolderId(array(row, 1)?), holder))
}
