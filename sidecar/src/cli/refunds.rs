//! `boltgate refunds`: what a human must look at. The running sidecar pays; this only changes the
//! ledger.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Subcommand;
use protocol::encoding::hex_encode;
use protocol::hash::PaymentHash;

use super::manage::{open, report};
use super::{ConfigArgs, with_config};
use crate::adapters::ledger::AnyLedger;
use crate::adapters::lightning::dev::DevNode;
use crate::adapters::lightning::lnd::LndNode;
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::app::refunds::{accept, replace, take_over};
use crate::config::{Config, LightningConfig};
use crate::domain::payout::{RefundWork, WorkerId};
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
    /// Let this configuration's node pay a refund of another node, to which it was never handed.
    TakeOver {
        /// The session, 64 hexadecimal digits, as `refunds list` shows it.
        #[arg(long, value_name = "HEX")]
        session: PaymentHash,
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Take what the node has paid to the invoice of a failed refund for the refund.
    Accept {
        /// The session, 64 hexadecimal digits, as `refunds list` shows it.
        #[arg(long, value_name = "HEX")]
        session: PaymentHash,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

/// What is to be done about one refund.
enum Wish<'a> {
    Pay(&'a str),
    TakeOver,
    Accept,
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
                report(fulfil(&config, session, Wish::Pay(invoice.trim())).await)
            })
            .await
        }
        RefundsCommand::TakeOver { session, config } => {
            with_config(&config, async |config| {
                report(fulfil(&config, session, Wish::TakeOver).await)
            })
            .await
        }
        RefundsCommand::Accept { session, config } => {
            with_config(&config, async |config| {
                report(fulfil(&config, session, Wish::Accept).await)
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
        "{:<64} {:>9} {:>12} {:>8} {:>8} {:>12}  reason",
        "session", "state", "sats", "age", "attempts", "node"
    )];
    lines.extend(refunds.iter().map(|work| line(work, now)));
    Ok(lines.join("\n"))
}

fn line(work: &RefundWork, now: u64) -> String {
    let refund = &work.refund;
    format!(
        "{} {:>9} {:>12} {:>8} {:>8} {:.12}  {}",
        refund.session_id,
        refund.state.as_str(),
        refund.amount.get(),
        age(now.saturating_sub(refund.created_ms) / 1_000),
        refund.attempts,
        hex_encode(&refund.node.0),
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

async fn fulfil(config: &Config, session: PaymentHash, wish: Wish<'_>) -> Result<String, String> {
    let ledger = open(config).await?;
    let clock = Arc::new(SystemClock::new());
    let done = match config.lightning.clone() {
        LightningConfig::Dev {
            path,
            invoice_delay,
            ..
        } => {
            let node = DevNode::open(&path, invoice_delay, clock, Arc::new(SystemRandom));
            let node = node.map_err(|error| error.to_string())?;
            fulfil_by(&ledger, &node, session, wish).await
        }
        LightningConfig::Lnd(settings) => {
            let node = LndNode::new(settings, clock).map_err(|error| error.to_string())?;
            fulfil_by(&ledger, &node, session, wish).await
        }
    };
    ledger.close().await;
    done
}

async fn fulfil_by<N: Lightning>(
    ledger: &AnyLedger,
    node: &N,
    session: PaymentHash,
    wish: Wish<'_>,
) -> Result<String, String> {
    let said = match wish {
        Wish::Pay(invoice) => {
            let now = SystemClock::new().now();
            replace(ledger, node, session, invoice, now)
                .await
                .map(|work| due(&work, "is due again"))
        }
        Wish::TakeOver => take_over(ledger, node, session)
            .await
            .map(|work| due(&work, "is of this node now")),
        Wish::Accept => {
            let me = WorkerId::random(&SystemRandom).map_err(|error| error.to_string())?;
            accept(ledger, node, session, me)
                .await
                .map(|sent| format!("the refund is paid: {sent} satoshi"))
        }
    };
    said.map_err(|error| error.to_string())
}

fn due(work: &RefundWork, what: &str) -> String {
    let amount = work.refund.amount;
    format!("the refund of {amount} satoshi {what}; the running sidecar pays it within seconds")
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
