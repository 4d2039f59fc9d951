//! The pool of connections: each with our settings, and with the password as its file has it.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use deadpool_postgres::{
    Connect, Manager, ManagerConfig, Pool, PoolConfig, RecyclingMethod, Runtime, Timeouts,
};
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{CancelToken, Client, Config, Error, NoTls, Socket};

use super::tls::Tls;
use crate::config::{Password, PostgresConfig};
use crate::domain::ledger::LedgerError;

/// For a free connection of the pool, and for a new one to the database.
const PATIENCE: Duration = Duration::from_secs(2);
/// From the last sign of the database's machine to the end of a connection.
const SILENCE: Duration = Duration::from_secs(5);

/// What each connection is set to, whatever the database's or its user's defaults are. A commit is
/// durable when we hear of it. Whoever stops in the middle of a transaction, a frozen sidecar say,
/// lets go of its locks soon. Who waits for a lock hears in time that it did not get it, and can
/// try once more before [`super::session::DEADLINE`]. No statement lives long, which claims count
/// on.
const SETTINGS: &str = "-c synchronous_commit=on -c timezone=UTC -c statement_timeout=10s \
     -c lock_timeout=1s -c idle_in_transaction_session_timeout=3s \
     -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off";

/// Connects when asked.
struct Connector {
    password: Password,
    /// `None`: plain, where that is allowed.
    tls: Option<Tls>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

type Connected = Result<(Client, JoinHandle<()>), Error>;

impl Connect for Connector {
    fn connect(&self, config: &Config) -> Pin<Box<dyn Future<Output = Connected> + Send + '_>> {
        let mut config = config.clone();
        Box::pin(async move {
            if let Some(password) = self.password.read() {
                config.password(password.as_bytes());
            }
            match self.tls.clone() {
                Some(tls) => connect(&config, tls).await,
                None => connect(&config, NoTls).await,
            }
        })
    }
}

async fn connect<T>(config: &Config, tls: T) -> Connected
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    let task = tokio::spawn(async move {
        // Who uses it is told as well, and says what that means.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to PostgreSQL ended");
        }
    });
    Ok((client, task))
}

/// Connections to the database, and the way to say that one is given up.
#[derive(Clone)]
pub(super) struct Connections {
    pool: Pool,
    tls: Option<Tls>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

impl Deref for Connections {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.pool
    }
}

impl Connections {
    /// Tells the database that nobody waits for what this connection asked for: it would go on,
    /// with its locks, as long as the statement may take.
    pub(super) fn cancel(&self, token: CancelToken) {
        let tls = self.tls.clone();
        tokio::spawn(async move {
            let cancelled = tokio::time::timeout(PATIENCE, async {
                match tls {
                    Some(tls) => token.cancel_query(tls).await,
                    None => token.cancel_query(NoTls).await,
                }
            });
            if let Ok(Err(error)) = cancelled.await {
                tracing::debug!(%error, "a statement that nobody waits for goes on");
            }
        });
    }
}

/// A pool that connects when used.
pub(super) fn pool(config: &PostgresConfig) -> Result<Connections, LedgerError> {
    let mut target = config.target.clone();
    let options = target.get_options().unwrap_or_default().to_owned();
    target
        // Ours last, since the last one counts.
        .options(format!("{options} {SETTINGS}").trim_start())
        .application_name("boltgate")
        .connect_timeout(PATIENCE)
        .tcp_user_timeout(SILENCE)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .keepalives_interval(Duration::from_secs(1))
        .keepalives_retries(3)
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .ssl_mode(match config.tls {
            true => SslMode::Require,
            false => SslMode::Disable,
        });
    let tls = config.tls.then(|| Tls::trusting(config.ca_file.as_deref()));
    let tls = tls
        .transpose()
        .map_err(|error| LedgerError::Store(error.to_string()))?;
    let connector = Connector {
        password: config.password.clone(),
        tls: tls.clone(),
    };
    let manager = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = Manager::from_connect(target, connector, manager);
    let mut size = PoolConfig::new(config.pool_size as usize);
    size.timeouts = Timeouts {
        wait: Some(PATIENCE),
        create: Some(PATIENCE),
        recycle: Some(PATIENCE),
    };
    let pool = Pool::builder(manager)
        .config(size)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| LedgerError::Store(error.to_string()))?;
    Ok(Connections { pool, tls })
}
