//! The committed JSON schema and the code that reads the configuration say the same.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::Path;

use protocol::policy::{PluginConfig, schema_text};
use serde_json::{Value, json};

#[path = "common/config.rs"]
mod config;

/// Set to write the file instead of comparing it.
const UPDATE: &str = "BOLTGATE_UPDATE_SCHEMA";

fn is_valid(config: &Value) -> bool {
    let schema: Value = serde_json::from_str(&schema_text()).unwrap();
    jsonschema::validator_for(&schema).unwrap().is_valid(config)
}

fn is_read(config: &Value) -> bool {
    PluginConfig::from_json(config.to_string().as_bytes()).is_ok()
}

#[test]
fn the_committed_schema_is_the_generated_one() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../envoy/plugin-config.schema.json");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&file, schema_text()).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap();
    assert!(
        committed == schema_text(),
        "{} is out of date: run `{UPDATE}=1 cargo test -p protocol --test schema`",
        file.display()
    );
}

/// Every key that the schema knows occurs in the full example, so one that the code does not
/// know would be refused, and the other way round.
#[test]
fn schema_and_code_know_the_same_keys() {
    let full = config::full();
    assert!(is_valid(&full));
    assert_eq!(
        PluginConfig::from_json(full.to_string().as_bytes()).err(),
        None
    );
    let schema: Value = serde_json::from_str(&schema_text()).unwrap();
    let mut known = BTreeSet::new();
    keys_of_schema(&schema, &mut known);
    let mut used = BTreeSet::new();
    keys_of_example(&full, &mut used);
    let constraint = "forecast_monthly_volume_sats";
    assert!(used.remove(constraint));
    assert_eq!(known, used);
}

fn keys_of_schema(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                if let ("properties", Value::Object(properties)) = (name.as_str(), member) {
                    keys.extend(properties.keys().cloned());
                }
                keys_of_schema(member, keys);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of_schema(item, keys)),
        _ => {}
    }
}

fn keys_of_example(example: &Value, keys: &mut BTreeSet<String>) {
    match example {
        Value::Object(members) => {
            for (name, member) in members {
                keys.insert(name.clone());
                keys_of_example(member, keys);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of_example(item, keys)),
        _ => {}
    }
}

#[test]
fn schema_and_code_refuse_the_same_mistakes() {
    let cases: [(&str, Value); 16] = [
        ("/surprise", json!(1)),
        ("/sidecar/cluster", json!("")),
        ("/sidecar/timeout", json!("3 seconds")),
        ("/unmatched", json!("open")),
        ("/l402InvalidStatus", json!(403)),
        ("/maxWaiting", json!(-1)),
        ("/clientLimits/prefixV4", json!(33)),
        ("/services", json!([])),
        ("/services/0/name", json!("a b")),
        ("/services/0/tier", json!(256)),
        ("/services/0/price", json!({"sat": 1, "msat": 1000})),
        ("/services/0/price", json!({"sat": 0})),
        (
            "/services/0/price",
            json!({"msat": 2_100_000_000_000_000_001_u64}),
        ),
        ("/services/0/match/0/hosts", json!([])),
        (
            "/services/0/match/0/path",
            json!({"exact": "/a", "prefix": "/b"}),
        ),
        ("/services/0/freePaths/0", json!({"exact": "no-slash"})),
    ];
    for (pointer, value) in cases {
        let mut config = config::full();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Object(members) => {
                members.insert(key.to_owned(), value.clone());
            }
            Value::Array(items) => items[key.parse::<usize>().unwrap()] = value.clone(),
            other => panic!("{other}"),
        }
        assert!(!is_read(&config), "code takes {pointer} = {value}");
        assert!(!is_valid(&config), "schema takes {pointer} = {value}");
    }
}
