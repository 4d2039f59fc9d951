//! Made-up sessions and preimages, opens with preimages of others, and people who only ask: from
//! as many addresses as there are requests. Whoever has paid spends and is served all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{Builder, Gate, by_every_scheme};
use e2e::http_client::{Answer, Http};
use e2e::macaroon::hex;
use e2e::payment::{Offer, Session, offer_of};
use e2e::unpaid::{MARK, alone, none_arrived, sidecar_without_limits, without_limits};
use futures_util::stream::{self, StreamExt as _};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

const FORECAST: &str = "/v1/forecast";
const DEPOSIT: usize = 100_000;
const FLOOD: u32 = 12_000;
const AT_ONCE: usize = 200;
const CHARGES: u32 = 120;
/// Of those who have paid, at most one in so many is told to come again.
const SELDOM: u32 = 20;

/// Nobody comes from it twice.
fn address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let [_, a, b, c] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Of different neighbourhoods, too.
    format!("10.{c}.{b}.{a}")
}

async fn asked(http: &Http) -> anyhow::Result<Answer> {
    let address = address();
    eventually("the gate sells", Duration::from_secs(20), || async {
        let request = http.get(FORECAST).header("x-forwarded-for", &address);
        let answer = request.send().await?;
        offer_of(&answer, "session").map(|_| answer)
    })
    .await
}

/// Comes again when it is told to, and gives how often that was.
async fn served(http: &Http, from: &str, authorization: &str) -> anyhow::Result<u32> {
    let start = Instant::now();
    let mut told = 0;
    loop {
        let request = http.get(FORECAST).header("x-forwarded-for", from);
        let answer = request
            .header("authorization", authorization)
            .send()
            .await?;
        if answer.status == 200 {
            return Ok(told);
        }
        let may_come_again = answer.status == 503 && start.elapsed() < Duration::from_secs(10);
        ensure!(may_come_again, "{} {}", answer.status, answer.text());
        told += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What strangers show.
struct Loot {
    charge: Offer,
    deposit: Offer,
    /// Of a session that is open.
    session: String,
    /// A good one, of another payment than the one it is shown for.
    preimage: String,
}

impl Loot {
    /// What stranger number `number` presents, if anything.
    fn credential(&self, number: u32) -> Option<String> {
        let made_up = Sha256::digest(number.to_be_bytes());
        let preimage = hex(&made_up);
        let bearer = |id: &str, preimage: &str| {
            let payload = json!({ "action": "bearer", "sessionId": id, "preimage": preimage });
            Some(self.deposit.credential(&payload))
        };
        let open = |preimage: &str| {
            let payload = json!({ "action": "open", "preimage": preimage,
                                  "returnInvoice": "lnbcrt1" });
            Some(self.deposit.credential(&payload))
        };
        match number % 7 {
            // These two fit together, so that the ledger must be asked.
            0 | 1 => bearer(&hex(&Sha256::digest(made_up)), &preimage),
            2 => bearer(&self.session, &preimage),
            3 => open(&preimage),
            4 => open(&self.preimage),
            5 => Some(self.charge.credential(&json!({ "preimage": preimage }))),
            _ => None,
        }
    }
}

async fn flood(gate: &Gate, loot: &Loot) -> anyhow::Result<[u32; 3]> {
    let clients = [gate.http(), gate.h2()];
    let send = |number: u32| {
        let http = clients.get(number as usize % 2).unwrap_or(&clients[0]);
        let request = http.get(FORECAST).header(MARK, "1");
        let request = request.header("x-forwarded-for", address());
        match loot.credential(number) {
            Some(credential) => request.header("authorization", credential).send(),
            None => request.send(),
        }
    };
    let mut answers = stream::iter((0..FLOOD).map(send)).buffer_unordered(AT_ONCE);
    let mut told = [0; 3];
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        let kinds = [402, 429, 503];
        let kind = kinds.iter().position(|kind| *kind == answer.status);
        let kind = kind.with_context(|| format!("{} {}", answer.status, answer.text()))?;
        if let Some(count) = told.get_mut(kind) {
            *count += 1;
        }
    }
    Ok(told)
}

/// Does `one` thing after the other until it is told to stop or there is nothing left; gives how
/// many, and how often somebody was told to come again.
fn busy<F>(
    stop: &Arc<AtomicBool>,
    mut one: impl FnMut() -> Option<F> + Send + 'static,
) -> JoinHandle<anyhow::Result<(u32, u32)>>
where
    F: Future<Output = anyhow::Result<u32>> + Send,
{
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let (mut done, mut told) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let Some(next) = one() else { break };
            told += next.await?;
            done += 1;
        }
        Ok((done, told))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_claims_are_served_while_strangers_make_up_sessions() -> anyhow::Result<()> {
    let builder = Gate::dev("flood-payment");
    under_a_flood(builder.plugin(|plugin| by_every_scheme(plugin, DEPOSIT))).await
}

/// All that strangers say is looked at as far as it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_claims_are_served_while_nothing_limits_strangers() -> anyhow::Result<()> {
    let builder = Gate::dev("flood-payment-unlimited").plugin(|plugin| {
        by_every_scheme(plugin, DEPOSIT);
        without_limits(plugin);
    });
    under_a_flood(builder.sidecar(sidecar_without_limits())).await
}

async fn under_a_flood(builder: Builder<'_>) -> anyhow::Result<()> {
    let _alone = alone().await;
    let builder = builder.envoy(|config| config.trusted_hops = 1);
    let gate = builder.start().await?;
    let http = gate.http();
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let invoice = gate.wallet.return_invoice().await?;
        let session = Session::deposit(&asked(&http).await?, &gate.wallet, &invoice).await?;
        let from = address();
        served(&http, &from, &session.open()).await?;
        sessions.push((session, from));
    }
    let mut charges = Vec::new();
    let mut preimage = String::new();
    for _ in 0..CHARGES {
        let offer = offer_of(&asked(&http).await?, "charge")?;
        preimage = offer.pay(&gate.wallet).await?;
        charges.push(offer.credential(&json!({ "preimage": preimage })));
    }
    let answer = asked(&http).await?;
    let (first, _) = sessions.first().context("no session")?;
    let loot = Loot {
        charge: offer_of(&answer, "charge")?,
        deposit: offer_of(&answer, "session")?,
        session: first.id()?.to_owned(),
        preimage,
    };

    let stop = Arc::new(AtomicBool::new(false));
    let mut spending = Vec::new();
    for (session, from) in &sessions {
        let (http, from, bearer) = (gate.http(), from.clone(), session.bearer()?);
        spending.push(busy(&stop, move || {
            let (http, from, bearer) = (http.clone(), from.clone(), bearer.clone());
            Some(async move { served(&http, &from, &bearer).await })
        }));
    }
    let (http, from, mut left) = (gate.http(), address(), charges.into_iter());
    let claiming = busy(&stop, move || {
        let (http, from, charge) = (http.clone(), from.clone(), left.next()?);
        Some(async move {
            let told = served(&http, &from, &charge).await?;
            // So that some are left until the flood is over.
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(told)
        })
    });
    let told = flood(&gate, &loot).await?;
    stop.store(true, Ordering::Relaxed);
    let (claimed, again) = claiming.await??;
    println!("flood: {told:?} told 402, 429, 503; {claimed} charges, {again} told to come again");
    ensure!(claimed > 0 && again * SELDOM <= claimed.max(SELDOM));
    for ((session, from), spent) in sessions.iter().zip(spending) {
        let (spent, again) = spent.await??;
        println!("{spent} requests of a session, {again} told to come again");
        ensure!(spent > 0 && again * SELDOM <= spent.max(SELDOM));
        // Its balance is as its buyer counts it, and its money comes back.
        let http = gate.http();
        let request = http.get(FORECAST).header("x-forwarded-for", from);
        let request = request.header("authorization", session.close()?);
        let closed = request.send().await?;
        let rest = DEPOSIT as u64 - u64::from(spent) - 1;
        let said = closed.json();
        ensure!(
            said.get("refundSats") == Some(&json!(rest)),
            "{said} {rest}"
        );
    }
    none_arrived(&gate)?;
    gate.sidecar.command(&["ledger", "check"]).await?;
    let reloads = gate.envoy.stats("vm_reload").await?;
    ensure!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    Ok(())
}
