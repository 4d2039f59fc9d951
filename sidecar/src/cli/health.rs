//! `boltgate healthcheck`, for images without a shell.

use std::process::ExitCode;

use clap::Args;

use super::fail;
use crate::http::client;

#[derive(Args, Debug)]
pub(super) struct HealthArgs {
    /// Where to ask.
    #[arg(
        long,
        env = "BOLTGATE_HEALTH_URL",
        default_value = "http://127.0.0.1:9403/readyz"
    )]
    url: String,
}

pub(super) async fn check(args: &HealthArgs) -> ExitCode {
    match client::request(&args.url, None).await {
        Ok(answer) if answer.status == 200 => super::print(&answer.body),
        Ok(answer) => fail(format!(
            "status {}: {}",
            answer.status,
            answer.body.trim_end()
        )),
        Err(error) => fail(error),
    }
}
