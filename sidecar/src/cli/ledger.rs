//! `boltgate migrate`: the ledger itself.

use std::process::ExitCode;

use super::manage::report;
use super::{ConfigArgs, with_config};
use crate::adapters::ledger::{AnyLedger, Migration};
use crate::config::Config;
use crate::domain::ports::Ledger as _;

pub(super) async fn migrate(config: &ConfigArgs) -> ExitCode {
    with_config(config, async |config| report(to_latest(&config).await)).await
}

async fn to_latest(config: &Config) -> Result<String, String> {
    let opened = AnyLedger::open_observed(&config.ledger, Migration::ToLatest, |_| {}).await;
    let ledger = opened.map_err(|error| error.to_string())?;
    ledger.close().await;
    Ok("the ledger is up to date".to_owned())
}
