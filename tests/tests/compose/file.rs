//! The compose file and the Dockerfile, as far as they use anything. A key that this does not know
//! is an error: nothing in them shall go untried in silence.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

/// Keys of a service that concern only containers: isolation, names, what is published.
const CONTAINER_ONLY: [&str; 6] = [
    "build",
    "cap_drop",
    "hostname",
    "ports",
    "read_only",
    "security_opt",
];

/// One service of the compose file.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// Target of the Dockerfile.
    pub(crate) target: String,
    pub(crate) command: Vec<String>,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) depends_on: Vec<(String, Condition)>,
    pub(crate) health: Option<Health>,
}

/// Something mounted into a container.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) source: Source,
    pub(crate) target: String,
}

#[derive(Debug)]
pub(crate) enum Source {
    /// A file of this project.
    File(PathBuf),
    /// A named volume.
    Volume(String),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Condition {
    Healthy,
    Completed,
}

#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) command: Vec<String>,
    pub(crate) retries: u64,
}

/// Reads the services in the order of the file.
pub(crate) fn services(root: &Path) -> anyhow::Result<Vec<Service>> {
    let text = std::fs::read_to_string(root.join("docker-compose.yaml"))?;
    let mut yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text)?;
    yaml.apply_merge()?;
    let file: Value = serde_json::to_value(yaml)?;
    let volumes = object(file.get("volumes").context("no volumes")?)?;
    for (name, volume) in volumes {
        let kind = volume.pointer("/driver_opts/type").and_then(Value::as_str);
        ensure!(
            kind == Some("tmpfs"),
            "volume {name} stays when all is stopped"
        );
    }
    // Order matters to the reader only, and JSON objects have none: take it from the text.
    let mut services: Vec<Service> = object(file.get("services").context("no services")?)?
        .iter()
        .map(|(name, service)| {
            read_service(root, name, object(service)?, volumes)
                .with_context(|| format!("service {name}"))
        })
        .collect::<anyhow::Result<_>>()?;
    services.sort_by_key(|service| text.find(&format!("\n  {}:\n", service.name)));
    Ok(services)
}

fn read_service(
    root: &Path,
    name: &str,
    service: &Map<String, Value>,
    volumes: &Map<String, Value>,
) -> anyhow::Result<Service> {
    let mut read = Service {
        name: name.to_owned(),
        target: String::new(),
        command: Vec::new(),
        environment: BTreeMap::new(),
        mounts: Vec::new(),
        depends_on: Vec::new(),
        health: None,
    };
    for (key, value) in service {
        match key.as_str() {
            "image" => {
                let image = value.as_str().context("image")?;
                read.target = image
                    .strip_prefix("boltgate/")
                    .context("not our image")?
                    .to_owned();
            }
            "command" => read.command = strings(value)?,
            "environment" => {
                for (name, value) in object(value)? {
                    read.environment.insert(name.clone(), text(value)?);
                }
            }
            "volumes" => {
                for mount in strings(value)? {
                    read.mounts.push(read_mount(root, &mount, volumes)?);
                }
            }
            "depends_on" => {
                for (on, how) in object(value)? {
                    let condition = match how.get("condition").and_then(Value::as_str) {
                        Some("service_healthy") => Condition::Healthy,
                        Some("service_completed_successfully") => Condition::Completed,
                        other => bail!("depends on {on} under {other:?}"),
                    };
                    read.depends_on.push((on.clone(), condition));
                }
            }
            "healthcheck" => {
                let test = strings(value.get("test").context("no test")?)?;
                let command = match test.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
                    Some(("CMD", rest)) => rest.to_vec(),
                    Some(("CMD-SHELL", [line])) => {
                        vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()]
                    }
                    _ => bail!("health check {test:?}"),
                };
                ensure!(
                    value.get("interval") == Some(&"1s".into()),
                    "interval is not a second"
                );
                let retries = value
                    .get("retries")
                    .and_then(Value::as_u64)
                    .context("retries")?;
                read.health = Some(Health { command, retries });
            }
            known if CONTAINER_ONLY.contains(&known) => {}
            other => bail!("`{other}` is not understood"),
        }
    }
    if let Some(build) = service.get("build") {
        let target = build.get("target").and_then(Value::as_str);
        ensure!(
            target == Some(&read.target),
            "image and build target differ"
        );
    }
    Ok(read)
}

fn read_mount(root: &Path, mount: &str, volumes: &Map<String, Value>) -> anyhow::Result<Mount> {
    let mut parts = mount.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        bail!("mount {mount}");
    };
    let source = match source.strip_prefix("./") {
        Some(file) => {
            let path = root.join(file);
            ensure!(path.is_file(), "{file} is not there to be mounted");
            Source::File(path)
        }
        None => {
            ensure!(volumes.contains_key(source), "no volume {source}");
            Source::Volume(source.to_owned())
        }
    };
    Ok(Mount {
        source,
        target: target.to_owned(),
    })
}

fn object(value: &Value) -> anyhow::Result<&Map<String, Value>> {
    value
        .as_object()
        .with_context(|| format!("not an object: {value}"))
}

fn strings(value: &Value) -> anyhow::Result<Vec<String>> {
    value
        .as_array()
        .with_context(|| format!("not a list: {value}"))?
        .iter()
        .map(text)
        .collect()
}

/// A string with compose's `${NAME:-default}` and `$$` resolved, with no variable set.
fn text(value: &Value) -> anyhow::Result<String> {
    let raw = value
        .as_str()
        .with_context(|| format!("not a string: {value}"))?;
    let mut text = String::new();
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            after
        } else {
            let (inner, after) = after
                .strip_prefix('{')
                .and_then(|after| after.split_once('}'))
                .with_context(|| format!("a lone $ in {raw}"))?;
            let (_, default) = inner
                .split_once(":-")
                .with_context(|| format!("no default in {raw}"))?;
            text.push_str(default);
            after
        };
    }
    text.push_str(rest);
    Ok(text)
}

/// One target of the Dockerfile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    pub(crate) base: String,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) user: Option<String>,
    /// `COPY --from=STAGE SOURCE TARGET`
    pub(crate) copies: Vec<(String, String, String)>,
    pub(crate) runs: usize,
}

/// Reads the stages of the Dockerfile; one that builds on another begins with what that one has.
pub(crate) fn stages(root: &Path) -> anyhow::Result<BTreeMap<String, Stage>> {
    let text = std::fs::read_to_string(root.join("deploy/docker/Dockerfile"))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let text = lines.join("\n").replace("\\\n", " ");
    let mut stages = BTreeMap::<String, Stage>::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["FROM", base, "AS", name] = words[..] {
            let mut stage = stages.get(base).cloned().unwrap_or_default();
            stage.base = base.to_owned();
            current = name.to_owned();
            stages.insert(current.clone(), stage);
            continue;
        }
        let stage = stages
            .get_mut(&current)
            .with_context(|| format!("before FROM: {line}"))?;
        match words[..] {
            ["ENTRYPOINT", ..] => {
                let list = line.trim_start_matches("ENTRYPOINT");
                stage.entrypoint = serde_json::from_str(list)?;
            }
            ["USER", user] => stage.user = Some(user.to_owned()),
            ["COPY", ref words @ ..] => {
                let flags: Vec<&str> = words
                    .iter()
                    .copied()
                    .take_while(|word| word.starts_with("--"))
                    .collect();
                let from = flags.iter().find_map(|flag| flag.strip_prefix("--from="));
                let (target, sources) = words[flags.len()..].split_last().context("COPY")?;
                for source in sources {
                    let copy = (from.unwrap_or_default().to_owned(), (*source).to_owned());
                    stage.copies.push((copy.0, copy.1, (*target).to_owned()));
                }
            }
            ["RUN", ..] => stage.runs += 1,
            ["WORKDIR" | "CMD" | "EXPOSE" | "ENV" | "LABEL", ..] => {}
            _ => bail!("not understood: {line}"),
        }
    }
    Ok(stages)
}
