//! Bookkeeping.

use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use tokio_postgres::{IsolationLevel, Row};

use super::PostgresLedger;
use super::failure::Failure;
use super::session::{LONG_DEADLINE, ask};
use super::statements::{array, signed, unsigned};
use crate::adapters::ledger::books::{RULES, Rule, entries};
use crate::domain::books::{Entry, EntryKind, Place, Violation};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::BooksLedger;

impl BooksLedger for PostgresLedger {
    async fn violations(&self, limit: u32) -> Result<Vec<Violation>, LedgerError> {
        ask!(self.pool, CHECK_DEADLINE, |db| violations(db, limit))
    }

    async fn entries(
        &self,
        kind: EntryKind,
        place: Place,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        ask!(self.pool, LONG_DEADLINE, |db| page(db, kind, place, limit))
    }
}

/// For all rules of a ledger of many millions.
const CHECK_DEADLINE: Duration = Duration::from_secs(3_600);

/// One look at the database, that may take as long as its caller waits.
pub(super) async fn long_read(db: &mut Object) -> Result<Transaction<'_>, Failure> {
    let tx = db
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    tx.batch_execute("SET LOCAL statement_timeout = '1h'")
        .await?;
    Ok(tx)
}

async fn violations(db: &mut Object, limit: u32) -> Result<Vec<Violation>, Failure> {
    let tx = long_read(db).await?;
    let mut all = Vec::new();
    for rule in RULES {
        let sql = format!("{} LIMIT {limit}", rule.sql);
        for row in tx.query(&sql, &[]).await? {
            all.push(violation(&row, rule)?);
        }
    }
    tx.commit().await?;
    Ok(all)
}

fn violation(row: &Row, rule: &Rule) -> Result<Violation, Failure> {
    let mut found = Vec::new();
    for (column, name) in rule.names.iter().enumerate() {
        let value: Option<i64> = row.try_get(column + 1)?;
        found.extend(value.map(|value| (*name, value)));
    }
    Ok(Violation {
        rule: rule.says,
        of: PaymentHash(array(row, 0)?),
        found,
    })
}

async fn page(
    db: &mut Object,
    kind: EntryKind,
    place: Place,
    limit: u32,
) -> Result<Vec<Entry>, Failure> {
    let after = place.after.map_or(Vec::new(), |id| id.0.to_vec());
    let tx = long_read(db).await?;
    let query = tx.prepare_cached(entries(kind)).await?;
    let rows = tx
        .query(&query, &[&signed(place.key), &after, &i64::from(limit)])
        .await?;
    tx.commit().await?;
    rows.iter().map(|row| entry(row, kind)).collect()
}

fn entry(row: &Row, kind: EntryKind) -> Result<Entry, Failure> {
    let amount = |column| -> Result<Option<u64>, Failure> {
        let amount: Option<i64> = row.try_get(column)?;
        Ok(amount.map(i64::unsigned_abs))
    };
    let id = PaymentHash(array(row, 1)?);
    Ok(Entry {
        kind,
        at: UnixSeconds(unsigned(row, 4)?),
        id,
        service: row.try_get(2)?,
        state: row.try_get(3)?,
        amount_msat: unsigned(row, 5)?,
        spent_msat: amount(6)?,
        sent_msat: amount(7)?,
        fee_msat: amount(8)?,
        place: Place {
            key: unsigned(row, 0)?,
            after: Some(id),
        },
    })
}
