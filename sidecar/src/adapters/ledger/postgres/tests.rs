use std::collections::VecDeque;
use std::time::Instant;

use protocol::amount::{Msat, Sat};
use protocol::api::MAX_REVOCATIONS;
use protocol::keys::MasterSecret;
use protocol::l402::TokenId;
use test_postgres::{Database, Server};

use super::*;
use crate::adapters::ledger::conformance;
use crate::config::Password;
use crate::domain::keys::KeySource;
use crate::domain::offer::{Scheme, Validity};
use crate::domain::ports::SessionLedger as _;

mod clocks;
mod connections;
mod hearing;
mod locks;
mod plans;
mod several;

/// A database of its own on this program's server.
async fn database() -> Database {
    tokio::task::spawn_blocking(test_postgres::database)
        .await
        .unwrap()
        .unwrap()
}

fn config(url: &str) -> PostgresConfig {
    PostgresConfig {
        target: url.parse().unwrap(),
        tls: false,
        ca_file: None,
        password: Password::NONE,
        pool_size: 8,
    }
}

async fn open(url: &str) -> PostgresLedger {
    PostgresLedger::open(&config(url), Migration::ToLatest)
        .await
        .unwrap()
}

async fn execute(url: &str, sql: &str) {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    tokio::task::spawn_blocking(move || test_postgres::execute(&url, &sql))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_does_what_every_ledger_must() {
    // Each database as long as a test may need it.
    let databases = tokio::sync::Mutex::new(VecDeque::new());
    let make = async || {
        let database = database().await;
        let ledger = open(&database).await;
        let mut databases = databases.lock().await;
        databases.push_back(database);
        if databases.len() > 4 {
            databases.pop_front();
        }
        ledger
    };
    conformance::all(make).await;
}

#[tokio::test]
async fn what_was_committed_is_flushed_to_disk_whatever_the_url_asks_for() {
    let url = database().await;
    let mut config = config(&url);
    let asked = "-c synchronous_commit=off -c lock_timeout=0 \
                 -c default_transaction_isolation=serializable -c work_mem=5MB";
    config.target.options(asked);
    let ledger = PostgresLedger::open(&config, Migration::ToLatest)
        .await
        .unwrap();
    let client = ledger.pool.get().await.unwrap();
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("transaction_isolation", "read committed"),
        ("idle_in_transaction_session_timeout", "3s"),
        ("lock_timeout", "1s"),
        ("work_mem", "5MB"),
        ("TimeZone", "UTC"),
    ] {
        let row = client
            .query_one(&format!("SHOW {setting}"), &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
}

/// A decision under a lock must see what was committed before the lock was had.
#[tokio::test]
async fn transactions_see_what_was_committed_whatever_the_database_is_set_to() {
    let url = database().await;
    let ledger = open(&url).await;
    let mut session = session::Session::of(&ledger.pool).await.unwrap();
    let change = "SET default_transaction_isolation = 'repeatable read';
                  SET default_transaction_read_only = on";
    session
        .client()
        .unwrap()
        .batch_execute(change)
        .await
        .unwrap();
    let tx = session.begin().await.unwrap();
    for (setting, value) in [
        ("transaction_isolation", "read committed"),
        ("transaction_read_only", "off"),
    ] {
        let row = tx.query_one(&format!("SHOW {setting}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value, "{setting}");
    }
}

fn key(mark: u8) -> NewKey {
    NewKey {
        source: KeySource::Ledger(MasterSecret::new([mark; 32])),
        fingerprint: [mark; 32],
    }
}

fn offer(n: u8) -> OfferRow {
    OfferRow {
        payment_hash: PaymentHash([n; 32]),
        token_id: TokenId::new(0, [n; 31]),
        service: "s".to_owned(),
        scheme: Scheme::L402,
        amount: Msat::new(1).unwrap(),
        created: UnixSeconds(1),
        expires: UnixSeconds(2),
        valid_until: Validity::Forever,
        node: None,
    }
}

fn batch(offers: Vec<OfferRow>) -> OfferBatch {
    OfferBatch {
        generation: 0,
        offers,
    }
}

fn claim(payment: u64, attempt: u8) -> NewClaim {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&payment.to_be_bytes());
    NewClaim {
        payment_hash: PaymentHash(hash),
        attempt: AttemptId([attempt; 16]),
        challenge_id: "challenge".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(10).unwrap(),
        expires: UnixSeconds(100_000_000_000),
    }
}

/// Every claim is young, so that nobody loses for good.
const YOUNG: ClaimTimes = ClaimTimes {
    young: Duration::from_secs(3_600),
    kept: Duration::from_secs(3_600),
};

#[tokio::test]
async fn amounts_and_times_that_make_no_sense_are_refused_by_the_database_too() {
    let url = database().await;
    let ledger = open(&url).await;
    ledger.install_first_key(key(1), 1).await.unwrap();
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
        let refused = ledger.record_offers(batch(vec![broken])).await;
        assert!(matches!(refused, Err(LedgerError::Store(_))), "{refused:?}");
    }
    assert_eq!(ledger.outstanding(None).await, Ok(0));
}

#[tokio::test]
async fn a_full_deny_list_takes_no_more() {
    let url = database().await;
    let ledger = open(&url).await;
    let most = MAX_REVOCATIONS;
    execute(
        &url,
        &format!(
            "INSERT INTO revocations (identifier_hash, added_version, created_at)
             SELECT sha256(n::text::bytea), 1, 1 FROM generate_series(2, {most}) AS n"
        ),
    )
    .await;
    let revoke = |hash: u8| {
        let revocation = NewRevocation {
            identifier_hash: [hash; 32],
            expires: Validity::Forever,
            at: UnixSeconds(1),
        };
        ledger.revoke(revocation, 1)
    };
    assert_eq!(revoke(1).await, Ok(true), "the last one");
    assert_eq!(revoke(2).await, Err(LedgerError::DenyListFull));
    assert_eq!(revoke(1).await, Ok(false), "revoked before");
}

#[tokio::test]
async fn an_error_shows_nothing_of_a_row() {
    let url = database().await;
    let ledger = open(&url).await;
    let broken =
        "INSERT INTO key_generations (id, state, secret, fingerprint, added_version, created_at)
                  VALUES (0, 'current', '\\xdeadbeef'::bytea, '\\xfeed'::bytea, 1, 1)";
    let client = ledger.pool.get().await.unwrap();
    let error = client.batch_execute(broken).await.unwrap_err();
    let detail = error.as_db_error().unwrap().detail().unwrap_or_default();
    assert!(detail.contains("deadbeef"), "the database's own: {detail}");
    let ours = LedgerError::from(failure::Failure::from(error)).to_string();
    assert!(ours.contains("violates check constraint"), "{ours}");
    assert!(!ours.contains("beef") && !ours.contains("feed"), "{ours}");
}

#[tokio::test]
async fn a_claim_that_makes_no_sense_fails_alone() {
    let url = database().await;
    let ledger = Arc::new(open(&url).await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move {
            let mut claim = claim(n, 1);
            let is_broken = n % 16 == 3;
            if is_broken {
                claim.service = String::new();
            }
            (is_broken, ledger.claim(claim, YOUNG).await)
        });
    }
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            (false, claimed) => assert_eq!(claimed, Ok(Claimed::Won)),
            (true, claimed) => assert!(matches!(claimed, Err(LedgerError::Store(_)))),
        }
    }
}

#[tokio::test]
async fn claims_that_wait_share_a_commit() {
    let commits = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&commits);
    let observer: Observer =
        Arc::new(move |commit: Commit| seen.lock().unwrap().push(commit.changes));
    let url = database().await;
    let config = config(&url);
    let ledger = PostgresLedger::open_observed(&config, Migration::ToLatest, observer);
    let ledger = Arc::new(ledger.await.unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..500 {
        let ledger = Arc::clone(&ledger);
        tasks.spawn(async move { ledger.claim(claim(n, 1), YOUNG).await });
    }
    while let Some(done) = tasks.join_next().await {
        assert_eq!(done.unwrap(), Ok(Claimed::Won));
    }
    let commits = commits.lock().unwrap().clone();
    assert_eq!(commits.iter().sum::<usize>(), 500);
    assert!(commits.len() < 250, "{} commits for 500", commits.len());
}

#[tokio::test]
async fn results_of_closes_are_forgotten_and_those_of_deposits_are_not() {
    let url = database().await;
    let ledger = open(&url).await;
    conformance::open_and_close(&ledger).await;
    let expire = "UPDATE session_results SET expires_at = 1 WHERE kind = 'close'";
    execute(&url, expire).await;
    assert_eq!(ledger.drop_old_results(10).await, Ok(1));
    let client = ledger.pool.get().await.unwrap();
    let kinds = client.query_one("SELECT string_agg(kind, ',') FROM session_results", &[]);
    assert_eq!(kinds.await.unwrap().get::<_, &str>(0), "open");
}

#[tokio::test]
async fn what_makes_no_sense_of_a_refund_is_refused_by_the_database() {
    let url = database().await;
    let ledger = open(&url).await;
    conformance::books::in_use(&ledger).await;
    let client = ledger.pool.get().await.unwrap();
    for change in conformance::books::REFUSED {
        let refused = client.batch_execute(change).await.unwrap_err();
        let code = refused.code().unwrap().code();
        assert!(code.starts_with("23"), "{change}: {refused}");
    }
}

#[tokio::test]
async fn what_does_not_add_up_is_named() {
    let mut named = std::collections::BTreeSet::new();
    for fault in conformance::books::FAULTS {
        let url = database().await;
        let ledger = open(&url).await;
        let execute = async |sql: &str| execute(&url, sql).await;
        named.extend(conformance::books::a_fault_is_named(&ledger, fault, execute).await);
    }
    assert!(named.len() >= 13, "{named:?}");
}

#[tokio::test]
async fn an_account_that_is_not_its_leases_is_named() {
    let url = database().await;
    let ledger = open(&url).await;
    let execute = async |sql: &str| execute(&url, sql).await;
    conformance::books::an_account_that_is_not_its_leases_is_named(&ledger, execute).await;
}

#[tokio::test]
async fn what_was_forgotten_by_an_earlier_version_is_taken_on_trust() {
    let url = database().await;
    open(&url).await;
    // Of 50, 40 and 5 that were spent, leases that are remembered have used 12, 0 and 6. Of two
    // charges one has a claim that is remembered.
    let before = "ALTER TABLE sessions DROP COLUMN forgotten_sat;
        ALTER TABLE sales DROP COLUMN was_claimed;
        UPDATE boltgate_schema SET version = 9;
        INSERT INTO sessions (session_id, service, deposited_sat, spent_sat, return_invoice,
            return_hash, return_expires_at, close_by, node, generation, newest_generation,
            idle_timeout_seconds, opened_ms, active_ms)
        SELECT sha256(n::text::bytea), 's', 100, spent, 'i', sha256(n::text::bytea), 9, 9,
               decode(repeat('02', 33), 'hex'), 0, 0, 1, n, 1
        FROM (VALUES (1, 50), (2, 40), (3, 5)) AS v (n, spent);
        INSERT INTO lease_holders
        SELECT sha256(n::text::bytea), decode(repeat('01', 16), 'hex'), used, used, 2, 0, false,
               false, 1
        FROM (VALUES (1, 14), (3, 8)) AS v (n, used);
        INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at)
        SELECT sha256(n::text::bytea), scheme, 'weather', 1000, n
        FROM (VALUES (1, 'charge'), (2, 'charge'), (3, 'session')) AS v (n, scheme);
        INSERT INTO claims VALUES (sha256('2'), 'charge', decode(repeat('01', 16), 'hex'), 'c',
            'weather', 1, 1, 1)";
    execute(&url, before).await;
    let ledger = open(&url).await;
    let client = ledger.pool.get().await.unwrap();
    let query = "SELECT forgotten_sat FROM sessions ORDER BY opened_ms";
    let rows = client.query(query, &[]).await.unwrap();
    let found: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(found, [38, 40, 0]);
    let query = "SELECT was_claimed FROM sales ORDER BY settled_at";
    let rows = client.query(query, &[]).await.unwrap();
    let claimed: Vec<bool> = rows.iter().map(|row| row.get(0)).collect();
    // Of other schemes it means nothing.
    assert_eq!(claimed, [true, false, true]);
}
