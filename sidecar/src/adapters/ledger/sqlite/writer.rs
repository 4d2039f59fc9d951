//! The writing thread and its group commit.
//!
//! A commit costs a wait for the disk, whatever is in it. So everything that has been asked for
//! meanwhile goes into one transaction, each change in a savepoint of its own: a change that fails
//! undoes itself alone. Answers go out after the commit.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::domain::ledger::LedgerError;
use crate::faults;

/// Most changes in one transaction.
const MOST_PER_COMMIT: usize = 512;
/// Most changes that wait; more wait outside, each caller in its own task.
const QUEUE: usize = 4_096;

/// What is told of each commit.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// Number of changes in it.
    pub changes: usize,
    /// From begin to durable.
    pub took: Duration,
}

/// Told of each commit, on the writing thread.
pub type CommitObserver = Box<dyn FnMut(Commit) + Send>;

/// A change: done on the connection, it gives what to do when the transaction has ended.
type Change = Box<dyn FnOnce(&Connection) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Result<(), LedgerError>) + Send>;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Change>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    pub(super) fn start(
        mut db: Connection,
        mut observer: CommitObserver,
    ) -> Result<Self, LedgerError> {
        let (queue, mut changes) = mpsc::channel::<Change>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("ledger-writer".to_owned())
            .spawn(move || {
                let mut batch = Vec::new();
                while changes.blocking_recv_many(&mut batch, MOST_PER_COMMIT) > 0 {
                    let begun = Instant::now();
                    let count = batch.len();
                    commit(&mut db, batch.drain(..));
                    observer(Commit {
                        changes: count,
                        took: begun.elapsed(),
                    });
                }
                // Leaves a file that needs no recovery; if it fails, the log is replayed later.
                let checkpoint = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
                if let Err(error) = checkpoint {
                    tracing::debug!(%error, "last checkpoint failed");
                }
            })
            .map_err(|error| LedgerError::Store(error.to_string()))?;
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Makes `change` and returns when it is on disk.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let call = std::any::type_name_of_val(&change);
        faults::stop_at(call, "asked");
        let (answer, answered) = oneshot::channel();
        let boxed: Change = Box::new(move |db| {
            let result = in_savepoint(db, change);
            faults::stop_at(call, "written");
            Box::new(move |ended| {
                // Nobody may be waiting any more; the change stands all the same.
                let _ = answer.send(ended.and(result));
            })
        });
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let queue = queue.ok_or(LedgerError::Closed)?;
        queue.send(boxed).await.map_err(|_| LedgerError::Closed)?;
        drop(queue);
        // Dropped unanswered: the transaction could not even begin.
        let not_begun = || LedgerError::Store("the ledger is busy or broken".to_owned());
        let answered = answered.await.map_err(|_| not_begun())?;
        faults::stop_at(call, "committed");
        answered
    }

    /// Finishes what is queued and ends the thread.
    pub(super) async fn close(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn commit(db: &mut Connection, batch: impl Iterator<Item = Change>) {
    let mut answers = Vec::new();
    let ended = (|| {
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in batch {
            answers.push(change(&tx));
        }
        tx.commit()?;
        Ok::<(), LedgerError>(())
    })();
    if let Err(error) = &ended {
        tracing::error!(%error, changes = answers.len(), "ledger commit failed");
    }
    for answer in answers {
        answer(ended.clone());
    }
}

fn in_savepoint<T>(
    db: &Connection,
    change: impl FnOnce(&Connection) -> Result<T, LedgerError>,
) -> Result<T, LedgerError> {
    db.execute_batch("SAVEPOINT change")?;
    let result = change(db);
    if result.is_err() {
        db.execute_batch("ROLLBACK TO change")?;
    }
    db.execute_batch("RELEASE change")?;
    result
}
