//! What a filter VM and the ledger say to each other about leases (spec/lease).
//!
//! A lease is what one VM may spend of one account without asking. Both sides speak in totals that
//! only grow, and take the larger of what they know: a message that is lost, doubled, late or out
//! of order does no harm (L1).
//!
//! Amounts are in the unit the account sells: satoshis for a session, requests for a bundle.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encoding::{DecodeError, hex_decode, hex_encode};

/// How a VM keeps its leases, in milliseconds. The sidecar says it with each answer that grants:
/// what may be spent for how long is known in one place, and a change is heard at once.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Terms {
    /// VALID: a lease may be spent for so long after the request for the newest answer was sent
    /// (L4). The ledger waits for longer before it takes a lease back.
    pub valid_ms: u64,
    /// Time between reports while nobody waits.
    pub tick_ms: u64,
    /// The same while a request or a stream waits for units.
    pub waiting_tick_ms: u64,
}

impl Terms {
    /// Those of spec/lease, unless something else is said.
    pub const USUAL: Self = Self {
        valid_ms: 5_000,
        tick_ms: 100,
        waiting_tick_ms: 20,
    };
    /// Least of [`Self::valid_ms`]: a call that asks for more may take a second.
    pub const LEAST_VALID_MS: u64 = 2_000;
    /// Most of [`Self::valid_ms`]: RECLAIM is two seconds more, and for at most a minute buyers do
    /// without what a dead VM had.
    pub const MOST_VALID_MS: u64 = 58_000;
    /// Most of [`Self::tick_ms`]: who waits for what another VM has waits for a second (L7), in
    /// which that one is to hear of it and to answer.
    pub const MOST_TICK_MS: u64 = 250;
    /// Least of [`Self::waiting_tick_ms`]: a VM looks at what waits no more often.
    pub const LEAST_TICK_MS: u64 = 20;

    /// All are within their bounds.
    #[must_use]
    pub const fn are_sound(&self) -> bool {
        self.valid_ms >= Self::LEAST_VALID_MS
            && self.valid_ms <= Self::MOST_VALID_MS
            && self.tick_ms <= Self::MOST_TICK_MS
            && self.tick_ms >= self.waiting_tick_ms
            && self.waiting_tick_ms >= Self::LEAST_TICK_MS
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::USUAL
    }
}

macro_rules! hex_id {
    ($(#[doc = $doc:literal])+ $name:ident, $length:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub [u8; $length]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex_encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = DecodeError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                hex_decode(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id! {
    /// A session, by the payment hash of its first deposit, or a bundle.
    AccountId, 32
}

hex_id! {
    /// One lease of one account by one VM: random, and never used again once it is final.
    HolderId, 16
}

/// `POST` of [`LeasesRequest`]: the reports of one tick of one VM. 200 with [`LeasesAnswer`].
pub const LEASES_PATH: &str = "/v1/leases";
/// Most reports in one request.
pub const MAX_REPORTS: usize = 1_024;

/// Body of `POST /v1/leases`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LeasesRequest {
    /// Name of the reporting VM, as in [`crate::api::BootstrapQuery::vm`].
    pub vm: String,
    /// At most [`MAX_REPORTS`], one per holder.
    pub reports: Vec<Report>,
}

/// Answer to [`LeasesRequest`]: one for each report, in their order. A report on an account that is
/// held up has none, as if its answer were lost: it is said again (L1).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeasesAnswer {
    /// One for each report that could be heard.
    pub answers: Vec<Answer>,
    /// For what they grant, and for the next reports.
    #[serde(default)]
    pub terms: Terms,
}

/// What a VM says of one lease: totals since the holder began.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The account.
    pub account: AccountId,
    /// The lease.
    pub holder: HolderId,
    /// Spent, ever, by this holder.
    pub used: u64,
    /// Given back, ever, of what it spent: for requests that the upstream never answered. Counts
    /// also after the holder has ended, until the account is settled.
    pub returned: u64,
    /// How much this holder would like to have been granted, ever: no more than what it has, or
    /// about one second's worth beyond what it has used.
    pub want: u64,
    /// What the request or event that waits now costs; 0 if none waits.
    pub need: u64,
    /// What one request or event costs here: how finely the last units are shared out.
    pub price: u64,
    /// The VM has stopped spending and returns what is left.
    pub release: bool,
}

/// What the ledger says of one lease.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answer {
    /// The account.
    pub account: AccountId,
    /// The lease. An answer to a lease that the VM no longer has is to be dropped.
    pub holder: HolderId,
    /// Granted, ever, to this holder.
    pub granted: u64,
    /// [`Report::returned`] as it was heard: it need not be said again.
    pub returned: u64,
    /// Debited from the account so far, whoever spent it.
    pub spent: u64,
    /// Return what is left: someone else needs it, or the account is closing.
    pub recall: bool,
    /// The holder has ended; its id must not be used again.
    pub r#final: bool,
    /// Even all that is left in the account, whoever holds it, is less than the need.
    pub short: bool,
    /// Whether the account can be spent from.
    pub state: AccountState,
}

/// Whether an account can be spent from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountState {
    /// It can.
    Open,
    /// Not any more.
    Closed,
    /// There is no such account.
    Unknown,
}
