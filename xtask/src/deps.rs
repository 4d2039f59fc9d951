//! Dependency rules over `cargo metadata`.
//!
//! 1. What runs inside Envoy stays small and portable: the dependency trees of `protocol` and of
//!    `filter` on wasm hold no async runtime and nothing that builds or links C.
//! 2. Licences, sources and banned crates, by the lists in `deny.toml`. The file has the form of
//!    cargo-deny, which may be run on it as well; the few rules used here need no such tool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::paths;
use crate::run::{cargo, output, step};

/// Crates that must not be in the tree of `protocol` or `filter`, besides all that build C.
const NOT_IN_ENVOY: [&str; 9] = [
    "tokio",
    "ring",
    "mio",
    "rustls",
    "hyper",
    "openssl",
    "aws-lc-rs",
    "async-std",
    "secp256k1",
];
/// A crate that depends on one of these at build time compiles or links C.
const BUILDS_C: [&str; 5] = ["cc", "cmake", "bindgen", "pkg-config", "vcpkg"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    links: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    optional: bool,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDep>,
}

#[derive(Deserialize)]
struct NodeDep {
    pkg: String,
    dep_kinds: Vec<DepKind>,
}

#[derive(Deserialize)]
struct DepKind {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// Checks all rules and reports every break of them.
pub(crate) fn check() -> anyhow::Result<()> {
    step("dependency rules");
    let mut faults = Vec::new();
    for (package, platform) in [("protocol", None), ("filter", Some("wasm32-wasip1"))] {
        faults.extend(in_envoy(&metadata(platform)?, package)?);
    }
    let deny = fs::read_to_string(paths::root().join("deny.toml")).context("deny.toml")?;
    let deny: Deny = toml::from_str(&deny).context("deny.toml")?;
    faults.extend(denied(&metadata(None)?, &deny));
    if !faults.is_empty() {
        bail!(
            "{} dependency rules broken:\n  {}",
            faults.len(),
            faults.join("\n  ")
        );
    }
    Ok(())
}

fn metadata(platform: Option<&str>) -> anyhow::Result<Metadata> {
    let mut command = cargo(&["metadata", "--locked", "--format-version", "1"]);
    if let Some(platform) = platform {
        command.args(["--filter-platform", platform]);
    }
    Ok(serde_json::from_str(&output(&mut command)?)?)
}

/// Walks what `root` really builds with (development dependencies aside).
fn in_envoy(metadata: &Metadata, root: &str) -> anyhow::Result<Vec<String>> {
    let packages: BTreeMap<&str, &Package> = metadata
        .packages
        .iter()
        .map(|package| (package.id.as_str(), package))
        .collect();
    let nodes: BTreeMap<&str, &Node> = metadata
        .resolve
        .nodes
        .iter()
        .map(|node| (node.id.as_str(), node))
        .collect();
    let start = metadata
        .packages
        .iter()
        .find(|package| package.name == root && package.source.is_none())
        .with_context(|| format!("no package {root}"))?;
    let mut seen = BTreeSet::from([start.id.as_str()]);
    let mut queue = vec![(start.id.as_str(), root.to_owned())];
    let mut faults = Vec::new();
    while let Some((id, path)) = queue.pop() {
        let Some(package) = packages.get(id) else {
            continue;
        };
        let name = package.name.as_str();
        let builds_c = package.dependencies.iter().any(|dependency| {
            dependency.kind.as_deref() == Some("build")
                && !dependency.optional
                && BUILDS_C.contains(&dependency.name.as_str())
        });
        if NOT_IN_ENVOY.contains(&name) || name.ends_with("-sys") {
            faults.push(format!("{path}: {name} must not be in the tree of {root}"));
        } else if builds_c
            || package
                .links
                .as_deref()
                .is_some_and(|lib| !links_nothing(lib))
        {
            faults.push(format!("{path}: {name} builds or links C"));
        }
        for dep in nodes.get(id).map_or(&[][..], |node| &node.deps) {
            let real = dep
                .dep_kinds
                .iter()
                .any(|kind| kind.kind.as_deref() != Some("dev"));
            if real && seen.insert(&dep.pkg) {
                let name = packages
                    .get(dep.pkg.as_str())
                    .map_or("?", |package| &package.name);
                queue.push((&dep.pkg, format!("{path} → {name}")));
            }
        }
    }
    eprintln!("    {root}: {} crates", seen.len());
    Ok(faults)
}

/// Crates that use `links` only to be unique in a tree.
fn links_nothing(links: &str) -> bool {
    links == "rayon-core" || links.starts_with("prettyplease")
}

fn denied(metadata: &Metadata, deny: &Deny) -> Vec<String> {
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let who = format!("{} {}", package.name, package.version);
        match &package.license {
            None => faults.push(format!("{who}: no licence named")),
            Some(text) => match licence_allowed(text, &deny.licenses.allow) {
                Some(true) => {}
                Some(false) => faults.push(format!("{who}: licence {text} is not allowed")),
                None => faults.push(format!("{who}: licence {text:?} cannot be read")),
            },
        }
        if let Some(source) = &package.source {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !deny
                .sources
                .allow_registry
                .iter()
                .any(|allowed| allowed == registry)
            {
                faults.push(format!("{who}: comes from {source}"));
            }
        }
        if let Some(ban) = deny.bans.deny.iter().find(|ban| ban.name == package.name) {
            faults.push(format!("{who}: banned: {}", ban.reason));
        }
    }
    eprintln!(
        "    licences and sources of {} crates",
        metadata.packages.len()
    );
    faults
}

/// Whether an SPDX expression can be satisfied with the allowed licences; `None` if it cannot be
/// read. `A/B` is the old way to write `A OR B`.
fn licence_allowed(text: &str, allowed: &[String]) -> Option<bool> {
    let spaced = text
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let value = either(&mut rest, allowed)?;
    rest.is_empty().then_some(value)
}

fn either(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut value = both(words, allowed)?;
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        value |= both(words, allowed)?;
    }
    Some(value)
}

fn both(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let mut value = single(words, allowed)?;
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        value &= single(words, allowed)?;
    }
    Some(value)
}

fn single(words: &mut &[&str], allowed: &[String]) -> Option<bool> {
    let (&word, rest) = words.split_first()?;
    *words = rest;
    if word == "(" {
        let value = either(words, allowed)?;
        let (&close, rest) = words.split_first()?;
        *words = rest;
        return (close == ")").then_some(value);
    }
    if [")", "OR", "AND", "WITH"].contains(&word) {
        return None;
    }
    let mut licence = word.to_owned();
    if let Some((&"WITH", rest)) = words.split_first() {
        let (&exception, rest) = rest.split_first()?;
        *words = rest;
        licence = format!("{word} WITH {exception}");
    }
    Some(allowed.contains(&licence))
}

#[cfg(test)]
mod tests {
    use super::licence_allowed;

    #[test]
    fn licence_expressions_are_read_as_spdx_says() {
        let allowed: Vec<String> = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"]
            .map(str::to_owned)
            .into();
        let check = |text| licence_allowed(text, &allowed);
        assert_eq!(check("MIT"), Some(true));
        assert_eq!(check("Apache-2.0 OR MIT"), Some(true));
        assert_eq!(check("Apache-2.0/MIT"), Some(true));
        assert_eq!(check("Apache-2.0"), Some(false));
        assert_eq!(check("(GPL-3.0 OR MIT) AND Unicode-3.0"), Some(true));
        assert_eq!(check("MIT AND GPL-3.0"), Some(false));
        assert_eq!(check("Apache-2.0 WITH LLVM-exception"), Some(true));
        assert_eq!(check("MIT OR"), None);
        assert_eq!(check("(MIT"), None);
        assert_eq!(check(""), None);
    }
}
