//! The sidecar over real HTTP, with a real ledger and the dev network, or with a small fake
//! of LND's gRPC interface.

// The helpers between the tests are tests, too.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod books;
mod bootstrap;
mod charges;
mod fake_lnd;
mod files;
mod kills;
mod lnd;
mod offers;
mod payments;
mod process;
mod refunds;
mod session_client;
mod session_refusals;
mod sessions;
mod several;
mod support;
mod transport;
