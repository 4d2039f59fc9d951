//! What is written for every sale and pruned again stays as large as what is under way, however
//! many sales there were. `sales` itself grows: it is the books.
//!
//! A million of them, by hand: `cargo test --release -p sidecar --test hot_tables -- --ignored
//! --nocapture`, with `sqlite` or `postgres` behind it for one of the two.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::amount::{Msat, Sat};
use protocol::hash::{PaymentHash, sha256};
use protocol::keys::MasterSecret;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;
use sidecar::adapters::ledger::AnyLedger;
use sidecar::adapters::system::unix_millis;
use sidecar::config::{LedgerConfig, Password, PostgresConfig, StoreConfig};
use sidecar::domain::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use sidecar::domain::invoice::{NodeId, Settlement};
use sidecar::domain::keys::{KeySource, NewKey};
use sidecar::domain::ledger::OfferBatch;
use sidecar::domain::offer::{OfferRow, Scheme, Validity};
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// Written for every sale, and dropped.
const HOT: [&str; 3] = ["offers", "claims", "abandoned_attempts"];
const NODE: NodeId = NodeId([2; 33]);
/// Rows of one call.
const BATCH: usize = 256;
enum Store {
    Sqlite(PathBuf),
    Postgres(test_postgres::Database),
}

impl Store {
    async fn postgres() -> Self {
        let url = tokio::task::spawn_blocking(test_postgres::database);
        Self::Postgres(url.await.unwrap().unwrap())
    }

    fn config(&self) -> LedgerConfig {
        let store = match self {
            Self::Sqlite(path) => StoreConfig::Sqlite(path.clone()),
            Self::Postgres(url) => StoreConfig::Postgres(Box::new(PostgresConfig {
                target: url.parse().unwrap(),
                tls: false,
                ca_file: None,
                password: Password::NONE,
                pool_size: 16,
            })),
        };
        LedgerConfig {
            store,
            auto_migrate: true,
        }
    }

    /// Bytes of each hot table with its indexes, and its rows; then rows of `sales`.
    async fn sizes(&self) -> ([(u64, u64); 3], u64) {
        match self {
            Self::Sqlite(path) => in_file(path),
            Self::Postgres(url) => in_database(url).await,
        }
    }
}

fn in_file(path: &Path) -> ([(u64, u64); 3], u64) {
    let db = rusqlite::Connection::open(path).unwrap();
    let number = |sql: &str| -> u64 {
        let number: i64 = db.query_row(sql, [], |row| row.get(0)).unwrap();
        number.unsigned_abs()
    };
    let hot = HOT.map(|table| {
        let bytes = number(&format!(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN
                 (SELECT name FROM sqlite_master WHERE tbl_name = '{table}')"
        ));
        (bytes, number(&format!("SELECT count(*) FROM {table}")))
    });
    (hot, number("SELECT count(*) FROM sales"))
}

async fn in_database(url: &str) -> ([(u64, u64); 3], u64) {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let number = async |sql: String| -> u64 {
        let row = client.query_one(&sql, &[]).await.unwrap();
        row.get::<_, i64>(0).unsigned_abs()
    };
    let mut hot = [(0, 0); 3];
    for (size, table) in hot.iter_mut().zip(HOT) {
        let bytes = number(format!("SELECT pg_total_relation_size('{table}')"));
        let rows = number(format!("SELECT count(*) FROM {table}"));
        *size = (bytes.await, rows.await);
    }
    let sales = number("SELECT count(*) FROM sales".to_owned()).await;
    drop(client);
    connection.await.unwrap().unwrap();
    (hot, sales)
}

/// Everything of one round expires with the next one.
fn end_of(round: usize) -> UnixSeconds {
    UnixSeconds(1_000 + round as u64)
}

fn hash(round: usize, number: usize, what: u8) -> PaymentHash {
    let text = format!("{round} {number} {what}");
    PaymentHash(sha256(text.as_bytes()))
}

fn offer(round: usize, number: usize, what: u8) -> OfferRow {
    let payment_hash = hash(round, number, what);
    let mut id = [0; 31];
    id.copy_from_slice(&payment_hash.0[1..]);
    OfferRow {
        payment_hash,
        token_id: TokenId::new(0, id),
        node: Some(NODE),
        service: "weather".to_owned(),
        scheme: [Scheme::L402, Scheme::Charge][number % 2],
        amount: Msat::new(10_000).unwrap(),
        created: UnixSeconds(100),
        expires: end_of(round),
        valid_until: Validity::Until(end_of(round)),
    }
}

fn claim(round: usize, number: usize, attempt: u8) -> NewClaim {
    let payment_hash = hash(round, number, 0);
    let mut name = [attempt; 16];
    name[1..].copy_from_slice(&payment_hash.0[..15]);
    NewClaim {
        payment_hash,
        attempt: AttemptId(name),
        challenge_id: "7LCHF9ff5XBms3Src3hlyNwshUVNwr4sGcurbKhCdWQ".to_owned(),
        service: "weather".to_owned(),
        amount: Sat::new(10).unwrap(),
        // Over, and within the hour for which it is remembered: `prune` forgets at once.
        expires: UnixSeconds(unix_millis() / 1_000 - 1_800),
    }
}

/// As the sweeper does, for all that ended before `now`.
async fn prune(ledger: &AnyLedger, now: UnixSeconds) {
    let times = ClaimTimes {
        kept: Duration::ZERO,
        ..ClaimTimes::default()
    };
    let batch = BATCH as u32;
    while ledger.drop_old_claims(times, batch).await.unwrap() >= BATCH {}
    let mut after = None;
    loop {
        let hashes = ledger.unpaid(NODE, after, now, batch).await.unwrap();
        let Some(last) = hashes.last() else { break };
        after = Some(*last);
        ledger.drop_unpaid(hashes).await.unwrap();
    }
    while ledger.drop_expired_tokens(now, batch).await.unwrap() >= BATCH {}
}

/// Half of what is offered is sold; of what is sold half are charges, and each of those is claimed
/// by one attempt that is abandoned and one that is served.
async fn sell(ledger: &Arc<AnyLedger>, round: usize, sales: usize) {
    let numbers: Vec<usize> = (0..sales).collect();
    for part in numbers.chunks(BATCH) {
        let offers = part.iter();
        let offers = offers.flat_map(|number| [0, 1].map(|what| offer(round, *number, what)));
        let batch = OfferBatch {
            generation: 0,
            offers: offers.collect(),
        };
        ledger.record_offers(batch).await.unwrap();
        let settled = part.iter().map(|number| Settlement {
            payment_hash: hash(round, *number, 0),
            amount: Msat::new(10_000).unwrap(),
            settled_at: UnixSeconds(200),
            settle_index: (round * sales + number + 1) as u64,
        });
        let recorded = ledger.record_settlements(NODE, settled.collect()).await;
        assert_eq!(recorded.unwrap().len(), part.len());
        let charges: Vec<usize> = part.iter().copied().filter(|n| n % 2 == 1).collect();
        claim_all(ledger, round, &charges, 1).await;
        let refused = charges.iter().map(|number| claim(round, *number, 1));
        let refused = refused.map(|claim| (claim.payment_hash, claim.attempt));
        assert_eq!(ledger.abandon(refused.collect()).await, Ok(charges.len()));
        claim_all(ledger, round, &charges, 2).await;
    }
}

async fn claim_all(ledger: &Arc<AnyLedger>, round: usize, charges: &[usize], attempt: u8) {
    let mut claims = tokio::task::JoinSet::new();
    for number in charges.iter().copied() {
        let ledger = Arc::clone(ledger);
        claims.spawn(async move {
            let claim = claim(round, number, attempt);
            let claimed = ledger.claim(claim, ClaimTimes::default()).await;
            assert_eq!(claimed, Ok(Claimed::Won));
        });
    }
    claims.join_all().await;
}

/// PostgreSQL's autovacuum has looked at a new database by then: it comes each minute, and to a new
/// one not the first time.
const AUTOVACUUM: Duration = Duration::from_secs(150);

/// Who removes dead rows.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Tidy {
    /// The store, at once.
    Store,
    /// We, after each round.
    Vacuum,
    /// PostgreSQL, when it thinks fit.
    Autovacuum,
}

/// Sells for `rounds`; what is hot must not be larger at the end than after as many as `soon`, and
/// after the first visit of who tidies up.
async fn stays_flat(store: Store, [soon, rounds]: [usize; 2], sales: usize, tidy: Tidy) {
    let ledger = Arc::new(AnyLedger::open(&store.config()).await.unwrap());
    let key = NewKey {
        source: KeySource::Ledger(MasterSecret::new([1; 32])),
        fingerprint: [1; 32],
    };
    ledger.install_first_key(key, 1).await.unwrap();
    let mut warm = [0; 3];
    let (started, mut judged) = (Instant::now(), 0);
    for round in 0..rounds {
        let begun = Instant::now();
        prune(&ledger, end_of(round)).await;
        sell(&ledger, round, sales).await;
        if let (Store::Postgres(url), Tidy::Vacuum) = (&store, tidy) {
            let (url, sql) = (url.to_string(), HOT.map(|table| format!("VACUUM {table}")));
            // Each alone: it can be in no transaction.
            let work = tokio::task::spawn_blocking(move || {
                for sql in sql {
                    test_postgres::execute(&url, &sql).unwrap();
                }
            });
            work.await.unwrap();
        }
        let (hot, sold) = store.sizes().await;
        let took = begun.elapsed();
        println!("{sold} sales, {took:?} a round, bytes and rows of {HOT:?}: {hot:?}");
        assert_eq!(sold, ((round + 1) * sales) as u64);
        let (bytes, rows) = (hot.map(|(bytes, _)| bytes), hot.map(|(_, rows)| rows));
        // Of this round and, as far as it lives on, the one before.
        let most = [4 * sales, sales, sales].map(|rows| rows as u64);
        assert!(
            rows.iter().zip(most).all(|(rows, most)| *rows <= most),
            "{rows:?}"
        );
        let is_visited = tidy != Tidy::Autovacuum || started.elapsed() > AUTOVACUUM;
        let is_warm = round >= soon && is_visited;
        judged += usize::from(is_warm);
        for (bytes, warm) in bytes.iter().zip(&mut warm) {
            if !is_warm {
                *warm = *bytes.max(warm);
            }
            // A page here and there.
            let most = *warm + *warm / 2 + 65_536;
            assert!(*bytes <= most, "{bytes} bytes, {warm} once");
        }
    }
    assert!(judged * 4 >= rounds - soon, "over before autovacuum came");
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_tables_in_a_file_stay_as_large_as_what_is_under_way() {
    let dir = TempDir::new().unwrap();
    stays_flat(
        Store::Sqlite(dir.path().join("l.db")),
        [4, 16],
        400,
        Tidy::Store,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hot_tables_in_a_database_stay_as_large_as_what_is_under_way() {
    stays_flat(Store::postgres().await, [4, 16], 400, Tidy::Vacuum).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_million_sales_sqlite() {
    let dir = TempDir::new().unwrap();
    stays_flat(
        Store::Sqlite(dir.path().join("l.db")),
        [20, 100],
        10_000,
        Tidy::Store,
    )
    .await;
}

/// With its own autovacuum only.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_million_sales_postgres() {
    stays_flat(Store::postgres().await, [20, 100], 10_000, Tidy::Autovacuum).await;
}
