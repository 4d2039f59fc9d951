//! The Payment authentication scheme, method `lightning` (spec/payment-auth).
//!
//! | module | job |
//! |---|---|
//! | [`challenge`] | the `WWW-Authenticate: Payment` lines and the id that binds them |
//! | [`request`] | what a charge or a session asks for |
//! | [`authorization`], [`credential`] | what a client presents |
//! | [`verify()`] | all that can be decided without the ledger |
//! | [`receipt`], [`event`] | what a client gets with the goods |
//! | [`problem`] | why it gets nothing |
//! | [`accept`] | which offers a client wants to see |
//! | [`sse`] | where the events of a metered stream end |
//! | [`jcs`] | canonical JSON |
//!
//! A challenge is authentic if its id is the HMAC of its parameters under the key of the service
//! (charge) or realm (session) that it is presented to: neither a look-up nor `opaque` nor
//! `digest` is needed (design section 3).

pub mod accept;
pub mod authorization;
pub mod challenge;
pub mod credential;
pub mod event;
pub mod jcs;
mod json;
pub mod problem;
mod realm;
pub mod receipt;
mod refusal;
pub mod request;
pub mod sse;
mod verify;

pub use challenge::{Challenge, Intent, Issued, Slots};
pub use credential::{Credential, CredentialError};
pub use realm::{Realm, RealmError};
pub use refusal::Refusal;
pub use verify::{Action, Charge, Outcome, SessionCall, Target, verify};

/// Name of the authentication scheme.
pub const SCHEME: &str = "Payment";
/// Name of the payment method, the only one here.
pub const METHOD: &str = "lightning";
/// Most bytes of credentials that are looked at in one request (R-CORE-23).
pub const MAX_HEADER_LEN: usize = 16 * 1024;
