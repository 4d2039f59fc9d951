//! Offers, settlements and sales.

use deadpool_postgres::GenericClient;
use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;
use tokio_postgres::Row;

use super::columns::{array, end_of, msat, scheme, signed, unsigned, validity};
use super::{Lock, NOW_MS, Result, beside_others};
use crate::domain::invoice::{NodeId, Settlement};
use crate::domain::ledger::{LedgerError, OfferBatch, OfferName};
use crate::domain::offer::{OfferRow, Sale, Scheme, Validity};

pub(in super::super) async fn record_offers(
    db: &impl GenericClient,
    batch: &OfferBatch,
) -> Result<()> {
    let Some(latest) = batch.latest_validity() else {
        return Ok(());
    };
    // From here on the generation stays what it is.
    beside_others(db, Lock::Keys).await?;
    note_issued(db, batch, latest).await?;
    let bytes = |of: fn(&OfferRow) -> &[u8]| batch.offers.iter().map(of).collect::<Vec<_>>();
    let numbers =
        |of: fn(&OfferRow) -> Option<i64>| batch.offers.iter().map(of).collect::<Vec<_>>();
    let services: Vec<_> = batch.offers.iter().map(|o| o.service.as_str()).collect();
    let schemes: Vec<_> = batch.offers.iter().map(|o| o.scheme.as_str()).collect();
    let nodes: Vec<Option<&[u8]>> = (batch.offers.iter())
        .map(|offer| offer.node.as_ref().map(|node| &node.0[..]))
        .collect();
    let insert = db
        .prepare_cached(
            "INSERT INTO offers (payment_hash, token_id, service, scheme, amount_msat, created_at,
                                 expires_at, valid_until, node)
             SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::bigint[],
                                  $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[])",
        )
        .await?;
    db.execute(
        &insert,
        &[
            &bytes(|offer| &offer.payment_hash.0),
            &bytes(|offer| &offer.token_id.0),
            &services,
            &schemes,
            &numbers(|offer| Some(signed(offer.amount.get()))),
            &numbers(|offer| Some(signed(offer.created.0))),
            &numbers(|offer| Some(signed(offer.expires.0))),
            &numbers(|offer| end_of(offer.valid_until)),
            &nodes,
        ],
    )
    .await?;
    Ok(())
}

/// Writes only what is news, which is once a second at most when tokens have a life: everybody who
/// issues would wait for this row otherwise.
async fn note_issued(db: &impl GenericClient, batch: &OfferBatch, latest: Validity) -> Result<()> {
    let end = batch
        .offers
        .iter()
        .filter_map(|o| end_of(o.valid_until))
        .max();
    let id = i16::from(batch.generation);
    let forever = latest == Validity::Forever;
    let query = db
        .prepare_cached(
            "SELECT ($2 AND NOT issued_forever) OR coalesce($3 > coalesce(issued_until, -1), false)
             FROM key_generations WHERE id = $1 AND state = 'current'",
        )
        .await?;
    let row = db.query_opt(&query, &[&id, &forever, &end]).await?;
    let Some(row) = row else {
        return Err(LedgerError::NotCurrent(batch.generation).into());
    };
    if row.try_get(0)? {
        let update = db
            .prepare_cached(
                "UPDATE key_generations
                 SET issued_forever = issued_forever OR $2,
                     issued_until = greatest(issued_until, $3)
                 WHERE id = $1",
            )
            .await?;
        db.execute(&update, &[&id, &forever, &end]).await?;
    }
    Ok(())
}

pub(in super::super) async fn outstanding(
    db: &impl GenericClient,
    node: Option<NodeId>,
) -> Result<u64> {
    let query = db
        .prepare_cached(
            "SELECT count(*) FROM offers
             WHERE state = 'offered' AND (node = $1 OR node IS NULL OR $1 IS NULL)",
        )
        .await?;
    let node = node.as_ref().map(|node| &node.0[..]);
    unsigned(&db.query_one(&query, &[&node]).await?, 0)
}

pub(in super::super) async fn unpaid(
    db: &impl GenericClient,
    node: NodeId,
    after: Option<PaymentHash>,
    expired_before: UnixSeconds,
    limit: u32,
) -> Result<Vec<PaymentHash>> {
    let after = after.map_or(Vec::new(), |hash| hash.0.to_vec());
    let query = db
        .prepare_cached(
            "SELECT payment_hash FROM offers
             WHERE state = 'offered' AND payment_hash > $1 AND expires_at < $2
                   AND (node = $4 OR node IS NULL)
             ORDER BY payment_hash LIMIT $3",
        )
        .await?;
    let rows = db
        .query(
            &query,
            &[
                &after,
                &signed(expired_before.0),
                &i64::from(limit),
                &&node.0[..],
            ],
        )
        .await?;
    rows.iter()
        .map(|row| Ok(PaymentHash(array(row, 0)?)))
        .collect()
}

pub(in super::super) async fn drop_unpaid(
    db: &impl GenericClient,
    hashes: &[PaymentHash],
) -> Result<usize> {
    let hashes: Vec<&[u8]> = hashes.iter().map(|hash| &hash.0[..]).collect();
    let delete = db
        .prepare_cached("DELETE FROM offers WHERE payment_hash = ANY($1) AND state = 'offered'")
        .await?;
    Ok(count(db.execute(&delete, &[&hashes]).await?))
}

pub(in super::super) async fn drop_expired_tokens(
    db: &impl GenericClient,
    before: UnixSeconds,
    limit: u32,
) -> Result<usize> {
    let delete = db
        .prepare_cached(&format!(
            "DELETE FROM offers WHERE payment_hash IN (
                SELECT payment_hash FROM offers
                WHERE state = 'settled' AND valid_until < least($1, (SELECT {NOW_MS}) / 1000)
                LIMIT $2 FOR UPDATE SKIP LOCKED)"
        ))
        .await?;
    let dropped = db
        .execute(&delete, &[&signed(before.0), &i64::from(limit)])
        .await?;
    Ok(count(dropped))
}

pub(super) fn count(rows: u64) -> usize {
    usize::try_from(rows).unwrap_or(usize::MAX)
}

pub(in super::super) async fn find_offer(
    db: &impl GenericClient,
    name: OfferName,
) -> Result<Option<OfferRow>> {
    const COLUMNS: &str = "SELECT payment_hash, token_id, service, amount_msat, created_at,
        expires_at, valid_until, node FROM offers WHERE scheme = 'l402' AND ";
    let (condition, key) = match name {
        OfferName::PaymentHash(hash) => ("payment_hash = $1", hash.0),
        OfferName::TokenId(id) => ("token_id = $1", id.0),
    };
    let query = db.prepare_cached(&format!("{COLUMNS}{condition}")).await?;
    let row = db.query_opt(&query, &[&&key[..]]).await?;
    row.as_ref().map(offer).transpose()
}

fn offer(row: &Row) -> Result<OfferRow> {
    Ok(OfferRow {
        payment_hash: PaymentHash(array(row, 0)?),
        token_id: TokenId(array(row, 1)?),
        service: row.try_get(2)?,
        scheme: Scheme::L402,
        amount: msat(row, 3)?,
        created: UnixSeconds(unsigned(row, 4)?),
        expires: UnixSeconds(unsigned(row, 5)?),
        valid_until: validity(row, 6)?,
        node: node_of(row, 7)?,
    })
}

pub(in super::super) async fn record_settlements(
    db: &impl GenericClient,
    node: NodeId,
    settlements: &[Settlement],
) -> Result<Vec<Sale>> {
    let mut sales = Vec::new();
    // In the order of their hashes, so that two sidecars never wait for each other in a circle;
    // told in the order in which they came.
    let mut ordered: Vec<_> = settlements.iter().enumerate().collect();
    ordered.sort_by_key(|(_, settlement)| settlement.payment_hash.0);
    for (place, settlement) in ordered {
        let sale = record_sale(db, node, settlement).await?;
        sales.extend(sale.map(|sale| (place, sale)));
    }
    sales.sort_by_key(|(place, _)| *place);
    let sales = sales.into_iter().map(|(_, sale)| sale).collect();
    // Settlements that were looked up one by one may carry no index; they move nothing.
    let last = settlements.iter().map(|s| s.settle_index).max();
    if let Some(last) = last.filter(|last| *last > 0) {
        let note = db
            .prepare_cached(
                "INSERT INTO settle_indexes (node, settle_index) VALUES ($1, $2)
                 ON CONFLICT (node) DO UPDATE
                 SET settle_index = greatest(settle_indexes.settle_index, $2)",
            )
            .await?;
        db.execute(&note, &[&&node.0[..], &signed(last)]).await?;
    }
    Ok(sales)
}

/// The sale, if this payment is for an offer of ours and was not recorded yet. Sidecars that hear
/// of one settlement at once wait for each other at the offer's row.
async fn record_sale(
    db: &impl GenericClient,
    node: NodeId,
    settlement: &Settlement,
) -> Result<Option<Sale>> {
    let hash = &settlement.payment_hash.0[..];
    let insert = db
        .prepare_cached(
            "WITH offer AS (SELECT payment_hash, scheme, service, node FROM offers
                            WHERE payment_hash = $1 FOR UPDATE)
             INSERT INTO sales (payment_hash, scheme, service, amount_msat, settled_at, node)
             SELECT payment_hash, scheme, service, $2, $3, coalesce(node, $4) FROM offer
             ON CONFLICT DO NOTHING
             RETURNING scheme, service, node",
        )
        .await?;
    let new = db
        .query_opt(
            &insert,
            &[
                &hash,
                &signed(settlement.amount.get()),
                &signed(settlement.settled_at.0),
                &&node.0[..],
            ],
        )
        .await?;
    let Some(row) = new else { return Ok(None) };
    let settle = db
        .prepare_cached("UPDATE offers SET state = 'settled' WHERE payment_hash = $1")
        .await?;
    db.execute(&settle, &[&hash]).await?;
    Ok(Some(Sale {
        payment_hash: settlement.payment_hash,
        scheme: scheme(&row, 0)?,
        service: row.try_get(1)?,
        amount: settlement.amount,
        settled_at: settlement.settled_at,
        node: node_of(&row, 2)?,
    }))
}

pub(in super::super) async fn find_sale(
    db: &impl GenericClient,
    hash: PaymentHash,
) -> Result<Option<Sale>> {
    let query = db
        .prepare_cached(
            "SELECT payment_hash, scheme, service, amount_msat, settled_at, node FROM sales
             WHERE payment_hash = $1",
        )
        .await?;
    let row = db.query_opt(&query, &[&&hash.0[..]]).await?;
    row.as_ref().map(sale).transpose()
}

pub(in super::super) async fn settle_index(db: &impl GenericClient, node: NodeId) -> Result<u64> {
    let query = db
        .prepare_cached("SELECT settle_index FROM settle_indexes WHERE node = $1")
        .await?;
    match db.query_opt(&query, &[&&node.0[..]]).await? {
        Some(row) => unsigned(&row, 0),
        None => Ok(0),
    }
}

pub(in super::super) async fn sales(
    db: &impl GenericClient,
    since: UnixSeconds,
    limit: u32,
) -> Result<Vec<Sale>> {
    let query = db
        .prepare_cached(
            "SELECT payment_hash, scheme, service, amount_msat, settled_at, node FROM sales
             WHERE settled_at >= $1 ORDER BY settled_at, payment_hash LIMIT $2",
        )
        .await?;
    let rows = db
        .query(&query, &[&signed(since.0), &i64::from(limit)])
        .await?;
    rows.iter().map(sale).collect()
}

fn sale(row: &Row) -> Result<Sale> {
    Ok(Sale {
        payment_hash: PaymentHash(array(row, 0)?),
        scheme: scheme(row, 1)?,
        service: row.try_get(2)?,
        amount: msat(row, 3)?,
        settled_at: UnixSeconds(unsigned(row, 4)?),
        node: node_of(row, 5)?,
    })
}

fn node_of(row: &Row, column: usize) -> Result<Option<NodeId>> {
    let node: Option<&[u8]> = row.try_get(column)?;
    let node = node.map(|_| array(row, column)).transpose()?;
    Ok(node.map(NodeId))
}
