//! Bookkeeping.

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, Row, params};

use super::SqliteLedger;
use crate::adapters::ledger::books::{RULES, Rule, entries};
use crate::domain::books::{Entry, EntryKind, Place, Violation};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::BooksLedger;

impl BooksLedger for SqliteLedger {
    async fn violations(&self, limit: u32) -> Result<Vec<Violation>, LedgerError> {
        self.readers
            .read(move |db| {
                let mut all = Vec::new();
                for rule in RULES {
                    all.extend(contradictions(db, rule, limit)?);
                }
                Ok(all)
            })
            .await
    }

    async fn entries(
        &self,
        kind: EntryKind,
        place: Place,
        limit: u32,
    ) -> Result<Vec<Entry>, LedgerError> {
        self.readers
            .read(move |db| {
                let after = place.after.map_or(Vec::new(), |id| id.0.to_vec());
                let key = i64::try_from(place.key).unwrap_or(i64::MAX);
                let found = db
                    .prepare_cached(&entries(kind).replace('$', "?"))?
                    .query_map(params![key, after, limit], |row| entry(row, kind))?
                    .collect::<rusqlite::Result<_>>()?;
                Ok(found)
            })
            .await
    }
}

fn contradictions(db: &Connection, rule: &Rule, limit: u32) -> Result<Vec<Violation>, LedgerError> {
    let found = db
        .prepare(&format!("{} LIMIT ?1", rule.sql))?
        .query_map([limit], |row| {
            let mut found = Vec::new();
            for (column, name) in rule.names.iter().enumerate() {
                let value = row.get::<_, Option<i64>>(column + 1)?;
                found.extend(value.map(|value| (*name, value)));
            }
            Ok(Violation {
                rule: rule.says,
                of: PaymentHash(row.get(0)?),
                found,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

fn entry(row: &Row<'_>, kind: EntryKind) -> rusqlite::Result<Entry> {
    let amount = |column| -> rusqlite::Result<Option<u64>> {
        Ok(row.get::<_, Option<i64>>(column)?.map(i64::unsigned_abs))
    };
    let id = PaymentHash(row.get(1)?);
    Ok(Entry {
        kind,
        at: UnixSeconds(row.get::<_, i64>(4)?.unsigned_abs()),
        id,
        service: row.get(2)?,
        state: row.get(3)?,
        amount_msat: row.get::<_, i64>(5)?.unsigned_abs(),
        spent_msat: amount(6)?,
        sent_msat: amount(7)?,
        fee_msat: amount(8)?,
        place: Place {
            key: row.get::<_, i64>(0)?.unsigned_abs(),
            after: Some(id),
        },
    })
}
