//! Every setting with its default and its bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use protocol::amount::Sat;
use protocol::lease::Terms;

use super::section::Section;
use super::{
    Config, FiltersConfig, LedgerConfig, LightningConfig, LogConfig, LogFormat, OffersConfig,
    RefundsConfig, StoreConfig, TlsFiles, duration, secrets,
};
use crate::adapters::lightning::lnd::LndSettings;
use crate::domain::payout::{FeeTerms, RefundCaps};

/// A filter takes keys younger than 10 s for all there are. A key must not be issued with before
/// the keys of every filter that lacks it are older than that.
const LEAST_LIVE_WINDOW: Duration = Duration::from_secs(15);

/// RECLAIM of spec/lease, unless it is set.
const RECLAIM: Duration = Duration::from_secs(8);
/// More than VALID: for what is between a look at the clock and the spending, and for clocks that
/// do not go at the same speed.
const RECLAIM_MARGIN: Duration = Duration::from_secs(2);

pub(super) fn everything(
    mut root: Section,
    environment: &impl Fn(&str) -> Option<String>,
) -> Option<Config> {
    let listen = address(&mut root, "listen", 9402);
    let admin = address(&mut root, "admin", 9403);
    let tls = root.section("tls").and_then(tls_files);
    let in_mesh = root.parsed("plainHttp", |text| match text {
        "loopback" => Ok(false),
        "mesh" => Ok(true),
        _ => Err("must be loopback or mesh"),
    });
    if tls.is_none() && !listen.ip().is_loopback() && in_mesh != Some(true) {
        root.problem(
            "listen",
            "plain HTTP on an address that is not loopback needs `tls`, or \
            `plainHttp: mesh` where a mesh encrypts it",
        );
    }
    let mut warnings = Vec::new();
    let (tokens, token_files) = secrets::bearer_tokens(&mut root, environment, &mut warnings);
    let (master_keys, master_key_file) =
        secrets::master_keys(&mut root, environment, &mut warnings);
    let ledger = ledger(&mut root, environment, &mut warnings);
    let lightning = lightning(&mut root, ledger.as_ref());
    let offers = offers(root.section_or_default("offers"));
    let filters = filters(root.section_or_default("filters"));
    let refunds = refunds(root.section_or_default("refunds"));
    let drain = duration_setting(&mut root, "drain", Duration::from_secs(10));
    let log = log(root.section_or_default("log"));
    root.finish();
    Some(Config {
        listen,
        admin,
        tls,
        tokens: tokens?,
        token_files,
        master_keys,
        master_key_file,
        ledger: ledger?,
        lightning: lightning?,
        offers,
        filters,
        refunds,
        drain,
        log,
        warnings,
    })
}

fn address(section: &mut Section, key: &'static str, default_port: u16) -> SocketAddr {
    let parse = |text: &str| {
        text.parse()
            .map_err(|_| format!("must be an address such as 127.0.0.1:{default_port}"))
    };
    section
        .parsed(key, parse)
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], default_port)))
}

fn duration_setting(section: &mut Section, key: &'static str, default: Duration) -> Duration {
    section.parsed(key, duration::parse).unwrap_or(default)
}

fn duration_from(
    section: &mut Section,
    key: &'static str,
    default: Duration,
    least: Duration,
) -> Duration {
    let value = duration_setting(section, key, default);
    if value < least {
        section.problem(key, format!("must be at least {least:?}"));
    }
    value
}

fn required_file(section: &mut Section, key: &'static str) -> Option<PathBuf> {
    let path = section.file(key);
    if path.is_none() {
        section.problem(key, "is required");
    }
    path
}

/// A file that is made when it is not there, in a directory that is.
fn ledger_path(section: &mut Section) -> Option<PathBuf> {
    let Some(path) = section.text("path").map(PathBuf::from) else {
        section.problem("path", "is required");
        return None;
    };
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        let problem = format!("there is no directory {}", directory.display());
        section.problem("path", problem);
    }
    Some(path)
}

fn tls_files(mut section: Section) -> Option<TlsFiles> {
    let certificate = required_file(&mut section, "certFile");
    let key = required_file(&mut section, "keyFile");
    section.finish();
    Some(TlsFiles {
        certificate: certificate?,
        key: key?,
    })
}

fn ledger(
    root: &mut Section,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Option<LedgerConfig> {
    let Some(mut ledger) = root.section("ledger") else {
        root.problem(
            "ledger",
            "is required, such as `sqlite: { path: ledger.db }`",
        );
        return None;
    };
    let auto_migrate = ledger.boolean("autoMigrate", true);
    let sqlite = ledger.section("sqlite");
    let postgres = ledger.section("postgres");
    let store = match (sqlite, postgres) {
        (Some(mut sqlite), None) => {
            let path = ledger_path(&mut sqlite);
            sqlite.finish();
            path.map(StoreConfig::Sqlite)
        }
        (None, Some(postgres)) => super::postgres::read(postgres, environment, warnings)
            .map(|postgres| StoreConfig::Postgres(Box::new(postgres))),
        (None, None) => {
            root.problem("ledger", "one of `sqlite` and `postgres` is required");
            None
        }
        (Some(_), Some(_)) => {
            root.problem("ledger", "only one of `sqlite` and `postgres` can be had");
            None
        }
    };
    ledger.finish();
    Some(LedgerConfig {
        store: store?,
        auto_migrate,
    })
}

fn lightning(root: &mut Section, ledger: Option<&LedgerConfig>) -> Option<LightningConfig> {
    let Some(mut section) = root.section("lightning") else {
        root.problem(
            "lightning",
            "is required: `lnd`, or `dev` where no money may move",
        );
        return None;
    };
    let dev = section.section("dev");
    let lnd = section.section("lnd");
    let config = match (dev, lnd) {
        (Some(dev), None) => dev_network(dev, ledger),
        (None, Some(lnd)) => lnd_node(lnd),
        (None, None) => {
            root.problem("lightning", "one of `lnd` and `dev` is required");
            None
        }
        (Some(_), Some(_)) => {
            root.problem("lightning", "only one of `lnd` and `dev` can be had");
            None
        }
    };
    section.finish();
    config
}

fn dev_network(mut section: Section, ledger: Option<&LedgerConfig>) -> Option<LightningConfig> {
    let path = section.text("path").map(PathBuf::from);
    let listen = address(&mut section, "listen", 9404);
    if !listen.ip().is_loopback() {
        section.problem(
            "listen",
            "the dev network gives preimages away, so it stays on loopback",
        );
    }
    let network = section.text("network");
    if network.is_some_and(|network| network != crate::adapters::lightning::dev::NETWORK) {
        section.problem(
            "network",
            "the dev network moves no money and can only be regtest",
        );
    }
    let invoice_delay = duration_setting(&mut section, "invoiceDelay", Duration::ZERO);
    section.finish();
    Some(LightningConfig::Dev {
        path: path.unwrap_or_else(|| dev_path(ledger)),
        listen,
        invoice_delay,
    })
}

/// Beside the ledger, if that is a file.
fn dev_path(ledger: Option<&LedgerConfig>) -> PathBuf {
    match ledger.map(|ledger| &ledger.store) {
        Some(StoreConfig::Sqlite(ledger)) => {
            let mut name = ledger.as_os_str().to_owned();
            name.push("-dev.db");
            name.into()
        }
        _ => "boltgate-dev.db".into(),
    }
}

fn lnd_node(mut section: Section) -> Option<LightningConfig> {
    let endpoint = section.parsed("endpoint", |text| {
        let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
        let is_whole = uri.host().is_some() && uri.path() == "/";
        match uri.scheme_str() {
            Some("https" | "http") if is_whole => Ok(uri),
            _ => Err("must be https://host:port".to_owned()),
        }
    });
    if endpoint.is_none() {
        section.problem("endpoint", "is required, such as https://127.0.0.1:10009");
    }
    let tls_certificate_file = section.file("tlsCertFile");
    if let Some(endpoint) = &endpoint {
        let is_plain = endpoint.scheme_str() == Some("http");
        if is_plain && !is_loopback(endpoint.host().unwrap_or_default()) {
            section.problem(
                "endpoint",
                "plain http is for loopback only; LND speaks https",
            );
        }
        if is_plain == tls_certificate_file.is_some() {
            section.problem("tlsCertFile", "is required for https, and useless for http");
        }
    }
    let macaroon_file = required_file(&mut section, "macaroonFile");
    let route_hints = section.boolean("routeHints", false);
    let (normal, least) = (Duration::from_secs(5), Duration::from_millis(100));
    let timeout = duration_from(&mut section, "timeout", normal, least);
    section.finish();
    Some(LightningConfig::Lnd(LndSettings {
        endpoint: endpoint?,
        tls_certificate_file,
        macaroon_file: macaroon_file?,
        route_hints,
        deadline: timeout,
    }))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn offers(mut section: Section) -> OffersConfig {
    let (normal, least) = (Duration::from_secs(600), Duration::from_secs(5));
    let config = OffersConfig {
        invoice_expiry: duration_from(&mut section, "invoiceExpiry", normal, least),
        per_second: section.number("perSecond", 400, 1, 1_000_000),
        burst: section.number("burst", 2_000, 1, 1_000_000),
        max_outstanding: section.number("maxOutstanding", 20_000, 1, 10_000_000),
        per_client_per_minute: section.number("perClientPerMinute", 60, 1, 1_000_000),
        paid_factor: section.number("paidFactor", 10, 1, 1_000),
        pool_min: section.number("poolMin", 0, 0, 100_000),
        pool_max: section.number("poolMax", 1_024, 1, 100_000),
    };
    if config.pool_min > config.pool_max {
        section.problem("poolMin", "must not be more than poolMax");
    }
    if config.invoice_expiry > Duration::from_secs(86_400) {
        section.problem("invoiceExpiry", "must not be more than 24h");
    }
    section.finish();
    config
}

fn lease_terms(section: &mut Section) -> Terms {
    let usual = Terms::USUAL;
    let mut setting = |key, default, least, most| {
        let value = duration_setting(section, key, Duration::from_millis(default));
        let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
        if !(least..=most).contains(&value) {
            section.problem(key, format!("must be {least:?} to {most:?}"));
        }
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
    };
    let tick = (Terms::LEAST_TICK_MS, Terms::MOST_TICK_MS);
    let valid = (Terms::LEAST_VALID_MS, Terms::MOST_VALID_MS);
    let terms = Terms {
        valid_ms: setting("leaseValid", usual.valid_ms, valid.0, valid.1),
        tick_ms: setting("leaseTick", usual.tick_ms, tick.0, tick.1),
        waiting_tick_ms: setting("leaseTickWaiting", usual.waiting_tick_ms, tick.0, tick.1),
    };
    if terms.waiting_tick_ms > terms.tick_ms {
        section.problem("leaseTickWaiting", "must not be more than leaseTick");
    }
    terms
}

fn filters(mut section: Section) -> FiltersConfig {
    let config = FiltersConfig {
        revocation_poll: duration_from(
            &mut section,
            "revocationPoll",
            Duration::from_millis(500),
            Duration::from_millis(50),
        ),
        live_window: duration_setting(&mut section, "liveWindow", Duration::from_secs(30)),
        reclaim_after: duration_setting(&mut section, "reclaimAfter", RECLAIM),
        lease_terms: lease_terms(&mut section),
    };
    let valid = Duration::from_millis(config.lease_terms.valid_ms);
    let least = valid.saturating_add(RECLAIM_MARGIN);
    if config.reclaim_after < least {
        section.problem(
            "reclaimAfter",
            format!(
                "must be at least {least:?}: a filter spends for {valid:?} after it asked \
                 (leaseValid), and what it had would be sold twice"
            ),
        );
    }
    if config.reclaim_after > Duration::from_secs(60) {
        section.problem(
            "reclaimAfter",
            "must not be more than 1m: for so long buyers do without what a filter had that died",
        );
    }
    if config.live_window < LEAST_LIVE_WINDOW {
        section.problem(
            "liveWindow",
            format!(
                "must be at least {LEAST_LIVE_WINDOW:?}: a filter trusts the keys it has for 10 s, \
                 so a key could be used before every filter knows it"
            ),
        );
    }
    if config.revocation_poll > Duration::from_secs(3) {
        section.problem(
            "revocationPoll",
            "must not be more than 3s: a revocation reaches every \
            filter within 5 s",
        );
    }
    section.finish();
    config
}

fn refunds(mut section: Section) -> RefundsConfig {
    let mut sats = |key, default| {
        let number = section.number(key, default, 0, 100_000_000);
        Sat::new(u64::from(number)).unwrap_or(Sat::ZERO)
    };
    let least = sats("feeLimitMinSats", 5);
    let daily_fees = sats("dailyFeeBudgetSats", 10_000);
    let config = RefundsConfig {
        fees: FeeTerms {
            percent: section.number("feeLimitPercent", 1, 0, 100),
            least,
        },
        // LND takes no more than 2016; 144 is less than one hop may ask for with its last.
        cltv_limit: section.number("cltvLimit", 720, 144, 2_016),
        timeout: duration_from(
            &mut section,
            "timeout",
            Duration::from_secs(60),
            Duration::from_secs(1),
        ),
        caps: RefundCaps {
            in_flight: section.number("maxInFlight", 32, 1, 1_000),
            daily_fees,
        },
        attempts: section.number("attempts", 100, 1, 1_000),
    };
    if config.timeout > Duration::from_secs(600) {
        section.problem("timeout", "must not be more than 10m");
    }
    section.finish();
    config
}

fn log(mut section: Section) -> LogConfig {
    let format = section.parsed("format", |text| match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("must be json or text"),
    });
    let level = section.parsed("level", |text| {
        text.parse::<tracing_subscriber::EnvFilter>()
            .map(|_| text.to_owned())
    });
    section.finish();
    LogConfig {
        format: format.unwrap_or(LogFormat::Json),
        level: level.unwrap_or_else(|| "info".to_owned()),
    }
}
