//! Opening the file, and the lock that one serving process holds.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{migrate, private};
use crate::adapters::ledger::Migration;
use crate::domain::ledger::LedgerError;

/// How long to wait for another process that is writing.
const BUSY: Duration = Duration::from_secs(5);
/// Statements kept ready per connection.
const STATEMENTS: usize = 64;

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// The one connection that writes, with the schema up to date. A file that is not there is made
/// whatever `migration` says: there is nothing to protect.
pub(super) fn for_writing(path: &Path, migration: Migration) -> Result<Connection, LedgerError> {
    let is_new = !path.exists();
    make_private(path)?;
    let mut db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(LedgerError::Store(format!(
            "journal mode is {mode}, not wal"
        )));
    }
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // Master keys must not stay in the file after they were deleted, or moved within it by an
    // update. The offers that come and go beside them bear it: no difference can be measured.
    db.pragma_update(None, "secure_delete", true)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    match migration {
        Migration::Never if !is_new => migrate::check(&db)?,
        _ => migrate::to_latest(&mut db)?,
    }
    Ok(db)
}

/// A connection that can only read.
pub(super) fn for_reading(path: &Path) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(db)
}

/// The file may hold master keys, so it is made for its owner alone; SQLite gives its companion
/// files the same mode.
fn make_private(path: &Path) -> Result<(), LedgerError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            private::tighten(path)?;
            for companion in ["-wal", "-shm"] {
                private::tighten(&beside(path, companion))?;
            }
            Ok(())
        }
        Err(error) => Err(LedgerError::Store(format!("{}: {error}", path.display()))),
    }
}

/// Held by the process that serves from a ledger file. The operating system frees it when the
/// process ends, however it ends.
#[derive(Debug)]
pub struct ServingLock {
    _file: File,
}

impl ServingLock {
    pub(super) fn acquire(ledger: &Path) -> Result<Self, LedgerError> {
        let path = beside(ledger, ".lock");
        let failed =
            |error: std::io::Error| LedgerError::Store(format!("{}: {error}", path.display()));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LedgerError::InUse(ledger.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}

fn beside(ledger: &Path, suffix: &str) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
