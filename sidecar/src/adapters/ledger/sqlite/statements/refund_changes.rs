//! What a human changes of a refund: where it goes, and which node pays it.

use protocol::hash::PaymentHash;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Result;
use super::columns::signed;
use super::refund_work::state;
use crate::domain::invoice::NodeId;
use crate::domain::payout::{Moved, Replaced};
use crate::domain::refund::RefundState;
use crate::domain::return_invoice::ReturnInvoice;

/// The session gets the invoice too: there it is seen that no two have the same.
pub(in super::super) fn replace_return_invoice(
    db: &Connection,
    id: PaymentHash,
    old: PaymentHash,
    invoice: &ReturnInvoice,
    now_millis: u64,
) -> Result<Replaced> {
    let found = db
        .prepare_cached("SELECT state, return_hash FROM refunds WHERE session_id = ?1")?
        .query_row([id.0], |row| Ok((state(row, 0)?, PaymentHash(row.get(1)?))))
        .optional()?;
    match found {
        None => return Ok(Replaced::NotFound),
        Some((RefundState::Failed, hash)) if hash == old => {}
        Some((RefundState::Failed, _)) => return Ok(Replaced::OtherInvoice),
        Some((other, _)) => return Ok(Replaced::NotFailed(other)),
    }
    let is_used: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM sessions WHERE return_hash = ?2 AND session_id <> ?1)",
        )?
        .query_row(params![id.0, invoice.payment_hash.0], |row| row.get(0))?;
    if is_used {
        return Ok(Replaced::InvoiceUsed);
    }
    let text = invoice.text.as_str();
    db.prepare_cached(
        "UPDATE sessions SET return_invoice = ?2, return_hash = ?3 WHERE session_id = ?1",
    )?
    .execute(params![id.0, text, invoice.payment_hash.0])?;
    db.prepare_cached(
        "UPDATE refunds SET return_invoice = ?2, return_hash = ?3, state = 'pending', attempts = 0,
                            failure = NULL, sent_sat = NULL, fee_limit_msat = NULL, sent_ms = NULL,
                            due_ms = 0, updated_ms = ?4
         WHERE session_id = ?1 AND state = 'failed'",
    )?
    .execute(params![
        id.0,
        text,
        invoice.payment_hash.0,
        signed(now_millis)
    ])?;
    Ok(Replaced::Replaced)
}

/// The session goes with it: the books say that both are of one node.
pub(in super::super) fn move_refund(
    db: &Connection,
    id: PaymentHash,
    to: NodeId,
    now_millis: u64,
) -> Result<Moved> {
    let found = db
        .prepare_cached(
            "SELECT state, node = ?2, sent_ms IS NOT NULL OR sent_sat IS NOT NULL,
                    coalesce(worked_until_ms > ?3, 0)
             FROM refunds WHERE session_id = ?1",
        )?
        .query_row(params![id.0, to.0, signed(now_millis)], |row| {
            Ok((state(row, 0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    match found {
        None => return Ok(Moved::NotFound),
        Some((RefundState::Pending, false, false, false)) => {}
        Some((RefundState::Pending, true, _, _)) => return Ok(Moved::Same),
        Some((RefundState::Pending, _, true, _)) => return Ok(Moved::WasSent),
        Some((RefundState::Pending, _, _, true)) => return Ok(Moved::Taken),
        Some((other, ..)) => return Ok(Moved::NotPending(other)),
    }
    db.prepare_cached("UPDATE sessions SET node = ?2 WHERE session_id = ?1")?
        .execute(params![id.0, to.0])?;
    db.prepare_cached(
        "UPDATE refunds SET node = ?2, worker = NULL, worked_until_ms = NULL, due_ms = 0,
                            updated_ms = ?3
         WHERE session_id = ?1",
    )?
    .execute(params![id.0, to.0, signed(now_millis)])?;
    Ok(Moved::Moved)
}
