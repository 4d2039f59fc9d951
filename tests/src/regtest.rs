//! A real Lightning network on a private Bitcoin chain: btcd, the seller's LND node, the buyer's,
//! and a channel with money on both sides. Up in about 12 seconds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::eventually::eventually_blocking;
use crate::process::Process;
use crate::wallet::{Lncli, Wallet};
use crate::{paths, ports};

const RPC_USER: &str = "boltgate";
const RPC_PASSWORD: &str = "regtest";
/// Makes a wallet by itself and unlocks it at each start.
const NO_SEED: &str = "--noseedbackup";
/// What the sidecar's macaroon may do, and no more.
const SIDECAR_PERMISSIONS: [&str; 7] = [
    "uri:/lnrpc.Lightning/AddInvoice",
    "uri:/lnrpc.Lightning/SubscribeInvoices",
    "uri:/lnrpc.Lightning/LookupInvoice",
    "uri:/lnrpc.Lightning/GetInfo",
    "uri:/invoicesrpc.Invoices/CancelInvoice",
    "uri:/routerrpc.Router/SendPaymentV2",
    "uri:/routerrpc.Router/TrackPaymentV2",
];

/// The network. Calls block: from asynchronous tests use the few `async` methods of
/// [`LndNode`], or accept that start-up holds one thread for some seconds.
#[derive(Debug)]
pub struct Regtest {
    /// Who is paid: the sidecar's node.
    pub seller: LndNode,
    /// Who pays.
    pub buyer: LndNode,
    btcd: Btcd,
}

impl Regtest {
    /// The network that all tests of this program share; started at first use. Tests that kill or
    /// freeze a node start one of their own with [`Self::start`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceLock<Result<Regtest, String>> = OnceLock::new();
        let name = std::env::current_exe()?;
        let name = name
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        SHARED
            .get_or_init(|| {
                let name = format!("regtest-{}", name.unwrap_or_default());
                Self::start(&name).map_err(|error| format!("{error:#}"))
            })
            .as_ref()
            .map_err(|error| anyhow::anyhow!("no regtest network: {error}"))
    }

    /// Starts a network that keeps its files in `target/e2e/<name>`.
    ///
    /// # Errors
    /// When a program is missing or does not come up.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        let folder = paths::fresh_folder(name)?;
        let mut btcd = Btcd::prepare(&folder)?;
        btcd.start(None)?;
        let seller = LndNode::start(&folder, "seller", &btcd)?;
        // Blocks pay the seller's node; btcd takes the address only on its command line.
        let address = seller.lncli().run_blocking(&["newaddress", "p2wkh"])?;
        let address = address
            .get("address")
            .and_then(Value::as_str)
            .context("no address")?;
        btcd.start(Some(address))?;
        // btcd's regtest has segwit only after three periods of 144 blocks.
        btcd.mine(450)?;
        let buyer = LndNode::start(&folder, "buyer", &btcd)?;
        for node in [&seller, &buyer] {
            node.wait_synced()?;
        }
        let network = Self {
            seller,
            buyer,
            btcd,
        };
        network.open_channel()?;
        Ok(network)
    }

    fn open_channel(&self) -> anyhow::Result<()> {
        let seller = self.seller.lncli();
        eventually_blocking("the seller has coins", Duration::from_secs(60), || {
            let balance = seller.run_blocking(&["walletbalance"])?;
            let confirmed = balance.get("confirmed_balance").and_then(Value::as_str);
            ensure!(confirmed.is_some_and(|sats| sats != "0"), "no coins yet");
            Ok(())
        })?;
        let buyer = self.buyer.public_key()?;
        let host = format!("127.0.0.1:{}", self.buyer.peers);
        seller.run_blocking(&["connect", &format!("{buyer}@{host}")])?;
        // The seller opens and hands the buyer half of it: money on both sides.
        let open = [
            "openchannel",
            "--local_amt",
            "16000000",
            "--push_amt",
            "8000000",
            "--node_key",
        ];
        eventually_blocking("the channel is opened", Duration::from_secs(30), || {
            seller.run_blocking(&[&open[..], &[&buyer]].concat())
        })?;
        self.btcd.mine(6)?;
        for node in [&self.seller, &self.buyer] {
            node.wait_channel()?;
        }
        self.wait_payable()
    }

    /// Waits until a payment from buyer to seller succeeds: an active channel is not yet one that
    /// the payer's router knows. The payment that shows it is one satoshi.
    ///
    /// # Errors
    /// When none succeeds.
    pub fn wait_payable(&self) -> anyhow::Result<()> {
        let (seller, buyer) = (self.seller.lncli(), self.buyer.lncli());
        eventually_blocking("the buyer can pay", Duration::from_secs(60), || {
            let invoice = seller.run_blocking(&["addinvoice", "--amt", "1"])?;
            let invoice = invoice.get("payment_request").and_then(Value::as_str);
            let invoice = invoice.context("no invoice")?;
            buyer
                .run_blocking(&["payinvoice", "--force", "--json", invoice])
                .map(drop)
        })
    }

    /// Mines blocks.
    ///
    /// # Errors
    /// When btcd does not answer.
    pub fn mine(&self, blocks: u32) -> anyhow::Result<()> {
        self.btcd.mine(blocks)
    }

    /// The buyer's wallet.
    #[must_use]
    pub fn wallet(&self) -> Wallet {
        Wallet::Lnd(self.buyer.lncli())
    }
}

#[derive(Debug)]
struct Btcd {
    folder: PathBuf,
    rpc: u16,
    peers: u16,
    process: Option<Process>,
}

impl Btcd {
    fn prepare(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.join("btcd");
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            rpc: ports::free()?,
            peers: ports::free()?,
            process: None,
        })
    }

    fn start(&mut self, mining_address: Option<&str>) -> anyhow::Result<()> {
        if let Some(mut running) = self.process.take() {
            running.stop(Duration::from_secs(20))?;
        }
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut command = Command::new(paths::tool("lightning/btcd")?);
        command
            .args([
                "--regtest",
                "--txindex",
                "--nodnsseed",
                "--configfile=/dev/null",
            ])
            .arg(format!("--datadir={}", at("data")))
            .arg(format!("--logdir={}", at("logs")))
            .arg(format!("--rpccert={}", at("rpc.cert")))
            .arg(format!("--rpckey={}", at("rpc.key")))
            .arg(format!("--rpcuser={RPC_USER}"))
            .arg(format!("--rpcpass={RPC_PASSWORD}"))
            .arg(format!("--rpclisten=127.0.0.1:{}", self.rpc))
            .arg(format!("--listen=127.0.0.1:{}", self.peers));
        if let Some(address) = mining_address {
            command.arg(format!("--miningaddr={address}"));
        }
        let mut process = Process::spawn("btcd", &self.folder.join("btcd.log"), &command)?;
        eventually_blocking("btcd answers", Duration::from_secs(30), || {
            process.check_running()?;
            self.ctl(&["getblockcount"])
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(paths::tool("lightning/btcctl")?)
            .args(["--regtest", "--configfile=/dev/null"])
            .arg(format!("--rpcserver=127.0.0.1:{}", self.rpc))
            .arg(format!(
                "--rpccert={}",
                self.folder.join("rpc.cert").display()
            ))
            .arg(format!("--rpcuser={RPC_USER}"))
            .arg(format!("--rpcpass={RPC_PASSWORD}"))
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!(
                "btcctl {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn mine(&self, blocks: u32) -> anyhow::Result<()> {
        self.ctl(&["generate", &blocks.to_string()]).map(drop)
    }
}

/// An LND node that can be killed, frozen and started again.
#[derive(Debug)]
pub struct LndNode {
    folder: PathBuf,
    rpc: u16,
    rest: u16,
    peers: u16,
    command: CommandLine,
    process: Mutex<Option<Process>>,
}

/// Program and arguments, kept to start the node again.
#[derive(Debug)]
struct CommandLine(PathBuf, Vec<String>);

impl LndNode {
    fn start(network: &Path, name: &str, btcd: &Btcd) -> anyhow::Result<Self> {
        let folder = network.join(name);
        std::fs::create_dir_all(&folder)?;
        let (rpc, rest, peers) = (ports::free()?, ports::free()?, ports::free()?);
        let args = vec![
            NO_SEED.to_owned(),
            "--bitcoin.regtest".to_owned(),
            "--bitcoin.node=btcd".to_owned(),
            format!("--btcd.rpchost=127.0.0.1:{}", btcd.rpc),
            format!("--btcd.rpcuser={RPC_USER}"),
            format!("--btcd.rpcpass={RPC_PASSWORD}"),
            format!("--btcd.rpccert={}", btcd.folder.join("rpc.cert").display()),
            "--nobootstrap".to_owned(),
            "--bitcoin.defaultchanconfs=1".to_owned(),
            "--trickledelay=50".to_owned(),
            format!("--lnddir={}", folder.display()),
            format!("--rpclisten=127.0.0.1:{rpc}"),
            format!("--restlisten=127.0.0.1:{rest}"),
            format!("--listen=127.0.0.1:{peers}"),
            format!("--alias={name}"),
        ];
        let command = CommandLine(paths::tool("lightning/lnd")?, args);
        let node = Self {
            folder,
            rpc,
            rest,
            peers,
            command,
            process: Mutex::new(None),
        };
        // A chain without blocks is never synced, so the first node cannot serve all yet.
        node.spawn(&["RPC_ACTIVE", "SERVER_ACTIVE"])?;
        if !node.baked_macaroon().is_file() {
            let save = format!("--save_to={}", node.baked_macaroon().display());
            let bake = ["bakemacaroon", &save];
            let args: Vec<&str> = bake.into_iter().chain(SIDECAR_PERMISSIONS).collect();
            node.lncli().run_text_blocking(&args)?;
        }
        Ok(node)
    }

    /// Starts it again after [`Self::kill`] (or kills it first) and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.kill();
        self.spawn(&["SERVER_ACTIVE"])
    }

    fn spawn(&self, until: &[&str]) -> anyhow::Result<()> {
        self.spawn_with(until, |_| true)
    }

    fn spawn_with(&self, until: &[&str], keep: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let CommandLine(program, args) = &self.command;
        let mut command = Command::new(program);
        command.args(args.iter().filter(|arg| keep(arg)));
        let process = Process::spawn("lnd", &self.folder.join("lnd.log"), &command)?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
        self.wait_state(until)
    }

    fn wait_state(&self, states: &[&str]) -> anyhow::Result<()> {
        eventually_blocking("lnd is as it should be", Duration::from_secs(60), || {
            if let Some(process) = &mut *self.process.lock().unwrap_or_else(PoisonError::into_inner)
            {
                process.check_running()?;
            }
            let state = self.lncli().run_blocking(&["state"])?;
            let state = state
                .get("state")
                .and_then(Value::as_str)
                .unwrap_or_default();
            ensure!(states.contains(&state), "lnd's state is {state}");
            Ok(())
        })
    }

    /// Starts it again with its wallet locked, as a node stands there after a reboot until its
    /// operator comes. [`Self::restart`] opens it: the passwords of such a wallet are none that
    /// `lncli unlock` can say.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart_locked(&self) -> anyhow::Result<()> {
        self.kill();
        self.spawn_with(&["LOCKED"], |arg| arg != NO_SEED)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&self) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes it hang: connections stay, answers do not come.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.with_process(Process::freeze)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.with_process(Process::thaw)
    }

    fn with_process(&self, act: impl FnOnce(&Process) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        act(process.as_ref().context("the node does not run")?)
    }

    fn wait_synced(&self) -> anyhow::Result<()> {
        eventually_blocking("lnd follows the chain", Duration::from_secs(60), || {
            let info = self.lncli().run_blocking(&["getinfo"])?;
            let synced = info.get("synced_to_chain").and_then(Value::as_bool);
            ensure!(synced == Some(true), "not synced");
            let state = self.lncli().run_blocking(&["state"])?;
            let state = state
                .get("state")
                .and_then(Value::as_str)
                .unwrap_or_default();
            ensure!(state == "SERVER_ACTIVE", "lnd's state is {state}");
            Ok(())
        })
    }

    /// Waits until its channel can carry payments, e.g. after a restart.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn wait_channel(&self) -> anyhow::Result<()> {
        eventually_blocking("the channel is active", Duration::from_secs(60), || {
            let channels = self
                .lncli()
                .run_blocking(&["listchannels", "--active_only"])?;
            let channels = channels.get("channels").and_then(Value::as_array);
            ensure!(
                channels.is_some_and(|all| !all.is_empty()),
                "no active channel"
            );
            Ok(())
        })
    }

    /// The node's public key.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn public_key(&self) -> anyhow::Result<String> {
        let info = self.lncli().run_blocking(&["getinfo"])?;
        let key = info
            .get("identity_pubkey")
            .and_then(Value::as_str)
            .context("no key")?;
        Ok(key.to_owned())
    }

    /// What the node knows of an invoice.
    ///
    /// # Errors
    /// When it knows nothing of it or does not answer.
    pub async fn lookup(&self, payment_hash: &str) -> anyhow::Result<Value> {
        self.lncli().run(&["lookupinvoice", payment_hash]).await
    }

    /// Its command-line client with all rights.
    #[must_use]
    pub fn lncli(&self) -> Lncli {
        Lncli {
            program: self.command.0.with_file_name("lncli"),
            server: format!("127.0.0.1:{}", self.rpc),
            tls_cert: self.tls_cert(),
            macaroon: self
                .folder
                .join("data/chain/bitcoin/regtest/admin.macaroon"),
        }
    }

    /// URL of its gRPC interface.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.rpc)
    }

    /// URL of its REST interface.
    #[must_use]
    pub fn rest(&self) -> String {
        format!("https://127.0.0.1:{}", self.rest)
    }

    /// Its TLS certificate.
    #[must_use]
    pub fn tls_cert(&self) -> PathBuf {
        self.folder.join("tls.cert")
    }

    /// A macaroon that may do what the sidecar does, and no more.
    #[must_use]
    pub fn baked_macaroon(&self) -> PathBuf {
        self.folder.join("boltgate.macaroon")
    }
}
