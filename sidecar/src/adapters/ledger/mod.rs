//! Stores behind the ledger port.

#[cfg(test)]
pub(crate) mod conformance;
pub mod sqlite;
