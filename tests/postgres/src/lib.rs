//! PostgreSQL for tests: one server for each test program, an empty database for each test.
//!
//! The server is the one that `cargo xtask setup` has put below `target/tools`, run in a temporary
//! folder with PostgreSQL's own defaults (so with `fsync=on`), reached by a Unix socket. It goes
//! when its [`Server`] is dropped and when this process dies, however it dies; should its janitor
//! be killed as well, the next server that is started on this machine tidies up. There are no more
//! databases than are in use at a time, so that a folder has some hundred megabytes.
//!
//! `$BOLTGATE_TEST_POSTGRES`, the URL of a server that runs already and on which databases may be
//! made, is used instead where any server does.

mod server;

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use tokio_postgres::{Config, NoTls};

pub use self::server::Server;

/// Names a server that runs already.
pub const VARIABLE: &str = "BOLTGATE_TEST_POSTGRES";

static SHARED: Mutex<Option<Server>> = Mutex::new(None);

/// Databases that nobody needs any more. One has eight megabytes, and making or dropping one takes
/// a while, so they are used again.
static FREE: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A database that others may have once this is dropped. It stands for its URL.
#[derive(Debug)]
pub struct Database {
    url: String,
}

impl Database {
    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Deref for Database {
    type Target = str;

    fn deref(&self) -> &str {
        &self.url
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(std::mem::take(&mut self.url));
    }
}

/// An empty database that nobody else has. Takes a while: call it outside of async code or with
/// `spawn_blocking`, as it waits for a server to start.
///
/// # Errors
/// There is no PostgreSQL, or it does not start.
pub fn database() -> anyhow::Result<Database> {
    if let Some(url) = emptied() {
        return Ok(Database { url });
    }
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

/// One that is free, emptied. Whoever used it last may not quite have gone: as long as somebody is
/// connected it is left alone.
fn emptied() -> Option<String> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let empty = "DO $$ BEGIN
        IF EXISTS (SELECT 1 FROM pg_stat_activity
                   WHERE datname = current_database() AND pid <> pg_backend_pid())
        THEN RAISE 'somebody is connected';
        END IF;
        DROP SCHEMA public CASCADE;
        CREATE SCHEMA public;
    END $$";
    let at = free.iter().position(|url| execute(url, empty).is_ok())?;
    Some(free.swap_remove(at))
}

fn new_database(url: &str) -> anyhow::Result<Database> {
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
    Ok(Database {
        url: format!("{server}/{name}{query}"),
    })
}
