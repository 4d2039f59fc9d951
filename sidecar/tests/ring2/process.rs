//! The built program: killed, ended, asked by its own command line.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use protocol::api::{BOOTSTRAP_PATH, Bootstrap};
use protocol::encoding::hex_encode;
use protocol::time::UnixSeconds;
use sidecar::adapters::ledger::sqlite::SqliteLedger;
use sidecar::domain::keys::KeySource;
use sidecar::domain::ports::Ledger as _;
use tempfile::TempDir;

use crate::offers::verified;
use crate::support::{Api, Sidecar, Store, TOKEN, VM, eventually, on_each_ledger, pay, wish};

on_each_ledger! {
    no_secret_is_in_any_log_line,
    kill_and_restart_keep_keys_offers_and_sales,
    offers_that_left_before_a_kill_are_in_the_ledger,
}

pub(crate) struct Program {
    child: Child,
    pub(crate) api: Api,
    admin: SocketAddr,
    pub(crate) dev: SocketAddr,
}

/// An address that nobody has. Below the range from which the system gives ports to whoever wants
/// any, so that no other test has it by chance while a program is being started again.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 1_000) as u16;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + (first * 20 + next) % 20_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
}

pub(crate) fn write_config(dir: &Path) {
    write_config_on(&Store::Sqlite, dir);
}

pub(crate) fn write_config_on(store: &Store, dir: &Path) {
    std::fs::write(dir.join("token"), format!("{TOKEN}\n")).unwrap();
    let [api, admin, dev] = [free_address(), free_address(), free_address()];
    let ledger = store.yaml(dir);
    let dir = dir.display();
    let yaml = format!(
        "listen: {api}\nadmin: {admin}\ntokenFiles: ['{dir}/token']\ndrain: 2s\n\
         {ledger}\n\
         lightning: {{ dev: {{ listen: {dev}, path: '{dir}/ledger.db-dev.db' }} }}\nlog: {{ level: trace }}\n"
    );
    std::fs::write(format!("{dir}/config.yaml"), yaml).unwrap();
}

fn address(dir: &Path, key: &str) -> SocketAddr {
    let text = std::fs::read_to_string(dir.join("config.yaml")).unwrap();
    let (_, rest) = text.split_once(&format!("{key}: ")).unwrap();
    rest.split(['\n', ' ', ',', '}'])
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boltgate"));
    command
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null());
    command
}

pub(crate) fn read_log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap()
}

/// Runs a command on the folder's configuration.
pub(crate) async fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = command(dir, arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

impl Program {
    pub(crate) async fn start(dir: &Path) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join("log"))
            .unwrap();
        let child = command(dir, &["run", "--config", "config.yaml"])
            .env("FAULT_STOP_FILE", dir.join("stop"))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let mut program = Self {
            child,
            api: Api(address(dir, "listen")),
            admin: address(dir, "admin"),
            dev: address(dir, "dev: { listen"),
        };
        let url = format!("http://{}/readyz?require=lightning", program.admin);
        eventually("ready", async || {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", read_log(dir));
            let answer = sidecar::http::client::request(&url, None).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
        program
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Whether it has stopped at a step that a test named, as it was asked to.
    pub(crate) fn has_stopped(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let ended = self.child.try_wait().unwrap();
        let signal = ended.map(|status| status.signal());
        assert!(matches!(signal, None | Some(Some(6))), "{ended:?}");
        signal.is_some()
    }

    pub(crate) fn signal(&self) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        eventually("the end", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn kill_and_restart_keep_keys_offers_and_sales(store: Store) {
    let dir = TempDir::new().unwrap();
    write_config_on(&store, dir.path());
    let program = Program::start(dir.path()).await;
    let keys = program.api.bootstrap(None).await.unwrap().keys;
    let offers = program.api.collect(2).await;
    let first = pay(program.dev, &offers[0].invoice).await.unwrap();
    program.kill();

    let program = Program::start(dir.path()).await;
    let bootstrap = program.api.bootstrap(None).await.unwrap();
    assert_eq!(bootstrap.keys, keys);
    let second = pay(program.dev, &offers[1].invoice).await.unwrap();
    verified(&bootstrap, &offers[0], &first).unwrap();
    verified(&bootstrap, &offers[1], &second).unwrap();
    let paid_again = pay(program.dev, &offers[0].invoice).await;
    assert_eq!(paid_again, Err("invoice is already paid".to_owned()));

    // Both sales, each once, whenever the kill came.
    let ledger = store.open(dir.path()).await;
    eventually("both sales", async || {
        let sales = ledger.sales(UnixSeconds(0), 10).await.unwrap();
        (sales.len() == 2).then_some(())
    })
    .await;
}

async fn offers_that_left_before_a_kill_are_in_the_ledger(store: Store) {
    let dir = TempDir::new().unwrap();
    write_config_on(&store, dir.path());
    let program = Program::start(dir.path()).await;
    let api = program.api;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        tasks.spawn(async move { api.offers(4).await.offers });
    }
    let mut hashes = Vec::new();
    // Killed while some are still on their way.
    while hashes.len() < 12 {
        let offers = tasks.join_next().await.unwrap().unwrap();
        hashes.extend(offers.into_iter().map(|offer| offer.payment_hash));
    }
    tasks.abort_all();
    program.kill();
    let ledger = store.open(dir.path()).await;
    for hash in hashes {
        let name = sidecar::domain::ledger::OfferName::PaymentHash(hash.parse().unwrap());
        assert!(ledger.find_offer(name).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn sigterm_drains_and_exits_with_0() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let mut program = Program::start(dir.path()).await;
    program.api.offers(8).await;
    let (api, admin) = (program.api, program.admin);
    let begun = Instant::now();
    program.signal();
    let url = format!("http://{admin}/readyz");
    eventually("not ready", async || {
        let answer = sidecar::http::client::request(&url, None).await.ok()?;
        (answer.status == 503).then_some(())
    })
    .await;
    let answer = api.ask(&wish(1)).await;
    assert_eq!(answer.status, StatusCode::OK, "still serving for a moment");
    let status = program.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(begun.elapsed().as_secs() < 10);
}

async fn no_secret_is_in_any_log_line(store: Store) {
    let dir = TempDir::new().unwrap();
    write_config_on(&store, dir.path());
    let mut program = Program::start(dir.path()).await;
    let offers = program.api.collect(3).await;
    let preimage = pay(program.dev, &offers[0].invoice).await.unwrap();
    let keys = program.api.bootstrap(None).await.unwrap().keys;
    let revoke = [
        "tokens",
        "revoke",
        "--config",
        "config.yaml",
        "--macaroon",
        &offers[0].macaroon,
    ];
    let revoked = run(dir.path(), &revoke).await;
    assert!(revoked.status.success());
    assert!(
        run(dir.path(), &["keys", "rotate", "--config", "config.yaml"])
            .await
            .status
            .success()
    );
    let ledger = store.open(dir.path()).await;
    let snapshot = ledger.snapshot().await.unwrap();
    program.signal();
    assert_eq!(program.ended().await.code(), Some(0));

    let mut log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    log.push_str(&String::from_utf8_lossy(&revoked.stdout));
    let mut secrets = vec![TOKEN.to_owned(), preimage];
    secrets.extend(keys.iter().map(|key| key.l402.clone()));
    for offer in &offers {
        secrets.push(offer.macaroon.clone());
    }
    for generation in &snapshot.generations {
        let KeySource::Ledger(master) = &generation.source else {
            panic!("not in the ledger")
        };
        secrets.push(hex_encode(master.expose()));
    }
    assert!(log.contains("\"message\":\"sale\""), "the log is there");
    // It would tell the parameters of statements, in whatever form.
    assert!(!log.contains("tokio_postgres"));
    for secret in secrets {
        let lower = log.to_lowercase();
        assert!(
            !lower.contains(&secret.to_lowercase()),
            "a secret is in the log"
        );
    }
}

#[tokio::test]
async fn tokens_are_revoked_by_any_name_from_the_command_line() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let program = Program::start(dir.path()).await;
    let offers = program.api.collect(3).await;
    let ledger = SqliteLedger::open(&dir.path().join("ledger.db")).unwrap();
    let name =
        sidecar::domain::ledger::OfferName::PaymentHash(offers[1].payment_hash.parse().unwrap());
    let token_id = ledger
        .find_offer(name)
        .await
        .unwrap()
        .unwrap()
        .token_id
        .to_string();
    for (flag, value) in [
        ("--payment-hash", offers[0].payment_hash.as_str()),
        ("--token-id", token_id.as_str()),
        ("--macaroon", offers[2].macaroon.as_str()),
    ] {
        let arguments = ["tokens", "revoke", flag, value, "--config", "config.yaml"];
        let output = run(dir.path(), &arguments).await;
        assert!(output.status.success(), "{flag}: {output:?}");
    }
    eventually("all revoked", async || {
        let bootstrap = program.api.bootstrap(None).await.unwrap();
        (bootstrap.revocations.add.len() == 3).then_some(())
    })
    .await;
    let unknown = [
        "tokens",
        "revoke",
        "--payment-hash",
        &"00".repeat(32),
        "--config",
        "config.yaml",
    ];
    assert_eq!(run(dir.path(), &unknown).await.status.code(), Some(1));
}

#[tokio::test]
async fn keys_rotate_while_serving_and_old_tokens_stay_good_until_their_key_is_revoked() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let lightning = "lightning: { dev: { listen: 127.0.0.1:0 } }";
    // In this process, since no configuration may have so short a window.
    let program = Sidecar::start_changed(dir, lightning, |config| {
        config.filters.live_window = Duration::from_secs(1);
    })
    .await;
    let dir = &program.dir;
    let old = program.api.offers(1).await.offers.remove(0);
    let paid = program.pay(&old.invoice).await.unwrap();
    let rotate = ["keys", "rotate", "--config", "config.yaml"];
    assert!(run(dir.path(), &rotate).await.status.success());
    let refused = run(dir.path(), &rotate).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("generation 1 is next"));

    let mut known: Option<String> = None;
    let fresh = eventually("an offer under the new key", async || {
        if let Some(bootstrap) = program.api.bootstrap(known.as_deref()).await {
            verified(&bootstrap, &old, &paid).unwrap();
            known = Some(bootstrap.version);
        }
        let offer = program.api.offers(1).await.offers.remove(0);
        let token = protocol::encoding::base64_decode_lenient(&offer.macaroon).unwrap();
        let macaroon = protocol::macaroon::Macaroon::parse(&token).unwrap();
        let id = protocol::l402::Identifier::parse(macaroon.identifier()).unwrap();
        (id.token_id.generation() == 1).then_some(offer)
    })
    .await;
    let bootstrap = program.api.bootstrap(None).await.unwrap();
    let paid_fresh = program.pay(&fresh.invoice).await.unwrap();
    verified(&bootstrap, &old, &paid).unwrap();
    verified(&bootstrap, &fresh, &paid_fresh).unwrap();

    // Somebody may know the old key.
    let revoke = |generation| {
        let revoke = ["keys", "revoke", "--config", "config.yaml", "--generation"];
        [&revoke, [generation].as_slice()].concat()
    };
    let current = run(dir.path(), &revoke("1")).await;
    assert_eq!(current.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&current.stderr).contains("generation 1 is current: rotate"));
    let asked = run(dir.path(), &revoke("0")).await;
    assert_eq!(asked.status.code(), Some(1));
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(told.contains("generation 0, 1 sold tokens"), "{told}");
    let listed = run(dir.path(), &["keys", "list", "--config", "config.yaml"]).await;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let held = "generation 0: Retired, issued what is valid until";
    assert!(listed.contains(held), "{listed}");
    assert!(listed.contains("held by 1 sold tokens, "), "{listed}");
    assert_eq!(program.api.bootstrap(None).await.unwrap().keys.len(), 2);
    let revoked = run(dir.path(), &[revoke("0").as_slice(), &["--yes"]].concat()).await;
    assert!(revoked.status.success(), "{revoked:?}");
    let begun = Instant::now();
    let bootstrap = eventually("the end of the old key", async || {
        let known = known.as_deref();
        program
            .api
            .bootstrap(known)
            .await
            .filter(|b| b.keys.len() == 1)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(verified(&bootstrap, &old, &paid).is_err());
    verified(&bootstrap, &fresh, &paid_fresh).unwrap();
}

#[tokio::test]
async fn a_rotation_that_waits_names_the_filter_that_it_waits_for() {
    let other = "fedcba9876543210fedcba9876543210";
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let program = Program::start(dir.path()).await;
    // One filter stays where it is, the other follows.
    program.api.bootstrap(None).await.unwrap();
    let rotate = ["keys", "rotate", "--config", "config.yaml"];
    assert!(run(dir.path(), &rotate).await.status.success());
    let poll = async |known: &str| {
        let target = format!("{BOOTSTRAP_PATH}?vm={other}{known}");
        program
            .api
            .send(program.api.request("GET", &target, ""))
            .await
    };
    let version = eventually("the new key is given out", async || {
        let bootstrap: Bootstrap = serde_json::from_slice(&poll("").await.body).unwrap();
        (bootstrap.keys.len() == 2).then_some(bootstrap.version)
    })
    .await;
    let acknowledged = poll(&format!("&known={version}")).await;
    assert_eq!(acknowledged.status, StatusCode::NOT_MODIFIED);

    let refused = run(dir.path(), &rotate).await;
    assert_eq!(refused.status.code(), Some(1));
    let said = String::from_utf8(refused.stderr).unwrap();
    let listed = run(dir.path(), &["keys", "list", "--config", "config.yaml"]).await;
    assert_eq!(listed.status.code(), Some(0));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for text in [&said, &listed] {
        let named = format!("filter VM {VM}, last seen ");
        let (_, rest) = text.split_once(&named).unwrap_or_else(|| panic!("{text}"));
        let (seconds, _) = rest.split_once(" s ago").unwrap();
        assert!(seconds.parse::<u64>().unwrap() < 60, "{text}");
        assert!(!text.contains(other), "{text}");
    }
    assert!(said.contains("generation 1 is next"), "{said}");

    program.kill();
    let refused = run(dir.path(), &rotate).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("no sidecar tells"), "{said}");
}

#[tokio::test]
async fn a_second_sidecar_on_the_same_ledger_is_refused() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let _program = Program::start(dir.path()).await;
    let output = run(
        dir.path(),
        &[
            "run",
            "--config",
            "config.yaml",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--set",
            "lightning.dev.listen=127.0.0.1:0",
        ],
    )
    .await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use by another sidecar"));
}

#[tokio::test]
async fn the_command_line_says_what_is_wrong_and_helps() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let good = run(dir.path(), &["check-config", "--config", "config.yaml"]).await;
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    std::fs::write(dir.path().join("bad.yaml"), "listen: x\nfoo: 1\n").unwrap();
    std::fs::write(
        dir.path().join("plugin.json"),
        "{\"services\": 5, \"bar\": 1}",
    )
    .unwrap();
    let arguments = [
        "check-config",
        "--config",
        "bad.yaml",
        "--plugin",
        "plugin.json",
    ];
    let bad = run(dir.path(), &arguments).await;
    assert_eq!(bad.status.code(), Some(64));
    let errors = String::from_utf8(bad.stderr).unwrap();
    for expected in [
        "listen: ",
        "foo: ",
        "ledger: ",
        "plugin.json: ",
        "services",
        "bar",
    ] {
        assert!(errors.contains(expected), "{expected} not in {errors}");
    }
    assert_eq!(
        run(dir.path(), &["run", "--config", "bad.yaml"])
            .await
            .status
            .code(),
        Some(64)
    );
    std::fs::write(dir.path().join("torn.yaml"), "listen: [1\n").unwrap();
    let torn = run(dir.path(), &["check-config", "--config", "torn.yaml"]).await;
    let errors = String::from_utf8(torn.stderr).unwrap();
    assert!(errors.starts_with("boltgate: torn.yaml: "), "{errors}");
    let nothing = run(dir.path(), &["keys", "list"]).await;
    assert_eq!(nothing.status.code(), Some(64));
    assert_eq!(
        String::from_utf8(nothing.stderr).unwrap(),
        "boltgate: no configuration was given: --config FILE or BOLTGATE_CONFIG\n"
    );
    let set = "ledger.sqlite.path=gone/l.db";
    let nowhere = run(
        dir.path(),
        &["run", "--config", "config.yaml", "--set", set],
    )
    .await;
    assert_eq!(nowhere.status.code(), Some(64));
    assert_eq!(
        String::from_utf8(nowhere.stderr).unwrap(),
        "boltgate: ledger.sqlite.path: there is no directory gone\n"
    );
    let schema = run(dir.path(), &["schema"]).await;
    assert!(serde_json::from_slice::<serde_json::Value>(&schema.stdout).is_ok());
    let plugin = run(dir.path(), &["schema", "plugin"]).await;
    assert!(serde_json::from_slice::<serde_json::Value>(&plugin.stdout).is_ok());
    assert!(run(dir.path(), &["completions", "bash"]).await.stdout.len() > 100);
    let version = run(dir.path(), &["--version"]).await;
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("boltgate 0."));
    let nobody = format!("http://{}/readyz", free_address());
    let health = run(dir.path(), &["healthcheck", "--url", &nobody]).await;
    assert_eq!(health.status.code(), Some(1));
}

#[tokio::test]
async fn an_invoice_is_paid_from_the_command_line() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let program = Program::start(dir.path()).await;
    let offer = program.api.offers(1).await.offers.remove(0);
    let url = format!("http://{}", program.dev);
    let paid = run(dir.path(), &["dev", "pay", &offer.invoice, "--url", &url]).await;
    let preimage = String::from_utf8(paid.stdout).unwrap();
    let bootstrap = program.api.bootstrap(None).await.unwrap();
    verified(&bootstrap, &offer, preimage.trim()).unwrap();
    let again = run(dir.path(), &["dev", "pay", &offer.invoice, "--url", &url]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already paid"));
}

#[tokio::test]
async fn who_asks_with_a_wrong_token_is_named_once_and_the_token_never() {
    use std::io::{Read as _, Write as _};
    let dir = TempDir::new().unwrap();
    write_config(dir.path());
    let program = Program::start(dir.path()).await;
    for _ in 0..3 {
        let mut stream = std::net::TcpStream::connect(program.api.0).unwrap();
        let request = "GET /v1/bootstrap?vm=a HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                       authorization: Bearer a-token-that-is-wrong\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    let log = read_log(dir.path());
    assert_eq!(log.matches("no valid bearer token").count(), 1, "{log}");
    assert!(log.contains(r#""peer":"127.0.0.1""#), "{log}");
    assert!(!log.contains("a-token-that-is-wrong"), "{log}");
}
