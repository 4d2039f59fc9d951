//! Nodes behind the Lightning port.

pub mod dev;
pub mod lnd;
