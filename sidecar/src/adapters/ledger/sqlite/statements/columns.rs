//! Between the database's types and ours.

use protocol::amount::Msat;
use protocol::time::UnixSeconds;
use rusqlite::Row;
use rusqlite::types::{FromSqlError, Type};

use crate::domain::offer::{Scheme, Validity};

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

pub(super) fn scheme(row: &Row<'_>, column: usize) -> rusqlite::Result<Scheme> {
    let name = row.get_ref(column)?.as_str()?;
    let unknown = || {
        let error = FromSqlError::Other(format!("unknown scheme {name}").into());
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    };
    Scheme::of_name(name).ok_or_else(unknown)
}
