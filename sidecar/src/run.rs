//! From a configuration to a running sidecar, and to its end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::ledger::sqlite::{Commit, ServingLock, SqliteLedger};
use crate::adapters::ledger::{AnyLedger, Migration};
use crate::adapters::lightning::dev::{self, DevNode};
use crate::adapters::lightning::lnd::LndNode;
use crate::adapters::system::{SystemClock, SystemRandom};
use crate::app::keys::MasterKeys;
use crate::app::state::StateError;
use crate::app::{App, Parts};
use crate::config::{
    self, BearerTokens, Config, LedgerConfig, LightningConfig, StoreConfig, TlsFiles,
};
use crate::domain::ledger::LedgerError;
use crate::domain::ports::{Clock, Ledger as _, Lightning, LightningError, Random};
use crate::files::follow;
use crate::http::serve::Door;
use crate::http::silence::Silence;
use crate::http::strangers::Strangers;
use crate::http::{admin, api, tls};
use crate::metrics::Metrics;

/// For so long a sidecar that is going away still answers everything, so that who balances load
/// has seen that it is not ready any more.
const LONGEST_FAREWELL: Duration = Duration::from_secs(2);
/// For cancelling what is left in the pools.
const CANCELLING: Duration = Duration::from_secs(3);

/// Why there is no sidecar.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Keys cannot be had.
    #[error(transparent)]
    State(#[from] StateError),
    /// The node cannot even be tried.
    #[error(transparent)]
    Lightning(#[from] LightningError),
    /// A listener cannot be opened.
    #[error("listener: {0}")]
    Listen(#[from] io::Error),
}

/// A sidecar that serves.
#[derive(Debug)]
pub struct Running {
    /// Where filters ask.
    pub api: SocketAddr,
    /// Where probes ask.
    pub admin: SocketAddr,
    /// The dev network's door, if there is one.
    pub dev: Option<SocketAddr>,
    end: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Returns when the sidecar has ended.
    pub async fn ended(self) {
        if let Err(error) = self.end.await {
            tracing::error!(%error, "the sidecar did not end in order");
        }
    }
}

/// Serves until `shutdown`, then drains; returns when all is written.
///
/// # Errors
/// It could not start.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), StartError> {
    start(config, shutdown).await?.ended().await;
    Ok(())
}

/// As [`run`], and returns as soon as it serves.
///
/// # Errors
/// It could not start.
pub async fn start(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, StartError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    match config.lightning.clone() {
        LightningConfig::Dev {
            path,
            listen,
            invoice_delay,
        } => {
            tracing::warn!(
                "DEV NETWORK: invoices are paid by asking for it. NO MONEY MOVES. Never sell \
                 anything with it"
            );
            let node = DevNode::open(
                &path,
                invoice_delay,
                Arc::clone(&clock),
                Arc::clone(&random),
            )?;
            let door = Door::open(
                listen,
                dev::http::router(node.clone()),
                Silence::between_requests(),
            )
            .await?;
            start_with(config, node, Some(door), clock, random, shutdown).await
        }
        LightningConfig::Lnd(settings) => {
            let node = LndNode::new(settings, Arc::clone(&clock))?;
            start_with(config, node, None, clock, random, shutdown).await
        }
    }
}

async fn start_with<N: Lightning>(
    config: Config,
    node: N,
    dev: Option<Door>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Running, StartError> {
    let lock = lock_for_serving(&config.ledger.store)?;
    let metrics = Arc::new(Metrics::new());
    let ledger = Arc::new(open_ledger(&config.ledger, &metrics).await?);
    let parts = Parts {
        ledger,
        lightning: node,
        master_keys: MasterKeys::new(config.master_keys.clone(), config.master_key_file.clone()),
        clock,
        random,
        metrics,
    };
    let app = App::start(parts, config.offers, config.filters, config.refunds).await?;
    let doors = Doors::open(&config, &app, dev).await?;
    let (api, admin, dev) = doors.addresses()?;
    tracing::info!(%api, %admin, version = env!("CARGO_PKG_VERSION"), "serving");
    let end = tokio::spawn(serve(app, doors, config.drain, shutdown, lock));
    Ok(Running {
        api,
        admin,
        dev,
        end,
    })
}

/// A file is for one sidecar; a database for any number.
fn lock_for_serving(store: &StoreConfig) -> Result<Option<ServingLock>, LedgerError> {
    match store {
        StoreConfig::Sqlite(path) => SqliteLedger::lock_for_serving(path).map(Some),
        StoreConfig::Postgres(_) => Ok(None),
    }
}

async fn open_ledger(
    config: &LedgerConfig,
    metrics: &Arc<Metrics>,
) -> Result<AnyLedger, LedgerError> {
    let metrics = Arc::clone(metrics);
    let observe = move |commit: Commit| {
        metrics.commit_seconds.observe(commit.took.as_secs_f64());
        metrics.commit_changes.observe(commit.changes as f64);
    };
    AnyLedger::open_observed(config, Migration::of(config), observe).await
}

/// Work that ends only when it is dropped.
type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Doors {
    api: Door,
    admin: Door,
    dev: Option<Door>,
    /// What keeps their secrets as the files have them.
    followers: Vec<Background>,
}

impl Doors {
    async fn open<N: Lightning>(
        config: &Config,
        app: &Arc<App<AnyLedger, N>>,
        dev: Option<Door>,
    ) -> io::Result<Self> {
        let mut followers = Vec::new();
        let (tokens, presented) = watch::channel(config.tokens.clone());
        if !config.token_files.is_empty() {
            followers.push(follow_tokens(config.token_files.clone(), tokens));
        }
        let state = api::ApiState {
            app: Arc::clone(app),
            tokens: presented,
            strangers: Strangers::default(),
        };
        let mut api = Door::open(
            config.listen,
            api::router(state),
            Silence::until_authenticated(),
        )
        .await?;
        if let Some(files) = &config.tls {
            let (acceptor, accepting) = watch::channel(tls::acceptor(files)?);
            followers.push(follow_tls(files.clone(), acceptor));
            api = api.with_tls(accepting);
        }
        let admin = Door::open(
            config.admin,
            admin::router(Arc::clone(app)),
            Silence::between_requests(),
        )
        .await?;
        Ok(Self {
            api,
            admin,
            dev,
            followers,
        })
    }

    fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr, Option<SocketAddr>)> {
        let dev = self.dev.as_ref().map(Door::address).transpose()?;
        Ok((self.api.address()?, self.admin.address()?, dev))
    }
}

fn follow_tokens(files: Vec<PathBuf>, tokens: watch::Sender<BearerTokens>) -> Background {
    let watched = files.clone();
    let read = move || config::read_tokens(&files).map_err(|problems| problems.join("; "));
    Box::pin(follow("tokenFiles", watched, read, tokens))
}

fn follow_tls(files: TlsFiles, acceptor: watch::Sender<TlsAcceptor>) -> Background {
    let watched = vec![files.certificate.clone(), files.key.clone()];
    let read = move || tls::acceptor(&files).map_err(|error| error.to_string());
    Box::pin(follow("tls", watched, read, acceptor))
}

/// Serves, and goes away in order: not ready, still answering, no new connections, what is in
/// flight, background work, leftovers at the node, ledger.
async fn serve<N: Lightning>(
    app: Arc<App<AnyLedger, N>>,
    doors: Doors,
    drain: Duration,
    shutdown: impl Future<Output = ()> + Send + 'static,
    lock: Option<ServingLock>,
) {
    let (tasks, background) = (TaskTracker::new(), CancellationToken::new());
    app.spawn_background(&tasks, &background);
    for follower in doors.followers {
        let stop = background.clone();
        tasks.spawn(async move { stop.run_until_cancelled(follower).await });
    }
    let (no_api, no_admin) = (CancellationToken::new(), CancellationToken::new());
    let api = tokio::spawn(doors.api.serve(no_api.clone(), drain));
    let admin = tokio::spawn(
        doors
            .admin
            .serve(no_admin.clone(), Duration::from_millis(200)),
    );
    let dev = doors
        .dev
        .map(|door| tokio::spawn(door.serve(no_api.clone(), drain)));

    shutdown.await;
    tracing::info!("draining");
    app.begin_drain();
    tokio::time::sleep(LONGEST_FAREWELL.min(drain / 5)).await;
    no_api.cancel();
    for door in [Some(api), dev].into_iter().flatten() {
        let _ = door.await;
    }
    background.cancel();
    tasks.close();
    tasks.wait().await;
    app.issuer.pools().close(CANCELLING.min(drain)).await;
    app.ledger.close().await;
    no_admin.cancel();
    let _ = admin.await;
    drop(lock);
    tracing::info!("ended");
}
