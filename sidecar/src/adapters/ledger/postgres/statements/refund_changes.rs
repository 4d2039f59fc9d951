//! What a human changes of a refund: where it goes, and which node pays it.

use deadpool_postgres::GenericClient;
use protocol::hash::PaymentHash;

use super::columns::array;
use super::refund_work::state;
use super::{Lock, NOW_MS, Result, alone};
use crate::domain::invoice::NodeId;
use crate::domain::payout::{Moved, Replaced};
use crate::domain::refund::RefundState;
use crate::domain::return_invoice::ReturnInvoice;

/// The session gets the invoice too: there it is seen that no two have the same. Nobody opens a
/// session meanwhile, whose return invoice could be this one.
pub(in super::super) async fn replace_return_invoice(
    db: &impl GenericClient,
    id: PaymentHash,
    old: PaymentHash,
    invoice: &ReturnInvoice,
) -> Result<Replaced> {
    alone(db, Lock::Returns).await?;
    for lock in [
        "SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE",
        "SELECT 1 FROM refunds WHERE session_id = $1 FOR UPDATE",
    ] {
        let lock = db.prepare_cached(lock).await?;
        db.execute(&lock, &[&&id.0[..]]).await?;
    }
    let query = db
        .prepare_cached("SELECT state, return_hash FROM refunds WHERE session_id = $1")
        .await?;
    let Some(found) = db.query_opt(&query, &[&&id.0[..]]).await? else {
        return Ok(Replaced::NotFound);
    };
    match state(&found, 0)? {
        RefundState::Failed => {}
        other => return Ok(Replaced::NotFailed(other)),
    }
    if PaymentHash(array(&found, 1)?) != old {
        return Ok(Replaced::OtherInvoice);
    }
    let (text, hash) = (invoice.text.as_str(), &invoice.payment_hash.0[..]);
    let query = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE return_hash = $2 AND session_id <> $1)",
        )
        .await?;
    let is_used: bool = db
        .query_one(&query, &[&&id.0[..], &hash])
        .await?
        .try_get(0)?;
    if is_used {
        return Ok(Replaced::InvoiceUsed);
    }
    for change in [
        "UPDATE sessions SET return_invoice = $2, return_hash = $3 WHERE session_id = $1"
            .to_owned(),
        format!(
            "UPDATE refunds SET return_invoice = $2, return_hash = $3, state = 'pending',
                                attempts = 0, failure = NULL, sent_sat = NULL,
                                fee_limit_msat = NULL, sent_ms = NULL, due_ms = 0,
                                updated_ms = {NOW_MS}
             WHERE session_id = $1 AND state = 'failed'"
        ),
    ] {
        let change = db.prepare_cached(&change).await?;
        db.execute(&change, &[&&id.0[..], &text, &hash]).await?;
    }
    Ok(Replaced::Replaced)
}

/// The session goes with it: the books say that both are of one node.
pub(in super::super) async fn move_refund(
    db: &impl GenericClient,
    id: PaymentHash,
    to: NodeId,
) -> Result<Moved> {
    let lock = db
        .prepare_cached("SELECT 1 FROM sessions WHERE session_id = $1 FOR UPDATE")
        .await?;
    db.execute(&lock, &[&&id.0[..]]).await?;
    let query = db
        .prepare_cached(&format!(
            "SELECT state, node = $2, sent_ms IS NOT NULL OR sent_sat IS NOT NULL,
                    coalesce(worked_until_ms > {NOW_MS}, false)
             FROM refunds WHERE session_id = $1 FOR UPDATE"
        ))
        .await?;
    let found = db.query_opt(&query, &[&&id.0[..], &&to.0[..]]).await?;
    let Some(row) = found else {
        return Ok(Moved::NotFound);
    };
    match state(&row, 0)? {
        RefundState::Pending => {}
        other => return Ok(Moved::NotPending(other)),
    }
    for (column, why) in [(1, Moved::Same), (2, Moved::WasSent), (3, Moved::Taken)] {
        if row.try_get(column)? {
            return Ok(why);
        }
    }
    for change in [
        "UPDATE sessions SET node = $2 WHERE session_id = $1".to_owned(),
        format!(
            "UPDATE refunds SET node = $2, worker = NULL, worked_until_ms = NULL, due_ms = 0,
                                updated_ms = {NOW_MS}
             WHERE session_id = $1"
        ),
    ] {
        let change = db.prepare_cached(&change).await?;
        db.execute(&change, &[&&id.0[..], &&to.0[..]]).await?;
    }
    Ok(Moved::Moved)
}
