//! Between the database's types and ours.

use std::time::Duration;

use protocol::amount::{Msat, Sat};
use protocol::time::UnixSeconds;
use tokio_postgres::Row;

use super::Result;
use crate::domain::ledger::LedgerError;
use crate::domain::offer::{Scheme, Validity};
use crate::domain::refund::{RefundState, RefundStatus};
use crate::domain::session::SessionState;

/// Every unsigned column is checked by the schema to be no less than 0.
pub(in super::super) fn unsigned(row: &Row, column: usize) -> Result<u64> {
    Ok(row.try_get::<_, i64>(column)?.unsigned_abs())
}

/// Times and amounts beyond `i64` are kept as its largest value, some 292 thousand million years.
pub(in super::super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn millis(time: Duration) -> i64 {
    signed(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// Bytes of a length that the schema checks.
pub(in super::super) fn array<const N: usize>(row: &Row, column: usize) -> Result<[u8; N]> {
    let bytes: &[u8] = row.try_get(column)?;
    let wrong = |_| LedgerError::Store(format!("{} bytes instead of {N}", bytes.len()));
    Ok(bytes.try_into().map_err(wrong)?)
}

pub(super) fn end_of(validity: Validity) -> Option<i64> {
    match validity {
        Validity::Forever => None,
        Validity::Until(end) => Some(signed(end.0)),
    }
}

pub(super) fn validity(row: &Row, column: usize) -> Result<Validity> {
    let end: Option<i64> = row.try_get(column)?;
    Ok(end.map_or(Validity::Forever, |end| {
        Validity::Until(UnixSeconds(end.unsigned_abs()))
    }))
}

pub(super) fn msat(row: &Row, column: usize) -> Result<Msat> {
    let value = unsigned(row, column)?;
    let absurd = || LedgerError::Store(format!("an amount of {value} msat"));
    Ok(Msat::new(value).ok_or_else(absurd)?)
}

pub(super) fn sat(row: &Row, column: usize) -> Result<Sat> {
    let value = unsigned(row, column)?;
    let absurd = || LedgerError::Store(format!("an amount of {value} sat"));
    Ok(Sat::new(value).ok_or_else(absurd)?)
}

pub(super) fn scheme(row: &Row, column: usize) -> Result<Scheme> {
    named(row.try_get(column)?, Scheme::of_name)
}

pub(super) fn session_state(row: &Row, column: usize) -> Result<SessionState> {
    named(row.try_get(column)?, SessionState::of_name)
}

/// `None` where there is nothing.
pub(super) fn refund_state(row: &Row, column: usize) -> Result<Option<RefundState>> {
    let name: Option<&str> = row.try_get(column)?;
    name.map(|name| named(name, RefundState::of_name))
        .transpose()
}

/// `None` where there is nothing.
pub(super) fn refund_status(row: &Row, column: usize) -> Result<Option<RefundStatus>> {
    let name: Option<&str> = row.try_get(column)?;
    name.map(|name| named(name, RefundStatus::of_name))
        .transpose()
}

fn named<T>(name: &str, of_name: impl Fn(&str) -> Option<T>) -> Result<T> {
    let unknown = || LedgerError::Store(format!("unknown name {name}"));
    Ok(of_name(name).ok_or_else(unknown)?)
}
