//! PostgreSQL for tests: one server for each test program, an empty database for each test.
//!
//! The server is the one that `cargo xtask setup` has put below `target/tools`, run in a temporary
//! folder with PostgreSQL's own defaults (so with `fsync=on`), reached by a Unix socket. It goes
//! when its [`Server`] is dropped and when this process dies, however it dies.
//!
//! `$BOLTGATE_TEST_POSTGRES`, the URL of a server that runs already and on which databases may be
//! made, is used instead where any server does.

mod server;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tokio_postgres::{Config, NoTls};

pub use self::server::Server;

/// Names a server that runs already.
pub const VARIABLE: &str = "BOLTGATE_TEST_POSTGRES";

static SHARED: Mutex<Option<Server>> = Mutex::new(None);

/// The URL of an empty database that nobody else has. Takes a while: call it outside of async code
/// or with `spawn_blocking`, as it waits for a server to start.
///
/// # Errors
/// There is no PostgreSQL, or it does not start.
pub fn database() -> anyhow::Result<String> {
    if let Ok(url) = std::env::var(VARIABLE) {
        return new_database(&url);
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match &mut *shared {
        Some(server) => server,
        none => none.insert(Server::start()?),
    };
    let url = server.url("postgres");
    drop(shared);
    new_database(&url)
}

/// Runs SQL on the database of `url`, in a thread and a runtime of its own.
///
/// # Errors
/// It fails.
pub fn execute(url: &str, sql: &str) -> anyhow::Result<()> {
    let config: Config = url.parse()?;
    let sql = sql.to_owned();
    let work = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            let connection = tokio::spawn(connection);
            client.batch_execute(&sql).await?;
            drop(client);
            connection.await??;
            anyhow::Ok(())
        })
    });
    work.join()
        .map_err(|_| anyhow::anyhow!("the thread that runs SQL has panicked"))?
}

fn new_database(url: &str) -> anyhow::Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("boltgate_test_{}_{number}", std::process::id());
    execute(url, &format!("DROP DATABASE IF EXISTS {name}"))?;
    execute(url, &format!("CREATE DATABASE {name}")).context("cannot make a database")?;
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let after_scheme = rest.find("://").map_or(0, |at| at + 3);
    let end = rest
        .get(after_scheme..)
        .and_then(|host| host.find('/'))
        .map_or(rest.len(), |at| after_scheme + at);
    let server = rest.get(..end).unwrap_or(rest);
    let query = match query {
        "" => String::new(),
        query => format!("?{query}"),
    };
    Ok(format!("{server}/{name}{query}"))
}
