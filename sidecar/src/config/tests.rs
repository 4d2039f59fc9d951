use std::collections::{BTreeMap, BTreeSet};

use protocol::lease::Terms;
use serde_json::Value as Json;

use super::*;

const SMALLEST: &str = "ledger: { sqlite: { path: l.db } }\nlightning: { dev: {} }\n";

fn environment<'a>(pairs: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
    move |name| {
        let token = [("BOLTGATE_TOKEN", "a-token-of-some-length")];
        let mut all = pairs.iter().chain(&token);
        all.find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

fn sources(file: &str) -> Sources {
    Sources {
        file: file.to_owned(),
        ..Sources::default()
    }
}

fn errors(file: &str) -> Vec<String> {
    let Err(errors) = load(&sources(file), environment(&[])) else {
        panic!("accepted: {file}");
    };
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let config = load(&sources(SMALLEST), environment(&[])).unwrap();
    assert_eq!(config.listen, "127.0.0.1:9402".parse().unwrap());
    assert_eq!(config.admin, "127.0.0.1:9403".parse().unwrap());
    assert_eq!(config.offers.per_second, 400);
    assert_eq!(config.filters.live_window, Duration::from_secs(30));
    assert!(config.tokens.accept(b"a-token-of-some-length"));
    assert!(!config.tokens.accept(b"a-token-of-some-lengtH"));
    assert!(!config.tokens.accept(b""));
}

#[test]
fn every_error_is_reported_at_once_with_its_path() {
    let found = errors(
        "listen: nowhere\nlisen: 1\noffers: { burst: 0, invoiceExpiry: 10, perSecnd: 1 }\n\
         lightning: { lnd: { endpoint: 'ftp://x', macaroonFile: 5 } }\ndrain: [1]\n",
    );
    for (path, problem) in [
        ("listen", "must be an address"),
        ("lisen", "unknown setting"),
        ("offers.burst", "whole number from 1"),
        ("offers.invoiceExpiry", "must be a duration"),
        ("offers.perSecnd", "unknown setting; known here are burst"),
        ("lightning.lnd.endpoint", "must be https://"),
        ("ledger", "is required"),
        ("drain", "must be text, found a list"),
    ] {
        assert!(
            found
                .iter()
                .any(|e| e.starts_with(&format!("{path}: ")) && e.contains(problem)),
            "{path}: {problem} not in {found:#?}"
        );
    }
}

#[test]
fn plain_http_is_refused_on_other_than_loopback_unless_a_mesh_is_declared() {
    let open = format!("{SMALLEST}listen: 0.0.0.0:9402\n");
    assert!(errors(&open)[0].contains("plain HTTP"));
    assert!(
        load(
            &sources(&format!("{open}plainHttp: mesh\n")),
            environment(&[])
        )
        .is_ok()
    );
    let tls = format!("{open}tls: {{ certFile: c.pem, keyFile: k.pem }}\n");
    assert!(load(&sources(&tls), environment(&[])).is_ok());
}

#[test]
fn the_dev_network_is_regtest_on_loopback_or_nothing() {
    for (dev, path) in [
        ("{ network: mainnet }", "lightning.dev.network"),
        ("{ network: signet }", "lightning.dev.network"),
        ("{ listen: 0.0.0.0:9404 }", "lightning.dev.listen"),
    ] {
        let found = errors(&format!(
            "ledger: {{ sqlite: {{ path: l }} }}\nlightning: {{ dev: {dev} }}"
        ));
        assert!(found[0].starts_with(path), "{found:?}");
    }
}

#[test]
fn lnd_needs_its_certificate_except_on_plain_loopback() {
    let with = |lnd: &str| {
        format!("ledger: {{ sqlite: {{ path: l }} }}\nlightning: {{ lnd: {{ {lnd} }} }}")
    };
    let remote = "endpoint: 'https://lnd:10009', macaroonFile: m";
    assert!(errors(&with(remote))[0].contains("tlsCertFile: is required"));
    let plain = "endpoint: 'http://lnd:10009', macaroonFile: m";
    assert!(errors(&with(plain))[0].contains("loopback only"));
    let local = "endpoint: 'http://127.0.0.1:10009', macaroonFile: m";
    assert!(load(&sources(&with(local)), environment(&[])).is_ok());
}

#[test]
fn a_live_window_shorter_than_the_keys_of_a_filter_are_trusted_is_refused() {
    let with = |window: &str| format!("{SMALLEST}filters: {{ liveWindow: {window} }}\n");
    for window in ["1s", "10s", "14999ms"] {
        let found = errors(&with(window));
        assert!(
            found[0].starts_with("filters.liveWindow: must be at least 15s: a filter trusts"),
            "{found:?}"
        );
    }
    assert!(load(&sources(&with("15s")), environment(&[])).is_ok());
}

#[test]
fn leases_are_not_taken_back_while_filters_spend_from_them() {
    let with = |after: &str| format!("{SMALLEST}filters: {{ reclaimAfter: {after} }}\n");
    for after in ["1s", "5s", "6999ms"] {
        let found = errors(&with(after));
        assert!(
            found[0].starts_with("filters.reclaimAfter: must be at least 7s: a filter spends"),
            "{found:?}"
        );
    }
    assert!(errors(&with("61s"))[0].contains("not be more than 1m"));
    assert!(load(&sources(&with("7s")), environment(&[])).is_ok());
    let longer = errors(&with("10s, leaseValid: 9s"));
    assert!(
        longer[0].starts_with("filters.reclaimAfter: must be at least 11s: a filter spends for 9s"),
        "{longer:?}"
    );
    assert!(load(&sources(&with("11s, leaseValid: 9s")), environment(&[])).is_ok());
}

#[test]
fn terms_of_leases_have_bounds() {
    let with = |terms: &str| format!("{SMALLEST}filters: {{ reclaimAfter: 1m, {terms} }}\n");
    for (terms, expected) in [
        (
            "leaseValid: 1999ms",
            "filters.leaseValid: must be 2s to 58s",
        ),
        ("leaseValid: 59s", "filters.leaseValid: must be 2s to 58s"),
        (
            "leaseTick: 19ms",
            "filters.leaseTick: must be 20ms to 250ms",
        ),
        (
            "leaseTick: 251ms",
            "filters.leaseTick: must be 20ms to 250ms",
        ),
        (
            "leaseTickWaiting: 0s",
            "filters.leaseTickWaiting: must be 20ms to 250ms",
        ),
        (
            "leaseTick: 30ms, leaseTickWaiting: 31ms",
            "filters.leaseTickWaiting: must not be more than leaseTick",
        ),
    ] {
        assert!(
            errors(&with(terms)).contains(&expected.to_owned()),
            "{terms}"
        );
    }
    assert!(load(&sources(&with("leaseValid: 58s")), environment(&[])).is_ok());
    let terms = "leaseValid: 3s, leaseTick: 250ms, leaseTickWaiting: 50ms";
    let config = load(&sources(&with(terms)), environment(&[])).unwrap();
    let expected = Terms {
        valid_ms: 3_000,
        tick_ms: 250,
        waiting_tick_ms: 50,
    };
    assert_eq!(config.filters.lease_terms, expected);
    assert!(expected.are_sound() && Terms::USUAL.are_sound());
}

#[test]
fn flags_go_over_the_environment_and_that_over_the_file() {
    let file = format!("{SMALLEST}offers: {{ burst: 1, perSecond: 1, poolMax: 1 }}\n");
    let variables = [
        ("BOLTGATE_OFFERS_BURST", "2"),
        ("BOLTGATE_OFFERS_PER_SECOND", "2"),
    ];
    let flags = vec!["offers.burst=3".to_owned()];
    let config = load(
        &Sources {
            file,
            flags,
            ..Sources::default()
        },
        environment(&variables),
    )
    .unwrap();
    assert_eq!(
        (
            config.offers.burst,
            config.offers.per_second,
            config.offers.pool_max
        ),
        (3, 2, 1)
    );
}

#[test]
fn a_secret_that_is_missing_or_too_short_is_named_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let short = dir.path().join("short");
    std::fs::write(&short, "hunter2").unwrap();
    let file = format!(
        "{SMALLEST}tokenFiles: ['{}']\nmasterKeyFile: '{}'\n",
        short.display(),
        short.display()
    );
    let Err(found) = load(&sources(&file), |_| None) else {
        panic!("accepted")
    };
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        found
            .iter()
            .any(|e| e.starts_with("tokenFiles: ") && e.contains("/short: a token has 16")),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|e| e.starts_with("masterKeyFile: must hold")),
        "{found:?}"
    );
    assert!(!found.concat().contains("hunter2"));
    let Err(found) = load(&sources(SMALLEST), |_| None) else {
        panic!("accepted")
    };
    assert!(found[0].to_string().contains("BOLTGATE_TOKEN"));
}

#[test]
fn files_that_are_missing_are_all_named_when_they_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let there = dir.path().join("there");
    std::fs::write(&there, "x").unwrap();
    let gone = dir.path().join("gone");
    let (there, gone, folder) = (there.display(), gone.display(), dir.path().display());
    let file = format!(
        "masterKeyFile: '{gone}'\nledger: {{ sqlite: {{ path: '{gone}/l.db' }} }}\n\
         tls: {{ certFile: '{gone}', keyFile: '{folder}' }}\n\
         lightning: {{ lnd: {{ endpoint: 'https://lnd:1', tlsCertFile: '{gone}', \
         macaroonFile: '{gone}' }} }}\n"
    );
    let paths = |file: &str, looks_at_files| {
        let sources = Sources {
            looks_at_files,
            ..sources(file)
        };
        let errors = load(&sources, environment(&[])).err().unwrap_or_default();
        let mut paths: Vec<_> = errors.into_iter().map(|error| error.path).collect();
        paths.sort();
        paths
    };
    let always = ["ledger.sqlite.path", "masterKeyFile"];
    assert_eq!(paths(&file, false), always);
    let all = [
        "ledger.sqlite.path",
        "lightning.lnd.macaroonFile",
        "lightning.lnd.tlsCertFile",
        "masterKeyFile",
        "tls.certFile",
        "tls.keyFile",
    ];
    assert_eq!(paths(&file, true), all);
    let good = file
        .replace("masterKeyFile", "# ")
        .replace(&format!("{gone}/l.db"), &format!("{folder}/l.db"))
        .replace(&gone.to_string(), &there.to_string())
        .replace(
            &format!("keyFile: '{folder}'"),
            &format!("keyFile: '{there}'"),
        );
    assert_eq!(paths(&good, true), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_secret_file_that_everybody_may_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.display().to_string()
    };
    let warnings = |mode| {
        let token = secret("token", "a-token-of-some-length", mode);
        let master = secret("master", &"ab".repeat(32), mode);
        let file = format!("{SMALLEST}tokenFiles: ['{token}']\nmasterKeyFile: '{master}'\n");
        load(&sources(&file), |_| None).unwrap().warnings
    };
    assert_eq!(warnings(0o600), Vec::<String>::new());
    assert_eq!(warnings(0o440), Vec::<String>::new(), "as Kubernetes does");
    let found = warnings(0o644);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("tokenFiles: ") && found[0].contains("mode 644"));
    assert!(found[1].starts_with("masterKeyFile: "));
}

/// Sections of the schema: path and names of what is in it.
fn sections(schema: &Json, path: &str, out: &mut BTreeMap<String, BTreeSet<String>>) {
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else {
        return;
    };
    out.insert(path.to_owned(), properties.keys().cloned().collect());
    for (name, property) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        sections(property, &path, out);
    }
}

#[test]
fn every_setting_of_the_schema_has_a_variable() {
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    let mut described = BTreeMap::new();
    sections(&schema, "", &mut described);
    for (path, names) in &described {
        for name in names {
            let setting = match path.as_str() {
                "" => name.clone(),
                path => format!("{path}.{name}"),
            };
            if described.contains_key(&setting) {
                continue;
            }
            let variables = vec![overlay::variable(&setting)];
            assert_eq!(overlay::unknown(&variables), [], "{setting}");
        }
    }
}

#[test]
fn the_schema_has_exactly_the_settings_that_are_read() {
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    let mut described = BTreeMap::new();
    sections(&schema, "", &mut described);
    for (path, names) in described {
        let key = if path.is_empty() {
            "nonsense".to_owned()
        } else {
            format!("{path}.nonsense")
        };
        let flags = vec![format!("{key}=1")];
        let Err(found) = load(
            &Sources {
                flags,
                ..Sources::default()
            },
            environment(&[]),
        ) else {
            panic!("{key} is accepted");
        };
        let problem = &found
            .iter()
            .find(|error| error.path == key)
            .unwrap()
            .problem;
        let (_, known) = problem.split_once("known here are ").unwrap();
        let known: BTreeSet<String> = known.split(", ").map(ToOwned::to_owned).collect();
        assert_eq!(known, names, "section `{path}`");
    }
}

#[test]
fn the_schema_accepts_what_the_program_accepts() {
    let schema: Json = serde_json::from_str(SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let all = "listen: 127.0.0.1:1\nadmin: 127.0.0.1:2\nplainHttp: mesh\n\
        tls: { certFile: c, keyFile: k }\ntokenFiles: [t]\nledger: { sqlite: { path: l } }\n\
        lightning: { dev: { listen: 127.0.0.1:3, network: regtest, invoiceDelay: 20ms } }\n\
        offers: { invoiceExpiry: 5m, burst: 7 }\n\
        refunds: { feeLimitPercent: 2, timeout: 30s, maxInFlight: 3 }\nfilters: { liveWindow: 15s, reclaimAfter: 10s, leaseValid: 3s, leaseTick: 50ms,\
         leaseTickWaiting: 50ms }\ndrain: 1s\n\
        log: { format: text, level: debug }\n";
    let database = "ledger: { autoMigrate: false, postgres: { url: 'postgres://u@localhost/b', \
        poolSize: 20, plainTcp: mesh } }\nlightning: { dev: { path: dev.db } }\n";
    for text in [SMALLEST, all, database] {
        assert!(load(&sources(text), environment(&[])).is_ok(), "{text}");
        let value: Json = serde_yaml_ng::from_str(text).unwrap();
        assert!(validator.is_valid(&value), "{text}");
    }
}
