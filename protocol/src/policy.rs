//! The plugin configuration: what is sold where, and how a request finds its service.
//!
//! [`PluginConfig::from_json`] reports every error at once with its path; what it returns cannot
//! be wrong in itself. [`Policy::find`] runs for every request: it allocates nothing and its cost
//! hardly grows with the number of services.

mod canonical;
mod config;
mod error;
mod index;
mod matcher;
mod reader;
#[cfg(feature = "schema")]
mod schema;
mod service;

pub use canonical::{Ambiguity, Canonical, canonical};
pub use config::{ClientLimits, InvalidStatus, Payment, PluginConfig, SidecarRef, Tls, Unmatched};
pub use error::{ConfigError, ConfigErrors};
#[cfg(feature = "schema")]
pub use schema::schema_text;
pub use service::{ChargeTerms, Rule, Service, SessionTerms, Unit};

use index::{HostIndex, Verdict};
use matcher::Case;

/// Most services of one configuration.
pub const MAX_SERVICES: usize = 10_000;
/// Longest path, query not counted, that is looked at on a host of ours; longer ones are
/// [`Found::TooLong`], so that the cost of regular expressions has a bound.
pub const MAX_PATH_LEN: usize = 4096;

/// The services and the index over their matches.
pub struct Policy {
    services: Vec<Service>,
    rules: Vec<Rule>,
    hosts: HostIndex,
    /// The same without regard to capitals, if a path has any.
    any_case: Option<HostIndex>,
    is_uniform: bool,
}

/// The parts of a request on which its service depends.
pub struct RequestView<'a> {
    /// `:authority`.
    pub authority: &'a [u8],
    /// `:path` with its query.
    pub path: &'a [u8],
    /// `:method`.
    pub method: &'a [u8],
    /// Value of a header by its lower-case name; asked for only when a match needs it.
    pub headers: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// Where a request belongs.
#[derive(Clone, Copy)]
pub enum Found<'a> {
    /// The host is named by no service: pass, less our headers and credentials.
    Foreign,
    /// A host of ours, but no service matches: see [`PluginConfig::unmatched`]. An authority that
    /// cannot be a host name ends here as well: an upstream might read a host of ours into it.
    Unmatched,
    /// A host of ours and a path longer than [`MAX_PATH_LEN`]: refuse with 414.
    TooLong,
    /// A service sells this.
    Matched {
        /// The service of the first match, in the order of the configuration.
        service: &'a Service,
        /// That match.
        rule: &'a Rule,
        /// What the path asks for.
        access: Access,
    },
}

/// What a request to a service needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Nothing.
    Free,
    /// A credential; without one the answer is 402 with a challenge.
    Priced,
    /// A credential; without one the answer is 401, and no invoice is made.
    NoInvoice,
}

impl Policy {
    fn new(services: Vec<Service>, rules: Vec<Rule>) -> Self {
        let hosts = HostIndex::new(&rules, Case::AsWritten);
        let has_capitals = rules.iter().any(Rule::has_capitals);
        let any_case = has_capitals.then(|| HostIndex::new(&rules, Case::Any));
        let is_uniform = rules
            .iter()
            .zip(rules.iter().skip(1))
            .all(|(a, b)| a.service == b.service && a.capability() == b.capability());
        Self {
            services,
            rules,
            hosts,
            any_case,
            is_uniform,
        }
    }

    /// There is one service, with one capability or none: what is paid anywhere is good everywhere.
    #[must_use]
    pub const fn is_uniform(&self) -> bool {
        self.is_uniform
    }

    /// A path of the configuration has capitals: see [`Self::find_any_case`].
    #[must_use]
    pub const fn has_capitals(&self) -> bool {
        self.any_case.is_some()
    }

    /// All services in the order of the configuration.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The first match in the order of the configuration.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>) -> Found<'_> {
        let path = without_query(request.path);
        self.find_in(&self.hosts, request, path, Case::AsWritten)
    }

    /// The same as [`Self::find`], but for an upstream that tells no capitals from small letters:
    /// what may be free must not be paid in this reading either. `None` if there are no capitals
    /// in the configuration's paths; a request in small letters then is found by [`Self::find`].
    ///
    /// Paths that are free stay so only as they are written.
    #[must_use]
    pub fn find_any_case(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let index = self.any_case.as_ref()?;
        let path = without_query(request.path);
        Some(if path.iter().any(u8::is_ascii_uppercase) {
            self.find_in(index, request, &path.to_ascii_lowercase(), Case::Any)
        } else {
            self.find_in(index, request, path, Case::Any)
        })
    }

    fn find_in(
        &self,
        hosts: &HostIndex,
        request: &RequestView<'_>,
        path: &[u8],
        case: Case,
    ) -> Found<'_> {
        let is_too_long = path.len() > MAX_PATH_LEN;
        let verdict = hosts.find(request.authority, path, |id| {
            let holds = |rule: &Rule| rule.holds(request, path, case);
            !is_too_long && self.rule(id).is_some_and(holds)
        });
        let id = match verdict {
            Verdict::Foreign => return Found::Foreign,
            _ if is_too_long => return Found::TooLong,
            Verdict::Unmatched => return Found::Unmatched,
            Verdict::Rule(id) => id,
        };
        let Some((rule, service)) = self.rule_and_service(id) else {
            return Found::Unmatched;
        };
        Found::Matched {
            service,
            rule,
            access: service.access(without_query(request.path)),
        }
    }

    fn rule(&self, id: u32) -> Option<&Rule> {
        self.rules.get(id as usize)
    }

    fn rule_and_service(&self, id: u32) -> Option<(&Rule, &Service)> {
        let rule = self.rule(id)?;
        Some((rule, self.services.get(rule.service)?))
    }
}

fn without_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or_default()
}
