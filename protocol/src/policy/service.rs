//! Services and their matches.

mod price;
mod read;

use std::time::Duration;

use super::matcher::{Case, HeaderMatch, Host, PathMatch};
use super::{Access, RequestView};
use crate::amount::{Msat, Sat};
use crate::api::OfferTemplate;

pub(super) use self::read::read_service;

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
