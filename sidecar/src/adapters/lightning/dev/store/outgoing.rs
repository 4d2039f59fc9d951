//! What the node pays to the dev wallet. The node can send no more than it has earned.

use protocol::amount::Msat;
use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Result, params};

use super::{Store, is_cancelled, to_i64};
use crate::domain::payment::{PaymentFailure, PaymentState};

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS outgoing (
        payment_hash BLOB    PRIMARY KEY CHECK (length(payment_hash) = 32),
        amount_msat  INTEGER NOT NULL CHECK (amount_msat > 0),
        -- NULL: in flight. Empty: succeeded.
        failure      TEXT,
        at           INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Invoices whose payments stay under way until somebody decides.
    CREATE TABLE IF NOT EXISTS held (
        payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32)
    ) STRICT, WITHOUT ROWID;";

/// What became of a wish to send.
pub(in super::super) enum Sent {
    /// It was made, and this came of it.
    Now(PaymentState),
    /// There is one of this hash that is under way or succeeded.
    Before(&'static str),
}

impl Store {
    /// `refused`: why it cannot succeed, for a reason that the store does not know.
    pub(in super::super) fn send(
        &self,
        hash: PaymentHash,
        amount: Msat,
        refused: Option<PaymentFailure>,
        at: UnixSeconds,
    ) -> Result<Sent> {
        let mut db = self.lock();
        let tx = db.transaction()?;
        match find(&tx, hash)? {
            Some(PaymentState::InFlight) => return Ok(Sent::Before("payment is in transition")),
            Some(PaymentState::Succeeded { .. }) => {
                return Ok(Sent::Before("invoice is already paid"));
            }
            _ => {}
        }
        let failure = if refused.is_some() {
            refused
        } else if is_cancelled(&tx, hash)? {
            Some(PaymentFailure::IncorrectDetails)
        } else if funds(&tx)? < to_i64(amount.get()) {
            Some(PaymentFailure::InsufficientBalance)
        } else {
            None
        };
        let is_held: bool = tx
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM held WHERE payment_hash = ?1)")?
            .query_row([hash.0], |row| row.get(0))?;
        let outcome = match failure {
            Some(failure) => Some(failure.as_str()),
            None if is_held => None,
            None => Some(""),
        };
        tx.execute(
            "INSERT OR REPLACE INTO outgoing (payment_hash, amount_msat, failure, at)
             VALUES (?1, ?2, ?3, ?4)",
            params![hash.0, to_i64(amount.get()), outcome, to_i64(at.0)],
        )?;
        let state = find(&tx, hash)?.unwrap_or(PaymentState::NotSent);
        tx.commit()?;
        Ok(Sent::Now(state))
    }

    /// Where a payment to the wallet stands.
    pub(in super::super) fn sent(&self, hash: PaymentHash) -> Result<PaymentState> {
        let state = find(&self.lock(), hash)?;
        Ok(state.unwrap_or(PaymentState::NotSent))
    }

    /// From now on payments of this invoice stay under way until [`Self::resolve`].
    pub(in super::super) fn hold(&self, hash: PaymentHash) -> Result<()> {
        self.lock()
            .execute(
                "INSERT OR IGNORE INTO held (payment_hash) VALUES (?1)",
                [hash.0],
            )
            .map(drop)
    }

    /// Takes a held payment, or sends it back; `false` if none is under way.
    pub(in super::super) fn resolve(&self, hash: PaymentHash, take: bool) -> Result<bool> {
        let failure = match take {
            true => "",
            false => PaymentFailure::IncorrectDetails.as_str(),
        };
        self.lock()
            .execute(
                "UPDATE outgoing SET failure = ?2 WHERE payment_hash = ?1 AND failure IS NULL",
                params![hash.0, failure],
            )
            .map(|changed| changed == 1)
    }

    /// Number of payments that succeeded and their sum.
    pub(in super::super) fn sent_totals(&self) -> Result<(u64, u64)> {
        self.lock().query_row(
            "SELECT count(*), coalesce(sum(amount_msat), 0) FROM outgoing WHERE failure = ''",
            [],
            |row| {
                Ok((
                    row.get::<_, i64>(0)?.unsigned_abs(),
                    row.get::<_, i64>(1)?.unsigned_abs(),
                ))
            },
        )
    }
}

/// What came in, less what went out or is on its way out.
fn funds(db: &Connection) -> Result<i64> {
    db.query_row(
        "SELECT (SELECT coalesce(sum(amount_msat), 0) FROM payments)
              - (SELECT coalesce(sum(amount_msat), 0) FROM outgoing
                 WHERE failure IS NULL OR failure = '')",
        [],
        |row| row.get(0),
    )
}

fn find(db: &Connection, hash: PaymentHash) -> Result<Option<PaymentState>> {
    db.prepare_cached("SELECT amount_msat, failure FROM outgoing WHERE payment_hash = ?1")?
        .query_row([hash.0], |row| {
            let amount = row.get::<_, i64>(0)?.unsigned_abs();
            let failure: Option<String> = row.get(1)?;
            Ok(match failure.as_deref() {
                None => PaymentState::InFlight,
                Some("") => PaymentState::Succeeded {
                    amount: Msat::new(amount).unwrap_or(Msat::MAX),
                    fee: Msat::ZERO,
                },
                Some(word) => PaymentState::Failed {
                    reason: PaymentFailure::of_name(word).unwrap_or(PaymentFailure::Other),
                },
            })
        })
        .optional()
}
