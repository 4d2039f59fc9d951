//! Harness of the end-to-end tests: real Envoy, the built filter, the real sidecar, an upstream
//! that counts, buyers with real wallets. Nothing in here is a mock of ours.
//!
//! Start with [`gate::Gate`]: one call gives a whole gate on free ports, with everything it
//! started gone again when it is dropped.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use e2e::gate::Gate;
//!
//! let gate = Gate::dev("example").start().await?;
//! let refused = gate.http().get("/v1/forecast").send().await?;
//! assert_eq!(refused.status, 402);
//! assert_eq!(gate.upstream.count(), 0);
//! let token = gate.buy("/v1/forecast").await?;
//! let served = gate.http().get("/v1/forecast").token(&token).send().await?;
//! assert_eq!(served.status, 200);
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! | --- | --- |
//! | [`gate`] | the whole: Envoy + filter + sidecar + upstream + wallet |
//! | [`envoy`] | Envoy with a rendered configuration, listener reload, statistics, access log |
//! | [`sidecar`] | the sidecar with a rendered configuration; kill, restart, freeze, command line |
//! | [`upstream`] | the sold API; counts and records every request that arrives |
//! | [`regtest`] | btcd and two LND nodes with a channel between them |
//! | [`wallet`] | pays invoices: the dev network or an LND node |
//! | [`l402`], [`macaroon`] | a buyer's side of L402, written from the specification alone |
//! | [`payment`] | the same of the Payment scheme: charges and sessions |
//! | [`http_client`], [`raw`] | HTTP with nothing added; raw bytes on a socket |
//! | [`unpaid`], [`impostor`] | requests that nobody paid for; what may stand in the sidecar's place |
//! | [`process`], [`eventually`](mod@eventually), [`paths`], [`ports`] | the ground under it |

pub mod args;
pub mod envoy;
pub mod eventually;
pub mod gate;
pub mod http_client;
pub mod impostor;
pub mod l402;
pub mod macaroon;
pub mod paths;
pub mod payment;
pub mod ports;
pub mod probes;
pub mod process;
pub mod raw;
pub mod regtest;
pub mod sidecar;
pub mod unpaid;
pub mod upstream;
pub mod wallet;

pub use eventually::eventually;
