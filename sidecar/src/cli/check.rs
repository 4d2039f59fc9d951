//! `boltgate check-config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use protocol::policy::PluginConfig;

use super::{ConfigArgs, print, refuse};

#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    sidecar: ConfigArgs,
    /// JSON file with the filter's plugin configuration.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
}

pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let mut errors = Vec::new();
    if args.sidecar.config.is_some() || args.plugin.is_none() {
        match args.sidecar.load_as(true) {
            Ok(config) => {
                for warning in &config.warnings {
                    eprintln!("boltgate: warning: {warning}");
                }
            }
            Err(problems) => errors.extend(problems.iter().map(ToString::to_string)),
        }
    }
    if let Some(path) = &args.plugin {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match std::fs::read(path) {
            Err(error) => errors.push(named(&error)),
            Ok(text) => {
                if let Err(problems) = PluginConfig::from_json(&text) {
                    errors.extend(problems.iter().map(|problem| named(problem)));
                }
            }
        }
    }
    if errors.is_empty() {
        print("the configuration is good")
    } else {
        refuse(errors)
    }
}
