//! Settings from the environment and from flags, laid over those of the file.

use serde_yaml_ng::{Mapping, Value};

use super::section::ConfigError;

/// Settings that an environment variable can give: `BOLTGATE_` and the path in capitals, with
/// `_` for each step and each word. Names that are not here are ignored, since Kubernetes puts
/// variables such as `BOLTGATE_SERVICE_HOST` into every pod beside a service called boltgate.
const FROM_ENVIRONMENT: &[&str] = &[
    "listen",
    "admin",
    "plainHttp",
    "tls.certFile",
    "tls.keyFile",
    "tokenFiles",
    "masterKeyFile",
    "ledger.autoMigrate",
    "ledger.sqlite.path",
    "ledger.postgres.url",
    "ledger.postgres.passwordFile",
    "ledger.postgres.caFile",
    "ledger.postgres.plainTcp",
    "ledger.postgres.poolSize",
    "lightning.dev.path",
    "lightning.dev.listen",
    "lightning.dev.network",
    "lightning.dev.invoiceDelay",
    "lightning.lnd.endpoint",
    "lightning.lnd.tlsCertFile",
    "lightning.lnd.macaroonFile",
    "lightning.lnd.routeHints",
    "lightning.lnd.timeout",
    "offers.invoiceExpiry",
    "offers.perSecond",
    "offers.burst",
    "offers.maxOutstanding",
    "offers.perClientPerMinute",
    "offers.paidFactor",
    "offers.poolMin",
    "offers.poolMax",
    "filters.revocationPoll",
    "filters.liveWindow",
    "drain",
    "log.format",
    "log.level",
];

/// The variable for a setting.
pub(super) fn variable(path: &str) -> String {
    let mut name = String::from("BOLTGATE_");
    for c in path.chars() {
        match c {
            '.' => name.push('_'),
            c if c.is_ascii_uppercase() => {
                name.push('_');
                name.push(c);
            }
            c => name.push(c.to_ascii_uppercase()),
        }
    }
    name
}

pub(super) fn environment(tree: &mut Value, lookup: impl Fn(&str) -> Option<String>) {
    for path in FROM_ENVIRONMENT {
        if let Some(text) = lookup(&variable(path)) {
            set(tree, path, Value::String(text));
        }
    }
}

/// `flags`: `path=value` each; the value is YAML.
pub(super) fn flags(tree: &mut Value, flags: &[String]) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for flag in flags {
        let parsed = flag
            .split_once('=')
            .map(|(path, text)| (path, serde_yaml_ng::from_str(text)));
        match parsed {
            Some((path, Ok(value))) if !path.is_empty() => set(tree, path, value),
            _ => errors.push(ConfigError {
                path: "--set".to_owned(),
                problem: format!("must be path=value, found `{flag}`"),
            }),
        }
    }
    errors
}

fn set(tree: &mut Value, path: &str, value: Value) {
    if !tree.is_mapping() {
        *tree = Value::Mapping(Mapping::new());
    }
    let Some(mapping) = tree.as_mapping_mut() else {
        return;
    };
    match path.split_once('.') {
        None => {
            mapping.insert(Value::String(path.to_owned()), value);
        }
        Some((first, rest)) => {
            let key = Value::String(first.to_owned());
            set(mapping.entry(key).or_insert(Value::Null), rest, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_after_the_path() {
        assert_eq!(
            variable("offers.invoiceExpiry"),
            "BOLTGATE_OFFERS_INVOICE_EXPIRY"
        );
        assert_eq!(variable("listen"), "BOLTGATE_LISTEN");
    }
}
