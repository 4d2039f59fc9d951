//! Wire formats, cryptography, policy and the API types shared by filter and sidecar.
//!
//! Everything here is pure: values in, values out. No clock, I/O, randomness, logging or
//! proxy-wasm; those belong to the crates that call this one.
//!
//! | module | job |
//! |---|---|
//! | [`amount`], [`time`], [`hash`] | newtypes for money, time, payment hashes and preimages |
//! | [`keys`] | master secret, derived L402 and Payment keys, root keys of single tokens |
//! | [`macaroon`] | the V2 binary format and its HMAC chain |
//! | [`l402`] | identifier, caveats, credentials, challenges, verification |
//! | [`payment`] | the Payment scheme: challenges, credentials, receipts, verification, streams |
//! | [`http`] | RFC 9110 challenges and credentials, RFC 9457 problem details |
//! | [`policy`] | the plugin configuration and how a request finds its service |
//! | [`api`] | what filter and sidecar say to each other |

pub mod amount;
pub mod api;
pub mod encoding;
pub mod hash;
pub mod http;
pub mod json;
pub mod keys;
pub mod l402;
pub mod lease;
mod mac;
pub mod macaroon;
pub mod payment;
pub mod policy;
mod secret;
pub mod time;
