//! The command line.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::{
    CONNECTIONS,
    cases::{OF, ORDER, reference},
    figures,
};

/// In `--only`: all cases.
const CASES: &str = "cases";
/// In `--only`: all further figures.
const FIGURES: &str = "figures";

/// The command line.
pub(crate) struct Options {
    pub(crate) rounds: usize,
    /// Requests of a round.
    pub(crate) requests: usize,
    /// Names of cases and figures; empty is all.
    only: Vec<String>,
    /// Other builds of the filter, measured beside this one.
    pub(crate) against: Vec<PathBuf>,
}

impl Options {
    pub(crate) fn from_args() -> Result<Self> {
        let mut options = Self {
            rounds: 40,
            requests: 3_000,
            only: vec![],
            against: vec![],
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--requests" => options.requests = value.parse()?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--against" => options.against.push(value.into()),
                _ => anyhow::bail!(
                    "unknown option {arg}: --rounds N, --requests N, --only NAME,NAME, --against FILTER.wasm"
                ),
            }
        }
        let is_known = |name: &String| {
            [CASES, FIGURES].contains(&&**name)
                || ORDER.contains(&&**name)
                || figures::NAMES.contains(&&**name)
        };
        if let Some(unknown) = options.only.iter().find(|name| !is_known(name)) {
            anyhow::bail!(
                "no case or figure {unknown}: {CASES} (that is {}), {FIGURES} (that is {})",
                ORDER.join(", "),
                figures::NAMES.join(", ")
            );
        }
        ensure!(
            options.rounds >= 5 && options.requests >= CONNECTIONS,
            "too little to say anything"
        );
        Ok(options)
    }

    /// Whether a case is to be measured. What others are compared with always is.
    pub(crate) fn wants(&self, case: &str) -> bool {
        let name = case.split(OF).next().unwrap_or(case);
        let is_named = |name: &str| self.only.iter().any(|only| only == name);
        self.only.is_empty()
            || is_named(CASES)
            || is_named(name)
            || ORDER
                .iter()
                .any(|one| reference(one) == name && is_named(one))
    }

    /// Some case is to be measured.
    pub(crate) fn wants_cases(&self) -> bool {
        ORDER.iter().any(|case| self.wants(case))
    }

    /// Whether one of the further figures is to be measured.
    pub(crate) fn wants_figure(&self, figure: &str) -> bool {
        let is_named = |name: &str| self.only.iter().any(|only| only == name);
        self.only.is_empty() || is_named(FIGURES) || is_named(figure)
    }
}
