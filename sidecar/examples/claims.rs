//! How many claims per second one ledger decides durably, how long one takes in milliseconds, and
//! how often per second its disk can be waited for. `cargo xtask bench` runs it, too.
//!
//! `cargo run --release -p sidecar --example claims -- <folder> [concurrent] [seconds]` for SQLite in
//! that folder; with `--postgres` in front for the PostgreSQL of the tests, which keeps its files in
//! the folder for temporary ones (`$TMPDIR`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a tool for developers"
)]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use sidecar::adapters::ledger::AnyLedger;
use sidecar::adapters::system::{SystemRandom, unix_millis};
use sidecar::config::{LedgerConfig, Password, PostgresConfig, StoreConfig};
use sidecar::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use sidecar::domain::ports::{Ledger as _, Random as _};
use test_postgres::Database;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let on_postgres = arguments.next_if_eq("--postgres").is_some();
    let folder = arguments.next().unwrap();
    let mut number = |default| arguments.next().map_or(default, |n| n.parse().unwrap());
    let (concurrent, time) = (number(64), Duration::from_secs(number(5)));
    let folder = tempfile::tempdir_in(folder).unwrap();
    let fsyncs = fsyncs(folder.path(), Duration::from_secs(1));
    // Appends of 4 KiB with fdatasync, one after the other, per second.
    println!("commits of the disk: {fsyncs}");

    let database = match on_postgres {
        true => Some(database().await),
        false => None,
    };
    let store = match &database {
        Some(database) => postgres(database),
        None => StoreConfig::Sqlite(folder.path().join("ledger.db")),
    };
    let config = LedgerConfig {
        store,
        auto_migrate: true,
    };
    let ledger = Arc::new(AnyLedger::open(&config).await.unwrap());
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrent {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let mut waits = Vec::new();
            while begun.elapsed() < time {
                let asked = Instant::now();
                let claimed = ledger.claim(claim(), ClaimTimes::default()).await;
                assert_eq!(claimed, Ok(Claimed::Won));
                waits.push(asked.elapsed());
            }
            waits
        });
    }
    let mut waits = tasks.join_all().await.concat();
    let took = begun.elapsed().as_secs_f64();
    waits.sort_unstable();
    let at = |part: usize| waits[(waits.len() - 1) * part / 100];
    println!("claims: {:.0}", waits.len() as f64 / took);
    for part in [50, 99] {
        println!("p{part}: {:.3}", at(part).as_secs_f64() * 1_000.0);
    }
    ledger.close().await;
}

/// The empty database of a server with `fsync=on`.
async fn database() -> Database {
    let database = tokio::task::spawn_blocking(test_postgres::database);
    database.await.unwrap().unwrap()
}

fn postgres(url: &str) -> StoreConfig {
    StoreConfig::Postgres(Box::new(PostgresConfig {
        target: url.parse().unwrap(),
        tls: false,
        ca_file: None,
        password: Password::NONE,
        pool_size: 16,
    }))
}

fn claim() -> NewClaim {
    let payment_hash = PaymentHash(SystemRandom.secret().unwrap());
    let mut attempt = [0; 16];
    attempt.copy_from_slice(&payment_hash.0[16..]);
    NewClaim {
        payment_hash,
        attempt: AttemptId(attempt),
        challenge_id: "7LCHF9ff5XBms3Src3hlyNwshUVNwr4sGcurbKhCdWQ".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(10).unwrap(),
        expires: UnixSeconds(unix_millis() / 1_000 + 600),
    }
}

fn fsyncs(folder: &Path, time: Duration) -> u64 {
    let mut file = std::fs::File::create(folder.join("fsync")).unwrap();
    let (page, begun, mut count) = ([7; 4_096], Instant::now(), 0);
    while begun.elapsed() < time {
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    count
}
