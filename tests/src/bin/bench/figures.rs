//! Further figures, one by one: not fractions of bare Envoy, and not in the table.

mod claims;
mod resume;
mod sessions;

use std::{fs, path::Path};

use anyhow::Result;
use e2e::paths;
use serde::Serialize;

use crate::options::Options;

/// What can be asked for.
pub(crate) const NAMES: [&str; 4] = [
    "claims-sqlite",
    "claims-postgres",
    "resume",
    "sessions-100000",
];

/// One line of `target/bench/figures.json`.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    /// What was measured; tools compare by it.
    figure: String,
    value: f64,
    unit: &'static str,
}

impl Figure {
    fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            figure: figure.into(),
            value,
            unit,
        }
    }
}

/// Measures those that are wanted, prints them and writes them down.
pub(crate) async fn print(folder: &Path, options: &Options) -> Result<()> {
    let mut figures = vec![];
    for name in NAMES {
        if !options.wants_figure(name) {
            continue;
        }
        eprintln!("measuring {name}");
        let measured = match name {
            "claims-sqlite" => claims::sqlite(folder).await?,
            "claims-postgres" => claims::postgres().await?,
            "resume" => resume::measure(folder).await?,
            _ => sessions::measure(folder, options.requests).await?,
        };
        for Figure {
            figure,
            value,
            unit,
        } in &measured
        {
            println!("{figure}: {value:.1} {unit}");
        }
        figures.extend(measured);
    }
    if !figures.is_empty() {
        let file = paths::target()?.join("bench/figures.json");
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, serde_json::to_vec_pretty(&figures)?)?;
        println!("figures: {}", file.display());
    }
    Ok(())
}
