//! What the ledger holds and what can be asked of it.

use protocol::api::{KeyState, MAX_REVOCATIONS};
use protocol::hash::PaymentHash;
use protocol::l402::TokenId;
use protocol::time::UnixSeconds;

use super::deny_list::{DenyList, Version};
use super::keys::{Generation, RotationHeld};
use super::offer::{OfferRow, Validity};

/// Random name of this ledger, made with it. Versions of different ledgers cannot be compared.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Epoch(pub [u8; 16]);

/// Everything that filters poll, from one consistent look at the ledger.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which ledger.
    pub epoch: Epoch,
    /// Version of what follows.
    pub version: Version,
    /// All key generations.
    pub generations: Vec<Generation>,
    /// Revoked tokens.
    pub deny_list: DenyList,
}

/// Offers that are about to be handed out, all under one key generation.
#[derive(Clone, Debug)]
pub struct OfferBatch {
    /// The generation that minted them; it must be the current one.
    pub generation: u8,
    /// At least one.
    pub offers: Vec<OfferRow>,
}

impl OfferBatch {
    /// The latest end of all tokens in the batch.
    #[must_use]
    pub fn latest_validity(&self) -> Option<Validity> {
        self.offers.iter().map(|offer| offer.valid_until).max()
    }
}

/// How an operator names an offer.
#[derive(Clone, Copy, Debug)]
pub enum OfferName {
    /// By the hash of its invoice.
    PaymentHash(PaymentHash),
    /// By its token id.
    TokenId(TokenId),
}

/// A token to be refused from now on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NewRevocation {
    /// `sha256(identifier)`.
    pub identifier_hash: [u8; 32],
    /// When the token expires by itself.
    pub expires: Validity,
    /// Now.
    pub at: UnixSeconds,
}

/// What depends on a key generation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct GenerationUse {
    /// Tokens sold under it that are still valid.
    pub sold: u64,
    /// Offers under it that can still be paid.
    pub unpaid: u64,
    /// Sessions that are not closed and were opened or last topped up under it.
    pub sessions: u64,
}

/// Work that one of several sidecars on one store does for all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Duty {
    /// What expired leaves store and node.
    Sweep,
}

impl Duty {
    /// Its name in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
        }
    }
}

/// Why the ledger did not do it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The store failed; the change was not made.
    #[error("ledger: {0}")]
    Store(String),
    /// The store is made by a newer version of this program.
    #[error("ledger has schema version {found}; this program knows up to {known}")]
    TooNew {
        /// Version of the store.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// The store is made by an older version of this program, and it is not to be changed now.
    #[error(
        "ledger has schema version {found}; this program needs {known}: bring it up to date with \
         `boltgate migrate`"
    )]
    TooOld {
        /// Version of the store.
        found: i64,
        /// Version needed here.
        known: i64,
    },
    /// The file is something else.
    #[error("not a ledger of boltgate: {0}")]
    Foreign(String),
    /// Others could read the master keys in it, and we cannot prevent it.
    #[error(
        "ledger {file} has mode {mode}, so others can read its keys, and that cannot be changed \
         ({error}): give it to the sidecar's user with `chown`, or `chmod 600` it"
    )]
    Exposed {
        /// Which file.
        file: String,
        /// Its mode, octal.
        mode: String,
        /// Why it stays so.
        error: String,
    },
    /// Another process of ours has it.
    #[error("ledger is in use by another sidecar: {0}")]
    InUse(String),
    /// A key generation is no longer the one to issue with.
    #[error("key generation {0} is not current any more")]
    NotCurrent(u8),
    /// The rotation must wait.
    #[error(transparent)]
    Held(#[from] RotationHeld),
    /// No more tokens can be refused one by one.
    #[error(
        "the deny list is full: {MAX_REVOCATIONS} tokens are on it, and a filter that starts reads \
         no longer one. Entries leave it when their tokens expire; to refuse many tokens at once, \
         rotate the key and revoke its generation (`boltgate keys revoke`)"
    )]
    DenyListFull,
    /// Only a retired generation can be revoked, and this one is in the given state or gone.
    #[error("{}", not_retired(*.id, *.state))]
    NotRetired {
        /// Which generation.
        id: u8,
        /// Its state, if it is there.
        state: Option<KeyState>,
    },
    /// The ledger is being closed.
    #[error("ledger is closed")]
    Closed,
}

fn not_retired(id: u8, state: Option<KeyState>) -> String {
    let why = match state {
        None => return format!("there is no key generation {id}"),
        Some(KeyState::Current) => "current: rotate the key first (`boltgate keys rotate`)",
        Some(KeyState::Next) => "next: wait until it is current, and rotate once more",
        Some(KeyState::Retired) => "retired",
    };
    format!("key generation {id} is {why}")
}
