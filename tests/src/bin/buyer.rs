//! `buyer --url URL (--dev ADDRESS | --lnd HOST:PORT --tls-cert FILE --macaroon FILE)`: asks, is
//! told the price, pays, asks again with the token, and once more without paying again.
//!
//! Pays on the sidecar's embedded network (`--dev`) or from an LND node through `lncli`, which
//! must be in `$PATH`. Retries the first request for a minute, so that it may be started together
//! with everything else. Exit status 0 only if every step held.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use e2e::args::Args;
use e2e::eventually;
use e2e::http_client::Http;
use e2e::wallet::{Lncli, Wallet};

const USAGE: &str =
    "buyer --url URL (--dev ADDRESS | --lnd HOST:PORT --tls-cert FILE --macaroon FILE)";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = Args::from_env(USAGE);
    let url = args.value("--url")?.context(USAGE)?;
    let dev = args.value("--dev")?;
    let lnd = args.value("--lnd")?;
    let wallet = match (dev, lnd) {
        (Some(dev), None) => Wallet::Dev(resolve(&dev).await?),
        (None, Some(server)) => Wallet::Lnd(Lncli {
            program: "lncli".into(),
            server,
            tls_cert: args.value("--tls-cert")?.context(USAGE)?.into(),
            macaroon: args.value("--macaroon")?.context(USAGE)?.into(),
        }),
        _ => bail!(USAGE),
    };
    args.finish()?;
    let rest = url
        .strip_prefix("http://")
        .context("the URL must begin with http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (http, path) = (
        Http::new(resolve(authority).await?).host(authority),
        format!("/{path}"),
    );

    let refused = eventually("a demand for payment", Duration::from_secs(60), || async {
        let answer = http.get(&path).send().await?;
        ensure!(answer.status == 402, "{}: {}", answer.status, answer.text());
        Ok(answer)
    })
    .await?;
    let challenge = refused
        .challenges()
        .into_iter()
        .next_back()
        .context("no challenge")?;
    let price = challenge.check()?;
    println!("buyer: {url} costs {} sat", price.div_ceil(1000));
    // A node that has just started may not know its own channel yet. Trying one invoice again is
    // safe: no node pays the same hash twice.
    let preimage = eventually("the payment", Duration::from_secs(30), || {
        wallet.pay(&challenge.invoice)
    })
    .await?;
    println!("buyer: paid");
    let token = challenge.paid(&preimage);
    for time in ["with the token", "again, without paying again"] {
        let served = http.get(&path).token(&token).send().await?;
        ensure!(
            served.status == 200,
            "{time}: {}: {}",
            served.status,
            served.text()
        );
        println!("buyer: {time}: {} {}", served.status, served.text().trim());
    }
    Ok(())
}

async fn resolve(authority: &str) -> anyhow::Result<std::net::SocketAddr> {
    let authority = authority.trim_start_matches("http://");
    let named = if authority.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    let mut addresses = tokio::net::lookup_host(&named)
        .await
        .with_context(|| format!("cannot find {authority}"))?;
    addresses
        .next()
        .with_context(|| format!("{authority} has no address"))
}
