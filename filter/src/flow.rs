//! The gate: one per root context, a state machine without I/O.
//!
//! Events go in (a request, a tick, an answer of the sidecar), decisions and calls come out. The
//! order of the rules is that of the design, section 7. Clock and client address are asked through
//! [`Surroundings`], only when a rule needs them.

mod asked;
mod bootstrap;
mod claims;
mod clean;
mod decide;
mod limits;
mod offer;
mod payment;
mod place;
mod receipts;
mod reply;
mod session;
mod sidecar;
mod stock;
#[cfg(test)]
mod tests;
mod verdicts;
mod waiting;

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use protocol::keys::ChallengeKeys;
use protocol::policy::{ChargeTerms, PluginConfig, SessionTerms};
use protocol::time::UnixSeconds;

pub use self::claims::Claimed;
pub use self::clean::{Edit, trailers};
pub use self::receipts::{Awaited, cache_control};
pub use self::reply::Reply;
pub use self::session::Spent;
pub use self::sidecar::{Answer, Call, CallKind, Notice};
pub use self::waiting::Due;

use self::bootstrap::Keys;
use self::claims::Claims;
use self::limits::{Clients, Limits};
use self::offer::Shelves;
use self::receipts::Receipts;
use self::session::Sessions;
use self::sidecar::Sidecar;
use self::stock::{Shelf, Wares};
use self::verdicts::{Bounds, Verdicts};
use self::waiting::{Turn, Waiting};
use crate::head::Head;
use crate::outcome::Outcome;

/// When a client is told to come again after a fault of ours.
const RETRY_AFTER_SECONDS: u64 = 1;

/// What the gate asks of the world while it decides.
pub trait Surroundings {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// Milliseconds of a clock that never goes back, by which leases last.
    fn steady_ms(&self) -> u64;
    /// The client's address, as Envoy trusts it.
    fn client(&self) -> Option<IpAddr>;
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Milliseconds since 1970. Somebody may set this clock.
    pub ms: u64,
    /// Milliseconds of a clock that never goes back, by which leases last.
    pub steady_ms: u64,
}

/// A paid token that was accepted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    service: Rc<str>,
    token_id: String,
    tier: String,
    identifier_hash: [u8; 32],
    valid_until: Option<UnixSeconds>,
    /// When its client was last noted as one that has paid, in milliseconds.
    noted_ms: Cell<u64>,
}

/// What a request is forwarded for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Admission {
    /// A token.
    Token(Rc<Admitted>),
    /// A payment for this one response.
    Charge(Rc<Claimed>),
    /// A unit of a session.
    Session(Rc<Spent>),
}

impl Admission {
    /// For the upstream: fields that only the gate sets.
    pub fn trusted_fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        const SERVICE: &str = "x-boltgate-service";
        const SCHEME: &str = "x-boltgate-scheme";
        let (fields, count) = match self {
            Self::Token(token) => (
                [
                    (SERVICE, &*token.service),
                    (SCHEME, "l402"),
                    ("x-boltgate-token-id", &token.token_id),
                    ("x-boltgate-tier", &token.tier),
                ],
                4,
            ),
            Self::Charge(claimed) => (
                [
                    (SERVICE, &*claimed.tag.name),
                    (SCHEME, "charge"),
                    ("x-boltgate-payment-hash", claimed.payment_hash()),
                    ("", ""),
                ],
                3,
            ),
            Self::Session(spent) => (
                [
                    (SERVICE, &*spent.tag.name),
                    (SCHEME, "session"),
                    ("x-boltgate-session-id", spent.session_id()),
                    ("", ""),
                ],
                3,
            ),
        };
        fields.into_iter().take(count)
    }

    /// Each event of the response costs a unit, if it is a stream of them.
    #[must_use]
    pub fn is_by_event(&self) -> bool {
        matches!(self, Self::Session(spent) if spent.unit() == protocol::policy::Unit::Event)
    }
}

/// A service by its place in the policy and its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceTag {
    /// Place in the policy.
    pub index: usize,
    /// Name in the policy.
    pub name: Rc<str>,
}

/// What logs and metrics are told about a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    /// What became of it.
    pub outcome: Outcome,
    /// The service that it matched.
    pub service: Option<ServiceTag>,
    /// The credential that was accepted.
    pub admitted: Option<Admission>,
}

impl Note {
    const fn of(outcome: Outcome) -> Self {
        Self {
            outcome,
            service: None,
            admitted: None,
        }
    }
}

/// What is to be done with a request. Exactly one for each stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'h> {
    /// Let it go to the upstream after these edits.
    Forward {
        /// Changes of header fields, in order.
        edits: Vec<Edit<'h>>,
        /// For logs and metrics; an accepted credential's trusted fields are to be set.
        note: Note,
    },
    /// Answer it.
    Reply(Box<Reply>),
    /// Hold it; its stream comes up as [`Due`] later.
    Hold,
    /// The same, after these edits: it will not be decided anew.
    HoldCleaned(Vec<Edit<'h>>),
}

impl Decision<'_> {
    pub(crate) fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// What the world gives to a new gate.
pub struct Origin {
    /// The sidecar's bearer token, if the environment holds one.
    pub token: Option<String>,
    /// Random: names this gate to the sidecar.
    pub vm: [u8; 16],
    /// Name of the plugin, by which a gate knows the one whose place it takes from others of this
    /// VM: those of other listeners sell at prices of their own.
    pub plugin: Vec<u8>,
}

/// The state behind one plugin configuration in one VM.
pub struct Gate {
    config: PluginConfig,
    plugin: Vec<u8>,
    state: State,
}

/// What changes, apart from what does not, so that a rule can borrow the policy meanwhile.
struct State {
    names: Vec<Rc<str>>,
    sidecar: Sidecar,
    keys: Keys,
    verdicts: Verdicts<Rc<Admitted>>,
    clients: Clients,
    shelves: Vec<Shelf>,
    /// By the number of the service.
    shelves_of: Vec<Shelves>,
    waiting: Waiting,
    /// By the number of the service, for those that sell by charge.
    charge_keys: Vec<Option<ChallengeKeys>>,
    claims: Claims,
    receipts: Receipts,
    sessions: Sessions,
}

/// Tokens that are remembered as accepted.
const TOKENS: Bounds = Bounds {
    sets: 512,
    longest: 1_024,
};

impl Gate {
    /// A gate that has asked nobody anything yet.
    #[must_use]
    pub fn new(config: PluginConfig, mut origin: Origin) -> Self {
        let plugin = std::mem::take(&mut origin.plugin);
        let services = config.policy.services();
        let limits = Limits {
            per_minute: config.client_limits.challenges_per_minute.into(),
            burst: config.client_limits.burst.into(),
            paid_factor: config.client_limits.paid_factor.into(),
        };
        let seed = origin
            .vm
            .last_chunk::<8>()
            .map_or(1, |bytes| u64::from_le_bytes(*bytes));
        let (shelves, shelves_of) = shelves_for(&config);
        let state = State {
            names: services
                .iter()
                .map(|service| service.name().into())
                .collect(),
            sessions: Sessions::new(&config, limits, &origin.vm),
            sidecar: Sidecar::new(&config, origin),
            keys: Keys::default(),
            verdicts: Verdicts::new(TOKENS),
            clients: Clients::new(limits, seed),
            shelves,
            shelves_of,
            waiting: Waiting::new(services.len()),
            charge_keys: Vec::new(),
            claims: Claims::default(),
            receipts: Receipts::default(),
        };
        Self {
            config,
            plugin,
            state,
        }
    }

    /// Takes over what another gate of this VM knows from the same sidecar, so that a new
    /// configuration need not wait for keys.
    pub fn inherit(&mut self, other: &Self, now: Now) {
        if self.config.sidecar == other.config.sidecar {
            if self.state.keys.is_absent() {
                self.state.keys = other.state.keys.clone();
                self.state.derive_keys(&self.config);
            }
            if payment::IS_BUILT_IN {
                self.state.claims.inherit(&other.state.claims);
            }
            if self.state.sessions.are_sold() && self.plugin == other.plugin {
                let former = &other.state.sessions.former_prices;
                let (policy, now) = (&other.config.policy, UnixSeconds(now.ms / 1_000));
                let prices = &mut self.state.sessions.former_prices;
                prices.inherit(&self.config, former, policy, now);
            }
        }
    }

    /// Decides one request. A request that was held for keys comes here a second time.
    pub fn request<'h>(
        &mut self,
        stream: u32,
        head: &Head<'h>,
        around: &impl Surroundings,
    ) -> Decision<'h> {
        let decision = decide::request(&self.config, &mut self.state, stream, head, around);
        if payment::IS_BUILT_IN
            && let Decision::Forward { note, .. } = &decision
            && let Some(paid @ Admission::Session(_)) = &note.admitted
        {
            let paid = Awaited::Paid(paid.clone());
            self.state.receipts.await_one(stream, paid);
        }
        decision
    }

    /// Time has passed: deadlines, polls, stocks.
    pub fn tick(&mut self, now: Now) {
        let now_ms = now.ms;
        let State {
            waiting, clients, ..
        } = &mut self.state;
        waiting.expire(now_ms, |client| clients.give_back(client, now_ms));
        self.state
            .sidecar
            .poll(&self.config, now_ms, &self.state.keys);
        self.state
            .sidecar
            .look_at_age(&self.config, now_ms, &self.state.keys);
        self.state.restock_all(&self.config, now_ms);
        if payment::IS_BUILT_IN {
            self.state.expire_claims(now_ms);
            self.state.make_claims(&self.config, now_ms);
            self.state.tell_abandoned(&self.config, now_ms);
            self.state.expire_errands(now);
            self.state.expire_askers(now_ms);
            self.state.report_leases(&self.config, now);
        }
    }

    /// The stream is held, or waits for its turn.
    #[must_use]
    pub fn holds(&self, stream: u32) -> bool {
        self.state.waiting.holds(stream)
    }

    /// Requests wait for a turn, requests or streams for units of a session: tick soon.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        let waiting = &self.state.waiting;
        waiting.has_due()
            || payment::IS_BUILT_IN
                && (waiting.units.len() > 0
                    || self.state.claims.has_ready()
                    || self.state.sessions.reports.are_urgent()
                    || self.state.sessions.streams.want_ticks())
    }

    /// The next held request that need not wait any longer.
    pub fn next_due(&mut self) -> Option<Due> {
        self.state.waiting.next_due()
    }

    /// What becomes of a held request, or `None` if it is to be decided as if it had just come.
    pub fn answer(&mut self, due: Due) -> Option<Decision<'static>> {
        let paid = |admission| Some(Awaited::Paid(admission));
        let awaited = match &due.turn {
            Turn::Forward { claimed, .. } => paid(Admission::Charge(claimed.clone())),
            Turn::Spent(spent) => paid(Admission::Session(spent.clone())),
            Turn::Reply(_) => Some(Awaited::Reply),
            _ => None,
        };
        if let Some(awaited) = awaited.filter(|_| payment::IS_BUILT_IN) {
            self.state.receipts.await_one(due.stream, awaited);
        }
        decide::answer(&self.config, &mut self.state, due.turn)
    }

    /// The stream of a held request has gone. Offers for it stay unseen and can be sold, and what
    /// it has claimed it will not get.
    pub fn gone(&mut self, due: Due) {
        match due.turn {
            Turn::Challenge {
                service, offers, ..
            } => self.state.put_back(service, offers),
            Turn::Forward { claimed, .. } => self.state.claims.abandon(claimed.attempt.clone()),
            Turn::Spent(spent) => self.give_back(&spent),
            Turn::Decide | Turn::Refuse { .. } | Turn::Unauthorized { .. } | Turn::Reply(_) => {}
        }
    }
}

/// A shelf for each scheme of each service, and which are whose.
fn shelves_for(config: &PluginConfig) -> (Vec<Shelf>, Vec<Shelves>) {
    let services = config.policy.services();
    let mut shelves = Vec::new();
    let mut shelves_of = vec![Shelves::default(); services.len()];
    let mut put = |service: usize, wares: Option<Wares>| {
        let wares = wares?;
        shelves.push(Shelf::new(service, wares));
        shelves.len().checked_sub(1)
    };
    for (index, (service, Shelves(of))) in services.iter().zip(&mut shelves_of).enumerate() {
        let tokens = || Wares::Tokens(service.template().clone());
        let charges = |terms: ChargeTerms| Wares::Charges {
            service: service.name().to_owned(),
            amount: terms.amount,
        };
        let terms = service.charge().filter(|_| payment::IS_BUILT_IN);
        let deposits = |terms: SessionTerms| Wares::Deposits {
            service: service.name().to_owned(),
            deposit: terms.deposit,
        };
        let sessions = service.session().filter(|_| payment::IS_BUILT_IN);
        *of = [
            put(index, service.sells_l402().then(tokens)),
            put(index, terms.map(charges)),
            put(index, sessions.map(deposits)),
        ];
    }
    (shelves, shelves_of)
}

/// How long a request waits for a call to the sidecar. The call's own timeout comes first; this is
/// for when even that does not come.
fn patience_ms(config: &PluginConfig) -> u64 {
    millis(config.sidecar.timeout).saturating_add(250)
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
