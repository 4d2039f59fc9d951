//! The command line.

mod check;
mod dev;
mod health;
mod ledger;
mod manage;
mod refunds;
mod revoke_key;
mod rotation;
mod serve;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::{self, Config, ConfigError, Sources};

/// `EX_USAGE`: the configuration or the command line is wrong.
const USAGE: u8 = 64;

/// Lightning payments for Envoy: the sidecar.
#[derive(Debug, Parser)]
#[command(name = "boltgate", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Run(ConfigArgs),
    /// Bring the ledger up to date with this program, or make it; `run` does the same unless
    /// `ledger.autoMigrate` is false.
    Migrate(ConfigArgs),
    /// Whether the ledger adds up, and what is in it for the books.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Check the sidecar's configuration, a plugin configuration, or both.
    CheckConfig(check::CheckArgs),
    /// Ask a running sidecar whether it is ready; exit status 0 if so.
    Healthcheck(health::HealthArgs),
    /// Print a JSON schema.
    Schema {
        /// Of which file.
        #[arg(value_enum, default_value_t = SchemaOf::Sidecar)]
        of: SchemaOf,
    },
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// The embedded dev network.
    #[command(subcommand)]
    Dev(dev::DevCommand),
    /// Tokens that were sold.
    #[command(subcommand)]
    Tokens(manage::TokensCommand),
    /// What closed sessions are owed.
    #[command(subcommand)]
    Refunds(refunds::RefundsCommand),
    /// Master keys.
    #[command(subcommand)]
    Keys(manage::KeysCommand),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    /// The sidecar's YAML.
    Sidecar,
    /// The filter's plugin configuration.
    Plugin,
}

/// Where the configuration comes from. Variables such as `BOLTGATE_OFFERS_BURST` go over the
/// file, flags over both.
#[derive(Args, Clone, Debug)]
struct ConfigArgs {
    /// YAML file.
    #[arg(long, env = "BOLTGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for filters.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address for probes and metrics.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Log level or filter.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any setting, such as `offers.invoiceExpiry=5m`.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,
}

impl ConfigArgs {
    fn load(&self) -> Result<Config, Vec<ConfigError>> {
        self.load_as(false)
    }

    /// `looks_at_files`: those that are read only later must be there too.
    fn load_as(&self, looks_at_files: bool) -> Result<Config, Vec<ConfigError>> {
        let file = match &self.config {
            None => String::new(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                vec![ConfigError {
                    path: path.display().to_string(),
                    problem: error.to_string(),
                }]
            })?,
        };
        let named = [
            ("listen", &self.listen),
            ("admin", &self.admin),
            ("log.level", &self.log_level),
        ];
        let named = named
            .into_iter()
            .filter_map(|(path, value)| Some(format!("{path}={}", value.as_ref()?)));
        let flags = self.set.iter().cloned().chain(named).collect();
        // What is no Unicode is no name of ours.
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        let sources = Sources {
            file,
            flags,
            variables: variables.collect(),
            looks_at_files,
        };
        let loaded = config::load(&sources, |name| std::env::var(name).ok());
        loaded.map_err(|errors| self.explained(errors))
    }

    /// Names the file in errors that are about all of it, and says when there was none.
    fn explained(&self, mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
        let Some(file) = &self.config else {
            let is_missing = |path| errors.iter().any(|error| error.path == path);
            let none = ConfigError {
                path: String::new(),
                problem: "no configuration was given: --config FILE or BOLTGATE_CONFIG".to_owned(),
            };
            if is_missing("ledger") && is_missing("lightning") {
                return vec![none];
            }
            errors.insert(0, none);
            return errors;
        };
        for error in errors.iter_mut().filter(|error| error.path.is_empty()) {
            error.path = file.display().to_string();
        }
        errors
    }
}

/// Does what was asked for.
pub async fn execute(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => with_config(&args, serve::run).await,
        Command::Migrate(args) => ledger::migrate(&args).await,
        Command::Ledger(command) => ledger::execute(command).await,
        Command::CheckConfig(args) => check::check(&args),
        Command::Healthcheck(args) => health::check(&args).await,
        Command::Schema {
            of: SchemaOf::Sidecar,
        } => print(config::SCHEMA),
        Command::Schema {
            of: SchemaOf::Plugin,
        } => print(&protocol::policy::schema_text()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "boltgate", &mut io::stdout());
            ExitCode::SUCCESS
        }
        Command::Dev(command) => dev::execute(command).await,
        Command::Tokens(command) => manage::tokens(command).await,
        Command::Refunds(command) => refunds::execute(command).await,
        Command::Keys(command) => manage::keys(command).await,
    }
}

async fn with_config<F: Future<Output = ExitCode>>(
    args: &ConfigArgs,
    work: impl FnOnce(Config) -> F,
) -> ExitCode {
    match args.load() {
        Ok(config) => work(config).await,
        Err(errors) => refuse(&errors),
    }
}

fn refuse<E: std::fmt::Display>(errors: impl IntoIterator<Item = E>) -> ExitCode {
    for error in errors {
        eprintln!("boltgate: {error}");
    }
    ExitCode::from(USAGE)
}

fn fail(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("boltgate: {error}");
    ExitCode::FAILURE
}

fn print(text: &str) -> ExitCode {
    println!("{}", text.trim_end());
    ExitCode::SUCCESS
}
