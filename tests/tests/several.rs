//! Two Envoys and two sidecars on one PostgreSQL, busy, while a sidecar is killed: whatever was
//! paid for is served once, and each balance adds up to the satoshi.

#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::ensure;
use e2e::envoy::{Envoy, EnvoyConfig, merge};
use e2e::eventually;
use e2e::gate::{BEARER, by_every_scheme, default_plugin};
use e2e::http_client::Http;
use e2e::paths;
use e2e::payment::{Session, offer_of, present};
use e2e::sidecar::{Node, Sidecar};
use e2e::unpaid::{sidecar_without_limits, without_limits};
use e2e::upstream::Upstream;
use e2e::wallet::Wallet;
use serde_json::json;
use tokio::task::JoinSet;

const FORECAST: &str = "/v1/forecast";
const DEPOSIT: usize = 500;
const SESSIONS: usize = 4;
/// Requests of each session, one after the other at each of the Envoys.
const REQUESTS: usize = 200;
const CHARGES: usize = 60;
/// Clients that present each charge, half of them at each Envoy.
const PRESENTERS: usize = 4;
const LONGEST: Duration = Duration::from_secs(120);

struct Street {
    envoys: [Envoy; 2],
    sidecars: [Sidecar; 2],
    upstream: Upstream,
    /// At the sidecar that stays.
    wallet: Wallet,
    _database: test_postgres::Database,
}

impl Street {
    async fn start() -> anyhow::Result<Self> {
        let folder = paths::fresh_folder("several")?;
        let database = tokio::task::spawn_blocking(test_postgres::database).await??;
        let upstream = Upstream::start()?;
        let network = folder.join("network.db");
        let prepare = |name: &str| {
            let folder = folder.join(name);
            std::fs::create_dir(&folder)?;
            let mut over = sidecar_without_limits();
            let ledger = json!({ "postgres": { "url": database.url() } });
            // Both have the same node.
            let lightning = json!({ "dev": { "path": network } });
            merge(
                &mut over,
                json!({ "ledger": ledger, "lightning": lightning }),
            );
            Sidecar::prepare(&folder, Node::Dev, BEARER, over)
        };
        let mut sidecars = [prepare("one")?, prepare("other")?];
        for sidecar in &mut sidecars {
            sidecar.start().await?;
            sidecar.ready().await?;
        }
        let mut plugin = default_plugin();
        by_every_scheme(&mut plugin, DEPOSIT);
        without_limits(&mut plugin);
        let [one, other] = sidecars.each_ref().map(Sidecar::address);
        let mut config = EnvoyConfig::new(&plugin, upstream.address(), one, BEARER)?;
        config.second_sidecar = Some(other);
        let envoys = [
            Envoy::start(&folder.join("one"), config.clone()).await?,
            Envoy::start(&folder.join("other"), config).await?,
        ];
        let street = Self {
            envoys,
            wallet: Wallet::Dev(sidecars[1].dev_address()),
            sidecars,
            upstream,
            _database: database,
        };
        for at in 0..2 {
            eventually("the gate sells", Duration::from_secs(20), || async {
                let answer = street.http(at).get(FORECAST).send().await?;
                offer_of(&answer, "session").map(drop)
            })
            .await?;
        }
        Ok(street)
    }

    fn http(&self, at: usize) -> Http {
        Http::new(self.envoys[at % 2].address())
    }

    async fn session(&self) -> anyhow::Result<Session> {
        let answer = self.http(0).get(FORECAST).send().await?;
        let invoice = self.wallet.return_invoice().await?;
        Session::deposit(&answer, &self.wallet, &invoice).await
    }

    /// A paid charge: its hash, and what presents it.
    async fn charge(&self) -> anyhow::Result<(String, String)> {
        let answer = self.http(1).get(FORECAST).send().await?;
        let offer = offer_of(&answer, "charge")?;
        let preimage = offer.pay(&self.wallet).await?;
        let authorization = offer.credential(&json!({ "preimage": preimage }));
        Ok((offer.payment_hash()?.to_owned(), authorization))
    }
}

/// Comes again until it is told something final: whether it was served.
async fn served(http: &Http, authorization: &str) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        let answer = present(http, FORECAST, authorization).await?;
        match answer.status {
            200 => return Ok(true),
            402 => return Ok(false),
            429 | 503 => {}
            status => panic!("{status} {}", answer.text()),
        }
        ensure!(begun.elapsed() < LONGEST, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_killed_under_load_loses_nothing_and_sells_nothing_twice() -> anyhow::Result<()> {
    let mut street = Street::start().await?;
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        let session = street.session().await?;
        assert!(served(&street.http(number), &session.open()).await?);
        sessions.push(session);
    }
    let mut charges = Vec::new();
    for _ in 0..CHARGES {
        charges.push(street.charge().await?);
    }
    street.upstream.clear();

    // How often each was served, by session id or payment hash.
    let mut buyers: JoinSet<anyhow::Result<(String, usize)>> = JoinSet::new();
    for session in &sessions {
        for at in 0..2 {
            let (http, bearer) = (street.http(at), session.bearer()?);
            let id = session.id()?.to_owned();
            buyers.spawn(async move {
                for number in 0..REQUESTS {
                    ensure!(served(&http, &bearer).await?, "request {number} of {id}");
                }
                Ok((id, REQUESTS))
            });
        }
    }
    for at in 0..PRESENTERS {
        let (http, charges) = (street.http(at), charges.clone());
        for (hash, authorization) in charges {
            let http = http.clone();
            buyers.spawn(async move {
                let served = served(&http, &authorization).await?;
                Ok((hash, usize::from(served)))
            });
        }
    }
    let half = SESSIONS * REQUESTS;
    eventually("half of it is served", LONGEST, || async {
        let count = street.upstream.count();
        ensure!(count > half, "{count} served");
        Ok(())
    })
    .await?;
    street.sidecars[0].kill();
    let mut told: HashMap<String, usize> = HashMap::new();
    while let Some(buyer) = buyers.join_next().await {
        let (what, served) = buyer??;
        *told.entry(what).or_default() += served;
    }

    let mut arrived: HashMap<String, usize> = HashMap::new();
    for request in street.upstream.requests() {
        let session = request.header("x-boltgate-session-id");
        let what = match session {
            "" => request.header("x-boltgate-payment-hash"),
            id => id,
        };
        *arrived.entry(what.to_owned()).or_default() += 1;
    }
    assert_eq!(told, arrived);
    for (hash, _) in &charges {
        assert_eq!(arrived.get(hash), Some(&1), "{hash} buys one response");
    }
    for session in &sessions {
        assert_eq!(arrived.get(session.id()?), Some(&(2 * REQUESTS)));
        let rest = (DEPOSIT - 2 * REQUESTS - 1) as u64;
        let answer = eventually("it is closed", Duration::from_secs(20), || async {
            let answer = present(&street.http(1), FORECAST, &session.close()?).await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            Ok(answer)
        })
        .await?;
        assert_eq!(answer.json()["refundSats"], json!(rest));
        eventually("the rest arrives", Duration::from_secs(20), || async {
            let received = street.wallet.received(&session.return_invoice).await?;
            ensure!(received == Some(rest * 1_000), "{received:?}");
            Ok(())
        })
        .await?;
    }
    // It comes back, and whoever looks finds the same books.
    street.sidecars[0].start().await?;
    let mut books = Vec::new();
    for sidecar in &street.sidecars {
        sidecar.command(&["ledger", "check"]).await?;
        books.push(sidecar.command(&["ledger", "export"]).await?);
    }
    assert_eq!(books[0], books[1]);
    assert_eq!(books[0].matches("\nrefund,").count(), SESSIONS);
    Ok(())
}
