//! `weather --listen ADDRESS [--counts ADDRESS]`: the example API that the demo sells.
//!
//! `/v1/forecast` (JSON), `/v1/stream` (server-sent events), `/v1/health`. What has arrived is told
//! by `GET /_counts` on the second address, never on the first.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use e2e::args::Args;
use e2e::upstream::{Record, counts, service};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::from_env("weather --listen ADDRESS [--counts ADDRESS]");
    let listen: SocketAddr = args
        .value("--listen")?
        .unwrap_or("127.0.0.1:8080".into())
        .parse()?;
    let side = args
        .value("--counts")?
        .map(|address| address.parse::<SocketAddr>())
        .transpose()?;
    args.finish()?;
    let record = Record::default();
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    eprintln!("weather: http://{listen}/v1/forecast, /v1/stream and /v1/health");
    let sold = axum::serve(listener, service(&record)).into_future();
    if let Some(side) = side {
        let listener = TcpListener::bind(side)
            .await
            .with_context(|| format!("cannot listen on {side}"))?;
        eprintln!("weather: counts on http://{side}/_counts");
        tokio::spawn(axum::serve(listener, counts(&record)).into_future());
    }
    tokio::select! {
        ended = sold => bail!("stopped serving: {ended:?}"),
        signal = e2e::args::end_signal() => signal,
    }
}
