//! `boltgate ledger`, beside a program that serves from the ledger.

use std::path::Path;
use std::process::Output;

use protocol::api::session::OpenResult;
use protocol::lease::Report;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::process::{Program, run, write_config_on};
use crate::session_client::{offer, open_of, opened, report, say};
use crate::support::{Store, on_each_ledger, pay};

on_each_ledger! {
    an_account_that_is_not_its_leases_is_said_to_be_so,
}

/// Behind the ledger's back.
async fn execute(store: &Store, dir: &Path, sql: &str) {
    match store {
        Store::Sqlite => {
            let db = rusqlite::Connection::open(dir.join("ledger.db")).unwrap();
            db.execute_batch(sql).unwrap();
        }
        Store::Postgres(url) => {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
            let done = tokio::spawn(connection);
            client.batch_execute(sql).await.unwrap();
            drop(client);
            done.await.unwrap().unwrap();
        }
    }
}

async fn ledger(dir: &Path, command: &str) -> Output {
    run(dir, &["ledger", command, "--config", "config.yaml"]).await
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

async fn an_account_that_is_not_its_leases_is_said_to_be_so(store: Store) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    write_config_on(&store, dir);
    let program = Program::start(dir).await;
    let deposit = offer(program.api).await;
    pay(program.dev, &deposit.invoice).await.unwrap();
    let mut open = open_of(&deposit, 1);
    open.lease.need = 20;
    let answer = opened(program.api, &open).await;
    assert_eq!(answer.result, OpenResult::Opened);
    let id = deposit.payment_hash;
    let used = Report {
        used: 7,
        release: true,
        ..report(id, 1)
    };
    assert_eq!(say(program.api, used).await.spent, 7);

    let checked = ledger(dir, "check").await;
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(said(&checked), "the ledger adds up\n");

    for (fault, is) in [
        (
            "UPDATE sessions SET spent_sat = spent_sat + 3",
            "spent 10, used_and_forgotten 0, used 7, difference 3",
        ),
        (
            "UPDATE sessions SET spent_sat = 5",
            "spent 5, used_and_forgotten 0, used 7, difference -2",
        ),
        (
            "DELETE FROM lease_holders",
            "spent 5, used_and_forgotten 0, used 0, difference 5",
        ),
    ] {
        execute(&store, dir, fault).await;
        let checked = ledger(dir, "check").await;
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        let rule = "what is spent is not what its leases have used and not given back";
        assert_eq!(said(&checked), format!("{id}: {rule}, {is}\n"));
    }
}
