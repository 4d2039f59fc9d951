//! Forward-only migrations, counted in a table of their own.

use std::time::Duration;

use tokio_postgres::Row;

use super::connect::Connections;
use super::failure::Failure;
use super::session::{Session, within};
use super::statements::{Lock, alone};
use crate::adapters::ledger::Migration;
use crate::domain::ledger::LedgerError;

const MIGRATIONS: &[&str] = &[
    include_str!("../../../../migrations/postgres/0001_initial.sql"),
    include_str!("../../../../migrations/postgres/0002_claims.sql"),
    include_str!("../../../../migrations/postgres/0003_sessions.sql"),
    include_str!("../../../../migrations/postgres/0004_refund_payments.sql"),
    include_str!("../../../../migrations/postgres/0005_serving_since.sql"),
    include_str!("../../../../migrations/postgres/0006_refund_order.sql"),
    include_str!("../../../../migrations/postgres/0007_refund_checks.sql"),
    include_str!("../../../../migrations/postgres/0008_hot_rows.sql"),
    include_str!("../../../../migrations/postgres/0009_nodes.sql"),
    include_str!("../../../../migrations/postgres/0010_forgotten_leases.sql"),
    include_str!("../../../../migrations/postgres/0011_claimed_charges.sql"),
];

/// Oldest server that has all that we use.
const OLDEST: i32 = 130_000;

/// Longest time for all steps. One that writes each row of a large ledger anew takes minutes, and
/// would begin again at each start if it were cut short.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// Brings the schema up to date, or says that it is not. Safe when several processes do it at
/// once: each step is a transaction that looks at the version again while it alone may change it.
pub(super) async fn migrate(pool: &Connections, migration: Migration) -> Result<(), LedgerError> {
    let all = async {
        while step(pool, migration).await? {}
        Ok(())
    };
    Ok(within(DEADLINE, all).await?)
}

/// One step; whether there was one to do.
async fn step(pool: &Connections, migration: Migration) -> Result<bool, Failure> {
    let mut session = Session::of(pool).await?;
    let tx = session.begin().await?;
    // Another process may take its time for a step.
    tx.batch_execute("SET LOCAL lock_timeout = '50s'; SET LOCAL statement_timeout = 0")
        .await?;
    let server = tx
        .query_one(
            "SELECT current_setting('server_version_num')::int, current_setting('fsync') = 'on',
                    current_setting('synchronous_commit') = 'on'
                        AND current_setting('idle_in_transaction_session_timeout') = '3s'",
            &[],
        )
        .await?;
    check_server(&server)?;
    alone(&tx, Lock::Schema).await?;
    let tables = tx
        .query_one(
            "SELECT to_regclass('boltgate_schema') IS NOT NULL,
                    to_regclass('instance') IS NOT NULL OR to_regclass('offers') IS NOT NULL
                        OR to_regclass('claims') IS NOT NULL OR to_regclass('sales') IS NOT NULL",
            &[],
        )
        .await?;
    let (is_ours, is_taken): (bool, bool) = (tables.try_get(0)?, tables.try_get(1)?);
    if !is_ours && is_taken {
        let what = "the database has tables of the same names".to_owned();
        return Err(LedgerError::Foreign(what).into());
    }
    let found: i64 = match is_ours {
        true => tx
            .query_one("SELECT version FROM boltgate_schema", &[])
            .await?
            .try_get(0)?,
        false => 0,
    };
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(LedgerError::TooNew { found, known }.into());
    }
    let at = usize::try_from(found).ok();
    let Some(sql) = at.and_then(|at| MIGRATIONS.get(at)) else {
        tx.commit().await?;
        session.keep();
        return Ok(false);
    };
    if migration == Migration::Never {
        return Err(LedgerError::TooOld { found, known }.into());
    }
    if !is_ours {
        tx.batch_execute(
            "CREATE TABLE boltgate_schema (
                one     boolean PRIMARY KEY DEFAULT true CHECK (one),
                version bigint  NOT NULL CHECK (version >= 0)
             );
             INSERT INTO boltgate_schema (version) VALUES (0)",
        )
        .await?;
    }
    tx.batch_execute(sql).await?;
    tx.execute("UPDATE boltgate_schema SET version = $1", &[&(found + 1)])
        .await?;
    tx.commit().await?;
    session.keep();
    Ok(true)
}

fn check_server(row: &Row) -> Result<(), Failure> {
    let version: i32 = row.try_get(0)?;
    if version < OLDEST {
        let what = format!(
            "PostgreSQL {} is too old; {} or newer is needed",
            version / 10_000,
            OLDEST / 10_000
        );
        return Err(LedgerError::Store(what).into());
    }
    if !row.try_get::<_, bool>(2)? {
        let what = "the settings of our connections do not arrive at the database: \
                    is there a pooler that works by transactions?"
            .to_owned();
        return Err(LedgerError::Store(what).into());
    }
    if !row.try_get::<_, bool>(1)? {
        tracing::warn!(
            "the database runs with fsync=off: what was sold and paid is lost when its machine fails"
        );
    }
    Ok(())
}
