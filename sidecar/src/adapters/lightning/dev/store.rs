//! What the dev node itself keeps: its seed, which invoices were settled or cancelled, and what it
//! paid itself.

mod outgoing;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Result, params};
use zeroize::Zeroizing;

pub(super) use self::outgoing::Sent;
use crate::domain::invoice::{Cancellation, InvoiceState, Settlement};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS node (
        id   INTEGER PRIMARY KEY CHECK (id = 1),
        seed BLOB NOT NULL CHECK (length(seed) = 32)
    ) STRICT;
    CREATE TABLE IF NOT EXISTS payments (
        settle_index INTEGER PRIMARY KEY AUTOINCREMENT,
        payment_hash BLOB    NOT NULL UNIQUE CHECK (length(payment_hash) = 32),
        amount_msat  INTEGER NOT NULL CHECK (amount_msat > 0),
        settled_at   INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS cancelled (
        payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
        at           INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// Cancellations are remembered for a day; the invoices have expired long before.
const REMEMBER_CANCELLED_SECONDS: u64 = 86_400;

pub(super) struct Store {
    db: Mutex<Connection>,
    seed: Zeroizing<[u8; 32]>,
}

/// What became of a payment.
pub(super) enum Paid {
    /// Made, with this settle index.
    Now(u64),
    /// It had been made before.
    Before,
    /// The invoice was cancelled.
    NeverCancelled,
}

impl Store {
    /// `fresh_seed` is used if the file is new.
    pub(super) fn open(path: &Path, fresh_seed: &[u8; 32]) -> Result<Self> {
        let db = Connection::open(path)?;
        db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        // Survives the end of the process, if not of the machine: enough where no money moves.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.execute_batch(SCHEMA)?;
        db.execute_batch(outgoing::SCHEMA)?;
        db.execute(
            "INSERT OR IGNORE INTO node (id, seed) VALUES (1, ?1)",
            [fresh_seed],
        )?;
        let seed = db.query_row("SELECT seed FROM node", [], |row| row.get(0))?;
        Ok(Self {
            db: Mutex::new(db),
            seed: Zeroizing::new(seed),
        })
    }

    pub(super) fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    pub(super) fn pay(&self, hash: PaymentHash, amount: Msat, at: UnixSeconds) -> Result<Paid> {
        let mut db = self.lock();
        let tx = db.transaction()?;
        if is_cancelled(&tx, hash)? {
            return Ok(Paid::NeverCancelled);
        }
        let made = tx.execute(
            "INSERT INTO payments (payment_hash, amount_msat, settled_at) VALUES (?1, ?2, ?3)
             ON CONFLICT DO NOTHING",
            params![hash.0, to_i64(amount.get()), to_i64(at.0)],
        )?;
        let index = tx.last_insert_rowid().unsigned_abs();
        tx.commit()?;
        Ok(if made == 1 {
            Paid::Now(index)
        } else {
            Paid::Before
        })
    }

    pub(super) fn state(&self, hash: PaymentHash) -> Result<InvoiceState> {
        let db = self.lock();
        if let Some(settlement) = find_payment(&db, hash)? {
            return Ok(InvoiceState::Settled(settlement));
        }
        Ok(if is_cancelled(&db, hash)? {
            InvoiceState::Cancelled
        } else {
            InvoiceState::Open
        })
    }

    pub(super) fn cancel(&self, hash: PaymentHash, now: UnixSeconds) -> Result<Cancellation> {
        let mut db = self.lock();
        let tx = db.transaction()?;
        if let Some(settlement) = find_payment(&tx, hash)? {
            return Ok(Cancellation::Settled(settlement));
        }
        tx.execute(
            "DELETE FROM cancelled WHERE at < ?1",
            [to_i64(now.0.saturating_sub(REMEMBER_CANCELLED_SECONDS))],
        )?;
        tx.execute(
            "INSERT OR IGNORE INTO cancelled (payment_hash, at) VALUES (?1, ?2)",
            params![hash.0, to_i64(now.0)],
        )?;
        tx.commit()?;
        Ok(Cancellation::Cancelled)
    }

    pub(super) fn settled_after(&self, index: u64, limit: u32) -> Result<Vec<Settlement>> {
        self.lock()
            .prepare_cached(
                "SELECT payment_hash, amount_msat, settled_at, settle_index FROM payments
                 WHERE settle_index > ?1 ORDER BY settle_index LIMIT ?2",
            )?
            .query_map(params![to_i64(index), limit], settlement)?
            .collect()
    }

    pub(super) fn last_index(&self) -> Result<u64> {
        self.lock().query_row(
            "SELECT coalesce(max(settle_index), 0) FROM payments",
            [],
            |row| row.get::<_, i64>(0).map(i64::unsigned_abs),
        )
    }

    /// Number of payments and their sum.
    pub(super) fn totals(&self) -> Result<(u64, u64)> {
        self.lock().query_row(
            "SELECT count(*), coalesce(sum(amount_msat), 0) FROM payments",
            [],
            |row| {
                Ok((
                    row.get::<_, i64>(0)?.unsigned_abs(),
                    row.get::<_, i64>(1)?.unsigned_abs(),
                ))
            },
        )
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_payment(db: &Connection, hash: PaymentHash) -> Result<Option<Settlement>> {
    db.prepare_cached(
        "SELECT payment_hash, amount_msat, settled_at, settle_index FROM payments
         WHERE payment_hash = ?1",
    )?
    .query_row([hash.0], settlement)
    .optional()
}

fn is_cancelled(db: &Connection, hash: PaymentHash) -> Result<bool> {
    db.prepare_cached("SELECT EXISTS (SELECT 1 FROM cancelled WHERE payment_hash = ?1)")?
        .query_row([hash.0], |row| row.get(0))
}

fn settlement(row: &rusqlite::Row<'_>) -> Result<Settlement> {
    Ok(Settlement {
        payment_hash: PaymentHash(row.get(0)?),
        amount: Msat::new(row.get::<_, i64>(1)?.unsigned_abs()).unwrap_or(Msat::MAX),
        settled_at: UnixSeconds(row.get::<_, i64>(2)?.unsigned_abs()),
        settle_index: row.get::<_, i64>(3)?.unsigned_abs(),
    })
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
