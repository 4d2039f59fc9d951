//! Logs.

use tracing::Metadata;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::{LogConfig, LogFormat};

/// The database driver: at level debug it tells the parameters of every statement, among them
/// master keys and return invoices.
const TELLS_SECRETS: &str = "tokio_postgres";

/// Sends log lines to standard error. The second call in a process does nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(true);
    let lines = match config.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(false).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_be_told))
        .with(lines)
        .try_init();
}

/// Whatever the configured level is.
fn may_be_told(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with(TELLS_SECRETS)
}
