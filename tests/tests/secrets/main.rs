//! What buyers and operators trust the gate with is in nothing that it tells: no log of Envoy's or
//! the sidecar's however much they log, no metric, error, admin page, list or book, and nothing
//! that arrives at the upstream.

#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

mod forms;

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::{BEARER, Builder, Gate, by_every_scheme};
use e2e::http_client::Answer;
use e2e::macaroon::{hex, unhex};
use e2e::payment::{self, Session, offer_of};
use e2e::regtest::Regtest;
use e2e::unpaid::{sidecar_without_limits, without_limits};
use e2e::wallet::Wallet;
use serde_json::{Value, json};

use crate::forms::Secrets;

const FORECAST: &str = "/v1/forecast";
const STREAM: &str = "/v1/stream";
const DEPOSIT: usize = 100;

/// One gate, and all that is said on the way.
struct Run<'a> {
    gate: &'a mut Gate,
    secrets: Secrets,
    preimages: Vec<Vec<u8>>,
    /// All that buyers were told, but for what is offered to them.
    told: String,
}

impl Run<'_> {
    fn note(&mut self, answer: &Answer) {
        for (name, value) in &answer.headers {
            if name != "www-authenticate" {
                self.told += &format!("{name}: {value:?}\n");
            }
        }
        self.told += &answer.text();
    }

    fn preimage(&mut self, what: &'static str, digits: &str) -> anyhow::Result<()> {
        self.preimages.push(unhex(digits)?);
        self.secrets.hex(what, digits)
    }

    async fn present(&mut self, target: &str, authorization: &str) -> anyhow::Result<Answer> {
        let answer = payment::present(&self.gate.http(), target, authorization).await?;
        self.note(&answer);
        Ok(answer)
    }

    /// Comes again while it is told to.
    async fn served(&mut self, target: &str, authorization: &str) -> anyhow::Result<Answer> {
        for _ in 0..200 {
            let answer = self.present(target, authorization).await?;
            if answer.status == 200 {
                return Ok(answer);
            }
            ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("never served")
    }

    async fn challenged(&mut self) -> anyhow::Result<Answer> {
        let http = self.gate.http();
        eventually("the gate sells", Duration::from_secs(20), || async {
            let answer = http.get(FORECAST).send().await?;
            offer_of(&answer, "session").map(|_| answer)
        })
        .await
    }

    async fn by_l402(&mut self) -> anyhow::Result<()> {
        self.challenged().await?;
        let token = self.gate.buy(FORECAST).await?;
        self.secrets.text("macaroon", &token.macaroon);
        let signature = token.decoded()?.signature;
        self.secrets.hex("signature", &hex(&signature))?;
        self.preimage("preimage of a token", &token.preimage)?;
        self.served(FORECAST, &token.authorization()).await?;
        self.present("/v1/health", &token.authorization()).await?;
        // Refused, in all the ways that tell a reason.
        let swapped = token.authorization().replacen("L402", "LSAT", 1);
        self.present(FORECAST, &format!("{swapped}00")).await?;
        self.present(FORECAST, &format!("{} x", token.authorization()))
            .await?;
        let zeros = format!("L402 {}:{}", token.macaroon, "00".repeat(32));
        self.present(FORECAST, &zeros).await?;
        self.present("/v1/%2e%2e/x", &token.authorization()).await?;
        self.present("/nothing/here", &token.authorization())
            .await?;
        let hash = token.decoded()?.payment_hash()?;
        self.command(&["tokens", "revoke", "--payment-hash", &hash])
            .await?;
        Ok(())
    }

    async fn by_charge(&mut self) -> anyhow::Result<()> {
        let answer = self.challenged().await?;
        let offer = offer_of(&answer, "charge")?;
        let preimage = offer.pay(&self.gate.wallet).await?;
        self.preimage("preimage of a charge", &preimage)?;
        let paid = offer.credential(&json!({ "preimage": preimage }));
        let blob = paid.strip_prefix("Payment ").unwrap_or_default();
        self.secrets.text("credential of a charge", blob);
        ensure!(self.secrets.found(&paid).len() > 1, "would not be found");
        // Odd ones that hold the same.
        let odd = json!({ "preimage": [preimage] });
        self.present(FORECAST, &offer.credential(&odd)).await?;
        let session = offer_of(&answer, "session")?;
        let foreign = session.credential(&json!({ "action": "bearer", "preimage": preimage,
                                                  "sessionId": "00".repeat(32) }));
        self.present(FORECAST, &foreign).await?;
        let two = self
            .present(FORECAST, &format!("{paid}, {foreign}"))
            .await?;
        ensure!(two.status == 400, "{}", two.status);
        self.served(FORECAST, &paid).await?;
        self.present(FORECAST, &paid).await?;
        Ok(())
    }

    /// `return_invoice` takes the refund, or not.
    async fn by_session(&mut self, return_invoice: &str, refund: &str) -> anyhow::Result<()> {
        let answer = self.challenged().await?;
        let session = Session::deposit(&answer, &self.gate.wallet, return_invoice).await?;
        self.preimage("preimage of a deposit", &session.preimage)?;
        self.secrets.text("return invoice", return_invoice);
        let answer = self.challenged().await?;
        let further = offer_of(&answer, "session")?;
        let preimage = further.pay(&self.gate.wallet).await?;
        self.preimage("preimage of a topUp", &preimage)?;
        let (bearer, close) = (session.bearer()?, session.close()?);
        let top_up = session.top_up(&further, &preimage)?;
        for credential in [&session.open(), &bearer, &top_up, &close] {
            let blob = credential.strip_prefix("Payment ").unwrap_or_default();
            self.secrets.text("credential of a session", blob);
        }

        // An invoice to which nothing can be paid back.
        let with_amount = answer.challenges();
        let with_amount = &with_amount.first().context("no challenge")?.invoice;
        let bad = Session {
            return_invoice: with_amount.clone(),
            ..session.clone()
        };
        let refused = self.present(FORECAST, &bad.open()).await?;
        ensure!(refused.status >= 400, "{}", refused.status);
        self.served(FORECAST, &session.open()).await?;
        self.served(FORECAST, &bearer).await?;
        self.served(STREAM, &bearer).await?;
        for _ in 0..2 {
            self.served(FORECAST, &top_up).await?;
        }
        // The sidecar is away for a while.
        self.gate.sidecar.kill();
        self.present(FORECAST, &top_up).await?;
        self.gate.sidecar.start().await?;
        self.gate.sidecar.ready().await?;
        self.served(FORECAST, &bearer).await?;
        let closed = self.served(FORECAST, &close).await?;
        ensure!(closed.json()["refundStatus"] == refund, "{}", closed.text());
        for late in [&session.open(), &bearer, &top_up, &close] {
            self.present(FORECAST, late).await?;
        }
        Ok(())
    }

    async fn command(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        self.told += &self.gate.sidecar.command(arguments).await?;
        Ok(())
    }

    /// The sidecar's own secrets, as a filter gets them.
    async fn keys(&mut self) -> anyhow::Result<()> {
        self.secrets.text("bearer token", BEARER);
        let sidecar = e2e::http_client::Http::h2(self.gate.sidecar.address());
        let bearer = format!("Bearer {BEARER}");
        let asked = sidecar
            .get("/v1/bootstrap?vm=0123456789abcdef0123456789abcdef")
            .header("authorization", &bearer);
        let answer = asked.send().await?;
        ensure!(answer.status == 200, "{}", answer.status);
        let mut found = 0;
        let said = answer.json();
        let keys = said["keys"].as_array().context("no keys")?;
        let mut left: Vec<&Value> = keys.iter().collect();
        while let Some(value) = left.pop() {
            match value {
                Value::Object(object) => left.extend(object.values()),
                Value::Array(array) => left.extend(array),
                Value::String(key) if key.len() == 64 => {
                    self.secrets.hex("derived key", key)?;
                    found += 1;
                }
                _ => {}
            }
        }
        ensure!(found > 0, "no key in {} keys", keys.len());
        Ok(())
    }

    /// Whatever can be read from outside, by name.
    async fn evidence(&mut self) -> anyhow::Result<Vec<(String, String)>> {
        for arguments in [
            &["refunds", "list"][..],
            &["ledger", "export", "--format", "jsonl"],
            &["ledger", "check"],
            &["keys", "list"],
        ] {
            self.command(arguments).await?;
        }
        let gate = &self.gate;
        let read = |name: &str| std::fs::read_to_string(gate.folder.join(name)).unwrap_or_default();
        let mut all = vec![
            ("answers".to_owned(), self.told.clone()),
            ("the sidecar's log".to_owned(), gate.sidecar.log()),
            ("Envoy's log".to_owned(), gate.envoy.process.output()),
            ("the access log".to_owned(), read("access.log")),
            ("listeners.json".to_owned(), read("listeners.json")),
        ];
        for page in [
            "/config_dump?include_eds",
            "/stats",
            "/stats/prometheus",
            "/clusters",
        ] {
            let answer = gate.envoy.admin().get(page).send().await?;
            ensure!(answer.status == 200, "{page}: {}", answer.status);
            all.push((page.to_owned(), answer.text()));
        }
        let admin = e2e::http_client::Http::new(gate.sidecar.admin_address());
        for page in ["/metrics", "/readyz", "/healthz"] {
            all.push((page.to_owned(), admin.get(page).send().await?.text()));
        }
        for (number, request) in gate.upstream.requests().iter().enumerate() {
            all.push((format!("upstream {number}"), format!("{request:?}")));
        }
        Ok(all)
    }

    async fn nowhere(mut self) -> anyhow::Result<()> {
        let evidence = self.evidence().await?;
        let text = |name: &str| {
            let found = evidence.iter().find(|(place, _)| place == name);
            found.map(|(_, text)| text.as_str()).unwrap_or_default()
        };
        // All of it was looked at, at its most talkative.
        ensure!(
            text("the sidecar's log").contains("\"TRACE\""),
            "the sidecar is quiet"
        );
        ensure!(
            text("Envoy's log").contains("[trace][wasm]"),
            "Envoy is quiet"
        );
        ensure!(text("/config_dump?include_eds").contains("host_env_keys"));
        ensure!(text("the access log").contains("outcome"));
        ensure!(text("/metrics").contains("boltgate_sidecar_refunds_paid_total"));
        ensure!(text("upstream 0").contains("x-boltgate-scheme"));
        println!(
            "{} forms of secrets, {} places",
            self.secrets.0.len(),
            evidence.len()
        );
        let mut found = Vec::new();
        for (place, text) in &evidence {
            found.extend(
                self.secrets
                    .found(text)
                    .into_iter()
                    .map(|it| format!("{place}: {it}")),
            );
        }
        assert!(found.is_empty(), "{found:#?}");
        // Return invoices and master keys are in the ledger; preimages are not.
        for file in ["ledger.db", "ledger.db-wal"] {
            let Ok(bytes) = std::fs::read(self.gate.folder.join(file)) else {
                continue;
            };
            for preimage in &self.preimages {
                let mut parts = bytes.windows(preimage.len());
                assert!(
                    !parts.any(|part| part == preimage),
                    "a preimage is in {file}"
                );
            }
        }
        Ok(())
    }
}

fn talkative(builder: Builder<'_>) -> Builder<'_> {
    let mut sidecar = sidecar_without_limits();
    sidecar["log"] = json!({ "level": "trace" });
    sidecar["refunds"] = json!({ "attempts": 1 });
    let builder = builder.sidecar(sidecar).plugin(|plugin| {
        by_every_scheme(plugin, DEPOSIT);
        without_limits(plugin);
    });
    // Envoy's own log of requests has their headers at these levels, whatever filters do.
    builder.envoy(|envoy| envoy.component_log_level = "wasm:trace,filter:trace".to_owned())
}

async fn all_schemes(gate: &mut Gate, secrets: Secrets) -> anyhow::Result<()> {
    let mut run = Run {
        gate,
        secrets,
        preimages: Vec::new(),
        told: String::new(),
    };
    run.keys().await?;
    run.by_l402().await?;
    run.by_charge().await?;
    let invoice = run.gate.wallet.return_invoice().await?;
    run.by_session(&invoice, "succeeded").await?;
    // One that its buyer's node takes no more: a human must look.
    let invoice = run.gate.wallet.return_invoice().await?;
    cancel(&run.gate.wallet, &invoice).await?;
    run.by_session(&invoice, "failed").await?;
    run.nowhere().await
}

async fn cancel(wallet: &Wallet, invoice: &str) -> anyhow::Result<()> {
    let invoice: lightning_invoice::Bolt11Invoice = invoice
        .parse()
        .map_err(|error| anyhow::anyhow!("not an invoice: {error:?}"))?;
    let hash = invoice.payment_hash().to_string();
    match wallet {
        Wallet::Dev(door) => {
            let door = e2e::http_client::Http::new(*door);
            let path = format!("/invoices/{hash}/cancel");
            let answer = door.post(&path, "").send().await?;
            ensure!(answer.status == 200, "{}", answer.text());
        }
        Wallet::Lnd(node) => {
            node.run(&["cancelinvoice", &hash]).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_told_with_a_ledger_in_a_file() -> anyhow::Result<()> {
    let mut gate = talkative(Gate::dev("secrets-sqlite")).start().await?;
    all_schemes(&mut gate, Secrets::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_told_with_a_ledger_in_a_database() -> anyhow::Result<()> {
    let database = tokio::task::spawn_blocking(test_postgres::database).await??;
    let ledger = json!({ "ledger": { "postgres": { "url": database.url() } } });
    let network = e2e::paths::target()?.join("e2e/secrets-postgres/network.db");
    let lightning = json!({ "lightning": { "dev": { "path": network } } });
    let builder = talkative(Gate::dev("secrets-postgres"));
    let mut gate = builder.sidecar(ledger).sidecar(lightning).start().await?;
    all_schemes(&mut gate, Secrets::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_told_with_real_nodes() -> anyhow::Result<()> {
    let regtest = Regtest::start("secrets-lnd")?;
    let mut gate = talkative(Gate::lnd("secrets-lnd-gate", &regtest))
        .start()
        .await?;
    let mut secrets = Secrets::default();
    let macaroon = std::fs::read(regtest.seller.baked_macaroon())?;
    secrets.hex("the node's macaroon", &hex(&macaroon))?;
    all_schemes(&mut gate, secrets).await
}
