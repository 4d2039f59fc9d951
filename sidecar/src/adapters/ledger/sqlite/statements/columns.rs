//! Between the database's types and ours.

use protocol::amount::{Msat, Sat};
use protocol::time::UnixSeconds;
use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type, ValueRef};

use crate::domain::offer::{Scheme, Validity};
use crate::domain::refund::{RefundState, RefundStatus};
use crate::domain::session::SessionState;

/// Every unsigned column is checked by the schema to be no less than 0.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

/// Times and amounts beyond `i64` are kept as its largest value, some 292 thousand million years.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn end_of(validity: Validity) -> Option<i64> {
    match validity {
        Validity::Forever => None,
        Validity::Until(end) => Some(signed(end.0)),
    }
}

pub(super) fn validity(row: &Row<'_>, column: usize) -> rusqlite::Result<Validity> {
    let end: Option<i64> = row.get(column)?;
    Ok(end.map_or(Validity::Forever, |end| {
        Validity::Until(UnixSeconds(end.unsigned_abs()))
    }))
}

pub(super) fn msat(row: &Row<'_>, column: usize) -> rusqlite::Result<Msat> {
    let value = unsigned(row, column)?;
    Msat::new(value).ok_or(rusqlite::Error::IntegralValueOutOfRange(
        column,
        signed(value),
    ))
}

pub(super) fn sat(row: &Row<'_>, column: usize) -> rusqlite::Result<Sat> {
    let value = unsigned(row, column)?;
    Sat::new(value).ok_or(rusqlite::Error::IntegralValueOutOfRange(
        column,
        signed(value),
    ))
}

pub(super) fn scheme(row: &Row<'_>, column: usize) -> rusqlite::Result<Scheme> {
    named(row, column, Scheme::of_name)
}

pub(super) fn session_state(row: &Row<'_>, column: usize) -> rusqlite::Result<SessionState> {
    named(row, column, SessionState::of_name)
}

/// `None` where there is nothing.
pub(super) fn refund_state(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<RefundState>> {
    optional(row, column, RefundState::of_name)
}

/// `None` where there is nothing.
pub(super) fn refund_status(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<RefundStatus>> {
    optional(row, column, RefundStatus::of_name)
}

fn optional<T>(
    row: &Row<'_>,
    column: usize,
    of_name: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => named(row, column, of_name).map(Some),
    }
}

fn named<T>(
    row: &Row<'_>,
    column: usize,
    of_name: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let name = row.get_ref(column)?.as_str()?;
    let unknown = || {
        let error = FromSqlError::Other(format!("unknown name {name}").into());
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    };
    of_name(name).ok_or_else(unknown)
}
