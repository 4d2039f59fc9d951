//! `cargo xtask test`: everything, with all set-up.

use crate::run::{cargo, run, step};
use crate::{build, doctor, fuzz, tools};

/// How long each fuzz target runs as part of the tests, in seconds.
const FUZZ_SECONDS: u64 = 10;

/// Sets up, builds, runs all rings. Arguments go to `cargo test`; with any, fuzzing is left out.
pub(crate) fn command(args: &[String]) -> anyhow::Result<()> {
    tools::all()?;
    build::filter()?;
    build::trap_filter()?;
    step("building the sidecar and the tests");
    run(&mut cargo(&[
        "build", "--locked", "-p", "sidecar", "-p", "e2e", "--bins",
    ]))?;
    run(&mut cargo(&["test", "--locked", "--workspace", "--no-run"]))?;
    step("running the tests");
    let mut test = cargo(&["test", "--locked", "--workspace"]);
    if args.is_empty() {
        test.arg("--no-fail-fast");
    }
    run(test.args(args))?;
    let mut skipped = doctor::skipped();
    if args.is_empty() {
        step("running the tests of the filter without the Payment scheme");
        let l402 = ["-p", "filter", "--lib", "--no-default-features"];
        run(cargo(&["test", "--locked"]).args(l402))?;
        skipped.extend(fuzz::all(FUZZ_SECONDS)?);
    }
    step("done");
    if skipped.is_empty() {
        println!("all tests passed, none skipped");
    } else {
        println!("tests passed, but {} were SKIPPED:", skipped.len());
        for skip in &skipped {
            println!("    {skip}");
        }
        if std::env::var_os("CI").is_some() {
            anyhow::bail!("CI allows no skipped test");
        }
    }
    Ok(())
}
