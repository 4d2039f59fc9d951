//! Pieces of HTTP that are no part of a payment scheme.

pub mod auth;
pub(crate) mod credentials;
pub mod problem;
