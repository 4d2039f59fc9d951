//! Stores behind the ledger port.

pub mod conformance;
pub mod sqlite;
