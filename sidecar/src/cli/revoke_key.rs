//! `boltgate keys revoke`: the end of a key that somebody else may know.

use std::process::ExitCode;

use clap::Args;

use super::manage::{open, report};
use super::{ConfigArgs, with_config};
use crate::adapters::system::SystemClock;
use crate::config::Config;
use crate::domain::ledger::GenerationUse;
use crate::domain::ports::{Clock as _, Ledger as _};

#[derive(Args, Debug)]
pub(super) struct RevokeKeyArgs {
    /// Number of a retired generation, as `keys list` shows it.
    #[arg(long, value_name = "N")]
    generation: u8,
    /// Do it. Without this, only what would be lost is told.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) async fn execute(args: RevokeKeyArgs) -> ExitCode {
    let (id, yes) = (args.generation, args.yes);
    with_config(&args.config, async |config| {
        report(revoke(id, yes, &config).await)
    })
    .await
}

async fn revoke(id: u8, yes: bool, config: &Config) -> Result<String, String> {
    let ledger = open(config).await?;
    let clock = SystemClock::new();
    let found = if yes {
        ledger.revoke_generation(id, clock.unix_millis()).await
    } else {
        ledger.generation_use(id, clock.now()).await
    };
    ledger.close().await;
    let GenerationUse {
        sold,
        unpaid,
        sessions,
    } = found.map_err(|error| error.to_string())?;
    if yes {
        Ok(format!(
            "generation {id} is revoked, at every filter within 5 s: {sold} sold tokens that were \
             still valid are refused, {unpaid} unpaid offers are cancelled within a minute, and \
             {sessions} sessions need a fresh challenge for each request"
        ))
    } else {
        Err(format!(
            "nothing was changed: with generation {id}, {sold} sold tokens that are still valid \
             would be refused for ever, {unpaid} unpaid offers be cancelled and {sessions} sessions \
             need a fresh challenge for each request. Repeat with --yes"
        ))
    }
}
