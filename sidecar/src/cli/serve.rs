//! `boltgate run`.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::fail;
use crate::config::Config;
use crate::telemetry;

pub(super) async fn run(config: Config) -> ExitCode {
    telemetry::start(&config.log);
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(terminate), Ok(interrupt)) = signals else {
        return fail("signals cannot be heard");
    };
    match crate::run(config, first_of(terminate, interrupt)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the sidecar cannot start");
            fail(error)
        }
    }
}

async fn first_of(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
