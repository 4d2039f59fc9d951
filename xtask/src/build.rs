//! `cargo xtask build`: the filter, the sidecar and the programs that tests run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::run::{cargo, run, step};
use crate::{paths, postlink, tools};

/// Largest filter module that may be shipped, in bytes: every worker of every Envoy compiles it.
const MAX_FILTER_BYTES: u64 = 512 * 1024;
/// The same for the module without the Payment scheme.
const MAX_L402_FILTER_BYTES: u64 = 350_000;

/// `cargo xtask build [--release | --filter]`.
pub(crate) fn command(args: &[String]) -> anyhow::Result<()> {
    let release = match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [] => false,
        ["--release"] => true,
        ["--filter"] => return filter().and_then(|()| trap_filter()),
        _ => bail!("usage: cargo xtask build [--release | --filter]"),
    };
    filter()?;
    trap_filter()?;
    step("building the sidecar and the test programs");
    let mut build = cargo(&["build", "--locked", "-p", "sidecar", "-p", "e2e", "--bins"]);
    if release {
        build.arg("--release");
    }
    run(&mut build)
}

/// Builds the filter that is shipped; fails if it has grown too large.
pub(crate) fn whole_filter() -> anyhow::Result<()> {
    step("building the filter");
    let bytes = module(&paths::target(), &[], &paths::filter_wasm())?;
    check_size(&paths::filter_wasm(), bytes, MAX_FILTER_BYTES)
}

/// Builds both filters that are shipped, with and without the Payment scheme. Each has a target
/// folder of its own: cargo gives wasm modules of all feature sets the same file name and may take
/// one for the other.
pub(crate) fn filter() -> anyhow::Result<()> {
    whole_filter()?;
    step("building the filter without the Payment scheme");
    let target = paths::target().join("wasm-l402");
    let output = paths::l402_wasm();
    let bytes = module(&target, &["--no-default-features"], &output)?;
    check_size(&output, bytes, MAX_L402_FILTER_BYTES)
}

fn check_size(module: &Path, bytes: u64, most: u64) -> anyhow::Result<()> {
    println!("    {}: {bytes} bytes", module.display());
    if bytes > most {
        bail!("the filter has {bytes} bytes, more than {most}");
    }
    Ok(())
}

/// Builds the filter with the routes that make it trap, which only tests load.
pub(crate) fn trap_filter() -> anyhow::Result<()> {
    step("building the filter that traps on demand, for tests");
    let target = paths::target().join("wasm-trap");
    module(&target, &["--features", "trap"], &paths::trap_wasm()).map(drop)
}

fn module(target: &Path, features: &[&str], output: &Path) -> anyhow::Result<u64> {
    tools::wasm_target()?;
    let linker = std::env::current_exe().context("cannot name this program")?;
    run(cargo(&[
        "build",
        "--locked",
        "--profile",
        "wasm",
        "--target",
        "wasm32-wasip1",
    ])
    .args(["-p", "filter", "--lib"])
    .args(features)
    .args(nameless_registry())
    .arg("--target-dir")
    .arg(target)
    .env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker))?;
    let linked = target.join("wasm32-wasip1/wasm/filter.wasm");
    if let Some(folder) = output.parent() {
        fs::create_dir_all(folder)?;
    }
    postlink::postlink(&linked, output)
        .with_context(|| format!("cannot post-link {}", linked.display()))?;
    Ok(fs::metadata(output)?.len())
}

/// Has the module name the source files of dependencies without the folder of whoever builds it,
/// so that all get the same bytes.
fn nameless_registry() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")) else {
        return Vec::new();
    };
    let flag = format!("--remap-path-prefix={}=", sources.display());
    vec![
        "--config".to_owned(),
        format!("target.wasm32-wasip1.rustflags=[{flag:?}]"),
    ]
}
