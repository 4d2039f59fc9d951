//! Every YAML file in `envoy/` and `deploy/`, checked by the programs that will read it.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests; clippy knows only the test functions themselves"
)]

mod envoy_gateway;
mod kubernetes;
mod registry;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::Context;
use e2e::paths;
use kubernetes::{files, kustomize, read};
use serde_json::{Value, json};

const TOKEN: &str = "manifest-check-token-0123456789abcdef";

/// What a YAML file is for, and so who checks it.
#[derive(Debug, Eq, PartialEq)]
enum Kind {
    Envoy,
    Sidecar,
    Kustomization,
    /// A part of a kustomization that is no whole object by itself.
    Patch,
    Manifest,
}

fn yaml_files() -> Vec<(Kind, PathBuf)> {
    let root = paths::root();
    let yaml = |path: &Path| {
        matches!(
            path.extension().and_then(OsStr::to_str),
            Some("yaml" | "yml")
        )
    };
    ["envoy", "deploy"]
        .into_iter()
        .flat_map(|folder| files(&root.join(folder), &yaml).unwrap())
        .map(|path| (kind(&path), path))
        .collect()
}

fn kind(path: &Path) -> Kind {
    let documents = read(path).unwrap();
    let first = &documents[0];
    if path.ends_with("kustomization.yaml") {
        Kind::Kustomization
    } else if first.get("static_resources").is_some() {
        Kind::Envoy
    } else if first.get("listen").is_some() {
        Kind::Sidecar
    } else if path.ends_with("with-envoy.yaml") {
        Kind::Patch
    } else if documents
        .iter()
        .all(|it| it["apiVersion"].is_string() && it["kind"].is_string())
    {
        Kind::Manifest
    } else {
        panic!("nothing checks {}", path.display())
    }
}

fn of(kind: &Kind) -> Vec<PathBuf> {
    yaml_files()
        .into_iter()
        .filter(|(is, _)| is == kind)
        .map(|(_, path)| path)
        .collect()
}

fn short(path: &Path) -> String {
    path.strip_prefix(paths::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// Envoy's own check, which loads the module and hands it its configuration.
fn envoy_validate(name: &str, mut config: Value) -> (Output, String) {
    set_module(&mut config);
    let folder = paths::target().unwrap().join("e2e/manifests");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{}.json", name.replace('/', "-")));
    fs::write(&file, config.to_string()).unwrap();
    let output = Command::new(paths::envoy().unwrap())
        .args(["--mode", "validate", "--log-level", "warn", "-c"])
        .arg(&file)
        .env("BOLTGATE_TOKEN", TOKEN)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// The module is wherever this build has put it.
fn set_module(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(file) = map.get_mut("filename") {
                assert!(file.as_str().unwrap().ends_with(".wasm"), "{file}");
                *file = json!(paths::filter_wasm().unwrap());
            }
            map.values_mut().for_each(set_module);
        }
        Value::Array(items) => items.iter_mut().for_each(set_module),
        _ => {}
    }
}

fn envoy_yaml() -> Value {
    read(&paths::root().join("envoy/envoy.yaml"))
        .unwrap()
        .remove(0)
}

/// `envoy/envoy.yaml` with another plugin configuration.
fn with_plugin(plugin: &Value) -> Value {
    let mut config = envoy_yaml();
    let filters =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0";
    let wasm = config
        .pointer_mut(&format!("{filters}/typed_config/config"))
        .unwrap();
    wasm["configuration"]["value"] = json!(plugin.to_string());
    config
}

#[test]
fn envoy_accepts_every_envoy_configuration_with_the_built_filter() {
    let configs = of(&Kind::Envoy);
    assert_eq!(configs.len(), 3, "{configs:?}");
    for path in configs {
        let (output, said) = envoy_validate(&short(&path), read(&path).unwrap().remove(0));
        assert!(output.status.success(), "{}: {said}", path.display());
        assert!(!said.contains("deprecated"), "{}: {said}", path.display());
    }
}

/// A virtual host that takes every request is safe only if hosts that no service names are refused.
#[test]
fn no_shipped_configuration_serves_hosts_that_it_does_not_sell() {
    let readme = fs::read_to_string(paths::root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```json\n").unwrap();
    let plugin: Value = serde_json::from_str(rest.split_once("```").unwrap().0).unwrap();
    assert_eq!(plugin["otherHosts"], "deny");
    let (output, said) = envoy_validate("readme", with_plugin(&plugin));
    assert!(output.status.success(), "{said}");
    for path in of(&Kind::Envoy) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(r#""otherHosts": "deny""#),
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_check_notices_a_wrong_plugin_configuration() {
    let plugin = json!({ "services": [{ "name": "weather", "prise": { "sat": 1 } }] });
    let (output, said) = envoy_validate("wrong", with_plugin(&plugin));
    assert!(!output.status.success());
    assert!(said.contains("prise"), "{said}");
}

#[test]
fn envoy_configurations_differ_only_in_where_things_are() {
    let plain = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        let text = text.split_once("\nadmin:").unwrap().1.to_owned();
        let place =
            regex_lite::Regex::new(r"address: [\w.-]+,|filename: \S+|type: (STATIC|STRICT_DNS)\n");
        place.unwrap().replace_all(&text, "…\n").into_owned()
    };
    let expected = plain(&paths::root().join("envoy/envoy.yaml"));
    for path in of(&Kind::Envoy) {
        assert_eq!(plain(&path), expected, "{}", path.display());
    }
}

#[test]
fn the_filter_accepts_every_plugin_configuration_in_manifests() {
    let mut checked = Vec::new();
    for path in of(&Kind::Manifest) {
        for object in read(&path).unwrap() {
            let spec = &object["spec"];
            let plugin = [
                &spec["pluginConfig"],
                &spec["wasm"]["pluginConfig"],
                &spec["wasm"][0]["config"],
            ];
            if let Some(plugin) = plugin.into_iter().find(|plugin| plugin.is_object()) {
                let (output, said) = envoy_validate(&short(&path), with_plugin(plugin));
                assert!(output.status.success(), "{}: {said}", path.display());
                checked.push(short(&path));
            }
        }
    }
    let expected = [
        "deploy/envoy-gateway/shop.yaml",
        "deploy/istio/trafficextension.yaml",
        "deploy/istio/wasmplugin.yaml",
    ];
    assert_eq!(checked, expected);
}

#[test]
fn the_sidecar_accepts_every_configuration_of_its_own() {
    let folder = paths::fresh_folder("manifests-sidecar").unwrap();
    let configs = of(&Kind::Sidecar);
    assert!(configs.len() >= 6, "{configs:?}");
    for path in configs {
        // Secrets are not here; files with something in them are.
        let mut text = fs::read_to_string(&path).unwrap();
        for place in [
            "/run/secrets/",
            "/etc/boltgate/",
            "/data/secrets/",
            "/var/lib/boltgate/",
        ] {
            text = text.replace(place, &format!("{}/", folder.display()));
        }
        for secret in [
            "boltgate/BOLTGATE_TOKEN",
            "token",
            "lnd/tls.cert",
            "tls.cert",
            "lnd/boltgate.macaroon",
            "boltgate.macaroon",
        ] {
            let file = folder.join(secret);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, TOKEN).unwrap();
        }
        let file = folder.join("boltgate.yaml");
        fs::write(&file, &text).unwrap();
        let mut check = Command::new(paths::program("boltgate").unwrap());
        check.arg("check-config").arg("--config").arg(&file);
        // Some name the ledger's directory as it is seen from there.
        fs::create_dir_all(folder.join("target")).unwrap();
        check.current_dir(&folder);
        if !text.contains("tokenFiles") {
            check.env("BOLTGATE_TOKEN", TOKEN);
        }
        let output = check.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", path.display());
    }
}

#[test]
fn every_object_fits_its_schema() {
    let folder = paths::fresh_folder("manifests-built").unwrap();
    let mut checked = of(&Kind::Manifest);
    // Those of the kustomizations are checked as they leave kustomize.
    checked.retain(|path| !path.starts_with(paths::root().join("deploy/kubernetes")));
    for path in of(&Kind::Kustomization) {
        let built = folder.join(short(&path).replace('/', "-"));
        fs::write(&built, kustomize(path.parent().unwrap()).unwrap()).unwrap();
        checked.push(built);
    }
    let output = Command::new(python().unwrap())
        .arg(paths::root().join("tests/schemas/check.py"))
        .args(&checked)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.lines().count() > 40, "{said}");
}

fn python() -> anyhow::Result<PathBuf> {
    let python = paths::target()?.join("tools/schemas/bin/python");
    python
        .exists()
        .then_some(python)
        .context("no check.py environment: cargo xtask setup")
}

#[test]
fn the_schema_check_notices_unknown_fields_and_unknown_kinds() {
    let folder = paths::fresh_folder("manifests-wrong").unwrap();
    let wrong = [
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "x" }, "spec": { "prots": [] } }),
        json!({ "apiVersion": "v9", "kind": "Unheard", "metadata": { "name": "x" } }),
    ];
    for (number, object) in wrong.iter().enumerate() {
        let file = folder.join(format!("{number}.yaml"));
        fs::write(&file, object.to_string()).unwrap();
        let output = Command::new(python().unwrap())
            .arg(paths::root().join("tests/schemas/check.py"))
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{object}");
    }
}

#[test]
fn pods_run_with_the_least_rights_and_hold_no_secret_in_their_manifest() {
    let mut containers = 0;
    for path in of(&Kind::Kustomization) {
        let text = kustomize(path.parent().unwrap()).unwrap();
        for object in kubernetes::documents(&text).unwrap() {
            assert_ne!(object["kind"], "Secret", "{}", path.display());
            if object["kind"] != "Deployment" {
                continue;
            }
            let pod = &object["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["enableServiceLinks"], false);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"],
                "RuntimeDefault"
            );
            for container in pod["containers"].as_array().unwrap() {
                let rights = &container["securityContext"];
                assert_eq!(rights["readOnlyRootFilesystem"], true, "{container}");
                assert_eq!(rights["allowPrivilegeEscalation"], false, "{container}");
                assert_eq!(
                    rights["capabilities"]["drop"],
                    json!(["ALL"]),
                    "{container}"
                );
                assert!(container["livenessProbe"].is_object(), "{container}");
                assert!(container["readinessProbe"].is_object(), "{container}");
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{container}"
                );
                containers += 1;
            }
        }
    }
    assert!(containers >= 5, "{containers}");
}
