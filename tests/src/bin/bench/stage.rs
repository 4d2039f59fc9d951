//! Everything that runs for the table: Envoys, sidecars, upstreams.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use e2e::{eventually, http_client::Http, paths, sidecar::Sidecar};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

use crate::{
    CONNECTIONS,
    books::Books,
    cases::{Case, Kind, OF, authorization, ok, ok_with_receipt, paid},
    cpu,
    envoy::Gate,
    load::Connections,
    mint::{Mint, Mints},
    options::Options,
    sse::Pacing,
    subjects::{
        Subject, plugin, plugin_with_payment, request, revoke, server, sidecar, with_ledger,
    },
};

/// A module that does nothing: the floor of what any wasm filter costs.
const NOOP: &str = r#"(module
  (memory (export "memory") 2)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0)))"#;
/// Ready invoices where 402s are measured.
const MANY_INVOICES: u32 = 20_000;
const FEW_INVOICES: u32 = 64;
/// Where streams are sold, and where not.
const STREAMS: &str = "/stream/";
const FREE_STREAMS: &str = "/stream/free/";

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) cases: Vec<Case>,
    pub(crate) mints: Mints,
    books: Books,
    /// Envoys with the filter and without, at one worker and at `MANY_WORKERS`.
    memory: [(Subject, Subject); 2],
    /// Behind the Envoys that sell by the Payment scheme.
    seller: Sidecar,
    /// Held so that they live as long as the stage.
    _subjects: Vec<Subject>,
    _sidecars: Vec<Sidecar>,
}

const MANY_WORKERS: u32 = 5;

impl Stage {
    pub(crate) async fn start(folder: &Path, options: &Options) -> Result<Self> {
        let pacing = Pacing::new();
        let upstream = server(&pacing)?;
        let authorizer = server(&pacing)?;
        let module = paths::filter_wasm()?.display().to_string();
        let noop = folder.join("noop.wasm");
        fs::write(&noop, wat::parse_str(NOOP)?)?;
        let noop = noop.display().to_string();
        let usual = sidecar(&folder.join("sidecar"), "0ms", MANY_INVOICES).await?;
        let slow = sidecar(&folder.join("sidecar-slow"), "20ms", MANY_INVOICES).await?;
        let seller = sidecar(&folder.join("sidecar-payment"), "0ms", FEW_INVOICES).await?;
        let mut many = sidecar(&folder.join("sidecar-revoked"), "0ms", FEW_INVOICES).await?;
        with_ledger(&mut many, |ledger| revoke(ledger, 10_000)).await?;
        let mut mint = Mint::of(&usual).await?;
        let payments = Mint::of(&seller).await?;
        let token = mint.credential("weather")?;
        let (_, bearer) = mint.bearer()?;
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
        let filter_payment = start("filter-payment", payment, seller.address(), 1).await?;
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
        let unmetered = |base| Kind::Events {
            base,
            more: authorization(&foreign),
            is_metered: false,
            pacing: pacing.clone(),
        };
        let mut cases = vec![
            bare.case("bare", with_token()).await?,
            bare.case(
                "bare-payment",
                Kind::Same(ok(paid("/v1/forecast", &bearer))),
            )
            .await?,
            bare.case("sse-bare", unmetered(STREAMS)).await?,
            bare.case("sse-coalesced-bare", unmetered(STREAMS)).await?,
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
            filter_payment
                .case("sse-free", unmetered(FREE_STREAMS))
                .await?,
            filter_payment
                .case("sse-coalesced-free", unmetered(FREE_STREAMS))
                .await?,
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
        let mut books = Books::default();
        let to_pay = payment_cases(&filter_payment, "", &mut books, &seller, &pacing, options);
        cases.extend(to_pay.await?);
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
        // What who sells by L402 alone loads, and what was asked for.
        let others = std::iter::once(paths::l402_wasm()?).chain(options.against.clone());
        for file in &others.collect::<Vec<_>>() {
            let build = file.file_stem().context("a file")?.to_string_lossy();
            let module = file.display().to_string();
            let gate = Gate::Wasm {
                module: &module,
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
            if !sells_by_payment(file)? {
                continue;
            }
            let gate = Gate::Wasm {
                module: &module,
                config: plugin_with_payment(),
            };
            let other = start(&format!("{build}-payment"), gate, seller.address(), 1).await?;
            let of = format!("{OF}{build}");
            let to_pay = payment_cases(&other, &of, &mut books, &seller, &pacing, options);
            cases.extend(to_pay.await?);
            subjects.push(other);
        }
        cases.retain(|case| options.wants(&case.name));
        let stage = Self {
            cases,
            mints: Mints {
                tokens: mint,
                payments,
            },
            books,
            seller,
            memory,
            _subjects: subjects,
            _sidecars: vec![usual, slow, many],
        };
        stage.warm_up().await?;
        Ok(stage)
    }

    /// See [`Books::check`].
    pub(crate) async fn check_books(&self) -> Result<()> {
        self.books.check(&self.cases, &self.seller).await
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
                    "bare" | "bare-payment" | "sse-bare" | "sse-coalesced-bare" | "noop"
                    | "ext-authz-h2" => &[200],
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
    pub(crate) fn filter_bytes_per_worker(&self) -> Result<f64> {
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
            units: 0,
        })
    }
}

/// The cases that a build of the filter with the Payment scheme has.
async fn payment_cases(
    subject: &Subject,
    of: &str,
    books: &mut Books,
    seller: &Sidecar,
    pacing: &Pacing,
    options: &Options,
) -> Result<Vec<Case>> {
    let http = Http::new(subject.address);
    let mut cases = vec![];
    for case in ["bearer", "charge", "sse", "sse-coalesced"] {
        if !options.wants(case) {
            continue;
        }
        let name = format!("{case}{of}");
        let kind = match case {
            "charge" => Kind::Charge,
            "bearer" => {
                let bearer = books.open(&name, &http, seller, "/v1/forecast").await?;
                Kind::Bearer(ok_with_receipt(paid("/v1/forecast", &bearer)))
            }
            _ => {
                let bearer = books.open(&name, &http, seller, "/stream/hello").await?;
                Kind::Events {
                    base: STREAMS,
                    more: authorization(&bearer),
                    is_metered: true,
                    pacing: pacing.clone(),
                }
            }
        };
        cases.push(subject.case(name, kind).await?);
    }
    Ok(cases)
}

/// Only builds with the Payment scheme look at responses.
fn sells_by_payment(module: &Path) -> Result<bool> {
    let callback = b"proxy_on_response_headers";
    let module = fs::read(module)?;
    Ok(module
        .windows(callback.len())
        .any(|bytes| bytes == callback))
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
