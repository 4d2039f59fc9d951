//! Claims per second that a ledger decides durably, and what its disk can do.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use e2e::paths;
use tokio::process::Command;

use super::Figure;
use crate::cpu;

/// Who claim at the same time.
const CONCURRENT: &str = "64";
const SECONDS: &str = "8";
/// To begin and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// SQLite, with a commit that waits for the disk.
pub(super) async fn sqlite(folder: &Path) -> Result<Vec<Figure>> {
    measure("sqlite", &[], folder).await
}

/// PostgreSQL with `fsync=on`, which keeps its files where temporary ones are.
pub(super) async fn postgres() -> Result<Vec<Figure>> {
    measure("postgres", &["--postgres"], &std::env::temp_dir()).await
}

/// The example `claims` of the sidecar does it, on all cores.
async fn measure(store: &str, args: &[&str], folder: &Path) -> Result<Vec<Figure>> {
    let mut command = Command::new(paths::program("examples/claims")?);
    command
        .args(args)
        .arg(folder)
        .args([CONCURRENT, SECONDS])
        .kill_on_drop(true);
    let output = cpu::on_all_cores(|| command.output())?;
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .context("no end")??;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!(
            "claims on {store}: {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let number = |name: &str| {
        let mut lines = said.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = value.with_context(|| format!("no {name:?} in {said}"))?;
        anyhow::Ok(value.parse::<f64>()?)
    };
    let figure = |name: &str, unit| {
        let value = number(name)?;
        anyhow::Ok(Figure::new(format!("claims-{store}: {name}"), value, unit))
    };
    Ok(vec![
        figure("commits of the disk", "per second")?,
        figure("claims", "per second")?,
        figure("p50", "ms")?,
        figure("p99", "ms")?,
    ])
}
