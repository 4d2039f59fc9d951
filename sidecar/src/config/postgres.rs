//! `ledger.postgres`: which database, and how safely it is reached.

use std::net::IpAddr;
use std::path::PathBuf;

use tokio_postgres::config::Host;

use super::read::is_loopback;
use super::secrets::{self, Password};
use super::section::Section;

const EXAMPLE: &str = "such as postgres://boltgate@db.example.org/boltgate";

/// A PostgreSQL database.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// Hosts, user and database; no password.
    pub target: tokio_postgres::Config,
    /// Whether by TLS, with the server's certificate and name verified.
    pub tls: bool,
    /// Certificate authorities to trust, PEM; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The user's password.
    pub password: Password,
    /// Most connections at a time.
    pub pool_size: u32,
}

pub(super) fn read(
    mut section: Section,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Option<PostgresConfig> {
    let url = section.text("url");
    if url.is_none() {
        section.problem("url", format!("is required, {EXAMPLE}"));
    }
    let target = url.as_deref().map(parse).and_then(|parsed| {
        parsed
            .map_err(|problem| section.problem("url", problem))
            .ok()
    });
    let ca_file = section.text("caFile").map(PathBuf::from);
    let in_mesh = section.parsed("plainTcp", |text| match text {
        "loopback" => Ok(false),
        "mesh" => Ok(true),
        _ => Err("must be loopback or mesh"),
    });
    let password = secrets::database_password(&mut section, environment, warnings);
    let pool_size = section.number("poolSize", 16, 2, 1_000);
    let tls = target.as_ref().map(|(target, mode)| {
        let reach = Reach::of(target);
        let tls = mode.unwrap_or(reach == Reach::Network || ca_file.is_some());
        if tls && reach == Reach::Socket {
            section.problem("url", "a Unix socket has no TLS");
        }
        if !tls && reach == Reach::Network && in_mesh != Some(true) {
            section.problem(
                "url",
                "sslmode=disable on an address that is not loopback needs `plainTcp: mesh`, where \
                 a mesh encrypts it",
            );
        }
        if !tls && ca_file.is_some() {
            section.problem("caFile", "is useless with sslmode=disable");
        }
        tls
    });
    section.finish();
    let (target, _) = target?;
    Some(PostgresConfig {
        target,
        tls: tls?,
        ca_file,
        password,
        pool_size,
    })
}

/// Who could listen on the way.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Reach {
    Socket,
    Loopback,
    Network,
}

impl Reach {
    fn of(target: &tokio_postgres::Config) -> Self {
        let (hosts, addresses) = (target.get_hosts(), target.get_hostaddrs());
        let is_socket = |host: &Host| matches!(host, Host::Unix(_));
        let is_near = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => is_loopback(name),
        };
        // Addresses, where they are given, go before names.
        if !addresses.is_empty() {
            return match addresses.iter().all(IpAddr::is_loopback) {
                true => Self::Loopback,
                false => Self::Network,
            };
        }
        if hosts.iter().all(is_socket) {
            Self::Socket
        } else if hosts.iter().all(is_near) {
            Self::Loopback
        } else {
            Self::Network
        }
    }
}

/// The URL without `sslmode`, and what that says: whether TLS. No error shows any of the text.
fn parse(url: &str) -> Result<(tokio_postgres::Config, Option<bool>), String> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(format!("must be a URL, {EXAMPLE}"));
    }
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut kept, mut mode) = (Vec::new(), None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", "disable")) => mode = Some(false),
            Some(("sslmode", "require" | "verify-ca" | "verify-full")) => mode = Some(true),
            Some(("sslmode", _)) => {
                return Err(
                    "sslmode must be disable or verify-full; what falls back to plain text is not \
                     offered, and a certificate is always verified"
                        .to_owned(),
                );
            }
            _ => kept.push(pair),
        }
    }
    let url = format!("{rest}?{}", kept.join("&"));
    let target: tokio_postgres::Config = url
        .trim_end_matches('?')
        .parse()
        .map_err(|_| format!("cannot be read; it must be {EXAMPLE}"))?;
    if target.get_password().is_some() {
        return Err(
            "must hold no password: that goes into `passwordFile` or BOLTGATE_POSTGRES_PASSWORD"
                .to_owned(),
        );
    }
    if target.get_hosts().is_empty() {
        return Err(format!("names no host; it must be {EXAMPLE}"));
    }
    if target.get_user().is_none() {
        return Err(format!("names no user; it must be {EXAMPLE}"));
    }
    Ok((target, mode))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Config, ConfigError, PostgresConfig, Sources, StoreConfig, load};

    fn loaded(postgres: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
        let file = format!("ledger: {{ postgres: {postgres} }}\nlightning: {{ dev: {{}} }}\n");
        let sources = Sources {
            file,
            ..Sources::default()
        };
        load(&sources, |name| {
            let token = [("BOLTGATE_TOKEN", "a-token-of-some-length")];
            let mut all = variables.iter().chain(&token);
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn good(postgres: &str) -> PostgresConfig {
        match loaded(postgres, &[]).unwrap().ledger.store {
            StoreConfig::Postgres(config) => *config,
            StoreConfig::Sqlite(_) => panic!("a file"),
        }
    }

    fn refused(postgres: &str) -> String {
        let errors = loaded(postgres, &[]).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors[0].to_string()
    }

    #[test]
    fn what_leaves_the_machine_goes_by_tls_unless_a_mesh_is_declared() {
        for (url, tls) in [
            ("postgres://u@db.example.org/b", true),
            ("postgres://u@db.example.org/b?sslmode=require", true),
            ("postgresql://u@[::1]:5433/b", false),
            ("postgres://u@127.0.0.1/b?connect_timeout=3", false),
            ("postgres://u@localhost/b?sslmode=verify-full", true),
            ("postgres://u@%2Frun%2Fpostgresql/b", false),
            ("postgres://u@localhost,db.example.org/b", true),
            ("postgres://u@localhost/b?hostaddr=192.0.2.1", true),
        ] {
            assert_eq!(good(&format!("{{ url: '{url}' }}")).tls, tls, "{url}");
        }
        let plain = "url: 'postgres://u@db/b?sslmode=disable'";
        assert!(refused(&format!("{{ {plain} }}")).starts_with("ledger.postgres.url: sslmode"));
        assert!(!good(&format!("{{ {plain}, plainTcp: mesh }}")).tls);
        let with_ca = good("{ url: 'postgres://u@localhost/b', caFile: ca.pem }");
        assert!(with_ca.tls && with_ca.ca_file.as_deref() == Some(Path::new("ca.pem")));
        for mode in ["prefer", "allow", "none"] {
            let refusal = refused(&format!("{{ url: 'postgres://u@db/b?sslmode={mode}' }}"));
            assert!(refusal.contains("plain text is not offered"), "{refusal}");
        }
        let socket = refused("{ url: 'postgres://u@%2Frun/b?sslmode=require' }");
        assert!(socket.contains("a Unix socket has no TLS"), "{socket}");
        let useless =
            refused("{ url: 'postgres://u@localhost/b?sslmode=disable', caFile: ca.pem }");
        assert!(useless.starts_with("ledger.postgres.caFile: "), "{useless}");
    }

    #[test]
    fn a_password_is_never_in_the_file_and_never_shown() {
        for url in [
            "postgres://u:hunter2@localhost/b",
            "postgres://u@localhost/b?password=hunter2",
            "postgres://u:hunter2@localhost:port/b",
            "host=localhost user=u password=hunter2",
        ] {
            let refusal = refused(&format!("{{ url: '{url}' }}"));
            assert!(refusal.starts_with("ledger.postgres.url: "), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        let url = "{ url: 'postgres://u@localhost/b' }";
        let config = loaded(url, &[("BOLTGATE_POSTGRES_PASSWORD", "hunter2")]).unwrap();
        assert!(!format!("{config:?} {:?}", config.ledger).contains("hunter2"));
        let StoreConfig::Postgres(postgres) = config.ledger.store else {
            panic!("a file");
        };
        let password = postgres.password.read().unwrap();
        assert_eq!(password.as_str(), "hunter2");
        assert!(good(url).password.read().is_none());
        let missing = refused("{ url: 'postgres://u@localhost/b', passwordFile: /nowhere }");
        assert!(
            missing.starts_with("ledger.postgres.passwordFile: /nowhere"),
            "{missing}"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_its_path() {
        assert!(refused("{}").starts_with("ledger.postgres.url: is required"));
        assert!(refused("{ url: 'postgres://localhost/b' }").contains("names no user"));
        assert!(refused("{ url: 'mysql://u@localhost/b' }").contains("must be a URL"));
        let small = refused("{ url: 'postgres://u@localhost/b', poolSize: 1 }");
        assert!(small.starts_with("ledger.postgres.poolSize: "), "{small}");
        let both = loaded(
            "{ url: 'postgres://u@localhost/b' }, sqlite: { path: l }",
            &[],
        );
        assert!(both.unwrap_err()[0].to_string().contains("only one of"));
    }
}
