//! Kubernetes manifests as the tools of their users read them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::paths;
use serde_json::Value;

/// What `kubectl apply -k FOLDER` would send, as text.
pub(crate) fn kustomize(folder: &Path) -> anyhow::Result<String> {
    let output = Command::new(paths::tool("manifest-tools/kustomize")?)
        .arg("build")
        .arg(folder)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", folder.display());
    Ok(String::from_utf8(output.stdout)?)
}

/// The documents of a YAML text.
pub(crate) fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    use serde::Deserialize as _;
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| {
            let mut yaml = serde_yaml_ng::Value::deserialize(document)?;
            yaml.apply_merge()?;
            Ok(serde_json::to_value(yaml)?)
        })
        .filter(|document| !matches!(document, Ok(Value::Null)))
        .collect()
}

/// The documents of a YAML file.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    documents(&text).with_context(|| file.display().to_string())
}

/// All files below `folder` for which `wanted` holds, sorted.
pub(crate) fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, wanted)?);
        } else if wanted(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
