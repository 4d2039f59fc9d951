//! `cargo xtask bench`: what each way of gating costs Envoy, as a fraction of bare Envoy, and
//! further figures.
//!
//! One run, one machine: all cases take turns in random order, round after round, so that a busy
//! neighbour hits all alike. What counts is the CPU time of Envoy per request, or per event of a
//! stream, and of that the ratio to bare Envoy in the same round.

mod books;
mod cases;
mod cpu;
mod envoy;
mod figures;
mod load;
mod mint;
mod options;
mod report;
mod sse;
mod stage;
mod stats;
mod subjects;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use e2e::paths;
use rand::seq::SliceRandom as _;

use crate::{
    cases::{OF, ORDER, reference},
    load::median,
    options::Options,
    report::{Row, publish},
    stage::Stage,
    stats::estimate,
    subjects::OTHER_CORE,
};

const CONNECTIONS: usize = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::from_args()?;
    cpu::pin_self(OTHER_CORE)?;
    let folder = paths::fresh_folder("bench")?;
    if options.wants_cases() {
        measure(&folder, &options).await?;
    }
    figures::print(&folder, &options).await
}

/// The table.
async fn measure(folder: &Path, options: &Options) -> Result<()> {
    eprintln!("starting the Envoys and the sidecars");
    let mut stage = Stage::start(folder, options).await?;
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 0..options.rounds {
        eprint!("\rround {} of {}", round + 1, options.rounds);
        stage.cases.shuffle(&mut rand::rng());
        let mut cpu_us = BTreeMap::new();
        for case in &mut stage.cases {
            case.warm(&mut stage.mints, options.requests).await?;
            let requests = case.requests(&mut stage.mints, options.requests)?;
            let before = cpu::nanoseconds(case.pid)?;
            let done = case.send(requests).await;
            let mut done = done.with_context(|| case.name.clone())?;
            let spent = cpu::nanoseconds(case.pid)? - before;
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a short round")]
            let per_request = spent as f64 / 1_000.0 / done.answers as f64;
            cpu_us.insert(case.name.clone(), per_request);
            let sample = samples.entry(case.name.clone()).or_default();
            sample.cpu_us.push(per_request);
            sample
                .p50_us
                .push(median(&mut done.latencies).as_secs_f64() * 1e6);
        }
        for (name, own) in &cpu_us {
            let whole = cpu_us.get(reference(name));
            let whole = whole.with_context(|| format!("{} was not measured", reference(name)))?;
            let sample = samples.entry(name.clone()).or_default();
            sample.fraction.push(whole / own);
        }
    }
    eprintln!();
    stage.check_books().await?;
    let rows: Vec<Row> = ORDER
        .iter()
        .flat_map(|case| {
            samples
                .iter()
                .filter(move |(name, _)| name.split(OF).next() == Some(case))
        })
        .map(|(name, s)| {
            Row::new(
                name,
                estimate(&s.cpu_us),
                estimate(&s.fraction),
                estimate(&s.p50_us).mean,
            )
        })
        .collect();
    let file = paths::target()?.join("bench/results.json");
    println!("{}", publish(&rows, &file)?);
    println!(
        "filter memory: {:.1} MB per worker",
        stage.filter_bytes_per_worker()? / 1e6
    );
    println!("results: {}", file.display());
    Ok(())
}

#[derive(Default)]
struct Samples {
    cpu_us: Vec<f64>,
    fraction: Vec<f64>,
    p50_us: Vec<f64>,
}
