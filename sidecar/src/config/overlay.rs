//! Settings from the environment and from flags, laid over those of the file.

use serde_yaml_ng::{Mapping, Value};

use super::section::ConfigError;

/// Settings that an environment variable can give: `BOLTGATE_` and the path in capitals, with
/// `_` for each step and each word.
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
    "filters.reclaimAfter",
    "filters.leaseValid",
    "filters.leaseTick",
    "filters.leaseTickWaiting",
    "refunds.feeLimitPercent",
    "refunds.feeLimitMinSats",
    "refunds.cltvLimit",
    "refunds.timeout",
    "refunds.maxInFlight",
    "refunds.dailyFeeBudgetSats",
    "refunds.attempts",
    "drain",
    "log.format",
    "log.level",
];

/// Variables that are read elsewhere.
const OTHERS: &[&str] = &[
    "BOLTGATE_CONFIG",
    "BOLTGATE_DEV_URL",
    "BOLTGATE_HEALTH_URL",
    "BOLTGATE_MASTER_KEY",
    "BOLTGATE_TOKEN",
    "BOLTGATE_TOKEN_PREVIOUS",
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

/// Variables that were meant for settings, by their first word, and set nothing. Others may be
/// anybody's: Kubernetes puts some such as `BOLTGATE_SERVICE_HOST` into every pod beside a service
/// called boltgate.
pub(super) fn unknown(names: &[String]) -> Vec<ConfigError> {
    let settings: Vec<String> = FROM_ENVIRONMENT.iter().map(|path| variable(path)).collect();
    let is_known = |name: &str| OTHERS.contains(&name) || settings.iter().any(|one| one == name);
    let is_meant = |name: &str| {
        let word = first_word(name);
        word.is_some() && settings.iter().any(|one| first_word(one) == word)
            || word == Some("TOKEN")
    };
    let is_ours = |name: &&String| !is_known(name) && is_meant(name) && !is_of_kubernetes(name);
    let error = |name: &String| ConfigError {
        path: name.clone(),
        problem: "no setting has this variable".to_owned(),
    };
    names.iter().filter(is_ours).map(error).collect()
}

/// Of the part after `BOLTGATE_`, in the singular.
fn first_word(name: &str) -> Option<&str> {
    let word = name.strip_prefix("BOLTGATE_")?.split('_').next()?;
    Some(word.strip_suffix('S').unwrap_or(word))
}

fn is_of_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
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

    #[test]
    fn a_variable_that_was_meant_for_a_setting_and_sets_none_is_an_error() {
        let unknown_of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let errors = unknown(&names).into_iter();
            errors.map(|error| error.path).collect::<Vec<_>>()
        };
        let wrong = [
            "BOLTGATE_OFFERS_BRUST",
            "BOLTGATE_OFFER_BURST",
            "BOLTGATE_TOKEN_FILE",
            "BOLTGATE_LISTEN_ADDRESS",
            "BOLTGATE_LOGLEVEL_LOG",
        ];
        assert_eq!(unknown_of(&wrong), wrong[..4]);
        let right = [
            "BOLTGATE_OFFERS_BURST",
            "BOLTGATE_REFUNDS_ATTEMPTS",
            "BOLTGATE_TOKEN_FILES",
            "BOLTGATE_TOKEN",
            "BOLTGATE_TOKEN_PREVIOUS",
            "BOLTGATE_CONFIG",
            "BOLTGATE_SERVICE_HOST",
            "BOLTGATE_ADMIN_SERVICE_HOST",
            "BOLTGATE_ADMIN_PORT",
            "BOLTGATE_ADMIN_PORT_9403_TCP_ADDR",
            "BOLTGATE_ADMIN_SERVICE_PORT_HTTP",
            "PATH",
        ];
        assert!(unknown_of(&right).is_empty());
    }
}
