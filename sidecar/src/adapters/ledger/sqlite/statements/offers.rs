//! Offers, settlements and sales.

use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Result;
use super::columns::{end_of, msat, scheme, signed, unsigned, validity};
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::ledger::{LedgerError, OfferBatch, OfferName};
use crate::domain::offer::{OfferRow, Sale, Scheme, Validity};

pub(in super::super) fn record_offers(db: &Connection, batch: &OfferBatch) -> Result<()> {
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
                             expires_at, valid_until, node)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
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
            end_of(offer.valid_until),
            offer.node.map(|node| node.0)
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

pub(in super::super) fn outstanding(db: &Connection, node: Option<NodeId>) -> Result<u64> {
    let count = db
        .prepare_cached(
            "SELECT count(*) FROM offers
             WHERE state = 'offered' AND (node = ?1 OR node IS NULL OR ?1 IS NULL)",
        )?
        .query_row([node.map(|node| node.0)], |row| unsigned(row, 0))?;
    Ok(count)
}

pub(in super::super) fn unpaid(
    db: &Connection,
    node: NodeId,
    after: Option<PaymentHash>,
    expired_before: UnixSeconds,
    limit: u32,
) -> Result<Vec<PaymentHash>> {
    let after = after.map_or(Vec::new(), |hash| hash.0.to_vec());
    let hashes = db
        .prepare_cached(
            "SELECT payment_hash FROM offers
             WHERE state = 'offered' AND payment_hash > ?1 AND expires_at < ?2
                   AND (node = ?4 OR node IS NULL)
             ORDER BY payment_hash LIMIT ?3",
        )?
        .query_map(
            params![after, signed(expired_before.0), limit, node.0],
            |row| Ok(PaymentHash(row.get(0)?)),
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(hashes)
}

pub(in super::super) fn drop_unpaid(db: &Connection, hashes: &[PaymentHash]) -> Result<usize> {
    let mut delete =
        db.prepare_cached("DELETE FROM offers WHERE payment_hash = ?1 AND state = 'offered'")?;
    let mut dropped = 0;
    for hash in hashes {
        dropped += delete.execute([hash.0])?;
    }
    Ok(dropped)
}

pub(in super::super) fn drop_expired_tokens(
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

pub(in super::super) fn find_offer(db: &Connection, name: OfferName) -> Result<Option<OfferRow>> {
    const COLUMNS: &str = "SELECT payment_hash, token_id, service, amount_msat, created_at,
        expires_at, valid_until, node FROM offers WHERE scheme = 'l402' AND ";
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
                node: row.get::<_, Option<_>>(7)?.map(NodeId),
            })
        })
        .optional()?;
    Ok(offer)
}

pub(in super::super) fn record_settlements(
    db: &Connection,
    node: NodeId,
    settlements: &[Settlement],
) -> Result<Vec<Sale>> {
    let mut sales = Vec::new();
    for settlement in settlements {
        sales.extend(record_sale(db, node, settlement)?);
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

/// The sale, if this payment is for an offer of ours and was not recorded yet.
fn record_sale(db: &Connection, node: NodeId, settlement: &Settlement) -> Result<Option<Sale>> {
    let sale = db
        .prepare_cached(
            "INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at, node)
             SELECT payment_hash, scheme, service, ?2, ?3, coalesce(node, ?4)
             FROM offers WHERE payment_hash = ?1
             ON CONFLICT DO NOTHING
             RETURNING scheme, service, node",
        )?
        .query_row(
            params![
                settlement.payment_hash.0,
                signed(settlement.amount.get()),
                signed(settlement.settled_at.0),
                node.0
            ],
            |row| {
                Ok(Sale {
                    payment_hash: settlement.payment_hash,
                    scheme: scheme(row, 0)?,
                    service: row.get(1)?,
                    amount: settlement.amount,
                    settled_at: settlement.settled_at,
                    node: row.get::<_, Option<_>>(2)?.map(NodeId),
                })
            },
        )
        .optional()?;
    if sale.is_some() {
        db.prepare_cached("UPDATE offers SET state = 'settled' WHERE payment_hash = ?1")?
            .execute([settlement.payment_hash.0])?;
    }
    Ok(sale)
}

pub(in super::super) fn find_sale(db: &Connection, hash: PaymentHash) -> Result<Option<Sale>> {
    let found = db
        .prepare_cached(
            "SELECT payment_hash, scheme, service, amount_msat, settled_at, node FROM sales
             WHERE payment_hash = ?1",
        )?
        .query_row([hash.0], sale)
        .optional()?;
    Ok(found)
}

fn sale(row: &Row<'_>) -> rusqlite::Result<Sale> {
    Ok(Sale {
        payment_hash: PaymentHash(row.get(0)?),
        scheme: scheme(row, 1)?,
        service: row.get(2)?,
        amount: msat(row, 3)?,
        settled_at: UnixSeconds(unsigned(row, 4)?),
        node: row.get::<_, Option<_>>(5)?.map(NodeId),
    })
}

pub(in super::super) fn settle_index(db: &Connection, node: NodeId) -> Result<u64> {
    let index = db
        .prepare_cached("SELECT settle_index FROM settle_indexes WHERE node = ?1")?
        .query_row([node.0], |row| unsigned(row, 0))
        .optional()?;
    Ok(index.unwrap_or(0))
}

pub(in super::super) fn sales(
    db: &Connection,
    since: UnixSeconds,
    limit: u32,
) -> Result<Vec<Sale>> {
    let sales = db
        .prepare_cached(
            "SELECT payment_hash, scheme, service, amount_msat, settled_at, node FROM sales
             WHERE settled_at >= ?1 ORDER BY settled_at, payment_hash LIMIT ?2",
        )?
        .query_map(params![signed(since.0), limit], sale)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(sales)
}
