//! `boltgate migrate` and `boltgate ledger`: the ledger as a whole.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use protocol::time::UnixSeconds;
use serde_json::json;

use super::manage::report;
use super::{ConfigArgs, fail, print, with_config};
use crate::adapters::ledger::{AnyLedger, Migration};
use crate::config::Config;
use crate::domain::books::{Entry, EntryKind, Place};
use crate::domain::ports::{BooksLedger as _, Ledger as _};

/// Most lines of one kind of violation.
const MOST: u32 = 1_000;
/// Entries that are read at a time.
const PAGE: u32 = 10_000;

#[derive(Debug, Subcommand)]
pub(super) enum LedgerCommand {
    /// Prove that the ledger adds up: one line for each thing that does not, and exit status 1.
    /// Changes nothing; the sidecar may be running.
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print payments that have arrived and that nobody has presented. With a deposit its buyer can
    /// still open or top up a session; a charge is of no use once its challenge has expired.
    Unclaimed {
        /// Form of the lines.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print sales, sessions and refunds for the books.
    Export {
        /// Form of the lines.
        #[arg(long, value_enum, default_value_t = Format::Csv)]
        format: Format,
        /// Only what happened then or later, such as 2026-03-01T00:00:00Z.
        #[arg(long, value_name = "TIME", value_parser = time)]
        since: Option<UnixSeconds>,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values with a line of names.
    Csv,
    /// One JSON object in each line.
    Jsonl,
}

fn time(text: &str) -> Result<UnixSeconds, String> {
    UnixSeconds::from_rfc3339(text).ok_or("must be UTC such as 2026-03-01T00:00:00Z".to_owned())
}

pub(super) async fn migrate(config: &ConfigArgs) -> ExitCode {
    with_config(config, async |config| report(to_latest(&config).await)).await
}

async fn to_latest(config: &Config) -> Result<String, String> {
    let ledger = open(config, Migration::ToLatest).await?;
    ledger.close().await;
    Ok("the ledger is up to date".to_owned())
}

async fn open(config: &Config, migration: Migration) -> Result<AnyLedger, String> {
    let opened = AnyLedger::open_observed(&config.ledger, migration, |_| {}).await;
    opened.map_err(|error| error.to_string())
}

pub(super) async fn execute(command: LedgerCommand) -> ExitCode {
    match command {
        LedgerCommand::Check { config } => {
            with_config(&config, async |config| match check(&config).await {
                Ok(lines) if lines.is_empty() => print("the ledger adds up"),
                Ok(lines) => {
                    println!("{}", lines.join("\n"));
                    fail(format!("{} things do not add up", lines.len()))
                }
                Err(error) => fail(error),
            })
            .await
        }
        LedgerCommand::Export {
            format,
            since,
            config,
        } => {
            let since = since.unwrap_or_default();
            print_entries(&config, &EntryKind::BOOKS, format, since).await
        }
        LedgerCommand::Unclaimed { format, config } => {
            let since = UnixSeconds::default();
            print_entries(&config, &EntryKind::UNCLAIMED, format, since).await
        }
    }
}

async fn print_entries(
    config: &ConfigArgs,
    kinds: &[EntryKind],
    format: Format,
    since: UnixSeconds,
) -> ExitCode {
    with_config(config, async |config| {
        match export(&config, kinds, format, since).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error),
        }
    })
    .await
}

/// What is there already, and as it is: looking must change nothing.
async fn open_existing(config: &Config) -> Result<AnyLedger, String> {
    super::manage::must_exist(config)?;
    open(config, Migration::Never).await
}

async fn check(config: &Config) -> Result<Vec<String>, String> {
    let ledger = open_existing(config).await?;
    let found = ledger.violations(MOST).await;
    ledger.close().await;
    let found = found.map_err(|error| error.to_string())?;
    Ok(found.iter().map(ToString::to_string).collect())
}

async fn export(
    config: &Config,
    kinds: &[EntryKind],
    format: Format,
    since: UnixSeconds,
) -> Result<(), String> {
    let ledger = open_existing(config).await?;
    let mut out = BufWriter::new(io::stdout());
    let said = |error: io::Error| error.to_string();
    if let Format::Csv = format {
        writeln!(out, "{COLUMNS}").map_err(said)?;
    }
    for kind in kinds {
        let mut place = Place::since(*kind, since);
        loop {
            let page = ledger.entries(*kind, place, PAGE).await;
            let page = page.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else { break };
            place = last.place;
            for entry in &page {
                let line = match format {
                    Format::Csv => csv(entry),
                    Format::Jsonl => json_line(entry),
                };
                writeln!(out, "{line}").map_err(said)?;
            }
        }
    }
    ledger.close().await;
    out.flush().map_err(said)
}

const COLUMNS: &str = "kind,time,id,service,state,amount_msat,spent_msat,sent_msat,fee_msat";

/// Names of services have letters, digits, `-` and `_` only, so nothing needs quotes.
fn csv(entry: &Entry) -> String {
    let mut line = format!(
        "{},{},{},{},{},{}",
        entry.kind.as_str(),
        entry.at.to_rfc3339(),
        entry.id,
        entry.service,
        entry.state,
        entry.amount_msat
    );
    for amount in [entry.spent_msat, entry.sent_msat, entry.fee_msat] {
        line.push(',');
        if let Some(amount) = amount {
            let _ = write!(line, "{amount}");
        }
    }
    line
}

fn json_line(entry: &Entry) -> String {
    json!({
        "kind": entry.kind.as_str(),
        "time": entry.at.to_rfc3339(),
        "id": entry.id.to_string(),
        "service": entry.service,
        "state": entry.state,
        "amount_msat": entry.amount_msat,
        "spent_msat": entry.spent_msat,
        "sent_msat": entry.sent_msat,
        "fee_msat": entry.fee_msat,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use protocol::hash::PaymentHash;

    use super::*;

    #[test]
    fn an_entry_has_as_many_values_as_there_are_columns() {
        let id = PaymentHash([7; 32]);
        let entry = Entry {
            kind: EntryKind::Refund,
            at: UnixSeconds(1_773_576_300),
            id,
            service: "weather".to_owned(),
            state: "succeeded".to_owned(),
            amount_msat: 90_000,
            spent_msat: None,
            sent_msat: Some(90_000),
            fee_msat: Some(0),
            place: Place {
                key: 0,
                after: Some(id),
            },
        };
        let line = csv(&entry);
        let expected = format!("refund,2026-03-15T12:05:00Z,{id},weather,succeeded,90000,,90000,0");
        assert_eq!(line, expected);
        assert_eq!(line.split(',').count(), COLUMNS.split(',').count());
        let read: serde_json::Value = serde_json::from_str(&json_line(&entry)).unwrap();
        for column in COLUMNS.split(',') {
            assert!(read.get(column).is_some(), "{column}");
        }
    }

    #[test]
    fn times_are_utc_to_the_second() {
        assert_eq!(time("1970-01-02T00:00:00Z"), Ok(UnixSeconds(86_400)));
        assert!(time("yesterday").is_err());
    }
}
