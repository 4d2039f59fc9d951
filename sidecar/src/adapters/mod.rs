//! Implementations of the ports: stores, nodes, clock and randomness.

pub mod ledger;
pub mod lightning;
pub mod system;
