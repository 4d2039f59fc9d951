//! Wire formats, cryptography, policy and the API types shared by filter and sidecar.
//!
//! Everything here is pure: values in, values out. No clock, I/O, randomness, logging or
//! proxy-wasm; those belong to the crates that call this one.

pub mod amount;
pub mod api;
