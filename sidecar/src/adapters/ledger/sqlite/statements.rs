//! The SQL, one function per call of the port. Each runs inside a transaction.

use protocol::amount::Msat;
use protocol::api::KeyState;
use protocol::hash::PaymentHash;
use protocol::keys::MasterSecret;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::domain::deny_list::{DenyList, EXPIRY_GRACE_SECONDS, Revocation, Version};
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::keys::{self, Generation, KeySource, NewKey};
use crate::domain::ledger::{Epoch, LedgerError, NewRevocation, OfferBatch, OfferName, Snapshot};
use crate::domain::offer::{OfferRow, Sale, Scheme, Validity};

type Result<T> = std::result::Result<T, LedgerError>;

/// Filters that were away for longer than this get the whole deny list instead of its changes.
const REMEMBER_REMOVALS_MILLIS: u64 = 3_600_000;

// === versions and snapshot ===

pub(super) fn version(db: &Connection) -> Result<Version> {
    let version = db
        .prepare_cached("SELECT version FROM instance WHERE id = 1")?
        .query_row([], |row| unsigned(row, 0))?;
    Ok(Version(version))
}

/// A new version for a change made now.
fn next_version(db: &Connection, now_millis: u64) -> Result<Version> {
    let version = db
        .prepare_cached(
            "UPDATE instance SET version = max(version + 1, ?1) WHERE id = 1 RETURNING version",
        )?
        .query_row([signed(now_millis)], |row| unsigned(row, 0))?;
    Ok(Version(version))
}

pub(super) fn snapshot(db: &Connection) -> Result<Snapshot> {
    let (epoch, version, floor) = db
        .prepare_cached("SELECT epoch, version, revocation_floor FROM instance WHERE id = 1")?
        .query_row([], |row| {
            Ok((
                Epoch(row.get(0)?),
                Version(unsigned(row, 1)?),
                Version(unsigned(row, 2)?),
            ))
        })?;
    let revocations = db
        .prepare_cached(
            "SELECT identifier_hash, added_version, expires_at, removed_version FROM revocations",
        )?
        .query_map([], |row| {
            Ok(Revocation {
                identifier_hash: row.get(0)?,
                added: Version(unsigned(row, 1)?),
                expires: validity(row, 2)?,
                removed: row
                    .get::<_, Option<i64>>(3)?
                    .map(|v| Version(v.unsigned_abs())),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Snapshot {
        epoch,
        version,
        generations: generations(db)?,
        deny_list: DenyList::new(revocations, floor),
    })
}

// === key generations ===

fn generations(db: &Connection) -> Result<Vec<Generation>> {
    let rows = db
        .prepare_cached(
            "SELECT id, state, secret, fingerprint, issued_until, issued_forever, added_version,
                    created_at
             FROM key_generations ORDER BY id",
        )?
        .query_map([], generation)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(rows)
}

fn generation(row: &Row<'_>) -> rusqlite::Result<Generation> {
    let until: Option<i64> = row.get(4)?;
    let forever: bool = row.get(5)?;
    let until = until.map(|end| Validity::Until(UnixSeconds(end.unsigned_abs())));
    Ok(Generation {
        id: row.get(0)?,
        state: match row.get_ref(1)?.as_str()? {
            "next" => KeyState::Next,
            "current" => KeyState::Current,
            _ => KeyState::Retired,
        },
        source: row
            .get::<_, Option<[u8; 32]>>(2)?
            .map_or(KeySource::File, |bytes| {
                KeySource::Ledger(MasterSecret::new(bytes))
            }),
        fingerprint: row.get(3)?,
        issued: if forever {
            Some(Validity::Forever)
        } else {
            until
        },
        added: Version(unsigned(row, 6)?),
        created: UnixSeconds(unsigned(row, 7)?),
    })
}

fn insert_generation(
    db: &Connection,
    id: u8,
    state: &str,
    key: &NewKey,
    now_millis: u64,
) -> Result<()> {
    let version = next_version(db, now_millis)?;
    let secret = match &key.source {
        KeySource::Ledger(master) => Some(master.expose()),
        KeySource::File => None,
    };
    db.prepare_cached(
        "INSERT INTO key_generations (id, state, secret, fingerprint, added_version, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        id,
        state,
        secret,
        key.fingerprint,
        signed(version.0),
        signed(now_millis / 1_000)
    ])?;
    Ok(())
}

pub(super) fn install_first_key(db: &Connection, key: &NewKey, now_millis: u64) -> Result<()> {
    if generations(db)?.is_empty() {
        insert_generation(db, 0, "current", key, now_millis)?;
    }
    Ok(())
}

pub(super) fn begin_rotation(db: &Connection, key: &NewKey, now_millis: u64) -> Result<u8> {
    let id = keys::plan_rotation(&generations(db)?, key)?;
    insert_generation(db, id, "next", key, now_millis)?;
    Ok(id)
}

pub(super) fn promote(db: &Connection, id: u8, now_millis: u64) -> Result<bool> {
    let is_next: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM key_generations WHERE id = ?1 AND state = 'next')",
        )?
        .query_row([id], |row| row.get(0))?;
    if !is_next {
        return Ok(false);
    }
    db.execute(
        "UPDATE key_generations SET state = 'retired' WHERE state = 'current'",
        [],
    )?;
    db.execute(
        "UPDATE key_generations SET state = 'current' WHERE id = ?1",
        [id],
    )?;
    next_version(db, now_millis)?;
    Ok(true)
}

pub(super) fn prune_expired(db: &Connection, now_millis: u64) -> Result<usize> {
    let now = UnixSeconds(now_millis / 1_000);
    let spent: Vec<u8> = generations(db)?
        .iter()
        .filter(|g| g.is_spent(now))
        .map(|g| g.id)
        .collect();
    for id in &spent {
        db.execute("DELETE FROM key_generations WHERE id = ?1", [id])?;
    }
    let obsolete: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
                            WHERE removed_version IS NULL AND expires_at < ?1)",
        )?
        .query_row(
            [signed(now.0.saturating_sub(EXPIRY_GRACE_SECONDS))],
            |row| row.get(0),
        )?;
    let mut changed = spent.len();
    if obsolete || changed > 0 {
        let version = next_version(db, now_millis)?;
        changed += db.execute(
            "UPDATE revocations SET removed_version = ?1
             WHERE removed_version IS NULL AND expires_at < ?2",
            [
                signed(version.0),
                signed(now.0.saturating_sub(EXPIRY_GRACE_SECONDS)),
            ],
        )?;
    }
    forget_old_removals(db, now_millis.saturating_sub(REMEMBER_REMOVALS_MILLIS))?;
    Ok(changed)
}

/// A version is at least the milliseconds of its time, and in practice hardly more.
fn forget_old_removals(db: &Connection, before: u64) -> Result<()> {
    let newest: Option<i64> = db
        .prepare_cached("SELECT max(removed_version) FROM revocations WHERE removed_version < ?1")?
        .query_row([signed(before)], |row| row.get(0))?;
    if let Some(newest) = newest {
        db.execute(
            "DELETE FROM revocations WHERE removed_version <= ?1",
            [newest],
        )?;
        db.execute(
            "UPDATE instance SET revocation_floor = max(revocation_floor, ?1) WHERE id = 1",
            [newest],
        )?;
    }
    Ok(())
}

// === deny list ===

pub(super) fn revoke(db: &Connection, revocation: &NewRevocation, now_millis: u64) -> Result<bool> {
    let known: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM revocations
                            WHERE identifier_hash = ?1 AND removed_version IS NULL)",
        )?
        .query_row([revocation.identifier_hash], |row| row.get(0))?;
    if known {
        return Ok(false);
    }
    let version = next_version(db, now_millis)?;
    db.prepare_cached(
        "INSERT INTO revocations (identifier_hash, added_version, expires_at, created_at)
         VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (identifier_hash) DO UPDATE SET
            added_version = excluded.added_version, expires_at = excluded.expires_at,
            removed_version = NULL, created_at = excluded.created_at",
    )?
    .execute(params![
        revocation.identifier_hash,
        signed(version.0),
        end_of(revocation.expires),
        signed(revocation.at.0)
    ])?;
    Ok(true)
}

// === offers ===

pub(super) fn record_offers(db: &Connection, batch: &OfferBatch) -> Result<()> {
    let Some(latest) = batch.latest_validity() else {
        return Ok(());
    };
    let issued = db
        .prepare_cached(
            "UPDATE key_generations
             SET issued_forever = max(issued_forever, ?2),
                 issued_until = CASE WHEN ?3 IS NULL THEN issued_until
                                     ELSE max(coalesce(issued_until, 0), ?3) END
             WHERE id = ?1 AND state = 'current'",
        )?
        .execute(params![
            batch.generation,
            latest == Validity::Forever,
            finite_end(batch)
        ])?;
    if issued != 1 {
        return Err(LedgerError::NotCurrent(batch.generation));
    }
    let mut insert = db.prepare_cached(
        "INSERT INTO offers (payment_hash, token_id, service, scheme, amount_msat, created_at,
                             expires_at, valid_until)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for offer in &batch.offers {
        insert.execute(params![
            offer.payment_hash.0,
            offer.token_id.0,
            offer.service,
            offer.scheme.as_str(),
            signed(offer.amount.get()),
            signed(offer.created.0),
            signed(offer.expires.0),
            end_of(offer.valid_until)
        ])?;
    }
    Ok(())
}

fn finite_end(batch: &OfferBatch) -> Option<i64> {
    batch
        .offers
        .iter()
        .filter_map(|offer| end_of(offer.valid_until))
        .max()
}

pub(super) fn outstanding(db: &Connection) -> Result<u64> {
    let count = db
        .prepare_cached("SELECT count(*) FROM offers WHERE state = 'offered'")?
        .query_row([], |row| unsigned(row, 0))?;
    Ok(count)
}

pub(super) fn unpaid(
    db: &Connection,
    after: Option<PaymentHash>,
    expired_before: UnixSeconds,
    limit: u32,
) -> Result<Vec<PaymentHash>> {
    let after = after.map_or(Vec::new(), |hash| hash.0.to_vec());
    let hashes = db
        .prepare_cached(
            "SELECT payment_hash FROM offers
             WHERE state = 'offered' AND payment_hash > ?1 AND expires_at < ?2
             ORDER BY payment_hash LIMIT ?3",
        )?
        .query_map(params![after, signed(expired_before.0), limit], |row| {
            Ok(PaymentHash(row.get(0)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(hashes)
}

pub(super) fn drop_unpaid(db: &Connection, hashes: &[PaymentHash]) -> Result<usize> {
    let mut delete =
        db.prepare_cached("DELETE FROM offers WHERE payment_hash = ?1 AND state = 'offered'")?;
    let mut dropped = 0;
    for hash in hashes {
        dropped += delete.execute([hash.0])?;
    }
    Ok(dropped)
}

pub(super) fn drop_expired_tokens(
    db: &Connection,
    before: UnixSeconds,
    limit: u32,
) -> Result<usize> {
    let dropped = db
        .prepare_cached(
            "DELETE FROM offers WHERE payment_hash IN (
                SELECT payment_hash FROM offers
                WHERE state = 'settled' AND valid_until < ?1 LIMIT ?2)",
        )?
        .execute(params![signed(before.0), limit])?;
    Ok(dropped)
}

pub(super) fn find_offer(db: &Connection, name: OfferName) -> Result<Option<OfferRow>> {
    const COLUMNS: &str = "SELECT payment_hash, token_id, service, amount_msat, created_at,
        expires_at, valid_until FROM offers WHERE scheme = 'l402' AND ";
    let (condition, key) = match name {
        OfferName::PaymentHash(hash) => ("payment_hash = ?1", hash.0),
        OfferName::TokenId(id) => ("token_id = ?1", id.0),
    };
    let offer = db
        .prepare_cached(&format!("{COLUMNS}{condition}"))?
        .query_row([key], |row| {
            Ok(OfferRow {
                payment_hash: PaymentHash(row.get(0)?),
                token_id: TokenId(row.get(1)?),
                service: row.get(2)?,
                scheme: Scheme::L402,
                amount: msat(row, 3)?,
                created: UnixSeconds(unsigned(row, 4)?),
                expires: UnixSeconds(unsigned(row, 5)?),
                valid_until: validity(row, 6)?,
            })
        })
        .optional()?;
    Ok(offer)
}

// === settlements and sales ===

pub(super) fn record_settlements(
    db: &Connection,
    node: NodeId,
    settlements: &[Settlement],
) -> Result<Vec<Sale>> {
    let mut sales = Vec::new();
    for settlement in settlements {
        if let Some(service) = record_sale(db, settlement)? {
            sales.push(Sale {
                payment_hash: settlement.payment_hash,
                scheme: Scheme::L402,
                service,
                amount: settlement.amount,
                settled_at: settlement.settled_at,
            });
        }
    }
    // Settlements that were looked up one by one may carry no index; they move nothing.
    if let Some(last) = settlements
        .iter()
        .map(|s| s.settle_index)
        .max()
        .filter(|last| *last > 0)
    {
        db.prepare_cached(
            "INSERT INTO settle_indexes (node, settle_index) VALUES (?1, ?2)
             ON CONFLICT (node) DO UPDATE SET settle_index = max(settle_index, ?2)",
        )?
        .execute(params![node.0, signed(last)])?;
    }
    Ok(sales)
}

/// The service that was sold, if this payment is for an offer of ours and was not recorded yet.
fn record_sale(db: &Connection, settlement: &Settlement) -> Result<Option<String>> {
    let service = db
        .prepare_cached(
            "INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at)
             SELECT payment_hash, scheme, service, ?2, ?3 FROM offers WHERE payment_hash = ?1
             ON CONFLICT DO NOTHING
             RETURNING service",
        )?
        .query_row(
            params![
                settlement.payment_hash.0,
                signed(settlement.amount.get()),
                signed(settlement.settled_at.0)
            ],
            |row| row.get(0),
        )
        .optional()?;
    if service.is_some() {
        db.prepare_cached("UPDATE offers SET state = 'settled' WHERE payment_hash = ?1")?
            .execute([settlement.payment_hash.0])?;
    }
    Ok(service)
}

pub(super) fn settle_index(db: &Connection, node: NodeId) -> Result<u64> {
    let index = db
        .prepare_cached("SELECT settle_index FROM settle_indexes WHERE node = ?1")?
        .query_row([node.0], |row| unsigned(row, 0))
        .optional()?;
    Ok(index.unwrap_or(0))
}

pub(super) fn sales(db: &Connection, since: UnixSeconds, limit: u32) -> Result<Vec<Sale>> {
    let sales = db
        .prepare_cached(
            "SELECT payment_hash, service, amount_msat, settled_at FROM sales
             WHERE settled_at >= ?1 ORDER BY settled_at, payment_hash LIMIT ?2",
        )?
        .query_map(params![signed(since.0), limit], |row| {
            Ok(Sale {
                payment_hash: PaymentHash(row.get(0)?),
                scheme: Scheme::L402,
                service: row.get(1)?,
                amount: msat(row, 2)?,
                settled_at: UnixSeconds(unsigned(row, 3)?),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(sales)
}

// === columns ===

/// Every unsigned column is checked by the schema to be no less than 0.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// Times and amounts beyond `i64` are kept as its largest value, some 292 thousand million years.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn end_of(validity: Validity) -> Option<i64> {
    match validity {
        Validity::Forever => None,
        Validity::Until(end) => Some(signed(end.0)),
    }
}

fn validity(row: &Row<'_>, column: usize) -> rusqlite::Result<Validity> {
    let end: Option<i64> = row.get(column)?;
    Ok(end.map_or(Validity::Forever, |end| {
        Validity::Until(UnixSeconds(end.unsigned_abs()))
    }))
}

fn msat(row: &Row<'_>, column: usize) -> rusqlite::Result<Msat> {
    let value = unsigned(row, column)?;
    Msat::new(value).ok_or(rusqlite::Error::IntegralValueOutOfRange(
        column,
        signed(value),
    ))
}
