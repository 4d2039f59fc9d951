//! Boltgate's sidecar: it holds what a filter inside Envoy cannot, that is the connection to the
//! Lightning node, the settlement of invoices, the master keys and the ledger.
//!
//! ```text
//! http, cli, adapters ──► app ──► domain ──► protocol
//! ```
//!
//! [`domain`] says what is needed of the world (ports) and what the rules are; [`app`] has the use
//! cases; [`adapters`] and [`http`] connect them to SQLite, LND and the network; [`mod@run`] puts them
//! together.

pub mod adapters;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
mod faults;
pub mod files;
pub mod http;
pub mod metrics;
mod run;
pub mod telemetry;

pub use self::run::{Running, StartError, run, start};
