//! One client of other people's making: a program of `tests/clients` that runs as long as this
//! handle does, so that what it keeps in memory is kept.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::paths;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Longest wait for one answer: a payment is part of it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Which client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// npm `@getalby/lightning-tools`, `fetch402`, which keeps tokens.
    Alby,
    /// The same, `fetchWithL402`.
    AlbyL402,
    /// npm `l402`.
    Axios,
    /// PyPI `l402-requests`.
    L402Requests,
    /// PyPI `l402kit`.
    L402Kit,
    /// npm `mppx`.
    Mppx,
    /// PyPI `pympp`.
    Pympp,
    /// Crate `mpp`.
    Mpp,
    /// npm `@getalby/lightning-tools`, `fetch402`, which buys charges.
    AlbyCharge,
    /// The same, `fetchWithMpp`.
    AlbyMpp,
    /// npm `mppx` with a session.
    MppxSession,
    /// PyPI `pympp` with a session.
    PymppSession,
    /// Crate `mpp` with a session.
    MppSession,
}

impl Kind {
    /// All that buy tokens.
    pub(crate) const L402: [Self; 5] = [
        Self::Alby,
        Self::AlbyL402,
        Self::Axios,
        Self::L402Requests,
        Self::L402Kit,
    ];
    /// All that buy charges where nothing else is sold.
    pub(crate) const CHARGE: [Self; 6] = [
        Self::Mppx,
        Self::Pympp,
        Self::Mpp,
        Self::AlbyCharge,
        Self::AlbyMpp,
        Self::L402Requests,
    ];

    /// Each once.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let charge = Self::CHARGE.into_iter();
        Self::L402
            .into_iter()
            .chain(charge.filter(|kind| !Self::L402.contains(kind)))
    }

    fn command(self, pay_url: &str) -> anyhow::Result<Command> {
        let (file, more) = match self {
            Self::Alby => ("alby.cjs", Some("fetch402")),
            Self::AlbyL402 => ("alby.cjs", Some("fetchWithL402")),
            Self::Axios => ("l402_axios.cjs", None),
            Self::L402Requests => ("buy_l402_requests.py", None),
            Self::L402Kit => ("buy_l402kit.py", None),
            Self::Mppx => ("mppx.cjs", None),
            Self::Pympp => ("buy_pympp.py", None),
            Self::Mpp => ("", None),
            Self::AlbyCharge => ("alby_charge.cjs", Some("fetch402")),
            Self::AlbyMpp => ("alby_charge.cjs", Some("fetchWithMpp")),
            Self::MppxSession => ("mppx.cjs", Some("session")),
            Self::PymppSession => ("buy_pympp.py", Some("session")),
            Self::MppSession => ("", Some("session")),
        };
        let source = paths::root().join("tests/clients").join(file);
        let mut command = if file.ends_with(".py") {
            let mut python = Command::new(paths::tool("clients-py/bin/python")?);
            // No byte code among the sources.
            python.arg("-B").arg(source);
            python
        } else if file.ends_with(".cjs") {
            let installed = paths::tool("clients-js/package.json")?;
            let mut node = Command::new("node");
            node.env("NODE_PATH", installed.with_file_name("node_modules"));
            node.arg(source);
            node
        } else {
            Command::new(paths::tool("clients-rs/debug/boltgate-test-mpp")?)
        };
        command.arg(pay_url).args(more);
        // The gate is on loopback, whatever proxy the machine uses for the world.
        command
            .env("NO_PROXY", "127.0.0.1")
            .env("no_proxy", "127.0.0.1");
        Ok(command)
    }
}

/// A running client.
#[derive(Debug)]
pub(crate) struct Client {
    kind: Kind,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    // Killed when dropped.
    _program: Child,
}

/// What it made of one request.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// Status of the last answer it got.
    pub(crate) status: u64,
    /// Body of that answer.
    pub(crate) body: String,
    /// All payments it has made so far.
    pub(crate) payments: u64,
    /// The receipt of that answer as the client has read it; `Null` if it reads none.
    pub(crate) receipt: Value,
}

impl Client {
    /// Starts one whose wallet pays at `pay_url`.
    pub(crate) fn start(kind: Kind, pay_url: &str) -> anyhow::Result<Self> {
        let mut program = kind
            .command(pay_url)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {kind:?}"))?;
        let input = program.stdin.take().context("no standard input")?;
        let output = program.stdout.take().context("no standard output")?;
        Ok(Self {
            kind,
            input,
            output: BufReader::new(output).lines(),
            _program: program,
        })
    }

    /// Lets it get `url` as its users do. One with a session does something else with it if an
    /// action is named after the URL, `topUp` or `close`.
    pub(crate) async fn get(&mut self, url: &str) -> anyhow::Result<Said> {
        self.input.write_all(format!("{url}\n").as_bytes()).await?;
        let line = tokio::time::timeout(TIMEOUT, self.output.next_line())
            .await
            .with_context(|| format!("{:?} does not answer", self.kind))??
            .with_context(|| format!("{:?} has ended", self.kind))?;
        let said: Value =
            serde_json::from_str(&line).with_context(|| format!("{:?}: {line}", self.kind))?;
        let number = |key| said.get(key).and_then(Value::as_u64);
        let body = said
            .get("body")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let (status, payments) = (number("status"), number("payments"));
        ensure!(status.is_some(), "{:?}: {line}", self.kind);
        Ok(Said {
            status: status.unwrap_or_default(),
            body,
            receipt: said.get("receipt").cloned().unwrap_or_default(),
            payments: payments.with_context(|| format!("{:?}: {line}", self.kind))?,
        })
    }
}
