//! `cargo xtask bench`: what each way of gating costs Envoy, as a fraction of bare Envoy.
//!
//! One run, one machine: all cases take turns in random order, round after round, so that a busy
//! neighbour hits all alike. What counts is the CPU time of Envoy per request, and of that the
//! ratio to bare Envoy in the same round.

mod cpu;
mod envoy;
mod load;
mod report;
mod stats;
mod subjects;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use e2e::{eventually, http_client::Http, paths, sidecar::Sidecar};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::seq::SliceRandom as _;
use serde_json::json;
use sha2::Sha256;

use crate::{
    envoy::Gate,
    load::{Connections, Load, median},
    report::{Row, publish},
    stats::estimate,
    subjects::{Mint, OTHER_CORE, Subject, plugin, plugin_with_payment, request, server, sidecar},
};

const CONNECTIONS: usize = 16;
/// Challenges of one round: what a filter keeps in stock lasts for them.
const CHALLENGES: usize = 400;
/// In the name of a case of another build, between case and build.
const OF: char = '@';
/// A module that does nothing: the floor of what any wasm filter costs.
const NOOP: &str = r#"(module
  (memory (export "memory") 2)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#;

/// One line of the table.
struct Case {
    name: String,
    address: SocketAddr,
    pid: u32,
    connections: Connections,
    kind: Kind,
}

/// What its requests are.
enum Kind {
    /// The same request each time.
    Same(Load),
    /// Each with a token that was never seen.
    Fresh,
    /// Each with a charge that was never presented: durably claimed before it is forwarded.
    Charge,
    /// Without a token, each from another client address. No more in a round than the filter keeps
    /// in stock.
    Challenge,
}

/// The command line.
struct Options {
    rounds: usize,
    /// Requests of a round.
    requests: usize,
    /// Names of cases; empty is all. Bare Envoy is always measured.
    only: Vec<String>,
    /// Other builds of the filter, measured beside this one.
    against: Vec<PathBuf>,
}

impl Options {
    fn from_args() -> Result<Self> {
        let mut options = Self {
            rounds: 40,
            requests: 3_000,
            only: vec![],
            against: vec![],
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let value = args
                .next()
                .with_context(|| format!("{arg} needs a value"))?;
            match arg.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--requests" => options.requests = value.parse()?,
                "--only" => options.only = value.split(',').map(str::to_owned).collect(),
                "--against" => options.against.push(value.into()),
                _ => anyhow::bail!(
                    "unknown option {arg}: --rounds N, --requests N, --only CASE,CASE, --against FILTER.wasm"
                ),
            }
        }
        ensure!(
            options.rounds >= 5 && options.requests >= CONNECTIONS,
            "too little to say anything"
        );
        Ok(options)
    }

    fn wants(&self, case: &str) -> bool {
        let name = case.split(OF).next().unwrap_or(case);
        case == "bare" || self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::from_args()?;
    cpu::pin_self(OTHER_CORE)?;
    let folder = paths::fresh_folder("bench")?;
    eprintln!("starting the Envoys and the sidecars");
    let mut stage = Stage::start(&folder, &options).await?;
    let mut samples: BTreeMap<String, Samples> = BTreeMap::new();
    for round in 0..options.rounds {
        eprint!("\rround {} of {}", round + 1, options.rounds);
        stage.cases.shuffle(&mut rand::rng());
        let mut cpu_us = BTreeMap::new();
        for case in &mut stage.cases {
            let load = case.load(&mut stage.mint, options.requests)?;
            let before = cpu::nanoseconds(case.pid)?;
            let mut done = case
                .connections
                .send(&load)
                .await
                .with_context(|| case.name.clone())?;
            let spent = cpu::nanoseconds(case.pid)? - before;
            #[expect(clippy::cast_precision_loss, reason = "microseconds of a short round")]
            let per_request = spent as f64 / 1_000.0 / done.answers as f64;
            cpu_us.insert(case.name.clone(), per_request);
            let sample = samples.entry(case.name.clone()).or_default();
            sample.cpu_us.push(per_request);
            sample
                .p50_us
                .push(median(&mut done.latencies).as_secs_f64() * 1e6);
        }
        let bare = *cpu_us.get("bare").context("bare Envoy was not measured")?;
        for (name, cpu_us) in cpu_us {
            samples
                .entry(name)
                .or_default()
                .fraction
                .push(bare / cpu_us);
        }
    }
    eprintln!();
    let rows: Vec<Row> = ORDER
        .iter()
        .flat_map(|case| {
            samples
                .iter()
                .filter(move |(name, _)| name.split(OF).next() == Some(case))
        })
        .map(|(name, s)| {
            Row::new(
                name,
                estimate(&s.cpu_us),
                estimate(&s.fraction),
                estimate(&s.p50_us).mean,
            )
        })
        .collect();
    let file = paths::target()?.join("bench/results.json");
    println!("{}", publish(&rows, &file)?);
    println!(
        "filter memory: {:.1} MB per worker",
        stage.filter_bytes_per_worker()? / 1e6
    );
    println!("results: {}", file.display());
    Ok(())
}

/// The order of the table.
const ORDER: [&str; 15] = [
    "bare",
    "noop",
    "free",
    "free-with-token",
    "l402-seen",
    "l402-fresh",
    "charge",
    "challenge-stock",
    "challenge-node-20ms",
    "jwt-authn",
    "ext-authz-h2",
    "services-1",
    "services-100",
    "services-1000",
    "revocations-10000",
];

#[derive(Default)]
struct Samples {
    cpu_us: Vec<f64>,
    fraction: Vec<f64>,
    p50_us: Vec<f64>,
}

impl Case {
    fn load(&self, mint: &mut Mint, requests: usize) -> Result<Load> {
        Ok(match &self.kind {
            Kind::Same(load) => load.repeated(requests),
            Kind::Fresh => Load {
                requests: (0..requests)
                    .map(|_| Ok(paid("/v1/forecast", &mint.credential("weather")?)))
                    .collect::<Result<_>>()?,
                status: 200,
            },
            Kind::Charge => Load {
                requests: (0..requests)
                    .map(|_| Ok(paid("/v1/forecast", &mint.charge(rand::random())?)))
                    .collect::<Result<_>>()?,
                status: 200,
            },
            Kind::Challenge => Load {
                requests: (0..requests.min(CHALLENGES))
                    .map(|_| {
                        let [a, b, c] = rand::random::<[u8; 3]>();
                        request(
                            "/v1/forecast",
                            &format!("x-forwarded-for: 10.{a}.{b}.{c}\r\n"),
                        )
                    })
                    .collect(),
                status: 402,
            },
        })
    }
}

fn paid(path: &str, credential: &str) -> Vec<u8> {
    request(path, &format!("authorization: {credential}\r\n"))
}

/// Everything that runs.
struct Stage {
    cases: Vec<Case>,
    mint: Mint,
    /// Envoys with the filter and without, at one worker and at `MANY_WORKERS`.
    memory: [(Subject, Subject); 2],
    /// Held so that they live as long as the stage.
    _subjects: Vec<Subject>,
    _sidecars: Vec<Sidecar>,
}

const MANY_WORKERS: u32 = 5;

impl Stage {
    async fn start(folder: &Path, options: &Options) -> Result<Self> {
        let upstream = server()?;
        let authorizer = server()?;
        let module = paths::filter_wasm()?.display().to_string();
        let noop = folder.join("noop.wasm");
        std::fs::write(&noop, wat::parse_str(NOOP)?)?;
        let noop = noop.display().to_string();
        let usual = sidecar(&folder.join("sidecar"), "0ms", 0).await?;
        let slow = sidecar(&folder.join("sidecar-slow"), "20ms", 0).await?;
        let many = sidecar(&folder.join("sidecar-revoked"), "0ms", 10_000).await?;
        let mut mint = Mint::of(&usual).await?;
        let token = mint.credential("weather")?;
        let token_many = Mint::of(&many).await?.credential("weather")?;

        let start = async |name: &str, gate: Gate<'_>, helper: SocketAddr, workers: u32| {
            Subject::start(folder, name, &gate, upstream, helper, workers).await
        };
        let ours = |services: usize| Gate::Wasm {
            module: &module,
            config: plugin(services),
        };
        let (jwks, jwt) = jwt()?;

        let bare = start("bare", Gate::Bare, upstream, 1).await?;
        let nothing = Gate::Wasm {
            module: &noop,
            config: json!({}),
        };
        let nothing = start("noop", nothing, upstream, 1).await?;
        let filter = start("filter", ours(1), usual.address(), 1).await?;
        let payment = Gate::Wasm {
            module: &module,
            config: plugin_with_payment(),
        };
        let filter_payment = start("filter-payment", payment, usual.address(), 1).await?;
        let filter_slow = start("filter-slow", ours(1), slow.address(), 1).await?;
        let filter_100 = start("filter-100", ours(100), usual.address(), 1).await?;
        let filter_1000 = start("filter-1000", ours(1_000), usual.address(), 1).await?;
        let filter_revoked = start("filter-revoked", ours(1), many.address(), 1).await?;
        let by_jwt = start("jwt", Gate::Jwt { jwks: &jwks }, upstream, 1).await?;
        let by_ext_authz = start("ext-authz", Gate::ExtAuthz, authorizer, 1).await?;
        let memory = [
            (
                start("memory-filter-1", ours(1), usual.address(), 1).await?,
                start("memory-bare-1", Gate::Bare, upstream, 1).await?,
            ),
            (
                start("memory-filter-5", ours(1), usual.address(), MANY_WORKERS).await?,
                start("memory-bare-5", Gate::Bare, upstream, MANY_WORKERS).await?,
            ),
        ];
        // Every request carries a credential of that length, ours or (on a free path) a foreign
        // one: what is compared is the gate.
        let foreign = format!("Bearer {}", "t".repeat(token.len().saturating_sub(7)));
        let free = || Kind::Same(ok(paid("/v1/health", &foreign)));
        let with_token = || Kind::Same(ok(paid("/v1/forecast", &token)));
        let mut cases = vec![
            bare.case("bare", with_token()).await?,
            nothing.case("noop", with_token()).await?,
            filter.case("free", free()).await?,
            filter
                .case(
                    "free-with-token",
                    Kind::Same(ok(paid("/v1/health", &token))),
                )
                .await?,
            filter.case("l402-seen", with_token()).await?,
            filter.case("services-1", with_token()).await?,
            filter.case("l402-fresh", Kind::Fresh).await?,
            filter_payment.case("charge", Kind::Charge).await?,
            filter.case("challenge-stock", Kind::Challenge).await?,
            filter_slow
                .case("challenge-node-20ms", Kind::Challenge)
                .await?,
            filter_100.case("services-100", with_token()).await?,
            filter_1000.case("services-1000", with_token()).await?,
            filter_revoked
                .case(
                    "revocations-10000",
                    Kind::Same(ok(paid("/v1/forecast", &token_many))),
                )
                .await?,
            by_jwt
                .case(
                    "jwt-authn",
                    Kind::Same(ok(request(
                        "/",
                        &format!("authorization: Bearer {jwt}\r\n"),
                    ))),
                )
                .await?,
            by_ext_authz.case("ext-authz-h2", with_token()).await?,
        ];
        let mut subjects = vec![
            bare,
            nothing,
            filter,
            filter_payment,
            filter_slow,
            filter_100,
            filter_1000,
            filter_revoked,
            by_jwt,
            by_ext_authz,
        ];
        for file in &options.against {
            let build = file.file_stem().context("a file")?.to_string_lossy();
            let gate = Gate::Wasm {
                module: &file.display().to_string(),
                config: plugin(1),
            };
            let other = start(&build, gate, usual.address(), 1).await?;
            for (case, kind) in [
                ("free", free()),
                ("l402-seen", with_token()),
                ("l402-fresh", Kind::Fresh),
                ("challenge-stock", Kind::Challenge),
            ] {
                cases.push(other.case(format!("{case}{OF}{build}"), kind).await?);
            }
            subjects.push(other);
        }
        cases.retain(|case| options.wants(&case.name));
        let stage = Self {
            cases,
            mint,
            memory,
            _subjects: subjects,
            _sidecars: vec![usual, slow, many],
        };
        stage.warm_up().await?;
        Ok(stage)
    }

    /// Every case answers as it should before anything is measured.
    async fn warm_up(&self) -> Result<()> {
        for case in &self.cases {
            let http = Http::new(case.address);
            eventually(&case.name, Duration::from_secs(30), || async {
                let target = if case.name == "jwt-authn" {
                    "/"
                } else {
                    "/v1/forecast"
                };
                let status = http.get(target).send().await?.status;
                let expected: &[u16] = match &*case.name {
                    "bare" | "noop" | "ext-authz-h2" => &[200],
                    "jwt-authn" => &[401],
                    _ => &[402],
                };
                ensure!(expected.contains(&status), "{} answers {status}", case.name);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What each further worker costs with the filter, less what it costs without.
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory")]
    fn filter_bytes_per_worker(&self) -> Result<f64> {
        let [(filter_1, bare_1), (filter_5, bare_5)] = &self.memory;
        let bytes =
            |subject: &Subject| Ok::<_, anyhow::Error>(cpu::private_bytes(subject.id()?)? as f64);
        let with = bytes(filter_5)? - bytes(filter_1)?;
        let without = bytes(bare_5)? - bytes(bare_1)?;
        Ok((with - without) / f64::from(MANY_WORKERS - 1))
    }
}

impl Subject {
    async fn case(&self, name: impl Into<String>, kind: Kind) -> Result<Case> {
        Ok(Case {
            name: name.into(),
            address: self.address,
            pid: self.id()?,
            connections: Connections::open(self.address, CONNECTIONS).await?,
            kind,
        })
    }
}

fn ok(request: Vec<u8>) -> Load {
    Load {
        requests: vec![request],
        status: 200,
    }
}

/// A key set with one HS256 key, and a token signed with it.
fn jwt() -> Result<(String, String)> {
    let key = [0x42_u8; 32];
    let jwks = json!({ "keys": [{
        "kty": "oct", "alg": "HS256", "kid": "bench", "k": BASE64_URL_SAFE_NO_PAD.encode(key),
    }] });
    let head = json!({ "alg": "HS256", "typ": "JWT", "kid": "bench" });
    let claims = json!({ "sub": "bench", "exp": 4_102_444_800_u64 });
    let encode = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&head), encode(&claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(&key)?;
    mac.update(signed.as_bytes());
    let tag = BASE64_URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    Ok((jwks.to_string(), format!("{signed}.{tag}")))
}
