//! `boltgate ledger`, beside a program that serves from the ledger.

use std::path::Path;
use std::process::Output;

use protocol::api::charge::Claim;
use protocol::api::session::OpenResult;
use protocol::lease::Report;
use protocol::time::UnixSeconds;
use serde_json::Value;
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;
use tokio_postgres::NoTls;

use crate::charges;
use crate::process::{Program, run, write_config_on};
use crate::session_client::{offer, open_of, opened, report, say};
use crate::support::{Store, eventually, on_each_ledger, pay};

on_each_ledger! {
    an_account_that_is_not_its_leases_is_said_to_be_so,
    what_was_paid_and_never_presented_is_listed_by_kind,
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

async fn what_was_paid_and_never_presented_is_listed_by_kind(store: Store) {
    let folder = TempDir::new().unwrap();
    let dir = folder.path();
    write_config_on(&store, dir);
    let program = Program::start(dir).await;
    let (api, door) = (program.api, program.dev);
    // Of two deposits and two charges one each is presented; a token needs not be.
    let deposits = [offer(api).await, offer(api).await];
    let made = [charges::offer(api).await, charges::offer(api).await];
    let token = api.collect(1).await.remove(0);
    let invoices = deposits.iter().chain(&made).map(|offer| &offer.invoice);
    for invoice in invoices.chain([&token.invoice]) {
        pay(door, invoice).await.unwrap();
    }
    let answer = opened(api, &open_of(&deposits[0], 1)).await;
    assert_eq!(answer.result, OpenResult::Opened);
    let claimed = charges::claim(api, &charges::claim_of(&made[0], 1)).await;
    assert_eq!(claimed, Claim::Won);
    let beside = store.open(dir).await;
    eventually("all sales", async || {
        let sales = beside.sales(UnixSeconds(0), 10).await.unwrap();
        (sales.len() == 5).then_some(())
    })
    .await;

    let listed = ledger(dir, "unclaimed").await;
    assert!(listed.status.success(), "{listed:?}");
    let lines: Vec<Vec<&str>> = said(&listed)
        .lines()
        .map(|line| line.split(',').collect())
        .collect();
    let column = |place: usize| lines.iter().map(|line| line[place]).collect::<Vec<_>>();
    let ids = [&deposits[1], &made[1]].map(|offer| offer.payment_hash.to_string());
    assert_eq!(column(0), ["kind", "unclaimed_deposit", "unclaimed_charge"]);
    assert_eq!(column(2)[1..], ids);
    let arguments = ["ledger", "unclaimed", "--format", "jsonl", "--config"];
    let listed = run(dir, &[&arguments[..], &["config.yaml"]].concat()).await;
    let lines = said(&listed).lines();
    let kinds = lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].clone());
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["unclaimed_deposit", "unclaimed_charge"]);
}
