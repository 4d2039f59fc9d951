//! Where programs and artefacts are. All of it follows from where this program runs: the profile
//! folder of cargo's target folder, or `deps` in it.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, bail};

/// Folder of this build's programs, e.g. `target/debug`.
///
/// # Errors
/// When the running program has no path.
pub fn programs() -> anyhow::Result<PathBuf> {
    let exe = env::current_exe()?;
    let folder = exe
        .parent()
        .context("the running program is in no folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_path_buf())
}

/// Cargo's target folder.
///
/// # Errors
/// When the running program has no path.
pub fn target() -> anyhow::Result<PathBuf> {
    let programs = programs()?;
    Ok(programs.parent().unwrap_or(&programs).to_path_buf())
}

/// The project's root folder.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let root = manifest.parent().map(Path::to_path_buf);
    root.filter(|root| root.join("Cargo.lock").is_file())
        .unwrap_or(manifest)
}

/// A program of this workspace, e.g. `boltgate`.
///
/// # Errors
/// When it is not built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    existing(programs()?.join(name), "cargo xtask build")
}

/// The filter as Envoy loads it.
///
/// # Errors
/// When it is not built.
pub fn filter_wasm() -> anyhow::Result<PathBuf> {
    existing(target()?.join("boltgate/filter.wasm"), "cargo xtask build")
}

/// The filter without the Payment scheme.
///
/// # Errors
/// When it is not built.
pub fn l402_wasm() -> anyhow::Result<PathBuf> {
    existing(
        target()?.join("boltgate/filter-l402.wasm"),
        "cargo xtask build",
    )
}

/// The filter with the route that makes its VM trap.
///
/// # Errors
/// When it is not built.
pub fn trap_wasm() -> anyhow::Result<PathBuf> {
    existing(
        target()?.join("boltgate/filter-trap.wasm"),
        "cargo xtask build",
    )
}

/// Envoy's binary: `$ENVOY`, or the one that set-up has fetched.
///
/// # Errors
/// When there is none.
pub fn envoy() -> anyhow::Result<PathBuf> {
    if let Some(envoy) = env::var_os("ENVOY") {
        return existing(envoy.into(), "set ENVOY to an Envoy binary");
    }
    let lib = target()?.join("tools/envoy/lib");
    fs::read_dir(&lib)
        .ok()
        .and_then(|pythons| {
            pythons
                .filter_map(Result::ok)
                .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
                .find(|envoy| envoy.is_file())
        })
        .with_context(|| format!("no Envoy below {}: run `cargo xtask setup`", lib.display()))
}

/// A program below `target/tools`, e.g. `lightning/lnd`.
///
/// # Errors
/// When set-up has not put it there.
pub fn tool(name: &str) -> anyhow::Result<PathBuf> {
    existing(target()?.join("tools").join(name), "cargo xtask setup")
}

/// An empty folder for the files of one test: `target/e2e/<name>`. What an earlier run left is
/// removed first, and what this run leaves stays to be looked at.
///
/// # Errors
/// When it cannot be made.
pub fn fresh_folder(name: &str) -> anyhow::Result<PathBuf> {
    let folder = target()?.join("e2e").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn existing(path: PathBuf, how: &str) -> anyhow::Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is missing: {how}", path.display());
    }
    Ok(path)
}
