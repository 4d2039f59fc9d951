//! A few read-only connections, used on the runtime's blocking threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::open;
use crate::domain::ledger::LedgerError;

/// Reads at a time; more wait.
const CONNECTIONS: usize = 4;

#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(CONNECTIONS)),
        }
    }

    /// Runs `query` in one read transaction, so that it sees one state of the ledger.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| LedgerError::Closed)?;
        let idle = Arc::clone(&self.idle);
        let path = self.path.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let kept = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = kept.map_or_else(|| open::for_reading(&path), Ok)?;
            let tx = db.unchecked_transaction()?;
            let result = query(&tx);
            drop(tx);
            // A connection that failed may be broken; the next read opens a new one.
            if result.is_ok() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
            }
            result
        });
        task.await
            .map_err(|error| LedgerError::Store(error.to_string()))?
    }

    pub(super) fn close(&self) {
        self.permits.close();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
