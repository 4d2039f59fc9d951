//! Sessions of the Payment scheme: what is spent here from leases, and what the sidecar is asked to
//! do to a session as a whole (spec/payment-auth, spec/lease).

mod bearer;
mod deposits;
mod errand;
mod prices;
mod queue;
mod recent;
mod reports;
mod streams;
mod told;

use std::cell::Cell;
use std::rc::Rc;

use protocol::amount::Sat;
use protocol::hash::sha256;
use protocol::keys::ChallengeKeys;
use protocol::lease::{AccountId, HolderId};
use protocol::payment::SessionCall;
use protocol::policy::{PluginConfig, Service, SessionTerms, Unit};
use protocol::time::UnixSeconds;

pub(super) use self::deposits::Deposits;
pub(super) use self::errand::Errand;
pub(super) use self::prices::FormerPrices;
pub(super) use self::queue::{Asker, Units};
pub(super) use self::recent::Recent;
pub(super) use self::reports::Reports;
pub(super) use self::streams::Streams;

use super::limits::{Client, Clients, Limits};
use super::reply::Manner;
use super::stock::Offer;
use super::verdicts::{Bounds, Verdicts};
use super::waiting::Unoffered;
use super::{Gate, ServiceTag, State, payment};
use crate::lease::{InVain, Leases, Times};

/// Credentials of bearers that are remembered: with invoice and echo they are long.
const BEARERS: Bounds = Bounds {
    sets: 1_024,
    longest: 2_560,
};
/// Accounts of which it is remembered that nothing can be had of them.
const MOST_IN_VAIN: usize = 1_024;

/// What Envoy's details of a response code hold when a deadline may have led to it.
const BY_DEADLINE: [&[u8]; 3] = [b"timeout", b"duration", b"remote_reset"];

/// A credential that names a session, with its proof done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bearer {
    pub(super) account: AccountId,
    /// The same in 64 hex digits.
    pub(super) session_id: String,
    pub(super) challenge_id: String,
    /// What one request costs by the challenge.
    pub(super) price: Sat,
    pub(super) expires: UnixSeconds,
    /// The challenge is the one that opened the session: good also after its end (X2).
    pub(super) is_own: bool,
    /// When its client was last noted as one that has paid, in milliseconds.
    pub(super) noted_ms: Cell<u64>,
}

impl Bearer {
    pub(super) fn new(call: &SessionCall) -> Self {
        let session = call.session_id();
        Self {
            account: AccountId(session.0),
            session_id: session.to_string(),
            challenge_id: call.challenge_id.clone(),
            price: call.price,
            expires: call.expires,
            is_own: call.has_own_challenge(),
            noted_ms: Cell::new(0),
        }
    }
}

/// A request for which a session has paid.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Spent {
    pub(super) tag: ServiceTag,
    pub(super) bearer: Rc<Bearer>,
    /// The lease that it was taken from.
    pub(super) holder: HolderId,
    /// What the service sells as one unit.
    pub(super) unit: Unit,
    /// When that was.
    pub(super) at: UnixSeconds,
    /// Its client, if it is to be noted as one that has paid once the upstream has answered.
    pub(super) payer: Option<Client>,
    pub(super) manner: Manner,
}

impl Spent {
    /// The session, 64 hex digits.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.bearer.session_id
    }

    /// The same as the ledger's account.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.bearer.account
    }

    /// What was spent for the request, and what each further unit of it costs.
    #[must_use]
    pub fn price(&self) -> Sat {
        self.bearer.price
    }

    /// The service that was asked for.
    #[must_use]
    pub const fn tag(&self) -> &ServiceTag {
        &self.tag
    }

    /// What one unit is.
    #[must_use]
    pub const fn unit(&self) -> Unit {
        self.unit
    }

    /// The response was made by Envoy because the upstream gave none: what was spent is to be
    /// given back. `grpc_status` and `details` (of the response code) are asked for where needed.
    ///
    /// A client that sets a deadline chooses when Envoy, or an upstream that knows of it, gives up
    /// on work that goes on: then it pays.
    pub fn is_unanswered(
        &self,
        status: &[u8],
        grpc_status: impl FnOnce() -> Vec<u8>,
        details: impl FnOnce() -> Vec<u8>,
    ) -> bool {
        // To gRPC clients Envoy says the same by `unavailable` and `deadline exceeded`.
        let may_be = match status {
            b"502" | b"503" | b"504" => true,
            b"200" => self.manner.grpc && matches!(&*grpc_status(), b"14" | b"4"),
            _ => false,
        };
        if !may_be {
            return false;
        }
        // A response of whose origin nothing is known is taken for the upstream's own.
        let details = details();
        let is_made_by_envoy = !details.is_empty() && details != b"via_upstream";
        let has = |part: &&[u8]| details.windows(part.len()).any(|some| some == *part);
        is_made_by_envoy && !(self.manner.deadline && BY_DEADLINE.iter().any(has))
    }
}

/// All that a gate knows of sessions.
pub(super) struct Sessions {
    /// A service takes them.
    is_any_sold: bool,
    /// Of the realm; `None` while there are no keys.
    pub(super) keys: Option<ChallengeKeys>,
    pub(super) leases: Leases,
    pub(super) reports: Reports,
    pub(super) bearers: Verdicts<Rc<Bearer>>,
    /// How many sessions that this VM knows nothing of each client may ask for.
    pub(super) look_ups: Clients,
    /// Accounts that were asked for in vain.
    pub(super) in_vain: Recent<InVain>,
    pub(super) deposits: Deposits,
    pub(super) former_prices: FormerPrices,
    pub(super) streams: Streams,
    /// Of calls about a session as a whole.
    pub(super) errands: u64,
}

impl Sessions {
    pub(super) fn new(config: &PluginConfig, limits: Limits, vm: &[u8; 16]) -> Self {
        let services = config.policy.services();
        let is_any_sold = services.iter().any(|one| one.session().is_some());
        let (holders, table) = match payment::IS_BUILT_IN {
            true => seeds(vm),
            false => ([0; 16], 0),
        };
        Self {
            is_any_sold,
            keys: None,
            leases: Leases::new(Times::default(), holders),
            reports: Reports::default(),
            bearers: Verdicts::new(BEARERS),
            look_ups: Clients::new(limits, table),
            in_vain: Recent::new(MOST_IN_VAIN),
            deposits: Deposits::default(),
            former_prices: FormerPrices::default(),
            streams: Streams::default(),
            errands: 0,
        }
    }
}

/// Where leases are numbered from, and what hides in which set of a table a client is. As random
/// as the name of the VM, which the sidecar's logs may show.
fn seeds(vm: &[u8; 16]) -> ([u8; 16], u64) {
    let bytes = sha256([b"boltgate leases".as_slice(), vm].concat().as_slice());
    let holders = *bytes.first_chunk().unwrap_or(&[1; 16]);
    let table = *bytes.last_chunk().unwrap_or(&[1; 8]);
    (holders, u64::from_le_bytes(table))
}

impl Sessions {
    /// A service takes them, and this module can.
    pub(super) const fn are_sold(&self) -> bool {
        payment::IS_BUILT_IN && self.is_any_sold
    }
}

impl State {
    /// Makes the keys of challenges anew.
    pub(super) fn derive_keys(&mut self, config: &PluginConfig) {
        self.charge_keys = payment::charge_keys(config, &self.keys);
        if self.sessions.are_sold() {
            self.sessions.keys = payment::session_keys(config, &self.keys);
        }
    }

    /// Fresh deposits are shown to a client: if it has a session it will see them again.
    pub(super) fn note_deposits(
        &mut self,
        service: usize,
        unoffered: &Unoffered,
        offers: &[Offer],
    ) {
        if self.sessions.are_sold()
            && let Some(prefix) = unoffered.client.prefix()
        {
            for offer in offers {
                self.sessions.deposits.shown(prefix, service, offer);
            }
        }
    }

    /// How a service takes sessions, if it does.
    pub(super) fn session_terms(
        &self,
        config: &PluginConfig,
        service: usize,
    ) -> Option<SessionTerms> {
        if !payment::IS_BUILT_IN {
            return None;
        }
        config.policy.services().get(service)?.session()
    }
}

impl Gate {
    /// What was spent for the request is given back: the upstream has given no answer to it.
    pub fn give_back(&mut self, spent: &Spent) {
        if !payment::IS_BUILT_IN {
            return;
        }
        let leases = &mut self.state.sessions.leases;
        leases.give_back(&spent.account(), spent.holder, spent.price().get());
    }

    /// The upstream has answered: what was spent for the request is not given back any more, and
    /// its client gets larger limits.
    pub fn is_earned(&mut self, spent: &Spent, now_ms: impl FnOnce() -> u64) {
        if let Some(client) = spent.payer.filter(|_| payment::IS_BUILT_IN) {
            let now_ms = now_ms();
            self.state.clients.has_paid(client, now_ms);
            self.state.sessions.look_ups.has_paid(client, now_ms);
        }
    }

    /// A session is in use although nothing of it is spent: to be said every quarter of the idle
    /// time (spec/lease L9).
    pub fn touch(&mut self, spent: &Spent) {
        self.state.sessions.leases.touch(spent.account());
    }

    /// Takes over what is left to be said by another gate of this VM, whose root context is gone.
    /// Gives it back if it has another sidecar. Of what it held nothing is forwarded any more: what
    /// was paid for it is good for another request.
    pub fn absorb(&mut self, mut other: Self) -> Option<Self> {
        if !payment::IS_BUILT_IN {
            return None;
        }
        if self.config.sidecar != other.config.sidecar {
            return Some(other);
        }
        while let Some(due) = other.state.waiting.next_due() {
            other.gone(due);
        }
        other.state.abandon_claims();
        self.state.claims.inherit(&other.state.claims);
        let leases = other.state.sessions.leases;
        self.state.sessions.leases.absorb(leases);
        None
    }
}

/// The service whose sessions are offered where none is spent: topUp and close may be presented at
/// any path of the realm.
pub(super) fn first_seller(config: &PluginConfig) -> Option<usize> {
    let services = config.policy.services().iter();
    services
        .filter(|one| one.session().is_some())
        .map(Service::index)
        .next()
}
