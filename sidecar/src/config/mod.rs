//! The sidecar's configuration: YAML file, environment over it, flags over both.
//!
//! Everything is read before anything is refused: [`load`] gives a configuration that cannot be
//! wrong, or all errors with their paths. Secrets come from files or from the environment, never
//! from the file itself.

pub mod duration;
mod overlay;
mod postgres;
mod read;
mod secrets;
mod section;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::adapters::lightning::lnd::LndSettings;
use crate::domain::payout::{FeeTerms, RefundCaps};
use protocol::keys::MasterSecret;
use protocol::lease::Terms;
use serde_yaml_ng::Value;
use subtle::{Choice, ConstantTimeEq as _};

pub use self::postgres::PostgresConfig;
pub use self::secrets::{Password, read_master_keys, read_tokens};
pub use self::section::ConfigError;
use self::section::{Problems, Section};

/// JSON schema of the configuration file.
pub const SCHEMA: &str = include_str!("../../config.schema.json");

/// A configuration that was checked.
#[derive(Clone)]
pub struct Config {
    /// Where filters ask.
    pub listen: SocketAddr,
    /// Where probes and Prometheus ask.
    pub admin: SocketAddr,
    /// Certificate and key files, if filters are answered by TLS.
    pub tls: Option<TlsFiles>,
    /// Who may ask.
    pub tokens: BearerTokens,
    /// Where [`Self::tokens`] came from; empty: from the environment.
    pub token_files: Vec<PathBuf>,
    /// Master keys from the operator, oldest first; empty: made and kept in the ledger.
    pub master_keys: Vec<MasterSecret>,
    /// Where [`Self::master_keys`] came from, for messages.
    pub master_key_file: Option<PathBuf>,
    /// The ledger.
    pub ledger: LedgerConfig,
    /// The node.
    pub lightning: LightningConfig,
    /// Issuance.
    pub offers: OffersConfig,
    /// Polling.
    pub filters: FiltersConfig,
    /// Paying back.
    pub refunds: RefundsConfig,
    /// From SIGTERM to the end at the latest.
    pub drain: Duration,
    /// Logs.
    pub log: LogConfig,
    /// What is allowed and should not be, in words.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("admin", &self.admin)
            .field("tls", &self.tls)
            .field("ledger", &self.ledger)
            .field("lightning", &self.lightning)
            .field("offers", &self.offers)
            .finish_non_exhaustive()
    }
}

/// Files for TLS, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// One or two bearer tokens. Has no `Debug`.
#[derive(Clone)]
pub struct BearerTokens(Vec<String>);

impl BearerTokens {
    /// Tokens that are valid now.
    #[must_use]
    pub const fn new(tokens: Vec<String>) -> Self {
        Self(tokens)
    }

    /// Whether `presented` is one of them. Takes the same time for every wrong one of a length.
    #[must_use]
    pub fn accept(&self, presented: &[u8]) -> bool {
        let mut accepted = Choice::from(0);
        for token in &self.0 {
            accepted |= token.as_bytes().ct_eq(presented);
        }
        accepted.into()
    }
}

/// Which ledger.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// Where it is.
    pub store: StoreConfig,
    /// Whether a schema of an earlier version is brought up to date when it is opened.
    pub auto_migrate: bool,
}

/// Where the ledger is.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// A file, for one sidecar.
    Sqlite(PathBuf),
    /// A database, for several.
    Postgres(Box<PostgresConfig>),
}

/// Which node.
#[derive(Clone, Debug)]
pub enum LightningConfig {
    /// The embedded network; no money moves.
    Dev {
        /// Where its invoices are kept.
        path: PathBuf,
        /// Its own door, on loopback.
        listen: SocketAddr,
        /// How long each invoice takes.
        invoice_delay: Duration,
    },
    /// LND by gRPC.
    Lnd(LndSettings),
}

/// Settings of issuance.
#[derive(Clone, Copy, Debug)]
pub struct OffersConfig {
    /// Life of an invoice.
    pub invoice_expiry: Duration,
    /// Offers per second over all clients.
    pub per_second: u32,
    /// Offers at once over all clients.
    pub burst: u32,
    /// Most unpaid invoices at a time.
    pub max_outstanding: u32,
    /// Offers per minute for one client prefix that waits for them.
    pub per_client_per_minute: u32,
    /// How much more a prefix gets that has paid.
    pub paid_factor: u32,
    /// Ready invoices kept for a service in demand, at least.
    pub pool_min: u32,
    /// Ready invoices kept for a service in demand, at most.
    pub pool_max: u32,
}

/// Settings of polling.
#[derive(Clone, Copy, Debug)]
pub struct FiltersConfig {
    /// How often the ledger is asked for changes that other processes made.
    pub revocation_poll: Duration,
    /// A filter that polled within this time is live.
    pub live_window: Duration,
    /// RECLAIM: a filter of which nothing was heard for so long loses its leases.
    pub reclaim_after: Duration,
    /// What filters are told of how to keep their leases.
    pub lease_terms: Terms,
}

/// Settings of refunds.
#[derive(Clone, Copy, Debug)]
pub struct RefundsConfig {
    /// What routing of one may cost.
    pub fees: FeeTerms,
    /// The longest time for which routing nodes may hold one, in blocks.
    pub cltv_limit: u32,
    /// How long the node looks for a route.
    pub timeout: Duration,
    /// Most that may be under way or spent.
    pub caps: RefundCaps,
    /// How often one is sent before a human must look at it.
    pub attempts: u32,
}

/// Logs.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// JSON lines, or text for people.
    pub format: LogFormat,
    /// A level, or a filter such as `info,sidecar=debug`.
    pub level: String,
}

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Where settings come from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Text of the file.
    pub file: String,
    /// `path=value` from flags, in order.
    pub flags: Vec<String>,
    /// Names of all variables of the environment, so that one is found that sets nothing.
    pub variables: Vec<String>,
    /// Files that are read only later must be there too.
    pub looks_at_files: bool,
}

/// Reads and checks everything. `environment` looks up a variable.
///
/// # Errors
/// Everything that is wrong.
pub fn load(
    sources: &Sources,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Config, Vec<ConfigError>> {
    let problems = Problems::new(sources.looks_at_files);
    let mut tree: Value = serde_yaml_ng::from_str(&sources.file).unwrap_or_else(|error| {
        problems.add("", error);
        Value::Null
    });
    overlay::environment(&mut tree, &environment);
    for error in overlay::unknown(&sources.variables) {
        problems.add(&error.path, error.problem);
    }
    for error in overlay::flags(&mut tree, &sources.flags) {
        problems.add(&error.path, error.problem);
    }
    let config = read::everything(Section::root(tree, problems.clone()), &environment);
    match (config, problems.take()) {
        (Some(config), errors) if errors.is_empty() => Ok(config),
        (_, errors) => Err(errors),
    }
}

#[cfg(test)]
mod tests;
