//! What the sidecar is about: ports and rules, values in and values out.
//!
//! Nothing here names a runtime, a database, a web server or a gRPC library; those live in
//! [`crate::adapters`] and [`crate::http`], which depend on this module and never the reverse.

pub mod books;
pub mod claim;
pub mod deny_list;
pub mod hearing;
pub mod invoice;
pub mod keys;
pub mod lease;
pub mod ledger;
pub mod limits;
pub mod offer;
pub mod payment;
pub mod payout;
pub mod ports;
pub mod refund;
pub mod return_invoice;
pub mod session;
