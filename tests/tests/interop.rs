//! Our macaroons and those of pymacaroons, the library behind many gates and clients: each reads,
//! verifies and narrows what the other has minted. The comparison itself is a Python program that
//! drives an example of the `protocol` crate.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use e2e::paths;

/// Builds the tool beside the other artefacts and gives its path.
fn macaroon_tool() -> anyhow::Result<PathBuf> {
    let target = paths::target()?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "-p", "protocol"])
        .args(["--example", "macaroon_tool", "--target-dir"])
        .arg(&target)
        .current_dir(paths::root())
        .status()?;
    ensure!(status.success(), "the macaroon tool does not build");
    Ok(target.join("debug/examples/macaroon_tool"))
}

#[test]
fn pymacaroons_and_we_accept_each_others_macaroons() -> anyhow::Result<()> {
    let check = paths::root().join("protocol/tests/interop/pymacaroons_check.py");
    let output = Command::new(paths::tool("clients-py/bin/python")?)
        .arg("-B")
        .arg(check)
        .arg(macaroon_tool()?)
        .stdin(Stdio::null())
        .output()
        .context("cannot run the comparison")?;
    let said = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    ensure!(output.status.success(), "{}", said.concat());
    // A comparison of nothing would also succeed.
    let count = said[0]
        .split(' ')
        .next()
        .and_then(|count| count.parse::<u32>().ok());
    ensure!(count.is_some_and(|count| count >= 200), "{}", said.concat());
    Ok(())
}
