//! The sidecar with a configuration rendered for one test.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::envoy::merge;
use crate::http_client::Http;
use crate::macaroon::{hex, unhex};
use crate::process::Process;
use crate::regtest::LndNode;
use crate::{eventually, paths, ports};

/// The Lightning node that a sidecar uses.
#[derive(Clone, Copy, Debug)]
pub enum Node<'a> {
    /// The embedded network.
    Dev,
    /// A real node.
    Lnd(&'a LndNode),
}

/// One sale as the ledger has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sale {
    /// 64 hex digits.
    pub payment_hash: String,
    /// `l402`.
    pub scheme: String,
    /// Name of the service.
    pub service: String,
    /// What was paid.
    pub amount_msat: i64,
    /// Unix seconds.
    pub settled_at: i64,
}

/// A sidecar; running or not.
#[derive(Debug)]
pub struct Sidecar {
    /// The program while it runs.
    pub process: Option<Process>,
    /// Seconds by which its clock is wrong, from the next start on. Only programs that are built
    /// for tests take it: `cargo test --workspace` builds one.
    pub clock_seconds: i64,
    folder: PathBuf,
    token: String,
    api: u16,
    admin: u16,
    dev: u16,
}

impl Sidecar {
    /// Renders a configuration into `folder` and starts nothing yet. `over` is merged over it.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn prepare(
        folder: &Path,
        node: Node<'_>,
        token: &str,
        over: Value,
    ) -> anyhow::Result<Self> {
        let ports = [ports::free()?, ports::free()?, ports::free()?];
        Self::prepare_on(ports, folder, node, token, over)
    }

    /// [`Self::prepare`] with given ports: API, admin, embedded network.
    ///
    /// # Errors
    /// When files cannot be written.
    pub fn prepare_on(
        [api, admin, dev]: [u16; 3],
        folder: &Path,
        node: Node<'_>,
        token: &str,
        over: Value,
    ) -> anyhow::Result<Self> {
        let (folder, token) = (folder.to_path_buf(), token.to_owned());
        let sidecar = Self {
            process: None,
            clock_seconds: 0,
            folder,
            token,
            api,
            admin,
            dev,
        };
        let (folder, token) = (&sidecar.folder, &sidecar.token);
        fs::write(folder.join("token"), token)?;
        let lightning = match node {
            Node::Dev => json!({ "dev": {
                "listen": sidecar.dev_address().to_string(), "network": "regtest",
            } }),
            Node::Lnd(lnd) => json!({ "lnd": {
                "endpoint": lnd.endpoint(),
                "tlsCertFile": lnd.tls_cert(),
                "macaroonFile": lnd.baked_macaroon(),
            } }),
        };
        let mut config = json!({
            "listen": sidecar.address().to_string(),
            "admin": sidecar.admin_address().to_string(),
            "tokenFiles": [folder.join("token")],
            "ledger": { "sqlite": { "path": sidecar.ledger() } },
            "lightning": lightning,
            "drain": "2s",
        });
        merge(&mut config, over);
        if let Some(ledger) = config.get_mut("ledger").and_then(Value::as_object_mut)
            && ledger.contains_key("postgres")
        {
            ledger.remove("sqlite");
        }
        // JSON is YAML.
        fs::write(sidecar.config(), format!("{config:#}"))?;
        Ok(sidecar)
    }

    /// Starts it and waits until it serves its API (not until it is ready: see [`Self::ready`]).
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(paths::program("boltgate")?);
        command.arg("run").arg("--config").arg(self.config());
        if self.clock_seconds != 0 {
            command.env("FAULT_CLOCK_SECONDS", self.clock_seconds.to_string());
        }
        let log = self.folder.join("sidecar.log");
        self.process = Some(Process::spawn("sidecar", &log, &command)?);
        let health = Http::new(self.admin_address());
        let (process, api) = (std::sync::Mutex::new(&mut self.process), self.api);
        eventually("the sidecar is alive", Duration::from_secs(20), || {
            let running = match process.lock() {
                Ok(mut process) => process.as_mut().map_or(Ok(()), Process::check_running),
                Err(_) => Ok(()),
            };
            let health = health.get("/healthz");
            async move {
                running?;
                ensure!(health.send().await?.status == 200, "not healthy");
                tokio::net::TcpStream::connect(("127.0.0.1", api)).await?;
                Ok(())
            }
        })
        .await
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it is not ready in time; the error holds what it said.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let admin = Http::new(self.admin_address());
        eventually("the sidecar is ready", Duration::from_secs(30), || async {
            let answer = admin.get("/readyz").send().await?;
            ensure!(answer.status == 200, "not ready: {}", answer.text());
            Ok(())
        })
        .await
    }

    /// Ends it at once, as a crash would. It may be started again.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Kills it and starts it again on the same ports and the same ledger.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill();
        self.start().await
    }

    /// The running program.
    ///
    /// # Errors
    /// When it does not run.
    pub fn running(&self) -> anyhow::Result<&Process> {
        self.process.as_ref().context("the sidecar does not run")
    }

    /// Runs `boltgate ARGS… --config FILE` to its end and gives what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(paths::program("boltgate")?)
            .args(args)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            bail!("boltgate {}: {}\n{said}", args.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One metric's value from `/metrics`, summed over its labels; only lines that hold each of
    /// `labels` (as `name="value"`) count.
    ///
    /// # Errors
    /// When the admin port does not answer.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let text = Http::new(self.admin_address())
            .get("/metrics")
            .send()
            .await?
            .text();
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with([' ', '{']) && labels.iter().all(|label| rest.contains(label))
        });
        Ok(lines
            .filter_map(|line| line.split_whitespace().next_back()?.parse::<f64>().ok())
            .sum())
    }

    /// Sales in the ledger, oldest first. Read from the file, whether the sidecar runs or not.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn sales(&self) -> anyhow::Result<Vec<Sale>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = Connection::open_with_flags(self.ledger(), flags)?;
        ledger.busy_timeout(Duration::from_secs(5))?;
        let sql = "SELECT payment_hash, scheme, service, amount_msat, settled_at FROM sales \
                   ORDER BY settled_at, payment_hash";
        let mut query = ledger.prepare(sql)?;
        let sales = query.query_map([], |row| {
            Ok(Sale {
                payment_hash: hex(&row.get::<_, Vec<u8>>(0)?),
                scheme: row.get(1)?,
                service: row.get(2)?,
                amount_msat: row.get(3)?,
                settled_at: row.get(4)?,
            })
        })?;
        Ok(sales.collect::<Result<_, _>>()?)
    }

    /// What a session (64 hex digits) has been paid and has spent, in satoshi. Read from the file.
    ///
    /// # Errors
    /// When the ledger cannot be read, or has no such session.
    pub fn session(&self, id: &str) -> anyhow::Result<(u64, u64)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = Connection::open_with_flags(self.ledger(), flags)?;
        ledger.busy_timeout(Duration::from_secs(5))?;
        let sql = "SELECT deposited_sat, spent_sat FROM sessions WHERE session_id = ?1";
        let amounts = ledger.query_row(sql, [unhex(id)?], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })?;
        Ok((amounts.0.try_into()?, amounts.1.try_into()?))
    }

    /// Units of a session (64 hex digits) that filters hold and have not reported as spent. Read
    /// from the file.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn held(&self, id: &str) -> anyhow::Result<u64> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = Connection::open_with_flags(self.ledger(), flags)?;
        ledger.busy_timeout(Duration::from_secs(5))?;
        let sql = "SELECT coalesce(sum(granted - used), 0) FROM lease_holders
                   WHERE session_id = ?1 AND is_live = 1";
        let held: i64 = ledger.query_row(sql, [unhex(id)?], |row| row.get(0))?;
        Ok(held.try_into()?)
    }

    /// All that it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("sidecar.log")).unwrap_or_default()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("boltgate.yaml")
    }

    /// The ledger file.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.folder.join("ledger.db")
    }

    /// The bearer token of the filters.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Where the filters' API is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.api))
    }

    /// Where probes and metrics are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.admin))
    }

    /// Where the embedded network takes payments.
    #[must_use]
    pub fn dev_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.dev))
    }
}
