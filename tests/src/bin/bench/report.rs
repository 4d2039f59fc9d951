//! The table, the plot and the results file.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Result;
use serde::Serialize;

use crate::stats::Estimate;

/// One line of `target/bench/results.json`.
#[derive(Serialize)]
pub(crate) struct Row {
    /// Name of the case; tools compare by it.
    pub(crate) case: String,
    /// CPU time of Envoy per request, microseconds.
    pub(crate) cpu_us: f64,
    /// CPU time of bare Envoy divided by that of this case, measured in the same rounds: the
    /// share of bare Envoy's throughput that is left on a full core.
    pub(crate) fraction: f64,
    /// Standard error of `fraction`.
    pub(crate) stderr: f64,
    /// Median time to the answer, microseconds. Under load on a shared core: for comparison only.
    pub(crate) p50_us: f64,
}

impl Row {
    pub(crate) fn new(case: &str, cpu_us: Estimate, fraction: Estimate, p50_us: f64) -> Self {
        Self {
            case: case.to_owned(),
            cpu_us: cpu_us.mean,
            fraction: fraction.mean,
            stderr: fraction.stderr,
            p50_us,
        }
    }
}

/// Writes the results file and gives the Markdown table with its plot.
pub(crate) fn publish(rows: &[Row], file: &Path) -> Result<String> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(file, serde_json::to_vec_pretty(rows)?)?;
    let mut text = String::new();
    writeln!(
        text,
        "| case | CPU µs/request | fraction of bare | ± | p50 µs |"
    )?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: |")?;
    for Row {
        case,
        cpu_us,
        fraction,
        stderr,
        p50_us,
    } in rows
    {
        writeln!(
            text,
            "| {case} | {cpu_us:.1} | {fraction:.3} | {stderr:.3} | {p50_us:.0} |"
        )?;
    }
    writeln!(text)?;
    let widest = rows
        .iter()
        .map(|row| row.case.len())
        .max()
        .unwrap_or_default();
    let most = rows.iter().map(|row| row.fraction).fold(1.0, f64::max);
    for Row { case, fraction, .. } in rows {
        writeln!(
            text,
            "{case:>widest$} {} {fraction:.2}",
            bar(fraction / most)
        )?;
    }
    Ok(text)
}

/// A bar of up to 50 characters.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 50"
)]
fn bar(share: f64) -> String {
    "█".repeat((share.clamp(0.0, 1.0) * 50.0).round() as usize)
}
