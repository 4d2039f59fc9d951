//! `boltgate refunds`: what a human must look at. The running sidecar pays; this only changes the
//! ledger.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use protocol::hash::PaymentHash;

use super::manage::{open, report};
use super::{ConfigArgs, with_config};
use crate::adapters::ledger::AnyLedger;
use crate::adapters::lightning::dev::DevNode;
use crate::adapters::lightning::lnd::LndNode;
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::app::refunds::replace;
use crate::config::{Config, LightningConfig};
use crate::domain::payout::RefundWork;
use crate::domain::ports::{Clock, Ledger as _, Lightning, RefundLedger as _};

/// Most lines of a list.
const MOST: u32 = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum RefundsCommand {
    /// Show the refunds that are not paid, those that need a human first.
    List {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Let the running sidecar pay a failed refund to another invoice.
    Pay {
        /// The session, 64 hexadecimal digits, as `refunds list` shows it.
        #[arg(long, value_name = "HEX")]
        session: PaymentHash,
        /// The buyer's new invoice: without amount, or for exactly the refund. With an amount,
        /// routing costs are all yours.
        #[arg(long, value_name = "BOLT11")]
        invoice: String,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) async fn execute(command: RefundsCommand) -> ExitCode {
    match command {
        RefundsCommand::List { config } => {
            with_config(&config, async |config| report(list(&config).await)).await
        }
        RefundsCommand::Pay {
            session,
            invoice,
            config,
        } => {
            with_config(&config, async |config| {
                report(pay(&config, session, invoice.trim()).await)
            })
            .await
        }
    }
}

async fn list(config: &Config) -> Result<String, String> {
    let ledger = open(config).await?;
    let listed = ledger.unpaid_refunds(MOST).await;
    ledger.close().await;
    let refunds = listed.map_err(|error| error.to_string())?;
    if refunds.is_empty() {
        return Ok("every refund is paid".to_owned());
    }
    let now = SystemClock::new().unix_millis();
    let mut lines = vec![format!(
        "{:<64} {:>9} {:>12} {:>8} {:>8}  reason",
        "session", "state", "sats", "age", "attempts"
    )];
    lines.extend(refunds.iter().map(|work| line(work, now)));
    Ok(lines.join("\n"))
}

fn line(work: &RefundWork, now: u64) -> String {
    let refund = &work.refund;
    format!(
        "{} {:>9} {:>12} {:>8} {:>8}  {}",
        refund.session_id,
        refund.state.as_str(),
        refund.amount.get(),
        age(now.saturating_sub(refund.created_ms) / 1_000),
        refund.attempts,
        refund.failure.as_deref().unwrap_or("-"),
    )
}

/// Two units at most are enough to see how bad it is.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

async fn pay(config: &Config, session: PaymentHash, invoice: &str) -> Result<String, String> {
    let ledger = open(config).await?;
    let clock = Arc::new(SystemClock::new());
    let paid = match config.lightning.clone() {
        LightningConfig::Dev {
            path,
            invoice_delay,
            ..
        } => {
            let node = DevNode::open(&path, invoice_delay, clock, Arc::new(SystemRandom));
            let node = node.map_err(|error| error.to_string())?;
            pay_by(&ledger, &node, session, invoice).await
        }
        LightningConfig::Lnd(settings) => {
            let node = LndNode::new(settings, clock).map_err(|error| error.to_string())?;
            pay_by(&ledger, &node, session, invoice).await
        }
    };
    ledger.close().await;
    paid
}

async fn pay_by<N: Lightning>(
    ledger: &AnyLedger,
    node: &N,
    session: PaymentHash,
    invoice: &str,
) -> Result<String, String> {
    let now = SystemClock::new().now();
    let work = replace(ledger, node, session, invoice, now).await;
    let work = work.map_err(|error| error.to_string())?;
    Ok(format!(
        "the refund of {} satoshi is due again; the running sidecar pays it within seconds",
        work.refund.amount
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [5, 65, 3_700, 100_000].map(age);
        assert_eq!(ages, ["5s", "1m5s", "1h1m", "1d3h"]);
    }
}
