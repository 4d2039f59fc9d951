use std::sync::{Arc, Mutex};

use protocol::amount::Msat;
use protocol::api::MAX_REVOCATIONS;
use protocol::keys::MasterSecret;
use protocol::l402::TokenId;
use tempfile::TempDir;

use super::*;
use crate::adapters::ledger::conformance;
use crate::domain::keys::KeySource;
use crate::domain::offer::{Scheme, Validity};
use crate::domain::ports::SessionLedger as _;

#[tokio::test]
async fn sqlite_does_what_every_ledger_must() {
    let dir = TempDir::new().unwrap();
    let made = Mutex::new(0);
    conformance::all(async || {
        let mut count = made.lock().unwrap();
        *count += 1;
        SqliteLedger::open(&dir.path().join(format!("{count}.db"))).unwrap()
    })
    .await;
}

fn key() -> NewKey {
    NewKey {
        source: KeySource::File,
        fingerprint: [1; 32],
    }
}

fn offer(n: u16) -> OfferRow {
    let mut hash = [0; 32];
    hash[..2].copy_from_slice(&n.to_be_bytes());
    let [_, random @ ..] = hash;
    let mut random = random;
    random[30] = (n >> 8) as u8;
    OfferRow {
        payment_hash: PaymentHash(hash),
        token_id: TokenId::new(0, random),
        service: "s".to_owned(),
        scheme: Scheme::L402,
        amount: Msat::new(1).unwrap(),
        created: UnixSeconds(1),
        expires: UnixSeconds(2),
        valid_until: Validity::Forever,
        node: None,
    }
}

#[tokio::test]
async fn waiting_changes_share_a_commit() {
    let dir = TempDir::new().unwrap();
    let commits = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&commits);
    let observer = Box::new(move |commit: Commit| seen.lock().unwrap().push(commit.changes));
    let ledger =
        SqliteLedger::open_observed(&dir.path().join("l.db"), Migration::ToLatest, observer)
            .unwrap();
    let ledger = Arc::new(ledger);
    ledger.install_first_key(key(), 1).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            ledger
                .record_offers(OfferBatch {
                    generation: 0,
                    offers: vec![offer(n)],
                })
                .await
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(ledger.outstanding(None).await, Ok(500));
    let commits = commits.lock().unwrap().clone();
    assert_eq!(commits.iter().sum::<usize>(), 501);
    assert!(
        commits.len() < 250,
        "{} commits for 501 changes",
        commits.len()
    );
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    ledger.install_first_key(key(), 1).await.unwrap();
    let batch = OfferBatch {
        generation: 0,
        offers: vec![offer(1)],
    };
    ledger.record_offers(batch).await.unwrap();
    let epoch = ledger.snapshot().await.unwrap().epoch;
    ledger.close().await;
    let again = SqliteLedger::open(&path).unwrap();
    assert_eq!(again.outstanding(None).await, Ok(1));
    assert_eq!(again.snapshot().await.unwrap().epoch, epoch);
}

#[test]
fn a_file_serves_one_sidecar_at_a_time() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let lock = SqliteLedger::lock_for_serving(&path).unwrap();
    assert!(matches!(
        SqliteLedger::lock_for_serving(&path),
        Err(LedgerError::InUse(_))
    ));
    drop(lock);
    assert!(SqliteLedger::lock_for_serving(&path).is_ok());
}

#[cfg(unix)]
#[test]
fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    drop(SqliteLedger::open(&path).unwrap());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0);
}

#[tokio::test]
async fn amounts_and_times_that_make_no_sense_are_refused_by_the_database_too() {
    let dir = TempDir::new().unwrap();
    let ledger = SqliteLedger::open(&dir.path().join("l.db")).unwrap();
    ledger.install_first_key(key(), 1).await.unwrap();
    for broken in [
        OfferRow {
            amount: Msat::ZERO,
            ..offer(1)
        },
        OfferRow {
            service: String::new(),
            ..offer(1)
        },
        OfferRow {
            expires: UnixSeconds(0),
            ..offer(1)
        },
    ] {
        let batch = OfferBatch {
            generation: 0,
            offers: vec![broken],
        };
        assert!(matches!(
            ledger.record_offers(batch).await,
            Err(LedgerError::Store(_))
        ));
    }
    assert_eq!(ledger.outstanding(None).await, Ok(0));
}

#[tokio::test]
async fn a_full_deny_list_takes_no_more_and_says_why() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    let revoke = |hash: [u8; 32]| {
        let revocation = NewRevocation {
            identifier_hash: hash,
            expires: Validity::Forever,
            at: UnixSeconds(1),
        };
        ledger.revoke(revocation, 1)
    };
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute(
            "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO revocations (identifier_hash, added_version, created_at)
             SELECT CAST(printf('%032d', i) AS BLOB), 1, 1 FROM n",
            [MAX_REVOCATIONS as i64],
        )
        .unwrap();
    assert_eq!(revoke([1; 32]).await, Ok(true), "the last one");
    let full = revoke([2; 32]).await;
    assert_eq!(full, Err(LedgerError::DenyListFull));
    let why = LedgerError::DenyListFull.to_string();
    assert!(why.contains("60000 tokens"), "{why}");
    assert_eq!(revoke([1; 32]).await, Ok(false), "revoked before");
}

#[cfg(unix)]
#[test]
fn a_ledger_that_others_could_read_is_taken_away_from_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    drop(SqliteLedger::open(&path).unwrap());
    for mode in [0o644, 0o660, 0o604] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        drop(SqliteLedger::open(&path).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// Whether the bytes are anywhere in the ledger's files.
fn holds(dir: &TempDir, bytes: &[u8]) -> bool {
    std::fs::read_dir(dir.path()).unwrap().any(|file| {
        let file = std::fs::read(file.unwrap().path()).unwrap();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[tokio::test]
async fn a_deleted_key_is_nowhere_in_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let secret = |n: u8| -> [u8; 32] { std::array::from_fn(|i| n ^ (i as u8).wrapping_mul(151)) };
    let ledger = SqliteLedger::open(&path).unwrap();
    let install = async |n: u8| {
        let key = NewKey {
            source: KeySource::Ledger(MasterSecret::new(secret(n))),
            fingerprint: [n; 32],
        };
        if n == 0 {
            ledger.install_first_key(key, 1).await.unwrap();
        } else {
            ledger.begin_rotation(key, 1).await.unwrap();
            ledger.promote(n, 1, Duration::ZERO).await.unwrap();
        }
        // Makes its row longer, so that it moves within its page.
        let batch = OfferBatch {
            generation: n,
            offers: vec![OfferRow {
                valid_until: Validity::Until(UnixSeconds(1_800_000_000)),
                ..offer(u16::from(n))
            }],
        };
        ledger.record_offers(batch).await.unwrap();
    };
    // More than one page of keys, so that pages become free.
    for n in 0..100 {
        install(n).await;
    }
    for n in 0..50 {
        ledger.revoke_generation(n, 1).await.unwrap();
    }
    ledger.prune_expired(1_900_000_000_000).await.unwrap();
    ledger.close().await;
    for n in 0..99 {
        assert!(!holds(&dir, &secret(n)), "key {n} can be read");
    }
    assert!(holds(&dir, &secret(99)), "the current one");
}

/// A sidecar was down for longer than leases and sessions live: nobody could hear them.
#[tokio::test]
async fn what_could_not_be_heard_is_not_ended() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    conformance::open_with_lease(&ledger).await;
    let long_ago = "UPDATE lease_holders SET seen_ms = 1; UPDATE sessions SET active_ms = 1;
                    UPDATE hearing SET serving_since_ms = 1";
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch(long_ago).unwrap();

    ledger.begin_serving().await.unwrap();
    let times = crate::domain::lease::Times::default();
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert_eq!((swept.sessions, swept.reclaimed), (0, 0));
    assert_eq!(ledger.stop_unused(10).await, Ok(Vec::new()));
    let rewritten = "SELECT (SELECT count(*) FROM sessions WHERE active_ms > 1)
                          + (SELECT count(*) FROM lease_holders WHERE seen_ms > 1)";
    let rewritten: i64 = other.query_row(rewritten, [], |row| row.get(0)).unwrap();
    assert_eq!(rewritten, 0, "one row says it for all");

    other.execute_batch(long_ago).unwrap();
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert_eq!(swept.sessions, 1);
    assert!(swept.reclaimed > 0);
    assert_eq!(ledger.stop_unused(10).await.unwrap().len(), 1);
}

/// The machine's clock was set back while the sidecar was down.
#[tokio::test]
async fn what_was_heard_of_in_the_future_is_heard_of_now() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    conformance::open_with_lease(&ledger).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    let future = "UPDATE lease_holders SET seen_ms = seen_ms + 3600000;
                  UPDATE sessions SET active_ms = active_ms + 3600000";
    other.execute_batch(future).unwrap();
    ledger.begin_serving().await.unwrap();
    let times = crate::domain::lease::Times {
        reclaim_ms: 0,
        ..Default::default()
    };
    let swept = ledger.sweep_leases(times, 10).await.unwrap();
    assert!(swept.reclaimed > 0);
    let late = "SELECT max(active_ms) - unixepoch() * 1000 FROM sessions";
    let late: i64 = other.query_row(late, [], |row| row.get(0)).unwrap();
    assert!(late <= 2_000, "{late}");
}

#[tokio::test]
async fn counts_of_refunds_and_pages_of_the_books_are_read_by_indexes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    drop(SqliteLedger::open(&path).unwrap());
    let db = rusqlite::Connection::open(&path).unwrap();
    let page = crate::adapters::ledger::books::entries(crate::domain::books::EntryKind::Refund);
    for query in [statements::COUNTS, page] {
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        for n in 1..=plan.parameter_count() {
            plan.raw_bind_parameter(n, 1).unwrap();
        }
        let mut rows = plan.raw_query();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            lines.push(row.get::<_, String>(3).unwrap());
        }
        assert!(
            lines.iter().any(|line| line.contains("INDEX refunds_")),
            "{lines:?}"
        );
        let reads_all = |line: &String| {
            line.starts_with("SCAN") && !line.contains("INDEX") && line.contains("refunds")
        };
        assert!(!lines.iter().any(reads_all), "{lines:?}");
    }
}

#[tokio::test]
async fn a_clock_that_was_set_back_holds_no_refund_up() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let execute = async |sql: &str| other.execute_batch(sql).unwrap();
    conformance::refunds::a_clock_that_was_set_back_holds_no_refund_up(&ledger, execute).await;
}

#[tokio::test]
async fn results_of_closes_are_forgotten_and_those_of_deposits_are_not() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    conformance::open_and_close(&ledger).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch("UPDATE session_results SET expires_at = 1 WHERE kind = 'close'")
        .unwrap();
    assert_eq!(ledger.drop_old_results(10).await, Ok(1));
    let kinds: String = other
        .query_row(
            "SELECT group_concat(kind) FROM session_results",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(kinds, "open");
}

#[tokio::test]
async fn what_makes_no_sense_of_a_refund_is_refused_by_the_database() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    conformance::books::in_use(&ledger).await;
    let other = rusqlite::Connection::open(&path).unwrap();
    for change in conformance::books::REFUSED {
        let refused = other.execute_batch(change).unwrap_err();
        let code = refused.sqlite_error_code();
        let violation = Some(rusqlite::ErrorCode::ConstraintViolation);
        assert_eq!(code, violation, "{change}: {refused}");
    }
}

#[tokio::test]
async fn what_does_not_add_up_is_named() {
    let mut named = std::collections::BTreeSet::new();
    for fault in conformance::books::FAULTS {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("l.db");
        let ledger = SqliteLedger::open(&path).unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        let execute = async |sql: &str| other.execute_batch(sql).unwrap();
        named.extend(conformance::books::a_fault_is_named(&ledger, fault, execute).await);
    }
    assert!(named.len() >= 13, "{named:?}");
}

#[tokio::test]
async fn an_account_that_is_not_its_leases_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("l.db");
    let ledger = SqliteLedger::open(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let execute = async |sql: &str| other.execute_batch(sql).unwrap();
    conformance::books::an_account_that_is_not_its_leases_is_named(&ledger, execute).await;
}
