//! The doors: API for filters, admin listener, and how connections are served.

pub mod admin;
pub mod api;
mod charges;
pub mod client;
mod problem;
pub mod serve;
mod sessions;
pub mod silence;
pub mod strangers;
pub mod tls;
