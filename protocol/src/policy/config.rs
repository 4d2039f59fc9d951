//! The validated plugin configuration.

use std::time::Duration;

use super::error::ConfigErrors;
use super::reader::{Errors, Node, Object, Once, or_default};
use super::service::read_service;
use super::{MAX_SERVICES, Policy};
use crate::json::Json;
use crate::payment::{Realm, RealmError};

const MS: fn(u64) -> Duration = Duration::from_millis;
const S: fn(u64) -> Duration = Duration::from_secs;
/// Longest name of a cluster, an authority or an environment variable.
const MAX_NAME: usize = 256;

/// Configuration of one filter, as read from the plugin configuration.
pub struct PluginConfig {
    /// How the sidecar is reached.
    pub sidecar: SidecarRef,
    /// How often keys and revocations are asked for.
    pub poll_interval: Duration,
    /// With a deny list older than this nothing paid is served: 503.
    pub revocation_max_age: Duration,
    /// What becomes of a request on a host of ours that no service matches.
    pub unmatched: Unmatched,
    /// What becomes of a request on a host that no service names.
    pub other_hosts: Unmatched,
    /// Send the `LSAT` line before the `L402` line.
    pub lsat_line: bool,
    /// Status for a credential that does not hold.
    pub l402_invalid_status: InvalidStatus,
    /// How long a request waits for the first bootstrap before it gets 503.
    pub bootstrap_wait: Duration,
    /// Most requests of one VM that wait for the sidecar at a time, half of them for keys or offers.
    pub max_waiting: u32,
    /// Limits per client prefix and VM.
    pub client_limits: ClientLimits,
    /// The Payment scheme; there if a service sells by it.
    pub payment: Option<Payment>,
    /// The services.
    pub policy: Policy,
}

/// The Payment scheme, as far as it is the same for all services.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payment {
    /// Protection space that challenges name; never taken from a request.
    pub realm: Realm,
    /// Who sees to it that nobody listens.
    pub tls: Tls,
    /// A session that nobody used for so long is closed; whole seconds (R-SESSION-3).
    pub idle_timeout: Duration,
    /// How long a stream waits for a topUp before it ends (R-SESSION-16).
    pub stream_hold: Duration,
}

/// How challenges and credentials of the Payment scheme are kept from listeners (R-CORE-25).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tls {
    /// Requests that came without TLS are not sold to by this scheme.
    Required,
    /// The operator says that TLS ends before this Envoy.
    Terminated,
}

/// How the sidecar is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SidecarRef {
    /// Envoy cluster for bootstrap.
    pub cluster: String,
    /// Envoy cluster for offers, so that a flood of strangers has its own circuit breaker.
    pub offers_cluster: String,
    /// `:authority` of the calls.
    pub authority: String,
    /// Longest time for one call.
    pub timeout: Duration,
    /// Environment variable of the bearer token.
    pub token_env: String,
}

/// What becomes of a request that no service matches.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmatched {
    /// 404.
    Deny,
    /// Pass without payment; the operator's choice.
    Pass,
}

/// Status for a credential that does not hold (spec/l402 section 4). A challenge goes with it
/// either way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InvalidStatus {
    /// 402, on which clients drop their token and pay again.
    PaymentRequired,
    /// 401, the literal reading of the specification.
    Unauthorized,
}

impl InvalidStatus {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::PaymentRequired => 402,
            Self::Unauthorized => 401,
        }
    }
}

/// Limits on challenges, per client prefix and VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientLimits {
    /// Bits of an IPv4 address that make a client.
    pub prefix_v4: u8,
    /// Bits of an IPv6 address that make a client.
    pub prefix_v6: u8,
    /// Challenges per minute in the long run.
    pub challenges_per_minute: u32,
    /// Challenges at once.
    pub burst: u32,
    /// How many times the limits a client gets that has paid.
    pub paid_factor: u32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            prefix_v4: 32,
            prefix_v6: 64,
            challenges_per_minute: 60,
            burst: 60,
            paid_factor: 10,
        }
    }
}

impl PluginConfig {
    /// Reads and checks the whole configuration.
    ///
    /// # Errors
    ///
    /// All errors at once, each with its path. Nothing of a wrong configuration is usable.
    pub fn from_json(text: &[u8]) -> Result<Self, ConfigErrors> {
        let json = Json::read_any(text)
            .map_err(|error| ConfigErrors::one("", format!("invalid JSON: {error}")))?;
        let errors = Errors::default();
        let config = Node::root(&json, &errors).object().and_then(Self::read);
        errors.finish(config)
    }

    fn read(object: Object<'_>) -> Option<Self> {
        let sidecar = object.required("sidecar").and_then(read_sidecar);
        let poll_interval = or_default(object.optional("pollInterval"), S(2), |node| {
            node.duration(MS(100)..=S(10))
        });
        let revocation_max_age = or_default(object.optional("revocationMaxAge"), S(60), |node| {
            let age = node.duration(S(1)..=S(86_400))?;
            if age <= poll_interval {
                node.error("must be longer than pollInterval");
            }
            Some(age)
        });
        let unmatched = or_default(object.optional("unmatched"), Unmatched::Deny, |node| {
            node.choice(&[("deny", Unmatched::Deny), ("pass", Unmatched::Pass)])
        });
        let other_hosts = or_default(object.optional("otherHosts"), Unmatched::Pass, |node| {
            node.choice(&[("deny", Unmatched::Deny), ("pass", Unmatched::Pass)])
        });
        let lsat_line = or_default(object.optional("lsatLine"), true, |node| node.bool());
        let l402_invalid_status = or_default(
            object.optional("l402InvalidStatus"),
            InvalidStatus::PaymentRequired,
            read_status,
        );
        let bootstrap_wait = or_default(object.optional("bootstrapWait"), S(2), |node| {
            node.duration(Duration::ZERO..=S(30))
        });
        let max_waiting = or_default(object.optional("maxWaiting"), 5_000, |node| {
            narrow(node, 0..=100_000)
        });
        let client_limits = object
            .optional("clientLimits")
            .and_then(read_limits)
            .unwrap_or_default();
        let policy = object.required("services").map(|node| read_services(&node));
        let sells_charge = policy.as_ref().is_some_and(|policy| {
            policy
                .services()
                .iter()
                .any(|one| one.charge().is_some() || one.session().is_some())
        });
        let payment = if sells_charge {
            object.required("payment")
        } else {
            object.optional("payment")
        };
        let payment = payment.and_then(read_payment);
        object.finish();
        Some(Self {
            sidecar: sidecar?,
            poll_interval,
            revocation_max_age,
            unmatched,
            other_hosts,
            lsat_line,
            l402_invalid_status,
            bootstrap_wait,
            max_waiting,
            client_limits,
            payment,
            policy: policy?,
        })
    }
}

fn read_sidecar(node: Node<'_>) -> Option<SidecarRef> {
    let object = node.object()?;
    let cluster = object
        .required("cluster")
        .and_then(|node| plain_text(&node));
    let offers_cluster = object
        .optional("offersCluster")
        .map(|node| plain_text(&node));
    let authority = or_default(
        object.optional("authority"),
        "boltgate".to_owned(),
        plain_text,
    );
    let timeout = or_default(object.optional("timeout"), S(3), |node| {
        node.duration(MS(10)..=S(60))
    });
    let token_env = or_default(
        object.optional("tokenEnv"),
        "BOLTGATE_TOKEN".to_owned(),
        plain_text,
    );
    object.finish();
    let cluster = cluster?;
    Some(SidecarRef {
        offers_cluster: offers_cluster.unwrap_or_else(|| Some(cluster.clone()))?,
        cluster,
        authority,
        timeout,
        token_env,
    })
}

fn read_payment(node: Node<'_>) -> Option<Payment> {
    let object = node.object()?;
    let realm = object.required("realm").and_then(|node| {
        let realm = node.string()?.parse();
        realm
            .map_err(|error: RealmError| node.error(error.to_string()))
            .ok()
    });
    let tls = or_default(object.optional("tls"), Tls::Required, |node| {
        node.choice(&[("required", Tls::Required), ("terminated", Tls::Terminated)])
    });
    let idle_timeout = or_default(object.optional("idleTimeout"), S(300), |node| {
        let timeout = node.duration(S(10)..=S(30 * 86_400))?;
        if timeout.subsec_millis() != 0 {
            node.error("expected whole seconds");
        }
        Some(timeout)
    });
    let stream_hold = or_default(object.optional("streamHold"), S(60), |node| {
        node.duration(S(1)..=S(600))
    });
    object.finish();
    Some(Payment {
        realm: realm?,
        tls,
        idle_timeout,
        stream_hold,
    })
}

fn read_limits(node: Node<'_>) -> Option<ClientLimits> {
    let object = node.object()?;
    let default = ClientLimits::default();
    let limits = ClientLimits {
        prefix_v4: or_default(object.optional("prefixV4"), default.prefix_v4, |node| {
            narrow(node, 8..=32)
        }),
        prefix_v6: or_default(object.optional("prefixV6"), default.prefix_v6, |node| {
            narrow(node, 16..=128)
        }),
        challenges_per_minute: or_default(
            object.optional("challengesPerMinute"),
            default.challenges_per_minute,
            |node| narrow(node, 1..=1_000_000),
        ),
        burst: or_default(object.optional("burst"), default.burst, |node| {
            narrow(node, 1..=1_000_000)
        }),
        paid_factor: or_default(object.optional("paidFactor"), default.paid_factor, |node| {
            narrow(node, 1..=1_000)
        }),
    };
    object.finish();
    Some(limits)
}

fn read_services(node: &Node<'_>) -> Policy {
    let names = Once::new("service");
    let mut services = Vec::new();
    let mut rules = Vec::new();
    for (index, node) in node.list(1..=MAX_SERVICES).into_iter().enumerate() {
        let Some(object) = node.object() else {
            continue;
        };
        if let Some((service, its_rules)) = read_service(object, index, &names) {
            services.push(service);
            rules.extend(its_rules);
        }
    }
    Policy::new(services, rules)
}

fn read_status(node: &Node<'_>) -> Option<InvalidStatus> {
    match node.number(401..=402)? {
        401 => Some(InvalidStatus::Unauthorized),
        _ => Some(InvalidStatus::PaymentRequired),
    }
}

/// A number that fits its type because of its range.
fn narrow<T: TryFrom<u64>>(node: &Node<'_>, range: std::ops::RangeInclusive<u64>) -> Option<T> {
    node.number(range)
        .and_then(|number| T::try_from(number).ok())
}

/// Visible ASCII, at least one character.
fn plain_text(node: &Node<'_>) -> Option<String> {
    let text = node.string()?;
    let is_plain =
        (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !is_plain {
        node.error(format!("expected 1 to {MAX_NAME} visible ASCII characters"));
        return None;
    }
    Some(text.to_owned())
}
