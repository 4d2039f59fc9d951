//! `cargo xtask dist`: release artefacts in `target/dist`.
//!
//! - `boltgate-filter.wasm`, `boltgate-filter-l402.wasm` and their `.sha256`;
//! - `boltgate`, the sidecar;
//! - `oci/`: the module as an OCI image layout of the "compat" form that Istio and Envoy Gateway
//!   fetch: an ordinary image for linux/amd64 whose last layer is a gzip tar with `plugin.wasm`.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::run::{cargo, output, run, step};
use crate::{build, paths};

/// Only in a sidecar that tests may kill and mislead.
const FAULTS: &[u8] = b"FAULT_STOP_FILE";

/// Writes a module and the file that `sha256sum -c` checks it with; gives the digest.
fn put_module(dist: &Path, name: &str, wasm: &[u8]) -> anyhow::Result<String> {
    let digest = sha256(wasm);
    fs::write(dist.join(name), wasm)?;
    fs::write(
        dist.join(format!("{name}.sha256")),
        format!("{digest}  {name}\n"),
    )?;
    Ok(digest)
}

/// Builds and lays out everything.
pub(crate) fn command() -> anyhow::Result<()> {
    build::filter()?;
    step("building the sidecar");
    run(&mut cargo(&[
        "build",
        "--locked",
        "--profile",
        "shipped",
        "-p",
        "sidecar",
        "--bin",
        "boltgate",
    ]))?;
    let dist = paths::target().join("dist");
    let _ = fs::remove_dir_all(&dist);
    fs::create_dir_all(&dist)?;
    let wasm = fs::read(paths::filter_wasm())?;
    let digest = put_module(&dist, "boltgate-filter.wasm", &wasm)?;
    let l402 = fs::read(paths::l402_wasm())?;
    put_module(&dist, "boltgate-filter-l402.wasm", &l402)?;
    let sidecar = fs::read(paths::target().join("shipped/boltgate"))?;
    let has_faults = sidecar.windows(FAULTS.len()).any(|part| part == FAULTS);
    ensure!(!has_faults, "the sidecar was built with faults for tests");
    fs::copy(
        paths::target().join("shipped/boltgate"),
        dist.join("boltgate"),
    )?;
    oci(&dist.join("oci"), &wasm)?;
    println!("{}: filter {digest}, sidecar, OCI layout", dist.display());
    Ok(())
}

fn oci(folder: &Path, wasm: &[u8]) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let revision =
        output(crate::run::command("git").args(["rev-parse", "HEAD"])).unwrap_or_default();
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |bytes: &[u8]| -> anyhow::Result<(String, usize)> {
        let digest = sha256(bytes);
        fs::write(blobs.join(&digest), bytes)?;
        Ok((format!("sha256:{digest}"), bytes.len()))
    };
    let tar = tar("plugin.wasm", wasm)?;
    // No time stamp: the same module makes the same image.
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::best());
    gzip.write_all(&tar)?;
    let (layer, layer_size) = blob(&gzip.finish()?)?;
    let labels = json!({
        "org.opencontainers.image.title": "boltgate-filter",
        "org.opencontainers.image.description": "Lightning payment gate for Envoy (proxy-wasm)",
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.revision": revision.trim(),
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
    });
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))] },
        "history": [{ "created_by": "COPY plugin.wasm ./" }],
    });
    let (config, config_size) = blob(config.to_string().as_bytes())?;
    let mut annotations = labels;
    if let Value::Object(map) = &mut annotations {
        map.insert("module.wasm.image/variant".to_owned(), json!("compat"));
    }
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": manifest_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config,
            "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": layer,
            "size": layer_size,
        }],
        "annotations": annotations,
    });
    let (manifest, manifest_size) = blob(manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": manifest_type,
            "digest": manifest,
            "size": manifest_size,
            "platform": { "architecture": "amd64", "os": "linux" },
            "annotations": { "org.opencontainers.image.ref.name": version },
        }],
    });
    fs::write(folder.join("index.json"), index.to_string())?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// A tar archive of one regular file, in the POSIX ustar form, with no owner and no time.
fn tar(name: &str, content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, field: &[u8]| -> anyhow::Result<()> {
        header
            .get_mut(at..at + field.len())
            .context("field outside the tar header")?
            .copy_from_slice(field);
        Ok(())
    };
    put(0, name.as_bytes())?;
    put(100, b"0000644\0")?;
    put(108, b"0000000\0")?;
    put(116, b"0000000\0")?;
    put(124, format!("{:011o}\0", content.len()).as_bytes())?;
    put(136, b"00000000000\0")?;
    put(148, b"        ")?;
    put(156, b"0")?;
    put(257, b"ustar\x0000")?;
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let mut tar = header.to_vec();
    tar.splice(148..156, format!("{sum:06o}\0 ").into_bytes());
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::tar;

    #[test]
    fn an_ordinary_tar_reads_the_layer() {
        let folder = std::env::temp_dir().join(format!("boltgate-tar-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("layer.tar"),
            tar("plugin.wasm", b"\0asm content").unwrap(),
        )
        .unwrap();
        let out = Command::new("tar")
            .args(["-xOf", "layer.tar", "plugin.wasm"])
            .current_dir(&folder)
            .output()
            .unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert_eq!(out.stdout, b"\0asm content");
    }
}
