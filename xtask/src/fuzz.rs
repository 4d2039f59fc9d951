//! `cargo xtask fuzz`: every fuzz target for some seconds.
//!
//! libFuzzer needs coverage instrumentation, which the stable compiler has too; only address
//! sanitising needs nightly, and code without `unsafe` gains little from it. So the pinned
//! toolchain builds the targets, and nobody has to install another one or cargo-fuzz (which works
//! as well on the same folder).

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, bail};

use crate::paths;
use crate::run::{cargo, command as program, run, step};

const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cdebug-assertions --cfg fuzzing";
/// The triple must be named, or build scripts would be instrumented as well.
const HOST: &str = env!("HOST_TRIPLE");

/// `cargo xtask fuzz [--seconds N] [TARGET]`.
pub(crate) fn command(args: &[String]) -> anyhow::Result<()> {
    let mut seconds = 10;
    let mut only = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--seconds" {
            seconds = args.next().context("--seconds needs a number")?.parse()?;
        } else if arg.starts_with('-') {
            bail!("usage: cargo xtask fuzz [--seconds N] [TARGET]");
        } else {
            only = Some(arg.as_str());
        }
    }
    fuzz(seconds, only)
}

/// All targets, as a part of the tests; gives what had to be skipped.
pub(crate) fn all(seconds: u64) -> anyhow::Result<Vec<String>> {
    fuzz(seconds, None).map(|()| Vec::new())
}

fn fuzz(seconds: u64, only: Option<&str>) -> anyhow::Result<()> {
    let folder = paths::root().join("fuzz");
    let mut targets = targets(&folder)?;
    if let Some(only) = only {
        targets.retain(|target| target == only);
    }
    if targets.is_empty() {
        bail!("no such fuzz target in {}", folder.display());
    }
    step(&format!("building {} fuzz targets", targets.len()));
    let build = paths::target().join("fuzz");
    run(cargo(&[
        "build",
        "--locked",
        "--release",
        "--bins",
        "--target",
        HOST,
        "--manifest-path",
    ])
    .arg(folder.join("Cargo.toml"))
    .arg("--target-dir")
    .arg(&build)
    .env("RUSTFLAGS", COVERAGE))?;
    for target in targets {
        step(&format!("fuzzing {target} for {seconds} s"));
        // What is found goes below target/; the committed corpus is only read.
        let found = build.join("corpus").join(&target);
        let artifacts = build.join("artifacts").join(&target);
        fs::create_dir_all(&found)?;
        fs::create_dir_all(&artifacts)?;
        let mut command = program(build.join(HOST).join("release").join(&target));
        command
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([
                "-max_len=20000",
                "-timeout=5",
                "-rss_limit_mb=1024",
                "-verbosity=0",
            ])
            .args(["-print_final_stats=1"])
            .arg(&found);
        let corpus = folder.join("corpus").join(&target);
        if corpus.is_dir() {
            command.arg(corpus);
        }
        let out = command
            .stdin(Stdio::null())
            .output()
            .context("cannot run the fuzz target")?;
        let said = String::from_utf8_lossy(&out.stderr);
        if !out.status.success() {
            eprintln!("{said}");
            bail!("{target} found something: see {}", artifacts.display());
        }
        let stat = |name: &str| {
            let line = said.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("?", |value| value.trim_start_matches(':').trim())
                .to_owned()
        };
        let (runs, new) = (
            stat("stat::number_of_executed_units"),
            stat("stat::new_units_added"),
        );
        eprintln!("    {runs} executions, {new} new inputs, nothing found");
    }
    Ok(())
}

fn targets(folder: &Path) -> anyhow::Result<Vec<String>> {
    let files = fs::read_dir(folder.join("fuzz_targets"))
        .with_context(|| format!("no fuzz targets in {}", folder.display()))?;
    let mut names: Vec<String> = files
        .filter_map(Result::ok)
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
