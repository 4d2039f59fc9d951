//! The Boltgate filter: payment challenges and credential checks inside Envoy.
//!
//! | module | job |
//! |---|---|
//! | [`flow`] | the gate: a pure state machine, events in, decisions and calls out |
//! | [`head`], [`pairs`], [`path`] | what a request says, read in place |
//! | [`lease`] | what this VM may spend of accounts without asking |
//! | [`meter`] | events of a stream, each for a unit |
//! | [`outcome`] | the closed set of words in logs and metrics |
//! | `host` | callbacks of Envoy to events, decisions to host calls; wasm only |
//! | `abi` | the proxy-wasm ABI itself, with all `unsafe` code in it and below it; wasm only |
//!
//! Nothing on the request path panics: a panic kills the VM of a worker and with it every request
//! that is held there. Whatever goes wrong inside becomes a reply, never "continue".

pub mod flow;
pub mod head;
pub mod lease;
pub mod meter;
pub mod outcome;
pub mod pairs;
pub mod path;

#[cfg(target_arch = "wasm32")]
mod abi;
#[cfg(target_arch = "wasm32")]
mod host;
