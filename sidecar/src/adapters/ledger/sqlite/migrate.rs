//! Forward-only migrations, counted in the file's `user_version`.

use std::cmp::Ordering;

use rusqlite::{Connection, TransactionBehavior};

use crate::domain::ledger::LedgerError;

/// `BtGt`: marks a file as a ledger of ours.
const APPLICATION_ID: i64 = 0x4274_4774;

const MIGRATIONS: &[&str] = &[
    include_str!("../../../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../../../migrations/sqlite/0002_claims.sql"),
    include_str!("../../../../migrations/sqlite/0003_sessions.sql"),
    include_str!("../../../../migrations/sqlite/0004_refund_payments.sql"),
    include_str!("../../../../migrations/sqlite/0005_serving_since.sql"),
    include_str!("../../../../migrations/sqlite/0006_refund_order.sql"),
    include_str!("../../../../migrations/sqlite/0007_refund_checks.sql"),
    include_str!("../../../../migrations/sqlite/0008_hot_rows.sql"),
    include_str!("../../../../migrations/sqlite/0009_nodes.sql"),
    include_str!("../../../../migrations/sqlite/0010_forgotten_leases.sql"),
    include_str!("../../../../migrations/sqlite/0011_claimed_charges.sql"),
];

/// Brings the schema up to date. Safe when two processes do it at once: each step looks at the
/// version again inside its transaction.
pub(super) fn to_latest(db: &mut Connection) -> Result<(), LedgerError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    loop {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let mark: i64 = tx.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        if mark != APPLICATION_ID && (mark != 0 || tables != 0) {
            return Err(LedgerError::Foreign(format!("application id is {mark:#x}")));
        }
        if found > known {
            return Err(LedgerError::TooNew { found, known });
        }
        let Some(step) = usize::try_from(found)
            .ok()
            .and_then(|at| MIGRATIONS.get(at))
        else {
            return Ok(());
        };
        tx.execute_batch(step)?;
        if found == 0 {
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.execute(
                "INSERT INTO instance (id, epoch, version, created_at)
                 VALUES (1, randomblob(16), 1, unixepoch())",
                [],
            )?;
        }
        tx.pragma_update(None, "user_version", found + 1)?;
        tx.commit()?;
    }
}

/// Refuses a schema that is not up to date.
pub(super) fn check(db: &Connection) -> Result<(), LedgerError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let mark: i64 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    match found.cmp(&known) {
        _ if mark != APPLICATION_ID => {
            Err(LedgerError::Foreign(format!("application id is {mark:#x}")))
        }
        Ordering::Less => Err(LedgerError::TooOld { found, known }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(LedgerError::TooNew { found, known }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty ledger as it was after that many steps.
    fn to_version(db: &Connection, steps: usize) {
        for step in &MIGRATIONS[..steps] {
            db.execute_batch(step).unwrap();
        }
        db.pragma_update(None, "application_id", APPLICATION_ID)
            .unwrap();
        db.pragma_update(None, "user_version", steps as i64)
            .unwrap();
    }

    #[test]
    fn a_ledger_of_a_newer_version_is_refused() {
        let mut db = Connection::open_in_memory().unwrap();
        to_latest(&mut db).unwrap();
        db.pragma_update(None, "user_version", 99).unwrap();
        let known = MIGRATIONS.len() as i64;
        assert_eq!(
            to_latest(&mut db),
            Err(LedgerError::TooNew { found: 99, known })
        );
    }

    #[test]
    fn a_database_of_something_else_is_left_alone() {
        let mut db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE other (x)").unwrap();
        assert!(matches!(to_latest(&mut db), Err(LedgerError::Foreign(_))));
    }

    #[test]
    fn a_ledger_of_the_first_version_is_brought_up_to_date_and_keeps_what_it_has() {
        let mut db = Connection::open_in_memory().unwrap();
        to_version(&db, 1);
        db.execute_batch(
            "INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at)
             VALUES (zeroblob(32), 'l402', 'weather', 1000, 1)",
        )
        .unwrap();
        to_latest(&mut db).unwrap();
        let count = |table: &str| -> i64 {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0))
                .unwrap()
        };
        assert_eq!((count("sales"), count("claims")), (1, 0));
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(version, MIGRATIONS.len() as i64);
    }

    #[test]
    fn what_was_spent_by_leases_that_were_forgotten_before_is_taken_on_trust() {
        let mut db = Connection::open_in_memory().unwrap();
        to_version(&db, 9);
        // Of 50, 40 and 5 that were spent, leases that are remembered have used 12, 0 and 6.
        db.execute_batch(
            "INSERT INTO sessions (session_id, service, deposited_sat, spent_sat, return_invoice,
                 return_hash, return_expires_at, close_by, node, generation, newest_generation,
                 idle_timeout_seconds, opened_ms, active_ms)
             SELECT unhex(printf('%064x', n)), 's', 100, spent, 'i', unhex(printf('%064x', n)), 9,
                    9, zeroblob(33), 0, 0, 1, 1, 1
             FROM (SELECT 1 AS n, 50 AS spent UNION SELECT 2, 40 UNION SELECT 3, 5);
             INSERT INTO lease_holders SELECT unhex(printf('%064x', n)), zeroblob(16), used, used, 2,
                    0, 0, 0, 1 FROM (SELECT 1 AS n, 14 AS used UNION SELECT 3, 8)",
        )
        .unwrap();
        to_latest(&mut db).unwrap();
        let mut query = db
            .prepare("SELECT forgotten_sat FROM sessions ORDER BY session_id")
            .unwrap();
        let found = query.query_map([], |row| row.get(0)).unwrap();
        let found: Vec<i64> = found.map(Result::unwrap).collect();
        assert_eq!(found, [38, 40, 0]);
    }

    #[test]
    fn charges_whose_claims_were_forgotten_before_are_taken_for_claimed() {
        let mut db = Connection::open_in_memory().unwrap();
        to_version(&db, 10);
        db.execute_batch(
            "INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at)
             SELECT unhex(printf('%064x', n)), scheme, 'weather', 1000, 1
             FROM (SELECT 1 AS n, 'charge' AS scheme UNION SELECT 2, 'charge' UNION
                   SELECT 3, 'session');
             INSERT INTO claims VALUES (unhex(printf('%064x', 2)), 'charge', zeroblob(16), 'c',
                 'weather', 1, 1, 1)",
        )
        .unwrap();
        to_latest(&mut db).unwrap();
        let mut query = db
            .prepare("SELECT was_claimed FROM sales ORDER BY payment_hash")
            .unwrap();
        let found = query.query_map([], |row| row.get(0)).unwrap();
        let found: Vec<bool> = found.map(Result::unwrap).collect();
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn a_schema_of_another_version_is_refused_where_nothing_may_be_changed() {
        let mut db = Connection::open_in_memory().unwrap();
        assert!(matches!(check(&db), Err(LedgerError::Foreign(_))));
        to_latest(&mut db).unwrap();
        assert_eq!(check(&db), Ok(()));
        let known = MIGRATIONS.len() as i64;
        db.pragma_update(None, "user_version", 1).unwrap();
        assert_eq!(check(&db), Err(LedgerError::TooOld { found: 1, known }));
        db.pragma_update(None, "user_version", 99).unwrap();
        assert_eq!(check(&db), Err(LedgerError::TooNew { found: 99, known }));
    }

    #[test]
    fn migrating_twice_changes_nothing() {
        let mut db = Connection::open_in_memory().unwrap();
        to_latest(&mut db).unwrap();
        let epoch = |db: &Connection| -> Vec<u8> {
            db.query_row("SELECT epoch FROM instance", [], |row| row.get(0))
                .unwrap()
        };
        let before = epoch(&db);
        to_latest(&mut db).unwrap();
        assert_eq!(epoch(&db), before);
    }
}
