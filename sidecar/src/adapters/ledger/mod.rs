//! Stores behind the ledger port.

#[cfg(test)]
mod conformance;
pub mod sqlite;
