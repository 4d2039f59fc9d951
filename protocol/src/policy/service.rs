//! Services and their matches.

use std::time::Duration;

use super::matcher::{Case, HeaderMatch, Host, PathMatch, read_headers, read_hosts, read_methods};
use super::reader::{Node, Object, Once, or_default};
use super::{Access, RequestView};
use crate::amount::{Msat, Sat};
use crate::api::OfferTemplate;
use crate::l402::caveat::{CAPABILITIES_SUFFIX, MAX_LIST, PREIMAGE, SERVICES, VALID_UNTIL_SUFFIX};

const MAX_NAME: usize = 64;
const MAX_MATCHES: usize = 256;
const MAX_PATHS: usize = 256;
const MAX_CONSTRAINTS: usize = 32;
const MAX_VALUE: usize = 256;
/// Ten years.
const MAX_LIFETIME: Duration = Duration::from_secs(3_653 * 86_400);

/// Something that is sold at one price.
pub struct Service {
    index: usize,
    template: OfferTemplate,
    free: Vec<PathMatch>,
    no_invoice: Vec<PathMatch>,
    cors_passthrough: bool,
    sells_l402: bool,
    charge: Option<ChargeTerms>,
    session: Option<SessionTerms>,
}

/// How a service is sold by the intent `session` of the Payment scheme.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionTerms {
    /// Price of one unit.
    pub price: Sat,
    /// Amount of a deposit, at least `price`.
    pub deposit: Sat,
    /// What one unit is.
    pub unit: Unit,
}

/// What a session pays for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// One request, whatever its answer.
    Request,
    /// One event with data of a stream of server-sent events; another answer is one unit.
    Event,
}

impl Unit {
    /// The name on the wire and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Event => "event",
        }
    }
}

/// How a service is sold by the intent `charge` of the Payment scheme.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChargeTerms {
    /// Price of one response.
    pub amount: Sat,
    /// A payment counts only once the node says that it is settled.
    pub settled: bool,
}

impl Service {
    /// Position in the configuration, from 0.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Unique name: ASCII letters, digits, `-` and `_`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.template.service
    }

    /// What an offer of this service sells.
    #[must_use]
    pub const fn template(&self) -> &OfferTemplate {
        &self.template
    }

    /// Price of one token; at least 1 msat.
    #[must_use]
    pub const fn price(&self) -> Msat {
        self.template.price_msat
    }

    /// Life of a token; `None` is for ever.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.template.lifetime_seconds.map(Duration::from_secs)
    }

    /// L402 tokens are sold and accepted.
    #[must_use]
    pub const fn sells_l402(&self) -> bool {
        self.sells_l402
    }

    /// Single responses are sold, on these terms.
    #[must_use]
    pub const fn charge(&self) -> Option<ChargeTerms> {
        self.charge
    }

    /// Sessions may be spent here, on these terms.
    #[must_use]
    pub const fn session(&self) -> Option<SessionTerms> {
        self.session
    }

    /// Preflight requests are passed on instead of answered.
    #[must_use]
    pub const fn cors_passthrough(&self) -> bool {
        self.cors_passthrough
    }

    /// How much of a free path, from its start, the configuration spells out: all of it, the longest
    /// prefix, or nothing.
    #[must_use]
    pub fn free_part(&self, path: &[u8]) -> usize {
        let parts = self.free.iter().filter(|matcher| matcher.matches(path));
        parts.map(PathMatch::spelt_out).max().unwrap_or_default()
    }

    /// A path that is both stays closed: `noInvoicePaths` wins over `freePaths`.
    pub(super) fn access(&self, path: &[u8]) -> Access {
        if self.no_invoice.iter().any(|matcher| matcher.matches(path)) {
            Access::NoInvoice
        } else if self.free.iter().any(|matcher| matcher.matches(path)) {
            Access::Free
        } else {
            Access::Priced
        }
    }
}

/// One entry of a service's `match`.
pub struct Rule {
    pub(super) service: usize,
    pub(super) hosts: Vec<Host>,
    /// `None` is any path.
    pub(super) path: Option<PathMatch>,
    methods: Vec<String>,
    headers: Vec<HeaderMatch>,
    capability: Option<String>,
}

impl Rule {
    /// The capability that a token needs here, if any.
    #[must_use]
    pub fn capability(&self) -> Option<&str> {
        self.capability.as_deref()
    }

    /// How much of a path that matches is written in the configuration.
    #[must_use]
    pub fn spelt_out(&self) -> usize {
        self.path.as_ref().map_or(0, PathMatch::spelt_out)
    }

    pub(super) fn has_capitals(&self) -> bool {
        self.path.as_ref().is_some_and(PathMatch::has_capitals)
    }

    /// Everything except host and exact or prefix path, which the index has compared already.
    /// Methods are compared without case: some upstreams do so too.
    pub(super) fn holds(&self, request: &RequestView<'_>, path: &[u8], case: Case) -> bool {
        let method_holds = self.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| request.method.eq_ignore_ascii_case(method.as_bytes()));
        method_holds
            && match &self.path {
                Some(PathMatch::Regex(regex)) => regex.matches(path, case),
                Some(PathMatch::Exact(_) | PathMatch::Prefix(_)) | None => true,
            }
            && self
                .headers
                .iter()
                .all(|header| header.holds(request.headers))
    }
}

/// Reads one service and its matches; `None` after an error that leaves nothing to go on with.
pub(super) fn read_service(
    object: Object<'_>,
    index: usize,
    names: &Once<'_>,
) -> Option<(Service, Vec<Rule>)> {
    let name = object.required("name").and_then(|node| {
        let name = read_name(&node)?;
        names.check(&node, &name);
        Some(name)
    });
    let capabilities = or_default(
        object.optional("capabilities"),
        Vec::new(),
        read_capabilities,
    );
    let rules: Option<Vec<Rule>> = object.required("match").and_then(|node| {
        let matches = node.list(1..=MAX_MATCHES).into_iter();
        // After an error in one of them nothing is said about paths that it might reach.
        let read: Vec<_> = matches
            .map(|node| read_rule(node, index, &capabilities))
            .collect();
        read.into_iter().collect()
    });
    let schemes = or_default(object.optional("schemes"), Schemes::default(), read_schemes);
    let price = object
        .required("price")
        .and_then(|node| read_price(node, schemes.charge));
    let session = object.optional("session").map(|node| {
        if !schemes.session {
            node.error("the service does not sell by session: see schemes");
        }
        read_session(node, price)
    });
    let session = match session {
        Some(terms) => Some(terms?),
        None if schemes.session => Some(read_default_session(&object, price)?),
        None => None,
    };
    let settled = or_default(object.optional("chargeSettled"), false, |node| node.bool());
    let lifetime = object
        .optional("lifetime")
        .and_then(|node| read_lifetime(&node));
    let tier = or_default(object.optional("tier"), 0, |node| node.number(0..=255));
    let constraints = object
        .optional("constraints")
        .map(|node| read_constraints(node, &capabilities))
        .unwrap_or_default();
    let read_paths = |node: &Node<'_>| Some(read_paths(node, rules.as_deref().unwrap_or_default()));
    let free = or_default(object.optional("freePaths"), Vec::new(), read_paths);
    let no_invoice = or_default(object.optional("noInvoicePaths"), Vec::new(), read_paths);
    let cors_passthrough = or_default(object.optional("corsPassthrough"), false, |node| {
        node.bool()
    });
    object.finish();
    let price = price?;
    let amount = Sat::price_of(price);
    let template = OfferTemplate {
        service: name?,
        tier: u8::try_from(tier).ok()?,
        price_msat: price,
        lifetime_seconds: lifetime.map(|lifetime| lifetime.as_secs()),
        capabilities,
        constraints,
    };
    Some((
        Service {
            index,
            template,
            free,
            no_invoice,
            cors_passthrough,
            sells_l402: schemes.l402,
            charge: schemes.charge.then_some(ChargeTerms { amount, settled }),
            session: session.filter(|_| schemes.session),
        },
        rules?,
    ))
}

fn read_rule(node: Node<'_>, service: usize, capabilities: &[String]) -> Option<Rule> {
    let object = node.object()?;
    let hosts = object.required("hosts").map(|node| read_hosts(&node));
    let path = object.optional("path").map(PathMatch::read);
    let methods = or_default(object.optional("methods"), Vec::new(), read_methods);
    let headers = or_default(object.optional("headers"), Vec::new(), read_headers);
    let capability = object.optional("capability").and_then(|node| {
        let capability = read_name(&node)?;
        if !capabilities.is_empty() && !capabilities.contains(&capability) {
            node.error("not among the capabilities of the service: no token could ever have it");
        }
        Some(capability)
    });
    object.finish();
    // A path that could not be read must not become any path.
    let path = match path {
        Some(path) => Some(path?),
        None => None,
    };
    Some(Rule {
        service,
        hosts: hosts?,
        path,
        methods,
        headers,
        capability,
    })
}

/// Names become parts of caveats, header values and metric labels.
fn read_name(node: &Node<'_>) -> Option<String> {
    let text = node.string()?;
    if !is_name(text) {
        node.error(format!(
            "expected 1 to {MAX_NAME} ASCII letters, digits, \"-\" or \"_\""
        ));
        return None;
    }
    Some(text.to_owned())
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn read_capabilities(node: &Node<'_>) -> Option<Vec<String>> {
    let once = Once::new("capability");
    let read = |node: Node<'_>| {
        let name = read_name(&node)?;
        once.check(&node, &name);
        Some(name)
    };
    Some(
        node.list(0..=MAX_LIST)
            .into_iter()
            .filter_map(read)
            .collect(),
    )
}

/// By what a service is sold.
struct Schemes {
    l402: bool,
    charge: bool,
    session: bool,
}

impl Default for Schemes {
    fn default() -> Self {
        Self {
            l402: true,
            ..Self::NONE
        }
    }
}

impl Schemes {
    const NONE: Self = Self {
        l402: false,
        charge: false,
        session: false,
    };
}

fn read_schemes(node: &Node<'_>) -> Option<Schemes> {
    const NAMES: [&str; 3] = ["l402", "charge", "session"];
    let once = Once::new("scheme");
    let mut schemes = Schemes::NONE;
    let mut is_any = false;
    for node in node.list(1..=NAMES.len()) {
        let name = node.choice(&NAMES.map(|name| (name, name)))?;
        once.check(&node, name);
        is_any = true;
        match name {
            "l402" => schemes.l402 = true,
            "charge" => schemes.charge = true,
            _ => schemes.session = true,
        }
    }
    is_any.then_some(schemes)
}

/// Deposits are this many units unless the configuration says otherwise (R-SESSION-4).
const DEFAULT_UNITS: u64 = 20;

fn read_session(node: Node<'_>, service_price: Option<Msat>) -> Option<SessionTerms> {
    let object = node.object()?;
    let price = object.optional("price").map(read_sats);
    let deposit = object.optional("deposit").map(read_sats);
    let unit = or_default(object.optional("unit"), Unit::Request, |node| {
        node.choice(&[("request", Unit::Request), ("event", Unit::Event)])
    });
    let price = match price {
        Some(price) => price?,
        None => whole_sats(&object, service_price?)?,
    };
    let deposit = match deposit {
        Some(deposit) => deposit?,
        None => default_deposit(&object, price)?,
    };
    if deposit < price {
        object.error("deposit must cover at least one unit");
    }
    object.finish();
    Some(SessionTerms {
        price,
        deposit,
        unit,
    })
}

fn read_default_session(object: &Object<'_>, price: Option<Msat>) -> Option<SessionTerms> {
    let price = whole_sats(object, price?)?;
    Some(SessionTerms {
        price,
        deposit: default_deposit(object, price)?,
        unit: Unit::Request,
    })
}

/// A unit costs what the service costs, if that can be said in satoshis.
fn whole_sats(object: &Object<'_>, price: Msat) -> Option<Sat> {
    if !price.get().is_multiple_of(1_000) {
        object.error("session needs a price of whole satoshis");
        return None;
    }
    Some(Sat::price_of(price))
}

fn default_deposit(object: &Object<'_>, price: Sat) -> Option<Sat> {
    let deposit = price.get().checked_mul(DEFAULT_UNITS).and_then(Sat::new);
    if deposit.is_none() {
        object.error("session needs a deposit: 20 times the price is too much");
    }
    deposit
}

/// `{ "sat": n }`.
fn read_sats(node: Node<'_>) -> Option<Sat> {
    let object = node.object()?;
    let sat = object
        .required("sat")
        .and_then(|node| node.number(1..=Sat::MAX.get()));
    object.finish();
    Sat::new(sat?)
}

/// The Payment scheme cannot say less than a satoshi.
fn read_price(node: Node<'_>, must_be_whole: bool) -> Option<Msat> {
    let object = node.object()?;
    let sat = object
        .optional("sat")
        .map(|node| node.number(1..=Msat::MAX.get() / 1_000));
    let msat = object
        .optional("msat")
        .map(|node| node.number(1..=Msat::MAX.get()));
    if sat.is_some() == msat.is_some() {
        object.error("expected exactly one of sat and msat");
    }
    if let Some(Some(msat)) = msat
        && must_be_whole
        && msat % 1_000 != 0
    {
        object.error("must be whole satoshis where charge is sold");
    }
    object.finish();
    match (sat, msat) {
        (Some(sat), None) => Msat::from_sat(sat?),
        (None, Some(msat)) => Msat::new(msat?),
        _ => None,
    }
}

fn read_lifetime(node: &Node<'_>) -> Option<Duration> {
    let lifetime = node.duration(Duration::from_secs(1)..=MAX_LIFETIME)?;
    if lifetime.subsec_millis() != 0 {
        node.error("expected whole seconds");
    }
    Some(lifetime)
}

/// Further caveats; must not read as one that the service writes itself.
fn read_constraints(node: Node<'_>, capabilities: &[String]) -> Vec<(String, String)> {
    let Some(object) = node.object() else {
        return Vec::new();
    };
    let mut constraints = Vec::new();
    for (condition, node) in object.all() {
        check_condition(condition, &node, capabilities);
        let Some(value) = node.string() else { continue };
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            node.error(format!(
                "expected at most {MAX_VALUE} bytes without control characters"
            ));
        }
        constraints.push((condition.to_owned(), value.to_owned()));
    }
    if constraints.len() > MAX_CONSTRAINTS {
        object.error(format!("expected at most {MAX_CONSTRAINTS} entries"));
    }
    constraints
}

fn check_condition(condition: &str, node: &Node<'_>, capabilities: &[String]) {
    let is_reserved = [SERVICES, PREIMAGE].contains(&condition)
        || condition.ends_with(CAPABILITIES_SUFFIX)
        || condition.ends_with(VALID_UNTIL_SUFFIX);
    if !is_name(condition) {
        node.error(format!(
            "expected a key of 1 to {MAX_NAME} ASCII letters, digits, \"-\" or \"_\""
        ));
    } else if is_reserved {
        node.error("this caveat has a meaning of its own");
    } else if !capabilities.is_empty() {
        let constrains = |capability: &String| {
            condition
                .strip_prefix(capability.as_str())
                .is_some_and(|rest| rest.starts_with('_'))
        };
        if !capabilities.iter().any(constrains) {
            node.error("must begin with a capability of the service and \"_\"");
        }
    }
}

/// Each must be within reach of a rule: else it is a mistake that would show only as a path that
/// is sold, or not there.
fn read_paths(node: &Node<'_>, rules: &[Rule]) -> Vec<PathMatch> {
    let read = |node: Node<'_>| {
        let place = node.place();
        let path = PathMatch::read(node)?;
        let is_reached = |rule: &Rule| rule.path.as_ref().is_none_or(|rule| rule.may_meet(&path));
        if !rules.is_empty() && !rules.iter().any(is_reached) {
            place.error("no match of this service reaches it");
        }
        Some(path)
    };
    let paths = node.list(0..=MAX_PATHS).into_iter();
    paths.filter_map(read).collect()
}
