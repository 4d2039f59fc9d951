//! `cargo xtask demo` and `cargo xtask bench`: set up, build, hand over to the program.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;

use crate::run::{cargo, command, run, step};
use crate::{build, paths, tools};

/// Builds what the demo starts, then becomes it.
pub(crate) fn demo(args: &[String]) -> anyhow::Result<()> {
    let envoy = tools::envoy()?;
    build::whole_filter()?;
    step("building the sidecar and the demo (some minutes the first time)");
    // The profile that tests use too: what is built here is not built again there.
    programs("dev", &["boltgate", "demo", "weather", "leash"])?;
    become_program("debug/demo", &envoy, args)
}

/// Builds what the benchmark measures, then becomes it.
pub(crate) fn bench(args: &[String]) -> anyhow::Result<()> {
    let envoy = tools::envoy()?;
    let is_some = args.iter().any(|arg| arg == "--only");
    let is_named = |arg: &String| arg.contains("claims-postgres") || arg.contains("figures");
    if !is_some || args.iter().any(is_named) {
        tools::postgres()?;
    }
    build::filter()?;
    step("building the sidecar and the benchmark");
    let mut build = program_build("release", &["boltgate", "bench", "leash"]);
    run(build.args(["--example", "claims"]))?;
    become_program("release/bench", &envoy, args)
}

fn programs(profile: &str, names: &[&str]) -> anyhow::Result<()> {
    run(&mut program_build(profile, names))
}

fn program_build(profile: &str, names: &[&str]) -> Command {
    let mut build = cargo(&["build", "--locked", "-p", "sidecar", "-p", "e2e"]);
    build.args(["--profile", profile]);
    build.args(names.iter().flat_map(|name| ["--bin", name]));
    build
}

/// Replaces this process, so that Ctrl-C and signals reach the program itself.
fn become_program(name: &str, envoy: &std::path::Path, args: &[String]) -> anyhow::Result<()> {
    let program = paths::target().join(name);
    let error = command(&program).env("ENVOY", envoy).args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
